/* Operations that make a smaller model from another: prune, quantize.
 * Threads: request threads.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

/* What such an operation works with. */
struct job {
    struct dd_daemon *daemon;
    const struct dd_api_call *call;
    const char *save_as;
    struct dd_loaded *model, *dataset;
    int max_length;
    char *card; /* owned; NULL: the model has none */
    cJSON *source;
};

static void job_release(struct job *job) {
    dd_loaded_put(job->daemon, job->dataset);
    dd_loaded_put(job->daemon, job->model);
    free(job->card);
    cJSON_Delete(job->source);
}

static enum dd_status open_model(struct job *job, struct dd_error *err) {
    struct dd_asset asset;
    char path[PATH_MAX];
    enum dd_status status = dd_model_asset(job->daemon, job->call->name, &asset, err);
    if (status != DD_OK)
        return status;
    cJSON *info = dd_json_of(asset.info_json);
    const cJSON *length = cJSON_GetObjectItemCaseSensitive(info, "max_length");
    job->max_length = cJSON_IsNumber(length) ? length->valueint : 0;
    cJSON_Delete(info);
    status = dd_loaded_get(job->daemon, &asset, &job->model, err);
    if (status == DD_OK)
        status = dd_asset_path(job->daemon, &asset, path, err);
    if (status == DD_OK)
        status = dd_card_read(path, &job->card, err);
    dd_asset_release(&asset);
    return status;
}

static enum dd_status open_dataset(struct job *job, struct dd_problem *problem) {
    struct dd_error *err = &problem->error;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(job->call->body, "dataset"));
    struct dd_asset asset;
    enum dd_status status =
        dd_storage_asset_get(job->daemon->storage, DD_ASSET_DATASET, name != NULL ? name : "", &asset, err);
    if (status == DD_NOT_FOUND) {
        char detail[384];
        dd_no_such_asset(job->daemon, DD_ASSET_DATASET, name != NULL ? name : "", detail, sizeof detail);
        dd_faults_add(&problem->faults, "/dataset", "%s", detail);
        return dd_fail(err, DD_INVALID, "dataset_not_found", "%s", detail);
    }
    if (status != DD_OK)
        return status;
    cJSON_AddStringToObject(job->source, "dataset", name);
    status = dd_loaded_get(job->daemon, &asset, &job->dataset, err);
    dd_asset_release(&asset);
    return status;
}

static enum dd_status job_open(struct job *job, const char *type, struct dd_problem *problem) {
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(job->call->body, "save_as");
    job->save_as = cJSON_GetStringValue(name);
    if (job->save_as == NULL || !dd_name_valid(job->save_as)) {
        dd_faults_add(&problem->faults, "/save_as", "must be a name of a-z, 0-9, '.', '_' and '-'");
        return dd_fail(&problem->error, DD_INVALID, "name_invalid", "the new model needs a name");
    }
    job->source = cJSON_CreateObject();
    cJSON_AddStringToObject(job->source, "type", type);
    cJSON_AddStringToObject(job->source, "model", job->call->name);
    enum dd_status status = open_model(job, &problem->error);
    return status == DD_OK ? dd_model_name_free(job->daemon, job->save_as, &problem->error) : status;
}

/* Saves the model that was made, registers and answers it. */
static enum dd_status job_finish(struct job *job, const struct dd_model *made, struct dd_api_result *result,
                                 struct dd_error *err) {
    char relative[PATH_MAX], path[PATH_MAX];
    enum dd_status status = dd_new_asset_dir(job->daemon, "models", job->save_as, relative, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, job->daemon->data_dir, relative, NULL);
    if (status != DD_OK)
        return status;
    status = dd_shrink_save(made, job->model->model, job->card, job->source, path, err);
    if (status == DD_OK) {
        status = dd_model_record(job->daemon, job->save_as, relative, path, true, job->max_length, job->source, err);
        job->source = NULL;
    }
    if (status != DD_OK) {
        struct dd_error ignored; /* the next start removes it again */
        (void)!dd_tree_remove(path, &ignored);
        return status;
    }
    return dd_model_answer_created(job->daemon, job->save_as, result, err);
}

static enum dd_status prune(const struct job *job, bool keep_characters, struct dd_model **ret_model,
                            struct dd_error *err) {
    const struct dd_model *model = job->model->model;
    struct dd_vocab_use *use = NULL;
    if (model->tokenizer == NULL)
        return dd_fail(err, DD_INVALID, "model_without_vocabulary", "model \"%s\" has no vocab.txt to prune",
                       job->call->name);
    enum dd_status status = dd_vocab_use_new(model->tokenizer, &use, err);
    if (status == DD_OK)
        status = dd_vocab_use_dataset(use, job->dataset->dataset, job->call->cancel, err);
    if (status == DD_OK && keep_characters)
        dd_vocab_use_characters(use);
    if (status == DD_OK)
        status = dd_model_prune(model, use, ret_model, err);
    dd_vocab_use_free(use);
    return status;
}

enum dd_status dd_model_prune_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                 struct dd_problem *problem) {
    DD_CLEANUP(job_release) struct job job = {.daemon = context, .call = call};
    bool keep_characters = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(call->body, "keep_characters"));
    struct dd_model *made = NULL;
    enum dd_status status = job_open(&job, "pruned", problem);
    if (status == DD_OK)
        status = open_dataset(&job, problem);
    if (status == DD_OK) {
        cJSON_AddBoolToObject(job.source, "keep_characters", keep_characters);
        status = prune(&job, keep_characters, &made, &problem->error);
    }
    if (status == DD_OK)
        status = job_finish(&job, made, result, &problem->error);
    dd_model_free(made);
    return status;
}

static enum dd_status score(struct job *job, const struct dd_model *model, enum dd_split split, const char *when,
                            struct dd_error *err) {
    struct dd_report report;
    int max_length = DD_MIN(job->max_length > 0 ? job->max_length : 128, model->info.config.max_positions);
    enum dd_status status = dd_evaluate(model, job->daemon->pool, max_length, job->dataset->dataset, split,
                                        job->call->cancel, &report, err);
    if (status == DD_OK) {
        dd_shrink_put_scores(job->source, when, &report);
        dd_report_release(&report);
    }
    return status;
}

enum dd_status dd_model_quantize_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                    struct dd_problem *problem) {
    DD_CLEANUP(job_release) struct job job = {.daemon = context, .call = call};
    struct dd_error *err = &problem->error;
    const char *split_name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(call->body, "split"));
    enum dd_split split = DD_SPLIT_DEV;
    if (split_name != NULL && !dd_split_parse(split_name, &split))
        return dd_fail(err, DD_INVALID, "body_invalid", "there is no split \"%s\"", split_name);
    bool measured = cJSON_GetObjectItemCaseSensitive(call->body, "dataset") != NULL;
    struct dd_model *made = NULL;
    enum dd_status status = job_open(&job, "quantized", problem);
    if (status == DD_OK && measured)
        status = open_dataset(&job, problem);
    if (status == DD_OK)
        status = dd_model_quantize(job.model->model, &made, err);
    if (status == DD_OK && measured) {
        cJSON_AddStringToObject(job.source, "split", dd_split_name(split));
        status = score(&job, job.model->model, split, "before", err);
    }
    if (status == DD_OK && measured)
        status = score(&job, made, split, "after", err);
    if (status == DD_OK)
        status = job_finish(&job, made, result, err);
    dd_model_free(made);
    return status;
}
