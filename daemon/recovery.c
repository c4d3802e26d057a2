/* What is put right at start, before any other thread runs.
 *
 * A data set or model becomes visible by its row, which is written after its directory; it goes by its row, which is
 * deleted before its directory.  So a directory without a row was never acknowledged or is no longer wanted, and is
 * removed.  The same holds for runs/<id> without an experiment, and for temporaries of writers that died.  Where the
 * database itself is gone nothing would have a row, so that is looked at first and refused.
 *
 * Where somebody has put an older database back, what came after it has no row either, but was acknowledged.  It is
 * told by its name: the database commits series and number before a directory with them is made, and ids of experiments
 * are never given twice, so what this database has not given out is another's.  Such a directory is moved to orphaned/,
 * and comes back when a database is there that has a row for it.  Each start has a series of its own, so the same holds
 * for what is made under the older database, when the newer one returns.
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

enum fate { KEEP, REMOVE, SET_ASIDE };

/* data_dir/orphaned/<folder>/<name>, made so far that a rename to it works. */
static enum dd_status orphan_path(const char *data_dir, const char *folder, const char *name, char out[PATH_MAX],
                                  struct dd_error *err) {
    char parent[PATH_MAX];
    enum dd_status status = dd_path_join(parent, sizeof parent, err, data_dir, DD_ORPHANED, folder, NULL);
    if (status == DD_OK)
        status = dd_dir_make(parent, err);
    return status == DD_OK ? dd_path_join(out, PATH_MAX, err, parent, name, NULL) : status;
}

/* Durable: the directory it goes to before the one that it leaves. */
static enum dd_status move(const char *from, const char *to, struct dd_error *err) {
    char parents[2][PATH_MAX];
    const char *const paths[2] = {to, from};
    if (DD_FAILABLE("rename", rename(from, to)) != 0)
        return dd_fail_errno(err, errno, "cannot move %s to %s", from, to);
    enum dd_status status = DD_OK;
    for (size_t i = 0; status == DD_OK && i < 2; i++) {
        snprintf(parents[i], sizeof parents[i], "%.*s", (int)(strrchr(paths[i], '/') - paths[i]), paths[i]);
        status = dd_dir_sync(parents[i], err);
    }
    return status;
}

static enum dd_status set_aside(const char *data_dir, const char *folder, const char *name, const char *path,
                                struct dd_error *err) {
    char to[PATH_MAX], other[PATH_MAX];
    struct stat info;
    enum dd_status status = orphan_path(data_dir, folder, name, to, err);
    for (int i = 2; status == DD_OK && lstat(to, &info) == 0; i++) { /* another of that name lies there */
        snprintf(other, sizeof other, "%.*s.%d", DD_NAME_BYTES + 32, name, i);
        status = orphan_path(data_dir, folder, other, to, err);
    }
    if (status == DD_OK)
        status = move(path, to, err);
    if (status == DD_OK)
        dd_log(
            DD_LOG_WARNING, "recovery",
            "moved %s to %s: this database does not know it, and did not make it; a newer database must have. Put that "
            "back in place of this one and restart, and it is moved back; or delete it",
            path, to);
    return status;
}

/* Does with each entry of data_dir/folder what judge says. */
static enum dd_status sweep(const char *data_dir, const char *folder,
                            enum fate (*judge)(void *context, const char *name), void *context, struct dd_error *err) {
    char at[PATH_MAX];
    enum dd_status status = dd_path_join(at, sizeof at, err, data_dir, folder, NULL);
    DD_CLEANUP(close_dir) DIR *dir = status == DD_OK ? opendir(at) : NULL;
    if (status == DD_OK && dir == NULL)
        return dd_fail_errno(err, errno, "%s", at);
    for (struct dirent *entry; status == DD_OK && (entry = readdir(dir)) != NULL;) {
        char path[PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        enum fate fate = judge(context, entry->d_name);
        if (fate == KEEP)
            continue;
        status = dd_path_join(path, sizeof path, err, at, entry->d_name, NULL);
        if (status == DD_OK && fate == SET_ASIDE)
            status = set_aside(data_dir, folder, entry->d_name, path, err);
        else if (status == DD_OK && (status = dd_tree_remove(path, err)) == DD_OK)
            dd_log(DD_LOG_INFO, "recovery", "removed %s, which nothing refers to", path);
    }
    return status;
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

/* What a sweep of data sets or models goes by. */
struct known {
    struct dd_daemon *daemon;
    struct names names;
};

static enum fate judge_asset(void *context, const char *name) {
    const struct known *known = context;
    uint32_t series;
    int64_t number;
    bool ours = false;
    struct dd_error err;
    for (size_t i = 0; i < known->names.count; i++)
        if (strcmp(known->names.items[i], name) == 0)
            return KEEP;
    if (is_temporary(name))
        return REMOVE;
    if (!dd_asset_dir_parse(name, &series, &number))
        return SET_ASIDE;
    if (dd_storage_directory_known(known->daemon->storage, series, number, &ours, &err) != DD_OK)
        return KEEP; /* the next start may know */
    return ours ? REMOVE : SET_ASIDE;
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

/* What was set aside under an older database and has a row in this one goes back where it was. */
static enum dd_status take_back(const char *data_dir, const char *folder, const char *name, struct dd_error *err) {
    char from[PATH_MAX], to[PATH_MAX];
    struct stat info;
    if (dd_path_join(from, sizeof from, NULL, data_dir, DD_ORPHANED, folder, name, NULL) != DD_OK ||
        lstat(from, &info) != 0)
        return DD_OK;
    enum dd_status status = dd_path_join(to, sizeof to, err, data_dir, folder, name, NULL);
    if (status != DD_OK || lstat(to, &info) == 0)
        return status;
    status = move(from, to, err);
    if (status == DD_OK)
        dd_log(DD_LOG_INFO, "recovery", "moved %s back to %s", from, to);
    return status;
}

static enum dd_status sweep_assets(struct dd_daemon *daemon, enum dd_asset_kind kind, const char *folder,
                                   struct dd_error *err) {
    struct known known = {.daemon = daemon};
    enum dd_status status = asset_dirs(daemon, kind, &known.names, err);
    for (size_t i = 0; status == DD_OK && i < known.names.count; i++)
        status = take_back(daemon->data_dir, folder, known.names.items[i], err);
    if (status == DD_OK)
        status = sweep(daemon->data_dir, folder, judge_asset, &known, err);
    names_release(&known.names);
    return status;
}

/* --- runs --------------------------------------------------------------------------------------------------------- */

#define MOST_IDS INT64_C(1000000000000) /* what looks like a larger one is no id of ours */

struct runs {
    struct dd_daemon *daemon;
    int64_t given_out, highest;
};

/* Whether there is such an experiment; where that cannot be told it is taken to be there. */
static bool has_row(struct dd_daemon *daemon, int64_t id) {
    struct dd_experiment experiment;
    struct dd_error err;
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, &experiment, &err);
    if (status == DD_OK)
        dd_experiment_release(&experiment);
    return status != DD_NOT_FOUND;
}

static enum fate judge_run(void *context, const char *name) {
    struct runs *runs = context;
    char *end;
    long long id = strtoll(name, &end, 10);
    if (*end != '\0' || id <= 0)
        return is_temporary(name) ? REMOVE : SET_ASIDE;
    if (id > runs->given_out) {
        runs->highest = DD_MAX(runs->highest, id < MOST_IDS ? id : 0);
        return SET_ASIDE;
    }
    return has_row(runs->daemon, id) ? KEEP : REMOVE;
}

static enum dd_status take_back_runs(struct dd_daemon *daemon, struct dd_error *err) {
    char path[PATH_MAX];
    enum dd_status status = dd_path_join(path, sizeof path, err, daemon->data_dir, DD_ORPHANED, "runs", NULL);
    DD_CLEANUP(close_dir) DIR *dir = status == DD_OK ? opendir(path) : NULL;
    for (struct dirent *entry; status == DD_OK && dir != NULL && (entry = readdir(dir)) != NULL;) {
        char *end;
        long long id = strtoll(entry->d_name, &end, 10);
        if (*end == '\0' && id > 0 && has_row(daemon, id))
            status = take_back(daemon->data_dir, "runs", entry->d_name, err);
    }
    return status;
}

static enum fate judge_temporary(void *context, const char *name) {
    (void)context;
    return is_temporary(name) ? REMOVE : KEEP;
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
            status = sweep(path, "", judge_temporary, NULL, err);
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
    struct runs known = {.daemon = daemon};
    if (status == DD_OK)
        status = dd_storage_experiment_highest(daemon->storage, &known.given_out, err);
    if (status == DD_OK)
        status = take_back_runs(daemon, err);
    if (status == DD_OK)
        status = sweep(daemon->data_dir, "runs", judge_run, &known, err);
    if (status == DD_OK && known.highest > known.given_out)
        status = dd_storage_experiment_skip(daemon->storage, known.highest, err);
    if (status == DD_OK)
        status = sweep_inside_runs(runs, err);
    if (status == DD_OK)
        status = sweep(daemon->cache_dir, "", judge_temporary, NULL, err);
    if (status == DD_OK)
        status = sweep_assets(daemon, DD_ASSET_DATASET, "datasets", err);
    if (status == DD_OK)
        status = sweep_assets(daemon, DD_ASSET_MODEL, "models", err);
    return status;
}
