/* folds: which fold of a data set each train row belongs to.
 *
 * The data set and the number of folds alone decide it, so teachers that were trained apart, at any time and with any
 * seed, agree.  Rows are dealt out class by class in an order that Philox draws, as cards are: folds differ by one row
 * at most, in all and in each class.  Rows with the same text (and pair) go where the first of them went, so that what
 * is held out stands nowhere else in the train split; with many of them folds may be less even.
 *
 * Threads: pure functions, any thread.  Memory: 16 bytes a row while it works.
 */
#include "engine/nn.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct keyed {
    uint64_t key; /* of the text: two texts with one key only share a fold */
    uint32_t row;
};

static int by_key(const void *a, const void *b) {
    const struct keyed *x = a, *y = b;
    if (x->key != y->key) {
        return x->key < y->key ? -1 : 1;
    }
    return (x->row > y->row) - (x->row < y->row);
}

static uint64_t key_of(struct dd_sha256 *hash, const struct dd_row *row) {
    uint8_t digest[DD_SHA256_BYTES];
    uint64_t bytes[2] = {row->text_bytes, row->pair ? row->pair_bytes : UINT64_MAX}, key;
    dd_sha256_update(hash, bytes, sizeof bytes);
    dd_sha256_update(hash, row->text, row->text_bytes);
    if (row->pair) {
        dd_sha256_update(hash, row->pair, row->pair_bytes);
    }
    dd_sha256_digest(hash, digest);
    memcpy(&key, digest, sizeof key);
    return key;
}

/* first [rows] = the first row with the same text. */
static enum dd_status find_first(const struct dd_dataset *dataset, uint32_t rows, uint32_t *first,
                                 struct dd_error *err) {
    struct keyed *keyed = dd_calloc(rows, sizeof *keyed);
    struct dd_sha256 *hash = dd_sha256_new();
    if (!keyed || !hash) {
        free(keyed);
        dd_sha256_free(hash);
        return dd_fail_memory(err, rows * sizeof *keyed);
    }
    for (uint32_t r = 0; r < rows; r++) {
        struct dd_row row;
        dd_dataset_row(dataset, DD_SPLIT_TRAIN, r, &row);
        keyed[r] = (struct keyed){key_of(hash, &row), r};
    }
    qsort(keyed, rows, sizeof *keyed, by_key);
    for (uint32_t i = 0; i < rows; i++) {
        bool again = i > 0 && keyed[i].key == keyed[i - 1].key;
        first[keyed[i].row] = again ? first[keyed[i - 1].row] : keyed[i].row;
    }
    free(keyed);
    dd_sha256_free(hash);
    return DD_OK;
}

static int32_t label_of(const struct dd_dataset *dataset, uint32_t row) {
    struct dd_row values;
    dd_dataset_row(dataset, DD_SPLIT_TRAIN, row, &values);
    assert(values.label >= 0 && values.label < DD_MAX_CLASSES);
    return values.label;
}

/* fold [rows] of the rows that are the first with their text; order: a permutation of all rows. */
static void deal(const struct dd_dataset *dataset, int folds, uint32_t rows, const uint32_t *first,
                 const uint32_t *order, uint8_t *fold) {
    uint64_t next[DD_MAX_CLASSES + 1] = {0}; /* the place of a class's next card */
    for (uint32_t r = 0; r < rows; r++) {
        next[label_of(dataset, r) + 1] += first[r] == r;
    }
    for (int c = 0; c < DD_MAX_CLASSES; c++) {
        next[c + 1] += next[c];
    }
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t r = order[i];
        if (first[r] == r) {
            fold[r] = (uint8_t)(next[label_of(dataset, r)]++ % (uint64_t)folds);
        }
    }
}

enum dd_status dd_folds_of(const struct dd_dataset *dataset, int folds, uint8_t **ret_fold, struct dd_error *err) {
    assert(folds >= 2 && folds <= DD_MAX_FOLDS);
    uint64_t count = dd_dataset_rows(dataset, DD_SPLIT_TRAIN);
    if (count > UINT32_MAX - 1) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_too_large", "the train split has %llu rows; the most is %u",
                       (unsigned long long)count, UINT32_MAX - 1);
    }
    uint32_t rows = (uint32_t)count;
    uint32_t *first = dd_calloc(rows, sizeof *first), *order = dd_calloc(rows, sizeof *order);
    uint8_t *fold = dd_calloc(rows, sizeof *fold);
    enum dd_status status =
        first && order && fold ? find_first(dataset, rows, first, err) : dd_fail_memory(err, rows * sizeof *first);
    if (status == DD_OK) {
        const struct dd_stream stream = {.purpose = DD_PURPOSE_FOLDS, .step = (uint64_t)folds};
        dd_random_permutation(&stream, order, rows);
        deal(dataset, folds, rows, first, order, fold);
        for (uint32_t r = 0; r < rows; r++) {
            fold[r] = fold[first[r]];
        }
    }
    free(first);
    free(order);
    if (status != DD_OK) {
        free(fold);
        return status;
    }
    *ret_fold = fold;
    return DD_OK;
}
