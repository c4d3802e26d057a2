/* Packed rows and the batches gathered from them. */
#include "train_fixture.h"

static struct dd_pool *pool;
static struct dd_team *team;
static struct dd_model *model;

static void pack(const struct dd_dataset *dataset, int max_length, struct dd_packed *packed) {
    const struct dd_split_rows rows = {.dataset = dataset, .split = DD_SPLIT_TRAIN};
    const struct dd_row_source source = dd_source_of_split(&rows);
    struct dd_error err;
    must(dd_packed_build(&source, model->tokenizer, &model->info.config, max_length, team, NULL, NULL, packed, &err),
         &err);
}

/* More rows than a wave holds: every row is what the tokenizer makes of it. */
static void test_packing_is_tokenizing_row_by_row(void **state) {
    (void)state;
    struct dd_dataset *dataset = make_dataset("many", 4500, 10, 0);
    static const int max_lengths[] = {5, 40};
    for (size_t i = 0; i < DD_ARRAY_LEN(max_lengths); i++) {
        struct dd_packed packed = {0};
        pack(dataset, max_lengths[i], &packed);
        assert_int_equal(packed.rows, 4500);
        assert_int_equal(packed.offsets[packed.rows], packed.n_tokens);
        int longest = 0;
        for (uint32_t r = 0; r < packed.rows; r++) {
            struct dd_row row;
            int32_t ids[64];
            uint8_t segments[64];
            int count = 0;
            struct dd_error err;
            dd_dataset_row(dataset, DD_SPLIT_TRAIN, r, &row);
            must(dd_tokenizer_encode(model->tokenizer, row.text, row.text_bytes, NULL, 0, max_lengths[i], ids, segments,
                                     &count, &err),
                 &err);
            assert_int_equal(packed.offsets[r + 1] - packed.offsets[r], count);
            assert_memory_equal(packed.ids + packed.offsets[r], ids, (size_t)count * sizeof *ids);
            assert_memory_equal(packed.segments + packed.offsets[r], segments, (size_t)count);
            assert_int_equal(packed.labels[r], row.label);
            longest = DD_MAX(longest, count);
        }
        assert_int_equal(packed.longest, longest);
        dd_packed_release(&packed);
    }
    dd_dataset_free(dataset);
}

static void test_digest_sees_every_token(void **state) {
    (void)state;
    struct dd_packed packed = {0};
    uint8_t whole[DD_SHA256_BYTES], other[DD_SHA256_BYTES];
    struct dd_error err;
    pack(fixture_dataset, 20, &packed);
    must(dd_packed_digest(&packed, whole, &err), &err);
    must(dd_packed_digest(&packed, other, &err), &err);
    assert_memory_equal(whole, other, sizeof whole);
    packed.labels[3] = 9; /* what a model does not see */
    must(dd_packed_digest(&packed, other, &err), &err);
    assert_memory_equal(whole, other, sizeof whole);
    packed.ids[packed.n_tokens - 1]++;
    must(dd_packed_digest(&packed, other, &err), &err);
    assert_memory_not_equal(whole, other, sizeof whole);
    packed.ids[packed.n_tokens - 1]--;
    packed.segments[5] ^= 1;
    must(dd_packed_digest(&packed, other, &err), &err);
    assert_memory_not_equal(whole, other, sizeof whole);
    packed.segments[5] ^= 1;
    packed.offsets[4]++;
    must(dd_packed_digest(&packed, other, &err), &err);
    assert_memory_not_equal(whole, other, sizeof whole);
    dd_packed_release(&packed);
}

static void test_gathering(void **state) {
    (void)state;
    struct dd_packed packed = {0};
    struct dd_gather gather = {0};
    struct dd_error err;
    pack(fixture_dataset, 20, &packed);
    uint64_t largest = dd_packed_largest_batch(&packed, 3);
    assert_in_range(largest, 3, 60);
    assert_int_equal(dd_packed_largest_batch(&packed, 1), packed.longest);
    assert_int_equal(dd_packed_largest_batch(&packed, 1000), packed.n_tokens);
    must(dd_gather_init(&gather, (int)largest, 3, &err), &err);
    const uint32_t rows[] = {69, 0, 17};
    dd_gather_rows(&gather, &packed, rows, 3);
    assert_int_equal(gather.batch.n_sequences, 3);
    assert_int_equal(gather.batch.offsets[0], 0);
    assert_int_equal(gather.batch.offsets[3], gather.batch.n_tokens);
    for (int s = 0; s < 3; s++) {
        uint64_t from = packed.offsets[rows[s]], count = packed.offsets[rows[s] + 1] - from;
        assert_int_equal(gather.batch.offsets[s + 1] - gather.batch.offsets[s], count);
        assert_memory_equal(gather.batch.ids + gather.batch.offsets[s], packed.ids + from, count * sizeof(int32_t));
        assert_int_equal(gather.labels[s], packed.labels[rows[s]]);
    }
    dd_gather_release(&gather);
    dd_packed_release(&packed);
}

/* However rows are put into batches, each gets its own logits. */
static void test_forward_keeps_file_order(void **state) {
    (void)state;
    struct dd_packed packed = {0};
    struct dd_error err;
    pack(fixture_dataset, 20, &packed);
    float *alone = dd_calloc(packed.rows * FIXTURE_CLASSES, sizeof *alone);
    float *batched = dd_calloc(packed.rows * FIXTURE_CLASSES, sizeof *batched);
    static const struct { int tokens, sequences; } bounds[] = {{20, 1}, {64, 8}, {1000, 5}};
    for (size_t i = 0; i < DD_ARRAY_LEN(bounds); i++) {
        struct dd_bert *bert = NULL;
        struct dd_gather gather = {0};
        must(dd_gather_init(&gather, bounds[i].tokens, bounds[i].sequences, &err), &err);
        must(dd_bert_new(&model->info.config, bounds[i].tokens, bounds[i].sequences, 20, false, DD_PRECISION_FP32, team,
                         &bert, &err),
             &err);
        float *out = i == 0 ? alone : batched;
        must(dd_forward_rows(bert, model->params, &packed, &gather, team, FIXTURE_CLASSES, NULL, NULL, out, &err),
             &err);
        for (size_t v = 0; i > 0 && v < packed.rows * FIXTURE_CLASSES; v++) {
            assert_float_equal(alone[v], batched[v], 1e-5);
        }
        struct dd_cancel cancel = {DD_STOP_PAUSE};
        assert_int_equal(
            dd_forward_rows(bert, model->params, &packed, &gather, team, FIXTURE_CLASSES, &cancel, NULL, out, &err),
            DD_STOPPED);
        dd_bert_free(bert);
        dd_gather_release(&gather);
    }
    assert_true(fabsf(alone[0] - alone[FIXTURE_CLASSES]) > 1e-4f); /* rows do differ */
    free(alone);
    free(batched);
    dd_packed_release(&packed);
}

static void test_argmax(void **state) {
    (void)state;
    const float logits[] = {1, 3, 2, 5, 5, 0, -1e30f, 1e30f, 0};
    int32_t label[3];
    float score[3];
    dd_argmax_rows(logits, 3, 3, label, score);
    assert_int_equal(label[0], 1);
    assert_int_equal(label[1], 0); /* the first of equals */
    assert_int_equal(label[2], 1);
    assert_float_equal(score[0], 0.66524096f, 1e-6f);
    assert_float_equal(score[1], 0.49832347f, 1e-5f);
    assert_float_equal(score[2], 1, 0);
}

static void test_what_does_not_fit_is_refused(void **state) {
    (void)state;
    const struct dd_split_rows rows = {.dataset = fixture_dataset, .split = DD_SPLIT_TRAIN};
    struct dd_row_source source = dd_source_of_split(&rows);
    struct dd_bert_config config = model->info.config;
    struct dd_packed packed = {0};
    struct dd_error err;
    config.vocab_size--;
    assert_int_equal(dd_packed_build(&source, model->tokenizer, &config, 20, team, NULL, NULL, &packed, &err),
                     DD_INVALID);
    assert_string_equal(err.code, "vocabulary_too_large");
    config.vocab_size++;
    assert_int_equal(dd_packed_build(&source, model->tokenizer, &config, 65, team, NULL, NULL, &packed, &err),
                     DD_INVALID);
    assert_string_equal(err.code, "max_length_invalid");
    source.rows = (uint64_t)UINT32_MAX + 1;
    assert_int_equal(dd_packed_build(&source, model->tokenizer, &config, 20, team, NULL, NULL, &packed, &err),
                     DD_TOO_LARGE);
    struct dd_cancel cancel = {DD_STOP_CANCEL};
    source = dd_source_of_split(&rows);
    assert_int_equal(dd_packed_build(&source, model->tokenizer, &config, 20, team, &cancel, NULL, &packed, &err),
                     DD_STOPPED);
    assert_null(packed.ids);
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    model = drawn_model(2, 5);
    return dd_pool_new(2, &pool, &err) == DD_OK && dd_team_join(pool, &team, &err) == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    dd_model_free(model);
    dd_team_leave(team);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing_is_tokenizing_row_by_row),
        cmocka_unit_test(test_digest_sees_every_token),
        cmocka_unit_test(test_gathering),
        cmocka_unit_test(test_forward_keeps_file_order),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
