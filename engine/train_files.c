/* train_files: the directory of a run.
 *
 *   checkpoint, checkpoint.previous   while it runs (checkpoint.c)
 *   best-<epoch>/                     the best model so far, whole before the checkpoint that refers to it; kept while
 *                                     either checkpoint refers to it
 *   last/, finished                   after the end, when the checkpoints are gone
 *
 * The directory itself is locked (flock) while dd_train works in it.  At any instant of a kill it holds a whole state,
 * and everything else in it is found and removed by the next attempt.
 */
#include "engine/train.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_BYTES ((size_t)1 << 18)

/* --- lock and identity ------------------------------------------------------------------------------------------ */

static void remove_temporaries(const char *run_dir) {
    DIR *dir = opendir(run_dir);
    if (!dir) {
        return;
    }
    for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
        char path[4096];
        if (strstr(d->d_name, ".tmp-") && dd_path_join(path, sizeof path, NULL, run_dir, d->d_name, NULL) == DD_OK) {
            enum dd_status ignored = dd_tree_remove(path, NULL);
            (void)ignored; /* the next attempt tries again */
        }
    }
    closedir(dir);
}

enum dd_status dd_run_lock(struct dd_run *run, struct dd_error *err) {
    const char *run_dir = run->input->run_dir;
    enum dd_status status = dd_dir_make(run_dir, err);
    if (status != DD_OK) {
        return status;
    }
    run->run_fd = DD_FAILABLE("open", open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (run->run_fd < 0) {
        return dd_fail_errno(err, errno, "%s", run_dir);
    }
    if (flock(run->run_fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return dd_fail(err, DD_CONFLICT, "run_in_progress", "another run is training in %s", run_dir);
    }
    remove_temporaries(run_dir);
    return DD_OK;
}

static void hash_text(struct dd_sha256 *hash, const char *text) {
    dd_sha256_update(hash, text, strlen(text) + 1);
}

static void hash_model(struct dd_sha256 *hash, const struct dd_model *model) {
    if (!model) {
        hash_text(hash, "none");
        return;
    }
    const struct dd_bert_config *c = &model->info.config;
    char text[512];
    snprintf(text, sizeof text, "%s %d %d %d %d %d %d %d %d %d %s %a %a %d %d", model->info.sha256, c->vocab_size,
             c->hidden_size, c->layers, c->heads, c->intermediate_size, c->max_positions, c->type_vocab_size,
             c->n_labels, c->pad_token_id, c->hidden_act, c->layer_norm_eps, c->initializer_range,
             (int)model->info.kind, model->info.has_pooler);
    hash_text(hash, text);
    for (int l = 0; l < model->info.n_labels; l++) {
        hash_text(hash, model->info.labels[l]);
    }
    if (model->tokenizer) {
        const struct dd_tokenizer_options *o = dd_tokenizer_settings(model->tokenizer);
        size_t bytes = 0;
        const char *vocab = dd_tokenizer_vocab(model->tokenizer, &bytes);
        snprintf(text, sizeof text, "%d %d %d", o->do_lower_case, o->strip_accents, o->tokenize_chinese_chars);
        hash_text(hash, text);
        dd_sha256_update(hash, vocab, bytes);
    }
}

enum dd_status dd_run_identify(struct dd_run *run, struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    struct dd_sha256 *hash = dd_sha256_new();
    if (!hash) {
        return dd_fail_memory(err, 0);
    }
    dd_spec_hash(run->spec, run->identity.spec);
    hash_text(hash, dd_dataset_split(in->dataset, DD_SPLIT_TRAIN)->sha256);
    hash_text(hash, dd_dataset_split(in->dataset, DD_SPLIT_DEV)->sha256);
    if (run->spec->unlabelled == DD_FLAG_YES) {
        hash_text(hash, dd_dataset_split(in->dataset, DD_SPLIT_UNLABELLED)->sha256);
    }
    for (int c = 0; c < run->n_classes; c++) {
        hash_text(hash, dd_dataset_class(in->dataset, c));
    }
    dd_sha256_digest(hash, run->identity.data);
    hash_model(hash, in->base);
    hash_model(hash, in->init);
    for (int i = 0; i < run->spec->n_teachers; i++) {
        hash_model(hash, in->teachers[i]);
    }
    if (in->vocab) {
        const struct dd_tokenizer_options *o = &in->vocab_options;
        char text[32];
        snprintf(text, sizeof text, "%d %d %d", o->do_lower_case, o->strip_accents, o->tokenize_chinese_chars);
        hash_text(hash, text);
        dd_sha256_update(hash, in->vocab, in->vocab_bytes);
    }
    dd_sha256_digest(hash, run->identity.base);
    dd_sha256_free(hash);
    return DD_OK;
}

/* --- models in it ----------------------------------------------------------------------------------------------- */

static enum dd_status best_path(const struct dd_run *run, int epoch, char *out, size_t bytes, struct dd_error *err) {
    char name[32];
    snprintf(name, sizeof name, "best-%d", epoch);
    return dd_path_join(out, bytes, err, run->input->run_dir, name, NULL);
}

/* Removes every best-<epoch> directory but two. */
static void remove_best_but(const struct dd_run *run, int keep_a, int keep_b) {
    DIR *dir = opendir(run->input->run_dir);
    if (!dir) {
        return;
    }
    for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
        int epoch = 0, used = 0;
        char path[4096];
        if (sscanf(d->d_name, "best-%d%n", &epoch, &used) != 1 || d->d_name[used] != '\0' || epoch == keep_a ||
            epoch == keep_b) {
            continue;
        }
        if (dd_path_join(path, sizeof path, NULL, run->input->run_dir, d->d_name, NULL) == DD_OK) {
            enum dd_status ignored = dd_tree_remove(path, NULL);
            (void)ignored; /* the next checkpoint tries again */
        }
    }
    closedir(dir);
}

static enum dd_status hash_file(struct dd_sha256 *hash, int dir_fd, const char *name, uint8_t *buffer,
                                struct dd_error *err) {
    DD_CLEANUP(dd_close_fd) int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return dd_fail_errno(err, errno, "cannot open %s", name);
    }
    hash_text(hash, name);
    uint64_t bytes = 0;
    for (;;) {
        ssize_t got = read(fd, buffer, HASH_BYTES);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return dd_fail_errno(err, errno, "cannot read %s", name);
        }
        if (got == 0) {
            dd_sha256_update(hash, &bytes, sizeof bytes);
            return DD_OK;
        }
        dd_sha256_update(hash, buffer, (size_t)got);
        bytes += (uint64_t)got;
    }
}

static int visible(const struct dirent *d) {
    return d->d_name[0] != '.';
}

/* As strcmp, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

enum dd_status dd_directory_sha256(const char *dir, uint8_t out[DD_SHA256_BYTES], struct dd_error *err) {
    struct dirent **entries = NULL;
    DD_CLEANUP(dd_close_fd) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int count = fd < 0 ? -1 : scandirat(fd, ".", &entries, visible, by_name);
    if (count < 0) {
        return dd_fail_errno(err, errno, "cannot look into %s", dir);
    }
    struct dd_sha256 *hash = dd_sha256_new();
    uint8_t *buffer = dd_calloc(HASH_BYTES, 1);
    enum dd_status status = hash && buffer ? DD_OK : dd_fail_memory(err, HASH_BYTES);
    for (int i = 0; i < count; i++) {
        if (status == DD_OK) {
            status = hash_file(hash, fd, entries[i]->d_name, buffer, err);
        }
        free(entries[i]);
    }
    free(entries);
    if (status == DD_OK) {
        dd_sha256_digest(hash, out);
    }
    dd_sha256_free(hash);
    free(buffer);
    return status;
}

/* DD_OK when dir is what was saved there, to the byte. */
static enum dd_status verify_model(const char *dir, const uint8_t sha256[DD_SHA256_BYTES], struct dd_error *err) {
    uint8_t found[DD_SHA256_BYTES];
    enum dd_status status = dd_directory_sha256(dir, found, err);
    if (status == DD_OK && memcmp(found, sha256, sizeof found) != 0) {
        status = dd_fail(err, DD_CORRUPT, "model_damaged", "%s is not what was saved there", dir);
    }
    return status;
}

static enum dd_status save_model(const struct dd_run *run, const struct dd_epoch_metrics *metrics, const char *dir,
                                 uint8_t ret_sha256[DD_SHA256_BYTES], struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *card = NULL;
    enum dd_status status = dd_run_card(run, metrics, &card, err);
    if (status == DD_OK) {
        struct dd_params weights = dd_run_weights(run);
        struct dd_model model = *run->student;
        model.params = &weights;
        status = dd_model_save(&model, dir, card, err);
    }
    return status == DD_OK ? dd_directory_sha256(dir, ret_sha256, err) : status;
}

enum dd_status dd_run_save_best(struct dd_run *run, const struct dd_epoch_metrics *metrics, struct dd_error *err) {
    char dir[4096];
    int64_t start = dd_clock_mono_us();
    enum dd_status status = best_path(run, metrics->epoch, dir, sizeof dir, err);
    if (status == DD_OK) {
        status = save_model(run, metrics, dir, run->state.best_sha256, err);
    }
    run->seconds.best += (double)(dd_clock_mono_us() - start) / 1e6;
    return status;
}

enum dd_status dd_run_load_best(struct dd_run *run, struct dd_error *err) {
    char dir[4096];
    struct dd_model *best = NULL;
    struct dd_params *params = run->student->params;
    enum dd_status status = best_path(run, run->state.best.epoch, dir, sizeof dir, err);
    if (status == DD_OK) {
        status = verify_model(dir, run->state.best_sha256, err);
    }
    if (status == DD_OK) {
        status = dd_model_load(dir, &best, err);
    }
    if (status != DD_OK) {
        return status;
    }
    /* It is what was saved there, so it has the student's shape; what only training has begins anew. */
    assert(best->params->n_tensors == params->n_tensors - params->n_training);
    dd_params_init(params, &run->student->info.config, run->spec->seed);
    memcpy(params->slab, best->params->slab, best->params->count * sizeof(float));
    dd_model_free(best);
    return DD_OK;
}

/* --- checkpoints ------------------------------------------------------------------------------------------------ */

enum dd_status dd_run_save(struct dd_run *run, int64_t deadline_us, struct dd_error *err) {
    struct dd_run_state *state = &run->state;
    if (run->saved_step == state->step && run->saved_epochs == state->epochs_done) {
        return DD_OK;
    }
    int64_t start = dd_clock_mono_us();
    dd_optimizer_flush(run->optimizer);
    enum dd_status status = dd_checkpoint_write(run->input->run_dir, &run->identity, state, run->student->params,
                                                run->optimizer, deadline_us, err);
    if (status != DD_OK) {
        return status;
    }
    int best = state->epochs_done > 0 ? state->best.epoch : 0;
    remove_best_but(run, best, run->kept_best);
    run->kept_best = best;
    run->saved_step = state->step;
    run->saved_epochs = state->epochs_done;
    run->checkpoint_at_us = dd_clock_mono_us();
    run->checkpoint_cost_s = (double)(run->checkpoint_at_us - start) / 1e6;
    run->seconds.checkpoint += run->checkpoint_cost_s;
    return DD_OK;
}

/* What a file is at fault for, as against this machine at this moment (memory, a disk that fails). */
static bool unusable(enum dd_status status) {
    return status == DD_NOT_FOUND || status == DD_CORRUPT || status == DD_CONFLICT || status == DD_INVALID ||
           status == DD_MALFORMED || status == DD_TOO_LARGE;
}

/* Takes the run up from one file. DD_NOT_FOUND and DD_CORRUPT: it must not be used, *err says why. */
static enum dd_status resume_from(struct dd_run *run, const char *path, struct dd_error *err) {
    const struct dd_run_shape shape = {.epochs = run->spec->epochs,
                                       .steps_per_epoch = run->steps_per_epoch,
                                       .dev_rows = run->dev.rows,
                                       .n_classes = run->n_classes};
    struct dd_params *params = run->student->params;
    struct dd_checkpoint checkpoint;
    enum dd_status status = dd_checkpoint_open(path, &run->identity, &shape, params, run->optimizer, &checkpoint, err);
    if (status != DD_OK) {
        return unusable(status) && status != DD_NOT_FOUND ? DD_CORRUPT : status;
    }
    if (checkpoint.state.epochs_done > 0) {
        char dir[4096];
        status = best_path(run, checkpoint.state.best.epoch, dir, sizeof dir, err);
        if (status == DD_OK) {
            status = verify_model(dir, checkpoint.state.best_sha256, err);
        }
    }
    if (status == DD_OK) {
        dd_checkpoint_apply(&checkpoint, &run->state, params, run->optimizer);
        run->state.extent = dd_run_extent(run->spec); /* an earlier version may have kept less */
        run->saved_step = run->state.step;
        run->saved_epochs = run->state.epochs_done;
        run->kept_best = run->state.epochs_done > 0 ? run->state.best.epoch : 0;
    } else if (unusable(status)) {
        status = DD_CORRUPT;
    }
    dd_checkpoint_close(&checkpoint);
    return status;
}

enum dd_status dd_run_resume(struct dd_run *run, struct dd_error *err) {
    static const char *const names[] = {"checkpoint", "checkpoint.previous"};
    char paths[DD_ARRAY_LEN(names)][4096];
    run->checkpoint_at_us = dd_clock_mono_us();
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        enum dd_status status = dd_path_join(paths[i], sizeof paths[i], err, run->input->run_dir, names[i], NULL);
        if (status != DD_OK) {
            return status;
        }
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        struct dd_error fault = {0};
        enum dd_status status = resume_from(run, paths[i], &fault);
        if (status == DD_OK) {
            dd_run_log(run, DD_LOG_INFO, "goes on from %s: step %lld of %lld, epoch %d", names[i],
                       (long long)run->state.step, (long long)run->steps, DD_MIN(run->state.epoch, run->spec->epochs));
            /* A damaged newest one must never become the previous one. */
            if (i > 0 && DD_FAILABLE("rename", rename(paths[i], paths[0])) != 0) {
                return dd_fail_errno(err, errno, "%s", paths[i]);
            }
            return DD_OK;
        }
        if (status != DD_NOT_FOUND && status != DD_CORRUPT) {
            if (err) {
                *err = fault;
            }
            return status;
        }
        if (status == DD_CORRUPT) {
            dd_run_log(run, DD_LOG_WARNING, "cannot go on from %s: %s", names[i], fault.message);
        }
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        (void)unlink(paths[i]);
    }
    remove_best_but(run, 0, 0);
    return DD_OK;
}

/* --- the end ---------------------------------------------------------------------------------------------------- */

static enum dd_status fill_result(const struct dd_run *run, const struct dd_finished *finished,
                                  struct dd_train_result *ret_result, struct dd_error *err) {
    struct dd_train_result result = {.epochs_done = finished->epochs_done,
                                     .best_epoch = finished->best.epoch,
                                     .steps_done = finished->steps_done,
                                     .best = finished->best,
                                     .last = finished->last,
                                     .parameters = finished->parameters,
                                     .model_bytes = finished->model_bytes};
    enum dd_status status = best_path(run, finished->best.epoch, result.best_dir, sizeof result.best_dir, err);
    if (status == DD_OK) {
        status = dd_path_join(result.last_dir, sizeof result.last_dir, err, run->input->run_dir, "last", NULL);
    }
    if (status == DD_OK) {
        *ret_result = result;
    }
    return status;
}

static void remove_checkpoints(const struct dd_run *run, int best) {
    (void)unlinkat(run->run_fd, "checkpoint", 0);
    (void)unlinkat(run->run_fd, "checkpoint.previous", 0);
    remove_best_but(run, best, best);
}

static enum dd_status weights_bytes(const char *dir, uint64_t *ret_bytes, struct dd_error *err) {
    char path[4096];
    struct stat info;
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "model.safetensors", NULL);
    if (status == DD_OK && stat(path, &info) != 0) {
        status = dd_fail_errno(err, errno, "%s", path);
    }
    if (status == DD_OK) {
        *ret_bytes = (uint64_t)info.st_size;
    }
    return status;
}

enum dd_status dd_run_finish(struct dd_run *run, struct dd_train_result *ret_result, struct dd_error *err) {
    const struct dd_run_state *state = &run->state;
    struct dd_finished finished = {.epochs_done = state->epochs_done,
                                   .steps_done = state->step,
                                   .parameters = run->student->info.parameters,
                                   .best = state->best,
                                   .last = state->last};
    memcpy(finished.best_sha256, state->best_sha256, sizeof finished.best_sha256);
    struct dd_train_result result;
    (void)dd_run_lap(run);
    dd_run_phase(run, "exporting", 0.0);
    enum dd_status status = fill_result(run, &finished, &result, err);
    if (status == DD_OK) {
        dd_optimizer_flush(run->optimizer);
        status = save_model(run, &state->last, result.last_dir, finished.last_sha256, err);
    }
    if (status == DD_OK) {
        status = weights_bytes(result.last_dir, &finished.model_bytes, err);
    }
    if (status == DD_OK) {
        status = dd_finished_write(run->input->run_dir, &run->identity, &finished, err);
    }
    if (status != DD_OK) {
        return dd_error_prefix(err, "exporting the model");
    }
    result.model_bytes = finished.model_bytes;
    remove_checkpoints(run, state->best.epoch);
    dd_run_phase(run, "exporting", 1.0);
    dd_run_log(run, DD_LOG_INFO,
               "done after %.1f s: best models written in %.2f s, checkpoints in %.2f, the last model in %.2f",
               (double)(dd_clock_mono_us() - run->began_us) / 1e6, run->seconds.best, run->seconds.checkpoint,
               dd_run_lap(run));
    *ret_result = result;
    return DD_OK;
}

enum dd_status dd_run_was_finished(struct dd_run *run, bool *ret_done, struct dd_train_result *ret_result,
                                   struct dd_error *err) {
    struct dd_finished finished;
    struct dd_train_result result;
    struct dd_error fault = {0};
    enum dd_status status = dd_finished_read(run->input->run_dir, &run->identity, &finished, &fault);
    if (status == DD_NOT_FOUND) {
        *ret_done = false;
        return DD_OK;
    }
    if (status == DD_OK) {
        status = fill_result(run, &finished, &result, &fault);
    }
    if (status == DD_OK) {
        status = verify_model(result.best_dir, finished.best_sha256, &fault);
    }
    if (status == DD_OK) {
        status = verify_model(result.last_dir, finished.last_sha256, &fault);
    }
    if (status == DD_OK) {
        remove_checkpoints(run, finished.best.epoch);
        *ret_result = result;
        *ret_done = true;
        return DD_OK;
    }
    if (!unusable(status)) {
        if (err) {
            *err = fault;
        }
        return status;
    }
    dd_run_log(run, DD_LOG_WARNING, "this run finished before, but its files cannot be used; it trains again: %s",
               fault.message);
    (void)unlinkat(run->run_fd, "finished", 0);
    *ret_done = false;
    return DD_OK;
}
