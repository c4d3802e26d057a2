"""Smaller models against transformers: a pruned directory loads there unchanged and answers the same."""

import ctypes

import numpy
import pytest
import torch
import transformers

import libengine
from libengine import Error, Model, check

lib = libengine.load()
LABELS = ["股票", "财经", "科技"]
ODD = ["", "K线图！", "x" * 120, "naïve café", "iPhone手机 第3代", "\U00020000 𝓯 ☃", "unaffable 中文"]


def load(path):
    handle, error = ctypes.POINTER(Model)(), Error()
    check(lib.dd_model_load(str(path).encode(), ctypes.byref(handle), ctypes.byref(error)), error)
    return handle


def headlines(split, count):
    path = libengine.shared("data", "headlines3", f"{split}.tsv")
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[:count]]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A directory of transformers' own with the real vocabulary and random weights."""
    vocab = libengine.shared("vocab", "bert-base-chinese", "vocab.txt").read_bytes()
    directory = tmp_path_factory.mktemp("original")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=21128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
        initializer_range=0.1)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(directory)
    (directory / "vocab.txt").write_bytes(vocab)
    return directory


def logits_of(directory, texts):
    tokenizer = transformers.BertTokenizer.from_pretrained(directory)
    model = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            rows.append(model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=48)).logits[0])
    return torch.stack(rows), [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in texts]


def prune(directory, texts, out):
    model, use, pruned, error = load(directory), ctypes.c_void_p(), ctypes.POINTER(Model)(), Error()
    lib.dd_model_save.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    tokenizer = ctypes.c_void_p(model.contents.tokenizer)
    check(lib.dd_vocab_use_new(tokenizer, ctypes.byref(use), ctypes.byref(error)), error)
    for text in texts:
        raw = text.encode()
        lib.dd_vocab_use_text(use, raw, ctypes.c_size_t(len(raw)))
    check(lib.dd_model_prune(model, use, ctypes.byref(pruned), ctypes.byref(error)), error)
    check(lib.dd_model_save(pruned, str(out).encode(), None, ctypes.byref(error)), error)
    lib.dd_vocab_use_free(use)
    lib.dd_model_free(model)
    lib.dd_model_free(pruned)


def test_a_pruned_model_is_the_same_to_transformers(original, tmp_path):
    texts = headlines("train", 100) + headlines("dev", 40) + ODD
    out = tmp_path / "pruned"
    prune(original, texts, out)
    before, tokens_before = logits_of(original, texts)
    after, tokens_after = logits_of(out, texts)
    assert tokens_after == tokens_before
    assert tokens_before[0][1:-1] == list(texts[0])  # the vocabulary was found, not only [UNK]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)  # torch's bits depend on where its matrices lie
    config = transformers.BertConfig.from_pretrained(out)
    lines = (out / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert config.vocab_size == len(lines) < 3000
    assert lines[config.pad_token_id] == "[PAD]"
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} <= set(lines)
    assert numpy.ptp(before.numpy()) > 0.1
