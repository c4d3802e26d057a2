/* From a request body to a row in the queue: names are resolved, sizes checked, memory estimated; every fault is found
 * before anything is refused.
 * Threads: HTTP and request threads.
 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

void dd_no_such_asset(struct dd_daemon *daemon, enum dd_asset_kind kind, const char *name, char *out,
                      size_t out_bytes) {
    const char *what = kind == DD_ASSET_DATASET ? "data set" : "model";
    struct dd_asset *items = NULL;
    size_t count = 0;
    char *next = NULL;
    struct dd_error err;
    const char *near = NULL;
    int best = INT_MAX;
    int64_t maker;
    enum dd_state state;
    if (kind == DD_ASSET_MODEL && dd_storage_experiment_making(daemon->storage, name, &maker, &state, &err) == DD_OK) {
        snprintf(out, out_bytes,
                 "there is no model \"%s\" yet: experiment %" PRId64
                 " makes it and is %s; ask again when it has finished",
                 name, maker, dd_state_name(state));
        return;
    }
    if (dd_storage_asset_list(daemon->storage, kind, NULL, NULL, 500, &items, &count, &next, &err) == DD_OK)
        for (size_t i = 0; i < count; i++)
            if (dd_near_miss(name, items[i].name, &best))
                near = items[i].name;
    if (near != NULL)
        snprintf(out, out_bytes, "there is no %s \"%s\"; did you mean \"%s\"?", what, name, near);
    else if (count == 0)
        snprintf(out, out_bytes, "there is no %s \"%s\", nor any other yet", what, name);
    else
        snprintf(out, out_bytes, "there is no %s \"%s\"; there %s \"%s\"%s", what, name, count == 1 ? "is" : "are",
                 items[0].name, count == 1 ? "" : " and others");
    dd_assets_free(items, count);
    free(next);
}

/* --- what a submission stands on ---------------------------------------------------------------------------------- */

struct submission {
    struct dd_daemon *daemon;
    struct dd_spec spec;
    struct dd_asset dataset, base, init, vocabulary; /* name NULL: none */
    struct dd_asset teachers[DD_MAX_TEACHERS];       /* as spec.teachers */
    struct dd_bert_config teacher_configs[DD_MAX_TEACHERS];
    struct dd_bert_config base_config, init_config, vocabulary_config;
    bool has_base, has_init, has_vocabulary;
    struct dd_train_estimate estimate;
    struct dd_faults *faults;
};

static void submission_free(struct submission *s) {
    if (s == NULL)
        return;
    dd_asset_release(&s->dataset);
    dd_asset_release(&s->base);
    dd_asset_release(&s->init);
    dd_asset_release(&s->vocabulary);
    for (int i = 0; i < DD_MAX_TEACHERS; i++)
        dd_asset_release(&s->teachers[i]);
    free(s);
}

/* A named asset; a fault where there is none; another error is the daemon's. */
static enum dd_status find_asset(struct submission *s, enum dd_asset_kind kind, const char *pointer, const char *name,
                                 struct dd_asset *ret_asset, struct dd_error *err) {
    if (name[0] == '\0')
        return DD_OK;
    enum dd_status status = dd_storage_asset_get(s->daemon->storage, kind, name, ret_asset, err);
    if (status != DD_NOT_FOUND)
        return status;
    char detail[384];
    dd_no_such_asset(s->daemon, kind, name, detail, sizeof detail);
    dd_faults_add(s->faults, pointer, "%s", detail);
    return DD_OK;
}

/* Training starts from fp32 weights, and asks teachers that have them. */
static void check_fp32(struct submission *s, const char *pointer, const struct dd_asset *asset) {
    if (asset->name == NULL)
        return;
    cJSON *info = dd_json_of(asset->info_json);
    const char *format = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(info, "weights_format"));
    const char *from = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(info, "source"), "model"));
    if (format != NULL && strcmp(format, "safetensors_int8") == 0)
        dd_faults_add(s->faults, pointer,
                      "model \"%s\" is int8 and only answers; name the model it was made from%s%s%s", asset->name,
                      from != NULL ? ", \"" : "", from != NULL ? from : "", from != NULL ? "\"" : "");
    cJSON_Delete(info);
}

static bool read_config(struct submission *s, const char *pointer, const struct dd_asset *asset,
                        struct dd_bert_config *ret_config) {
    if (asset->name == NULL)
        return false;
    if (dd_model_config_of(asset->info_json, ret_config))
        return true;
    dd_faults_add(s->faults, pointer, "the shape of model \"%s\" is not known; register it again", asset->name);
    return false;
}

static void check_classifier(struct submission *s, const char *pointer, const struct dd_asset *teacher) {
    if (teacher->name != NULL && strcmp(teacher->kind, "classifier") != 0)
        dd_faults_add(s->faults, pointer,
                      "model \"%s\" is an encoder without classes; train a classifier from it first (task finetune)",
                      teacher->name);
}

/* The further teachers; what a run could not do with them is said here already. */
static enum dd_status find_teachers(struct submission *s, struct dd_error *err) {
    for (int i = 0; i < s->spec.n_teachers; i++) {
        char pointer[32];
        snprintf(pointer, sizeof pointer, "/teachers/%d", i);
        enum dd_status status = find_asset(s, DD_ASSET_MODEL, pointer, s->spec.teachers[i], &s->teachers[i], err);
        if (status != DD_OK)
            return status;
        struct dd_bert_config *config = &s->teacher_configs[i];
        bool known = read_config(s, pointer, &s->teachers[i], config);
        check_classifier(s, pointer, &s->teachers[i]);
        check_fp32(s, pointer, &s->teachers[i]);
        if (known && s->has_base && config->vocab_size != s->base_config.vocab_size)
            dd_faults_add(s->faults, pointer,
                          "model \"%s\" has %d tokens, the teacher has %d: they must share a vocabulary",
                          s->teachers[i].name, config->vocab_size, s->base_config.vocab_size);
    }
    return DD_OK;
}

static enum dd_status find_all(struct submission *s, struct dd_error *err) {
    const struct dd_spec *spec = &s->spec;
    bool distill = spec->task != DD_TASK_FINETUNE;
    const char *base_pointer = distill ? "/teacher" : "/model";
    enum dd_status status = find_asset(s, DD_ASSET_DATASET, "/dataset", spec->dataset, &s->dataset, err);
    if (status == DD_OK)
        status = find_asset(s, DD_ASSET_MODEL, base_pointer, distill ? spec->teacher : spec->model, &s->base, err);
    if (status == DD_OK)
        status = find_asset(s, DD_ASSET_MODEL, "/init", spec->init_model, &s->init, err);
    if (status == DD_OK && !distill)
        status = find_asset(s, DD_ASSET_MODEL, "/vocabulary", spec->vocabulary, &s->vocabulary, err);
    if (status != DD_OK)
        return status;
    check_fp32(s, base_pointer, &s->base);
    check_fp32(s, "/init", &s->init);
    s->has_base = read_config(s, base_pointer, &s->base, &s->base_config);
    s->has_init = read_config(s, "/init", &s->init, &s->init_config);
    s->has_vocabulary = read_config(s, "/vocabulary", &s->vocabulary, &s->vocabulary_config);
    if (!distill)
        return DD_OK;
    check_classifier(s, "/teacher", &s->base);
    return find_teachers(s, err);
}

/* --- faults that need more than the spec ---------------------------------------------------------------------------
 */

static bool has_string(const cJSON *list, const char *text) {
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        if (cJSON_IsString(item) && strcmp(item->valuestring, text) == 0)
            return true;
    }
    return false;
}

/* A teacher must know every class of the data set: by name, or, where its labels are only LABEL_0 …, by number. */
static void check_classes(struct submission *s, const char *pointer, const struct dd_asset *teacher) {
    if (s->spec.task != DD_TASK_DISTILL || s->dataset.name == NULL || teacher->name == NULL)
        return;
    cJSON *model = dd_json_of(teacher->info_json), *data = dd_json_of(s->dataset.info_json);
    const cJSON *labels = cJSON_GetObjectItemCaseSensitive(model, "labels"), *class;
    const cJSON *classes = cJSON_GetObjectItemCaseSensitive(data, "classes");
    int n_labels = cJSON_GetArraySize(labels), n_classes = cJSON_GetArraySize(classes);
    bool unnamed = n_labels == n_classes && has_string(labels, "LABEL_0");
    cJSON_ArrayForEach(class, classes) {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(class, "name");
        if (unnamed || !cJSON_IsString(name) || has_string(labels, name->valuestring))
            continue;
        dd_faults_add(s->faults, pointer, "\"%s\" does not know class \"%s\" of data set \"%s\"", teacher->name,
                      name->valuestring, s->dataset.name);
        break;
    }
    cJSON_Delete(model);
    cJSON_Delete(data);
}

static void check_unlabelled(struct submission *s) {
    if (s->spec.unlabelled != DD_FLAG_YES || s->dataset.name == NULL)
        return;
    cJSON *data = dd_json_of(s->dataset.info_json);
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(data, "rows");
    const cJSON *unlabelled = cJSON_GetObjectItemCaseSensitive(rows, "unlabelled");
    if (!cJSON_IsNumber(unlabelled) || unlabelled->valuedouble < 1)
        dd_faults_add(s->faults, "/unlabelled",
                      "data set \"%s\" has no unlabelled rows: upload it with unlabelled=@file, or leave this out",
                      s->dataset.name);
    cJSON_Delete(data);
}

static void check_init(struct submission *s) {
    const struct dd_spec *spec = &s->spec;
    const struct dd_bert_config *c = &s->init_config;
    if (!s->has_init || spec->init != DD_INIT_MODEL)
        return;
    if (c->hidden_size != spec->hidden_size || c->intermediate_size != spec->intermediate_size ||
        c->layers < spec->layers)
        dd_faults_add(s->faults, "/init",
                      "model \"%s\" has %d layers of %d (feed-forward %d), the student asks for %d of %d (%d)",
                      s->init.name, c->layers, c->hidden_size, c->intermediate_size, spec->layers, spec->hidden_size,
                      spec->intermediate_size);
    if (s->has_base && c->vocab_size != s->base_config.vocab_size)
        dd_faults_add(s->faults, "/init",
                      "model \"%s\" has %d tokens, the teacher has %d: they must share a vocabulary", s->init.name,
                      c->vocab_size, s->base_config.vocab_size);
}

static void check_teachers(struct submission *s) {
    check_classes(s, "/teacher", &s->base);
    for (int i = 0; i < s->spec.n_teachers; i++) {
        char pointer[32];
        snprintf(pointer, sizeof pointer, "/teachers/%d", i);
        check_classes(s, pointer, &s->teachers[i]);
        int positions = s->teacher_configs[i].max_positions; /* 0: no such model */
        if (positions > 0 && s->spec.max_length > positions)
            dd_faults_add(s->faults, "/max_length", "must be at most %d, the positions of teacher \"%s\"; got %d",
                          positions, s->spec.teachers[i], s->spec.max_length);
    }
}

/* One of the teachers that are to be those of all folds; found: the folds of those before it. */
static void check_fold(struct submission *s, const char *pointer, const struct dd_asset *teacher, const char *train,
                       bool found[DD_MAX_FOLDS]) {
    int wanted = 1 + s->spec.n_teachers;
    if (teacher->name == NULL)
        return;
    cJSON *info = dd_json_of(teacher->info_json);
    const cJSON *record = cJSON_GetObjectItemCaseSensitive(info, "fold");
    const cJSON *folds = cJSON_GetObjectItemCaseSensitive(record, "folds");
    const cJSON *fold = cJSON_GetObjectItemCaseSensitive(record, "fold");
    const char *of = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(record, "train_sha256"));
    if (!cJSON_IsNumber(folds) || !cJSON_IsNumber(fold) || of == NULL || train == NULL || strcmp(of, train) != 0)
        dd_faults_add(
            s->faults, pointer,
            "model \"%s\" was not fine-tuned on folds of data set \"%s\"; train its teachers with folds %d and "
            "fold 0 to %d, or choose another teacher_mean",
            teacher->name, s->dataset.name, wanted, wanted - 1);
    else if (folds->valueint != wanted || fold->valueint < 0 || fold->valueint >= wanted || found[fold->valueint])
        dd_faults_add(
            s->faults, pointer,
            "model \"%s\" is that of fold %d of %d: out_of_fold needs every fold once, and here are %d teachers",
            teacher->name, fold->valueint, folds->valueint, wanted);
    else
        found[fold->valueint] = true;
    cJSON_Delete(info);
}

static void check_folds(struct submission *s) {
    bool found[DD_MAX_FOLDS] = {false};
    if (s->spec.task != DD_TASK_DISTILL || s->spec.n_teachers == 0 || s->dataset.name == NULL ||
        s->spec.teacher_mean != DD_MEAN_OUT_OF_FOLD)
        return;
    cJSON *data = dd_json_of(s->dataset.info_json);
    const cJSON *split = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(data, "splits"), "train");
    const char *train = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(split, "sha256"));
    check_fold(s, "/teacher", &s->base, train, found);
    for (int i = 0; i < s->spec.n_teachers; i++) {
        char pointer[32];
        snprintf(pointer, sizeof pointer, "/teachers/%d", i);
        check_fold(s, pointer, &s->teachers[i], train, found);
    }
    cJSON_Delete(data);
}

static enum dd_status check_world(struct submission *s, struct dd_error *err) {
    check_teachers(s);
    check_folds(s);
    check_unlabelled(s);
    check_init(s);
    if (s->spec.precision == DD_PRECISION_BF16 && !dd_engine_has_bf16())
        dd_faults_add(s->faults, "/precision",
                      "bf16 needs a CPU with AVX512-BF16 or AMX and a build with oneDNN; "
                      "this daemon has not both: use fp32");
    if (s->spec.save_as[0] == '\0')
        return DD_OK;
    struct dd_asset taken;
    enum dd_status status = dd_storage_asset_get(s->daemon->storage, DD_ASSET_MODEL, s->spec.save_as, &taken, err);
    if (status == DD_NOT_FOUND)
        return DD_OK;
    if (status == DD_OK) {
        dd_faults_add(s->faults, "/save_as", "there is a model \"%s\" already", s->spec.save_as);
        dd_asset_release(&taken);
    }
    return status;
}

/* --- memory and time -----------------------------------------------------------------------------------------------
 */

static enum dd_status estimate(struct submission *s, struct dd_error *err) {
    struct dd_loaded *data;
    enum dd_status status = dd_loaded_get(s->daemon, &s->dataset, &data, err);
    if (status != DD_OK)
        return status;
    int asked = s->spec.vocab_size;
    if (s->has_vocabulary) /* the estimate is of the model that will be: with the vocabulary's size */
        s->spec.vocab_size = s->vocabulary_config.vocab_size;
    status = dd_train_estimate(&s->spec, data->dataset, s->has_base ? &s->base_config : NULL, s->teacher_configs,
                               s->daemon->n_threads, &s->estimate, err);
    s->spec.vocab_size = asked;
    dd_loaded_put(s->daemon, data);
    if (status != DD_OK)
        return status;
    const double gib = 1024.0 * 1024 * 1024;
    if (s->estimate.memory_bytes > s->daemon->memory_limit_bytes)
        return dd_fail(err, DD_INVALID, "memory_limit",
                       "the run needs about %.2f GiB of memory and the limit is %.2f GiB: a smaller batch_size, "
                       "max_length, hidden_size or layers would fit, or a larger --memory-limit",
                       (double)s->estimate.memory_bytes / gib, (double)s->daemon->memory_limit_bytes / gib);
    return DD_OK;
}

static cJSON *estimate_json(const struct dd_train_estimate *e) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "memory_bytes", (double)e->memory_bytes);
    cJSON_AddNumberToObject(json, "disk_bytes", (double)e->disk_bytes);
    cJSON_AddNumberToObject(json, "seconds", e->seconds);
    cJSON_AddNumberToObject(json, "parameters", (double)e->parameters);
    cJSON_AddNumberToObject(json, "model_bytes", (double)e->model_bytes);
    cJSON_AddNumberToObject(json, "matmul_flops", e->matmul_flops);
    return json;
}

/* --- the row --------------------------------------------------------------------------------------------------------
 */

/* Splits the resolved JSON in what decides the run and its tags. */
static enum dd_status spec_texts(const struct dd_spec *spec, char **ret_spec, char **ret_tags, struct dd_error *err) {
    cJSON *json = dd_spec_to_json(spec);
    char *text = dd_json_print(json, false);
    char *tags = dd_json_print(cJSON_GetObjectItemCaseSensitive(json, "tags"), false);
    cJSON_Delete(json);
    if (text == NULL || tags == NULL) {
        free(text);
        free(tags);
        return dd_fail_json(err);
    }
    *ret_spec = text;
    *ret_tags = tags;
    return DD_OK;
}

/* The row of a submission that has no faults; its texts are owned. */
static enum dd_status make_row(const struct submission *s, struct dd_experiment *ret_row, struct dd_error *err) {
    const struct dd_spec *spec = &s->spec;
    bool distill = spec->task == DD_TASK_DISTILL;
    struct dd_experiment row = {.name = dd_strdup(spec->name),
                                .notes = dd_strdup(spec->notes),
                                .priority = spec->priority,
                                .task = dd_strdup(dd_task_name(spec->task)),
                                .dataset = dd_strdup(spec->dataset),
                                .teacher = dd_strdup(distill ? spec->teacher : ""),
                                .base_model = dd_strdup(distill ? "" : spec->model),
                                .optimizer = dd_strdup(dd_optimizer_name(spec->optimizer.type)),
                                .layers = spec->layers,
                                .heads = spec->heads,
                                .hidden_size = spec->hidden_size,
                                .temperature = distill ? spec->temperature : NAN,
                                .alpha = distill ? spec->alpha : NAN,
                                .lr = spec->optimizer.lr,
                                .epochs = spec->epochs,
                                .eta_seconds = NAN,
                                .tokens_per_second = NAN,
                                .elapsed_seconds = NAN};
    enum dd_status status = spec_texts(spec, &row.spec_json, &row.tags_json, err);
    if (status == DD_OK && (row.name == NULL || row.notes == NULL || row.task == NULL || row.dataset == NULL ||
                            row.teacher == NULL || row.base_model == NULL || row.optimizer == NULL))
        status = dd_fail_memory(err, 0);
    if (status != DD_OK) {
        dd_experiment_release(&row);
        return status;
    }
    uint8_t hash[DD_SHA256_BYTES];
    dd_spec_hash(spec, hash);
    dd_hex(hash, sizeof hash, row.spec_hash);
    *ret_row = row;
    return DD_OK;
}

static enum dd_status answer_created(struct dd_daemon *daemon, int64_t id, struct dd_api_result *result,
                                     struct dd_error *err) {
    struct dd_experiment experiment;
    enum dd_status status = dd_storage_experiment_get(daemon->storage, id, &experiment, err);
    if (status != DD_OK)
        return status;
    result->json = dd_experiment_json(daemon, &experiment);
    dd_experiment_release(&experiment);
    result->http_status = 201;
    snprintf(result->location, sizeof result->location, "/api/v1/experiments/%" PRId64, id);
    return result->json != NULL ? DD_OK : dd_fail_json(err);
}

static enum dd_status answer_dry(const struct submission *s, struct dd_api_result *result, struct dd_error *err) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToObject(json, "spec", dd_spec_to_json(&s->spec));
    cJSON_AddItemToObject(json, "estimate", estimate_json(&s->estimate));
    result->json = json;
    return json != NULL ? DD_OK : dd_fail_json(err);
}

/* All faults of body and world into s->faults. */
static enum dd_status resolve(struct submission *s, const cJSON *body, struct dd_error *err) {
    enum dd_status parsed = dd_spec_parse(body, "", &s->spec, s->faults, err);
    if (parsed != DD_OK && parsed != DD_INVALID)
        return parsed;
    enum dd_status status = find_all(s, err);
    if (status != DD_OK)
        return status;
    bool distill = s->spec.task != DD_TASK_FINETUNE;
    bool base_wanted = distill || s->spec.model[0] != '\0';
    struct dd_spec_teacher base;
    if (parsed == DD_OK && s->has_base == base_wanted) {
        if (s->has_base)
            dd_spec_teacher_from(&s->base_config, &base);
        status = dd_spec_resolve(&s->spec, s->has_base ? &base : NULL, s->faults, err);
    }
    if (status == DD_OK || status == DD_INVALID)
        status = s->faults->total == 0 || parsed == DD_OK ? check_world(s, err) : DD_OK;
    if (status == DD_OK && s->faults->total > 0)
        status = dd_fail(err, DD_INVALID, "spec_invalid", "%s: %s%s", s->faults->items[0].pointer,
                         s->faults->items[0].detail, s->faults->total > 1 ? " (and more, see errors)" : "");
    return status;
}

enum dd_status dd_submit(struct dd_daemon *daemon, const struct dd_api_call *call, const cJSON *body, bool dry_run,
                         struct dd_api_result *result, struct dd_problem *problem) {
    struct submission *s = dd_calloc(1, sizeof *s);
    struct dd_error *err = &problem->error;
    if (s == NULL)
        return dd_fail_memory(err, sizeof *s);
    s->daemon = daemon;
    s->faults = &problem->faults;
    int64_t id = 0;
    struct dd_experiment row = {0};
    enum dd_status status = resolve(s, body, err);
    if (status == DD_OK)
        status = estimate(s, err);
    if (status == DD_OK && dry_run)
        status = answer_dry(s, result, err);
    else if (status == DD_OK)
        status = make_row(s, &row, err);
    submission_free(s);
    row.claim = (struct dd_claim){call->idempotency_key, call->idempotency_hash};
    if (status == DD_OK && !dry_run)
        status = dd_storage_experiment_insert(daemon->storage, &row, &id, err);
    dd_experiment_release(&row);
    if (status != DD_OK || dry_run)
        return status;
    dd_workers_wake(daemon->workers);
    dd_publish_status(daemon, id);
    return answer_created(daemon, id, result, err);
}

enum dd_status dd_submit_resolve(struct dd_daemon *daemon, const cJSON *body, struct dd_experiment *ret_row,
                                 struct dd_train_estimate *ret_estimate, struct dd_faults *faults,
                                 struct dd_error *err) {
    struct submission *s = dd_calloc(1, sizeof *s);
    if (s == NULL)
        return dd_fail_memory(err, sizeof *s);
    s->daemon = daemon;
    s->faults = faults;
    enum dd_status status = resolve(s, body, err);
    if (status == DD_OK)
        status = estimate(s, err);
    if (status == DD_OK)
        status = make_row(s, ret_row, err);
    if (status == DD_OK)
        *ret_estimate = s->estimate;
    submission_free(s);
    return status;
}

/* --- clones ---------------------------------------------------------------------------------------------------------
 */

cJSON *dd_clone_body(const struct dd_experiment *e, const cJSON *changes) {
    cJSON *spec = dd_json_of(e->spec_json);
    cJSON *tags = e->tags_json != NULL ? cJSON_Parse(e->tags_json) : NULL;
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "name");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "notes");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "tags");
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "priority");
    cJSON_AddStringToObject(spec, "name", e->name != NULL ? e->name : "");
    cJSON_AddStringToObject(spec, "notes", e->notes != NULL ? e->notes : "");
    cJSON_AddItemToObject(spec, "tags", tags != NULL ? tags : cJSON_CreateArray());
    cJSON_AddNumberToObject(spec, "priority", e->priority);
    cJSON_DeleteItemFromObjectCaseSensitive(spec, "save_as"); /* the original has that name */
    if (!dd_spec_change(spec, changes)) {
        cJSON_Delete(spec);
        return NULL;
    }
    return spec;
}
