/* From the spec of a queued run to the data set and models that dd_train wants in memory.
 * Threads: worker threads.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

void dd_setup_release(struct dd_daemon *daemon, struct dd_setup *setup) {
    dd_loaded_put(daemon, setup->dataset);
    dd_model_free(setup->base);
    dd_model_free(setup->init);
    for (int i = 0; i < DD_MAX_TEACHERS; i++)
        dd_model_free(setup->teachers[i]);
    free(setup->vocab);
    memset(setup, 0, sizeof *setup);
}

/* Training keeps a model of its own: it may be large and is not needed by anyone else afterwards.  Its weights are read
 * when they are needed, and checked then. */
static enum dd_status load_model(struct dd_daemon *daemon, const char *name, struct dd_model **ret_model,
                                 struct dd_error *err) {
    struct dd_asset asset;
    char path[PATH_MAX];
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_MODEL, name, &asset, err);
    if (status != DD_OK)
        return status;
    status = dd_asset_path(daemon, &asset, path, err);
    if (status == DD_OK) {
        cJSON *info = dd_json_of(asset.info_json);
        const char *sha256 = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(info, "sha256"));
        status = sha256 != NULL && sha256[0] != '\0' ? dd_model_open(path, sha256, ret_model, err)
                                                     : dd_model_load(path, ret_model, err);
        cJSON_Delete(info);
    }
    dd_asset_release(&asset);
    if (status != DD_OK)
        (void)dd_error_prefix(err, "model %s", name);
    return status;
}

static enum dd_status load_dataset(struct dd_daemon *daemon, const char *name, struct dd_loaded **ret_dataset,
                                   struct dd_error *err) {
    struct dd_asset asset;
    enum dd_status status = dd_storage_asset_get(daemon->storage, DD_ASSET_DATASET, name, &asset, err);
    if (status != DD_OK)
        return status;
    status = dd_loaded_get(daemon, &asset, ret_dataset, err);
    dd_asset_release(&asset);
    return status;
}

enum dd_status dd_setup_vocabulary(struct dd_setup *setup, const struct dd_model *model, struct dd_error *err) {
    if (model->tokenizer == NULL)
        return dd_fail(err, DD_INVALID, "vocabulary_missing", "the model named as vocabulary has no vocab.txt");
    const char *text = dd_tokenizer_vocab(model->tokenizer, &setup->vocab_bytes);
    setup->vocab = dd_strndup(text, setup->vocab_bytes);
    if (setup->vocab == NULL)
        return dd_fail_memory(err, setup->vocab_bytes);
    setup->vocab_options = *dd_tokenizer_settings(model->tokenizer);
    return DD_OK;
}

static enum dd_status load_vocabulary(struct dd_daemon *daemon, struct dd_setup *setup, struct dd_error *err) {
    struct dd_model *model = NULL;
    enum dd_status status = load_model(daemon, setup->spec.vocabulary, &model, err);
    if (status == DD_OK)
        status = dd_setup_vocabulary(setup, model, err);
    dd_model_free(model);
    return status;
}

static enum dd_status load_all(struct dd_daemon *daemon, struct dd_setup *setup, struct dd_error *err) {
    const struct dd_spec *spec = &setup->spec;
    const char *base = spec->task == DD_TASK_DISTILL ? spec->teacher : spec->model;
    enum dd_status status = load_dataset(daemon, spec->dataset, &setup->dataset, err);
    if (status == DD_OK && base[0] != '\0')
        status = load_model(daemon, base, &setup->base, err);
    for (int i = 0; status == DD_OK && i < spec->n_teachers; i++)
        status = load_model(daemon, spec->teachers[i], &setup->teachers[i], err);
    if (status == DD_OK && spec->task == DD_TASK_DISTILL && spec->init == DD_INIT_MODEL)
        status = load_model(daemon, spec->init_model, &setup->init, err);
    if (status == DD_OK && spec->task == DD_TASK_FINETUNE && spec->vocabulary[0] != '\0')
        status = load_vocabulary(daemon, setup, err);
    return status;
}

enum dd_status dd_setup_load(struct dd_daemon *daemon, const char *spec_json, struct dd_setup *ret_setup,
                             struct dd_error *err) {
    struct dd_setup setup;
    memset(&setup, 0, sizeof setup);
    struct dd_faults faults;
    dd_faults_init(&faults);
    cJSON *body = dd_json_of(spec_json);
    enum dd_status status = dd_spec_parse(body, "", &setup.spec, &faults, err);
    if (status == DD_OK) {
        dd_spec_settle_stored(&setup.spec);
        status = load_all(daemon, &setup, err);
    }
    struct dd_spec_teacher base;
    if (status == DD_OK) {
        if (setup.base != NULL)
            dd_spec_teacher_from(&setup.base->info.config, &base);
        status = dd_spec_resolve(&setup.spec, setup.base != NULL ? &base : NULL, &faults, err);
    }
    if (faults.count > 0) /* an old spec against a model that was replaced under its name */
        status = dd_fail(err, DD_INVALID, "spec_invalid", "%s: %s", faults.items[0].pointer, faults.items[0].detail);
    dd_faults_release(&faults);
    cJSON_Delete(body);
    if (status == DD_OK)
        *ret_setup = setup;
    else
        dd_setup_release(daemon, &setup);
    return status;
}
