/* db: SQLite connections, statements cached by their text, binding, and SQLite's result codes as our errors.
 *
 * Statements are prepared once and kept; when all DB_STATEMENTS places are taken, the one unused for longest goes.
 * In test builds every step asks the failpoint "sqlite" first: ENOSPC stands for SQLITE_FULL, EBUSY for SQLITE_BUSY,
 * ENOMEM for SQLITE_NOMEM, all else for SQLITE_IOERR.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define BUSY_MS 2000 /* somebody else's sqlite3 shell or backup may hold a lock for a moment */

struct code_row {
    int primary;
    enum dd_status status;
    const char *code;
};

static const struct code_row code_table[] = {
    {SQLITE_FULL, DD_NO_SPACE, "no_space"},
    {SQLITE_BUSY, DD_BUSY, "database_busy"},
    {SQLITE_LOCKED, DD_BUSY, "database_busy"},
    {SQLITE_INTERRUPT, DD_BUSY, "database_busy"},
    {SQLITE_NOMEM, DD_NO_MEMORY, "out_of_memory"},
    {SQLITE_IOERR, DD_IO, "database_io"},
    {SQLITE_CANTOPEN, DD_IO, "database_io"},
    {SQLITE_READONLY, DD_IO, "database_read_only"},
    {SQLITE_PERM, DD_IO, "database_io"},
    {SQLITE_PROTOCOL, DD_IO, "database_io"},
    {SQLITE_CORRUPT, DD_CORRUPT, "database_corrupt"},
    {SQLITE_NOTADB, DD_CORRUPT, "database_corrupt"},
    {SQLITE_TOOBIG, DD_TOO_LARGE, "value_too_large"},
};

enum dd_status db_fail(struct db *db, int rc, const char *what, struct dd_error *err) {
    struct code_row row = {SQLITE_ERROR, DD_INTERNAL, "database_error"};
    const char *message = sqlite3_errstr(rc);
    if (db && db->handle && sqlite3_extended_errcode(db->handle) == rc) {
        message = sqlite3_errmsg(db->handle);
    }
    if (rc == SQLITE_CONSTRAINT_FOREIGNKEY) { /* rows of a run that somebody deleted meanwhile */
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "%s: there is no such experiment", what);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(code_table); i++) {
        if (code_table[i].primary == (rc & 0xFF)) {
            row = code_table[i];
        }
    }
    bool no_space = (rc & 0xFF) == SQLITE_IOERR && db && db->handle && sqlite3_system_errno(db->handle) == ENOSPC;
    if (row.status == DD_NO_SPACE || no_space) {
        return dd_fail(err, DD_NO_SPACE, "no_space",
                       "%s: the disk that holds the database is full; make room and try again", what);
    }
    return dd_fail(err, row.status, row.code, "%s: %s", what, message);
}

enum dd_status db_open(struct db *db, const char *path, int flags, struct dd_error *err) {
    pthread_mutex_init(&db->lock, NULL);
    int rc = sqlite3_open_v2(path, &db->handle, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc != SQLITE_OK) {
        char what[600];
        snprintf(what, sizeof what, "cannot open the database %.500s", path);
        return db_fail(db, rc, what, err);
    }
    sqlite3_busy_timeout(db->handle, BUSY_MS);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    return DD_OK;
}

void db_close(struct db *db) {
    for (size_t i = 0; i < DB_STATEMENTS; i++) {
        sqlite3_finalize(db->statements[i].stmt);
        free(db->statements[i].sql);
        db->statements[i] = (struct db_statement){0};
    }
    if (db->handle) {
        sqlite3_close(db->handle);
        db->handle = NULL;
        pthread_mutex_destroy(&db->lock);
    }
}

static int planned_failure(void) {
    switch (dd_failpoint("sqlite")) {
    case 0:
        return SQLITE_OK;
    case ENOSPC:
        return SQLITE_FULL;
    case EBUSY:
        return SQLITE_BUSY;
    case ENOMEM:
        return SQLITE_NOMEM;
    default:
        return SQLITE_IOERR;
    }
}

enum dd_status db_exec(struct db *db, const char *sql, struct dd_error *err) {
    int rc = planned_failure();
    if (rc == SQLITE_OK) {
        rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    }
    return rc == SQLITE_OK ? DD_OK : db_fail(db, rc, "the database refused a command", err);
}

enum dd_status db_begin(struct db *db, struct dd_error *err) {
    struct db_query query = db_query_start(db, "BEGIN IMMEDIATE");
    return db_query_run(&query, NULL, err);
}

enum dd_status db_begin_read(struct db *db, struct dd_error *err) {
    struct db_query query = db_query_start(db, "BEGIN");
    return db_query_run(&query, NULL, err);
}

enum dd_status db_finish(struct db *db, enum dd_status status, struct dd_error *err) {
    if (status == DD_OK) {
        struct db_query query = db_query_start(db, "COMMIT");
        status = db_query_run(&query, NULL, err);
    }
    /* SQLite ends the transaction itself after some errors (a full disk), so ask before rolling back. */
    if (status != DD_OK && !sqlite3_get_autocommit(db->handle)) {
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    }
    return status;
}

/* The cached place of sql, or the one to put it in; NULL when every place is in use. */
static struct db_statement *find_slot(struct db *db, const char *sql) {
    struct db_statement *oldest = NULL;
    for (size_t i = 0; i < DB_STATEMENTS; i++) {
        struct db_statement *slot = &db->statements[i];
        if (slot->in_use) {
            continue;
        }
        if (slot->sql && strcmp(slot->sql, sql) == 0) {
            return slot;
        }
        if (!oldest || slot->used_at < oldest->used_at) {
            oldest = slot;
        }
    }
    return oldest;
}

static int prepare_slot(struct db *db, struct db_statement *slot, const char *sql) {
    if (slot->sql && strcmp(slot->sql, sql) == 0) {
        return SQLITE_OK;
    }
    char *copy = dd_strdup(sql);
    sqlite3_stmt *stmt = NULL;
    int rc = copy ? sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) : SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        free(copy);
        return rc;
    }
    sqlite3_finalize(slot->stmt);
    free(slot->sql);
    *slot = (struct db_statement){.sql = copy, .stmt = stmt};
    return SQLITE_OK;
}

struct db_query db_query_start(struct db *db, const char *sql) {
    struct db_query query = {.db = db, .next = 1};
    struct db_statement *slot = find_slot(db, sql);
    query.rc = slot ? prepare_slot(db, slot, sql) : SQLITE_ERROR;
    if (query.rc == SQLITE_OK) {
        slot->in_use = true;
        slot->used_at = ++db->clock;
        query.slot = slot;
        query.stmt = slot->stmt;
    }
    return query;
}

void db_query_end(struct db_query *query) {
    if (query->slot) {
        sqlite3_reset(query->stmt); /* its result repeats the error of the step before */
        sqlite3_clear_bindings(query->stmt);
        query->slot->in_use = false;
        query->slot = NULL;
        query->stmt = NULL;
    }
}

static void bound(struct db_query *query, int rc) {
    if (query->rc == SQLITE_OK) {
        query->rc = rc;
    }
}

void db_bind_int(struct db_query *query, int64_t value) {
    if (query->stmt) {
        bound(query, sqlite3_bind_int64(query->stmt, query->next++, value));
    }
}

void db_bind_int_or_null(struct db_query *query, int64_t value) {
    if (query->stmt) {
        bound(query, value ? sqlite3_bind_int64(query->stmt, query->next, value)
                           : sqlite3_bind_null(query->stmt, query->next));
        query->next++;
    }
}

void db_bind_real(struct db_query *query, double value) {
    if (query->stmt) {
        bound(query, isnan(value) ? sqlite3_bind_null(query->stmt, query->next)
                                  : sqlite3_bind_double(query->stmt, query->next, value));
        query->next++;
    }
}

void db_bind_text(struct db_query *query, const char *text) {
    if (query->stmt) { /* a NULL pointer binds NULL */
        bound(query, sqlite3_bind_text64(query->stmt, query->next++, text, text ? strlen(text) : 0, SQLITE_STATIC,
                                         SQLITE_UTF8));
    }
}

void db_bind_blob(struct db_query *query, const void *bytes, size_t count) {
    if (query->stmt) {
        bound(query, sqlite3_bind_blob64(query->stmt, query->next++, count ? bytes : "", count, SQLITE_STATIC));
    }
}

enum dd_status db_query_next(struct db_query *query, bool *ret_row, struct dd_error *err) {
    int rc = query->rc;
    if (rc == SQLITE_OK) {
        rc = planned_failure();
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(query->stmt);
    }
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        enum dd_status status = db_fail(query->db, rc, "the database failed", err);
        db_query_end(query);
        return status;
    }
    *ret_row = rc == SQLITE_ROW;
    return DD_OK;
}

enum dd_status db_query_run(struct db_query *query, int *ret_changes, struct dd_error *err) {
    bool row = true;
    enum dd_status status = DD_OK;
    while (status == DD_OK && row) {
        status = db_query_next(query, &row, err);
    }
    if (status == DD_OK && ret_changes) {
        *ret_changes = sqlite3_changes(query->db->handle);
    }
    db_query_end(query);
    return status;
}

int64_t db_column_int(const struct db_query *query, int column) {
    return sqlite3_column_int64(query->stmt, column);
}

double db_column_real(const struct db_query *query, int column) {
    return sqlite3_column_type(query->stmt, column) == SQLITE_NULL ? NAN : sqlite3_column_double(query->stmt, column);
}

enum dd_status db_column_text(const struct db_query *query, int column, char **ret_text, struct dd_error *err) {
    if (sqlite3_column_type(query->stmt, column) == SQLITE_NULL) {
        *ret_text = NULL;
        return DD_OK;
    }
    const unsigned char *text = sqlite3_column_text(query->stmt, column);
    size_t bytes = (size_t)sqlite3_column_bytes(query->stmt, column);
    char *copy = text ? dd_strndup((const char *)text, bytes) : NULL;
    if (!copy) {
        return dd_fail_memory(err, bytes);
    }
    *ret_text = copy;
    return DD_OK;
}
