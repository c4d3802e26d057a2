/* db: what the files of storage share: the two connections, cached statements, binding, errors.  Private to storage.
 *
 * Life of a statement:  db_query_start, db_bind_… in the order of the SQL's parameters, then either db_query_run (no
 * rows wanted) or db_query_next until it says there are no more, db_query_end (also by cleanup).  A failed bind is kept
 * in the query and reported by the next run or step, so that a list of binds is checked once. Every db_ function needs
 * the connection's lock, which struct db_guard holds for a scope.
 */
#ifndef DD_STORAGE_DB_H
#define DD_STORAGE_DB_H

#include <pthread.h>
#include <sqlite3.h>

#include "storage/storage.h"

#define DB_STATEMENTS 96 /* cached a connection */

struct db_statement {
    char *sql; /* owned; the key */
    sqlite3_stmt *stmt;
    bool in_use;
    uint64_t used_at;
};
struct db {
    sqlite3 *handle;
    pthread_mutex_t lock;
    uint64_t clock;  /* counts statement starts, for the choice of whom to evict */
    int64_t changes; /* rows changed when the lock was last given back */
    atomic_uint_fast64_t revision;
    struct db_statement statements[DB_STATEMENTS];
};

struct dd_storage {
    char *path;
    int lock_fd;
    struct db write, read;
    int64_t counts[DD_STATE_COUNT]; /* of experiments by state, as of counts_revision; under read.lock */
    uint64_t counts_revision;
    bool counts_known;
    uint32_t series;           /* of directories; 0: not chosen yet; under write.lock */
    int64_t pinged_us;         /* last successful write of dd_storage_ping; under write.lock */
    struct dd_asha_news *news; /* decisions not yet fetched; under write.lock */
    size_t n_news, cap_news;
};

enum dd_status db_open(struct db *db, const char *path, int flags, struct dd_error *err) DD_MUST_CHECK;
void db_close(struct db *db); /* of a zeroed or opened one */

struct db_guard {
    struct db *db;
};
static inline struct db_guard db_lock(struct db *db) {
    pthread_mutex_lock(&db->lock);
    return (struct db_guard){db};
}
/* Whoever finds the new revision finds the rows, too: what changed them is committed by now. */
static inline void db_unlock(struct db_guard *guard) {
    struct db *db = guard->db;
    int64_t changes = sqlite3_total_changes64(db->handle);
    if (changes != db->changes) {
        db->changes = changes;
        db->revision++;
    }
    pthread_mutex_unlock(&db->lock);
}
#define DB_GUARD(db) DD_CLEANUP(db_unlock) struct db_guard db_scope_guard __attribute__((unused)) = db_lock(db)

/* SQLite's result code as our error; the message is "<what>: <SQLite's message>". */
enum dd_status db_fail(struct db *db, int rc, const char *what, struct dd_error *err);

/* SQL without parameters or rows: pragmas, schema. */
enum dd_status db_exec(struct db *db, const char *sql, struct dd_error *err) DD_MUST_CHECK;
enum dd_status db_begin(struct db *db, struct dd_error *err) DD_MUST_CHECK;      /* for writing */
enum dd_status db_begin_read(struct db *db, struct dd_error *err) DD_MUST_CHECK; /* one snapshot for several reads */
/* Commits when status is DD_OK, else rolls back; returns status, or why the commit failed (then nothing happened). */
enum dd_status db_finish(struct db *db, enum dd_status status, struct dd_error *err) DD_MUST_CHECK;

struct db_query {
    struct db *db;
    struct db_statement *slot; /* NULL when the statement could not be prepared */
    sqlite3_stmt *stmt;
    int next; /* parameter to bind next */
    int rc;   /* first failure of start and binds; SQLITE_OK so far */
};
struct db_query db_query_start(struct db *db, const char *sql);
void db_query_end(struct db_query *query); /* may be repeated; in cleanup */
#define DB_QUERY DD_CLEANUP(db_query_end) struct db_query
void db_bind_int(struct db_query *query, int64_t value);
void db_bind_int_or_null(struct db_query *query, int64_t value); /* 0 is NULL */
void db_bind_real(struct db_query *query, double value);         /* NAN is NULL */
void db_bind_text(struct db_query *query, const char *text);     /* NULL is NULL; text must live until the end */
void db_bind_blob(struct db_query *query, const void *bytes, size_t count); /* the same; count 0 is an empty blob */
/* Runs to the end, ignoring rows; *ret_changes (may be NULL) how many rows changed.  Ends the query. */
enum dd_status db_query_run(struct db_query *query, int *ret_changes, struct dd_error *err) DD_MUST_CHECK;
enum dd_status db_query_next(struct db_query *query, bool *ret_row, struct dd_error *err) DD_MUST_CHECK;

int64_t db_column_int(const struct db_query *query, int column); /* NULL is 0 */
double db_column_real(const struct db_query *query, int column); /* NULL is NAN */
/* A copy; NULL is NULL. */
enum dd_status db_column_text(const struct db_query *query, int column, char **ret_text,
                              struct dd_error *err) DD_MUST_CHECK;

/* schema.c: DD_CORRUPT for somebody else's database, DD_UNSUPPORTED for one of a later version; reads only. */
enum dd_status db_schema_check(struct db *db, struct dd_error *err) DD_MUST_CHECK;
/* Brings a checked database to version, step by step; one that is there or further stays as it is. */
enum dd_status db_migrate(struct db *db, int version, struct dd_error *err) DD_MUST_CHECK;
int db_schema_newest(void);
enum dd_status db_user_version(struct db *db, int *ret_version, struct dd_error *err) DD_MUST_CHECK;

/* experiment.c: all columns, comma-separated, in the order that db_experiment_read wants. */
const char *db_experiment_columns(void);
enum dd_status db_experiment_read(const struct db_query *query, struct dd_experiment *ret_experiment,
                                  struct dd_error *err) DD_MUST_CHECK;
/* dd_storage_experiment_insert with the write lock held, inside a transaction or not. */
enum dd_status db_experiment_insert(struct db *db, const struct dd_experiment *experiment, int64_t *ret_id,
                                    struct dd_error *err) DD_MUST_CHECK;
/* asha.c, inside the open transaction: what a sweep decides when its run has stored an epoch (*ret_stop: the run stops
 * here), and when a worker is free. */
enum dd_status db_asha_epoch(struct dd_storage *storage, int64_t id, int epoch, bool *ret_stop,
                             struct dd_error *err) DD_MUST_CHECK;
enum dd_status db_asha_idle(struct dd_storage *storage, struct dd_error *err) DD_MUST_CHECK;
/* db_finish for a transaction in which there may have been decisions, that had n_news before it: a rollback forgets
 * them. */
enum dd_status db_asha_finish(struct dd_storage *storage, size_t n_news, enum dd_status status,
                              struct dd_error *err) DD_MUST_CHECK;
/* queue.c: of an UPDATE of experiments that ends, pauses or requeues a run. */
#define DB_WISHES_DONE "pause_requested = 0, cancel_requested = 0, eta_seconds = NULL, revision = revision + 1"
/* asset.c: dd_storage_asset_insert with the write lock held. */
enum dd_status db_asset_insert(struct db *db, enum dd_asset_kind kind, const struct dd_asset *asset, int64_t *ret_id,
                               struct dd_error *err) DD_MUST_CHECK;
/* run.c: dd_storage_log_put with the write lock held. */
enum dd_status db_log_put(struct db *db, int64_t id, enum dd_log_level level, const char *message, int64_t *ret_seq,
                          struct dd_error *err) DD_MUST_CHECK;
/* idempotent.c: notes inside the open transaction that the claim's key made what lies at "<prefix><id>".  DD_CONFLICT
 * when the key has been used. */
enum dd_status db_claim_put(struct db *db, const struct dd_claim *claim, const char *prefix, int64_t id,
                            struct dd_error *err) DD_MUST_CHECK;
enum dd_status db_experiment_missing(int64_t id, struct dd_error *err); /* DD_NOT_FOUND */
/* A change that touched no row: DD_NOT_FOUND, or DD_CONFLICT naming the state and what was wanted. */
enum dd_status db_experiment_refused(struct db *db, int64_t id, const char *wanted, struct dd_error *err);

/* "%<q with its wildcards escaped>%" for LIKE … ESCAPE '\'; DD_INVALID when q is too long.  The caller frees. */
enum dd_status db_like_pattern(const char *q, char **ret_pattern, struct dd_error *err) DD_MUST_CHECK;

/* predictions.c: labels and scores as they are stored; see there. */
struct db_blobs {
    uint16_t *labels; /* owned */
    uint32_t *scores; /* owned, the bits of floats; NULL where there are none */
};
void db_blobs_release(struct db_blobs *blobs);
/* what: for messages, "dev predictions".  score may be NULL. */
enum dd_status db_blobs_pack(const char *what, const int32_t *label, const float *score, size_t n,
                             struct db_blobs *ret_blobs, struct dd_error *err) DD_MUST_CHECK;
enum dd_status db_predictions_put(struct db *db, int64_t id, int epoch, const struct db_blobs *blobs, size_t n,
                                  struct dd_error *err) DD_MUST_CHECK;

/* metrics.c: eight columns of the experiment's row; prefix: "best", "last" or "teacher". A further condition may
 * follow. */
#define DB_PUT_SCORES(prefix)                                                                                          \
    "UPDATE experiments SET " prefix "_epoch = ?2, " prefix "_accuracy = ?3, " prefix "_macro_precision = ?4, " prefix \
    "_macro_recall = ?5, " prefix "_macro_f1 = ?6, " prefix "_weighted_f1 = ?7, " prefix "_dev_loss = ?8, " prefix     \
    "_train_loss = ?9, revision = revision + 1 WHERE id = ?1"
enum dd_status db_scores_put(struct db *db, const char *sql, int64_t id, const struct dd_scores *scores,
                             int *ret_changes, struct dd_error *err) DD_MUST_CHECK;

/* cursor.c: where the last page ended.  Opaque to clients: base64url of "<sort>\n<id>\n<kind><value>". */
#define DB_CURSOR_TEXT_BYTES 512
struct db_cursor {
    char kind; /* 'n' NULL, 'i' integer, 'r' real, 't' text */
    int64_t id;
    int64_t integer;
    double real;
    char text[DB_CURSOR_TEXT_BYTES];
};
enum dd_status db_cursor_encode(const struct db_cursor *cursor, const char *sort, char **ret_text,
                                struct dd_error *err) DD_MUST_CHECK;
/* kind: what the sort's values are; 'n' is allowed beside it. Anything we did not write is DD_INVALID. */
enum dd_status db_cursor_decode(const char *text, const char *sort, char kind, struct db_cursor *ret_cursor,
                                struct dd_error *err) DD_MUST_CHECK;

#endif
