/* Is the lead of a run, or of a point's runs, more than noise?  The paired bootstrap of the engine over the dev rows,
 * with the predictions that storage keeps of every run's best epoch.
 *
 * What it says: had the dev rows been others of the same kind, would the lead still be there.  It knows nothing of how
 * the same spec fares with another seed, but for the mean over the runs of a group; the sweep's standard error does.
 * The intervals are of one pair each, not corrected for the number of pairs.
 *
 * Threads: request threads.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define RESAMPLES 1000
#define CONFIDENCE 0.95
#define SEED 1
#define MAX_WORK 5e8 /* rows · runs · resamples: about a second */

/* What is compared: the gold labels and classes of the baseline, and the predictions of all runs that share them. */
struct table {
    char *classes_json;
    int32_t *gold;
    size_t n;
    struct dd_prediction_set *sets; /* [count] of the runs; n 0: not comparable */
    size_t *members;                /* run indices, group by group */
    size_t *first;                  /* [n_groups + 1] in members */
};

static void table_release(struct table *t, size_t count) {
    for (size_t i = 0; t->sets != NULL && i < count; i++)
        dd_prediction_set_release(&t->sets[i]);
    free(t->classes_json);
    free(t->gold);
    free(t->sets);
    free(t->members);
    free(t->first);
}

/* The run's predictions, when its dev rows are those of the table; the first run gives the table its rows. */
static enum dd_status add_run(struct dd_daemon *daemon, const struct dd_experiment *run, struct table *t,
                              struct dd_prediction_set *set, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *classes = NULL;
    DD_CLEANUP(dd_free_ptr) int32_t *gold = NULL;
    struct dd_prediction_set teacher = {0};
    size_t n = 0;
    if (run->best.epoch == 0)
        return DD_OK;
    enum dd_status status = dd_storage_reference_get(daemon->storage, run->id, &classes, &gold, &n, &teacher, err);
    dd_prediction_set_release(&teacher);
    if (status == DD_OK)
        status = dd_storage_predictions_get(daemon->storage, run->id, run->best.epoch, set, err);
    if (status == DD_NOT_FOUND) /* deleted or thinned out meanwhile */
        return DD_OK;
    if (status != DD_OK)
        return status;
    if (t->gold == NULL) {
        t->classes_json = classes;
        t->gold = gold;
        t->n = n;
        classes = NULL;
        gold = NULL;
    } else if (n != t->n || strcmp(classes, t->classes_json) != 0 || memcmp(gold, t->gold, n * sizeof *gold) != 0) {
        dd_prediction_set_release(set);
    }
    if (set->n != t->n)
        dd_prediction_set_release(set);
    return DD_OK;
}

/* Baseline first, so that its rows are the table's; then the groups in the order given, while the work is bearable. */
static enum dd_status fill(struct dd_daemon *daemon, const struct dd_experiment *runs, size_t count, const int *group,
                           size_t n_groups, struct table *t, struct dd_error *err) {
    size_t used = 0;
    t->sets = dd_calloc(count, sizeof *t->sets);
    t->members = dd_calloc(count, sizeof *t->members);
    t->first = dd_calloc(n_groups + 1, sizeof *t->first);
    if (t->sets == NULL || t->members == NULL || t->first == NULL)
        return dd_fail_memory(err, count * sizeof *t->sets);
    for (size_t g = 0; g < n_groups; g++) {
        t->first[g] = used;
        for (size_t i = 0; i < count; i++) {
            bool bearable = (double)(used + 1) * (double)t->n * RESAMPLES <= MAX_WORK || g < 2;
            if (group[i] != (int)g || !bearable)
                continue;
            enum dd_status status = add_run(daemon, &runs[i], t, &t->sets[i], err);
            if (status != DD_OK)
                return status;
            if (t->sets[i].n > 0)
                t->members[used++] = i;
        }
    }
    t->first[n_groups] = used;
    return DD_OK;
}

static cJSON *row_json(const char *key, int64_t name, const struct dd_interval *lead) {
    cJSON *row = cJSON_CreateObject();
    cJSON_AddNumberToObject(row, key, (double)name);
    if (lead != NULL) {
        cJSON_AddNumberToObject(row, "difference", lead->difference);
        cJSON_AddNumberToObject(row, "low", lead->low);
        cJSON_AddNumberToObject(row, "high", lead->high);
        cJSON_AddBoolToObject(row, "within_noise", lead->low <= 0 && lead->high >= 0);
    } else {
        cJSON_AddNullToObject(row, "difference");
        cJSON_AddNullToObject(row, "low");
        cJSON_AddNullToObject(row, "high");
        cJSON_AddNullToObject(row, "within_noise");
    }
    return row;
}

static enum dd_status compare(const struct table *t, size_t n_groups, const int64_t *names, const char *key,
                              bool by_accuracy, const struct dd_cancel *cancel, cJSON *others, struct dd_error *err) {
    size_t n_runs = t->first[n_groups], stride = RESAMPLES + 1;
    cJSON *classes = dd_json_of(t->classes_json);
    int n_classes = cJSON_GetArraySize(classes);
    cJSON_Delete(classes);
    DD_CLEANUP(dd_free_ptr) const int32_t **predicted = dd_calloc(n_runs, sizeof *predicted);
    DD_CLEANUP(dd_free_ptr) size_t *rows = dd_calloc(n_runs, sizeof *rows);
    DD_CLEANUP(dd_free_ptr) double *scores = dd_calloc(n_runs * stride, sizeof *scores);
    DD_CLEANUP(dd_free_ptr) double *scratch = dd_calloc(RESAMPLES, sizeof *scratch);
    if (predicted == NULL || rows == NULL || scores == NULL || scratch == NULL)
        return dd_fail_memory(err, n_runs * stride * sizeof *scores);
    for (size_t i = 0; i < n_runs; i++) {
        predicted[i] = t->sets[t->members[i]].label;
        rows[i] = i;
    }
    enum dd_status status = dd_bootstrap_scores(t->gold, t->n, n_classes, predicted, n_runs, by_accuracy, RESAMPLES,
                                                SEED, cancel, scores, err);
    for (size_t g = 1; g < n_groups && status == DD_OK; g++) {
        size_t n = t->first[g + 1] - t->first[g];
        struct dd_interval lead;
        if (n > 0)
            lead = dd_bootstrap_difference(scores, RESAMPLES, rows, t->first[1], rows + t->first[g], n, CONFIDENCE,
                                           scratch);
        cJSON_AddItemToArray(others, row_json(key, names[g], n > 0 ? &lead : NULL));
    }
    return status;
}

enum dd_status dd_significance(struct dd_daemon *daemon, const struct dd_experiment *runs, size_t count,
                               const int *group, size_t n_groups, const int64_t *names, const char *key,
                               bool by_accuracy, const struct dd_cancel *cancel, cJSON **ret_json,
                               struct dd_error *err) {
    struct table t = {0};
    cJSON *json = NULL;
    enum dd_status status = fill(daemon, runs, count, group, n_groups, &t, err);
    if (status == DD_OK && t.first[1] == 0) { /* the baseline has nothing to compare with */
        json = cJSON_CreateNull();
    } else if (status == DD_OK) {
        json = cJSON_CreateObject();
        cJSON_AddStringToObject(json, "test", "paired bootstrap over dev rows");
        cJSON_AddStringToObject(json, "metric", by_accuracy ? "accuracy" : "macro_f1");
        cJSON_AddNumberToObject(json, "resamples", RESAMPLES);
        cJSON_AddNumberToObject(json, "confidence", CONFIDENCE);
        cJSON_AddNumberToObject(json, "rows", (double)t.n);
        cJSON_AddNumberToObject(json, "baseline", (double)names[0]);
        status = compare(&t, n_groups, names, key, by_accuracy, cancel, cJSON_AddArrayToObject(json, "others"), err);
    }
    table_release(&t, count);
    if (status == DD_OK && json == NULL)
        status = dd_fail_json(err);
    if (status == DD_OK)
        *ret_json = json;
    else
        cJSON_Delete(json);
    return status;
}
