"""The augmentation of Tang et al. (2019) as engine/augment.c documents it, written again from that description: what
the engine makes is compared with this, not with itself."""

import torch

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
PURPOSE = 6
SPLICE, PARTNER, NGRAM, LENGTH, PLACE, WORDS = 0, 1, 2, 3, 4, 8
REPLACED, NEIGHBOUR = 1 << 20, 1 << 21
NEIGHBOURS = 10


def philox(counter, key):
    """Philox 4x32-10 (Salmon et al. 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


class Draws:
    """The random numbers of one text of one copy of one row."""

    def __init__(self, seed, row, tensor):
        self.key, self.row, self.tensor = (seed & MASK32, seed >> 32), row, tensor

    def word(self, index):
        low, high, _, _ = philox((index, 0, self.row, self.tensor | PURPOSE << 28), self.key)
        return high << 32 | low

    def uniform(self, index):
        return (self.word(index) >> 11) * 2.0**-53

    def below(self, index, bound):
        product = self.word(index) * bound
        assert product & MASK64 >= (1 << 64) % bound, "Lemire's method draws again here; not needed by these rows"
        return product >> 64


def words_of(ids, tokenizer):
    """Ids grouped to words: a piece and the ## pieces behind it."""
    words = []
    for id_, token in zip(ids, tokenizer.convert_ids_to_tokens(ids)):
        if words and token.startswith("##") and len(token) > 2:
            words[-1].append(id_)
        else:
            words.append([id_])
    return words


def kind_of(token):
    if token == "" or (token.startswith("[") and token.endswith("]") and len(token) > 2):
        return None
    return "piece" if token.startswith("##") and len(token) > 2 else "word"


class Neighbours:
    """The nearest words by cosine of the teacher's word embeddings [vocabulary, hidden], among those of one kind."""

    def __init__(self, embeddings, tokenizer):
        self.unit = torch.nn.functional.normalize(embeddings.detach().double(), dim=1)
        self.kinds = [kind_of(token) for token in tokenizer.convert_ids_to_tokens(range(len(embeddings)))]
        self.fits = {kind: torch.tensor([k == kind for k in self.kinds]) for kind in ("word", "piece")}
        self.known = {}

    def of(self, id_):
        if id_ not in self.known and self.kinds[id_] is None:
            self.known[id_] = []
        if id_ not in self.known:
            scores = (self.unit @ self.unit[id_]).masked_fill(~self.fits[self.kinds[id_]], -1)
            scores[id_] = -1
            best, near = scores.topk(NEIGHBOURS)
            self.known[id_] = [i for i, score in zip(near.tolist(), best.tolist()) if score > 0]
        return self.known[id_]


def replaced(words, draws, spec, neighbours):
    out, at = [], 0
    for i, word in enumerate(words):
        pieces = list(word)
        if draws.uniform(REPLACED + i) < spec.augment_replace:
            for j, id_ in enumerate(word):
                near = neighbours.of(id_)
                if near:
                    pieces[j] = near[draws.below(NEIGHBOUR + at + j, len(near))]
        out.append(pieces)
        at += len(word)
    return out


def copy_of(row, copy, rows, labels, spec, tokenizer, max_length, neighbours):
    draws = Draws(spec.seed, row, copy * 2)
    words = words_of(rows[row][1:-1], tokenizer)
    others = [r for r, label in enumerate(labels) if label == labels[row] and label >= 0 and r != row]
    if others and draws.uniform(SPLICE) < spec.augment_splice:
        tail = words_of(rows[others[draws.below(PARTNER, len(others))]][1:-1], tokenizer)
        head = words[: (len(words) + 1) // 2]
        ids = sum(head + tail[len(tail) - len(tail) // 2 :], [])[: max_length - 2]
        words = words_of(ids, tokenizer)
    if spec.augment_replace > 0:
        words = replaced(words, draws, spec, neighbours)
    masked = [
        [tokenizer.mask_token_id] * len(word) if draws.uniform(WORDS + i) < spec.augment_mask else word
        for i, word in enumerate(words)
    ]
    if masked and draws.uniform(NGRAM) < spec.augment_ngram:
        n = min(1 + draws.below(LENGTH, 5), len(masked))
        first = draws.below(PLACE, len(masked) - n + 1)
        masked = masked[first : first + n]
    return [rows[row][0], *sum(masked, []), rows[row][-1]]


def copies(rows, labels, chosen, spec, tokenizer, max_length, embeddings):
    """All copies 1, then all copies 2 …, of the chosen of the rows, single texts whose label is -1 where they have none;
    embeddings: the teacher's word embeddings."""
    neighbours = Neighbours(embeddings, tokenizer)
    return [
        copy_of(row, copy, rows, labels, spec, tokenizer, max_length, neighbours)
        for copy in range(spec.augment)
        for row in chosen
    ]
