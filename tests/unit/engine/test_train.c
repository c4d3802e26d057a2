/* Training as a whole: complete callbacks, exported models, and the same bits whatever the threads and interruptions.
 */
#include <sys/wait.h>

#include "train_fixture.h"

#define EPOCHS 4
#define STEPS 36

static struct dd_model *teacher;
static struct history *undisturbed[2][2]; /* by task, optimizer */
static char undisturbed_run[2][2][48];
static int undisturbed_best[2][2];

static void attempt_init(struct attempt *attempt, int task, int optimizer, const char *run) {
    *attempt = (struct attempt){.run = run, .threads = 1};
    attempt->spec = tiny_spec((enum dd_task)task, (enum dd_optimizer_type)optimizer);
    attempt->base = task == DD_TASK_DISTILL ? teacher : NULL;
}

static void record_path(char out[512], const char *run, int number) {
    char name[160];
    snprintf(name, sizeof name, "%s-attempt-%d.bin", run, number);
    fixture_path(out, name);
}

static int set_up(void **state) {
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    teacher = fixture_teacher();
    for (int task = 0; task < 2; task++) {
        for (int optimizer = 0; optimizer < 2; optimizer++) {
            char *run = undisturbed_run[task][optimizer];
            snprintf(run, 48, "undisturbed-%d-%d", task, optimizer);
            struct attempt attempt;
            attempt_init(&attempt, task, optimizer, run);
            record_path(attempt.recorder.path, run, 0);
            must(attempt_train(&attempt), &attempt.err);
            undisturbed[task][optimizer] = dd_calloc(1, sizeof(struct history));
            history_fold(undisturbed[task][optimizer], attempt.recorder.path);
            undisturbed_best[task][optimizer] = attempt.result.best_epoch;
        }
    }
    return 0;
}

static int tear_down(void **state) {
    dd_model_free(teacher);
    for (int i = 0; i < 4; i++) {
        free(undisturbed[i / 2][i % 2]);
    }
    return fixture_tear_down(state);
}

/* The run `run`, recorded in n_attempts files, is the undisturbed one. */
static void same_as_undisturbed(int task, int optimizer, const char *run, int n_attempts) {
    static struct history history;
    memset(&history, 0, sizeof history);
    for (int i = 0; i < n_attempts; i++) {
        char path[512];
        record_path(path, run, i);
        history_fold(&history, path);
    }
    history_same(&history, undisturbed[task][optimizer], EPOCHS, STEPS);
    char a[512], b[512], best[64];
    fixture_path(a, run);
    fixture_path(b, undisturbed_run[task][optimizer]);
    same_file(a, b, "last/model.safetensors");
    snprintf(best, sizeof best, "best-%d/model.safetensors", undisturbed_best[task][optimizer]);
    same_file(a, b, best);
    same_file(a, b, "last/config.json");
    same_file(a, b, "last/README.md");
}

static void assert_clean(const char *run, int best) {
    char dir[512], command[1200], line[4096] = "";
    fixture_path(dir, run);
    snprintf(command, sizeof command, "ls -A '%s' | tr '\\n' ' '", dir);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    pclose(pipe);
    char expected[64];
    snprintf(expected, sizeof expected, "best-%d finished last ", best);
    assert_string_equal(line, expected);
}

static void test_callbacks_are_complete(void **state) {
    (void)state;
    for (int task = 0; task < 2; task++) {
        const struct history *history = undisturbed[task][0];
        assert_int_equal(history->n_epochs, EPOCHS);
        bool distill = task == DD_TASK_DISTILL;
        double best = -1;
        for (int e = 1; e <= EPOCHS; e++) {
            const struct dd_epoch_metrics *m = &history->epochs[e].metrics;
            assert_int_equal(history->epochs[e].n_steps, STEPS / EPOCHS);
            assert_int_equal(history->epochs[e].n_dev, 23);
            assert_int_equal(isnan(m->train_kl) != 0, !distill);
            assert_int_equal(isnan(m->teacher_agreement) != 0, !distill);
            assert_true(isfinite(m->train_loss) && isfinite(m->dev_loss) && isfinite(m->lr));
            assert_int_equal(isnan(m->dev_kl) != 0, !distill);
            near_double(m->dev_loss, distill ? 0.3 * m->dev_kl + 0.7 * m->dev_ce : m->dev_ce, 1e-6);
            assert_int_equal(m->is_best, m->macro_f1 > best);
            best = DD_MAX(best, m->macro_f1);
            double loss = 0, rows = 0; /* train_loss is the mean over rows, the last batch having 6 */
            for (int s = (e - 1) * 9 + 1; s <= e * 9; s++) {
                double n = s == e * 9 ? 6 : 8;
                assert_int_equal(history->steps[s].epoch, e);
                loss += history->steps[s].loss * n;
                rows += n;
            }
            near_double(loss / rows, m->train_loss, 1e-12);
        }
        const struct dd_step_metrics *s = &history->steps[7];
        if (distill) {
            near_double(s->loss, 0.3 * s->kl + 0.7 * s->ce, 1e-6);
        } else {
            near_double(s->loss, s->ce, 0);
        }
    }
    assert_true(undisturbed[1][0]->epochs[EPOCHS].metrics.train_loss < undisturbed[1][0]->epochs[1].metrics.train_loss);
}

static void test_threads_make_the_same_bits(void **state) {
    (void)state;
    static const int threads[] = {2, 4};
    for (size_t i = 0; i < DD_ARRAY_LEN(threads); i++) {
        char run[32];
        snprintf(run, sizeof run, "threads-%d", threads[i]);
        struct attempt attempt;
        attempt_init(&attempt, DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, run);
        attempt.threads = threads[i];
        record_path(attempt.recorder.path, run, 0);
        must(attempt_train(&attempt), &attempt.err);
        same_as_undisturbed(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, run, 1);
    }
}

/* Pauses at every one of several points, each time in the middle of what came before. */
static void test_pauses_leave_no_trace(void **state) {
    (void)state;
    static const int points[] = {1, 4, 9, 10, 3, 17};
    for (int task = 0; task < 2; task++) {
        for (int optimizer = 0; optimizer < 2; optimizer++) {
            char run[32];
            snprintf(run, sizeof run, "paused-%d-%d", task, optimizer);
            int n = 0;
            for (;; n++) {
                struct attempt attempt;
                attempt_init(&attempt, task, optimizer, run);
                record_path(attempt.recorder.path, run, n);
                attempt.recorder.stop_at = n < (int)DD_ARRAY_LEN(points) ? points[n] : 0;
                attempt.recorder.stop = n % 2 ? DD_STOP_CANCEL : DD_STOP_PAUSE;
                attempt.threads = 1 + n % 2;
                enum dd_status status = attempt_train(&attempt);
                if (status == DD_OK) {
                    assert_clean(run, attempt.result.best_epoch);
                    break;
                }
                assert_int_equal(status, DD_STOPPED);
            }
            assert_int_equal(n, DD_ARRAY_LEN(points));
            same_as_undisturbed(task, optimizer, run, n + 1);
        }
    }
}

/* The same in bf16, whose converted weights are in no checkpoint: another thread count and two pauses change no bit. */
static void test_bf16_pauses_leave_no_trace(void **state) {
    (void)state;
    if (!dd_engine_has_bf16()) {
        print_message("no bf16 on this machine\n");
        skip();
    }
    static struct history history[2];
    static const char *const runs[] = {"bf16-straight", "bf16-paused"};
    static const int points[2][3] = {{0, 0, 0}, {4, 13, 0}};
    for (int k = 0; k < 2; k++) {
        memset(&history[k], 0, sizeof history[k]);
        enum dd_status status = DD_STOPPED;
        for (int n = 0; status == DD_STOPPED; n++) {
            assert_true(n < 3);
            struct attempt attempt;
            attempt_init(&attempt, DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, runs[k]);
            attempt.spec.precision = DD_PRECISION_BF16;
            attempt.threads = 1 + k;
            attempt.recorder.stop_at = points[k][n];
            attempt.recorder.stop = DD_STOP_PAUSE;
            record_path(attempt.recorder.path, runs[k], n);
            status = attempt_train(&attempt);
            assert_true(status == DD_OK || (k == 1 && status == DD_STOPPED));
            history_fold(&history[k], attempt.recorder.path);
        }
    }
    history_same(&history[0], &history[1], EPOCHS, STEPS);
    const struct history *full = undisturbed[DD_TASK_DISTILL][DD_OPTIMIZER_ADAMW];
    for (int s = 1; s <= STEPS; s++) {
        assert_true(history[0].steps[s].loss != full->steps[s].loss);
        near_double(history[0].steps[s].loss, full->steps[s].loss, 0.05);
    }
    char a[512], b[512];
    fixture_path(a, runs[0]);
    fixture_path(b, runs[1]);
    same_file(a, b, "last/model.safetensors");
}

/* One attempt in a child process; true when it reached the end. */
static bool child_trains(int task, int optimizer, const char *run, int n, int kill_at, int kill_after,
                         int kill_after_us, double checkpoint_seconds) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct attempt attempt;
        attempt_init(&attempt, task, optimizer, run);
        record_path(attempt.recorder.path, run, n);
        attempt.recorder.kill_at = kill_at;
        attempt.recorder.kill_after = kill_after;
        attempt.checkpoint_seconds = checkpoint_seconds;
        enum dd_status status = attempt_train(&attempt);
        if (status != DD_OK) {
            fprintf(stderr, "%s\n", attempt.err.message);
        }
        _exit(status == DD_OK ? 0 : 1);
    }
    if (kill_after_us > 0) {
        usleep((useconds_t)kill_after_us);
        kill(pid, SIGKILL);
    }
    return child_ended(pid);
}

static void test_kills_in_callbacks_leave_no_trace(void **state) {
    (void)state;
    static const struct { int at, after; } kills[] = {{1, 0}, {6, 0}, {10, 0}, {0, 1}, {12, 0}, {0, 1}, {9, 0}};
    for (int optimizer = 0; optimizer < 2; optimizer++) {
        char run[32];
        snprintf(run, sizeof run, "killed-%d", optimizer);
        int n = 0;
        for (bool done = false; !done; n++) {
            int at = n < (int)DD_ARRAY_LEN(kills) ? kills[n].at : 0,
                after = n < (int)DD_ARRAY_LEN(kills) ? kills[n].after : 0;
            done = child_trains(DD_TASK_DISTILL, optimizer, run, n, at, after, 0, 0);
        }
        assert_true(n > (int)DD_ARRAY_LEN(kills));
        same_as_undisturbed(DD_TASK_DISTILL, optimizer, run, n);
        assert_clean(run, undisturbed_best[DD_TASK_DISTILL][optimizer]);
    }
}

/* Kills at arbitrary instants, a checkpoint before every step, so that most of them fall into writing one. */
static void test_kills_at_any_instant_leave_no_trace(void **state) {
    (void)state;
    char run[32] = "killed-anywhere";
    unsigned seed = 99;
    int n = 0;
    for (bool done = false; !done; n++) {
        int us = n < 60 ? 500 + (int)(fixture_random(&seed) % 20000) : 0;
        done = child_trains(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, run, n, 0, 0, us, 1e-9);
    }
    same_as_undisturbed(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, run, n);
    assert_clean(run, undisturbed_best[DD_TASK_DISTILL][DD_OPTIMIZER_ADAMW]);
}

static void test_finished_run_answers_again(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, DD_TASK_FINETUNE, DD_OPTIMIZER_SGD, undisturbed_run[1][1]);
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.calls, 0);
    assert_int_equal(attempt.result.epochs_done, EPOCHS);
    assert_int_equal(attempt.result.steps_done, STEPS);
    assert_int_equal(attempt.result.best_epoch, undisturbed_best[1][1]);
    same_double(attempt.result.last.macro_f1, undisturbed[1][1]->epochs[EPOCHS].metrics.macro_f1);
    assert_true(attempt.result.model_bytes > 4 * attempt.result.parameters);
    /* Of another spec it is another run, and trains. */
    attempt_init(&attempt, DD_TASK_FINETUNE, DD_OPTIMIZER_SGD, undisturbed_run[1][1]);
    attempt.spec.seed++;
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.epochs, EPOCHS);
    assert_true(attempt.recorder.warnings > 0);
}

static void test_divergence_is_reported(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, DD_TASK_FINETUNE, DD_OPTIMIZER_SGD, "diverges");
    attempt.spec.optimizer.lr = 1e30;
    attempt.spec.optimizer.max_grad_norm = 0;
    attempt.spec.optimizer.warmup = 0;
    attempt.spec.optimizer.schedule = DD_SCHEDULE_CONSTANT;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "training_diverged");
    assert_non_null(strstr(attempt.err.message, "lr 1e+30"));
}

static void test_bad_input_is_refused(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, "refused");
    attempt.base = NULL;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "teacher_missing");

    attempt_init(&attempt, DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, "refused");
    struct dd_model other = *teacher;
    snprintf(other.info.labels[1], sizeof other.info.labels[1], "yellow");
    attempt.base = &other;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "labels_do_not_match");
    assert_non_null(strstr(attempt.err.message, "[red, green, blue]"));
    assert_non_null(strstr(attempt.err.message, "yellow"));

    attempt_init(&attempt, DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW, "refused");
    attempt.spec.max_length = 600;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "max_length_invalid");
}

static void test_one_run_a_directory(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW, "two-at-once");
    char dir[512];
    fixture_path(dir, "two-at-once");
    must(dd_dir_make(dir, &attempt.err), &attempt.err);
    struct dd_run holder = {.input = &(struct dd_train_input){.run_dir = dir}, .run_fd = -1};
    must(dd_run_lock(&holder, &attempt.err), &attempt.err);
    assert_int_equal(attempt_train(&attempt), DD_CONFLICT);
    assert_string_equal(attempt.err.code, "run_in_progress");
    close(holder.run_fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_callbacks_are_complete),
        cmocka_unit_test(test_threads_make_the_same_bits),
        cmocka_unit_test(test_pauses_leave_no_trace),
        cmocka_unit_test(test_bf16_pauses_leave_no_trace),
        cmocka_unit_test(test_kills_in_callbacks_leave_no_trace),
        cmocka_unit_test(test_kills_at_any_instant_leave_no_trace),
        cmocka_unit_test(test_divergence_is_reported),
        cmocka_unit_test(test_bad_input_is_refused),
        cmocka_unit_test(test_one_run_a_directory),
        cmocka_unit_test(test_finished_run_answers_again),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
