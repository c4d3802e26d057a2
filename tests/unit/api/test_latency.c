/* The histogram of answer times: where a time is counted, and that labels come from the route table alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/internal.h"

static const char *text_of(const struct dd_latency *latency, struct dd_buffer *out) {
    dd_buffer_init(out, 1u << 20);
    dd_latency_put(latency, "t", out);
    assert_int_equal(dd_buffer_check(out, NULL), DD_OK);
    return out->data;
}

static const struct dd_route *route_of(const char *path) {
    size_t n;
    const struct dd_route *routes = dd_routes(&n);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(routes[i].pattern, path) == 0) {
            return &routes[i];
        }
    }
    fail_msg("no route %s", path);
    return NULL;
}

static void test_bounds(void **state) {
    (void)state;
    struct dd_latency *latency = dd_latency_new();
    struct dd_buffer out;
    assert_non_null(latency);
    const int64_t times_us[] = {-5, 0, 1000, 1001, 50000, 50001, 10000000, 10000001};
    for (size_t i = 0; i < DD_ARRAY_LEN(times_us); i++) {
        dd_latency_add(latency, route_of("/healthz"), false, times_us[i]);
    }
    const char *text = text_of(latency, &out);
    static const char *const lines[] = {
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"0.001\"} 3\n", /* a bound is part of its bucket */
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"0.0025\"} 4\n",
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"0.05\"} 5\n",
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"0.1\"} 6\n",
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"5\"} 6\n",
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"10\"} 7\n",
        "t_bucket{method=\"GET\",route=\"/healthz\",le=\"+Inf\"} 8\n",
        "t_sum{method=\"GET\",route=\"/healthz\"} 20.102003\n",
        "t_count{method=\"GET\",route=\"/healthz\"} 8\n",
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(lines); i++) {
        if (strstr(text, lines[i]) == NULL) {
            fail_msg("%s is not in\n%s", lines[i], text);
        }
    }
    dd_buffer_release(&out);
    dd_latency_free(latency);
}

static void test_labels(void **state) {
    (void)state;
    struct dd_latency *latency = dd_latency_new();
    struct dd_buffer out;
    assert_non_null(latency);
    assert_string_equal(text_of(latency, &out), "# HELP t From the end of a request to its answer, by row of the route "
                                                "table.\n# TYPE t histogram\n"); /* what was not asked has no series */
    dd_buffer_release(&out);
    dd_latency_add(latency, NULL, true, 1);
    dd_latency_add(latency, NULL, false, 1);
    dd_latency_add(latency, NULL, false, 1);
    dd_latency_add(latency, route_of(DD_API_PREFIX "/experiments/{id}/cancel"), false, 1);
    const char *text = text_of(latency, &out);
    assert_non_null(strstr(text, "t_count{method=\"GET\",route=\"page\"} 1\n"));
    assert_non_null(strstr(text, "t_count{method=\"any\",route=\"none\"} 2\n"));
    assert_non_null(strstr(text, "t_count{method=\"POST\",route=\"/api/v1/experiments/{id}/cancel\"} 1\n"));
    dd_buffer_release(&out);
    dd_latency_free(latency);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bounds), cmocka_unit_test(test_labels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
