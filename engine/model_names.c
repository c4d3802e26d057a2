/* model_names: which tensor of a file is which parameter.
 *
 * Files name parameters as the module that was saved did.  Around the names of transformers'
 * BertForSequenceClassification stand the prefixes of wrappers ("module." of DataParallel, "model." of trainers,
 * "bert." of the classifier, absent in a bare BertModel), in any number; TensorFlow's converters wrote gamma and beta
 * for LayerNorm's weight and bias. Heads that a classifier does not have (cls.*), buffers (position_ids) and whatever a
 * custom module adds outside the encoder are passed over; a tensor inside the encoder that the configuration does not
 * foresee is an error, for then the configuration is of another model. Threads: no state.
 */
#include "engine/model.h"

#include "engine/int8.h"

#include <string.h>

#define CANONICAL_BYTES (DD_WEIGHT_NAME_BYTES + 16)

static const char *const prefixes[] = {"module.", "model.", "bert.", "_orig_mod.", "auto_model.", "0.auto_model."};
static const char *const buffers[] = {"bert.embeddings.position_ids", "bert.embeddings.token_type_ids"};

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static const char *strip_prefixes(const char *name) {
    bool stripped = true;
    while (stripped) {
        stripped = false;
        for (size_t i = 0; i < DD_ARRAY_LEN(prefixes); i++) {
            if (starts_with(name, prefixes[i])) {
                name += strlen(prefixes[i]);
                stripped = true;
            }
        }
    }
    return name;
}

/* The name that dd_params has for it; false when it is too long to be one of those. */
static bool canonical_name(const char *raw, char out[CANONICAL_BYTES]) {
    static const char *const old_names[][2] = {{"LayerNorm.gamma", "LayerNorm.weight"},
                                               {"LayerNorm.beta", "LayerNorm.bias"}};
    const char *name = strip_prefixes(raw);
    int length = snprintf(out, CANONICAL_BYTES, "%s%s", starts_with(name, "classifier.") ? "" : "bert.", name);
    if (length < 0 || length >= CANONICAL_BYTES) {
        return false;
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(old_names); i++) {
        size_t old_bytes = strlen(old_names[i][0]);
        if ((size_t)length >= old_bytes && strcmp(out + length - old_bytes, old_names[i][0]) == 0) {
            return (size_t)snprintf(out + length - old_bytes, CANONICAL_BYTES - (size_t)length + old_bytes, "%s",
                                    old_names[i][1]) < CANONICAL_BYTES - (size_t)length + old_bytes;
        }
    }
    return true;
}

static bool is_head(const char *name) {
    return starts_with(name, "bert.pooler.") || starts_with(name, "classifier.");
}

static bool is_buffer(const char *name) {
    for (size_t i = 0; i < DD_ARRAY_LEN(buffers); i++) {
        if (strcmp(name, buffers[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool same_shape(const struct dd_weight *weight, const struct dd_tensor *tensor) {
    return weight->rank == tensor->rank && weight->shape[0] == tensor->shape[0] &&
           (tensor->rank == 1 || weight->shape[1] == tensor->shape[1]);
}

/* Whether both name the same bytes: one tensor under two names. */
static bool same_view(const struct dd_weight *a, const struct dd_weight *b) {
    return a->storage.bytes == b->storage.bytes && a->offset == b->offset && a->dtype == b->dtype &&
           a->rank == b->rank && memcmp(a->shape, b->shape, sizeof a->shape) == 0 &&
           memcmp(a->stride, b->stride, sizeof a->stride) == 0;
}

/* The type that the values of a tensor may have. */
static enum dd_status check_dtype(const struct dd_weight *weight, const struct dd_tensor *tensor, bool int8,
                                  struct dd_error *err) {
    if (int8 && dd_int8_keeps(tensor->name)) {
        return weight->dtype == DD_DTYPE_I8 ? DD_OK
                                            : dd_fail(err, DD_CORRUPT, "weights_dtype",
                                                      "%s is not of type int8, as config.json says", tensor->name);
    }
    if (weight->dtype == DD_DTYPE_OTHER || weight->dtype == DD_DTYPE_I8) {
        return dd_fail(err, DD_UNSUPPORTED, "weights_dtype",
                       "%s is not of type float32, float16, bfloat16 or float64 (quantised?)", tensor->name);
    }
    return DD_OK;
}

/* "<tensor kept as int8>_scale" */
static bool is_scale(const char *name) {
    static const char end[] = "_scale";
    char of[CANONICAL_BYTES];
    size_t bytes = strlen(name);
    if (bytes < sizeof end || strcmp(name + bytes - (sizeof end - 1), end) != 0) {
        return false;
    }
    snprintf(of, sizeof of, "%.*s", (int)(bytes - (sizeof end - 1)), name);
    return dd_int8_keeps(of);
}

static enum dd_status match_weight(const struct dd_weights *weights, const struct dd_params *layout, size_t index,
                                   int tensor_index, bool int8, int *sources, struct dd_error *err) {
    const struct dd_weight *weight = &weights->items[index];
    const struct dd_tensor *tensor = &layout->tensors[tensor_index];
    if (!same_shape(weight, tensor)) {
        char found[160], expected[64];
        dd_weight_shape_text(weight->rank, weight->shape, found, sizeof found);
        dd_weight_shape_text(tensor->rank, tensor->shape, expected, sizeof expected);
        return dd_fail(err, DD_CORRUPT, "weights_shape", "%s has shape %s; the configuration asks for %s", tensor->name,
                       found, expected);
    }
    enum dd_status status = check_dtype(weight, tensor, int8, err);
    if (status != DD_OK) {
        return status;
    }
    if (sources[tensor_index] >= 0 && !same_view(weight, &weights->items[sources[tensor_index]])) {
        return dd_fail(err, DD_CORRUPT, "weights_ambiguous", "%s stands in the file twice, as %.120s and as %.120s",
                       tensor->name, weights->items[sources[tensor_index]].name, weight->name);
    }
    sources[tensor_index] = (int)index;
    return DD_OK;
}

static enum dd_status check_missing(const struct dd_weights *weights, const struct dd_params *layout,
                                    const int *sources, struct dd_error *err) {
    int missing = 0, first = -1, found = 0;
    for (int i = 0; i < layout->n_tensors; i++) {
        bool head = is_head(layout->tensors[i].name);
        found += !head && sources[i] >= 0;
        if (!head && sources[i] < 0) {
            missing++;
            first = first < 0 ? i : first;
        }
    }
    if (missing == 0) {
        return DD_OK;
    }
    if (found == 0 && weights->count > 0) {
        return dd_fail(err, DD_UNSUPPORTED, "weights_not_bert",
                       "none of the file's %zu tensors is one of BERT's; the first is called %.200s", weights->count,
                       weights->items[0].name);
    }
    return dd_fail(err, DD_CORRUPT, "weights_missing", "%s is missing from the file%s", layout->tensors[first].name,
                   missing > 1 ? ", and others" : "");
}

/* Both parts of each head or none; a classifier needs its pooler. */
static enum dd_status check_heads(const struct dd_params *layout, const int *sources, struct dd_error *err) {
    int at = layout->n_tensors - 4; /* pooler weight and bias, classifier weight and bias */
    for (int i = at; i < layout->n_tensors; i += 2) {
        if ((sources[i] < 0) != (sources[i + 1] < 0)) {
            return dd_fail(err, DD_CORRUPT, "weights_missing", "%s is missing from the file",
                           layout->tensors[sources[i] < 0 ? i : i + 1].name);
        }
    }
    if (sources[at] < 0 && sources[at + 2] >= 0) {
        return dd_fail(err, DD_UNSUPPORTED, "weights_missing",
                       "the file has a classifier but no bert.pooler.dense; only classifiers on the pooled output, as "
                       "BertForSequenceClassification, are supported");
    }
    return DD_OK;
}

enum dd_status dd_model_match(const struct dd_weights *weights, const struct dd_params *layout, bool ignore_classifier,
                              bool int8, int *sources, struct dd_error *err) {
    for (int i = 0; i < layout->n_tensors; i++) {
        sources[i] = -1;
    }
    for (size_t i = 0; i < weights->count; i++) {
        char name[CANONICAL_BYTES];
        if (!canonical_name(weights->items[i].name, name) || (ignore_classifier && starts_with(name, "classifier.")) ||
            (int8 && is_scale(name))) {
            continue;
        }
        const struct dd_tensor *tensor = dd_params_find(layout, name);
        if (tensor != NULL) {
            enum dd_status status =
                match_weight(weights, layout, i, (int)(tensor - layout->tensors), int8, sources, err);
            if (status != DD_OK) {
                return status;
            }
        } else if ((starts_with(name, "bert.encoder.") || starts_with(name, "bert.embeddings.")) && !is_buffer(name)) {
            return dd_fail(err, DD_CORRUPT, "weights_unexpected",
                           "the file has a tensor %.200s that the configuration does not foresee",
                           weights->items[i].name);
        }
    }
    enum dd_status status = check_missing(weights, layout, sources, err);
    return status == DD_OK ? check_heads(layout, sources, err) : status;
}

size_t dd_model_classifier_rows(const struct dd_weights *weights) {
    for (size_t i = 0; i < weights->count; i++) {
        if (strcmp(strip_prefixes(weights->items[i].name), "classifier.weight") == 0 && weights->items[i].rank == 2) {
            return weights->items[i].shape[0];
        }
    }
    return 0;
}
