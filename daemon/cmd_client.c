/* distilld submit, list, show.  watch is in cmd_watch.c.
 * Threads: main only.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/command.h"

#define MAX_SPEC_BYTES ((size_t)1 << 20)

static const cJSON *field(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static const char *text_of(const cJSON *object, const char *name) {
    const char *text = cJSON_GetStringValue(field(object, name));
    return text != NULL ? text : "";
}

static void print_json(const cJSON *json) {
    cJSON *copy = cJSON_Duplicate(json, true);
    DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(copy, true);
    puts(text != NULL ? text : "");
    cJSON_Delete(copy);
}

bool dd_id_parse(const char *text, int64_t *ret_id) {
    char *end;
    const char *digits = text[0] == '#' ? text + 1 : text;
    errno = 0;
    *ret_id = strtoll(digits, &end, 10);
    return errno == 0 && *digits != '\0' && *end == '\0' && *ret_id > 0;
}

/* --- submit ----------------------------------------------------------------------------------------------------------
 */

/* The type that the schema gives a field; "" where it knows none. */
static const char *schema_type(const cJSON *properties, const char *name) {
    const cJSON *schema = field(properties, name);
    const char *type = cJSON_GetStringValue(field(schema, "type"));
    return type != NULL ? type : "";
}

/* "layers=3", "optimizer.lr=1e-4", "tags=a,b": the value is text where the schema wants text, else JSON if it is such.
 */
static enum dd_status add_pair(cJSON *spec, const cJSON *properties, const char *pair, struct dd_error *err) {
    const char *equals = strchr(pair, '='), *dot = strchr(pair, '.');
    if (equals == NULL || equals == pair)
        return dd_fail(err, DD_INVALID, "usage", "\"%s\" is neither a file nor FIELD=VALUE", pair);
    char outer[64], name[64];
    bool nested = dot != NULL && dot < equals;
    snprintf(outer, sizeof outer, "%.*s", nested ? (int)(dot - pair) : 0, pair);
    const char *start = nested ? dot + 1 : pair;
    snprintf(name, sizeof name, "%.*s", (int)(equals - start), start);
    cJSON *object = spec;
    if (nested) {
        object = cJSON_GetObjectItemCaseSensitive(spec, outer);
        if (!cJSON_IsObject(object)) {
            cJSON_DeleteItemFromObjectCaseSensitive(spec, outer);
            object = cJSON_AddObjectToObject(spec, outer);
        }
    }
    const char *type = nested ? "" : schema_type(properties, name);
    cJSON *value = strcmp(type, "string") == 0 ? NULL : cJSON_Parse(equals + 1);
    if (value == NULL && strcmp(type, "array") == 0) {
        value = cJSON_CreateArray();
        DD_CLEANUP(dd_free_ptr) char *copy = dd_strdup(equals + 1);
        for (char *next = copy, *item; (item = strsep(&next, ",")) != NULL;)
            cJSON_AddItemToArray(value, cJSON_CreateString(item));
    }
    cJSON_AddItemToObject(object, name, value != NULL ? value : cJSON_CreateString(equals + 1));
    return DD_OK;
}

static enum dd_status spec_from_pairs(const char *const *pairs, char **ret_text, struct dd_error *err) {
    cJSON *spec = cJSON_CreateObject(), *schema = dd_spec_schema();
    enum dd_status status = DD_OK;
    for (int i = 0; pairs[i] != NULL && status == DD_OK; i++)
        status = add_pair(spec, field(schema, "properties"), pairs[i], err);
    char *text = status == DD_OK ? dd_json_print(spec, false) : NULL;
    cJSON_Delete(spec);
    cJSON_Delete(schema);
    if (status == DD_OK && text == NULL)
        status = dd_fail_json(err);
    if (status == DD_OK)
        *ret_text = text;
    return status;
}

static enum dd_status read_spec(const char *const *args, char **ret_text, struct dd_error *err) {
    size_t length;
    if (strcmp(args[0], "-") == 0)
        return dd_read_stream(stdin, MAX_SPEC_BYTES, ret_text, &length, err);
    if (strchr(args[0], '=') != NULL)
        return spec_from_pairs(args, ret_text, err);
    return dd_file_read(args[0], MAX_SPEC_BYTES, ret_text, &length, err);
}

enum dd_status dd_spec_text_preset(char **text, const char *preset, struct dd_error *err) {
    cJSON *spec = cJSON_Parse(*text);
    if (!cJSON_IsObject(spec)) { /* whoever reads it next says what is wrong with it */
        cJSON_Delete(spec);
        return DD_OK;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "preset");
    cJSON_AddStringToObject(spec, "preset", preset);
    char *whole = dd_json_print(spec, false);
    cJSON_Delete(spec);
    if (whole == NULL)
        return dd_fail_json(err);
    free(*text);
    *text = whole;
    return DD_OK;
}

static void print_estimate(const cJSON *answer) {
    const cJSON *estimate = field(answer, "estimate");
    char duration[32];
    print_json(field(answer, "spec"));
    dd_duration_text(cJSON_GetNumberValue(field(estimate, "seconds")), duration);
    printf("about %s, %.0f MB of memory, a model of %.1f MB\n", duration,
           cJSON_GetNumberValue(field(estimate, "memory_bytes")) / 1e6,
           cJSON_GetNumberValue(field(estimate, "model_bytes")) / 1e6);
}

int dd_submit_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_client *client = NULL;
    DD_CLEANUP(dd_free_ptr) char *body = NULL;
    cJSON *answer = NULL;
    int code = 0;
    enum dd_status status = read_spec(args, &body, &err);
    if (status == DD_OK && options->preset != NULL)
        status = dd_spec_text_preset(&body, options->preset, &err);
    if (status == DD_OK)
        status = dd_client_open(options, &client, &err);
    if (status == DD_OK)
        status = dd_client_call(client, "POST", options->dry_run ? "/experiments?dry_run=1" : "/experiments", body,
                                &answer, &err);
    if (status != DD_OK) {
        code = dd_report_error(&err);
    } else if (options->dry_run) {
        print_estimate(answer);
    } else {
        int64_t id = (int64_t)cJSON_GetNumberValue(field(answer, "id"));
        printf("experiment %" PRId64 " is queued\n", id);
        if (options->watch)
            code = dd_watch_experiment(client, id);
    }
    cJSON_Delete(answer);
    dd_client_close(client);
    return code;
}

/* --- list and show
 * ---------------------------------------------------------------------------------------------------- */

static void print_number(const cJSON *object, const char *name, const char *fmt, int width) {
    const cJSON *value = field(object, name);
    char text[48] = "";
    if (cJSON_IsNumber(value) && strcmp(fmt, "%d") == 0)
        snprintf(text, sizeof text, "%d", value->valueint);
    else if (cJSON_IsNumber(value))
        snprintf(text, sizeof text, "%.4f", value->valuedouble);
    printf("%*s", width, text);
}

static void print_row(const cJSON *e) {
    const cJSON *spec = field(e, "spec"), *progress = field(e, "progress"), *best = field(e, "best");
    const cJSON *optimizer = field(spec, "optimizer");
    char epochs[32];
    snprintf(epochs, sizeof epochs, "%d/%d", field(progress, "epoch") != NULL ? field(progress, "epoch")->valueint : 0,
             field(progress, "epochs") != NULL ? field(progress, "epochs")->valueint : 0);
    print_number(e, "id", "%d", 6);
    printf("  ");
    dd_put_padded(stdout, text_of(e, "status"), 10);
    dd_put_padded(stdout, text_of(e, "name"), 28);
    printf(" ");
    dd_put_padded(stdout, text_of(spec, "task"), 9);
    dd_put_padded(stdout, text_of(spec, "dataset"), 16);
    print_number(spec, "layers", "%d", 6);
    printf("  ");
    dd_put_padded(stdout, text_of(optimizer, "type"), 6);
    printf("%9s", epochs);
    print_number(best, "macro_f1", "%f", 10);
    print_number(best, "accuracy", "%f", 10);
    printf("\n");
}

int dd_list_command(const struct dd_options *options, const char *const *args) {
    (void)args;
    struct dd_error err = {0};
    struct dd_client *client = NULL;
    cJSON *answer = NULL;
    struct dd_buffer path;
    dd_buffer_init(&path, 4096);
    enum dd_status status = dd_client_open(options, &client, &err);
    if (status == DD_OK) {
        dd_buffer_printf(&path, "/experiments?limit=%" PRId64, options->limit);
        const struct { const char *name, *value; } filters[] = {{"status", options->status}, {"q", options->query}};
        for (size_t i = 0; i < DD_ARRAY_LEN(filters); i++) {
            if (filters[i].value == NULL)
                continue;
            dd_buffer_printf(&path, "&%s=", filters[i].name);
            dd_client_url_encode(client, filters[i].value, &path);
        }
        status = dd_buffer_check(&path, &err);
    }
    if (status == DD_OK)
        status = dd_client_call(client, "GET", path.data, NULL, &answer, &err);
    dd_buffer_release(&path);
    int code = 0;
    if (status != DD_OK) {
        code = dd_report_error(&err);
    } else if (options->json) {
        print_json(field(answer, "items"));
    } else {
        printf("%6s  %-10s%-28s %-9s%-16s%6s  %-6s%9s%10s%10s\n", "id", "status", "name", "task", "dataset", "layers",
               "optim", "epochs", "macro F1", "accuracy");
        const cJSON *item;
        cJSON_ArrayForEach(item, field(answer, "items")) {
            print_row(item);
        }
    }
    cJSON_Delete(answer);
    dd_client_close(client);
    return code;
}

static void print_scores(const char *title, const cJSON *scores) {
    if (!cJSON_IsObject(scores))
        return;
    printf("%-14s", title);
    if (field(scores, "epoch") != NULL)
        printf("epoch %d, ", field(scores, "epoch")->valueint);
    printf("accuracy %.4f, macro F1 %.4f, weighted F1 %.4f\n", cJSON_GetNumberValue(field(scores, "accuracy")),
           cJSON_GetNumberValue(field(scores, "macro_f1")), cJSON_GetNumberValue(field(scores, "weighted_f1")));
}

static void print_experiment(const cJSON *e) {
    const cJSON *progress = field(e, "progress"), *model = field(e, "model"), *error = field(e, "error");
    printf("%-14s%d\n", "experiment", field(e, "id") != NULL ? field(e, "id")->valueint : 0);
    printf("%-14s", "name");
    dd_put_padded(stdout, text_of(e, "name"), 100);
    printf("\n%-14s%s\n", "status", text_of(e, "status"));
    printf("%-14s%s\n", "created", text_of(e, "created_at"));
    if (text_of(e, "finished_at")[0] != '\0')
        printf("%-14s%s\n", "finished", text_of(e, "finished_at"));
    printf("%-14sepoch %d of %d\n", "progress", field(progress, "epoch") ? field(progress, "epoch")->valueint : 0,
           field(progress, "epochs") ? field(progress, "epochs")->valueint : 0);
    print_scores("best", field(e, "best"));
    print_scores("last", field(e, "last"));
    print_scores("teacher", field(e, "teacher"));
    if (cJSON_IsObject(model))
        printf("%-14s%s, %.1f MB\n", "model", text_of(model, "name"),
               cJSON_GetNumberValue(field(model, "bytes")) / 1e6);
    if (cJSON_IsObject(error))
        printf("%-14s%s (%s)\n", "error", text_of(error, "message"), text_of(error, "code"));
    printf("spec ");
    print_json(field(e, "spec"));
}

int dd_show_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_client *client = NULL;
    cJSON *answer = NULL;
    int64_t id;
    char path[64];
    if (!dd_id_parse(args[0], &id)) {
        fprintf(stderr, "distilld: \"%s\" is no experiment's number\n", args[0]);
        return DD_EXIT_USAGE;
    }
    snprintf(path, sizeof path, "/experiments/%" PRId64, id);
    enum dd_status status = dd_client_open(options, &client, &err);
    if (status == DD_OK)
        status = dd_client_call(client, "GET", path, NULL, &answer, &err);
    int code = 0;
    if (status != DD_OK)
        code = dd_report_error(&err);
    else if (options->json)
        print_json(answer);
    else
        print_experiment(answer);
    cJSON_Delete(answer);
    dd_client_close(client);
    return code;
}
