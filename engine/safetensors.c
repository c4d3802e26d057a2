/* safetensors: the reader and the writer of the format Hugging Face stores weights in.
 *
 *   0    header bytes N, u64 little-endian
 *   8    JSON, N bytes: {"<name>": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …,
 *        "__metadata__": {"<key>": "<text>", …}}, padded with spaces
 *   8+N  the tensors' bytes, row-major, little-endian; data_offsets count from here
 *
 * Tensors may stand in any order, but cover the data exactly: no overlap, no hole, nothing behind them (the rule of the
 * reference implementation, which keeps a file from being two things at once).  Its limit on headers is 100 MB; ours is
 * 16 MiB, fifty times what the deepest model needs.
 * Source: huggingface/safetensors, README "Format".  Threads: no state.
 */
#include "engine/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER_BYTES ((size_t)16 << 20)
#define MAX_EXACT_DOUBLE 9007199254740992.0

static const struct {
    const char *name;
    size_t bytes;
    enum dd_dtype dtype;
} dtypes[] = {
    {"F32", 4, DD_DTYPE_F32},   {"F16", 2, DD_DTYPE_F16},       {"BF16", 2, DD_DTYPE_BF16},
    {"F64", 8, DD_DTYPE_F64},   {"BOOL", 1, DD_DTYPE_OTHER},    {"U8", 1, DD_DTYPE_OTHER},
    {"I8", 1, DD_DTYPE_I8},     {"F8_E5M2", 1, DD_DTYPE_OTHER}, {"F8_E4M3", 1, DD_DTYPE_OTHER},
    {"I16", 2, DD_DTYPE_OTHER}, {"U16", 2, DD_DTYPE_OTHER},     {"I32", 4, DD_DTYPE_OTHER},
    {"U32", 4, DD_DTYPE_OTHER}, {"I64", 8, DD_DTYPE_OTHER},     {"U64", 8, DD_DTYPE_OTHER},
};

/* A byte range of the data, to be checked for overlaps and holes. */
struct range {
    size_t begin, end;
};

static enum dd_status corrupt(struct dd_error *err, const char *name, const char *what) {
    return dd_fail(err, DD_CORRUPT, "safetensors_corrupt", "tensor %.200s: %s", name, what);
}

static bool json_size(const cJSON *item, size_t *ret_value) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.0 && item->valuedouble <= MAX_EXACT_DOUBLE) ||
        item->valuedouble != floor(item->valuedouble)) {
        return false;
    }
    *ret_value = (size_t)item->valuedouble;
    return true;
}

/* shape and row-major strides; *ret_elements is their product. */
static enum dd_status read_shape(const cJSON *json, const char *name, struct dd_weight *weight, size_t *ret_elements,
                                 struct dd_error *err) {
    if (!cJSON_IsArray(json)) {
        return corrupt(err, name, "shape must be a list");
    }
    for (const cJSON *item = json->child; item != NULL; item = item->next) {
        if (weight->rank == DD_WEIGHT_RANK) {
            return corrupt(err, name, "it has more than 8 dimensions");
        }
        if (!json_size(item, &weight->shape[weight->rank++])) {
            return corrupt(err, name, "a dimension is not a whole number of at least 0");
        }
    }
    size_t elements = 1;
    for (int i = weight->rank; i-- > 0;) {
        weight->stride[i] = elements;
        if (!dd_size_mul(elements, weight->shape[i], &elements)) {
            return corrupt(err, name, "the product of its dimensions overflows");
        }
    }
    *ret_elements = elements;
    return DD_OK;
}

static enum dd_status read_tensor(const cJSON *item, const uint8_t *data, size_t data_bytes, struct dd_weights *weights,
                                  struct range *ret_range, struct dd_error *err) {
    const char *name = item->string;
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(item, "dtype");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    struct range range = {0};
    if (!cJSON_IsString(dtype) || !cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !json_size(offsets->child, &range.begin) || !json_size(offsets->child->next, &range.end)) {
        return corrupt(err, name, "it needs a dtype, a shape and two data_offsets");
    }
    if (range.begin > range.end || range.end > data_bytes) {
        return corrupt(err, name, "its data_offsets lie outside the file (is it cut off?)");
    }
    size_t kind = 0, elements = 0, bytes = 0;
    while (kind < DD_ARRAY_LEN(dtypes) && strcmp(dtypes[kind].name, dtype->valuestring) != 0) {
        kind++;
    }
    if (kind == DD_ARRAY_LEN(dtypes)) {
        return dd_fail(err, DD_UNSUPPORTED, "safetensors_dtype", "tensor %.200s has the unknown dtype %.20s", name,
                       dtype->valuestring);
    }
    struct dd_weight weight = {.dtype = dtypes[kind].dtype,
                               .storage = {.bytes = data + range.begin,
                                           .stored_bytes = range.end - range.begin,
                                           .size_bytes = range.end - range.begin}};
    enum dd_status status = read_shape(cJSON_GetObjectItemCaseSensitive(item, "shape"), name, &weight, &elements, err);
    if (status != DD_OK) {
        return status;
    }
    if (!dd_size_mul(elements, dtypes[kind].bytes, &bytes) || bytes != range.end - range.begin) {
        return corrupt(err, name, "its shape and dtype do not agree with its data_offsets");
    }
    *ret_range = range;
    return dd_weights_add(weights, name, strlen(name), &weight, err);
}

static int compare_ranges(const void *a, const void *b) {
    const struct range *left = a, *right = b;
    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    return (left->end > right->end) - (left->end < right->end);
}

/* Whether the ranges, in order, follow one another from 0 to data_bytes. */
static enum dd_status check_cover(struct range *ranges, size_t count, size_t data_bytes, struct dd_error *err) {
    size_t at = 0;
    qsort(ranges, count, sizeof *ranges, compare_ranges);
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].begin != at) {
            return dd_fail(err, DD_CORRUPT, "safetensors_corrupt", "the data of two tensors %s at byte %zu",
                           ranges[i].begin < at ? "overlap" : "leave a hole", ranges[i].begin);
        }
        at = ranges[i].end;
    }
    if (at != data_bytes) {
        return dd_fail(err, DD_CORRUPT, "safetensors_corrupt", "%zu bytes follow the last tensor", data_bytes - at);
    }
    return DD_OK;
}

static enum dd_status read_tensors(const cJSON *header, const uint8_t *data, size_t data_bytes,
                                   struct dd_weights *weights, struct dd_error *err) {
    size_t n_items = (size_t)cJSON_GetArraySize(header), count = 0;
    DD_CLEANUP(dd_free_ptr) struct range *ranges = dd_calloc(n_items + 1, sizeof *ranges);
    if (ranges == NULL) {
        return dd_fail_memory(err, n_items * sizeof *ranges);
    }
    for (const cJSON *item = header->child; item != NULL; item = item->next) {
        if (strcmp(item->string, "__metadata__") == 0) {
            continue;
        }
        enum dd_status status = read_tensor(item, data, data_bytes, weights, &ranges[count++], err);
        if (status != DD_OK) {
            return status;
        }
    }
    return check_cover(ranges, count, data_bytes, err);
}

enum dd_status dd_safetensors_read(const uint8_t *bytes, size_t len, struct dd_weights *weights, struct dd_error *err) {
    uint64_t header_bytes = 0;
    if (len < sizeof header_bytes) {
        return dd_fail(err, DD_CORRUPT, "safetensors_corrupt", "%zu bytes are too few for a safetensors file", len);
    }
    memcpy(&header_bytes, bytes, sizeof header_bytes);
    if (header_bytes > len - 8 || header_bytes < 2) {
        return dd_fail(err, DD_CORRUPT, "safetensors_corrupt",
                       "not a safetensors file, or cut off: a header of %llu bytes in a file of %zu",
                       (unsigned long long)header_bytes, len);
    }
    if (header_bytes > MAX_HEADER_BYTES) {
        return dd_fail(err, DD_TOO_LARGE, "safetensors_too_large",
                       "the safetensors header has %llu bytes; at most %zu are read", (unsigned long long)header_bytes,
                       MAX_HEADER_BYTES);
    }
    DD_CLEANUP(dd_free_ptr) char *text = dd_strndup((const char *)bytes + 8, (size_t)header_bytes);
    if (text == NULL) {
        return dd_fail_memory(err, (size_t)header_bytes + 1);
    }
    cJSON *header = strlen(text) == header_bytes && text[0] == '{' ? dd_json_parse(text, (size_t)header_bytes) : NULL;
    if (header == NULL) {
        return dd_fail(err, DD_CORRUPT, "safetensors_corrupt", "the safetensors header is not a JSON object");
    }
    size_t data_bytes = len - 8 - (size_t)header_bytes;
    enum dd_status status = read_tensors(header, bytes + 8 + header_bytes, data_bytes, weights, err);
    cJSON_Delete(header);
    if (status == DD_OK) {
        weights->data_bytes += data_bytes;
    }
    return status;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

#define CHUNK_VALUES 16384

static size_t element_count(const struct dd_tensor_out *tensor) {
    return tensor->shape[0] * (tensor->rank == 2 ? tensor->shape[1] : 1);
}

static const char *dtype_name(enum dd_dtype dtype) {
    size_t kind = 0;
    while (dtypes[kind].dtype != dtype) {
        kind++;
    }
    return dtypes[kind].name;
}

static void put_header(struct dd_buffer *header, const struct dd_tensor_out *tensors, size_t count) {
    size_t at = 0;
    dd_buffer_puts(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < count; i++) {
        const struct dd_tensor_out *tensor = &tensors[i];
        size_t end = at + element_count(tensor) * dd_dtype_bytes(tensor->dtype);
        dd_buffer_printf(header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu", tensor->name, dtype_name(tensor->dtype),
                         tensor->shape[0]);
        if (tensor->rank == 2) {
            dd_buffer_printf(header, ",%zu", tensor->shape[1]);
        }
        dd_buffer_printf(header, "],\"data_offsets\":[%zu,%zu]}", at, end);
        at = end;
    }
    dd_buffer_putc(header, '}');
    while (header->len % 8 != 0 && !header->failed) {
        dd_buffer_putc(header, ' ');
    }
}

static void free_writer_ptr(struct dd_writer **writer) {
    dd_writer_free(*writer);
}

/* IEEE 754 binary16, rounded to nearest, ties to even; false where |value| would become infinite. */
static bool float_to_half(float value, uint16_t *ret_half) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits >= 0x477ff000u) { /* 65520 and more rounds to infinity; NaN too */
        return false;
    }
    if (bits < 0x38800000u) { /* below 2^-14: in units of 2^-24 */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        *ret_half = (uint16_t)(sign | (uint16_t)lrintf(magnitude * 0x1p24f));
        return true;
    }
    bits += 0xfffu + (bits >> 13 & 1u); /* a carry goes into the exponent, as it should */
    *ret_half = (uint16_t)(sign | (uint16_t)((bits - 0x38000000u) >> 13));
    return true;
}

static enum dd_status write_halves(struct dd_writer *writer, const struct dd_tensor_out *tensor, struct dd_error *err) {
    const float *values = tensor->values;
    size_t total = element_count(tensor);
    DD_CLEANUP(dd_free_ptr) uint16_t *chunk = dd_calloc(CHUNK_VALUES, sizeof *chunk);
    if (chunk == NULL) {
        return dd_fail_memory(err, CHUNK_VALUES * sizeof *chunk);
    }
    enum dd_status status = DD_OK;
    for (size_t at = 0; at < total && status == DD_OK; at += CHUNK_VALUES) {
        size_t count = DD_MIN(total - at, (size_t)CHUNK_VALUES);
        for (size_t i = 0; i < count; i++) {
            if (!float_to_half(values[at + i], &chunk[i])) {
                return dd_fail(err, DD_INVALID, "weights_out_of_range",
                               "%s holds %g, which fp16 cannot: its largest number is 65504", tensor->name,
                               (double)values[at + i]);
            }
        }
        status = dd_writer_write(writer, chunk, count * sizeof *chunk, err);
    }
    return status;
}

enum dd_status dd_safetensors_write(const char *path, const struct dd_tensor_out *tensors, size_t count,
                                    struct dd_error *err) {
    DD_CLEANUP(free_writer_ptr) struct dd_writer *writer = NULL;
    DD_CLEANUP(dd_buffer_release) struct dd_buffer header;
    dd_buffer_init(&header, MAX_HEADER_BYTES);
    put_header(&header, tensors, count);
    enum dd_status status = dd_buffer_check(&header, err);
    if (status == DD_OK) {
        status = dd_writer_open(path, DD_WRITER_PLAIN, &writer, err);
    }
    if (status == DD_OK) {
        uint64_t header_bytes = header.len;
        status = dd_writer_write(writer, &header_bytes, sizeof header_bytes, err);
    }
    if (status == DD_OK) {
        status = dd_writer_write(writer, header.data, header.len, err);
    }
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        size_t bytes = element_count(&tensors[i]) * dd_dtype_bytes(tensors[i].dtype);
        status = tensors[i].dtype == DD_DTYPE_F16 ? write_halves(writer, &tensors[i], err)
                                                  : dd_writer_write(writer, tensors[i].values, bytes, err);
    }
    return status == DD_OK ? dd_writer_commit(writer, err) : status;
}
