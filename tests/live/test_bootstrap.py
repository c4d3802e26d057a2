"""The paired bootstrap against numpy and scikit-learn: on the rows that we draw, to the last digits; and against a
bootstrap with numpy's own random numbers, within its noise."""

import ctypes

import numpy as np
import pytest
from libengine import EngineFailure, Error, check, load
from sklearn.metrics import accuracy_score, f1_score

lib = load()
RESAMPLES = 60


class Interval(ctypes.Structure):
    _fields_ = [("difference", ctypes.c_double), ("low", ctypes.c_double), ("high", ctypes.c_double)]


lib.dd_bootstrap_difference.restype = Interval
lib.dd_bootstrap_rows.restype = None


def drawn(seed, resample, n):
    rows = np.empty(n, np.uint32)
    lib.dd_bootstrap_rows(ctypes.c_uint64(seed), resample, ctypes.c_size_t(n), rows.ctypes.data_as(ctypes.c_void_p))
    return rows


def scores_of(gold, runs, classes, by_accuracy, resamples, seed):
    gold = np.ascontiguousarray(gold, np.int32)
    runs = [np.ascontiguousarray(r, np.int32) for r in runs]
    pointers = (ctypes.c_void_p * len(runs))(*[r.ctypes.data for r in runs])
    out, error = np.empty((len(runs), resamples + 1)), Error()
    status = lib.dd_bootstrap_scores(
        gold.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(gold)), classes, pointers,
        ctypes.c_size_t(len(runs)), ctypes.c_bool(by_accuracy), resamples, ctypes.c_uint64(seed), None,
        out.ctypes.data_as(ctypes.c_void_p), ctypes.byref(error),
    )  # fmt: skip
    check(status, error)
    return out


def interval(scores, a, b, confidence):
    resamples = scores.shape[1] - 1
    scratch = np.empty(resamples)
    lists = [(ctypes.c_size_t * len(x))(*x) for x in (a, b)]
    return lib.dd_bootstrap_difference(
        scores.ctypes.data_as(ctypes.c_void_p), resamples, lists[0], ctypes.c_size_t(len(a)), lists[1],
        ctypes.c_size_t(len(b)), ctypes.c_double(confidence), scratch.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip


def metric(gold, predicted, by_accuracy):
    if by_accuracy:
        return accuracy_score(gold, predicted)
    return f1_score(gold, predicted, average="macro", zero_division=0)


def case(seed, n, classes, skills):
    rng = np.random.default_rng(seed)
    weights = rng.random(classes) ** 3 + 0.01
    gold = rng.choice(classes, n, p=weights / weights.sum())
    shared = rng.random(n)  # runs err on the same hard rows
    runs = [np.where(0.7 * shared + 0.3 * rng.random(n) < s, gold, rng.integers(0, classes, n)) for s in skills]
    return gold, runs


@pytest.mark.parametrize("by_accuracy", [False, True])
@pytest.mark.parametrize("n,classes", [(1, 1), (40, 3), (501, 3), (300, 17)])
def test_against_sklearn_on_the_same_rows(n, classes, by_accuracy):
    gold, runs = case(n, n, classes, [0.9, 0.85, 0.7, 0.2])
    scores = scores_of(gold, runs, classes, by_accuracy, RESAMPLES, seed=11)
    expected = np.empty_like(scores)
    for k in range(RESAMPLES + 1):
        rows = np.arange(n) if k == 0 else drawn(11, k - 1, n)
        for r, predicted in enumerate(runs):
            expected[r, k] = metric(gold[rows], predicted[rows], by_accuracy)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-13)
    for a, b, confidence in ([0], [1], 0.95), ([0, 1], [2, 3], 0.95), ([3], [0, 1, 2], 0.8):
        got = interval(scores, a, b, confidence)
        difference = expected[a].mean(axis=0) - expected[b].mean(axis=0)
        tail = 50 * (1 - confidence)
        want = [difference[0], *np.percentile(difference[1:], [tail, 100 - tail])]
        np.testing.assert_allclose([got.difference, got.low, got.high], want, rtol=0, atol=1e-13)


def test_rows_are_uniform():
    """Chi square over 200 resamples of 50 rows: 49 degrees of freedom, 0.001 of the mass beyond 85.4."""
    counts = np.bincount(np.concatenate([drawn(3, k, 50) for k in range(200)]), minlength=50)
    assert ((counts - 200) ** 2 / 200).sum() < 85.4


def test_against_a_bootstrap_of_numpy():
    gold, runs = case(5, 800, 3, [0.9, 0.86])
    resamples = 2000
    got = interval(scores_of(gold, runs, 3, False, resamples, seed=1), [0], [1], 0.95)
    rng = np.random.default_rng(1)
    own = []
    for _ in range(resamples):
        rows = rng.integers(0, 800, 800)
        own.append(metric(gold[rows], runs[0][rows], False) - metric(gold[rows], runs[1][rows], False))
    low, high = np.percentile(own, [2.5, 97.5])
    slack = 6 * np.std(own) * np.sqrt(0.025 * 0.975 / resamples) / 0.0584  # six standard errors of that quantile
    assert abs(got.low - low) < slack and abs(got.high - high) < slack
    assert low < got.difference < high


def test_labels_outside_are_refused():
    with pytest.raises(EngineFailure):
        scores_of([0, 1, 3], [[0, 1, 2]], 3, False, 5, 1)
    with pytest.raises(EngineFailure):
        scores_of([0, 1, 2], [[0, -1, 2]], 3, False, 5, 1)
