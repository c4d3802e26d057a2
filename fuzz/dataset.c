/* Data set files: TSV, CSV and JSON Lines.  Input: a byte of choices (format, columns named, pairs), then the file.
 * All of it is read row by row; now and then it is imported for good, opened again, and must hold what was counted. */
#include "engine/dataset.h"
#include "fuzz/fuzz.h"

static void read_rows(const char *path, uint8_t choices) {
    struct dd_error err;
    const bool named = choices & 4;
    const struct dd_rows_options options = {.path = path,
                                            .file_name = "input",
                                            .split = choices & 16 ? DD_SPLIT_UNLABELLED : DD_SPLIT_TRAIN,
                                            .format = (enum dd_data_format)(choices & 3),
                                            .text_column = named ? "text" : NULL,
                                            .label_column = named ? "label" : NULL,
                                            .pair_column = choices & 8 ? "pair" : NULL,
                                            .pairs = choices & 8};
    struct dd_rows *rows;
    enum dd_status status = dd_rows_open(&options, &rows, &err);
    if (status != DD_OK) {
        fuzz_check_error(status, &err);
        return;
    }
    enum dd_rows_result result = DD_ROWS_ROW;
    while (status == DD_OK && result != DD_ROWS_END) {
        struct dd_source_row row = {{0}, {0}, {0}};
        uint64_t line = 0;
        char reason[200] = "";
        status = dd_rows_next(rows, &result, &row, &line, reason, &err);
        fuzz_check_error(status, &err);
        if (status == DD_OK && result == DD_ROWS_BAD) {
            FUZZ_CHECK(reason[0] != '\0' && line > 0);
        } else if (status == DD_OK && result == DD_ROWS_ROW) {
            FUZZ_CHECK(row.text.bytes != NULL && row.text.len <= DD_ROW_BYTES_MAX);
        }
    }
    dd_rows_close(rows);
}

static void import(const char *path, uint8_t choices) {
    struct dd_error err;
    static struct dd_import_report report;
    char dir[128];
    const struct dd_import how = {.paths = {path},
                                  .file_names = {"input"},
                                  .format = (enum dd_data_format)(choices & 3),
                                  .dev_fraction = 0.3,
                                  .skip_bad_rows = true};
    (void)snprintf(dir, sizeof dir, "%s/set", fuzz_dir());
    memset(&report, 0, sizeof report);
    enum dd_status status = dd_dataset_import(&how, dir, &report, &err);
    fuzz_check_error(status, &err);
    if (status != DD_OK) {
        FUZZ_CHECK(access(dir, F_OK) != 0);
        return;
    }
    struct dd_dataset *set;
    FUZZ_CHECK(dd_dataset_open(dir, &set, &err) == DD_OK);
    for (enum dd_split split = DD_SPLIT_TRAIN; split <= DD_SPLIT_DEV; split++) {
        for (uint64_t i = 0; i < dd_dataset_rows(set, split); i++) {
            struct dd_row row;
            dd_dataset_row(set, split, i, &row);
            FUZZ_CHECK(row.label >= 0 && row.label < dd_dataset_classes(set));
        }
    }
    dd_dataset_free(set);
    FUZZ_CHECK(dd_tree_remove(dir, &err) == DD_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    char path[128];
    if (count == 0) {
        return 0;
    }
    fuzz_file("input", bytes + 1, count - 1, path);
    read_rows(path, bytes[0]);
    if (bytes[0] & 32) {
        import(path, bytes[0]);
    }
    return 0;
}
