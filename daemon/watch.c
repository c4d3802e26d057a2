/* What main does while the daemon works: it waits for signals, feeds systemd's watchdog, and looks once an hour whether
 * something has been kept long enough.
 *
 * The watchdog is fed only while every worker that has a run advances: a step, a piece of a phase, a row written.  One
 * that has done nothing of the sort for the watchdog's whole time is stuck; systemd is then told why, is fed no more,
 * and restarts the daemon, whose runs go on from their checkpoints.
 *
 * Threads: main.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "daemon/daemon.h"

#define RETENTION_US (INT64_C(3600) * 1000000)
#define RETENTION_ITEMS 50 /* of one look: signals wait meanwhile */
#define FEEDS 3            /* in the watchdog's time */

struct watch {
    struct dd_daemon *daemon;
    int64_t limit_us; /* the watchdog's time; 0: nobody watches */
    int64_t feed_at_us, retain_at_us;
    int64_t stuck; /* the run that was reported; 0: none */
};

/* --- SIGHUP ----------------------------------------------------------------------------------------------------- */

static void reload_log_level(const struct dd_options *o) {
    struct dd_options fresh;
    struct dd_error err;
    const char *none[2];
    char option[] = "--config", *argv[] = {option, o->config, NULL};
    enum dd_log_level level;
    if (dd_options_read(DD_FOR_SERVE, o->config != NULL ? 2 : 0, argv, &fresh, none, &err) != DD_OK) {
        dd_log(DD_LOG_ERROR, "serve", "the configuration was not read again: %s", err.message);
        return;
    }
    const char *name = fresh.log_level != NULL ? fresh.log_level : "info";
    if (dd_log_level_parse(name, &level))
        dd_log_set_level(level);
    dd_log(DD_LOG_INFO, "serve", "log level is %s", name);
    dd_options_release(&fresh);
}

/* Tokens need no signal: their files are looked at before each use. */
static void reload(struct dd_daemon *daemon) {
    struct dd_error err = {0};
    dd_notify("RELOADING=1");
    reload_log_level(daemon->options);
    if (daemon->options->tls_cert != NULL) {
        if (dd_api_reload_tls(atomic_load(&daemon->api), &err) == DD_OK)
            dd_log(DD_LOG_INFO, "serve", "certificate and key were read again");
        else
            dd_log(DD_LOG_ERROR, "serve", "certificate and key stay as they were: %s", err.message);
    }
    dd_notify("READY=1");
}

/* --- retention -------------------------------------------------------------------------------------------------- */

static void retain(struct watch *watch) {
    struct dd_error err;
    cJSON *json = NULL;
    bool more = false;
    if (dd_retention_pass(watch->daemon, dd_clock_wall_ms(), false, RETENTION_ITEMS, &json, &err) != DD_OK)
        dd_log(DD_LOG_WARNING, "retention", "what is old could not be removed: %s", err.message);
    else
        more = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "more"));
    cJSON_Delete(json);
    watch->retain_at_us = dd_clock_mono_us() + (more ? 0 : RETENTION_US);
}

/* --- watchdog --------------------------------------------------------------------------------------------------- */

static void feed(struct watch *watch) {
    char status[128];
    int64_t quiet_us = 0, id = dd_workers_stuck(watch->daemon->workers, watch->limit_us, &quiet_us);
    watch->feed_at_us = dd_clock_mono_us() + watch->limit_us / FEEDS;
    if (id != 0) {
        snprintf(status, sizeof status, "STATUS=experiment %" PRId64 " has not advanced for %.1f s; not fed", id,
                 (double)quiet_us / 1000000);
        dd_notify(status);
        if (id != watch->stuck)
            dd_log(DD_LOG_ERROR, "serve", "%s: the watchdog will restart the daemon", status + strlen("STATUS="));
    } else {
        dd_notify("WATCHDOG=1");
        if (watch->stuck != 0) {
            dd_notify("STATUS=");
            dd_log(DD_LOG_INFO, "serve", "experiment %" PRId64 " advances again", watch->stuck);
        }
    }
    watch->stuck = id;
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

void dd_watch_until_stopped(struct dd_daemon *daemon, const sigset_t *signals) {
    struct watch watch = {.daemon = daemon, .limit_us = dd_notify_watchdog_us()};
    for (;;) {
        int64_t now_us = dd_clock_mono_us();
        if (watch.limit_us > 0 && now_us >= watch.feed_at_us)
            feed(&watch);
        if (now_us >= watch.retain_at_us)
            retain(&watch);
        int64_t next_us = watch.limit_us > 0 ? DD_MIN(watch.feed_at_us, watch.retain_at_us) : watch.retain_at_us;
        int64_t pause_us = DD_MAX(next_us - dd_clock_mono_us(), 0);
        const struct timespec pause = {.tv_sec = (time_t)(pause_us / 1000000),
                                       .tv_nsec = (long)(pause_us % 1000000) * 1000};
        int number = sigtimedwait(signals, NULL, &pause);
        if (number == SIGHUP)
            reload(daemon);
        else if (number == SIGTERM || number == SIGINT || (number < 0 && errno != EINTR && errno != EAGAIN))
            return;
    }
}
