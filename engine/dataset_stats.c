/* dataset_stats: lengths and duplicates (see dataset.h).
 * Thread: one per object.
 * Memory: a counter per length that occurs up to the longest; 16 bytes a row for the hashes.
 */
#include "engine/dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_MAX ((size_t)1 << 24)

void dd_lengths_init(struct dd_lengths *lengths) {
    memset(lengths, 0, sizeof *lengths);
}

void dd_lengths_release(struct dd_lengths *lengths) {
    free(lengths->counts);
    dd_lengths_init(lengths);
}

enum dd_status dd_lengths_add(struct dd_lengths *lengths, size_t length, struct dd_error *err) {
    if (length > LENGTH_MAX) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_row_too_long", "a row has a length of %zu, at most %zu is counted",
                       length, LENGTH_MAX);
    }
    if (length >= lengths->cap) {
        size_t cap = DD_MAX(length + 1, DD_MAX((size_t)256, lengths->cap * 2));
        uint64_t *counts = dd_realloc_array(lengths->counts, cap, sizeof *counts);
        if (!counts) {
            return dd_fail_memory(err, cap * sizeof *counts);
        }
        memset(counts + lengths->cap, 0, (cap - lengths->cap) * sizeof *counts);
        lengths->counts = counts;
        lengths->cap = cap;
    }
    lengths->counts[length]++;
    lengths->rows++;
    lengths->sum += length;
    return DD_OK;
}

/* The smallest length that at least a share of the rows does not exceed (nearest rank). */
static int64_t percentile(const struct dd_lengths *lengths, uint64_t percent) {
    uint64_t rank = DD_MAX((lengths->rows * percent + 99) / 100, (uint64_t)1), seen = 0;
    for (size_t i = 0; i < lengths->cap; i++) {
        seen += lengths->counts[i];
        if (seen >= rank) {
            return (int64_t)i;
        }
    }
    return 0;
}

struct dd_length_stats dd_lengths_stats(const struct dd_lengths *lengths) {
    struct dd_length_stats stats = {0};
    if (lengths->rows == 0) {
        return stats;
    }
    stats.mean = (double)lengths->sum / (double)lengths->rows;
    stats.min = percentile(lengths, 0);
    stats.p50 = percentile(lengths, 50);
    stats.p95 = percentile(lengths, 95);
    stats.max = percentile(lengths, 100);
    return stats;
}

void dd_hashes_init(struct dd_hashes *hashes) {
    memset(hashes, 0, sizeof *hashes);
}

void dd_hashes_release(struct dd_hashes *hashes) {
    free(hashes->items);
    dd_hashes_init(hashes);
}

enum dd_status dd_hashes_add(struct dd_hashes *hashes, const void *bytes, size_t count, struct dd_error *err) {
    if (hashes->count == hashes->cap) {
        size_t cap = DD_MAX((size_t)1024, hashes->cap * 2);
        struct dd_row_hash *items = dd_realloc_array(hashes->items, cap, sizeof *items);
        if (!items) {
            return dd_fail_memory(err, cap * sizeof *items);
        }
        hashes->items = items;
        hashes->cap = cap;
    }
    uint8_t digest[DD_SHA256_BYTES];
    dd_sha256_bytes(bytes, count, digest);
    memcpy(&hashes->items[hashes->count++], digest, sizeof *hashes->items);
    return DD_OK;
}

static int compare(const void *a, const void *b) {
    const struct dd_row_hash *x = a, *y = b;
    if (x->high != y->high) {
        return x->high < y->high ? -1 : 1;
    }
    return x->low < y->low ? -1 : x->low > y->low;
}

void dd_hashes_sort(struct dd_hashes *hashes) {
    if (hashes->count > 0) {
        qsort(hashes->items, hashes->count, sizeof *hashes->items, compare);
    }
    hashes->distinct = hashes->count > 0;
    for (size_t i = 1; i < hashes->count; i++) {
        hashes->distinct += compare(&hashes->items[i - 1], &hashes->items[i]) != 0;
    }
}

uint64_t dd_hashes_common(const struct dd_hashes *a, const struct dd_hashes *b) {
    uint64_t common = 0;
    for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
        int order = compare(&a->items[i], &b->items[j]);
        common += order == 0;
        if (order > 0) {
            j++;
        } else {
            i++;
        }
    }
    return common;
}
