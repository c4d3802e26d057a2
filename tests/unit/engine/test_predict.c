/* Prediction: the logits of a row do not depend on its company, and come back in its place. */
#include "train_fixture.h"

static struct dd_pool *pool;
static struct dd_model *model;

#define MANY 3000

static void test_order_and_company(void **state) {
    (void)state;
    struct dd_predictor *predictor = NULL;
    struct dd_error err;
    must(dd_predictor_new(model, pool, 24, &predictor, &err), &err);
    struct dd_row *rows = dd_calloc(MANY, sizeof *rows);
    for (int r = 0; r < MANY; r++) {
        dd_dataset_row(fixture_dataset, DD_SPLIT_TRAIN, (uint64_t)(r * 7 % 70), &rows[r]);
    }
    float *logits = dd_calloc(MANY * FIXTURE_CLASSES, sizeof *logits);
    must(dd_predict(predictor, rows, MANY, NULL, logits, &err), &err);
    for (int r = 0; r < 140; r++) {
        float alone[FIXTURE_CLASSES];
        must(dd_predict(predictor, &rows[r], 1, NULL, alone, &err), &err);
        for (int c = 0; c < FIXTURE_CLASSES; c++) {
            assert_float_equal(alone[c], logits[r * FIXTURE_CLASSES + c], 1e-5);
        }
        assert_memory_equal(logits + r * FIXTURE_CLASSES, logits + (r + 70) * FIXTURE_CLASSES,
                            FIXTURE_CLASSES * sizeof *logits);
    }
    assert_true(fabsf(logits[0] - logits[FIXTURE_CLASSES]) > 1e-4f);
    must(dd_predict(predictor, rows, 0, NULL, logits, &err), &err);
    struct dd_cancel cancel = {DD_STOP_CANCEL};
    assert_int_equal(dd_predict(predictor, rows, 3, &cancel, logits, &err), DD_STOPPED);
    free(rows);
    free(logits);
    dd_predictor_free(predictor);
}

static void test_odd_texts(void **state) {
    (void)state;
    struct dd_predictor *predictor = NULL;
    struct dd_error err;
    must(dd_predictor_new(model, pool, 24, &predictor, &err), &err);
    char *long_text = dd_calloc(100001, 1);
    memset(long_text, 'w', 100000);
    const struct dd_row rows[] = {{.text = "", .text_bytes = 0},
                                  {.text = "w1 w2", .text_bytes = 5, .pair = "w3", .pair_bytes = 2},
                                  {.text = "\xff\xfe\x00w1", .text_bytes = 5},
                                  {.text = long_text, .text_bytes = 100000}};
    float logits[DD_ARRAY_LEN(rows) * FIXTURE_CLASSES];
    must(dd_predict(predictor, rows, DD_ARRAY_LEN(rows), NULL, logits, &err), &err);
    for (size_t i = 0; i < DD_ARRAY_LEN(logits); i++) {
        assert_true(isfinite(logits[i]));
    }
    free(long_text);
    dd_predictor_free(predictor);
}

static void test_models_that_cannot_answer(void **state) {
    (void)state;
    struct dd_predictor *predictor = NULL;
    struct dd_error err;
    struct dd_model other = *model;
    other.tokenizer = NULL;
    assert_int_equal(dd_predictor_new(&other, pool, 24, &predictor, &err), DD_INVALID);
    assert_string_equal(err.code, "model_without_vocabulary");
    other = *model;
    other.info.kind = DD_MODEL_ENCODER;
    assert_int_equal(dd_predictor_new(&other, pool, 24, &predictor, &err), DD_INVALID);
    assert_string_equal(err.code, "model_is_an_encoder");
    assert_int_equal(dd_predictor_new(model, pool, 65, &predictor, &err), DD_INVALID);
    assert_string_equal(err.code, "max_length_invalid");
    assert_null(predictor);
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    model = drawn_model(2, 5);
    return dd_pool_new(2, &pool, &err) == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    dd_model_free(model);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_company),
        cmocka_unit_test(test_odd_texts),
        cmocka_unit_test(test_models_that_cannot_answer),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
