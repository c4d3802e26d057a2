/* idempotent: the answers given to an Idempotency-Key, for 24 hours.  The first answer to a key stays.
 *
 * A key comes in one of two ways: with the whole answer (put), or as a claim in the transaction of an insert, which put
 * then completes.  So there is no moment at which an experiment exists and its key is unknown. */
#include <stdlib.h>

#include "storage/db.h"

#define KEPT_MS ((int64_t)24 * 60 * 60 * 1000)

void dd_idempotent_release(struct dd_idempotent *record) {
    free(record->request_hash);
    free(record->location);
    free(record->body);
    *record = (struct dd_idempotent){0};
}

static enum dd_status read_record(const struct db_query *query, struct dd_idempotent *record, struct dd_error *err) {
    record->status = (int)db_column_int(query, 1);
    enum dd_status status = db_column_text(query, 0, &record->request_hash, err);
    if (status == DD_OK) {
        status = db_column_text(query, 2, &record->location, err);
    }
    if (status == DD_OK) {
        status = db_column_text(query, 3, &record->body, err);
    }
    return status;
}

enum dd_status dd_storage_idempotent_get(struct dd_storage *storage, const char *key, struct dd_idempotent *ret_record,
                                         struct dd_error *err) {
    DD_CLEANUP(dd_idempotent_release) struct dd_idempotent record = {0};
    bool row = false;
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT request_hash, status, location, body FROM idempotency"
                                                    " WHERE key = ? AND created_ms > ?");
    db_bind_text(&query, key);
    db_bind_int(&query, dd_clock_wall_ms() - KEPT_MS);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        return dd_fail(err, DD_NOT_FOUND, "idempotency_key_new", "this Idempotency-Key has not been used");
    }
    if (status == DD_OK) {
        status = read_record(&query, &record, err);
    }
    if (status == DD_OK) {
        *ret_record = record;
        record = (struct dd_idempotent){0};
    }
    return status;
}

static enum dd_status drop_old(struct db *db, int64_t now, struct dd_error *err) {
    struct db_query old = db_query_start(db, "DELETE FROM idempotency WHERE created_ms <= ?");
    db_bind_int(&old, now - KEPT_MS);
    return db_query_run(&old, NULL, err);
}

static enum dd_status key_reused(struct dd_error *err) {
    return dd_fail(err, DD_CONFLICT, "idempotency_key_reused",
                   "this Idempotency-Key was used for another request; use a new key");
}

enum dd_status db_claim_put(struct db *db, const struct dd_claim *claim, const char *prefix, int64_t id,
                            struct dd_error *err) {
    int64_t now = dd_clock_wall_ms();
    int changes = 0;
    char location[128];
    snprintf(location, sizeof location, "%s%lld", prefix, (long long)id);
    enum dd_status status = drop_old(db, now, err);
    if (status != DD_OK) {
        return status;
    }
    struct db_query query =
        db_query_start(db, "INSERT INTO idempotency (key, request_hash, status, location, body,"
                           " created_ms) VALUES (?, ?, 201, ?, NULL, ?) ON CONFLICT (key) DO NOTHING");
    db_bind_text(&query, claim->key);
    db_bind_text(&query, claim->request_hash);
    db_bind_text(&query, location);
    db_bind_int(&query, now);
    status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0 ? key_reused(err) : status;
}

static enum dd_status put_record(struct db *db, const char *key, const struct dd_idempotent *record, int *ret_changes,
                                 struct dd_error *err) {
    int64_t now = dd_clock_wall_ms();
    enum dd_status status = drop_old(db, now, err);
    if (status != DD_OK) {
        return status;
    }
    /* A claim is completed; the same request again changes nothing but counts as done. */
    struct db_query query = db_query_start(
        db, "INSERT INTO idempotency (key, request_hash, status, location, body, created_ms) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET body = coalesce(body, excluded.body)"
            " WHERE request_hash = excluded.request_hash");
    db_bind_text(&query, key);
    db_bind_text(&query, record->request_hash);
    db_bind_int(&query, record->status);
    db_bind_text(&query, record->location);
    db_bind_text(&query, record->body);
    db_bind_int(&query, now);
    return db_query_run(&query, ret_changes, err);
}

enum dd_status dd_storage_idempotent_put(struct dd_storage *storage, const char *key,
                                         const struct dd_idempotent *record, struct dd_error *err) {
    struct db *db = &storage->write;
    int changes = 0;
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = put_record(db, key, record, &changes, err);
    if (status == DD_OK && changes == 0) {
        status = key_reused(err);
    }
    return db_finish(db, status, err);
}
