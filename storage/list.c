/* list: pages of experiments, filtered and sorted.
 *
 * Keyset paging: the next page begins behind the last row's (key, id), found through the key's index, never by counting
 * rows off.  NULLs come last in both directions, which no single index range gives; so a page is read in at most two
 * parts, first rows with a value, then rows without, in one read transaction.  Both parts walk an index in order and
 * stop at the limit.  The filters are checked on the way; only a set of unfinished states, which select few rows, may
 * use the index on state instead.
 *
 * SQL text is put together from the constants here; everything that a user wrote is a bound parameter.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/db.h"

#define MAX_LIMIT 1000
#define Q_MAX_BYTES 1000 /* far below SQLite's own bound on LIKE patterns */

struct sort_key {
    const char *name;
    const char *column;
    char kind; /* of db_cursor */
    bool nullable;
};
static const struct sort_key keys[] = {
    {"id", "id", 'i', false},
    {"name", "name", 't', false},
    {"status", "state", 'i', false},
    {"created_at", "created_ms", 'i', false},
    {"started_at", "started_ms", 'i', true},
    {"finished_at", "finished_ms", 'i', true},
    {"best_macro_f1", "best_macro_f1", 'r', true},
    {"best_accuracy", "best_accuracy", 'r', true},
    {"priority", "priority", 'i', false},
    {"dataset", "dataset", 't', false},
    {"layers", "layers", 'i', false},
    {"T", "temperature", 'r', true},
    {"alpha", "alpha", 'r', true},
    {"lr", "lr", 'r', true},
    {"elapsed_seconds", "elapsed_seconds", 'r', true},
    {"model_bytes", "model_bytes", 'i', true},
    {"queue", "queue_key", 'i', true},
};
static const char *key_names[DD_ARRAY_LEN(keys) + 1];
static pthread_once_t names_once = PTHREAD_ONCE_INIT;

static void list_names(void) {
    for (size_t i = 0; i < DD_ARRAY_LEN(keys); i++) {
        key_names[i] = keys[i].name;
    }
}

const char *const *dd_storage_sort_keys(void) {
    pthread_once(&names_once, list_names);
    return key_names;
}

enum dd_status db_like_pattern(const char *q, char **ret_pattern, struct dd_error *err) {
    if (strlen(q) > Q_MAX_BYTES) {
        return dd_fail(err, DD_INVALID, "q_too_long", "q may have at most %d bytes", Q_MAX_BYTES);
    }
    struct dd_buffer pattern;
    dd_buffer_init(&pattern, 2 * Q_MAX_BYTES + 2);
    dd_buffer_putc(&pattern, '%');
    for (; *q; q++) {
        if (*q == '%' || *q == '_' || *q == '\\') {
            dd_buffer_putc(&pattern, '\\');
        }
        dd_buffer_putc(&pattern, *q);
    }
    dd_buffer_putc(&pattern, '%');
    enum dd_status status = dd_buffer_check(&pattern, err);
    if (status == DD_OK) {
        *ret_pattern = dd_buffer_take(&pattern, NULL);
    }
    dd_buffer_release(&pattern);
    return status;
}

/* A query as understood. */
struct listing {
    const struct dd_experiment_query *query;
    const struct sort_key *key;
    const char *sort; /* as the cursor is bound to it */
    bool descending;
    bool has_cursor;
    struct db_cursor cursor;
    char *pattern;   /* of q; owned */
    int64_t wish_id; /* q as "#7" or "7"; 0 if it is none */
    struct dd_experiment *items;
    size_t count, wanted;      /* wanted: one more than a page, to see whether another follows */
    struct db_cursor page_end; /* of the row before that one */
};

static void release_listing(struct listing *listing) {
    free(listing->pattern);
    dd_experiments_free(listing->items, listing->count);
}

static int64_t parse_id(const char *q) {
    int64_t id = 0;
    q += *q == '#';
    if (*q == '\0' || strlen(q) > 15) {
        return 0;
    }
    for (; *q; q++) {
        if (*q < '0' || *q > '9') {
            return 0;
        }
        id = 10 * id + (*q - '0');
    }
    return id;
}

static enum dd_status find_key(const char *sort, struct listing *listing, struct dd_error *err) {
    listing->sort = sort;
    listing->descending = sort[0] == '-';
    for (size_t i = 0; i < DD_ARRAY_LEN(keys); i++) {
        if (strcmp(sort + listing->descending, keys[i].name) == 0) {
            listing->key = &keys[i];
            return DD_OK;
        }
    }
    return dd_fail(err, DD_INVALID, "sort_invalid", "cannot sort by \"%.64s\"", sort);
}

static enum dd_status understand(const struct dd_experiment_query *query, struct listing *listing,
                                 struct dd_error *err) {
    if (query->limit < 1 || query->limit > MAX_LIMIT) {
        return dd_fail(err, DD_INVALID, "limit_invalid", "limit must be between 1 and %d, got %d", MAX_LIMIT,
                       query->limit);
    }
    listing->query = query;
    listing->wanted = (size_t)query->limit + 1;
    enum dd_status status = find_key(query->sort ? query->sort : "-id", listing, err);
    if (status == DD_OK && query->cursor) {
        listing->has_cursor = true;
        status = db_cursor_decode(query->cursor, listing->sort, listing->key->kind, &listing->cursor, err);
        if (status == DD_OK && listing->cursor.kind == 'n' && !listing->key->nullable) {
            status = dd_fail(err, DD_INVALID, "cursor_invalid", "cursor is not one that this server gave out");
        }
    }
    if (status == DD_OK && query->q && query->q[0]) {
        listing->wish_id = parse_id(query->q);
        status = db_like_pattern(query->q, &listing->pattern, err);
    }
    return status;
}

/* Parameters are bound in this very order by bind_filters. */
static void put_filters(struct dd_buffer *sql, const struct listing *listing) {
    const struct dd_experiment_query *query = listing->query;
    const unsigned all = (1u << DD_STATE_COUNT) - 1;
    const unsigned unfinished = 1u << DD_QUEUED | 1u << DD_RUNNING | 1u << DD_PAUSED;
    unsigned states = query->states & all;
    if (query->states && states != all) {
        /* The unary plus keeps SQLite from the index on state. */
        dd_buffer_puts(sql, (states & ~unfinished) ? " AND +state IN (" : " AND state IN (");
        const char *comma = "";
        for (unsigned state = 0; state < DD_STATE_COUNT; state++) {
            if (states & 1u << state) {
                dd_buffer_printf(sql, "%s%u", comma, state);
                comma = ",";
            }
        }
        dd_buffer_putc(sql, ')');
    }
    dd_buffer_puts(sql, query->sweep_id ? " AND sweep_id = ?" : "");
    dd_buffer_puts(sql, query->dataset ? " AND +dataset = ?" : "");
    /* Also one of several teachers.  As below, the text is looked at before it is parsed. */
    dd_buffer_puts(sql, query->teacher ? " AND (teacher = ? OR (instr(spec, '\"teachers\":')"
                                         " AND EXISTS (SELECT 1 FROM json_each(spec, '$.teachers') WHERE value = ?)))"
                                       : "");
    dd_buffer_puts(sql, query->task ? " AND task = ?" : "");
    dd_buffer_puts(sql, query->optimizer ? " AND optimizer = ?" : "");
    /* Parsing the tags of every row would take most of the time, so their text is looked at first: unless it holds an
     * escape, a tag stands in it as it is. */
    dd_buffer_puts(sql, query->tag ? " AND (instr(tags, ?) OR instr(tags, '\\'))"
                                     " AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)"
                                   : "");
    if (listing->pattern) {
        dd_buffer_puts(sql, " AND (+id = ? OR name LIKE ? ESCAPE '\\' OR dataset LIKE ? ESCAPE '\\'"
                            " OR teacher LIKE ? ESCAPE '\\' OR notes LIKE ? ESCAPE '\\'"
                            " OR ((tags LIKE ? ESCAPE '\\' OR instr(tags, '\\'))"
                            "  AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value LIKE ? ESCAPE '\\')))");
    }
}

static void bind_filters(struct db_query *bound, const struct listing *listing) {
    const struct dd_experiment_query *query = listing->query;
    if (query->sweep_id) {
        db_bind_int(bound, query->sweep_id);
    }
    const char *const texts[] = {query->dataset,   query->teacher, query->teacher, query->task,
                                 query->optimizer, query->tag,     query->tag};
    for (size_t i = 0; i < DD_ARRAY_LEN(texts); i++) {
        if (texts[i]) {
            db_bind_text(bound, texts[i]);
        }
    }
    if (listing->pattern) {
        db_bind_int(bound, listing->wish_id);
        for (int i = 0; i < 6; i++) {
            db_bind_text(bound, listing->pattern);
        }
    }
}

/* The condition and order of one part; by_id: the part has no key of its own (sort by id, or rows without a value). */
static void put_part(struct dd_buffer *sql, const struct listing *listing, bool nulls, bool after, bool by_id) {
    const struct sort_key *key = listing->key;
    const char *comparison = listing->descending ? "<" : ">";
    const char *direction = listing->descending ? "DESC" : "ASC";
    if (nulls) {
        dd_buffer_printf(sql, " AND %s IS NULL", key->column);
    }
    if (by_id) {
        dd_buffer_printf(sql, "%s%s%s ORDER BY id %s LIMIT ?", after ? " AND id " : "", after ? comparison : "",
                         after ? " ?" : "", direction);
        return;
    }
    if (after) {
        dd_buffer_printf(sql, " AND (%s, id) %s (?, ?)", key->column, comparison);
    } else if (key->nullable) {
        dd_buffer_printf(sql, " AND %s IS NOT NULL", key->column);
    }
    dd_buffer_printf(sql, " ORDER BY %s %s, id %s LIMIT ?", key->column, direction, direction);
}

static void bind_cursor(struct db_query *bound, const struct db_cursor *cursor) {
    if (cursor->kind == 'i') {
        db_bind_int(bound, cursor->integer);
    } else if (cursor->kind == 'r') {
        db_bind_real(bound, cursor->real);
    } else {
        db_bind_text(bound, cursor->text);
    }
}

/* The row's sort value, the last column, as a cursor. */
static void read_page_end(const struct db_query *bound, struct listing *listing) {
    int column = sqlite3_column_count(bound->stmt) - 1;
    struct db_cursor *end = &listing->page_end;
    end->id = listing->items[listing->count - 1].id;
    end->kind = sqlite3_column_type(bound->stmt, column) == SQLITE_NULL ? 'n' : listing->key->kind;
    end->integer = db_column_int(bound, column);
    end->real = db_column_real(bound, column);
    if (end->kind == 't') {
        const unsigned char *text = sqlite3_column_text(bound->stmt, column);
        snprintf(end->text, sizeof end->text, "%s", text ? (const char *)text : "");
    }
}

static enum dd_status read_rows(struct db_query *bound, struct listing *listing, struct dd_error *err) {
    for (;;) {
        bool row = false;
        enum dd_status status = db_query_next(bound, &row, err);
        if (status != DD_OK || !row || listing->count == listing->wanted) {
            return status;
        }
        status = db_experiment_read(bound, &listing->items[listing->count], err);
        if (status != DD_OK) {
            return status;
        }
        if (++listing->count == listing->wanted - 1) {
            read_page_end(bound, listing);
        }
    }
}

/* Rows with a value (nulls false) or without one, until the page is full. */
static enum dd_status read_part(struct db *db, struct listing *listing, bool nulls, struct dd_error *err) {
    bool by_id = nulls || strcmp(listing->key->column, "id") == 0;
    bool after = listing->has_cursor && (listing->cursor.kind == 'n') == nulls;
    struct dd_buffer sql;
    dd_buffer_init(&sql, 8192);
    dd_buffer_printf(&sql, "SELECT %s,%s FROM experiments WHERE 1", db_experiment_columns(), listing->key->column);
    put_filters(&sql, listing);
    put_part(&sql, listing, nulls, after, by_id);
    enum dd_status status = dd_buffer_check(&sql, err);
    if (status == DD_OK) {
        DB_QUERY bound = db_query_start(db, sql.data);
        bind_filters(&bound, listing);
        if (after && !by_id) {
            bind_cursor(&bound, &listing->cursor);
        }
        if (after) {
            db_bind_int(&bound, listing->cursor.id);
        }
        db_bind_int(&bound, (int64_t)(listing->wanted - listing->count));
        status = read_rows(&bound, listing, err);
    }
    dd_buffer_release(&sql);
    return status;
}

static enum dd_status read_page(struct db *db, struct listing *listing, struct dd_error *err) {
    DB_GUARD(db);
    enum dd_status status = db_begin_read(db, err);
    if (status != DD_OK) {
        return status;
    }
    if (!listing->has_cursor || listing->cursor.kind != 'n') {
        status = read_part(db, listing, false, err);
    }
    if (status == DD_OK && listing->key->nullable && listing->count < listing->wanted) {
        status = read_part(db, listing, true, err);
    }
    return db_finish(db, status, err);
}

static enum dd_status next_cursor(const struct listing *listing, char **ret_text, struct dd_error *err) {
    if (listing->count < listing->wanted) {
        *ret_text = NULL;
        return DD_OK;
    }
    return db_cursor_encode(&listing->page_end, listing->sort, ret_text, err);
}

enum dd_status dd_storage_experiment_list(struct dd_storage *storage, const struct dd_experiment_query *query,
                                          struct dd_experiment **ret_items, size_t *ret_count, char **ret_next_cursor,
                                          struct dd_error *err) {
    DD_CLEANUP(release_listing) struct listing listing = {0};
    char *cursor = NULL;
    enum dd_status status = understand(query, &listing, err);
    if (status != DD_OK) {
        return status;
    }
    listing.items = dd_calloc(listing.wanted, sizeof *listing.items);
    if (!listing.items) {
        return dd_fail_memory(err, listing.wanted * sizeof *listing.items);
    }
    status = read_page(&storage->read, &listing, err);
    if (status == DD_OK) {
        status = next_cursor(&listing, &cursor, err);
    }
    if (status != DD_OK) {
        return status;
    }
    if (listing.count == listing.wanted) { /* the row that only showed that there is more */
        dd_experiment_release(&listing.items[--listing.count]);
    }
    *ret_items = listing.items;
    *ret_count = listing.count;
    *ret_next_cursor = cursor;
    listing.items = NULL;
    return DD_OK;
}
