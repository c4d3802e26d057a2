/* dataset_jsonl: a line of JSON Lines (see dataset.h).  Thread: any. */
#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "engine/dataset.h"
#include "engine/unicode.h"

/* cJSON ends strings at an escaped NUL without a word, so it is looked for before. */
static bool has_escaped_nul(const char *line, size_t len) {
    for (size_t i = 0; i + 1 < len; i++) {
        if (line[i] == '\\') {
            if (line[i + 1] == 'u' && len - i >= 6 && memcmp(line + i + 2, "0000", 4) == 0) {
                return true;
            }
            i++;
        }
    }
    return false;
}

cJSON *dd_jsonl_parse(const char *line, size_t len, char reason[200]) {
    if (memchr(line, '\0', len) || has_escaped_nul(line, len)) {
        snprintf(reason, 200, "the line has a NUL character");
        return NULL;
    }
    if (!dd_utf8_valid(line, len)) {
        snprintf(reason, 200, "the line is not UTF-8");
        return NULL;
    }
    const char *end = NULL;
    cJSON *object = cJSON_ParseWithLengthOpts(line, len + 1, &end, true);
    if (!cJSON_IsObject(object)) {
        if (object) {
            snprintf(reason, 200, "the line is JSON, but not an object");
        } else {
            snprintf(reason, 200, "the line is not a JSON object (byte %zu)", end ? (size_t)(end - line) + 1 : 1);
        }
        cJSON_Delete(object);
        return NULL;
    }
    return object;
}

bool dd_jsonl_field(const cJSON *object, const char *const *names, bool integers, char number[32],
                    struct dd_field *field, char reason[200]) {
    for (; *names; names++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, *names);
        if (!value) {
            continue;
        }
        if (cJSON_IsString(value)) {
            *field = (struct dd_field){.bytes = value->valuestring, .len = strlen(value->valuestring)};
            return true;
        }
        if (integers && cJSON_IsNumber(value) && fabs(value->valuedouble) <= 0x1p53 &&
            value->valuedouble == floor(value->valuedouble)) {
            int n = snprintf(number, 32, "%lld", (long long)value->valuedouble);
            *field = (struct dd_field){.bytes = number, .len = (size_t)n};
            return true;
        }
        snprintf(reason, 200, "\"%.60s\" is not a string%s", *names, integers ? " or a whole number" : "");
        return false;
    }
    return true;
}
