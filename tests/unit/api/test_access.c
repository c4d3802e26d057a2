/* Tokens and sessions: what opens the door, how far it opens, what a browser may do with its cookie, and that nothing
 * outlives its token. */
#include "api/internal.h"
#include "fake.h"
#include "pages_fixture.h"

#define V1 "/api/v1"
#define FULL "a token with every right"
#define READ "a token that may only look"

static struct dd_api_token tokens[2];

static struct dd_api_token token_of(const char *name, enum dd_scope scope, const char *secret) {
    struct dd_api_token token = {.scope = scope};
    snprintf(token.name, sizeof token.name, "%s", name);
    dd_sha256_bytes(secret, strlen(secret), token.sha256);
    return token;
}

static void set_tokens(void) {
    tokens[0] = token_of("alice", DD_SCOPE_FULL, FULL);
    tokens[1] = token_of("grafana", DD_SCOPE_READ, READ);
    fake_set_tokens(tokens, 2);
}

static int setup(void **state) {
    (void)setup_default(state);
    set_tokens();
    return 0;
}

static struct reply call_with(const char *method, const char *path, const char *token, const char *more,
                              const char *body) {
    char headers[1024];
    snprintf(headers, sizeof headers, "%s%s%s%s%s", token != NULL ? "Authorization: Bearer " : "",
             token != NULL ? token : "", token != NULL ? "\r\n" : "", more,
             body != NULL ? "Content-Type: application/json\r\n" : "");
    return client_call(method, path, headers, body);
}

static int status_with(const char *method, const char *path, const char *token, const char *more) {
    struct reply r = call_with(method, path, token, more, strcmp(method, "GET") == 0 ? NULL : "{}");
    int status = r.status;
    reply_free(&r);
    return status;
}

static void test_read_only(void **state) {
    (void)state;
    static const char *const refused[][2] = {
        {"POST", V1 "/experiments"},    {"POST", V1 "/experiments?dry_run=1"}, {"POST", V1 "/experiments/1/cancel"},
        {"PATCH", V1 "/experiments/1"}, {"DELETE", V1 "/experiments/1"},       {"DELETE", V1 "/datasets/milk"},
        {"POST", V1 "/models"}};
    for (size_t i = 0; i < DD_ARRAY_LEN(refused); i++) {
        assert_problem(call_with(refused[i][0], refused[i][1], READ, "", "{}"), 403, "token_read_only");
    }
    int created = fake.created;
    for (const char *const *path = (const char *const[]){V1 "/experiments", V1 "/system", "/metrics", NULL};
         *path != NULL; path++) {
        assert_int_equal(status_with("GET", *path, READ, ""), 200);
        assert_int_equal(status_with("HEAD", *path, READ, ""), 200);
    }
    assert_int_equal(status_with("OPTIONS", V1 "/experiments", READ, ""), 204);
    fake_release(true);
    struct reply r = call_with("POST", V1 "/models/m/predict", READ, "", "{\"texts\":[\"a\"]}");
    assert_int_equal(r.status, 200); /* a question */
    reply_free(&r);
    assert_int_equal(fake.created, created + 1); /* by that question alone */
    assert_int_equal(status_with("POST", V1 "/experiments/1/cancel", FULL, ""), 202);
}

static void test_who(void **state) {
    (void)state;
    struct reply r = call_with("GET", V1 "/session", READ, "", NULL);
    assert_string_equal(json_text(r.json, "name"), "grafana");
    assert_string_equal(json_text(r.json, "scope"), "read");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(r.json, "required")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(r.json, "expires_at")));
    reply_free(&r);
    assert_problem(call_with("GET", V1 "/session", NULL, "", NULL), 401, "token_missing");
}

/* Signs in; the cookie as a header line. */
static void sign_in(const char *token, char out[160]) {
    char body[160];
    snprintf(body, sizeof body, "{\"token\":\"%s\"}", token);
    struct reply r = call_with("POST", V1 "/session", NULL, "Origin: http://localhost\r\n", body);
    assert_int_equal(r.status, 201);
    const char *cookie = reply_header(&r, "Set-Cookie");
    assert_non_null(cookie);
    assert_non_null(strstr(cookie, "; HttpOnly"));
    assert_non_null(strstr(cookie, "; SameSite=Strict"));
    assert_non_null(strstr(cookie, "; Path=/"));
    assert_null(strstr(cookie, "Secure")); /* plain HTTP */
    assert_null(strstr(cookie, token));
    snprintf(out, 160, "Cookie: theme=dark; %.*s; x=\"y\"\r\n", (int)strcspn(cookie, ";"), cookie);
    assert_non_null(json_text(r.json, "expires_at"));
    reply_free(&r);
}

static void test_session(void **state) {
    (void)state;
    char cookie[160], headers[400];
    sign_in(READ, cookie);
    assert_int_equal(status_with("GET", V1 "/experiments", NULL, cookie), 200);
    struct reply r = call_with("GET", V1 "/session", NULL, cookie, NULL);
    assert_string_equal(json_text(r.json, "name"), "grafana");
    reply_free(&r);
    snprintf(headers, sizeof headers, "%sOrigin: http://localhost\r\n", cookie);
    assert_problem(call_with("DELETE", V1 "/experiments/1", NULL, headers, "{}"), 403, "token_read_only");
    /* another value of the same name, set by a page of this host, does not hide ours */
    snprintf(headers, sizeof headers, "Cookie: distilld-%u=%064d\r\n%s", client_port, 0, cookie);
    assert_int_equal(status_with("GET", V1 "/experiments", NULL, headers), 200);
    /* a token that is sent counts, not the cookie beside it */
    assert_int_equal(status_with("GET", V1 "/experiments", "wrong", cookie), 401);
    snprintf(headers, sizeof headers, "%sOrigin: http://localhost\r\n", cookie);
    r = call_with("DELETE", V1 "/session", NULL, headers, NULL);
    assert_int_equal(r.status, 204);
    assert_non_null(strstr(reply_header(&r, "Set-Cookie"), "Max-Age=0"));
    reply_free(&r);
    assert_problem(call_with("GET", V1 "/experiments", NULL, cookie, NULL), 401, "token_missing");
}

static void test_sign_in_refused(void **state) {
    (void)state;
    static const char *const bodies[] = {"{\"token\":\"wrong\"}", "{\"token\":\"" FULL "x\"}"};
    for (size_t i = 0; i < DD_ARRAY_LEN(bodies); i++) {
        struct reply r = call_with("POST", V1 "/session", NULL, "", bodies[i]);
        assert_null(reply_header(&r, "Set-Cookie"));
        assert_problem(r, 401, "token_wrong");
    }
    static const char *const nonsense[] = {"{}", "{\"token\":7}", "{\"token\":\"\"}", "{\"token\":\"a\",\"b\":1}"};
    for (size_t i = 0; i < DD_ARRAY_LEN(nonsense); i++) {
        assert_problem(call_with("POST", V1 "/session", NULL, "", nonsense[i]), 422, "request_invalid");
    }
    assert_problem(call_with("POST", V1 "/session", NULL, "Origin: http://evil.example\r\n", "{}"), 403,
                   "origin_foreign");
    struct reply r = client_call("POST", V1 "/session", "Content-Type: text/plain\r\n", "{\"token\":\"" FULL "\"}");
    assert_problem(r, 415, "content_type_unsupported");
}

/* What changes something by cookie must come from our own pages. */
static void test_csrf(void **state) {
    (void)state;
    static const struct {
        const char *method, *headers;
        int status;
    } cases[] = {
        {"POST", "", 403},
        {"POST", "Sec-Fetch-Site: none\r\n", 403},
        {"POST", "Sec-Fetch-Site: same-site\r\n", 403},
        {"POST", "Sec-Fetch-Site: cross-site\r\n", 403},
        {"POST", "Origin: http://localhost:81\r\n", 403},
        {"POST", "Origin: null\r\n", 403},
        {"POST", "Sec-Fetch-Site: same-origin\r\n", 202},
        {"POST", "Origin: http://localhost\r\n", 202},
        {"GET", "", 200},
        {"GET", "Sec-Fetch-Site: none\r\n", 200},
        {"GET", "Sec-Fetch-Site: same-origin\r\n", 200},
        {"GET", "Sec-Fetch-Site: same-site\r\n", 403},
        {"GET", "Sec-Fetch-Site: cross-site\r\n", 403},
    };
    char cookie[160], headers[400];
    sign_in(FULL, cookie);
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        bool get = strcmp(cases[i].method, "GET") == 0;
        snprintf(headers, sizeof headers, "%s%s", cookie, cases[i].headers);
        int got = status_with(cases[i].method, get ? V1 "/experiments" : V1 "/experiments/1/cancel", NULL, headers);
        if (got != cases[i].status) {
            fail_msg("%s with %s gave %d", cases[i].method, cases[i].headers, got);
        }
    }
}

/* A token that is gone takes its sessions and event streams with it; others stay. */
static void test_revoked(void **state) {
    (void)state;
    char full[160], read[160];
    sign_in(FULL, full);
    sign_in(READ, read);
    int fd = client_connect();
    char request[400];
    snprintf(request, sizeof request, "GET " V1 "/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n",
             full);
    assert_true(client_send(fd, request, strlen(request)));
    char first;
    assert_int_equal(recv(fd, &first, 1, 0), 1); /* the stream is open */
    fake_set_tokens(&tokens[1], 1);
    assert_int_equal(status_with("GET", V1 "/experiments", NULL, full), 401);
    assert_int_equal(status_with("GET", V1 "/experiments", FULL, ""), 401);
    assert_int_equal(status_with("GET", V1 "/experiments", NULL, read), 200);
    struct reply rest = client_read(fd, false);
    reply_free(&rest);
    assert_int_equal(recv(fd, &first, 1, 0), 0); /* it has ended: one that stays would time out and give -1 */
    close(fd);
    fake_set_tokens(tokens, 0); /* none is left: nobody is let in */
    assert_int_equal(status_with("GET", V1 "/experiments", NULL, read), 401);
    assert_int_equal(status_with("GET", V1 "/experiments", READ, ""), 401);
    set_tokens();
    assert_int_equal(status_with("GET", V1 "/experiments", NULL, read), 401); /* a session does not come back */
    assert_int_equal(status_with("GET", V1 "/experiments", READ, ""), 200);
}

static void test_scope_changes(void **state) {
    (void)state;
    char cookie[160], headers[400];
    sign_in(FULL, cookie);
    snprintf(headers, sizeof headers, "%sOrigin: http://localhost\r\n", cookie);
    assert_int_equal(status_with("POST", V1 "/experiments/1/cancel", NULL, headers), 202);
    tokens[0].scope = DD_SCOPE_READ;
    fake_set_tokens(tokens, 2);
    assert_int_equal(status_with("POST", V1 "/experiments/1/cancel", NULL, headers), 403);
    set_tokens();
}

/* The clock is the test's: no waiting. */
static void test_expiry(void **state) {
    (void)state;
    struct dd_api_ops ops = fake_ops();
    struct dd_access *access = NULL;
    struct dd_identity who;
    struct dd_error err = {0};
    char first[DD_COOKIE_BYTES], cookie[DD_COOKIE_BYTES];
    fake_set_tokens(tokens, 2);
    assert_int_equal(dd_access_new(&ops, &access, &err), DD_OK);
    assert_true(dd_access_required(access));
    (void)dd_access_tick(access, 0);
    assert_int_equal(dd_access_sign_in(access, FULL, 1000, first, &who, &err), DD_OK);
    int64_t end = 1000 + (int64_t)DD_SESSION_SECONDS * 1000;
    assert_int_equal(who.expires_ms, end);
    assert_true(dd_access_session(access, first, end - 1, &who));
    assert_false(dd_access_session(access, first, end, &who));
    assert_false(dd_access_tick(access, end - 1));
    assert_true(dd_access_tick(access, end));
    assert_false(dd_access_tick(access, end));
    assert_false(dd_access_session(access, first, 2000, &who));
    assert_int_equal(dd_access_sign_in(access, FULL, 1000, first, &who, &err), DD_OK);
    for (int i = 1; i <= 256; i++) { /* there is room for 256: the oldest makes room */
        assert_true(dd_access_session(access, first, 2000, &who));
        assert_int_equal(dd_access_sign_in(access, READ, 1000 + i, cookie, &who, &err), DD_OK);
    }
    assert_false(dd_access_session(access, first, 2000, &who));
    assert_true(dd_access_session(access, cookie, 2000, &who));
    assert_string_equal(who.name, "grafana");
    assert_int_equal(dd_access_sign_in(access, "no such", 1000, cookie, &who, &err), DD_UNAUTHORIZED);
    dd_access_free(access);
    set_tokens();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_only),     cmocka_unit_test(test_who),
        cmocka_unit_test(test_session),       cmocka_unit_test(test_csrf),
        cmocka_unit_test(test_scope_changes), cmocka_unit_test(test_revoked),
        cmocka_unit_test(test_expiry),        cmocka_unit_test(test_sign_in_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown_default);
}
