/* train: a run from its spec to its exported students.
 *
 * dd_train sets the run up (lock, tokens, student, teacher's logits), takes up the newest whole state, then goes epoch
 * by epoch:
 *
 *   steps … → evaluate → best-<epoch>/ when better → guard → checkpoint (undelivered) → epoch callback → delivered
 *
 * Everything before the checkpoint is repeated to the same bits after a kill; the callback after it is repeated with
 * the very values that the checkpoint holds.  So the history that the callbacks store, keyed by epoch and step, has no
 * gap and nothing twice, wherever the process dies.  A stop request is looked at between steps and between batches of
 * an evaluation, never elsewhere.
 *
 * Threads: the caller's, and the team's inside the kernels.
 */
#include "engine/train.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKPOINT_SECONDS 600.0
#define SHUTDOWN_SECONDS 3.0
#define DISK_BYTES_PER_SECOND 150e6 /* assumed until a checkpoint has been timed */
#define EVALUATION_SEQUENCES 64

void dd_run_log(const struct dd_run *run, enum dd_log_level level, const char *fmt, ...) {
    if (!run->input->events.log) {
        return;
    }
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    run->input->events.log(run->input->events.context, level, line);
}

void dd_run_phase(const struct dd_run *run, const char *phase, double done) {
    if (run->input->events.phase) {
        run->input->events.phase(run->input->events.context, phase, done);
    }
}

double dd_run_lap(struct dd_run *run) {
    int64_t now = dd_clock_mono_us(), since = now - run->lap_us;
    run->lap_us = now;
    return (double)since / 1e6;
}

/* --- setting up ------------------------------------------------------------------------------------------------- */

static enum dd_status check_input(const struct dd_train_input *in, struct dd_error *err) {
    if (in->spec->task == DD_TASK_DISTILL && !in->base) {
        return dd_fail(err, DD_INVALID, "teacher_missing", "a distillation needs a teacher");
    }
    if (in->spec->task == DD_TASK_FINETUNE && in->spec->folds > 0 && in->base && in->base->info.fold.folds > 0 &&
        strcmp(in->base->info.fold.train_sha256, dd_dataset_split(in->dataset, DD_SPLIT_TRAIN)->sha256) == 0 &&
        (in->base->info.fold.folds != in->spec->folds || in->base->info.fold.fold != in->spec->fold)) {
        return dd_fail(err, DD_INVALID, "model_has_seen_fold",
                       "the starting model was fine-tuned without fold %d of %d, so it has seen rows of fold %d of %d; "
                       "start from an encoder",
                       in->base->info.fold.fold, in->base->info.fold.folds, in->spec->fold, in->spec->folds);
    }
    if (in->spec->task == DD_TASK_DISTILL && in->spec->whole_words > 0 && dd_spec_matches_tokens(in->spec)) {
        return dd_fail(
            err, DD_INVALID, "whole_words_invalid",
            "with whole words the student's tokens are not the teacher's, so neither their hidden states nor "
            "attention or relations can be matched");
    }
    bool int8 = (in->base && in->base->info.int8) || (in->init && in->init->info.int8);
    for (int i = 0; i < in->spec->n_teachers; i++) {
        int8 |= in->teachers[i] && in->teachers[i]->info.int8;
    }
    if (int8) {
        return dd_fail(err, DD_INVALID, "model_is_int8",
                       "an int8 model only answers; train with the model that it was made from");
    }
    if (dd_dataset_rows(in->dataset, DD_SPLIT_TRAIN) == 0 || dd_dataset_rows(in->dataset, DD_SPLIT_DEV) == 0) {
        return dd_fail(err, DD_INVALID, "split_empty", "the data set needs at least one train row and one dev row");
    }
    if (in->spec->unlabelled == DD_FLAG_YES && dd_dataset_rows(in->dataset, DD_SPLIT_UNLABELLED) == 0) {
        return dd_fail(err, DD_INVALID, "split_empty", "unlabelled is true, but the data set has no unlabelled rows");
    }
    int classes = dd_dataset_classes(in->dataset);
    if (classes < 2 || classes > DD_MAX_CLASSES) {
        return dd_fail(err, DD_INVALID, "classes_invalid", "the data set has %d classes; it needs 2 to %d", classes,
                       DD_MAX_CLASSES);
    }
    for (int c = 0; c < classes; c++) {
        if (strlen(dd_dataset_class(in->dataset, c)) >= sizeof in->base->info.labels[0]) {
            return dd_fail(err, DD_INVALID, "class_name_too_long", "class %d has a name of over %zu bytes", c + 1,
                           sizeof in->base->info.labels[0] - 1);
        }
    }
    return DD_OK;
}

static enum dd_status make_kernels(struct dd_run *run, struct dd_error *err) {
    const struct dd_spec *spec = run->spec;
    const struct dd_bert_config *config = &run->student->info.config;
    uint64_t tokens = DD_MAX(dd_packed_largest_batch(&run->train, spec->batch_size), (uint64_t)run->dev.longest);
    if (tokens > INT_MAX) {
        return dd_fail(err, DD_INVALID, "batch_too_large", "a batch of %d rows can have %llu tokens; lower batch_size",
                       spec->batch_size, (unsigned long long)tokens);
    }
    int sequences = DD_MIN(DD_MAX(spec->batch_size, EVALUATION_SEQUENCES), (int)tokens / 2);
    enum dd_status status = dd_gather_init(&run->gather, (int)tokens, sequences, err);
    if (status == DD_OK) {
        status = dd_bert_new(config, (int)tokens, sequences, spec->max_length, true, spec->precision, run->team,
                             &run->bert, err);
    }
    if (status == DD_OK) {
        dd_bert_set_frozen(run->bert, spec->optimizer.freeze_embeddings == DD_FLAG_YES);
        const struct dd_model *base = run->input->base;
        int projection = dd_match_projection(spec, base ? &base->info.config : NULL);
        status = dd_params_new_projected(config, projection, &run->grads, err);
    }
    if (status == DD_OK) {
        dd_params_expect_few_words(run->grads);
        status = dd_matching_init(run, (int)tokens, sequences, err);
    }
    if (status == DD_OK) {
        status = dd_optimizer_new(&spec->optimizer, run->student->params, config, run->steps, run->team,
                                  &run->optimizer, err);
    }
    return status;
}

static enum dd_status make_buffers(struct dd_run *run, struct dd_error *err) {
    size_t batch = (size_t)run->spec->batch_size * (size_t)run->n_classes, dev = run->dev.rows;
    run->order = dd_calloc(run->train.rows, sizeof *run->order);
    run->logits = dd_calloc(batch, sizeof(float));
    run->dlogits = dd_calloc(batch, sizeof(float));
    run->teacher_batch = dd_calloc(batch, sizeof(float));
    run->dev_logits = dd_calloc(dev, (size_t)run->n_classes * sizeof(float));
    run->dev_label = dd_calloc(dev, sizeof *run->dev_label);
    run->dev_score = dd_calloc(dev, sizeof *run->dev_score);
    if (!run->order || !run->logits || !run->dlogits || !run->teacher_batch || !run->dev_logits || !run->dev_label ||
        !run->dev_score) {
        return dd_fail_memory(err, run->train.rows * sizeof *run->order);
    }
    if (run->spec->class_weights == DD_CLASS_WEIGHTS_BALANCED) {
        return dd_class_weights(run->train.labels, run->train.rows, run->n_classes, &run->class_weight, err);
    }
    return DD_OK;
}

static enum dd_status set_up(struct dd_run *run, struct dd_error *err) {
    dd_run_phase(run, "tokenizing", 0.0);
    enum dd_status status = dd_student_new(run, &run->student, err);
    run->seconds.student = dd_run_lap(run);
    if (status == DD_OK) {
        status = dd_run_pack(run, err);
        run->seconds.tokens = dd_run_lap(run);
    }
    /* The teacher goes first: while it works the student's activations need not exist. */
    if (status == DD_OK && run->spec->task == DD_TASK_DISTILL) {
        status = dd_run_ask_teacher(run, err);
        dd_told_release(&run->told);
        run->seconds.teacher = dd_run_lap(run);
    }
    if (status == DD_OK) {
        status = make_kernels(run, err);
    }
    if (status == DD_OK) {
        status = make_buffers(run, err);
    }
    run->seconds.memory = dd_run_lap(run);
    return status;
}

static void log_ready(const struct dd_run *run) {
    const struct dd_run_seconds *s = &run->seconds;
    double all = (double)(dd_clock_mono_us() - run->began_us) / 1e6;
    char teacher[48] = "";
    if (run->spec->task == DD_TASK_DISTILL) {
        snprintf(teacher, sizeof teacher, "the teacher's logits %.2f, ", s->teacher);
    }
    dd_run_log(run, DD_LOG_INFO,
               "ready after %.2f s: first weights %.2f, tokens %.2f, %smemory %.2f, looking for a checkpoint %.2f", all,
               s->student, s->tokens, teacher, s->memory, s->resume);
}

static void run_release(struct dd_run *run) {
    dd_optimizer_free(run->optimizer);
    dd_bert_free(run->bert);
    dd_params_free(run->grads);
    dd_model_free(run->student);
    dd_packed_release(&run->train);
    dd_packed_release(&run->dev);
    dd_told_release(&run->told);
    dd_gather_release(&run->gather);
    dd_matching_release(&run->matching);
    dd_run_state_release(&run->state);
    free(run->teacher_train);
    free(run->teacher_dev);
    free(run->teacher_dev_label);
    free(run->teacher_dev_score);
    free(run->order);
    free(run->logits);
    free(run->dlogits);
    free(run->class_weight);
    free(run->teacher_batch);
    free(run->dev_logits);
    free(run->dev_label);
    free(run->dev_score);
    if (run->team) {
        dd_team_leave(run->team);
    }
    if (run->run_fd >= 0) {
        close(run->run_fd);
    }
}

/* --- callbacks -------------------------------------------------------------------------------------------------- */

static enum dd_status tell_reference(const struct dd_run *run, struct dd_error *err) {
    const struct dd_train_events *events = &run->input->events;
    if (!events->reference) {
        return DD_OK;
    }
    const struct dd_predictions teacher = {
        .n = run->dev.rows, .label = run->teacher_dev_label, .score = run->teacher_dev_score};
    return events->reference(events->context, run->dev.labels, run->dev.rows, run->teacher_dev ? &teacher : NULL, err);
}

static void tell_step(const struct dd_run *run, const struct dd_step_metrics *step) {
    if (run->input->events.step) {
        run->input->events.step(run->input->events.context, step);
    }
}

/* The epoch callback of state.last; then its steps need not be remembered any longer. */
static enum dd_status deliver_epoch(struct dd_run *run, struct dd_error *err) {
    const struct dd_train_events *events = &run->input->events;
    struct dd_run_state *state = &run->state;
    if (events->epoch) {
        const struct dd_predictions dev = {.n = state->n_dev, .label = state->dev_label, .score = state->dev_score};
        enum dd_status status = events->epoch(events->context, &state->last, &dev, err);
        if (status != DD_OK) {
            return status;
        }
    }
    state->delivered = true;
    state->n_steps = 0;
    return DD_OK;
}

/* What the process before may not have made durable. */
static enum dd_status repeat_pending(struct dd_run *run, struct dd_error *err) {
    for (size_t i = 0; i < run->state.n_steps; i++) {
        tell_step(run, &run->state.steps[i]);
    }
    return run->state.delivered ? DD_OK : deliver_epoch(run, err);
}

/* --- epochs ----------------------------------------------------------------------------------------------------- */

/* Whether a checkpoint can be expected to be on disk within the time that a shutdown leaves. */
static bool shutdown_checkpoint_fits(const struct dd_run *run) {
    double cost = run->checkpoint_cost_s;
    if (cost <= 0.0) {
        cost = (double)dd_checkpoint_bytes(&run->spec->optimizer, run->student->params->count,
                                           dd_optimizer_frozen(&run->spec->optimizer, run->student->params),
                                           run->dev.rows) /
               DISK_BYTES_PER_SECOND;
    }
    return cost < SHUTDOWN_SECONDS;
}

/* The end of a run that was asked to stop: keeps this very step. A checkpoint that cannot be written costs the work
 * since the one before, not the stop. */
static enum dd_status stop(struct dd_run *run, enum dd_stop why, struct dd_error *err) {
    static const char *const names[] = {"", "paused", "cancelled", "shut down"};
    int64_t deadline = 0;
    if (why == DD_STOP_SHUTDOWN) {
        deadline = dd_clock_mono_us() + (int64_t)(SHUTDOWN_SECONDS * 1e6);
    }
    struct dd_error fault = {0};
    if (deadline != 0 && !shutdown_checkpoint_fits(run)) {
        dd_run_log(run, DD_LOG_INFO, "no checkpoint for the shutdown, it would take too long");
    } else if (dd_run_save(run, deadline, &fault) != DD_OK) {
        dd_run_log(run, DD_LOG_WARNING, "stopping without a new checkpoint: %s", fault.message);
    }
    return dd_fail(err, DD_STOPPED, names[why][0] == 's' ? "shut_down" : names[why], "%s at step %lld of %lld",
                   names[why], (long long)run->state.step, (long long)run->steps);
}

/* The steps of the epoch that are still missing. */
static enum dd_status train_epoch(struct dd_run *run, struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    double every = in->checkpoint_seconds > 0.0 ? in->checkpoint_seconds : CHECKPOINT_SECONDS;
    while (run->state.epoch_step < run->steps_per_epoch) {
        enum dd_stop why = dd_cancel_requested(in->cancel);
        if (why != DD_STOP_NONE) {
            return stop(run, why, err);
        }
        if (dd_clock_mono_us() - run->checkpoint_at_us > (int64_t)(every * 1e6)) {
            enum dd_status status = dd_run_save(run, 0, err);
            if (status != DD_OK) {
                return status;
            }
        }
        struct dd_step_metrics step;
        enum dd_status status = dd_run_step(run, &step, err);
        if (status == DD_OK) {
            status = dd_run_state_add_step(&run->state, &step, err);
        }
        if (status != DD_OK) {
            return status;
        }
        tell_step(run, &step);
        status = dd_run_guard_step(run, err);
        if (status != DD_OK) {
            return status;
        }
        dd_run_phase(run, "training", (double)run->state.step / (double)run->steps);
    }
    return DD_OK;
}

/* Moves the state past the epoch whose metrics these are. */
static enum dd_status close_epoch(struct dd_run *run, struct dd_epoch_metrics *metrics, struct dd_error *err) {
    struct dd_run_state *state = &run->state;
    size_t rows = run->dev.rows;
    if (state->n_dev != rows) {
        free(state->dev_label);
        free(state->dev_score);
        state->n_dev = 0;
        state->dev_label = dd_calloc(rows, sizeof *state->dev_label);
        state->dev_score = dd_calloc(rows, sizeof *state->dev_score);
        if (!state->dev_label || !state->dev_score) {
            return dd_fail_memory(err, rows * sizeof *state->dev_label);
        }
        state->n_dev = rows;
    }
    memcpy(state->dev_label, run->dev_label, rows * sizeof *state->dev_label);
    memcpy(state->dev_score, run->dev_score, rows * sizeof *state->dev_score);
    dd_run_rank_epoch(run, metrics);
    state->last = *metrics;
    state->epochs_done = state->epoch;
    state->epoch++;
    state->epoch_step = 0;
    state->sum_loss = state->sum_kl = state->sum_ce = state->sum_ce_weight = 0.0;
    state->sum_hidden = state->sum_cls = state->sum_attention = state->sum_relation = 0.0;
    state->sum_rows = state->sum_tokens = state->sum_unlabelled = 0;
    state->epoch_seconds = 0.0;
    state->delivered = false;
    return DD_OK;
}

static enum dd_status end_epoch(struct dd_run *run, struct dd_error *err) {
    struct dd_epoch_metrics metrics;
    enum dd_status status = dd_run_evaluate(run, &metrics, err);
    enum dd_stop why = dd_cancel_requested(run->input->cancel);
    if (status == DD_STOPPED) {
        return stop(run, why, err);
    }
    if (status == DD_OK) {
        status = close_epoch(run, &metrics, err);
    }
    if (status == DD_OK && metrics.is_best) {
        status = dd_run_save_best(run, &metrics, err);
    }
    if (status == DD_OK) {
        status = dd_run_guard_epoch(run, err);
    }
    if (status == DD_OK) {
        status = dd_run_save(run, 0, err);
    }
    return status == DD_OK ? deliver_epoch(run, err) : status;
}

static enum dd_status run_epochs(struct dd_run *run, struct dd_error *err) {
    enum dd_status status = DD_OK;
    dd_run_phase(run, "training", (double)run->state.step / (double)run->steps);
    while (status == DD_OK && !dd_run_ended(run)) {
        status = train_epoch(run, err);
        if (status == DD_OK) {
            status = end_epoch(run, err);
        }
    }
    if (status == DD_OK && run->state.epochs_done < run->spec->epochs) {
        dd_run_log(run, DD_LOG_INFO, "stopped early at epoch %d, best was %d", run->state.epochs_done,
                   run->state.best.epoch);
    }
    if (status == DD_OK) {
        dd_run_log_kept(run);
    }
    return status;
}

static enum dd_status train(struct dd_run *run, struct dd_train_result *ret_result, struct dd_error *err) {
    bool done = false;
    enum dd_status status = dd_run_lock(run, err);
    if (status == DD_OK) {
        status = dd_run_identify(run, err);
    }
    if (status == DD_OK) {
        status = dd_run_was_finished(run, &done, ret_result, err);
    }
    if (status != DD_OK || done) {
        return status;
    }
    status = dd_team_join(run->input->pool, &run->team, err);
    if (status == DD_OK) {
        status = set_up(run, err);
    }
    if (status == DD_OK) {
        status = dd_run_resume(run, err);
        run->seconds.resume = dd_run_lap(run);
    }
    if (status == DD_OK) {
        log_ready(run);
    }
    if (status == DD_OK) {
        status = tell_reference(run, err);
    }
    if (status == DD_OK) {
        status = repeat_pending(run, err);
    }
    if (status == DD_OK) {
        status = run_epochs(run, err);
    }
    return status == DD_OK ? dd_run_finish(run, ret_result, err) : status;
}

enum dd_status dd_train(const struct dd_train_input *input, struct dd_train_result *ret_result, struct dd_error *err) {
    struct dd_run *run = dd_calloc(1, sizeof *run);
    if (!run) {
        return dd_fail_memory(err, sizeof *run);
    }
    run->input = input;
    run->spec = input->spec;
    run->n_classes = dd_dataset_classes(input->dataset);
    run->run_fd = -1;
    run->saved_step = -1;
    run->began_us = run->lap_us = dd_clock_mono_us();
    dd_run_state_init(&run->state);
    run->state.extent = dd_run_extent(input->spec);
    enum dd_status status = check_input(input, err);
    if (status == DD_OK) {
        status = train(run, ret_result, err);
    }
    run_release(run);
    free(run);
    return status;
}
