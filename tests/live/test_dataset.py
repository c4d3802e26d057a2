"""Import of the shared data against Python's own readers, and of random tables against the csv and json modules."""

import csv
import ctypes
import json
import random
import string

import pytest
from libengine import (
    SPLITS,
    EngineFailure,
    Error,
    Import,
    ImportReport,
    LengthStats,
    Row,
    SplitInfo,
    TokenizerOptions,
    check,
    load,
    shared,
)

lib = load()
lib.dd_dataset_class.restype = ctypes.c_char_p
lib.dd_dataset_rows.restype = ctypes.c_uint64
lib.dd_dataset_has_pairs.restype = ctypes.c_bool
lib.dd_dataset_split.restype = ctypes.POINTER(SplitInfo)


class Dataset:
    def __init__(self, directory, **files):
        options = {k: files.pop(k) for k in list(files) if k not in SPLITS}
        request, self.report, error = Import(), ImportReport(), Error()
        for i, split in enumerate(SPLITS):
            if split in files:
                request.paths[i] = str(files[split]).encode()
        for key, value in options.items():
            setattr(request, key, value)
        target = str(directory).encode()
        check(lib.dd_dataset_import(ctypes.byref(request), target, ctypes.byref(self.report), ctypes.byref(error)), error)
        self.pointer = ctypes.c_void_p()
        check(lib.dd_dataset_open(target, ctypes.byref(self.pointer), ctypes.byref(error)), error)
        self.classes = [
            lib.dd_dataset_class(self.pointer, i).decode() for i in range(lib.dd_dataset_classes(self.pointer))
        ]

    def __del__(self):
        if getattr(self, "pointer", None):
            lib.dd_dataset_free(self.pointer)

    def rows(self, split):
        out, row, index = [], Row(), SPLITS.index(split)
        for i in range(lib.dd_dataset_rows(self.pointer, index)):
            lib.dd_dataset_row(self.pointer, index, ctypes.c_uint64(i), ctypes.byref(row))
            text = ctypes.string_at(row.text, row.text_bytes).decode()
            pair = ctypes.string_at(row.pair, row.pair_bytes).decode() if row.pair else None
            out.append((text, pair, self.classes[row.label] if row.label >= 0 else None))
        return out

    def info(self, split):
        return lib.dd_dataset_split(self.pointer, SPLITS.index(split)).contents


def nearest_rank(values, percent):
    return sorted(values)[max(-(-len(values) * percent // 100), 1) - 1]


def check_info(dataset, split, rows):
    info = dataset.info(split)
    lengths = [len(t) + len(p or "") for t, p, _ in rows]
    keys = [(t, p) for t, p, _ in rows]
    assert info.rows == len(rows)
    assert list(info.class_rows)[: len(dataset.classes)] == [sum(r[2] == c for r in rows) for c in dataset.classes]
    assert info.characters.mean == pytest.approx(sum(lengths) / len(lengths), rel=1e-12)
    got = (info.characters.min, info.characters.p50, info.characters.p95, info.characters.max)
    assert got == (min(lengths), nearest_rank(lengths, 50), nearest_rank(lengths, 95), max(lengths))
    assert info.duplicates == len(keys) - len(set(keys))


@pytest.mark.parametrize("name", ["headlines3", "packages8", "thucnews10"])
def test_shared_tsv(name, tmp_path):
    folder = shared("data", name)
    files = {p.stem: p for p in folder.iterdir() if p.stem in SPLITS}
    dataset = Dataset(tmp_path / "d", **files)
    expected = {}
    for split, path in files.items():
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if split == "unlabelled":
            expected[split] = [(line, None, None) for line in lines]
        else:
            expected[split] = [(line.split("\t")[0], None, line.split("\t")[1]) for line in lines]
        assert dataset.rows(split) == expected[split]
        check_info(dataset, split, expected[split])
    assert dataset.classes == list(dict.fromkeys(label for _, _, label in expected["train"]))
    for a in files:
        for b in files:
            common = {t for t, _, _ in expected[b]}
            want = 0 if a == b else sum(t in common for t, _, _ in expected[a])
            assert dataset.info(a).duplicates_of[SPLITS.index(b)] == want


def test_shared_csv_with_stratified_dev(tmp_path):
    path = shared("data", "creditcard_comments", "train.csv")
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["class", "text"]
    expected = [(text, None, label) for label, text in table[1:]]
    try:
        dataset = Dataset(tmp_path / "d", train=path, seed=7)
    except EngineFailure as failure:
        assert "empty" in str(failure)
        expected = [row for row in expected if row[0].strip()]
        dataset = Dataset(tmp_path / "d", train=path, seed=7, skip_bad_rows=True)
    assert dataset.classes == ["0", "1", "2"]
    train, dev = dataset.rows("train"), dataset.rows("dev")
    assert sorted(train + dev) == sorted(expected)
    position = iter(expected)
    assert all(any(row == other for other in position) for row in dev), "dev keeps the order of the file"
    for label in dataset.classes:
        n = sum(row[2] == label for row in expected)
        assert sum(row[2] == label for row in dev) == int(n * 0.1 + 0.5)
    again = Dataset(tmp_path / "again", train=path, seed=7, skip_bad_rows=True)
    other = Dataset(tmp_path / "other", train=path, seed=8, skip_bad_rows=True)
    assert again.info("dev").sha256 == dataset.info("dev").sha256 != other.info("dev").sha256


def random_cell(rng, alphabet):
    while True:
        cell = "".join(rng.choices(alphabet, k=rng.randint(1, 20)))
        if cell.strip():
            return cell


@pytest.mark.parametrize("seed", range(40))
def test_random_csv(seed, tmp_path):
    rng = random.Random(seed)
    alphabet = string.ascii_letters + ' ,"\n\r\t;' + "中é😀"
    columns = rng.choice([["text", "label"], ["label", "text"], ["id", "text", "pair", "label"]])
    rows = [(random_cell(rng, alphabet), random_cell(rng, alphabet), f"c{i % 3}") for i in range(60)]
    path = tmp_path / "t.csv"
    with open(path, "w", encoding=rng.choice(["utf-8", "utf-8-sig"]), newline="") as file:
        # With "\n" as its line end csv.writer leaves a trailing "\r" unquoted, which no reader could tell apart.
        end, quoting = rng.choice([("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)])
        writer = csv.writer(file, lineterminator=end, quoting=quoting)
        writer.writerow(columns)
        for i, (text, pair, label) in enumerate(rows):
            writer.writerow([{"text": text, "pair": pair, "label": label, "id": i}[c] for c in columns])
    dataset = Dataset(tmp_path / "d", train=path, dev=path)
    pairs = "pair" in columns
    assert dataset.rows("train") == [(t, p if pairs else None, c) for t, p, c in rows]
    check_info(dataset, "train", dataset.rows("train"))


@pytest.mark.parametrize("seed", range(20))
def test_random_jsonl(seed, tmp_path):
    rng = random.Random(seed)
    alphabet = string.printable + "中é😀\u2028"
    rows = [(random_cell(rng, alphabet), random_cell(rng, alphabet), 10 - i % 4) for i in range(60)]
    path, pairs = tmp_path / "t.jsonl", seed % 2 == 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        for text, pair, label in rows:
            row = {"label": label, "sentence1" if pairs else "sentence": text, "x": {"label": [1, None]}}
            if pairs:
                row["sentence2"] = pair
            file.write(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n")
    dataset = Dataset(tmp_path / "d", train=path, dev=path)
    assert dataset.classes == ["7", "8", "9", "10"]
    assert dataset.rows("dev") == [(t, p if pairs else None, str(c)) for t, p, c in rows]


def test_token_stats(tmp_path):
    from test_tokenizer import Ours, vocabulary

    raw, _ = vocabulary("bert-base-chinese")
    tokenizer = Ours(raw, True, True)
    folder = shared("data", "headlines3")
    dataset = Dataset(tmp_path / "d", train=folder / "train.tsv", dev=folder / "dev.tsv")
    lengths = [len(tokenizer.encode(text)[0]) for text, _, _ in dataset.rows("dev")]
    stats, error = LengthStats(), Error()
    check(lib.dd_dataset_token_stats(dataset.pointer, 1, tokenizer.pointer, ctypes.byref(stats), ctypes.byref(error)), error)
    assert stats.mean == pytest.approx(sum(lengths) / len(lengths), rel=1e-12)
    want = (min(lengths), nearest_rank(lengths, 50), nearest_rank(lengths, 95), max(lengths))
    assert (stats.min, stats.p50, stats.p95, stats.max) == want


def naive_vocabulary(words, size):
    """The builder's rules once more, recounting everything after each merge.  words: {word: count}, letters only."""
    counts = {}
    for word, times in words.items():
        for i, c in enumerate(word):
            for form in (0, 1):
                counts.setdefault((c, form), 0)
            counts[(c, int(i > 0))] += times
    base = sorted(counts, key=lambda k: (-counts[k], k))
    pieces = ["##" * form + c for c, form in base][: size - 5]
    rank = {piece: i for i, piece in enumerate(pieces)}
    split = [(["##" * (i > 0) + c for i, c in enumerate(w)], n) for w, n in words.items()]
    split = [(w, n) for w, n in split if all(p in rank for p in w)]
    while len(pieces) < size - 5:
        pairs = {}
        for word, n in split:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + n
        pairs = {k: n for k, n in pairs.items() if n >= 2}
        if not pairs:
            break
        left, right = min(pairs, key=lambda k: (-pairs[k], rank[k[0]], rank[k[1]]))
        joined = left + right[2:]
        if joined not in rank:
            rank[joined] = len(pieces)
            pieces.append(joined)
        for word, _ in split:
            i = 0
            while i + 1 < len(word):
                if word[i] == left and word[i + 1] == right:
                    word[i : i + 2] = [joined]
                i += 1
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + pieces


@pytest.mark.parametrize("seed", range(30))
def test_vocabulary_against_the_naive_algorithm(seed, tmp_path):
    rng = random.Random(seed)
    alphabet = "ab" if seed % 3 == 0 else "abcdefgh"
    words = {}
    lines = []
    for i in range(60):
        row = ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(rng.randint(1, 6))]
        lines.append(" ".join(row) + f"\tc{i % 2}\n")
        for word in row:
            words[word] = words.get(word, 0) + 1
    path = tmp_path / "t.tsv"
    path.write_text("".join(lines))
    dataset = Dataset(tmp_path / "d", train=path, dev=path)
    size = rng.choice([8, 30, 60, 400])
    text, n, error = ctypes.c_void_p(), ctypes.c_size_t(), Error()
    options = TokenizerOptions(True, True, True)
    check(
        lib.dd_vocab_build(dataset.pointer, ctypes.byref(options), size, ctypes.byref(text), ctypes.byref(n), ctypes.byref(error)),
        error,
    )
    assert ctypes.string_at(text, n.value).decode().split("\n")[:-1] == naive_vocabulary(words, size)
