/* Models in and out, without Python: every form of the golden model has the same values, what is saved is what is
 * loaded, and a damaged directory gets an error. */
#include "model_fixture.h"

static const char *const forms[][2] = {
    {"f32.safetensors", "safetensors"},
    {"f16.safetensors", "safetensors"},
    {"bf16.safetensors", "safetensors"},
    {"f64.safetensors", "safetensors"},
    {"state_zip.bin", "pytorch_zip"},
    {"state_legacy.bin", "pytorch_legacy"},
    {"module_zip.pt", "pickled_module"},
    {"module_legacy.pt", "pickled_module"},
    {"state_deflated.bin", "pytorch_zip"},
    {"old_names.bin", "pytorch_zip"},
    {"malicious_zip.bin", "pytorch_zip"},
    {"malicious_legacy.bin", "pytorch_legacy"},
    {"module_half_protocol4.pt", "pickled_module"},
};

static struct dd_model *load(const char *path) {
    struct dd_model *model = NULL;
    struct dd_error err = {0};
    enum dd_status status = dd_model_load(path, &model, &err);
    if (status != DD_OK) {
        fail_msg("%s: %s: %s", path, dd_status_name(status), err.message);
    }
    return model;
}

static void check_values(const struct dd_model *model) {
    size_t bytes = 0, at = 0;
    uint8_t *values = read_all(FIXTURES "/values.f32", &bytes);
    for (int i = 0; i < model->params->n_tensors; i++) {
        const struct dd_tensor *tensor = &model->params->tensors[i];
        assert_true(at + tensor->count * sizeof(float) <= bytes);
        if (memcmp(model->params->slab + tensor->offset, values + at, tensor->count * sizeof(float)) != 0) {
            fail_msg("%s has other values", tensor->name);
        }
        at += tensor->count * sizeof(float);
    }
    assert_int_equal(at, bytes);
    assert_int_equal(model->info.parameters * sizeof(float), bytes);
    free(values);
}

static void test_forms(void **state) {
    (void)state;
    char hash[DD_SHA256_HEX_BYTES] = "";
    for (size_t i = 0; i < DD_ARRAY_LEN(forms); i++) {
        char path[512];
        struct dd_error err;
        snprintf(path, sizeof path, "%s/%s", FIXTURES, forms[i][0]);
        struct dd_model *model = load(path);
        check_values(model);
        assert_string_equal(model->info.weights_format, forms[i][1]);
        assert_string_equal(model->info.weights_file, forms[i][0]);
        assert_int_equal(model->info.kind, DD_MODEL_CLASSIFIER);
        assert_true(model->info.has_pooler && model->info.has_tokenizer && model->info.do_lower_case);
        assert_int_equal(model->info.n_labels, 3);
        assert_string_equal(model->info.labels[0], "测评");
        assert_string_equal(model->info.labels[2], "科普");
        assert_string_equal(model->info.config.hidden_act, "gelu");
        assert_int_equal(dd_tokenizer_size(model->tokenizer), 12);
        if (i == 0) {
            memcpy(hash, model->info.sha256, sizeof hash);
            assert_int_equal(strlen(hash), 64);
        }
        assert_string_equal(model->info.sha256, hash);
        struct dd_model_info *info = calloc(1, sizeof *info);
        assert_non_null(info);
        must(dd_model_inspect(path, info, &err), &err);
        assert_memory_equal(info, &model->info, sizeof *info);
        free(info);
        dd_model_free(model);
    }
    assert_int_not_equal(access("distilld-malice-was-run", F_OK), 0);
}

static void expect_file(const char *name, const char *part) {
    char path[512];
    size_t bytes = 0;
    scratch_path(path, name);
    char *text = (char *)read_all(path, &bytes);
    if (strstr(text, part) == NULL) {
        fail_msg("%s lacks %s: %s", name, part, text);
    }
    free(text);
}

/* Opened by a hash that is known: the values come when they are asked for, and are those or none. */
static void test_values_that_wait(void **state) {
    (void)state;
    struct dd_error err = {0};
    struct dd_model *whole = load(FIXTURES "/f32.safetensors"), *model = NULL;
    must(dd_model_open(FIXTURES "/f32.safetensors", whole->info.sha256, &model, &err), &err);
    assert_null(model->params->slab);
    assert_string_equal(model->info.sha256, whole->info.sha256);
    assert_int_equal(model->params->count, whole->params->count);
    assert_non_null(model->tokenizer);
    must(dd_model_need_weights(model, &err), &err);
    check_values(model);
    const float *slab = model->params->slab;
    must(dd_model_need_weights(model, &err), &err);
    assert_ptr_equal(model->params->slab, slab);
    dd_model_free(model);

    char other[sizeof whole->info.sha256];
    memset(other, 'a', sizeof other - 1);
    other[sizeof other - 1] = '\0';
    must(dd_model_open(FIXTURES "/f32.safetensors", other, &model, &err), &err);
    assert_int_equal(dd_model_need_weights(model, &err), DD_CORRUPT);
    assert_string_equal(err.code, "model_changed");
    assert_null(model->params->slab);
    dd_model_free(model);
    dd_model_free(whole);
}

static void test_save(void **state) {
    (void)state;
    char dir[512], path[512];
    struct dd_error err;
    struct dd_model *model = load(FIXTURES "/f32.safetensors");
    scratch_path(dir, "saved");
    for (int i = 0; i < 2; i++) { /* the second time over the first */
        must(dd_model_save(model, dir, "# 模型\n", &err), &err);
        struct dd_model *again = load(dir);
        check_values(again);
        assert_string_equal(again->info.sha256, model->info.sha256);
        assert_memory_equal(again->info.labels, model->info.labels, sizeof again->info.labels);
        assert_memory_equal(&again->info.config, &model->info.config, sizeof again->info.config);
        assert_memory_equal(dd_tokenizer_settings(again->tokenizer), dd_tokenizer_settings(model->tokenizer),
                            sizeof(struct dd_tokenizer_options));
        dd_model_free(again);
    }
    expect_file("saved/README.md", "# 模型\n");
    expect_file("saved/config.json", "BertForSequenceClassification");
    expect_file("saved/config.json", "single_label_classification");
    expect_file("saved/tokenizer_config.json", "\"do_lower_case\":\ttrue");
    expect_file("saved/special_tokens_map.json", "[CLS]");
    scratch_path(path, "saved.tmp");
    assert_int_not_equal(access(path, F_OK), 0);
    size_t bytes = 0;
    scratch_path(path, "saved/model.safetensors");
    uint8_t *weights = read_all(path, &bytes);
    uint64_t header = 0;
    memcpy(&header, weights, sizeof header);
    assert_int_equal(header % 8, 0);
    assert_int_equal(bytes, 8 + header + model->info.parameters * sizeof(float));
    free(weights);
    assert_int_not_equal(dd_model_save(model, "/proc/nowhere/at/all", NULL, &err), DD_OK);
    dd_model_free(model);
}

/* fp16: every value is the nearest, ties to even; what fp16 cannot hold is refused. */
static void test_save_fp16(void **state) {
    (void)state;
    static const struct {
        float given, kept;
    } cases[] = {{1.0f, 1.0f},
                 {1.0f + 0x1p-11f, 1.0f},              /* halfway: to the even one below */
                 {1.0f + 0x1.8p-10f, 1.0f + 0x1p-9f},  /* halfway: to the even one above */
                 {1.0f + 0x1.2p-11f, 1.0f + 0x1p-10f}, /* above half */
                 {-0x1.ffep-1f, -1.0f},                /* halfway: the carry goes into the exponent */
                 {65504.0f, 65504.0f},
                 {65519.0f, 65504.0f},
                 {0x1p-14f, 0x1p-14f},
                 {0x1.8p-24f, 0x1p-23f}, /* halfway between subnormals: to the even one */
                 {0x1p-25f, 0.0f},
                 {0x1.1p-25f, 0x1p-24f},
                 {-0.0f, -0.0f}};
    char dir[512];
    struct dd_error err;
    struct dd_model *model = load(FIXTURES "/f32.safetensors"), *again;
    float *values = model->params->slab;
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        values[i] = cases[i].given;
    }
    scratch_path(dir, "fp16");
    must(dd_model_save_fp16(model, dir, NULL, &err), &err);
    again = load(dir);
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        assert_memory_equal(&again->params->slab[i], &cases[i].kept, sizeof(float));
    }
    for (size_t i = 0; i < model->params->count; i++) {
        float wanted = (float)(_Float16)model->params->slab[i];
        assert_memory_equal(&again->params->slab[i], &wanted, sizeof wanted);
    }
    assert_true(again->info.bytes < model->info.bytes * 3 / 4);
    expect_file("fp16/config.json", "float16");
    dd_model_free(again);
    values[0] = 65520.0f;
    assert_int_equal(dd_model_save_fp16(model, dir, NULL, &err), DD_INVALID);
    assert_string_equal(err.code, "weights_out_of_range");
    again = load(dir); /* what was there stays */
    dd_model_free(again);
    dd_model_free(model);
}

/* A copy of the golden model in the scratch directory with one file replaced. */
static void make_variant(const char *weights, const char *file, const void *bytes, size_t count) {
    static const char *const names[] = {"config.json", "vocab.txt"};
    char path[512], from[512];
    struct dd_error err;
    scratch_path(path, "variant");
    must(dd_tree_remove(path, &err), &err);
    must(dd_dir_make(path, &err), &err);
    for (size_t i = 0; i < DD_ARRAY_LEN(names) + 1; i++) {
        const char *name = i < DD_ARRAY_LEN(names) ? names[i] : weights;
        size_t length = 0;
        snprintf(from, sizeof from, "%s/%s", FIXTURES, name);
        uint8_t *content = read_all(from, &length);
        snprintf(path, sizeof path, "%s/variant/%s", scratch, name);
        write_all(path, content, length);
        free(content);
    }
    snprintf(path, sizeof path, "%s/variant/%s", scratch, file);
    if (bytes == NULL) {
        unlink(path);
    } else {
        write_all(path, bytes, count);
    }
}

static void expect_refusal(enum dd_status status, const char *part) {
    char path[512];
    struct dd_model *model = NULL;
    struct dd_error err = {0};
    struct dd_model_info info;
    scratch_path(path, "variant");
    if (dd_model_load(path, &model, &err) != status || strstr(err.message, part) == NULL) {
        fail_msg("%s, %s (expected %s)", dd_status_name(err.status), err.message, part);
    }
    assert_null(model);
    assert_int_equal(dd_model_inspect(path, &info, &err), status);
}

static void test_refusals(void **state) {
    (void)state;
    static const char huge[] =
        "{\"model_type\":\"bert\",\"vocab_size\":1048576,\"hidden_size\":4096,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":64,\"intermediate_size\":65536}";
    make_variant("f32.safetensors", "config.json", huge, sizeof huge - 1);
    expect_refusal(DD_CORRUPT, "has shape [8]; the configuration asks for [4096]");
    make_variant("f32.safetensors", "config.json", NULL, 0);
    expect_refusal(DD_NOT_FOUND, "no config.json");
    make_variant("f32.safetensors", "config.json", "{", 1);
    expect_refusal(DD_CORRUPT, "not JSON");
    make_variant("f32.safetensors", "config.json", "[]", 2);
    expect_refusal(DD_CORRUPT, "not a JSON object");
    make_variant("f32.safetensors", "config.json", "{}\0{}", 5);
    expect_refusal(DD_CORRUPT, "not JSON");
    make_variant("f32.safetensors", "f32.safetensors", NULL, 0);
    expect_refusal(DD_NOT_FOUND, "no model.safetensors");
    make_variant("f32.safetensors", "other.bin", "x", 1);
    expect_refusal(DD_NOT_FOUND, "2 weights files");
    make_variant("f32.safetensors", "f32.safetensors", "", 0);
    expect_refusal(DD_CORRUPT, "too few");
    make_variant("f32.safetensors", "vocab.txt", "a\nb\n", 4);
    expect_refusal(DD_CORRUPT, "vocab.txt");
    make_variant("f32.safetensors", "tokenizer_config.json", "{\"do_lower_case\":\"yes\"}", 23);
    expect_refusal(DD_INVALID, "do_lower_case must be true, false or null");
    make_variant("f32.safetensors", "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../f32.safetensors\"}}",
                 41);
    expect_refusal(DD_CORRUPT, "files beside the index");
    struct dd_model *model = NULL;
    struct dd_error err;
    assert_int_equal(dd_model_load("/nowhere/at/all", &model, &err), DD_NOT_FOUND);
}

/* What a model says of its fold is kept by saving and believed only whole. */
static void test_the_record_of_a_fold(void **state) {
    (void)state;
    char dir[512];
    struct dd_error err;
    struct dd_model *model = load(FIXTURES "/f32.safetensors");
    assert_int_equal(model->info.fold.folds, 0);
    model->info.fold = (struct dd_fold_record){.folds = 5, .fold = 4};
    memset(model->info.fold.train_sha256, 'a', DD_SHA256_HEX_BYTES - 1);
    scratch_path(dir, "variant");
    must(dd_model_save(model, dir, NULL, &err), &err);
    struct dd_model *again = load(dir);
    assert_memory_equal(&again->info.fold, &model->info.fold, sizeof again->info.fold);
    dd_model_free(again);
    dd_model_free(model);
    static const struct {
        int folds, fold, sha_bytes;
        char first;
    } bad[] = {{1, 0, 64, 'b'}, {10, 0, 64, 'b'}, {5, 5, 64, 'b'}, {5, -1, 64, 'b'},
               {5, 0, 63, 'b'}, {5, 0, 65, 'b'},  {5, 0, 64, 'Z'}, {0, 0, 0, 'b'}};
    char path[512];
    scratch_path(path, "variant/config.json");
    char *config = NULL;
    size_t bytes = 0;
    must(dd_file_read(path, 1 << 16, &config, &bytes, &err), &err);
    const char *record = memmem(config, bytes, "\"distilld_fold\"", 15);
    assert_non_null(record);
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        char text[8192], sha256[66];
        memset(sha256, 'b', sizeof sha256);
        sha256[0] = bad[i].first;
        snprintf(text, sizeof text, "%.*s\"distilld_fold\":{\"folds\":%d,\"fold\":%d,\"train_sha256\":\"%.*s\"}}",
                 (int)(record - config), config, bad[i].folds, bad[i].fold, bad[i].sha_bytes, sha256);
        write_all(path, text, strlen(text));
        if (dd_model_load(dir, &again, &err) == DD_OK) {
            fail_msg("folds %d, fold %d and a hash of %d are believed", bad[i].folds, bad[i].fold, bad[i].sha_bytes);
        }
        assert_non_null(strstr(err.message, "fold"));
    }
    free(config);
}

static void test_vocab_is_optional(void **state) {
    (void)state;
    char path[512];
    make_variant("f32.safetensors", "vocab.txt", NULL, 0);
    scratch_path(path, "variant");
    struct dd_model *model = load(path);
    assert_null(model->tokenizer);
    assert_false(model->info.has_tokenizer);
    dd_model_free(model);
}

/* Whole directories with one damaged file: an error or a model, and a model that loads can be saved. */
static void test_damage(void **state) {
    (void)state;
    static const char *const weights[] = {"f32.safetensors", "state_zip.bin", "module_legacy.pt"};
    uint64_t random = 5;
    int refused = 0;
    for (size_t w = 0; w < DD_ARRAY_LEN(weights); w++) {
        for (int kind = 0; kind < 3; kind++) {
            const char *file = kind == 0 ? weights[w] : kind == 1 ? "config.json" : "vocab.txt";
            char path[512];
            size_t bytes = 0;
            snprintf(path, sizeof path, "%s/%s", FIXTURES, file);
            uint8_t *whole = read_all(path, &bytes);
            for (int i = 0; i < 120; i++) {
                uint8_t *damaged = malloc(bytes);
                assert_non_null(damaged);
                memcpy(damaged, whole, bytes);
                size_t left = mutate(damaged, bytes, &random);
                make_variant(weights[w], file, damaged, left);
                free(damaged);
                scratch_path(path, "variant");
                struct dd_model *model = NULL;
                struct dd_error err = {0};
                enum dd_status status = dd_model_load(path, &model, &err);
                if (status == DD_OK) {
                    if (i % 24 == 0) {
                        scratch_path(path, "resaved");
                        must(dd_model_save(model, path, NULL, &err), &err);
                        dd_model_free(load(path));
                    }
                    dd_model_free(model);
                } else {
                    refused++;
                    assert_null(model);
                    assert_int_not_equal(status, DD_INTERNAL);
                }
            }
            free(whole);
        }
    }
    assert_true(refused > 200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_values_that_wait),
        cmocka_unit_test(test_save),
        cmocka_unit_test(test_save_fp16),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_the_record_of_a_fold),
        cmocka_unit_test(test_vocab_is_optional),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
