/* Neighbours of words: against a plain search in double, of the right kind, never the word itself, for any number of
 * threads; and the copies that are made of them. */
#include "train_fixture.h"

#include <math.h>

#define WORDS 150
#define PIECES 40
#define SPECIAL 6 /* [PAD] [UNK] [CLS] [SEP] [MASK] [unused0] */
#define VOCAB (SPECIAL + WORDS + PIECES)
#define HIDDEN 12
#define LENGTH 16

static struct dd_tokenizer *tokenizer; /* w0 … w149, ##p0 … ##p39 */
static float embeddings[VOCAB * HIDDEN];

static bool special(int32_t id) {
    return id < SPECIAL;
}
static bool piece(int32_t id) {
    return id >= SPECIAL + WORDS;
}

/* Rows that use the first words and pieces: "w<i> w<i + 1>p<i>". */
#define ROWS 30
static int32_t ids[ROWS * 5];
static uint8_t segments[ROWS * 5];
static uint64_t offsets[ROWS + 1];
static int32_t labels[ROWS];

static struct dd_packed rows(void) {
    for (int r = 0; r < ROWS; r++) {
        const int32_t row[] = {2, SPECIAL + r, SPECIAL + r + 1, SPECIAL + WORDS + r, 3};
        memcpy(ids + r * 5, row, sizeof row);
        offsets[r + 1] = (uint64_t)(r + 1) * 5;
    }
    return (struct dd_packed){
        .ids = ids, .segments = segments, .offsets = offsets, .labels = labels, .rows = ROWS, .n_tokens = ROWS * 5};
}

static struct dd_neighbours find(const struct dd_packed *packed, int threads) {
    struct dd_pool *pool = NULL;
    struct dd_team *team = NULL;
    struct dd_neighbours near;
    struct dd_error err;
    must(dd_pool_new(threads, &pool, &err), &err);
    must(dd_team_join(pool, &team, &err), &err);
    must(dd_neighbours_find(packed, tokenizer, embeddings, VOCAB, HIDDEN, team, &near, &err), &err);
    dd_team_leave(team);
    dd_pool_free(pool);
    return near;
}

static double cosine(int32_t a, int32_t b) {
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int h = 0; h < HIDDEN; h++) {
        double x = (double)embeddings[a * HIDDEN + h], y = (double)embeddings[b * HIDDEN + h];
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return aa > 0.0 && bb > 0.0 ? ab / sqrt(aa * bb) : 0.0;
}

static void test_nearest_of_the_same_kind(void **state) {
    (void)state;
    const struct dd_packed packed = rows();
    struct dd_neighbours near = find(&packed, 1);
    assert_int_equal(near.words, 2 + ROWS + 1 + ROWS);
    for (int32_t id = 0; id < VOCAB; id++) {
        int32_t place = near.place[id];
        bool used = id == 2 || id == 3 || (!special(id) && !piece(id) && id <= SPECIAL + ROWS) ||
                    (piece(id) && id < SPECIAL + WORDS + ROWS);
        assert_int_equal(place >= 0, used);
        if (!used) {
            continue;
        }
        if (special(id)) {
            assert_int_equal(near.count[place], 0);
            continue;
        }
        /* The k-th has just k better ones of its kind. */
        assert_int_equal(near.count[place], DD_NEIGHBOURS);
        for (int k = 0; k < DD_NEIGHBOURS; k++) {
            int32_t found = near.near[place * DD_NEIGHBOURS + k];
            assert_true(found != id && !special(found) && piece(found) == piece(id));
            int better = 0;
            for (int32_t other = SPECIAL; other < VOCAB; other++) {
                better += other != id && piece(other) == piece(id) && cosine(id, other) > cosine(id, found) + 1e-6;
            }
            assert_true(better <= k);
            assert_true(k == 0 || cosine(id, found) <= cosine(id, near.near[place * DD_NEIGHBOURS + k - 1]) + 1e-6);
        }
    }
    dd_neighbours_release(&near);
}

/* A word whose embedding is zero, or all of whose kind point away, has none; numbers that are none do no harm. */
static void test_words_without_neighbours(void **state) {
    (void)state;
    float kept[VOCAB * HIDDEN];
    memcpy(kept, embeddings, sizeof kept);
    memset(embeddings + SPECIAL * HIDDEN, 0, HIDDEN * sizeof(float));
    embeddings[(SPECIAL + 1) * HIDDEN] = NAN;
    const struct dd_packed packed = rows();
    struct dd_neighbours near = find(&packed, 1);
    assert_int_equal(near.count[near.place[SPECIAL]], 0);
    assert_int_equal(near.count[near.place[SPECIAL + 1]], 0);
    int32_t place = near.place[SPECIAL + 2];
    for (int k = 0; k < near.count[place]; k++) {
        assert_true(near.near[place * DD_NEIGHBOURS + k] > SPECIAL + 1);
    }
    dd_neighbours_release(&near);
    memcpy(embeddings, kept, sizeof kept);
}

static void test_threads_change_nothing(void **state) {
    (void)state;
    const struct dd_packed packed = rows();
    struct dd_neighbours one = find(&packed, 1), three = find(&packed, 3);
    assert_int_equal(one.words, three.words);
    assert_memory_equal(one.place, three.place, sizeof(int32_t) * VOCAB);
    assert_memory_equal(one.count, three.count, (size_t)one.words);
    assert_memory_equal(one.near, three.near, sizeof(int32_t) * (size_t)one.words * DD_NEIGHBOURS);
    dd_neighbours_release(&one);
    dd_neighbours_release(&three);
}

/* Copies: each piece of a replaced word is one of its neighbours, words are replaced whole and as often as asked. */
static void test_copies(void **state) {
    (void)state;
    enum { COPIES = 300 };
    struct dd_packed packed = {0};
    const struct dd_packed source = rows();
    struct dd_neighbours near = find(&source, 1);
    struct dd_error err;
    uint32_t all[ROWS];
    for (uint32_t r = 0; r < ROWS; r++) {
        all[r] = r;
    }
    must(dd_packed_pick(&source, all, ROWS, &packed, &err), &err);
    const struct dd_augment how = {
        .tokenizer = tokenizer, .max_length = LENGTH, .seed = 4, .copies = COPIES, .replace = 0.3, .near = &near};
    must(dd_packed_augment(&packed, 0, ROWS, &how, NULL, &err), &err);
    int replaced = 0, distinct[DD_NEIGHBOURS] = {0};
    for (uint32_t r = ROWS; r < packed.rows; r++) {
        const int32_t *copy = packed.ids + packed.offsets[r], *original = ids + r % ROWS * 5;
        assert_int_equal(packed.offsets[r + 1] - packed.offsets[r], 5);
        for (int t = 1; t < 4; t++) {
            if (copy[t] == original[t]) {
                continue;
            }
            int k = 0;
            while (near.near[near.place[original[t]] * DD_NEIGHBOURS + k] != copy[t]) {
                assert_true(++k < DD_NEIGHBOURS);
            }
            distinct[k]++;
            replaced++;
        }
        assert_int_equal(copy[2] == original[2], copy[3] == original[3]); /* a word and its piece */
    }
    /* Two words of three pieces in each row: 0.3 of 27,000 pieces, with the seed fixed. */
    assert_in_range(replaced, 7600, 8600);
    for (int k = 0; k < DD_NEIGHBOURS; k++) {
        assert_in_range(distinct[k], replaced / DD_NEIGHBOURS * 0.8, replaced / DD_NEIGHBOURS * 1.2);
    }
    dd_packed_release(&packed);
    dd_neighbours_release(&near);
}

static int set_up(void **state) {
    (void)state;
    struct dd_buffer vocab;
    dd_buffer_init(&vocab, 1 << 16);
    dd_buffer_puts(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[unused0]\n");
    for (int w = 0; w < WORDS; w++) {
        dd_buffer_printf(&vocab, "w%d\n", w);
    }
    for (int p = 0; p < PIECES; p++) {
        dd_buffer_printf(&vocab, "##p%d\n", p);
    }
    const struct dd_tokenizer_options options = {true, true, true};
    struct dd_error err;
    enum dd_status status = dd_tokenizer_new(vocab.data, vocab.len, &options, &tokenizer, &err);
    dd_buffer_release(&vocab);
    const struct dd_stream stream = {.seed = 7, .purpose = DD_PURPOSE_INIT};
    dd_random_normal(&stream, 0, VOCAB * HIDDEN, 1.0F, embeddings);
    for (int i = 0; i < VOCAB * HIDDEN; i++) {
        embeddings[i] += 0.7F; /* one cone, as those of a BERT: every cosine of a kind is likely to be above 0 */
    }
    return status == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    dd_tokenizer_free(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearest_of_the_same_kind),
        cmocka_unit_test(test_words_without_neighbours),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_copies),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
