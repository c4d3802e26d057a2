/* From a method and a raw path to a row of the route table.  A linear look over some forty rows; the path is compared
 * segment by segment after percent-decoding, so that an encoded slash can never make another path.
 *
 * Pure functions, any thread.
 */
#include <string.h>
#include <strings.h>

#include "api/internal.h"
#include "spec/spec.h"

dd_api_fn *dd_route_op(const struct dd_route *route, const struct dd_api_ops *ops) {
    if (route->op == 0) {
        return NULL;
    }
    dd_api_fn *op;
    memcpy(&op, (const char *)ops + route->op, sizeof op);
    return op;
}

bool dd_route_enabled(const struct dd_route *route, const struct dd_api_ops *ops) {
    return route->op == 0 || dd_route_op(route, ops) != NULL;
}

static bool capture_epoch(const char *text, struct dd_captures *captures) {
    int64_t number;
    if (strcmp(text, "best") != 0 && strcmp(text, "last") != 0 &&
        (!dd_text_int(text, &number) || number < 0 || number > INT32_MAX || strlen(text) > 10)) {
        return false;
    }
    memcpy(captures->epoch, text, strlen(text) + 1);
    return true;
}

static bool segment_match(const char *pattern, size_t pattern_len, const char *segment, struct dd_captures *captures) {
    if (pattern_len == 4 && memcmp(pattern, "{id}", 4) == 0) {
        return segment[0] >= '1' && segment[0] <= '9' && dd_text_int(segment, &captures->id);
    }
    if (pattern_len == 6 && memcmp(pattern, "{name}", 6) == 0) {
        if (!dd_name_valid(segment)) {
            return false;
        }
        memcpy(captures->name, segment, strlen(segment) + 1);
        return true;
    }
    if (pattern_len == 7 && memcmp(pattern, "{epoch}", 7) == 0) {
        return capture_epoch(segment, captures);
    }
    return strlen(segment) == pattern_len && memcmp(pattern, segment, pattern_len) == 0;
}

bool dd_route_match(const char *pattern, const char *path, struct dd_captures *ret_captures) {
    struct dd_captures captures;
    captures.id = 0;
    captures.name[0] = captures.epoch[0] = '\0';
    while (*pattern == '/' && *path == '/') {
        pattern++, path++;
        size_t pattern_len = strcspn(pattern, "/"), path_len = strcspn(path, "/");
        char segment[256];
        if (path_len >= sizeof segment) {
            return false;
        }
        memcpy(segment, path, path_len);
        segment[path_len] = '\0';
        if (!dd_percent_decode(segment, false) || !segment_match(pattern, pattern_len, segment, &captures)) {
            return false;
        }
        pattern += pattern_len;
        path += path_len;
    }
    if (*pattern != '\0' || *path != '\0') {
        return false;
    }
    *ret_captures = captures;
    return true;
}

const char *dd_method_name(enum dd_method method) {
    switch (method) {
    case DD_GET:
        return "GET";
    case DD_POST:
        return "POST";
    case DD_PATCH:
        return "PATCH";
    case DD_DELETE:
        return "DELETE";
    }
    return "";
}

/* Whether a path without escapes differs from the pattern before its first capture: almost every row does. */
static bool differs_early(const char *pattern, const char *path) {
    while (*pattern == *path && *pattern != '\0') {
        pattern++;
        path++;
    }
    return *pattern != *path && *pattern != '{';
}

const struct dd_route *dd_route_find(const struct dd_api_ops *ops, const char *method, const char *path,
                                     struct dd_captures *ret_captures, unsigned *ret_allow) {
    *ret_allow = 0;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    size_t count;
    const struct dd_route *table = dd_routes(&count);
    bool plain = strchr(path, '%') == NULL;
    for (size_t i = 0; i < count; i++) {
        struct dd_captures captures;
        if (plain && differs_early(table[i].pattern, path)) {
            continue;
        }
        if (!dd_route_enabled(&table[i], ops) || !dd_route_match(table[i].pattern, path, &captures)) {
            continue;
        }
        if (strcmp(dd_method_name(table[i].method), wanted) == 0) {
            *ret_captures = captures;
            return &table[i];
        }
        *ret_allow |= table[i].method;
    }
    return NULL;
}

void dd_allow_text(unsigned methods, char *out, size_t out_bytes) {
    snprintf(out, out_bytes, "%s%s%s%sOPTIONS", methods & DD_GET ? "GET, HEAD, " : "",
             methods & DD_POST ? "POST, " : "", methods & DD_PATCH ? "PATCH, " : "",
             methods & DD_DELETE ? "DELETE, " : "");
}
