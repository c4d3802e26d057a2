/* Checkpoints: what is written is read back to the bit; whatever is damaged, foreign or impossible is refused and
 * changes nothing. */
#include <sys/stat.h>

#include "engine/record.h"
#include "train_fixture.h"

static struct dd_pool *pool;
static struct dd_team *team;
static const struct dd_bert_config config = {.vocab_size = 11,
                                             .hidden_size = 8,
                                             .layers = 1,
                                             .heads = 2,
                                             .intermediate_size = 12,
                                             .max_positions = 16,
                                             .type_vocab_size = 2,
                                             .n_labels = 3,
                                             .hidden_act = "gelu",
                                             .layer_norm_eps = 1e-12,
                                             .initializer_range = 0.02};
static const struct dd_run_identity identity = {.spec = {1, 2, 3}, .data = {4, 5}, .base = {6}};
static const struct dd_run_shape shape = {.epochs = 5, .steps_per_epoch = 10, .dev_rows = 4, .n_classes = 3};

struct side { /* parameters, optimizer and state as a run has them */
    struct dd_params *params;
    struct dd_optimizer *optimizer;
    struct dd_run_state state;
};

static void side_init_spec(struct side *side, const struct dd_optimizer_spec *spec, float fill) {
    struct dd_error err;
    must(dd_params_new(&config, &side->params, &err), &err);
    must(dd_optimizer_new(spec, side->params, &config, 50, team, &side->optimizer, &err), &err);
    dd_run_state_init(&side->state);
    struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS];
    dd_optimizer_slabs(side->optimizer, slabs);
    for (size_t i = 0; i < side->params->count && fill != 0; i++) {
        side->params->slab[i] = fill + (float)i * 0.001f;
    }
    for (size_t s = 0; s < DD_ARRAY_LEN(slabs) && fill != 0; s++) {
        for (size_t i = 0; i < slabs[s].count; i++) {
            slabs[s].floats[i] = fill * (float)(s + 2) + (float)i * 0.001f;
        }
    }
}

static void side_init(struct side *side, enum dd_optimizer_type type, double momentum, float fill) {
    struct dd_optimizer_spec spec = tiny_spec(DD_TASK_FINETUNE, type).optimizer;
    spec.momentum = momentum;
    side_init_spec(side, &spec, fill);
}

static void side_release(struct side *side) {
    dd_run_state_release(&side->state);
    dd_optimizer_free(side->optimizer);
    dd_params_free(side->params);
}

/* In the middle of the third epoch, two steps to be repeated. */
static void fill_state(struct side *side) {
    struct dd_run_state *s = &side->state;
    struct dd_error err;
    s->step = 23;
    s->epoch = 3;
    s->epoch_step = 3;
    s->sum_loss = 0.1 + 0.2;
    s->sum_kl = 1.0 / 3;
    s->sum_ce = 7;
    s->extent = DD_EXTENT_ALL;
    s->sum_hidden = 0.7;
    s->sum_cls = 1e-3;
    s->sum_attention = 2.5;
    s->sum_relation = NAN;
    s->sum_ce_weight = 23.5;
    s->sum_rows = 24;
    s->sum_tokens = 240;
    s->elapsed_seconds = 12.5;
    s->epochs_done = 2;
    s->last = (struct dd_epoch_metrics){
        .epoch = 2, .train_kl = NAN, .train_hidden = 0.4, .train_cls = NAN, .macro_f1 = 0.25, .tokens_per_second = 9};
    s->best = (struct dd_epoch_metrics){.epoch = 2, .macro_f1 = 0.5, .is_best = true};
    s->peak = (struct dd_epoch_metrics){.epoch = 1, .macro_f1 = 0.75, .train_hidden = NAN};
    s->last.train_attention = 0.3;
    s->best.train_relation = 0.2;
    s->last.dev_kl = 0.3;
    s->last.dev_ce = NAN;
    s->best.dev_kl = 0.2;
    s->best.dev_ce = 0.6;
    memset(s->best_sha256, 7, sizeof s->best_sha256);
    s->n_dev = 4;
    s->dev_label = dd_calloc(4, sizeof *s->dev_label);
    s->dev_score = dd_calloc(4, sizeof *s->dev_score);
    s->dev_label[2] = 2;
    s->dev_score[3] = 0.75f;
    for (int i = 0; i < 2; i++) {
        struct dd_step_metrics step = {.step = 22 + i, .steps = 50, .epoch = 3, .epochs = 5, .loss = i, .kl = NAN};
        must(dd_run_state_add_step(s, &step, &err), &err);
    }
    dd_optimizer_set_step(side->optimizer, 23);
}

static void write_one(struct side *side, char dir[512], const char *name) {
    struct dd_error err;
    fixture_path(dir, name);
    must(dd_dir_make(dir, &err), &err);
    must(dd_checkpoint_write(dir, &identity, &side->state, side->params, side->optimizer, 0, &err), &err);
}

static void file_in(char out[600], const char *dir, const char *name) {
    snprintf(out, 600, "%s/%s", dir, name);
}

static void check_equal(struct side *a, struct side *b) {
    struct dd_optimizer_slab of_a[DD_OPTIMIZER_SLABS], of_b[DD_OPTIMIZER_SLABS];
    float *first, *second;
    dd_optimizer_slabs(a->optimizer, of_a);
    dd_optimizer_slabs(b->optimizer, of_b);
    assert_int_equal(dd_optimizer_state(a->optimizer, &first, &second),
                     dd_optimizer_state(b->optimizer, &first, &second));
    assert_memory_equal(a->params->slab, b->params->slab, a->params->count * sizeof(float));
    for (size_t s = 0; s < DD_ARRAY_LEN(of_a); s++) {
        assert_int_equal(of_a[s].count, of_b[s].count);
        if (of_a[s].count > 0) {
            assert_memory_equal(of_a[s].floats, of_b[s].floats, of_a[s].count * sizeof(float));
        }
    }
    const struct dd_run_state *x = &a->state, *y = &b->state;
    assert_int_equal(x->step, y->step);
    assert_int_equal(x->epoch, y->epoch);
    assert_int_equal(x->epoch_step, y->epoch_step);
    same_double(x->sum_loss, y->sum_loss);
    same_double(x->sum_kl, y->sum_kl);
    same_double(x->sum_ce, y->sum_ce);
    assert_int_equal(x->extent, y->extent);
    same_double(x->sum_attention, y->sum_attention);
    same_double(x->sum_relation, y->sum_relation);
    same_double(x->sum_ce_weight, y->sum_ce_weight);
    same_double(x->last.train_attention, y->last.train_attention);
    same_double(x->best.train_relation, y->best.train_relation);
    same_double(x->sum_hidden, y->sum_hidden);
    same_double(x->sum_cls, y->sum_cls);
    assert_int_equal(x->sum_rows, y->sum_rows);
    assert_int_equal(x->sum_tokens, y->sum_tokens);
    same_double(x->elapsed_seconds, y->elapsed_seconds);
    assert_int_equal(x->epochs_done, y->epochs_done);
    assert_int_equal(x->delivered, y->delivered);
    same_double(x->last.train_kl, y->last.train_kl);
    same_double(x->last.train_hidden, y->last.train_hidden);
    same_double(x->last.train_cls, y->last.train_cls);
    same_double(x->best.train_cls, y->best.train_cls);
    same_double(x->last.dev_kl, y->last.dev_kl);
    same_double(x->last.dev_ce, y->last.dev_ce);
    same_double(x->best.dev_kl, y->best.dev_kl);
    same_double(x->best.dev_ce, y->best.dev_ce);
    same_double(x->last.tokens_per_second, y->last.tokens_per_second);
    assert_int_equal(x->rollbacks, y->rollbacks);
    assert_int_equal(x->restart_step, y->restart_step);
    assert_int_equal(x->skipped_in_row, y->skipped_in_row);
    assert_int_equal(x->rolled_back, y->rolled_back);
    assert_int_equal(x->rolled_back_to, y->rolled_back_to);
    assert_int_equal(x->last.rollback, y->last.rollback);
    assert_int_equal(x->last.rollback_to, y->last.rollback_to);
    same_double(dd_optimizer_lr(a->optimizer, 30), dd_optimizer_lr(b->optimizer, 30));
    assert_int_equal(x->best.epoch, y->best.epoch);
    assert_int_equal(x->peak.epoch, y->peak.epoch);
    same_double(x->peak.macro_f1, y->peak.macro_f1);
    assert_true(y->best.is_best && !y->last.is_best);
    assert_memory_equal(x->best_sha256, y->best_sha256, DD_SHA256_BYTES);
    assert_int_equal(x->n_steps, y->n_steps);
    for (size_t i = 0; i < x->n_steps; i++) {
        assert_memory_equal(&x->steps[i], &y->steps[i], sizeof x->steps[i]);
    }
    assert_int_equal(x->n_dev, y->n_dev);
    assert_memory_equal(x->dev_label, y->dev_label, x->n_dev * sizeof *x->dev_label);
    assert_memory_equal(x->dev_score, y->dev_score, x->n_dev * sizeof *x->dev_score);
}

static void test_round_trip(void **state) {
    (void)state;
    static const struct {
        enum dd_optimizer_type type;
        double momentum, ema;
        enum dd_flag frozen;
    } kinds[] = {{DD_OPTIMIZER_ADAMW, 0, 0, DD_FLAG_NO},    {DD_OPTIMIZER_SGD, 0.9, 0, DD_FLAG_NO},
                 {DD_OPTIMIZER_SGD, 0, 0, DD_FLAG_NO},      {DD_OPTIMIZER_ADAMW, 0, 0.9, DD_FLAG_NO},
                 {DD_OPTIMIZER_ADAMW, 0, 0.9, DD_FLAG_YES}, {DD_OPTIMIZER_SGD, 0, 0.5, DD_FLAG_NO},
                 {DD_OPTIMIZER_SGD, 0.9, 0, DD_FLAG_YES}};
    for (size_t k = 0; k < DD_ARRAY_LEN(kinds); k++) {
        struct side written = {0}, read = {0};
        char dir[512], path[600], name[32];
        struct dd_error err;
        struct dd_optimizer_spec spec = tiny_spec(DD_TASK_FINETUNE, kinds[k].type).optimizer;
        spec.momentum = kinds[k].momentum;
        spec.ema = kinds[k].ema;
        spec.freeze_embeddings = kinds[k].frozen;
        snprintf(name, sizeof name, "round-%zu", k);
        side_init_spec(&written, &spec, 0.5f);
        side_init_spec(&read, &spec, 0);
        fill_state(&written);
        if (k % 2 != 0) {
            written.state.rollbacks = 2;
            written.state.restart_step = 12;
            written.state.skipped_in_row = 1;
            written.state.rolled_back = DD_ROLLBACK_NOT_FINITE;
            written.state.rolled_back_to = 1;
            written.state.last.rollback = DD_ROLLBACK_F1_FELL;
            written.state.last.rollback_to = 1;
            dd_optimizer_set_restart(written.optimizer, 12, 0.25);
        }
        write_one(&written, dir, name);
        file_in(path, dir, "checkpoint");
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        uint64_t frozen = dd_optimizer_frozen(&spec, written.params);
        assert_int_equal(frozen > 0, kinds[k].frozen == DD_FLAG_YES);
        assert_int_equal(info.st_size, dd_checkpoint_bytes(&spec, written.params->count, frozen, 4) + 2 * 96);
        struct dd_checkpoint checkpoint;
        must(dd_checkpoint_open(path, &identity, &shape, read.params, read.optimizer, &checkpoint, &err), &err);
        dd_checkpoint_apply(&checkpoint, &read.state, read.params, read.optimizer);
        dd_checkpoint_close(&checkpoint);
        check_equal(&written, &read);
        side_release(&written);
        side_release(&read);
    }
}

/* The state as a file of that extent gives it back. */
static void forget(struct dd_run_state *s, enum dd_state_extent extent) {
    struct dd_epoch_metrics *const metrics[] = {&s->last, &s->best};
    s->extent = extent;
    s->sum_attention = s->sum_relation = 0;
    s->sum_ce_weight = (double)(s->sum_rows - s->sum_unlabelled);
    for (int i = 0; i < 2; i++) {
        metrics[i]->train_attention = metrics[i]->train_relation = NAN;
        if (extent == DD_EXTENT_PLAIN) {
            metrics[i]->train_hidden = metrics[i]->train_cls = NAN;
        }
    }
    if (extent == DD_EXTENT_PLAIN) {
        s->sum_hidden = s->sum_cls = 0;
    }
}

/* Runs that need less keep less: 0, 48 or 104 bytes. */
static void test_extents(void **state) {
    (void)state;
    static const size_t bytes[] = {0, 48, 104};
    size_t least = 0;
    for (int extent = DD_EXTENT_PLAIN; extent <= DD_EXTENT_ALL; extent++) {
        struct side written = {0}, read = {0};
        char dir[512], path[600], name[32], *file = NULL;
        size_t len = 0;
        struct dd_error err;
        side_init(&written, DD_OPTIMIZER_ADAMW, 0, 0.5f);
        side_init(&read, DD_OPTIMIZER_ADAMW, 0, 0);
        fill_state(&written);
        if (extent != DD_EXTENT_ALL) {
            forget(&written.state, (enum dd_state_extent)extent);
        }
        snprintf(name, sizeof name, "extent-%d", extent);
        write_one(&written, dir, name);
        file_in(path, dir, "checkpoint");
        must(dd_file_read(path, 1 << 24, &file, &len, &err), &err);
        least = extent == DD_EXTENT_PLAIN ? len : least;
        assert_int_equal(len - least, bytes[extent]);
        struct dd_checkpoint checkpoint;
        must(dd_checkpoint_open(path, &identity, &shape, read.params, read.optimizer, &checkpoint, &err), &err);
        dd_checkpoint_apply(&checkpoint, &read.state, read.params, read.optimizer);
        dd_checkpoint_close(&checkpoint);
        check_equal(&written, &read);
        free(file);
        side_release(&written);
        side_release(&read);
    }
}

static void seal(char *bytes, size_t len) {
    dd_record_checksum((const uint8_t *)bytes, len - 32, DD_CHECKPOINT_XXH3, (uint8_t *)bytes + len - 32);
}

/* A file of version 4 has no peak, one of version 3 another checksum, too; one of version 2 is that without the last 32
 * bytes of the extension; in version 1 there is no extension, and nothing of the guard. */
static void make_earlier(struct side *side, const char *dir, char version, enum dd_state_extent extent) {
    static const size_t extensions[] = {0, 48, 104};
    struct dd_run_state *s = &side->state;
    char path[600], *bytes = NULL;
    size_t len = 0, behind = 648 + extensions[extent] + (version < 3 ? 0 : 32), from = version == 1 ? 616 : behind;
    size_t end = 648 + extensions[extent] + 32 + 144;
    struct dd_error err;
    if (version < 3) {
        s->last.dev_kl = s->last.dev_ce = s->best.dev_kl = s->best.dev_ce = NAN;
    }
    if (extent != DD_EXTENT_ALL) {
        forget(s, extent);
    }
    s->peak = s->best;
    must(dd_checkpoint_write(dir, &identity, s, side->params, side->optimizer, 0, &err), &err);
    file_in(path, dir, "checkpoint");
    must(dd_file_read(path, 1 << 24, &bytes, &len, &err), &err);
    bytes[8] = version;
    const uint32_t extension = (uint32_t)(behind - 648);
    memcpy(bytes + 12, &extension, sizeof extension);
    memmove(bytes + from, bytes + end, len - end);
    len -= end - from;
    seal(bytes, len);
    must(dd_file_write_durable(path, bytes, len, &err), &err);
    free(bytes);
}

static void test_earlier_versions_are_read(void **state) {
    (void)state;
    static const struct {
        char version;
        enum dd_state_extent extent;
    } earlier[] = {{1, DD_EXTENT_PLAIN}, {2, DD_EXTENT_PLAIN},  {2, DD_EXTENT_STATES},
                   {2, DD_EXTENT_ALL},   {3, DD_EXTENT_PLAIN},  {3, DD_EXTENT_ALL},
                   {4, DD_EXTENT_PLAIN}, {4, DD_EXTENT_STATES}, {4, DD_EXTENT_ALL}};
    for (size_t i = 0; i < DD_ARRAY_LEN(earlier); i++) {
        struct side written = {0}, read = {0};
        char dir[512], path[600], name[32];
        struct dd_error err;
        side_init(&written, DD_OPTIMIZER_ADAMW, 0, 0.5f);
        side_init(&read, DD_OPTIMIZER_ADAMW, 0, 0);
        fill_state(&written);
        snprintf(name, sizeof name, "earlier-%zu", i);
        fixture_path(dir, name);
        must(dd_dir_make(dir, &err), &err);
        make_earlier(&written, dir, earlier[i].version, earlier[i].extent);
        file_in(path, dir, "checkpoint");
        struct dd_checkpoint checkpoint;
        must(dd_checkpoint_open(path, &identity, &shape, read.params, read.optimizer, &checkpoint, &err), &err);
        dd_checkpoint_apply(&checkpoint, &read.state, read.params, read.optimizer);
        dd_checkpoint_close(&checkpoint);
        check_equal(&written, &read);
        side_release(&written);
        side_release(&read);
    }
}

static enum dd_status open_bytes(struct side *side, const char *path, const void *bytes, size_t len,
                                 struct dd_error *err) {
    struct dd_checkpoint checkpoint;
    must(dd_file_write_durable(path, bytes, len, err), err);
    enum dd_status status =
        dd_checkpoint_open(path, &identity, &shape, side->params, side->optimizer, &checkpoint, err);
    if (status == DD_OK) {
        dd_checkpoint_close(&checkpoint);
    }
    return status;
}

/* Every bit of the head and a sample of the rest, and every length. */
static void test_damage_is_found(void **state) {
    (void)state;
    struct side side = {0};
    char dir[512], path[600], *bytes = NULL;
    size_t len = 0;
    struct dd_error err;
    side_init(&side, DD_OPTIMIZER_SGD, 0, 0.5f);
    fill_state(&side);
    write_one(&side, dir, "damaged");
    file_in(path, dir, "checkpoint");
    must(dd_file_read(path, 1 << 24, &bytes, &len, &err), &err);
    assert_int_equal(open_bytes(&side, path, bytes, len, &err), DD_OK);
    for (size_t at = 0; at < len; at += at < 900 ? 7 : 97) {
        bytes[at] ^= (char)(1 << at % 8);
        assert_int_equal(open_bytes(&side, path, bytes, len, &err), DD_CORRUPT);
        bytes[at] ^= (char)(1 << at % 8);
    }
    for (size_t cut = 0; cut < len; cut += 31) {
        assert_int_equal(open_bytes(&side, path, bytes, cut, &err), DD_CORRUPT);
    }
    assert_int_equal(open_bytes(&side, path, bytes, len, &err), DD_OK);
    free(bytes);
    side_release(&side);
}

/* Right checksums over impossible contents: only somebody else can have made such a file. */
static void test_forgeries_are_refused(void **state) {
    (void)state;
    static const struct {
        size_t offset;
        uint64_t value;
    } forged[] = {{8, 1}, /* version and extension: none, though the file has one */
                  {8, 2},
                  {8, 1 | (uint64_t)48 << 32},
                  {8, 2 | (uint64_t)104 << 32}, /* what it would be in that version, but for its end */
                  {8, 2 | (uint64_t)96 << 32},
                  {8, 3},
                  {8, 4},
                  {8, 3 | (uint64_t)104 << 32},
                  {8, 4 | (uint64_t)104 << 32},
                  {8, 4 | (uint64_t)136 << 32}, /* nor with its length in version 4 */
                  {8, 5},
                  {8, 5 | (uint64_t)136 << 32},
                  {144, 1},          /* another number of parameters */
                  {144, UINT64_MAX}, /* … whose size overflows */
                  {152, 3},          /* slabs that are not there */
                  {160, UINT64_MAX / 96},
                  {160, 3},
                  {168, 1u << 30},
                  {168, 0},
                  {176, 24}, /* step that does not fit its epoch */
                  {184, 9},
                  {192, 11},
                  {216, 6},
                  {216, UINT64_MAX},
                  {232, 22}, /* optimizer at another step */
                  {440, 4},  /* best epoch still to come */
                  {616, 1},  /* a rollback at no step */
                  {616, 1u << 20},
                  {624, 24}, /* a restart still to come, or without a rollback */
                  {624, 5},
                  {632, 5000}, /* more skipped steps than any run has */
                  {632, UINT64_MAX},
                  {784, 0}, /* a peak at no epoch, or after the one that is kept */
                  {784, 3},
                  {784, UINT64_MAX}};
    struct side side = {0};
    char dir[512], path[600], *bytes = NULL;
    size_t len = 0;
    struct dd_error err;
    side_init(&side, DD_OPTIMIZER_SGD, 0, 0.5f);
    fill_state(&side);
    write_one(&side, dir, "forged");
    file_in(path, dir, "checkpoint");
    must(dd_file_read(path, 1 << 24, &bytes, &len, &err), &err);
    for (size_t i = 0; i < DD_ARRAY_LEN(forged); i++) {
        uint64_t old;
        memcpy(&old, bytes + forged[i].offset, 8);
        memcpy(bytes + forged[i].offset, &forged[i].value, 8);
        seal(bytes, len);
        assert_int_equal(open_bytes(&side, path, bytes, len, &err), DD_CORRUPT);
        memcpy(bytes + forged[i].offset, &old, 8);
    }
    seal(bytes, len);
    assert_int_equal(open_bytes(&side, path, bytes, len, &err), DD_OK);
    bytes[8] = 6; /* a later version */
    seal(bytes, len);
    assert_int_equal(open_bytes(&side, path, bytes, len, &err), DD_UNSUPPORTED);
    free(bytes);
    side_release(&side);
}

static void test_foreign_is_refused(void **state) {
    (void)state;
    struct side side = {0};
    char dir[512], path[600];
    struct dd_error err;
    side_init(&side, DD_OPTIMIZER_ADAMW, 0, 0.5f);
    fill_state(&side);
    write_one(&side, dir, "foreign");
    file_in(path, dir, "checkpoint");
    const char *const words[] = {"spec", "data set", "teacher"};
    for (int i = 0; i < 3; i++) {
        struct dd_run_identity other = identity;
        uint8_t *parts[] = {other.spec, other.data, other.base};
        parts[i][31] ^= 1;
        struct dd_checkpoint checkpoint;
        assert_int_equal(dd_checkpoint_open(path, &other, &shape, side.params, side.optimizer, &checkpoint, &err),
                         DD_CONFLICT);
        assert_non_null(strstr(err.message, words[i]));
    }
    side_release(&side);
}

static void test_previous_stays_and_deadline_leaves_nothing(void **state) {
    (void)state;
    struct side side = {0};
    char dir[512], path[600], previous[600];
    struct dd_error err;
    side_init(&side, DD_OPTIMIZER_ADAMW, 0, 0.5f);
    fill_state(&side);
    write_one(&side, dir, "previous");
    file_in(path, dir, "checkpoint");
    file_in(previous, dir, "checkpoint.previous");
    assert_int_not_equal(access(previous, F_OK), 0);
    char *first = NULL, *second = NULL;
    size_t first_len = 0, second_len = 0;
    must(dd_file_read(path, 1 << 24, &first, &first_len, &err), &err);
    side.params->slab[0] += 1;
    write_one(&side, dir, "previous");
    must(dd_file_read(previous, 1 << 24, &second, &second_len, &err), &err);
    assert_int_equal(first_len, second_len);
    assert_memory_equal(first, second, first_len);
    free(second);

    side.params->slab[0] += 1;
    assert_int_equal(
        dd_checkpoint_write(dir, &identity, &side.state, side.params, side.optimizer, dd_clock_mono_us() - 1, &err),
        DD_BUSY);
    must(dd_file_read(previous, 1 << 24, &second, &second_len, &err), &err);
    assert_memory_equal(first, second, first_len);
    char command[700];
    snprintf(command, sizeof command, "test $(ls -A '%s' | wc -l) = 2", dir);
    assert_int_equal(system(command), 0);
    free(first);
    free(second);
    side_release(&side);
}

static void test_finished_record(void **state) {
    (void)state;
    char dir[512], path[600], *bytes = NULL;
    size_t len = 0;
    struct dd_error err;
    fixture_path(dir, "finished");
    must(dd_dir_make(dir, &err), &err);
    struct dd_finished finished = {.epochs_done = 5,
                                   .steps_done = 50,
                                   .parameters = 1000,
                                   .model_bytes = 4100,
                                   .best = {.epoch = 3, .macro_f1 = 0.5, .is_best = true, .dev_kl = 0.125},
                                   .last = {.epoch = 5, .train_kl = NAN, .dev_ce = 0.5}};
    struct dd_finished read;
    assert_int_equal(dd_finished_read(dir, &identity, &read, &err), DD_NOT_FOUND);
    must(dd_finished_write(dir, &identity, &finished, &err), &err);
    must(dd_finished_read(dir, &identity, &read, &err), &err);
    assert_int_equal(read.steps_done, 50);
    assert_int_equal(read.best.epoch, 3);
    same_double(read.best.macro_f1, 0.5);
    assert_true(read.best.is_best && isnan(read.last.train_kl));
    assert_true(read.best.dev_kl == 0.125 && read.last.dev_ce == 0.5);
    file_in(path, dir, "finished");
    must(dd_file_read(path, 4096, &bytes, &len, &err), &err);
    for (char version = 1; version <= 2; version++) { /* as earlier programs wrote it: less of the extension, or none */
        size_t extension = version == 1 ? 0 : 64, shorter = len - 96 + extension;
        char *old = malloc(len);
        assert_non_null(old);
        memcpy(old, bytes, len);
        old[8] = version;
        old[12] = (char)extension;
        dd_sha256_bytes(old, shorter - 32, (uint8_t *)old + shorter - 32);
        must(dd_file_write_durable(path, old, shorter, &err), &err);
        must(dd_finished_read(dir, &identity, &read, &err), &err);
        assert_true(read.best.epoch == 3 && isnan(read.best.dev_kl) && isnan(read.last.dev_ce));
        assert_int_equal(isnan(read.best.train_hidden) != 0, version == 1);
        free(old);
    }
    for (size_t at = 0; at < len; at++) {
        bytes[at] ^= 1;
        must(dd_file_write_durable(path, bytes, len, &err), &err);
        assert_int_equal(dd_finished_read(dir, &identity, &read, &err), DD_CORRUPT);
        bytes[at] ^= 1;
    }
    free(bytes);
}

static void test_long_epochs_forget_the_oldest_steps(void **state) {
    (void)state;
    struct dd_run_state run;
    struct dd_error err;
    dd_run_state_init(&run);
    for (int64_t i = 1; i <= DD_STEPS_KEPT + 10; i++) {
        must(dd_run_state_add_step(&run, &(struct dd_step_metrics){.step = i}, &err), &err);
    }
    assert_in_range(run.n_steps, DD_STEPS_KEPT / 2, DD_STEPS_KEPT);
    assert_int_equal(run.steps[run.n_steps - 1].step, DD_STEPS_KEPT + 10);
    assert_int_equal(run.steps[0].step, DD_STEPS_KEPT + 10 - (int64_t)run.n_steps + 1);
    dd_run_state_release(&run);
}

static int set_up(void **state) {
    struct dd_error err;
    if (fixture_set_up(state) != 0) {
        return -1;
    }
    return dd_pool_new(1, &pool, &err) == DD_OK && dd_team_join(pool, &team, &err) == DD_OK ? 0 : -1;
}

static int tear_down(void **state) {
    dd_team_leave(team);
    dd_pool_free(pool);
    return fixture_tear_down(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_extents),
        cmocka_unit_test(test_earlier_versions_are_read),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_forgeries_are_refused),
        cmocka_unit_test(test_foreign_is_refused),
        cmocka_unit_test(test_previous_stays_and_deadline_leaves_nothing),
        cmocka_unit_test(test_finished_record),
        cmocka_unit_test(test_long_epochs_forget_the_oldest_steps),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
