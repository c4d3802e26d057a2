/* metrics: the curves of a run: epochs and steps, and the summary of them in the experiment's row.
 *
 * A resumed run repeats what came after its checkpoint, with the same values.  So every put may be repeated: rows are
 * replaced by number, epochs_done only grows, last is the highest epoch, best is the highest epoch that was best when
 * it came, and when and in which attempt it was recorded first stays.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define MAX_ROWS ((size_t)8 << 20) /* read at once */

/* The REAL columns of the table epochs, in the order of struct dd_epoch_row. */
#define EPOCH_REALS                                                                                                    \
    "train_loss, train_kl, train_ce, dev_loss, accuracy, macro_precision, macro_recall, macro_f1,"                     \
    " weighted_precision, weighted_recall, weighted_f1, teacher_agreement, lr, seconds, elapsed_seconds,"              \
    " tokens_per_second, train_hidden, train_cls, train_attention, train_relation, dev_kl, dev_ce"
static const size_t epoch_reals[] = {
    offsetof(struct dd_epoch_row, train_loss),
    offsetof(struct dd_epoch_row, train_kl),
    offsetof(struct dd_epoch_row, train_ce),
    offsetof(struct dd_epoch_row, dev_loss),
    offsetof(struct dd_epoch_row, accuracy),
    offsetof(struct dd_epoch_row, macro_precision),
    offsetof(struct dd_epoch_row, macro_recall),
    offsetof(struct dd_epoch_row, macro_f1),
    offsetof(struct dd_epoch_row, weighted_precision),
    offsetof(struct dd_epoch_row, weighted_recall),
    offsetof(struct dd_epoch_row, weighted_f1),
    offsetof(struct dd_epoch_row, teacher_agreement),
    offsetof(struct dd_epoch_row, lr),
    offsetof(struct dd_epoch_row, seconds),
    offsetof(struct dd_epoch_row, elapsed_seconds),
    offsetof(struct dd_epoch_row, tokens_per_second),
    offsetof(struct dd_epoch_row, train_hidden),
    offsetof(struct dd_epoch_row, train_cls),
    offsetof(struct dd_epoch_row, train_attention),
    offsetof(struct dd_epoch_row, train_relation),
    offsetof(struct dd_epoch_row, dev_kl),
    offsetof(struct dd_epoch_row, dev_ce),
};

/* When and in which attempt it was recorded first comes back in *epoch. */
static enum dd_status put_epoch_row(struct db *db, int64_t id, struct dd_epoch_row *epoch, struct dd_error *err) {
    DB_QUERY query = db_query_start(
        db,
        "INSERT INTO epochs (experiment_id, epoch, is_best, recorded_ms, rollback, rollback_to, attempt, " EPOCH_REALS
        ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (experiment_id, epoch) DO UPDATE SET is_best = excluded.is_best,"
        " rollback = excluded.rollback, rollback_to = excluded.rollback_to,"
        " (" EPOCH_REALS ") = (excluded.train_loss, excluded.train_kl, excluded.train_ce, excluded.dev_loss,"
        " excluded.accuracy, excluded.macro_precision, excluded.macro_recall, excluded.macro_f1,"
        " excluded.weighted_precision, excluded.weighted_recall, excluded.weighted_f1,"
        " excluded.teacher_agreement, excluded.lr, excluded.seconds, excluded.elapsed_seconds,"
        " excluded.tokens_per_second, excluded.train_hidden, excluded.train_cls,"
        " excluded.train_attention, excluded.train_relation, excluded.dev_kl, excluded.dev_ce)"
        " RETURNING recorded_ms, attempt");
    db_bind_int(&query, id);
    db_bind_int(&query, epoch->epoch);
    db_bind_int(&query, epoch->is_best);
    db_bind_int(&query, epoch->recorded_ms ? epoch->recorded_ms : dd_clock_wall_ms());
    db_bind_int(&query, epoch->rollback);
    db_bind_int(&query, epoch->rollback_to);
    db_bind_int(&query, epoch->attempt);
    for (size_t i = 0; i < DD_ARRAY_LEN(epoch_reals); i++) {
        double value;
        memcpy(&value, (const char *)epoch + epoch_reals[i], sizeof value);
        db_bind_real(&query, value);
    }
    bool row = false;
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && row) {
        epoch->recorded_ms = db_column_int(&query, 0);
        epoch->attempt = (int)db_column_int(&query, 1);
        status = db_query_next(&query, &row, err); /* to the end: a run that is gone shows there */
    }
    return status;
}

static enum dd_status put_steps(struct db *db, int64_t id, const struct dd_step_row *steps, size_t n_steps,
                                struct dd_error *err) {
    enum dd_status status = DD_OK;
    for (size_t i = 0; i < n_steps && status == DD_OK; i++) {
        const struct dd_step_row *step = &steps[i];
        struct db_query query =
            db_query_start(db, "INSERT OR REPLACE INTO steps (experiment_id, step, epoch, loss, kl, ce, lr, grad_norm,"
                               " elapsed_seconds, tokens_per_second) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        db_bind_int(&query, id);
        db_bind_int(&query, step->step);
        db_bind_int(&query, step->epoch);
        db_bind_real(&query, step->loss);
        db_bind_real(&query, step->kl);
        db_bind_real(&query, step->ce);
        db_bind_real(&query, step->lr);
        db_bind_real(&query, step->grad_norm);
        db_bind_real(&query, step->elapsed_seconds);
        db_bind_real(&query, step->tokens_per_second);
        status = db_query_run(&query, NULL, err);
    }
    return status;
}

enum dd_status db_scores_put(struct db *db, const char *sql, int64_t id, const struct dd_scores *scores,
                             int *ret_changes, struct dd_error *err) {
    struct db_query query = db_query_start(db, sql);
    db_bind_int(&query, id);
    db_bind_int(&query, scores->epoch);
    db_bind_real(&query, scores->accuracy);
    db_bind_real(&query, scores->macro_precision);
    db_bind_real(&query, scores->macro_recall);
    db_bind_real(&query, scores->macro_f1);
    db_bind_real(&query, scores->weighted_f1);
    db_bind_real(&query, scores->dev_loss);
    db_bind_real(&query, scores->train_loss);
    return db_query_run(&query, ret_changes, err);
}

/* epochs_done, last and best of the experiment. */
static enum dd_status put_epoch_summary(struct db *db, int64_t id, const struct dd_epoch_row *epoch,
                                        struct dd_error *err) {
    const struct dd_scores scores = {epoch->epoch,    epoch->accuracy,    epoch->macro_precision, epoch->macro_recall,
                                     epoch->macro_f1, epoch->weighted_f1, epoch->dev_loss,        epoch->train_loss};
    struct db_query done = db_query_start(db, "UPDATE experiments SET epochs_done = max(epochs_done, ?2),"
                                              " revision = revision + 1 WHERE id = ?1");
    db_bind_int(&done, id);
    db_bind_int(&done, epoch->epoch);
    enum dd_status status = db_query_run(&done, NULL, err);
    if (status == DD_OK) {
        status = db_scores_put(db, DB_PUT_SCORES("last") " AND ?2 >= last_epoch", id, &scores, NULL, err);
    }
    if (status == DD_OK && epoch->is_best) {
        status = db_scores_put(db, DB_PUT_SCORES("best") " AND ?2 >= best_epoch", id, &scores, NULL, err);
    }
    return status;
}

enum dd_status dd_storage_epoch_put(struct dd_storage *storage, int64_t id, struct dd_epoch_row *epoch,
                                    const struct dd_prediction_set *dev, const struct dd_step_row *steps,
                                    size_t n_steps, bool *ret_stop, struct dd_error *err) {
    DD_CLEANUP(db_blobs_release) struct db_blobs blobs = {0};
    enum dd_status status = DD_OK;
    if (epoch->epoch < 1) {
        return dd_fail(err, DD_INTERNAL, "epoch_invalid", "epochs count from 1, got %d", epoch->epoch);
    }
    if (dev) {
        status = db_blobs_pack("dev predictions", dev->label, dev->score, dev->n, &blobs, err);
        if (status != DD_OK) {
            return status;
        }
    }
    struct db *db = &storage->write;
    DB_GUARD(db);
    size_t n_news = storage->n_news;
    bool stop = false;
    status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = put_epoch_row(db, id, epoch, err); /* fails first where the experiment is gone */
    if (status == DD_OK && dev) {
        status = db_predictions_put(db, id, epoch->epoch, &blobs, dev->n, err);
    }
    if (status == DD_OK) {
        status = put_steps(db, id, steps, n_steps, err);
    }
    if (status == DD_OK) {
        status = put_epoch_summary(db, id, epoch, err);
    }
    if (status == DD_OK) {
        status = db_asha_epoch(storage, id, epoch->epoch, &stop, err);
    }
    status = db_asha_finish(storage, n_news, status, err);
    if (status == DD_OK && ret_stop) {
        *ret_stop = stop;
    }
    return status;
}

enum dd_status dd_storage_steps_put(struct dd_storage *storage, int64_t id, const struct dd_step_row *steps,
                                    size_t n_steps, struct dd_error *err) {
    struct db *db = &storage->write;
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    return db_finish(db, put_steps(db, id, steps, n_steps, err), err);
}

/* Room for one more row; doubles. */
static enum dd_status grow(void **rows, size_t count, size_t *room, size_t size, struct dd_error *err) {
    if (count < *room) {
        return DD_OK;
    }
    size_t wanted = *room ? 2 * *room : 64;
    if (wanted > 2 * MAX_ROWS) {
        return dd_fail(err, DD_TOO_LARGE, "too_many_rows", "more than %zu rows; ask for a part of them", MAX_ROWS);
    }
    void *grown = dd_realloc_array(*rows, wanted, size);
    if (!grown) {
        return dd_fail_memory(err, wanted * size);
    }
    *rows = grown;
    *room = wanted;
    return DD_OK;
}

static void read_epoch(const struct db_query *query, void *row) {
    struct dd_epoch_row *epoch = row;
    epoch->epoch = (int)db_column_int(query, 0);
    epoch->is_best = db_column_int(query, 1) != 0;
    epoch->recorded_ms = db_column_int(query, 2);
    epoch->rollback = (int)db_column_int(query, 3);
    epoch->rollback_to = (int)db_column_int(query, 4);
    epoch->attempt = (int)db_column_int(query, 5);
    for (size_t i = 0; i < DD_ARRAY_LEN(epoch_reals); i++) {
        double value = db_column_real(query, 6 + (int)i);
        memcpy((char *)epoch + epoch_reals[i], &value, sizeof value);
    }
}

static void read_step(const struct db_query *query, void *row) {
    *(struct dd_step_row *)row = (struct dd_step_row){
        .step = db_column_int(query, 0),
        .epoch = (int)db_column_int(query, 1),
        .loss = db_column_real(query, 2),
        .kl = db_column_real(query, 3),
        .ce = db_column_real(query, 4),
        .lr = db_column_real(query, 5),
        .grad_norm = db_column_real(query, 6),
        .elapsed_seconds = db_column_real(query, 7),
        .tokens_per_second = db_column_real(query, 8),
    };
}

/* All rows of a bound query into one block; *ret_rows is never NULL on success, so that free() suffices. */
static enum dd_status read_all(struct db_query *query, size_t size, void (*read)(const struct db_query *, void *),
                               void **ret_rows, size_t *ret_count, struct dd_error *err) {
    void *rows = NULL;
    size_t count = 0;
    size_t room = 0;
    for (;;) {
        bool row = false;
        enum dd_status status = grow(&rows, count, &room, size, err);
        if (status == DD_OK) {
            status = db_query_next(query, &row, err);
        }
        if (status != DD_OK) {
            free(rows);
            return status;
        }
        if (!row) {
            *ret_rows = rows;
            *ret_count = count;
            return DD_OK;
        }
        read(query, (char *)rows + count++ * size);
    }
}

enum dd_status dd_storage_epochs_get(struct dd_storage *storage, int64_t id, int after, struct dd_epoch_row **ret_rows,
                                     size_t *ret_count, struct dd_error *err) {
    void *rows = NULL;
    DB_GUARD(&storage->read);
    DB_QUERY query =
        db_query_start(&storage->read,
                       "SELECT epoch, is_best, recorded_ms, rollback, rollback_to, attempt, " EPOCH_REALS " FROM epochs"
                       " WHERE experiment_id = ? AND epoch > ? ORDER BY epoch");
    db_bind_int(&query, id);
    db_bind_int(&query, after);
    enum dd_status status = read_all(&query, sizeof **ret_rows, read_epoch, &rows, ret_count, err);
    if (status == DD_OK) {
        *ret_rows = rows;
    }
    return status;
}

enum dd_status dd_storage_steps_get(struct dd_storage *storage, int64_t id, int64_t after, int64_t before,
                                    struct dd_step_row **ret_rows, size_t *ret_count, struct dd_error *err) {
    void *rows = NULL;
    DB_GUARD(&storage->read);
    DB_QUERY query =
        db_query_start(&storage->read, "SELECT step, epoch, loss, kl, ce, lr, grad_norm, elapsed_seconds,"
                                       " tokens_per_second FROM steps"
                                       " WHERE experiment_id = ? AND step > ? AND step <= ? ORDER BY step");
    db_bind_int(&query, id);
    db_bind_int(&query, after);
    db_bind_int(&query, before <= 0 ? INT64_MAX : before);
    enum dd_status status = read_all(&query, sizeof **ret_rows, read_step, &rows, ret_count, err);
    if (status == DD_OK) {
        *ret_rows = rows;
    }
    return status;
}
