/* mask: dropout decisions, 128 at a time.  The meaning of a mask word stands in engine/simd.h. */
#include "engine/philox.h"
#include "engine/simd/kernels.h"
#include "engine/simd/vec.h"

#define BLOCKS 16

/* Bit l: value[l] ≥ threshold, both below 2^16. */
static inline uint16_t at_least(const uint32_t value[BLOCKS], uint32_t threshold) {
    uint32_t bits = 0;
#if LANES == 16
    bits = _mm512_cmpge_epu32_mask(_mm512_loadu_si512(value), _mm512_set1_epi32((int)threshold));
#elif LANES == 8
    for (int i = 0; i < BLOCKS; i += 8) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(value + i));
        __m256i less = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)threshold), x);
        bits |= (~(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(less)) & 0xffu) << i;
    }
#else
    for (int i = 0; i < BLOCKS; i += 4) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(value + i));
        __m128i less = _mm_cmpgt_epi32(_mm_set1_epi32((int)threshold), x);
        bits |= (~(uint32_t)_mm_movemask_ps(_mm_castsi128_ps(less)) & 0xfu) << i;
    }
#endif
    return (uint16_t)bits;
}

static inline void mask_group(const uint32_t counter[4], uint64_t seed, uint32_t threshold, uint16_t words[8]) {
    uint32_t c[4][BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++) {
        c[0][i] = counter[0] + i; /* no carry: groups begin at multiples of 16 */
        c[1][i] = counter[1];
        c[2][i] = counter[2];
        c[3][i] = counter[3];
    }
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < DD_PHILOX_ROUNDS; round++) {
#pragma omp simd
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t p0 = (uint64_t)DD_PHILOX_M0 * c[0][i], p1 = (uint64_t)DD_PHILOX_M1 * c[2][i];
            c[0][i] = (uint32_t)(p1 >> 32) ^ c[1][i] ^ k0;
            c[1][i] = (uint32_t)p1;
            c[2][i] = (uint32_t)(p0 >> 32) ^ c[3][i] ^ k1;
            c[3][i] = (uint32_t)p0;
        }
        k0 += DD_PHILOX_W0;
        k1 += DD_PHILOX_W1;
    }
    for (int w = 0; w < 4; w++) {
        uint32_t low[BLOCKS], high[BLOCKS];
        for (int i = 0; i < BLOCKS; i++) {
            low[i] = c[w][i] & 0xffffu;
            high[i] = c[w][i] >> 16;
        }
        words[2 * w] = at_least(low, threshold);
        words[2 * w + 1] = at_least(high, threshold);
    }
}

void K(mask)(const struct dd_mask *mask, uint64_t first, size_t groups, uint16_t *words) {
    for (size_t g = 0; g < groups; g++) {
        uint32_t counter[4];
        dd_philox_counter(&mask->stream, (first + g) * BLOCKS, counter);
        mask_group(counter, mask->stream.seed, mask->threshold, words + g * DD_MASK_GROUP_WORDS);
    }
}
