/* The server about itself: system, readiness.
 * Threads: HTTP thread; nothing here waits.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/daemon.h"

#define LOOK_US 250000

/* The second number of statm, in pages. */
uint64_t dd_resident_bytes(void) {
    char text[128];
    DD_CLEANUP(dd_close_fd) int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (got <= 0)
        return 0;
    text[got] = '\0';
    const char *resident = strchr(text, ' ');
    return resident == NULL ? 0 : strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

const struct dd_machine_facts *dd_machine_look(struct dd_daemon *daemon) {
    struct dd_machine_facts *facts = &daemon->facts;
    struct dd_error err;
    int64_t now_us = dd_clock_mono_us();
    if (facts->looked_us == 0 || now_us - facts->looked_us >= LOOK_US) {
        facts->looked_us = now_us;
        facts->resident_bytes = dd_resident_bytes();
        facts->disk_known =
            dd_disk_free(daemon->data_dir, &facts->disk_free_bytes, &facts->disk_total_bytes, &err) == DD_OK;
    }
    return facts;
}

static void put_disk(cJSON *json, const struct dd_machine_facts *facts) {
    cJSON *disk = cJSON_AddObjectToObject(json, "disk");
    if (facts->disk_known) {
        cJSON_AddNumberToObject(disk, "free_bytes", (double)facts->disk_free_bytes);
        cJSON_AddNumberToObject(disk, "total_bytes", (double)facts->disk_total_bytes);
    }
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
    const char *blas = dd_engine_blas();
    cJSON_AddStringToObject(json, "blas", blas != NULL ? blas : "none");
    cJSON_AddBoolToObject(json, "bf16", dd_engine_has_bf16());
    cJSON_AddNumberToObject(json, "threads", daemon->n_threads);
    cJSON *workers = cJSON_AddObjectToObject(json, "workers");
    cJSON_AddNumberToObject(workers, "total", daemon->n_workers);
    cJSON_AddNumberToObject(workers, "busy", dd_workers_busy(daemon->workers));
    cJSON *queue = cJSON_AddObjectToObject(json, "queue");
    for (int i = 0; i < DD_STATE_COUNT; i++)
        cJSON_AddNumberToObject(queue, dd_state_name((enum dd_state)i), (double)counts[i]);
    cJSON *memory = cJSON_AddObjectToObject(json, "memory");
    const struct dd_machine_facts *facts = dd_machine_look(daemon);
    cJSON_AddNumberToObject(memory, "resident_bytes", (double)facts->resident_bytes);
    cJSON_AddNumberToObject(memory, "limit_bytes", (double)daemon->memory_limit_bytes);
    put_disk(json, facts);
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
