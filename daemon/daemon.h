/* The daemon's inside: what its files share.  Private to daemon/.
 *
 * Threads: main (signals), one HTTP thread and a few request threads of api/ (the service_*.c files run there), W
 * worker threads (worker.c).  Locks, in the order in which they may be held together: workers → job; loaded (cache)
 * stands alone.  No lock is held while training, reading files or waiting for the network.
 *
 * The data directory:
 *   distilld.db          SQLite            datasets/<name>-<hex>/   a row each in storage, else removed at start
 *   runs/<id>/           checkpoint, best-<epoch>/, last/           models/<name>-<hex>/     as datasets
 *   cache/               teachers' logits  uploads/                 emptied at start
 *   tokens               who is let in (tokens.c)
 */
#ifndef DD_DAEMON_DAEMON_H
#define DD_DAEMON_DAEMON_H

#include <limits.h>
#include <pthread.h>
#include <signal.h>

#include <cjson/cJSON.h>

#include "api/api.h"
#include "base/base.h"
#include "daemon/config.h"
#include "daemon/tokens.h"
#include "engine/engine.h"
#include "spec/spec.h"
#include "storage/storage.h"

#define DD_MAX_CRASHES 3 /* a run that took the daemon down so often is failed */

struct dd_workers;
struct dd_loaded_cache;

struct dd_machine_facts { /* HTTP thread; looked at again after a quarter of a second */
    int64_t looked_us;
    bool disk_known;
    uint64_t resident_bytes, disk_free_bytes, disk_total_bytes;
};

struct dd_daemon {
    const struct dd_options *options;
    char data_dir[PATH_MAX / 2], cache_dir[PATH_MAX / 2];
    struct dd_storage *storage;
    struct dd_pool *pool;
    struct dd_workers *workers;
    struct dd_loaded_cache *loaded;
    struct dd_token_source tokens;
    _Atomic(struct dd_api *) api; /* NULL until it is started and after it is stopped */
    int n_workers, n_threads;
    bool leaves_no_core; /* to anybody else while a job runs */
    uint64_t memory_limit_bytes;
    int64_t started_ms;
    atomic_bool stopping;
    atomic_uint_fast64_t epochs, steps; /* since the start; the latter with those that a rollback or kill repeats */
    struct dd_machine_facts facts;
    atomic_uint_fast64_t told; /* events but steps: what is in memory alone may have changed with them */
};

/* --- paths.c: the data directory --------------------------------------------------------------------------------- */

/* Where data lies when --data-dir is not given. */
enum dd_status dd_default_data_dir(char *out, size_t out_bytes, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_daemon_path(const struct dd_daemon *daemon, char out[PATH_MAX], struct dd_error *err,
                              const char *folder, const char *name) DD_MUST_CHECK;
enum dd_status dd_run_dir(const struct dd_daemon *daemon, int64_t id, char out[PATH_MAX],
                          struct dd_error *err) DD_MUST_CHECK;
/* "<folder>/<name>-<8 hex>", relative to the data directory: for what is gone again soon. */
enum dd_status dd_new_scratch_dir(const char *folder, const char *name, char out[PATH_MAX],
                                  struct dd_error *err) DD_MUST_CHECK;
/* "<folder>/<name>-s<series>-<number>", relative to the data directory: where a new data set or model goes.  The
 * database has given series and number out for it, and for nothing else. */
enum dd_status dd_new_asset_dir(struct dd_daemon *daemon, const char *folder, const char *name, char out[PATH_MAX],
                                struct dd_error *err) DD_MUST_CHECK;
/* Series and number from the last part of such a path; false: it has none. */
bool dd_asset_dir_parse(const char *name, uint32_t *ret_series, int64_t *ret_number);
#define DD_ORPHANED "orphaned" /* in the data directory: what a newer database must have named (recovery.c) */
/* The directory of an asset, absolute. */
enum dd_status dd_asset_path(const struct dd_daemon *daemon, const struct dd_asset *asset, char out[PATH_MAX],
                             struct dd_error *err) DD_MUST_CHECK;
/* Makes the folders; fills daemon->data_dir and cache_dir (absolute). */
enum dd_status dd_data_dir_open(struct dd_daemon *daemon, const char *data_dir, const char *cache_dir,
                                struct dd_error *err) DD_MUST_CHECK;
/* Hard links (or copies, where links cannot be) every regular file of a flat directory into a new one, durably. */
enum dd_status dd_dir_link(const char *from, const char *to, struct dd_error *err) DD_MUST_CHECK;

/* --- recovery.c --------------------------------------------------------------------------------------------------- */

/* Before the database is opened: DD_CORRUPT when it is gone but data sets, models or runs are there. */
enum dd_status dd_recover_check(const char *data_dir, const char *database, struct dd_error *err) DD_MUST_CHECK;
/* At start, before anything else runs: interrupted runs back into the queue, what nobody owns removed. */
enum dd_status dd_recover(struct dd_daemon *daemon, struct dd_error *err) DD_MUST_CHECK;

/* --- loaded.c: data sets and models in memory --------------------------------------------------------------------- */

/* A data set or a model that is in use or was lately.  Shared, counted; datasets and models are immutable, so what is
 * deleted under a user stays whole for that user. */
struct dd_loaded {
    int64_t asset_id;
    enum dd_asset_kind kind;
    struct dd_dataset *dataset; /* kind DATASET */
    struct dd_model *model;     /* kind MODEL */
    struct dd_loaded_private *inside;
};
struct dd_loaded_cache *dd_loaded_cache_new(uint64_t max_model_bytes);
void dd_loaded_cache_free(struct dd_loaded_cache *cache);
enum dd_status dd_loaded_get(struct dd_daemon *daemon, const struct dd_asset *asset, struct dd_loaded **ret_loaded,
                             struct dd_error *err) DD_MUST_CHECK;
void dd_loaded_put(struct dd_daemon *daemon, struct dd_loaded *loaded); /* NULL is fine */
void dd_loaded_forget(struct dd_daemon *daemon, enum dd_asset_kind kind, int64_t asset_id);
/* logits [n, n_labels]; calls on one model take turns. */
enum dd_status dd_loaded_predict(struct dd_daemon *daemon, struct dd_loaded *loaded, int max_length,
                                 const struct dd_row *rows, size_t n, const struct dd_cancel *cancel, float *logits,
                                 struct dd_error *err) DD_MUST_CHECK;

/* --- resource.c: records as the JSON of the API ------------------------------------------------------------------- */

void dd_put_number(cJSON *object, const char *name, double value);   /* null where not finite */
void dd_put_text(cJSON *object, const char *name, const char *text); /* null for NULL */
/* null for NULL; false when out of memory: a text that is left out would look like one that is not there. */
bool dd_put_bytes(cJSON *object, const char *name, const char *text, size_t bytes) DD_MUST_CHECK;
void dd_put_time(cJSON *object, const char *name, int64_t wall_ms); /* null for 0 */
cJSON *dd_json_of(const char *text); /* an empty object for NULL or nonsense; NULL out of memory */
cJSON *dd_experiment_json(struct dd_daemon *daemon, const struct dd_experiment *experiment);
cJSON *dd_step_json(const struct dd_step_row *row);
/* What dd_steps_smooth changes. */
cJSON *dd_step_smooth_json(const struct dd_step_row *row);
cJSON *dd_log_json(const struct dd_log_row *row);
cJSON *dd_report_json(const struct dd_report *report, const char *const *class_names);
void dd_allowed_actions(enum dd_state state, char out[128]); /* "cancel,pause,clone" */
/* Adds "experiment_id" and sends; takes ownership of data (NULL is nothing). */
void dd_publish(struct dd_daemon *daemon, const char *type, int64_t experiment_id, cJSON *data);
void dd_publish_status(struct dd_daemon *daemon, int64_t experiment_id); /* the whole resource, as it is now */
/* The epoch with what it changes of the resource: progress, best, retention, revision.  No status event is needed. */
void dd_publish_epoch(struct dd_daemon *daemon, int64_t experiment_id, const struct dd_epoch_row *row);

/* --- reduce.c: what a chart needs of many rows -------------------------------------------------------------------- */

/* Reduces rows in place to at most max_points (≥ 4): first, last and the extremes of loss and gradient norm of each
 * stretch stay, a NaN counts as the largest.  also: as many rows, of which those at the same places stay; or NULL.
 * Returns how many are left. */
size_t dd_steps_reduce(struct dd_step_row *rows, struct dd_step_row *also, size_t n, size_t max_points);
/* The same for epochs: the extremes of macro F1, dev loss, accuracy and training loss stay, and whatever a chart marks:
 * the best epoch, and, as long as they fill at most half of the points (else the newest of them), those in which the
 * guard went back and the first of each attempt. */
size_t dd_epochs_reduce(struct dd_epoch_row *rows, struct dd_epoch_row *also, size_t n, size_t max_points);
/* Losses, norms and scores become exponential moving averages over steps or epochs; tau > 0 is how many of them it
 * takes for a value to fade to 1/e.  To be done with all rows, before any are left out. */
void dd_steps_smooth(struct dd_step_row *rows, size_t n, double tau);
void dd_epochs_smooth(struct dd_epoch_row *rows, size_t n, double tau);
/* A copy of rows for that, NULL out of memory; free(). */
void *dd_rows_copy(const void *rows, size_t n, size_t row_bytes);

/* --- epoch.c: epochs as objects, columns and CSV ------------------------------------------------------------------ */

cJSON *dd_epoch_json(const struct dd_epoch_row *row, bool is_best);
/* The columns that are smoothed, of an epoch that dd_epochs_smooth has seen. */
cJSON *dd_epoch_smooth_json(const struct dd_epoch_row *row);
/* Offsets of those columns within the row; how many. */
size_t dd_epoch_smoothed(size_t *offsets, size_t room);
uint32_t dd_epoch_smoothed_columns(void); /* as a set */
/* "macro_f1,dev_loss" as a set; NULL: all; a name it does not know: nothing. */
uint32_t dd_epoch_columns(const char *names);
/* {"epoch":[…],"train_loss":[…],…}: the wanted columns and always "epoch". */
cJSON *dd_epoch_series(const struct dd_epoch_row *rows, size_t count, uint32_t wanted);
void dd_epoch_csv_head(struct dd_buffer *out);
void dd_epoch_csv(const struct dd_epoch_row *row, bool is_best, struct dd_buffer *out);

/* --- describe.c: what storage keeps of data sets and models --------------------------------------------------------
 */

cJSON *dd_dataset_describe(const struct dd_dataset *dataset, uint64_t skipped, const struct dd_cancel *cancel);
cJSON *dd_model_describe(const struct dd_model_info *info, int max_length, cJSON *source); /* takes source */
/* From what dd_model_describe wrote; false when it is not such. */
bool dd_model_config_of(const char *info_json, struct dd_bert_config *ret_config);
void dd_spec_teacher_from(const struct dd_bert_config *config, struct dd_spec_teacher *ret_teacher);

/* --- setup.c: from a spec to what dd_train wants -------------------------------------------------------------------
 */

struct dd_setup {
    struct dd_spec spec;
    struct dd_loaded *dataset;
    struct dd_model *base, *init, *teachers[DD_MAX_TEACHERS]; /* as spec.teachers */
    char *vocab;                                              /* owned */
    size_t vocab_bytes;
    struct dd_tokenizer_options vocab_options;
};
/* Loads all that the resolved spec names.  On failure nothing is kept. */
enum dd_status dd_setup_load(struct dd_daemon *daemon, const char *spec_json, struct dd_setup *ret_setup,
                             struct dd_error *err) DD_MUST_CHECK;
void dd_setup_release(struct dd_daemon *daemon, struct dd_setup *setup);
/* Takes a copy of a model's vocabulary. */
enum dd_status dd_setup_vocabulary(struct dd_setup *setup, const struct dd_model *model,
                                   struct dd_error *err) DD_MUST_CHECK;

/* --- register.c ----------------------------------------------------------------------------------------------------
 */

/* A run is finished and its result a model: save_as, else exp-<id>; where that name is taken by another, "<name>-2" and
 * so on.  What the same run registered before is replaced. */
enum dd_status dd_complete_run(struct dd_daemon *daemon, const struct dd_experiment *experiment,
                               const struct dd_train_result *result, char ret_name[DD_NAME_BYTES],
                               struct dd_error *err) DD_MUST_CHECK;

/* --- shrink.c: smaller models made from others ----------------------------------------------------------------------
 */

/* Saves `made`, with a model card, as dir.  source: how it was made, {"type", "model", …}; gets "before" and "after"
 * {"tokens", "parameters", "bytes"}; stays the caller's.  from: the model it was made from; card: its README.md or
 * NULL. */
enum dd_status dd_shrink_save(const struct dd_model *made, const struct dd_model *from, const char *card, cJSON *source,
                              const char *dir, struct dd_error *err) DD_MUST_CHECK;
/* Adds accuracy and macro F1 of a model to source's `when` ("before", "after"). */
void dd_shrink_put_scores(cJSON *source, const char *when, const struct dd_report *report);
/* README.md of a model's directory; *ret_card NULL where there is none. */
enum dd_status dd_card_read(const char *dir, char **ret_card, struct dd_error *err) DD_MUST_CHECK;

/* --- worker.c ------------------------------------------------------------------------------------------------------
 */

enum dd_status dd_workers_new(struct dd_daemon *daemon, int count, struct dd_workers **ret_workers,
                              struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_workers_start(struct dd_workers *workers, struct dd_error *err) DD_MUST_CHECK;
void dd_workers_wake(struct dd_workers *workers); /* there may be something in the queue */
void dd_workers_signal(struct dd_workers *workers, int64_t experiment_id, enum dd_stop why);
/* Asks every job to checkpoint and end; true once all threads are gone. May be called again. */
bool dd_workers_stop(struct dd_workers *workers, int wait_ms);
/* What could not be stopped in time goes back into the queue as after a clean stop. */
void dd_workers_abandon(struct dd_workers *workers);
void dd_workers_free(struct dd_workers *workers); /* after dd_workers_stop said true */
struct dd_progress {
    bool known;
    char phase[24];
    double phase_done;
    struct dd_step_metrics step; /* step.step 0: none yet */
};
void dd_workers_progress(struct dd_workers *workers, int64_t experiment_id, struct dd_progress *ret_progress);
int dd_workers_busy(struct dd_workers *workers);
/* A run that has not advanced for limit_us or longer, and for how long; 0: there is none. */
int64_t dd_workers_stuck(struct dd_workers *workers, int64_t limit_us, int64_t *ret_quiet_us);
double dd_workers_tokens_per_second(struct dd_workers *workers); /* of all that train */

/* --- service_*.c ---------------------------------------------------------------------------------------------------
 */

void dd_service_fill(struct dd_daemon *daemon, struct dd_api_ops *ret_ops);
dd_api_fn dd_dataset_create_op, dd_dataset_list_op, dd_dataset_get_op, dd_dataset_rows_op, dd_dataset_delete_op;
dd_api_fn dd_model_create_op, dd_model_list_op, dd_model_get_op, dd_model_archive_op, dd_model_delete_op;
dd_api_fn dd_model_predict_op, dd_model_evaluate_op, dd_model_prune_op, dd_model_quantize_op;
/* A model directory becomes a row of storage: read whole, so that what is registered is known to load.  Takes source.
 * max_length 0: what the model has, up to 512. */
enum dd_status dd_model_record(struct dd_daemon *daemon, const char *name, char *dir, const char *path, bool owned,
                               int max_length, cJSON *source, struct dd_error *err) DD_MUST_CHECK;
/* The model's row; DD_NOT_FOUND names what is like it. */
enum dd_status dd_model_asset(struct dd_daemon *daemon, const char *name, struct dd_asset *ret_asset,
                              struct dd_error *err) DD_MUST_CHECK;
/* DD_CONFLICT "name_taken" when there is a model of that name. */
enum dd_status dd_model_name_free(struct dd_daemon *daemon, const char *name, struct dd_error *err) DD_MUST_CHECK;
/* 201, the model's resource and its Location. */
enum dd_status dd_model_answer_created(struct dd_daemon *daemon, const char *name, struct dd_api_result *result,
                                       struct dd_error *err) DD_MUST_CHECK;
dd_api_fn dd_experiment_create_op, dd_experiment_list_op, dd_experiment_get_op, dd_experiment_patch_op,
    dd_experiment_delete_op, dd_experiment_cancel_op, dd_experiment_pause_op, dd_experiment_resume_op,
    dd_experiment_retry_op, dd_experiment_clone_op;
dd_api_fn dd_experiment_metrics_op, dd_experiment_steps_op, dd_experiment_report_op, dd_experiment_predictions_op,
    dd_experiment_log_op, dd_experiment_archive_op, dd_compare_op;
dd_api_fn dd_sweep_create_op, dd_sweep_list_op, dd_sweep_get_op, dd_sweep_cancel_op;
dd_api_fn dd_preset_list_op;
dd_api_fn dd_system_op, dd_ready_op, dd_metrics_text_op, dd_gc_op;
bool dd_tokens_op(void *daemon, struct dd_api_tokens *ret_tokens);
const struct dd_machine_facts *dd_machine_look(struct dd_daemon *daemon); /* HTTP thread */
uint64_t dd_resident_bytes(void);                                         /* of this process; 0 where it is not known */
/* Report of a model on a split as JSON or, with Accept: text/plain, as text. */
enum dd_status dd_answer_report(const struct dd_report *report, const char *const *class_names, bool text,
                                struct dd_api_result *result, struct dd_error *err) DD_MUST_CHECK;
/* gold and predictions of model on a split, into a report. */
enum dd_status dd_evaluate(const struct dd_model *model, struct dd_pool *pool, int max_length,
                           const struct dd_dataset *dataset, enum dd_split split, const struct dd_cancel *cancel,
                           struct dd_report *ret_report, struct dd_error *err) DD_MUST_CHECK;
/* Class names of a data set, for reports; free() the array only. */
const char **dd_class_names(const struct dd_dataset *dataset);
/* The stem of an exported file, as in the note: "milk_epoch_24_p_1.0000_r_1.0000_f_1.0000", precision, recall and F1
 * being macro averages on dev, the epoch counted from 1; just the name where any of them is unknown (epoch 0, NAN). */
#define DD_EXPORT_NAME_BYTES 128
void dd_export_name(const char *name, int epoch, double precision, double recall, double f1,
                    char out[DD_EXPORT_NAME_BYTES]);
/* A directory as .tar.gz in an unnamed file of the uploads folder. */
enum dd_status dd_answer_archive(struct dd_daemon *daemon, const char *dir, const char *root,
                                 const struct dd_cancel *cancel, struct dd_api_result *result,
                                 struct dd_error *err) DD_MUST_CHECK;
/* A model, saved anew, as .tar.gz; card may be NULL. */
enum dd_status dd_answer_model(struct dd_daemon *daemon, const struct dd_model *model, const char *card, bool fp16,
                               const char *root, const struct dd_cancel *cancel, struct dd_api_result *result,
                               struct dd_error *err) DD_MUST_CHECK;
bool dd_wants_fp16(const struct dd_api_call *call); /* ?weights=fp16 */
/* "there is no data set \"mlik\"; did you mean \"milk\"?" */
void dd_no_such_asset(struct dd_daemon *daemon, enum dd_asset_kind kind, const char *name, char *out, size_t out_bytes);
enum dd_status dd_fail_json(struct dd_error *err); /* cJSON ran out of memory */

/* --- submit.c: from a request body to a row in the queue -----------------------------------------------------------
 */

/* call: for its Idempotency-Key; body may be another than the call's. */
enum dd_status dd_submit(struct dd_daemon *daemon, const struct dd_api_call *call, const cJSON *body, bool dry_run,
                         struct dd_api_result *result, struct dd_problem *problem) DD_MUST_CHECK;
/* The same checks, and the row that would be queued (dd_experiment_release).  DD_INVALID with faults, or, for what
 * needs too much memory, without. */
enum dd_status dd_submit_resolve(struct dd_daemon *daemon, const cJSON *body, struct dd_experiment *ret_row,
                                 struct dd_train_estimate *ret_estimate, struct dd_faults *faults,
                                 struct dd_error *err) DD_MUST_CHECK;
/* The body of a clone: the run's spec with the changes merged in (RFC 7386). NULL when out of memory. */
cJSON *dd_clone_body(const struct dd_experiment *experiment, const cJSON *changes);

/* --- sweep_plan.c: from a request for a sweep to its points ---------------------------------------------------------
 */

struct dd_sweep_plan {
    char name[256];
    cJSON *json;   /* what storage keeps: {"grid" or "random", "count", "seed", "seeds", "axes", "points"} */
    cJSON *bodies; /* array: the body of every run, point by point, seed by seed */
    size_t points, seeds;
    struct dd_asha asha; /* min_epochs 0: none */
};
/* All faults of the frame (not of the specs in it) at once; DD_INVALID then. */
enum dd_status dd_sweep_plan(const cJSON *body, struct dd_sweep_plan *ret_plan, struct dd_faults *faults,
                             struct dd_error *err) DD_MUST_CHECK;
void dd_sweep_plan_release(struct dd_sweep_plan *plan);
/* Where in the request lies what a spec's fault points to: "/T" of point 5 → "/grid/T/2", else "/base/T". */
void dd_sweep_pointer(const struct dd_sweep_plan *plan, const cJSON *body, size_t point, const char *pointer, char *out,
                      size_t out_bytes);

/* --- sweep_table.c: what came of it ---------------------------------------------------------------------------------
 */

/* Adds "points" and "best" to the answer.  metric: "macro_f1" or "accuracy". */
void dd_sweep_table(cJSON *json, const cJSON *plan, const struct dd_experiment *runs, size_t count, const char *metric);
/* The n points of that answer, best first by their mean; without memory in their own order. */
void dd_sweep_ranking(const cJSON *json, const char *metric, int64_t *ret_points, size_t n);
void dd_sweep_csv(const cJSON *json, struct dd_buffer *out); /* of what dd_sweep_table made */

/* --- significance.c -------------------------------------------------------------------------------------------------
 */

/* The lead of group 0 over each other group by the paired bootstrap: {"test","metric",…,"baseline","others":[{key,
 * "difference","low","high","within_noise"}]}, or JSON null when group 0 has no predictions.  group[i] in [0, n_groups)
 * is the group of runs[i], -1 none; names[g] goes under key, and names[0] under "baseline".  A group on other dev rows
 * has nulls; so have the last ones where all would take too long. */
enum dd_status dd_significance(struct dd_daemon *daemon, const struct dd_experiment *runs, size_t count,
                               const int *group, size_t n_groups, const int64_t *names, const char *key,
                               bool by_accuracy, const struct dd_cancel *cancel, cJSON **ret_json,
                               struct dd_error *err) DD_MUST_CHECK;

/* --- sweep_news.c ---------------------------------------------------------------------------------------------------
 */

/* Sends what sweeps have decided since the last call to the readers of events, and wakes the workers for it.  Takes the
 * workers' lock. */
void dd_sweep_news_tell(struct dd_daemon *daemon);

/* --- retention.c ----------------------------------------------------------------------------------------------------
 */

/* Removes (dry_run: names) at most limit things that the configuration does not keep: {"items", "bytes", "dry_run",
 * "more"}; more: there may be others. */
enum dd_status dd_retention_pass(struct dd_daemon *daemon, int64_t now_ms, bool dry_run, int limit, cJSON **ret_json,
                                 struct dd_error *err) DD_MUST_CHECK;

/* --- notify.c: systemd ---------------------------------------------------------------------------------------------
 */

void dd_notify(const char *state); /* "READY=1"; nothing without $NOTIFY_SOCKET */
/* How long systemd waits for WATCHDOG=1; 0: it does not watch this process. */
int64_t dd_notify_watchdog_us(void);

/* --- signals.c -----------------------------------------------------------------------------------------------------
 */

/* Blocks the signals, in this thread and in all that it starts from now on, and ignores SIGPIPE. */
void dd_signals_block(const sigset_t *signals);

/* --- watch.c -------------------------------------------------------------------------------------------------------
 */

/* Until SIGTERM or SIGINT, which like SIGHUP must be in signals and blocked in all threads. */
void dd_watch_until_stopped(struct dd_daemon *daemon, const sigset_t *signals);

#endif
