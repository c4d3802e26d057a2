/* predictions: what models said about the dev rows, and the gold labels, as compact blobs.
 *
 * Format: labels n × uint16, scores n × float32, both little-endian, in the order of the dev file.  The reference of a
 * run holds the gold labels, the class names and the teacher's predictions, once.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define MAX_PREDICTIONS ((size_t)100 << 20) /* rows; keeps a blob below SQLite's gigabyte */

void db_blobs_release(struct db_blobs *blobs) {
    free(blobs->labels);
    free(blobs->scores);
}

enum dd_status db_blobs_pack(const char *what, const int32_t *label, const float *score, size_t n,
                             struct db_blobs *ret_blobs, struct dd_error *err) {
    if (n > MAX_PREDICTIONS) {
        return dd_fail(err, DD_TOO_LARGE, "too_many_rows", "%s: %zu rows, at most %zu can be kept", what, n,
                       MAX_PREDICTIONS);
    }
    struct db_blobs blobs = {dd_calloc(n, sizeof(uint16_t)), score ? dd_calloc(n, sizeof(uint32_t)) : NULL};
    enum dd_status status = DD_OK;
    if (!blobs.labels || (score && !blobs.scores)) {
        status = dd_fail_memory(err, n * sizeof(uint32_t));
    }
    for (size_t i = 0; i < n && status == DD_OK; i++) {
        if (label[i] < 0 || label[i] > UINT16_MAX) {
            status = dd_fail(err, DD_INVALID, "label_out_of_range", "%s: row %zu has the label %d", what, i, label[i]);
            break;
        }
        blobs.labels[i] = htole16((uint16_t)label[i]);
        if (score) {
            uint32_t bits;
            memcpy(&bits, &score[i], sizeof bits);
            blobs.scores[i] = htole32(bits);
        }
    }
    if (status != DD_OK) {
        db_blobs_release(&blobs);
        return status;
    }
    *ret_blobs = blobs;
    return DD_OK;
}

static enum dd_status read_blob(const struct db_query *query, int column, size_t n, size_t size, const void **ret_bytes,
                                struct dd_error *err) {
    const void *bytes = sqlite3_column_blob(query->stmt, column);
    size_t count = (size_t)sqlite3_column_bytes(query->stmt, column);
    if (n > MAX_PREDICTIONS || count != n * size || (n > 0 && !bytes)) {
        return dd_fail(err, DD_CORRUPT, "database_corrupt", "stored predictions have %zu bytes instead of %zu", count,
                       n * size);
    }
    *ret_bytes = bytes;
    return DD_OK;
}

static enum dd_status unpack_labels(const struct db_query *query, int column, size_t n, int32_t **ret_label,
                                    struct dd_error *err) {
    const void *bytes = NULL;
    enum dd_status status = read_blob(query, column, n, sizeof(uint16_t), &bytes, err);
    if (status != DD_OK) {
        return status;
    }
    int32_t *label = dd_calloc(n, sizeof *label);
    if (!label) {
        return dd_fail_memory(err, n * sizeof *label);
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t value;
        memcpy(&value, (const char *)bytes + i * sizeof value, sizeof value);
        label[i] = le16toh(value);
    }
    *ret_label = label;
    return DD_OK;
}

static enum dd_status unpack_set(const struct db_query *query, int first_column, struct dd_prediction_set *ret_set,
                                 struct dd_error *err) {
    struct dd_prediction_set set = {.n = (size_t)db_column_int(query, first_column)};
    const void *bytes = NULL;
    enum dd_status status = unpack_labels(query, first_column + 1, set.n, &set.label, err);
    if (status == DD_OK) {
        status = read_blob(query, first_column + 2, set.n, sizeof(uint32_t), &bytes, err);
    }
    if (status == DD_OK) {
        set.score = dd_calloc(set.n, sizeof *set.score);
        status = set.score ? DD_OK : dd_fail_memory(err, set.n * sizeof *set.score);
    }
    if (status != DD_OK) {
        dd_prediction_set_release(&set);
        return status;
    }
    for (size_t i = 0; i < set.n; i++) {
        uint32_t bits;
        memcpy(&bits, (const char *)bytes + i * sizeof bits, sizeof bits);
        bits = le32toh(bits);
        memcpy(&set.score[i], &bits, sizeof bits);
    }
    *ret_set = set;
    return DD_OK;
}

void dd_prediction_set_release(struct dd_prediction_set *set) {
    free(set->label);
    free(set->score);
    *set = (struct dd_prediction_set){0};
}

enum dd_status db_predictions_put(struct db *db, int64_t id, int epoch, const struct db_blobs *blobs, size_t n,
                                  struct dd_error *err) {
    struct db_query query = db_query_start(
        db, "INSERT OR REPLACE INTO predictions (experiment_id, epoch, n, labels, scores) VALUES (?, ?, ?, ?, ?)");
    db_bind_int(&query, id);
    db_bind_int(&query, epoch);
    db_bind_int(&query, (int64_t)n);
    db_bind_blob(&query, blobs->labels, n * sizeof *blobs->labels);
    db_bind_blob(&query, blobs->scores, n * sizeof *blobs->scores);
    return db_query_run(&query, NULL, err);
}

enum dd_status dd_storage_predictions_get(struct dd_storage *storage, int64_t id, int epoch,
                                          struct dd_prediction_set *ret_set, struct dd_error *err) {
    bool row = false;
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT n, labels, scores FROM predictions"
                                                    " WHERE experiment_id = ? AND epoch = ?");
    db_bind_int(&query, id);
    db_bind_int(&query, epoch);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        status = dd_fail(err, DD_NOT_FOUND, "epoch_not_found", "experiment %lld has no predictions of epoch %d",
                         (long long)id, epoch);
    }
    return status == DD_OK ? unpack_set(&query, 0, ret_set, err) : status;
}

static enum dd_status put_reference(struct db *db, int64_t id, const char *classes_json, const struct db_blobs *gold,
                                    size_t n, const struct db_blobs *teacher, size_t teacher_n, struct dd_error *err) {
    struct db_query query =
        db_query_start(db, "INSERT OR REPLACE INTO reference (experiment_id, classes, n, gold, teacher_n,"
                           " teacher_labels, teacher_scores) VALUES (?, ?, ?, ?, ?, ?, ?)");
    db_bind_int(&query, id);
    db_bind_text(&query, classes_json);
    db_bind_int(&query, (int64_t)n);
    db_bind_blob(&query, gold->labels, n * sizeof *gold->labels);
    db_bind_int(&query, (int64_t)teacher_n);
    db_bind_blob(&query, teacher->labels, teacher_n * sizeof *teacher->labels);
    db_bind_blob(&query, teacher->scores, teacher_n * sizeof *teacher->scores);
    return db_query_run(&query, NULL, err);
}

/* teacher may be NULL (finetune). */
enum dd_status dd_storage_reference_put(struct dd_storage *storage, int64_t id, const char *classes_json,
                                        const int32_t *gold, size_t n, const struct dd_prediction_set *teacher,
                                        struct dd_error *err) {
    DD_CLEANUP(db_blobs_release) struct db_blobs gold_blobs = {0};
    DD_CLEANUP(db_blobs_release) struct db_blobs teacher_blobs = {0};
    size_t teacher_n = teacher ? teacher->n : 0;
    if (teacher_n != 0 && teacher_n != n) {
        return dd_fail(err, DD_INTERNAL, "reference_invalid", "%zu gold labels but %zu of the teacher", n, teacher_n);
    }
    enum dd_status status = db_blobs_pack("gold labels", gold, NULL, n, &gold_blobs, err);
    if (status == DD_OK && teacher_n) {
        status =
            db_blobs_pack("the teacher's predictions", teacher->label, teacher->score, teacher_n, &teacher_blobs, err);
    }
    if (status != DD_OK) {
        return status;
    }
    DB_GUARD(&storage->write);
    return put_reference(&storage->write, id, classes_json, &gold_blobs, n, &teacher_blobs, teacher_n, err);
}

enum dd_status dd_storage_reference_get(struct dd_storage *storage, int64_t id, char **ret_classes_json,
                                        int32_t **ret_gold, size_t *ret_n, struct dd_prediction_set *ret_teacher,
                                        struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *classes = NULL;
    DD_CLEANUP(dd_free_ptr) int32_t *gold = NULL;
    size_t n = 0;
    bool row = false;
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT classes, n, gold, teacher_n, teacher_labels, teacher_scores"
                                                    " FROM reference WHERE experiment_id = ?");
    db_bind_int(&query, id);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        status =
            dd_fail(err, DD_NOT_FOUND, "reference_not_found", "experiment %lld has no reference yet", (long long)id);
    }
    if (status == DD_OK) {
        n = (size_t)db_column_int(&query, 1);
        status = db_column_text(&query, 0, &classes, err);
    }
    if (status == DD_OK) {
        status = unpack_labels(&query, 2, n, &gold, err);
    }
    if (status == DD_OK) {
        status = unpack_set(&query, 3, ret_teacher, err);
    }
    if (status == DD_OK) {
        *ret_classes_json = classes;
        *ret_gold = gold;
        *ret_n = n;
        classes = NULL;
        gold = NULL;
    }
    return status;
}
