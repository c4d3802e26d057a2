/* The events of dd_train: into storage, and out to the readers of events.
 *
 * Steps are buffered.  They go to storage with their epoch in one transaction, and in long epochs every two seconds;
 * they are sent at most four times a second, thinned to a few points that keep the extremes.  All of this runs on the
 * worker's thread; a slow reader of events never holds it up.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/job.h"

#define FLUSH_US 2000000
#define SEND_US 250000
#define SEND_POINTS 4
#define FIRST_STEPS 256

void dd_job_logf(struct dd_job *job, enum dd_log_level level, const char *fmt, ...) {
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    dd_log(level, "worker", "experiment %" PRId64 ": %s", job->id, message);
    struct dd_log_row row = {.time_ms = dd_clock_wall_ms(), .level = level, .message = message};
    struct dd_error err;
    if (dd_storage_log_put(job->daemon->storage, job->id, level, message, &row.seq, &err) != DD_OK)
        dd_log(DD_LOG_WARNING, "worker", "experiment %" PRId64 ": a log line was not kept: %s", job->id, err.message);
    else
        dd_publish(job->daemon, "log", job->id, dd_log_json(&row));
}

void dd_job_advance(struct dd_job *job) {
    atomic_store(&job->advanced_us, dd_clock_mono_us());
}

void dd_job_phase(struct dd_job *job, const char *phase, double done) {
    dd_job_advance(job);
    pthread_mutex_lock(&job->lock);
    bool changed = strcmp(job->progress.phase, phase) != 0;
    job->progress.known = true;
    snprintf(job->progress.phase, sizeof job->progress.phase, "%s", phase);
    job->progress.phase_done = done;
    struct dd_step_metrics step = job->progress.step;
    pthread_mutex_unlock(&job->lock);
    if (!changed)
        return;
    struct dd_error err;
    if (step.step > 0 &&
        dd_storage_set_progress(job->daemon->storage, job->id, phase, step.step, step.steps, step.eta_seconds,
                                step.tokens_per_second, step.elapsed_seconds, &err) != DD_OK)
        dd_log(DD_LOG_WARNING, "worker", "experiment %" PRId64 ": progress was not kept: %s", job->id, err.message);
    dd_publish_status(job->daemon, job->id);
}

static void send_steps(struct dd_job *job) {
    size_t n = job->n_steps - job->n_sent;
    struct dd_step_row few[64];
    if (n == 0)
        return;
    /* Of a long stretch the newest 64 × stride rows are looked at; storage has them all. */
    size_t stride = (n + DD_ARRAY_LEN(few) - 1) / DD_ARRAY_LEN(few), count = 0;
    for (size_t i = job->n_sent; i < job->n_steps; i += stride)
        few[count++] = job->steps[DD_MIN(i + stride - 1, job->n_steps - 1)];
    count = dd_steps_reduce(few, NULL, count, SEND_POINTS);
    cJSON *json = cJSON_CreateObject(), *rows = cJSON_AddArrayToObject(json, "steps");
    for (size_t i = 0; i < count; i++)
        cJSON_AddItemToArray(rows, dd_step_json(&few[i]));
    pthread_mutex_lock(&job->lock);
    struct dd_step_metrics step = job->progress.step;
    pthread_mutex_unlock(&job->lock);
    cJSON *progress = cJSON_AddObjectToObject(json, "progress");
    cJSON_AddNumberToObject(progress, "epoch", step.epoch - 1);
    cJSON_AddNumberToObject(progress, "epochs", step.epochs);
    cJSON_AddNumberToObject(progress, "step", (double)step.step);
    cJSON_AddNumberToObject(progress, "steps", (double)step.steps);
    dd_put_number(progress, "eta_seconds", step.eta_seconds);
    dd_put_number(progress, "tokens_per_second", step.tokens_per_second);
    dd_put_number(progress, "elapsed_seconds", step.elapsed_seconds);
    dd_publish(job->daemon, "step", job->id, json);
    job->n_sent = job->n_steps;
    job->sent_us = dd_clock_mono_us();
}

static void flush_steps(struct dd_job *job) {
    struct dd_error err;
    struct dd_storage *storage = job->daemon->storage;
    pthread_mutex_lock(&job->lock);
    struct dd_progress p = job->progress;
    pthread_mutex_unlock(&job->lock);
    enum dd_status status = dd_storage_steps_put(storage, job->id, job->steps, job->n_steps, &err);
    if (status == DD_OK)
        status = dd_storage_set_progress(storage, job->id, p.phase, p.step.step, p.step.steps, p.step.eta_seconds,
                                         p.step.tokens_per_second, p.step.elapsed_seconds, &err);
    if (status != DD_OK) { /* the epoch's transaction will try again and decides */
        dd_log(DD_LOG_WARNING, "worker", "experiment %" PRId64 ": steps were not kept yet: %s", job->id, err.message);
        job->flushed_us = dd_clock_mono_us();
        return;
    }
    job->n_steps = job->n_sent = 0;
    job->flushed_us = dd_clock_mono_us();
}

static bool grow_steps(struct dd_job *job, size_t cap) {
    struct dd_step_row *grown = dd_realloc_array(job->steps, cap, sizeof *grown);
    if (grown == NULL)
        return false;
    job->steps = grown;
    job->cap_steps = cap;
    return true;
}

enum dd_status dd_job_begin(struct dd_job *job, struct dd_error *err) {
    return grow_steps(job, FIRST_STEPS) ? DD_OK : dd_fail_memory(err, FIRST_STEPS * sizeof *job->steps);
}

static void keep_step(struct dd_job *job, const struct dd_step_metrics *step) {
    if (job->n_steps == job->cap_steps && !grow_steps(job, 2 * job->cap_steps))
        flush_steps(job); /* no memory: storage takes them early */
    if (job->n_steps == job->cap_steps) {
        if (!job->lost_steps)
            dd_log(DD_LOG_WARNING, "worker", "experiment %" PRId64 ": no memory to keep every step", job->id);
        job->lost_steps = true;
        return;
    }
    job->steps[job->n_steps++] = (struct dd_step_row){.step = step->step,
                                                      .epoch = step->epoch,
                                                      .loss = step->loss,
                                                      .kl = step->kl,
                                                      .ce = step->ce,
                                                      .lr = step->lr,
                                                      .grad_norm = step->grad_norm,
                                                      .elapsed_seconds = step->elapsed_seconds,
                                                      .tokens_per_second = step->tokens_per_second};
}

static void on_step(void *context, const struct dd_step_metrics *step) {
    struct dd_job *job = context;
    dd_job_advance(job);
    job->daemon->steps++;
    pthread_mutex_lock(&job->lock);
    job->progress.step = *step;
    pthread_mutex_unlock(&job->lock);
    keep_step(job, step);
    int64_t now = dd_clock_mono_us();
    if (now - job->sent_us >= SEND_US)
        send_steps(job);
    if (now - job->flushed_us >= FLUSH_US) {
        send_steps(job);
        flush_steps(job);
    }
}

/* A copy that storage can read: its sets own their arrays. */
static enum dd_status copy_predictions(const struct dd_predictions *from, struct dd_prediction_set *ret_set,
                                       struct dd_error *err) {
    struct dd_prediction_set set = {
        .n = from->n, .label = dd_calloc(from->n, sizeof *set.label), .score = dd_calloc(from->n, sizeof *set.score)};
    if (set.label == NULL || set.score == NULL) {
        dd_prediction_set_release(&set);
        return dd_fail_memory(err, from->n * (sizeof *set.label + sizeof *set.score));
    }
    memcpy(set.label, from->label, from->n * sizeof *set.label);
    memcpy(set.score, from->score, from->n * sizeof *set.score);
    *ret_set = set;
    return DD_OK;
}

static enum dd_status on_epoch(void *context, const struct dd_epoch_metrics *m, const struct dd_predictions *dev,
                               struct dd_error *err) {
    struct dd_job *job = context;
    struct dd_epoch_row row = {.epoch = m->epoch,
                               .train_loss = m->train_loss,
                               .train_kl = m->train_kl,
                               .train_ce = m->train_ce,
                               .dev_loss = m->dev_loss,
                               .dev_kl = m->dev_kl,
                               .dev_ce = m->dev_ce,
                               .accuracy = m->accuracy,
                               .macro_precision = m->macro_precision,
                               .macro_recall = m->macro_recall,
                               .macro_f1 = m->macro_f1,
                               .weighted_precision = m->weighted_precision,
                               .weighted_recall = m->weighted_recall,
                               .weighted_f1 = m->weighted_f1,
                               .teacher_agreement = m->teacher_agreement,
                               .lr = m->lr,
                               .seconds = m->seconds,
                               .elapsed_seconds = m->elapsed_seconds,
                               .tokens_per_second = m->tokens_per_second,
                               .train_hidden = m->train_hidden,
                               .train_cls = m->train_cls,
                               .train_attention = m->train_attention,
                               .train_relation = m->train_relation,
                               .is_best = m->is_best,
                               .rollback = (int)m->rollback,
                               .rollback_to = m->rollback_to,
                               .attempt = job->experiment.attempts,
                               .recorded_ms = dd_clock_wall_ms()};
    send_steps(job);
    struct dd_prediction_set set;
    enum dd_status status = copy_predictions(dev, &set, err);
    if (status != DD_OK)
        return status;
    bool stop = false;
    dd_job_advance(job);
    status = dd_storage_epoch_put(job->daemon->storage, job->id, &row, &set, job->steps, job->n_steps, &stop, err);
    dd_prediction_set_release(&set);
    if (status != DD_OK)
        return status;
    if (stop) { /* storage has it as a wish to pause, so a kill before the run has stopped changes nothing */
        job->at_rung = true;
        dd_cancel_request(&job->cancel, DD_STOP_PAUSE);
    }
    job->daemon->epochs++;
    job->n_steps = job->n_sent = 0;
    job->flushed_us = dd_clock_mono_us();
    dd_publish_epoch(job->daemon, job->id, &row);
    if (stop)
        dd_publish_status(job->daemon, job->id);
    dd_sweep_news_tell(job->daemon);
    return DD_OK;
}

static enum dd_status put_teacher_scores(struct dd_job *job, const int32_t *gold, const struct dd_predictions *teacher,
                                         struct dd_error *err) {
    struct dd_report report;
    enum dd_status status =
        dd_report_compute(gold, teacher->label, teacher->n, dd_dataset_classes(job->dataset), false, &report, err);
    if (status != DD_OK)
        return status;
    const struct dd_scores scores = {.accuracy = report.accuracy,
                                     .macro_precision = report.macro.precision,
                                     .macro_recall = report.macro.recall,
                                     .macro_f1 = report.macro.f1,
                                     .weighted_f1 = report.weighted.f1,
                                     .dev_loss = NAN,
                                     .train_loss = NAN};
    dd_report_release(&report);
    return dd_storage_set_teacher_scores(job->daemon->storage, job->id, &scores, err);
}

static enum dd_status on_reference(void *context, const int32_t *gold, size_t n, const struct dd_predictions *teacher,
                                   struct dd_error *err) {
    struct dd_job *job = context;
    cJSON *classes = cJSON_CreateArray();
    for (int i = 0; i < dd_dataset_classes(job->dataset); i++)
        cJSON_AddItemToArray(classes, cJSON_CreateString(dd_dataset_class(job->dataset, i)));
    DD_CLEANUP(dd_free_ptr) char *text = cJSON_PrintUnformatted(classes);
    cJSON_Delete(classes);
    struct dd_prediction_set set = {0};
    enum dd_status status = text == NULL ? dd_fail_json(err) : DD_OK;
    if (status == DD_OK && teacher != NULL)
        status = copy_predictions(teacher, &set, err);
    if (status == DD_OK)
        status = dd_storage_reference_put(job->daemon->storage, job->id, text, gold, n, &set, err);
    if (status == DD_OK && teacher != NULL)
        status = put_teacher_scores(job, gold, teacher, err);
    dd_prediction_set_release(&set);
    if (status == DD_OK)
        dd_publish_status(job->daemon, job->id);
    return status;
}

static void on_log(void *context, enum dd_log_level level, const char *message) {
    dd_job_logf(context, level, "%s", message);
}

static void on_phase(void *context, const char *phase, double done) {
    dd_job_phase(context, phase, done);
}

struct dd_train_events dd_job_events(struct dd_job *job) {
    job->flushed_us = job->sent_us = dd_clock_mono_us();
    return (struct dd_train_events){.context = job,
                                    .step = on_step,
                                    .epoch = on_epoch,
                                    .reference = on_reference,
                                    .log = on_log,
                                    .phase = on_phase};
}

void dd_job_flush(struct dd_job *job) {
    pthread_mutex_lock(&job->lock);
    bool stepped = job->progress.step.step > 0;
    pthread_mutex_unlock(&job->lock);
    if (!stepped)
        return;
    send_steps(job);
    flush_steps(job);
}

void dd_job_clear(struct dd_job *job) {
    free(job->steps);
    job->steps = NULL;
    job->n_steps = job->cap_steps = job->n_sent = 0;
    job->lost_steps = job->at_rung = false;
    pthread_mutex_lock(&job->lock);
    memset(&job->progress, 0, sizeof job->progress);
    pthread_mutex_unlock(&job->lock);
}
