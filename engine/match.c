/* match: values and gradients of the matching losses; see match.h.  Checked by tests/live/test_match.py. */
#include "engine/match.h"

#include "engine/linear.h"
#include "engine/simd.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECES_MOST 32

struct dd_match {
    struct dd_match_spec spec;
    struct dd_team *team;
    const struct dd_simd *simd;
    int max_tokens, max_sequences;
    bool projected;
    float *target_tokens, *target_cls; /* [layers, T, teacher_width], [layers, S, teacher_width]: states 0 …, 1 … */
    float *grad_tokens, *grad_cls;     /* [layers, T, width], [layers, S, width], likewise */
    float *x;                          /* [S, width]: a state's rows at [CLS] */
    float *z, *dz;                     /* [T or S, teacher_width], projected only */
    float *bias_part;                  /* [teacher_width], projected only */
    const float *extra_tokens[DD_MAX_LAYERS + 1], *extra_cls[DD_MAX_LAYERS + 1];
    struct dd_bert_extra extra;
    bool projection_written; /* in this run */
    void *arena;
};

/* --- memory ----------------------------------------------------------------------------------------------------- */

/* A walk over the arena: base NULL only counts. */
struct plan {
    float *base;
    size_t used; /* floats */
    bool overflow;
};

static float *take(struct plan *plan, size_t a, size_t b, size_t c) {
    size_t count, end;
    if (plan->overflow || !dd_size_mul(a, b, &count) || !dd_size_mul(count, c, &count) ||
        !dd_size_add(count, 15, &count) || !dd_size_add(plan->used, count / 16 * 16, &end)) {
        plan->overflow = true;
        return NULL;
    }
    float *at = plan->base != NULL && a > 0 ? plan->base + plan->used : NULL;
    plan->used = end;
    return at;
}

static void plan_all(struct dd_match *match, struct plan *plan) {
    const struct dd_match_spec *spec = &match->spec;
    bool hidden = spec->hidden_weight > 0.0;
    size_t layers = (size_t)spec->layers, width = (size_t)spec->width, teacher_width = (size_t)spec->teacher_width;
    size_t tokens = (size_t)match->max_tokens, sequences = (size_t)match->max_sequences;
    size_t rows = hidden ? tokens : sequences;
    match->target_tokens = take(plan, hidden ? layers : 0, tokens, teacher_width);
    match->target_cls = take(plan, layers, sequences, teacher_width);
    match->grad_tokens = take(plan, hidden ? layers : 0, tokens, width);
    match->grad_cls = take(plan, layers, sequences, width);
    match->x = take(plan, 1, sequences, width);
    match->z = take(plan, match->projected ? 1 : 0, rows, teacher_width);
    match->dz = take(plan, match->projected ? 1 : 0, rows, teacher_width);
    match->bias_part = take(plan, match->projected ? 1 : 0, 1, teacher_width);
}

static void describe(struct dd_match *match, const struct dd_match_spec *spec, int max_tokens, int max_sequences) {
    assert(spec->layers >= 1 && spec->layers <= DD_MAX_LAYERS && max_sequences >= 1 && max_tokens >= max_sequences);
    *match = (struct dd_match){.spec = *spec,
                               .simd = dd_simd(),
                               .max_tokens = max_tokens,
                               .max_sequences = max_sequences,
                               .projected = spec->width != spec->teacher_width};
}

size_t dd_match_bytes(const struct dd_match_spec *spec, int max_tokens, int max_sequences) {
    struct dd_match match;
    describe(&match, spec, max_tokens, max_sequences);
    struct plan plan = {0};
    plan_all(&match, &plan);
    size_t bytes;
    bool fits = !plan.overflow && dd_size_mul(plan.used, sizeof(float), &bytes);
    return fits && dd_size_add(bytes, sizeof match, &bytes) ? bytes : SIZE_MAX;
}

enum dd_status dd_match_new(const struct dd_match_spec *spec, int max_tokens, int max_sequences, struct dd_team *team,
                            struct dd_match **ret_match, struct dd_error *err) {
    struct dd_match *match = dd_calloc(1, sizeof *match);
    if (match == NULL) {
        return dd_fail_memory(err, sizeof *match);
    }
    describe(match, spec, max_tokens, max_sequences);
    match->team = team;
    struct plan plan = {0};
    plan_all(match, &plan);
    match->arena = plan.overflow ? NULL : dd_calloc_aligned(plan.used, sizeof(float));
    if (match->arena == NULL) {
        dd_match_free(match);
        return dd_fail_memory(err, dd_match_bytes(spec, max_tokens, max_sequences));
    }
    plan = (struct plan){.base = match->arena};
    plan_all(match, &plan);
    match->extra = (struct dd_bert_extra){.tokens = match->extra_tokens, .cls = match->extra_cls};
    *ret_match = match;
    return DD_OK;
}

void dd_match_free(struct dd_match *match) {
    if (match != NULL) {
        free(match->arena);
        free(match);
    }
}

static float *part(float *from, int index, int rows, int width) {
    return from + (size_t)index * (size_t)rows * (size_t)width;
}

float *dd_match_tokens(struct dd_match *match, int state) {
    const struct dd_match_spec *spec = &match->spec;
    bool used = spec->hidden_weight > 0.0 && state < spec->layers;
    return used ? part(match->target_tokens, state, match->max_tokens, spec->teacher_width) : NULL;
}

float *dd_match_cls(struct dd_match *match, int state) {
    const struct dd_match_spec *spec = &match->spec;
    bool used = state > 0 && (spec->cls_weight > 0.0 || state == spec->layers);
    return used ? part(match->target_cls, state - 1, match->max_sequences, spec->teacher_width) : NULL;
}

/* --- one state -------------------------------------------------------------------------------------------------- */

struct pair {
    const struct dd_match *match;
    int rows, pieces;
    const float *x;               /* [rows, width] of the student */
    const float *target;          /* [rows, teacher_width] */
    float *dx;                    /* [rows, width]: d loss / d x */
    double hidden_step, cls_step; /* d loss / d (a squared difference, a row's squared distance); 0: not that loss */
    const float *z;               /* [rows, teacher_width]: x projected, or x */
    float *dz;                    /* likewise dx, before the projection's backward */
    double hidden[PIECES_MOST], cls[PIECES_MOST];
};

/* |u − v|² of u = z/|z|, v = t/|t|; adds step times its gradient, 2 (u (u·v) − v) / |z|, to dz. */
static double direction_row(const float *z, const float *t, size_t n, double step, float *dz) {
    double zz = 0.0, tt = 0.0, zt = 0.0;
    for (size_t i = 0; i < n; i++) {
        zz += (double)z[i] * (double)z[i];
        tt += (double)t[i] * (double)t[i];
        zt += (double)z[i] * (double)t[i];
    }
    double z_length = sqrt(zz), t_length = sqrt(tt);
    if (!(z_length > 0.0) || !(t_length > 0.0)) {
        return isfinite(z_length + t_length) ? (z_length > 0.0 || t_length > 0.0 ? 1.0 : 0.0) : NAN;
    }
    double distance = 0.0, cosine = zt / (z_length * t_length), scale = 2.0 * step / z_length;
    for (size_t i = 0; i < n; i++) {
        double u = (double)z[i] / z_length, v = (double)t[i] / t_length;
        distance += (u - v) * (u - v);
        dz[i] += (float)(scale * (cosine * u - v));
    }
    return distance;
}

static void compare_piece(void *context, int piece) {
    struct pair *pair = context;
    int first, count = dd_piece(pair->rows, pair->pieces, piece, &first);
    size_t n = (size_t)pair->match->spec.teacher_width, at = (size_t)first * n, values = (size_t)count * n;
    const float *z = pair->z + at, *target = pair->target + at;
    float *dz = pair->dz + at;
    if (pair->hidden_step > 0.0) {
        float scale = (float)(2.0 * pair->hidden_step);
        for (size_t i = 0; i < values; i++) {
            dz[i] = z[i] - target[i];
        }
        pair->hidden[piece] = pair->match->simd->sum_squares(values, dz);
        for (size_t i = 0; i < values; i++) {
            dz[i] *= scale;
        }
    } else {
        memset(dz, 0, values * sizeof *dz);
    }
    for (size_t r = 0; pair->cls_step > 0.0 && r < (size_t)count; r++) {
        pair->cls[piece] += direction_row(z + r * n, target + r * n, n, pair->cls_step, dz + r * n);
    }
}

struct projection {
    const struct dd_tensor *weight, *bias;
};

static struct projection find_projection(const struct dd_match *match, const struct dd_params *params) {
    struct projection at = {NULL, NULL};
    if (match->projected) {
        at.weight = dd_params_find(params, "match.projection.weight");
        at.bias = dd_params_find(params, "match.projection.bias");
        assert(at.weight != NULL && at.bias != NULL);
        assert(at.weight->shape[0] == (size_t)match->spec.teacher_width);
        assert(at.weight->shape[1] == (size_t)match->spec.width);
    }
    return at;
}

/* dx = dz W; the projection's gradient is that of the states before, plus dzᵀ x and the column sums of dz. */
static void project_backward(struct dd_match *match, const struct pair *pair, const struct projection *at,
                             const struct dd_params *params, struct dd_params *grads) {
    int width = match->spec.width, teacher_width = match->spec.teacher_width;
    float *dweight = grads->slab + at->weight->offset, *dbias = grads->slab + at->bias->offset;
    bool add = match->projection_written;
    struct dd_product products[] = {
        dd_linear_weight(pair->dz, pair->x, dweight, add ? match->bias_part : dbias, pair->rows, width, teacher_width),
        dd_linear_input(pair->dz, params->slab + at->weight->offset, pair->dx, pair->rows, width, teacher_width,
                        false)};
    products[0].accumulate = add;
    dd_products_run(match->team, products, 2);
    for (int i = 0; add && i < teacher_width; i++) {
        dbias[i] += match->bias_part[i];
    }
    match->projection_written = true;
}

/* The pair's part of the losses is added to *loss, its gradients are written. */
static void match_pair(struct dd_match *match, struct pair *pair, const struct dd_params *params,
                       struct dd_params *grads, struct dd_match_loss *loss) {
    const struct dd_match_spec *spec = &match->spec;
    struct projection at = find_projection(match, params);
    pair->match = match;
    pair->pieces = dd_pieces(pair->rows, DD_MAX(1, 16384 / spec->teacher_width));
    pair->z = pair->x;
    pair->dz = pair->dx;
    if (at.weight != NULL) {
        struct dd_product project = dd_linear_forward(pair->x, params->slab + at.weight->offset, match->z, pair->rows,
                                                      spec->width, spec->teacher_width);
        project.after = DD_AFTER_BIAS;
        project.bias = params->slab + at.bias->offset;
        dd_products_run(match->team, &project, 1);
        pair->z = match->z;
        pair->dz = match->dz;
    }
    dd_team_for(match->team, pair->pieces, compare_piece, pair);
    double hidden = 0.0, cls = 0.0;
    for (int i = 0; i < pair->pieces; i++) {
        hidden += pair->hidden[i];
        cls += pair->cls[i];
    }
    if (pair->hidden_step > 0.0) {
        loss->hidden += hidden / ((double)(spec->layers + 1) * pair->rows * spec->teacher_width);
    }
    if (pair->cls_step > 0.0) {
        loss->cls += cls / ((double)spec->layers * pair->rows);
    }
    if (at.weight != NULL) {
        project_backward(match, pair, &at, params, grads);
    }
}

/* --- all of them ------------------------------------------------------------------------------------------------ */

static double hidden_step(const struct dd_match_spec *spec, int rows) {
    return spec->hidden_weight / ((double)(spec->layers + 1) * rows * spec->teacher_width);
}

/* The state's rows at [CLS]; the last state has no others. */
static const float *cls_of(struct dd_match *match, const struct dd_bert *bert, int state,
                           const struct dd_batch *batch) {
    const float *values = dd_bert_state(bert, state);
    size_t width = (size_t)match->spec.width;
    if (state == match->spec.layers) {
        return values;
    }
    for (int s = 0; s < batch->n_sequences; s++) {
        memcpy(match->x + (size_t)s * width, values + (size_t)batch->offsets[s] * width, width * sizeof(float));
    }
    return match->x;
}

struct dd_match_loss dd_match_run(struct dd_match *match, struct dd_bert *bert, const struct dd_params *params,
                                  const struct dd_batch *batch, struct dd_params *grads) {
    const struct dd_match_spec *spec = &match->spec;
    struct dd_match_loss loss = {0.0, 0.0, 0.0};
    assert(batch->n_tokens <= match->max_tokens && batch->n_sequences <= match->max_sequences);
    match->projection_written = false;
    for (int state = 0; state <= spec->layers; state++) {
        const float *tokens = dd_match_tokens(match, state), *cls = dd_match_cls(match, state);
        match->extra_tokens[state] = match->extra_cls[state] = NULL;
        if (tokens != NULL) {
            float *dx = part(match->grad_tokens, state, match->max_tokens, spec->width);
            struct pair pair = {.rows = batch->n_tokens,
                                .x = dd_bert_state(bert, state),
                                .target = tokens,
                                .dx = dx,
                                .hidden_step = hidden_step(spec, batch->n_tokens)};
            match_pair(match, &pair, params, grads, &loss);
            match->extra_tokens[state] = dx;
        }
        if (cls != NULL) {
            float *dx = part(match->grad_cls, state - 1, match->max_sequences, spec->width);
            struct pair pair = {.rows = batch->n_sequences,
                                .x = cls_of(match, bert, state, batch),
                                .target = cls,
                                .dx = dx,
                                .hidden_step = state == spec->layers ? hidden_step(spec, batch->n_sequences) : 0.0,
                                .cls_step = spec->cls_weight / ((double)spec->layers * batch->n_sequences)};
            match_pair(match, &pair, params, grads, &loss);
            match->extra_cls[state] = dx;
        }
    }
    dd_bert_set_extra(bert, &match->extra);
    loss.total = spec->hidden_weight * loss.hidden + spec->cls_weight * loss.cls;
    return loss;
}
