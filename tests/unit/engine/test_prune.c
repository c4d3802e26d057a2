/* Pruned vocabularies: the same logits, to the bit, on the texts that were given; only what they need is kept. */
#include "train_fixture.h"

#include "engine/model.h"

/* "abc" is [UNK] ("ab", then nothing); without "ab" it would be "a ##bc", both of which other texts need. */
static const char vocab[] =
    "unused\n[CLS]\n[SEP]\n[UNK]\n[MASK]\n[PAD]\na\nab\n##bc\nx\ny\n中\n文\n##中\nnever\n##q\n7\n";
#define N_LINES 17

static const char *const texts[] = {"abc", "a", "xbc", "中 x", "a中a", "zzz xbc", "", "abc abc"};
#define N_TEXTS DD_ARRAY_LEN(texts)

static struct dd_pool *pool;

/* Three rows of embeddings more than the vocabulary has lines; padding is its line 5. */
static struct dd_model *make_model(void) {
    struct dd_error err;
    struct dd_model *model = dd_calloc(1, sizeof *model);
    model->info.kind = DD_MODEL_CLASSIFIER;
    model->info.has_pooler = model->info.has_tokenizer = true;
    model->info.n_labels = 3;
    dd_model_labels_default(&model->info);
    model->info.config = (struct dd_bert_config){.vocab_size = N_LINES + 3,
                                                 .hidden_size = 16,
                                                 .layers = 2,
                                                 .heads = 2,
                                                 .intermediate_size = 24,
                                                 .max_positions = 32,
                                                 .type_vocab_size = 2,
                                                 .n_labels = 3,
                                                 .pad_token_id = 5,
                                                 .hidden_act = "gelu",
                                                 .layer_norm_eps = 1e-12,
                                                 .initializer_range = 0.5,
                                                 .classifier_dropout = NAN};
    must(dd_params_new(&model->info.config, &model->params, &err), &err);
    dd_params_init(model->params, &model->info.config, 3);
    model->info.parameters = dd_params_values(model->params);
    const struct dd_tokenizer_options options = {true, true, true};
    must(dd_tokenizer_new(vocab, sizeof vocab - 1, &options, &model->tokenizer, &err), &err);
    return model;
}

static void predict_all(const struct dd_model *model, const struct dd_row *rows, size_t n, float *logits) {
    struct dd_predictor *predictor = NULL;
    struct dd_error err;
    must(dd_predictor_new(model, pool, 16, &predictor, &err), &err);
    must(dd_predict(predictor, rows, n, NULL, logits, &err), &err);
    dd_predictor_free(predictor);
}

static struct dd_model *prune(const struct dd_model *model, bool characters) {
    struct dd_vocab_use *use = NULL;
    struct dd_model *pruned = NULL;
    struct dd_error err;
    must(dd_vocab_use_new(model->tokenizer, &use, &err), &err);
    for (size_t i = 0; i < N_TEXTS; i++) {
        dd_vocab_use_text(use, texts[i], strlen(texts[i]));
    }
    if (characters) {
        dd_vocab_use_characters(use);
    }
    must(dd_model_prune(model, use, &pruned, &err), &err);
    dd_vocab_use_free(use);
    return pruned;
}

static void test_logits_stay_the_same(void **state) {
    (void)state;
    struct dd_model *model = make_model(), *pruned = prune(model, false);
    struct dd_row rows[N_TEXTS + 1] = {{.text = "xbc", .text_bytes = 3, .pair = "abc", .pair_bytes = 3}};
    for (size_t i = 0; i < N_TEXTS; i++) {
        rows[i + 1] = (struct dd_row){.text = texts[i], .text_bytes = strlen(texts[i])};
    }
    float before[(N_TEXTS + 1) * 3], after[(N_TEXTS + 1) * 3];
    predict_all(model, rows, N_TEXTS + 1, before);
    predict_all(pruned, rows, N_TEXTS + 1, after);
    assert_memory_equal(before, after, sizeof before);
    assert_memory_not_equal(before + 3, before + 6, 3 * sizeof *before);
    dd_model_free(model);
    dd_model_free(pruned);
}

static void expect_vocab(const struct dd_model *model, const char *expected) {
    size_t bytes;
    const char *text = dd_tokenizer_vocab(model->tokenizer, &bytes);
    assert_int_equal(bytes, strlen(expected));
    assert_memory_equal(text, expected, bytes);
    int lines = 0;
    for (const char *at = expected; *at != 0; at++) {
        lines += *at == '\n';
    }
    assert_int_equal(model->info.config.vocab_size, lines);
    assert_int_equal(model->params->tensors[0].shape[0], lines);
    assert_true(model->info.parameters == dd_params_values(model->params));
    assert_string_equal(dd_tokenizer_token(model->tokenizer, model->info.config.pad_token_id), "[PAD]");
}

static void test_only_what_is_needed_is_kept(void **state) {
    (void)state;
    struct dd_model *model = make_model(), *pruned = prune(model, false);
    expect_vocab(pruned, "[CLS]\n[SEP]\n[UNK]\n[MASK]\n[PAD]\na\nab\n##bc\nx\n中\n");
    dd_model_free(pruned);
    pruned = prune(model, true); /* "##中" is not made by this tokenizer */
    expect_vocab(pruned, "[CLS]\n[SEP]\n[UNK]\n[MASK]\n[PAD]\na\nab\n##bc\nx\ny\n中\n文\n##q\n7\n");
    dd_model_free(pruned);
    dd_model_free(model);
}

static void test_the_rows_of_the_kept(void **state) {
    (void)state;
    struct dd_model *model = make_model(), *pruned = prune(model, false);
    static const int from[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11};
    for (size_t i = 0; i < DD_ARRAY_LEN(from); i++) {
        assert_memory_equal(pruned->params->slab + i * 16, model->params->slab + (size_t)from[i] * 16,
                            16 * sizeof(float));
    }
    for (int i = 1; i < model->params->n_tensors; i++) {
        const struct dd_tensor *a = &model->params->tensors[i], *b = &pruned->params->tensors[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->count, b->count);
        assert_memory_equal(model->params->slab + a->offset, pruned->params->slab + b->offset,
                            a->count * sizeof(float));
    }
    dd_model_free(model);
    dd_model_free(pruned);
}

/* Through a directory and back; every split of a data set counts. */
static void test_data_set_and_file(void **state) {
    (void)state;
    struct dd_error err;
    struct dd_model *model = make_model(), *pruned = NULL, *read = NULL;
    struct dd_vocab_use *use = NULL;
    char train[512], dev[512], dir[512];
    fixture_path(train, "t.tsv");
    fixture_path(dev, "d.tsv");
    fixture_path(dir, "pairs");
    FILE *file = fopen(train, "w");
    assert_non_null(file);
    fputs("text\tpair\tlabel\na\t文\tred\nx\tx\tblue\n", file);
    assert_int_equal(fclose(file), 0);
    file = fopen(dev, "w");
    assert_non_null(file);
    fputs("text\tpair\tlabel\nx\t7\tred\n", file);
    assert_int_equal(fclose(file), 0);
    struct dd_import import = {.paths = {train, dev},
                               .file_names = {"t.tsv", "d.tsv"},
                               .text_column = "text",
                               .pair_column = "pair",
                               .label_column = "label"};
    static struct dd_import_report report;
    must(dd_dataset_import(&import, dir, &report, &err), &err);
    struct dd_dataset *dataset = NULL;
    must(dd_dataset_open(dir, &dataset, &err), &err);
    must(dd_vocab_use_new(model->tokenizer, &use, &err), &err);
    must(dd_vocab_use_dataset(use, dataset, NULL, &err), &err);
    must(dd_model_prune(model, use, &pruned, &err), &err);
    expect_vocab(pruned, "[CLS]\n[SEP]\n[UNK]\n[MASK]\n[PAD]\na\nx\n文\n7\n");
    fixture_path(dir, "model");
    must(dd_model_save(pruned, dir, NULL, &err), &err);
    must(dd_model_load(dir, &read, &err), &err);
    assert_int_equal(read->info.config.vocab_size, 9);
    assert_int_equal(read->info.config.pad_token_id, 4);
    assert_memory_equal(read->params->slab, pruned->params->slab, pruned->params->count * sizeof(float));
    struct dd_cancel cancel = {DD_STOP_CANCEL};
    assert_int_equal(dd_vocab_use_dataset(use, dataset, &cancel, &err), DD_STOPPED);
    dd_vocab_use_free(use);
    dd_dataset_free(dataset);
    dd_model_free(model);
    dd_model_free(pruned);
    dd_model_free(read);
}

static int set_up(void **state) {
    struct dd_error err;
    return fixture_set_up(state) == 0 && dd_pool_new(2, &pool, &err) == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_stay_the_same),
        cmocka_unit_test(test_only_what_is_needed_is_kept),
        cmocka_unit_test(test_the_rows_of_the_kept),
        cmocka_unit_test(test_data_set_and_file),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
