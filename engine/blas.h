/* blas: the one place where matrix products leave our code.  Private to engine/. */
#ifndef DD_ENGINE_BLAS_H
#define DD_ENGINE_BLAS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

/* Opens the library that multiplies and makes it single-threaded; dd_team_join does so.  Any number of times, from any
 * thread; what failed is tried again.  Errors: DD_UNSUPPORTED (it is not installed). */
enum dd_status dd_blas_open(struct dd_error *err) DD_MUST_CHECK;

/* After dd_blas_open.  C [m, n] = op(A) op(B) + beta C, row-major; op(A) is [m, k], op(B) [k, n]; beta 0 or 1.
 * Dimensions ≥ 1, leading dimensions fit an int (the caller's check).  Runs on the calling thread alone.  The bits
 * depend on the shapes, not on who calls, how often or where the matrices lie. */
void dd_sgemm(bool a_transposed, bool b_transposed, int m, int n, int k, const float *a, int lda, const float *b,
              int ldb, float beta, float *c, int ldc);

/* As dd_sgemm with A and B in bfloat16 (the upper half of a float) and C in fp32, sums kept in fp32.  Only where
 * dd_engine_has_bf16. */
void dd_bf16_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const uint16_t *a, int lda,
                  const uint16_t *b, int ldb, float beta, float *c, int ldc);

#endif
