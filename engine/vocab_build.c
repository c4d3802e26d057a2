/* vocab_build: a WordPiece vocabulary from the training split.
 * Thread: one per call.
 *
 * 1. Words are counted as the tokenizer sees them (words.h).
 * 2. Base pieces are the characters in use: as the first of a word ("a") and as a later one ("##a"), the more frequent
 *    first, ties by code point; letters get both forms, so that a word never seen is still not [UNK].
 * 3. Byte-pair merges: the pair of neighbouring pieces with the highest count becomes one piece, until the vocabulary
 * is full or no pair occurs twice; ties go to the pair whose pieces are older.  What is merged into a piece that exists
 *    already ("ab"+"##c", "a"+"##bc") is that piece.
 *
 * Counts of pairs are kept up to date: a merge visits only the words that hold its pair, through a list kept with each
 * pair.  A heap holds (count, pair) as they were when pushed; an outdated entry is pushed again when it comes up.
 * Memory is bounded by the caps of vocab.h: a word of n characters costs at most 3 n list entries in all.
 * Deterministic: nothing depends on hash order, on addresses or on the order of rows.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"
#include "engine/vocab.h"
#include "engine/words.h"

#define VOCAB_SIZE_MAX (1 << 20)
static const char *const special_tokens[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
#define N_SPECIAL ((int)DD_ARRAY_LEN(special_tokens))

struct word {
    size_t at; /* of symbols */
    uint32_t len;
    uint32_t merged; /* last merge that visited it */
    uint64_t count;
};
struct pair {
    uint64_t count;
    uint64_t queued; /* no less than the count: an entry of this count is in the heap; 0: none is known */
    uint32_t *words; /* owned: indices of words that hold or held it; may repeat */
    uint32_t n_words, words_cap;
    uint32_t touched; /* last merge that raised it */
};
struct heap_entry {
    uint64_t count;
    uint32_t pair;
};
struct builder {
    struct dd_tokenizer_options options;
    size_t max_pieces;
    struct dd_sequences pieces; /* 0 or 1 (continues a word), then its code points */
    struct word *words;         /* owned */
    size_t n_words;
    uint32_t *symbols;             /* owned: pieces of all words */
    struct dd_sequences pair_keys; /* {left, right} */
    struct pair *pairs;            /* owned, by index of pair_keys */
    size_t pairs_cap;
    struct heap_entry *heap; /* owned */
    size_t n_heap, heap_cap;
    uint32_t *raised; /* owned: pairs raised by the running merge */
    size_t n_raised, raised_cap;
    uint32_t merge; /* number of the running merge, from 1 */
};

/* Grows *array of elements of `size` bytes so that it holds `count`. */
static enum dd_status grow(void *array, size_t *cap, size_t count, size_t size, struct dd_error *err) {
    if (count <= *cap) {
        return DD_OK;
    }
    size_t wanted = DD_MAX(count, DD_MAX((size_t)64, *cap * 2));
    void *old, *bigger;
    memcpy(&old, array, sizeof old);
    bigger = dd_realloc_array(old, wanted, size);
    if (!bigger) {
        (void)dd_fail_memory(err, wanted * size);
        return DD_NO_MEMORY;
    }
    memset((char *)bigger + *cap * size, 0, (wanted - *cap) * size);
    memcpy(array, &bigger, sizeof bigger);
    *cap = wanted;
    return DD_OK;
}

/* --- base pieces ------------------------------------------------------------- */

struct base {
    uint32_t c;
    uint32_t continues;
    uint64_t count;
};

static int compare_base(const void *a, const void *b) {
    const struct base *x = a, *y = b;
    if (x->count != y->count) {
        return x->count > y->count ? -1 : 1;
    }
    if (x->c != y->c) {
        return x->c < y->c ? -1 : 1;
    }
    return (int)x->continues - (int)y->continues;
}

/* Whether a character can stand inside a word; ideographs and punctuation are words of their own. */
static bool joins(const struct builder *builder, uint32_t c) {
    unsigned flags = dd_char_class(c);
    return !(flags & DD_CHAR_PUNCTUATION) && !((flags & DD_CHAR_CJK) && builder->options.tokenize_chinese_chars);
}

/* counts [2][DD_CHAR_LAST + 1]: how often each character begins and continues words. */
static void count_chars(const struct dd_word_counts *words, uint64_t *counts) {
    for (size_t i = 0; i < words->words.count; i++) {
        const struct dd_sequence *word = &words->words.items[i];
        for (uint32_t j = 0; j < word->len; j++) {
            counts[(j > 0 ? DD_CHAR_LAST + 1 : 0) + words->words.pool[word->at + j]] += words->counts[i];
        }
    }
}

static enum dd_status add_base_pieces(struct builder *builder, const struct dd_word_counts *words,
                                      struct dd_error *err) {
    const size_t n_chars = DD_CHAR_LAST + 1;
    DD_CLEANUP(dd_free_ptr) uint64_t *counts = dd_calloc(2 * n_chars, sizeof *counts);
    DD_CLEANUP(dd_free_ptr) struct base *base = NULL;
    size_t n_base = 0, cap = 0;
    if (!counts) {
        return dd_fail_memory(err, 2 * n_chars * sizeof *counts);
    }
    count_chars(words, counts);
    enum dd_status status = DD_OK;
    for (size_t c = 0; c < n_chars && !status; c++) {
        uint64_t first = counts[c], later = counts[n_chars + c];
        if (first == 0 && later == 0) {
            continue;
        }
        status = grow(&base, &cap, n_base + 2, sizeof *base, err);
        if (status) {
            break;
        }
        base[n_base++] = (struct base){.c = (uint32_t)c, .continues = 0, .count = first};
        if (later > 0 || joins(builder, (uint32_t)c)) {
            base[n_base++] = (struct base){.c = (uint32_t)c, .continues = 1, .count = later};
        }
    }
    if (!status && n_base > 0) {
        qsort(base, n_base, sizeof *base, compare_base);
    }
    for (size_t i = 0; i < n_base && builder->pieces.count < builder->max_pieces && !status; i++) {
        uint32_t piece[2] = {base[i].continues, base[i].c};
        size_t index;
        status = dd_sequences_intern(&builder->pieces, piece, 2, &index, err);
    }
    return status;
}

/* The words as base pieces; those with a character that found no room are left out. */
static enum dd_status add_words(struct builder *builder, const struct dd_word_counts *counts, struct dd_error *err) {
    const struct dd_sequences *sequences = &counts->words;
    size_t used = 0;
    builder->words = dd_calloc(sequences->count, sizeof *builder->words);
    builder->symbols = dd_calloc(sequences->pool_len, sizeof *builder->symbols);
    if (!builder->words || !builder->symbols) {
        return dd_fail_memory(err, sequences->count * sizeof *builder->words);
    }
    for (size_t i = 0; i < sequences->count; i++) {
        const struct dd_sequence *sequence = &sequences->items[i];
        uint32_t j = 0;
        for (; j < sequence->len; j++) {
            uint32_t piece[2] = {j > 0, sequences->pool[sequence->at + j]};
            size_t index = dd_sequences_find(&builder->pieces, piece, 2);
            if (index == SIZE_MAX) {
                break;
            }
            builder->symbols[used + j] = (uint32_t)index;
        }
        if (j == sequence->len) {
            builder->words[builder->n_words++] =
                (struct word){.at = used, .len = sequence->len, .count = counts->counts[i]};
            used += sequence->len;
        }
    }
    return DD_OK;
}

/* --- pairs and their heap ---------------------------------------------------- */

static const uint32_t *pair_key(const struct builder *builder, uint32_t pair) {
    return builder->pair_keys.pool + builder->pair_keys.items[pair].at;
}

/* Whether a comes before b. */
static bool before(const struct builder *builder, struct heap_entry a, struct heap_entry b) {
    if (a.count != b.count) {
        return a.count > b.count;
    }
    const uint32_t *x = pair_key(builder, a.pair), *y = pair_key(builder, b.pair);
    return x[0] != y[0] ? x[0] < y[0] : x[1] < y[1];
}

static enum dd_status heap_push(struct builder *builder, uint32_t pair, struct dd_error *err) {
    enum dd_status status = grow(&builder->heap, &builder->heap_cap, builder->n_heap + 1, sizeof *builder->heap, err);
    if (status) {
        return status;
    }
    struct heap_entry entry = {.count = builder->pairs[pair].count, .pair = pair};
    builder->pairs[pair].queued = entry.count;
    size_t at = builder->n_heap++;
    for (; at > 0 && before(builder, entry, builder->heap[(at - 1) / 2]); at = (at - 1) / 2) {
        builder->heap[at] = builder->heap[(at - 1) / 2];
    }
    builder->heap[at] = entry;
    return DD_OK;
}

static struct heap_entry heap_pop(struct builder *builder) {
    struct heap_entry top = builder->heap[0], last = builder->heap[--builder->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= builder->n_heap) {
            break;
        }
        if (child + 1 < builder->n_heap && before(builder, builder->heap[child + 1], builder->heap[child])) {
            child++;
        }
        if (!before(builder, builder->heap[child], last)) {
            break;
        }
        builder->heap[at] = builder->heap[child];
        at = child;
    }
    if (builder->n_heap > 0) {
        builder->heap[at] = last;
    }
    if (builder->pairs[top.pair].queued == top.count) {
        builder->pairs[top.pair].queued = 0;
    }
    return top;
}

/* listed: the pair's list has this word already. */
static enum dd_status raise_pair(struct builder *builder, uint32_t left, uint32_t right, size_t word, bool listed,
                                 struct dd_error *err) {
    uint32_t key[2] = {left, right};
    size_t index = 0;
    enum dd_status status = dd_sequences_intern(&builder->pair_keys, key, 2, &index, err);
    if (!status) {
        status = grow(&builder->pairs, &builder->pairs_cap, index + 1, sizeof *builder->pairs, err);
    }
    if (status) {
        return status;
    }
    struct pair *pair = &builder->pairs[index];
    pair->count += builder->words[word].count;
    if (pair->touched != builder->merge) {
        pair->touched = builder->merge;
        status = grow(&builder->raised, &builder->raised_cap, builder->n_raised + 1, sizeof *builder->raised, err);
        if (status) {
            return status;
        }
        builder->raised[builder->n_raised++] = (uint32_t)index;
    }
    if (listed || (pair->n_words > 0 && pair->words[pair->n_words - 1] == word)) {
        return DD_OK;
    }
    size_t cap = pair->words_cap;
    status = grow(&pair->words, &cap, (size_t)pair->n_words + 1, sizeof *pair->words, err);
    if (!status) {
        pair->words_cap = (uint32_t)cap;
        pair->words[pair->n_words++] = (uint32_t)word;
    }
    return status;
}

/* The pair must exist. */
static void lower_pair(struct builder *builder, uint32_t left, uint32_t right, uint64_t count) {
    uint32_t key[2] = {left, right};
    builder->pairs[dd_sequences_find(&builder->pair_keys, key, 2)].count -= count;
}

static enum dd_status push_raised(struct builder *builder, struct dd_error *err) {
    enum dd_status status = DD_OK;
    for (size_t i = 0; i < builder->n_raised && !status; i++) {
        const struct pair *pair = &builder->pairs[builder->raised[i]];
        status = pair->count > pair->queued ? heap_push(builder, builder->raised[i], err) : DD_OK;
    }
    builder->n_raised = 0;
    return status;
}

/* --- merging ----------------------------------------------------------------- */

static enum dd_status merge_word(struct builder *builder, size_t index, uint32_t left, uint32_t right, uint32_t piece,
                                 struct dd_error *err) {
    struct word *word = &builder->words[index];
    uint32_t *symbols = builder->symbols + word->at, len = 0;
    if (word->merged == builder->merge) {
        return DD_OK;
    }
    word->merged = builder->merge;
    for (uint32_t i = 0; i + 1 < word->len; i++) {
        lower_pair(builder, symbols[i], symbols[i + 1], word->count);
    }
    for (uint32_t i = 0; i < word->len; len++) {
        bool here = i + 1 < word->len && symbols[i] == left && symbols[i + 1] == right;
        symbols[len] = here ? piece : symbols[i];
        i += here ? 2 : 1;
    }
    word->len = len;
    for (uint32_t i = 0; i + 1 < len; i++) {
        bool listed = symbols[i] != piece && symbols[i + 1] != piece;
        enum dd_status status = raise_pair(builder, symbols[i], symbols[i + 1], index, listed, err);
        if (status) {
            return status;
        }
    }
    return DD_OK;
}

/* The piece that two make, new or old. */
static enum dd_status join(struct builder *builder, uint32_t left, uint32_t right, size_t *ret_piece,
                           struct dd_error *err) {
    uint32_t joined[1 + DD_WORD_CHARS];
    const struct dd_sequence *a = &builder->pieces.items[left], *b = &builder->pieces.items[right];
    memcpy(joined, builder->pieces.pool + a->at, a->len * sizeof *joined);
    memcpy(joined + a->len, builder->pieces.pool + b->at + 1, (b->len - 1) * sizeof *joined);
    return dd_sequences_intern(&builder->pieces, joined, a->len + b->len - 1, ret_piece, err);
}

static enum dd_status merge_pair(struct builder *builder, uint32_t pair, struct dd_error *err) {
    uint32_t left = pair_key(builder, pair)[0], right = pair_key(builder, pair)[1];
    size_t piece = 0;
    enum dd_status status = join(builder, left, right, &piece, err);
    if (status) {
        return status;
    }
    builder->merge++;
    uint32_t *words = builder->pairs[pair].words, n_words = builder->pairs[pair].n_words;
    builder->pairs[pair].words = NULL; /* nothing holds it any more, unless a later merge brings it back */
    builder->pairs[pair].n_words = builder->pairs[pair].words_cap = 0;
    for (uint32_t i = 0; i < n_words && !status; i++) {
        status = merge_word(builder, words[i], left, right, (uint32_t)piece, err);
    }
    free(words);
    return status ? status : push_raised(builder, err);
}

static enum dd_status merge_all(struct builder *builder, struct dd_error *err) {
    enum dd_status status = DD_OK;
    builder->merge = 1;
    for (size_t i = 0; i < builder->n_words && !status; i++) {
        const struct word *word = &builder->words[i];
        const uint32_t *symbols = builder->symbols + word->at;
        for (uint32_t j = 0; j + 1 < word->len && !status; j++) {
            status = raise_pair(builder, symbols[j], symbols[j + 1], i, false, err);
        }
    }
    if (!status) {
        status = push_raised(builder, err);
    }
    while (!status && builder->n_heap > 0 && builder->pieces.count < builder->max_pieces) {
        struct heap_entry top = heap_pop(builder);
        uint64_t count = builder->pairs[top.pair].count;
        if (count < 2) {
            continue;
        }
        status = count == top.count ? merge_pair(builder, top.pair, err) : heap_push(builder, top.pair, err);
    }
    return status;
}

/* --- the whole --------------------------------------------------------------- */

static void builder_release(struct builder *builder) {
    for (size_t i = 0; i < builder->pairs_cap; i++) {
        free(builder->pairs[i].words);
    }
    free(builder->pairs);
    free(builder->words);
    free(builder->symbols);
    free(builder->heap);
    free(builder->raised);
    dd_sequences_release(&builder->pieces);
    dd_sequences_release(&builder->pair_keys);
}

static enum dd_status build_pieces(struct builder *builder, const struct dd_dataset *dataset, struct dd_error *err) {
    struct dd_word_counts counts;
    enum dd_status status = dd_word_counts_new(dataset, false, &builder->options, &counts, err);
    if (status) {
        return status;
    }
    status = dd_sequences_init(&builder->pieces, err);
    if (!status) {
        status = dd_sequences_init(&builder->pair_keys, err);
    }
    if (!status) {
        status = add_base_pieces(builder, &counts, err);
    }
    if (!status) {
        status = add_words(builder, &counts, err);
    }
    dd_word_counts_release(&counts);
    return status ? status : merge_all(builder, err);
}

static void print_vocab(const struct builder *builder, struct dd_buffer *out) {
    for (int i = 0; i < N_SPECIAL; i++) {
        dd_buffer_puts(out, special_tokens[i]);
        dd_buffer_putc(out, '\n');
    }
    for (size_t i = 0; i < DD_MIN(builder->pieces.count, builder->max_pieces); i++) {
        const struct dd_sequence *piece = &builder->pieces.items[i];
        const uint32_t *chars = builder->pieces.pool + piece->at;
        if (chars[0]) {
            dd_buffer_puts(out, "##");
        }
        for (uint32_t j = 1; j < piece->len; j++) {
            char bytes[4];
            dd_buffer_append(out, bytes, dd_utf8_put(bytes, chars[j]));
        }
        dd_buffer_putc(out, '\n');
    }
}

enum dd_status dd_vocab_build(const struct dd_dataset *dataset, const struct dd_tokenizer_options *options,
                              int vocab_size, char **ret_vocab, size_t *ret_bytes, struct dd_error *err) {
    if (vocab_size <= N_SPECIAL || vocab_size > VOCAB_SIZE_MAX) {
        return dd_fail(err, DD_INVALID, "vocab_size", "vocab_size must be between %d and %d, got %d", N_SPECIAL + 1,
                       VOCAB_SIZE_MAX, vocab_size);
    }
    struct builder builder = {.options = *options, .max_pieces = (size_t)(vocab_size - N_SPECIAL)};
    struct dd_buffer out;
    dd_buffer_init(&out, (size_t)64 << 20);
    enum dd_status status = build_pieces(&builder, dataset, err);
    if (!status) {
        print_vocab(&builder, &out);
        status = dd_buffer_check(&out, err);
    }
    if (!status) {
        *ret_vocab = dd_buffer_take(&out, ret_bytes);
    }
    dd_buffer_release(&out);
    builder_release(&builder);
    return status;
}
