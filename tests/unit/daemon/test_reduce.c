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
        size_t kept = dd_steps_reduce(rows, n, max);
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
    size_t kept = dd_epochs_reduce(rows, N, MOST);
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
    assert_int_equal(dd_epochs_reduce(rows, 3, 1500), 3);
    free(rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_extremes_order_and_bound), cmocka_unit_test(test_epochs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
