/* Operations that change experiments, and their resource.
 * Threads: HTTP and request threads.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

static enum dd_status get(struct dd_daemon *daemon, int64_t id, struct dd_experiment *ret_experiment,
                          struct dd_error *err) {
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, ret_experiment, err);
    if (status == DD_NOT_FOUND)
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "there is no experiment %" PRId64, id);
    return status;
}

static enum dd_status answer(struct dd_daemon *daemon, int64_t id, int http_status, struct dd_api_result *result,
                             struct dd_error *err) {
    struct dd_experiment experiment;
    enum dd_status status = get(daemon, id, &experiment, err);
    if (status != DD_OK)
        return status;
    result->json = dd_experiment_json(daemon, &experiment);
    result->http_status = http_status;
    dd_experiment_release(&experiment);
    return result->json != NULL ? DD_OK : dd_fail_json(err);
}

enum dd_status dd_experiment_create_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    return dd_submit(context, call, call->body, dd_api_param_bool(call, "dry_run"), result, problem);
}

enum dd_status dd_experiment_get_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                    struct dd_problem *problem) {
    return answer(context, call->id, 200, result, &problem->error);
}

/* "queued,running" as a bit mask; the names were checked. */
static unsigned states_mask(const char *names) {
    unsigned mask = 0;
    for (const char *p = names; p != NULL && *p != '\0'; p += strcspn(p, ","), p += *p == ',') {
        char name[16];
        enum dd_state state;
        snprintf(name, sizeof name, "%.*s", (int)DD_MIN(strcspn(p, ","), sizeof name - 1), p);
        if (dd_state_parse(name, &state))
            mask |= 1u << state;
    }
    return mask;
}

enum dd_status dd_experiment_list_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                     struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    const struct dd_experiment_query query = {.states = states_mask(dd_api_param(call, "status")),
                                              .dataset = dd_api_param(call, "dataset"),
                                              .teacher = dd_api_param(call, "teacher"),
                                              .tag = dd_api_param(call, "tag"),
                                              .task = dd_api_param(call, "task"),
                                              .optimizer = dd_api_param(call, "optimizer"),
                                              .q = dd_api_param(call, "q"),
                                              .sweep_id = dd_api_param_int(call, "sweep", 0),
                                              .sort = dd_api_param(call, "sort"),
                                              .cursor = dd_api_param(call, "cursor"),
                                              .limit = (int)dd_api_param_int(call, "limit", 50)};
    struct dd_experiment *items;
    size_t count;
    DD_CLEANUP(dd_free_ptr) char *next = NULL;
    enum dd_status status = dd_storage_experiment_list(daemon->storage, &query, &items, &count, &next, &problem->error);
    if (status != DD_OK)
        return status;
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "items");
    for (size_t i = 0; i < count; i++)
        cJSON_AddItemToArray(list, dd_experiment_json(daemon, &items[i]));
    dd_experiments_free(items, count);
    if (next != NULL)
        snprintf(result->next_cursor, sizeof result->next_cursor, "%s", next);
    return DD_OK;
}

/* --- PATCH ----------------------------------------------------------------------------------------------------------
 */

/* The labels in the body have the rules of a spec, so a spec is what checks them. */
static enum dd_status check_labels(const cJSON *body, struct dd_problem *problem) {
    cJSON *spec = cJSON_Duplicate(body, true);
    struct dd_spec *parsed = dd_calloc(1, sizeof *parsed);
    enum dd_status status = DD_OK;
    if (spec == NULL || parsed == NULL)
        status = dd_fail_json(&problem->error);
    const cJSON *field;
    cJSON_ArrayForEach(field, body) {
        static const char *const allowed[] = {"name", "notes", "tags", "priority"};
        bool known = false;
        for (size_t i = 0; i < DD_ARRAY_LEN(allowed); i++)
            known |= strcmp(field->string, allowed[i]) == 0;
        if (known || status != DD_OK)
            continue;
        char pointer[128];
        snprintf(pointer, sizeof pointer, "/%.100s", field->string);
        dd_faults_add(&problem->faults, pointer, "cannot be changed; only name, notes, tags and priority can");
    }
    if (status == DD_OK && problem->faults.total == 0) {
        cJSON_AddStringToObject(spec, "dataset", "x");
        cJSON_AddStringToObject(spec, "teacher", "x");
        status = dd_spec_parse(spec, "", parsed, &problem->faults, &problem->error);
    }
    cJSON_Delete(spec);
    free(parsed);
    if (status == DD_OK && problem->faults.total > 0)
        status = dd_fail(&problem->error, DD_INVALID, "body_invalid", "%s: %s", problem->faults.items[0].pointer,
                         problem->faults.items[0].detail);
    return status;
}

enum dd_status dd_experiment_patch_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                      struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    enum dd_status status = check_labels(call->body, problem);
    if (status != DD_OK)
        return status;
    const cJSON *tags = cJSON_GetObjectItemCaseSensitive(call->body, "tags");
    const cJSON *priority = cJSON_GetObjectItemCaseSensitive(call->body, "priority");
    DD_CLEANUP(dd_free_ptr) char *tags_text = tags != NULL ? cJSON_PrintUnformatted(tags) : NULL;
    int number = cJSON_IsNumber(priority) ? priority->valueint : 0;
    if (tags != NULL && tags_text == NULL)
        return dd_fail_json(&problem->error);
    status = dd_storage_experiment_patch(daemon->storage, call->id,
                                         cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(call->body, "name")),
                                         cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(call->body, "notes")),
                                         tags_text, priority != NULL ? &number : NULL, &problem->error);
    if (status != DD_OK)
        return status;
    dd_publish_status(daemon, call->id);
    return answer(daemon, call->id, 200, result, &problem->error);
}

/* --- actions --------------------------------------------------------------------------------------------------------
 */

/* What would be allowed instead, for a 409. */
static enum dd_status conflict(struct dd_daemon *daemon, int64_t id, enum dd_status status,
                               struct dd_problem *problem) {
    struct dd_experiment experiment;
    struct dd_error err;
    if (status != DD_CONFLICT || dd_storage_experiment_get(daemon->storage, id, &experiment, &err) != DD_OK)
        return status;
    dd_allowed_actions(experiment.state, problem->allowed_actions);
    dd_experiment_release(&experiment);
    return status;
}

static enum dd_status act(struct dd_daemon *daemon, int64_t id, enum dd_action action, struct dd_api_result *result,
                          struct dd_problem *problem) {
    enum dd_state state;
    bool signal_worker = false;
    enum dd_status status = dd_storage_act(daemon->storage, id, action, &state, &signal_worker, &problem->error);
    if (status != DD_OK)
        return conflict(daemon, id, status, problem);
    if (signal_worker)
        dd_workers_signal(daemon->workers, id, action == DD_ACTION_CANCEL ? DD_STOP_CANCEL : DD_STOP_PAUSE);
    dd_workers_wake(daemon->workers); /* it is in the queue, or its sweep has one run less to wait for */
    dd_publish_status(daemon, id);
    return answer(daemon, id, 202, result, &problem->error);
}

enum dd_status dd_experiment_cancel_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    return act(context, call->id, DD_ACTION_CANCEL, result, problem);
}

enum dd_status dd_experiment_pause_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                      struct dd_problem *problem) {
    return act(context, call->id, DD_ACTION_PAUSE, result, problem);
}

enum dd_status dd_experiment_resume_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    return act(context, call->id, DD_ACTION_RESUME, result, problem);
}

enum dd_status dd_experiment_retry_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                      struct dd_problem *problem) {
    return act(context, call->id, DD_ACTION_RETRY, result, problem);
}

enum dd_status dd_experiment_clone_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                      struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_experiment experiment;
    enum dd_status status = get(daemon, call->id, &experiment, &problem->error);
    if (status != DD_OK)
        return status;
    cJSON *body = dd_clone_body(&experiment, call->body);
    dd_experiment_release(&experiment);
    if (body == NULL)
        return dd_fail_json(&problem->error);
    status = dd_submit(daemon, call, body, false, result, problem);
    cJSON_Delete(body);
    return status;
}

enum dd_status dd_experiment_delete_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                       struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    enum dd_status status = dd_storage_experiment_delete(daemon->storage, call->id, &problem->error);
    if (status != DD_OK)
        return conflict(daemon, call->id, status, problem);
    char path[PATH_MAX];
    struct dd_error err;
    status = dd_run_dir(daemon, call->id, path, &err);
    if (status == DD_OK)
        status = dd_tree_remove(path, &err);
    if (status != DD_OK) /* the row is gone, so the next start removes the rest */
        dd_log(DD_LOG_WARNING, "service", "experiment %" PRId64 " is deleted, but its files are not yet: %s", call->id,
               err.message);
    dd_workers_wake(daemon->workers); /* as above */
    cJSON *event = cJSON_CreateObject();
    cJSON_AddNumberToObject(event, "id", (double)call->id);
    cJSON_AddStringToObject(event, "status", "deleted");
    dd_publish(daemon, "status", call->id, event);
    result->http_status = 204;
    return DD_OK;
}
