/* The life of a request, as libmicrohttpd calls us: once with the request line (begin), once with the headers, any
 * number of times with pieces of the body, once at its end, again after a suspension, and at last (completed).
 *
 * An error found early is kept, the rest of the body is read and thrown away, and then the error is answered: closing a
 * socket with unread input makes the kernel reset it, and the client would lose the answer.  Only when nothing has been
 * sent yet (Expect: 100-continue), too much would come or nobody can know how much is a request answered at once, which
 * closes the connection.
 *
 * Owner: the HTTP thread, but for dd_request_run of a parked request, which runs on a request thread.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/internal.h"

#define MAX_DRAIN_BYTES (64u << 20)
#define SLOW_BODY_GRACE_US 60000000 /* after that a body must have come at LEAST_BODY_RATE or better */
#define LEAST_BODY_RATE 512         /* bytes a second */
#define SPARE_REQUESTS 32

/* Stands for a request that there is no memory for: its body is thrown away, then it is told. */
static struct dd_request no_request;

/* One that was used before, or a new one; all zero. */
static struct dd_request *take_spare(struct dd_api *api) {
    struct dd_request *request = api->spare;
    if (request == NULL) {
        return dd_calloc(1, sizeof *request);
    }
    api->spare = request->job_next;
    api->n_spare--;
    memset(request, 0, sizeof *request);
    return request;
}

void *dd_request_begin(void *context, const char *uri, struct MHD_Connection *connection) {
    struct dd_api *api = context;
    int64_t paused_us = dd_pace_begin(api);
    struct dd_request *request = take_spare(api);
    size_t bytes = strlen(uri) + 1;
    char *both = request == NULL ? NULL : dd_calloc(2, bytes);
    if (both == NULL) {
        free(request);
        return NULL;
    }
    request->api = api;
    request->connection = connection;
    request->started_us = dd_clock_mono_us() - paused_us;
    request->paused_us = paused_us;
    request->uri = memcpy(both, uri, bytes);
    request->target = memcpy(both + bytes, uri, bytes);
    size_t boot = strlen(api->boot);
    memcpy(request->id, api->boot, boot);
    request->id[boot] = '-';
    (void)dd_number_print_int((int64_t)++api->next_request, request->id + boot + 1);
    return request;
}

/* A lent response is its kept answer's. */
static void drop_response(struct dd_request *request) {
    if (request->response != NULL && (request->lent == NULL || request->response != request->lent->again)) {
        MHD_destroy_response(request->response);
    }
    request->response = NULL;
}

void dd_request_completed(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_RequestTerminationCode why) {
    (void)connection;
    (void)why;
    struct dd_api *api = context;
    struct dd_request *request = *slot;
    *slot = NULL;
    dd_pace_end(api);
    if (request == NULL || request == &no_request) {
        return;
    }
    if (request->counted) {
        api->answering--;
    }
    drop_response(request);
    if (request->lent != NULL) {
        request->lent->lent = false;
        dd_kept_unref(request->lent);
    }
    dd_kept_unref(request->kept);
    dd_upload_free(request->upload);
    cJSON_Delete(request->json);
    dd_buffer_release(&request->body);
    dd_headers_release(&request->headers);
    dd_faults_release(&request->problem.faults);
    free(request->all_params);
    free(request->idempotency_hash);
    free(request->uri); /* and target with it */
    if (api->n_spare < SPARE_REQUESTS) {
        request->job_next = api->spare;
        api->spare = request;
        api->n_spare++;
    } else {
        free(request);
    }
}

void dd_requests_free_spare(struct dd_api *api) {
    while (api->spare != NULL) {
        struct dd_request *request = api->spare;
        api->spare = request->job_next;
        free(request);
    }
}

/* --- headers ------------------------------------------------------------------------------------------------------ */

/* "/path?query", "http://host/path?query" or "*". */
static enum dd_status split_target(struct dd_request *request) {
    char *at = request->target;
    if (strcmp(at, "*") == 0) {
        request->path = at;
        return DD_OK;
    }
    if (*at != '/') {
        char *authority = strstr(at, "://");
        if (authority == NULL || (strncasecmp(at, "http:", 5) != 0 && strncasecmp(at, "https:", 6) != 0)) {
            request->path = at;
            return dd_request_fail(request, DD_MALFORMED, "target_malformed", "the request target must start with /");
        }
        authority += 3;
        size_t n = strcspn(authority, "/?");
        at = authority + n;
        memmove(authority - 1, authority, n); /* makes room for its NUL */
        authority[n - 1] = '\0';
        request->authority = authority - 1;
    }
    char *fragment = strchr(at, '#');
    if (fragment != NULL) {
        *fragment = '\0';
    }
    request->path = at;
    request->query = strchr(at, '?');
    if (request->query != NULL) {
        *request->query++ = '\0';
    }
    return DD_OK;
}

static enum dd_status find_route(struct dd_request *request) {
    if (strlen(request->path) > 4096) {
        return dd_request_fail(request, DD_NOT_FOUND, "not_found", "there is nothing at such a long path");
    }
    unsigned allow;
    request->route = dd_route_find(&request->api->ops, request->method, request->path, &request->captures, &allow);
    if (request->route != NULL) {
        return DD_OK;
    }
    if (allow == 0 && !dd_is_api_path(request->path)) { /* a page, perhaps */
        if (strcmp(request->method, "GET") == 0 || request->head) {
            return DD_OK;
        }
        allow = strcmp(request->path, "/") == 0 || strcmp(request->path, "*") == 0 ? DD_GET : 0;
    }
    if (allow == 0) {
        return dd_request_fail(request, DD_NOT_FOUND, "not_found", "there is nothing at %.200s", request->path);
    }
    dd_allow_text(allow, request->allow, sizeof request->allow);
    return dd_request_fail(request, DD_UNSUPPORTED, "method_not_allowed", "%s is not possible here, only %s",
                           request->method, request->allow);
}

/* Accept, Accept-Encoding, ?format=. */
static enum dd_status negotiate(struct dd_request *request) {
    const struct dd_headers *h = &request->headers;
    request->wants_gzip = h->accept_encoding.len > 0 && dd_accept_gzip(h->accept_encoding.data);
    const struct dd_route *route = request->route;
    if (route->produces[0] == NULL) {
        return DD_OK;
    }
    const char *offers[DD_ARRAY_LEN(route->produces) + 1] = {NULL};
    memcpy(offers, route->produces, sizeof route->produces);
    request->accept = dd_accept_pick(h->accept.len > 0 ? h->accept.data : NULL, offers);
    for (size_t i = 0; i < request->params.count; i++) {
        if (strcmp(request->params.items[i].name, "format") == 0) {
            request->accept = strcmp(request->params.items[i].value, "csv") == 0 ? "text/csv" : "application/json";
        }
    }
    if (request->accept == NULL) {
        return dd_request_fail(request, DD_UNSUPPORTED, "not_acceptable", "this is served as %s%s%s only", offers[0],
                               offers[1] != NULL ? " or " : "", offers[1] != NULL ? offers[1] : "");
    }
    return DD_OK;
}

static enum dd_status check_idempotency_key(struct dd_request *request) {
    const struct dd_headers *h = &request->headers;
    if (h->n_idempotency_key == 0 || !(request->route->flags & DD_ROUTE_IDEMPOTENT)) {
        return DD_OK;
    }
    size_t len = strlen(h->idempotency_key);
    for (size_t i = 0; i < len; i++) {
        if (h->idempotency_key[i] < 0x21 || h->idempotency_key[i] > 0x7E) {
            len = 0;
        }
    }
    if (h->n_idempotency_key > 1 || len == 0 || len > 255) {
        return dd_request_fail(request, DD_MALFORMED, "idempotency_key_malformed",
                               "Idempotency-Key must be 1 to 255 visible ASCII characters");
    }
    for (size_t i = 0; i < request->params.count; i++) {
        if (strcmp(request->params.items[i].name, "dry_run") == 0 && strchr("1t", request->params.items[i].value[0])) {
            return DD_OK; /* nothing to make safe */
        }
    }
    request->idempotency_hash = dd_strdup(""); /* wanted; computed when the body is there */
    return request->idempotency_hash != NULL ? DD_OK
                                             : dd_request_fail(request, DD_NO_MEMORY, "no_memory", "out of memory");
}

/* Everything that can be known before the body. Leaves the first failure in the request. */
static enum dd_status check_head(struct dd_request *request, bool *ret_has_body) {
    const struct dd_headers *h = &request->headers;
    int64_t length;
    *ret_has_body = h->transfer_encoding != NULL ||
                    (h->content_length != NULL && dd_text_int(h->content_length, &length) && length > 0);
    enum dd_status status = split_target(request);
    if (status == DD_OK) {
        status = dd_connection_check(request);
    }
    if (status == DD_OK && !dd_headers_whole(h)) {
        status = dd_request_fail(request, DD_NO_MEMORY, "out_of_memory", "out of memory");
    }
    if (status == DD_OK) {
        status = dd_guard_origin(request);
    }
    if (status == DD_OK) {
        status = dd_guard_token(request);
    }
    if (status != DD_OK || strcmp(request->method, "OPTIONS") == 0) {
        return status;
    }
    status = find_route(request);
    if (status == DD_OK && request->route != NULL) {
        status = dd_guard_scope(request);
    }
    if (status != DD_OK) {
        return status;
    }
    if (request->route == NULL) {
        request->wants_gzip = h->accept_encoding.len > 0 && dd_accept_gzip(h->accept_encoding.data);
        return DD_OK;
    }
    struct dd_error err = {0};
    status = dd_query_parse(request->query, request->route->query, request->route->flags, &request->params,
                            &request->problem.faults, &err);
    if (status != DD_OK) {
        return dd_request_fail(request, err.status, err.code, "%s", err.message);
    }
    for (size_t i = 0; i < request->params.count; i++) {
        if (strcmp(request->params.items[i].name, "pretty") == 0) {
            request->pretty = strchr("1t", request->params.items[i].value[0]) != NULL;
        }
    }
    status = negotiate(request);
    if (status == DD_OK) {
        status = check_idempotency_key(request);
    }
    if (status == DD_OK) {
        status = dd_guard_body(request, ret_has_body);
        request->failed = status != DD_OK;
    }
    return status;
}

/* Who changed something and who was turned away stands in the log; reading does not, unless everything is asked for. */
static void log_answer(const struct dd_request *request) {
    bool safe = strcmp(request->method, "GET") == 0 || request->head;
    bool refused = request->status == 401 || request->status == 403 || request->status == 421;
    enum dd_log_level level = request->status >= 500 ? DD_LOG_WARNING : safe && !refused ? DD_LOG_DEBUG : DD_LOG_INFO;
    char peer[DD_PEER_TEXT_BYTES];
    if (!dd_log_wants(level)) {
        return;
    }
    dd_peer_text(request, peer);
    dd_log(level, "http", "%s %s %.15s %.300s %d %.1f ms %s%.47s%s%s%s", request->id, peer, request->method,
           request->uri, request->status, (double)(dd_clock_mono_us() - request->started_us) / 1000,
           request->failed ? "" : "ok", request->failed ? request->problem.error.code : "",
           request->identity.known ? " token=" : "", request->identity.name,
           request->identity.expires_ms != 0 ? " session" : "");
}

static enum MHD_Result send_answer(struct dd_request *request) {
    struct dd_api *api = request->api;
    enum MHD_Result queued;
    if (request->response == NULL) {
        request->status = 503;
        request->response_bytes = 0;
        request->failed = true;
        (void)dd_fail(&request->problem.error, DD_NO_MEMORY, "out_of_memory", "no memory for an answer");
        queued = MHD_queue_response(request->connection, 503, api->no_memory);
    } else {
        queued = MHD_queue_response(request->connection, (unsigned)request->status, request->response);
        drop_response(request);
    }
    request->phase = DD_PHASE_SENT;
    api->requests++;
    api->bytes_sent += request->head ? 0 : request->response_bytes;
    api->responses_4xx += request->status >= 400 && request->status < 500;
    api->responses_5xx += request->status >= 500;
    bool page = request->status < 400 && strcmp(request->method, "OPTIONS") != 0;
    int64_t since_us = request->whole_us != 0 ? request->whole_us : request->started_us;
    dd_latency_add(api->latency, request->route, page, dd_clock_mono_us() - since_us);
    log_answer(request);
    return queued;
}

static enum MHD_Result on_headers(struct dd_request *request, const char *method) {
    size_t method_len = strnlen(method, sizeof request->method - 1);
    memcpy(request->method, method, method_len); /* the rest is zero */
    request->head = strcmp(request->method, "HEAD") == 0;
    dd_headers_read(request);
    bool has_body = false;
    bool failed = check_head(request, &has_body) != DD_OK;
    const struct dd_headers *h = &request->headers;
    int64_t length = 0;
    bool length_known = h->content_length != NULL && dd_text_int(h->content_length, &length);
    bool early = failed && has_body && strcmp(request->method, "POST") == 0 &&
                 (h->expect.len > 0 || (length_known && length > MAX_DRAIN_BYTES));
    early = early || (failed && !dd_headers_bounded(h)); /* else it would be waited for until the client gives up */
    request->phase = DD_PHASE_BODY;
    dd_buffer_init(&request->body, request->body_limit > SIZE_MAX ? SIZE_MAX : (size_t)request->body_limit);
    if (!early) {
        return MHD_YES;
    }
    dd_answer_problem(request);
    if (request->response != NULL) {
        (void)MHD_add_response_header(request->response, "Connection", "close");
    }
    return send_answer(request);
}

/* --- body --------------------------------------------------------------------------------------------------------- */

static enum MHD_Result on_body(struct dd_request *request, const char *bytes, size_t count) {
    request->body_bytes += count;
    int64_t elapsed_us = dd_clock_mono_us() - request->started_us;
    if (request->body_bytes > DD_MAX(request->body_limit, MAX_DRAIN_BYTES) ||
        (elapsed_us > SLOW_BODY_GRACE_US &&
         request->body_bytes < (uint64_t)(elapsed_us - SLOW_BODY_GRACE_US) / 1000000 * LEAST_BODY_RATE)) {
        return MHD_NO;
    }
    if (!request->failed && request->route != NULL && request->body_bytes > request->body_limit) {
        (void)dd_request_fail(request, DD_TOO_LARGE, "body_too_large", "the body is longer than %llu bytes",
                              (unsigned long long)request->body_limit);
    }
    if (request->failed || request->route == NULL) {
        return MHD_YES;
    }
    if (request->upload != NULL) {
        struct dd_error err = {0};
        if (dd_upload_feed(request->upload, bytes, count, &err) != DD_OK) {
            (void)dd_request_fail(request, err.status, err.code, "%s", err.message);
            dd_upload_free(request->upload); /* gives the space back before the rest is drained */
            request->upload = NULL;
        }
        return MHD_YES;
    }
    dd_buffer_append(&request->body, bytes, count);
    if (request->body.failed) {
        (void)dd_request_fail(request, DD_NO_MEMORY, "no_memory", "out of memory");
    }
    return MHD_YES;
}

static bool is_blank(const struct dd_buffer *body) {
    return strspn(body->data, " \t\r\n") == body->len;
}

static enum dd_status parse_json(struct dd_request *request) {
    const struct dd_route *route = request->route;
    bool taken = route->flags & DD_ROUTE_JSON;
    if (route->method == DD_GET || route->method == DD_DELETE ||
        (is_blank(&request->body) && (!taken || (route->flags & DD_ROUTE_BODY_OPTIONAL)))) {
        return DD_OK;
    }
    struct dd_error err = {0};
    if (dd_strict_json_parse(request->body.data, request->body.len, &request->json, &err) != DD_OK) {
        return dd_request_fail(request, err.status, err.code, "%s", err.message);
    }
    if (!cJSON_IsObject(request->json)) {
        return dd_request_fail(request, DD_INVALID, "body_not_object", "the body must be a JSON object");
    }
    if (route->method == DD_PATCH && dd_body_nulls_to_empty(route->body, request->json, &err) != DD_OK) {
        return dd_request_fail(request, err.status, err.code, "%s", err.message);
    }
    if (!taken || route->body != NULL) {
        dd_body_check(route->body, request->json, &request->problem.faults);
    }
    return DD_OK;
}

static enum dd_status finish_body(struct dd_request *request) {
    if (request->upload != NULL) {
        struct dd_error err = {0};
        if (dd_upload_finish(request->upload, &request->problem.faults, &err) != DD_OK) {
            return dd_request_fail(request, err.status, err.code, "%s", err.message);
        }
    } else if (parse_json(request) != DD_OK) {
        return DD_INVALID;
    }
    const struct dd_faults *faults = &request->problem.faults;
    if (faults->total > 0) {
        return dd_request_fail(request, DD_INVALID, "request_invalid", "%zu field%s not as it must be: %.64s %.300s",
                               faults->total, faults->total == 1 ? " is" : "s are", faults->items[0].pointer,
                               faults->items[0].detail);
    }
    return DD_OK;
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static enum dd_status fill_call(struct dd_request *request, struct dd_api_call *call) {
    *call = (struct dd_api_call){
        .method = dd_method_name(request->route->method),
        .path = request->path,
        .id = request->captures.id,
        .name = request->captures.name[0] != '\0' ? request->captures.name : NULL,
        .epoch = request->captures.epoch[0] != '\0' ? request->captures.epoch : NULL,
        .body = request->json,
        .accept = request->accept,
        .cancel = &request->cancel,
        .params = request->params.items,
        .n_params = request->params.count,
        .idempotency_key = request->idempotency_claimed ? request->headers.idempotency_key : NULL,
        .idempotency_hash = request->idempotency_claimed ? request->idempotency_hash : NULL,
    };
    if (request->upload != NULL) {
        size_t n_fields;
        const struct dd_api_param *fields = dd_upload_fields(request->upload, &n_fields);
        call->files = dd_upload_files(request->upload, &call->n_files);
        request->all_params = dd_calloc(call->n_params + n_fields + 1, sizeof *request->all_params);
        if (request->all_params == NULL) {
            return dd_request_fail(request, DD_NO_MEMORY, "no_memory", "out of memory");
        }
        memcpy(request->all_params, request->params.items, call->n_params * sizeof *request->all_params);
        memcpy(request->all_params + call->n_params, fields, n_fields * sizeof *request->all_params);
        call->params = request->all_params;
        call->n_params += n_fields;
    }
    return DD_OK;
}

static void result_release(struct dd_api_result *result) {
    cJSON_Delete(result->json);
    dd_buffer_release(&result->text);
    dd_close_fd(&result->fd);
}

/* Runs the operation; false: the problem is noted. */
static bool run_op(struct dd_request *request, struct dd_api_result *result) {
    struct dd_api_call call;
    if (fill_call(request, &call) != DD_OK) {
        return false;
    }
    struct dd_api *api = request->api;
    enum dd_status status = dd_route_op(request->route, &api->ops)(api->ops.daemon, &call, result, &request->problem);
    if (status == DD_OK) {
        return true;
    }
    request->failed = true;
    request->problem.error.status = status;
    if (status == DD_STOPPED && api->stopping) {
        (void)dd_fail(&request->problem.error, DD_BUSY, "stopping", "the server is stopping");
    }
    return false;
}

void dd_request_run(struct dd_request *request) {
    struct dd_api_result result = {.fd = -1};
    dd_buffer_init(&result.text, (size_t)256 << 20);
    if (dd_cancel_requested(&request->cancel) == DD_STOP_SHUTDOWN) {
        (void)dd_request_fail(request, DD_BUSY, "stopping", "the request was given up before it began");
    } else {
        switch (dd_idempotent_enter(request)) {
        case DD_IDEMPOTENT_RUN:
            if (run_op(request, &result)) {
                dd_answer_result(request, &result);
            }
            break;
        case DD_IDEMPOTENT_ANSWERED:
        case DD_IDEMPOTENT_FAILED:
            break;
        }
    }
    if (request->failed && request->response == NULL) {
        dd_answer_problem(request);
    }
    dd_idempotent_leave(request);
    result_release(&result);
}

static void run_events(struct dd_request *request) {
    if (dd_route_op(request->route, &request->api->ops) != NULL) { /* 404 where the experiment is not */
        struct dd_api_result result = {.fd = -1};
        dd_buffer_init(&result.text, 1u << 20);
        bool found = run_op(request, &result);
        result_release(&result);
        if (!found) {
            dd_answer_problem(request);
            return;
        }
    }
    if (request->head) {
        dd_answer_text(request, 200, request->accept, "", 0, NULL);
        return;
    }
    const char *last = request->headers.last_event_id;
    struct dd_events_filter filter = {0};
    for (size_t i = 0; i < request->params.count; i++) {
        const struct dd_api_param *param = &request->params.items[i];
        if (last == NULL && strcmp(param->name, "last_event_id") == 0) {
            last = param->value;
        } else if (strcmp(param->name, "types") == 0) {
            filter.types = dd_events_types(param->value);
        } else if (strcmp(param->name, "step_every") == 0) {
            (void)dd_text_int(param->value, &filter.step_every_us);
            filter.step_every_us *= 1000000;
        } else if (strcmp(param->name, "steps_of") == 0) {
            (void)dd_text_int(param->value, &filter.steps_of);
        }
    }
    dd_events_answer(request->api->events, request, request->captures.id, &filter, last);
}

static bool wants_thread(const struct dd_request *request) {
    unsigned flags = request->route->flags;
    bool dry_run = false;
    for (size_t i = 0; i < request->params.count; i++) {
        dry_run |= strcmp(request->params.items[i].name, "dry_run") == 0 &&
                   strchr("1t", request->params.items[i].value[0]) != NULL;
    }
    return (flags & (DD_ROUTE_SLOW | DD_ROUTE_HEAVY)) != 0 || ((flags & DD_ROUTE_SLOW_DRY_RUN) && dry_run);
}

/* openapi.json, made when first asked for; NULL: there is no memory. */
static const char *openapi(struct dd_api *api, bool pretty) {
    char **text = pretty ? &api->openapi_pretty : &api->openapi;
    if (*text == NULL) {
        cJSON *document = dd_api_openapi(&api->ops);
        *text = document == NULL ? NULL : pretty ? cJSON_Print(document) : cJSON_PrintUnformatted(document);
        cJSON_Delete(document);
    }
    return *text;
}

static void run_here(struct dd_request *request) {
    static const char alive[] = "{\"status\":\"ok\"}";
    switch (request->route->builtin) {
    case DD_BUILTIN_HEALTH:
        dd_answer_text(request, 200, "application/json", alive, sizeof alive - 1, NULL);
        break;
    case DD_BUILTIN_OPENAPI: {
        const char *text = openapi(request->api, request->pretty);
        if (text != NULL) {
            dd_answer_text(request, 200, "application/json", text, strlen(text), NULL);
        }
        break;
    }
    case DD_BUILTIN_EVENTS:
        run_events(request);
        break;
    case DD_BUILTIN_SESSION:
        dd_session_run(request);
        break;
    case DD_BUILTIN_NONE:
        dd_request_run(request);
        break;
    }
}

static unsigned methods_at(const struct dd_request *request) {
    struct dd_captures captures;
    unsigned allow;
    (void)dd_route_find(&request->api->ops, "", request->path, &captures, &allow);
    return allow == 0 ? DD_GET : allow;
}

static bool answer_again(struct dd_request *request) {
    dd_cache_stamp(request);
    struct dd_kept *kept = dd_cache_find(request->api->cache, request);
    if (kept != NULL) {
        dd_answer_again(request, kept);
        dd_kept_unref(kept);
    }
    return request->response != NULL;
}

/* The whole request is here.  Makes the answer, or parks the request. */
static enum MHD_Result on_complete(struct dd_request *request) {
    request->counted = true;
    request->whole_us = dd_clock_mono_us() - (request->body_bytes == 0 ? request->paused_us : 0);
    request->api->answering++;
    if (!request->failed && strcmp(request->method, "OPTIONS") == 0) {
        dd_answer_options(request, methods_at(request));
    } else if (!request->failed && request->route == NULL) {
        if (!dd_answer_page(request) && request->response == NULL) {
            (void)dd_request_fail(request, DD_NOT_FOUND, "not_found", "there is nothing at this path");
        }
    } else if (!request->failed && finish_body(request) == DD_OK) {
        if (answer_again(request)) {
            return send_answer(request);
        }
        if (!wants_thread(request)) {
            run_here(request);
        } else {
            request->job_heavy = request->route->flags & DD_ROUTE_HEAVY;
            if (dd_jobs_park(request->api->jobs, request, &request->problem.error) == DD_OK) {
                return MHD_YES;
            }
            request->failed = true;
            request->problem.retry_after_s = 2;
        }
    }
    if (request->failed && request->response == NULL) {
        dd_answer_problem(request);
    }
    return send_answer(request);
}

enum MHD_Result dd_request_handle(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *upload_data, size_t *upload_data_size, void **slot) {
    struct dd_api *api = context;
    (void)url;
    (void)version;
    struct dd_request *request = *slot;
    if (request == NULL) { /* out of memory in begin */
        *slot = &no_request;
        return MHD_YES;
    }
    if (request == &no_request) {
        if (*upload_data_size > 0) {
            *upload_data_size = 0;
            return MHD_YES;
        }
        api->responses_5xx++;
        return MHD_queue_response(connection, 503, api->no_memory);
    }
    switch (request->phase) {
    case DD_PHASE_NEW:
        return on_headers(request, method);
    case DD_PHASE_BODY:
        if (*upload_data_size > 0) {
            size_t count = *upload_data_size;
            *upload_data_size = 0;
            return on_body(request, upload_data, count);
        }
        return on_complete(request);
    case DD_PHASE_READY:
        return send_answer(request);
    case DD_PHASE_PARKED:
    case DD_PHASE_SENT:
        break;
    }
    return MHD_YES;
}
