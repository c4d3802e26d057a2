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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_calls), cmocka_unit_test(test_plain_client)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
