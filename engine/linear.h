/* linear: matrix products cut into tiles and run by a team.  Private to engine/.
 *
 * The cut depends on the shape alone, so the bits do not depend on the number of cores.  Each tile is one call of
 * dd_sgemm, dd_bf16_gemm or dd_int8_product, followed, while the tile is in cache, by its share of what comes after the
 * product.
 */
#ifndef DD_ENGINE_LINEAR_H
#define DD_ENGINE_LINEAR_H

#include "engine/engine.h"
#include "engine/int8.h"
#include "engine/simd.h"

enum dd_after {
    DD_AFTER_NOTHING = 0,
    DD_AFTER_BIAS,                  /* c += bias */
    DD_AFTER_ACTIVATION,            /* c += bias; out = act(c) */
    DD_AFTER_ACTIVATION_DERIVATIVE, /* and then c = act'(c) */
    DD_AFTER_MULTIPLY,              /* c *= factor [m, n] */
};

/* C [m, n] = op(A) op(B), or += with accumulate; row-major, leading dimensions in floats. */
struct dd_product {
    int m, n, k;
    bool a_transposed, b_transposed, accumulate;
    const float *a, *b;
    const uint16_t *a16, *b16; /* the same in bfloat16, laid out alike; both or neither: then these are multiplied */
    const struct dd_int8_rows *a8; /* x and W as int8; both or neither: then these are multiplied, y = x Wᵀ alone */
    const struct dd_int8_matrix *b8;
    int b8_first; /* row of W that is y's first column */
    int lda, ldb, ldc;
    float *c;
    enum dd_after after;
    enum dd_activation activation;
    const float *bias;   /* [n] */
    float *out;          /* like c; may be c for DD_AFTER_ACTIVATION */
    const float *factor; /* like c */
    float *a_sums;       /* [m] = the sums of A's columns, A transposed: the bias gradient beside a weight's; or NULL */
    /* filled by dd_products_run */
    int tile_rows, tile_columns, row_tiles, column_tiles;
};

#define DD_MAX_PRODUCTS 4
/* All tiles of all products in one go; the products must not read what another writes. */
void dd_products_run(struct dd_team *team, struct dd_product *products, int n_products);

/* y = x Wᵀ: x [rows, in], W [out, in], y [rows, out]. */
struct dd_product dd_linear_forward(const float *x, const float *weight, float *y, int rows, int in, int out);
/* dW [out, in] = dyᵀ x and db [out] = the column sums of dy. */
struct dd_product dd_linear_weight(const float *dy, const float *x, float *dweight, float *dbias, int rows, int in,
                                   int out);
/* dx [rows, in] = or += dy W. */
struct dd_product dd_linear_input(const float *dy, const float *weight, float *dx, int rows, int in, int out,
                                  bool accumulate);

/* [0, count) in pieces of at least `least` and at most 32 of them: cut by the problem. Piece i is *ret_first … +
 * return. */
int dd_pieces(int count, int least);
int dd_piece(int count, int pieces, int piece, int *ret_first);

#endif
