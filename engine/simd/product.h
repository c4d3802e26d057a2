/* product: C [m, n] = or += A B for the small matrices of attention, where a BLAS call would spend its time on packing.
 *
 * A is read one element at a time, at any two strides, so A and Aᵀ cost the same; B [k, n] and C have contiguous rows.
 * A block of C of up to 6 rows × 4 vectors stays in registers while k goes by.  Sums run over k in order.
 */
#ifndef DD_SIMD_PRODUCT_H
#define DD_SIMD_PRODUCT_H

#include <stdbool.h>

#include "engine/simd/vec.h"

#define BLOCK_ROWS 6
#define BLOCK_VECTORS (LANES == 16 ? 4 : 2)

struct product {
    int m, n, k;
    const float *a, *b;
    size_t a_row, a_column; /* strides of A: element (i, l) is a[i a_row + l a_column] */
    size_t ldb, ldc;
    float *c;
    bool accumulate;
};

/* `tail` of the last vector's lanes are in use; 0: all. */
static inline __attribute__((always_inline)) void product_block(const struct product *p, int rows, int vectors,
                                                                int tail, int i0, int j0) {
    vf sum[BLOCK_ROWS][4];
    float *c = p->c + (size_t)i0 * p->ldc + (size_t)j0;
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++) {
            const float *from = c + (size_t)i * p->ldc + (size_t)(j * LANES);
            bool part = tail != 0 && j == vectors - 1;
            sum[i][j] = !p->accumulate ? (vf){0} : part ? load_part(from, tail) : load(from);
        }
    }
    const float *a = p->a + (size_t)i0 * p->a_row, *b = p->b + j0;
    for (int l = 0; l < p->k; l++) {
        vf right[4];
        for (int j = 0; j < vectors; j++) {
            right[j] = tail != 0 && j == vectors - 1 ? load_part(b + j * LANES, tail) : load(b + j * LANES);
        }
        for (int i = 0; i < rows; i++) {
            vf left = splat(a[(size_t)i * p->a_row]);
            for (int j = 0; j < vectors; j++) {
                sum[i][j] += left * right[j];
            }
        }
        a += p->a_column;
        b += p->ldb;
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++) {
            float *to = c + (size_t)i * p->ldc + (size_t)(j * LANES);
            if (tail != 0 && j == vectors - 1) {
                store_part(to, sum[i][j], tail);
            } else {
                store(to, sum[i][j]);
            }
        }
    }
}

/* One instance for each number of rows and vectors, so that the sums are registers. */
static inline __attribute__((always_inline)) void product_columns(const struct product *p, int vectors, int tail,
                                                                  int j0) {
    int i = 0;
    for (; p->m - i >= 6; i += 6) {
        product_block(p, 6, vectors, tail, i, j0);
    }
    switch (p->m - i) {
    case 5:
        product_block(p, 5, vectors, tail, i, j0);
        break;
    case 4:
        product_block(p, 4, vectors, tail, i, j0);
        break;
    case 3:
        product_block(p, 3, vectors, tail, i, j0);
        break;
    case 2:
        product_block(p, 2, vectors, tail, i, j0);
        break;
    case 1:
        product_block(p, 1, vectors, tail, i, j0);
        break;
    default:
        break;
    }
}

static void product(const struct product *p) {
    int j = 0;
    for (; p->n - j >= BLOCK_VECTORS * LANES; j += BLOCK_VECTORS * LANES) {
        product_columns(p, BLOCK_VECTORS, 0, j);
    }
    if (LANES == 16 && p->n - j >= 2 * LANES) {
        product_columns(p, 2, 0, j);
        j += 2 * LANES;
    }
    if (p->n - j >= LANES) {
        product_columns(p, 1, 0, j);
        j += LANES;
    }
    if (p->n > j) {
        product_columns(p, 1, p->n - j, j);
    }
}

#endif
