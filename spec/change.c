/* A spec that takes another's place: the old one's JSON, a merge patch, and what cannot stay beside it.
 *
 * A field that only another makes meaningful goes when that one changes, so that the change alone is asked for and the
 * defaults settle the rest; without this a clone with "layers" changed would be refused for its old "layer_map".
 *
 * Threads: pure functions, any thread.
 */
#include <string.h>

#include "spec/fields.h"

/* RFC 7386. False when out of memory. */
static bool merge(cJSON *into, const cJSON *patch) {
    const cJSON *change;
    cJSON_ArrayForEach(change, patch) {
        cJSON *old = cJSON_GetObjectItemCaseSensitive(into, change->string);
        if (!cJSON_IsObject(change) || !cJSON_IsObject(old)) {
            cJSON_DeleteItemFromObjectCaseSensitive(into, change->string);
            if (cJSON_IsNull(change))
                continue;
            old = cJSON_IsObject(change) ? cJSON_CreateObject() : cJSON_Duplicate(change, true);
            if (old == NULL || !cJSON_AddItemToObject(into, change->string, old)) {
                cJSON_Delete(old);
                return false;
            }
        }
        if (cJSON_IsObject(change) && !merge(old, change))
            return false;
    }
    return true;
}

/* Fields of the old spec that only made sense beside what changes, and those that a new preset is to fill.  A change to
 * null asks for the default, which may be any value. */
static void drop_dependents(cJSON *spec, const cJSON *changes) {
    const char *preset = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(changes, "preset"));
    cJSON *fields = preset != NULL ? dd_preset_fields(preset) : NULL;
    const cJSON *field;
    cJSON_ArrayForEach(field, fields) {
        cJSON_DeleteItemFromObjectCaseSensitive(spec, field->string);
    }
    if (cJSON_HasObjectItem(fields, "layers") || cJSON_HasObjectItem(fields, "init"))
        cJSON_DeleteItemFromObjectCaseSensitive(spec, "layer_map");
    cJSON_Delete(fields);
    const cJSON *type =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(changes, "optimizer"), "type");
    const cJSON *old = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(spec, "optimizer"), "type");
    if (type != NULL &&
        (!cJSON_IsString(type) || !cJSON_IsString(old) || strcmp(type->valuestring, old->valuestring) != 0))
        cJSON_DeleteItemFromObjectCaseSensitive(spec, "optimizer");
    if (cJSON_GetObjectItemCaseSensitive(changes, "layers") != NULL ||
        cJSON_GetObjectItemCaseSensitive(changes, "init") != NULL)
        cJSON_DeleteItemFromObjectCaseSensitive(spec, "layer_map");
    static const char *const rates[] = {"augment_mask", "augment_ngram", "augment_splice", "augment_replace",
                                        "augment_unlabelled"};
    const cJSON *augment = cJSON_GetObjectItemCaseSensitive(changes, "augment");
    for (size_t i = 0; augment != NULL && !(augment->valuedouble > 0) && i < DD_ARRAY_LEN(rates); i++)
        cJSON_DeleteItemFromObjectCaseSensitive(spec, rates[i]);
    static const char *const by_token[] = {"hidden_weight", "attention_weight", "relation_weight"};
    for (size_t i = 0; i < DD_ARRAY_LEN(by_token); i++) {
        const cJSON *weight = cJSON_GetObjectItemCaseSensitive(changes, by_token[i]);
        if (weight != NULL && weight->valuedouble > 0)
            cJSON_DeleteItemFromObjectCaseSensitive(spec, "whole_words");
    }
    const cJSON *metric = cJSON_GetObjectItemCaseSensitive(changes, "metric");
    if (metric != NULL && !(cJSON_IsString(metric) && dd_metric_is_share(dd_metric_named(metric->valuestring))))
        cJSON_DeleteItemFromObjectCaseSensitive(spec, "selection");
    const cJSON *unlabelled = cJSON_GetObjectItemCaseSensitive(changes, "unlabelled");
    if (unlabelled != NULL && !cJSON_IsTrue(unlabelled))
        cJSON_DeleteItemFromObjectCaseSensitive(spec, "augment_unlabelled");
    const cJSON *teachers = cJSON_GetObjectItemCaseSensitive(changes, "teachers");
    if (teachers != NULL && cJSON_GetArraySize(teachers) == 0)
        cJSON_DeleteItemFromObjectCaseSensitive(spec, "teacher_mean");
}

bool dd_spec_change(cJSON *spec, const cJSON *changes) {
    drop_dependents(spec, changes);
    return merge(spec, changes);
}
