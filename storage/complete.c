/* complete: the end of a run that went well, in one transaction: its result becomes a model and it becomes finished.
 *
 * Were they two, a kill between them would leave the model of a run that can still be cancelled or fail.
 */
#include <string.h>

#include "storage/db.h"

/* What an earlier life of the same run registered under the name gives way. */
static enum dd_status remove_old(struct db *db, int64_t id, const char *name, int64_t *ret_replaced,
                                 struct dd_error *err) {
    bool row = false;
    struct db_query query =
        db_query_start(db, "DELETE FROM assets WHERE asset = ?1 AND name = ?2 AND experiment_id = ?3 RETURNING id");
    db_bind_int(&query, DD_ASSET_MODEL);
    db_bind_text(&query, name);
    db_bind_int(&query, id);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK) {
        *ret_replaced = row ? db_column_int(&query, 0) : 0;
        status = db_query_run(&query, NULL, err);
    }
    return status;
}

static enum dd_status finish(struct db *db, int64_t id, const struct dd_completion *done, struct dd_error *err) {
    int changes = 0;
    struct db_query query = db_query_start(
        db, "UPDATE experiments SET state = 3, finished_ms = ?2, model_name = ?3, model_parameters = ?4,"
            " model_bytes = ?5, phase = '', steps_done = ?6, steps = ?6, tokens_per_second = ?7,"
            " elapsed_seconds = coalesce(?8, elapsed_seconds), error_code = NULL, error_message = NULL, " DB_WISHES_DONE
            " WHERE id = ?1 AND state = 1");
    db_bind_int(&query, id);
    db_bind_int(&query, DD_MAX(dd_clock_wall_ms(), 0));
    db_bind_text(&query, done->model->name);
    db_bind_int_or_null(&query, done->parameters);
    db_bind_int_or_null(&query, done->model_bytes);
    db_bind_int(&query, done->steps);
    db_bind_real(&query, done->tokens_per_second);
    db_bind_real(&query, done->elapsed_seconds);
    enum dd_status status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0 ? db_experiment_refused(db, id, "only a running one can end", err) : status;
}

enum dd_status dd_storage_experiment_complete(struct dd_storage *storage, int64_t id, const struct dd_completion *done,
                                              int64_t *ret_replaced, struct dd_error *err) {
    struct db *db = &storage->write;
    int64_t replaced = 0, model = 0;
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = finish(db, id, done, err);
    if (status == DD_OK) {
        status = remove_old(db, id, done->model->name, &replaced, err);
    }
    if (status == DD_OK) {
        status = db_asset_insert(db, DD_ASSET_MODEL, done->model, &model, err);
    }
    status = db_finish(db, status, err);
    if (status == DD_OK) {
        *ret_replaced = replaced;
    }
    return status;
}
