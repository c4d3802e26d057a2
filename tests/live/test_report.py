"""The report against scikit-learn, byte for byte, and its figures to the last bit, on random cases."""

import ctypes
import random
import warnings

import pytest
from libengine import MAX_CLASSES, Buffer, Error, ReportRow, check, load
from sklearn.metrics import classification_report, confusion_matrix, precision_recall_fscore_support

lib = load()
if not hasattr(lib, "dd_report_compute_labels"):
    pytest.skip("the library has no report", allow_module_level=True)


class Report(ctypes.Structure):
    _fields_ = [
        ("n_classes", ctypes.c_int),
        ("class_index", ctypes.c_int * MAX_CLASSES),
        ("rows", ReportRow * MAX_CLASSES),
        ("accuracy", ctypes.c_double),
        ("macro", ReportRow),
        ("weighted", ReportRow),
        ("support", ctypes.c_int64),
        ("confusion", ctypes.POINTER(ctypes.c_int64)),
        ("micro_avg", ctypes.c_bool),
        ("micro", ReportRow),
        ("no_hits", ctypes.c_bool),
    ]


def ours(gold, predicted, names, digits, labels):
    """(text, figures, confusion matrix); labels: "union", "all" or a list."""
    n, report, error = len(gold), Report(), Error()
    a, b = (ctypes.c_int32 * n)(*gold), (ctypes.c_int32 * n)(*predicted)
    if isinstance(labels, list):
        given = (ctypes.c_int * len(labels))(*labels)
        status = lib.dd_report_compute_labels(
            a, b, ctypes.c_size_t(n), len(names), given, len(labels), ctypes.byref(report), ctypes.byref(error)
        )
    else:
        status = lib.dd_report_compute(
            a, b, ctypes.c_size_t(n), len(names), labels == "all", ctypes.byref(report), ctypes.byref(error)
        )
    check(status, error)
    out = Buffer()
    lib.dd_buffer_init(ctypes.byref(out), ctypes.c_size_t(1 << 24))
    c_names = (ctypes.c_char_p * len(names))(*[x.encode() for x in names])
    lib.dd_report_text(ctypes.byref(report), c_names, digits, ctypes.byref(out))
    text = ctypes.string_at(out.data, out.len).decode()
    side = report.n_classes
    confusion = [report.confusion[i * side : (i + 1) * side] for i in range(side)]
    figures = [(r.precision, r.recall, r.f1) for r in (report.macro, report.weighted, report.micro)]
    lib.dd_buffer_release(ctypes.byref(out))
    lib.dd_report_release(ctypes.byref(report))
    return text, figures, confusion


def theirs(gold, predicted, names, digits, labels):
    shown = {"all": list(range(len(names))), "union": sorted(set(gold) | set(predicted))}.get(str(labels), labels)
    common = {"labels": shown, "zero_division": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = classification_report(gold, predicted, digits=digits, target_names=[names[i] for i in shown], **common)
        figures = [
            precision_recall_fscore_support(gold, predicted, average=a, **common)[:3]
            for a in ("macro", "weighted", "micro")
        ]
    return text, figures, confusion_matrix(gold, predicted, labels=shown).tolist()


def random_name(rng):
    alphabet = rng.choice(["abcdefgh ", "测评种草科普", "é😀e\u0301", "xyz"])
    return "".join(rng.choices(alphabet, k=rng.choice([1, 2, 5, 12, 13, 40])))


@pytest.mark.parametrize("seed", range(400))
def test_random_case(seed):
    rng = random.Random(seed)
    n_classes = rng.choice([1, 2, 3, 3, 5, 8, 10, 17, 64, 129, 256])
    n = rng.choice([1, 2, 7, 58, 501, 3000])
    weights = [rng.choice([0, 0.01, 1, 1, 30]) for _ in range(n_classes)]
    weights[rng.randrange(n_classes)] += 1
    gold = rng.choices(range(n_classes), weights, k=n)
    skill = rng.choice([0, 0.3, 0.8, 1])
    predicted = [g if rng.random() < skill else rng.randrange(n_classes) for g in gold]
    if rng.random() < 0.1:
        predicted = [rng.randrange(n_classes)] * n
    names = [random_name(rng) for _ in range(n_classes)]
    labels = rng.choice(["all", "union", "some"])
    if labels == "some":
        labels = rng.sample(range(n_classes), rng.randint(1, n_classes))
        if not set(labels) & set(gold):
            labels.append(next(g for g in gold if g not in labels))
    digits = rng.choice([2, 4, 4, 4, 13])
    got, want = (f(gold, predicted, names, digits, labels) for f in (ours, theirs))
    assert got[0] == want[0]
    assert got[1] == [tuple(map(float, row)) for row in want[1]]
    assert got[2] == want[2]


def test_labels_outside_are_refused():
    from libengine import EngineFailure

    for gold, predicted in (([0, 2], [0, 1]), ([0, 1], [0, -1]), ([], [])):
        with pytest.raises(EngineFailure):
            ours(gold, predicted, ["a", "b"], 4, "all")
