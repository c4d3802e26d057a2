"""The loss of the note, value and gradient, against PyTorch in double."""

import ctypes

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

import libengine as le
import nn


def note_loss(student, teacher, labels, temperature, alpha):
    """loss.py of the note: KL summed over classes and rows, divided by the rows, times T², beside the CE mean."""
    ce = torch.nn.functional.cross_entropy(student, labels)
    p = torch.log_softmax(student / temperature, dim=-1)
    q = torch.softmax(teacher / temperature, dim=-1)
    kl = torch.nn.functional.kl_div(p, q, reduction="sum") * temperature**2 / student.shape[0]
    return kl * alpha + ce * (1 - alpha), kl, ce


@pytest.fixture(scope="module")
def core():
    core = nn.Core()
    yield core
    core.close()


def run(core, student, teacher, labels, temperature, alpha):
    gradient = np.full_like(student, np.nan)
    loss = core.lib.dd_distill_loss(
        student.ctypes.data, None if teacher is None else teacher.ctypes.data, labels.ctypes.data, *student.shape,
        temperature, alpha, gradient.ctypes.data,
    )
    again = core.lib.dd_distill_loss(
        student.ctypes.data, None if teacher is None else teacher.ctypes.data, labels.ctypes.data, *student.shape,
        temperature, alpha, None,
    )
    np.testing.assert_equal((loss.total, loss.kl, loss.ce), (again.total, again.kl, again.ce))
    return loss, gradient


@pytest.mark.parametrize("spread", [1.0, 30.0, 200.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (32, 14), (5, 256)])
def test_distillation(core, shape, temperature, alpha, spread):
    rng = np.random.default_rng(3)
    student = rng.normal(size=shape, scale=spread).astype(np.float32)
    teacher = rng.normal(size=shape, scale=spread).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0]).astype(np.int32)
    loss, gradient = run(core, student, teacher, labels, temperature, alpha)
    x = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    total, kl, ce = note_loss(x, torch.tensor(teacher, dtype=torch.float64), torch.tensor(labels.astype(np.int64)),
                              temperature, alpha)
    total.backward()
    for mine, theirs in ((loss.total, total), (loss.kl, kl), (loss.ce, ce)):
        assert mine == pytest.approx(theirs.item(), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-6, atol=1e-9)


def test_cross_entropy_and_rows_without_label(core):
    rng = np.random.default_rng(4)
    student = rng.normal(size=(6, 3)).astype(np.float32)
    labels = np.array([0, -1, 2, 1, -1, 2], np.int32)
    loss, gradient = run(core, student, None, labels, 3.0, 0.7)
    x = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    want = torch.nn.functional.cross_entropy(x, torch.tensor(labels.astype(np.int64)), ignore_index=-1)
    want.backward()
    assert loss.total == loss.ce == pytest.approx(want.item(), rel=1e-9)
    assert loss.kl == 0.0
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-6, atol=1e-9)

    teacher = rng.normal(size=(6, 3)).astype(np.float32)
    unlabelled, gradient = run(core, student, teacher, np.full(6, -1, np.int32), 2.0, 0.7)
    assert unlabelled.ce == 0.0 and unlabelled.total == pytest.approx(0.7 * unlabelled.kl)
    assert np.isfinite(gradient).all()


def test_a_broken_teacher_is_seen(core):
    student, labels = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    teacher = np.array([[0, np.nan, 0], [0, 0, 0]], np.float32)
    loss, gradient = run(core, student, teacher, labels, 2.0, 0.5)
    assert np.isnan(loss.total) and np.isnan(gradient[0]).all() and np.isfinite(gradient[1]).all()


KL, MSE = 0, 1


def compute(core, student, teacher, labels, kind=KL, temperature=3.0, alpha=0.4, smoothing=0.0, weight=None):
    options = le.LossOptions(kind, temperature, alpha, smoothing, None if weight is None else weight.ctypes.data)
    gradient = np.full_like(student, np.nan)
    loss = core.lib.dd_loss_compute(
        student.ctypes.data, None if teacher is None else teacher.ctypes.data, labels.ctypes.data, *student.shape,
        ctypes.byref(options), gradient.ctypes.data,
    )
    return loss, gradient


def batch(shape, spread=2.0, unlabelled=0, seed=5):
    rng = np.random.default_rng(seed)
    student = rng.normal(size=shape, scale=spread).astype(np.float32)
    teacher = rng.normal(size=shape, scale=spread).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0]).astype(np.int32)
    labels[:unlabelled] = -1
    weight = rng.uniform(0.1, 5.0, shape[1])
    return student, teacher, labels, weight


@pytest.mark.parametrize("unlabelled", [0, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(3, 2), (7, 3), (32, 14), (5, 256)])
def test_cross_entropy_with_weights_and_smoothing(core, shape, smoothing, weighted, unlabelled):
    student, _, labels, weight = batch(shape, unlabelled=unlabelled)
    loss, gradient = compute(core, student, None, labels, smoothing=smoothing, weight=weight if weighted else None)
    x = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    function = torch.nn.CrossEntropyLoss(
        weight=torch.tensor(weight) if weighted else None, label_smoothing=smoothing, ignore_index=-1
    )
    want = function(x, torch.tensor(labels.astype(np.int64)))
    want.backward()
    assert loss.total == loss.ce == pytest.approx(want.item(), rel=1e-9)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-6, atol=1e-9)


def centred_mse(student, teacher):
    """Ba & Caruana (2014), Kim et al. (2021): regression on the logits, up to each row's constant."""
    centre = lambda x: x - x.mean(dim=-1, keepdim=True)
    return torch.nn.functional.mse_loss(centre(student), centre(teacher))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spread", [1.0, 50.0])
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (32, 14), (5, 256)])
def test_mse_of_the_centred_logits(core, shape, spread, alpha):
    student, teacher, labels, weight = batch(shape, spread)
    loss, gradient = compute(
        core, student, teacher, labels, kind=MSE, temperature=float("nan"), alpha=alpha, smoothing=0.2, weight=weight
    )
    x = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    mse = centred_mse(x, torch.tensor(teacher, dtype=torch.float64))
    ce = torch.nn.CrossEntropyLoss(weight=torch.tensor(weight), label_smoothing=0.2)(
        x, torch.tensor(labels.astype(np.int64))
    )
    total = alpha * mse + (1 - alpha) * ce
    total.backward()
    for mine, theirs in ((loss.total, total), (loss.kl, mse), (loss.ce, ce)):
        assert mine == pytest.approx(theirs.item(), rel=1e-9)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-6, atol=1e-8)


def test_mse_is_twice_the_kl_at_large_temperatures(core):
    student, teacher, labels, _ = batch((16, 5))
    kl, kl_gradient = compute(core, student, teacher, labels, temperature=1e5, alpha=1.0)
    mse, mse_gradient = compute(core, student, teacher, labels, kind=MSE, alpha=1.0)
    assert mse.kl == pytest.approx(2 * kl.kl, rel=1e-3)
    np.testing.assert_allclose(mse_gradient, 2 * kl_gradient, rtol=1e-2, atol=1e-5)


def test_balanced_weights_are_those_of_sklearn(core):
    labels = np.array([0, 0, 0, 2, 2, 4, -1, 0], np.int32)
    pointer = core.make(core.lib.dd_class_weights, labels.ctypes.data, len(labels), 6)
    weight = np.array((ctypes.c_double * 6).from_address(pointer.value))
    ctypes.CDLL(None).free(pointer)
    known = labels[labels >= 0]
    want = compute_class_weight("balanced", classes=np.unique(known), y=known)
    np.testing.assert_array_equal(weight[[0, 2, 4]], want)
    assert (weight[[1, 3, 5]] == 1).all()
