/* What sweeps decide (storage/asha.c), to the readers of events and to the workers.
 * Threads: workers, any that holds no lock.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "daemon/daemon.h"

/* Whether a later line is about the same run, which then is published once. */
static bool comes_again(const struct dd_asha_news *news, size_t i, size_t count) {
    for (size_t k = i + 1; k < count; k++)
        if (news[k].id == news[i].id)
            return true;
    return false;
}

void dd_sweep_news_tell(struct dd_daemon *daemon) {
    struct dd_asha_news *news = NULL;
    size_t count = 0;
    dd_storage_asha_news(daemon->storage, &news, &count);
    for (size_t i = 0; i < count; i++) {
        const struct dd_log_row row = {
            .seq = news[i].seq, .time_ms = news[i].time_ms, .level = DD_LOG_INFO, .message = news[i].message};
        dd_log(DD_LOG_INFO, "sweep", "experiment %" PRId64 ": %s", news[i].id, news[i].message);
        dd_publish(daemon, "log", news[i].id, dd_log_json(&row));
        if (!comes_again(news, i, count))
            dd_publish_status(daemon, news[i].id);
    }
    if (count > 0)
        dd_workers_wake(daemon->workers);
    free(news);
}
