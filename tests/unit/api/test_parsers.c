/* The parsers that read what clients send: percent-decoding, UTF-8, JSON, Accept, ETag lists, multipart. */
#include "api/internal.h"
#include "client.h"
#include "pages_fixture.h"

static void test_percent_decode(void **state) {
    (void)state;
    static const struct {
        const char *in, *out; /* out NULL: refused */
        bool plus;
    } cases[] = {{"abc", "abc", false},   {"a+b", "a b", true},       {"a+b", "a+b", false},
                 {"%41%7e", "A~", false}, {"%e5%a5%b6", "奶", false}, {"%", NULL, false},
                 {"%4", NULL, false},     {"%zz", NULL, false},       {"%00", NULL, false},
                 {"%ff", NULL, false},    {"%c0%af", NULL, false},    {"%ed%a0%80", NULL, false},
                 {"a%2Fb", "a/b", false}, {"%2500", "%00", false}};
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        char text[64];
        snprintf(text, sizeof text, "%s", cases[i].in);
        assert_int_equal(dd_percent_decode(text, cases[i].plus), cases[i].out != NULL);
        if (cases[i].out != NULL) {
            assert_string_equal(text, cases[i].out);
        }
    }
}

static void test_json(void **state) {
    (void)state;
    static const char *const good[] = {
        "{}",    "[]", " {\"a\" : [1, -0.5e+3, true, false, null, \"\\u00e9\\ud83d\\ude00\\n\"] } ",
        "\"x\"", "0",  "{\"a\":{\"a\":1},\"b\":{\"a\":1}}"};
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "ends"},
        {"{", "member name"},
        {"{\"a\":1,}", "member name"},
        {"[1,]", "expected a value"},
        {"{\"a\" 1}", "':'"},
        {"{a:1}", "member name"},
        {"{\"a\":1} x", "follows"},
        {"[01]", "number"},
        {"[+1]", "number"},
        {"[1.]", "number"},
        {"[.5]", "number"},
        {"[1e999]", "number"},
        {"[NaN]", "expected a value"},
        {"[\"\x01\"]", "control"},
        {"[\"\\x\"]", "escape"},
        {"[\"\\u12\"]", "four"},
        {"[\"\\u0000\"]", "U+0000"},
        {"[\"\\ud800\"]", "surrogate"},
        {"[\"\\ud800\\u0041\"]", "surrogate"},
        {"[\"\\udc00\"]", "surrogate"},
        {"[\"abc", "does not end"},
        {"[\"\xff\"]", "UTF-8"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "more than once"},
        {"{\"x\":{\"k\":1,\"\\u006b\":2}}", "more than once"},
        {"tru", "expected a value"},
        {"[1 2]", "']'"},
        {"\n\n  [1,\n  !]", "line 4, column 3"},
        {"[1111111111111111111111111111111111111111111111111111111111111111111111]", "60"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(good); i++) {
        cJSON *json = NULL;
        struct dd_error err = {0};
        if (dd_strict_json_parse(good[i], strlen(good[i]), &json, &err) != DD_OK) {
            fail_msg("%s: %s", good[i], err.message);
        }
        cJSON_Delete(json);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        cJSON *json = NULL;
        struct dd_error err = {0};
        if (dd_strict_json_parse(bad[i].text, strlen(bad[i].text), &json, &err) != DD_MALFORMED ||
            strstr(err.message, bad[i].says) == NULL) {
            fail_msg("%s: %s", bad[i].text, err.message);
        }
        assert_null(json);
    }
}

static void test_json_depth(void **state) {
    (void)state;
    char text[2 * DD_JSON_MAX_DEPTH + 8];
    for (int extra = 0; extra < 2; extra++) {
        size_t depth = (size_t)(DD_JSON_MAX_DEPTH + extra);
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        cJSON *json = NULL;
        assert_int_equal(dd_strict_json_parse(text, 2 * depth, &json, NULL), extra ? DD_MALFORMED : DD_OK);
        cJSON_Delete(json);
    }
    static char deep[1u << 20];
    memset(deep, '[', sizeof deep);
    cJSON *json = NULL;
    assert_int_equal(dd_strict_json_parse(deep, sizeof deep, &json, NULL), DD_MALFORMED);
}

static void test_accept(void **state) {
    (void)state;
    static const char *const offers[] = {"application/json", "text/csv", NULL};
    static const char *const versioned[] = {"text/plain; version=0.0.4", NULL};
    static const struct {
        const char *accept, *pick;
    } cases[] = {
        {NULL, "application/json"},
        {"", "application/json"},
        {"*/*", "application/json"},
        {"text/csv", "text/csv"},
        {"text/*", "text/csv"},
        {"TEXT/CSV", "text/csv"},
        {"application/json;q=0.5, text/csv", "text/csv"},
        {"text/csv;q=0.2, application/json;q=0.1", "text/csv"},
        {"text/csv;q=0, */*", "application/json"},
        {"application/json;q=0,text/*;q=0", NULL},
        {"image/png", NULL},
        {"application/json;q=0.9;v=1 , text/csv;q=0.8", "application/json"},
        {"garbage", NULL},
        {"*/*;q=0.1,text/csv;q=0.05", "application/json"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        const char *pick = dd_accept_pick(cases[i].accept, offers);
        if (cases[i].pick == NULL) {
            assert_null(pick);
        } else {
            assert_string_equal(pick, cases[i].pick);
        }
    }
    assert_non_null(
        dd_accept_pick("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", versioned));
    assert_true(dd_accept_gzip("gzip"));
    assert_true(dd_accept_gzip("br, gzip;q=0.5"));
    assert_true(dd_accept_gzip("*"));
    assert_false(dd_accept_gzip("gzip;q=0, *"));
    assert_false(dd_accept_gzip("identity"));
    assert_false(dd_accept_gzip(NULL));
}

static void test_etag_list(void **state) {
    (void)state;
    assert_true(dd_etag_listed("\"a\"", "a"));
    assert_true(dd_etag_listed("W/\"a\"", "a"));
    assert_true(dd_etag_listed("\"x\", W/\"a,b\" ,\"c\"", "a,b"));
    assert_true(dd_etag_listed("*", "a"));
    assert_false(dd_etag_listed("\"aa\"", "a"));
    assert_false(dd_etag_listed("a", "a"));
    assert_false(dd_etag_listed("\"a", "b"));
    assert_false(dd_etag_listed("", "a"));
}

/* --- multipart --------------------------------------------------------------------------------------------------- */

struct log {
    char text[4096]; /* "name|filename|data;" a part */
};
static enum dd_status log_begin(void *context, const struct dd_part *part, struct dd_error *err) {
    (void)err;
    struct log *log = context;
    snprintf(log->text + strlen(log->text), 600, "%s|%s|", part->name, part->has_filename ? part->filename : "-");
    return DD_OK;
}
static enum dd_status log_data(void *context, const char *bytes, size_t count, struct dd_error *err) {
    (void)err;
    struct log *log = context;
    size_t len = strlen(log->text);
    assert_true(len + count < sizeof log->text);
    memcpy(log->text + len, bytes, count);
    return DD_OK;
}
static enum dd_status log_end(void *context, struct dd_error *err) {
    (void)err;
    strcat(((struct log *)context)->text, ";");
    return DD_OK;
}

/* Feeds the body in pieces of `step` bytes. */
static enum dd_status feed(const char *type, const char *body, size_t step, struct log *log, struct dd_error *err) {
    struct dd_multipart_sink sink = {log, log_begin, log_data, log_end};
    struct dd_multipart *multipart;
    *log = (struct log){""};
    enum dd_status status = dd_multipart_new(type, &sink, &multipart, err);
    if (status != DD_OK) {
        return status;
    }
    size_t len = strlen(body);
    for (size_t at = 0; at < len && status == DD_OK; at += step) {
        status = dd_multipart_feed(multipart, body + at, DD_MIN(step, len - at), err);
    }
    status = status == DD_OK ? dd_multipart_finish(multipart, err) : status;
    dd_multipart_free(multipart);
    return status;
}

#define TYPE "multipart/form-data; boundary=bb"
#define PART(disposition, data) "--bb\r\nContent-Disposition: form-data; " disposition "\r\n\r\n" data "\r\n"

static void test_multipart_good(void **state) {
    (void)state;
    static const struct {
        const char *type, *body, *log;
    } cases[] = {
        {TYPE, PART("name=a", "1") "--bb--\r\n", "a|-|1;"},
        {TYPE, PART("name=\"a\"", "") PART("name=\"b\"; filename=\"x.tsv\"", "1\t2\r\n") "--bb--",
         "a|-|;b|x.tsv|1\t2\r\n;"},
        {TYPE, "preamble --bb\r\n" PART("name=a", "1") "--bb--\r\nepilogue --bb", "a|-|1;"},
        {TYPE, PART("name=a", "--bb") "--bb--", "a|-|--bb;"},
        {TYPE, PART("name=a", "\r\n--b\r\r\n-") "--bb--", "a|-|\r\n--b\r\r\n-;"},
        {TYPE, PART("filename=\"C:\\dir\\f \\\"q\\\".txt\"; name=\"a\"", "") "--bb--", "a|f \"q\".txt|;"},
        {TYPE, PART("name=a; filename=\"../../etc/passwd\"", "") "--bb--", "a|passwd|;"},
        {TYPE, PART("name=a; filename=\"..\"", "") "--bb--", "a||;"},
        {TYPE, PART("name=a; filename=\"\"", "") "--bb--", "a||;"},
        {"multipart/form-data; charset=x; BOUNDARY=\"b b\"",
         "--b b  \r\nX: y\r\ncontent-disposition:form-data;name=a\r\nContent-Type: text/plain\r\n\r\n1\r\n--b b--",
         "a|-|1;"},
        {TYPE, PART("name=\"奶\"; filename=\"粉.tsv\"", "1") "--bb--", "奶|粉.tsv|1;"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        for (size_t step = 1; step < 80; step += step < 8 ? 1 : 13) { /* however it is cut, it reads the same */
            struct log log;
            struct dd_error err = {0};
            if (feed(cases[i].type, cases[i].body, step, &log, &err) != DD_OK) {
                fail_msg("case %zu, step %zu: %s", i, step, err.message);
            }
            assert_string_equal(log.text, cases[i].log);
        }
    }
}

static void test_multipart_bad(void **state) {
    (void)state;
    char long_header[12000], long_name[400];
    snprintf(long_header, sizeof long_header, "--bb\r\nX: %011000d\r\n\r\n", 0);
    snprintf(long_name, sizeof long_name, "--bb\r\nContent-Disposition: form-data; name=%0200d\r\n\r\n\r\n--bb--", 1);
    const char *const bad[][2] = {
        {"multipart/form-data", ""},
        {"multipart/form-data; boundary=", ""},
        {"multipart/form-data; boundary=\"a", ""},
        {"multipart/form-data; boundary=a\x01"
         "b",
         ""},
        {"multipart/form-data; boundary=01234567890123456789012345678901234567890123456789012345678901234567890", ""},
        {TYPE, ""},
        {TYPE, "--bb"},
        {TYPE, PART("name=a", "1")},
        {TYPE, "--bb\r\n\r\nx\r\n--bb--"},
        {TYPE, PART("filename=x", "1") "--bb--"},
        {TYPE, PART("name=\"\"", "1") "--bb--"},
        {TYPE, PART("name=\"a", "1") "--bb--"},
        {TYPE, "--bbx\r\n--bb--"},
        {TYPE, "--bb\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--bb--"},
        {TYPE, PART("name=a; filename=\"a\x01\"", "1") "--bb--"},
        {TYPE, PART("name=\"\xff\"", "1") "--bb--"},
        {TYPE, long_header},
        {TYPE, long_name},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        for (size_t step = 1; step < 20000; step *= 21) {
            struct log log;
            if (feed(bad[i][0], bad[i][1], step, &log, NULL) != DD_MALFORMED) {
                fail_msg("case %zu, step %zu was taken: %s", i, step, log.text);
            }
        }
    }
}

static void test_multipart_many(void **state) {
    (void)state;
    struct dd_buffer body;
    dd_buffer_init(&body, 1u << 20);
    for (int i = 0; i <= DD_MAX_PARTS; i++) {
        dd_buffer_puts(&body, PART("name=a", ""));
    }
    dd_buffer_puts(&body, "--bb--");
    struct log log;
    struct dd_error err = {0};
    assert_int_equal(feed(TYPE, body.data, 4000, &log, &err), DD_TOO_LARGE);
    assert_string_equal(err.code, "too_many_parts");
    dd_buffer_release(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percent_decode), cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_depth),     cmocka_unit_test(test_accept),
        cmocka_unit_test(test_etag_list),      cmocka_unit_test(test_multipart_good),
        cmocka_unit_test(test_multipart_bad),  cmocka_unit_test(test_multipart_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
