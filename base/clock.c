/* clock: the time of day, intervals, RFC 3339 text, and stop requests.  Any thread. */
#include <time.h>

#include "base/base.h"

void dd_cancel_request(struct dd_cancel *cancel, enum dd_stop why) {
    int old = atomic_load(&cancel->requested);
    while (old < (int)why && !atomic_compare_exchange_weak(&cancel->requested, &old, (int)why)) {
    }
}

enum dd_stop dd_cancel_requested(const struct dd_cancel *cancel) {
    return cancel ? (enum dd_stop)atomic_load(&cancel->requested) : DD_STOP_NONE;
}

int64_t dd_clock_wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t dd_clock_mono_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

#define EARLIEST_MS INT64_C(-62167219200000) /* 0000-01-01T00:00:00.000Z */
#define LATEST_MS INT64_C(253402300799999)   /* 9999-12-31T23:59:59.999Z */

/* RFC 3339 has years of four digits; a time outside of them is shown as the nearest that it can show. */
void dd_time_format(int64_t wall_ms, char out[DD_TIME_TEXT_BYTES]) {
    int64_t shown_ms = DD_MIN(DD_MAX(wall_ms, EARLIEST_MS), LATEST_MS);
    int64_t seconds = shown_ms / 1000;
    int ms = (int)(shown_ms % 1000);
    if (ms < 0) {
        ms += 1000;
        seconds--;
    }
    time_t time = (time_t)seconds;
    struct tm utc;
    gmtime_r(&time, &utc);
    /* Not strftime: its %Y writes the year 7 as "7".  The remainders only tell the compiler how long each can be. */
    snprintf(out, DD_TIME_TEXT_BYTES, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(utc.tm_year + 1900) % 10000,
             (unsigned)(utc.tm_mon + 1) % 100, (unsigned)utc.tm_mday % 100, (unsigned)utc.tm_hour % 100,
             (unsigned)utc.tm_min % 100, (unsigned)utc.tm_sec % 100, (unsigned)ms % 1000);
}
