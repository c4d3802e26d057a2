"""Matching of inner states against PyTorch: the losses to 1e-6, every gradient, the projection's included, to 1e-4.

The teacher's states come from transformers; the engine gets them as its asker would put them there."""

import ctypes

import numpy as np
import pytest
import torch

import libengine as le
import nn
from test_bert import LENGTHS

MAX_LAYERS = 96


class MatchSpec(ctypes.Structure):
    _fields_ = [
        ("hidden_weight", ctypes.c_double),
        ("cls_weight", ctypes.c_double),
        ("layers", ctypes.c_int),
        ("width", ctypes.c_int),
        ("teacher_width", ctypes.c_int),
        ("teacher_state", ctypes.c_int * (MAX_LAYERS + 1)),
    ]


class MatchLoss(ctypes.Structure):
    _fields_ = [("hidden", ctypes.c_double), ("cls", ctypes.c_double), ("total", ctypes.c_double)]


class Projected(nn.Slab):
    """A student's parameters with the projection behind them."""

    def __init__(self, core, config, width):
        self.core = core
        self.pointer = core.make(core.lib.dd_params_new_projected, ctypes.byref(config), width)
        params = ctypes.cast(self.pointer, ctypes.POINTER(le.Params)).contents
        self.flat = np.ctypeslib.as_array(params.slab, shape=(params.count,))
        self.views = {}
        for tensor in params.tensors[: params.n_tensors]:
            view = self.flat[tensor.offset : tensor.offset + tensor.count]
            self.views[tensor.name.decode()] = view.reshape(tuple(tensor.shape[: tensor.rank]))
        assert params.n_training == (2 if width else 0)

    def copy_model(self, hf, projection):
        named = dict(hf.named_parameters())
        for name, view in self.views.items():
            if name.startswith("match."):
                view[...] = getattr(projection, name.split(".")[-1]).detach().numpy()
            else:
                view[...] = named[name].detach().numpy()


@pytest.fixture(scope="module", params=[1, 3], ids=["one_thread", "three_threads"])
def core(request):
    made = nn.Core(request.param)
    lib, pointer = made.lib, ctypes.c_void_p
    lib.dd_params_new_projected.argtypes = [pointer, ctypes.c_int, pointer, pointer]
    lib.dd_match_new.argtypes = [pointer, ctypes.c_int, ctypes.c_int, pointer, pointer, pointer]
    lib.dd_match_free.argtypes = [pointer]
    lib.dd_match_run.argtypes = [pointer] * 5
    lib.dd_match_run.restype = MatchLoss
    for name in ("dd_match_tokens", "dd_match_cls"):
        getattr(lib, name).argtypes = [pointer, ctypes.c_int]
        getattr(lib, name).restype = ctypes.POINTER(ctypes.c_float)
    yield made
    made.close()


def reference_losses(student, teacher, packed, partners, project, weights):
    """What engine/match.h says, on padded batches."""
    real = packed.padded()["attention_mask"].bool()
    layers = len(student) - 1
    hidden, cls = [], []
    for state, partner in enumerate(partners):
        z, t = project(student[state]), teacher[partner]
        if state < layers:
            hidden.append(torch.nn.functional.mse_loss(z[real], t[real]))
        else:
            hidden.append(torch.nn.functional.mse_loss(z[:, 0], t[:, 0]))
        if state > 0:
            u, v = (torch.nn.functional.normalize(x[:, 0], dim=-1) for x in (z, t))
            cls.append(((u - v) ** 2).sum(-1).mean())
    hidden, cls = torch.stack(hidden).mean(), torch.stack(cls).mean()
    return hidden, cls, weights[0] * hidden + weights[1] * cls


def put(pointer, values):
    if pointer:
        values = np.ascontiguousarray(values, np.float32)
        np.ctypeslib.as_array(pointer, shape=values.shape)[...] = values


CASES = {
    "same_width": dict(student=dict(), teacher=dict(num_hidden_layers=4), partners=[0, 2, 4]),
    "projected": dict(student=dict(), teacher=dict(hidden_size=72, num_hidden_layers=4), partners=[0, 2, 4]),
    "narrower_teacher": dict(
        student=dict(num_hidden_layers=3), teacher=dict(hidden_size=24, num_hidden_layers=3), partners=[0, 1, 1, 2]
    ),
    "one_layer_last_of_all": dict(
        student=dict(num_hidden_layers=1), teacher=dict(hidden_size=33, num_hidden_layers=2), partners=[0, 2]
    ),
    "last_twice": dict(student=dict(), teacher=dict(num_hidden_layers=2), partners=[0, 2, 2]),
}


@pytest.mark.parametrize("weights", [(1.5, 0.0), (0.0, 0.7), (0.4, 3.0)], ids=["hidden", "cls", "both"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lengths", ["odd", "many"])
@pytest.mark.parametrize("rate", [0.0, 0.2], ids=["plain", "dropout"])
def test_matching_equals_pytorch(core, case, weights, lengths, rate):
    made = CASES[case]
    hf = nn.hf_model(
        seed=3, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, **made["student"]
    )
    teacher = nn.hf_model(seed=4, **made["teacher"]).eval()
    config, width = nn.bert_config(hf), teacher.config.hidden_size
    packed = nn.random_batch(np.random.default_rng(8), LENGTHS[lengths], 97, pairs=True)
    projected = width != hf.config.hidden_size
    torch.manual_seed(11)
    projection = torch.nn.Linear(hf.config.hidden_size, width)
    project = projection if projected else (lambda x: x)
    with torch.no_grad():
        teacher_states = teacher(**packed.padded(), output_hidden_states=True).hidden_states

    lib, layers = core.lib, hf.config.num_hidden_layers
    spec = MatchSpec(*weights, layers, hf.config.hidden_size, width)
    for state, partner in enumerate(made["partners"]):
        spec.teacher_state[state] = partner
    params, grads = (Projected(core, config, width if projected else 0) for _ in range(2))
    params.copy_model(hf, projection)
    grads.flat[:] = np.nan
    word = grads.views["bert.embeddings.word_embeddings.weight"]
    word[...] = 0
    dropout = le.Dropout(True, 21, 5) if rate else None
    bert = nn.Bert(core, config, len(packed.ids), len(packed.lengths), max(packed.lengths))
    match = core.make(lib.dd_match_new, ctypes.byref(spec), len(packed.ids), len(packed.lengths), core.team)
    for state, partner in enumerate(made["partners"]):
        values = teacher_states[partner].numpy()
        real = [values[s, :length] for s, length in enumerate(packed.lengths)]
        put(lib.dd_match_tokens(match, state), np.concatenate(real))
        put(lib.dd_match_cls(match, state), values[:, 0])
    logits = bert.forward(params, packed, dropout)
    dlogits = np.random.default_rng(5).normal(size=logits.shape).astype(np.float32) * 0.1
    loss = lib.dd_match_run(
        match, bert.pointer, params.pointer, ctypes.addressof(packed.batch), grads.pointer
    )
    bert.backward(params, packed, dlogits, grads, dropout)

    hf.zero_grad()
    hf.train(rate > 0)
    masks = nn.masks(packed, config, dropout) if rate else []
    with nn.forced_dropout(masks) if rate else torch.enable_grad():
        out = hf(**packed.padded(), output_hidden_states=True)
    hidden, cls, total = reference_losses(
        out.hidden_states, teacher_states, packed, made["partners"], project, weights
    )
    (total + (out.logits * torch.tensor(dlogits)).sum()).backward()
    if weights[0]:
        assert loss.hidden == pytest.approx(hidden.item(), rel=1e-5)
    else:
        assert loss.hidden == 0
    if weights[1]:
        assert loss.cls == pytest.approx(cls.item(), rel=1e-5)
    else:
        assert loss.cls == 0
    assert loss.total == pytest.approx(total.item(), rel=1e-5)
    wanted = {name: p.grad.numpy() for name, p in hf.named_parameters()}
    if projected:
        wanted |= {f"match.projection.{name}": p.grad.numpy() for name, p in projection.named_parameters()}
    assert set(wanted) == set(grads.views)
    largest = max(np.abs(w).max() for w in wanted.values())
    errors = {}
    for name, want in wanted.items():
        scale = max(np.abs(want).max(), (1e-3 if name.endswith("key.bias") else 1e-6) * largest)
        errors[name] = np.abs(grads.views[name] - want).max() / scale
    lib.dd_match_free(match)
    bert.free(), params.free(), grads.free()
    bad = {name: error for name, error in errors.items() if not error <= 1e-4}
    assert not bad, bad
