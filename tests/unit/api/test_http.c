/* The conventions of the contract, over real sockets: routing, parameters, negotiation, caching, paging, bodies. */
#include <zlib.h>

#include "api/internal.h"
#include "fake.h"
#include "pages_fixture.h"

#define V1 "/api/v1"
#define JSON_TYPE "Content-Type: application/json\r\n"

static const char *param(const struct reply *reply, const char *name) {
    return json_text(cJSON_GetObjectItemCaseSensitive(reply->json, "params"), name);
}

static void test_dispatch(void **state) {
    (void)state;
    struct reply r = client_get(V1 "/experiments/42");
    assert_int_equal(r.status, 200);
    assert_int_equal((int)json_number(r.json, "id"), 42);
    assert_string_equal(reply_header(&r, "Content-Type"), "application/json");
    assert_string_equal(reply_header(&r, "X-Content-Type-Options"), "nosniff");
    assert_non_null(reply_header(&r, "Referrer-Policy"));
    assert_non_null(reply_header(&r, "Cross-Origin-Resource-Policy"));
    assert_non_null(strstr(reply_header(&r, "Content-Security-Policy"), "frame-ancestors 'none'"));
    assert_string_equal(reply_header(&r, "Cache-Control"), "no-cache");
    reply_free(&r);
    r = client_get(V1 "/experiments/7/epochs/best/report?split=test");
    assert_string_equal(json_text(r.json, "epoch"), "best");
    assert_string_equal(param(&r, "split"), "test");
    reply_free(&r);
    r = client_get(V1 "/datasets/a.b-c_%39/rows?q=%E5%A5%B6+x%26y");
    assert_string_equal(json_text(r.json, "name"), "a.b-c_9");
    assert_string_equal(param(&r, "q"), "奶 x&y");
    reply_free(&r);
    assert_problem(client_get(V1 "/experiments/abc"), 404, "not_found");
    assert_problem(client_get(V1 "/experiments/0"), 404, "not_found");
    assert_problem(client_get(V1 "/experiments/99999999999999999999"), 404, "not_found");
    assert_problem(client_get(V1 "/experiments/1/"), 404, "not_found");
    assert_problem(client_get(V1 "/experiments/1%2Fmetrics"), 404, "not_found");
    assert_problem(client_get(V1 "/datasets/..%2f..%2fetc"), 404, "not_found");
    assert_problem(client_get(V1 "/sweeps"), 404, "not_found"); /* not built in */
    assert_problem(client_get(V1 "/datasets/%ff"), 404, "not_found");
    assert_problem(client_get("/api"), 404, "not_found");
}

static void test_methods(void **state) {
    (void)state;
    struct reply r = client_call("PUT", V1 "/experiments", NULL, "{}");
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, POST, OPTIONS");
    assert_problem(r, 405, "method_not_allowed");
    r = client_call("TRACE", V1 "/experiments/1", NULL, NULL);
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, PATCH, DELETE, OPTIONS");
    assert_problem(r, 405, "method_not_allowed");
    assert_problem(client_call("POST", "/", NULL, ""), 405, "method_not_allowed");
    assert_problem(client_call("DELETE", "/metrics", NULL, NULL), 405, "method_not_allowed");
    r = client_call("OPTIONS", V1 "/experiments", NULL, NULL);
    assert_int_equal(r.status, 204);
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, POST, OPTIONS");
    reply_free(&r);
    r = client_get(V1 "/experiments/1");
    char length[32];
    snprintf(length, sizeof length, "%zu", r.len);
    reply_free(&r);
    r = client_call("HEAD", V1 "/experiments/1", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.len, 0);
    assert_string_equal(reply_header(&r, "Content-Length"), length);
    reply_free(&r);
    r = client_call("HEAD", V1 "/events", NULL, NULL);
    assert_int_equal(r.status, 200);
    reply_free(&r);
}

static void test_parameters(void **state) {
    (void)state;
    static const char *const bad[] = {
        "lmit=3",    "limit=0",        "limit=501",         "limit=x",   "limit=",     "limit=1&limit=2", "status=lost",
        "status=",   "status=queued,", "sort=secret",       "sort=--id", "pretty=yes", "dataset=Upper",   "cursor=",
        "limit=1.5", "limit=1e1",      "limit=%31%30%30%30"};
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        char path[128];
        snprintf(path, sizeof path, V1 "/experiments?%s", bad[i]);
        struct reply r = client_get(path);
        const cJSON *errors = cJSON_GetObjectItemCaseSensitive(r.json, "errors");
        assert_true(cJSON_GetArraySize(errors) == 1);
        const char *pointer = json_text(cJSON_GetArrayItem(errors, 0), "pointer");
        assert_memory_equal(pointer + 1, bad[i], strlen(pointer + 1));
        assert_problem(r, 422, "query_invalid");
    }
    struct reply r = client_get(V1 "/experiments?a=1&limit=x&sort=y&%7e/=2");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(r.json, "errors")), 4);
    assert_problem(r, 422, "query_invalid");
    r = client_get(
        V1 "/experiments?limit=a%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6"
           "%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6%E5%A5%B6");
    assert_int_equal(dd_utf8_check(r.body, r.len), r.len); /* a message that was cut is still text */
    assert_problem(r, 422, "query_invalid");
    assert_problem(client_get(V1 "/experiments?q=%zz"), 400, "query_malformed");
    assert_problem(client_get(V1 "/experiments?q=%00"), 400, "query_malformed");
    assert_problem(client_get(V1 "/experiments?q=%ff"), 400, "query_malformed");
    assert_problem(client_get(V1 "/compare"), 422, "query_invalid");
    assert_problem(client_get(V1 "/compare?ids=1,,2"), 422, "query_invalid");
    assert_problem(client_get(V1 "/compare?ids=1,0"), 422, "query_invalid");
    r = client_get(V1 "/compare?ids=3,1");
    assert_string_equal(param(&r, "ids"), "3,1");
    reply_free(&r);
    r = client_get(V1 "/experiments?status=queued,running&sort=-best_macro_f1&q=");
    assert_int_equal(r.status, 200);
    assert_string_equal(param(&r, "status"), "queued,running");
    reply_free(&r);
}

static void test_problems(void **state) {
    (void)state;
    struct reply r = client_get(V1 "/experiments/409");
    const cJSON *actions = cJSON_GetObjectItemCaseSensitive(r.json, "allowed_actions");
    assert_int_equal(cJSON_GetArraySize(actions), 2);
    assert_string_equal(cJSON_GetArrayItem(actions, 1)->valuestring, "pause");
    assert_problem(r, 409, "state_conflict");
    r = client_get(V1 "/experiments/422");
    const cJSON *errors = cJSON_GetObjectItemCaseSensitive(r.json, "errors");
    assert_int_equal(cJSON_GetArraySize(errors), 2);
    assert_string_equal(json_text(cJSON_GetArrayItem(errors, 0), "pointer"), "/alpha");
    assert_problem(r, 422, "spec_invalid");
    assert_problem(client_get(V1 "/experiments/404"), 404, "experiment_not_found");
    assert_problem(client_get(V1 "/experiments/404/events"), 404, "experiment_not_found");
    assert_problem(client_get(V1 "/experiments/500"), 500, "internal");
    assert_problem(client_get(V1 "/experiments/507"), 507, "no_space");
}

static void test_negotiation(void **state) {
    (void)state;
    struct reply r = client_call("GET", V1 "/experiments/1/metrics", "Accept: text/csv\r\n", NULL);
    assert_string_equal(r.body, "epoch,loss\n1,0.5\n");
    assert_memory_equal(reply_header(&r, "Content-Type"), "text/csv", 8);
    assert_non_null(strstr(reply_header(&r, "Vary"), "Accept"));
    reply_free(&r);
    r = client_get(V1 "/experiments/1/metrics?format=csv");
    assert_string_equal(r.body, "epoch,loss\n1,0.5\n");
    reply_free(&r);
    r = client_call("GET", V1 "/experiments/1/metrics", "Accept: text/csv;q=0.1\r\nAccept: application/*\r\n", NULL);
    assert_non_null(r.json);
    reply_free(&r);
    assert_problem(client_call("GET", V1 "/experiments/1", "Accept: text/csv\r\n", NULL), 406, "not_acceptable");
    r = client_get("/metrics");
    assert_string_equal(reply_header(&r, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    reply_free(&r);
    r = client_get(V1 "/experiments/1?pretty=1");
    assert_non_null(strstr(r.body, "\n\t\"id\":"));
    reply_free(&r);
}

static void test_etag(void **state) {
    (void)state;
    struct reply r = client_get(V1 "/experiments/5");
    assert_string_equal(reply_header(&r, "ETag"), "\"e-5-1\"");
    reply_free(&r);
    r = client_call("GET", V1 "/experiments/5", "If-None-Match: \"x\", W/\"e-5-1\"\r\n", NULL);
    assert_int_equal(r.status, 304);
    assert_int_equal(r.len, 0);
    assert_string_equal(reply_header(&r, "ETag"), "\"e-5-1\"");
    reply_free(&r);
    r = client_call("GET", V1 "/experiments/5?pretty=1", "If-None-Match: \"e-5-1\"\r\n", NULL);
    assert_int_equal(r.status, 200); /* other bytes, another tag */
    reply_free(&r);
    r = client_get(V1 "/experiments"); /* no tag of its own: the body's hash */
    char header[256];
    snprintf(header, sizeof header, "If-None-Match: %.200s\r\n", reply_header(&r, "ETag"));
    reply_free(&r);
    r = client_call("GET", V1 "/experiments", header, NULL);
    assert_int_equal(r.status, 304);
    reply_free(&r);
    r = client_call("GET", V1 "/experiments?limit=2", header, NULL);
    assert_int_equal(r.status, 200);
    reply_free(&r);
    r = client_call("GET", V1 "/experiments", "If-None-Match: *\r\n", NULL);
    assert_int_equal(r.status, 304);
    reply_free(&r);
    r = client_call("GET", V1 "/experiments/404", "If-None-Match: *\r\n", NULL);
    assert_int_equal(r.status, 404);
    reply_free(&r);
    r = client_get(V1 "/system");
    assert_null(reply_header(&r, "ETag"));
    reply_free(&r);
}

static void test_paging(void **state) {
    (void)state;
    struct reply r = client_get(V1 "/experiments?limit=2&q=a%26b");
    assert_string_equal(json_text(r.json, "next_cursor"), "after=2&x");
    assert_string_equal(reply_header(&r, "Link"),
                        "</api/v1/experiments?limit=2&q=a%26b&cursor=after%3D2%26x>; rel=\"next\"");
    reply_free(&r);
    r = client_get(V1 "/experiments?limit=2&cursor=after%3D2%26x");
    assert_string_equal(param(&r, "cursor"), "after=2&x");
    reply_free(&r);
    r = client_get(V1 "/experiments");
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(r.json, "next_cursor")));
    assert_null(reply_header(&r, "Link"));
    reply_free(&r);
}

static void test_gzip(void **state) {
    (void)state;
    struct reply plain = client_get(V1 "/experiments");
    struct reply r = client_call("GET", V1 "/experiments", "Accept-Encoding: gzip\r\n", NULL);
    assert_string_equal(reply_header(&r, "Content-Encoding"), "gzip");
    assert_memory_equal(reply_header(&r, "ETag"), "W/", 2);
    char out[65536];
    z_stream z = {
        .next_in = (Bytef *)r.body, .avail_in = (uInt)r.len, .next_out = (Bytef *)out, .avail_out = sizeof out};
    assert_int_equal(inflateInit2(&z, 31), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    assert_int_equal(z.total_out, plain.len);
    assert_memory_equal(out, plain.body, plain.len);
    inflateEnd(&z);
    reply_free(&r);
    reply_free(&plain);
    r = client_call("GET", V1 "/experiments/1", "Accept-Encoding: gzip\r\n", NULL);
    assert_null(reply_header(&r, "Content-Encoding")); /* too small to pay */
    reply_free(&r);
}

static void test_create(void **state) {
    (void)state;
    struct reply r = client_post_json(V1 "/experiments", "{\"dataset\":\"milk\",\"名\":\"\\u5976\"}");
    assert_int_equal(r.status, 201);
    assert_memory_equal(reply_header(&r, "Location"), "/api/v1/experiments/", 20);
    assert_string_equal(json_text(cJSON_GetObjectItemCaseSensitive(r.json, "body"), "名"), "奶");
    assert_null(reply_header(&r, "ETag"));
    reply_free(&r);
    r = client_post_json(V1 "/experiments?dry_run=1", "{}");
    assert_int_equal(r.status, 200);
    assert_null(reply_header(&r, "Location"));
    reply_free(&r);
    r = client_call("POST", V1 "/experiments/3/clone", NULL, NULL);
    assert_int_equal(r.status, 201);
    reply_free(&r);
    r = client_call("POST", V1 "/experiments/3/cancel", NULL, NULL);
    assert_int_equal(r.status, 202);
    reply_free(&r);
    r = client_call("POST", V1 "/experiments/3/cancel", "Content-Type: application/x-www-form-urlencoded\r\n", "");
    assert_int_equal(r.status, 202);
    reply_free(&r);
    r = client_post_json(V1 "/experiments/3/cancel", "{}");
    assert_int_equal(r.status, 202);
    reply_free(&r);
    assert_problem(client_post_json(V1 "/experiments/3/cancel", "{\"now\":1}"), 422, "request_invalid");
    r = client_call("DELETE", V1 "/experiments/3", NULL, NULL);
    assert_int_equal(r.status, 204);
    assert_int_equal(r.len, 0);
    reply_free(&r);
}

static void test_bodies(void **state) {
    (void)state;
    assert_problem(client_post_json(V1 "/experiments", "{\"dataset\":"), 400, "json_malformed");
    assert_problem(client_post_json(V1 "/experiments", "{\"a\":1,\"a\":2}"), 400, "json_repeated_name");
    assert_problem(client_post_json(V1 "/experiments", ""), 400, "json_malformed");
    assert_problem(client_post_json(V1 "/experiments", "[]"), 422, "body_not_object");
    assert_problem(client_post_json(V1 "/experiments", "\"x\""), 422, "body_not_object");
    assert_problem(client_call_bytes("POST", V1 "/experiments", JSON_TYPE, "{\"a\":\"\0\"}", 9), 400, "json_malformed");
    assert_problem(client_call("POST", V1 "/experiments", "Content-Type: text/csv\r\n", "a"), 415,
                   "content_type_unsupported");
    assert_problem(client_call("POST", V1 "/experiments", NULL, "{}"), 415, "content_type_unsupported");
    assert_problem(client_call("POST", V1 "/datasets", JSON_TYPE, "{}"), 415, "content_type_unsupported");
    struct reply r =
        client_call("POST", V1 "/experiments", "Content-Type: Application/JSON; charset=utf-8\r\n", "{\"a\":1}");
    assert_int_equal(r.status, 201);
    reply_free(&r);
    char large[8192];
    memset(large, ' ', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    assert_problem(client_post_json(V1 "/experiments", large), 413, "body_too_large");
    r = client_raw("POST " V1 "/experiments HTTP/1.1\r\nHost: localhost\r\n" JSON_TYPE
                   "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n");
    assert_int_equal(r.status, 201);
    assert_int_equal((int)json_number(cJSON_GetObjectItemCaseSensitive(r.json, "body"), "a"), 1);
    reply_free(&r);
    char chunked[16384];
    int at = snprintf(chunked, sizeof chunked,
                      "POST " V1 "/experiments HTTP/1.1\r\nHost: localhost\r\n" JSON_TYPE
                      "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2000\r\n");
    memset(chunked + at, ' ', 8192);
    snprintf(chunked + at + 8192, 16, "\r\n0\r\n\r\n");
    assert_problem(client_raw(chunked), 413, "body_too_large");
}

static void test_tables_of_fields(void **state) {
    (void)state;
    struct reply r = client_call("PATCH", V1 "/experiments/1", "Content-Type: application/merge-patch+json\r\n",
                                 "{\"name\":\"x\",\"tags\":null,\"notes\":null,\"priority\":null}");
    assert_int_equal(r.status, 200);
    const cJSON *body = cJSON_GetObjectItemCaseSensitive(r.json, "body");
    assert_true(cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(body, "tags")));
    assert_string_equal(json_text(body, "notes"), "");
    assert_int_equal((int)json_number(body, "priority"), 0);
    reply_free(&r);
    static const struct {
        const char *body;
        int faults;
    } bad[] = {{"{\"nmae\":\"x\"}", 1},
               {"{\"name\":1,\"tags\":\"a\",\"notes\":[],\"priority\":\"1\"}", 4},
               {"{\"tags\":[1,\"a\",{}]}", 2},
               {"{\"priority\":1.5}", 1},
               {"{\"priority\":1001}", 1}};
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        r = client_call("PATCH", V1 "/experiments/1", JSON_TYPE, bad[i].body);
        assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(r.json, "errors")), bad[i].faults);
        assert_problem(r, 422, "request_invalid");
    }
    static const char *const predict[] = {"{\"text\":[\"a\"]}", "{\"texts\":\"a\"}",     "{\"texts\":[1]}",
                                          "{\"texts\":[]}",     "{\"pairs\":[[\"a\"]]}", "{\"pairs\":[[\"a\",1]]}"};
    for (size_t i = 0; i < DD_ARRAY_LEN(predict); i++) {
        assert_problem(client_post_json(V1 "/models/m/predict", predict[i]), 422, "request_invalid");
    }
    assert_problem(client_post_json(V1 "/models/m/evaluate", "{\"split\":\"moon\"}"), 422, "request_invalid");
    assert_problem(client_post_json(V1 "/models", "{\"name\":\"../x\"}"), 422, "request_invalid");
}

static void test_file(void **state) {
    (void)state;
    struct reply r = client_get(V1 "/models/m1/archive");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.len, 1000000);
    assert_memory_equal(r.body + 999990, "000099999\n", 10);
    assert_string_equal(reply_header(&r, "Content-Type"), "application/gzip");
    assert_string_equal(reply_header(&r, "Content-Disposition"), "attachment; filename=\"m1_.tar.gz\"");
    reply_free(&r);
    r = client_call("HEAD", V1 "/models/m1/archive", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Length"), "1000000");
    reply_free(&r);
}

static void test_pages(void **state) {
    (void)state;
    static const char html[] = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    struct reply r = client_get("/");
    assert_string_equal(r.body, "<!doctype html><title>distilld</title>\n");
    assert_string_equal(reply_header(&r, "Content-Type"), "text/html; charset=utf-8");
    assert_string_equal(reply_header(&r, "Cache-Control"), "no-cache");
    assert_non_null(strstr(reply_header(&r, "Content-Security-Policy"), "script-src 'self'"));
    assert_null(strstr(reply_header(&r, "Content-Security-Policy"), "unsafe"));
    reply_free(&r);
    r = client_call("GET", "/", "Accept-Encoding: gzip\r\n", NULL);
    assert_string_equal(reply_header(&r, "Content-Encoding"), "gzip");
    assert_int_equal(r.len, sizeof index_gzip);
    assert_memory_equal(r.body, index_gzip, sizeof index_gzip);
    reply_free(&r);
    r = client_call("GET", "/runs/12?tab=log", html, NULL);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "<!doctype html><title>distilld</title>\n");
    reply_free(&r);
    r = client_get("/assets/app-1a2b.js");
    assert_string_equal(r.body, "export const one = 1;\n");
    assert_non_null(strstr(reply_header(&r, "Cache-Control"), "immutable"));
    reply_free(&r);
    r = client_call("GET", "/assets/app-1a2b.js", "If-None-Match: \"app-1\"\r\n", NULL);
    assert_int_equal(r.status, 304);
    reply_free(&r);
    assert_problem(client_get("/assets/gone.js"), 404, "not_found");
    assert_problem(client_call("GET", "/api/nothing", html, NULL), 404, "not_found");
    assert_problem(client_call("GET", "/api/v1/../../etc/passwd", html, NULL), 404, "not_found");
}

static void test_health(void **state) {
    (void)state;
    struct reply r = client_get("/healthz");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    r = client_get("/readyz");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    fake.not_ready = true;
    r = client_get("/readyz");
    assert_string_equal(reply_header(&r, "Retry-After"), "1");
    assert_problem(r, 503, "not_ready");
    fake.not_ready = false;
}

/* Every $ref resolves, every route is described, nothing that is not built in is. */
static void check_refs(const cJSON *document, const cJSON *node) {
    if (cJSON_IsString(node) && node->string != NULL && strcmp(node->string, "$ref") == 0) {
        assert_memory_equal(node->valuestring, "#/components/", 13);
        char copy[128];
        snprintf(copy, sizeof copy, "%s", node->valuestring + 2);
        const cJSON *at = document;
        for (char *save = NULL, *key = strtok_r(copy, "/", &save); key != NULL; key = strtok_r(NULL, "/", &save)) {
            at = cJSON_GetObjectItemCaseSensitive(at, key);
            if (at == NULL) {
                fail_msg("%s leads nowhere", node->valuestring);
            }
        }
    }
    for (const cJSON *child = node->child; child != NULL; child = child->next) {
        check_refs(document, child);
    }
}

static void test_openapi(void **state) {
    (void)state;
    struct reply r = client_get(V1 "/openapi.json");
    assert_int_equal(r.status, 200);
    check_refs(r.json, r.json);
    assert_non_null(strstr(r.body, "\"maximum\":9007199254740991")); /* not rounded */
    const cJSON *paths = cJSON_GetObjectItemCaseSensitive(r.json, "paths");
    assert_null(cJSON_GetObjectItemCaseSensitive(paths, V1 "/sweeps"));
    size_t count, described = 0;
    struct dd_api_ops ops = fake_ops();
    const struct dd_route *routes = dd_routes(&count);
    for (size_t i = 0; i < count; i++) {
        const cJSON *path = cJSON_GetObjectItemCaseSensitive(paths, routes[i].pattern);
        bool has = cJSON_GetObjectItem(path, dd_method_name(routes[i].method)) != NULL; /* any case */
        assert_int_equal(has, dd_route_enabled(&routes[i], &ops));
        described += has;
    }
    assert_true(described > 30);
    reply_free(&r);
    cJSON *offline = dd_api_openapi(&ops);
    assert_non_null(offline);
    cJSON_Delete(offline);
}

static void test_stats(void **state) {
    (void)state;
    struct dd_api_stats before, after;
    dd_api_get_stats(server, &before);
    struct reply r = client_get(V1 "/experiments/404");
    reply_free(&r);
    r = client_get(V1 "/experiments/500");
    reply_free(&r);
    dd_api_get_stats(server, &after);
    assert_int_equal(after.requests - before.requests, 2);
    assert_int_equal(after.responses_4xx - before.responses_4xx, 1);
    assert_int_equal(after.responses_5xx - before.responses_5xx, 1);
    assert_true(after.bytes_sent > before.bytes_sent);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_negotiation),
        cmocka_unit_test(test_etag),
        cmocka_unit_test(test_paging),
        cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_tables_of_fields),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_openapi),
        cmocka_unit_test(test_stats),
    };
    return cmocka_run_group_tests(tests, setup_default, teardown_default);
}
