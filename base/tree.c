/* tree: walking a directory tree by descriptors, to remove it or to count its bytes.
 *
 * Symbolic links are never followed: each step is openat(…, O_NOFOLLOW) relative to the directory above, so that nobody
 * can lead a removal out of the tree by swapping a directory for a link.  Each level holds one descriptor; MAX_DEPTH
 * bounds them.  Any thread.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define MAX_DEPTH 128
#define PATH_BYTES 4096

static void close_dir(DIR **dir) {
    if (*dir) {
        closedir(*dir);
    }
}

/* Copies path without trailing slashes: "link/" would be followed in spite of O_NOFOLLOW. */
static enum dd_status copy_path(const char *path, char out[PATH_BYTES], struct dd_error *err) {
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    if (len >= PATH_BYTES) {
        return dd_fail_errno(err, ENAMETOOLONG, "cannot walk %.200s", path);
    }
    memcpy(out, path, len);
    out[len] = '\0';
    return DD_OK;
}

/* Opens the directory `name` below `at` for reading; NULL with errno. */
static DIR *open_dir(int at, const char *name) {
    errno = dd_failpoint("open");
    int fd = errno ? -1 : openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        dd_close_fd(&fd);
    }
    return dir;
}

/* The next entry but "." and ".."; NULL at the end (errno 0) or on failure (errno). */
static struct dirent *next_entry(DIR *dir) {
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry || (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)) {
            return entry;
        }
    }
}

static enum dd_status too_deep(const char *root, struct dd_error *err) {
    return dd_fail(err, DD_TOO_LARGE, "tree_too_deep", "%s is more than %d directories deep", root, MAX_DEPTH);
}

static enum dd_status remove_at(int at, const char *name, const char *root, int depth, struct dd_error *err);

/* One pass over a directory's entries; *removed counts those that are gone. */
static enum dd_status remove_entries(DIR *dir, const char *root, int depth, size_t *removed, struct dd_error *err) {
    struct dirent *entry;
    while ((entry = next_entry(dir))) {
        enum dd_status status = remove_at(dirfd(dir), entry->d_name, root, depth + 1, err);
        if (status != DD_OK) {
            return status;
        }
        ++*removed;
    }
    return errno ? dd_fail_errno(err, errno, "cannot list a directory below %s", root) : DD_OK;
}

/* Some file systems skip entries while others are being removed, so a directory that is not empty yet is read again as
 * long as each pass removes something. */
static enum dd_status remove_directory(int at, const char *name, const char *root, int depth, struct dd_error *err) {
    if (depth > MAX_DEPTH) {
        return too_deep(root, err);
    }
    DD_CLEANUP(close_dir) DIR *dir = open_dir(at, name);
    if (!dir) {
        return errno == ENOENT ? DD_OK : dd_fail_errno(err, errno, "cannot open %s below %s", name, root);
    }
    for (;;) {
        size_t removed = 0;
        enum dd_status status = remove_entries(dir, root, depth, &removed, err);
        if (status != DD_OK) {
            return status;
        }
        errno = dd_failpoint("unlink");
        if (errno == 0 && (unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT)) {
            return DD_OK;
        }
        if (errno != ENOTEMPTY || removed == 0) {
            return dd_fail_errno(err, errno, "cannot remove the directory %s below %s", name, root);
        }
        rewinddir(dir);
    }
}

static enum dd_status remove_at(int at, const char *name, const char *root, int depth, struct dd_error *err) {
    errno = dd_failpoint("unlink");
    if (errno == 0 && (unlinkat(at, name, 0) == 0 || errno == ENOENT)) {
        return DD_OK;
    }
    if (errno == EISDIR) { /* Linux's answer to unlink of a directory */
        return remove_directory(at, name, root, depth, err);
    }
    return dd_fail_errno(err, errno, "cannot remove %s below %s", name, root);
}

enum dd_status dd_tree_remove(const char *path, struct dd_error *err) {
    char root[PATH_BYTES];
    enum dd_status status = copy_path(path, root, err);
    return status == DD_OK ? remove_at(AT_FDCWD, root, root, 0, err) : status;
}

/* Adds up the lengths of regular files at and below name.  What vanishes meanwhile counts as nothing. */
static enum dd_status bytes_at(int at, const char *name, const char *root, int depth, uint64_t *total,
                               struct dd_error *err) {
    struct stat info;
    if (fstatat(at, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return errno == ENOENT && depth > 0 ? DD_OK : dd_fail_errno(err, errno, "cannot look at %s", name);
    }
    if (S_ISREG(info.st_mode)) {
        *total += (uint64_t)info.st_size;
    }
    if (!S_ISDIR(info.st_mode)) {
        return DD_OK;
    }
    if (depth > MAX_DEPTH) {
        return too_deep(root, err);
    }
    DD_CLEANUP(close_dir) DIR *dir = open_dir(at, name);
    if (!dir) {
        return errno == ENOENT && depth > 0 ? DD_OK : dd_fail_errno(err, errno, "cannot open %s below %s", name, root);
    }
    struct dirent *entry;
    while ((entry = next_entry(dir))) {
        enum dd_status status = bytes_at(dirfd(dir), entry->d_name, root, depth + 1, total, err);
        if (status != DD_OK) {
            return status;
        }
    }
    return errno ? dd_fail_errno(err, errno, "cannot list a directory below %s", root) : DD_OK;
}

enum dd_status dd_tree_bytes(const char *path, uint64_t *ret_bytes, struct dd_error *err) {
    char root[PATH_BYTES];
    uint64_t total = 0;
    enum dd_status status = copy_path(path, root, err);
    if (status == DD_OK) {
        status = bytes_at(AT_FDCWD, root, root, 0, &total, err);
    }
    if (status == DD_OK) {
        *ret_bytes = total;
    }
    return status;
}
