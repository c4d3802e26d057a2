/* What is put right at start, before any other thread runs.
 *
 * A data set or model becomes visible by its row, which is written after its directory; it goes by its row, which is
 * deleted before its directory.  So a directory without a row was never acknowledged or is no longer wanted, and is
 * removed.  The same holds for runs/<id> without an experiment, and for temporaries of writers that died.  Where the
 * database itself is gone nothing would have a row, so that is looked at first and refused.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/daemon.h"

static void close_dir(DIR **dir) {
    if (*dir != NULL)
        closedir(*dir);
}

static bool has_suffix(const char *name, const char *suffix) {
    size_t len = strlen(name), suffix_len = strlen(suffix);
    return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

/* Of a file, a data set, a model: ".old" is what a model replaced where directories cannot be exchanged. */
static bool is_temporary(const char *name) {
    return strstr(name, ".tmp-") != NULL || strncmp(name, ".new-", 5) == 0 || has_suffix(name, ".tmp") ||
           has_suffix(name, ".old");
}

/* Removes the entries of a folder for which wanted says false. */
static enum dd_status sweep(const char *folder, bool (*wanted)(void *context, const char *name), void *context,
                            struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(folder);
    if (dir == NULL)
        return dd_fail_errno(err, errno, "%s", folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || wanted(context, entry->d_name))
            continue;
        char path[PATH_MAX];
        enum dd_status status = dd_path_join(path, sizeof path, err, folder, entry->d_name, NULL);
        if (status == DD_OK)
            status = dd_tree_remove(path, err);
        if (status != DD_OK)
            return status;
        dd_log(DD_LOG_INFO, "recovery", "removed %s, which nothing refers to", path);
    }
    return DD_OK;
}

struct names {
    char **items;
    size_t count;
};

static void names_release(struct names *names) {
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
    free(names->items);
}

static bool in_names(void *context, const char *name) {
    const struct names *names = context;
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->items[i], name) == 0)
            return true;
    return false;
}

/* The last path component of every asset's directory. */
static enum dd_status asset_dirs(struct dd_daemon *daemon, enum dd_asset_kind kind, struct names *names,
                                 struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *cursor = NULL;
    do {
        struct dd_asset *items;
        size_t count;
        char *next = NULL;
        enum dd_status status =
            dd_storage_asset_list(daemon->storage, kind, NULL, cursor, 500, &items, &count, &next, err);
        if (status != DD_OK)
            return status;
        free(cursor);
        cursor = next;
        char **grown = dd_realloc_array(names->items, names->count + count + 1, sizeof *grown);
        if (grown != NULL)
            names->items = grown;
        for (size_t i = 0; grown != NULL && i < count; i++) {
            const char *slash = strrchr(items[i].dir, '/');
            char *name = dd_strdup(slash != NULL ? slash + 1 : items[i].dir);
            if (name != NULL)
                names->items[names->count++] = name;
            else
                grown = NULL;
        }
        dd_assets_free(items, count);
        if (grown == NULL)
            return dd_fail_memory(err, 0);
    } while (cursor != NULL);
    return DD_OK;
}

static enum dd_status sweep_assets(struct dd_daemon *daemon, enum dd_asset_kind kind, const char *folder,
                                   struct dd_error *err) {
    DD_CLEANUP(names_release) struct names names = {NULL, 0};
    char path[PATH_MAX];
    enum dd_status status = asset_dirs(daemon, kind, &names, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, folder, NULL);
    if (status == DD_OK)
        status = sweep(path, in_names, &names, err);
    return status;
}

static bool run_wanted(void *context, const char *name) {
    struct dd_daemon *daemon = context;
    char *end;
    long long id = strtoll(name, &end, 10);
    if (*end != '\0' || id <= 0)
        return false;
    struct dd_experiment experiment;
    struct dd_error err;
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, &experiment, &err);
    if (status == DD_OK)
        dd_experiment_release(&experiment);
    return status != DD_NOT_FOUND;
}

static bool not_temporary(void *context, const char *name) {
    (void)context;
    return !is_temporary(name);
}

/* Temporaries of writers inside the run directories that stay. */
static enum dd_status sweep_inside_runs(const char *runs, struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(runs);
    if (dir == NULL)
        return dd_fail_errno(err, errno, "%s", runs);
    enum dd_status status = DD_OK;
    for (struct dirent *entry; status == DD_OK && (entry = readdir(dir)) != NULL;) {
        char path[PATH_MAX];
        if (entry->d_name[0] == '.')
            continue;
        status = dd_path_join(path, sizeof path, err, runs, entry->d_name, NULL);
        if (status == DD_OK)
            status = sweep(path, not_temporary, NULL, err);
    }
    return status;
}

static enum dd_status is_empty(const char *folder, bool *ret_empty, struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(folder);
    *ret_empty = true;
    if (dir == NULL)
        return errno == ENOENT ? DD_OK : dd_fail_errno(err, errno, "%s", folder);
    for (struct dirent *entry; *ret_empty && (entry = readdir(dir)) != NULL;)
        *ret_empty = entry->d_name[0] == '.' || is_temporary(entry->d_name);
    return DD_OK;
}

enum dd_status dd_recover_check(const char *data_dir, const char *database, struct dd_error *err) {
    static const char *const folders[] = {"datasets", "models", "runs"};
    enum dd_status status = DD_OK;
    struct stat info;
    if (stat(database, &info) == 0 ? info.st_size > 0 : errno != ENOENT)
        return DD_OK; /* whatever it is, opening it tells */
    for (size_t i = 0; status == DD_OK && i < DD_ARRAY_LEN(folders); i++) {
        char path[PATH_MAX];
        bool empty = true;
        status = dd_path_join(path, sizeof path, err, data_dir, folders[i], NULL);
        if (status == DD_OK)
            status = is_empty(path, &empty, err);
        if (status == DD_OK && !empty)
            status = dd_fail(err, DD_CORRUPT, "database_lost",
                             "%s is missing, but %s is not empty: a new database would know nothing of it. Put the "
                             "database back (`distilld restore` from a backup), or move %s away",
                             database, path, path);
    }
    return status;
}

enum dd_status dd_recover(struct dd_daemon *daemon, struct dd_error *err) {
    int requeued = 0, failed = 0;
    enum dd_status status = dd_storage_recover(daemon->storage, DD_MAX_CRASHES, &requeued, &failed, err);
    if (status != DD_OK)
        return status;
    if (requeued > 0)
        dd_log(DD_LOG_INFO, "recovery", "%d interrupted experiment%s back in the queue", requeued,
               requeued == 1 ? "" : "s");
    if (failed > 0)
        dd_log(DD_LOG_WARNING, "recovery", "%d experiment%s failed: the daemon died under %s %d times", failed,
               failed == 1 ? "" : "s", failed == 1 ? "it" : "them", DD_MAX_CRASHES);
    char runs[PATH_MAX];
    status = dd_path_join(runs, sizeof runs, err, daemon->data_dir, "runs", NULL);
    if (status == DD_OK)
        status = sweep(runs, run_wanted, daemon, err);
    if (status == DD_OK)
        status = sweep_inside_runs(runs, err);
    if (status == DD_OK)
        status = sweep(daemon->cache_dir, not_temporary, NULL, err);
    if (status == DD_OK)
        status = sweep_assets(daemon, DD_ASSET_DATASET, "datasets", err);
    if (status == DD_OK)
        status = sweep_assets(daemon, DD_ASSET_MODEL, "models", err);
    return status;
}
