/* experiment: rows of the experiments table as struct dd_experiment; insert, get, patch, delete, counts.
 *
 * One table says which column holds which member and how unknown values are written; the SELECT list, the INSERT and
 * the reading all come from it.  Reads use the read-only connection, writes the other.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define NAME_MAX_BYTES 255

enum column_kind {
    COLUMN_INT,           /* int, bool kept apart below */
    COLUMN_INT64,         /* int64_t */
    COLUMN_INT64_OR_NULL, /* int64_t, 0 is NULL */
    COLUMN_REAL,          /* double, NAN is NULL */
    COLUMN_TEXT,          /* char *, NULL is NULL; NULL is "" where it is inserted */
    COLUMN_BOOL,
    COLUMN_STATE,
    COLUMN_HASH, /* char[DD_SHA256_HEX_BYTES] */
};
struct column {
    const char *name;
    enum column_kind kind;
    bool inserted; /* given by the caller of the insert; the others begin with the schema's defaults */
    size_t offset;
};

#define AT(member) offsetof(struct dd_experiment, member)
#define SCORE(prefix, suffix, kind, start, member)                                                                     \
    { prefix suffix, kind, false, (start) + offsetof(struct dd_scores, member) }
#define SCORES(prefix, start)                                                                                          \
    SCORE(prefix, "_epoch", COLUMN_INT, start, epoch), SCORE(prefix, "_accuracy", COLUMN_REAL, start, accuracy),       \
        SCORE(prefix, "_macro_precision", COLUMN_REAL, start, macro_precision),                                        \
        SCORE(prefix, "_macro_recall", COLUMN_REAL, start, macro_recall),                                              \
        SCORE(prefix, "_macro_f1", COLUMN_REAL, start, macro_f1),                                                      \
        SCORE(prefix, "_weighted_f1", COLUMN_REAL, start, weighted_f1),                                                \
        SCORE(prefix, "_dev_loss", COLUMN_REAL, start, dev_loss),                                                      \
        SCORE(prefix, "_train_loss", COLUMN_REAL, start, train_loss)

static const struct column columns[] = {
    {"id", COLUMN_INT64, false, AT(id)},
    {"revision", COLUMN_INT64, false, AT(revision)},
    {"name", COLUMN_TEXT, true, AT(name)},
    {"notes", COLUMN_TEXT, true, AT(notes)},
    {"tags", COLUMN_TEXT, true, AT(tags_json)},
    {"state", COLUMN_STATE, false, AT(state)},
    {"pause_requested", COLUMN_BOOL, false, AT(pause_requested)},
    {"cancel_requested", COLUMN_BOOL, false, AT(cancel_requested)},
    {"priority", COLUMN_INT, true, AT(priority)},
    {"spec", COLUMN_TEXT, true, AT(spec_json)},
    {"spec_hash", COLUMN_HASH, true, AT(spec_hash)},
    {"task", COLUMN_TEXT, true, AT(task)},
    {"dataset", COLUMN_TEXT, true, AT(dataset)},
    {"teacher", COLUMN_TEXT, true, AT(teacher)},
    {"base_model", COLUMN_TEXT, true, AT(base_model)},
    {"optimizer", COLUMN_TEXT, true, AT(optimizer)},
    {"layers", COLUMN_INT, true, AT(layers)},
    {"heads", COLUMN_INT, true, AT(heads)},
    {"hidden_size", COLUMN_INT, true, AT(hidden_size)},
    {"temperature", COLUMN_REAL, true, AT(temperature)},
    {"alpha", COLUMN_REAL, true, AT(alpha)},
    {"lr", COLUMN_REAL, true, AT(lr)},
    {"created_ms", COLUMN_INT64, false, AT(created_ms)},
    {"started_ms", COLUMN_INT64_OR_NULL, false, AT(started_ms)},
    {"finished_ms", COLUMN_INT64_OR_NULL, false, AT(finished_ms)},
    {"attempts", COLUMN_INT, false, AT(attempts)},
    {"crashes", COLUMN_INT, false, AT(crashes)},
    {"epochs", COLUMN_INT, true, AT(epochs)},
    {"epochs_done", COLUMN_INT, false, AT(epochs_done)},
    {"steps", COLUMN_INT64, true, AT(steps)},
    {"steps_done", COLUMN_INT64, false, AT(steps_done)},
    {"eta_seconds", COLUMN_REAL, false, AT(eta_seconds)},
    {"tokens_per_second", COLUMN_REAL, false, AT(tokens_per_second)},
    {"elapsed_seconds", COLUMN_REAL, false, AT(elapsed_seconds)},
    {"phase", COLUMN_TEXT, false, AT(phase)},
    SCORES("best", AT(best)),
    SCORES("last", AT(last)),
    SCORES("teacher", AT(teacher_scores)),
    {"model_name", COLUMN_TEXT, false, AT(model_name)},
    {"model_parameters", COLUMN_INT64_OR_NULL, false, AT(model_parameters)},
    {"model_bytes", COLUMN_INT64_OR_NULL, false, AT(model_bytes)},
    {"error_code", COLUMN_TEXT, false, AT(error_code)},
    {"error_message", COLUMN_TEXT, false, AT(error_message)},
    {"sweep_id", COLUMN_INT64_OR_NULL, true, AT(sweep_id)},
    {"sweep_point", COLUMN_INT, true, AT(sweep_point)},
    {"stopped", COLUMN_TEXT, false, AT(stopped)},
};

static char select_list[2048];
static char insert_sql[1024];
static pthread_once_t sql_once = PTHREAD_ONCE_INIT;

/* Room for the columns is ours to know, so running out of it is our bug. */
static size_t append(char *sql, size_t room, size_t len, const char *between, const char *text) {
    int more = snprintf(sql + len, room - len, "%s%s", between, text);
    assert(more >= 0 && (size_t)more < room - len);
    return len + (size_t)more;
}

/* Without memory from elsewhere: it is made once, and what could not be made then would be missing for good. */
static void build_sql(void) {
    size_t list = 0, insert = 0;
    insert = append(insert_sql, sizeof insert_sql, insert, "INSERT INTO experiments (created_ms,queued_ms", "");
    for (size_t i = 0; i < DD_ARRAY_LEN(columns); i++) {
        list = append(select_list, sizeof select_list, list, i ? "," : "", columns[i].name);
        if (columns[i].inserted) {
            insert = append(insert_sql, sizeof insert_sql, insert, ",", columns[i].name);
        }
    }
    insert = append(insert_sql, sizeof insert_sql, insert, ") VALUES (?1,?1", "");
    for (size_t i = 0; i < DD_ARRAY_LEN(columns); i++) {
        if (columns[i].inserted) {
            insert = append(insert_sql, sizeof insert_sql, insert, ",?", "");
        }
    }
    (void)append(insert_sql, sizeof insert_sql, insert, ")", "");
}

const char *db_experiment_columns(void) {
    pthread_once(&sql_once, build_sql);
    return select_list;
}

static enum dd_status read_text(const struct db_query *query, int column, void *member, struct dd_error *err) {
    char *text = NULL;
    enum dd_status status = db_column_text(query, column, &text, err);
    memcpy(member, &text, sizeof text);
    return status;
}

static enum dd_status read_column(const struct db_query *query, int column, enum column_kind kind, void *member,
                                  struct dd_error *err) {
    switch (kind) {
    case COLUMN_INT:
        *(int *)member = (int)db_column_int(query, column);
        return DD_OK;
    case COLUMN_INT64:
    case COLUMN_INT64_OR_NULL:
        *(int64_t *)member = db_column_int(query, column);
        return DD_OK;
    case COLUMN_REAL:
        *(double *)member = db_column_real(query, column);
        return DD_OK;
    case COLUMN_BOOL:
        *(bool *)member = db_column_int(query, column) != 0;
        return DD_OK;
    case COLUMN_STATE:
        *(enum dd_state *)member = (enum dd_state)db_column_int(query, column);
        return DD_OK;
    case COLUMN_HASH: {
        const unsigned char *text = sqlite3_column_text(query->stmt, column);
        snprintf(member, DD_SHA256_HEX_BYTES, "%s", text ? (const char *)text : "");
        return DD_OK;
    }
    case COLUMN_TEXT:
        return read_text(query, column, member, err);
    }
    return DD_OK;
}

enum dd_status db_experiment_read(const struct db_query *query, struct dd_experiment *ret_experiment,
                                  struct dd_error *err) {
    struct dd_experiment experiment = {0};
    for (size_t i = 0; i < DD_ARRAY_LEN(columns); i++) {
        char *member = (char *)&experiment + columns[i].offset;
        enum dd_status status = read_column(query, (int)i, columns[i].kind, member, err);
        if (status != DD_OK) {
            dd_experiment_release(&experiment);
            return status;
        }
    }
    *ret_experiment = experiment;
    return DD_OK;
}

void dd_experiment_release(struct dd_experiment *experiment) {
    for (size_t i = 0; i < DD_ARRAY_LEN(columns); i++) {
        if (columns[i].kind == COLUMN_TEXT) {
            dd_free_ptr((char *)experiment + columns[i].offset);
        }
    }
    *experiment = (struct dd_experiment){0};
}

void dd_experiments_free(struct dd_experiment *items, size_t count) {
    for (size_t i = 0; items && i < count; i++) {
        dd_experiment_release(&items[i]);
    }
    free(items);
}

static void bind_column(struct db_query *query, const struct column *column, const struct dd_experiment *experiment) {
    const void *member = (const char *)experiment + column->offset;
    const char *text = NULL;
    switch (column->kind) {
    case COLUMN_INT:
        db_bind_int(query, *(const int *)member);
        break;
    case COLUMN_INT64:
        db_bind_int(query, *(const int64_t *)member);
        break;
    case COLUMN_INT64_OR_NULL:
        db_bind_int_or_null(query, *(const int64_t *)member);
        break;
    case COLUMN_REAL:
        db_bind_real(query, *(const double *)member);
        break;
    case COLUMN_BOOL:
        db_bind_int(query, *(const bool *)member);
        break;
    case COLUMN_STATE:
        db_bind_int(query, (int64_t) * (const enum dd_state *)member);
        break;
    case COLUMN_HASH:
        db_bind_text(query, member);
        break;
    case COLUMN_TEXT:
        memcpy(&text, member, sizeof text);
        db_bind_text(query, text ? text : "");
        break;
    }
}

/* Tags are searched with SQLite's JSON functions, so what is stored must be an array. */
static enum dd_status check_tags(struct db *db, const char *tags_json, struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, "SELECT CASE WHEN json_valid(?1) THEN json_type(?1) = 'array' AND NOT EXISTS"
                                        " (SELECT 1 FROM json_each(?1) WHERE type <> 'text') ELSE 0 END");
    db_bind_text(&query, tags_json);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !db_column_int(&query, 0)) {
        status = dd_fail(err, DD_INVALID, "tags_invalid", "tags must be a JSON array of strings");
    }
    return status;
}

static enum dd_status check_name(const char *name, struct dd_error *err) {
    size_t bytes = strlen(name);
    return bytes <= NAME_MAX_BYTES ? DD_OK
                                   : dd_fail(err, DD_INVALID, "name_too_long",
                                             "the name has %zu bytes, at most %d are allowed", bytes, NAME_MAX_BYTES);
}

static enum dd_status check_priority(int priority, struct dd_error *err) {
    return priority >= -1000 && priority <= 1000 ? DD_OK
                                                 : dd_fail(err, DD_INVALID, "priority_invalid",
                                                           "priority must be between -1000 and 1000, got %d", priority);
}

enum dd_status db_experiment_insert(struct db *db, const struct dd_experiment *experiment, int64_t *ret_id,
                                    struct dd_error *err) {
    struct dd_experiment row = *experiment; /* shallow: only to replace a missing tags_json */
    static char no_tags[] = "[]";
    row.tags_json = row.tags_json ? row.tags_json : no_tags;
    enum dd_status status = check_name(row.name ? row.name : "", err);
    if (status == DD_OK) {
        status = check_priority(row.priority, err);
    }
    if (status != DD_OK) {
        return status;
    }
    db_experiment_columns();
    status = check_tags(db, row.tags_json, err);
    if (status != DD_OK) {
        return status;
    }
    DB_QUERY query = db_query_start(db, insert_sql);
    db_bind_int(&query, DD_MAX(dd_clock_wall_ms(), 0));
    for (size_t i = 0; i < DD_ARRAY_LEN(columns); i++) {
        if (columns[i].inserted) {
            bind_column(&query, &columns[i], &row);
        }
    }
    status = db_query_run(&query, NULL, err);
    if (status == DD_OK) {
        *ret_id = sqlite3_last_insert_rowid(db->handle);
    }
    return status;
}

enum dd_status dd_storage_experiment_insert(struct dd_storage *storage, const struct dd_experiment *experiment,
                                            int64_t *ret_id, struct dd_error *err) {
    struct db *db = &storage->write;
    int64_t id = 0;
    DB_GUARD(db);
    enum dd_status status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    status = db_experiment_insert(db, experiment, &id, err);
    if (status == DD_OK && experiment->claim.key != NULL) {
        status = db_claim_put(db, &experiment->claim, "/api/v1/experiments/", id, err);
    }
    status = db_finish(db, status, err);
    if (status == DD_OK) {
        *ret_id = id;
    }
    return status;
}

enum dd_status db_experiment_missing(int64_t id, struct dd_error *err) {
    return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "there is no experiment %lld", (long long)id);
}

enum dd_status db_experiment_refused(struct db *db, int64_t id, const char *wanted, struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, "SELECT state FROM experiments WHERE id = ?");
    db_bind_int(&query, id);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status != DD_OK) {
        return status;
    }
    if (!row) {
        return db_experiment_missing(id, err);
    }
    enum dd_state state = (enum dd_state)db_column_int(&query, 0);
    return dd_fail(err, DD_CONFLICT, "illegal_state", "experiment %lld is %s; %s", (long long)id, dd_state_name(state),
                   wanted);
}

enum dd_status dd_storage_experiment_get(struct dd_storage *storage, int64_t id, struct dd_experiment *ret_experiment,
                                         struct dd_error *err) {
    char sql[sizeof select_list + 64];
    snprintf(sql, sizeof sql, "SELECT %s FROM experiments WHERE id = ?", db_experiment_columns());
    bool row = false;
    DB_GUARD(&storage->read);
    DB_QUERY query = db_query_start(&storage->read, sql);
    db_bind_int(&query, id);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        status = db_experiment_missing(id, err);
    }
    return status == DD_OK ? db_experiment_read(&query, ret_experiment, err) : status;
}

enum dd_status dd_storage_experiment_making(struct dd_storage *storage, const char *model, int64_t *ret_id,
                                            enum dd_state *ret_state, struct dd_error *err) {
    bool row = false;
    DB_GUARD(&storage->read);
    DB_QUERY query =
        db_query_start(&storage->read, "SELECT id, state FROM experiments WHERE state IN (0, 1, 2)"
                                       " AND coalesce(nullif(json_extract(spec, '$.save_as'), ''), 'exp-' || id) = ?"
                                       " ORDER BY id DESC LIMIT 1");
    db_bind_text(&query, model);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && !row) {
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "no experiment makes a model %s", model);
    }
    if (status == DD_OK) {
        *ret_id = db_column_int(&query, 0);
        *ret_state = (enum dd_state)db_column_int(&query, 1);
    }
    return status;
}

enum dd_status dd_storage_state_counts(struct dd_storage *storage, int64_t ret_counts[DD_STATE_COUNT],
                                       struct dd_error *err) {
    int64_t counts[DD_STATE_COUNT] = {0};
    bool row = true;
    DB_GUARD(&storage->read);
    uint64_t revision = dd_storage_revision(storage); /* before the rows: they may only be newer */
    if (storage->counts_known && storage->counts_revision == revision) {
        memcpy(ret_counts, storage->counts, sizeof counts);
        return DD_OK;
    }
    DB_QUERY query = db_query_start(&storage->read, "SELECT state, count(*) FROM experiments GROUP BY state");
    for (;;) {
        enum dd_status status = db_query_next(&query, &row, err);
        if (status != DD_OK) {
            return status;
        }
        if (!row) {
            break;
        }
        int64_t state = db_column_int(&query, 0);
        if (state >= 0 && state < DD_STATE_COUNT) {
            counts[state] = db_column_int(&query, 1);
        }
    }
    memcpy(ret_counts, counts, sizeof counts);
    memcpy(storage->counts, counts, sizeof counts);
    storage->counts_revision = revision;
    storage->counts_known = true;
    return DD_OK;
}

enum dd_status dd_storage_experiment_patch(struct dd_storage *storage, int64_t id, const char *name, const char *notes,
                                           const char *tags_json, const int *priority, struct dd_error *err) {
    enum dd_status status = check_name(name ? name : "", err);
    if (status == DD_OK && priority) {
        status = check_priority(*priority, err);
    }
    if (status != DD_OK) {
        return status;
    }
    int changes = 0;
    struct db *db = &storage->write;
    DB_GUARD(db);
    if (tags_json) {
        status = check_tags(db, tags_json, err);
        if (status != DD_OK) {
            return status;
        }
    }
    DB_QUERY query = db_query_start(db, "UPDATE experiments SET name = coalesce(?1, name), notes = coalesce(?2, notes),"
                                        " tags = coalesce(?3, tags),"
                                        " priority = CASE WHEN ?4 THEN ?5 ELSE priority END, revision = revision + 1"
                                        " WHERE id = ?6");
    db_bind_text(&query, name);
    db_bind_text(&query, notes);
    db_bind_text(&query, tags_json);
    db_bind_int(&query, priority != NULL);
    db_bind_int(&query, priority ? *priority : 0);
    db_bind_int(&query, id);
    status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0 ? db_experiment_missing(id, err) : status;
}

enum dd_status dd_storage_experiment_delete(struct dd_storage *storage, int64_t id, struct dd_error *err) {
    int changes = 0;
    struct db *db = &storage->write;
    DB_GUARD(db);
    DB_QUERY query = db_query_start(db, "DELETE FROM experiments WHERE id = ? AND state <> 1");
    db_bind_int(&query, id);
    enum dd_status status = db_query_run(&query, &changes, err);
    return status == DD_OK && changes == 0 ? db_experiment_refused(db, id, "cancel it before deleting it", err)
                                           : status;
}
