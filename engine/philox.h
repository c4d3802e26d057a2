/* philox: the counter and the bare generator, shared by the scalar functions of nn.h and the vector mask kernel.
 * Private to engine/.
 *
 * Key: the seed, low word first.  Counter, 128 bits, injective for index < 2^48, step < 2^48, purpose < 16 and
 * tensor < 2^28:
 *   word 0  index, bits 0–31
 *   word 1  index, bits 32–47 | step, bits 32–47, shifted up by 16
 *   word 2  step, bits 0–31
 *   word 3  tensor | purpose << 28
 */
#ifndef DD_ENGINE_PHILOX_H
#define DD_ENGINE_PHILOX_H

#include "engine/nn.h"

#define DD_PHILOX_M0 0xD2511F53u
#define DD_PHILOX_M1 0xCD9E8D57u
#define DD_PHILOX_W0 0x9E3779B9u
#define DD_PHILOX_W1 0xBB67AE85u
#define DD_PHILOX_ROUNDS 10

static inline void dd_philox_counter(const struct dd_stream *stream, uint64_t index, uint32_t counter[4]) {
    counter[0] = (uint32_t)index;
    counter[1] = (uint32_t)(index >> 32 & 0xffffu) | (uint32_t)(stream->step >> 32 & 0xffffu) << 16;
    counter[2] = (uint32_t)stream->step;
    counter[3] = (stream->tensor & 0x0fffffffu) | stream->purpose << 28;
}

/* Philox 4×32-10 as Random123 defines it. */
void dd_philox_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
