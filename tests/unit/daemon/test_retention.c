/* Retention: what goes, in which order, and what is never touched. */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/daemon.h"

#define DAY (24 * 3600 * INT64_C(1000))

static struct dd_daemon test_daemon;
static struct dd_options options;
static char dir[64];

static int set_up(void **state) {
    (void)state;
    char path[PATH_MAX];
    struct dd_error err = {0};
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    test_daemon = (struct dd_daemon){.options = &options};
    options = (struct dd_options){0};
    snprintf(dir, sizeof dir, "/tmp/distilld-test-retention-XXXXXX");
    if (mkdtemp(dir) == NULL || dd_data_dir_open(&test_daemon, dir, NULL, &err) != DD_OK ||
        dd_path_join(path, sizeof path, &err, dir, "distilld.db", NULL) != DD_OK)
        return -1;
    return dd_storage_open(path, &test_daemon.storage, &err) == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    struct dd_error err = {0};
    dd_storage_close(test_daemon.storage);
    return dd_tree_remove(dir, &err) == DD_OK ? 0 : -1;
}

/* A run that is queued; then, unless end is DD_QUEUED, claimed and ended.  Runs are claimed in the order they are made.
 */
static int64_t run_of(const char *tags, enum dd_state end) {
    char name[] = "run", text[64], spec[] = "{}", task[] = "distill", none[] = "";
    int64_t id = 0, claimed = 0;
    struct dd_error err = {0};
    snprintf(text, sizeof text, "%s", tags);
    const struct dd_experiment row = {.name = name,
                                      .notes = none,
                                      .tags_json = text,
                                      .spec_json = spec,
                                      .task = task,
                                      .dataset = name,
                                      .teacher = none,
                                      .base_model = none,
                                      .optimizer = name,
                                      .temperature = NAN,
                                      .alpha = NAN,
                                      .lr = NAN,
                                      .eta_seconds = NAN,
                                      .tokens_per_second = NAN,
                                      .elapsed_seconds = NAN};
    assert_int_equal(dd_storage_experiment_insert(test_daemon.storage, &row, &id, &err), DD_OK);
    if (end == DD_QUEUED)
        return id;
    assert_int_equal(dd_storage_claim(test_daemon.storage, &claimed, &err), DD_OK);
    assert_int_equal(claimed, id);
    if (end != DD_RUNNING)
        assert_int_equal(dd_storage_experiment_finish(test_daemon.storage, id, end, NULL, NULL, &err), DD_OK);
    return id;
}

static void put_file(const char *folder, const char *name, size_t bytes, int64_t used_s) {
    char path[PATH_MAX], full[PATH_MAX];
    struct dd_error err = {0};
    DD_CLEANUP(dd_free_ptr) char *content = calloc(bytes + 1, 1);
    assert_int_equal(dd_path_join(path, sizeof path, &err, dir, folder, NULL), DD_OK);
    assert_int_equal(dd_dir_make(path, &err), DD_OK);
    assert_int_equal(dd_path_join(full, sizeof full, &err, path, name, NULL), DD_OK);
    assert_int_equal(dd_file_write_durable(full, content, bytes, &err), DD_OK);
    const struct timespec times[2] = {{.tv_sec = used_s}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, full, times, 0), 0);
}

static bool there(const char *folder, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s/%s", dir, folder, name);
    return access(path, F_OK) == 0;
}

static bool has_row(int64_t id) {
    struct dd_experiment experiment;
    struct dd_error err = {0};
    enum dd_status status = dd_storage_experiment_get(test_daemon.storage, id, &experiment, &err);
    if (status == DD_OK)
        dd_experiment_release(&experiment);
    return status == DD_OK;
}

static int removed(int64_t now_ms, bool dry_run, int limit, bool *ret_more) {
    cJSON *json = NULL;
    struct dd_error err = {0};
    assert_int_equal(dd_retention_pass(&test_daemon, now_ms, dry_run, limit, &json, &err), DD_OK);
    int count = cJSON_GetArraySize(cJSON_GetObjectItem(json, "items"));
    if (ret_more != NULL)
        *ret_more = cJSON_IsTrue(cJSON_GetObjectItem(json, "more"));
    cJSON_Delete(json);
    return count;
}

static void test_runs(void **state) {
    (void)state;
    int64_t now = dd_clock_wall_ms();
    int64_t finished = run_of("[]", DD_FINISHED), failed = run_of("[\"a\"]", DD_FAILED),
            kept = run_of("[\"a\",\"keep\"]", DD_FINISHED), paused = run_of("[]", DD_PAUSED),
            running = run_of("[]", DD_RUNNING), queued = run_of("[\"keeper\"]", DD_QUEUED);
    char folder[64];
    snprintf(folder, sizeof folder, "runs/%" PRId64, finished);
    put_file(folder, "finished", 10, 5);
    assert_int_equal(removed(now + 1000 * DAY, false, 100, NULL), 0); /* nothing is configured */
    options.keep_runs_days = 30;
    assert_int_equal(removed(now + 29 * DAY, false, 100, NULL), 0);
    assert_int_equal(removed(now + 31 * DAY, true, 100, NULL), 2);
    assert_true(has_row(finished)); /* a dry run */
    bool more = false;
    assert_int_equal(removed(now + 31 * DAY, false, 1, &more), 1);
    assert_true(more);
    assert_int_equal(removed(now + 31 * DAY, false, 100, &more), 1);
    assert_false(more);
    assert_false(has_row(finished) || has_row(failed) || there("runs", strrchr(folder, '/') + 1));
    assert_true(has_row(kept) && has_row(paused) && has_row(running) && has_row(queued));
}

/* Between the list and the deletion somebody retries the run. */
static void test_taken_up_again(void **state) {
    (void)state;
    struct dd_error err = {0};
    struct dd_ended_run *runs;
    size_t count;
    enum dd_state after;
    bool signal, deleted = true;
    int64_t id = run_of("[]", DD_FAILED), late = dd_clock_wall_ms() + DAY;
    assert_int_equal(dd_storage_ended_list(test_daemon.storage, late, ~0u, 10, &runs, &count, &err), DD_OK);
    assert_int_equal(count, 1);
    assert_int_equal(runs[0].id, id);
    free(runs);
    assert_int_equal(dd_storage_act(test_daemon.storage, id, DD_ACTION_RETRY, &after, &signal, &err), DD_OK);
    assert_int_equal(dd_storage_ended_delete(test_daemon.storage, id, late, &deleted, &err), DD_OK);
    assert_false(deleted);
    assert_true(has_row(id));
}

static void test_checkpoints(void **state) {
    (void)state;
    int64_t now = dd_clock_wall_ms();
    enum dd_state states[] = {DD_FAILED, DD_CANCELLED, DD_FAILED, DD_PAUSED, DD_FAILED};
    char folder[DD_ARRAY_LEN(states)][64];
    for (size_t i = 0; i < DD_ARRAY_LEN(states); i++) {
        snprintf(folder[i], sizeof folder[i], "runs/%" PRId64, run_of(i == 4 ? "[\"keep\"]" : "[]", states[i]));
        put_file(folder[i], "checkpoint", 1000, 5);
        put_file(folder[i], "checkpoint.previous", 500, 5);
        put_file(folder[i], "best", 10, 5);
    }
    options.keep_checkpoints_bytes = 3500; /* three of 1500 count */
    assert_int_equal(removed(now, false, 100, NULL), 1);
    assert_false(there(folder[0], "checkpoint") || there(folder[0], "checkpoint.previous"));
    assert_true(there(folder[0], "best") && there(folder[1], "checkpoint") && there(folder[2], "checkpoint"));
    assert_int_equal(removed(now, false, 100, NULL), 0);
    options.keep_checkpoints_days = 7;
    assert_int_equal(removed(now + 8 * DAY, false, 100, NULL), 2);
    assert_false(there(folder[1], "checkpoint") || there(folder[2], "checkpoint"));
    assert_true(there(folder[3], "checkpoint") && there(folder[4], "checkpoint"));
}

static void test_cache(void **state) {
    (void)state;
    put_file("cache", "logits-a.bin", 1000, 300);
    put_file("cache", "states-b.bin", 1000, 100);
    put_file("cache", "logits-c.bin", 1000, 200);
    put_file("cache", "lock", 1000, 1);
    put_file("cache", "logits-d.other", 1000, 1);
    options.keep_cache_bytes = 3000;
    assert_int_equal(removed(0, false, 100, NULL), 0);
    options.keep_cache_bytes = 1500;
    assert_int_equal(removed(0, true, 100, NULL), 2);
    assert_int_equal(removed(0, false, 100, NULL), 2);
    assert_true(there("cache", "logits-a.bin") && there("cache", "lock") && there("cache", "logits-d.other"));
    assert_false(there("cache", "states-b.bin") || there("cache", "logits-c.bin"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_runs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_taken_up_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_checkpoints, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cache, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
