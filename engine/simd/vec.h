/* vec: one vector type for the three instruction sets that engine/simd/ is compiled for.
 *
 * GCC's vector extensions do the arithmetic, so the same source gives 4, 8 or 16 lanes; only partial loads, bit masks
 * and maximum need the instruction set's own names.  Lane order never matters to a caller but in `reduce_…`, whose
 * order is fixed, so a kernel gives the same bits each time (not the same bits on another instruction set).
 */
#ifndef DD_SIMD_VEC_H
#define DD_SIMD_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf_loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vf load(const float *p) {
    return *(const vf_loose *)p;
}

static inline void store(float *p, vf x) {
    *(vf_loose *)p = x;
}

/* The first n < LANES floats; the other lanes are 0. */
static inline vf load_part(const float *p, int n) {
#if LANES == 16
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#else
    vf x = {0};
    memcpy(&x, p, sizeof(float) * (size_t)n);
    return x;
#endif
}

static inline void store_part(float *p, vf x, int n) {
#if LANES == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)x);
#else
    memcpy(p, &x, sizeof(float) * (size_t)n);
#endif
}

static inline vf splat(float x) {
    return (vf){0} + x;
}

static inline vf select_f(vi condition, vf yes, vf no) {
    return (vf)(((vi)yes & condition) | ((vi)no & ~condition));
}

static inline vf vmax(vf a, vf b) {
#if LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#endif
}

static inline vf vmin(vf a, vf b) {
#if LANES == 16
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#endif
}

static inline vf vsqrt(vf a) {
#if LANES == 16
    return (vf)_mm512_sqrt_ps((__m512)a);
#elif LANES == 8
    return (vf)_mm256_sqrt_ps((__m256)a);
#else
    return (vf)_mm_sqrt_ps((__m128)a);
#endif
}

/* a b + c, rounded once where the instruction set can.  Written out where two places must give the same bits; elsewhere
 * the compiler contracts as it likes. */
static inline vf vfma(vf a, vf b, vf c) {
#if LANES == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline vf vabs(vf a) {
    return (vf)((vi)a & 0x7fffffff);
}

static inline float reduce_sum(vf x) {
    float lane[LANES];
    memcpy(lane, &x, sizeof x);
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lane[i] += lane[i + half];
        }
    }
    return lane[0];
}

static inline float reduce_max(vf x) {
    float lane[LANES];
    memcpy(lane, &x, sizeof x);
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
        }
    }
    return lane[0];
}

/* x where the lane's bit is set, else +0. */
static inline vf keep(vf x, uint32_t bits) {
#if LANES == 16
    return (vf)_mm512_maskz_mov_ps((__mmask16)bits, (__m512)x);
#elif LANES == 8
    vi lane = {1, 2, 4, 8, 16, 32, 64, 128};
    return (vf)((vi)x & ((((vi){0} + (int32_t)bits) & lane) != 0));
#else
    vi lane = {1, 2, 4, 8};
    return (vf)((vi)x & ((((vi){0} + (int32_t)bits) & lane) != 0));
#endif
}

/* Columns i … of a row of n: a whole vector or, at the row's end, part of one. */
static inline vf get(const float *row, int i, int n) {
    return n - i >= LANES ? load(row + i) : load_part(row + i, n - i);
}

static inline void put(float *row, int i, int n, vf x) {
    if (n - i >= LANES) {
        store(row + i, x);
    } else {
        store_part(row + i, x, n - i);
    }
}

#endif
