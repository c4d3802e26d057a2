/* attention: one head of one sequence, forward and backward; contracts in engine/simd.h.
 *
 * Query rows are worked on DD_ATTENTION_BLOCK at a time, so scratch stays in cache and small whatever the length.  The
 * probabilities are not kept: backward computes a block's again, which costs one product in five and saves
 * heads · length² floats for each layer and sequence.
 *
 * Scratch: P and dP [block, padded], Kᵀ and Vᵀ [head_size, padded], then the mask words; padded is the length rounded
 * up to DD_SIMD_PAD, and columns past the length are 0 in Kᵀ and Vᵀ and get probability 0.
 *
 * Mask: row i of a head's probabilities begins at element i · padded of the head's own range, so that a block, and the
 * [CLS] row alone, find their part whatever else is computed.
 */
#include "engine/simd/kernels.h"
#include "engine/simd/math.h"
#include "engine/simd/product.h"

#include <math.h>

struct work {
    const struct dd_attention_head *head;
    size_t padded;
    float *p, *dp, *kt, *vt;
    uint16_t *words;
};

static struct work work_new(const struct dd_attention_head *head) {
    struct work work = {.head = head};
    work.padded = ((size_t)head->length + DD_SIMD_PAD - 1) / DD_SIMD_PAD * DD_SIMD_PAD;
    size_t block = (size_t)DD_MIN(DD_ATTENTION_BLOCK, head->n_queries);
    work.p = head->scratch;
    work.dp = work.p + block * work.padded;
    work.kt = work.dp + block * work.padded;
    work.vt = work.kt + (size_t)head->head_size * work.padded;
    work.words = (uint16_t *)(void *)(work.vt + (size_t)head->head_size * work.padded);
    return work;
}

/* to [head_size, padded] = from [length, head_size]ᵀ, columns past the length 0. */
static void transpose(const struct work *work, const float *from, float *to) {
    int length = work->head->length, size = work->head->head_size;
    for (int d = 0; d < size; d++) {
        float *row = to + (size_t)d * work->padded;
        for (int j = 0; j < length; j++) {
            row[j] = from[(size_t)j * work->head->kv_stride + (size_t)d];
        }
        for (size_t j = (size_t)length; j < work->padded; j++) {
            row[j] = 0.0f;
        }
    }
}

/* A row of scores becomes probabilities. */
static void softmax_row(float *row, int length, size_t padded, float scale) {
    for (size_t j = (size_t)length; j < padded; j++) {
        row[j] = -INFINITY;
    }
    vf most = splat(-INFINITY);
    for (size_t j = 0; j < padded; j += LANES) {
        most = vmax(load(row + j), most);
    }
    float shift = reduce_max(most);
    vf sum = {0};
    for (size_t j = 0; j < padded; j += LANES) {
        vf e = vexp((load(row + j) - shift) * scale);
        store(row + j, e);
        sum += e;
    }
    float inverse = 1.0f / reduce_sum(sum);
    for (size_t j = 0; j < padded; j += LANES) {
        store(row + j, load(row + j) * inverse);
    }
}

/* work->p = softmax of query rows i0 …, work->words their masks. */
static void probabilities(const struct work *work, int i0, int rows) {
    const struct dd_attention_head *head = work->head;
    product(&(struct product){.m = rows,
                              .n = (int)work->padded,
                              .k = head->head_size,
                              .a = head->q + (size_t)i0 * head->q_stride,
                              .a_row = head->q_stride,
                              .a_column = 1,
                              .b = work->kt,
                              .ldb = work->padded,
                              .c = work->p,
                              .ldc = work->padded});
    for (int i = 0; i < rows; i++) {
        softmax_row(work->p + (size_t)i * work->padded, head->length, work->padded, head->scale);
    }
    if (head->mask->threshold != 0) {
        size_t elements = (size_t)rows * work->padded;
        K(mask)
        (head->mask, head->mask_group + (uint64_t)i0 * work->padded / DD_MASK_GROUP,
         (elements + DD_MASK_GROUP - 1) / DD_MASK_GROUP, work->words);
    }
}

/* to = dropout(from), both [rows, padded]. */
static void drop_block(const struct work *work, int rows, const float *from, float *to) {
    float scale = work->head->mask->scale;
    for (size_t at = 0; at < (size_t)rows * work->padded; at += LANES) {
        store(to + at, keep(load(from + at) * scale, dd_mask_bits(work->words, at)));
    }
}

void K(attention)(const struct dd_attention_head *head, float *context, size_t ldc) {
    struct work work = work_new(head);
    transpose(&work, head->k, work.kt);
    for (int i0 = 0; i0 < head->n_queries; i0 += DD_ATTENTION_BLOCK) {
        int rows = DD_MIN(DD_ATTENTION_BLOCK, head->n_queries - i0);
        probabilities(&work, i0, rows);
        if (head->mask->threshold != 0) {
            drop_block(&work, rows, work.p, work.p);
        }
        product(&(struct product){.m = rows,
                                  .n = head->head_size,
                                  .k = head->length,
                                  .a = work.p,
                                  .a_row = work.padded,
                                  .a_column = 1,
                                  .b = head->v,
                                  .ldb = head->kv_stride,
                                  .c = context + (size_t)i0 * ldc,
                                  .ldc = ldc});
    }
}

/* dP (after dropout) becomes dS, scaled: dS = P (dP - Σ_j P dP). */
static void softmax_backward(const struct work *work, int rows) {
    for (int i = 0; i < rows; i++) {
        float *p = work->p + (size_t)i * work->padded, *dp = work->dp + (size_t)i * work->padded;
        vf sum = {0};
        for (size_t j = 0; j < work->padded; j += LANES) {
            sum += load(p + j) * load(dp + j);
        }
        float dot = reduce_sum(sum);
        for (size_t j = 0; j < work->padded; j += LANES) {
            store(dp + j, load(p + j) * (load(dp + j) - dot) * work->head->scale);
        }
    }
}

/* One block of query rows: dq whole; dk and dv are written by the first block and added to by the others. */
static void backward_block(const struct work *work, int i0, const float *dcontext, size_t ldc, float *dq,
                           size_t dq_stride, float *dk, float *dv, size_t dkv_stride) {
    const struct dd_attention_head *head = work->head;
    int rows = DD_MIN(DD_ATTENTION_BLOCK, head->n_queries - i0), length = head->length, size = head->head_size;
    bool dropout = head->mask->threshold != 0;
    const float *dc = dcontext + (size_t)i0 * ldc;
    probabilities(work, i0, rows);
    if (dropout) {
        drop_block(work, rows, work->p, work->dp);
    }
    product(&(struct product){.m = length,
                              .n = size,
                              .k = rows,
                              .a = dropout ? work->dp : work->p,
                              .a_row = 1,
                              .a_column = work->padded,
                              .b = dc,
                              .ldb = ldc,
                              .c = dv,
                              .ldc = dkv_stride,
                              .accumulate = i0 > 0});
    product(&(struct product){.m = rows,
                              .n = (int)work->padded,
                              .k = size,
                              .a = dc,
                              .a_row = ldc,
                              .a_column = 1,
                              .b = work->vt,
                              .ldb = work->padded,
                              .c = work->dp,
                              .ldc = work->padded});
    if (dropout) {
        drop_block(work, rows, work->dp, work->dp);
    }
    softmax_backward(work, rows);
    product(&(struct product){.m = rows,
                              .n = size,
                              .k = length,
                              .a = work->dp,
                              .a_row = work->padded,
                              .a_column = 1,
                              .b = head->k,
                              .ldb = head->kv_stride,
                              .c = dq + (size_t)i0 * dq_stride,
                              .ldc = dq_stride});
    product(&(struct product){.m = length,
                              .n = size,
                              .k = rows,
                              .a = work->dp,
                              .a_row = 1,
                              .a_column = work->padded,
                              .b = head->q + (size_t)i0 * head->q_stride,
                              .ldb = head->q_stride,
                              .c = dk,
                              .ldc = dkv_stride,
                              .accumulate = i0 > 0});
}

void K(attention_backward)(const struct dd_attention_head *head, const float *dcontext, size_t ldc, float *dq,
                           size_t dq_stride, float *dk, float *dv, size_t dkv_stride) {
    struct work work = work_new(head);
    transpose(&work, head->k, work.kt);
    transpose(&work, head->v, work.vt);
    for (int i0 = 0; i0 < head->n_queries; i0 += DD_ATTENTION_BLOCK) {
        backward_block(&work, i0, dcontext, ldc, dq, dq_stride, dk, dv, dkv_stride);
    }
}
