/* Errors, faults, memory, buffers. */
#include "tests/unit/base/common.h"

#include <sys/mman.h>

static void test_fail(void **state) {
    (void)state;
    struct dd_error err = {0};
    assert_int_equal(dd_fail(&err, DD_INVALID, "some_code", "row %d: %s", 7, "bad"), DD_INVALID);
    assert_int_equal(err.status, DD_INVALID);
    assert_string_equal(err.code, "some_code");
    assert_string_equal(err.message, "row 7: bad");
    assert_int_equal(dd_fail(NULL, DD_IO, "x", "y"), DD_IO);
    /* The old message as an argument of the new one. */
    dd_fail(&err, DD_CORRUPT, err.code, "again: %s", err.message);
    assert_string_equal(err.message, "again: row 7: bad");
    assert_string_equal(err.code, "some_code");
}

static void test_long_messages_stay_utf8(void **state) {
    (void)state;
    static const char *const units[] = {"a", "é", "知", "🎉"};
    struct dd_error err;
    char text[2000];
    for (size_t u = 0; u < DD_ARRAY_LEN(units); u++) {
        size_t size = strlen(units[u]);
        for (size_t shift = 0; shift < 4; shift++) {
            memset(text, 'x', shift);
            for (size_t i = shift; i + size < sizeof text; i += size) {
                memcpy(text + i, units[u], size + 1);
            }
            dd_fail(&err, DD_INVALID, "c", "%s", text);
            size_t len = strlen(err.message);
            assert_in_range(len, sizeof err.message - 4, sizeof err.message - 1);
            assert_int_equal((len - shift) % size, 0);
            assert_memory_equal(err.message, text, len);
            dd_error_prefix(&err, "%.*s", (int)shift + 1, "知");
            assert_true(strlen(err.message) < sizeof err.message);
        }
    }
    dd_fail(&err, DD_INVALID, "c", "caf\xE9: %.4s", "知识"); /* a path in Latin-1; a precision inside a character */
    assert_string_equal(err.message, "caf?: 知");
    dd_fail(&err, DD_INVALID, "c", "%.4s!", "知识");
    assert_string_equal(err.message, "知?!");
}

/* What a list of faults quotes is cut by a precision: text all the same (found by fuzzing the router). */
static void test_faults_are_utf8(void **state) {
    (void)state;
    struct dd_faults faults;
    dd_faults_init(&faults);
    for (int cut = 0; cut < 12; cut++) {
        dd_faults_add(&faults, "/\xE5\xA5", "got %.*s", cut, "é知🎉é");
        struct dd_fault fault = faults.items[faults.count - 1];
        assert_true(dd_utf8_valid(fault.detail, strlen(fault.detail)));
        assert_null(strchr(fault.detail, '?'));
        assert_string_equal(fault.pointer, "/");
    }
    dd_faults_release(&faults);
}

static void test_utf8(void **state) {
    (void)state;
    static const char *const good[] = {"", "abc", "é", "奶粉", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"};
    static const char *const bad[] = {
        "\x80",    "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\xFF", "\xF4\x90\x80\x80",
        "\xE5\xA5"};
    for (size_t i = 0; i < DD_ARRAY_LEN(good); i++) {
        assert_int_equal(dd_utf8_check(good[i], strlen(good[i])), strlen(good[i]));
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        assert_int_equal(dd_utf8_check(bad[i], strlen(bad[i])), 0);
    }
    assert_int_equal(dd_utf8_check("ab\xFF", 3), 2);
}

static void test_errno(void **state) {
    (void)state;
    static const struct {
        int number;
        enum dd_status status;
    } rows[] = {{ENOSPC, DD_NO_SPACE},  {EDQUOT, DD_NO_SPACE}, {ENOMEM, DD_NO_MEMORY}, {ENOENT, DD_NOT_FOUND},
                {EACCES, DD_FORBIDDEN}, {EPERM, DD_FORBIDDEN}, {EIO, DD_IO},           {EROFS, DD_IO}};
    struct dd_error err;
    for (size_t i = 0; i < DD_ARRAY_LEN(rows); i++) {
        assert_int_equal(dd_fail_errno(&err, rows[i].number, "cannot write %s", "f"), rows[i].status);
        assert_int_equal(err.status, rows[i].status);
        assert_int_equal(strncmp(err.message, "cannot write f: ", 16), 0);
        assert_non_null(strstr(err.message, strerror(rows[i].number)));
        assert_int_equal(dd_fail_errno(NULL, rows[i].number, "x"), rows[i].status);
    }
    assert_int_equal(dd_fail_memory(&err, 4096), DD_NO_MEMORY);
    assert_non_null(strstr(err.message, "4096"));
}

static void test_prefix(void **state) {
    (void)state;
    struct dd_error err;
    char text[800];
    dd_fail(&err, DD_IO, "c", "inner");
    assert_int_equal(dd_error_prefix(&err, "outer %d", 3), DD_IO);
    assert_string_equal(err.message, "outer 3: inner");
    assert_string_equal(err.code, "c");
    memset(text, 'p', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    dd_error_prefix(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    for (size_t len = sizeof err.message - 6; len < sizeof err.message + 2; len++) {
        dd_fail(&err, DD_IO, "c", "inner");
        dd_error_prefix(&err, "%.*s", (int)len, text);
        assert_true(strlen(err.message) < sizeof err.message);
    }
    assert_int_equal(dd_error_prefix(NULL, "x"), DD_INTERNAL);
}

static void test_status_table(void **state) {
    (void)state;
    static const struct {
        enum dd_status status;
        int http, exit_code;
        const char *name;
    } rows[] = {
        {DD_OK, 200, 0, "ok"},
        {DD_MALFORMED, 400, 65, "malformed"},
        {DD_UNAUTHORIZED, 401, 77, "unauthorized"},
        {DD_FORBIDDEN, 403, 77, "forbidden"},
        {DD_NOT_FOUND, 404, 66, "not_found"},
        {DD_CONFLICT, 409, 1, "conflict"},
        {DD_TOO_LARGE, 413, 65, "too_large"},
        {DD_UNSUPPORTED, 415, 65, "unsupported"},
        {DD_MISDIRECTED, 421, 1, "misdirected"},
        {DD_INVALID, 422, 65, "invalid"},
        {DD_TOO_MANY, 429, 75, "too_many"},
        {DD_BUSY, 503, 75, "busy"},
        {DD_NO_MEMORY, 503, 71, "no_memory"},
        {DD_NO_SPACE, 507, 74, "no_space"},
        {DD_IO, 500, 74, "io"},
        {DD_CORRUPT, 422, 65, "corrupt"},
        {DD_STOPPED, 409, 130, "stopped"},
        {DD_INTERNAL, 500, 70, "internal"},
        {DD_STATUS_COUNT, 500, 70, "internal"}, /* nonsense is our bug */
        {(enum dd_status) - 3, 500, 70, "internal"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(rows); i++) {
        assert_int_equal(dd_status_http(rows[i].status), rows[i].http);
        assert_int_equal(dd_status_exit_code(rows[i].status), rows[i].exit_code);
        assert_string_equal(dd_status_name(rows[i].status), rows[i].name);
    }
}

static void test_faults(void **state) {
    (void)state;
    struct dd_faults faults;
    char pointer[300];
    dd_faults_init(&faults);
    memset(pointer, 'p', sizeof pointer - 1);
    pointer[sizeof pointer - 1] = '\0';
    for (int i = 0; i < 100; i++) {
        dd_faults_add(&faults, i == 5 ? pointer : "/a", "fault %d", i);
    }
    assert_int_equal(faults.count, DD_FAULTS_MAX);
    assert_int_equal(faults.total, 100);
    for (int i = 0; i < DD_FAULTS_MAX; i++) {
        char expected[32];
        snprintf(expected, sizeof expected, "fault %d", i);
        assert_string_equal(faults.items[i].detail, expected);
    }
    assert_int_equal(strlen(faults.items[5].pointer), sizeof faults.items[5].pointer - 1);
    assert_string_equal(faults.items[63].pointer, "/a");
    dd_faults_release(&faults);
    assert_int_equal(faults.total, 0);
    dd_faults_release(&faults);
}

static void test_sizes(void **state) {
    (void)state;
    size_t result = 7;
    assert_true(dd_size_mul(1 << 20, 1 << 20, &result));
    assert_int_equal(result, (size_t)1 << 40);
    assert_true(dd_size_mul(0, SIZE_MAX, &result));
    assert_int_equal(result, 0);
    result = 7;
    assert_false(dd_size_mul(SIZE_MAX / 2 + 1, 2, &result));
    assert_false(dd_size_add(SIZE_MAX, 1, &result));
    assert_int_equal(result, 7);
    assert_true(dd_size_add(SIZE_MAX - 1, 1, &result));
    assert_true(result == SIZE_MAX);
}

static void test_allocation(void **state) {
    (void)state;
    volatile size_t huge = SIZE_MAX; /* volatile: the compiler must not reason about it */
    assert_null(dd_calloc(huge / 2, 4));
    assert_null(dd_realloc_array(NULL, huge / 2, 4));
    assert_null(dd_calloc_aligned(huge / 2, 4));
    assert_null(dd_calloc_aligned(huge - 3, 1));
    assert_null(dd_strndup("x", huge));
    void *a = dd_calloc(0, 8), *b = dd_calloc(8, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    free(a);
    free(b);
    char *block = dd_calloc(16, 1);
    assert_non_null(block);
    memcpy(block, "kept", 5);
    assert_null(dd_realloc_array(block, huge / 2, 4));
    assert_string_equal(block, "kept");
    block = dd_realloc_array(block, 0, 4); /* shrinks, never frees */
    assert_non_null(block);
    free(block);
    static const size_t counts[] = {0, 1, 63, 1000, (1 << 21) / 4, (1 << 21) / 4 + 1, 3 << 20};
    for (size_t i = 0; i < DD_ARRAY_LEN(counts); i++) {
        float *slab = dd_calloc_aligned(counts[i], sizeof *slab);
        assert_non_null(slab);
        assert_int_equal((uintptr_t)slab % 64, 0);
        for (size_t j = 0; j < counts[i]; j++) {
            assert_true(slab[j] == 0);
        }
        free(slab);
    }
}

static void test_slab(void **state) {
    (void)state;
    static const size_t counts[] = {0, 1, 4096, ((size_t)2 << 20) - 1, (size_t)2 << 20, ((size_t)2 << 20) + 1};
    for (size_t i = 0; i < DD_ARRAY_LEN(counts); i++) {
        char *slab = dd_slab_new(counts[i], 3);
        assert_non_null(slab);
        assert_int_equal((uintptr_t)slab % 64, 0);
        dd_slab_sparse(slab + counts[i] / 3, counts[i]); /* whatever its borders */
        for (size_t at = 0; at < 3 * counts[i]; at++) {
            assert_int_equal(slab[at], 0);
        }
        memset(slab, 'x', 3 * counts[i]);
        dd_slab_free(slab, counts[i], 3);
    }
    assert_null(dd_slab_new(SIZE_MAX / 2, 4));
    assert_null(dd_slab_new(SIZE_MAX, 1));
    dd_slab_free(NULL, 7, 1);
}

#ifndef __SANITIZE_ADDRESS__ /* there a slab is not a mapping */
static void test_slab_takes_what_is_written(void **state) {
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)8 << 20, resident = 0;
    unsigned char *in = calloc(bytes / page, 1);
    assert_null(dd_slab_new((size_t)1 << 50, 16)); /* more than there are addresses */
    char *slab = dd_slab_new(bytes, 1);
    assert_non_null(slab);
    assert_non_null(in);
    dd_slab_sparse(slab, bytes);
    slab[3 * page] = 'x';
    slab[bytes - 1] = 'y';
    assert_int_equal(mincore(slab, bytes, in), 0);
    for (size_t i = 0; i < bytes / page; i++) {
        resident += in[i] & 1;
    }
    assert_int_equal(resident, 2);
    dd_slab_free(slab, bytes, 1);
    free(in);
}
#endif

static void test_strings_and_cleanup(void **state) {
    (void)state;
    assert_null(dd_strdup(NULL));
    DD_CLEANUP(dd_free_ptr) char *copy = dd_strdup("text");
    assert_string_equal(copy, "text");
    DD_CLEANUP(dd_free_ptr) char *part = dd_strndup("text", 2);
    assert_string_equal(part, "te");
    DD_CLEANUP(dd_free_ptr) char *none = dd_strndup(NULL, 0);
    assert_string_equal(none, "");
    int fd = open("/dev/null", O_RDONLY), old = fd;
    errno = EIO;
    dd_close_fd(&fd);
    assert_int_equal(fd, -1);
    assert_int_equal(errno, EIO);
    assert_int_equal(fcntl(old, F_GETFD), -1);
    dd_close_fd(&fd);
    FILE *file = fopen("/dev/null", "r");
    assert_non_null(file);
    dd_fclose_ptr(&file);
    assert_null(file);
    dd_fclose_ptr(&file);
}

static void test_buffer(void **state) {
    (void)state;
    struct dd_buffer buffer;
    dd_buffer_init(&buffer, 1 << 20);
    assert_string_equal(buffer.data, "");
    assert_int_equal(buffer.len, 0);
    dd_buffer_append(&buffer, "", 0);
    assert_string_equal(buffer.data, "");
    for (int i = 0; i < 1000; i++) {
        dd_buffer_putc(&buffer, (char)('a' + i % 26));
        assert_int_equal(buffer.len, i + 1);
        assert_int_equal(buffer.data[buffer.len], 0);
    }
    dd_buffer_clear(&buffer);
    assert_string_equal(buffer.data, "");
    dd_buffer_puts(&buffer, "x=");
    dd_buffer_printf(&buffer, "%d %0500d", 12, 7);
    assert_int_equal(buffer.len, 2 + 3 + 500);
    assert_int_equal(strncmp(buffer.data, "x=12 0000", 9), 0);
    assert_int_equal(buffer.data[buffer.len - 1], '7');
    dd_buffer_append(&buffer, "a\0b", 3);
    assert_memory_equal(buffer.data + buffer.len - 3, "a\0b", 4);
    assert_int_equal(dd_buffer_check(&buffer, NULL), DD_OK);
    size_t len = 0;
    char *taken = dd_buffer_take(&buffer, &len);
    assert_int_equal(len, 508);
    assert_int_equal(buffer.len, 0);
    assert_string_equal(buffer.data, "");
    free(taken);
    taken = dd_buffer_take(&buffer, NULL);
    assert_string_equal(taken, "");
    free(taken);
    dd_buffer_release(&buffer);
    dd_buffer_release(&buffer);
    struct dd_buffer zeroed = {0};
    dd_buffer_release(&zeroed);
}

static void test_buffer_cap(void **state) {
    (void)state;
    struct dd_buffer buffer;
    struct dd_error err;
    char long_text[400];
    memset(long_text, 'y', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    dd_buffer_init(&buffer, 10);
    dd_buffer_puts(&buffer, "0123456789");
    assert_int_equal(dd_buffer_check(&buffer, &err), DD_OK);
    dd_buffer_append(&buffer, "", 0);
    assert_false(buffer.failed);
    dd_buffer_putc(&buffer, 'x');
    assert_true(buffer.failed);
    assert_string_equal(buffer.data, "0123456789");
    dd_buffer_clear(&buffer);
    assert_false(buffer.failed);
    dd_buffer_printf(&buffer, "%s", long_text);
    assert_true(buffer.failed);
    assert_string_equal(buffer.data, "");
    dd_buffer_puts(&buffer, "a"); /* nothing more goes in */
    assert_string_equal(buffer.data, "");
    assert_int_equal(dd_buffer_check(&buffer, &err), DD_TOO_LARGE);
    assert_string_equal(err.code, "text_too_large");
    assert_non_null(strstr(err.message, "10"));
    dd_buffer_release(&buffer);
    dd_buffer_init(&buffer, SIZE_MAX);
    volatile size_t huge = SIZE_MAX;
    dd_buffer_puts(&buffer, "a");
    dd_buffer_append(&buffer, long_text, huge); /* refused before anything is read */
    assert_int_equal(dd_buffer_check(&buffer, &err), DD_TOO_LARGE);
    assert_string_equal(buffer.data, "a");
    dd_buffer_release(&buffer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PLAIN(test_fail),
        PLAIN(test_long_messages_stay_utf8),
        PLAIN(test_faults_are_utf8),
        PLAIN(test_utf8),
        PLAIN(test_errno),
        PLAIN(test_prefix),
        PLAIN(test_status_table),
        PLAIN(test_faults),
        PLAIN(test_sizes),
        PLAIN(test_allocation),
        PLAIN(test_slab),
#ifndef __SANITIZE_ADDRESS__
        PLAIN(test_slab_takes_what_is_written),
#endif
        PLAIN(test_strings_and_cleanup),
        PLAIN(test_buffer),
        PLAIN(test_buffer_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
