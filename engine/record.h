/* record: what a run's binary files, its checkpoint and its `finished`, have in common: how they begin, how numbers and
 * metrics of an epoch lie in them, and the checks that come before anything in them is believed.  Private to
 * checkpoint.c, finished.c and their tests.
 *
 * All numbers little-endian, doubles IEEE 754.  A file begins with
 *
 *   offset size
 *        0    8  magic
 *        8    4  version
 *       12    4  bytes of the extension
 *       16   96  SHA-256 of spec, data and base (struct dd_run_identity)
 *
 * and ends with 32 bytes of checksum of all before (dd_record_checksum).  Metrics of an epoch are 144 bytes: epoch
 * (u64), 16 f64 in the order of struct dd_epoch_metrics, flags (u64: bit 0 is_best, bits 8 … 15 rollback, 32 … 63
 * rollback_to); those of matching are in extensions.
 */
#ifndef DD_ENGINE_RECORD_H
#define DD_ENGINE_RECORD_H

#include "engine/train.h"

#define DD_RECORD_DEV_VERSION 3u /* the first of both files with what the dev loss is made of */
#define DD_CHECKPOINT_XXH3 4u    /* the first version of a checkpoint with that checksum */
#define DD_FINISHED_XXH3 UINT32_MAX
#define DD_RECORD_DEV_BYTES 32u /* of best and last together */

void dd_record_put_u32(struct dd_buffer *out, uint32_t value);
void dd_record_put_u64(struct dd_buffer *out, uint64_t value);
void dd_record_put_f64(struct dd_buffer *out, double value);
void dd_record_put_metrics(struct dd_buffer *out, const struct dd_epoch_metrics *m);
void dd_record_put_states(struct dd_buffer *out, const struct dd_epoch_metrics *m); /* train_hidden, train_cls */
void dd_record_put_heads(struct dd_buffer *out, const struct dd_epoch_metrics *m); /* train_attention, train_relation */
void dd_record_put_dev(struct dd_buffer *out, const struct dd_epoch_metrics *m);   /* dev_kl, dev_ce */
uint64_t dd_record_put_flags(enum dd_rollback rollback, int to);                   /* bits 8 … */

/* The length has been checked before: reading never passes the end. */
struct dd_cursor {
    const uint8_t *at;
};
uint64_t dd_record_get_u64(struct dd_cursor *in);
double dd_record_get_f64(struct dd_cursor *in);
void dd_record_get_bytes(struct dd_cursor *in, void *out, size_t count);
void dd_record_get_metrics(struct dd_cursor *in, struct dd_epoch_metrics *ret); /* those of matching: NAN */
void dd_record_get_states(struct dd_cursor *in, struct dd_epoch_metrics *ret);
void dd_record_get_heads(struct dd_cursor *in, struct dd_epoch_metrics *ret);
void dd_record_get_dev(struct dd_cursor *in, struct dd_epoch_metrics *ret);
/* What a stranger may have written: a rollback that is unknown is none. */
void dd_record_get_flags(uint64_t flags, enum dd_rollback *ret_rollback, int *ret_to);

/* The first 112 bytes. */
void dd_record_begin(struct dd_buffer *out, const char magic[8], uint32_t version, uint32_t extension,
                     const struct dd_run_identity *identity);
/* What stands behind the first `body` bytes: their SHA-256, or, where the version that they tell is xxh3_from or later,
 * that of dd_checksum_bytes.  body ≥ 12. */
void dd_record_checksum(const uint8_t *bytes, size_t body, uint32_t xxh3_from, uint8_t out[DD_SHA256_BYTES]);
/* Magic, checksum and version, 1 … newest; after this the bytes are what was written.  least: without the checksum. */
enum dd_status dd_record_check(const char *path, const struct dd_mapping *map, const char magic[8], size_t least,
                               uint32_t newest, uint32_t xxh3_from, struct dd_error *err) DD_MUST_CHECK;
/* stored: the 96 bytes.  DD_CONFLICT "checkpoint_foreign". */
enum dd_status dd_record_check_identity(const char *path, const uint8_t *stored, const struct dd_run_identity *identity,
                                        struct dd_error *err) DD_MUST_CHECK;
uint32_t dd_record_version(const struct dd_mapping *map);
/* Bytes of dev_kl and dev_ce at the extension's end, which files of later versions have. */
uint32_t dd_record_dev_bytes(const struct dd_mapping *map);
/* Bytes of the extension before its end, which has `end`: 0, `some` or `all`; *ret_known is false when it is none of
 * these. */
uint32_t dd_record_extension(const struct dd_mapping *map, uint32_t end, uint32_t some, uint32_t all, bool *ret_known);
enum dd_status dd_record_damaged(struct dd_error *err, const char *path, const char *what); /* DD_CORRUPT */

#endif
