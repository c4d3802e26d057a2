/* Checks of what a client sends against the field tables of routes.c: query parameters, form fields, simple JSON
 * bodies.  All faults are collected, so that one answer names them all.  Pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "spec/spec.h"

const struct dd_field dd_common_fields[] = {
    {"pretty", DD_FIELD_BOOL, .otherwise = "0", .help = "1: indent the JSON"},
    {.name = NULL},
};
const struct dd_field dd_list_fields[] = {
    {"limit", DD_FIELD_INT, .least = 1, .most = 500, .otherwise = "50", .help = "items a page"},
    {"cursor", DD_FIELD_STRING, .least = 1, .most = 1000, .help = "next_cursor of the page before"},
    {.name = NULL},
};

const struct dd_field *dd_field_find(const struct dd_field *fields, const char *name) {
    for (; fields != NULL && fields->name != NULL; fields++) {
        if (strcmp(fields->name, name) == 0) {
            return fields;
        }
    }
    return NULL;
}

static bool fault_range(const struct dd_field *field, const char *got, const char *pointer, struct dd_faults *faults) {
    dd_faults_add(faults, pointer, "must be %s between %.15g and %.15g, got %.60s",
                  field->type == DD_FIELD_INT ? "a whole number" : "a number", field->least, field->most, got);
    return false;
}

static bool check_length(const struct dd_field *field, size_t len, const char *pointer, struct dd_faults *faults) {
    if ((double)len < field->least) {
        dd_faults_add(faults, pointer, "must not be empty");
        return false;
    }
    if (field->most > 0 && (double)len > field->most) {
        dd_faults_add(faults, pointer, "must be at most %.0f bytes, got %zu", field->most, len);
        return false;
    }
    return true;
}

static bool check_list(const struct dd_field *field, const char *value, const char *pointer, struct dd_faults *faults) {
    size_t count = 0;
    for (const char *at = value;; at++) {
        size_t n = strcspn(at, ",");
        char item[24] = "";
        int64_t number;
        if (n < sizeof item) {
            memcpy(item, at, n);
        }
        if (field->type == DD_FIELD_INT_LIST && (!dd_text_int(item, &number) || number < 1)) {
            dd_faults_add(faults, pointer, "must be whole numbers above 0, comma-separated, got %.60s", value);
            return false;
        }
        if (field->type == DD_FIELD_ENUM_LIST && !dd_word_in(field->values, at, n)) {
            dd_faults_add(faults, pointer, "must be some of %s, comma-separated, got %.60s", field->values, value);
            return false;
        }
        count++;
        at += n;
        if (*at == '\0') {
            break;
        }
    }
    if (field->type == DD_FIELD_INT_LIST && (double)count > field->most) {
        dd_faults_add(faults, pointer, "must be at most %.0f numbers, got %zu", field->most, count);
        return false;
    }
    return true;
}

bool dd_field_check_text(const struct dd_field *field, const char *value, const char *pointer,
                         struct dd_faults *faults) {
    int64_t integer;
    double number;
    switch (field->type) {
    case DD_FIELD_STRING:
        return check_length(field, strlen(value), pointer, faults);
    case DD_FIELD_NAME:
        if (!dd_name_valid(value)) {
            dd_faults_add(faults, pointer, "must match [a-z0-9][a-z0-9._-]{0,63}, got %.80s", value);
            return false;
        }
        return true;
    case DD_FIELD_INT:
        return (dd_text_int(value, &integer) && (double)integer >= field->least && (double)integer <= field->most) ||
               fault_range(field, value, pointer, faults);
    case DD_FIELD_NUMBER:
        return (dd_text_number(value, &number) && number >= field->least && number <= field->most) ||
               fault_range(field, value, pointer, faults);
    case DD_FIELD_BOOL:
        if (!dd_word_in("1 0 true false", value, strlen(value))) {
            dd_faults_add(faults, pointer, "must be 1, 0, true or false, got %.60s", value);
            return false;
        }
        return true;
    case DD_FIELD_ENUM:
    case DD_FIELD_SORT:
        integer = field->type == DD_FIELD_SORT && value[0] == '-';
        if (!dd_word_in(field->values, value + integer, strlen(value + integer))) {
            dd_faults_add(faults, pointer, "must be one of %s%s, got %.60s", field->values,
                          field->type == DD_FIELD_SORT ? ", with - before it for descending" : "", value);
            return false;
        }
        return true;
    case DD_FIELD_ENUM_LIST:
    case DD_FIELD_INT_LIST:
        return check_list(field, value, pointer, faults);
    case DD_FIELD_STRINGS:
    case DD_FIELD_PAIRS:
    case DD_FIELD_FILE:
    case DD_FIELD_FILES:
        break;
    }
    dd_faults_add(faults, pointer, "must be a file");
    return false;
}

static const struct dd_field *query_field(const struct dd_field *fields, unsigned flags, const char *name) {
    const struct dd_field *field = dd_field_find(fields, name);
    if (field == NULL && (flags & DD_ROUTE_LIST)) {
        field = dd_field_find(dd_list_fields, name);
    }
    return field != NULL ? field : dd_field_find(dd_common_fields, name);
}

/* RFC 6901: ~ and / in a name are escaped. */
static void pointer_to(const char *name, char out[128]) {
    size_t n = 0;
    out[n++] = '/';
    for (; *name != '\0' && n < 120; name++) {
        if (*name == '~' || *name == '/') {
            out[n++] = '~';
            out[n++] = *name == '~' ? '0' : '1';
        } else {
            out[n++] = *name;
        }
    }
    out[n] = '\0';
}

static void check_one(const char *name, const char *value, const struct dd_field *fields, unsigned flags,
                      struct dd_params *params, struct dd_faults *faults) {
    char pointer[128];
    pointer_to(name, pointer);
    const struct dd_field *field = query_field(fields, flags, name);
    if (field == NULL) {
        dd_faults_add(faults, pointer, "there is no such query parameter here");
        return;
    }
    for (size_t i = 0; i < params->count; i++) {
        if (strcmp(params->items[i].name, name) == 0) {
            dd_faults_add(faults, pointer, "is given more than once");
            return;
        }
    }
    if (dd_field_check_text(field, value, pointer, faults)) {
        params->items[params->count++] = (struct dd_api_param){field->name, value};
    }
}

enum dd_status dd_query_parse(char *query, const struct dd_field *fields, unsigned route_flags,
                              struct dd_params *ret_params, struct dd_faults *faults, struct dd_error *err) {
    struct dd_params params = {.count = 0};
    size_t seen = 0;
    for (char *save = NULL, *pair = query == NULL ? NULL : strtok_r(query, "&", &save); pair != NULL;
         pair = strtok_r(NULL, "&", &save)) {
        char *equals = strchr(pair, '=');
        static char nothing[1] = "";
        char *value = equals == NULL ? nothing : equals + 1;
        if (equals != NULL) {
            *equals = '\0';
        }
        if (!dd_percent_decode(pair, true) || (equals != NULL && !dd_percent_decode(value, true))) {
            return dd_fail(err, DD_MALFORMED, "query_malformed",
                           "the query string has a bad %%-escape, a NUL or a byte that is not UTF-8");
        }
        if (++seen > DD_MAX_QUERY_PARAMS) {
            return dd_fail(err, DD_MALFORMED, "query_malformed", "more than %d query parameters", DD_MAX_QUERY_PARAMS);
        }
        check_one(pair, value, fields, route_flags, &params, faults);
    }
    for (const struct dd_field *field = fields; field != NULL && field->name != NULL; field++) {
        bool given = !field->required;
        for (size_t i = 0; i < params.count && !given; i++) {
            given = strcmp(params.items[i].name, field->name) == 0;
        }
        if (!given && faults->total == 0) {
            char pointer[128];
            pointer_to(field->name, pointer);
            dd_faults_add(faults, pointer, "is required: %s", field->help);
        }
    }
    if (faults->total > 0) {
        return dd_fail(err, DD_INVALID, "query_invalid", "%zu query parameter%s not as it must be: %.64s %.300s",
                       faults->total, faults->total == 1 ? " is" : "s are", faults->items[0].pointer + 1,
                       faults->items[0].detail);
    }
    *ret_params = params;
    return DD_OK;
}

/* --- simple JSON bodies ------------------------------------------------------------------------------------------ */

static const char *json_kind(const cJSON *value) {
    return cJSON_IsString(value)   ? "a string"
           : cJSON_IsNumber(value) ? "a number"
           : cJSON_IsBool(value)   ? "true or false"
           : cJSON_IsArray(value)  ? "an array"
           : cJSON_IsObject(value) ? "an object"
                                   : "null";
}

static void check_strings(const struct dd_field *field, const cJSON *value, const char *pointer,
                          struct dd_faults *faults) {
    bool pairs = field->type == DD_FIELD_PAIRS;
    size_t at = 0;
    for (const cJSON *item = value->child; item != NULL; item = item->next, at++) {
        bool good = pairs ? cJSON_IsArray(item) && item->child != NULL && item->child->next != NULL &&
                                item->child->next->next == NULL && cJSON_IsString(item->child) &&
                                cJSON_IsString(item->child->next)
                          : cJSON_IsString(item);
        if (!good) {
            char where[128];
            snprintf(where, sizeof where, "%.100s/%zu", pointer, at);
            dd_faults_add(faults, where, "must be %s, got %s", pairs ? "an array of two strings" : "a string",
                          json_kind(item));
        }
    }
    if ((double)at < field->least || (double)at > field->most) {
        dd_faults_add(faults, pointer, "must have %.0f to %.0f items, got %zu", field->least, field->most, at);
    }
}

static void check_member(const struct dd_field *field, const cJSON *value, const char *pointer,
                         struct dd_faults *faults) {
    const char *wanted = "a string";
    bool good = cJSON_IsString(value);
    if (field->type == DD_FIELD_INT || field->type == DD_FIELD_NUMBER) {
        wanted = field->type == DD_FIELD_INT ? "a whole number" : "a number";
        good = cJSON_IsNumber(value) &&
               (field->type == DD_FIELD_NUMBER || floor(value->valuedouble) == value->valuedouble);
    } else if (field->type == DD_FIELD_BOOL) {
        wanted = "true or false";
        good = cJSON_IsBool(value);
    } else if (field->type == DD_FIELD_STRINGS || field->type == DD_FIELD_PAIRS) {
        wanted = "an array";
        good = cJSON_IsArray(value);
    }
    if (!good) {
        dd_faults_add(faults, pointer, "must be %s, got %s", wanted,
                      cJSON_IsNumber(value) && wanted[2] == 'w' ? "a fraction" : json_kind(value));
        return;
    }
    if (cJSON_IsString(value)) {
        (void)dd_field_check_text(field, value->valuestring, pointer, faults);
    } else if (cJSON_IsNumber(value)) {
        if (value->valuedouble < field->least || value->valuedouble > field->most) {
            char got[32];
            snprintf(got, sizeof got, "%.15g", value->valuedouble);
            (void)fault_range(field, got, pointer, faults);
        }
    } else if (cJSON_IsArray(value)) {
        check_strings(field, value, pointer, faults);
    }
}

void dd_body_check(const struct dd_field *fields, const cJSON *body, struct dd_faults *faults) {
    char pointer[128];
    for (const cJSON *member = body->child; member != NULL; member = member->next) {
        pointer_to(member->string, pointer);
        const struct dd_field *field = dd_field_find(fields, member->string);
        if (field == NULL) {
            dd_faults_add(faults, pointer, "there is no such field here");
        } else {
            check_member(field, member, pointer, faults);
        }
    }
    for (; fields != NULL && fields->name != NULL; fields++) {
        if (fields->required && cJSON_GetObjectItemCaseSensitive(body, fields->name) == NULL) {
            pointer_to(fields->name, pointer);
            dd_faults_add(faults, pointer, "is required: %s", fields->help);
        }
    }
}

enum dd_status dd_body_nulls_to_empty(const struct dd_field *fields, cJSON *body, struct dd_error *err) {
    for (; fields != NULL && fields->name != NULL; fields++) {
        if (!cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(body, fields->name))) {
            continue;
        }
        cJSON *empty = fields->type == DD_FIELD_STRINGS ? cJSON_CreateArray()
                       : fields->type == DD_FIELD_INT   ? cJSON_CreateNumber(0)
                                                        : cJSON_CreateString("");
        if (empty == NULL || !cJSON_ReplaceItemInObjectCaseSensitive(body, fields->name, empty)) {
            cJSON_Delete(empty);
            return dd_fail_memory(err, sizeof *body);
        }
    }
    return DD_OK;
}

/* --- what operations ask for ------------------------------------------------------------------------------------- */

const char *dd_api_param(const struct dd_api_call *call, const char *name) {
    for (size_t i = 0; i < call->n_params; i++) {
        if (strcmp(call->params[i].name, name) == 0) {
            return call->params[i].value;
        }
    }
    return NULL;
}

int64_t dd_api_param_int(const struct dd_api_call *call, const char *name, int64_t otherwise) {
    const char *text = dd_api_param(call, name);
    int64_t value;
    return text != NULL && dd_text_int(text, &value) ? value : otherwise;
}

double dd_api_param_number(const struct dd_api_call *call, const char *name, double otherwise) {
    const char *text = dd_api_param(call, name);
    double value;
    return text != NULL && dd_text_number(text, &value) ? value : otherwise;
}

bool dd_api_param_bool(const struct dd_api_call *call, const char *name) {
    const char *text = dd_api_param(call, name);
    return text != NULL && (strcmp(text, "1") == 0 || strcmp(text, "true") == 0);
}

const struct dd_api_file *dd_api_file(const struct dd_api_call *call, const char *field) {
    for (size_t i = 0; i < call->n_files; i++) {
        if (strcmp(call->files[i].field, field) == 0) {
            return &call->files[i];
        }
    }
    return NULL;
}
