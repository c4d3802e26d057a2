/* /metrics: Prometheus' text format, version 0.0.4.
 *
 * A metric is its HELP line, its TYPE line and its samples, together.  Names are distilld_<what>_<unit>, counters end
 * in _total, and no label has a value that a client could choose: the number of series is bounded.
 * Threads: HTTP thread; nothing here waits.
 */
#include <string.h>

#include "daemon/daemon.h"

static void metric(struct dd_buffer *out, const char *name, const char *type, const char *help) {
    dd_buffer_puts(out, "# HELP distilld_");
    dd_buffer_puts(out, name);
    dd_buffer_putc(out, ' ');
    dd_buffer_puts(out, help);
    dd_buffer_puts(out, "\n# TYPE distilld_");
    dd_buffer_puts(out, name);
    dd_buffer_putc(out, ' ');
    dd_buffer_puts(out, type);
    dd_buffer_putc(out, '\n');
}

/* As the format asks: \\, \" and \n are escaped. */
static void put_label_value(struct dd_buffer *out, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '\n') {
            dd_buffer_puts(out, "\\n");
            continue;
        }
        if (*text == '\\' || *text == '"')
            dd_buffer_putc(out, '\\');
        dd_buffer_putc(out, *text);
    }
}

static void sample(struct dd_buffer *out, const char *name, double value) {
    dd_buffer_puts(out, "distilld_");
    dd_buffer_puts(out, name);
    dd_buffer_putc(out, ' ');
    dd_buffer_put_number(out, value);
    dd_buffer_putc(out, '\n');
}

static void gauge(struct dd_buffer *out, const char *name, const char *help, double value) {
    metric(out, name, "gauge", help);
    sample(out, name, value);
}

static void counter(struct dd_buffer *out, const char *name, const char *help, uint64_t value) {
    metric(out, name, "counter", help);
    sample(out, name, (double)value);
}

enum dd_status dd_metrics_text_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    (void)call;
    int64_t counts[DD_STATE_COUNT];
    enum dd_status status = dd_storage_state_counts(daemon->storage, counts, &problem->error);
    if (status != DD_OK)
        return status;
    struct dd_buffer *out = &result->text;
    dd_buffer_init(out, 1 << 20);
    metric(out, "build_info", "gauge", "Version and CPU, always 1.");
    dd_buffer_puts(out, "distilld_build_info{version=\"" DD_VERSION "\",cpu=\"");
    put_label_value(out, dd_engine_cpu());
    dd_buffer_puts(out, "\"} 1\n");
    metric(out, "experiments", "gauge", "Experiments by state.");
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        char name[64];
        snprintf(name, sizeof name, "experiments{state=\"%s\"}", dd_state_name((enum dd_state)i));
        sample(out, name, (double)counts[i]);
    }
    gauge(out, "workers", "Worker threads.", daemon->n_workers);
    gauge(out, "workers_busy", "Worker threads that train.", dd_workers_busy(daemon->workers));
    gauge(out, "tokens_per_second", "Real tokens trained a second, all running experiments.",
          dd_workers_tokens_per_second(daemon->workers));
    counter(out, "epochs_total", "Epochs trained and stored since the start.", daemon->epochs);
    counter(out, "steps_total", "Training steps since the start.", daemon->steps);
    const struct dd_machine_facts *facts = dd_machine_look(daemon);
    gauge(out, "memory_resident_bytes", "Resident memory.", (double)facts->resident_bytes);
    gauge(out, "memory_limit_bytes", "What experiments may be estimated to need.", (double)daemon->memory_limit_bytes);
    if (facts->disk_known) {
        gauge(out, "disk_free_bytes", "Free space below the data directory.", (double)facts->disk_free_bytes);
        gauge(out, "disk_total_bytes", "Size of the disk of the data directory.", (double)facts->disk_total_bytes);
    }
    gauge(out, "start_time_seconds", "When the daemon started, in seconds since 1970.",
          (double)daemon->started_ms / 1000);
    struct dd_api *api = atomic_load(&daemon->api);
    if (api != NULL) {
        struct dd_api_stats stats;
        dd_api_get_stats(api, &stats);
        counter(out, "http_requests_total", "Requests answered.", stats.requests);
        counter(out, "http_responses_4xx_total", "Answers with a 4xx status.", stats.responses_4xx);
        counter(out, "http_responses_5xx_total", "Answers with a 5xx status.", stats.responses_5xx);
        counter(out, "http_sent_bytes_total", "Bytes of bodies sent.", stats.bytes_sent);
        gauge(out, "http_connections", "Open connections.", stats.connections);
        gauge(out, "event_readers", "Open event streams.", stats.event_readers);
        dd_api_put_latencies(api, "distilld_http_request_duration_seconds", out);
        gauge(out, "http_requests_waiting", "Requests waiting for a request thread.", stats.requests_waiting);
    }
    result->content_type = "text/plain; version=0.0.4; charset=utf-8";
    return dd_buffer_check(out, &problem->error);
}
