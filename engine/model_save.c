/* model_save: a model as a Hugging Face directory, all of it or nothing.
 *
 * The directory is built as "<dir>.tmp", every file synced, then takes dir's place: by rename where dir is free, by
 * exchange (renameat2) where it is not, by two renames on file systems that cannot exchange.  What an interrupted save
 * left under those names is removed by the next one.
 * Threads: one save of a directory at a time; the model is only read.
 */
#include "engine/model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Tensors that the model does not have: the head of an encoder, and what only training has. */
static void mark_skipped(const struct dd_model *model, bool *skip) {
    int n = model->params->n_tensors - model->params->n_training;
    for (int i = n; i < model->params->n_tensors; i++) {
        skip[i] = true;
    }
    bool encoder = model->info.kind == DD_MODEL_ENCODER;
    skip[n - 4] = skip[n - 3] = encoder && !model->info.has_pooler;
    skip[n - 2] = skip[n - 1] = encoder;
}

static enum dd_status write_floats(const struct dd_model *model, const char *path, enum dd_dtype dtype,
                                   struct dd_error *err) {
    const struct dd_params *params = model->params;
    size_t n = (size_t)params->n_tensors, count = 0;
    DD_CLEANUP(dd_free_ptr) bool *skip = dd_calloc(n, sizeof *skip);
    DD_CLEANUP(dd_free_ptr) struct dd_tensor_out *out = dd_calloc(n, sizeof *out);
    if (skip == NULL || out == NULL) {
        return dd_fail_memory(err, n * sizeof *out);
    }
    mark_skipped(model, skip);
    for (size_t i = 0; i < n; i++) {
        const struct dd_tensor *tensor = &params->tensors[i];
        if (skip[i]) {
            continue;
        }
        /* A bare encoder's tensors have no "bert." before their names. */
        bool shorten = model->info.kind == DD_MODEL_ENCODER && strncmp(tensor->name, "bert.", 5) == 0;
        out[count] = (struct dd_tensor_out){.dtype = dtype,
                                            .rank = tensor->rank,
                                            .shape = {tensor->shape[0], tensor->shape[1]},
                                            .values = params->slab + tensor->offset};
        snprintf(out[count].name, sizeof out[count].name, "%s", tensor->name + (shorten ? 5 : 0));
        count++;
    }
    return dd_safetensors_write(path, out, count, err);
}

static enum dd_status write_weights(const struct dd_model *model, const char *dir, enum dd_dtype dtype,
                                    struct dd_error *err) {
    char path[4096];
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "model.safetensors", NULL);
    if (status != DD_OK) {
        return status;
    }
    return model->info.int8 ? dd_int8_write(model->params, path, err) : write_floats(model, path, dtype, err);
}

static enum dd_status write_text(const char *dir, const char *file, const char *text, struct dd_error *err) {
    char path[4096];
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, file, NULL);
    return status == DD_OK ? dd_file_write_durable(path, text, strlen(text), err) : status;
}

static enum dd_status write_files(const struct dd_model *model, const char *dir, const char *card, enum dd_dtype dtype,
                                  struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *config = NULL;
    enum dd_status status = dd_model_config_write(&model->info, dtype, &config, err);
    if (status == DD_OK) {
        status = write_text(dir, "config.json", config, err);
    }
    if (status == DD_OK && model->tokenizer != NULL) {
        status = dd_model_tokenizer_write(model, dir, err);
    }
    if (status == DD_OK && card != NULL) {
        status = write_text(dir, "README.md", card, err);
    }
    if (status == DD_OK) {
        status = write_weights(model, dir, dtype, err);
    }
    return status == DD_OK ? dd_dir_sync(dir, err) : status;
}

static enum dd_status sync_parent(const char *dir, struct dd_error *err) {
    const char *slash = strrchr(dir, '/');
    DD_CLEANUP(dd_free_ptr)
    char *parent = slash == NULL ? dd_strdup(".") : dd_strndup(dir, slash == dir ? 1 : (size_t)(slash - dir));
    return parent == NULL ? dd_fail_memory(err, strlen(dir)) : dd_dir_sync(parent, err);
}

/* Puts built in dir's place; what was there before ends up in old or built and is removed. */
static enum dd_status take_place(const char *built, const char *dir, const char *old, struct dd_error *err) {
    int injected = dd_failpoint("rename");
    if (injected != 0) {
        return dd_fail_errno(err, injected, "cannot rename %s", built);
    }
    bool done = renameat2(AT_FDCWD, built, AT_FDCWD, dir, RENAME_NOREPLACE) == 0;
    if (!done && errno == EEXIST) {
        done = renameat2(AT_FDCWD, built, AT_FDCWD, dir, RENAME_EXCHANGE) == 0;
    }
    if (!done && (errno == EINVAL || errno == ENOSYS)) {
        done = (rename(dir, old) == 0 || errno == ENOENT) && rename(built, dir) == 0;
    }
    if (!done) {
        return dd_fail_errno(err, errno, "cannot put the model in its place %s", dir);
    }
    enum dd_status status = sync_parent(dir, err);
    if (status == DD_OK) {
        status = dd_tree_remove(built, err);
    }
    return status == DD_OK ? dd_tree_remove(old, err) : status;
}

static enum dd_status save(const struct dd_model *model, const char *dir, const char *card, enum dd_dtype dtype,
                           struct dd_error *err) {
    char built[4096], old[4096];
    size_t bytes = strlen(dir);
    while (bytes > 1 && dir[bytes - 1] == '/') {
        bytes--;
    }
    DD_CLEANUP(dd_free_ptr) char *target = dd_strndup(dir, bytes);
    if (target == NULL) {
        return dd_fail_memory(err, bytes + 1);
    }
    if (snprintf(built, sizeof built, "%s.tmp", target) >= (int)sizeof built ||
        snprintf(old, sizeof old, "%s.old", target) >= (int)sizeof old) {
        return dd_fail(err, DD_INVALID, "path_too_long", "the model's path is too long");
    }
    enum dd_status status = dd_tree_remove(built, err);
    if (status == DD_OK) {
        status = dd_tree_remove(old, err);
    }
    if (status == DD_OK) {
        status = dd_dir_make(built, err);
    }
    if (status == DD_OK) {
        status = write_files(model, built, card, dtype, err);
    }
    if (status == DD_OK) {
        status = take_place(built, target, old, err);
    }
    if (status != DD_OK) {
        struct dd_error ignored;
        enum dd_status removed = dd_tree_remove(built, &ignored); /* the first error is the one to report */
        (void)removed;
    }
    return status;
}

enum dd_status dd_model_save(const struct dd_model *model, const char *dir, const char *card, struct dd_error *err) {
    return save(model, dir, card, DD_DTYPE_F32, err);
}

enum dd_status dd_model_save_fp16(const struct dd_model *model, const char *dir, const char *card,
                                  struct dd_error *err) {
    if (model->info.int8) {
        return dd_fail(err, DD_INVALID, "model_is_int8",
                       "an int8 model has no fp16 form; take the model that it was made from");
    }
    return save(model, dir, card, DD_DTYPE_F16, err);
}
