/* The server about itself: system, readiness, Prometheus.
 * Threads: HTTP thread; nothing here waits.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/daemon.h"

static uint64_t resident_bytes(void) {
    DD_CLEANUP(dd_fclose_ptr) FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long size = 0, resident = 0;
    if (file == NULL || fscanf(file, "%llu %llu", &size, &resident) != 2)
        return 0;
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void put_disk(cJSON *json, const struct dd_daemon *daemon) {
    uint64_t free_bytes = 0, total_bytes = 0;
    struct dd_error err;
    cJSON *disk = cJSON_AddObjectToObject(json, "disk");
    if (dd_disk_free(daemon->data_dir, &free_bytes, &total_bytes, &err) != DD_OK)
        return;
    cJSON_AddNumberToObject(disk, "free_bytes", (double)free_bytes);
    cJSON_AddNumberToObject(disk, "total_bytes", (double)total_bytes);
}

enum dd_status dd_system_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                            struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    (void)call;
    int64_t counts[DD_STATE_COUNT];
    enum dd_status status = dd_storage_state_counts(daemon->storage, counts, &problem->error);
    if (status != DD_OK)
        return status;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "version", DD_VERSION);
    cJSON_AddStringToObject(json, "build", "gcc " __VERSION__);
    dd_put_time(json, "started_at", daemon->started_ms);
    cJSON_AddNumberToObject(json, "uptime_seconds", (double)(dd_clock_wall_ms() - daemon->started_ms) / 1000);
    cJSON_AddStringToObject(json, "cpu", dd_engine_cpu());
    cJSON_AddStringToObject(json, "blas", dd_engine_blas());
    cJSON_AddBoolToObject(json, "bf16", dd_engine_has_bf16());
    cJSON_AddNumberToObject(json, "threads", daemon->n_threads);
    cJSON *workers = cJSON_AddObjectToObject(json, "workers");
    cJSON_AddNumberToObject(workers, "total", daemon->n_workers);
    cJSON_AddNumberToObject(workers, "busy", dd_workers_busy(daemon->workers));
    cJSON *queue = cJSON_AddObjectToObject(json, "queue");
    for (int i = 0; i < DD_STATE_COUNT; i++)
        cJSON_AddNumberToObject(queue, dd_state_name((enum dd_state)i), (double)counts[i]);
    cJSON *memory = cJSON_AddObjectToObject(json, "memory");
    cJSON_AddNumberToObject(memory, "resident_bytes", (double)resident_bytes());
    cJSON_AddNumberToObject(memory, "limit_bytes", (double)daemon->memory_limit_bytes);
    put_disk(json, daemon);
    cJSON_AddStringToObject(json, "data_dir", daemon->data_dir);
    cJSON_AddNumberToObject(json, "schema_version", dd_storage_schema_version(daemon->storage));
    struct dd_api *api = atomic_load(&daemon->api);
    if (api != NULL) {
        struct dd_api_stats stats;
        dd_api_get_stats(api, &stats);
        cJSON *http = cJSON_AddObjectToObject(json, "http");
        cJSON_AddNumberToObject(http, "requests", (double)stats.requests);
        cJSON_AddNumberToObject(http, "connections", stats.connections);
        cJSON_AddNumberToObject(http, "event_readers", stats.event_readers);
        cJSON_AddNumberToObject(http, "requests_waiting", stats.requests_waiting);
    }
    result->json = json;
    return DD_OK;
}

enum dd_status dd_ready_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                           struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    (void)call;
    if (atomic_load(&daemon->stopping))
        return dd_fail(&problem->error, DD_BUSY, "stopping", "the daemon is stopping");
    enum dd_status status = dd_storage_ping(daemon->storage, &problem->error);
    if (status != DD_OK) {
        problem->error.status = DD_BUSY;
        return DD_BUSY;
    }
    result->json = cJSON_CreateObject();
    cJSON_AddStringToObject(result->json, "status", "ok");
    return DD_OK;
}

bool dd_tokens_op(void *context, struct dd_api_tokens *ret_tokens) {
    struct dd_daemon *daemon = context;
    return dd_token_source_poll(&daemon->tokens, ret_tokens);
}

static void metric(struct dd_buffer *out, const char *name, const char *type, const char *help) {
    dd_buffer_printf(out, "# HELP distilld_%s %s\n# TYPE distilld_%s %s\n", name, help, name, type);
}

static void gauge(struct dd_buffer *out, const char *name, const char *help, double value) {
    metric(out, name, "gauge", help);
    dd_buffer_printf(out, "distilld_%s %.17g\n", name, value);
}

static void counter(struct dd_buffer *out, const char *name, const char *help, uint64_t value) {
    metric(out, name, "counter", help);
    dd_buffer_printf(out, "distilld_%s %" PRIu64 "\n", name, value);
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
    dd_buffer_printf(out, "distilld_build_info{version=\"%s\",cpu=\"%s\"} 1\n", DD_VERSION, dd_engine_cpu());
    metric(out, "experiments", "gauge", "Experiments by state.");
    for (int i = 0; i < DD_STATE_COUNT; i++)
        dd_buffer_printf(out, "distilld_experiments{state=\"%s\"} %" PRId64 "\n", dd_state_name((enum dd_state)i),
                         counts[i]);
    gauge(out, "workers", "Worker threads.", daemon->n_workers);
    gauge(out, "workers_busy", "Worker threads that train.", dd_workers_busy(daemon->workers));
    gauge(out, "tokens_per_second", "Real tokens trained a second, all running experiments.",
          dd_workers_tokens_per_second(daemon->workers));
    gauge(out, "memory_resident_bytes", "Resident memory.", (double)resident_bytes());
    gauge(out, "memory_limit_bytes", "What experiments may be estimated to need.", (double)daemon->memory_limit_bytes);
    uint64_t free_bytes = 0, total_bytes = 0;
    struct dd_error err;
    if (dd_disk_free(daemon->data_dir, &free_bytes, &total_bytes, &err) == DD_OK) {
        gauge(out, "disk_free_bytes", "Free space below the data directory.", (double)free_bytes);
        gauge(out, "disk_total_bytes", "Size of the disk of the data directory.", (double)total_bytes);
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
        gauge(out, "http_requests_waiting", "Requests waiting for a request thread.", stats.requests_waiting);
    }
    result->content_type = "text/plain; version=0.0.4; charset=utf-8";
    return dd_buffer_check(out, &problem->error);
}
