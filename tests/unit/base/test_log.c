/* Log lines, the clock, stop requests, hashes. */
#include <pthread.h>

#include "tests/unit/base/common.h"

/* Logs through a pipe and gives back what came out. */
static char *logged(enum dd_log_format format, enum dd_log_level least, enum dd_log_level level, const char *message) {
    static char out[32768];
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    dd_log_configure(least, format, ends[1]);
    dd_log(level, "http", "%s", message);
    close(ends[1]);
    size_t len = 0;
    ssize_t got;
    while ((got = read(ends[0], out + len, sizeof out - 1 - len)) > 0) {
        len += (size_t)got;
    }
    out[len] = '\0';
    close(ends[0]);
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, STDERR_FILENO);
    return out;
}

static void test_formats(void **state) {
    (void)state;
    char *line = logged(DD_LOG_TEXT, DD_LOG_INFO, DD_LOG_WARNING, "hello 知");
    assert_int_equal(line[10], 'T');
    assert_string_equal(line + 24, " warning http: hello 知\n");
    line = logged(DD_LOG_JOURNAL, DD_LOG_INFO, DD_LOG_ERROR, "x");
    assert_string_equal(line, "<3>http: x\n");
    line = logged(DD_LOG_JOURNAL, DD_LOG_DEBUG, DD_LOG_DEBUG, "x");
    assert_string_equal(line, "<7>http: x\n");
    line = logged(DD_LOG_JSON, DD_LOG_INFO, DD_LOG_INFO, "a \"b\" \\ c");
    assert_int_equal(strncmp(line, "{\"time\":\"2", 10), 0);
    assert_non_null(
        strstr(line, "Z\",\"level\":\"info\",\"component\":\"http\",\"message\":\"a \\\"b\\\" \\\\ c\"}\n"));
    assert_string_equal(logged(DD_LOG_TEXT, DD_LOG_WARNING, DD_LOG_INFO, "x"), "");
}

static void test_input_cannot_forge_lines(void **state) {
    (void)state;
    static const struct {
        const char *message, *shown;
    } rows[] = {
        {"a\nb\tc\rd", "a\\nb\\tc\\u000dd"},
        {"\x1b[31mred\x7f", "\\u001b[31mred\\u007f"},
        {"\xc2\x85 next line", "\\u0085 next line"},
        {"\xe2\x80\xa8sep\xe2\x80\xa9", "\\u2028sep\\u2029"},
        {"bad \xff \xc3 \xc0\xaf \xed\xa0\x80 \xf5", "bad � � �� ��� �"},
        {"cut \xe7\x9f", "cut ��"},
        {"fine 知 🎉 é", "fine 知 🎉 é"},
        {"\xf4\x90\x80\x80", "����"}, /* beyond U+10FFFF */
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(rows); i++) {
        char *line = logged(DD_LOG_JOURNAL, DD_LOG_INFO, DD_LOG_INFO, rows[i].message);
        char expected[256];
        snprintf(expected, sizeof expected, "<6>http: %s\n", rows[i].shown);
        assert_string_equal(line, expected);
    }
    char every[256];
    for (int i = 1; i < 256; i++) {
        every[i - 1] = (char)i;
    }
    every[255] = '\0';
    for (int format = DD_LOG_TEXT; format <= DD_LOG_JOURNAL; format++) {
        char *line = logged((enum dd_log_format)format, DD_LOG_INFO, DD_LOG_INFO, every);
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    }
}

static void test_long_lines(void **state) {
    (void)state;
    static char text[10000];
    static const char worst[] = "\x01知\n🎉\xff";
    for (size_t i = 0; i < sizeof text - 1; i++) {
        text[i] = worst[i % (sizeof worst - 1)];
    }
    char *line = logged(DD_LOG_JSON, DD_LOG_INFO, DD_LOG_INFO, text);
    size_t len = strlen(line);
    assert_true(len > 2000 && len < 14000);
    assert_string_equal(line + len - 3, "\"}\n");
    memset(text, 1, sizeof text - 1); /* each byte becomes six */
    line = logged(DD_LOG_JSON, DD_LOG_INFO, DD_LOG_INFO, text);
    assert_true(strlen(line) > 6 * 2047);
    line = logged(DD_LOG_TEXT, DD_LOG_INFO, DD_LOG_INFO, "");
    assert_string_equal(line + 24, " info http: \n");
}

static void *log_many(void *argument) {
    for (int i = 0; i < 500; i++) {
        dd_log(DD_LOG_INFO, argument, "line %d %0200d", i, i);
    }
    return NULL;
}

static void test_lines_do_not_mix(void **state) {
    struct scratch *s = *state;
    char first[] = "first", second[] = "second";
    pthread_t threads[2];
    int fd = open(at(s, "log"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    assert_true(fd >= 0);
    dd_log_configure(DD_LOG_INFO, DD_LOG_JOURNAL, fd);
    assert_int_equal(pthread_create(&threads[0], NULL, log_many, first), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, log_many, second), 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, STDERR_FILENO);
    close(fd);
    DD_CLEANUP(dd_fclose_ptr) FILE *file = fopen(at(s, "log"), "r");
    assert_non_null(file);
    char line[512], name[16];
    int next[2] = {0, 0}, number;
    while (fgets(line, sizeof line, file)) {
        assert_int_equal(sscanf(line, "<6>%15[a-z]: line %d ", name, &number), 2);
        int which = strcmp(name, "second") == 0;
        assert_int_equal(number, next[which]++);
        assert_int_equal(line[strlen(line) - 1], '\n');
    }
    assert_int_equal(next[0] + next[1], 1000);
}

static void test_levels(void **state) {
    (void)state;
    enum dd_log_level level;
    static const char *const names[] = {"debug", "info", "warning", "error"};
    for (int i = 0; i < 4; i++) {
        assert_true(dd_log_level_parse(names[i], &level));
        assert_int_equal(level, i);
        assert_string_equal(dd_log_level_name(level), names[i]);
    }
    assert_false(dd_log_level_parse("INFO", &level));
    assert_false(dd_log_level_parse("", &level));
    assert_string_equal(dd_log_level_name((enum dd_log_level)99), "error");
    dd_log_set_level(DD_LOG_ERROR);
    dd_log_configure(DD_LOG_INFO, DD_LOG_TEXT, -1); /* a log that cannot be written is nobody's error */
    errno = ENOENT;
    dd_log(DD_LOG_ERROR, "x", "y");
    assert_int_equal(errno, ENOENT);
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, STDERR_FILENO);
}

static void test_time(void **state) {
    (void)state;
    static const struct {
        int64_t ms;
        const char *text;
    } rows[] = {{0, "1970-01-01T00:00:00.000Z"},
                {1795464532123, "2026-11-23T20:08:52.123Z"},
                {951782400000, "2000-02-29T00:00:00.000Z"},
                {-1, "1969-12-31T23:59:59.999Z"},
                {-1000, "1969-12-31T23:59:59.000Z"},
                {253402300799999, "9999-12-31T23:59:59.999Z"},
                {253402300800000, "9999-12-31T23:59:59.999Z"},
                {INT64_MAX, "9999-12-31T23:59:59.999Z"},
                {INT64_MIN, "0000-01-01T00:00:00.000Z"}};
    char out[DD_TIME_TEXT_BYTES];
    setenv("TZ", "Asia/Shanghai", 1); /* UTC whatever the place */
    for (size_t i = 0; i < DD_ARRAY_LEN(rows); i++) {
        dd_time_format(rows[i].ms, out);
        assert_string_equal(out, rows[i].text);
    }
    assert_true(dd_clock_wall_ms() > 1600000000000);
    int64_t before = dd_clock_mono_us();
    assert_true(dd_clock_mono_us() >= before);
}

static void test_cancel(void **state) {
    (void)state;
    struct dd_cancel cancel = {0};
    assert_int_equal(dd_cancel_requested(NULL), DD_STOP_NONE);
    assert_int_equal(dd_cancel_requested(&cancel), DD_STOP_NONE);
    dd_cancel_request(&cancel, DD_STOP_PAUSE);
    assert_int_equal(dd_cancel_requested(&cancel), DD_STOP_PAUSE);
    dd_cancel_request(&cancel, DD_STOP_SHUTDOWN);
    dd_cancel_request(&cancel, DD_STOP_CANCEL);
    dd_cancel_request(&cancel, DD_STOP_NONE);
    assert_int_equal(dd_cancel_requested(&cancel), DD_STOP_SHUTDOWN);
}

/* What xxh128sum prints, which is XXH3-128 in its canonical form. */
static void test_checksum(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } rows[] = {{"", "99aa06d3014798d86001c324468d497f00000000000000000000000000000000"},
                {"a", "a96faf705af16834e6c632b61e964e1f00000000000000000000000000000000"},
                {"abc", "06b05ab6733a618578af5f94892f395000000000000000000000000000000000"}};
    for (size_t i = 0; i < DD_ARRAY_LEN(rows); i++) {
        uint8_t digest[DD_SHA256_BYTES];
        char hex[DD_SHA256_HEX_BYTES];
        dd_checksum_bytes(rows[i].text, strlen(rows[i].text), digest);
        dd_hex(digest, sizeof digest, hex);
        assert_string_equal(hex, rows[i].hex);
    }
}

static void check_sha(const char *text, const char *expected) {
    uint8_t digest[DD_SHA256_BYTES];
    char hex[DD_SHA256_HEX_BYTES];
    dd_sha256_bytes(text, strlen(text), digest);
    dd_hex(digest, sizeof digest, hex);
    assert_string_equal(hex, expected);
    struct dd_sha256 *hash = dd_sha256_new();
    assert_non_null(hash);
    for (int round = 0; round < 2; round++) { /* a digest starts anew */
        for (size_t i = 0; i < strlen(text); i++) {
            dd_sha256_update(hash, text + i, 1);
        }
        dd_sha256_digest(hash, digest);
        dd_hex(digest, sizeof digest, hex);
        assert_string_equal(hex, expected);
    }
    dd_sha256_free(hash);
    dd_sha256_free(NULL);
}

/* FIPS 180-4's examples. */
static void test_sha256(void **state) {
    (void)state;
    check_sha("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_sha("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_random_and_equal(void **state) {
    (void)state;
    uint8_t a[64] = {0}, b[64] = {0};
    assert_int_equal(dd_random_bytes(a, sizeof a, NULL), DD_OK);
    assert_int_equal(dd_random_bytes(b, sizeof b, NULL), DD_OK);
    assert_int_equal(dd_random_bytes(b, 0, NULL), DD_OK);
    assert_memory_not_equal(a, b, sizeof a);
    assert_true(dd_equal_constant_time(a, a, sizeof a));
    assert_false(dd_equal_constant_time(a, b, sizeof a));
    assert_true(dd_equal_constant_time(a, b, 0));
    memcpy(b, a, sizeof a);
    b[63] ^= 0x80;
    assert_false(dd_equal_constant_time(a, b, sizeof a));
    assert_true(dd_equal_constant_time(a, b, 63));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLAIN(test_formats),          PLAIN(test_input_cannot_forge_lines),
        PLAIN(test_long_lines),       SCRATCH(test_lines_do_not_mix),
        PLAIN(test_levels),           PLAIN(test_time),
        PLAIN(test_cancel),           PLAIN(test_sha256),
        PLAIN(test_random_and_equal), PLAIN(test_checksum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
