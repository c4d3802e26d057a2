/* distilld gc: what the daemon's retention would remove, or does now instead of within the hour.
 * Threads: main.
 */
#include <inttypes.h>

#include "daemon/command.h"

int dd_gc_command(const struct dd_options *options, const char *const *args) {
    (void)args;
    struct dd_error err = {0};
    struct dd_client *client;
    double bytes = 0;
    int count = 0;
    bool more = true;
    enum dd_status status = dd_client_open(options, &client, &err);
    if (status != DD_OK)
        return dd_report_error(&err);
    while (status == DD_OK && more) {
        cJSON *json = NULL;
        const cJSON *item;
        status = dd_client_call(client, "POST", options->dry_run ? "/gc?dry_run=1" : "/gc", "{}", &json, &err);
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(json, "items")) {
            printf("%-10s  %-24s  %12.0f bytes  %s\n", cJSON_GetStringValue(cJSON_GetObjectItem(item, "kind")),
                   cJSON_GetStringValue(cJSON_GetObjectItem(item, "name")),
                   cJSON_GetNumberValue(cJSON_GetObjectItem(item, "bytes")),
                   cJSON_GetStringValue(cJSON_GetObjectItem(item, "reason")));
            bytes += cJSON_GetNumberValue(cJSON_GetObjectItem(item, "bytes"));
            count++;
        }
        more = !options->dry_run && cJSON_IsTrue(cJSON_GetObjectItem(json, "more"));
        cJSON_Delete(json);
    }
    dd_client_close(client);
    if (status != DD_OK)
        return dd_report_error(&err);
    printf("%d thing%s, %.0f bytes%s\n", count, count == 1 ? "" : "s", bytes,
           options->dry_run ? " would be removed" : " removed");
    return 0;
}
