/* The curves of a run: its epochs and its steps, reduced and smoothed for a chart where that is asked for.
 * Threads: HTTP thread.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

static enum dd_status best_epoch(struct dd_daemon *daemon, int64_t id, int *ret_epoch, struct dd_error *err) {
    struct dd_experiment experiment;
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, &experiment, err);
    if (status == DD_NOT_FOUND)
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "there is no experiment %" PRId64, id);
    if (status != DD_OK)
        return status;
    *ret_epoch = experiment.best.epoch;
    dd_experiment_release(&experiment);
    return DD_OK;
}

static bool wants_csv(const struct dd_api_call *call) {
    const char *format = dd_api_param(call, "format");
    return format != NULL ? strcmp(format, "csv") == 0 : call->accept != NULL && strcmp(call->accept, "text/csv") == 0;
}

/* The epochs of a run with their smoothed selves (NULL where not asked for). */
struct epochs {
    struct dd_epoch_row *rows, *smooth;
    size_t first, count; /* those asked for: rows[first … first + count) */
};
static void epochs_release(struct epochs *epochs) {
    free(epochs->rows);
    free(epochs->smooth);
}

static enum dd_status read_epochs(struct dd_daemon *daemon, const struct dd_api_call *call, struct epochs *ret,
                                  struct dd_error *err) {
    int64_t after = dd_api_param_int(call, "after", 0), before = dd_api_param_int(call, "before", INT_MAX);
    double tau = dd_api_param_number(call, "smooth", 0.0);
    size_t n = 0;
    /* What lies before the range weighs in its averages. */
    enum dd_status status =
        dd_storage_epochs_get(daemon->storage, call->id, tau > 0.0 ? 0 : (int)after, &ret->rows, &n, err);
    if (status != DD_OK)
        return status;
    if (tau > 0.0) {
        ret->smooth = dd_rows_copy(ret->rows, n, sizeof *ret->rows);
        if (ret->smooth == NULL)
            return dd_fail_memory(err, n * sizeof *ret->rows);
        dd_epochs_smooth(ret->smooth, n, tau);
    }
    while (ret->first < n && ret->rows[ret->first].epoch <= after)
        ret->first++;
    while (n > ret->first && ret->rows[n - 1].epoch > before)
        n--;
    ret->count = n - ret->first;
    return DD_OK;
}

enum dd_status dd_experiment_metrics_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                        struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    int best = 0;
    DD_CLEANUP(epochs_release) struct epochs epochs = {0};
    enum dd_status status = best_epoch(daemon, call->id, &best, &problem->error);
    if (status == DD_OK)
        status = read_epochs(daemon, call, &epochs, &problem->error);
    if (status != DD_OK)
        return status;
    struct dd_epoch_row *rows = epochs.rows + epochs.first;
    if (wants_csv(call)) {
        dd_buffer_init(&result->text, 16 << 20);
        dd_epoch_csv_head(&result->text);
        for (size_t i = 0; i < epochs.count; i++)
            dd_epoch_csv(&rows[i], rows[i].epoch == best, &result->text);
        result->content_type = "text/csv; charset=utf-8";
        return dd_buffer_check(&result->text, &problem->error);
    }
    struct dd_epoch_row *smooth = epochs.smooth != NULL ? epochs.smooth + epochs.first : NULL;
    size_t kept = dd_epochs_reduce(rows, smooth, epochs.count, (size_t)dd_api_param_int(call, "max_points", INT_MAX));
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "epochs");
    for (size_t i = 0; i < kept; i++) {
        cJSON *epoch = dd_epoch_json(&rows[i], rows[i].epoch == best);
        if (smooth != NULL)
            cJSON_AddItemToObject(epoch, "smooth", dd_epoch_smooth_json(&smooth[i]));
        cJSON_AddItemToArray(list, epoch);
    }
    cJSON_AddBoolToObject(result->json, "reduced", kept < epochs.count);
    return DD_OK;
}

/* The same of its steps. */
struct steps {
    struct dd_step_row *rows, *smooth;
    size_t first, count;
};
static void steps_release(struct steps *steps) {
    free(steps->rows);
    free(steps->smooth);
}

static enum dd_status read_steps(struct dd_daemon *daemon, const struct dd_api_call *call, struct steps *ret,
                                 struct dd_error *err) {
    int64_t after = dd_api_param_int(call, "after", 0);
    double tau = dd_api_param_number(call, "smooth", 0.0);
    size_t n = 0;
    enum dd_status status = dd_storage_steps_get(daemon->storage, call->id, tau > 0.0 ? 0 : after,
                                                 dd_api_param_int(call, "before", INT64_MAX), &ret->rows, &n, err);
    if (status != DD_OK)
        return status;
    if (tau > 0.0) {
        ret->smooth = dd_rows_copy(ret->rows, n, sizeof *ret->rows);
        if (ret->smooth == NULL)
            return dd_fail_memory(err, n * sizeof *ret->rows);
        dd_steps_smooth(ret->smooth, n, tau);
    }
    while (ret->first < n && ret->rows[ret->first].step <= after)
        ret->first++;
    ret->count = n - ret->first;
    return DD_OK;
}

enum dd_status dd_experiment_steps_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                      struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    int best = 0;
    DD_CLEANUP(steps_release) struct steps steps = {0};
    enum dd_status status = best_epoch(daemon, call->id, &best, &problem->error); /* whether the run is there */
    if (status == DD_OK)
        status = read_steps(daemon, call, &steps, &problem->error);
    if (status != DD_OK)
        return status;
    struct dd_step_row *rows = steps.rows + steps.first;
    struct dd_step_row *smooth = steps.smooth != NULL ? steps.smooth + steps.first : NULL;
    size_t kept = dd_steps_reduce(rows, smooth, steps.count, (size_t)dd_api_param_int(call, "max_points", 1500));
    result->json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(result->json, "steps");
    for (size_t i = 0; i < kept; i++) {
        cJSON *step = dd_step_json(&rows[i]);
        if (smooth != NULL)
            cJSON_AddItemToObject(step, "smooth", dd_step_smooth_json(&smooth[i]));
        cJSON_AddItemToArray(list, step);
    }
    cJSON_AddNumberToObject(result->json, "recorded", (double)steps.count);
    cJSON_AddBoolToObject(result->json, "reduced", kept < steps.count);
    return DD_OK;
}
