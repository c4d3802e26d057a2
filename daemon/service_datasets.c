/* Operations on data sets.
 * Threads: HTTP and request threads.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

static cJSON *asset_json(const struct dd_asset *asset) {
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

static enum dd_status get_asset(struct dd_daemon *daemon, const char *name, struct dd_asset *ret_asset,
                                struct dd_error *err) {
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, name, ret_asset, err);
    if (status != DD_NOT_FOUND)
        return status;
    char detail[384];
    dd_no_such_asset(daemon, DD_ASSET_DATASET, name, detail, sizeof detail);
    return dd_fail(err, DD_NOT_FOUND, "dataset_not_found", "%s", detail);
}

/* --- upload ---------------------------------------------------------------------------------------------------------
 */

static enum dd_data_format format_of(const char *name) {
    if (name == NULL)
        return DD_FORMAT_AUTO;
    return strcmp(name, "tsv") == 0 ? DD_FORMAT_TSV : strcmp(name, "csv") == 0 ? DD_FORMAT_CSV : DD_FORMAT_JSONL;
}

static void fill_import(const struct dd_api_call *call, struct dd_import *import) {
    const char *fraction = dd_api_param(call, "dev_fraction"), *on_error = dd_api_param(call, "on_error");
    *import = (struct dd_import){.format = format_of(dd_api_param(call, "format")),
                                 .text_column = dd_api_param(call, "text_column"),
                                 .pair_column = dd_api_param(call, "pair_column"),
                                 .label_column = dd_api_param(call, "label_column"),
                                 .dev_fraction = fraction != NULL ? strtod(fraction, NULL) : 0,
                                 .seed = (uint64_t)dd_api_param_int(call, "seed", 1),
                                 .skip_bad_rows = on_error != NULL && strcmp(on_error, "skip") == 0,
                                 .cancel = call->cancel};
    for (int s = 0; s < DD_SPLIT_COUNT; s++) {
        const struct dd_api_file *file = dd_api_file(call, dd_split_name((enum dd_split)s));
        if (file == NULL)
            continue;
        import->paths[s] = file->path;
        import->file_names[s] = file->filename;
    }
}

static void add_bad_rows(const struct dd_import_report *report, struct dd_faults *faults) {
    for (int i = 0; i < report->n_bad; i++) {
        char pointer[64];
        snprintf(pointer, sizeof pointer, "/%s/line/%" PRIu64, dd_split_name(report->bad[i].split),
                 report->bad[i].line);
        dd_faults_add(faults, pointer, "%s", report->bad[i].reason);
    }
    faults->total = DD_MAX(faults->total, (size_t)report->bad_total);
}

/* The directory is there; makes the row.  The directory is removed where that fails. */
static enum dd_status record(struct dd_daemon *daemon, const char *name, char *relative, const char *path,
                             uint64_t skipped, const struct dd_cancel *cancel, struct dd_error *err) {
    struct dd_dataset *dataset;
    enum dd_status status = dd_dataset_open(path, &dataset, err);
    if (status != DD_OK)
        return status;
    cJSON *info = dd_dataset_describe(dataset, skipped, cancel);
    dd_dataset_free(dataset);
    DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(info, false);
    DD_CLEANUP(dd_free_ptr) char *copy = dd_strdup(name);
    cJSON_Delete(info);
    if (text == NULL || copy == NULL)
        return dd_fail_json(err);
    char no_kind[1] = "";
    const struct dd_asset asset = {.name = copy, .dir = relative, .owned = true, .info_json = text, .kind = no_kind};
    int64_t id;
    return dd_storage_asset_insert(daemon->storage, DD_ASSET_DATASET, &asset, &id, err);
}

static enum dd_status import_dataset(struct dd_daemon *daemon, const struct dd_api_call *call, const char *name,
                                     struct dd_problem *problem) {
    struct dd_error *err = &problem->error;
    struct dd_import import;
    fill_import(call, &import);
    char relative[PATH_MAX], path[PATH_MAX];
    enum dd_status status = dd_new_asset_dir(daemon, "datasets", name, relative, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, daemon->data_dir, relative, NULL);
    if (status != DD_OK)
        return status;
    struct dd_import_report *report = dd_calloc(1, sizeof *report);
    if (report == NULL)
        return dd_fail_memory(err, sizeof *report);
    status = dd_dataset_import(&import, path, report, err);
    if (status == DD_OK)
        status = record(daemon, name, relative, path, report->bad_total, call->cancel, err);
    else
        add_bad_rows(report, &problem->faults);
    free(report);
    if (status != DD_OK) {
        struct dd_error ignored; /* the next start removes it again */
        (void)!dd_tree_remove(path, &ignored);
    }
    return status;
}

enum dd_status dd_dataset_create_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                    struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    const char *name = dd_api_param(call, "name");
    if (name == NULL || !dd_name_valid(name)) {
        dd_faults_add(&problem->faults, "/name", "must be a name of a-z, 0-9, '.', '_' and '-'");
        return dd_fail(err, DD_INVALID, "name_invalid", "the data set needs a name");
    }
    struct dd_asset asset;
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, name, &asset, err);
    if (status == DD_OK) {
        dd_asset_release(&asset);
        return dd_fail(err, DD_CONFLICT, "name_taken", "there is a data set \"%s\" already", name);
    }
    if (status != DD_NOT_FOUND)
        return status;
    status = import_dataset(daemon, call, name, problem);
    if (status != DD_OK)
        return status;
    status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, name, &asset, err);
    if (status != DD_OK)
        return status;
    result->json = asset_json(&asset);
    result->http_status = 201;
    snprintf(result->location, sizeof result->location, "/api/v1/datasets/%s", name);
    dd_asset_release(&asset);
    return DD_OK;
}

/* --- reading --------------------------------------------------------------------------------------------------------
 */

enum dd_status dd_dataset_list_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_asset *items;
    size_t count;
    DD_CLEANUP(dd_free_ptr) char *next = NULL;
    enum dd_status status =
        dd_storage_asset_list(daemon->storage, DD_ASSET_DATASET, dd_api_param(call, "q"), dd_api_param(call, "cursor"),
                              (int)dd_api_param_int(call, "limit", 50), &items, &count, &next, &problem->error);
    if (status != DD_OK)
        return status;
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "items");
    for (size_t i = 0; i < count; i++)
        cJSON_AddItemToArray(list, asset_json(&items[i]));
    dd_assets_free(items, count);
    if (next != NULL)
        snprintf(result->next_cursor, sizeof result->next_cursor, "%s", next);
    return DD_OK;
}

enum dd_status dd_dataset_get_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                 struct dd_problem *problem) {
    struct dd_asset asset;
    enum dd_status status = get_asset(context, call->name, &asset, &problem->error);
    if (status != DD_OK)
        return status;
    result->json = asset_json(&asset);
    dd_asset_release(&asset);
    return DD_OK;
}

static bool contains(const char *text, size_t bytes, const char *wanted) {
    return text != NULL && memmem(text, bytes, wanted, strlen(wanted)) != NULL;
}

static int class_index(const struct dd_dataset *dataset, const char *label) {
    for (int c = 0; c < dd_dataset_classes(dataset); c++)
        if (strcmp(dd_dataset_class(dataset, c), label) == 0)
            return c;
    return -1;
}

/* NULL when out of memory. */
static cJSON *row_json(const struct dd_dataset *dataset, uint64_t index, const struct dd_row *row) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "index", (double)index);
    if (!dd_put_bytes(json, "text", row->text, row->text_bytes) ||
        (dd_dataset_has_pairs(dataset) && !dd_put_bytes(json, "pair", row->pair, row->pair_bytes))) {
        cJSON_Delete(json);
        return NULL;
    }
    dd_put_text(json, "label", row->label >= 0 ? dd_dataset_class(dataset, row->label) : NULL);
    return json;
}

static enum dd_status list_rows(const struct dd_dataset *dataset, const struct dd_api_call *call,
                                struct dd_api_result *result, struct dd_problem *problem) {
    enum dd_split split = DD_SPLIT_TRAIN;
    const char *split_name = dd_api_param(call, "split"), *label = dd_api_param(call, "label");
    const char *q = dd_api_param(call, "q"), *cursor = dd_api_param(call, "cursor");
    if (split_name != NULL && !dd_split_parse(split_name, &split)) {
        dd_faults_add(&problem->faults, "/split", "must be train, dev, test or unlabelled");
        return dd_fail(&problem->error, DD_INVALID, "parameter_invalid", "there is no split \"%s\"", split_name);
    }
    int class = -1;
    if (label != NULL && (class = class_index(dataset, label)) < 0) {
        dd_faults_add(&problem->faults, "/label", "is not a class of the data set");
        return dd_fail(&problem->error, DD_INVALID, "parameter_invalid", "there is no class \"%s\"", label);
    }
    char *end = NULL;
    uint64_t index = cursor != NULL ? strtoull(cursor, &end, 10) : 0, total = dd_dataset_rows(dataset, split);
    if (cursor != NULL && (cursor[0] < '0' || cursor[0] > '9' || *end != '\0'))
        return dd_fail(&problem->error, DD_INVALID, "cursor_invalid", "the cursor is not one of this list");
    int64_t limit = dd_api_param_int(call, "limit", 50), found = 0;
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "items");
    for (; index < total && found < limit && dd_cancel_requested(call->cancel) == DD_STOP_NONE; index++) {
        struct dd_row row;
        dd_dataset_row(dataset, split, index, &row);
        if ((label != NULL && row.label != class) ||
            (q != NULL && !contains(row.text, row.text_bytes, q) && !contains(row.pair, row.pair_bytes, q)))
            continue;
        cJSON *item = row_json(dataset, index, &row);
        if (item == NULL)
            return dd_fail_json(&problem->error);
        cJSON_AddItemToArray(list, item);
        found++;
    }
    if (index < total)
        snprintf(result->next_cursor, sizeof result->next_cursor, "%" PRIu64, index);
    return DD_OK;
}

enum dd_status dd_dataset_rows_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_asset asset;
    struct dd_loaded *loaded;
    enum dd_status status = get_asset(daemon, call->name, &asset, &problem->error);
    if (status != DD_OK)
        return status;
    status = dd_loaded_get(daemon, &asset, &loaded, &problem->error);
    dd_asset_release(&asset);
    if (status != DD_OK)
        return status;
    status = list_rows(loaded->dataset, call, result, problem);
    dd_loaded_put(daemon, loaded);
    return status;
}

enum dd_status dd_dataset_delete_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                    struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_asset gone;
    enum dd_status status = get_asset(daemon, call->name, &gone, &problem->error);
    if (status != DD_OK)
        return status;
    dd_asset_release(&gone);
    status = dd_storage_asset_delete(daemon->storage, DD_ASSET_DATASET, call->name, &gone, &problem->error);
    if (status != DD_OK)
        return status;
    dd_loaded_forget(daemon, DD_ASSET_DATASET, gone.id);
    char path[PATH_MAX];
    struct dd_error err;
    status = dd_asset_path(daemon, &gone, path, &err);
    if (status == DD_OK)
        status = dd_tree_remove(path, &err);
    if (status != DD_OK) /* the row is gone, so the next start removes the rest */
        dd_log(DD_LOG_WARNING, "service", "data set %s is deleted, but its files are not yet: %s", call->name,
               err.message);
    dd_asset_release(&gone);
    result->http_status = 204;
    return DD_OK;
}
