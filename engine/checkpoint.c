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
 *        8    4  version, 3; of version 1 a file ends the head at 616 and has no average
 *       12    4  E, bytes of the extension: 32, 80 or 136; 0, 48 or 104 in version 2; 0 in version 1
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
 *                the last and of the best one end it (32)
 *
 * Then 96 S steps: step, steps, epoch, epochs (u64), loss, kl, ce, lr, grad_norm, elapsed_seconds, tokens_per_second,
 * eta_seconds (f64); 4 D dev labels (i32); 4 D dev scores (f32); 4 P weights (f32); the further slabs: moments of what
 * is trained (4 (P − frozen)), average (4 P); 32 bytes, SHA-256 of all before.
 *
 * Format of `finished`: magic "DDDONE\r\n", version and extension as above (u32 each; E is 32, 64 or 96; in version 2
 * 0, 32 or 64, in version 1 0), the first
 * three hashes above (96 bytes), epochs_done, steps_done, parameters, model_bytes (u64), metrics of best and last (144
 * each), SHA-256 of the directories of best and last (32 each), the extension (train_hidden and train_cls of the best
 * epoch, then of the last; then likewise train_attention and train_relation; from version 3 dev_kl and dev_ce), SHA-256
 * of all before: 528 bytes and E.
 *
 * A reader checks the length against the counts, then the checksum over the whole, and only then believes anything.
 */
#include "engine/train.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slabs are written as they lie in memory");
_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "IEEE 754");

#define VERSION 3u
#define FINISHED_VERSION 3u
#define DEV_VERSION 3u /* the first of both with what the dev loss is made of */
#define DEV_BYTES 32u
#define STATES_BYTES 48u /* extensions, by what they keep (enum dd_state_extent) */
#define ALL_BYTES 104u
#define FINISHED_STATES_BYTES 32u
#define FINISHED_HEADS_BYTES 64u
#define METRICS_BYTES 144u
#define STEP_BYTES 96u
#define HEAD_BYTES_1 616u
#define HEAD_BYTES 648u
#define FINISHED_BYTES 528u
#define MAX_ROLLBACKS 1000u /* of a state that is possible */
#define MAX_SKIPS 1000
#define WRITE_BYTES ((size_t)4 << 20) /* between two looks at the deadline */

static const char checkpoint_magic[8] = {'D', 'D', 'C', 'K', 'P', 'T', '\r', '\n'};
static const char finished_magic[8] = {'D', 'D', 'D', 'O', 'N', 'E', '\r', '\n'};

/* --- numbers to bytes and back ---------------------------------------------------------------------------------- */

static void put_u64(struct dd_buffer *out, uint64_t value) {
    dd_buffer_append(out, &value, sizeof value);
}

static void put_f64(struct dd_buffer *out, double value) {
    dd_buffer_append(out, &value, sizeof value);
}

static void put_u32(struct dd_buffer *out, uint32_t value) {
    dd_buffer_append(out, &value, sizeof value);
}

/* The length has been checked before: reading never passes the end. */
struct cursor {
    const uint8_t *at;
};

static uint64_t get_u64(struct cursor *in) {
    uint64_t value;
    memcpy(&value, in->at, sizeof value);
    in->at += sizeof value;
    return value;
}

static double get_f64(struct cursor *in) {
    double value;
    memcpy(&value, in->at, sizeof value);
    in->at += sizeof value;
    return value;
}

static void get_bytes(struct cursor *in, void *out, size_t count) {
    memcpy(out, in->at, count);
    in->at += count;
}

static uint64_t put_flags(enum dd_rollback rollback, int to) {
    return (uint64_t)rollback << 8 | (uint64_t)(uint32_t)to << 32;
}

/* What a stranger may have written: a rollback that is unknown is none. */
static void get_flags(uint64_t flags, enum dd_rollback *ret_rollback, int *ret_to) {
    uint64_t rollback = flags >> 8 & 0xff, to = flags >> 32;
    bool known = rollback <= DD_ROLLBACK_F1_FELL && to <= INT_MAX;
    *ret_rollback = known ? (enum dd_rollback)rollback : DD_ROLLBACK_NONE;
    *ret_to = known ? (int)to : 0;
}

static void put_metrics(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    const double values[16] = {
        m->train_loss,   m->train_kl, m->train_ce,           m->dev_loss,         m->accuracy,    m->macro_precision,
        m->macro_recall, m->macro_f1, m->weighted_precision, m->weighted_recall,  m->weighted_f1, m->teacher_agreement,
        m->lr,           m->seconds,  m->elapsed_seconds,    m->tokens_per_second};
    put_u64(out, (uint64_t)m->epoch);
    dd_buffer_append(out, values, sizeof values);
    put_u64(out, put_flags(m->rollback, m->rollback_to) | m->is_best);
}

static void get_metrics(struct cursor *in, struct dd_epoch_metrics *ret) {
    int epoch = (int)get_u64(in);
    double v[16];
    get_bytes(in, v, sizeof v);
    *ret = (struct dd_epoch_metrics){.epoch = epoch,
                                     .train_loss = v[0],
                                     .train_kl = v[1],
                                     .train_ce = v[2],
                                     .dev_loss = v[3],
                                     .accuracy = v[4],
                                     .macro_precision = v[5],
                                     .macro_recall = v[6],
                                     .macro_f1 = v[7],
                                     .weighted_precision = v[8],
                                     .weighted_recall = v[9],
                                     .weighted_f1 = v[10],
                                     .teacher_agreement = v[11],
                                     .lr = v[12],
                                     .seconds = v[13],
                                     .elapsed_seconds = v[14],
                                     .tokens_per_second = v[15]};
    uint64_t flags = get_u64(in);
    ret->is_best = (flags & 1) != 0;
    get_flags(flags, &ret->rollback, &ret->rollback_to);
    ret->train_hidden = ret->train_cls = NAN; /* unless an extension says more */
    ret->train_attention = ret->train_relation = ret->dev_kl = ret->dev_ce = NAN;
}

static void put_step(struct dd_buffer *out, const struct dd_step_metrics *s) {
    put_u64(out, (uint64_t)s->step);
    put_u64(out, (uint64_t)s->steps);
    put_u64(out, (uint64_t)s->epoch);
    put_u64(out, (uint64_t)s->epochs);
    const double values[8] = {
        s->loss, s->kl, s->ce, s->lr, s->grad_norm, s->elapsed_seconds, s->tokens_per_second, s->eta_seconds};
    dd_buffer_append(out, values, sizeof values);
}

static void get_step(struct cursor *in, struct dd_step_metrics *ret) {
    ret->step = (int64_t)get_u64(in);
    ret->steps = (int64_t)get_u64(in);
    ret->epoch = (int)get_u64(in);
    ret->epochs = (int)get_u64(in);
    double v[8];
    get_bytes(in, v, sizeof v);
    ret->loss = v[0];
    ret->kl = v[1];
    ret->ce = v[2];
    ret->lr = v[3];
    ret->grad_norm = v[4];
    ret->elapsed_seconds = v[5];
    ret->tokens_per_second = v[6];
    ret->eta_seconds = v[7];
}

static bool has_states(const struct dd_epoch_metrics *m) {
    return !isnan(m->train_hidden) || !isnan(m->train_cls);
}

static bool has_heads(const struct dd_epoch_metrics *m) {
    return !isnan(m->train_attention) || !isnan(m->train_relation);
}

static void put_states(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    put_f64(out, m->train_hidden);
    put_f64(out, m->train_cls);
}

static void get_states(struct cursor *in, struct dd_epoch_metrics *ret) {
    ret->train_hidden = get_f64(in);
    ret->train_cls = get_f64(in);
}

static void put_heads(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    put_f64(out, m->train_attention);
    put_f64(out, m->train_relation);
}

static void get_heads(struct cursor *in, struct dd_epoch_metrics *ret) {
    ret->train_attention = get_f64(in);
    ret->train_relation = get_f64(in);
}

static void put_dev(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    put_f64(out, m->dev_kl);
    put_f64(out, m->dev_ce);
}

static void get_dev(struct cursor *in, struct dd_epoch_metrics *ret) {
    ret->dev_kl = get_f64(in);
    ret->dev_ce = get_f64(in);
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
        put_f64(out, state->sum_hidden);
        put_f64(out, state->sum_cls);
        put_states(out, &state->last);
        put_states(out, &state->best);
    }
    if (state->extent >= DD_EXTENT_ALL) {
        put_f64(out, state->sum_attention);
        put_f64(out, state->sum_relation);
        put_f64(out, state->sum_ce_weight);
        put_heads(out, &state->last);
        put_heads(out, &state->best);
    }
}

static void put_head(struct dd_buffer *out, const struct dd_run_identity *identity, const uint8_t *layout,
                     const struct dd_run_state *state, size_t n_params, uint64_t slabs, int64_t optimizer_step) {
    dd_buffer_append(out, checkpoint_magic, sizeof checkpoint_magic);
    put_u32(out, VERSION);
    put_u32(out, extent_bytes[state->extent] + DEV_BYTES);
    dd_buffer_append(out, identity->spec, DD_SHA256_BYTES);
    dd_buffer_append(out, identity->data, DD_SHA256_BYTES);
    dd_buffer_append(out, identity->base, DD_SHA256_BYTES);
    dd_buffer_append(out, layout, DD_SHA256_BYTES);
    put_u64(out, n_params);
    put_u64(out, slabs);
    put_u64(out, state->n_steps);
    put_u64(out, state->n_dev);
    put_u64(out, (uint64_t)state->step);
    put_u64(out, (uint64_t)state->epoch);
    put_u64(out, (uint64_t)state->epoch_step);
    put_u64(out, state->sum_rows);
    put_u64(out, state->sum_tokens);
    put_u64(out, (uint64_t)state->epochs_done);
    put_u64(out, state->delivered);
    put_u64(out, (uint64_t)optimizer_step);
    put_f64(out, state->sum_loss);
    put_f64(out, state->sum_kl);
    put_f64(out, state->sum_ce);
    put_f64(out, state->elapsed_seconds);
    put_f64(out, state->epoch_seconds);
    put_f64(out, state->evaluation_seconds);
    put_u64(out, state->sum_unlabelled);
    put_metrics(out, &state->last);
    put_metrics(out, &state->best);
    dd_buffer_append(out, state->best_sha256, DD_SHA256_BYTES);
    put_u64(out, (uint64_t)state->rollbacks);
    put_u64(out, (uint64_t)state->restart_step);
    put_u64(out, (uint64_t)state->skipped_in_row);
    put_u64(out, put_flags(state->rolled_back, state->rolled_back_to));
    put_extension(out, state);
    put_dev(out, &state->last);
    put_dev(out, &state->best);
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
    dd_buffer_init(&head, HEAD_BYTES + ALL_BYTES + (size_t)DD_STEPS_KEPT * STEP_BYTES);
    put_head(&head, identity, layout, state, params->count, slab_bits(slabs), optimizer_step);
    for (size_t i = 0; i < state->n_steps; i++) {
        put_step(&head, &state->steps[i]);
    }
    status = dd_buffer_check(&head, err);
    struct dd_writer *writer = NULL;
    if (status == DD_OK) {
        status = dd_writer_open(path, true, &writer, err);
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
    return HEAD_BYTES + ALL_BYTES + DEV_BYTES + DD_SHA256_BYTES + 8 * dev_rows + 4 * slabs * n_params +
           4 * moments * (n_params - n_frozen);
}

/* --- reading one ------------------------------------------------------------------------------------------------ */

static enum dd_status damaged(struct dd_error *err, const char *path, const char *what) {
    return dd_fail(err, DD_CORRUPT, "checkpoint_damaged", "%s: %s", path, what);
}

static uint32_t version_of(const struct dd_mapping *map) {
    uint32_t version;
    memcpy(&version, map->bytes + 8, sizeof version);
    return version;
}

/* Bytes of the extension's end, which files of later versions have. */
static uint32_t dev_bytes(const struct dd_mapping *map) {
    return version_of(map) >= DEV_VERSION ? DEV_BYTES : 0;
}

/* Bytes of the extension before its end: 0, `some` or `all`; *ret_known is false when it is none of these. */
static uint32_t extension_of(const struct dd_mapping *map, uint32_t some, uint32_t all, bool *ret_known) {
    uint32_t bytes;
    memcpy(&bytes, map->bytes + 12, sizeof bytes);
    bytes -= dev_bytes(map); /* of fewer bytes than that a number is left which is none of the three */
    *ret_known = bytes == 0 || ((bytes == some || bytes == all) && version_of(map) > 1);
    return bytes;
}

/* Checks magic and checksum; after this the bytes are what was written. */
static enum dd_status check_whole(const char *path, const struct dd_mapping *map, const char magic[8], size_t least,
                                  uint32_t newest, struct dd_error *err) {
    if (map->len < least + DD_SHA256_BYTES || memcmp(map->bytes, magic, 8) != 0) {
        return damaged(err, path, "too short or of another kind");
    }
    uint32_t version = version_of(map);
    uint8_t digest[DD_SHA256_BYTES];
    size_t body = map->len - DD_SHA256_BYTES;
    dd_sha256_bytes(map->bytes, body, digest);
    if (memcmp(digest, map->bytes + body, sizeof digest) != 0) {
        return damaged(err, path, "its checksum does not match its content");
    }
    if (version < 1 || version > newest) {
        return dd_fail(err, DD_UNSUPPORTED, "checkpoint_version", "%s: version %u, this program reads up to %u", path,
                       version, newest);
    }
    return DD_OK;
}

static enum dd_status check_identity(const char *path, const uint8_t *stored, const struct dd_run_identity *identity,
                                     struct dd_error *err) {
    const char *other = NULL;
    if (memcmp(stored, identity->spec, DD_SHA256_BYTES) != 0) {
        other = "another spec";
    } else if (memcmp(stored + DD_SHA256_BYTES, identity->data, DD_SHA256_BYTES) != 0) {
        other = "another data set";
    } else if (memcmp(stored + 2 * DD_SHA256_BYTES, identity->base, DD_SHA256_BYTES) != 0) {
        other = "another teacher or starting model";
    }
    if (other) {
        return dd_fail(err, DD_CONFLICT, "checkpoint_foreign", "%s belongs to a run of %s", path, other);
    }
    return DD_OK;
}

struct head {       /* the numbers that decide the length */
    uint32_t bytes; /* of the head */
    uint64_t n_params, slabs, n_steps, n_dev;
    uint32_t extension, dev; /* the extension and its end */
};

static enum dd_status check_length(const char *path, const struct dd_mapping *map, const struct dd_params *params,
                                   const struct dd_optimizer_slab slabs[DD_OPTIMIZER_SLABS], struct head *ret_head,
                                   struct dd_error *err) {
    struct cursor in = {map->bytes + 144};
    struct head head = {.bytes = version_of(map) == 1 ? HEAD_BYTES_1 : HEAD_BYTES};
    head.n_params = get_u64(&in);
    head.slabs = get_u64(&in);
    head.n_steps = get_u64(&in);
    head.n_dev = get_u64(&in);
    bool known = false;
    head.extension = extension_of(map, STATES_BYTES, ALL_BYTES, &known);
    head.dev = dev_bytes(map);
    if (!known || head.n_params != params->count || head.slabs != slab_bits(slabs) || head.n_steps > DD_STEPS_KEPT ||
        head.n_dev > UINT32_MAX) {
        return damaged(err, path, "its sizes are not those of this run");
    }
    uint64_t floats = head.n_params + slabs[0].count + slabs[1].count + slabs[2].count;
    uint64_t wanted = head.bytes + head.extension + head.dev + STEP_BYTES * head.n_steps + 8 * head.n_dev + 4 * floats;
    if (wanted != map->len - DD_SHA256_BYTES) {
        return damaged(err, path, "its length does not fit its header");
    }
    *ret_head = head;
    return DD_OK;
}

/* The arrays behind the head. */
static enum dd_status read_arrays(struct cursor *in, const struct head *head, struct dd_run_state *state,
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
    get_bytes(in, state->dev_label, state->n_dev * sizeof *state->dev_label);
    get_bytes(in, state->dev_score, state->n_dev * sizeof *state->dev_score);
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
                               s->best.epoch > s->epochs_done)) {
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

static void get_extension(struct cursor *in, uint32_t bytes, struct dd_run_state *state) {
    state->extent = DD_EXTENT_PLAIN;
    /* What a file without them says of labels' weights: one each. */
    state->sum_ce_weight = (double)(state->sum_rows - state->sum_unlabelled);
    if (bytes >= STATES_BYTES) {
        state->extent = DD_EXTENT_STATES;
        state->sum_hidden = get_f64(in);
        state->sum_cls = get_f64(in);
        get_states(in, &state->last);
        get_states(in, &state->best);
    }
    if (bytes >= ALL_BYTES) {
        state->extent = DD_EXTENT_ALL;
        state->sum_attention = get_f64(in);
        state->sum_relation = get_f64(in);
        state->sum_ce_weight = get_f64(in);
        get_heads(in, &state->last);
        get_heads(in, &state->best);
    }
}

static enum dd_status read_state(const char *path, const struct head *head, const struct dd_run_shape *shape,
                                 struct dd_checkpoint *cp, struct dd_error *err) {
    struct cursor in = {cp->map.bytes + 176};
    struct dd_run_state *state = &cp->state;
    state->step = (int64_t)get_u64(&in);
    state->epoch = (int)get_u64(&in);
    state->epoch_step = (int64_t)get_u64(&in);
    state->sum_rows = get_u64(&in);
    state->sum_tokens = get_u64(&in);
    state->epochs_done = (int)get_u64(&in);
    state->delivered = get_u64(&in) != 0;
    cp->optimizer_step = (int64_t)get_u64(&in);
    state->sum_loss = get_f64(&in);
    state->sum_kl = get_f64(&in);
    state->sum_ce = get_f64(&in);
    state->elapsed_seconds = get_f64(&in);
    state->epoch_seconds = get_f64(&in);
    state->evaluation_seconds = get_f64(&in);
    state->sum_unlabelled = get_u64(&in);
    get_metrics(&in, &state->last);
    get_metrics(&in, &state->best);
    get_bytes(&in, state->best_sha256, DD_SHA256_BYTES);
    if (head->bytes == HEAD_BYTES) {
        uint64_t rollbacks = get_u64(&in);
        state->rollbacks = rollbacks <= MAX_ROLLBACKS ? (int)rollbacks : -1;
        state->restart_step = (int64_t)get_u64(&in);
        state->skipped_in_row = (int)get_u64(&in);
        get_flags(get_u64(&in), &state->rolled_back, &state->rolled_back_to);
    }
    get_extension(&in, head->extension, state);
    if (head->dev > 0) {
        get_dev(&in, &state->last);
        get_dev(&in, &state->best);
    }
    enum dd_status status = read_arrays(&in, head, state, err);
    if (status == DD_OK && !possible(cp, shape)) {
        status = damaged(err, path, "its position is not one of this run");
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
    enum dd_status status = check_whole(path, &cp->map, checkpoint_magic, HEAD_BYTES_1, VERSION, err);
    if (status == DD_OK) {
        status = check_identity(path, cp->map.bytes + 16, identity, err);
    }
    if (status == DD_OK) {
        status = layout_sha256(params, layout, err);
    }
    if (status == DD_OK && memcmp(cp->map.bytes + 112, layout, sizeof layout) != 0) {
        status = damaged(err, path, "its parameters have other names or shapes");
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
    struct cursor in = {checkpoint->slabs};
    get_bytes(&in, params->slab, params->count * sizeof(float));
    for (size_t i = 0; i < DD_ARRAY_LEN(slabs); i++) {
        if (slabs[i].floats) {
            get_bytes(&in, slabs[i].floats, slabs[i].count * sizeof(float));
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

/* --- the record of a finished run ------------------------------------------------------------------------------- */

enum dd_status dd_finished_write(const char *run_dir, const struct dd_run_identity *identity,
                                 const struct dd_finished *finished, struct dd_error *err) {
    char path[4096];
    enum dd_status status = dd_path_join(path, sizeof path, err, run_dir, "finished", NULL);
    if (status != DD_OK) {
        return status;
    }
    struct dd_buffer out;
    bool heads = has_heads(&finished->best), states = heads || has_states(&finished->best);
    dd_buffer_init(&out, FINISHED_BYTES + FINISHED_HEADS_BYTES + DEV_BYTES);
    dd_buffer_append(&out, finished_magic, sizeof finished_magic);
    put_u32(&out, FINISHED_VERSION);
    put_u32(&out, DEV_BYTES + (heads ? FINISHED_HEADS_BYTES : states ? FINISHED_STATES_BYTES : 0));
    dd_buffer_append(&out, identity->spec, DD_SHA256_BYTES);
    dd_buffer_append(&out, identity->data, DD_SHA256_BYTES);
    dd_buffer_append(&out, identity->base, DD_SHA256_BYTES);
    put_u64(&out, (uint64_t)finished->epochs_done);
    put_u64(&out, (uint64_t)finished->steps_done);
    put_u64(&out, finished->parameters);
    put_u64(&out, finished->model_bytes);
    put_metrics(&out, &finished->best);
    put_metrics(&out, &finished->last);
    dd_buffer_append(&out, finished->best_sha256, DD_SHA256_BYTES);
    dd_buffer_append(&out, finished->last_sha256, DD_SHA256_BYTES);
    if (states) {
        put_states(&out, &finished->best);
        put_states(&out, &finished->last);
    }
    if (heads) {
        put_heads(&out, &finished->best);
        put_heads(&out, &finished->last);
    }
    put_dev(&out, &finished->best);
    put_dev(&out, &finished->last);
    uint8_t digest[DD_SHA256_BYTES];
    dd_sha256_bytes(out.data, out.len, digest);
    dd_buffer_append(&out, digest, sizeof digest);
    status = dd_buffer_check(&out, err);
    if (status == DD_OK) {
        status = dd_file_write_durable(path, out.data, out.len, err);
    }
    dd_buffer_release(&out);
    return status;
}

enum dd_status dd_finished_read(const char *run_dir, const struct dd_run_identity *identity,
                                struct dd_finished *ret_finished, struct dd_error *err) {
    char path[4096];
    struct dd_mapping map;
    enum dd_status status = dd_path_join(path, sizeof path, err, run_dir, "finished", NULL);
    if (status == DD_OK) {
        status = dd_mapping_open(path, &map, err);
    }
    if (status != DD_OK) {
        return status;
    }
    status = check_whole(path, &map, finished_magic, FINISHED_BYTES - DD_SHA256_BYTES, FINISHED_VERSION, err);
    bool known = false;
    uint32_t extension = status == DD_OK ? extension_of(&map, FINISHED_STATES_BYTES, FINISHED_HEADS_BYTES, &known) : 0;
    if (status == DD_OK && (!known || map.len != FINISHED_BYTES + extension + dev_bytes(&map))) {
        status = damaged(err, path, "of another length");
    }
    if (status == DD_OK) {
        status = check_identity(path, map.bytes + 16, identity, err);
    }
    if (status == DD_OK) {
        struct cursor in = {map.bytes + 112};
        struct dd_finished read;
        read.epochs_done = (int)get_u64(&in);
        read.steps_done = (int64_t)get_u64(&in);
        read.parameters = get_u64(&in);
        read.model_bytes = get_u64(&in);
        get_metrics(&in, &read.best);
        get_metrics(&in, &read.last);
        get_bytes(&in, read.best_sha256, DD_SHA256_BYTES);
        get_bytes(&in, read.last_sha256, DD_SHA256_BYTES);
        if (extension >= FINISHED_STATES_BYTES) {
            get_states(&in, &read.best);
            get_states(&in, &read.last);
        }
        if (extension >= FINISHED_HEADS_BYTES) {
            get_heads(&in, &read.best);
            get_heads(&in, &read.last);
        }
        if (dev_bytes(&map) > 0) {
            get_dev(&in, &read.best);
            get_dev(&in, &read.last);
        }
        *ret_finished = read;
    }
    dd_mapping_release(&map);
    return status;
}
