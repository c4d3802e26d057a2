/* TLS from files: the same server behind it, with streams and slow calls; a real TLS client (libcurl).
 * The key is a test's own, made for this file, and guards nothing.
 */
#include <curl/curl.h>

#include "fake.h"
#include "pages_fixture.h"

static const char cert_pem[] = "-----BEGIN CERTIFICATE-----\n"
                               "MIIBmzCCAUGgAwIBAgIUf/Z1EmohFrBd7Bp7pEuZEJ0NaOcwCgYIKoZIzj0EAwIw\n"
                               "FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzIxMzI1MFoYDzIxMjYxMDMw\n"
                               "MjEzMjUwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO\n"
                               "PQMBBwNCAAQ/Y13fwb0HvhoZMzwrqK7NtIW//vd7P/dIMjSW04Kp1MAQ3eYvQGTi\n"
                               "dqemG1n+g0F/kMvalDmsqEALnsO0chMEo28wbTAdBgNVHQ4EFgQUAEdkJOD5AlSI\n"
                               "OtWt+lxS8WAyOUUwHwYDVR0jBBgwFoAUAEdkJOD5AlSIOtWt+lxS8WAyOUUwDwYD\n"
                               "VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI\n"
                               "zj0EAwIDSAAwRQIgaAAAEMasdM7OSQ04APg9wGev2a2DO+hKQlJG6MYcdiECIQD7\n"
                               "c2GtMyv2VEJw7iSQkifgBYK6wW1S2UqLOS9Tt6LeKA==\n"
                               "-----END CERTIFICATE-----\n";
static const char key_pem[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKmYJT93ekMNtkz//\n"
                              "wpTwN3ECYhUil5iic++gMRgTX7ChRANCAAQ/Y13fwb0HvhoZMzwrqK7NtIW//vd7\n"
                              "P/dIMjSW04Kp1MAQ3eYvQGTidqemG1n+g0F/kMvalDmsqEALnsO0chME\n"
                              "-----END PRIVATE KEY-----\n";

static const char next_cert_pem[] = "-----BEGIN CERTIFICATE-----\n"
                                    "MIIBmzCCAUGgAwIBAgIULQ36WzWNgkQcoviP2I4sFQwJNX0wCgYIKoZIzj0EAwIw\n"
                                    "FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDAyMDA1NloYDzIxMjYxMDMx\n"
                                    "MDIwMDU2WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO\n"
                                    "PQMBBwNCAATrqKL+TmbWT9iYeqQGO0wU9rviviVOMznvUHp0U6JulA0sRvc8znJK\n"
                                    "7clPBBZbl65PlOXAnlNUDIHi7DW7dIgYo28wbTAdBgNVHQ4EFgQUWTOOqkjrejzR\n"
                                    "IOTwwjrQ1DJSeiEwHwYDVR0jBBgwFoAUWTOOqkjrejzRIOTwwjrQ1DJSeiEwDwYD\n"
                                    "VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI\n"
                                    "zj0EAwIDSAAwRQIhAJjkF9Aq5mouRnroxSBqd69/nfZUGcFfKck3RdNiOFBHAiAR\n"
                                    "NWQps197yvxbP8PU8BY5VlYfMBOwnS+Mnr9nwUe2Lw==\n"
                                    "-----END CERTIFICATE-----\n";
static const char next_key_pem[] = "-----BEGIN PRIVATE KEY-----\n"
                                   "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgiOCp4BwZbhJZz+tQ\n"
                                   "Hdh7eNephnfVu70KdsOjyrF+bkehRANCAATrqKL+TmbWT9iYeqQGO0wU9rviviVO\n"
                                   "MznvUHp0U6JulA0sRvc8znJK7clPBBZbl65PlOXAnlNUDIHi7DW7dIgY\n"
                                   "-----END PRIVATE KEY-----\n";

static char cert_path[64], key_path[64];

struct answer {
    long status;
    char body[4096];
};

static size_t keep(char *bytes, size_t size, size_t count, void *context) {
    struct answer *answer = context;
    size_t len = strlen(answer->body);
    if (len + size * count < sizeof answer->body) {
        memcpy(answer->body + len, bytes, size * count);
    }
    return size * count;
}

static struct answer call(const char *path, const char *body) {
    struct answer answer = {0};
    char url[256];
    snprintf(url, sizeof url, "https://localhost:%u%s", client_port, path);
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CAINFO, cert_path); /* the peer is verified */
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 20L);
    if (body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    CURLcode result = curl_easy_perform(curl);
    if (result != CURLE_OK) {
        fail_msg("%s: %s", path, curl_easy_strerror(result));
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return answer;
}

static void test_calls(void **state) {
    (void)state;
    assert_int_equal(call("/healthz", NULL).status, 200);
    assert_int_equal(call("/api/v1/experiments", NULL).status, 200);
    assert_int_equal(call("/api/v1/experiments", "{\"a\":1}").status, 201);
    assert_int_equal(call("/api/v1/models/m/archive", NULL).status, 200); /* a file, which cannot be sent by sendfile */
    fake_release(true);
    assert_int_equal(call("/api/v1/models/m/predict", "{\"texts\":[\"a\"]}").status, 200);
    fake_release(false);
    assert_non_null(strstr(call("/", NULL).body, "<title>distilld</title>"));
}

/* Whether a client that trusts this certificate alone gets an answer. */
static bool trusted(const char *pem, size_t len) {
    char url[64], path[64];
    snprintf(url, sizeof url, "https://localhost:%u/healthz", client_port);
    snprintf(path, sizeof path, "/tmp/dd-api-test-%d.ca", (int)getpid());
    assert_int_equal(dd_file_write_durable(path, pem, len, NULL), DD_OK);
    struct answer answer = {0};
    CURL *curl = curl_easy_init();
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CAINFO, path);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 20L);
    bool answered = curl_easy_perform(curl) == CURLE_OK;
    curl_easy_cleanup(curl);
    unlink(path);
    return answered;
}

static void put(const char *cert, size_t cert_len, const char *key, size_t key_len) {
    assert_int_equal(dd_file_write_durable(cert_path, cert, cert_len, NULL), DD_OK);
    assert_int_equal(dd_file_write_durable(key_path, key, key_len, NULL), DD_OK);
}

/* New files count from the next connection on; files that cannot be used change nothing. */
static void test_reload(void **state) {
    (void)state;
    struct dd_error err = {0};
    assert_true(trusted(cert_pem, sizeof cert_pem - 1));
    assert_false(trusted(next_cert_pem, sizeof next_cert_pem - 1));
    put(next_cert_pem, sizeof next_cert_pem - 1, key_pem, sizeof key_pem - 1); /* they do not belong together */
    assert_int_equal(dd_api_reload_tls(server, &err), DD_INVALID);
    assert_non_null(strstr(err.message, cert_path));
    put("nonsense", 8, next_key_pem, sizeof next_key_pem - 1);
    assert_int_equal(dd_api_reload_tls(server, &err), DD_INVALID);
    assert_int_equal(unlink(cert_path), 0);
    assert_int_equal(dd_api_reload_tls(server, &err), DD_NOT_FOUND);
    assert_true(trusted(cert_pem, sizeof cert_pem - 1));
    put(next_cert_pem, sizeof next_cert_pem - 1, next_key_pem, sizeof next_key_pem - 1);
    assert_int_equal(dd_api_reload_tls(server, &err), DD_OK);
    assert_true(trusted(next_cert_pem, sizeof next_cert_pem - 1));
    assert_false(trusted(cert_pem, sizeof cert_pem - 1));
    put(cert_pem, sizeof cert_pem - 1, key_pem, sizeof key_pem - 1);
    assert_int_equal(dd_api_reload_tls(server, &err), DD_OK);
    assert_true(trusted(cert_pem, sizeof cert_pem - 1));
}

static void test_plain_client(void **state) {
    (void)state;
    struct reply r = client_raw("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_int_not_equal(r.status, 200);
    reply_free(&r);
    assert_int_equal(call("/healthz", NULL).status, 200);
}

static int setup(void **state) {
    (void)state;
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, 2);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    snprintf(cert_path, sizeof cert_path, "/tmp/dd-api-test-%d.crt", (int)getpid());
    snprintf(key_path, sizeof key_path, "/tmp/dd-api-test-%d.key", (int)getpid());
    assert_int_equal(dd_file_write_durable(cert_path, cert_pem, sizeof cert_pem - 1, NULL), DD_OK);
    assert_int_equal(dd_file_write_durable(key_path, key_pem, sizeof key_pem - 1, NULL), DD_OK);
    struct dd_api_config config = {.tls_cert = cert_path, .tls_key = key_path};
    server_start(&config);
    return 0;
}

static int teardown(void **state) {
    teardown_default(state);
    unlink(cert_path);
    unlink(key_path);
    curl_global_cleanup();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_calls), cmocka_unit_test(test_plain_client),
                                       cmocka_unit_test(test_reload)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
