/* What a run has recorded besides its curves (service_curves.c): log, report, predictions, archive.
 * Threads: HTTP and request threads.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/daemon.h"

static enum dd_status get(struct dd_daemon *daemon, int64_t id, struct dd_experiment *ret_experiment,
                          struct dd_error *err) {
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, ret_experiment, err);
    if (status == DD_NOT_FOUND)
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "there is no experiment %" PRId64, id);
    return status;
}

static bool wants(const struct dd_api_call *call, const char *type) {
    return call->accept != NULL && strcmp(call->accept, type) == 0;
}

enum dd_status dd_experiment_log_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                    struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_experiment experiment;
    enum dd_status status = get(daemon, call->id, &experiment, &problem->error);
    if (status != DD_OK)
        return status;
    dd_experiment_release(&experiment);
    struct dd_log_row *rows = NULL;
    size_t count = 0;
    status = dd_storage_log_get(daemon->storage, call->id, dd_api_param_int(call, "after", 0),
                                (int)dd_api_param_int(call, "limit", 50), &rows, &count, &problem->error);
    if (status != DD_OK)
        return status;
    if (wants(call, "text/plain")) {
        dd_buffer_init(&result->text, 16 << 20);
        for (size_t i = 0; i < count; i++) {
            char time[DD_TIME_TEXT_BYTES];
            dd_time_format(rows[i].time_ms, time);
            dd_buffer_printf(&result->text, "%s %s %s\n", time, dd_log_level_name(rows[i].level), rows[i].message);
        }
        result->content_type = "text/plain; charset=utf-8";
        status = dd_buffer_check(&result->text, &problem->error);
    } else {
        result->json = cJSON_CreateObject();
        cJSON *list = cJSON_AddArrayToObject(result->json, "items");
        for (size_t i = 0; i < count; i++)
            cJSON_AddItemToArray(list, dd_log_json(&rows[i]));
    }
    dd_log_rows_free(rows, count);
    return status;
}

/* --- report and predictions -----------------------------------------------------------------------------------------
 */

/* What a run's predictions are judged by. */
struct reference {
    cJSON *classes; /* array of strings */
    const char **names;
    int32_t *gold;
    size_t n;
    struct dd_prediction_set teacher;
};

static void reference_release(struct reference *r) {
    cJSON_Delete(r->classes);
    free(r->names);
    free(r->gold);
    dd_prediction_set_release(&r->teacher);
}

static enum dd_status reference_get(struct dd_daemon *daemon, int64_t id, struct reference *ret_reference,
                                    struct dd_error *err) {
    struct reference r = {0};
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    enum dd_status status = dd_storage_reference_get(daemon->storage, id, &text, &r.gold, &r.n, &r.teacher, err);
    if (status == DD_NOT_FOUND)
        return dd_fail(err, DD_NOT_FOUND, "epoch_not_found", "the run has not evaluated anything yet");
    if (status != DD_OK)
        return status;
    r.classes = dd_json_of(text);
    int n = cJSON_GetArraySize(r.classes), i = 0;
    r.names = dd_calloc((size_t)n, sizeof *r.names);
    const cJSON *name;
    cJSON_ArrayForEach(name, r.classes) {
        if (r.names != NULL)
            r.names[i++] = cJSON_IsString(name) ? name->valuestring : "?";
    }
    if (r.names == NULL) {
        reference_release(&r);
        return dd_fail_memory(err, (size_t)n * sizeof *r.names);
    }
    *ret_reference = r;
    return DD_OK;
}

/* "best", "last" or a number, of a run. */
static enum dd_status parse_epoch(struct dd_daemon *daemon, int64_t id, const char *text, int *ret_epoch,
                                  struct dd_problem *problem) {
    struct dd_experiment experiment;
    enum dd_status status = get(daemon, id, &experiment, &problem->error);
    if (status != DD_OK)
        return status;
    int best = experiment.best.epoch, last = experiment.last.epoch;
    dd_experiment_release(&experiment);
    char *end = NULL;
    long number = 0;
    if (text == NULL || strcmp(text, "best") == 0)
        number = best;
    else if (strcmp(text, "last") == 0)
        number = last;
    else
        number = strtol(text, &end, 10);
    if (end != NULL && (*end != '\0' || text[0] < '0' || text[0] > '9')) {
        dd_faults_add(&problem->faults, "/epoch", "must be a number, best or last");
        return dd_fail(&problem->error, DD_INVALID, "parameter_invalid", "\"%s\" is no epoch", text);
    }
    if (number < 1 || number > INT_MAX)
        return dd_fail(&problem->error, DD_NOT_FOUND, "epoch_not_found", "the run has no such epoch yet");
    *ret_epoch = (int)number;
    return DD_OK;
}

static enum dd_status predictions_get(struct dd_daemon *daemon, int64_t id, int epoch, size_t n,
                                      struct dd_prediction_set *ret_set, struct dd_error *err) {
    struct dd_prediction_set set;
    enum dd_status status = dd_storage_predictions_get(daemon->storage, id, epoch, &set, err);
    if (status == DD_NOT_FOUND)
        return dd_fail(err, DD_NOT_FOUND, "epoch_not_found", "the run has no epoch %d", epoch);
    if (status == DD_OK && set.n != n) {
        dd_prediction_set_release(&set);
        return dd_fail(err, DD_CORRUPT, "predictions_damaged", "epoch %d has %zu predictions for %zu rows", epoch,
                       set.n, n);
    }
    if (status == DD_OK)
        *ret_set = set;
    return status;
}

static enum dd_status report_dev(struct dd_daemon *daemon, const struct dd_api_call *call, int epoch,
                                 struct dd_api_result *result, struct dd_error *err) {
    struct reference reference;
    enum dd_status status = reference_get(daemon, call->id, &reference, err);
    if (status != DD_OK)
        return status;
    struct dd_prediction_set set;
    status = predictions_get(daemon, call->id, epoch, reference.n, &set, err);
    if (status == DD_OK) {
        struct dd_report report;
        status = dd_report_compute(reference.gold, set.label, set.n, cJSON_GetArraySize(reference.classes), false,
                                   &report, err);
        if (status == DD_OK) {
            status = dd_answer_report(&report, reference.names, wants(call, "text/plain"), result, err);
            dd_report_release(&report);
        }
        dd_prediction_set_release(&set);
    }
    reference_release(&reference);
    return status;
}

/* The directory of the run's best or last model; DD_NOT_FOUND with the reason where it is not (yet) there. */
static enum dd_status model_dir(struct dd_daemon *daemon, const struct dd_experiment *e, bool best, char out[PATH_MAX],
                                struct dd_error *err) {
    char name[32], run[PATH_MAX];
    struct stat info;
    snprintf(name, sizeof name, best ? "best-%d" : "last", e->best.epoch);
    enum dd_status status = dd_run_dir(daemon, e->id, run, err);
    if (status == DD_OK)
        status = dd_path_join(out, PATH_MAX, err, run, name, NULL);
    if (status != DD_OK)
        return status;
    if (e->best.epoch > 0 && stat(out, &info) == 0)
        return DD_OK;
    if (e->best.epoch > 0 && !best)
        return dd_fail(err, DD_NOT_FOUND, "model_not_ready",
                       "the last epoch's model is there when the run has finished");
    return dd_fail(err, DD_NOT_FOUND, "model_not_ready", "the run has no model yet");
}

/* Other splits than dev are not stored: the model is asked. */
static enum dd_status report_test(struct dd_daemon *daemon, const struct dd_api_call *call, int epoch,
                                  enum dd_split split, struct dd_api_result *result, struct dd_error *err) {
    struct dd_experiment e;
    enum dd_status status = get(daemon, call->id, &e, err);
    if (status != DD_OK)
        return status;
    struct dd_asset asset = {0}, data_asset = {0};
    struct dd_loaded *model = NULL, *dataset = NULL;
    cJSON *spec = dd_json_of(e.spec_json);
    const cJSON *length = cJSON_GetObjectItemCaseSensitive(spec, "max_length");
    if (epoch != e.best.epoch || e.model_name == NULL || e.model_name[0] == '\0')
        status = dd_fail(err, DD_NOT_FOUND, "report_not_stored",
                         "a report on the %s split is made for the best epoch of a finished run", dd_split_name(split));
    if (status == DD_OK)
        status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, e.model_name, &asset, err);
    if (status == DD_OK)
        status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, e.dataset, &data_asset, err);
    if (status == DD_OK)
        status = dd_loaded_get(daemon, &asset, &model, err);
    if (status == DD_OK)
        status = dd_loaded_get(daemon, &data_asset, &dataset, err);
    struct dd_report report;
    if (status == DD_OK)
        status = dd_evaluate(model->model, daemon->pool, cJSON_IsNumber(length) ? length->valueint : 128,
                             dataset->dataset, split, call->cancel, &report, err);
    if (status == DD_OK) {
        const char **names = dd_class_names(dataset->dataset);
        status = names != NULL ? dd_answer_report(&report, names, wants(call, "text/plain"), result, err)
                               : dd_fail_memory(err, 0);
        free(names);
        dd_report_release(&report);
    }
    dd_loaded_put(daemon, dataset);
    dd_loaded_put(daemon, model);
    dd_asset_release(&asset);
    dd_asset_release(&data_asset);
    cJSON_Delete(spec);
    dd_experiment_release(&e);
    return status;
}

enum dd_status dd_experiment_report_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    const char *split_name = dd_api_param(call, "split");
    enum dd_split split = DD_SPLIT_DEV;
    if (split_name != NULL && !dd_split_parse(split_name, &split))
        return dd_fail(&problem->error, DD_INVALID, "parameter_invalid", "there is no split \"%s\"", split_name);
    int epoch;
    enum dd_status status = parse_epoch(daemon, call->id, call->epoch, &epoch, problem);
    if (status != DD_OK)
        return status;
    if (split != DD_SPLIT_DEV)
        return report_test(daemon, call, epoch, split, result, &problem->error);
    return report_dev(daemon, call, epoch, result, &problem->error);
}

/* NULL when out of memory. */
static cJSON *prediction_json(const struct reference *r, const struct dd_prediction_set *set, size_t i,
                              const struct dd_dataset *dataset) {
    int n_classes = cJSON_GetArraySize(r->classes);
    const char *names[3] = {NULL, NULL, NULL}; /* gold, student, teacher */
    const int32_t labels[3] = {r->gold[i], set->label[i], r->teacher.n == r->n ? r->teacher.label[i] : -1};
    for (int k = 0; k < 3; k++)
        if (labels[k] >= 0 && labels[k] < n_classes)
            names[k] = r->names[labels[k]];
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "index", (double)i);
    struct dd_row row = {0};
    if (dataset != NULL)
        dd_dataset_row(dataset, DD_SPLIT_DEV, i, &row);
    if (!dd_put_bytes(json, "text", row.text, row.text_bytes) ||
        (row.pair != NULL && !dd_put_bytes(json, "pair", row.pair, row.pair_bytes))) {
        cJSON_Delete(json);
        return NULL;
    }
    dd_put_text(json, "gold", names[0]);
    dd_put_text(json, "student", names[1]);
    dd_put_number(json, "student_score", (double)set->score[i]);
    dd_put_text(json, "teacher", names[2]);
    if (names[2] != NULL)
        dd_put_number(json, "teacher_score", (double)r->teacher.score[i]);
    else
        cJSON_AddNullToObject(json, "teacher_score");
    return json;
}

/* The data set as it was when the run used it, for its texts; NULL where it is gone, damaged, or another took its name.
 */
static enum dd_status texts_of(struct dd_daemon *daemon, int64_t id, size_t rows, struct dd_loaded **ret_loaded,
                               struct dd_error *err) {
    struct dd_experiment e;
    struct dd_asset asset;
    struct dd_loaded *loaded = NULL;
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, &e, err);
    if (status != DD_OK)
        return status;
    status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, e.dataset, &asset, err);
    if (status == DD_OK) {
        status = dd_loaded_get(daemon, &asset, &loaded, err);
        dd_asset_release(&asset);
    }
    dd_experiment_release(&e);
    if (status == DD_OK && dd_dataset_rows(loaded->dataset, DD_SPLIT_DEV) != rows) {
        dd_loaded_put(daemon, loaded);
        loaded = NULL;
    }
    if (status != DD_OK && status != DD_NOT_FOUND && status != DD_CORRUPT)
        return status;
    *ret_loaded = loaded;
    return DD_OK;
}

enum dd_status dd_experiment_predictions_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                            struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    const char *cursor = dd_api_param(call, "cursor");
    char *end = NULL;
    size_t first = cursor != NULL ? strtoul(cursor, &end, 10) : 0;
    if (cursor != NULL && (cursor[0] < '0' || cursor[0] > '9' || *end != '\0'))
        return dd_fail(err, DD_INVALID, "cursor_invalid", "the cursor is not one of this list");
    int epoch;
    struct reference reference;
    struct dd_prediction_set set;
    enum dd_status status = parse_epoch(daemon, call->id, dd_api_param(call, "epoch"), &epoch, problem);
    if (status == DD_OK)
        status = reference_get(daemon, call->id, &reference, err);
    if (status != DD_OK)
        return status;
    status = predictions_get(daemon, call->id, epoch, reference.n, &set, err);
    if (status != DD_OK) {
        reference_release(&reference);
        return status;
    }
    struct dd_loaded *loaded = NULL;
    status = texts_of(daemon, call->id, reference.n, &loaded, err);
    if (status != DD_OK) {
        dd_prediction_set_release(&set);
        reference_release(&reference);
        return status;
    }
    bool wrong = dd_api_param_bool(call, "wrong");
    int64_t limit = dd_api_param_int(call, "limit", 50), found = 0;
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "items");
    size_t i = first;
    for (; i < set.n && found < limit; i++) {
        if (wrong && set.label[i] == reference.gold[i])
            continue;
        cJSON *item = prediction_json(&reference, &set, i, loaded != NULL ? loaded->dataset : NULL);
        if (item == NULL) {
            status = dd_fail_json(err);
            break;
        }
        cJSON_AddItemToArray(list, item);
        found++;
    }
    while (wrong && i < set.n && set.label[i] == reference.gold[i])
        i++; /* so that the last page does not promise another */
    if (i < set.n)
        snprintf(result->next_cursor, sizeof result->next_cursor, "%zu", i);
    dd_loaded_put(daemon, loaded);
    dd_prediction_set_release(&set);
    reference_release(&reference);
    return status;
}

enum dd_status dd_experiment_archive_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                        struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_error *err = &problem->error;
    struct dd_experiment e;
    char path[PATH_MAX], name[DD_NAME_BYTES], root[DD_EXPORT_NAME_BYTES];
    enum dd_status status = get(daemon, call->id, &e, err);
    if (status != DD_OK)
        return status;
    const char *epoch = dd_api_param(call, "epoch");
    bool best = epoch == NULL || strcmp(epoch, "best") == 0;
    status = model_dir(daemon, &e, best, path, err);
    const struct dd_scores *scores = best ? &e.best : &e.last;
    if (e.model_name != NULL)
        snprintf(name, sizeof name, "%s", e.model_name);
    else
        snprintf(name, sizeof name, "exp-%" PRId64, e.id);
    dd_export_name(name, scores->epoch, scores->macro_precision, scores->macro_recall, scores->macro_f1, root);
    dd_experiment_release(&e);
    if (status != DD_OK || !dd_wants_fp16(call))
        return status == DD_OK ? dd_answer_archive(daemon, path, root, call->cancel, result, err) : status;
    struct dd_model *model = NULL;
    DD_CLEANUP(dd_free_ptr) char *card = NULL;
    status = dd_model_load(path, &model, err);
    if (status == DD_OK)
        status = dd_card_read(path, &card, err);
    if (status == DD_OK)
        status = dd_answer_model(daemon, model, card, true, root, call->cancel, result, err);
    dd_model_free(model);
    return status;
}
