/* linear: see linear.h.
 *
 * Tiles, by measurement (oneDNN, one core, GFLOP/s; whole products of 616 or 2158 tokens with 768 and 3072 features
 * give 95 to 112).  A call packs its part of A and of B, which costs as much as (1 / rows + 1 / columns), most where B
 * is transposed (y = x Wᵀ): 96 rows give 73 to 92, 192 × 192 gives 84 to 100 in the worst orientations, 320 × 384 and
 * more give 97 to 107.  Columns are best cut at multiples of 48, the kernel's width.  So the longer side is halved
 * while both halves keep SIDE_LARGE, until a tile is worth TILE_FLOPS, about two milliseconds; products that then feed
 * fewer than eight cores are cut further while halves keep SIDE_FEW and a tile is worth a quarter of a millisecond, and
 * those that feed fewer than four down to SIDE_LEAST.
 */
#include "engine/linear.h"

#include "engine/blas.h"

#include <assert.h>
#include <limits.h>

#define TILE_FLOPS 190e6
#define TILE_FLOPS_LEAST 24e6
#define TILES_MOST 64
#define TILES_FEW 8
#define TILES_FEWEST 4
#define SIDE_LARGE 288
#define SIDE_FEW 144
#define SIDE_LEAST 48
#define ROW_STEP 8
#define COLUMN_STEP 48
#define COLUMN_STEP_INT8 (4 * DD_INT8_PANEL)

static int up(int value, int step) {
    return (value + step - 1) / step * step;
}

/* Halves the longer side while both halves keep `least`, a tile is worth more than `flops` and there are fewer than
 * `most` tiles. */
static void halve(const struct dd_product *p, double flops, int most, int least, int *rows, int *columns) {
    while (*rows * *columns < most && 2.0 * p->m * p->n * p->k / (*rows * *columns) > flops) {
        int height = p->m / *rows, width = p->n / *columns;
        if (DD_MAX(height, width) < 2 * least) {
            return;
        }
        *(height > width ? rows : columns) *= 2;
    }
}

static void cut(struct dd_product *p) {
    int rows = 1, columns = 1;
    halve(p, TILE_FLOPS, TILES_MOST, SIDE_LARGE, &rows, &columns);
    halve(p, TILE_FLOPS_LEAST, TILES_FEW, SIDE_FEW, &rows, &columns);
    halve(p, TILE_FLOPS_LEAST, TILES_FEWEST, SIDE_LEAST, &rows, &columns);
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
