/* distilld run SPEC.json: one experiment in the foreground.
 *
 * The work happens in DATA-DIR/foreground/<key>/: key is the hash of the spec and of the paths it names, so the same
 * command finds its checkpoint again.  The folder goes when the model stands at --out.
 *
 * Threads: main trains with the pool's helpers; "signals" waits for SIGINT and SIGTERM (signals.c says why).
 */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/command.h"
#include "daemon/local.h"

#define MAX_SPEC_BYTES ((size_t)1 << 20)

/* --- Ctrl-C
 * ------------------------------------------------------------------------------------------------------------ */

static struct dd_cancel interrupted;

/* The first signal asks for a stop, the second ends the process at once. */
static void *wait_for_signals(void *argument) {
    const sigset_t *signals = argument;
    int number;
    pthread_setname_np(pthread_self(), "signals");
    for (;;) {
        if (sigwait(signals, &number) != 0)
            continue;
        if (dd_cancel_requested(&interrupted) != DD_STOP_NONE)
            _exit(130);
        dd_cancel_request(&interrupted, DD_STOP_PAUSE); /* the stop that always writes its checkpoint */
    }
    return NULL;
}

/* Before any other thread is started.  The waiting thread ends with the process. */
static enum dd_status catch_signals(struct dd_error *err) {
    static sigset_t signals;
    pthread_t thread;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    dd_signals_block(&signals);
    int failure = pthread_create(&thread, NULL, wait_for_signals, &signals);
    if (failure != 0)
        return dd_fail(err, DD_NO_MEMORY, "thread_start_failed", "cannot start the thread that waits for signals: %s",
                       strerror(failure));
    pthread_detach(thread);
    return DD_OK;
}

/* --- progress
 * ---------------------------------------------------------------------------------------------------------- */

struct progress {
    struct dd_line line;
    double f1, teacher_f1;
    int n_classes;
};

static void on_step(void *context, const struct dd_step_metrics *s) {
    struct progress *p = context;
    char left[32], f1[24] = "";
    dd_duration_text(s->eta_seconds, left);
    if (isfinite(p->f1))
        snprintf(f1, sizeof f1, "  macro F1 %.4f", p->f1);
    dd_line_draw(&p->line, false, "epoch %d/%d  step %lld/%lld  loss %.4f%s  %.0f tokens/s  %s left", s->epoch,
                 s->epochs, (long long)s->step, (long long)s->steps, s->loss, f1, s->tokens_per_second, left);
}

static enum dd_status on_epoch(void *context, const struct dd_epoch_metrics *e, const struct dd_predictions *dev,
                               struct dd_error *err) {
    struct progress *p = context;
    (void)dev;
    (void)err;
    p->f1 = e->macro_f1;
    dd_line_print(&p->line,
                  "epoch %3d  loss %.4f  dev loss %.4f  accuracy %.4f  macro F1 %.4f  %.0f tokens/s  %.1f s%s",
                  e->epoch, e->train_loss, e->dev_loss, e->accuracy, e->macro_f1, e->tokens_per_second, e->seconds,
                  e->is_best ? "  best" : "");
    if (e->rollback != DD_ROLLBACK_NONE)
        dd_line_print(&p->line, "rolled back to %s%.0d: %s", e->rollback_to > 0 ? "epoch " : "the first weights",
                      e->rollback_to, dd_rollback_name(e->rollback));
    return DD_OK;
}

static enum dd_status on_reference(void *context, const int32_t *gold, size_t n, const struct dd_predictions *teacher,
                                   struct dd_error *err) {
    struct progress *p = context;
    if (teacher == NULL)
        return DD_OK;
    struct dd_report report;
    enum dd_status status = dd_report_compute(gold, teacher->label, n, p->n_classes, false, &report, err);
    if (status != DD_OK)
        return status;
    p->teacher_f1 = report.macro.f1;
    dd_line_print(&p->line, "teacher    accuracy %.4f  macro F1 %.4f", report.accuracy, report.macro.f1);
    dd_report_release(&report);
    return DD_OK;
}

static void on_log(void *context, enum dd_log_level level, const char *message) {
    struct progress *p = context;
    if (level >= DD_LOG_WARNING)
        dd_line_print(&p->line, "%s: %s", dd_log_level_name(level), message);
}

static void on_phase(void *context, const char *phase, double done) {
    struct progress *p = context;
    if (strcmp(phase, "training") != 0)
        dd_line_draw(&p->line, false, "%s %.0f %%", phase, 100 * done);
}

/* --- the result
 * -------------------------------------------------------------------------------------------------------- */

/* An --out that exists must be a model of ours: nothing else is ever replaced. */
static enum dd_status check_out(const char *out, struct dd_error *err) {
    char config[PATH_MAX], weights[PATH_MAX];
    struct stat info;
    if (lstat(out, &info) != 0)
        return errno == ENOENT ? DD_OK : dd_fail_errno(err, errno, "%s", out);
    enum dd_status status = dd_path_join(config, sizeof config, err, out, "config.json", NULL);
    if (status == DD_OK)
        status = dd_path_join(weights, sizeof weights, err, out, "model.safetensors", NULL);
    if (status == DD_OK && (access(config, F_OK) != 0 || access(weights, F_OK) != 0))
        status =
            dd_fail(err, DD_CONFLICT, "out_exists", "%s exists and is no model directory: choose another --out", out);
    return status;
}

static enum dd_status place_result(const char *best_dir, const char *out, struct dd_error *err) {
    char fresh[PATH_MAX];
    if (snprintf(fresh, sizeof fresh, "%s.tmp-new", out) >= (int)sizeof fresh)
        return dd_fail(err, DD_INVALID, "path_too_long", "%s: the path is too long", out);
    enum dd_status status = dd_tree_remove(fresh, err);
    if (status == DD_OK)
        status = dd_dir_link(best_dir, fresh, err);
    if (status == DD_OK)
        status = dd_tree_remove(out, err);
    if (status == DD_OK && rename(fresh, out) != 0)
        status = dd_fail_errno(err, errno, "%s", out);
    return status;
}

static enum dd_status print_report(struct dd_local *local, const struct dd_train_result *result, struct dd_error *err) {
    struct dd_loaded *model = NULL;
    char dir[PATH_MAX], kind[] = "classifier", name[] = "the result";
    snprintf(dir, sizeof dir, "%s", result->best_dir);
    const struct dd_asset asset = {.id = 1, .name = name, .dir = dir, .kind = kind};
    struct dd_report report;
    enum dd_status status = dd_loaded_get(&local->daemon, &asset, &model, err);
    if (status == DD_OK)
        status = dd_evaluate(model->model, local->daemon.pool, local->setup.spec.max_length,
                             local->setup.dataset->dataset, DD_SPLIT_DEV, NULL, &report, err);
    if (status == DD_OK) {
        struct dd_buffer text;
        const char **names = dd_class_names(local->setup.dataset->dataset);
        dd_buffer_init(&text, 1 << 20);
        if (names != NULL)
            dd_report_text(&report, names, 4, &text);
        fputs(text.data, stdout);
        dd_buffer_release(&text);
        free(names);
        dd_report_release(&report);
    }
    dd_loaded_put(&local->daemon, model);
    return status;
}

/* --- the command
 * ------------------------------------------------------------------------------------------------------- */

static enum dd_status train(struct dd_local *local, const struct dd_options *options, struct progress *progress,
                            struct dd_train_result *result, struct dd_error *err) {
    char run_dir[PATH_MAX];
    enum dd_status status = dd_path_join(run_dir, sizeof run_dir, err, local->work_dir, "run", NULL);
    if (status != DD_OK)
        return status;
    progress->n_classes = dd_dataset_classes(local->setup.dataset->dataset);
    struct dd_train_input input = {.spec = &local->setup.spec,
                                   .dataset = local->setup.dataset->dataset,
                                   .base = local->setup.base,
                                   .init = local->setup.init,
                                   .vocab = local->setup.vocab,
                                   .vocab_bytes = local->setup.vocab_bytes,
                                   .vocab_options = local->setup.vocab_options,
                                   .pool = local->daemon.pool,
                                   .run_dir = run_dir,
                                   .cache_dir = local->daemon.cache_dir,
                                   .cancel = &interrupted,
                                   .checkpoint_seconds = (double)options->checkpoint_seconds,
                                   .card_title =
                                       local->setup.spec.name[0] != '\0' ? local->setup.spec.name : "distilld run",
                                   .events = {.context = progress,
                                              .step = on_step,
                                              .epoch = on_epoch,
                                              .reference = on_reference,
                                              .log = on_log,
                                              .phase = on_phase}};
    memcpy(input.teachers, local->setup.teachers, sizeof local->setup.teachers);
    status = dd_train(&input, result, err);
    dd_line_clear(&progress->line);
    return status;
}

static void default_out(const char *spec_path, char out[PATH_MAX]) {
    const char *slash = strrchr(spec_path, '/'), *name = slash != NULL ? slash + 1 : spec_path;
    size_t stem = strcspn(name, ".");
    if (strcmp(spec_path, "-") == 0 || stem == 0)
        snprintf(out, PATH_MAX, "distilld-model");
    else
        snprintf(out, PATH_MAX, "%.*s-model", (int)DD_MIN(stem, (size_t)200), name);
}

static enum dd_status finish(struct dd_local *local, const struct dd_train_result *result, const char *out,
                             const struct progress *progress, struct dd_error *err) {
    enum dd_status status = print_report(local, result, err);
    if (status == DD_OK)
        status = place_result(result->best_dir, out, err);
    if (status != DD_OK)
        return status;
    if (result->epochs_done < local->setup.spec.epochs)
        printf("\nstopped early at epoch %d, best was %d", result->epochs_done, result->best_epoch);
    printf("\nbest epoch %d of %d: accuracy %.4f, macro F1 %.4f", result->best_epoch, result->epochs_done,
           result->best.accuracy, result->best.macro_f1);
    if (isfinite(progress->teacher_f1) && progress->teacher_f1 > 0)
        printf(" (%.1f %% of the teacher's)", 100 * result->best.macro_f1 / progress->teacher_f1);
    printf("\nmodel: %s (%.1f MB)\n", out, (double)result->model_bytes / 1e6);
    return dd_tree_remove(local->work_dir, err);
}

int dd_run_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_faults faults;
    struct progress progress = {.f1 = NAN, .teacher_f1 = NAN};
    struct dd_local *local = dd_calloc(1, sizeof *local);
    struct dd_train_result *result = dd_calloc(1, sizeof *result);
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    char out[PATH_MAX];
    size_t length;
    dd_faults_init(&faults);
    dd_line_init(&progress.line, stderr, options->quiet);
    if (options->out != NULL)
        snprintf(out, sizeof out, "%s", options->out);
    else
        default_out(args[0], out);
    enum dd_status status = local == NULL || result == NULL ? dd_fail_memory(&err, sizeof *result) : DD_OK;
    if (status == DD_OK)
        status = catch_signals(&err);
    if (status == DD_OK)
        status = strcmp(args[0], "-") == 0 ? dd_read_stream(stdin, MAX_SPEC_BYTES, &text, &length, &err)
                                           : dd_file_read(args[0], MAX_SPEC_BYTES, &text, &length, &err);
    if (status == DD_OK && options->preset != NULL)
        status = dd_spec_text_preset(&text, options->preset, &err);
    if (status == DD_OK)
        status = check_out(out, &err);
    if (status == DD_OK)
        status = dd_local_open(local, options, text, &faults, &err);
    if (status == DD_OK) {
        status = train(local, options, &progress, result, &err);
        if (status == DD_OK)
            status = finish(local, result, out, &progress, &err);
        dd_local_close(local);
    }
    free(local);
    free(result);
    int code = 0;
    if (status == DD_STOPPED) {
        fprintf(stderr, "distilld: interrupted; the same command goes on from the checkpoint\n");
        code = 130;
    } else if (status != DD_OK) {
        code = dd_report_error(&err);
        dd_report_faults(&faults);
    }
    dd_faults_release(&faults);
    return code;
}
