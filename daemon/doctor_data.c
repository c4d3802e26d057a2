/* The doctor on a data directory, also while its daemon works: the database is read in a copy below uploads/ (which a
 * daemon empties at its start), files are only read, and what vanishes meanwhile is nobody's fault.
 * Threads: main.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/doctor.h"

#define LITTLE_SPACE (UINT64_C(5) << 30)
#define NO_SPACE (UINT64_C(256) << 20)

static void close_dir(DIR **dir) {
    if (*dir != NULL)
        closedir(*dir);
}

struct tally {
    struct dd_findings *findings;
    const char *what, *remedy;
    size_t whole, damaged;
    uint64_t bytes;
};

static void damaged(struct tally *tally, const char *name, const char *why) {
    tally->damaged++;
    dd_finding(tally->findings, DD_FINDING_FAIL, tally->what, tally->remedy, "%s: %s", name, why);
}

static void conclude(const struct tally *tally) {
    if (tally->damaged == 0)
        dd_finding(tally->findings, DD_FINDING_OK, tally->what, "", "%zu whole", tally->whole);
}

/* --- rights and space ------------------------------------------------------------------------------------------- */

static bool look_at_dir(struct dd_findings *findings, const char *dir) {
    struct stat info;
    if (stat(dir, &info) != 0 || !S_ISDIR(info.st_mode)) {
        dd_finding(findings, DD_FINDING_WARN, "data", "`distilld serve` makes it; or name another with --data-dir",
                   "%s: there is no such directory", dir);
        return false;
    }
    if (access(dir, R_OK | W_OK | X_OK) != 0) {
        dd_finding(findings, DD_FINDING_FAIL, "data", "run the doctor and the daemon as the user who owns it", "%s: %s",
                   dir, strerror(errno));
        return false;
    }
    bool open = (info.st_mode & 0007) != 0;
    dd_finding(findings, open ? DD_FINDING_WARN : DD_FINDING_OK, "data", open ? "chmod o= it" : "", "%s%s", dir,
               open ? " can be entered by everybody" : "");
    return true;
}

static void look_at_space(struct dd_findings *findings, const char *dir) {
    uint64_t free_bytes = 0, total_bytes = 0;
    struct dd_error err = {0};
    if (dd_disk_free(dir, &free_bytes, &total_bytes, &err) != DD_OK) {
        dd_finding(findings, DD_FINDING_FAIL, "disk", "look at the file system", "%s", err.message);
        return;
    }
    enum dd_finding_level level = free_bytes < NO_SPACE       ? DD_FINDING_FAIL
                                  : free_bytes < LITTLE_SPACE ? DD_FINDING_WARN
                                                              : DD_FINDING_OK;
    dd_finding(findings, level, "disk",
               level == DD_FINDING_OK ? "" : "make room: keep-runs-days, keep-cache-bytes and `distilld gc` help",
               "%.1f of %.1f GiB free", (double)free_bytes / (1 << 30), (double)total_bytes / (1 << 30));
}

/* --- files that end with the checksum of all before it ------------------------------------------------------------ */

static void look_at_sealed(struct tally *tally, const char *path, const char *name) {
    struct dd_mapping map;
    struct dd_error err = {0};
    enum dd_status status = dd_mapping_open(path, &map, &err);
    if (status == DD_NOT_FOUND)
        return;
    if (status != DD_OK) {
        damaged(tally, name, err.message);
        return;
    }
    bool whole = dd_sealed_whole(map.bytes, map.len);
    dd_mapping_release(&map);
    tally->whole += whole;
    if (!whole)
        damaged(tally, name, "its checksum does not match its content");
}

/* Calls use for each plain name in a directory; nothing where there is none. */
static void each(const char *path, void (*use)(struct tally *tally, const char *path, const char *name),
                 struct tally *tally) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char full[PATH_MAX];
        if (entry->d_name[0] != '.' && strstr(entry->d_name, ".tmp-") == NULL &&
            dd_path_join(full, sizeof full, NULL, path, entry->d_name, NULL) == DD_OK)
            use(tally, full, entry->d_name);
    }
}

static void look_at_run(struct tally *tally, const char *path, const char *id) {
    static const char *const names[] = {"checkpoint", "checkpoint.previous", "finished"};
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        char full[PATH_MAX], name[96];
        snprintf(name, sizeof name, "run %.32s, %s", id, names[i]);
        if (dd_path_join(full, sizeof full, NULL, path, names[i], NULL) == DD_OK)
            look_at_sealed(tally, full, name);
    }
}

static void look_at_cached(struct tally *tally, const char *path, const char *name) {
    if (strncmp(name, "logits-", 7) == 0 || strncmp(name, "states-", 7) == 0)
        look_at_sealed(tally, path, name);
}

/* --- what lies in orphaned/ (recovery.c) ------------------------------------------------------------------------- */

static void count_orphan(struct tally *tally, const char *path, const char *name) {
    uint64_t bytes = 0;
    (void)name;
    tally->whole++;
    if (dd_tree_bytes(path, &bytes, NULL) == DD_OK)
        tally->bytes += bytes;
}

static void look_at_orphaned(struct dd_findings *findings, const char *data_dir) {
    static const char *const folders[] = {"datasets", "models", "runs"};
    struct tally orphans = {.findings = findings};
    for (size_t i = 0; i < DD_ARRAY_LEN(folders); i++) {
        char path[PATH_MAX];
        if (dd_path_join(path, sizeof path, NULL, data_dir, DD_ORPHANED, folders[i], NULL) == DD_OK)
            each(path, count_orphan, &orphans);
    }
    if (orphans.whole > 0)
        dd_finding(
            findings, DD_FINDING_WARN, "orphaned",
            "stop the daemon, put the newer distilld.db back and start again: they are moved back; or delete them",
            "%zu of data sets, models and runs (%.1f MB) in %s/" DD_ORPHANED " are of a newer database than this one",
            orphans.whole, (double)orphans.bytes / 1e6, data_dir);
}

/* --- the database and what it names ------------------------------------------------------------------------------ */

static void look_at_dataset(struct tally *tally, const char *path, const struct dd_asset *asset) {
    struct dd_dataset *dataset = NULL;
    struct dd_error err = {0};
    enum dd_status status = dd_dataset_open(path, &dataset, &err);
    dd_dataset_free(dataset);
    tally->whole += status == DD_OK;
    if (status != DD_OK)
        damaged(tally, asset->name, err.message);
}

static void look_at_model(struct tally *tally, const char *path, const struct dd_asset *asset) {
    struct dd_model *model = NULL;
    struct dd_error err = {0};
    cJSON *info = dd_json_of(asset->info_json);
    const char *expected = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(info, "sha256"));
    enum dd_status status = dd_model_load(path, &model, &err);
    bool same = status == DD_OK && (expected == NULL || strcmp(expected, model->info.sha256) == 0);
    tally->whole += same;
    if (!same)
        damaged(tally, asset->name, status != DD_OK ? err.message : "its weights are not those that were registered");
    dd_model_free(model);
    cJSON_Delete(info);
}

static void look_at_assets(struct tally *tally, struct dd_storage *storage, enum dd_asset_kind kind,
                           const char *data_dir) {
    DD_CLEANUP(dd_free_ptr) char *cursor = NULL;
    do {
        struct dd_asset *items;
        size_t count;
        char *next = NULL, path[PATH_MAX];
        struct dd_error err = {0};
        if (dd_storage_asset_list(storage, kind, NULL, cursor, 500, &items, &count, &next, &err) != DD_OK) {
            damaged(tally, "the list", err.message);
            return;
        }
        free(cursor);
        cursor = next;
        for (size_t i = 0; i < count; i++) {
            bool absolute = items[i].dir[0] == '/';
            if (dd_path_join(path, sizeof path, NULL, absolute ? items[i].dir : data_dir,
                             absolute ? NULL : items[i].dir, NULL) != DD_OK)
                continue;
            if (kind == DD_ASSET_DATASET)
                look_at_dataset(tally, path, &items[i]);
            else
                look_at_model(tally, path, &items[i]);
        }
        dd_assets_free(items, count);
    } while (cursor != NULL);
    conclude(tally);
}

static void look_inside(struct dd_findings *findings, const char *database, const char *copy, const char *data_dir) {
    struct dd_storage *storage = NULL;
    struct dd_error err = {0};
    enum dd_status status = dd_storage_copy(database, copy, &err);
    if (status == DD_OK)
        status = dd_storage_open(copy, &storage, &err);
    if (status != DD_OK) {
        size_t place = strncmp(err.message, copy, strlen(copy)) == 0 ? strlen(copy) : 0; /* it says where the copy is */
        dd_finding(findings, DD_FINDING_FAIL, "database",
                   status == DD_UNSUPPORTED ? "install that distilld again, or restore a backup of before"
                                            : "restore a backup (`distilld restore`)",
                   "%s%s", place > 0 ? database : "", err.message + place);
        return;
    }
    struct tally datasets = {findings, "data sets", "delete it and import it again", 0, 0, 0};
    struct tally models = {findings, "models", "delete it; upload it or train it again", 0, 0, 0};
    look_at_assets(&datasets, storage, DD_ASSET_DATASET, data_dir);
    look_at_assets(&models, storage, DD_ASSET_MODEL, data_dir);
    dd_storage_close(storage);
}

static void look_at_database(struct dd_findings *findings, const char *data_dir) {
    char path[PATH_MAX], name[PATH_MAX], folder[PATH_MAX], copy[PATH_MAX];
    DD_CLEANUP(dd_free_ptr) char *faults = NULL;
    struct dd_error err = {0};
    enum dd_status status = dd_path_join(path, sizeof path, &err, data_dir, "distilld.db", NULL);
    if (status == DD_OK && dd_recover_check(data_dir, path, &err) != DD_OK) {
        dd_finding(findings, DD_FINDING_FAIL, "database", "", "%s", err.message);
        return;
    }
    if (status == DD_OK && access(path, F_OK) != 0) {
        dd_finding(findings, DD_FINDING_WARN, "database", "`distilld serve` makes it", "%s is not there yet", path);
        return;
    }
    if (status == DD_OK)
        status = dd_storage_check(path, &faults, &err);
    if (status != DD_OK || faults != NULL) {
        dd_finding(findings, DD_FINDING_FAIL, "database", "stop the daemon and restore a backup (`distilld restore`)",
                   "%s", faults != NULL ? faults : err.message);
        return;
    }
    dd_finding(findings, DD_FINDING_OK, "database", "", "integrity_check finds nothing");
    status = dd_new_scratch_dir("uploads", "doctor", name, &err);
    if (status == DD_OK)
        status = dd_path_join(folder, sizeof folder, &err, data_dir, name, NULL);
    if (status == DD_OK)
        status = dd_dir_make(folder, &err);
    if (status == DD_OK)
        status = dd_path_join(copy, sizeof copy, &err, folder, "distilld.db", NULL);
    if (status == DD_OK) {
        look_inside(findings, path, copy, data_dir);
        status = dd_tree_remove(folder, &err);
    }
    if (status != DD_OK)
        dd_finding(findings, DD_FINDING_FAIL, "database", "see whether the disk is full", "%s", err.message);
}

void dd_doctor_data(struct dd_findings *findings, const struct dd_options *options, const char *data_dir) {
    char runs[PATH_MAX], cache[PATH_MAX];
    if (!look_at_dir(findings, data_dir))
        return;
    look_at_space(findings, data_dir);
    look_at_database(findings, data_dir);
    look_at_orphaned(findings, data_dir);
    struct tally checkpoints = {
        findings, "checkpoints", "delete the file: the run goes on from the one before, or begins anew", 0, 0, 0};
    struct tally cached = {findings, "cache", "delete the file: it is computed again", 0, 0, 0};
    if (dd_path_join(runs, sizeof runs, NULL, data_dir, "runs", NULL) == DD_OK)
        each(runs, look_at_run, &checkpoints);
    conclude(&checkpoints);
    const char *given = options->cache_dir;
    if (dd_path_join(cache, sizeof cache, NULL, given != NULL ? given : data_dir, given != NULL ? NULL : "cache",
                     NULL) == DD_OK)
        each(cache, look_at_cached, &cached);
    conclude(&cached);
}
