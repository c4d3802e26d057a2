/* Start and stop of the HTTP side: the listening socket, libmicrohttpd, request threads, the timer.
 *
 * Threads: libmicrohttpd's one (epoll), `request_threads` (jobs.c), one timer (heartbeats, held-back steps, gone
 * clients).  Stop order: accept no more → end event streams → drain and join request threads → let what is being sent
 * go out → stop libmicrohttpd, which must not find a suspended connection → timer.
 */
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api/internal.h"

#define CONNECTION_MEMORY_BYTES (32u << 10) /* request line, headers and buffers of one connection */
#define REFUSALS 64                         /* connections over the limit that are told so at a time (connections.c) */
#define LISTEN_BACKLOG 4096 /* a burst of as many as may connect must not be left to retry, a second later */

/* --- configuration ------------------------------------------------------------------------------------------------ */

/* "127.0.0.1:8080", "[::1]:8080", "host:80" → host without brackets, port. */
static enum dd_status parse_listen(struct dd_api *api, const char *listen, char *port, size_t port_bytes,
                                   struct dd_error *err) {
    const char *colon = strrchr(listen, ':');
    const char *host = listen;
    size_t n = colon == NULL ? 0 : (size_t)(colon - listen);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    } else if (n > 0 && memchr(host, ':', n) != NULL) {
        n = 0; /* an IPv6 address without brackets */
    }
    int64_t number;
    if (n == 0 || n >= sizeof api->listen_host || !dd_text_int(colon + 1, &number) || number < 0 || number > 65535) {
        return dd_fail(err, DD_INVALID, "listen_invalid",
                       "cannot listen on \"%.80s\": write ADDRESS:PORT, for instance 127.0.0.1:8080 or [::1]:8080",
                       listen);
    }
    memcpy(api->listen_host, host, n);
    api->listen_host[n] = '\0';
    snprintf(port, port_bytes, "%d", (int)number);
    return DD_OK;
}

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET) {
        return (ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24) == 127;
    }
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static enum dd_status open_socket(struct dd_api *api, struct dd_error *err) {
    char port[8];
    enum dd_status status = parse_listen(api, api->config.listen, port, sizeof port, err);
    if (status != DD_OK) {
        return status;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    int failed = getaddrinfo(api->listen_host, port, &hints, &found);
    if (failed != 0) {
        return dd_fail(err, DD_INVALID, "listen_invalid", "cannot listen on %.80s: %s", api->config.listen,
                       gai_strerror(failed));
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
        status = dd_fail_errno(err, errno, "cannot listen on %.80s", api->config.listen);
    }
    api->listen_loopback = is_loopback(found->ai_addr);
    freeaddrinfo(found);
    union dd_address own = {.room = {0}};
    socklen_t len = sizeof own;
    if (status == DD_OK && getsockname(fd, &own.any, &len) == 0) {
        api->port = ntohs(own.any.sa_family == AF_INET ? own.v4.sin_port : own.v6.sin6_port);
    }
    if (status != DD_OK) {
        dd_close_fd(&fd);
        return status;
    }
    api->listen_fd = fd;
    return DD_OK;
}

static enum dd_status copy_config(struct dd_api *api, const struct dd_api_config *config, struct dd_error *err) {
    struct dd_api_config *own = &api->config;
    *own = *config;
    own->listen = dd_strdup(config->listen);
    own->upload_dir = dd_strdup(config->upload_dir);
    own->tls_cert = own->tls_key = NULL;
    own->hosts = NULL;
    own->max_json_bytes = config->max_json_bytes != 0 ? config->max_json_bytes : (size_t)1 << 20;
    own->max_upload_bytes = config->max_upload_bytes != 0 ? config->max_upload_bytes : (uint64_t)4 << 30;
    own->max_connections = config->max_connections != 0 ? config->max_connections : 2000;
    own->idle_seconds = config->idle_seconds != 0 ? config->idle_seconds : 60;
    own->max_event_readers = config->max_event_readers != 0 ? config->max_event_readers : 256;
    own->request_threads = config->request_threads != 0 ? config->request_threads : 4;
    size_t count = 0;
    while (config->hosts != NULL && config->hosts[count] != NULL) {
        count++;
    }
    api->hosts = dd_calloc(count + 1, sizeof *api->hosts);
    bool whole = own->listen != NULL && own->upload_dir != NULL && api->hosts != NULL;
    for (size_t i = 0; i < count && whole; i++) {
        api->hosts[i] = dd_strdup(config->hosts[i]);
        whole = api->hosts[i] != NULL;
    }
    if (!whole) {
        return dd_fail_memory(err, sizeof *api);
    }
    return DD_OK;
}

static enum dd_status start_tls(struct dd_api *api, const struct dd_api_config *config, struct dd_error *err) {
    if (config->tls_cert == NULL && config->tls_key == NULL) {
        return DD_OK;
    }
    if (config->tls_cert == NULL || config->tls_key == NULL) {
        return dd_fail(err, DD_INVALID, "tls_incomplete", "TLS needs a certificate and a key");
    }
    return dd_tls_new(config->tls_cert, config->tls_key, &api->tls, err);
}

/* What an earlier process left behind. */
static enum dd_status empty_upload_dir(const char *path, struct dd_error *err) {
    enum dd_status status = dd_dir_make(path, err);
    DIR *dir = status == DD_OK ? opendir(path) : NULL;
    if (status == DD_OK && dir == NULL) {
        status = dd_fail_errno(err, errno, "cannot open %s", path);
    }
    for (struct dirent *entry; status == DD_OK && (entry = readdir(dir)) != NULL;) {
        char full[4096];
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            status = dd_path_join(full, sizeof full, err, path, entry->d_name, (char *)NULL);
            status = status == DD_OK ? dd_tree_remove(full, err) : status;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return status;
}

/* --- timer -------------------------------------------------------------------------------------------------------- */

static void *timer_thread(void *context) {
    struct dd_api *api = context;
    pthread_setname_np(pthread_self(), "timer");
    pthread_mutex_lock(&api->timer_lock);
    while (!api->timer_stop) {
        pthread_mutex_unlock(&api->timer_lock);
        int64_t next_us = dd_events_tick(api->events, dd_clock_mono_us());
        dd_jobs_tick(api->jobs);
        if (dd_access_tick(api->access, dd_clock_wall_ms())) {
            dd_events_end_all(api->events);
        }
        pthread_mutex_lock(&api->timer_lock);
        int64_t wait_us = DD_MAX(next_us - dd_clock_mono_us(), 1000);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        wait_us += until.tv_nsec / 1000;
        until.tv_sec += (time_t)(wait_us / 1000000);
        until.tv_nsec = (long)(wait_us % 1000000) * 1000;
        if (!api->timer_stop && !api->timer_kicked) {
            (void)pthread_cond_timedwait(&api->timer_wake, &api->timer_lock, &until);
        }
        api->timer_kicked = false;
    }
    pthread_mutex_unlock(&api->timer_lock);
    return NULL;
}

static void timer_kick(struct dd_api *api, bool stop) {
    pthread_mutex_lock(&api->timer_lock);
    api->timer_kicked = true;
    api->timer_stop |= stop;
    pthread_cond_signal(&api->timer_wake);
    pthread_mutex_unlock(&api->timer_lock);
}

void dd_api_publish(struct dd_api *api, const char *type, int64_t experiment_id, const char *data) {
    if (dd_events_publish(api->events, type, experiment_id, data)) {
        timer_kick(api, false);
    }
}

/* --- libmicrohttpd ------------------------------------------------------------------------------------------------ */

static void log_mhd(void *context, const char *fmt, va_list args) DD_PRINTF(2, 0);
static void log_mhd(void *context, const char *fmt, va_list args) {
    (void)context;
    char text[512];
    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\n")] = '\0';
    dd_log(DD_LOG_DEBUG, "http", "%s", text);
}

/* Names are decoded by us, from the raw target: libmicrohttpd would decode a slash before the path is split. */
static size_t keep_escapes(void *context, struct MHD_Connection *connection, char *text) {
    (void)context;
    (void)connection;
    return strlen(text);
}

static enum dd_status start_mhd(struct dd_api *api, struct dd_error *err) {
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    flags |= strchr(api->listen_host, ':') != NULL ? MHD_USE_IPv6 : 0;
    flags |= api->tls != NULL ? MHD_USE_TLS : 0;
    unsigned most = (unsigned)api->config.max_connections + REFUSALS;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    gnutls_certificate_retrieve_function2 *retrieve = dd_tls_retrieve;
    memcpy(&tls[0].ptr_value, &retrieve, sizeof retrieve); /* C has no cast from a function to void * */
    struct MHD_OptionItem no_tls[] = {{MHD_OPTION_END, 0, NULL}};
    api->mhd = MHD_start_daemon(
        flags, 0, NULL, NULL, dd_request_handle, api, MHD_OPTION_EXTERNAL_LOGGER, log_mhd, NULL,
        MHD_OPTION_LISTEN_SOCKET, api->listen_fd, MHD_OPTION_CONNECTION_LIMIT, most, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)api->config.idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES,
        MHD_OPTION_URI_LOG_CALLBACK, dd_request_begin, api, MHD_OPTION_NOTIFY_COMPLETED, dd_request_completed, api,
        MHD_OPTION_NOTIFY_CONNECTION, dd_connection_notify, api, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
        MHD_OPTION_ARRAY, api->tls != NULL ? tls : no_tls, MHD_OPTION_END);
    if (api->mhd == NULL) {
        return dd_fail(err, DD_IO, "http_start_failed", "the HTTP server cannot start");
    }
    return DD_OK;
}

/* What is made once: the answer when memory is out, room for the histograms and for answers. */
static enum dd_status make_once(struct dd_api *api, struct dd_error *err) {
    api->no_memory = dd_answer_no_memory();
    api->latency = dd_latency_new();
    api->cache = dd_cache_new();
    bool whole = api->no_memory != NULL && api->latency != NULL && api->cache != NULL;
    return whole ? DD_OK : dd_fail_memory(err, 1u << 20);
}

static void free_api(struct dd_api *api) {
    dd_jobs_free(api->jobs);
    dd_events_free(api->events);
    dd_access_free(api->access);
    dd_latency_free(api->latency);
    dd_cache_free(api->cache);
    dd_requests_free_spare(api);
    dd_close_fd(&api->listen_fd);
    for (char **host = api->hosts; host != NULL && *host != NULL; host++) {
        free(*host);
    }
    free(api->hosts);
    dd_free_ptr(&api->config.listen);
    dd_free_ptr(&api->config.upload_dir);
    dd_tls_free(api->tls);
    if (api->no_memory != NULL) {
        MHD_destroy_response(api->no_memory);
    }
    free(api->openapi);
    free(api->openapi_pretty);
    pthread_mutex_destroy(&api->claims_lock);
    pthread_mutex_destroy(&api->timer_lock);
    pthread_cond_destroy(&api->timer_wake);
    free(api);
}

static enum dd_status start_timer(struct dd_api *api, struct dd_error *err) {
    int failed = pthread_create(&api->timer, NULL, timer_thread, api);
    api->timer_started = failed == 0;
    return failed == 0 ? DD_OK : dd_fail_errno(err, failed, "cannot start the timer thread");
}

enum dd_status dd_api_start(const struct dd_api_config *config, const struct dd_api_ops *ops, struct dd_api **ret_api,
                            struct dd_error *err) {
    struct dd_api *api = dd_calloc(1, sizeof *api);
    if (api == NULL) {
        return dd_fail_memory(err, sizeof *api);
    }
    api->ops = *ops;
    api->listen_fd = -1;
    pthread_mutex_init(&api->claims_lock, NULL);
    pthread_mutex_init(&api->timer_lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&api->timer_wake, &clock);
    pthread_condattr_destroy(&clock);
    uint8_t boot[4];
    enum dd_status status = dd_random_bytes(boot, sizeof boot, err);
    dd_hex(boot, sizeof boot, api->boot);
    status = status == DD_OK ? copy_config(api, config, err) : status;
    status = status == DD_OK ? start_tls(api, config, err) : status;
    status = status == DD_OK ? empty_upload_dir(config->upload_dir, err) : status;
    status = status == DD_OK ? make_once(api, err) : status;
    status = status == DD_OK ? open_socket(api, err) : status;
    status = status == DD_OK ? dd_access_new(&api->ops, &api->access, err) : status;
    status = status == DD_OK ? dd_events_new(api->boot, api->config.max_event_readers, &api->events, err) : status;
    status = status == DD_OK ? dd_jobs_new(api->config.request_threads, &api->jobs, err) : status;
    status = status == DD_OK ? start_timer(api, err) : status;
    status = status == DD_OK ? start_mhd(api, err) : status;
    if (status != DD_OK) {
        dd_api_stop(api, 0);
        return status;
    }
    *ret_api = api;
    return DD_OK;
}

enum dd_status dd_api_reload_tls(struct dd_api *api, struct dd_error *err) {
    return api->tls != NULL ? dd_tls_load(api->tls, err) : DD_OK;
}

void dd_api_address(const struct dd_api *api, char *out, size_t out_bytes) {
    bool v6 = strchr(api->listen_host, ':') != NULL;
    snprintf(out, out_bytes, "%s://%s%s%s:%u", api->tls != NULL ? "https" : "http", v6 ? "[" : "", api->listen_host,
             v6 ? "]" : "", api->port);
}

void dd_api_get_stats(const struct dd_api *api, struct dd_api_stats *ret_stats) {
    *ret_stats = (struct dd_api_stats){
        .requests = api->requests,
        .responses_4xx = api->responses_4xx,
        .responses_5xx = api->responses_5xx,
        .connections = api->connections,
        .event_readers = dd_events_readers(api->events),
        .requests_waiting = dd_jobs_waiting(api->jobs),
        .bytes_sent = api->bytes_sent + dd_events_bytes_sent(api->events),
    };
}

/* Waits until what is being sent has gone out, or the time is over. */
static void drain_answers(const struct dd_api *api, int64_t until_us) {
    while (api->answering > 0 && dd_clock_mono_us() < until_us) {
        struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
    }
}

void dd_api_stop(struct dd_api *api, int drain_ms) {
    if (api == NULL) {
        return;
    }
    int64_t until_us = dd_clock_mono_us() + (int64_t)drain_ms * 1000;
    api->stopping = true;
    if (api->mhd != NULL) {
        (void)MHD_quiesce_daemon(api->mhd); /* gives the listening socket back to us; free_api closes it */
    }
    if (api->events != NULL) {
        dd_events_stop(api->events);
    }
    if (api->jobs != NULL) {
        dd_jobs_stop(api->jobs, drain_ms);
    }
    if (api->mhd != NULL) {
        drain_answers(api, DD_MAX(until_us, dd_clock_mono_us() + 1000000)); /* what was cancelled gets its answer too */
        MHD_stop_daemon(api->mhd);
    }
    if (api->timer_started) {
        timer_kick(api, true);
        pthread_join(api->timer, NULL);
    }
    free_api(api);
}
