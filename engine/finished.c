/* finished: the record of a run that came to its end, so that a daemon that died before it had stored the end only
 * stores it, and does not train again.
 *
 * Format: the beginning of record.h with magic "DDDONE\r\n" and version 3, then epochs_done, steps_done, parameters,
 * model_bytes (u64), metrics of best and last (144 bytes each), SHA-256 of the directories of best and last (32 each),
 * the extension, SHA-256 of all before: 528 bytes and the extension.  That has, of the best epoch and then of the last,
 * train_hidden and train_cls of runs that match inner states, then likewise train_attention and train_relation of runs
 * that match these, and from version 3 dev_kl and dev_ce of all (f64 each): 32, 64 or 96 bytes; in version 2 0, 32 or
 * 64; in version 1 none.
 *
 * Written to a temporary name, fsynced and renamed.  Threads: the run's own.
 */
#include "engine/record.h"

#include <math.h>

#define FINISHED_VERSION 3u
#define FINISHED_STATES_BYTES 32u
#define FINISHED_HEADS_BYTES 64u
#define FINISHED_BYTES 528u

static const char finished_magic[8] = {'D', 'D', 'D', 'O', 'N', 'E', '\r', '\n'};

static bool has_states(const struct dd_epoch_metrics *m) {
    return !isnan(m->train_hidden) || !isnan(m->train_cls);
}

static bool has_heads(const struct dd_epoch_metrics *m) {
    return !isnan(m->train_attention) || !isnan(m->train_relation);
}

enum dd_status dd_finished_write(const char *run_dir, const struct dd_run_identity *identity,
                                 const struct dd_finished *finished, struct dd_error *err) {
    char path[4096];
    enum dd_status status = dd_path_join(path, sizeof path, err, run_dir, "finished", NULL);
    if (status != DD_OK) {
        return status;
    }
    struct dd_buffer out;
    bool heads = has_heads(&finished->best), states = heads || has_states(&finished->best);
    dd_buffer_init(&out, FINISHED_BYTES + FINISHED_HEADS_BYTES + DD_RECORD_DEV_BYTES);
    uint32_t extension = heads ? FINISHED_HEADS_BYTES : states ? FINISHED_STATES_BYTES : 0;
    dd_record_begin(&out, finished_magic, FINISHED_VERSION, extension + DD_RECORD_DEV_BYTES, identity);
    dd_record_put_u64(&out, (uint64_t)finished->epochs_done);
    dd_record_put_u64(&out, (uint64_t)finished->steps_done);
    dd_record_put_u64(&out, finished->parameters);
    dd_record_put_u64(&out, finished->model_bytes);
    dd_record_put_metrics(&out, &finished->best);
    dd_record_put_metrics(&out, &finished->last);
    dd_buffer_append(&out, finished->best_sha256, DD_SHA256_BYTES);
    dd_buffer_append(&out, finished->last_sha256, DD_SHA256_BYTES);
    if (states) {
        dd_record_put_states(&out, &finished->best);
        dd_record_put_states(&out, &finished->last);
    }
    if (heads) {
        dd_record_put_heads(&out, &finished->best);
        dd_record_put_heads(&out, &finished->last);
    }
    dd_record_put_dev(&out, &finished->best);
    dd_record_put_dev(&out, &finished->last);
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
    status = dd_record_check(path, &map, finished_magic, FINISHED_BYTES - DD_SHA256_BYTES, FINISHED_VERSION,
                             DD_FINISHED_XXH3, err);
    bool known = false;
    uint32_t end = status == DD_OK ? dd_record_dev_bytes(&map) : 0;
    uint32_t extension =
        status == DD_OK ? dd_record_extension(&map, end, FINISHED_STATES_BYTES, FINISHED_HEADS_BYTES, &known) : 0;
    if (status == DD_OK && (!known || map.len != FINISHED_BYTES + extension + end)) {
        status = dd_record_damaged(err, path, "of another length");
    }
    if (status == DD_OK) {
        status = dd_record_check_identity(path, map.bytes + 16, identity, err);
    }
    if (status == DD_OK) {
        struct dd_cursor in = {map.bytes + 112};
        struct dd_finished read;
        read.epochs_done = (int)dd_record_get_u64(&in);
        read.steps_done = (int64_t)dd_record_get_u64(&in);
        read.parameters = dd_record_get_u64(&in);
        read.model_bytes = dd_record_get_u64(&in);
        dd_record_get_metrics(&in, &read.best);
        dd_record_get_metrics(&in, &read.last);
        dd_record_get_bytes(&in, read.best_sha256, DD_SHA256_BYTES);
        dd_record_get_bytes(&in, read.last_sha256, DD_SHA256_BYTES);
        if (extension >= FINISHED_STATES_BYTES) {
            dd_record_get_states(&in, &read.best);
            dd_record_get_states(&in, &read.last);
        }
        if (extension >= FINISHED_HEADS_BYTES) {
            dd_record_get_heads(&in, &read.best);
            dd_record_get_heads(&in, &read.last);
        }
        if (dd_record_dev_bytes(&map) > 0) {
            dd_record_get_dev(&in, &read.best);
            dd_record_get_dev(&in, &read.last);
        }
        *ret_finished = read;
    }
    dd_mapping_release(&map);
    return status;
}
