"""Smaller models against PyTorch and transformers: a pruned directory loads there unchanged and answers the same, an int8 file
gives in PyTorch what its format says, an fp16 one holds the nearest values."""

import ctypes

import numpy
import pytest
import torch
import transformers
from safetensors.torch import load_file

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


class Predictor:
    """Logits of a loaded model through dd_predict."""

    def __init__(self, model, max_length=48, threads=1):
        self.model, error = model, Error()
        self.pool, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        check(lib.dd_pool_new(threads, ctypes.byref(self.pool), ctypes.byref(error)), error)
        check(lib.dd_predictor_new(model, self.pool, max_length, ctypes.byref(self.handle), ctypes.byref(error)), error)

    def __call__(self, texts):
        raw = [text.encode() for text in texts]
        rows, error = (libengine.Row * len(raw))(), Error()
        for row, text in zip(rows, raw):
            row.text, row.text_bytes, row.label = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p), len(text), -1
        logits = numpy.zeros((len(raw), len(LABELS)), numpy.float32)
        check(lib.dd_predict(self.handle, rows, ctypes.c_size_t(len(raw)), None,
                             logits.ctypes.data_as(ctypes.c_void_p), ctypes.byref(error)), error)
        return torch.from_numpy(logits)

    def close(self):
        lib.dd_predictor_free(self.handle)
        lib.dd_pool_free(self.pool)


def scaled_rows(x):
    """Rows as int8 and their scales, by the rule of engine/int8.h."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return torch.round(x / torch.where(scale > 0, scale, torch.ones_like(scale))).clamp(-127, 127), scale


class Int8Linear(torch.nn.Module):
    """The definition: integer products of a row's bytes and a weight's, then both scales and the bias."""

    def __init__(self, weight, scale, bias):
        super().__init__()
        self.weight, self.scale, self.bias = weight.double(), scale.double(), bias

    def forward(self, x):
        q, scale = scaled_rows(x)
        sums = q.double() @ self.weight.T  # exact: below 2^53
        return (sums * scale.double() * self.scale).float() + self.bias


def test_an_int8_file_is_what_its_format_says(original, tmp_path):
    """Written by us, read by safetensors, computed by torch from the format's description alone."""
    texts = headlines("dev", 60) + ODD
    model, made, error = load(original), ctypes.POINTER(Model)(), Error()
    check(lib.dd_model_quantize(model, ctypes.byref(made), ctypes.byref(error)), error)
    out = tmp_path / "int8"
    check(lib.dd_model_save(made, str(out).encode(), None, ctypes.byref(error)), error)
    tensors = load_file(out / "model.safetensors")
    reference = transformers.BertForSequenceClassification.from_pretrained(original).eval()
    state = reference.state_dict()
    kept = {name: value for name, value in tensors.items() if value.dtype == torch.int8}
    assert len(kept) == 2 + 6 * reference.config.num_hidden_layers
    for name, q in kept.items():
        expected, scale = scaled_rows(state[name])
        assert torch.equal(tensors[name + "_scale"], scale[:, 0])
        assert (q.float() - expected).abs().max() <= 1  # x / scale may be rounded the other way in the middle
        assert (q.float() != expected).float().mean() < 1e-3
    for name, value in state.items():
        if name not in kept:
            assert torch.equal(tensors[name], value), name

    words = "bert.embeddings.word_embeddings.weight"
    with torch.no_grad():
        reference.bert.embeddings.word_embeddings.weight.copy_(
            tensors[words].float() * tensors[words + "_scale"][:, None])
        for name in kept:
            if name != words:
                parent = reference.get_submodule(name.removesuffix(".weight").rpartition(".")[0])
                setattr(parent, name.split(".")[-2], Int8Linear(
                    tensors[name], tensors[name + "_scale"], tensors[name.removesuffix("weight") + "bias"]))
    tokenizer = transformers.BertTokenizer.from_pretrained(original)
    with torch.no_grad():
        expected = torch.stack([
            reference(**tokenizer(text, return_tensors="pt", truncation=True, max_length=48)).logits[0]
            for text in texts])
    predict = Predictor(made)
    logits = predict(texts)
    predict.close()
    fp32 = Predictor(model)
    plain = fp32(texts)
    fp32.close()
    # An activation in the middle between two bytes may go either way; beside what int8 itself changes, that is little.
    lost = (plain - logits).abs().max()
    assert (logits - expected).abs().max() < 0.25 * lost
    assert (logits - expected).abs().mean() < 0.02 * (plain - logits).abs().mean()
    assert 0 < lost < 0.2 * plain.std()
    with pytest.raises(ValueError, match="distilld_int8_bert"):
        transformers.AutoModelForSequenceClassification.from_pretrained(out)
    lib.dd_model_free(made)
    lib.dd_model_free(model)


def test_fp16_loads_in_transformers(original, tmp_path):
    model, error = load(original), Error()
    out = tmp_path / "half"
    check(lib.dd_model_save_fp16(model, str(out).encode(), None, ctypes.byref(error)), error)
    lib.dd_model_free(model)
    tensors = load_file(out / "model.safetensors")
    state = transformers.BertForSequenceClassification.from_pretrained(original).state_dict()
    assert tensors.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(tensors[name], value.half()), name
    again = transformers.BertForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    assert all(torch.equal(value, state[name].half().float()) for name, value in again.state_dict().items())
