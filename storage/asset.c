/* asset: data sets and models: a name, a directory, and the JSON that the API shows of them.
 *
 * An asset that an unfinished experiment names cannot be deleted: its name stands in that experiment's columns or, for
 * the models a student or a vocabulary is taken from, in its spec.  The rows are the truth; the caller removes the
 * directory after the row is gone.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

/* A query of one row, if any, and one number; run to its end. */
static enum dd_status one_int(struct db_query *query, int64_t *ret_value, struct dd_error *err) {
    bool row = false;
    enum dd_status status = db_query_next(query, &row, err);
    int64_t value = status == DD_OK && row ? db_column_int(query, 0) : 0;
    while (status == DD_OK && row) {
        status = db_query_next(query, &row, err);
    }
    if (status == DD_OK) {
        *ret_value = value;
    }
    return status;
}

enum dd_status dd_storage_directory_begin(struct dd_storage *storage, uint32_t *ret_series, int64_t *ret_number,
                                          struct dd_error *err) {
    DB_GUARD(&storage->write);
    if (storage->series == 0) {
        uint8_t random[4];
        enum dd_status status = dd_random_bytes(random, sizeof random, err);
        if (status != DD_OK) {
            return status;
        }
        memcpy(&storage->series, random, sizeof random);
        storage->series += storage->series == 0;
    }
    DB_QUERY query =
        db_query_start(&storage->write, "INSERT INTO directories (series, last) VALUES (?, 1)"
                                        " ON CONFLICT (series) DO UPDATE SET last = last + 1 RETURNING last");
    db_bind_int(&query, storage->series);
    *ret_series = storage->series;
    return one_int(&query, ret_number, err);
}

enum dd_status dd_storage_directory_known(struct dd_storage *storage, uint32_t series, int64_t number, bool *ret_known,
                                          struct dd_error *err) {
    int64_t last = 0;
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT last FROM directories WHERE series = ?");
    db_bind_int(&query, series);
    enum dd_status status = one_int(&query, &last, err);
    if (status == DD_OK) {
        *ret_known = number > 0 && number <= last;
    }
    return status;
}

enum dd_status dd_storage_experiment_highest(struct dd_storage *storage, int64_t *ret_id, struct dd_error *err) {
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, "SELECT seq FROM sqlite_sequence WHERE name = 'experiments'");
    return one_int(&query, ret_id, err);
}

enum dd_status dd_storage_experiment_skip(struct dd_storage *storage, int64_t id, struct dd_error *err) {
    struct db *db = &storage->write;
    DB_GUARD(db);
    int changes = 0;
    struct db_query raise =
        db_query_start(db, "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'experiments'");
    db_bind_int(&raise, id);
    enum dd_status status = db_query_run(&raise, &changes, err);
    if (status != DD_OK || changes > 0) {
        return status;
    }
    struct db_query begin = db_query_start(db, "INSERT INTO sqlite_sequence (name, seq) VALUES ('experiments', ?)");
    db_bind_int(&begin, id); /* SQLite makes this row with the first experiment */
    return db_query_run(&begin, NULL, err);
}

#define MAX_LIMIT 1000
#define COLUMNS "id, revision, name, dir, owned, info, kind, experiment_id, created_ms"

static const char *const asset_nouns[] = {"data set", "model"};
static const char *const not_found_codes[] = {"dataset_not_found", "model_not_found"};

void dd_asset_release(struct dd_asset *asset) {
    free(asset->name);
    free(asset->dir);
    free(asset->info_json);
    free(asset->kind);
    *asset = (struct dd_asset){0};
}

void dd_assets_free(struct dd_asset *items, size_t count) {
    for (size_t i = 0; items && i < count; i++) {
        dd_asset_release(&items[i]);
    }
    free(items);
}

static enum dd_status read_asset(const struct db_query *query, struct dd_asset *ret_asset, struct dd_error *err) {
    struct dd_asset asset = {
        .id = db_column_int(query, 0),
        .revision = db_column_int(query, 1),
        .owned = db_column_int(query, 4) != 0,
        .experiment_id = db_column_int(query, 7),
        .created_ms = db_column_int(query, 8),
    };
    enum dd_status status = db_column_text(query, 2, &asset.name, err);
    if (status == DD_OK) {
        status = db_column_text(query, 3, &asset.dir, err);
    }
    if (status == DD_OK) {
        status = db_column_text(query, 5, &asset.info_json, err);
    }
    if (status == DD_OK) {
        status = db_column_text(query, 6, &asset.kind, err);
    }
    if (status != DD_OK) {
        dd_asset_release(&asset);
        return status;
    }
    *ret_asset = asset;
    return DD_OK;
}

enum dd_status db_asset_insert(struct db *db, enum dd_asset_kind kind, const struct dd_asset *asset, int64_t *ret_id,
                               struct dd_error *err) {
    int changes = 0;
    struct db_query query =
        db_query_start(db, "INSERT INTO assets (asset, name, dir, owned, info, kind, experiment_id, created_ms)"
                           " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (asset, name) DO NOTHING");
    db_bind_int(&query, (int64_t)kind);
    db_bind_text(&query, asset->name);
    db_bind_text(&query, asset->dir ? asset->dir : "");
    db_bind_int(&query, asset->owned);
    db_bind_text(&query, asset->info_json ? asset->info_json : "{}");
    db_bind_text(&query, asset->kind ? asset->kind : "");
    db_bind_int_or_null(&query, asset->experiment_id);
    db_bind_int(&query, dd_clock_wall_ms());
    enum dd_status status = db_query_run(&query, &changes, err);
    if (status == DD_OK && changes == 0) {
        return dd_fail(err, DD_CONFLICT, "name_taken", "there is a %s named \"%.80s\" already; choose another name",
                       asset_nouns[kind], asset->name);
    }
    if (status == DD_OK) {
        *ret_id = sqlite3_last_insert_rowid(db->handle);
    }
    return status;
}

enum dd_status dd_storage_asset_insert(struct dd_storage *storage, enum dd_asset_kind kind,
                                       const struct dd_asset *asset, int64_t *ret_id, struct dd_error *err) {
    DB_GUARD(&storage->write);
    return db_asset_insert(&storage->write, kind, asset, ret_id, err);
}

static enum dd_status get_asset(struct db *db, enum dd_asset_kind kind, const char *name, struct dd_asset *ret_asset,
                                struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, "SELECT " COLUMNS " FROM assets WHERE asset = ? AND name = ?");
    db_bind_int(&query, (int64_t)kind);
    db_bind_text(&query, name);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        status = dd_fail(err, DD_NOT_FOUND, not_found_codes[kind], "there is no %s named \"%.80s\"", asset_nouns[kind],
                         name);
    }
    return status == DD_OK ? read_asset(&query, ret_asset, err) : status;
}

enum dd_status dd_storage_asset_get(struct dd_storage *storage, enum dd_asset_kind kind, const char *name,
                                    struct dd_asset *ret_asset, struct dd_error *err) {
    DB_GUARD(&storage->read);
    return get_asset(&storage->read, kind, name, ret_asset, err);
}

static enum dd_status read_assets(struct db_query *query, struct dd_asset *items, size_t wanted, size_t *count,
                                  struct dd_error *err) {
    for (;;) {
        bool row = false;
        enum dd_status status = db_query_next(query, &row, err);
        if (status != DD_OK || !row || *count == wanted) {
            return status;
        }
        status = read_asset(query, &items[*count], err);
        if (status != DD_OK) {
            return status;
        }
        ++*count;
    }
}

static enum dd_status list_assets(struct db *db, enum dd_asset_kind kind, const char *q, const char *after,
                                  struct dd_asset *items, size_t wanted, size_t *count, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *pattern = NULL;
    enum dd_status status = db_like_pattern(q ? q : "", &pattern, err);
    if (status != DD_OK) {
        return status;
    }
    DB_GUARD(db);
    DB_QUERY query = db_query_start(db, "SELECT " COLUMNS " FROM assets WHERE asset = ? AND name > ?"
                                        " AND name LIKE ? ESCAPE '\\' ORDER BY name LIMIT ?");
    db_bind_int(&query, (int64_t)kind);
    db_bind_text(&query, after);
    db_bind_text(&query, pattern);
    db_bind_int(&query, (int64_t)wanted);
    return read_assets(&query, items, wanted, count, err);
}

enum dd_status dd_storage_asset_list(struct dd_storage *storage, enum dd_asset_kind kind, const char *q,
                                     const char *cursor, int limit, struct dd_asset **ret_items, size_t *ret_count,
                                     char **ret_next_cursor, struct dd_error *err) {
    static const char *const sorts[] = {"dataset.name", "model.name"};
    struct db_cursor place = {.kind = 't'};
    char *next = NULL;
    size_t count = 0;
    enum dd_status status = DD_OK;
    if (limit < 1 || limit > MAX_LIMIT) {
        return dd_fail(err, DD_INVALID, "limit_invalid", "limit must be between 1 and %d, got %d", MAX_LIMIT, limit);
    }
    if (cursor) {
        status = db_cursor_decode(cursor, sorts[kind], 't', &place, err);
        if (status != DD_OK) {
            return status;
        }
    }
    size_t wanted = (size_t)limit + 1;
    struct dd_asset *items = dd_calloc(wanted, sizeof *items);
    if (!items) {
        return dd_fail_memory(err, wanted * sizeof *items);
    }
    status = list_assets(&storage->read, kind, q, place.text, items, wanted, &count, err);
    if (status == DD_OK && count == wanted) {
        dd_asset_release(&items[--count]);
        place = (struct db_cursor){.kind = 't', .id = items[count - 1].id};
        snprintf(place.text, sizeof place.text, "%s", items[count - 1].name);
        status = db_cursor_encode(&place, sorts[kind], &next, err);
    }
    if (status != DD_OK) {
        dd_assets_free(items, count);
        return status;
    }
    *ret_items = items;
    *ret_count = count;
    *ret_next_cursor = next;
    return DD_OK;
}

/* The first unfinished experiment that names it; 0 if none. */
static enum dd_status find_user(struct db *db, enum dd_asset_kind kind, const char *name, int64_t *ret_id,
                                struct dd_error *err) {
    static const char *const sql[] = {
        [DD_ASSET_DATASET] =
            "SELECT id FROM experiments WHERE state IN (0, 1, 2) AND +dataset = ?1 ORDER BY id LIMIT 1",
        [DD_ASSET_MODEL] = "SELECT id FROM experiments WHERE state IN (0, 1, 2) AND (teacher = ?1 OR base_model = ?1"
                           " OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(spec) THEN spec ELSE '{}' END)"
                           "  WHERE key IN ('teacher', 'model', 'init', 'init_model', 'vocabulary') AND value = ?1)"
                           " OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(spec) THEN spec ELSE '{}' END,"
                           "  '$.teachers') WHERE value = ?1))"
                           " ORDER BY id LIMIT 1",
    };
    bool row = false;
    DB_QUERY query = db_query_start(db, sql[kind]);
    db_bind_text(&query, name);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK) {
        *ret_id = row ? db_column_int(&query, 0) : 0;
    }
    return status;
}

static enum dd_status delete_asset(struct db *db, enum dd_asset_kind kind, const char *name, struct dd_asset *ret_asset,
                                   struct dd_error *err) {
    int64_t user = 0;
    enum dd_status status = get_asset(db, kind, name, ret_asset, err);
    if (status == DD_OK) {
        status = find_user(db, kind, name, &user, err);
    }
    if (status == DD_OK && user) {
        status = dd_fail(err, DD_CONFLICT, "in_use", "experiment %lld, which has not ended, uses the %s \"%.80s\"",
                         (long long)user, asset_nouns[kind], name);
    }
    if (status == DD_OK) {
        struct db_query query = db_query_start(db, "DELETE FROM assets WHERE id = ?");
        db_bind_int(&query, ret_asset->id);
        status = db_query_run(&query, NULL, err);
    }
    return status;
}

/* ret_deleted may be NULL. */
enum dd_status dd_storage_asset_delete(struct dd_storage *storage, enum dd_asset_kind kind, const char *name,
                                       struct dd_asset *ret_deleted, struct dd_error *err) {
    struct db *db = &storage->write;
    DD_CLEANUP(dd_asset_release) struct dd_asset asset = {0};
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = db_finish(db, delete_asset(db, kind, name, &asset, err), err);
    if (status == DD_OK && ret_deleted) {
        *ret_deleted = asset;
        asset = (struct dd_asset){0};
    }
    return status;
}
