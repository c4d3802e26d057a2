/* attention: which head of which sequence lies where; the arithmetic is engine/simd/attention.c.
 *
 * A chunk is a sequence, or a (sequence, head) where there are few sequences, so that one long text still feeds
 * several cores.
 */
#include "engine/bert.h"
#include "engine/pool.h"

#include <math.h>

#define FEW_SEQUENCES 16

struct run {
    struct dd_bert *bert;
    const struct dd_batch *batch;
    const struct dd_mask *mask;
    int layer;
    bool narrow, by_head, backward;
};

struct place {
    size_t q, kv, context; /* offsets in floats */
    size_t q_stride, kv_stride;
};

/* Where q, k and context of this head begin, in the layer's buffers and in their gradients alike; v is hidden_size
 * floats behind k. */
static struct place find_place(const struct run *run, int sequence, int head) {
    const struct dd_bert *bert = run->bert;
    size_t hidden = (size_t)bert->config.hidden_size, column = (size_t)head * (size_t)bert->head_size;
    size_t first = (size_t)run->batch->offsets[sequence];
    if (run->narrow) {
        return (struct place){.q = (size_t)sequence * hidden + column,
                              .kv = (size_t)bert->max_sequences * hidden + first * 2 * hidden + column,
                              .context = (size_t)sequence * hidden + column,
                              .q_stride = hidden,
                              .kv_stride = 2 * hidden};
    }
    return (struct place){.q = first * 3 * hidden + column,
                          .kv = first * 3 * hidden + hidden + column,
                          .context = first * hidden + column,
                          .q_stride = 3 * hidden,
                          .kv_stride = 3 * hidden};
}

static void run_head(const struct run *run, int sequence, int index) {
    struct dd_bert *bert = run->bert;
    const struct dd_bert_layer *layer = &bert->layer[run->layer];
    size_t hidden = (size_t)bert->config.hidden_size;
    struct place at = find_place(run, sequence, index);
    int length = run->batch->offsets[sequence + 1] - run->batch->offsets[sequence];
    uint64_t number = (uint64_t)sequence * (uint64_t)bert->config.heads + (uint64_t)index;
    struct dd_attention_head head = {.length = length,
                                     .n_queries = run->narrow ? 1 : length,
                                     .head_size = bert->head_size,
                                     .q = layer->qkv + at.q,
                                     .k = layer->qkv + at.kv,
                                     .v = layer->qkv + at.kv + hidden,
                                     .q_stride = at.q_stride,
                                     .kv_stride = at.kv_stride,
                                     .scale = (float)(1.0 / sqrt((double)bert->head_size)),
                                     .mask = run->mask,
                                     .mask_group = number * DD_ATTENTION_GROUPS,
                                     .scratch = bert->scratch + (size_t)dd_team_lane() * bert->scratch_floats};
    if (run->backward) {
        float *dk = bert->dqkv + at.kv;
        bert->simd->attention_backward(&head, bert->dcontext + at.context, hidden, bert->dqkv + at.q, at.q_stride, dk,
                                       dk + hidden, at.kv_stride);
    } else {
        bert->simd->attention(&head, layer->context + at.context, hidden);
    }
}

static void run_chunk(void *context, int chunk) {
    const struct run *run = context;
    int heads = run->bert->config.heads;
    if (run->by_head) {
        run_head(run, chunk / heads, chunk % heads);
        return;
    }
    for (int head = 0; head < heads; head++) {
        run_head(run, chunk, head);
    }
}

static void run_layer(struct run *run) {
    int sequences = run->batch->n_sequences;
    run->narrow = dd_bert_narrow(run->bert, run->layer);
    run->by_head = sequences < FEW_SEQUENCES;
    dd_team_for(run->bert->team, run->by_head ? sequences * run->bert->config.heads : sequences, run_chunk, run);
}

void dd_attention_forward(struct dd_bert *bert, int layer, const struct dd_batch *batch, const struct dd_mask *mask) {
    run_layer(&(struct run){.bert = bert, .batch = batch, .mask = mask, .layer = layer});
}

void dd_attention_backward(struct dd_bert *bert, int layer, const struct dd_batch *batch, const struct dd_mask *mask) {
    run_layer(&(struct run){.bert = bert, .batch = batch, .mask = mask, .layer = layer, .backward = true});
}
