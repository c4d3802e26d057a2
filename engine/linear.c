/* linear: see linear.h.
 *
 * Tiles.  A tile is worth about TILE_FLOPS, a quarter of a millisecond: long beside the half microsecond that handing
 * it out costs, short enough that 16 cores have work in the larger products and that two cores end nearly together.
 * Halving a tile's side costs packing its operands once more, so no side is cut below TILE_LEAST, and the side that is
 * longer is cut first.
 */
#include "engine/linear.h"

#include "engine/blas.h"

#include <assert.h>
#include <limits.h>

#define TILE_FLOPS 24e6
#define TILE_LEAST 96
#define TILE_STEP 16
#define TILES_MOST 64

static int up(int value, int step) {
    return (value + step - 1) / step * step;
}

static void cut(struct dd_product *p) {
    double flops = 2.0 * p->m * p->n * p->k;
    int rows = 1, columns = 1;
    while (rows * columns < TILES_MOST && flops / (rows * columns) > TILE_FLOPS) {
        int height = p->m / rows, width = p->n / columns;
        if (DD_MAX(height, width) < 2 * TILE_LEAST) {
            break;
        }
        if (height > width) {
            rows *= 2;
        } else {
            columns *= 2;
        }
    }
    p->tile_rows = DD_MIN(up((p->m + rows - 1) / rows, TILE_STEP), p->m);
    p->tile_columns = DD_MIN(up((p->n + columns - 1) / columns, TILE_STEP), p->n);
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
    const float *a = p->a + (p->a_transposed ? (size_t)i0 : (size_t)i0 * lda);
    const float *b = p->b + (p->b_transposed ? (size_t)j0 * ldb : (size_t)j0);
    float *c = p->c + (size_t)i0 * (size_t)p->ldc + (size_t)j0;
    dd_sgemm(p->a_transposed, p->b_transposed, m, n, p->k, a, p->lda, b, p->ldb, p->accumulate ? 1.0f : 0.0f, c,
             p->ldc);
    finish_tile(p, i0, j0, m, n);
    if (p->a_sums != NULL && j0 == 0) {
        dd_simd()->column_sums(p->k, m, a, lda, p->a_sums + i0);
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
