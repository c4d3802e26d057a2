"""Twenty steps of AdamW and SGD against torch.optim and transformers' schedules, and late rows against the dense
optimizer."""

import ctypes
import warnings

import numpy as np
import pytest
import torch
import transformers

import libengine as le
import nn

ADAMW, SGD = 0, 1
LINEAR, COSINE, CONSTANT = 0, 1, 2
SCHEDULES = {
    LINEAR: transformers.get_linear_schedule_with_warmup,
    COSINE: transformers.get_cosine_schedule_with_warmup,
    CONSTANT: lambda optimizer, warmup, total: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
}


def spec(kind, lr, weight_decay=0.01, momentum=0.0, warmup=0.2, schedule=LINEAR, clip=1.0, depth=1.0, ema=0.0,
         frozen=False, nesterov=False):
    return le.OptimizerSpec(
        kind, lr, weight_decay, 1e-8, 0.9, 0.999, momentum, warmup, schedule, clip, depth, ema, 2 if frozen else 1,
        2 if nesterov else 1
    )


def depth_of(name, layers):
    """Layers below the head, as in ELECTRA's fine-tuning."""
    if ".embeddings." in name:
        return layers + 1
    return layers - int(name.split(".")[3]) if ".layer." in name else 0


def torch_optimizer(hf, s, total):
    decays = lambda name: not (name.endswith("bias") or name.endswith("LayerNorm.weight"))
    for name, parameter in hf.named_parameters():
        parameter.requires_grad_(not (s.freeze_embeddings == 2 and ".embeddings." in name))
    layers = hf.config.num_hidden_layers
    trained = [(n, p) for n, p in hf.named_parameters() if p.requires_grad]
    groups = [
        dict(params=[p for n, p in trained if decays(n) == decay and depth_of(n, layers) == depth],
             weight_decay=s.weight_decay if decay else 0.0, lr=s.lr * s.layer_lr_decay**depth)
        for depth in range(layers + 2)
        for decay in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if s.type == ADAMW:
        optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(s.beta1, s.beta2), eps=s.eps)
    else:
        optimizer = torch.optim.SGD(groups, lr=s.lr, momentum=s.momentum, nesterov=s.nesterov == 2)
    return optimizer, SCHEDULES[s.schedule](optimizer, int(s.warmup * total), total)


class Trainer:
    def __init__(self, core, hf, s, total, max_tokens=4096):
        self.core, self.config = core, nn.bert_config(hf)
        self.params, self.grads = nn.Slab(core, self.config), nn.Slab(core, self.config)
        self.params.copy_from(hf)
        self.bert = nn.Bert(core, self.config, max_tokens)
        core.lib.dd_bert_set_frozen(self.bert.pointer, s.freeze_embeddings == 2)
        self.optimizer = core.make(
            core.lib.dd_optimizer_new, ctypes.byref(s), self.params.pointer, ctypes.byref(self.config), total, core.team
        )

    def step(self, packed, labels, dropout=None):
        lib = self.core.lib
        lib.dd_optimizer_refresh(self.optimizer, packed.ids.ctypes.data, len(packed.ids))
        logits = self.bert.forward(self.params, packed, dropout)
        dlogits = np.empty_like(logits)
        loss = lib.dd_distill_loss(
            logits.ctypes.data, None, labels.ctypes.data, *logits.shape, 1.0, 0.0, dlogits.ctypes.data
        )
        self.bert.backward(self.params, packed, dlogits, self.grads, dropout)
        touched, lr = self.bert.touched(), ctypes.c_double()
        norm = lib.dd_optimizer_step(
            self.optimizer, self.grads.pointer, touched.ctypes.data, len(touched), ctypes.byref(lr)
        )
        return loss.total, norm, lr.value

    def free(self):
        self.bert.free(), self.params.free(), self.grads.free()
        self.core.lib.dd_optimizer_free(self.optimizer)


@pytest.fixture(scope="module")
def core():
    core = nn.Core(2)
    yield core
    core.close()


CASES = {
    "adamw_linear": spec(ADAMW, 2e-3),
    "adamw_cosine_no_clip": spec(ADAMW, 2e-3, schedule=COSINE, clip=0.0),
    "adamw_no_decay_constant": spec(ADAMW, 1e-3, weight_decay=0.0, schedule=CONSTANT, warmup=0.0),
    "adamw_strong_decay_tight_clip": spec(ADAMW, 1e-3, weight_decay=0.5, clip=0.05),
    "sgd_linear": spec(SGD, 0.05, weight_decay=0.0),
    "sgd_momentum_decay_cosine": spec(SGD, 0.02, weight_decay=0.02, momentum=0.9, schedule=COSINE),
    "sgd_decay_constant_no_warmup": spec(SGD, 0.05, weight_decay=0.1, schedule=CONSTANT, warmup=0.0, clip=0.3),
    "sgd_nesterov": spec(SGD, 0.02, weight_decay=0.0, momentum=0.9, nesterov=True),
    "sgd_nesterov_decay_cosine_by_depth": spec(
        SGD, 0.02, weight_decay=0.02, momentum=0.8, schedule=COSINE, depth=0.7, nesterov=True
    ),
    "adamw_by_depth": spec(ADAMW, 2e-3, depth=0.6),
    "sgd_by_depth_momentum": spec(SGD, 0.05, weight_decay=0.02, momentum=0.9, depth=0.5),
    "adamw_average": spec(ADAMW, 2e-3, ema=0.8),
    "adamw_average_no_decay": spec(ADAMW, 2e-3, weight_decay=0.0, ema=0.9, clip=0.0),
    "sgd_average": spec(SGD, 0.05, weight_decay=0.0, ema=0.7),
    "sgd_average_momentum_decay_by_depth": spec(SGD, 0.02, weight_decay=0.02, momentum=0.9, ema=0.9, depth=0.8),
    "adamw_frozen": spec(ADAMW, 2e-3, frozen=True),
    "sgd_frozen_average_by_depth": spec(SGD, 0.02, weight_decay=0.02, momentum=0.9, ema=0.9, depth=0.8, frozen=True),
}


def batches(n, vocab=200):
    rng = np.random.default_rng(11)
    for _ in range(n):
        lengths = rng.integers(2, 30, rng.integers(1, 9))
        yield nn.random_batch(rng, lengths, vocab), rng.integers(0, 3, len(lengths)).astype(np.int32)


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps(core, name):
    hf, s, total = nn.hf_model(seed=5, vocab_size=200), CASES[name], 20
    trainer = Trainer(core, hf, s, total)
    optimizer, schedule = torch_optimizer(hf, s, total)
    hf.train()
    worst = 0.0
    # t is the step counted from 1; the decay is warmed up as tf.train.ExponentialMovingAverage's with num_updates.
    average = torch.optim.swa_utils.AveragedModel(
        hf, avg_fn=lambda mean, value, t: mean + (1 - min(s.ema, (1 + t) / (10 + t))) * (value - mean)
    )
    average.n_averaged += 1  # a copy of the model so far: the first call averages
    for packed, labels in batches(total):
        loss, norm, lr = trainer.step(packed, labels)
        optimizer.zero_grad()
        want = torch.nn.functional.cross_entropy(
            hf(**packed.padded()).logits, torch.tensor(labels.astype(np.int64))
        )
        want.backward()
        clip = s.max_grad_norm if s.max_grad_norm > 0 else float("inf")
        want_norm = torch.nn.utils.clip_grad_norm_(hf.parameters(), clip).item()
        assert lr == pytest.approx(schedule.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        schedule.step()
        average.update_parameters(hf)
        worst = max(worst, abs(loss - want.item()))
        assert loss == pytest.approx(want.item(), abs=1e-5, rel=1e-5)
        assert norm == pytest.approx(want_norm, rel=1e-3)
    core.lib.dd_optimizer_flush(trainer.optimizer)
    for parameter_name, parameter in hf.named_parameters():
        want = parameter.detach().numpy()
        # AdamW divides by the root of the second moment: where the gradient is rounding noise, the step is not small.
        limit = 2e-5 if not parameter_name.endswith("key.bias") else 20 * s.lr
        error = np.abs(trainer.params.views[parameter_name] - want).max()
        assert error <= limit * max(1.0, np.abs(want).max()), (parameter_name, error)
        if s.freeze_embeddings == 2 and ".embeddings." in parameter_name:
            assert error == 0.0, parameter_name
    if s.ema > 0:
        views = averaged(core, trainer)
        for parameter_name, parameter in average.module.named_parameters():
            limit = 2e-5 if not parameter_name.endswith("key.bias") else 20 * s.lr
            assert np.abs(views[parameter_name] - parameter.detach().numpy()).max() <= limit, parameter_name
    print(f"{name}: loss differs by at most {worst:.1e}")
    trainer.free()


def test_schedules_never_go_below_zero(core):
    hf = nn.hf_model(vocab_size=50)
    for schedule in SCHEDULES:
        trainer = Trainer(core, hf, spec(ADAMW, 0.5, schedule=schedule, warmup=0.1), 37)
        lrs = [core.lib.dd_optimizer_lr(trainer.optimizer, step) for step in range(80)]
        assert min(lrs) >= 0.0 and max(lrs) <= 0.5
        assert lrs[0] == 0.0 and lrs[3] == 0.5
        trainer.free()


@pytest.mark.parametrize("name", CASES)
def test_late_rows_have_the_bits_of_the_dense_optimizer(core, name):
    """One optimizer is flushed after every step, so each row sees every step in its turn; the other only at the end."""
    hf, s, total = nn.hf_model(seed=7, vocab_size=300, hidden_size=51), CASES[name], 60
    late, dense = Trainer(core, hf, s, total), Trainer(core, hf, s, total)
    for i, (packed, labels) in enumerate(batches(total, vocab=300)):
        if 20 < i < 50:  # a long stretch without most rows, so that moments run out
            packed.ids %= 7
        a, b = late.step(packed, labels), dense.step(packed, labels)
        core.lib.dd_optimizer_flush(dense.optimizer)
        assert a == b
        if i == 30:  # a step without finite gradient counts, but changes nothing
            for trainer in (late, dense):
                before = trainer.params.flat.copy()
                trainer.grads.views["classifier.bias"][0] = np.inf
                touched, lr = trainer.bert.touched(), ctypes.c_double()
                norm = core.lib.dd_optimizer_step(
                    trainer.optimizer, trainer.grads.pointer, touched.ctypes.data, len(touched), ctypes.byref(lr)
                )
                assert not np.isfinite(norm)
                assert np.array_equal(before.view(np.uint32), trainer.params.flat.view(np.uint32))
    word = late.params.views["bert.embeddings.word_embeddings.weight"]
    if s.weight_decay > 0 and s.freeze_embeddings != 2:
        assert not np.array_equal(word, dense.params.views["bert.embeddings.word_embeddings.weight"])
    core.lib.dd_optimizer_flush(late.optimizer)
    assert np.array_equal(late.params.flat.view(np.uint32), dense.params.flat.view(np.uint32))
    for slab in (0, 1, 2):
        a, b = (state(core, t)[slab] for t in (late, dense))
        assert (a is None and b is None) or np.array_equal(a.view(np.uint32), b.view(np.uint32))
    late.free(), dense.free()


def state(core, trainer):
    """First moment, second moment, average; None where there is none."""
    slabs = (le.OptimizerSlab * 3)()
    core.lib.dd_optimizer_slabs(trainer.optimizer, slabs)
    return [np.ctypeslib.as_array(slab.floats, shape=(slab.count,)) if slab.count else None for slab in slabs]


def averaged(core, trainer):
    """{name: array} of the moving average."""
    flat, params = state(core, trainer)[2], trainer.params
    return {
        name: flat[view.__array_interface__["data"][0] // 4 - params.flat.__array_interface__["data"][0] // 4 :][
            : view.size
        ].reshape(view.shape)
        for name, view in params.views.items()
    }


@pytest.mark.parametrize(
    "name",
    ["adamw_linear", "sgd_momentum_decay_cosine", "sgd_linear", "adamw_average", "adamw_average_no_decay", "sgd_average",
     "sgd_frozen_average_by_depth", "sgd_nesterov", "sgd_nesterov_decay_cosine_by_depth"],
)
def test_resuming_gives_the_same_bits(core, name):
    hf, s, total = nn.hf_model(seed=9, vocab_size=150), CASES[name], 24
    whole, first = Trainer(core, hf, s, total), Trainer(core, hf, s, total)
    second = None
    for i, (packed, labels) in enumerate(batches(total, vocab=150)):
        whole.step(packed, labels)
        (second or first).step(packed, labels)
        if i == 10:
            core.lib.dd_optimizer_flush(first.optimizer)
            second = Trainer(core, hf, s, total)
            second.params.flat[:] = first.params.flat
            for mine, theirs in zip(state(core, second), state(core, first)):
                if mine is not None:
                    mine[:] = theirs
            core.lib.dd_optimizer_set_step(second.optimizer, i + 1)
    for trainer in (whole, second):
        core.lib.dd_optimizer_flush(trainer.optimizer)
    assert np.array_equal(whole.params.flat.view(np.uint32), second.params.flat.view(np.uint32))
    for trainer in (whole, first, second):
        trainer.free()


@pytest.mark.parametrize("name", ["adamw_linear", "sgd_momentum_decay_cosine", "adamw_by_depth"])
def test_a_restart_is_a_new_optimizer_with_half_the_lr(core, name):
    """From the restart on the steps are those of a new torch optimizer, whose lr is the schedule's × 0.5 × the rise."""
    hf, s, total, at = nn.hf_model(seed=13, vocab_size=150), CASES[name], 24, 10
    trainer = Trainer(core, hf, s, total)
    optimizer, schedule = torch_optimizer(hf, s, total)
    hf.train()
    rise, restarted = int(s.warmup * total), False
    for i, (packed, labels) in enumerate(batches(total, vocab=150)):
        lrs = schedule.get_last_lr()
        if i == at:
            core.lib.dd_optimizer_flush(trainer.optimizer)
            core.lib.dd_optimizer_restart(trainer.optimizer, 0.5)
            restarted, (fresh, _) = True, torch_optimizer(hf, s, total)
        loss, norm, lr = trainer.step(packed, labels)
        hf.zero_grad()
        want = torch.nn.functional.cross_entropy(hf(**packed.padded()).logits, torch.tensor(labels.astype(np.int64)))
        want.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), s.max_grad_norm)
        if restarted:
            factor = 0.5 * min(1.0, (i - at + 1) / rise)
            for group, scheduled in zip(fresh.param_groups, lrs):
                group["lr"] = scheduled * factor
            fresh.step()
            assert lr == pytest.approx(lrs[0] * factor, rel=1e-12)
        else:
            optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the schedule goes on without its optimizer's steps
            schedule.step()
        assert loss == pytest.approx(want.item(), abs=2e-5, rel=1e-5)
    trainer.free()
