/* fixture: a database in a fresh temporary directory, and short ways to fill it. */
#ifndef STORAGE_FIXTURE_H
#define STORAGE_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "storage/storage.h"

struct fixture {
    char dir[64];
    char path[96];
    struct dd_storage *storage;
    struct dd_error err;
};

#define assert_ok(f, call)                                                                                             \
    do {                                                                                                               \
        if ((call) != DD_OK) {                                                                                         \
            fail_msg("%s: %s (%s)", #call, (f)->err.message, (f)->err.code);                                           \
        }                                                                                                              \
    } while (0)
#define assert_fails(f, expected, expected_code, call)                                                                 \
    do {                                                                                                               \
        assert_int_equal(call, expected);                                                                              \
        assert_int_equal((f)->err.status, expected);                                                                   \
        assert_string_equal((f)->err.code, expected_code);                                                             \
        assert_true((f)->err.message[0] != '\0');                                                                      \
    } while (0)

static inline int fixture_setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(f->dir, sizeof f->dir, "/tmp/distilld-storage-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/distilld.db", f->dir);
    assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state) {
    struct fixture *f = *state;
    dd_storage_close(f->storage);
    assert_ok(f, dd_tree_remove(f->dir, &f->err));
    free(f);
    return 0;
}

static inline void reopen(struct fixture *f) {
    dd_storage_close(f->storage);
    f->storage = NULL;
    assert_ok(f, dd_storage_open(f->path, &f->storage, &f->err));
}

/* SQL of the test's own, beside the storage. */
static inline void raw_sql(struct fixture *f, const char *sql) {
    sqlite3 *db = NULL;
    char *message = NULL;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) {
        fail_msg("%s: %s", sql, message);
    }
    sqlite3_close(db);
}

static inline int64_t raw_int(struct fixture *f, const char *sql) {
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return value;
}

/* A row to insert; the texts are static, so it is never released. */
static inline struct dd_experiment sample(const char *name) {
    static char notes[] = "", tags[] = "[\"milk\"]", spec[] = "{\"task\":\"distill\",\"init\":\"random\"}";
    static char task[] = "distill", dataset[] = "milk", teacher[] = "milk-teacher", optimizer[] = "adamw", none[] = "";
    static char name_copy[512];
    snprintf(name_copy, sizeof name_copy, "%s", name);
    return (struct dd_experiment){
        .name = name_copy,
        .notes = notes,
        .tags_json = tags,
        .spec_json = spec,
        .spec_hash = "00ff",
        .task = task,
        .dataset = dataset,
        .teacher = teacher,
        .base_model = none,
        .optimizer = optimizer,
        .layers = 3,
        .heads = 3,
        .hidden_size = 768,
        .temperature = 4,
        .alpha = 0.2,
        .lr = 1e-4,
        .epochs = 60,
        .steps = 8460,
    };
}

static inline int64_t insert_sample(struct fixture *f, const char *name, int priority) {
    struct dd_experiment row = sample(name);
    int64_t id = 0;
    row.priority = priority;
    assert_ok(f, dd_storage_experiment_insert(f->storage, &row, &id, &f->err));
    assert_true(id > 0);
    return id;
}

static inline struct dd_experiment get(struct fixture *f, int64_t id) {
    struct dd_experiment row = {0};
    assert_ok(f, dd_storage_experiment_get(f->storage, id, &row, &f->err));
    return row;
}

static inline enum dd_state state_of(struct fixture *f, int64_t id) {
    struct dd_experiment row = get(f, id);
    enum dd_state state = row.state;
    dd_experiment_release(&row);
    return state;
}

static inline int64_t claim(struct fixture *f) {
    int64_t id = -1;
    assert_ok(f, dd_storage_claim(f->storage, &id, &f->err));
    return id;
}

#endif
