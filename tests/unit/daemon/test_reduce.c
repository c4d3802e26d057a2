/* Fewer steps or epochs for a chart: whatever the curve, first, last and the extremes stay, in order, within the bound.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/daemon.h"

static unsigned long long random_state = 7;
static unsigned random_below(unsigned bound) {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(random_state >> 33) % bound;
}

static void fill(struct dd_step_row *rows, size_t n, bool with_nan) {
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct dd_step_row){
            .step = (int64_t)i + 1, .loss = random_below(1000000) / 1e5, .grad_norm = random_below(1000000) / 1e4};
    if (with_nan && n > 2)
        rows[1 + random_below((unsigned)n - 2)].loss = NAN;
}

/* Largest (or, sign −1, smallest) loss or norm; NaN counts as the largest. */
static double extreme(const struct dd_step_row *rows, size_t n, bool norm, int sign) {
    double best = sign > 0 ? -INFINITY : INFINITY;
    for (size_t i = 0; i < n; i++) {
        double value = norm ? rows[i].grad_norm : rows[i].loss;
        if (isnan(value))
            value = INFINITY;
        best = sign > 0 ? fmax(best, value) : fmin(best, value);
    }
    return best;
}

static void test_extremes_order_and_bound(void **state) {
    (void)state;
    enum { MAX = 3000 };
    struct dd_step_row *rows = calloc(MAX, sizeof *rows), *all = calloc(MAX, sizeof *all);
    assert_true(rows != NULL && all != NULL);
    for (int round = 0; round < 3000; round++) {
        size_t n = random_below(MAX), max = 4 + random_below(60);
        fill(all, n, random_below(2));
        memcpy(rows, all, n * sizeof *rows);
        size_t kept = dd_steps_reduce(rows, NULL, n, max);
        assert_true(kept <= max || kept == n);
        if (n <= max) {
            assert_int_equal(kept, n);
            continue;
        }
        assert_true(kept <= max);
        assert_int_equal(rows[0].step, 1);
        assert_int_equal(rows[kept - 1].step, n);
        for (size_t i = 0; i < kept; i++) {
            assert_true(i == 0 || rows[i].step > rows[i - 1].step);
            assert_memory_equal(&rows[i], &all[rows[i].step - 1], sizeof rows[i]); /* a row of the run, untouched */
        }
        for (int sign = -1; sign <= 1; sign += 2) {
            assert_true(extreme(rows, kept, false, sign) == extreme(all, n, false, sign));
            if (max >= 6)
                assert_true(extreme(rows, kept, true, sign) == extreme(all, n, true, sign));
        }
    }
    free(rows);
    free(all);
}

static void test_epochs(void **state) {
    (void)state;
    enum { N = 10000, MOST = 1500 };
    struct dd_epoch_row *rows = calloc(N, sizeof *rows);
    assert_non_null(rows);
    for (int i = 0; i < N; i++)
        rows[i] = (struct dd_epoch_row){.epoch = i + 1,
                                        .macro_f1 = i == 7000 ? 2 : random_below(1000) / 1e3,
                                        .dev_loss = i == 41 ? -1 : random_below(1000) / 1e3,
                                        .accuracy = i == 9000 ? -1 : random_below(1000) / 1e3,
                                        .train_loss = i == 5000 ? NAN : random_below(1000) / 1e3};
    size_t kept = dd_epochs_reduce(rows, NULL, N, MOST);
    assert_in_range(kept, MOST / 2, MOST);
    assert_int_equal(rows[0].epoch, 1);
    assert_int_equal(rows[kept - 1].epoch, N);
    const int must[] = {42, 5001, 7001, 9001};
    for (size_t k = 0; k < DD_ARRAY_LEN(must); k++) {
        bool found = false;
        for (size_t i = 0; i < kept; i++) {
            found |= rows[i].epoch == must[k];
            assert_true(i == 0 || rows[i].epoch > rows[i - 1].epoch);
        }
        assert_true(found);
    }
    assert_int_equal(dd_epochs_reduce(rows, NULL, 3, 1500), 3);
    free(rows);
}

/* Whatever is marked on a chart is there after the reduction, up to half of the points. */
static void test_marks_stay(void **state) {
    (void)state;
    enum { N = 5000, MOST = 100 };
    struct dd_epoch_row *rows = calloc(N, sizeof *rows), *also = calloc(N, sizeof *also);
    assert_true(rows != NULL && also != NULL);
    for (int round = 0; round < 300; round++) {
        int back = 1 + (int)random_below(N - 2), again = 1 + (int)random_below(N - 2), best = (int)random_below(N);
        int many = round % 3 == 2; /* more of them than there is room for */
        for (int i = 0; i < N; i++) {
            rows[i] = (struct dd_epoch_row){.epoch = i + 1,
                                            .macro_f1 = random_below(1000) / 1e3,
                                            .dev_loss = random_below(1000) / 1e3,
                                            .accuracy = random_below(1000) / 1e3,
                                            .train_loss = random_below(1000) / 1e3,
                                            .rollback = many ? i % 2 : i == back,
                                            .attempt = i < again ? 1 : 2,
                                            .is_best = i <= best && i % 7 == best % 7};
            also[i] = (struct dd_epoch_row){.epoch = -(i + 1)};
        }
        size_t kept = dd_epochs_reduce(rows, also, N, MOST);
        assert_in_range(kept, MOST / 3, MOST);
        bool found[3] = {false, false, false};
        size_t backs = 0;
        for (size_t i = 0; i < kept; i++) {
            assert_true(i == 0 || rows[i].epoch > rows[i - 1].epoch);
            assert_int_equal(also[i].epoch, -rows[i].epoch);
            found[0] |= rows[i].epoch == back + 1;
            found[1] |= rows[i].epoch == again + 1;
            found[2] |= rows[i].epoch == best + 1;
            backs += rows[i].rollback != 0;
        }
        if (many)
            assert_in_range(backs, MOST / 3, MOST);
        else
            assert_true(found[0] && found[1] && found[2]);
    }
    for (size_t max = 4; max < 20; max++) { /* hardly any room: the bound holds, whatever is marked */
        for (int i = 0; i < N; i++)
            rows[i] = (struct dd_epoch_row){.epoch = i + 1, .rollback = 1, .attempt = i};
        size_t kept = dd_epochs_reduce(rows, NULL, N, max);
        assert_in_range(kept, 3, max);
        assert_int_equal(rows[0].epoch, 1);
        assert_int_equal(rows[kept - 1].epoch, N);
    }
    free(rows);
    free(also);
}

/* Averages over all rows do not know how many are shown, pass over what is missing, and follow their definition. */
static void test_smoothing(void **state) {
    (void)state;
    enum { N = 4000 };
    struct dd_step_row *rows = calloc(N, sizeof *rows), *smooth;
    assert_non_null(rows);
    fill(rows, N, false);
    rows[7].loss = rows[8].loss = NAN;
    for (int i = 0; i < N; i++)
        rows[i].kl = NAN;
    smooth = dd_rows_copy(rows, N, sizeof *rows);
    assert_non_null(smooth);
    dd_steps_smooth(smooth, N, 25.0);
    double mean = rows[0].loss, before = 1;
    for (int i = 0; i < N; i++) {
        assert_true(smooth[i].step == rows[i].step && smooth[i].lr == rows[i].lr && isnan(smooth[i].kl));
        if (isnan(rows[i].loss)) {
            assert_true(isnan(smooth[i].loss));
            continue;
        }
        double keep = exp((before - (i + 1)) / 25.0);
        mean = keep * mean + (1 - keep) * rows[i].loss;
        before = i + 1;
        assert_true(fabs(smooth[i].loss - mean) < 1e-9);
    }
    /* reduced to few or to many: at the same step the same average */
    double at[N + 1];
    for (int i = 0; i < N; i++)
        at[i + 1] = smooth[i].grad_norm;
    for (size_t max = 10; max <= 1500; max *= 5) {
        struct dd_step_row *some = dd_rows_copy(rows, N, sizeof *rows),
                           *averages = dd_rows_copy(smooth, N, sizeof *rows);
        assert_true(some != NULL && averages != NULL);
        size_t kept = dd_steps_reduce(some, averages, N, max);
        assert_in_range(kept, max / 2, max);
        for (size_t i = 0; i < kept; i++)
            assert_true(averages[i].grad_norm == at[some[i].step]);
        free(some);
        free(averages);
    }
    free(rows);
    free(smooth);
    struct dd_epoch_row epochs[3] = {{.epoch = 1, .macro_f1 = 0, .lr = 1},
                                     {.epoch = 2, .macro_f1 = 1, .lr = 2},
                                     {.epoch = 4, .macro_f1 = 1, .lr = 3}};
    dd_epochs_smooth(epochs, 3, 1 / log(2)); /* half is left after one epoch */
    assert_true(epochs[0].macro_f1 == 0 && fabs(epochs[1].macro_f1 - 0.5) < 1e-12);
    assert_true(fabs(epochs[2].macro_f1 - 0.875) < 1e-12 && epochs[2].lr == 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_extremes_order_and_bound), cmocka_unit_test(test_epochs),
                                       cmocka_unit_test(test_marks_stay), cmocka_unit_test(test_smoothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
