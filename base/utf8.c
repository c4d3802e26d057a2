/* utf8: what is well-formed, where text may be cut, and text made fit to be shown.  Pure functions, any thread. */
#include <string.h>

#include "base/base.h"
#include "base/internal.h"

size_t dd_utf8_decode(const char *text, size_t left, uint32_t *ret_code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *bytes = (const unsigned char *)text;
    size_t size = bytes[0] < 0x80 ? 1 : bytes[0] >= 0xF0 ? 4 : bytes[0] >= 0xE0 ? 3 : 2;
    if (size > left || (size > 1 && (bytes[0] < 0xC2 || bytes[0] > 0xF4))) {
        return 0;
    }
    uint32_t code = size == 1 ? bytes[0] : bytes[0] & (0xFFu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xC0) != 0x80) {
            return 0;
        }
        code = code << 6 | (bytes[i] & 0x3F);
    }
    if (code < smallest[size] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
        return 0;
    }
    *ret_code = code;
    return size;
}

size_t dd_utf8_check(const char *text, size_t len) {
    size_t at = 0;
    uint32_t code;
    while (at < len) {
        size_t size = dd_utf8_decode(text + at, len - at, &code);
        if (size == 0) {
            return at;
        }
        at += size;
    }
    return len;
}

bool dd_utf8_valid(const char *text, size_t len) {
    return dd_utf8_check(text, len) == len;
}

size_t dd_utf8_cut(const char *text, size_t bytes) {
    size_t start = bytes;
    while (start > 0 && bytes - start < 4) {
        start--;
        unsigned char lead = (unsigned char)text[start];
        if ((lead & 0xC0) == 0x80) {
            continue;
        }
        size_t wanted = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
        return bytes - start < wanted ? start : bytes;
    }
    return bytes;
}

void dd_utf8_mend(char *text) {
    size_t len = dd_utf8_cut(text, strlen(text)), out = 0;
    for (size_t at = 0; at < len;) {
        size_t whole = dd_utf8_check(text + at, len - at);
        memmove(text + out, text + at, whole);
        out += whole;
        at += whole;
        if (at < len) {
            text[out++] = '?';
            do {
                at++;
            } while (at < len && ((unsigned char)text[at] & 0xC0) == 0x80);
        }
    }
    text[out] = '\0';
}
