/* storage: SQLite.  Schema and migrations, the queue, the history.  Knows what an experiment is, not how it trains.
 *
 * One read-write connection behind one lock and one read-only connection behind another (Debian 12's SQLite 3.40 must
 * not have two writers in WAL mode).  WAL, synchronous=FULL, foreign_keys=ON.  Every function may be called from any
 * thread; none waits longer than a commit.  State changes are conditional on the old state, so that of two racing
 * changes one wins. Records returned belong to the caller and are released with their _release function.
 */
#ifndef DD_STORAGE_H
#define DD_STORAGE_H

#include "base/base.h"

struct dd_storage;
enum dd_status dd_storage_open(const char *path, struct dd_storage **ret_storage, struct dd_error *err)
    DD_MUST_CHECK; /* creates, migrates; refuses a newer schema and a second process (flock on <path>.lock) */
void dd_storage_close(struct dd_storage *storage); /* checkpoints the WAL */
/* Gives out the name of a new directory: a series of this start and a number in it, never the same again. */
enum dd_status dd_storage_directory_begin(struct dd_storage *storage, uint32_t *ret_series, int64_t *ret_number,
                                          struct dd_error *err) DD_MUST_CHECK;
/* Whether this database gave that one out. */
enum dd_status dd_storage_directory_known(struct dd_storage *storage, uint32_t series, int64_t number, bool *ret_known,
                                          struct dd_error *err) DD_MUST_CHECK;
/* The highest id that an experiment ever had; 0: there was none.  And: no id up to this one is given any more. */
enum dd_status dd_storage_experiment_highest(struct dd_storage *storage, int64_t *ret_id,
                                             struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_experiment_skip(struct dd_storage *storage, int64_t id, struct dd_error *err) DD_MUST_CHECK;
/* A number that grows with every transaction that changed a row, before the call that made it returns. */
uint64_t dd_storage_revision(const struct dd_storage *storage);
enum dd_status dd_storage_ping(struct dd_storage *storage,
                               struct dd_error *err) DD_MUST_CHECK; /* for readyz: can read and write */
int dd_storage_schema_version(struct dd_storage *storage);

/* From outside, also while another process has the storage open: the whole database as it is at one moment, into a new
 * file (not yet fsynced); and what PRAGMA integrity_check finds (*ret_faults NULL: nothing; the caller frees). */
enum dd_status dd_storage_copy(const char *from, const char *to, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_check(const char *path, char **ret_faults, struct dd_error *err) DD_MUST_CHECK;

enum dd_state { DD_QUEUED = 0, DD_RUNNING, DD_PAUSED, DD_FINISHED, DD_FAILED, DD_CANCELLED, DD_STATE_COUNT };
const char *dd_state_name(enum dd_state state);
bool dd_state_parse(const char *name, enum dd_state *ret_state) DD_MUST_CHECK;

/* Doubles are NAN where unknown (NULL in SQL), texts NULL, times 0. */
struct dd_scores {
    int epoch;
    double accuracy, macro_precision, macro_recall, macro_f1, weighted_f1, dev_loss, train_loss;
};
/* What makes a retry of a submission safe: key and request hash are stored in the very transaction that inserts, so
 * that a daemon that dies before it has answered still knows, after its restart, what the key has made. */
struct dd_claim {
    const char *key, *request_hash; /* borrowed; key NULL: none */
};

struct dd_experiment {
    int64_t id;
    int64_t revision;               /* grows with every change of the row: ETags */
    char *name, *notes, *tags_json; /* tags_json: JSON array of strings */
    enum dd_state state;
    bool pause_requested, cancel_requested; /* while running */
    int priority;
    char *spec_json; /* resolved */
    char spec_hash[DD_SHA256_HEX_BYTES];
    char *task, *dataset, *teacher, *base_model, *optimizer; /* columns for filters; teacher/base_model "" if none */
    int layers, heads, hidden_size;
    double temperature, alpha, lr;
    int64_t created_ms, started_ms, finished_ms; /* started: of the first attempt */
    int attempts;                                /* times it was started */
    int crashes; /* times the daemon died under it since it was last queued by a person */
    int epochs, epochs_done;
    int64_t steps, steps_done;
    double eta_seconds, tokens_per_second, elapsed_seconds;
    char *phase;
    struct dd_scores best, last, teacher_scores; /* epoch 0: none yet */
    char *model_name;                            /* registered result */
    int64_t model_parameters, model_bytes;
    char *error_code, *error_message;
    int64_t sweep_id;      /* 0: none */
    int sweep_point;       /* 0-based place of its point in that sweep */
    char *stopped;         /* why its sweep stopped it, "asha rung 2"; NULL if it did not */
    struct dd_claim claim; /* insert alone */
};
void dd_experiment_release(struct dd_experiment *experiment);

/* id, revision, created_ms are set by the insert; state is queued.  Returns the new id. */
enum dd_status dd_storage_experiment_insert(struct dd_storage *storage, const struct dd_experiment *experiment,
                                            int64_t *ret_id, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_experiment_get(struct dd_storage *storage, int64_t id, struct dd_experiment *ret_experiment,
                                         struct dd_error *err) DD_MUST_CHECK; /* DD_NOT_FOUND */
struct dd_experiment_query {
    unsigned states;                                        /* bit mask 1u << state; 0 = all */
    const char *dataset, *teacher, *tag, *task, *optimizer; /* NULL: any */
    const char *q;      /* in name, notes, tags, dataset, teacher (LIKE, escaped) or "#id" */
    const char *sort;   /* a key of dd_storage_sort_keys, "-" before it for descending; NULL = "-id" */
    const char *cursor; /* opaque, from the last page; NULL = first page. Bound to the sort: else DD_INVALID */
    int64_t sweep_id;   /* 0: any */
    int limit;
};
/* "id", "name", "status", "created_at", "started_at", "finished_at", "best_macro_f1", "best_accuracy", "priority",
 * "dataset", "layers", "T", "alpha", "lr", "elapsed_seconds", "model_bytes", "queue"; NULL-terminated */
const char *const *dd_storage_sort_keys(void);
/* Keyset paging; NULLs last in either direction. *ret_next_cursor NULL at the end; the caller frees it. */
enum dd_status dd_storage_experiment_list(struct dd_storage *storage, const struct dd_experiment_query *query,
                                          struct dd_experiment **ret_items, size_t *ret_count, char **ret_next_cursor,
                                          struct dd_error *err) DD_MUST_CHECK;
void dd_experiments_free(struct dd_experiment *items, size_t count);
/* The newest experiment that will make the model of that name (its save_as, or exp-ID) and has not ended: queued,
 * running or paused.  DD_NOT_FOUND: there is none. */
enum dd_status dd_storage_experiment_making(struct dd_storage *storage, const char *model, int64_t *ret_id,
                                            enum dd_state *ret_state, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_state_counts(struct dd_storage *storage, int64_t ret_counts[DD_STATE_COUNT],
                                       struct dd_error *err) DD_MUST_CHECK;
/* NULL: leave as is. priority: NULL or a value. */
enum dd_status dd_storage_experiment_patch(struct dd_storage *storage, int64_t id, const char *name, const char *notes,
                                           const char *tags_json, const int *priority,
                                           struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_experiment_delete(struct dd_storage *storage, int64_t id, struct dd_error *err)
    DD_MUST_CHECK; /* with its rows; DD_CONFLICT while running */

/* The queue: highest priority, then oldest (by queued time). *ret_id 0 when it is empty. Sets running, started_ms,
 * attempts+1.  Sweeps that decide (struct dd_asha) put into the queue what they promote, in the same transaction. */
enum dd_status dd_storage_claim(struct dd_storage *storage, int64_t *ret_id, struct dd_error *err) DD_MUST_CHECK;
/* At start: running → queued with crashes+1 (or → failed "daemon_died" when crashes reaches max_crashes); a pending
 * cancel → cancelled, a pending pause → paused.  Fills how many were requeued and failed. */
enum dd_status dd_storage_recover(struct dd_storage *storage, int max_crashes, int *ret_requeued, int *ret_failed,
                                  struct dd_error *err) DD_MUST_CHECK;
/* A clean shutdown: running → queued, crashes unchanged. */
enum dd_status dd_storage_requeue(struct dd_storage *storage, int64_t id, struct dd_error *err) DD_MUST_CHECK;
enum dd_action { DD_ACTION_CANCEL = 0, DD_ACTION_PAUSE, DD_ACTION_RESUME, DD_ACTION_RETRY, DD_ACTION_COUNT };
/* The user's wish, in one conditional statement.  cancel: queued/paused → cancelled, running → cancel_requested; pause:
 * queued → paused, running → pause_requested; resume: paused → queued; retry: failed/cancelled → queued (crashes 0,
 * error cleared, its checkpoint kept).  DD_CONFLICT otherwise.  *ret_state: the state after; *ret_signal_worker: the
 * running job must be told. */
enum dd_status dd_storage_act(struct dd_storage *storage, int64_t id, enum dd_action action, enum dd_state *ret_state,
                              bool *ret_signal_worker, struct dd_error *err) DD_MUST_CHECK;
unsigned dd_state_allowed_actions(enum dd_state state); /* bit mask 1u << action */
const char *dd_action_name(enum dd_action action);
/* running → finished | failed | cancelled | paused; DD_CONFLICT when it is no longer running. */
enum dd_status dd_storage_experiment_finish(struct dd_storage *storage, int64_t id, enum dd_state state,
                                            const char *error_code, const char *error_message,
                                            struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_set_teacher_scores(struct dd_storage *storage, int64_t id, const struct dd_scores *scores,
                                             struct dd_error *err) DD_MUST_CHECK;
/* phase NULL and elapsed_seconds NAN leave what was there; NAN elsewhere is "unknown". */
enum dd_status dd_storage_set_progress(struct dd_storage *storage, int64_t id, const char *phase, int64_t steps_done,
                                       int64_t steps, double eta_seconds, double tokens_per_second,
                                       double elapsed_seconds, struct dd_error *err) DD_MUST_CHECK;

/* Ended runs that ended before before_ms and may go (retention.c), oldest first; the caller frees. states: as in struct
 * dd_experiment_query, but ~0u for all. */
struct dd_ended_run {
    int64_t id, finished_ms;
    enum dd_state state;
};
enum dd_status dd_storage_ended_list(struct dd_storage *storage, int64_t before_ms, unsigned states, int limit,
                                     struct dd_ended_run **ret_items, size_t *ret_count,
                                     struct dd_error *err) DD_MUST_CHECK;
/* Deletes the run with its rows if that still holds; *ret_deleted says so. */
enum dd_status dd_storage_ended_delete(struct dd_storage *storage, int64_t id, int64_t before_ms, bool *ret_deleted,
                                       struct dd_error *err) DD_MUST_CHECK;

/* Metrics. Columns as in the API; kl / agreement / hidden / cls NAN where they mean nothing, dev_kl and dev_ce
 * also where an earlier version recorded the epoch. */
struct dd_epoch_row {
    int epoch;
    double train_loss, train_kl, train_ce, dev_loss, accuracy, macro_precision, macro_recall, macro_f1,
        weighted_precision, weighted_recall, weighted_f1, teacher_agreement, lr, seconds, elapsed_seconds,
        tokens_per_second, train_hidden, train_cls, train_attention, train_relation, dev_kl, dev_ce;
    bool is_best;
    int64_t recorded_ms;
    int rollback;    /* why the run's guard went back, the engine's number; 0: it did not */
    int rollback_to; /* the epoch it went to; 0: the first weights */
    int attempt;     /* the start of the run, counted from 1, that recorded the epoch first; 0: not known */
};
struct dd_step_row {
    int64_t step;
    int epoch;
    double loss, kl, ce, lr, grad_norm, elapsed_seconds, tokens_per_second;
};
struct dd_prediction_set {
    size_t n;
    int32_t *label;
    float *score;
}; /* owned arrays [n] */
void dd_prediction_set_release(struct dd_prediction_set *set);
/* One transaction: the steps, the epoch (INSERT OR REPLACE by number), its predictions, epochs_done, best and last of
 * the experiment, and what its sweep decides on that.  *ret_stop (may be NULL): that the run stops here; it counts as
 * asked to pause then.  Of an epoch that is told again, epoch->recorded_ms and ->attempt become those of the first
 * time. */
enum dd_status dd_storage_epoch_put(struct dd_storage *storage, int64_t id, struct dd_epoch_row *epoch,
                                    const struct dd_prediction_set *dev, const struct dd_step_row *steps,
                                    size_t n_steps, bool *ret_stop, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_steps_put(struct dd_storage *storage, int64_t id, const struct dd_step_row *steps,
                                    size_t n_steps, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_epochs_get(struct dd_storage *storage, int64_t id, int after, struct dd_epoch_row **ret_rows,
                                     size_t *ret_count, struct dd_error *err) DD_MUST_CHECK; /* free() */
/* Steps in (after, before], before <= 0 for all; min/max-preserving reduction to at most max_points by the caller. */
enum dd_status dd_storage_steps_get(struct dd_storage *storage, int64_t id, int64_t after, int64_t before,
                                    struct dd_step_row **ret_rows, size_t *ret_count,
                                    struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_predictions_get(struct dd_storage *storage, int64_t id, int epoch,
                                          struct dd_prediction_set *ret_set,
                                          struct dd_error *err) DD_MUST_CHECK; /* DD_NOT_FOUND */
/* The reference of a run: gold labels, class names (JSON array) and the teacher's predictions (n 0 if none) on dev. */
enum dd_status dd_storage_reference_put(struct dd_storage *storage, int64_t id, const char *classes_json,
                                        const int32_t *gold, size_t n, const struct dd_prediction_set *teacher,
                                        struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_reference_get(struct dd_storage *storage, int64_t id, char **ret_classes_json,
                                        int32_t **ret_gold, size_t *ret_n, struct dd_prediction_set *ret_teacher,
                                        struct dd_error *err) DD_MUST_CHECK;
/* Log lines of a run. */
struct dd_log_row {
    int64_t seq, time_ms;
    enum dd_log_level level;
    char *message;
};
enum dd_status dd_storage_log_put(struct dd_storage *storage, int64_t id, enum dd_log_level level, const char *message,
                                  int64_t *ret_seq, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_log_get(struct dd_storage *storage, int64_t id, int64_t after, int limit,
                                  struct dd_log_row **ret_rows, size_t *ret_count, struct dd_error *err) DD_MUST_CHECK;
void dd_log_rows_free(struct dd_log_row *rows, size_t count);

/* Data sets and models: a name, a directory below the data directory, and what the API shows as JSON. */
enum dd_asset_kind { DD_ASSET_DATASET = 0, DD_ASSET_MODEL };
struct dd_asset {
    int64_t id; /* never reused; names may be, after a delete */
    int64_t revision;
    char *name, *dir;      /* dir: absolute (registered models) or relative to the data directory */
    bool owned;            /* dir is ours to remove */
    char *info_json;       /* the resource's own fields */
    char *kind;            /* models: encoder | classifier; data sets: "" */
    int64_t experiment_id; /* models made by a run; 0 otherwise */
    int64_t created_ms;
};
void dd_asset_release(struct dd_asset *asset);
void dd_assets_free(struct dd_asset *items, size_t count);
enum dd_status dd_storage_asset_insert(struct dd_storage *storage, enum dd_asset_kind kind,
                                       const struct dd_asset *asset, int64_t *ret_id,
                                       struct dd_error *err) DD_MUST_CHECK; /* DD_CONFLICT "name_taken" */
struct dd_completion {
    const struct dd_asset *model;
    int64_t parameters, model_bytes, steps;
    double tokens_per_second, elapsed_seconds;
};
/* running → finished and its model registered, both or neither.  DD_CONFLICT "name_taken", or when it is no longer
 * running.  *ret_replaced: the model that the same run had under that name before, which is gone; 0: none. */
enum dd_status dd_storage_experiment_complete(struct dd_storage *storage, int64_t id, const struct dd_completion *done,
                                              int64_t *ret_replaced, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_asset_get(struct dd_storage *storage, enum dd_asset_kind kind, const char *name,
                                    struct dd_asset *ret_asset, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_asset_list(struct dd_storage *storage, enum dd_asset_kind kind, const char *q,
                                     const char *cursor, int limit, struct dd_asset **ret_items, size_t *ret_count,
                                     char **ret_next_cursor, struct dd_error *err) DD_MUST_CHECK; /* by name */
/* DD_CONFLICT "in_use" while a queued, running or paused experiment names it. Row only; the caller removes the
 * directory afterwards. ret_deleted may be NULL. */
enum dd_status dd_storage_asset_delete(struct dd_storage *storage, enum dd_asset_kind kind, const char *name,
                                       struct dd_asset *ret_deleted, struct dd_error *err) DD_MUST_CHECK;

/* Asynchronous successive halving: rungs at min_epochs·eta^k; the best 1/eta of the points that reach one go on. */
struct dd_asha {
    int min_epochs, eta; /* min_epochs 0: every run goes to its end */
    bool by_accuracy;    /* else by macro F1 */
};

/* Sweeps: groups of experiments.  plan_json holds all of the request: base, axes, points, seeds. */
#define DD_SWEEP_MAX_RUNS 1000
struct dd_sweep {
    int64_t id;
    char *name, *base_json, *plan_json;
    bool cancelled; /* by a person, as a whole */
    int64_t created_ms;
    struct dd_asha asha;
    struct dd_claim claim; /* insert alone */
};
void dd_sweep_release(struct dd_sweep *sweep);
void dd_sweeps_free(struct dd_sweep *items, size_t count);
/* The sweep and all its experiments in one transaction, in order; sweep_id of each is set by the insert. *ret_first_id:
 * of the first experiment; the others follow it without a gap. */
enum dd_status dd_storage_sweep_insert(struct dd_storage *storage, const struct dd_sweep *sweep,
                                       const struct dd_experiment *experiments, size_t n, int64_t *ret_id,
                                       int64_t *ret_first_id, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_storage_sweep_get(struct dd_storage *storage, int64_t id, struct dd_sweep *ret_sweep,
                                    struct dd_error *err) DD_MUST_CHECK; /* DD_NOT_FOUND */
/* Newest first. */
enum dd_status dd_storage_sweep_list(struct dd_storage *storage, const char *cursor, int limit,
                                     struct dd_sweep **ret_items, size_t *ret_count, char **ret_next_cursor,
                                     struct dd_error *err) DD_MUST_CHECK;
/* How many of its experiments are in each state. */
enum dd_status dd_storage_sweep_counts(struct dd_storage *storage, int64_t id, int64_t ret_counts[DD_STATE_COUNT],
                                       struct dd_error *err) DD_MUST_CHECK;
/* In one transaction: what waits is cancelled, what runs is asked to stop.  *ret_ids [*ret_count] (free()): those
 * touched, whose events are due; a running one's worker must be told. */
enum dd_status dd_storage_sweep_cancel(struct dd_storage *storage, int64_t id, int64_t **ret_ids, size_t *ret_count,
                                       struct dd_error *err) DD_MUST_CHECK;

struct dd_asha_rung {
    int rung, epoch; /* 1-based */
    int points, promoted;
};
#define DD_ASHA_MAX_RUNGS 32
enum dd_status dd_storage_asha_rungs(struct dd_storage *storage, int64_t sweep_id, struct dd_asha_rung *rungs,
                                     size_t max, size_t *ret_count, struct dd_error *err) DD_MUST_CHECK;
/* Decisions since the last call, in their order, each already in the log of the run it is about: events are due, and
 * workers may have something to do.  The caller frees; *ret_news NULL when there are none. */
struct dd_asha_news {
    int64_t id, seq, time_ms;
    char message[160];
};
void dd_storage_asha_news(struct dd_storage *storage, struct dd_asha_news **ret_news, size_t *ret_count);

/* Idempotency keys: kept for 24 h. */
struct dd_idempotent {
    char *request_hash;
    int status;
    char *location;
    char *body; /* NULL: claimed by an insert whose answer was never stored; location names what was made */
};
void dd_idempotent_release(struct dd_idempotent *record);
enum dd_status dd_storage_idempotent_get(struct dd_storage *storage, const char *key, struct dd_idempotent *ret_record,
                                         struct dd_error *err) DD_MUST_CHECK; /* DD_NOT_FOUND */
enum dd_status dd_storage_idempotent_put(struct dd_storage *storage, const char *key,
                                         const struct dd_idempotent *record, struct dd_error *err) DD_MUST_CHECK;

#endif
