/* api: HTTP in and out.  Routes, guard (Host, Origin, token, sizes), parameters, JSON, problem+json, events, the
 * embedded pages, openapi.json.  Asks the daemon through one table of functions and knows nothing of SQL or training.
 * Depends on base, spec (schema of the spec), libmicrohttpd, cJSON, zlib (gzip of embedded pages).
 *
 * Threads: one HTTP thread (libmicrohttpd, epoll) runs handlers of quick operations; operations marked slow in routes.c
 * (predict, evaluate, uploads' import, archives, dry runs that load files) run on a small pool of request threads while
 * the connection is suspended.
 */
#ifndef DD_API_H
#define DD_API_H

#include <cjson/cJSON.h>

#include "base/base.h"

struct dd_api; /* the running server */

struct dd_api_config {
    const char *listen; /* "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:80"; port 0 = any free one */
    const char *const
        *hosts; /* further Host names accepted, NULL-terminated; loopback names and the listen address always are */
    const char *tls_cert, *tls_key; /* PEM paths; NULL = plain HTTP */
    const char *upload_dir;         /* where uploads stream to; emptied at start */
    size_t max_json_bytes;          /* 0 = 1 MiB */
    uint64_t max_upload_bytes;      /* 0 = 4 GiB */
    int max_connections;            /* 0 = 2,000; from one address half of it, unless listen is loopback */
    int idle_seconds;               /* a connection on which nothing moves is closed; 0 = 60 */
    int max_event_readers;          /* 0 = 256 */
    int request_threads;            /* 0 = 4 */
};

/* A token: what it is called in the log, what it may do, and the hash of its secret, never the secret. */
enum dd_scope {
    DD_SCOPE_READ = 0, /* look at everything, ask models; change nothing */
    DD_SCOPE_FULL,
};
struct dd_api_token {
    char name[65];
    enum dd_scope scope;
    uint8_t sha256[DD_SHA256_BYTES];
};
struct dd_api_tokens {
    bool required; /* false: who reaches the port may do everything */
    struct dd_api_token *items;
    size_t count;
};

/* A request as an operation sees it: already authorised, decoded, and its parameters checked against the route's table.
 */
struct dd_api_file {
    const char *field;    /* form field: "train", "files", "archive" */
    const char *filename; /* base name as sent, never a path */
    const char *path;     /* temporary file; removed after the call unless it was renamed away */
    uint64_t bytes;
};
struct dd_api_param {
    const char *name, *value;
};
struct dd_api_call {
    const char *method, *path;
    int64_t id;                        /* {id} of the path; 0 if none */
    const char *name;                  /* {name} of the path, valid; NULL if none */
    const char *epoch;                 /* {epoch}: "best", "last" or digits; NULL if none */
    const struct dd_api_param *params; /* query, then form fields */
    size_t n_params;
    const cJSON *body;                              /* parsed JSON object; NULL if none */
    const char *idempotency_key, *idempotency_hash; /* NULL if none; to be stored with what the call creates */
    const struct dd_api_file *files;
    size_t n_files;
    const char *accept;             /* chosen media type: "application/json", "text/csv", "text/plain", … */
    const struct dd_cancel *cancel; /* the client went away or the server stops; slow operations look at it */
};
const char *dd_api_param(const struct dd_api_call *call, const char *name); /* NULL if absent */
int64_t dd_api_param_int(const struct dd_api_call *call, const char *name,
                         int64_t otherwise); /* already range-checked */
double dd_api_param_number(const struct dd_api_call *call, const char *name, double otherwise);
bool dd_api_param_bool(const struct dd_api_call *call, const char *name); /* "1" or "true" */
const struct dd_api_file *dd_api_file(const struct dd_api_call *call, const char *field);

/* What an operation answers.  Exactly one of json, text, file_path/fd. Everything is owned by the result once set. */
struct dd_api_result {
    int http_status; /* 0 = what the route documents; a creating route without `location` (dry run): 200 */
    cJSON *json;
    struct dd_buffer text;    /* with content_type */
    const char *content_type; /* static; for text and file */
    int fd;                   /* −1, or an open file to send from its start; closed by the api */
    char filename[160];       /* Content-Disposition: attachment, when not "" */
    char location[256];       /* Location header, when not "" */
    char next_cursor[1024];   /* lists: puts next_cursor into the JSON and a Link header, when not "" */
    char etag[80];            /* without quotes; "" = the api hashes the body */
};
struct dd_problem { /* what a failed operation leaves behind */
    struct dd_error error;
    struct dd_faults faults;   /* errors[] */
    char allowed_actions[128]; /* 409: comma separated, "" = none */
    int retry_after_s;         /* 429, 503; 0 = 1 */
};
typedef enum dd_status dd_api_fn(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                 struct dd_problem *problem);

/* The daemon fills every member. */
struct dd_api_ops {
    void *daemon;
    dd_api_fn *dataset_create, *dataset_list, *dataset_get, *dataset_rows, *dataset_delete;
    dd_api_fn *model_create, *model_list, *model_get, *model_archive, *model_predict, *model_evaluate, *model_delete;
    dd_api_fn *model_prune, *model_quantize;
    dd_api_fn *experiment_create, *experiment_list, *experiment_get, *experiment_patch, *experiment_delete;
    dd_api_fn *experiment_cancel, *experiment_pause, *experiment_resume, *experiment_retry, *experiment_clone;
    dd_api_fn *experiment_metrics, *experiment_steps, *experiment_report, *experiment_predictions, *experiment_log,
        *experiment_archive;
    dd_api_fn *compare;
    dd_api_fn *sweep_create, *sweep_list, *sweep_get,
        *sweep_cancel; /* NULL: not built in, no route, not in openapi.json */
    dd_api_fn *preset_list;
    dd_api_fn *system, *ready, *metrics_text, *gc;
    /* The tokens that count now, when they are others than at the last call; false when they are the same.  The api
     * owns the items then (free).  Called before each check of a token, from one thread at a time, so it must be quick.
     * NULL: no token is ever needed. */
    bool (*tokens)(void *daemon, struct dd_api_tokens *ret_tokens);
    /* A number that grows whenever the answer of a route marked DD_ROUTE_KEPT or DD_ROUTE_LIVE (routes.c) may become
     * another one, before anybody is told of what made it so.  Any thread, and quick.  NULL: no answer is kept. */
    uint64_t (*revision)(void *daemon);
    /* Whether jobs use every core, so that an answer can wait a few milliseconds when very many are asked for.  HTTP
     * thread, and quick.  NULL: never. */
    bool (*cores_taken)(void *daemon);
    /* Idempotency-Key store.  get: DD_NOT_FOUND when new. Strings of get are owned by the caller (free). */
    enum dd_status (*idempotent_get)(void *daemon, const char *key, char **ret_request_hash, int *ret_status,
                                     char **ret_location, char **ret_body, struct dd_error *err);
    enum dd_status (*idempotent_put)(void *daemon, const char *key, const char *request_hash, int status,
                                     const char *location, const char *body, struct dd_error *err);
};

enum dd_status dd_api_start(const struct dd_api_config *config, const struct dd_api_ops *ops, struct dd_api **ret_api,
                            struct dd_error *err) DD_MUST_CHECK;
/* Reads certificate and key again: new connections get them.  After a failure the old ones stay. */
enum dd_status dd_api_reload_tls(struct dd_api *api, struct dd_error *err) DD_MUST_CHECK;
void dd_api_address(const struct dd_api *api, char *out, size_t out_bytes); /* "http://127.0.0.1:8080" */
/* Stops accepting, ends event streams, waits for running requests at most drain_ms, frees. */
void dd_api_stop(struct dd_api *api, int drain_ms);

/* Puts an event into the ring (last 4,096 events or 8 MiB) and wakes its readers.  type: "status", "step", "epoch",
 * "log" (static).  data: JSON text, copied; it always has "experiment_id" inside.  Any thread; never blocks on a
 * reader. */
void dd_api_publish(struct dd_api *api, const char *type, int64_t experiment_id, const char *data);

/* Counters for metrics_text and system. */
struct dd_api_stats {
    uint64_t requests, responses_4xx, responses_5xx;
    int connections, event_readers;
    int requests_waiting; /* for a request thread */
    uint64_t bytes_sent;
};
void dd_api_get_stats(const struct dd_api *api, struct dd_api_stats *ret_stats);

/* Appends the histograms of answer times in Prometheus' text format, as the metric called name. */
void dd_api_put_latencies(const struct dd_api *api, const char *name, struct dd_buffer *out);

cJSON *dd_api_openapi(const struct dd_api_ops *ops); /* the whole document; also tested offline */

#endif
