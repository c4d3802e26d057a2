/* What several teachers say together: their mean by both ways, each asked once, in the data set's order of classes. */
#include "train_fixture.h"

static struct dd_model *first, *second;
static struct dd_pool *pool;

static int cached_files(void) {
    char command[700];
    snprintf(command, sizeof command, "ls -A '%s/cache' 2>/dev/null | grep -c bin", fixture_dir);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

/* The teachers' logits on dev for these: a new array. */
static float *ask(struct dd_model *const *models, int n, enum dd_teacher_mean mean, enum dd_status wanted,
                  struct dd_error *err) {
    char cache_dir[512];
    fixture_path(cache_dir, "cache");
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    struct dd_train_input input = {
        .spec = &spec, .dataset = fixture_dataset, .base = models[0], .pool = pool, .cache_dir = cache_dir};
    spec.n_teachers = n - 1;
    spec.teacher_mean = mean;
    for (int i = 1; i < n; i++) {
        input.teachers[i - 1] = models[i];
        snprintf(spec.teachers[i - 1], sizeof spec.teachers[0], "teacher-%d", i + 1);
    }
    struct dd_run run = {.input = &input, .spec = &spec, .n_classes = FIXTURE_CLASSES, .run_fd = -1};
    must(dd_team_join(pool, &run.team, err), err);
    must(dd_student_new(&run, &run.student, err), err);
    must(dd_run_pack(&run, err), err);
    enum dd_status status = dd_run_ask_teacher(&run, err);
    assert_int_equal(status, wanted);
    float *said = run.teacher_dev;
    if (status == DD_OK) {
        for (uint32_t r = 0; r < run.dev.rows; r++) {
            int best = 0;
            for (int c = 1; c < FIXTURE_CLASSES; c++) {
                best = said[r * FIXTURE_CLASSES + c] > said[r * FIXTURE_CLASSES + best] ? c : best;
            }
            assert_int_equal(run.teacher_dev_label[r], best);
        }
    }
    free(run.teacher_train);
    free(run.teacher_dev_label);
    free(run.teacher_dev_score);
    dd_packed_release(&run.train);
    dd_packed_release(&run.dev);
    dd_model_free(run.student);
    if (run.team) {
        dd_team_leave(run.team);
    }
    return said;
}

static void softmax(const float *logits, double *out) {
    double sum = 0;
    for (int c = 0; c < FIXTURE_CLASSES; c++) {
        sum += out[c] = exp((double)logits[c]);
    }
    for (int c = 0; c < FIXTURE_CLASSES; c++) {
        out[c] /= sum;
    }
}

static void test_means(void **state) {
    (void)state;
    struct dd_error err;
    struct dd_model *const both[] = {first, second};
    float *a = ask(&both[0], 1, DD_MEAN_PROBABILITIES, DD_OK, &err);
    float *b = ask(&both[1], 1, DD_MEAN_PROBABILITIES, DD_OK, &err);
    assert_int_equal(cached_files(), 4); /* dev and train of each */
    float *logits = ask(both, 2, DD_MEAN_LOGITS, DD_OK, &err);
    float *probabilities = ask(both, 2, DD_MEAN_PROBABILITIES, DD_OK, &err);
    assert_int_equal(cached_files(), 4);
    double apart = 0;
    for (int r = 0; r < 23; r++) {
        const float *x = a + r * FIXTURE_CLASSES, *y = b + r * FIXTURE_CLASSES;
        double p[FIXTURE_CLASSES], q[FIXTURE_CLASSES], mean[FIXTURE_CLASSES];
        softmax(x, p);
        softmax(y, q);
        softmax(probabilities + r * FIXTURE_CLASSES, mean);
        for (int c = 0; c < FIXTURE_CLASSES; c++) {
            near_double((double)logits[r * FIXTURE_CLASSES + c], ((double)x[c] + (double)y[c]) / 2, 1e-6);
            near_double(mean[c], (p[c] + q[c]) / 2, 1e-6);
            apart = DD_MAX(apart, fabs(p[c] - q[c]));
        }
    }
    assert_true(apart > 0.1); /* else any of them would have done */
    free(a);
    free(b);
    free(logits);
    free(probabilities);
}

/* A teacher of whom all is known is not read; one of whom it is not, is. */
static void test_a_known_teacher_stays_on_disk(void **state) {
    (void)state;
    struct dd_error err;
    char dir[512];
    fixture_path(dir, "teacher-on-disk");
    must(dd_model_save(second, dir, NULL, &err), &err);
    struct dd_model *whole = NULL, *opened = NULL;
    must(dd_model_load(dir, &whole, &err), &err);
    int before = cached_files();
    for (int known = 0; known < 2; known++) {
        must(dd_model_open(dir, whole->info.sha256, &opened, &err), &err);
        float *said = ask(&opened, 1, DD_MEAN_PROBABILITIES, DD_OK, &err);
        float *wanted = ask(&second, 1, DD_MEAN_PROBABILITIES, DD_OK, &err);
        assert_memory_equal(said, wanted, 23 * FIXTURE_CLASSES * sizeof *said);
        assert_int_equal(opened->params->slab == NULL, known);
        assert_int_equal(cached_files(), before + 2);
        free(said);
        free(wanted);
        dd_model_free(opened);
    }
    dd_model_free(whole);
}

/* A teacher whose labels stand in another order says the same. */
static void test_classes_are_matched_for_each(void **state) {
    (void)state;
    struct dd_error err;
    struct dd_model turned = *second;
    const struct dd_tensor *weight = dd_params_find(second->params, "classifier.weight"),
                           *bias = dd_params_find(second->params, "classifier.bias");
    size_t hidden = weight->count / FIXTURE_CLASSES;
    struct dd_params params = *second->params;
    params.slab = dd_calloc_aligned(params.count, sizeof(float));
    memcpy(params.slab, second->params->slab, params.count * sizeof(float));
    for (size_t c = 0; c < FIXTURE_CLASSES; c++) {
        size_t to = (c + 1) % FIXTURE_CLASSES;
        memcpy(params.slab + weight->offset + to * hidden, second->params->slab + weight->offset + c * hidden,
               hidden * sizeof(float));
        params.slab[bias->offset + to] = second->params->slab[bias->offset + c];
        memcpy(turned.info.labels[to], second->info.labels[c], sizeof turned.info.labels[0]);
    }
    turned.params = &params;
    snprintf(turned.info.sha256, sizeof turned.info.sha256, "%064d", 99);
    struct dd_model *const straight[] = {first, second}, *const mixed[] = {first, &turned};
    float *a = ask(straight, 2, DD_MEAN_LOGITS, DD_OK, &err), *b = ask(mixed, 2, DD_MEAN_LOGITS, DD_OK, &err);
    for (int i = 0; i < 23 * FIXTURE_CLASSES; i++) {
        near_double((double)a[i], (double)b[i], 1e-6);
    }
    free(a);
    free(b);
    free(params.slab);
}

static void test_what_does_not_fit_is_refused(void **state) {
    (void)state;
    struct dd_error err;
    struct dd_model other = *second;
    struct dd_model *const pair[] = {first, &other}, *const missing[] = {first, NULL};
    other.info.kind = DD_MODEL_ENCODER;
    assert_null(ask(pair, 2, DD_MEAN_LOGITS, DD_INVALID, &err));
    assert_string_equal(err.code, "teacher_is_an_encoder");
    assert_non_null(strstr(err.message, "the teacher \"teacher-2\" has no"));

    other = *second;
    snprintf(other.info.labels[1], sizeof other.info.labels[1], "yellow");
    assert_null(ask(pair, 2, DD_MEAN_LOGITS, DD_INVALID, &err));
    assert_string_equal(err.code, "labels_do_not_match");
    assert_non_null(strstr(err.message, "the labels of the teacher \"teacher-2\" do not cover"));

    other = *second;
    other.info.config.max_positions = 11; /* max_length is 12 */
    assert_null(ask(pair, 2, DD_MEAN_LOGITS, DD_INVALID, &err));
    assert_string_equal(err.code, "max_length_invalid");

    other = *second;
    struct dd_tokenizer_options options = *dd_tokenizer_settings(second->tokenizer);
    options.do_lower_case = false;
    must(dd_tokenizer_new(fixture_vocab, fixture_vocab_bytes, &options, &other.tokenizer, &err), &err);
    assert_null(ask(pair, 2, DD_MEAN_LOGITS, DD_INVALID, &err));
    assert_string_equal(err.code, "teachers_differ");
    dd_tokenizer_free(other.tokenizer);

    must(dd_tokenizer_new(fixture_vocab, fixture_vocab_bytes - strlen("w59\n"),
                          dd_tokenizer_settings(second->tokenizer), &other.tokenizer, &err),
         &err);
    assert_null(ask(pair, 2, DD_MEAN_LOGITS, DD_INVALID, &err));
    assert_string_equal(err.code, "teachers_differ");
    dd_tokenizer_free(other.tokenizer);

    assert_null(ask(missing, 2, DD_MEAN_LOGITS, DD_INVALID, &err));
    assert_string_equal(err.code, "teacher_missing");
}

/* A paused run with several teachers goes on to the same bits; with another one of them it is another run. */
static void test_teachers_are_part_of_the_run(void **state) {
    (void)state;
    static const char *const runs[] = {"straight", "paused"};
    for (int k = 0; k < 2; k++) {
        for (int part = 1 - k; part < 2; part++) {
            struct attempt attempt = {.run = runs[k], .threads = 1 + k, .base = first, .teachers = {second}};
            attempt.spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
            attempt.spec.n_teachers = 1;
            snprintf(attempt.spec.teachers[0], sizeof attempt.spec.teachers[0], "second");
            attempt.recorder.stop_at = part == 0 ? 14 : 0;
            attempt.recorder.stop = DD_STOP_PAUSE;
            assert_int_equal(attempt_train(&attempt), part == 0 ? DD_STOPPED : DD_OK);
        }
    }
    char a[512], b[512];
    fixture_path(a, runs[0]);
    fixture_path(b, runs[1]);
    same_file(a, b, "last/model.safetensors");
    same_file(a, b, "last/README.md");

    struct dd_model quantised = *second;
    quantised.info.int8 = true;
    struct attempt refused = {.run = "refused", .threads = 1, .base = first, .teachers = {&quantised}};
    refused.spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    refused.spec.n_teachers = 1;
    assert_int_equal(attempt_train(&refused), DD_INVALID);
    assert_string_equal(refused.err.code, "model_is_int8");

    struct dd_model *third = drawn_model(2, 77);
    struct attempt attempt = {.run = runs[0], .threads = 1, .base = first, .teachers = {third}};
    attempt.spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    attempt.spec.n_teachers = 1;
    snprintf(attempt.spec.teachers[0], sizeof attempt.spec.teachers[0], "second");
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.recorder.epochs, 4); /* not taken for finished */
    dd_model_free(third);
}

static void test_estimate_counts_every_teacher(void **state) {
    (void)state;
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    const struct dd_bert_config further[2] = {second->info.config, second->info.config};
    struct dd_train_estimate one, three;
    struct dd_error err;
    must(dd_train_estimate(&spec, fixture_dataset, &first->info.config, NULL, 1, &one, &err), &err);
    spec.n_teachers = 2;
    must(dd_train_estimate(&spec, fixture_dataset, &first->info.config, further, 1, &three, &err), &err);
    assert_true(three.memory_bytes >= one.memory_bytes + 2 * second->info.parameters * sizeof(float));
    assert_true(three.matmul_flops > one.matmul_flops);
    assert_int_equal(three.disk_bytes - one.disk_bytes, 2 * (70 + 23) * FIXTURE_CLASSES * 4);
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0 || dd_pool_new(2, &pool, &err) != DD_OK) {
        return -1;
    }
    first = drawn_model(2, 5);
    second = drawn_model(3, 6);
    return 0;
}

static int tear_down(void **state) {
    dd_model_free(first);
    dd_model_free(second);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_means),
        cmocka_unit_test(test_a_known_teacher_stays_on_disk),
        cmocka_unit_test(test_classes_are_matched_for_each),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_teachers_are_part_of_the_run),
        cmocka_unit_test(test_estimate_counts_every_teacher),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
