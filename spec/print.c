/* JSON as text with every number exact: cJSON (1.7.15) stops at 15 digits where it finds the rest negligible, which
 * changes seeds and ids from 10^15 on and the last bits of a learning rate.
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>

#include "spec/fields.h"

#define EXACT_INTEGERS 9007199254740992.0 /* 2^53 */

/* A number that cJSON would not print exactly, or print as 1e+15, becomes raw text. */
static bool make_exact(cJSON *number) {
    double value = number->valuedouble;
    char text[DD_NUMBER_BYTES];
    if (!isfinite(value) || (value == trunc(value) && fabs(value) < 1e15))
        return true;
    if (value == trunc(value) && fabs(value) <= EXACT_INTEGERS)
        snprintf(text, sizeof text, "%.0f", value);
    else
        dd_number_text(value, text);
    number->valuestring = dd_strdup(text);
    if (number->valuestring == NULL)
        return false;
    number->type = (number->type & ~0xFF) | cJSON_Raw;
    return true;
}

/* Recursion is as deep as the tree: what comes from outside is bounded by its parser, the rest we built. */
static bool make_all_exact(cJSON *value) {
    if (cJSON_IsNumber(value))
        return make_exact(value);
    for (cJSON *child = value->child; child != NULL; child = child->next)
        if (!make_all_exact(child))
            return false;
    return true;
}

/* Back to numbers; raw text comes from nowhere else. */
static void restore(cJSON *value) {
    if (cJSON_IsRaw(value)) {
        free(value->valuestring);
        value->valuestring = NULL;
        value->type = (value->type & ~0xFF) | cJSON_Number;
    }
    for (cJSON *child = value->child; child != NULL; child = child->next)
        restore(child);
}

char *dd_json_print(cJSON *json, bool pretty) {
    if (json == NULL)
        return NULL;
    char *text = NULL;
    if (make_all_exact(json))
        text = pretty ? cJSON_Print(json) : cJSON_PrintUnformatted(json);
    restore(json);
    return text;
}
