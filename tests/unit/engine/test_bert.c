/* Forward and backward: golden values from transformers, finite differences, and bits that depend on nothing but the
 * spec.
 */
#include "core_fixture.h"

#include <pthread.h>

static void run_once(struct golden *golden, struct dd_team *team, const struct dd_dropout *dropout, float *logits,
                     struct dd_params *grads) {
    struct dd_error err;
    struct dd_bert *bert = NULL;
    must(dd_bert_new(&golden->config, golden->batch.n_tokens, golden->batch.n_sequences, golden->config.max_positions,
                     true, DD_PRECISION_FP32, team, &bert, &err),
         &err);
    dd_bert_forward(bert, golden->params, &golden->batch, dropout, logits);
    dd_bert_backward(bert, golden->params, &golden->batch, dropout, golden->dlogits, grads);
    dd_bert_free(bert);
}

/* The largest |a - b|, as a share of the largest |b|, or of `least` where b is smaller. */
static double relative_error(const float *a, const float *b, size_t n, double least) {
    double most = least, difference = 0.0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)b[i]));
        /* fmax would lose a NaN */
        double d = fabs((double)a[i] - (double)b[i]);
        difference = d <= difference ? difference : d;
    }
    return difference / most;
}

static void test_golden(void **state) {
    (void)state;
    struct cores cores = cores_new(2);
    for (size_t i = 0; i < DD_ARRAY_LEN(golden_cases); i++) {
        struct golden golden = {0};
        golden_load(&golden, golden_cases[i]);
        struct dd_params *grads = NULL;
        struct dd_error err;
        must(dd_params_new(&golden.config, &grads, &err), &err);
        const struct dd_dropout off = {0};
        float logits[512];
        run_once(&golden, cores.team, &off, logits, grads);
        size_t n = (size_t)golden.batch.n_sequences * (size_t)golden.config.n_labels;
        assert_true(relative_error(logits, golden.logits, n, 1.0) <= 1e-5);
        double most = 0.0;
        for (size_t j = 0; j < grads->count; j++) {
            most = fmax(most, fabs((double)golden.grads->slab[j]));
        }
        for (int t = 0; t < grads->n_tensors; t++) {
            const struct dd_tensor *tensor = &grads->tensors[t];
            /* The gradient of a key's bias is 0 in exact arithmetic. */
            double least = strstr(tensor->name, "key.bias") != NULL ? 1e-3 * most : 1e-6 * most;
            double error =
                relative_error(grads->slab + tensor->offset, golden.grads->slab + tensor->offset, tensor->count, least);
            if (!(error <= 1e-4)) {
                fail_msg("%s: gradient of %s is off by %g", golden_cases[i], tensor->name, error);
            }
        }
        dd_params_free(grads);
        golden_release(&golden);
    }
    cores_free(&cores);
}

static double objective(struct dd_bert *bert, struct golden *golden, const struct dd_dropout *dropout) {
    float logits[512];
    double sum = 0.0;
    dd_bert_forward(bert, golden->params, &golden->batch, dropout, logits);
    for (int i = 0; i < golden->batch.n_sequences * golden->config.n_labels; i++) {
        sum += (double)logits[i] * (double)golden->dlogits[i];
    }
    return sum;
}

/* With dropout on: masks are a function of the step, so the objective is one, too.  Along a random direction of each
 * tensor, so that every element of every gradient counts. */
static void check_direction(struct dd_bert *bert, struct golden *golden, const struct dd_dropout *dropout,
                            const struct dd_params *grads, const struct dd_tensor *tensor) {
    float *value = golden->params->slab + tensor->offset;
    float *saved = dd_calloc(tensor->count, sizeof(float)), *direction = dd_calloc(tensor->count, sizeof(float));
    struct dd_stream stream = {.seed = tensor->offset, .purpose = DD_PURPOSE_INIT};
    dd_random_normal(&stream, 0, tensor->count, 1.0f, direction);
    if (strcmp(tensor->name, "bert.embeddings.word_embeddings.weight") == 0) {
        /* [PAD] has no gradient by definition, though it stands in a sequence. */
        size_t width = tensor->shape[1];
        memset(direction + (size_t)golden->config.pad_token_id * width, 0, width * sizeof(float));
    }
    memcpy(saved, value, tensor->count * sizeof(float));
    double expected = 0.0, length = 0.0, side[2];
    for (size_t i = 0; i < tensor->count; i++) {
        expected += (double)direction[i] * (double)grads->slab[tensor->offset + i];
        length += (double)direction[i] * (double)direction[i];
    }
    float h = (float)(4e-3 / sqrt(length));
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < tensor->count; i++) {
            value[i] = saved[i] + (k == 0 ? h : -h) * direction[i];
        }
        side[k] = objective(bert, golden, dropout);
    }
    memcpy(value, saved, tensor->count * sizeof(float));
    free(saved);
    free(direction);
    double slope = (side[0] - side[1]) / (2.0 * (double)h), unit = sqrt(length);
    if (!(fabs(slope - expected) / unit <= 2e-3 + 1e-2 * fabs(expected) / unit)) {
        fail_msg("%s: slope %g, gradient %g, over a length of %g", tensor->name, slope, expected, unit);
    }
}

static void test_finite_differences(void **state) {
    (void)state;
    struct cores cores = cores_new(1);
    for (size_t i = 0; i < 2; i++) { /* relu has kinks */
        struct golden golden = {0};
        golden_load(&golden, golden_cases[i]);
        golden.config.hidden_dropout = 0.1;
        golden.config.attention_dropout = 0.1;
        const struct dd_dropout dropout = {.on = true, .seed = 7, .step = 3};
        struct dd_params *grads = NULL;
        struct dd_bert *bert = NULL;
        struct dd_error err;
        must(dd_params_new(&golden.config, &grads, &err), &err);
        must(dd_bert_new(&golden.config, 256, 64, 20, true, DD_PRECISION_FP32, cores.team, &bert, &err), &err);
        objective(bert, &golden, &dropout);
        dd_bert_backward(bert, golden.params, &golden.batch, &dropout, golden.dlogits, grads);
        for (int t = 0; t < grads->n_tensors; t++) {
            check_direction(bert, &golden, &dropout, grads, &grads->tensors[t]);
        }
        dd_bert_free(bert);
        dd_params_free(grads);
        golden_release(&golden);
    }
    cores_free(&cores);
}

/* --- bits -------------------------------------------------------------------------------------------------------- */

static const struct dd_bert_config training_config = {.vocab_size = 500,
                                                      .hidden_size = 192,
                                                      .layers = 3,
                                                      .heads = 3,
                                                      .intermediate_size = 640,
                                                      .max_positions = 64,
                                                      .type_vocab_size = 2,
                                                      .n_labels = 3,
                                                      .hidden_act = "gelu",
                                                      .layer_norm_eps = 1e-12,
                                                      .initializer_range = 0.02,
                                                      .hidden_dropout = 0.1,
                                                      .attention_dropout = 0.1,
                                                      .classifier_dropout = NAN};

static struct dd_params *train_five_steps(struct dd_team *team, int batch_size) {
    struct dd_error err;
    struct dd_params *params = NULL, *grads = NULL;
    struct dd_bert *bert = NULL;
    struct dd_optimizer *optimizer = NULL;
    const struct dd_optimizer_spec spec = {.type = DD_OPTIMIZER_ADAMW,
                                           .lr = 1e-3,
                                           .weight_decay = 0.01,
                                           .eps = 1e-8,
                                           .beta1 = 0.9,
                                           .beta2 = 0.999,
                                           .max_grad_norm = 1.0};
    must(dd_params_new(&training_config, &params, &err), &err);
    must(dd_params_new(&training_config, &grads, &err), &err);
    must(dd_bert_new(&training_config, 64 * batch_size, batch_size, 64, true, DD_PRECISION_FP32, team, &bert, &err),
         &err);
    must(dd_optimizer_new(&spec, params, &training_config, 50, team, &optimizer, &err), &err);
    dd_params_init(params, &training_config, 42);
    for (uint64_t step = 0; step < 5; step++) {
        struct made made = make_batch(batch_size, 40, 500, step);
        struct dd_dropout dropout = {.on = true, .seed = 42, .step = step};
        float *logits = dd_calloc((size_t)batch_size * 3, sizeof(float));
        float *dlogits = dd_calloc((size_t)batch_size * 3, sizeof(float));
        dd_team_step(team);
        dd_optimizer_refresh(optimizer, made.ids, made.batch.n_tokens);
        dd_bert_forward(bert, params, &made.batch, &dropout, logits);
        struct dd_loss loss = dd_distill_loss(logits, NULL, made.labels, batch_size, 3, 1.0, 0.0, dlogits);
        assert_true(isfinite(loss.total));
        dd_bert_backward(bert, params, &made.batch, &dropout, dlogits, grads);
        int n_touched;
        double lr;
        const int32_t *touched = dd_bert_touched(bert, &n_touched);
        dd_optimizer_step(optimizer, grads, touched, n_touched, &lr);
        free(logits);
        free(dlogits);
        made_free(&made);
    }
    dd_optimizer_flush(optimizer);
    dd_optimizer_free(optimizer);
    dd_bert_free(bert);
    dd_params_free(grads);
    return params;
}

static void assert_same_bits(const struct dd_params *a, const struct dd_params *b) {
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->slab, b->slab, a->count * sizeof(float));
}

/* Few sequences take attention head by head, many sequence by sequence: both ways. */
static void test_bits_do_not_depend_on_threads(void **state) {
    (void)state;
    static const int batch_sizes[] = {3, 40};
    for (size_t i = 0; i < DD_ARRAY_LEN(batch_sizes); i++) {
        struct cores alone = cores_new(1);
        struct dd_params *reference = train_five_steps(alone.team, batch_sizes[i]);
        cores_free(&alone);
        static const int threads[] = {2, 4, 7};
        for (size_t j = 0; j < DD_ARRAY_LEN(threads); j++) {
            struct cores cores = cores_new(threads[j]);
            struct dd_params *params = train_five_steps(cores.team, batch_sizes[i]);
            assert_same_bits(reference, params);
            dd_params_free(params);
            cores_free(&cores);
        }
        dd_params_free(reference);
    }
}

struct neighbour {
    struct dd_pool *pool;
    struct dd_params *params;
    pthread_t thread;
};

static void *neighbour_main(void *argument) {
    struct neighbour *neighbour = argument;
    struct dd_error err;
    struct dd_team *team = NULL;
    if (dd_team_join(neighbour->pool, &team, &err) == DD_OK) {
        neighbour->params = train_five_steps(team, 40);
        dd_team_leave(team);
    }
    return NULL;
}

static void test_bits_do_not_depend_on_neighbours(void **state) {
    (void)state;
    struct cores alone = cores_new(1);
    struct dd_params *reference = train_five_steps(alone.team, 40);
    cores_free(&alone);
    struct dd_pool *pool = NULL;
    struct dd_error err;
    must(dd_pool_new(4, &pool, &err), &err);
    struct neighbour neighbours[3];
    for (size_t i = 0; i < DD_ARRAY_LEN(neighbours); i++) {
        neighbours[i] = (struct neighbour){.pool = pool};
        assert_int_equal(pthread_create(&neighbours[i].thread, NULL, neighbour_main, &neighbours[i]), 0);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(neighbours); i++) {
        pthread_join(neighbours[i].thread, NULL);
        assert_non_null(neighbours[i].params);
        assert_same_bits(reference, neighbours[i].params);
        dd_params_free(neighbours[i].params);
    }
    dd_pool_free(pool);
    dd_params_free(reference);
}

/* --- what is refused ---------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    struct cores cores = cores_new(1);
    struct dd_error err;
    struct dd_bert *bert = NULL;
    struct dd_bert_config config = training_config;
    assert_int_equal(dd_bert_new(&config, 10, 1, 65, true, DD_PRECISION_FP32, cores.team, &bert, &err), DD_INVALID);
    assert_string_equal(err.code, "max_length_out_of_range");
    assert_int_equal(dd_bert_new(&config, 10, 11, 64, true, DD_PRECISION_FP32, cores.team, &bert, &err), DD_INVALID);
    config.heads = 5;
    assert_int_equal(dd_bert_new(&config, 10, 1, 64, true, DD_PRECISION_FP32, cores.team, &bert, &err), DD_INVALID);
    config = training_config;
    strcpy(config.hidden_act, "swish");
    assert_int_equal(dd_bert_new(&config, 10, 1, 64, true, DD_PRECISION_FP32, cores.team, &bert, &err), DD_UNSUPPORTED);
    assert_string_equal(err.code, "activation_unsupported");
    if (!dd_engine_has_bf16()) {
        config = training_config;
        assert_int_equal(dd_bert_new(&config, 10, 1, 64, true, DD_PRECISION_BF16, cores.team, &bert, &err),
                         DD_UNSUPPORTED);
        assert_string_equal(err.code, "precision_unsupported");
    }
    assert_null(bert);
    cores_free(&cores);
}

static void test_flops(void **state) {
    (void)state;
    struct dd_bert_config config = training_config;
    const int32_t offsets[] = {0, 10, 14};
    const struct dd_batch batch = {.n_sequences = 2, .n_tokens = 14, .offsets = offsets};
    double layer = 14 * 2.0 * (4.0 * 192 * 192 + 2.0 * 192 * 640) + 4.0 * (100 + 16) * 192;
    double last = 14 * 4.0 * 192 * 192 + 2 * 2.0 * (2.0 * 192 * 192 + 2.0 * 192 * 640) + 4.0 * 14 * 192;
    double head = 2 * 2.0 * 192 * (192 + 3);
    assert_float_equal(dd_bert_flops(&config, &batch, false), 2 * layer + last + head, 1.0);
    assert_float_equal(dd_bert_flops(&config, &batch, true), 3 * (2 * layer + last + head), 1.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_bits_do_not_depend_on_neighbours),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_flops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
