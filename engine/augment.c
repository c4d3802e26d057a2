/* augment: more rows from those there are, for the teacher to label.
 *
 * Source: Tang, Lu, Liu, Mou, Vechtomova, Lin 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural
 * Networks": masking and n-gram sampling, here on token ids, so that it works for every vocabulary and script.  A word
 * is a piece with the "##" pieces behind it; an ideograph is a word.  A copy of a row is made in this order:
 *
 *   splice   with its probability: the first half of the row's words, then the second half of those of another row of
 *            the same class, cut to max_length where that is too long; not of rows without a label
 *   replace  each word with its probability: each of its pieces becomes one of its nearest in the teacher's embeddings
 *            (neighbours.c), as TinyBERT (Jiao et al. 2020) replaces words
 *   mask     each word with its probability: all its pieces become [MASK]
 *   n-gram   with its probability: only n words behind one another stay, n from 1 to 5
 *
 * Pairs, as in the paper: copy 1 changes the first text only, copy 2 the second only, copy 3 both, and so on; what is
 * changed is changed text by text, and a splice takes both halves from the same partner.
 *
 * Everything is a function of (seed, row, copy) and of the rows of the class: the same spec makes the same ids, so the
 * cache of the teacher's logits serves a resumed run, and a sweep over what is not in that list.
 */
#include "engine/train.h"
#include "engine/words.h"

#include <stdlib.h>
#include <string.h>

#define NGRAM_MAX 5
#define ROWS_BETWEEN_LOOKS 4096 /* at the request to stop */

/* Indices into a copy's stream of random numbers. */
enum {
    DRAW_SPLICE,
    DRAW_PARTNER,
    DRAW_NGRAM,
    DRAW_LENGTH,
    DRAW_PLACE,
    DRAW_WORDS = 8,          /* and on: whether a word is masked */
    DRAW_REPLACED = 1 << 20, /* and on: whether a word is replaced */
    DRAW_NEIGHBOUR = 1 << 21 /* and on: by which neighbour a piece is */
};

struct text { /* one side of a row, without [CLS] and [SEP] */
    const int32_t *ids;
    int n;
};
struct maker {
    struct dd_packed *packed;
    const struct dd_augment *how;
    uint32_t first, rows; /* whose copies are made */
    int32_t mask_id;
    bool *goes_on; /* [vocabulary]: a "##" piece */
    /* Those with a label by class: of class c by_class[start[c]] … by_class[start[c + 1] - 1]. */
    uint32_t *by_class, *place; /* [rows]; place: of row first + i in by_class */
    uint32_t start[DD_MAX_CLASSES + 1];
    int *words;        /* [max_length + 1]: where each word of the text at hand begins; then its end */
    int32_t *sides[2]; /* [2 max_length] each: the new texts */
    int n_side[2];
};

/* --- words ------------------------------------------------------------------------------------------------------ */

static struct text row_text(const struct dd_packed *packed, uint32_t row, int side) {
    uint64_t from = packed->offsets[row], to = packed->offsets[row + 1];
    uint64_t split = from; /* the first token of segment 1 */
    while (split < to && packed->segments[split] == 0) {
        split++;
    }
    uint64_t begin = side == 0 ? from + 1 : split, end = side == 0 ? split - 1 : to - 1;
    return (struct text){.ids = packed->ids + begin, .n = (int)(end - begin)};
}

static bool has_pair(const struct dd_packed *packed, uint32_t row) {
    return packed->segments[packed->offsets[row + 1] - 1] == 1;
}

/* Fills maker->words; returns how many there are. */
static int find_words(struct maker *maker, struct text text) {
    int words = 0;
    for (int t = 0; t < text.n; t++) {
        if (t == 0 || !maker->goes_on[text.ids[t]]) {
            maker->words[words++] = t;
        }
    }
    maker->words[words] = text.n;
    return words;
}

/* --- what is done to a text ------------------------------------------------------------------------------------- */

/* 53 bits in [0, 1). */
static double uniform(const struct dd_stream *stream, uint64_t index) {
    uint32_t word[4];
    dd_philox(stream, index, word);
    return (double)(((uint64_t)word[1] << 32 | word[0]) >> 11) * 0x1p-53;
}

/* The row's text, or its first half and the partner's second, into the side's buffer. */
static void copy_text(struct maker *maker, uint32_t row, uint32_t partner, int side) {
    struct text own = row_text(maker->packed, row, side);
    int32_t *out = maker->sides[side];
    int n = own.n;
    if (partner != row) {
        n = maker->words[(find_words(maker, own) + 1) / 2];
        struct text other = row_text(maker->packed, partner, side);
        int words = find_words(maker, other), from = maker->words[words - words / 2];
        memcpy(out + n, other.ids + from, (size_t)(other.n - from) * sizeof *out);
        memcpy(out, own.ids, (size_t)n * sizeof *out);
        n += other.n - from;
    } else {
        memcpy(out, own.ids, (size_t)n * sizeof *out);
    }
    maker->n_side[side] = n;
}

/* Cuts the texts to max_length with [CLS] and [SEP], the longer one first as the tokenizer does. */
static void cut_to_fit(struct maker *maker, int sides) {
    int room = maker->how->max_length - 1 - sides;
    if (sides == 1) {
        maker->n_side[0] = DD_MIN(maker->n_side[0], room);
        return;
    }
    while (maker->n_side[0] + maker->n_side[1] > room) {
        maker->n_side[maker->n_side[0] > maker->n_side[1] ? 0 : 1]--;
    }
}

static void replace_words(struct maker *maker, const struct dd_stream *stream, int side) {
    const struct dd_neighbours *near = maker->how->near;
    int32_t *ids = maker->sides[side];
    if (maker->how->replace <= 0.0) {
        return;
    }
    int words = find_words(maker, (struct text){ids, maker->n_side[side]});
    for (int w = 0; w < words; w++) {
        if (uniform(stream, (uint64_t)DRAW_REPLACED + (uint64_t)w) >= maker->how->replace) {
            continue;
        }
        for (int t = maker->words[w]; t < maker->words[w + 1]; t++) {
            int32_t place = near->place[ids[t]];
            uint64_t count = place < 0 ? 0 : near->count[place];
            if (count > 0) {
                uint64_t drawn = dd_random_below(stream, (uint64_t)DRAW_NEIGHBOUR + (uint64_t)t, count);
                ids[t] = near->near[(size_t)place * DD_NEIGHBOURS + drawn];
            }
        }
    }
}

/* Returns how many words the text has; maker->words tells where they are. */
static int mask_words(struct maker *maker, const struct dd_stream *stream, int side) {
    int32_t *ids = maker->sides[side];
    int words = find_words(maker, (struct text){ids, maker->n_side[side]});
    for (int w = 0; w < words; w++) {
        if (uniform(stream, (uint64_t)DRAW_WORDS + (uint64_t)w) < maker->how->mask) {
            for (int t = maker->words[w]; t < maker->words[w + 1]; t++) {
                ids[t] = maker->mask_id;
            }
        }
    }
    return words;
}

/* Of the words that maker->words tells. */
static void keep_ngram(struct maker *maker, const struct dd_stream *stream, int side, int words) {
    if (words == 0 || uniform(stream, DRAW_NGRAM) >= maker->how->ngram) {
        return;
    }
    int n = 1 + (int)dd_random_below(stream, DRAW_LENGTH, NGRAM_MAX);
    n = DD_MIN(n, words);
    int first = (int)dd_random_below(stream, DRAW_PLACE, (uint64_t)words - (uint64_t)n + 1);
    int from = maker->words[first], to = maker->words[first + n];
    memmove(maker->sides[side], maker->sides[side] + from, (size_t)(to - from) * sizeof *maker->sides[side]);
    maker->n_side[side] = to - from;
}

static uint32_t draw_partner(const struct maker *maker, const struct dd_stream *stream, uint32_t row) {
    int32_t class = maker->packed->labels[row];
    if (class < 0) {
        return row;
    }
    uint32_t others = maker->start[class + 1] - maker->start[class] - 1;
    if (others == 0 || uniform(stream, DRAW_SPLICE) >= maker->how->splice) {
        return row;
    }
    uint32_t drawn = maker->start[class] + (uint32_t)dd_random_below(stream, DRAW_PARTNER, others);
    return maker->by_class[drawn + (drawn >= maker->place[row - maker->first] ? 1 : 0)];
}

/* --- rows ------------------------------------------------------------------------------------------------------- */

static void put_token(struct dd_packed *packed, int32_t id, int segment) {
    packed->ids[packed->n_tokens] = id;
    packed->segments[packed->n_tokens] = (uint8_t)segment;
    packed->n_tokens++;
}

/* The texts of both sides as the next row. */
static enum dd_status append_row(struct maker *maker, uint32_t row, int sides, struct dd_error *err) {
    struct dd_packed *packed = maker->packed;
    enum dd_status status = dd_packed_reserve(packed, (uint64_t)maker->how->max_length, err);
    if (status != DD_OK) {
        return status;
    }
    uint64_t from = packed->n_tokens;
    int32_t cls = packed->ids[packed->offsets[row]], sep = packed->ids[packed->offsets[row + 1] - 1];
    put_token(packed, cls, 0);
    for (int side = 0; side < sides; side++) {
        for (int t = 0; t < maker->n_side[side]; t++) {
            put_token(packed, maker->sides[side][t], side);
        }
        put_token(packed, sep, side);
    }
    packed->longest = DD_MAX(packed->longest, (int)(packed->n_tokens - from));
    packed->labels[packed->rows] = -1;
    packed->rows++;
    packed->offsets[packed->rows] = packed->n_tokens;
    return DD_OK;
}

static enum dd_status make_copy(struct maker *maker, uint32_t row, int copy, struct dd_error *err) {
    int sides = has_pair(maker->packed, row) ? 2 : 1;
    struct dd_stream stream = {.seed = maker->how->seed, .purpose = DD_PURPOSE_AUGMENT, .step = row};
    stream.tensor = (uint32_t)copy * 2;
    uint32_t partner = draw_partner(maker, &stream, row);
    bool changes[2] = {true, true};
    if (sides == 2 && copy % 3 < 2) {
        changes[1 - copy % 3] = false;
    }
    for (int side = 0; side < sides; side++) {
        copy_text(maker, row, changes[side] ? partner : row, side);
    }
    cut_to_fit(maker, sides);
    for (int side = 0; side < sides; side++) {
        stream.tensor = (uint32_t)copy * 2 + (uint32_t)side;
        if (changes[side]) {
            replace_words(maker, &stream, side);
            keep_ngram(maker, &stream, side, mask_words(maker, &stream, side));
        }
    }
    return append_row(maker, row, sides, err);
}

/* --- setting up ------------------------------------------------------------------------------------------------- */

static enum dd_status read_vocabulary(struct maker *maker, struct dd_error *err) {
    const struct dd_tokenizer *tokenizer = maker->how->tokenizer;
    int size = dd_tokenizer_size(tokenizer);
    maker->mask_id = -1;
    maker->goes_on = dd_calloc((size_t)size, sizeof *maker->goes_on);
    if (!maker->goes_on) {
        return dd_fail_memory(err, (size_t)size);
    }
    for (int id = 0; id < size; id++) {
        const char *token = dd_tokenizer_token(tokenizer, id);
        maker->goes_on[id] = dd_token_continues(token);
        if (strcmp(token, "[MASK]") == 0) {
            maker->mask_id = id;
        }
    }
    if (maker->mask_id < 0 && maker->how->mask > 0.0) {
        return dd_fail(err, DD_INVALID, "mask_token_missing",
                       "augment_mask needs a [MASK] in the vocabulary and the teacher's has none; set it to 0");
    }
    return DD_OK;
}

/* Counting sort of the labelled rows by class; rows of a class in their order. */
static void sort_by_class(struct maker *maker) {
    uint32_t next[DD_MAX_CLASSES + 1] = {0};
    const int32_t *labels = maker->packed->labels + maker->first;
    for (uint32_t r = 0; r < maker->rows; r++) {
        if (labels[r] >= 0) {
            next[labels[r] + 1]++;
        }
    }
    for (int c = 0; c < DD_MAX_CLASSES; c++) {
        next[c + 1] += next[c];
    }
    memcpy(maker->start, next, sizeof next);
    for (uint32_t r = 0; r < maker->rows; r++) {
        if (labels[r] < 0) {
            continue;
        }
        uint32_t at = next[labels[r]]++;
        maker->by_class[at] = maker->first + r;
        maker->place[r] = at;
    }
}

static enum dd_status maker_init(struct maker *maker, struct dd_error *err) {
    enum dd_status status = read_vocabulary(maker, err);
    if (status != DD_OK) {
        return status;
    }
    size_t length = (size_t)maker->how->max_length;
    maker->words = dd_calloc(2 * length + 1, sizeof *maker->words);
    maker->by_class = dd_calloc(maker->rows, sizeof *maker->by_class);
    maker->place = dd_calloc(maker->rows, sizeof *maker->place);
    for (int side = 0; side < 2; side++) {
        maker->sides[side] = dd_calloc(2 * length, sizeof *maker->sides[side]);
    }
    if (!maker->words || !maker->by_class || !maker->place || !maker->sides[0] || !maker->sides[1]) {
        return dd_fail_memory(err, maker->rows * sizeof *maker->place);
    }
    sort_by_class(maker);
    return dd_packed_reserve_rows(maker->packed, (uint64_t)maker->rows * (uint64_t)maker->how->copies, err);
}

static void maker_release(struct maker *maker) {
    free(maker->goes_on);
    free(maker->words);
    free(maker->by_class);
    free(maker->place);
    free(maker->sides[0]);
    free(maker->sides[1]);
}

enum dd_status dd_packed_augment(struct dd_packed *packed, uint32_t first, uint32_t rows, const struct dd_augment *how,
                                 const struct dd_cancel *cancel, struct dd_error *err) {
    struct maker maker = {.packed = packed, .how = how, .first = first, .rows = rows};
    enum dd_status status = maker_init(&maker, err);
    for (int copy = 0; status == DD_OK && copy < how->copies; copy++) {
        for (uint32_t r = 0; status == DD_OK && r < rows; r++) {
            if (r % ROWS_BETWEEN_LOOKS == 0 && dd_cancel_requested(cancel) != DD_STOP_NONE) {
                status = dd_fail(err, DD_STOPPED, "stopped", "stopped while augmenting");
            } else {
                status = make_copy(&maker, first + r, copy, err);
            }
        }
    }
    maker_release(&maker);
    return status;
}
