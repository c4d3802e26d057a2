/* Products of bytes: every kernel gives the integers of the definition; rounding is as stated; packing loses nothing.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/int8.h"
#include "engine/simd.h"

extern const struct dd_simd dd_simd_table_avx512, dd_simd_table_avx2, dd_simd_table_baseline;

static uint64_t random_state = 1;

static int next_int(int least, int most) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return least + (int)((random_state >> 33) % (uint64_t)(most - least + 1));
}

static struct dd_int8_matrix random_matrix(int rows, int columns, int least, int most) {
    struct dd_int8_matrix matrix;
    assert_int_equal(dd_int8_matrix_init(&matrix, rows, columns, NULL), DD_OK);
    int8_t *q = malloc((size_t)columns);
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < columns; c++) {
            q[c] = (int8_t)next_int(least, most);
        }
        dd_int8_matrix_set(&matrix, r, q, 0.01f * (float)(r + 1));
    }
    free(q);
    return matrix;
}

/* The definition, on unpacked values. */
static int32_t *reference(const uint8_t *a, size_t lda, int m, const struct dd_int8_matrix *w) {
    int32_t *c = calloc((size_t)m * (size_t)w->rows, sizeof *c);
    int8_t *q = malloc((size_t)w->columns);
    for (int j = 0; j < w->rows; j++) {
        dd_int8_matrix_get(w, j, q);
        for (int i = 0; i < m; i++) {
            for (int l = 0; l < w->columns; l++) {
                c[i * w->rows + j] += (a[(size_t)i * lda + (size_t)l] - 128) * q[l];
            }
        }
    }
    free(q);
    return c;
}

static void check_shape(int m, int n, int k, int least, int most) {
    struct dd_int8_matrix w = random_matrix(n, k, least, most);
    size_t lda = dd_int8_padded(k), ldc = (size_t)n + 3, n_kernels;
    uint8_t *a = malloc((size_t)m * lda);
    for (int i = 0; i < m; i++) {
        for (size_t l = 0; l < lda; l++) {
            a[(size_t)i * lda + l] = (uint8_t)(l < (size_t)k ? 128 + next_int(least, most) : 128);
        }
    }
    int32_t *expected = reference(a, lda, m, &w), *c = malloc((size_t)m * ldc * sizeof *c);
    const struct dd_int8_kernel *const *kernels = dd_int8_kernels(&n_kernels);
    for (size_t at = 0; at < n_kernels; at++) {
        for (size_t i = 0; i < (size_t)m * ldc; i++) {
            c[i] = 77;
        }
        const struct dd_int8_block block = {.m = m,
                                            .n = n,
                                            .quads = (int)lda / 4,
                                            .a = a,
                                            .lda = lda,
                                            .b = w.packed,
                                            .panel_bytes = lda * DD_INT8_PANEL,
                                            .offset = w.offset,
                                            .c = c,
                                            .ldc = ldc};
        kernels[at]->run(&block);
        for (int i = 0; i < m; i++) {
            if (memcmp(c + (size_t)i * ldc, expected + (size_t)i * (size_t)n, (size_t)n * sizeof *c) != 0) {
                fail_msg("%s: row %d of %d x %d x %d", kernels[at]->name, i, m, n, k);
            }
            assert_int_equal(c[(size_t)i * ldc + (size_t)n], 77);
        }
    }
    free(a);
    free(c);
    free(expected);
    dd_int8_matrix_release(&w);
}

static void test_kernels_give_the_same_integers(void **state) {
    (void)state;
    static const int n[] = {1, 15, 16, 17, 32, 33, 48, 63, 64, 65, 130}, k[] = {1, 3, 4, 5, 12, 64, 77};
    for (size_t i = 0; i < DD_ARRAY_LEN(n); i++) {
        for (size_t j = 0; j < DD_ARRAY_LEN(k); j++) {
            for (int m = 1; m <= 13; m++) {
                check_shape(m, n[i], k[j], -127, 127);
            }
        }
    }
    check_shape(20, 768, 768, -127, 127);
    check_shape(3, 17, 3072, -127, 127);
}

/* Where saturation or overflow would show. */
static void test_extremes(void **state) {
    (void)state;
    check_shape(7, 40, 65536, 127, 127);
    check_shape(7, 40, 65536, -127, -127);
    check_shape(5, 20, 4096, 126, 127);
    check_shape(5, 20, 64, 0, 0);
}

static void test_quantize(void **state) {
    (void)state;
    const float x[] = {0.0f, 1.27f, -1.27f, 0.635f, -0.004f, 0.0051f};
    const float zeros[3] = {0};
    int8_t q[6];
    float scale;
    dd_int8_quantize(x, 6, q, &scale);
    assert_true(fabsf(scale - 0.01f) < 1e-8f);
    assert_int_equal(q[0], 0);
    assert_int_equal(q[1], 127);
    assert_int_equal(q[2], -127);
    assert_true(q[3] == 63 || q[3] == 64);
    assert_int_equal(q[4], 0);
    assert_int_equal(q[5], 1);
    dd_int8_quantize(zeros, 3, q, &scale);
    assert_true(scale == 0.0f && q[0] == 0 && q[2] == 0);
    const float tiny[] = {FLT_TRUE_MIN, -FLT_TRUE_MIN}; /* the scale underflows */
    dd_int8_quantize(tiny, 2, q, &scale);
    assert_true(isfinite(scale) && q[0] >= 0 && q[1] <= 0);
}

static void test_packing_loses_nothing(void **state) {
    (void)state;
    struct dd_int8_matrix w;
    assert_int_equal(dd_int8_matrix_init(&w, 19, 7, NULL), DD_OK);
    for (int r = 18; r >= 0; r--) {
        const int8_t q[7] = {(int8_t)r, -127, 127, 0, 1, (int8_t)-r, 5};
        dd_int8_matrix_set(&w, r, q, (float)r);
    }
    for (int r = 0; r < 19; r++) {
        int8_t q[7];
        dd_int8_matrix_get(&w, r, q);
        const int8_t expected[7] = {(int8_t)r, -127, 127, 0, 1, (int8_t)-r, 5};
        assert_memory_equal(q, expected, 7);
        assert_int_equal(w.offset[r], 128 * 6);
        assert_true(w.scale[r] == (float)r);
    }
    dd_int8_matrix_release(&w);
}

static const struct dd_simd *const tables[] = {&dd_simd_table_baseline, &dd_simd_table_avx2, &dd_simd_table_avx512};

static bool can_run(const struct dd_simd *table) {
    __builtin_cpu_init();
    return table == &dd_simd_table_baseline ||
           (table == &dd_simd_table_avx2 ? __builtin_cpu_supports("avx2") != 0
                                         : __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"));
}

/* Activations to bytes and sums to floats: the same on every instruction set, rounding to even, odd rows. */
static void test_rows_and_floats_are_the_same_everywhere(void **state) {
    (void)state;
    enum { ROWS = 7, N = 37, LD = 40 };
    float x[ROWS * N], scale[ROWS], expected_scale[ROWS];
    uint8_t out[ROWS * LD], expected[ROWS * LD];
    for (int i = 0; i < ROWS * N; i++) {
        x[i] = (float)next_int(-100000, 100000) * 1e-4f;
    }
    memset(x + N, 0, N * sizeof *x);
    x[2 * N + 36] = INFINITY;
    x[3 * N] = NAN;
    x[4 * N] = 254.0f; /* so that 1 and 3 lie in the middle: 0.5 and 1.5 round to 0 and 2 */
    x[4 * N + 1] = 1.0f;
    x[4 * N + 2] = -3.0f;
    x[4 * N + 3] = 254.0f;
    x[5 * N + 36] = 1e20f;
    for (int r = 0; r < ROWS; r++) {
        x[6 * N + r] = 1e-32f;
    }
    dd_simd_table_baseline.int8_rows(ROWS, N, x, expected, LD, expected_scale);
    for (size_t t = 0; t < DD_ARRAY_LEN(tables); t++) {
        if (!can_run(tables[t])) {
            continue;
        }
        memset(out, 7, sizeof out);
        tables[t]->int8_rows(ROWS, N, x, out, LD, scale);
        assert_memory_equal(out, expected, sizeof out);
        for (int r = 0; r < ROWS; r++) {
            assert_true(scale[r] == expected_scale[r] || (isnan(scale[r]) && isnan(expected_scale[r])));
            for (int i = N; i < LD; i++) {
                assert_int_equal(out[r * LD + i], 128);
            }
        }
        assert_true(scale[1] == 0.0f && isnan(scale[2]) && isnan(scale[3]) && scale[4] == 2.0f);
        assert_int_equal(out[4 * LD], 255);
        assert_int_equal(out[4 * LD + 1], 128);
        assert_int_equal(out[4 * LD + 2], 126);
        int32_t sums[2 * N];
        float floats[2 * N];
        const float row_scale[] = {0.5f, -0.037f};
        for (int i = 0; i < 2 * N; i++) {
            sums[i] = 2 * next_int(-1000000000, 1000000000);
        }
        memcpy(floats, sums, sizeof sums);
        tables[t]->int8_to_float(2, N, floats, N, row_scale, x);
        for (int i = 0; i < 2 * N; i++) {
            volatile float factor = x[i % N] * row_scale[i / N];
            assert_true(floats[i] == (float)sums[i] * factor);
        }
    }
}

static void test_product_with_scales(void **state) {
    (void)state;
    enum { M = 5, N = 48, K = 10 };
    struct dd_int8_matrix w = random_matrix(N, K, -127, 127);
    float x[(M + 1) * K], scales[M + 1], c[M * N];
    uint8_t bytes[(M + 1) * 12];
    for (int i = 0; i < (M + 1) * K; i++) {
        x[i] = (float)next_int(-1000, 1000) * 0.003f;
    }
    dd_simd()->int8_rows(M + 1, K, x, bytes, 12, scales);
    const struct dd_int8_rows rows = {.values = bytes, .scale = scales, .ld = 12};
    dd_int8_product(&rows, 1, M, &w, 16, 32, c, N);
    for (int i = 0; i < M; i++) {
        for (int j = 0; j < 32; j++) {
            int8_t q[K];
            double sum = 0.0;
            dd_int8_matrix_get(&w, 16 + j, q);
            for (int l = 0; l < K; l++) {
                sum += (double)x[(i + 1) * K + l] * q[l] * (double)w.scale[16 + j];
            }
            /* half a step of each activation at most */
            double bound = 0.5 * (double)scales[i + 1] * 127.0 * K * (double)w.scale[16 + j];
            assert_true(fabs((double)c[i * N + j] - sum) <= bound);
        }
    }
    dd_int8_matrix_release(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_give_the_same_integers),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_packing_loses_nothing),
        cmocka_unit_test(test_rows_and_floats_are_the_same_everywhere),
        cmocka_unit_test(test_product_with_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
