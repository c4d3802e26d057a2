/* multipart/form-data, parsed as it arrives (RFC 7578, RFC 2046 §5.1).  Our own rather than libmicrohttpd's post
 * processor: that one guesses at parts without names, ties buffers to the connection's pool, and the release we build
 * on reads out of bounds on some boundaries (CVE-2023-27371).
 *
 * Format:  [preamble CRLF] "--" boundary *LWSP CRLF  headers CRLF CRLF  data  CRLF "--" boundary … "--" [epilogue]
 *
 * The parser keeps a window of the input.  It starts with a CRLF that nobody sent, so that the first delimiter looks
 * like every other: "\r\n--boundary".  Part data goes to the sink as soon as it cannot be the start of a delimiter.
 * Invariant: window_len < sizeof window whenever the parser asks for more.  Owner: one request.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/internal.h"

#define WINDOW_BYTES (64u << 10)
#define MAX_HEADER_BYTES (8u << 10)
#define MAX_BOUNDARY 70

enum state { STATE_PREAMBLE, STATE_DELIMITER, STATE_HEADERS, STATE_DATA, STATE_EPILOGUE };

struct dd_multipart {
    struct dd_multipart_sink sink;
    enum state state;
    size_t parts;
    char delimiter[4 + MAX_BOUNDARY + 1]; /* "\r\n--" boundary */
    size_t delimiter_len;
    size_t window_len;
    char window[WINDOW_BYTES];
};

static enum dd_status malformed(struct dd_error *err, const char *what) {
    return dd_fail(err, DD_MALFORMED, "multipart_malformed", "the multipart body is malformed: %s", what);
}

/* The value of `key` in header parameters ("; key=value; key=\"value\""); false when absent or too long.  In quotes a
 * backslash escapes only a quote or a backslash: old browsers send bare Windows paths. */
static bool header_param(const char *at, const char *key, char *out, size_t out_bytes) {
    size_t key_len = strlen(key);
    while (*at != '\0') {
        at += strspn(at, "; \t");
        size_t name_len = strcspn(at, "=;");
        bool wanted = name_len == key_len && strncasecmp(at, key, key_len) == 0;
        at += name_len;
        if (*at != '=') {
            continue;
        }
        size_t n = 0;
        bool quoted = *++at == '"';
        for (at += quoted; *at != '\0' && (quoted ? *at != '"' : strchr("; \t", *at) == NULL); at++) {
            if (quoted && *at == '\\' && (at[1] == '"' || at[1] == '\\')) {
                at++;
            }
            if (wanted && n + 1 >= out_bytes) {
                return false;
            }
            if (wanted) {
                out[n++] = *at;
            }
        }
        if (quoted && *at != '"') {
            return false;
        }
        at += quoted;
        if (wanted) {
            out[n] = '\0';
            return true;
        }
    }
    return false;
}

enum dd_status dd_multipart_new(const char *content_type, const struct dd_multipart_sink *sink,
                                struct dd_multipart **ret_multipart, struct dd_error *err) {
    char boundary[MAX_BOUNDARY + 1] = "";
    bool found = header_param(content_type + strcspn(content_type, ";"), "boundary", boundary, sizeof boundary);
    size_t len = strlen(boundary);
    static const char allowed[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'()+_,-./:=? ";
    if (!found || len == 0 || strspn(boundary, allowed) != len || boundary[len - 1] == ' ') {
        return malformed(err, "Content-Type needs a boundary of 1 to 70 characters");
    }
    struct dd_multipart *multipart = malloc(sizeof *multipart);
    if (multipart == NULL) {
        return dd_fail_memory(err, sizeof *multipart);
    }
    multipart->sink = *sink;
    multipart->state = STATE_PREAMBLE;
    multipart->parts = 0;
    multipart->delimiter_len =
        (size_t)snprintf(multipart->delimiter, sizeof multipart->delimiter, "\r\n--%s", boundary);
    memcpy(multipart->window, "\r\n", 2);
    multipart->window_len = 2;
    *ret_multipart = multipart;
    return DD_OK;
}

static void consume(struct dd_multipart *m, size_t count) {
    m->window_len -= count;
    memmove(m->window, m->window + count, m->window_len);
}

/* The last component of what a client calls a file name. */
static enum dd_status base_name(const char *sent, char *out, size_t out_bytes, struct dd_error *err) {
    const char *base = sent;
    for (const char *at = sent; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7F) {
            return malformed(err, "a control character in a file name");
        }
        if (*at == '/' || *at == '\\') {
            base = at + 1;
        }
    }
    if (strcmp(base, ".") == 0 || strcmp(base, "..") == 0) {
        base = "";
    }
    size_t len = strlen(base);
    if (len >= out_bytes) {
        return malformed(err, "a file name of more than 255 bytes");
    }
    memcpy(out, base, len + 1);
    return DD_OK;
}

/* headers: NUL-terminated, lines end in CRLF. */
static enum dd_status read_headers(char *headers, struct dd_part *ret_part, struct dd_error *err) {
    struct dd_part part = {.has_filename = false};
    bool named = false;
    for (char *line = headers; *line != '\0';) {
        char *end = strstr(line, "\r\n");
        char *next = end == NULL ? line + strlen(line) : end + 2;
        if (end != NULL) {
            *end = '\0';
        }
        static const char disposition[] = "Content-Disposition:";
        if (strncasecmp(line, disposition, sizeof disposition - 1) == 0) {
            const char *value = line + sizeof disposition - 1;
            value += strspn(value, " \t");
            if (strncasecmp(value, "form-data", 9) != 0) {
                return malformed(err, "a part's Content-Disposition is not form-data");
            }
            value += 9;
            char filename[1024];
            named = header_param(value, "name", part.name, sizeof part.name) && part.name[0] != '\0';
            part.has_filename = header_param(value, "filename", filename, sizeof filename);
            if (part.has_filename && base_name(filename, part.filename, sizeof part.filename, err) != DD_OK) {
                return DD_MALFORMED;
            }
        }
        line = next;
    }
    if (!named) {
        return malformed(err, "a part has no name, or one of more than 127 bytes");
    }
    if (!dd_utf8_valid(part.name, strlen(part.name)) || !dd_utf8_valid(part.filename, strlen(part.filename))) {
        return malformed(err, "a part's name or file name is not UTF-8, or too long");
    }
    *ret_part = part;
    return DD_OK;
}

/* After "\r\n--boundary": "--" ends it all, else the line must end. *ret_more: the window is too short to tell. */
static enum dd_status step_delimiter(struct dd_multipart *m, bool *ret_more, struct dd_error *err) {
    if (m->window_len >= 2 && memcmp(m->window, "--", 2) == 0) {
        m->state = STATE_EPILOGUE;
        return DD_OK;
    }
    size_t padding = 0;
    while (padding < m->window_len && (m->window[padding] == ' ' || m->window[padding] == '\t')) {
        padding++;
    }
    if (padding > MAX_HEADER_BYTES) {
        return malformed(err, "a boundary line does not end");
    }
    if (m->window_len < padding + 2) {
        *ret_more = true;
        return DD_OK;
    }
    if (memcmp(m->window + padding, "\r\n", 2) != 0) {
        return malformed(err, "something follows the boundary on its line");
    }
    consume(m, padding); /* keeps the CRLF: an empty header block is then CRLF CRLF as well */
    m->state = STATE_HEADERS;
    return DD_OK;
}

static enum dd_status step_headers(struct dd_multipart *m, bool *ret_more, struct dd_error *err) {
    const char *end = memmem(m->window, m->window_len, "\r\n\r\n", 4);
    size_t len = end == NULL ? m->window_len : (size_t)(end - m->window);
    if (len > MAX_HEADER_BYTES) {
        return malformed(err, "the headers of a part are longer than 8 KiB");
    }
    if (end == NULL) {
        *ret_more = true;
        return DD_OK;
    }
    if (memchr(m->window, '\0', len) != NULL) {
        return malformed(err, "a NUL in the headers of a part");
    }
    if (++m->parts > DD_MAX_PARTS) {
        return dd_fail(err, DD_TOO_LARGE, "too_many_parts", "the form has more than %d parts", DD_MAX_PARTS);
    }
    char headers[MAX_HEADER_BYTES + 1];
    size_t skip = len >= 2 ? 2 : len; /* the CRLF of the boundary line */
    memcpy(headers, m->window + skip, len - skip);
    headers[len - skip] = '\0';
    struct dd_part part;
    enum dd_status status = read_headers(headers, &part, err);
    if (status == DD_OK) {
        status = m->sink.begin(m->sink.context, &part, err);
    }
    consume(m, len + 4);
    m->state = STATE_DATA;
    return status;
}

/* Preamble or data: everything before the next delimiter. */
static enum dd_status step_data(struct dd_multipart *m, bool *ret_more, struct dd_error *err) {
    const char *found = memmem(m->window, m->window_len, m->delimiter, m->delimiter_len);
    size_t ready = found != NULL                       ? (size_t)(found - m->window)
                   : m->window_len >= m->delimiter_len ? m->window_len - m->delimiter_len + 1
                                                       : 0;
    enum dd_status status = DD_OK;
    if (m->state == STATE_DATA && ready > 0) {
        status = m->sink.data(m->sink.context, m->window, ready, err);
    }
    if (status == DD_OK && found != NULL && m->state == STATE_DATA) {
        status = m->sink.end(m->sink.context, err);
    }
    if (found == NULL) {
        consume(m, ready);
        *ret_more = true;
    } else {
        consume(m, ready + m->delimiter_len);
        m->state = STATE_DELIMITER;
    }
    return status;
}

static enum dd_status run(struct dd_multipart *m, struct dd_error *err) {
    bool more = false;
    enum dd_status status = DD_OK;
    while (!more && status == DD_OK) {
        switch (m->state) {
        case STATE_PREAMBLE:
        case STATE_DATA:
            status = step_data(m, &more, err);
            break;
        case STATE_DELIMITER:
            status = step_delimiter(m, &more, err);
            break;
        case STATE_HEADERS:
            status = step_headers(m, &more, err);
            break;
        case STATE_EPILOGUE:
            m->window_len = 0;
            more = true;
            break;
        }
    }
    return status;
}

enum dd_status dd_multipart_feed(struct dd_multipart *multipart, const char *bytes, size_t count,
                                 struct dd_error *err) {
    while (count > 0) {
        size_t take = DD_MIN(count, WINDOW_BYTES - multipart->window_len);
        memcpy(multipart->window + multipart->window_len, bytes, take);
        multipart->window_len += take;
        bytes += take;
        count -= take;
        enum dd_status status = run(multipart, err);
        if (status != DD_OK) {
            return status;
        }
    }
    return DD_OK;
}

enum dd_status dd_multipart_finish(struct dd_multipart *multipart, struct dd_error *err) {
    return multipart->state == STATE_EPILOGUE ? DD_OK : malformed(err, "it ends before the closing boundary");
}

void dd_multipart_free(struct dd_multipart *multipart) {
    free(multipart);
}
