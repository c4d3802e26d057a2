/* Data sets: formats, headers, bad rows, the stratified split, damaged directories, mutated files. */
#include "dataset_fixture.h"

#include "engine/dataset.h"

static struct dd_dataset *import_ok(struct fixture_import *run, const char *target) {
    enum dd_status status = fixture_run(run, target);
    if (status) {
        fail_msg("import failed: %s", run->error.message);
    }
    return fixture_open(target);
}

static void import_fails(struct fixture_import *run, enum dd_status status, const char *code) {
    int before = fixture_entries();
    assert_int_equal(fixture_run(run, "refused"), status);
    assert_string_equal(run->error.code, code);
    assert_int_equal(run->error.status, status);
    assert_int_equal(fixture_entries(), before);
}

/* --- formats ----------------------------------------------------------------- */

struct format_case {
    const char *name, *content;
};

static void test_formats_give_the_same_rows(void **state) {
    (void)state;
    static const struct format_case cases[] = {
        {"a.tsv", "one 1\tx\nzwei, \"2\"\ty\n"},
        {"b.tsv", "one 1\tx\r\nzwei, \"2\"\ty"}, /* CR LF, no final line end */
        {"c.tsv", "\xEF\xBB\xBFLabel\tTEXT\nx\tone 1\ny\tzwei, \"2\"\n\n\n"},
        {"d", "one 1\tx\nzwei, \"2\"\ty\n"},
        {"e.csv", "one 1,x\n\"zwei, \"\"2\"\"\",y\n"},
        {"f.csv", "\xEF\xBB\xBFid,class,sentence\r\n1,x,one 1\r\n\"2\",\"y\",\"zwei, \"\"2\"\"\"\r\n"},
        {"g", "one 1,x\n\"zwei, \"\"2\"\"\",y"},
        {"h.jsonl", "{\"text\":\"one 1\",\"label\":\"x\"}\n{\"label\":\" y \",\"text\":\"zwei, \\\"2\\\"\"}\n"},
        {"i",
         "{\"label_desc\":\"x\",\"content\":\"one 1\"}\r\n\r\n{\"class\":\"y\",\"sentence\":\"zwei, \\u00222\\\"\"}"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        char target[16];
        snprintf(target, sizeof target, "set%zu", i);
        fixture_write(cases[i].name, cases[i].content);
        struct fixture_import run = {.names = {cases[i].name, cases[i].name}};
        struct dd_dataset *dataset = import_ok(&run, target);
        for (enum dd_split split = DD_SPLIT_TRAIN; split <= DD_SPLIT_DEV; split++) {
            assert_int_equal(dd_dataset_rows(dataset, split), 2);
            assert_row(dataset, split, 0, "one 1", NULL, "x");
            assert_row(dataset, split, 1, "zwei, \"2\"", NULL, "y");
        }
        assert_false(dd_dataset_has_pairs(dataset));
        dd_dataset_free(dataset);
    }
}

static void test_csv_field_may_hold_line_ends(void **state) {
    (void)state;
    fixture_write("t.csv", "\"a\r\nb\n\",x\n\"bad\"x,y\nc,\n\"d\",y\n");
    struct fixture_import run = {.names = {"t.csv", "t.csv"}, .import.skip_bad_rows = true};
    struct dd_dataset *dataset = import_ok(&run, "d");
    assert_row(dataset, DD_SPLIT_TRAIN, 0, "a\r\nb\n", NULL, "x");
    assert_row(dataset, DD_SPLIT_TRAIN, 1, "d", NULL, "y");
    assert_int_equal(run.report.bad_total, 4);
    assert_int_equal(run.report.bad[0].line, 4); /* lines of the file, not rows */
    assert_non_null(strstr(run.report.bad[0].reason, "closing quote"));
    assert_int_equal(run.report.bad[1].line, 5);
    assert_string_equal(run.report.bad[1].reason, "the label is empty");
    assert_int_equal(run.report.bad[2].split, DD_SPLIT_DEV);
    dd_dataset_free(dataset);
}

static void test_named_columns(void **state) {
    (void)state;
    fixture_write("t.csv", "a,b,c,d\n1,first,second,yes\n2,third,fourth,no\n");
    struct fixture_import run = {
        .names = {"t.csv", "t.csv"},
        .import = {.text_column = "b", .pair_column = "c", .label_column = "D"},
    };
    struct dd_dataset *dataset = import_ok(&run, "d");
    assert_true(dd_dataset_has_pairs(dataset));
    assert_row(dataset, DD_SPLIT_TRAIN, 1, "third", "fourth", "no");
    dd_dataset_free(dataset);
    run.import.text_column = "nothing";
    import_fails(&run, DD_INVALID, "dataset_column_missing");
    assert_non_null(strstr(run.error.message, "a, b, c, d"));
    run.import.text_column = "b";
    run.import.label_column = NULL;
    import_fails(&run, DD_INVALID, "dataset_column_missing");
}

static void test_unlabelled_files(void **state) {
    (void)state;
    fixture_write("t.tsv", "a\tx\nb\ty\n");
    fixture_write("u.txt", "text\n\nwith a\ttab, and a comma\r\nlast");
    fixture_write("v.csv", "label,text\n,one\nx,two\n");
    struct fixture_import run = {.names = {"t.tsv", "t.tsv", NULL, "u.txt"}};
    struct dd_dataset *dataset = import_ok(&run, "d");
    assert_int_equal(dd_dataset_rows(dataset, DD_SPLIT_UNLABELLED), 3);
    assert_row(dataset, DD_SPLIT_UNLABELLED, 0, "text", NULL, NULL);
    assert_row(dataset, DD_SPLIT_UNLABELLED, 1, "with a\ttab, and a comma", NULL, NULL);
    assert_row(dataset, DD_SPLIT_UNLABELLED, 2, "last", NULL, NULL);
    assert_false(dd_dataset_split(dataset, DD_SPLIT_TEST)->present);
    dd_dataset_free(dataset);
    run.names[DD_SPLIT_UNLABELLED] = "v.csv";
    dataset = import_ok(&run, "e");
    assert_int_equal(dd_dataset_rows(dataset, DD_SPLIT_UNLABELLED), 2);
    assert_row(dataset, DD_SPLIT_UNLABELLED, 1, "two", NULL, NULL);
    dd_dataset_free(dataset);
}

static void test_pairs(void **state) {
    (void)state;
    fixture_write("t.tsv", "a\tb\tx\nc\td\ty\nlone\ty\n");
    fixture_write("u.txt", "e\tf\nlone\n");
    struct fixture_import run = {.names = {"t.tsv", "t.tsv", NULL, "u.txt"}, .import.skip_bad_rows = true};
    struct dd_dataset *dataset = import_ok(&run, "d");
    assert_row(dataset, DD_SPLIT_TRAIN, 1, "c", "d", "y");
    assert_row(dataset, DD_SPLIT_UNLABELLED, 0, "e", "f", NULL);
    assert_int_equal(run.report.bad_total, 3);
    dd_dataset_free(dataset);
    fixture_write("single.tsv", "a\tx\n");
    run.import.skip_bad_rows = false;
    run.names[DD_SPLIT_TEST] = "single.tsv";
    import_fails(&run, DD_INVALID, "dataset_rows_invalid");
}

static void test_integer_labels_are_in_numeric_order(void **state) {
    (void)state;
    fixture_write("t.jsonl",
                  "{\"text\":\"a\",\"label\":10}\n{\"text\":\"b\",\"label\":-1}\n{\"text\":\"c\",\"label\":\"2\"}\n");
    fixture_write("v.tsv", "a\t10\nb\t-1\nc\t02\n");
    struct fixture_import run = {.names = {"t.jsonl", "t.jsonl"}};
    struct dd_dataset *dataset = import_ok(&run, "d");
    assert_int_equal(dd_dataset_classes(dataset), 3);
    assert_string_equal(dd_dataset_class(dataset, 0), "-1");
    assert_string_equal(dd_dataset_class(dataset, 1), "2");
    assert_string_equal(dd_dataset_class(dataset, 2), "10");
    assert_row(dataset, DD_SPLIT_TRAIN, 0, "a", NULL, "10");
    assert_row(dataset, DD_SPLIT_DEV, 0, "a", NULL, "10");
    dd_dataset_free(dataset);
    run.names[0] = run.names[1] = "v.tsv"; /* "02" is no integer as printed: order of appearance */
    dataset = import_ok(&run, "e");
    assert_string_equal(dd_dataset_class(dataset, 0), "10");
    assert_string_equal(dd_dataset_class(dataset, 1), "-1");
    dd_dataset_free(dataset);
}

/* --- bad input --------------------------------------------------------------- */

static void test_each_kind_of_bad_row(void **state) {
    (void)state;
    static const struct {
        const char *name, *content;
        size_t bytes; /* 0: strlen */
        uint64_t line;
        const char *reason;
    } cases[] = {
        {"a.tsv", "a\tx\nb\ty\n\tx\n", 0, 3, "the text is empty"},
        {"b.tsv", "a\tx\nb\ty\n \xE2\x80\x83\tx\n", 0, 3, "the text is empty"},
        {"bb.tsv", "a\tx\nb\ty\nc\t \n", 0, 3, "the label is empty"},
        {"c.tsv", "a\tx\nonly text\nb\ty\n", 0, 2, "it has 1 column, expected 2"},
        {"d.tsv", "a\tx\nb\ty\nc\tx\ty\tz\n", 0, 3, "it has 4 columns, expected 2"},
        {"e.tsv", "a\tx\n\xFFz\tx\nb\ty\n", 0, 2, "the text is not UTF-8"},
        {"f.tsv", "a\tx\nb\0c\tx\nb\ty\n", 14, 2, "the text has a NUL byte"},
        {"g.tsv", "a\tx\nb\ty\nc\tx\x01\n", 0, 3, "the label has a control character"},
        {"h.csv", "a,x\nb,y\nc,\"x\n", 0, 3, "a quote is opened and never closed"},
        {"i.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":2}\n[1]\n", 0, 3,
         "the line is JSON, but not an object"},
        {"j.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":2}\n{\"text\":\"c\"}\n", 0, 3,
         "the object has no \"label\""},
        {"k.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":2}\n{\"text\":7,\"label\":1}\n", 0, 3,
         "\"text\" is not a string"},
        {"l.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":2}\n{\"text\":\"c\",\"label\":1.5}\n", 0,
         3, "\"label\" is not a string or a whole number"},
        {"m.jsonl",
         "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":2}\n{\"text\":\"c\\u0000d\",\"label\":1}\n", 0, 3,
         "the line has a NUL character"},
        {"n.jsonl", "{\"text\":\"a\",\"label\":1}\n{\"text\":\"b\",\"label\":2}\n{\"text\":\"c\",\"label\":1} x\n", 0,
         3, "the line is not a JSON object (byte 24)"},
        {"o.csv", "text,label\na,x\nb,y\nc\n", 0, 4, "it has 1 column, expected 2"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        fixture_write_bytes(cases[i].name, cases[i].content,
                            cases[i].bytes ? cases[i].bytes : strlen(cases[i].content));
        fixture_write("dev.tsv", strstr(cases[i].name, ".jsonl") ? "a\t1\n" : "a\tx\n");
        struct fixture_import run = {.names = {cases[i].name, "dev.tsv"}};
        import_fails(&run, DD_INVALID, "dataset_rows_invalid");
        assert_int_equal(run.report.bad_total, 1);
        assert_int_equal(run.report.n_bad, 1);
        assert_int_equal(run.report.bad[0].split, DD_SPLIT_TRAIN);
        assert_int_equal(run.report.bad[0].line, cases[i].line);
        assert_string_equal(run.report.bad[0].reason, cases[i].reason);
        assert_non_null(strstr(run.error.message, cases[i].name));
        run.import.skip_bad_rows = true;
        struct dd_dataset *dataset = import_ok(&run, "skipped");
        assert_int_equal(dd_dataset_rows(dataset, DD_SPLIT_TRAIN), 2);
        dd_dataset_free(dataset);
        char path[128];
        fixture_path(path, "skipped");
        assert_int_equal(dd_tree_remove(path, NULL), DD_OK);
    }
}

static void test_too_long_rows_and_labels(void **state) {
    (void)state;
    static const char *const names[] = {"t.tsv", "t.csv", "t.jsonl"};
    static const char *const rows[] = {"a\tx\nb\ty\n", "a,x\nb,y\n\"",
                                       "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}\n"};
    size_t long_bytes = DD_ROW_BYTES_MAX + 1000;
    char *content = malloc(long_bytes + 200);
    assert_non_null(content);
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        size_t n = strlen(rows[i]);
        memcpy(content, rows[i], n);
        memset(content + n, 'a', long_bytes);
        memcpy(content + n + long_bytes, "\n", 1);
        fixture_write_bytes(names[i], content, n + long_bytes + 1);
        fixture_write("dev.tsv", "a\tx\n");
        struct fixture_import run = {.names = {names[i], "dev.tsv"}};
        import_fails(&run, DD_INVALID, "dataset_rows_invalid");
        assert_int_equal(run.report.bad_total, 1);
        assert_int_equal(run.report.bad[0].line, 3);
        assert_non_null(strstr(run.report.bad[0].reason, "longer than 1 MiB"));
    }
    int n = snprintf(content, 400, "a\tx\nb\ty\nc\t%0130d\n", 0);
    fixture_write_bytes("label.tsv", content, (size_t)n);
    struct fixture_import run = {.names = {"label.tsv", "dev.tsv"}};
    import_fails(&run, DD_INVALID, "dataset_rows_invalid");
    assert_string_equal(run.report.bad[0].reason, "the label has 130 bytes, at most 127 are allowed");
    free(content);
}

static void test_the_first_twenty_bad_rows_are_told(void **state) {
    (void)state;
    char content[600] = "a\tx\nb\ty\n";
    for (int i = 0; i < 50; i++) {
        strcat(content, "\tx\n");
    }
    fixture_write("t.tsv", content);
    fixture_write("dev.tsv", "a\tx\nb\tunknown\n");
    struct fixture_import run = {.names = {"t.tsv", "dev.tsv"}};
    import_fails(&run, DD_INVALID, "dataset_rows_invalid");
    assert_int_equal(run.report.n_bad, DD_BAD_ROWS_MAX);
    assert_int_equal(run.report.bad_total, 51);
    assert_int_equal(run.report.bad[19].line, 22);
    assert_string_equal(run.error.message, "51 rows cannot be used; the first is t.tsv line 3: the text is empty");
    fixture_write("t.tsv", "a\tx\nb\ty\n");
    import_fails(&run, DD_INVALID, "dataset_rows_invalid");
    assert_string_equal(run.report.bad[0].reason, "the label \"unknown\" does not occur in train");
    assert_int_equal(run.report.bad[0].split, DD_SPLIT_DEV);
}

static void test_whole_files_refused(void **state) {
    (void)state;
    fixture_write("ok.tsv", "a\tx\nb\ty\nc\tx\n");
    fixture_write("empty.tsv", "");
    fixture_write("bom.tsv", "\xEF\xBB\xBF\n\n");
    fixture_write("one.tsv", "a\tx\nb\tx\n");
    fixture_write("lone.tsv", "a\tx\nb\ty\n");
    char many[8000] = "";
    for (int i = 0; i < 257; i++) {
        snprintf(many + strlen(many), 40, "text %d\tc%d\n", i, i);
    }
    fixture_write("many.tsv", many);
    struct fixture_import run = {.names = {"empty.tsv"}};
    import_fails(&run, DD_INVALID, "dataset_empty");
    run.names[0] = "bom.tsv";
    import_fails(&run, DD_INVALID, "dataset_empty");
    run.names[0] = "one.tsv";
    import_fails(&run, DD_INVALID, "dataset_one_class");
    run.names[0] = "lone.tsv";
    import_fails(&run, DD_INVALID, "dataset_too_small");
    run.names[0] = "many.tsv";
    import_fails(&run, DD_INVALID, "dataset_too_many_classes");
    run.names[0] = "ok.tsv";
    run.names[1] = "empty.tsv";
    import_fails(&run, DD_INVALID, "dataset_empty");
    run.names[1] = "missing.tsv";
    import_fails(&run, DD_NOT_FOUND, "file_not_found");
    run.names[1] = NULL;
    run.import.paths[1] = NULL;
    run.import.dev_fraction = 0.95;
    import_fails(&run, DD_INVALID, "dataset_dev_fraction");
    run.import.dev_fraction = 0;
    struct dd_dataset *dataset = import_ok(&run, "d");
    dd_dataset_free(dataset);
    assert_int_equal(fixture_run(&run, "d"), DD_CONFLICT);
    struct dd_cancel cancel = {0};
    dd_cancel_request(&cancel, DD_STOP_CANCEL);
    run.import.cancel = &cancel;
    import_fails(&run, DD_STOPPED, "import_stopped");
}

/* --- the stratified split ---------------------------------------------------- */

static void write_classes(const char *name, const int *rows, int n_classes) {
    char *content = calloc(1, 200000);
    assert_non_null(content);
    char *at = content;
    for (int c = 0; c < n_classes; c++) {
        for (int i = 0; i < rows[c]; i++) {
            at += sprintf(at, "text %d of %d\tc%d\n", i, c, c);
        }
    }
    fixture_write(name, content);
    free(content);
}

static void test_stratified_split(void **state) {
    (void)state;
    static const int rows[] = {1000, 100, 14, 3, 2, 1};
    static const uint64_t dev[] = {150, 15, 2, 1, 1, 0};
    write_classes("t.tsv", rows, 6);
    struct fixture_import run = {.names = {"t.tsv"}, .import = {.dev_fraction = 0.15, .seed = UINT64_MAX - 1}};
    struct dd_dataset *dataset = import_ok(&run, "d"), *again = import_ok(&run, "again");
    run.import.seed = 1;
    struct dd_dataset *other = import_ok(&run, "other");
    const struct dd_split_info *train_info = dd_dataset_split(dataset, DD_SPLIT_TRAIN);
    const struct dd_split_info *dev_info = dd_dataset_split(dataset, DD_SPLIT_DEV);
    for (int c = 0; c < 6; c++) {
        assert_int_equal(dev_info->class_rows[c], dev[c]);
        assert_int_equal(train_info->class_rows[c] + dev_info->class_rows[c], rows[c]);
    }
    assert_int_equal(train_info->rows + dev_info->rows, 1120);
    assert_int_equal(dev_info->duplicates_of[DD_SPLIT_TRAIN], 0);
    assert_string_equal(dev_info->sha256, dd_dataset_split(again, DD_SPLIT_DEV)->sha256);
    assert_string_not_equal(dev_info->sha256, dd_dataset_split(other, DD_SPLIT_DEV)->sha256);
    double fraction = 0;
    uint64_t seed = 0;
    assert_true(dd_dataset_dev_was_split(dataset, &fraction, &seed));
    assert_true(fraction == 0.15);
    assert_true(seed == UINT64_MAX - 1);
    /* drawn, not cut off at one end */
    struct dd_row first, last;
    dd_dataset_row(dataset, DD_SPLIT_DEV, 0, &first);
    dd_dataset_row(dataset, DD_SPLIT_DEV, 149, &last);
    assert_true(atoi(first.text + 5) < 100 && atoi(last.text + 5) > 900);
    dd_dataset_free(dataset);
    dd_dataset_free(again);
    dd_dataset_free(other);
}

static void test_statistics(void **state) {
    (void)state;
    fixture_write("t.tsv", "abc\tx\nabc\ty\n中文\tx\n0123456789\ty\nabc\tx\n");
    fixture_write("dev.tsv", "中文\ty\nabc\tx\nabc\tx\nnew\ty\n");
    struct fixture_import run = {.names = {"t.tsv", "dev.tsv"}};
    struct dd_dataset *dataset = import_ok(&run, "d");
    const struct dd_split_info *train = dd_dataset_split(dataset, DD_SPLIT_TRAIN);
    assert_int_equal(train->duplicates, 2);
    assert_int_equal(train->duplicates_of[DD_SPLIT_DEV], 4);
    assert_int_equal(dd_dataset_split(dataset, DD_SPLIT_DEV)->duplicates_of[DD_SPLIT_TRAIN], 3);
    assert_int_equal(train->characters.min, 2);
    assert_int_equal(train->characters.p50, 3);
    assert_int_equal(train->characters.p95, 10);
    assert_int_equal(train->characters.max, 10);
    assert_true(train->characters.mean == 21.0 / 5);
    assert_false(dd_dataset_dev_was_split(dataset, NULL, NULL));
    dd_dataset_free(dataset);
}

/* --- damage ------------------------------------------------------------------ */

static void test_every_damaged_byte_is_found(void **state) {
    (void)state;
    fixture_write("t.tsv", "abc\tx\ndefg\ty\n中文\tx\n");
    struct fixture_import run = {.names = {"t.tsv", "t.tsv"}};
    dd_dataset_free(import_ok(&run, "d"));
    char dir[128], path[160];
    fixture_path(dir, "d");
    snprintf(path, sizeof path, "%s/dev.rows", dir);
    char *bytes = NULL;
    size_t len = 0;
    assert_int_equal(dd_file_read(path, 1 << 20, &bytes, &len, NULL), DD_OK);
    struct dd_dataset *dataset = NULL;
    struct dd_error error;
    for (size_t i = 0; i < len; i++) {
        bytes[i] ^= (char)(1 << i % 8);
        fixture_write_bytes("d/dev.rows", bytes, len);
        assert_int_equal(dd_dataset_open(dir, &dataset, &error), DD_CORRUPT);
        assert_string_equal(error.code, "dataset_damaged");
        bytes[i] ^= (char)(1 << i % 8);
        fixture_write_bytes("d/dev.rows", bytes, i); /* cut off */
        assert_int_equal(dd_dataset_open(dir, &dataset, &error), DD_CORRUPT);
    }
    /* A hostile file brings its own good checksum: damage within, hash made anew. */
    for (size_t i = 0; i < len - DD_SHA256_BYTES; i++) {
        bytes[i] ^= 0x40;
        dd_sha256_bytes(bytes, len - DD_SHA256_BYTES, (uint8_t *)bytes + len - DD_SHA256_BYTES);
        fixture_write_bytes("d/dev.rows", bytes, len);
        assert_int_equal(dd_dataset_open(dir, &dataset, &error), DD_CORRUPT);
        bytes[i] ^= 0x40;
    }
    assert_null(dataset);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(dd_dataset_open(dir, &dataset, &error), DD_CORRUPT);
    free(bytes);
}

/* A small generator for mutations; not the engine's, so that a fault there does not hide here. */
static uint64_t random_state = 20;
static uint32_t random_below(uint32_t bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % bound;
}

static size_t mutate(char *bytes, size_t len, size_t cap) {
    static const char tokens[] = "\"\n\r\t,{}[]:\\\0\xFF\xC3\xEF\xBB\xBF"
                                 "0a";
    for (uint32_t n = 1 + random_below(4); n > 0 && len > 2; n--) {
        size_t at = random_below((uint32_t)len), count = random_below(DD_MIN((uint32_t)(len - at), 12u)) + 1;
        switch (random_below(4)) {
        case 0: /* a byte that means something */
            bytes[at] = tokens[random_below(sizeof tokens - 1)];
            break;
        case 1: /* a piece lost */
            memmove(bytes + at, bytes + DD_MIN(at + count, len), len - DD_MIN(at + count, len));
            len -= DD_MIN(count, len - at);
            break;
        case 2: /* a piece twice */
            if (len + count <= cap) {
                memmove(bytes + at + count, bytes + at, len - at);
                len += count;
            }
            break;
        default:
            bytes[at] ^= (char)(1u << random_below(8));
        }
    }
    return len;
}

static void test_mutated_sources(void **state) {
    (void)state;
    static const struct format_case seeds[] = {
        {"m.tsv", "text\tlabel\none\tx\ntwo\ty\nthree\tx\nvier\ty\n"},
        {"m.csv", "label,text\nx,\"one, \"\"1\"\"\"\ny,\"two\nlines\"\nx,three\ny,\xE4\xB8\xAD\n"},
        {"m.jsonl",
         "{\"text\":\"one\",\"label\":1}\n{\"text\":\"t\\u00e9\",\"label\":2}\n{\"text\":\"3\",\"label\":1}\n"},
        {"m.txt", "one\ntwo\nthree\n"},
    };
    int imported = 0;
    for (int round = 0; round < 3000; round++) {
        const struct format_case *seed = &seeds[round % 4];
        char bytes[512];
        size_t len = strlen(seed->content);
        memcpy(bytes, seed->content, len);
        len = mutate(bytes, len, sizeof bytes);
        fixture_write_bytes(seed->name, bytes, len);
        fixture_write("base.tsv", "a\tx\nb\ty\nc\tx\nd\ty\n");
        bool unlabelled = round % 4 == 3;
        struct fixture_import run = {.import.skip_bad_rows = random_below(2)};
        run.names[unlabelled ? DD_SPLIT_UNLABELLED : DD_SPLIT_TRAIN] = seed->name;
        if (unlabelled) {
            run.names[DD_SPLIT_TRAIN] = "base.tsv";
        }
        enum dd_status status = fixture_run(&run, "m");
        if (status) {
            assert_int_equal(status, DD_INVALID);
            assert_true(run.error.message[0] != '\0');
            continue;
        }
        imported++;
        dd_dataset_free(fixture_open("m"));
        char path[128];
        fixture_path(path, "m");
        assert_int_equal(dd_tree_remove(path, NULL), DD_OK);
    }
    assert_in_range(imported, 300, 2900); /* the mutations neither always nor never matter */
}

static void test_mutated_meta(void **state) {
    (void)state;
    fixture_write("t.tsv", "abc\tx\ndefg\ty\n中文\tx\n");
    struct fixture_import run = {.names = {"t.tsv", "t.tsv"}};
    dd_dataset_free(import_ok(&run, "d"));
    char dir[128], path[160];
    fixture_path(dir, "d");
    snprintf(path, sizeof path, "%s/meta.json", dir);
    char *bytes = NULL;
    size_t len = 0;
    assert_int_equal(dd_file_read(path, 1 << 20, &bytes, &len, NULL), DD_OK);
    char *mutant = malloc(len + 64);
    assert_non_null(mutant);
    for (int round = 0; round < 3000; round++) {
        memcpy(mutant, bytes, len);
        size_t mutant_len = mutate(mutant, len, len + 64);
        fixture_write_bytes("d/meta.json", mutant, mutant_len);
        struct dd_dataset *dataset = NULL;
        struct dd_error error;
        enum dd_status status = dd_dataset_open(dir, &dataset, &error);
        if (status) {
            assert_int_equal(status, DD_CORRUPT);
        } else {
            struct dd_row row;
            dd_dataset_row(dataset, DD_SPLIT_TRAIN, 2, &row);
            assert_non_null(dd_dataset_class(dataset, row.label));
            dd_dataset_free(dataset);
        }
    }
    free(mutant);
    free(bytes);
}

int main(void) {
#define WITH_DIR(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        WITH_DIR(test_formats_give_the_same_rows),
        WITH_DIR(test_csv_field_may_hold_line_ends),
        WITH_DIR(test_named_columns),
        WITH_DIR(test_unlabelled_files),
        WITH_DIR(test_pairs),
        WITH_DIR(test_integer_labels_are_in_numeric_order),
        WITH_DIR(test_each_kind_of_bad_row),
        WITH_DIR(test_too_long_rows_and_labels),
        WITH_DIR(test_the_first_twenty_bad_rows_are_told),
        WITH_DIR(test_whole_files_refused),
        WITH_DIR(test_stratified_split),
        WITH_DIR(test_statistics),
        WITH_DIR(test_every_damaged_byte_is_found),
        WITH_DIR(test_mutated_sources),
        WITH_DIR(test_mutated_meta),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
