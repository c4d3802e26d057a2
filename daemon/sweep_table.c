/* What came of a sweep: one row a point with mean and spread over its seeds, and the best point.
 *
 * Scores are those of each run's best epoch.  std is the sample standard deviation (n - 1), unknown for one run.  The
 * runner-up is within noise of the best when the difference of their means is at most twice its standard error,
 * sqrt(s1²/n1 + s2²/n2): so many seeds cannot tell the two apart.
 *
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define ERRORS_APART 2.0

struct spread {
    int n;
    double mean, m2, min, max; /* m2: sum of squared distances from the mean (Welford) */
};

static void spread_add(struct spread *s, double value) {
    if (!isfinite(value))
        return;
    s->min = s->n == 0 ? value : fmin(s->min, value);
    s->max = s->n == 0 ? value : fmax(s->max, value);
    s->n++;
    double before = value - s->mean;
    s->mean += before / s->n;
    s->m2 += before * (value - s->mean);
}

static double spread_std(const struct spread *s) {
    return s->n > 1 ? sqrt(s->m2 / (s->n - 1)) : NAN;
}

static void put_spread(cJSON *row, const char *name, const struct spread *s) {
    cJSON *json = cJSON_AddObjectToObject(row, name);
    dd_put_number(json, "mean", s->n > 0 ? s->mean : NAN);
    dd_put_number(json, "min", s->n > 0 ? s->min : NAN);
    dd_put_number(json, "max", s->n > 0 ? s->max : NAN);
    dd_put_number(json, "std", spread_std(s));
}

/* One row; the spread of what is to be best into *ret_spread. */
static cJSON *point_json(int point, const cJSON *values, const struct dd_experiment *runs, size_t count,
                         bool by_accuracy, struct spread *ret_spread) {
    struct spread f1 = {0}, accuracy = {0}, retention = {0}, seconds = {0};
    cJSON *row = cJSON_CreateObject(), *ids = cJSON_CreateArray(), *states = cJSON_CreateObject();
    int per_state[DD_STATE_COUNT] = {0}, epochs_done = 0;
    const char *stopped = NULL;
    for (size_t i = 0; i < count; i++) {
        const struct dd_experiment *e = &runs[i];
        if (e->sweep_point != point)
            continue;
        cJSON_AddItemToArray(ids, cJSON_CreateNumber((double)e->id));
        per_state[e->state]++;
        epochs_done += e->epochs_done;
        if (e->stopped != NULL && (e->state == DD_PAUSED || e->state == DD_CANCELLED))
            stopped = e->stopped;
        if (e->best.epoch == 0)
            continue;
        spread_add(&f1, e->best.macro_f1);
        spread_add(&accuracy, e->best.accuracy);
        spread_add(&retention, e->best.macro_f1 / e->teacher_scores.macro_f1);
        spread_add(&seconds, e->elapsed_seconds);
    }
    for (int s = 0; s < DD_STATE_COUNT; s++)
        if (per_state[s] > 0)
            cJSON_AddNumberToObject(states, dd_state_name((enum dd_state)s), per_state[s]);
    cJSON_AddNumberToObject(row, "point", point);
    cJSON_AddItemToObject(row, "values", cJSON_Duplicate(values, true));
    cJSON_AddItemToObject(row, "experiments", ids);
    cJSON_AddItemToObject(row, "states", states);
    cJSON_AddNumberToObject(row, "epochs_done", epochs_done);
    dd_put_text(row, "stopped", stopped);
    *ret_spread = by_accuracy ? accuracy : f1;
    cJSON_AddNumberToObject(row, "n", ret_spread->n);
    put_spread(row, "macro_f1", &f1);
    put_spread(row, "accuracy", &accuracy);
    dd_put_number(row, "retention", retention.n > 0 ? retention.mean : NAN);
    dd_put_number(row, "seconds", seconds.n > 0 ? seconds.mean : NAN);
    return row;
}

static void put_best(cJSON *json, const cJSON *points, const struct spread *spreads, size_t n, const char *metric) {
    int best = -1, second = -1;
    for (size_t i = 0; i < n; i++) {
        if (spreads[i].n == 0)
            continue;
        if (best < 0 || spreads[i].mean > spreads[best].mean) {
            second = best;
            best = (int)i;
        } else if (second < 0 || spreads[i].mean > spreads[second].mean) {
            second = (int)i;
        }
    }
    if (best < 0) {
        cJSON_AddNullToObject(json, "best");
        return;
    }
    cJSON *row = cJSON_AddObjectToObject(json, "best");
    cJSON_AddNumberToObject(row, "point", best);
    cJSON_AddItemToObject(row, "values", cJSON_Duplicate(cJSON_GetArrayItem(points, best), true));
    cJSON_AddStringToObject(row, "metric", metric);
    cJSON_AddNumberToObject(row, "score", spreads[best].mean);
    double difference = second >= 0 ? spreads[best].mean - spreads[second].mean : NAN, error = NAN;
    if (second >= 0) {
        const struct spread *a = &spreads[best], *b = &spreads[second];
        error = sqrt(pow(spread_std(a), 2) / a->n + pow(spread_std(b), 2) / b->n);
        cJSON_AddNumberToObject(row, "runner_up", second);
    } else {
        cJSON_AddNullToObject(row, "runner_up");
    }
    dd_put_number(row, "difference", difference);
    dd_put_number(row, "standard_error", error);
    if (isfinite(error))
        cJSON_AddBoolToObject(row, "within_noise", difference <= ERRORS_APART * error);
    else
        cJSON_AddNullToObject(row, "within_noise");
    cJSON_AddStringToObject(row, "within_noise_test", "two standard errors over the seeds");
}

void dd_sweep_table(cJSON *json, const cJSON *plan, const struct dd_experiment *runs, size_t count,
                    const char *metric) {
    const cJSON *points = cJSON_GetObjectItemCaseSensitive(plan, "points"), *values;
    size_t n = (size_t)cJSON_GetArraySize(points);
    struct spread *spreads = dd_calloc(n, sizeof *spreads);
    cJSON *list = cJSON_AddArrayToObject(json, "points");
    int point = 0;
    cJSON_ArrayForEach(values, points) {
        if (spreads == NULL)
            break;
        cJSON_AddItemToArray(list,
                             point_json(point, values, runs, count, strcmp(metric, "accuracy") == 0, &spreads[point]));
        point++;
    }
    put_best(json, points, spreads, spreads != NULL ? n : 0, metric);
    free(spreads);
}

struct rank {
    double mean;
    int64_t point;
};

static int better_first(const void *a, const void *b) {
    const struct rank *x = a, *y = b;
    if (x->mean != y->mean)
        return x->mean < y->mean ? 1 : -1;
    return (x->point > y->point) - (x->point < y->point);
}

void dd_sweep_ranking(const cJSON *json, const char *metric, int64_t *ret_points, size_t n) {
    struct rank *ranks = dd_calloc(n, sizeof *ranks);
    const cJSON *row;
    size_t i = 0;
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(json, "points")) {
        const cJSON *mean = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(row, metric), "mean");
        if (ranks != NULL && i < n)
            ranks[i] = (struct rank){cJSON_IsNumber(mean) ? mean->valuedouble : -INFINITY, (int64_t)i};
        if (i < n)
            ret_points[i] = (int64_t)i;
        i++;
    }
    if (ranks != NULL)
        qsort(ranks, n, sizeof *ranks, better_first);
    for (i = 0; ranks != NULL && i < n; i++)
        ret_points[i] = ranks[i].point;
    free(ranks);
}

/* --- CSV ------------------------------------------------------------------------------------------------------------
 */

static void put_cell(struct dd_buffer *out, const cJSON *value) {
    DD_CLEANUP(dd_free_ptr)
    char *text = cJSON_IsString(value) ? dd_strdup(value->valuestring) : cJSON_PrintUnformatted(value);
    if (text == NULL || cJSON_IsNull(value))
        return;
    if (strpbrk(text, ",\"\r\n") == NULL) {
        dd_buffer_puts(out, text);
        return;
    }
    dd_buffer_putc(out, '"');
    for (const char *p = text; *p != '\0'; p++) {
        dd_buffer_puts(out, *p == '"' ? "\"" : "");
        dd_buffer_putc(out, *p);
    }
    dd_buffer_putc(out, '"');
}

void dd_sweep_csv(const cJSON *json, struct dd_buffer *out) {
    static const char *const scores[] = {"macro_f1", "accuracy"}, *const parts[] = {"mean", "min", "max", "std"};
    const cJSON *axes = cJSON_GetObjectItemCaseSensitive(json, "axes"), *axis, *row;
    dd_buffer_puts(out, "point");
    cJSON_ArrayForEach(axis, axes) {
        dd_buffer_putc(out, ',');
        put_cell(out, axis);
    }
    dd_buffer_puts(out, ",n");
    for (size_t s = 0; s < DD_ARRAY_LEN(scores); s++)
        for (size_t p = 0; p < DD_ARRAY_LEN(parts); p++)
            dd_buffer_printf(out, ",%s_%s", scores[s], parts[p]);
    dd_buffer_puts(out, ",retention,seconds\n");
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(json, "points")) {
        put_cell(out, cJSON_GetObjectItemCaseSensitive(row, "point"));
        cJSON_ArrayForEach(axis, axes) {
            dd_buffer_putc(out, ',');
            put_cell(out, cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(row, "values"),
                                                           axis->valuestring));
        }
        dd_buffer_putc(out, ',');
        put_cell(out, cJSON_GetObjectItemCaseSensitive(row, "n"));
        for (size_t s = 0; s < DD_ARRAY_LEN(scores); s++)
            for (size_t p = 0; p < DD_ARRAY_LEN(parts); p++) {
                dd_buffer_putc(out, ',');
                put_cell(out,
                         cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(row, scores[s]), parts[p]));
            }
        dd_buffer_putc(out, ',');
        put_cell(out, cJSON_GetObjectItemCaseSensitive(row, "retention"));
        dd_buffer_putc(out, ',');
        put_cell(out, cJSON_GetObjectItemCaseSensitive(row, "seconds"));
        dd_buffer_putc(out, '\n');
    }
}
