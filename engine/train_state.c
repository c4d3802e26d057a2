/* train_state: the position of a run in memory.  Threads: the run's own. */
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
