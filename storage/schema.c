/* schema: the tables, and the steps that bring an older database to them.
 *
 * PRAGMA user_version says how many steps of the table below a file has seen.  Those that are missing run in one
 * transaction with the change of user_version, so that a crash leaves the old schema or the new one.  A step that was
 * released is never edited; changes are new steps.  A database of a later version is refused.
 * tests/golden/fixtures/schema has a database of each version as that version's daemon left it, and
 * tests/golden/make_schema.mjs makes the next one.
 *
 * experiments   one row a run: labels, resolved spec (JSON) and the columns taken from it for filters, state,
 *               progress, the scores of its best and last epoch and of its teacher, its result, its error.  state is
 *               the number of enum dd_state, which is thereby fixed.  Times are ms since 1970 UTC; unknown values are
 *               NULL.  queue_key is the place in the queue: larger priority first, then older; NULL unless queued.
 * epochs        one row an epoch (1-based) of a run, as dd_epoch_row.
 * steps         one row a recorded step (1-based over the run), as dd_step_row.
 * predictions   dev predictions of an epoch: labels is n little-endian uint16, scores n little-endian float32.
 * reference     once a run: class names (JSON array), gold labels and the teacher's predictions on dev, as above.
 * run_log       log lines of a run; seq counts from 1 within it.
 * assets        data sets (kind 0) and models (kind 1); names are unique within a kind.
 * sweeps        groups of experiments: the base spec and the axes over it, both JSON.
 * asha          which runs of a sweep that decides reached which rung, with which score.
 * idempotency   answers already given to an Idempotency-Key, for 24 hours.
 * health        one row, rewritten to prove that the database can be written.
 *
 * Rows of a run go with it (ON DELETE CASCADE).  AUTOINCREMENT: no id is ever given twice.  Each sort key of
 * dd_storage_sort_keys has an index; the row id is an index's hidden last column, so (key, id) pages need no sorting.
 * name is declared NOCASE, so that its index serves a sort in which Milk and milk are the same.
 */
#include <stdlib.h>

#include "storage/db.h"

#define APPLICATION_ID 0x64697364 /* "disd", so that file(1) and we can tell the file from others */

static const char step_1[] =
    "CREATE TABLE sweeps ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " name TEXT NOT NULL,"
    " base TEXT NOT NULL,"
    " axes TEXT NOT NULL,"
    " state INTEGER NOT NULL DEFAULT 0,"
    " created_ms INTEGER NOT NULL);"

    "CREATE TABLE experiments ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " revision INTEGER NOT NULL DEFAULT 1,"
    " state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 5),"
    " pause_requested INTEGER NOT NULL DEFAULT 0,"
    " cancel_requested INTEGER NOT NULL DEFAULT 0,"
    " priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1000 AND 1000),"
    " task TEXT NOT NULL, dataset TEXT NOT NULL, teacher TEXT NOT NULL, base_model TEXT NOT NULL,"
    " optimizer TEXT NOT NULL,"
    " layers INTEGER NOT NULL, heads INTEGER NOT NULL, hidden_size INTEGER NOT NULL,"
    " temperature REAL, alpha REAL, lr REAL,"
    " created_ms INTEGER NOT NULL,"
    " queued_ms INTEGER NOT NULL CHECK (queued_ms BETWEEN 0 AND 4398046511103)," /* < 2^42: until the year 2109 */
    " started_ms INTEGER, finished_ms INTEGER,"
    " attempts INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,"
    " epochs INTEGER NOT NULL DEFAULT 0, epochs_done INTEGER NOT NULL DEFAULT 0,"
    " steps INTEGER NOT NULL DEFAULT 0, steps_done INTEGER NOT NULL DEFAULT 0,"
    " eta_seconds REAL, tokens_per_second REAL, elapsed_seconds REAL, phase TEXT,"
    " best_epoch INTEGER NOT NULL DEFAULT 0, best_accuracy REAL, best_macro_precision REAL, best_macro_recall REAL,"
    " best_macro_f1 REAL, best_weighted_f1 REAL, best_dev_loss REAL, best_train_loss REAL,"
    " last_epoch INTEGER NOT NULL DEFAULT 0, last_accuracy REAL, last_macro_precision REAL, last_macro_recall REAL,"
    " last_macro_f1 REAL, last_weighted_f1 REAL, last_dev_loss REAL, last_train_loss REAL,"
    " teacher_epoch INTEGER NOT NULL DEFAULT 0, teacher_accuracy REAL, teacher_macro_precision REAL,"
    " teacher_macro_recall REAL, teacher_macro_f1 REAL, teacher_weighted_f1 REAL, teacher_dev_loss REAL,"
    " teacher_train_loss REAL,"
    " model_name TEXT, model_parameters INTEGER, model_bytes INTEGER,"
    " error_code TEXT, error_message TEXT,"
    " sweep_id INTEGER REFERENCES sweeps (id) ON DELETE SET NULL,"
    " spec_hash TEXT NOT NULL,"
    " name TEXT NOT NULL COLLATE NOCASE, tags TEXT NOT NULL, notes TEXT NOT NULL, spec TEXT NOT NULL,"
    " queue_key INTEGER GENERATED ALWAYS AS"
    "  (CASE WHEN state = 0 THEN (1000 - priority) * 4398046511104 + queued_ms END) VIRTUAL);"
    "CREATE INDEX experiments_queue ON experiments (queue_key);"
    "CREATE INDEX experiments_state ON experiments (state);"
    "CREATE INDEX experiments_name ON experiments (name);"
    "CREATE INDEX experiments_created ON experiments (created_ms);"
    "CREATE INDEX experiments_started ON experiments (started_ms);"
    "CREATE INDEX experiments_finished ON experiments (finished_ms);"
    "CREATE INDEX experiments_macro_f1 ON experiments (best_macro_f1);"
    "CREATE INDEX experiments_accuracy ON experiments (best_accuracy);"
    "CREATE INDEX experiments_priority ON experiments (priority);"
    "CREATE INDEX experiments_dataset ON experiments (dataset);"
    "CREATE INDEX experiments_layers ON experiments (layers);"
    "CREATE INDEX experiments_temperature ON experiments (temperature);"
    "CREATE INDEX experiments_alpha ON experiments (alpha);"
    "CREATE INDEX experiments_lr ON experiments (lr);"
    "CREATE INDEX experiments_elapsed ON experiments (elapsed_seconds);"
    "CREATE INDEX experiments_model_bytes ON experiments (model_bytes);"
    "CREATE INDEX experiments_sweep ON experiments (sweep_id) WHERE sweep_id IS NOT NULL;"

    "CREATE TABLE epochs ("
    " experiment_id INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,"
    " epoch INTEGER NOT NULL CHECK (epoch >= 1),"
    " train_loss REAL, train_kl REAL, train_ce REAL, dev_loss REAL, accuracy REAL, macro_precision REAL,"
    " macro_recall REAL, macro_f1 REAL, weighted_precision REAL, weighted_recall REAL, weighted_f1 REAL,"
    " teacher_agreement REAL, lr REAL, seconds REAL, elapsed_seconds REAL, tokens_per_second REAL,"
    " is_best INTEGER NOT NULL, recorded_ms INTEGER NOT NULL,"
    " PRIMARY KEY (experiment_id, epoch)) WITHOUT ROWID;"

    "CREATE TABLE steps ("
    " experiment_id INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,"
    " step INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " loss REAL, kl REAL, ce REAL, lr REAL, grad_norm REAL, elapsed_seconds REAL, tokens_per_second REAL,"
    " PRIMARY KEY (experiment_id, step)) WITHOUT ROWID;"

    "CREATE TABLE predictions ("
    " experiment_id INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,"
    " epoch INTEGER NOT NULL, n INTEGER NOT NULL, labels BLOB NOT NULL, scores BLOB NOT NULL,"
    " PRIMARY KEY (experiment_id, epoch));"

    "CREATE TABLE reference ("
    " experiment_id INTEGER PRIMARY KEY REFERENCES experiments (id) ON DELETE CASCADE,"
    " classes TEXT NOT NULL, n INTEGER NOT NULL, gold BLOB NOT NULL, teacher_n INTEGER NOT NULL,"
    " teacher_labels BLOB NOT NULL, teacher_scores BLOB NOT NULL);"

    "CREATE TABLE run_log ("
    " experiment_id INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,"
    " seq INTEGER NOT NULL, time_ms INTEGER NOT NULL, level INTEGER NOT NULL, message TEXT NOT NULL,"
    " PRIMARY KEY (experiment_id, seq)) WITHOUT ROWID;"

    "CREATE TABLE assets ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " revision INTEGER NOT NULL DEFAULT 1,"
    " asset INTEGER NOT NULL CHECK (asset BETWEEN 0 AND 1),"
    " name TEXT NOT NULL, dir TEXT NOT NULL, owned INTEGER NOT NULL, info TEXT NOT NULL, kind TEXT NOT NULL,"
    " experiment_id INTEGER, created_ms INTEGER NOT NULL,"
    " UNIQUE (asset, name));"

    "CREATE TABLE idempotency ("
    " key TEXT PRIMARY KEY, request_hash TEXT NOT NULL, status INTEGER NOT NULL, location TEXT, body TEXT,"
    " created_ms INTEGER NOT NULL);"
    "CREATE INDEX idempotency_created ON idempotency (created_ms);"

    "CREATE TABLE health (id INTEGER PRIMARY KEY CHECK (id = 1), checked_ms INTEGER NOT NULL);"
    "INSERT INTO health VALUES (1, 0);";

/* Which point of its sweep a run belongs to: the runs of a point differ in the seed alone. */
static const char step_2[] = "ALTER TABLE experiments ADD COLUMN sweep_point INTEGER NOT NULL DEFAULT 0;";

/* Sweeps that decide (asha.c): rules a sweep; a row for each run and rung it reached; why a run was stopped, and
 * whether a person took it over after that. */
static const char step_3[] =
    "ALTER TABLE sweeps ADD COLUMN asha_min_epochs INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sweeps ADD COLUMN asha_eta INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sweeps ADD COLUMN asha_accuracy INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE experiments ADD COLUMN stopped TEXT;"
    "ALTER TABLE experiments ADD COLUMN asha_free INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX experiments_stopped ON experiments (sweep_id) WHERE stopped IS NOT NULL;"
    "CREATE TABLE asha ("
    " experiment_id INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,"
    " rung INTEGER NOT NULL, sweep_id INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,"
    " point INTEGER NOT NULL, epoch INTEGER NOT NULL, score REAL, promoted INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (experiment_id, rung)) WITHOUT ROWID;"
    "CREATE INDEX asha_rung ON asha (sweep_id, rung, point);";

/* Why the guard of a run went back in this epoch (0: it did not), and to which epoch's weights. */
static const char step_4[] = "ALTER TABLE epochs ADD COLUMN rollback INTEGER NOT NULL DEFAULT 0;"
                             "ALTER TABLE epochs ADD COLUMN rollback_to INTEGER NOT NULL DEFAULT 0;";

/* Means of the matching losses; NULL where a run matches nothing. */
static const char step_5[] =
    "ALTER TABLE epochs ADD COLUMN train_hidden REAL; ALTER TABLE epochs ADD COLUMN train_cls REAL;";

/* Which start of the run recorded the epoch; 0: not known. */
static const char step_6[] = "ALTER TABLE epochs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0;";

/* Means of the losses of attention and relations likewise. */
static const char step_7[] =
    "ALTER TABLE epochs ADD COLUMN train_attention REAL; ALTER TABLE epochs ADD COLUMN train_relation REAL;";

/* What the dev loss is made of; NULL where it was not told. */
static const char step_8[] = "ALTER TABLE epochs ADD COLUMN dev_kl REAL; ALTER TABLE epochs ADD COLUMN dev_ce REAL;";

/* Which directories of data sets and models were begun with this database: so many of each series.  A series is a
 * random number that each start chooses, so a copy of this database that somebody else goes on with has others. */
static const char step_9[] =
    "CREATE TABLE directories (series INTEGER PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;";

static const char *const migrations[] = {step_1, step_2, step_3, step_4, step_5, step_6, step_7, step_8, step_9};

static enum dd_status pragma_int(struct db *db, const char *sql, int *ret_value, struct dd_error *err) {
    bool row = false;
    DB_QUERY query = db_query_start(db, sql);
    enum dd_status status = db_query_next(&query, &row, err);
    if (status == DD_OK) {
        *ret_value = row ? (int)db_column_int(&query, 0) : 0;
    }
    return status;
}

enum dd_status db_user_version(struct db *db, int *ret_version, struct dd_error *err) {
    return pragma_int(db, "PRAGMA user_version", ret_version, err);
}

/* A database that is not empty must be ours. */
static enum dd_status check_ours(struct db *db, struct dd_error *err) {
    int tables = 0;
    int application = 0;
    enum dd_status status = pragma_int(db, "SELECT count(*) FROM sqlite_master", &tables, err);
    if (status == DD_OK) {
        status = pragma_int(db, "PRAGMA application_id", &application, err);
    }
    if (status == DD_OK && tables > 0 && application != APPLICATION_ID) {
        return dd_fail(err, DD_CORRUPT, "database_foreign",
                       "this SQLite database was not made by distilld; choose another data directory");
    }
    return status;
}

int db_schema_newest(void) {
    return (int)DD_ARRAY_LEN(migrations);
}

enum dd_status db_schema_check(struct db *db, struct dd_error *err) {
    int version = 0;
    enum dd_status status = check_ours(db, err);
    if (status == DD_OK) {
        status = db_user_version(db, &version, err);
    }
    if (status == DD_OK && (version < 0 || version > db_schema_newest())) {
        return dd_fail(err, DD_UNSUPPORTED, "database_newer",
                       "the database has schema version %d, but this distilld %s knows versions up to %d; run the "
                       "newer distilld that wrote it, or use another data directory",
                       version, DD_VERSION, db_schema_newest());
    }
    return status;
}

enum dd_status db_migrate(struct db *db, int version, struct dd_error *err) {
    char mark[128];
    int step = 0;
    enum dd_status status = db_user_version(db, &step, err);
    if (status != DD_OK || step >= version) {
        return status;
    }
    status = db_begin(db, err);
    if (status != DD_OK) {
        return status;
    }
    for (; status == DD_OK && step < version; step++) {
        status = db_exec(db, migrations[step], err);
    }
    if (status == DD_OK) {
        snprintf(mark, sizeof mark, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID, version);
        status = db_exec(db, mark, err);
    }
    status = db_finish(db, status, err);
    if (status != DD_OK) {
        dd_error_prefix(err, "cannot bring the database to schema version %d", step);
    }
    return status;
}
