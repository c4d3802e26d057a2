/* philox: counter-based random numbers (Salmon, Moraes, Dror, Shaw 2011: "Parallel random numbers: as easy as 1, 2,
 * 3"). Pure functions of their arguments, any thread; the meaning of the counter stands in philox.h.
 */
#include "engine/philox.h"

#include <assert.h>
#include <math.h>

void dd_philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < DD_PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)DD_PHILOX_M0 * c0, p1 = (uint64_t)DD_PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += DD_PHILOX_W0;
        k1 += DD_PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void dd_philox(const struct dd_stream *stream, uint64_t index, uint32_t out[4]) {
    uint32_t counter[4], key[2] = {(uint32_t)stream->seed, (uint32_t)(stream->seed >> 32)};
    dd_philox_counter(stream, index, counter);
    dd_philox_block(counter, key, out);
}

/* Lemire's method: the high half of word × bound, refusing the few words that would favour some results.  A refused
 * word is followed by the block's other half, then by blocks 2^40 further on, which no caller's index reaches. */
uint64_t dd_random_below(const struct dd_stream *stream, uint64_t index, uint64_t bound) {
    assert(bound > 0 && index < (uint64_t)1 << 40);
    uint64_t refuse_below = (0 - bound) % bound;
    for (uint64_t attempt = 0;; attempt++) {
        uint32_t word[4];
        dd_philox(stream, index + (attempt / 2 << 40), word);
        int half = (int)(attempt % 2) * 2;
        uint64_t x = (uint64_t)word[half + 1] << 32 | word[half];
        unsigned __int128 product = (unsigned __int128)x * bound;
        if ((uint64_t)product >= refuse_below || attempt == 511) {
            return (uint64_t)(product >> 64);
        }
    }
}

/* Values 2 b and 2 b + 1 come from block b: 53-bit uniforms u in (0, 1], v in [0, 1). */
static void normal_pair(const struct dd_stream *stream, uint64_t block, double pair[2]) {
    uint32_t word[4];
    dd_philox(stream, block, word);
    double u = ((double)(((uint64_t)word[1] << 32 | word[0]) >> 11) + 1.0) * 0x1p-53;
    double v = (double)(((uint64_t)word[3] << 32 | word[2]) >> 11) * 0x1p-53;
    double radius = sqrt(-2.0 * log(u)), angle = 6.283185307179586476925 * v;
    pair[0] = radius * cos(angle);
    pair[1] = radius * sin(angle);
}

void dd_random_normal(const struct dd_stream *stream, size_t first, size_t count, float stddev, float *out) {
    double pair[2] = {0.0, 0.0};
    for (size_t i = 0; i < count; i++) {
        size_t at = first + i;
        if (i == 0 || at % 2 == 0) {
            normal_pair(stream, at / 2, pair);
        }
        out[i] = (float)(pair[at % 2] * (double)stddev);
    }
}

void dd_random_permutation(const struct dd_stream *stream, uint32_t *out, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        out[i] = i;
    }
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = (uint32_t)dd_random_below(stream, i - 1, i), swap = out[i - 1];
        out[i - 1] = out[j];
        out[j] = swap;
    }
}
