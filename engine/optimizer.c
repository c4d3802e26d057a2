/* optimizer: AdamW and SGD over the slab, clipping by the global norm, warm-up and schedules.
 *
 * Late rows.  A row of the word embeddings that a batch does not use has gradient zero; the dense optimizer would still
 * decay it and let its moments run out.  Here the row waits: `seen[row]` is the number of updates it has had, the
 * history keeps the scalars of the updates since the last flush, and when a batch needs the row (refresh), or all are
 * read (flush), or the history is full, the updates it missed are replayed with the same float operations in the same
 * order.  So the bits are those of the dense optimizer.  Rows that never had a gradient (`fresh`) have moments of zero;
 * AdamW (eps > 0) then only multiplies by each update's decay, and the moments' memory is not touched.
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

struct block {
    size_t first, count;
    bool decay;
};

struct dd_optimizer {
    struct dd_optimizer_spec spec;
    struct dd_params *params;
    struct dd_team *team;
    const struct dd_simd *simd;
    int64_t total_steps, done; /* steps done */
    int64_t updates;           /* of them, those that changed something, since the state was made or set */
    float *first, *second;     /* AdamW: moments; SGD: momentum in first; NULL where there is none */
    struct block *blocks;      /* all but the word embeddings */
    int n_blocks;
    double *square; /* [n_blocks + rows]: partial sums */
    size_t word_at, width;
    int rows;
    int64_t *seen; /* [rows]: updates */
    bool *fresh;   /* [rows]: never had a gradient */
    /* History: the scalars of updates flushed … updates - 1; every row has seen at least `flushed`. */
    int64_t flushed;
    struct dd_adamw_step adamw[HISTORY];
    struct dd_sgd_step sgd[HISTORY];
};

/* --- the schedule ----------------------------------------------------------------------------------------------- */

double dd_optimizer_lr(const struct dd_optimizer *optimizer, int64_t step) {
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

/* --- making and freeing ----------------------------------------------------------------------------------------- */

static bool has_first(const struct dd_optimizer_spec *spec) {
    return spec->type == DD_OPTIMIZER_ADAMW || spec->momentum != 0.0;
}

static bool has_second(const struct dd_optimizer_spec *spec) {
    return spec->type == DD_OPTIMIZER_ADAMW;
}

size_t dd_optimizer_bytes(const struct dd_optimizer_spec *spec, size_t n_params) {
    size_t slabs = (has_first(spec) ? 1u : 0u) + (has_second(spec) ? 1u : 0u), bytes;
    if (!dd_size_mul(n_params, slabs * sizeof(float), &bytes) ||
        !dd_size_add(bytes, sizeof(struct dd_optimizer), &bytes)) {
        return SIZE_MAX;
    }
    return bytes;
}

/* Counts the blocks (blocks NULL) or writes them.  A gap of padding goes with the tensor before it. */
static int cut_blocks(const struct dd_params *params, const struct dd_tensor *word, struct block *blocks) {
    int n = 0;
    for (int i = 0; i < params->n_tensors; i++) {
        const struct dd_tensor *tensor = &params->tensors[i];
        for (size_t at = 0; tensor != word && at < tensor->count; at += BLOCK) {
            if (blocks != NULL) {
                blocks[n] = (struct block){.first = tensor->offset + at,
                                           .count = DD_MIN((size_t)BLOCK, tensor->count - at),
                                           .decay = tensor->decay};
            }
            n++;
        }
    }
    return n;
}

static enum dd_status allocate(struct dd_optimizer *optimizer, const struct dd_tensor *word, struct dd_error *err) {
    const struct dd_params *params = optimizer->params;
    size_t rows = word->shape[0];
    optimizer->n_blocks = cut_blocks(params, word, NULL);
    optimizer->blocks = dd_calloc((size_t)optimizer->n_blocks, sizeof *optimizer->blocks);
    optimizer->square = dd_calloc((size_t)optimizer->n_blocks + rows, sizeof *optimizer->square);
    optimizer->seen = dd_calloc(rows, sizeof *optimizer->seen);
    optimizer->fresh = dd_calloc(rows, sizeof *optimizer->fresh);
    if (has_first(&optimizer->spec)) {
        optimizer->first = dd_calloc_aligned(params->count, sizeof(float));
    }
    if (has_second(&optimizer->spec)) {
        optimizer->second = dd_calloc_aligned(params->count, sizeof(float));
    }
    if (optimizer->blocks == NULL || optimizer->square == NULL || optimizer->seen == NULL || optimizer->fresh == NULL ||
        (has_first(&optimizer->spec) && optimizer->first == NULL) ||
        (has_second(&optimizer->spec) && optimizer->second == NULL)) {
        return dd_fail_memory(err, dd_optimizer_bytes(&optimizer->spec, params->count));
    }
    cut_blocks(params, word, optimizer->blocks);
    memset(optimizer->fresh, true, rows * sizeof *optimizer->fresh);
    return DD_OK;
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
    optimizer->rows = (int)word->shape[0];
    enum dd_status status = allocate(optimizer, word, err);
    if (status != DD_OK) {
        dd_optimizer_free(optimizer);
        return status;
    }
    *ret_optimizer = optimizer;
    return DD_OK;
}

void dd_optimizer_free(struct dd_optimizer *optimizer) {
    if (optimizer == NULL) {
        return;
    }
    free(optimizer->first);
    free(optimizer->second);
    free(optimizer->blocks);
    free(optimizer->square);
    free(optimizer->seen);
    free(optimizer->fresh);
    free(optimizer);
}

/* --- late rows -------------------------------------------------------------------------------------------------- */

static float *or_null(float *slab, size_t offset) {
    return slab != NULL ? slab + offset : NULL;
}

/* Brings one row to the present. */
static void catch_up(struct dd_optimizer *optimizer, int row) {
    const struct dd_optimizer_spec *spec = &optimizer->spec;
    size_t from = (size_t)(optimizer->seen[row] - optimizer->flushed);
    size_t n = (size_t)(optimizer->updates - optimizer->seen[row]);
    size_t width = optimizer->width, at = optimizer->word_at + (size_t)row * width;
    float *p = optimizer->params->slab + at;
    bool fresh = optimizer->fresh[row];
    optimizer->seen[row] = optimizer->updates;
    if (n == 0 || (spec->weight_decay == 0.0 && (fresh || !has_first(spec)))) {
        return;
    }
    if (spec->type == DD_OPTIMIZER_SGD) {
        optimizer->fresh[row] = false; /* weight decay goes through the momentum */
        optimizer->simd->sgd_replay(optimizer->sgd + from, n, width, p, or_null(optimizer->first, at));
    } else if (fresh) {
        optimizer->simd->decay_replay(optimizer->adamw + from, n, width, p);
    } else {
        optimizer->simd->adamw_replay(optimizer->adamw + from, n, width, p, optimizer->first + at,
                                      optimizer->second + at);
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
    if (optimizer->updates > optimizer->flushed && n > 0) {
        catch_up_rows(optimizer, ids, n);
    }
}

void dd_optimizer_flush(struct dd_optimizer *optimizer) {
    if (optimizer->updates > optimizer->flushed) {
        catch_up_rows(optimizer, NULL, 0);
        optimizer->flushed = optimizer->updates;
    }
}

/* --- a step ----------------------------------------------------------------------------------------------------- */

struct step {
    struct dd_optimizer *optimizer;
    const float *grads;
    const int32_t *touched;
    int n_touched, pieces; /* pieces of the touched rows */
    struct dd_adamw_step adamw;
    struct dd_sgd_step sgd;
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

static void update(const struct step *step, size_t at, size_t count, bool decay) {
    struct dd_optimizer *o = step->optimizer;
    float *p = o->params->slab + at;
    if (o->spec.type == DD_OPTIMIZER_ADAMW) {
        struct dd_adamw_step scalars = step->adamw;
        scalars.decay = decay ? scalars.decay : 1.0f;
        o->simd->adamw(&scalars, count, p, step->grads + at, o->first + at, o->second + at);
    } else {
        struct dd_sgd_step scalars = step->sgd;
        scalars.weight_decay = decay ? scalars.weight_decay : 0.0f;
        o->simd->sgd(&scalars, count, p, step->grads + at, or_null(o->first, at));
    }
}

static void update_chunk(void *context, int chunk) {
    const struct step *step = context;
    struct dd_optimizer *o = step->optimizer;
    if (chunk < o->n_blocks) {
        update(step, o->blocks[chunk].first, o->blocks[chunk].count, o->blocks[chunk].decay);
        return;
    }
    int first, count = dd_piece(step->n_touched, step->pieces, chunk - o->n_blocks, &first);
    for (int i = first; i < first + count; i++) {
        int row = step->touched[i];
        catch_up(o, row);
        update(step, o->word_at + (size_t)row * o->width, o->width, true);
        o->seen[row] = o->updates + 1;
        o->fresh[row] = false;
    }
}

/* The scalars of the step after `done` steps. */
static void fill_scalars(struct step *step, double lr, double clip) {
    const struct dd_optimizer_spec *spec = &step->optimizer->spec;
    double t = (double)(step->optimizer->done + 1);
    step->adamw = (struct dd_adamw_step){
        .clip = (float)clip,
        .decay = (float)(1.0 - lr * spec->weight_decay),
        .beta1_rest = (float)(1.0 - spec->beta1),
        .beta2 = (float)spec->beta2,
        .beta2_rest = (float)(1.0 - spec->beta2),
        .step_size = (float)(lr / (1.0 - pow(spec->beta1, t))),
        .inverse_root = (float)(1.0 / sqrt(1.0 - pow(spec->beta2, t))),
        .eps = (float)spec->eps,
    };
    step->sgd = (struct dd_sgd_step){.clip = (float)clip,
                                     .weight_decay = (float)spec->weight_decay,
                                     .momentum = (float)spec->momentum,
                                     .lr = (float)lr};
}

double dd_optimizer_step(struct dd_optimizer *optimizer, const struct dd_params *grads, const int32_t *touched,
                         int n_touched, double *ret_lr) {
    struct step step = {.optimizer = optimizer,
                        .grads = grads->slab,
                        .touched = touched,
                        .n_touched = n_touched,
                        .pieces = n_touched > 0 ? dd_pieces(n_touched, ROWS_A_PIECE) : 0};
    if (optimizer->updates - optimizer->flushed == HISTORY) {
        dd_optimizer_flush(optimizer);
    }
    double norm = gradient_norm(&step), lr = dd_optimizer_lr(optimizer, optimizer->done);
    double most = optimizer->spec.max_grad_norm;
    fill_scalars(&step, lr, most > 0.0 ? fmin(1.0, most / (norm + 1e-6)) : 1.0);
    if (isfinite(norm)) {
        dd_team_for(optimizer->team, optimizer->n_blocks + step.pieces, update_chunk, &step);
        int64_t at = optimizer->updates++ - optimizer->flushed;
        optimizer->adamw[at] = step.adamw;
        optimizer->sgd[at] = step.sgd;
    }
    optimizer->done++;
    *ret_lr = lr;
    return norm;
}

/* --- checkpoints ------------------------------------------------------------------------------------------------ */

int64_t dd_optimizer_state(struct dd_optimizer *optimizer, float **ret_first, float **ret_second) {
    *ret_first = optimizer->first;
    *ret_second = optimizer->second;
    return optimizer->done;
}

void dd_optimizer_set_step(struct dd_optimizer *optimizer, int64_t step) {
    optimizer->done = step;
    optimizer->updates = 0;
    optimizer->flushed = 0;
    for (int row = 0; row < optimizer->rows; row++) {
        bool fresh = true;
        size_t at = optimizer->word_at + (size_t)row * optimizer->width;
        for (size_t i = at; i < at + optimizer->width && fresh; i++) {
            fresh = (optimizer->first == NULL || optimizer->first[i] == 0.0f) &&
                    (optimizer->second == NULL || optimizer->second[i] == 0.0f);
        }
        optimizer->fresh[row] = fresh;
        optimizer->seen[row] = 0;
    }
}
