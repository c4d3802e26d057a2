/* GET /compare: series of several runs side by side, the fields in which their specs differ, and whether the best of
 * them leads by more than noise. Threads: request threads.
 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define MAX_IDS 50

static const cJSON *field_of(const cJSON *spec, const char *outer, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(outer != NULL ? cJSON_GetObjectItemCaseSensitive(spec, outer) : spec, name);
}

static bool all_equal(cJSON *const *specs, size_t n, const char *outer, const char *name) {
    const cJSON *first = field_of(specs[0], outer, name);
    for (size_t i = 1; i < n; i++) {
        const cJSON *other = field_of(specs[i], outer, name);
        if ((first == NULL) != (other == NULL) || (first != NULL && !cJSON_Compare(first, other, true)))
            return false;
    }
    return true;
}

/* Each field of any of the specs, once, that is not the same in all: {"field","values":[…]}. */
static void add_differences(cJSON *list, cJSON *const *specs, size_t n, const char *outer) {
    for (size_t i = 0; i < n; i++) {
        const cJSON *field, *object = outer != NULL ? cJSON_GetObjectItemCaseSensitive(specs[i], outer) : specs[i];
        cJSON_ArrayForEach(field, object) {
            bool seen = false;
            for (size_t k = 0; k < i; k++)
                seen |= field_of(specs[k], outer, field->string) != NULL;
            if (seen)
                continue;
            if (cJSON_IsObject(field)) {
                add_differences(list, specs, n, field->string);
                continue;
            }
            if (all_equal(specs, n, outer, field->string))
                continue;
            char name[96];
            snprintf(name, sizeof name, "%s%s%s", outer != NULL ? outer : "", outer != NULL ? "." : "", field->string);
            cJSON *row = cJSON_CreateObject();
            cJSON_AddStringToObject(row, "field", name);
            cJSON *values = cJSON_AddArrayToObject(row, "values");
            for (size_t k = 0; k < n; k++) {
                const cJSON *value = field_of(specs[k], outer, field->string);
                cJSON_AddItemToArray(values, value != NULL ? cJSON_Duplicate(value, true) : cJSON_CreateNull());
            }
            cJSON_AddItemToArray(list, row);
        }
    }
}

/* What of the series is asked for. */
struct wanted {
    uint32_t columns;
    size_t max_points;
    double tau; /* of the moving averages; 0: none */
};

/* One run into the answer, its resource with its series; its record into *ret_run and its resolved spec, without what
 * merely labels it, into *ret_spec. */
static enum dd_status add_run(struct dd_daemon *daemon, int64_t id, const struct wanted *wanted, cJSON *runs,
                              struct dd_experiment *ret_run, cJSON **ret_spec, struct dd_error *err) {
    struct dd_experiment e;
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, &e, err);
    if (status == DD_NOT_FOUND)
        return dd_fail(err, DD_NOT_FOUND, "experiment_not_found", "there is no experiment %" PRId64, id);
    if (status != DD_OK)
        return status;
    struct dd_epoch_row *rows = NULL, *smooth = NULL;
    size_t count = 0;
    status = dd_storage_epochs_get(daemon->storage, id, 0, &rows, &count, err);
    if (status == DD_OK && wanted->tau > 0.0) {
        smooth = dd_rows_copy(rows, count, sizeof *rows);
        if (smooth != NULL)
            dd_epochs_smooth(smooth, count, wanted->tau);
        else
            status = dd_fail_memory(err, count * sizeof *rows);
    }
    if (status == DD_OK) {
        count = dd_epochs_reduce(rows, smooth, count, wanted->max_points);
        cJSON *run = dd_experiment_json(daemon, &e);
        cJSON_AddItemToObject(run, "series", dd_epoch_series(rows, count, wanted->columns));
        if (smooth != NULL)
            cJSON_AddItemToObject(run, "smooth",
                                  dd_epoch_series(smooth, count, wanted->columns & dd_epoch_smoothed_columns()));
        cJSON_AddItemToArray(runs, run);
        *ret_spec = dd_json_of(e.spec_json);
        static const char *const labels[] = {"name", "notes", "tags", "priority", "save_as"};
        for (size_t i = 0; i < DD_ARRAY_LEN(labels); i++)
            cJSON_DeleteItemFromObjectCaseSensitive(*ret_spec, labels[i]);
    }
    free(rows);
    free(smooth);
    if (status == DD_OK)
        *ret_run = e;
    else
        dd_experiment_release(&e);
    return status;
}

/* The baseline's lead over the others: the one asked for, else the best.  A run that is named twice counts once. */
static enum dd_status add_significance(struct dd_daemon *daemon, const struct dd_api_call *call,
                                       const struct dd_experiment *list, size_t n, cJSON *json, struct dd_error *err) {
    const char *metric = dd_api_param(call, "metric");
    bool by_accuracy = metric != NULL && strcmp(metric, "accuracy") == 0;
    int64_t wanted = dd_api_param_int(call, "baseline", 0), names[MAX_IDS];
    int group[MAX_IDS];
    size_t base = n, groups = 1;
    double top = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        double score = list[i].best.epoch == 0 ? NAN : by_accuracy ? list[i].best.accuracy : list[i].best.macro_f1;
        if (wanted == 0 ? score > top : list[i].id == wanted) {
            top = score;
            base = i;
        }
    }
    if (wanted != 0 && base == n)
        return dd_fail(err, DD_INVALID, "parameter_invalid", "baseline must be one of ids, got %" PRId64, wanted);
    cJSON *significance = NULL;
    for (size_t i = 0; i < n && base < n; i++) {
        bool seen = false;
        for (size_t k = 0; k < i; k++)
            seen |= list[k].id == list[i].id;
        group[i] = list[i].id == list[base].id ? (i == base ? 0 : -1) : seen ? -1 : (int)groups++;
        if (group[i] >= 0)
            names[group[i]] = list[i].id;
    }
    enum dd_status status = DD_OK;
    if (base < n)
        status =
            dd_significance(daemon, list, n, group, groups, names, "id", by_accuracy, call->cancel, &significance, err);
    if (status == DD_OK)
        cJSON_AddItemToObject(json, "significance", significance != NULL ? significance : cJSON_CreateNull());
    return status;
}

enum dd_status dd_compare_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                             struct dd_problem *problem) {
    struct dd_daemon *daemon = context;
    const char *ids = dd_api_param(call, "ids");
    const struct wanted wanted = {dd_epoch_columns(dd_api_param(call, "fields")),
                                  (size_t)dd_api_param_int(call, "max_points", INT_MAX),
                                  dd_api_param_number(call, "smooth", 0.0)};
    cJSON *specs[MAX_IDS] = {NULL};
    struct dd_experiment *rows = dd_calloc(MAX_IDS, sizeof *rows);
    size_t n = 0;
    cJSON *json = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(json, "ids");
    cJSON *runs = cJSON_AddArrayToObject(json, "experiments");
    enum dd_status status = rows != NULL ? DD_OK : dd_fail_memory(&problem->error, MAX_IDS * sizeof *rows);
    for (const char *p = ids; p != NULL && *p != '\0' && n < MAX_IDS && status == DD_OK;) {
        char *end;
        int64_t id = strtoll(p, &end, 10);
        if (end == p) {
            status = dd_fail(&problem->error, DD_INVALID, "parameter_invalid", "ids must be numbers with commas");
            break;
        }
        cJSON_AddItemToArray(list, cJSON_CreateNumber((double)id));
        status = add_run(daemon, id, &wanted, runs, &rows[n], &specs[n], &problem->error);
        n += status == DD_OK;
        p = end + (*end == ',');
    }
    if (status == DD_OK && n > 0)
        add_differences(cJSON_AddArrayToObject(json, "differences"), specs, n, NULL);
    /* Who names the series that it wants is a chart; resampling for it would be work that nobody reads. */
    if (dd_api_param(call, "fields") != NULL && dd_api_param(call, "baseline") == NULL)
        cJSON_AddNullToObject(json, "significance");
    else if (status == DD_OK)
        status = add_significance(daemon, call, rows, n, json, &problem->error);
    for (size_t i = 0; i < n; i++)
        cJSON_Delete(specs[i]);
    dd_experiments_free(rows, n);
    if (status == DD_OK)
        result->json = json;
    else
        cJSON_Delete(json);
    return status;
}
