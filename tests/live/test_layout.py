"""libengine.py's structures are those of the headers, field by field: what a compiler says of the one is what ctypes
says of the other."""

import ctypes
import inspect
import pathlib
import re
import subprocess

import libengine
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADERS = ["base/base.h", "spec/spec.h", "engine/engine.h"] + [
    f"engine/{path.name}" for path in sorted((ROOT / "engine").glob("*.h")) if path.name != "engine.h"
]
ANONYMOUS = {"BadRow"}  # in C a part of ImportReport, whose size and offsets hold it too
STRUCTURES = [
    cls
    for _, cls in inspect.getmembers(libengine, inspect.isclass)
    if issubclass(cls, ctypes.Structure) and cls.__module__ == "libengine" and cls.__name__ not in ANONYMOUS
]


def c_name(cls):
    return "struct dd_" + re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """{class name: [size, offset of each field]}, as compiled."""
    directory = tmp_path_factory.mktemp("layout")
    lines = [f'#include "{header}"' for header in HEADERS] + ["#include <stdio.h>", "int main(void) {"]
    for cls in STRUCTURES:
        numbers = [f"sizeof({c_name(cls)})"] + [f"offsetof({c_name(cls)}, {field[0]})" for field in cls._fields_]
        lines += [f'printf("{cls.__name__}");'] + [f'printf(" %zu", {number});' for number in numbers] + ['puts("");']
    (directory / "layout.c").write_text("\n".join([*lines, "return 0;", "}", ""]))
    subprocess.run(
        ["cc", "-std=c11", "-D_GNU_SOURCE", f"-I{ROOT}", "-o", directory / "layout", directory / "layout.c"], check=True
    )
    printed = subprocess.run([directory / "layout"], check=True, capture_output=True, text=True).stdout
    return {line.split()[0]: [int(word) for word in line.split()[1:]] for line in printed.splitlines()}


@pytest.mark.parametrize("cls", STRUCTURES, ids=lambda cls: cls.__name__)
def test_layout(cls, layouts):
    assert layouts[cls.__name__] == [ctypes.sizeof(cls)] + [getattr(cls, field[0]).offset for field in cls._fields_]
