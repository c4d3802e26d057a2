/* queue: what happens to an experiment's state.
 *
 * queued → running → finished | failed | cancelled | paused; paused → queued (resume); failed, cancelled → queued
 * (retry); queued ⇄ paused.  Each change is one UPDATE conditional on the old state under the writer's lock, so of two
 * racing changes one wins and the other is DD_CONFLICT.  A wish about a running experiment is kept in pause_requested
 * or cancel_requested until its worker, a shutdown or the recovery fulfils it; cancel outweighs pause.
 *
 * queued_ms is when a person last queued it, so an interrupted run goes on before those that came after it.
 */
#include <string.h>

#include "storage/db.h"

static const char *const state_names[DD_STATE_COUNT] = {
    [DD_QUEUED] = "queued",     [DD_RUNNING] = "running", [DD_PAUSED] = "paused",
    [DD_FINISHED] = "finished", [DD_FAILED] = "failed",   [DD_CANCELLED] = "cancelled",
};

const char *dd_state_name(enum dd_state state) {
    return (int)state >= 0 && state < DD_STATE_COUNT ? state_names[state] : "unknown";
}

bool dd_state_parse(const char *name, enum dd_state *ret_state) {
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        if (strcmp(name, state_names[i]) == 0) {
            *ret_state = (enum dd_state)i;
            return true;
        }
    }
    return false;
}

#define BIT(state) (1u << (state))

/* What a person takes from a sweep that stopped it is that person's from then on (asha.c). */
#define RELEASED_BY_HAND "asha_free = asha_free OR stopped IS NOT NULL, stopped = NULL"

/* The numbers in the SQL are those of enum dd_state; ?1 is the experiment, ?2 the time. */
struct action_row {
    const char *name;
    unsigned from; /* states it is allowed in */
    const char *allowed;
    const char *sql;
};
static const struct action_row actions[DD_ACTION_COUNT] = {
    [DD_ACTION_CANCEL] = {"cancel", BIT(DD_QUEUED) | BIT(DD_PAUSED) | BIT(DD_RUNNING),
                          "cancel is for queued, running and paused ones",
                          "UPDATE experiments SET state = CASE state WHEN 1 THEN 1 ELSE 5 END,"
                          " cancel_requested = (state = 1),"
                          " pause_requested = CASE state WHEN 1 THEN pause_requested ELSE 0 END,"
                          " finished_ms = CASE state WHEN 1 THEN finished_ms ELSE ?2 END, revision = revision + 1"
                          " WHERE id = ?1 AND state IN (0, 1, 2) RETURNING state"},
    [DD_ACTION_PAUSE] = {"pause", BIT(DD_QUEUED) | BIT(DD_RUNNING), "pause is for queued and running ones",
                         "UPDATE experiments SET state = CASE state WHEN 1 THEN 1 ELSE 2 END,"
                         " pause_requested = (state = 1), revision = revision + 1, " RELEASED_BY_HAND
                         " WHERE id = ?1 AND state IN (0, 1) RETURNING state"},
    [DD_ACTION_RESUME] = {"resume", BIT(DD_PAUSED), "resume is for paused ones",
                          "UPDATE experiments SET state = 0, queued_ms = ?2, crashes = 0, pause_requested = 0,"
                          " cancel_requested = 0, revision = revision + 1, " RELEASED_BY_HAND
                          " WHERE id = ?1 AND state = 2 RETURNING state"},
    [DD_ACTION_RETRY] = {"retry", BIT(DD_FAILED) | BIT(DD_CANCELLED), "retry is for failed and cancelled ones",
                         "UPDATE experiments SET state = 0, queued_ms = ?2, crashes = 0, finished_ms = NULL,"
                         " error_code = NULL, error_message = NULL, pause_requested = 0, cancel_requested = 0,"
                         " revision = revision + 1, " RELEASED_BY_HAND
                         " WHERE id = ?1 AND state IN (4, 5) RETURNING state"},
};

const char *dd_action_name(enum dd_action action) {
    return (int)action >= 0 && action < DD_ACTION_COUNT ? actions[action].name : "unknown";
}

unsigned dd_state_allowed_actions(enum dd_state state) {
    unsigned mask = 0;
    for (int i = 0; i < DD_ACTION_COUNT; i++) {
        if ((int)state >= 0 && state < DD_STATE_COUNT && (actions[i].from & BIT(state))) {
            mask |= 1u << i;
        }
    }
    return mask;
}

/* A time that the queue's order can hold: positive, whatever the clock says. */
static int64_t now_ms(void) {
    return DD_MAX(dd_clock_wall_ms(), 1);
}

enum dd_status dd_storage_act(struct dd_storage *storage, int64_t id, enum dd_action action, enum dd_state *ret_state,
                              bool *ret_signal_worker, struct dd_error *err) {
    if ((int)action < 0 || action >= DD_ACTION_COUNT) {
        return dd_fail(err, DD_INTERNAL, "action_unknown", "there is no action %d", (int)action);
    }
    struct db *db = &storage->write;
    bool row = false;
    DB_GUARD(db);
    DB_QUERY query = db_query_start(db, actions[action].sql);
    db_bind_int(&query, id);
    if (sqlite3_bind_parameter_count(query.stmt) == 2) {
        db_bind_int(&query, now_ms());
    }
    enum dd_status status = db_query_next(&query, &row, err);
    if (status != DD_OK) {
        return status;
    }
    enum dd_state state = row ? (enum dd_state)db_column_int(&query, 0) : DD_QUEUED;
    status = db_query_run(&query, NULL, err); /* to its end: that is where it is committed */
    if (status != DD_OK) {
        return status;
    }
    if (!row) {
        return db_experiment_refused(db, id, actions[action].allowed, err);
    }
    *ret_state = state;
    *ret_signal_worker = state == DD_RUNNING;
    return DD_OK;
}

static enum dd_status claim_first(struct db *db, int64_t *ret_id, struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, "UPDATE experiments SET state = 1, started_ms = coalesce(started_ms, ?1),"
                                        " attempts = attempts + 1, pause_requested = 0, cancel_requested = 0,"
                                        " revision = revision + 1"
                                        " WHERE id = (SELECT id FROM experiments WHERE queue_key IS NOT NULL"
                                        "  ORDER BY queue_key, id LIMIT 1) RETURNING id");
    db_bind_int(&query, now_ms());
    enum dd_status status = db_query_next(&query, &row, err);
    if (status != DD_OK) {
        return status;
    }
    int64_t id = row ? db_column_int(&query, 0) : 0;
    status = db_query_run(&query, NULL, err);
    if (status == DD_OK) {
        *ret_id = id;
    }
    return status;
}

enum dd_status dd_storage_claim(struct dd_storage *storage, int64_t *ret_id, struct dd_error *err) {
    int64_t id = 0;
    DB_GUARD(&storage->write);
    size_t n_news = storage->n_news;
    enum dd_status status = db_begin(&storage->write, err);
    if (status != DD_OK) {
        return status;
    }
    status = db_asha_idle(storage, err);
    if (status == DD_OK) {
        status = claim_first(&storage->write, &id, err);
    }
    status = db_asha_finish(storage, n_news, status, err);
    if (status == DD_OK) {
        *ret_id = id;
    }
    return status;
}

/* What becomes of a running experiment that stops without having ended: a pending wish first, then the queue. */
#define AFTER_STOP "CASE WHEN cancel_requested THEN 5 WHEN pause_requested THEN 2 ELSE 0 END"

/* The three kinds of experiments that a dead daemon left running, in this order: those that it must not try again,
 * those that go on, and those with a pending wish. */
static enum dd_status recover_all(struct db *db, int max_crashes, int *ret_requeued, int *ret_failed,
                                  struct dd_error *err) {
    struct db_query fail = db_query_start(
        db, "UPDATE experiments SET state = 4, crashes = crashes + 1, finished_ms = ?1, error_code = 'daemon_died',"
            " error_message = 'the daemon died ' || (crashes + 1) || ' times while this experiment ran; it is not tried"
            " again by itself', " DB_WISHES_DONE " WHERE state = 1 AND NOT cancel_requested AND crashes + 1 >= ?2");
    db_bind_int(&fail, now_ms());
    db_bind_int(&fail, max_crashes);
    enum dd_status status = db_query_run(&fail, ret_failed, err);
    if (status != DD_OK) {
        return status;
    }
    struct db_query requeue =
        db_query_start(db, "UPDATE experiments SET state = 0, crashes = crashes + 1, " DB_WISHES_DONE
                           " WHERE state = 1 AND NOT cancel_requested AND NOT pause_requested");
    status = db_query_run(&requeue, ret_requeued, err);
    if (status != DD_OK) {
        return status;
    }
    struct db_query wish =
        db_query_start(db, "UPDATE experiments SET state = " AFTER_STOP ", crashes = crashes + 1,"
                           " finished_ms = CASE WHEN cancel_requested THEN ?1 END, " DB_WISHES_DONE " WHERE state = 1");
    db_bind_int(&wish, now_ms());
    return db_query_run(&wish, NULL, err);
}

enum dd_status dd_storage_recover(struct dd_storage *storage, int max_crashes, int *ret_requeued, int *ret_failed,
                                  struct dd_error *err) {
    struct db *db = &storage->write;
    int failed = 0;
    int requeued = 0;
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = db_finish(db, recover_all(db, max_crashes, &requeued, &failed, err), err);
    if (status == DD_OK) {
        *ret_requeued = requeued;
        *ret_failed = failed;
    }
    return status;
}

enum dd_status dd_storage_requeue(struct dd_storage *storage, int64_t id, struct dd_error *err) {
    struct db *db = &storage->write;
    int changes = 0;
    DB_GUARD(db);
    struct db_query query = db_query_start(db, "UPDATE experiments SET state = " AFTER_STOP ","
                                               " finished_ms = CASE WHEN cancel_requested THEN ?1 END, " DB_WISHES_DONE
                                               " WHERE id = ?2 AND state = 1");
    db_bind_int(&query, now_ms());
    db_bind_int(&query, id);
    enum dd_status status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0
               ? db_experiment_refused(db, id, "only a running one can be put back into the queue", err)
               : status;
}

enum dd_status dd_storage_experiment_finish(struct dd_storage *storage, int64_t id, enum dd_state state,
                                            const char *error_code, const char *error_message, struct dd_error *err) {
    if (state != DD_FINISHED && state != DD_FAILED && state != DD_CANCELLED && state != DD_PAUSED) {
        return dd_fail(err, DD_INTERNAL, "state_not_final", "a running experiment cannot end as %s",
                       dd_state_name(state));
    }
    struct db *db = &storage->write;
    int changes = 0;
    DB_GUARD(db);
    /* A cancel that came while the worker was pausing must not be lost; nor a promotion that took back the wish. */
    DB_QUERY query =
        db_query_start(db, "UPDATE experiments SET state = CASE WHEN ?2 = 2 AND cancel_requested THEN 5"
                           " WHEN ?2 = 2 AND NOT pause_requested AND EXISTS"
                           "  (SELECT 1 FROM asha WHERE experiment_id = ?1 AND promoted) THEN 0 ELSE ?2 END,"
                           " finished_ms = CASE WHEN ?2 = 2 AND NOT cancel_requested THEN NULL ELSE ?3 END,"
                           " error_code = ?4, error_message = ?5, " DB_WISHES_DONE " WHERE id = ?1 AND state = 1");
    db_bind_int(&query, id);
    db_bind_int(&query, (int64_t)state);
    db_bind_int(&query, now_ms());
    db_bind_text(&query, error_code);
    db_bind_text(&query, error_message);
    enum dd_status status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0 ? db_experiment_refused(db, id, "only a running one can end", err) : status;
}
