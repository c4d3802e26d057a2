/* bert_backward: from d loss / d logits to the gradient of every parameter.  Shapes as in bert_forward.c.
 *
 * Gradients of a linear layer (weight, bias, input) run as one set of tiles.  Sums over tokens are taken in a fixed
 * order: LayerNorm's in at most 32 pieces whose sums are then added in order, embeddings' row by row in token order.
 */
#include "engine/bert.h"

#include <assert.h>
#include <string.h>

struct pass {
    struct dd_bert *bert;
    struct dd_layernorm norm;
    struct dd_mask mask;
    int rows, pieces;
    const float *dy, *xhat, *rstd;
    float *dz, *dbranch;
    const int32_t *row_of;
};

static void norm_piece(void *context, int piece) {
    struct pass *pass = context;
    int first, count = dd_piece(pass->rows, pass->pieces, piece, &first);
    size_t at = (size_t)first * (size_t)pass->norm.n;
    pass->bert->simd->layernorm_backward(&pass->norm, count, pass->dy + at, pass->xhat + at, pass->rstd + first,
                                         pass->dz + at, &pass->mask, pass->row_of != NULL ? pass->row_of + first : NULL,
                                         first, pass->dbranch != NULL ? pass->dbranch + at : NULL,
                                         pass->bert->partial + (size_t)piece * 2 * (size_t)pass->norm.n);
}

/* Backward of LayerNorm(dropout(branch) + residual).  pass->dz gets the residual's gradient; returns the branch's,
 * which is the same array where nothing was dropped. */
static const float *norm_backward(struct dd_bert *bert, struct pass *pass, float *dgain, float *dshift) {
    int n = pass->norm.n;
    pass->bert = bert;
    pass->pieces = dd_pieces(pass->rows, DD_MAX(1, 16384 / n));
    pass->dbranch = pass->mask.threshold != 0 ? bert->dbranch : NULL;
    dd_team_for(bert->team, pass->pieces, norm_piece, pass);
    bert->simd->column_sums(pass->pieces, n, bert->partial, 2 * (size_t)n, dgain);
    bert->simd->column_sums(pass->pieces, n, bert->partial + n, 2 * (size_t)n, dshift);
    return pass->dbranch != NULL ? pass->dbranch : pass->dz;
}

/* dlogits to the gradient of the [CLS] rows, bert->dcls. */
static void classify_backward(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                              const struct dd_dropout *dropout, const float *dlogits, struct dd_params *grads) {
    int hidden = bert->config.hidden_size, labels = bert->config.n_labels, sequences = batch->n_sequences;
    struct dd_mask mask = dd_mask_new(dropout, dd_bert_classifier_dropout(&bert->config), DD_MASK_POOLED);
    const float *dropped = mask.threshold != 0 ? bert->pooled_dropped : bert->pooled;
    const float *slab = params->slab, *cls = bert->layer[bert->config.layers - 1].y2;
    float *out = grads->slab;
    struct dd_product classifier[] = {
        dd_linear_weight(dlogits, dropped, out + bert->at.classifier_weight, out + bert->at.classifier_bias, sequences,
                         hidden, labels),
        dd_linear_input(dlogits, slab + bert->at.classifier_weight, bert->dpooled, sequences, hidden, labels, false)};
    dd_products_run(bert->team, classifier, 2);
    bert->simd->dropout(sequences, hidden, bert->dpooled, &mask, NULL, 0);
    bert->simd->tanh_backward((size_t)sequences * (size_t)hidden, bert->dpooled, bert->pooled);
    struct dd_product dense[] = {
        dd_linear_weight(bert->dpooled, cls, out + bert->at.pooler_weight, out + bert->at.pooler_bias, sequences,
                         hidden, hidden),
        dd_linear_input(bert->dpooled, slab + bert->at.pooler_weight, bert->dcls, sequences, hidden, hidden, false)};
    dd_products_run(bert->team, dense, 2);
}

/* The operands of a layer's two products in bf16: dW = dyᵀ x and dx = dy W.  In fp32 they stay NULL.  `at_dy` and
 * `at_x`: where in the buffers, in elements. */
static void halve(struct dd_bert *bert, struct dd_product pair[2], size_t at_dy, size_t at_x, const uint16_t *weight) {
    struct dd_product *dweight = &pair[0], *dx = &pair[1];
    dweight->a16 = dx->a16 = dd_bert_half(bert, 0, at_dy, dweight->a, dweight->k, dweight->m);
    dweight->b16 = dd_bert_half(bert, 1, at_x, dweight->b, dweight->k, dweight->n);
    dx->b16 = weight;
}

/* Through the feed-forward part: dbranch is d of its output, dz the residual's gradient, to which its own is added. */
static void feed_forward_backward(struct dd_bert *bert, int index, const struct dd_params *params, int rows,
                                  const float *dbranch, float *dz, struct dd_params *grads) {
    const struct dd_bert_layer_offsets *at = &bert->at.layer[index];
    const struct dd_bert_layer *layer = &bert->layer[index];
    int hidden = bert->config.hidden_size, inner = bert->config.intermediate_size;
    float *out = grads->slab;
    struct dd_product down[] = {
        dd_linear_weight(dbranch, layer->inner, out + at->down_weight, out + at->down_bias, rows, inner, hidden),
        dd_linear_input(dbranch, params->slab + at->down_weight, bert->dinner, rows, inner, hidden, false)};
    down[1].after = DD_AFTER_MULTIPLY;
    down[1].factor = layer->slope;
    halve(bert, down, 0, 0, dd_bert_weight16(bert, index, DD_WEIGHT_DOWN));
    dd_products_run(bert->team, down, 2);
    struct dd_product up[] = {
        dd_linear_weight(bert->dinner, layer->y1, out + at->up_weight, out + at->up_bias, rows, hidden, inner),
        dd_linear_input(bert->dinner, params->slab + at->up_weight, dz, rows, hidden, inner, true)};
    halve(bert, up, 0, 0, dd_bert_weight16(bert, index, DD_WEIGHT_UP));
    dd_products_run(bert->team, up, 2);
}

/* One of a layer's three: rows of the hidden size at stride from `at` on += extra. */
struct addition_qkv {
    float *at;
    const float *extra;
    size_t stride, hidden;
    int rows, pieces;
};

static void add_qkv_piece(void *context, int piece) {
    const struct addition_qkv *addition = context;
    int first, count = dd_piece(addition->rows, addition->pieces, piece, &first);
    for (int r = first; r < first + count; r++) {
        float *to = addition->at + (size_t)r * addition->stride;
        const float *from = addition->extra + (size_t)r * addition->hidden;
        for (size_t i = 0; i < addition->hidden; i++) {
            to[i] += from[i];
        }
    }
}

/* dqkv += what matching adds to the gradients of a layer's queries, keys and values. */
static void add_extra_qkv(struct dd_bert *bert, int layer, const struct dd_batch *batch) {
    if (bert->extra_qkv == NULL) {
        return;
    }
    const struct dd_bert_extra_qkv *extra = bert->extra_qkv;
    const struct dd_bert_qkv qkv = dd_bert_qkv(bert, layer);
    const float *base = bert->layer[layer].qkv; /* dqkv is laid out alike */
    const struct {
        const float *values, *extra;
        size_t stride;
        int rows;
    } parts[] = {{qkv.q, extra->q[layer], qkv.q_stride, qkv.cls ? batch->n_sequences : batch->n_tokens},
                 {qkv.k, extra->k[layer], qkv.kv_stride, batch->n_tokens},
                 {qkv.v, extra->v[layer], qkv.kv_stride, batch->n_tokens}};
    for (size_t i = 0; i < DD_ARRAY_LEN(parts); i++) {
        if (parts[i].extra != NULL) {
            struct addition_qkv addition = {.at = bert->dqkv + (parts[i].values - base),
                                            .extra = parts[i].extra,
                                            .stride = parts[i].stride,
                                            .hidden = (size_t)bert->config.hidden_size,
                                            .rows = parts[i].rows,
                                            .pieces =
                                                dd_pieces(parts[i].rows, DD_MAX(1, 16384 / bert->config.hidden_size))};
            dd_team_for(bert->team, addition.pieces, add_qkv_piece, &addition);
        }
    }
}

/* From dq, dk, dv to d of the layer's input, bert->dx; `residual` holds what came past the attention.  The first layer
 * above frozen embeddings has no use for d of its input. */
static void project_backward(struct dd_bert *bert, int index, const struct dd_params *params,
                             const struct dd_batch *batch, float *residual, struct dd_params *grads) {
    const struct dd_bert_layer_offsets *at = &bert->at.layer[index];
    const struct dd_bert_layer *layer = &bert->layer[index];
    int hidden = bert->config.hidden_size, tokens = batch->n_tokens, sequences = batch->n_sequences;
    bool last = index == 0 && bert->frozen;
    size_t width = (size_t)hidden;
    const float *weight = params->slab + at->qkv_weight;
    const uint16_t *weight16 = dd_bert_weight16(bert, index, DD_WEIGHT_QKV);
    float *dweight = grads->slab + at->qkv_weight, *dbias = grads->slab + at->qkv_bias;
    if (!dd_bert_narrow(bert, index)) {
        struct dd_product products[] = {
            dd_linear_weight(bert->dqkv, layer->x, dweight, dbias, tokens, hidden, 3 * hidden),
            dd_linear_input(bert->dqkv, weight, residual, tokens, hidden, 3 * hidden, true)};
        assert(residual == bert->dx);
        halve(bert, products, 0, 0, weight16);
        dd_products_run(bert->team, products, last ? 1 : 2);
        return;
    }
    const float *dkv = bert->dqkv + (size_t)bert->max_sequences * width;
    struct dd_product products[] = {
        dd_linear_weight(dkv, layer->x, dweight + width * width, dbias + width, tokens, hidden, 2 * hidden),
        dd_linear_input(dkv, weight + width * width, bert->dx, tokens, hidden, 2 * hidden, false),
        dd_linear_weight(bert->dqkv, bert->cls, dweight, dbias, sequences, hidden, hidden),
        dd_linear_input(bert->dqkv, weight, residual, sequences, hidden, hidden, true)};
    halve(bert, products, 0, 0, weight16 != NULL ? weight16 + width * width : NULL);
    halve(bert, products + 2, (size_t)tokens * 2 * width, (size_t)tokens * width, weight16);
    if (last) {
        products[1] = products[2];
        dd_products_run(bert->team, products, 2);
        return;
    }
    dd_products_run(bert->team, products, 4);
    for (int s = 0; s < sequences; s++) {
        float *dx = bert->dx + (size_t)bert->cls_rows[s] * width;
        for (size_t i = 0; i < width; i++) {
            dx[i] += residual[(size_t)s * width + i];
        }
    }
}

/* dy [R, H] is d of the layer's output: bert->dcls where narrow, else bert->dx.  Leaves d of its input in bert->dx. */
static void layer_backward(struct dd_bert *bert, int index, const struct dd_params *params,
                           const struct dd_batch *batch, const struct dd_dropout *dropout, struct dd_params *grads) {
    const struct dd_bert_layer_offsets *at = &bert->at.layer[index];
    const struct dd_bert_layer *layer = &bert->layer[index];
    bool narrow = dd_bert_narrow(bert, index);
    int hidden = bert->config.hidden_size, rows = narrow ? batch->n_sequences : batch->n_tokens;
    const float *slab = params->slab;
    float *out = grads->slab, *dy = narrow ? bert->dcls : bert->dx;
    struct pass pass = {.norm = {.gain = slab + at->norm2_gain, .n = hidden},
                        .mask = dd_mask_new(dropout, bert->config.hidden_dropout, DD_MASK_OUTPUT(index)),
                        .rows = rows,
                        .dy = dy,
                        .xhat = layer->xhat2,
                        .rstd = layer->rstd2,
                        .dz = bert->dz,
                        .row_of = narrow ? bert->cls_rows : NULL};
    const float *dbranch = norm_backward(bert, &pass, out + at->norm2_gain, out + at->norm2_shift);
    feed_forward_backward(bert, index, params, rows, dbranch, bert->dz, grads);
    pass.norm.gain = slab + at->norm1_gain;
    pass.mask = dd_mask_new(dropout, bert->config.hidden_dropout, DD_MASK_ATTENTION_OUTPUT(index));
    pass.dy = bert->dz;
    pass.xhat = layer->xhat1;
    pass.rstd = layer->rstd1;
    pass.dz = dy;
    dbranch = norm_backward(bert, &pass, out + at->norm1_gain, out + at->norm1_shift);
    struct dd_product output[] = {
        dd_linear_weight(dbranch, layer->context, out + at->output_weight, out + at->output_bias, rows, hidden, hidden),
        dd_linear_input(dbranch, slab + at->output_weight, bert->dcontext, rows, hidden, hidden, false)};
    halve(bert, output, 0, 0, dd_bert_weight16(bert, index, DD_WEIGHT_OUTPUT));
    dd_products_run(bert->team, output, 2);
    struct dd_mask mask = dd_mask_new(dropout, bert->config.attention_dropout, DD_MASK_ATTENTION(index));
    dd_attention_backward(bert, index, batch, &mask);
    add_extra_qkv(bert, index, batch);
    project_backward(bert, index, params, batch, dy, grads);
}

/* --- embeddings ------------------------------------------------------------------------------------------------- */

#define DIGIT_BITS 11

/* bert->order: token indices by (word id, position), by a stable radix sort; bert->touched: the distinct ids, whose
 * tokens are order[touched_first[i]] … order[touched_first[i + 1] - 1]. */
static void sort_tokens(struct dd_bert *bert, const struct dd_batch *batch) {
    int n = batch->n_tokens;
    int32_t *from = bert->order_spare, *to = bert->order;
    for (int i = 0; i < n; i++) {
        to[i] = i;
    }
    for (int shift = 0; (int64_t)bert->config.vocab_size > (int64_t)1 << shift; shift += DIGIT_BITS) {
        int32_t start[1 << DIGIT_BITS] = {0};
        int32_t *swap = from;
        from = to;
        to = swap;
        for (int i = 0; i < n; i++) {
            start[(batch->ids[i] >> shift) & ((1 << DIGIT_BITS) - 1)]++;
        }
        for (int32_t digit = 0, sum = 0; digit < 1 << DIGIT_BITS; digit++) {
            int32_t count = start[digit];
            start[digit] = sum;
            sum += count;
        }
        for (int i = 0; i < n; i++) {
            to[start[(batch->ids[from[i]] >> shift) & ((1 << DIGIT_BITS) - 1)]++] = from[i];
        }
    }
    bert->order = to;
    bert->order_spare = from;
    bert->n_touched = 0;
    for (int i = 0; i < n; i++) {
        int32_t id = batch->ids[to[i]];
        if (i == 0 || id != batch->ids[to[i - 1]]) {
            bert->touched[bert->n_touched] = id;
            bert->touched_first[bert->n_touched++] = i;
        }
    }
    bert->touched_first[bert->n_touched] = n;
}

struct scatter {
    struct dd_bert *bert;
    const struct dd_batch *batch;
    struct dd_params *grads;
    int word_pieces, position_pieces, type_pieces;
};

static void add_row(float *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        to[i] += from[i];
    }
}

static void word_rows(const struct scatter *scatter, int first, int count) {
    const struct dd_bert *bert = scatter->bert;
    size_t hidden = (size_t)bert->config.hidden_size;
    for (int i = first; i < first + count; i++) {
        float *row = scatter->grads->slab + bert->at.word + (size_t)bert->touched[i] * hidden;
        memset(row, 0, hidden * sizeof(float));
        if (bert->touched[i] == bert->config.pad_token_id) {
            continue;
        }
        for (int j = bert->touched_first[i]; j < bert->touched_first[i + 1]; j++) {
            add_row(row, bert->dz + (size_t)bert->order[j] * hidden, hidden);
        }
    }
}

static void position_rows(const struct scatter *scatter, int first, int count) {
    const struct dd_bert *bert = scatter->bert;
    const struct dd_batch *batch = scatter->batch;
    size_t hidden = (size_t)bert->config.hidden_size;
    float *rows = scatter->grads->slab + bert->at.position;
    memset(rows + (size_t)first * hidden, 0, (size_t)count * hidden * sizeof(float));
    for (int s = 0; s < batch->n_sequences; s++) {
        int length = batch->offsets[s + 1] - batch->offsets[s];
        for (int p = first; p < DD_MIN(first + count, length); p++) {
            add_row(rows + (size_t)p * hidden, bert->dz + (size_t)(batch->offsets[s] + p) * hidden, hidden);
        }
    }
}

static void type_columns(const struct scatter *scatter, int first, int count) {
    const struct dd_bert *bert = scatter->bert;
    size_t hidden = (size_t)bert->config.hidden_size;
    float *rows = scatter->grads->slab + bert->at.type;
    for (int k = 0; k < bert->config.type_vocab_size; k++) {
        memset(rows + (size_t)k * hidden + first, 0, (size_t)count * sizeof(float));
    }
    for (int t = 0; t < scatter->batch->n_tokens; t++) {
        add_row(rows + (size_t)scatter->batch->segments[t] * hidden + first,
                bert->dz + (size_t)t * hidden + (size_t)first, (size_t)count);
    }
}

static void scatter_piece(void *context, int piece) {
    const struct scatter *scatter = context;
    const struct dd_bert_config *config = &scatter->bert->config;
    int first, count;
    if (piece < scatter->word_pieces) {
        count = dd_piece(scatter->bert->n_touched, scatter->word_pieces, piece, &first);
        word_rows(scatter, first, count);
        return;
    }
    piece -= scatter->word_pieces;
    if (piece < scatter->position_pieces) {
        count = dd_piece(config->max_positions, scatter->position_pieces, piece, &first);
        position_rows(scatter, first, count);
        return;
    }
    count = dd_piece(config->hidden_size, scatter->type_pieces, piece - scatter->position_pieces, &first);
    type_columns(scatter, first, count);
}

static void undrop_piece(void *context, int piece) {
    struct pass *pass = context;
    int first, count = dd_piece(pass->rows, pass->pieces, piece, &first);
    float *rows = pass->dz + (size_t)first * (size_t)pass->norm.n;
    pass->bert->simd->dropout(count, pass->norm.n, rows, &pass->mask, NULL, first);
}

static void embed_backward(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                           const struct dd_dropout *dropout, struct dd_params *grads) {
    int hidden = bert->config.hidden_size;
    struct pass undrop = {.bert = bert,
                          .norm.n = hidden,
                          .mask = dd_mask_new(dropout, bert->config.hidden_dropout, DD_MASK_EMBEDDINGS),
                          .rows = batch->n_tokens,
                          .pieces = dd_pieces(batch->n_tokens, DD_MAX(1, 16384 / hidden)),
                          .dz = bert->dx};
    dd_team_for(bert->team, undrop.pieces, undrop_piece, &undrop);
    struct pass pass = {.norm = {.gain = params->slab + bert->at.norm_gain, .n = hidden},
                        .mask = {.threshold = 0},
                        .rows = batch->n_tokens,
                        .dy = bert->dx,
                        .xhat = bert->xhat0,
                        .rstd = bert->rstd0,
                        .dz = bert->dz};
    norm_backward(bert, &pass, grads->slab + bert->at.norm_gain, grads->slab + bert->at.norm_shift);
    sort_tokens(bert, batch);
    struct scatter scatter = {.bert = bert,
                              .batch = batch,
                              .grads = grads,
                              .word_pieces = dd_pieces(bert->n_touched, DD_MAX(1, 16384 / hidden)),
                              .position_pieces = dd_pieces(bert->config.max_positions, DD_MAX(1, 32768 / hidden)),
                              .type_pieces = dd_pieces(hidden, 64)};
    dd_team_for(bert->team, scatter.word_pieces + scatter.position_pieces + scatter.type_pieces, scatter_piece,
                &scatter);
}

/* What matching adds to the gradient of a state; pieces of rows, so no sum is cut. */
struct addition {
    const struct dd_bert *bert;
    const float *tokens;
    int rows, pieces;
};

static void add_piece(void *context, int piece) {
    const struct addition *addition = context;
    int first, count = dd_piece(addition->rows, addition->pieces, piece, &first);
    size_t width = (size_t)addition->bert->config.hidden_size, at = (size_t)first * width;
    add_row(addition->bert->dx + at, addition->tokens + at, (size_t)count * width);
}

/* dx [T, H], or dcls [S, H] of the last state, += the extra gradient of that state. */
static void add_extra(struct dd_bert *bert, int state, const struct dd_batch *batch) {
    size_t width = (size_t)bert->config.hidden_size;
    if (bert->extra == NULL) {
        return;
    }
    const float *tokens = bert->extra->tokens[state], *cls = bert->extra->cls[state];
    if (state == bert->config.layers) {
        assert(tokens == NULL);
        if (cls != NULL) {
            add_row(bert->dcls, cls, (size_t)batch->n_sequences * width);
        }
        return;
    }
    if (tokens != NULL) {
        struct addition addition = {.bert = bert,
                                    .tokens = tokens,
                                    .rows = batch->n_tokens,
                                    .pieces = dd_pieces(batch->n_tokens, DD_MAX(1, 16384 / bert->config.hidden_size))};
        dd_team_for(bert->team, addition.pieces, add_piece, &addition);
    }
    for (int s = 0; s < batch->n_sequences && cls != NULL; s++) {
        add_row(bert->dx + (size_t)bert->cls_rows[s] * width, cls + (size_t)s * width, width);
    }
}

void dd_bert_backward(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                      const struct dd_dropout *dropout, const float *dlogits, struct dd_params *grads) {
    assert(bert->training && grads->count == params->count && batch->n_sequences > 0);
    classify_backward(bert, params, batch, dropout, dlogits, grads);
    add_extra(bert, bert->config.layers, batch);
    for (int i = bert->config.layers - 1; i >= 0; i--) {
        layer_backward(bert, i, params, batch, dropout, grads);
        add_extra(bert, i, batch);
    }
    bert->n_touched = 0;
    if (!bert->frozen) {
        embed_backward(bert, params, batch, dropout, grads);
    }
}
