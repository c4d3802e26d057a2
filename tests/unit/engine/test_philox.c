/* Random numbers: the published vectors of Random123, and what the functions on top of them promise. */
#include "core_fixture.h"

#include "engine/philox.h"
#include "engine/simd.h"

static void test_vectors_of_random123(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(vectors); i++) {
        uint32_t out[4];
        dd_philox_block(vectors[i].counter, vectors[i].key, out);
        assert_memory_equal(out, vectors[i].out, sizeof out);
    }
}

static void test_every_field_of_the_counter_counts(void **state) {
    (void)state;
    const struct dd_stream base = {.seed = 1, .purpose = 2, .tensor = 3, .step = 4};
    struct dd_stream other[6] = {base, base, base, base, base, base};
    other[0].seed += (uint64_t)1 << 40;
    other[1].purpose++;
    other[2].tensor++;
    other[3].step++;
    other[4].step += (uint64_t)1 << 40;
    uint32_t reference[4], out[4];
    dd_philox(&base, 5, reference);
    for (int i = 0; i < 5; i++) {
        dd_philox(&other[i], 5, out);
        assert_memory_not_equal(out, reference, sizeof out);
    }
    dd_philox(&base, 5 + ((uint64_t)1 << 40), out);
    assert_memory_not_equal(out, reference, sizeof out);
    dd_philox(&base, 5, out);
    assert_memory_equal(out, reference, sizeof out);
}

static void test_normal(void **state) {
    (void)state;
    enum { N = 200000 };
    const struct dd_stream stream = {.seed = 9, .purpose = DD_PURPOSE_INIT};
    float *values = dd_calloc(N, sizeof *values);
    double sum = 0.0, square = 0.0, fourth = 0.0;
    dd_random_normal(&stream, 0, N, 0.5f, values);
    for (size_t i = 0; i < N; i++) {
        double x = (double)values[i] / 0.5;
        sum += x;
        square += x * x;
        fourth += x * x * x * x;
    }
    assert_true(fabs(sum / N) < 0.01);
    assert_true(fabs(square / N - 1.0) < 0.02);
    assert_true(fabs(fourth / N - 3.0) < 0.15);
    /* A value is a function of its position, wherever the run begins. */
    for (size_t first = 1; first < 6; first++) {
        float part[7];
        dd_random_normal(&stream, first, 7, 0.5f, part);
        assert_memory_equal(part, values + first, sizeof part);
    }
    free(values);
}

static void test_below_is_in_range_and_even(void **state) {
    (void)state;
    const struct dd_stream stream = {.seed = 3, .purpose = DD_PURPOSE_SPLIT};
    int count[7] = {0};
    for (uint64_t i = 0; i < 70000; i++) {
        uint64_t x = dd_random_below(&stream, i, 7);
        assert_true(x < 7);
        count[x]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_in_range(count[i], 9600, 10400);
    }
    /* Half of all words are refused here, so the other words of a block are used, too. */
    uint64_t bound = ((uint64_t)1 << 63) + 1;
    int low = 0;
    for (uint64_t i = 0; i < 4000; i++) {
        uint64_t x = dd_random_below(&stream, i, bound);
        assert_true(x < bound);
        low += x < bound / 2 ? 1 : 0;
    }
    assert_in_range(low, 1850, 2150);
    assert_int_equal(dd_random_below(&stream, 0, 1), 0);
}

static void test_permutation(void **state) {
    (void)state;
    enum { N = 1000 };
    uint32_t order[N], again[N], other[N];
    bool seen[N] = {false};
    struct dd_stream stream = {.seed = 11, .purpose = DD_PURPOSE_SHUFFLE, .step = 1};
    dd_random_permutation(&stream, order, N);
    dd_random_permutation(&stream, again, N);
    stream.step = 2;
    dd_random_permutation(&stream, other, N);
    assert_memory_equal(order, again, sizeof order);
    assert_memory_not_equal(order, other, sizeof order);
    int fixed = 0;
    for (int i = 0; i < N; i++) {
        assert_true(order[i] < N && !seen[order[i]]);
        seen[order[i]] = true;
        fixed += order[i] == (uint32_t)i ? 1 : 0;
    }
    assert_true(fixed < 10);
    dd_random_permutation(&stream, other, 1);
    assert_int_equal(other[0], 0);
    dd_random_permutation(&stream, other, 0);
}

/* The vector kernel against the generator, decision by decision. */
static void test_masks(void **state) {
    (void)state;
    const struct dd_dropout dropout = {.on = true, .seed = 0xfeedfacecafe, .step = ((uint64_t)3 << 32) + 5};
    struct dd_mask mask = dd_mask_new(&dropout, 0.1, 17);
    assert_int_equal(mask.threshold, 6554);
    assert_true(fabs((double)mask.scale * (65536 - 6554) - 65536) < 0.01);
    enum { GROUPS = 500 };
    static uint16_t words[GROUPS * DD_MASK_GROUP_WORDS];
    uint64_t first = ((uint64_t)1 << 28) - 3; /* over a carry into the counter's second word */
    dd_simd()->mask(&mask, first, GROUPS, words);
    int kept = 0;
    for (uint64_t g = 0; g < GROUPS; g++) {
        for (uint64_t lane = 0; lane < 16; lane++) {
            uint32_t out[4];
            dd_philox(&mask.stream, (first + g) * 16 + lane, out);
            for (size_t w = 0; w < 8; w++) {
                uint32_t half = w % 2 == 0 ? out[w / 2] & 0xffff : out[w / 2] >> 16;
                bool bit = (words[g * 8 + w] >> lane & 1) != 0;
                assert_int_equal(bit, half >= mask.threshold);
                kept += bit ? 1 : 0;
            }
        }
    }
    assert_true(fabs(kept / (GROUPS * 128.0) - 0.9) < 0.006);
    assert_int_equal(dd_mask_new(&(struct dd_dropout){.on = false}, 0.5, 1).threshold, 0);
    assert_int_equal(dd_mask_new(&dropout, 0.0, 1).threshold, 0);
}

static void test_new_weights(void **state) {
    (void)state;
    const struct dd_bert_config config = {.vocab_size = 300,
                                          .hidden_size = 48,
                                          .layers = 2,
                                          .heads = 3,
                                          .intermediate_size = 96,
                                          .max_positions = 32,
                                          .type_vocab_size = 2,
                                          .n_labels = 3,
                                          .pad_token_id = 4,
                                          .hidden_act = "gelu",
                                          .layer_norm_eps = 1e-12,
                                          .initializer_range = 0.02,
                                          .classifier_dropout = NAN};
    struct dd_params *params = NULL, *head = NULL;
    struct dd_error err;
    must(dd_params_new(&config, &params, &err), &err);
    must(dd_params_new(&config, &head, &err), &err);
    dd_params_init(params, &config, 5);
    dd_params_init_head(head, &config, 5, false, true);
    for (int t = 0; t < params->n_tensors; t++) {
        const struct dd_tensor *tensor = &params->tensors[t];
        const float *value = params->slab + tensor->offset;
        bool gain = strstr(tensor->name, "LayerNorm.weight") != NULL, in_head = strstr(tensor->name, "classifier");
        double square = 0.0;
        for (size_t i = 0; i < tensor->count; i++) {
            square += (double)value[i] * (double)value[i];
            if (tensor->rank == 1) {
                assert_true(value[i] == (gain ? 1.0f : 0.0f));
            }
        }
        if (tensor->rank == 2 && tensor->count > 1000) {
            assert_true(fabs(sqrt(square / (double)tensor->count) - 0.02) < 0.001);
        }
        assert_int_equal(memcmp(value, head->slab + tensor->offset, tensor->count * sizeof(float)) == 0,
                         in_head || (tensor->rank == 1 && !gain));
    }
    for (size_t i = 0; i < 48; i++) {
        assert_true(params->slab[4 * 48 + i] == 0.0f && params->slab[3 * 48 + i] != 0.0f);
    }
    dd_params_free(params);
    dd_params_free(head);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_of_random123),
        cmocka_unit_test(test_every_field_of_the_counter_counts),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_below_is_in_range_and_even),
        cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_new_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
