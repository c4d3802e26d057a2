/* The worker threads: claim from the queue, wait until the memory is there, train, record, tell, finish.
 *
 * One struct job a thread.  workers->lock guards the list of running jobs, the wake-up and the memory account; it is
 * held across claim and registration, so that whoever changes a state in storage and then calls dd_workers_signal
 * finds the job if storage said it was running.  job->lock guards what GETs read of a running job; it is held for
 * moments only.
 *
 * A failure of a job is the job's: whatever dd_train or storage answer, the thread goes on with the next.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/job.h"

#define RECORD_AGAIN_MS 1000

struct dd_workers {
    struct dd_daemon *daemon;
    pthread_mutex_t lock;
    pthread_cond_t wake;  /* new work, freed memory or stop; CLOCK_MONOTONIC */
    pthread_cond_t ended; /* a thread ended */
    bool stopping;
    uint64_t wakeups;      /* counts dd_workers_wake: no wake-up between claim and wait is lost */
    uint64_t memory_bytes; /* of the running jobs, by estimate */
    int count, started, alive;
    struct dd_job *jobs; /* [count] */
    pthread_t *threads;
};

static void wait_for(pthread_cond_t *condition, pthread_mutex_t *lock, int milliseconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += milliseconds / 1000;
    until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(condition, lock, &until);
}

enum dd_status dd_workers_new(struct dd_daemon *daemon, int count, struct dd_workers **ret_workers,
                              struct dd_error *err) {
    struct dd_workers *workers = dd_calloc(1, sizeof *workers);
    struct dd_job *jobs = dd_calloc((size_t)count, sizeof *jobs);
    pthread_t *threads = dd_calloc((size_t)count, sizeof *threads);
    if (workers == NULL || jobs == NULL || threads == NULL) {
        free(workers);
        free(jobs);
        free(threads);
        return dd_fail_memory(err, (size_t)count * sizeof *jobs);
    }
    *workers = (struct dd_workers){.daemon = daemon, .count = count, .jobs = jobs, .threads = threads};
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&workers->wake, &monotonic);
    pthread_cond_init(&workers->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&workers->lock, NULL);
    for (int i = 0; i < count; i++) {
        jobs[i].daemon = daemon;
        pthread_mutex_init(&jobs[i].lock, NULL);
    }
    *ret_workers = workers;
    return DD_OK;
}

void dd_workers_free(struct dd_workers *workers) {
    if (workers == NULL)
        return;
    for (int i = 0; i < workers->count; i++)
        pthread_mutex_destroy(&workers->jobs[i].lock);
    pthread_mutex_destroy(&workers->lock);
    pthread_cond_destroy(&workers->wake);
    pthread_cond_destroy(&workers->ended);
    free(workers->jobs);
    free(workers->threads);
    free(workers);
}

void dd_workers_wake(struct dd_workers *workers) {
    pthread_mutex_lock(&workers->lock);
    workers->wakeups++;
    pthread_cond_broadcast(&workers->wake);
    pthread_mutex_unlock(&workers->lock);
}

void dd_workers_signal(struct dd_workers *workers, int64_t experiment_id, enum dd_stop why) {
    pthread_mutex_lock(&workers->lock);
    for (int i = 0; i < workers->count; i++)
        if (workers->jobs[i].id == experiment_id)
            dd_cancel_request(&workers->jobs[i].cancel, why);
    pthread_cond_broadcast(&workers->wake); /* it may be waiting for memory */
    pthread_mutex_unlock(&workers->lock);
}

void dd_workers_progress(struct dd_workers *workers, int64_t experiment_id, struct dd_progress *ret_progress) {
    ret_progress->known = false;
    pthread_mutex_lock(&workers->lock);
    for (int i = 0; i < workers->count; i++) {
        struct dd_job *job = &workers->jobs[i];
        if (job->id != experiment_id)
            continue;
        pthread_mutex_lock(&job->lock);
        *ret_progress = job->progress;
        pthread_mutex_unlock(&job->lock);
    }
    pthread_mutex_unlock(&workers->lock);
}

int dd_workers_busy(struct dd_workers *workers) {
    int busy = 0;
    pthread_mutex_lock(&workers->lock);
    for (int i = 0; i < workers->count; i++)
        busy += workers->jobs[i].id != 0;
    pthread_mutex_unlock(&workers->lock);
    return busy;
}

int64_t dd_workers_stuck(struct dd_workers *workers, int64_t limit_us, int64_t *ret_quiet_us) {
    int64_t stuck = 0;
    pthread_mutex_lock(&workers->lock);
    for (int i = 0; i < workers->count && stuck == 0; i++) {
        struct dd_job *job = &workers->jobs[i];
        int64_t quiet_us = dd_clock_mono_us() - atomic_load(&job->advanced_us);
        if (job->id != 0 && quiet_us >= limit_us) {
            stuck = job->id;
            *ret_quiet_us = quiet_us;
        }
    }
    pthread_mutex_unlock(&workers->lock);
    return stuck;
}

double dd_workers_tokens_per_second(struct dd_workers *workers) {
    double sum = 0;
    pthread_mutex_lock(&workers->lock);
    for (int i = 0; i < workers->count; i++) {
        struct dd_job *job = &workers->jobs[i];
        pthread_mutex_lock(&job->lock);
        if (job->progress.step.step > 0 && isfinite(job->progress.step.tokens_per_second))
            sum += job->progress.step.tokens_per_second;
        pthread_mutex_unlock(&job->lock);
    }
    pthread_mutex_unlock(&workers->lock);
    return sum;
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

/* Waits until the job's estimate fits beside those that run.  A job alone always starts: that it fits at all was
 * decided at submission. */
static void reserve_memory(struct dd_workers *workers, struct dd_job *job, uint64_t bytes) {
    uint64_t limit = workers->daemon->memory_limit_bytes;
    pthread_mutex_lock(&workers->lock);
    bool told = false;
    while (workers->memory_bytes > 0 && (bytes > limit || workers->memory_bytes > limit - bytes) &&
           dd_cancel_requested(&job->cancel) == DD_STOP_NONE) {
        if (!told) {
            pthread_mutex_unlock(&workers->lock);
            dd_job_phase(job, "waiting for memory", 0);
            told = true;
            pthread_mutex_lock(&workers->lock);
            continue;
        }
        dd_job_advance(job);
        wait_for(&workers->wake, &workers->lock, 1000);
    }
    workers->memory_bytes += bytes;
    job->memory_bytes = bytes;
    pthread_mutex_unlock(&workers->lock);
}

static void release_memory(struct dd_workers *workers, struct dd_job *job) {
    pthread_mutex_lock(&workers->lock);
    workers->memory_bytes -= job->memory_bytes;
    job->memory_bytes = 0;
    pthread_cond_broadcast(&workers->wake);
    pthread_mutex_unlock(&workers->lock);
}

static uint64_t estimate_memory(struct dd_daemon *daemon, const struct dd_setup *setup) {
    struct dd_train_estimate estimate;
    struct dd_error err;
    struct dd_bert_config teachers[DD_MAX_TEACHERS];
    struct dd_spec *spec = dd_calloc(1, sizeof *spec);
    if (spec == NULL)
        return 0;
    *spec = setup->spec;
    for (int i = 0; i < spec->n_teachers; i++)
        teachers[i] = setup->teachers[i]->info.config;
    if (setup->vocab != NULL) { /* its lines are at least two bytes each: an upper bound is good enough here */
        spec->vocab_size = 0;
        for (const char *p = setup->vocab; *p != '\0'; p++)
            spec->vocab_size += *p == '\n';
    }
    enum dd_status status =
        dd_train_estimate(spec, setup->dataset->dataset, setup->base != NULL ? &setup->base->info.config : NULL,
                          teachers, daemon->n_threads, &estimate, &err);
    free(spec);
    return status == DD_OK ? estimate.memory_bytes : 0;
}

/* --- one job ------------------------------------------------------------------------------------------------------ */

/* Loads and trains.  The result is DD_OK, DD_STOPPED or a failure of this job. */
static enum dd_status train(struct dd_workers *workers, struct dd_job *job, struct dd_train_result *result,
                            struct dd_error *err) {
    struct dd_daemon *daemon = workers->daemon;
    struct dd_setup *setup = dd_calloc(1, sizeof *setup);
    char run_dir[PATH_MAX], title[1200];
    if (setup == NULL)
        return dd_fail_memory(err, sizeof *setup);
    dd_job_phase(job, "loading", 0);
    int64_t start = dd_clock_mono_us();
    enum dd_status status = dd_job_begin(job, err);
    if (status == DD_OK)
        status = dd_run_dir(daemon, job->id, run_dir, err);
    if (status == DD_OK)
        status = dd_setup_load(daemon, job->experiment.spec_json, setup, err);
    if (status == DD_OK) {
        reserve_memory(workers, job, estimate_memory(daemon, setup));
        job->dataset = setup->dataset->dataset;
        dd_job_logf(job, DD_LOG_INFO, "data set and models opened in %.2f s",
                    (double)(dd_clock_mono_us() - start) / 1e6);
        bool named = job->experiment.name != NULL && job->experiment.name[0] != '\0';
        snprintf(title, sizeof title, named ? "%s (experiment %" PRId64 ")" : "%sexperiment %" PRId64,
                 named ? job->experiment.name : "", job->id);
        struct dd_train_input input = {.spec = &setup->spec,
                                       .dataset = setup->dataset->dataset,
                                       .base = setup->base,
                                       .init = setup->init,
                                       .vocab = setup->vocab,
                                       .vocab_bytes = setup->vocab_bytes,
                                       .vocab_options = setup->vocab_options,
                                       .pool = daemon->pool,
                                       .run_dir = run_dir,
                                       .cache_dir = daemon->cache_dir,
                                       .cancel = &job->cancel,
                                       .checkpoint_seconds = (double)daemon->options->checkpoint_seconds,
                                       .card_title = title,
                                       .events = dd_job_events(job)};
        memcpy(input.teachers, setup->teachers, sizeof setup->teachers);
        status = dd_train(&input, result, err);
        job->dataset = NULL;
        release_memory(workers, job);
        dd_setup_release(daemon, setup);
    }
    free(setup);
    return status;
}

static enum dd_status finish_well(struct dd_job *job, const struct dd_train_result *result, struct dd_error *err) {
    char name[DD_NAME_BYTES];
    enum dd_status status = dd_complete_run(job->daemon, &job->experiment, result, name, err);
    if (status != DD_OK)
        return dd_error_prefix(err, "the result could not be registered as a model");
    dd_job_logf(job, DD_LOG_INFO, "finished: best epoch %d, accuracy %.4f, macro F1 %.4f; registered as model %s",
                result->best_epoch, result->best.accuracy, result->best.macro_f1, name);
    return DD_OK;
}

static enum dd_status finish_stopped(struct dd_job *job, struct dd_error *err) {
    switch (dd_cancel_requested(&job->cancel)) {
    case DD_STOP_PAUSE:
        if (!job->at_rung)
            dd_job_logf(job, DD_LOG_INFO, "paused");
        return dd_storage_experiment_finish(job->daemon->storage, job->id, DD_PAUSED, NULL, NULL, err);
    case DD_STOP_CANCEL:
        dd_job_logf(job, DD_LOG_INFO, "cancelled");
        return dd_storage_experiment_finish(job->daemon->storage, job->id, DD_CANCELLED, NULL, NULL, err);
    default:
        dd_job_logf(job, DD_LOG_INFO, "the daemon stops; the run goes on when it is back");
        return dd_storage_requeue(job->daemon->storage, job->id, err);
    }
}

static bool may_pass(enum dd_status status) {
    return status == DD_NO_SPACE || status == DD_IO || status == DD_BUSY || status == DD_NO_MEMORY;
}

/* A failure that the database does not take (its disk is full, too) would leave a run that says it trains and does not:
 * tries again until it is recorded or the daemon stops; then recovery finds the run. */
static void record_failure(struct dd_workers *workers, struct dd_job *job, const struct dd_error *err) {
    bool told = false;
    dd_job_logf(job, DD_LOG_ERROR, "failed: %s", err->message);
    for (;;) {
        struct dd_error failure;
        enum dd_status status = dd_storage_experiment_finish(workers->daemon->storage, job->id, DD_FAILED, err->code,
                                                             err->message, &failure);
        if (status == DD_OK)
            return;
        if (!told)
            dd_log(DD_LOG_ERROR, "worker", "experiment %" PRId64 " failed and that could not be recorded%s: %s",
                   job->id, may_pass(status) ? " yet" : "", failure.message);
        told = true;
        dd_job_advance(job);
        pthread_mutex_lock(&workers->lock);
        if (may_pass(status) && !workers->stopping)
            wait_for(&workers->wake, &workers->lock, RECORD_AGAIN_MS);
        bool again = may_pass(status) && !workers->stopping;
        pthread_mutex_unlock(&workers->lock);
        if (!again)
            return;
    }
}

static void run_job(struct dd_workers *workers, struct dd_job *job) {
    struct dd_train_result *result = dd_calloc(1, sizeof *result);
    struct dd_error err = {0};
    enum dd_status status = dd_storage_experiment_get(workers->daemon->storage, job->id, &job->experiment, &err);
    bool have_experiment = status == DD_OK;
    if (status == DD_OK) {
        dd_publish_status(workers->daemon, job->id);
        dd_job_logf(job, DD_LOG_INFO, job->experiment.attempts > 1 ? "attempt %d" : "started",
                    job->experiment.attempts);
        status = result != NULL ? train(workers, job, result, &err) : dd_fail_memory(&err, sizeof *result);
    }
    dd_job_flush(job);
    if (status == DD_OK)
        status = finish_well(job, result, &err);
    else if (status == DD_STOPPED)
        status = finish_stopped(job, &err);
    if (status != DD_OK)
        record_failure(workers, job, &err);
    dd_job_clear(job);
    if (have_experiment)
        dd_experiment_release(&job->experiment);
    free(result);
}

/* The next job into *job; false when the daemon stops. */
static bool next_job(struct dd_workers *workers, struct dd_job *job) {
    pthread_mutex_lock(&workers->lock);
    while (!workers->stopping) {
        uint64_t wakeups = workers->wakeups;
        int64_t id = 0;
        struct dd_error err;
        enum dd_status status = dd_storage_claim(workers->daemon->storage, &id, &err);
        if (status == DD_OK && id != 0) {
            job->id = id;
            dd_job_advance(job);
            atomic_store(&job->cancel.requested, DD_STOP_NONE);
            pthread_mutex_unlock(&workers->lock);
            return true;
        }
        pthread_mutex_unlock(&workers->lock); /* an empty queue may have ended a sweep; telling takes the lock */
        dd_sweep_news_tell(workers->daemon);
        pthread_mutex_lock(&workers->lock);
        if (status != DD_OK) {
            dd_log(DD_LOG_ERROR, "worker", "cannot read the queue, will try again: %s", err.message);
            wait_for(&workers->wake, &workers->lock, 2000);
        }
        while (status == DD_OK && wakeups == workers->wakeups && !workers->stopping)
            pthread_cond_wait(&workers->wake, &workers->lock);
    }
    pthread_mutex_unlock(&workers->lock);
    return false;
}

static void *worker_main(void *argument) {
    struct dd_job *job = argument;
    struct dd_workers *workers = job->daemon->workers;
    pthread_setname_np(pthread_self(), "worker");
    dd_thread_give_way();
    while (next_job(workers, job)) {
        int64_t id = job->id;
        dd_sweep_news_tell(workers->daemon); /* what claiming it has decided */
        run_job(workers, job);
        malloc_trim(0); /* what training had freed goes back to the machine */
        pthread_mutex_lock(&workers->lock);
        job->id = 0;
        pthread_mutex_unlock(&workers->lock);
        dd_publish_status(workers->daemon, id);
    }
    pthread_mutex_lock(&workers->lock);
    workers->alive--;
    pthread_cond_broadcast(&workers->ended);
    pthread_mutex_unlock(&workers->lock);
    return NULL;
}

/* --- start and stop ----------------------------------------------------------------------------------------------- */

enum dd_status dd_workers_start(struct dd_workers *workers, struct dd_error *err) {
    for (int i = 0; i < workers->count; i++) {
        pthread_mutex_lock(&workers->lock);
        int failed = pthread_create(&workers->threads[i], NULL, worker_main, &workers->jobs[i]);
        if (failed == 0) {
            workers->started++;
            workers->alive++;
        }
        pthread_mutex_unlock(&workers->lock);
        if (failed != 0)
            return dd_fail_errno(err, failed, "cannot start worker %d", i + 1);
    }
    return DD_OK;
}

bool dd_workers_stop(struct dd_workers *workers, int wait_ms) {
    pthread_mutex_lock(&workers->lock);
    workers->stopping = true;
    pthread_cond_broadcast(&workers->wake);
    for (int i = 0; i < workers->count; i++)
        if (workers->jobs[i].id != 0)
            dd_cancel_request(&workers->jobs[i].cancel, DD_STOP_SHUTDOWN);
    if (workers->alive > 0)
        wait_for(&workers->ended, &workers->lock, wait_ms);
    bool gone = workers->alive == 0;
    pthread_mutex_unlock(&workers->lock);
    for (int i = 0; gone && i < workers->started; i++)
        pthread_join(workers->threads[i], NULL);
    if (gone)
        workers->started = 0;
    return gone;
}

void dd_workers_abandon(struct dd_workers *workers) {
    pthread_mutex_lock(&workers->lock);
    for (int i = 0; i < workers->count; i++) {
        int64_t id = workers->jobs[i].id;
        struct dd_error err;
        if (id == 0)
            continue;
        enum dd_status status = dd_storage_requeue(workers->daemon->storage, id, &err);
        dd_log(DD_LOG_WARNING, "worker", "experiment %" PRId64 " did not stop in time%s%s", id,
               status == DD_OK ? "; it goes on from its last checkpoint" : " and could not be queued: ",
               status == DD_OK ? "" : err.message);
    }
    pthread_mutex_unlock(&workers->lock);
}
