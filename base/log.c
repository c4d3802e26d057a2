/* log: one line an event, one write(2) a line, so that lines of several threads never mix.
 *
 * Text:    2026-11-23T20:08:52.123Z info http: message
 * JSON:    {"time":"…","level":"info","component":"http","message":"…"}
 * Journal: <6>http: message        (systemd reads the number as the priority and has its own clock)
 *
 * Input cannot forge a line or drive a terminal: C0 and C1 controls, DEL and the Unicode line and paragraph separators
 * are written as \n, \t or \uXXXX; bytes that are no UTF-8 become U+FFFD.  A message is cut at MESSAGE_BYTES.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/internal.h"

#define MESSAGE_BYTES 2048
#define LINE_BYTES (6 * MESSAGE_BYTES + 512) /* the longest escape of one byte is six */

static atomic_int least_level = DD_LOG_INFO;
static enum dd_log_format line_format = DD_LOG_TEXT;
static int line_fd = STDERR_FILENO;

static const char *const level_names[] = {"debug", "info", "warning", "error"};
static const char journal_priority[] = {'7', '6', '4', '3'};

void dd_log_configure(enum dd_log_level least, enum dd_log_format format, int fd) {
    atomic_store(&least_level, (int)least);
    line_format = format;
    line_fd = fd;
}

void dd_log_set_level(enum dd_log_level least) {
    atomic_store(&least_level, (int)least);
}

bool dd_log_wants(enum dd_log_level level) {
    return (int)level >= atomic_load(&least_level);
}

bool dd_log_level_parse(const char *name, enum dd_log_level *ret_level) {
    for (size_t i = 0; i < DD_ARRAY_LEN(level_names); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *ret_level = (enum dd_log_level)i;
            return true;
        }
    }
    return false;
}

const char *dd_log_level_name(enum dd_log_level level) {
    return level_names[DD_MIN((size_t)level, DD_ARRAY_LEN(level_names) - 1)];
}

/* Writes text escaped at out (room for six bytes a byte) and returns the end.  json: quotes and backslashes too. */
static char *escape(char *out, const char *text, bool json) {
    static const char replacement[3] = {'\xEF', '\xBF', '\xBD'}; /* U+FFFD */
    while (*text) {
        uint32_t code;
        size_t size = dd_utf8_decode(text, strlen(text), &code);
        if (size == 0) {
            memcpy(out, replacement, sizeof replacement);
            out += sizeof replacement;
            text++;
            continue;
        }
        bool control = code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029;
        if (code == '\n' || code == '\t') {
            *out++ = '\\';
            *out++ = code == '\n' ? 'n' : 't';
        } else if (control) {
            out += sprintf(out, "\\u%04x", code);
        } else {
            if (json && (code == '"' || code == '\\')) {
                *out++ = '\\';
            }
            memcpy(out, text, size);
            out += size;
        }
        text += size;
    }
    return out;
}

/* A short write (a full pipe) is followed by the rest; a log that cannot be written is nobody's error to handle. */
static void write_line(const char *line, size_t len) {
    int saved = errno;
    while (len > 0) {
        ssize_t written = write(line_fd, line, len);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            break;
        }
        line += written;
        len -= (size_t)written;
    }
    errno = saved;
}

void dd_log(enum dd_log_level level, const char *component, const char *fmt, ...) {
    if (!dd_log_wants(level)) {
        return;
    }
    char message[MESSAGE_BYTES];
    char time[DD_TIME_TEXT_BYTES];
    char line[LINE_BYTES];
    va_list args;
    va_start(args, fmt);
    int wanted = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (wanted < 0) {
        message[0] = '\0';
    } else if ((size_t)wanted >= sizeof message) {
        message[dd_utf8_cut(message, sizeof message - 1)] = '\0';
    }
    dd_time_format(dd_clock_wall_ms(), time);
    const char *name = dd_log_level_name(level);
    char *end = line;
    if (line_format == DD_LOG_JSON) {
        end += sprintf(end, "{\"time\":\"%s\",\"level\":\"%s\",\"component\":\"%.64s\",\"message\":\"", time, name,
                       component);
        end = escape(end, message, true);
        *end++ = '"';
        *end++ = '}';
    } else {
        if (line_format == DD_LOG_JOURNAL) {
            end += sprintf(end, "<%c>%.64s: ", journal_priority[DD_MIN((size_t)level, sizeof journal_priority - 1)],
                           component);
        } else {
            end += sprintf(end, "%s %s %.64s: ", time, name, component);
        }
        end = escape(end, message, false);
    }
    *end++ = '\n';
    write_line(line, (size_t)(end - line));
}
