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

enum { N = 4, C = 5 };

static void check_gradient(const float *teacher, const int32_t *labels, const struct dd_loss_options *options) {
    float student[N * C], gradient[N * C];
    struct dd_stream stream = {.seed = 1, .purpose = DD_PURPOSE_INIT};
    dd_random_normal(&stream, 0, N * C, 2.0f, student);
    dd_loss_compute(student, teacher, labels, N, C, options, gradient);
    for (int i = 0; i < N * C; i++) {
        float saved = student[i], h = 0.0078125f;
        student[i] = saved + h;
        double above = dd_loss_compute(student, teacher, labels, N, C, options, NULL).total;
        student[i] = saved - h;
        double below = dd_loss_compute(student, teacher, labels, N, C, options, NULL).total;
        student[i] = saved;
        double slope = (above - below) / (2.0 * (double)h);
        if (!(fabs(slope - (double)gradient[i]) < 3e-5 * (1.0 + options->temperature))) {
            fail_msg("T %g alpha %g: slope %g, gradient %g", options->temperature, options->alpha, slope,
                     (double)gradient[i]);
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
    static const double weights[C] = {0.5, 1.0, 3.0, 0.25, 2.0};
    for (int k = 0; k < 3 * 3 * 2 * 2 * 2; k++) {
        const struct dd_loss_options options = {.kind = k / 36 ? DD_LOSS_MSE : DD_LOSS_KL,
                                                .temperature = temperatures[k % 3],
                                                .alpha = alphas[k / 3 % 3],
                                                .label_smoothing = k / 9 % 2 ? 0.3 : 0.0,
                                                .class_weight = k / 18 % 2 ? weights : NULL};
        check_gradient(teacher, labels, &options);
        check_gradient(teacher, some, &options);
        check_gradient(teacher, none, &options);
        check_gradient(NULL, labels, &options);
        check_gradient(NULL, some, &options);
    }
}

/* torch: the logits above with CrossEntropyLoss(weight=[2, 1, 0.5], label_smoothing=0.1), and the mse_loss of the
 * centred logits. */
static void test_options_of_pytorch(void **state) {
    (void)state;
    const float student[] = {1.0f, 2.0f, 3.0f, 0.5f, -1.0f, 2.0f}, teacher[] = {3.0f, 1.0f, 0.0f, 1.0f, 1.0f, 1.0f};
    const int32_t labels[] = {0, 2};
    static const double weights[] = {2.0, 1.0, 0.5};
    const struct dd_loss_options options = {
        .kind = DD_LOSS_MSE, .alpha = 0.7, .label_smoothing = 0.1, .class_weight = weights};
    float gradient[6];
    struct dd_loss loss = dd_loss_compute(student, teacher, labels, 2, 3, &options, gradient);
    assert_float_equal(loss.kl, 2.861111111, 1e-6);
    assert_float_equal(loss.ce, 1.953861800, 1e-6);
    assert_float_equal(gradient[1], 0.130065326, 1e-6);
}

static void test_balanced_weights(void **state) {
    (void)state;
    const int32_t labels[] = {0, 0, 0, 1, -1};
    double *weight = NULL;
    struct dd_error err;
    assert_int_equal(dd_class_weights(labels, 5, 3, &weight, &err), DD_OK);
    assert_true(weight[0] == 4.0 / (2.0 * 3.0) && weight[1] == 2.0 && weight[2] == 1.0);
    free(weight);
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
        cmocka_unit_test(test_values_of_pytorch), cmocka_unit_test(test_equal_logits_cost_nothing),
        cmocka_unit_test(test_gradients),         cmocka_unit_test(test_options_of_pytorch),
        cmocka_unit_test(test_balanced_weights),  cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
