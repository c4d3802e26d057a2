/* distilld watch: an experiment's events as a progress line.
 * Threads: main only.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "daemon/command.h"

#define MAX_RECONNECTS 30 /* a second apart: a daemon that restarts is back within that */

struct watch {
    struct dd_line line;
    int last_epoch;
    char status[16];
    double loss, f1;
    bool alive; /* something came since the last reconnect */
};

static const cJSON *field(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static double number(const cJSON *object, const char *name) {
    const cJSON *value = field(object, name);
    return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static bool is_final(const char *status) {
    return strcmp(status, "finished") == 0 || strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0 ||
           strcmp(status, "deleted") == 0;
}

static void draw(struct watch *w, const cJSON *progress, bool now) {
    char left[32];
    dd_duration_text(number(progress, "eta_seconds"), left);
    double rate = number(progress, "tokens_per_second");
    dd_line_draw(&w->line, now, "%s  epoch %.0f/%.0f  step %.0f/%.0f  loss %.4f  macro F1 %.4f  %.0f tokens/s%s%s%s",
                 w->status, number(progress, "epoch"), number(progress, "epochs"), number(progress, "step"),
                 number(progress, "steps"), w->loss, w->f1, isfinite(rate) ? rate : 0, left[0] != '\0' ? "  " : "",
                 left, left[0] != '\0' ? " left" : "");
}

static void on_epoch(struct watch *w, const cJSON *epoch) {
    int n = (int)number(epoch, "epoch");
    if (n <= w->last_epoch)
        return;
    w->last_epoch = n;
    w->f1 = number(epoch, "macro_f1");
    dd_line_print(&w->line, "epoch %3d  loss %.4f  dev loss %.4f  accuracy %.4f  macro F1 %.4f%s", n,
                  number(epoch, "train_loss"), number(epoch, "dev_loss"), number(epoch, "accuracy"), w->f1,
                  cJSON_IsTrue(field(epoch, "is_best")) ? "  best" : "");
    const cJSON *rollback = field(epoch, "rollback");
    if (cJSON_IsObject(rollback))
        dd_line_print(&w->line, "epoch %3d  rolled back to epoch %.0f (%s)", n, number(rollback, "to_epoch"),
                      cJSON_GetStringValue(field(rollback, "reason")));
}

static void on_status(struct watch *w, const cJSON *experiment) {
    const char *status = cJSON_GetStringValue(field(experiment, "status"));
    if (status == NULL)
        return;
    if (strcmp(status, w->status) != 0 && !is_final(status))
        dd_line_print(&w->line, "%s", status);
    snprintf(w->status, sizeof w->status, "%s", status);
    draw(w, field(experiment, "progress"), true);
}

static bool on_event(void *context, const char *type, const cJSON *data) {
    struct watch *w = context;
    w->alive = true;
    if (strcmp(type, "status") == 0) {
        on_status(w, data);
    } else if (strcmp(type, "epoch") == 0) {
        on_epoch(w, data);
    } else if (strcmp(type, "step") == 0) {
        const cJSON *steps = field(data, "steps");
        w->loss = number(cJSON_GetArrayItem(steps, cJSON_GetArraySize(steps) - 1), "loss");
        draw(w, field(data, "progress"), false);
    }
    return !is_final(w->status);
}

/* What GETs know: the status and the epochs so far. */
static enum dd_status catch_up(struct dd_client *client, int64_t id, struct watch *w, cJSON **ret_experiment,
                               struct dd_error *err) {
    char path[96];
    cJSON *experiment = NULL, *metrics = NULL;
    snprintf(path, sizeof path, "/experiments/%" PRId64, id);
    enum dd_status status = dd_client_call(client, "GET", path, NULL, &experiment, err);
    if (status != DD_OK)
        return status;
    snprintf(path, sizeof path, "/experiments/%" PRId64 "/metrics?after=%d", id, w->last_epoch);
    status = dd_client_call(client, "GET", path, NULL, &metrics, err);
    if (status == DD_OK) {
        const cJSON *epoch;
        cJSON_ArrayForEach(epoch, field(metrics, "epochs")) {
            on_epoch(w, epoch);
        }
        on_status(w, experiment);
        cJSON_Delete(metrics);
        *ret_experiment = experiment;
    } else {
        cJSON_Delete(experiment);
    }
    return status;
}

static int conclude(struct watch *w, int64_t id, const cJSON *experiment) {
    const cJSON *best = field(experiment, "best"), *model = field(experiment, "model");
    const cJSON *error = field(experiment, "error");
    dd_line_clear(&w->line);
    printf("experiment %" PRId64 " %s", id, w->status);
    if (cJSON_IsObject(best))
        printf(": best epoch %.0f, accuracy %.4f, macro F1 %.4f", number(best, "epoch"), number(best, "accuracy"),
               number(best, "macro_f1"));
    const char *name = cJSON_GetStringValue(field(model, "name")),
               *message = cJSON_GetStringValue(field(error, "message"));
    if (name != NULL)
        printf("; model %s", name);
    if (message != NULL)
        printf("; %s", message);
    printf("\n");
    return strcmp(w->status, "finished") == 0 ? 0 : 1;
}

int dd_watch_experiment(struct dd_client *client, int64_t id) {
    struct watch w = {.loss = NAN, .f1 = NAN};
    struct dd_error err = {0};
    char path[96];
    dd_line_init(&w.line, stdout, false);
    snprintf(path, sizeof path, "/experiments/%" PRId64 "/events", id);
    for (int lost = 0;;) {
        cJSON *experiment = NULL;
        enum dd_status status = catch_up(client, id, &w, &experiment, &err);
        if (status == DD_OK && is_final(w.status)) {
            int code = conclude(&w, id, experiment);
            cJSON_Delete(experiment);
            return code;
        }
        cJSON_Delete(experiment);
        w.alive = false;
        if (status == DD_OK) /* what ends it is either the final state or a lost line: both are looked up again */
            status = dd_client_events(client, path, on_event, &w, &err);
        if (status != DD_OK && status != DD_BUSY) {
            dd_line_clear(&w.line);
            return dd_report_error(&err);
        }
        lost = w.alive ? 0 : lost + 1;
        if (lost > 1 && status == DD_OK)
            sleep(1);
        if (status == DD_BUSY) {
            if (lost > MAX_RECONNECTS || w.status[0] == '\0') {
                dd_line_clear(&w.line);
                return dd_report_error(&err);
            }
            sleep(1);
        }
    }
}

int dd_watch_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_client *client;
    int64_t id;
    if (!dd_id_parse(args[0], &id)) {
        fprintf(stderr, "distilld: \"%s\" is no experiment's number\n", args[0]);
        return DD_EXIT_USAGE;
    }
    if (dd_client_open(options, &client, &err) != DD_OK)
        return dd_report_error(&err);
    int code = dd_watch_experiment(client, id);
    dd_client_close(client);
    return code;
}
