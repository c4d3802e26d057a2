/* Records of storage as the JSON of the API: the same for GETs and for events.
 * Threads: any.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

enum dd_status dd_fail_json(struct dd_error *err) {
    return dd_fail_memory(err, 0);
}

void dd_put_number(cJSON *object, const char *name, double value) {
    if (isfinite(value))
        cJSON_AddNumberToObject(object, name, value);
    else
        cJSON_AddNullToObject(object, name);
}

void dd_put_text(cJSON *object, const char *name, const char *text) {
    if (text != NULL)
        cJSON_AddStringToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

bool dd_put_bytes(cJSON *object, const char *name, const char *text, size_t bytes) {
    DD_CLEANUP(dd_free_ptr) char *copy = text != NULL ? dd_strndup(text, bytes) : NULL;
    if (text != NULL && copy == NULL)
        return false;
    dd_put_text(object, name, copy);
    return true;
}

void dd_put_time(cJSON *object, const char *name, int64_t wall_ms) {
    char text[DD_TIME_TEXT_BYTES];
    if (wall_ms > 0)
        dd_time_format(wall_ms, text);
    dd_put_text(object, name, wall_ms > 0 ? text : NULL);
}

cJSON *dd_json_of(const char *text) {
    cJSON *json = text != NULL ? cJSON_Parse(text) : NULL;
    return json != NULL ? json : cJSON_CreateObject();
}

void dd_allowed_actions(enum dd_state state, char out[128]) {
    unsigned mask = dd_state_allowed_actions(state);
    out[0] = '\0';
    for (int i = 0; i < DD_ACTION_COUNT; i++)
        if ((mask & (1u << i)) != 0) {
            strcat(out, dd_action_name((enum dd_action)i));
            strcat(out, ",");
        }
    strcat(out, state == DD_RUNNING ? "clone" : "clone,delete");
}

static void put_actions(cJSON *object, enum dd_state state) {
    char text[128];
    dd_allowed_actions(state, text);
    cJSON *list = cJSON_AddArrayToObject(object, "allowed_actions");
    for (char *next = text, *item; (item = strsep(&next, ",")) != NULL;)
        cJSON_AddItemToArray(list, cJSON_CreateString(item));
}

/* null until there is an epoch; the teacher's scores have no epoch and no losses. */
static void put_scores(cJSON *object, const char *name, const struct dd_scores *scores, bool teacher) {
    if (teacher ? !isfinite(scores->accuracy) || scores->accuracy < 0 : scores->epoch == 0) {
        cJSON_AddNullToObject(object, name);
        return;
    }
    cJSON *json = cJSON_AddObjectToObject(object, name);
    if (!teacher)
        cJSON_AddNumberToObject(json, "epoch", scores->epoch);
    dd_put_number(json, "accuracy", scores->accuracy);
    dd_put_number(json, "macro_precision", scores->macro_precision);
    dd_put_number(json, "macro_recall", scores->macro_recall);
    dd_put_number(json, "macro_f1", scores->macro_f1);
    dd_put_number(json, "weighted_f1", scores->weighted_f1);
    if (!teacher) {
        dd_put_number(json, "dev_loss", scores->dev_loss);
        dd_put_number(json, "train_loss", scores->train_loss);
    }
}

static double share(double part, double whole) {
    return whole > 0 ? part / whole : NAN;
}

static void put_retention(cJSON *object, const struct dd_experiment *e) {
    if (e->best.epoch == 0 || !(e->teacher_scores.accuracy > 0)) {
        cJSON_AddNullToObject(object, "retention");
        return;
    }
    cJSON *json = cJSON_AddObjectToObject(object, "retention");
    dd_put_number(json, "accuracy", share(e->best.accuracy, e->teacher_scores.accuracy));
    dd_put_number(json, "macro_f1", share(e->best.macro_f1, e->teacher_scores.macro_f1));
}

static void put_progress(cJSON *object, struct dd_daemon *daemon, const struct dd_experiment *e) {
    cJSON *json = cJSON_AddObjectToObject(object, "progress");
    struct dd_progress live = {.known = false};
    if (e->state == DD_RUNNING && daemon->workers != NULL)
        dd_workers_progress(daemon->workers, e->id, &live);
    bool stepped = live.known && live.step.step > 0;
    cJSON_AddNumberToObject(json, "epoch", e->epochs_done);
    cJSON_AddNumberToObject(json, "epochs", e->epochs);
    cJSON_AddNumberToObject(json, "step", (double)(stepped ? live.step.step : e->steps_done));
    cJSON_AddNumberToObject(json, "steps", (double)(stepped ? live.step.steps : e->steps));
    bool running = e->state == DD_RUNNING;
    dd_put_number(json, "eta_seconds", stepped ? live.step.eta_seconds : running ? e->eta_seconds : NAN);
    dd_put_number(json, "tokens_per_second", stepped ? live.step.tokens_per_second : e->tokens_per_second);
    dd_put_number(json, "elapsed_seconds", stepped ? live.step.elapsed_seconds : e->elapsed_seconds);
    dd_put_text(json, "phase", live.known ? live.phase : running ? e->phase : NULL);
    dd_put_number(json, "phase_done", live.known ? live.phase_done : NAN);
    cJSON_AddBoolToObject(json, "stopped_early", e->state == DD_FINISHED && e->epochs_done < e->epochs);
}

/* The spec as it was resolved, with the labels as they are now. */
static cJSON *spec_json(const struct dd_experiment *e) {
    cJSON *spec = dd_json_of(e->spec_json);
    cJSON *tags = e->tags_json != NULL ? cJSON_Parse(e->tags_json) : NULL;
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "name");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "notes");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "tags");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "priority");
    cJSON_AddStringToObject(spec, "name", e->name != NULL ? e->name : "");
    cJSON_AddStringToObject(spec, "notes", e->notes != NULL ? e->notes : "");
    cJSON_AddItemToObject(spec, "tags", tags != NULL ? tags : cJSON_CreateArray());
    cJSON_AddNumberToObject(spec, "priority", e->priority);
    return spec;
}

static void put_model(cJSON *object, const struct dd_experiment *e) {
    if (e->model_name == NULL || e->model_name[0] == '\0') {
        cJSON_AddNullToObject(object, "model");
        return;
    }
    cJSON *json = cJSON_AddObjectToObject(object, "model");
    cJSON_AddStringToObject(json, "name", e->model_name);
    cJSON_AddNumberToObject(json, "parameters", (double)e->model_parameters);
    cJSON_AddNumberToObject(json, "bytes", (double)e->model_bytes);
}

cJSON *dd_experiment_json(struct dd_daemon *daemon, const struct dd_experiment *e) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "id", (double)e->id);
    cJSON_AddStringToObject(json, "name", e->name != NULL ? e->name : "");
    cJSON_AddStringToObject(json, "status", dd_state_name(e->state));
    cJSON *spec = spec_json(e);
    cJSON_AddItemToObject(json, "tags", cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(spec, "tags"), true));
    cJSON_AddStringToObject(json, "notes", e->notes != NULL ? e->notes : "");
    cJSON_AddNumberToObject(json, "priority", e->priority);
    cJSON_AddItemToObject(json, "spec", spec);
    cJSON_AddStringToObject(json, "spec_hash", e->spec_hash);
    dd_put_time(json, "created_at", e->created_ms);
    dd_put_time(json, "started_at", e->started_ms);
    dd_put_time(json, "finished_at", e->finished_ms);
    put_progress(json, daemon, e);
    put_scores(json, "best", &e->best, false);
    put_scores(json, "last", &e->last, false);
    put_scores(json, "teacher", &e->teacher_scores, true);
    put_retention(json, e);
    put_model(json, e);
    if (e->error_code != NULL && e->error_code[0] != '\0') {
        cJSON *error = cJSON_AddObjectToObject(json, "error");
        cJSON_AddStringToObject(error, "code", e->error_code);
        dd_put_text(error, "message", e->error_message);
    } else {
        cJSON_AddNullToObject(json, "error");
    }
    cJSON_AddNumberToObject(json, "attempts", e->attempts);
    cJSON_AddNumberToObject(json, "revision", (double)e->revision);
    if (e->sweep_id > 0)
        cJSON_AddNumberToObject(json, "sweep_id", (double)e->sweep_id);
    else
        cJSON_AddNullToObject(json, "sweep_id");
    dd_put_text(json, "stopped", e->state == DD_PAUSED || e->state == DD_CANCELLED ? e->stopped : NULL);
    cJSON_AddBoolToObject(json, "pause_requested", e->state == DD_RUNNING && e->pause_requested);
    cJSON_AddBoolToObject(json, "cancel_requested", e->state == DD_RUNNING && e->cancel_requested);
    put_actions(json, e->state);
    return json;
}

cJSON *dd_step_json(const struct dd_step_row *row) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "step", (double)row->step);
    cJSON_AddNumberToObject(json, "epoch", row->epoch);
    dd_put_number(json, "loss", row->loss);
    dd_put_number(json, "kl", row->kl);
    dd_put_number(json, "ce", row->ce);
    dd_put_number(json, "lr", row->lr);
    dd_put_number(json, "grad_norm", row->grad_norm);
    dd_put_number(json, "elapsed_seconds", row->elapsed_seconds);
    dd_put_number(json, "tokens_per_second", row->tokens_per_second);
    return json;
}

cJSON *dd_step_smooth_json(const struct dd_step_row *row) {
    cJSON *json = cJSON_CreateObject();
    dd_put_number(json, "loss", row->loss);
    dd_put_number(json, "kl", row->kl);
    dd_put_number(json, "ce", row->ce);
    dd_put_number(json, "grad_norm", row->grad_norm);
    return json;
}

cJSON *dd_log_json(const struct dd_log_row *row) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "seq", (double)row->seq);
    dd_put_time(json, "time", row->time_ms);
    cJSON_AddStringToObject(json, "level", dd_log_level_name(row->level));
    dd_put_text(json, "message", row->message);
    return json;
}

static cJSON *report_row_json(const struct dd_report_row *row) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "precision", row->precision);
    cJSON_AddNumberToObject(json, "recall", row->recall);
    cJSON_AddNumberToObject(json, "f1-score", row->f1);
    cJSON_AddNumberToObject(json, "support", (double)row->support);
    return json;
}

/* As a Python dict: what comes later under the same key (a class called "accuracy") replaces what was there. */
static void put_over(cJSON *object, const char *name, cJSON *value) {
    if (cJSON_HasObjectItem(object, name))
        cJSON_DeleteItemFromObjectCaseSensitive(object, name);
    cJSON_AddItemToObject(object, name, value);
}

cJSON *dd_report_json(const struct dd_report *report, const char *const *class_names) {
    cJSON *json = cJSON_CreateObject();
    for (int i = 0; i < report->n_classes; i++)
        put_over(json, class_names[report->class_index[i]], report_row_json(&report->rows[i]));
    if (report->micro_avg) {
        const struct dd_report_row micro = {report->accuracy, report->accuracy, report->accuracy, report->support};
        put_over(json, "micro avg", report_row_json(&micro));
    } else {
        put_over(json, "accuracy", cJSON_CreateNumber(report->accuracy));
    }
    put_over(json, "macro avg", report_row_json(&report->macro));
    put_over(json, "weighted avg", report_row_json(&report->weighted));
    cJSON *matrix = cJSON_CreateArray(), *labels = cJSON_CreateArray();
    for (int i = 0; i < report->n_classes; i++) {
        cJSON_AddItemToArray(labels, cJSON_CreateString(class_names[report->class_index[i]]));
        cJSON *row = cJSON_CreateArray();
        for (int j = 0; j < report->n_classes; j++)
            cJSON_AddItemToArray(row, cJSON_CreateNumber((double)report->confusion[i * report->n_classes + j]));
        cJSON_AddItemToArray(matrix, row);
    }
    put_over(json, "confusion_matrix", matrix);
    put_over(json, "labels", labels);
    return json;
}

void dd_publish(struct dd_daemon *daemon, const char *type, int64_t experiment_id, cJSON *data) {
    struct dd_api *api = atomic_load(&daemon->api);
    daemon->told += strcmp(type, "step") != 0;
    if (api != NULL && data != NULL) {
        cJSON_AddNumberToObject(data, "experiment_id", (double)experiment_id);
        DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(data, false);
        if (text != NULL)
            dd_api_publish(api, type, experiment_id, text);
    }
    cJSON_Delete(data);
}

void dd_publish_status(struct dd_daemon *daemon, int64_t experiment_id) {
    struct dd_experiment experiment;
    struct dd_error err;
    if (dd_storage_experiment_get(daemon->storage, experiment_id, &experiment, &err) != DD_OK)
        return;
    dd_publish(daemon, "status", experiment_id, dd_experiment_json(daemon, &experiment));
    dd_experiment_release(&experiment);
}

void dd_publish_epoch(struct dd_daemon *daemon, int64_t experiment_id, const struct dd_epoch_row *row) {
    struct dd_experiment experiment;
    struct dd_error err;
    cJSON *data = dd_epoch_json(row, row->is_best);
    if (dd_storage_experiment_get(daemon->storage, experiment_id, &experiment, &err) == DD_OK) {
        put_progress(data, daemon, &experiment);
        put_scores(data, "best", &experiment.best, false);
        put_retention(data, &experiment);
        cJSON_AddNumberToObject(data, "revision", (double)experiment.revision);
        dd_experiment_release(&experiment);
    }
    dd_publish(daemon, "epoch", experiment_id, data);
}
