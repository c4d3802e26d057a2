/* A request body into a spec, by the table of fields.c.  Every fault is found, none stops the reading.
 * Threads: pure functions, any thread.
 */
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "spec/fields.h"

struct reader {
    struct dd_spec *spec;
    struct dd_faults *faults;
};

#define POINTER_BYTES 128
#define MAX_FIELDS 160

/* prefix + "/" + token with '~' and '/' escaped (RFC 6901), cut at a character where it would not fit. */
static void pointer_join(char out[POINTER_BYTES], const char *prefix, const char *token) {
    size_t used = (size_t)snprintf(out, POINTER_BYTES, "%s/", prefix);
    if (used >= POINTER_BYTES)
        used = POINTER_BYTES - 1;
    for (; *token != '\0' && used + 3 < POINTER_BYTES; token++) {
        if (*token == '~' || *token == '/') {
            out[used++] = '~';
            out[used++] = *token == '~' ? '0' : '1';
        } else {
            out[used++] = *token;
        }
    }
    while (used > 0 && *token != '\0' && ((unsigned char)out[used - 1] & 0xC0) == 0x80)
        used--;
    if (used > 0 && *token != '\0' && ((unsigned char)out[used - 1] & 0xC0) == 0xC0)
        used--;
    out[used] = '\0';
}

static void pointer_index(char out[POINTER_BYTES], const char *prefix, int index) {
    char token[16];
    snprintf(token, sizeof token, "%d", index);
    pointer_join(out, prefix, token);
}

/* "got 1.7", "got a string" … */
static void describe(const cJSON *value, char out[64]) {
    if (cJSON_IsNumber(value)) {
        char number[DD_NUMBER_BYTES];
        dd_number_text(value->valuedouble, number);
        snprintf(out, 64, "%s", number);
    } else if (cJSON_IsString(value)) {
        snprintf(out, 64, "%s", "a string");
    } else if (cJSON_IsBool(value)) {
        snprintf(out, 64, "%s", cJSON_IsTrue(value) ? "true" : "false");
    } else {
        snprintf(out, 64, "%s", cJSON_IsArray(value) ? "an array" : cJSON_IsObject(value) ? "an object" : "null");
    }
}

static void fault_type(struct reader *r, const char *pointer, const char *wanted, const cJSON *value) {
    char got[64];
    describe(value, got);
    dd_faults_add(r->faults, pointer, "must be %s, got %s", wanted, got);
}

/* Code points of well-formed UTF-8 (no overlong forms, surrogates or values over U+10FFFF); −1 otherwise.
 * *ret_control: has a control character that a line of text must not have. */
static long utf8_length(const char *text, bool *ret_control) {
    const unsigned char *p = (const unsigned char *)text;
    long count = 0;
    *ret_control = false;
    while (*p != '\0') {
        unsigned c = *p;
        int more = c < 0x80 ? 0 : (c & 0xE0) == 0xC0 ? 1 : (c & 0xF0) == 0xE0 ? 2 : (c & 0xF8) == 0xF0 ? 3 : -1;
        if (more < 0)
            return -1;
        unsigned point = more == 0 ? c : c & (0x3Fu >> more);
        for (int i = 1; i <= more; i++) {
            if ((p[i] & 0xC0) != 0x80)
                return -1;
            point = point << 6 | (p[i] & 0x3Fu);
        }
        static const unsigned least[] = {0, 0x80, 0x800, 0x10000};
        if (point < least[more] || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
            return -1;
        if (point < 0x20 || point == 0x7F)
            *ret_control = true;
        p += more + 1;
        count++;
    }
    return count;
}

/* A string of min … max characters into out; a line has no control characters. */
static bool take_text(struct reader *r, const char *pointer, const cJSON *value, bool line, int min, int max, char *out,
                      size_t out_bytes) {
    if (!cJSON_IsString(value)) {
        fault_type(r, pointer, "a string", value);
        return false;
    }
    bool control;
    long length = utf8_length(value->valuestring, &control);
    if (length < 0) {
        dd_faults_add(r->faults, pointer, "must be valid UTF-8");
        return false;
    }
    if (length > max || length < min || strlen(value->valuestring) >= out_bytes) {
        if (min > 0)
            dd_faults_add(r->faults, pointer, "must have %d to %d characters, has %ld", min, max, length);
        else
            dd_faults_add(r->faults, pointer, "must have at most %d characters, has %ld", max, length);
        return false;
    }
    if (line && control) {
        dd_faults_add(r->faults, pointer, "must be one line without control characters");
        return false;
    }
    memcpy(out, value->valuestring, strlen(value->valuestring) + 1);
    return true;
}

static void take_name(struct reader *r, const char *pointer, const cJSON *value, bool required, char *out) {
    if (!cJSON_IsString(value)) {
        fault_type(r, pointer, "a name (a string)", value);
        return;
    }
    const char *name = value->valuestring;
    if (name[0] == '\0' && !required)
        return;
    if (!dd_name_valid(name)) {
        dd_faults_add(r->faults, pointer,
                      "must be a name of 1 to 64 of a-z, 0-9, '.', '_' and '-' that begins with a letter or digit");
        return;
    }
    memcpy(out, name, strlen(name) + 1);
}

/* A number within [min, max]; whole: without a fraction. */
static bool take_number(struct reader *r, const char *pointer, const cJSON *value, double min, double max, bool whole,
                        double *ret_number) {
    if (!cJSON_IsNumber(value)) {
        fault_type(r, pointer, whole ? "a whole number" : "a number", value);
        return false;
    }
    double number = value->valuedouble;
    if (whole && isfinite(number) && number != floor(number)) {
        fault_type(r, pointer, "a whole number", value);
        return false;
    }
    if (!isfinite(number) || number < min || number > max) {
        char low[DD_NUMBER_BYTES], high[DD_NUMBER_BYTES], got[DD_NUMBER_BYTES];
        dd_number_text(min, low);
        dd_number_text(max, high);
        dd_number_text(number, got);
        dd_faults_add(r->faults, pointer, "must be between %s and %s, got %s", low, high, got);
        return false;
    }
    *ret_number = number + 0.0; /* -0 becomes 0: one canonical form */
    return true;
}

/* Index of the string in names; −1 after a fault that lists them. */
static int take_choice(struct reader *r, const char *pointer, const cJSON *value, const char *const *names) {
    char list[160] = "";
    for (int i = 0; names[i] != NULL; i++) {
        if (cJSON_IsString(value) && strcmp(value->valuestring, names[i]) == 0)
            return i;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s\"%s\"",
                 i == 0                 ? ""
                 : names[i + 1] == NULL ? " or "
                                        : ", ",
                 names[i]);
    }
    if (cJSON_IsString(value) && strlen(value->valuestring) <= 40)
        dd_faults_add(r->faults, pointer, "must be %s, got \"%s\"", list, value->valuestring);
    else
        fault_type(r, pointer, list, value);
    return -1;
}

static void take_tags(struct reader *r, const char *pointer, const cJSON *value) {
    if (!cJSON_IsArray(value)) {
        fault_type(r, pointer, "an array of strings", value);
        return;
    }
    const cJSON *item;
    int index = 0;
    cJSON_ArrayForEach(item, value) {
        char at[POINTER_BYTES];
        pointer_index(at, pointer, index++);
        if (index > DD_MAX_TAGS) {
            dd_faults_add(r->faults, pointer, "must have at most %d tags", DD_MAX_TAGS);
            return;
        }
        char *tag = r->spec->tags[r->spec->n_tags];
        if (!take_text(r, at, item, true, 1, 63, tag, sizeof r->spec->tags[0]))
            continue;
        bool repeated = false;
        for (int i = 0; i < r->spec->n_tags; i++)
            repeated |= strcmp(r->spec->tags[i], tag) == 0;
        if (repeated)
            dd_faults_add(r->faults, at, "is repeated");
        else
            r->spec->n_tags++;
    }
}

static void take_layer_map(struct reader *r, const char *pointer, const cJSON *value) {
    if (!cJSON_IsArray(value) || value->child == NULL) {
        if (cJSON_IsArray(value))
            dd_faults_add(r->faults, pointer, "must name a teacher layer for each student layer, or be left out");
        else
            fault_type(r, pointer, "an array of whole numbers", value);
        return;
    }
    const cJSON *item;
    int index = 0;
    cJSON_ArrayForEach(item, value) {
        char at[POINTER_BYTES];
        pointer_index(at, pointer, index);
        if (index == DD_MAX_LAYERS) {
            dd_faults_add(r->faults, pointer, "must have at most %d entries", DD_MAX_LAYERS);
            return;
        }
        double layer = 0;
        if (take_number(r, at, item, 0, DD_MAX_LAYERS - 1, true, &layer))
            r->spec->layer_map[index] = (int)layer;
        index++;
    }
    r->spec->n_layer_map = index;
}

static void take_teachers(struct reader *r, const char *pointer, const cJSON *value) {
    if (!cJSON_IsArray(value)) {
        fault_type(r, pointer, "an array of names", value);
        return;
    }
    const cJSON *item;
    int index = 0;
    cJSON_ArrayForEach(item, value) {
        char at[POINTER_BYTES], name[DD_NAME_BYTES] = "";
        pointer_index(at, pointer, index++);
        if (index > DD_MAX_TEACHERS) {
            dd_faults_add(r->faults, pointer, "must have at most %d names", DD_MAX_TEACHERS);
            return;
        }
        take_name(r, at, item, true, name);
        bool repeated = false;
        for (int i = 0; i < r->spec->n_teachers; i++)
            repeated |= strcmp(r->spec->teachers[i], name) == 0;
        if (name[0] != '\0' && repeated)
            dd_faults_add(r->faults, at, "is repeated");
        else if (name[0] != '\0')
            memcpy(r->spec->teachers[r->spec->n_teachers++], name, sizeof name);
    }
}

static void take_init(struct reader *r, const char *pointer, const cJSON *value) {
    struct dd_spec *spec = r->spec;
    if (cJSON_IsString(value) && strcmp(value->valuestring, "random") == 0) {
        spec->init = DD_INIT_RANDOM;
    } else if (cJSON_IsString(value) && strcmp(value->valuestring, "teacher") == 0) {
        spec->init = DD_INIT_TEACHER;
    } else if (cJSON_IsString(value) && dd_name_valid(value->valuestring)) {
        spec->init = DD_INIT_MODEL;
        memcpy(spec->init_model, value->valuestring, strlen(value->valuestring) + 1);
    } else if (cJSON_IsString(value)) {
        dd_faults_add(r->faults, pointer, "must be \"random\", \"teacher\" or the name of a model");
    } else {
        fault_type(r, pointer, "\"random\", \"teacher\" or the name of a model", value);
    }
}

static void read_object(struct reader *r, const cJSON *body, const char *prefix, bool in_optimizer);

static void take_optimizer(struct reader *r, const char *pointer, const cJSON *value) {
    if (cJSON_IsObject(value)) {
        read_object(r, value, pointer, true);
        return;
    }
    if (!cJSON_IsString(value)) {
        fault_type(r, pointer, "\"adamw\", \"sgd\" or an object", value);
        return;
    }
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        if (dd_spec_fields[i].in_optimizer && strcmp(dd_spec_fields[i].name, "type") == 0) {
            int type = take_choice(r, pointer, value, dd_spec_fields[i].names);
            if (type >= 0)
                r->spec->optimizer.type = (enum dd_optimizer_type)type;
        }
    }
}

static void take_field(struct reader *r, const struct dd_spec_field *field, const char *pointer, const cJSON *value) {
    void *at = dd_spec_field_at(r->spec, field);
    double number = 0;
    int choice;
    switch (field->kind) {
    case DD_KIND_LINE:
    case DD_KIND_TEXT:
        (void)take_text(r, pointer, value, field->kind == DD_KIND_LINE, (int)field->min, (int)field->max, at,
                        field->bytes);
        break;
    case DD_KIND_NAME:
        take_name(r, pointer, value, field->min > 0, at);
        break;
    case DD_KIND_INT:
        if (take_number(r, pointer, value, field->min, field->max, true, &number))
            *(int *)at = (int)number;
        break;
    case DD_KIND_NUMBER:
        if (take_number(r, pointer, value, field->min, field->max, false, &number))
            *(double *)at = number;
        break;
    case DD_KIND_SEED:
        if (take_number(r, pointer, value, field->min, field->max, true, &number))
            *(uint64_t *)at = (uint64_t)number;
        break;
    case DD_KIND_CHOICE:
    case DD_KIND_PRESET:
        choice = take_choice(r, pointer, value, field->names);
        if (choice >= 0)
            *(int *)at = choice;
        break;
    case DD_KIND_WORD:
        choice = take_choice(r, pointer, value, field->names);
        if (choice >= 0)
            snprintf(at, field->bytes, "%s", field->names[choice]);
        break;
    case DD_KIND_BOOL:
        if (cJSON_IsBool(value))
            *(int *)at = cJSON_IsTrue(value) ? DD_FLAG_YES : DD_FLAG_NO;
        else
            fault_type(r, pointer, "true or false", value);
        break;
    case DD_KIND_TAGS:
        take_tags(r, pointer, value);
        break;
    case DD_KIND_INIT:
        take_init(r, pointer, value);
        break;
    case DD_KIND_LAYER_MAP:
        take_layer_map(r, pointer, value);
        break;
    case DD_KIND_TEACHERS:
        take_teachers(r, pointer, value);
        break;
    case DD_KIND_OPTIMIZER:
        take_optimizer(r, pointer, value);
        break;
    }
}

static void fault_unknown(struct reader *r, const char *pointer, const char *name, bool in_optimizer) {
    const char *near = NULL, *place = "";
    int best = INT_MAX;
    /* A body of a million typos must not cost a million comparisons: only what will be shown is compared. */
    for (size_t i = 0; i < dd_spec_fields_count && r->faults->total < DD_FAULTS_MAX; i++) {
        if (strcmp(name, dd_spec_fields[i].name) == 0) {
            near = name;
            place = dd_spec_fields[i].in_optimizer ? " inside \"optimizer\"" : " beside \"optimizer\"";
            break;
        }
        if (dd_spec_fields[i].in_optimizer == in_optimizer && dd_near_miss(name, dd_spec_fields[i].name, &best))
            near = dd_spec_fields[i].name;
    }
    if (near != NULL && place[0] != '\0')
        dd_faults_add(r->faults, pointer, "is not a field here; it belongs%s", place);
    else if (near != NULL)
        dd_faults_add(r->faults, pointer, "is not a field; did you mean \"%s\"?", near);
    else
        dd_faults_add(r->faults, pointer, "is not a field");
}

static void read_object(struct reader *r, const cJSON *body, const char *prefix, bool in_optimizer) {
    bool seen[MAX_FIELDS] = {false};
    assert(dd_spec_fields_count <= DD_ARRAY_LEN(seen));
    const cJSON *value;
    cJSON_ArrayForEach(value, body) {
        const char *name = value->string != NULL ? value->string : "";
        char pointer[POINTER_BYTES];
        pointer_join(pointer, prefix, name);
        size_t i = 0;
        while (i < dd_spec_fields_count &&
               !(dd_spec_fields[i].in_optimizer == in_optimizer && strcmp(name, dd_spec_fields[i].name) == 0))
            i++;
        if (i == dd_spec_fields_count) {
            bool control;
            if (utf8_length(name, &control) < 0)
                dd_faults_add(r->faults, prefix, "has a field whose name is not valid UTF-8");
            else
                fault_unknown(r, pointer, name, in_optimizer);
        } else if (seen[i]) {
            dd_faults_add(r->faults, pointer, "is given more than once");
        } else {
            seen[i] = true;
            take_field(r, &dd_spec_fields[i], pointer, value);
        }
    }
}

/* The fields of an object of the preset that the body does not give; filled[i]: field i of the table was. */
static void fill_from(struct reader *r, const cJSON *object, bool in_optimizer, bool *filled) {
    const cJSON *value;
    cJSON_ArrayForEach(value, object) {
        for (size_t i = 0; i < dd_spec_fields_count; i++) {
            const struct dd_spec_field *field = &dd_spec_fields[i];
            if (field->in_optimizer != in_optimizer || strcmp(field->name, value->string) != 0)
                continue;
            if (field->kind == DD_KIND_OPTIMIZER) {
                fill_from(r, value, true, filled);
            } else if (!dd_spec_field_given(r->spec, field)) {
                take_field(r, field, "/preset", value);
                filled[i] = true;
            }
        }
    }
}

/* What the preset gives and the body does not.  What would mean nothing beside the body's own fields is left out, and
 * so are all settings of an optimizer that is not the body's. */
static void fill_preset(struct reader *r) {
    struct dd_spec *spec = r->spec;
    bool filled[MAX_FIELDS] = {false};
    if (spec->preset == DD_UNSET || spec->task == DD_TASK_FINETUNE)
        return;
    cJSON *fields = dd_preset_fields(dd_presets[spec->preset].name);
    const cJSON *optimizer = cJSON_GetObjectItemCaseSensitive(fields, "optimizer");
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(optimizer, "type"));
    bool given = (int)spec->optimizer.type != DD_UNSET;
    if (given && type != NULL && strcmp(type, dd_optimizer_name(spec->optimizer.type)) != 0)
        cJSON_DeleteItemFromObjectCaseSensitive(fields, "optimizer");
    fill_from(r, fields, false, filled);
    cJSON_Delete(fields);
    for (size_t i = 0; i < dd_spec_fields_count; i++)
        if (filled[i] && !dd_spec_field_applies(spec, &dd_spec_fields[i]))
            dd_spec_field_unset(spec, &dd_spec_fields[i]);
}

/* Fields that mean nothing beside the others that were given: better said than silently left out. */
static void check_applies(struct reader *r, const char *prefix) {
    const struct dd_spec *spec = r->spec;
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        if (!dd_spec_field_given(spec, field) || dd_spec_field_applies(spec, field))
            continue;
        if ((field->needs == DD_NEEDS_AUGMENT && spec->augment == 0) ||
            (field->needs == DD_NEEDS_RELATION && spec->relation_weight == 0))
            continue; /* a sweep over augment may begin at 0 */
        if (field->needs == DD_NEEDS_AUGMENT && spec->augment == DD_UNSET && (field->when & dd_spec_when(spec)) != 0)
            continue; /* there may be copies by default, which is known when the rest is (resolve.c) */
        char pointer[POINTER_BYTES], outer[POINTER_BYTES];
        pointer_join(outer, prefix, "optimizer");
        pointer_join(pointer, field->in_optimizer ? outer : prefix, field->name);
        if ((field->when & dd_spec_when(spec)) == 0)
            dd_faults_add(r->faults, pointer, "applies only %s", dd_when_text(field->when));
        else if (field->needs != DD_NEEDS_NOTHING)
            dd_faults_add(r->faults, pointer, "applies only when %s", dd_needs_text(field->needs));
        else if (field->kind == DD_KIND_LAYER_MAP)
            dd_faults_add(r->faults, pointer, "applies only when init is \"teacher\" or inner states are matched");
        else if (field->optimizers == 0)
            dd_faults_add(r->faults, pointer, "applies only when loss is \"kl\"");
        else
            dd_faults_add(r->faults, pointer, "does not apply to optimizer \"%s\"",
                          spec->optimizer.type == DD_OPTIMIZER_SGD ? "sgd" : "adamw");
    }
}

/* A required field that is missing; one that stands there but was wrong has its fault already. */
static void check_required(struct reader *r, const cJSON *body, const char *prefix, const char *name, bool given) {
    char pointer[POINTER_BYTES];
    pointer_join(pointer, prefix, name);
    if (!given && cJSON_GetObjectItemCaseSensitive(body, name) == NULL)
        dd_faults_add(r->faults, pointer, "is required");
}

enum dd_status dd_spec_parse(const cJSON *body, const char *pointer_prefix, struct dd_spec *ret_spec,
                             struct dd_faults *faults, struct dd_error *err) {
    size_t before = faults->total;
    dd_spec_unset(ret_spec);
    struct reader r = {.spec = ret_spec, .faults = faults};
    if (!cJSON_IsObject(body)) {
        fault_type(&r, pointer_prefix, "an object", body);
    } else {
        read_object(&r, body, pointer_prefix, false);
        fill_preset(&r);
        check_required(&r, body, pointer_prefix, "dataset", ret_spec->dataset[0] != '\0');
        bool task_known = (int)ret_spec->task != DD_UNSET || cJSON_GetObjectItemCaseSensitive(body, "task") == NULL;
        if (task_known && ret_spec->task != DD_TASK_FINETUNE)
            check_required(&r, body, pointer_prefix, "teacher", ret_spec->teacher[0] != '\0');
        for (int i = 0; i < ret_spec->n_teachers; i++) {
            char list[POINTER_BYTES], at[POINTER_BYTES];
            pointer_join(list, pointer_prefix, "teachers");
            pointer_index(at, list, i);
            if (strcmp(ret_spec->teachers[i], ret_spec->teacher) == 0)
                dd_faults_add(faults, at, "is the teacher already");
        }
        if (task_known) /* else every further fault would only follow from the first */
            check_applies(&r, pointer_prefix);
    }
    size_t found = faults->total - before;
    if (found == 0)
        return DD_OK;
    return dd_fail(err, DD_INVALID, "spec_invalid", "%zu field%s of the spec %s not as %s should be", found,
                   found == 1 ? "" : "s", found == 1 ? "is" : "are", found == 1 ? "it" : "they");
}
