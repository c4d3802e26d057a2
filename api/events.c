/* Server-Sent Events.  One ring of rendered frames, any number of readers, each with its own place in it.
 *
 * Frame:   id: <boot>-<seq>\n  event: <type>\n  data: <json>\n\n        boot: 8 hex digits, new at every start of the
 * server Ring:    at most RING_EVENTS frames and RING_BYTES; the oldest go first.  seq grows by one a frame, from 1.
 * Reader:  `next` is the seq it will be given next.  A reader that has seen everything is suspended ("parked") and is
 *          resumed by the next publish, by its heartbeat, or when its client has gone.  One that falls out of the ring
 *          is ended, or cut off by the timer when its client takes nothing at all; when it comes back with its
 *          Last-Event-ID it is told `reset` and fetches anew.
 * Steps:   at most one "step" event an experiment each STEP_INTERVAL_US: the newest waits in a slot until its time has
 *          come or another event of that experiment would overtake it.
 *
 * Gzip:    a reader that accepts it has a stream of its own (api/squeeze.c), flushed behind whatever is there to be
 * read.
 *
 * Threads: publish from any; readers run on the HTTP thread (content reader callback); dd_events_tick on the timer
 * thread.  `lock` guards everything here and is held for copies (and the compression) of at most one buffer, never for
 * a write to a socket. Invariant: reader->parked ⇔ its connection is suspended by us and not yet resumed.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/internal.h"

#define RING_EVENTS 4096
#define RING_BYTES (8u << 20)
#define MAX_FRAME_BYTES (1u << 20)
#define STEP_SLOTS 64
#define STEP_INTERVAL_US 250000
#define HEARTBEAT_US 15000000
#define CLIENT_CHECK_US 1000000
#define READER_BLOCK_BYTES 16384

struct frame {
    char *bytes;
    size_t len;
    int64_t experiment_id;
    unsigned type; /* one bit of dd_event_types */
};

struct reader {
    struct reader *next_reader;
    struct dd_events *events;
    struct MHD_Connection *connection;
    int64_t experiment_id; /* 0: all */
    struct dd_events_filter filter;
    uint64_t next;     /* seq */
    size_t offset;     /* within frame `next` */
    char prelude[256]; /* written before anything else: retry, id, reset */
    size_t prelude_len, prelude_at;
    bool parked, ending, heartbeat;
    struct dd_squeeze *squeeze; /* NULL: the frames as they are */
    bool finished;              /* the compressed stream has had its end */
    int64_t wrote_us;           /* last time something was given to it */
    int64_t step_us;            /* last time a step was */
};

/* The names of events; their places are the bits of a filter.  An event of another name passes every filter. */
static const char *const type_names[] = {"status", "step", "epoch", "log"};
#define STEP_BIT (1u << 1)

static unsigned type_bit(const char *name, size_t len) {
    for (unsigned i = 0; i < DD_ARRAY_LEN(type_names); i++) {
        if (strlen(type_names[i]) == len && memcmp(type_names[i], name, len) == 0) {
            return 1u << i;
        }
    }
    return 0;
}

unsigned dd_events_types(const char *list) {
    unsigned bits = 0;
    while (list != NULL && *list != '\0') {
        size_t n = strcspn(list, ",");
        bits |= type_bit(list, n);
        list += n + (list[n] == ',');
    }
    return bits;
}

struct step_slot {
    int64_t experiment_id; /* 0: free */
    int64_t sent_us;
    char *data; /* waiting; NULL: nothing */
};

struct dd_events {
    pthread_mutex_t lock;
    char boot[9];
    struct frame ring[RING_EVENTS];
    uint64_t first, next; /* seqs in the ring: first … next - 1; frame of seq s at ring[s % RING_EVENTS] */
    size_t bytes;
    struct reader *readers;
    int n_readers, max_readers;
    bool stopped;
    struct step_slot steps[STEP_SLOTS];
    int64_t checked_us;
    atomic_uint_fast64_t bytes_sent;
};

enum dd_status dd_events_new(const char *boot, int max_readers, struct dd_events **ret_events, struct dd_error *err) {
    struct dd_events *events = dd_calloc(1, sizeof *events);
    if (events == NULL) {
        return dd_fail_memory(err, sizeof *events);
    }
    pthread_mutex_init(&events->lock, NULL);
    snprintf(events->boot, sizeof events->boot, "%s", boot);
    events->first = events->next = 1;
    events->max_readers = max_readers;
    *ret_events = events;
    return DD_OK;
}

void dd_events_free(struct dd_events *events) {
    if (events == NULL) {
        return;
    }
    for (uint64_t seq = events->first; seq < events->next; seq++) {
        free(events->ring[seq % RING_EVENTS].bytes);
    }
    for (size_t i = 0; i < STEP_SLOTS; i++) {
        free(events->steps[i].data);
    }
    pthread_mutex_destroy(&events->lock);
    free(events);
}

/* --- publishing; all with the lock held -------------------------------------------------------------------------- */

static void wake(struct reader *reader) {
    if (reader->parked) {
        reader->parked = false;
        MHD_resume_connection(reader->connection);
    }
}

static void drop_oldest(struct dd_events *events) {
    struct frame *oldest = &events->ring[events->first % RING_EVENTS];
    events->bytes -= oldest->len;
    free(oldest->bytes);
    *oldest = (struct frame){0};
    events->first++;
}

/* One "data:" line a line of text: JSON has none inside, but a line break must never end a frame early. */
static char *render(const struct dd_events *events, const char *type, const char *data, size_t *ret_len) {
    struct dd_buffer out;
    dd_buffer_init(&out, MAX_FRAME_BYTES);
    dd_buffer_printf(&out, "id: %s-%llu\nevent: %s\n", events->boot, (unsigned long long)events->next, type);
    for (;;) {
        size_t n = strcspn(data, "\r\n");
        dd_buffer_puts(&out, "data: ");
        dd_buffer_append(&out, data, n);
        dd_buffer_putc(&out, '\n');
        if (data[n] == '\0') {
            break;
        }
        data += n + 1;
    }
    dd_buffer_putc(&out, '\n');
    char *bytes = out.failed ? NULL : dd_buffer_take(&out, ret_len);
    dd_buffer_release(&out);
    return bytes;
}

/* Whether the reader is given the frame.  A step that comes too soon after the last is left out, not held back: the
 * next says more, and who wants every step asks for them. */
static bool wants(const struct reader *reader, const struct frame *frame) {
    const struct dd_events_filter *filter = &reader->filter;
    if (reader->experiment_id != 0 && reader->experiment_id != frame->experiment_id) {
        return false;
    }
    if (frame->type == STEP_BIT && filter->steps_of != 0 && filter->steps_of != frame->experiment_id) {
        return false;
    }
    if (frame->type == STEP_BIT && filter->step_every_us > 0 && reader->step_us > 0 &&
        dd_clock_mono_us() - reader->step_us < filter->step_every_us) {
        return false;
    }
    return filter->types == 0 || frame->type == 0 || (filter->types & frame->type) != 0;
}

static void put(struct dd_events *events, const char *type, int64_t experiment_id, const char *data) {
    size_t len = 0;
    char *bytes = render(events, type, data, &len);
    if (bytes == NULL) {
        dd_log(DD_LOG_WARNING, "http", "an event of experiment %lld was too large or memory is out; it was not sent",
               (long long)experiment_id);
        return;
    }
    while (events->next > events->first &&
           (events->next - events->first >= RING_EVENTS || events->bytes + len > RING_BYTES)) {
        drop_oldest(events);
    }
    uint64_t seq = events->next++;
    struct frame *frame = &events->ring[seq % RING_EVENTS];
    *frame = (struct frame){bytes, len, experiment_id, type_bit(type, strlen(type))};
    events->bytes += len;
    for (struct reader *r = events->readers; r != NULL; r = r->next_reader) {
        if (r->parked && !wants(r, frame)) {
            r->next = seq + 1; /* it has seen all that concerns it */
        } else {
            wake(r);
        }
    }
}

static void flush_step(struct dd_events *events, struct step_slot *slot, int64_t now_us) {
    char *data = slot->data;
    slot->data = NULL;
    slot->sent_us = now_us;
    put(events, "step", slot->experiment_id, data);
    free(data);
}

/* The experiment's slot, or the one that was idle longest. */
static struct step_slot *step_slot(struct dd_events *events, int64_t experiment_id, int64_t now_us) {
    struct step_slot *oldest = &events->steps[0];
    for (size_t i = 0; i < STEP_SLOTS; i++) {
        struct step_slot *slot = &events->steps[i];
        if (slot->experiment_id == experiment_id) {
            return slot;
        }
        if (slot->sent_us < oldest->sent_us) {
            oldest = slot;
        }
    }
    if (oldest->data != NULL) {
        flush_step(events, oldest, now_us);
    }
    *oldest = (struct step_slot){.experiment_id = experiment_id, .sent_us = now_us - STEP_INTERVAL_US};
    return oldest;
}

/* Whether it now waits for the timer, which does not know of it yet. */
static bool publish_step(struct dd_events *events, int64_t experiment_id, const char *data) {
    int64_t now_us = dd_clock_mono_us();
    struct step_slot *slot = step_slot(events, experiment_id, now_us);
    char *copy = dd_strdup(data);
    if (copy == NULL) {
        return false; /* the next step says more than this one */
    }
    bool first = slot->data == NULL;
    free(slot->data);
    slot->data = copy;
    if (now_us - slot->sent_us < STEP_INTERVAL_US) {
        return first;
    }
    flush_step(events, slot, now_us);
    return false;
}

bool dd_events_publish(struct dd_events *events, const char *type, int64_t experiment_id, const char *data) {
    bool waits = false;
    pthread_mutex_lock(&events->lock);
    if (strcmp(type, "step") == 0) {
        waits = publish_step(events, experiment_id, data);
    } else {
        for (size_t i = 0; i < STEP_SLOTS; i++) {
            if (events->steps[i].experiment_id == experiment_id && events->steps[i].data != NULL) {
                flush_step(events, &events->steps[i], dd_clock_mono_us());
            }
        }
        put(events, type, experiment_id, data);
    }
    pthread_mutex_unlock(&events->lock);
    return waits;
}

/* --- reading: HTTP thread ---------------------------------------------------------------------------------------- */

/* Copies what fits of the frames the reader has not seen; it moves on past those that do not concern it. */
static size_t copy_frames(struct reader *reader, char *out, size_t room) {
    struct dd_events *events = reader->events;
    size_t written = 0;
    while (written < room && reader->next < events->next) {
        const struct frame *frame = &events->ring[reader->next % RING_EVENTS];
        bool wanted = reader->offset > 0 || wants(reader, frame);
        if (wanted && frame->type == STEP_BIT) {
            reader->step_us = dd_clock_mono_us();
        }
        size_t n = wanted ? DD_MIN(frame->len - reader->offset, room - written) : 0;
        memcpy(out + written, frame->bytes + reader->offset, n);
        written += n;
        reader->offset += n;
        if (!wanted || reader->offset == frame->len) {
            reader->next++;
            reader->offset = 0;
        }
    }
    return written;
}

/* What comes next for the reader: a number of bytes, 0 for nothing yet, or one of libmicrohttpd's ends. */
static ssize_t next_plain(struct reader *reader, char *out, size_t room) {
    static const char heartbeat[] = ": still here\n\n";
    if (reader->prelude_at < reader->prelude_len) {
        size_t n = DD_MIN(room, reader->prelude_len - reader->prelude_at);
        memcpy(out, reader->prelude + reader->prelude_at, n);
        reader->prelude_at += n;
        return (ssize_t)n;
    }
    if (reader->ending || reader->next < reader->events->first) { /* stopped, gone, or too slow for the ring */
        return reader->offset > 0 ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    }
    size_t n = copy_frames(reader, out, room);
    if (n == 0 && reader->heartbeat && room >= sizeof heartbeat - 1) {
        memcpy(out, heartbeat, sizeof heartbeat - 1);
        n = sizeof heartbeat - 1;
    }
    return (ssize_t)n;
}

static ssize_t next_squeezed(struct reader *reader, char *out, size_t room) {
    size_t n = dd_squeeze_take(reader->squeeze, out, room);
    if (n > 0) {
        return (ssize_t)n;
    }
    ssize_t plain = next_plain(reader, dd_squeeze_plain(reader->squeeze), DD_SQUEEZE_BYTES);
    if (plain == MHD_CONTENT_READER_END_OF_STREAM && !reader->finished) {
        reader->finished = true;
        dd_squeeze_finish(reader->squeeze);
    } else if (plain > 0) {
        dd_squeeze_put(reader->squeeze, (size_t)plain);
    } else {
        return plain;
    }
    return (ssize_t)dd_squeeze_take(reader->squeeze, out, room);
}

static ssize_t read_events(void *context, uint64_t position, char *out, size_t room) {
    (void)position;
    struct reader *reader = context;
    struct dd_events *events = reader->events;
    pthread_mutex_lock(&events->lock);
    ssize_t result = reader->squeeze != NULL ? next_squeezed(reader, out, room) : next_plain(reader, out, room);
    if (result == 0) {
        reader->parked = true;
        MHD_suspend_connection(reader->connection);
    } else if (result > 0) {
        reader->heartbeat = false;
        reader->wrote_us = dd_clock_mono_us();
        events->bytes_sent += (uint64_t)result;
    }
    pthread_mutex_unlock(&events->lock);
    return result;
}

static void free_reader(void *context) {
    struct reader *reader = context;
    struct dd_events *events = reader->events;
    pthread_mutex_lock(&events->lock);
    for (struct reader **at = &events->readers; *at != NULL; at = &(*at)->next_reader) {
        if (*at == reader) {
            *at = reader->next_reader;
            events->n_readers--;
            break;
        }
    }
    pthread_mutex_unlock(&events->lock);
    dd_squeeze_free(reader->squeeze);
    free(reader);
}

/* Where a reader goes on: after its last event if the ring still has what came since.  false: it does not. */
static bool resume_after(const struct dd_events *events, const char *last_event_id, uint64_t *ret_next) {
    int64_t seq;
    size_t boot_len = strlen(events->boot);
    if (strncmp(last_event_id, events->boot, boot_len) != 0 || last_event_id[boot_len] != '-' ||
        !dd_text_int(last_event_id + boot_len + 1, &seq) || seq < 0) {
        return false;
    }
    *ret_next = (uint64_t)seq + 1;
    return *ret_next >= events->first && *ret_next <= events->next;
}

static enum dd_status add_reader(struct dd_events *events, struct reader *reader, const char *last_event_id,
                                 struct dd_error *err) {
    enum dd_status status = DD_OK;
    pthread_mutex_lock(&events->lock);
    if (events->stopped) {
        status = dd_fail(err, DD_BUSY, "stopping", "the server is stopping");
    } else if (events->n_readers >= events->max_readers) {
        status = dd_fail(err, DD_BUSY, "too_many_readers", "there are %d event streams already, which is the limit",
                         events->max_readers);
    } else {
        bool asked = last_event_id != NULL && last_event_id[0] != '\0';
        reader->next = events->next;
        bool gap = asked && !resume_after(events, last_event_id, &reader->next);
        if (gap) {
            reader->next = events->next;
        }
        /* The id without data sets the browser's last event id and dispatches nothing. */
        reader->prelude_len = (size_t)snprintf(
            reader->prelude, sizeof reader->prelude, ": hello\nretry: 2000\nid: %s-%llu\n%s\n", events->boot,
            (unsigned long long)(reader->next - 1), gap ? "event: reset\ndata: {\"reason\":\"gap\"}\n" : "");
        reader->next_reader = events->readers;
        events->readers = reader;
        events->n_readers++;
    }
    pthread_mutex_unlock(&events->lock);
    return status;
}

void dd_events_answer(struct dd_events *events, struct dd_request *request, int64_t experiment_id,
                      const struct dd_events_filter *filter, const char *last_event_id) {
    struct reader *reader = dd_calloc(1, sizeof *reader);
    if (reader == NULL) {
        return;
    }
    *reader = (struct reader){.events = events,
                              .connection = request->connection,
                              .experiment_id = experiment_id,
                              .filter = *filter,
                              .squeeze = request->wants_gzip ? dd_squeeze_new() : NULL, /* else as they are */
                              .wrote_us = dd_clock_mono_us()};
    enum dd_status status = add_reader(events, reader, last_event_id, &request->problem.error);
    if (status != DD_OK) {
        dd_squeeze_free(reader->squeeze);
        free(reader);
        request->failed = true;
        request->problem.retry_after_s = 5;
        dd_answer_problem(request);
        return;
    }
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, READER_BLOCK_BYTES, read_events, reader, free_reader);
    if (response == NULL) {
        free_reader(reader);
        return;
    }
    dd_answer_common_headers(request, response);
    (void)MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    (void)MHD_add_response_header(response, "Vary", "Accept-Encoding");
    if (reader->squeeze != NULL) {
        (void)MHD_add_response_header(response, "Content-Encoding", "gzip");
    }
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    (void)MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* nginx in front must not hold events back */
    request->response = response;
    request->status = 200;
}

/* --- time: timer thread ------------------------------------------------------------------------------------------ */

static int socket_of(const struct reader *reader) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(reader->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info == NULL ? -1 : info->connect_fd;
}

static bool client_gone(const struct reader *reader) {
    struct pollfd client = {.fd = socket_of(reader), .events = POLLRDHUP};
    return client.fd >= 0 && poll(&client, 1, 0) > 0 && (client.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

static void check_readers(struct dd_events *events, int64_t now_us) {
    for (struct reader *r = events->readers; r != NULL; r = r->next_reader) {
        if (!r->parked) {
            /* libmicrohttpd watches its socket, but does not ask us again while the client takes nothing: a reader
             * that the ring has left behind is cut off here. */
            int fd = r->next < events->first ? socket_of(r) : -1;
            if (fd >= 0) {
                (void)shutdown(fd, SHUT_RDWR);
            }
        } else if (client_gone(r)) {
            r->ending = true;
            wake(r);
        } else if (now_us - r->wrote_us >= HEARTBEAT_US) {
            r->heartbeat = true;
            wake(r);
        }
    }
}

int64_t dd_events_tick(struct dd_events *events, int64_t now_us) {
    int64_t next_us = now_us + CLIENT_CHECK_US;
    pthread_mutex_lock(&events->lock);
    for (size_t i = 0; i < STEP_SLOTS; i++) {
        struct step_slot *slot = &events->steps[i];
        if (slot->data != NULL && now_us - slot->sent_us >= STEP_INTERVAL_US) {
            flush_step(events, slot, now_us);
        } else if (slot->data != NULL) {
            next_us = DD_MIN(next_us, slot->sent_us + STEP_INTERVAL_US);
        }
    }
    if (now_us - events->checked_us >= CLIENT_CHECK_US) {
        events->checked_us = now_us;
        check_readers(events, now_us);
    }
    pthread_mutex_unlock(&events->lock);
    return next_us;
}

static void end_all(struct dd_events *events) {
    for (struct reader *r = events->readers; r != NULL; r = r->next_reader) {
        r->ending = true;
        wake(r);
    }
}

void dd_events_end_all(struct dd_events *events) {
    pthread_mutex_lock(&events->lock);
    end_all(events);
    pthread_mutex_unlock(&events->lock);
}

void dd_events_stop(struct dd_events *events) {
    pthread_mutex_lock(&events->lock);
    events->stopped = true;
    end_all(events);
    pthread_mutex_unlock(&events->lock);
}

int dd_events_readers(struct dd_events *events) {
    pthread_mutex_lock(&events->lock);
    int count = events->n_readers;
    pthread_mutex_unlock(&events->lock);
    return count;
}

uint64_t dd_events_bytes_sent(const struct dd_events *events) {
    return events->bytes_sent;
}
