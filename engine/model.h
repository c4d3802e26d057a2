/* model: what the files that read and write models share.  Private to engine/model_*.c, safetensors.c, pickle*.c,
 * archive.c and params.c.
 * Threads: no global state; every call works on its arguments alone.
 */
#ifndef DD_ENGINE_MODEL_H
#define DD_ENGINE_MODEL_H

#include "engine/engine.h"

/* --- params.c --------------------------------------------------------------------------------------------------- */

/* Every tensor begins at a multiple of this many floats (64 bytes), but k and v, which follow q without a gap. */
#define DD_PARAM_ALIGN 16
#define DD_MAX_HIDDEN 16384
#define DD_MAX_INTERMEDIATE 65536
#define DD_MAX_VOCAB (1 << 20)
#define DD_MAX_POSITIONS (1 << 16)
#define DD_MAX_TYPES 1024
#define DD_MAX_SLAB_FLOATS ((size_t)1 << 33)

/* Bounds of every field and heads | hidden_size.  DD_INVALID "model_config_invalid", naming the field as config.json
 * does. */
enum dd_status dd_bert_config_check(const struct dd_bert_config *config, struct dd_error *err) DD_MUST_CHECK;
/* The tensors of a model without its slab: *ret_params has slab NULL.  For looking at a model without loading it. */
enum dd_status dd_params_layout(const struct dd_bert_config *config, struct dd_params **ret_params,
                                struct dd_error *err) DD_MUST_CHECK;
/* Values that are learned: the slab without its padding. */
uint64_t dd_params_values(const struct dd_params *params);

#endif
