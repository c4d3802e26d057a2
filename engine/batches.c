/* batches: the rows of a split as token ids, tokenised once, and packed batches gathered from them.
 *
 * Packing works in waves of WAVE_ROWS rows, so that the scratch is bounded whatever the number of rows: the team
 * tokenises a wave in chunks of CHUNK_ROWS rows into fixed slots of max_length ids, then the caller's thread appends
 * the wave in row order.  The result does not depend on the number of threads.
 */
#include "engine/train.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_ROWS 32
#define WAVE_ROWS 2048

void dd_progress_report(const struct dd_progress *progress, double done) {
    if (progress && progress->events && progress->events->phase) {
        double at = progress->from + (progress->to - progress->from) * done;
        progress->events->phase(progress->events->context, progress->phase, at);
    }
}

/* --- packing ---------------------------------------------------------------------------------------------------- */

struct wave {
    const struct dd_row_source *source;
    const struct dd_tokenizer *tokenizer;
    int max_length;
    bool one_segment; /* the model has no second one */
    uint64_t first;   /* row of the split */
    int rows;
    int32_t *ids;      /* [WAVE_ROWS, max_length] */
    uint8_t *segments; /* same */
    int *counts;       /* [WAVE_ROWS] */
    int32_t *labels;   /* [WAVE_ROWS] */
    atomic_int failed; /* enum dd_status of a chunk that failed */
};

static void wave_chunk(void *context, int chunk) {
    struct wave *wave = context;
    int begin = chunk * CHUNK_ROWS, end = DD_MIN(begin + CHUNK_ROWS, wave->rows);
    for (int r = begin; r < end; r++) {
        struct dd_row row;
        wave->source->row(wave->source->context, wave->first + (uint64_t)r, &row);
        size_t slot = (size_t)r * (size_t)wave->max_length;
        enum dd_status status = DD_OK;
        if (row.pair && wave->one_segment) {
            status = DD_INVALID;
        } else {
            status =
                dd_tokenizer_encode(wave->tokenizer, row.text, row.text_bytes, row.pair, row.pair_bytes,
                                    wave->max_length, wave->ids + slot, wave->segments + slot, &wave->counts[r], NULL);
        }
        wave->labels[r] = row.label;
        if (status != DD_OK) {
            atomic_store(&wave->failed, (int)status);
            return;
        }
    }
}

static void wave_release(struct wave *wave) {
    free(wave->ids);
    free(wave->segments);
    free(wave->counts);
    free(wave->labels);
}

static enum dd_status wave_init(struct wave *wave, int max_length, uint64_t rows, struct dd_error *err) {
    size_t slots = (size_t)DD_MIN(rows, (uint64_t)WAVE_ROWS), ids;
    if (!dd_size_mul(slots, (size_t)max_length, &ids)) {
        return dd_fail_memory(err, SIZE_MAX);
    }
    wave->ids = dd_calloc(ids, sizeof *wave->ids);
    wave->segments = dd_calloc(ids, sizeof *wave->segments);
    wave->counts = dd_calloc(slots, sizeof *wave->counts);
    wave->labels = dd_calloc(slots, sizeof *wave->labels);
    if (!wave->ids || !wave->segments || !wave->counts || !wave->labels) {
        return dd_fail_memory(err, ids * sizeof *wave->ids);
    }
    return DD_OK;
}

void dd_packed_release(struct dd_packed *packed) {
    free(packed->ids);
    free(packed->segments);
    free(packed->offsets);
    free(packed->labels);
    *packed = (struct dd_packed){0};
}

enum dd_status dd_packed_reserve(struct dd_packed *packed, uint64_t more, struct dd_error *err) {
    uint64_t wanted = packed->n_tokens + more;
    if (packed->ids && wanted <= packed->room) {
        return DD_OK;
    }
    uint64_t grown = DD_MAX(wanted, packed->room + packed->room / 2);
    if (grown > SIZE_MAX / sizeof *packed->ids) {
        return dd_fail_memory(err, SIZE_MAX);
    }
    int32_t *ids = dd_realloc_array(packed->ids, (size_t)grown, sizeof *ids);
    if (!ids) {
        return dd_fail_memory(err, (size_t)grown * sizeof *ids);
    }
    packed->ids = ids;
    uint8_t *segments = dd_realloc_array(packed->segments, (size_t)grown, 1);
    if (!segments) {
        return dd_fail_memory(err, (size_t)grown);
    }
    packed->segments = segments;
    packed->room = grown;
    return DD_OK;
}

enum dd_status dd_packed_reserve_rows(struct dd_packed *packed, uint64_t more, struct dd_error *err) {
    uint64_t rows = packed->rows + more;
    if (rows > UINT32_MAX - 1) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_too_large",
                       "with its augmented copies the train split has %llu rows; the most is 4294967294",
                       (unsigned long long)rows);
    }
    uint64_t *offsets = dd_realloc_array(packed->offsets, (size_t)rows + 1, sizeof *offsets);
    if (!offsets) {
        return dd_fail_memory(err, (size_t)rows * sizeof *offsets);
    }
    packed->offsets = offsets;
    int32_t *labels = dd_realloc_array(packed->labels, (size_t)rows, sizeof *labels);
    if (!labels) {
        return dd_fail_memory(err, (size_t)rows * sizeof *labels);
    }
    packed->labels = labels;
    return DD_OK;
}

static enum dd_status packed_append(struct dd_packed *packed, const struct wave *wave, struct dd_error *err) {
    uint64_t tokens = 0;
    for (int r = 0; r < wave->rows; r++) {
        tokens += (uint64_t)wave->counts[r];
    }
    enum dd_status status = dd_packed_reserve(packed, tokens, err);
    if (status != DD_OK) {
        return status;
    }
    for (int r = 0; r < wave->rows; r++) {
        size_t count = (size_t)wave->counts[r], slot = (size_t)r * (size_t)wave->max_length;
        memcpy(packed->ids + packed->n_tokens, wave->ids + slot, count * sizeof *packed->ids);
        memcpy(packed->segments + packed->n_tokens, wave->segments + slot, count);
        packed->n_tokens += count;
        packed->labels[packed->rows] = wave->labels[r];
        packed->rows++;
        packed->offsets[packed->rows] = packed->n_tokens;
        packed->longest = DD_MAX(packed->longest, wave->counts[r]);
    }
    return DD_OK;
}

static enum dd_status pack_check(const struct dd_row_source *source, const struct dd_tokenizer *tokenizer,
                                 const struct dd_bert_config *config, int max_length, struct dd_error *err) {
    if (source->rows > UINT32_MAX - 1) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_too_large", "a split has %llu rows; the most is 4294967294",
                       (unsigned long long)source->rows);
    }
    if (dd_tokenizer_size(tokenizer) > config->vocab_size) {
        return dd_fail(err, DD_INVALID, "vocabulary_too_large",
                       "vocab.txt has %d lines, but the model's word embeddings have only %d rows",
                       dd_tokenizer_size(tokenizer), config->vocab_size);
    }
    if (max_length < 3 || max_length > config->max_positions) {
        return dd_fail(err, DD_INVALID, "max_length_invalid",
                       "max_length must be between 3 and the model's %d positions, got %d", config->max_positions,
                       max_length);
    }
    return DD_OK;
}

static enum dd_status pack_waves(struct dd_packed *packed, struct wave *wave, struct dd_team *team,
                                 const struct dd_cancel *cancel, const struct dd_progress *progress,
                                 struct dd_error *err) {
    uint64_t rows = wave->source->rows;
    for (wave->first = 0; wave->first < rows; wave->first += (uint64_t)wave->rows) {
        if (dd_cancel_requested(cancel) != DD_STOP_NONE) {
            return dd_fail(err, DD_STOPPED, "stopped", "stopped while tokenizing");
        }
        dd_team_step(team);
        wave->rows = (int)DD_MIN(rows - wave->first, (uint64_t)WAVE_ROWS);
        dd_team_for(team, (wave->rows + CHUNK_ROWS - 1) / CHUNK_ROWS, wave_chunk, wave);
        int failed = atomic_load(&wave->failed);
        if (failed == DD_INVALID) {
            return dd_fail(err, DD_INVALID, "pairs_unsupported",
                           "the data set has text pairs, but the model has only one segment (type_vocab_size 1)");
        }
        if (failed != DD_OK) {
            return dd_fail_memory(err, (size_t)wave->max_length * sizeof(int32_t));
        }
        enum dd_status status = packed_append(packed, wave, err);
        if (status != DD_OK) {
            return status;
        }
        dd_progress_report(progress, (double)(wave->first + (uint64_t)wave->rows) / (double)rows);
    }
    return DD_OK;
}

enum dd_status dd_packed_build(const struct dd_row_source *source, const struct dd_tokenizer *tokenizer,
                               const struct dd_bert_config *config, int max_length, struct dd_team *team,
                               const struct dd_cancel *cancel, const struct dd_progress *progress,
                               struct dd_packed *ret_packed, struct dd_error *err) {
    enum dd_status status = pack_check(source, tokenizer, config, max_length, err);
    if (status != DD_OK) {
        return status;
    }
    struct dd_packed packed = {0};
    struct wave wave = {
        .source = source, .tokenizer = tokenizer, .max_length = max_length, .one_segment = config->type_vocab_size < 2};
    size_t rows = (size_t)source->rows;
    packed.offsets = dd_calloc(rows + 1, sizeof *packed.offsets);
    packed.labels = dd_calloc(rows, sizeof *packed.labels);
    if (!packed.offsets || !packed.labels) {
        status = dd_fail_memory(err, rows * sizeof *packed.offsets);
    } else {
        status = wave_init(&wave, max_length, source->rows, err);
    }
    if (status == DD_OK) {
        status = pack_waves(&packed, &wave, team, cancel, progress, err);
    }
    wave_release(&wave);
    if (status != DD_OK) {
        dd_packed_release(&packed);
        return status;
    }
    *ret_packed = packed;
    return DD_OK;
}

static void split_row(const void *context, uint64_t index, struct dd_row *ret_row) {
    const struct dd_split_rows *rows = context;
    uint64_t first = rows->only ? rows->n_only : dd_dataset_rows(rows->dataset, rows->split);
    if (index < first) {
        dd_dataset_row(rows->dataset, rows->split, rows->only ? rows->only[index] : index, ret_row);
    } else {
        dd_dataset_row(rows->dataset, DD_SPLIT_UNLABELLED, index - first, ret_row);
    }
}

struct dd_row_source dd_source_of_split(const struct dd_split_rows *rows) {
    uint64_t more = rows->unlabelled ? dd_dataset_rows(rows->dataset, DD_SPLIT_UNLABELLED) : 0;
    uint64_t first = rows->only ? rows->n_only : dd_dataset_rows(rows->dataset, rows->split);
    return (struct dd_row_source){.context = rows, .row = split_row, .rows = first + more};
}

enum dd_status dd_packed_pick(const struct dd_packed *packed, const uint32_t *rows, uint32_t n,
                              struct dd_packed *ret_picked, struct dd_error *err) {
    struct dd_packed picked = {.rows = n};
    picked.offsets = dd_calloc((size_t)n + 1, sizeof *picked.offsets);
    picked.labels = dd_calloc(n, sizeof *picked.labels);
    enum dd_status status =
        picked.offsets && picked.labels ? DD_OK : dd_fail_memory(err, (size_t)n * sizeof *picked.offsets);
    for (uint32_t i = 0; status == DD_OK && i < n; i++) {
        uint64_t length = packed->offsets[rows[i] + 1] - packed->offsets[rows[i]];
        picked.offsets[i + 1] = picked.offsets[i] + length;
        picked.labels[i] = packed->labels[rows[i]];
        picked.longest = DD_MAX(picked.longest, (int)length);
    }
    if (status == DD_OK) {
        status = dd_packed_reserve(&picked, picked.offsets[n], err);
    }
    if (status != DD_OK) {
        dd_packed_release(&picked);
        return status;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t from = packed->offsets[rows[i]], length = picked.offsets[i + 1] - picked.offsets[i];
        memcpy(picked.ids + picked.offsets[i], packed->ids + from, (size_t)length * sizeof *picked.ids);
        memcpy(picked.segments + picked.offsets[i], packed->segments + from, (size_t)length);
    }
    picked.n_tokens = picked.offsets[n];
    *ret_picked = picked;
    return DD_OK;
}

enum dd_status dd_packed_part(const struct dd_packed *whole, uint32_t first, uint32_t rows, struct dd_packed *ret_part,
                              struct dd_error *err) {
    uint64_t from = whole->offsets[first];
    struct dd_packed part = {.rows = rows,
                             .n_tokens = whole->offsets[first + rows] - from,
                             .ids = whole->ids + from,
                             .segments = whole->segments + from,
                             .labels = whole->labels + first};
    part.offsets = dd_calloc((size_t)rows + 1, sizeof *part.offsets);
    if (!part.offsets) {
        return dd_fail_memory(err, (size_t)rows * sizeof *part.offsets);
    }
    for (uint32_t r = 0; r < rows; r++) {
        part.offsets[r + 1] = whole->offsets[first + r + 1] - from;
        part.longest = DD_MAX(part.longest, (int)(part.offsets[r + 1] - part.offsets[r]));
    }
    *ret_part = part;
    return DD_OK;
}

void dd_packed_part_release(struct dd_packed *part) {
    free(part->offsets);
    *part = (struct dd_packed){0};
}

enum dd_status dd_packed_digest(const struct dd_packed *packed, uint8_t out[DD_SHA256_BYTES], struct dd_error *err) {
    struct dd_sha256 *hash = dd_sha256_new();
    if (!hash) {
        return dd_fail_memory(err, 0);
    }
    uint64_t rows = packed->rows;
    dd_sha256_update(hash, &rows, sizeof rows);
    dd_sha256_update(hash, packed->offsets, ((size_t)packed->rows + 1) * sizeof *packed->offsets);
    dd_sha256_update(hash, packed->ids, (size_t)packed->n_tokens * sizeof *packed->ids);
    dd_sha256_update(hash, packed->segments, (size_t)packed->n_tokens);
    dd_sha256_digest(hash, out);
    dd_sha256_free(hash);
    return DD_OK;
}

static int row_length(const struct dd_packed *packed, uint32_t row) {
    return (int)(packed->offsets[row + 1] - packed->offsets[row]);
}

static int longest_first(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x < y) - (x > y);
}

uint64_t dd_packed_largest_batch(const struct dd_packed *packed, int batch_size) {
    uint64_t count = DD_MIN((uint64_t)batch_size, (uint64_t)packed->rows);
    int *lengths = dd_calloc(packed->rows, sizeof *lengths);
    if (!lengths) {
        return count * (uint64_t)packed->longest; /* a bound all the same */
    }
    for (uint32_t r = 0; r < packed->rows; r++) {
        lengths[r] = row_length(packed, r);
    }
    qsort(lengths, packed->rows, sizeof *lengths, longest_first);
    uint64_t tokens = 0;
    for (uint64_t i = 0; i < count; i++) {
        tokens += (uint64_t)lengths[i];
    }
    free(lengths);
    return tokens;
}

/* --- batches ---------------------------------------------------------------------------------------------------- */

enum dd_status dd_gather_init(struct dd_gather *gather, int max_tokens, int max_sequences, struct dd_error *err) {
    struct dd_gather made = {.max_tokens = max_tokens, .max_sequences = max_sequences};
    made.ids = dd_calloc((size_t)max_tokens, sizeof *made.ids);
    made.segments = dd_calloc((size_t)max_tokens, sizeof *made.segments);
    made.offsets = dd_calloc((size_t)max_sequences + 1, sizeof *made.offsets);
    made.labels = dd_calloc((size_t)max_sequences, sizeof *made.labels);
    if (!made.ids || !made.segments || !made.offsets || !made.labels) {
        dd_gather_release(&made);
        return dd_fail_memory(err, (size_t)max_tokens * sizeof *made.ids);
    }
    *gather = made;
    return DD_OK;
}

void dd_gather_release(struct dd_gather *gather) {
    free(gather->ids);
    free(gather->segments);
    free(gather->offsets);
    free(gather->labels);
    *gather = (struct dd_gather){0};
}

void dd_gather_rows(struct dd_gather *gather, const struct dd_packed *packed, const uint32_t *rows, int n) {
    int at = 0;
    for (int s = 0; s < n; s++) {
        uint64_t from = packed->offsets[rows[s]];
        int count = row_length(packed, rows[s]);
        gather->offsets[s] = at;
        gather->labels[s] = packed->labels[rows[s]];
        memcpy(gather->ids + at, packed->ids + from, (size_t)count * sizeof *gather->ids);
        memcpy(gather->segments + at, packed->segments + from, (size_t)count);
        at += count;
    }
    gather->offsets[n] = at;
    gather->batch = (struct dd_batch){
        .n_sequences = n, .n_tokens = at, .ids = gather->ids, .segments = gather->segments, .offsets = gather->offsets};
}

/* --- inference over many rows ----------------------------------------------------------------------------------- */

/* All rows, longest first, rows of equal length in file order: a counting sort. NULL when out of memory. */
static uint32_t *rows_by_length(const struct dd_packed *packed) {
    size_t lengths = (size_t)packed->longest + 2;
    uint32_t *order = dd_calloc(packed->rows, sizeof *order);
    uint32_t *start = dd_calloc(lengths, sizeof *start);
    if (!order || !start) {
        free(order);
        free(start);
        return NULL;
    }
    for (uint32_t r = 0; r < packed->rows; r++) {
        start[packed->longest - row_length(packed, r) + 1]++;
    }
    for (size_t l = 1; l < lengths; l++) {
        start[l] += start[l - 1];
    }
    for (uint32_t r = 0; r < packed->rows; r++) {
        order[start[packed->longest - row_length(packed, r)]++] = r;
    }
    free(start);
    return order;
}

/* How many rows from order[at] on fit into one batch; at least one. */
static int batch_rows(const struct dd_packed *packed, const struct dd_gather *gather, const uint32_t *order,
                      uint32_t at) {
    int n = 0, tokens = 0;
    while (n < gather->max_sequences && at + (uint32_t)n < packed->rows) {
        int more = row_length(packed, order[at + (uint32_t)n]);
        if (n > 0 && tokens + more > gather->max_tokens) {
            break;
        }
        tokens += more;
        n++;
    }
    return n;
}

enum dd_status dd_for_batches(const struct dd_packed *packed, struct dd_gather *gather, struct dd_team *team,
                              const struct dd_cancel *cancel, const struct dd_progress *progress, dd_batch_fn *each,
                              void *context, struct dd_error *err) {
    uint32_t *order = rows_by_length(packed);
    enum dd_status status = order ? DD_OK : dd_fail_memory(err, (size_t)packed->rows * sizeof *order);
    uint64_t tokens_done = 0;
    for (uint32_t at = 0; status == DD_OK && at < packed->rows;) {
        if (dd_cancel_requested(cancel) != DD_STOP_NONE) {
            status = dd_fail(err, DD_STOPPED, "stopped", "stopped between two batches");
            break;
        }
        dd_team_step(team);
        int n = batch_rows(packed, gather, order, at);
        dd_gather_rows(gather, packed, order + at, n);
        each(context, &gather->batch, order + at);
        at += (uint32_t)n;
        tokens_done += (uint64_t)gather->batch.n_tokens;
        dd_progress_report(progress, (double)tokens_done / (double)packed->n_tokens);
    }
    free(order);
    return status;
}

struct forward {
    struct dd_bert *bert;
    const struct dd_params *params;
    size_t n_labels;
    float *batch_logits, *logits;
};

static void forward_batch(void *context, const struct dd_batch *batch, const uint32_t *rows) {
    const struct forward *forward = context;
    const struct dd_dropout off = {.on = false};
    dd_bert_forward(forward->bert, forward->params, batch, &off, forward->batch_logits);
    for (size_t s = 0; s < (size_t)batch->n_sequences; s++) {
        memcpy(forward->logits + (size_t)rows[s] * forward->n_labels, forward->batch_logits + s * forward->n_labels,
               forward->n_labels * sizeof *forward->logits);
    }
}

enum dd_status dd_forward_rows(struct dd_bert *bert, const struct dd_params *params, const struct dd_packed *packed,
                               struct dd_gather *gather, struct dd_team *team, int n_labels,
                               const struct dd_cancel *cancel, const struct dd_progress *progress, float *logits,
                               struct dd_error *err) {
    struct forward forward = {.bert = bert,
                              .params = params,
                              .n_labels = (size_t)n_labels,
                              .batch_logits =
                                  dd_calloc((size_t)gather->max_sequences * (size_t)n_labels, sizeof(float)),
                              .logits = logits};
    enum dd_status status = DD_OK;
    if (!forward.batch_logits) {
        status = dd_fail_memory(err, (size_t)gather->max_sequences * (size_t)n_labels * sizeof(float));
    }
    if (status == DD_OK) {
        status = dd_for_batches(packed, gather, team, cancel, progress, forward_batch, &forward, err);
    }
    free(forward.batch_logits);
    return status;
}

void dd_infer_bounds(const struct dd_packed *packed, int *ret_tokens, int *ret_sequences) {
    int tokens = DD_MAX(DD_INFER_TOKENS, packed->longest);
    if (packed->n_tokens < (uint64_t)tokens) {
        tokens = (int)packed->n_tokens;
    }
    tokens = DD_MAX(tokens, 2);
    *ret_tokens = tokens;
    *ret_sequences = DD_MIN(DD_INFER_SEQUENCES, tokens / 2); /* a row has at least two tokens */
}

void dd_argmax_rows(const float *logits, size_t n, int n_labels, int32_t *label, float *score) {
    for (size_t r = 0; r < n; r++) {
        const float *row = logits + r * (size_t)n_labels;
        int best = 0;
        for (int c = 1; c < n_labels; c++) {
            if (row[c] > row[best]) {
                best = c;
            }
        }
        label[r] = best;
        if (score) {
            double sum = 0.0;
            for (int c = 0; c < n_labels; c++) {
                sum += exp((double)row[c] - (double)row[best]);
            }
            score[r] = (float)(1.0 / sum);
        }
    }
}
