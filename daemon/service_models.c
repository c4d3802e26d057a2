/* Operations on models: register, upload, list, download, delete.
 * Threads: HTTP and request threads.
 *
 * A path on the server is taken only when it lies, symbolic links resolved, below a configured model root, and so must
 * whatever its directory's entries point to; the answer for a path outside is the same whether it exists or not.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"

static cJSON *model_json(const struct dd_asset *asset) {
    cJSON *json = cJSON_CreateObject(), *info = dd_json_of(asset->info_json);
    cJSON_AddStringToObject(json, "name", asset->name);
    dd_put_time(json, "created_at", asset->created_ms);
    for (cJSON *field = info->child; field != NULL; field = info->child) {
        cJSON_DetachItemViaPointer(info, field);
        cJSON_AddItemToObject(json, field->string, field);
    }
    cJSON_Delete(info);
    return json;
}

enum dd_status dd_model_asset(struct dd_daemon *daemon, const char *name, struct dd_asset *ret_asset,
                              struct dd_error *err) {
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, name, ret_asset, err);
    if (status != DD_NOT_FOUND)
        return status;
    char detail[384];
    dd_no_such_asset(daemon, DD_ASSET_MODEL, name, detail, sizeof detail);
    return dd_fail(err, DD_NOT_FOUND, "model_not_found", "%s", detail);
}

/* --- paths on the server --------------------------------------------------------------------------------------------
 */

static bool below_a_root(const struct dd_daemon *daemon, const char *real) {
    for (int i = 0; daemon->options->model_roots[i] != NULL; i++) {
        DD_CLEANUP(dd_free_ptr) char *root = realpath(daemon->options->model_roots[i], NULL);
        size_t length = root != NULL ? strlen(root) : 0;
        if (length > 0 && strncmp(real, root, length) == 0 && (real[length] == '/' || root[length - 1] == '/'))
            return true;
    }
    return false;
}

static enum dd_status refuse_path(const struct dd_daemon *daemon, struct dd_error *err) {
    if (daemon->options->model_roots[0] == NULL)
        return dd_fail(err, DD_FORBIDDEN, "model_path_forbidden",
                       "no directory is open for models on this machine: start the daemon with --model-root DIR, or "
                       "upload the model");
    return dd_fail(err, DD_FORBIDDEN, "model_path_forbidden",
                   "the path is not below a model root of this daemon (%s%s); put the model there or upload it",
                   daemon->options->model_roots[0], daemon->options->model_roots[1] != NULL ? " and others" : "");
}

static void close_dir(DIR **dir) {
    if (*dir != NULL)
        closedir(*dir);
}

/* No entry of the directory leads out of the roots. */
static enum dd_status check_entries(const struct dd_daemon *daemon, const char *path, struct dd_error *err) {
    DD_CLEANUP(close_dir) DIR *dir = opendir(path);
    if (dir == NULL)
        return errno == ENOTDIR ? DD_OK : dd_fail_errno(err, errno, "the model's path");
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char child[PATH_MAX];
        struct stat info;
        enum dd_status status = dd_path_join(child, sizeof child, err, path, entry->d_name, NULL);
        if (status != DD_OK)
            return status;
        if (lstat(child, &info) != 0 || !S_ISLNK(info.st_mode))
            continue;
        DD_CLEANUP(dd_free_ptr) char *real = realpath(child, NULL);
        if (real == NULL || !below_a_root(daemon, real))
            return dd_fail(err, DD_FORBIDDEN, "model_path_forbidden",
                           "%s in the model's directory is a link to a place outside of the model roots",
                           entry->d_name);
    }
    return DD_OK;
}

static enum dd_status resolve_path(const struct dd_daemon *daemon, const char *path, char out[PATH_MAX],
                                   struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *real = path[0] == '/' ? realpath(path, NULL) : NULL;
    if (real == NULL || !below_a_root(daemon, real)) {
        bool inside = false; /* a missing file below a root may be told as missing */
        for (int i = 0; daemon->options->model_roots[i] != NULL; i++) {
            size_t length = strlen(daemon->options->model_roots[i]);
            inside |= strncmp(path, daemon->options->model_roots[i], length) == 0 && strstr(path, "..") == NULL;
        }
        if (real == NULL && inside)
            return dd_fail(err, DD_NOT_FOUND, "model_path_missing", "there is nothing at that path");
        return refuse_path(daemon, err);
    }
    enum dd_status status = check_entries(daemon, real, err);
    if (status == DD_OK)
        status = dd_path_join(out, PATH_MAX, err, real, NULL);
    return status;
}

/* --- creation --------------------------------------------------------------------------------------------------------
 */

enum dd_status dd_model_record(struct dd_daemon *daemon, const char *name, char *dir, const char *path, bool owned,
                               int max_length, cJSON *source, struct dd_error *err) {
    struct dd_model *model = NULL;
    enum dd_status status = dd_model_load(path, &model, err);
    if (status != DD_OK) {
        cJSON_Delete(source);
        return status == DD_NOT_FOUND && owned ? dd_fail(err, DD_INVALID, "model_incomplete", "%s", err->message)
                                               : status;
    }
    int longest = DD_MIN(max_length > 0 ? max_length : 512, model->info.config.max_positions);
    cJSON *info = dd_model_describe(&model->info, longest, source);
    DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(info, false);
    DD_CLEANUP(dd_free_ptr) char *copy = dd_strdup(name);
    DD_CLEANUP(dd_free_ptr) char *kind = dd_strdup(model->info.kind == DD_MODEL_CLASSIFIER ? "classifier" : "encoder");
    cJSON_Delete(info);
    dd_model_free(model);
    if (text == NULL || copy == NULL || kind == NULL)
        return dd_fail_json(err);
    const struct dd_asset asset = {.name = copy, .dir = dir, .owned = owned, .info_json = text, .kind = kind};
    int64_t id;
    return dd_storage_asset_insert(daemon->storage, DD_ASSET_MODEL, &asset, &id, err);
}

/* The uploaded files into a fresh directory. */
static enum dd_status collect_files(const struct dd_api_call *call, const char *path, struct dd_error *err) {
    const struct dd_api_file *archive = dd_api_file(call, "archive");
    if (archive != NULL && dd_api_file(call, "files") != NULL)
        return dd_fail(err, DD_INVALID, "upload_invalid", "send either files or one archive, not both");
    if (archive != NULL)
        return dd_archive_extract(archive->path, path, UINT64_C(64) << 30, err);
    enum dd_status status = dd_dir_make(path, err);
    size_t taken = 0;
    for (size_t i = 0; status == DD_OK && i < call->n_files; i++) {
        const struct dd_api_file *file = &call->files[i];
        char target[PATH_MAX];
        if (strcmp(file->field, "files") != 0)
            continue;
        if (file->filename == NULL || file->filename[0] == '\0' || file->filename[0] == '.' ||
            strchr(file->filename, '/') != NULL)
            return dd_fail(err, DD_INVALID, "upload_invalid", "every file needs a plain name, such as config.json");
        status = dd_path_join(target, sizeof target, err, path, file->filename, NULL);
        if (status == DD_OK && access(target, F_OK) == 0)
            return dd_fail(err, DD_INVALID, "upload_invalid", "%s was sent twice", file->filename);
        if (status == DD_OK && DD_FAILABLE("rename", rename(file->path, target)) != 0)
            status = dd_fail_errno(err, errno, "%s", file->filename);
        taken++;
    }
    if (status == DD_OK && taken == 0)
        return dd_fail(err, DD_INVALID, "upload_invalid",
                       "send the model's files (config.json, vocab.txt, model.safetensors) as files=@…, or one "
                       "archive=@….tar.gz");
    return status == DD_OK ? dd_dir_sync(path, err) : status;
}

static enum dd_status create_upload(struct dd_daemon *daemon, const struct dd_api_call *call, const char *name,
                                    struct dd_error *err) {
    char relative[PATH_MAX], path[PATH_MAX];
    enum dd_status status = dd_new_asset_dir(daemon, "models", name, relative, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, relative, NULL);
    if (status != DD_OK)
        return status;
    status = collect_files(call, path, err);
    if (status == DD_OK) {
        cJSON *source = cJSON_CreateObject();
        cJSON_AddStringToObject(source, "type", "upload");
        status = dd_model_record(daemon, name, relative, path, true, 0, source, err);
    }
    if (status != DD_OK) {
        struct dd_error ignored; /* the next start removes it again */
        (void)!dd_tree_remove(path, &ignored);
    }
    return status;
}

static enum dd_status create_from_path(struct dd_daemon *daemon, const char *name, const char *asked,
                                       struct dd_error *err) {
    char path[PATH_MAX];
    enum dd_status status = resolve_path(daemon, asked, path, err);
    if (status != DD_OK)
        return status;
    cJSON *source = cJSON_CreateObject();
    cJSON_AddStringToObject(source, "type", "path");
    cJSON_AddStringToObject(source, "path", path);
    return dd_model_record(daemon, name, path, path, false, 0, source, err);
}

enum dd_status dd_model_name_free(struct dd_daemon *daemon, const char *name, struct dd_error *err) {
    struct dd_asset asset;
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, name, &asset, err);
    if (status == DD_OK) {
        dd_asset_release(&asset);
        return dd_fail(err, DD_CONFLICT, "name_taken", "there is a model \"%s\" already", name);
    }
    return status == DD_NOT_FOUND ? DD_OK : status;
}

enum dd_status dd_model_answer_created(struct dd_daemon *daemon, const char *name, struct dd_api_result *result,
                                       struct dd_error *err) {
    struct dd_asset asset;
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, name, &asset, err);
    if (status != DD_OK)
        return status;
    result->json = model_json(&asset);
    result->http_status = 201;
    snprintf(result->location, sizeof result->location, "/api/v1/models/%s", name);
    dd_asset_release(&asset);
    return DD_OK;
}

enum dd_status dd_model_create_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    const cJSON *path = cJSON_GetObjectItemCaseSensitive(call->body, "path");
    const cJSON *body_name = cJSON_GetObjectItemCaseSensitive(call->body, "name");
    const char *name = call->body == NULL ? dd_api_param(call, "name") : cJSON_GetStringValue(body_name);
    if (name == NULL || !dd_name_valid(name)) {
        dd_faults_add(&problem->faults, "/name", "must be a name of a-z, 0-9, '.', '_' and '-'");
        return dd_fail(err, DD_INVALID, "name_invalid", "the model needs a name");
    }
    if (call->body != NULL && !cJSON_IsString(path)) {
        dd_faults_add(&problem->faults, "/path", "is required");
        return dd_fail(err, DD_INVALID, "body_invalid", "the model needs a path");
    }
    enum dd_status status = dd_model_name_free(daemon, name, err);
    if (status != DD_OK)
        return status;
    status = call->body != NULL ? create_from_path(daemon, name, path->valuestring, err)
                                : create_upload(daemon, call, name, err);
    return status == DD_OK ? dd_model_answer_created(daemon, name, result, err) : status;
}

/* --- reading and deletion --------------------------------------------------------------------------------------------
 */

/* Storage pages by name and does not know kinds; a page of one kind is filled from as many of its pages as it takes. */
enum dd_status dd_model_list_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    const char *kind = dd_api_param(call, "kind"), *first = dd_api_param(call, "cursor");
    int limit = (int)dd_api_param_int(call, "limit", 50), found = 0;
    DD_CLEANUP(dd_free_ptr) char *cursor = dd_strdup(first);
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "items");
    do {
        struct dd_asset *items;
        size_t count;
        char *next = NULL;
        enum dd_status status = dd_storage_asset_list(daemon->storage, DD_ASSET_MODEL, dd_api_param(call, "q"), cursor,
                                                      limit - found, &items, &count, &next, &problem->error);
        if (status != DD_OK)
            return status;
        for (size_t i = 0; i < count; i++) {
            if (kind != NULL && strcmp(kind, items[i].kind) != 0)
                continue;
            cJSON_AddItemToArray(list, model_json(&items[i]));
            found++;
        }
        dd_assets_free(items, count);
        free(cursor);
        cursor = next;
    } while (cursor != NULL && found < limit);
    if (cursor != NULL)
        snprintf(result->next_cursor, sizeof result->next_cursor, "%s", cursor);
    return DD_OK;
}

enum dd_status dd_model_get_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                               struct dd_problem *problem) {
    struct dd_asset asset;
    enum dd_status status = dd_model_asset(context, call->name, &asset, &problem->error);
    if (status != DD_OK)
        return status;
    result->json = model_json(&asset);
    dd_asset_release(&asset);
    return DD_OK;
}

enum dd_status dd_answer_model(struct dd_daemon *daemon, const struct dd_model *model, const char *card, bool fp16,
                               const char *root, const struct dd_cancel *cancel, struct dd_api_result *result,
                               struct dd_error *err) {
    char copy[PATH_MAX], name[32], hex[9];
    uint8_t random[4];
    enum dd_status status = dd_random_bytes(random, sizeof random, err);
    if (status != DD_OK)
        return status;
    dd_hex(random, sizeof random, hex);
    snprintf(name, sizeof name, "export-%s", hex);
    status = dd_daemon_path(daemon, copy, err, "uploads", name);
    if (status != DD_OK)
        return status;
    status = fp16 ? dd_model_save_fp16(model, copy, card, err) : dd_model_save(model, copy, card, err);
    if (status == DD_OK)
        status = dd_answer_archive(daemon, copy, root, cancel, result, err);
    struct dd_error ignored; /* the uploads folder is emptied at start */
    (void)!dd_tree_remove(copy, &ignored);
    return status;
}

bool dd_wants_fp16(const struct dd_api_call *call) {
    const char *weights = dd_api_param(call, "weights");
    return weights != NULL && strcmp(weights, "fp16") == 0;
}

static double number_of(const cJSON *object, const char *name) {
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(number) ? number->valuedouble : NAN;
}

/* With epoch and scores where a run has made the model. */
static void export_name(const struct dd_asset *asset, char out[DD_EXPORT_NAME_BYTES]) {
    cJSON *info = dd_json_of(asset->info_json);
    const cJSON *source = cJSON_GetObjectItemCaseSensitive(info, "source");
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(source, "type");
    bool run = cJSON_IsString(type) && strcmp(type->valuestring, "experiment") == 0;
    double epoch = run ? number_of(source, "epoch") : NAN;
    dd_export_name(asset->name, epoch > 0 && epoch <= INT_MAX ? (int)epoch : 0, number_of(source, "macro_precision"),
                   number_of(source, "macro_recall"), number_of(source, "macro_f1"), out);
    cJSON_Delete(info);
}

enum dd_status dd_model_archive_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                   struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    struct dd_asset asset;
    struct stat info;
    char path[PATH_MAX], root[DD_EXPORT_NAME_BYTES];
    bool fp16 = dd_wants_fp16(call);
    enum dd_status status = dd_model_asset(daemon, call->name, &asset, err);
    if (status != DD_OK)
        return status;
    export_name(&asset, root);
    status = dd_asset_path(daemon, &asset, path, err);
    bool as_it_lies = asset.owned && !fp16 && !(stat(path, &info) == 0 && !S_ISDIR(info.st_mode));
    if (status == DD_OK && as_it_lies) {
        status = dd_answer_archive(daemon, path, root, call->cancel, result, err);
    } else if (status == DD_OK) {
        /* Registered by path or a single file: whatever its format, what goes out is a Hugging Face directory. */
        struct dd_loaded *loaded = NULL;
        DD_CLEANUP(dd_free_ptr) char *card = NULL;
        status = dd_loaded_get(daemon, &asset, &loaded, err);
        if (status == DD_OK && asset.owned)
            status = dd_card_read(path, &card, err);
        if (status == DD_OK)
            status = dd_answer_model(daemon, loaded->model, card, fp16, root, call->cancel, result, err);
        dd_loaded_put(daemon, loaded);
    }
    dd_asset_release(&asset);
    return status;
}

enum dd_status dd_model_delete_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_asset gone;
    enum dd_status status = dd_model_asset(daemon, call->name, &gone, &problem->error);
    if (status != DD_OK)
        return status;
    dd_asset_release(&gone);
    status = dd_storage_asset_delete(daemon->storage, DD_ASSET_MODEL, call->name, &gone, &problem->error);
    if (status != DD_OK)
        return status;
    dd_loaded_forget(daemon, DD_ASSET_MODEL, gone.id);
    char path[PATH_MAX];
    struct dd_error err;
    status = gone.owned ? dd_asset_path(daemon, &gone, path, &err) : DD_OK;
    if (status == DD_OK && gone.owned)
        status = dd_tree_remove(path, &err);
    if (status != DD_OK)
        dd_log(DD_LOG_WARNING, "service", "model %s is deleted, but its files are not yet: %s", call->name,
               err.message);
    dd_asset_release(&gone);
    result->http_status = 204;
    return DD_OK;
}
