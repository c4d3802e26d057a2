/* http_load: clients of a daemon that take little of the machine themselves: connections that say nothing or too
 * little, readers of events, and GETs at a fixed rate.
 *
 *   http_load PORT RATE IDLE READERS PATH…
 *
 * Opens IDLE connections of four kinds (silent; a request line that grows by a byte a second; a body that stalls;
 * answered once, then idle) and READERS event streams, prints "open" and does what its input says, line by line, until
 * it ends:
 *
 *   get SECONDS        asks for the paths in turn, RATE a second, over at most 64 connections that are kept, and prints
 * one line of JSON: statuses, CPU seconds of its own, and each answer's time in microseconds from when its request was
 * due, not from when it was sent: what waits because answers are late counts burn SECONDS CPU   takes CPU seconds of
 * CPU time in RATE slices a second, and asks for nothing: what the clients take of the machine, without what they ask
 * for wait SECONDS       neither
 *
 * One thread, one epoll.  Only what distilld sends is understood: a Content-Length, or no end at all.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define CONNECTIONS 64
#define HEAD_BYTES 8192
#define DRIPS 50

struct connection {
    int fd;
    bool busy;
    int64_t due_us;
    char head[HEAD_BYTES]; /* of the answer, until its end is there */
    size_t head_len;
    uint64_t body_left;
    int status;
};

struct load {
    struct sockaddr_in address;
    int epoll;
    struct connection gets[CONNECTIONS];
    struct connection listens; /* all that is only drained has one event context */
    int *drips;
    int n_drips;
    char **paths;
    int n_paths;
    uint32_t *times_us;
    size_t asked; /* ever: which path is next */
    size_t sent, wanted, done, failed;
    int statuses[600];
};

static void die(const char *what) {
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static int open_connection(struct load *load, struct connection *owner, const char *first) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)(const void *)&load->address, sizeof load->address) != 0) {
        die("cannot connect");
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    size_t len = strlen(first);
    if (len > 0 && send(fd, first, len, MSG_NOSIGNAL) != (ssize_t)len) {
        die("cannot send");
    }
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        die("cannot make a socket non-blocking");
    }
    /* What is only drained is kept apart by its descriptor, in the upper half of the number. */
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = owner};
    if (owner == &load->listens) {
        event.data.u64 = (uint64_t)fd << 32 | 1;
    }
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        die("cannot watch a socket");
    }
    return fd;
}

static void open_idle(struct load *load, int count, int readers) {
    static const char *const first[] = {
        "", "GET /heal",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        "100000\r\n\r\n{\"name\":\"",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    load->drips = calloc(DRIPS, sizeof *load->drips);
    if (load->drips == NULL) {
        die("no memory");
    }
    for (int i = 0; i < count; i++) {
        int fd = open_connection(load, &load->listens, first[i % 4]);
        if (i % 4 == 1 && load->n_drips < DRIPS) {
            load->drips[load->n_drips++] = fd;
        }
    }
    for (int i = 0; i < readers; i++) {
        (void)open_connection(load, &load->listens, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
}

/* --- GETs --------------------------------------------------------------------------------------------------------- */

static void send_get(struct load *load, struct connection *c, int64_t due_us) {
    char request[1024];
    int len = snprintf(request, sizeof request,
                       "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n",
                       load->paths[load->asked++ % (size_t)load->n_paths]);
    if (c->fd < 0) {
        c->fd = open_connection(load, c, "");
    }
    c->busy = true;
    c->due_us = due_us;
    c->head_len = 0;
    c->body_left = 0;
    c->status = 0;
    load->sent++;
    if (send(c->fd, request, (size_t)len, MSG_NOSIGNAL) != len) {
        die("cannot send");
    }
}

static void finished(struct load *load, struct connection *c, bool good) {
    if (good && c->status > 0 && c->status < 600) {
        load->statuses[c->status]++;
        load->times_us[load->done++] = (uint32_t)DD_MIN(now_us() - c->due_us, (int64_t)UINT32_MAX);
    } else {
        load->failed++;
    }
    c->busy = false;
}

/* Takes bytes of an answer's head and says how many of the rest are body; false: this is no answer of ours. */
static bool take_head(struct connection *c, const char *bytes, size_t count, size_t *ret_taken) {
    size_t before = c->head_len, n = DD_MIN(count, sizeof c->head - 1 - before);
    memcpy(c->head + before, bytes, n);
    c->head_len += n;
    c->head[c->head_len] = '\0';
    const char *end = strstr(c->head, "\r\n\r\n");
    *ret_taken = n;
    if (end == NULL) {
        return c->head_len < sizeof c->head - 1;
    }
    *ret_taken = (size_t)(end + 4 - c->head) - before;
    const char *length = strcasestr(c->head, "\r\nContent-Length:");
    if (sscanf(c->head, "HTTP/1.1 %d", &c->status) != 1 || length == NULL || length > end) {
        return false;
    }
    c->body_left = strtoull(length + strlen("\r\nContent-Length:"), NULL, 10);
    return true;
}

static void on_answer(struct load *load, struct connection *c) {
    static char bytes[1 << 18];
    for (;;) {
        ssize_t got = recv(c->fd, bytes, sizeof bytes, 0);
        if (got < 0 && errno == EAGAIN) {
            return;
        }
        size_t taken = 0;
        bool good = got > 0 && c->busy;
        if (good && c->status == 0) {
            good = take_head(c, bytes, (size_t)got, &taken);
        }
        if (good && c->status != 0) {
            good = (uint64_t)got - taken <= c->body_left;
            c->body_left -= (uint64_t)got - taken;
        }
        if (!good) {
            close(c->fd);
            c->fd = -1;
            if (c->busy) {
                finished(load, c, false);
            }
            return;
        }
        if (c->status != 0 && c->body_left == 0) {
            finished(load, c, true);
            return;
        }
        if ((size_t)got < sizeof bytes) {
            return;
        }
    }
}

static void drain(int epoll, int fd) {
    static char bytes[1 << 16];
    ssize_t got = recv(fd, bytes, sizeof bytes, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
        (void)epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); /* told to go; closed at the end */
    }
}

static void watch(struct load *load, int64_t until_us) {
    struct epoll_event events[128];
    int64_t wait_us = DD_MAX(until_us - now_us(), (int64_t)0);
    const struct timespec wait = {.tv_sec = (time_t)(wait_us / 1000000), .tv_nsec = (long)(wait_us % 1000000) * 1000};
    int n = epoll_pwait2(load->epoll, events, DD_ARRAY_LEN(events), &wait, NULL);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 & 1) {
            drain(load->epoll, (int)(events[i].data.u64 >> 32));
        } else {
            on_answer(load, events[i].data.ptr);
        }
    }
}

static struct connection *idle_connection(struct load *load) {
    struct connection *found = NULL; /* one that is open, before one that would have to be opened */
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &load->gets[i];
        if (!c->busy && (found == NULL || (found->fd < 0 && c->fd >= 0))) {
            found = c;
        }
    }
    return found;
}

static void ask(struct load *load, double rate, double seconds) {
    int64_t begin = now_us(), end = begin + (int64_t)(seconds * 1e6), drip = begin;
    while (load->done + load->failed < load->wanted && now_us() < end + 10000000) {
        int64_t due = begin + (int64_t)((double)load->sent * 1e6 / rate);
        struct connection *c = load->sent < load->wanted && due <= now_us() ? idle_connection(load) : NULL;
        if (c != NULL) {
            send_get(load, c, due);
            continue;
        }
        if (now_us() >= drip) {
            drip += 1000000;
            for (int i = 0; i < load->n_drips; i++) {
                (void)send(load->drips[i], "x", 1, MSG_NOSIGNAL);
            }
        }
        bool waits = load->sent >= load->wanted || due <= now_us(); /* for an answer, not for the clock */
        watch(load, DD_MIN(waits ? now_us() + 100000 : due, drip));
    }
    while (now_us() < end) { /* no requests asked for: readers alone */
        watch(load, end);
    }
}

static void print(const struct load *load, double used) {
    const char *comma = "";
    printf("{\"cpu_seconds\":%.6f,\"failed\":%zu,\"statuses\":{", used, load->wanted - load->done);
    for (int i = 0; i < 600; i++) {
        if (load->statuses[i] > 0) {
            printf("%s\"%d\":%d", comma, i, load->statuses[i]);
            comma = ",";
        }
    }
    printf("},\"times_us\":[");
    for (size_t i = 0; i < load->done; i++) {
        printf("%s%u", i > 0 ? "," : "", load->times_us[i]);
    }
    printf("]}\n");
    fflush(stdout);
}

/* Nothing is made up for in one piece: a late slice is a little longer. */
static void burn(struct load *load, double rate, double seconds, double cpu) {
    int64_t begin = now_us(), next = begin;
    double before = cpu_seconds(), passed = 0;
    while (passed < seconds) {
        while (cpu_seconds() - before < cpu * passed / seconds) {
        }
        next = DD_MAX(next + (int64_t)(1e6 / rate), now_us());
        while (now_us() < next) {
            watch(load, next);
        }
        passed = (double)(now_us() - begin) * 1e-6;
    }
}

static void begin(struct load *load, double rate, double seconds) {
    free(load->times_us);
    load->wanted = (size_t)(rate * seconds);
    load->times_us = calloc(load->wanted + 1, sizeof *load->times_us);
    load->sent = load->done = load->failed = 0;
    memset(load->statuses, 0, sizeof load->statuses);
    if (load->times_us == NULL) {
        die("no memory");
    }
}

static void obey(struct load *load, double rate, const char *line) {
    double seconds = 0, cpu = 0, before = cpu_seconds();
    if (sscanf(line, "burn %lf %lf", &seconds, &cpu) == 2) {
        begin(load, rate, 0);
        burn(load, rate, seconds, cpu);
    } else if (sscanf(line, "wait %lf", &seconds) == 1) {
        begin(load, rate, 0);
        ask(load, rate, seconds);
    } else if (sscanf(line, "get %lf", &seconds) == 1) {
        begin(load, rate, seconds);
        ask(load, rate, seconds);
    }
    print(load, cpu_seconds() - before);
}

int main(int argc, char **argv) {
    static struct load load = {.epoll = -1};
    if (argc < 6) {
        fprintf(stderr, "use: http_load PORT RATE IDLE READERS PATH…\n");
        return 2;
    }
    double rate = strtod(argv[2], NULL);
    load.address = (struct sockaddr_in){.sin_family = AF_INET,
                                        .sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10)),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    load.paths = argv + 5;
    load.n_paths = argc - 5;
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll < 0) {
        die("cannot begin");
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        load.gets[i].fd = -1;
    }
    open_idle(&load, (int)strtol(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10));
    printf("open\n");
    fflush(stdout);
    char line[128];
    while (fgets(line, sizeof line, stdin) != NULL) {
        obey(&load, rate, line);
    }
    return 0;
}
