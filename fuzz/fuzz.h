/* fuzz: what the targets share.  One file a reader; libFuzzer calls LLVMFuzzerTestOneInput with bytes that a stranger
 * could have sent, the sanitizers watch, and each target checks the reader's own promises (FUZZ_CHECK).
 * A target writes only below a directory of its own in /dev/shm (or TMPDIR). One thread.
 */
#ifndef DD_FUZZ_H
#define DD_FUZZ_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* A broken promise ends the process: libFuzzer keeps the input. */
#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                             \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static char fuzz_dir_path[64];

static inline void fuzz_dir_remove(void) {
    struct dd_error err;
    (void)dd_tree_remove(fuzz_dir_path, &err);
}

/* The target's own directory, made by the first call and removed at exit. */
static inline const char *fuzz_dir(void) {
    if (fuzz_dir_path[0] == '\0') {
        (void)snprintf(fuzz_dir_path, sizeof fuzz_dir_path, "%s/distilld-fuzz-XXXXXX",
                       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        FUZZ_CHECK(mkdtemp(fuzz_dir_path) != NULL);
        (void)atexit(fuzz_dir_remove);
    }
    return fuzz_dir_path;
}

/* Puts bytes into a file of that directory; path: room for 128. */
static inline void fuzz_file(const char *name, const uint8_t *bytes, size_t count, char path[128]) {
    (void)snprintf(path, 128, "%s/%s", fuzz_dir(), name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0);
    for (size_t done = 0; done < count;) {
        ssize_t wrote = write(fd, bytes + done, count - done);
        FUZZ_CHECK(wrote > 0);
        done += (size_t)wrote;
    }
    (void)close(fd);
}

/* A failure says what and why, in UTF-8 that a problem document can carry. */
static inline void fuzz_check_error(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        FUZZ_CHECK(err->status == status && err->code[0] != '\0' && err->message[0] != '\0');
    }
}

/* A copy that ends with NUL and nothing behind it, so that reading on is seen; the caller frees. */
static inline char *fuzz_text(const uint8_t *bytes, size_t count) {
    char *text = malloc(count + 1);
    FUZZ_CHECK(text != NULL);
    if (count > 0) {
        memcpy(text, bytes, count);
    }
    text[count] = '\0';
    return text;
}

#endif
