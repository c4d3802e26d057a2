/* init: new weights, as transformers' _init_weights: matrices N(0, initializer_range), biases 0, LayerNorm 1 and 0, the
 * [PAD] row of the word embeddings 0.  Each tensor draws from its own stream, numbered by its place in the slab, so a
 * head that is added to a pretrained encoder gets the values it would have had in a model from scratch.
 */
#include "engine/nn.h"

#include <string.h>

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static void init_tensor(struct dd_params *params, int index, const struct dd_bert_config *config, uint64_t seed) {
    const struct dd_tensor *tensor = &params->tensors[index];
    float *value = params->slab + tensor->offset;
    if (tensor->rank == 2) {
        struct dd_stream stream = {.seed = seed, .purpose = DD_PURPOSE_INIT, .tensor = (uint32_t)index};
        dd_random_normal(&stream, 0, tensor->count, (float)config->initializer_range, value);
    } else {
        float fill = ends_with(tensor->name, "LayerNorm.weight") ? 1.0f : 0.0f;
        for (size_t i = 0; i < tensor->count; i++) {
            value[i] = fill;
        }
    }
    if (strcmp(tensor->name, "bert.embeddings.word_embeddings.weight") == 0) {
        memset(value + (size_t)config->pad_token_id * tensor->shape[1], 0, tensor->shape[1] * sizeof(float));
    }
}

void dd_params_init(struct dd_params *params, const struct dd_bert_config *config, uint64_t seed) {
    for (int i = 0; i < params->n_tensors; i++) {
        init_tensor(params, i, config, seed);
    }
}

void dd_params_init_head(struct dd_params *params, const struct dd_bert_config *config, uint64_t seed, bool pooler,
                         bool classifier) {
    for (int i = 0; i < params->n_tensors; i++) {
        const char *name = params->tensors[i].name;
        if ((pooler && strncmp(name, "bert.pooler.", 12) == 0) ||
            (classifier && strncmp(name, "classifier.", 11) == 0)) {
            init_tensor(params, i, config, seed);
        }
    }
}
