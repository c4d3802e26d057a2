/* The vocabulary builder: base pieces, merges by count, bounds, determinism. */
#include "dataset_fixture.h"

static const struct dd_tokenizer_options uncased = {
    .do_lower_case = true, .strip_accents = true, .tokenize_chinese_chars = true};

static char *build_from(const char *rows, int vocab_size) {
    static int n;
    char target[32];
    snprintf(target, sizeof target, "d%d", n++);
    fixture_write("t.tsv", rows);
    struct fixture_import run = {.names = {"t.tsv", "t.tsv"}};
    assert_int_equal(fixture_run(&run, target), DD_OK);
    struct dd_dataset *dataset = fixture_open(target);
    char *vocab = NULL;
    size_t bytes = 0;
    assert_int_equal(dd_vocab_build(dataset, &uncased, vocab_size, &vocab, &bytes, NULL), DD_OK);
    assert_int_equal(strlen(vocab), bytes);
    dd_dataset_free(dataset);
    return vocab;
}

static void assert_vocab(const char *rows, int vocab_size, const char *expected) {
    char *vocab = build_from(rows, vocab_size);
    assert_string_equal(vocab, expected);
    free(vocab);
}

#define SPECIAL "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"

static void test_base_pieces_and_merges(void **state) {
    (void)state;
    /* low ×5, lower ×2, newest ×6, widest ×3: the example of Sennrich et al. 2016, with "##". */
    static const char rows[] = "low low low low low lower lower\tx\n"
                               "newest newest newest newest newest newest widest widest widest\ty\n";
    static const char base[] =
        SPECIAL "##e\n##w\n##s\n##t\nl\n##o\nn\n##d\n##i\nw\n##r\nd\ne\ni\n##l\n##n\no\nr\ns\nt\n";
    assert_vocab(rows, 25, base);
    char expected[400];
    /* ##es and ##est 9, lo and low 7; then ne, ##ew and ##west have 6, and ##e is the oldest left piece */
    snprintf(expected, sizeof expected, "%s##es\n##est\nlo\nlow\n##ew\nnew\nnewest\n", base);
    assert_vocab(rows, 32, expected);
    assert_vocab(rows, 8, SPECIAL "##e\n##w\n##s\n");
}

static void test_everything_that_occurs_twice_is_merged(void **state) {
    (void)state;
    assert_vocab("aaaa\tx\nzq\ty\n", 1000, SPECIAL "##a\na\n##q\nz\nq\n##z\n##aa\n");
}

static void test_ideographs_and_punctuation_stand_alone(void **state) {
    (void)state;
    assert_vocab("中文中。\tx\n国！\ty\n", 100, SPECIAL "中\n。\n国\n文\n！\n");
}

/* A vocabulary leaves no [UNK] in its own training text, however small the bound, as long as the characters fit. */
static void test_no_unknown_words_in_train(void **state) {
    (void)state;
    static const char rows[] = "The quick brown fox, jumps over 13 lazy dogs! naïve ΑΣ 中文\tx\n"
                               "It's the end; of 2012年 the world (again) http://example.org/~a_b\ty\n";
    for (int size = 100; size < 160; size += 7) {
        char *vocab = build_from(rows, size);
        struct dd_tokenizer *tokenizer = NULL;
        assert_int_equal(dd_tokenizer_new(vocab, strlen(vocab), &uncased, &tokenizer, NULL), DD_OK);
        assert_true(dd_tokenizer_size(tokenizer) <= size);
        char copy[400];
        snprintf(copy, sizeof copy, "%s", rows);
        int32_t ids[512];
        int count = 0;
        assert_int_equal(dd_tokenizer_encode(tokenizer, copy, strlen(copy), NULL, 0, 512, ids, NULL, &count, NULL),
                         DD_OK);
        for (int i = 0; i < count; i++) {
            assert_int_not_equal(ids[i], 1);
        }
        dd_tokenizer_free(tokenizer);
        free(vocab);
    }
}

static void test_order_of_rows_does_not_matter(void **state) {
    (void)state;
    char *one = build_from("banana bandana\tx\ncabana savanna\ty\nananas\tx\n", 60);
    char *other = build_from("ananas\tx\ncabana savanna\ty\nbandana banana\tx\n", 60);
    assert_string_equal(one, other);
    free(one);
    free(other);
}

static void test_bounds(void **state) {
    (void)state;
    fixture_write("t.tsv", "a\tx\nb\ty\n");
    struct fixture_import run = {.names = {"t.tsv", "t.tsv"}};
    assert_int_equal(fixture_run(&run, "d"), DD_OK);
    struct dd_dataset *dataset = fixture_open("d");
    static const int sizes[] = {-1, 0, 5, (1 << 20) + 1};
    for (size_t i = 0; i < DD_ARRAY_LEN(sizes); i++) {
        char *vocab = NULL;
        size_t bytes;
        struct dd_error error;
        assert_int_equal(dd_vocab_build(dataset, &uncased, sizes[i], &vocab, &bytes, &error), DD_INVALID);
        assert_null(vocab);
    }
    dd_dataset_free(dataset);
}

/* More distinct words than are kept: the rarest go, the frequent ones stay and are merged. */
static void test_more_words_than_are_kept(void **state) {
    (void)state;
    size_t cap = (size_t)12 << 20, used = 0;
    char *rows = malloc(cap);
    assert_non_null(rows);
    for (int i = 0; i < 6000; i++) {
        used += (size_t)sprintf(rows + used, "common ");
        for (int j = 0; j < 100; j++) {
            used += (size_t)sprintf(rows + used, "w%xq ", i * 100 + j);
        }
        used += (size_t)sprintf(rows + used, "\t%s\n", i % 2 ? "x" : "y");
        assert_true(used < cap - 2000);
    }
    char *vocab = build_from(rows, 60);
    assert_non_null(strstr(vocab, "\ncommon\n"));
    free(vocab);
    free(rows);
}

int main(void) {
#define WITH_DIR(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_DIR(test_base_pieces_and_merges),
        WITH_DIR(test_everything_that_occurs_twice_is_merged),
        WITH_DIR(test_ideographs_and_punctuation_stand_alone),
        WITH_DIR(test_no_unknown_words_in_train),
        WITH_DIR(test_order_of_rows_does_not_matter),
        WITH_DIR(test_bounds),
        WITH_DIR(test_more_words_than_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
