/* A run's directory after damage: what is not whole is never used, and the run still ends in the same bits. */
#include "train_fixture.h"

static char reference[512];
static int best_epoch;
static bool is_best[RECORD_EPOCHS + 1];

static void attempt_init(struct attempt *attempt, const char *run) {
    *attempt = (struct attempt){.run = run, .threads = 1};
    attempt->spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW);
}

static void path_in(char out[700], const char *run, const char *name) {
    snprintf(out, 700, "%s/%s/%s", fixture_dir, run, name);
}

static void flip(const char *path, size_t from_end) {
    struct dd_error err;
    char *bytes = NULL;
    size_t len = 0;
    must(dd_file_read(path, 1 << 26, &bytes, &len, &err), &err);
    bytes[len - 1 - from_end] ^= 4;
    must(dd_file_write_durable(path, bytes, len, &err), &err);
    free(bytes);
}

/* Two epochs and five steps, paused: a checkpoint of step 23 and one of the second epoch's end. */
static void stop_in_third_epoch(const char *run) {
    struct attempt attempt;
    attempt_init(&attempt, run);
    attempt.recorder.stop_at = 2 * 10 + 5;
    attempt.recorder.stop = DD_STOP_PAUSE;
    assert_int_equal(attempt_train(&attempt), DD_STOPPED);
    assert_string_equal(attempt.err.code, "paused");
    char path[700];
    path_in(path, run, "checkpoint.previous");
    assert_int_equal(access(path, F_OK), 0);
}

/* Goes on to the end: first_step is the first one that was not repeated from memory. */
static void finish(const char *run, int warnings, int epochs) {
    struct attempt attempt;
    char dir[512], best[64];
    attempt_init(&attempt, run);
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.warnings, warnings);
    assert_int_equal(attempt.recorder.epochs, epochs);
    fixture_path(dir, run);
    same_file(dir, reference, "last/model.safetensors");
    snprintf(best, sizeof best, "best-%d/model.safetensors", best_epoch);
    same_file(dir, reference, best);
}

static void test_undamaged(void **state) {
    (void)state;
    stop_in_third_epoch("undamaged");
    finish("undamaged", 0, 2);
}

/* Falls back to the end of epoch 2, whose callback is repeated. */
static void test_damaged_checkpoint(void **state) {
    (void)state;
    char path[700];
    stop_in_third_epoch("flipped");
    path_in(path, "flipped", "checkpoint");
    flip(path, 5000);
    finish("flipped", 1, 3);
    stop_in_third_epoch("torn");
    path_in(path, "torn", "checkpoint");
    assert_int_equal(truncate(path, 4096), 0);
    finish("torn", 1, 3);
    stop_in_third_epoch("empty");
    path_in(path, "empty", "checkpoint");
    assert_int_equal(truncate(path, 0), 0);
    finish("empty", 1, 3);
}

/* The newest refers to another best model than the one before: both must be there. */
static void test_damaged_at_a_new_best(void **state) {
    (void)state;
    int epoch = is_best[2] ? 2 : 3;
    assert_true(is_best[epoch]);
    struct attempt attempt;
    attempt_init(&attempt, "new-best");
    attempt.recorder.stop_at = 10 * epoch; /* in its callback */
    attempt.recorder.stop = DD_STOP_PAUSE;
    assert_int_equal(attempt_train(&attempt), DD_STOPPED);
    char path[700];
    path_in(path, "new-best", "checkpoint");
    flip(path, 100);
    finish("new-best", 1, 4 - epoch + 2);
}

static void test_both_damaged(void **state) {
    (void)state;
    char path[700];
    stop_in_third_epoch("both");
    path_in(path, "both", "checkpoint");
    flip(path, 100);
    path_in(path, "both", "checkpoint.previous");
    flip(path, 100);
    finish("both", 2, 4);
}

/* After falling back, the damaged file must not have become the previous one. */
static void test_damaged_is_not_kept(void **state) {
    (void)state;
    char path[700];
    stop_in_third_epoch("kept");
    path_in(path, "kept", "checkpoint");
    flip(path, 100);
    struct attempt attempt;
    attempt_init(&attempt, "kept");
    attempt.recorder.stop_at = 1 + 9 + 3; /* steps of epoch 2 and its callback come again */
    attempt.recorder.stop = DD_STOP_PAUSE;
    assert_int_equal(attempt_train(&attempt), DD_STOPPED);
    path_in(path, "kept", "checkpoint");
    flip(path, 100);
    finish("kept", 1, 3);
}

static void test_damaged_best_model(void **state) {
    (void)state;
    char path[700], name[64];
    struct dd_error err;
    for (int kind = 0; kind < 4; kind++) {
        static const char *const runs[] = {"best-flipped", "best-gone", "best-torn", "best-config"};
        stop_in_third_epoch(runs[kind]);
        for (int epoch = 1; epoch <= 2; epoch++) {
            snprintf(name, sizeof name, "best-%d", epoch);
            path_in(path, runs[kind], name);
            if (access(path, F_OK) != 0) {
                continue;
            }
            snprintf(name, sizeof name, kind == 3 ? "best-%d/config.json" : "best-%d/model.safetensors", epoch);
            path_in(path, runs[kind], name);
            if (kind == 0 || kind == 3) {
                flip(path, 30);
            } else if (kind == 1) {
                path[strlen(path) - strlen("/model.safetensors")] = '\0';
                must(dd_tree_remove(path, &err), &err);
            } else {
                assert_int_equal(truncate(path, 1000), 0);
            }
        }
        finish(runs[kind], 2, 4);
    }
}

static void test_strangers_in_the_directory(void **state) {
    (void)state;
    char path[700];
    struct dd_error err;
    path_in(path, "strangers", "checkpoint.tmp-0123456789abcdef");
    char dir[512];
    fixture_path(dir, "strangers");
    must(dd_dir_make(dir, &err), &err);
    must(dd_file_write_durable(path, "x", 1, &err), &err);
    char best[700];
    path_in(best, "strangers", "best-9");
    must(dd_dir_make(best, &err), &err);
    finish("strangers", 0, 4);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(best, F_OK), 0);
}

static void test_damaged_after_the_end(void **state) {
    (void)state;
    char path[700];
    finish("ended", 0, 4);
    finish("ended", 0, 0);
    path_in(path, "ended", "last/model.safetensors");
    flip(path, 300);
    finish("ended", 1, 4);
    path_in(path, "ended", "finished");
    flip(path, 300);
    finish("ended", 1, 4);
    finish("ended", 0, 0);
}

static void test_shutdown_keeps_the_step(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, "shutdown");
    attempt.recorder.stop_at = 5;
    attempt.recorder.stop = DD_STOP_SHUTDOWN;
    assert_int_equal(attempt_train(&attempt), DD_STOPPED);
    assert_string_equal(attempt.err.code, "shut_down");
    char path[700];
    path_in(path, "shutdown", "checkpoint");
    assert_int_equal(access(path, F_OK), 0);
    finish("shutdown", 0, 4);
}

static void test_card(void **state) {
    (void)state;
    char path[700], *card = NULL, name[64];
    size_t len = 0;
    struct dd_error err;
    snprintf(name, sizeof name, "best-%d/README.md", best_epoch);
    path_in(path, "reference", name);
    must(dd_file_read(path, 1 << 20, &card, &len, &err), &err);
    static const char *const wanted[] = {"# a tiny model\n",     "pipeline_tag: text-classification",
                                         "| 2 | blue |",         "| macro F1 | 0.",
                                         "trained from scratch", "| optimizer | adamw |",
                                         "| batch size | 8 |"};
    for (size_t i = 0; i < DD_ARRAY_LEN(wanted); i++) {
        if (!strstr(card, wanted[i])) {
            fail_msg("\"%s\" is missing in\n%s", wanted[i], card);
        }
    }
    assert_null(strstr(card, fixture_dir));
    free(card);
}

static int set_up(void **state) {
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    struct attempt attempt;
    attempt_init(&attempt, "reference");
    must(attempt_train(&attempt), &attempt.err);
    fixture_path(reference, "reference");
    best_epoch = attempt.result.best_epoch;
    memcpy(is_best, attempt.recorder.is_best, sizeof is_best);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undamaged),
        cmocka_unit_test(test_damaged_checkpoint),
        cmocka_unit_test(test_damaged_at_a_new_best),
        cmocka_unit_test(test_both_damaged),
        cmocka_unit_test(test_damaged_is_not_kept),
        cmocka_unit_test(test_damaged_best_model),
        cmocka_unit_test(test_strangers_in_the_directory),
        cmocka_unit_test(test_damaged_after_the_end),
        cmocka_unit_test(test_shutdown_keeps_the_step),
        cmocka_unit_test(test_card),
    };
    return cmocka_run_group_tests(tests, set_up, fixture_tear_down);
}
