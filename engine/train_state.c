/* train_state: the position of a run in memory, and the hash by which its models are known again.
 * Threads: the run's own.
 */
#include "engine/train.h"

#include <stdlib.h>
#include <string.h>

void dd_run_state_init(struct dd_run_state *state) {
    *state = (struct dd_run_state){.epoch = 1, .delivered = true};
}

void dd_run_state_release(struct dd_run_state *state) {
    free(state->steps);
    free(state->dev_label);
    free(state->dev_score);
    *state = (struct dd_run_state){0};
}

enum dd_status dd_run_state_add_step(struct dd_run_state *state, const struct dd_step_metrics *step,
                                     struct dd_error *err) {
    if (state->n_steps == DD_STEPS_KEPT) {
        size_t half = DD_STEPS_KEPT / 2;
        memmove(state->steps, state->steps + half, (state->n_steps - half) * sizeof *state->steps);
        state->n_steps -= half;
    }
    if (state->n_steps == state->steps_cap) {
        size_t cap = DD_MAX(state->steps_cap * 2, (size_t)256);
        struct dd_step_metrics *grown = dd_realloc_array(state->steps, cap, sizeof *grown);
        if (!grown) {
            return dd_fail_memory(err, cap * sizeof *grown);
        }
        state->steps = grown;
        state->steps_cap = cap;
    }
    state->steps[state->n_steps++] = *step;
    return DD_OK;
}

void dd_hash_tensor_layout(struct dd_sha256 *hash, const struct dd_tensor *tensor) {
    uint64_t shape[3] = {(uint64_t)tensor->rank, tensor->shape[0], tensor->rank > 1 ? tensor->shape[1] : 0};
    dd_sha256_update(hash, tensor->name, strlen(tensor->name) + 1);
    dd_sha256_update(hash, shape, sizeof shape);
}

enum dd_status dd_params_sha256(const struct dd_params *params, uint8_t out[DD_SHA256_BYTES], struct dd_error *err) {
    struct dd_sha256 *hash = dd_sha256_new();
    if (!hash) {
        return dd_fail_memory(err, 0);
    }
    for (int t = 0; t < params->n_tensors; t++) {
        dd_hash_tensor_layout(hash, &params->tensors[t]);
        dd_sha256_update(hash, params->slab + params->tensors[t].offset, params->tensors[t].count * sizeof(float));
    }
    dd_sha256_digest(hash, out);
    dd_sha256_free(hash);
    return DD_OK;
}
