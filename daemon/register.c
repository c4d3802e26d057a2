/* The result of a finished run becomes a model that others can name.
 *
 * The run keeps its best-<epoch>/; the model's directory holds hard links to the same files, which nobody ever writes
 * again, so it costs no space and outlives the run.  Threads: worker threads.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

static cJSON *source_json(const struct dd_experiment *e, const struct dd_train_result *result) {
    cJSON *spec = dd_json_of(e->spec_json), *teachers = cJSON_DetachItemFromObjectCaseSensitive(spec, "teachers");
    cJSON *source = cJSON_CreateObject();
    cJSON_AddStringToObject(source, "type", "experiment");
    cJSON_AddNumberToObject(source, "experiment_id", (double)e->id);
    cJSON_AddNumberToObject(source, "epoch", result->best_epoch);
    cJSON_AddStringToObject(source, "task", e->task);
    cJSON_AddStringToObject(source, "dataset", e->dataset);
    dd_put_text(source, "teacher", e->teacher != NULL && e->teacher[0] != '\0' ? e->teacher : NULL);
    if (teachers != NULL)
        cJSON_AddItemToObject(source, "teachers", teachers);
    dd_put_number(source, "accuracy", result->best.accuracy);
    dd_put_number(source, "macro_precision", result->best.macro_precision);
    dd_put_number(source, "macro_recall", result->best.macro_recall);
    dd_put_number(source, "macro_f1", result->best.macro_f1);
    cJSON_Delete(spec);
    return source;
}

/* A name that is free or that this very run took before; the old model of this run goes. */
static enum dd_status insert_as(struct dd_daemon *daemon, const char *name, struct dd_asset *asset,
                                struct dd_error *err) {
    int64_t id;
    struct dd_asset old;
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, name, &old, err);
    if (status == DD_OK) {
        bool mine = old.experiment_id == asset->experiment_id;
        dd_asset_release(&old);
        if (!mine)
            return dd_fail(err, DD_CONFLICT, "name_taken", "there is a model %s already", name);
        struct dd_asset deleted;
        status = dd_storage_asset_delete(daemon->storage, DD_ASSET_MODEL, name, &deleted, err);
        if (status == DD_OK) { /* its directory goes at the next start, when nobody can be reading it */
            dd_loaded_forget(daemon, DD_ASSET_MODEL, deleted.id);
            dd_asset_release(&deleted);
        }
    } else if (status == DD_NOT_FOUND) {
        status = DD_OK;
    }
    asset->name = dd_strdup(name);
    if (status == DD_OK && asset->name == NULL)
        status = dd_fail_memory(err, strlen(name));
    if (status == DD_OK)
        status = dd_storage_asset_insert(daemon->storage, DD_ASSET_MODEL, asset, &id, err);
    free(asset->name);
    asset->name = NULL;
    return status;
}

static enum dd_status describe(const struct dd_experiment *e, const struct dd_train_result *result, int max_length,
                               struct dd_asset *asset, struct dd_error *err) {
    struct dd_model_info *info = dd_calloc(1, sizeof *info);
    if (info == NULL)
        return dd_fail_memory(err, sizeof *info);
    enum dd_status status = dd_model_inspect(result->best_dir, info, err);
    if (status == DD_OK) {
        cJSON *json = dd_model_describe(info, max_length, source_json(e, result));
        asset->info_json = dd_json_print(json, false);
        asset->kind = dd_strdup("classifier");
        cJSON_Delete(json);
        if (asset->info_json == NULL || asset->kind == NULL)
            status = dd_fail_json(err);
    }
    free(info);
    return status;
}

/* save_as and max_length as they stand in the stored spec. */
static void read_spec(const struct dd_experiment *e, char save_as[DD_NAME_BYTES], int *ret_max_length) {
    cJSON *spec = dd_json_of(e->spec_json);
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(spec, "save_as");
    const cJSON *length = cJSON_GetObjectItemCaseSensitive(spec, "max_length");
    save_as[0] = '\0';
    if (cJSON_IsString(name) && dd_name_valid(name->valuestring))
        snprintf(save_as, DD_NAME_BYTES, "%s", name->valuestring);
    *ret_max_length = cJSON_IsNumber(length) ? length->valueint : 128;
    cJSON_Delete(spec);
}

enum dd_status dd_register_result(struct dd_daemon *daemon, const struct dd_experiment *experiment,
                                  const struct dd_train_result *result, char ret_name[DD_NAME_BYTES],
                                  struct dd_error *err) {
    char wanted[DD_NAME_BYTES], name[DD_NAME_BYTES], relative[PATH_MAX], path[PATH_MAX];
    int max_length;
    read_spec(experiment, wanted, &max_length);
    if (wanted[0] == '\0')
        snprintf(wanted, sizeof wanted, "exp-%" PRId64, experiment->id);
    struct dd_asset asset = {.owned = true, .experiment_id = experiment->id};
    enum dd_status status = describe(experiment, result, max_length, &asset, err);
    if (status == DD_OK)
        status = dd_new_asset_dir("models", wanted, relative, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, relative, NULL);
    if (status == DD_OK)
        status = dd_dir_link(result->best_dir, path, err);
    asset.dir = relative;
    for (int attempt = 1; status == DD_OK; attempt++) {
        if (attempt == 1)
            snprintf(name, sizeof name, "%s", wanted);
        else
            snprintf(name, sizeof name, "%.*s-%d", (int)(DD_NAME_BYTES - 13), wanted, attempt);
        status = insert_as(daemon, name, &asset, err);
        if (status == DD_OK)
            break;
        if (status == DD_CONFLICT && attempt < 1000)
            status = DD_OK;
    }
    free(asset.info_json);
    free(asset.kind);
    if (status == DD_OK)
        snprintf(ret_name, DD_NAME_BYTES, "%s", name);
    return status;
}
