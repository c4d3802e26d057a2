/* params: the layout of a BERT classifier's parameters in one slab.
 *
 * Order: word, position and token-type embeddings, their LayerNorm; for each layer the weights of q, k, v ([3 hidden,
 * hidden] as one), the biases of q, k, v, attention output dense and LayerNorm, intermediate dense, output dense and
 * LayerNorm; pooler; classifier; then, where training needs it, match.projection ([teacher's width, hidden] and its
 * bias), which no model has.  Gradients, optimizer moments and checkpoints use the same layout, so it is fixed for
 * ever.  Tensors begin at multiples of 64 bytes (k and v follow q without a gap); the floats between are padding, zero
 * from allocation on, and counted in `count`.
 *
 * Threads: a dd_params belongs to whoever made it; the tensor table never changes after dd_params_new.
 */
#include "engine/model.h"

#include "engine/int8.h"
#include "engine/nn.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TENSORS_BEFORE_LAYERS 5
#define TENSORS_PER_LAYER 16
#define TENSORS_AFTER_LAYERS 4
#define TENSORS_TRAINING 2 /* weight and bias of the projection */

static enum dd_status check_int(const char *field, int value, int least, int most, struct dd_error *err) {
    if (value < least || value > most) {
        return dd_fail(err, DD_INVALID, "model_config_invalid", "%s is %d; it must be between %d and %d", field, value,
                       least, most);
    }
    return DD_OK;
}

static enum dd_status check_rate(const char *field, double value, struct dd_error *err) {
    if (!(value >= 0.0 && value < 1.0)) {
        return dd_fail(err, DD_INVALID, "model_config_invalid", "%s is %g; it must be at least 0 and below 1", field,
                       value);
    }
    return DD_OK;
}

enum dd_status dd_bert_config_check(const struct dd_bert_config *config, struct dd_error *err) {
    const struct {
        const char *field;
        int value, least, most;
    } bounds[] = {
        {"vocab_size", config->vocab_size, 1, DD_MAX_VOCAB},
        {"hidden_size", config->hidden_size, 1, DD_MAX_HIDDEN},
        {"num_hidden_layers", config->layers, 1, DD_MAX_LAYERS},
        {"num_attention_heads", config->heads, 1, DD_MAX_HIDDEN},
        {"intermediate_size", config->intermediate_size, 1, DD_MAX_INTERMEDIATE},
        {"max_position_embeddings", config->max_positions, 1, DD_MAX_POSITIONS},
        {"type_vocab_size", config->type_vocab_size, 1, DD_MAX_TYPES},
        {"the number of labels", config->n_labels, 1, DD_MAX_CLASSES},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(bounds); i++) {
        enum dd_status status = check_int(bounds[i].field, bounds[i].value, bounds[i].least, bounds[i].most, err);
        if (status != DD_OK) {
            return status;
        }
    }
    if (config->pad_token_id < 0 || config->pad_token_id >= config->vocab_size) {
        return dd_fail(err, DD_INVALID, "model_config_invalid", "pad_token_id is %d; it must be below vocab_size %d",
                       config->pad_token_id, config->vocab_size);
    }
    if (config->hidden_size % config->heads != 0) {
        return dd_fail(err, DD_INVALID, "model_config_invalid",
                       "num_attention_heads is %d; it must divide hidden_size %d", config->heads, config->hidden_size);
    }
    if (!(config->layer_norm_eps > 0.0 && config->layer_norm_eps <= 1.0)) {
        return dd_fail(err, DD_INVALID, "model_config_invalid", "layer_norm_eps is %g; it must be above 0, at most 1",
                       config->layer_norm_eps);
    }
    if (!(config->initializer_range >= 0.0 && config->initializer_range <= 100.0)) {
        return dd_fail(err, DD_INVALID, "model_config_invalid", "initializer_range is %g; it must be between 0 and 100",
                       config->initializer_range);
    }
    enum dd_status status = check_rate("hidden_dropout_prob", config->hidden_dropout, err);
    if (status == DD_OK) {
        status = check_rate("attention_probs_dropout_prob", config->attention_dropout, err);
    }
    if (status == DD_OK && !isnan(config->classifier_dropout)) {
        status = check_rate("classifier_dropout", config->classifier_dropout, err);
    }
    return status;
}

/* The table while it is being filled; `at` is the next free float. Sizes are safe once dd_bert_config_check has passed:
 * no tensor exceeds 2^20 × 2^14 floats and there are fewer than 2^11 tensors. */
struct layout {
    struct dd_params *params;
    size_t at;
};

static struct dd_tensor *place(struct layout *layout, size_t rows, size_t columns, bool decay) {
    struct dd_tensor *tensor = &layout->params->tensors[layout->params->n_tensors++];
    tensor->rank = columns == 0 ? 1 : 2;
    tensor->shape[0] = rows;
    tensor->shape[1] = columns == 0 ? 1 : columns;
    tensor->offset = layout->at;
    tensor->count = rows * tensor->shape[1];
    tensor->decay = decay;
    layout->at += tensor->count;
    return tensor;
}

static void align(struct layout *layout) {
    layout->at = (layout->at + DD_PARAM_ALIGN - 1) / DD_PARAM_ALIGN * DD_PARAM_ALIGN;
}

static void place_matrix(struct layout *layout, const char *name, size_t rows, size_t columns) {
    align(layout);
    snprintf(place(layout, rows, columns, true)->name, sizeof layout->params->tensors->name, "%s.weight", name);
}

/* weight [size] of a LayerNorm, or a bias: neither decays. */
static void place_vector(struct layout *layout, const char *name, const char *kind, size_t size) {
    align(layout);
    snprintf(place(layout, size, 0, false)->name, sizeof layout->params->tensors->name, "%s.%s", name, kind);
}

static void place_linear(struct layout *layout, const char *name, size_t out, size_t in) {
    place_matrix(layout, name, out, in);
    place_vector(layout, name, "bias", out);
}

static void place_layer(struct layout *layout, int index, size_t hidden, size_t intermediate) {
    static const char *const part[3] = {"query", "key", "value"};
    char name[64];
    align(layout);
    for (int i = 0; i < 3; i++) {
        snprintf(place(layout, hidden, hidden, true)->name, sizeof layout->params->tensors->name,
                 "bert.encoder.layer.%d.attention.self.%s.weight", index, part[i]);
    }
    align(layout);
    for (int i = 0; i < 3; i++) {
        snprintf(place(layout, hidden, 0, false)->name, sizeof layout->params->tensors->name,
                 "bert.encoder.layer.%d.attention.self.%s.bias", index, part[i]);
    }
    snprintf(name, sizeof name, "bert.encoder.layer.%d.attention.output.dense", index);
    place_linear(layout, name, hidden, hidden);
    snprintf(name, sizeof name, "bert.encoder.layer.%d.attention.output.LayerNorm", index);
    place_vector(layout, name, "weight", hidden);
    place_vector(layout, name, "bias", hidden);
    snprintf(name, sizeof name, "bert.encoder.layer.%d.intermediate.dense", index);
    place_linear(layout, name, intermediate, hidden);
    snprintf(name, sizeof name, "bert.encoder.layer.%d.output.dense", index);
    place_linear(layout, name, hidden, intermediate);
    snprintf(name, sizeof name, "bert.encoder.layer.%d.output.LayerNorm", index);
    place_vector(layout, name, "weight", hidden);
    place_vector(layout, name, "bias", hidden);
}

enum dd_status dd_params_layout_projected(const struct dd_bert_config *config, int width, struct dd_params **ret_params,
                                          struct dd_error *err) {
    enum dd_status status = dd_bert_config_check(config, err);
    if (status != DD_OK) {
        return status;
    }
    size_t n_tensors =
        TENSORS_BEFORE_LAYERS + (size_t)config->layers * TENSORS_PER_LAYER + TENSORS_AFTER_LAYERS + TENSORS_TRAINING;
    struct dd_params *params = dd_calloc(1, sizeof *params);
    if (params == NULL) {
        return dd_fail_memory(err, sizeof *params);
    }
    params->tensors = dd_calloc(n_tensors, sizeof *params->tensors);
    if (params->tensors == NULL) {
        dd_params_free(params);
        return dd_fail_memory(err, n_tensors * sizeof *params->tensors);
    }
    struct layout layout = {.params = params};
    size_t hidden = (size_t)config->hidden_size;
    place_matrix(&layout, "bert.embeddings.word_embeddings", (size_t)config->vocab_size, hidden);
    place_matrix(&layout, "bert.embeddings.position_embeddings", (size_t)config->max_positions, hidden);
    place_matrix(&layout, "bert.embeddings.token_type_embeddings", (size_t)config->type_vocab_size, hidden);
    place_vector(&layout, "bert.embeddings.LayerNorm", "weight", hidden);
    place_vector(&layout, "bert.embeddings.LayerNorm", "bias", hidden);
    for (int i = 0; i < config->layers; i++) {
        place_layer(&layout, i, hidden, (size_t)config->intermediate_size);
    }
    place_linear(&layout, "bert.pooler.dense", hidden, hidden);
    place_linear(&layout, "classifier", (size_t)config->n_labels, hidden);
    align(&layout);
    if (width > 0) {
        place_linear(&layout, "match.projection", (size_t)width, hidden);
        params->n_training = TENSORS_TRAINING;
        align(&layout);
    }
    params->count = layout.at;
    if (params->count > DD_MAX_SLAB_FLOATS) {
        dd_params_free(params);
        return dd_fail(err, DD_TOO_LARGE, "model_too_large",
                       "a model of this shape has %zu parameters; at most %zu are supported", layout.at,
                       DD_MAX_SLAB_FLOATS);
    }
    *ret_params = params;
    return DD_OK;
}

enum dd_status dd_params_layout(const struct dd_bert_config *config, struct dd_params **ret_params,
                                struct dd_error *err) {
    return dd_params_layout_projected(config, 0, ret_params, err);
}

enum dd_status dd_params_layout_int8(const struct dd_bert_config *config, struct dd_params **ret_params,
                                     struct dd_error *err) {
    struct dd_params *params = NULL;
    enum dd_status status = dd_params_layout(config, &params, err);
    if (status != DD_OK) {
        return status;
    }
    struct layout layout = {.params = params};
    for (int i = 0; i < params->n_tensors; i++) {
        struct dd_tensor *tensor = &params->tensors[i];
        bool follows = strstr(tensor->name, "self.key.bias") != NULL || strstr(tensor->name, "self.value.bias") != NULL;
        tensor->count = dd_int8_keeps(tensor->name) ? 0 : tensor->count;
        if (!follows) {
            align(&layout);
        }
        tensor->offset = layout.at;
        layout.at += tensor->count;
    }
    align(&layout);
    params->count = layout.at;
    *ret_params = params;
    return DD_OK;
}

enum dd_status dd_params_allocate(struct dd_params *params, struct dd_error *err) {
    params->slab = dd_slab_new(params->count, sizeof *params->slab);
    return params->slab != NULL ? DD_OK : dd_fail_memory(err, params->count * sizeof *params->slab);
}

enum dd_status dd_params_new(const struct dd_bert_config *config, struct dd_params **ret_params, struct dd_error *err) {
    return dd_params_new_projected(config, 0, ret_params, err);
}

enum dd_status dd_params_new_projected(const struct dd_bert_config *config, int width, struct dd_params **ret_params,
                                       struct dd_error *err) {
    struct dd_params *params = NULL;
    enum dd_status status = dd_params_layout_projected(config, width, &params, err);
    if (status == DD_OK) {
        status = dd_params_allocate(params, err);
    }
    if (status != DD_OK) {
        dd_params_free(params);
        return status;
    }
    *ret_params = params;
    return DD_OK;
}

void dd_params_expect_few_words(struct dd_params *params) {
    const struct dd_tensor *word = dd_params_find(params, "bert.embeddings.word_embeddings.weight");
    assert(word != NULL);
    dd_slab_sparse(params->slab + word->offset, word->count * sizeof *params->slab);
}

void dd_params_free(struct dd_params *params) {
    if (params == NULL) {
        return;
    }
    dd_slab_free(params->slab, params->count, sizeof *params->slab);
    free(params->tensors);
    dd_int8_free(params->int8);
    free(params);
}

const struct dd_tensor *dd_params_find(const struct dd_params *params, const char *name) {
    for (int i = 0; i < params->n_tensors; i++) {
        if (strcmp(params->tensors[i].name, name) == 0) {
            return &params->tensors[i];
        }
    }
    return NULL;
}

uint64_t dd_params_values(const struct dd_params *params) {
    uint64_t values = 0;
    for (int i = 0; i < params->n_tensors - params->n_training; i++) {
        values += (uint64_t)params->tensors[i].shape[0] * params->tensors[i].shape[1];
    }
    return values;
}
