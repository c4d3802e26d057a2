/* Databases of every earlier schema version, as those versions' daemons left them after kill -9 (fixtures/schema,
 * made by make_schema.mjs): each comes to the present schema with every row; what is newer or not ours is refused and
 * stays as it is; a process that dies, or a disk that fails, at any write in between leaves one whole version. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "storage/db.h"
#include "tests/unit/storage/fixture.h"

#define MAX_VERSIONS 64
#define MAX_TEXT (8u << 20)

/* What rows of earlier versions have in the columns that came later. */
static const struct later_column {
    const char *table, *column, *value;
} later_columns[] = {
    {"experiments", "sweep_point", "0"},  {"experiments", "stopped", "NULL"},
    {"experiments", "asha_free", "0"},    {"sweeps", "asha_min_epochs", "0"},
    {"sweeps", "asha_eta", "0"},          {"sweeps", "asha_accuracy", "0"},
    {"epochs", "rollback", "0"},          {"epochs", "rollback_to", "0"},
    {"epochs", "train_hidden", "NULL"},   {"epochs", "train_cls", "NULL"},
    {"epochs", "attempt", "0"},           {"epochs", "dev_kl", "NULL"},
    {"epochs", "dev_ce", "NULL"},         {"epochs", "train_attention", "NULL"},
    {"epochs", "train_relation", "NULL"},
};

static sqlite3 *raw_open(const char *path) {
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    return db;
}

/* The rows of sql, a line each, their values quoted as SQL.  The caller frees. */
static char *ask(sqlite3 *db, const char *sql) {
    struct dd_buffer text;
    sqlite3_stmt *stmt = NULL;
    dd_buffer_init(&text, MAX_TEXT);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK) {
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    }
    int rc = SQLITE_ROW;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(stmt); i++) {
            dd_buffer_printf(&text, "%s%s", i > 0 ? "," : "", (const char *)sqlite3_column_text(stmt, i));
        }
        dd_buffer_putc(&text, '\n');
    }
    assert_int_equal(rc, SQLITE_DONE);
    sqlite3_finalize(stmt);
    dd_buffer_putc(&text, '\0');
    assert_int_equal(dd_buffer_check(&text, NULL), DD_OK);
    return dd_buffer_take(&text, NULL);
}

/* Every table, index and column there is, in SQL's own words. */
static char *shape_of(sqlite3 *db) {
    return ask(db, "SELECT type, name, tbl_name, quote(sql) FROM sqlite_master ORDER BY type, name");
}

/* One SELECT a line, which together read every value of every table, the generated ones too. */
static char *selects_of(sqlite3 *db) {
    return ask(db, "SELECT 'SELECT ''' || t.name || ''',' || group_concat('quote(' || c.name || ')') || ' FROM ' || "
                   "t.name || ' ORDER BY ' || group_concat(c.cid + 2) FROM sqlite_master t, pragma_table_xinfo(t.name) "
                   "c WHERE t.type = 'table' GROUP BY t.name ORDER BY t.name");
}

static char *rows_of(sqlite3 *db, const char *selects) {
    struct dd_buffer text;
    dd_buffer_init(&text, MAX_TEXT);
    for (const char *line = selects; *line != '\0'; line = strchr(line, '\n') + 1) {
        char *sql = strndup(line, strcspn(line, "\n"));
        char *rows = ask(db, sql);
        dd_buffer_puts(&text, rows);
        free(rows);
        free(sql);
    }
    dd_buffer_putc(&text, '\0');
    assert_int_equal(dd_buffer_check(&text, NULL), DD_OK);
    return dd_buffer_take(&text, NULL);
}

static char *with_file(const char *path, char *(*what)(sqlite3 *)) {
    sqlite3 *db = raw_open(path);
    char *text = what(db);
    sqlite3_close(db);
    return text;
}

static void remove_database(struct fixture *f) {
    char path[128];
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    dd_storage_close(f->storage);
    f->storage = NULL;
    for (size_t i = 0; i < DD_ARRAY_LEN(suffixes); i++) {
        snprintf(path, sizeof path, "%s%s", f->path, suffixes[i]);
        (void)unlink(path);
    }
}

/* Puts the database of a version in place; 0 is one without anything.  false: there is no fixture of it. */
static bool put_version(struct fixture *f, int version) {
    char name[96], *sql = NULL;
    size_t len = 0;
    remove_database(f);
    if (version == 0) {
        return true;
    }
    snprintf(name, sizeof name, "tests/golden/fixtures/schema/v%d.sql", version);
    if (dd_file_read(name, MAX_TEXT, &sql, &len, &f->err) != DD_OK) {
        assert_int_equal(f->err.status, DD_NOT_FOUND);
        return false;
    }
    raw_sql(f, "PRAGMA journal_mode = WAL");
    raw_sql(f, sql);
    free(sql);
    return true;
}

/* The shape that the steps up to version give to an empty file. */
static char *shape_by_steps(struct fixture *f, int version) {
    struct db db = {0};
    remove_database(f);
    assert_ok(f, db_open(&db, f->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &f->err));
    assert_ok(f, db_migrate(&db, version, &f->err));
    db_close(&db);
    return with_file(f->path, shape_of);
}

static void assert_whole(struct fixture *f) {
    char *faults = NULL;
    assert_ok(f, dd_storage_check(f->path, &faults, &f->err)); /* integrity_check and foreign_key_check */
    assert_null(faults);
}

/* Each column that is not in `before` has in each row the value that this test's table says. */
static void check_later_columns(struct fixture *f, const char *before) {
    sqlite3 *db = raw_open(f->path);
    char *columns = ask(db, "SELECT t.name, c.name FROM sqlite_master t, pragma_table_xinfo(t.name) c "
                            "WHERE t.type = 'table' ORDER BY t.name, c.cid");
    char *rest = NULL;
    for (char *line = strtok_r(columns, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *comma = strchr(line, ','), sql[256];
        *comma = '\0';
        snprintf(sql, sizeof sql, "SELECT '%s',", line);
        const char *select = strstr(before, sql);
        snprintf(sql, sizeof sql, "quote(%s)", comma + 1);
        const char *column = select != NULL ? strstr(select, sql) : NULL;
        if (column != NULL && column < strchr(select, '\n')) {
            continue;
        }
        const char *value = NULL;
        for (size_t i = 0; i < DD_ARRAY_LEN(later_columns); i++) {
            if (strcmp(later_columns[i].table, line) == 0 && strcmp(later_columns[i].column, comma + 1) == 0) {
                value = later_columns[i].value;
            }
        }
        snprintf(sql, sizeof sql, "SELECT count(*) FROM %s WHERE quote(%s) IS NOT '%s'", line, comma + 1,
                 value != NULL ? value : "");
        if (value == NULL && select != NULL) {
            fail_msg("say in later_columns what earlier rows of %s have in %s", line, comma + 1);
        }
        char *others = ask(db, value != NULL ? sql : "SELECT 0"); /* a table that came later has no rows */
        assert_string_equal(others, "0\n");
        free(others);
    }
    free(columns);
    sqlite3_close(db);
}

/* The runs of the fixtures (make_schema.mjs) read, go on and go away through the present code. */
static void check_use(struct fixture *f) {
    struct dd_epoch_row *epochs = NULL;
    size_t count = 0;
    assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
    struct dd_experiment whole = get(f, 2);
    assert_string_equal(whole.name, "it's whole: 学生");
    assert_string_equal(whole.notes, "two\nlines");
    assert_int_equal(whole.state, DD_FINISHED);
    assert_int_equal(whole.epochs_done, 2);
    dd_experiment_release(&whole);
    assert_ok(f, dd_storage_epochs_get(f->storage, 2, 0, &epochs, &count, &f->err));
    assert_int_equal(count, 2);
    assert_true(isfinite(epochs[1].macro_f1) && isnan(epochs[1].train_hidden) && epochs[1].rollback == 0);
    free(epochs);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments WHERE state = 1"), 1);
    int64_t queued = claim(f);
    assert_int_equal(raw_int(f, "SELECT id FROM experiments WHERE name = 'queued'"), queued);
    struct dd_epoch_row epoch = {.epoch = 1, .macro_f1 = 0.5, .is_best = true};
    assert_ok(f, dd_storage_epoch_put(f->storage, queued, &epoch, NULL, NULL, 0, NULL, &f->err));
    assert_true(insert_sample(f, "new", 0) > queued);
    assert_ok(f, dd_storage_experiment_delete(f->storage, 2, &f->err));
    assert_int_equal(raw_int(f, "SELECT (SELECT count(*) FROM epochs WHERE experiment_id = 2) + (SELECT count(*) FROM "
                                "steps WHERE experiment_id = 2) + (SELECT count(*) FROM predictions WHERE "
                                "experiment_id = 2) + (SELECT count(*) FROM run_log WHERE experiment_id = 2)"),
                     0);
    dd_storage_close(f->storage);
    f->storage = NULL;
    assert_whole(f);
}

static void test_every_earlier_version(void **state) {
    struct fixture *f = *state;
    char *newest = with_file(f->path, shape_of);
    for (int version = 1; version <= db_schema_newest(); version++) {
        if (!put_version(f, version)) {
            /* Its fixture is due before the next version is made. */
            assert_int_equal(version, db_schema_newest());
            break;
        }
        sqlite3 *db = raw_open(f->path);
        char *selects = selects_of(db), *shape = shape_of(db), *rows = rows_of(db, selects);
        sqlite3_close(db);
        assert_non_null(strstr(rows, "whole: 学生"));
        assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
        assert_int_equal(dd_storage_schema_version(f->storage), db_schema_newest());
        dd_storage_close(f->storage);
        f->storage = NULL;
        assert_whole(f);
        db = raw_open(f->path);
        char *rows_now = rows_of(db, selects), *shape_now = shape_of(db);
        sqlite3_close(db);
        assert_string_equal(rows_now, rows);
        assert_string_equal(shape_now, newest);
        check_later_columns(f, selects);
        check_use(f);
        char *by_steps = shape_by_steps(f, version); /* no released step was edited */
        assert_string_equal(by_steps, shape);
        free(by_steps);
        free(rows_now);
        free(shape_now);
        free(rows);
        free(shape);
        free(selects);
    }
    free(newest);
}

/* --- refused, to the byte ---------------------------------------------------------------------------------------- */

static void assert_refused(struct fixture *f, enum dd_status status, const char *code) {
    char wal[128], *before[2] = {NULL}, *after[2] = {NULL};
    size_t n_before[2] = {0}, n_after[2] = {0};
    struct dd_storage *storage = NULL;
    snprintf(wal, sizeof wal, "%s-wal", f->path);
    const char *paths[2] = {f->path, access(wal, F_OK) == 0 ? wal : f->path};
    for (int i = 0; i < 2; i++) {
        assert_ok(f, dd_file_read(paths[i], MAX_TEXT, &before[i], &n_before[i], &f->err));
    }
    assert_fails(f, status, code, dd_storage_open(f->path, &storage, &f->err));
    assert_null(storage);
    for (int i = 0; i < 2; i++) {
        struct dd_error err;
        assert_int_equal(dd_file_read(paths[i], MAX_TEXT, &after[i], &n_after[i], &err), DD_OK);
        assert_int_equal(n_after[i], n_before[i]);
        assert_memory_equal(after[i], before[i], n_before[i]);
        free(before[i]);
        free(after[i]);
    }
}

static void test_newer_is_refused_to_the_byte(void **state) {
    struct fixture *f = *state;
    char sql[128], expected[128];
    int newer = db_schema_newest() + 1;
    snprintf(sql, sizeof sql, "CREATE TABLE future (x); PRAGMA user_version = %d", newer);
    insert_sample(f, "kept", 0);
    dd_storage_close(f->storage);
    f->storage = NULL;
    raw_sql(f, sql);
    assert_refused(f, DD_UNSUPPORTED, "database_newer");
    snprintf(expected, sizeof expected, "version %d, but this distilld " DD_VERSION " knows versions up to %d", newer,
             newer - 1);
    assert_non_null(strstr(f->err.message, expected));
    /* Killed with its last words in the WAL: that stays beside it. */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sqlite3 *db = NULL;
        bool written = sqlite3_open(f->path, &db) == SQLITE_OK &&
                       sqlite3_exec(db, "INSERT INTO future VALUES (1)", NULL, NULL, NULL) == SQLITE_OK;
        (void)kill(getpid(), written ? SIGKILL : SIGTERM);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WTERMSIG(status), SIGKILL);
    char wal[128];
    snprintf(wal, sizeof wal, "%s-wal", f->path);
    assert_int_equal(access(wal, F_OK), 0);
    assert_refused(f, DD_UNSUPPORTED, "database_newer");
    assert_int_equal(raw_int(f, "SELECT x FROM future"), 1);
}

static void test_foreign_is_refused_to_the_byte(void **state) {
    struct fixture *f = *state;
    remove_database(f);
    raw_sql(f, "CREATE TABLE somebody_elses (x); INSERT INTO somebody_elses VALUES (1)"); /* no WAL: none is made */
    assert_refused(f, DD_CORRUPT, "database_foreign");
}

/* --- dying and failing in between -------------------------------------------------------------------------------- */

/* A file system on which the write or sync number `fuse` (from 0) is the process's last: of a write half arrives. */
static int fuse = -1;
static struct {
    const sqlite3_io_methods *real; /* SQLite has one table for databases and one for their journals */
    sqlite3_io_methods fragile;
} methods[4];
static sqlite3_vfs fragile_vfs, *real_vfs;

static const sqlite3_io_methods *real_of(sqlite3_file *file) {
    size_t i = 0;
    while (file->pMethods != &methods[i].fragile) {
        i++;
    }
    return methods[i].real;
}

static int fragile_write(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 offset) {
    if (fuse >= 0 && fuse-- == 0) {
        (void)real_of(file)->xWrite(file, bytes, count / 2, offset);
        (void)kill(getpid(), SIGKILL);
    }
    return real_of(file)->xWrite(file, bytes, count, offset);
}

static int fragile_sync(sqlite3_file *file, int flags) {
    if (fuse >= 0 && fuse-- == 0) {
        (void)kill(getpid(), SIGKILL);
    }
    return real_of(file)->xSync(file, flags);
}

static int fragile_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret_flags) {
    (void)vfs;
    int rc = real_vfs->xOpen(real_vfs, name, file, flags, ret_flags);
    if (rc != SQLITE_OK || file->pMethods == NULL) {
        return rc;
    }
    size_t i = 0;
    while (methods[i].real != NULL && methods[i].real != file->pMethods) {
        i++;
    }
    assert_true(i < DD_ARRAY_LEN(methods) - 1);
    methods[i].real = file->pMethods;
    methods[i].fragile = *file->pMethods;
    methods[i].fragile.xWrite = fragile_write;
    methods[i].fragile.xSync = fragile_sync;
    file->pMethods = &methods[i].fragile;
    return SQLITE_OK;
}

static void fragile_disk(bool on) {
    if (real_vfs == NULL) {
        real_vfs = sqlite3_vfs_find(NULL);
        fragile_vfs = *real_vfs;
        fragile_vfs.zName = "fragile";
        fragile_vfs.xOpen = fragile_open;
        assert_int_equal(sqlite3_vfs_register(&fragile_vfs, 0), SQLITE_OK);
    }
    assert_int_equal(sqlite3_vfs_register(on ? &fragile_vfs : real_vfs, 1), SQLITE_OK);
}

/* Opens the database in a process of its own, which dies at write or sync n; false: it came through. */
static bool dies_at(struct fixture *f, int n) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct dd_storage *storage = NULL;
        fuse = n;
        if (dd_storage_open(f->path, &storage, NULL) != DD_OK) {
            _exit(1);
        }
        dd_storage_close(storage);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
                (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

struct before {
    int version;
    char *image; /* of the file */
    size_t len;
    char *selects, *rows;
    char *shapes[MAX_VERSIONS];
    bool seen[MAX_VERSIONS];
};

static void before_init(struct before *b, struct fixture *f, int version) {
    *b = (struct before){.version = version};
    assert_true(db_schema_newest() < MAX_VERSIONS);
    for (int i = 0; i <= db_schema_newest(); i++) {
        b->shapes[i] = shape_by_steps(f, i);
    }
    assert_true(put_version(f, version));
    sqlite3 *db = raw_open(f->path);
    b->selects = selects_of(db);
    b->rows = rows_of(db, b->selects);
    sqlite3_close(db);
    if (access(f->path, F_OK) == 0) {
        assert_ok(f, dd_file_read(f->path, MAX_TEXT, &b->image, &b->len, &f->err));
    }
}

static void before_release(struct before *b) {
    for (int i = 0; i <= db_schema_newest(); i++) {
        free(b->shapes[i]);
    }
    free(b->image);
    free(b->selects);
    free(b->rows);
}

static void before_put(struct before *b, struct fixture *f) {
    remove_database(f);
    int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b->len > 0 ? b->image : "", b->len), b->len);
    assert_int_equal(close(fd), 0);
}

/* What is there is one version whole, with every row, and the next start brings it to the newest. */
static void assert_one_version(struct before *b, struct fixture *f) {
    int version = (int)raw_int(f, "PRAGMA user_version");
    assert_in_range(version, b->version, db_schema_newest());
    b->seen[version] = true;
    for (int round = 0; round < 2; round++) {
        sqlite3 *db = raw_open(f->path);
        char *shape = shape_of(db), *rows = rows_of(db, b->selects);
        sqlite3_close(db);
        assert_string_equal(shape, b->shapes[version]);
        assert_string_equal(rows, b->rows);
        free(shape);
        free(rows);
        if (round == 0) {
            assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
            dd_storage_close(f->storage);
            f->storage = NULL;
            version = db_schema_newest();
        }
    }
    assert_whole(f);
}

/* Both ends were left behind, and nothing between them. */
static void assert_old_or_new(struct before *b) {
    for (int i = b->version; i <= db_schema_newest(); i++) {
        assert_true(b->seen[i] == (i == b->version || i == db_schema_newest()));
    }
}

static void test_killed_at_every_write(void **state) {
    struct fixture *f = *state;
    for (int version = 0; version <= 1; version++) { /* from nothing, and from the oldest with rows */
        struct before b;
        before_init(&b, f, version);
        bool died = true;
        for (int n = 0; died; n++) {
            before_put(&b, f);
            fragile_disk(true);
            died = dies_at(f, n);
            fragile_disk(false);
            assert_one_version(&b, f);
        }
        assert_old_or_new(&b);
        before_release(&b);
    }
}

#ifdef DD_FAILPOINTS
static void test_every_step_fails(void **state) {
    struct fixture *f = *state;
    static const char *const errors[] = {"EIO", "ENOSPC", "ENOMEM"};
    struct before b;
    before_init(&b, f, 1);
    for (size_t i = 0; i < DD_ARRAY_LEN(errors); i++) {
        enum dd_status status = DD_IO;
        for (int n = 1; status != DD_OK; n++) {
            char plan[64];
            before_put(&b, f);
            snprintf(plan, sizeof plan, "sqlite:%d:%s", n, errors[i]);
            assert_true(dd_failpoint_set(plan));
            status = dd_storage_open(f->path, &f->storage, &f->err);
            assert_true(dd_failpoint_set(NULL));
            dd_storage_close(f->storage);
            f->storage = NULL;
            assert_one_version(&b, f);
        }
    }
    assert_old_or_new(&b);
    before_release(&b);
}
#endif

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_every_earlier_version), T(test_newer_is_refused_to_the_byte), T(test_foreign_is_refused_to_the_byte),
        T(test_killed_at_every_write),
#ifdef DD_FAILPOINTS
        T(test_every_step_fails),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
