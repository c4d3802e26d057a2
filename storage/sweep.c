/* sweep: groups of experiments that were submitted as one: insert, get, list, counts, cancel.
 *
 * A sweep holds its request (base and plan, both JSON) and no results: those are its experiments', which name it in
 * sweep_id and their point in sweep_point.  Deleting an experiment leaves the sweep with one run less.
 */
#include <stdlib.h>

#include "storage/db.h"

#define MAX_LIMIT 500
#define COLUMNS "id, name, base, axes, state, created_ms, asha_min_epochs, asha_eta, asha_accuracy"
#define CANCELLED 1 /* of sweeps.state; 0 otherwise */

void dd_sweep_release(struct dd_sweep *sweep) {
    free(sweep->name);
    free(sweep->base_json);
    free(sweep->plan_json);
    *sweep = (struct dd_sweep){0};
}

void dd_sweeps_free(struct dd_sweep *items, size_t count) {
    for (size_t i = 0; items && i < count; i++) {
        dd_sweep_release(&items[i]);
    }
    free(items);
}

static enum dd_status missing(int64_t id, struct dd_error *err) {
    return dd_fail(err, DD_NOT_FOUND, "sweep_not_found", "there is no sweep %lld", (long long)id);
}

static enum dd_status read_sweep(const struct db_query *query, struct dd_sweep *ret_sweep, struct dd_error *err) {
    struct dd_sweep sweep = {.id = db_column_int(query, 0),
                             .cancelled = db_column_int(query, 4) == CANCELLED,
                             .created_ms = db_column_int(query, 5),
                             .asha = {.min_epochs = (int)db_column_int(query, 6),
                                      .eta = (int)db_column_int(query, 7),
                                      .by_accuracy = db_column_int(query, 8) != 0}};
    enum dd_status status = db_column_text(query, 1, &sweep.name, err);
    if (status == DD_OK) {
        status = db_column_text(query, 2, &sweep.base_json, err);
    }
    if (status == DD_OK) {
        status = db_column_text(query, 3, &sweep.plan_json, err);
    }
    if (status != DD_OK) {
        dd_sweep_release(&sweep);
        return status;
    }
    *ret_sweep = sweep;
    return DD_OK;
}

static enum dd_status insert_all(struct db *db, const struct dd_sweep *sweep, const struct dd_experiment *experiments,
                                 size_t n, int64_t *ret_id, int64_t *ret_first_id, struct dd_error *err) {
    struct db_query query =
        db_query_start(db, "INSERT INTO sweeps (name, base, axes, created_ms, asha_min_epochs, asha_eta, asha_accuracy)"
                           " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    db_bind_text(&query, sweep->name);
    db_bind_text(&query, sweep->base_json);
    db_bind_text(&query, sweep->plan_json);
    db_bind_int(&query, DD_MAX(dd_clock_wall_ms(), 0));
    db_bind_int(&query, sweep->asha.min_epochs);
    db_bind_int(&query, sweep->asha.eta);
    db_bind_int(&query, sweep->asha.by_accuracy);
    enum dd_status status = db_query_run(&query, NULL, err);
    if (status != DD_OK) {
        return status;
    }
    *ret_id = sqlite3_last_insert_rowid(db->handle);
    for (size_t i = 0; i < n && status == DD_OK; i++) {
        struct dd_experiment row = experiments[i]; /* shallow */
        row.sweep_id = *ret_id;
        int64_t id = 0;
        status = db_experiment_insert(db, &row, &id, err);
        if (i == 0) {
            *ret_first_id = id;
        }
    }
    if (status == DD_OK && sweep->claim.key != NULL) {
        status = db_claim_put(db, &sweep->claim, "/api/v1/sweeps/", *ret_id, err);
    }
    return status;
}

enum dd_status dd_storage_sweep_insert(struct dd_storage *storage, const struct dd_sweep *sweep,
                                       const struct dd_experiment *experiments, size_t n, int64_t *ret_id,
                                       int64_t *ret_first_id, struct dd_error *err) {
    if (n < 1 || n > DD_SWEEP_MAX_RUNS) {
        return dd_fail(err, DD_INVALID, "sweep_size", "a sweep has between 1 and %d runs, this one %zu",
                       DD_SWEEP_MAX_RUNS, n);
    }
    struct db *db = &storage->write;
    int64_t id = 0;
    int64_t first = 0;
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = db_finish(db, insert_all(db, sweep, experiments, n, &id, &first, err), err);
    if (status == DD_OK) {
        *ret_id = id;
        *ret_first_id = first;
    }
    return status;
}

enum dd_status dd_storage_sweep_get(struct dd_storage *storage, int64_t id, struct dd_sweep *ret_sweep,
                                    struct dd_error *err) {
    bool row = false;
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT " COLUMNS " FROM sweeps WHERE id = ?");
    db_bind_int(&query, id);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        status = missing(id, err);
    }
    return status == DD_OK ? read_sweep(&query, ret_sweep, err) : status;
}

/* One row more than a page shows whether another follows. */
static enum dd_status read_page(struct dd_storage *storage, int64_t before, size_t wanted, struct dd_sweep *items,
                                size_t *ret_count, struct dd_error *err) {
    DB_GUARD(&storage->read);
    DB_QUERY query =
        db_query_start(&storage->read, "SELECT " COLUMNS " FROM sweeps WHERE id < ? ORDER BY id DESC LIMIT ?");
    db_bind_int(&query, before);
    db_bind_int(&query, (int64_t)wanted);
    for (*ret_count = 0; *ret_count < wanted; ++*ret_count) {
        bool row = false;
        enum dd_status status = db_query_next(&query, &row, err);
        if (status != DD_OK || !row) {
            return status;
        }
        status = read_sweep(&query, &items[*ret_count], err);
        if (status != DD_OK) {
            return status;
        }
    }
    return DD_OK;
}

enum dd_status dd_storage_sweep_list(struct dd_storage *storage, const char *cursor, int limit,
                                     struct dd_sweep **ret_items, size_t *ret_count, char **ret_next_cursor,
                                     struct dd_error *err) {
    static const char sort[] = "sweeps";
    struct db_cursor at = {.kind = 'i', .id = INT64_MAX};
    if (limit < 1 || limit > MAX_LIMIT) {
        return dd_fail(err, DD_INVALID, "limit_invalid", "limit must be between 1 and %d, got %d", MAX_LIMIT, limit);
    }
    enum dd_status status = cursor ? db_cursor_decode(cursor, sort, 'i', &at, err) : DD_OK;
    if (status != DD_OK) {
        return status;
    }
    size_t wanted = (size_t)limit + 1;
    size_t count = 0;
    char *next = NULL;
    struct dd_sweep *items = dd_calloc(wanted, sizeof *items);
    if (!items) {
        return dd_fail_memory(err, wanted * sizeof *items);
    }
    status = read_page(storage, at.id, wanted, items, &count, err);
    if (status == DD_OK && count == wanted) {
        dd_sweep_release(&items[--count]);
        const struct db_cursor end = {.kind = 'i', .id = items[count - 1].id, .integer = items[count - 1].id};
        status = db_cursor_encode(&end, sort, &next, err);
    }
    if (status != DD_OK) {
        dd_sweeps_free(items, count);
        return status;
    }
    *ret_items = items;
    *ret_count = count;
    *ret_next_cursor = next;
    return DD_OK;
}

enum dd_status dd_storage_sweep_counts(struct dd_storage *storage, int64_t id, int64_t ret_counts[DD_STATE_COUNT],
                                       struct dd_error *err) {
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        ret_counts[i] = 0;
    }
    DB_GUARD(&storage->read);
    DB_QUERY query =
        db_query_start(&storage->read, "SELECT state, count(*) FROM experiments WHERE sweep_id = ? GROUP BY state");
    db_bind_int(&query, id);
    for (;;) {
        bool row = false;
        enum dd_status status = db_query_next(&query, &row, err);
        if (status != DD_OK || !row) {
            return status;
        }
        int64_t state = db_column_int(&query, 0);
        if (state >= 0 && state < DD_STATE_COUNT) {
            ret_counts[state] = db_column_int(&query, 1);
        }
    }
}

static enum dd_status cancel_all(struct db *db, int64_t id, int64_t *ids, size_t *ret_count, struct dd_error *err) {
    int changes = 0;
    struct db_query mark = db_query_start(db, "UPDATE sweeps SET state = 1 WHERE id = ?");
    db_bind_int(&mark, id);
    enum dd_status status = db_query_run(&mark, &changes, err);
    if (status != DD_OK || changes == 0) {
        return status == DD_OK ? missing(id, err) : status;
    }
    DB_QUERY query =
        db_query_start(db, "UPDATE experiments SET cancel_requested = (state = 1), pause_requested = 0,"
                           " finished_ms = CASE WHEN state = 1 THEN finished_ms ELSE ?2 END,"
                           " state = CASE WHEN state = 1 THEN 1 ELSE 5 END, revision = revision + 1"
                           " WHERE sweep_id = ?1 AND state IN (0, 1, 2) AND NOT cancel_requested RETURNING id");
    db_bind_int(&query, id);
    db_bind_int(&query, DD_MAX(dd_clock_wall_ms(), 1));
    for (*ret_count = 0;;) {
        bool row = false;
        status = db_query_next(&query, &row, err);
        if (status != DD_OK || !row) {
            return status;
        }
        if (*ret_count < DD_SWEEP_MAX_RUNS) {
            ids[(*ret_count)++] = db_column_int(&query, 0);
        }
    }
}

enum dd_status dd_storage_sweep_cancel(struct dd_storage *storage, int64_t id, int64_t **ret_ids, size_t *ret_count,
                                       struct dd_error *err) {
    struct db *db = &storage->write;
    size_t count = 0;
    DD_CLEANUP(dd_free_ptr) int64_t *ids = dd_calloc(DD_SWEEP_MAX_RUNS, sizeof *ids);
    if (!ids) {
        return dd_fail_memory(err, DD_SWEEP_MAX_RUNS * sizeof *ids);
    }
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = db_finish(db, cancel_all(db, id, ids, &count, err), err);
    if (status == DD_OK) {
        *ret_ids = ids;
        *ret_count = count;
        ids = NULL;
    }
    return status;
}
