#!/usr/bin/env python3
"""Writes tests/golden/fixtures/report/cases.txt: what scikit-learn prints for a few confusion matrices.

A case is: "case <n_classes> <all_classes> <digits> <lines of text>", a line of class names separated by tabs, the
confusion matrix a row a line (gold down, predicted across), then the text.
"""

import pathlib
import random
import warnings

from sklearn.metrics import classification_report

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "golden/fixtures/report"

# The note's milk teacher: precision .7800 .8856 .6636, recall .7800 .8754 .6887 with support 50, 345, 106 leave the
# matrix one free number; this is one of those that agree.
MILK_NAMES = ["测评", "种草", "科普"]
MILK_TEACHER = [[39, 7, 4], [10, 302, 33], [1, 32, 73]]
# Its 1-layer student after epoch 9: one answer for every row.
MILK_COLLAPSED = [[0, 50, 0], [0, 345, 0], [0, 106, 0]]


def expand(matrix):
    gold, predicted = [], []
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            gold += [i] * count
            predicted += [j] * count
    return gold, predicted


def text(names, gold, predicted, all_classes, digits):
    labels = list(range(len(names))) if all_classes else sorted(set(gold) | set(predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return classification_report(
            gold, predicted, labels=labels, target_names=[names[i] for i in labels], digits=digits, zero_division=0
        )


def random_matrix(rng, n, most):
    return [[rng.choice([0, 0, rng.randint(0, most)]) for _ in range(n)] for _ in range(n)]


def main():
    rng = random.Random(4)
    cases = [(MILK_NAMES, MILK_TEACHER, True, 4), (MILK_NAMES, MILK_COLLAPSED, True, 4)]
    cases.append((["a", "b"], [[1, 0], [0, 0]], False, 4))
    cases.append((["a", "b"], [[1, 0], [0, 0]], True, 4))
    cases.append((["n", "a class with a very long name, longer than the others"], [[9, 1], [2, 8]], True, 4))
    cases.append((["宽", "𠀀𠀁", "é", "e\u0301"], random_matrix(rng, 4, 30), True, 4))
    cases.append((["wide", "support"], [[1234567, 1], [3, 7]], True, 4))
    cases.append((["all", "wrong"], [[0, 5], [7, 0]], True, 4))
    for n in (2, 5, 7, 8, 9, 16, 23):
        names = [f"class {i}" for i in range(n)]
        cases.append((names, random_matrix(rng, n, 12), rng.random() < 0.5, rng.choice([2, 4, 4, 14])))
    out = []
    for names, matrix, all_classes, digits in cases:
        report = text(names, *expand(matrix), all_classes, digits)
        lines = report.split("\n")
        out.append(f"case {len(names)} {int(all_classes)} {digits} {len(lines) - 1}")
        out.append("\t".join(names))
        out += [" ".join(map(str, row)) for row in matrix]
        out += lines[:-1]
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / "cases.txt").write_text("\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
