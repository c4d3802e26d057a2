/* GET /presets: the named sets of fields that fill a spec.
 * Threads: request threads.
 */
#include "daemon/daemon.h"

enum dd_status dd_preset_list_op(void *context, const struct dd_api_call *call, struct dd_api_result *result,
                                 struct dd_problem *problem) {
    (void)context;
    (void)call;
    cJSON *json = cJSON_CreateObject(), *items = cJSON_AddArrayToObject(json, "items");
    for (size_t i = 0; i < dd_presets_count; i++) {
        cJSON *preset = cJSON_CreateObject();
        cJSON_AddStringToObject(preset, "name", dd_presets[i].name);
        cJSON_AddStringToObject(preset, "why", dd_presets[i].why);
        cJSON_AddItemToObject(preset, "fields", dd_preset_fields(dd_presets[i].name));
        cJSON_AddItemToArray(items, preset);
    }
    result->json = json;
    return json != NULL ? DD_OK : dd_fail_json(&problem->error);
}
