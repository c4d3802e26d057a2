/* The server about itself: system, readiness.
 * Threads: HTTP thread; nothing here waits.
 */
#include <stdlib.h>
#include <unistd.h>

#include "daemon/daemon.h"

uint64_t dd_resident_bytes(void) {
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
    cJSON_AddNumberToObject(memory, "resident_bytes", (double)dd_resident_bytes());
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
