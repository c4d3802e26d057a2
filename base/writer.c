/* writer: durable replacement of a file.
 *
 * Bytes are gathered in CHUNK_BYTES and written to "<path>.tmp-<16 hex digits>" in the same directory.  Commit: write
 * the rest, fsync, close, rename over path, fsync the directory.  A crash at any point leaves the old file or the new
 * one, whole, and perhaps a temporary, which nothing ever reads.
 *
 * Invariants: `temporary` is "" exactly when there is none on disk; the first failure removes the temporary at once,
 * stays, and is what every later call reports.  If only the last fsync (of the directory) fails, the new file is in
 * place and whole but may be the old one after a power cut; commit then reports the failure.
 * A writer belongs to one thread at a time.
 */
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/base.h"
#include "base/internal.h"

#define CHUNK_BYTES ((size_t)1 << 20)
#define FILE_MODE 0640
#define PATH_BYTES 4096
#define SUFFIX_BYTES 24 /* ".tmp-" + 16 digits + NUL, rounded up */

struct dd_writer {
    int fd;
    enum dd_writer_hash hash;
    bool committed;
    size_t pending; /* bytes in chunk */
    uint8_t *chunk; /* [CHUNK_BYTES] */
    struct sha256_ctx sha256;
    XXH3_state_t *xxh3;      /* of DD_WRITER_XXH3, else NULL */
    struct dd_error failure; /* status DD_OK while all is well */
    char path[PATH_BYTES];
    char temporary[PATH_BYTES];
};

static void drop_temporary(struct dd_writer *writer) {
    dd_close_fd(&writer->fd);
    if (writer->temporary[0]) {
        unlink(writer->temporary);
        writer->temporary[0] = '\0';
    }
}

/* The failure stands in writer->failure; hands it to the caller. */
static enum dd_status failed(struct dd_writer *writer, struct dd_error *err) {
    drop_temporary(writer);
    if (err) {
        *err = writer->failure;
    }
    return writer->failure.status;
}

static enum dd_status open_temporary(struct dd_writer *writer, struct dd_error *err) {
    uint8_t random[8];
    char digits[2 * sizeof random + 1];
    char name[PATH_BYTES];
    enum dd_status status = dd_random_bytes(random, sizeof random, err);
    if (status != DD_OK) {
        return status;
    }
    dd_hex(random, sizeof random, digits);
    int len = snprintf(name, sizeof name, "%s.tmp-%s", writer->path, digits);
    if (len < 0 || (size_t)len >= sizeof name) {
        return dd_fail_errno(err, ENAMETOOLONG, "cannot write %s", writer->path);
    }
    int planned = dd_failpoint("open");
    if (!planned) {
        writer->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    }
    if (writer->fd < 0) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot create %s", name);
    }
    memcpy(writer->temporary, name, (size_t)len + 1);
    return DD_OK;
}

enum dd_status dd_writer_open(const char *path, enum dd_writer_hash hash, struct dd_writer **ret_writer,
                              struct dd_error *err) {
    size_t len = strlen(path);
    if (len == 0 || len + SUFFIX_BYTES > PATH_BYTES) {
        return dd_fail_errno(err, len ? ENAMETOOLONG : ENOENT, "cannot write \"%.200s\"", path);
    }
    struct dd_writer *writer = dd_calloc(1, sizeof *writer);
    uint8_t *chunk = dd_calloc(CHUNK_BYTES, 1);
    XXH3_state_t *xxh3 = hash == DD_WRITER_XXH3 && !dd_failpoint("alloc") ? XXH3_createState() : NULL;
    if (!writer || !chunk || (hash == DD_WRITER_XXH3 && (!xxh3 || XXH3_128bits_reset(xxh3) != XXH_OK))) {
        free(writer);
        free(chunk);
        XXH3_freeState(xxh3);
        return dd_fail_memory(err, CHUNK_BYTES);
    }
    writer->fd = -1;
    writer->hash = hash;
    writer->chunk = chunk;
    writer->xxh3 = xxh3;
    memcpy(writer->path, path, len + 1);
    sha256_init(&writer->sha256);
    enum dd_status status = open_temporary(writer, err);
    if (status != DD_OK) {
        dd_writer_free(writer);
        return status;
    }
    *ret_writer = writer;
    return DD_OK;
}

/* All of the bytes to the file, through EINTR and short writes. */
static enum dd_status write_all(struct dd_writer *writer, const uint8_t *bytes, size_t count) {
    while (count > 0) {
        int planned = dd_failpoint("write");
        ssize_t written = planned ? -1 : write(writer->fd, bytes, count);
        if (written < 0) {
            int saved = planned ? planned : errno;
            if (saved == EINTR) {
                continue;
            }
            return dd_fail_errno(&writer->failure, saved, "cannot write %s", writer->path);
        }
        bytes += written;
        count -= (size_t)written;
    }
    return DD_OK;
}

enum dd_status dd_writer_write(struct dd_writer *writer, const void *bytes, size_t count, struct dd_error *err) {
    if (writer->failure.status != DD_OK) {
        return failed(writer, err);
    }
    if (writer->committed) {
        return dd_fail(err, DD_INTERNAL, "writer_committed", "a write to %s after its commit", writer->path);
    }
    if (writer->hash == DD_WRITER_SHA256) {
        sha256_update(&writer->sha256, count, bytes);
    } else if (writer->hash == DD_WRITER_XXH3) {
        XXH3_128bits_update(writer->xxh3, bytes, count);
    }
    const uint8_t *next = bytes;
    while (count > 0) {
        if (writer->pending == 0 && count >= CHUNK_BYTES) { /* large pieces need no copy */
            if (write_all(writer, next, count) != DD_OK) {
                return failed(writer, err);
            }
            return DD_OK;
        }
        size_t taken = DD_MIN(count, CHUNK_BYTES - writer->pending);
        memcpy(writer->chunk + writer->pending, next, taken);
        writer->pending += taken;
        next += taken;
        count -= taken;
        if (writer->pending == CHUNK_BYTES) {
            if (write_all(writer, writer->chunk, CHUNK_BYTES) != DD_OK) {
                return failed(writer, err);
            }
            writer->pending = 0;
        }
    }
    return DD_OK;
}

/* Of a plain writer: the SHA-256 of no bytes. */
void dd_writer_digest(struct dd_writer *writer, uint8_t out[DD_SHA256_BYTES]) {
    if (writer->hash == DD_WRITER_XXH3) {
        dd_checksum_put(XXH3_128bits_digest(writer->xxh3), out);
        return;
    }
    struct sha256_ctx so_far = writer->sha256; /* asking finishes a hash, and more may be written */
    sha256_digest(&so_far, DD_SHA256_BYTES, out);
}

static enum dd_status finish_temporary(struct dd_writer *writer) {
    if (write_all(writer, writer->chunk, writer->pending) != DD_OK) {
        return writer->failure.status;
    }
    int planned = dd_failpoint("fsync");
    if (planned || fsync(writer->fd) != 0) {
        return dd_fail_errno(&writer->failure, planned ? planned : errno, "cannot make %s durable", writer->path);
    }
    planned = dd_failpoint("close");
    int closed = close(writer->fd); /* NFS reports late write errors here; the descriptor is gone either way */
    writer->fd = -1;
    if (planned || closed != 0) {
        return dd_fail_errno(&writer->failure, planned ? planned : errno, "cannot close %s", writer->path);
    }
    planned = dd_failpoint("rename");
    if (planned || rename(writer->temporary, writer->path) != 0) {
        return dd_fail_errno(&writer->failure, planned ? planned : errno, "cannot put %s in its place", writer->path);
    }
    writer->temporary[0] = '\0';
    return DD_OK;
}

enum dd_status dd_writer_commit(struct dd_writer *writer, struct dd_error *err) {
    char parent[PATH_BYTES];
    if (writer->failure.status != DD_OK) {
        return failed(writer, err);
    }
    if (writer->committed) {
        return dd_fail(err, DD_INTERNAL, "writer_committed", "a second commit of %s", writer->path);
    }
    if (finish_temporary(writer) != DD_OK) {
        return failed(writer, err);
    }
    writer->committed = true;
    if (!dd_path_parent(writer->path, parent, sizeof parent)) {
        return dd_fail(err, DD_INTERNAL, "path_too_long", "the directory of %s has no room", writer->path);
    }
    if (dd_dir_sync(parent, &writer->failure) != DD_OK) {
        return failed(writer, err);
    }
    return DD_OK;
}

void dd_writer_free(struct dd_writer *writer) {
    if (!writer) {
        return;
    }
    drop_temporary(writer);
    free(writer->chunk);
    XXH3_freeState(writer->xxh3);
    free(writer);
}

enum dd_status dd_file_write_durable(const char *path, const void *bytes, size_t count, struct dd_error *err) {
    struct dd_writer *writer = NULL;
    enum dd_status status = dd_writer_open(path, DD_WRITER_PLAIN, &writer, err);
    if (status == DD_OK) {
        status = dd_writer_write(writer, bytes, count, err);
    }
    if (status == DD_OK) {
        status = dd_writer_commit(writer, err);
    }
    dd_writer_free(writer);
    return status;
}
