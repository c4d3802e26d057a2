/* unicode: UTF-8 and character classes (see unicode.h).
 * Thread: any.  The class table of the basic plane (64 KiB) is filled once, under pthread_once, and read-only after.
 */
#include "engine/unicode.h"

#include <pthread.h>
#include <utf8proc.h>

uint32_t dd_utf8_next(const char **at, const char *end) {
    const unsigned char *s = (const unsigned char *)*at;
    size_t left = (size_t)(end - *at);
    *at += 1;
    if (s[0] < 0x80) {
        return s[0];
    }
    /* The range of the second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF. */
    unsigned low = 0x80, high = 0xBF;
    size_t more;
    uint32_t c;
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        more = 1;
        c = s[0] & 0x1Fu;
    } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        more = 2;
        c = s[0] & 0x0Fu;
        low = s[0] == 0xE0 ? 0xA0 : 0x80;
        high = s[0] == 0xED ? 0x9F : 0xBF;
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        more = 3;
        c = s[0] & 0x07u;
        low = s[0] == 0xF0 ? 0x90 : 0x80;
        high = s[0] == 0xF4 ? 0x8F : 0xBF;
    } else {
        return DD_CHAR_REPLACEMENT;
    }
    if (left <= more || s[1] < low || s[1] > high) {
        return DD_CHAR_REPLACEMENT;
    }
    c = c << 6 | (s[1] & 0x3Fu);
    for (size_t i = 2; i <= more; i++) {
        if ((s[i] & 0xC0u) != 0x80) {
            return DD_CHAR_REPLACEMENT;
        }
        c = c << 6 | (s[i] & 0x3Fu);
    }
    *at += more;
    return c;
}

size_t dd_utf8_count(const char *text, size_t bytes) {
    const char *at = text, *end = text + bytes;
    size_t count = 0;
    while (at < end) {
        (void)dd_utf8_next(&at, end);
        count++;
    }
    return count;
}

size_t dd_utf8_put(char out[4], uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

static const struct dd_char_range *find_range(const struct dd_char_range *ranges, size_t count, uint32_t c) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c > ranges[middle].last) {
            low = middle + 1;
        } else if (c < ranges[middle].first) {
            high = middle;
        } else {
            return &ranges[middle];
        }
    }
    return NULL;
}

int dd_char_decompose(uint32_t c, uint32_t out[DD_CHAR_DECOMPOSED_MAX]) {
    utf8proc_int32_t chars[DD_CHAR_DECOMPOSED_MAX];
    int boundary_class = 0;
    utf8proc_ssize_t n = -1;
    if (c >= 0x80 && !find_range(dd_undecomposed_exceptions, dd_undecomposed_exceptions_count, c)) {
        n = utf8proc_decompose_char((utf8proc_int32_t)c, chars, DD_CHAR_DECOMPOSED_MAX, UTF8PROC_DECOMPOSE,
                                    &boundary_class);
    }
    if (n < 1 || n > DD_CHAR_DECOMPOSED_MAX) {
        out[0] = c;
        return 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        out[i] = (uint32_t)chars[i];
    }
    return (int)n;
}

int dd_char_lower(uint32_t c, uint32_t out[DD_CHAR_LOWER_MAX]) {
    for (size_t i = 0; i < dd_lower_exceptions_count && c >= dd_lower_exceptions[i].first; i++) {
        const struct dd_lower_range *range = &dd_lower_exceptions[i];
        if (c <= range->last) {
            out[0] = (uint32_t)((int32_t)c + range->delta);
            out[1] = range->extra;
            return range->extra ? 2 : 1;
        }
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

int dd_char_combining_class(uint32_t c) {
    int combining = utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
    if (combining && find_range(dd_starter_exceptions, dd_starter_exceptions_count, c)) {
        return 0;
    }
    return combining;
}

/* The blocks of BERT's is_chinese_char.  U+2B820 … U+2B91F are missing in `tokenizers` (a slip in its source, where
 * Extension E begins at U+2B920), so they are missing here. */
static bool is_cjk(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
           (c >= 0x2F800 && c <= 0x2FA1F);
}

static unsigned category_flags(uint32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') {
        return DD_CHAR_SPACE;
    }
    if (c == 0 || c == DD_CHAR_REPLACEMENT) {
        return DD_CHAR_DROP;
    }
    if (c < 0x80 && ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126))) {
        return DD_CHAR_PUNCTUATION;
    }
    const struct dd_char_range *exception = find_range(dd_char_exceptions, dd_char_exceptions_count, c);
    if (exception) {
        return exception->flags;
    }
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
        return DD_CHAR_DROP;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return DD_CHAR_SPACE;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return DD_CHAR_PUNCTUATION;
    case UTF8PROC_CATEGORY_MN:
        return DD_CHAR_MARK;
    default:
        return 0;
    }
}

static unsigned classify(uint32_t c) {
    unsigned flags = category_flags(c);
    if (is_cjk(c)) {
        flags |= DD_CHAR_CJK;
    }
    uint32_t decomposed[DD_CHAR_DECOMPOSED_MAX], lower[DD_CHAR_LOWER_MAX];
    if (dd_char_decompose(c, decomposed) != 1 || decomposed[0] != c || dd_char_lower(c, lower) != 1 || lower[0] != c ||
        dd_char_combining_class(c) != 0) {
        flags |= DD_CHAR_CHANGES;
    }
    return flags;
}

static uint8_t basic_plane[0x10000];
static pthread_once_t basic_plane_once = PTHREAD_ONCE_INIT;

static void fill_basic_plane(void) {
    for (uint32_t c = 0; c < 0x10000; c++) {
        basic_plane[c] = (uint8_t)classify(c);
    }
}

unsigned dd_char_class(uint32_t c) {
    (void)pthread_once(&basic_plane_once, fill_basic_plane);
    return c < 0x10000 ? basic_plane[c] : classify(c);
}
