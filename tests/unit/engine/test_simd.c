/* The kernels of every instruction set that this machine has: functions within their stated error, and shapes with
 * tails against plain C.
 */
#include "core_fixture.h"

#include "engine/blas.h"
#include "engine/simd.h"

extern const struct dd_simd dd_simd_table_avx512, dd_simd_table_avx2, dd_simd_table_baseline;

static int sets(const struct dd_simd *found[3]) {
    int n = 0;
    found[n++] = &dd_simd_table_baseline;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found[n++] = &dd_simd_table_avx2;
    }
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        found[n++] = &dd_simd_table_avx512;
    }
    return n;
}

static double ulp_of(double x) {
    float f = fabsf((float)x);
    return (double)nextafterf(f, INFINITY) - (double)f;
}

enum { BATCH = 4096 };

/* Every `stride`-th float of [from, to] by bit pattern, both signs of it where `both`. */
static void sweep(const struct dd_simd *simd, int what, float from, float to, uint32_t stride, bool both,
                  void (*check)(float x, float y)) {
    float x[BATCH], y[BATCH];
    uint32_t first, last;
    memcpy(&first, &from, sizeof first);
    memcpy(&last, &to, sizeof last);
    for (uint64_t at = first; at <= last;) {
        size_t n = 0;
        for (; n + 1 < BATCH && at <= last; at += stride) {
            uint32_t bits = (uint32_t)at;
            memcpy(&x[n], &bits, sizeof bits);
            n++;
            if (both) {
                x[n] = -x[n - 1];
                n++;
            }
        }
        simd->evaluate(what, n, x, y);
        for (size_t i = 0; i < n; i++) {
            check(x[i], y[i]);
        }
    }
}

static void check_exp(float x, float y) {
    double want = exp((double)x);
    if (x < -87.336f) {
        assert_true(y == 0.0f);
    } else if (!(fabs((double)y - want) <= 2.0 * ulp_of(want))) {
        fail_msg("exp(%.9g) = %.9g, not %.9g", (double)x, (double)y, want);
    }
}

static void check_phi(float x, float y) {
    double want = 0.5 * erfc((double)-x / sqrt(2.0));
    if (!(fabs((double)y - want) <= 2.5e-7 && (double)y >= 0.0 && (double)y <= 1.0)) {
        fail_msg("Phi(%.9g) = %.9g, not %.9g", (double)x, (double)y, want);
    }
}

static void check_density(float x, float y) {
    double want = exp(-0.5 * (double)x * (double)x) / sqrt(2.0 * 3.14159265358979323846);
    if (!(fabs((double)y - want) <= 1e-7)) {
        fail_msg("density(%.9g) = %.9g, not %.9g", (double)x, (double)y, want);
    }
}

static void check_tanh(float x, float y) {
    double want = tanh((double)x);
    if (!(fabs((double)y - want) <= 2e-7 && fabs((double)y - want) <= 3e-7 * fabs(want) + 1e-45)) {
        fail_msg("tanh(%.9g) = %.9g, not %.9g", (double)x, (double)y, want);
    }
}

static void test_functions(void **state) {
    (void)state;
    const struct dd_simd *simd[3];
    for (int i = 0, n = sets(simd); i < n; i++) {
        sweep(simd[i], 0, 0.0f, 87.3f, 251, true, check_exp);
        sweep(simd[i], 1, 0.0f, 40.0f, 251, true, check_phi);
        sweep(simd[i], 2, 0.0f, 40.0f, 251, true, check_density);
        sweep(simd[i], 3, 0.0f, 50.0f, 251, true, check_tanh);
        float special[5] = {-INFINITY, -1000.0f, NAN, INFINITY, 0.0f}, out[5];
        simd[i]->evaluate(0, 5, special, out);
        assert_true(out[0] == 0.0f && out[1] == 0.0f && isnan(out[2]) && out[4] == 1.0f);
        simd[i]->evaluate(1, 5, special, out);
        assert_true(out[0] == 0.0f && isnan(out[2]) && out[3] == 1.0f && fabsf(out[4] - 0.5f) < 1e-6f);
        simd[i]->evaluate(3, 5, special, out);
        assert_true(out[0] == -1.0f && isnan(out[2]) && out[3] == 1.0f && out[4] == 0.0f);
    }
}

static void fill(float *x, size_t n, uint64_t seed) {
    struct dd_stream stream = {.seed = seed, .purpose = DD_PURPOSE_INIT};
    dd_random_normal(&stream, 0, n, 1.0f, x);
}

static void assert_near(const float *got, const double *want, size_t n, double tolerance, const char *what) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= tolerance)) {
            fail_msg("%s[%zu] = %.9g, not %.9g", what, i, (double)got[i], want[i]);
        }
    }
}

/* One head in plain double, forward and backward. */
struct plain {
    double context[70 * 40], dq[70 * 40], dk[70 * 40], dv[70 * 40];
};

static void plain_attention(const struct dd_attention_head *head, const uint16_t *mask, const float *dcontext,
                            struct plain *out) {
    int n = head->length, size = head->head_size, padded = (n + 15) / 16 * 16;
    memset(out, 0, sizeof *out);
    for (int i = 0; i < head->n_queries; i++) {
        double p[70], dp[70], most = -INFINITY, sum = 0.0, dot = 0.0;
        const float *q = head->q + (size_t)i * head->q_stride;
        for (int j = 0; j < n; j++) {
            p[j] = 0.0;
            for (int d = 0; d < size; d++) {
                p[j] += (double)q[d] * (double)head->k[(size_t)j * head->kv_stride + (size_t)d];
            }
            p[j] *= (double)head->scale;
            most = fmax(most, p[j]);
        }
        for (int j = 0; j < n; j++) {
            p[j] = exp(p[j] - most);
            sum += p[j];
        }
        for (int j = 0; j < n; j++) {
            size_t element = (size_t)(i * padded + j);
            double factor = (mask[element / 16] >> (element % 16) & 1) != 0 ? (double)head->mask->scale : 0.0;
            p[j] /= sum;
            dp[j] = 0.0;
            for (int d = 0; d < size; d++) {
                size_t at = (size_t)i * (size_t)size + (size_t)d, kv = (size_t)j * head->kv_stride + (size_t)d;
                out->context[at] += p[j] * factor * (double)head->v[kv];
                dp[j] += factor * (double)dcontext[at] * (double)head->v[kv];
                out->dv[(size_t)j * (size_t)size + (size_t)d] += p[j] * factor * (double)dcontext[at];
            }
            dot += p[j] * dp[j];
        }
        for (int j = 0; j < n; j++) {
            double ds = p[j] * (dp[j] - dot) * (double)head->scale;
            for (int d = 0; d < size; d++) {
                out->dq[(size_t)i * (size_t)size + (size_t)d] +=
                    ds * (double)head->k[(size_t)j * head->kv_stride + (size_t)d];
                out->dk[(size_t)j * (size_t)size + (size_t)d] += ds * (double)q[d];
            }
        }
    }
}

static void check_attention(const struct dd_simd *simd, int length, int n_queries, int size, double rate) {
    size_t floats = dd_attention_scratch_floats(length, size), kv = (size_t)length * (size_t)size;
    const struct dd_dropout dropout = {.on = true, .seed = 3, .step = 8};
    struct dd_mask mask = dd_mask_new(&dropout, rate, 5);
    float *scratch = dd_calloc_aligned(floats, sizeof(float)), *q = dd_calloc(kv, 4), *k = dd_calloc(kv, 4),
          *v = dd_calloc(kv, 4), *dcontext = dd_calloc(kv, 4), *out = dd_calloc(4 * kv, 4);
    fill(q, kv, 1);
    fill(k, kv, 2);
    fill(v, kv, 3);
    fill(dcontext, kv, 4);
    struct dd_attention_head head = {.length = length,
                                     .n_queries = n_queries,
                                     .head_size = size,
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .q_stride = (size_t)size,
                                     .kv_stride = (size_t)size,
                                     .scale = (float)(1.0 / sqrt(size)),
                                     .mask = &mask,
                                     .mask_group = 9,
                                     .scratch = scratch};
    static uint16_t words[70 * 5 + 16];
    static struct plain plain;
    memset(words, 0xff, sizeof words);
    if (mask.threshold != 0) {
        dd_simd_table_baseline.mask(&mask, 9, ((size_t)n_queries * (size_t)((length + 15) / 16 * 16) + 127) / 128,
                                    words);
    }
    plain_attention(&head, words, dcontext, &plain);
    simd->attention(&head, out, (size_t)size);
    size_t queries = (size_t)n_queries * (size_t)size;
    assert_near(out, plain.context, queries, 2e-5, "context");
    simd->attention_backward(&head, dcontext, (size_t)size, out, (size_t)size, out + kv, out + 2 * kv, (size_t)size);
    assert_near(out, plain.dq, queries, 5e-5, "dq");
    assert_near(out + kv, plain.dk, kv, 5e-5, "dk");
    assert_near(out + 2 * kv, plain.dv, kv, 5e-5, "dv");
    free(scratch);
    free(q);
    free(k);
    free(v);
    free(dcontext);
    free(out);
}

static void test_attention(void **state) {
    (void)state;
    const struct dd_simd *simd[3];
    static const int lengths[] = {1, 2, 5, 15, 16, 17, 31, 33, 64, 65, 70}, sizes[] = {1, 3, 4, 16, 20, 33, 40};
    for (int i = 0, n = sets(simd); i < n; i++) {
        for (size_t l = 0; l < DD_ARRAY_LEN(lengths); l++) {
            for (size_t s = 0; s < DD_ARRAY_LEN(sizes); s++) {
                check_attention(simd[i], lengths[l], lengths[l], sizes[s], 0.0);
                check_attention(simd[i], lengths[l], lengths[l], sizes[s], 0.3);
                check_attention(simd[i], lengths[l], 1, sizes[s], 0.3);
            }
        }
    }
}

/* Nothing is written past a row's end. */
static void test_rows_with_tails(void **state) {
    (void)state;
    const struct dd_simd *simd[3];
    enum { MOST = 70, ROWS = 3 };
    for (int i = 0, n_sets = sets(simd); i < n_sets; i++) {
        for (int n = 1; n <= MOST; n++) {
            float z[ROWS * MOST + 1], y[ROWS * MOST + 1], residual[ROWS * MOST], gain[MOST], shift[MOST],
                rstd[ROWS + 1];
            size_t count = (size_t)(ROWS * n);
            const struct dd_mask keep_all = {.scale = 1.0f};
            fill(z, count, 1);
            fill(residual, count, 2);
            fill(gain, (size_t)n, 3);
            fill(shift, (size_t)n, 4);
            double want[ROWS * MOST];
            for (int r = 0; r < ROWS; r++) {
                double mean = 0.0, variance = 0.0, x[MOST];
                for (int j = 0; j < n; j++) {
                    x[j] = (double)z[r * n + j] + (double)shift[j] + (double)residual[r * n + j];
                    mean += x[j] / n;
                }
                for (int j = 0; j < n; j++) {
                    variance += (x[j] - mean) * (x[j] - mean) / n;
                }
                for (int j = 0; j < n; j++) {
                    want[r * n + j] = (x[j] - mean) / sqrt(variance + 1e-5) * (double)gain[j] + (double)shift[j];
                }
            }
            z[count] = y[count] = rstd[ROWS] = 777.0f;
            const struct dd_layernorm norm = {.gain = gain, .shift = shift, .eps = 1e-5f, .n = n};
            simd[i]->residual_layernorm(&norm, ROWS, z, shift, residual, &keep_all, NULL, 0, rstd, y);
            assert_near(y, want, count, 2e-4, "layernorm");
            assert_true(z[count] == 777.0f && y[count] == 777.0f && rstd[ROWS] == 777.0f);
            simd[i]->column_sums(ROWS, n, residual, (size_t)n, y);
            for (int j = 0; j < n; j++) {
                assert_true(fabsf(y[j] - (residual[j] + residual[n + j] + residual[2 * n + j])) < 1e-5f);
            }
        }
    }
}

static void test_sum_squares(void **state) {
    (void)state;
    const struct dd_simd *simd[3];
    float x[1003];
    fill(x, 1003, 6);
    double want = 0.0;
    for (int i = 0; i < 1003; i++) {
        want += (double)x[i] * (double)x[i];
    }
    for (int i = 0, n = sets(simd); i < n; i++) {
        assert_true(fabs(simd[i]->sum_squares(1003, x) - want) < 1e-9 * want);
        float big[3] = {3e19f, 4e19f, 0.0f};
        assert_true(fabs(simd[i]->sum_squares(3, big) - 25e38) < 1e32);
    }
}

/* A replayed step is the same float operations as a step with gradient zero. */
static void test_replay(void **state) {
    (void)state;
    const struct dd_simd *simd[3];
    enum { N = 83, STEPS = 40 };
    struct dd_adamw_step adamw[STEPS];
    struct dd_sgd_step sgd[STEPS];
    for (int s = 0; s < STEPS; s++) {
        adamw[s] = (struct dd_adamw_step){0.7f, 1.0f - 1e-3f * (float)s, 0.1f, 0.999f, 0.001f, 1e-2f, 3.0f, 1e-8f};
        sgd[s] = (struct dd_sgd_step){0.7f, 0.01f, 0.9f, 0.05f / (float)(s + 1), s % 2 == 1};
    }
    for (int i = 0, n = sets(simd); i < n; i++) {
        float p[2][N], m[2][N], v[2][N], zero[N] = {0.0f};
        for (int k = 0; k < 2; k++) {
            fill(p[k], N, 1);
            fill(m[k], N, 2);
            fill(v[k], N, 3);
            for (int j = 0; j < N; j++) {
                v[k][j] = v[k][j] * v[k][j];
            }
        }
        for (int s = 0; s < STEPS; s++) {
            simd[i]->adamw(&adamw[s], N, p[0], zero, m[0], v[0]);
        }
        simd[i]->adamw_replay(adamw, STEPS, N, p[1], m[1], v[1]);
        assert_memory_equal(p[0], p[1], sizeof p[0]);
        assert_memory_equal(m[0], m[1], sizeof m[0]);
        assert_memory_equal(v[0], v[1], sizeof v[0]);
        for (int s = 0; s < STEPS; s++) {
            simd[i]->sgd(&sgd[s], N, p[0], zero, m[0]);
        }
        simd[i]->sgd_replay(sgd, STEPS, N, p[1], m[1]);
        assert_memory_equal(p[0], p[1], sizeof p[0]);
        memset(m, 0, sizeof m);
        memset(v, 0, sizeof v);
        for (int s = 0; s < STEPS; s++) {
            simd[i]->adamw(&adamw[s], N, p[0], zero, m[0], v[0]);
        }
        simd[i]->decay_replay(adamw, STEPS, N, p[1]);
        assert_memory_equal(p[0], p[1], sizeof p[0]);
    }
}

/* By hand: d = 0.5 · 2 + 0.1 · 1 = 1.1; m = 0.5 · 4 + 1.1 = 3.1; p = 1 − 0.25 · 3.1, or 1 − 0.25 (1.1 + 0.5 · 3.1). */
static void test_momentum(void **state) {
    (void)state;
    const struct dd_simd *simd[3];
    for (int i = 0, n = sets(simd); i < n; i++) {
        for (int nesterov = 0; nesterov < 2; nesterov++) {
            const struct dd_sgd_step step = {0.5f, 0.1f, 0.5f, 0.25f, nesterov == 1};
            float p = 1.0f, g = 2.0f, m = 4.0f;
            simd[i]->sgd(&step, 1, &p, &g, &m);
            assert_true(fabsf(m - 3.1f) < 1e-6f);
            assert_true(fabsf(p - (nesterov == 1 ? 0.3375f : 0.225f)) < 1e-6f);
        }
    }
}

/* One side's table in double: scale x yᵀ. */
static void relation_table(const struct dd_relation_side *side, int rows, int columns, double *table) {
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < columns; j++) {
            double sum = 0.0;
            for (int d = 0; d < side->size; d++) {
                sum += (double)side->x[(size_t)i * side->x_stride + (size_t)d] *
                       (double)side->y[(size_t)j * side->y_stride + (size_t)d];
            }
            table[i * columns + j] = sum * (double)side->scale;
        }
    }
}

/* table becomes the softmax of its rows, log_sum [rows] the logarithms of the sums. */
static void softmax_rows(int rows, int columns, double *table, double *log_sum) {
    for (int i = 0; i < rows; i++) {
        double sum = 0.0;
        for (int j = 0; j < columns; j++) {
            sum += exp(table[i * columns + j]);
        }
        log_sum[i] = log(sum);
        for (int j = 0; j < columns; j++) {
            table[i * columns + j] = exp(table[i * columns + j]) / sum;
        }
    }
}

enum { RELATED = 150, WIDE = 24 };

/* The loss, and d of the student's table in s. */
static double relation_reference(const struct dd_relation *r, double *s, double *t) {
    static double s_sum[RELATED], t_sum[RELATED], logits[RELATED * RELATED];
    int rows = r->n_rows, columns = r->n_columns;
    double loss = 0.0;
    relation_table(&r->student, rows, columns, s);
    relation_table(&r->teacher, rows, columns, t);
    if (!r->divergence) {
        for (int i = 0; i < rows * columns; i++) {
            double difference = s[i] - t[i];
            loss += difference * difference;
            s[i] = 2.0 * difference;
        }
        return loss;
    }
    for (int i = 0; i < rows * columns; i++) {
        logits[i] = t[i] - s[i];
    }
    softmax_rows(rows, columns, s, s_sum);
    softmax_rows(rows, columns, t, t_sum);
    for (int i = 0; i < rows * columns; i++) {
        loss += t[i] * (logits[i] - t_sum[i / columns] + s_sum[i / columns]);
        s[i] -= t[i];
    }
    return loss;
}

/* Blocks, tails, one row, and a table of rows with themselves, whose two gradients meet. */
static void test_relation(void **state) {
    (void)state;
    static const struct {
        int rows, columns, size, teacher_size;
        bool divergence, self;
    } shapes[] = {{1, 7, 5, 9, false, false},   {19, 19, 16, 8, false, false}, {150, 150, 24, 3, false, false},
                  {2, 2, 1, 1, true, true},     {33, 33, 12, 24, true, true},  {150, 150, 5, 5, true, true},
                  {64, 64, 16, 16, true, true}, {1, 130, 20, 20, false, false}};
    static float x[RELATED * WIDE], y[RELATED * WIDE], tx[RELATED * WIDE], ty[RELATED * WIDE];
    static float dx[RELATED * WIDE], dy[RELATED * WIDE];
    static double s[RELATED * RELATED], t[RELATED * RELATED];
    const struct dd_simd *simd[3];
    fill(x, RELATED * WIDE, 1);
    fill(y, RELATED * WIDE, 2);
    fill(tx, RELATED * WIDE, 3);
    fill(ty, RELATED * WIDE, 4);
    float *scratch = dd_calloc_aligned(dd_relation_scratch_floats(RELATED, WIDE, WIDE), sizeof *scratch);
    for (size_t k = 0; k < DD_ARRAY_LEN(shapes); k++) {
        int rows = shapes[k].rows, columns = shapes[k].columns, size = shapes[k].size;
        bool self = shapes[k].self;
        struct dd_relation r = {.n_rows = rows,
                                .n_columns = columns,
                                .divergence = shapes[k].divergence,
                                .student = {x, self ? x : y, WIDE, WIDE, size, 0.4f},
                                .teacher = {tx, self ? tx : ty, WIDE, WIDE, shapes[k].teacher_size, 0.7f},
                                .step = 0.5f,
                                .scratch = scratch};
        double want = relation_reference(&r, s, t);
        for (int i = 0, n = sets(simd); i < n; i++) {
            for (int at = 0; at < RELATED * WIDE; at++) {
                dx[at] = dy[at] = 1.0f; /* to be added to */
            }
            double sum = simd[i]->relation(&r, dx, WIDE, self ? dx : dy, WIDE);
            assert_true(fabs(sum - want) <= 1e-5 * fabs(want) + 1e-6);
            for (int a = 0; a < columns; a++) {
                for (int d = 0; d < WIDE; d++) {
                    double wanted[2] = {1.0, 1.0};
                    for (int j = 0; j < columns && a < rows && d < size; j++) {
                        wanted[0] += 0.5 * 0.4 * s[a * columns + j] * (double)r.student.y[j * WIDE + d];
                    }
                    for (int j = 0; j < rows && d < size; j++) {
                        wanted[self ? 0 : 1] += 0.5 * 0.4 * s[j * columns + a] * (double)x[j * WIDE + d];
                    }
                    assert_true(a >= rows || fabs((double)dx[a * WIDE + d] - wanted[0]) <= 2e-4);
                    assert_true(self || fabs((double)dy[a * WIDE + d] - wanted[1]) <= 2e-4);
                }
            }
        }
    }
    free(scratch);
}

/* The product's bits do not depend on where its matrices lie or on what was computed before. */
static void test_product_bits_do_not_depend_on_addresses(void **state) {
    (void)state;
    assert_int_equal(dd_blas_open(NULL), DD_OK);
    static const int shapes[][3] = {{37, 50, 41}, {128, 96, 64}, {160, 192, 300}, {1, 768, 768}, {32, 3, 768}};
    enum { ROOM = 320 * 800 };
    float *a = dd_calloc_aligned(ROOM, 4), *b = dd_calloc_aligned(ROOM * 3, 4), *c = dd_calloc_aligned(ROOM, 4),
          *reference = dd_calloc_aligned(ROOM, 4);
    for (size_t i = 0; i < DD_ARRAY_LEN(shapes); i++) {
        int m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        for (int shift = 0; shift < 17; shift += 3) {
            fill(a + shift, (size_t)(m * k), 1);
            fill(b + shift, (size_t)(n * k), 2);
            dd_sgemm(false, true, m, n, k, a + shift, k, b + shift, k, 0.0f, c + shift, n);
            if (shift == 0) {
                memcpy(reference, c, (size_t)(m * n) * sizeof(float));
            }
            assert_memory_equal(reference, c + shift, (size_t)(m * n) * sizeof(float));
        }
        double want = 0.0;
        for (int l = 0; l < k; l++) {
            want += (double)a[15 + l] * (double)b[15 + l];
        }
        assert_true(fabs((double)c[15] - want) < 1e-4);
    }
    free(a);
    free(b);
    free(c);
    free(reference);
}

static void test_names(void **state) {
    (void)state;
    const char *name = dd_engine_cpu();
    assert_true(strcmp(name, "avx512") == 0 || strcmp(name, "avx2") == 0 || strcmp(name, "baseline") == 0);
    assert_true(strlen(dd_engine_blas()) > 5);
    const char *wanted = getenv("DISTILLD_SIMD");
    if (wanted != NULL && strcmp(wanted, "baseline") == 0) {
        assert_string_equal(name, "baseline");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),       cmocka_unit_test(test_attention),
        cmocka_unit_test(test_rows_with_tails), cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_replay),          cmocka_unit_test(test_momentum),
        cmocka_unit_test(test_relation),        cmocka_unit_test(test_product_bits_do_not_depend_on_addresses),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
