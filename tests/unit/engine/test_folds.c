/* Folds: who is where, that a fold's teacher is the one that was trained by hand without these rows, and that a student
 * out of fold hears of every train row from the teacher that has not seen it. */
#include "train_fixture.h"

#define ROWS 70
#define FOLDS 3
#define COPIES 2

static struct dd_dataset *data; /* with rows that stand twice */
static struct dd_model *fold_teacher[FOLDS], *hand_teacher[FOLDS], *plain;
static struct dd_pool *pool;

/* --- who is where ------------------------------------------------------------------------------------------------- */

static uint8_t *folds_of(const struct dd_dataset *dataset, int folds) {
    struct dd_error err;
    uint8_t *fold = NULL;
    must(dd_folds_of(dataset, folds, &fold, &err), &err);
    return fold;
}

static void test_folds_are_even(void **state) {
    (void)state;
    for (int folds = 2; folds <= DD_MAX_FOLDS; folds++) {
        uint8_t *fold = folds_of(fixture_dataset, folds), *again = folds_of(fixture_dataset, folds);
        int all[DD_MAX_FOLDS] = {0}, of[FIXTURE_CLASSES][DD_MAX_FOLDS] = {{0}};
        assert_memory_equal(fold, again, ROWS);
        for (int r = 0; r < ROWS; r++) {
            struct dd_row row;
            dd_dataset_row(fixture_dataset, DD_SPLIT_TRAIN, (uint64_t)r, &row);
            assert_true(fold[r] < folds);
            all[fold[r]]++;
            of[row.label][fold[r]]++;
        }
        for (int a = 0; a < folds; a++) {
            for (int b = 0; b < folds; b++) {
                assert_in_range(all[a] - all[b] + 1, 0, 2);
                for (int c = 0; c < FIXTURE_CLASSES; c++) {
                    assert_in_range(of[c][a] - of[c][b] + 1, 0, 2);
                }
            }
        }
        free(fold);
        free(again);
    }
}

/* Written once and for ever: teachers of earlier versions stay those of their folds. */
static void test_folds_never_change(void **state) {
    (void)state;
    char text[ROWS + 1] = "";
    uint8_t *fold = folds_of(fixture_dataset, 5);
    for (int r = 0; r < ROWS; r++) {
        text[r] = (char)('0' + fold[r]);
    }
    assert_string_equal(text, "3211414020120324310204212031303111242040404304204031043214313244232133");
    free(fold);
}

static bool same_text(const struct dd_row *a, const struct dd_row *b) {
    return a->text_bytes == b->text_bytes && memcmp(a->text, b->text, a->text_bytes) == 0;
}

static void test_equal_texts_are_together(void **state) {
    (void)state;
    uint8_t *fold = folds_of(data, FOLDS);
    uint64_t rows = dd_dataset_rows(data, DD_SPLIT_TRAIN);
    int pairs = 0;
    for (uint64_t a = 0; a < rows; a++) {
        for (uint64_t b = a + 1; b < rows; b++) {
            struct dd_row x, y;
            dd_dataset_row(data, DD_SPLIT_TRAIN, a, &x);
            dd_dataset_row(data, DD_SPLIT_TRAIN, b, &y);
            if (same_text(&x, &y)) {
                assert_int_equal(fold[a], fold[b]);
                pairs++;
            }
        }
    }
    assert_true(pairs >= 20);
    free(fold);
}

/* --- teachers ----------------------------------------------------------------------------------------------------- */

static struct dd_spec teacher_spec(int folds, int fold) {
    struct dd_spec spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW);
    spec.folds = folds;
    spec.fold = fold;
    return spec;
}

static struct dd_model *train_teacher(const struct dd_dataset *dataset, const char *run, int folds, int fold) {
    struct attempt attempt = {.run = run, .threads = 2, .dataset = dataset, .spec = teacher_spec(folds, fold)};
    must(attempt_train(&attempt), &attempt.err);
    struct dd_model *model = NULL;
    must(dd_model_load(attempt.result.last_dir, &model, &attempt.err), &attempt.err);
    return model;
}

/* fold NULL: every row of the split. */
static void write_split(const char *path, enum dd_split split, const uint8_t *fold, int held_out) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (uint64_t r = 0; r < dd_dataset_rows(data, split); r++) {
        struct dd_row row;
        dd_dataset_row(data, split, r, &row);
        if (fold == NULL || fold[r] != held_out) {
            fprintf(file, "%.*s\t%d\n", (int)row.text_bytes, row.text, row.label);
        }
    }
    assert_int_equal(fclose(file), 0);
}

/* The data set without these rows, put together by hand.  Its classes are numbers, which keep their order whichever
 * comes first, and get their names back in the model. */
static struct dd_dataset *without_fold(const uint8_t *fold, int held_out) {
    char train[512], dev[512], dir[512], name[64];
    snprintf(name, sizeof name, "hand-%d.tsv", held_out);
    fixture_path(train, name);
    snprintf(name, sizeof name, "hand-%d", held_out);
    fixture_path(dir, name);
    snprintf(name, sizeof name, "hand-%d-dev.tsv", held_out);
    fixture_path(dev, name);
    write_split(train, DD_SPLIT_TRAIN, fold, held_out);
    write_split(dev, DD_SPLIT_DEV, NULL, 0);
    struct dd_import import = {.paths = {[DD_SPLIT_TRAIN] = train, [DD_SPLIT_DEV] = dev},
                               .file_names = {[DD_SPLIT_TRAIN] = "train.tsv", [DD_SPLIT_DEV] = "dev.tsv"}};
    static struct dd_import_report report;
    struct dd_error err;
    struct dd_dataset *dataset = NULL;
    must(dd_dataset_import(&import, dir, &report, &err), &err);
    must(dd_dataset_open(dir, &dataset, &err), &err);
    return dataset;
}

/* The same weights, to the bit. */
static void test_a_folds_teacher_is_the_one_made_by_hand(void **state) {
    (void)state;
    for (int k = 0; k < FOLDS; k++) {
        const struct dd_params *a = fold_teacher[k]->params, *b = hand_teacher[k]->params;
        assert_int_equal(a->count, b->count);
        assert_memory_equal(a->slab, b->slab, a->count * sizeof(float));
        assert_int_equal(fold_teacher[k]->info.fold.folds, FOLDS);
        assert_int_equal(fold_teacher[k]->info.fold.fold, k);
        assert_string_equal(fold_teacher[k]->info.fold.train_sha256, dd_dataset_split(data, DD_SPLIT_TRAIN)->sha256);
        assert_int_equal(hand_teacher[k]->info.fold.folds, 0);
        assert_true(k == 0 || strcmp(fold_teacher[k]->info.sha256, fold_teacher[0]->info.sha256) != 0);
    }
}

static void test_interruptions_and_threads_leave_no_trace(void **state) {
    (void)state;
    static const int points[] = {3, 9, 0};
    char a[512], b[512];
    for (int n = 0; n < 3; n++) {
        struct attempt attempt = {
            .run = "fold-paused", .threads = 1 + n, .dataset = data, .spec = teacher_spec(FOLDS, 1)};
        attempt.recorder.stop_at = points[n];
        attempt.recorder.stop = DD_STOP_PAUSE;
        assert_int_equal(attempt_train(&attempt), points[n] ? DD_STOPPED : DD_OK);
    }
    fixture_path(a, "fold-paused");
    fixture_path(b, "fold-1");
    same_file(a, b, "last/model.safetensors");
    same_file(a, b, "last/config.json");
}

static void test_a_start_that_has_seen_the_fold_is_refused(void **state) {
    (void)state;
    struct attempt attempt = {.run = "seen", .threads = 1, .dataset = data, .spec = teacher_spec(FOLDS, 1)};
    attempt.base = fold_teacher[0];
    attempt.spec.epochs = 1;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "model_has_seen_fold");
    attempt.base = fold_teacher[1];
    must(attempt_train(&attempt), &attempt.err);
}

/* One text, three times: all of it is in one fold. */
static void test_folds_that_leave_nothing_are_refused(void **state) {
    (void)state;
    char train[512], dir[512];
    fixture_path(train, "one-text.tsv");
    fixture_path(dir, "one-text");
    static const char rows[] = "w1 w2\tred\nw1 w2\tgreen\nw1 w2\tblue\n";
    static struct dd_import_report report;
    struct dd_error err;
    must(dd_file_write_durable(train, rows, sizeof rows - 1, &err), &err);
    const struct dd_import import = {.paths = {[DD_SPLIT_TRAIN] = train, [DD_SPLIT_DEV] = train},
                                     .file_names = {[DD_SPLIT_TRAIN] = "t.tsv", [DD_SPLIT_DEV] = "d.tsv"}};
    struct dd_dataset *one = NULL;
    must(dd_dataset_import(&import, dir, &report, &err), &err);
    must(dd_dataset_open(dir, &one, &err), &err);
    uint8_t *fold = folds_of(one, 2);
    assert_true(fold[0] == fold[1] && fold[1] == fold[2]);
    struct attempt attempt = {.run = "nothing", .threads = 1, .dataset = one, .spec = teacher_spec(2, fold[0])};
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "split_empty");
    free(fold);
    dd_dataset_free(one);
}

/* --- out of fold -------------------------------------------------------------------------------------------------- */

struct heard { /* what a student is told */
    float *train, *dev;
    uint32_t labelled, unlabelled, rows, dev_rows;
};

static enum dd_status listen_to(struct dd_model *const *models, int n, const struct dd_dataset *dataset,
                                enum dd_teacher_mean mean, bool more, struct heard *heard, struct dd_error *err) {
    char cache_dir[512];
    fixture_path(cache_dir, "cache");
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    struct dd_train_input input = {
        .spec = &spec, .dataset = dataset, .base = models[0], .pool = pool, .cache_dir = cache_dir};
    spec.n_teachers = n - 1;
    spec.teacher_mean = mean;
    spec.unlabelled = more ? DD_FLAG_YES : DD_FLAG_NO;
    spec.augment = more ? COPIES : 0;
    spec.augment_unlabelled = more ? DD_FLAG_YES : DD_FLAG_NO;
    spec.augment_mask = 0.3;
    spec.augment_ngram = 0.2;
    for (int i = 1; i < n; i++) {
        input.teachers[i - 1] = models[i];
        snprintf(spec.teachers[i - 1], sizeof spec.teachers[0], "teacher-%d", i + 1);
    }
    struct dd_run run = {.input = &input, .spec = &spec, .n_classes = FIXTURE_CLASSES, .run_fd = -1};
    must(dd_team_join(pool, &run.team, err), err);
    must(dd_student_new(&run, &run.student, err), err);
    must(dd_run_pack(&run, err), err);
    enum dd_status status = dd_run_ask_teacher(&run, err);
    *heard = (struct heard){run.teacher_train, run.teacher_dev, run.n_labelled,
                            run.n_unlabelled,  run.train.rows,  run.dev.rows};
    free(run.teacher_dev_label);
    free(run.teacher_dev_score);
    dd_packed_release(&run.train);
    dd_packed_release(&run.dev);
    dd_model_free(run.student);
    if (run.team) {
        dd_team_leave(run.team);
    }
    return status;
}

static void same_rows(const float *a, const float *b, size_t rows) {
    for (size_t i = 0; i < rows * FIXTURE_CLASSES; i++) {
        near_double((double)a[i], (double)b[i], 1e-5);
    }
}

/* The teachers are given in another order than that of their folds; those made by hand say what each must be. */
static void test_every_row_is_told_by_the_teacher_that_has_not_seen_it(void **state) {
    (void)state;
    struct dd_error err;
    struct dd_model *const panel[] = {fold_teacher[2], fold_teacher[0], fold_teacher[1]};
    struct heard out, mean, hand[FOLDS];
    must(listen_to(panel, FOLDS, data, DD_MEAN_OUT_OF_FOLD, true, &out, &err), &err);
    must(listen_to(panel, FOLDS, data, DD_MEAN_PROBABILITIES, true, &mean, &err), &err);
    for (int k = 0; k < FOLDS; k++) {
        must(listen_to(&hand_teacher[k], 1, data, DD_MEAN_PROBABILITIES, true, &hand[k], &err), &err);
    }
    uint8_t *fold = folds_of(data, FOLDS);
    uint32_t own = out.labelled + out.unlabelled, of_train = out.labelled * COPIES;
    assert_int_equal(out.rows, own * (1 + COPIES));
    assert_true(out.unlabelled > 0);
    int told[FOLDS] = {0};
    double apart = 0;
    for (uint32_t r = 0; r < out.rows; r++) {
        size_t at = (size_t)r * FIXTURE_CLASSES;
        if ((r >= out.labelled && r < own) || r >= own + of_train) {
            same_rows(out.train + at, mean.train + at, 1);
            continue;
        }
        uint32_t source = r < out.labelled ? r : (r - own) % out.labelled;
        same_rows(out.train + at, hand[fold[source]].train + at, 1);
        apart = DD_MAX(apart, fabs((double)out.train[at] - (double)hand[(fold[source] + 1) % FOLDS].train[at]));
        told[fold[source]]++;
    }
    assert_true(told[0] > 0 && told[1] > 0 && told[2] > 0 && apart > 1e-3); /* a hundred tolerances */
    same_rows(out.dev, mean.dev, out.dev_rows);
    free(fold);
    const struct heard *const all[] = {&out, &mean, &hand[0], &hand[1], &hand[2]};
    for (size_t i = 0; i < DD_ARRAY_LEN(all); i++) {
        free(all[i]->train);
        free(all[i]->dev);
    }
}

static void refused(struct dd_model *const *models, int n, const struct dd_dataset *dataset, const char *why) {
    struct dd_error err;
    struct heard heard;
    assert_int_equal(listen_to(models, n, dataset, DD_MEAN_OUT_OF_FOLD, false, &heard, &err), DD_INVALID);
    assert_string_equal(err.code, "teachers_not_folds");
    if (strstr(err.message, why) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, why);
    }
    assert_null(heard.train);
}

static void test_other_teachers_are_refused(void **state) {
    (void)state;
    struct dd_model *const stranger[] = {fold_teacher[0], fold_teacher[1], plain};
    struct dd_model *const twice[] = {fold_teacher[0], fold_teacher[1], fold_teacher[1]};
    struct dd_model *const two[] = {fold_teacher[0], fold_teacher[1]};
    refused(stranger, 3, data, "the teacher \"teacher-3\" was not fine-tuned on folds of this data set");
    refused(twice, 3, data, "the teacher \"teacher-3\" is that of fold 1 of 3");
    refused(two, 2, data, "needs each of its folds once, among 3 teachers");
    refused(fold_teacher, 3, fixture_dataset, "was not fine-tuned on folds of this data set");
}

/* A whole run, in pieces and at once. */
static void test_distilling_out_of_fold(void **state) {
    (void)state;
    static struct history straight, paused;
    static const int points[] = {4, 10, 0};
    memset(&straight, 0, sizeof straight);
    memset(&paused, 0, sizeof paused);
    for (int n = -1; n < 3; n++) {
        char name[64];
        struct attempt attempt = {.run = n < 0 ? "out-straight" : "out-paused",
                                  .threads = n < 0 ? 1 : 1 + n,
                                  .dataset = data,
                                  .base = fold_teacher[0],
                                  .teachers = {fold_teacher[1], fold_teacher[2]},
                                  .spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW)};
        attempt.spec.n_teachers = 2;
        snprintf(attempt.spec.teachers[0], sizeof attempt.spec.teachers[0], "b");
        snprintf(attempt.spec.teachers[1], sizeof attempt.spec.teachers[1], "c");
        attempt.spec.teacher_mean = DD_MEAN_OUT_OF_FOLD;
        snprintf(name, sizeof name, "out-%d.bin", n + 1);
        fixture_path(attempt.recorder.path, name);
        attempt.recorder.stop_at = n < 0 ? 0 : points[n];
        attempt.recorder.stop = DD_STOP_PAUSE;
        assert_int_equal(attempt_train(&attempt), n >= 0 && points[n] ? DD_STOPPED : DD_OK);
        history_fold(n < 0 ? &straight : &paused, attempt.recorder.path);
    }
    history_same(&straight, &paused, 4, 4 * 12);
    struct attempt matched = {.run = "out-matched",
                              .dataset = data,
                              .base = fold_teacher[0],
                              .teachers = {fold_teacher[1], fold_teacher[2]},
                              .spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW)};
    matched.spec.n_teachers = 2;
    matched.spec.teacher_mean = DD_MEAN_OUT_OF_FOLD;
    matched.spec.cls_weight = 1;
    assert_int_equal(attempt_train(&matched), DD_INVALID);
    assert_string_equal(matched.err.code, "teachers_not_folds");
}

/* --- the fixture -------------------------------------------------------------------------------------------------- */

/* The fixture's rows, the first 20 of them once more at the end. */
static struct dd_dataset *doubled_dataset(void) {
    char path[512], *text = NULL;
    size_t len = 0, end = 0;
    struct dd_error err;
    dd_dataset_free(make_dataset("doubled", ROWS, 23, 3));
    fixture_path(path, "doubled-train.tsv");
    must(dd_file_read(path, 1 << 20, &text, &len, &err), &err);
    for (int line = 0; line < 20; end++) {
        line += text[end] == '\n';
    }
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, end, file), end);
    assert_int_equal(fclose(file), 0);
    free(text);
    char dev[512], unlabelled[512], dir[512];
    fixture_path(dev, "doubled-dev.tsv");
    fixture_path(unlabelled, "doubled-unlabelled.txt");
    fixture_path(dir, "doubled-again");
    const struct dd_import import = {
        .paths = {[DD_SPLIT_TRAIN] = path, [DD_SPLIT_DEV] = dev, [DD_SPLIT_UNLABELLED] = unlabelled},
        .file_names = {[DD_SPLIT_TRAIN] = "t.tsv", [DD_SPLIT_DEV] = "d.tsv", [DD_SPLIT_UNLABELLED] = "u.txt"}};
    static struct dd_import_report report;
    struct dd_dataset *dataset = NULL;
    must(dd_dataset_import(&import, dir, &report, &err), &err);
    must(dd_dataset_open(dir, &dataset, &err), &err);
    return dataset;
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    must(dd_pool_new(2, &pool, &err), &err);
    data = doubled_dataset();
    uint8_t *fold = folds_of(data, FOLDS);
    for (int k = 0; k < FOLDS; k++) {
        char run[32];
        snprintf(run, sizeof run, "fold-%d", k);
        fold_teacher[k] = train_teacher(data, run, FOLDS, k);
        struct dd_dataset *hand = without_fold(fold, k);
        snprintf(run, sizeof run, "hand-run-%d", k);
        hand_teacher[k] = train_teacher(hand, run, 0, 0);
        for (int c = 0; c < FIXTURE_CLASSES; c++) {
            assert_int_equal(hand_teacher[k]->info.labels[c][0], '0' + c);
            snprintf(hand_teacher[k]->info.labels[c], sizeof hand_teacher[k]->info.labels[c], "%s",
                     dd_dataset_class(data, c));
        }
        dd_dataset_free(hand);
    }
    plain = train_teacher(data, "plain", 0, 0);
    free(fold);
    return 0;
}

static int tear_down(void **state) {
    for (int k = 0; k < FOLDS; k++) {
        dd_model_free(fold_teacher[k]);
        dd_model_free(hand_teacher[k]);
    }
    dd_model_free(plain);
    dd_dataset_free(data);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folds_are_even),
        cmocka_unit_test(test_folds_never_change),
        cmocka_unit_test(test_equal_texts_are_together),
        cmocka_unit_test(test_a_folds_teacher_is_the_one_made_by_hand),
        cmocka_unit_test(test_interruptions_and_threads_leave_no_trace),
        cmocka_unit_test(test_a_start_that_has_seen_the_fold_is_refused),
        cmocka_unit_test(test_folds_that_leave_nothing_are_refused),
        cmocka_unit_test(test_every_row_is_told_by_the_teacher_that_has_not_seen_it),
        cmocka_unit_test(test_other_teachers_are_refused),
        cmocka_unit_test(test_distilling_out_of_fold),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
