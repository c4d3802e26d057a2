/* cursor: where a page of a list ended, as an opaque text.
 *
 * Inside the base64url (without padding) stands "<sort>\n<id>\n<kind><value>": the sort it belongs to, the id of the
 * last row, and the value of its sort key: n (NULL), i (decimal), r (hexadecimal floating point, exact) or t (text, to
 * the end).  A cursor comes back from anywhere, so decoding accepts only what encoding writes; the values go into bound
 * parameters, so a forged cursor can at worst name another place in the list.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define PLAIN_BYTES (DB_CURSOR_TEXT_BYTES + 128)

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode_base64(struct dd_buffer *out, const char *plain, size_t len) {
    const unsigned char *bytes = (const unsigned char *)plain;
    for (size_t i = 0; i < len; i += 3) {
        size_t group = DD_MIN(len - i, (size_t)3);
        unsigned bits = (unsigned)bytes[i] << 16;
        bits |= group > 1 ? (unsigned)bytes[i + 1] << 8 : 0;
        bits |= group > 2 ? bytes[i + 2] : 0;
        for (size_t digit = 0; digit <= group; digit++) {
            dd_buffer_putc(out, alphabet[(bits >> (18 - 6 * digit)) & 63]);
        }
    }
}

/* Into out (PLAIN_BYTES), NUL-terminated; false for anything that encode_base64 would not have written. */
static bool decode_base64(const char *text, char *out, size_t *ret_len) {
    size_t chars = strlen(text);
    size_t len = 0;
    unsigned bits = 0;
    int n_bits = 0;
    if (chars % 4 == 1 || chars / 4 * 3 + 3 >= PLAIN_BYTES) {
        return false;
    }
    for (size_t i = 0; i < chars; i++) {
        const char *found = strchr(alphabet, text[i]);
        if (!found) {
            return false;
        }
        bits = bits << 6 | (unsigned)(found - alphabet);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out[len++] = (char)(bits >> n_bits & 0xFF);
        }
    }
    out[len] = '\0';
    *ret_len = len;
    return (bits & ((1u << n_bits) - 1)) == 0;
}

enum dd_status db_cursor_encode(const struct db_cursor *cursor, const char *sort, char **ret_text,
                                struct dd_error *err) {
    struct dd_buffer plain, text;
    dd_buffer_init(&plain, PLAIN_BYTES - 1);
    dd_buffer_init(&text, 2 * PLAIN_BYTES);
    dd_buffer_printf(&plain, "%s\n%lld\n%c", sort, (long long)cursor->id, cursor->kind);
    if (cursor->kind == 'i') {
        dd_buffer_printf(&plain, "%lld", (long long)cursor->integer);
    } else if (cursor->kind == 'r') {
        dd_buffer_printf(&plain, "%a", cursor->real);
    } else if (cursor->kind == 't') {
        dd_buffer_puts(&plain, cursor->text);
    }
    encode_base64(&text, plain.data, plain.len);
    enum dd_status status = dd_buffer_check(&plain, err);
    if (status == DD_OK) {
        status = dd_buffer_check(&text, err);
    }
    dd_buffer_release(&plain);
    if (status == DD_OK) {
        *ret_text = dd_buffer_take(&text, NULL);
    }
    dd_buffer_release(&text);
    return status;
}

/* A decimal number exactly as printf writes it. */
static bool parse_int(const char *text, int64_t *ret_value) {
    char again[32];
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    snprintf(again, sizeof again, "%lld", value);
    *ret_value = value;
    return errno == 0 && strcmp(again, text) == 0;
}

static bool parse_real(const char *text, double *ret_value) {
    char again[64];
    double value = strtod(text, NULL);
    snprintf(again, sizeof again, "%a", value);
    *ret_value = value;
    return isfinite(value) && strcmp(again, text) == 0;
}

static bool parse_value(const char *text, char kind, struct db_cursor *cursor) {
    cursor->kind = text[0];
    if (text[0] == 'n') {
        return text[1] == '\0';
    }
    if (text[0] != kind) {
        return false;
    }
    switch (kind) {
    case 'i':
        return parse_int(text + 1, &cursor->integer);
    case 'r':
        return parse_real(text + 1, &cursor->real);
    case 't':
        return snprintf(cursor->text, sizeof cursor->text, "%s", text + 1) < (int)sizeof cursor->text;
    default:
        return false;
    }
}

enum dd_status db_cursor_decode(const char *text, const char *sort, char kind, struct db_cursor *ret_cursor,
                                struct dd_error *err) {
    char plain[PLAIN_BYTES];
    size_t len = 0;
    struct db_cursor cursor = {0};
    bool valid = decode_base64(text, plain, &len) && memchr(plain, '\0', len) == NULL;
    char *id = valid ? strchr(plain, '\n') : NULL;
    char *value = id ? strchr(id + 1, '\n') : NULL;
    if (!value) {
        return dd_fail(err, DD_INVALID, "cursor_invalid", "cursor is not one that this server gave out");
    }
    *id++ = '\0';
    *value++ = '\0';
    if (!parse_int(id, &cursor.id) || cursor.id < 1 || !parse_value(value, kind, &cursor)) {
        return dd_fail(err, DD_INVALID, "cursor_invalid", "cursor is not one that this server gave out for this list");
    }
    if (strcmp(plain, sort) != 0) {
        return dd_fail(err, DD_INVALID, "cursor_invalid",
                       "cursor belongs to another sort; ask for the next page with the sort of the first");
    }
    *ret_cursor = cursor;
    return DD_OK;
}
