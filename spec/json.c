/* The resolved spec as JSON, the schema of the request body, and the hash, all by the table of fields.c.
 * Threads: pure functions, any thread.
 *
 * Canonical form that is hashed: "distilld spec 1\n", then for each field that decides the result and applies, in the
 * order of the table, "<name>=<value>\n"; numbers as their shortest exact decimal, lists comma-separated.  A field at
 * its neutral value (fields.h) is left out.
 */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "spec/fields.h"

static const char *init_text(const struct dd_spec *spec) {
    return spec->init == DD_INIT_MODEL ? spec->init_model : spec->init == DD_INIT_TEACHER ? "teacher" : "random";
}

static cJSON *value_json(const struct dd_spec *spec, const struct dd_spec_field *field) {
    const void *at = dd_spec_field_get(spec, field);
    switch (field->kind) {
    case DD_KIND_INT:
        return cJSON_CreateNumber(*(const int *)at);
    case DD_KIND_NUMBER:
        return cJSON_CreateNumber(*(const double *)at);
    case DD_KIND_SEED:
        return cJSON_CreateNumber((double)*(const uint64_t *)at);
    case DD_KIND_CHOICE:
        return cJSON_CreateString(field->names[*(const int *)at]);
    case DD_KIND_BOOL:
        return cJSON_CreateBool(*(const int *)at == DD_FLAG_YES);
    case DD_KIND_INIT:
        return cJSON_CreateString(init_text(spec));
    case DD_KIND_LAYER_MAP:
        return cJSON_CreateIntArray(spec->layer_map, spec->n_layer_map);
    case DD_KIND_TAGS: {
        cJSON *tags = cJSON_CreateArray();
        for (int i = 0; tags != NULL && i < spec->n_tags; i++)
            cJSON_AddItemToArray(tags, cJSON_CreateString(spec->tags[i]));
        return tags;
    }
    case DD_KIND_TEACHERS: {
        cJSON *teachers = cJSON_CreateArray();
        for (int i = 0; teachers != NULL && i < spec->n_teachers; i++)
            cJSON_AddItemToArray(teachers, cJSON_CreateString(spec->teachers[i]));
        return teachers;
    }
    case DD_KIND_OPTIMIZER:
        return cJSON_CreateObject();
    default:
        return cJSON_CreateString(at);
    }
}

/* Fields at their empty default that a reader would only stumble over ("" is no model name). */
static bool left_out(const struct dd_spec *spec, const struct dd_spec_field *field) {
    if (field->kind == DD_KIND_PRESET) /* what it filled in stands there */
        return true;
    bool may_be_empty = field->optional || field->kind == DD_KIND_NAME || field->kind == DD_KIND_LAYER_MAP ||
                        field->kind == DD_KIND_TEACHERS;
    return !dd_spec_field_applies(spec, field) || (may_be_empty && !dd_spec_field_given(spec, field));
}

cJSON *dd_spec_to_json(const struct dd_spec *spec) {
    cJSON *root = cJSON_CreateObject(), *optimizer = NULL;
    for (size_t i = 0; root != NULL && i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        if (left_out(spec, field))
            continue;
        cJSON *value = value_json(spec, field);
        if (value == NULL || !cJSON_AddItemToObject(field->in_optimizer ? optimizer : root, field->name, value)) {
            cJSON_Delete(value);
            cJSON_Delete(root);
            return NULL;
        }
        if (field->kind == DD_KIND_OPTIMIZER)
            optimizer = value;
    }
    return root;
}

/* The field's value in the canonical form. */
static void hashed_value(const struct dd_spec *spec, const struct dd_spec_field *field, char *out, size_t bytes) {
    const void *at = dd_spec_field_get(spec, field);
    char number[DD_NUMBER_BYTES];
    size_t filled = 0;
    out[0] = '\0';
    switch (field->kind) {
    case DD_KIND_NUMBER:
        dd_number_text(*(const double *)at, number);
        snprintf(out, bytes, "%s", number);
        break;
    case DD_KIND_SEED:
        snprintf(out, bytes, "%" PRIu64, *(const uint64_t *)at);
        break;
    case DD_KIND_INT:
    case DD_KIND_CHOICE:
    case DD_KIND_BOOL:
        snprintf(out, bytes, "%d", *(const int *)at);
        break;
    case DD_KIND_INIT:
        snprintf(out, bytes, "%s%s", spec->init == DD_INIT_MODEL ? "model " : "", init_text(spec));
        break;
    case DD_KIND_LAYER_MAP:
        for (int k = 0; k < spec->n_layer_map && filled < bytes; k++)
            filled += (size_t)snprintf(out + filled, bytes - filled, "%s%d", k == 0 ? "" : ",", spec->layer_map[k]);
        break;
    case DD_KIND_TEACHERS:
        for (int k = 0; k < spec->n_teachers && filled < bytes; k++)
            filled += (size_t)snprintf(out + filled, bytes - filled, "%s%s", k == 0 ? "" : ",", spec->teachers[k]);
        break;
    default:
        snprintf(out, bytes, "%s", (const char *)at);
    }
}

/* Whether the field, whose canonical value this is, has its neutral value. */
static bool at_neutral(const struct dd_spec *spec, const struct dd_spec_field *field, const char *value) {
    if (field->neutral == NULL)
        return false;
    int number = *(const int *)dd_spec_field_get(spec, field);
    if (field->kind == DD_KIND_CHOICE)
        value = field->names[number];
    else if (field->kind == DD_KIND_BOOL)
        value = number == DD_FLAG_YES ? "true" : "false";
    return strcmp(value, field->neutral) == 0;
}

void dd_spec_hash(const struct dd_spec *spec, uint8_t out[DD_SHA256_BYTES]) {
    char text[32768];
    size_t used = (size_t)snprintf(text, sizeof text, "distilld spec 1\n");
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        char value[DD_MAX(DD_MAX_LAYERS * 4, DD_MAX_TEACHERS * DD_NAME_BYTES) + 64];
        if (field->label || field->kind == DD_KIND_OPTIMIZER || left_out(spec, field))
            continue;
        hashed_value(spec, field, value, sizeof value);
        if (!at_neutral(spec, field, value))
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s=%s\n",
                                     field->in_optimizer ? "optimizer." : "", field->name, value);
        assert(used < sizeof text); /* else two specs could share a hash */
    }
    dd_sha256_bytes(text, used, out);
}

/* --- the schema ------------------------------------------------------------------------------------------------- */

#define LINE_PATTERN "^[^\\u0000-\\u001f\\u007f]*$"
#define NAME_PATTERN "^[a-z0-9][a-z0-9._-]{0,63}$"

static void add_string(cJSON *schema, const char *pattern, double min, double max) {
    cJSON_AddStringToObject(schema, "type", "string");
    if (pattern != NULL)
        cJSON_AddStringToObject(schema, "pattern", pattern);
    if (min > 0)
        cJSON_AddNumberToObject(schema, "minLength", min);
    if (max > 0)
        cJSON_AddNumberToObject(schema, "maxLength", max);
}

static void add_range(cJSON *schema, const char *type, double min, double max) {
    cJSON_AddStringToObject(schema, "type", type);
    cJSON_AddNumberToObject(schema, "minimum", min);
    cJSON_AddNumberToObject(schema, "maximum", max);
}

static void add_names(cJSON *schema, const char *const *names) {
    cJSON_AddStringToObject(schema, "type", "string");
    cJSON *list = cJSON_AddArrayToObject(schema, "enum");
    for (int i = 0; names[i] != NULL; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(names[i]));
}

static void add_lists(cJSON *schema, const struct dd_spec_field *field) {
    cJSON_AddStringToObject(schema, "type", "array");
    cJSON_AddNumberToObject(schema, "maxItems", field->max);
    cJSON *items = cJSON_AddObjectToObject(schema, "items");
    if (field->kind == DD_KIND_TAGS) {
        add_string(items, LINE_PATTERN, 1, 63);
        cJSON_AddBoolToObject(schema, "uniqueItems", true);
    } else if (field->kind == DD_KIND_TEACHERS) {
        add_string(items, NAME_PATTERN, 0, 64);
        cJSON_AddBoolToObject(schema, "uniqueItems", true);
    } else {
        add_range(items, "integer", 0, DD_MAX_LAYERS - 1);
        cJSON_AddNumberToObject(schema, "minItems", 1);
    }
}

static cJSON *field_schema(const struct dd_spec_field *field) {
    cJSON *schema = cJSON_CreateObject();
    switch (field->kind) {
    case DD_KIND_LINE:
        add_string(schema, LINE_PATTERN, field->min, field->max);
        break;
    case DD_KIND_TEXT:
        add_string(schema, "^[^\\u0000]*$", field->min, field->max);
        break;
    case DD_KIND_NAME:
        add_string(schema, field->min > 0 ? NAME_PATTERN : "^([a-z0-9][a-z0-9._-]{0,63})?$", 0, 64);
        break;
    case DD_KIND_INIT: /* "random" and "teacher" fit the pattern of names; the help tells them apart */
        add_string(schema, NAME_PATTERN, 0, 64);
        break;
    case DD_KIND_INT:
    case DD_KIND_SEED:
        add_range(schema, "integer", field->min, field->max);
        break;
    case DD_KIND_NUMBER:
        add_range(schema, "number", field->min, field->max);
        break;
    case DD_KIND_CHOICE:
    case DD_KIND_PRESET:
    case DD_KIND_WORD:
        add_names(schema, field->names);
        break;
    case DD_KIND_BOOL:
        cJSON_AddStringToObject(schema, "type", "boolean");
        break;
    case DD_KIND_TAGS:
    case DD_KIND_LAYER_MAP:
    case DD_KIND_TEACHERS:
        add_lists(schema, field);
        break;
    case DD_KIND_OPTIMIZER:
        break;
    }
    if (!isnan(field->fallback) && field->kind == DD_KIND_CHOICE)
        cJSON_AddStringToObject(schema, "default", field->names[(int)field->fallback]);
    else if (!isnan(field->fallback) && field->kind == DD_KIND_BOOL)
        cJSON_AddBoolToObject(schema, "default", field->fallback != 0);
    else if (field->kind == DD_KIND_INIT)
        cJSON_AddStringToObject(schema, "default", "random");
    else if (!isnan(field->fallback))
        cJSON_AddNumberToObject(schema, "default", field->fallback);
    cJSON_AddStringToObject(schema, "description", field->help);
    if (field->when != DD_WHEN_ALWAYS) {
        char text[160];
        snprintf(text, sizeof text, "%s%s%s", dd_when_text(field->when), field->needs ? " and " : "",
                 dd_needs_text(field->needs));
        cJSON_AddStringToObject(schema, "x-applies", text);
    }
    return schema;
}

/* {"oneOf": [name, object of the settings]}; returns the object's properties. */
static cJSON *optimizer_schema(cJSON *schema) {
    cJSON *choices = cJSON_AddArrayToObject(schema, "oneOf");
    cJSON *name = cJSON_CreateObject(), *object = cJSON_CreateObject();
    cJSON_AddItemToArray(choices, name);
    cJSON_AddItemToArray(choices, object);
    for (size_t i = 0; i < dd_spec_fields_count; i++)
        if (dd_spec_fields[i].in_optimizer && strcmp(dd_spec_fields[i].name, "type") == 0)
            add_names(name, dd_spec_fields[i].names);
    cJSON_AddStringToObject(object, "type", "object");
    cJSON_AddBoolToObject(object, "additionalProperties", false);
    return cJSON_AddObjectToObject(object, "properties");
}

/* teacher is required unless task is finetune. */
static void add_required(cJSON *root) {
    cJSON *required = cJSON_AddArrayToObject(root, "required");
    cJSON_AddItemToArray(required, cJSON_CreateString("dataset"));
    cJSON *condition = cJSON_AddObjectToObject(root, "if");
    cJSON *properties = cJSON_AddObjectToObject(condition, "properties");
    cJSON_AddStringToObject(cJSON_AddObjectToObject(properties, "task"), "const", "finetune");
    cJSON_AddItemToArray(cJSON_AddArrayToObject(condition, "required"), cJSON_CreateString("task"));
    cJSON *otherwise = cJSON_AddObjectToObject(root, "else");
    cJSON_AddItemToArray(cJSON_AddArrayToObject(otherwise, "required"), cJSON_CreateString("teacher"));
}

cJSON *dd_spec_schema(void) {
    cJSON *root = cJSON_CreateObject(), *settings = NULL;
    cJSON_AddStringToObject(root, "type", "object");
    cJSON_AddBoolToObject(root, "additionalProperties", false);
    cJSON *properties = cJSON_AddObjectToObject(root, "properties");
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        cJSON *schema = field_schema(&dd_spec_fields[i]);
        if (dd_spec_fields[i].kind == DD_KIND_OPTIMIZER)
            settings = optimizer_schema(schema);
        cJSON_AddItemToObject(dd_spec_fields[i].in_optimizer ? settings : properties, dd_spec_fields[i].name, schema);
    }
    add_required(root);
    /* The optimizer's settings come last in the table: when they stand, nothing before them failed. */
    if (settings == NULL || cJSON_GetObjectItemCaseSensitive(root, "else") == NULL) {
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}
