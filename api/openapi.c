/* openapi.json (OpenAPI 3.1), made from the route table, the field tables and the schemas: what is served is what is
 * described.  Made once at start, and offline by tests.
 */
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "spec/spec.h"

/* --- small JSON --------------------------------------------------------------------------------------------------- */

static cJSON *parse(const char *text) {
    return cJSON_Parse(text);
}

static cJSON *child(cJSON *object, const char *name) {
    cJSON *found = cJSON_GetObjectItemCaseSensitive(object, name);
    return found != NULL ? found : cJSON_AddObjectToObject(object, name);
}

/* cJSON would print 2^53 - 1 with fifteen digits, which is another number. */
static void put_bound(cJSON *object, const char *name, double value) {
    if (value == (double)(int64_t)value) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)value);
        cJSON_AddRawToObject(object, name, text);
    } else {
        cJSON_AddNumberToObject(object, name, value);
    }
}

static cJSON *schema_ref(const char *name) {
    char ref[96];
    snprintf(ref, sizeof ref, "#/components/schemas/%s", name);
    cJSON *schema = cJSON_CreateObject();
    cJSON_AddStringToObject(schema, "$ref", ref);
    return schema;
}

static void put_words(cJSON *object, const char *name, const char *words, bool signed_too) {
    cJSON *list = cJSON_AddArrayToObject(object, name);
    while (*words != '\0') {
        size_t n = strcspn(words, " ");
        char word[64];
        snprintf(word, sizeof word, "-%.*s", (int)n, words);
        cJSON_AddItemToArray(list, cJSON_CreateString(word + 1));
        if (signed_too) {
            cJSON_AddItemToArray(list, cJSON_CreateString(word));
        }
        words += n;
        words += *words == ' ';
    }
}

/* --- fields ------------------------------------------------------------------------------------------------------- */

static cJSON *string_items(const struct dd_field *field) {
    cJSON *items = parse(field->type == DD_FIELD_PAIRS
                             ? "{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"minItems\":2,\"maxItems\":2}"
                         : field->type == DD_FIELD_INT_LIST ? "{\"type\":\"integer\",\"minimum\":1}"
                                                            : "{\"type\":\"string\"}");
    if (field->type == DD_FIELD_ENUM_LIST) {
        put_words(items, "enum", field->values, false);
    }
    return items;
}

static void put_list(cJSON *schema, const struct dd_field *field) {
    cJSON_AddStringToObject(schema, "type", "array");
    cJSON_AddItemToObject(schema, "items", string_items(field));
    cJSON_AddNumberToObject(schema, "minItems", DD_MAX(field->least, field->type == DD_FIELD_ENUM_LIST ? 1 : 0));
    if (field->most > 0) {
        cJSON_AddNumberToObject(schema, "maxItems", field->most);
    }
}

static void put_default(cJSON *schema, const struct dd_field *field) {
    double number;
    if (field->otherwise == NULL) {
        return;
    }
    if (field->type == DD_FIELD_BOOL) {
        cJSON_AddBoolToObject(schema, "default", field->otherwise[0] == '1');
    } else if ((field->type == DD_FIELD_INT || field->type == DD_FIELD_NUMBER) &&
               dd_text_number(field->otherwise, &number)) {
        cJSON_AddNumberToObject(schema, "default", number);
    } else {
        cJSON_AddStringToObject(schema, "default", field->otherwise);
    }
}

static cJSON *field_schema(const struct dd_field *field) {
    cJSON *schema = cJSON_CreateObject();
    switch (field->type) {
    case DD_FIELD_NAME:
        cJSON_AddStringToObject(schema, "type", "string");
        cJSON_AddStringToObject(schema, "pattern", "^[a-z0-9][a-z0-9._-]{0,63}$");
        break;
    case DD_FIELD_STRING: /* the bound is in bytes; of UTF-8, a character has at most four */
        cJSON_AddStringToObject(schema, "type", "string");
        if (field->least > 0) {
            cJSON_AddNumberToObject(schema, "minLength", field->least);
        }
        if (field->most > 0) {
            cJSON_AddNumberToObject(schema, "maxLength", field->most);
        }
        break;
    case DD_FIELD_INT:
    case DD_FIELD_NUMBER:
        cJSON_AddStringToObject(schema, "type", field->type == DD_FIELD_INT ? "integer" : "number");
        put_bound(schema, "minimum", field->least);
        put_bound(schema, "maximum", field->most);
        break;
    case DD_FIELD_BOOL:
        cJSON_AddItemToObject(schema, "enum", parse("[true,false,1,0]"));
        break;
    case DD_FIELD_ENUM:
    case DD_FIELD_SORT:
        cJSON_AddStringToObject(schema, "type", "string");
        put_words(schema, "enum", field->values, field->type == DD_FIELD_SORT);
        break;
    case DD_FIELD_ENUM_LIST:
    case DD_FIELD_INT_LIST:
    case DD_FIELD_STRINGS:
    case DD_FIELD_PAIRS:
        put_list(schema, field);
        break;
    case DD_FIELD_FILE:
        cJSON_AddStringToObject(schema, "type", "string");
        cJSON_AddStringToObject(schema, "format", "binary");
        break;
    case DD_FIELD_FILES:
        cJSON_AddStringToObject(schema, "type", "array");
        cJSON_AddItemToObject(schema, "items", parse("{\"type\":\"string\",\"format\":\"binary\"}"));
        break;
    }
    put_default(schema, field);
    return schema;
}

static cJSON *fields_schema(const struct dd_field *fields, bool may_be_null) {
    cJSON *schema = parse("{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}");
    cJSON *properties = cJSON_GetObjectItemCaseSensitive(schema, "properties"), *required = cJSON_CreateArray();
    for (; fields != NULL && fields->name != NULL; fields++) {
        cJSON *field = field_schema(fields);
        cJSON_AddStringToObject(field, "description", fields->help);
        if (may_be_null) { /* merge patch: null means back to empty */
            cJSON *types = cJSON_CreateArray();
            cJSON_AddItemToArray(types, cJSON_DetachItemFromObjectCaseSensitive(field, "type"));
            cJSON_AddItemToArray(types, cJSON_CreateString("null"));
            cJSON_AddItemToObject(field, "type", types);
        }
        cJSON_AddItemToObject(properties, fields->name, field);
        if (fields->required) {
            cJSON_AddItemToArray(required, cJSON_CreateString(fields->name));
        }
    }
    if (cJSON_GetArraySize(required) > 0) {
        cJSON_AddItemToObject(schema, "required", required);
    } else {
        cJSON_Delete(required);
    }
    return schema;
}

/* --- parameters --------------------------------------------------------------------------------------------------- */

static void put_parameter(cJSON *list, const char *name, const char *in, bool required, const char *help,
                          cJSON *schema) {
    cJSON *parameter = cJSON_CreateObject();
    cJSON_AddStringToObject(parameter, "name", name);
    cJSON_AddStringToObject(parameter, "in", in);
    cJSON_AddBoolToObject(parameter, "required", required);
    cJSON_AddStringToObject(parameter, "description", help);
    cJSON *type = cJSON_GetObjectItemCaseSensitive(schema, "type");
    if (strcmp(in, "query") == 0 && cJSON_IsString(type) && strcmp(type->valuestring, "array") == 0) {
        cJSON_AddStringToObject(parameter, "style", "form");
        cJSON_AddBoolToObject(parameter, "explode", false);
    }
    cJSON_AddItemToObject(parameter, "schema", schema);
    cJSON_AddItemToArray(list, parameter);
}

static void put_query(cJSON *list, const struct dd_field *fields, const struct dd_field *unless) {
    for (; fields != NULL && fields->name != NULL; fields++) {
        if (dd_field_find(unless, fields->name) == NULL) {
            put_parameter(list, fields->name, "query", fields->required, fields->help, field_schema(fields));
        }
    }
}

static cJSON *id_schema(void) {
    cJSON *schema = parse("{\"type\":\"integer\",\"minimum\":1,\"examples\":[1]}");
    put_bound(schema, "maximum", 9007199254740991.0);
    return schema;
}

static void put_parameters(cJSON *operation, const struct dd_route *route) {
    cJSON *list = cJSON_AddArrayToObject(operation, "parameters");
    if (strstr(route->pattern, "{id}") != NULL) {
        put_parameter(list, "id", "path", true, "number of the experiment", id_schema());
    }
    if (strstr(route->pattern, "{name}") != NULL) {
        put_parameter(list, "name", "path", true, "name",
                      parse("{\"type\":\"string\",\"pattern\":\"^[a-z0-9][a-z0-9._-]{0,63}$\"}"));
    }
    if (strstr(route->pattern, "{epoch}") != NULL) {
        put_parameter(list, "epoch", "path", true, "a number, best or last",
                      parse("{\"type\":\"string\",\"pattern\":\"^(best|last|[1-9][0-9]{0,8})$\"}"));
    }
    put_query(list, route->query, NULL);
    if (route->flags & DD_ROUTE_LIST) {
        put_query(list, dd_list_fields, route->query);
    }
    put_query(list, dd_common_fields, route->query);
    if (route->flags & DD_ROUTE_IDEMPOTENT) {
        put_parameter(list, "Idempotency-Key", "header", false,
                      "makes a retry safe: the same key and request replays the first answer",
                      parse("{\"type\":\"string\",\"pattern\":\"^[!-~]{1,255}$\"}"));
    }
    if (route->builtin == DD_BUILTIN_EVENTS) {
        put_parameter(list, "Last-Event-ID", "header", false, "resume after this event",
                      parse("{\"type\":\"string\",\"pattern\":\"^[!-~]{1,64}$\"}"));
    }
}

/* --- bodies ------------------------------------------------------------------------------------------------------- */

static const char spec_example[] =
    "{\"name\":\"milk 3 layers "
    "sgd\",\"task\":\"distill\",\"dataset\":\"milk\",\"teacher\":\"milk-teacher\",\"layers\":3,"
    "\"heads\":3,\"init\":\"random\",\"optimizer\":\"sgd\",\"T\":4,\"alpha\":0.2,\"epochs\":60,\"batch_size\":32,"
    "\"max_length\":128,\"seed\":1,\"tags\":[\"milk\"]}";

static const struct {
    const char *operation_id, *example;
} examples[] = {
    {"create_experiment", spec_example},
    {"clone_experiment", "{\"alpha\":0.5,\"T\":2}"},
    {"patch_experiment", "{\"name\":\"milk, best so far\",\"tags\":[\"milk\",\"keep\"]}"},
    {"create_sweep",
     "{\"name\":\"T and alpha\",\"base\":{\"dataset\":\"milk\",\"teacher\":\"milk-teacher\",\"layers\":3,"
     "\"epochs\":20},\"grid\":{\"T\":[1,2,4,8],\"alpha\":[0.2,0.5,0.9]},\"seeds\":[1,2,3]}"},
    {"create_model", "{\"name\":\"milk-teacher\",\"path\":\"/srv/models/milk-teacher\"}"},
    {"quantize_model", "{\"save_as\":\"milk-int8\",\"dataset\":\"milk\"}"},
    {"prune_model", "{\"dataset\":\"milk\",\"save_as\":\"milk-small\"}"},
    {"predict", "{\"texts\":[\"宝宝很喜欢这个奶粉\"]}"},
    {"evaluate", "{\"dataset\":\"milk\",\"split\":\"dev\"}"},
};

static const char sweep_schema[] =
    "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"base\"],\"properties\":{"
    "\"name\":{\"type\":\"string\",\"maxLength\":200},"
    "\"base\":{\"type\":\"object\",\"description\":\"fields of a spec that all points share\"},"
    "\"grid\":{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":8,"
    "\"description\":\"field, also nested as optimizer.lr: values to try; every combination is a point\","
    "\"additionalProperties\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":100}},"
    "\"random\":{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":8,"
    "\"description\":\"field: values or a range to draw from\",\"additionalProperties\":{\"oneOf\":["
    "{\"type\":\"array\",\"minItems\":1,\"maxItems\":100},"
    "{\"type\":\"object\",\"required\":[\"min\",\"max\"],\"additionalProperties\":false,\"properties\":{"
    "\"min\":{\"type\":\"number\"},\"max\":{\"type\":\"number\"},"
    "\"scale\":{\"type\":\"string\",\"enum\":[\"linear\",\"log\"]}}}]}},"
    "\"count\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1000,\"description\":\"points to draw, with random\"},"
    "\"seed\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":9007199254740991,"
    "\"description\":\"of the drawing, with random; 1 when not given\"},"
    "\"seeds\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":100,\"uniqueItems\":true,"
    "\"items\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":9007199254740991},"
    "\"description\":\"every point is run with each of these\"},"
    "\"asha\":{\"type\":\"object\",\"additionalProperties\":false,"
    "\"description\":\"asynchronous successive halving: of the points that reach epoch min_epochs, min_epochs*eta, ... "
    "the best 1/eta go on, the others stop there\",\"properties\":{"
    "\"min_epochs\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":100000,\"default\":1},"
    "\"eta\":{\"type\":\"integer\",\"minimum\":2,\"maximum\":100,\"default\":3},"
    "\"metric\":{\"type\":\"string\",\"enum\":[\"macro_f1\",\"accuracy\"],\"default\":\"macro_f1\"}}}},"
    "\"oneOf\":[{\"required\":[\"grid\"],\"not\":{\"anyOf\":[{\"required\":[\"random\"]},{\"required\":[\"count\"]},"
    "{\"required\":[\"seed\"]}]}},{\"required\":[\"random\",\"count\"]}]}";

/* Some fields of a spec: nothing is required. */
static cJSON *spec_schema(bool part) {
    cJSON *schema = dd_spec_schema();
    if (part) {
        cJSON_DeleteItemFromObjectCaseSensitive(schema, "required");
        cJSON_DeleteItemFromObjectCaseSensitive(schema, "allOf");
        cJSON_DeleteItemFromObjectCaseSensitive(schema, "oneOf");
    }
    return schema;
}

static cJSON *json_body_schema(const struct dd_route *route) {
    if (route->flags & (DD_ROUTE_SPEC | DD_ROUTE_SPEC_PART)) {
        return schema_ref(route->flags & DD_ROUTE_SPEC ? "Spec" : "SpecChanges");
    }
    if (route->flags & DD_ROUTE_SWEEP) {
        return schema_ref("SweepRequest");
    }
    if (route->body == NULL) {
        return schema_ref("Object");
    }
    cJSON *schema = fields_schema(route->body, route->method == DD_PATCH);
    if (dd_field_find(route->body, "pairs") != NULL) { /* predict: one of the two */
        cJSON_AddItemToObject(schema, "oneOf", parse("[{\"required\":[\"texts\"]},{\"required\":[\"pairs\"]}]"));
    }
    return schema;
}

static void put_body(cJSON *operation, const struct dd_route *route) {
    if (!(route->flags & (DD_ROUTE_JSON | DD_ROUTE_MULTIPART))) {
        return;
    }
    cJSON *body = cJSON_AddObjectToObject(operation, "requestBody");
    cJSON_AddBoolToObject(body, "required", !(route->flags & DD_ROUTE_BODY_OPTIONAL));
    cJSON *content = cJSON_AddObjectToObject(body, "content");
    if (route->flags & DD_ROUTE_JSON) {
        cJSON *json = cJSON_AddObjectToObject(content, "application/json");
        cJSON_AddItemToObject(json, "schema", json_body_schema(route));
        for (size_t i = 0; i < DD_ARRAY_LEN(examples); i++) {
            if (strcmp(examples[i].operation_id, route->operation_id) == 0) {
                cJSON_AddItemToObject(json, "example", parse(examples[i].example));
            }
        }
    }
    if (route->flags & DD_ROUTE_MULTIPART) {
        cJSON *form = cJSON_AddObjectToObject(content, "multipart/form-data");
        cJSON_AddItemToObject(form, "schema", fields_schema(route->form, false));
    }
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

static void put_response(cJSON *responses, int status, const char *description, cJSON *content) {
    char key[8];
    snprintf(key, sizeof key, "%d", status);
    cJSON *response = cJSON_AddObjectToObject(responses, key);
    cJSON_AddStringToObject(response, "description", description);
    if (content != NULL) {
        cJSON_AddItemToObject(response, "content", content);
    }
}

static cJSON *success_content(const struct dd_route *route, const char *schema) {
    if (route->produces[0] == NULL) {
        return NULL;
    }
    cJSON *content = cJSON_CreateObject();
    for (size_t i = 0; i < DD_ARRAY_LEN(route->produces) && route->produces[i] != NULL; i++) {
        bool json = strcmp(route->produces[i], "application/json") == 0;
        cJSON *media = cJSON_AddObjectToObject(content, route->produces[i]);
        cJSON_AddItemToObject(media, "schema",
                              json ? schema_ref(schema != NULL ? schema : "Object") : parse("{\"type\":\"string\"}"));
    }
    return content;
}

static void put_problem(cJSON *responses, const char *status) {
    cJSON *response = cJSON_AddObjectToObject(responses, status);
    cJSON_AddStringToObject(response, "$ref", "#/components/responses/Problem");
}

static void put_responses(cJSON *operation, const struct dd_route *route) {
    cJSON *responses = cJSON_AddObjectToObject(operation, "responses");
    put_response(responses, route->success, route->summary, success_content(route, route->response));
    if (route->flags & DD_ROUTE_SLOW_DRY_RUN) {
        put_response(responses, 200, "dry run: what would be queued", success_content(route, "DryRun"));
    }
    if (route->flags & DD_ROUTE_SWEEP) {
        put_response(responses, 200, "dry run: what would be queued", success_content(route, route->response));
    }
    if (route->method == DD_GET && !(route->flags & DD_ROUTE_NO_CACHE)) {
        put_response(responses, 304, "not changed since the ETag in If-None-Match", NULL);
    }
    bool captures = strchr(route->pattern, '{') != NULL;
    bool body = route->flags & (DD_ROUTE_JSON | DD_ROUTE_MULTIPART);
    const char *const always[] = {"400", "401", "403", "406", "421", "422", "503"};
    for (size_t i = 0; i < DD_ARRAY_LEN(always); i++) {
        put_problem(responses, always[i]);
    }
    if (captures) {
        put_problem(responses, "404");
    }
    if (route->method != DD_GET || captures) {
        put_problem(responses, "409");
    }
    if (body) {
        put_problem(responses, "413");
        put_problem(responses, "415");
        put_problem(responses, "507");
    }
    put_problem(responses, "default");
}

static void put_operation(cJSON *paths, const struct dd_route *route) {
    static const char *const names[] = {
        [DD_GET] = "get", [DD_POST] = "post", [DD_PATCH] = "patch", [DD_DELETE] = "delete"};
    cJSON *operation = cJSON_AddObjectToObject(child(paths, route->pattern), names[route->method]);
    cJSON_AddStringToObject(operation, "operationId", route->operation_id);
    cJSON_AddStringToObject(operation, "summary", route->summary);
    cJSON *tags = cJSON_AddArrayToObject(operation, "tags");
    cJSON_AddItemToArray(tags, cJSON_CreateString(route->tag));
    put_parameters(operation, route);
    put_body(operation, route);
    put_responses(operation, route);
    if (route->flags & DD_ROUTE_OPEN) {
        cJSON_AddArrayToObject(operation, "security");
    }
}

static const char skeleton[] =
    "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"distilld\",\"version\":\"" DD_VERSION
    "\",\"summary\":\"A training daemon that distils BERT text classifiers\",\"description\":\"Errors are RFC 9457 "
    "problem details. Lists are paged by limit and cursor. GET answers carry an ETag. HEAD works wherever GET "
    "does.\"},\"servers\":[{\"url\":\"/\"}],\"security\":[{},{\"token\":[]}],\"paths\":{},\"components\":{"
    "\"securitySchemes\":{\"token\":{\"type\":\"http\",\"scheme\":\"bearer\"}},\"responses\":{\"Problem\":{"
    "\"description\":\"what was wrong (RFC 9457)\",\"content\":{\"application/problem+json\":{\"schema\":{\"$ref\":"
    "\"#/components/schemas/Problem\"}}}}}}}";

cJSON *dd_api_openapi(const struct dd_api_ops *ops) {
    cJSON *document = parse(skeleton);
    cJSON *schemas = dd_schemas(), *spec = spec_schema(false), *changes = spec_schema(true);
    if (document == NULL || schemas == NULL || spec == NULL || changes == NULL) {
        cJSON_Delete(document);
        cJSON_Delete(schemas);
        cJSON_Delete(spec);
        cJSON_Delete(changes);
        return NULL;
    }
    cJSON_AddItemToObject(cJSON_GetObjectItemCaseSensitive(document, "components"), "schemas", schemas);
    cJSON_AddItemToObject(schemas, "Spec", spec);
    cJSON_AddItemToObject(schemas, "SpecChanges", changes);
    cJSON_AddItemToObject(schemas, "SweepRequest", parse(sweep_schema));
    cJSON *paths = cJSON_GetObjectItemCaseSensitive(document, "paths");
    size_t count;
    const struct dd_route *routes = dd_routes(&count);
    for (size_t i = 0; i < count; i++) {
        if (dd_route_enabled(&routes[i], ops)) {
            put_operation(paths, &routes[i]);
        }
    }
    return document;
}
