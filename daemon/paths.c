/* The data directory: where things lie.
 * Threads: any; plain functions of their arguments and the file system.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"

enum dd_status dd_default_data_dir(char *out, size_t out_bytes, struct dd_error *err) {
    const char *state = getenv("STATE_DIRECTORY"); /* set by systemd; a colon-separated list */
    if (state != NULL && state[0] == '/') {
        char first[PATH_MAX];
        snprintf(first, sizeof first, "%.*s", (int)strcspn(state, ":"), state);
        return dd_path_join(out, out_bytes, err, first, NULL);
    }
    const char *share = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (share != NULL && share[0] == '/')
        return dd_path_join(out, out_bytes, err, share, "distilld", NULL);
    if (home != NULL && home[0] == '/')
        return dd_path_join(out, out_bytes, err, home, ".local/share/distilld", NULL);
    return dd_fail(err, DD_INVALID, "config_invalid", "there is no HOME to keep data below: give --data-dir");
}

enum dd_status dd_daemon_path(const struct dd_daemon *daemon, char out[PATH_MAX], struct dd_error *err,
                              const char *folder, const char *name) {
    return dd_path_join(out, PATH_MAX, err, daemon->data_dir, folder, name, NULL);
}

enum dd_status dd_run_dir(const struct dd_daemon *daemon, int64_t id, char out[PATH_MAX], struct dd_error *err) {
    char name[32];
    snprintf(name, sizeof name, "%" PRId64, id);
    return dd_daemon_path(daemon, out, err, "runs", name);
}

enum dd_status dd_new_scratch_dir(const char *folder, const char *name, char out[PATH_MAX], struct dd_error *err) {
    uint8_t random[4];
    char hex[2 * sizeof random + 1];
    enum dd_status status = dd_random_bytes(random, sizeof random, err);
    if (status != DD_OK)
        return status;
    dd_hex(random, sizeof random, hex);
    snprintf(out, PATH_MAX, "%s/%s-%s", folder, name, hex);
    return DD_OK;
}

enum dd_status dd_new_asset_dir(struct dd_daemon *daemon, const char *folder, const char *name, char out[PATH_MAX],
                                struct dd_error *err) {
    uint32_t series = 0;
    int64_t number = 0;
    enum dd_status status = dd_storage_directory_begin(daemon->storage, &series, &number, err);
    if (status == DD_OK)
        snprintf(out, PATH_MAX, "%s/%s-s%08" PRIx32 "-%" PRId64, folder, name, series, number);
    return status;
}

bool dd_asset_dir_parse(const char *name, uint32_t *ret_series, int64_t *ret_number) {
    const char *dash = strrchr(name, '-');
    if (dash == NULL || dash - name < 10 || strncmp(dash - 10, "-s", 2) != 0)
        return false;
    size_t hex = strspn(dash - 8, "0123456789abcdef"), digits = strspn(dash + 1, "0123456789");
    if (hex != 8 || digits == 0 || digits > 15 || dash[1 + digits] != '\0')
        return false;
    *ret_series = (uint32_t)strtoul(dash - 8, NULL, 16);
    *ret_number = strtoll(dash + 1, NULL, 10);
    return true;
}

enum dd_status dd_asset_path(const struct dd_daemon *daemon, const struct dd_asset *asset, char out[PATH_MAX],
                             struct dd_error *err) {
    if (asset->dir[0] == '/')
        return dd_path_join(out, PATH_MAX, err, asset->dir, NULL);
    return dd_path_join(out, PATH_MAX, err, daemon->data_dir, asset->dir, NULL);
}

static enum dd_status make_absolute(const char *path, char *out, size_t out_bytes, struct dd_error *err) {
    enum dd_status status = dd_dir_make(path, err);
    if (status != DD_OK)
        return dd_error_prefix(err, "cannot make the directory %s", path);
    DD_CLEANUP(dd_free_ptr) char *real = realpath(path, NULL);
    if (real == NULL)
        return dd_fail_errno(err, errno, "%s", path);
    return dd_path_join(out, out_bytes, err, real, NULL);
}

enum dd_status dd_data_dir_open(struct dd_daemon *daemon, const char *data_dir, const char *cache_dir,
                                struct dd_error *err) {
    static const char *const folders[] = {"datasets", "models", "runs", "uploads"};
    enum dd_status status = make_absolute(data_dir, daemon->data_dir, sizeof daemon->data_dir, err);
    char path[PATH_MAX];
    for (size_t i = 0; status == DD_OK && i < DD_ARRAY_LEN(folders); i++) {
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, folders[i], NULL);
        if (status == DD_OK)
            status = dd_dir_make(path, err);
    }
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, "cache", NULL);
    if (status == DD_OK)
        status = make_absolute(cache_dir != NULL ? cache_dir : path, daemon->cache_dir, sizeof daemon->cache_dir, err);
    return status;
}

static void close_dir(DIR **dir) {
    if (*dir != NULL)
        closedir(*dir);
}

static enum dd_status copy_file(const char *from, const char *to, struct dd_error *err) {
    struct dd_mapping mapping;
    enum dd_status status = dd_mapping_open(from, &mapping, err);
    if (status != DD_OK)
        return status;
    status = dd_file_write_durable(to, mapping.bytes, mapping.len, err);
    dd_mapping_release(&mapping);
    return status;
}

static enum dd_status link_files(const char *from, const char *to, struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(from);
    if (dir == NULL)
        return dd_fail_errno(err, errno, "%s", from);
    enum dd_status status = DD_OK;
    for (struct dirent *entry; status == DD_OK && (entry = readdir(dir)) != NULL;) {
        char source[PATH_MAX], target[PATH_MAX];
        struct stat info;
        status = dd_path_join(source, sizeof source, err, from, entry->d_name, NULL);
        if (status == DD_OK)
            status = dd_path_join(target, sizeof target, err, to, entry->d_name, NULL);
        if (status != DD_OK || lstat(source, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        if (DD_FAILABLE("link", link(source, target)) != 0)
            status = copy_file(source, target, err);
    }
    return status;
}

enum dd_status dd_dir_link(const char *from, const char *to, struct dd_error *err) {
    enum dd_status status = dd_dir_make(to, err);
    if (status == DD_OK)
        status = link_files(from, to, err);
    if (status == DD_OK)
        status = dd_dir_sync(to, err);
    if (status != DD_OK) {
        struct dd_error ignored;
        (void)!dd_tree_remove(to, &ignored);
    }
    return status;
}
