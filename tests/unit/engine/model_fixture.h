/* model_fixture: what the tests of the model files share: the golden models, a scratch directory, seeded damage. */
#ifndef DD_TEST_MODEL_FIXTURE_H
#define DD_TEST_MODEL_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model.h"

#define FIXTURES "tests/golden/fixtures/models"

static char scratch[64]; /* a fresh directory for this test program */

static inline int make_scratch(void **state) {
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/distilld-test-XXXXXX");
    return mkdtemp(scratch) == NULL ? -1 : 0;
}

static inline int remove_scratch(void **state) {
    struct dd_error err;
    (void)state;
    return dd_tree_remove(scratch, &err) == DD_OK ? 0 : -1;
}

static inline void scratch_path(char out[512], const char *name) {
    snprintf(out, 512, "%s/%s", scratch, name);
}

static inline void must(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        fail_msg("%s: %s", dd_status_name(status), err->message);
    }
}

/* The caller frees. */
static inline uint8_t *read_all(const char *path, size_t *ret_bytes) {
    char *bytes = NULL;
    struct dd_error err;
    must(dd_file_read(path, (size_t)1 << 26, &bytes, ret_bytes, &err), &err);
    return (uint8_t *)bytes;
}

static inline void write_all(const char *path, const void *bytes, size_t count) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* A linear congruential sequence: the same damage everywhere. */
static inline uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Damages bytes[count] in one of several ways and returns how many bytes are left. */
static inline size_t mutate(uint8_t *bytes, size_t count, uint64_t *random) {
    static const uint8_t odd[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '(', '.', 'R', 'Q', 'u', 0x81, 0x94, '"', '}', '9'};
    /* Headers stand at either end: damage there finds more than damage in the values. */
    size_t window = next_random(random) % 3 == 0 ? count : DD_MIN(count, (size_t)2048);
    size_t base = next_random(random) % 2 == 0 ? 0 : count - window;
    switch (next_random(random) % 5) {
    case 0:
        return next_random(random) % (uint32_t)count;
    case 1:
        bytes[base + next_random(random) % window] ^= (uint8_t)(1u << next_random(random) % 8);
        return count;
    case 2:
        for (uint32_t i = next_random(random) % 8; i > 0; i--) {
            bytes[base + next_random(random) % window] = odd[next_random(random) % sizeof odd];
        }
        return count;
    case 3: {
        size_t from = next_random(random) % (uint32_t)count, to = next_random(random) % (uint32_t)count;
        size_t run = next_random(random) % 64;
        memmove(bytes + to, bytes + from, DD_MIN(run, count - DD_MAX(from, to)));
        return count;
    }
    default: {
        size_t at = base + next_random(random) % window, run = DD_MIN((size_t)8, count - at);
        memset(bytes + at, next_random(random) % 2 == 0 ? 0xff : 0, run);
        return count;
    }
    }
}

typedef enum dd_status read_function(const uint8_t *bytes, size_t len, struct dd_weights *weights,
                                     struct dd_error *err);

/* Reads every value that a reader admits; then frees. */
static inline void drain(struct dd_weights *weights) {
    float out[64];
    for (size_t i = 0; i < weights->count; i++) {
        const struct dd_weight *weight = &weights->items[i];
        struct dd_weight_reader reader;
        struct dd_error err;
        if (weight->dtype == DD_DTYPE_OTHER || weight->rank < 1 || weight->rank > 2) {
            continue;
        }
        if (dd_weight_reader_init(&reader, weight, &err) != DD_OK) {
            continue;
        }
        size_t count = weight->shape[0] * (weight->rank == 2 ? weight->shape[1] : 1);
        if (count > 0) {
            dd_weight_read(&reader, 0, DD_MIN(count, (size_t)64), out);
            dd_weight_read(&reader, count - DD_MIN(count, (size_t)64), DD_MIN(count, (size_t)64), out);
        }
        dd_weight_reader_release(&reader);
    }
    dd_weights_free(weights);
}

/* Damages a fixture many times, each in a block of exactly its size, so that a sanitizer sees a byte too far. */
static inline void survive_damage(const char *fixture, read_function *read, int times, uint64_t seed) {
    char path[512];
    size_t bytes = 0;
    int refused = 0;
    snprintf(path, sizeof path, "%s/%s", FIXTURES, fixture);
    uint8_t *whole = read_all(path, &bytes);
    for (int i = 0; i < times; i++) {
        uint8_t *damaged = malloc(bytes);
        assert_non_null(damaged);
        memcpy(damaged, whole, bytes);
        size_t left = mutate(damaged, bytes, &seed);
        uint8_t *exact = malloc(left == 0 ? 1 : left);
        assert_non_null(exact);
        memcpy(exact, damaged, left);
        free(damaged);
        struct dd_weights *weights = dd_calloc(1, sizeof *weights);
        struct dd_error err = {0};
        enum dd_status status = read(exact, left, weights, &err);
        if (status != DD_OK) {
            refused++;
            assert_int_equal(err.status, status);
            assert_true(err.message[0] != 0);
            assert_int_not_equal(status, DD_INTERNAL);
        }
        drain(weights);
        free(exact);
    }
    free(whole);
    assert_true(refused > times / 8); /* else the damage is no damage */
}

#endif
