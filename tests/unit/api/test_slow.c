/* Slow operations on request threads, Idempotency-Key, and stopping with all kinds of requests under way. */
#include "api/routes.h"
#include "fake.h"
#include "pages_fixture.h"

#define V1 "/api/v1"
#define PREDICT "{\"texts\":[\"a\"]}"
#define JSON_TYPE "Content-Type: application/json\r\n"
#define RAW_PREDICT                                                                                                    \
    "POST " V1 "/models/m/predict HTTP/1.1\r\nHost: localhost\r\n" JSON_TYPE "Content-Length: 15\r\n\r\n" PREDICT

static int setup(void **state) {
    (void)state;
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    struct dd_api_config config = {.request_threads = 3};
    server_start(&config);
    return 0;
}

/* The server anew, with operations of the test's own; 0 threads: as many as by default. */
static void start_again(const struct dd_api_ops *ops, int request_threads) {
    struct dd_api_config config = {
        .listen = "127.0.0.1:0", .upload_dir = fake.upload_dir, .request_threads = request_threads};
    dd_api_stop(server, 0);
    assert_int_equal(dd_api_start(&config, ops, &server, NULL), DD_OK);
    char address[128];
    dd_api_address(server, address, sizeof address);
    client_port = (unsigned)atoi(strrchr(address, ':') + 1);
}

static int send_predict(void) {
    int fd = client_connect();
    assert_true(client_send(fd, RAW_PREDICT, sizeof RAW_PREDICT - 1));
    return fd;
}

static int status_and_close(int fd) {
    struct reply r = client_read(fd, false);
    int status = r.status;
    close(fd);
    reply_free(&r);
    return status;
}

/* Waits until so many requests are parked and so many, of all there were, refused. */
static void wait_parked(int waiting, uint64_t refused) {
    struct dd_api_stats stats;
    do {
        usleep(1000);
        dd_api_get_stats(server, &stats);
    } while (stats.requests_waiting != waiting || stats.responses_5xx != refused);
}

/* Heavy work fills its threads; quick and slow calls are answered meanwhile. */
static void test_others_go_on(void **state) {
    (void)state;
    int busy[8];
    for (size_t i = 0; i < DD_ARRAY_LEN(busy); i++) {
        busy[i] = send_predict();
    }
    fake_wait_running(2); /* of three threads one stays free for the merely slow */
    struct reply r = client_get(V1 "/experiments/1");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    r = client_get(V1 "/experiments");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    assert_int_equal(fake.running, 2);
    fake_release(true);
    for (size_t i = 0; i < DD_ARRAY_LEN(busy); i++) {
        assert_int_equal(status_and_close(busy[i]), 200);
    }
    fake_release(false);
}

static atomic_uint_fast64_t revision_now;
static uint64_t revision(void *daemon) {
    (void)daemon;
    return revision_now;
}

static enum dd_status slow_steps(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                 struct dd_problem *problem) {
    enum dd_status status = fake_wait(daemon, call, result, problem);
    result->location[0] = '\0';
    return status;
}

static int ask(const char *path) {
    char get[256];
    int n = snprintf(get, sizeof get, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path), fd = client_connect();
    assert_true(client_send(fd, get, (size_t)n));
    return fd;
}

/* Who asks what is being answered already waits for that answer, even with threads to spare; other questions go on, and
 * so does the same one when what was to be answered has changed since. */
static void test_one_answer_for_all(void **state) {
    server_stop();
    setup(state);
    struct dd_api_ops ops = fake_ops();
    ops.experiment_steps = slow_steps;
    ops.revision = revision;
    start_again(&ops, 4);
    int clients[8], created = fake.created;
    for (size_t i = 0; i < DD_ARRAY_LEN(clients); i++) {
        clients[i] = ask(V1 "/experiments/1/steps");
    }
    fake_wait_running(1);
    wait_parked(7, 0);
    int other = ask(V1 "/experiments/2/steps");
    fake_wait_running(2);
    revision_now++;
    int later = ask(V1 "/experiments/1/steps");
    fake_wait_running(3);
    fake_release(true);
    for (size_t i = 0; i < DD_ARRAY_LEN(clients); i++) {
        assert_int_equal(status_and_close(clients[i]), 200);
    }
    assert_int_equal(status_and_close(other), 200);
    assert_int_equal(status_and_close(later), 200);
    assert_int_equal(fake.created - created, 3);
    fake_release(false);
}

static void test_queue_full(void **state) {
    (void)state;
    enum { MANY = 100 };
    int clients[MANY], busy = 0, served = 0;
    struct dd_api_stats before;
    dd_api_get_stats(server, &before);
    for (int i = 0; i < MANY; i++) {
        if (i == 2) {
            fake_wait_running(2); /* so that the others meet threads that are taken */
        }
        clients[i] = send_predict();
    }
    wait_parked(64, before.responses_5xx + MANY - 66);
    struct reply r; /* what is refused is answered while the others still wait */
    for (int i = 0; busy < MANY - 66; i = (i + 1) % MANY) {
        char c;
        if (clients[i] >= 0 && recv(clients[i], &c, 1, MSG_PEEK | MSG_DONTWAIT) == 1) {
            r = client_read(clients[i], false);
            assert_string_equal(reply_header(&r, "Retry-After"), "2");
            assert_problem(r, 503, "too_busy");
            close(clients[i]);
            clients[i] = -1;
            busy++;
        }
    }
    fake_release(true);
    for (int i = 0; i < MANY; i++) {
        if (clients[i] >= 0) {
            assert_int_equal(status_and_close(clients[i]), 200);
            served++;
        }
    }
    assert_int_equal(served, 66); /* two running, sixty-four waiting */
    fake_release(false);
}

static void test_client_gone(void **state) {
    (void)state;
    int fd = send_predict();
    fake_wait_running(1);
    fake.stopped = DD_STOP_NONE;
    close(fd);
    fake_wait_running(0); /* nobody releases it: the cancel flag does */
    assert_int_equal(fake.stopped, DD_STOP_CANCEL);
}

/* --- Idempotency-Key --------------------------------------------------------------------------------------------- */

static struct reply post_with_key(const char *path, const char *key, const char *body) {
    char headers[512];
    snprintf(headers, sizeof headers, JSON_TYPE "Idempotency-Key: %s\r\n", key);
    return client_call("POST", path, headers, body);
}

static void test_replay(void **state) {
    (void)state;
    struct reply first = post_with_key(V1 "/experiments", "k1", "{\"a\":1}");
    assert_int_equal(first.status, 201);
    char location[256];
    snprintf(location, sizeof location, "%.255s", reply_header(&first, "Location"));
    int created = fake.created;
    struct reply again = post_with_key(V1 "/experiments", "k1", "{\"a\":1}");
    assert_int_equal(again.status, 201);
    assert_string_equal(again.body, first.body);
    assert_string_equal(reply_header(&again, "Location"), location);
    assert_string_equal(reply_header(&again, "Idempotency-Replayed"), "true");
    assert_int_equal(fake.created, created);
    reply_free(&again);
    reply_free(&first);
    assert_problem(post_with_key(V1 "/experiments", "k1", "{\"a\":2}"), 422, "idempotency_key_reused");
    assert_problem(post_with_key(V1 "/experiments/1/clone", "k1", "{\"a\":1}"), 422, "idempotency_key_reused");
    assert_problem(post_with_key(V1 "/experiments", "", "{}"), 400, "idempotency_key_malformed");
    assert_problem(post_with_key(V1 "/experiments", "a b", "{}"), 400, "idempotency_key_malformed");
    assert_int_equal(fake.created, created);
    /* a refusal is not kept */
    assert_problem(post_with_key(V1 "/experiments/409/cancel", "k2", ""), 409, "state_conflict");
    again = post_with_key(V1 "/experiments", "k2", "{}");
    assert_int_equal(again.status, 201);
    reply_free(&again);
    /* a dry run makes nothing */
    again = post_with_key(V1 "/experiments?dry_run=1", "k3", "{}");
    assert_int_equal(again.status, 200);
    reply_free(&again);
    again = post_with_key(V1 "/experiments", "k3", "{}");
    assert_int_equal(again.status, 201);
    reply_free(&again);
}

#define UPLOAD(data)                                                                                                   \
    "--bb\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nm\r\n"                                               \
    "--bb\r\nContent-Disposition: form-data; name=\"train\"; filename=\"t.tsv\"\r\n\r\n" data "\r\n--bb--"
#define UPLOAD_HEADERS "Content-Type: multipart/form-data; boundary=bb\r\nIdempotency-Key: up\r\n"

static void test_replay_upload(void **state) {
    (void)state;
    struct reply first = client_call("POST", V1 "/datasets", UPLOAD_HEADERS, UPLOAD("a\tx"));
    assert_int_equal(first.status, 201);
    struct reply again = client_call("POST", V1 "/datasets", UPLOAD_HEADERS, UPLOAD("a\tx"));
    assert_string_equal(again.body, first.body);
    reply_free(&first);
    reply_free(&again);
    assert_problem(client_call("POST", V1 "/datasets", UPLOAD_HEADERS, UPLOAD("a\ty")), 422, "idempotency_key_reused");
}

static dd_api_fn *real_create;
static enum dd_status slow_create(void *daemon, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    return (call->n_files > 0 ? fake_wait : real_create)(daemon, call, result, problem);
}

static void test_two_at_once(void **state) {
    (void)state;
    server_stop();
    setup(state);
    /* model_create is heavy: made to wait, it holds its key */
    struct dd_api_ops ops = fake_ops();
    real_create = ops.dataset_create;
    ops.dataset_create = slow_create;
    start_again(&ops, 0);
    char *raw = NULL;
    assert_true(asprintf(&raw,
                         "POST " V1 "/datasets HTTP/1.1\r\nHost: localhost\r\n" UPLOAD_HEADERS
                         "Content-Length: %zu\r\n\r\n%s",
                         strlen(UPLOAD("a")), UPLOAD("a")) > 0);
    int fd = client_connect();
    assert_true(client_send(fd, raw, strlen(raw)));
    free(raw);
    fake_wait_running(1);
    struct reply r = client_call("POST", V1 "/datasets", UPLOAD_HEADERS, UPLOAD("a"));
    assert_string_equal(reply_header(&r, "Retry-After"), "1");
    assert_problem(r, 409, "idempotency_key_in_use");
    fake_release(true);
    assert_int_equal(status_and_close(fd), 201);
    fake_release(false);
    r = client_call("POST", V1 "/datasets", UPLOAD_HEADERS, UPLOAD("a"));
    assert_int_equal(r.status, 201);
    assert_non_null(reply_header(&r, "Idempotency-Replayed"));
    reply_free(&r);
}

/* --- stopping ----------------------------------------------------------------------------------------------------- */

/* Event streams, idle and half-sent connections, running and waiting operations: all end, and what ran is answered. */
static void test_stop(void **state) {
    (void)state;
    server_stop();
    setup(state);
    int streams[10], idle[10], half[10], busy[6];
    for (int i = 0; i < 10; i++) {
        static const char get[] = "GET " V1 "/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        static const char health[] = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        static const char part[] =
            "POST " V1 "/experiments HTTP/1.1\r\nHost: localhost\r\n" JSON_TYPE "Content-Length: 99\r\n\r\n{";
        char bytes[512];
        streams[i] = client_connect();
        assert_true(client_send(streams[i], get, sizeof get - 1));
        assert_true(recv(streams[i], bytes, sizeof bytes, 0) > 0);
        idle[i] = client_connect();
        assert_true(client_send(idle[i], health, sizeof health - 1));
        assert_true(recv(idle[i], bytes, sizeof bytes, 0) > 0);
        half[i] = client_connect();
        assert_true(client_send(half[i], part, sizeof part - 1));
    }
    for (int i = 0; i < 6; i++) {
        busy[i] = send_predict();
    }
    fake_wait_running(2);
    wait_parked(4, 0);
    dd_api_stop(server, 50);
    server = NULL;
    assert_int_equal(fake.running, 0);
    assert_int_equal(fake.stopped, DD_STOP_SHUTDOWN);
    for (int i = 0; i < 6; i++) {
        struct reply r = client_read(busy[i], false);
        assert_problem(r, 503, "stopping");
        close(busy[i]);
    }
    for (int i = 0; i < 10; i++) {
        close(streams[i]);
        close(idle[i]);
        close(half[i]);
    }
    setup(state);
}

static void test_stop_drains(void **state) {
    (void)state;
    int fd = send_predict();
    fake_wait_running(1);
    fake_release(true);
    dd_api_stop(server, 5000);
    server = NULL;
    assert_int_equal(status_and_close(fd), 200);
    setup(state);
}

/* What changes something waits for its commit, and a submission may hash a data set: never on the HTTP thread. */
static void test_changes_leave_the_http_thread(void **state) {
    (void)state;
    size_t count, changes = 0;
    const struct dd_route *routes = dd_routes(&count);
    for (size_t i = 0; i < count; i++) {
        if (routes[i].method == DD_GET || routes[i].builtin == DD_BUILTIN_SESSION) { /* sessions are in memory */
            continue;
        }
        changes++;
        if (!(routes[i].flags & (DD_ROUTE_SLOW | DD_ROUTE_HEAVY))) {
            fail_msg("%s", routes[i].operation_id);
        }
    }
    assert_true(changes >= 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_others_go_on),  cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_client_gone),   cmocka_unit_test(test_replay),
        cmocka_unit_test(test_replay_upload), cmocka_unit_test(test_two_at_once),
        cmocka_unit_test(test_stop),          cmocka_unit_test(test_changes_leave_the_http_thread),
        cmocka_unit_test(test_stop_drains),   cmocka_unit_test(test_one_answer_for_all),
    };
    return cmocka_run_group_tests(tests, setup, teardown_default);
}
