/* optimizer: AdamW and SGD over the slab, clipping by the global norm, warm-up and schedules.
 *
 * Late rows.  A row of the word embeddings that a batch does not use has gradient zero; the dense optimizer would still
 * decay it and let its moments run out.  Here the row waits: `seen[row]` is the number of updates it has had, the
 * history keeps the scalars of the updates since the last flush, and when a batch needs the row (refresh), or all are
 * read (flush), or the history is full, the updates it missed are replayed with the same float operations in the same
 * order.  So the bits are those of the dense optimizer.  Rows that never had a gradient (`fresh`) have moments of zero;
 * AdamW (eps > 0) then only multiplies by each update's decay, and the moments' memory is not touched.
 *
 * Average.  With spec.ema, `average` is a moving average of the weights: average += rest (weight − average) after each
 * update, rest = 1 − min(ema, (1 + t) / (10 + t)) at the t-th step, so that the first weights are soon forgotten
 * (tf.train.ExponentialMovingAverage with num_updates).  A late row's average is replayed with it, one update at a
 * time.  The form keeps an average that equals its weight exactly as it is, so a row that never moved needs no replay.
 *
 * Depth.  With spec.layer_lr_decay, lr is multiplied by it once for each layer below the head: pooler and classifier 0
 * times, the top layer once, the embeddings layers + 1 times (Clark et al. 2020, ELECTRA).
 *
 * Frozen embeddings are the front of the slab: no block, row, moment or part of the norm belongs to them.
 *
 * A restart (after a rollback) sets moments to 0, begins bias correction and average anew, and multiplies lr by a scale
 * and by a rise over as many steps as the warm-up has, at most RISE_STEPS.
 *
 * Order of sums: squares in double by blocks of BLOCK floats, the blocks added in order.  A step whose gradient is not
 * finite counts as done but is no update.
 *
 * Owner: one thread and its team.  Sources: torch.optim.AdamW, torch.optim.SGD, torch.nn.utils.clip_grad_norm_,
 * transformers' get_{linear,cosine,constant}_schedule_with_warmup; checked by tests/live/test_optimizer.py.
 */
#include "engine/nn.h"
#include "engine/simd.h"

#include "engine/linear.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32768 /* floats a chunk */
#define HISTORY 1024
#define ROWS_A_PIECE 32
#define RISE_STEPS 100
#define MAX_DEPTHS (DD_MAX_LAYERS + 2)

struct block {
    size_t first, count;
    bool decay;
    int depth; /* 0 the head, 1 the top layer … */
};

struct dd_optimizer {
    struct dd_optimizer_spec spec;
    struct dd_params *params;
    struct dd_team *team;
    const struct dd_simd *simd;
    int64_t total_steps, done; /* steps done */
    int64_t updates;           /* of them, those that changed something, since the state was made or set */
    int64_t restarted;         /* steps done at the last restart */
    double scale;              /* of lr, since then */
    int layers;
    double depth_scale[MAX_DEPTHS];
    size_t frozen;         /* floats at the front of the slab that are not trained */
    float *first, *second; /* AdamW: moments; SGD: momentum in first; NULL where there is none; [count − frozen] */
    float *average;        /* [count], NULL without ema */
    struct block *blocks;  /* all but the word embeddings */
    int n_blocks;
    double *square; /* [n_blocks + rows]: partial sums */
    size_t word_at, width;
    int rows;      /* of the word embeddings; 0 where they are frozen */
    int64_t *seen; /* [rows]: updates */
    bool *fresh;   /* [rows]: never had a gradient */
    /* History: the scalars of updates flushed … updates - 1; every row has seen at least `flushed`. */
    int64_t flushed;
    struct dd_adamw_step adamw[HISTORY];
    struct dd_sgd_step sgd[HISTORY];
    float rest[HISTORY];
};

/* --- the schedule ----------------------------------------------------------------------------------------------- */

static double schedule(const struct dd_optimizer *optimizer, int64_t step) {
    const struct dd_optimizer_spec *spec = &optimizer->spec;
    double total = (double)optimizer->total_steps, warmup = floor(spec->warmup * total), at = (double)step;
    if (at < warmup) {
        return spec->lr * at / fmax(1.0, warmup);
    }
    double left = fmax(0.0, total - at) / fmax(1.0, total - warmup);
    switch (spec->schedule) {
    case DD_SCHEDULE_LINEAR:
        return spec->lr * left;
    case DD_SCHEDULE_COSINE:
        return spec->lr * fmax(0.0, 0.5 * (1.0 + cos(3.14159265358979323846 * fmin(1.0, 1.0 - left))));
    case DD_SCHEDULE_CONSTANT:
        break;
    }
    return spec->lr;
}

double dd_optimizer_lr(const struct dd_optimizer *optimizer, int64_t step) {
    double lr = schedule(optimizer, step);
    if (optimizer->restarted == 0) {
        return lr;
    }
    double rise = fmin(RISE_STEPS, floor(optimizer->spec.warmup * (double)optimizer->total_steps));
    double since = (double)(step - optimizer->restarted + 1);
    return lr * optimizer->scale * (since < rise ? fmax(0.0, since) / rise : 1.0);
}

/* --- making and freeing ----------------------------------------------------------------------------------------- */

static bool has_first(const struct dd_optimizer_spec *spec) {
    return spec->type == DD_OPTIMIZER_ADAMW || spec->momentum != 0.0;
}

static bool has_second(const struct dd_optimizer_spec *spec) {
    return spec->type == DD_OPTIMIZER_ADAMW;
}

static bool is_embedding(const struct dd_tensor *tensor) {
    return strncmp(tensor->name, "bert.embeddings.", 16) == 0;
}

size_t dd_optimizer_frozen(const struct dd_optimizer_spec *spec, const struct dd_params *params) {
    int i = 0;
    while (spec->freeze_embeddings == DD_FLAG_YES && is_embedding(&params->tensors[i])) {
        i++;
    }
    return params->tensors[i].offset;
}

size_t dd_optimizer_bytes(const struct dd_optimizer_spec *spec, size_t n_params, size_t n_frozen) {
    size_t slabs = (has_first(spec) ? 1u : 0u) + (has_second(spec) ? 1u : 0u), bytes, average;
    if (!dd_size_mul(n_params - n_frozen, slabs * sizeof(float), &bytes) ||
        !dd_size_mul(n_params, spec->ema > 0.0 ? sizeof(float) : 0, &average) || !dd_size_add(bytes, average, &bytes) ||
        !dd_size_add(bytes, sizeof(struct dd_optimizer), &bytes)) {
        return SIZE_MAX;
    }
    return bytes;
}

static int depth_of(const struct dd_tensor *tensor, int layers) {
    int layer;
    if (is_embedding(tensor)) {
        return layers + 1;
    }
    return sscanf(tensor->name, "bert.encoder.layer.%d.", &layer) == 1 ? layers - layer : 0;
}

/* Counts the blocks (blocks NULL) or writes them.  A gap of padding goes with the tensor before it. */
static int cut_blocks(const struct dd_optimizer *optimizer, const struct dd_tensor *word, struct block *blocks) {
    const struct dd_params *params = optimizer->params;
    int n = 0;
    for (int i = 0; i < params->n_tensors; i++) {
        const struct dd_tensor *tensor = &params->tensors[i];
        bool skipped = tensor == word || tensor->offset < optimizer->frozen;
        for (size_t at = 0; !skipped && at < tensor->count; at += BLOCK) {
            if (blocks != NULL) {
                blocks[n] = (struct block){.first = tensor->offset + at,
                                           .count = DD_MIN((size_t)BLOCK, tensor->count - at),
                                           .decay = tensor->decay,
                                           .depth = depth_of(tensor, optimizer->layers)};
            }
            n++;
        }
    }
    return n;
}

/* Where the moments of the slab's float `at` are. */
static float *moment(const struct dd_optimizer *optimizer, float *slab, size_t at) {
    return slab != NULL ? slab + (at - optimizer->frozen) : NULL;
}

/* NULL: no memory.  Rows of words that no text has are never written to, and take none. */
static float *new_moments(const struct dd_optimizer *optimizer, size_t count) {
    float *made = dd_slab_new(count, sizeof(float));
    if (made != NULL) {
        size_t words = (size_t)optimizer->rows * optimizer->width;
        dd_slab_sparse(moment(optimizer, made, optimizer->word_at), words * sizeof(float));
    }
    return made;
}

static enum dd_status allocate(struct dd_optimizer *optimizer, const struct dd_tensor *word, struct dd_error *err) {
    const struct dd_params *params = optimizer->params;
    size_t rows = (size_t)optimizer->rows, moments = params->count - optimizer->frozen;
    optimizer->n_blocks = cut_blocks(optimizer, word, NULL);
    optimizer->blocks = dd_calloc((size_t)optimizer->n_blocks, sizeof *optimizer->blocks);
    optimizer->square = dd_calloc((size_t)optimizer->n_blocks + rows, sizeof *optimizer->square);
    optimizer->seen = dd_calloc(rows, sizeof *optimizer->seen);
    optimizer->fresh = dd_calloc(rows, sizeof *optimizer->fresh);
    if (has_first(&optimizer->spec)) {
        optimizer->first = new_moments(optimizer, moments);
    }
    if (has_second(&optimizer->spec)) {
        optimizer->second = new_moments(optimizer, moments);
    }
    if (optimizer->spec.ema > 0.0) {
        optimizer->average = dd_slab_new(params->count, sizeof(float));
    }
    if (optimizer->blocks == NULL || optimizer->square == NULL || optimizer->seen == NULL || optimizer->fresh == NULL ||
        (has_first(&optimizer->spec) && optimizer->first == NULL) ||
        (has_second(&optimizer->spec) && optimizer->second == NULL) ||
        (optimizer->spec.ema > 0.0 && optimizer->average == NULL)) {
        return dd_fail_memory(err, dd_optimizer_bytes(&optimizer->spec, params->count, optimizer->frozen));
    }
    cut_blocks(optimizer, word, optimizer->blocks);
    return DD_OK;
}

/* As after no step, but for what has been counted. */
static void begin(struct dd_optimizer *optimizer) {
    size_t rows = (size_t)optimizer->rows;
    optimizer->updates = optimizer->flushed = 0;
    memset(optimizer->seen, 0, rows * sizeof *optimizer->seen);
    memset(optimizer->fresh, true, rows * sizeof *optimizer->fresh);
    if (optimizer->average != NULL) {
        memcpy(optimizer->average, optimizer->params->slab, optimizer->params->count * sizeof(float));
    }
}

enum dd_status dd_optimizer_new(const struct dd_optimizer_spec *spec, struct dd_params *params,
                                const struct dd_bert_config *config, int64_t total_steps, struct dd_team *team,
                                struct dd_optimizer **ret_optimizer, struct dd_error *err) {
    const struct dd_tensor *word = dd_params_find(params, "bert.embeddings.word_embeddings.weight");
    assert(word != NULL && word->shape[0] == (size_t)config->vocab_size);
    struct dd_optimizer *optimizer = dd_calloc(1, sizeof *optimizer);
    if (optimizer == NULL) {
        return dd_fail_memory(err, sizeof *optimizer);
    }
    optimizer->spec = *spec;
    optimizer->params = params;
    optimizer->team = team;
    optimizer->simd = dd_simd();
    optimizer->total_steps = total_steps;
    optimizer->word_at = word->offset;
    optimizer->width = word->shape[1];
    optimizer->layers = config->layers;
    optimizer->scale = 1.0;
    optimizer->frozen = dd_optimizer_frozen(spec, params);
    optimizer->rows = optimizer->frozen > 0 ? 0 : (int)word->shape[0];
    double decay = spec->layer_lr_decay > 0.0 ? spec->layer_lr_decay : 1.0;
    for (int depth = 0; depth < MAX_DEPTHS; depth++) {
        optimizer->depth_scale[depth] = pow(decay, depth);
    }
    enum dd_status status = allocate(optimizer, word, err);
    if (status != DD_OK) {
        dd_optimizer_free(optimizer);
        return status;
    }
    begin(optimizer);
    *ret_optimizer = optimizer;
    return DD_OK;
}

void dd_optimizer_free(struct dd_optimizer *optimizer) {
    if (optimizer == NULL) {
        return;
    }
    size_t count = optimizer->params->count, moments = count - optimizer->frozen;
    dd_slab_free(optimizer->first, moments, sizeof(float));
    dd_slab_free(optimizer->second, moments, sizeof(float));
    dd_slab_free(optimizer->average, count, sizeof(float));
    free(optimizer->blocks);
    free(optimizer->square);
    free(optimizer->seen);
    free(optimizer->fresh);
    free(optimizer);
}

/* --- late rows -------------------------------------------------------------------------------------------------- */

static void average_floats(size_t count, float rest, const float *p, float *average) {
    for (size_t i = 0; i < count; i++) {
        average[i] += rest * (p[i] - average[i]);
    }
}

/* Updates [from, from + n) of the history to one row without gradient. */
static void replay(struct dd_optimizer *optimizer, int row, size_t from, size_t n) {
    const struct dd_optimizer_spec *spec = &optimizer->spec;
    size_t width = optimizer->width, at = optimizer->word_at + (size_t)row * width;
    float *p = optimizer->params->slab + at, *first = moment(optimizer, optimizer->first, at);
    if (spec->type == DD_OPTIMIZER_SGD) {
        optimizer->simd->sgd_replay(optimizer->sgd + from, n, width, p, first);
    } else if (optimizer->fresh[row]) {
        optimizer->simd->decay_replay(optimizer->adamw + from, n, width, p);
    } else {
        optimizer->simd->adamw_replay(optimizer->adamw + from, n, width, p, first,
                                      moment(optimizer, optimizer->second, at));
    }
}

/* Brings one row to the present. */
static void catch_up(struct dd_optimizer *optimizer, int row) {
    const struct dd_optimizer_spec *spec = &optimizer->spec;
    size_t from = (size_t)(optimizer->seen[row] - optimizer->flushed);
    size_t n = (size_t)(optimizer->updates - optimizer->seen[row]);
    size_t at = optimizer->word_at + (size_t)row * optimizer->width;
    bool fresh = optimizer->fresh[row], moves = spec->weight_decay != 0.0 || (!fresh && has_first(spec));
    optimizer->seen[row] = optimizer->updates;
    if (n == 0 || (!moves && (fresh || optimizer->average == NULL))) {
        return;
    }
    if (spec->type == DD_OPTIMIZER_SGD && moves) {
        optimizer->fresh[row] = false; /* weight decay goes through the momentum */
    }
    if (optimizer->average == NULL) {
        replay(optimizer, row, from, n);
        return;
    }
    for (size_t i = from; i < from + n; i++) {
        if (moves) {
            replay(optimizer, row, i, 1);
        }
        average_floats(optimizer->width, optimizer->rest[i], optimizer->params->slab + at, optimizer->average + at);
    }
}

struct rows {
    struct dd_optimizer *optimizer;
    const int32_t *ids; /* NULL: all rows */
    int n_ids, pieces;
};

/* A piece is a range of rows, so that an id that repeats meets one thread only. */
static void catch_up_piece(void *context, int piece) {
    const struct rows *rows = context;
    int first, count = dd_piece(rows->optimizer->rows, rows->pieces, piece, &first);
    if (rows->ids == NULL) {
        for (int row = first; row < first + count; row++) {
            catch_up(rows->optimizer, row);
        }
        return;
    }
    for (int i = 0; i < rows->n_ids; i++) {
        if (rows->ids[i] >= first && rows->ids[i] < first + count) {
            catch_up(rows->optimizer, rows->ids[i]);
        }
    }
}

static void catch_up_rows(struct dd_optimizer *optimizer, const int32_t *ids, int n_ids) {
    struct rows rows = {
        .optimizer = optimizer, .ids = ids, .n_ids = n_ids, .pieces = dd_pieces(optimizer->rows, ROWS_A_PIECE)};
    dd_team_for(optimizer->team, rows.pieces, catch_up_piece, &rows);
}

void dd_optimizer_refresh(struct dd_optimizer *optimizer, const int32_t *ids, int n) {
    if (optimizer->updates > optimizer->flushed && n > 0 && optimizer->rows > 0) {
        catch_up_rows(optimizer, ids, n);
    }
}

void dd_optimizer_flush(struct dd_optimizer *optimizer) {
    if (optimizer->updates > optimizer->flushed) {
        if (optimizer->rows > 0) {
            catch_up_rows(optimizer, NULL, 0);
        }
        optimizer->flushed = optimizer->updates;
    }
}

/* --- a step ----------------------------------------------------------------------------------------------------- */

struct step {
    struct dd_optimizer *optimizer;
    const float *grads;
    const int32_t *touched;
    int n_touched, pieces; /* pieces of the touched rows */
    float rest;            /* of the average */
    struct dd_adamw_step adamw[MAX_DEPTHS];
    struct dd_sgd_step sgd[MAX_DEPTHS];
};

static void square_chunk(void *context, int chunk) {
    const struct step *step = context;
    struct dd_optimizer *o = step->optimizer;
    if (chunk < o->n_blocks) {
        const struct block *block = &o->blocks[chunk];
        o->square[chunk] = o->simd->sum_squares(block->count, step->grads + block->first);
        return;
    }
    int first, count = dd_piece(step->n_touched, step->pieces, chunk - o->n_blocks, &first);
    for (int i = first; i < first + count; i++) {
        const float *row = step->grads + o->word_at + (size_t)step->touched[i] * o->width;
        o->square[o->n_blocks + i] = o->simd->sum_squares(o->width, row);
    }
}

static double gradient_norm(struct step *step) {
    struct dd_optimizer *o = step->optimizer;
    dd_team_for(o->team, o->n_blocks + step->pieces, square_chunk, step);
    double sum = 0.0;
    for (int i = 0; i < o->n_blocks + step->n_touched; i++) {
        sum += o->square[i];
    }
    return sqrt(sum);
}

static void update(const struct step *step, const struct block *block) {
    struct dd_optimizer *o = step->optimizer;
    size_t at = block->first, count = block->count;
    float *p = o->params->slab + at, *first = moment(o, o->first, at);
    if (o->spec.type == DD_OPTIMIZER_ADAMW) {
        struct dd_adamw_step scalars = step->adamw[block->depth];
        scalars.decay = block->decay ? scalars.decay : 1.0f;
        o->simd->adamw(&scalars, count, p, step->grads + at, first, moment(o, o->second, at));
    } else {
        struct dd_sgd_step scalars = step->sgd[block->depth];
        scalars.weight_decay = block->decay ? scalars.weight_decay : 0.0f;
        o->simd->sgd(&scalars, count, p, step->grads + at, first);
    }
    if (o->average != NULL) {
        average_floats(count, step->rest, p, o->average + at);
    }
}

static void update_chunk(void *context, int chunk) {
    const struct step *step = context;
    struct dd_optimizer *o = step->optimizer;
    if (chunk < o->n_blocks) {
        update(step, &o->blocks[chunk]);
        return;
    }
    int first, count = dd_piece(step->n_touched, step->pieces, chunk - o->n_blocks, &first);
    for (int i = first; i < first + count; i++) {
        int row = step->touched[i];
        catch_up(o, row);
        const struct block block = {
            .first = o->word_at + (size_t)row * o->width, .count = o->width, .decay = true, .depth = o->layers + 1};
        update(step, &block);
        o->seen[row] = o->updates + 1;
        o->fresh[row] = false;
    }
}

/* The scalars of the step after `done` steps. */
static void fill_scalars(struct step *step, double peak_lr, double clip) {
    const struct dd_optimizer *o = step->optimizer;
    const struct dd_optimizer_spec *spec = &o->spec;
    double t = (double)(o->done - o->restarted + 1);
    for (int depth = 0; depth < o->layers + 2; depth++) {
        double lr = peak_lr * o->depth_scale[depth];
        step->adamw[depth] = (struct dd_adamw_step){
            .clip = (float)clip,
            .decay = (float)(1.0 - lr * spec->weight_decay),
            .beta1_rest = (float)(1.0 - spec->beta1),
            .beta2 = (float)spec->beta2,
            .beta2_rest = (float)(1.0 - spec->beta2),
            .step_size = (float)(lr / (1.0 - pow(spec->beta1, t))),
            .inverse_root = (float)(1.0 / sqrt(1.0 - pow(spec->beta2, t))),
            .eps = (float)spec->eps,
        };
        step->sgd[depth] = (struct dd_sgd_step){.clip = (float)clip,
                                                .weight_decay = (float)spec->weight_decay,
                                                .momentum = (float)spec->momentum,
                                                .lr = (float)lr,
                                                .nesterov = spec->nesterov == DD_FLAG_YES};
    }
    step->rest = (float)(1.0 - fmin(spec->ema, (1.0 + t) / (10.0 + t)));
}

double dd_optimizer_step(struct dd_optimizer *optimizer, const struct dd_params *grads, const int32_t *touched,
                         int n_touched, double *ret_lr) {
    struct step step = {.optimizer = optimizer,
                        .grads = grads->slab,
                        .touched = touched,
                        .n_touched = optimizer->rows > 0 ? n_touched : 0};
    step.pieces = step.n_touched > 0 ? dd_pieces(step.n_touched, ROWS_A_PIECE) : 0;
    if (optimizer->updates - optimizer->flushed == HISTORY) {
        dd_optimizer_flush(optimizer);
    }
    double norm = gradient_norm(&step), lr = dd_optimizer_lr(optimizer, optimizer->done);
    double most = optimizer->spec.max_grad_norm;
    fill_scalars(&step, lr, most > 0.0 ? fmin(1.0, most / (norm + 1e-6)) : 1.0);
    if (isfinite(norm)) {
        dd_team_for(optimizer->team, optimizer->n_blocks + step.pieces, update_chunk, &step);
        int64_t at = optimizer->updates++ - optimizer->flushed;
        optimizer->adamw[at] = step.adamw[optimizer->layers + 1];
        optimizer->sgd[at] = step.sgd[optimizer->layers + 1];
        optimizer->rest[at] = step.rest;
    }
    optimizer->done++;
    *ret_lr = lr;
    return norm;
}

void dd_optimizer_skip(struct dd_optimizer *optimizer) {
    optimizer->done++;
}

void dd_optimizer_restart(struct dd_optimizer *optimizer, double scale) {
    size_t moments = optimizer->params->count - optimizer->frozen;
    if (optimizer->first != NULL) {
        memset(optimizer->first, 0, moments * sizeof(float));
    }
    if (optimizer->second != NULL) {
        memset(optimizer->second, 0, moments * sizeof(float));
    }
    dd_optimizer_set_restart(optimizer, optimizer->done, scale);
    begin(optimizer);
}

float *dd_optimizer_average(const struct dd_optimizer *optimizer) {
    return optimizer->average;
}

/* --- checkpoints ------------------------------------------------------------------------------------------------ */

int64_t dd_optimizer_state(struct dd_optimizer *optimizer, float **ret_first, float **ret_second) {
    *ret_first = optimizer->first;
    *ret_second = optimizer->second;
    return optimizer->done;
}

void dd_optimizer_slabs(struct dd_optimizer *optimizer, struct dd_optimizer_slab ret_slabs[DD_OPTIMIZER_SLABS]) {
    size_t count = optimizer->params->count, moments = count - optimizer->frozen;
    ret_slabs[0] = (struct dd_optimizer_slab){optimizer->first, optimizer->first != NULL ? moments : 0};
    ret_slabs[1] = (struct dd_optimizer_slab){optimizer->second, optimizer->second != NULL ? moments : 0};
    ret_slabs[2] = (struct dd_optimizer_slab){optimizer->average, optimizer->average != NULL ? count : 0};
}

void dd_optimizer_set_restart(struct dd_optimizer *optimizer, int64_t step, double scale) {
    optimizer->restarted = step;
    optimizer->scale = scale;
}

/* Whether a row is as one that never had a gradient: moments of 0, and its average where it is itself. */
static bool row_is_fresh(const struct dd_optimizer *optimizer, int row) {
    size_t width = optimizer->width, from = optimizer->word_at + (size_t)row * width;
    const float *first = moment(optimizer, optimizer->first, from),
                *second = moment(optimizer, optimizer->second, from);
    const float *average = optimizer->average, *p = optimizer->params->slab;
    bool fresh = average == NULL || memcmp(average + from, p + from, width * sizeof(float)) == 0;
    for (size_t i = 0; i < width && fresh; i++) {
        fresh = (first == NULL || first[i] == 0.0f) && (second == NULL || second[i] == 0.0f);
    }
    return fresh;
}

void dd_optimizer_set_step(struct dd_optimizer *optimizer, int64_t step) {
    optimizer->done = step;
    optimizer->updates = 0;
    optimizer->flushed = 0;
    for (int row = 0; row < optimizer->rows; row++) {
        optimizer->fresh[row] = row_is_fresh(optimizer, row);
        optimizer->seen[row] = 0;
    }
}
