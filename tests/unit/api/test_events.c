/* Server-Sent Events over real sockets: framing, resumption, filters, coalesced steps, slow readers, many readers. */
#include <poll.h>

#include "fake.h"
#include "pages_fixture.h"

#define V1 "/api/v1"

/* An open stream, and what has come of it, still in chunks. */
struct stream {
    int fd;
    size_t len;
    char text[1u << 20];
};

static struct stream *stream_open(const char *path, const char *headers) {
    struct stream *s = calloc(1, sizeof *s);
    char request[512];
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, headers);
    s->fd = client_connect();
    assert_true(client_send(s->fd, request, (size_t)n));
    return s;
}

/* Reads until the text is there; false: the stream ended first. */
static bool stream_wait(struct stream *s, const char *text) {
    while (strstr(s->text, text) == NULL) {
        assert_true(s->len + 1 < sizeof s->text);
        ssize_t n = recv(s->fd, s->text + s->len, sizeof s->text - 1 - s->len, 0);
        if (n <= 0) {
            return false;
        }
        s->len += (size_t)n;
        s->text[s->len] = '\0';
    }
    return true;
}

static void stream_close(struct stream *s) {
    close(s->fd);
    free(s);
}

static int count_of(const char *text, const char *word) {
    int count = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at++) {
        count++;
    }
    return count;
}

static void publish(const char *type, int64_t id, int number) {
    char data[128];
    snprintf(data, sizeof data, "{\"experiment_id\":%lld,\"n\":%d}", (long long)id, number);
    dd_api_publish(server, type, id, data);
}

static void wait_readers(int wanted) {
    struct dd_api_stats stats;
    do {
        usleep(2000);
        dd_api_get_stats(server, &stats);
    } while (stats.event_readers != wanted);
}

static void test_stream(void **state) {
    (void)state;
    struct stream *s = stream_open(V1 "/events", "");
    assert_true(stream_wait(s, "retry: 2000\n")); /* before anything happens */
    assert_true(stream_wait(s, "\n\n"));
    assert_non_null(strstr(s->text, "Content-Type: text/event-stream"));
    publish("status", 7, 1);
    assert_true(stream_wait(s, "event: status\ndata: {\"experiment_id\":7,\"n\":1}\n\n"));
    dd_api_publish(server, "log", 7, "two\nlines\r\n\r\nevent: forged");
    assert_true(stream_wait(s, "event: log\ndata: two\ndata: lines\ndata: \ndata: \ndata: \ndata: event: forged\n\n"));
    stream_close(s);
    wait_readers(0); /* a client that has gone is noticed though nothing is sent */
}

static void test_types(void **state) {
    (void)state;
    struct stream *some = stream_open(V1 "/events?types=status,epoch", "");
    struct stream *steps = stream_open(V1 "/events?types=step&steps_of=9&step_every=3600", "");
    assert_true(stream_wait(some, "retry"));
    assert_true(stream_wait(steps, "retry"));
    wait_readers(2);
    publish("step", 8, 1);
    publish("step", 9, 2);
    publish("log", 9, 3);
    publish("epoch", 9, 4); /* lets held-back steps go first */
    publish("step", 9, 5);
    publish("status", 9, 6);
    assert_true(stream_wait(some, "\"n\":6"));
    assert_int_equal(count_of(some->text, "event: "), 2);
    assert_true(stream_wait(steps, "\"n\":2"));
    stream_close(some);
    dd_api_publish(server, "step", 10, "{\"n\":7}");
    publish("status", 9, 8); /* neither is for it; its next byte would be the fifth step, which came too soon */
    usleep(300000);
    struct pollfd more = {.fd = steps->fd, .events = POLLIN};
    assert_int_equal(poll(&more, 1, 0), 0);
    assert_int_equal(count_of(steps->text, "event: "), 1);
    stream_close(steps);
    wait_readers(0);
}

static void test_filter(void **state) {
    (void)state;
    struct stream *s = stream_open(V1 "/experiments/8/events", "");
    assert_true(stream_wait(s, "retry"));
    publish("epoch", 9, 1);
    publish("epoch", 8, 2);
    publish("epoch", 9, 3);
    publish("epoch", 8, 4);
    assert_true(stream_wait(s, "\"n\":4"));
    assert_int_equal(count_of(s->text, "event: epoch"), 2);
    assert_null(strstr(s->text, "\"experiment_id\":9"));
    stream_close(s);
}

static void test_resume(void **state) {
    (void)state;
    struct stream *s = stream_open(V1 "/events", "");
    assert_true(stream_wait(s, "retry"));
    publish("status", 1, 100);
    assert_true(stream_wait(s, "\"n\":100}\n\n"));
    char id[64] = "", headers[256], path[256];
    const char *last = NULL;
    for (const char *at = s->text; (at = strstr(at, "id: ")) != NULL; at++) {
        last = at;
    }
    sscanf(last, "id: %63s", id);
    stream_close(s);
    for (int i = 101; i < 110; i++) {
        publish("status", 1, i);
    }
    snprintf(headers, sizeof headers, "Last-Event-ID: %s\r\n", id);
    s = stream_open(V1 "/events", headers);
    assert_true(stream_wait(s, "\"n\":109"));
    assert_int_equal(count_of(s->text, "event: status"), 9);
    assert_null(strstr(s->text, "\"n\":100}"));
    assert_null(strstr(s->text, "event: reset"));
    stream_close(s);
    snprintf(path, sizeof path, V1 "/events?last_event_id=%s", id);
    s = stream_open(path, "");
    assert_true(stream_wait(s, "\"n\":109"));
    stream_close(s);
    /* the id that a stream begins with can be resumed from as well */
    s = stream_open(V1 "/events", "");
    assert_true(stream_wait(s, "id: "));
    assert_true(stream_wait(s, "\n\n"));
    sscanf(strstr(s->text, "id: "), "id: %63s", id);
    stream_close(s);
    publish("status", 1, 110);
    snprintf(headers, sizeof headers, "Last-Event-ID: %s\r\n", id);
    s = stream_open(V1 "/events", headers);
    assert_true(stream_wait(s, "\"n\":110"));
    assert_null(strstr(s->text, "\"n\":109"));
    stream_close(s);
}

static void test_reset(void **state) {
    (void)state;
    static const char *const unknown[] = {"00000000-1", "garbage", "-", "%00", "99999999999999999999-1"};
    for (size_t i = 0; i < DD_ARRAY_LEN(unknown); i++) {
        char headers[128];
        snprintf(headers, sizeof headers, "Last-Event-ID: %s\r\n", unknown[i]);
        struct stream *s = stream_open(V1 "/events", headers);
        assert_true(stream_wait(s, "event: reset\ndata: "));
        stream_close(s);
    }
    struct stream *s = stream_open(V1 "/events", "");
    assert_true(stream_wait(s, "id: "));
    assert_true(stream_wait(s, "\n\n"));
    char id[64], headers[128];
    sscanf(strstr(s->text, "id: "), "id: %63s", id);
    stream_close(s);
    for (int i = 0; i < 5000; i++) { /* more than the ring holds */
        publish("log", 3, i);
    }
    snprintf(headers, sizeof headers, "Last-Event-ID: %s\r\n", id);
    s = stream_open(V1 "/events", headers);
    assert_true(stream_wait(s, "event: reset"));
    publish("log", 3, 77777);
    assert_true(stream_wait(s, "77777"));
    assert_int_equal(count_of(s->text, "event: log"), 1);
    stream_close(s);
}

/* Steps: the newest of a quarter of a second, never after an event that came later, never lost at the end. */
static void test_steps(void **state) {
    (void)state;
    struct stream *s = stream_open(V1 "/events", "");
    assert_true(stream_wait(s, "retry"));
    for (int i = 1; i <= 1000; i++) {
        publish("step", 4, i);
    }
    publish("epoch", 4, 1001);
    for (int i = 1002; i <= 1500; i++) {
        publish("step", 4, i);
    }
    publish("step", 5, 1); /* another run has its own quarter of a second */
    assert_true(stream_wait(s, "\"n\":1500"));
    assert_non_null(strstr(s->text, "\"n\":1}"));
    const char *last_before = strstr(s->text, "\"n\":1000}"), *epoch = strstr(s->text, "event: epoch");
    assert_true(last_before != NULL && epoch != NULL && last_before < epoch);
    assert_true(count_of(s->text, "event: step") < 50);
    stream_close(s);
}

/* A reader that does not read is dropped when it has fallen out of the ring, and publishing goes on meanwhile. */
static void test_slow_reader(void **state) {
    (void)state;
    struct stream *slow = stream_open(V1 "/events", ""), *quick = stream_open(V1 "/events", "");
    wait_readers(2);
    assert_true(stream_wait(quick, "retry"));
    char *data = malloc(20001);
    memset(data, 'x', 20000);
    data[20000] = '\0';
    for (int i = 0; i < 2000; i++) { /* 40 MB: five times the ring, and more than sockets hold */
        dd_api_publish(server, "log", 6, data);
        if (i % 20 == 19) { /* the quick one keeps up */
            char mark[32];
            snprintf(mark, sizeof mark, "mark%d", i);
            dd_api_publish(server, "log", 6, mark);
            assert_true(stream_wait(quick, mark));
            quick->len = 0;
            quick->text[0] = '\0';
        }
    }
    free(data);
    wait_readers(1); /* dropped though its client never reads */
    size_t total = 0;
    char bytes[65536];
    for (ssize_t n; (n = recv(slow->fd, bytes, sizeof bytes, 0)) > 0;) { /* what the sockets held, then the end */
        total += (size_t)n;
    }
    assert_true(total < (size_t)2000 * 20000);
    publish("status", 1, 5);
    assert_true(stream_wait(quick, "\"n\":5}"));
    stream_close(slow);
    stream_close(quick);
    wait_readers(0);
}

static void test_many_readers(void **state) {
    (void)state;
    enum { MANY = 50 };
    struct stream *streams[MANY];
    for (int i = 0; i < MANY; i++) {
        streams[i] = stream_open(i % 2 == 0 ? V1 "/events" : V1 "/experiments/5/events", "");
    }
    wait_readers(MANY);
    for (int i = 0; i < 200; i++) {
        publish("epoch", 5, 200000 + i);
    }
    for (int i = 0; i < MANY; i++) {
        assert_true(stream_wait(streams[i], "\"n\":200199}"));
        const char *at = streams[i]->text;
        for (int k = 0; k < 200; k++) { /* each once, in order */
            char mark[32];
            snprintf(mark, sizeof mark, "\"n\":%d}", 200000 + k);
            at = strstr(at, mark);
            assert_non_null(at);
        }
        assert_int_equal(count_of(streams[i]->text, "event: epoch"), 200);
    }
    struct stream *more[60];
    for (int i = 0; i < 60; i++) { /* the limit here is 100 */
        more[i] = stream_open(V1 "/events", "Connection: close\r\n");
    }
    wait_readers(100);
    int refused = 0;
    for (int i = 0; i < 60; i++) {
        assert_true(stream_wait(more[i], "\r\n\r\n"));
        refused += strstr(more[i]->text, " 503 ") != NULL && strstr(more[i]->text, "Retry-After") != NULL;
        stream_close(more[i]);
    }
    assert_int_equal(refused, 10);
    for (int i = 0; i < MANY; i++) {
        stream_close(streams[i]);
    }
    wait_readers(0);
}

/* Publishers on several threads, readers that come and go, and a stop in the middle. */
static atomic_bool publishing;
static void *publisher(void *context) {
    int64_t id = *(int64_t *)context;
    for (int i = 0; publishing; i++) {
        publish(i % 3 == 0 ? "log" : "step", id, i);
        if (i % 100 == 0) {
            usleep(1000);
        }
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    pthread_t threads[3];
    int64_t ids[3] = {1, 2, 3};
    publishing = true;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, publisher, &ids[i]), 0);
    }
    for (int round = 0; round < 5; round++) {
        struct stream *streams[10];
        for (int i = 0; i < 10; i++) {
            streams[i] = stream_open(i % 2 == 0 ? V1 "/events" : V1 "/experiments/2/events", "");
        }
        for (int i = 0; i < 10; i++) {
            assert_true(stream_wait(streams[i], "event: log"));
            stream_close(streams[i]);
        }
    }
    publishing = false;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    wait_readers(0);
}

static int setup(void **state) {
    (void)state;
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    struct dd_api_config config = {.max_event_readers = 100};
    server_start(&config);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),      cmocka_unit_test(test_filter),       cmocka_unit_test(test_types),
        cmocka_unit_test(test_resume),      cmocka_unit_test(test_reset),        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_many_readers), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, setup, teardown_default);
}
