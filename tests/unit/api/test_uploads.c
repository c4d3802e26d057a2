/* Multipart uploads through a real server: files on disk, fields, faults, limits, what is left behind. */
#include <dirent.h>

#include "fake.h"
#include "pages_fixture.h"

#define V1 "/api/v1"
#define FORM "Content-Type: multipart/form-data; boundary=bb\r\n"
#define FIELD(name, value) "--bb\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" value "\r\n"
#define FILE_PART(name, filename, data)                                                                                \
    "--bb\r\nContent-Disposition: form-data; name=\"" name "\"; filename=\"" filename                                  \
    "\"\r\nContent-Type: text/plain\r\n\r\n" data "\r\n"
#define END "--bb--\r\n"

static int files_left(void) {
    int count = 0;
    DIR *dir = opendir(fake.upload_dir);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

/* The answer may be on its way before the request is freed. */
static void wait_no_files(void) {
    for (int i = 0; i < 2000 && files_left() > 0; i++) {
        usleep(5000);
    }
    assert_int_equal(files_left(), 0);
}

static void test_form(void **state) {
    (void)state;
    struct reply r =
        client_call("POST", V1 "/datasets", FORM,
                    FIELD("name", "milk") FIELD("dev_fraction", "0.2") FIELD("text_column", "文本")
                        FILE_PART("train", "/home/me/训练.tsv", "a\tx\r\nb\ty\n") FILE_PART("dev", "dev.tsv", "") END);
    assert_int_equal(r.status, 201);
    const cJSON *params = cJSON_GetObjectItemCaseSensitive(r.json, "params");
    assert_string_equal(json_text(params, "name"), "milk");
    assert_string_equal(json_text(params, "text_column"), "文本");
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(r.json, "files"), *train = cJSON_GetArrayItem(files, 0);
    assert_int_equal(cJSON_GetArraySize(files), 2);
    assert_string_equal(json_text(train, "field"), "train");
    assert_string_equal(json_text(train, "filename"), "训练.tsv");
    assert_int_equal((int)json_number(train, "bytes"), 9);
    assert_int_equal((int)json_number(cJSON_GetArrayItem(files, 1), "bytes"), 0);
    reply_free(&r);
    wait_no_files();
    assert_int_equal(access(fake.seen_path, F_OK), -1);
}

static void test_repeated_files(void **state) {
    (void)state;
    struct reply r = client_call("POST", V1 "/models", FORM,
                                 FIELD("name", "m") FILE_PART("files", "config.json", "{}")
                                     FILE_PART("files", "vocab.txt", "[PAD]\n") END);
    assert_int_equal(r.status, 201);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(r.json, "files")), 2);
    reply_free(&r);
    r = client_post_json(V1 "/models", "{\"name\":\"m\",\"path\":\"/srv/m\"}"); /* the same call takes JSON */
    assert_int_equal(r.status, 201);
    reply_free(&r);
}

static void test_faults(void **state) {
    (void)state;
    static const struct {
        const char *body, *pointer;
        int faults;
    } cases[] = {
        {FIELD("name", "milk") END, "/train", 1},
        {FILE_PART("train", "t", "a") END, "/name", 1},
        {FIELD("name", "Milk") FILE_PART("train", "t", "a") END, "/name", 1},
        {FIELD("name", "") FILE_PART("train", "t", "a") END, "/name", 1},
        {FIELD("name", "m") FILE_PART("train", "t", "a") FIELD("trian", "1") END, "/trian", 1},
        {FIELD("name", "m") FIELD("name", "n") FILE_PART("train", "t", "a") END, "/name", 1},
        {FIELD("name", "m") FILE_PART("train", "t", "a") FILE_PART("train", "u", "a") END, "/train", 1},
        {FILE_PART("name", "n.txt", "m") FILE_PART("train", "t", "a") END, "/name", 1},
        {FIELD("name", "m") FILE_PART("train", "t", "a") FIELD("dev_fraction", "3") END, "/dev_fraction", 1},
        {FIELD("name", "m") FILE_PART("train", "t", "a") FIELD("dev_fraction", "nan") END, "/dev_fraction", 1},
        {FIELD("name", "m") FILE_PART("train", "t", "a") FIELD("format", "xls") FIELD("seed", "-1") END, "/format", 2},
        {FIELD("name", "m") FILE_PART("train", "t", "a") FIELD("label_column", "\xff") END, "/label_column", 1},
        {END, "/name", 2},
    };
    int created = fake.created;
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        struct reply r = client_call("POST", V1 "/datasets", FORM, cases[i].body);
        const cJSON *errors = cJSON_GetObjectItemCaseSensitive(r.json, "errors");
        assert_int_equal(cJSON_GetArraySize(errors), cases[i].faults);
        assert_string_equal(json_text(cJSON_GetArrayItem(errors, 0), "pointer"), cases[i].pointer);
        assert_problem(r, 422, "request_invalid");
    }
    assert_int_equal(fake.created, created);
    wait_no_files();
}

static void test_malformed(void **state) {
    (void)state;
    assert_problem(client_call("POST", V1 "/datasets", "Content-Type: multipart/form-data\r\n", "x"), 400,
                   "multipart_malformed");
    assert_problem(client_call("POST", V1 "/datasets", FORM, FILE_PART("train", "t", "a")), 400, "multipart_malformed");
    assert_problem(client_call("POST", V1 "/datasets", FORM, ""), 400, "multipart_malformed");
    assert_problem(client_call("POST", V1 "/datasets", FORM, "--bb\r\nContent-Disposition: form-data\r\n\r\n\r\n" END),
                   400, "multipart_malformed");
    char *big = malloc(200000);
    snprintf(big, 200000, FIELD("text_column", "%0100000d") END, 1);
    assert_problem(client_call("POST", V1 "/datasets", FORM, big), 413, "field_too_large");
    free(big);
    wait_no_files();
}

/* Larger than any buffer on the way; the limit of this server is 8 MiB. */
static void test_large(void **state) {
    (void)state;
    static const char head[] = FIELD("name", "big") "--bb\r\nContent-Disposition: form-data; name=\"train\"; "
                                                    "filename=\"big.tsv\"\r\n\r\n";
    static const char tail[] = "\r\n" END;
    size_t data = 6u << 20, len = sizeof head - 1 + data + sizeof tail - 1;
    char *body = malloc(len);
    memcpy(body, head, sizeof head - 1);
    for (size_t i = 0; i < data; i++) { /* full of near-delimiters */
        body[sizeof head - 1 + i] = "\r\n--b\r\n-\n"[(i * 7 + i / 1000) % 10];
    }
    memcpy(body + sizeof head - 1 + data, tail, sizeof tail - 1);
    uint8_t digest[DD_SHA256_BYTES];
    char hex[DD_SHA256_HEX_BYTES];
    dd_sha256_bytes(body + sizeof head - 1, data, digest);
    dd_hex(digest, sizeof digest, hex);
    struct reply r = client_call_bytes("POST", V1 "/datasets", FORM, body, len);
    assert_int_equal(r.status, 201);
    const cJSON *file = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(r.json, "files"), 0);
    assert_int_equal((int)json_number(file, "bytes"), (int)data);
    assert_string_equal(json_text(file, "sha256"), hex);
    reply_free(&r);
    free(body);

    body = calloc(1, 9u << 20);
    assert_problem(client_call_bytes("POST", V1 "/datasets", FORM, body, 9u << 20), 413, "body_too_large");
    free(body);
    wait_no_files();
}

/* A client that goes away in the middle leaves nothing. */
static void test_abandoned(void **state) {
    (void)state;
    static const char head[] = "POST " V1 "/datasets HTTP/1.1\r\nHost: localhost\r\n" FORM
                               "Content-Length: 1000000\r\n\r\n" FILE_PART("train", "t", "some data");
    int fd = client_connect();
    assert_true(client_send(fd, head, sizeof head - 1));
    for (int i = 0; i < 2000 && files_left() == 0; i++) {
        usleep(5000);
    }
    assert_int_equal(files_left(), 1);
    close(fd);
    wait_no_files();
}

/* /dev/full cannot be a directory, but a directory that has gone is an upload that cannot be stored: the rest of the
 * body is drained and the problem answered. */
static void test_cannot_store(void **state) {
    (void)state;
    assert_int_equal(rmdir(fake.upload_dir), 0);
    size_t len = 3u << 20;
    char *body = calloc(1, len);
    memset(body, 'x', len);
    static const char head[] = "--bb\r\nContent-Disposition: form-data; name=\"train\"; filename=\"t\"\r\n\r\n";
    memcpy(body, head, sizeof head - 1);
    struct reply r = client_call_bytes("POST", V1 "/datasets", FORM, body, len);
    free(body);
    assert_true(r.status >= 400);
    assert_string_equal(reply_header(&r, "Content-Type"), "application/problem+json");
    reply_free(&r);
    assert_int_equal(mkdir(fake.upload_dir, 0750), 0);
}

static void test_emptied_at_start(void **state) {
    (void)state;
    char path[128];
    teardown_default(state);
    assert_int_equal(mkdir(fake.upload_dir, 0750), 0);
    snprintf(path, sizeof path, "%s/up-left", fake.upload_dir);
    assert_int_equal(dd_file_write_durable(path, "x", 1, NULL), DD_OK);
    setup_default(state);
    assert_int_equal(files_left(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),         cmocka_unit_test(test_repeated_files),
        cmocka_unit_test(test_faults),       cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_large),        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_cannot_store), cmocka_unit_test(test_emptied_at_start),
    };
    return cmocka_run_group_tests(tests, setup_default, teardown_default);
}
