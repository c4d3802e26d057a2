/* dataset_reader: a source file as a stream of records (see dataset.h).
 * Thread: one per struct dd_source.
 *
 * Memory: one read buffer and one row, whatever the size of the file.  A row of over DD_ROW_BYTES_MAX bytes is reported
 * and skipped up to the next line end; in CSV that is usually a quote which is never closed, and says so.
 * Invariant: `line` is the number of line ends consumed, plus one.
 */
#include "engine/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES ((size_t)1 << 17)

struct dd_source {
    int fd;
    size_t at, len; /* of chunk: what has not been consumed */
    uint64_t line;
    struct dd_record record;
    char chunk[CHUNK_BYTES];
};

/* Refills the empty chunk; len stays 0 at the end of the file. */
static enum dd_status refill(struct dd_source *source, struct dd_error *err) {
    source->at = source->len = 0;
    for (;;) {
        ssize_t n = read(source->fd, source->chunk, sizeof source->chunk);
        if (n >= 0) {
            source->len = (size_t)n;
            return DD_OK;
        }
        if (errno != EINTR) {
            return dd_fail_errno(err, errno, "cannot read an uploaded data file");
        }
    }
}

enum dd_status dd_source_open(const char *path, struct dd_source **ret_source, struct dd_error *err) {
    struct dd_source *source = dd_calloc(1, sizeof *source);
    if (!source) {
        return dd_fail_memory(err, sizeof *source);
    }
    source->line = 1;
    source->record.bytes = dd_calloc(DD_ROW_BYTES_MAX + 1, 1);
    source->fd = DD_FAILABLE("open", open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY));
    enum dd_status status = DD_OK;
    if (!source->record.bytes) {
        status = dd_fail_memory(err, DD_ROW_BYTES_MAX);
    } else if (source->fd < 0) {
        status = dd_fail_errno(err, errno, "cannot open %s", path);
    } else {
        status = refill(source, err);
    }
    if (status) {
        dd_source_close(source);
        return status;
    }
    if (source->len >= 3 && memcmp(source->chunk, "\xEF\xBB\xBF", 3) == 0) {
        source->at = 3;
    }
    *ret_source = source;
    return DD_OK;
}

void dd_source_close(struct dd_source *source) {
    if (!source) {
        return;
    }
    dd_close_fd(&source->fd);
    free(source->record.bytes);
    free(source);
}

const char *dd_source_peek(const struct dd_source *source, size_t *ret_bytes) {
    *ret_bytes = source->len - source->at;
    return source->chunk + source->at;
}

static const char too_long[] = "the row is longer than 1 MiB";
static const char too_long_quoted[] = "the row is longer than 1 MiB; perhaps a quote is never closed";
static const char never_closed[] = "a quote is opened and never closed";
static const char after_quote[] = "there is text between a closing quote and the next comma";

static void put_bytes(struct dd_record *record, const char *bytes, size_t count) {
    if (count > DD_ROW_BYTES_MAX - record->len) {
        count = DD_ROW_BYTES_MAX - record->len;
        record->problem = record->problem ? record->problem : too_long;
    }
    memcpy(record->bytes + record->len, bytes, count);
    record->len += count;
}

static void end_field(struct dd_record *record, size_t to) {
    if (record->n_fields < DD_COLUMNS_MAX) {
        record->fields[record->n_fields].from = record->field_from;
        record->fields[record->n_fields].to = to;
    }
    record->n_fields++;
}

/* Reads up to the line end, which is consumed and not kept.  *ret_any: there was anything at all before the end. */
static enum dd_status read_line(struct dd_source *source, bool *ret_any, struct dd_error *err) {
    struct dd_record *record = &source->record;
    bool any = false;
    for (;;) {
        if (source->at == source->len) {
            enum dd_status status = refill(source, err);
            if (status) {
                return status;
            }
            if (source->len == 0) {
                break;
            }
        }
        any = true;
        const char *from = source->chunk + source->at;
        size_t left = source->len - source->at;
        const char *newline = memchr(from, '\n', left);
        size_t count = newline ? (size_t)(newline - from) : left;
        put_bytes(record, from, count);
        source->at += count + (newline != NULL);
        if (newline) {
            source->line++;
            break;
        }
    }
    if (record->len > 0 && record->bytes[record->len - 1] == '\r') {
        record->len--;
    }
    *ret_any = any;
    return DD_OK;
}

static void split_tabs(struct dd_record *record) {
    const char *tab;
    while ((tab = memchr(record->bytes + record->field_from, '\t', record->len - record->field_from))) {
        size_t to = (size_t)(tab - record->bytes);
        end_field(record, to);
        record->field_from = to + 1;
    }
    end_field(record, record->len);
}

enum csv_state { FIELD_START, UNQUOTED, QUOTED, QUOTE_SEEN, RETURN_SEEN };

/* One byte of CSV outside the fast paths.  Returns true when the record is complete. */
static bool csv_byte(struct dd_source *source, enum csv_state *state, char c) {
    struct dd_record *record = &source->record;
    if (c == '\n') {
        source->line++;
    }
    if (*state == QUOTED) {
        if (c == '"') {
            *state = QUOTE_SEEN;
        } else {
            put_bytes(record, &c, 1);
        }
        return false;
    }
    if (c == '\n') {
        if (*state == UNQUOTED && record->len > 0 && record->bytes[record->len - 1] == '\r') {
            record->len--;
        }
        end_field(record, record->len);
        return true;
    }
    if (*state == QUOTE_SEEN && c == '"') {
        put_bytes(record, &c, 1);
        *state = QUOTED;
    } else if (*state == FIELD_START && c == '"') {
        *state = QUOTED;
    } else if (*state != RETURN_SEEN && c == ',') {
        end_field(record, record->len);
        record->field_from = record->len;
        *state = FIELD_START;
    } else if (*state == QUOTE_SEEN && c == '\r') {
        *state = RETURN_SEEN;
    } else {
        if (*state == QUOTE_SEEN || *state == RETURN_SEEN) {
            record->problem = record->problem ? record->problem : after_quote;
        }
        put_bytes(record, &c, 1);
        *state = UNQUOTED;
    }
    return false;
}

/* How many bytes from the front are plain content in this state. */
static size_t csv_plain(const char *from, size_t left, enum csv_state state) {
    size_t n = 0;
    if (state == QUOTED) {
        while (n < left && from[n] != '"' && from[n] != '\n') {
            n++;
        }
    } else if (state == UNQUOTED) {
        while (n < left && from[n] != ',' && from[n] != '\n') {
            n++;
        }
    }
    return n;
}

static enum dd_status read_csv(struct dd_source *source, bool *ret_any, struct dd_error *err) {
    struct dd_record *record = &source->record;
    enum csv_state state = FIELD_START;
    bool any = false;
    for (;;) {
        if (source->at == source->len) {
            enum dd_status status = refill(source, err);
            if (status) {
                return status;
            }
            if (source->len == 0) {
                break;
            }
        }
        any = true;
        const char *from = source->chunk + source->at;
        size_t plain = csv_plain(from, source->len - source->at, state);
        if (plain > 0) {
            put_bytes(record, from, plain);
            source->at += plain;
        } else {
            source->at++;
            if (csv_byte(source, &state, *from)) {
                *ret_any = true;
                return DD_OK;
            }
        }
        if (record->problem == too_long) {
            record->problem = state == QUOTED ? too_long_quoted : too_long;
            record->len = record->field_from = 0;
            bool rest;
            return read_line(source, &rest, err);
        }
    }
    if (state == QUOTED) {
        record->problem = record->problem ? record->problem : never_closed;
    }
    if (any) {
        end_field(record, record->len);
    }
    *ret_any = any;
    return DD_OK;
}

static bool is_empty(const struct dd_record *record) {
    return !record->problem && record->len == 0 && record->n_fields <= 1;
}

enum dd_status dd_source_next(struct dd_source *source, enum dd_source_format format, struct dd_record **ret_record,
                              struct dd_error *err) {
    struct dd_record *record = &source->record;
    bool any;
    do {
        record->len = 0;
        record->n_fields = 0;
        record->field_from = 0;
        record->problem = NULL;
        record->line = source->line;
        any = false;
        enum dd_status status = format == DD_SOURCE_CSV ? read_csv(source, &any, err) : read_line(source, &any, err);
        if (status) {
            return status;
        }
        any = any || record->problem;
        if (format == DD_SOURCE_TSV && any) {
            split_tabs(record);
        } else if (format == DD_SOURCE_LINES && any) {
            end_field(record, record->len);
        }
    } while (any && is_empty(record));
    record->bytes[record->len] = '\0';
    *ret_record = any ? record : NULL;
    return DD_OK;
}
