/* logits_cache: the teacher is frozen, so it is asked once for each (weights, settings, rows, max_length) and its
 * logits, and the inner states that matching wants (match.h), are kept on disk for every later run and sweep.
 *
 * The key is SHA-256 over: "distilld logits 1", the teacher's weights hash (by value), what of its config decides a
 * forward pass (layers, heads, activation, epsilon, labels), max_length, and the rows as token ids and segments
 * (dd_packed_digest).  Texts and labels are not in it: data sets that tokenize alike share an entry.
 *
 * Format of cache_dir/logits-<key, 64 hex>.bin.  Little-endian, IEEE 754.
 *
 *   offset size
 *        0    8  magic "DDLOGIT\n"
 *        8    4  version, 1
 *       12    4  C, labels of the teacher
 *       16    8  R, rows
 *       24   32  key
 *       56 4 R C logits (f32), rows in file order, labels in the teacher's order
 *             32 SHA-256 of all before
 *
 * Inner states are the same with other names: states-<key>.bin, magic "DDSTATE\n"; C is the number of states times the
 * teacher's width, R the rows (states at [CLS]) or the tokens (states of every token), and the key's text begins with
 * "distilld states 1", which of the two, and the states' numbers in the order in which they lie behind one another.
 *
 * Files are written to a temporary name, fsynced and renamed, so a reader sees a whole one or none; a damaged one is
 * reported, removed and computed again.
 *
 * Two runs that miss the same key: the second waits for the first.  The lock is an open-file-description lock on one
 * byte of cache_dir/lock, at an offset taken from the key, so keys do not wait for one another (but for a chance of 1
 * in 2^62) and no lock file is left over.  Where a file system cannot lock, both compute, and the later rename wins
 * with the same bytes.
 */
#include "engine/match.h"
#include "engine/train.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "logits are written as they lie in memory");

#define VERSION 1u
#define HEAD_BYTES 56u
#define WAIT_NS 50000000L

struct kind {
    char magic[8];
    const char *prefix, *what; /* of the file's name; for messages */
};
static const struct kind logits_kind = {{'D', 'D', 'L', 'O', 'G', 'I', 'T', '\n'}, "logits", "logits"};
static const struct kind states_kind = {{'D', 'D', 'S', 'T', 'A', 'T', 'E', '\n'}, "states", "inner states"};

struct entry { /* one key's file */
    const struct kind *kind;
    const struct dd_states_wanted *wanted; /* NULL: logits */
    uint8_t key[DD_SHA256_BYTES];
    char name[8 + 2 * DD_SHA256_BYTES + 4 + 1]; /* "logits-<hex>.bin" */
    char path[4096];
    uint32_t labels; /* values of a row */
    uint64_t rows;
    size_t values; /* rows × labels */
};

static enum dd_status entry_key(struct entry *entry, const struct dd_model *teacher, const struct dd_packed *packed,
                                int max_length, struct dd_error *err) {
    uint8_t rows[DD_SHA256_BYTES];
    enum dd_status status = dd_packed_digest(packed, rows, err);
    if (status != DD_OK) {
        return status;
    }
    const struct dd_bert_config *config = &teacher->info.config;
    const struct dd_states_wanted *wanted = entry->wanted;
    struct dd_buffer text;
    dd_buffer_init(&text, 8192);
    if (wanted) {
        dd_buffer_printf(&text, "distilld states %u\n%s", VERSION, wanted->tokens ? "tokens" : "cls");
        for (int i = 0; i < wanted->n; i++) {
            dd_buffer_printf(&text, " %d", wanted->state[i]);
        }
        dd_buffer_putc(&text, '\n');
    }
    dd_buffer_printf(&text,
                     "distilld logits %u\nweights %s\nlayers %d heads %d act %s eps %a labels %d max_length %d\n",
                     VERSION, teacher->info.sha256, config->layers, config->heads, config->hidden_act,
                     config->layer_norm_eps, config->n_labels, max_length);
    dd_buffer_append(&text, rows, sizeof rows);
    status = dd_buffer_check(&text, err);
    if (status == DD_OK) {
        dd_sha256_bytes(text.data, text.len, entry->key);
    }
    dd_buffer_release(&text);
    return status;
}

static enum dd_status entry_init(struct entry *entry, const struct dd_model *teacher, const struct dd_packed *packed,
                                 int max_length, const char *cache_dir, struct dd_error *err) {
    enum dd_status status = entry_key(entry, teacher, packed, max_length, err);
    if (status != DD_OK) {
        return status;
    }
    entry->labels = (uint32_t)teacher->info.config.n_labels;
    entry->rows = packed->rows;
    if (entry->wanted) {
        entry->labels = (uint32_t)entry->wanted->n * (uint32_t)teacher->info.config.hidden_size;
        entry->rows = entry->wanted->tokens ? packed->n_tokens : packed->rows;
    }
    if (!dd_size_mul((size_t)entry->rows, entry->labels, &entry->values) ||
        entry->values > SIZE_MAX / sizeof(float) - HEAD_BYTES - DD_SHA256_BYTES) {
        return dd_fail_memory(err, SIZE_MAX);
    }
    char hex[DD_SHA256_HEX_BYTES];
    dd_hex(entry->key, DD_SHA256_BYTES, hex);
    snprintf(entry->name, sizeof entry->name, "%s-%s.bin", entry->kind->prefix, hex);
    return dd_path_join(entry->path, sizeof entry->path, err, cache_dir, entry->name, NULL);
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static const char *entry_fault(const struct entry *entry, const struct dd_mapping *map) {
    size_t body = HEAD_BYTES + entry->values * sizeof(float);
    if (map->len != body + DD_SHA256_BYTES) {
        return "its length is wrong";
    }
    uint8_t digest[DD_SHA256_BYTES];
    dd_sha256_bytes(map->bytes, body, digest);
    if (memcmp(digest, map->bytes + body, sizeof digest) != 0) {
        return "its checksum does not match its content";
    }
    uint32_t version, labels;
    uint64_t rows;
    memcpy(&version, map->bytes + 8, sizeof version);
    memcpy(&labels, map->bytes + 12, sizeof labels);
    memcpy(&rows, map->bytes + 16, sizeof rows);
    if (memcmp(map->bytes, entry->kind->magic, sizeof entry->kind->magic) != 0 || version != VERSION ||
        labels != entry->labels || rows != entry->rows || memcmp(map->bytes + 24, entry->key, DD_SHA256_BYTES) != 0) {
        return "it is of another kind";
    }
    return NULL;
}

/* DD_NOT_FOUND when there is none; DD_CORRUPT when it must not be used. */
static enum dd_status entry_read(const struct entry *entry, float *logits, struct dd_error *err) {
    struct dd_mapping map;
    enum dd_status status = dd_mapping_open(entry->path, &map, err);
    if (status != DD_OK) {
        return status;
    }
    const char *fault = entry_fault(entry, &map);
    if (fault) {
        status = dd_fail(err, DD_CORRUPT, "logits_cache_damaged", "%s: %s", entry->path, fault);
    } else {
        memcpy(logits, map.bytes + HEAD_BYTES, entry->values * sizeof *logits);
        const struct timespec now_and_never[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
        (void)!utimensat(AT_FDCWD, entry->path, now_and_never, 0); /* who makes room takes the least recently used */
    }
    dd_mapping_release(&map);
    return status;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

static enum dd_status entry_write(const struct entry *entry, const float *logits, struct dd_error *err) {
    uint8_t head[HEAD_BYTES], digest[DD_SHA256_BYTES];
    const uint32_t version = VERSION;
    memcpy(head, entry->kind->magic, sizeof entry->kind->magic);
    memcpy(head + 8, &version, sizeof version);
    memcpy(head + 12, &entry->labels, sizeof entry->labels);
    memcpy(head + 16, &entry->rows, sizeof entry->rows);
    memcpy(head + 24, entry->key, DD_SHA256_BYTES);
    struct dd_writer *writer = NULL;
    enum dd_status status = dd_writer_open(entry->path, DD_WRITER_SHA256, &writer, err);
    if (status == DD_OK) {
        status = dd_writer_write(writer, head, sizeof head, err);
    }
    if (status == DD_OK) {
        status = dd_writer_write(writer, logits, entry->values * sizeof *logits, err);
    }
    if (status == DD_OK) {
        dd_writer_digest(writer, digest);
        status = dd_writer_write(writer, digest, sizeof digest, err);
    }
    if (status == DD_OK) {
        status = dd_writer_commit(writer, err);
    }
    dd_writer_free(writer);
    return status == DD_OK ? status : dd_error_prefix(err, "storing the teacher's %s", entry->kind->what);
}

/* Temporaries of a writer that was killed: only under the key's lock, when nobody else writes it. */
static void remove_leftovers(const struct entry *entry, const char *cache_dir) {
    DIR *dir = opendir(cache_dir);
    if (!dir) {
        return;
    }
    size_t name = strlen(entry->name);
    for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
        if (strncmp(d->d_name, entry->name, name) == 0 && strncmp(d->d_name + name, ".tmp-", 5) == 0) {
            (void)unlinkat(dirfd(dir), d->d_name, 0);
        }
    }
    closedir(dir);
}

/* --- the lock --------------------------------------------------------------------------------------------------- */

/* *ret_fd holds the lock until it is closed; -1 where the file system cannot lock.  Who waits says so again and again:
 * a run that waits for another is not stuck. */
static enum dd_status entry_lock(const struct entry *entry, const char *cache_dir, const struct dd_progress *progress,
                                 const struct dd_cancel *cancel, int *ret_fd, struct dd_error *err) {
    char path[4096];
    enum dd_status status = dd_path_join(path, sizeof path, err, cache_dir, "lock", NULL);
    if (status != DD_OK) {
        return status;
    }
    int fd = DD_FAILABLE("open", open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640));
    if (fd < 0) {
        return dd_fail_errno(err, errno, "%s", path);
    }
    uint64_t offset;
    memcpy(&offset, entry->key, sizeof offset);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(offset >> 2), .l_len = 1};
    while (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
            close(fd);
            *ret_fd = -1;
            return DD_OK;
        }
        if (dd_cancel_requested(cancel) != DD_STOP_NONE) {
            close(fd);
            return dd_fail(err, DD_STOPPED, "stopped", "stopped while another run asked the teacher");
        }
        dd_progress_report(progress, 0);
        nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
    }
    *ret_fd = fd;
    return DD_OK;
}

/* --- asking ----------------------------------------------------------------------------------------------------- */

static enum dd_status ask(const struct dd_model *teacher, const struct dd_packed *packed, int max_length,
                          struct dd_pool *pool, const struct dd_progress *progress, const struct dd_cancel *cancel,
                          float *logits, struct dd_error *err) {
    int tokens, sequences;
    dd_infer_bounds(packed, &tokens, &sequences);
    struct dd_team *team = NULL;
    struct dd_bert *bert = NULL;
    struct dd_gather gather = {0};
    enum dd_status status = dd_team_join(pool, &team, err);
    if (status != DD_OK) {
        return status;
    }
    status = dd_gather_init(&gather, tokens, sequences, err);
    if (status == DD_OK) {
        status = dd_bert_new(&teacher->info.config, tokens, sequences, max_length, false, DD_PRECISION_FP32, team,
                             &bert, err);
    }
    if (status == DD_OK) {
        status = dd_forward_rows(bert, teacher->params, packed, &gather, team, teacher->info.config.n_labels, cancel,
                                 progress, logits, err);
    }
    dd_bert_free(bert);
    dd_gather_release(&gather);
    dd_team_leave(team);
    return status;
}

struct scatter {
    struct dd_asker *asker;
    const struct dd_packed *packed;
    bool tokens;
    float *states; /* of the split */
};

/* The batch's states to the places of its rows: those of a row or token lie behind one another. */
static void scatter_batch(void *context, const struct dd_batch *batch, const uint32_t *rows) {
    const struct scatter *scatter = context;
    struct dd_asker *asker = scatter->asker;
    size_t width = (size_t)asker->width, stride = width * (size_t)asker->n_wanted;
    dd_asker_ask(asker, batch);
    for (int s = 0; s < batch->n_sequences; s++) {
        size_t to = scatter->tokens ? (size_t)scatter->packed->offsets[rows[s]] : (size_t)rows[s];
        size_t from = scatter->tokens ? (size_t)batch->offsets[s] : (size_t)s;
        size_t count = scatter->tokens ? (size_t)(batch->offsets[s + 1] - batch->offsets[s]) : 1;
        for (size_t k = 0; k < count; k++) {
            for (size_t i = 0; i < (size_t)asker->n_wanted; i++) {
                memcpy(scatter->states + (to + k) * stride + i * width, asker->wanted[i].out + (from + k) * width,
                       width * sizeof(float));
            }
        }
    }
}

static enum dd_status want(struct dd_asker *asker, const struct dd_states_wanted *wanted, int rows,
                           struct dd_error *err) {
    for (int i = 0; i < wanted->n; i++) {
        float *out = dd_calloc((size_t)rows, (size_t)asker->width * sizeof *out);
        if (!out) {
            return dd_fail_memory(err, (size_t)rows * (size_t)asker->width * sizeof *out);
        }
        asker->wanted[asker->n_wanted++] =
            (struct dd_wanted_state){.state = wanted->state[i], .cls = !wanted->tokens, .out = out};
    }
    return DD_OK;
}

static enum dd_status ask_states(const struct dd_states_wanted *wanted, const struct dd_model *teacher,
                                 const struct dd_packed *packed, int max_length, struct dd_pool *pool,
                                 const struct dd_progress *progress, const struct dd_cancel *cancel, float *states,
                                 struct dd_error *err) {
    int tokens, sequences;
    dd_infer_bounds(packed, &tokens, &sequences);
    struct dd_team *team = NULL;
    struct dd_gather gather = {0};
    struct dd_asker asker = {0};
    enum dd_status status = dd_team_join(pool, &team, err);
    if (status != DD_OK) {
        return status;
    }
    status = dd_gather_init(&gather, tokens, sequences, err);
    if (status == DD_OK) {
        status = dd_asker_init(&asker, teacher, tokens, sequences, max_length, team, err);
    }
    if (status == DD_OK) {
        status = want(&asker, wanted, wanted->tokens ? tokens : sequences, err);
    }
    if (status == DD_OK) {
        struct scatter scatter = {.asker = &asker, .packed = packed, .tokens = wanted->tokens, .states = states};
        status = dd_for_batches(packed, &gather, team, cancel, progress, scatter_batch, &scatter, err);
    }
    for (int i = 0; i < asker.n_wanted; i++) {
        free(asker.wanted[i].out);
    }
    dd_asker_release(&asker);
    dd_gather_release(&gather);
    dd_team_leave(team);
    return status;
}

static void log_damage(const struct dd_train_events *events, const struct kind *kind, const struct dd_error *fault) {
    if (events && events->log) {
        char line[800];
        snprintf(line, sizeof line, "cached teacher %s are damaged and are computed again: %s", kind->what,
                 fault->message);
        events->log(events->context, DD_LOG_WARNING, line);
    }
}

/* Under the lock, where there is one: somebody may have filled it while we waited. */
static enum dd_status fill(const struct entry *entry, bool locked, const struct dd_model *teacher,
                           const struct dd_packed *packed, int max_length, const char *cache_dir, struct dd_pool *pool,
                           const struct dd_train_events *events, const struct dd_progress *progress,
                           const struct dd_cancel *cancel, float *logits, bool *computed, struct dd_error *err) {
    struct dd_error fault = {0};
    enum dd_status status = entry_read(entry, logits, &fault);
    if (status == DD_OK) {
        *computed = false;
        return DD_OK;
    }
    if (status == DD_CORRUPT) {
        log_damage(events, entry->kind, &fault);
        (void)unlink(entry->path);
    } else if (status != DD_NOT_FOUND) {
        if (err) {
            *err = fault;
        }
        return status;
    }
    if (locked) {
        remove_leftovers(entry, cache_dir);
    }
    status = dd_model_need_weights(teacher, err);
    if (status == DD_OK) {
        status = entry->wanted
                     ? ask_states(entry->wanted, teacher, packed, max_length, pool, progress, cancel, logits, err)
                     : ask(teacher, packed, max_length, pool, progress, cancel, logits, err);
    }
    if (status == DD_OK) {
        status = entry_write(entry, logits, err);
    }
    *computed = true;
    return status;
}

static enum dd_status cached(const struct kind *kind, const struct dd_states_wanted *wanted,
                             const struct dd_model *teacher, const struct dd_packed *packed, int max_length,
                             const char *cache_dir, struct dd_pool *pool, const struct dd_train_events *events,
                             const struct dd_progress *progress, const struct dd_cancel *cancel, float **ret_logits,
                             bool *ret_computed, struct dd_error *err) {
    struct entry entry = {.kind = kind, .wanted = wanted};
    enum dd_status status = entry_init(&entry, teacher, packed, max_length, cache_dir, err);
    if (status == DD_OK) {
        status = dd_dir_make(cache_dir, err);
    }
    if (status != DD_OK) {
        return status;
    }
    float *logits = dd_calloc(entry.values, sizeof *logits);
    if (!logits) {
        return dd_fail_memory(err, entry.values * sizeof *logits);
    }
    bool computed = false;
    /* The common case needs no lock: a file under its final name is whole. */
    status = entry_read(&entry, logits, NULL);
    if (status != DD_OK) {
        int lock = -1;
        status = entry_lock(&entry, cache_dir, progress, cancel, &lock, err);
        if (status == DD_OK) {
            status = fill(&entry, lock >= 0, teacher, packed, max_length, cache_dir, pool, events, progress, cancel,
                          logits, &computed, err);
            dd_close_fd(&lock);
        }
    }
    if (status != DD_OK) {
        free(logits);
        return status;
    }
    *ret_logits = logits;
    *ret_computed = computed;
    return DD_OK;
}

enum dd_status dd_logits_cached(const struct dd_model *teacher, const struct dd_packed *packed, int max_length,
                                const char *cache_dir, struct dd_pool *pool, const struct dd_train_events *events,
                                const struct dd_progress *progress, const struct dd_cancel *cancel, float **ret_logits,
                                bool *ret_computed, struct dd_error *err) {
    return cached(&logits_kind, NULL, teacher, packed, max_length, cache_dir, pool, events, progress, cancel,
                  ret_logits, ret_computed, err);
}

enum dd_status dd_states_cached(const struct dd_states_wanted *wanted, const struct dd_model *teacher,
                                const struct dd_packed *packed, int max_length, const char *cache_dir,
                                struct dd_pool *pool, const struct dd_train_events *events,
                                const struct dd_progress *progress, const struct dd_cancel *cancel, float **ret_states,
                                bool *ret_computed, struct dd_error *err) {
    return cached(&states_kind, wanted, teacher, packed, max_length, cache_dir, pool, events, progress, cancel,
                  ret_states, ret_computed, err);
}
