/* copy: looking at a database from outside the process that owns it: a snapshot of it as one file, and whether it is
 * whole.  Both read only, beside a daemon that writes: the lock of open.c is not taken, and no second writer comes in.
 *
 * Threads: any; nothing is shared.
 */
#include <stdlib.h>

#include "storage/db.h"

static enum dd_status open_outside(const char *path, struct db *db, struct dd_error *err) {
    enum dd_status status = db_open(db, path, SQLITE_OPEN_READONLY, err);
    if (status == DD_OK) {
        status = db_exec(db, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON", err);
    }
    return status;
}

/* SQLite's backup of all pages in one step, which is one read transaction.  (VACUUM INTO of SQLite 3.40 stumbles over
 * the generated column of the queue.) */
enum dd_status dd_storage_copy(const char *from, const char *to, struct dd_error *err) {
    struct db source = {0}, target = {0};
    enum dd_status status = open_outside(from, &source, err);
    if (status == DD_OK) {
        status = db_open(&target, to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, err);
    }
    if (status == DD_OK) {
        sqlite3_backup *backup = sqlite3_backup_init(target.handle, "main", source.handle, "main");
        int rc = backup != NULL ? sqlite3_backup_step(backup, -1) : sqlite3_extended_errcode(target.handle);
        int finished = sqlite3_backup_finish(backup);
        if (rc != SQLITE_DONE || finished != SQLITE_OK) {
            status = db_fail(&target, rc != SQLITE_DONE ? rc : finished, "the copy", err);
        }
    }
    db_close(&target);
    db_close(&source);
    return status == DD_OK ? DD_OK : dd_error_prefix(err, "cannot copy the database %.300s", from);
}

enum dd_status dd_storage_check(const char *path, char **ret_faults, struct dd_error *err) {
    struct db db = {0};
    struct dd_buffer faults;
    dd_buffer_init(&faults, 1u << 16);
    enum dd_status status = open_outside(path, &db, err);
    if (status == DD_OK) {
        DB_QUERY query =
            db_query_start(&db, "SELECT * FROM pragma_integrity_check(20) WHERE integrity_check <> 'ok' "
                                "UNION ALL SELECT 'row ' || rowid || ' of ' || \"table\" || ' refers to a "
                                "row of ' || parent || ' that is not there' FROM pragma_foreign_key_check");
        for (bool row = true; status == DD_OK && row;) {
            char *text = NULL;
            status = db_query_next(&query, &row, err);
            if (status == DD_OK && row) {
                status = db_column_text(&query, 0, &text, err);
                dd_buffer_printf(&faults, "%s%s", faults.len > 0 ? "; " : "", text != NULL ? text : "");
            }
            free(text);
        }
    }
    db_close(&db);
    if (status == DD_OK) {
        *ret_faults = faults.len > 0 ? dd_buffer_take(&faults, NULL) : NULL;
    }
    dd_buffer_release(&faults);
    return status;
}
