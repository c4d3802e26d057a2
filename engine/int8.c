/* int8: see int8.h. */
#include "engine/int8.h"

#include "engine/model.h"
#include "engine/simd.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int64_t)255 * DD_INT8_LIMIT * DD_MAX_INTERMEDIATE < INT32_MAX, "sums of products fit an int32");
_Static_assert(DD_MAX_HIDDEN <= DD_MAX_INTERMEDIATE, "the longest row is the intermediate one");

static size_t panel_bytes(int columns) {
    return dd_int8_padded(columns) * DD_INT8_PANEL;
}

static size_t packed_bytes(int rows, int columns) {
    return ((size_t)rows + DD_INT8_PANEL - 1) / DD_INT8_PANEL * panel_bytes(columns);
}

uint64_t dd_int8_matrix_bytes(int rows, int columns) {
    return packed_bytes(rows, columns) + (uint64_t)rows * (sizeof(float) + sizeof(int32_t));
}

enum dd_status dd_int8_matrix_init(struct dd_int8_matrix *matrix, int rows, int columns, struct dd_error *err) {
    struct dd_int8_matrix made = {.rows = rows, .columns = columns};
    made.packed = dd_calloc_aligned(packed_bytes(rows, columns), 1);
    made.scale = dd_calloc((size_t)rows, sizeof *made.scale);
    made.offset = dd_calloc((size_t)rows + DD_INT8_PANEL, sizeof *made.offset);
    if (made.packed == NULL || made.scale == NULL || made.offset == NULL) {
        dd_int8_matrix_release(&made);
        return dd_fail_memory(err, packed_bytes(rows, columns));
    }
    *matrix = made;
    return DD_OK;
}

void dd_int8_matrix_release(struct dd_int8_matrix *matrix) {
    free(matrix->packed);
    free(matrix->scale);
    free(matrix->offset);
    *matrix = (struct dd_int8_matrix){0};
}

/* Where the first four columns of a row lie; the next four lie a panel's width of quads further. */
static size_t row_place(const struct dd_int8_matrix *matrix, int row) {
    return (size_t)(row / DD_INT8_PANEL) * panel_bytes(matrix->columns) + (size_t)(row % DD_INT8_PANEL) * 4;
}

void dd_int8_matrix_set(struct dd_int8_matrix *matrix, int row, const int8_t *q, float scale) {
    int8_t *to = matrix->packed + row_place(matrix, row);
    int32_t sum = 0;
    for (int i = 0; i < matrix->columns; i++) {
        to[i / 4 * 4 * DD_INT8_PANEL + i % 4] = q[i];
        sum += q[i];
    }
    matrix->scale[row] = scale;
    matrix->offset[row] = 128 * sum;
}

void dd_int8_matrix_get(const struct dd_int8_matrix *matrix, int row, int8_t *q) {
    const int8_t *from = matrix->packed + row_place(matrix, row);
    for (int i = 0; i < matrix->columns; i++) {
        q[i] = from[i / 4 * 4 * DD_INT8_PANEL + i % 4];
    }
}

void dd_int8_quantize(const float *x, size_t count, int8_t *q, float *ret_scale) {
    float largest = 0.0f;
    for (size_t i = 0; i < count; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
    }
    float scale = largest / (float)DD_INT8_LIMIT;
    for (size_t i = 0; i < count; i++) {
        double value = scale > 0.0f ? rint((double)x[i] / (double)scale) : 0.0;
        q[i] = (int8_t)fmax(-DD_INT8_LIMIT, fmin(DD_INT8_LIMIT, value));
    }
    *ret_scale = scale;
}

void dd_int8_product(const struct dd_int8_rows *a, int row0, int m, const struct dd_int8_matrix *w, int first, int n,
                     float *c, size_t ldc) {
    assert(first % DD_INT8_PANEL == 0 && first + n <= w->rows && a->ld == dd_int8_padded(w->columns));
    size_t count;
    /* The sums lie for a moment where the floats will be: memory from the allocator has the type last written. */
    void *place = c;
    const struct dd_int8_block block = {.m = m,
                                        .n = n,
                                        .quads = (int)(a->ld / 4),
                                        .a = a->values + (size_t)row0 * a->ld,
                                        .lda = a->ld,
                                        .b = w->packed + row_place(w, first),
                                        .panel_bytes = panel_bytes(w->columns),
                                        .offset = w->offset + first,
                                        .c = place,
                                        .ldc = ldc};
    dd_int8_kernels(&count)[0]->run(&block);
    dd_simd()->int8_to_float(m, n, place, ldc, a->scale + row0, w->scale + first);
}

/* --- a model's weights -------------------------------------------------------------------------------------------- */

void dd_int8_free(struct dd_int8 *int8) {
    if (int8 == NULL) {
        return;
    }
    for (int i = 0; int8->layer != NULL && i < int8->layers * DD_INT8_WEIGHTS; i++) {
        dd_int8_matrix_release(&int8->layer[i]);
    }
    dd_int8_matrix_release(&int8->pooler);
    free(int8->layer);
    free(int8->words);
    free(int8->word_scale);
    free(int8);
}

static enum dd_status new_matrices(struct dd_int8 *int8, const struct dd_bert_config *config, struct dd_error *err) {
    const int hidden = config->hidden_size, inner = config->intermediate_size;
    const int shape[DD_INT8_WEIGHTS][2] = {[DD_INT8_Q] = {hidden, hidden},
                                           [DD_INT8_KV] = {2 * hidden, hidden},
                                           [DD_INT8_OUTPUT] = {hidden, hidden},
                                           [DD_INT8_UP] = {inner, hidden},
                                           [DD_INT8_DOWN] = {hidden, inner}};
    enum dd_status status = dd_int8_matrix_init(&int8->pooler, hidden, hidden, err);
    for (int i = 0; i < config->layers * DD_INT8_WEIGHTS && status == DD_OK; i++) {
        const int *s = shape[i % DD_INT8_WEIGHTS];
        status = dd_int8_matrix_init(&int8->layer[i], s[0], s[1], err);
    }
    return status;
}

enum dd_status dd_int8_new(const struct dd_bert_config *config, struct dd_int8 **ret_int8, struct dd_error *err) {
    size_t words = (size_t)config->vocab_size * (size_t)config->hidden_size;
    struct dd_int8 *int8 = dd_calloc(1, sizeof *int8);
    if (int8 == NULL) {
        return dd_fail_memory(err, sizeof *int8);
    }
    *int8 = (struct dd_int8){.layers = config->layers, .hidden = config->hidden_size, .vocab_size = config->vocab_size};
    int8->layer = dd_calloc((size_t)config->layers * DD_INT8_WEIGHTS, sizeof *int8->layer);
    int8->words = dd_calloc(words, 1);
    int8->word_scale = dd_calloc((size_t)config->vocab_size, sizeof(float));
    enum dd_status status = int8->layer == NULL || int8->words == NULL || int8->word_scale == NULL
                                ? dd_fail_memory(err, words)
                                : new_matrices(int8, config, err);
    if (status != DD_OK) {
        dd_int8_free(int8);
        return status;
    }
    *ret_int8 = int8;
    return DD_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t text_bytes = strlen(text), end_bytes = strlen(end);
    return text_bytes >= end_bytes && strcmp(text + text_bytes - end_bytes, end) == 0;
}

bool dd_int8_keeps(const char *name) {
    return strcmp(name, "bert.embeddings.word_embeddings.weight") == 0 ||
           strcmp(name, "bert.pooler.dense.weight") == 0 ||
           (strncmp(name, "bert.encoder.layer.", 19) == 0 && ends_with(name, ".weight") &&
            !ends_with(name, "LayerNorm.weight"));
}

bool dd_int8_find(struct dd_int8 *int8, const char *name, struct dd_int8_matrix **ret_matrix, int *ret_first) {
    static const struct {
        const char *name;
        enum dd_int8_weight weight;
        int place; /* in units of hidden */
    } parts[] = {{"attention.self.query.weight", DD_INT8_Q, 0},  {"attention.self.key.weight", DD_INT8_KV, 0},
                 {"attention.self.value.weight", DD_INT8_KV, 1}, {"attention.output.dense.weight", DD_INT8_OUTPUT, 0},
                 {"intermediate.dense.weight", DD_INT8_UP, 0},   {"output.dense.weight", DD_INT8_DOWN, 0}};
    static const char layer_start[] = "bert.encoder.layer.";
    *ret_matrix = NULL;
    *ret_first = 0;
    if (strcmp(name, "bert.embeddings.word_embeddings.weight") == 0) {
        return true;
    }
    if (strcmp(name, "bert.pooler.dense.weight") == 0) {
        *ret_matrix = &int8->pooler;
        return true;
    }
    if (strncmp(name, layer_start, sizeof layer_start - 1) != 0) {
        return false;
    }
    char *end;
    long layer = strtol(name + sizeof layer_start - 1, &end, 10);
    for (size_t i = 0; layer >= 0 && layer < int8->layers && i < DD_ARRAY_LEN(parts); i++) {
        if (*end == '.' && strcmp(end + 1, parts[i].name) == 0) {
            *ret_matrix = &int8->layer[(size_t)layer * DD_INT8_WEIGHTS + parts[i].weight];
            *ret_first = parts[i].place * int8->hidden;
            return true;
        }
    }
    return false;
}
