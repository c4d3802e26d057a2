/* Optimizers: twenty losses of torch.optim, schedules, and steps whose gradient is not finite. */
#include "core_fixture.h"

static const struct dd_optimizer_spec adamw_spec = {.type = DD_OPTIMIZER_ADAMW,
                                                    .lr = 2e-3,
                                                    .weight_decay = 0.01,
                                                    .eps = 1e-8,
                                                    .beta1 = 0.9,
                                                    .beta2 = 0.999,
                                                    .warmup = 0.2,
                                                    .schedule = DD_SCHEDULE_LINEAR,
                                                    .max_grad_norm = 1.0};
static const struct dd_optimizer_spec sgd_spec = {.type = DD_OPTIMIZER_SGD,
                                                  .lr = 0.05,
                                                  .weight_decay = 0.01,
                                                  .momentum = 0.9,
                                                  .warmup = 0.2,
                                                  .schedule = DD_SCHEDULE_LINEAR,
                                                  .max_grad_norm = 1.0};

static void check_losses(struct golden *golden, const struct dd_optimizer_spec *spec, const double *want,
                         struct dd_team *team) {
    struct dd_error err;
    struct dd_params *grads = NULL;
    struct dd_bert *bert = NULL;
    struct dd_optimizer *optimizer = NULL;
    const struct dd_dropout off = {0};
    must(dd_params_new(&golden->config, &grads, &err), &err);
    must(dd_bert_new(&golden->config, 256, 64, 20, true, DD_PRECISION_FP32, team, &bert, &err), &err);
    must(dd_optimizer_new(spec, golden->params, &golden->config, GOLDEN_STEPS, team, &optimizer, &err), &err);
    float *saved = dd_calloc(golden->params->count, sizeof(float));
    memcpy(saved, golden->params->slab, golden->params->count * sizeof(float));
    for (int step = 0; step < GOLDEN_STEPS; step++) {
        float logits[512], dlogits[512];
        int n_touched;
        double lr;
        dd_optimizer_refresh(optimizer, golden->ids, golden->batch.n_tokens);
        dd_bert_forward(bert, golden->params, &golden->batch, &off, logits);
        struct dd_loss loss = dd_distill_loss(logits, NULL, golden->labels, golden->batch.n_sequences,
                                              golden->config.n_labels, 1.0, 0.0, dlogits);
        if (!(fabs(loss.total - want[step]) <= 1e-5)) {
            fail_msg("step %d: loss %.9g, not %.9g", step, loss.total, want[step]);
        }
        dd_bert_backward(bert, golden->params, &golden->batch, &off, dlogits, grads);
        const int32_t *touched = dd_bert_touched(bert, &n_touched);
        dd_optimizer_step(optimizer, grads, touched, n_touched, &lr);
    }
    memcpy(golden->params->slab, saved, golden->params->count * sizeof(float));
    free(saved);
    dd_optimizer_free(optimizer);
    dd_bert_free(bert);
    dd_params_free(grads);
}

static void test_twenty_losses(void **state) {
    (void)state;
    struct cores cores = cores_new(2);
    for (size_t i = 0; i < DD_ARRAY_LEN(golden_cases); i++) {
        struct golden golden = {0};
        golden_load(&golden, golden_cases[i]);
        check_losses(&golden, &adamw_spec, golden.adamw, cores.team);
        check_losses(&golden, &sgd_spec, golden.sgd, cores.team);
        golden_release(&golden);
    }
    cores_free(&cores);
}

/* One step on made-up gradients, worked out in double. */
static void test_one_step(void **state) {
    (void)state;
    struct cores cores = cores_new(1);
    struct golden golden = {0};
    golden_load(&golden, "one_head");
    struct dd_optimizer_spec spec = adamw_spec;
    spec.warmup = 0.0;
    spec.max_grad_norm = 0.5;
    struct dd_error err;
    struct dd_optimizer *optimizer = NULL;
    must(dd_optimizer_new(&spec, golden.params, &golden.config, 10, cores.team, &optimizer, &err), &err);
    const struct dd_tensor *word = dd_params_find(golden.params, "bert.embeddings.word_embeddings.weight");
    const struct dd_tensor *bias = dd_params_find(golden.params, "classifier.bias");
    const struct dd_tensor *weight = dd_params_find(golden.params, "classifier.weight");
    memset(golden.grads->slab, 0, golden.grads->count * sizeof(float));
    golden.grads->slab[bias->offset] = 3.0f;
    golden.grads->slab[weight->offset] = 4.0f;
    golden.grads->slab[word->offset + 5 * word->shape[1]] = 100.0f; /* not named as touched: does not count */
    double p_bias = (double)golden.params->slab[bias->offset], p_weight = (double)golden.params->slab[weight->offset],
           lr;
    double norm = dd_optimizer_step(optimizer, golden.grads, NULL, 0, &lr);
    assert_float_equal(norm, 5.0, 1e-9);
    assert_float_equal(lr, 2e-3, 1e-12);
    /* In the first step m / (1 - β1) = g and √(v / (1 - β2)) = |g|: the step is lr, whatever the clip. */
    assert_float_equal(golden.params->slab[bias->offset], p_bias - 2e-3, 1e-6);
    assert_float_equal(golden.params->slab[weight->offset], p_weight * (1.0 - 2e-5) - 2e-3, 1e-6);
    float *first, *second;
    assert_int_equal(dd_optimizer_state(optimizer, &first, &second), 1);
    assert_float_equal(first[bias->offset], 0.1 * 0.3, 1e-6); /* 3 clipped by 0.5 / 5 */
    assert_float_equal(second[weight->offset], 0.001 * 0.16, 1e-7);
    dd_optimizer_free(optimizer);
    golden_release(&golden);
    cores_free(&cores);
}

static void test_gradients_that_are_not_finite(void **state) {
    (void)state;
    struct cores cores = cores_new(1);
    struct golden golden = {0};
    golden_load(&golden, "one_head");
    struct dd_error err;
    struct dd_optimizer *optimizer = NULL;
    must(dd_optimizer_new(&adamw_spec, golden.params, &golden.config, 10, cores.team, &optimizer, &err), &err);
    float *before = dd_calloc(golden.params->count, sizeof(float)), *first, *second;
    memcpy(before, golden.params->slab, golden.params->count * sizeof(float));
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < DD_ARRAY_LEN(poison); i++) {
        double lr;
        golden.grads->slab[golden.params->count / 2] = poison[i];
        const struct dd_tensor *bias = dd_params_find(golden.params, "classifier.bias");
        golden.grads->slab[bias->offset] = poison[i];
        assert_false(isfinite(dd_optimizer_step(optimizer, golden.grads, NULL, 0, &lr)));
        assert_int_equal(dd_optimizer_state(optimizer, &first, &second), (int64_t)i + 1);
    }
    dd_optimizer_flush(optimizer);
    assert_memory_equal(before, golden.params->slab, golden.params->count * sizeof(float));
    free(before);
    dd_optimizer_free(optimizer);
    golden_release(&golden);
    cores_free(&cores);
}

static void test_schedules(void **state) {
    (void)state;
    struct cores cores = cores_new(1);
    struct golden golden = {0};
    golden_load(&golden, "one_head");
    static const enum dd_schedule schedules[] = {DD_SCHEDULE_LINEAR, DD_SCHEDULE_COSINE, DD_SCHEDULE_CONSTANT};
    /* At steps 0, 5, 10, 55, 100 and 1000 of 100, warm-up 10, peak 1. */
    static const int64_t at[] = {0, 5, 10, 55, 100, 1000};
    static const double want[3][6] = {{0, 0.5, 1, 0.5, 0, 0}, {0, 0.5, 1, 0.5, 0, 0}, {0, 0.5, 1, 1, 1, 1}};
    for (size_t i = 0; i < DD_ARRAY_LEN(schedules); i++) {
        struct dd_optimizer_spec spec = adamw_spec;
        spec.lr = 1.0;
        spec.warmup = 0.1;
        spec.schedule = schedules[i];
        struct dd_error err;
        struct dd_optimizer *optimizer = NULL;
        must(dd_optimizer_new(&spec, golden.params, &golden.config, 100, cores.team, &optimizer, &err), &err);
        for (size_t j = 0; j < DD_ARRAY_LEN(at); j++) {
            assert_float_equal(dd_optimizer_lr(optimizer, at[j]), want[i][j], 1e-12);
            assert_true(dd_optimizer_lr(optimizer, at[j]) >= 0.0);
        }
        dd_optimizer_free(optimizer);
    }
    golden_release(&golden);
    cores_free(&cores);
}

/* How far one step of plain SGD, with every gradient 1, moves a tensor; -1 where it moves unevenly. */
static double moved(const struct golden *golden, const float *before, const char *name) {
    const struct dd_tensor *tensor = dd_params_find(golden->params, name);
    const float *now = golden->params->slab + tensor->offset, *then = before + tensor->offset;
    double step = (double)then[0] - (double)now[0];
    for (size_t i = 0; i < tensor->count; i++) {
        if (fabs((double)then[i] - (double)now[i] - step) > 1e-6) {
            return -1;
        }
    }
    return step;
}

/* lr by depth, what is frozen, and the average after one step, all from one step with gradients of 1. */
static void test_depth_freezing_and_average(void **state) {
    (void)state;
    struct cores cores = cores_new(2);
    for (int frozen = 0; frozen < 2; frozen++) {
        struct golden golden = {0};
        golden_load(&golden, "two_heads_pairs");
        struct dd_optimizer_spec spec = {.type = DD_OPTIMIZER_SGD,
                                         .lr = 0.5,
                                         .schedule = DD_SCHEDULE_CONSTANT,
                                         .layer_lr_decay = 0.5,
                                         .ema = 0.9,
                                         .freeze_embeddings = frozen ? DD_FLAG_YES : DD_FLAG_NO};
        struct dd_error err;
        struct dd_optimizer *optimizer = NULL;
        must(dd_optimizer_new(&spec, golden.params, &golden.config, 10, cores.team, &optimizer, &err), &err);
        size_t count = golden.params->count;
        float *before = dd_calloc(count, sizeof(float));
        memcpy(before, golden.params->slab, count * sizeof(float));
        int32_t *every = dd_calloc((size_t)golden.config.vocab_size, sizeof *every);
        for (int row = 0; row < golden.config.vocab_size; row++) {
            every[row] = row;
        }
        for (size_t i = 0; i < count; i++) {
            golden.grads->slab[i] = 1.0f;
        }
        double lr, norm = dd_optimizer_step(optimizer, golden.grads, every, golden.config.vocab_size, &lr);
        dd_optimizer_flush(optimizer);
        uint64_t trained = 0;
        for (int t = 0; t < golden.params->n_tensors; t++) {
            bool embedding = strncmp(golden.params->tensors[t].name, "bert.embeddings.", 16) == 0;
            trained += embedding && frozen ? 0 : golden.params->tensors[t].count;
        }
        assert_float_equal(norm, sqrt((double)trained), 1e-3);
        char top[64];
        int layers = golden.config.layers;
        snprintf(top, sizeof top, "bert.encoder.layer.%d.output.dense.weight", layers - 1);
        assert_float_equal(moved(&golden, before, "classifier.weight"), 0.5, 1e-6);
        assert_float_equal(moved(&golden, before, "bert.pooler.dense.bias"), 0.5, 1e-6);
        assert_float_equal(moved(&golden, before, top), 0.25, 1e-6);
        assert_float_equal(moved(&golden, before, "bert.encoder.layer.0.attention.self.query.weight"),
                           0.5 * pow(0.5, layers), 1e-6);
        double deepest = frozen ? 0.0 : 0.5 * pow(0.5, layers + 1);
        assert_float_equal(moved(&golden, before, "bert.embeddings.word_embeddings.weight"), deepest, 1e-6);
        assert_float_equal(moved(&golden, before, "bert.embeddings.LayerNorm.weight"), deepest, 1e-6);
        /* The decay of the first step is 2 / 11: the average is 9 / 11 of the way to the new weights. */
        const float *average = dd_optimizer_average(optimizer);
        for (size_t i = 0; i < count; i++) {
            double then = (double)before[i], now = (double)golden.params->slab[i];
            assert_float_equal(average[i], then + 9.0 / 11.0 * (now - then), 1e-6);
        }
        free(before);
        free(every);
        dd_optimizer_free(optimizer);
        golden_release(&golden);
    }
    cores_free(&cores);
}

static void test_bytes(void **state) {
    (void)state;
    struct dd_optimizer_spec spec = sgd_spec;
    assert_true(dd_optimizer_bytes(&adamw_spec, 1000000, 0) >= 8000000);
    assert_in_range(dd_optimizer_bytes(&spec, 1000000, 0), 4000000, 5000000);
    spec.momentum = 0.0;
    assert_in_range(dd_optimizer_bytes(&spec, 1000000, 0), 0, 1000000);
    spec.ema = 0.9;
    assert_in_range(dd_optimizer_bytes(&spec, 1000000, 0), 4000000, 5000000);
    assert_int_equal(dd_optimizer_bytes(&adamw_spec, 1000000, 0) - dd_optimizer_bytes(&adamw_spec, 1000000, 400000),
                     2 * 4 * 400000);
    assert_int_equal(dd_optimizer_bytes(&adamw_spec, SIZE_MAX / 2, 0), SIZE_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twenty_losses),
        cmocka_unit_test(test_one_step),
        cmocka_unit_test(test_gradients_that_are_not_finite),
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_depth_freezing_and_average),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
