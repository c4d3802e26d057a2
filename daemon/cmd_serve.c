/* distilld serve: start in order, wait for signals, stop in the reverse order.
 *
 * Start: options → data directory → storage (locks it) → recovery → pool → HTTP → workers → READY.
 * Stop: no new work, jobs are asked to checkpoint, HTTP drains, threads end, storage is closed.  A second SIGTERM or
 * SIGINT, or five seconds, end it at once: what was training goes on from its last checkpoint, as after a crash.
 *
 * Threads: main blocks every signal before any other thread is started and takes them one by one with sigtimedwait
 * (watch.c).
 */
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "daemon/command.h"

#define STOP_MS 4500 /* of the five seconds that are promised */
#define DRAIN_MS 1000
#define MODEL_CACHE_SHARE 16 /* of the memory limit, for models that answer predict */

static void log_setup(const struct dd_options *options) {
    enum dd_log_level level = DD_LOG_INFO;
    if (options->log_level != NULL && !dd_log_level_parse(options->log_level, &level))
        level = DD_LOG_INFO;
    const char *format = options->log_format;
    enum dd_log_format chosen = getenv("JOURNAL_STREAM") != NULL ? DD_LOG_JOURNAL : DD_LOG_TEXT;
    if (format != NULL)
        chosen = strcmp(format, "json") == 0      ? DD_LOG_JSON
                 : strcmp(format, "journal") == 0 ? DD_LOG_JOURNAL
                                                  : DD_LOG_TEXT;
    dd_log_configure(level, chosen, STDERR_FILENO);
}

/* What would let strangers in or cannot work is refused before anything is opened. */
static enum dd_status check_options(struct dd_daemon *daemon, const char *listen, struct dd_error *err) {
    const struct dd_options *o = daemon->options;
    char data_dir[PATH_MAX];
    if ((o->tls_cert == NULL) != (o->tls_key == NULL))
        return dd_fail(err, DD_INVALID, "config_invalid", "--tls-cert and --tls-key belong together: give both");
    enum dd_status status = dd_chosen_data_dir(o, data_dir, err);
    return status == DD_OK ? dd_token_source_open(&daemon->tokens, data_dir, o->token_file, listen, err) : status;
}

/* --- start and stop
 * --------------------------------------------------------------------------------------------------- */

static void numbers_setup(struct dd_daemon *daemon, const struct dd_options *o) {
    daemon->n_threads = dd_cores(o);
    daemon->leaves_no_core = daemon->n_threads >= sysconf(_SC_NPROCESSORS_ONLN);
    daemon->n_workers = o->workers > 0 ? (int)o->workers : DD_MAX(1, daemon->n_threads / 4);
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    daemon->memory_limit_bytes = o->memory_limit_bytes > 0 ? (uint64_t)o->memory_limit_bytes : physical / 10 * 8;
    daemon->started_ms = dd_clock_wall_ms();
}

static enum dd_status open_storage(struct dd_daemon *daemon, struct dd_error *err) {
    char data_dir[PATH_MAX], path[PATH_MAX];
    enum dd_status status = dd_chosen_data_dir(daemon->options, data_dir, err);
    if (status == DD_OK)
        status = dd_data_dir_open(daemon, data_dir, daemon->options->cache_dir, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, "distilld.db", NULL);
    if (status == DD_OK)
        status = dd_recover_check(daemon->data_dir, path, err);
    if (status == DD_OK)
        status = dd_storage_open(path, &daemon->storage, err);
    if (status == DD_OK)
        status = dd_recover(daemon, err);
    return status;
}

static enum dd_status start_api(struct dd_daemon *daemon, const char *listen, struct dd_error *err) {
    const struct dd_options *o = daemon->options;
    char uploads[PATH_MAX];
    enum dd_status status = dd_path_join(uploads, sizeof uploads, err, daemon->data_dir, "uploads", NULL);
    if (status != DD_OK)
        return status;
    const char *hosts[DD_OPTION_LIST_MAX + 1] = {NULL};
    for (int i = 0; o->hosts[i] != NULL; i++)
        hosts[i] = o->hosts[i];
    const struct dd_api_config config = {.listen = listen,
                                         .hosts = hosts,
                                         .tls_cert = o->tls_cert,
                                         .tls_key = o->tls_key,
                                         .upload_dir = uploads,
                                         .max_upload_bytes = (uint64_t)o->max_upload_bytes,
                                         .max_connections = (int)o->max_connections,
                                         .max_event_readers = (int)o->max_event_readers,
                                         .idle_seconds = (int)o->idle_seconds};
    struct dd_api_ops ops;
    struct dd_api *api;
    dd_service_fill(daemon, &ops);
    status = dd_api_start(&config, &ops, &api, err);
    if (status == DD_OK)
        atomic_store(&daemon->api, api);
    return status;
}

/* A shell's usual 1,024 descriptors are fewer than the connections that are allowed. */
static void raise_descriptors(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files); /* where it is refused, accepting more waits */
    }
}

static enum dd_status start(struct dd_daemon *daemon, const char *listen, struct dd_error *err) {
    enum dd_status status = open_storage(daemon, err);
    if (status == DD_OK)
        status = dd_pool_new(daemon->n_threads, &daemon->pool, err);
    if (status == DD_OK)
        dd_pool_give_way(daemon->pool);
    if (status == DD_OK &&
        (daemon->loaded = dd_loaded_cache_new(daemon->memory_limit_bytes / MODEL_CACHE_SHARE)) == NULL)
        status = dd_fail_memory(err, 0);
    if (status == DD_OK)
        status = dd_workers_new(daemon, daemon->n_workers, &daemon->workers, err);
    if (status == DD_OK)
        status = start_api(daemon, listen, err);
    if (status == DD_OK)
        status = dd_workers_start(daemon->workers, err);
    return status;
}

/* Waits for the workers; false when a second signal or the deadline came first. */
static bool stop_workers(struct dd_daemon *daemon, const sigset_t *signals, int64_t deadline_us) {
    const struct timespec at_once = {0, 0};
    while (!dd_workers_stop(daemon->workers, 50)) {
        int again = sigtimedwait(signals, NULL, &at_once);
        if (again == SIGTERM || again == SIGINT || dd_clock_mono_us() > deadline_us)
            return false;
    }
    return true;
}

/* Also after a start that failed half-way.  false: threads are left, so nothing may be freed. */
static bool stop(struct dd_daemon *daemon, const sigset_t *signals) {
    int64_t deadline_us = dd_clock_mono_us() + STOP_MS * 1000;
    atomic_store(&daemon->stopping, true);
    if (daemon->workers != NULL && !stop_workers(daemon, signals, deadline_us)) {
        dd_workers_abandon(daemon->workers);
        return false;
    }
    struct dd_api *api = atomic_exchange(&daemon->api, NULL);
    if (api != NULL)
        dd_api_stop(api, DRAIN_MS);
    dd_workers_free(daemon->workers);
    dd_loaded_cache_free(daemon->loaded);
    dd_pool_free(daemon->pool);
    dd_storage_close(daemon->storage);
    return true;
}

int dd_serve_command(const struct dd_options *options, const char *const *args) {
    (void)args;
    static struct dd_daemon daemon; /* static: threads that outlive a forced stop may still read it */
    const char *listen = options->listen != NULL ? options->listen : "127.0.0.1:8080";
    struct dd_error err = {0};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    dd_signals_block(&signals);
    raise_descriptors();
    mallopt(M_ARENA_MAX, 4); /* many threads, few of them busy: less memory is left lying in arenas */
    log_setup(options);
    daemon.options = options;
    numbers_setup(&daemon, options);
    enum dd_status status = check_options(&daemon, listen, &err);
    if (status == DD_OK)
        status = start(&daemon, listen, &err);
    if (status != DD_OK) {
        dd_log(DD_LOG_ERROR, "serve", "%s", err.message);
        if (!stop(&daemon, &signals))
            _exit(dd_status_exit_code(status));
        return dd_status_exit_code(status);
    }
    char url[256];
    dd_api_address(atomic_load(&daemon.api), url, sizeof url);
    dd_log(DD_LOG_INFO, "serve", "distilld %s at %s (data in %s, %d worker%s, %d thread%s, %s kernels)", DD_VERSION,
           url, daemon.data_dir, daemon.n_workers, daemon.n_workers == 1 ? "" : "s", daemon.n_threads,
           daemon.n_threads == 1 ? "" : "s", dd_engine_cpu());
    malloc_trim(0); /* what starting needed (options, migrations) is given back */
    dd_notify("READY=1");
    dd_watch_until_stopped(&daemon, &signals);
    dd_notify("STOPPING=1");
    dd_log(DD_LOG_INFO, "serve", "stopping");
    if (!stop(&daemon, &signals)) {
        dd_log(DD_LOG_WARNING, "serve", "stopped at once");
        _exit(0);
    }
    dd_log(DD_LOG_INFO, "serve", "stopped");
    return 0;
}
