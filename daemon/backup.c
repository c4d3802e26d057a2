/* Backups: a directory that holds all that lasts of a data directory, and the way back.
 *
 *   distilld.db  datasets/  models/  runs/  tokens     as in the data directory
 *   MANIFEST     a line "<SHA-256>  <path>" for each file, written last: `sha256sum -c MANIFEST` reads it too
 *
 * The cache of teachers' logits is not in it (it is computed again), nor are models registered from elsewhere.
 *
 * Consistent while the daemon works: files there are never changed, only replaced and removed, so hard links hold them.
 * The order is runs, database, then the data sets and models that the database names.  So no run's checkpoint is ahead
 * of the database: where it is behind, the run repeats those epochs, to the same bits, and their rows are replaced.  A
 * finished run is final and is linked again afterwards.  When something that the database names has been deleted in
 * between, all is done anew.  The links lie below uploads/, which a daemon empties at its start.
 *
 * Threads: main.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/backup.h"

#define ATTEMPTS 10
#define MAX_DEPTH 8
#define MAX_MANIFEST_BYTES (256u << 20)

static void close_dir(DIR **dir) {
    if (*dir != NULL)
        closedir(*dir);
}

/* --- links ------------------------------------------------------------------------------------------------------ */

/* Calls use for each entry but "." and "..", temporaries and links. */
struct walk {
    enum dd_status (*use)(void *context, const char *from, const char *name, const struct stat *info,
                          struct dd_error *err);
    void *context;
};

static enum dd_status walk_dir(const char *path, const struct walk *walk, struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(path);
    if (dir == NULL)
        return dd_fail_errno(err, errno, "%s", path);
    enum dd_status status = DD_OK;
    for (struct dirent *entry; status == DD_OK && (entry = readdir(dir)) != NULL;) {
        char from[PATH_MAX];
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            strstr(entry->d_name, ".tmp-") != NULL)
            continue;
        status = dd_path_join(from, sizeof from, err, path, entry->d_name, NULL);
        if (status == DD_OK && lstat(from, &info) == 0 && (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)))
            status = walk->use(walk->context, from, entry->d_name, &info, err);
    }
    return status;
}

struct link_target {
    const char *dir;
    int depth;
};
static enum dd_status link_tree(const char *from, const char *to, int depth, struct dd_error *err);

static enum dd_status link_entry(void *context, const char *from, const char *name, const struct stat *info,
                                 struct dd_error *err) {
    const struct link_target *target = context;
    char to[PATH_MAX];
    enum dd_status status = dd_path_join(to, sizeof to, err, target->dir, name, NULL);
    if (status == DD_OK && S_ISDIR(info->st_mode))
        return link_tree(from, to, target->depth + 1, err);
    if (status == DD_OK && link(from, to) != 0 && errno != ENOENT) /* gone: whoever names it notices */
        status = dd_fail_errno(err, errno, "cannot link %s", from);
    return status;
}

/* DD_NOT_FOUND when from is not there. */
static enum dd_status link_tree(const char *from, const char *to, int depth, struct dd_error *err) {
    struct link_target target = {to, depth};
    struct stat info;
    if (depth > MAX_DEPTH)
        return dd_fail(err, DD_TOO_LARGE, "tree_too_deep", "%s is too deep", from);
    if (lstat(from, &info) != 0 || !S_ISDIR(info.st_mode))
        return depth > 0 ? DD_OK : dd_fail(err, DD_NOT_FOUND, "vanished", "%s is gone", from);
    enum dd_status status = dd_dir_make(to, err);
    if (status == DD_OK)
        status = walk_dir(from, &(struct walk){link_entry, &target}, err);
    return status == DD_NOT_FOUND && depth > 0 ? DD_OK : status;
}

static ino_t checkpoint_of(const char *dir) {
    char path[PATH_MAX];
    struct stat info;
    if (dd_path_join(path, sizeof path, NULL, dir, "checkpoint", NULL) != DD_OK || stat(path, &info) != 0)
        return 0;
    return info.st_ino;
}

/* A run's directory as it was at one moment: while a checkpoint stands, what it refers to does. */
static enum dd_status link_run(const char *from, const char *to, struct dd_error *err) {
    enum dd_status status = DD_OK;
    for (int attempt = 0; status == DD_OK && attempt < 100; attempt++) {
        ino_t before = checkpoint_of(from);
        status = dd_tree_remove(to, err);
        if (status == DD_OK)
            status = link_tree(from, to, 0, err);
        if (status == DD_OK && before == checkpoint_of(from) && before == checkpoint_of(to))
            return DD_OK;
    }
    return status != DD_OK ? status : dd_fail(err, DD_BUSY, "too_busy", "%s does not stand still", from);
}

static enum dd_status link_run_entry(void *context, const char *from, const char *name, const struct stat *info,
                                     struct dd_error *err) {
    const char *runs = context;
    char to[PATH_MAX];
    if (!S_ISDIR(info->st_mode))
        return DD_OK;
    enum dd_status status = dd_path_join(to, sizeof to, err, runs, name, NULL);
    if (status == DD_OK)
        status = link_run(from, to, err);
    return status == DD_NOT_FOUND ? DD_OK : status; /* deleted meanwhile, so the database does not name it either */
}

/* --- what the database names ------------------------------------------------------------------------------------- */

struct stage {
    const char *data_dir;
    char dir[PATH_MAX];
    struct dd_storage *storage; /* the copy */
    struct dd_backup_report *report;
};

static enum dd_status link_named(const struct stage *stage, const char *relative, bool run, struct dd_error *err) {
    char from[PATH_MAX], to[PATH_MAX];
    enum dd_status status = dd_path_join(from, sizeof from, err, stage->data_dir, relative, NULL);
    if (status == DD_OK)
        status = dd_path_join(to, sizeof to, err, stage->dir, relative, NULL);
    if (status != DD_OK)
        return status;
    return run ? link_run(from, to, err) : link_tree(from, to, 0, err);
}

static enum dd_status link_assets(const struct stage *stage, enum dd_asset_kind kind, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *cursor = NULL;
    enum dd_status status;
    do {
        struct dd_asset *items;
        size_t count;
        char *next = NULL;
        status = dd_storage_asset_list(stage->storage, kind, NULL, cursor, 500, &items, &count, &next, err);
        if (status != DD_OK)
            return status;
        free(cursor);
        cursor = next;
        for (size_t i = 0; status == DD_OK && i < count; i++) {
            if (items[i].dir[0] == '/')
                stage->report->elsewhere++;
            else
                status = link_named(stage, items[i].dir, false, err);
        }
        dd_assets_free(items, count);
    } while (status == DD_OK && cursor != NULL);
    return status;
}

static enum dd_status link_finished(const struct stage *stage, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *cursor = NULL;
    enum dd_status status;
    do {
        struct dd_experiment_query query = {.states = 1u << DD_FINISHED, .sort = "id", .cursor = cursor, .limit = 500};
        struct dd_experiment *items;
        size_t count;
        char *next = NULL;
        status = dd_storage_experiment_list(stage->storage, &query, &items, &count, &next, err);
        if (status != DD_OK)
            return status;
        free(cursor);
        cursor = next;
        for (size_t i = 0; status == DD_OK && i < count; i++) {
            char relative[64];
            snprintf(relative, sizeof relative, "runs/%" PRId64, items[i].id);
            status = link_named(stage, relative, true, err);
        }
        dd_experiments_free(items, count);
    } while (status == DD_OK && cursor != NULL);
    return status;
}

/* One attempt, into an empty stage.  DD_NOT_FOUND "vanished": another is needed. */
static enum dd_status fill_stage(struct stage *stage, struct dd_error *err) {
    char runs[PATH_MAX], staged_runs[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    enum dd_status status = dd_path_join(runs, sizeof runs, err, stage->data_dir, "runs", NULL);
    if (status == DD_OK)
        status = dd_path_join(staged_runs, sizeof staged_runs, err, stage->dir, "runs", NULL);
    if (status == DD_OK)
        status = dd_dir_make(staged_runs, err);
    if (status == DD_OK)
        status = walk_dir(runs, &(struct walk){link_run_entry, staged_runs}, err);
    if (status == DD_OK)
        status = dd_path_join(from, sizeof from, err, stage->data_dir, "distilld.db", NULL);
    if (status == DD_OK)
        status = dd_path_join(to, sizeof to, err, stage->dir, "distilld.db", NULL);
    if (status == DD_OK)
        status = dd_storage_copy(from, to, err);
    if (status == DD_OK)
        status = dd_storage_open(to, &stage->storage, err);
    if (status == DD_OK)
        status = link_assets(stage, DD_ASSET_DATASET, err);
    if (status == DD_OK)
        status = link_assets(stage, DD_ASSET_MODEL, err);
    if (status == DD_OK)
        status = link_finished(stage, err);
    dd_storage_close(stage->storage);
    stage->storage = NULL;
    if (status == DD_OK)
        status = dd_path_join(to, sizeof to, err, stage->dir, "distilld.db.lock", NULL);
    if (status == DD_OK)
        status = dd_tree_remove(to, err);
    if (status == DD_OK)
        status = dd_path_join(from, sizeof from, err, stage->data_dir, "tokens", NULL);
    if (status == DD_OK)
        status = dd_path_join(to, sizeof to, err, stage->dir, "tokens", NULL);
    if (status == DD_OK && link(from, to) != 0 && errno != ENOENT)
        status = dd_fail_errno(err, errno, "cannot link %s", from);
    return status;
}

/* --- copying ---------------------------------------------------------------------------------------------------- */

/* expected: NULL, or the hex hash that the bytes must have; what does not is not left behind. */
static enum dd_status copy_file(const char *from, const char *to, const char *expected,
                                char ret_hex[DD_SHA256_HEX_BYTES], uint64_t *bytes, struct dd_error *err) {
    struct dd_mapping mapping;
    struct dd_writer *writer = NULL;
    uint8_t digest[DD_SHA256_BYTES];
    enum dd_status status = dd_mapping_open(from, &mapping, err);
    if (status != DD_OK)
        return status;
    status = dd_writer_open(to, DD_WRITER_SHA256, &writer, err);
    if (status == DD_OK)
        status = dd_writer_write(writer, mapping.bytes, mapping.len, err);
    if (status == DD_OK) {
        dd_writer_digest(writer, digest);
        dd_hex(digest, sizeof digest, ret_hex);
        if (expected != NULL && strcmp(expected, ret_hex) != 0)
            status = dd_fail(err, DD_CORRUPT, "backup_damaged", "%s is not what MANIFEST says", from);
    }
    if (status == DD_OK)
        status = dd_writer_commit(writer, err);
    dd_writer_free(writer);
    *bytes += mapping.len;
    dd_mapping_release(&mapping);
    return status;
}

struct copying {
    const char *to, *relative; /* the directory copied into; "" or "runs/7/" */
    struct dd_buffer *manifest;
    struct dd_backup_report *report;
};

static enum dd_status copy_entry(void *context, const char *from, const char *name, const struct stat *info,
                                 struct dd_error *err) {
    const struct copying *copying = context;
    char to[PATH_MAX], hex[DD_SHA256_HEX_BYTES], relative[PATH_MAX];
    enum dd_status status = dd_path_join(to, sizeof to, err, copying->to, name, NULL);
    if (status != DD_OK)
        return status;
    if (S_ISDIR(info->st_mode)) {
        snprintf(relative, sizeof relative, "%s%s/", copying->relative, name);
        struct copying inner = {to, relative, copying->manifest, copying->report};
        status = dd_dir_make(to, err);
        return status == DD_OK ? walk_dir(from, &(struct walk){copy_entry, &inner}, err) : status;
    }
    status = copy_file(from, to, NULL, hex, &copying->report->bytes, err);
    if (status == DD_OK)
        dd_buffer_printf(copying->manifest, "%s  %s%s\n", hex, copying->relative, name);
    copying->report->files++;
    return status;
}

static enum dd_status copy_stage(const struct stage *stage, const char *dest, struct dd_error *err) {
    char path[PATH_MAX];
    struct dd_buffer manifest;
    dd_buffer_init(&manifest, MAX_MANIFEST_BYTES);
    struct copying copying = {dest, "", &manifest, stage->report};
    enum dd_status status = walk_dir(stage->dir, &(struct walk){copy_entry, &copying}, err);
    if (status == DD_OK)
        status = dd_buffer_check(&manifest, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, dest, "MANIFEST", NULL);
    if (status == DD_OK)
        status = dd_file_write_durable(path, manifest.data, manifest.len, err);
    dd_buffer_release(&manifest);
    return status;
}

static enum dd_status seen(void *context, const char *from, const char *name, const struct stat *info,
                           struct dd_error *err) {
    (void)name;
    (void)info;
    const char *dir = context;
    return dd_fail(err, DD_CONFLICT, "not_empty", "%s is not empty: it has %s", dir, from + strlen(dir));
}

/* Made where it is missing; its absolute path. */
static enum dd_status empty_dir(const char *path, char out[PATH_MAX], struct dd_error *err) {
    enum dd_status status = dd_dir_make(path, err);
    if (status == DD_OK && realpath(path, out) == NULL)
        status = dd_fail_errno(err, errno, "%s", path);
    return status == DD_OK ? walk_dir(out, &(struct walk){seen, out}, err) : status;
}

enum dd_status dd_backup(const char *data_dir, const char *dest, struct dd_backup_report *ret_report,
                         struct dd_error *err) {
    char home[PATH_MAX], target[PATH_MAX], name[PATH_MAX];
    struct stage stage = {.data_dir = home, .report = ret_report};
    if (realpath(data_dir, home) == NULL)
        return dd_fail_errno(err, errno, "%s", data_dir);
    enum dd_status status = empty_dir(dest, target, err);
    if (status == DD_OK && strncmp(target, home, strlen(home)) == 0 && strchr("/", target[strlen(home)]) != NULL)
        status =
            dd_fail(err, DD_INVALID, "backup_inside", "the backup must not lie inside the data directory %s", home);
    if (status == DD_OK)
        status = dd_new_scratch_dir("uploads", "backup", name, err);
    if (status == DD_OK)
        status = dd_path_join(stage.dir, sizeof stage.dir, err, home, name, NULL);
    for (int attempt = 1; status == DD_OK; attempt++) {
        *ret_report = (struct dd_backup_report){0};
        status = fill_stage(&stage, err);
        if (status == DD_OK)
            break;
        bool again = status == DD_NOT_FOUND && strcmp(err->code, "vanished") == 0 && attempt < ATTEMPTS;
        if (dd_tree_remove(stage.dir, NULL) != DD_OK || !again)
            return status;
        status = DD_OK;
    }
    if (status == DD_OK)
        status = copy_stage(&stage, target, err);
    if (stage.dir[0] != '\0' && dd_tree_remove(stage.dir, status == DD_OK ? err : NULL) != DD_OK && status == DD_OK)
        status = DD_IO;
    return status;
}

/* --- the way back ----------------------------------------------------------------------------------------------- */

/* Only what a backup can have: nothing that climbs, nothing elsewhere. */
static bool path_allowed(const char *path) {
    static const char *const tops[] = {"distilld.db", "tokens", "runs/", "datasets/", "models/"};
    bool top = false;
    for (size_t i = 0; i < DD_ARRAY_LEN(tops); i++) {
        bool folder = strchr(tops[i], '/') != NULL;
        top = top || (folder ? strncmp(path, tops[i], strlen(tops[i])) == 0 : strcmp(path, tops[i]) == 0);
    }
    for (const char *part = path; top;) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        if (part[length] == '\0')
            return true;
        part += length + 1;
    }
    return false;
}

static enum dd_status restore_file(const char *source, const char *data_dir, const char *hex, const char *path,
                                   struct dd_backup_report *report, struct dd_error *err) {
    char from[PATH_MAX], real[PATH_MAX], to[PATH_MAX], parent[PATH_MAX], found[DD_SHA256_HEX_BYTES];
    enum dd_status status = dd_path_join(from, sizeof from, err, source, path, NULL);
    if (status == DD_OK)
        status = dd_path_join(to, sizeof to, err, data_dir, path, NULL);
    if (status != DD_OK)
        return status;
    if (realpath(from, real) == NULL)
        return dd_fail_errno(err, errno, "the backup lacks %s", path);
    if (strcmp(real, from) != 0)
        return dd_fail(err, DD_INVALID, "backup_damaged", "%s leads elsewhere", from);
    snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(to, '/') - to), to);
    status = dd_dir_make(parent, err);
    if (status == DD_OK)
        status = copy_file(from, to, hex, found, &report->bytes, err);
    report->files++;
    return status;
}

/* database: only that; else all but that.  It comes last: a data directory without one is none. */
static enum dd_status restore_lines(const char *manifest, bool database, const char *source, const char *data_dir,
                                    struct dd_backup_report *report, struct dd_error *err) {
    bool any = false;
    int number = 0;
    enum dd_status status = DD_OK;
    for (const char *at = manifest; status == DD_OK && *at != '\0';) {
        char line[PATH_MAX + 80], hex[DD_SHA256_HEX_BYTES];
        size_t length = strcspn(at, "\n");
        const char *path = line + DD_SHA256_HEX_BYTES + 1;
        snprintf(line, sizeof line, "%.*s", (int)DD_MIN(length, sizeof line - 1), at);
        at += length + (at[length] == '\n');
        number++;
        bool good = length > DD_SHA256_HEX_BYTES + 1 && length < sizeof line &&
                    strspn(line, "0123456789abcdef") == DD_SHA256_HEX_BYTES - 1 &&
                    strncmp(line + DD_SHA256_HEX_BYTES - 1, "  ", 2) == 0 && path_allowed(path);
        if (!good)
            return dd_fail(err, DD_CORRUPT, "backup_damaged", "MANIFEST:%d is no line of a backup", number);
        memcpy(hex, line, sizeof hex);
        hex[sizeof hex - 1] = '\0';
        if ((strcmp(path, "distilld.db") == 0) != database)
            continue;
        any = true;
        status = restore_file(source, data_dir, hex, path, report, err);
    }
    if (status == DD_OK && database && !any)
        status = dd_fail(err, DD_CORRUPT, "backup_damaged", "there is no database in this backup");
    return status;
}

static enum dd_status restore_all(const char *source, const char *data_dir, struct dd_backup_report *report,
                                  struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *manifest = NULL;
    char path[PATH_MAX];
    size_t length;
    struct dd_storage *storage = NULL;
    enum dd_status status = dd_path_join(path, sizeof path, err, source, "MANIFEST", NULL);
    if (status == DD_OK)
        status = dd_file_read(path, MAX_MANIFEST_BYTES, &manifest, &length, err);
    if (status == DD_NOT_FOUND)
        return dd_error_prefix(err, "%s is no whole backup", source);
    if (status == DD_OK && strlen(manifest) != length)
        status = dd_fail(err, DD_CORRUPT, "backup_damaged", "MANIFEST has a NUL byte");
    if (status == DD_OK)
        status = restore_lines(manifest, false, source, data_dir, report, err);
    if (status == DD_OK)
        status = restore_lines(manifest, true, source, data_dir, report, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, data_dir, "distilld.db", NULL);
    if (status == DD_OK)
        status = dd_storage_open(path, &storage, err);
    dd_storage_close(storage);
    return status;
}

static enum dd_status remove_entry(void *context, const char *from, const char *name, const struct stat *info,
                                   struct dd_error *err) {
    (void)context;
    (void)name;
    (void)info;
    return dd_tree_remove(from, err);
}

enum dd_status dd_restore(const char *source, const char *data_dir, struct dd_backup_report *ret_report,
                          struct dd_error *err) {
    char from[PATH_MAX], home[PATH_MAX];
    *ret_report = (struct dd_backup_report){0};
    if (realpath(source, from) == NULL)
        return dd_fail_errno(err, errno, "%s", source);
    enum dd_status status = empty_dir(data_dir, home, err);
    if (status != DD_OK)
        return status;
    status = restore_all(from, home, ret_report, err);
    if (status != DD_OK && walk_dir(home, &(struct walk){remove_entry, NULL}, NULL) != DD_OK)
        return dd_error_prefix(err, "%s is left half filled", home);
    return status;
}
