/* The tokenizer against ids that the Rust library gave (tests/golden/make_tokenizer.py), and on hostile input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants these four first */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/words.h"

#define IDS_MAX 512

static struct dd_tokenizer *open_vocab(const char *vocab, size_t bytes, bool lower, bool strip) {
    struct dd_tokenizer_options options = {
        .do_lower_case = lower, .strip_accents = strip, .tokenize_chinese_chars = true};
    struct dd_tokenizer *tokenizer = NULL;
    struct dd_error error;
    enum dd_status status = dd_tokenizer_new(vocab, bytes, &options, &tokenizer, &error);
    if (status) {
        fail_msg("%s", error.message);
    }
    return tokenizer;
}

static struct dd_tokenizer *open_text(const char *vocab) {
    return open_vocab(vocab, strlen(vocab), true, true);
}

/* Decodes in place; returns the bytes. */
static size_t from_hex(char *hex) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        hex[i] = (char)byte;
    }
    return n;
}

static void check_case(struct dd_tokenizer *const tokenizers[4], char *line) {
    bool lower = atoi(strsep(&line, "\t")), strip = atoi(strsep(&line, "\t"));
    int max_length = atoi(strsep(&line, "\t"));
    char *text = strsep(&line, "\t"), *pair = strsep(&line, "\t");
    size_t text_bytes = from_hex(text), pair_bytes = 0;
    bool has_pair = strcmp(pair, "-") != 0;
    if (has_pair) {
        pair_bytes = from_hex(pair);
    }
    int32_t ids[IDS_MAX];
    uint8_t segments[IDS_MAX];
    int count = 0;
    assert_int_equal(dd_tokenizer_encode(tokenizers[lower * 2 + strip], text, text_bytes, has_pair ? pair : NULL,
                                         pair_bytes, max_length, ids, segments, &count, NULL),
                     DD_OK);
    int expected = 0;
    uint8_t segment = 0;
    for (char *id; (id = strsep(&line, " ")); expected++) {
        assert_true(expected < count);
        assert_int_equal(ids[expected], atoi(id));
        assert_int_equal(segments[expected], segment);
        segment = segment || ids[expected] == 3; /* after the first [SEP] */
    }
    assert_int_equal(count, expected);
}

static void test_golden_ids(void **state) {
    (void)state;
    char *vocab = NULL, *cases = NULL;
    size_t vocab_bytes, cases_bytes;
    assert_int_equal(dd_file_read("tests/golden/fixtures/tokenizer/vocab.txt", 1 << 20, &vocab, &vocab_bytes, NULL),
                     DD_OK);
    assert_int_equal(dd_file_read("tests/golden/fixtures/tokenizer/cases.tsv", 1 << 20, &cases, &cases_bytes, NULL),
                     DD_OK);
    struct dd_tokenizer *tokenizers[4];
    for (int i = 0; i < 4; i++) {
        tokenizers[i] = open_vocab(vocab, vocab_bytes, i & 2, i & 1);
    }
    int n = 0;
    char *rest = cases;
    for (char *line; (line = strsep(&rest, "\n")) && *line; n++) {
        check_case(tokenizers, line);
    }
    assert_true(n > 1000);
    for (int i = 0; i < 4; i++) {
        dd_tokenizer_free(tokenizers[i]);
    }
    free(vocab);
    free(cases);
}

static int encode(const struct dd_tokenizer *tokenizer, const char *text, int32_t ids[IDS_MAX]) {
    int count = 0;
    assert_int_equal(dd_tokenizer_encode(tokenizer, text, strlen(text), NULL, 0, IDS_MAX, ids, NULL, &count, NULL),
                     DD_OK);
    return count;
}

static void test_vocabulary_lines(void **state) {
    (void)state;
    static const char vocab[] = "[PAD]\r\n[UNK]\r\n\r\n[CLS]\r\n[SEP]\r\na\r\n##b\r\na\r\n##\r\nc";
    struct dd_tokenizer *tokenizer = open_text(vocab);
    assert_int_equal(dd_tokenizer_size(tokenizer), 10);
    assert_string_equal(dd_tokenizer_token(tokenizer, 2), "");
    assert_string_equal(dd_tokenizer_token(tokenizer, 6), "##b");
    assert_string_equal(dd_tokenizer_token(tokenizer, 9), "c");
    assert_null(dd_tokenizer_token(tokenizer, 10));
    assert_null(dd_tokenizer_token(tokenizer, -1));
    size_t bytes;
    assert_memory_equal(dd_tokenizer_vocab(tokenizer, &bytes), vocab, sizeof vocab - 1);
    assert_int_equal(bytes, sizeof vocab - 1);
    int32_t ids[IDS_MAX];
    assert_int_equal(encode(tokenizer, "ab C abc", ids), 6);
    static const int32_t expected[] = {3, 7, 6, 9, 1, 4}; /* of two lines "a" the last one counts */
    assert_memory_equal(ids, expected, sizeof expected);
    dd_tokenizer_free(tokenizer);
}

static void test_bad_vocabularies(void **state) {
    (void)state;
    static const struct {
        const char *vocab;
        size_t bytes;
        const char *says;
    } cases[] = {
        {"", 0, "[UNK]"},
        {"[PAD]\n[CLS]\n[SEP]\n", 18, "[UNK]"},
        {"[PAD]\n[UNK]\n[SEP]\n", 18, "[CLS]"},
        {"[UNK]\n[CLS]\n[SEP]\n", 18, "[PAD]"},
        {"[PAD]\n\xC3\n", 8, "line 2"},
        {"[PAD]\na\0b\n", 10, "line 2"},
    };
    struct dd_tokenizer_options options = {.do_lower_case = true};
    struct dd_tokenizer *tokenizer = NULL;
    struct dd_error error;
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        assert_int_equal(dd_tokenizer_new(cases[i].vocab, cases[i].bytes, &options, &tokenizer, &error), DD_CORRUPT);
        assert_non_null(strstr(error.message, cases[i].says));
    }
    size_t bytes = ((size_t)1 << 20) + 1;
    char *lines = malloc(bytes);
    assert_non_null(lines);
    memset(lines, '\n', bytes);
    assert_int_equal(dd_tokenizer_new(lines, bytes, &options, &tokenizer, &error), DD_CORRUPT);
    assert_null(tokenizer);
    free(lines);
}

static const char small_vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##a\nb\n[\n]\nsep\n";

static void test_truncation(void **state) {
    (void)state;
    struct dd_tokenizer *tokenizer = open_text(small_vocab);
    int32_t ids[IDS_MAX];
    uint8_t segments[IDS_MAX];
    struct {
        int max_length, a, b;
    } cases[] = {{20, 5, 7}, {15, 5, 7}, {14, 5, 6}, {12, 4, 5}, {11, 4, 4}, {10, 3, 4}, {4, 0, 1}, {3, 0, 0}};
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        int count = 0;
        assert_int_equal(dd_tokenizer_encode(tokenizer, "aaaaa", 5, "b b b b b b b", 13, cases[i].max_length, ids,
                                             segments, &count, NULL),
                         DD_OK);
        assert_int_equal(count, cases[i].a + cases[i].b + 3);
        assert_int_equal(ids[cases[i].a + 1], 3);
        assert_int_equal(segments[cases[i].a + 1], 0);
        assert_int_equal(segments[cases[i].a + 2], 1);
        assert_int_equal(ids[count - 1], 3);
    }
    struct dd_error error;
    int count = 0;
    assert_int_equal(dd_tokenizer_encode(tokenizer, "a", 1, NULL, 0, 1, ids, NULL, &count, &error), DD_INVALID);
    assert_int_equal(dd_tokenizer_encode(tokenizer, "a", 1, "b", 1, 2, ids, NULL, &count, &error), DD_INVALID);
    assert_int_equal(dd_tokenizer_encode(tokenizer, "a", 1, NULL, 0, 2, ids, NULL, &count, &error), DD_OK);
    assert_int_equal(count, 2);
    dd_tokenizer_free(tokenizer);
}

static void test_words_up_to_100_characters(void **state) {
    (void)state;
    struct dd_tokenizer *tokenizer = open_text(small_vocab);
    char word[DD_WORD_CHARS + 2];
    memset(word, 'a', sizeof word);
    word[DD_WORD_CHARS] = '\0';
    int32_t ids[IDS_MAX];
    assert_int_equal(encode(tokenizer, word, ids), 102);
    word[DD_WORD_CHARS] = 'a';
    word[DD_WORD_CHARS + 1] = '\0';
    assert_int_equal(encode(tokenizer, word, ids), 3);
    assert_int_equal(ids[1], 1);
    dd_tokenizer_free(tokenizer);
}

static void test_special_tokens_in_text_are_text(void **state) {
    (void)state;
    struct dd_tokenizer *tokenizer = open_text(small_vocab);
    int32_t ids[IDS_MAX];
    assert_int_equal(encode(tokenizer, "[SEP]", ids), 5);
    static const int32_t expected[] = {2, 7, 9, 8, 3};
    assert_memory_equal(ids, expected, sizeof expected);
    dd_tokenizer_free(tokenizer);
}

/* Any bytes give ids within the vocabulary, and dropping what is not UTF-8 changes nothing. */
static void test_random_bytes(void **state) {
    (void)state;
    char *vocab = NULL;
    size_t vocab_bytes;
    assert_int_equal(dd_file_read("tests/golden/fixtures/tokenizer/vocab.txt", 1 << 20, &vocab, &vocab_bytes, NULL),
                     DD_OK);
    static const char heads[] = "\xC3\xE4\xED\xF0\xF4\xCC\x80\xB8\xA9\x9F\xFF\xC0 aA";
    srand(5);
    for (int setting = 0; setting < 4; setting++) {
        struct dd_tokenizer *tokenizer = open_vocab(vocab, vocab_bytes, setting & 2, setting & 1);
        for (int round = 0; round < 3000; round++) {
            char bytes[64], clean[64];
            size_t n = (size_t)rand() % sizeof bytes, n_clean = 0;
            for (size_t i = 0; i < n; i++) {
                bytes[i] = rand() % 3 ? heads[(size_t)rand() % (sizeof heads - 1)] : (char)rand();
            }
            for (const char *at = bytes; at < bytes + n;) {
                const char *from = at;
                if (dd_utf8_next(&at, bytes + n) != DD_CHAR_REPLACEMENT) {
                    memcpy(clean + n_clean, from, (size_t)(at - from));
                    n_clean += (size_t)(at - from);
                }
            }
            int32_t ids[IDS_MAX], clean_ids[IDS_MAX];
            int count = 0, clean_count = 0;
            int max_length = 3 + rand() % 40;
            assert_int_equal(
                dd_tokenizer_encode(tokenizer, bytes, n, bytes, n / 2, max_length, ids, NULL, &count, NULL), DD_OK);
            assert_in_range(count, 3, max_length);
            for (int i = 0; i < count; i++) {
                assert_non_null(dd_tokenizer_token(tokenizer, ids[i]));
            }
            assert_true(dd_utf8_valid(clean, n_clean));
            assert_int_equal(dd_tokenizer_encode(tokenizer, bytes, n, NULL, 0, IDS_MAX, ids, NULL, &count, NULL),
                             DD_OK);
            assert_int_equal(
                dd_tokenizer_encode(tokenizer, clean, n_clean, NULL, 0, IDS_MAX, clean_ids, NULL, &clean_count, NULL),
                DD_OK);
            assert_int_equal(count, clean_count);
            assert_memory_equal(ids, clean_ids, (size_t)count * sizeof *ids);
        }
        dd_tokenizer_free(tokenizer);
    }
    free(vocab);
}

static void test_utf8(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        bool valid;
        size_t count;
    } cases[] = {
        {"", true, 0},
        {"a\xC2\x80\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", true, 7},
        {"\xEF\xBF\xBD", true, 1},
        {"\xC0\x80", false, 2},         /* overlong */
        {"\xE0\x9F\xBF", false, 3},     /* overlong */
        {"\xF0\x8F\xBF\xBF", false, 4}, /* overlong */
        {"\xED\xA0\x80", false, 3},     /* a surrogate */
        {"\xF4\x90\x80\x80", false, 4}, /* beyond U+10FFFF */
        {"\xE4\xB8", false, 2},         /* cut off */
        {"\x80", false, 1},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        assert_int_equal(dd_utf8_valid(cases[i].bytes, strlen(cases[i].bytes)), cases[i].valid);
        assert_int_equal(dd_utf8_count(cases[i].bytes, strlen(cases[i].bytes)), cases[i].count);
    }
    for (uint32_t c = 1; c <= DD_CHAR_LAST; c++) {
        char bytes[4];
        if (c >= 0xD800 && c < 0xE000) {
            continue;
        }
        size_t n = dd_utf8_put(bytes, c);
        const char *at = bytes;
        assert_int_equal(dd_utf8_next(&at, bytes + n), c);
        assert_ptr_equal(at, bytes + n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_ids),
        cmocka_unit_test(test_vocabulary_lines),
        cmocka_unit_test(test_bad_vocabularies),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_words_up_to_100_characters),
        cmocka_unit_test(test_special_tokens_in_text_are_text),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
