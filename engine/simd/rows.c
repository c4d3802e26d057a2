/* rows: single passes over rows of activations: activation functions, dropout, residual, LayerNorm, each way.
 * Contracts in engine/simd.h.
 */
#include "engine/simd/kernels.h"
#include "engine/simd/math.h"

#include <math.h>

/* A mask read along a row: words are drawn as each group of 128 columns begins. */
struct row_mask {
    const struct dd_mask *mask;
    uint64_t group;
    uint16_t words[DD_MASK_GROUP_WORDS];
};

static inline struct row_mask row_mask(const struct dd_mask *mask, int row, int n) {
    uint64_t groups = ((uint64_t)n + DD_MASK_GROUP - 1) / DD_MASK_GROUP;
    return (struct row_mask){.mask = mask, .group = (uint64_t)row * groups};
}

static inline vf drop(struct row_mask *row, vf x, int i) {
    if (row->mask->threshold == 0) {
        return x;
    }
    int at = i % DD_MASK_GROUP;
    if (at == 0) {
        K(mask)(row->mask, row->group++, 1, row->words);
    }
    return keep(x * row->mask->scale, dd_mask_bits(row->words, (size_t)at));
}

static inline int mask_row(const int32_t *row_of, int first_row, int row) {
    return row_of != NULL ? row_of[row] : first_row + row;
}

/* --- activation functions --------------------------------------------------------------------------------------- */

static inline vf gelu(vf x, vf *ret_derivative) {
    vf density, cumulative = vnormal(x, &density);
    *ret_derivative = cumulative + x * density;
    return x * cumulative;
}

/* x σ(2 w) with w = √(2/π) (x + 0.044715 x³), which is x (1 + tanh w) / 2. */
static inline vf gelu_new(vf x, vf *ret_derivative) {
    vf square = x * x;
    vf twice = x * (1.59576912160573071f + 0.0713548162726009f * square);
    vf sigmoid = 1.0f / (1.0f + vexp(-twice));
    vf slope = 1.59576912160573071f + 0.2140644488178027f * square;
    /* σ' = σ (1 - σ) is 0 where the slope overflows; there x σ' slope must be 0, not 0 · ∞. */
    *ret_derivative = sigmoid + sigmoid * (1.0f - sigmoid) * vmax(vmin(x * slope, splat(1e30f)), splat(-1e30f));
    return x * sigmoid;
}

static inline vf relu(vf x, vf *ret_derivative) {
    *ret_derivative = select_f(x > 0.0f, splat(1.0f), splat(0.0f));
    return select_f(x <= 0.0f, splat(0.0f), x);
}

static inline __attribute__((always_inline)) void activate(vf (*act)(vf, vf *), int rows, int n, float *u, size_t ldu,
                                                           const float *bias, float *a, size_t lda, bool derivative) {
    for (int r = 0; r < rows; r++) {
        float *in = u + (size_t)r * ldu, *out = a + (size_t)r * lda;
        for (int i = 0; i < n; i += LANES) {
            vf slope, y = act(get(in, i, n) + get(bias, i, n), &slope);
            if (derivative) {
                put(in, i, n, slope);
            }
            put(out, i, n, y);
        }
    }
}

void K(activation)(enum dd_activation kind, int rows, int n, float *u, size_t ldu, const float *bias, float *a,
                   size_t lda, bool derivative) {
    switch (kind) {
    case DD_ACT_GELU:
        activate(gelu, rows, n, u, ldu, bias, a, lda, derivative);
        break;
    case DD_ACT_GELU_NEW:
        activate(gelu_new, rows, n, u, ldu, bias, a, lda, derivative);
        break;
    case DD_ACT_RELU:
        activate(relu, rows, n, u, ldu, bias, a, lda, derivative);
        break;
    }
}

void K(add_bias)(int rows, int n, float *y, size_t ldy, const float *bias) {
    for (int r = 0; r < rows; r++) {
        float *row = y + (size_t)r * ldy;
        for (int i = 0; i < n; i += LANES) {
            put(row, i, n, get(row, i, n) + get(bias, i, n));
        }
    }
}

void K(multiply)(int rows, int n, float *y, const float *x, size_t ld) {
    for (int r = 0; r < rows; r++) {
        float *row = y + (size_t)r * ld;
        for (int i = 0; i < n; i += LANES) {
            put(row, i, n, get(row, i, n) * get(x + (size_t)r * ld, i, n));
        }
    }
}

void K(tanh)(size_t count, float *y) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        put(y + at, 0, n, vtanh(get(y + at, 0, n)));
    }
}

void K(tanh_backward)(size_t count, float *dy, const float *y) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf value = get(y + at, 0, n);
        put(dy + at, 0, n, get(dy + at, 0, n) * (1.0f - value * value));
    }
}

/* Four vectors of columns at a time stay in registers while the rows go by. */
void K(column_sums)(int rows, int n, const float *x, size_t ld, float *sum) {
    int i = 0;
    for (; n - i >= 4 * LANES; i += 4 * LANES) {
        vf s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int r = 0; r < rows; r++) {
            const float *row = x + (size_t)r * ld + i;
            s0 += load(row);
            s1 += load(row + LANES);
            s2 += load(row + 2 * LANES);
            s3 += load(row + 3 * LANES);
        }
        store(sum + i, s0);
        store(sum + i + LANES, s1);
        store(sum + i + 2 * LANES, s2);
        store(sum + i + 3 * LANES, s3);
    }
    for (; i < n; i += LANES) {
        vf s = {0};
        for (int r = 0; r < rows; r++) {
            s += get(x + (size_t)r * ld, i, n);
        }
        put(sum, i, n, s);
    }
}

/* --- dropout, residual, LayerNorm ------------------------------------------------------------------------------- */

void K(dropout)(int rows, int n, float *x, const struct dd_mask *mask, const int32_t *row_of, int first_row) {
    if (mask->threshold == 0) {
        return;
    }
    for (int r = 0; r < rows; r++) {
        float *row = x + (size_t)r * (size_t)n;
        struct row_mask bits = row_mask(mask, mask_row(row_of, first_row, r), n);
        for (int i = 0; i < n; i += LANES) {
            put(row, i, n, drop(&bits, get(row, i, n), i));
        }
    }
}

/* z becomes xhat; returns 1/σ.  `sum` is the sum of z.  The variance is taken about the mean (two passes, in cache). */
static inline float normalise(const struct dd_layernorm *norm, float *z, float sum) {
    int n = norm->n, whole = n - n % LANES;
    float mean = sum / (float)n;
    vf squares = {0};
    for (int i = 0; i < whole; i += LANES) {
        vf centred = load(z + i) - mean;
        squares += centred * centred;
        store(z + i, centred);
    }
    float rest = 0.0f;
    for (int i = whole; i < n; i++) {
        z[i] -= mean;
        rest += z[i] * z[i];
    }
    float rstd = 1.0f / sqrtf((reduce_sum(squares) + rest) / (float)n + norm->eps);
    for (int i = 0; i < n; i += LANES) {
        put(z, i, n, get(z, i, n) * rstd);
    }
    return rstd;
}

void K(residual_layernorm)(const struct dd_layernorm *norm, int rows, float *z, const float *bias,
                           const float *residual, const struct dd_mask *mask, const int32_t *row_of, int first_row,
                           float *rstd, float *y) {
    int n = norm->n;
    for (int r = 0; r < rows; r++) {
        size_t at = (size_t)r * (size_t)n;
        struct row_mask bits = row_mask(mask, mask_row(row_of, first_row, r), n);
        vf sum = {0};
        for (int i = 0; i < n; i += LANES) {
            vf x = drop(&bits, get(z + at, i, n) + get(bias, i, n), i) + get(residual + at, i, n);
            put(z + at, i, n, x);
            sum += x; /* lanes past the end of the row are 0 */
        }
        rstd[r] = normalise(norm, z + at, reduce_sum(sum));
        for (int i = 0; i < n; i += LANES) {
            put(y + at, i, n, get(z + at, i, n) * get(norm->gain, i, n) + get(norm->shift, i, n));
        }
    }
}

void K(layernorm_dropout)(const struct dd_layernorm *norm, int rows, float *z, const struct dd_mask *mask,
                          int first_row, float *rstd, float *y) {
    int n = norm->n;
    for (int r = 0; r < rows; r++) {
        size_t at = (size_t)r * (size_t)n;
        struct row_mask bits = row_mask(mask, first_row + r, n);
        vf sum = {0};
        for (int i = 0; i < n; i += LANES) {
            sum += get(z + at, i, n);
        }
        rstd[r] = normalise(norm, z + at, reduce_sum(sum));
        for (int i = 0; i < n; i += LANES) {
            vf value = get(z + at, i, n) * get(norm->gain, i, n) + get(norm->shift, i, n);
            put(y + at, i, n, drop(&bits, value, i));
        }
    }
}

/* With g = dy · gain: dz = (g - mean(g) - xhat · mean(g · xhat)) / σ. */
void K(layernorm_backward)(const struct dd_layernorm *norm, int rows, const float *dy, const float *xhat,
                           const float *rstd, float *dz, const struct dd_mask *mask, const int32_t *row_of,
                           int first_row, float *dbranch, float *sums) {
    int n = norm->n;
    float *dgain = sums, *dshift = sums + n;
    for (int r = 0; r < rows; r++) {
        size_t at = (size_t)r * (size_t)n;
        vf first = {0}, second = {0};
        for (int i = 0; i < n; i += LANES) {
            vf d = get(dy + at, i, n), x = get(xhat + at, i, n), g = d * get(norm->gain, i, n);
            first += g;
            second += g * x;
            put(dgain, i, n, r == 0 ? d * x : get(dgain, i, n) + d * x);
            put(dshift, i, n, r == 0 ? d : get(dshift, i, n) + d);
        }
        float mean = reduce_sum(first) / (float)n, slope = reduce_sum(second) / (float)n;
        struct row_mask bits = row_mask(mask, mask_row(row_of, first_row, r), n);
        for (int i = 0; i < n; i += LANES) {
            vf g = get(dy + at, i, n) * get(norm->gain, i, n);
            vf d = (g - mean - get(xhat + at, i, n) * slope) * rstd[r];
            put(dz + at, i, n, d);
            if (dbranch != NULL) {
                put(dbranch + at, i, n, drop(&bits, d, i));
            }
        }
    }
}

void K(evaluate)(int what, size_t count, const float *x, float *y) {
    for (size_t at = 0; at < count; at += LANES) {
        int n = (int)DD_MIN(count - at, (size_t)LANES);
        vf v = get(x + at, 0, n), density = {0}, result;
        switch (what) {
        case 0:
            result = vexp(v);
            break;
        case 1:
            result = vnormal(v, &density);
            break;
        case 2:
            vnormal(v, &density);
            result = density;
            break;
        default:
            result = vtanh(v);
            break;
        }
        put(y + at, 0, n, result);
    }
}

/* --- bfloat16 --------------------------------------------------------------------------------------------------- */

/* In integers, not by VCVTNEPS2BF16: that instruction takes subnormal floats for 0, and this is bound by memory. */
void K(to_bf16)(size_t count, const float *from, uint16_t *to) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
        to[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}
