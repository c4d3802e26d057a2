/* train_step: one optimizer step, and the evaluation that ends an epoch.
 *
 * A step is a function of (weights, optimizer state, spec, data, epoch, step): the order of an epoch's rows comes from
 * (seed, epoch), dropout from (seed, step), so a run that goes on from a checkpoint makes the same bits.  Times and
 * speeds are for people and decide nothing.
 */
#include "engine/train.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SPEED_SECONDS 1.0 /* time constant of tokens_per_second */
#define ETA_SECONDS 20.0  /* and of the rate behind eta_seconds */

/* --- speed ------------------------------------------------------------------------------------------------------ */

static void pace_add(struct dd_pace *pace, double tokens, double seconds) {
    double keep = exp(-seconds / SPEED_SECONDS), keep_eta = exp(-seconds / ETA_SECONDS);
    pace->tokens = pace->tokens * keep + tokens;
    pace->seconds = pace->seconds * keep + seconds;
    pace->eta_tokens = pace->eta_tokens * keep_eta + tokens;
    pace->eta_seconds = pace->eta_seconds * keep_eta + seconds;
}

/* Steps still to do at the recent rate, plus an evaluation and its files for each epoch still to end. */
static double eta_seconds(const struct dd_run *run) {
    if (run->pace.eta_tokens <= 0.0) {
        return NAN;
    }
    int epochs_left = run->spec->epochs - run->state.epochs_done;
    double tokens = (double)run->train.n_tokens * epochs_left - (double)run->state.sum_tokens;
    return DD_MAX(tokens, 0.0) * run->pace.eta_seconds / run->pace.eta_tokens +
           epochs_left * (run->state.evaluation_seconds + run->checkpoint_cost_s);
}

/* --- a step ----------------------------------------------------------------------------------------------------- */

/* The epoch's permutation of the train rows, made when the epoch changes. */
static const uint32_t *epoch_order(struct dd_run *run) {
    if (run->order_epoch != run->state.epoch) {
        const struct dd_stream stream = {
            .seed = run->spec->seed, .purpose = DD_PURPOSE_SHUFFLE, .step = (uint64_t)run->state.epoch};
        dd_random_permutation(&stream, run->order, run->train.rows);
        run->order_epoch = run->state.epoch;
    }
    return run->order;
}

static enum dd_status diverged(const struct dd_run *run, const char *what, double lr, struct dd_error *err) {
    return dd_fail(err, DD_INVALID, "training_diverged",
                   "the %s is not finite at step %lld of %lld (epoch %d, lr %g): training has diverged; a lower lr, a "
                   "warm-up or a smaller max_grad_norm helps",
                   what, (long long)(run->state.step + 1), (long long)run->steps, run->state.epoch, lr);
}

/* From `from` at the run's first step to `to` at its last; `to` NAN: no schedule. */
static double moved(const struct dd_run *run, double from, double to, int64_t step) {
    double last = (double)(run->steps - 1);
    return isnan(to) || step <= 0 ? from : (double)step >= last ? to : from + (to - from) * ((double)step / last);
}

/* What the loss is at a step, counted from 0. */
static struct dd_loss_options loss_options(const struct dd_run *run, int64_t step) {
    const struct dd_spec *spec = run->spec;
    return (struct dd_loss_options){.kind = spec->loss,
                                    .temperature = moved(run, spec->temperature, spec->temperature_end, step),
                                    .alpha = moved(run, spec->alpha, spec->alpha_end, step),
                                    .label_smoothing = spec->label_smoothing,
                                    .class_weight = run->class_weight};
}

/* Loss of the gathered batch and its gradient at the logits. */
static struct dd_loss batch_loss(struct dd_run *run, const uint32_t *rows, int n) {
    size_t classes = (size_t)run->n_classes;
    if (run->teacher_train) {
        for (int s = 0; s < n; s++) {
            memcpy(run->teacher_batch + (size_t)s * classes, run->teacher_train + (size_t)rows[s] * classes,
                   classes * sizeof(float));
        }
    }
    const struct dd_loss_options options = loss_options(run, run->state.step);
    return dd_loss_compute(run->logits, run->teacher_train ? run->teacher_batch : NULL, run->gather.labels, n,
                           run->n_classes, &options, run->dlogits);
}

/* The epoch's means are those over its rows: KL over all, CE over those with a label, the loss as if the epoch had been
 * one batch.  A batch's CE is the mean over its labelled rows by their classes' weights, so it counts by the sum of
 * these; in the loss, where they are not one for each row, scaled so that the sum divided by all rows of the epoch is
 * the mean over the labelled ones: "balanced" weights of all labelled rows sum up to their number. */
static void sum_loss(struct dd_run *run, const struct dd_loss *loss, const struct dd_matching_loss *match, int n,
                     int labelled) {
    struct dd_run_state *state = &run->state;
    if (run->n_labelled == run->train.rows && !run->class_weight) {
        state->sum_loss += loss->total * n;
    } else {
        double share = run->teacher_train ? 1.0 - loss_options(run, state->step).alpha : 1.0;
        double ce = share * loss->ce, scale = (double)run->train.rows / run->n_labelled;
        state->sum_loss += (loss->total - ce) * n + ce * loss->ce_weight * scale;
    }
    state->sum_loss += match->total * n;
    state->sum_hidden += match->states.hidden * n;
    state->sum_cls += match->states.cls * n;
    state->sum_attention += match->heads.attention * n;
    state->sum_relation += match->heads.relation * n;
    state->sum_kl += loss->kl * n;
    state->sum_ce += loss->ce * loss->ce_weight;
    state->sum_ce_weight += loss->ce_weight;
    state->sum_rows += (uint64_t)n;
    state->sum_unlabelled += (uint64_t)(n - labelled);
}

static void count_step(struct dd_run *run, int tokens, double seconds) {
    struct dd_run_state *state = &run->state;
    state->sum_tokens += (uint64_t)tokens;
    state->step++;
    state->epoch_step++;
    state->elapsed_seconds += seconds;
    state->epoch_seconds += seconds;
    pace_add(&run->pace, tokens, seconds);
}

static int count_labelled(const int32_t *labels, int n) {
    int labelled = 0;
    for (int s = 0; s < n; s++) {
        labelled += labels[s] >= 0;
    }
    return labelled;
}

/* From run->dlogits to new weights; the gradient's norm. */
static double learn(struct dd_run *run, const struct dd_dropout *dropout, double *ret_lr) {
    dd_bert_backward(run->bert, run->student->params, &run->gather.batch, dropout, run->dlogits, run->grads);
    int n_touched = 0;
    const int32_t *touched = dd_bert_touched(run->bert, &n_touched);
    return dd_optimizer_step(run->optimizer, run->grads, touched, n_touched, ret_lr);
}

enum dd_status dd_run_step(struct dd_run *run, struct dd_step_metrics *ret_step, struct dd_error *err) {
    int64_t start = dd_clock_mono_us();
    dd_team_step(run->team);
    const uint32_t *rows = epoch_order(run) + run->state.epoch_step * run->spec->batch_size;
    int64_t left = (int64_t)run->train.rows - run->state.epoch_step * run->spec->batch_size;
    int n = (int)DD_MIN(left, (int64_t)run->spec->batch_size);
    const struct dd_batch *batch = &run->gather.batch;
    const struct dd_dropout dropout = {.on = true, .seed = run->spec->seed, .step = (uint64_t)run->state.step};

    dd_gather_rows(&run->gather, &run->train, rows, n);
    dd_optimizer_refresh(run->optimizer, batch->ids, batch->n_tokens);
    dd_bert_forward(run->bert, run->student->params, batch, &dropout, run->logits);
    struct dd_loss loss = batch_loss(run, rows, n);
    struct dd_matching_loss match = dd_run_match(run, rows);
    double lr = dd_optimizer_lr(run->optimizer, run->state.step);
    double norm = NAN;
    if (!isfinite(loss.total + match.total) && !dd_run_skips(run)) {
        return diverged(run, "loss", lr, err);
    }
    if (isfinite(loss.total + match.total)) {
        norm = learn(run, &dropout, &lr);
    } else {
        dd_optimizer_skip(run->optimizer);
    }
    if (!isfinite(norm) && !dd_run_skips(run)) {
        return diverged(run, "gradient", lr, err);
    }
    int labelled = count_labelled(run->gather.labels, n);
    if (isfinite(norm)) {
        sum_loss(run, &loss, &match, n, labelled);
        run->state.skipped_in_row = 0;
    } else {
        run->state.skipped_in_row++;
    }
    count_step(run, batch->n_tokens, (double)(dd_clock_mono_us() - start) / 1e6);
    *ret_step = (struct dd_step_metrics){.step = run->state.step,
                                         .steps = run->steps,
                                         .epoch = run->state.epoch,
                                         .epochs = run->spec->epochs,
                                         .loss = loss.total + match.total,
                                         .kl = run->teacher_train ? loss.kl : NAN,
                                         .ce = labelled > 0 ? loss.ce : NAN,
                                         .lr = lr,
                                         .grad_norm = norm,
                                         .elapsed_seconds = run->state.elapsed_seconds,
                                         .tokens_per_second = run->pace.tokens / DD_MAX(run->pace.seconds, 1e-9),
                                         .eta_seconds = eta_seconds(run)};
    return DD_OK;
}

struct dd_params dd_run_weights(const struct dd_run *run) {
    struct dd_params weights = *run->student->params;
    float *average = dd_optimizer_average(run->optimizer);
    if (average) {
        weights.slab = average;
    }
    return weights;
}

/* --- evaluation ------------------------------------------------------------------------------------------------- */

static double agreement(const struct dd_run *run) {
    if (!run->teacher_dev) {
        return NAN;
    }
    size_t same = 0;
    for (uint32_t r = 0; r < run->dev.rows; r++) {
        same += run->dev_label[r] == run->teacher_dev_label[r];
    }
    return (double)same / run->dev.rows;
}

enum dd_status dd_run_evaluate(struct dd_run *run, struct dd_epoch_metrics *ret_metrics, struct dd_error *err) {
    int64_t start = dd_clock_mono_us();
    const struct dd_run_state *state = &run->state;
    dd_optimizer_flush(run->optimizer);
    const struct dd_params weights = dd_run_weights(run);
    enum dd_status status = dd_forward_rows(run->bert, &weights, &run->dev, &run->gather, run->team, run->n_classes,
                                            run->input->cancel, NULL, run->dev_logits, err);
    if (status != DD_OK) {
        return status;
    }
    dd_argmax_rows(run->dev_logits, run->dev.rows, run->n_classes, run->dev_label, run->dev_score);
    struct dd_report report;
    status = dd_report_compute(run->dev.labels, run->dev_label, run->dev.rows, run->n_classes, false, &report, err);
    if (status != DD_OK) {
        return status;
    }
    /* At the end values of T and alpha, so that epochs can be compared. */
    const struct dd_loss_options options = loss_options(run, run->steps - 1);
    struct dd_loss loss = dd_loss_compute(run->dev_logits, run->teacher_dev, run->dev.labels, (int)run->dev.rows,
                                          run->n_classes, &options, NULL);
    double rows = state->sum_rows > 0 ? (double)state->sum_rows : NAN;
    double labelled = (double)DD_MAX(state->sum_rows - state->sum_unlabelled, (uint64_t)1);
    double ce_weight = run->class_weight ? DD_MAX(state->sum_ce_weight, DBL_MIN) : labelled;
    double took = (double)(dd_clock_mono_us() - start) / 1e6;
    *ret_metrics = (struct dd_epoch_metrics){
        .epoch = state->epoch,
        .train_loss = state->sum_loss / rows,
        .train_kl = run->teacher_train ? state->sum_kl / rows : NAN,
        .train_ce = state->sum_ce / ce_weight,
        .train_hidden = run->matching.spec.hidden_weight > 0.0 ? state->sum_hidden / rows : NAN,
        .train_cls = run->matching.spec.cls_weight > 0.0 ? state->sum_cls / rows : NAN,
        .train_attention = run->matching.heads_spec.attention_weight > 0.0 ? state->sum_attention / rows : NAN,
        .train_relation = run->matching.heads_spec.relation_weight > 0.0 ? state->sum_relation / rows : NAN,
        .dev_loss = loss.total,
        .dev_kl = run->teacher_dev ? loss.kl : NAN,
        .dev_ce = loss.ce,
        .accuracy = report.accuracy,
        .macro_precision = report.macro.precision,
        .macro_recall = report.macro.recall,
        .macro_f1 = report.macro.f1,
        .weighted_precision = report.weighted.precision,
        .weighted_recall = report.weighted.recall,
        .weighted_f1 = report.weighted.f1,
        .teacher_agreement = agreement(run),
        .lr = dd_optimizer_lr(run->optimizer, DD_MAX(state->step - 1, (int64_t)0)),
        .seconds = state->epoch_seconds + took,
        .elapsed_seconds = state->elapsed_seconds + took,
        .tokens_per_second = (double)state->sum_tokens / DD_MAX(state->epoch_seconds, 1e-9)};
    run->state.evaluation_seconds = took;
    run->state.elapsed_seconds += took;
    dd_report_release(&report);
    return DD_OK;
}
