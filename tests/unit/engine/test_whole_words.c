/* Whole words in a student's vocabulary: which are added, how they begin, that rows say the same in both spellings, and
 * that a run with them is as repeatable as any other. */
#include "engine/words.h"
#include "train_fixture.h"

#define TRAIN 70
#define COPIES 2
#define ROWS ((TRAIN + FIXTURE_UNLABELLED) * (1 + COPIES))
#define EPOCHS 2
#define STEPS (EPOCHS * 42)

static const struct dd_tokenizer_options lower = {true, true, true};

static struct dd_tokenizer *tokenizer_of(const char *vocab) {
    struct dd_tokenizer *tokenizer = NULL;
    struct dd_error err;
    must(dd_tokenizer_new(vocab, strlen(vocab), &lower, &tokenizer, &err), &err);
    return tokenizer;
}

/* Not ended by a newline, as some vocab.txt are. */
static const char pieces[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfire\nwall\nun\nfire\n##wall\n##s\n##happy\nx\n##y\n中";

static struct dd_dataset *dataset_of(const char *name, const char *train, const char *unlabelled) {
    char paths[3][512], dir[512], file[64];
    const char *const texts[] = {train, "fire\tb\n", unlabelled};
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s-%d.tsv", name, i);
        fixture_path(paths[i], file);
        struct dd_error err;
        must(dd_file_write_durable(paths[i], texts[i], strlen(texts[i]), &err), &err);
    }
    fixture_path(dir, name);
    const struct dd_import import = {
        .paths = {[DD_SPLIT_TRAIN] = paths[0], [DD_SPLIT_DEV] = paths[1], [DD_SPLIT_UNLABELLED] = paths[2]},
        .file_names = {[DD_SPLIT_TRAIN] = "train.tsv", [DD_SPLIT_DEV] = "dev.tsv", [DD_SPLIT_UNLABELLED] = "u.txt"}};
    static struct dd_import_report report;
    struct dd_dataset *dataset = NULL;
    struct dd_error err;
    must(dd_dataset_import(&import, dir, &report, &err), &err);
    must(dd_dataset_open(dir, &dataset, &err), &err);
    return dataset;
}

static void check_added(const struct dd_dataset *dataset, bool unlabelled, int most, const char *const *words) {
    struct dd_tokenizer *base = tokenizer_of(pieces), *own = NULL;
    struct dd_error err;
    must(dd_whole_words_new(dataset, unlabelled, base, most, &own, &err), &err);
    int id = 0;
    for (; id < dd_tokenizer_size(base); id++) {
        assert_string_equal(dd_tokenizer_token(own, id), dd_tokenizer_token(base, id));
    }
    for (; *words; words++, id++) {
        assert_string_equal(dd_tokenizer_token(own, id), *words);
    }
    assert_int_equal(dd_tokenizer_size(own), id);
    dd_tokenizer_free(own);
    dd_tokenizer_free(base);
}

static void test_which_are_added(void **state) {
    (void)state;
    /* One entry already ("fire"), once only ("walls"), no entry fits ("zebra"), ideographs apart. */
    struct dd_dataset *dataset = dataset_of("added",
                                            "Firewalls fire FIREWALL xy zebra 中中\ta\n"
                                            "firewall firewalls unhappy xy zebra\tb\n"
                                            "firewall walls unhappy fire 中中\ta\n",
                                            "unhappys unhappys unhappys walls\n");
    check_added(dataset, false, 100, (const char *const[]){"firewall", "firewalls", "unhappy", "xy", NULL});
    check_added(dataset, false, 2, (const char *const[]){"firewall", "firewalls", NULL});
    check_added(dataset, true, 100,
                (const char *const[]){"firewall", "unhappys", "firewalls", "unhappy", "walls", "xy", NULL});
    dd_dataset_free(dataset);
    dataset = dataset_of("nothing", "fire wall\ta\nfire un\tb\nwall un\ta\n", "x\n");
    check_added(dataset, true, 100, (const char *const[]){NULL});
    dd_dataset_free(dataset);
}

static void test_a_word_begins_as_the_mean_of_its_pieces(void **state) {
    (void)state;
    char longer[256];
    snprintf(longer, sizeof longer, "%s\nfirewalls\nxy\n", pieces);
    struct dd_tokenizer *base = tokenizer_of(pieces), *own = tokenizer_of(longer);
    enum { BASE = 15, HIDDEN = 2 };
    float from[BASE * HIDDEN], to[(BASE + 2) * HIDDEN];
    for (int i = 0; i < BASE * HIDDEN; i++) {
        from[i] = (float)(i * i);
    }
    for (int i = 0; i < (BASE + 2) * HIDDEN; i++) {
        to[i] = -1.0f;
    }
    dd_whole_words_embed(base, own, HIDDEN, from, to);
    for (int i = 0; i < BASE * HIDDEN; i++) {
        assert_true(to[i] == -1.0f);
    }
    /* fire is line 8: of an entry that stands twice the last counts. */
    static const int firewalls[] = {8, 9, 10}, xy[] = {12, 13};
    for (int h = 0; h < HIDDEN; h++) {
        float a = from[firewalls[0] * HIDDEN + h] + from[firewalls[1] * HIDDEN + h] + from[firewalls[2] * HIDDEN + h];
        assert_true(to[BASE * HIDDEN + h] == a / 3.0f);
        assert_true(to[(BASE + 1) * HIDDEN + h] == (from[xy[0] * HIDDEN + h] + from[xy[1] * HIDDEN + h]) / 2.0f);
    }
    dd_tokenizer_free(base);
    dd_tokenizer_free(own);
}

/* --- rows ------------------------------------------------------------------------------------------------------- */

static const struct example examples[] = {
    {"fire firewall firewalls wall walls", NULL, 0},
    {"unhappy zebra xy中x", NULL, 1},
    {"", NULL, 2},
    {"firewalls", "walls xyyy unhappyfirewalls", 3},
    {"firewalls firewalls firewalls firewalls firewalls", NULL, 4},
};
#define EXAMPLES ((uint32_t)DD_ARRAY_LEN(examples))

static void test_respelled_rows_are_those_of_the_texts(void **state) {
    (void)state;
    char longer[256];
    snprintf(longer, sizeof longer, "%s\nfirewall\nfirewalls\nunhappy\nxy\n", pieces);
    struct dd_tokenizer *base = tokenizer_of(pieces), *own = tokenizer_of(longer);
    struct dd_packed theirs = pack_examples(base, examples, EXAMPLES, 32),
                     ours = pack_examples(own, examples, EXAMPLES, 32);
    struct dd_packed spelled = pack_examples(own, examples, 2, 32);
    struct dd_error err;
    must(dd_packed_respell(&theirs, 2, base, own, 32, &spelled, &err), &err);
    assert_true(ours.n_tokens < theirs.n_tokens);
    assert_int_equal(spelled.rows, EXAMPLES);
    assert_int_equal(spelled.n_tokens, ours.n_tokens);
    assert_int_equal(spelled.longest, ours.longest);
    assert_memory_equal(spelled.offsets, ours.offsets, (EXAMPLES + 1) * sizeof *ours.offsets);
    assert_memory_equal(spelled.ids, ours.ids, ours.n_tokens * sizeof *ours.ids);
    assert_memory_equal(spelled.segments, ours.segments, ours.n_tokens);
    assert_memory_equal(spelled.labels, ours.labels, EXAMPLES * sizeof *ours.labels);
    dd_packed_release(&theirs);
    dd_packed_release(&ours);
    dd_packed_release(&spelled);
    dd_tokenizer_free(base);
    dd_tokenizer_free(own);
}

/* What has no text of its own: masks, pieces without a beginning, and a word that a longer first piece cuts finer. */
static void test_respelling_leaves_the_rest_alone(void **state) {
    (void)state;
    static const char few[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nab\n##c\n##d\n##cd\n##cdd\n";
    char more[128];
    snprintf(more, sizeof more, "%sabc\n", few);
    struct dd_tokenizer *base = tokenizer_of(few), *own = tokenizer_of(more);
    enum { MASK = 4, AB = 6, C = 7, D = 8, CDD = 10, ABC = 11 };
    int32_t ids[] = {2, MASK, C, AB, C, MASK, AB, CDD, 3, 2, AB, CDD, AB, CDD, 3};
    uint8_t segments[DD_ARRAY_LEN(ids)] = {0};
    uint64_t offsets[] = {0, 9, 15};
    int32_t labels[] = {-1, -1};
    const struct dd_packed from = {.rows = 2,
                                   .n_tokens = DD_ARRAY_LEN(ids),
                                   .longest = 9,
                                   .ids = ids,
                                   .segments = segments,
                                   .offsets = offsets,
                                   .labels = labels};
    const struct example none[] = {{"a", NULL, 0}};
    struct dd_packed to = pack_examples(own, none, 1, 8);
    struct dd_error err;
    must(dd_packed_respell(&from, 0, base, own, 9, &to, &err), &err);
    static const int32_t wanted[] = {2, MASK, C, ABC, MASK, ABC, D, D, 3, 2, ABC, D, D, ABC, D, D, 3};
    assert_int_equal(to.n_tokens, 3 + DD_ARRAY_LEN(wanted));
    assert_memory_equal(to.ids + 3, wanted, sizeof wanted);
    assert_int_equal(to.longest, 9);
    dd_packed_release(&to);
    to = pack_examples(own, none, 1, 8); /* the second no longer fits */
    must(dd_packed_respell(&from, 1, base, own, 6, &to, &err), &err);
    assert_int_equal(to.n_tokens, 3 + 6);
    assert_memory_equal(to.ids + 3, ids + 9, 6 * sizeof *ids);
    dd_packed_release(&to);
    dd_tokenizer_free(base);
    dd_tokenizer_free(own);
}

/* --- a student and its run -------------------------------------------------------------------------------------- */

static struct dd_model *teacher;
static struct history undisturbed;

static struct dd_spec words_spec(void) {
    struct dd_spec spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW);
    spec.init = DD_INIT_TEACHER;
    spec.epochs = EPOCHS;
    spec.whole_words = 30;
    spec.cls_weight = 1.0;
    spec.unlabelled = DD_FLAG_YES;
    spec.augment = COPIES;
    spec.augment_unlabelled = DD_FLAG_YES;
    spec.augment_replace = 0.3;
    spec.augment_mask = 0.2;
    spec.augment_ngram = 0.3;
    return spec;
}

static void attempt_init(struct attempt *attempt, const char *run, int number) {
    *attempt = (struct attempt){.run = run, .threads = 1, .base = teacher, .spec = words_spec()};
    char name[160];
    snprintf(name, sizeof name, "%s-attempt-%d.bin", run, number);
    fixture_path(attempt->recorder.path, name);
}

/* The texts' words are w0 … w59; this vocabulary cuts those of two digits. */
static int set_up(void **state) {
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    struct dd_buffer vocab;
    dd_buffer_init(&vocab, 1 << 16);
    dd_buffer_puts(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    for (int digit = 0; digit < 10; digit++) {
        dd_buffer_printf(&vocab, "w%d\n##%d\n", digit, digit);
    }
    free(fixture_vocab);
    fixture_vocab = dd_buffer_take(&vocab, &fixture_vocab_bytes);
    teacher = fixture_teacher();
    struct attempt attempt;
    attempt_init(&attempt, "undisturbed", 0);
    must(attempt_train(&attempt), &attempt.err);
    assert_int_equal(attempt.result.steps_done, STEPS);
    history_fold(&undisturbed, attempt.recorder.path);
    return 0;
}

static int tear_down(void **state) {
    dd_model_free(teacher);
    return fixture_tear_down(state);
}

static struct dd_model *student_of(const struct dd_spec *spec) {
    struct dd_train_input input = {.spec = spec, .dataset = fixture_dataset, .base = teacher};
    struct dd_run run = {.input = &input, .spec = spec, .n_classes = FIXTURE_CLASSES, .run_fd = -1};
    struct dd_model *student = NULL;
    struct dd_error err;
    must(dd_student_new(&run, &student, &err), &err);
    return student;
}

static const float *words_of(const struct dd_model *model) {
    return model->params->slab + dd_params_find(model->params, "bert.embeddings.word_embeddings.weight")->offset;
}

static void test_a_student_starts_with_both(void **state) {
    (void)state;
    struct dd_spec spec = words_spec();
    struct dd_model *student = student_of(&spec);
    int before = teacher->info.config.vocab_size, width = 16;
    assert_int_equal(before, 25);
    assert_int_equal(student->info.config.vocab_size, 25 + 30);
    assert_int_equal(dd_tokenizer_size(student->tokenizer), 25 + 30);
    const float *theirs = words_of(teacher), *ours = words_of(student);
    assert_memory_equal(theirs, ours, (size_t)before * 16 * sizeof *ours);
    for (int id = before; id < before + 30; id++) {
        const char *word = dd_tokenizer_token(student->tokenizer, id); /* "w42": w4 and ##2 */
        assert_int_equal(strlen(word), 3);
        int first = 5 + 2 * (word[1] - '0'), second = 5 + 2 * (word[2] - '0') + 1;
        for (int h = 0; h < width; h++) {
            assert_true(ours[id * width + h] == (theirs[first * width + h] + theirs[second * width + h]) / 2.0f);
        }
    }
    const struct dd_tensor *pooler = dd_params_find(teacher->params, "bert.pooler.dense.weight");
    const struct dd_tensor *copied = dd_params_find(student->params, "bert.pooler.dense.weight");
    assert_memory_equal(teacher->params->slab + pooler->offset, student->params->slab + copied->offset,
                        pooler->count * sizeof(float));
    dd_model_free(student);
    /* Drawn ones may have them too. */
    spec.init = DD_INIT_RANDOM;
    student = student_of(&spec);
    assert_int_equal(student->info.config.vocab_size, 25 + 30);
    assert_memory_not_equal(words_of(student) + 5 * width, theirs + 5 * width, 16 * sizeof *ours);
    dd_model_free(student);
}

/* A student with its own words is a teacher like any other; its student has them and needs none. */
static void test_a_student_teaches(void **state) {
    (void)state;
    char dir[512];
    struct dd_model *assistant = NULL;
    struct attempt attempt;
    fixture_path(dir, "undisturbed/last");
    must(dd_model_load(dir, &assistant, &attempt.err), &attempt.err);
    attempt_init(&attempt, "taught", 0);
    attempt.base = assistant;
    attempt.spec.epochs = 1;
    attempt.spec.whole_words = 100;
    attempt.spec.layers = 1;
    must(attempt_train(&attempt), &attempt.err);
    fixture_path(dir, "taught/last");
    struct dd_model *taught = NULL;
    must(dd_model_load(dir, &taught, &attempt.err), &attempt.err);
    assert_true(taught->info.config.vocab_size >= assistant->info.config.vocab_size);
    dd_model_free(taught);
    dd_model_free(assistant);
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
    same_file(a, b, "last/vocab.txt");
    same_file(a, b, "last/README.md");
}

static void test_threads_make_the_same_bits(void **state) {
    (void)state;
    struct attempt attempt;
    attempt_init(&attempt, "threads", 0);
    attempt.threads = 4;
    must(attempt_train(&attempt), &attempt.err);
    same_as_undisturbed("threads", 1);
}

static void test_kills_leave_no_trace(void **state) {
    (void)state;
    static const int kills[] = {7, 30, 21};
    int n = 0;
    for (; n < (int)DD_ARRAY_LEN(kills); n++) {
        assert_false(attempt_in_child(attempt_init, "killed", n, kills[n]));
    }
    assert_true(attempt_in_child(attempt_init, "killed", n++, 0));
    same_as_undisturbed("killed", n);
}

/* The dev rows as predict reads them from their texts, by the exported model alone. */
static void test_the_exported_model_answers_as_the_run_did(void **state) {
    (void)state;
    char dir[512];
    struct dd_model *student = NULL;
    struct dd_pool *pool = NULL;
    struct dd_predictor *predictor = NULL;
    struct dd_error err;
    fixture_path(dir, "undisturbed/last");
    must(dd_model_load(dir, &student, &err), &err);
    must(dd_pool_new(1, &pool, &err), &err);
    must(dd_predictor_new(student, pool, 12, &predictor, &err), &err);
    const struct epoch_record *last = &undisturbed.epochs[EPOCHS];
    struct dd_row rows[RECORD_DEV];
    float logits[RECORD_DEV * FIXTURE_CLASSES];
    for (size_t r = 0; r < last->n_dev; r++) {
        dd_dataset_row(fixture_dataset, DD_SPLIT_DEV, r, &rows[r]);
    }
    must(dd_predict(predictor, rows, last->n_dev, NULL, logits, &err), &err);
    for (size_t r = 0; r < last->n_dev; r++) {
        int best = 0;
        for (int c = 1; c < FIXTURE_CLASSES; c++) {
            best = logits[r * FIXTURE_CLASSES + (size_t)c] > logits[r * FIXTURE_CLASSES + (size_t)best] ? c : best;
        }
        assert_int_equal(best, last->label[r]);
    }
    dd_predictor_free(predictor);
    dd_pool_free(pool);
    dd_model_free(student);
}

static void test_what_is_matched_token_by_token_is_refused(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct attempt attempt;
        attempt_init(&attempt, "refused", i);
        attempt.spec.relation_heads = 2;
        *(i == 0   ? &attempt.spec.hidden_weight
          : i == 1 ? &attempt.spec.attention_weight
                   : &attempt.spec.relation_weight) = 1.0;
        assert_int_equal(attempt_train(&attempt), DD_INVALID);
        assert_string_equal(attempt.err.code, "whole_words_invalid");
    }
}

static void test_estimate_counts_them(void **state) {
    (void)state;
    struct dd_spec with = words_spec(), without = words_spec();
    without.whole_words = 0;
    struct dd_train_estimate a, b;
    struct dd_error err;
    must(dd_train_estimate(&without, fixture_dataset, &teacher->info.config, NULL, 1, &a, &err), &err);
    must(dd_train_estimate(&with, fixture_dataset, &teacher->info.config, NULL, 1, &b, &err), &err);
    assert_int_equal(b.parameters, a.parameters + 30 * 16);
    assert_true(b.memory_bytes > a.memory_bytes + ROWS * 16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which_are_added),
        cmocka_unit_test(test_a_word_begins_as_the_mean_of_its_pieces),
        cmocka_unit_test(test_respelled_rows_are_those_of_the_texts),
        cmocka_unit_test(test_respelling_leaves_the_rest_alone),
        cmocka_unit_test(test_a_student_starts_with_both),
        cmocka_unit_test(test_a_student_teaches),
        cmocka_unit_test(test_threads_make_the_same_bits),
        cmocka_unit_test(test_kills_leave_no_trace),
        cmocka_unit_test(test_the_exported_model_answers_as_the_run_did),
        cmocka_unit_test(test_what_is_matched_token_by_token_is_refused),
        cmocka_unit_test(test_estimate_counts_them),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
