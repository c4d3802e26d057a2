/* dataset_columns: which format a file has and which column is what.
 * Thread: one per struct dd_rows.
 *
 * Format.  The one asked for; else by the name's end: .tsv, .csv, .jsonl, .ndjson, .json; else by the content: "{"
 * first is JSON Lines, a tab in the first line TSV, a comma CSV.  An unlabelled file that ends in .txt, or shows
 * neither "{" nor a tab, holds a text a line (but in a data set of pairs, .txt is TSV: text, pair).
 *
 * Header (TSV, CSV).  When a column name is given, the first row is the header and must hold it.  Else the first row is
 * a header when it holds a known name of a text column and, for labelled splits, one of a label column (compared
 * without case and surrounding spaces).  Roles not named by the caller go to the first known name, in the order of the
 * lists below.
 *
 * No header.  The columns are text, label; or text, pair, label; fixed by the first row that has two or three.  In an
 * unlabelled file they are text (and pair, where the training split has pairs); columns further right are ignored.
 *
 * JSON Lines.  An object a line; the roles are found by the same names in each object.
 */
#include "engine/dataset.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/unicode.h"

static const char *const text_names[] = {"text",      "sentence", "content",  "text_a", "sentence1", "premise",
                                         "question1", "comment",  "review",   "title",  "headline",  "query",
                                         "input",     "document", "question", NULL};
static const char *const pair_names[] = {"pair", "text_pair", "text_b", "sentence2", "hypothesis", "question2", NULL};
static const char *const label_names[] = {"label", "class", "labels", "category", "target", "label_desc", "y", NULL};

enum role { ROLE_TEXT, ROLE_PAIR, ROLE_LABEL, ROLE_COUNT };
static const char *const role_words[ROLE_COUNT] = {"text", "pair", "label"};

struct dd_rows {
    struct dd_source *source;
    enum dd_source_format format;
    bool json;
    bool labelled;
    bool want_pair;                   /* unlabelled, in a data set of pairs */
    char file_name[256];              /* for messages */
    char *given[ROLE_COUNT];          /* owned; NULL: not given */
    const char *names[ROLE_COUNT][2]; /* {given, NULL} */
    bool header_done, columns_known;
    int column[ROLE_COUNT]; /* -1: absent */
    int expected;           /* columns a row must have; 0: any */
    cJSON *object;          /* of the row handed out */
    char number[32];
};

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcasecmp(name + n - m, end) == 0;
}

static void choose_format(struct dd_rows *rows, const struct dd_rows_options *options, const char *name) {
    size_t len;
    const char *peek = dd_source_peek(rows->source, &len);
    const char *end = memchr(peek, '\n', len);
    size_t line = end ? (size_t)(end - peek) : len;
    bool tab = memchr(peek, '\t', line) != NULL, comma = memchr(peek, ',', line) != NULL;
    size_t blank = 0;
    while (blank < len && strchr(" \t\r\n", peek[blank]) && peek[blank]) {
        blank++;
    }
    bool brace = blank < len && peek[blank] == '{';
    rows->format = DD_SOURCE_TSV;
    if (!rows->labelled && ends_with(name, ".txt")) {
        rows->format = rows->want_pair ? DD_SOURCE_TSV : DD_SOURCE_LINES;
    } else if (options->format == DD_FORMAT_JSONL) {
        rows->json = true;
    } else if (options->format == DD_FORMAT_CSV) {
        rows->format = DD_SOURCE_CSV;
    } else if (options->format == DD_FORMAT_TSV || ends_with(name, ".tsv")) {
        rows->format = DD_SOURCE_TSV;
    } else if (ends_with(name, ".csv")) {
        rows->format = DD_SOURCE_CSV;
    } else if (ends_with(name, ".jsonl") || ends_with(name, ".ndjson") || ends_with(name, ".json") || brace) {
        rows->json = true;
    } else if (!rows->labelled && !tab && !rows->want_pair) {
        rows->format = DD_SOURCE_LINES;
    } else if (!tab && comma) {
        rows->format = DD_SOURCE_CSV;
    }
    if (rows->json) {
        rows->format = DD_SOURCE_LINES;
    }
}

enum dd_status dd_rows_open(const struct dd_rows_options *options, struct dd_rows **ret_rows, struct dd_error *err) {
    struct dd_rows *rows = dd_calloc(1, sizeof *rows);
    if (!rows) {
        return dd_fail_memory(err, sizeof *rows);
    }
    const char *slash = strrchr(options->path, '/');
    const char *name = options->file_name ? options->file_name : slash ? slash + 1 : options->path;
    snprintf(rows->file_name, sizeof rows->file_name, "%s", name);
    rows->labelled = options->split != DD_SPLIT_UNLABELLED;
    rows->want_pair = !rows->labelled && options->pairs;
    const char *given[ROLE_COUNT] = {options->text_column, options->pair_column, options->label_column};
    enum dd_status status = dd_source_open(options->path, &rows->source, err);
    for (int role = 0; role < ROLE_COUNT && !status; role++) {
        rows->column[role] = -1;
        if (given[role] && given[role][0]) {
            rows->given[role] = dd_strdup(given[role]);
            rows->names[role][0] = rows->given[role];
            status = rows->given[role] ? DD_OK : dd_fail_memory(err, strlen(given[role]));
        }
    }
    if (status) {
        dd_rows_close(rows);
        return status;
    }
    choose_format(rows, options, name);
    *ret_rows = rows;
    return DD_OK;
}

void dd_rows_close(struct dd_rows *rows) {
    if (!rows) {
        return;
    }
    dd_source_close(rows->source);
    cJSON_Delete(rows->object);
    for (int role = 0; role < ROLE_COUNT; role++) {
        free(rows->given[role]);
    }
    free(rows);
}

/* The names by which a role is found: the one given, or those known. */
static const char *const *role_names(const struct dd_rows *rows, enum role role) {
    static const char *const *const known[ROLE_COUNT] = {text_names, pair_names, label_names};
    return rows->given[role] ? rows->names[role] : known[role];
}

/* --- header ------------------------------------------------------------------ */

static struct dd_field field_of(const struct dd_record *record, int i) {
    return (struct dd_field){.bytes = record->bytes + record->fields[i].from,
                             .len = record->fields[i].to - record->fields[i].from};
}

static struct dd_field trimmed(struct dd_field field) {
    while (field.len > 0 && strchr(" \t\r\n", field.bytes[0]) && field.bytes[0]) {
        field.bytes++;
        field.len--;
    }
    while (field.len > 0 && strchr(" \t\r\n", field.bytes[field.len - 1]) && field.bytes[field.len - 1]) {
        field.len--;
    }
    return field;
}

static int find_column(const struct dd_record *record, const char *const *names) {
    int n = DD_MIN(record->n_fields, DD_COLUMNS_MAX);
    for (; *names; names++) {
        size_t len = strlen(*names);
        for (int i = 0; i < n; i++) {
            struct dd_field cell = trimmed(field_of(record, i));
            if (cell.len == len && strncasecmp(cell.bytes, *names, len) == 0) {
                return i;
            }
        }
    }
    return -1;
}

static enum dd_status missing_column(const struct dd_rows *rows, const struct dd_record *record, enum role role,
                                     struct dd_error *err) {
    char header[200];
    size_t used = 0;
    header[0] = '\0';
    for (int i = 0; i < DD_MIN(record->n_fields, DD_COLUMNS_MAX) && used < sizeof header; i++) {
        struct dd_field cell = trimmed(field_of(record, i));
        bool text = dd_utf8_valid(cell.bytes, cell.len) && !memchr(cell.bytes, '\0', cell.len);
        used += (size_t)snprintf(header + used, sizeof header - used, "%s%.*s", i ? ", " : "",
                                 text ? (int)DD_MIN(cell.len, 40) : 1, text ? cell.bytes : "?");
    }
    if (rows->given[role]) {
        return dd_fail(err, DD_INVALID, "dataset_column_missing", "%s has no column \"%s\"; its first line is: %s",
                       rows->file_name, rows->given[role], header);
    }
    return dd_fail(err, DD_INVALID, "dataset_column_missing",
                   "%s: no column of the header is known as the %s, name it with %s_column; the first line is: %s",
                   rows->file_name, role_words[role], role_words[role], header);
}

/* Looks at the first record.  *ret_header: it is one, and the columns are known. */
static enum dd_status read_header(struct dd_rows *rows, const struct dd_record *record, bool *ret_header,
                                  struct dd_error *err) {
    bool must = rows->given[ROLE_TEXT] || rows->given[ROLE_PAIR] || (rows->given[ROLE_LABEL] && rows->labelled);
    int found[ROLE_COUNT];
    for (int role = 0; role < ROLE_COUNT; role++) {
        found[role] = record->problem ? -1 : find_column(record, role_names(rows, role));
    }
    bool need[ROLE_COUNT] = {true, rows->given[ROLE_PAIR] || rows->want_pair, rows->labelled};
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (need[role] && found[role] < 0) {
            *ret_header = false;
            return must ? missing_column(rows, record, role, err) : DD_OK;
        }
    }
    memcpy(rows->column, found, sizeof found);
    if (!rows->labelled) {
        rows->column[ROLE_LABEL] = -1;
    }
    rows->expected = record->n_fields;
    rows->columns_known = true;
    *ret_header = true;
    return DD_OK;
}

/* --- rows without header ----------------------------------------------------- */

/* Settles the columns from the number of fields; false: this row cannot tell. */
static bool settle_columns(struct dd_rows *rows, int n_fields) {
    if (!rows->labelled) {
        rows->column[ROLE_TEXT] = 0;
        rows->column[ROLE_PAIR] = rows->want_pair ? 1 : -1;
        rows->columns_known = true;
    } else if (n_fields == 2 || n_fields == 3) {
        rows->column[ROLE_TEXT] = 0;
        rows->column[ROLE_PAIR] = n_fields == 3 ? 1 : -1;
        rows->column[ROLE_LABEL] = n_fields - 1;
        rows->expected = n_fields;
        rows->columns_known = true;
    }
    return rows->columns_known;
}

static bool take_columns(struct dd_rows *rows, const struct dd_record *record, struct dd_source_row *row,
                         char reason[200]) {
    if (!rows->columns_known && !settle_columns(rows, record->n_fields)) {
        snprintf(reason, 200, "it has %d column%s; without a header they are text, label or text, pair, label",
                 record->n_fields, record->n_fields == 1 ? "" : "s");
        return false;
    }
    if (rows->expected && record->n_fields != rows->expected) {
        snprintf(reason, 200, "it has %d column%s, expected %d", record->n_fields, record->n_fields == 1 ? "" : "s",
                 rows->expected);
        return false;
    }
    struct dd_field *const fields[ROLE_COUNT] = {&row->text, &row->pair, &row->label};
    for (int role = 0; role < ROLE_COUNT; role++) {
        int column = rows->column[role];
        if (column < 0) {
            continue;
        }
        if (column >= DD_MIN(record->n_fields, DD_COLUMNS_MAX)) {
            snprintf(reason, 200, "it has no %s column", role_words[role]);
            return false;
        }
        *fields[role] = field_of(record, column);
    }
    return true;
}

static bool take_object(struct dd_rows *rows, const struct dd_record *record, struct dd_source_row *row,
                        char reason[200]) {
    cJSON_Delete(rows->object);
    rows->object = dd_jsonl_parse(record->bytes, record->len, reason);
    if (!rows->object) {
        return false;
    }
    struct dd_field *const fields[ROLE_COUNT] = {&row->text, &row->pair, &row->label};
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (role == ROLE_LABEL && !rows->labelled) {
            continue;
        }
        const char *const *names = role_names(rows, role);
        if (!dd_jsonl_field(rows->object, names, role == ROLE_LABEL, rows->number, fields[role], reason)) {
            return false;
        }
        bool needed = role != ROLE_PAIR || rows->given[ROLE_PAIR] || rows->want_pair;
        if (!fields[role]->bytes && needed) {
            snprintf(reason, 200, "the object has no \"%.60s\"", names[0]);
            return false;
        }
    }
    return true;
}

/* --- all rows ---------------------------------------------------------------- */

/* Nothing that a tokenizer would see: white space and control characters of any script. */
static bool is_blank(struct dd_field field) {
    const char *at = field.bytes, *end = at + field.len;
    while (at < end) {
        if (!(dd_char_class(dd_utf8_next(&at, end)) & (DD_CHAR_SPACE | DD_CHAR_DROP))) {
            return false;
        }
    }
    return true;
}

static bool check_field(const char *what, struct dd_field field, char reason[200]) {
    if (!field.bytes) {
        return true;
    }
    if (memchr(field.bytes, '\0', field.len)) {
        snprintf(reason, 200, "the %s has a NUL byte", what);
        return false;
    }
    if (!dd_utf8_valid(field.bytes, field.len)) {
        snprintf(reason, 200, "the %s is not UTF-8", what);
        return false;
    }
    if (is_blank(field)) {
        snprintf(reason, 200, "the %s is empty", what);
        return false;
    }
    return true;
}

static bool check_label(struct dd_field label, char reason[200]) {
    if (label.len >= DD_LABEL_BYTES) {
        snprintf(reason, 200, "the label has %zu bytes, at most %d are allowed", label.len, DD_LABEL_BYTES - 1);
        return false;
    }
    for (size_t i = 0; i < label.len; i++) {
        if ((unsigned char)label.bytes[i] < ' ' || label.bytes[i] == 0x7F) {
            snprintf(reason, 200, "the label has a control character");
            return false;
        }
    }
    return true;
}

static bool take_row(struct dd_rows *rows, const struct dd_record *record, struct dd_source_row *row,
                     char reason[200]) {
    memset(row, 0, sizeof *row);
    if (record->problem) {
        snprintf(reason, 200, "%s", record->problem);
        return false;
    }
    if (!(rows->json ? take_object(rows, record, row, reason) : take_columns(rows, record, row, reason))) {
        return false;
    }
    if (row->label.bytes) {
        row->label = trimmed(row->label);
    }
    return check_field("text", row->text, reason) && check_field("pair", row->pair, reason) &&
           check_field("label", row->label, reason) && (!row->label.bytes || check_label(row->label, reason));
}

enum dd_status dd_rows_next(struct dd_rows *rows, enum dd_rows_result *ret_result, struct dd_source_row *ret_row,
                            uint64_t *ret_line, char reason[200], struct dd_error *err) {
    struct dd_record *record = NULL;
    enum dd_status status = dd_source_next(rows->source, rows->format, &record, err);
    if (!status && record && !rows->header_done) {
        rows->header_done = true;
        bool header = false;
        if (!rows->json && rows->format != DD_SOURCE_LINES) {
            status = read_header(rows, record, &header, err);
        }
        if (!status && header) {
            status = dd_source_next(rows->source, rows->format, &record, err);
        }
    }
    if (status) {
        return status;
    }
    if (!record) {
        *ret_result = DD_ROWS_END;
        return DD_OK;
    }
    *ret_line = record->line;
    *ret_result = take_row(rows, record, ret_row, reason) ? DD_ROWS_ROW : DD_ROWS_BAD;
    return DD_OK;
}
