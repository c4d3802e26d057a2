/* The life of an experiment: every transition allowed and forbidden, claiming, recovery, deletion. */
#include <pthread.h>

#include "tests/unit/storage/fixture.h"

/* Brings a new experiment into a state by the public ways. */
static int64_t make_in_state(struct fixture *f, enum dd_state state) {
    enum dd_state after;
    bool signal;
    int64_t id = insert_sample(f, "made", 1000); /* first in the queue, so that claim takes it */
    if (state == DD_QUEUED) {
        return id;
    }
    if (state == DD_PAUSED) {
        assert_ok(f, dd_storage_act(f->storage, id, DD_ACTION_PAUSE, &after, &signal, &f->err));
        return id;
    }
    assert_int_equal(claim(f), id);
    if (state != DD_RUNNING) {
        assert_ok(f, dd_storage_experiment_finish(f->storage, id, state, state == DD_FAILED ? "no_space" : NULL,
                                                  state == DD_FAILED ? "the disk is full" : NULL, &f->err));
    }
    return id;
}

#define NO DD_STATE_COUNT
static const enum dd_state after_action[DD_STATE_COUNT][DD_ACTION_COUNT] = {
    /*                cancel,       pause,      resume,    retry */
    [DD_QUEUED] = {DD_CANCELLED, DD_PAUSED, NO, NO}, [DD_RUNNING] = {DD_RUNNING, DD_RUNNING, NO, NO},
    [DD_PAUSED] = {DD_CANCELLED, NO, DD_QUEUED, NO}, [DD_FINISHED] = {NO, NO, NO, NO},
    [DD_FAILED] = {NO, NO, NO, DD_QUEUED},           [DD_CANCELLED] = {NO, NO, NO, DD_QUEUED},
};

static void test_actions(void **state) {
    struct fixture *f = *state;
    for (int from = 0; from < DD_STATE_COUNT; from++) {
        for (int action = 0; action < DD_ACTION_COUNT; action++) {
            enum dd_state expected = after_action[from][action];
            enum dd_state after = NO;
            bool signal = false;
            int64_t id = make_in_state(f, (enum dd_state)from);
            struct dd_experiment before = get(f, id);
            enum dd_status status = dd_storage_act(f->storage, id, (enum dd_action)action, &after, &signal, &f->err);
            bool allowed = dd_state_allowed_actions((enum dd_state)from) & 1u << action;
            assert_int_equal(allowed, expected != NO);
            struct dd_experiment row = get(f, id);
            if (expected == NO) {
                assert_int_equal(status, DD_CONFLICT);
                assert_string_equal(f->err.code, "illegal_state");
                assert_non_null(strstr(f->err.message, dd_state_name((enum dd_state)from)));
                assert_int_equal(row.state, from);
                assert_int_equal(row.revision, before.revision);
                assert_int_equal(after, NO);
            } else {
                assert_int_equal(status, DD_OK);
                assert_int_equal(after, expected);
                assert_int_equal(row.state, expected);
                assert_int_equal(signal, from == DD_RUNNING);
                assert_int_equal(row.revision, before.revision + 1);
                assert_int_equal(row.cancel_requested, from == DD_RUNNING && action == DD_ACTION_CANCEL);
                assert_int_equal(row.pause_requested, from == DD_RUNNING && action == DD_ACTION_PAUSE);
                assert_int_equal(row.finished_ms != 0, expected == DD_CANCELLED);
            }
            dd_experiment_release(&before);
            dd_experiment_release(&row);
            raw_sql(f, "DELETE FROM experiments");
        }
    }
}

static void test_retry_forgets_the_failure(void **state) {
    struct fixture *f = *state;
    enum dd_state after;
    bool signal;
    int64_t id = make_in_state(f, DD_FAILED);
    raw_sql(f, "UPDATE experiments SET crashes = 2");
    struct dd_experiment row = get(f, id);
    assert_string_equal(row.error_code, "no_space");
    assert_string_equal(row.error_message, "the disk is full");
    assert_true(row.finished_ms > 0);
    dd_experiment_release(&row);
    assert_ok(f, dd_storage_act(f->storage, id, DD_ACTION_RETRY, &after, &signal, &f->err));
    row = get(f, id);
    assert_null(row.error_code);
    assert_null(row.error_message);
    assert_int_equal(row.crashes, 0);
    assert_int_equal(row.attempts, 1);
    assert_int_equal(row.finished_ms, 0);
    assert_true(row.started_ms > 0);
    int64_t started = row.started_ms;
    dd_experiment_release(&row);
    assert_int_equal(claim(f), id);
    row = get(f, id);
    assert_int_equal(row.attempts, 2);
    assert_int_equal(row.started_ms, started);
    dd_experiment_release(&row);
}

static void test_finish(void **state) {
    struct fixture *f = *state;
    for (int to = 0; to < DD_STATE_COUNT; to++) {
        bool possible = to != DD_QUEUED && to != DD_RUNNING;
        for (int from = 0; from < DD_STATE_COUNT; from++) {
            int64_t id = make_in_state(f, (enum dd_state)from);
            enum dd_status status =
                dd_storage_experiment_finish(f->storage, id, (enum dd_state)to, NULL, NULL, &f->err);
            if (!possible) {
                assert_int_equal(status, DD_INTERNAL);
            } else if (from != DD_RUNNING) {
                assert_int_equal(status, DD_CONFLICT);
            } else {
                assert_int_equal(status, DD_OK);
            }
            assert_int_equal(state_of(f, id), possible && from == DD_RUNNING ? to : from);
            raw_sql(f, "DELETE FROM experiments");
        }
    }
}

static void test_cancel_while_pausing_is_not_lost(void **state) {
    struct fixture *f = *state;
    enum dd_state after;
    bool signal;
    int64_t id = make_in_state(f, DD_RUNNING);
    assert_ok(f, dd_storage_act(f->storage, id, DD_ACTION_PAUSE, &after, &signal, &f->err));
    assert_ok(f, dd_storage_act(f->storage, id, DD_ACTION_CANCEL, &after, &signal, &f->err));
    assert_ok(f, dd_storage_experiment_finish(f->storage, id, DD_PAUSED, NULL, NULL, &f->err));
    struct dd_experiment row = get(f, id);
    assert_int_equal(row.state, DD_CANCELLED);
    assert_true(row.finished_ms > 0);
    assert_false(row.cancel_requested);
    assert_false(row.pause_requested);
    dd_experiment_release(&row);
}

static void test_missing(void **state) {
    struct fixture *f = *state;
    enum dd_state after;
    bool signal;
    struct dd_experiment row;
    int priority = 1;
    int64_t replaced;
    char name[] = "m";
    const struct dd_scores scores = {0};
    const struct dd_asset model = {.name = name, .dir = name};
    const struct dd_completion done = {.model = &model};
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found", dd_storage_experiment_get(f->storage, 99, &row, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_act(f->storage, 99, DD_ACTION_CANCEL, &after, &signal, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_experiment_finish(f->storage, 99, DD_FINISHED, NULL, NULL, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found", dd_storage_requeue(f->storage, 99, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found", dd_storage_experiment_delete(f->storage, 99, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_experiment_patch(f->storage, 99, NULL, NULL, NULL, &priority, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_experiment_complete(f->storage, 99, &done, &replaced, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_set_teacher_scores(f->storage, 99, &scores, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_set_progress(f->storage, 99, "training", 1, 2, 0, 0, 0, &f->err));
    assert_fails(f, DD_INTERNAL, "action_unknown",
                 dd_storage_act(f->storage, 99, (enum dd_action)17, &after, &signal, &f->err));
}

static void test_claim_order(void **state) {
    struct fixture *f = *state;
    enum dd_state after;
    bool signal;
    assert_int_equal(claim(f), 0);
    int64_t a = insert_sample(f, "a", 0), b = insert_sample(f, "b", 5), c = insert_sample(f, "c", 0);
    int64_t d = insert_sample(f, "d", -1000), e = insert_sample(f, "e", 5), g = insert_sample(f, "g", 1000);
    /* Queued by a person long after the others, though created first. */
    assert_ok(f, dd_storage_act(f->storage, a, DD_ACTION_PAUSE, &after, &signal, &f->err));
    raw_sql(f, "UPDATE experiments SET queued_ms = queued_ms - 10000");
    assert_ok(f, dd_storage_act(f->storage, a, DD_ACTION_RESUME, &after, &signal, &f->err));
    const int64_t expected[] = {g, b, e, c, a, d, 0};
    for (size_t i = 0; i < DD_ARRAY_LEN(expected); i++) {
        assert_int_equal(claim(f), expected[i]);
    }
    struct dd_experiment row = get(f, g);
    assert_int_equal(row.state, DD_RUNNING);
    assert_int_equal(row.attempts, 1);
    assert_true(row.started_ms >= row.created_ms);
    dd_experiment_release(&row);
}

static void test_priority_can_change_the_order(void **state) {
    struct fixture *f = *state;
    int64_t a = insert_sample(f, "a", 0), b = insert_sample(f, "b", 0);
    int priority = 7;
    assert_ok(f, dd_storage_experiment_patch(f->storage, b, NULL, NULL, NULL, &priority, &f->err));
    priority = 1001;
    assert_fails(f, DD_INVALID, "priority_invalid",
                 dd_storage_experiment_patch(f->storage, a, NULL, NULL, NULL, &priority, &f->err));
    assert_int_equal(claim(f), b);
    assert_int_equal(claim(f), a);
}

static void test_requeued_runs_go_first(void **state) {
    struct fixture *f = *state;
    int64_t a = insert_sample(f, "a", 0);
    assert_int_equal(claim(f), a);
    int64_t b = insert_sample(f, "b", 0);
    assert_ok(f, dd_storage_requeue(f->storage, a, &f->err));
    assert_int_equal(state_of(f, a), DD_QUEUED);
    assert_fails(f, DD_CONFLICT, "illegal_state", dd_storage_requeue(f->storage, a, &f->err));
    assert_int_equal(claim(f), a);
    assert_int_equal(claim(f), b);
    struct dd_experiment row = get(f, a);
    assert_int_equal(row.attempts, 2);
    assert_int_equal(row.crashes, 0);
    dd_experiment_release(&row);
}

#define CLAIMS 200
struct claimer {
    struct fixture *f;
    int64_t ids[CLAIMS];
    size_t count;
    enum dd_status status;
};

static void *claim_all(void *argument) {
    struct claimer *claimer = argument;
    for (;;) {
        int64_t id = 0;
        claimer->status = dd_storage_claim(claimer->f->storage, &id, NULL);
        if (claimer->status != DD_OK || id == 0 || claimer->count == CLAIMS) {
            return NULL;
        }
        claimer->ids[claimer->count++] = id;
    }
}

static void test_two_threads_claim(void **state) {
    struct fixture *f = *state;
    pthread_t threads[2];
    static struct claimer claimers[2];
    bool seen[CLAIMS + 1] = {0};
    for (int i = 0; i < CLAIMS; i++) {
        insert_sample(f, "x", i % 3);
    }
    for (int i = 0; i < 2; i++) {
        claimers[i] = (struct claimer){.f = f};
        assert_int_equal(pthread_create(&threads[i], NULL, claim_all, &claimers[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(claimers[i].status, DD_OK);
        for (size_t j = 0; j < claimers[i].count; j++) {
            int64_t id = claimers[i].ids[j];
            assert_in_range(id, 1, CLAIMS);
            assert_false(seen[id]);
            seen[id] = true;
        }
    }
    assert_int_equal(claimers[0].count + claimers[1].count, CLAIMS);
}

static void test_recover(void **state) {
    struct fixture *f = *state;
    enum dd_state after;
    bool signal;
    int requeued = -1, failed = -1;
    int64_t plain = make_in_state(f, DD_RUNNING), paused = make_in_state(f, DD_RUNNING),
            cancelled = make_in_state(f, DD_RUNNING), done = make_in_state(f, DD_FINISHED),
            waiting = insert_sample(f, "waiting", 0);
    assert_ok(f, dd_storage_act(f->storage, paused, DD_ACTION_PAUSE, &after, &signal, &f->err));
    assert_ok(f, dd_storage_act(f->storage, cancelled, DD_ACTION_CANCEL, &after, &signal, &f->err));
    reopen(f);
    assert_ok(f, dd_storage_recover(f->storage, 3, &requeued, &failed, &f->err));
    assert_int_equal(requeued, 1);
    assert_int_equal(failed, 0);
    assert_int_equal(state_of(f, plain), DD_QUEUED);
    assert_int_equal(state_of(f, paused), DD_PAUSED);
    assert_int_equal(state_of(f, cancelled), DD_CANCELLED);
    assert_int_equal(state_of(f, done), DD_FINISHED);
    assert_int_equal(state_of(f, waiting), DD_QUEUED);
    assert_int_equal(raw_int(f, "SELECT sum(pause_requested + cancel_requested) FROM experiments"), 0);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments WHERE state = 5 AND finished_ms > 0"), 1);
    for (int crash = 2; crash <= 3; crash++) {
        assert_int_equal(claim(f), plain);
        assert_ok(f, dd_storage_recover(f->storage, 3, &requeued, &failed, &f->err));
        assert_int_equal(requeued, crash < 3);
        assert_int_equal(failed, crash == 3);
    }
    struct dd_experiment row = get(f, plain);
    assert_int_equal(row.state, DD_FAILED);
    assert_int_equal(row.crashes, 3);
    assert_int_equal(row.attempts, 3);
    assert_string_equal(row.error_code, "daemon_died");
    assert_non_null(strstr(row.error_message, "3 times"));
    assert_true(row.finished_ms > 0);
    dd_experiment_release(&row);
    assert_ok(f, dd_storage_recover(f->storage, 3, &requeued, &failed, &f->err));
    assert_int_equal(requeued + failed, 0);
}

static void test_shutdown_honours_wishes(void **state) {
    struct fixture *f = *state;
    enum dd_state after;
    bool signal;
    int64_t a = make_in_state(f, DD_RUNNING), b = make_in_state(f, DD_RUNNING);
    assert_ok(f, dd_storage_act(f->storage, a, DD_ACTION_CANCEL, &after, &signal, &f->err));
    assert_ok(f, dd_storage_act(f->storage, b, DD_ACTION_PAUSE, &after, &signal, &f->err));
    assert_ok(f, dd_storage_requeue(f->storage, a, &f->err));
    assert_ok(f, dd_storage_requeue(f->storage, b, &f->err));
    assert_int_equal(state_of(f, a), DD_CANCELLED);
    assert_int_equal(state_of(f, b), DD_PAUSED);
}

static void test_delete(void **state) {
    struct fixture *f = *state;
    for (int from = 0; from < DD_STATE_COUNT; from++) {
        int64_t id = make_in_state(f, (enum dd_state)from);
        if (from == DD_RUNNING) {
            assert_fails(f, DD_CONFLICT, "illegal_state", dd_storage_experiment_delete(f->storage, id, &f->err));
            assert_ok(f, dd_storage_experiment_finish(f->storage, id, DD_FINISHED, NULL, NULL, &f->err));
        }
        assert_ok(f, dd_storage_experiment_delete(f->storage, id, &f->err));
        assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), 0);
        assert_true(insert_sample(f, "later", 0) > id); /* ids are never reused */
        raw_sql(f, "DELETE FROM experiments");
    }
}

static void test_state_names(void **state) {
    (void)state;
    enum dd_state parsed;
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        assert_true(dd_state_parse(dd_state_name((enum dd_state)i), &parsed));
        assert_int_equal(parsed, i);
    }
    assert_false(dd_state_parse("QUEUED", &parsed));
    assert_false(dd_state_parse("", &parsed));
    assert_string_equal(dd_state_name((enum dd_state)77), "unknown");
    assert_string_equal(dd_action_name(DD_ACTION_RETRY), "retry");
    assert_string_equal(dd_action_name((enum dd_action)77), "unknown");
}

static void test_state_counts(void **state) {
    struct fixture *f = *state;
    int64_t counts[DD_STATE_COUNT];
    const int64_t expected[DD_STATE_COUNT] = {1, 2, 1, 2, 1, 1};
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        make_in_state(f, (enum dd_state)i == DD_QUEUED ? DD_RUNNING : (enum dd_state)i);
    }
    make_in_state(f, DD_FINISHED);
    insert_sample(f, "q", 0);
    assert_ok(f, dd_storage_state_counts(f->storage, counts, &f->err));
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        assert_int_equal(counts[i], expected[i]);
    }
}

static bool has_model(struct fixture *f, const char *name) {
    struct dd_asset asset;
    if (dd_storage_asset_get(f->storage, DD_ASSET_MODEL, name, &asset, &f->err) != DD_OK) {
        return false;
    }
    dd_asset_release(&asset);
    return true;
}

/* A run's end and its model are one: what is cancelled after a kill has none. */
static void test_a_model_comes_with_the_end_or_not_at_all(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "a", 0), other = insert_sample(f, "b", 0), replaced = -1;
    char taken[] = "taken", own[] = "own", dir[] = "models/x";
    struct dd_asset model = {.name = taken, .dir = dir, .owned = true};
    struct dd_completion done = {.model = &model,
                                 .parameters = 25600000,
                                 .model_bytes = 102400000,
                                 .steps = 42,
                                 .tokens_per_second = 5000,
                                 .elapsed_seconds = 3.25};
    int requeued, failed;
    enum dd_state after;
    bool signal;
    assert_ok(f, dd_storage_asset_insert(f->storage, DD_ASSET_MODEL, &model, &replaced, &f->err));
    assert_int_equal(claim(f), id);
    model.experiment_id = id;
    assert_fails(f, DD_CONFLICT, "name_taken",
                 dd_storage_experiment_complete(f->storage, id, &done, &replaced, &f->err));
    struct dd_experiment row = get(f, id);
    assert_int_equal(row.state, DD_RUNNING);
    assert_null(row.model_name);
    dd_experiment_release(&row);
    model.name = own;
    assert_ok(f, dd_storage_experiment_complete(f->storage, id, &done, &replaced, &f->err));
    assert_int_equal(replaced, 0);
    row = get(f, id);
    assert_int_equal(row.state, DD_FINISHED);
    assert_string_equal(row.model_name, "own");
    assert_int_equal(row.model_parameters, 25600000);
    assert_int_equal(row.model_bytes, 102400000);
    assert_int_equal(row.steps_done, 42);
    assert_true(row.elapsed_seconds == 3.25);
    dd_experiment_release(&row);
    assert_true(has_model(f, "own"));

    /* Killed before its end was there, then cancelled before it ran again. */
    model.experiment_id = other;
    char late[] = "late";
    model.name = late;
    assert_int_equal(claim(f), other);
    assert_ok(f, dd_storage_recover(f->storage, 3, &requeued, &failed, &f->err));
    assert_ok(f, dd_storage_act(f->storage, other, DD_ACTION_CANCEL, &after, &signal, &f->err));
    assert_int_equal(after, DD_CANCELLED);
    assert_int_equal(dd_storage_experiment_complete(f->storage, other, &done, &replaced, &f->err), DD_CONFLICT);
    assert_false(has_model(f, "late"));

    /* What an older daemon had registered before the kill gives way to the same run's model. */
    int64_t old = 0;
    assert_ok(f, dd_storage_act(f->storage, other, DD_ACTION_RETRY, &after, &signal, &f->err));
    assert_int_equal(claim(f), other);
    assert_ok(f, dd_storage_asset_insert(f->storage, DD_ASSET_MODEL, &model, &old, &f->err));
    assert_ok(f, dd_storage_experiment_complete(f->storage, other, &done, &replaced, &f->err));
    assert_int_equal(replaced, old);
    assert_true(has_model(f, "late"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_actions),
        T(test_retry_forgets_the_failure),
        T(test_finish),
        T(test_a_model_comes_with_the_end_or_not_at_all),
        T(test_cancel_while_pausing_is_not_lost),
        T(test_missing),
        T(test_claim_order),
        T(test_priority_can_change_the_order),
        T(test_requeued_runs_go_first),
        T(test_two_threads_claim),
        T(test_recover),
        T(test_shutdown_honours_wishes),
        T(test_delete),
        T(test_state_names),
        T(test_state_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
