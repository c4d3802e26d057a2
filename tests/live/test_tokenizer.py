"""The tokenizer against the Rust library `tokenizers`, without its added-token matching: on every code point, on every
line of the shared data with the real vocabularies, on 10,000 random strings, on pairs with truncation."""

import ctypes
import random
import sys

import pytest
from libengine import ROOT, SHARED, Error, TokenizerOptions, check, load, shared

sys.path.insert(0, str(ROOT / "tests/golden"))
from make_tokenizer import random_text, reference  # noqa: E402

lib = load()
SETTINGS = [(True, True), (False, False), (True, False), (False, True)]  # do_lower_case, strip_accents


class Ours:
    def __init__(self, vocab_bytes, lower, strip):
        self.pointer = ctypes.c_void_p()
        options, error = TokenizerOptions(lower, strip, True), Error()
        check(
            lib.dd_tokenizer_new(
                vocab_bytes,
                ctypes.c_size_t(len(vocab_bytes)),
                ctypes.byref(options),
                ctypes.byref(self.pointer),
                ctypes.byref(error),
            ),
            error,
        )
        self.ids = (ctypes.c_int32 * (1 << 20))()
        self.segments = (ctypes.c_uint8 * (1 << 20))()

    def __del__(self):
        lib.dd_tokenizer_free(self.pointer)

    def encode(self, text, pair=None, max_length=1 << 20):
        count, error = ctypes.c_int(), Error()
        a, b = text.encode(), None if pair is None else pair.encode()
        check(
            lib.dd_tokenizer_encode(
                self.pointer,
                a,
                ctypes.c_size_t(len(a)),
                b,
                ctypes.c_size_t(len(b or b"")),
                max_length,
                self.ids,
                self.segments,
                ctypes.byref(count),
                ctypes.byref(error),
            ),
            error,
        )
        return self.ids[: count.value], self.segments[: count.value]


def vocabulary(name):
    raw = shared("vocab", name, "vocab.txt").read_bytes()
    return raw, {token: i for i, token in enumerate(raw.decode().removesuffix("\n").split("\n"))}


@pytest.fixture(scope="module", params=["bert-base-chinese", "bert-base-uncased"])
def vocab(request):
    return vocabulary(request.param)


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda s: f"lower={s[0]},strip={s[1]}")
def both(request, vocab):
    lower, strip = request.param
    return Ours(vocab[0], lower, strip), reference(vocab[1], lower, strip)


def same(both, text, pair=None, max_length=None):
    ours, theirs = both
    if max_length is None:
        theirs.no_truncation()
        expected = theirs.encode(text, pair)
        got = ours.encode(text, pair)
    else:
        theirs.enable_truncation(max_length, strategy="longest_first")
        expected = theirs.encode(text, pair)
        got = ours.encode(text, pair, max_length)
    assert got == (expected.ids, expected.type_ids), repr((text, pair, max_length))


def test_every_line_of_the_shared_data(both):
    lines = 0
    files = sorted(p for p in SHARED.glob("data/*/*") if p.suffix in (".tsv", ".csv", ".txt"))
    if not files:
        pytest.skip(f"no shared data at {SHARED} (set DISTILLD_SHARED)")
    for path in files:
        for line in path.read_text(encoding="utf-8-sig").split("\n"):
            same(both, line)
            lines += 1
    assert lines > 80_000


def test_every_code_point(both):
    """Between letters, alone, after an accent, with a mark behind: each property of a character shows in the ids."""
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    chunk = 128
    for first in range(0, len(points), chunk):
        same(both, " ".join(f"a{chr(c)}b {chr(c)} e{chr(c)}\u0301" for c in points[first : first + chunk]))


def test_random_strings(both):
    rng = random.Random(1)
    for _ in range(10_000):
        same(both, random_text(rng, rng.randint(0, 80)))


def test_runs_of_combining_marks(both):
    rng = random.Random(2)
    import unicodedata

    marks = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) in ("Mn", "Mc", "Me")]
    for _ in range(3000):
        same(both, "x" + "".join(rng.choices(marks, k=rng.randint(1, 12))) + rng.choice("yé가"))


def test_pairs_and_truncation(both):
    rng = random.Random(3)
    for _ in range(3000):
        a, b = (random_text(rng, rng.randint(0, 30)) for _ in range(2))
        same(both, a, b, rng.choice([3, 4, 5, 6, 7, 8, 15, 16, 17, 32, 33, 128]))
        same(both, a, None, rng.choice([2, 3, 8, 32]))


def test_special_tokens_are_text():
    raw, vocab = vocabulary("bert-base-uncased")
    ours = Ours(raw, True, True)
    ids, _ = ours.encode("[SEP] [MASK]")
    assert ids[1:-1] == [vocab[t] for t in ("[", "sep", "]", "[", "mask", "]")]


def test_bytes_that_are_no_text():
    raw, _ = vocabulary("bert-base-uncased")
    ours = Ours(raw, True, True)
    count, error = ctypes.c_int(), Error()
    expected, _ = ours.encode("hello")
    dirty = b"he\xff\xfell\xc3o\xf0\x9f"
    check(
        lib.dd_tokenizer_encode(ours.pointer, dirty, ctypes.c_size_t(len(dirty)), None, ctypes.c_size_t(0), 16, ours.ids,
                                ours.segments, ctypes.byref(count), ctypes.byref(error)),
        error,
    )  # fmt: skip
    assert ours.ids[: count.value] == expected
