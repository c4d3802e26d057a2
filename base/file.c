/* file: whole files and mappings in, paths, directories, free space.  Durable writing is in writer.c, trees in tree.c.
 *
 * Only regular files are read: a FIFO or a device behind a path that a user gave must not block or flood the daemon.
 * Every system call asks its failpoint first in test builds.  Any thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/base.h"
#include "base/internal.h"

#define DIR_MODE 0750

bool dd_path_parent(const char *path, char *out, size_t out_bytes) {
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') { /* "a/b//" names b */
        len--;
    }
    while (len > 0 && path[len - 1] != '/') {
        len--;
    }
    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    const char *parent = len ? path : ".";
    len = len ? len : 1;
    if (len >= out_bytes) {
        return false;
    }
    memcpy(out, parent, len);
    out[len] = '\0';
    return true;
}

/* Opens a regular file for reading.  O_NONBLOCK lets the open of a FIFO return, to be refused. */
static enum dd_status open_regular(const char *path, int *ret_fd, struct stat *ret_stat, struct dd_error *err) {
    int planned = dd_failpoint("open");
    int fd = planned ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot open %s", path);
    }
    enum dd_status status = DD_OK;
    if (fstat(fd, ret_stat) != 0) {
        status = dd_fail_errno(err, errno, "cannot look at %s", path);
    } else if (!S_ISREG(ret_stat->st_mode)) {
        status = dd_fail(err, DD_INVALID, "not_a_file", "%s is not a regular file", path);
    }
    if (status != DD_OK) {
        dd_close_fd(&fd);
        return status;
    }
    *ret_fd = fd;
    return DD_OK;
}

/* read(2) through EINTR and the failpoint "read"; −1 with errno. */
static ssize_t read_some(int fd, char *out, size_t count) {
    for (;;) {
        errno = dd_failpoint("read");
        ssize_t got = errno ? -1 : read(fd, out, count);
        if (got >= 0 || errno != EINTR) {
            return got;
        }
    }
}

/* The size that stat told is only a first guess: files of /proc say 0, and a file may grow while it is read. */
enum dd_status dd_file_read(const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_len,
                            struct dd_error *err) {
    DD_CLEANUP(dd_close_fd) int fd = -1;
    DD_CLEANUP(dd_free_ptr) char *bytes = NULL;
    struct stat info;
    enum dd_status status = open_regular(path, &fd, &info, err);
    if (status != DD_OK) {
        return status;
    }
    max_bytes = DD_MIN(max_bytes, (size_t)PTRDIFF_MAX - 2);
    size_t room = (uint64_t)info.st_size < max_bytes ? (size_t)info.st_size + 1 : max_bytes + 1;
    size_t len = 0;
    for (;;) {
        if (!bytes || len == room) { /* one byte over max_bytes may be read, to see that there is more */
            room = bytes ? DD_MIN(room, max_bytes / 2) * 2 + 1 : room;
            room = DD_MIN(DD_MAX(room, len + 1), max_bytes + 1);
            char *grown = dd_realloc_array(bytes, room + 1, 1);
            if (!grown) {
                return dd_fail_memory(err, room + 1);
            }
            bytes = grown;
        }
        ssize_t got = read_some(fd, bytes + len, room - len);
        if (got < 0) {
            return dd_fail_errno(err, errno, "cannot read %s", path);
        }
        if (got == 0) {
            break;
        }
        len += (size_t)got;
        if (len > max_bytes) {
            return dd_fail(err, DD_TOO_LARGE, "file_too_large", "%s is larger than the %zu bytes allowed", path,
                           max_bytes);
        }
    }
    bytes[len] = '\0';
    *ret_bytes = bytes;
    *ret_len = len;
    bytes = NULL;
    return DD_OK;
}

static const uint8_t no_bytes[1];

/* A mapped file that somebody else cuts short raises SIGBUS at the access; our own files are replaced, never cut. */
enum dd_status dd_mapping_open(const char *path, struct dd_mapping *ret_mapping, struct dd_error *err) {
    DD_CLEANUP(dd_close_fd) int fd = -1;
    struct stat info;
    enum dd_status status = open_regular(path, &fd, &info, err);
    if (status != DD_OK) {
        return status;
    }
    if (info.st_size == 0) {
        *ret_mapping = (struct dd_mapping){no_bytes, 0};
        return DD_OK;
    }
    if ((uint64_t)info.st_size > SIZE_MAX) {
        return dd_fail(err, DD_TOO_LARGE, "file_too_large", "%s does not fit into the address space", path);
    }
    int planned = dd_failpoint("mmap");
    void *bytes = planned ? MAP_FAILED : mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot map %s", path);
    }
    *ret_mapping = (struct dd_mapping){bytes, (size_t)info.st_size};
    return DD_OK;
}

void dd_mapping_release(struct dd_mapping *mapping) {
    if (mapping->len) {
        void *bytes;
        memcpy(&bytes, &mapping->bytes, sizeof bytes); /* munmap wants it without const */
        munmap(bytes, mapping->len);
    }
    *mapping = (struct dd_mapping){0};
}

enum dd_status dd_dir_sync(const char *path, struct dd_error *err) {
    int planned = dd_failpoint("open");
    DD_CLEANUP(dd_close_fd) int fd = planned ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot open the directory %s", path);
    }
    planned = dd_failpoint("fsync");
    if (planned || fsync(fd) != 0) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot make the directory %s durable", path);
    }
    return DD_OK;
}

/* One step of mkdir -p. */
static enum dd_status make_one(const char *path, struct dd_error *err) {
    char parent[4096];
    struct stat info;
    int planned = dd_failpoint("mkdir");
    if (planned || mkdir(path, DIR_MODE) != 0) {
        int saved = planned ? planned : errno;
        if (!planned && stat(path, &info) == 0) {
            if (S_ISDIR(info.st_mode)) {
                return DD_OK;
            }
            saved = ENOTDIR;
        }
        return dd_fail_errno(err, saved, "cannot make the directory %s", path);
    }
    if (!dd_path_parent(path, parent, sizeof parent)) {
        return dd_fail_errno(err, ENAMETOOLONG, "cannot make the directory %s", path);
    }
    return dd_dir_sync(parent, err);
}

enum dd_status dd_dir_make(const char *path, struct dd_error *err) {
    char part[4096];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part) {
        return dd_fail_errno(err, len ? ENAMETOOLONG : ENOENT, "cannot make the directory \"%.64s\"", path);
    }
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if ((part[i] != '/' && part[i] != '\0') || part[i - 1] == '/') {
            continue;
        }
        char kept = part[i];
        part[i] = '\0';
        enum dd_status status = make_one(part, err);
        if (status != DD_OK) {
            return status;
        }
        part[i] = kept;
    }
    return DD_OK;
}

enum dd_status dd_path_join(char *out, size_t out_bytes, struct dd_error *err, const char *first, ...) {
    size_t len = 0;
    bool fits = out_bytes > 0;
    va_list args;
    va_start(args, first);
    for (const char *part = first; part && fits; part = va_arg(args, const char *)) {
        size_t part_len = strlen(part);
        bool slash = len > 0 && out[len - 1] != '/';
        fits = part_len < out_bytes - len && part_len + slash < out_bytes - len;
        if (fits) {
            if (slash) {
                out[len++] = '/';
            }
            memcpy(out + len, part, part_len);
            len += part_len;
        }
    }
    va_end(args);
    if (!fits) {
        if (out_bytes) {
            out[0] = '\0';
        }
        return dd_fail(err, DD_TOO_LARGE, "path_too_long", "a path below %.200s would be longer than %zu bytes",
                       first ? first : "", out_bytes);
    }
    out[len] = '\0';
    return DD_OK;
}

static uint64_t saturating_mul(uint64_t a, uint64_t b) {
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

/* Free means free for us: without the blocks that are kept for root. */
enum dd_status dd_disk_free(const char *path, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                            struct dd_error *err) {
    struct statvfs info;
    int planned = dd_failpoint("statvfs");
    if (planned || statvfs(path, &info) != 0) {
        return dd_fail_errno(err, planned ? planned : errno, "cannot ask for the free space at %s", path);
    }
    *ret_free_bytes = saturating_mul(info.f_bavail, info.f_frsize);
    *ret_total_bytes = saturating_mul(info.f_blocks, info.f_frsize);
    return DD_OK;
}
