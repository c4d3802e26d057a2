/* checkpoint: what a run keeps on disk so that it can go on to the same bits after any interruption.
 *
 * Three files may lie in a run's directory: `checkpoint` (the newest), `checkpoint.previous` (the one before, for when
 * the newest is damaged) and, after the end, `finished`.  All are written to a temporary name, fsynced and renamed;
 * before the rename the old checkpoint gets its second name by link(2), so there is no moment without a whole one.
 *
 * Format of `checkpoint`.  All numbers little-endian, doubles and floats IEEE 754.
 *
 *   offset size
 *        0    8  magic "DDCKPT\r\n"
 *        8    4  version, 5; of version 1 a file ends the head at 616 and has no average
 *       12    4  E, bytes of the extension: 176, 224 or 280; 32, 80 or 136 in versions 3 and 4; 0, 48 or 104 in
 *                version 2; 0 in version 1
 *       16   32  SHA-256 of the spec's deciding fields (dd_spec_hash)
 *       48   32  SHA-256 of the data set (train, dev, unlabelled where it is used, class names)
 *       80   32  SHA-256 of the base (teacher or starting model, init model, vocabulary)
 *      112   32  SHA-256 of the parameters' names, shapes and offsets
 *      144    8  P, floats in a slab
 *      152    8  slabs that follow the weights: bit 0: first, bit 1: second moment, bit 2: average
 *      160    8  S, steps kept
 *      168    8  D, dev predictions kept
 *      176  120  position: step, epoch, epoch_step, sum_rows, sum_tokens, epochs_done, delivered (u64 each),
 *                optimizer step (u64), sum_loss, sum_kl, sum_ce, elapsed_seconds, epoch_seconds, evaluation_seconds
 *                (f64 each), sum_unlabelled (u64; 0 in files of before it existed, whose rows all had labels)
 *      296  144  metrics of the last epoch that is done (18 × 8: epoch u64, 16 f64 in the order of
 *                struct dd_epoch_metrics, flags u64: bit 0 is_best, bits 8 … 15 rollback, 32 … 63 rollback_to)
 *      440  144  metrics of the best one
 *      584   32  SHA-256 of the best one's directory (dd_directory_sha256)
 *      616   32  guard: rollbacks, restart_step, skipped_in_row, what it did in this epoch (flags as above; u64 each)
 *      648    E  of runs that match inner states: sum_hidden, sum_cls, then train_hidden and train_cls of the last
 *                epoch and of the best one (f64 each, 48 bytes).  Those that match attention or relations or weigh
 *                classes go on with sum_attention, sum_relation, sum_ce_weight, then train_attention and
 *                train_relation of the last epoch and of the best one (56 more).  From version 3 dev_kl and dev_ce of
 *                the last and of the best one follow (32), from version 5 the metrics of the peak (144 as above, by
 *                which later epochs are measured; up to version 4 it was the best one)
 *
 * Then 96 S steps: step, steps, epoch, epochs (u64), loss, kl, ce, lr, grad_norm, elapsed_seconds, tokens_per_second,
 * eta_seconds (f64); 4 D dev labels (i32); 4 D dev scores (f32); 4 P weights (f32); the further slabs: moments of what
 * is trained (4 (P − frozen)), average (4 P); 32 bytes of checksum of all before: XXH3-128 (16, canonical, then zeros),
 * up to version 3 SHA-256.
 *
 * A reader checks the length against the counts, then the checksum over the whole, and only then believes anything.
 */
#include "engine/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION 5u
#define PEAK_VERSION 5u  /* the first with the metrics of the peak */
#define STATES_BYTES 48u /* extensions, by what they keep (enum dd_state_extent) */
#define ALL_BYTES 104u
#define PEAK_BYTES 144u
#define STEP_BYTES 96u
#define HEAD_BYTES_1 616u
#define HEAD_BYTES 648u
#define MAX_ROLLBACKS 1000u /* of a state that is possible */
#define MAX_SKIPS 1000
#define WRITE_BYTES ((size_t)4 << 20) /* between two looks at the deadline */

static const char checkpoint_magic[8] = {'D', 'D', 'C', 'K', 'P', 'T', '\r', '\n'};

/* --- steps --------------------------------------------------------------------------------------------------- */

static void put_step(struct dd_buffer *out, const struct dd_step_metrics *s) {
    dd_record_put_u64(out, (uint64_t)s->step);
    dd_record_put_u64(out, (uint64_t)s->steps);
    dd_record_put_u64(out, (uint64_t)s->epoch);
    dd_record_put_u64(out, (uint64_t)s->epochs);
    const double values[8] = {
        s->loss, s->kl, s->ce, s->lr, s->grad_norm, s->elapsed_seconds, s->tokens_per_second, s->eta_seconds};
    dd_buffer_append(out, values, sizeof values);
}

static void get_step(struct dd_cursor *in, struct dd_step_metrics *ret) {
    ret->step = (int64_t)dd_record_get_u64(in);
    ret->steps = (int64_t)dd_record_get_u64(in);
    ret->epoch = (int)dd_record_get_u64(in);
    ret->epochs = (int)dd_record_get_u64(in);
    double v[8];
    dd_record_get_bytes(in, v, sizeof v);
    ret->loss = v[0];
    ret->kl = v[1];
    ret->ce = v[2];
    ret->lr = v[3];
    ret->grad_norm = v[4];
    ret->elapsed_seconds = v[5];
    ret->tokens_per_second = v[6];
    ret->eta_seconds = v[7];
}

/* --- writing a checkpoint --------------------------------------------------------------------------------------- */

static enum dd_status layout_sha256(const struct dd_params *params, uint8_t out[DD_SHA256_BYTES],
                                    struct dd_error *err) {
    struct dd_sha256 *hash = dd_sha256_new();
    if (!hash) {
        return dd_fail_memory(err, 0);
    }
    for (int t = 0; t < params->n_tensors; t++) {
        const struct dd_tensor *tensor = &params->tensors[t];
        const uint64_t numbers[4] = {(uint64_t)tensor->rank, tensor->shape[0], tensor->rank > 1 ? tensor->shape[1] : 0,
                                     tensor->offset};
        dd_sha256_update(hash, tensor->name, strlen(tensor->name) + 1);
        dd_sha256_update(hash, numbers, sizeof numbers);
    }
    dd_sha256_digest(hash, out);
    dd_sha256_free(hash);
    return DD_OK;
}

static uint64_t slab_bits(const struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS]) {
    uint64_t bits = 0;
    for (unsigned i = 0; i < DD_OPTIMIZER_SLABS; i++) {
        bits |= slabs[i].floats ? (uint64_t)1 << i : 0;
    }
    return bits;
}

static const uint32_t extent_bytes[] = {
    [DD_EXTENT_PLAIN] = 0, [DD_EXTENT_STATES] = STATES_BYTES, [DD_EXTENT_ALL] = ALL_BYTES};

static void put_extension(struct dd_buffer *out, const struct dd_run_state *state) {
    if (state->extent >= DD_EXTENT_STATES) {
        dd_record_put_f64(out, state->sum_hidden);
        dd_record_put_f64(out, state->sum_cls);
        dd_record_put_states(out, &state->last);
        dd_record_put_states(out, &state->best);
    }
    if (state->extent >= DD_EXTENT_ALL) {
        dd_record_put_f64(out, state->sum_attention);
        dd_record_put_f64(out, state->sum_relation);
        dd_record_put_f64(out, state->sum_ce_weight);
        dd_record_put_heads(out, &state->last);
        dd_record_put_heads(out, &state->best);
    }
}

static void put_head(struct dd_buffer *out, const struct dd_run_identity *identity, const uint8_t *layout,
                     const struct dd_run_state *state, size_t n_params, uint64_t slabs, int64_t optimizer_step) {
    dd_record_begin(out, checkpoint_magic, VERSION, extent_bytes[state->extent] + DD_RECORD_DEV_BYTES + PEAK_BYTES,
                    identity);
    dd_buffer_append(out, layout, DD_SHA256_BYTES);
    dd_record_put_u64(out, n_params);
    dd_record_put_u64(out, slabs);
    dd_record_put_u64(out, state->n_steps);
    dd_record_put_u64(out, state->n_dev);
    dd_record_put_u64(out, (uint64_t)state->step);
    dd_record_put_u64(out, (uint64_t)state->epoch);
    dd_record_put_u64(out, (uint64_t)state->epoch_step);
    dd_record_put_u64(out, state->sum_rows);
    dd_record_put_u64(out, state->sum_tokens);
    dd_record_put_u64(out, (uint64_t)state->epochs_done);
    dd_record_put_u64(out, state->delivered);
    dd_record_put_u64(out, (uint64_t)optimizer_step);
    dd_record_put_f64(out, state->sum_loss);
    dd_record_put_f64(out, state->sum_kl);
    dd_record_put_f64(out, state->sum_ce);
    dd_record_put_f64(out, state->elapsed_seconds);
    dd_record_put_f64(out, state->epoch_seconds);
    dd_record_put_f64(out, state->evaluation_seconds);
    dd_record_put_u64(out, state->sum_unlabelled);
    dd_record_put_metrics(out, &state->last);
    dd_record_put_metrics(out, &state->best);
    dd_buffer_append(out, state->best_sha256, DD_SHA256_BYTES);
    dd_record_put_u64(out, (uint64_t)state->rollbacks);
    dd_record_put_u64(out, (uint64_t)state->restart_step);
    dd_record_put_u64(out, (uint64_t)state->skipped_in_row);
    dd_record_put_u64(out, dd_record_put_flags(state->rolled_back, state->rolled_back_to));
    put_extension(out, state);
    dd_record_put_dev(out, &state->last);
    dd_record_put_dev(out, &state->best);
    dd_record_put_metrics(out, &state->peak);
}

static enum dd_status write_until(struct dd_writer *writer, const void *bytes, size_t count, int64_t deadline_us,
                                  struct dd_error *err) {
    const uint8_t *at = bytes;
    while (count > 0) {
        if (deadline_us != 0 && dd_clock_mono_us() > deadline_us) {
            return dd_fail(err, DD_BUSY, "checkpoint_deadline", "the checkpoint was not on disk in time");
        }
        size_t now = DD_MIN(count, WRITE_BYTES);
        enum dd_status status = dd_writer_write(writer, at, now, err);
        if (status != DD_OK) {
            return status;
        }
        at += now;
        count -= now;
    }
    return DD_OK;
}

/* The old checkpoint's second name. Without one (a file system without links) only the newest is kept. */
static void keep_previous(const char *path, const char *previous) {
    if (access(path, F_OK) == 0) {
        (void)unlink(previous);
        int linked = DD_FAILABLE("link", link(path, previous));
        (void)linked;
    }
}

static enum dd_status write_body(struct dd_writer *writer, const struct dd_buffer *head,
                                 const struct dd_run_state *state, const struct dd_params *params,
                                 const struct dd_optimizer_slab *slabs, int64_t deadline_us, struct dd_error *err) {
    const struct {
        const void *bytes;
        size_t count;
    } parts[] = {
        {head->data, head->len},
        {state->dev_label, state->n_dev * sizeof *state->dev_label},
        {state->dev_score, state->n_dev * sizeof *state->dev_score},
        {params->slab, params->count * sizeof(float)},
        {slabs[0].floats, slabs[0].count * sizeof(float)},
        {slabs[1].floats, slabs[1].count * sizeof(float)},
        {slabs[2].floats, slabs[2].count * sizeof(float)},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(parts); i++) {
        enum dd_status status = write_until(writer, parts[i].bytes, parts[i].count, deadline_us, err);
        if (status != DD_OK) {
            return status;
        }
    }
    uint8_t digest[DD_SHA256_BYTES];
    dd_writer_digest(writer, digest);
    return write_until(writer, digest, sizeof digest, deadline_us, err);
}

enum dd_status dd_checkpoint_write(const char *run_dir, const struct dd_run_identity *identity,
                                   const struct dd_run_state *state, const struct dd_params *params,
                                   struct dd_optimizer *optimizer, int64_t deadline_us, struct dd_error *err) {
    char path[4096], previous[4096];
    uint8_t layout[DD_SHA256_BYTES];
    enum dd_status status = dd_path_join(path, sizeof path, err, run_dir, "checkpoint", NULL);
    if (status == DD_OK) {
        status = dd_path_join(previous, sizeof previous, err, run_dir, "checkpoint.previous", NULL);
    }
    if (status == DD_OK) {
        status = layout_sha256(params, layout, err);
    }
    if (status != DD_OK) {
        return status;
    }
    float *ignored = NULL;
    struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS];
    int64_t optimizer_step = dd_optimizer_state(optimizer, &ignored, &ignored);
    dd_optimizer_slabs(optimizer, slabs);
    struct dd_buffer head;
    dd_buffer_init(&head,
                   HEAD_BYTES + ALL_BYTES + DD_RECORD_DEV_BYTES + PEAK_BYTES + (size_t)DD_STEPS_KEPT * STEP_BYTES);
    put_head(&head, identity, layout, state, params->count, slab_bits(slabs), optimizer_step);
    for (size_t i = 0; i < state->n_steps; i++) {
        put_step(&head, &state->steps[i]);
    }
    status = dd_buffer_check(&head, err);
    struct dd_writer *writer = NULL;
    if (status == DD_OK) {
        status = dd_writer_open(path, DD_WRITER_XXH3, &writer, err);
    }
    if (status == DD_OK) {
        status = write_body(writer, &head, state, params, slabs, deadline_us, err);
    }
    if (status == DD_OK) {
        keep_previous(path, previous);
        status = dd_writer_commit(writer, err);
    }
    dd_writer_free(writer);
    dd_buffer_release(&head);
    return status == DD_OK ? status : dd_error_prefix(err, "writing the checkpoint");
}

uint64_t dd_checkpoint_bytes(const struct dd_optimizer_spec *spec, uint64_t n_params, uint64_t n_frozen,
                             uint64_t dev_rows) {
    uint64_t moments = spec->type == DD_OPTIMIZER_ADAMW ? 2 : spec->momentum > 0.0 ? 1 : 0;
    uint64_t slabs = spec->ema > 0.0 ? 2 : 1;
    return HEAD_BYTES + ALL_BYTES + DD_RECORD_DEV_BYTES + PEAK_BYTES + DD_SHA256_BYTES + 8 * dev_rows +
           4 * slabs * n_params + 4 * moments * (n_params - n_frozen);
}

/* --- reading one ------------------------------------------------------------------------------------------------ */

struct head {       /* the numbers that decide the length */
    uint32_t bytes; /* of the head */
    uint64_t n_params, slabs, n_steps, n_dev;
    uint32_t extension, dev, peak; /* the extension and its end */
};

static enum dd_status check_length(const char *path, const struct dd_mapping *map, const struct dd_params *params,
                                   const struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS], struct head *ret_head,
                                   struct dd_error *err) {
    struct dd_cursor in = {map->bytes + 144};
    struct head head = {.bytes = dd_record_version(map) == 1 ? HEAD_BYTES_1 : HEAD_BYTES};
    head.n_params = dd_record_get_u64(&in);
    head.slabs = dd_record_get_u64(&in);
    head.n_steps = dd_record_get_u64(&in);
    head.n_dev = dd_record_get_u64(&in);
    bool known = false;
    head.dev = dd_record_dev_bytes(map);
    head.peak = dd_record_version(map) >= PEAK_VERSION ? PEAK_BYTES : 0;
    head.extension = dd_record_extension(map, head.dev + head.peak, STATES_BYTES, ALL_BYTES, &known);
    if (!known || head.n_params != params->count || head.slabs != slab_bits(slabs) || head.n_steps > DD_STEPS_KEPT ||
        head.n_dev > UINT32_MAX) {
        return dd_record_damaged(err, path, "its sizes are not those of this run");
    }
    uint64_t floats = head.n_params + slabs[0].count + slabs[1].count + slabs[2].count;
    uint64_t wanted =
        head.bytes + head.extension + head.dev + head.peak + STEP_BYTES * head.n_steps + 8 * head.n_dev + 4 * floats;
    if (wanted != map->len - DD_SHA256_BYTES) {
        return dd_record_damaged(err, path, "its length does not fit its header");
    }
    *ret_head = head;
    return DD_OK;
}

/* The arrays behind the head. */
static enum dd_status read_arrays(struct dd_cursor *in, const struct head *head, struct dd_run_state *state,
                                  struct dd_error *err) {
    state->steps = dd_calloc((size_t)head->n_steps, sizeof *state->steps);
    state->dev_label = dd_calloc((size_t)head->n_dev, sizeof *state->dev_label);
    state->dev_score = dd_calloc((size_t)head->n_dev, sizeof *state->dev_score);
    if (!state->steps || !state->dev_label || !state->dev_score) {
        return dd_fail_memory(err, (size_t)head->n_steps * sizeof *state->steps);
    }
    state->n_steps = state->steps_cap = (size_t)head->n_steps;
    state->n_dev = (size_t)head->n_dev;
    for (size_t i = 0; i < state->n_steps; i++) {
        get_step(in, &state->steps[i]);
    }
    dd_record_get_bytes(in, state->dev_label, state->n_dev * sizeof *state->dev_label);
    dd_record_get_bytes(in, state->dev_score, state->n_dev * sizeof *state->dev_score);
    return DD_OK;
}

/* A file with a right checksum may still have been made by somebody else: nothing in it may lead out of an array. */
static bool possible(const struct dd_checkpoint *cp, const struct dd_run_shape *shape) {
    const struct dd_run_state *s = &cp->state;
    if (s->epochs_done < 0 || s->epochs_done > shape->epochs || s->epoch != s->epochs_done + 1 || s->epoch_step < 0 ||
        s->epoch_step > shape->steps_per_epoch ||
        s->step != (int64_t)s->epochs_done * shape->steps_per_epoch + s->epoch_step || cp->optimizer_step != s->step ||
        s->sum_unlabelled > s->sum_rows) {
        return false;
    }
    if (s->epochs_done > 0 && (s->n_dev != shape->dev_rows || s->last.epoch != s->epochs_done || s->best.epoch < 1 ||
                               s->best.epoch > s->epochs_done || s->peak.epoch < 1 || s->peak.epoch > s->best.epoch)) {
        return false;
    }
    if (s->epochs_done == 0 && s->n_dev != 0) {
        return false;
    }
    if (s->rollbacks < 0 || s->skipped_in_row < 0 || s->skipped_in_row > MAX_SKIPS || s->restart_step < 0 ||
        s->restart_step > s->step || (s->rollbacks > 0) != (s->restart_step > 0)) {
        return false;
    }
    for (size_t i = 0; i < s->n_dev; i++) {
        if (s->dev_label[i] < 0 || s->dev_label[i] >= shape->n_classes) {
            return false;
        }
    }
    return true;
}

static void get_extension(struct dd_cursor *in, uint32_t bytes, struct dd_run_state *state) {
    state->extent = DD_EXTENT_PLAIN;
    /* What a file without them says of labels' weights: one each. */
    state->sum_ce_weight = (double)(state->sum_rows - state->sum_unlabelled);
    if (bytes >= STATES_BYTES) {
        state->extent = DD_EXTENT_STATES;
        state->sum_hidden = dd_record_get_f64(in);
        state->sum_cls = dd_record_get_f64(in);
        dd_record_get_states(in, &state->last);
        dd_record_get_states(in, &state->best);
    }
    if (bytes >= ALL_BYTES) {
        state->extent = DD_EXTENT_ALL;
        state->sum_attention = dd_record_get_f64(in);
        state->sum_relation = dd_record_get_f64(in);
        state->sum_ce_weight = dd_record_get_f64(in);
        dd_record_get_heads(in, &state->last);
        dd_record_get_heads(in, &state->best);
    }
}

static enum dd_status read_state(const char *path, const struct head *head, const struct dd_run_shape *shape,
                                 struct dd_checkpoint *cp, struct dd_error *err) {
    struct dd_cursor in = {cp->map.bytes + 176};
    struct dd_run_state *state = &cp->state;
    state->step = (int64_t)dd_record_get_u64(&in);
    state->epoch = (int)dd_record_get_u64(&in);
    state->epoch_step = (int64_t)dd_record_get_u64(&in);
    state->sum_rows = dd_record_get_u64(&in);
    state->sum_tokens = dd_record_get_u64(&in);
    state->epochs_done = (int)dd_record_get_u64(&in);
    state->delivered = dd_record_get_u64(&in) != 0;
    cp->optimizer_step = (int64_t)dd_record_get_u64(&in);
    state->sum_loss = dd_record_get_f64(&in);
    state->sum_kl = dd_record_get_f64(&in);
    state->sum_ce = dd_record_get_f64(&in);
    state->elapsed_seconds = dd_record_get_f64(&in);
    state->epoch_seconds = dd_record_get_f64(&in);
    state->evaluation_seconds = dd_record_get_f64(&in);
    state->sum_unlabelled = dd_record_get_u64(&in);
    dd_record_get_metrics(&in, &state->last);
    dd_record_get_metrics(&in, &state->best);
    dd_record_get_bytes(&in, state->best_sha256, DD_SHA256_BYTES);
    if (head->bytes == HEAD_BYTES) {
        uint64_t rollbacks = dd_record_get_u64(&in);
        state->rollbacks = rollbacks <= MAX_ROLLBACKS ? (int)rollbacks : -1;
        state->restart_step = (int64_t)dd_record_get_u64(&in);
        state->skipped_in_row = (int)dd_record_get_u64(&in);
        dd_record_get_flags(dd_record_get_u64(&in), &state->rolled_back, &state->rolled_back_to);
    }
    get_extension(&in, head->extension, state);
    if (head->dev > 0) {
        dd_record_get_dev(&in, &state->last);
        dd_record_get_dev(&in, &state->best);
    }
    state->peak = state->best;
    if (head->peak > 0) {
        dd_record_get_metrics(&in, &state->peak);
    }
    enum dd_status status = read_arrays(&in, head, state, err);
    if (status == DD_OK && !possible(cp, shape)) {
        status = dd_record_damaged(err, path, "its position is not one of this run");
    }
    cp->slabs = in.at;
    return status;
}

static enum dd_status open_checked(const char *path, const struct dd_run_identity *identity,
                                   const struct dd_run_shape *shape, const struct dd_params *params,
                                   struct dd_optimizer *optimizer, struct dd_checkpoint *cp, struct dd_error *err) {
    struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS];
    uint8_t layout[DD_SHA256_BYTES];
    struct head head = {0};
    dd_optimizer_slabs(optimizer, slabs);
    enum dd_status status =
        dd_record_check(path, &cp->map, checkpoint_magic, HEAD_BYTES_1, VERSION, DD_CHECKPOINT_XXH3, err);
    if (status == DD_OK) {
        status = dd_record_check_identity(path, cp->map.bytes + 16, identity, err);
    }
    if (status == DD_OK) {
        status = layout_sha256(params, layout, err);
    }
    if (status == DD_OK && memcmp(cp->map.bytes + 112, layout, sizeof layout) != 0) {
        status = dd_record_damaged(err, path, "its parameters have other names or shapes");
    }
    if (status == DD_OK) {
        status = check_length(path, &cp->map, params, slabs, &head, err);
    }
    return status == DD_OK ? read_state(path, &head, shape, cp, err) : status;
}

enum dd_status dd_checkpoint_open(const char *path, const struct dd_run_identity *identity,
                                  const struct dd_run_shape *shape, const struct dd_params *params,
                                  struct dd_optimizer *optimizer, struct dd_checkpoint *ret_checkpoint,
                                  struct dd_error *err) {
    struct dd_checkpoint cp = {0};
    enum dd_status status = dd_mapping_open(path, &cp.map, err);
    if (status != DD_OK) {
        return status;
    }
    status = open_checked(path, identity, shape, params, optimizer, &cp, err);
    if (status != DD_OK) {
        dd_checkpoint_close(&cp);
        return status;
    }
    *ret_checkpoint = cp;
    return DD_OK;
}

void dd_checkpoint_apply(struct dd_checkpoint *checkpoint, struct dd_run_state *state, struct dd_params *params,
                         struct dd_optimizer *optimizer) {
    struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS];
    dd_optimizer_slabs(optimizer, slabs);
    struct dd_cursor in = {checkpoint->slabs};
    dd_record_get_bytes(&in, params->slab, params->count * sizeof(float));
    for (size_t i = 0; i < DD_ARRAY_LEN(slabs); i++) {
        if (slabs[i].floats) {
            dd_record_get_bytes(&in, slabs[i].floats, slabs[i].count * sizeof(float));
        }
    }
    dd_optimizer_set_step(optimizer, checkpoint->optimizer_step);
    dd_optimizer_set_restart(optimizer, checkpoint->state.restart_step, dd_run_lr_scale(&checkpoint->state));
    dd_run_state_release(state);
    *state = checkpoint->state;
    checkpoint->state = (struct dd_run_state){0};
}

void dd_checkpoint_close(struct dd_checkpoint *checkpoint) {
    dd_run_state_release(&checkpoint->state);
    dd_mapping_release(&checkpoint->map);
}

bool dd_sealed_whole(const uint8_t *bytes, size_t len) {
    uint8_t digest[DD_SHA256_BYTES];
    if (len < sizeof checkpoint_magic + 4 + DD_SHA256_BYTES) {
        return false;
    }
    bool checkpoint = memcmp(bytes, checkpoint_magic, sizeof checkpoint_magic) == 0;
    dd_record_checksum(bytes, len - DD_SHA256_BYTES, checkpoint ? DD_CHECKPOINT_XXH3 : DD_FINISHED_XXH3, digest);
    return memcmp(digest, bytes + len - DD_SHA256_BYTES, sizeof digest) == 0;
}
