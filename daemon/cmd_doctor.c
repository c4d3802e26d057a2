/* distilld doctor: looks whether this machine, this configuration and this data directory are as they should be.
 * Threads: main.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/doctor.h"

const char *const dd_finding_names[] = {[DD_FINDING_OK] = "ok", [DD_FINDING_WARN] = "warn", [DD_FINDING_FAIL] = "fail"};

void dd_finding(struct dd_findings *findings, enum dd_finding_level level, const char *check, const char *remedy,
                const char *fmt, ...) {
    char detail[1024];
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "check", check);
    cJSON_AddStringToObject(item, "level", dd_finding_names[level]);
    cJSON_AddStringToObject(item, "detail", length < 0 ? "" : detail);
    cJSON_AddStringToObject(item, "remedy", remedy);
    cJSON_AddItemToArray(findings->items, item);
    findings->worst = DD_MAX(findings->worst, level);
}

static const char *text_of(const cJSON *item, const char *name) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, name));
    return text != NULL ? text : "";
}

static void print_table(const struct dd_findings *findings) {
    const cJSON *item;
    cJSON_ArrayForEach(item, findings->items) {
        const char *remedy = text_of(item, "remedy");
        printf("%-4s  %-12s  %s\n", text_of(item, "level"), text_of(item, "check"), text_of(item, "detail"));
        if (remedy[0] != '\0')
            printf("%20s%s\n", "-> ", remedy);
    }
}

static void print_json(struct dd_findings *findings) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "worst", dd_finding_names[findings->worst]);
    cJSON_AddItemToObject(json, "checks", findings->items);
    DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(json, true);
    puts(text != NULL ? text : "");
    findings->items = NULL;
    cJSON_Delete(json);
}

int dd_doctor_command(const struct dd_options *options, const char *const *args) {
    (void)args;
    struct dd_error err = {0};
    char dir[PATH_MAX];
    enum dd_status status = dd_admin_data_dir(options, dir, &err);
    if (status == DD_OK)
        status = dd_admin_become_owner(dir, &err);
    if (status != DD_OK)
        return dd_report_error(&err);
    struct dd_findings findings = {.items = cJSON_CreateArray()};
    dd_doctor_machine(&findings, options, dir);
    dd_doctor_data(&findings, options, dir);
    if (options->json)
        print_json(&findings);
    else
        print_table(&findings);
    cJSON_Delete(findings.items);
    return findings.worst == DD_FINDING_FAIL ? 1 : 0;
}
