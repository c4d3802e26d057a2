/* The rows of a run: unlabelled ones and augmented copies beside the train split's, what they do to an epoch's means,
 * and that threads and interruptions leave the bits alone with them too. */
#include "train_fixture.h"

#define TRAIN 70
#define COPIES 2
#define ROWS ((TRAIN + FIXTURE_UNLABELLED) * (1 + COPIES)) /* 333: 42 steps of 8, the last of 5 */
#define STEPS_PER_EPOCH 42
#define LAST_BATCH 5
#define EPOCHS 2
#define STEPS (EPOCHS * STEPS_PER_EPOCH)

static struct dd_model *teacher;
static struct history undisturbed;

static struct dd_spec more_spec(void) {
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.epochs = EPOCHS;
    spec.unlabelled = DD_FLAG_YES;
    spec.augment = COPIES;
    spec.augment_unlabelled = DD_FLAG_YES;
    spec.augment_mask = 0.2;
    spec.augment_ngram = 0.3;
    spec.augment_splice = 0.3;
    return spec;
}

static void attempt_init(struct attempt *attempt, const char *run, int number) {
    *attempt = (struct attempt){.run = run, .threads = 1, .base = teacher, .spec = more_spec()};
    char name[160];
    snprintf(name, sizeof name, "%s-attempt-%d.bin", run, number);
    fixture_path(attempt->recorder.path, name);
}

static int cached_files(void) {
    char command[700];
    snprintf(command, sizeof command, "ls -A '%s/cache' | grep -c bin", fixture_dir);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

/* A run with nothing but the train split, then one with all: the second asks only about what is new. */
static int set_up(void **state) {
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    teacher = fixture_teacher();
    struct attempt attempt;
    attempt_init(&attempt, "plain", 0);
    attempt.spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(cached_files(), 2);
    attempt_init(&attempt, "undisturbed", 0);
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(cached_files(), 5);
    assert_int_equal(attempt.result.steps_done, STEPS);
    history_fold(&undisturbed, attempt.recorder.path);
    return 0;
}

static int tear_down(void **state) {
    dd_model_free(teacher);
    return fixture_tear_down(state);
}

static void same_as_undisturbed(const char *run, int n_attempts) {
    static struct history history;
    memset(&history, 0, sizeof history);
    for (int i = 0; i < n_attempts; i++) {
        struct attempt attempt;
        attempt_init(&attempt, run, i);
        history_fold(&history, attempt.recorder.path);
    }
    history_same(&history, &undisturbed, EPOCHS, STEPS);
    char a[512], b[512];
    fixture_path(a, run);
    fixture_path(b, "undisturbed");
    same_file(a, b, "last/model.safetensors");
    same_file(a, b, "last/README.md");
}

/* Labelled rows of a step, from the order that the seed gives. */
static int labelled_rows(int epoch, int step_of_epoch, int n) {
    static uint32_t order[ROWS];
    const struct dd_stream stream = {.seed = 7, .purpose = DD_PURPOSE_SHUFFLE, .step = (uint64_t)epoch};
    dd_random_permutation(&stream, order, ROWS);
    int labelled = 0;
    for (int i = 0; i < n; i++) {
        labelled += order[step_of_epoch * 8 + i] < TRAIN;
    }
    return labelled;
}

/* CE is the mean over the labelled rows of the epoch, however they fell into batches; KL over all. */
static void test_means_are_over_rows(void **state) {
    (void)state;
    bool uneven = false;
    for (int e = 1; e <= EPOCHS; e++) {
        double kl = 0, ce = 0;
        int rows = 0, labelled = 0;
        for (int s = 0; s < STEPS_PER_EPOCH; s++) {
            const struct dd_step_metrics *step = &undisturbed.steps[(e - 1) * STEPS_PER_EPOCH + s + 1];
            int n = s == STEPS_PER_EPOCH - 1 ? LAST_BATCH : 8, with = labelled_rows(e, s, n);
            kl += step->kl * n;
            rows += n;
            labelled += with;
            uneven |= with != 2;
            assert_int_equal(isnan(step->ce) != 0, with == 0);
            if (with > 0) {
                ce += step->ce * with;
                near_double(step->loss, 0.3 * step->kl + 0.7 * step->ce, 1e-9);
            } else {
                near_double(step->loss, 0.3 * step->kl, 1e-9);
            }
        }
        const struct dd_epoch_metrics *m = &undisturbed.epochs[e].metrics;
        assert_int_equal(rows, ROWS);
        assert_int_equal(labelled, TRAIN);
        near_double(m->train_kl, kl / ROWS, 1e-9);
        near_double(m->train_ce, ce / TRAIN, 1e-9);
        near_double(m->train_loss, 0.3 * m->train_kl + 0.7 * m->train_ce, 1e-9);
    }
    assert_true(uneven);
}

static void test_threads_make_the_same_bits(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, "threads", 0);
    attempt.threads = 4;
    must(attempt_train(&attempt), &attempt.err);
    same_as_undisturbed("threads", 1);
}

static void test_kills_and_pauses_leave_no_trace(void **state) {
    (void)state;
    static const int kills[] = {5, 20, 9, 14};
    int n = 0;
    for (; n < (int)DD_ARRAY_LEN(kills); n++) {
        assert_false(attempt_in_child(attempt_init, "killed", n, kills[n]));
    }
    struct attempt attempt;
    attempt_init(&attempt, "killed", n++);
    attempt.recorder.stop_at = 7;
    attempt.recorder.stop = DD_STOP_PAUSE;
    assert_int_equal(attempt_train(&attempt), DD_STOPPED);
    assert_true(attempt_in_child(attempt_init, "killed", n++, 0));
    same_as_undisturbed("killed", n);
}

/* Other unlabelled rows are another run: nothing of the old one may be taken up. */
static void test_unlabelled_rows_are_part_of_the_run(void **state) {
    (void)state;
    struct dd_dataset *other = make_dataset("other", TRAIN, 23, 4);
    struct attempt attempt;
    attempt_init(&attempt, "undisturbed", 9);
    attempt.recorder.path[0] = '\0';
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.epochs, 0); /* finished before */
    attempt_init(&attempt, "undisturbed", 9);
    attempt.recorder.path[0] = '\0';
    attempt.dataset = other;
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.epochs, EPOCHS);
    /* Where they are not used they do not matter. */
    attempt_init(&attempt, "plain", 9);
    attempt.recorder.path[0] = '\0';
    attempt.spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    attempt.dataset = other;
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.epochs, 0);
    dd_dataset_free(other);
}

static void test_without_unlabelled_rows_it_is_refused(void **state) {
    (void)state;
    struct dd_dataset *none = make_dataset("none", TRAIN, 23, 0);
    struct attempt attempt;
    attempt_init(&attempt, "none-run", 0);
    attempt.dataset = none;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "split_empty");
    dd_dataset_free(none);
}

static void test_estimate_follows(void **state) {
    (void)state;
    struct dd_spec plain = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW), more = more_spec();
    struct dd_train_estimate a, b;
    struct dd_error err;
    more.epochs = plain.epochs;
    must(dd_train_estimate(&plain, fixture_dataset, &teacher->info.config, NULL, 1, &a, &err), &err);
    must(dd_train_estimate(&more, fixture_dataset, &teacher->info.config, NULL, 1, &b, &err), &err);
    /* 333 rows for 70, dev's 23 beside both; the rows are alike. */
    assert_true(b.matmul_flops > 4.1 * a.matmul_flops && b.matmul_flops < 4.8 * a.matmul_flops);
    assert_true(b.memory_bytes > a.memory_bytes && b.disk_bytes == a.disk_bytes + (ROWS - TRAIN) * 3 * 4);
    plain.batch_size = more.batch_size = 200; /* more rows than the train split has, fewer than there are */
    must(dd_train_estimate(&plain, fixture_dataset, &teacher->info.config, NULL, 1, &a, &err), &err);
    must(dd_train_estimate(&more, fixture_dataset, &teacher->info.config, NULL, 1, &b, &err), &err);
    assert_true(b.memory_bytes > a.memory_bytes + 200 * 16 * 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_means_are_over_rows),
        cmocka_unit_test(test_threads_make_the_same_bits),
        cmocka_unit_test(test_kills_and_pauses_leave_no_trace),
        cmocka_unit_test(test_unlabelled_rows_are_part_of_the_run),
        cmocka_unit_test(test_without_unlabelled_rows_it_is_refused),
        cmocka_unit_test(test_estimate_follows),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
