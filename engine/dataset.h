/* dataset: the inside of data set import and of the split files.  Private to engine/dataset_*.c.
 * Threads: an import runs on one thread; nothing here is shared.
 */
#ifndef DD_ENGINE_DATASET_H
#define DD_ENGINE_DATASET_H

#include "engine/engine.h"

#define DD_ROW_BYTES_MAX ((size_t)1 << 20) /* of a source row; longer ones are bad rows */
#define DD_COLUMNS_MAX 64                  /* columns further right are counted, not kept */
#define DD_LABEL_BYTES 128                 /* with the NUL; as labels in dd_model_info */
#define DD_ROWS_MAX ((uint64_t)INT32_MAX)  /* of a split */

/* --- rows of a source file (dataset_reader.c) -------------------------------------------------------------------- */

enum dd_source_format {
    DD_SOURCE_TSV,  /* a row a line, columns between tabs, no quoting */
    DD_SOURCE_CSV,  /* RFC 4180; LF ends a row as CR LF does; a quote inside an unquoted field is itself */
    DD_SOURCE_LINES /* a text a line; also what a JSON Lines file is read as */
};
struct dd_record {
    char *bytes; /* owned, [DD_ROW_BYTES_MAX + 1]: the row, its fields unquoted */
    size_t len;
    struct {
        size_t from, to; /* of bytes */
    } fields[DD_COLUMNS_MAX];
    int n_fields;        /* found; at most DD_COLUMNS_MAX of them stand in fields */
    size_t field_from;   /* where the field being read began */
    uint64_t line;       /* where it begins, from 1 */
    const char *problem; /* NULL: none; else what is wrong with it as a whole */
};
struct dd_source; /* an open file: a byte-order mark is skipped, empty lines too */
enum dd_status dd_source_open(const char *path, struct dd_source **ret_source, struct dd_error *err) DD_MUST_CHECK;
void dd_source_close(struct dd_source *source);
/* The first bytes of the file without the byte-order mark, as far as one read gave them. */
const char *dd_source_peek(const struct dd_source *source, size_t *ret_bytes);
/* The next record; the one of the call before is gone.  *ret_record NULL at the end of the file. */
enum dd_status dd_source_next(struct dd_source *source, enum dd_source_format format, struct dd_record **ret_record,
                              struct dd_error *err) DD_MUST_CHECK;

/* --- what the columns mean (dataset_columns.c) ------------------------------------------------------------------- */

struct dd_field {
    const char *bytes; /* NULL: absent */
    size_t len;
};
struct dd_source_row {
    struct dd_field text, pair, label;
};
struct dd_rows_options {
    const char *path, *file_name;
    enum dd_split split;
    enum dd_data_format format;
    const char *text_column, *pair_column, *label_column;
    bool pairs; /* unlabelled: whether the training split has pairs */
};
/* Rows of one file of any format; finds the format and the header as described at the head of dataset_columns.c. */
struct dd_rows;
enum dd_status dd_rows_open(const struct dd_rows_options *options, struct dd_rows **ret_rows,
                            struct dd_error *err) DD_MUST_CHECK;
void dd_rows_close(struct dd_rows *rows);
enum dd_rows_result { DD_ROWS_END, DD_ROWS_ROW, DD_ROWS_BAD };
/* DD_ROWS_ROW fills *ret_row (valid until the next call), DD_ROWS_BAD fills reason; both fill *ret_line. */
enum dd_status dd_rows_next(struct dd_rows *rows, enum dd_rows_result *ret_result, struct dd_source_row *ret_row,
                            uint64_t *ret_line, char reason[200], struct dd_error *err) DD_MUST_CHECK;

/* --- a row of JSON Lines (dataset_jsonl.c) ----------------------------------------------------------------------- */

struct cJSON;
/* Parses line[0 … len) (line[len] is NUL) as one object.  NULL with reason filled when it is none. */
struct cJSON *dd_jsonl_parse(const char *line, size_t len, char reason[200]);
/* The string of the first of the NULL-terminated names that the object has; field->bytes NULL when it has none.  With
 * integers, whole numbers are written into number.  False with reason filled when the value is of another type. */
bool dd_jsonl_field(const struct cJSON *object, const char *const *names, bool integers, char number[32],
                    struct dd_field *field, char reason[200]);

/* --- statistics (dataset_stats.c) -------------------------------------------------------------------------------- */

/* Counts of lengths, so that percentiles need no list of all rows. */
struct dd_lengths {
    uint64_t *counts; /* owned, [cap] */
    size_t cap;
    uint64_t rows, sum;
};
void dd_lengths_init(struct dd_lengths *lengths);
void dd_lengths_release(struct dd_lengths *lengths);
enum dd_status dd_lengths_add(struct dd_lengths *lengths, size_t length, struct dd_error *err) DD_MUST_CHECK;
struct dd_length_stats
dd_lengths_stats(const struct dd_lengths *lengths); /* percentiles by nearest rank; 0s if empty */

/* Hashes of all rows of a split: 128 bits of SHA-256 over the lengths and bytes of text and pair. */
struct dd_hashes {
    struct dd_row_hash {
        uint64_t high, low;
    } * items; /* owned */
    size_t count, cap;
    size_t distinct; /* after _sort */
};
void dd_hashes_init(struct dd_hashes *hashes);
void dd_hashes_release(struct dd_hashes *hashes);
enum dd_status dd_hashes_add(struct dd_hashes *hashes, const void *bytes, size_t count,
                             struct dd_error *err) DD_MUST_CHECK;
void dd_hashes_sort(struct dd_hashes *hashes);
/* Rows of a whose text also stands in b; both sorted. */
uint64_t dd_hashes_common(const struct dd_hashes *a, const struct dd_hashes *b);

/* --- split files (dataset_file.c) -------------------------------------------------------------------------------- */

struct dd_split_writer {
    struct dd_writer *out; /* owned */
    uint64_t offset;       /* bytes written */
    uint64_t *index;       /* owned: offset of each row */
    size_t rows, index_cap;
    uint64_t class_rows[DD_MAX_CLASSES];
    struct dd_lengths characters;
    struct dd_hashes hashes;
};
enum dd_status dd_split_writer_open(struct dd_split_writer *writer, const char *dir, enum dd_split split,
                                    struct dd_error *err) DD_MUST_CHECK;
void dd_split_writer_release(struct dd_split_writer *writer); /* without commit the file is removed */
/* record: a row as the file holds it (DD_RECORD_HEAD bytes of lengths and label, then text, then pair). */
enum dd_status dd_split_writer_add(struct dd_split_writer *writer, const uint8_t *record,
                                   struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_split_writer_commit(struct dd_split_writer *writer, bool pairs, char sha256[DD_SHA256_HEX_BYTES],
                                      struct dd_error *err) DD_MUST_CHECK;

#define DD_RECORD_HEAD 12
#define DD_RECORD_BYTES_MAX (DD_RECORD_HEAD + DD_ROW_BYTES_MAX)
struct dd_record_head {
    int32_t label;
    uint32_t text_bytes, pair_bytes;
};
void dd_record_put(uint8_t *record, const struct dd_record_head *head);
struct dd_record_head dd_record_get(const uint8_t *record);

/* An open split file, all of it checked. */
struct dd_split_file {
    struct dd_mapping mapping;
    const uint8_t *index; /* [rows] u64 */
    uint64_t rows;
    bool pairs;
    uint64_t class_rows[DD_MAX_CLASSES]; /* counted while checking */
    char sha256[DD_SHA256_HEX_BYTES];
};
enum dd_status dd_split_file_open(const char *dir, enum dd_split split, int n_classes, struct dd_split_file *ret_file,
                                  struct dd_error *err) DD_MUST_CHECK;
void dd_split_file_release(struct dd_split_file *file);
uint64_t dd_split_file_offset(const struct dd_split_file *file, uint64_t row); /* of the row's record */

/* --- meta.json (dataset_meta.c) ---------------------------------------------------------------------------------- */

struct dd_dataset_meta {
    int n_classes;
    char classes[DD_MAX_CLASSES][DD_LABEL_BYTES];
    bool pairs;
    bool dev_was_split;
    double dev_fraction;
    uint64_t seed;
    struct dd_split_info splits[DD_SPLIT_COUNT];
};
enum dd_status dd_dataset_meta_write(const char *dir, const struct dd_dataset_meta *meta,
                                     struct dd_error *err) DD_MUST_CHECK;
/* *ret_meta is clobbered on failure. */
enum dd_status dd_dataset_meta_read(const char *dir, struct dd_dataset_meta *ret_meta,
                                    struct dd_error *err) DD_MUST_CHECK;

#endif
