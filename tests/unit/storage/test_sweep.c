/* Sweeps: inserted whole or not at all, in order; listed, counted, cancelled. */
#include "tests/unit/storage/fixture.h"

static struct dd_sweep sweep_named(const char *name) {
    static char base[] = "{\"dataset\":\"milk\"}", plan[] = "{\"points\":[{\"T\":1},{\"T\":2}]}";
    static char copy[64];
    snprintf(copy, sizeof copy, "%s", name);
    return (struct dd_sweep){.name = copy, .base_json = base, .plan_json = plan};
}

/* Two points with two seeds each. */
static int64_t insert_sweep(struct fixture *f, const char *name, int64_t *ret_first) {
    struct dd_sweep sweep = sweep_named(name);
    struct dd_experiment rows[4];
    int64_t id = 0;
    for (int i = 0; i < 4; i++) {
        rows[i] = sample("point");
        rows[i].sweep_point = i / 2;
    }
    assert_ok(f, dd_storage_sweep_insert(f->storage, &sweep, rows, 4, &id, ret_first, &f->err));
    return id;
}

static void test_insert_and_get(void **state) {
    struct fixture *f = *state;
    int64_t first = 0, other = insert_sample(f, "alone", 0);
    int64_t id = insert_sweep(f, "T", &first);
    struct dd_sweep sweep;
    assert_ok(f, dd_storage_sweep_get(f->storage, id, &sweep, &f->err));
    assert_string_equal(sweep.name, "T");
    assert_string_equal(sweep.base_json, "{\"dataset\":\"milk\"}");
    assert_false(sweep.cancelled);
    assert_true(sweep.created_ms > 0);
    dd_sweep_release(&sweep);
    for (int i = 0; i < 4; i++) {
        struct dd_experiment row = get(f, first + i);
        assert_int_equal(row.sweep_id, id);
        assert_int_equal(row.sweep_point, i / 2);
        dd_experiment_release(&row);
    }
    struct dd_experiment alone = get(f, other);
    assert_int_equal(alone.sweep_id, 0);
    dd_experiment_release(&alone);
    const struct dd_experiment_query query = {.sweep_id = id, .sort = "id", .limit = 1000};
    struct dd_experiment *items;
    size_t count;
    char *next;
    assert_ok(f, dd_storage_experiment_list(f->storage, &query, &items, &count, &next, &f->err));
    assert_int_equal(count, 4);
    assert_int_equal(items[0].id, first);
    assert_null(next);
    dd_experiments_free(items, count);
    assert_fails(f, DD_NOT_FOUND, "sweep_not_found", dd_storage_sweep_get(f->storage, id + 1, &sweep, &f->err));
}

static void test_all_or_nothing(void **state) {
    struct fixture *f = *state;
    struct dd_sweep sweep = sweep_named("bad");
    struct dd_experiment rows[2] = {sample("good"), sample("bad")};
    int64_t id = 0, first = 0;
    rows[1].priority = 5000;
    assert_fails(f, DD_INVALID, "priority_invalid",
                 dd_storage_sweep_insert(f->storage, &sweep, rows, 2, &id, &first, &f->err));
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), 0);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM sweeps"), 0);
    assert_fails(f, DD_INVALID, "sweep_size",
                 dd_storage_sweep_insert(f->storage, &sweep, rows, 0, &id, &first, &f->err));
}

static void test_list_pages(void **state) {
    struct fixture *f = *state;
    int64_t first, ids[5];
    for (int i = 0; i < 5; i++)
        ids[i] = insert_sweep(f, "one of five", &first);
    char *cursor = NULL;
    int seen = 0;
    do {
        struct dd_sweep *items;
        size_t count;
        char *next;
        assert_ok(f, dd_storage_sweep_list(f->storage, cursor, 2, &items, &count, &next, &f->err));
        for (size_t i = 0; i < count; i++)
            assert_int_equal(items[i].id, ids[4 - seen++]);
        dd_sweeps_free(items, count);
        free(cursor);
        cursor = next;
    } while (cursor != NULL);
    assert_int_equal(seen, 5);
    struct dd_sweep *items;
    size_t count;
    char *next;
    assert_fails(f, DD_INVALID, "cursor_invalid",
                 dd_storage_sweep_list(f->storage, "nonsense", 2, &items, &count, &next, &f->err));
}

static void test_cancel(void **state) {
    struct fixture *f = *state;
    int64_t first, *ids, counts[DD_STATE_COUNT];
    size_t count;
    int64_t id = insert_sweep(f, "long", &first);
    int64_t running = claim(f), done = claim(f);
    assert_int_equal(running, first);
    assert_ok(f, dd_storage_experiment_finish(f->storage, done, DD_FINISHED, NULL, NULL, &f->err));
    int64_t other = insert_sample(f, "not of it", 0);
    assert_ok(f, dd_storage_sweep_cancel(f->storage, id, &ids, &count, &f->err));
    assert_int_equal(count, 3); /* the running one and the two that waited */
    free(ids);
    assert_ok(f, dd_storage_sweep_counts(f->storage, id, counts, &f->err));
    assert_int_equal(counts[DD_RUNNING], 1);
    assert_int_equal(counts[DD_FINISHED], 1);
    assert_int_equal(counts[DD_CANCELLED], 2);
    struct dd_experiment row = get(f, running);
    assert_true(row.cancel_requested);
    dd_experiment_release(&row);
    assert_int_equal(state_of(f, other), DD_QUEUED);
    assert_ok(f, dd_storage_sweep_cancel(f->storage, id, &ids, &count, &f->err)); /* again: nothing left to touch */
    assert_int_equal(count, 0);
    free(ids);
    struct dd_sweep sweep;
    assert_ok(f, dd_storage_sweep_get(f->storage, id, &sweep, &f->err));
    assert_true(sweep.cancelled);
    dd_sweep_release(&sweep);
    assert_fails(f, DD_NOT_FOUND, "sweep_not_found", dd_storage_sweep_cancel(f->storage, 999, &ids, &count, &f->err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_insert_and_get, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_all_or_nothing, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_list_pages, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_cancel, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
