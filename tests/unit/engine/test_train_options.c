/* The options of a training that change its bits (losses, schedules, average, depth, frozen embeddings, guard): with
 * each of them a run that is paused, killed or given other threads makes the bits of the undisturbed one.  And what
 * patience, metric, selection and guard do. */
#include <sys/wait.h>

#include "train_fixture.h"

#define EPOCHS 6
#define STEPS 54
#define COLLAPSE_LR 0.1
#define NOT_FINITE_LR 1e16

static struct dd_model *teacher;

struct variant {
    const char *name;
    enum dd_task task;
    enum dd_optimizer_type optimizer;
    void (*set)(struct dd_spec *spec);
    bool trained;            /* finetune from the fixture's teacher, not from scratch */
    struct history *history; /* of the undisturbed run */
    int best, epochs;
};

static void set_mse(struct dd_spec *spec) {
    spec->loss = DD_LOSS_MSE;
    spec->temperature = NAN;
    spec->alpha_end = 0.9;
    spec->class_weights = DD_CLASS_WEIGHTS_BALANCED;
}

static void set_schedules(struct dd_spec *spec) {
    spec->temperature_end = 1.0;
    spec->alpha_end = 0.0;
    spec->label_smoothing = 0.1;
}

static void set_average(struct dd_spec *spec) {
    spec->optimizer.ema = 0.9;
}

static void set_average_without_decay(struct dd_spec *spec) {
    spec->optimizer.ema = 0.95;
    spec->optimizer.weight_decay = 0;
    spec->optimizer.momentum = 0;
}

static void set_depth(struct dd_spec *spec) {
    spec->optimizer.layer_lr_decay = 0.7;
    spec->optimizer.ema = 0.8;
}

static void set_frozen(struct dd_spec *spec) {
    spec->optimizer.freeze_embeddings = DD_FLAG_YES;
}

static void set_patience(struct dd_spec *spec) {
    spec->metric = DD_METRIC_DEV_LOSS;
    spec->patience = 2;
    spec->optimizer.lr = 0;
}

static void set_one_se(struct dd_spec *spec) {
    spec->metric = DD_METRIC_TEACHER_AGREEMENT;
    spec->selection = DD_SELECTION_ONE_SE;
    spec->patience = 4;
}

static void set_calm(struct dd_spec *spec) {
    spec->layers = 3;
    snprintf(spec->model, sizeof spec->model, "teacher");
    spec->optimizer.lr = 1e-4;
}

/* lr rises from 0 to a value at which nothing holds: a trained model keeps its score for an epoch, then collapses. */
static void set_collapse(struct dd_spec *spec) {
    spec->guard = DD_FLAG_YES;
    spec->layers = 3;
    snprintf(spec->model, sizeof spec->model, "teacher");
    spec->optimizer.lr = COLLAPSE_LR;
    spec->optimizer.warmup = 1;
    spec->optimizer.max_grad_norm = 0;
}

/* Weights so large that the loss is no number. */
static void set_weights(struct dd_spec *spec) {
    spec->class_weights = DD_CLASS_WEIGHTS_BALANCED;
    spec->label_smoothing = 0.1;
}

static void set_nesterov(struct dd_spec *spec) {
    spec->optimizer.momentum = 0.9;
    spec->optimizer.weight_decay = 0.01;
    spec->optimizer.nesterov = DD_FLAG_YES;
}

static void set_not_finite(struct dd_spec *spec) {
    spec->guard = DD_FLAG_YES;
    spec->optimizer.lr = NOT_FINITE_LR;
    spec->optimizer.warmup = 1;
    spec->optimizer.weight_decay = 0;
    spec->optimizer.max_grad_norm = 0;
}

static struct variant variants[] = {
    {.name = "mse", .task = DD_TASK_DISTILL, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_mse},
    {.name = "schedules", .task = DD_TASK_DISTILL, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_schedules},
    {.name = "average", .task = DD_TASK_DISTILL, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_average},
    {.name = "average-sgd", .task = DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_SGD, .set = set_average},
    {.name = "average-plain",
     .task = DD_TASK_FINETUNE,
     .optimizer = DD_OPTIMIZER_SGD,
     .set = set_average_without_decay},
    {.name = "weights", .task = DD_TASK_DISTILL, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_weights},
    {.name = "nesterov", .task = DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_SGD, .set = set_nesterov},
    {.name = "depth", .task = DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_depth},
    {.name = "frozen", .task = DD_TASK_DISTILL, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_frozen},
    {.name = "patience", .task = DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_patience},
    {.name = "one-se", .task = DD_TASK_DISTILL, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_one_se},
    {.name = "calm", .task = DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_calm, .trained = true},
    {.name = "collapse",
     .task = DD_TASK_FINETUNE,
     .optimizer = DD_OPTIMIZER_ADAMW,
     .set = set_collapse,
     .trained = true},
    {.name = "not-finite", .task = DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_SGD, .set = set_not_finite},
};

static struct variant *find(const char *name) {
    for (size_t v = 0; v < DD_ARRAY_LEN(variants); v++) {
        if (strcmp(variants[v].name, name) == 0) {
            return &variants[v];
        }
    }
    fail_msg("no variant %s", name);
    return NULL;
}

static void attempt_init(struct attempt *attempt, const struct variant *variant, const char *run, int number) {
    char name[160];
    *attempt = (struct attempt){.run = run, .threads = 1};
    attempt->spec = tiny_spec(variant->task, variant->optimizer);
    attempt->spec.epochs = EPOCHS;
    variant->set(&attempt->spec);
    attempt->base = variant->trained || variant->task == DD_TASK_DISTILL ? teacher : NULL;
    snprintf(name, sizeof name, "%s-attempt-%d.bin", run, number);
    fixture_path(attempt->recorder.path, name);
}

static int set_up(void **state) {
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    teacher = fixture_teacher();
    for (size_t v = 0; v < DD_ARRAY_LEN(variants); v++) {
        struct attempt attempt;
        attempt_init(&attempt, &variants[v], variants[v].name, 0);
        must(attempt_train(&attempt), &attempt.err);
        variants[v].history = dd_calloc(1, sizeof(struct history));
        history_fold(variants[v].history, attempt.recorder.path);
        variants[v].best = attempt.result.best_epoch;
        variants[v].epochs = attempt.result.epochs_done;
    }
    return 0;
}

static int tear_down(void **state) {
    dd_model_free(teacher);
    for (size_t v = 0; v < DD_ARRAY_LEN(variants); v++) {
        free(variants[v].history);
    }
    return fixture_tear_down(state);
}

static void same_as_undisturbed(const struct variant *variant, const char *run, int n_attempts) {
    static struct history history;
    memset(&history, 0, sizeof history);
    for (int i = 0; i < n_attempts; i++) {
        struct attempt attempt;
        attempt_init(&attempt, variant, run, i);
        history_fold(&history, attempt.recorder.path);
    }
    history_same(&history, variant->history, variant->epochs, STEPS / EPOCHS * variant->epochs);
    char a[512], b[512], best[64];
    fixture_path(a, run);
    fixture_path(b, variant->name);
    snprintf(best, sizeof best, "best-%d/model.safetensors", variant->best);
    same_file(a, b, "last/model.safetensors");
    same_file(a, b, best);
}

/* Pauses between any two of several steps; every second attempt with three threads. */
static void test_pauses_and_threads_leave_no_trace(void **state) {
    (void)state;
    static const int points[] = {2, 9, 10, 7, 12};
    for (size_t v = 0; v < DD_ARRAY_LEN(variants); v++) {
        char run[48];
        snprintf(run, sizeof run, "%s-paused", variants[v].name);
        enum dd_status status = DD_STOPPED;
        int n = 0;
        for (; status == DD_STOPPED; n++) {
            struct attempt attempt;
            attempt_init(&attempt, &variants[v], run, n);
            attempt.threads = n % 2 ? 3 : 1;
            attempt.recorder.stop_at = n < (int)DD_ARRAY_LEN(points) ? points[n] : 0;
            attempt.recorder.stop = DD_STOP_PAUSE;
            status = attempt_train(&attempt);
            assert_true(status == DD_OK || status == DD_STOPPED);
        }
        assert_true(n > 3);
        same_as_undisturbed(&variants[v], run, n);
    }
}

/* A process that is killed in the given call, or after the given epoch was told; true when it came to the end. */
static bool child_trains(const struct variant *variant, const char *run, int n, int kill_at, int kill_after) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct attempt attempt;
        attempt_init(&attempt, variant, run, n);
        attempt.recorder.kill_at = kill_at;
        attempt.recorder.kill_after = kill_after;
        attempt.checkpoint_seconds = n % 2 ? 1e-9 : 0; /* before every step, or at the end of epochs alone */
        _exit(attempt_train(&attempt) == DD_OK ? 0 : 1);
    }
    return child_ended(pid);
}

static void test_kills_leave_no_trace(void **state) {
    (void)state;
    static const struct { int at, after; } kills[] = {{3, 0}, {7, 0}, {12, 0}, {0, 1}, {10, 0}, {4, 0}, {0, 1}};
    for (size_t v = 0; v < DD_ARRAY_LEN(variants); v++) {
        char run[48];
        snprintf(run, sizeof run, "%s-killed", variants[v].name);
        int n = 0;
        for (bool done = false; !done; n++) {
            bool more = n < (int)DD_ARRAY_LEN(kills);
            done = child_trains(&variants[v], run, n, more ? kills[n].at : 0, more ? kills[n].after : 0);
        }
        same_as_undisturbed(&variants[v], run, n);
    }
}

/* --- what they do ----------------------------------------------------------------------------------------------- */

static void test_patience_ends_the_run(void **state) {
    (void)state;
    struct variant *variant = find("patience");
    assert_int_equal(variant->epochs, 3); /* with lr 0 none is better than the first */
    assert_int_equal(variant->best, 1);
    struct attempt attempt;
    attempt_init(&attempt, variant, variant->name, 1);
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.result.epochs_done, 3);
    assert_int_equal(attempt.recorder.calls, 0);
}

static void test_metric_decides_what_is_best(void **state) {
    (void)state;
    static const enum dd_metric metrics[] = {DD_METRIC_MACRO_F1, DD_METRIC_ACCURACY, DD_METRIC_DEV_LOSS,
                                             DD_METRIC_TEACHER_AGREEMENT};
    static struct history history;
    for (size_t k = 0; k < DD_ARRAY_LEN(metrics); k++) {
        struct variant plain = {
            .task = k == 3 ? DD_TASK_DISTILL : DD_TASK_FINETUNE, .optimizer = DD_OPTIMIZER_ADAMW, .set = set_frozen};
        struct attempt attempt;
        char run[32];
        snprintf(run, sizeof run, "metric-%zu", k);
        attempt_init(&attempt, &plain, run, 0);
        attempt.spec.metric = metrics[k];
        must(attempt_train(&attempt), &attempt.err);
        memset(&history, 0, sizeof history);
        history_fold(&history, attempt.recorder.path);
        double best = -INFINITY;
        int at = 0;
        for (int e = 1; e <= EPOCHS; e++) {
            const struct dd_epoch_metrics *m = &history.epochs[e].metrics;
            double score = k == 0 ? m->macro_f1 : k == 1 ? m->accuracy : k == 2 ? -m->dev_loss : m->teacher_agreement;
            assert_int_equal(m->is_best, score > best);
            at = score > best ? e : at;
            best = fmax(best, score);
        }
        assert_int_equal(attempt.result.best_epoch, at);
    }
}

/* --- selection -------------------------------------------------------------------------------------------------- */

#define SKEWED 100

/* A run whose dev split has 80 rows of class 0 and 10 each of two others. */
struct ranking {
    struct dd_run run;
    struct dd_spec spec;
    int32_t gold[SKEWED], said[SKEWED];
};

static void ranking_init(struct ranking *ranking, enum dd_selection selection) {
    *ranking = (struct ranking){.spec = {.epochs = 100, .metric = DD_METRIC_ACCURACY, .selection = selection}};
    for (int r = 0; r < SKEWED; r++) {
        ranking->gold[r] = r < 80 ? 0 : r < 90 ? 1 : 2;
    }
    ranking->run.spec = &ranking->spec;
    ranking->run.n_classes = 3;
    ranking->run.dev = (struct dd_packed){.rows = SKEWED, .labels = ranking->gold};
    ranking->run.state.n_dev = SKEWED;
    ranking->run.state.dev_label = ranking->said;
}

/* The next epoch: whether it is the one to keep. */
static bool next_epoch(struct ranking *ranking, double accuracy, double macro_f1, double dev_loss, bool one_class) {
    struct dd_run_state *s = &ranking->run.state;
    for (int r = 0; r < SKEWED; r++) {
        ranking->said[r] = one_class ? 0 : ranking->gold[r];
    }
    struct dd_epoch_metrics metrics = {
        .epoch = s->epochs_done + 1, .accuracy = accuracy, .macro_f1 = macro_f1, .dev_loss = dev_loss};
    dd_run_rank_epoch(&ranking->run, &metrics);
    s->last = metrics;
    s->epochs_done++;
    assert_int_equal(metrics.is_best, s->best.epoch == metrics.epoch);
    return metrics.is_best;
}

/* The standard error of .9 in 100 rows is .03, that of .95 is .022. */
static void test_one_standard_error(void **state) {
    (void)state;
    struct ranking ranking;
    ranking_init(&ranking, DD_SELECTION_ONE_SE);
    assert_true(next_epoch(&ranking, 0.90, 0.80, 1, false));
    assert_true(next_epoch(&ranking, 0.88, 0.78, 1, false));
    assert_false(next_epoch(&ranking, 0.86, 0.78, 1, false));
    assert_false(next_epoch(&ranking, 0.89, 0.46, 1, false)); /* below 0.6 of .78 */
    assert_false(next_epoch(&ranking, 0.89, 0.78, 1, true));
    assert_false(next_epoch(&ranking, 0.89, 0.78, NAN, false));
    assert_int_equal(ranking.run.state.best.epoch, 2);
    assert_int_equal(ranking.run.state.peak.epoch, 1);
    assert_true(next_epoch(&ranking, 0.95, 0.85, 1, false));
    assert_true(next_epoch(&ranking, 0.93, 0.85, 1, false));
    assert_false(next_epoch(&ranking, 0.92, 0.85, 1, false)); /* near the last that was kept, not near the peak */
    assert_int_equal(ranking.run.state.peak.epoch, 7);
}

static void test_best_is_strictly_better(void **state) {
    (void)state;
    struct ranking ranking;
    ranking_init(&ranking, DD_SELECTION_BEST);
    assert_true(next_epoch(&ranking, 0.90, 0.80, 1, false));
    assert_false(next_epoch(&ranking, 0.90, 0.80, 1, false));
    assert_false(next_epoch(&ranking, 0.89, 0.90, 1, false));
    assert_true(next_epoch(&ranking, 0.91, 0.20, 1, false));
    assert_int_equal(ranking.run.state.peak.epoch, 4);
}

/* An epoch that is only kept is no progress. */
static void test_patience_counts_from_the_peak(void **state) {
    (void)state;
    struct ranking ranking;
    ranking_init(&ranking, DD_SELECTION_ONE_SE);
    ranking.spec.patience = 2;
    assert_true(next_epoch(&ranking, 0.90, 0.80, 1, false));
    assert_true(next_epoch(&ranking, 0.89, 0.80, 1, false));
    assert_false(dd_run_ended(&ranking.run));
    assert_true(next_epoch(&ranking, 0.90, 0.80, 1, false)); /* as good, but not better */
    assert_true(dd_run_ended(&ranking.run));
}

/* In training: the bits are those of the run that keeps the best, another epoch of it is kept. */
static void test_selection_of_a_run(void **state) {
    (void)state;
    struct variant *variant = find("one-se");
    struct attempt attempt;
    attempt_init(&attempt, variant, "strictly", 0);
    attempt.spec.selection = DD_SELECTION_BEST;
    must(attempt_train(&attempt), &attempt.err);
    static struct history history;
    memset(&history, 0, sizeof history);
    history_fold(&history, attempt.recorder.path);
    assert_int_equal(attempt.result.epochs_done, variant->epochs);
    double peak = -INFINITY;
    int kept = 0;
    for (int e = 1; e <= variant->epochs; e++) {
        const struct dd_epoch_metrics *m = &variant->history->epochs[e].metrics;
        double p = m->teacher_agreement;
        same_double(p, history.epochs[e].metrics.teacher_agreement);
        assert_int_equal(history.epochs[e].metrics.is_best, p > peak);
        peak = fmax(peak, p);
        bool near = p >= peak - sqrt(peak * (1 - peak) / dd_dataset_rows(fixture_dataset, DD_SPLIT_DEV));
        assert_int_equal(m->is_best, near);
        kept = near ? e : kept;
    }
    assert_int_equal(variant->best, kept);
    assert_true(attempt.result.best_epoch < kept);
}

/* With weights of classes an epoch's CE is what torch's weighted mean over all its rows is, not the mean of its
 * batches': of one batch as of nine, where nothing moves. */
static void test_weighted_mean_is_over_the_epoch(void **state) {
    (void)state;
    static struct history history;
    static const enum dd_task tasks[] = {DD_TASK_FINETUNE, DD_TASK_DISTILL};
    for (int t = 0; t < 2; t++) {
        double ce[2], loss[2];
        for (int k = 0; k < 2; k++) {
            struct variant still = {.task = tasks[t], .optimizer = DD_OPTIMIZER_SGD, .set = set_weights};
            struct attempt attempt;
            char run[40];
            snprintf(run, sizeof run, "weighted-%d-%d", t, k);
            attempt_init(&attempt, &still, run, 0);
            attempt.spec.epochs = 1;
            attempt.spec.optimizer.lr = 0;
            attempt.spec.hidden_dropout = attempt.spec.attention_dropout = attempt.spec.classifier_dropout = 0;
            attempt.spec.batch_size = k == 0 ? 8 : 70;
            must(attempt_train(&attempt), &attempt.err);
            memset(&history, 0, sizeof history);
            history_fold(&history, attempt.recorder.path);
            ce[k] = history.epochs[1].metrics.train_ce;
            loss[k] = history.epochs[1].metrics.train_loss;
            if (k == 1) {
                near_double(ce[k], history.steps[1].ce, 1e-12);
                near_double(loss[k], history.steps[1].loss, 1e-12);
            }
        }
        near_double(ce[0], ce[1], 1e-6);
        near_double(loss[0], loss[1], 1e-6);
    }
}

static void test_average_is_what_is_judged_and_exported(void **state) {
    (void)state;
    /* The steps are those of the run without average: it only watches. */
    struct variant *variant = find("average");
    struct attempt attempt;
    attempt_init(&attempt, variant, "no-average", 0);
    attempt.spec.optimizer.ema = 0;
    must(attempt_train(&attempt), &attempt.err);
    static struct history history;
    memset(&history, 0, sizeof history);
    history_fold(&history, attempt.recorder.path);
    for (int s = 1; s <= STEPS; s++) {
        same_double(history.steps[s].loss, variant->history->steps[s].loss);
    }
    assert_true(history.epochs[2].metrics.dev_loss != variant->history->epochs[2].metrics.dev_loss);
}

static void test_frozen_embeddings_stay(void **state) {
    (void)state;
    char path[512];
    struct dd_model *model[2] = {NULL, NULL};
    struct dd_error err;
    fixture_path(path, "frozen/last");
    must(dd_model_load(path, &model[0], &err), &err);
    fixture_path(path, "schedules/last");
    must(dd_model_load(path, &model[1], &err), &err);
    struct dd_params *first = NULL;
    must(dd_params_new(&model[0]->info.config, &first, &err), &err);
    dd_params_init(first, &model[0]->info.config, tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW).seed);
    for (int t = 0; t < first->n_tensors; t++) {
        const struct dd_tensor *tensor = &first->tensors[t];
        for (int k = 0; k < 2; k++) {
            bool same = memcmp(first->slab + tensor->offset, model[k]->params->slab + tensor->offset,
                               tensor->count * sizeof(float)) == 0;
            assert_int_equal(same, k == 0 && strncmp(tensor->name, "bert.embeddings.", 16) == 0);
        }
    }
    dd_params_free(first);
    dd_model_free(model[0]);
    dd_model_free(model[1]);
}

/* The guard of a run that needs none changes nothing, not even a bit. */
static void test_guard_that_does_not_fire(void **state) {
    (void)state;
    struct variant *variant = find("calm");
    struct attempt attempt;
    attempt_init(&attempt, variant, "guarded", 0);
    attempt.spec.guard = DD_FLAG_YES;
    must(attempt_train(&attempt), &attempt.err);
    for (int e = 1; e <= EPOCHS; e++) {
        assert_int_equal(variant->history->epochs[e].metrics.rollback, DD_ROLLBACK_NONE);
    }
    same_as_undisturbed(variant, "guarded", 1);
}

static int count_rollbacks(const struct history *history, enum dd_rollback why, enum dd_rollback or) {
    int n = 0;
    for (int e = 1; e <= EPOCHS; e++) {
        enum dd_rollback found = history->epochs[e].metrics.rollback;
        assert_true(found == DD_ROLLBACK_NONE || found == why || found == or);
        n += found != DD_ROLLBACK_NONE;
    }
    return n;
}

static void test_guard_goes_back_after_a_collapse(void **state) {
    (void)state;
    struct variant *variant = find("collapse");
    int n = count_rollbacks(variant->history, DD_ROLLBACK_ONE_CLASS, DD_ROLLBACK_F1_FELL);
    assert_in_range(n, 1, 3);
    int e = 1;
    while (variant->history->epochs[e].metrics.rollback == DD_ROLLBACK_NONE) {
        e++;
    }
    const struct dd_epoch_metrics *fallen = &variant->history->epochs[e].metrics;
    int to = fallen->rollback_to;
    assert_in_range(to, 1, e - 1);
    assert_true(variant->history->epochs[to].metrics.is_best);
    assert_true(fallen->macro_f1 < variant->history->epochs[to].metrics.macro_f1);
    /* The next step has half the lr of the schedule, which rises anew over all 54 steps of warm-up. */
    int step = STEPS / EPOCHS * e + 1;
    near_double(variant->history->steps[step].lr, COLLAPSE_LR * (step - 1) / STEPS * 0.5 / STEPS, 1e-12);
    /* Without the guard the same run ends collapsed. */
    struct attempt attempt;
    attempt_init(&attempt, variant, "unguarded", 0);
    attempt.spec.guard = DD_FLAG_NO;
    must(attempt_train(&attempt), &attempt.err);
    assert_true(attempt.result.last.macro_f1 < 0.6 * attempt.result.best.macro_f1);
    struct attempt again;
    attempt_init(&again, variant, variant->name, 1);
    must(attempt_train(&again), &again.err);
    assert_true(again.result.best.macro_f1 >= attempt.result.best.macro_f1);
}

static void test_guard_goes_back_when_nothing_is_finite(void **state) {
    (void)state;
    struct variant *variant = find("not-finite");
    const struct dd_epoch_metrics *first = &variant->history->epochs[1].metrics;
    assert_int_equal(first->rollback, DD_ROLLBACK_NOT_FINITE);
    assert_int_equal(first->rollback_to, 0); /* no epoch was done: the first weights */
    int skipped = 0;
    for (int s = 1; s <= STEPS; s++) {
        skipped += !isfinite(variant->history->steps[s].grad_norm);
    }
    assert_true(skipped >= 3);
    assert_true(isfinite(variant->history->epochs[EPOCHS].metrics.dev_loss));
    struct attempt attempt;
    attempt_init(&attempt, variant, "not-finite-unguarded", 0);
    attempt.spec.guard = DD_FLAG_NO;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "training_diverged");
}

/* Three halvings of an absurd lr do not help: the guard gives up as it would have without. */
static void test_guard_gives_up(void **state) {
    (void)state;
    struct variant *variant = find("not-finite");
    struct attempt attempt;
    attempt_init(&attempt, variant, "hopeless", 0);
    attempt.spec.optimizer.lr = 1e30;
    attempt.spec.optimizer.warmup = 0;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "training_diverged");
    /* Three rollbacks, one of them after an evaluation, and the rows of skipped steps before and after the others. */
    assert_int_equal(attempt.recorder.warnings, 6);
    assert_non_null(strstr(attempt.recorder.last_log, "changed nothing"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pauses_and_threads_leave_no_trace),
        cmocka_unit_test(test_kills_leave_no_trace),
        cmocka_unit_test(test_patience_ends_the_run),
        cmocka_unit_test(test_metric_decides_what_is_best),
        cmocka_unit_test(test_weighted_mean_is_over_the_epoch),
        cmocka_unit_test(test_one_standard_error),
        cmocka_unit_test(test_best_is_strictly_better),
        cmocka_unit_test(test_patience_counts_from_the_peak),
        cmocka_unit_test(test_selection_of_a_run),
        cmocka_unit_test(test_average_is_what_is_judged_and_exported),
        cmocka_unit_test(test_frozen_embeddings_stay),
        cmocka_unit_test(test_guard_that_does_not_fire),
        cmocka_unit_test(test_guard_goes_back_after_a_collapse),
        cmocka_unit_test(test_guard_goes_back_when_nothing_is_finite),
        cmocka_unit_test(test_guard_gives_up),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
