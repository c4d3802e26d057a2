/* The estimate: exact where it can be, and of the right size where it guesses. */
#include "train_fixture.h"

static struct dd_train_estimate estimate(const struct dd_spec *spec, const struct dd_bert_config *base) {
    struct dd_train_estimate result;
    struct dd_error err;
    must(dd_train_estimate(spec, fixture_dataset, base, NULL, 1, &result, &err), &err);
    return result;
}

/* The sizes of the note: 97 MB with one layer, about 154 MB with three. */
static void test_sizes_of_the_note(void **state) {
    (void)state;
    struct dd_model *teacher = drawn_model(1, 1);
    struct dd_bert_config base = teacher->info.config;
    base.vocab_size = 21128;
    base.hidden_size = 768;
    base.intermediate_size = 3072;
    base.heads = 12;
    base.layers = 12;
    base.max_positions = 512;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.hidden_size = 768;
    spec.intermediate_size = 3072;
    spec.heads = 3;
    spec.layers = 1;
    struct dd_train_estimate one = estimate(&spec, &base);
    spec.layers = 3;
    struct dd_train_estimate three = estimate(&spec, &base);
    assert_int_equal(one.model_bytes, 4 * one.parameters);
    assert_in_range(one.model_bytes, 96000000, 98000000);
    assert_in_range(three.model_bytes, 152000000, 156000000);
    assert_true(three.memory_bytes > one.memory_bytes + 4 * (three.model_bytes - one.model_bytes) - 1);
    /* Weights, gradients, two moments and the teacher must be in it. */
    assert_true(three.memory_bytes > 4 * three.model_bytes + 400000000);
    assert_true(three.disk_bytes > 3 * 3 * three.model_bytes);
    spec.optimizer.type = DD_OPTIMIZER_SGD;
    spec.optimizer.momentum = 0;
    assert_true(estimate(&spec, &base).memory_bytes < three.memory_bytes - 2 * three.model_bytes + 1000000);
    dd_model_free(teacher);
}

static void test_operations_grow_with_the_work(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW);
    struct dd_train_estimate four = estimate(&spec, NULL);
    spec.epochs = 8;
    struct dd_train_estimate eight = estimate(&spec, NULL);
    assert_true(four.matmul_flops > 0 && four.seconds > 0);
    near_double(eight.matmul_flops, 2 * four.matmul_flops, four.matmul_flops * 1e-9);
    assert_int_equal(four.memory_bytes, eight.memory_bytes);
}

/* What matching keeps is in the memory and on the disk; above the bound the teacher's work is in every epoch. */
static void test_matching_is_in_it(void **state) {
    (void)state;
    struct dd_model *teacher = drawn_model(4, 1);
    struct dd_bert_config base = teacher->info.config;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    struct dd_train_estimate none = estimate(&spec, &base);
    spec.cls_weight = 1;
    struct dd_train_estimate cls = estimate(&spec, &base);
    uint64_t rows = dd_dataset_rows(fixture_dataset, DD_SPLIT_TRAIN);
    assert_int_equal(cls.disk_bytes, none.disk_bytes + rows * 4 * 16 * sizeof(float)); /* 4 layers, 16 wide */
    assert_true(cls.memory_bytes >= none.memory_bytes + rows * 2 * 16 * sizeof(float));
    near_double(cls.matmul_flops, none.matmul_flops, none.matmul_flops * 1e-9);
    spec.hidden_weight = 1;
    struct dd_train_estimate hidden = estimate(&spec, &base);
    assert_true(hidden.memory_bytes > cls.memory_bytes && hidden.disk_bytes > cls.disk_bytes);
    assert_int_equal(hidden.parameters, none.parameters);
    near_double(hidden.matmul_flops, none.matmul_flops, none.matmul_flops * 1e-9);
    spec.hidden_size = 32; /* a projection, of which nothing is exported */
    struct dd_train_estimate projected = estimate(&spec, &base);
    spec.hidden_weight = spec.cls_weight = 0;
    struct dd_train_estimate wide = estimate(&spec, &base);
    assert_int_equal(projected.parameters, wide.parameters);
    assert_int_equal(projected.model_bytes, wide.model_bytes);
    assert_true(projected.disk_bytes >= wide.disk_bytes + 3 * 3 * 17 * 32);
    /* Queries, keys and values are not kept: the teacher works in every step. */
    struct dd_spec kept = spec;
    spec.hidden_size = 64; /* so that training needs more than asking */
    spec.intermediate_size = 512;
    spec.batch_size = 64;
    struct dd_train_estimate plain = estimate(&spec, &base);
    spec.attention_weight = 1;
    struct dd_train_estimate attention = estimate(&spec, &base);
    assert_true(attention.memory_bytes > plain.memory_bytes && attention.matmul_flops > plain.matmul_flops);
    assert_int_equal(attention.disk_bytes, plain.disk_bytes);
    spec.attention_weight = 0;
    spec.relation_weight = 1;
    spec.relation_heads = 2;
    struct dd_train_estimate relation = estimate(&spec, &base);
    assert_true(relation.memory_bytes > plain.memory_bytes && relation.memory_bytes < attention.memory_bytes);
    near_double(relation.matmul_flops, attention.matmul_flops, attention.matmul_flops * 1e-9);
    spec.hidden_size = 16;
    uint64_t disk_bytes = estimate(&spec, &base).disk_bytes;
    spec.cls_weight = 1; /* from the same forwards: no cache */
    assert_int_equal(estimate(&spec, &base).disk_bytes, disk_bytes);
    spec = kept;
    /* 9 states of at least 500 tokens, 16,000 wide, are over 256 MiB. */
    base.hidden_size = 16000;
    base.intermediate_size = 16;
    base.layers = spec.layers = 8;
    spec.hidden_size = 16;
    double unmatched = estimate(&spec, &base).matmul_flops;
    spec.hidden_weight = 1;
    assert_true(estimate(&spec, &base).matmul_flops > 2 * unmatched);
    dd_model_free(teacher);
}

/* Tokens are guessed from the text; here every word is one or two pieces. */
static void test_guessed_lengths_are_near(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW);
    spec.max_length = 64;
    struct attempt attempt = {.spec = spec, .run = "near", .threads = 1};
    must(attempt_train(&attempt), &attempt.err);
    struct dd_train_estimate guessed = estimate(&spec, NULL);
    assert_int_equal(guessed.parameters - 16 * (100 - 65), attempt.result.parameters);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_of_the_note),
        cmocka_unit_test(test_operations_grow_with_the_work),
        cmocka_unit_test(test_matching_is_in_it),
        cmocka_unit_test(test_guessed_lengths_are_near),
    };
    return cmocka_run_group_tests(tests, fixture_set_up, fixture_tear_down);
}
