/* The distillation loss: values worked out by hand or by PyTorch, and its gradient by differences. */
#include "core_fixture.h"

/* torch: student [[1,2,3],[0.5,-1,2]], teacher [[3,1,0],[1,1,1]], labels [0,2], T 2, alpha 0.7. */
static void test_values_of_pytorch(void **state) {
    (void)state;
    const float student[] = {1.0f, 2.0f, 3.0f, 0.5f, -1.0f, 2.0f}, teacher[] = {3.0f, 1.0f, 0.0f, 1.0f, 1.0f, 1.0f};
    const int32_t labels[] = {0, 2};
    float gradient[6];
    struct dd_loss loss = dd_distill_loss(student, teacher, labels, 2, 3, 2.0, 0.7, gradient);
    assert_float_equal(loss.kl, 1.395635075, 1e-6);
    assert_float_equal(loss.ce, 1.324458631, 1e-6);
    assert_float_equal(loss.total, 0.7 * 1.395635075 + 0.3 * 1.324458631, 1e-6);
}

static void test_equal_logits_cost_nothing(void **state) {
    (void)state;
    const float logits[] = {0.3f, -2.0f, 5.0f};
    const int32_t labels[] = {-1};
    float gradient[3];
    struct dd_loss loss = dd_distill_loss(logits, logits, labels, 1, 3, 4.0, 1.0, gradient);
    assert_float_equal(loss.total, 0.0, 1e-12);
    for (int i = 0; i < 3; i++) {
        assert_float_equal(gradient[i], 0.0, 1e-12);
    }
}

static void check_gradient(const float *teacher, const int32_t *labels, double temperature, double alpha) {
    enum { N = 4, C = 5 };
    float student[N * C], gradient[N * C];
    struct dd_stream stream = {.seed = 1, .purpose = DD_PURPOSE_INIT};
    dd_random_normal(&stream, 0, N * C, 2.0f, student);
    dd_distill_loss(student, teacher, labels, N, C, temperature, alpha, gradient);
    for (int i = 0; i < N * C; i++) {
        float saved = student[i], h = 0.0078125f;
        student[i] = saved + h;
        double above = dd_distill_loss(student, teacher, labels, N, C, temperature, alpha, NULL).total;
        student[i] = saved - h;
        double below = dd_distill_loss(student, teacher, labels, N, C, temperature, alpha, NULL).total;
        student[i] = saved;
        double slope = (above - below) / (2.0 * (double)h);
        if (!(fabs(slope - (double)gradient[i]) < 3e-5 * (1.0 + temperature))) {
            fail_msg("T %g alpha %g: slope %g, gradient %g", temperature, alpha, slope, (double)gradient[i]);
        }
    }
}

static void test_gradients(void **state) {
    (void)state;
    float teacher[20];
    struct dd_stream stream = {.seed = 2, .purpose = DD_PURPOSE_INIT};
    dd_random_normal(&stream, 0, 20, 2.0f, teacher);
    const int32_t labels[] = {0, 4, 2, 2}, some[] = {1, -1, -1, 3}, none[] = {-1, -1, -1, -1};
    static const double temperatures[] = {0.7, 1.0, 8.0}, alphas[] = {0.0, 0.4, 1.0};
    for (size_t t = 0; t < DD_ARRAY_LEN(temperatures); t++) {
        for (size_t a = 0; a < DD_ARRAY_LEN(alphas); a++) {
            check_gradient(teacher, labels, temperatures[t], alphas[a]);
            check_gradient(teacher, some, temperatures[t], alphas[a]);
            check_gradient(teacher, none, temperatures[t], alphas[a]);
        }
    }
    check_gradient(NULL, labels, 2.0, 0.5);
    check_gradient(NULL, some, 2.0, 0.5);
}

/* A partial batch weighs its rows as a mean does, and huge logits do not overflow. */
static void test_extremes(void **state) {
    (void)state;
    const float student[] = {1e30f, -1e30f, 0.0f, 0.0f}, teacher[] = {-3e38f, 3e38f, 0.0f, 0.0f};
    const int32_t labels[] = {0, 1};
    float gradient[4];
    struct dd_loss loss = dd_distill_loss(student, NULL, labels, 2, 2, 1.0, 0.0, gradient);
    assert_float_equal(loss.ce, 0.5 * log(2.0), 1e-12);
    loss = dd_distill_loss(student + 2, teacher, labels, 1, 2, 2.0, 1.0, gradient);
    assert_float_equal(loss.kl, 4.0 * log(2.0), 1e-9);
    loss = dd_distill_loss(student, NULL, labels, 0, 2, 1.0, 0.0, gradient);
    assert_true(loss.total == 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_of_pytorch),
        cmocka_unit_test(test_equal_logits_cost_nothing),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
