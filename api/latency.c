/* How long answers took, for Prometheus: one histogram a row of the route table, one for pages, one for the rest.
 *
 * Time runs from when the whole request was there until its answer was handed to libmicrohttpd: waiting for a request
 * thread is part of it, a slow client's upload or download is not.  The labels are those of the table, never what a
 * client sent, so their number is bounded.  Written on the HTTP thread, read on any.
 */
#include <stdlib.h>

#include "api/internal.h"

static const struct {
    int64_t us;
    const char *text;
} bounds[] = {
    {1000, "0.001"},  {2500, "0.0025"}, {5000, "0.005"},  {10000, "0.01"}, {25000, "0.025"},
    {50000, "0.05"},  {100000, "0.1"},  {250000, "0.25"}, {500000, "0.5"}, {1000000, "1"},
    {2500000, "2.5"}, {5000000, "5"},   {10000000, "10"},
};

struct histogram {
    atomic_uint_fast64_t buckets[DD_ARRAY_LEN(bounds) + 1]; /* not cumulative; the last: above every bound */
    atomic_uint_fast64_t sum_us;
};

struct dd_latency {
    size_t n_routes;
    struct histogram items[]; /* as the routes; then pages, then all else */
};

struct dd_latency *dd_latency_new(void) {
    size_t n_routes, bytes;
    (void)dd_routes(&n_routes);
    struct dd_latency *latency = NULL;
    if (dd_size_mul(n_routes + 2, sizeof latency->items[0], &bytes) && dd_size_add(bytes, sizeof *latency, &bytes)) {
        latency = dd_calloc(1, bytes);
    }
    if (latency != NULL) {
        latency->n_routes = n_routes;
    }
    return latency;
}

void dd_latency_free(struct dd_latency *latency) {
    free(latency);
}

void dd_latency_add(struct dd_latency *latency, const struct dd_route *route, bool page, int64_t us) {
    size_t n_routes, bound = 0;
    const struct dd_route *routes = dd_routes(&n_routes);
    struct histogram *h = &latency->items[route != NULL ? (size_t)(route - routes) : n_routes + (page ? 0 : 1)];
    while (bound < DD_ARRAY_LEN(bounds) && us > bounds[bound].us) {
        bound++;
    }
    h->buckets[bound]++;
    h->sum_us += (uint64_t)DD_MAX(us, 0);
}

static void put_sample(struct dd_buffer *out, const char *name, const char *what, const char *labels, const char *bound,
                       double value) {
    dd_buffer_puts(out, name);
    dd_buffer_puts(out, what);
    dd_buffer_putc(out, '{');
    dd_buffer_puts(out, labels);
    if (bound != NULL) {
        dd_buffer_puts(out, ",le=\"");
        dd_buffer_puts(out, bound);
        dd_buffer_putc(out, '"');
    }
    dd_buffer_puts(out, "} ");
    dd_buffer_put_number(out, value);
    dd_buffer_putc(out, '\n');
}

/* The count is the sum of the buckets as they were read, so that both agree while requests go on. */
static void put_histogram(const struct histogram *h, const char *name, const char *labels, struct dd_buffer *out) {
    uint64_t count = 0;
    uint64_t buckets[DD_ARRAY_LEN(h->buckets)];
    for (size_t i = 0; i < DD_ARRAY_LEN(buckets); i++) {
        buckets[i] = h->buckets[i];
        count += buckets[i];
    }
    if (count == 0) {
        return;
    }
    uint64_t below = 0;
    for (size_t i = 0; i < DD_ARRAY_LEN(bounds); i++) {
        below += buckets[i];
        put_sample(out, name, "_bucket", labels, bounds[i].text, (double)below);
    }
    put_sample(out, name, "_bucket", labels, "+Inf", (double)count);
    put_sample(out, name, "_sum", labels, NULL, (double)h->sum_us / 1e6);
    put_sample(out, name, "_count", labels, NULL, (double)count);
}

void dd_latency_put(const struct dd_latency *latency, const char *name, struct dd_buffer *out) {
    char labels[256];
    size_t n_routes;
    const struct dd_route *routes = dd_routes(&n_routes);
    dd_buffer_printf(out,
                     "# HELP %s From the end of a request to its answer, by row of the route table.\n"
                     "# TYPE %s histogram\n",
                     name, name);
    for (size_t i = 0; i < latency->n_routes; i++) {
        snprintf(labels, sizeof labels, "method=\"%s\",route=\"%s\"", dd_method_name(routes[i].method),
                 routes[i].pattern);
        put_histogram(&latency->items[i], name, labels, out);
    }
    put_histogram(&latency->items[n_routes], name, "method=\"GET\",route=\"page\"", out);
    put_histogram(&latency->items[n_routes + 1], name, "method=\"any\",route=\"none\"", out);
}

void dd_api_put_latencies(const struct dd_api *api, const char *name, struct dd_buffer *out) {
    dd_latency_put(api->latency, name, out);
}
