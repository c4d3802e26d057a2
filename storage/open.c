/* open: the life of a struct dd_storage.
 *
 * <path>.lock is locked (flock) as long as the storage is open, so that no second process has the database; the file
 * stays, since removing a lock file races with whoever opens it.  Order: lock, writer (creates the file, WAL, schema),
 * then the reader, which needs both to be there.  Closing goes the other way round; the writer, being last, brings the
 * WAL into the database and removes it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "storage/db.h"

#define FILE_MODE 0640
#define PING_US 1000000 /* a ping writes at most this often: anybody may ask for /readyz */

static enum dd_status take_lock(struct dd_storage *storage, struct dd_error *err) {
    char name[4096];
    char holder[32] = "";
    int len = snprintf(name, sizeof name, "%s.lock", storage->path);
    if (len < 0 || (size_t)len >= sizeof name) {
        return dd_fail_errno(err, ENAMETOOLONG, "cannot lock the database %.200s", storage->path);
    }
    storage->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
    if (storage->lock_fd < 0) {
        return dd_fail_errno(err, errno, "cannot open %s", name);
    }
    if (flock(storage->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            return dd_fail_errno(err, errno, "cannot lock %s", name);
        }
        ssize_t got = pread(storage->lock_fd, holder, sizeof holder - 1, 0);
        holder[got > 0 ? strspn(holder, "0123456789") : 0] = '\0';
        return dd_fail(err, DD_CONFLICT, "database_in_use",
                       "%s is in use by another distilld (process %s); stop it or use another data directory",
                       storage->path, holder[0] ? holder : "unknown");
    }
    len = snprintf(holder, sizeof holder, "%ld\n", (long)getpid());
    if (ftruncate(storage->lock_fd, 0) != 0 || pwrite(storage->lock_fd, holder, (size_t)len, 0) < 0) {
        /* Only the message of a second process is poorer for it; a full disk must not prevent a start. */
        return DD_OK;
    }
    return DD_OK;
}

/* Makes the file first, so that it and the WAL beside it are not readable by others. */
static enum dd_status create_file(const char *path, struct dd_error *err) {
    DD_CLEANUP(dd_close_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, FILE_MODE);
    return fd >= 0 ? DD_OK : dd_fail_errno(err, errno, "cannot open the database %s", path);
}

static enum dd_status set_wal(struct db *db, struct dd_error *err) {
    char *mode = NULL;
    bool row = false;
    DB_QUERY query = db_query_start(db, "PRAGMA journal_mode = WAL");
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK && row) {
        status = db_column_text(&query, 0, &mode, err);
    }
    if (status == DD_OK && (!mode || strcmp(mode, "wal") != 0)) {
        status = dd_fail(err, DD_UNSUPPORTED, "database_no_wal",
                         "the file system of the database cannot do write-ahead logging; use a local disk");
    }
    free(mode);
    return status;
}

/* A database that is refused keeps every byte: it is looked at before anything is set, and its WAL, if somebody left
 * one, is not brought in when it is closed. */
static enum dd_status look_first(struct db *db, struct dd_error *err) {
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    enum dd_status status = db_schema_check(db, err);
    if (status == DD_OK) {
        sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    }
    return status;
}

static enum dd_status open_writer(struct dd_storage *storage, struct dd_error *err) {
    struct db *db = &storage->write;
    enum dd_status status = create_file(storage->path, err);
    if (status == DD_OK) {
        status = db_open(db, storage->path, SQLITE_OPEN_READWRITE, err);
    }
    if (status == DD_OK) {
        status = look_first(db, err);
    }
    if (status == DD_OK) {
        status = set_wal(db, err);
    }
    if (status == DD_OK) {
        status =
            db_exec(db,
                    "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;"
                    "PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 16777216",
                    err);
    }
    return status == DD_OK ? db_migrate(db, db_schema_newest(), err) : status;
}

static enum dd_status open_reader(struct dd_storage *storage, struct dd_error *err) {
    enum dd_status status = db_open(&storage->read, storage->path, SQLITE_OPEN_READONLY, err);
    if (status == DD_OK) {
        status = db_exec(&storage->read,
                         "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;"
                         "PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON",
                         err);
    }
    return status;
}

enum dd_status dd_storage_open(const char *path, struct dd_storage **ret_storage, struct dd_error *err) {
    struct dd_storage *storage = dd_calloc(1, sizeof *storage);
    if (!storage) {
        return dd_fail_memory(err, sizeof *storage);
    }
    storage->lock_fd = -1;
    storage->pinged_us = -PING_US;
    storage->path = dd_strdup(path);
    enum dd_status status = storage->path ? DD_OK : dd_fail_memory(err, strlen(path));
    if (status == DD_OK) {
        status = take_lock(storage, err);
    }
    if (status == DD_OK) {
        status = open_writer(storage, err);
        if (status == DD_OK) {
            status = open_reader(storage, err);
        }
        if (status != DD_OK) {
            dd_error_prefix(err, "%.300s", path);
        }
    }
    if (status != DD_OK) {
        dd_storage_close(storage);
        return status;
    }
    *ret_storage = storage;
    return DD_OK;
}

void dd_storage_close(struct dd_storage *storage) {
    if (!storage) {
        return;
    }
    db_close(&storage->read);
    db_close(&storage->write);
    dd_close_fd(&storage->lock_fd);
    free(storage->news);
    free(storage->path);
    free(storage);
}

int dd_storage_schema_version(struct dd_storage *storage) {
    int version = 0;
    DB_GUARD(&storage->read);
    return db_user_version(&storage->read, &version, NULL) == DD_OK ? version : -1;
}

uint64_t dd_storage_revision(const struct dd_storage *storage) {
    return storage->write.revision;
}

enum dd_status dd_storage_ping(struct dd_storage *storage, struct dd_error *err) {
    int version = 0;
    {
        DB_GUARD(&storage->read);
        enum dd_status status = db_user_version(&storage->read, &version, err);
        if (status != DD_OK) {
            return status;
        }
    }
    DB_GUARD(&storage->write);
    if (dd_clock_mono_us() - storage->pinged_us < PING_US) {
        return DD_OK;
    }
    struct db_query query = db_query_start(&storage->write, "UPDATE health SET checked_ms = ?");
    db_bind_int(&query, dd_clock_wall_ms());
    enum dd_status status = db_query_run(&query, NULL, err);
    if (status == DD_OK) {
        storage->pinged_us = dd_clock_mono_us();
    }
    return status;
}
