/* train_guard: which epoch is kept, when to end early, and what to do about a collapse.
 *
 * The guard (spec->guard) sees three things:
 *   - a step whose loss or gradient norm is not finite: it changes nothing and counts as done; after SKIPS_IN_ROW of
 *     them the weights themselves are at fault,
 *   - an epoch that predicts one class for every dev row,
 *   - an epoch whose macro-F1 is below FALLEN of the best epoch's.
 * The last two count only once the best epoch has LEARNT times the macro-F1 of answering the most frequent class: a run
 * that has hardly begun to tell classes apart goes to and fro between them, and needs its full learning rate.
 * Then the run goes back: the weights of best-<epoch>/ (the first weights, while no epoch is good), moments and average
 * begun anew (the projection of matching as well, which no model keeps), half the learning rate.  Moments of the best
 * epoch are not kept: they would cost two more slabs on disk, and those that led to a collapse are the last thing to
 * keep.  A new start of AdamW is safe because its bias correction starts anew, too, and lr rises again
 * (dd_optimizer_restart).
 *
 * Epochs and steps count on.  Order and dropout are functions of them, so the run does not take the same path again;
 * what was collapsed stays in the history, marked by dd_epoch_metrics.rollback.  It happens at most ROLLBACKS times,
 * never after the last epoch (the exported last/ is what its metrics say), and is done before the checkpoint that
 * records it: a kill at any instant repeats it to the same bits.
 */
#include "engine/train.h"

#include <math.h>
#include <string.h>

#define ROLLBACKS 3
#define SKIPS_IN_ROW 3
#define FALLEN 0.6
#define LEARNT 1.5

const char *dd_rollback_name(enum dd_rollback why) {
    static const char *const names[] = {
        [DD_ROLLBACK_NONE] = "none",
        [DD_ROLLBACK_NOT_FINITE] = "not_finite",
        [DD_ROLLBACK_ONE_CLASS] = "one_class",
        [DD_ROLLBACK_F1_FELL] = "f1_fell",
    };
    return (unsigned)why < DD_ARRAY_LEN(names) ? names[why] : "unknown";
}

/* --- the metric --------------------------------------------------------------------------------------------------- */

/* More is better; −inf where there is no value. */
static double score(enum dd_metric metric, const struct dd_epoch_metrics *m) {
    double value = metric == DD_METRIC_ACCURACY            ? m->accuracy
                   : metric == DD_METRIC_DEV_LOSS          ? -m->dev_loss
                   : metric == DD_METRIC_TEACHER_AGREEMENT ? m->teacher_agreement
                                                           : m->macro_f1;
    return isfinite(value) ? value : -INFINITY;
}

bool dd_run_ended(const struct dd_run *run) {
    const struct dd_run_state *state = &run->state;
    int patience = run->spec->patience;
    return state->epochs_done >= run->spec->epochs ||
           (patience > 0 && state->epochs_done > 0 && state->epochs_done - state->peak.epoch >= patience);
}

/* --- collapse ----------------------------------------------------------------------------------------------------- */

static bool best_is_good(const struct dd_run *run) {
    return run->state.epochs_done > 0 && isfinite(run->state.best.dev_loss) && isfinite(run->state.best.macro_f1);
}

static bool one_class(const struct dd_run_state *state) {
    size_t same = 0;
    while (same < state->n_dev && state->dev_label[same] == state->dev_label[0]) {
        same++;
    }
    return same == state->n_dev;
}

/* Macro-F1 on dev of answering its most frequent class for every row. */
static double majority_f1(const struct dd_run *run) {
    uint32_t count[DD_MAX_CLASSES] = {0}, most = 0;
    int present = 0;
    for (uint32_t r = 0; r < run->dev.rows; r++) {
        uint32_t now = ++count[run->dev.labels[r]];
        present += now == 1;
        most = DD_MAX(most, now);
    }
    double share = (double)most / run->dev.rows;
    return 2.0 * share / (1.0 + share) / present;
}

/* Whether the epoch of these metrics, whose predictions are the state's, has collapsed since the best one. */
static enum dd_rollback collapsed(const struct dd_run *run, const struct dd_epoch_metrics *metrics) {
    const struct dd_epoch_metrics *best = &run->state.best;
    if (!isfinite(metrics->dev_loss)) {
        return DD_ROLLBACK_NOT_FINITE;
    }
    if (best->epoch == metrics->epoch || !best_is_good(run) || best->macro_f1 < LEARNT * majority_f1(run)) {
        return DD_ROLLBACK_NONE;
    }
    if (one_class(&run->state)) {
        return DD_ROLLBACK_ONE_CLASS;
    }
    return metrics->macro_f1 < FALLEN * best->macro_f1 ? DD_ROLLBACK_F1_FELL : DD_ROLLBACK_NONE;
}

/* --- which epoch is kept ------------------------------------------------------------------------------------------ */

/* That of a share p of n independent rows, √(p(1 − p)/n). */
static double standard_error(double p, uint32_t n) {
    return sqrt(p * (1.0 - p) / n);
}

/* The one-standard-error rule (Breiman, Friedman, Olshen and Stone 1984, section 3.4.3), which there prefers the
 * smaller tree and here the later epoch: lr has come down further, and more of the texts were read. */
static bool within_noise(const struct dd_run *run, const struct dd_epoch_metrics *metrics) {
    double now = score(run->spec->metric, metrics), peak = score(run->spec->metric, &run->state.peak);
    return run->spec->selection == DD_SELECTION_ONE_SE && now >= peak - standard_error(peak, run->dev.rows) &&
           collapsed(run, metrics) == DD_ROLLBACK_NONE;
}

void dd_run_rank_epoch(struct dd_run *run, struct dd_epoch_metrics *metrics) {
    struct dd_run_state *state = &run->state;
    enum dd_metric by = run->spec->metric;
    bool better = state->epochs_done == 0 || score(by, metrics) > score(by, &state->peak);
    metrics->is_best = better || within_noise(run, metrics);
    if (better) {
        state->peak = *metrics;
    }
    if (metrics->is_best) {
        state->best = *metrics;
    }
}

void dd_run_log_kept(const struct dd_run *run) {
    const struct dd_run_state *state = &run->state;
    if (state->best.epoch != state->peak.epoch) {
        double kept = score(run->spec->metric, &state->best), peak = score(run->spec->metric, &state->peak);
        dd_run_log(run, DD_LOG_INFO,
                   "epoch %d is kept: its metric, %.4f, is within one standard error (%.4f) of that of epoch %d, %.4f",
                   state->best.epoch, kept, standard_error(peak, run->dev.rows), state->peak.epoch, peak);
    }
}

/* --- the guard ---------------------------------------------------------------------------------------------------- */

static bool on(const struct dd_run *run) {
    return run->spec->guard == DD_FLAG_YES;
}

static enum dd_status roll_back(struct dd_run *run, enum dd_rollback why, struct dd_error *err) {
    static const char *const reasons[] = {
        [DD_ROLLBACK_NONE] = "nothing",
        [DD_ROLLBACK_NOT_FINITE] = "loss or gradients are not finite",
        [DD_ROLLBACK_ONE_CLASS] = "one class is predicted for every dev row",
        [DD_ROLLBACK_F1_FELL] = "macro-F1 fell below 0.6 of the best epoch's",
    };
    struct dd_run_state *state = &run->state;
    int to = best_is_good(run) ? state->best.epoch : 0;
    enum dd_status status = to > 0 ? dd_run_load_best(run, err) : dd_student_weights(run, run->student, err);
    if (status != DD_OK) {
        return dd_error_prefix(err, "going back to epoch %d", to);
    }
    state->rollbacks++;
    state->restart_step = state->step;
    state->skipped_in_row = 0;
    state->rolled_back = why;
    state->rolled_back_to = to;
    dd_optimizer_restart(run->optimizer, dd_run_lr_scale(state));
    char target[48] = "the first weights";
    if (to > 0) {
        snprintf(target, sizeof target, "epoch %d", to);
    }
    dd_run_log(run, DD_LOG_WARNING,
               "rolled back to %s after step %lld: %s; lr is now %g of the schedule's (rollback %d of at most %d)",
               target, (long long)state->step, reasons[why], dd_run_lr_scale(state), state->rollbacks, ROLLBACKS);
    return DD_OK;
}

/* Exact for any state that a checkpoint may hold. */
double dd_run_lr_scale(const struct dd_run_state *state) {
    return ldexp(1.0, -state->rollbacks);
}

bool dd_run_skips(const struct dd_run *run) {
    return on(run) && (run->state.skipped_in_row + 1 < SKIPS_IN_ROW || run->state.rollbacks < ROLLBACKS);
}

enum dd_status dd_run_guard_step(struct dd_run *run, struct dd_error *err) {
    if (run->state.skipped_in_row == 1) {
        dd_run_log(run, DD_LOG_WARNING, "step %lld changed nothing: its loss or gradient is not finite",
                   (long long)run->state.step);
    }
    return run->state.skipped_in_row < SKIPS_IN_ROW ? DD_OK : roll_back(run, DD_ROLLBACK_NOT_FINITE, err);
}

enum dd_status dd_run_guard_epoch(struct dd_run *run, struct dd_error *err) {
    struct dd_run_state *state = &run->state;
    state->last.rollback = state->rolled_back;
    state->last.rollback_to = state->rolled_back_to;
    enum dd_status status = DD_OK;
    enum dd_rollback why = on(run) && !dd_run_ended(run) ? collapsed(run, &state->last) : DD_ROLLBACK_NONE;
    if (why != DD_ROLLBACK_NONE && state->rollbacks == ROLLBACKS) {
        dd_run_log(run, DD_LOG_WARNING, "epoch %d has collapsed again after %d rollbacks; the run goes on as it is",
                   state->last.epoch, ROLLBACKS);
    } else if (why != DD_ROLLBACK_NONE) {
        status = roll_back(run, why, err);
        state->last.rollback = why;
        state->last.rollback_to = state->rolled_back_to;
    }
    state->rolled_back = DD_ROLLBACK_NONE;
    state->rolled_back_to = 0;
    if (state->best.epoch == state->last.epoch) {
        state->best = state->last;
    }
    return status;
}
