/* Attention transfer and relations: their gradients against finite differences, what the asker takes, and whole runs,
 * which must make the same bits with any threads and any interruptions. */
#include "train_fixture.h"

#define EPOCHS 4
#define STEPS 36
#define WIDTH 8 /* of a student that is narrower than the teacher */

static struct dd_model *teacher;
static struct dd_pool *pool;
static struct dd_team *team;
static struct dd_packed packed;

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
                                                     .initializer_range = 0.6,
                                                     .classifier_dropout = NAN};

struct bench { /* a student of one batch and what it is matched with */
    struct dd_params *params, *grads;
    struct dd_bert *bert;
    struct dd_heads *heads;
    struct dd_gather gather;
    float logits[16 * FIXTURE_CLASSES];
};

static void bench_init(struct bench *bench, double attention_weight, double relation_weight, int teacher_width,
                       int teacher_heads) {
    static const uint32_t rows[] = {5, 0, 17, 30};
    const struct dd_heads_spec spec = {.attention_weight = attention_weight,
                                       .relation_weight = relation_weight,
                                       .layers = student_config.layers,
                                       .width = WIDTH,
                                       .heads = student_config.heads,
                                       .teacher_width = teacher_width,
                                       .teacher_heads = teacher_heads,
                                       .relation_heads = 4};
    struct dd_error err;
    must(dd_params_new(&student_config, &bench->params, &err), &err);
    must(dd_params_new(&student_config, &bench->grads, &err), &err);
    dd_params_init(bench->params, &student_config, 3);
    must(dd_gather_init(&bench->gather, 64, 4, &err), &err);
    dd_gather_rows(&bench->gather, &packed, rows, 4);
    must(dd_bert_new(&student_config, 64, 4, 16, true, DD_PRECISION_FP32, team, &bench->bert, &err), &err);
    must(dd_heads_new(&spec, 64, 4, 16, team, &bench->heads, &err), &err);
    unsigned seed = 5;
    for (int layer = 0; layer < student_config.layers; layer++) {
        for (int part = 0; part < DD_HEAD_PARTS; part++) {
            bool last = layer == student_config.layers - 1;
            bool wanted =
                (part != DD_VALUES && attention_weight > 0) || (part != DD_QUERIES && last && relation_weight > 0);
            float *out = dd_heads_target(bench->heads, layer, (enum dd_head_part)part);
            assert_int_equal(out != NULL, wanted);
            int count = part == DD_QUERIES && last ? 4 : bench->gather.batch.n_tokens;
            for (int i = 0; out && i < count * teacher_width; i++) {
                out[i] = (float)(fixture_random(&seed) % 2000) / 1000.0f - 1.0f;
            }
        }
    }
}

static void bench_release(struct bench *bench) {
    dd_heads_free(bench->heads);
    dd_bert_free(bench->bert);
    dd_gather_release(&bench->gather);
    dd_params_free(bench->params);
    dd_params_free(bench->grads);
}

static struct dd_heads_loss bench_loss(struct bench *bench) {
    const struct dd_dropout off = {.on = false};
    dd_bert_forward(bench->bert, bench->params, &bench->gather.batch, &off, bench->logits);
    return dd_heads_run(bench->heads, bench->bert, &bench->gather.batch);
}

/* The loss after a step of that length along a direction of the tensor that the seed draws. */
static double loss_along(struct bench *bench, const struct dd_tensor *tensor, unsigned seed, float step) {
    float *value = bench->params->slab + tensor->offset, *kept = dd_calloc(tensor->count, sizeof *kept);
    memcpy(kept, value, tensor->count * sizeof *kept);
    for (size_t i = 0; i < tensor->count; i++) {
        value[i] += step * (float)((int)(fixture_random(&seed) % 3) - 1);
    }
    double loss = bench_loss(bench).total;
    memcpy(value, kept, tensor->count * sizeof *kept);
    free(kept);
    return loss;
}

/* For each tensor: the loss along a direction of it, by differences and by the gradient. */
static void check_gradient(double attention_weight, double relation_weight, int teacher_width, int teacher_heads) {
    struct bench bench = {0};
    bench_init(&bench, attention_weight, relation_weight, teacher_width, teacher_heads);
    struct dd_heads_loss loss = bench_loss(&bench);
    near_double(loss.total, attention_weight * loss.attention + relation_weight * loss.relation, 1e-12);
    assert_int_equal(loss.attention > 0, attention_weight > 0);
    assert_int_equal(loss.relation > 0, relation_weight > 0);
    const struct dd_dropout off = {.on = false};
    static const float no_gradient[16 * FIXTURE_CLASSES];
    dd_bert_backward(bench.bert, bench.params, &bench.gather.batch, &off, no_gradient, bench.grads);
    double moved = 0;
    for (int t = 0; t < bench.params->n_tensors; t++) {
        const struct dd_tensor *tensor = &bench.params->tensors[t];
        const float *gradient = bench.grads->slab + tensor->offset;
        double slope = 0, length = 0;
        unsigned seed = (unsigned)t;
        for (size_t i = 0; i < tensor->count; i++) {
            double d = (double)(fixture_random(&seed) % 3) - 1.0;
            slope += d * (double)gradient[i];
            length += d * d;
        }
        float step = (float)(0.01 / sqrt(DD_MAX(length, 1.0)));
        double ends[] = {loss_along(&bench, tensor, (unsigned)t, -step), loss_along(&bench, tensor, (unsigned)t, step)};
        double measured = (ends[1] - ends[0]) / (2.0 * (double)step);
        moved += fabs(slope);
        if (fabs(measured - slope) > 2e-3 + 2e-2 * fabs(slope)) {
            fail_msg("%s: the gradient says %g, differences say %g", tensor->name, slope, measured);
        }
    }
    assert_true(moved > 0.1);
    bench_release(&bench);
}

static void test_gradients_are_those_of_the_loss(void **state) {
    (void)state;
    check_gradient(3.0, 0.0, WIDTH, 2);
    check_gradient(3.0, 0.0, 12, 2);
    check_gradient(3.0, 0.0, 12, 3);
    check_gradient(0.0, 30.0, WIDTH, 2);
    check_gradient(0.0, 30.0, 4, 1);
    check_gradient(2.0, 20.0, 12, 4);
}

/* A student that is its own teacher: no loss and no gradient. */
static void test_equal_heads_cost_nothing(void **state) {
    (void)state;
    struct bench bench = {0};
    bench_init(&bench, 1.0, 1.0, WIDTH, 2);
    (void)bench_loss(&bench);
    const struct dd_batch *batch = &bench.gather.batch;
    for (int layer = 0; layer < student_config.layers; layer++) {
        const struct dd_bert_qkv own = dd_bert_qkv(bench.bert, layer);
        assert_int_equal(own.cls, layer == student_config.layers - 1);
        const float *const values[] = {own.q, own.k, own.v};
        for (int part = 0; part < DD_HEAD_PARTS; part++) {
            float *out = dd_heads_target(bench.heads, layer, (enum dd_head_part)part);
            size_t stride = part == DD_QUERIES ? own.q_stride : own.kv_stride;
            int rows = part == DD_QUERIES && own.cls ? batch->n_sequences : batch->n_tokens;
            for (int r = 0; out && r < rows; r++) {
                memcpy(out + (size_t)r * WIDTH, values[part] + (size_t)r * stride, WIDTH * sizeof *out);
            }
        }
    }
    struct dd_heads_loss loss = bench_loss(&bench);
    near_double(loss.attention, 0, 0);
    near_double(loss.relation, 0, 1e-7);
    bench_release(&bench);
}

/* --- what the asker takes ----------------------------------------------------------------------------------------- */

/* A training model of the teacher's weights shows its queries, keys and values (compared with transformers' in
 * tests/live/test_match_heads.py): the asker's are the same, of every layer, also of the last one's queries that
 * a classifier never needs. */
static void test_asked_heads_are_the_teachers(void **state) {
    (void)state;
    static const uint32_t rows[] = {5, 0, 17, 30};
    const struct dd_bert_config *config = &teacher->info.config;
    size_t width = (size_t)config->hidden_size;
    struct dd_bert_config still = *config;
    still.hidden_dropout = still.attention_dropout = 0.0;
    still.classifier_dropout = 0.0;
    struct dd_gather gather;
    struct dd_asker asker;
    struct dd_bert *bert = NULL;
    struct dd_error err;
    static float out[3][DD_HEAD_PARTS][64 * 16], every_query[64 * 16], logits[16 * FIXTURE_CLASSES];
    must(dd_gather_init(&gather, 64, 4, &err), &err);
    dd_gather_rows(&gather, &packed, rows, 4);
    must(dd_asker_init(&asker, teacher, 64, 4, 12, team, &err), &err);
    must(dd_bert_new(&still, 64, 4, 12, true, DD_PRECISION_FP32, team, &bert, &err), &err);
    const struct dd_dropout off = {.on = false};
    dd_bert_forward(bert, teacher->params, &gather.batch, &off, logits);
    for (int layer = 0; layer < 3; layer++) {
        for (int part = 0; part < DD_HEAD_PARTS; part++) {
            asker.wanted[asker.n_wanted++] =
                (struct dd_wanted_state){.kind = (enum dd_wanted_kind)(DD_WANTED_QUERIES + part),
                                         .state = layer + 1,
                                         .cls = part == DD_QUERIES && layer == 2,
                                         .out = out[layer][part]};
        }
    }
    for (int full = 0; full < 2; full++) {
        if (full) {
            asker.wanted[asker.n_wanted++] =
                (struct dd_wanted_state){.kind = DD_WANTED_QUERIES, .state = 3, .out = every_query};
        }
        memset(out, 0, sizeof out);
        dd_asker_ask(&asker, &gather.batch);
        for (int layer = 0; layer < 3; layer++) {
            const struct dd_bert_qkv own = dd_bert_qkv(bert, layer);
            const float *const values[] = {own.q, own.k, own.v};
            for (int part = 0; part < DD_HEAD_PARTS; part++) {
                size_t stride = part == DD_QUERIES ? own.q_stride : own.kv_stride;
                int count = part == DD_QUERIES && own.cls ? 4 : gather.batch.n_tokens;
                for (int r = 0; r < count; r++) {
                    for (size_t i = 0; i < width; i++) {
                        near_double(out[layer][part][(size_t)r * width + i], values[part][(size_t)r * stride + i],
                                    1e-5);
                    }
                }
            }
        }
    }
    for (int s = 0; s < 4; s++) {
        for (size_t i = 0; i < width; i++) {
            near_double(every_query[(size_t)gather.batch.offsets[s] * width + i],
                        out[2][DD_QUERIES][(size_t)s * width + i], 1e-5);
        }
    }
    dd_bert_free(bert);
    dd_asker_release(&asker);
    dd_gather_release(&gather);
}

/* --- runs ------------------------------------------------------------------------------------------------------- */

struct kind {
    const char *name;
    double attention, relation, hidden, cls;
    int width, heads, relation_heads;
};

static void matching_attempt(struct attempt *attempt, const struct kind *kind, const char *run, int number) {
    *attempt = (struct attempt){
        .base = teacher, .run = run, .threads = 1 + number % 4, .spec = tiny_spec(DD_TASK_DISTILL, DD_OPTIMIZER_ADAMW)};
    attempt->spec.attention_weight = kind->attention;
    attempt->spec.relation_weight = kind->relation;
    attempt->spec.relation_heads = kind->relation_heads;
    attempt->spec.hidden_weight = kind->hidden;
    attempt->spec.cls_weight = kind->cls;
    attempt->spec.hidden_size = kind->width;
    attempt->spec.heads = kind->heads;
    attempt->spec.n_layer_map = 2;
    attempt->spec.layer_map[0] = 2; /* the last layer's queries, all of them */
    attempt->spec.layer_map[1] = 1;
    char name[64];
    snprintf(name, sizeof name, "%s-%d.bin", run, number);
    fixture_path(attempt->recorder.path, name);
}

static int run_to_the_end(const struct kind *kind, const char *run, const int *points, struct history *history) {
    memset(history, 0, sizeof *history);
    for (int n = 0;; n++) {
        struct attempt attempt;
        matching_attempt(&attempt, kind, run, n);
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
    static const struct kind kinds[] = {{"attention", 1, 0, 0, 0, 16, 2, 0},
                                        {"means", 1, 0, 0, 0, WIDTH, 4, 0},
                                        {"relation", 0, 1, 0, 0, WIDTH, 2, 4},
                                        {"everything", 0.5, 1, 0.25, 0.25, WIDTH, 2, 2}};
    static const int none[1] = {0}, points[] = {3, 12, 4, 9, 0};
    static struct history straight, paused;
    for (size_t k = 0; k < DD_ARRAY_LEN(kinds); k++) {
        char a[64], b[64], path_a[512], path_b[512];
        snprintf(a, sizeof a, "%s-straight", kinds[k].name);
        snprintf(b, sizeof b, "%s-paused", kinds[k].name);
        assert_int_equal(run_to_the_end(&kinds[k], a, none, &straight), 0);
        assert_int_equal(run_to_the_end(&kinds[k], b, points, &paused), 4);
        history_same(&straight, &paused, EPOCHS, STEPS);
        fixture_path(path_a, a);
        fixture_path(path_b, b);
        same_file(path_a, path_b, "last/model.safetensors");
        const struct dd_epoch_metrics *first = &straight.epochs[1].metrics, *last = &straight.epochs[EPOCHS].metrics;
        assert_int_equal(isnan(first->train_attention) != 0, kinds[k].attention == 0);
        assert_int_equal(isnan(first->train_relation) != 0, kinds[k].relation == 0);
        assert_int_equal(isnan(first->train_hidden) != 0, kinds[k].hidden == 0);
        if (kinds[k].attention > 0) {
            assert_true(last->train_attention > 0 && last->train_attention < first->train_attention);
        }
        if (kinds[k].relation > 0) {
            assert_true(last->train_relation > 0 && last->train_relation < first->train_relation);
        }
        const struct dd_step_metrics *s = &straight.steps[5];
        assert_true(s->loss > 0.3 * s->kl + 0.7 * s->ce);
    }
}

/* A finished run is told again with the very metrics, those of its heads too. */
static void test_a_finished_run_remembers(void **state) {
    (void)state;
    static const struct kind kind = {"finished", 0.5, 1, 0, 0, WIDTH, 2, 2};
    struct attempt first, again;
    matching_attempt(&first, &kind, "finished", 0);
    must(attempt_train(&first), &first.err);
    matching_attempt(&again, &kind, "finished", 1);
    must(attempt_train(&again), &again.err);
    assert_int_equal(again.recorder.calls, 0);
    assert_true(first.result.best.train_attention > 0 && first.result.last.train_relation > 0);
    same_double(again.result.best.train_attention, first.result.best.train_attention);
    same_double(again.result.last.train_relation, first.result.last.train_relation);
    assert_true(isnan(again.result.best.train_hidden));
}

static void test_impossible_relations_are_refused(void **state) {
    (void)state;
    static const struct kind kind = {"refused", 0, 1, 0, 0, 12, 2, 3};
    struct attempt attempt;
    matching_attempt(&attempt, &kind, "refused", 0); /* 3 divides 12, but not the teacher's 16 */
    assert_int_equal(attempt_train(&attempt), DD_INVALID);
    assert_string_equal(attempt.err.code, "relation_heads_invalid");
    matching_attempt(&attempt, &kind, "refused", 0);
    attempt.spec.relation_heads = 4;
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
        cmocka_unit_test(test_equal_heads_cost_nothing),
        cmocka_unit_test(test_asked_heads_are_the_teachers),
        cmocka_unit_test(test_interruptions_and_threads_leave_no_trace),
        cmocka_unit_test(test_a_finished_run_remembers),
        cmocka_unit_test(test_impossible_relations_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
