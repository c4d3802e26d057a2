/* kernels: the prototypes of engine/simd/ *.c under the name of the instruction set that is being compiled, so that the
 * three copies can be linked together.  Contracts are in engine/simd.h.
 */
#ifndef DD_SIMD_KERNELS_H
#define DD_SIMD_KERNELS_H

#include "engine/simd.h"

#define DD_PASTE_(a, b) a##_##b
#define DD_PASTE(a, b) DD_PASTE_(a, b)
#define K(name) DD_PASTE(dd_k_##name, DD_SIMD)

extern const struct dd_simd DD_PASTE(dd_simd_table, DD_SIMD);

void K(mask)(const struct dd_mask *mask, uint64_t first, size_t groups, uint16_t *words);
void K(activation)(enum dd_activation kind, int rows, int n, float *u, size_t ldu, const float *bias, float *a,
                   size_t lda, bool derivative);
void K(add_bias)(int rows, int n, float *y, size_t ldy, const float *bias);
void K(multiply)(int rows, int n, float *y, const float *x, size_t ld);
void K(tanh)(size_t count, float *y);
void K(tanh_backward)(size_t count, float *dy, const float *y);
void K(column_sums)(int rows, int n, const float *x, size_t ld, float *sum);
void K(dropout)(int rows, int n, float *x, const struct dd_mask *mask, const int32_t *row_of, int first_row);
void K(residual_layernorm)(const struct dd_layernorm *norm, int rows, float *z, const float *bias,
                           const float *residual, const struct dd_mask *mask, const int32_t *row_of, int first_row,
                           float *rstd, float *y);
void K(layernorm_dropout)(const struct dd_layernorm *norm, int rows, float *z, const struct dd_mask *mask,
                          int first_row, float *rstd, float *y);
void K(layernorm_backward)(const struct dd_layernorm *norm, int rows, const float *dy, const float *xhat,
                           const float *rstd, float *dz, const struct dd_mask *mask, const int32_t *row_of,
                           int first_row, float *dbranch, float *sums);
void K(attention)(const struct dd_attention_head *head, float *context, size_t ldc);
void K(attention_backward)(const struct dd_attention_head *head, const float *dcontext, size_t ldc, float *dq,
                           size_t dq_stride, float *dk, float *dv, size_t dkv_stride);
double K(relation)(const struct dd_relation *relation, float *dx, size_t dx_stride, float *dy, size_t dy_stride);
double K(sum_squares)(size_t count, const float *x);
void K(adamw)(const struct dd_adamw_step *step, size_t count, float *p, const float *g, float *m, float *v);
void K(sgd)(const struct dd_sgd_step *step, size_t count, float *p, const float *g, float *m);
void K(adamw_replay)(const struct dd_adamw_step *steps, size_t n, size_t count, float *p, float *m, float *v);
void K(sgd_replay)(const struct dd_sgd_step *steps, size_t n, size_t count, float *p, float *m);
void K(decay_replay)(const struct dd_adamw_step *steps, size_t n, size_t count, float *p);
void K(to_bf16)(size_t count, const float *from, uint16_t *to);
void K(int8_rows)(int rows, int n, const float *x, uint8_t *out, size_t ld, float *scale);
void K(int8_to_float)(int m, int n, void *c, size_t ldc, const float *row_scale, const float *column_scale);
void K(evaluate)(int what, size_t count, const float *x, float *y);

/* Bits of `count` ≤ LANES mask elements from element `at` on, `at` a multiple of LANES. */
static inline uint32_t dd_mask_bits(const uint16_t *words, size_t at) {
    return (uint32_t)words[at / 16] >> (at % 16);
}

#endif
