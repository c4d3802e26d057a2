/* The command line's side of the REST interface, on libcurl.
 * Threads: main only.
 *
 * libcurl is opened when a client command runs, not linked: the daemon is the same binary, and libcurl with the forty
 * libraries behind it would cost it 3 MB of memory and 9 ms at each start (measured) for nothing.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "daemon/command.h"

#define MAX_ANSWER_BYTES ((size_t)64 << 20)
#define MAX_EVENT_BYTES ((size_t)4 << 20)

struct dd_client {
    CURL *handle;
    char url[1024]; /* without a slash at its end */
    struct curl_slist *headers;
};

#undef curl_easy_setopt /* macros that check types; here they would hide the functions */
#undef curl_easy_getinfo
static struct {
    void *library;
    __typeof__(curl_global_init) *global_init;
    __typeof__(curl_global_cleanup) *global_cleanup;
    __typeof__(curl_easy_init) *easy_init;
    __typeof__(curl_easy_cleanup) *easy_cleanup;
    __typeof__(curl_easy_reset) *easy_reset;
    __typeof__(curl_easy_setopt) *easy_setopt;
    __typeof__(curl_easy_perform) *easy_perform;
    __typeof__(curl_easy_getinfo) *easy_getinfo;
    __typeof__(curl_easy_strerror) *easy_strerror;
    __typeof__(curl_easy_escape) *easy_escape;
    __typeof__(curl_free) *free;
    __typeof__(curl_slist_append) *slist_append;
    __typeof__(curl_slist_free_all) *slist_free_all;
} curl;

static enum dd_status load_curl(struct dd_error *err) {
    static const char *const names[] = {"libcurl-gnutls.so.4", "libcurl.so.4"};
    const struct {
        const char *name;
        void *function; /* address of the pointer */
    } symbols[] = {
        {"curl_global_init", &curl.global_init},
        {"curl_global_cleanup", &curl.global_cleanup},
        {"curl_easy_init", &curl.easy_init},
        {"curl_easy_cleanup", &curl.easy_cleanup},
        {"curl_easy_reset", &curl.easy_reset},
        {"curl_easy_setopt", &curl.easy_setopt},
        {"curl_easy_perform", &curl.easy_perform},
        {"curl_easy_getinfo", &curl.easy_getinfo},
        {"curl_easy_strerror", &curl.easy_strerror},
        {"curl_easy_escape", &curl.easy_escape},
        {"curl_free", &curl.free},
        {"curl_slist_append", &curl.slist_append},
        {"curl_slist_free_all", &curl.slist_free_all},
    };
    for (size_t i = 0; curl.library == NULL && i < DD_ARRAY_LEN(names); i++)
        curl.library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (curl.library == NULL)
        return dd_fail(err, DD_UNSUPPORTED, "curl_missing",
                       "the commands that talk to a daemon need libcurl: apt-get install libcurl3-gnutls");
    for (size_t i = 0; i < DD_ARRAY_LEN(symbols); i++) {
        void *address = dlsym(curl.library, symbols[i].name);
        if (address == NULL)
            return dd_fail(err, DD_UNSUPPORTED, "curl_missing", "libcurl has no %s: it is too old", symbols[i].name);
        memcpy(symbols[i].function, &address, sizeof address);
    }
    return DD_OK;
}

static enum dd_status read_token(const char *path, char *out, size_t out_bytes, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t length;
    enum dd_status status = dd_file_read(path, 4096, &text, &length, err);
    if (status != DD_OK)
        return dd_error_prefix(err, "the token file");
    snprintf(out, out_bytes, "%.*s", (int)strcspn(text, "\r\n"), text);
    return DD_OK;
}

enum dd_status dd_client_open(const struct dd_options *options, struct dd_client **ret_client, struct dd_error *err) {
    char token[1024] = "", header[1100];
    enum dd_status status = DD_OK;
    if (options->token_file != NULL)
        status = read_token(options->token_file, token, sizeof token, err);
    else if (getenv("DISTILLD_TOKEN") != NULL)
        snprintf(token, sizeof token, "%s", getenv("DISTILLD_TOKEN"));
    if (status != DD_OK)
        return status;
    status = load_curl(err);
    if (status != DD_OK)
        return status;
    curl.global_init(CURL_GLOBAL_DEFAULT);
    struct dd_client *client = dd_calloc(1, sizeof *client);
    if (client == NULL || (client->handle = curl.easy_init()) == NULL) {
        free(client);
        return dd_fail_memory(err, sizeof *client);
    }
    snprintf(client->url, sizeof client->url, "%s", options->url != NULL ? options->url : "http://127.0.0.1:8080");
    while (client->url[0] != '\0' && client->url[strlen(client->url) - 1] == '/')
        client->url[strlen(client->url) - 1] = '\0';
    client->headers = curl.slist_append(client->headers, "Content-Type: application/json");
    if (token[0] != '\0') {
        snprintf(header, sizeof header, "Authorization: Bearer %s", token);
        client->headers = curl.slist_append(client->headers, header);
    }
    *ret_client = client;
    return DD_OK;
}

void dd_client_close(struct dd_client *client) {
    if (client == NULL)
        return;
    curl.slist_free_all(client->headers);
    curl.easy_cleanup(client->handle);
    free(client);
    curl.global_cleanup();
}

void dd_client_url_encode(struct dd_client *client, const char *text, struct dd_buffer *out) {
    char *encoded = curl.easy_escape(client->handle, text, 0);
    dd_buffer_puts(out, encoded != NULL ? encoded : "");
    curl.free(encoded);
}

static size_t collect(char *bytes, size_t size, size_t count, void *context) {
    struct dd_buffer *buffer = context;
    dd_buffer_append(buffer, bytes, size * count);
    return buffer->failed ? 0 : size * count;
}

static void prepare(struct dd_client *client, const char *path, char *url, size_t url_bytes) {
    snprintf(url, url_bytes, "%s/api/v1%s", client->url, path);
    curl.easy_reset(client->handle);
    curl.easy_setopt(client->handle, CURLOPT_URL, url);
    curl.easy_setopt(client->handle, CURLOPT_HTTPHEADER, client->headers);
    curl.easy_setopt(client->handle, CURLOPT_CONNECTTIMEOUT, 10L);
    curl.easy_setopt(client->handle, CURLOPT_NOSIGNAL, 1L);
    curl.easy_setopt(client->handle, CURLOPT_PROTOCOLS_STR, "http,https");
    curl.easy_setopt(client->handle, CURLOPT_USERAGENT, "distilld/" DD_VERSION);
}

static enum dd_status fail_transfer(const struct dd_client *client, CURLcode code, struct dd_error *err) {
    return dd_fail(err, DD_BUSY, "unreachable", "no answer from %s: %s; is the daemon running (distilld serve)?",
                   client->url, curl.easy_strerror(code));
}

/* The status of our own table for an HTTP status. */
static enum dd_status status_of(long http) {
    for (int i = 1; i < DD_STATUS_COUNT; i++)
        if (dd_status_http((enum dd_status)i) == http)
            return (enum dd_status)i;
    return http >= 500 ? DD_INTERNAL : DD_INVALID;
}

static enum dd_status fail_problem(long http, const cJSON *problem, struct dd_error *err) {
    const char *detail = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(problem, "detail"));
    const char *code = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(problem, "code"));
    const cJSON *fault, *faults = cJSON_GetObjectItemCaseSensitive(problem, "errors");
    cJSON_ArrayForEach(fault, faults) {
        const char *pointer = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(fault, "pointer"));
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(fault, "detail"));
        fprintf(stderr, "  %s: %s\n", pointer != NULL ? pointer : "", text != NULL ? text : "");
    }
    return dd_fail(err, status_of(http), code != NULL ? code : "http", "%s (HTTP %ld)",
                   detail != NULL ? detail : "the daemon refused", http);
}

enum dd_status dd_client_call(struct dd_client *client, const char *method, const char *path, const char *body,
                              cJSON **ret_json, struct dd_error *err) {
    char url[2048];
    struct dd_buffer answer;
    dd_buffer_init(&answer, MAX_ANSWER_BYTES);
    prepare(client, path, url, sizeof url);
    curl.easy_setopt(client->handle, CURLOPT_CUSTOMREQUEST, method);
    curl.easy_setopt(client->handle, CURLOPT_WRITEFUNCTION, collect);
    curl.easy_setopt(client->handle, CURLOPT_WRITEDATA, &answer);
    if (body != NULL)
        curl.easy_setopt(client->handle, CURLOPT_POSTFIELDS, body);
    CURLcode code = curl.easy_perform(client->handle);
    long http = 0;
    curl.easy_getinfo(client->handle, CURLINFO_RESPONSE_CODE, &http);
    enum dd_status status = code != CURLE_OK ? fail_transfer(client, code, err) : DD_OK;
    cJSON *json = status == DD_OK ? cJSON_Parse(answer.data) : NULL;
    if (status == DD_OK && (http < 200 || http > 299))
        status = fail_problem(http, json, err);
    else if (status == DD_OK && json == NULL)
        status = dd_fail(err, DD_IO, "not_distilld", "%s does not answer as a distilld daemon does", client->url);
    dd_buffer_release(&answer);
    if (status != DD_OK)
        cJSON_Delete(json);
    else
        *ret_json = json;
    return status;
}

/* --- events ----------------------------------------------------------------------------------------------------------
 */

struct reader {
    bool (*on_event)(void *context, const char *type, const cJSON *data);
    void *context;
    struct dd_buffer line, data;
    char type[32];
    bool done;
};

static void end_event(struct reader *r) {
    cJSON *data = r->data.len > 0 ? cJSON_Parse(r->data.data) : NULL;
    if (data != NULL && !r->on_event(r->context, r->type[0] != '\0' ? r->type : "message", data))
        r->done = true;
    cJSON_Delete(data);
    dd_buffer_clear(&r->data);
    r->type[0] = '\0';
}

static void end_line(struct reader *r) {
    const char *line = r->line.data;
    if (line[0] == '\0')
        end_event(r);
    else if (strncmp(line, "event:", 6) == 0)
        snprintf(r->type, sizeof r->type, "%s", line + 6 + (line[6] == ' '));
    else if (strncmp(line, "data:", 5) == 0)
        dd_buffer_puts(&r->data, line + 5 + (line[5] == ' '));
    dd_buffer_clear(&r->line);
}

static size_t read_events(char *bytes, size_t size, size_t count, void *context) {
    struct reader *r = context;
    for (size_t i = 0; i < size * count && !r->done; i++) {
        if (bytes[i] == '\n')
            end_line(r);
        else if (bytes[i] != '\r')
            dd_buffer_putc(&r->line, bytes[i]);
    }
    return r->done || r->line.failed || r->data.failed ? 0 : size * count;
}

enum dd_status dd_client_events(struct dd_client *client, const char *path,
                                bool (*on_event)(void *context, const char *type, const cJSON *data), void *context,
                                struct dd_error *err) {
    char url[2048];
    struct reader r = {.on_event = on_event, .context = context};
    dd_buffer_init(&r.line, MAX_EVENT_BYTES);
    dd_buffer_init(&r.data, MAX_EVENT_BYTES);
    prepare(client, path, url, sizeof url);
    curl.easy_setopt(client->handle, CURLOPT_WRITEFUNCTION, read_events);
    curl.easy_setopt(client->handle, CURLOPT_WRITEDATA, &r);
    curl.easy_setopt(client->handle, CURLOPT_FAILONERROR, 1L);
    /* The server sends a comment every 15 s: a line that is silent for a minute is dead. */
    curl.easy_setopt(client->handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl.easy_setopt(client->handle, CURLOPT_LOW_SPEED_TIME, 60L);
    CURLcode code = curl.easy_perform(client->handle);
    bool done = r.done;
    dd_buffer_release(&r.line);
    dd_buffer_release(&r.data);
    return done || code == CURLE_OK ? DD_OK : fail_transfer(client, code, err);
}
