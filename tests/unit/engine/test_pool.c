/* The pool: every chunk exactly once, teams that come and go, shares. */
#include "core_fixture.h"

#include <pthread.h>
#include <unistd.h>

#include "engine/pool.h"

#define CHUNKS 200

struct tally {
    atomic_int runs[CHUNKS];
    atomic_int lanes[64];
    atomic_int inside, most;
    bool slow;
};

static void count_chunk(void *context, int chunk) {
    struct tally *tally = context;
    int now = atomic_fetch_add(&tally->inside, 1) + 1, most = atomic_load(&tally->most);
    while (now > most && !atomic_compare_exchange_weak(&tally->most, &most, now)) {
    }
    atomic_fetch_add(&tally->runs[chunk], 1);
    atomic_fetch_add(&tally->lanes[dd_team_lane()], 1);
    if (tally->slow) {
        usleep(2000);
    }
    atomic_fetch_sub(&tally->inside, 1);
}

static void run_and_check(struct dd_team *team, struct tally *tally, int n_chunks) {
    memset(tally->runs, 0, sizeof tally->runs);
    dd_team_for(team, n_chunks, count_chunk, tally);
    for (int i = 0; i < CHUNKS; i++) {
        assert_int_equal(atomic_load(&tally->runs[i]), i < n_chunks ? 1 : 0);
    }
    assert_int_equal(atomic_load(&tally->inside), 0);
}

static void test_each_chunk_once(void **state) {
    (void)state;
    for (int threads = 1; threads <= 9; threads += 4) {
        struct cores cores = cores_new(threads);
        assert_int_equal(dd_pool_threads(cores.pool), threads);
        struct tally tally = {0};
        for (int i = 0; i < 400; i++) {
            run_and_check(cores.team, &tally, i % (CHUNKS + 1));
        }
        usleep(5000); /* helpers asleep */
        run_and_check(cores.team, &tally, CHUNKS);
        cores_free(&cores);
    }
}

static void test_helpers_help(void **state) {
    (void)state;
    struct cores cores = cores_new(4);
    struct tally tally = {.slow = true};
    run_and_check(cores.team, &tally, 64);
    assert_true(atomic_load(&tally.most) >= 2 && atomic_load(&tally.most) <= 4);
    for (int lane = 0; lane < 64; lane++) {
        assert_true(lane < dd_team_lanes(cores.team) || atomic_load(&tally.lanes[lane]) == 0);
    }
    assert_int_equal(dd_team_lane(), 0);
    cores_free(&cores);
}

/* 5 threads among 2 teams: 3 for the first, 2 for the second, once each has stepped; all again for the one that stays.
 */
static void test_shares(void **state) {
    (void)state;
    struct cores cores = cores_new(5);
    struct dd_team *second = NULL;
    struct dd_error err;
    must(dd_team_join(cores.pool, &second, &err), &err);
    struct tally tally = {.slow = true};
    run_and_check(second, &tally, 32);
    assert_int_equal(atomic_load(&tally.most), 1); /* the first team still holds all helpers */
    dd_team_step(cores.team);
    dd_team_step(second);
    tally.most = 0;
    run_and_check(second, &tally, 64);
    assert_true(atomic_load(&tally.most) <= 2);
    tally.most = 0;
    run_and_check(cores.team, &tally, 64);
    assert_true(atomic_load(&tally.most) <= 3);
    dd_team_leave(second);
    dd_team_step(cores.team);
    tally.most = 0;
    run_and_check(cores.team, &tally, 100);
    assert_true(atomic_load(&tally.most) > 3);
    cores_free(&cores);
}

struct guest {
    struct dd_pool *pool;
    pthread_t thread;
    int failures;
};

static void *guest_main(void *argument) {
    struct guest *guest = argument;
    for (int round = 0; round < 30; round++) {
        struct dd_team *team = NULL;
        struct tally tally = {0};
        if (dd_team_join(guest->pool, &team, NULL) != DD_OK) {
            guest->failures++;
            continue;
        }
        for (int i = 1; i < 60; i++) {
            memset(tally.runs, 0, sizeof tally.runs);
            dd_team_for(team, i, count_chunk, &tally);
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                guest->failures += atomic_load(&tally.runs[chunk]) == (chunk < i ? 1 : 0) ? 0 : 1;
            }
            dd_team_step(team);
        }
        dd_team_leave(team);
    }
    return NULL;
}

static void test_teams_come_and_go(void **state) {
    (void)state;
    struct dd_pool *pool = NULL;
    struct dd_error err;
    must(dd_pool_new(3, &pool, &err), &err);
    struct guest guests[5];
    for (size_t i = 0; i < DD_ARRAY_LEN(guests); i++) {
        guests[i] = (struct guest){.pool = pool};
        assert_int_equal(pthread_create(&guests[i].thread, NULL, guest_main, &guests[i]), 0);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(guests); i++) {
        pthread_join(guests[i].thread, NULL);
        assert_int_equal(guests[i].failures, 0);
    }
    dd_pool_free(pool);
}

static void test_bounds(void **state) {
    (void)state;
    struct dd_pool *pool = NULL;
    struct dd_error err;
    assert_int_equal(dd_pool_new(0, &pool, &err), DD_INVALID);
    assert_int_equal(dd_pool_new(100000, &pool, &err), DD_INVALID);
    assert_null(pool);
    dd_pool_free(NULL);
    dd_team_leave(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_chunk_once),   cmocka_unit_test(test_helpers_help), cmocka_unit_test(test_shares),
        cmocka_unit_test(test_teams_come_and_go), cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
