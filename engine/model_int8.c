/* model_int8: classifiers whose matrices are int8: made from fp32, read, written.
 *
 * The directory is that of any model here, but for two files.
 *
 * config.json has "quantization_config": {"quant_method": "distilld_int8", "version": 1}, and as "model_type"
 * "distilld_int8_bert", which the Auto classes of transformers refuse by name (of a quantization method that they do
 * not know they only warn).
 *
 * model.safetensors has for each tensor that dd_int8_keeps
 *   <name>        I8 [out, in], values -127 … 127
 *   <name>_scale  F32 [out], finite and not negative; weight = value · scale of its row
 * Those are the word embeddings and every linear layer but the classifier.  All else is F32 as before.
 *
 * Scales are symmetric, max |row| / 127 (dd_int8_quantize).  Activations are scaled as they come, so nothing else has
 * to be stored, and no data is needed to make it.  Measured on the 1,401 test rows of headlines3, embeddings in int8,
 * too: 3 layers × 768 .8172 → .8170 macro F1, 1 layer .8230 → .8237; so fp32 embeddings would gain nothing.
 *
 * An int8 model only answers: where fp32 is needed (teacher, init, pruning) it is refused with that reason, since the
 * way back gives a worse model than the one it was made from, which its maker has.
 *
 * Threads: no state.
 */
#include "engine/model.h"

#include "engine/int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *dd_engine_int8(void) {
    size_t count;
    return dd_int8_kernels(&count)[0]->name;
}

uint64_t dd_model_memory_bytes(const struct dd_model *model) {
    uint64_t bytes = (uint64_t)model->params->count * sizeof(float);
    const struct dd_int8 *int8 = model->params->int8;
    if (int8 == NULL) {
        return bytes;
    }
    for (int i = 0; i < int8->layers * DD_INT8_WEIGHTS; i++) {
        bytes += dd_int8_matrix_bytes(int8->layer[i].rows, int8->layer[i].columns);
    }
    return bytes + dd_int8_matrix_bytes(int8->pooler.rows, int8->pooler.columns) +
           (uint64_t)int8->vocab_size * ((uint64_t)int8->hidden + sizeof(float));
}

/* Row `row` of the tensor: into its matrix, or among the words. */
static void set_row(struct dd_int8 *int8, struct dd_int8_matrix *matrix, int first, size_t row, const int8_t *q,
                    float scale) {
    if (matrix != NULL) {
        dd_int8_matrix_set(matrix, first + (int)row, q, scale);
        return;
    }
    memcpy(int8->words + row * (size_t)int8->hidden, q, (size_t)int8->hidden);
    int8->word_scale[row] = scale;
}

/* --- made from fp32 ----------------------------------------------------------------------------------------------- */

static enum dd_status quantize_params(const struct dd_params *from, struct dd_params *to, struct dd_error *err) {
    for (int i = 0; i < to->n_tensors; i++) {
        const struct dd_tensor *source = &from->tensors[i], *tensor = &to->tensors[i];
        const float *values = from->slab + source->offset;
        struct dd_int8_matrix *matrix;
        int first;
        if (!dd_int8_find(to->int8, tensor->name, &matrix, &first)) {
            memcpy(to->slab + tensor->offset, values, tensor->count * sizeof(float));
            continue;
        }
        DD_CLEANUP(dd_free_ptr) int8_t *q = dd_calloc(tensor->shape[1], 1);
        if (q == NULL) {
            return dd_fail_memory(err, tensor->shape[1]);
        }
        for (size_t row = 0; row < tensor->shape[0]; row++) {
            float scale;
            dd_int8_quantize(values + row * tensor->shape[1], tensor->shape[1], q, &scale);
            set_row(to->int8, matrix, first, row, q, scale);
        }
    }
    return DD_OK;
}

static enum dd_status copy_tokenizer(const struct dd_tokenizer *from, struct dd_tokenizer **ret_tokenizer,
                                     struct dd_error *err) {
    size_t bytes;
    const char *vocab = dd_tokenizer_vocab(from, &bytes);
    return dd_tokenizer_new(vocab, bytes, dd_tokenizer_settings(from), ret_tokenizer, err);
}

enum dd_status dd_model_quantize(const struct dd_model *model, struct dd_model **ret_model, struct dd_error *err) {
    if (model->info.int8) {
        return dd_fail(err, DD_INVALID, "model_is_int8", "the model is int8 already");
    }
    if (model->info.kind != DD_MODEL_CLASSIFIER) {
        return dd_fail(err, DD_INVALID, "model_is_an_encoder",
                       "the model has no classifier head; fine-tune it on a data set first");
    }
    struct dd_model *made = dd_calloc(1, sizeof *made);
    if (made == NULL) {
        return dd_fail_memory(err, sizeof *made);
    }
    made->info = model->info;
    made->info.int8 = true;
    made->info.bytes = 0;
    made->info.sha256[0] = 0;
    enum dd_status status = model->tokenizer != NULL ? copy_tokenizer(model->tokenizer, &made->tokenizer, err) : DD_OK;
    if (status == DD_OK) {
        status = dd_params_layout_int8(&made->info.config, &made->params, err);
    }
    if (status == DD_OK) {
        status = dd_params_allocate(made->params, err);
    }
    if (status == DD_OK) {
        status = dd_int8_new(&made->info.config, &made->params->int8, err);
    }
    if (status == DD_OK) {
        status = quantize_params(model->params, made->params, err);
    }
    if (status != DD_OK) {
        dd_model_free(made);
        return status;
    }
    *ret_model = made;
    return DD_OK;
}

/* --- read --------------------------------------------------------------------------------------------------------- */

/* "<name>_scale" beside the weight, F32 [rows]. */
static enum dd_status find_scale(const struct dd_weights *weights, const struct dd_weight *weight,
                                 const struct dd_tensor *tensor, const struct dd_weight **ret_scale,
                                 struct dd_error *err) {
    size_t bytes = strlen(weight->name);
    for (size_t i = 0; i < weights->count; i++) {
        const struct dd_weight *item = &weights->items[i];
        if (strncmp(item->name, weight->name, bytes) != 0 || strcmp(item->name + bytes, "_scale") != 0) {
            continue;
        }
        if (item->dtype != DD_DTYPE_F32 || item->rank != 1 || item->shape[0] != tensor->shape[0]) {
            return dd_fail(err, DD_CORRUPT, "weights_shape", "%s_scale must be %zu numbers of type float32",
                           tensor->name, tensor->shape[0]);
        }
        *ret_scale = item;
        return DD_OK;
    }
    return dd_fail(err, DD_CORRUPT, "weights_missing", "%s_scale is missing from the file", tensor->name);
}

static enum dd_status read_scales(const struct dd_weight *weight, size_t rows, const char *name, float *scale,
                                  struct dd_error *err) {
    struct dd_weight_reader reader;
    enum dd_status status = dd_weight_reader_init(&reader, weight, err);
    if (status != DD_OK) {
        return status;
    }
    dd_weight_read(&reader, 0, rows, scale);
    dd_weight_reader_release(&reader);
    for (size_t i = 0; i < rows; i++) {
        if (!(scale[i] >= 0.0f) || !isfinite(scale[i])) {
            return dd_fail(err, DD_CORRUPT, "weights_not_finite",
                           "%s_scale holds %g; scales are finite and not negative", name, (double)scale[i]);
        }
    }
    return DD_OK;
}

static enum dd_status read_rows(const uint8_t *bytes, const float *scale, const struct dd_tensor *tensor,
                                struct dd_int8 *into, struct dd_sha256 *hash, struct dd_error *err) {
    struct dd_int8_matrix *matrix = NULL;
    int first = 0;
    size_t columns = tensor->shape[1];
    DD_CLEANUP(dd_free_ptr) int8_t *q = dd_calloc(columns, 1);
    if (q == NULL) {
        return dd_fail_memory(err, columns);
    }
    if (into != NULL) {
        (void)dd_int8_find(into, tensor->name, &matrix, &first);
    }
    for (size_t row = 0; row < tensor->shape[0]; row++) {
        memcpy(q, bytes + row * columns, columns);
        if (memchr(q, (uint8_t)INT8_MIN, columns) != NULL) {
            return dd_fail(err, DD_CORRUPT, "weights_corrupt", "%s holds -128; values are -127 to 127", tensor->name);
        }
        dd_sha256_update(hash, q, columns);
        if (into != NULL) {
            set_row(into, matrix, first, row, q, scale[row]);
        }
    }
    return DD_OK;
}

enum dd_status dd_int8_read_tensor(const struct dd_weights *weights, const struct dd_weight *weight,
                                   const struct dd_tensor *tensor, struct dd_int8 *into, struct dd_sha256 *hash,
                                   struct dd_error *err) {
    const struct dd_weight *scales = NULL;
    struct dd_weight_reader reader;
    DD_CLEANUP(dd_free_ptr) float *scale = dd_calloc(tensor->shape[0], sizeof *scale);
    if (scale == NULL) {
        return dd_fail_memory(err, tensor->shape[0] * sizeof *scale);
    }
    enum dd_status status = find_scale(weights, weight, tensor, &scales, err);
    if (status == DD_OK) {
        status = read_scales(scales, tensor->shape[0], tensor->name, scale, err);
    }
    if (status == DD_OK) {
        status = dd_weight_reader_init(&reader, weight, err);
    }
    if (status != DD_OK) {
        return status;
    }
    dd_sha256_update(hash, scale, tensor->shape[0] * sizeof *scale);
    /* An I8 tensor comes from safetensors alone, where rows follow one another. */
    status = read_rows(reader.bytes, scale, tensor, into, hash, err);
    dd_weight_reader_release(&reader);
    return status;
}

/* --- write -------------------------------------------------------------------------------------------------------- */

static void unpack(const struct dd_int8_matrix *matrix, int first, const struct dd_tensor *tensor, int8_t *to) {
    for (size_t row = 0; row < tensor->shape[0]; row++) {
        dd_int8_matrix_get(matrix, first + (int)row, to + row * tensor->shape[1]);
    }
}

/* Fills out[] with every tensor; `bytes` has room for those that are packed. */
static size_t collect(const struct dd_params *params, struct dd_tensor_out *out, int8_t *bytes) {
    size_t count = 0;
    for (int i = 0; i < params->n_tensors; i++) {
        const struct dd_tensor *tensor = &params->tensors[i];
        struct dd_int8_matrix *matrix;
        int first;
        bool kept = dd_int8_find(params->int8, tensor->name, &matrix, &first);
        struct dd_tensor_out *weight = &out[count++];
        *weight = (struct dd_tensor_out){.dtype = kept ? DD_DTYPE_I8 : DD_DTYPE_F32,
                                         .rank = tensor->rank,
                                         .shape = {tensor->shape[0], tensor->shape[1]},
                                         .values = params->slab + tensor->offset};
        snprintf(weight->name, sizeof weight->name, "%s", tensor->name);
        if (!kept) {
            continue;
        }
        weight->values = params->int8->words;
        if (matrix != NULL) {
            unpack(matrix, first, tensor, bytes);
            weight->values = bytes;
            bytes += tensor->shape[0] * tensor->shape[1];
        }
        struct dd_tensor_out *scale = &out[count++];
        *scale = (struct dd_tensor_out){.dtype = DD_DTYPE_F32,
                                        .rank = 1,
                                        .shape = {tensor->shape[0], 1},
                                        .values = matrix != NULL ? matrix->scale + first : params->int8->word_scale};
        snprintf(scale->name, sizeof scale->name, "%s_scale", tensor->name);
    }
    return count;
}

enum dd_status dd_int8_write(const struct dd_params *params, const char *path, struct dd_error *err) {
    size_t packed = 0, n = (size_t)params->n_tensors * 2;
    for (int i = 0; i < params->n_tensors; i++) {
        const struct dd_tensor *tensor = &params->tensors[i];
        packed += tensor->count == 0 ? tensor->shape[0] * tensor->shape[1] : 0;
    }
    DD_CLEANUP(dd_free_ptr) struct dd_tensor_out *out = dd_calloc(n, sizeof *out);
    DD_CLEANUP(dd_free_ptr) int8_t *bytes = dd_calloc(packed, 1);
    if (out == NULL || bytes == NULL) {
        return dd_fail_memory(err, packed);
    }
    return dd_safetensors_write(path, out, collect(params, out, bytes), err);
}
