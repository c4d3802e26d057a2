/* record: what the files of a run have in common; see record.h.  Threads: pure functions, any thread. */
#include "engine/record.h"

#include <limits.h>
#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers and slabs are written as they lie in memory");
_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "IEEE 754");

/* --- numbers to bytes and back ---------------------------------------------------------------------------------- */

void dd_record_put_u64(struct dd_buffer *out, uint64_t value) {
    dd_buffer_append(out, &value, sizeof value);
}

void dd_record_put_f64(struct dd_buffer *out, double value) {
    dd_buffer_append(out, &value, sizeof value);
}

void dd_record_put_u32(struct dd_buffer *out, uint32_t value) {
    dd_buffer_append(out, &value, sizeof value);
}

uint64_t dd_record_get_u64(struct dd_cursor *in) {
    uint64_t value;
    memcpy(&value, in->at, sizeof value);
    in->at += sizeof value;
    return value;
}

double dd_record_get_f64(struct dd_cursor *in) {
    double value;
    memcpy(&value, in->at, sizeof value);
    in->at += sizeof value;
    return value;
}

void dd_record_get_bytes(struct dd_cursor *in, void *out, size_t count) {
    memcpy(out, in->at, count);
    in->at += count;
}

uint64_t dd_record_put_flags(enum dd_rollback rollback, int to) {
    return (uint64_t)rollback << 8 | (uint64_t)(uint32_t)to << 32;
}

void dd_record_get_flags(uint64_t flags, enum dd_rollback *ret_rollback, int *ret_to) {
    uint64_t rollback = flags >> 8 & 0xff, to = flags >> 32;
    bool known = rollback <= DD_ROLLBACK_F1_FELL && to <= INT_MAX;
    *ret_rollback = known ? (enum dd_rollback)rollback : DD_ROLLBACK_NONE;
    *ret_to = known ? (int)to : 0;
}

void dd_record_put_metrics(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    const double values[16] = {
        m->train_loss,   m->train_kl, m->train_ce,           m->dev_loss,         m->accuracy,    m->macro_precision,
        m->macro_recall, m->macro_f1, m->weighted_precision, m->weighted_recall,  m->weighted_f1, m->teacher_agreement,
        m->lr,           m->seconds,  m->elapsed_seconds,    m->tokens_per_second};
    dd_record_put_u64(out, (uint64_t)m->epoch);
    dd_buffer_append(out, values, sizeof values);
    dd_record_put_u64(out, dd_record_put_flags(m->rollback, m->rollback_to) | m->is_best);
}

void dd_record_get_metrics(struct dd_cursor *in, struct dd_epoch_metrics *ret) {
    int epoch = (int)dd_record_get_u64(in);
    double v[16];
    dd_record_get_bytes(in, v, sizeof v);
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
    uint64_t flags = dd_record_get_u64(in);
    ret->is_best = (flags & 1) != 0;
    dd_record_get_flags(flags, &ret->rollback, &ret->rollback_to);
    ret->train_hidden = ret->train_cls = NAN; /* unless an extension says more */
    ret->train_attention = ret->train_relation = ret->dev_kl = ret->dev_ce = NAN;
}

void dd_record_put_states(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    dd_record_put_f64(out, m->train_hidden);
    dd_record_put_f64(out, m->train_cls);
}

void dd_record_get_states(struct dd_cursor *in, struct dd_epoch_metrics *ret) {
    ret->train_hidden = dd_record_get_f64(in);
    ret->train_cls = dd_record_get_f64(in);
}

void dd_record_put_heads(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    dd_record_put_f64(out, m->train_attention);
    dd_record_put_f64(out, m->train_relation);
}

void dd_record_get_heads(struct dd_cursor *in, struct dd_epoch_metrics *ret) {
    ret->train_attention = dd_record_get_f64(in);
    ret->train_relation = dd_record_get_f64(in);
}

void dd_record_put_dev(struct dd_buffer *out, const struct dd_epoch_metrics *m) {
    dd_record_put_f64(out, m->dev_kl);
    dd_record_put_f64(out, m->dev_ce);
}

void dd_record_get_dev(struct dd_cursor *in, struct dd_epoch_metrics *ret) {
    ret->dev_kl = dd_record_get_f64(in);
    ret->dev_ce = dd_record_get_f64(in);
}

/* --- beginning and checking a file ------------------------------------------------------------------------------- */

void dd_record_begin(struct dd_buffer *out, const char magic[8], uint32_t version, uint32_t extension,
                     const struct dd_run_identity *identity) {
    dd_buffer_append(out, magic, 8);
    dd_record_put_u32(out, version);
    dd_record_put_u32(out, extension);
    dd_buffer_append(out, identity->spec, DD_SHA256_BYTES);
    dd_buffer_append(out, identity->data, DD_SHA256_BYTES);
    dd_buffer_append(out, identity->base, DD_SHA256_BYTES);
}

enum dd_status dd_record_damaged(struct dd_error *err, const char *path, const char *what) {
    return dd_fail(err, DD_CORRUPT, "checkpoint_damaged", "%s: %s", path, what);
}

uint32_t dd_record_version(const struct dd_mapping *map) {
    uint32_t version;
    memcpy(&version, map->bytes + 8, sizeof version);
    return version;
}

uint32_t dd_record_dev_bytes(const struct dd_mapping *map) {
    return dd_record_version(map) >= DD_RECORD_DEV_VERSION ? DD_RECORD_DEV_BYTES : 0;
}

uint32_t dd_record_extension(const struct dd_mapping *map, uint32_t end, uint32_t some, uint32_t all, bool *ret_known) {
    uint32_t bytes;
    memcpy(&bytes, map->bytes + 12, sizeof bytes);
    bytes -= end; /* of fewer bytes than that a number is left which is none of the three */
    *ret_known = bytes == 0 || ((bytes == some || bytes == all) && dd_record_version(map) > 1);
    return bytes;
}

void dd_record_checksum(const uint8_t *bytes, size_t body, uint32_t xxh3_from, uint8_t out[DD_SHA256_BYTES]) {
    uint32_t version;
    memcpy(&version, bytes + 8, sizeof version);
    if (version >= xxh3_from) {
        dd_checksum_bytes(bytes, body, out);
    } else {
        dd_sha256_bytes(bytes, body, out);
    }
}

enum dd_status dd_record_check(const char *path, const struct dd_mapping *map, const char magic[8], size_t least,
                               uint32_t newest, uint32_t xxh3_from, struct dd_error *err) {
    if (map->len < least + DD_SHA256_BYTES || memcmp(map->bytes, magic, 8) != 0) {
        return dd_record_damaged(err, path, "too short or of another kind");
    }
    uint32_t version = dd_record_version(map);
    uint8_t digest[DD_SHA256_BYTES];
    size_t body = map->len - DD_SHA256_BYTES;
    dd_record_checksum(map->bytes, body, xxh3_from, digest);
    if (memcmp(digest, map->bytes + body, sizeof digest) != 0) {
        return dd_record_damaged(err, path, "its checksum does not match its content");
    }
    if (version < 1 || version > newest) {
        return dd_fail(err, DD_UNSUPPORTED, "checkpoint_version", "%s: version %u, this program reads up to %u", path,
                       version, newest);
    }
    return DD_OK;
}

enum dd_status dd_record_check_identity(const char *path, const uint8_t *stored, const struct dd_run_identity *identity,
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
