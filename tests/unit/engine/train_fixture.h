/* train_fixture: a tiny data set, specs, and a recorder of a run's callbacks, for the tests of the training loop.
 *
 * The recorder behaves as the daemon does: steps are held in memory and become durable together with the epoch that
 * follows them, in one file an attempt; so a process that is killed loses steps, and the fold over all attempts shows
 * whether the engine repeats what was lost.
 */
#ifndef DD_TEST_TRAIN_FIXTURE_H
#define DD_TEST_TRAIN_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/train.h"

#define FIXTURE_CLASSES 3
#define FIXTURE_WORDS 60

static char fixture_dir[256]; /* a fresh directory for this test program */
static struct dd_dataset *fixture_dataset;
static char *fixture_vocab;
static size_t fixture_vocab_bytes;

static void must(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        fail_msg("%s: %s", dd_status_name(status), err->message);
    }
}

static inline void fixture_path(char out[512], const char *name) {
    snprintf(out, 512, "%s/%s", fixture_dir, name);
}

/* A linear congruential sequence: the same data everywhere. */
static inline unsigned fixture_random(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Words of a row lean towards those of its class. */
static inline void write_rows(const char *path, int rows, unsigned seed, bool labels) {
    static const char *const classes[FIXTURE_CLASSES] = {"red", "green", "blue"};
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int r = 0; r < rows; r++) {
        int class = r < FIXTURE_CLASSES ? r : (int)(fixture_random(&seed) % FIXTURE_CLASSES);
        int words = 2 + (int)(fixture_random(&seed) % 12);
        for (int w = 0; w < words; w++) {
            unsigned word = fixture_random(&seed) % FIXTURE_WORDS;
            if (fixture_random(&seed) % 4 != 0) {
                word = word / FIXTURE_CLASSES * FIXTURE_CLASSES + (unsigned)class;
            }
            fprintf(file, "%sw%u", w ? " " : "", word);
        }
        fprintf(file, labels ? "\t%s\n" : "\n", classes[class]);
    }
    assert_int_equal(fclose(file), 0);
}

#define FIXTURE_UNLABELLED 41

static inline struct dd_dataset *make_dataset(const char *name, int train_rows, int dev_rows,
                                              unsigned unlabelled_seed) {
    char train[512], dev[512], unlabelled[512], dir[512], file[64];
    snprintf(file, sizeof file, "%s-train.tsv", name);
    fixture_path(train, file);
    snprintf(file, sizeof file, "%s-dev.tsv", name);
    fixture_path(dev, file);
    fixture_path(dir, name);
    snprintf(file, sizeof file, "%s-unlabelled.txt", name);
    fixture_path(unlabelled, file);
    write_rows(train, train_rows, 1, true);
    write_rows(dev, dev_rows, 2, true);
    write_rows(unlabelled, FIXTURE_UNLABELLED, unlabelled_seed, false);
    struct dd_import import = {
        .paths = {[DD_SPLIT_TRAIN] = train, [DD_SPLIT_DEV] = dev, [DD_SPLIT_UNLABELLED] = unlabelled},
        .file_names = {[DD_SPLIT_TRAIN] = "train.tsv", [DD_SPLIT_DEV] = "dev.tsv", [DD_SPLIT_UNLABELLED] = "u.txt"}};
    if (unlabelled_seed == 0) {
        import.paths[DD_SPLIT_UNLABELLED] = NULL;
    }
    static struct dd_import_report report;
    struct dd_error err;
    must(dd_dataset_import(&import, dir, &report, &err), &err);
    struct dd_dataset *dataset = NULL;
    must(dd_dataset_open(dir, &dataset, &err), &err);
    return dataset;
}

static inline int fixture_set_up(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(fixture_dir, sizeof fixture_dir, "%s/distilld-train-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(fixture_dir)) {
        return -1;
    }
    struct dd_buffer vocab;
    dd_buffer_init(&vocab, 1 << 16);
    dd_buffer_puts(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    for (int w = 0; w < FIXTURE_WORDS; w++) {
        dd_buffer_printf(&vocab, "w%d\n", w);
    }
    fixture_vocab = dd_buffer_take(&vocab, &fixture_vocab_bytes);
    fixture_dataset = make_dataset("data", 70, 23, 3);
    return 0;
}

static inline int fixture_tear_down(void **state) {
    (void)state;
    dd_dataset_free(fixture_dataset);
    free(fixture_vocab);
    return dd_tree_remove(fixture_dir, NULL) == DD_OK ? 0 : -1;
}

/* A row of texts; pair NULL for one text. */
struct example {
    const char *text, *pair;
    int32_t label;
};

static inline void example_row(const void *context, uint64_t index, struct dd_row *ret_row) {
    const struct example *e = (const struct example *)context + index;
    *ret_row = (struct dd_row){.text = e->text, .text_bytes = strlen(e->text), .label = e->label};
    if (e->pair) {
        ret_row->pair = e->pair;
        ret_row->pair_bytes = strlen(e->pair);
    }
}

static inline struct dd_packed pack_examples(const struct dd_tokenizer *tokenizer, const struct example *examples,
                                             uint64_t n, int max_length) {
    const struct dd_row_source source = {.context = examples, .row = example_row, .rows = n};
    const struct dd_bert_config config = {.vocab_size = 100, .max_positions = 64, .type_vocab_size = 2};
    struct dd_pool *pool = NULL;
    struct dd_team *team = NULL;
    struct dd_packed packed = {0};
    struct dd_error err;
    must(dd_pool_new(1, &pool, &err), &err);
    must(dd_team_join(pool, &team, &err), &err);
    must(dd_packed_build(&source, tokenizer, &config, max_length, team, NULL, NULL, &packed, &err), &err);
    dd_team_leave(team);
    dd_pool_free(pool);
    return packed;
}

/* Four epochs of 9 steps, the last of 6 rows, with everything that depends on the step: dropout, warm-up, decay. */
static inline struct dd_spec tiny_spec(enum dd_task task, enum dd_optimizer_type optimizer) {
    struct dd_spec spec = {.task = task,
                           .dataset = "data",
                           .vocab_size = 100,
                           .layers = 2,
                           .heads = 2,
                           .hidden_size = 16,
                           .intermediate_size = 32,
                           .init = DD_INIT_RANDOM,
                           .hidden_dropout = 0.1,
                           .attention_dropout = 0.1,
                           .classifier_dropout = 0.1,
                           .hidden_act = "gelu",
                           .temperature = 4.0,
                           .alpha = 0.3,
                           .temperature_end = NAN,
                           .alpha_end = NAN,
                           .epochs = 4,
                           .batch_size = 8,
                           .max_length = 12,
                           .seed = 7};
    spec.optimizer = (struct dd_optimizer_spec){.type = optimizer,
                                                .lr = optimizer == DD_OPTIMIZER_ADAMW ? 5e-3 : 0.1,
                                                .weight_decay = 0.01,
                                                .eps = 1e-8,
                                                .beta1 = 0.9,
                                                .beta2 = 0.999,
                                                .momentum = 0.9,
                                                .warmup = 0.1,
                                                .schedule = DD_SCHEDULE_LINEAR,
                                                .max_grad_norm = 1.0};
    if (task == DD_TASK_DISTILL) {
        snprintf(spec.teacher, sizeof spec.teacher, "teacher");
    }
    return spec;
}

/* --- the recorder ----------------------------------------------------------------------------------------------- */

#define RECORD_STEPS 256
#define RECORD_EPOCHS 16
#define RECORD_DEV 64

struct epoch_record {
    struct dd_epoch_metrics metrics;
    size_t n_dev;
    int32_t label[RECORD_DEV];
    float score[RECORD_DEV];
    size_t n_steps;
    struct dd_step_metrics steps[RECORD_STEPS];
};
struct recorder {
    struct epoch_record pending; /* its steps */
    char path[512];              /* of this attempt; "" records nothing */
    int calls;                   /* step and epoch callbacks so far */
    int kill_at;                 /* SIGKILL in that call, before it is durable; 0: never */
    int kill_after;              /* SIGKILL after the n-th epoch is durable */
    int stop_at;                 /* request `stop` in that call */
    enum dd_stop stop;
    struct dd_cancel *cancel;
    int epochs, references, warnings;
    bool is_best[RECORD_EPOCHS + 1]; /* by epoch */
    char last_log[1024];
};

static inline void recorder_call(struct recorder *recorder) {
    recorder->calls++;
    if (recorder->calls == recorder->kill_at) {
        kill(getpid(), SIGKILL);
    }
    if (recorder->calls == recorder->stop_at) {
        dd_cancel_request(recorder->cancel, recorder->stop);
    }
}

static inline void record_step(void *context, const struct dd_step_metrics *step) {
    struct recorder *recorder = context;
    recorder_call(recorder);
    assert_true(recorder->pending.n_steps < RECORD_STEPS);
    recorder->pending.steps[recorder->pending.n_steps++] = *step;
}

static inline enum dd_status record_epoch(void *context, const struct dd_epoch_metrics *epoch,
                                          const struct dd_predictions *dev, struct dd_error *err) {
    struct recorder *recorder = context;
    (void)err;
    recorder_call(recorder);
    struct epoch_record *record = &recorder->pending;
    assert_true(dev->n <= RECORD_DEV);
    record->metrics = *epoch;
    record->n_dev = dev->n;
    memcpy(record->label, dev->label, dev->n * sizeof *dev->label);
    memcpy(record->score, dev->score, dev->n * sizeof *dev->score);
    if (recorder->path[0]) {
        FILE *file = fopen(recorder->path, "a");
        assert_non_null(file);
        assert_int_equal(fwrite(record, sizeof *record, 1, file), 1);
        assert_int_equal(fclose(file), 0);
    }
    memset(record, 0, sizeof *record);
    recorder->epochs++;
    recorder->is_best[epoch->epoch] = epoch->is_best;
    if (recorder->epochs == recorder->kill_after) {
        kill(getpid(), SIGKILL);
    }
    return DD_OK;
}

static inline enum dd_status record_reference(void *context, const int32_t *gold, size_t n,
                                              const struct dd_predictions *teacher, struct dd_error *err) {
    struct recorder *recorder = context;
    (void)err;
    assert_non_null(gold);
    if (teacher) {
        assert_int_equal(teacher->n, n);
    }
    recorder->references++;
    return DD_OK;
}

static inline void record_log(void *context, enum dd_log_level level, const char *message) {
    struct recorder *recorder = context;
    recorder->warnings += level >= DD_LOG_WARNING;
    if (level >= DD_LOG_WARNING) {
        snprintf(recorder->last_log, sizeof recorder->last_log, "%s", message);
    }
}

static inline struct dd_train_events recorder_events(struct recorder *recorder) {
    return (struct dd_train_events){.context = recorder,
                                    .step = record_step,
                                    .epoch = record_epoch,
                                    .reference = record_reference,
                                    .log = record_log};
}

/* History as a database would have it: by epoch and by step, the newest value of each. */
struct history {
    int n_epochs;
    struct epoch_record epochs[RECORD_EPOCHS + 1]; /* by number */
    struct dd_step_metrics steps[RECORD_STEPS + 1];
};

/* Folds one attempt's file in; a missing file is an attempt that ended before its first epoch. */
static inline void history_fold(struct history *history, const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        return;
    }
    struct epoch_record record;
    while (fread(&record, sizeof record, 1, file) == 1) {
        assert_in_range(record.metrics.epoch, 1, RECORD_EPOCHS);
        history->epochs[record.metrics.epoch] = record;
        history->n_epochs = DD_MAX(history->n_epochs, record.metrics.epoch);
        for (size_t s = 0; s < record.n_steps; s++) {
            assert_in_range(record.steps[s].step, 1, RECORD_STEPS);
            history->steps[record.steps[s].step] = record.steps[s];
        }
    }
    fclose(file);
}

static inline void same_double(double a, double b) {
    if (memcmp(&a, &b, sizeof a) != 0) {
        fail_msg("%.17g is not %.17g", a, b);
    }
}

/* Every epoch and every step is there, and equal to the bit but for times. */
static inline void history_same(const struct history *a, const struct history *b, int epochs, int steps) {
    assert_int_equal(a->n_epochs, epochs);
    assert_int_equal(b->n_epochs, epochs);
    for (int e = 1; e <= epochs; e++) {
        const struct dd_epoch_metrics *x = &a->epochs[e].metrics, *y = &b->epochs[e].metrics;
        assert_int_equal(x->epoch, e);
        assert_int_equal(y->epoch, e);
        const double xs[] = {
            x->train_loss,         x->train_kl,          x->train_ce, x->dev_loss,        x->accuracy,
            x->macro_recall,       x->macro_precision,   x->macro_f1, x->weighted_recall, x->weighted_f1,
            x->weighted_precision, x->teacher_agreement, x->lr,       x->train_hidden,    x->train_cls,
            x->train_attention,    x->train_relation,    x->dev_kl,   x->dev_ce};
        const double ys[] = {
            y->train_loss,         y->train_kl,          y->train_ce, y->dev_loss,        y->accuracy,
            y->macro_recall,       y->macro_precision,   y->macro_f1, y->weighted_recall, y->weighted_f1,
            y->weighted_precision, y->teacher_agreement, y->lr,       y->train_hidden,    y->train_cls,
            y->train_attention,    y->train_relation,    y->dev_kl,   y->dev_ce};
        for (size_t i = 0; i < DD_ARRAY_LEN(xs); i++) {
            same_double(xs[i], ys[i]);
        }
        assert_int_equal(x->is_best, y->is_best);
        assert_int_equal(x->rollback, y->rollback);
        assert_int_equal(x->rollback_to, y->rollback_to);
        assert_int_equal(a->epochs[e].n_dev, b->epochs[e].n_dev);
        assert_memory_equal(a->epochs[e].label, b->epochs[e].label, sizeof a->epochs[e].label);
        assert_memory_equal(a->epochs[e].score, b->epochs[e].score, sizeof a->epochs[e].score);
    }
    for (int s = 1; s <= steps; s++) {
        assert_int_equal(a->steps[s].step, s);
        assert_int_equal(b->steps[s].step, s);
        assert_int_equal(a->steps[s].epoch, b->steps[s].epoch);
        same_double(a->steps[s].loss, b->steps[s].loss);
        same_double(a->steps[s].kl, b->steps[s].kl);
        same_double(a->steps[s].ce, b->steps[s].ce);
        same_double(a->steps[s].lr, b->steps[s].lr);
        same_double(a->steps[s].grad_norm, b->steps[s].grad_norm);
    }
}

static inline void near_double(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance)) {
        fail_msg("%.17g is not within %g of %.17g", a, tolerance, b);
    }
}

static inline void same_file(const char *dir_a, const char *dir_b, const char *name) {
    char path[1024], *a = NULL, *b = NULL;
    size_t a_len = 0, b_len = 0;
    struct dd_error err;
    snprintf(path, sizeof path, "%s/%s", dir_a, name);
    must(dd_file_read(path, SIZE_MAX / 2, &a, &a_len, &err), &err);
    snprintf(path, sizeof path, "%s/%s", dir_b, name);
    must(dd_file_read(path, SIZE_MAX / 2, &b, &b_len, &err), &err);
    assert_int_equal(a_len, b_len);
    assert_memory_equal(a, b, a_len);
    free(a);
    free(b);
}

/* --- a run ------------------------------------------------------------------------------------------------------ */

struct attempt {
    struct dd_spec spec;
    const struct dd_dataset *dataset; /* NULL: the fixture's */
    const struct dd_model *base, *init, *teachers[DD_MAX_TEACHERS];
    const char *run; /* name of the run directory */
    int threads;
    double checkpoint_seconds;
    uint64_t states_bytes;
    struct recorder recorder;
    struct dd_cancel cancel;
    struct dd_train_result result;
    struct dd_error err;
};

static inline enum dd_status attempt_train(struct attempt *attempt) {
    char run_dir[512], cache_dir[512];
    fixture_path(run_dir, attempt->run);
    fixture_path(cache_dir, "cache");
    struct dd_pool *pool = NULL;
    must(dd_pool_new(DD_MAX(attempt->threads, 1), &pool, &attempt->err), &attempt->err);
    attempt->recorder.cancel = &attempt->cancel;
    bool scratch = !attempt->base;
    struct dd_train_input input = {
        .spec = &attempt->spec,
        .dataset = attempt->dataset ? attempt->dataset : fixture_dataset,
        .base = attempt->base,
        .init = attempt->init,
        .vocab = scratch ? fixture_vocab : NULL,
        .vocab_bytes = scratch ? fixture_vocab_bytes : 0,
        .vocab_options = {.do_lower_case = true, .strip_accents = true, .tokenize_chinese_chars = true},
        .pool = pool,
        .run_dir = run_dir,
        .cache_dir = cache_dir,
        .cancel = &attempt->cancel,
        .checkpoint_seconds = attempt->checkpoint_seconds,
        .states_bytes = attempt->states_bytes,
        .card_title = "a tiny model",
        .events = recorder_events(&attempt->recorder)};
    memcpy(input.teachers, attempt->teachers, sizeof input.teachers);
    enum dd_status status = dd_train(&input, &attempt->result, &attempt->err);
    dd_pool_free(pool);
    return status;
}

/* Waits for a child that trains: true when it came to its end, false when it was killed; nothing else may happen. */
static inline bool child_ended(pid_t pid) {
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        assert_int_equal(WTERMSIG(status), SIGKILL);
        return false;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}

/* One attempt in a child that is killed in its kill_at-th callback; true when it reached the end. */
static inline bool attempt_in_child(void init(struct attempt *attempt, const char *run, int number), const char *run,
                                    int number, int kill_at) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct attempt attempt;
        init(&attempt, run, number);
        attempt.recorder.kill_at = kill_at;
        attempt.checkpoint_seconds = 1e-9;
        _exit(attempt_train(&attempt) == DD_OK ? 0 : 1);
    }
    return child_ended(pid);
}

/* A small classifier with drawn weights, not from a file. */
static inline struct dd_model *drawn_model(int layers, uint64_t seed) {
    struct dd_error err;
    struct dd_model *model = dd_calloc(1, sizeof *model);
    assert_non_null(model);
    const struct dd_tokenizer_options options = {true, true, true};
    must(dd_tokenizer_new(fixture_vocab, fixture_vocab_bytes, &options, &model->tokenizer, &err), &err);
    struct dd_model_info *info = &model->info;
    info->kind = DD_MODEL_CLASSIFIER;
    info->config = (struct dd_bert_config){.vocab_size = dd_tokenizer_size(model->tokenizer),
                                           .hidden_size = 16,
                                           .layers = layers,
                                           .heads = 2,
                                           .intermediate_size = 32,
                                           .max_positions = 64,
                                           .type_vocab_size = 2,
                                           .n_labels = FIXTURE_CLASSES,
                                           .hidden_act = "gelu",
                                           .layer_norm_eps = 1e-12,
                                           .initializer_range = 0.3,
                                           .classifier_dropout = NAN};
    info->has_pooler = info->has_tokenizer = info->do_lower_case = true;
    info->n_labels = FIXTURE_CLASSES;
    for (int l = 0; l < FIXTURE_CLASSES; l++) {
        snprintf(info->labels[l], sizeof info->labels[l], "%s", dd_dataset_class(fixture_dataset, l));
    }
    must(dd_params_new(&info->config, &model->params, &err), &err);
    dd_params_init(model->params, &info->config, seed);
    snprintf(info->sha256, sizeof info->sha256, "%064llu", (unsigned long long)seed);
    return model;
}

/* A small trained classifier, for distillation; made once. */
static inline struct dd_model *fixture_teacher(void) {
    struct attempt attempt = {.run = "teacher", .threads = 1, .spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW)};
    attempt.spec.layers = 3;
    must(attempt_train(&attempt), &attempt.err);
    struct dd_model *model = NULL;
    must(dd_model_load(attempt.result.best_dir, &model, &attempt.err), &attempt.err);
    return model;
}

#endif
