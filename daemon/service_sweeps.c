/* Operations on sweeps: many experiments submitted as one.
 * Threads: request threads.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

static cJSON *progress_json(const int64_t counts[DD_STATE_COUNT]) {
    cJSON *json = cJSON_CreateObject();
    int64_t total = 0;
    for (int i = 0; i < DD_STATE_COUNT; i++) {
        total += counts[i];
        cJSON_AddNumberToObject(json, dd_state_name((enum dd_state)i), (double)counts[i]);
    }
    cJSON_AddNumberToObject(json, "total", (double)total);
    return json;
}

/* What list and get share; the plan without its points is part of it. */
static cJSON *sweep_json(const struct dd_sweep *sweep, const cJSON *plan, const int64_t counts[DD_STATE_COUNT]) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "id", (double)sweep->id);
    cJSON_AddStringToObject(json, "name", sweep->name != NULL ? sweep->name : "");
    bool moving = counts[DD_QUEUED] + counts[DD_RUNNING] + counts[DD_PAUSED] > 0;
    cJSON_AddStringToObject(json, "status", moving ? "running" : sweep->cancelled ? "cancelled" : "finished");
    dd_put_time(json, "created_at", sweep->created_ms);
    cJSON_AddItemToObject(json, "base", dd_json_of(sweep->base_json));
    const cJSON *field;
    cJSON_ArrayForEach(field, plan) {
        if (strcmp(field->string, "points") != 0)
            cJSON_AddItemToObject(json, field->string, cJSON_Duplicate(field, true));
    }
    cJSON_AddNumberToObject(json, "points_total", cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(plan, "points")));
    cJSON_AddItemToObject(json, "progress", progress_json(counts));
    return json;
}

/* What it has cost so far, against all runs to their end. */
static void put_cost(cJSON *json, const struct dd_experiment *runs, size_t count) {
    int64_t done = 0, whole = 0;
    for (size_t i = 0; i < count; i++) {
        done += runs[i].epochs_done;
        whole += runs[i].epochs;
    }
    cJSON_AddNumberToObject(json, "epochs_done", (double)done);
    cJSON_AddNumberToObject(json, "epochs_total", (double)whole);
}

static enum dd_status put_rungs(struct dd_daemon *daemon, int64_t id, cJSON *asha, struct dd_error *err) {
    struct dd_asha_rung rungs[DD_ASHA_MAX_RUNGS];
    size_t count = 0;
    enum dd_status status = dd_storage_asha_rungs(daemon->storage, id, rungs, DD_ARRAY_LEN(rungs), &count, err);
    cJSON *list = cJSON_AddArrayToObject(asha, "rungs");
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        cJSON *rung = cJSON_CreateObject();
        cJSON_AddNumberToObject(rung, "rung", rungs[i].rung);
        cJSON_AddNumberToObject(rung, "epoch", rungs[i].epoch);
        cJSON_AddNumberToObject(rung, "points", rungs[i].points);
        cJSON_AddNumberToObject(rung, "promoted", rungs[i].promoted);
        cJSON_AddItemToArray(list, rung);
    }
    return status;
}

/* The best point's lead over every other, once the sweep stands still: while it runs, the best changes with every
 * epoch, and the time is better spent on training. */
static enum dd_status put_significance(struct dd_daemon *daemon, const struct dd_experiment *runs, size_t count,
                                       bool by_accuracy, const struct dd_cancel *cancel, cJSON *json,
                                       struct dd_error *err) {
    const cJSON *best = cJSON_GetObjectItemCaseSensitive(json, "best");
    const char *state = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "status"));
    cJSON *significance = NULL;
    if (!cJSON_IsObject(best) || strcmp(state, "running") == 0) {
        cJSON_AddNullToObject(json, "significance");
        return DD_OK;
    }
    size_t n = (size_t)cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "points"));
    DD_CLEANUP(dd_free_ptr) int *group = dd_calloc(count, sizeof *group);
    DD_CLEANUP(dd_free_ptr) int *order = dd_calloc(n, sizeof *order);
    DD_CLEANUP(dd_free_ptr) int64_t *names = dd_calloc(n, sizeof *names);
    if (group == NULL || order == NULL || names == NULL)
        return dd_fail_memory(err, count * sizeof *group);
    dd_sweep_ranking(json, by_accuracy ? "accuracy" : "macro_f1", names, n);
    for (size_t g = 0; g < n; g++)
        order[names[g]] = (int)g;
    for (size_t i = 0; i < count; i++)
        group[i] = runs[i].sweep_point >= 0 && (size_t)runs[i].sweep_point < n ? order[runs[i].sweep_point] : -1;
    enum dd_status status =
        dd_significance(daemon, runs, count, group, n, names, "point", by_accuracy, cancel, &significance, err);
    if (status == DD_OK)
        cJSON_AddItemToObject(json, "significance", significance);
    return status;
}

static enum dd_status answer(struct dd_daemon *daemon, int64_t id, const struct dd_api_call *call, cJSON **ret_json,
                             struct dd_error *err) {
    const char *metric = dd_api_param(call, "metric");
    DD_CLEANUP(dd_sweep_release) struct dd_sweep sweep = {0};
    DD_CLEANUP(dd_free_ptr) char *next = NULL;
    struct dd_experiment *runs = NULL;
    size_t count = 0;
    const struct dd_experiment_query query = {.sweep_id = id, .sort = "id", .limit = DD_SWEEP_MAX_RUNS};
    enum dd_status status = dd_storage_sweep_get(daemon->storage, id, &sweep, err);
    if (status == DD_OK)
        status = dd_storage_experiment_list(daemon->storage, &query, &runs, &count, &next, err);
    if (status != DD_OK)
        return status;
    int64_t counts[DD_STATE_COUNT] = {0};
    for (size_t i = 0; i < count; i++)
        counts[runs[i].state]++;
    cJSON *plan = dd_json_of(sweep.plan_json), *json = sweep_json(&sweep, plan, counts);
    dd_sweep_table(json, plan, runs, count, metric != NULL ? metric : "macro_f1");
    cJSON_Delete(plan);
    put_cost(json, runs, count);
    if (sweep.asha.min_epochs > 0)
        status = put_rungs(daemon, id, cJSON_GetObjectItemCaseSensitive(json, "asha"), err);
    if (status == DD_OK)
        status = put_significance(daemon, runs, count, metric != NULL && strcmp(metric, "accuracy") == 0, call->cancel,
                                  json, err);
    dd_experiments_free(runs, count);
    if (status == DD_OK && json == NULL)
        status = dd_fail_json(err);
    if (status == DD_OK)
        *ret_json = json;
    else
        cJSON_Delete(json);
    return status;
}

/* --- creating -------------------------------------------------------------------------------------------------------
 */

static bool told(const struct dd_faults *faults, const char *pointer, const char *detail) {
    for (size_t i = 0; i < faults->count; i++)
        if (strcmp(faults->items[i].pointer, pointer) == 0 && strcmp(faults->items[i].detail, detail) == 0)
            return true;
    return false;
}

/* The faults of one point, where they lie in the request; each once, however many points have it. */
static void tell_faults(const struct dd_sweep_plan *plan, const cJSON *body, size_t point,
                        const struct dd_faults *of_point, struct dd_faults *faults) {
    for (size_t i = 0; i < of_point->count; i++) {
        char pointer[128];
        dd_sweep_pointer(plan, body, point, of_point->items[i].pointer, pointer, sizeof pointer);
        if (!told(faults, pointer, of_point->items[i].detail))
            dd_faults_add(faults, pointer, "%s", of_point->items[i].detail);
    }
}

/* Rungs need runs of one length, and one of them before its end. */
static void check_rungs(const struct dd_sweep_plan *plan, const struct dd_experiment *rows, size_t n,
                        struct dd_faults *faults) {
    if (plan->asha.min_epochs == 0)
        return;
    for (size_t i = 1; i < n; i++)
        if (rows[i].epochs != rows[0].epochs) {
            dd_faults_add(faults, "/asha", "needs runs of the same epochs; point 0 has %d and point %d has %d",
                          rows[0].epochs, rows[i].sweep_point, rows[i].epochs);
            return;
        }
    if (plan->asha.min_epochs >= rows[0].epochs)
        dd_faults_add(faults, "/asha/min_epochs", "must be less than the runs' %d epochs, got %d", rows[0].epochs,
                      plan->asha.min_epochs);
}

/* Every run of the plan as a row.  All faults of all points are found before anything is refused. */
static enum dd_status resolve_all(struct dd_daemon *daemon, const struct dd_sweep_plan *plan,
                                  const struct dd_api_call *call, struct dd_experiment *rows, size_t n,
                                  double *ret_seconds, struct dd_problem *problem) {
    const cJSON *body;
    size_t i = 0;
    assert(rows != NULL);
    *ret_seconds = 0;
    cJSON_ArrayForEach(body, plan->bodies) {
        struct dd_faults faults;
        struct dd_train_estimate estimate;
        if (i >= n || dd_cancel_requested(call->cancel) != DD_STOP_NONE)
            break;
        dd_faults_init(&faults);
        enum dd_status status = dd_submit_resolve(daemon, body, &rows[i], &estimate, &faults, &problem->error);
        if (status == DD_INVALID && faults.total == 0) /* too much memory */
            dd_faults_add(&faults, "", "%s", problem->error.message);
        tell_faults(plan, call->body, i / plan->seeds, &faults, &problem->faults);
        dd_faults_release(&faults);
        if (status != DD_OK && status != DD_INVALID)
            return status;
        if (status == DD_OK) {
            rows[i].sweep_point = (int)(i / plan->seeds);
            *ret_seconds += estimate.seconds;
        }
        i++;
    }
    if (problem->faults.total == 0 && i == n)
        check_rungs(plan, rows, n, &problem->faults);
    if (problem->faults.total > 0)
        return dd_fail(&problem->error, DD_INVALID, "spec_invalid", "%s: %s%s", problem->faults.items[0].pointer,
                       problem->faults.items[0].detail, problem->faults.total > 1 ? " (and more, see errors)" : "");
    return i == n ? DD_OK : dd_fail(&problem->error, DD_STOPPED, "stopping", "the request was given up");
}

/* The sweep as it would be: no id, nothing queued. */
static enum dd_status answer_dry(const struct dd_sweep *sweep, const struct dd_sweep_plan *plan,
                                 const struct dd_experiment *rows, size_t n, double seconds,
                                 struct dd_api_result *result, struct dd_error *err) {
    int64_t counts[DD_STATE_COUNT] = {0};
    cJSON *json = sweep_json(sweep, plan->json, counts);
    dd_sweep_table(json, plan->json, rows, 0, "macro_f1");
    cJSON_AddNumberToObject(json, "runs", (double)n);
    cJSON_AddNumberToObject(json, "seconds", seconds);
    result->json = json;
    return json != NULL ? DD_OK : dd_fail_json(err);
}

static enum dd_status queue(struct dd_daemon *daemon, const struct dd_api_call *call, const struct dd_sweep *sweep,
                            const struct dd_experiment *rows, size_t n, struct dd_api_result *result,
                            struct dd_error *err) {
    int64_t id = 0, first = 0;
    enum dd_status status = dd_storage_sweep_insert(daemon->storage, sweep, rows, n, &id, &first, err);
    if (status != DD_OK)
        return status;
    dd_workers_wake(daemon->workers);
    for (size_t i = 0; i < n; i++)
        dd_publish_status(daemon, first + (int64_t)i);
    dd_log(DD_LOG_INFO, "service", "sweep %" PRId64 ": %zu runs queued", id, n);
    snprintf(result->location, sizeof result->location, "/api/v1/sweeps/%" PRId64, id);
    result->http_status = 201;
    return answer(daemon, id, call, &result->json, err);
}

enum dd_status dd_sweep_create_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_sweep_plan plan;
    enum dd_status status = dd_sweep_plan(call->body, &plan, &problem->faults, &problem->error);
    if (status != DD_OK)
        return status;
    size_t n = plan.points * plan.seeds;
    double seconds = 0;
    struct dd_experiment *rows = dd_calloc(n, sizeof *rows);
    struct dd_sweep sweep = {.name = plan.name,
                             .asha = plan.asha,
                             .claim = {call->idempotency_key, call->idempotency_hash},
                             .base_json = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(call->body, "base")),
                             .plan_json = cJSON_PrintUnformatted(plan.json)};
    if (rows == NULL || sweep.base_json == NULL || sweep.plan_json == NULL)
        status = dd_fail_json(&problem->error);
    if (status == DD_OK)
        status = resolve_all(daemon, &plan, call, rows, n, &seconds, problem);
    if (status == DD_OK && dd_api_param_bool(call, "dry_run"))
        status = answer_dry(&sweep, &plan, rows, n, seconds, result, &problem->error);
    else if (status == DD_OK)
        status = queue(daemon, call, &sweep, rows, n, result, &problem->error);
    dd_experiments_free(rows, n);
    free(sweep.base_json);
    free(sweep.plan_json);
    dd_sweep_plan_release(&plan);
    return status;
}

/* --- reading and cancelling -----------------------------------------------------------------------------------------
 */

enum dd_status dd_sweep_list_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    struct dd_sweep *items;
    size_t count;
    DD_CLEANUP(dd_free_ptr) char *next = NULL;
    enum dd_status status =
        dd_storage_sweep_list(daemon->storage, dd_api_param(call, "cursor"), (int)dd_api_param_int(call, "limit", 50),
                              &items, &count, &next, &problem->error);
    if (status != DD_OK)
        return status;
    cJSON *json = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(json, "items");
    for (size_t i = 0; i < count && status == DD_OK; i++) {
        int64_t counts[DD_STATE_COUNT];
        status = dd_storage_sweep_counts(daemon->storage, items[i].id, counts, &problem->error);
        cJSON *plan = dd_json_of(items[i].plan_json);
        if (status == DD_OK)
            cJSON_AddItemToArray(list, sweep_json(&items[i], plan, counts));
        cJSON_Delete(plan);
    }
    dd_sweeps_free(items, count);
    if (status != DD_OK) {
        cJSON_Delete(json);
        return status;
    }
    result->json = json;
    if (next != NULL)
        snprintf(result->next_cursor, sizeof result->next_cursor, "%s", next);
    return DD_OK;
}

enum dd_status dd_sweep_get_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                               struct dd_problem *problem) {
    cJSON *json = NULL;
    enum dd_status status = answer(context, call->id, call, &json, &problem->error);
    if (status != DD_OK)
        return status;
    const char *format = dd_api_param(call, "format");
    if (format != NULL ? strcmp(format, "csv") == 0 : call->accept != NULL && strcmp(call->accept, "text/csv") == 0) {
        dd_buffer_init(&result->text, 16 << 20);
        dd_sweep_csv(json, &result->text);
        result->content_type = "text/csv; charset=utf-8";
        status = dd_buffer_check(&result->text, &problem->error);
        cJSON_Delete(json);
    } else {
        result->json = json;
    }
    return status;
}

enum dd_status dd_sweep_cancel_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                  struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    DD_CLEANUP(dd_free_ptr) int64_t *ids = NULL;
    size_t count = 0;
    enum dd_status status = dd_storage_sweep_cancel(daemon->storage, call->id, &ids, &count, &problem->error);
    if (status != DD_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        dd_workers_signal(daemon->workers, ids[i], DD_STOP_CANCEL);
        dd_publish_status(daemon, ids[i]);
    }
    result->http_status = 202;
    return answer(daemon, call->id, call, &result->json, &problem->error);
}
