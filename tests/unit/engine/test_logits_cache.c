/* The teacher's logits on disk: asked once, found again, never used when damaged, shared by runs at the same time. */
#include "train_fixture.h"
#include <pthread.h>

static struct dd_pool *pool;
static struct dd_model *model;
static struct dd_packed packed;
static char cache_dir[512];
static struct recorder recorder;

static float *ask(const struct dd_model *teacher, int max_length, bool *ret_computed) {
    struct dd_train_events events = recorder_events(&recorder);
    struct dd_error err;
    float *logits = NULL;
    must(dd_logits_cached(teacher, &packed, max_length, cache_dir, pool, &events, NULL, NULL, &logits, ret_computed,
                          &err),
         &err);
    return logits;
}

static int count_files(void) {
    char command[700];
    snprintf(command, sizeof command, "ls -A '%s' | grep -c bin", cache_dir);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

/* The only entry's path. */
static void entry_path(char out[1100]) {
    char command[700], name[200];
    snprintf(command, sizeof command, "ls -A '%s' | grep bin", cache_dir);
    FILE *pipe = popen(command, "r");
    assert_int_equal(fscanf(pipe, "%199s", name), 1);
    pclose(pipe);
    snprintf(out, 1100, "%s/%s", cache_dir, name);
}

static int fresh(void **state) {
    (void)state;
    memset(&recorder, 0, sizeof recorder);
    return dd_tree_remove(cache_dir, NULL) == DD_OK ? 0 : -1;
}

static void test_asked_once(void **state) {
    (void)state;
    bool computed = false;
    float *first = ask(model, 20, &computed);
    assert_true(computed);
    float *again = ask(model, 20, &computed);
    assert_false(computed);
    assert_memory_equal(first, again, packed.rows * FIXTURE_CLASSES * sizeof *first);
    /* Rows of zeros would also be equal. */
    assert_true(fabsf(first[0] - first[1]) > 1e-6f);
    free(first);
    free(again);
}

static void test_key_covers_what_decides(void **state) {
    (void)state;
    bool computed = false;
    free(ask(model, 20, &computed));
    struct dd_model *other = drawn_model(2, 6); /* other weights */
    free(ask(other, 20, &computed));
    assert_true(computed);
    dd_model_free(other);
    other = drawn_model(2, 5); /* same weights, cut into other heads */
    other->info.config.heads = 4;
    free(ask(other, 20, &computed));
    assert_true(computed);
    dd_model_free(other);
    free(ask(model, 30, &computed)); /* another max_length */
    assert_true(computed);
    packed.ids[3]++; /* another token */
    free(ask(model, 20, &computed));
    packed.ids[3]--;
    assert_true(computed);
    assert_int_equal(count_files(), 5);
    free(ask(model, 20, &computed));
    assert_false(computed);
}

static void test_damage_is_rebuilt(void **state) {
    (void)state;
    bool computed = false;
    float *right = ask(model, 20, &computed);
    char path[1100], *bytes = NULL;
    size_t len = 0;
    struct dd_error err;
    entry_path(path);
    must(dd_file_read(path, 1 << 24, &bytes, &len, &err), &err);
    int rebuilt = 0;
    for (size_t at = 0; at < len + 2; at += at < 64 ? 5 : 61) {
        if (at < len) {
            bytes[at] ^= 16;
            must(dd_file_write_durable(path, bytes, len, &err), &err);
            bytes[at] ^= 16;
        } else {
            must(dd_file_write_durable(path, bytes, len - 5, &err), &err);
        }
        float *logits = ask(model, 20, &computed);
        assert_true(computed);
        assert_memory_equal(right, logits, packed.rows * FIXTURE_CLASSES * sizeof *right);
        free(logits);
        assert_int_equal(recorder.warnings, ++rebuilt);
        assert_non_null(strstr(recorder.last_log, "damaged"));
        free(ask(model, 20, &computed));
        assert_false(computed);
    }
    must(dd_file_write_durable(path, "", 0, &err), &err);
    free(ask(model, 20, &computed));
    assert_true(computed);
    assert_int_equal(count_files(), 1);
    free(bytes);
    free(right);
}

static void *ask_in_thread(void *computed) {
    return ask(model, 20, computed);
}

static void test_two_at_once(void **state) {
    (void)state;
    pthread_t threads[4];
    bool computed[4] = {false};
    float *logits[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask_in_thread, &computed[i]), 0);
    }
    int computations = 0;
    for (int i = 0; i < 4; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        logits[i] = result;
        computations += computed[i];
    }
    for (int i = 1; i < 4; i++) {
        assert_memory_equal(logits[0], logits[i], packed.rows * FIXTURE_CLASSES * sizeof *logits[0]);
    }
    assert_int_equal(computations, 1);
    assert_int_equal(count_files(), 1);
    for (int i = 0; i < 4; i++) {
        free(logits[i]);
    }
}

static void test_leftovers_go_and_stops_are_heard(void **state) {
    (void)state;
    bool computed = false;
    char path[1100], leftover[1200];
    struct dd_error err;
    free(ask(model, 20, &computed));
    entry_path(path);
    assert_int_equal(unlink(path), 0);
    snprintf(leftover, sizeof leftover, "%s.tmp-0123456789abcdef", path);
    must(dd_file_write_durable(leftover, "x", 1, &err), &err);
    struct dd_cancel cancel = {DD_STOP_CANCEL};
    float *logits = NULL;
    assert_int_equal(
        dd_logits_cached(model, &packed, 20, cache_dir, pool, NULL, NULL, &cancel, &logits, &computed, &err),
        DD_STOPPED);
    assert_null(logits);
    free(ask(model, 20, &computed));
    assert_int_equal(count_files(), 1);
    assert_int_not_equal(access(leftover, F_OK), 0);
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    model = drawn_model(2, 5);
    fixture_path(cache_dir, "cache");
    must(dd_pool_new(2, &pool, &err), &err);
    struct dd_team *team = NULL;
    must(dd_team_join(pool, &team, &err), &err);
    const struct dd_split_rows rows = {.dataset = fixture_dataset, .split = DD_SPLIT_TRAIN};
    const struct dd_row_source source = dd_source_of_split(&rows);
    must(dd_packed_build(&source, model->tokenizer, &model->info.config, 20, team, NULL, NULL, &packed, &err), &err);
    dd_team_leave(team);
    return 0;
}

static int tear_down(void **state) {
    dd_packed_release(&packed);
    dd_model_free(model);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_asked_once, fresh),
        cmocka_unit_test_setup(test_key_covers_what_decides, fresh),
        cmocka_unit_test_setup(test_damage_is_rebuilt, fresh),
        cmocka_unit_test_setup(test_two_at_once, fresh),
        cmocka_unit_test_setup(test_leftovers_go_and_stops_are_heard, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
