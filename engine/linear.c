/* linear: see linear.h.
 *
 * Tiles, by measurement (oneDNN, one core, GFLOP/s of 589 × 768 and 589 × 3072 outputs, whole: 104 to 113).  Where B is
 * transposed (y = x Wᵀ), each tile packs and transposes its part of W, so flat tiles are dear: 148 × 96 gives 56 to 82,
 * 148 × 192 gives 89 to 95, 296 × 192 gives 93 to 97.  In the other orientations 148 × 192 still gives 97 to 107.
 * Columns are best cut at multiples of 48, the kernel's width: 256 gives less than 192.  So: columns are halved while
 * both halves keep 192, then rows while both keep 288 (B transposed) or 144, until a tile is worth about TILE_FLOPS, a
 * quarter of a millisecond.  A product that would still feed fewer than four cores is cut further.
 */
#include "engine/linear.h"

#include "engine/blas.h"

#include <assert.h>
#include <limits.h>

#define TILE_FLOPS 24e6
#define TILES_MOST 64
#define TILES_FEW 4
#define COLUMNS_LEAST 192
#define ROWS_LEAST_TRANSPOSED 288
#define ROWS_LEAST 144
#define SIDE_LEAST 48 /* of a product that feeds few cores */
#define ROW_STEP 8
#define COLUMN_STEP 48
#define COLUMN_STEP_INT8 (4 * DD_INT8_PANEL)

static int up(int value, int step) {
    return (value + step - 1) / step * step;
}

static void cut(struct dd_product *p) {
    double flops = 2.0 * p->m * p->n * p->k;
    int rows = 1, columns = 1, rows_least = p->b_transposed ? ROWS_LEAST_TRANSPOSED : ROWS_LEAST;
    while (rows * columns < TILES_MOST && flops / (rows * columns) > TILE_FLOPS) {
        int height = p->m / rows, width = p->n / columns;
        if (width >= 2 * COLUMNS_LEAST) {
            columns *= 2;
        } else if (height >= 2 * rows_least) {
            rows *= 2;
        } else if (rows * columns < TILES_FEW && height >= width && height >= 2 * SIDE_LEAST) {
            rows *= 2;
        } else if (rows * columns < TILES_FEW && width >= 2 * SIDE_LEAST) {
            columns *= 2;
        } else {
            break;
        }
    }
    p->tile_rows = DD_MIN(up((p->m + rows - 1) / rows, ROW_STEP), p->m);
    p->tile_columns = DD_MIN(up((p->n + columns - 1) / columns, p->b8 != NULL ? COLUMN_STEP_INT8 : COLUMN_STEP), p->n);
    p->row_tiles = (p->m + p->tile_rows - 1) / p->tile_rows;
    p->column_tiles = (p->n + p->tile_columns - 1) / p->tile_columns;
}

static void finish_tile(const struct dd_product *p, int i0, int j0, int m, int n) {
    const struct dd_simd *simd = dd_simd();
    size_t ld = (size_t)p->ldc, at = (size_t)i0 * ld + (size_t)j0;
    switch (p->after) {
    case DD_AFTER_NOTHING:
        break;
    case DD_AFTER_BIAS:
        simd->add_bias(m, n, p->c + at, ld, p->bias + j0);
        break;
    case DD_AFTER_ACTIVATION:
    case DD_AFTER_ACTIVATION_DERIVATIVE:
        simd->activation(p->activation, m, n, p->c + at, ld, p->bias + j0, p->out + at, ld,
                         p->after == DD_AFTER_ACTIVATION_DERIVATIVE);
        break;
    case DD_AFTER_MULTIPLY:
        simd->multiply(m, n, p->c + at, p->factor + at, ld);
        break;
    }
}

static void run_tile(const struct dd_product *p, int tile) {
    int i0 = tile / p->column_tiles * p->tile_rows, j0 = tile % p->column_tiles * p->tile_columns;
    int m = DD_MIN(p->tile_rows, p->m - i0), n = DD_MIN(p->tile_columns, p->n - j0);
    size_t lda = (size_t)p->lda, ldb = (size_t)p->ldb;
    size_t a_at = p->a_transposed ? (size_t)i0 : (size_t)i0 * lda;
    size_t b_at = p->b_transposed ? (size_t)j0 * ldb : (size_t)j0;
    float *c = p->c + (size_t)i0 * (size_t)p->ldc + (size_t)j0, beta = p->accumulate ? 1.0f : 0.0f;
    if (p->a8 != NULL) {
        dd_int8_product(p->a8, i0, m, p->b8, p->b8_first + j0, n, c, (size_t)p->ldc);
    } else if (p->a16 != NULL) {
        dd_bf16_gemm(p->a_transposed, p->b_transposed, m, n, p->k, p->a16 + a_at, p->lda, p->b16 + b_at, p->ldb, beta,
                     c, p->ldc);
    } else {
        dd_sgemm(p->a_transposed, p->b_transposed, m, n, p->k, p->a + a_at, p->lda, p->b + b_at, p->ldb, beta, c,
                 p->ldc);
    }
    finish_tile(p, i0, j0, m, n);
    if (p->a_sums != NULL && j0 == 0) {
        dd_simd()->column_sums(p->k, m, p->a + a_at, lda, p->a_sums + i0);
    }
}

struct run {
    const struct dd_product *products;
    int n_products;
};

static void run_chunk(void *context, int chunk) {
    const struct run *run = context;
    for (int i = 0; i < run->n_products; i++) {
        const struct dd_product *p = &run->products[i];
        int tiles = p->row_tiles * p->column_tiles;
        if (chunk < tiles) {
            run_tile(p, chunk);
            return;
        }
        chunk -= tiles;
    }
}

void dd_products_run(struct dd_team *team, struct dd_product *products, int n_products) {
    int chunks = 0;
    for (int i = 0; i < n_products; i++) {
        assert(products[i].m > 0 && products[i].n > 0 && products[i].k > 0);
        assert(products[i].a_sums == NULL || products[i].a_transposed);
        assert((products[i].a16 == NULL) == (products[i].b16 == NULL));
        assert((products[i].a8 == NULL) == (products[i].b8 == NULL));
        cut(&products[i]);
        chunks += products[i].row_tiles * products[i].column_tiles;
    }
    struct run run = {products, n_products};
    dd_team_for(team, chunks, run_chunk, &run);
}

struct dd_product dd_linear_forward(const float *x, const float *weight, float *y, int rows, int in, int out) {
    return (struct dd_product){.m = rows,
                               .n = out,
                               .k = in,
                               .b_transposed = true,
                               .a = x,
                               .lda = in,
                               .b = weight,
                               .ldb = in,
                               .c = y,
                               .ldc = out};
}

struct dd_product dd_linear_weight(const float *dy, const float *x, float *dweight, float *dbias, int rows, int in,
                                   int out) {
    return (struct dd_product){.m = out,
                               .n = in,
                               .k = rows,
                               .a_transposed = true,
                               .a = dy,
                               .lda = out,
                               .b = x,
                               .ldb = in,
                               .c = dweight,
                               .ldc = in,
                               .a_sums = dbias};
}

struct dd_product dd_linear_input(const float *dy, const float *weight, float *dx, int rows, int in, int out,
                                  bool accumulate) {
    return (struct dd_product){.m = rows,
                               .n = in,
                               .k = out,
                               .accumulate = accumulate,
                               .a = dy,
                               .lda = out,
                               .b = weight,
                               .ldb = in,
                               .c = dx,
                               .ldc = in};
}

int dd_pieces(int count, int least) {
    return DD_MAX(1, DD_MIN(32, count / DD_MAX(least, 1)));
}

int dd_piece(int count, int pieces, int piece, int *ret_first) {
    int64_t first = (int64_t)count * piece / pieces, end = (int64_t)count * (piece + 1) / pieces;
    *ret_first = (int)first;
    return (int)(end - first);
}
