/* dataset_file: the binary file of one split, written in a stream and mapped for reading.
 *
 * <dir>/<split>.rows, all numbers little-endian:
 *
 *   offset 0        8 bytes   magic "DDROWS1\n"
 *          8        rows, one behind the other, each
 *                     i32     class index; -1 in the unlabelled split
 *                     u32     t: bytes of the text
 *                     u32     p: bytes of the pair; 0 without pairs
 *                     t       text, UTF-8, not empty, no NUL
 *                     p       pair, likewise; not empty in a data set of pairs
 *          index    rows × u64: offset of each row; ascending, no gaps
 *          footer   u64       rows
 *                   u64       index: offset of the index
 *                   u32       flags: bit 0 = pairs; others 0
 *                   u32       0
 *                   32 bytes  SHA-256 of everything before it
 *
 * There is nothing to go back to while writing, so the file can be hashed as it is written; the index is kept in memory
 * meanwhile (8 bytes a row).  Written under a temporary name and renamed (dd_writer).
 * Opening checks the hash, every offset, every length, every class and every text, so that reading a row afterwards
 * needs no check.  Threads: a writer belongs to one; an open file is immutable.
 */
#include "engine/dataset.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "engine/unicode.h"

static const char magic[8] = {'D', 'D', 'R', 'O', 'W', 'S', '1', '\n'};
#define FOOTER_BYTES ((size_t)(8 + 8 + 4 + 4 + DD_SHA256_BYTES))
#define FLAG_PAIRS 1u
#define PATH_BYTES 4096

static void put_u32(uint8_t *at, uint32_t value) {
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}

static void put_u64(uint8_t *at, uint64_t value) {
    value = htole64(value);
    memcpy(at, &value, sizeof value);
}

static uint32_t get_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static uint64_t get_u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

void dd_record_put(uint8_t *record, const struct dd_record_head *head) {
    put_u32(record, (uint32_t)head->label);
    put_u32(record + 4, head->text_bytes);
    put_u32(record + 8, head->pair_bytes);
}

struct dd_record_head dd_record_get(const uint8_t *record) {
    return (struct dd_record_head){
        .label = (int32_t)get_u32(record), .text_bytes = get_u32(record + 4), .pair_bytes = get_u32(record + 8)};
}

static enum dd_status split_path(char path[PATH_BYTES], const char *dir, enum dd_split split, struct dd_error *err) {
    char name[32];
    snprintf(name, sizeof name, "%s.rows", dd_split_name(split));
    return dd_path_join(path, PATH_BYTES, err, dir, name, NULL);
}

/* --- writing ----------------------------------------------------------------- */

enum dd_status dd_split_writer_open(struct dd_split_writer *writer, const char *dir, enum dd_split split,
                                    struct dd_error *err) {
    memset(writer, 0, sizeof *writer);
    dd_lengths_init(&writer->characters);
    dd_hashes_init(&writer->hashes);
    char path[PATH_BYTES];
    enum dd_status status = split_path(path, dir, split, err);
    if (!status) {
        status = dd_writer_open(path, DD_WRITER_SHA256, &writer->out, err);
    }
    if (!status) {
        status = dd_writer_write(writer->out, magic, sizeof magic, err);
        writer->offset = sizeof magic;
    }
    return status;
}

void dd_split_writer_release(struct dd_split_writer *writer) {
    dd_writer_free(writer->out);
    free(writer->index);
    dd_lengths_release(&writer->characters);
    dd_hashes_release(&writer->hashes);
    memset(writer, 0, sizeof *writer);
}

static enum dd_status index_add(struct dd_split_writer *writer, struct dd_error *err) {
    if (writer->rows == DD_ROWS_MAX) {
        return dd_fail(err, DD_TOO_LARGE, "dataset_too_many_rows", "a split holds at most %llu rows",
                       (unsigned long long)DD_ROWS_MAX);
    }
    if (writer->rows == writer->index_cap) {
        size_t cap = DD_MAX((size_t)1024, writer->index_cap * 2);
        uint64_t *index = dd_realloc_array(writer->index, cap, sizeof *index);
        if (!index) {
            return dd_fail_memory(err, cap * sizeof *index);
        }
        writer->index = index;
        writer->index_cap = cap;
    }
    put_u64((uint8_t *)&writer->index[writer->rows++], writer->offset);
    return DD_OK;
}

enum dd_status dd_split_writer_add(struct dd_split_writer *writer, const uint8_t *record, struct dd_error *err) {
    struct dd_record_head head = dd_record_get(record);
    size_t bytes = (size_t)head.text_bytes + head.pair_bytes;
    size_t characters = dd_utf8_count((const char *)record + DD_RECORD_HEAD, bytes);
    enum dd_status status = index_add(writer, err);
    if (!status) {
        status = dd_lengths_add(&writer->characters, characters, err);
    }
    if (!status) { /* the label is left out: the same text with another label is a duplicate */
        status = dd_hashes_add(&writer->hashes, record + 4, DD_RECORD_HEAD - 4 + bytes, err);
    }
    if (!status) {
        status = dd_writer_write(writer->out, record, DD_RECORD_HEAD + bytes, err);
    }
    if (!status) {
        writer->offset += DD_RECORD_HEAD + bytes;
        if (head.label >= 0 && head.label < DD_MAX_CLASSES) {
            writer->class_rows[head.label]++;
        }
    }
    return status;
}

enum dd_status dd_split_writer_commit(struct dd_split_writer *writer, bool pairs, char sha256[DD_SHA256_HEX_BYTES],
                                      struct dd_error *err) {
    uint8_t footer[FOOTER_BYTES] = {0};
    put_u64(footer, writer->rows);
    put_u64(footer + 8, writer->offset);
    put_u32(footer + 16, pairs ? FLAG_PAIRS : 0);
    enum dd_status status = DD_OK;
    if (writer->rows > 0) {
        status = dd_writer_write(writer->out, writer->index, writer->rows * sizeof *writer->index, err);
    }
    if (!status) {
        status = dd_writer_write(writer->out, footer, FOOTER_BYTES - DD_SHA256_BYTES, err);
    }
    if (status) {
        return status;
    }
    dd_writer_digest(writer->out, footer + FOOTER_BYTES - DD_SHA256_BYTES);
    dd_hex(footer + FOOTER_BYTES - DD_SHA256_BYTES, DD_SHA256_BYTES, sha256);
    status = dd_writer_write(writer->out, footer + FOOTER_BYTES - DD_SHA256_BYTES, DD_SHA256_BYTES, err);
    return status ? status : dd_writer_commit(writer->out, err);
}

/* --- reading ----------------------------------------------------------------- */

static enum dd_status damaged(const char *path, const char *what, struct dd_error *err) {
    return dd_fail(err, DD_CORRUPT, "dataset_damaged", "%s is damaged: %s; import the data set again", path, what);
}

/* Checks row i, which must begin at *offset; moves *offset behind it. */
static const char *check_row(struct dd_split_file *file, uint64_t i, uint64_t index_at, int n_classes, bool labelled,
                             uint64_t *offset) {
    if (get_u64(file->index + i * 8) != *offset || index_at - *offset < DD_RECORD_HEAD) {
        return "an offset of its index is wrong";
    }
    const uint8_t *record = file->mapping.bytes + *offset;
    struct dd_record_head head = dd_record_get(record);
    uint64_t bytes = (uint64_t)head.text_bytes + head.pair_bytes;
    if (bytes > DD_ROW_BYTES_MAX || bytes > index_at - *offset - DD_RECORD_HEAD || head.text_bytes == 0 ||
        (head.pair_bytes > 0) != file->pairs) {
        return "a length is wrong";
    }
    if (labelled ? head.label < 0 || head.label >= n_classes : head.label != -1) {
        return "a class is wrong";
    }
    const char *text = (const char *)record + DD_RECORD_HEAD;
    if (memchr(text, '\0', bytes) || !dd_utf8_valid(text, head.text_bytes) ||
        !dd_utf8_valid(text + head.text_bytes, head.pair_bytes)) {
        return "a text is not UTF-8";
    }
    if (labelled) {
        file->class_rows[head.label]++;
    }
    *offset += DD_RECORD_HEAD + bytes;
    return NULL;
}

/* Checks the mapped file and fills what stands in its footer; NULL when all is well. */
static const char *check_file(struct dd_split_file *file, int n_classes, bool labelled) {
    size_t len = file->mapping.len;
    if (len < sizeof magic + FOOTER_BYTES || memcmp(file->mapping.bytes, magic, sizeof magic) != 0) {
        return "it is no split file";
    }
    const uint8_t *footer = file->mapping.bytes + len - FOOTER_BYTES;
    uint8_t digest[DD_SHA256_BYTES];
    dd_sha256_bytes(file->mapping.bytes, len - DD_SHA256_BYTES, digest);
    if (memcmp(digest, footer + FOOTER_BYTES - DD_SHA256_BYTES, sizeof digest) != 0) {
        return "its checksum does not agree";
    }
    dd_hex(digest, sizeof digest, file->sha256);
    file->rows = get_u64(footer);
    uint64_t index_at = get_u64(footer + 8);
    uint32_t flags = get_u32(footer + 16);
    if ((flags & ~FLAG_PAIRS) || get_u32(footer + 20) || file->rows > DD_ROWS_MAX || index_at < sizeof magic ||
        index_at > len - FOOTER_BYTES || len - FOOTER_BYTES - index_at != file->rows * 8) {
        return "its footer is wrong";
    }
    file->pairs = flags & FLAG_PAIRS;
    file->index = file->mapping.bytes + index_at;
    uint64_t offset = sizeof magic;
    for (uint64_t i = 0; i < file->rows; i++) {
        const char *problem = check_row(file, i, index_at, n_classes, labelled, &offset);
        if (problem) {
            return problem;
        }
    }
    return offset == index_at ? NULL : "there are bytes between its rows and its index";
}

enum dd_status dd_split_file_open(const char *dir, enum dd_split split, int n_classes, struct dd_split_file *ret_file,
                                  struct dd_error *err) {
    char path[PATH_BYTES];
    struct dd_split_file file = {0};
    enum dd_status status = split_path(path, dir, split, err);
    if (!status) {
        status = dd_mapping_open(path, &file.mapping, err);
    }
    if (status) {
        return status;
    }
    const char *problem = check_file(&file, n_classes, split != DD_SPLIT_UNLABELLED);
    if (problem) {
        dd_split_file_release(&file);
        return damaged(path, problem, err);
    }
    *ret_file = file;
    return DD_OK;
}

void dd_split_file_release(struct dd_split_file *file) {
    dd_mapping_release(&file->mapping);
    memset(file, 0, sizeof *file);
}

uint64_t dd_split_file_offset(const struct dd_split_file *file, uint64_t row) {
    return get_u64(file->index + row * 8);
}
