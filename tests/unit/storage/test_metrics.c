/* What a run leaves behind: epochs, steps, predictions, reference, progress, log; replaying changes nothing. */
#include "tests/unit/storage/fixture.h"

static struct dd_epoch_row epoch_row(int epoch, double macro_f1, bool is_best) {
    return (struct dd_epoch_row){.epoch = epoch,
                                 .train_loss = 1.0 / epoch,
                                 .train_kl = NAN,
                                 .train_ce = 0.1 + 0.2,
                                 .dev_loss = 0.7,
                                 .accuracy = 0.8,
                                 .macro_precision = 0.71,
                                 .macro_recall = 0.72,
                                 .macro_f1 = macro_f1,
                                 .weighted_precision = 0.74,
                                 .weighted_recall = 0.75,
                                 .weighted_f1 = 0.76,
                                 .teacher_agreement = NAN,
                                 .lr = 5e-5,
                                 .seconds = 12.5,
                                 .elapsed_seconds = 12.5 * epoch,
                                 .tokens_per_second = 4321.125,
                                 .is_best = is_best};
}

static int32_t dev_labels[3] = {0, 2, 65535};
static float dev_scores[3] = {0.5f, 1.0f, 1e-30f};
static struct dd_prediction_set dev_set(void) {
    return (struct dd_prediction_set){3, dev_labels, dev_scores};
}

static void put(struct fixture *f, int64_t id, int epoch, double macro_f1, bool is_best) {
    struct dd_epoch_row row = epoch_row(epoch, macro_f1, is_best);
    struct dd_prediction_set dev = dev_set();
    struct dd_step_row steps[2] = {
        {.step = 2 * epoch - 1, .epoch = epoch, .loss = 1.5, .kl = NAN, .ce = 1, .lr = 1e-3, .grad_norm = 3},
        {.step = 2 * epoch, .epoch = epoch, .loss = 0.1, .kl = 0.25, .ce = 1, .lr = 1e-3, .grad_norm = INFINITY}};
    assert_ok(f, dd_storage_epoch_put(f->storage, id, &row, &dev, steps, 2, NULL, &f->err));
}

static void test_epochs(void **state) {
    struct fixture *f = *state;
    struct dd_epoch_row *rows = NULL;
    size_t count = 0;
    int64_t id = insert_sample(f, "x", 0), other = insert_sample(f, "y", 0);
    assert_ok(f, dd_storage_epochs_get(f->storage, id, 0, &rows, &count, &f->err));
    assert_int_equal(count, 0);
    free(rows);
    for (int epoch = 1; epoch <= 5; epoch++) {
        put(f, id, epoch, 0.5 + 0.01 * epoch, true);
    }
    put(f, other, 1, 0.9, true);
    assert_ok(f, dd_storage_epochs_get(f->storage, id, 2, &rows, &count, &f->err));
    assert_int_equal(count, 3);
    struct dd_epoch_row expected = epoch_row(3, 0.53, true);
    expected.recorded_ms = rows[0].recorded_ms;
    assert_true(rows[0].recorded_ms > 0);
    /* Field by field: NANs are compared as such. */
    assert_int_equal(rows[0].epoch, 3);
    assert_true(rows[0].is_best);
    const size_t first = offsetof(struct dd_epoch_row, train_loss);
    for (size_t i = 0; i < 16; i++) {
        double got, wanted;
        memcpy(&got, (char *)&rows[0] + first + i * sizeof got, sizeof got);
        memcpy(&wanted, (char *)&expected + first + i * sizeof wanted, sizeof wanted);
        assert_true(got == wanted || (isnan(got) && isnan(wanted)));
    }
    free(rows);
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_epoch_put(f->storage, 99, &expected, NULL, NULL, 0, NULL, &f->err));
    expected.epoch = 0;
    assert_fails(f, DD_INTERNAL, "epoch_invalid",
                 dd_storage_epoch_put(f->storage, id, &expected, NULL, NULL, 0, NULL, &f->err));
    assert_int_equal(raw_int(f, "SELECT count(*) FROM epochs"), 6);
}

/* An epoch that is told again after a resumption keeps the attempt that recorded it first. */
static void test_attempt_stays(void **state) {
    struct fixture *f = *state;
    struct dd_epoch_row *rows = NULL;
    size_t count = 0;
    int64_t id = insert_sample(f, "x", 0);
    const int told[][2] = {{1, 1}, {2, 1}, {2, 2}, {3, 2}}; /* epoch, attempt */
    for (size_t i = 0; i < DD_ARRAY_LEN(told); i++) {
        struct dd_epoch_row row = epoch_row(told[i][0], 0.5, true);
        row.attempt = told[i][1];
        assert_ok(f, dd_storage_epoch_put(f->storage, id, &row, NULL, NULL, 0, NULL, &f->err));
        assert_int_equal(row.attempt, i < 3 ? 1 : 2); /* what is told on is what is kept */
    }
    assert_ok(f, dd_storage_epochs_get(f->storage, id, 0, &rows, &count, &f->err));
    assert_int_equal(count, 3);
    assert_true(rows[0].attempt == 1 && rows[1].attempt == 1 && rows[2].attempt == 2);
    free(rows);
}

static void test_best_and_last(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0);
    struct dd_experiment row = get(f, id);
    assert_int_equal(row.best.epoch, 0);
    assert_true(isnan(row.best.macro_f1));
    int64_t revision = row.revision;
    dd_experiment_release(&row);
    put(f, id, 1, 0.5, true);
    put(f, id, 2, 0.6, true);
    put(f, id, 3, 0.6, false); /* equal is not better */
    row = get(f, id);
    assert_int_equal(row.best.epoch, 2);
    assert_true(row.best.macro_f1 == 0.6);
    assert_true(row.best.weighted_f1 == 0.76);
    assert_int_equal(row.last.epoch, 3);
    assert_int_equal(row.epochs_done, 3);
    assert_true(row.revision > revision);
    dd_experiment_release(&row);
}

/* After a crash the run goes back to a checkpoint and repeats: epochs 1 to 3 come again, with the same values. */
static void test_replay_changes_nothing(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0);
    static const double f1[] = {0, 0.5, 0.6, 0.55, 0.7, 0.65};
    static const bool best[] = {false, true, true, false, true, false};
    for (int epoch = 1; epoch <= 5; epoch++) {
        put(f, id, epoch, f1[epoch], best[epoch]);
    }
    struct dd_epoch_row *before = NULL, *after = NULL;
    size_t n_before = 0, n_after = 0;
    struct dd_experiment row_before = get(f, id);
    assert_ok(f, dd_storage_epochs_get(f->storage, id, 0, &before, &n_before, &f->err));
    raw_sql(f, "UPDATE epochs SET recorded_ms = 123");
    for (int epoch = 1; epoch <= 5; epoch++) {
        put(f, id, epoch, f1[epoch], best[epoch]);
        struct dd_experiment row = get(f, id);
        assert_int_equal(row.best.epoch, 4);
        assert_int_equal(row.last.epoch, 5);
        assert_int_equal(row.epochs_done, 5);
        assert_true(row.best.macro_f1 == row_before.best.macro_f1);
        dd_experiment_release(&row);
    }
    assert_ok(f, dd_storage_epochs_get(f->storage, id, 0, &after, &n_after, &f->err));
    assert_int_equal(n_before, n_after);
    for (size_t i = 0; i < n_after; i++) {
        assert_int_equal(after[i].recorded_ms, 123);
        assert_true(after[i].macro_f1 == before[i].macro_f1);
        assert_int_equal(after[i].is_best, before[i].is_best);
    }
    assert_int_equal(raw_int(f, "SELECT count(*) FROM steps"), 10);
    assert_int_equal(raw_int(f, "SELECT count(*) FROM predictions"), 5);
    free(before);
    free(after);
    dd_experiment_release(&row_before);
}

static void test_steps(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0);
    static struct dd_step_row steps[1000];
    struct dd_step_row *rows = NULL;
    size_t count = 0;
    for (int i = 0; i < 1000; i++) {
        steps[i] =
            (struct dd_step_row){.step = i + 1, .epoch = i / 100 + 1, .loss = 1.0 / (i + 1), .kl = NAN, .lr = 0.1};
    }
    assert_ok(f, dd_storage_steps_put(f->storage, id, steps, 1000, &f->err));
    assert_ok(f, dd_storage_steps_put(f->storage, id, steps + 500, 100, &f->err)); /* repeated */
    assert_ok(f, dd_storage_steps_put(f->storage, id, NULL, 0, &f->err));
    assert_ok(f, dd_storage_steps_get(f->storage, id, 0, 0, &rows, &count, &f->err));
    assert_int_equal(count, 1000);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(rows[i].step, i + 1);
        assert_true(rows[i].loss == steps[i].loss);
        assert_true(isnan(rows[i].kl));
        assert_true(rows[i].lr == 0.1);
    }
    free(rows);
    assert_ok(f, dd_storage_steps_get(f->storage, id, 10, 12, &rows, &count, &f->err));
    assert_int_equal(count, 2);
    assert_int_equal(rows[0].step, 11);
    assert_int_equal(rows[1].step, 12);
    free(rows);
    assert_ok(f, dd_storage_steps_get(f->storage, 99, 0, 0, &rows, &count, &f->err));
    assert_int_equal(count, 0);
    free(rows);
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found", dd_storage_steps_put(f->storage, 99, steps, 1, &f->err));
}

static void test_predictions(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0);
    struct dd_prediction_set set = {0};
    put(f, id, 1, 0.5, true);
    assert_ok(f, dd_storage_predictions_get(f->storage, id, 1, &set, &f->err));
    assert_int_equal(set.n, 3);
    assert_memory_equal(set.label, dev_labels, sizeof dev_labels);
    assert_memory_equal(set.score, dev_scores, sizeof dev_scores);
    dd_prediction_set_release(&set);
    assert_fails(f, DD_NOT_FOUND, "epoch_not_found", dd_storage_predictions_get(f->storage, id, 2, &set, &f->err));
    assert_int_equal(raw_int(f, "SELECT length(labels) + length(scores) FROM predictions"), 3 * (2 + 4));

    struct dd_epoch_row row = epoch_row(2, 0.5, false);
    int32_t bad[1] = {65536};
    float score[1] = {0};
    struct dd_prediction_set wrong = {1, bad, score};
    assert_fails(f, DD_INVALID, "label_out_of_range",
                 dd_storage_epoch_put(f->storage, id, &row, &wrong, NULL, 0, NULL, &f->err));
    bad[0] = -1;
    assert_fails(f, DD_INVALID, "label_out_of_range",
                 dd_storage_epoch_put(f->storage, id, &row, &wrong, NULL, 0, NULL, &f->err));
    assert_int_equal(raw_int(f, "SELECT count(*) FROM epochs"), 1); /* nothing half-written */

    static const char *const damage[] = {"labels = x'00'", "scores = x''", "n = 4", "n = -1",
                                         "n = 4611686018427387907"};
    for (size_t i = 0; i < DD_ARRAY_LEN(damage); i++) {
        char sql[128];
        put(f, id, 1, 0.5, true);
        snprintf(sql, sizeof sql, "UPDATE predictions SET %s", damage[i]);
        raw_sql(f, sql);
        assert_fails(f, DD_CORRUPT, "database_corrupt", dd_storage_predictions_get(f->storage, id, 1, &set, &f->err));
    }
}

static void test_reference(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0);
    struct dd_prediction_set teacher = dev_set(), got = {0};
    const int32_t gold[3] = {1, 0, 2};
    char *classes = NULL;
    int32_t *got_gold = NULL;
    size_t n = 0;
    assert_fails(f, DD_NOT_FOUND, "reference_not_found",
                 dd_storage_reference_get(f->storage, id, &classes, &got_gold, &n, &got, &f->err));
    for (int round = 0; round < 2; round++) { /* a second attempt puts it again */
        assert_ok(f,
                  dd_storage_reference_put(f->storage, id, "[\"测评\",\"种草\",\"科普\"]", gold, 3, &teacher, &f->err));
    }
    assert_ok(f, dd_storage_reference_get(f->storage, id, &classes, &got_gold, &n, &got, &f->err));
    assert_string_equal(classes, "[\"测评\",\"种草\",\"科普\"]");
    assert_int_equal(n, 3);
    assert_memory_equal(got_gold, gold, sizeof gold);
    assert_int_equal(got.n, 3);
    assert_memory_equal(got.label, dev_labels, sizeof dev_labels);
    assert_memory_equal(got.score, dev_scores, sizeof dev_scores);
    free(classes);
    free(got_gold);
    dd_prediction_set_release(&got);
    assert_ok(f, dd_storage_reference_put(f->storage, id, "[]", gold, 3, NULL, &f->err));
    assert_ok(f, dd_storage_reference_get(f->storage, id, &classes, &got_gold, &n, &got, &f->err));
    assert_int_equal(got.n, 0);
    free(classes);
    free(got_gold);
    dd_prediction_set_release(&got);
    teacher.n = 2;
    assert_fails(f, DD_INTERNAL, "reference_invalid",
                 dd_storage_reference_put(f->storage, id, "[]", gold, 3, &teacher, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_reference_put(f->storage, 99, "[]", gold, 3, NULL, &f->err));
}

static void test_progress_and_teacher(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0);
    struct dd_scores scores = {.epoch = 0,
                               .accuracy = 0.8263,
                               .macro_precision = 0.7764,
                               .macro_recall = 0.7813,
                               .macro_f1 = 0.7788,
                               .weighted_f1 = 0.8272,
                               .dev_loss = NAN,
                               .train_loss = NAN};
    assert_ok(f, dd_storage_set_progress(f->storage, id, "training", 12, 8460, 99.5, 5000, 3.25, &f->err));
    assert_ok(f, dd_storage_set_progress(f->storage, id, NULL, 13, 8460, NAN, 5001, NAN, &f->err));
    assert_ok(f, dd_storage_set_teacher_scores(f->storage, id, &scores, &f->err));
    struct dd_experiment row = get(f, id);
    assert_string_equal(row.phase, "training");
    assert_int_equal(row.steps_done, 13);
    assert_true(isnan(row.eta_seconds));
    assert_true(row.tokens_per_second == 5001);
    assert_true(row.elapsed_seconds == 3.25);
    assert_true(row.teacher_scores.macro_f1 == 0.7788);
    assert_true(isnan(row.teacher_scores.dev_loss));
    assert_int_equal(row.revision, 4);
    dd_experiment_release(&row);
}

static void test_log(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0), other = insert_sample(f, "y", 0), seq = 0;
    struct dd_log_row *rows = NULL;
    size_t count = 0;
    for (int i = 1; i <= 5; i++) {
        assert_ok(f,
                  dd_storage_log_put(f->storage, id, DD_LOG_WARNING, i == 3 ? "第三\n行 \x01" : "line", &seq, &f->err));
        assert_int_equal(seq, i);
    }
    assert_ok(f, dd_storage_log_put(f->storage, other, DD_LOG_INFO, "", &seq, &f->err));
    assert_int_equal(seq, 1);
    assert_ok(f, dd_storage_log_get(f->storage, id, 2, 2, &rows, &count, &f->err));
    assert_int_equal(count, 2);
    assert_int_equal(rows[0].seq, 3);
    assert_string_equal(rows[0].message, "第三\n行 \x01");
    assert_int_equal(rows[0].level, DD_LOG_WARNING);
    assert_true(rows[0].time_ms > 0);
    dd_log_rows_free(rows, count);
    assert_ok(f, dd_storage_log_get(f->storage, id, 5, 10, &rows, &count, &f->err));
    assert_int_equal(count, 0);
    dd_log_rows_free(rows, count);
    assert_fails(f, DD_INVALID, "limit_invalid", dd_storage_log_get(f->storage, id, 0, 0, &rows, &count, &f->err));
    assert_fails(f, DD_NOT_FOUND, "experiment_not_found",
                 dd_storage_log_put(f->storage, 99, DD_LOG_INFO, "x", &seq, &f->err));
}

static void test_delete_takes_all_rows(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "x", 0), kept = insert_sample(f, "y", 0), seq;
    const int32_t gold[1] = {0};
    const int64_t ids[] = {id, kept};
    for (size_t i = 0; i < 2; i++) {
        put(f, ids[i], 1, 0.5, true);
        assert_ok(f, dd_storage_reference_put(f->storage, ids[i], "[]", gold, 1, NULL, &f->err));
        assert_ok(f, dd_storage_log_put(f->storage, ids[i], DD_LOG_INFO, "x", &seq, &f->err));
    }
    assert_ok(f, dd_storage_experiment_delete(f->storage, id, &f->err));
    static const char *const tables[] = {"experiments", "epochs", "steps", "predictions", "reference", "run_log"};
    for (size_t i = 0; i < DD_ARRAY_LEN(tables); i++) {
        char sql[96];
        snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", tables[i]);
        assert_int_equal(raw_int(f, sql), strcmp(tables[i], "steps") == 0 ? 2 : 1);
    }
}

static void test_row_round_trip(void **state) {
    struct fixture *f = *state;
    struct dd_experiment row = sample("名字 ' \" \\ \x7f 🎉");
    static char tags[] = "[\"a\",\"标签\"]", notes[] = "two\nlines", base[] = "encoder";
    int64_t id = 0;
    row.tags_json = tags;
    row.notes = notes;
    row.base_model = base;
    row.alpha = NAN;
    row.sweep_id = 0;
    row.attempts = 7; /* not taken from the caller */
    row.state = DD_FINISHED;
    assert_ok(f, dd_storage_experiment_insert(f->storage, &row, &id, &f->err));
    struct dd_experiment got = get(f, id);
    assert_string_equal(got.name, row.name);
    assert_string_equal(got.notes, notes);
    assert_string_equal(got.tags_json, tags);
    assert_string_equal(got.base_model, base);
    assert_string_equal(got.spec_json, row.spec_json);
    assert_string_equal(got.spec_hash, row.spec_hash);
    assert_string_equal(got.teacher, "milk-teacher");
    assert_true(isnan(got.alpha));
    assert_true(got.temperature == 4);
    assert_true(got.lr == 1e-4);
    assert_int_equal(got.hidden_size, 768);
    assert_int_equal(got.epochs, 60);
    assert_int_equal(got.steps, 8460);
    assert_int_equal(got.state, DD_QUEUED);
    assert_int_equal(got.attempts, 0);
    assert_int_equal(got.revision, 1);
    assert_true(got.created_ms > 1500000000000);
    assert_null(got.phase);
    assert_null(got.model_name);
    assert_int_equal(got.started_ms, 0);
    dd_experiment_release(&got);
    struct dd_experiment bare = {.spec_hash = ""};
    assert_ok(f, dd_storage_experiment_insert(f->storage, &bare, &id, &f->err));
    got = get(f, id);
    assert_string_equal(got.name, "");
    assert_string_equal(got.tags_json, "[]");
    dd_experiment_release(&got);
}

static void test_patch(void **state) {
    struct fixture *f = *state;
    int64_t id = insert_sample(f, "old", 3);
    int priority = -4;
    char long_name[300];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_ok(f, dd_storage_experiment_patch(f->storage, id, "new", NULL, NULL, NULL, &f->err));
    struct dd_experiment row = get(f, id);
    assert_string_equal(row.name, "new");
    assert_string_equal(row.tags_json, "[\"milk\"]");
    assert_int_equal(row.priority, 3);
    assert_int_equal(row.revision, 2);
    dd_experiment_release(&row);
    assert_ok(f, dd_storage_experiment_patch(f->storage, id, NULL, "n", "[]", &priority, &f->err));
    row = get(f, id);
    assert_string_equal(row.name, "new");
    assert_string_equal(row.notes, "n");
    assert_string_equal(row.tags_json, "[]");
    assert_int_equal(row.priority, -4);
    dd_experiment_release(&row);
    static const char *const bad_tags[] = {"", "{}", "[", "\"a\"", "[1]", "[null]", "[[\"a\"]]", "nonsense"};
    for (size_t i = 0; i < DD_ARRAY_LEN(bad_tags); i++) {
        assert_fails(f, DD_INVALID, "tags_invalid",
                     dd_storage_experiment_patch(f->storage, id, "bad", NULL, bad_tags[i], NULL, &f->err));
    }
    assert_fails(f, DD_INVALID, "name_too_long",
                 dd_storage_experiment_patch(f->storage, id, long_name, NULL, NULL, NULL, &f->err));
    row = get(f, id);
    assert_string_equal(row.name, "new");
    dd_experiment_release(&row);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_epochs), T(test_attempt_stays),         T(test_best_and_last),  T(test_replay_changes_nothing),
        T(test_steps),  T(test_predictions),           T(test_reference),      T(test_progress_and_teacher),
        T(test_log),    T(test_delete_takes_all_rows), T(test_row_round_trip), T(test_patch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
