/* Sweeps that decide: who goes on, who stops, and that neither a kill nor a person's hand confuses it.
 *
 * A worker is played by play(): it claims a run and stores its epochs with scores from the table of the test, until the
 * run stops or ends.
 */
#include "tests/unit/storage/fixture.h"

#define EPOCHS 9

struct game {
    struct fixture *f;
    const double *score; /* of a run at its last epoch, by its place in the sweep */
    int64_t first;
    int epochs_played;
};

static int64_t insert(struct fixture *f, int points, int seeds, int epochs, int64_t *ret_first) {
    static char name[] = "halving", base[] = "{}", plan[] = "{}";
    struct dd_sweep sweep = {.name = name, .base_json = base, .plan_json = plan, .asha = {.min_epochs = 1, .eta = 3}};
    struct dd_experiment rows[64];
    int64_t id = 0;
    for (int i = 0; i < points * seeds; i++) {
        rows[i] = sample("run");
        rows[i].sweep_point = i / seeds;
        rows[i].epochs = epochs;
    }
    assert_ok(f, dd_storage_sweep_insert(f->storage, &sweep, rows, (size_t)(points * seeds), &id, ret_first, &f->err));
    return id;
}

static bool put_epoch(struct game *game, int64_t id, int epoch) {
    struct fixture *f = game->f;
    double final = game->score[id - game->first];
    bool stop = false;
    struct dd_epoch_row row = {.epoch = epoch, .macro_f1 = final - 0.1 / epoch, .accuracy = NAN, .is_best = true};
    assert_ok(f, dd_storage_epoch_put(f->storage, id, &row, NULL, NULL, 0, &stop, &f->err));
    game->epochs_played++;
    return stop;
}

/* One more epoch of a running run; true when its worker is done with it. */
static bool play_epoch(struct game *game, int64_t id) {
    struct fixture *f = game->f;
    struct dd_experiment run = get(f, id);
    int epoch = run.epochs_done + 1, epochs = run.epochs;
    dd_experiment_release(&run);
    bool stop = put_epoch(game, id, epoch);
    if (stop || epoch == epochs)
        assert_ok(f, dd_storage_experiment_finish(f->storage, id, stop ? DD_PAUSED : DD_FINISHED, NULL, NULL, &f->err));
    return stop || epoch == epochs;
}

/* One worker until the queue is empty. */
static void play(struct game *game) {
    for (int64_t id; (id = claim(game->f)) != 0;)
        while (!play_epoch(game, id))
            continue;
}

static void assert_stopped(struct fixture *f, int64_t id, enum dd_state state, const char *reason) {
    struct dd_experiment run = get(f, id);
    assert_int_equal(run.state, state);
    if (reason != NULL)
        assert_string_equal(run.stopped, reason);
    else
        assert_null(run.stopped);
    dd_experiment_release(&run);
}

static const double nine[] = {0.5, 0.9, 0.3, 0.7, 0.2, 0.8, 0.1, 0.6, 0.4};

static void test_the_best_third_goes_on(void **state) {
    struct game game = {.f = *state, .score = nine};
    int64_t sweep = insert(game.f, 9, 1, EPOCHS, &game.first);
    play(&game);
    assert_int_equal(game.epochs_played, 9 * 1 + 3 * 2 + 1 * 6);
    for (int i = 0; i < 9; i++) {
        if (i == 1)
            assert_stopped(game.f, game.first + i, DD_FINISHED, NULL);
        else
            assert_stopped(game.f, game.first + i, DD_CANCELLED, nine[i] >= 0.7 ? "asha rung 2" : "asha rung 1");
    }
    struct dd_asha_rung rungs[4];
    size_t count = 0;
    assert_ok(game.f, dd_storage_asha_rungs(game.f->storage, sweep, rungs, 4, &count, &game.f->err));
    assert_int_equal(count, 2);
    assert_int_equal(rungs[0].epoch, 1);
    assert_int_equal(rungs[0].points, 9);
    assert_int_equal(rungs[0].promoted, 3);
    assert_int_equal(rungs[1].epoch, 3);
    assert_int_equal(rungs[1].points, 3);
    assert_int_equal(rungs[1].promoted, 1);
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM run_log WHERE message LIKE '%points: goes on'"), 4);
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM run_log WHERE message LIKE '%stopped here%'"), 8);
    struct dd_asha_news *news;
    dd_storage_asha_news(game.f->storage, &news, &count);
    assert_int_equal(count, 12 + 4 + 8); /* arrivals, promotions, ends */
    free(news);
    dd_storage_asha_news(game.f->storage, &news, &count);
    assert_int_equal(count, 0);
    assert_null(news);
}

/* Two points cannot have a best third; one of them still comes to the end. */
static void test_one_run_is_always_whole(void **state) {
    struct game game = {.f = *state, .score = nine};
    insert(game.f, 2, 1, EPOCHS, &game.first);
    play(&game);
    assert_int_equal(game.epochs_played, 1 + 9);
    assert_stopped(game.f, game.first, DD_CANCELLED, "asha rung 1");
    assert_stopped(game.f, game.first + 1, DD_FINISHED, NULL);
}

/* Point 1 has the best single run and the worse mean: point 0 wins, with both its seeds. */
static void test_points_are_decided_by_the_mean_over_seeds(void **state) {
    static const double score[] = {0.7, 0.7, 0.9, 0.2, 0.3, 0.3};
    struct game game = {.f = *state, .score = score};
    insert(game.f, 3, 2, 3, &game.first);
    play(&game);
    assert_int_equal(game.epochs_played, 6 + 2 * 2);
    for (int i = 0; i < 6; i++)
        assert_stopped(game.f, game.first + i, i < 2 ? DD_FINISHED : DD_CANCELLED, i < 2 ? NULL : "asha rung 1");
}

static void test_a_kill_neither_repeats_nor_loses_a_decision(void **state) {
    struct game game = {.f = *state, .score = nine};
    int requeued, failed;
    insert(game.f, 3, 1, 3, &game.first);
    int64_t id = claim(game.f);
    assert_true(put_epoch(&game, id, 1)); /* and the daemon dies before the run has stopped */
    reopen(game.f);
    assert_ok(game.f, dd_storage_recover(game.f->storage, 3, &requeued, &failed, &game.f->err));
    assert_int_equal(requeued, 0);
    assert_stopped(game.f, id, DD_PAUSED, "asha rung 1");
    for (int i = 1; i < 3; i++) {
        id = claim(game.f);
        assert_int_equal(id, game.first + i);
        assert_true(play_epoch(&game, id));
    }
    id = claim(game.f); /* decides in the transaction that claims; the daemon dies with it running */
    assert_int_equal(id, game.first + 1);
    reopen(game.f);
    assert_ok(game.f, dd_storage_recover(game.f->storage, 3, &requeued, &failed, &game.f->err));
    assert_int_equal(requeued, 1);
    assert_int_equal(claim(game.f), id);
    assert_false(put_epoch(&game, id, 1)); /* its checkpoint does not know that this epoch was delivered */
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM asha WHERE promoted"), 1);
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM run_log WHERE message LIKE '%reached%'"), 3);
    while (!play_epoch(&game, id))
        continue;
    assert_int_equal(claim(game.f), 0);
    assert_stopped(game.f, game.first, DD_CANCELLED, "asha rung 1");
    assert_stopped(game.f, game.first + 1, DD_FINISHED, NULL);
    assert_stopped(game.f, game.first + 2, DD_CANCELLED, "asha rung 1");
}

/* What a rollback undid is not told. */
static void test_a_refused_epoch_decides_nothing(void **state) {
    struct game game = {.f = *state, .score = nine};
    insert(game.f, 3, 1, 3, &game.first);
    int64_t id = claim(game.f);
    raw_sql(game.f, "CREATE TRIGGER broken BEFORE INSERT ON run_log WHEN new.message LIKE '%reached%' BEGIN"
                    " SELECT raise(ABORT, 'no'); END");
    struct dd_epoch_row row = {.epoch = 1, .macro_f1 = 0.5};
    bool stop = false;
    assert_int_not_equal(dd_storage_epoch_put(game.f->storage, id, &row, NULL, NULL, 0, &stop, &game.f->err), DD_OK);
    assert_false(stop);
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM asha"), 0);
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM epochs"), 0);
    assert_int_equal(raw_int(game.f, "SELECT pause_requested FROM experiments WHERE state = 1"), 0);
    struct dd_asha_news *news;
    size_t count;
    dd_storage_asha_news(game.f->storage, &news, &count);
    assert_int_equal(count, 0);
}

/* The run is promoted by another's arrival while its own worker still writes its checkpoint. */
static void test_promoted_while_it_lets_go(void **state) {
    struct game game = {.f = *state, .score = nine};
    insert(game.f, 3, 1, 3, &game.first);
    int64_t first = claim(game.f), second = claim(game.f), third = claim(game.f);
    assert_true(put_epoch(&game, first, 1));
    assert_true(put_epoch(&game, second, 1)); /* the best */
    assert_true(put_epoch(&game, third, 1));
    struct dd_experiment run = get(game.f, second);
    assert_int_equal(run.state, DD_RUNNING);
    assert_false(run.pause_requested);
    dd_experiment_release(&run);
    assert_ok(game.f, dd_storage_experiment_finish(game.f->storage, second, DD_PAUSED, NULL, NULL, &game.f->err));
    assert_int_equal(state_of(game.f, second), DD_QUEUED);
    assert_ok(game.f, dd_storage_experiment_finish(game.f->storage, third, DD_PAUSED, NULL, NULL, &game.f->err));
    assert_ok(game.f, dd_storage_experiment_finish(game.f->storage, first, DD_PAUSED, NULL, NULL, &game.f->err));
    play(&game);
    assert_stopped(game.f, second, DD_FINISHED, NULL);
    assert_stopped(game.f, third, DD_CANCELLED, "asha rung 1");
}

/* The last to arrive is the best: it never leaves its worker. */
static void test_goes_on_in_its_worker(void **state) {
    static const double score[] = {0.1, 0.2, 0.3};
    struct game game = {.f = *state, .score = score};
    insert(game.f, 3, 1, 3, &game.first);
    assert_true(play_epoch(&game, claim(game.f)));
    assert_true(play_epoch(&game, claim(game.f)));
    int64_t id = claim(game.f);
    assert_false(play_epoch(&game, id));
    struct dd_experiment run = get(game.f, id);
    assert_int_equal(run.state, DD_RUNNING);
    assert_false(run.pause_requested);
    assert_null(run.stopped);
    dd_experiment_release(&run);
}

static void test_a_person_takes_a_run_over(void **state) {
    struct game game = {.f = *state, .score = nine};
    enum dd_state after;
    bool signal;
    insert(game.f, 9, 1, EPOCHS, &game.first);
    assert_true(play_epoch(&game, claim(game.f)));
    assert_stopped(game.f, game.first, DD_PAUSED, "asha rung 1");
    assert_ok(game.f, dd_storage_act(game.f->storage, game.first, DD_ACTION_RESUME, &after, &signal, &game.f->err));
    assert_stopped(game.f, game.first, DD_QUEUED, NULL);
    play(&game);
    assert_stopped(game.f, game.first, DD_FINISHED, NULL); /* it was fifth of nine */
    assert_int_equal(raw_int(game.f, "SELECT count(*) FROM asha WHERE rung = 2"), 3);
    assert_stopped(game.f, game.first + 1, DD_FINISHED, NULL);
    assert_stopped(game.f, game.first + 2, DD_CANCELLED, "asha rung 1");
    assert_ok(game.f, dd_storage_act(game.f->storage, game.first + 2, DD_ACTION_RETRY, &after, &signal, &game.f->err));
    play(&game);
    assert_stopped(game.f, game.first + 2, DD_FINISHED, NULL);
}

/* A failure, a cancel and a pause by a person: the sweep goes on without them, and waits for what was paused. */
static void test_runs_that_never_come(void **state) {
    struct game game = {.f = *state, .score = nine};
    enum dd_state after;
    bool signal;
    insert(game.f, 4, 1, 3, &game.first);
    assert_int_equal(claim(game.f), game.first);
    assert_ok(game.f, dd_storage_experiment_finish(game.f->storage, game.first, DD_FAILED, "x", "y", &game.f->err));
    assert_ok(game.f, dd_storage_act(game.f->storage, game.first + 3, DD_ACTION_PAUSE, &after, &signal, &game.f->err));
    play(&game); /* points 1 and 2: no third of two, and point 3 may still come */
    assert_stopped(game.f, game.first + 1, DD_PAUSED, "asha rung 1");
    assert_stopped(game.f, game.first + 3, DD_PAUSED, NULL);
    assert_ok(game.f, dd_storage_act(game.f->storage, game.first + 3, DD_ACTION_CANCEL, &after, &signal, &game.f->err));
    play(&game);
    assert_stopped(game.f, game.first + 1, DD_FINISHED, NULL);
    assert_stopped(game.f, game.first + 2, DD_CANCELLED, "asha rung 1");
}

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Any order of two to four workers, with kills between: every run ends, one at least is whole, and nobody is decided
 * about twice. */
static void test_any_order_of_events(void **state) {
    struct fixture *f = *state;
    double score[64];
    for (uint64_t round = 0; round < 40; round++) {
        uint64_t random = round;
        int points = 1 + (int)(next_random(&random) % 20), seeds = 1 + (int)(next_random(&random) % 3);
        for (int i = 0; i < points * seeds; i++)
            score[i] = (double)(next_random(&random) % 1000) / 1000;
        struct game game = {.f = f, .score = score};
        int64_t sweep = insert(f, points, seeds, EPOCHS, &game.first), running[4] = {0};
        int workers = 2 + (int)(next_random(&random) % 3), idle = 0, requeued, failed;
        while (idle < 50) {
            size_t w = (size_t)(next_random(&random) % (uint64_t)workers);
            if (next_random(&random) % 40 == 0) { /* kill -9 */
                assert_ok(f, dd_storage_recover(f->storage, 1000, &requeued, &failed, &f->err));
                memset(running, 0, sizeof running);
            } else if (running[w] == 0) {
                running[w] = claim(f);
                idle = running[w] == 0 ? idle + 1 : 0;
            } else if (play_epoch(&game, running[w])) {
                running[w] = 0;
            }
        }
        int64_t counts[DD_STATE_COUNT];
        assert_ok(f, dd_storage_sweep_counts(f->storage, sweep, counts, &f->err));
        assert_int_equal(counts[DD_FINISHED] + counts[DD_CANCELLED], points * seeds);
        assert_true(counts[DD_FINISHED] >= 1);
        char sql[512];
        snprintf(sql, sizeof sql,
                 "SELECT count(*) FROM experiments WHERE sweep_id = %lld AND epochs_done <> CASE state WHEN 3 THEN %d"
                 " ELSE (SELECT max(epoch) FROM asha WHERE experiment_id = id) END",
                 (long long)sweep, EPOCHS);
        assert_int_equal(raw_int(f, sql), 0);
        snprintf(sql, sizeof sql,
                 "SELECT (SELECT count(*) FROM run_log JOIN experiments ON id = experiment_id WHERE sweep_id = %lld AND"
                 " message LIKE '%%points: goes on') - (SELECT count(*) FROM asha WHERE promoted AND sweep_id = %lld)",
                 (long long)sweep, (long long)sweep);
        assert_int_equal(raw_int(f, sql), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_best_third_goes_on, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_one_run_is_always_whole, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_points_are_decided_by_the_mean_over_seeds, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_kill_neither_repeats_nor_loses_a_decision, fixture_setup,
                                        fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_refused_epoch_decides_nothing, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_promoted_while_it_lets_go, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_goes_on_in_its_worker, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_a_person_takes_a_run_over, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_runs_that_never_come, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_any_order_of_events, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
