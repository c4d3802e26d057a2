/* pace: the cores belong to the training.  A request takes a core from it for a tenth of a millisecond, and what it
 * throws out of that core's caches costs about as much again.  So while jobs use every core, requests that come faster
 * than people and scripts ask (RATE a second over a while, after a burst of BURST) are let gather for BATCH_US and
 * answered behind one another: as a network card does with its interrupts.  All others are answered at once.
 *
 * A token bucket tells the two apart: each request takes a token, RATE a second come back.  The pause is the HTTP
 * thread's own, before the first request of a batch: sockets keep what comes meanwhile, and epoll hands it over
 * together.
 *
 * HTTP thread.
 */
#include <time.h>

#include "api/internal.h"

#define RATE 250.0
#define BURST 64.0
#define BATCH_US 10000
#define APART_US 300 /* what comes so soon after the last one is of its batch */

static bool must_wait(struct dd_api *api, int64_t now_us) {
    const struct dd_api_ops *ops = &api->ops;
    return api->pace.tokens < 0 && now_us - api->pace.busy_us >= APART_US && ops->cores_taken != NULL &&
           ops->cores_taken(ops->daemon);
}

int64_t dd_pace_begin(struct dd_api *api) {
    struct dd_pace *pace = &api->pace;
    int64_t came_us = dd_clock_mono_us(), now_us = came_us;
    double filled = pace->tokens + (double)(now_us - pace->filled_us) * RATE / 1e6;
    pace->tokens = DD_MAX(DD_MIN(filled, BURST) - 1, -BURST); /* a flood is forgotten in BURST / RATE seconds */
    pace->filled_us = now_us;
    int64_t due_us = pace->batch_us + BATCH_US;
    if (now_us < due_us && must_wait(api, now_us)) {
        struct timespec pause = {.tv_nsec = (long)(due_us - now_us) * 1000};
        (void)nanosleep(&pause, NULL); /* a signal that ends it early costs a batch */
        now_us = dd_clock_mono_us();
    }
    if (now_us - pace->busy_us >= APART_US) {
        pace->batch_us = now_us;
    }
    pace->busy_us = now_us;
    return now_us - came_us;
}

void dd_pace_end(struct dd_api *api) {
    api->pace.busy_us = dd_clock_mono_us();
}
