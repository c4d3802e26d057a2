/* dataset_open: a data set directory, checked and mapped.
 * Thread: any; immutable after dd_dataset_open.
 * Invariant: meta.json and the split files agree (rows, rows a class, pairs, hash), so no access below needs a check
 * beyond its own index.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dataset.h"
#include "engine/words.h"

static const char *const split_names[DD_SPLIT_COUNT] = {"train", "dev", "test", "unlabelled"};

const char *dd_split_name(enum dd_split split) {
    return split_names[split];
}

bool dd_split_parse(const char *name, enum dd_split *ret_split) {
    for (int split = 0; split < DD_SPLIT_COUNT; split++) {
        if (strcmp(name, split_names[split]) == 0) {
            *ret_split = split;
            return true;
        }
    }
    return false;
}

struct dd_dataset {
    struct dd_dataset_meta meta;
    struct dd_split_file files[DD_SPLIT_COUNT];
};

static enum dd_status open_split(struct dd_dataset *dataset, const char *dir, enum dd_split split,
                                 struct dd_error *err) {
    const struct dd_split_info *info = &dataset->meta.splits[split];
    struct dd_split_file *file = &dataset->files[split];
    enum dd_status status = dd_split_file_open(dir, split, dataset->meta.n_classes, file, err);
    if (status) {
        return status == DD_NOT_FOUND
                   ? dd_fail(err, DD_CORRUPT, "dataset_damaged",
                             "the %s split of %s is missing; import the data set again", dd_split_name(split), dir)
                   : status;
    }
    if (file->rows == 0 || file->rows != info->rows || file->pairs != dataset->meta.pairs ||
        memcmp(file->class_rows, info->class_rows, sizeof file->class_rows) != 0 ||
        strcmp(file->sha256, info->sha256) != 0) {
        return dd_fail(err, DD_CORRUPT, "dataset_damaged",
                       "the %s split of %s is not the one of its meta.json; import the data set again",
                       dd_split_name(split), dir);
    }
    return DD_OK;
}

enum dd_status dd_dataset_open(const char *dir, struct dd_dataset **ret_dataset, struct dd_error *err) {
    struct dd_dataset *dataset = dd_calloc(1, sizeof *dataset);
    if (!dataset) {
        return dd_fail_memory(err, sizeof *dataset);
    }
    enum dd_status status = dd_dataset_meta_read(dir, &dataset->meta, err);
    for (enum dd_split split = 0; split < DD_SPLIT_COUNT && !status; split++) {
        if (dataset->meta.splits[split].present) {
            status = open_split(dataset, dir, split, err);
        }
    }
    if (status) {
        dd_dataset_free(dataset);
        return status;
    }
    *ret_dataset = dataset;
    return DD_OK;
}

void dd_dataset_free(struct dd_dataset *dataset) {
    if (!dataset) {
        return;
    }
    for (int split = 0; split < DD_SPLIT_COUNT; split++) {
        dd_split_file_release(&dataset->files[split]);
    }
    free(dataset);
}

int dd_dataset_classes(const struct dd_dataset *dataset) {
    return dataset->meta.n_classes;
}

const char *dd_dataset_class(const struct dd_dataset *dataset, int index) {
    assert(index >= 0 && index < dataset->meta.n_classes);
    return dataset->meta.classes[index];
}

bool dd_dataset_has_pairs(const struct dd_dataset *dataset) {
    return dataset->meta.pairs;
}

const struct dd_split_info *dd_dataset_split(const struct dd_dataset *dataset, enum dd_split split) {
    return &dataset->meta.splits[split];
}

uint64_t dd_dataset_rows(const struct dd_dataset *dataset, enum dd_split split) {
    return dataset->files[split].rows;
}

void dd_dataset_row(const struct dd_dataset *dataset, enum dd_split split, uint64_t index, struct dd_row *ret_row) {
    const struct dd_split_file *file = &dataset->files[split];
    assert(index < file->rows);
    const uint8_t *record = file->mapping.bytes + dd_split_file_offset(file, index);
    struct dd_record_head head = dd_record_get(record);
    const char *text = (const char *)record + DD_RECORD_HEAD;
    *ret_row = (struct dd_row){.text = text,
                               .text_bytes = head.text_bytes,
                               .pair = file->pairs ? text + head.text_bytes : NULL,
                               .pair_bytes = head.pair_bytes,
                               .label = head.label};
}

bool dd_dataset_dev_was_split(const struct dd_dataset *dataset, double *ret_fraction, uint64_t *ret_seed) {
    if (dataset->meta.dev_was_split) {
        *ret_fraction = dataset->meta.dev_fraction;
        *ret_seed = dataset->meta.seed;
    }
    return dataset->meta.dev_was_split;
}

/* [CLS] and the [SEP]s count: the figure is compared with max_length. */
enum dd_status dd_dataset_token_stats(const struct dd_dataset *dataset, enum dd_split split,
                                      const struct dd_tokenizer *tokenizer, struct dd_length_stats *ret_stats,
                                      struct dd_error *err) {
    struct dd_lengths lengths;
    dd_lengths_init(&lengths);
    enum dd_status status = DD_OK;
    for (uint64_t i = 0; i < dd_dataset_rows(dataset, split) && !status; i++) {
        struct dd_row row;
        dd_dataset_row(dataset, split, i, &row);
        size_t tokens = 2 + dd_tokenizer_count(tokenizer, row.text, row.text_bytes);
        if (row.pair) {
            tokens += 1 + dd_tokenizer_count(tokenizer, row.pair, row.pair_bytes);
        }
        status = dd_lengths_add(&lengths, tokens, err);
    }
    if (!status) {
        *ret_stats = dd_lengths_stats(&lengths);
    }
    dd_lengths_release(&lengths);
    return status;
}
