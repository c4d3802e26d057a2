/* match_heads: values and gradients of the losses of what attention works with; see match.h.  Checked by
 * tests/live/test_match_heads.py.
 *
 * A chunk is a sequence in a layer: it writes its own rows of the gradients and its own two sums, which are then added
 * in order, so the bits are the same for any team.
 */
#include "engine/match.h"

#include "engine/linear.h"
#include "engine/pool.h"
#include "engine/simd.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct dd_heads {
    struct dd_heads_spec spec;
    struct dd_team *team;
    const struct dd_simd *simd;
    int max_tokens, max_sequences, max_length;
    size_t scratch_floats;
    float *scratch;                                   /* [lanes, scratch_floats] */
    double *sums;                                     /* [layers, max_sequences, 2]: attention, relation */
    float *target[DD_MAX_LAYERS][DD_HEAD_PARTS];      /* NULL where not looked at */
    float *grad[DD_HEAD_PARTS][DD_MAX_LAYERS];        /* d loss / d the student's, likewise */
    const float *shown[DD_HEAD_PARTS][DD_MAX_LAYERS]; /* what `extra` points into: grad */
    struct dd_bert_extra_qkv extra;
    void *arena;
};

/* --- memory ----------------------------------------------------------------------------------------------------- */

/* A walk over the arena: base NULL only counts. */
struct plan {
    char *base;
    size_t used; /* bytes */
    bool overflow;
};

static void *take(struct plan *plan, size_t a, size_t b, size_t element_bytes) {
    size_t bytes, end;
    if (plan->overflow || !dd_size_mul(a, b, &bytes) || !dd_size_mul(bytes, element_bytes, &bytes) ||
        !dd_size_add(bytes, 63, &bytes) || !dd_size_add(plan->used, bytes / 64 * 64, &end)) {
        plan->overflow = true;
        return NULL;
    }
    void *at = plan->base != NULL && a > 0 ? plan->base + plan->used : NULL;
    plan->used = end;
    return at;
}

static bool looked_at(const struct dd_heads_spec *spec, int layer, enum dd_head_part part) {
    bool relation = spec->relation_weight > 0.0 && layer == spec->layers - 1;
    return (part != DD_VALUES && spec->attention_weight > 0.0) || (part != DD_QUERIES && relation);
}

static void plan_all(struct dd_heads *heads, struct plan *plan, int lanes) {
    const struct dd_heads_spec *spec = &heads->spec;
    size_t tokens = (size_t)heads->max_tokens, sequences = (size_t)heads->max_sequences;
    heads->scratch = take(plan, (size_t)lanes, heads->scratch_floats, sizeof(float));
    heads->sums = take(plan, (size_t)spec->layers * 2, sequences, sizeof(double));
    for (int layer = 0; layer < spec->layers; layer++) {
        for (int part = 0; part < DD_HEAD_PARTS; part++) {
            size_t rows = part == DD_QUERIES && layer == spec->layers - 1 ? sequences : tokens;
            size_t used = looked_at(spec, layer, part) ? rows : 0;
            heads->target[layer][part] = take(plan, used, (size_t)spec->teacher_width, sizeof(float));
            heads->grad[part][layer] = take(plan, used, (size_t)spec->width, sizeof(float));
            heads->shown[part][layer] = heads->grad[part][layer];
        }
    }
}

/* Attention's heads where both have as many, else all of a side's as one. */
static int attention_heads(const struct dd_heads_spec *spec) {
    return spec->heads == spec->teacher_heads ? spec->heads : 1;
}

static void describe(struct dd_heads *heads, const struct dd_heads_spec *spec, int max_tokens, int max_sequences,
                     int max_length) {
    assert(spec->layers >= 1 && spec->layers <= DD_MAX_LAYERS && max_sequences >= 1 && max_tokens >= max_sequences);
    *heads = (struct dd_heads){.spec = *spec,
                               .simd = dd_simd(),
                               .max_tokens = max_tokens,
                               .max_sequences = max_sequences,
                               .max_length = max_length};
    if (spec->attention_weight > 0.0) {
        int n = attention_heads(spec);
        heads->scratch_floats = dd_relation_scratch_floats(max_length, spec->width / n, spec->teacher_width / n);
    }
    if (spec->relation_weight > 0.0) {
        int n = spec->relation_heads;
        assert(n > 0 && spec->width % n == 0 && spec->teacher_width % n == 0);
        size_t floats = dd_relation_scratch_floats(max_length, spec->width / n, spec->teacher_width / n);
        heads->scratch_floats = DD_MAX(heads->scratch_floats, floats);
    }
}

size_t dd_heads_bytes(const struct dd_heads_spec *spec, int max_tokens, int max_sequences, int max_length) {
    struct dd_heads heads;
    describe(&heads, spec, max_tokens, max_sequences, max_length);
    struct plan plan = {0};
    plan_all(&heads, &plan, DD_MAX(1, (int)sysconf(_SC_NPROCESSORS_ONLN)));
    size_t bytes;
    return !plan.overflow && dd_size_add(plan.used, sizeof heads, &bytes) ? bytes : SIZE_MAX;
}

enum dd_status dd_heads_new(const struct dd_heads_spec *spec, int max_tokens, int max_sequences, int max_length,
                            struct dd_team *team, struct dd_heads **ret_heads, struct dd_error *err) {
    struct dd_heads *heads = dd_calloc(1, sizeof *heads);
    if (heads == NULL) {
        return dd_fail_memory(err, sizeof *heads);
    }
    describe(heads, spec, max_tokens, max_sequences, max_length);
    heads->team = team;
    struct plan plan = {0};
    int lanes = dd_team_lanes(team);
    plan_all(heads, &plan, lanes);
    heads->arena = plan.overflow ? NULL : dd_calloc_aligned(plan.used, 1);
    if (heads->arena == NULL) {
        size_t wanted = plan.overflow ? SIZE_MAX : plan.used;
        dd_heads_free(heads);
        return dd_fail_memory(err, wanted);
    }
    plan = (struct plan){.base = heads->arena};
    plan_all(heads, &plan, lanes);
    heads->extra = (struct dd_bert_extra_qkv){
        .q = heads->shown[DD_QUERIES], .k = heads->shown[DD_KEYS], .v = heads->shown[DD_VALUES]};
    *ret_heads = heads;
    return DD_OK;
}

void dd_heads_free(struct dd_heads *heads) {
    if (heads != NULL) {
        free(heads->arena);
        free(heads);
    }
}

float *dd_heads_target(struct dd_heads *heads, int layer, enum dd_head_part part) {
    return heads->target[layer][part];
}

/* --- one sequence in one layer ---------------------------------------------------------------------------------- */

struct run {
    struct dd_heads *heads;
    const struct dd_bert *bert;
    const struct dd_batch *batch;
    int first_layer;                                     /* of the chunks: below it there is nothing to do */
    double attention_step[DD_MAX_LAYERS], relation_step; /* d loss / d the sums */
};

struct place {                                /* a sequence's rows of one of the three */
    struct dd_relation_side student, teacher; /* x alone */
    float *grad;
};

/* The student's rows, the teacher's and the gradient's, of a part that is looked at. */
static struct place find(const struct run *run, int layer, int sequence, enum dd_head_part part) {
    const struct dd_heads *heads = run->heads;
    const struct dd_bert_qkv qkv = dd_bert_qkv(run->bert, layer);
    const float *const values[] = {qkv.q, qkv.k, qkv.v};
    size_t width = (size_t)heads->spec.width, teacher_width = (size_t)heads->spec.teacher_width;
    size_t row = (size_t)(part == DD_QUERIES && qkv.cls ? sequence : run->batch->offsets[sequence]);
    size_t stride = part == DD_QUERIES ? qkv.q_stride : qkv.kv_stride;
    return (struct place){.student = {.x = values[part] + row * stride, .x_stride = stride},
                          .teacher = {.x = heads->target[layer][part] + row * teacher_width, .x_stride = teacher_width},
                          .grad = heads->grad[part][layer] + row * width};
}

/* The sum over heads of how x relates to y; heads cut both widths into as many pieces. */
static double relate(const struct run *run, const struct place *x, const struct place *y, struct dd_relation relation,
                     int n_heads) {
    const struct dd_heads *heads = run->heads;
    size_t width = (size_t)heads->spec.width;
    double sum = 0.0;
    relation.scratch = heads->scratch + (size_t)dd_team_lane() * heads->scratch_floats;
    relation.student.size = heads->spec.width / n_heads;
    relation.teacher.size = heads->spec.teacher_width / n_heads;
    relation.student.x_stride = x->student.x_stride;
    relation.student.y_stride = y->student.x_stride;
    relation.teacher.x_stride = relation.teacher.y_stride = (size_t)heads->spec.teacher_width;
    for (int head = 0; head < n_heads; head++) {
        size_t at = (size_t)head * (size_t)relation.student.size;
        size_t teacher_at = (size_t)head * (size_t)relation.teacher.size;
        relation.student.x = x->student.x + at;
        relation.student.y = y->student.x + at;
        relation.teacher.x = x->teacher.x + teacher_at;
        relation.teacher.y = y->teacher.x + teacher_at;
        sum += heads->simd->relation(&relation, x->grad + at, width, y->grad + at, width);
    }
    return sum;
}

static float score_scale(int width, int heads, int n_heads) {
    double mean = n_heads == heads ? 1.0 : (double)heads; /* all heads as one: the mean over them */
    return (float)(1.0 / (mean * sqrt((double)width / heads)));
}

static double attention(const struct run *run, int layer, int sequence, int length) {
    const struct dd_heads_spec *spec = &run->heads->spec;
    const struct place q = find(run, layer, sequence, DD_QUERIES), k = find(run, layer, sequence, DD_KEYS);
    int n = attention_heads(spec);
    struct dd_relation relation = {.n_rows = layer == spec->layers - 1 ? 1 : length,
                                   .n_columns = length,
                                   .step = (float)run->attention_step[layer]};
    relation.student.scale = score_scale(spec->width, spec->heads, n);
    relation.teacher.scale = score_scale(spec->teacher_width, spec->teacher_heads, n);
    return relate(run, &q, &k, relation, n);
}

static double relations(const struct run *run, int layer, int sequence, int length) {
    const struct dd_heads_spec *spec = &run->heads->spec;
    const struct place k = find(run, layer, sequence, DD_KEYS), v = find(run, layer, sequence, DD_VALUES);
    int n = spec->relation_heads;
    struct dd_relation relation = {
        .n_rows = length, .n_columns = length, .divergence = true, .step = (float)run->relation_step};
    relation.student.scale = (float)(1.0 / sqrt((double)spec->width / n));
    relation.teacher.scale = (float)(1.0 / sqrt((double)spec->teacher_width / n));
    return relate(run, &k, &k, relation, n) + relate(run, &v, &v, relation, n);
}

static void clear(const struct run *run, int layer, int sequence, int length) {
    for (int part = 0; part < DD_HEAD_PARTS; part++) {
        if (looked_at(&run->heads->spec, layer, part)) {
            size_t rows = part == DD_QUERIES && layer == run->heads->spec.layers - 1 ? 1 : (size_t)length;
            float *grad = find(run, layer, sequence, part).grad;
            memset(grad, 0, rows * (size_t)run->heads->spec.width * sizeof *grad);
        }
    }
}

static void run_chunk(void *context, int chunk) {
    const struct run *run = context;
    const struct dd_heads_spec *spec = &run->heads->spec;
    int layer = run->first_layer + chunk / run->batch->n_sequences, sequence = chunk % run->batch->n_sequences;
    int length = run->batch->offsets[sequence + 1] - run->batch->offsets[sequence];
    double *sums = run->heads->sums + ((size_t)layer * (size_t)run->heads->max_sequences + (size_t)sequence) * 2;
    sums[0] = sums[1] = 0.0;
    clear(run, layer, sequence, length);
    if (spec->attention_weight > 0.0) {
        sums[0] = attention(run, layer, sequence, length);
    }
    if (spec->relation_weight > 0.0 && layer == spec->layers - 1) {
        sums[1] = relations(run, layer, sequence, length);
    }
}

/* --- all of them ------------------------------------------------------------------------------------------------ */

/* What the sums of a layer's sequences are divided by. */
static double attention_count(const struct dd_heads_spec *spec, const struct dd_batch *batch, int layer) {
    double pairs = 0.0;
    for (int s = 0; s < batch->n_sequences; s++) {
        double length = batch->offsets[s + 1] - batch->offsets[s];
        pairs += layer == spec->layers - 1 ? length : length * length;
    }
    return pairs * attention_heads(spec) * spec->layers;
}

struct dd_heads_loss dd_heads_run(struct dd_heads *heads, struct dd_bert *bert, const struct dd_batch *batch) {
    const struct dd_heads_spec *spec = &heads->spec;
    struct dd_heads_loss loss = {0.0, 0.0, 0.0};
    assert(batch->n_tokens <= heads->max_tokens && batch->n_sequences <= heads->max_sequences);
    struct run run = {.heads = heads, .bert = bert, .batch = batch};
    double relation_count = 2.0 * spec->relation_heads * batch->n_tokens, counts[DD_MAX_LAYERS] = {0.0};
    run.first_layer = spec->attention_weight > 0.0 ? 0 : spec->layers - 1;
    run.relation_step = spec->relation_weight > 0.0 ? spec->relation_weight / relation_count : 0.0;
    for (int layer = run.first_layer; layer < spec->layers; layer++) {
        counts[layer] = attention_count(spec, batch, layer);
        run.attention_step[layer] = spec->attention_weight / counts[layer];
    }
    dd_team_for(heads->team, (spec->layers - run.first_layer) * batch->n_sequences, run_chunk, &run);
    for (int layer = run.first_layer; layer < spec->layers; layer++) {
        const double *sums = heads->sums + (size_t)layer * (size_t)heads->max_sequences * 2;
        double attention = 0.0, relation = 0.0;
        for (int s = 0; s < batch->n_sequences; s++) {
            attention += sums[2 * s];
            relation += sums[2 * s + 1];
        }
        loss.attention += spec->attention_weight > 0.0 ? attention / counts[layer] : 0.0;
        loss.relation += spec->relation_weight > 0.0 ? relation / relation_count : 0.0;
    }
    dd_bert_set_extra_qkv(bert, &heads->extra);
    loss.total = spec->attention_weight * loss.attention + spec->relation_weight * loss.relation;
    return loss;
}
