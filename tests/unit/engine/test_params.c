/* The slab's layout: order, alignment, q/k/v without gaps, decay, and the refusal of shapes out of bounds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model.h"

static const struct dd_bert_config base = {
    .vocab_size = 11,
    .hidden_size = 6,
    .layers = 2,
    .heads = 3,
    .intermediate_size = 9,
    .max_positions = 7,
    .type_vocab_size = 2,
    .n_labels = 3,
    .hidden_act = "gelu",
    .layer_norm_eps = 1e-12,
    .initializer_range = 0.02,
    .hidden_dropout = 0.1,
    .attention_dropout = 0.1,
    .classifier_dropout = NAN,
};

static struct dd_params *make(const struct dd_bert_config *config) {
    struct dd_params *params = NULL;
    struct dd_error err;
    if (dd_params_new(config, &params, &err) != DD_OK) {
        fail_msg("%s", err.message);
    }
    return params;
}

static void test_order(void **state) {
    (void)state;
    static const char *const first[] = {
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.embeddings.LayerNorm.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.self.key.weight",
        "bert.encoder.layer.0.attention.self.value.weight",
        "bert.encoder.layer.0.attention.self.query.bias",
        "bert.encoder.layer.0.attention.self.key.bias",
        "bert.encoder.layer.0.attention.self.value.bias",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.0.attention.output.dense.bias",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.bias",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.layer.0.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.weight",
        "bert.encoder.layer.0.output.dense.bias",
        "bert.encoder.layer.0.output.LayerNorm.weight",
        "bert.encoder.layer.0.output.LayerNorm.bias",
        "bert.encoder.layer.1.attention.self.query.weight",
    };
    static const char *const last[] = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight",
                                       "classifier.bias"};
    struct dd_params *params = make(&base);
    assert_int_equal(params->n_tensors, 5 + 2 * 16 + 4);
    for (size_t i = 0; i < DD_ARRAY_LEN(first); i++) {
        assert_string_equal(params->tensors[i].name, first[i]);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(last); i++) {
        assert_string_equal(params->tensors[params->n_tensors - 4 + (int)i].name, last[i]);
    }
    dd_params_free(params);
}

static void test_places(void **state) {
    (void)state;
    struct dd_params *params = make(&base);
    size_t end = 0;
    uint64_t values = 0;
    for (int i = 0; i < params->n_tensors; i++) {
        const struct dd_tensor *tensor = &params->tensors[i];
        bool follows = strstr(tensor->name, ".key.") != NULL || strstr(tensor->name, ".value.") != NULL;
        assert_int_equal(tensor->count, tensor->shape[0] * (tensor->rank == 2 ? tensor->shape[1] : 1));
        if (follows) {
            assert_int_equal(tensor->offset, end);
        } else {
            assert_int_equal(tensor->offset % DD_PARAM_ALIGN, 0);
            assert_true(tensor->offset >= end && tensor->offset < end + DD_PARAM_ALIGN);
        }
        end = tensor->offset + tensor->count;
        values += tensor->count;
        bool is_vector = strstr(tensor->name, "bias") != NULL || strstr(tensor->name, "LayerNorm") != NULL;
        assert_int_equal(tensor->decay, !is_vector);
        assert_int_equal(tensor->rank, is_vector ? 1 : 2);
        assert_ptr_equal(dd_params_find(params, tensor->name), tensor);
    }
    assert_true(params->count >= end && params->count < end + DD_PARAM_ALIGN && params->count % DD_PARAM_ALIGN == 0);
    assert_int_equal((uintptr_t)params->slab % 64, 0);
    assert_int_equal(dd_params_values(params), values);
    for (size_t i = 0; i < params->count; i++) {
        assert_true(params->slab[i] == 0.0f);
    }
    assert_null(dd_params_find(params, "bert.encoder.layer.2.output.dense.bias"));
    const struct dd_tensor *tensor = dd_params_find(params, "bert.encoder.layer.1.intermediate.dense.weight");
    assert_int_equal(tensor->shape[0], 9);
    assert_int_equal(tensor->shape[1], 6);
    dd_params_free(params);
    dd_params_free(NULL);
}

static void expect_refusal(const struct dd_bert_config *config, enum dd_status status, const char *part) {
    struct dd_params *params = NULL;
    struct dd_error err = {0};
    assert_int_equal(dd_params_new(config, &params, &err), status);
    assert_null(params);
    assert_non_null(strstr(err.message, part));
}

static void test_bounds(void **state) {
    (void)state;
    struct dd_bert_config config;
#define REFUSED(field, value, status, part)                                                                            \
    do {                                                                                                               \
        config = base;                                                                                                 \
        config.field = (value);                                                                                        \
        expect_refusal(&config, (status), (part));                                                                     \
    } while (0)
    REFUSED(vocab_size, 0, DD_INVALID, "vocab_size is 0");
    REFUSED(vocab_size, (1 << 20) + 1, DD_INVALID, "vocab_size");
    REFUSED(hidden_size, -6, DD_INVALID, "hidden_size");
    REFUSED(hidden_size, 16386, DD_INVALID, "hidden_size");
    REFUSED(hidden_size, 7, DD_INVALID, "divide");
    REFUSED(layers, 0, DD_INVALID, "num_hidden_layers");
    REFUSED(layers, 97, DD_INVALID, "num_hidden_layers");
    REFUSED(heads, 0, DD_INVALID, "num_attention_heads");
    REFUSED(intermediate_size, 0, DD_INVALID, "intermediate_size");
    REFUSED(max_positions, 0, DD_INVALID, "max_position_embeddings");
    REFUSED(type_vocab_size, 0, DD_INVALID, "type_vocab_size");
    REFUSED(n_labels, 257, DD_INVALID, "labels");
    REFUSED(n_labels, 0, DD_INVALID, "labels");
    REFUSED(pad_token_id, 11, DD_INVALID, "pad_token_id");
    REFUSED(pad_token_id, -1, DD_INVALID, "pad_token_id");
    REFUSED(layer_norm_eps, 0.0, DD_INVALID, "layer_norm_eps");
    REFUSED(layer_norm_eps, NAN, DD_INVALID, "layer_norm_eps");
    REFUSED(initializer_range, INFINITY, DD_INVALID, "initializer_range");
    REFUSED(hidden_dropout, 1.0, DD_INVALID, "hidden_dropout_prob");
    REFUSED(attention_dropout, -0.1, DD_INVALID, "attention_probs_dropout_prob");
    REFUSED(classifier_dropout, 2.0, DD_INVALID, "classifier_dropout");
#undef REFUSED
    config = base;
    config.vocab_size = 1 << 20;
    config.hidden_size = 16384;
    config.heads = 64;
    config.intermediate_size = 65536;
    config.layers = 96;
    expect_refusal(&config, DD_TOO_LARGE, "parameters");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
