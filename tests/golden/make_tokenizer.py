#!/usr/bin/env python3
"""Writes engine/unicode_exceptions.c and tests/golden/fixtures/tokenizer/ from the Rust library `tokenizers`.

Exceptions: every code point is asked of libutf8proc (through ctypes, version 2.8, Unicode 15) and of `tokenizers`;
where they differ, the table says what Rust says.  Run again only to follow a new release of `tokenizers`.

Fixtures: vocab.txt (a small vocabulary) and cases.tsv: do_lower_case, strip_accents, max_length, text in hexadecimal,
pair in hexadecimal ("-": none), expected ids.
"""

import ctypes
import ctypes.util
import pathlib
import random
import subprocess

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/golden/fixtures/tokenizer"
CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
DROP, SPACE, PUNCTUATION, MARK = 1, 2, 8, 16


class Property(ctypes.Structure):
    _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16)]


class Utf8proc:
    def __init__(self):
        self.lib = ctypes.CDLL(ctypes.util.find_library("utf8proc") or "libutf8proc.so.2")
        self.lib.utf8proc_version.restype = ctypes.c_char_p
        self.lib.utf8proc_get_property.restype = ctypes.POINTER(Property)
        self.buffer = (ctypes.c_int32 * 32)()
        self.boundary = ctypes.c_int(0)

    def version(self):
        return self.lib.utf8proc_version().decode()

    def category(self, c):
        return CATEGORIES[self.lib.utf8proc_category(c)]

    def lower(self, c):
        return chr(self.lib.utf8proc_tolower(c))

    def decompose(self, c):
        n = self.lib.utf8proc_decompose_char(c, self.buffer, 32, 1 << 4, ctypes.byref(self.boundary))
        return "".join(map(chr, self.buffer[:n]))

    def combining_class(self, c):
        return self.lib.utf8proc_get_property(c).contents.combining_class

    def flags(self, c):
        category = self.category(c)
        if c in (9, 10, 13) or category[0] == "Z":
            return SPACE
        if c in (0, 0xFFFD) or category in ("Cc", "Cf", "Co"):
            return DROP
        if category[0] == "P" or (33 <= c <= 126 and not chr(c).isalnum()):
            return PUNCTUATION
        return MARK if category == "Mn" else 0


def only(clean=False, strip=False, lower=False):
    return normalizers.BertNormalizer(
        clean_text=clean, handle_chinese_chars=False, strip_accents=strip, lowercase=lower
    ).normalize_str


class Rust:
    def __init__(self):
        self.clean = only(clean=True)
        self.strip = only(strip=True)
        self.lower_str = only(lower=True)
        self.nfd = normalizers.NFD().normalize_str
        self.words = pre_tokenizers.BertPreTokenizer().pre_tokenize_str

    def flags(self, c, is_mark):
        """is_mark: what utf8proc says; kept for characters with a decomposition, which never reach the question."""
        s = chr(c)
        cleaned = self.clean(s)
        if cleaned == "":
            return DROP
        if cleaned == " ":
            return SPACE
        flags = PUNCTUATION if len(self.words("a" + s + "b")) == 3 else 0
        if self.strip(s) == "" if self.nfd(s) == s else is_mark:
            flags |= MARK
        return flags

    def is_starter(self, c):
        """No reordering in front of U+0345, whose class (240) is the highest."""
        s = chr(c)
        return c == 0x345 or self.nfd("a\u0345" + s).startswith("a\u0345")


def ranges(items):
    """[(c, value)] sorted → [(first, last, value)]."""
    out = []
    for c, value in items:
        if out and out[-1][1] == c - 1 and out[-1][2] == value:
            out[-1][1] = c
        else:
            out.append([c, c, value])
    return out


def compare(utf8proc, rust):
    flags, lower, starters, whole = [], [], [], []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000:
            continue
        s = chr(c)
        if (rust_flags := rust.flags(c, utf8proc.flags(c) & MARK)) != utf8proc.flags(c):
            flags.append((c, rust_flags))
        if (rust_lower := rust.lower_str(s)) != utf8proc.lower(c):
            assert 1 <= len(rust_lower) <= 2, hex(c)
            extra = ord(rust_lower[1]) if len(rust_lower) == 2 else 0
            lower.append((c, (ord(rust_lower[0]) - c, extra)))
        if rust.nfd(s) != utf8proc.decompose(c):
            assert rust.nfd(s) == s, hex(c)
            whole.append((c, 0))
        elif rust.nfd(s) == s and utf8proc.combining_class(c) and c != 0x345 and rust.is_starter(c):
            starters.append((c, 0))
    return ranges(flags), ranges(lower), ranges(starters), ranges(whole)


def write_exceptions(path):
    import tokenizers

    utf8proc = Utf8proc()
    flags, lower, starters, whole = compare(utf8proc, Rust())
    lines = [
        f"/* unicode_exceptions: where `tokenizers` {tokenizers.__version__} and utf8proc {utf8proc.version()} differ.",
        " * Written by tests/golden/make_tokenizer.py from a comparison of all code points; see unicode.h for the reason.",
        " */",
        '#include "engine/unicode.h"',
        "",
    ]

    def table(kind, name, rows):
        lines.append(f"const struct {kind} {name}[] = {{")
        lines.extend(rows)
        lines.append("};")
        lines.append(f"const size_t {name}_count = sizeof {name} / sizeof {name}[0];")
        lines.append("")

    def char_rows(items):
        return [f"    {{0x{a:04X}, 0x{b:04X}, {value}}}," for a, b, value in items]

    table("dd_char_range", "dd_char_exceptions", char_rows(flags))
    table(
        "dd_lower_range",
        "dd_lower_exceptions",
        [f"    {{0x{a:04X}, 0x{b:04X}, {delta}, {hex(extra) if extra else 0}}}," for a, b, (delta, extra) in lower],
    )
    table("dd_char_range", "dd_starter_exceptions", char_rows(starters))
    table("dd_char_range", "dd_undecomposed_exceptions", char_rows(whole))
    path.write_text("\n".join(lines).rstrip() + "\n")
    subprocess.run(["clang-format", "-i", str(path)], check=False)


def reference(vocab, lower, strip):
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip, lowercase=lower
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


POOLS = [
    (0x20, 0x7E), (0x00, 0x9F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF),
    (0xE00, 0xEFF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2E00, 0x303F), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE00, 0xFFFD), (0x1D100, 0x1D1FF), (0x1F300, 0x1FAFF), (0x20000, 0x2FA1F),
    (0x10000, 0x110000 - 1),
]  # fmt: skip


def random_text(rng, length):
    out = []
    while len(out) < length:
        first, last = rng.choice(POOLS)
        for _ in range(rng.randint(1, 6)):
            c = rng.randint(first, last)
            if not 0xD800 <= c < 0xE000:
                out.append(chr(c))
        if rng.random() < 0.3:
            out.append(rng.choice(" \t\n.,-#[]'\u3000\u00a0\u200b"))
    return "".join(out)


HAND_WRITTEN = [
    "", " ", "\t\n", "Hello, World!", "unaffable", "[CLS] text [SEP] [UNK] [MASK]", "##ing", "don't", "naïve café ÀÉÎÕÜ",
    "İstanbul ISPARTA ı", "ΑΣ ὈΔΥΣΣΕΎΣ", "ẞ ß ſ", "中文abc，混合。", "股票2012年", "한국어 텍스트", "a" * 100, "a" * 101,
    "中" * 120, "e\u0301\u0323", "\u302e\U0001d165\u302f", "a\u0300\u302e\u0344b", "\u2260 \u226e \u037e \u1fef",
    "zero\u0000width\u200bjoin\u200der\ufeff", "soft\u00adhyphen", "\u2028line\u2029para\u0085next", "\ufffdreplaced\ufffd",
    "👩‍👩‍👧 emoji 🇨🇳", "\U0002b820 \U0002b920 \U0002f800", "\ue000private", "\u0378unassigned", "ＦＵＬＬｗｉｄｔｈ！",
]  # fmt: skip


def write_fixtures():
    FIXTURES.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20)
    letters = [chr(c) for c in range(0x21, 0x7F)] + [chr(c) for c in range(0xC0, 0x250, 3)]
    letters += [chr(c) for c in range(0x391, 0x3CA)] + [chr(c) for c in range(0x4E00, 0x4E40)] + list("中文混合股票年한국어ᄒ가")
    pieces = ["un", "##aff", "##able", "hello", "Hello", "world", "##ing", "test", "##st", "don", "cafe", "café", "in", "##a"]
    pieces += ["".join(rng.choices("aeinorst", k=k)) for k in (2, 3, 3, 4, 4, 5) for _ in range(8)]
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for token in letters + pieces + ["##" + x for x in letters[::2] + pieces[14:]] + [chr(c) for c in range(0x1100, 0x1113)]:
        if token not in lines:
            lines.append(token)
    (FIXTURES / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocab = {token: i for i, token in enumerate(lines)}
    texts = HAND_WRITTEN + [random_text(rng, rng.randint(1, 60)) for _ in range(300)]
    rows = []
    for lower, strip in ((True, True), (False, False), (True, False), (False, True)):
        tokenizer = reference(vocab, lower, strip)
        for i, text in enumerate(texts):
            pair = texts[(i * 7 + 3) % len(texts)] if i % 3 == 0 else None
            max_length = rng.choice([3, 4, 5, 8, 9, 16, 64, 512])
            tokenizer.enable_truncation(max_length, strategy="longest_first")
            ids = tokenizer.encode(text, pair).ids
            rows.append("\t".join([str(int(lower)), str(int(strip)), str(max_length), text.encode().hex() or "",
                                   "-" if pair is None else pair.encode().hex(), " ".join(map(str, ids))]))  # fmt: skip
    (FIXTURES / "cases.tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    write_exceptions(ROOT / "engine/unicode_exceptions.c")
    write_fixtures()
