/* RFC 9457 problem details: the one shape of every error.  Any thread. */
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

enum dd_status dd_request_fail(struct dd_request *request, enum dd_status status, const char *code, const char *fmt,
                               ...) {
    if (!request->failed) {
        char message[sizeof request->problem.error.message];
        va_list args;
        va_start(args, fmt);
        vsnprintf(message, sizeof message, fmt, args);
        va_end(args);
        request->failed = true;
        (void)dd_fail(&request->problem.error, status, code, "%s", message);
    }
    return status;
}

/* "dataset_row_invalid" → "Dataset row invalid": the same for every occurrence, as the RFC asks of a title. */
static void title_of(const char *code, char out[64]) {
    snprintf(out, 64, "%s", code);
    for (char *at = out; *at != '\0'; at++) {
        *at = *at == '_' ? ' ' : *at;
    }
    if (out[0] >= 'a' && out[0] <= 'z') {
        out[0] = (char)(out[0] - 32);
    }
}

static bool add_errors(cJSON *problem, const struct dd_faults *faults) {
    cJSON *errors = cJSON_AddArrayToObject(problem, "errors");
    for (size_t i = 0; i < faults->count; i++) {
        cJSON *item = cJSON_CreateObject();
        if (!cJSON_AddStringToObject(item, "pointer", faults->items[i].pointer) ||
            !cJSON_AddStringToObject(item, "detail", faults->items[i].detail) || !cJSON_AddItemToArray(errors, item)) {
            cJSON_Delete(item);
            return false;
        }
    }
    return errors != NULL && (faults->total <= faults->count ||
                              cJSON_AddNumberToObject(problem, "errors_total", (double)faults->total) != NULL);
}

static bool add_actions(cJSON *problem, const char *actions) {
    cJSON *list = cJSON_AddArrayToObject(problem, "allowed_actions");
    char copy[128];
    snprintf(copy, sizeof copy, "%s", actions);
    for (char *save = NULL, *word = strtok_r(copy, ", ", &save); word != NULL; word = strtok_r(NULL, ", ", &save)) {
        cJSON *item = cJSON_CreateString(word);
        if (!cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            return false;
        }
    }
    return list != NULL;
}

char *dd_problem_text(const struct dd_request *request, int http_status) {
    const struct dd_problem *p = &request->problem;
    const char *code = p->error.code[0] != '\0' ? p->error.code : "internal";
    char type[96], title[64];
    snprintf(type, sizeof type, "urn:distilld:problem:%s", code);
    title_of(code, title);
    cJSON *problem = cJSON_CreateObject();
    bool made = cJSON_AddStringToObject(problem, "type", type) && cJSON_AddStringToObject(problem, "title", title) &&
                cJSON_AddNumberToObject(problem, "status", http_status) &&
                cJSON_AddStringToObject(problem, "code", code) &&
                cJSON_AddStringToObject(problem, "detail", p->error.message) &&
                (p->faults.count == 0 || add_errors(problem, &p->faults)) &&
                (http_status != 409 || p->allowed_actions[0] == '\0' || add_actions(problem, p->allowed_actions)) &&
                cJSON_AddStringToObject(problem, "request_id", request->id);
    char *text = !made ? NULL : request->pretty ? cJSON_Print(problem) : cJSON_PrintUnformatted(problem);
    cJSON_Delete(problem);
    return text;
}
