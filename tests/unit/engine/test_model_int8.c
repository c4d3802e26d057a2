/* int8 models: what is made is what is read back; answers stay near fp32's; where fp32 is needed and where a file is
 * not what it says, they are refused by name. */
#include "train_fixture.h"

#include "engine/model.h"

#define ROWS 40

static struct dd_pool *pool;
static struct dd_model *model;
static char dir[512];

static void predict(const struct dd_model *from, struct dd_pool *on, float *logits) {
    struct dd_predictor *predictor = NULL;
    struct dd_row rows[ROWS];
    struct dd_error err;
    for (uint64_t r = 0; r < ROWS; r++) {
        dd_dataset_row(fixture_dataset, DD_SPLIT_TRAIN, r, &rows[r]);
    }
    must(dd_predictor_new(from, on, 24, &predictor, &err), &err);
    must(dd_predict(predictor, rows, ROWS, NULL, logits, &err), &err);
    dd_predictor_free(predictor);
}

static struct dd_model *quantized(void) {
    struct dd_model *made = NULL;
    struct dd_error err;
    must(dd_model_quantize(model, &made, &err), &err);
    return made;
}

static void test_answers_stay_near(void **state) {
    (void)state;
    struct dd_model *made = quantized();
    float before[ROWS * FIXTURE_CLASSES], after[ROWS * FIXTURE_CLASSES];
    predict(model, pool, before);
    predict(made, pool, after);
    double worst = 0.0, spread = 0.0;
    for (int i = 0; i < ROWS * FIXTURE_CLASSES; i++) {
        worst = fmax(worst, fabs((double)before[i] - (double)after[i]));
        spread = fmax(spread, fabs((double)before[i] - (double)before[i % FIXTURE_CLASSES]));
    }
    assert_true(worst > 0.0 && worst < 0.05 * spread);
    assert_true(dd_model_memory_bytes(made) < dd_model_memory_bytes(model) / 2);
    assert_true(made->info.parameters == model->info.parameters);
    dd_model_free(made);
}

static void test_any_number_of_threads(void **state) {
    (void)state;
    struct dd_model *made = quantized();
    float one[ROWS * FIXTURE_CLASSES], three[ROWS * FIXTURE_CLASSES];
    struct dd_pool *single = NULL;
    struct dd_error err;
    must(dd_pool_new(1, &single, &err), &err);
    predict(made, single, one);
    predict(made, pool, three);
    assert_memory_equal(one, three, sizeof one);
    dd_pool_free(single);
    dd_model_free(made);
}

static void test_written_and_read(void **state) {
    (void)state;
    struct dd_model *made = quantized(), *read = NULL, *again = NULL;
    struct dd_model_info *info = dd_calloc(1, sizeof *info);
    struct dd_error err;
    char second[512];
    float expected[ROWS * FIXTURE_CLASSES], logits[ROWS * FIXTURE_CLASSES];
    must(dd_model_save(made, dir, "# card\n", &err), &err);
    must(dd_model_load(dir, &read, &err), &err);
    assert_true(read->info.int8);
    assert_string_equal(read->info.weights_format, "safetensors_int8");
    assert_true(read->info.parameters == model->info.parameters);
    predict(made, pool, expected);
    predict(read, pool, logits);
    assert_memory_equal(logits, expected, sizeof expected);
    must(dd_model_inspect(dir, info, &err), &err);
    assert_memory_equal(info, &read->info, sizeof *info);
    fixture_path(second, "int8-again");
    must(dd_model_save(read, second, NULL, &err), &err);
    must(dd_model_load(second, &again, &err), &err);
    assert_string_equal(again->info.sha256, read->info.sha256);
    free(info);
    dd_model_free(made);
    dd_model_free(read);
    dd_model_free(again);
}

static void test_refused_where_fp32_is_needed(void **state) {
    (void)state;
    struct dd_model *made = quantized(), *other = NULL;
    struct dd_vocab_use *use = NULL;
    struct dd_error err;
    assert_int_equal(dd_model_quantize(made, &other, &err), DD_INVALID);
    assert_string_equal(err.code, "model_is_int8");
    must(dd_vocab_use_new(made->tokenizer, &use, &err), &err);
    assert_int_equal(dd_model_prune(made, use, &other, &err), DD_INVALID);
    assert_string_equal(err.code, "model_is_int8");
    dd_vocab_use_free(use);
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    struct dd_train_input input = {.spec = &spec, .dataset = fixture_dataset, .base = made, .pool = pool};
    struct dd_train_result result;
    assert_int_equal(dd_train(&input, &result, &err), DD_INVALID);
    assert_string_equal(err.code, "model_is_int8");
    struct dd_model encoder = *model;
    encoder.info.kind = DD_MODEL_ENCODER;
    assert_int_equal(dd_model_quantize(&encoder, &other, &err), DD_INVALID);
    assert_string_equal(err.code, "model_is_an_encoder");
    assert_null(other);
    dd_model_free(made);
}

/* --- files that are not what they say ----------------------------------------------------------------------------- */

struct bytes {
    char *data;
    size_t len;
};

static struct bytes read_file(const char *name) {
    char path[600];
    struct bytes bytes = {0};
    struct dd_error err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(dd_file_read(path, (size_t)1 << 24, &bytes.data, &bytes.len, &err), &err);
    return bytes;
}

static void write_file(const char *name, const void *data, size_t len) {
    char path[600];
    struct dd_error err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(dd_file_write_durable(path, data, len, &err), &err);
}

static void expect_refusal(const char *part) {
    struct dd_model *read = NULL;
    struct dd_error err = {0};
    enum dd_status status = dd_model_load(dir, &read, &err);
    if ((status != DD_CORRUPT && status != DD_UNSUPPORTED) || strstr(err.message, part) == NULL) {
        fail_msg("%s, \"%s\" (expected %s)", dd_status_name(status), err.message, part);
    }
}

/* Replaces every `from` in a file by `to`, which is as long, and expects a refusal; then puts the file back. */
static void expect_refusal_after(const char *name, const char *from, const char *to, const char *part) {
    struct bytes file = read_file(name), changed = read_file(name);
    size_t length = strlen(from), found = 0;
    assert_int_equal(length, strlen(to));
    for (size_t i = 0; i + length <= changed.len; i++) {
        if (memcmp(changed.data + i, from, length) == 0) {
            memcpy(changed.data + i, to, length);
            found++;
        }
    }
    assert_true(found > 0);
    write_file(name, changed.data, changed.len);
    expect_refusal(part);
    write_file(name, file.data, file.len);
    free(file.data);
    free(changed.data);
}

/* Where a tensor's bytes begin in the file. */
static size_t place_of(const struct bytes *file, const char *name) {
    char key[160];
    uint64_t header;
    memcpy(&header, file->data, sizeof header);
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = memmem(file->data + 8, (size_t)header, key, strlen(key));
    assert_non_null(at);
    at = strstr(at, "\"data_offsets\":[") + strlen("\"data_offsets\":[");
    return 8 + (size_t)header + (size_t)strtoull(at, NULL, 10);
}

static void expect_refusal_with(const char *tensor, size_t offset, const void *value, size_t count, const char *part) {
    struct bytes file = read_file("model.safetensors"), changed = read_file("model.safetensors");
    memcpy(changed.data + place_of(&changed, tensor) + offset, value, count);
    write_file("model.safetensors", changed.data, changed.len);
    expect_refusal(part);
    write_file("model.safetensors", file.data, file.len);
    free(file.data);
    free(changed.data);
}

#define QUERY "bert.encoder.layer.1.attention.self.query.weight"

static void test_hostile_files(void **state) {
    (void)state;
    struct dd_model *made = quantized(), *read = NULL;
    struct dd_error err;
    must(dd_model_save(made, dir, NULL, &err), &err);
    dd_model_free(made);
    const int8_t low = -128;
    const float nan = NAN, negative = -1.0f, infinite = INFINITY;
    expect_refusal_with(QUERY, 5, &low, 1, "-128");
    expect_refusal_with("bert.embeddings.word_embeddings.weight", 0, &low, 1, "-128");
    expect_refusal_with(QUERY "_scale", 0, &nan, 4, "_scale holds");
    expect_refusal_with(QUERY "_scale", 60, &negative, 4, "_scale holds");
    expect_refusal_with("bert.pooler.dense.weight_scale", 0, &infinite, 4, "_scale holds");
    expect_refusal_with("classifier.weight", 0, &nan, 4, "classifier.weight");
    expect_refusal_after("model.safetensors", QUERY "_scale", QUERY "_scald", "does not foresee");
    expect_refusal_after("model.safetensors", "bert.pooler.dense.weight_scale", "bert.pooler.dense.weight_scald",
                         "bert.pooler.dense.weight_scale is missing");
    expect_refusal_after("model.safetensors", "\"dtype\":\"I8\",\"shape\":[65,16]",
                         "\"dtype\":\"U8\",\"shape\":[65,16]", "not of type int8");
    expect_refusal_after("model.safetensors", "\"dtype\":\"I8\",\"shape\":[65,16]",
                         "\"dtype\":\"I8\",\"shape\":[16,65]", "the configuration asks for [65, 16]");
    expect_refusal_after("config.json", "\"distilld_int8\"", "\"distilld_int9\"", "only distilld's own");
    expect_refusal_after("config.json", "distilld_int8_bert", "distilld_int9_bert", "only bert is supported");
    expect_refusal_after("config.json", "\"version\":\t1", "\"version\":\t2", "another version");
    expect_refusal_after("config.json", "quantization_config", "quantization_Config", "model_type says");
    must(dd_model_load(dir, &read, &err), &err);
    dd_model_free(read);
}

/* An fp32 file under a configuration that says int8. */
static void test_fp32_that_says_int8(void **state) {
    (void)state;
    struct dd_model *made = quantized();
    struct dd_error err;
    must(dd_model_save(made, dir, NULL, &err), &err);
    dd_model_free(made);
    struct bytes config = read_file("config.json");
    must(dd_model_save(model, dir, NULL, &err), &err);
    write_file("config.json", config.data, config.len);
    expect_refusal("not of type int8");
    free(config.data);
}

/* Whatever is damaged: an error or a model that answers, never a crash. */
static void test_random_damage(void **state) {
    (void)state;
    struct dd_model *made = quantized();
    struct dd_error err;
    must(dd_model_save(made, dir, NULL, &err), &err);
    dd_model_free(made);
    struct bytes file = read_file("model.safetensors");
    unsigned random = 5;
    int refused = 0;
    for (int i = 0; i < 300; i++) {
        char *damaged = dd_calloc(file.len, 1);
        memcpy(damaged, file.data, file.len);
        size_t len = file.len, window = i % 3 == 0 ? file.len : 6000;
        for (unsigned k = fixture_random(&random) % 4 + 1; k > 0; k--) {
            damaged[fixture_random(&random) % window] ^= (char)(1u << fixture_random(&random) % 8);
        }
        if (i % 7 == 0) {
            len = fixture_random(&random) % file.len;
        }
        write_file("model.safetensors", damaged, len);
        struct dd_model *read = NULL;
        if (dd_model_load(dir, &read, &err) == DD_OK) {
            float logits[ROWS * FIXTURE_CLASSES];
            predict(read, pool, logits);
            dd_model_free(read);
        } else {
            assert_int_not_equal(err.status, DD_INTERNAL);
            refused++;
        }
        free(damaged);
    }
    assert_true(refused > 50);
    free(file.data);
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    fixture_path(dir, "int8");
    model = drawn_model(2, 5);
    model->info.parameters = dd_params_values(model->params);
    return dd_pool_new(3, &pool, &err) == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    dd_model_free(model);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_stay_near), cmocka_unit_test(test_any_number_of_threads),
        cmocka_unit_test(test_written_and_read),  cmocka_unit_test(test_refused_where_fp32_is_needed),
        cmocka_unit_test(test_hostile_files),     cmocka_unit_test(test_fp32_that_says_int8),
        cmocka_unit_test(test_random_damage),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
