/* dataset_import: from the user's files to a data set directory.
 * Thread: one per import.
 *
 * 1. train is read in a stream into a spool file; only then are the classes and their order known.
 * 2. Without a dev file a stratified share of train becomes dev: a class of n rows gives round(fraction · n) of them,
 * at least one and at most n − 1 where n ≥ 2, drawn by a permutation that depends on (seed, class) alone.
 * 3. The spool is copied to train (and dev) with the final class indices; dev, test and unlabelled files go straight to
 *    theirs.
 * 4. meta.json; then the directory, built as "<dir>.tmp-<random>", is renamed into place and its parent synced.
 *
 * Memory, whatever the size of the files: one row, and per row a label byte and an index in step 2, and 24 bytes in
 * step 3 (offset and hash).  On any failure the temporary directory is removed.
 * Where rows are bad all files are read to the end, so that all of them can be told; nothing is written then unless
 * they are to be skipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/dataset_classes.h"
#include "engine/nn.h"

#define PATH_BYTES 4096
#define CANCEL_ROWS 1024 /* rows between two looks at the cancel flag */

struct importer {
    const struct dd_import *import;
    struct dd_import_report *report;
    char dir[PATH_BYTES]; /* the temporary one */
    struct dd_classes classes;
    struct dd_dataset_meta *meta; /* owned */
    uint8_t *record;              /* owned, [DD_RECORD_BYTES_MAX] */
    FILE *spool;                  /* owned */
    uint8_t *labels;              /* owned: class of each row of train, in order of first appearance */
    uint64_t *dev_rows;           /* owned bit set: rows of train that become dev; NULL: none */
    size_t n_rows, labels_cap;
    bool pairs, pairs_known;
    struct dd_split_writer writers[DD_SPLIT_COUNT];
    char first_bad[400];
};

static const char *file_name(const struct importer *importer, enum dd_split split) {
    const char *name = importer->import->file_names[split], *path = importer->import->paths[split];
    const char *slash = strrchr(path, '/');
    return name ? name : slash ? slash + 1 : path;
}

static void add_bad(struct importer *importer, enum dd_split split, uint64_t line, const char *reason) {
    struct dd_import_report *report = importer->report;
    if (report->bad_total++ == 0) {
        snprintf(importer->first_bad, sizeof importer->first_bad, "%.150s line %llu: %.200s",
                 file_name(importer, split), (unsigned long long)line, reason);
    }
    if (report->n_bad < DD_BAD_ROWS_MAX) {
        report->bad[report->n_bad].split = split;
        report->bad[report->n_bad].line = line;
        snprintf(report->bad[report->n_bad].reason, sizeof report->bad[0].reason, "%s", reason);
        report->n_bad++;
    }
}

/* --- train, into the spool --------------------------------------------------- */

static size_t build_record(struct importer *importer, const struct dd_source_row *row, int32_t label) {
    struct dd_record_head head = {
        .label = label, .text_bytes = (uint32_t)row->text.len, .pair_bytes = (uint32_t)row->pair.len};
    dd_record_put(importer->record, &head);
    memcpy(importer->record + DD_RECORD_HEAD, row->text.bytes, row->text.len);
    if (row->pair.bytes) {
        memcpy(importer->record + DD_RECORD_HEAD + row->text.len, row->pair.bytes, row->pair.len);
    }
    return DD_RECORD_HEAD + row->text.len + row->pair.len;
}

static enum dd_status add_label(struct importer *importer, int label, struct dd_error *err) {
    if (importer->n_rows == DD_ROWS_MAX) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_too_many_rows", "the training split has over %llu rows",
                       (unsigned long long)DD_ROWS_MAX);
    }
    if (importer->n_rows == importer->labels_cap) {
        size_t cap = DD_MAX((size_t)4096, importer->labels_cap * 2);
        uint8_t *labels = dd_realloc_array(importer->labels, cap, 1);
        if (!labels) {
            return dd_fail_memory(err, cap);
        }
        importer->labels = labels;
        importer->labels_cap = cap;
    }
    importer->labels[importer->n_rows++] = (uint8_t)label;
    return DD_OK;
}

static enum dd_status add_train_row(struct importer *importer, const struct dd_source_row *row, struct dd_error *err) {
    int label;
    enum dd_status status = dd_classes_add(&importer->classes, row->label.bytes, row->label.len, &label, err);
    if (!status) {
        status = add_label(importer, label, err);
    }
    if (status) {
        return status;
    }
    size_t bytes = build_record(importer, row, label);
    int planned = dd_failpoint("write");
    if (planned || fwrite(importer->record, 1, bytes, importer->spool) != bytes) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot write the rows of the data set");
    }
    return DD_OK;
}

/* Puts a row where it belongs, or reports it.  reason[200] is scratch. */
static enum dd_status take_row(struct importer *importer, enum dd_split split, const struct dd_source_row *row,
                               uint64_t line, char *reason, struct dd_error *err) {
    bool pair = row->pair.bytes != NULL;
    if (!importer->pairs_known) {
        importer->pairs = pair;
        importer->pairs_known = true;
    }
    if (pair != importer->pairs) {
        add_bad(importer, split, line,
                pair ? "it is a pair, the first row of train is a single text"
                     : "it is a single text, the first row of train is a pair");
        return DD_OK;
    }
    if (split == DD_SPLIT_TRAIN) {
        return add_train_row(importer, row, err);
    }
    int label = -1;
    if (split != DD_SPLIT_UNLABELLED) {
        label = dd_classes_find(&importer->classes, row->label.bytes, row->label.len);
        if (label < 0) {
            snprintf(reason, 200, "the label \"%.*s\" does not occur in train", (int)row->label.len, row->label.bytes);
            add_bad(importer, split, line, reason);
            return DD_OK;
        }
    }
    build_record(importer, row, label);
    return dd_split_writer_add(&importer->writers[split], importer->record, err);
}

static enum dd_status stopped(const struct importer *importer, uint64_t row, struct dd_error *err) {
    if (row % CANCEL_ROWS == 0 && dd_cancel_requested(importer->import->cancel) != DD_STOP_NONE) {
        return dd_fail(err, DD_STOPPED, "import_stopped", "the import was stopped");
    }
    return DD_OK;
}

static enum dd_status read_split(struct importer *importer, enum dd_split split, struct dd_error *err) {
    const struct dd_import *import = importer->import;
    struct dd_rows_options options = {.path = import->paths[split],
                                      .file_name = import->file_names[split],
                                      .split = split,
                                      .format = import->format,
                                      .text_column = import->text_column,
                                      .pair_column = import->pair_column,
                                      .label_column = import->label_column,
                                      .pairs = importer->pairs};
    struct dd_rows *rows = NULL;
    enum dd_status status = dd_rows_open(&options, &rows, err);
    enum dd_rows_result result = DD_ROWS_ROW;
    for (uint64_t n = 0; !status; n++) {
        struct dd_source_row row;
        uint64_t line = 0;
        char reason[200];
        status = stopped(importer, n, err);
        if (!status) {
            status = dd_rows_next(rows, &result, &row, &line, reason, err);
        }
        if (status || result == DD_ROWS_END) {
            break;
        }
        if (result == DD_ROWS_BAD) {
            add_bad(importer, split, line, reason);
        } else {
            status = take_row(importer, split, &row, line, reason, err);
        }
    }
    dd_rows_close(rows);
    return status;
}

/* --- the stratified split ---------------------------------------------------- */

static bool in_dev(const struct importer *importer, size_t row) {
    return importer->dev_rows && (importer->dev_rows[row / 64] >> row % 64 & 1);
}

static size_t dev_share(size_t rows, double fraction) {
    if (rows < 2) {
        return 0;
    }
    size_t share = (size_t)llround((double)rows * fraction);
    return DD_MIN(DD_MAX(share, (size_t)1), rows - 1);
}

/* Marks the rows of one class that become dev.  rows, order: scratch of n_rows each. */
static size_t split_class(struct importer *importer, int label, double fraction, uint32_t *rows, uint32_t *order) {
    size_t n = 0;
    for (size_t i = 0; i < importer->n_rows; i++) {
        if (importer->labels[i] == label) {
            rows[n++] = (uint32_t)i;
        }
    }
    struct dd_stream stream = {
        .seed = importer->import->seed, .purpose = DD_PURPOSE_SPLIT, .tensor = (uint32_t)label, .step = 0};
    dd_random_permutation(&stream, order, (uint32_t)n);
    size_t share = dev_share(n, fraction);
    for (size_t i = 0; i < share; i++) {
        uint32_t row = rows[order[i]];
        importer->dev_rows[row / 64] |= (uint64_t)1 << row % 64;
    }
    return share;
}

static enum dd_status split_dev(struct importer *importer, struct dd_error *err) {
    double fraction = importer->import->dev_fraction == 0 ? 0.1 : importer->import->dev_fraction;
    size_t n = importer->n_rows, in_all = 0;
    DD_CLEANUP(dd_free_ptr) uint32_t *rows = dd_calloc(n, sizeof *rows);
    DD_CLEANUP(dd_free_ptr) uint32_t *order = dd_calloc(n, sizeof *order);
    importer->dev_rows = dd_calloc(n / 64 + 1, sizeof *importer->dev_rows);
    if (!rows || !order || !importer->dev_rows) {
        return dd_fail_memory(err, n * 2 * sizeof *rows);
    }
    for (int label = 0; label < importer->classes.count; label++) {
        in_all += split_class(importer, label, fraction, rows, order);
    }
    if (in_all == 0) {
        return dd_fail(err, DD_INVALID, "dataset_too_small",
                       "every class has a single row, so none can be set apart for dev; upload a dev file");
    }
    importer->meta->dev_was_split = true;
    importer->meta->dev_fraction = fraction;
    importer->meta->seed = importer->import->seed;
    return DD_OK;
}

/* --- from the spool to train and dev ----------------------------------------- */

static enum dd_status copy_spool(struct importer *importer, struct dd_error *err) {
    uint8_t *record = importer->record;
    if (fflush(importer->spool) != 0 || fseek(importer->spool, 0, SEEK_SET) != 0) {
        return dd_fail_errno(err, errno, "cannot write the rows of the data set");
    }
    for (size_t i = 0; i < importer->n_rows; i++) {
        enum dd_status status = stopped(importer, i, err);
        if (status) {
            return status;
        }
        bool whole = fread(record, 1, DD_RECORD_HEAD, importer->spool) == DD_RECORD_HEAD;
        struct dd_record_head head = dd_record_get(record);
        size_t bytes = (size_t)head.text_bytes + head.pair_bytes;
        whole =
            whole && bytes <= DD_ROW_BYTES_MAX && fread(record + DD_RECORD_HEAD, 1, bytes, importer->spool) == bytes;
        if (!whole) {
            return dd_fail(err, DD_IO, "io", "the rows of the data set cannot be read back while it is written");
        }
        head.label = importer->classes.final_index[importer->labels[i]];
        dd_record_put(record, &head);
        status =
            dd_split_writer_add(&importer->writers[in_dev(importer, i) ? DD_SPLIT_DEV : DD_SPLIT_TRAIN], record, err);
        if (status) {
            return status;
        }
    }
    return DD_OK;
}

/* --- the whole --------------------------------------------------------------- */

static enum dd_status check_rows(const struct importer *importer, struct dd_error *err) {
    uint64_t bad = importer->report->bad_total;
    if (bad > 0 && !importer->import->skip_bad_rows) {
        return dd_fail(err, DD_INVALID, "dataset_rows_invalid", "%llu row%s cannot be used; the first is %s",
                       (unsigned long long)bad, bad == 1 ? "" : "s", importer->first_bad);
    }
    return DD_OK;
}

static enum dd_status check_train(const struct importer *importer, struct dd_error *err) {
    if (importer->classes.count >= 2) {
        return DD_OK;
    }
    enum dd_status status = check_rows(importer, err); /* bad rows are the likelier cause */
    if (!status && importer->n_rows == 0) {
        status =
            dd_fail(err, DD_INVALID, "dataset_empty", "%s has no usable rows", file_name(importer, DD_SPLIT_TRAIN));
    } else if (!status) {
        status = dd_fail(err, DD_INVALID, "dataset_one_class",
                         "every row of %s has the label \"%s\"; a classifier needs at least two classes",
                         file_name(importer, DD_SPLIT_TRAIN), importer->classes.names[0]);
    }
    return status;
}

static enum dd_status fill_meta(struct importer *importer, struct dd_error *err) {
    struct dd_dataset_meta *meta = importer->meta;
    meta->n_classes = importer->classes.count;
    meta->pairs = importer->pairs;
    for (int i = 0; i < meta->n_classes; i++) {
        memcpy(meta->classes[importer->classes.final_index[i]], importer->classes.names[i], DD_LABEL_BYTES);
    }
    for (int split = 0; split < DD_SPLIT_COUNT; split++) {
        struct dd_split_writer *writer = &importer->writers[split];
        struct dd_split_info *info = &meta->splits[split];
        if (!writer->out) {
            continue;
        }
        if (writer->rows == 0) {
            return dd_fail(err, DD_INVALID, "dataset_empty", "the %s split has no usable rows", dd_split_name(split));
        }
        dd_hashes_sort(&writer->hashes);
        info->present = true;
        info->rows = writer->rows;
        memcpy(info->class_rows, writer->class_rows, sizeof info->class_rows);
        info->characters = dd_lengths_stats(&writer->characters);
        info->duplicates = writer->hashes.count - writer->hashes.distinct;
        enum dd_status status = dd_split_writer_commit(writer, importer->pairs, info->sha256, err);
        if (status) {
            return status;
        }
    }
    for (int a = 0; a < DD_SPLIT_COUNT; a++) {
        for (int b = 0; b < DD_SPLIT_COUNT; b++) {
            if (a != b) {
                meta->splits[a].duplicates_of[b] =
                    dd_hashes_common(&importer->writers[a].hashes, &importer->writers[b].hashes);
            }
        }
    }
    return dd_dataset_meta_write(importer->dir, meta, err);
}

static enum dd_status fill_directory(struct importer *importer, struct dd_error *err) {
    const struct dd_import *import = importer->import;
    char path[PATH_BYTES];
    enum dd_status status = dd_path_join(path, sizeof path, err, importer->dir, "spool", NULL);
    if (status) {
        return status;
    }
    importer->spool = fopen(path, "w+xe");
    if (!importer->spool) {
        return dd_fail_errno(err, errno, "cannot create %s", path);
    }
    status = read_split(importer, DD_SPLIT_TRAIN, err);
    if (!status) {
        status = check_train(importer, err);
    }
    if (!status) {
        dd_classes_order(&importer->classes);
        status = import->paths[DD_SPLIT_DEV] ? DD_OK : split_dev(importer, err);
    }
    for (enum dd_split split = DD_SPLIT_TRAIN; split < DD_SPLIT_COUNT && !status; split++) {
        if (split <= DD_SPLIT_DEV || import->paths[split]) {
            status = dd_split_writer_open(&importer->writers[split], importer->dir, split, err);
        }
        if (!status && split != DD_SPLIT_TRAIN && import->paths[split]) {
            status = read_split(importer, split, err);
        }
    }
    if (!status) {
        status = check_rows(importer, err);
    }
    if (!status) {
        status = copy_spool(importer, err);
    }
    dd_fclose_ptr(&importer->spool);
    if (!status) {
        status = dd_tree_remove(path, err);
    }
    return status ? status : fill_meta(importer, err);
}

static enum dd_status check_import(const struct dd_import *import, const char *dir, struct dd_error *err) {
    if (!import->paths[DD_SPLIT_TRAIN]) {
        return dd_fail(err, DD_INVALID, "dataset_train_missing", "a data set needs a train file");
    }
    double fraction = import->dev_fraction;
    if (!(fraction == 0 || (fraction > 0 && fraction <= 0.9))) {
        return dd_fail(err, DD_INVALID, "dataset_dev_fraction", "dev_fraction must be above 0 and at most 0.9, got %g",
                       fraction);
    }
    if (access(dir, F_OK) == 0) {
        return dd_fail(err, DD_CONFLICT, "dataset_exists", "%s exists already", dir);
    }
    return DD_OK;
}

/* Renames the finished directory into place without replacing anything, and makes that durable. */
static enum dd_status publish(struct importer *importer, const char *dir, struct dd_error *err) {
    enum dd_status status = dd_dir_sync(importer->dir, err);
    if (status) {
        return status;
    }
    int planned = dd_failpoint("rename");
    int failed = planned ? -1 : renameat2(AT_FDCWD, importer->dir, AT_FDCWD, dir, RENAME_NOREPLACE);
    int saved = planned ? planned : errno;
    if (failed && saved == EINVAL) { /* a file system without RENAME_NOREPLACE; replaces an empty directory at most */
        failed = rename(importer->dir, dir);
        saved = errno;
    }
    if (failed) {
        return saved == EEXIST || saved == ENOTEMPTY
                   ? dd_fail(err, DD_CONFLICT, "dataset_exists", "%s exists already", dir)
                   : dd_fail_errno(err, saved, "cannot put the data set at %s", dir);
    }
    char parent[PATH_BYTES];
    snprintf(parent, sizeof parent, "%s/..", dir);
    status = dd_dir_sync(parent, err);
    if (status) { /* nothing is left on failure */
        (void)!rename(dir, importer->dir);
    }
    return status;
}

static void importer_release(struct importer *importer) {
    dd_fclose_ptr(&importer->spool);
    for (int split = 0; split < DD_SPLIT_COUNT; split++) {
        dd_split_writer_release(&importer->writers[split]);
    }
    free(importer->meta);
    free(importer->record);
    free(importer->labels);
    free(importer->dev_rows);
    free(importer);
}

enum dd_status dd_dataset_import(const struct dd_import *import, const char *dir, struct dd_import_report *report,
                                 struct dd_error *err) {
    memset(report, 0, sizeof *report);
    enum dd_status status = check_import(import, dir, err);
    if (status) {
        return status;
    }
    struct importer *importer = dd_calloc(1, sizeof *importer);
    if (!importer) {
        return dd_fail_memory(err, sizeof *importer);
    }
    importer->import = import;
    importer->report = report;
    importer->meta = dd_calloc(1, sizeof *importer->meta);
    importer->record = dd_calloc(DD_RECORD_BYTES_MAX, 1);
    uint64_t random;
    int len = -1;
    status = importer->meta && importer->record ? dd_random_bytes(&random, sizeof random, err)
                                                : dd_fail_memory(err, DD_RECORD_BYTES_MAX);
    if (!status) {
        len = snprintf(importer->dir, sizeof importer->dir, "%s.tmp-%016llx", dir, (unsigned long long)random);
        status = len > 0 && len < (int)sizeof importer->dir
                     ? dd_dir_make(importer->dir, err)
                     : dd_fail(err, DD_INVALID, "path_too_long", "the path of the data set is too long");
    }
    if (!status) {
        status = fill_directory(importer, err);
    }
    if (!status) {
        status = publish(importer, dir, err);
    }
    if (status && len > 0) {
        (void)!dd_tree_remove(importer->dir, NULL);
    }
    importer_release(importer);
    return status;
}
