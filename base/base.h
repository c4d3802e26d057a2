/* base: what every other folder stands on.  libc and nettle (SHA-256) only.
 *
 * Conventions used everywhere in distilld:
 *   - A function that can fail returns enum dd_status and takes `struct dd_error *err` last.  On failure it fills *err
 *     and leaves every `ret_…` untouched; on success *err is untouched.  err may be NULL.
 *   - `_new/_free` for things on the heap (free takes NULL), `_init/_release` for things in place.
 *   - Every growable thing has a cap; every size product is overflow-checked.
 */
#ifndef DD_BASE_H
#define DD_BASE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define DD_VERSION "0.1.0"

#define DD_MUST_CHECK __attribute__((warn_unused_result))
#define DD_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define DD_CLEANUP(fn) __attribute__((cleanup(fn)))
#define DD_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define DD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define DD_MAX(a, b) ((a) > (b) ? (a) : (b))

/* --- errors (error.c) ------------------------------------------------------------------------------------------- */

/* One list for the whole program; the table in error.c maps each to an HTTP status and to an exit code. */
enum dd_status {
    DD_OK = 0,
    DD_MALFORMED,    /* cannot be parsed at all                    400, exit 65 */
    DD_UNAUTHORIZED, /* no or wrong token                          401, exit 77 */
    DD_FORBIDDEN,    /* known, but not allowed                     403, exit 77 */
    DD_NOT_FOUND,    /* no such thing                              404, exit 66 */
    DD_CONFLICT,     /* not in this state                          409, exit 1  */
    DD_TOO_LARGE,    /* over a limit                               413, exit 65 */
    DD_UNSUPPORTED,  /* a media type or feature we do not have     415, exit 65 */
    DD_MISDIRECTED,  /* a foreign Host                             421, exit 1  */
    DD_INVALID,      /* parsed, but not allowed                    422, exit 65 */
    DD_TOO_MANY,     /* ask again later, your doing                429, exit 75 */
    DD_BUSY,         /* ask again later, our doing                 503, exit 75 */
    DD_NO_MEMORY,    /*                                            503, exit 71 */
    DD_NO_SPACE,     /* the disk is full                           507, exit 74 */
    DD_IO,           /* the disk or a socket failed                500, exit 74 */
    DD_CORRUPT,      /* a file is damaged or hostile               422, exit 65 */
    DD_STOPPED,      /* cancelled, paused or shutting down         409, exit 130 */
    DD_INTERNAL,     /* our bug                                    500, exit 70 */
    DD_STATUS_COUNT
};

struct dd_error {
    enum dd_status status;
    char code[48];     /* stable snake_case key, e.g. "dataset_row_invalid"; the dashboard translates by it */
    char message[720]; /* what, where and what would be right; one sentence or two, UTF-8 */
};

/* Fills *err (if not NULL) and returns status, so that `return dd_fail(err, DD_IO, "…", …);` is the idiom. */
enum dd_status dd_fail(struct dd_error *err, enum dd_status status, const char *code, const char *fmt, ...)
    DD_PRINTF(4, 5);
/* As dd_fail, from errno: ENOSPC and EDQUOT become DD_NO_SPACE, ENOMEM DD_NO_MEMORY, ENOENT DD_NOT_FOUND, EACCES and
 * EPERM DD_FORBIDDEN, all else DD_IO.  The message is "<formatted>: <strerror>". */
enum dd_status dd_fail_errno(struct dd_error *err, int saved_errno, const char *fmt, ...) DD_PRINTF(3, 4);
/* Out of memory; never allocates. */
enum dd_status dd_fail_memory(struct dd_error *err, size_t wanted_bytes);
/* What the three above return is never DD_OK; said where compilers and analyzers can see it. */
static inline enum dd_status dd_not_ok(enum dd_status status) {
    return status == DD_OK ? DD_INTERNAL : status;
}
#define dd_fail(...) dd_not_ok(dd_fail(__VA_ARGS__))
#define dd_fail_errno(...) dd_not_ok(dd_fail_errno(__VA_ARGS__))
#define dd_fail_memory(...) dd_not_ok(dd_fail_memory(__VA_ARGS__))
/* Puts "<formatted>: " before the message already in *err (truncating at the end) and returns err->status. */
enum dd_status dd_error_prefix(struct dd_error *err, const char *fmt, ...) DD_PRINTF(2, 3);
int dd_status_http(enum dd_status status);
int dd_status_exit_code(enum dd_status status);
const char *dd_status_name(enum dd_status status); /* "invalid", "not_found", … */

/* Faults of a request body or spec: all are collected, then reported at once. Capped at DD_FAULTS_MAX. */
#define DD_FAULTS_MAX 64
struct dd_fault {
    char pointer[128]; /* RFC 6901, e.g. "/optimizer/lr" */
    char detail[384];
};
struct dd_faults {
    struct dd_fault *items; /* owned */
    size_t count;           /* stored, at most DD_FAULTS_MAX */
    size_t total;           /* found */
};
void dd_faults_init(struct dd_faults *faults);
void dd_faults_release(struct dd_faults *faults);
void dd_faults_add(struct dd_faults *faults, const char *pointer, const char *fmt, ...) DD_PRINTF(3, 4);

/* --- memory (memory.c) ------------------------------------------------------------------------------------------ */

bool dd_size_mul(size_t a, size_t b, size_t *ret_product) DD_MUST_CHECK; /* false on overflow */
bool dd_size_add(size_t a, size_t b, size_t *ret_sum) DD_MUST_CHECK;
/* Zeroed array of count × size bytes; NULL when out of memory or the product overflows. count 0 gives a unique pointer.
 */
void *dd_calloc(size_t count, size_t size);
/* Grows to count × size bytes, new part not zeroed; NULL leaves the old block as it was. */
void *dd_realloc_array(void *old, size_t count, size_t size);
/* Zeroed, aligned to 64 bytes; freed by free(). For float slabs of over 2 MiB asks for huge pages. */
void *dd_calloc_aligned(size_t count, size_t size);
/* Zeroed, for arrays of many MiB: mapped at a huge page's border, and taken from the system only as it is written to.
 * NULL as dd_calloc; freed by dd_slab_free with the same count and size. */
void *dd_slab_new(size_t count, size_t size);
void dd_slab_free(void *slab, size_t count, size_t size);
/* This part of a slab is written here and there: small pages, so that what lies between is never taken. */
void dd_slab_sparse(void *start, size_t bytes);
char *dd_strdup(const char *text);                /* NULL gives NULL */
char *dd_strndup(const char *text, size_t bytes); /* always terminated */
/* For DD_CLEANUP: `DD_CLEANUP(dd_free_ptr) char *x = NULL;` */
void dd_free_ptr(void *pointer_to_pointer);
void dd_close_fd(int *fd);
void dd_fclose_ptr(FILE **file);

/* --- UTF-8 (utf8.c) --------------------------------------------------------------------------------------------- */

/* Reads the code point at text, of which `left` ≥ 1 bytes may be looked at; returns how many bytes it takes, 0 when
 * they are not well-formed (RFC 3629: no overlong forms, no surrogates, nothing cut short). */
size_t dd_utf8_decode(const char *text, size_t left, uint32_t *ret_code);
/* Offset of the first byte that is not part of well-formed UTF-8; len when all is. */
size_t dd_utf8_check(const char *text, size_t len);
bool dd_utf8_valid(const char *text, size_t len); /* all of it */

/* --- growable bytes (buffer.c) ---------------------------------------------------------------------------------- */

/* Invariant: data is always NUL-terminated (an empty static string before the first write); len excludes the NUL.
 * After a failed append `failed` stays set, further appends do nothing, and dd_buffer_check reports it: so a long
 * run of appends is checked once at its end. */
struct dd_buffer {
    char *data;
    size_t len;
    size_t cap;
    size_t max; /* cap on len; an append beyond it fails */
    bool failed;
    bool over_max; /* failed because of max, not of memory */
};
void dd_buffer_init(struct dd_buffer *buffer, size_t max_bytes);
void dd_buffer_release(struct dd_buffer *buffer);
void dd_buffer_clear(struct dd_buffer *buffer); /* keeps the memory, clears `failed` */
void dd_buffer_append(struct dd_buffer *buffer, const void *bytes, size_t count);
void dd_buffer_puts(struct dd_buffer *buffer, const char *text);
void dd_buffer_putc(struct dd_buffer *buffer, char c);
void dd_buffer_printf(struct dd_buffer *buffer, const char *fmt, ...) DD_PRINTF(2, 3);
void dd_buffer_vprintf(struct dd_buffer *buffer, const char *fmt, va_list args) DD_PRINTF(2, 0);
void dd_buffer_put_int(struct dd_buffer *buffer, int64_t value);
void dd_buffer_put_number(struct dd_buffer *buffer, double value); /* as dd_number_print */
enum dd_status dd_buffer_check(const struct dd_buffer *buffer, struct dd_error *err) DD_MUST_CHECK;
char *dd_buffer_take(struct dd_buffer *buffer, size_t *ret_len); /* the caller owns it; the buffer is empty again */

/* --- numbers (number.c) ------------------------------------------------------------------------------------------ */

#define DD_NUMBER_TEXT_BYTES 32
/* The decimal text that reads as the same double, in the form of %g and about as short as there is: whole numbers up to
 * 2^53 without a point or an exponent, minus zero as 0, what is not finite as null.  Returns its length. */
size_t dd_number_print(double value, char out[DD_NUMBER_TEXT_BYTES]);
/* The same without the exceptions: %g with 15, 16 or 17 digits, the fewest that read as the same double. */
size_t dd_number_digits(double value, char out[DD_NUMBER_TEXT_BYTES]);
size_t dd_number_print_int(int64_t value, char out[DD_NUMBER_TEXT_BYTES]);

/* --- log (log.c) ------------------------------------------------------------------------------------------------ */

enum dd_log_level { DD_LOG_DEBUG, DD_LOG_INFO, DD_LOG_WARNING, DD_LOG_ERROR };
enum dd_log_format { DD_LOG_TEXT, DD_LOG_JSON, DD_LOG_JOURNAL /* <n> prefixes for systemd */ };
void dd_log_configure(enum dd_log_level least, enum dd_log_format format, int fd); /* before threads start */
void dd_log_set_level(enum dd_log_level least);                                    /* any time, any thread */
bool dd_log_wants(enum dd_log_level level);                                        /* whether such a line is written */
bool dd_log_level_parse(const char *name, enum dd_log_level *ret_level) DD_MUST_CHECK;
const char *dd_log_level_name(enum dd_log_level level);
/* One line, one write(2); control characters in the message are escaped, so that input cannot forge lines.
 * component: "http", "worker", "storage", …  Only the daemon and api folders log; libraries return errors. */
void dd_log(enum dd_log_level level, const char *component, const char *fmt, ...) DD_PRINTF(3, 4);

/* --- stop requests (cancel.h part of clock.c) ------------------------------------------------------------------- */

enum dd_stop { DD_STOP_NONE = 0, DD_STOP_PAUSE, DD_STOP_CANCEL, DD_STOP_SHUTDOWN };
/* One per running piece of work. The highest request wins; it is never withdrawn. Lock-free, any thread. */
struct dd_cancel {
    atomic_int requested;
};
void dd_cancel_request(struct dd_cancel *cancel, enum dd_stop why);
enum dd_stop dd_cancel_requested(const struct dd_cancel *cancel); /* NULL gives DD_STOP_NONE */

/* --- time (clock.c) --------------------------------------------------------------------------------------------- */

int64_t dd_clock_wall_ms(void); /* since 1970 UTC */
int64_t dd_clock_mono_us(void); /* for intervals */
#define DD_TIME_TEXT_BYTES 32
void dd_time_format(int64_t wall_ms, char out[DD_TIME_TEXT_BYTES]); /* "2026-11-23T20:08:52.123Z" */

/* --- SHA-256 and XXH3 (hash.c; nettle, libxxhash) ---------------------------------------------------------------- */

#define DD_SHA256_BYTES 32
#define DD_SHA256_HEX_BYTES 65
struct dd_sha256;
struct dd_sha256 *dd_sha256_new(void); /* NULL when out of memory */
void dd_sha256_free(struct dd_sha256 *hash);
void dd_sha256_update(struct dd_sha256 *hash, const void *bytes, size_t count);
void dd_sha256_digest(struct dd_sha256 *hash, uint8_t out[DD_SHA256_BYTES]); /* and starts anew */
void dd_sha256_bytes(const void *bytes, size_t count, uint8_t out[DD_SHA256_BYTES]);
/* XXH3-128 in its canonical form (big-endian), then 16 zeros.  Against damage, not against forgery: where a CPU has no
 * SHA instructions it is forty times as fast as SHA-256. */
void dd_checksum_bytes(const void *bytes, size_t count, uint8_t out[DD_SHA256_BYTES]);
void dd_hex(const uint8_t *bytes, size_t count, char *out); /* out: 2 × count + 1 bytes */
bool dd_equal_constant_time(const void *a, const void *b, size_t count);
enum dd_status dd_random_bytes(void *out, size_t count, struct dd_error *err) DD_MUST_CHECK; /* getrandom(2) */

/* --- files (file.c) --------------------------------------------------------------------------------------------- */

/* Whole file into memory, NUL-terminated. DD_TOO_LARGE over max_bytes. The caller frees *ret_bytes. */
enum dd_status dd_file_read(const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_len,
                            struct dd_error *err) DD_MUST_CHECK;
/* Read-only private mapping of a regular file; len 0 gives a valid empty mapping. */
struct dd_mapping {
    const uint8_t *bytes;
    size_t len;
};
enum dd_status dd_mapping_open(const char *path, struct dd_mapping *ret_mapping, struct dd_error *err) DD_MUST_CHECK;
void dd_mapping_release(struct dd_mapping *mapping);

/* Durable replacement: bytes go to "<path>.tmp-<random>" in the same directory; commit = fsync, rename over path, fsync
 * of the directory. Before commit nobody sees anything; after commit the whole. _free without commit removes the
 * temporary. Every byte written is hashed as asked for: dd_writer_digest gives that of all bytes so far.
 */
struct dd_writer;
enum dd_writer_hash { DD_WRITER_PLAIN, DD_WRITER_SHA256, DD_WRITER_XXH3 /* as dd_checksum_bytes */ };
enum dd_status dd_writer_open(const char *path, enum dd_writer_hash hash, struct dd_writer **ret_writer,
                              struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_writer_write(struct dd_writer *writer, const void *bytes, size_t count,
                               struct dd_error *err) DD_MUST_CHECK;
void dd_writer_digest(struct dd_writer *writer, uint8_t out[DD_SHA256_BYTES]);
enum dd_status dd_writer_commit(struct dd_writer *writer, struct dd_error *err) DD_MUST_CHECK;
void dd_writer_free(struct dd_writer *writer);
enum dd_status dd_file_write_durable(const char *path, const void *bytes, size_t count,
                                     struct dd_error *err) DD_MUST_CHECK;

/* mkdir -p, mode 0750, fsyncs the parents it changed. */
enum dd_status dd_dir_make(const char *path, struct dd_error *err) DD_MUST_CHECK;
/* Removes a file or a tree without following symbolic links; a missing path is success. */
enum dd_status dd_tree_remove(const char *path, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_dir_sync(const char *path, struct dd_error *err) DD_MUST_CHECK; /* fsync of a directory */
enum dd_status dd_path_join(char *out, size_t out_bytes, struct dd_error *err, const char *first, ...) DD_MUST_CHECK
    __attribute__((sentinel)); /* NULL ends the list; joined with '/'; out is "" on failure */
enum dd_status dd_disk_free(const char *path, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                            struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_tree_bytes(const char *path, uint64_t *ret_bytes, struct dd_error *err) DD_MUST_CHECK;

/* Failpoints for tests: in a build with -DDD_FAILPOINTS, DISTILLD_FAIL="write:3:ENOSPC,fsync:1:EIO" makes the n-th call
 * of that kind fail (n+ means from then on; kind@thread only in threads of that name). Kinds: alloc, open, read, write,
 * fsync, close, rename, link, unlink, mkdir, mmap, statvfs, random, sqlite. Elsewhere this is 0. */
#ifdef DD_FAILPOINTS
int dd_failpoint(const char *kind); /* 0, or the errno to fail with */
/* Replaces the plan and counts from 0 again; NULL or "" disarms. False: the plan cannot be read, the old one stays. */
bool dd_failpoint_set(const char *plan) DD_MUST_CHECK;
#else
static inline int dd_failpoint(const char *kind) {
    (void)kind;
    return 0;
}
#endif
/* A system call that answers −1 and errno, behind its failpoint: fd = DD_FAILABLE("open", open(path, O_RDONLY)). */
#define DD_FAILABLE(kind, call) ((errno = dd_failpoint(kind)) != 0 ? -1 : (call))

#endif
