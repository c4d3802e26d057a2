/* Request threads: slow operations run here while their connection is suspended, so that the HTTP thread never waits.
 *
 * Two queues: slow (lists, reports: milliseconds to a second) and heavy (uploads' import, predict, evaluate, archives:
 * seconds to minutes).  Heavy work leaves one thread free for the slow, so that a long evaluation does not stop the
 * dashboard.  libmicrohttpd does not see a client leave while its connection is suspended: dd_jobs_tick polls the
 * sockets and raises the request's cancel flag.
 *
 * A request whose answer is being made already stays queued until that answer is kept.
 *
 * Life of a parked request: queued → running → (phase READY, resumed).  From the moment of the resume it belongs to the
 * HTTP thread again and is not touched here.  Lock: `lock` guards all of struct dd_jobs; libmicrohttpd's suspend and
 * resume are called under it, which orders them.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/internal.h"

#define MAX_QUEUED 64        /* heavy: an answer would be minutes away */
#define MAX_QUEUED_SLOW 1024 /* all that the connections may ask at once, about */
#define MAX_THREADS 64

struct queue {
    struct dd_request *head, **tail;
    int count;
};

struct dd_jobs {
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    struct queue slow, heavy;
    struct dd_request *running; /* list by job_next */
    int n_running, n_heavy;
    bool closed;  /* takes no more */
    bool stopped; /* threads leave when the queues are empty */
    pthread_t threads[MAX_THREADS];
    int n_threads;
};

static void push(struct queue *queue, struct dd_request *request) {
    request->job_next = NULL;
    *queue->tail = request;
    queue->tail = &request->job_next;
    queue->count++;
}

static bool is_being_answered(const struct dd_jobs *jobs, const struct dd_request *request) {
    for (const struct dd_request *other = jobs->running; other != NULL; other = other->job_next) {
        if (dd_cache_will_do(other, request)) {
            return true;
        }
    }
    return false;
}

/* The first whose answer is not being made already: one that asks the same is left until that answer is kept. */
static struct dd_request *pop(struct dd_jobs *jobs, struct queue *queue) {
    struct dd_request **at = &queue->head;
    while (*at != NULL && is_being_answered(jobs, *at)) {
        at = &(*at)->job_next;
    }
    struct dd_request *request = *at;
    if (request != NULL) {
        *at = request->job_next;
        queue->count--;
        if (*at == NULL) {
            queue->tail = at;
        }
    }
    return request;
}

static struct dd_request *next_job(struct dd_jobs *jobs) {
    int heavy_limit = DD_MAX(1, jobs->n_threads - 1);
    struct dd_request *request = pop(jobs, &jobs->slow);
    if (request == NULL && jobs->n_heavy < heavy_limit) {
        request = pop(jobs, &jobs->heavy);
    }
    return request;
}

static void run_job(struct dd_jobs *jobs, struct dd_request *request) { /* called and left with the lock held */
    bool heavy = request->job_heavy;
    request->job_next = jobs->running;
    jobs->running = request;
    jobs->n_running++;
    jobs->n_heavy += heavy;
    struct dd_kept *kept = dd_cache_find(request->api->cache, request); /* made while it waited for a thread */
    dd_cache_stamp(request); /* so that its answer does for whoever has come meanwhile; others read it under the lock */
    pthread_mutex_unlock(&jobs->lock);
    if (kept != NULL && dd_cancel_requested(&request->cancel) == DD_STOP_NONE) {
        dd_answer_kept(request, 200, kept);
    }
    if (request->response == NULL) {
        dd_request_run(request);
    }
    dd_kept_unref(kept);
    pthread_mutex_lock(&jobs->lock);
    for (struct dd_request **at = &jobs->running; *at != NULL; at = &(*at)->job_next) {
        if (*at == request) {
            *at = request->job_next;
            break;
        }
    }
    jobs->n_running--;
    jobs->n_heavy -= heavy;
    request->phase = DD_PHASE_READY;
    MHD_resume_connection(request->connection);
    pthread_cond_broadcast(&jobs->idle);
    if (heavy || jobs->slow.count > 0) {
        pthread_cond_signal(&jobs->work); /* a heavy one may have waited for its place, a slow one for this answer */
    }
}

static void *request_thread(void *context) {
    struct dd_jobs *jobs = context;
    pthread_setname_np(pthread_self(), "request");
    pthread_mutex_lock(&jobs->lock);
    for (;;) {
        struct dd_request *request = next_job(jobs);
        if (request != NULL) {
            run_job(jobs, request);
        } else if (jobs->stopped) {
            break;
        } else {
            pthread_cond_wait(&jobs->work, &jobs->lock);
        }
    }
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}

enum dd_status dd_jobs_new(int threads, struct dd_jobs **ret_jobs, struct dd_error *err) {
    struct dd_jobs *jobs = dd_calloc(1, sizeof *jobs);
    if (jobs == NULL) {
        return dd_fail_memory(err, sizeof *jobs);
    }
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&jobs->work, NULL);
    pthread_cond_init(&jobs->idle, &clock);
    pthread_condattr_destroy(&clock);
    jobs->slow.tail = &jobs->slow.head;
    jobs->heavy.tail = &jobs->heavy.head;
    threads = DD_MIN(DD_MAX(threads, 1), MAX_THREADS);
    for (int i = 0; i < threads; i++) {
        int failed = pthread_create(&jobs->threads[i], NULL, request_thread, jobs);
        if (failed != 0) {
            dd_jobs_stop(jobs, 0);
            dd_jobs_free(jobs);
            return dd_fail_errno(err, failed, "cannot start a request thread");
        }
        pthread_mutex_lock(&jobs->lock);
        jobs->n_threads++;
        pthread_mutex_unlock(&jobs->lock);
    }
    *ret_jobs = jobs;
    return DD_OK;
}

enum dd_status dd_jobs_park(struct dd_jobs *jobs, struct dd_request *request, struct dd_error *err) {
    enum dd_status status = DD_OK;
    pthread_mutex_lock(&jobs->lock);
    struct queue *queue = request->job_heavy ? &jobs->heavy : &jobs->slow;
    int most = request->job_heavy ? MAX_QUEUED : MAX_QUEUED_SLOW;
    if (jobs->closed) {
        status = dd_fail(err, DD_BUSY, "stopping", "the server is stopping");
    } else if (queue->count >= most) {
        status =
            dd_fail(err, DD_BUSY, "too_busy", "%d requests of this kind wait already; ask again in a moment", most);
    } else {
        request->phase = DD_PHASE_PARKED;
        MHD_suspend_connection(request->connection);
        push(queue, request);
        pthread_cond_signal(&jobs->work);
    }
    pthread_mutex_unlock(&jobs->lock);
    return status;
}

int dd_jobs_waiting(struct dd_jobs *jobs) {
    pthread_mutex_lock(&jobs->lock);
    int waiting = jobs->slow.count + jobs->heavy.count;
    pthread_mutex_unlock(&jobs->lock);
    return waiting;
}

/* The socket stays open while its connection is suspended, and requests leave these lists before they are resumed. */
static void check_client(struct dd_request *request) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd client = {.fd = info == NULL ? -1 : info->connect_fd, .events = POLLRDHUP};
    if (client.fd >= 0 && poll(&client, 1, 0) > 0 && (client.revents & (POLLRDHUP | POLLHUP | POLLERR))) {
        dd_cancel_request(&request->cancel, DD_STOP_CANCEL);
    }
}

void dd_jobs_tick(struct dd_jobs *jobs) {
    pthread_mutex_lock(&jobs->lock);
    for (struct dd_request *r = jobs->running; r != NULL; r = r->job_next) {
        check_client(r);
    }
    for (struct dd_request *r = jobs->slow.head; r != NULL; r = r->job_next) {
        check_client(r);
    }
    for (struct dd_request *r = jobs->heavy.head; r != NULL; r = r->job_next) {
        check_client(r);
    }
    pthread_mutex_unlock(&jobs->lock);
}

static void cancel_all(struct dd_request *list) {
    for (; list != NULL; list = list->job_next) {
        dd_cancel_request(&list->cancel, DD_STOP_SHUTDOWN);
    }
}

void dd_jobs_stop(struct dd_jobs *jobs, int drain_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += drain_ms / 1000;
    until.tv_nsec += (long)(drain_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&jobs->lock);
    jobs->closed = true;
    int waited = 0;
    while (waited != ETIMEDOUT && (jobs->n_running > 0 || jobs->slow.count > 0 || jobs->heavy.count > 0)) {
        waited = pthread_cond_timedwait(&jobs->idle, &jobs->lock, &until);
    }
    cancel_all(jobs->running); /* they end soon, and each is answered; what still waits sees the flag and is refused */
    cancel_all(jobs->slow.head);
    cancel_all(jobs->heavy.head);
    jobs->stopped = true;
    pthread_cond_broadcast(&jobs->work);
    int n_threads = jobs->n_threads;
    pthread_mutex_unlock(&jobs->lock);
    for (int i = 0; i < n_threads; i++) {
        pthread_join(jobs->threads[i], NULL);
    }
    jobs->n_threads = 0;
}

void dd_jobs_free(struct dd_jobs *jobs) {
    if (jobs == NULL) {
        return;
    }
    pthread_cond_destroy(&jobs->work);
    pthread_cond_destroy(&jobs->idle);
    pthread_mutex_destroy(&jobs->lock);
    free(jobs);
}
