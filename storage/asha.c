/* asha: asynchronous successive halving over the runs of a sweep (Li et al. 2020, "A System for Massively Parallel
 * Hyperparameter Tuning").
 *
 * Rung k is at epoch min_epochs·eta^(k-1), as long as that is before the last epoch.  A run that ends the epoch of a
 * rung leaves a row in `asha` and, unless its point is promoted at once, stops there: paused, with
 * experiments.stopped = "asha rung <k>".  A point (its runs differ in the seed alone) has reached a rung when no run of
 * it can still come; its score is the mean over those that came.  Of n points that reached a rung the best n/eta,
 * rounded down, go on.
 *
 * When a worker is free it takes a run that waits in the queue; only when the sweep has none there are points promoted,
 * the lowest rung first.  Li et al. promote first and start new points second, because theirs are without end; ours are
 * a list that will be run anyhow, and starting them first promotes nobody on the word of a few.  No worker waits
 * for a rung to fill either way.  When nothing runs or waits, what was not promoted is cancelled, its `stopped` kept;
 * but if then no run has come to the end, the best of the highest rung goes on.
 *
 * Decisions are made inside the transaction that stores the epoch (db_asha_epoch) or that claims a run
 * (db_asha_idle), and follow from the rows alone: a kill neither repeats nor loses one.  A run that a person resumes
 * or retries after it was stopped is free (asha_free): it runs to the end, and its further epochs decide nothing.
 *
 * Thread: any, with the write lock held.
 */
#include <stdarg.h>
#include <stdlib.h>

#include "storage/db.h"

/* Of a sweep's runs: those that a rung holds, and those that may still come to one. */
#define WAITS "stopped IS NOT NULL AND state IN (1, 2)"
#define COMES "stopped IS NULL AND state IN (0, 1, 2) AND NOT asha_free"

struct sweep {
    int64_t id;
    struct dd_asha asha;
};

/* A point at a rung. */
struct place {
    int point;
    bool promoted;
    double score;
};

static const char *metric_name(const struct dd_asha *asha) {
    return asha->by_accuracy ? "accuracy" : "macro F1";
}

/* --- news --------------------------------------------------------------------------------------------------------- */

/* A decision into the run's log, and into the list of what is to be told. */
static enum dd_status say(struct dd_storage *storage, int64_t id, struct dd_error *err, const char *fmt, ...)
    DD_PRINTF(4, 5);
static enum dd_status say(struct dd_storage *storage, int64_t id, struct dd_error *err, const char *fmt, ...) {
    if (storage->n_news == storage->cap_news) {
        size_t cap = storage->cap_news == 0 ? 16 : 2 * storage->cap_news;
        struct dd_asha_news *grown = dd_realloc_array(storage->news, cap, sizeof *grown);
        if (!grown) {
            return dd_fail_memory(err, cap * sizeof *grown);
        }
        storage->news = grown;
        storage->cap_news = cap;
    }
    struct dd_asha_news *news = &storage->news[storage->n_news];
    *news = (struct dd_asha_news){.id = id, .time_ms = dd_clock_wall_ms()};
    va_list args;
    va_start(args, fmt);
    vsnprintf(news->message, sizeof news->message, fmt, args);
    va_end(args);
    enum dd_status status = db_log_put(&storage->write, id, DD_LOG_INFO, news->message, &news->seq, err);
    if (status == DD_OK) {
        storage->n_news++;
    }
    return status;
}

enum dd_status db_asha_finish(struct dd_storage *storage, size_t n_news, enum dd_status status, struct dd_error *err) {
    status = db_finish(&storage->write, status, err);
    if (status != DD_OK) {
        storage->n_news = n_news;
    }
    return status;
}

void dd_storage_asha_news(struct dd_storage *storage, struct dd_asha_news **ret_news, size_t *ret_count) {
    DB_GUARD(&storage->write);
    *ret_news = NULL;
    *ret_count = storage->n_news;
    if (storage->n_news == 0) {
        return;
    }
    *ret_news = storage->news;
    storage->news = NULL;
    storage->n_news = storage->cap_news = 0;
}

/* --- queries --------------------------------------------------------------------------------------------------------
 */

/* Runs sql with the sweep as ?1 and rung as ?2 where it has them; the first column of the first row, 0 without one. */
static enum dd_status ask(struct db *db, const char *sql, int64_t sweep, int64_t rung, int64_t *ret_value,
                          struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, sql);
    db_bind_int(&query, sweep);
    if (sqlite3_bind_parameter_count(query.stmt) > 1) {
        db_bind_int(&query, rung);
    }
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK) {
        *ret_value = row ? db_column_int(&query, 0) : 0;
    }
    return status;
}

/* The points that reached a rung, best first; equal ones by their number. */
static enum dd_status places_at(struct db *db, int64_t sweep, int rung, struct place *places, size_t *ret_n,
                                struct dd_error *err) {
    DB_QUERY query =
        db_query_start(db, "SELECT point, avg(coalesce(score, -1)) AS mean, max(promoted) FROM asha"
                           " WHERE sweep_id = ?1 AND rung = ?2 AND NOT EXISTS"
                           "  (SELECT 1 FROM experiments WHERE sweep_id = ?1 AND sweep_point = asha.point AND " COMES
                           "   AND NOT EXISTS (SELECT 1 FROM asha AS came WHERE came.experiment_id = experiments.id AND"
                           "    came.rung = ?2))"
                           " GROUP BY point ORDER BY mean DESC, point");
    db_bind_int(&query, sweep);
    db_bind_int(&query, rung);
    for (*ret_n = 0; *ret_n < DD_SWEEP_MAX_RUNS; ++*ret_n) {
        bool row = false;
        enum dd_status status = db_query_next(&query, &row, err);
        if (status != DD_OK || !row) {
            return status;
        }
        places[*ret_n] = (struct place){.point = (int)db_column_int(&query, 0),
                                        .score = db_column_real(&query, 1),
                                        .promoted = db_column_int(&query, 2) != 0};
    }
    return DD_OK;
}

/* --- decisions ------------------------------------------------------------------------------------------------------
 */

static int epoch_of(const struct dd_asha *asha, int rung) {
    int64_t epoch = asha->min_epochs;
    for (int k = 1; k < rung && epoch < INT32_MAX; k++) {
        epoch *= asha->eta;
    }
    return (int)DD_MIN(epoch, (int64_t)INT32_MAX);
}

static int rung_of(const struct dd_asha *asha, int epoch) {
    for (int rung = 1; epoch_of(asha, rung) <= epoch; rung++) {
        if (epoch_of(asha, rung) == epoch) {
            return rung;
        }
    }
    return 0;
}

/* The runs of a point that wait at the rung go on: back into the queue at their old place, or, where the worker has not
 * let go yet, without the wish to pause.  *ret_any: there was one. */
static enum dd_status promote(struct dd_storage *storage, const struct sweep *sweep, int rung, const struct place *at,
                              size_t place, size_t n, bool *ret_any, struct dd_error *err) {
    struct db *db = &storage->write;
    int64_t ids[DD_SWEEP_MAX_RUNS];
    size_t count = 0;
    int marked = 0;
    struct db_query mark =
        db_query_start(db, "UPDATE asha SET promoted = 1 WHERE sweep_id = ? AND rung = ? AND point = ?");
    db_bind_int(&mark, sweep->id);
    db_bind_int(&mark, rung);
    db_bind_int(&mark, at->point);
    enum dd_status status = db_query_run(&mark, &marked, err);
    if (status != DD_OK) {
        return status;
    }
    DB_QUERY query = db_query_start(
        db, "UPDATE experiments SET state = CASE state WHEN 2 THEN 0 ELSE state END, stopped = NULL,"
            " pause_requested = 0, revision = revision + 1 WHERE sweep_id = ?1 AND sweep_point = ?2 AND " WAITS
            " AND EXISTS (SELECT 1 FROM asha WHERE experiment_id = experiments.id AND rung = ?3) RETURNING id");
    db_bind_int(&query, sweep->id);
    db_bind_int(&query, at->point);
    db_bind_int(&query, rung);
    for (bool row = true; status == DD_OK && row && count < DD_SWEEP_MAX_RUNS;) {
        status = db_query_next(&query, &row, err);
        if (status == DD_OK && row) {
            ids[count++] = db_column_int(&query, 0);
        }
    }
    db_query_end(&query);
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        status = say(storage, ids[i], err, "asha rung %d: %s %.4f, place %zu of %zu points: goes on", rung,
                     metric_name(&sweep->asha), at->score, place, n);
    }
    *ret_any = count > 0;
    return status;
}

/* Promotes what may be at the lowest rung that has such. */
static enum dd_status promote_best(struct dd_storage *storage, const struct sweep *sweep, bool *ret_any,
                                   struct dd_error *err) {
    int64_t highest = 0;
    size_t n = 0;
    struct place places[DD_SWEEP_MAX_RUNS];
    enum dd_status status =
        ask(&storage->write, "SELECT max(rung) FROM asha WHERE sweep_id = ?1", sweep->id, 0, &highest, err);
    *ret_any = false;
    for (int rung = 1; rung <= highest && status == DD_OK && !*ret_any; rung++) {
        status = places_at(&storage->write, sweep->id, rung, places, &n, err);
        for (size_t i = 0; status == DD_OK && i < n / (size_t)sweep->asha.eta; i++) {
            bool went = false;
            if (!places[i].promoted) {
                status = promote(storage, sweep, rung, &places[i], i + 1, n, &went, err);
            }
            *ret_any = *ret_any || went;
        }
    }
    return status;
}

/* Nothing runs or waits for a worker: the rest is stopped for good. */
static enum dd_status stop_rest(struct dd_storage *storage, const struct sweep *sweep, struct dd_error *err) {
    struct db *db = &storage->write;
    int64_t ids[DD_SWEEP_MAX_RUNS];
    char reasons[DD_SWEEP_MAX_RUNS][24];
    size_t count = 0;
    enum dd_status status = DD_OK;
    DB_QUERY query = db_query_start(
        db, "UPDATE experiments SET state = CASE state WHEN 1 THEN 1 ELSE 5 END, cancel_requested = (state = 1),"
            " finished_ms = CASE WHEN state = 1 THEN finished_ms ELSE ?2 END, revision = revision + 1"
            " WHERE sweep_id = ?1 AND " WAITS " RETURNING id, stopped");
    db_bind_int(&query, sweep->id);
    db_bind_int(&query, DD_MAX(dd_clock_wall_ms(), 1));
    for (bool row = true; status == DD_OK && row && count < DD_SWEEP_MAX_RUNS;) {
        status = db_query_next(&query, &row, err);
        if (status == DD_OK && row) {
            snprintf(reasons[count], sizeof reasons[count], "%s", (const char *)sqlite3_column_text(query.stmt, 1));
            ids[count++] = db_column_int(&query, 0);
        }
    }
    db_query_end(&query);
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        status =
            say(storage, ids[i], err, "%s: stopped here, the sweep is decided; a retry goes on from here", reasons[i]);
    }
    return status;
}

/* Nobody may be promoted by the rule.  If nothing else can happen either, the sweep ends; not without one whole run. */
static enum dd_status end_when_at_rest(struct dd_storage *storage, const struct sweep *sweep, struct dd_error *err) {
    struct db *db = &storage->write;
    int64_t moving = 0, whole = 0, rung = 0;
    enum dd_status status = ask(db, "SELECT EXISTS (SELECT 1 FROM experiments WHERE sweep_id = ?1 AND " COMES ")",
                                sweep->id, 0, &moving, err);
    if (status != DD_OK || moving) {
        return status;
    }
    status = ask(db, "SELECT EXISTS (SELECT 1 FROM experiments WHERE sweep_id = ?1 AND state = 3)", sweep->id, 0,
                 &whole, err);
    if (status == DD_OK && !whole) {
        status = ask(db,
                     "SELECT max(rung) FROM asha JOIN experiments ON id = experiment_id"
                     " WHERE asha.sweep_id = ?1 AND NOT promoted AND " WAITS,
                     sweep->id, 0, &rung, err);
    }
    bool any = false;
    if (status == DD_OK && rung > 0) {
        struct place places[DD_SWEEP_MAX_RUNS];
        size_t n = 0;
        status = places_at(db, sweep->id, (int)rung, places, &n, err);
        for (size_t i = 0; status == DD_OK && i < n && !any; i++) {
            if (!places[i].promoted) {
                status = promote(storage, sweep, (int)rung, &places[i], i + 1, n, &any, err);
            }
        }
    }
    return status == DD_OK && !any ? stop_rest(storage, sweep, err) : status;
}

/* What a free worker, or one that becomes free, may expect of the sweep. */
static enum dd_status settle(struct dd_storage *storage, const struct sweep *sweep, struct dd_error *err) {
    int64_t queued = 0;
    bool any = false;
    enum dd_status status =
        ask(&storage->write,
            "SELECT EXISTS (SELECT 1 FROM experiments WHERE sweep_id = ?1 AND state = 0 AND NOT asha_free)", sweep->id,
            0, &queued, err);
    if (status != DD_OK || queued) {
        return status;
    }
    status = promote_best(storage, sweep, &any, err);
    return status == DD_OK && !any ? end_when_at_rest(storage, sweep, err) : status;
}

/* --- occasions ------------------------------------------------------------------------------------------------------
 */

/* The run's sweep, where that decides about it; id 0 otherwise. */
static enum dd_status sweep_of(struct db *db, int64_t id, struct sweep *ret_sweep, int *ret_point, int *ret_epochs,
                               bool *ret_pausing, struct dd_error *err) {
    bool row = false;
    DB_QUERY query =
        db_query_start(db, "SELECT sweeps.id, asha_min_epochs, asha_eta, asha_accuracy, sweep_point, epochs,"
                           " pause_requested FROM experiments JOIN sweeps ON sweeps.id = sweep_id"
                           " WHERE experiments.id = ? AND asha_min_epochs > 0 AND sweeps.state = 0 AND NOT asha_free"
                           " AND NOT cancel_requested AND experiments.state = 1");
    db_bind_int(&query, id);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && row) {
        *ret_sweep = (struct sweep){.id = db_column_int(&query, 0),
                                    .asha = {.min_epochs = (int)db_column_int(&query, 1),
                                             .eta = (int)db_column_int(&query, 2),
                                             .by_accuracy = db_column_int(&query, 3) != 0}};
        *ret_point = (int)db_column_int(&query, 4);
        *ret_epochs = (int)db_column_int(&query, 5);
        *ret_pausing = db_column_int(&query, 6) != 0;
    }
    return status;
}

/* The run's row at the rung.  *ret_new: false when it has been here before (an epoch that is delivered again). */
static enum dd_status arrive(struct db *db, const struct sweep *sweep, int64_t id, int point, int rung, int epoch,
                             bool *ret_new, struct dd_error *err) {
    int changes = 0;
    struct db_query query = db_query_start(
        db, sweep->asha.by_accuracy
                ? "INSERT OR IGNORE INTO asha (experiment_id, rung, sweep_id, point, epoch, score)"
                  " SELECT ?1, ?2, ?3, ?4, ?5, max(accuracy) FROM epochs WHERE experiment_id = ?1 AND epoch <= ?5"
                : "INSERT OR IGNORE INTO asha (experiment_id, rung, sweep_id, point, epoch, score)"
                  " SELECT ?1, ?2, ?3, ?4, ?5, max(macro_f1) FROM epochs WHERE experiment_id = ?1 AND epoch <= ?5");
    db_bind_int(&query, id);
    db_bind_int(&query, rung);
    db_bind_int(&query, sweep->id);
    db_bind_int(&query, point);
    db_bind_int(&query, epoch);
    enum dd_status status = db_query_run(&query, &changes, err);
    *ret_new = changes > 0;
    return status;
}

/* The run stops at the rung, as far as is known before settle. */
static enum dd_status hold(struct db *db, int64_t id, int rung, struct dd_error *err) {
    char reason[24];
    snprintf(reason, sizeof reason, "asha rung %d", rung);
    struct db_query query =
        db_query_start(db, "UPDATE experiments SET pause_requested = 1, stopped = ?2 WHERE id = ?1 AND state = 1");
    db_bind_int(&query, id);
    db_bind_text(&query, reason);
    return db_query_run(&query, NULL, err);
}

enum dd_status db_asha_epoch(struct dd_storage *storage, int64_t id, int epoch, bool *ret_stop, struct dd_error *err) {
    struct db *db = &storage->write;
    struct sweep sweep = {0};
    int point = 0, epochs = 0;
    bool pausing = false, new = false;
    *ret_stop = false;
    enum dd_status status = sweep_of(db, id, &sweep, &point, &epochs, &pausing, err);
    int rung = status == DD_OK && sweep.id != 0 && epoch < epochs ? rung_of(&sweep.asha, epoch) : 0;
    if (status != DD_OK || rung == 0) {
        return status;
    }
    status = arrive(db, &sweep, id, point, rung, epoch, &new, err);
    if (status != DD_OK || !new) {
        return status;
    }
    status = say(storage, id, err, "asha rung %d: reached with epoch %d", rung, epoch);
    if (status == DD_OK) {
        status = hold(db, id, rung, err);
    }
    if (status == DD_OK) {
        status = settle(storage, &sweep, err);
    }
    int64_t held = 0;
    if (status == DD_OK) {
        status = ask(db, "SELECT stopped IS NOT NULL FROM experiments WHERE id = ?1", id, 0, &held, err);
    }
    if (status == DD_OK && !held && pausing) { /* a person's wish to pause, which promote has taken back with ours */
        struct db_query query = db_query_start(db, "UPDATE experiments SET pause_requested = 1 WHERE id = ?");
        db_bind_int(&query, id);
        status = db_query_run(&query, NULL, err);
    }
    *ret_stop = held != 0;
    return status;
}

enum dd_status db_asha_idle(struct dd_storage *storage, struct dd_error *err) {
    struct sweep sweeps[16];
    size_t n = 0;
    enum dd_status status = DD_OK;
    {
        DB_QUERY query = db_query_start(
            &storage->write, "SELECT id, asha_min_epochs, asha_eta, asha_accuracy FROM sweeps WHERE state = 0 AND"
                             " id IN (SELECT DISTINCT sweep_id FROM experiments WHERE " WAITS ") ORDER BY id LIMIT 16");
        for (bool row = true; status == DD_OK && row && n < DD_ARRAY_LEN(sweeps);) {
            status = db_query_next(&query, &row, err);
            if (status == DD_OK && row) {
                sweeps[n++] = (struct sweep){.id = db_column_int(&query, 0),
                                             .asha = {.min_epochs = (int)db_column_int(&query, 1),
                                                      .eta = (int)db_column_int(&query, 2),
                                                      .by_accuracy = db_column_int(&query, 3) != 0}};
            }
        }
    }
    for (size_t i = 0; i < n && status == DD_OK; i++) {
        status = settle(storage, &sweeps[i], err);
    }
    return status;
}

/* --- reading --------------------------------------------------------------------------------------------------------
 */

enum dd_status dd_storage_asha_rungs(struct dd_storage *storage, int64_t sweep_id, struct dd_asha_rung *rungs,
                                     size_t max, size_t *ret_count, struct dd_error *err) {
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT rung, min(epoch), count(DISTINCT point),"
                                                    " count(DISTINCT CASE WHEN promoted THEN point END) FROM asha"
                                                    " WHERE sweep_id = ? GROUP BY rung ORDER BY rung");
    db_bind_int(&query, sweep_id);
    for (*ret_count = 0; *ret_count < max; ++*ret_count) {
        bool row = false;
        enum dd_status status = db_query_next(&query, &row, err);
        if (status != DD_OK || !row) {
            return status;
        }
        rungs[*ret_count] = (struct dd_asha_rung){.rung = (int)db_column_int(&query, 0),
                                                  .epoch = (int)db_column_int(&query, 1),
                                                  .points = (int)db_column_int(&query, 2),
                                                  .promoted = (int)db_column_int(&query, 3)};
    }
    return DD_OK;
}
