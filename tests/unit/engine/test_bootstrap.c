/* The paired bootstrap: scores against the report's, intervals against what must hold, bad labels. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/nn.h"
#include "engine/report.h"

#define ROWS 101
#define CLASSES 4
#define RESAMPLES 200
#define SEED 7

struct game {
    int32_t gold[ROWS], good[ROWS], poor[ROWS];
    double scores[3 * (RESAMPLES + 1)], scratch[RESAMPLES];
};

/* good is wrong on every ninth row, poor on every other. */
static struct game make(bool by_accuracy) {
    struct game game;
    for (int i = 0; i < ROWS; i++) {
        game.gold[i] = i * i % 7 % CLASSES;
        game.good[i] = i % 9 == 0 ? (game.gold[i] + 1) % CLASSES : game.gold[i];
        game.poor[i] = i % 2 == 0 ? (game.gold[i] + 1) % CLASSES : game.gold[i];
    }
    const int32_t *const runs[] = {game.good, game.poor, game.good};
    assert_int_equal(
        dd_bootstrap_scores(game.gold, ROWS, CLASSES, runs, 3, by_accuracy, RESAMPLES, SEED, NULL, game.scores, NULL),
        DD_OK);
    return game;
}

static void test_scores_are_the_reports(void **state) {
    (void)state;
    for (int by_accuracy = 0; by_accuracy < 2; by_accuracy++) {
        struct game game = make(by_accuracy);
        for (int k = 0; k <= RESAMPLES; k++) {
            int32_t gold[ROWS], predicted[ROWS];
            uint32_t rows[ROWS];
            for (uint32_t i = 0; i < ROWS; i++) {
                rows[i] = i;
            }
            if (k > 0) {
                dd_bootstrap_rows(SEED, k - 1, ROWS, rows);
            }
            for (int i = 0; i < ROWS; i++) {
                assert_true(rows[i] < ROWS);
                gold[i] = game.gold[rows[i]];
                predicted[i] = game.poor[rows[i]];
            }
            struct dd_report report;
            assert_int_equal(dd_report_compute(gold, predicted, ROWS, CLASSES, false, &report, NULL), DD_OK);
            double wanted = by_accuracy ? report.accuracy : report.macro.f1;
            assert_true(fabs(game.scores[RESAMPLES + 1 + k] - wanted) < 1e-14);
            assert_true(game.scores[k] == game.scores[2 * (RESAMPLES + 1) + k]);
            dd_report_release(&report);
        }
    }
}

static void test_intervals(void **state) {
    (void)state;
    struct game game = make(false);
    const size_t good[] = {0}, poor[] = {1}, copy[] = {2}, both[] = {0, 1};
    struct dd_interval same = dd_bootstrap_difference(game.scores, RESAMPLES, good, 1, copy, 1, 0.95, game.scratch);
    assert_true(same.difference == 0 && same.low == 0 && same.high == 0);
    struct dd_interval lead = dd_bootstrap_difference(game.scores, RESAMPLES, good, 1, poor, 1, 0.95, game.scratch);
    assert_true(0 < lead.low && lead.low < lead.difference && lead.difference < lead.high);
    struct dd_interval back = dd_bootstrap_difference(game.scores, RESAMPLES, poor, 1, good, 1, 0.95, game.scratch);
    assert_true(fabs(back.low + lead.high) < 1e-12 && fabs(back.high + lead.low) < 1e-12);
    struct dd_interval half = dd_bootstrap_difference(game.scores, RESAMPLES, both, 2, poor, 1, 0.95, game.scratch);
    assert_true(fabs(half.difference - lead.difference / 2) < 1e-12);
    assert_true(fabs(half.low - lead.low / 2) < 1e-12);
    struct dd_interval wide = dd_bootstrap_difference(game.scores, RESAMPLES, good, 1, poor, 1, 1.0, game.scratch);
    assert_true(wide.low <= lead.low && wide.high >= lead.high);
    assert_true(wide.low == game.scratch[0] && wide.high == game.scratch[RESAMPLES - 1]);
}

static void test_bad_input(void **state) {
    (void)state;
    struct game game = make(false);
    const int32_t *const runs[] = {game.good};
    struct dd_error err;
    struct dd_cancel cancel = {.requested = DD_STOP_CANCEL};
    assert_int_equal(dd_bootstrap_scores(game.gold, 0, CLASSES, runs, 1, false, 1, SEED, NULL, game.scores, &err),
                     DD_INVALID);
    assert_int_equal(dd_bootstrap_scores(game.gold, ROWS, 3, runs, 1, false, 1, SEED, NULL, game.scores, &err),
                     DD_INVALID);
    game.good[50] = -1;
    assert_int_equal(dd_bootstrap_scores(game.gold, ROWS, CLASSES, runs, 1, false, 1, SEED, NULL, game.scores, &err),
                     DD_INVALID);
    game.good[50] = 0;
    assert_int_equal(dd_bootstrap_scores(game.gold, ROWS, CLASSES, runs, 1, false, 1, SEED, &cancel, game.scores, &err),
                     DD_STOPPED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_are_the_reports),
        cmocka_unit_test(test_intervals),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
