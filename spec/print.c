/* JSON as text, with every number exact: cJSON (1.7.15) stops at 15 digits where it finds the rest negligible, which
 * changes seeds and ids from 10^15 on and the last bits of a learning rate.  Numbers are those of base/number.c, the
 * layout is that of cJSON: without spaces, or indented by tabs.  Threads: pure functions, any thread.
 */
#include <stdlib.h>
#include <string.h>

#include "spec/fields.h"

#define MOST_BYTES ((size_t)1 << 30)

static void put_string(struct dd_buffer *out, const char *text) {
    static const char special[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\", hex[] = "0123456789abcdef";
    dd_buffer_putc(out, '"');
    for (;;) {
        const char *end = text;
        while ((unsigned char)*end >= 0x20 && *end != '"' && *end != '\\')
            end++;
        dd_buffer_append(out, text, (size_t)(end - text));
        if (*end == '\0')
            break;
        const char *known = strchr(special, *end);
        const char escape[6] = {
            '\\',           known != NULL ? letters[known - special] : 'u', '0', '0', hex[(unsigned char)*end >> 4],
            hex[*end & 0xF]};
        dd_buffer_append(out, escape, known != NULL ? 2 : sizeof escape);
        text = end + 1;
    }
    dd_buffer_putc(out, '"');
}

static void put_tabs(struct dd_buffer *out, int count) {
    while (count-- > 0)
        dd_buffer_putc(out, '\t');
}

static void put_value(struct dd_buffer *out, const cJSON *value, int depth, bool pretty);

static void put_array(struct dd_buffer *out, const cJSON *array, int depth, bool pretty) {
    const cJSON *item;
    dd_buffer_putc(out, '[');
    cJSON_ArrayForEach(item, array) {
        put_value(out, item, depth, pretty);
        if (item->next != NULL)
            dd_buffer_puts(out, pretty ? ", " : ",");
    }
    dd_buffer_putc(out, ']');
}

static void put_object(struct dd_buffer *out, const cJSON *object, int depth, bool pretty) {
    const cJSON *item;
    dd_buffer_puts(out, pretty ? "{\n" : "{");
    cJSON_ArrayForEach(item, object) {
        if (pretty)
            put_tabs(out, depth);
        put_string(out, item->string != NULL ? item->string : "");
        dd_buffer_puts(out, pretty ? ":\t" : ":");
        put_value(out, item, depth, pretty);
        if (item->next != NULL)
            dd_buffer_putc(out, ',');
        if (pretty)
            dd_buffer_putc(out, '\n');
    }
    if (pretty)
        put_tabs(out, depth - 1);
    dd_buffer_putc(out, '}');
}

/* Recursion is as deep as the tree: what comes from outside is bounded by its parser, the rest we built. */
static void put_value(struct dd_buffer *out, const cJSON *value, int depth, bool pretty) {
    switch (value->type & 0xFF) {
    case cJSON_Number:
        dd_buffer_put_number(out, value->valuedouble);
        break;
    case cJSON_String:
        put_string(out, value->valuestring != NULL ? value->valuestring : "");
        break;
    case cJSON_Raw:
        dd_buffer_puts(out, value->valuestring != NULL ? value->valuestring : "null");
        break;
    case cJSON_Array:
        put_array(out, value, depth + 1, pretty);
        break;
    case cJSON_Object:
        put_object(out, value, depth + 1, pretty);
        break;
    case cJSON_True:
        dd_buffer_puts(out, "true");
        break;
    case cJSON_False:
        dd_buffer_puts(out, "false");
        break;
    default:
        dd_buffer_puts(out, "null");
    }
}

char *dd_json_print(const cJSON *json, bool pretty) {
    if (json == NULL)
        return NULL;
    struct dd_buffer out;
    dd_buffer_init(&out, MOST_BYTES);
    put_value(&out, json, 0, pretty);
    char *text = out.failed ? NULL : dd_buffer_take(&out, NULL);
    dd_buffer_release(&out);
    return text;
}
