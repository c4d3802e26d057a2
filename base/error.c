/* error: filling struct dd_error, and the one table from status to name, HTTP status and exit code.
 *
 * Nothing here allocates, so that "out of memory" can always be reported.  Messages are cut at a code point boundary
 * and are always valid UTF-8.  Any thread; an error belongs to its caller.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/internal.h"

struct status_row {
    const char *name;
    int http;
    int exit_code;
};

/* Exit codes follow sysexits.h where it has one; 130 is the shell's for an interrupted command. */
static const struct status_row status_table[DD_STATUS_COUNT] = {
    [DD_OK] = {"ok", 200, 0},
    [DD_MALFORMED] = {"malformed", 400, 65},
    [DD_UNAUTHORIZED] = {"unauthorized", 401, 77},
    [DD_FORBIDDEN] = {"forbidden", 403, 77},
    [DD_NOT_FOUND] = {"not_found", 404, 66},
    [DD_CONFLICT] = {"conflict", 409, 1},
    [DD_TOO_LARGE] = {"too_large", 413, 65},
    [DD_UNSUPPORTED] = {"unsupported", 415, 65},
    [DD_MISDIRECTED] = {"misdirected", 421, 1},
    [DD_INVALID] = {"invalid", 422, 65},
    [DD_TOO_MANY] = {"too_many", 429, 75},
    [DD_BUSY] = {"busy", 503, 75},
    [DD_NO_MEMORY] = {"no_memory", 503, 71},
    [DD_NO_SPACE] = {"no_space", 507, 74},
    [DD_IO] = {"io", 500, 74},
    [DD_CORRUPT] = {"corrupt", 422, 65},
    [DD_STOPPED] = {"stopped", 409, 130},
    [DD_INTERNAL] = {"internal", 500, 70},
};

static const struct status_row *status_row(enum dd_status status) {
    if ((int)status < 0 || status >= DD_STATUS_COUNT) {
        status = DD_INTERNAL;
    }
    return &status_table[status];
}

int dd_status_http(enum dd_status status) {
    return status_row(status)->http;
}

int dd_status_exit_code(enum dd_status status) {
    return status_row(status)->exit_code;
}

const char *dd_status_name(enum dd_status status) {
    return status_row(status)->name;
}

/* Formats into out, as dd_utf8_mend leaves it: an argument may be no UTF-8, or a precision may have cut it. */
static DD_PRINTF(3, 0) void format_cut(char *out, size_t out_bytes, const char *fmt, va_list args) {
    if (vsnprintf(out, out_bytes, fmt, args) < 0) {
        out[0] = '\0';
    }
    dd_utf8_mend(out);
}

/* Copies what fits, likewise; the two may not overlap. */
static void copy_cut(char *out, size_t out_bytes, const char *text) {
    size_t len = strnlen(text, out_bytes - 1);
    memcpy(out, text, len);
    out[len] = '\0';
    dd_utf8_mend(out);
}

/* The message is formatted aside first: an argument may well be the old err->message. */
static DD_PRINTF(4, 0) enum dd_status
    fail_args(struct dd_error *err, enum dd_status status, const char *code, const char *fmt, va_list args) {
    if (!err) {
        return status;
    }
    char message[sizeof err->message];
    char code_copy[sizeof err->code];
    format_cut(message, sizeof message, fmt, args);
    copy_cut(code_copy, sizeof code_copy, code);
    err->status = status;
    memcpy(err->code, code_copy, sizeof code_copy);
    memcpy(err->message, message, sizeof message);
    return status;
}

/* The macros of base.h stand for these functions. */
#undef dd_fail
#undef dd_fail_errno
#undef dd_fail_memory

enum dd_status dd_fail(struct dd_error *err, enum dd_status status, const char *code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_args(err, status, code, fmt, args);
    va_end(args);
    return status;
}

struct errno_row {
    int number;
    enum dd_status status;
    const char *code;
};

static const struct errno_row errno_table[] = {
    {ENOSPC, DD_NO_SPACE, "no_space"},       {EDQUOT, DD_NO_SPACE, "no_space"},
    {ENOMEM, DD_NO_MEMORY, "out_of_memory"}, {ENOENT, DD_NOT_FOUND, "file_not_found"},
    {EACCES, DD_FORBIDDEN, "file_denied"},   {EPERM, DD_FORBIDDEN, "file_denied"},
};

enum dd_status dd_fail_errno(struct dd_error *err, int saved_errno, const char *fmt, ...) {
    struct errno_row row = {saved_errno, DD_IO, "io_error"};
    for (size_t i = 0; i < DD_ARRAY_LEN(errno_table); i++) {
        if (errno_table[i].number == saved_errno) {
            row = errno_table[i];
        }
    }
    if (!err) {
        return row.status;
    }
    char what[sizeof err->message];
    char reason[128];
    va_list args;
    va_start(args, fmt);
    format_cut(what, sizeof what, fmt, args);
    va_end(args);
    /* The GNU strerror_r: may return a static string instead of filling the buffer; safe in any thread. */
    return dd_fail(err, row.status, row.code, "%s: %s", what, strerror_r(saved_errno, reason, sizeof reason));
}

enum dd_status dd_fail_memory(struct dd_error *err, size_t wanted_bytes) {
    return dd_fail(err, DD_NO_MEMORY, "out_of_memory", "out of memory (%zu bytes wanted)", wanted_bytes);
}

enum dd_status dd_error_prefix(struct dd_error *err, const char *fmt, ...) {
    if (!err) {
        return DD_INTERNAL;
    }
    char prefix[sizeof err->message];
    char rest[sizeof err->message];
    va_list args;
    va_start(args, fmt);
    format_cut(prefix, sizeof prefix, fmt, args);
    va_end(args);
    memcpy(rest, err->message, sizeof rest);
    size_t used = strlen(prefix);
    copy_cut(err->message, sizeof err->message, prefix);
    if (used + 2 < sizeof err->message) {
        memcpy(err->message + used, ": ", 3);
        copy_cut(err->message + used + 2, sizeof err->message - used - 2, rest);
    }
    return err->status;
}

void dd_faults_init(struct dd_faults *faults) {
    *faults = (struct dd_faults){0};
}

void dd_faults_release(struct dd_faults *faults) {
    free(faults->items);
    *faults = (struct dd_faults){0};
}

/* Out of memory loses the text of a fault, never the fact: total still grows. */
void dd_faults_add(struct dd_faults *faults, const char *pointer, const char *fmt, ...) {
    faults->total++;
    if (faults->count == DD_FAULTS_MAX) {
        return;
    }
    if ((faults->count & (faults->count - 1)) == 0) {
        size_t room = faults->count ? 2 * faults->count : 1;
        struct dd_fault *grown = dd_realloc_array(faults->items, room, sizeof *grown);
        if (!grown) {
            return;
        }
        faults->items = grown;
    }
    struct dd_fault *fault = &faults->items[faults->count++];
    copy_cut(fault->pointer, sizeof fault->pointer, pointer);
    va_list args;
    va_start(args, fmt);
    format_cut(fault->detail, sizeof fault->detail, fmt, args);
    va_end(args);
}
