/* Epochs as JSON objects, JSON columns and CSV: one table of columns for all three.
 * Threads: any.
 */
#include <math.h>
#include <string.h>

#include "daemon/daemon.h"

static const struct {
    const char *name;
    size_t offset;
    bool sparse; /* of few runs: left out of an epoch's object without a value, behind the rest in CSV */
    bool noisy;  /* worth smoothing */
} columns[] = {
#define COLUMN(field)                                                                                                  \
    { #field, offsetof(struct dd_epoch_row, field), false, true }
#define PLAIN(field)                                                                                                   \
    { #field, offsetof(struct dd_epoch_row, field), false, false }
#define SPARSE(field)                                                                                                  \
    { #field, offsetof(struct dd_epoch_row, field), true, true }
    COLUMN(train_loss),
    COLUMN(train_kl),
    COLUMN(train_ce),
    COLUMN(dev_loss),
    COLUMN(accuracy),
    COLUMN(macro_precision),
    COLUMN(macro_recall),
    COLUMN(macro_f1),
    COLUMN(weighted_precision),
    COLUMN(weighted_recall),
    COLUMN(weighted_f1),
    COLUMN(teacher_agreement),
    PLAIN(lr),
    PLAIN(seconds),
    PLAIN(elapsed_seconds),
    PLAIN(tokens_per_second),
    SPARSE(dev_kl),
    SPARSE(dev_ce),
    SPARSE(train_hidden),
    SPARSE(train_cls),
    SPARSE(train_attention),
    SPARSE(train_relation),
#undef COLUMN
#undef PLAIN
#undef SPARSE
};
/* When an epoch was recorded is a text, so no column above; in a set it has the last bit. */
static const char recorded_at[] = "recorded_at";
#define RECORDED_AT (UINT32_C(1) << 31)
_Static_assert(DD_ARRAY_LEN(columns) < 32, "a set of columns is a uint32_t");

static double value_at(const struct dd_epoch_row *row, size_t column) {
    double value;
    memcpy(&value, (const char *)row + columns[column].offset, sizeof value);
    return value;
}

uint32_t dd_epoch_columns(const char *names) {
    if (names == NULL)
        return UINT32_MAX;
    uint32_t set = 0;
    while (*names != '\0') {
        size_t n = strcspn(names, ",");
        for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++)
            if (strlen(columns[k].name) == n && memcmp(columns[k].name, names, n) == 0)
                set |= 1u << k;
        if (n == strlen(recorded_at) && memcmp(recorded_at, names, n) == 0)
            set |= RECORDED_AT;
        names += n + (names[n] == ',');
    }
    return set;
}

uint32_t dd_epoch_smoothed_columns(void) {
    uint32_t set = 0;
    for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++)
        set |= columns[k].noisy ? 1u << k : 0;
    return set;
}

size_t dd_epoch_smoothed(size_t *offsets, size_t room) {
    size_t n = 0;
    for (size_t k = 0; k < DD_ARRAY_LEN(columns) && n < room; k++)
        if (columns[k].noisy)
            offsets[n++] = columns[k].offset;
    return n;
}

cJSON *dd_epoch_smooth_json(const struct dd_epoch_row *row) {
    cJSON *json = cJSON_CreateObject();
    for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++)
        if (columns[k].noisy && (!columns[k].sparse || isfinite(value_at(row, k))))
            dd_put_number(json, columns[k].name, value_at(row, k));
    return json;
}

cJSON *dd_epoch_json(const struct dd_epoch_row *row, bool is_best) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "epoch", row->epoch);
    for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++)
        if (!columns[k].sparse || isfinite(value_at(row, k)))
            dd_put_number(json, columns[k].name, value_at(row, k));
    cJSON_AddBoolToObject(json, "is_best", is_best);
    if (row->rollback != DD_ROLLBACK_NONE) {
        cJSON *rollback = cJSON_AddObjectToObject(json, "rollback");
        cJSON_AddStringToObject(rollback, "reason", dd_rollback_name((enum dd_rollback)row->rollback));
        cJSON_AddNumberToObject(rollback, "to_epoch", row->rollback_to);
    } else {
        cJSON_AddNullToObject(json, "rollback");
    }
    if (row->attempt > 0) /* unknown of epochs that earlier versions recorded */
        cJSON_AddNumberToObject(json, "attempt", row->attempt);
    dd_put_time(json, recorded_at, row->recorded_ms);
    return json;
}

cJSON *dd_epoch_series(const struct dd_epoch_row *rows, size_t count, uint32_t wanted) {
    cJSON *json = cJSON_CreateObject(), *epochs = cJSON_AddArrayToObject(json, "epoch");
    for (size_t i = 0; i < count; i++)
        cJSON_AddItemToArray(epochs, cJSON_CreateNumber(rows[i].epoch));
    for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++) {
        if ((wanted & (1u << k)) == 0)
            continue;
        cJSON *column = cJSON_AddArrayToObject(json, columns[k].name);
        for (size_t i = 0; i < count; i++) {
            double value = value_at(&rows[i], k);
            cJSON_AddItemToArray(column, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
        }
    }
    if ((wanted & RECORDED_AT) != 0) {
        cJSON *column = cJSON_AddArrayToObject(json, recorded_at);
        for (size_t i = 0; i < count; i++) {
            char text[DD_TIME_TEXT_BYTES];
            dd_time_format(rows[i].recorded_ms, text);
            cJSON_AddItemToArray(column, cJSON_CreateString(text));
        }
    }
    return json;
}

static void csv_names(bool sparse, struct dd_buffer *out) {
    for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++)
        if (columns[k].sparse == sparse)
            dd_buffer_printf(out, ",%s", columns[k].name);
}

static void csv_values(const struct dd_epoch_row *row, bool sparse, struct dd_buffer *out) {
    for (size_t k = 0; k < DD_ARRAY_LEN(columns); k++) {
        double value = value_at(row, k);
        if (columns[k].sparse != sparse)
            continue;
        dd_buffer_putc(out, ',');
        if (isfinite(value)) /* empty, where there is no value */
            dd_buffer_printf(out, "%.17g", value);
    }
}

void dd_epoch_csv_head(struct dd_buffer *out) {
    dd_buffer_puts(out, "epoch");
    csv_names(false, out);
    dd_buffer_puts(out, ",is_best,rollback,rollback_to");
    csv_names(true, out);
    dd_buffer_putc(out, '\n');
}

void dd_epoch_csv(const struct dd_epoch_row *row, bool is_best, struct dd_buffer *out) {
    dd_buffer_printf(out, "%d", row->epoch);
    csv_values(row, false, out);
    dd_buffer_puts(out, is_best ? ",true" : ",false");
    if (row->rollback == DD_ROLLBACK_NONE)
        dd_buffer_puts(out, ",,");
    else
        dd_buffer_printf(out, ",%s,%d", dd_rollback_name((enum dd_rollback)row->rollback), row->rollback_to);
    csv_values(row, true, out);
    dd_buffer_putc(out, '\n');
}
