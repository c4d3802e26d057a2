/* Augmented copies: each operation does what it says to whole words, everything depends on (seed, row, copy) alone, and
 * the ids are pinned. */
#include "train_fixture.h"

#define MASK 4
#define MAX_LENGTH 24

static struct dd_tokenizer *tokenizer; /* w0 … w59, with "##x" and "##y" behind */

/* Single words "w3", words of pieces "w3xy", and rows that fill max_length. */
static const struct example singles[] = {
    {"w1 w2x w3 w4xy w5 w6 w7y w8", NULL, 0},
    {"w11 w12 w13xy w14x w15 w16", NULL, 1},
    {"w21 w22 w23 w24 w25", NULL, 0},
    {"w31xyxyxyxyxyxyxy w32xyxyxyxy w33xy w34 w35 w36 w37 w38", NULL, 0},
    {"w41", NULL, 2}, /* alone in its class */
    {"", NULL, 1},
};
#define SINGLES ((uint32_t)DD_ARRAY_LEN(singles))

static struct dd_packed augmented(const struct example *examples, uint32_t n, struct dd_augment how) {
    struct dd_packed packed = pack_examples(tokenizer, examples, n, MAX_LENGTH);
    struct dd_error err;
    how.tokenizer = tokenizer;
    how.max_length = MAX_LENGTH;
    must(dd_packed_augment(&packed, 0, n, &how, NULL, &err), &err);
    assert_int_equal(packed.rows, n * (uint32_t)(how.copies + 1));
    assert_int_equal(packed.offsets[packed.rows], packed.n_tokens);
    for (uint32_t r = n; r < packed.rows; r++) {
        int length = (int)(packed.offsets[r + 1] - packed.offsets[r]);
        assert_in_range(length, 2, MAX_LENGTH);
        assert_true(length <= packed.longest);
        assert_int_equal(packed.labels[r], -1);
        assert_int_equal(packed.ids[packed.offsets[r]], 2);
        assert_int_equal(packed.ids[packed.offsets[r + 1] - 1], 3);
    }
    return packed;
}

static const int32_t *row_ids(const struct dd_packed *packed, uint32_t row, int *ret_count) {
    *ret_count = (int)(packed->offsets[row + 1] - packed->offsets[row]);
    return packed->ids + packed->offsets[row];
}

static bool same_row(const struct dd_packed *a, uint32_t x, const struct dd_packed *b, uint32_t y) {
    int n = 0, m = 0;
    const int32_t *p = row_ids(a, x, &n), *q = row_ids(b, y, &m);
    return n == m && memcmp(p, q, (size_t)n * sizeof *p) == 0 &&
           memcmp(a->segments + a->offsets[x], b->segments + b->offsets[y], (size_t)n) == 0;
}

static bool continues(int32_t id) {
    return dd_tokenizer_token(tokenizer, id)[0] == '#';
}

static void test_off_is_a_copy(void **state) {
    (void)state;
    struct dd_packed packed = augmented(singles, SINGLES, (struct dd_augment){.seed = 1, .copies = 2});
    for (uint32_t r = 0; r < 2 * SINGLES; r++) {
        assert_true(same_row(&packed, SINGLES + r, &packed, r % SINGLES));
    }
    dd_packed_release(&packed);
}

/* Rows in the midst of others, without labels: the copies that they have as a part of all, and no splice. */
static void test_rows_without_labels(void **state) {
    (void)state;
    const uint32_t first = 2, rows = 3;
    struct dd_augment how = {.seed = 1, .copies = 2, .mask = 0.2, .splice = 1};
    how.tokenizer = tokenizer;
    how.max_length = MAX_LENGTH;
    struct dd_packed some = pack_examples(tokenizer, singles, SINGLES, MAX_LENGTH);
    struct dd_error err;
    for (uint32_t r = first; r < first + rows; r++) {
        some.labels[r] = -1;
    }
    must(dd_packed_augment(&some, first, rows, &how, NULL, &err), &err);
    assert_int_equal(some.rows, SINGLES + 2 * rows);
    how.splice = 0;
    struct dd_packed all = augmented(singles, SINGLES, how);
    for (uint32_t r = 0; r < 2 * rows; r++) {
        assert_true(same_row(&some, SINGLES + r, &all, SINGLES * (1 + r / rows) + first + r % rows));
    }
    dd_packed_release(&some);
    dd_packed_release(&all);
}

/* Labelled rows behind others: a splice takes its half from one of these rows. */
static void test_splice_within_a_part(void **state) {
    (void)state;
    struct dd_augment how = {.seed = 1, .copies = 4, .splice = 1};
    how.tokenizer = tokenizer;
    how.max_length = MAX_LENGTH;
    struct dd_packed packed = pack_examples(tokenizer, singles, SINGLES, MAX_LENGTH);
    struct dd_error err;
    must(dd_packed_augment(&packed, 2, 2, &how, NULL, &err), &err); /* rows 2 and 3, of one class as row 0 is */
    assert_int_equal(packed.rows, SINGLES + 8);
    for (uint32_t r = 0; r < 8; r++) {
        int n = 0, m = 0, k = 0;
        const int32_t *copy = row_ids(&packed, SINGLES + r, &n), *other = row_ids(&packed, 2 + (r + 1) % 2, &m),
                      *own = row_ids(&packed, 2 + r % 2, &k);
        assert_true(m > 0 && k > 1);
        assert_int_equal(copy[1], own[1]);
        assert_int_equal(copy[n - 2], other[m - 2]);
    }
    dd_packed_release(&packed);
}

/* Whole words, as often as asked. */
static void test_mask(void **state) {
    (void)state;
    const int copies = 2000;
    struct dd_packed packed = augmented(singles, 1, (struct dd_augment){.seed = 1, .copies = copies, .mask = 0.3});
    int n = 0, words = 0, masked = 0;
    const int32_t *source = row_ids(&packed, 0, &n);
    for (uint32_t r = 1; r < packed.rows; r++) {
        int m = 0;
        const int32_t *ids = row_ids(&packed, r, &m);
        assert_int_equal(m, n);
        for (int t = 1; t < n - 1; t++) {
            assert_true(ids[t] == source[t] || ids[t] == MASK);
            if (continues(source[t])) {
                assert_int_equal(ids[t] == MASK, ids[t - 1] == MASK);
            } else {
                words++;
                masked += ids[t] == MASK;
            }
        }
    }
    assert_int_equal(words, 8 * copies);
    assert_in_range(masked, 8 * copies * 0.28, 8 * copies * 0.32); /* 3.8 standard deviations; the seed is fixed */
    dd_packed_release(&packed);
}

static void test_mask_everything(void **state) {
    (void)state;
    struct dd_packed packed = augmented(singles, SINGLES, (struct dd_augment){.seed = 1, .copies = 1, .mask = 1});
    for (uint32_t r = SINGLES; r < packed.rows; r++) {
        int n = 0;
        const int32_t *ids = row_ids(&packed, r, &n);
        for (int t = 1; t < n - 1; t++) {
            assert_int_equal(ids[t], MASK);
        }
    }
    dd_packed_release(&packed);
}

/* 1 … 5 words behind one another of the source, each number and each place. */
static void test_ngram(void **state) {
    (void)state;
    struct dd_packed packed = augmented(singles, 1, (struct dd_augment){.seed = 3, .copies = 500, .ngram = 1});
    int n = 0, lengths[9] = {0}, begins[9] = {0};
    const int32_t *source = row_ids(&packed, 0, &n);
    for (uint32_t r = 1; r < packed.rows; r++) {
        int m = 0, words = 0, at = 1, begin = 0;
        const int32_t *ids = row_ids(&packed, r, &m);
        for (int t = 1; t < m - 1; t++) {
            words += !continues(ids[t]);
        }
        while (source[at] != ids[1]) {
            begin += !continues(source[at++]);
            assert_true(at < n - 1);
        }
        assert_memory_equal(source + at, ids + 1, (size_t)(m - 2) * sizeof *ids);
        assert_false(continues(ids[1]));
        assert_false(continues(source[at + m - 2])); /* the last word is whole */
        lengths[words]++;
        begins[begin]++;
    }
    for (int w = 1; w <= 5; w++) {
        assert_in_range(lengths[w], 70, 130);
    }
    for (int b = 0; b < 8; b++) {
        assert_true(begins[b] > 0);
    }
    dd_packed_release(&packed);
}

/* Own first half, then the second half of another row of the class; a class of one has no other. */
static void test_splice(void **state) {
    (void)state;
    static const struct example rows[] = {
        {"w1 w2x w3 w4", NULL, 0}, {"w11 w12", NULL, 1}, {"w21x w22 w23xy", NULL, 0}, {"w31 w32", NULL, 0}};
    static const struct example expected[] = {
        {"w1 w2x w23xy", NULL, 0}, {"w1 w2x w32", NULL, 0}, {"w11 w12", NULL, 1},  {"w21x w22 w3 w4", NULL, 0},
        {"w21x w22 w32", NULL, 0}, {"w31 w3 w4", NULL, 0},  {"w31 w23xy", NULL, 0}};
    static const int source_of[] = {0, 0, 1, 2, 2, 3, 3};
    enum { N = 4, COPIES = 40 };
    struct dd_packed packed = augmented(rows, N, (struct dd_augment){.seed = 5, .copies = COPIES, .splice = 1});
    struct dd_packed wanted = pack_examples(tokenizer, expected, DD_ARRAY_LEN(expected), MAX_LENGTH);
    int found[DD_ARRAY_LEN(expected)] = {0};
    for (uint32_t r = N; r < packed.rows; r++) {
        int hits = 0;
        for (uint32_t e = 0; e < DD_ARRAY_LEN(expected); e++) {
            if (source_of[e] == (int)(r % N) && same_row(&packed, r, &wanted, e)) {
                found[e]++;
                hits++;
            }
        }
        assert_int_equal(hits, 1);
    }
    for (size_t e = 0; e < DD_ARRAY_LEN(expected); e++) {
        assert_true(found[e] > 0);
    }
    dd_packed_release(&packed);
    dd_packed_release(&wanted);
}

/* Two halves that are long in pieces are cut to max_length (checked for every row in augmented). */
static void test_long_splices_are_cut(void **state) {
    (void)state;
    static const struct example rows[] = {{"w1xyxyxyxyxyxyxyxyxyxy w2", "w3xyxyxyxyxy w4", 0},
                                          {"w5 w6xyxyxyxyxyxyxyxyxyxy", "w7 w8xyxyxyxyxyxyxy", 0}};
    struct dd_packed pairs = augmented(rows, 2, (struct dd_augment){.seed = 5, .copies = 6, .splice = 1});
    struct dd_packed alone = augmented(singles, SINGLES, (struct dd_augment){.seed = 5, .copies = 6, .splice = 1});
    assert_int_equal(pairs.longest, MAX_LENGTH);
    assert_int_equal(alone.longest, MAX_LENGTH);
    dd_packed_release(&pairs);
    dd_packed_release(&alone);
}

/* Copy 1 changes the first text only, copy 2 the second only, copy 3 both. */
static void test_pairs_take_turns(void **state) {
    (void)state;
    static const struct example rows[] = {{"w1 w2 w3", "w4 w5", 0}};
    struct dd_packed packed = augmented(rows, 1, (struct dd_augment){.seed = 1, .copies = 6, .mask = 1});
    static const int32_t expected[3][8] = {
        {2, MASK, MASK, MASK, 3, 9, 10, 3}, {2, 6, 7, 8, 3, MASK, MASK, 3}, {2, MASK, MASK, MASK, 3, MASK, MASK, 3}};
    static const uint8_t segments[8] = {0, 0, 0, 0, 0, 1, 1, 1};
    for (uint32_t copy = 0; copy < 6; copy++) {
        int n = 0;
        const int32_t *ids = row_ids(&packed, 1 + copy, &n);
        assert_int_equal(n, 8);
        assert_memory_equal(ids, expected[copy % 3], sizeof expected[0]);
        assert_memory_equal(packed.segments + packed.offsets[1 + copy], segments, sizeof segments);
    }
    dd_packed_release(&packed);
}

static const struct dd_augment everything = {.seed = 9, .copies = 3, .mask = 0.2, .ngram = 0.3, .splice = 0.5};

/* More copies leave the ones before as they are, another seed does not. */
static void test_row_and_copy_decide(void **state) {
    (void)state;
    struct dd_augment fewer = everything, other = everything;
    fewer.copies = 1;
    other.seed++;
    struct dd_packed a = augmented(singles, SINGLES, everything), b = augmented(singles, SINGLES, fewer),
                     c = augmented(singles, SINGLES, other);
    int same = 0;
    for (uint32_t r = SINGLES; r < b.rows; r++) {
        assert_true(same_row(&a, r, &b, r));
    }
    for (uint32_t r = SINGLES; r < a.rows; r++) {
        same += same_row(&a, r, &c, r);
    }
    assert_true(same < 10); /* of 18; the row without words is one of them three times */
    dd_packed_release(&a);
    dd_packed_release(&b);
    dd_packed_release(&c);
}

/* What a seed gives is for ever: stored runs and cached logits rest on it. */
static void test_ids_are_pinned(void **state) {
    (void)state;
    struct dd_packed packed = augmented(singles, SINGLES, everything);
    uint8_t digest[DD_SHA256_BYTES];
    char hex[DD_SHA256_HEX_BYTES];
    struct dd_error err;
    must(dd_packed_digest(&packed, digest, &err), &err);
    dd_hex(digest, sizeof digest, hex);
    assert_string_equal(hex, "87aac93ee9f9cdb0bfa353df266dbfb83c39c909b3b98f07fe3782df6d19c825");
    dd_packed_release(&packed);
}

static void test_what_cannot_be_done_is_refused(void **state) {
    (void)state;
    static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nw1\n";
    const struct dd_tokenizer_options options = {true, true, true};
    struct dd_tokenizer *bare = NULL;
    struct dd_error err;
    must(dd_tokenizer_new(vocab, sizeof vocab - 1, &options, &bare, &err), &err);
    struct dd_augment how = {.tokenizer = bare, .max_length = MAX_LENGTH, .copies = 1, .mask = 0.1};
    static const struct example row[] = {{"w1", NULL, 0}};
    struct dd_packed packed = pack_examples(tokenizer, row, 1, MAX_LENGTH);
    assert_int_equal(dd_packed_augment(&packed, 0, 1, &how, NULL, &err), DD_INVALID);
    assert_string_equal(err.code, "mask_token_missing");
    how.mask = 0;
    how.ngram = 1;
    must(dd_packed_augment(&packed, 0, 1, &how, NULL, &err), &err);
    struct dd_cancel cancel = {DD_STOP_CANCEL};
    assert_int_equal(dd_packed_augment(&packed, 0, 1, &how, &cancel, &err), DD_STOPPED);
    packed.rows = UINT32_MAX - 1;
    assert_int_equal(dd_packed_augment(&packed, 0, 1, &how, NULL, &err), DD_TOO_LARGE);
    assert_string_equal(err.code, "dataset_too_large");
    dd_packed_release(&packed);
    dd_tokenizer_free(bare);
}

static int set_up(void **state) {
    (void)state;
    struct dd_buffer vocab;
    dd_buffer_init(&vocab, 1 << 16);
    dd_buffer_puts(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    for (int w = 0; w < FIXTURE_WORDS; w++) {
        dd_buffer_printf(&vocab, "w%d\n", w);
    }
    dd_buffer_puts(&vocab, "##x\n##y\n");
    const struct dd_tokenizer_options options = {true, true, true};
    struct dd_error err;
    enum dd_status status = dd_tokenizer_new(vocab.data, vocab.len, &options, &tokenizer, &err);
    dd_buffer_release(&vocab);
    return status == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    dd_tokenizer_free(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off_is_a_copy),
        cmocka_unit_test(test_rows_without_labels),
        cmocka_unit_test(test_splice_within_a_part),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_mask_everything),
        cmocka_unit_test(test_ngram),
        cmocka_unit_test(test_splice),
        cmocka_unit_test(test_long_splices_are_cut),
        cmocka_unit_test(test_pairs_take_turns),
        cmocka_unit_test(test_row_and_copy_decide),
        cmocka_unit_test(test_ids_are_pinned),
        cmocka_unit_test(test_what_cannot_be_done_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
