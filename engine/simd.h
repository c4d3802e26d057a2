/* simd: the kernels that are compiled once for each instruction set (engine/simd/ *.c) and the table that chooses among
 * them at run time.  The choice is made once, by CPUID; DISTILLD_SIMD=avx512|avx2|baseline overrides it downwards, for
 * tests.  Private to engine/.
 *
 * Shapes: rows are row-major and contiguous unless a leading dimension is named.  Nothing here allocates or fails.
 *
 * Dropout masks.  A mask word holds 16 elements, bit = kept.  Words come in groups of 8 (128 elements): group g of a
 * stream is the Philox blocks 16 g … 16 g + 15; word 2 w + h holds, at bit l, whether half h (0 low, 1 high) of output
 * w of block 16 g + l is at least `threshold`.  So a decision costs 16 random bits, the probability of a drop is
 * threshold / 65536 exactly, and kept values are scaled by 65536 / (65536 - threshold): the mean is kept exactly.
 */
#ifndef DD_ENGINE_SIMD_H
#define DD_ENGINE_SIMD_H

#include "engine/nn.h"

#define DD_MASK_GROUP 128     /* elements */
#define DD_MASK_GROUP_WORDS 8 /* of 16 bits */
#define DD_ATTENTION_BLOCK 64 /* query rows that are worked on at once */
#define DD_SIMD_PAD 16        /* scores are padded to this many floats, on every instruction set */

/* One mask stream: threshold 0 keeps all and draws nothing. */
struct dd_mask {
    struct dd_stream stream;
    uint32_t threshold; /* of 65536 */
    float scale;        /* 65536 / (65536 - threshold) */
};

/* LayerNorm over rows of n: xhat = (z - mean) / sqrt(var + eps), y = xhat · gain + shift. */
struct dd_layernorm {
    const float *gain, *shift; /* [n] */
    float eps;
    int n;
};

enum dd_activation { DD_ACT_GELU = 0, DD_ACT_GELU_NEW, DD_ACT_RELU };

/* One head of one sequence.  Query rows may be fewer than keys: n_queries is length, or 1 where only [CLS] is asked. */
struct dd_attention_head {
    int length, n_queries, head_size;
    const float *q, *k, *v; /* rows of head_size at the strides below */
    size_t q_stride, kv_stride;
    float scale; /* 1 / sqrt(head_size) */
    const struct dd_mask *mask;
    uint64_t mask_group; /* first group of this head's own range in the stream */
    float *scratch;      /* dd_attention_scratch_floats, aligned to 64 */
};

/* How the rows of one head of one sequence relate: the tables s = scale x yᵀ of a student and t of its teacher, each
 * [n_rows, n_columns].  y may be x. */
struct dd_relation_side {
    const float *x, *y; /* rows of `size` at these strides */
    size_t x_stride, y_stride;
    int size;
    float scale;
};
struct dd_relation {
    int n_rows, n_columns;
    bool divergence; /* Σ over rows of KL(softmax t || softmax s); else Σ (s − t)² */
    struct dd_relation_side student, teacher;
    float step;     /* of the gradient: d loss / d that sum */
    float *scratch; /* dd_relation_scratch_floats, aligned to 64 */
};

/* Scalars of one AdamW or SGD step; see optimizer.c. */
struct dd_adamw_step {
    float clip, decay, beta1_rest, beta2, beta2_rest, step_size, inverse_root, eps;
};
struct dd_sgd_step {
    float clip, weight_decay, momentum, lr;
    bool nesterov;
};

struct dd_simd {
    const char *name;

    /* words [8 · groups] of the mask stream from group `first` on. */
    void (*mask)(const struct dd_mask *mask, uint64_t first, size_t groups, uint16_t *words);

    /* rows of u [rows, n] at stride ldu: u += bias; a = act(u); u becomes act'(u) where `derivative`. a may be u when
     * not. */
    void (*activation)(enum dd_activation kind, int rows, int n, float *u, size_t ldu, const float *bias, float *a,
                       size_t lda, bool derivative);
    void (*add_bias)(int rows, int n, float *y, size_t ldy, const float *bias);
    void (*multiply)(int rows, int n, float *y, const float *x, size_t ld); /* y *= x */
    void (*tanh)(size_t count, float *y);                                   /* in place */
    void (*tanh_backward)(size_t count, float *dy, const float *y);         /* dy *= 1 - y² */
    /* sum[n] = column sums of x [rows, n] at stride ld, rows added in order. */
    void (*column_sums)(int rows, int n, const float *x, size_t ld, float *sum);
    /* x *= mask, rows of n; row r has the mask row row_of[r] (NULL: first_row + r). */
    void (*dropout)(int rows, int n, float *x, const struct dd_mask *mask, const int32_t *row_of, int first_row);

    /* z = dropout(z + bias) + residual; then xhat into z, 1/σ into rstd[rows], y.  bias may be NULL.  rows as dropout.
     */
    void (*residual_layernorm)(const struct dd_layernorm *norm, int rows, float *z, const float *bias,
                               const float *residual, const struct dd_mask *mask, const int32_t *row_of, int first_row,
                               float *rstd, float *y);
    /* Embeddings: z as given; y = dropout(LayerNorm(z)). */
    void (*layernorm_dropout)(const struct dd_layernorm *norm, int rows, float *z, const struct dd_mask *mask,
                              int first_row, float *rstd, float *y);
    /* dz = d LayerNorm; sums [2, n]: the rows' parts of d gain and d shift.  dbranch = dropout'(dz); NULL: not wanted.
     * dy may be dz. */
    void (*layernorm_backward)(const struct dd_layernorm *norm, int rows, const float *dy, const float *xhat,
                               const float *rstd, float *dz, const struct dd_mask *mask, const int32_t *row_of,
                               int first_row, float *dbranch, float *sums);

    /* context [n_queries, head_size] at q_stride's sibling ldc. */
    void (*attention)(const struct dd_attention_head *head, float *context, size_t ldc);
    /* dq, dk, dv are written (not added); dq at dq_stride, dk and dv at dkv_stride. */
    void (*attention_backward)(const struct dd_attention_head *head, const float *dcontext, size_t ldc, float *dq,
                               size_t dq_stride, float *dk, float *dv, size_t dkv_stride);

    /* The sum; adds step times its gradients to the student's dx and dy, which may be the same. */
    double (*relation)(const struct dd_relation *relation, float *dx, size_t dx_stride, float *dy, size_t dy_stride);

    double (*sum_squares)(size_t count, const float *x); /* in double */
    void (*adamw)(const struct dd_adamw_step *step, size_t count, float *p, const float *g, float *m, float *v);
    void (*sgd)(const struct dd_sgd_step *step, size_t count, float *p, const float *g, float *m);
    /* `n` steps, g all zero: the same operations, a row at a time. */
    void (*adamw_replay)(const struct dd_adamw_step *steps, size_t n, size_t count, float *p, float *m, float *v);
    void (*sgd_replay)(const struct dd_sgd_step *steps, size_t n, size_t count, float *p, float *m);
    /* As adamw_replay where m and v are all zero: p times each decay. */
    void (*decay_replay)(const struct dd_adamw_step *steps, size_t n, size_t count, float *p);

    /* to = from in bfloat16, rounded to nearest, ties to even; a NaN stays one.  The bits are those of a cast in
     * PyTorch on every instruction set. */
    void (*to_bf16)(size_t count, const float *from, uint16_t *to);

    /* Rows of activations as bytes (int8.h): out [rows, ld] with ld ≥ n filled up to a multiple of 4, scale [rows]. The
     * same bytes on every instruction set.  A row that is not finite has scale NaN; one below 1e-30, 0. */
    void (*int8_rows)(int rows, int n, const float *x, uint8_t *out, size_t ld, float *scale);
    /* c [m, n], int32 before and float after: times row_scale[i] · column_scale[j]. */
    void (*int8_to_float)(int m, int n, void *c, size_t ldc, const float *row_scale, const float *column_scale);

    /* For tests of math.h: what = 0 exp, 1 Φ, 2 φ, 3 tanh. */
    void (*evaluate)(int what, size_t count, const float *x, float *y);
};

const struct dd_simd *dd_simd(void);
/* Floats of scratch a head needs, padded to 64 bytes. */
size_t dd_attention_scratch_floats(int max_length, int head_size);
size_t dd_relation_scratch_floats(int max_length, int student_size, int teacher_size);
/* The mask of rate p (in [0, 1)) for one tensor of one step; off or p = 0: threshold 0. */
struct dd_mask dd_mask_new(const struct dd_dropout *dropout, double p, uint32_t tensor);

#endif
