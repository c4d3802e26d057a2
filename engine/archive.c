/* archive: model directories as .tar.gz, and uploaded archives as directories.
 *
 * An uploaded archive is hostile until shown otherwise.  Only tar and zip are read, plain, gzip or xz; entries must be
 * regular files with clean relative names; their number, their total size and the ratio of that to what was read are
 * bounded.  Files are first written under numbers, because only at the end is it known which folder of the archive is
 * the model's: the shallowest one, at most one level down.  Those in deeper folders (1_Pooling/…) are dropped.
 * Threads: no state; the caller's thread does all the work.
 */
#include "engine/model.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ENTRIES 64
#define MAX_DIR_FILES 256
#define BLOCK_BYTES 65536
/* More than this many bytes out for each byte in is a bomb, once FREE_BYTES have come out. */
#define MAX_RATIO 200
#define FREE_BYTES ((uint64_t)64 << 20)

static enum dd_status from_archive(struct dd_error *err, struct archive *archive, enum dd_status status,
                                   const char *what) {
    const char *text = archive_error_string(archive);
    return dd_fail(err, status, "archive_failed", "%s: %.300s", what, text == NULL ? "unknown reason" : text);
}

/* --- where an archive goes ---------------------------------------------------------------------------------------- */

/* libarchive never learns that a write failed: after that it would neither end nor free its filters.  Instead the
 * first failure is kept here, what follows is dropped, and sink_check reports it. */
struct sink {
    int fd;
    int error; /* errno of the first failed write */
    bool dropping;
};

static la_ssize_t sink_write(struct archive *archive, void *context, const void *bytes, size_t count) {
    (void)archive;
    struct sink *sink = context;
    const char *at = bytes;
    for (size_t left = count; left > 0 && !sink->dropping;) {
        int injected = dd_failpoint("write");
        ssize_t written = injected != 0 ? (errno = injected, -1) : write(sink->fd, at, left);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            sink->error = errno;
            sink->dropping = true;
            break;
        }
        at += written;
        left -= (size_t)written;
    }
    return (la_ssize_t)count;
}

static enum dd_status sink_check(const struct sink *sink, struct dd_error *err) {
    return sink->error == 0 ? DD_OK : dd_fail_errno(err, sink->error, "cannot write the archive");
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static int compare_texts(const void *a, const void *b) {
    const char *const *left = a, *const *right = b;
    return strcmp(*left, *right);
}

static void free_names(char **names, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free(names[i]);
    }
}

/* Names of the regular files of dir, sorted; what begins with a dot is not part of a model. */
static enum dd_status list_files(const char *dir, char *names[MAX_DIR_FILES], size_t *ret_count, struct dd_error *err) {
    DIR *stream = opendir(dir);
    if (stream == NULL) {
        return dd_fail_errno(err, errno, "cannot read the directory %s", dir);
    }
    enum dd_status status = DD_OK;
    size_t count = 0;
    for (const struct dirent *entry = readdir(stream); entry != NULL && status == DD_OK; entry = readdir(stream)) {
        struct stat info;
        if (entry->d_name[0] == '.' || fstatat(dirfd(stream), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode)) {
            continue;
        }
        if (count == MAX_DIR_FILES) {
            status =
                dd_fail(err, DD_TOO_LARGE, "archive_too_large", "the directory has more than %d files", MAX_DIR_FILES);
        } else if ((names[count] = dd_strdup(entry->d_name)) == NULL) {
            status = dd_fail_memory(err, strlen(entry->d_name));
        } else {
            count++;
        }
    }
    closedir(stream);
    if (status != DD_OK) {
        free_names(names, count);
        return status;
    }
    qsort(names, count, sizeof *names, compare_texts);
    *ret_count = count;
    return DD_OK;
}

static enum dd_status write_header(struct archive *archive, const char *root, const char *name, const struct stat *info,
                                   struct dd_error *err) {
    char path[4096];
    enum dd_status status = dd_path_join(path, sizeof path, err, root, name, NULL);
    if (status != DD_OK) {
        return status;
    }
    struct archive_entry *entry = archive_entry_new();
    if (entry == NULL) {
        return dd_fail_memory(err, BLOCK_BYTES);
    }
    archive_entry_set_pathname(entry, path);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, info->st_size);
    archive_entry_set_mtime(entry, info->st_mtime, 0);
    if (archive_write_header(archive, entry) != ARCHIVE_OK) {
        status = from_archive(err, archive, DD_IO, "cannot write the archive");
    }
    archive_entry_free(entry);
    return status;
}

/* The bytes of one file; it must not change meanwhile. */
static enum dd_status write_data(struct archive *archive, const struct sink *sink, int fd, uint64_t left,
                                 const char *name, const struct dd_cancel *cancel, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *block = dd_calloc(BLOCK_BYTES, 1);
    if (block == NULL) {
        return dd_fail_memory(err, BLOCK_BYTES);
    }
    while (left > 0) {
        if (dd_cancel_requested(cancel) != DD_STOP_NONE) {
            return dd_fail(err, DD_STOPPED, "stopped", "the archive was no longer wanted");
        }
        ssize_t count = read(fd, block, (size_t)DD_MIN(left, (uint64_t)BLOCK_BYTES));
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return dd_fail_errno(err, errno, "cannot read %s", name);
        }
        if (count == 0) {
            return dd_fail(err, DD_CONFLICT, "file_changed", "%s became shorter while it was read", name);
        }
        if (archive_write_data(archive, block, (size_t)count) != count) {
            return from_archive(err, archive, DD_IO, "cannot write the archive");
        }
        left -= (uint64_t)count;
        enum dd_status status = sink_check(sink, err);
        if (status != DD_OK) {
            return status;
        }
    }
    return DD_OK;
}

static enum dd_status write_file(struct archive *archive, const struct sink *sink, const char *dir, const char *root,
                                 const char *name, const struct dd_cancel *cancel, struct dd_error *err) {
    char path[4096];
    struct stat info;
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, name, NULL);
    if (status != DD_OK) {
        return status;
    }
    DD_CLEANUP(dd_close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &info) != 0) {
        return dd_fail_errno(err, errno, "cannot open %s", name);
    }
    status = write_header(archive, root, name, &info, err);
    return status == DD_OK ? write_data(archive, sink, fd, (uint64_t)info.st_size, name, cancel, err) : status;
}

enum dd_status dd_archive_write(const char *dir, const char *root, int fd, const struct dd_cancel *cancel,
                                struct dd_error *err) {
    struct sink sink = {.fd = fd};
    char *names[MAX_DIR_FILES];
    size_t count = 0;
    enum dd_status status = list_files(dir, names, &count, err);
    if (status != DD_OK) {
        return status;
    }
    struct archive *archive = archive_write_new();
    if (archive == NULL) {
        free_names(names, count);
        return dd_fail_memory(err, BLOCK_BYTES);
    }
    /* Weights hardly compress, so the fastest level; no time in the gzip header, so the same directory gives the same
     * bytes. */
    if (archive_write_set_format_pax_restricted(archive) != ARCHIVE_OK ||
        archive_write_add_filter_gzip(archive) != ARCHIVE_OK ||
        archive_write_set_options(archive, "gzip:compression-level=1,gzip:!timestamp") != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(archive, 1) != ARCHIVE_OK ||
        archive_write_open(archive, &sink, NULL, sink_write, NULL) != ARCHIVE_OK) {
        status = from_archive(err, archive, DD_IO, "cannot begin the archive");
    }
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        status = write_file(archive, &sink, dir, root, names[i], cancel, err);
    }
    sink.dropping = sink.dropping || status != DD_OK; /* so that no end is written that looks whole */
    if (archive_write_close(archive) != ARCHIVE_OK && status == DD_OK) {
        status = from_archive(err, archive, DD_IO, "cannot end the archive");
    }
    if (status == DD_OK) {
        status = sink_check(&sink, err);
    }
    archive_write_free(archive);
    free_names(names, count);
    return status;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct extraction {
    struct archive *archive;
    const char *dir;
    uint64_t max_bytes, bytes;
    int n_entries;            /* headers seen */
    char *paths[MAX_ENTRIES]; /* of the files written so far, as in the archive; file i is "<dir>/.part-<i>" */
    int n_files;
    struct dd_error *err;
};

static enum dd_status refuse(struct extraction *x, const char *path, const char *why) {
    return dd_fail(x->err, DD_INVALID, "archive_refused", "the archive's entry \"%.200s\" %s", path, why);
}

/* A relative path of plain names; a leading "./" has been taken off. */
static enum dd_status check_path(struct extraction *x, const char *path) {
    size_t length = strlen(path);
    if (length == 0 || length > 1024 || path[0] == '/') {
        return refuse(x, path, "has an absolute, empty or too long name");
    }
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f || path[i] == '\\') {
            return refuse(x, path, "has a control character or backslash in its name");
        }
    }
    for (const char *part = path; part != NULL; part = strchr(part, '/') == NULL ? NULL : strchr(part, '/') + 1) {
        size_t bytes = strcspn(part, "/");
        if (bytes > 255 || (bytes == 2 && part[0] == '.' && part[1] == '.')) {
            return refuse(x, path, "leads out of its folder or has too long a name");
        }
    }
    return DD_OK;
}

/* Files that macOS and editors add. */
static bool is_litter(const char *path) {
    const char *name = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;
    return name[0] == '.' || name[0] == 0 || strncmp(path, "__MACOSX/", 9) == 0;
}

static enum dd_status too_large(struct extraction *x) {
    return dd_fail(x->err, DD_TOO_LARGE, "archive_too_large", "the archive unpacks to more than %llu bytes",
                   (unsigned long long)x->max_bytes);
}

/* Counts bytes that came out against the limits. */
static enum dd_status count_bytes(struct extraction *x, uint64_t count) {
    x->bytes += count;
    if (x->bytes > x->max_bytes) {
        return too_large(x);
    }
    int64_t in = archive_filter_bytes(x->archive, -1);
    if (x->bytes > FREE_BYTES && in > 0 && x->bytes / MAX_RATIO > (uint64_t)in) {
        return dd_fail(x->err, DD_INVALID, "archive_refused",
                       "the archive unpacks to more than %d times its size, which no model does", MAX_RATIO);
    }
    return DD_OK;
}

static enum dd_status write_all(int fd, const char *bytes, size_t count, struct dd_error *err) {
    while (count > 0) {
        int injected = dd_failpoint("write");
        ssize_t written = injected != 0 ? (errno = injected, -1) : write(fd, bytes, count);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return dd_fail_errno(err, errno, "cannot write an unpacked file");
        }
        bytes += written;
        count -= (size_t)written;
    }
    return DD_OK;
}

static enum dd_status part_path(const struct extraction *x, int index, char out[4096]) {
    char name[32];
    snprintf(name, sizeof name, ".part-%d", index);
    return dd_path_join(out, 4096, x->err, x->dir, name, NULL);
}

/* The data of the entry at hand into part file n_files. */
static enum dd_status unpack_data(struct extraction *x) {
    char path[4096];
    DD_CLEANUP(dd_free_ptr) char *block = dd_calloc(BLOCK_BYTES, 1);
    enum dd_status status = part_path(x, x->n_files, path);
    if (block == NULL) {
        return dd_fail_memory(x->err, BLOCK_BYTES);
    }
    if (status != DD_OK) {
        return status;
    }
    DD_CLEANUP(dd_close_fd) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0) {
        return dd_fail_errno(x->err, errno, "cannot create an unpacked file");
    }
    for (;;) {
        la_ssize_t count = archive_read_data(x->archive, block, BLOCK_BYTES);
        if (count == 0) {
            break;
        }
        if (count == ARCHIVE_RETRY) {
            continue;
        }
        if (count < 0) {
            return from_archive(x->err, x->archive, DD_CORRUPT, "the archive is damaged or encrypted");
        }
        status = count_bytes(x, (uint64_t)count);
        if (status == DD_OK) {
            status = write_all(fd, block, (size_t)count, x->err);
        }
        if (status != DD_OK) {
            return status;
        }
    }
    return fsync(fd) == 0 ? DD_OK : dd_fail_errno(x->err, errno, "cannot write an unpacked file");
}

static enum dd_status unpack_entry(struct extraction *x, struct archive_entry *entry) {
    const char *path = archive_entry_pathname(entry);
    if (path == NULL) {
        path = archive_entry_pathname_utf8(entry);
    }
    if (path == NULL) {
        return refuse(x, "?", "has an unreadable name");
    }
    if (++x->n_entries > MAX_ENTRIES) {
        return dd_fail(x->err, DD_INVALID, "archive_refused", "the archive has more than %d entries", MAX_ENTRIES);
    }
    while (strncmp(path, "./", 2) == 0) {
        path += 2;
    }
    bool is_directory = archive_entry_filetype(entry) == AE_IFDIR;
    if (is_directory && path[0] == 0) {
        return DD_OK;
    }
    enum dd_status status = check_path(x, path);
    if (status != DD_OK || is_directory) {
        return status;
    }
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != NULL ||
        archive_entry_symlink(entry) != NULL) {
        return refuse(x, path, "is a link or device; only files are accepted");
    }
    if (archive_entry_size_is_set(entry) &&
        (archive_entry_size(entry) < 0 || (uint64_t)archive_entry_size(entry) > x->max_bytes - x->bytes)) {
        return too_large(x);
    }
    if (is_litter(path)) {
        return DD_OK;
    }
    status = unpack_data(x);
    if (status != DD_OK) {
        return status;
    }
    x->paths[x->n_files] = dd_strdup(path);
    if (x->paths[x->n_files] == NULL) {
        return dd_fail_memory(x->err, strlen(path));
    }
    x->n_files++;
    return DD_OK;
}

static size_t folder_bytes(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path) + 1;
}

static int depth(const char *path) {
    int slashes = 0;
    for (; *path != 0; path++) {
        slashes += *path == '/';
    }
    return slashes;
}

/* Gives the files of the shallowest folder their names and drops the rest. */
static enum dd_status settle(struct extraction *x) {
    const char *root = NULL;
    for (int i = 0; i < x->n_files; i++) {
        if (root == NULL || depth(x->paths[i]) < depth(root)) {
            root = x->paths[i];
        }
    }
    if (root == NULL) {
        return dd_fail(x->err, DD_INVALID, "archive_refused", "the archive holds no files");
    }
    if (depth(root) > 1) {
        return refuse(x, root, "lies more than one folder down, and none lies higher");
    }
    size_t root_bytes = folder_bytes(root);
    for (int i = 0; i < x->n_files; i++) {
        char from[4096], to[4096];
        enum dd_status status = part_path(x, i, from);
        if (status != DD_OK) {
            return status;
        }
        bool in_root = folder_bytes(x->paths[i]) == root_bytes && memcmp(x->paths[i], root, root_bytes) == 0;
        if (!in_root && depth(x->paths[i]) == depth(root)) {
            return refuse(x, x->paths[i], "lies in a second folder; pack one model's files only");
        }
        status = in_root ? dd_path_join(to, sizeof to, x->err, x->dir, x->paths[i] + root_bytes, NULL)
                         : dd_tree_remove(from, x->err);
        if (status != DD_OK) {
            return status;
        }
        if (in_root && renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) != 0) {
            return errno == EEXIST ? refuse(x, x->paths[i], "occurs twice")
                                   : dd_fail_errno(x->err, errno, "cannot name an unpacked file");
        }
    }
    return dd_dir_sync(x->dir, x->err);
}

static enum dd_status unpack(struct extraction *x, const char *path) {
    struct archive_entry *entry = NULL;
    archive_read_support_format_tar(x->archive);
    archive_read_support_format_zip(x->archive);
    archive_read_support_filter_gzip(x->archive);
    archive_read_support_filter_xz(x->archive);
    if (archive_read_open_filename(x->archive, path, BLOCK_BYTES) != ARCHIVE_OK) {
        return from_archive(x->err, x->archive, DD_CORRUPT, "not a .tar, .tar.gz, .tar.xz or .zip archive");
    }
    for (;;) {
        int code = archive_read_next_header(x->archive, &entry);
        if (code == ARCHIVE_EOF) {
            return settle(x);
        }
        if (code == ARCHIVE_RETRY) {
            continue;
        }
        if (code != ARCHIVE_OK && code != ARCHIVE_WARN) {
            return from_archive(x->err, x->archive, DD_CORRUPT, "the archive is damaged");
        }
        enum dd_status status = unpack_entry(x, entry);
        if (status != DD_OK) {
            return status;
        }
    }
}

enum dd_status dd_archive_extract(const char *archive, const char *dir, uint64_t max_bytes, struct dd_error *err) {
    struct extraction x = {.dir = dir, .max_bytes = max_bytes, .err = err};
    struct stat info;
    if (lstat(dir, &info) == 0) {
        return dd_fail(err, DD_CONFLICT, "directory_exists", "%s exists already", dir);
    }
    x.archive = archive_read_new();
    if (x.archive == NULL) {
        return dd_fail_memory(err, BLOCK_BYTES);
    }
    enum dd_status status = dd_dir_make(dir, err);
    if (status == DD_OK) {
        status = unpack(&x, archive);
    }
    archive_read_free(x.archive);
    for (int i = 0; i < x.n_files; i++) {
        free(x.paths[i]);
    }
    if (status != DD_OK) {
        struct dd_error ignored;
        enum dd_status removed = dd_tree_remove(dir, &ignored); /* the first error is the one to report */
        (void)removed;
    }
    return status;
}
