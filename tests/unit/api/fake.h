/* A daemon that is none: operations which echo what they were called with, or fail, wait or answer as the test wants.
 * And a server in front of it on a free port.
 */
#ifndef DD_TESTS_API_FAKE_H
#define DD_TESTS_API_FAKE_H

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "api/api.h"
#include "api/pages.h"
#include "client.h"

struct kept { /* an Idempotency-Key's record */
    char key[256], hash[65], location[256], *body;
    int status;
};
struct fake {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_int created, running, stopped; /* stopped: an enum dd_stop */
    bool release;                         /* lets `predict` finish */
    atomic_bool not_ready;
    struct kept kept[32];
    size_t n_kept;
    char seen_path[4096]; /* of the last file */
    char upload_dir[64];
    struct dd_api_tokens tokens; /* given to the server when tokens_changed; items are the test's */
    atomic_bool tokens_changed;
};
static struct fake fake;
static struct dd_api *server;

static inline enum dd_status fake_echo(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    struct fake *f = daemon;
    (void)problem;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "method", call->method);
    cJSON_AddNumberToObject(json, "id", (double)call->id);
    if (call->name != NULL) {
        cJSON_AddStringToObject(json, "name", call->name);
    }
    if (call->epoch != NULL) {
        cJSON_AddStringToObject(json, "epoch", call->epoch);
    }
    cJSON *params = cJSON_AddObjectToObject(json, "params");
    for (size_t i = 0; i < call->n_params; i++) {
        cJSON_AddStringToObject(params, call->params[i].name, call->params[i].value);
    }
    if (call->body != NULL) {
        cJSON_AddItemToObject(json, "body", cJSON_Duplicate(call->body, true));
    }
    cJSON *files = cJSON_AddArrayToObject(json, "files");
    for (size_t i = 0; i < call->n_files; i++) {
        cJSON *file = cJSON_CreateObject();
        cJSON_AddStringToObject(file, "field", call->files[i].field);
        cJSON_AddStringToObject(file, "filename", call->files[i].filename);
        cJSON_AddNumberToObject(file, "bytes", (double)call->files[i].bytes);
        char *text = NULL;
        size_t len = 0;
        if (dd_file_read(call->files[i].path, 1u << 30, &text, &len, NULL) == DD_OK) {
            uint8_t digest[DD_SHA256_BYTES];
            char hex[DD_SHA256_HEX_BYTES];
            dd_sha256_bytes(text, len, digest);
            dd_hex(digest, sizeof digest, hex);
            cJSON_AddStringToObject(file, "sha256", hex);
        }
        free(text);
        cJSON_AddItemToArray(files, file);
        pthread_mutex_lock(&f->lock);
        snprintf(f->seen_path, sizeof f->seen_path, "%s", call->files[i].path);
        pthread_mutex_unlock(&f->lock);
    }
    result->json = json;
    return DD_OK;
}

static inline enum dd_status fake_create(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                         struct dd_problem *problem) {
    struct fake *f = daemon;
    if (!dd_api_param_bool(call, "dry_run")) {
        pthread_mutex_lock(&f->lock);
        snprintf(result->location, sizeof result->location, "/api/v1/experiments/%d", ++f->created);
        pthread_mutex_unlock(&f->lock);
    }
    enum dd_status status = fake_echo(daemon, call, result, problem);
    cJSON_AddNumberToObject(result->json, "created", (int)f->created);
    return status;
}

/* id 404: none; 409: wrong state; 422: two faults; 500: our bug; 507: full disk. */
static inline enum dd_status fake_get(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                      struct dd_problem *problem) {
    struct dd_error *err = &problem->error;
    switch (call->id) {
    case 404:
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "there is no experiment 404");
    case 409:
        snprintf(problem->allowed_actions, sizeof problem->allowed_actions, "cancel,pause");
        return dd_fail(err, DD_CONFLICT, "state_conflict", "it is running");
    case 422:
        dd_faults_add(&problem->faults, "/alpha", "must be between 0 and 1, got 1.7");
        dd_faults_add(&problem->faults, "/T", "must be above 0");
        return dd_fail(err, DD_INVALID, "spec_invalid", "2 fields are wrong");
    case 500:
        return dd_fail(err, DD_INTERNAL, "internal", "a bug");
    case 507:
        return dd_fail(err, DD_NO_SPACE, "no_space", "the disk is full");
    default:
        snprintf(result->etag, sizeof result->etag, "e-%lld-1", (long long)call->id);
        return fake_echo(daemon, call, result, problem);
    }
}

static inline enum dd_status fake_list(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    enum dd_status status = fake_echo(daemon, call, result, problem);
    cJSON *items = cJSON_AddArrayToObject(result->json, "items");
    int64_t limit = dd_api_param_int(call, "limit", 50);
    for (int64_t i = 0; i < limit; i++) {
        cJSON_AddItemToArray(items, cJSON_CreateString("an item that is long enough to be worth compressing"));
    }
    if (limit < 50) {
        snprintf(result->next_cursor, sizeof result->next_cursor, "after=%lld&x", (long long)limit);
    }
    return status;
}

static inline enum dd_status fake_text(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    if (strncmp(call->accept, "application/json", 16) == 0) {
        return fake_echo(daemon, call, result, problem);
    }
    dd_buffer_puts(&result->text, "epoch,loss\n1,0.5\n");
    return DD_OK;
}

static inline enum dd_status fake_delete(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                         struct dd_problem *problem) {
    (void)daemon;
    (void)call;
    (void)result;
    (void)problem;
    return DD_OK;
}

static inline enum dd_status fake_archive(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                          struct dd_problem *problem) {
    (void)daemon;
    (void)problem;
    FILE *file = tmpfile();
    for (int i = 0; i < 100000; i++) {
        fprintf(file, "%09d\n", i);
    }
    fflush(file);
    result->fd = dup(fileno(file));
    fclose(file);
    result->content_type = "application/gzip";
    snprintf(result->filename, sizeof result->filename, "%s\".tar.gz", call->name == NULL ? "x" : call->name);
    return DD_OK;
}

/* Runs until it is released or cancelled. */
static inline enum dd_status fake_wait(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    struct fake *f = daemon;
    pthread_mutex_lock(&f->lock);
    f->running++;
    pthread_cond_broadcast(&f->changed);
    while (!f->release && dd_cancel_requested(call->cancel) == DD_STOP_NONE) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 5000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&f->changed, &f->lock, &until);
    }
    f->running--;
    enum dd_stop why = dd_cancel_requested(call->cancel);
    if (why != DD_STOP_NONE) {
        f->stopped = (int)why;
    }
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return why != DD_STOP_NONE ? dd_fail(&problem->error, DD_STOPPED, "stopped", "it was stopped")
                               : fake_create(daemon, call, result, problem);
}

static inline enum dd_status fake_ready(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                        struct dd_problem *problem) {
    struct fake *f = daemon;
    return f->not_ready ? dd_fail(&problem->error, DD_BUSY, "not_ready", "starting")
                        : fake_echo(daemon, call, result, problem);
}

static inline enum dd_status fake_idempotent_get(void *daemon, const char *key, char **ret_hash, int *ret_status,
                                                 char **ret_location, char **ret_body, struct dd_error *err) {
    struct fake *f = daemon;
    enum dd_status status = DD_NOT_FOUND;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->n_kept && status != DD_OK; i++) {
        if (strcmp(f->kept[i].key, key) == 0) {
            *ret_hash = strdup(f->kept[i].hash);
            *ret_location = strdup(f->kept[i].location);
            *ret_body = strdup(f->kept[i].body);
            *ret_status = f->kept[i].status;
            status = DD_OK;
        }
    }
    pthread_mutex_unlock(&f->lock);
    return status == DD_OK ? DD_OK : dd_fail(err, DD_NOT_FOUND, "new", "new");
}

static inline enum dd_status fake_idempotent_put(void *daemon, const char *key, const char *hash, int status,
                                                 const char *location, const char *body, struct dd_error *err) {
    struct fake *f = daemon;
    (void)err;
    pthread_mutex_lock(&f->lock);
    struct kept *k = &f->kept[f->n_kept++];
    snprintf(k->key, sizeof k->key, "%s", key);
    snprintf(k->hash, sizeof k->hash, "%s", hash);
    snprintf(k->location, sizeof k->location, "%s", location);
    k->body = strdup(body);
    k->status = status;
    pthread_mutex_unlock(&f->lock);
    return DD_OK;
}

static inline bool fake_tokens(void *daemon, struct dd_api_tokens *ret_tokens) {
    struct fake *f = daemon;
    if (!atomic_exchange(&f->tokens_changed, false)) {
        return false;
    }
    pthread_mutex_lock(&f->lock);
    *ret_tokens = f->tokens;
    ret_tokens->items = calloc(f->tokens.count + 1, sizeof *ret_tokens->items);
    if (f->tokens.count > 0) {
        memcpy(ret_tokens->items, f->tokens.items, f->tokens.count * sizeof *ret_tokens->items);
    }
    pthread_mutex_unlock(&f->lock);
    return true;
}

/* From now on these count. */
static inline void fake_set_tokens(struct dd_api_token *items, size_t count) {
    pthread_mutex_lock(&fake.lock);
    fake.tokens = (struct dd_api_tokens){.required = true, .items = items, .count = count};
    pthread_mutex_unlock(&fake.lock);
    fake.tokens_changed = true;
}

static inline struct dd_api_ops fake_ops(void) {
    struct dd_api_ops ops = {
        .daemon = &fake,
        .dataset_create = fake_create,
        .dataset_list = fake_list,
        .dataset_get = fake_get,
        .dataset_rows = fake_list,
        .dataset_delete = fake_delete,
        .model_create = fake_create,
        .model_list = fake_list,
        .model_get = fake_get,
        .model_archive = fake_archive,
        .model_predict = fake_wait,
        .model_evaluate = fake_wait,
        .model_prune = fake_wait,
        .model_quantize = fake_wait,
        .model_delete = fake_delete,
        .experiment_create = fake_create,
        .experiment_list = fake_list,
        .experiment_get = fake_get,
        .experiment_patch = fake_echo,
        .experiment_delete = fake_delete,
        .experiment_cancel = fake_get,
        .experiment_pause = fake_get,
        .experiment_resume = fake_get,
        .experiment_retry = fake_get,
        .experiment_clone = fake_create,
        .experiment_metrics = fake_text,
        .experiment_steps = fake_echo,
        .experiment_report = fake_text,
        .experiment_predictions = fake_list,
        .experiment_log = fake_text,
        .experiment_archive = fake_archive,
        .compare = fake_echo,
        .preset_list = fake_echo,
        .system = fake_echo,
        .gc = fake_echo,
        .ready = fake_ready,
        .metrics_text = fake_text,
        .tokens = fake_tokens,
        .idempotent_get = fake_idempotent_get,
        .idempotent_put = fake_idempotent_put,
    };
    return ops;
}

/* Waits, without a time in the assertion, until as many operations run. */
static inline void fake_wait_running(int wanted) {
    pthread_mutex_lock(&fake.lock);
    while (fake.running != wanted) {
        pthread_cond_wait(&fake.changed, &fake.lock);
    }
    pthread_mutex_unlock(&fake.lock);
}

static inline void fake_release(bool release) {
    pthread_mutex_lock(&fake.lock);
    fake.release = release;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

static inline void server_start(const struct dd_api_config *config) {
    fake = (struct fake){.release = false};
    pthread_mutex_init(&fake.lock, NULL);
    pthread_cond_init(&fake.changed, NULL);
    snprintf(fake.upload_dir, sizeof fake.upload_dir, "/tmp/dd-api-test-%d", (int)getpid());
    struct dd_api_config own = *config;
    own.listen = own.listen == NULL ? "127.0.0.1:0" : own.listen;
    own.upload_dir = own.upload_dir == NULL ? fake.upload_dir : own.upload_dir;
    struct dd_api_ops ops = fake_ops();
    struct dd_error err = {0};
    if (dd_api_start(&own, &ops, &server, &err) != DD_OK) {
        fail_msg("%s", err.message);
    }
    char address[128];
    dd_api_address(server, address, sizeof address);
    client_port = (unsigned)atoi(strrchr(address, ':') + 1);
}

static inline void server_stop(void) {
    dd_api_stop(server, 2000);
    server = NULL;
    for (size_t i = 0; i < fake.n_kept; i++) {
        free(fake.kept[i].body);
    }
    assert_int_equal(dd_tree_remove(fake.upload_dir, NULL), DD_OK);
    pthread_mutex_destroy(&fake.lock);
    pthread_cond_destroy(&fake.changed);
}

static inline int setup_default(void **state) {
    (void)state;
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    struct dd_api_config config = {.max_json_bytes = 4096, .max_upload_bytes = 8u << 20};
    server_start(&config);
    return 0;
}

static inline int teardown_default(void **state) {
    (void)state;
    server_stop();
    return 0;
}

#endif
