/* What is shown to people at a terminal.
 * Threads: the caller's.
 */
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <utf8proc.h>

#include "daemon/command.h"

void dd_line_init(struct dd_line *line, FILE *out, bool quiet) {
    *line = (struct dd_line){.out = out, .quiet = quiet, .terminal = isatty(fileno(out)) == 1};
}

void dd_line_clear(struct dd_line *line) {
    if (line->drawn)
        fputs("\r\033[K", line->out);
    line->drawn = false;
    fflush(line->out);
}

static int terminal_columns(FILE *out) {
    struct winsize size;
    return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

void dd_line_draw(struct dd_line *line, bool now, const char *fmt, ...) {
    int64_t time = dd_clock_mono_us();
    if (!line->terminal || line->quiet || (!now && time - line->drawn_us < 100000))
        return;
    line->drawn_us = time;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    dd_line_clear(line);
    fprintf(line->out, "%.*s", terminal_columns(line->out) - 1, text);
    fflush(line->out);
    line->drawn = true;
}

void dd_line_print(struct dd_line *line, const char *fmt, ...) {
    if (line->quiet)
        return;
    dd_line_clear(line);
    va_list args;
    va_start(args, fmt);
    vfprintf(line->out, fmt, args);
    va_end(args);
    fputc('\n', line->out);
    fflush(line->out);
}

void dd_duration_text(double seconds, char out[32]) {
    if (!isfinite(seconds) || seconds < 0) {
        out[0] = '\0';
        return;
    }
    long long s = (long long)ceil(DD_MIN(seconds, 1e9));
    if (s < 60)
        snprintf(out, 32, "%lld s", s);
    else if (s < 3600)
        snprintf(out, 32, "%lld min %02lld s", s / 60, s % 60);
    else
        snprintf(out, 32, "%lld h %02lld min", s / 3600, s / 60 % 60);
}

void dd_put_padded(FILE *out, const char *text, int width) {
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
    int used = 0;
    while (*p != '\0') {
        utf8proc_int32_t point;
        utf8proc_ssize_t bytes = utf8proc_iterate(p, -1, &point);
        int columns = bytes > 0 ? utf8proc_charwidth(point) : 1;
        if (used + columns > width)
            break;
        bytes = bytes > 0 ? bytes : 1;
        /* What could steer the terminal is not let through. */
        if (point < 0x20 || point == 0x7F)
            fputc('?', out);
        else
            fwrite(p, 1, (size_t)bytes, out);
        used += point < 0x20 || point == 0x7F ? 1 : columns;
        p += bytes;
    }
    for (; used < width; used++)
        fputc(' ', out);
}
