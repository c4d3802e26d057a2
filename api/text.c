/* Small text helpers of the HTTP side: percent-decoding, words, numbers.  Pure functions, any thread. */
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
    return dd_utf8_valid(text, (size_t)(out - text));
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
