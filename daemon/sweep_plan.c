/* A request for a sweep becomes its points: {"name","base":{spec},"grid":{"T":[1,2]},"seeds":[1,2]} or
 * "random":{"T":{"min":1,"max":8,"scale":"log"}},"count":30,"seed":1.
 *
 * An axis names a field of the spec, nested ones with a dot ("optimizer.lr").  Grid points are ordered as an odometer:
 * the last axis turns fastest.  Random points are drawn axis by axis from SplitMix64 started with the sweep's own seed,
 * so the same request gives the same points on every machine (but for the last digit of exp and log); no point comes
 * twice.  Every point is then combined with every seed.  "asha":{"min_epochs","eta","metric"} stops hopeless points
 * (storage/asha.c).
 *
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define MAX_AXES 8
#define MAX_VALUES 100
#define MAX_SEEDS 100
#define NAME_MAX_BYTES 200
#define MAX_SAFE_INTEGER 9007199254740991.0
#define ASHA_MAX_EPOCHS 100000
#define ASHA_MAX_ETA 100
#define DRAWS_A_POINT 50 /* before giving up on finding another point */

static bool is_whole(const cJSON *item, double least, double most) {
    return cJSON_IsNumber(item) && item->valuedouble >= least && item->valuedouble <= most &&
           floor(item->valuedouble) == item->valuedouble;
}

/* --- checks ---------------------------------------------------------------------------------------------------------
 */

static void check_known(const cJSON *body, struct dd_faults *faults) {
    static const char *const known[] = {"name", "base", "grid", "random", "count", "seed", "seeds", "asha"};
    const cJSON *field;
    cJSON_ArrayForEach(field, body) {
        int best = INT_MAX;
        const char *near = NULL;
        bool found = false;
        for (size_t i = 0; i < DD_ARRAY_LEN(known); i++) {
            found |= strcmp(field->string, known[i]) == 0;
            if (dd_near_miss(field->string, known[i], &best))
                near = known[i];
        }
        char pointer[128];
        snprintf(pointer, sizeof pointer, "/%.100s", field->string);
        if (!found && near != NULL)
            dd_faults_add(faults, pointer, "is no field of a sweep; did you mean \"%s\"?", near);
        else if (!found)
            dd_faults_add(faults, pointer,
                          "is no field of a sweep: name, base, grid, random, count, seed, seeds, asha are");
    }
}

/* The schema of the field that an axis names; NULL when the spec has no such field. */
static const cJSON *field_schema(const cJSON *schema, const char *axis) {
    const cJSON *properties = cJSON_GetObjectItemCaseSensitive(schema, "properties"), *choice;
    if (strncmp(axis, "optimizer.", 10) != 0)
        return cJSON_GetObjectItemCaseSensitive(properties, axis);
    const cJSON *optimizer = cJSON_GetObjectItemCaseSensitive(properties, "optimizer");
    cJSON_ArrayForEach(choice, cJSON_GetObjectItemCaseSensitive(optimizer, "oneOf")) {
        const cJSON *settings = cJSON_GetObjectItemCaseSensitive(choice, "properties");
        if (settings != NULL)
            return cJSON_GetObjectItemCaseSensitive(settings, axis + 10);
    }
    return NULL;
}

static bool is_label(const char *name) {
    static const char *const labels[] = {"name", "notes", "tags", "priority", "save_as"};
    for (size_t i = 0; i < DD_ARRAY_LEN(labels); i++)
        if (strcmp(name, labels[i]) == 0)
            return true;
    return false;
}

static void check_values(const char *pointer, const cJSON *values, struct dd_faults *faults) {
    int n = cJSON_GetArraySize(values), i = 0;
    if (n < 1 || n > MAX_VALUES)
        dd_faults_add(faults, pointer, "must have between 1 and %d values, got %d", MAX_VALUES, n);
    const cJSON *value;
    cJSON_ArrayForEach(value, values) {
        char at[128];
        snprintf(at, sizeof at, "%.110s/%d", pointer, i++);
        if (cJSON_IsNull(value))
            dd_faults_add(faults, at, "must not be null");
        for (const cJSON *other = values->child; other != value && n <= MAX_VALUES; other = other->next)
            if (cJSON_Compare(other, value, true)) {
                dd_faults_add(faults, at, "is there already");
                break;
            }
    }
}

static void check_range(const char *pointer, const cJSON *range, struct dd_faults *faults) {
    const cJSON *least = cJSON_GetObjectItemCaseSensitive(range, "min");
    const cJSON *most = cJSON_GetObjectItemCaseSensitive(range, "max");
    const cJSON *scale = cJSON_GetObjectItemCaseSensitive(range, "scale"), *field;
    bool log_scale = cJSON_IsString(scale) && strcmp(scale->valuestring, "log") == 0;
    cJSON_ArrayForEach(field, range) {
        if (strcmp(field->string, "min") != 0 && strcmp(field->string, "max") != 0 &&
            strcmp(field->string, "scale") != 0)
            dd_faults_add(faults, pointer, "\"%.60s\" is no field of a range: min, max and scale are", field->string);
    }
    if (!cJSON_IsNumber(least) || !cJSON_IsNumber(most))
        dd_faults_add(faults, pointer, "a range needs the numbers min and max");
    else if (!(least->valuedouble < most->valuedouble))
        dd_faults_add(faults, pointer, "min must be less than max");
    else if (log_scale && least->valuedouble <= 0)
        dd_faults_add(faults, pointer, "on a log scale min must be greater than 0");
    if (scale != NULL && !log_scale && !(cJSON_IsString(scale) && strcmp(scale->valuestring, "linear") == 0))
        dd_faults_add(faults, pointer, "scale must be linear or log");
}

static void check_axes(const cJSON *axes, bool random, bool has_seeds, struct dd_faults *faults) {
    const char *outer = random ? "/random" : "/grid";
    int n = cJSON_GetArraySize(axes);
    if (!cJSON_IsObject(axes) || n < 1 || n > MAX_AXES) {
        dd_faults_add(faults, outer, "must be an object with between 1 and %d fields of a spec", MAX_AXES);
        return;
    }
    cJSON *schema = dd_spec_schema();
    const cJSON *axis;
    cJSON_ArrayForEach(axis, axes) {
        char pointer[128];
        snprintf(pointer, sizeof pointer, "%s/%.100s", outer, axis->string);
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(field_schema(schema, axis->string), "type");
        if (field_schema(schema, axis->string) == NULL)
            dd_faults_add(faults, pointer, "is no field of a spec");
        else if (is_label(axis->string))
            dd_faults_add(faults, pointer, "does not decide the result, so there is nothing to compare");
        else if (has_seeds && strcmp(axis->string, "seed") == 0)
            dd_faults_add(faults, pointer, "is given by seeds; leave one of the two out");
        if (cJSON_IsArray(axis))
            check_values(pointer, axis, faults);
        else if (!random)
            dd_faults_add(faults, pointer, "must be an array of values");
        else if (!cJSON_IsObject(axis))
            dd_faults_add(faults, pointer, "must be an array of values or {\"min\",\"max\",\"scale\"}");
        else if (cJSON_IsString(type) && strcmp(type->valuestring, "number") != 0 &&
                 strcmp(type->valuestring, "integer") != 0)
            dd_faults_add(faults, pointer, "is no number, so it needs a list of values");
        else
            check_range(pointer, axis, faults);
    }
    cJSON_Delete(schema);
}

/* {"min_epochs","eta","metric"}; its defaults settled in *ret_asha. */
static void check_asha(const cJSON *body, struct dd_asha *ret_asha, struct dd_faults *faults) {
    const cJSON *asha = cJSON_GetObjectItemCaseSensitive(body, "asha"), *field;
    *ret_asha = (struct dd_asha){.min_epochs = 1, .eta = 3};
    if (!cJSON_IsObject(asha)) {
        dd_faults_add(faults, "/asha", "must be an object of min_epochs, eta and metric; {} takes 1, 3 and macro_f1");
        return;
    }
    cJSON_ArrayForEach(field, asha) {
        char pointer[128];
        snprintf(pointer, sizeof pointer, "/asha/%.100s", field->string);
        bool accuracy = cJSON_IsString(field) && strcmp(field->valuestring, "accuracy") == 0;
        if (strcmp(field->string, "min_epochs") == 0) {
            if (is_whole(field, 1, ASHA_MAX_EPOCHS))
                ret_asha->min_epochs = field->valueint;
            else
                dd_faults_add(faults, pointer, "must be a whole number between 1 and %d", ASHA_MAX_EPOCHS);
        } else if (strcmp(field->string, "eta") == 0) {
            if (is_whole(field, 2, ASHA_MAX_ETA))
                ret_asha->eta = field->valueint;
            else
                dd_faults_add(faults, pointer, "must be a whole number between 2 and %d", ASHA_MAX_ETA);
        } else if (strcmp(field->string, "metric") == 0) {
            ret_asha->by_accuracy = accuracy;
            if (!accuracy && !(cJSON_IsString(field) && strcmp(field->valuestring, "macro_f1") == 0))
                dd_faults_add(faults, pointer, "must be \"macro_f1\" or \"accuracy\"");
        } else {
            dd_faults_add(faults, pointer, "is no field of asha: min_epochs, eta and metric are");
        }
    }
    for (int i = 0; i < 2; i++)
        if (cJSON_HasObjectItem(cJSON_GetObjectItemCaseSensitive(body, i == 0 ? "grid" : "random"), "epochs"))
            dd_faults_add(faults, i == 0 ? "/grid/epochs" : "/random/epochs",
                          "cannot be an axis beside asha, which compares runs of the same epochs");
}

static void check_frame(const cJSON *body, struct dd_faults *faults) {
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(body, "name");
    const cJSON *base = cJSON_GetObjectItemCaseSensitive(body, "base");
    const cJSON *grid = cJSON_GetObjectItemCaseSensitive(body, "grid");
    const cJSON *random = cJSON_GetObjectItemCaseSensitive(body, "random");
    const cJSON *count = cJSON_GetObjectItemCaseSensitive(body, "count");
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(body, "seed");
    const cJSON *seeds = cJSON_GetObjectItemCaseSensitive(body, "seeds"), *item;
    check_known(body, faults);
    if (name != NULL && (!cJSON_IsString(name) || strlen(name->valuestring) > NAME_MAX_BYTES))
        dd_faults_add(faults, "/name", "must be text of at most %d bytes", NAME_MAX_BYTES);
    if (!cJSON_IsObject(base))
        dd_faults_add(faults, "/base", "must be an object: the fields of a spec that all points share");
    if (cJSON_GetObjectItemCaseSensitive(base, "save_as") != NULL)
        dd_faults_add(faults, "/base/save_as", "cannot be given: every run of a sweep makes a model of its own");
    if ((grid == NULL) == (random == NULL))
        dd_faults_add(faults, "/grid", "give either grid or random");
    else
        check_axes(grid != NULL ? grid : random, random != NULL, seeds != NULL, faults);
    if (random != NULL && !is_whole(count, 1, DD_SWEEP_MAX_RUNS))
        dd_faults_add(faults, "/count", "random needs count, a whole number between 1 and %d", DD_SWEEP_MAX_RUNS);
    if (random == NULL && count != NULL)
        dd_faults_add(faults, "/count", "belongs to random");
    if (random == NULL && seed != NULL)
        dd_faults_add(faults, "/seed", "belongs to random; seeds is the list of the runs' seeds");
    else if (seed != NULL && !is_whole(seed, 0, MAX_SAFE_INTEGER))
        dd_faults_add(faults, "/seed", "must be a whole number between 0 and 2^53 - 1");
    if (seeds == NULL)
        return;
    if (!cJSON_IsArray(seeds))
        dd_faults_add(faults, "/seeds", "must be an array of whole numbers");
    else if (cJSON_GetArraySize(seeds) < 1 || cJSON_GetArraySize(seeds) > MAX_SEEDS)
        dd_faults_add(faults, "/seeds", "must have between 1 and %d seeds", MAX_SEEDS);
    int i = 0;
    cJSON_ArrayForEach(item, seeds) {
        char pointer[32];
        snprintf(pointer, sizeof pointer, "/seeds/%d", i++);
        if (!is_whole(item, 0, MAX_SAFE_INTEGER))
            dd_faults_add(faults, pointer, "must be a whole number between 0 and 2^53 - 1");
        for (const cJSON *other = seeds->child; other != item && i <= MAX_SEEDS; other = other->next)
            if (cJSON_Compare(other, item, true)) {
                dd_faults_add(faults, pointer, "is there already");
                break;
            }
    }
}

/* --- points ---------------------------------------------------------------------------------------------------------
 */

static size_t grid_size(const cJSON *grid) { /* saturates */
    size_t total = 1;
    const cJSON *axis;
    cJSON_ArrayForEach(axis, grid) {
        size_t n = (size_t)cJSON_GetArraySize(axis);
        if (!dd_size_mul(total, n, &total))
            return SIZE_MAX;
    }
    return total;
}

static cJSON *grid_point(const cJSON *grid, size_t index) {
    int digits[MAX_AXES] = {0}, n = cJSON_GetArraySize(grid);
    for (int k = n - 1; k >= 0; k--) {
        size_t size = (size_t)cJSON_GetArraySize(cJSON_GetArrayItem(grid, k));
        digits[k] = (int)(index % size);
        index /= size;
    }
    cJSON *point = cJSON_CreateObject();
    for (int k = 0; k < n; k++) {
        const cJSON *axis = cJSON_GetArrayItem(grid, k);
        cJSON_AddItemToObject(point, axis->string, cJSON_Duplicate(cJSON_GetArrayItem(axis, digits[k]), true));
    }
    return point;
}

static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double draw_range(const cJSON *range, bool whole, double u) {
    double least = cJSON_GetObjectItemCaseSensitive(range, "min")->valuedouble;
    double most = cJSON_GetObjectItemCaseSensitive(range, "max")->valuedouble;
    const cJSON *scale = cJSON_GetObjectItemCaseSensitive(range, "scale");
    bool log_scale = cJSON_IsString(scale) && strcmp(scale->valuestring, "log") == 0;
    if (whole) { /* each whole number between them has its share */
        least -= log_scale ? 0 : 0.5;
        most += log_scale ? 0 : 0.5;
    }
    double value = log_scale ? least * exp(u * log(most / least)) : least + u * (most - least);
    char text[32]; /* four digits are enough to try and short enough to read */
    snprintf(text, sizeof text, "%.4g", value);
    return whole ? nearbyint(value) : strtod(text, NULL);
}

static cJSON *random_point(const cJSON *axes, const cJSON *schema, uint64_t *state) {
    cJSON *point = cJSON_CreateObject();
    const cJSON *axis;
    cJSON_ArrayForEach(axis, axes) {
        double u = (double)(splitmix64(state) >> 11) * 0x1p-53;
        if (cJSON_IsArray(axis)) {
            int n = cJSON_GetArraySize(axis);
            cJSON_AddItemToObject(point, axis->string, cJSON_Duplicate(cJSON_GetArrayItem(axis, (int)(u * n)), true));
            continue;
        }
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(field_schema(schema, axis->string), "type");
        bool whole = cJSON_IsString(type) && strcmp(type->valuestring, "integer") == 0;
        cJSON_AddNumberToObject(point, axis->string, draw_range(axis, whole, u));
    }
    return point;
}

static bool drawn_before(const cJSON *points, const cJSON *point) {
    const cJSON *other;
    cJSON_ArrayForEach(other, points) {
        if (cJSON_Compare(other, point, true))
            return true;
    }
    return false;
}

static cJSON *make_points(const cJSON *body, struct dd_faults *faults) {
    const cJSON *grid = cJSON_GetObjectItemCaseSensitive(body, "grid");
    cJSON *points = cJSON_CreateArray();
    if (grid != NULL) {
        size_t n = grid_size(grid);
        for (size_t i = 0; i < n && n <= DD_SWEEP_MAX_RUNS; i++)
            cJSON_AddItemToArray(points, grid_point(grid, i));
        if (n > DD_SWEEP_MAX_RUNS)
            dd_faults_add(faults, "/grid", "has %zu points, at most %d are allowed", n, DD_SWEEP_MAX_RUNS);
        return points;
    }
    const cJSON *axes = cJSON_GetObjectItemCaseSensitive(body, "random");
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(body, "seed");
    int wanted = cJSON_GetObjectItemCaseSensitive(body, "count")->valueint, made = 0;
    uint64_t state = seed != NULL ? (uint64_t)seed->valuedouble : 1;
    cJSON *schema = dd_spec_schema();
    for (int draws = 0; made < wanted && draws < wanted * DRAWS_A_POINT; draws++) {
        cJSON *point = random_point(axes, schema, &state);
        if (drawn_before(points, point))
            cJSON_Delete(point);
        else
            made += cJSON_AddItemToArray(points, point);
    }
    cJSON_Delete(schema);
    if (made < wanted)
        dd_faults_add(faults, "/count", "%d different points were asked for and only %d were found", wanted, made);
    return points;
}

/* --- bodies ---------------------------------------------------------------------------------------------------------
 */

static void set_field(cJSON *spec, const char *name, const cJSON *value) {
    cJSON *into = spec;
    if (strncmp(name, "optimizer.", 10) == 0) {
        name += 10;
        into = cJSON_GetObjectItemCaseSensitive(spec, "optimizer");
        if (!cJSON_IsObject(into)) { /* "sgd" is short for {"type":"sgd"} */
            cJSON *whole = cJSON_CreateObject(), *type = cJSON_DetachItemFromObjectCaseSensitive(spec, "optimizer");
            if (type != NULL)
                cJSON_AddItemToObject(whole, "type", type);
            cJSON_AddItemToObject(spec, "optimizer", whole);
            into = whole;
        }
    }
    cJSON_DeleteItemFromObjectCaseSensitive(into, name);
    cJSON_AddItemToObject(into, name, cJSON_Duplicate(value, true));
}

/* The body of one run.  Whole fields before nested ones, so that {"optimizer":…,"optimizer.lr":…} works in any order.
 */
static cJSON *run_body(const cJSON *base, const char *sweep_name, const cJSON *point, const cJSON *seed) {
    cJSON *spec = cJSON_Duplicate(base, true);
    const cJSON *value;
    struct dd_buffer name;
    dd_buffer_init(&name, 4096);
    dd_buffer_puts(&name, sweep_name);
    cJSON_ArrayForEach(value, point) {
        char *text = cJSON_IsString(value) ? dd_strdup(value->valuestring) : cJSON_PrintUnformatted(value);
        dd_buffer_printf(&name, " %s=%.40s", value->string, text != NULL ? text : "?");
        free(text);
        if (strchr(value->string, '.') == NULL)
            set_field(spec, value->string, value);
    }
    cJSON_ArrayForEach(value, point) {
        if (strchr(value->string, '.') != NULL)
            set_field(spec, value->string, value);
    }
    if (seed != NULL) {
        set_field(spec, "seed", seed);
        dd_buffer_printf(&name, " seed=%.0f", seed->valuedouble);
    }
    size_t end = DD_MIN(name.len, (size_t)255);
    while (end < name.len && end > 0 && ((unsigned char)name.data[end] & 0xC0) == 0x80)
        end--;
    char cut[256];
    snprintf(cut, sizeof cut, "%.*s", (int)end, name.data);
    dd_buffer_release(&name);
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "name");
    cJSON_AddStringToObject(spec, "name", cut);
    return spec;
}

static cJSON *plan_json(const cJSON *body, const struct dd_asha *asha, cJSON *points) {
    static const char *const kept[] = {"grid", "random", "count", "seed", "seeds"};
    cJSON *json = cJSON_CreateObject();
    for (size_t i = 0; i < DD_ARRAY_LEN(kept); i++) {
        const cJSON *field = cJSON_GetObjectItemCaseSensitive(body, kept[i]);
        if (field != NULL)
            cJSON_AddItemToObject(json, kept[i], cJSON_Duplicate(field, true));
    }
    if (asha->min_epochs > 0) {
        cJSON *rules = cJSON_AddObjectToObject(json, "asha");
        cJSON_AddNumberToObject(rules, "min_epochs", asha->min_epochs);
        cJSON_AddNumberToObject(rules, "eta", asha->eta);
        cJSON_AddStringToObject(rules, "metric", asha->by_accuracy ? "accuracy" : "macro_f1");
    }
    cJSON *names = cJSON_AddArrayToObject(json, "axes");
    const cJSON *axes = cJSON_GetObjectItemCaseSensitive(body, "grid"), *axis;
    if (axes == NULL)
        axes = cJSON_GetObjectItemCaseSensitive(body, "random");
    cJSON_ArrayForEach(axis, axes) {
        cJSON_AddItemToArray(names, cJSON_CreateString(axis->string));
    }
    cJSON_AddItemToObject(json, "points", points);
    return json;
}

void dd_sweep_plan_release(struct dd_sweep_plan *plan) {
    cJSON_Delete(plan->json);
    cJSON_Delete(plan->bodies);
    *plan = (struct dd_sweep_plan){0};
}

static enum dd_status refused(const struct dd_faults *faults, struct dd_error *err) {
    return dd_fail(err, DD_INVALID, "sweep_invalid", "%s: %s%s", faults->items[0].pointer, faults->items[0].detail,
                   faults->total > 1 ? " (and more, see errors)" : "");
}

enum dd_status dd_sweep_plan(const cJSON *body, struct dd_sweep_plan *ret_plan, struct dd_faults *faults,
                             struct dd_error *err) {
    struct dd_asha asha = {0};
    check_frame(body, faults);
    if (cJSON_HasObjectItem(body, "asha"))
        check_asha(body, &asha, faults);
    if (faults->total > 0)
        return refused(faults, err);
    cJSON *points = make_points(body, faults);
    const cJSON *seeds = cJSON_GetObjectItemCaseSensitive(body, "seeds");
    size_t n_points = (size_t)cJSON_GetArraySize(points);
    size_t n_seeds = seeds != NULL ? (size_t)cJSON_GetArraySize(seeds) : 1;
    if (faults->total == 0 && n_points * n_seeds > DD_SWEEP_MAX_RUNS)
        dd_faults_add(faults, "/seeds", "%zu points with %zu seeds are %zu runs, at most %d are allowed", n_points,
                      n_seeds, n_points * n_seeds, DD_SWEEP_MAX_RUNS);
    if (faults->total > 0) {
        cJSON_Delete(points);
        return refused(faults, err);
    }
    struct dd_sweep_plan plan = {.points = n_points, .seeds = n_seeds, .asha = asha, .bodies = cJSON_CreateArray()};
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(body, "name"), *point;
    snprintf(plan.name, sizeof plan.name, "%s",
             cJSON_IsString(name) && *name->valuestring ? name->valuestring : "sweep");
    const cJSON *base = cJSON_GetObjectItemCaseSensitive(body, "base");
    cJSON_ArrayForEach(point, points) {
        for (size_t s = 0; s < n_seeds; s++)
            cJSON_AddItemToArray(plan.bodies, run_body(base, plan.name, point,
                                                       seeds != NULL ? cJSON_GetArrayItem(seeds, (int)s) : NULL));
    }
    plan.json = plan_json(body, &asha, points);
    if (plan.json == NULL || (size_t)cJSON_GetArraySize(plan.bodies) != n_points * n_seeds) {
        dd_sweep_plan_release(&plan);
        return dd_fail_json(err);
    }
    *ret_plan = plan;
    return DD_OK;
}

void dd_sweep_pointer(const struct dd_sweep_plan *plan, const cJSON *body, size_t point, const char *pointer, char *out,
                      size_t out_bytes) {
    const cJSON *values = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(plan->json, "points"), (int)point),
                *value;
    const cJSON *grid = cJSON_GetObjectItemCaseSensitive(body, "grid");
    const cJSON *axes = grid != NULL ? grid : cJSON_GetObjectItemCaseSensitive(body, "random");
    cJSON_ArrayForEach(value, values) {
        char dotted[128];
        snprintf(dotted, sizeof dotted, "/%.120s", value->string);
        for (char *p = dotted + 1; *p != '\0'; p++)
            *p = *p == '.' ? '/' : *p;
        size_t n = strlen(dotted);
        if (strncmp(pointer, dotted, n) != 0 || (pointer[n] != '\0' && pointer[n] != '/'))
            continue;
        const cJSON *axis = cJSON_GetObjectItemCaseSensitive(axes, value->string), *choice;
        int i = 0;
        cJSON_ArrayForEach(choice, axis) {
            if (cJSON_IsArray(axis) && cJSON_Compare(choice, value, true))
                break;
            i++;
        }
        if (cJSON_IsArray(axis))
            snprintf(out, out_bytes, "/%s/%.60s/%d%.40s", grid != NULL ? "grid" : "random", value->string, i,
                     pointer + n);
        else
            snprintf(out, out_bytes, "/random/%.100s", value->string);
        return;
    }
    if (strcmp(pointer, "/seed") == 0 && cJSON_GetObjectItemCaseSensitive(body, "seeds") != NULL)
        snprintf(out, out_bytes, "/seeds");
    else
        snprintf(out, out_bytes, "/base%.120s", pointer);
}
