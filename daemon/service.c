/* The table of operations that api/ calls, and what several of them share.
 * Threads: HTTP and request threads; daemon points to struct dd_daemon.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/daemon.h"

/* A key whose answer was never stored, because the daemon died in between: what it made is shown as it is now. */
static enum dd_status made_by_claim(struct dd_daemon *daemon, const char *location, char **ret_body,
                                    struct dd_error *err) {
    static const struct {
        const char *prefix;
        dd_api_fn *get;
    } kinds[] = {{"/api/v1/experiments/", dd_experiment_get_op}, {"/api/v1/sweeps/", dd_sweep_get_op}};
    struct dd_api_result result = {.fd = -1};
    struct dd_api_call call = {.method = "GET", .path = location};
    struct dd_problem problem = {.retry_after_s = 0};
    enum dd_status status = DD_NOT_FOUND;
    for (size_t i = 0; i < DD_ARRAY_LEN(kinds); i++) {
        size_t length = strlen(kinds[i].prefix);
        if (strncmp(location, kinds[i].prefix, length) == 0) {
            call.id = strtoll(location + length, NULL, 10);
            status = kinds[i].get(daemon, &call, &result, &problem);
        }
    }
    if (status == DD_NOT_FOUND) { /* deleted since */
        result.json = cJSON_CreateObject();
        cJSON_AddNumberToObject(result.json, "id", (double)call.id);
        status = DD_OK;
    }
    char *body = status == DD_OK ? dd_json_print(result.json, false) : NULL;
    cJSON_Delete(result.json);
    dd_buffer_release(&result.text);
    dd_faults_release(&problem.faults);
    if (status != DD_OK) {
        *err = problem.error;
        return status;
    }
    *ret_body = body;
    return body != NULL ? DD_OK : dd_fail_json(err);
}

static enum dd_status idempotent_get(void *context, const char *key, char **ret_request_hash, int *ret_status,
                                     char **ret_location, char **ret_body, struct dd_error *err) {
    struct dd_daemon *daemon = context;
    struct dd_idempotent record;
    enum dd_status status = dd_storage_idempotent_get(daemon->storage, key, &record, err);
    if (status == DD_OK && record.body == NULL && record.location != NULL) {
        status = made_by_claim(daemon, record.location, &record.body, err);
        if (status != DD_OK)
            dd_idempotent_release(&record);
    }
    if (status != DD_OK)
        return status;
    *ret_request_hash = record.request_hash; /* ownership goes on to the caller */
    *ret_status = record.status;
    *ret_location = record.location;
    *ret_body = record.body;
    return DD_OK;
}

static enum dd_status idempotent_put(void *context, const char *key, const char *request_hash, int status,
                                     const char *location, const char *body, struct dd_error *err) {
    struct dd_daemon *daemon = context;
    struct dd_idempotent record = {.request_hash = dd_strdup(request_hash),
                                   .status = status,
                                   .location = dd_strdup(location != NULL ? location : ""),
                                   .body = dd_strdup(body != NULL ? body : "")};
    enum dd_status result = record.request_hash == NULL || record.location == NULL || record.body == NULL
                                ? dd_fail_memory(err, 0)
                                : dd_storage_idempotent_put(daemon->storage, key, &record, err);
    dd_idempotent_release(&record);
    return result;
}

/* Both only grow, so their sum is another one whenever either is. */
static uint64_t revision(void *context) {
    struct dd_daemon *daemon = context;
    return dd_storage_revision(daemon->storage) + daemon->told;
}

static bool cores_taken(void *context) {
    struct dd_daemon *daemon = context;
    return daemon->leaves_no_core && dd_workers_busy(daemon->workers) > 0;
}

void dd_service_fill(struct dd_daemon *daemon, struct dd_api_ops *ret_ops) {
    *ret_ops = (struct dd_api_ops){
        .daemon = daemon,
        .dataset_create = dd_dataset_create_op,
        .dataset_list = dd_dataset_list_op,
        .dataset_get = dd_dataset_get_op,
        .dataset_rows = dd_dataset_rows_op,
        .dataset_delete = dd_dataset_delete_op,
        .model_create = dd_model_create_op,
        .model_list = dd_model_list_op,
        .model_get = dd_model_get_op,
        .model_archive = dd_model_archive_op,
        .model_predict = dd_model_predict_op,
        .model_evaluate = dd_model_evaluate_op,
        .model_prune = dd_model_prune_op,
        .model_quantize = dd_model_quantize_op,
        .model_delete = dd_model_delete_op,
        .experiment_create = dd_experiment_create_op,
        .experiment_list = dd_experiment_list_op,
        .experiment_get = dd_experiment_get_op,
        .experiment_patch = dd_experiment_patch_op,
        .experiment_delete = dd_experiment_delete_op,
        .experiment_cancel = dd_experiment_cancel_op,
        .experiment_pause = dd_experiment_pause_op,
        .experiment_resume = dd_experiment_resume_op,
        .experiment_retry = dd_experiment_retry_op,
        .experiment_clone = dd_experiment_clone_op,
        .experiment_metrics = dd_experiment_metrics_op,
        .experiment_steps = dd_experiment_steps_op,
        .experiment_report = dd_experiment_report_op,
        .experiment_predictions = dd_experiment_predictions_op,
        .experiment_log = dd_experiment_log_op,
        .experiment_archive = dd_experiment_archive_op,
        .compare = dd_compare_op,
        .sweep_create = dd_sweep_create_op,
        .sweep_list = dd_sweep_list_op,
        .sweep_get = dd_sweep_get_op,
        .sweep_cancel = dd_sweep_cancel_op,
        .preset_list = dd_preset_list_op,
        .system = dd_system_op,
        .gc = dd_gc_op,
        .ready = dd_ready_op,
        .metrics_text = dd_metrics_text_op,
        .tokens = dd_tokens_op,
        .revision = revision,
        .cores_taken = cores_taken,
        .idempotent_get = idempotent_get,
        .idempotent_put = idempotent_put,
    };
}

const char **dd_class_names(const struct dd_dataset *dataset) {
    int n = dd_dataset_classes(dataset);
    const char **names = dd_calloc((size_t)n, sizeof *names);
    for (int i = 0; names != NULL && i < n; i++)
        names[i] = dd_dataset_class(dataset, i);
    return names;
}

enum dd_status dd_answer_report(const struct dd_report *report, const char *const *class_names, bool text,
                                struct dd_api_result *result, struct dd_error *err) {
    if (text) {
        dd_buffer_init(&result->text, 1 << 20);
        dd_report_text(report, class_names, 4, &result->text);
        result->content_type = "text/plain; charset=utf-8";
        return dd_buffer_check(&result->text, err);
    }
    result->json = dd_report_json(report, class_names);
    return result->json != NULL ? DD_OK : dd_fail_json(err);
}

/* Rows of the split that have a label, their gold labels in *gold. */
static enum dd_status labelled_rows(const struct dd_dataset *dataset, enum dd_split split, struct dd_row **ret_rows,
                                    int32_t **ret_gold, size_t *ret_n, struct dd_error *err) {
    uint64_t total = dd_dataset_rows(dataset, split);
    if (!dd_dataset_split(dataset, split)->present || total == 0)
        return dd_fail(err, DD_INVALID, "split_missing", "the data set has no %s split", dd_split_name(split));
    struct dd_row *rows = dd_calloc(total, sizeof *rows);
    int32_t *gold = dd_calloc(total, sizeof *gold);
    if (rows == NULL || gold == NULL) {
        free(rows);
        free(gold);
        return dd_fail_memory(err, total * sizeof *rows);
    }
    for (uint64_t i = 0; i < total; i++) {
        dd_dataset_row(dataset, split, i, &rows[i]);
        gold[i] = rows[i].label;
    }
    *ret_rows = rows;
    *ret_gold = gold;
    *ret_n = total;
    return DD_OK;
}

/* For each label of the model its class in the data set: by name, or by number where labels are only LABEL_0 … */
static enum dd_status match_labels(const struct dd_model_info *info, const struct dd_dataset *dataset, int *ret_class,
                                   struct dd_error *err) {
    int n_classes = dd_dataset_classes(dataset), matched = 0;
    bool unnamed = info->n_labels == n_classes && strcmp(info->labels[0], "LABEL_0") == 0;
    for (int l = 0; l < info->n_labels; l++) {
        ret_class[l] = unnamed ? l : -1;
        for (int c = 0; c < n_classes && !unnamed; c++)
            if (strcmp(info->labels[l], dd_dataset_class(dataset, c)) == 0)
                ret_class[l] = c;
        matched += ret_class[l] >= 0;
    }
    if (matched == n_classes)
        return DD_OK;
    return dd_fail(err, DD_INVALID, "labels_differ",
                   "the model's labels (\"%s\" …) are not the data set's classes "
                   "(\"%s\" …)",
                   info->labels[0], dd_dataset_class(dataset, 0));
}

static enum dd_status predict(const struct dd_model *model, struct dd_pool *pool, int max_length,
                              const struct dd_row *rows, size_t n, const struct dd_cancel *cancel, float *logits,
                              struct dd_error *err) {
    struct dd_predictor *predictor = NULL;
    enum dd_status status = dd_predictor_new(model, pool, max_length, &predictor, err);
    if (status == DD_OK)
        status = dd_predict(predictor, rows, n, cancel, logits, err);
    dd_predictor_free(predictor);
    return status;
}

enum dd_status dd_evaluate(const struct dd_model *model, struct dd_pool *pool, int max_length,
                           const struct dd_dataset *dataset, enum dd_split split, const struct dd_cancel *cancel,
                           struct dd_report *ret_report, struct dd_error *err) {
    const struct dd_model_info *info = &model->info;
    int class_of[DD_MAX_CLASSES];
    struct dd_row *rows = NULL;
    int32_t *gold = NULL;
    size_t n = 0;
    enum dd_status status = match_labels(info, dataset, class_of, err);
    if (status == DD_OK)
        status = labelled_rows(dataset, split, &rows, &gold, &n, err);
    if (status != DD_OK)
        return status;
    float *logits = dd_calloc(n, (size_t)info->n_labels * sizeof *logits);
    int32_t *predicted = dd_calloc(n, sizeof *predicted);
    if (logits == NULL || predicted == NULL)
        status = dd_fail_memory(err, n * (size_t)info->n_labels * sizeof *logits);
    if (status == DD_OK)
        status = predict(model, pool, max_length, rows, n, cancel, logits, err);
    for (size_t i = 0; status == DD_OK && i < n; i++) {
        const float *row = &logits[i * (size_t)info->n_labels];
        int best = -1; /* among the labels that the data set knows, as training does */
        for (int l = 0; l < info->n_labels; l++)
            if (class_of[l] >= 0 && (best < 0 || row[l] > row[best]))
                best = l;
        assert(best >= 0); /* match_labels saw every class under some label */
        predicted[i] = class_of[best];
    }
    if (status == DD_OK)
        status = dd_report_compute(gold, predicted, n, dd_dataset_classes(dataset), false, ret_report, err);
    free(logits);
    free(predicted);
    free(rows);
    free(gold);
    return status;
}

void dd_export_name(const char *name, int epoch, double precision, double recall, double f1,
                    char out[DD_EXPORT_NAME_BYTES]) {
    if (epoch > 0 && isfinite(precision + recall + f1))
        snprintf(out, DD_EXPORT_NAME_BYTES, "%.*s_epoch_%d_p_%.4f_r_%.4f_f_%.4f", DD_NAME_BYTES - 1, name, epoch,
                 precision, recall, f1);
    else
        snprintf(out, DD_EXPORT_NAME_BYTES, "%.*s", DD_NAME_BYTES - 1, name);
}

enum dd_status dd_answer_archive(struct dd_daemon *daemon, const char *dir, const char *root,
                                 const struct dd_cancel *cancel, struct dd_api_result *result, struct dd_error *err) {
    char uploads[PATH_MAX];
    enum dd_status status = dd_path_join(uploads, sizeof uploads, err, daemon->data_dir, "uploads", NULL);
    if (status != DD_OK)
        return status;
    /* Without a name: gone when it is sent or when the daemon dies. */
    int fd = DD_FAILABLE("open", open(uploads, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (fd < 0) {
        char path[PATH_MAX + 16];
        snprintf(path, sizeof path, "%s/archive-XXXXXX", uploads);
        fd = DD_FAILABLE("open", mkostemp(path, O_CLOEXEC));
        if (fd < 0)
            return dd_fail_errno(err, errno, "%s", uploads);
        unlink(path);
    }
    status = dd_archive_write(dir, root, fd, cancel, err);
    if (status == DD_OK && lseek(fd, 0, SEEK_SET) != 0)
        status = dd_fail_errno(err, errno, "%s", uploads);
    if (status != DD_OK) {
        close(fd);
        return status;
    }
    result->fd = fd;
    result->content_type = "application/gzip";
    snprintf(result->filename, sizeof result->filename, "%s.tar.gz", root);
    return DD_OK;
}
