/* Retention: what has been kept long enough, or no longer fits, is removed, with a line in the log for each.
 *
 *   keep-runs-days          ended runs with all that they recorded (their models stay: those are deleted by people)
 *   keep-checkpoints-days   checkpoints of failed and cancelled runs, which only a retry needs: it then begins anew,
 *   keep-checkpoints-bytes  to the same bits.  Finished runs have none.
 *   keep-orphaned-days      what an older database did not know (recovery.c)
 *   keep-cache-bytes        teachers' logits and states, least recently used first; they are computed again when needed
 *
 * All are off unless configured.  A run with the tag "keep", and every run of a sweep that goes on, is left alone.
 *
 * Threads: main (hourly) and request threads (POST /gc); each removal is conditional or may be repeated, so that the
 * two do not harm one another.
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

#define DAY_MS (24 * 3600 * INT64_C(1000))
#define MAX_RUNS 10000
#define MAX_FILES 100000

struct pass {
    struct dd_daemon *daemon;
    bool dry_run;
    int left; /* how many more may be removed in this pass */
    cJSON *items;
    uint64_t bytes;
};

static void note(struct pass *pass, const char *kind, const char *name, uint64_t bytes, const char *reason) {
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "kind", kind);
    cJSON_AddStringToObject(item, "name", name);
    cJSON_AddNumberToObject(item, "bytes", (double)bytes);
    cJSON_AddStringToObject(item, "reason", reason);
    cJSON_AddItemToArray(pass->items, item);
    pass->bytes += bytes;
    pass->left--;
    if (!pass->dry_run)
        dd_log(DD_LOG_INFO, "retention", "removed %s %s (%" PRIu64 " bytes): %s", kind, name, bytes, reason);
}

/* --- runs ------------------------------------------------------------------------------------------------------- */

static enum dd_status remove_run(struct pass *pass, int64_t id, int64_t before_ms, struct dd_error *err) {
    struct dd_daemon *daemon = pass->daemon;
    char path[PATH_MAX], name[32];
    uint64_t bytes = 0;
    bool deleted = pass->dry_run;
    enum dd_status status = dd_run_dir(daemon, id, path, err);
    if (status == DD_OK && dd_tree_bytes(path, &bytes, NULL) != DD_OK)
        bytes = 0; /* it has no directory */
    if (status == DD_OK && !pass->dry_run)
        status = dd_storage_ended_delete(daemon->storage, id, before_ms, &deleted, err);
    if (status != DD_OK || !deleted)
        return status;
    if (!pass->dry_run) {
        status = dd_tree_remove(path, err);
        cJSON *event = cJSON_CreateObject();
        cJSON_AddNumberToObject(event, "id", (double)id);
        cJSON_AddStringToObject(event, "status", "deleted");
        dd_publish(daemon, "status", id, event);
    }
    snprintf(name, sizeof name, "%" PRId64, id);
    note(pass, "run", name, bytes, "older than keep-runs-days");
    return status;
}

static enum dd_status old_runs(struct pass *pass, int64_t now_ms, struct dd_error *err) {
    int64_t days = pass->daemon->options->keep_runs_days;
    int64_t before_ms = now_ms - days * DAY_MS;
    struct dd_ended_run *runs = NULL;
    size_t count = 0;
    if (days == 0)
        return DD_OK;
    enum dd_status status = dd_storage_ended_list(pass->daemon->storage, before_ms, ~0u, MAX_RUNS, &runs, &count, err);
    for (size_t i = 0; status == DD_OK && i < count && pass->left > 0; i++)
        status = remove_run(pass, runs[i].id, before_ms, err);
    free(runs);
    return status;
}

/* --- checkpoints ------------------------------------------------------------------------------------------------ */

static const char *const checkpoint_names[] = {"checkpoint", "checkpoint.previous"};

/* Both files of a run share their bytes until the second is written, so sizes are counted by inode. */
static uint64_t checkpoint_bytes(const struct dd_daemon *daemon, int64_t id) {
    char dir[PATH_MAX], path[PATH_MAX];
    uint64_t bytes = 0;
    ino_t seen = 0;
    for (size_t i = 0; i < DD_ARRAY_LEN(checkpoint_names); i++) {
        struct stat info;
        if (dd_run_dir(daemon, id, dir, NULL) != DD_OK ||
            dd_path_join(path, sizeof path, NULL, dir, checkpoint_names[i], NULL) != DD_OK || lstat(path, &info) != 0 ||
            info.st_ino == seen)
            continue;
        bytes += (uint64_t)info.st_size;
        seen = info.st_ino;
    }
    return bytes;
}

static enum dd_status remove_checkpoint(struct pass *pass, int64_t id, uint64_t bytes, const char *reason,
                                        struct dd_error *err) {
    char dir[PATH_MAX], path[PATH_MAX], name[32];
    enum dd_status status = dd_run_dir(pass->daemon, id, dir, err);
    for (size_t i = 0; status == DD_OK && !pass->dry_run && i < DD_ARRAY_LEN(checkpoint_names); i++) {
        status = dd_path_join(path, sizeof path, err, dir, checkpoint_names[i], NULL);
        if (status == DD_OK)
            status = dd_tree_remove(path, err);
    }
    snprintf(name, sizeof name, "%" PRId64, id);
    if (status == DD_OK)
        note(pass, "checkpoint", name, bytes, reason);
    return status;
}

static enum dd_status old_checkpoints(struct pass *pass, int64_t now_ms, struct dd_error *err) {
    const struct dd_options *o = pass->daemon->options;
    struct dd_ended_run *runs = NULL;
    size_t count = 0;
    uint64_t total = 0, limit = o->keep_checkpoints_bytes > 0 ? (uint64_t)o->keep_checkpoints_bytes : UINT64_MAX;
    int64_t before_ms = o->keep_checkpoints_days > 0 ? now_ms - o->keep_checkpoints_days * DAY_MS : INT64_MIN;
    if (o->keep_checkpoints_days == 0 && o->keep_checkpoints_bytes == 0)
        return DD_OK;
    enum dd_status status = dd_storage_ended_list(pass->daemon->storage, INT64_MAX,
                                                  1u << DD_FAILED | 1u << DD_CANCELLED, MAX_RUNS, &runs, &count, err);
    for (size_t i = 0; status == DD_OK && i < count; i++)
        total += checkpoint_bytes(pass->daemon, runs[i].id);
    for (size_t i = 0; status == DD_OK && i < count && pass->left > 0; i++) { /* the oldest first */
        bool old = runs[i].finished_ms < before_ms;
        uint64_t bytes = checkpoint_bytes(pass->daemon, runs[i].id);
        if (bytes == 0 || (!old && total <= limit))
            continue;
        total -= DD_MIN(bytes, total);
        status = remove_checkpoint(pass, runs[i].id, bytes,
                                   old ? "older than keep-checkpoints-days" : "over keep-checkpoints-bytes", err);
    }
    free(runs);
    return status;
}

/* --- the cache -------------------------------------------------------------------------------------------------- */

struct cached {
    char name[80];
    uint64_t bytes;
    int64_t used_ns;
};

static int by_use(const void *a, const void *b) {
    const struct cached *left = a, *right = b;
    if (left->used_ns != right->used_ns)
        return left->used_ns < right->used_ns ? -1 : 1;
    return strcmp(left->name, right->name);
}

static int64_t ns_of(struct timespec time) {
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void close_dir(DIR **dir) {
    if (*dir != NULL)
        closedir(*dir);
}

static enum dd_status list_cache(const char *folder, struct cached **ret_items, size_t *ret_count,
                                 struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(folder);
    DD_CLEANUP(dd_free_ptr) struct cached *items = NULL;
    size_t count = 0;
    if (dir == NULL)
        return dd_fail_errno(err, errno, "%s", folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL && count < MAX_FILES;) {
        struct stat info;
        size_t length = strlen(entry->d_name);
        bool teachers = strncmp(entry->d_name, "logits-", 7) == 0 || strncmp(entry->d_name, "states-", 7) == 0;
        if (!teachers || length < 4 || length >= sizeof items->name ||
            strcmp(entry->d_name + length - 4, ".bin") != 0 ||
            fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode))
            continue;
        if ((count & (count - 1)) == 0) { /* at 0 and every power of two */
            struct cached *grown = dd_realloc_array(items, 2 * count + 1, sizeof *grown);
            if (grown == NULL)
                return dd_fail_memory(err, (2 * count + 1) * sizeof *grown);
            items = grown;
        }
        struct cached *item = &items[count++];
        memcpy(item->name, entry->d_name, length + 1);
        item->bytes = (uint64_t)info.st_size;
        item->used_ns = DD_MAX(ns_of(info.st_atim), ns_of(info.st_mtim));
    }
    *ret_items = items;
    *ret_count = count;
    items = NULL;
    return DD_OK;
}

static enum dd_status shrink_cache(struct pass *pass, struct dd_error *err) {
    uint64_t limit = (uint64_t)pass->daemon->options->keep_cache_bytes, total = 0;
    struct cached *items = NULL;
    size_t count = 0;
    if (limit == 0)
        return DD_OK;
    enum dd_status status = list_cache(pass->daemon->cache_dir, &items, &count, err);
    for (size_t i = 0; status == DD_OK && i < count; i++)
        total += items[i].bytes;
    if (count > 0)
        qsort(items, count, sizeof *items, by_use);
    for (size_t i = 0; status == DD_OK && i < count && total > limit && pass->left > 0; i++) {
        char path[PATH_MAX];
        status = dd_path_join(path, sizeof path, err, pass->daemon->cache_dir, items[i].name, NULL);
        if (status == DD_OK && !pass->dry_run)
            status = dd_tree_remove(path, err);
        if (status == DD_OK)
            note(pass, "cache", items[i].name, items[i].bytes, "over keep-cache-bytes, unused for longest");
        total -= items[i].bytes;
    }
    free(items);
    return status;
}

/* --- what was set aside (recovery.c) ----------------------------------------------------------------------------- */

static enum dd_status old_orphans(struct pass *pass, const char *folder, int64_t now_ms, struct dd_error *err) {
    int64_t days = pass->daemon->options->keep_orphaned_days, before_ms = now_ms - days * DAY_MS;
    char at[PATH_MAX], path[PATH_MAX], name[DD_NAME_BYTES + 64];
    enum dd_status status = dd_path_join(at, sizeof at, err, pass->daemon->data_dir, DD_ORPHANED, folder, NULL);
    DD_CLEANUP(close_dir) DIR *dir = days > 0 && status == DD_OK ? opendir(at) : NULL;
    for (struct dirent *entry; status == DD_OK && dir != NULL && pass->left > 0 && (entry = readdir(dir)) != NULL;) {
        struct stat info;
        uint64_t bytes = 0;
        bool known = entry->d_name[0] != '.' && dd_path_join(path, sizeof path, NULL, at, entry->d_name, NULL) == DD_OK;
        /* Moving it changed its inode's time. */
        if (!known || lstat(path, &info) != 0 || ns_of(info.st_ctim) / 1000000 >= before_ms)
            continue;
        if (dd_tree_bytes(path, &bytes, NULL) != DD_OK)
            bytes = 0;
        if (!pass->dry_run)
            status = dd_tree_remove(path, err);
        snprintf(name, sizeof name, "%s/%.100s", folder, entry->d_name);
        if (status == DD_OK)
            note(pass, "orphaned", name, bytes, "older than keep-orphaned-days");
    }
    return status;
}

/* --- all -------------------------------------------------------------------------------------------------------- */

enum dd_status dd_retention_pass(struct dd_daemon *daemon, int64_t now_ms, bool dry_run, int limit, cJSON **ret_json,
                                 struct dd_error *err) {
    struct pass pass = {.daemon = daemon, .dry_run = dry_run, .left = limit};
    cJSON *json = cJSON_CreateObject();
    pass.items = cJSON_AddArrayToObject(json, "items");
    if (pass.items == NULL) {
        cJSON_Delete(json);
        return dd_fail_json(err);
    }
    enum dd_status status = old_runs(&pass, now_ms, err);
    if (status == DD_OK)
        status = old_checkpoints(&pass, now_ms, err);
    static const char *const folders[] = {"datasets", "models", "runs"};
    for (size_t i = 0; status == DD_OK && i < DD_ARRAY_LEN(folders); i++)
        status = old_orphans(&pass, folders[i], now_ms, err);
    if (status == DD_OK)
        status = shrink_cache(&pass, err);
    if (status != DD_OK) {
        cJSON_Delete(json);
        return status;
    }
    cJSON_AddNumberToObject(json, "bytes", (double)pass.bytes);
    cJSON_AddBoolToObject(json, "dry_run", dry_run);
    cJSON_AddBoolToObject(json, "more", pass.left == 0);
    *ret_json = json;
    return DD_OK;
}

enum dd_status dd_gc_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                        struct dd_problem *problem) {
    return dd_retention_pass(context, dd_clock_wall_ms(), dd_api_param_bool(call, "dry_run"), 1000, &result->json,
                             &problem->error);
}
