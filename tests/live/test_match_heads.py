"""Attention transfer and MiniLM's relations against PyTorch: the losses to 1e-5, every gradient to 1e-4.

The teacher's queries, keys and values come from transformers; the engine gets them as its asker would put them there."""

import ctypes

import numpy as np
import pytest
import torch

import libengine as le
import nn
from test_bert import LENGTHS
from test_match import put

MAX_LAYERS = 96
PARTS = ("query", "key", "value")


class HeadsSpec(ctypes.Structure):
    _fields_ = [
        ("attention_weight", ctypes.c_double),
        ("relation_weight", ctypes.c_double),
        ("layers", ctypes.c_int),
        ("width", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("teacher_width", ctypes.c_int),
        ("teacher_heads", ctypes.c_int),
        ("relation_heads", ctypes.c_int),
        ("teacher_layer", ctypes.c_int * MAX_LAYERS),
    ]


class HeadsLoss(ctypes.Structure):
    _fields_ = [("attention", ctypes.c_double), ("relation", ctypes.c_double), ("total", ctypes.c_double)]


@pytest.fixture(scope="module", params=[1, 3], ids=["one_thread", "three_threads"])
def core(request):
    made = nn.Core(request.param)
    lib, pointer = made.lib, ctypes.c_void_p
    lib.dd_heads_new.argtypes = [pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer, pointer, pointer]
    lib.dd_heads_free.argtypes = [pointer]
    lib.dd_heads_run.argtypes = [pointer] * 3
    lib.dd_heads_run.restype = HeadsLoss
    lib.dd_heads_target.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
    lib.dd_heads_target.restype = ctypes.POINTER(ctypes.c_float)
    yield made
    made.close()


def watch(hf):
    """[{part: [sequences, tokens, width]} for each layer], filled by the next forward."""
    seen = [{} for _ in hf.bert.encoder.layer]
    for layer, module in enumerate(hf.bert.encoder.layer):
        for part in PARTS:
            def keep(_, __, output, layer=layer, part=part):
                seen[layer][part] = output
            getattr(module.attention.self, part).register_forward_hook(keep)
    return seen


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def scores(qkv, heads):
    """TinyBERT's: before the softmax, [sequences, heads, tokens, tokens]."""
    q, k = split(qkv["query"], heads), split(qkv["key"], heads)
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def attention_loss(student, teacher, real, heads, partners):
    layers, losses = len(student), []
    pairs = real[:, :, None] & real[:, None, :]
    for layer, partner in enumerate(partners):
        s, t = scores(student[layer], heads[0]), scores(teacher[partner], heads[1])
        if heads[0] != heads[1]:
            s, t = s.mean(1, keepdim=True), t.mean(1, keepdim=True)
        wanted = pairs.clone()
        if layer == layers - 1:
            wanted[:, 1:] = False
        wanted = wanted[:, None].expand_as(s)
        losses.append(torch.nn.functional.mse_loss(s[wanted], t[wanted]))
    return torch.stack(losses).mean()


def relation_loss(student, teacher, lengths, heads, partner):
    """MiniLM's: KL of the softmax of scaled products, keys with keys and values with values, of the last layer."""
    total, tokens = 0.0, sum(lengths)
    for part in ("key", "value"):
        x, y = split(student[-1][part], heads), split(teacher[partner][part], heads)
        for s, length in enumerate(lengths):
            a, b = x[s, :, :length], y[s, :, :length]
            p = torch.log_softmax(a @ a.transpose(-1, -2) / a.shape[-1] ** 0.5, -1)
            q = torch.log_softmax(b @ b.transpose(-1, -2) / b.shape[-1] ** 0.5, -1)
            total = total + torch.nn.functional.kl_div(p, q, log_target=True, reduction="sum")
    return total / (2 * heads * tokens)


CASES = {
    "same": dict(student=dict(), teacher=dict(num_hidden_layers=4), partners=[1, 3], relation_heads=4),
    "wider_teacher": dict(
        student=dict(num_hidden_layers=3), teacher=dict(hidden_size=72, num_hidden_layers=4), partners=[0, 1, 3],
        relation_heads=6,
    ),
    "other_heads": dict(
        student=dict(num_attention_heads=2), teacher=dict(num_attention_heads=6, num_hidden_layers=3),
        partners=[0, 2], relation_heads=1,
    ),
    "other_heads_and_width": dict(
        student=dict(num_attention_heads=3), teacher=dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2),
        partners=[1, 1], relation_heads=2,
    ),
    "one_layer": dict(
        student=dict(num_hidden_layers=1), teacher=dict(num_hidden_layers=2), partners=[1], relation_heads=12
    ),
}


@pytest.mark.parametrize("weights", [(1.5, 0.0), (0.0, 0.7), (0.4, 3.0)], ids=["attention", "relation", "both"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lengths", ["odd", "many"])
@pytest.mark.parametrize("rate", [0.0, 0.2], ids=["plain", "dropout"])
def test_matching_equals_pytorch(core, case, weights, lengths, rate):
    made = CASES[case]
    hf = nn.hf_model(seed=3, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, **made["student"])
    teacher = nn.hf_model(seed=4, **made["teacher"]).eval()
    config, layers = nn.bert_config(hf), hf.config.num_hidden_layers
    packed = nn.random_batch(np.random.default_rng(8), LENGTHS[lengths], 97, pairs=True)
    of_teacher = watch(teacher)
    with torch.no_grad():
        teacher(**packed.padded())

    lib = core.lib
    spec = HeadsSpec(
        *weights, layers, hf.config.hidden_size, hf.config.num_attention_heads, teacher.config.hidden_size,
        teacher.config.num_attention_heads, made["relation_heads"],
    )
    for layer, partner in enumerate(made["partners"]):
        spec.teacher_layer[layer] = partner
    params, grads = nn.Slab(core, config), nn.Slab(core, config)
    params.copy_from(hf)
    grads.flat[:] = np.nan
    grads.views["bert.embeddings.word_embeddings.weight"][...] = 0
    dropout = le.Dropout(True, 21, 5) if rate else None
    longest = max(packed.lengths)
    bert = nn.Bert(core, config, len(packed.ids), len(packed.lengths), longest)
    heads = core.make(
        lib.dd_heads_new, ctypes.byref(spec), len(packed.ids), len(packed.lengths), longest, core.team
    )
    for layer, partner in enumerate(made["partners"]):
        for number, part in enumerate(PARTS):
            values = of_teacher[partner][part].numpy()
            last = layer == layers - 1 and part == "query"
            real = [values[s, : 1 if last else length] for s, length in enumerate(packed.lengths)]
            put(lib.dd_heads_target(heads, layer, number), np.concatenate(real))
    logits = bert.forward(params, packed, dropout)
    dlogits = np.random.default_rng(5).normal(size=logits.shape).astype(np.float32) * 0.1
    loss = lib.dd_heads_run(heads, bert.pointer, ctypes.addressof(packed.batch))
    bert.backward(params, packed, dlogits, grads, dropout)

    hf.zero_grad()
    hf.train(rate > 0)
    of_student = watch(hf)
    masks = nn.masks(packed, config, dropout) if rate else []
    with nn.forced_dropout(masks) if rate else torch.enable_grad():
        out = hf(**packed.padded())
    real = packed.padded()["attention_mask"].bool()
    attention = attention_loss(of_student, of_teacher, real, (spec.heads, spec.teacher_heads), made["partners"])
    relation = relation_loss(of_student, of_teacher, packed.lengths, made["relation_heads"], made["partners"][-1])
    total = weights[0] * attention + weights[1] * relation
    (total + (out.logits * torch.tensor(dlogits)).sum()).backward()
    assert attention > 1e-3 and relation > 1e-3
    assert loss.attention == (pytest.approx(attention.item(), rel=1e-5) if weights[0] else 0)
    assert loss.relation == (pytest.approx(relation.item(), rel=1e-5) if weights[1] else 0)
    assert loss.total == pytest.approx(total.item(), rel=1e-5)
    wanted = {name: p.grad.numpy() for name, p in hf.named_parameters()}
    assert set(wanted) == set(grads.views)
    largest = max(np.abs(w).max() for w in wanted.values())
    errors = {}
    for name, want in wanted.items():
        scale = max(np.abs(want).max(), (1e-3 if name.endswith("key.bias") else 1e-6) * largest)
        errors[name] = np.abs(grads.views[name] - want).max() / scale
    lib.dd_heads_free(heads)
    bert.free(), params.free(), grads.free()
    bad = {name: error for name, error in errors.items() if not error <= 1e-4}
    assert not bad, bad
