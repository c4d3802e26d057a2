/* dataset_fixture: temporary directories and imports from text, for the tests of data sets and vocabularies. */
#ifndef DD_TESTS_DATASET_FIXTURE_H
#define DD_TESTS_DATASET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants these four first */
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

static char fixture_dir[64];

static inline int fixture_setup(void **state) {
    (void)state;
    /* In memory where that is possible: thousands of imports, each of them durable, would wear a disk. */
    snprintf(fixture_dir, sizeof fixture_dir, "%s/distilld-test-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    return mkdtemp(fixture_dir) ? 0 : -1;
}

static inline int fixture_teardown(void **state) {
    (void)state;
    return dd_tree_remove(fixture_dir, NULL) == DD_OK ? 0 : -1;
}

static inline void fixture_path(char path[128], const char *name) {
    snprintf(path, 128, "%s/%s", fixture_dir, name);
}

static inline void fixture_write_bytes(const char *name, const void *bytes, size_t count) {
    char path[128];
    fixture_path(path, name);
    FILE *file = fopen(path, "wbe");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static inline void fixture_write(const char *name, const char *text) {
    fixture_write_bytes(name, text, strlen(text));
}

/* Entries of the fixture directory, as a check that nothing is left behind. */
static inline int fixture_entries(void) {
    DIR *dir = opendir(fixture_dir);
    assert_non_null(dir);
    int entries = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        entries += entry->d_name[0] != '.';
    }
    closedir(dir);
    return entries;
}

/* What an import of files in the fixture directory did. */
struct fixture_import {
    struct dd_import import; /* options; paths are set from names */
    const char *names[DD_SPLIT_COUNT];
    struct dd_import_report report;
    struct dd_error error;
};

static inline enum dd_status fixture_run(struct fixture_import *run, const char *target) {
    char paths[DD_SPLIT_COUNT][128], dir[128];
    for (int split = 0; split < DD_SPLIT_COUNT; split++) {
        if (run->names[split]) {
            fixture_path(paths[split], run->names[split]);
            run->import.paths[split] = paths[split];
            run->import.file_names[split] = run->names[split];
        }
    }
    fixture_path(dir, target);
    memset(&run->error, 0, sizeof run->error);
    return dd_dataset_import(&run->import, dir, &run->report, &run->error);
}

static inline struct dd_dataset *fixture_open(const char *target) {
    char dir[128];
    fixture_path(dir, target);
    struct dd_dataset *dataset = NULL;
    struct dd_error error = {0};
    enum dd_status status = dd_dataset_open(dir, &dataset, &error);
    if (status) {
        fail_msg("cannot open: %s", error.message);
    }
    return dataset;
}

static inline void assert_row(const struct dd_dataset *dataset, enum dd_split split, uint64_t index, const char *text,
                              const char *pair, const char *label) {
    struct dd_row row;
    dd_dataset_row(dataset, split, index, &row);
    assert_int_equal(row.text_bytes, strlen(text));
    assert_memory_equal(row.text, text, row.text_bytes);
    assert_int_equal(row.pair != NULL, pair != NULL);
    if (pair) {
        assert_int_equal(row.pair_bytes, strlen(pair));
        assert_memory_equal(row.pair, pair, row.pair_bytes);
    }
    if (label) {
        assert_string_equal(dd_dataset_class(dataset, row.label), label);
    } else {
        assert_int_equal(row.label, -1);
    }
}

#endif
