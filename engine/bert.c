/* bert: the plan of a model's activations.  One arena holds everything; the same walk counts it and lays it out.
 * A dd_bert belongs to one thread at a time.
 */
#include "engine/bert.h"

#include "engine/model.h"
#include "engine/pool.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A walk over the arena: base NULL only counts. */
struct plan {
    char *base;
    size_t used;
    bool overflow;
};

static void *take(void *context, size_t a, size_t b, size_t element_bytes) {
    struct plan *plan = context;
    size_t count, bytes, end;
    if (plan->overflow || !dd_size_mul(a, b, &count) || !dd_size_mul(count, element_bytes, &bytes) ||
        !dd_size_add(bytes, 63, &bytes) || !dd_size_add(plan->used, bytes / 64 * 64, &end)) {
        plan->overflow = true;
        return NULL;
    }
    void *at = plan->base != NULL ? plan->base + plan->used : NULL;
    plan->used = end;
    return at;
}

static float *floats(struct plan *plan, size_t a, size_t b) {
    return take(plan, a, b, sizeof(float));
}

static void plan_layer(struct dd_bert *bert, struct plan *plan, struct dd_bert_layer *layer, size_t rows) {
    size_t hidden = (size_t)bert->config.hidden_size, inner = (size_t)bert->config.intermediate_size;
    layer->qkv = floats(plan, (size_t)bert->max_tokens, 3 * hidden);
    layer->context = floats(plan, rows, hidden);
    layer->xhat1 = floats(plan, rows, hidden);
    layer->rstd1 = floats(plan, rows, 1);
    layer->y1 = floats(plan, rows, hidden);
    layer->slope = floats(plan, rows, inner);
    layer->inner = bert->training ? floats(plan, rows, inner) : layer->slope;
    layer->xhat2 = floats(plan, rows, hidden);
    layer->rstd2 = floats(plan, rows, 1);
    layer->y2 = floats(plan, rows, hidden);
}

/* In evaluation nothing is kept, so all layers share one set of buffers but for their outputs, which alternate. */
static void plan_layers(struct dd_bert *bert, struct plan *plan) {
    struct dd_bert_layer shared = {0};
    float *other = NULL;
    bool counting = plan->base == NULL;
    if (!bert->training) {
        plan_layer(bert, plan, &shared, (size_t)bert->max_tokens);
        other = floats(plan, (size_t)bert->max_tokens, (size_t)bert->config.hidden_size);
    }
    for (int i = 0; i < bert->config.layers; i++) {
        struct dd_bert_layer layer = shared;
        if (bert->training) {
            int rows = dd_bert_narrow(bert, i) ? bert->max_sequences : bert->max_tokens;
            plan_layer(bert, plan, &layer, (size_t)rows);
        } else if (i % 2 == 1) {
            layer.y2 = other;
        }
        if (!counting) {
            layer.x = i == 0 ? bert->embedding : bert->layer[i - 1].y2;
            bert->layer[i] = layer;
        }
    }
}

static void plan_training(struct dd_bert *bert, struct plan *plan) {
    size_t tokens = (size_t)bert->max_tokens, hidden = (size_t)bert->config.hidden_size;
    bert->dx = floats(plan, tokens, hidden);
    bert->dz = floats(plan, tokens, hidden);
    bert->dbranch = floats(plan, tokens, hidden);
    bert->dcontext = floats(plan, tokens, hidden);
    bert->dqkv = floats(plan, tokens, 3 * hidden);
    bert->dinner = floats(plan, tokens, (size_t)bert->config.intermediate_size);
    bert->dpooled = floats(plan, (size_t)bert->max_sequences, hidden);
    bert->dcls = floats(plan, (size_t)bert->max_sequences, hidden);
    bert->partial = floats(plan, 32, 2 * hidden);
    bert->order = take(plan, tokens, 1, sizeof(int32_t));
    bert->order_spare = take(plan, tokens, 1, sizeof(int32_t));
    bert->touched = take(plan, tokens, 1, sizeof(int32_t));
    bert->touched_first = take(plan, tokens + 1, 1, sizeof(int32_t));
}

static void plan_all(struct dd_bert *bert, struct plan *plan, int lanes) {
    size_t tokens = (size_t)bert->max_tokens, hidden = (size_t)bert->config.hidden_size;
    size_t sequences = (size_t)bert->max_sequences;
    bert->at.layer = take(plan, (size_t)bert->config.layers, 1, sizeof *bert->at.layer);
    bert->layer = take(plan, (size_t)bert->config.layers, 1, sizeof *bert->layer);
    bert->xhat0 = floats(plan, tokens, hidden);
    bert->rstd0 = floats(plan, tokens, 1);
    bert->embedding = floats(plan, tokens, hidden);
    bert->cls = floats(plan, sequences, hidden);
    bert->pooled = floats(plan, sequences, hidden);
    bert->pooled_dropped = floats(plan, sequences, hidden);
    bert->cls_rows = take(plan, sequences, 1, sizeof(int32_t));
    bert->scratch_floats = dd_attention_scratch_floats(bert->max_length, bert->head_size);
    bert->scratch = floats(plan, (size_t)lanes, bert->scratch_floats);
    plan_layers(bert, plan);
    if (bert->bf16) {
        bert->weight16 = take(plan, (size_t)bert->config.layers, dd_bert_weight_count(&bert->config), sizeof(uint16_t));
        for (int i = 0; i < (bert->training ? 2 : 1); i++) {
            bert->half[i] = take(plan, tokens, dd_bert_half_width(&bert->config), sizeof(uint16_t));
        }
    }
    dd_bert_plan_int8(bert, take, plan);
    if (bert->training) {
        plan_training(bert, plan);
    }
}

static void describe(struct dd_bert *bert, const struct dd_bert_config *config, int max_tokens, int max_sequences,
                     int max_length, bool training, enum dd_precision precision) {
    *bert = (struct dd_bert){.config = *config,
                             .max_tokens = max_tokens,
                             .max_sequences = max_sequences,
                             .max_length = max_length,
                             .training = training,
                             .bf16 = precision == DD_PRECISION_BF16,
                             .head_size = config->hidden_size / config->heads};
}

size_t dd_bert_bytes(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                     bool training, enum dd_precision precision) {
    struct dd_bert bert;
    describe(&bert, config, max_tokens, max_sequences, max_length, training, precision);
    struct plan plan = {0};
    plan_all(&bert, &plan, DD_MAX(1, (int)sysconf(_SC_NPROCESSORS_ONLN)));
    return plan.overflow ? SIZE_MAX : plan.used + sizeof bert;
}

static size_t offset_of(const struct dd_params *params, const char *name) {
    const struct dd_tensor *tensor = dd_params_find(params, name);
    assert(tensor != NULL);
    return tensor->offset;
}

static size_t layer_offset(const struct dd_params *params, int layer, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "bert.encoder.layer.%d.%s", layer, name);
    return offset_of(params, full);
}

static void find_offsets(struct dd_bert *bert, const struct dd_params *layout) {
    struct dd_bert_offsets *at = &bert->at;
    at->word = offset_of(layout, "bert.embeddings.word_embeddings.weight");
    at->position = offset_of(layout, "bert.embeddings.position_embeddings.weight");
    at->type = offset_of(layout, "bert.embeddings.token_type_embeddings.weight");
    at->norm_gain = offset_of(layout, "bert.embeddings.LayerNorm.weight");
    at->norm_shift = offset_of(layout, "bert.embeddings.LayerNorm.bias");
    at->pooler_weight = offset_of(layout, "bert.pooler.dense.weight");
    at->pooler_bias = offset_of(layout, "bert.pooler.dense.bias");
    at->classifier_weight = offset_of(layout, "classifier.weight");
    at->classifier_bias = offset_of(layout, "classifier.bias");
    for (int i = 0; i < bert->config.layers; i++) {
        at->layer[i] = (struct dd_bert_layer_offsets){
            .qkv_weight = layer_offset(layout, i, "attention.self.query.weight"),
            .qkv_bias = layer_offset(layout, i, "attention.self.query.bias"),
            .output_weight = layer_offset(layout, i, "attention.output.dense.weight"),
            .output_bias = layer_offset(layout, i, "attention.output.dense.bias"),
            .norm1_gain = layer_offset(layout, i, "attention.output.LayerNorm.weight"),
            .norm1_shift = layer_offset(layout, i, "attention.output.LayerNorm.bias"),
            .up_weight = layer_offset(layout, i, "intermediate.dense.weight"),
            .up_bias = layer_offset(layout, i, "intermediate.dense.bias"),
            .down_weight = layer_offset(layout, i, "output.dense.weight"),
            .down_bias = layer_offset(layout, i, "output.dense.bias"),
            .norm2_gain = layer_offset(layout, i, "output.LayerNorm.weight"),
            .norm2_shift = layer_offset(layout, i, "output.LayerNorm.bias"),
        };
    }
}

static enum dd_status parse_activation(const char *name, enum dd_activation *ret_activation, struct dd_error *err) {
    static const struct {
        const char *name;
        enum dd_activation activation;
    } known[] = {{"gelu", DD_ACT_GELU},
                 {"gelu_new", DD_ACT_GELU_NEW},
                 {"gelu_pytorch_tanh", DD_ACT_GELU_NEW},
                 {"relu", DD_ACT_RELU}};
    for (size_t i = 0; i < DD_ARRAY_LEN(known); i++) {
        if (strcmp(name, known[i].name) == 0) {
            *ret_activation = known[i].activation;
            return DD_OK;
        }
    }
    return dd_fail(err, DD_UNSUPPORTED, "activation_unsupported",
                   "hidden_act is \"%.40s\"; it must be gelu, gelu_new, gelu_pytorch_tanh or relu", name);
}

static enum dd_status check(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                            enum dd_precision precision, struct dd_error *err) {
    enum dd_status status = dd_bert_config_check(config, err);
    if (status != DD_OK) {
        return status;
    }
    if (precision != DD_PRECISION_FP32 && !dd_engine_has_bf16()) {
        return dd_fail(err, DD_UNSUPPORTED, "precision_unsupported",
                       "precision bf16 is not available on this machine; use fp32");
    }
    if (max_length < 1 || max_length > config->max_positions) {
        return dd_fail(err, DD_INVALID, "max_length_out_of_range", "max_length is %d; it must be between 1 and %d",
                       max_length, config->max_positions);
    }
    if (max_sequences < 1 || max_tokens < max_sequences || max_tokens > INT_MAX / 4) {
        return dd_fail(err, DD_INVALID, "batch_out_of_range", "a batch of %d sequences and %d tokens is not possible",
                       max_sequences, max_tokens);
    }
    return DD_OK;
}

static enum dd_status allocate(struct dd_bert *bert, struct dd_error *err) {
    struct plan plan = {0};
    int lanes = dd_team_lanes(bert->team);
    plan_all(bert, &plan, lanes);
    if (plan.overflow) {
        return dd_fail_memory(err, SIZE_MAX);
    }
    bert->arena_bytes = plan.used;
    bert->arena = dd_slab_new(plan.used, 1);
    if (bert->arena == NULL) {
        return dd_fail_memory(err, plan.used);
    }
    plan = (struct plan){.base = bert->arena};
    plan_all(bert, &plan, lanes);
    return DD_OK;
}

/* *plan: a dd_bert as dd_bert_new describes it; what it needs besides is found and allocated. */
static enum dd_status make(const struct dd_bert *plan, struct dd_team *team, struct dd_bert **ret_bert,
                           struct dd_error *err) {
    enum dd_activation activation = DD_ACT_GELU;
    struct dd_params *layout = NULL;
    enum dd_status status = parse_activation(plan->config.hidden_act, &activation, err);
    if (status == DD_OK) {
        status = plan->int8 ? dd_params_layout_int8(&plan->config, &layout, err)
                            : dd_params_layout(&plan->config, &layout, err);
    }
    if (status != DD_OK) {
        return status;
    }
    struct dd_bert *bert = dd_calloc(1, sizeof *bert);
    if (bert == NULL) {
        dd_params_free(layout);
        return dd_fail_memory(err, sizeof *bert);
    }
    *bert = *plan;
    bert->team = team;
    bert->simd = dd_simd();
    bert->activation = activation;
    bert->n_params = layout->count;
    status = allocate(bert, err);
    if (status == DD_OK) {
        find_offsets(bert, layout);
        *ret_bert = bert;
    } else {
        dd_bert_free(bert);
    }
    dd_params_free(layout);
    return status;
}

enum dd_status dd_bert_new(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                           bool training, enum dd_precision precision, struct dd_team *team, struct dd_bert **ret_bert,
                           struct dd_error *err) {
    struct dd_bert plan;
    enum dd_status status = check(config, max_tokens, max_sequences, max_length, precision, err);
    if (status != DD_OK) {
        return status;
    }
    describe(&plan, config, max_tokens, max_sequences, max_length, training, precision);
    return make(&plan, team, ret_bert, err);
}

enum dd_status dd_bert_new_int8(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                                struct dd_team *team, struct dd_bert **ret_bert, struct dd_error *err) {
    struct dd_bert plan;
    enum dd_status status = check(config, max_tokens, max_sequences, max_length, DD_PRECISION_FP32, err);
    if (status != DD_OK) {
        return status;
    }
    describe(&plan, config, max_tokens, max_sequences, max_length, false, DD_PRECISION_FP32);
    plan.int8 = true;
    return make(&plan, team, ret_bert, err);
}

void dd_bert_free(struct dd_bert *bert) {
    if (bert != NULL) {
        dd_slab_free(bert->arena, bert->arena_bytes, 1);
        free(bert);
    }
}

void dd_bert_set_frozen(struct dd_bert *bert, bool frozen) {
    bert->frozen = frozen;
}

void dd_bert_set_full(struct dd_bert *bert, bool full) {
    assert(!bert->training);
    bert->full = full;
}

const float *dd_bert_hidden(const struct dd_bert *bert) {
    return bert->hidden;
}

const float *dd_bert_state(const struct dd_bert *bert, int state) {
    assert(bert->training && state >= 0 && state <= bert->config.layers);
    return state == 0 ? bert->embedding : bert->layer[state - 1].y2;
}

void dd_bert_set_extra(struct dd_bert *bert, const struct dd_bert_extra *extra) {
    bert->extra = extra;
}

struct dd_bert_qkv dd_bert_qkv(const struct dd_bert *bert, int layer) {
    size_t hidden = (size_t)bert->config.hidden_size;
    const float *qkv = bert->layer[layer].qkv;
    if (!dd_bert_narrow(bert, layer)) {
        return (struct dd_bert_qkv){
            .q = qkv, .k = qkv + hidden, .v = qkv + 2 * hidden, .q_stride = 3 * hidden, .kv_stride = 3 * hidden};
    }
    const float *kv = qkv + (size_t)bert->max_sequences * hidden;
    return (struct dd_bert_qkv){
        .q = qkv, .k = kv, .v = kv + hidden, .q_stride = hidden, .kv_stride = 2 * hidden, .cls = true};
}

void dd_bert_set_extra_qkv(struct dd_bert *bert, const struct dd_bert_extra_qkv *extra) {
    bert->extra_qkv = extra;
}

void dd_bert_set_tap(struct dd_bert *bert, dd_bert_tap *tap, void *context) {
    bert->tap = tap;
    bert->tap_context = context;
}

const float *dd_bert_pooled(const struct dd_bert *bert) {
    return bert->pooled;
}

const int32_t *dd_bert_touched(const struct dd_bert *bert, int *ret_count) {
    *ret_count = bert->n_touched;
    return bert->touched;
}

double dd_bert_classifier_dropout(const struct dd_bert_config *config) {
    return isnan(config->classifier_dropout) ? config->hidden_dropout : config->classifier_dropout;
}
