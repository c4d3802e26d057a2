/* match_teacher: the teacher's inner states, queries, keys and values of one batch, by a forward without dropout.
 * Threads: the caller's and its team.
 */
#include "engine/match.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* What the teacher has of it just now: rows at a stride, of all tokens or of [CLS] alone. */
struct shown {
    const float *values;
    size_t stride;
    bool cls;
};

static struct shown find_shown(const struct dd_asker *asker, const struct dd_wanted_state *wanted, const float *values,
                               int rows) {
    const struct dd_bert_qkv qkv = dd_bert_qkv(asker->bert, DD_MAX(wanted->state - 1, 0));
    switch (wanted->kind) {
    case DD_WANTED_QUERIES:
        return (struct shown){qkv.q, qkv.q_stride, qkv.cls};
    case DD_WANTED_KEYS:
        return (struct shown){qkv.k, qkv.kv_stride, false};
    case DD_WANTED_VALUES:
        return (struct shown){qkv.v, qkv.kv_stride, false};
    case DD_WANTED_STATE:
        break;
    }
    return (struct shown){values, (size_t)asker->width, rows == asker->batch->n_sequences};
}

/* All pass through a few buffers that alternate, so each is copied when it comes by. */
static void copy_state(void *context, int state, const float *values, int rows) {
    struct dd_asker *asker = context;
    const struct dd_batch *batch = asker->batch;
    size_t width = (size_t)asker->width;
    for (int i = 0; i < asker->n_wanted; i++) {
        const struct dd_wanted_state *wanted = &asker->wanted[i];
        if (wanted->state != state) {
            continue;
        }
        const struct shown shown = find_shown(asker, wanted, values, rows);
        assert(wanted->cls || !shown.cls || batch->n_tokens == batch->n_sequences);
        int count = wanted->cls ? batch->n_sequences : batch->n_tokens;
        for (int r = 0; r < count; r++) {
            size_t from = (size_t)(wanted->cls && !shown.cls ? batch->offsets[r] : r);
            memcpy(wanted->out + (size_t)r * width, shown.values + from * shown.stride, width * sizeof(float));
        }
    }
}

enum dd_status dd_asker_init(struct dd_asker *asker, const struct dd_model *teacher, int max_tokens, int max_sequences,
                             int max_length, struct dd_team *team, struct dd_error *err) {
    const struct dd_bert_config *config = &teacher->info.config;
    enum dd_status status = dd_model_need_weights(teacher, err);
    if (status != DD_OK) {
        return status;
    }
    struct dd_asker made = {.params = teacher->params, .width = config->hidden_size, .layers = config->layers};
    made.logits = dd_calloc((size_t)max_sequences * (size_t)config->n_labels, sizeof *made.logits);
    if (!made.logits) {
        return dd_fail_memory(err, (size_t)max_sequences * (size_t)config->n_labels * sizeof *made.logits);
    }
    status =
        dd_bert_new(config, max_tokens, max_sequences, max_length, false, DD_PRECISION_FP32, team, &made.bert, err);
    if (status != DD_OK) {
        dd_asker_release(&made);
        return status;
    }
    *asker = made;
    return DD_OK;
}

void dd_asker_release(struct dd_asker *asker) {
    dd_bert_free(asker->bert);
    free(asker->logits);
    *asker = (struct dd_asker){0};
}

void dd_asker_ask(struct dd_asker *asker, const struct dd_batch *batch) {
    const struct dd_dropout off = {.on = false};
    bool full = false;
    for (int i = 0; i < asker->n_wanted; i++) {
        const struct dd_wanted_state *wanted = &asker->wanted[i];
        bool narrow = wanted->kind == DD_WANTED_STATE || wanted->kind == DD_WANTED_QUERIES;
        full |= narrow && !wanted->cls && wanted->state == asker->layers;
    }
    asker->batch = batch;
    dd_bert_set_full(asker->bert, full);
    dd_bert_set_tap(asker->bert, copy_state, asker);
    dd_bert_forward(asker->bert, asker->params, batch, &off, asker->logits);
    dd_bert_set_tap(asker->bert, NULL, NULL);
    asker->batch = NULL;
}
