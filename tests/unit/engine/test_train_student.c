/* Where a student's first weights come from, and how labels are matched. */
#include "train_fixture.h"

static struct dd_model *teacher; /* 3 layers */

static struct dd_run run_of(const struct dd_train_input *input) {
    return (struct dd_run){.input = input, .spec = input->spec, .n_classes = FIXTURE_CLASSES, .run_fd = -1};
}

static struct dd_model *student(struct dd_spec *spec, const struct dd_model *base, const struct dd_model *init) {
    struct dd_train_input input = {.spec = spec, .dataset = fixture_dataset, .base = base, .init = init};
    struct dd_run run = run_of(&input);
    struct dd_model *model = NULL;
    struct dd_error err;
    must(dd_student_new(&run, &model, &err), &err);
    return model;
}

static bool same_tensor(const struct dd_model *a, const char *a_name, const struct dd_model *b, const char *b_name) {
    const struct dd_tensor *x = dd_params_find(a->params, a_name), *y = dd_params_find(b->params, b_name);
    assert_non_null(x);
    assert_non_null(y);
    return x->count == y->count &&
           memcmp(a->params->slab + x->offset, b->params->slab + y->offset, x->count * sizeof(float)) == 0;
}

static bool same_layer(const struct dd_model *a, int a_layer, const struct dd_model *b, int b_layer) {
    static const char *const parts[] = {"attention.self.query.weight", "attention.output.LayerNorm.bias",
                                        "intermediate.dense.weight", "output.dense.weight"};
    int same = 0;
    for (size_t i = 0; i < DD_ARRAY_LEN(parts); i++) {
        char x[128], y[128];
        snprintf(x, sizeof x, "bert.encoder.layer.%d.%s", a_layer, parts[i]);
        snprintf(y, sizeof y, "bert.encoder.layer.%d.%s", b_layer, parts[i]);
        same += same_tensor(a, x, b, y);
    }
    return same == (int)DD_ARRAY_LEN(parts);
}

static void test_random_is_its_own(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    struct dd_model *a = student(&spec, teacher, NULL), *b = student(&spec, teacher, NULL);
    spec.seed++;
    struct dd_model *c = student(&spec, teacher, NULL);
    assert_memory_equal(a->params->slab, b->params->slab, a->params->count * sizeof(float));
    assert_memory_not_equal(a->params->slab, c->params->slab, a->params->count * sizeof(float));
    assert_false(
        same_tensor(a, "bert.embeddings.word_embeddings.weight", teacher, "bert.embeddings.word_embeddings.weight"));
    assert_int_equal(a->info.config.vocab_size, teacher->info.config.vocab_size);
    assert_int_equal(a->info.config.max_positions, 64);
    assert_string_equal(a->info.labels[2], "blue");
    dd_model_free(a);
    dd_model_free(b);
    dd_model_free(c);
}

static void test_from_teacher(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.init = DD_INIT_TEACHER;
    struct dd_model *even = student(&spec, teacher, NULL);
    assert_true(
        same_tensor(even, "bert.embeddings.word_embeddings.weight", teacher, "bert.embeddings.word_embeddings.weight"));
    assert_true(same_tensor(even, "bert.embeddings.LayerNorm.weight", teacher, "bert.embeddings.LayerNorm.weight"));
    assert_true(same_tensor(even, "bert.pooler.dense.weight", teacher, "bert.pooler.dense.weight"));
    assert_true(same_tensor(even, "classifier.weight", teacher, "classifier.weight"));
    assert_true(same_layer(even, 0, teacher, 0)); /* 2 of 3, the last included */
    assert_true(same_layer(even, 1, teacher, 2));
    dd_model_free(even);

    spec.n_layer_map = 2;
    spec.layer_map[0] = 2;
    spec.layer_map[1] = 1;
    struct dd_model *mapped = student(&spec, teacher, NULL);
    assert_true(same_layer(mapped, 0, teacher, 2));
    assert_true(same_layer(mapped, 1, teacher, 1));
    assert_false(same_layer(mapped, 0, teacher, 0));
    dd_model_free(mapped);
}

/* The same labels in another order: the head's rows move with them. */
static void test_head_follows_the_labels(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.init = DD_INIT_TEACHER;
    struct dd_model *turned = drawn_model(3, 5);
    static const char *const labels[] = {"blue", "red", "green"};
    static const int label_of_class[] = {1, 2, 0};
    for (int l = 0; l < 3; l++) {
        snprintf(turned->info.labels[l], sizeof turned->info.labels[l], "%s", labels[l]);
    }
    int found[3];
    struct dd_error err;
    must(dd_match_labels(fixture_dataset, &turned->info, "teacher", found, &err), &err);
    assert_memory_equal(found, label_of_class, sizeof found);
    struct dd_model *made = student(&spec, turned, NULL);
    const struct dd_tensor *from = dd_params_find(turned->params, "classifier.weight");
    const struct dd_tensor *to = dd_params_find(made->params, "classifier.weight");
    for (int c = 0; c < 3; c++) {
        assert_memory_equal(made->params->slab + to->offset + c * 16,
                            turned->params->slab + from->offset + label_of_class[c] * 16, 16 * sizeof(float));
    }
    dd_model_free(made);
    dd_model_free(turned);
}

static void test_labels(void **state) {
    (void)state;
    struct dd_model_info *info = dd_calloc(1, sizeof *info);
    int found[DD_MAX_CLASSES];
    struct dd_error err;
    info->n_labels = 3;
    for (int l = 0; l < 4; l++) {
        snprintf(info->labels[l], sizeof info->labels[l], "LABEL_%d", l);
    }
    must(dd_match_labels(fixture_dataset, info, "teacher", found, &err), &err);
    assert_int_equal(found[2], 2);
    info->n_labels = 4;
    assert_int_equal(dd_match_labels(fixture_dataset, info, "teacher", found, &err), DD_INVALID);
    static const char *const more[] = {"green", "black", "blue", "red"};
    for (int l = 0; l < 4; l++) {
        snprintf(info->labels[l], sizeof info->labels[l], "%s", more[l]);
    }
    must(dd_match_labels(fixture_dataset, info, "teacher", found, &err), &err);
    assert_int_equal(found[0], 3);
    assert_int_equal(found[1], 0);
    assert_int_equal(found[2], 2);
    info->n_labels = 3;
    assert_int_equal(dd_match_labels(fixture_dataset, info, "teacher", found, &err), DD_INVALID);
    assert_string_equal(err.code, "labels_do_not_match");
    free(info);
}

static void refused(struct dd_spec *spec, const struct dd_model *base, const struct dd_model *init, const char *code) {
    struct dd_train_input input = {.spec = spec, .dataset = fixture_dataset, .base = base, .init = init};
    struct dd_run run = run_of(&input);
    struct dd_model *model = NULL;
    struct dd_error err;
    assert_int_equal(dd_student_new(&run, &model, &err), DD_INVALID);
    assert_string_equal(err.code, code);
    assert_null(model);
}

static void test_what_cannot_be_copied(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.init = DD_INIT_TEACHER;
    spec.hidden_size = 8;
    refused(&spec, teacher, NULL, "init_shape_mismatch");
    spec.hidden_size = 16;
    spec.layers = 5;
    refused(&spec, teacher, NULL, "layer_map_invalid");
    spec.layers = 2;
    spec.n_layer_map = 2;
    spec.layer_map[1] = 3;
    refused(&spec, teacher, NULL, "layer_map_invalid");
    spec.n_layer_map = 0;
    spec.init = DD_INIT_MODEL;
    refused(&spec, teacher, NULL, "init_model_missing");
    struct dd_model *other = drawn_model(2, 9);
    dd_tokenizer_free(other->tokenizer);
    struct dd_error err;
    char *vocab = dd_strndup(fixture_vocab, fixture_vocab_bytes);
    vocab[fixture_vocab_bytes - 2] = 'x';
    const struct dd_tokenizer_options options = {true, true, true};
    must(dd_tokenizer_new(vocab, fixture_vocab_bytes, &options, &other->tokenizer, &err), &err);
    refused(&spec, teacher, other, "init_vocabulary_mismatch");
    free(vocab);
    dd_model_free(other);
    struct dd_tokenizer *kept = teacher->tokenizer;
    teacher->tokenizer = NULL;
    refused(&spec, teacher, NULL, "model_without_vocabulary");
    teacher->tokenizer = kept;
}

static void test_from_another_model(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.init = DD_INIT_MODEL;
    struct dd_model *other = drawn_model(2, 9), *made = student(&spec, teacher, other);
    assert_true(same_layer(made, 0, other, 0));
    assert_true(same_layer(made, 1, other, 1));
    dd_model_free(made);
    dd_model_free(other);
}

/* An encoder has no head: it is drawn; a missing pooler too. */
static void test_finetune_from_an_encoder(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW);
    spec.layers = 3;
    struct dd_model *encoder = drawn_model(3, 5);
    encoder->info.kind = DD_MODEL_ENCODER;
    encoder->info.has_pooler = false;
    struct dd_model *made = student(&spec, encoder, NULL);
    assert_true(same_layer(made, 2, encoder, 2));
    assert_false(same_tensor(made, "classifier.weight", encoder, "classifier.weight"));
    assert_false(same_tensor(made, "bert.pooler.dense.weight", encoder, "bert.pooler.dense.weight"));
    const struct dd_tensor *pooler = dd_params_find(made->params, "bert.pooler.dense.weight");
    assert_true(made->params->slab[pooler->offset] != 0);
    dd_model_free(made);
    dd_model_free(encoder);
}

/* From scratch without a vocabulary: one is built, and the run trains. */
static void test_vocabulary_is_built(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW);
    struct dd_model *made = student(&spec, NULL, NULL);
    assert_in_range(made->info.config.vocab_size, 6, 100);
    assert_int_equal(made->info.config.vocab_size, dd_tokenizer_size(made->tokenizer));
    assert_string_equal(dd_tokenizer_token(made->tokenizer, made->info.config.pad_token_id), "[PAD]");
    dd_model_free(made);
}

static int set_up(void **state) {
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    teacher = drawn_model(3, 4);
    return 0;
}

static int tear_down(void **state) {
    dd_model_free(teacher);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_is_its_own),        cmocka_unit_test(test_from_teacher),
        cmocka_unit_test(test_head_follows_the_labels),  cmocka_unit_test(test_labels),
        cmocka_unit_test(test_what_cannot_be_copied),    cmocka_unit_test(test_from_another_model),
        cmocka_unit_test(test_finetune_from_an_encoder), cmocka_unit_test(test_vocabulary_is_built),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
