/* Pages of experiments: every sort key against a sort in memory, filters, hostile cursors and wildcards. */
#include <strings.h>

#include "tests/unit/storage/fixture.h"

#define ROWS 137

/* Deterministic; the low bits of a linear congruence are poor, so the high ones are used. */
static uint32_t next_random(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Many ties and many NULLs in every column. */
static void fill(struct fixture *f, int rows) {
    static const char *const names[] = {"milk", "Milk", "grid", "知乎", "zeta", "", "a%b", "a_b", "a\\b"};
    uint32_t seed = 7;
    for (int i = 0; i < rows; i++) {
        insert_sample(f, names[next_random(&seed) % DD_ARRAY_LEN(names)], (int)(next_random(&seed) % 5) - 2);
    }
    raw_sql(f, "UPDATE experiments SET state = (id * 7) % 6, created_ms = 1000 + (id * 13) % 9,"
               " queued_ms = 5 + (id * 5) % 11,"
               " started_ms = CASE WHEN id % 3 THEN 2000 + (id * 11) % 17 END,"
               " finished_ms = CASE WHEN id % 4 = 0 THEN 3000 + (id * 3) % 5 END,"
               " best_macro_f1 = CASE WHEN id % 5 THEN ((id * 37) % 19) / 19.0 END,"
               " best_accuracy = CASE WHEN id % 2 THEN ((id * 31) % 7) / 7.0 END,"
               " dataset = 'd' || ((id * 17) % 6), layers = 1 + id % 4,"
               " temperature = CASE WHEN id % 6 THEN (id % 3) * 1.1 END,"
               " alpha = CASE WHEN id % 7 THEN (id % 5) / 10.0 END, lr = 1e-5 * (id % 8),"
               " elapsed_seconds = CASE WHEN id % 9 THEN id % 10 + 0.25 END,"
               " model_bytes = CASE WHEN id % 2 = 0 THEN (id % 6) * 1000000007 + 1 END");
}

struct value {
    bool null;
    double number;
    char text[256];
};

/* The sort value of a row as the API shows it, independently of the SQL. */
static struct value value_of(const struct dd_experiment *row, const char *key, int64_t queued_ms) {
    struct value value = {0};
    double numbers[] = {(double)row->id,
                        (double)row->state,
                        (double)row->created_ms,
                        (double)row->started_ms,
                        (double)row->finished_ms,
                        row->best.macro_f1,
                        row->best.accuracy,
                        row->priority,
                        row->layers,
                        row->temperature,
                        row->alpha,
                        row->lr,
                        row->elapsed_seconds,
                        (double)row->model_bytes};
    static const char *const names[] = {
        "id",       "status", "created_at", "started_at", "finished_at", "best_macro_f1",   "best_accuracy",
        "priority", "layers", "T",          "alpha",      "lr",          "elapsed_seconds", "model_bytes"};
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        if (strcmp(names[i], key) == 0) {
            value.number = numbers[i];
            value.null = isnan(value.number) ||
                         (value.number == 0 && (strstr(key, "ed_at") || strcmp(key, "model_bytes") == 0) &&
                          strcmp(key, "created_at") != 0);
            return value;
        }
    }
    if (strcmp(key, "queue") == 0) {
        value.null = row->state != DD_QUEUED;
        value.number = value.null ? 0 : (1000.0 - row->priority) * 1e6 + (double)queued_ms;
    } else {
        snprintf(value.text, sizeof value.text, "%s", strcmp(key, "name") == 0 ? row->name : row->dataset);
    }
    return value;
}

struct entry {
    int64_t id;
    struct value value;
};
static bool sorting_descending;
static int compare_entries(const void *a, const void *b) {
    const struct entry *left = a, *right = b;
    if (left->value.null != right->value.null) {
        return left->value.null ? 1 : -1; /* last in either direction */
    }
    int order = 0;
    if (!left->value.null) {
        order = (left->value.number > right->value.number) - (left->value.number < right->value.number);
        order = order ? order : strcasecmp(left->value.text, right->value.text);
    }
    order = order ? order : (left->id > right->id) - (left->id < right->id);
    return sorting_descending ? -order : order;
}

static void test_every_sort_key(void **state) {
    struct fixture *f = *state;
    fill(f, ROWS);
    struct dd_experiment_query all = {.limit = 1000};
    struct dd_experiment *rows = NULL;
    size_t count = 0;
    char *cursor = NULL;
    assert_ok(f, dd_storage_experiment_list(f->storage, &all, &rows, &count, &cursor, &f->err));
    assert_int_equal(count, ROWS);
    assert_null(cursor);
    const char *const *keys = dd_storage_sort_keys();
    size_t n_keys = 0;
    for (; keys[n_keys]; n_keys++) {
        for (int descending = 0; descending < 2; descending++) {
            char sort[64];
            static struct entry expected[ROWS];
            snprintf(sort, sizeof sort, "%s%s", descending ? "-" : "", keys[n_keys]);
            for (size_t i = 0; i < ROWS; i++) {
                expected[i].id = rows[i].id;
                expected[i].value = value_of(&rows[i], keys[n_keys], 5 + (rows[i].id * 5) % 11);
            }
            sorting_descending = descending;
            qsort(expected, ROWS, sizeof *expected, compare_entries);
            static const int limits[] = {1, 7, 50, ROWS - 1, ROWS, 500};
            for (size_t l = 0; l < DD_ARRAY_LEN(limits); l++) {
                size_t seen = 0;
                char *place = NULL;
                do {
                    struct dd_experiment_query query = {.sort = sort, .cursor = place, .limit = limits[l]};
                    struct dd_experiment *page = NULL;
                    size_t n = 0;
                    char *next = NULL;
                    assert_ok(f, dd_storage_experiment_list(f->storage, &query, &page, &n, &next, &f->err));
                    assert_true(n <= (size_t)limits[l]);
                    for (size_t i = 0; i < n; i++) {
                        assert_true(seen < ROWS);
                        if (page[i].id != expected[seen].id) {
                            fail_msg("sort %s, limit %d, place %zu: id %lld instead of %lld", sort, limits[l], seen,
                                     (long long)page[i].id, (long long)expected[seen].id);
                        }
                        seen++;
                    }
                    dd_experiments_free(page, n);
                    free(place);
                    place = next;
                } while (place);
                assert_int_equal(seen, ROWS);
            }
        }
    }
    assert_int_equal(n_keys, 17);
    dd_experiments_free(rows, count);
}

static size_t count_of(struct fixture *f, struct dd_experiment_query query) {
    struct dd_experiment *rows = NULL;
    size_t count = 0;
    char *cursor = NULL;
    query.limit = 1000;
    assert_ok(f, dd_storage_experiment_list(f->storage, &query, &rows, &count, &cursor, &f->err));
    assert_null(cursor);
    dd_experiments_free(rows, count);
    return count;
}
#define COUNT(...) count_of(f, (struct dd_experiment_query){__VA_ARGS__})

static void test_filters(void **state) {
    struct fixture *f = *state;
    fill(f, 60);
    raw_sql(f, "UPDATE experiments SET tags = '[\"a\",\"100%\",\"x_y\"]', notes = 'note of ten' WHERE id = 10;"
               "UPDATE experiments SET tags = '[\"ab\"]', teacher = 'other', task = 'finetune', optimizer = 'sgd'"
               " WHERE id = 11");
    assert_int_equal(COUNT(.states = 1u << DD_QUEUED), 10);
    assert_int_equal(COUNT(.states = 1u << DD_FINISHED | 1u << DD_RUNNING), 20);
    assert_int_equal(COUNT(.states = 63), 60);
    assert_int_equal(COUNT(.states = 1u << 31), 0);
    assert_int_equal(COUNT(.dataset = "d3"), 10);
    assert_int_equal(COUNT(.dataset = "d3", .states = 1u << DD_FINISHED),
                     raw_int(f, "SELECT count(*) FROM experiments"
                                " WHERE dataset='d3' AND state=3"));
    assert_int_equal(COUNT(.teacher = "other"), 1);
    /* One of several teachers. */
    raw_sql(f, "UPDATE experiments SET spec = '{\"name\":\"other\",\"teachers\":[\"third\",\"other\"]}' WHERE id = 20;"
               "UPDATE experiments SET spec = '{\"name\":\"third\",\"teachers\":[\"thirdly\"]}' WHERE id = 21");
    assert_int_equal(COUNT(.teacher = "other"), 2);
    assert_int_equal(COUNT(.teacher = "third"), 1);
    assert_int_equal(COUNT(.teacher = "third", .task = "finetune"), 0);
    assert_int_equal(COUNT(.teacher = "other", .states = 63, .tag = "ab"), 1);
    assert_int_equal(COUNT(.task = "finetune", .optimizer = "sgd"), 1);
    assert_int_equal(COUNT(.task = "finetune", .optimizer = "adamw"), 0);
    assert_int_equal(COUNT(.tag = "a"), 1);
    assert_int_equal(COUNT(.tag = "100%"), 1);
    assert_int_equal(COUNT(.tag = "milk"), 58);
    /* Escapes in the JSON. */
    raw_sql(f, "UPDATE experiments SET tags = '[\"say \\\"hi\\\"\",\"\\u77e5\\u8bc6\"]' WHERE id = 12");
    assert_int_equal(COUNT(.tag = "say \"hi\""), 1);
    assert_int_equal(COUNT(.tag = "知识"), 1);
    assert_int_equal(COUNT(.q = "y \"hi\""), 1);
    assert_int_equal(COUNT(.tag = "u77e5"), 0);
    assert_int_equal(COUNT(.tag = "mil"), 0);
    assert_int_equal(COUNT(.q = "#10"), 1);
    assert_int_equal(COUNT(.q = "NOTE OF"), 1);
    assert_int_equal(COUNT(.q = "知乎"), raw_int(f, "SELECT count(*) FROM experiments WHERE name = '知乎'"));
    assert_int_equal(COUNT(.q = "nothing at all"), 0);
    assert_int_equal(COUNT(.q = ""), 60);
}

static void test_wildcards_are_text(void **state) {
    struct fixture *f = *state;
    static const char *const names[] = {"a%b", "a_b", "a\\b", "axb", "100% sure", "'; DROP TABLE experiments; --"};
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        insert_sample(f, names[i], 0);
    }
    assert_int_equal(COUNT(.q = "a%b"), 1);
    assert_int_equal(COUNT(.q = "a_b"), 1);
    assert_int_equal(COUNT(.q = "a\\b"), 1);
    assert_int_equal(COUNT(.q = "%"), 2);
    assert_int_equal(COUNT(.q = "_"), 1);
    assert_int_equal(COUNT(.q = "\\"), 1);
    assert_int_equal(COUNT(.q = "\""), 0); /* of the JSON, not of a tag */
    assert_int_equal(COUNT(.q = "'; DROP TABLE experiments; --"), 1);
    assert_int_equal(COUNT(.dataset = "' OR 1=1 --"), 0);
    assert_int_equal(COUNT(.tag = "' OR 1=1 --"), 0);
    assert_int_equal(COUNT(.q = "' OR '1'='1"), 0);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), DD_ARRAY_LEN(names));
}

static enum dd_status list_with(struct fixture *f, const char *sort, const char *cursor, const char *q, int limit) {
    struct dd_experiment_query query = {.sort = sort, .cursor = cursor, .q = q, .limit = limit};
    struct dd_experiment *rows = NULL;
    size_t count = 0;
    char *next = NULL;
    enum dd_status status = dd_storage_experiment_list(f->storage, &query, &rows, &count, &next, &f->err);
    dd_experiments_free(rows, count);
    free(next);
    return status;
}

static void test_bad_queries(void **state) {
    struct fixture *f = *state;
    char *long_q = calloc(1, 100001);
    assert_non_null(long_q);
    memset(long_q, '%', 100000);
    assert_fails(f, DD_INVALID, "q_too_long", list_with(f, NULL, NULL, long_q, 10));
    long_q[1001] = '\0';
    assert_fails(f, DD_INVALID, "q_too_long", list_with(f, NULL, NULL, long_q, 10));
    long_q[1000] = '\0';
    assert_ok(f, list_with(f, NULL, NULL, long_q, 10));
    free(long_q);
    assert_fails(f, DD_INVALID, "limit_invalid", list_with(f, NULL, NULL, NULL, 0));
    assert_fails(f, DD_INVALID, "limit_invalid", list_with(f, NULL, NULL, NULL, -1));
    assert_fails(f, DD_INVALID, "limit_invalid", list_with(f, NULL, NULL, NULL, 1001));
    static const char *const sorts[] = {"", "-", "ID", "--id", "id;", "best_macro_f1 ", "1", "id DESC"};
    for (size_t i = 0; i < DD_ARRAY_LEN(sorts); i++) {
        assert_fails(f, DD_INVALID, "sort_invalid", list_with(f, sorts[i], NULL, NULL, 10));
    }
}

/* base64url as the server writes it; an independent encoder for forging. */
static char *forge(const char *plain, size_t len) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char *out = calloc(1, len * 2 + 4);
    size_t n = 0, bits = 0;
    unsigned value = 0;
    assert_non_null(out);
    for (size_t i = 0; i < len; i++) {
        value = value << 8 | (unsigned char)plain[i];
        for (bits += 8; bits >= 6; bits -= 6) {
            out[n++] = digits[value >> (bits - 6) & 63];
        }
    }
    if (bits) {
        out[n++] = digits[value << (6 - bits) & 63];
    }
    return out;
}

static void test_hostile_cursors(void **state) {
    struct fixture *f = *state;
    fill(f, 20);
    static const char *const garbage[] = {"", "A", "AAAA", "====", "not a cursor", "%", "LWlk", "....", "é", "AAAAA"};
    for (size_t i = 0; i < DD_ARRAY_LEN(garbage); i++) {
        assert_fails(f, DD_INVALID, "cursor_invalid", list_with(f, NULL, garbage[i], NULL, 5));
    }
    static const struct {
        const char *sort, *plain;
    } forged[] = {
        {"-id", "-id\n0\ni0"},
        {"-id", "-id\n-5\ni3"},
        {"-id", "-id\n5"},
        {"-id", "-id\n5\n"},
        {"-id", "-id\n5\ni"},
        {"-id", "-id\n5\ni 3"},
        {"-id", "-id\n05\ni5"},
        {"-id", "-id\n5\ni99999999999999999999"},
        {"-id", "-id\n5\nr0x1p+0"},
        {"-id", "-id\n5\ntx"},
        {"-id", "-id\n5\nn"},
        {"-id", "id\n5\ni5"},
        {"-id", "-id\n5\ni5; --"},
        {"-best_macro_f1", "-best_macro_f1\n5\nrnan"},
        {"-best_macro_f1", "-best_macro_f1\n5\nrinf"},
        {"-best_macro_f1", "-best_macro_f1\n5\nr0.5"},
        {"-best_macro_f1", "-best_macro_f1\n5\nn1"},
        {"-best_macro_f1", "best_macro_f1\n5\nn"},
        {"name", "name\n5\nn"},
        {"name", "-name\n5\ntx"},
        {"queue", "id\n5\ni5"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(forged); i++) {
        char *cursor = forge(forged[i].plain, strlen(forged[i].plain));
        if (list_with(f, forged[i].sort, cursor, NULL, 5) != DD_INVALID) {
            fail_msg("cursor %s was accepted", forged[i].plain);
        }
        assert_string_equal(f->err.code, "cursor_invalid");
        free(cursor);
    }
    /* Forged but possible: just another place in the list, and text stays text. */
    static const struct {
        const char *sort, *plain;
    } possible[] = {
        {"-id", "-id\n5\ni5"},
        {"-best_macro_f1", "-best_macro_f1\n5\nn"},
        {"-best_macro_f1", "-best_macro_f1\n5\nr0x1p-1"},
        {"name", "name\n5\nt"},
        {"name", "name\n5\nt' OR 1=1; DROP TABLE experiments; --\n\xff"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(possible); i++) {
        char *cursor = forge(possible[i].plain, strlen(possible[i].plain));
        assert_ok(f, list_with(f, possible[i].sort, cursor, NULL, 5));
        free(cursor);
    }
    char *nul = forge("name\n5\nta\0b", 10);
    assert_fails(f, DD_INVALID, "cursor_invalid", list_with(f, "name", nul, NULL, 5));
    free(nul);
    char *huge = calloc(1, 1 << 20);
    assert_non_null(huge);
    memset(huge, 'A', (1 << 20) - 1);
    assert_fails(f, DD_INVALID, "cursor_invalid", list_with(f, NULL, huge, NULL, 5));
    free(huge);
    /* Bits that no encoder leaves over would make two texts of one cursor. */
    char *bent = forge("-id\n5\ni5", 8);
    bent[strlen(bent) - 1]++;
    assert_fails(f, DD_INVALID, "cursor_invalid", list_with(f, NULL, bent, NULL, 5));
    free(bent);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM experiments"), 20);
}

/* Every byte of a real cursor changed to every other character: an error or a page, never anything else. */
static void test_mutated_cursors(void **state) {
    struct fixture *f = *state;
    fill(f, 30);
    static const char *const sorts[] = {"-id", "name", "-best_macro_f1", "queue"};
    for (size_t s = 0; s < DD_ARRAY_LEN(sorts); s++) {
        struct dd_experiment_query query = {.sort = sorts[s], .limit = 3};
        struct dd_experiment *rows = NULL;
        size_t count = 0;
        char *cursor = NULL;
        assert_ok(f, dd_storage_experiment_list(f->storage, &query, &rows, &count, &cursor, &f->err));
        dd_experiments_free(rows, count);
        assert_non_null(cursor);
        for (size_t i = 0; cursor[i]; i++) {
            char kept = cursor[i];
            for (const char *c = "AZaz09-_+/=\x80"; *c; c++) {
                cursor[i] = *c;
                enum dd_status status = list_with(f, sorts[s], cursor, NULL, 3);
                assert_true(status == DD_OK || status == DD_INVALID);
            }
            cursor[i] = kept;
        }
        free(cursor);
    }
}

/* A page that ends on a row deleted or changed since goes on behind its place. */
static void test_paging_survives_changes(void **state) {
    struct fixture *f = *state;
    for (int i = 0; i < 9; i++) {
        insert_sample(f, "x", 0);
    }
    struct dd_experiment_query query = {.limit = 3};
    struct dd_experiment *rows = NULL;
    size_t count = 0;
    char *cursor = NULL;
    assert_ok(f, dd_storage_experiment_list(f->storage, &query, &rows, &count, &cursor, &f->err));
    assert_int_equal(rows[2].id, 7);
    dd_experiments_free(rows, count);
    assert_ok(f, dd_storage_experiment_delete(f->storage, 7, &f->err));
    insert_sample(f, "newer", 0);
    query.cursor = cursor;
    char *next = NULL;
    assert_ok(f, dd_storage_experiment_list(f->storage, &query, &rows, &count, &next, &f->err));
    assert_int_equal(count, 3);
    assert_int_equal(rows[0].id, 6);
    dd_experiments_free(rows, count);
    free(cursor);
    free(next);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_every_sort_key),  T(test_filters),         T(test_wildcards_are_text),      T(test_bad_queries),
        T(test_hostile_cursors), T(test_mutated_cursors), T(test_paging_survives_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
