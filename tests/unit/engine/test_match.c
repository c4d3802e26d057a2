/* Matching of inner states: its gradients against finite differences, where the teacher's states come from, and whole
 * runs, which must make the same bits with any threads and any interruptions. */
#include "train_fixture.h"

#define EPOCHS 4
#define STEPS 36
#define WIDTH 8 /* of a student that is narrower than the teacher */

static struct dd_model *teacher;
static struct dd_pool *pool;
static struct dd_team *team;
static struct dd_packed packed;
static struct recorder recorder;

/* --- the gradient ----------------------------------------------------------------------------------------------- */

static const struct dd_bert_config student_config = {.vocab_size = 65,
                                                     .hidden_size = WIDTH,
                                                     .layers = 2,
                                                     .heads = 2,
                                                     .intermediate_size = 20,
                                                     .max_positions = 64,
                                                     .type_vocab_size = 2,
                                                     .n_labels = FIXTURE_CLASSES,
                                                     .hidden_act = "gelu",
                                                     .layer_norm_eps = 1e-12,
                                                     .initializer_range = 0.3,
                                                     .classifier_dropout = NAN};

struct bench { /* a student of one batch and what it is matched with */
    struct dd_params *params, *grads;
    struct dd_bert *bert;
    struct dd_match *match;
    struct dd_gather gather;
    float logits[16 * FIXTURE_CLASSES];
};

static void bench_init(struct bench *bench, double hidden_weight, double cls_weight, int teacher_width) {
    static const uint32_t rows[] = {5, 0, 17, 30};
    const struct dd_match_spec spec = {.hidden_weight = hidden_weight,
                                       .cls_weight = cls_weight,
                                       .layers = student_config.layers,
                                       .width = WIDTH,
                                       .teacher_width = teacher_width};
    int projection = teacher_width != WIDTH ? teacher_width : 0;
    struct dd_error err;
    must(dd_params_new_projected(&student_config, projection, &bench->params, &err), &err);
    must(dd_params_new_projected(&student_config, projection, &bench->grads, &err), &err);
    dd_params_init(bench->params, &student_config, 3);
    must(dd_gather_init(&bench->gather, 64, 4, &err), &err);
    dd_gather_rows(&bench->gather, &packed, rows, 4);
    must(dd_bert_new(&student_config, 64, 4, 16, true, DD_PRECISION_FP32, team, &bench->bert, &err), &err);
    must(dd_match_new(&spec, 64, 4, team, &bench->match, &err), &err);
    unsigned seed = 5;
    for (int state = 0; state <= student_config.layers; state++) {
        float *const out[] = {dd_match_tokens(bench->match, state), dd_match_cls(bench->match, state)};
        const int counts[] = {bench->gather.batch.n_tokens, 4};
        for (int k = 0; k < 2; k++) {
            for (int i = 0; out[k] && i < counts[k] * teacher_width; i++) {
                out[k][i] = (float)(fixture_random(&seed) % 2000) / 1000.0f - 1.0f;
            }
        }
    }
}

static void bench_release(struct bench *bench) {
    dd_match_free(bench->match);
    dd_bert_free(bench->bert);
    dd_gather_release(&bench->gather);
    dd_params_free(bench->params);
    dd_params_free(bench->grads);
}

static struct dd_match_loss bench_loss(struct bench *bench) {
    const struct dd_dropout off = {.on = false};
    dd_bert_forward(bench->bert, bench->params, &bench->gather.batch, &off, bench->logits);
    return dd_match_run(bench->match, bench->bert, bench->params, &bench->gather.batch, bench->grads);
}

/* For each tensor: the loss along a direction of it, by differences and by the gradient. */
static void check_gradient(double hidden_weight, double cls_weight, int teacher_width) {
    struct bench bench = {0};
    bench_init(&bench, hidden_weight, cls_weight, teacher_width);
    struct dd_match_loss loss = bench_loss(&bench);
    near_double(loss.total, hidden_weight * loss.hidden + cls_weight * loss.cls, 1e-12);
    assert_int_equal(loss.hidden > 0, hidden_weight > 0);
    assert_int_equal(loss.cls > 0, cls_weight > 0);
    const struct dd_dropout off = {.on = false};
    static const float no_gradient[16 * FIXTURE_CLASSES];
    dd_bert_backward(bench.bert, bench.params, &bench.gather.batch, &off, no_gradient, bench.grads);
    struct dd_params copy = *bench.grads; /* bench_loss writes the projection's again */
    copy.slab = dd_calloc(copy.count, sizeof(float));
    memcpy(copy.slab, bench.grads->slab, copy.count * sizeof(float));
    for (int t = 0; t < bench.params->n_tensors; t++) {
        const struct dd_tensor *tensor = &bench.params->tensors[t];
        float *value = bench.params->slab + tensor->offset;
        const float *gradient = copy.slab + tensor->offset;
        double slope = 0, length = 0, ends[2];
        unsigned seed = (unsigned)t;
        for (size_t i = 0; i < tensor->count; i++) {
            double d = (double)(fixture_random(&seed) % 3) - 1.0;
            slope += d * (double)gradient[i];
            length += d * d;
        }
        float step = (float)(0.01 / sqrt(DD_MAX(length, 1.0)));
        for (int end = 0; end < 2; end++) {
            float *kept = dd_calloc(tensor->count, sizeof *kept);
            memcpy(kept, value, tensor->count * sizeof *kept);
            seed = (unsigned)t;
            for (size_t i = 0; i < tensor->count; i++) {
                value[i] += (end ? step : -step) * (float)((int)(fixture_random(&seed) % 3) - 1);
            }
            ends[end] = bench_loss(&bench).total;
            memcpy(value, kept, tensor->count * sizeof *kept);
            free(kept);
        }
        double measured = (ends[1] - ends[0]) / (2.0 * (double)step);
        if (fabs(measured - slope) > 2e-3 + 2e-2 * fabs(slope)) {
            fail_msg("%s: the gradient says %g, differences say %g", tensor->name, slope, measured);
        }
    }
    free(copy.slab);
    bench_release(&bench);
}

static void test_gradients_are_those_of_the_loss(void **state) {
    (void)state;
    check_gradient(1.0, 0.0, WIDTH);
    check_gradient(0.0, 1.0, WIDTH);
    check_gradient(1.0, 0.0, 12);
    check_gradient(0.0, 1.0, 12);
    check_gradient(0.5, 2.0, 5);
}

static void test_equal_states_cost_nothing(void **state) {
    (void)state;
    struct bench bench = {0};
    bench_init(&bench, 1.0, 1.0, WIDTH);
    (void)bench_loss(&bench);
    const struct dd_batch *batch = &bench.gather.batch;
    for (int s = 0; s <= student_config.layers; s++) {
        const float *own = dd_bert_state(bench.bert, s);
        float *tokens = dd_match_tokens(bench.match, s), *cls = dd_match_cls(bench.match, s);
        assert_int_equal(tokens != NULL, s < student_config.layers);
        assert_int_equal(cls != NULL, s > 0);
        if (tokens) {
            memcpy(tokens, own, (size_t)batch->n_tokens * WIDTH * sizeof *own);
        }
        for (int r = 0; cls && r < batch->n_sequences; r++) {
            int at = s == student_config.layers ? r : batch->offsets[r];
            memcpy(cls + (size_t)r * WIDTH, own + (size_t)at * WIDTH, WIDTH * sizeof *own);
        }
    }
    struct dd_match_loss loss = bench_loss(&bench);
    near_double(loss.hidden, 0, 0);
    near_double(loss.cls, 0, 1e-12);
    bench_release(&bench);
}

/* --- the teacher's states --------------------------------------------------------------------------------------- */

static float *states_of(const struct dd_states_wanted *wanted, bool *ret_computed) {
    struct dd_train_events events = recorder_events(&recorder);
    struct dd_error err;
    float *states = NULL;
    char cache_dir[512];
    fixture_path(cache_dir, "states");
    must(dd_states_cached(wanted, teacher, &packed, 12, cache_dir, pool, &events, NULL, NULL, &states, ret_computed,
                          &err),
         &err);
    return states;
}

/* Every row's states are those of a forward of this row alone, whatever batch it was asked in. */
static void test_states_are_the_teachers(void **state) {
    (void)state;
    static const struct dd_states_wanted wanted[] = {{.tokens = false, .n = 3, .state = {1, 2, 3}},
                                                     {.tokens = true, .n = 3, .state = {0, 3, 2}}};
    size_t width = (size_t)teacher->info.config.hidden_size;
    for (int k = 0; k < 2; k++) {
        bool computed = false, again = true;
        float *all = states_of(&wanted[k], &computed), *cached = states_of(&wanted[k], &again);
        assert_true(computed && !again);
        size_t units = k == 0 ? packed.rows : (size_t)packed.n_tokens;
        assert_memory_equal(all, cached, units * 3 * width * sizeof *all);
        struct dd_gather gather;
        struct dd_asker asker;
        struct dd_error err;
        must(dd_gather_init(&gather, 16, 1, &err), &err);
        must(dd_asker_init(&asker, teacher, 16, 1, 12, team, &err), &err);
        float out[3][16 * 16];
        for (int i = 0; i < 3; i++) {
            asker.wanted[asker.n_wanted++] =
                (struct dd_wanted_state){.state = wanted[k].state[i], .cls = !wanted[k].tokens, .out = out[i]};
        }
        for (uint32_t row = 0; row < packed.rows; row++) {
            dd_gather_rows(&gather, &packed, &row, 1);
            dd_asker_ask(&asker, &gather.batch);
            size_t from = k == 0 ? row : (size_t)packed.offsets[row];
            size_t count = k == 0 ? 1 : (size_t)gather.batch.n_tokens;
            for (size_t u = 0; u < count; u++) {
                for (size_t i = 0; i < 3 * width; i++) {
                    near_double(all[(from + u) * 3 * width + i], out[i / width][u * width + i % width], 1e-5);
                }
            }
        }
        dd_asker_release(&asker);
        dd_gather_release(&gather);
        free(all);
        free(cached);
    }
}

static void test_other_states_are_other_entries(void **state) {
    (void)state;
    static const struct dd_states_wanted one = {.n = 2, .state = {1, 2}}, two = {.n = 2, .state = {2, 1}},
                                         tokens = {.tokens = true, .n = 2, .state = {1, 2}};
    const struct dd_states_wanted *const all[] = {&one, &two, &tokens};
    for (int i = 0; i < 3; i++) {
        bool computed = false;
        free(states_of(all[i], &computed));
        assert_true(computed);
    }
}

/* --- runs ------------------------------------------------------------------------------------------------------- */

static void matching_attempt(struct attempt *attempt, const char *run, int number, uint64_t states_bytes) {
    *attempt = (struct attempt){.base = teacher,
                                .run = run,
                                .threads = 1 + number % 3,
                                .states_bytes = states_bytes,
                                .spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW)};
    attempt->spec.hidden_weight = 0.5;
    attempt->spec.cls_weight = 0.25;
    attempt->spec.hidden_size = WIDTH;
    attempt->spec.n_layer_map = 2;
    attempt->spec.layer_map[0] = 1;
    attempt->spec.layer_map[1] = 0;
    char name[64];
    snprintf(name, sizeof name, "%s-%d.bin", run, number);
    fixture_path(attempt->recorder.path, name);
}

static int run_to_the_end(const char *run, uint64_t states_bytes, const int *points, double hidden_weight,
                          double cls_weight, struct history *history) {
    memset(history, 0, sizeof *history);
    for (int n = 0;; n++) {
        struct attempt attempt;
        matching_attempt(&attempt, run, n, states_bytes);
        attempt.spec.hidden_weight = hidden_weight;
        attempt.spec.cls_weight = cls_weight;
        attempt.recorder.stop_at = points[n];
        attempt.recorder.stop = n % 2 ? DD_STOP_CANCEL : DD_STOP_PAUSE;
        enum dd_status status = attempt_train(&attempt);
        history_fold(history, attempt.recorder.path);
        if (status == DD_OK) {
            return n;
        }
        if (status != DD_STOPPED) {
            must(status, &attempt.err);
        }
    }
}

static void test_interruptions_and_threads_leave_no_trace(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double hidden, cls;
        uint64_t states_bytes; /* 1: the teacher runs in every step */
    } kinds[] = {{"kept", 0.5, 0.25, 0}, {"asked", 0.5, 0.25, 1}, {"cls", 0, 1, 0}};
    static const int none[1] = {0}, points[] = {3, 12, 4, 9, 0};
    static struct history straight, paused;
    for (size_t k = 0; k < DD_ARRAY_LEN(kinds); k++) {
        char a[64], b[64], path_a[512], path_b[512];
        snprintf(a, sizeof a, "%s-straight", kinds[k].name);
        snprintf(b, sizeof b, "%s-paused", kinds[k].name);
        assert_int_equal(run_to_the_end(a, kinds[k].states_bytes, none, kinds[k].hidden, kinds[k].cls, &straight), 0);
        assert_int_equal(run_to_the_end(b, kinds[k].states_bytes, points, kinds[k].hidden, kinds[k].cls, &paused), 4);
        history_same(&straight, &paused, EPOCHS, STEPS);
        fixture_path(path_a, a);
        fixture_path(path_b, b);
        same_file(path_a, path_b, "last/model.safetensors");
        const struct dd_epoch_metrics *first = &straight.epochs[1].metrics, *last = &straight.epochs[EPOCHS].metrics;
        assert_int_equal(isnan(first->train_hidden) != 0, kinds[k].hidden == 0);
        assert_true(last->train_cls > 0 && last->train_cls < first->train_cls);
        if (kinds[k].hidden > 0) {
            assert_true(last->train_hidden > 0 && last->train_hidden < first->train_hidden);
        }
        const struct dd_step_metrics *s = &straight.steps[5];
        assert_true(s->loss > 0.3 * s->kl + 0.7 * s->ce + 1e-3);
    }
}

static void test_kept_and_asked_states_are_the_same(void **state) {
    (void)state;
    static const int none[1] = {0};
    static struct history kept, asked;
    (void)run_to_the_end("near-kept", 0, none, 0.5, 0.25, &kept);
    (void)run_to_the_end("near-asked", 1, none, 0.5, 0.25, &asked);
    for (int s = 1; s <= STEPS; s++) {
        near_double(kept.steps[s].loss, asked.steps[s].loss, 1e-3);
    }
    near_double(kept.steps[1].loss, asked.steps[1].loss, 1e-5);
}

static void test_the_projection_is_not_exported(void **state) {
    (void)state;
    struct attempt attempt;
    matching_attempt(&attempt, "exported", 0, 0);
    attempt.spec.epochs = 1;
    must(attempt_train(&attempt), &attempt.err);
    struct dd_model *model = NULL;
    must(dd_model_load(attempt.result.last_dir, &model, &attempt.err), &attempt.err);
    assert_int_equal(model->info.config.hidden_size, WIDTH);
    assert_int_equal(model->info.parameters, attempt.result.parameters);
    dd_model_free(model);
    char path[4200], *bytes = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "%s/model.safetensors", attempt.result.last_dir);
    must(dd_file_read(path, 1 << 24, &bytes, &len, &attempt.err), &attempt.err);
    uint64_t header = 0;
    memcpy(&header, bytes, sizeof header);
    assert_true(header < len - 8);
    bytes[8 + header] = '\0';
    assert_non_null(strstr(bytes + 8, "classifier.weight"));
    assert_null(strstr(bytes + 8, "match"));
    free(bytes);
}

static void test_bf16_matches_too(void **state) {
    (void)state;
    if (!dd_engine_has_bf16()) {
        print_message("no bf16 on this machine\n");
        skip();
    }
    static const int none[1] = {0};
    static struct history full, half;
    (void)run_to_the_end("full", 0, none, 0.5, 0.25, &full);
    memset(&half, 0, sizeof half);
    struct attempt attempt;
    matching_attempt(&attempt, "half", 0, 0);
    attempt.spec.precision = DD_PRECISION_BF16;
    must(attempt_train(&attempt), &attempt.err);
    history_fold(&half, attempt.recorder.path);
    for (int s = 1; s <= STEPS; s++) {
        assert_true(full.steps[s].loss != half.steps[s].loss);
        near_double(full.steps[s].loss, half.steps[s].loss, 0.1);
    }
}

/* A trained student collapses as lr rises; its best epoch's directory has no projection. */
static void collapsing_attempt(struct attempt *attempt, const struct dd_model *wide, const char *run, int number) {
    *attempt = (struct attempt){.base = wide,
                                .init = teacher,
                                .run = run,
                                .threads = 1 + number % 3,
                                .spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW)};
    attempt->spec.init = DD_INIT_MODEL;
    snprintf(attempt->spec.init_model, sizeof attempt->spec.init_model, "teacher");
    attempt->spec.layers = 3;
    attempt->spec.epochs = 6;
    attempt->spec.hidden_weight = 0.01;
    attempt->spec.cls_weight = 0.01;
    attempt->spec.guard = DD_FLAG_YES;
    attempt->spec.optimizer.lr = 0.1;
    attempt->spec.optimizer.warmup = 1;
    attempt->spec.optimizer.max_grad_norm = 0;
    char name[64];
    snprintf(name, sizeof name, "%s-%d.bin", run, number);
    fixture_path(attempt->recorder.path, name);
}

static void test_the_guard_begins_the_projection_anew(void **state) {
    (void)state;
    static const int points[] = {30, 20, 0};
    static struct history straight, paused;
    struct attempt attempt = {.run = "wide", .threads = 1, .spec = tiny_spec(DD_TASK_FINETUNE, DD_OPTIMIZER_ADAMW)};
    attempt.spec.layers = 3;
    attempt.spec.hidden_size = 24;
    must(attempt_train(&attempt), &attempt.err);
    struct dd_model *wide = NULL;
    must(dd_model_load(attempt.result.best_dir, &wide, &attempt.err), &attempt.err);
    memset(&straight, 0, sizeof straight);
    memset(&paused, 0, sizeof paused);
    collapsing_attempt(&attempt, wide, "collapsed", 0);
    must(attempt_train(&attempt), &attempt.err);
    history_fold(&straight, attempt.recorder.path);
    int back = 0;
    for (int e = 1; e <= 6; e++) {
        back += straight.epochs[e].metrics.rollback_to > 0;
    }
    assert_true(back > 0);
    for (int n = 0; n < 3; n++) {
        collapsing_attempt(&attempt, wide, "collapsed-paused", n);
        attempt.recorder.stop_at = points[n];
        attempt.recorder.stop = DD_STOP_PAUSE;
        assert_int_equal(attempt_train(&attempt), points[n] ? DD_STOPPED : DD_OK);
        history_fold(&paused, attempt.recorder.path);
    }
    history_same(&straight, &paused, 6, 54);
    dd_model_free(wide);
}

static void test_impossible_maps_are_refused(void **state) {
    (void)state;
    struct attempt attempt;
    matching_attempt(&attempt, "refused", 0, 0);
    attempt.spec.layer_map[1] = 3; /* the teacher's layers are 0, 1, 2 */
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "layer_map_invalid");
    matching_attempt(&attempt, "refused", 0, 0);
    attempt.spec.layers = 4;
    attempt.spec.n_layer_map = 0;
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "layers_too_many");
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    teacher = fixture_teacher();
    must(dd_pool_new(2, &pool, &err), &err);
    must(dd_team_join(pool, &team, &err), &err);
    const struct dd_split_rows rows = {.dataset = fixture_dataset, .split = DD_SPLIT_TRAIN};
    const struct dd_row_source source = dd_source_of_split(&rows);
    must(dd_packed_build(&source, teacher->tokenizer, &teacher->info.config, 12, team, NULL, NULL, &packed, &err),
         &err);
    return 0;
}

static int tear_down(void **state) {
    dd_packed_release(&packed);
    dd_team_leave(team);
    dd_pool_free(pool);
    dd_model_free(teacher);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_are_those_of_the_loss),
        cmocka_unit_test(test_equal_states_cost_nothing),
        cmocka_unit_test(test_states_are_the_teachers),
        cmocka_unit_test(test_other_states_are_other_entries),
        cmocka_unit_test(test_interruptions_and_threads_leave_no_trace),
        cmocka_unit_test(test_kept_and_asked_states_are_the_same),
        cmocka_unit_test(test_the_projection_is_not_exported),
        cmocka_unit_test(test_bf16_matches_too),
        cmocka_unit_test(test_the_guard_begins_the_projection_anew),
        cmocka_unit_test(test_impossible_maps_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
