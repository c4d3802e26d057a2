/* Router, query strings and the headers that are lists.  Input: lines METHOD, target, Accept, If-None-Match. */
#include "api/internal.h"
#include "fuzz/fuzz.h"

static enum dd_status nothing(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                              struct dd_problem *problem) {
    (void)daemon, (void)call, (void)result, (void)problem;
    return DD_OK;
}

static void try_route(const char *method, char *target) {
    static struct dd_api_ops ops;
    static bool filled;
    if (!filled) {
        size_t n_routes;
        const struct dd_route *routes = dd_routes(&n_routes);
        dd_api_fn *op = nothing;
        for (size_t i = 0; i < n_routes; i++) {
            if (routes[i].op != 0) {
                memcpy((char *)&ops + routes[i].op, &op, sizeof op);
            }
        }
        filled = true;
    }
    char *query = strchr(target, '?');
    if (query != NULL) {
        *query++ = '\0';
    }
    struct dd_captures captures = {0};
    unsigned allow;
    const struct dd_route *route = dd_route_find(&ops, method, target, &captures, &allow);
    if (route == NULL) {
        char text[64];
        dd_allow_text(allow, text, sizeof text);
        return;
    }
    if (strstr(route->pattern, "{name}") != NULL) {
        FUZZ_CHECK(captures.name[0] != '\0' && strchr(captures.name, '/') == NULL && captures.name[0] != '.');
    }
    struct dd_error err;
    struct dd_faults faults;
    struct dd_params params = {.count = 0};
    dd_faults_init(&faults);
    enum dd_status status = dd_query_parse(query, route->query, route->flags, &params, &faults, &err);
    fuzz_check_error(status, &err);
    FUZZ_CHECK((status == DD_INVALID) == (faults.total > 0) || status == DD_MALFORMED);
    for (size_t i = 0; i < params.count; i++) {
        FUZZ_CHECK(dd_utf8_valid(params.items[i].value, strlen(params.items[i].value)));
    }
    for (size_t i = 0; i < faults.count; i++) {
        FUZZ_CHECK(dd_utf8_valid(faults.items[i].pointer, strlen(faults.items[i].pointer)));
        FUZZ_CHECK(dd_utf8_valid(faults.items[i].detail, strlen(faults.items[i].detail)));
    }
    dd_faults_release(&faults);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    char *text = fuzz_text(bytes, count), *lines[4] = {NULL};
    static const char *const offers[] = {"application/json", "text/csv", "text/plain", NULL};
    char *at = text;
    for (size_t i = 0; i < DD_ARRAY_LEN(lines) && at != NULL; i++) {
        lines[i] = at;
        at = strchr(at, '\n');
        if (at != NULL) {
            *at++ = '\0';
        }
    }
    if (lines[1] != NULL) {
        try_route(lines[0], lines[1]);
    }
    if (lines[2] != NULL) {
        (void)dd_accept_pick(lines[2], offers);
        (void)dd_accept_gzip(lines[2]);
    }
    if (lines[3] != NULL) {
        (void)dd_etag_listed(lines[3], "0123abcd");
    }
    free(text);
    return 0;
}
