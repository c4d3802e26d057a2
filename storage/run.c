/* run: what else a run reports: its progress, its teacher's scores, its log lines. */
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define LOG_ROWS_MAX 10000 /* read at once */

enum dd_status dd_storage_set_teacher_scores(struct dd_storage *storage, int64_t id, const struct dd_scores *scores,
                                             struct dd_error *err) {
    int changes = 0;
    DB_GUARD(&storage->write);
    enum dd_status status = db_scores_put(&storage->write, DB_PUT_SCORES("teacher"), id, scores, &changes, err);
    return status == DD_OK && changes == 0 ? db_experiment_missing(id, err) : status;
}

enum dd_status dd_storage_set_progress(struct dd_storage *storage, int64_t id, const char *phase, int64_t steps_done,
                                       int64_t steps, double eta_seconds, double tokens_per_second,
                                       double elapsed_seconds, struct dd_error *err) {
    int changes = 0;
    DB_GUARD(&storage->write);
    struct db_query query =
        db_query_start(&storage->write,
                       "UPDATE experiments SET phase = coalesce(?, phase), steps_done = ?, steps = ?, eta_seconds = ?,"
                       " tokens_per_second = ?, elapsed_seconds = coalesce(?, elapsed_seconds),"
                       " revision = revision + 1 WHERE id = ?");
    db_bind_text(&query, phase);
    db_bind_int(&query, steps_done);
    db_bind_int(&query, steps);
    db_bind_real(&query, eta_seconds);
    db_bind_real(&query, tokens_per_second);
    db_bind_real(&query, elapsed_seconds);
    db_bind_int(&query, id);
    enum dd_status status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0 ? db_experiment_missing(id, err) : status;
}

enum dd_status db_log_put(struct db *db, int64_t id, enum dd_log_level level, const char *message, int64_t *ret_seq,
                          struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, "INSERT INTO run_log (experiment_id, seq, time_ms, level, message)"
                                        " SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3, ?4 FROM run_log"
                                        " WHERE experiment_id = ?1 RETURNING seq");
    db_bind_int(&query, id);
    db_bind_int(&query, dd_clock_wall_ms());
    db_bind_int(&query, (int64_t)level);
    db_bind_text(&query, message);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status != DD_OK) {
        return status;
    }
    int64_t seq = db_column_int(&query, 0);
    status = db_query_run(&query, NULL, err);
    if (status == DD_OK) {
        *ret_seq = seq;
    }
    return status;
}

enum dd_status dd_storage_log_put(struct dd_storage *storage, int64_t id, enum dd_log_level level, const char *message,
                                  int64_t *ret_seq, struct dd_error *err) {
    DB_GUARD(&storage->write);
    return db_log_put(&storage->write, id, level, message, ret_seq, err);
}

enum dd_status dd_storage_log_get(struct dd_storage *storage, int64_t id, int64_t after, int limit,
                                  struct dd_log_row **ret_rows, size_t *ret_count, struct dd_error *err) {
    if (limit < 1 || limit > LOG_ROWS_MAX) {
        return dd_fail(err, DD_INVALID, "limit_invalid", "limit must be between 1 and %d, got %d", LOG_ROWS_MAX, limit);
    }
    size_t count = 0;
    struct dd_log_row *rows = dd_calloc((size_t)limit, sizeof *rows);
    if (!rows) {
        return dd_fail_memory(err, (size_t)limit * sizeof *rows);
    }
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT seq, time_ms, level, message FROM run_log"
                                                    " WHERE experiment_id = ? AND seq > ? ORDER BY seq LIMIT ?");
    db_bind_int(&query, id);
    db_bind_int(&query, after);
    db_bind_int(&query, limit);
    for (;;) {
        bool row = false;
        enum dd_status status = db_query_next(&query, &row, err);
        if (status == DD_OK && (!row || count == (size_t)limit)) {
            *ret_rows = rows;
            *ret_count = count;
            return DD_OK;
        }
        if (status == DD_OK) {
            rows[count] = (struct dd_log_row){.seq = db_column_int(&query, 0),
                                              .time_ms = db_column_int(&query, 1),
                                              .level = (enum dd_log_level)db_column_int(&query, 2)};
            status = db_column_text(&query, 3, &rows[count].message, err);
        }
        if (status != DD_OK) {
            dd_log_rows_free(rows, count);
            return status;
        }
        count++;
    }
}

void dd_log_rows_free(struct dd_log_row *rows, size_t count) {
    for (size_t i = 0; rows && i < count; i++) {
        free(rows[i].message);
    }
    free(rows);
}
