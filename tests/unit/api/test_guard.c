/* Who is let in: Host, Origin, Sec-Fetch-Site, token; and what malformed, oversized and stalling clients get. */
#include "fake.h"
#include "pages_fixture.h"

#define V1 "/api/v1"
#define TOKEN "correct horse"

static struct dd_api_token token_of(const char *name, enum dd_scope scope, const char *secret) {
    struct dd_api_token token = {.scope = scope};
    snprintf(token.name, sizeof token.name, "%s", name);
    dd_sha256_bytes(secret, strlen(secret), token.sha256);
    return token;
}

static void start_with(bool token) {
    static struct dd_api_token tokens[1];
    static const char *const hosts[] = {"gpu.example", NULL};
    struct dd_api_config config = {.hosts = hosts, .max_json_bytes = 4096};
    server_start(&config);
    tokens[0] = token_of("mouse", DD_SCOPE_FULL, TOKEN);
    if (token) {
        fake_set_tokens(tokens, 1);
    }
}

static int setup(void **state) {
    (void)state;
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    start_with(false);
    return 0;
}

static int status_of(const char *method, const char *path, const char *headers) {
    struct reply r = client_call(method, path, headers, strcmp(method, "POST") == 0 ? "" : NULL);
    int status = r.status;
    reply_free(&r);
    return status;
}

static void test_host(void **state) {
    (void)state;
    static const struct {
        const char *host;
        int status;
    } cases[] = {{"Host: localhost", 200},
                 {"Host: LOCALHOST.:8080", 200},
                 {"Host: 127.0.0.1:1", 200},
                 {"Host: 127.9.9.9", 200},
                 {"Host: [::1]:80", 200},
                 {"Host: gpu.example", 200},
                 {"Host: GPU.Example:8080", 200},
                 {"Host: evil.example", 421},
                 {"Host: localhost.evil.example", 421},
                 {"Host: 127.0.0.1.evil.com", 421},
                 {"Host: 10.0.0.1", 421},
                 {"Host: localhost:x", 421},
                 {"Host: localhost:123456", 421},
                 {"Host: [::1", 421},
                 {"Host: user@localhost", 421},
                 {"Host: localhost\r\nHost: evil", 400},
                 {"Host: ", 421},
                 {"Host: xgpu.example", 421}};
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        char headers[128];
        snprintf(headers, sizeof headers, "%s\r\n", cases[i].host);
        int got = status_of("GET", V1 "/system", headers);
        if (got != cases[i].status) {
            fail_msg("%s: %d", cases[i].host, got);
        }
    }
    assert_problem(client_call("GET", "/", "Host: evil.example\r\n", NULL), 421, "host_foreign"); /* pages too */
    assert_problem(client_raw("GET /healthz HTTP/1.0\r\n\r\n"), 400, "host_missing");
    struct reply r =
        client_raw("GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_problem(r, 421, "host_foreign");
    r = client_raw("GET http://localhost/healthz?pretty=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_int_equal(r.status, 200);
    reply_free(&r);
}

static void test_origin(void **state) {
    (void)state;
    static const struct {
        const char *method, *path, *headers;
        int status;
    } cases[] = {
        {"POST", V1 "/experiments/1/cancel", "", 202},
        {"POST", V1 "/experiments/1/cancel", "Origin: http://localhost\r\n", 202},
        {"POST", V1 "/experiments/1/cancel", "Origin: http://localhost:80\r\n", 202},
        {"POST", V1 "/experiments/1/cancel", "Origin: http://localhost:81\r\n", 403},
        {"POST", V1 "/experiments/1/cancel", "Origin: https://localhost\r\n", 202} /* a proxy that ends TLS */,
        {"POST", V1 "/experiments/1/cancel", "Origin: http://evil.example\r\n", 403},
        {"POST", V1 "/experiments/1/cancel", "Origin: null\r\n", 403},
        {"POST", V1 "/experiments/1/cancel", "Sec-Fetch-Site: same-origin\r\n", 202},
        {"POST", V1 "/experiments/1/cancel", "Sec-Fetch-Site: none\r\n", 202},
        {"POST", V1 "/experiments/1/cancel", "Sec-Fetch-Site: same-site\r\n", 403},
        {"POST", V1 "/experiments/1/cancel", "Sec-Fetch-Site: cross-site\r\n", 403},
        {"DELETE", V1 "/experiments/1", "Origin: http://evil.example\r\n", 403},
        {"GET", V1 "/system", "Sec-Fetch-Site: cross-site\r\n", 403},
        {"GET", V1 "/system", "Origin: http://evil.example\r\n", 403},
        {"GET", "/metrics", "Sec-Fetch-Site: cross-site\r\n", 403},
        {"GET", "/", "Sec-Fetch-Site: cross-site\r\n", 200}, /* a link to the dashboard may be followed */
        {"OPTIONS", V1 "/experiments", "Origin: http://evil.example\r\n", 403},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        int got = status_of(cases[i].method, cases[i].path, cases[i].headers);
        if (got != cases[i].status) {
            fail_msg("case %zu: %s %s%s gave %d", i, cases[i].method, cases[i].path, cases[i].headers, got);
        }
    }
}

static void test_token(void **state) {
    (void)state;
    server_stop();
    start_with(true);
    struct reply r = client_get(V1 "/system");
    assert_string_equal(reply_header(&r, "WWW-Authenticate"), "Bearer realm=\"distilld\"");
    assert_problem(r, 401, "token_missing");
    assert_problem(client_get(V1 "/nothing"), 401, "token_missing");
    assert_problem(client_get("/metrics"), 401, "token_missing");
    r = client_call("GET", V1 "/system", "Authorization: Bearer wrong\r\n", NULL);
    assert_non_null(strstr(reply_header(&r, "WWW-Authenticate"), "invalid_token"));
    assert_problem(r, 401, "token_wrong");
    assert_int_equal(status_of("GET", V1 "/system", "Authorization: Basic eDp5\r\n"), 401);
    assert_int_equal(status_of("GET", V1 "/system", "Authorization: Bearer " TOKEN "\r\n"), 200);
    assert_int_equal(status_of("GET", V1 "/system", "Authorization: bearer " TOKEN "\r\n"), 200);
    assert_int_equal(status_of("GET", V1 "/system", "Authorization: Bearer " TOKEN "x\r\n"), 401);
    assert_int_equal(status_of("GET", V1 "/system", "Authorization: Bearer \r\n"), 401);
    assert_int_equal(status_of("POST", V1 "/experiments/1/cancel", ""), 401);
    assert_int_equal(status_of("GET", "/healthz", ""), 200);
    assert_int_equal(status_of("GET", "/readyz", ""), 200);
    assert_int_equal(status_of("GET", "/", ""), 200);
    server_stop();
    start_with(false);
}

/* Whether the log has a line with all of the NULL-terminated words. */
static bool logged(FILE *log, const char *const *words) {
    char line[1024];
    rewind(log);
    while (fgets(line, sizeof line, log) != NULL) {
        bool all = true;
        for (const char *const *word = words; *word != NULL; word++) {
            all = all && strstr(line, *word) != NULL;
        }
        if (all) {
            return true;
        }
    }
    return false;
}

/* Changes and refusals are logged with who asked; plain reading is not, and the token never. */
static void test_audit(void **state) {
    (void)state;
    FILE *log = tmpfile();
    assert_non_null(log);
    server_stop();
    start_with(true);
    dd_log_configure(DD_LOG_INFO, DD_LOG_TEXT, fileno(log));
    assert_int_equal(status_of("GET", V1 "/experiments", "Authorization: Bearer wrong guess\r\n"), 401);
    assert_int_equal(status_of("GET", V1 "/datasets", "Authorization: Bearer " TOKEN "\r\n"), 200);
    assert_int_equal(status_of("GET", V1 "/models", "Origin: http://evil.example\r\n"), 403);
    assert_int_equal(status_of("DELETE", V1 "/experiments/7", "Authorization: Bearer " TOKEN "\r\n"), 204);
    server_stop(); /* every answer has been logged */
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    assert_true(logged(log, (const char *const[]){" 127.0.0.1 GET ", "/experiments", " 401 ", "token_wrong", NULL}));
    assert_true(logged(log, (const char *const[]){" 127.0.0.1 GET ", "/models", " 403 ", "origin_foreign", NULL}));
    assert_true(
        logged(log, (const char *const[]){" 127.0.0.1 DELETE ", "/experiments/7", " 204 ", "token=mouse", NULL}));
    assert_false(logged(log, (const char *const[]){"/datasets", NULL}));
    assert_false(logged(log, (const char *const[]){TOKEN, NULL}));
    assert_false(logged(log, (const char *const[]){"wrong guess", NULL}));
    fclose(log);
    start_with(false);
}

/* Whatever comes in, the server answers the next one. */
static void test_malformed(void **state) {
    (void)state;
    static const char *const bad[] = {
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "get /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET http:// HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        "GET / HTTP/1.1\r\n: x\r\nHost: localhost\r\n\r\n",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n0\r\n\r\n",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\n{}x",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: application/json\r\nConnection: close\r\n\r\nzz\r\n{}\r\n",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n"
        "Content-Type: application/json\r\nConnection: close\r\n\r\n{\"dataset\":\"d\",\"teacher\":\"t\"}",
        "POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        "Transfer-Encoding: identity\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "DELETE /api/v1/experiments/1/../2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        "GET /healthz\x7f\x01 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        int fd = client_connect();
        (void)client_send(fd, bad[i], strlen(bad[i]));
        shutdown(fd, SHUT_WR);
        struct reply r = client_read(fd, false);
        close(fd);
        if (r.status >= 200 && r.status < 300 && strstr(bad[i], "OPTIONS") == NULL) {
            fail_msg("case %zu was taken: %d", i, r.status);
        }
        if (r.status >= 500 && r.status != 505) {
            fail_msg("case %zu: %d", i, r.status);
        }
        reply_free(&r);
        assert_int_equal(status_of("GET", "/healthz", ""), 200);
    }
}

static void test_too_long(void **state) {
    (void)state;
    char *text = malloc(300000);
    int n = snprintf(text, 300000, "GET /%0100000d HTTP/1.1\r\nHost: localhost\r\n\r\n", 1);
    int fd = client_connect();
    (void)client_send(fd, text, (size_t)n);
    struct reply r = client_read(fd, false);
    close(fd);
    assert_true(r.status == 414 || r.status == 431 || r.status == 0);
    reply_free(&r);
    n = snprintf(text, 300000, "GET / HTTP/1.1\r\nHost: localhost\r\nX: %0100000d\r\n\r\n", 1);
    fd = client_connect();
    (void)client_send(fd, text, (size_t)n);
    r = client_read(fd, false);
    close(fd);
    assert_true(r.status == 431 || r.status == 0);
    reply_free(&r);
    free(text);
    snprintf((text = malloc(8000)), 8000, "/%05000d", 1);
    assert_problem(client_get(text), 404, "not_found");
    free(text);
    assert_int_equal(status_of("GET", "/healthz", ""), 200);
}

/* A body announced as larger than the limit is refused before it is sent. */
static void test_expect(void **state) {
    (void)state;
    struct reply r =
        client_raw("POST " V1 "/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                   "Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n");
    assert_string_equal(reply_header(&r, "Connection"), "close");
    assert_problem(r, 413, "body_too_large");
    r = client_raw("POST " V1 "/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                   "Content-Length: 100000000000\r\n\r\n");
    assert_problem(r, 413, "body_too_large");
}

/* An error does not cost the connection: the body is read to its end, and the next request is served. */
static void test_keep_alive(void **state) {
    (void)state;
    int fd = client_connect();
    static const char *const requests[] = {
        "POST " V1
        "/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
        "PATCH " V1 "/experiments/1 HTTP/1.1\r\nHost: evil\r\nContent-Length: 5\r\n\r\nhello",
        "GET " V1 "/experiments/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        "PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    static const int wanted[] = {415, 421, 200, 404, 200};
    for (size_t i = 0; i < DD_ARRAY_LEN(requests); i++) {
        assert_true(client_send(fd, requests[i], strlen(requests[i])));
        struct reply r = client_read(fd, false);
        assert_int_equal(r.status, wanted[i]);
        reply_free(&r);
    }
    /* all at once: answered in order */
    for (size_t i = 0; i < DD_ARRAY_LEN(requests); i++) {
        assert_true(client_send(fd, requests[i], strlen(requests[i])));
    }
    shutdown(fd, SHUT_WR);
    char all[16384] = "";
    for (size_t len = 0;;) {
        ssize_t n = recv(fd, all + len, sizeof all - 1 - len, 0);
        if (n <= 0) {
            break;
        }
        len += (size_t)n;
    }
    close(fd);
    const char *at = all;
    for (size_t i = 0; i < DD_ARRAY_LEN(wanted); i++) {
        at = strstr(at, "HTTP/1.1 ");
        assert_non_null(at);
        at += 9;
        assert_int_equal(atoi(at), wanted[i]);
    }
}

/* Two hundred clients that stop in the middle do not keep others out, nor the server from stopping. */
static void test_stalls(void **state) {
    (void)state;
    int stalled[200];
    for (size_t i = 0; i < DD_ARRAY_LEN(stalled); i++) {
        static const char *const parts[] = {
            "GET /heal",
            "POST " V1 "/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{\"a\"",
            ""};
        stalled[i] = client_connect();
        const char *part = parts[i % DD_ARRAY_LEN(parts)];
        assert_true(client_send(stalled[i], part, strlen(part)));
    }
    for (int i = 0; i < 20; i++) {
        assert_int_equal(status_of("GET", V1 "/experiments/1", ""), 200);
    }
    server_stop();
    start_with(false);
    for (size_t i = 0; i < DD_ARRAY_LEN(stalled); i++) {
        close(stalled[i]);
    }
}

static void test_bad_start(void **state) {
    (void)state;
    struct dd_api_ops ops = fake_ops();
    static const char *const listens[] = {
        "", "8080", "127.0.0.1", ":80", "::1:80", "127.0.0.1:70000", "no.such.host.invalid:1"};
    for (size_t i = 0; i < DD_ARRAY_LEN(listens); i++) {
        struct dd_api_config config = {.listen = listens[i], .upload_dir = fake.upload_dir};
        struct dd_api *api = NULL;
        struct dd_error err = {0};
        assert_int_not_equal(dd_api_start(&config, &ops, &api, &err), DD_OK);
        assert_null(api);
        assert_true(strlen(err.message) > 10);
    }
    char taken[64];
    snprintf(taken, sizeof taken, "127.0.0.1:%u", client_port);
    struct dd_api_config config = {.listen = taken, .upload_dir = fake.upload_dir};
    struct dd_api *api = NULL;
    assert_int_not_equal(dd_api_start(&config, &ops, &api, NULL), DD_OK);
    config.listen = "127.0.0.1:0";
    config.tls_cert = config.tls_key = "/dev/null";
    assert_int_not_equal(dd_api_start(&config, &ops, &api, NULL), DD_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),      cmocka_unit_test(test_origin),     cmocka_unit_test(test_token),
        cmocka_unit_test(test_audit),     cmocka_unit_test(test_malformed),  cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_expect),    cmocka_unit_test(test_keep_alive), cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_bad_start),
    };
    return cmocka_run_group_tests(tests, setup, teardown_default);
}
