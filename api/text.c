/* Small text helpers of the HTTP side: percent-decoding, UTF-8, numbers.  Pure functions, any thread. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool dd_percent_decode(char *text, bool plus) {
    char *out = text;
    for (const char *in = text; *in != '\0'; in++) {
        if (*in == '%') {
            int high = hex_digit(in[1]);
            int low = high < 0 ? -1 : hex_digit(in[2]);
            if (low < 0 || (high == 0 && low == 0)) {
                return false;
            }
            *out++ = (char)(high << 4 | low);
            in += 2;
        } else {
            *out++ = plus && *in == '+' ? ' ' : *in;
        }
    }
    *out = '\0';
    size_t len = (size_t)(out - text);
    return dd_utf8_check(text, len) == len;
}

/* Length of the sequence at `at`, 0 when it is not well-formed (RFC 3629: no overlong forms, no surrogates). */
static size_t utf8_sequence(const unsigned char *at, size_t left) {
    unsigned char first = at[0];
    if (first < 0x80) {
        return 1;
    }
    size_t n = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || left < n) {
        return 0;
    }
    unsigned char least = 0x80, most = 0xBF;
    if (first == 0xE0) {
        least = 0xA0;
    } else if (first == 0xED) {
        most = 0x9F;
    } else if (first == 0xF0) {
        least = 0x90;
    } else if (first == 0xF4) {
        most = 0x8F;
    }
    if (at[1] < least || at[1] > most) {
        return 0;
    }
    for (size_t i = 2; i < n; i++) {
        if (at[i] < 0x80 || at[i] > 0xBF) {
            return 0;
        }
    }
    return n;
}

size_t dd_utf8_check(const char *text, size_t len) {
    const unsigned char *bytes = (const unsigned char *)text;
    size_t at = 0;
    while (at < len) {
        size_t n = utf8_sequence(bytes + at, len - at);
        if (n == 0) {
            return at;
        }
        at += n;
    }
    return len;
}

bool dd_word_in(const char *list, const char *word, size_t len) {
    if (len == 0) {
        return false;
    }
    for (const char *at = list; *at != '\0';) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, word, len) == 0) {
            return true;
        }
        at += n;
        at += *at == ' ';
    }
    return false;
}

bool dd_text_int(const char *text, int64_t *ret_value) {
    const char *digits = text + (*text == '-');
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 19 || digits[n] != '\0') {
        return false;
    }
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *ret_value = value;
    return true;
}

bool dd_text_number(const char *text, double *ret_value) {
    const char *at = text + (*text == '-');
    size_t n = strspn(at, "0123456789");
    if (n == 0) {
        return false;
    }
    at += n;
    if (*at == '.') {
        n = strspn(++at, "0123456789");
        if (n == 0) {
            return false;
        }
        at += n;
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        at += *at == '+' || *at == '-';
        n = strspn(at, "0123456789");
        if (n == 0) {
            return false;
        }
        at += n;
    }
    if (*at != '\0') {
        return false;
    }
    double value = strtod(text, NULL);
    if (!isfinite(value)) {
        return false;
    }
    *ret_value = value;
    return true;
}
