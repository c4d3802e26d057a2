/* bytes: activations to int8 and sums back to floats; meaning in engine/int8.h.  No two roundings that a fused
 * operation could make one, so every instruction set gives the same bits.
 */
#include <math.h>

#include "engine/simd/kernels.h"
#include "engine/simd/vec.h"

#define SMALLEST 1e-30f /* below, 127 / max would overflow before long */

/* Rounded to nearest, ties to even. */
static inline vi round_to_int(vf x) {
#if LANES == 16
    return (vi)_mm512_cvtps_epi32((__m512)x);
#elif LANES == 8
    return (vi)_mm256_cvtps_epi32((__m256)x);
#else
    return (vi)_mm_cvtps_epi32((__m128)x);
#endif
}

/* The largest |x| by its bits: a NaN is larger than infinity, so neither is lost. */
static float largest_of(const float *x, int n) {
    vi most = {0};
    for (int i = 0; i < n; i += LANES) {
        vi bits = (vi)vabs(get(x, i, n));
        vi larger = bits > most;
        most = (bits & larger) | (most & ~larger);
    }
    int32_t lane[LANES], best = 0;
    memcpy(lane, &most, sizeof most);
    for (int i = 0; i < LANES; i++) {
        best = lane[i] > best ? lane[i] : best;
    }
    float largest;
    memcpy(&largest, &best, sizeof largest);
    return largest;
}

static inline void put_bytes(uint8_t *to, vi value, int count) {
#if LANES == 16
    _mm_mask_storeu_epi8(to, (__mmask16)((1u << count) - 1u), _mm512_cvtepi32_epi8((__m512i)value));
#else
    int32_t lane[LANES];
    memcpy(lane, &value, sizeof value);
    for (int i = 0; i < count; i++) {
        to[i] = (uint8_t)lane[i];
    }
#endif
}

void K(int8_rows)(int rows, int n, const float *x, uint8_t *out, size_t ld, float *scale) {
    int padded = (n + 3) / 4 * 4;
    for (int r = 0; r < rows; r++, x += n, out += ld) {
        float largest = largest_of(x, n);
        bool finite = isfinite(largest), zero = !finite || largest < SMALLEST;
        scale[r] = !finite ? NAN : zero ? 0.0f : largest / 127.0f;
        float inverse = 127.0f / largest;
        for (int i = 0; i < padded; i += LANES) {
            int count = padded - i < LANES ? padded - i : LANES;
            vi q = {0};
            if (!zero && i < n) {
                q = round_to_int(get(x, i, n) * inverse);
            }
            put_bytes(out + i, q + 128, count);
        }
    }
}

/* `count` sums at `at`, at most LANES. */
static inline __attribute__((always_inline)) void scale_sums(char *at, int count, vf scale) {
    vi sum = {0};
    memcpy(&sum, at, (size_t)count * sizeof(float));
    vf value = __builtin_convertvector(sum, vf) * scale;
    memcpy(at, &value, (size_t)count * sizeof(float));
}

void K(int8_to_float)(int m, int n, void *c, size_t ldc, const float *row_scale, const float *column_scale) {
    char *row = c;
    for (int i = 0; i < m; i++, row += ldc * sizeof(float)) {
        int j = 0;
        for (; n - j >= LANES; j += LANES) {
            scale_sums(row + (size_t)j * sizeof(float), LANES, load(column_scale + j) * row_scale[i]);
        }
        if (j < n) {
            scale_sums(row + (size_t)j * sizeof(float), n - j, get(column_scale, j, n) * row_scale[i]);
        }
    }
}
