/* int8: matrices of signed bytes with a scale for each row, and their products.  Private to engine/.
 *
 * A weight W [out, in] is kept as q [out, in] in -127 … 127 and scale [out]: W ≈ q scale.  A row x [in] of activations
 * becomes bytes when it is needed: scale_x = max |x| / 127, q_x = round(x / scale_x), stored as q_x + 128 (1 … 255),
 * the unsigned operand that VNNI wants.  Then y = Σ q_x q · (scale_x scale).
 *
 * The sums are exact: |Σ (q_x + 128) q| ≤ 255 · 127 · DD_MAX_INTERMEDIATE < 2^31.  So every kernel gives the same
 * integers whatever its order, and so do any cut and any number of threads.
 *
 * Packed layout, the same for all kernels: panels of 16 rows of W; in a panel, for each four columns, 16 × 4 bytes: the
 * four of row 0, of row 1, …  Missing rows and columns are 0.
 */
#ifndef DD_ENGINE_INT8_H
#define DD_ENGINE_INT8_H

#include "engine/engine.h"

#define DD_INT8_PANEL 16
#define DD_INT8_LIMIT 127 /* -128 does not occur: |q| must be a signed byte, too */

struct dd_int8_matrix {
    int rows, columns; /* out, in */
    int8_t *packed;    /* owned, 64-byte aligned */
    float *scale;      /* owned, [rows] */
    int32_t *offset;   /* owned, [rows filled up to a panel]: 128 Σ q of the row, what storing q_x + 128 adds */
};
enum dd_status dd_int8_matrix_init(struct dd_int8_matrix *matrix, int rows, int columns,
                                   struct dd_error *err) DD_MUST_CHECK;
void dd_int8_matrix_release(struct dd_int8_matrix *matrix);
uint64_t dd_int8_matrix_bytes(int rows, int columns); /* what _init will allocate */
/* Row `row` from q [columns]; back. */
void dd_int8_matrix_set(struct dd_int8_matrix *matrix, int row, const int8_t *q, float scale);
void dd_int8_matrix_get(const struct dd_int8_matrix *matrix, int row, int8_t *q);
/* q [count] and scale of a row of finite values: round to nearest, ties to even; a row of zeros has scale 0. */
void dd_int8_quantize(const float *x, size_t count, int8_t *q, float *ret_scale);

/* Activations as bytes: [rows, ld], each row filled up with 128 (zero) to a multiple of 4. */
struct dd_int8_rows {
    uint8_t *values;
    float *scale; /* [rows] */
    size_t ld;
};
static inline size_t dd_int8_padded(int columns) {
    return ((size_t)columns + 3) / 4 * 4;
}

/* C [m, n] = Σ q_x q over all columns of W, for the n rows of W that begin with a panel. */
struct dd_int8_block {
    int m, n, quads;  /* quads: columns of W / 4, rounded up */
    const uint8_t *a; /* [m, lda]: q_x + 128 */
    size_t lda;
    const int8_t *b; /* the first panel */
    size_t panel_bytes;
    const int32_t *offset; /* of W's rows */
    int32_t *c;
    size_t ldc;
};
struct dd_int8_kernel {
    const char *name;
    void (*run)(const struct dd_int8_block *block);
};
/* Those that this CPU can run, best first; the last one is plain C.  DISTILLD_SIMD (simd.h) leaves the better ones out.
 */
const struct dd_int8_kernel *const *dd_int8_kernels(size_t *ret_count);

/* C [m, n] = the product of rows row0 … of a with W's rows from first on, as floats: scales applied, nothing else. */
void dd_int8_product(const struct dd_int8_rows *a, int row0, int m, const struct dd_int8_matrix *w, int first, int n,
                     float *c, size_t ldc);

/* The weights of a model that are kept as int8 (int8_model.c).  dd_params has the others; those that stand here take no
 * floats there.  Immutable, any thread. */
enum dd_int8_weight { DD_INT8_Q = 0, DD_INT8_KV, DD_INT8_OUTPUT, DD_INT8_UP, DD_INT8_DOWN, DD_INT8_WEIGHTS };
struct dd_int8 {
    int layers, hidden, vocab_size;
    struct dd_int8_matrix *layer; /* owned, [layers × DD_INT8_WEIGHTS] */
    struct dd_int8_matrix pooler;
    int8_t *words;     /* owned, [vocab_size, hidden]: looked up, not multiplied, so not packed */
    float *word_scale; /* owned, [vocab_size] */
};
enum dd_status dd_int8_new(const struct dd_bert_config *config, struct dd_int8 **ret_int8,
                           struct dd_error *err) DD_MUST_CHECK;
void dd_int8_free(struct dd_int8 *int8);
/* Whether a tensor of the layout is kept as int8: the word embeddings and the weights of all linear layers but the
 * classifier, whose few rows decide. */
bool dd_int8_keeps(const char *name);
/* Where tensor `name` of the layout is kept: as words, or in a matrix from row *ret_first on.  False: not as int8. */
bool dd_int8_find(struct dd_int8 *int8, const char *name, struct dd_int8_matrix **ret_matrix, int *ret_first);

#endif
