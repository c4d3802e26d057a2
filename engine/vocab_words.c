/* vocab_words: see vocab.h.  Thread: one per object. */
#include "engine/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "engine/words.h"

#define POOL_MAX ((size_t)1 << 28) /* numbers: 1 GiB */

enum dd_status dd_sequences_init(struct dd_sequences *sequences, struct dd_error *err) {
    memset(sequences, 0, sizeof *sequences);
    sequences->mask = 1023;
    sequences->slots = dd_calloc(sequences->mask + 1, sizeof *sequences->slots);
    if (!sequences->slots) {
        return dd_fail_memory(err, (sequences->mask + 1) * sizeof *sequences->slots);
    }
    return dd_random_bytes(&sequences->seed, sizeof sequences->seed, err);
}

void dd_sequences_release(struct dd_sequences *sequences) {
    free(sequences->pool);
    free(sequences->items);
    free(sequences->slots);
    memset(sequences, 0, sizeof *sequences);
}

static size_t find_slot(const struct dd_sequences *sequences, const uint32_t *numbers, size_t len) {
    uint64_t hash = sequences->seed;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ numbers[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    hash *= 0xBF58476D1CE4E5B9u;
    for (size_t at = (size_t)(hash ^ hash >> 32) & sequences->mask;; at = (at + 1) & sequences->mask) {
        if (sequences->slots[at] == 0) {
            return at;
        }
        const struct dd_sequence *item = &sequences->items[sequences->slots[at] - 1];
        if (item->len == len && memcmp(sequences->pool + item->at, numbers, len * sizeof *numbers) == 0) {
            return at;
        }
    }
}

size_t dd_sequences_find(const struct dd_sequences *sequences, const uint32_t *numbers, size_t len) {
    size_t slot = find_slot(sequences, numbers, len);
    return sequences->slots[slot] == 0 ? SIZE_MAX : sequences->slots[slot] - 1;
}

static enum dd_status grow_slots(struct dd_sequences *sequences, struct dd_error *err) {
    size_t size = (sequences->mask + 1) * 2;
    uint32_t *slots = dd_calloc(size, sizeof *slots);
    if (!slots) {
        return dd_fail_memory(err, size * sizeof *slots);
    }
    free(sequences->slots);
    sequences->slots = slots;
    sequences->mask = size - 1;
    for (size_t i = 0; i < sequences->count; i++) {
        const struct dd_sequence *item = &sequences->items[i];
        slots[find_slot(sequences, sequences->pool + item->at, item->len)] = (uint32_t)i + 1;
    }
    return DD_OK;
}

/* Room for one more sequence of this length. */
static enum dd_status reserve(struct dd_sequences *sequences, size_t len, struct dd_error *err) {
    if (sequences->count == sequences->cap) {
        size_t cap = DD_MAX((size_t)1024, sequences->cap * 2);
        struct dd_sequence *items = dd_realloc_array(sequences->items, cap, sizeof *items);
        if (!items) {
            return dd_fail_memory(err, cap * sizeof *items);
        }
        sequences->items = items;
        sequences->cap = cap;
    }
    if (len > sequences->pool_cap - sequences->pool_len) {
        size_t cap = DD_MAX(sequences->pool_len + len, DD_MAX((size_t)8192, sequences->pool_cap * 2));
        uint32_t *pool = cap <= POOL_MAX ? dd_realloc_array(sequences->pool, cap, sizeof *pool) : NULL;
        if (!pool) {
            return dd_fail_memory(err, cap * sizeof *pool);
        }
        sequences->pool = pool;
        sequences->pool_cap = cap;
    }
    return (sequences->count + 1) * 2 > sequences->mask ? grow_slots(sequences, err) : DD_OK;
}

enum dd_status dd_sequences_intern(struct dd_sequences *sequences, const uint32_t *numbers, size_t len,
                                   size_t *ret_index, struct dd_error *err) {
    size_t slot = find_slot(sequences, numbers, len);
    if (sequences->slots[slot] == 0) {
        enum dd_status status = reserve(sequences, len, err);
        if (status) {
            return status;
        }
        slot = find_slot(sequences, numbers, len);
        sequences->items[sequences->count] = (struct dd_sequence){.at = sequences->pool_len, .len = (uint32_t)len};
        memcpy(sequences->pool + sequences->pool_len, numbers, len * sizeof *numbers);
        sequences->pool_len += len;
        sequences->slots[slot] = (uint32_t)++sequences->count;
    }
    *ret_index = sequences->slots[slot] - 1;
    return DD_OK;
}

/* --- counting ---------------------------------------------------------------- */

void dd_word_counts_release(struct dd_word_counts *counts) {
    dd_sequences_release(&counts->words);
    free(counts->counts);
    memset(counts, 0, sizeof *counts);
}

static enum dd_status add_word(struct dd_word_counts *counts, const uint32_t *chars, size_t len, uint64_t times,
                               struct dd_error *err) {
    size_t index = 0;
    enum dd_status status = dd_sequences_intern(&counts->words, chars, len, &index, err);
    if (status) {
        return status;
    }
    if (index >= counts->cap) {
        size_t cap = DD_MAX((size_t)1024, counts->cap * 2);
        uint64_t *numbers = dd_realloc_array(counts->counts, cap, sizeof *numbers);
        if (!numbers) {
            return dd_fail_memory(err, cap * sizeof *numbers);
        }
        memset(numbers + counts->cap, 0, (cap - counts->cap) * sizeof *numbers);
        counts->counts = numbers;
        counts->cap = cap;
    }
    counts->counts[index] += times;
    return DD_OK;
}

/* Drops the rarest words until a quarter of the room is free. */
static enum dd_status prune(struct dd_word_counts *counts, struct dd_error *err) {
    while (counts->words.count > DD_WORDS_MAX / 4 * 3 || counts->words.pool_len > DD_WORDS_CHARS_MAX / 4 * 3) {
        counts->pruned = DD_MAX(counts->pruned * 2, (uint64_t)1);
        struct dd_word_counts kept = {.pruned = counts->pruned};
        enum dd_status status = dd_sequences_init(&kept.words, err);
        for (size_t i = 0; i < counts->words.count && !status; i++) {
            const struct dd_sequence *word = &counts->words.items[i];
            if (counts->counts[i] > counts->pruned) {
                status = add_word(&kept, counts->words.pool + word->at, word->len, counts->counts[i], err);
            }
        }
        if (status) {
            dd_word_counts_release(&kept);
            return status;
        }
        dd_word_counts_release(counts);
        *counts = kept;
    }
    return DD_OK;
}

static enum dd_status count_text(struct dd_word_counts *counts, const struct dd_tokenizer_options *options,
                                 const char *text, size_t bytes, struct dd_error *err) {
    struct dd_words words;
    dd_words_init(&words, options, text, bytes);
    enum dd_status status = DD_OK;
    while (!status && dd_words_next(&words)) {
        if (words.too_long) {
            continue;
        }
        status = add_word(counts, words.chars, (size_t)words.count, 1, err);
        if (!status && (counts->words.count > DD_WORDS_MAX || counts->words.pool_len > DD_WORDS_CHARS_MAX)) {
            status = prune(counts, err);
        }
    }
    return status;
}

static enum dd_status count_split(struct dd_word_counts *counts, const struct dd_dataset *dataset, enum dd_split split,
                                  const struct dd_tokenizer_options *options, struct dd_error *err) {
    enum dd_status status = DD_OK;
    for (uint64_t i = 0; i < dd_dataset_rows(dataset, split) && !status; i++) {
        struct dd_row row;
        dd_dataset_row(dataset, split, i, &row);
        status = count_text(counts, options, row.text, row.text_bytes, err);
        if (!status && row.pair) {
            status = count_text(counts, options, row.pair, row.pair_bytes, err);
        }
    }
    return status;
}

enum dd_status dd_word_counts_new(const struct dd_dataset *dataset, bool unlabelled,
                                  const struct dd_tokenizer_options *options, struct dd_word_counts *ret_counts,
                                  struct dd_error *err) {
    struct dd_word_counts counts = {0};
    enum dd_status status = dd_sequences_init(&counts.words, err);
    if (!status) {
        status = count_split(&counts, dataset, DD_SPLIT_TRAIN, options, err);
    }
    if (!status && unlabelled) {
        status = count_split(&counts, dataset, DD_SPLIT_UNLABELLED, options, err);
    }
    if (status) {
        dd_word_counts_release(&counts);
        return status;
    }
    *ret_counts = counts;
    return DD_OK;
}
