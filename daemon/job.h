/* A running experiment: what dd_train tells is recorded in storage and sent to whoever listens.  Private to worker.c
 * and job.c.
 */
#ifndef DD_DAEMON_JOB_H
#define DD_DAEMON_JOB_H

#include <pthread.h>

#include "daemon/daemon.h"

struct dd_job {
    struct dd_daemon *daemon;
    int64_t id; /* 0: idle; guarded by the workers' lock */
    struct dd_cancel cancel;
    struct dd_experiment experiment; /* as it was when it was claimed */
    const struct dd_dataset *dataset;
    uint64_t memory_bytes;

    pthread_mutex_t lock;
    struct dd_progress progress;     /* guarded by lock */
    atomic_int_fast64_t advanced_us; /* mono: the last sign of life (dd_job_advance) */

    /* Only the worker's thread: steps that are not yet in storage, and those not yet sent. */
    struct dd_step_row *steps;
    size_t n_steps, cap_steps, n_sent;
    int64_t flushed_us, sent_us;
    bool lost_steps; /* said once that a step could not be kept */
    bool at_rung;    /* its sweep stopped it: the log says so already */
};

enum dd_status dd_job_begin(struct dd_job *job, struct dd_error *err) DD_MUST_CHECK; /* room for steps */
struct dd_train_events dd_job_events(struct dd_job *job);
void dd_job_advance(struct dd_job *job); /* the run has got on: the watchdog is fed as long as this is called */
void dd_job_phase(struct dd_job *job, const char *phase, double done);
void dd_job_logf(struct dd_job *job, enum dd_log_level level, const char *fmt, ...) DD_PRINTF(3, 4);
/* All steps and the progress into storage: before the state changes, so that who sees the new state sees how far it
 * came. */
void dd_job_flush(struct dd_job *job);
void dd_job_clear(struct dd_job *job); /* after the run: frees what was buffered */

#endif
