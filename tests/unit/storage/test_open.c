/* Opening, closing, dying: schema, lock, foreign and damaged files, kill -9, a full disk, planned failures. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "storage/db.h"
#include "tests/unit/storage/fixture.h"

static void test_new_database(void **state) {
    struct fixture *f = *state;
    char text[256];
    assert_int_equal(dd_storage_schema_version(f->storage), db_schema_newest());
    assert_ok(f, dd_storage_ping(f->storage, &f->err));
    assert_ok(f, dd_storage_ping(f->storage, &f->err));
    assert_true(raw_int(f, "SELECT checked_ms FROM health") > 0);
    assert_int_equal(raw_int(f, "PRAGMA application_id"), 0x64697364);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM sweeps"), 0);
    struct db_query query = db_query_start(&f->storage->write, "PRAGMA synchronous");
    bool row = false;
    assert_ok(f, db_query_next(&query, &row, &f->err));
    assert_int_equal(db_column_int(&query, 0), 2); /* FULL */
    db_query_end(&query);
    query = db_query_start(&f->storage->write, "PRAGMA foreign_keys");
    assert_ok(f, db_query_next(&query, &row, &f->err));
    assert_int_equal(db_column_int(&query, 0), 1);
    db_query_end(&query);
    dd_storage_close(f->storage);
    f->storage = NULL;
    snprintf(text, sizeof text, "%s-wal", f->path); /* brought in and removed by the close */
    assert_int_not_equal(access(text, F_OK), 0);
    dd_storage_close(NULL);
}

static void test_reader_cannot_write(void **state) {
    struct fixture *f = *state;
    assert_int_not_equal(sqlite3_exec(f->storage->read.handle, "DELETE FROM health", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM health"), 1);
}

static void test_empty_file_is_migrated(void **state) {
    struct fixture *f = *state;
    dd_storage_close(f->storage);
    f->storage = NULL;
    assert_int_equal(truncate(f->path, 0), 0);
    assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
    assert_int_equal(dd_storage_schema_version(f->storage), db_schema_newest());
    insert_sample(f, "x", 0);
}

static enum dd_status open_again(struct fixture *f) {
    struct dd_storage *other = NULL;
    enum dd_status status = dd_storage_open(f->path, &other, &f->err);
    if (status == DD_OK) {
        dd_storage_close(other);
    } else {
        assert_null(other);
    }
    return status;
}

static void test_newer_schema_is_refused(void **state) {
    struct fixture *f = *state;
    insert_sample(f, "x", 0);
    dd_storage_close(f->storage);
    f->storage = NULL;
    raw_sql(f, "PRAGMA user_version = 999");
    assert_fails(f, DD_UNSUPPORTED, "database_newer", open_again(f));
    assert_non_null(strstr(f->err.message, "version 999"));
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), 1); /* untouched */
    raw_sql(f, "PRAGMA user_version = -1");
    assert_fails(f, DD_UNSUPPORTED, "database_newer", open_again(f));
    char back[64];
    snprintf(back, sizeof back, "PRAGMA user_version = %d", db_schema_newest());
    raw_sql(f, back);
    assert_ok(f, open_again(f));
}

static void test_foreign_and_damaged_files(void **state) {
    struct fixture *f = *state;
    char garbage[8192];
    dd_storage_close(f->storage);
    f->storage = NULL;
    assert_int_equal(unlink(f->path), 0);
    raw_sql(f, "CREATE TABLE somebody_elses (x)");
    assert_fails(f, DD_CORRUPT, "database_foreign", open_again(f));
    memset(garbage, 'x', sizeof garbage);
    assert_ok(f, dd_file_write_durable(f->path, garbage, sizeof garbage, &f->err));
    assert_fails(f, DD_CORRUPT, "database_corrupt", open_again(f));
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(mkdir(f->path, 0700), 0);
    assert_fails(f, DD_IO, "io_error", open_again(f));
    assert_int_equal(rmdir(f->path), 0);
    assert_int_equal(symlink("/nowhere/at/all", f->path), 0);
    assert_fails(f, DD_NOT_FOUND, "file_not_found", open_again(f));
    char longest[5000];
    memset(longest, 'y', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    struct dd_storage *other = NULL;
    assert_int_equal(dd_storage_open(longest, &other, &f->err), DD_IO);
    assert_int_equal(dd_storage_open("/nowhere/at/all.db", &other, &f->err), DD_NOT_FOUND);
}

/* A page in the middle overwritten: reads report it, and nothing crashes. */
static void test_damaged_page(void **state) {
    struct fixture *f = *state;
    for (int i = 0; i < 200; i++) {
        insert_sample(f, "some name", 0);
    }
    dd_storage_close(f->storage);
    f->storage = NULL;
    int64_t page = raw_int(f, "SELECT rootpage FROM sqlite_master WHERE name = 'experiments'");
    int fd = open(f->path, O_RDWR);
    assert_true(fd >= 0);
    char noise[4096];
    memset(noise, 0xA5, sizeof noise);
    assert_int_equal(pwrite(fd, noise, sizeof noise, (page - 1) * 4096), sizeof noise);
    close(fd);
    assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
    struct dd_experiment row;
    assert_fails(f, DD_CORRUPT, "database_corrupt", dd_storage_experiment_get(f->storage, 5, &row, &f->err));
    int64_t id = 0;
    assert_int_equal(dd_storage_claim(f->storage, &id, &f->err), DD_CORRUPT);
}

static void test_second_opening_is_refused(void **state) {
    struct fixture *f = *state;
    char pid[32];
    assert_fails(f, DD_CONFLICT, "database_in_use", open_again(f)); /* in this process */
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    assert_non_null(strstr(f->err.message, pid));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) { /* in another; cmocka's asserts would go on in the parent's code */
        struct dd_storage *other = NULL;
        struct dd_error err;
        bool refused = dd_storage_open(f->path, &other, &err) == DD_CONFLICT && strstr(err.message, pid);
        _exit(refused ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    dd_storage_close(f->storage);
    f->storage = NULL;
    assert_ok(f, open_again(f)); /* the lock went with the storage */
}

/* The child writes until it is killed, some acknowledged, the last transaction open; every id it told is there. */
static void test_kill_in_transaction(void **state) {
    struct fixture *f = *state;
    dd_storage_close(f->storage);
    f->storage = NULL;
    int64_t acknowledged = 0;
    for (int round = 0; round < 5; round++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct dd_storage *storage = NULL;
            struct dd_experiment row = sample("durable");
            int64_t id = 0;
            if (dd_storage_open(f->path, &storage, NULL) != DD_OK) {
                _exit(1);
            }
            for (int i = 0; i < 20; i++) {
                if (dd_storage_experiment_insert(storage, &row, &id, NULL) != DD_OK || write(ends[1], &id, 8) != 8) {
                    _exit(1);
                }
            }
            int rc =
                sqlite3_exec(storage->write.handle,
                             "BEGIN; UPDATE experiments SET name = 'half'; PRAGMA wal_checkpoint", NULL, NULL, NULL);
            (void)rc; /* a checkpoint inside a transaction is refused; the open transaction is what counts */
            id = -1;
            if (write(ends[1], &id, 8) == 8) {
                pause();
            }
            _exit(1);
        }
        close(ends[1]);
        int64_t id = 0;
        while (read(ends[0], &id, 8) == 8 && id != -1) {
            acknowledged = id;
        }
        assert_int_equal(id, -1);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        close(ends[0]);
        assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
        assert_int_equal(acknowledged, 20 * (round + 1));
        assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), acknowledged);
        assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments WHERE name = 'half'"), 0);
        assert_int_equal(raw_int(f, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
        dd_storage_close(f->storage);
        f->storage = NULL;
    }
}

static void limit_pages(struct fixture *f, int64_t pages) {
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA max_page_count = %lld", (long long)pages);
    assert_int_equal(sqlite3_exec(f->storage->write.handle, sql, NULL, NULL, NULL), SQLITE_OK);
}

static void test_full_disk(void **state) {
    struct fixture *f = *state;
    struct dd_experiment row = sample("x");
    int64_t id = insert_sample(f, "first", 0), last = id;
    limit_pages(f, raw_int(f, "PRAGMA page_count") + 3);
    enum dd_status status = DD_OK;
    for (int i = 0; i < 1000 && status == DD_OK; i++) {
        status = dd_storage_experiment_insert(f->storage, &row, &last, &f->err);
    }
    assert_int_equal(status, DD_NO_SPACE);
    assert_string_equal(f->err.code, "no_space");
    assert_non_null(strstr(f->err.message, "full"));
    /* An epoch with much to store fails as a whole. */
    static struct dd_step_row steps[500];
    struct dd_epoch_row epoch = {.epoch = 1, .macro_f1 = 0.5, .is_best = true};
    for (int i = 0; i < 500; i++) {
        steps[i].step = i + 1;
    }
    assert_fails(f, DD_NO_SPACE, "no_space",
                 dd_storage_epoch_put(f->storage, id, &epoch, NULL, steps, 500, NULL, &f->err));
    assert_int_equal(raw_int(f, "SELECT (SELECT count(*) FROM epochs) + (SELECT count(*) FROM steps)"), 0);
    struct dd_experiment got = get(f, id);
    assert_int_equal(got.epochs_done, 0);
    dd_experiment_release(&got);
    /* What needs no room still works, and all does when there is room again. */
    assert_int_equal(claim(f), id);
    assert_ok(f, dd_storage_experiment_finish(f->storage, id, DD_FAILED, "no_space", "the disk is full", &f->err));
    limit_pages(f, 100000);
    assert_ok(f, dd_storage_epoch_put(f->storage, id, &epoch, NULL, steps, 500, NULL, &f->err));
    assert_ok(f, dd_storage_experiment_insert(f->storage, &row, &last, &f->err));
    assert_int_equal(raw_int(f, "SELECT count(*) FROM steps"), 500);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
}

static void test_busy(void **state) {
    struct fixture *f = *state;
    sqlite3 *other = NULL;
    int64_t id = 0;
    sqlite3_busy_timeout(f->storage->write.handle, 1);
    assert_int_equal(sqlite3_open(f->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_fails(f, DD_BUSY, "database_busy", dd_storage_claim(f->storage, &id, &f->err));
    assert_fails(f, DD_BUSY, "database_busy", dd_storage_ping(f->storage, &f->err));
    struct dd_experiment_query query = {.limit = 5}; /* readers are not held up */
    struct dd_experiment *rows = NULL;
    size_t count = 0;
    char *cursor = NULL;
    assert_ok(f, dd_storage_experiment_list(f->storage, &query, &rows, &count, &cursor, &f->err));
    dd_experiments_free(rows, count);
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    assert_int_equal(claim(f), 0);
    assert_ok(f, dd_storage_ping(f->storage, &f->err));
}

/* More different statements than there is room for: old ones go, all work. */
static void test_statement_cache(void **state) {
    struct fixture *f = *state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3 * DB_STATEMENTS; i++) {
            char sql[64];
            bool row = false;
            snprintf(sql, sizeof sql, "SELECT %d + ?", i);
            struct db_query query = db_query_start(&f->storage->write, sql);
            db_bind_int(&query, 1000);
            assert_ok(f, db_query_next(&query, &row, &f->err));
            assert_true(row);
            assert_int_equal(db_column_int(&query, 0), 1000 + i);
            db_query_end(&query);
        }
    }
    struct db_query bad = db_query_start(&f->storage->write, "SELECT nonsense FROM nowhere");
    db_bind_int(&bad, 1);
    assert_fails(f, DD_INTERNAL, "database_error", db_query_run(&bad, NULL, &f->err));
    struct db_query many = db_query_start(&f->storage->write, "SELECT 1");
    db_bind_int(&many, 1); /* a parameter that is not there is reported by the run */
    assert_int_equal(db_query_run(&many, NULL, &f->err), DD_INTERNAL);
}

struct traffic {
    struct fixture *f;
    int64_t id;
    int failures;
};

static void *write_epochs(void *argument) {
    struct traffic *t = argument;
    for (int i = 1; i <= 50; i++) {
        struct dd_epoch_row epoch = {.epoch = i, .macro_f1 = i / 100.0, .is_best = true};
        t->failures += dd_storage_epoch_put(t->f->storage, t->id, &epoch, NULL, NULL, 0, NULL, NULL) != DD_OK;
    }
    return NULL;
}

/* Readers see an epoch and the summary of it at once. */
static void *read_epochs(void *argument) {
    struct traffic *t = argument;
    for (int i = 0; i < 200; i++) {
        struct dd_experiment row;
        struct dd_epoch_row *rows = NULL;
        size_t count = 0;
        if (dd_storage_experiment_get(t->f->storage, t->id, &row, NULL) != DD_OK) {
            t->failures++;
            continue;
        }
        int done = row.epochs_done;
        t->failures += row.best.epoch != done || row.last.epoch != done;
        dd_experiment_release(&row);
        if (dd_storage_epochs_get(t->f->storage, t->id, 0, &rows, &count, NULL) != DD_OK || (int)count < done) {
            t->failures++;
        }
        free(rows);
    }
    return NULL;
}

static void test_readers_beside_writers(void **state) {
    struct fixture *f = *state;
    pthread_t threads[4];
    struct traffic traffic[4];
    int64_t ids[2] = {insert_sample(f, "a", 0), insert_sample(f, "b", 0)};
    for (int i = 0; i < 4; i++) {
        traffic[i] = (struct traffic){f, ids[i % 2], 0};
        assert_int_equal(pthread_create(&threads[i], NULL, i < 2 ? write_epochs : read_epochs, &traffic[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(traffic[i].failures, 0);
    }
}

#ifdef DD_FAILPOINTS
/* A life of one experiment; the first failure ends it. */
static enum dd_status whole_life(struct dd_storage *storage, struct dd_error *err) {
    struct dd_experiment row = sample("life"), got = {0};
    struct dd_epoch_row epoch = {.epoch = 1, .macro_f1 = 0.5, .is_best = true}, *epochs = NULL;
    int32_t label[2] = {0, 1};
    float score[2] = {0.5f, 0.5f};
    struct dd_prediction_set dev = {2, label, score}, read = {0};
    struct dd_step_row step = {.step = 1};
    struct dd_experiment_query query = {.sort = "-best_macro_f1", .q = "life", .limit = 1};
    struct dd_experiment *items = NULL;
    size_t count = 0;
    char *cursor = NULL;
    int64_t id = 0, claimed = 0, seq = 0;
    enum dd_state state;
    bool signal;
    enum dd_status status = dd_storage_experiment_insert(storage, &row, &id, err);
    status = status ? status : dd_storage_claim(storage, &claimed, err);
    status = status ? status : dd_storage_act(storage, claimed, DD_ACTION_PAUSE, &state, &signal, err);
    status = status ? status : dd_storage_epoch_put(storage, claimed, &epoch, &dev, &step, 1, NULL, err);
    status = status ? status : dd_storage_log_put(storage, claimed, DD_LOG_INFO, "x", &seq, err);
    status = status ? status : dd_storage_reference_put(storage, claimed, "[]", label, 2, &dev, err);
    status = status ? status : dd_storage_experiment_finish(storage, claimed, DD_FINISHED, NULL, NULL, err);
    if (status == DD_OK) {
        status = dd_storage_experiment_get(storage, claimed, &got, err);
        dd_experiment_release(&got);
    }
    if (status == DD_OK) {
        status = dd_storage_epochs_get(storage, claimed, 0, &epochs, &count, err);
        free(epochs);
    }
    if (status == DD_OK) {
        status = dd_storage_predictions_get(storage, claimed, 1, &read, err);
        dd_prediction_set_release(&read);
    }
    if (status == DD_OK &&
        (status = dd_storage_experiment_list(storage, &query, &items, &count, &cursor, err)) == DD_OK) {
        dd_experiments_free(items, count);
        free(cursor);
    }
    return status ? status : dd_storage_experiment_delete(storage, claimed, err);
}

/* The n-th step, then allocation, fails, for every n until none does: each failure is reported as what it is, nothing
 * leaks (under ASan), and the storage works on. */
static void test_every_failure(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *kind, *error;
        enum dd_status expected;
    } kinds[] = {{"sqlite", "ENOSPC", DD_NO_SPACE},
                 {"sqlite", "EIO", DD_IO},
                 {"sqlite", "EBUSY", DD_BUSY},
                 {"sqlite", "ENOMEM", DD_NO_MEMORY},
                 {"alloc", "ENOMEM", DD_NO_MEMORY}};
    for (size_t kind = 0; kind < DD_ARRAY_LEN(kinds); kind++) {
        enum dd_status status = DD_INTERNAL;
        for (int n = 1; status != DD_OK; n++) {
            char plan[64];
            snprintf(plan, sizeof plan, "%s:%d:%s", kinds[kind].kind, n, kinds[kind].error);
            assert_true(n < 500);
            assert_true(dd_failpoint_set(plan));
            status = whole_life(f->storage, &f->err);
            assert_true(dd_failpoint_set(""));
            if (status != DD_OK) {
                assert_int_equal(status, kinds[kind].expected);
                assert_true(sqlite3_get_autocommit(f->storage->write.handle));
                assert_true(sqlite3_get_autocommit(f->storage->read.handle));
            }
            raw_sql(f, "DELETE FROM experiments");
            assert_ok(f, whole_life(f->storage, &f->err));
        }
        for (const char *const *table = (const char *const[]){"epochs", "steps", "predictions", "reference", NULL};
             *table; table++) {
            char sql[64];
            snprintf(sql, sizeof sql, "DELETE FROM %s", *table); /* raw_sql has no foreign keys */
            raw_sql(f, sql);
        }
    }
    assert_int_equal(raw_int(f, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
}

static void test_open_fails_at_every_step(void **state) {
    struct fixture *f = *state;
    dd_storage_close(f->storage);
    f->storage = NULL;
    static const char *const plans[][2] = {{"sqlite", "EIO"}, {"sqlite", "ENOSPC"}, {"alloc", "ENOMEM"}};
    for (size_t kind = 0; kind < DD_ARRAY_LEN(plans); kind++) {
        for (int n = 1;; n++) {
            char plan[64];
            assert_int_equal(truncate(f->path, 0), 0); /* so that the schema is made each time */
            snprintf(plan, sizeof plan, "%s:%d:%s", plans[kind][0], n, plans[kind][1]);
            assert_true(dd_failpoint_set(plan));
            enum dd_status status = dd_storage_open(f->path, &f->storage, &f->err);
            assert_true(dd_failpoint_set(NULL));
            if (status == DD_OK) {
                break;
            }
            assert_null(f->storage);
            assert_true(n < 200);
        }
        dd_storage_close(f->storage);
        f->storage = NULL;
    }
    assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
}
#endif

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_new_database),
        T(test_reader_cannot_write),
        T(test_empty_file_is_migrated),
        T(test_newer_schema_is_refused),
        T(test_foreign_and_damaged_files),
        T(test_damaged_page),
        T(test_second_opening_is_refused),
        T(test_kill_in_transaction),
        T(test_full_disk),
        T(test_busy),
        T(test_statement_cache),
        T(test_readers_beside_writers),
#ifdef DD_FAILPOINTS
        T(test_every_failure),
        T(test_open_fails_at_every_step),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
