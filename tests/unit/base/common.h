/* common: cmocka and a temporary directory a test. */
#ifndef BASE_COMMON_H
#define BASE_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"

struct scratch {
    char dir[64];
    char path[512]; /* of the last call of at() */
    struct dd_error err;
};

static inline int scratch_setup(void **state) {
    struct scratch *s = calloc(1, sizeof *s);
    assert_non_null(s);
    snprintf(s->dir, sizeof s->dir, "/tmp/distilld-base-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    *state = s;
    return 0;
}

static inline int scratch_teardown(void **state) {
    struct scratch *s = *state;
    assert_int_equal(dd_tree_remove(s->dir, &s->err), DD_OK);
    assert_int_not_equal(access(s->dir, F_OK), 0);
    free(s);
    return 0;
}

static inline const char *at(struct scratch *s, const char *name) {
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    return s->path;
}

static inline bool exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

#define assert_ok(s, call)                                                                                             \
    do {                                                                                                               \
        if ((call) != DD_OK) {                                                                                         \
            fail_msg("%s: %s (%s)", #call, (s)->err.message, (s)->err.code);                                           \
        }                                                                                                              \
    } while (0)
#define assert_fails(s, expected, expected_code, call)                                                                 \
    do {                                                                                                               \
        assert_int_equal(call, expected);                                                                              \
        assert_int_equal((s)->err.status, expected);                                                                   \
        assert_string_equal((s)->err.code, expected_code);                                                             \
        assert_true((s)->err.message[0] != '\0');                                                                      \
    } while (0)

#define PLAIN(name) cmocka_unit_test(name)
#define SCRATCH(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

#endif
