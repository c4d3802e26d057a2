/* bert_forward: from token ids to logits.  Shapes: T tokens, R rows of a layer (T, or sequences where it is narrow; see
 * bert.h), H hidden, S sequences.  Source: transformers' BertForSequenceClassification; checked by
 * tests/live/test_bert.py and tests/golden/make_bert.py.
 */
#include "engine/bert.h"

#include <assert.h>
#include <string.h>

/* One pass over rows, in pieces. */
struct pass {
    struct dd_bert *bert;
    const struct dd_params *params;
    const struct dd_batch *batch;
    struct dd_layernorm norm;
    struct dd_mask mask;
    int rows, pieces;
    float *z, *rstd, *y;
    const float *bias, *residual;
    const int32_t *row_of;
};

static int pieces_of(int rows, int columns) {
    return dd_pieces(rows, DD_MAX(1, 16384 / columns));
}

static void embed_piece(void *context, int piece) {
    struct pass *pass = context;
    struct dd_bert *bert = pass->bert;
    int first, count = dd_piece(pass->batch->n_sequences, pass->pieces, piece, &first);
    size_t hidden = (size_t)bert->config.hidden_size;
    const float *word = pass->params->slab + bert->at.word, *position = pass->params->slab + bert->at.position;
    const float *type = pass->params->slab + bert->at.type;
    for (int s = first; s < first + count; s++) {
        int begin = pass->batch->offsets[s], end = pass->batch->offsets[s + 1];
        for (int t = begin; t < end; t++) {
            const float *w = bert->int8 ? NULL : word + (size_t)pass->batch->ids[t] * hidden;
            const float *p = position + (size_t)(t - begin) * hidden;
            const float *k = type + (size_t)pass->batch->segments[t] * hidden;
            float *z = bert->xhat0 + (size_t)t * hidden;
            if (bert->int8) {
                dd_bert_word8(pass->params->int8, pass->batch->ids[t], z);
                w = z;
            }
            for (size_t i = 0; i < hidden; i++) {
                z[i] = w[i] + k[i] + p[i];
            }
        }
        size_t at = (size_t)begin * hidden;
        bert->simd->layernorm_dropout(&pass->norm, end - begin, bert->xhat0 + at, &pass->mask, begin,
                                      bert->rstd0 + begin, bert->embedding + at);
    }
}

static void embed(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                  const struct dd_dropout *dropout) {
    struct pass pass = {.bert = bert,
                        .params = params,
                        .batch = batch,
                        .norm = {.gain = params->slab + bert->at.norm_gain,
                                 .shift = params->slab + bert->at.norm_shift,
                                 .eps = (float)bert->config.layer_norm_eps,
                                 .n = bert->config.hidden_size},
                        .mask = dd_mask_new(dropout, bert->config.hidden_dropout, DD_MASK_EMBEDDINGS),
                        .pieces = dd_pieces(batch->n_sequences, 1)};
    dd_team_for(bert->team, pass.pieces, embed_piece, &pass);
}

static void residual_piece(void *context, int piece) {
    struct pass *pass = context;
    int first, count = dd_piece(pass->rows, pass->pieces, piece, &first);
    size_t at = (size_t)first * (size_t)pass->norm.n;
    pass->bert->simd->residual_layernorm(&pass->norm, count, pass->z + at, pass->bias, pass->residual + at, &pass->mask,
                                         pass->row_of != NULL ? pass->row_of + first : NULL, first, pass->rstd + first,
                                         pass->y + at);
}

/* y = LayerNorm(dropout(z + bias) + residual); z becomes xhat. */
static void add_and_norm(struct dd_bert *bert, struct pass *pass) {
    pass->bert = bert;
    pass->pieces = pieces_of(pass->rows, pass->norm.n);
    dd_team_for(bert->team, pass->pieces, residual_piece, pass);
}

/* The same from int8, whose q stands apart from k and v. */
static void project_int8(struct dd_bert *bert, int index, const struct dd_params *params,
                         const struct dd_batch *batch) {
    const struct dd_bert_layer *layer = &bert->layer[index];
    const float *bias = params->slab + bert->at.layer[index].qkv_bias;
    bool narrow = dd_bert_narrow(bert, index);
    int hidden = bert->config.hidden_size, rows = narrow ? batch->n_sequences : batch->n_tokens;
    const struct dd_int8_rows *x = dd_bert_rows8(bert, 0, layer->x, batch->n_tokens, hidden);
    float *kv = layer->qkv + (narrow ? (size_t)bert->max_sequences * (size_t)hidden : (size_t)hidden);
    struct dd_product products[2] = {
        {.m = rows, .n = hidden, .k = hidden, .c = layer->qkv, .ldc = narrow ? hidden : 3 * hidden, .bias = bias},
        {.m = batch->n_tokens,
         .n = 2 * hidden,
         .k = hidden,
         .c = kv,
         .ldc = narrow ? 2 * hidden : 3 * hidden,
         .bias = bias + hidden}};
    products[0].a8 = narrow ? dd_bert_rows8(bert, 1, bert->cls, rows, hidden) : x;
    products[0].b8 = dd_bert_weight8(bert, params, index, DD_INT8_Q);
    products[1].a8 = x;
    products[1].b8 = dd_bert_weight8(bert, params, index, DD_INT8_KV);
    for (int i = 0; i < 2; i++) {
        products[i].b_transposed = true;
        products[i].after = DD_AFTER_BIAS;
    }
    dd_products_run(bert->team, products, 2);
}

/* q, k, v of a layer, biases added. */
static void project(struct dd_bert *bert, int index, const struct dd_params *params, const struct dd_batch *batch) {
    const struct dd_bert_layer_offsets *at = &bert->at.layer[index];
    const struct dd_bert_layer *layer = &bert->layer[index];
    int hidden = bert->config.hidden_size;
    const float *weight = params->slab + at->qkv_weight, *bias = params->slab + at->qkv_bias;
    const uint16_t *weight16 = dd_bert_weight16(bert, index, DD_WEIGHT_QKV);
    struct dd_product products[2];
    int n = 0;
    if (bert->int8) {
        project_int8(bert, index, params, batch);
        return;
    }
    if (dd_bert_narrow(bert, index)) {
        size_t square = (size_t)hidden * (size_t)hidden;
        float *kv = layer->qkv + (size_t)bert->max_sequences * (size_t)hidden;
        products[n] = dd_linear_forward(bert->cls, weight, layer->qkv, batch->n_sequences, hidden, hidden);
        products[n].a16 =
            dd_bert_half(bert, 0, (size_t)batch->n_tokens * (size_t)hidden, bert->cls, batch->n_sequences, hidden);
        products[n].b16 = weight16;
        products[n++].bias = bias;
        products[n] = dd_linear_forward(layer->x, weight + square, kv, batch->n_tokens, hidden, 2 * hidden);
        products[n].a16 = dd_bert_half(bert, 0, 0, layer->x, batch->n_tokens, hidden);
        products[n].b16 = weight16 != NULL ? weight16 + square : NULL;
        products[n++].bias = bias + hidden;
    } else {
        products[n] = dd_linear_forward(layer->x, weight, layer->qkv, batch->n_tokens, hidden, 3 * hidden);
        products[n].a16 = dd_bert_half(bert, 0, 0, layer->x, batch->n_tokens, hidden);
        products[n].b16 = weight16;
        products[n++].bias = bias;
    }
    for (int i = 0; i < n; i++) {
        products[i].after = DD_AFTER_BIAS;
    }
    dd_products_run(bert->team, products, n);
}

static void feed_forward(struct dd_bert *bert, int index, const struct dd_params *params, int rows) {
    const struct dd_bert_layer_offsets *at = &bert->at.layer[index];
    const struct dd_bert_layer *layer = &bert->layer[index];
    int hidden = bert->config.hidden_size, inner = bert->config.intermediate_size;
    struct dd_product up =
        dd_linear_forward(layer->y1, params->slab + at->up_weight, layer->slope, rows, hidden, inner);
    up.after = bert->training ? DD_AFTER_ACTIVATION_DERIVATIVE : DD_AFTER_ACTIVATION;
    up.activation = bert->activation;
    up.bias = params->slab + at->up_bias;
    up.out = layer->inner;
    up.a16 = dd_bert_half(bert, 0, 0, layer->y1, rows, hidden);
    up.b16 = dd_bert_weight16(bert, index, DD_WEIGHT_UP);
    up.a8 = dd_bert_rows8(bert, 0, layer->y1, rows, hidden);
    up.b8 = dd_bert_weight8(bert, params, index, DD_INT8_UP);
    dd_products_run(bert->team, &up, 1);
    struct dd_product down =
        dd_linear_forward(layer->inner, params->slab + at->down_weight, layer->xhat2, rows, inner, hidden);
    down.a16 = dd_bert_half(bert, 0, 0, layer->inner, rows, inner);
    down.b16 = dd_bert_weight16(bert, index, DD_WEIGHT_DOWN);
    down.a8 = dd_bert_rows8(bert, 0, layer->inner, rows, inner);
    down.b8 = dd_bert_weight8(bert, params, index, DD_INT8_DOWN);
    dd_products_run(bert->team, &down, 1);
}

static void layer_forward(struct dd_bert *bert, int index, const struct dd_params *params, const struct dd_batch *batch,
                          const struct dd_dropout *dropout) {
    const struct dd_bert_layer_offsets *at = &bert->at.layer[index];
    const struct dd_bert_layer *layer = &bert->layer[index];
    const float *slab = params->slab;
    bool narrow = dd_bert_narrow(bert, index);
    int hidden = bert->config.hidden_size, rows = narrow ? batch->n_sequences : batch->n_tokens;
    float eps = (float)bert->config.layer_norm_eps;
    project(bert, index, params, batch);
    struct dd_mask mask = dd_mask_new(dropout, bert->config.attention_dropout, DD_MASK_ATTENTION(index));
    dd_attention_forward(bert, index, batch, &mask);
    struct dd_product output =
        dd_linear_forward(layer->context, slab + at->output_weight, layer->xhat1, rows, hidden, hidden);
    output.a16 = dd_bert_half(bert, 0, 0, layer->context, rows, hidden);
    output.b16 = dd_bert_weight16(bert, index, DD_WEIGHT_OUTPUT);
    output.a8 = dd_bert_rows8(bert, 0, layer->context, rows, hidden);
    output.b8 = dd_bert_weight8(bert, params, index, DD_INT8_OUTPUT);
    dd_products_run(bert->team, &output, 1);
    struct pass pass = {
        .norm = {.gain = slab + at->norm1_gain, .shift = slab + at->norm1_shift, .eps = eps, .n = hidden},
        .mask = dd_mask_new(dropout, bert->config.hidden_dropout, DD_MASK_ATTENTION_OUTPUT(index)),
        .rows = rows,
        .z = layer->xhat1,
        .rstd = layer->rstd1,
        .y = layer->y1,
        .bias = slab + at->output_bias,
        .residual = narrow ? bert->cls : layer->x,
        .row_of = narrow ? bert->cls_rows : NULL};
    add_and_norm(bert, &pass);
    feed_forward(bert, index, params, rows);
    pass.norm.gain = slab + at->norm2_gain;
    pass.norm.shift = slab + at->norm2_shift;
    pass.mask = dd_mask_new(dropout, bert->config.hidden_dropout, DD_MASK_OUTPUT(index));
    pass.z = layer->xhat2;
    pass.rstd = layer->rstd2;
    pass.y = layer->y2;
    pass.bias = slab + at->down_bias;
    pass.residual = layer->y1;
    add_and_norm(bert, &pass);
}

/* bert->cls = the [CLS] rows of x [T, H]. */
static void gather_cls(struct dd_bert *bert, const struct dd_batch *batch, const float *x) {
    size_t hidden = (size_t)bert->config.hidden_size;
    for (int s = 0; s < batch->n_sequences; s++) {
        memcpy(bert->cls + (size_t)s * hidden, x + (size_t)bert->cls_rows[s] * hidden, hidden * sizeof(float));
    }
}

/* pooled = tanh(dense([CLS])), logits = classifier(dropout(pooled)). */
static void classify(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                     const struct dd_dropout *dropout, const float *cls, float *logits) {
    int hidden = bert->config.hidden_size, sequences = batch->n_sequences;
    size_t count = (size_t)sequences * (size_t)hidden;
    const float *slab = params->slab;
    struct dd_product dense =
        dd_linear_forward(cls, slab + bert->at.pooler_weight, bert->pooled, sequences, hidden, hidden);
    dense.after = DD_AFTER_BIAS;
    dense.bias = slab + bert->at.pooler_bias;
    dense.a8 = dd_bert_rows8(bert, 1, cls, sequences, hidden);
    dense.b8 = bert->int8 ? &params->int8->pooler : NULL;
    dd_products_run(bert->team, &dense, 1);
    bert->simd->tanh(count, bert->pooled);
    struct dd_mask mask = dd_mask_new(dropout, dd_bert_classifier_dropout(&bert->config), DD_MASK_POOLED);
    const float *dropped = bert->pooled;
    if (mask.threshold != 0) {
        memcpy(bert->pooled_dropped, bert->pooled, count * sizeof(float));
        bert->simd->dropout(sequences, hidden, bert->pooled_dropped, &mask, NULL, 0);
        dropped = bert->pooled_dropped;
    }
    struct dd_product classifier =
        dd_linear_forward(dropped, slab + bert->at.classifier_weight, logits, sequences, hidden, bert->config.n_labels);
    classifier.after = DD_AFTER_BIAS;
    classifier.bias = slab + bert->at.classifier_bias;
    dd_products_run(bert->team, &classifier, 1);
}

static void show(const struct dd_bert *bert, int state, const float *values, int rows) {
    if (bert->tap != NULL) {
        bert->tap(bert->tap_context, state, values, rows);
    }
}

void dd_bert_forward(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                     const struct dd_dropout *dropout, float *logits) {
    assert(params->count >= bert->n_params); /* more: tensors that only training has, behind the model's */
    assert(batch->n_tokens <= bert->max_tokens && batch->n_sequences <= bert->max_sequences);
    assert(bert->training || !dropout->on);
    assert(bert->int8 == (params->int8 != NULL));
    if (batch->n_sequences == 0) {
        return;
    }
    int last = bert->config.layers - 1;
    memcpy(bert->cls_rows, batch->offsets, (size_t)batch->n_sequences * sizeof(int32_t));
    dd_bert_convert_weights(bert, params);
    embed(bert, params, batch, dropout);
    show(bert, 0, bert->embedding, batch->n_tokens);
    for (int i = 0; i <= last; i++) {
        if (dd_bert_narrow(bert, i)) {
            gather_cls(bert, batch, bert->layer[i].x);
        }
        layer_forward(bert, i, params, batch, dropout);
        show(bert, i + 1, bert->layer[i].y2, dd_bert_narrow(bert, i) ? batch->n_sequences : batch->n_tokens);
    }
    const float *cls = bert->layer[last].y2;
    bert->hidden = bert->full ? cls : NULL;
    if (bert->full) {
        gather_cls(bert, batch, cls);
        cls = bert->cls;
    }
    classify(bert, params, batch, dropout, cls, logits);
}

double dd_bert_flops(const struct dd_bert_config *config, const struct dd_batch *batch, bool training) {
    double hidden = config->hidden_size, inner = config->intermediate_size, tokens = batch->n_tokens;
    double rows = batch->n_sequences, whole = config->layers - 1, squares = 0.0;
    for (int s = 0; s < batch->n_sequences; s++) {
        double length = batch->offsets[s + 1] - batch->offsets[s];
        squares += length * length;
    }
    double layer = 2.0 * tokens * (4.0 * hidden * hidden + 2.0 * hidden * inner) + 4.0 * squares * hidden;
    double narrow = 4.0 * tokens * hidden * hidden + 4.0 * rows * hidden * (hidden + inner) + 4.0 * tokens * hidden;
    double head = 2.0 * rows * hidden * (hidden + config->n_labels);
    return (whole * layer + narrow + head) * (training ? 3.0 : 1.0);
}
