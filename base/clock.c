/* clock: the time of day, intervals, RFC 3339 text, and stop requests.  Any thread. */
#include <string.h>
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
    const int parts[] = {utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, ms};
    static const char shape[] = "yyyy-mm-ddThh:mm:ss.sssZ"; /* each run of the same letter takes one part */
    memcpy(out, shape, sizeof shape);
    size_t end = strlen(shape) - 1;
    for (size_t i = DD_ARRAY_LEN(parts); i-- > 0;) {
        int rest = parts[i];
        for (char letter = shape[end - 1]; end > 0 && shape[end - 1] == letter; end--) {
            out[end - 1] = (char)('0' + rest % 10);
            rest /= 10;
        }
        end -= end > 0; /* the mark between two */
    }
}
