/* model_weights: a set of named tensors in mapped files, and their values as fp32.
 *
 * A set is filled by the reader of one format (safetensors.c, model_torch.c) through dd_weights_add, which is the one
 * place that checks a tensor's extent against its storage; after that reading needs no checks.  Several files (an
 * index.json) make one set.
 * Threads: a set belongs to its caller and is not changed after dd_weights_open.
 */
#include "engine/model.h"

#include <stdlib.h>
#include <string.h>

#define MAX_INDEX_FILES 64
#define MAX_INDEX_BYTES ((size_t)16 << 20)

size_t dd_dtype_bytes(enum dd_dtype dtype) {
    switch (dtype) {
    case DD_DTYPE_F32:
        return 4;
    case DD_DTYPE_F16:
    case DD_DTYPE_BF16:
        return 2;
    case DD_DTYPE_F64:
        return 8;
    case DD_DTYPE_I8:
        return 1;
    case DD_DTYPE_OTHER:
        break;
    }
    return 0;
}

void dd_weight_shape_text(int rank, const size_t *shape, char *out, size_t out_bytes) {
    size_t at = (size_t)snprintf(out, out_bytes, "[");
    for (int i = 0; i < rank && at < out_bytes; i++) {
        at += (size_t)snprintf(out + at, out_bytes - at, "%s%zu", i == 0 ? "" : ", ", shape[i]);
    }
    if (at < out_bytes) {
        snprintf(out + at, out_bytes - at, "]");
    }
}

/* Elements that the storage must have for this view: 1 + the largest index; 0 for an empty tensor. */
static bool view_extent(const struct dd_weight *weight, size_t *ret_elements) {
    size_t last = weight->offset;
    for (int i = 0; i < weight->rank; i++) {
        size_t span;
        if (weight->shape[i] == 0) {
            *ret_elements = 0;
            return true;
        }
        if (!dd_size_mul(weight->shape[i] - 1, weight->stride[i], &span) || !dd_size_add(last, span, &last)) {
            return false;
        }
    }
    return dd_size_add(last, 1, ret_elements);
}

enum dd_status dd_weights_add(struct dd_weights *weights, const char *name, size_t name_bytes,
                              const struct dd_weight *weight, struct dd_error *err) {
    if (name_bytes > DD_WEIGHT_NAME_BYTES || memchr(name, 0, name_bytes) != NULL) {
        return dd_fail(err, DD_CORRUPT, "weights_corrupt", "a tensor's name has %zu bytes or a NUL in it", name_bytes);
    }
    if (weights->count == DD_MAX_WEIGHTS) {
        return dd_fail(err, DD_TOO_LARGE, "weights_too_many", "the weights file holds more than %d tensors",
                       DD_MAX_WEIGHTS);
    }
    size_t elements, bytes;
    size_t width = dd_dtype_bytes(weight->dtype);
    if (width != 0 && (!view_extent(weight, &elements) || !dd_size_mul(elements, width, &bytes) ||
                       bytes > weight->storage.size_bytes)) {
        char shape[160];
        dd_weight_shape_text(weight->rank, weight->shape, shape, sizeof shape);
        return dd_fail(err, DD_CORRUPT, "weights_corrupt",
                       "tensor %.*s of shape %s reaches beyond its %zu bytes of storage", (int)DD_MIN(name_bytes, 120),
                       name, shape, weight->storage.size_bytes);
    }
    if (weights->count == weights->cap) {
        size_t cap = weights->cap == 0 ? 256 : weights->cap * 2;
        struct dd_weight *items = dd_realloc_array(weights->items, cap, sizeof *items);
        if (items == NULL) {
            return dd_fail_memory(err, cap * sizeof *items);
        }
        weights->items = items;
        weights->cap = cap;
    }
    char *copy = dd_strndup(name, name_bytes);
    if (copy == NULL) {
        return dd_fail_memory(err, name_bytes + 1);
    }
    weights->items[weights->count] = *weight;
    weights->items[weights->count++].name = copy;
    return DD_OK;
}

void dd_weights_free(struct dd_weights *weights) {
    if (weights == NULL) {
        return;
    }
    for (size_t i = 0; i < weights->count; i++) {
        free(weights->items[i].name);
    }
    free(weights->items);
    for (size_t i = 0; i < weights->n_mappings; i++) {
        dd_mapping_release(&weights->mappings[i]);
    }
    free(weights->mappings);
    cJSON_Delete(weights->config);
    free(weights);
}

static void free_weights_ptr(struct dd_weights **weights) {
    dd_weights_free(*weights);
}

static bool ends_with(const char *text, const char *end) {
    size_t text_bytes = strlen(text), end_bytes = strlen(end);
    return text_bytes >= end_bytes && strcmp(text + text_bytes - end_bytes, end) == 0;
}

/* Maps one file and adds its tensors; sets the set's format. */
static enum dd_status add_file(struct dd_weights *weights, const char *path, struct dd_error *err) {
    struct dd_mapping *mappings = dd_realloc_array(weights->mappings, weights->n_mappings + 1, sizeof *mappings);
    if (mappings == NULL) {
        return dd_fail_memory(err, (weights->n_mappings + 1) * sizeof *mappings);
    }
    weights->mappings = mappings;
    struct dd_mapping *mapping = &mappings[weights->n_mappings];
    enum dd_status status = dd_mapping_open(path, mapping, err);
    if (status != DD_OK) {
        return status;
    }
    weights->n_mappings++;
    weights->file_bytes += mapping->len;
    const char *name = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;
    if (ends_with(name, ".safetensors")) {
        snprintf(weights->format, sizeof weights->format, "safetensors");
        status = dd_safetensors_read(mapping->bytes, mapping->len, weights, err);
    } else if (dd_torch_is_zip(mapping->bytes, mapping->len)) {
        snprintf(weights->format, sizeof weights->format, "pytorch_zip");
        status = dd_torch_zip_read(mapping->bytes, mapping->len, weights, err);
    } else if (mapping->len >= 2 && mapping->bytes[0] == 0x80) {
        snprintf(weights->format, sizeof weights->format, "pytorch_legacy");
        status = dd_torch_legacy_read(mapping->bytes, mapping->len, weights, err);
    } else {
        snprintf(weights->format, sizeof weights->format, "safetensors");
        status = dd_safetensors_read(mapping->bytes, mapping->len, weights, err);
    }
    return status == DD_OK ? DD_OK : dd_error_prefix(err, "%.100s", name);
}

/* The distinct file names of weight_map, at most MAX_INDEX_FILES, none with a path in it. */
static enum dd_status index_files(const cJSON *index, const char *files[MAX_INDEX_FILES], size_t *ret_count,
                                  struct dd_error *err) {
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    size_t count = 0;
    if (!cJSON_IsObject(map)) {
        return dd_fail(err, DD_CORRUPT, "weights_corrupt", "the index has no object weight_map");
    }
    for (const cJSON *item = map->child; item != NULL; item = item->next) {
        if (!cJSON_IsString(item) || item->valuestring[0] == 0 || strchr(item->valuestring, '/') != NULL ||
            strcmp(item->valuestring, "..") == 0) {
            return dd_fail(err, DD_CORRUPT, "weights_corrupt", "weight_map must name files beside the index");
        }
        size_t at = 0;
        while (at < count && strcmp(files[at], item->valuestring) != 0) {
            at++;
        }
        if (at < count) {
            continue;
        }
        if (count == MAX_INDEX_FILES) {
            return dd_fail(err, DD_TOO_LARGE, "weights_too_many", "weight_map names more than %d files",
                           MAX_INDEX_FILES);
        }
        files[count++] = item->valuestring;
    }
    *ret_count = count;
    return DD_OK;
}

static enum dd_status add_index(struct dd_weights *weights, const char *path, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    DD_CLEANUP(dd_free_ptr) char *dir = NULL;
    size_t bytes = 0, count = 0;
    enum dd_status status = dd_file_read(path, MAX_INDEX_BYTES, &text, &bytes, err);
    if (status != DD_OK) {
        return status;
    }
    cJSON *index = dd_json_parse(text, bytes);
    if (index == NULL) {
        return dd_fail(err, DD_CORRUPT, "weights_corrupt", "%s is not JSON", path);
    }
    const char *slash = strrchr(path, '/');
    dir = slash == NULL ? dd_strdup(".") : dd_strndup(path, (size_t)(slash - path));
    const char *files[MAX_INDEX_FILES];
    status = dir == NULL ? dd_fail_memory(err, strlen(path)) : index_files(index, files, &count, err);
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        char part[4096];
        status = dd_path_join(part, sizeof part, err, dir, files[i], NULL);
        if (status == DD_OK) {
            status = add_file(weights, part, err);
        }
    }
    cJSON_Delete(index);
    return status;
}

static int compare_names(const void *a, const void *b) {
    const char *const *left = a, *const *right = b;
    return strcmp(*left, *right);
}

static enum dd_status check_names_differ(const struct dd_weights *weights, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) const char **names = dd_calloc(weights->count + 1, sizeof *names);
    if (names == NULL) {
        return dd_fail_memory(err, weights->count * sizeof *names);
    }
    for (size_t i = 0; i < weights->count; i++) {
        names[i] = weights->items[i].name;
    }
    qsort(names, weights->count, sizeof *names, compare_names);
    for (size_t i = 1; i < weights->count; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            return dd_fail(err, DD_CORRUPT, "weights_corrupt", "tensor %.200s occurs twice", names[i]);
        }
    }
    return DD_OK;
}

enum dd_status dd_weights_open(const char *path, struct dd_weights **ret_weights, struct dd_error *err) {
    DD_CLEANUP(free_weights_ptr) struct dd_weights *weights = dd_calloc(1, sizeof *weights);
    if (weights == NULL) {
        return dd_fail_memory(err, sizeof *weights);
    }
    const char *name = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;
    snprintf(weights->file, sizeof weights->file, "%s", name);
    enum dd_status status =
        ends_with(path, ".index.json") ? add_index(weights, path, err) : add_file(weights, path, err);
    if (status == DD_OK) {
        status = check_names_differ(weights, err);
    }
    if (status != DD_OK) {
        return status;
    }
    *ret_weights = weights;
    weights = NULL;
    return DD_OK;
}

/* --- values ------------------------------------------------------------------------------------------------------- */

enum dd_status dd_weight_reader_init(struct dd_weight_reader *reader, const struct dd_weight *weight,
                                     struct dd_error *err) {
    *reader = (struct dd_weight_reader){.weight = weight};
    enum dd_status status = dd_storage_bytes(&weight->storage, &reader->bytes, &reader->inflated, err);
    return status == DD_OK ? DD_OK : dd_error_prefix(err, "tensor %.200s", weight->name);
}

void dd_weight_reader_release(struct dd_weight_reader *reader) {
    free(reader->inflated);
    *reader = (struct dd_weight_reader){0};
}

/* IEEE 754 binary16; exact, subnormals, infinities and NaN included. */
static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu, bits;
    float value;
    if (rest >= 0x7c00u) {
        bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
    } else if (rest >= 0x0400u) {
        bits = sign | ((rest << 13) + 0x38000000u);
    } else {
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* count values that lie `stride` elements apart, the first at bytes; storage need not be aligned. */
static void convert(enum dd_dtype dtype, const uint8_t *bytes, size_t stride, size_t count, float *out) {
    switch (dtype) {
    case DD_DTYPE_F32:
        if (stride == 1) {
            memcpy(out, bytes, count * sizeof *out);
            break;
        }
        for (size_t i = 0; i < count; i++) {
            memcpy(&out[i], bytes + i * stride * 4, 4);
        }
        break;
    case DD_DTYPE_F16:
        for (size_t i = 0; i < count; i++) {
            uint16_t half;
            memcpy(&half, bytes + i * stride * 2, 2);
            out[i] = half_to_float(half);
        }
        break;
    case DD_DTYPE_BF16:
        for (size_t i = 0; i < count; i++) {
            uint16_t high;
            memcpy(&high, bytes + i * stride * 2, 2);
            uint32_t bits = (uint32_t)high << 16;
            memcpy(&out[i], &bits, 4);
        }
        break;
    case DD_DTYPE_F64:
        for (size_t i = 0; i < count; i++) {
            double value;
            memcpy(&value, bytes + i * stride * 8, 8);
            out[i] = (float)value;
        }
        break;
    case DD_DTYPE_I8:
        for (size_t i = 0; i < count; i++) {
            out[i] = (float)(int8_t)bytes[i * stride];
        }
        break;
    case DD_DTYPE_OTHER:
        break;
    }
}

void dd_weight_read(const struct dd_weight_reader *reader, size_t first, size_t count, float *out) {
    const struct dd_weight *weight = reader->weight;
    size_t width = dd_dtype_bytes(weight->dtype);
    size_t columns = weight->shape[weight->rank - 1], column_stride = weight->stride[weight->rank - 1];
    size_t row_stride = weight->rank == 2 ? weight->stride[0] : 0;
    if (row_stride == columns && column_stride == 1) {
        convert(weight->dtype, reader->bytes + (weight->offset + first) * width, 1, count, out);
        return;
    }
    while (count > 0 && columns > 0) {
        size_t row = first / columns, column = first % columns;
        size_t run = DD_MIN(count, columns - column);
        size_t at = weight->offset + row * row_stride + column * column_stride;
        convert(weight->dtype, reader->bytes + at * width, column_stride, run, out);
        first += run;
        count -= run;
        out += run;
    }
}
