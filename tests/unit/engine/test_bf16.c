/* Products in bfloat16: the conversion's and the product's definition, closeness to fp32, and bits that depend on
 * nothing but the spec.  Skipped, but for the conversion, where the machine has no bf16.
 */
#include "core_fixture.h"

#include "engine/blas.h"
#include "engine/simd.h"

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void test_conversion(void **state) {
    (void)state;
    static const struct {
        uint32_t from;
        uint16_t to;
    } known[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80},
        {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, /* ties to even */
        {0x3f807fff, 0x3f80}, {0x3f808001, 0x3f81}, {0xbf808001, 0xbf81},
        {0x7f7fffff, 0x7f80}, {0x7f7f7fff, 0x7f7f}, {0x7f800000, 0x7f80},
        {0xff800000, 0xff80}, {0x7f800001, 0x7fc0}, {0xffc12345, 0xffc1}, /* NaNs stay NaNs */
        {0x00000001, 0x0000}, {0x00018000, 0x0002}, {0x007fffff, 0x0080}, /* subnormals are numbers */
    };
    float from[DD_ARRAY_LEN(known) * 5];
    uint16_t to[DD_ARRAY_LEN(from)];
    for (size_t i = 0; i < DD_ARRAY_LEN(from); i++) {
        from[i] = from_bits(known[i % DD_ARRAY_LEN(known)].from);
    }
    dd_simd()->to_bf16(DD_ARRAY_LEN(from), from, to);
    for (size_t i = 0; i < DD_ARRAY_LEN(from); i++) {
        assert_int_equal(to[i], known[i % DD_ARRAY_LEN(known)].to);
    }
}

static void needs_bf16(void) {
    if (!dd_engine_has_bf16()) {
        print_message("no bf16 on this machine\n");
        skip();
    }
}

/* Against sums in double, over edges, all orientations and += */
static void test_product(void **state) {
    (void)state;
    needs_bf16();
    static const int shapes[][3] = {{1, 1, 1}, {7, 5, 3}, {64, 48, 32}, {33, 129, 77}, {130, 50, 301}};
    for (size_t s = 0; s < DD_ARRAY_LEN(shapes) * 8; s++) {
        const int *shape = shapes[s / 8];
        size_t m = (size_t)shape[0], n = (size_t)shape[1], k = (size_t)shape[2];
        bool a_transposed = (s & 1) != 0, b_transposed = (s & 2) != 0, add = (s & 4) != 0;
        float *a = dd_calloc(m * k, sizeof(float)), *b = dd_calloc(k * n, sizeof(float));
        float *c = dd_calloc(m * n, sizeof(float));
        uint16_t *a16 = dd_calloc(m * k, sizeof(uint16_t)), *b16 = dd_calloc(k * n, sizeof(uint16_t));
        struct dd_stream stream = {.seed = s, .purpose = DD_PURPOSE_INIT};
        dd_random_normal(&stream, 0, m * k, 1.0f, a);
        dd_random_normal(&stream, m * k, k * n, 1.0f, b);
        for (size_t i = 0; i < m * n; i++) {
            c[i] = 0.5f;
        }
        dd_simd()->to_bf16(m * k, a, a16);
        dd_simd()->to_bf16(k * n, b, b16);
        dd_bf16_gemm(a_transposed, b_transposed, (int)m, (int)n, (int)k, a16, (int)(a_transposed ? m : k), b16,
                     (int)(b_transposed ? k : n), add ? 1.0f : 0.0f, c, (int)n);
        for (size_t i = 0; i < m * n; i++) {
            double sum = add ? 0.5 : 0.0, size = 1.0;
            for (size_t l = 0; l < k; l++) {
                size_t row = i / n, column = i % n;
                double x = from_bits((uint32_t)a16[a_transposed ? l * m + row : row * k + l] << 16);
                double y = from_bits((uint32_t)b16[b_transposed ? column * k + l : l * n + column] << 16);
                sum += x * y;
                size += fabs(x * y);
            }
            assert_true(fabs((double)c[i] - sum) <= 1e-6 * size);
        }
        free(a);
        free(b);
        free(c);
        free(a16);
        free(b16);
    }
}

/* --- a model --------------------------------------------------------------------------------------------------------
 */

static struct dd_bert_config make_config(int hidden, int layers, int heads, int inner) {
    return (struct dd_bert_config){.vocab_size = 500,
                                   .hidden_size = hidden,
                                   .layers = layers,
                                   .heads = heads,
                                   .intermediate_size = inner,
                                   .max_positions = 64,
                                   .type_vocab_size = 2,
                                   .n_labels = 3,
                                   .hidden_act = "gelu",
                                   .layer_norm_eps = 1e-12,
                                   .initializer_range = 0.05,
                                   .hidden_dropout = 0.1,
                                   .attention_dropout = 0.1,
                                   .classifier_dropout = NAN};
}

struct pass {
    float logits[256];
    struct dd_params *grads;
};

static struct pass run_pass(const struct dd_bert_config *config, const struct dd_params *params,
                            const struct made *made, enum dd_precision precision) {
    struct cores cores = cores_new(2);
    struct dd_error err;
    struct dd_bert *bert = NULL;
    struct pass pass = {0};
    float dlogits[256];
    const struct dd_dropout dropout = {.on = true, .seed = 7, .step = 3};
    must(dd_params_new(config, &pass.grads, &err), &err);
    must(dd_bert_new(config, made->batch.n_tokens + 3, made->batch.n_sequences, 64, true, precision, cores.team, &bert,
                     &err),
         &err);
    dd_bert_forward(bert, params, &made->batch, &dropout, pass.logits);
    for (size_t i = 0; i < DD_ARRAY_LEN(dlogits); i++) {
        dlogits[i] = (float)((int)(i * 7 % 11) - 5) * 0.1f;
    }
    dd_bert_backward(bert, params, &made->batch, &dropout, dlogits, pass.grads);
    dd_bert_free(bert);
    cores_free(&cores);
    return pass;
}

static void test_close_to_fp32(void **state) {
    (void)state;
    needs_bf16();
    static const struct {
        int hidden, layers, heads, inner, batch, longest;
    } cases[] = {{64, 1, 1, 128, 5, 20}, {96, 2, 3, 200, 17, 33}, {768, 3, 3, 3072, 8, 24}, {256, 4, 4, 1024, 16, 60}};
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        struct dd_bert_config config = make_config(cases[i].hidden, cases[i].layers, cases[i].heads, cases[i].inner);
        struct dd_params *params = NULL;
        struct dd_error err;
        must(dd_params_new(&config, &params, &err), &err);
        dd_params_init(params, &config, 42 + i);
        struct made made = make_batch(cases[i].batch, cases[i].longest, 500, i);
        struct pass full = run_pass(&config, params, &made, DD_PRECISION_FP32);
        struct pass half = run_pass(&config, params, &made, DD_PRECISION_BF16);
        double most = 0.0, difference = 0.0;
        for (int j = 0; j < cases[i].batch * 3; j++) {
            most = fmax(most, fabs((double)full.logits[j]));
            double d = fabs((double)full.logits[j] - (double)half.logits[j]);
            difference = d <= difference ? difference : d; /* fmax would lose a NaN */
        }
        print_message("%d x %d: logits differ by %.4f of the largest", cases[i].layers, cases[i].hidden,
                      difference / most);
        assert_true(difference > 0.0 && difference <= 2e-2 * most);
        double least = 1.0;
        for (int t = 0; t < params->n_tensors; t++) {
            const struct dd_tensor *tensor = &params->tensors[t];
            const float *x = full.grads->slab + tensor->offset, *y = half.grads->slab + tensor->offset;
            if (strstr(tensor->name, "key.bias") != NULL) {
                continue; /* 0 in exact arithmetic: nothing but rounding */
            }
            double xx = 0.0, yy = 0.0, xy = 0.0;
            for (size_t j = 0; j < tensor->count; j++) {
                xx += (double)x[j] * (double)x[j];
                yy += (double)y[j] * (double)y[j];
                xy += (double)x[j] * (double)y[j];
            }
            double cosine = xy / sqrt(xx * yy);
            if (!(cosine > 0.999 && fabs(sqrt(yy / xx) - 1.0) < 0.02)) {
                fail_msg("%s: cosine %.6f, length %.4f of fp32's", tensor->name, cosine, sqrt(yy / xx));
            }
            least = fmin(least, cosine);
        }
        print_message(", gradients' least cosine %.6f\n", least);
        dd_params_free(full.grads);
        dd_params_free(half.grads);
        dd_params_free(params);
        made_free(&made);
    }
}

/* --- bits -----------------------------------------------------------------------------------------------------------
 */

static struct dd_params *train_five_steps(int threads, int batch_size) {
    struct cores cores = cores_new(threads);
    struct dd_bert_config config = make_config(192, 3, 3, 640);
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
    must(dd_params_new(&config, &params, &err), &err);
    must(dd_params_new(&config, &grads, &err), &err);
    must(dd_bert_new(&config, 64 * batch_size, batch_size, 64, true, DD_PRECISION_BF16, cores.team, &bert, &err), &err);
    must(dd_optimizer_new(&spec, params, &config, 50, cores.team, &optimizer, &err), &err);
    dd_params_init(params, &config, 42);
    for (uint64_t step = 0; step < 5; step++) {
        struct made made = make_batch(batch_size, 40, 500, step);
        struct dd_dropout dropout = {.on = true, .seed = 42, .step = step};
        float logits[128 * 3], dlogits[128 * 3];
        dd_team_step(cores.team);
        dd_optimizer_refresh(optimizer, made.ids, made.batch.n_tokens);
        dd_bert_forward(bert, params, &made.batch, &dropout, logits);
        struct dd_loss loss = dd_distill_loss(logits, NULL, made.labels, batch_size, 3, 1.0, 0.0, dlogits);
        assert_true(isfinite(loss.total));
        dd_bert_backward(bert, params, &made.batch, &dropout, dlogits, grads);
        int n_touched;
        double lr;
        const int32_t *touched = dd_bert_touched(bert, &n_touched);
        dd_optimizer_step(optimizer, grads, touched, n_touched, &lr);
        made_free(&made);
    }
    dd_optimizer_flush(optimizer);
    dd_optimizer_free(optimizer);
    dd_bert_free(bert);
    dd_params_free(grads);
    cores_free(&cores);
    return params;
}

static void test_bits_do_not_depend_on_threads(void **state) {
    (void)state;
    needs_bf16();
    static const int batch_sizes[] = {3, 40}, threads[] = {1, 2, 4};
    for (size_t i = 0; i < DD_ARRAY_LEN(batch_sizes); i++) {
        struct dd_params *reference = train_five_steps(1, batch_sizes[i]);
        for (size_t j = 0; j < DD_ARRAY_LEN(threads); j++) {
            struct dd_params *params = train_five_steps(threads[j], batch_sizes[i]);
            assert_int_equal(reference->count, params->count);
            assert_memory_equal(reference->slab, params->slab, params->count * sizeof(float));
            dd_params_free(params);
        }
        dd_params_free(reference);
    }
}

static void test_memory_is_counted(void **state) {
    (void)state;
    struct dd_bert_config config = make_config(192, 3, 3, 640);
    size_t full = dd_bert_bytes(&config, 1000, 10, 64, true, DD_PRECISION_FP32);
    size_t half = dd_bert_bytes(&config, 1000, 10, 64, true, DD_PRECISION_BF16);
    size_t weights = 3 * (4 * 192 * 192 + 2 * 192 * 640) * sizeof(uint16_t);
    assert_in_range(half - full, weights + 2 * 1000 * 640 * sizeof(uint16_t),
                    weights + 2 * 1000 * 641 * sizeof(uint16_t));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversion),        cmocka_unit_test(test_product),
        cmocka_unit_test(test_close_to_fp32),     cmocka_unit_test(test_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_memory_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
