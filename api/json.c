/* Strict JSON.  cJSON builds the tree, but is lenient where a service must not be (raw control characters, \u0000 that
 * ends a string early, repeated names, nesting to 1,000, numbers cut at 63 characters), so a scanner of RFC 8259's
 * grammar goes first and says where the first fault is.  Pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

#define MAX_NUMBER_CHARS 60 /* cJSON copies a number into 64 bytes */
#define MAX_MEMBERS 4096    /* of one object: finding repeated names is sorted, but memory is not free */

struct scanner {
    const char *start, *at, *end;
    const char *fault; /* what is wrong at `at`; NULL = nothing yet */
};

static bool fault(struct scanner *s, const char *what) {
    if (s->fault == NULL) {
        s->fault = what;
    }
    return false;
}

static void skip_space(struct scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r')) {
        s->at++;
    }
}

/* Four hex digits after \u; -1 when they are not. */
static int scan_hex4(struct scanner *s) {
    if (s->end - s->at < 4) {
        return -1;
    }
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = *s->at;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
        s->at++;
    }
    return value;
}

static bool scan_escape(struct scanner *s) {
    if (++s->at == s->end) {
        return fault(s, "the string does not end");
    }
    if (strchr("\"\\/bfnrt", *s->at) != NULL && *s->at != '\0') {
        s->at++;
        return true;
    }
    if (*s->at != 'u') {
        return fault(s, "an unknown escape in a string");
    }
    s->at++;
    int unit = scan_hex4(s);
    if (unit < 0) {
        return fault(s, "\\u needs four hexadecimal digits");
    }
    if (unit == 0) {
        return fault(s, "U+0000 is not allowed in a string");
    }
    if (unit >= 0xDC00 && unit <= 0xDFFF) {
        return fault(s, "half of a surrogate pair");
    }
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        if (s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u') {
            return fault(s, "half of a surrogate pair");
        }
        s->at += 2;
        int low = scan_hex4(s);
        if (low < 0xDC00 || low > 0xDFFF) {
            return fault(s, "half of a surrogate pair");
        }
    }
    return true;
}

static bool scan_string(struct scanner *s) {
    for (s->at++; s->at < s->end;) {
        unsigned char c = (unsigned char)*s->at;
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c < 0x20) {
            return fault(s, "a control character in a string must be escaped");
        }
        if (c == '\\') {
            if (!scan_escape(s)) {
                return false;
            }
        } else {
            s->at++;
        }
    }
    return fault(s, "the string does not end");
}

static bool scan_number(struct scanner *s) {
    const char *from = s->at;
    size_t n = 0;
    char text[MAX_NUMBER_CHARS + 1];
    while (s->at < s->end && *s->at != '\0' && strchr("+-.0123456789eE", *s->at) != NULL) {
        if (n == MAX_NUMBER_CHARS) {
            return fault(s, "a number of more than 60 characters");
        }
        text[n++] = *s->at++;
    }
    if (n == 0) {
        return fault(s, "expected a value");
    }
    text[n] = '\0';
    const char *digits = text + (text[0] == '-');
    double value;
    if ((digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9') || !dd_text_number(text, &value)) {
        s->at = from;
        return fault(s, "not a number that JSON allows, or too large for a double");
    }
    return true;
}

static bool scan_word(struct scanner *s, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) {
        return fault(s, "expected a value");
    }
    s->at += n;
    return true;
}

static bool scan_value(struct scanner *s, int depth);

static bool scan_members(struct scanner *s, int depth, bool object) {
    char close = object ? '}' : ']';
    s->at++;
    skip_space(s);
    if (s->at < s->end && *s->at == close) {
        s->at++;
        return true;
    }
    for (;;) {
        skip_space(s);
        if (object) {
            if (s->at == s->end || *s->at != '"') {
                return fault(s, "expected a member name in double quotes");
            }
            if (!scan_string(s)) {
                return false;
            }
            skip_space(s);
            if (s->at == s->end || *s->at != ':') {
                return fault(s, "expected ':'");
            }
            s->at++;
        }
        if (!scan_value(s, depth + 1)) {
            return false;
        }
        skip_space(s);
        if (s->at < s->end && *s->at == close) {
            s->at++;
            return true;
        }
        if (s->at == s->end || *s->at != ',') {
            return fault(s, object ? "expected ',' or '}'" : "expected ',' or ']'");
        }
        s->at++;
    }
}

static bool scan_value(struct scanner *s, int depth) {
    skip_space(s);
    if (s->at == s->end) {
        return fault(s, "the text ends where a value was expected");
    }
    if (depth > DD_JSON_MAX_DEPTH) {
        return fault(s, "nested more than 64 deep");
    }
    switch (*s->at) {
    case '{':
        return scan_members(s, depth, true);
    case '[':
        return scan_members(s, depth, false);
    case '"':
        return scan_string(s);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        return scan_number(s);
    }
}

static enum dd_status fail_at(const struct scanner *s, struct dd_error *err) {
    size_t line = 1, column = 1;
    for (const char *at = s->start; at < s->at; at++) {
        if (*at == '\n') {
            line++, column = 1;
        } else if (((unsigned char)*at & 0xC0) != 0x80) {
            column++;
        }
    }
    return dd_fail(err, DD_MALFORMED, "json_malformed",
                   "the body is not valid JSON: %s at line %zu, column %zu (byte %zu)", s->fault, line, column,
                   (size_t)(s->at - s->start));
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A function of its own, so that its array is not on the stack once for each level of nesting. */
__attribute__((noinline)) static enum dd_status names_unique(const cJSON *object, struct dd_error *err) {
    size_t count = 0;
    const char *names[MAX_MEMBERS];
    for (const cJSON *member = object->child; member != NULL; member = member->next) {
        if (count == MAX_MEMBERS) {
            return dd_fail(err, DD_MALFORMED, "json_malformed", "an object has more than %d members", MAX_MEMBERS);
        }
        names[count++] = member->string;
    }
    if (count > 1) {
        qsort(names, count, sizeof names[0], compare_names);
    }
    for (size_t i = 1; i < count; i++) {
        // cppcheck-suppress uninitvar ; the first count are set
        if (strcmp(names[i - 1], names[i]) == 0) {
            return dd_fail(err, DD_MALFORMED, "json_repeated_name", "the member \"%.100s\" is given more than once",
                           names[i]);
        }
    }
    return DD_OK;
}

/* Depth is bounded by the scanner. */
static enum dd_status check_names(const cJSON *value, struct dd_error *err) {
    enum dd_status status = cJSON_IsObject(value) ? names_unique(value, err) : DD_OK;
    for (const cJSON *child = value->child; child != NULL && status == DD_OK; child = child->next) {
        if (child->child != NULL) {
            status = check_names(child, err);
        }
    }
    return status;
}

enum dd_status dd_strict_json_parse(const char *bytes, size_t len, cJSON **ret_json, struct dd_error *err) {
    struct scanner s = {.start = bytes, .at = bytes, .end = bytes + len};
    size_t valid = dd_utf8_check(bytes, len);
    if (valid < len) {
        s.at = bytes + valid;
        fault(&s, "a byte that is not UTF-8");
        return fail_at(&s, err);
    }
    if (scan_value(&s, 1)) {
        skip_space(&s);
        if (s.at < s.end) {
            fault(&s, "something follows the value");
        }
    }
    if (s.fault != NULL) {
        return fail_at(&s, err);
    }
    cJSON *json = cJSON_ParseWithLengthOpts(bytes, len, NULL, false);
    if (json == NULL) {
        return dd_fail_memory(err, len);
    }
    enum dd_status status = check_names(json, err);
    if (status != DD_OK) {
        cJSON_Delete(json);
        return status;
    }
    *ret_json = json;
    return DD_OK;
}
