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

enum dd_status dd_complete_run(struct dd_daemon *daemon, const struct dd_experiment *experiment,
                               const struct dd_train_result *result, char ret_name[DD_NAME_BYTES],
                               struct dd_error *err) {
    char wanted[DD_NAME_BYTES], name[DD_NAME_BYTES], relative[PATH_MAX], path[PATH_MAX];
    int max_length;
    int64_t replaced = 0;
    read_spec(experiment, wanted, &max_length);
    if (wanted[0] == '\0')
        snprintf(wanted, sizeof wanted, "exp-%" PRId64, experiment->id);
    struct dd_asset asset = {.name = name, .dir = relative, .owned = true, .experiment_id = experiment->id};
    const struct dd_completion done = {.model = &asset,
                                       .parameters = (int64_t)result->parameters,
                                       .model_bytes = (int64_t)result->model_bytes,
                                       .steps = result->steps_done,
                                       .tokens_per_second = result->last.tokens_per_second,
                                       .elapsed_seconds = result->last.elapsed_seconds};
    enum dd_status status = describe(experiment, result, max_length, &asset, err);
    if (status == DD_OK)
        status = dd_new_asset_dir(daemon, "models", wanted, relative, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, relative, NULL);
    if (status == DD_OK)
        status = dd_dir_link(result->best_dir, path, err);
    for (int attempt = 1; status == DD_OK; attempt++) {
        if (attempt == 1)
            snprintf(name, sizeof name, "%s", wanted);
        else
            snprintf(name, sizeof name, "%.*s-%d", (int)(DD_NAME_BYTES - 13), wanted, attempt);
        struct dd_error fault;
        status = dd_storage_experiment_complete(daemon->storage, experiment->id, &done, &replaced, &fault);
        if (status == DD_OK)
            break;
        if (status == DD_CONFLICT && strcmp(fault.code, "name_taken") == 0 && attempt < 1000)
            status = DD_OK;
        else
            *err = fault;
    }
    free(asset.info_json);
    free(asset.kind);
    if (status != DD_OK) /* the directory, which no row names, goes at the next start */
        return status;
    if (replaced != 0) /* so does the old one: somebody may be reading it */
        dd_loaded_forget(daemon, DD_ASSET_MODEL, replaced);
    snprintf(ret_name, DD_NAME_BYTES, "%s", name);
    return DD_OK;
}
