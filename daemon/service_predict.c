/* Asking models: predict and evaluate.
 * Threads: request threads; calls on one model take turns.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define MAX_TEXTS 10000

static enum dd_status open_classifier(struct dd_daemon *daemon, const char *name, struct dd_loaded **ret_loaded,
                                      int *ret_max_length, struct dd_error *err) {
    struct dd_asset asset;
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, name, &asset, err);
    if (status == DD_NOT_FOUND) {
        char detail[384];
        dd_no_such_asset(daemon, DD_ASSET_MODEL, name, detail, sizeof detail);
        return dd_fail(err, DD_NOT_FOUND, "model_not_found", "%s", detail);
    }
    if (status != DD_OK)
        return status;
    cJSON *info = dd_json_of(asset.info_json);
    const cJSON *length = cJSON_GetObjectItemCaseSensitive(info, "max_length");
    *ret_max_length = cJSON_IsNumber(length) ? length->valueint : 128;
    cJSON_Delete(info);
    if (strcmp(asset.kind, "classifier") != 0)
        status =
            dd_fail(err, DD_INVALID, "model_not_classifier", "model \"%s\" is an encoder: it has no classes", name);
    else
        status = dd_loaded_get(daemon, &asset, ret_loaded, err);
    dd_asset_release(&asset);
    if (status == DD_OK && (*ret_loaded)->model->tokenizer == NULL) {
        dd_loaded_put(daemon, *ret_loaded);
        return dd_fail(err, DD_INVALID, "model_without_vocabulary", "model \"%s\" has no vocab.txt to read texts with",
                       name);
    }
    return status;
}

/* The rows that the body asks for; the texts stay the body's. */
static enum dd_status read_texts(const cJSON *body, struct dd_row **ret_rows, size_t *ret_n,
                                 struct dd_problem *problem) {
    const cJSON *texts = cJSON_GetObjectItemCaseSensitive(body, "texts");
    const cJSON *pairs = cJSON_GetObjectItemCaseSensitive(body, "pairs"), *item;
    if ((texts == NULL) == (pairs == NULL)) {
        dd_faults_add(&problem->faults, "/texts", "give either texts or pairs");
        return dd_fail(&problem->error, DD_INVALID, "body_invalid", "give either texts or pairs");
    }
    const cJSON *list = texts != NULL ? texts : pairs;
    int n = cJSON_GetArraySize(list), i = 0;
    struct dd_row *rows = dd_calloc((size_t)n, sizeof *rows);
    if (rows == NULL)
        return dd_fail_memory(&problem->error, (size_t)n * sizeof *rows);
    cJSON_ArrayForEach(item, list) {
        const char *text = cJSON_GetStringValue(texts != NULL ? item : cJSON_GetArrayItem(item, 0));
        const char *pair = texts != NULL ? NULL : cJSON_GetStringValue(cJSON_GetArrayItem(item, 1));
        if (text == NULL || (pairs != NULL && (pair == NULL || cJSON_GetArraySize(item) != 2))) {
            char pointer[32];
            snprintf(pointer, sizeof pointer, "/%s/%d", texts != NULL ? "texts" : "pairs", i);
            dd_faults_add(&problem->faults, pointer, texts != NULL ? "must be a string" : "must be two strings");
        } else {
            rows[i] = (struct dd_row){.text = text,
                                      .text_bytes = strlen(text),
                                      .pair = pair,
                                      .pair_bytes = pair != NULL ? strlen(pair) : 0,
                                      .label = -1};
        }
        i++;
    }
    if (n == 0 || n > MAX_TEXTS)
        dd_faults_add(&problem->faults, texts != NULL ? "/texts" : "/pairs", "must have 1 to %d entries, has %d",
                      MAX_TEXTS, n);
    if (problem->faults.total > 0) {
        free(rows);
        return dd_fail(&problem->error, DD_INVALID, "body_invalid", "the texts are not as they should be");
    }
    *ret_rows = rows;
    *ret_n = (size_t)n;
    return DD_OK;
}

static cJSON *prediction_json(const struct dd_model_info *info, const float *logits) {
    int best = 0;
    double sum = 0;
    for (int l = 1; l < info->n_labels; l++)
        if (logits[l] > logits[best])
            best = l;
    double largest = logits[best];
    for (int l = 0; l < info->n_labels; l++)
        sum += exp(logits[l] - largest);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "label", info->labels[best]);
    dd_put_number(json, "score", 1 / sum);
    cJSON *scores = cJSON_AddObjectToObject(json, "scores"), *list = cJSON_AddArrayToObject(json, "logits");
    for (int l = 0; l < info->n_labels; l++) {
        dd_put_number(scores, info->labels[l], exp(logits[l] - largest) / sum);
        cJSON_AddItemToArray(list, isfinite(logits[l]) ? cJSON_CreateNumber(logits[l]) : cJSON_CreateNull());
    }
    return json;
}

enum dd_status dd_model_predict_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                   struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    struct dd_loaded *loaded = NULL;
    struct dd_row *rows = NULL;
    size_t n = 0;
    int max_length = 0;
    enum dd_status status = open_classifier(daemon, call->name, &loaded, &max_length, err);
    if (status != DD_OK)
        return status;
    const struct dd_model_info *info = &loaded->model->info;
    status = read_texts(call->body, &rows, &n, problem);
    float *logits = status == DD_OK ? dd_calloc(n, (size_t)info->n_labels * sizeof *logits) : NULL;
    if (status == DD_OK && logits == NULL)
        status = dd_fail_memory(err, n * (size_t)info->n_labels * sizeof *logits);
    if (status == DD_OK)
        status = dd_loaded_predict(daemon, loaded, max_length, rows, n, call->cancel, logits, err);
    if (status == DD_OK) {
        result->json = cJSON_CreateObject();
        cJSON *list = cJSON_AddArrayToObject(result->json, "predictions");
        for (size_t i = 0; i < n; i++)
            cJSON_AddItemToArray(list, prediction_json(info, &logits[i * (size_t)info->n_labels]));
    }
    free(logits);
    free(rows);
    dd_loaded_put(daemon, loaded);
    return status;
}

enum dd_status dd_model_evaluate_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                    struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(call->body, "dataset"));
    const char *split_name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(call->body, "split"));
    enum dd_split split = DD_SPLIT_DEV;
    if (split_name != NULL && !dd_split_parse(split_name, &split))
        return dd_fail(err, DD_INVALID, "body_invalid", "there is no split \"%s\"", split_name);
    struct dd_loaded *model = NULL, *dataset = NULL;
    struct dd_asset asset;
    int max_length = 0;
    enum dd_status status = open_classifier(daemon, call->name, &model, &max_length, err);
    if (status != DD_OK)
        return status;
    status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, name != NULL ? name : "", &asset, err);
    if (status == DD_NOT_FOUND) {
        char detail[384];
        dd_no_such_asset(daemon, DD_ASSET_DATASET, name != NULL ? name : "", detail, sizeof detail);
        dd_faults_add(&problem->faults, "/dataset", "%s", detail);
        status = dd_fail(err, DD_INVALID, "dataset_not_found", "%s", detail);
    } else if (status == DD_OK) {
        status = dd_loaded_get(daemon, &asset, &dataset, err);
        dd_asset_release(&asset);
    }
    struct dd_report report;
    if (status == DD_OK)
        status =
            dd_evaluate(model->model, daemon->pool, max_length, dataset->dataset, split, call->cancel, &report, err);
    if (status == DD_OK) {
        const char **names = dd_class_names(dataset->dataset);
        bool text = call->accept != NULL && strcmp(call->accept, "text/plain") == 0;
        status = names != NULL ? dd_answer_report(&report, names, text, result, err) : dd_fail_memory(err, 0);
        free(names);
        dd_report_release(&report);
    }
    dd_loaded_put(daemon, dataset);
    dd_loaded_put(daemon, model);
    return status;
}
