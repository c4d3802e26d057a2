/* train_match: a run's matching of the teacher's inner states: where they come from, step by step.
 *
 * States at [CLS] alone (cls_weight) are small, rows × layers × width: of all the teacher's layers they are asked once
 * and cached beside the logits, so runs with other layer maps share them.  States of every token (hidden_weight) are
 * cached, those of the map alone, where they take at most DD_STATES_BYTES; above that the teacher runs on each batch.
 * It also does for attention and relations: queries, keys and values are several times as large as the states, and
 * tables of attention larger still for long rows.  Then the states come from the same forward and none are cached.
 * Which of the two is decided by the rows, the teacher and the spec, never by the machine, so a run makes the same bits
 * wherever it goes on.
 */
#include "engine/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void dd_match_spec_make(const struct dd_spec *spec, const struct dd_bert_config *teacher, struct dd_match_spec *ret) {
    *ret = (struct dd_match_spec){.hidden_weight = spec->hidden_weight,
                                  .cls_weight = spec->cls_weight,
                                  .layers = spec->layers,
                                  .width = spec->hidden_size,
                                  .teacher_width = teacher->hidden_size};
    for (int i = 0; i < spec->layers; i++) {
        ret->teacher_state[i + 1] = dd_source_layer(spec, i, teacher->layers) + 1;
    }
}

void dd_heads_spec_make(const struct dd_spec *spec, const struct dd_bert_config *teacher, struct dd_heads_spec *ret) {
    *ret = (struct dd_heads_spec){.attention_weight = spec->attention_weight,
                                  .relation_weight = spec->relation_weight,
                                  .layers = spec->layers,
                                  .width = spec->hidden_size,
                                  .heads = spec->heads,
                                  .teacher_width = teacher->hidden_size,
                                  .teacher_heads = teacher->heads,
                                  .relation_heads = spec->relation_weight > 0.0 ? spec->relation_heads : 1};
    for (int i = 0; i < spec->layers; i++) {
        ret->teacher_layer[i] = dd_source_layer(spec, i, teacher->layers);
    }
}

enum dd_state_extent dd_run_extent(const struct dd_spec *spec) {
    if (dd_spec_matches_heads(spec) || spec->class_weights != DD_CLASS_WEIGHTS_NONE) {
        return DD_EXTENT_ALL;
    }
    return dd_spec_matches(spec) ? DD_EXTENT_STATES : DD_EXTENT_PLAIN;
}

int dd_match_projection(const struct dd_spec *spec, const struct dd_bert_config *teacher) {
    bool needed = dd_spec_matches_states(spec) && teacher && teacher->hidden_size != spec->hidden_size;
    return needed ? teacher->hidden_size : 0;
}

static enum dd_status check_map(const struct dd_match_spec *spec, int teacher_layers, struct dd_error *err) {
    if (spec->layers > teacher_layers) {
        return dd_fail(err, DD_INVALID, "layers_too_many",
                       "a student of %d layers cannot be matched with a teacher of %d; lower layers", spec->layers,
                       teacher_layers);
    }
    for (int state = 1; state <= spec->layers; state++) {
        int partner = spec->teacher_state[state];
        if (partner < 1 || partner > teacher_layers) {
            return dd_fail(
                err, DD_INVALID, "layer_map_invalid",
                "layer %d cannot be matched with layer %d of the teacher, which has %d layers; give layer_map",
                state - 1, partner - 1, teacher_layers);
        }
    }
    return DD_OK;
}

static enum dd_status check_relation_heads(const struct dd_heads_spec *spec, struct dd_error *err) {
    int n = spec->relation_heads;
    if (n >= 1 && spec->width % n == 0 && spec->teacher_width % n == 0) {
        return DD_OK;
    }
    return dd_fail(err, DD_INVALID, "relation_heads_invalid",
                   "relation_heads is %d; it must divide both widths, %d and the teacher's %d", n, spec->width,
                   spec->teacher_width);
}

/* --- before training -------------------------------------------------------------------------------------------- */

/* Of [rows, n, width] only the states that the student's layers are matched with, in their order, in place: a row
 * passes through a copy, and never ends behind where it began, as the student has no more layers than the teacher. */
static void pick_states(float *states, size_t rows, int n, const struct dd_match_spec *spec, float *row) {
    size_t width = (size_t)spec->teacher_width, wide = (size_t)n * width, narrow = (size_t)spec->layers * width;
    for (size_t r = 0; r < rows; r++) {
        for (int i = 0; i < spec->layers; i++) {
            memcpy(row + (size_t)i * width, states + r * wide + (size_t)(spec->teacher_state[i + 1] - 1) * width,
                   width * sizeof *row);
        }
        memcpy(states + r * narrow, row, narrow * sizeof *row);
    }
}

/* All layers at [CLS] from the cache, then only those of the map are kept. */
static enum dd_status keep_mapped(struct dd_run *run, struct dd_error *err) {
    struct dd_matching *m = &run->matching;
    size_t narrow = (size_t)m->spec.layers * (size_t)m->spec.teacher_width, rows = run->train.rows;
    float *row = dd_calloc(narrow, sizeof *row);
    if (!row) {
        return dd_fail_memory(err, narrow * sizeof *row);
    }
    pick_states(m->states, rows, m->wanted.n, &m->spec, row);
    free(row);
    float *shrunk = dd_realloc_array(m->states, rows * narrow, sizeof *shrunk);
    m->states = shrunk ? shrunk : m->states;
    m->wanted.n = m->spec.layers;
    memcpy(m->wanted.state, m->spec.teacher_state + 1, (size_t)m->spec.layers * sizeof m->wanted.state[0]);
    return DD_OK;
}

static void choose_wanted(struct dd_matching *m, int teacher_layers) {
    m->wanted.tokens = m->spec.hidden_weight > 0.0;
    m->wanted.n = m->wanted.tokens ? m->spec.layers + 1 : teacher_layers;
    for (int i = 0; i < m->wanted.n; i++) {
        m->wanted.state[i] = m->wanted.tokens ? m->spec.teacher_state[i] : i + 1;
    }
}

enum dd_status dd_run_ask_states(struct dd_run *run, struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    struct dd_matching *m = &run->matching;
    if (!dd_spec_matches(run->spec)) {
        return DD_OK;
    }
    const struct dd_bert_config *teacher = &in->base->info.config;
    dd_match_spec_make(run->spec, teacher, &m->spec);
    dd_heads_spec_make(run->spec, teacher, &m->heads_spec);
    enum dd_status status = check_map(&m->spec, teacher->layers, err);
    if (status == DD_OK) {
        status = check_relation_heads(&m->heads_spec, err);
    }
    if (status != DD_OK) {
        return status;
    }
    if (dd_spec_matches_heads(run->spec)) {
        dd_run_log(run, DD_LOG_INFO, "attention and relations are matched: the teacher runs in every step");
        return DD_OK;
    }
    choose_wanted(m, teacher->layers);
    const struct dd_packed *train = dd_run_told_train(run);
    double bytes = (double)train->n_tokens * m->wanted.n * m->spec.teacher_width * sizeof(float);
    double most = (double)(in->states_bytes > 0 ? in->states_bytes : DD_STATES_BYTES);
    if (m->wanted.tokens && bytes > most) {
        dd_run_log(run, DD_LOG_INFO, "the teacher's states of all tokens would take %.0f MiB: it runs in every step",
                   bytes / 1048576.0);
        return DD_OK;
    }
    struct dd_progress progress = {.events = &in->events, .phase = "teacher", .from = 0.0, .to = 1.0};
    bool computed = false;
    status = dd_states_cached(&m->wanted, in->base, train, run->spec->max_length, in->cache_dir, in->pool, &in->events,
                              &progress, in->cancel, &m->states, &computed, err);
    if (status == DD_OK) {
        dd_run_log(run, DD_LOG_INFO, "the teacher's inner states for %u train rows %s", run->train.rows,
                   computed ? "were computed" : "came from the cache");
    }
    return status == DD_OK && !m->wanted.tokens ? keep_mapped(run, err) : status;
}

/* out NULL: not wanted after all. */
static void want(struct dd_asker *asker, enum dd_wanted_kind kind, int state, bool cls, float *out) {
    if (out) {
        asker->wanted[asker->n_wanted++] =
            (struct dd_wanted_state){.state = state, .cls = cls, .out = out, .kind = kind};
    }
}

/* The asker puts everything straight where the losses read it. */
static enum dd_status ask_in_steps(struct dd_run *run, int max_tokens, int max_sequences, struct dd_error *err) {
    struct dd_matching *m = &run->matching;
    enum dd_status status =
        dd_asker_init(&m->asker, run->input->base, max_tokens, max_sequences, run->spec->max_length, run->team, err);
    if (status != DD_OK) {
        return status;
    }
    for (int state = 0; m->match && state <= m->spec.layers; state++) {
        int partner = m->spec.teacher_state[state];
        want(&m->asker, DD_WANTED_STATE, partner, false, dd_match_tokens(m->match, state));
        want(&m->asker, DD_WANTED_STATE, partner, true, dd_match_cls(m->match, state));
    }
    for (int layer = 0; m->heads && layer < m->heads_spec.layers; layer++) {
        int partner = m->heads_spec.teacher_layer[layer] + 1;
        bool last = layer == m->heads_spec.layers - 1;
        want(&m->asker, DD_WANTED_QUERIES, partner, last, dd_heads_target(m->heads, layer, DD_QUERIES));
        want(&m->asker, DD_WANTED_KEYS, partner, false, dd_heads_target(m->heads, layer, DD_KEYS));
        want(&m->asker, DD_WANTED_VALUES, partner, false, dd_heads_target(m->heads, layer, DD_VALUES));
    }
    return DD_OK;
}

enum dd_status dd_matching_init(struct dd_run *run, int max_tokens, int max_sequences, struct dd_error *err) {
    struct dd_matching *m = &run->matching;
    if (!dd_spec_matches(run->spec)) {
        return DD_OK;
    }
    enum dd_status status = DD_OK;
    if (dd_spec_matches_states(run->spec)) {
        status = dd_match_new(&m->spec, max_tokens, max_sequences, run->team, &m->match, err);
    }
    if (status == DD_OK && dd_spec_matches_heads(run->spec)) {
        status =
            dd_heads_new(&m->heads_spec, max_tokens, max_sequences, run->spec->max_length, run->team, &m->heads, err);
    }
    return status == DD_OK && !m->states ? ask_in_steps(run, max_tokens, max_sequences, err) : status;
}

void dd_matching_release(struct dd_matching *matching) {
    dd_match_free(matching->match);
    dd_heads_free(matching->heads);
    dd_asker_release(&matching->asker);
    free(matching->states);
    *matching = (struct dd_matching){0};
}

/* --- in a step -------------------------------------------------------------------------------------------------- */

/* Row r of the kept states, its place `index` among those of a row or token; [count, width] to out. */
static void copy_kept(const struct dd_matching *m, size_t from, size_t count, int index, float *out) {
    size_t width = (size_t)m->spec.teacher_width, stride = (size_t)m->wanted.n * width;
    for (size_t k = 0; k < count; k++) {
        memcpy(out + k * width, m->states + (from + k) * stride + (size_t)index * width, width * sizeof(float));
    }
}

struct gathering {
    struct dd_run *run;
    const uint32_t *rows;
};

/* A piece is a state of the student. */
static void gather_state(void *context, int state) {
    const struct gathering *gathering = context;
    struct dd_run *run = gathering->run;
    struct dd_matching *m = &run->matching;
    const struct dd_batch *batch = &run->gather.batch;
    size_t width = (size_t)m->spec.teacher_width;
    float *tokens = dd_match_tokens(m->match, state), *cls = dd_match_cls(m->match, state);
    int index = m->wanted.tokens ? state : state - 1;
    for (int s = 0; s < batch->n_sequences; s++) {
        uint32_t row = gathering->rows[s];
        size_t from = m->wanted.tokens ? (size_t)run->train.offsets[row] : (size_t)row;
        if (tokens) {
            copy_kept(m, from, (size_t)(batch->offsets[s + 1] - batch->offsets[s]), index,
                      tokens + (size_t)batch->offsets[s] * width);
        }
        if (cls) {
            copy_kept(m, from, 1, index, cls + (size_t)s * width);
        }
    }
}

struct dd_matching_loss dd_run_match(struct dd_run *run, const uint32_t *rows) {
    struct dd_matching *m = &run->matching;
    const struct dd_batch *batch = &run->gather.batch;
    struct dd_matching_loss loss = {.total = 0.0};
    if (!m->match && !m->heads) {
        return loss;
    }
    if (m->states) {
        struct gathering gathering = {.run = run, .rows = rows};
        dd_team_for(run->team, m->spec.layers + 1, gather_state, &gathering);
    } else {
        dd_asker_ask(&m->asker, batch);
    }
    if (m->match) {
        loss.states = dd_match_run(m->match, run->bert, run->student->params, batch, run->grads);
    }
    if (m->heads) {
        loss.heads = dd_heads_run(m->heads, run->bert, batch);
    }
    loss.total = loss.states.total + loss.heads.total;
    return loss;
}
