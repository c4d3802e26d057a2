/* The foreground's view of a spec: its names may be paths.
 *
 * A field is a path when something exists there; the spec is then parsed with the path's last component, made a valid
 * name, in its place, and the path itself goes into the key of the work directory.  Threads: main.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/command.h"
#include "daemon/local.h"

static const char *const path_fields[] = {"dataset", "teacher", "model", "vocabulary", "init"};
enum { DATASET, TEACHER, MODEL, VOCABULARY, INIT, N_PATHS };

struct places {
    char path[N_PATHS][PATH_MAX];             /* absolute; "" where the field is a name or missing */
    char teachers[DD_MAX_TEACHERS][PATH_MAX]; /* the same of the items of "teachers" */
};

/* "…/Headlines 3.tsv" to "headlines-3.tsv". */
static void name_of(const char *path, char out[DD_NAME_BYTES]) {
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    size_t used = 0;
    for (const char *p = base; *p != '\0' && used < DD_NAME_BYTES - 1; p++) {
        char c = (char)tolower((unsigned char)*p);
        bool good = isalnum((unsigned char)c) && (unsigned char)c < 0x80;
        if (!good && used == 0)
            continue;
        out[used++] = good || strchr("._-", c) != NULL ? c : '-';
    }
    out[used] = '\0';
    if (used == 0)
        snprintf(out, DD_NAME_BYTES, "data");
}

/* The absolute path of what a value names; false where it is a name. */
static bool is_path(const char *text, char out[PATH_MAX]) {
    DD_CLEANUP(dd_free_ptr) char *real = realpath(text, NULL);
    if (real == NULL || (strchr(text, '/') == NULL && dd_name_valid(text) && access(text, F_OK) != 0))
        return false;
    snprintf(out, PATH_MAX, "%s", real);
    return true;
}

/* Two directories may end alike, and a list of names has none twice: the later one then gets its place behind it. */
static void take_teachers(cJSON *body, struct places *places) {
    cJSON *list = cJSON_GetObjectItemCaseSensitive(body, "teachers");
    const char *first = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, "teacher"));
    int n = DD_MIN(cJSON_GetArraySize(list), DD_MAX_TEACHERS);
    for (int i = 0; i < n; i++) {
        const char *text = cJSON_GetStringValue(cJSON_GetArrayItem(list, i));
        char name[DD_NAME_BYTES];
        if (text == NULL || !is_path(text, places->teachers[i]))
            continue;
        name_of(places->teachers[i], name);
        bool taken = first != NULL && strcmp(name, first) == 0;
        for (int k = 0; k < i; k++) {
            const char *other = cJSON_GetStringValue(cJSON_GetArrayItem(list, k));
            taken |= other != NULL && strcmp(name, other) == 0;
        }
        if (taken) {
            size_t used = DD_MIN(strlen(name), (size_t)(DD_NAME_BYTES - 8));
            snprintf(name + used, sizeof name - used, "-%d", i + 2);
        }
        cJSON_ReplaceItemInArray(list, i, cJSON_CreateString(name));
    }
}

/* Replaces paths in the body by names; the paths into *places. */
static void take_paths(cJSON *body, struct places *places) {
    for (int i = 0; i < N_PATHS; i++) {
        places->path[i][0] = '\0';
        const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, path_fields[i]));
        if (text == NULL || (i == INIT && (strcmp(text, "random") == 0 || strcmp(text, "teacher") == 0)))
            continue;
        char name[DD_NAME_BYTES];
        if (!is_path(text, places->path[i]))
            continue;
        name_of(places->path[i], name);
        cJSON_ReplaceItemInObjectCaseSensitive(body, path_fields[i], cJSON_CreateString(name));
    }
    take_teachers(body, places);
}

/* A name in the data directory: its asset's directory.  The database is opened for the moment only. */
static enum dd_status look_up(struct dd_local *local, enum dd_asset_kind kind, const char *name, char out[PATH_MAX],
                              struct dd_error *err) {
    char path[PATH_MAX];
    const char *what = kind == DD_ASSET_DATASET ? "data set" : "model";
    struct dd_asset asset;
    enum dd_status status = dd_path_join(path, sizeof path, err, local->daemon.data_dir, "distilld.db", NULL);
    if (status == DD_OK && access(path, F_OK) != 0)
        return dd_fail(err, DD_NOT_FOUND, "not_found",
                       "there is no file or directory \"%s\", and no %s of that name in %s", name, what,
                       local->daemon.data_dir);
    if (status == DD_OK)
        status = dd_storage_open(path, &local->daemon.storage, err);
    if (status != DD_OK)
        return dd_error_prefix(err, "looking up %s \"%s\" (give a path, or use `distilld submit`)", what, name);
    status = dd_storage_asset_get(local->daemon.storage, kind, name, &asset, err);
    if (status == DD_NOT_FOUND) {
        char detail[384];
        dd_no_such_asset(&local->daemon, kind, name, detail, sizeof detail);
        status = dd_fail(err, DD_NOT_FOUND, "not_found", "%s; nor is there a file of that name", detail);
    } else if (status == DD_OK) {
        status = dd_asset_path(&local->daemon, &asset, out, err);
        dd_asset_release(&asset);
    }
    dd_storage_close(local->daemon.storage);
    local->daemon.storage = NULL;
    return status;
}

/* --- data
 * ------------------------------------------------------------------------------------------------------------- */

/* dir/<split>.{tsv,csv,jsonl,txt} */
static bool find_split(const char *dir, enum dd_split split, char out[PATH_MAX]) {
    static const char *const endings[] = {"tsv", "csv", "jsonl", "txt"};
    for (size_t i = 0; i < DD_ARRAY_LEN(endings); i++) {
        int length = snprintf(out, PATH_MAX, "%s/%s.%s", dir, dd_split_name(split), endings[i]);
        if (length < PATH_MAX && access(out, R_OK) == 0)
            return true;
    }
    return false;
}

static void report_bad_rows(const struct dd_import_report *report, struct dd_faults *faults) {
    for (int i = 0; i < report->n_bad; i++) {
        char pointer[64];
        snprintf(pointer, sizeof pointer, "%s, line %llu", dd_split_name(report->bad[i].split),
                 (unsigned long long)report->bad[i].line);
        dd_faults_add(faults, pointer, "%s", report->bad[i].reason);
    }
}

enum dd_status dd_local_import(const char *path, const char *dir, struct dd_faults *faults, struct dd_error *err) {
    char(*files)[PATH_MAX] = dd_calloc(DD_SPLIT_COUNT, sizeof *files);
    struct dd_import_report *report = dd_calloc(1, sizeof *report);
    struct dd_import import = {.seed = 1};
    struct stat info;
    enum dd_status status = files == NULL || report == NULL ? dd_fail_memory(err, sizeof *report)
                            : stat(path, &info) != 0        ? dd_fail_errno(err, errno, "%s", path)
                                                            : DD_OK;
    for (int s = 0; status == DD_OK && s < DD_SPLIT_COUNT; s++) {
        if (!S_ISDIR(info.st_mode) && s == DD_SPLIT_TRAIN)
            import.paths[s] = path;
        else if (S_ISDIR(info.st_mode) && find_split(path, (enum dd_split)s, files[s]))
            import.paths[s] = files[s];
        if (import.paths[s] != NULL)
            import.file_names[s] =
                strrchr(import.paths[s], '/') != NULL ? strrchr(import.paths[s], '/') + 1 : import.paths[s];
    }
    if (status == DD_OK && import.paths[DD_SPLIT_TRAIN] == NULL)
        status =
            dd_fail(err, DD_NOT_FOUND, "not_found", "%s has no train.tsv, train.csv, train.jsonl or train.txt", path);
    if (status == DD_OK)
        status = dd_tree_remove(dir, err);
    if (status == DD_OK)
        status = dd_dataset_import(&import, dir, report, err);
    if (status != DD_OK && report != NULL)
        report_bad_rows(report, faults);
    free(files);
    free(report);
    return status;
}

static enum dd_status open_dataset(struct dd_local *local, const struct places *places, struct dd_faults *faults,
                                   struct dd_error *err) {
    char dir[PATH_MAX], meta[PATH_MAX], no_kind[] = "", name[] = "the data set";
    const char *path = places->path[DATASET];
    enum dd_status status;
    if (path[0] == '\0') {
        status = look_up(local, DD_ASSET_DATASET, local->setup.spec.dataset, dir, err);
    } else {
        status = dd_path_join(meta, sizeof meta, err, path, "meta.json", NULL);
        if (status == DD_OK && access(meta, F_OK) == 0) /* a data set that distilld has made */
            status = dd_path_join(dir, sizeof dir, err, path, NULL);
        else if (status == DD_OK)
            status = dd_path_join(dir, sizeof dir, err, local->work_dir, "dataset", NULL);
        if (status == DD_OK && access(meta, F_OK) != 0)
            status = dd_local_import(path, dir, faults, err);
    }
    const struct dd_asset asset = {.id = 1, .name = name, .dir = dir, .kind = no_kind};
    if (status == DD_OK)
        status = dd_loaded_get(&local->daemon, &asset, &local->setup.dataset, err);
    return status;
}

/* --- models
 * ------------------------------------------------------------------------------------------------------------ */

static enum dd_status open_model(struct dd_local *local, const char *path, const char *name,
                                 struct dd_model **ret_model, struct dd_error *err) {
    char dir[PATH_MAX];
    if (path[0] != '\0')
        return dd_model_load(path, ret_model, err);
    enum dd_status status = look_up(local, DD_ASSET_MODEL, name, dir, err);
    return status == DD_OK ? dd_model_load(dir, ret_model, err) : status;
}

static enum dd_status open_models(struct dd_local *local, const struct places *places, struct dd_error *err) {
    struct dd_setup *s = &local->setup;
    bool distill = s->spec.task != DD_TASK_FINETUNE;
    enum dd_status status = DD_OK;
    if (distill)
        status = open_model(local, places->path[TEACHER], s->spec.teacher, &s->base, err);
    else if (s->spec.model[0] != '\0')
        status = open_model(local, places->path[MODEL], s->spec.model, &s->base, err);
    for (int i = 0; status == DD_OK && i < s->spec.n_teachers; i++)
        status = open_model(local, places->teachers[i], s->spec.teachers[i], &s->teachers[i], err);
    if (status == DD_OK && distill && s->spec.init == DD_INIT_MODEL)
        status = open_model(local, places->path[INIT], s->spec.init_model, &s->init, err);
    if (status != DD_OK || distill || s->spec.vocabulary[0] == '\0')
        return status;
    struct dd_model *model = NULL;
    status = open_model(local, places->path[VOCABULARY], s->spec.vocabulary, &model, err);
    if (status == DD_OK)
        status = dd_setup_vocabulary(s, model, err);
    dd_model_free(model);
    return status;
}

/* --- all of it
 * --------------------------------------------------------------------------------------------------------- */

static enum dd_status make_work_dir(struct dd_local *local, const char *text, const struct places *places,
                                    struct dd_error *err) {
    struct dd_sha256 *hash = dd_sha256_new();
    uint8_t digest[DD_SHA256_BYTES];
    char key[2 * 8 + 1];
    if (hash == NULL)
        return dd_fail_memory(err, 0);
    dd_sha256_update(hash, text, strlen(text));
    for (int i = 0; i < N_PATHS; i++)
        dd_sha256_update(hash, places->path[i], strlen(places->path[i]) + 1);
    for (int i = 0; i < DD_MAX_TEACHERS && places->teachers[i][0] != '\0'; i++)
        dd_sha256_update(hash, places->teachers[i], strlen(places->teachers[i]) + 1);
    dd_sha256_digest(hash, digest);
    dd_sha256_free(hash);
    dd_hex(digest, 8, key);
    enum dd_status status = dd_daemon_path(&local->daemon, local->work_dir, err, "foreground", key);
    return status == DD_OK ? dd_dir_make(local->work_dir, err) : status;
}

static enum dd_status open_data_dir(struct dd_local *local, const struct dd_options *options, struct dd_error *err) {
    char data_dir[PATH_MAX / 2];
    enum dd_status status = options->data_dir != NULL
                                ? dd_path_join(data_dir, sizeof data_dir, err, options->data_dir, NULL)
                                : dd_default_data_dir(data_dir, sizeof data_dir, err);
    if (status == DD_OK)
        status = dd_data_dir_open(&local->daemon, data_dir, options->cache_dir, err);
    if (status == DD_OK)
        status = dd_pool_new(dd_cores(options), &local->daemon.pool, err);
    if (status == DD_OK && (local->daemon.loaded = dd_loaded_cache_new(UINT64_MAX)) == NULL)
        status = dd_fail_memory(err, 0);
    return status;
}

static enum dd_status open_all(struct dd_local *local, const struct dd_options *options, cJSON *body,
                               struct places *places, struct dd_faults *faults, struct dd_error *err) {
    take_paths(body, places);
    DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(body, false);
    if (text == NULL)
        return dd_fail_json(err);
    enum dd_status status = dd_spec_parse(body, "", &local->setup.spec, faults, err);
    if (status == DD_OK)
        status = open_data_dir(local, options, err);
    if (status == DD_OK)
        status = make_work_dir(local, text, places, err);
    if (status == DD_OK)
        status = open_dataset(local, places, faults, err);
    if (status == DD_OK)
        status = open_models(local, places, err);
    struct dd_spec_teacher base;
    if (status == DD_OK) {
        if (local->setup.base != NULL)
            dd_spec_teacher_from(&local->setup.base->info.config, &base);
        status = dd_spec_resolve(&local->setup.spec, local->setup.base != NULL ? &base : NULL, faults, err);
    }
    return status;
}

enum dd_status dd_local_open(struct dd_local *local, const struct dd_options *options, const char *text,
                             struct dd_faults *faults, struct dd_error *err) {
    memset(local, 0, sizeof *local);
    local->daemon.options = options;
    local->daemon.n_threads = dd_cores(options);
    cJSON *body = cJSON_Parse(text);
    struct places *places = dd_calloc(1, sizeof *places);
    enum dd_status status;
    if (body == NULL)
        status =
            dd_fail(err, DD_MALFORMED, "json_invalid", "the spec is not JSON%s%.20s%s",
                    cJSON_GetErrorPtr() != NULL ? ": see before \"" : "",
                    cJSON_GetErrorPtr() != NULL ? cJSON_GetErrorPtr() : "", cJSON_GetErrorPtr() != NULL ? "\"" : "");
    else if (places == NULL)
        status = dd_fail_memory(err, sizeof *places);
    else
        status = open_all(local, options, body, places, faults, err);
    cJSON_Delete(body);
    free(places);
    if (status != DD_OK)
        dd_local_close(local);
    return status;
}

void dd_local_close(struct dd_local *local) {
    if (local->daemon.loaded != NULL)
        dd_setup_release(&local->daemon, &local->setup);
    dd_loaded_cache_free(local->daemon.loaded);
    dd_pool_free(local->daemon.pool);
    local->daemon.loaded = NULL;
    local->daemon.pool = NULL;
}
