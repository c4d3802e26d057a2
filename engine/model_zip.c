/* model_zip: where the entries of a zip archive lie in a mapped file, so that tensors are read in place.
 *
 * libarchive reads an archive as a stream and does not tell where stored data begins; torch.load needs entries by name
 * in any order.  Hence this reader of the central directory:
 *
 *   end of central directory (EOCD), at most 65,557 bytes before the end of the file:
 *     0 "PK\5\6"  4 disk u16  6 disk of directory u16  8 entries here u16  10 entries u16  12 directory bytes u32
 *     16 directory offset u32  20 comment bytes u16
 *   zip64: a locator of 20 bytes directly before it: 0 "PK\6\7"  4 disk u32  8 offset of the zip64 EOCD u64
 *     zip64 EOCD: 0 "PK\6\6"  …  32 entries u64  40 directory bytes u64  48 directory offset u64
 *   directory entry: 0 "PK\1\2"  8 flags u16  10 method u16  16 crc32 u32  20 stored bytes u32  24 size u32
 *     28 name bytes u16  30 extra bytes u16  32 comment bytes u16  42 offset of the local header u32  46 name, extra,
 *     comment.  A field of all ones stands in the extra field 0x0001 as u64 instead: size, stored bytes, offset.
 *   local header: 0 "PK\3\4"  26 name bytes u16  28 extra bytes u16  30 name, extra, then the data.
 *
 * Source: PKWARE APPNOTE 6.3.  Threads: no state.  Every offset is checked against the file before it is followed.
 */
#include "engine/model.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define EOCD_BYTES 22
#define LOCATOR_BYTES 20
#define EOCD64_BYTES 56
#define ENTRY_BYTES 46
#define LOCAL_BYTES 30
#define MAX_COMMENT 65535
#define MAX_ENTRIES 65536
#define DEFLATE_MAX_RATIO 1032 /* no deflate stream does better */

struct file {
    const uint8_t *bytes;
    size_t len;
};

static uint64_t little(const uint8_t *bytes, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    return value;
}

static bool inside(const struct file *file, uint64_t offset, uint64_t count) {
    return offset <= file->len && count <= file->len - offset;
}

static enum dd_status corrupt(struct dd_error *err, const char *what) {
    return dd_fail(err, DD_CORRUPT, "zip_corrupt", "the zip archive is damaged: %s", what);
}

static enum dd_status find_directory(const struct file *file, uint64_t *ret_offset, uint64_t *ret_bytes,
                                     uint64_t *ret_entries, struct dd_error *err) {
    if (file->len < EOCD_BYTES) {
        return corrupt(err, "it is too short");
    }
    size_t least = file->len - DD_MIN(file->len, (size_t)EOCD_BYTES + MAX_COMMENT), at = file->len - EOCD_BYTES;
    while (memcmp(file->bytes + at, "PK\5\6", 4) != 0 ||
           little(file->bytes + at + 20, 2) > file->len - at - EOCD_BYTES) {
        if (at == least) {
            return corrupt(err, "it has no end record (is it cut off?)");
        }
        at--;
    }
    const uint8_t *end = file->bytes + at;
    *ret_entries = little(end + 10, 2);
    *ret_bytes = little(end + 12, 4);
    *ret_offset = little(end + 16, 4);
    if (at >= LOCATOR_BYTES && memcmp(end - LOCATOR_BYTES, "PK\6\7", 4) == 0) {
        uint64_t offset = little(end - LOCATOR_BYTES + 8, 8);
        if (!inside(file, offset, EOCD64_BYTES) || memcmp(file->bytes + offset, "PK\6\6", 4) != 0) {
            return corrupt(err, "its zip64 end record is missing");
        }
        *ret_entries = little(file->bytes + offset + 32, 8);
        *ret_bytes = little(file->bytes + offset + 40, 8);
        *ret_offset = little(file->bytes + offset + 48, 8);
    }
    if (!inside(file, *ret_offset, *ret_bytes) || *ret_entries > *ret_bytes / ENTRY_BYTES) {
        return corrupt(err, "its directory lies outside the file");
    }
    if (*ret_entries > MAX_ENTRIES) {
        return dd_fail(err, DD_TOO_LARGE, "zip_too_large", "the zip archive has more than %d entries", MAX_ENTRIES);
    }
    return DD_OK;
}

/* Replaces fields of all ones by their values in the zip64 extra field; false when one is missing there. */
static bool zip64_fields(const uint8_t *extra, size_t extra_bytes, uint64_t *size, uint64_t *stored, uint64_t *offset) {
    uint64_t *fields[3] = {size, stored, offset};
    while (extra_bytes >= 4) {
        size_t id = (size_t)little(extra, 2), count = (size_t)little(extra + 2, 2);
        if (count > extra_bytes - 4) {
            return false;
        }
        if (id == 1) {
            const uint8_t *at = extra + 4, *end = at + count;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] == UINT32_MAX) {
                    if (end - at < 8) {
                        return false;
                    }
                    *fields[i] = little(at, 8);
                    at += 8;
                }
            }
            return true;
        }
        extra += 4 + count;
        extra_bytes -= 4 + count;
    }
    return *size != UINT32_MAX && *stored != UINT32_MAX && *offset != UINT32_MAX;
}

/* One directory entry at `at`, which has ENTRY_BYTES left; *ret_next is where the following one begins. */
static enum dd_status read_entry(const struct file *file, uint64_t at, uint64_t directory_end,
                                 struct dd_zip_entry *entry, uint64_t *ret_next, struct dd_error *err) {
    const uint8_t *head = file->bytes + at;
    if (memcmp(head, "PK\1\2", 4) != 0) {
        return corrupt(err, "a directory entry has no signature");
    }
    uint64_t name_bytes = little(head + 28, 2), extra_bytes = little(head + 30, 2), comment = little(head + 32, 2);
    uint64_t total = ENTRY_BYTES + name_bytes + extra_bytes + comment;
    if (total > directory_end - at) {
        return corrupt(err, "a directory entry runs over its end");
    }
    uint64_t stored = little(head + 20, 4), size = little(head + 24, 4), offset = little(head + 42, 4);
    uint64_t flags = little(head + 8, 2), method = little(head + 10, 2);
    if (!zip64_fields(head + ENTRY_BYTES + name_bytes, (size_t)extra_bytes, &size, &stored, &offset)) {
        return corrupt(err, "a zip64 field is missing");
    }
    if ((flags & 1) != 0 || (method != 0 && method != 8)) {
        return dd_fail(err, DD_UNSUPPORTED, "zip_unsupported",
                       "the zip archive has an entry that is encrypted or neither stored nor deflated (method %d)",
                       (int)method);
    }
    if (!inside(file, offset, LOCAL_BYTES) || memcmp(file->bytes + offset, "PK\3\4", 4) != 0) {
        return corrupt(err, "an entry's local header is missing");
    }
    uint64_t data = offset + LOCAL_BYTES + little(file->bytes + offset + 26, 2) + little(file->bytes + offset + 28, 2);
    if (!inside(file, data, stored)) {
        return corrupt(err, "an entry's data lies outside the file");
    }
    if (method == 0 ? size != stored : size / DEFLATE_MAX_RATIO > stored) {
        return corrupt(err, "an entry's sizes contradict one another");
    }
    entry->name = (const char *)head + ENTRY_BYTES;
    entry->name_bytes = (size_t)name_bytes;
    entry->storage = (struct dd_storage){.bytes = file->bytes + data,
                                         .stored_bytes = (size_t)stored,
                                         .size_bytes = (size_t)size,
                                         .deflated = method == 8,
                                         .crc32 = (uint32_t)little(head + 16, 4)};
    *ret_next = at + total;
    return DD_OK;
}

static int compare_entry_names(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    int order = memcmp(a, b, DD_MIN(a_bytes, b_bytes));
    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare_entries(const void *a, const void *b) {
    const struct dd_zip_entry *left = a, *right = b;
    return compare_entry_names(left->name, left->name_bytes, right->name, right->name_bytes);
}

enum dd_status dd_zip_open(const uint8_t *bytes, size_t len, struct dd_zip *ret_zip, struct dd_error *err) {
    struct file file = {bytes, len};
    uint64_t offset = 0, directory_bytes = 0, count = 0;
    enum dd_status status = find_directory(&file, &offset, &directory_bytes, &count, err);
    if (status != DD_OK) {
        return status;
    }
    struct dd_zip zip = {.entries = dd_calloc((size_t)count + 1, sizeof *zip.entries)};
    if (zip.entries == NULL) {
        return dd_fail_memory(err, (size_t)count * sizeof *zip.entries);
    }
    uint64_t end = offset + directory_bytes;
    while (zip.count < count && status == DD_OK) {
        if (end - offset < ENTRY_BYTES) {
            status = corrupt(err, "its directory ends early");
        } else {
            status = read_entry(&file, offset, end, &zip.entries[zip.count], &offset, err);
            zip.count++;
        }
    }
    if (status == DD_OK && count > 1) {
        qsort(zip.entries, zip.count, sizeof *zip.entries, compare_entries);
        for (size_t i = 1; i < zip.count && status == DD_OK; i++) {
            if (compare_entries(&zip.entries[i - 1], &zip.entries[i]) == 0) {
                status = corrupt(err, "two entries have one name");
            }
        }
    }
    if (status != DD_OK) {
        dd_zip_release(&zip);
        return status;
    }
    *ret_zip = zip;
    return DD_OK;
}

void dd_zip_release(struct dd_zip *zip) {
    free(zip->entries);
    *zip = (struct dd_zip){0};
}

const struct dd_zip_entry *dd_zip_find(const struct dd_zip *zip, const char *name, size_t name_bytes) {
    struct dd_zip_entry key = {.name = name, .name_bytes = name_bytes};
    return zip->count == 0 ? NULL : bsearch(&key, zip->entries, zip->count, sizeof key, compare_entries);
}

/* Inflates storage into out[size_bytes]; false unless it is whole, of that size and checksum. */
static bool inflate_all(const struct dd_storage *storage, uint8_t *out) {
    z_stream stream = {0};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) {
        return false;
    }
    size_t in_done = 0, out_done = 0;
    uLong crc = crc32(0, NULL, 0);
    int code = Z_OK;
    while (code == Z_OK) {
        uInt in_count = (uInt)DD_MIN(storage->stored_bytes - in_done, (size_t)1 << 30);
        uInt out_count = (uInt)DD_MIN(storage->size_bytes - out_done, (size_t)1 << 30);
        stream.next_in = (z_const Bytef *)(uintptr_t)(storage->bytes + in_done);
        stream.avail_in = in_count;
        stream.next_out = out + out_done;
        stream.avail_out = out_count;
        code = inflate(&stream, Z_NO_FLUSH);
        crc = crc32(crc, out + out_done, out_count - stream.avail_out);
        in_done += in_count - stream.avail_in;
        out_done += out_count - stream.avail_out;
        if (code == Z_OK && stream.avail_in == in_count && stream.avail_out == out_count) {
            break;
        }
    }
    inflateEnd(&stream);
    return code == Z_STREAM_END && out_done == storage->size_bytes && (uint32_t)crc == storage->crc32;
}

enum dd_status dd_storage_bytes(const struct dd_storage *storage, const uint8_t **ret_bytes, uint8_t **ret_owned,
                                struct dd_error *err) {
    if (!storage->deflated) {
        *ret_bytes = storage->bytes;
        *ret_owned = NULL;
        return DD_OK;
    }
    uint8_t *out = dd_calloc(storage->size_bytes + 1, 1);
    if (out == NULL) {
        return dd_fail_memory(err, storage->size_bytes);
    }
    if (!inflate_all(storage, out)) {
        free(out);
        return corrupt(err, "a deflated entry does not inflate to its size and checksum");
    }
    *ret_bytes = out;
    *ret_owned = out;
    return DD_OK;
}
