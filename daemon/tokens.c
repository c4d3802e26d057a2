/* Tokens on disk.
 *
 * DATA-DIR/tokens, replaced as a whole: '#' begins a comment line, every other line is
 *     NAME SCOPE CREATED SHA256          alice full 2026-11-23T20:08:52.123Z 9f86d0…
 * with single spaces, SCOPE read or full.  Only hashes are kept.  Where the file exists a token is required, even when
 * no line is left in it: revoking the last one must not open the door.  Writers take a lock on DATA-DIR/tokens.lock.
 *
 * Threads: the list functions any; a struct dd_token_source one at a time (the api sees to that).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "daemon/tokens.h"
#include "spec/spec.h"

#define READ_AGAIN_US 1000000
#define MAX_FILE_BYTES (64 * 1024)
#define SECRET_PREFIX "distilld_" /* scanners for leaked secrets find it */
#define LEAST_SECRET 16           /* characters of a token that a person chose for --token-file */

static const char *const scope_names[] = {[DD_SCOPE_READ] = "read", [DD_SCOPE_FULL] = "full"};

void dd_token_list_release(struct dd_token_list *list) {
    free(list->rows);
    *list = (struct dd_token_list){NULL, 0};
}

static bool from_hex(const char *text, uint8_t out[DD_SHA256_BYTES]) {
    if (strlen(text) != 2 * DD_SHA256_BYTES || strspn(text, "0123456789abcdef") != 2 * DD_SHA256_BYTES)
        return false;
    for (size_t i = 0; i < DD_SHA256_BYTES; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], '\0'};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

static const struct dd_token_row *find(const struct dd_token_list *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->rows[i].token.name, name) == 0)
            return &list->rows[i];
    return NULL;
}

static bool parse_line(const char *line, struct dd_token_row *row) {
    char name[65], scope[8], hex[DD_SHA256_HEX_BYTES];
    int end = 0;
    if (sscanf(line, "%64s %7s %31s %64s%n", name, scope, row->created, hex, &end) != 4 || line[end] != '\0')
        return false;
    bool full = strcmp(scope, scope_names[DD_SCOPE_FULL]) == 0;
    snprintf(row->token.name, sizeof row->token.name, "%s", name);
    row->token.scope = full ? DD_SCOPE_FULL : DD_SCOPE_READ;
    return dd_name_valid(name) && (full || strcmp(scope, scope_names[DD_SCOPE_READ]) == 0) &&
           from_hex(hex, row->token.sha256);
}

enum dd_status dd_token_list_parse(const char *text, const char *place, struct dd_token_list *ret_list,
                                   struct dd_error *err) {
    struct dd_token_list list = {dd_calloc(DD_TOKENS_MAX, sizeof *list.rows), 0};
    if (list.rows == NULL)
        return dd_fail_memory(err, DD_TOKENS_MAX * sizeof *list.rows);
    int number = 0;
    for (const char *at = text; *at != '\0';) {
        char line[256];
        size_t length = strcspn(at, "\n");
        number++;
        snprintf(line, sizeof line, "%.*s", (int)DD_MIN(length, sizeof line - 1), at);
        at += length;
        at += *at == '\n';
        if (line[0] == '#' || line[0] == '\0')
            continue;
        struct dd_token_row row = {.created = ""};
        bool room = list.count < DD_TOKENS_MAX;
        if (length >= sizeof line || !room || !parse_line(line, &row) || find(&list, row.token.name) != NULL) {
            dd_token_list_release(&list);
            return dd_fail(err, DD_INVALID, "tokens_damaged",
                           room ? "%s:%d: a line must be NAME SCOPE CREATED SHA256, each name once; `distilld token` "
                                  "writes it"
                                : "%s:%d: there are too many tokens",
                           place, number);
        }
        list.rows[list.count++] = row;
    }
    *ret_list = list;
    return DD_OK;
}

static enum dd_status read_path(const char *path, struct dd_token_list *ret_list, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t length;
    enum dd_status status = dd_file_read(path, MAX_FILE_BYTES, &text, &length, err);
    if (status == DD_OK && strlen(text) != length)
        status = dd_fail(err, DD_INVALID, "tokens_damaged", "%s: has a NUL byte", path);
    return status == DD_OK ? dd_token_list_parse(text, path, ret_list, err) : status;
}

enum dd_status dd_token_list_read(const char *data_dir, struct dd_token_list *ret_list, struct dd_error *err) {
    char path[PATH_MAX];
    enum dd_status status = dd_path_join(path, sizeof path, err, data_dir, "tokens", NULL);
    return status == DD_OK ? read_path(path, ret_list, err) : status;
}

/* --- changing --------------------------------------------------------------------------------------------------- */

static enum dd_status write_list(const char *data_dir, const struct dd_token_list *list, struct dd_error *err) {
    char path[PATH_MAX], hex[DD_SHA256_HEX_BYTES];
    struct dd_buffer text;
    dd_buffer_init(&text, MAX_FILE_BYTES);
    dd_buffer_puts(&text,
                   "# distilld's tokens, kept as hashes: name, scope, created, SHA-256.  `distilld token` writes "
                   "this file.\n");
    for (size_t i = 0; i < list->count; i++) {
        const struct dd_token_row *row = &list->rows[i];
        dd_hex(row->token.sha256, DD_SHA256_BYTES, hex);
        dd_buffer_printf(&text, "%s %s %s %s\n", row->token.name, scope_names[row->token.scope], row->created, hex);
    }
    enum dd_status status = dd_buffer_check(&text, err);
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, data_dir, "tokens", NULL);
    if (status == DD_OK)
        status = dd_file_write_durable(path, text.data, text.len, err);
    dd_buffer_release(&text);
    return status;
}

/* Locks, and reads what is there; nothing is an empty list.  The caller closes *ret_lock, also after a failure. */
static enum dd_status begin_change(const char *data_dir, int *ret_lock, struct dd_token_list *ret_list,
                                   struct dd_error *err) {
    char path[PATH_MAX];
    enum dd_status status = dd_path_join(path, sizeof path, err, data_dir, "tokens.lock", NULL);
    if (status != DD_OK)
        return status;
    *ret_lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (*ret_lock < 0 || flock(*ret_lock, LOCK_EX) != 0)
        return dd_fail_errno(err, errno, "cannot lock %s", path);
    status = dd_token_list_read(data_dir, ret_list, err);
    return status == DD_NOT_FOUND ? dd_token_list_parse("", path, ret_list, err) : status;
}

/* 256 random bits: no two are the same and none is guessed, whatever is known of the others. */
static enum dd_status new_secret(char ret_secret[DD_SECRET_BYTES], uint8_t sha256[DD_SHA256_BYTES],
                                 struct dd_error *err) {
    uint8_t random[32];
    char hex[2 * sizeof random + 1];
    enum dd_status status = dd_random_bytes(random, sizeof random, err);
    if (status != DD_OK)
        return status;
    dd_hex(random, sizeof random, hex);
    snprintf(ret_secret, DD_SECRET_BYTES, SECRET_PREFIX "%s", hex);
    dd_sha256_bytes(ret_secret, strlen(ret_secret), sha256);
    return DD_OK;
}

enum dd_status dd_token_create(const char *data_dir, const char *name, enum dd_scope scope,
                               char ret_secret[DD_SECRET_BYTES], struct dd_error *err) {
    if (!dd_name_valid(name) || strcmp(name, DD_TOKEN_FILE_NAME) == 0)
        return dd_fail(
            err, DD_INVALID, "name_invalid",
            "a token's name has at most 64 of a-z, 0-9, \".\", \"_\", \"-\", begins with a letter or a digit, "
            "and is not " DD_TOKEN_FILE_NAME "; got \"%.80s\"",
            name);
    DD_CLEANUP(dd_close_fd) int lock = -1;
    DD_CLEANUP(dd_token_list_release) struct dd_token_list list = {NULL, 0};
    struct dd_token_row row = {.token.scope = scope};
    enum dd_status status = begin_change(data_dir, &lock, &list, err);
    if (status == DD_OK && find(&list, name) != NULL)
        status = dd_fail(err, DD_CONFLICT, "name_taken", "there is a token %s already; revoke it first", name);
    if (status == DD_OK && list.count == DD_TOKENS_MAX)
        status = dd_fail(err, DD_CONFLICT, "too_many_tokens", "there are %d tokens already: revoke one first",
                         DD_TOKENS_MAX);
    if (status == DD_OK)
        status = new_secret(ret_secret, row.token.sha256, err);
    if (status != DD_OK)
        return status;
    snprintf(row.token.name, sizeof row.token.name, "%s", name);
    dd_time_format(dd_clock_wall_ms(), row.created);
    list.rows[list.count++] = row;
    return write_list(data_dir, &list, err);
}

enum dd_status dd_token_revoke(const char *data_dir, const char *name, struct dd_error *err) {
    DD_CLEANUP(dd_close_fd) int lock = -1;
    DD_CLEANUP(dd_token_list_release) struct dd_token_list list = {NULL, 0};
    enum dd_status status = begin_change(data_dir, &lock, &list, err);
    if (status != DD_OK)
        return status;
    const struct dd_token_row *row = find(&list, name);
    if (row == NULL)
        return dd_fail(err, DD_NOT_FOUND, "token_not_found", "there is no token \"%.80s\" in %s", name, data_dir);
    size_t at = (size_t)(row - list.rows);
    memmove(&list.rows[at], &list.rows[at + 1], (list.count - at - 1) * sizeof *list.rows);
    list.count--;
    return write_list(data_dir, &list, err);
}

/* --- a running daemon's view ---------------------------------------------------------------------------------------
 */

bool dd_is_loopback(const char *listen) {
    return strncmp(listen, "127.", 4) == 0 || strncmp(listen, "localhost:", 10) == 0 ||
           strncmp(listen, "[::1]:", 6) == 0;
}

/* The first line of --token-file: a token with every right. */
static enum dd_status read_token_file(const char *path, struct dd_api_token *ret_token, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t length;
    struct stat info;
    enum dd_status status = dd_file_read(path, 4096, &text, &length, err);
    if (status != DD_OK)
        return dd_error_prefix(err, "the token file");
    size_t token = strcspn(text, "\r\n");
    if (token < LEAST_SECRET)
        return dd_fail(err, DD_INVALID, "config_invalid",
                       "%s: the token must have at least %d characters; `openssl rand -hex 32` makes one", path,
                       LEAST_SECRET);
    if (stat(path, &info) == 0 && (info.st_mode & 0077) != 0)
        dd_log(DD_LOG_WARNING, "access", "%s can be read by others than its owner: chmod 600 it", path);
    *ret_token = (struct dd_api_token){.name = DD_TOKEN_FILE_NAME, .scope = DD_SCOPE_FULL};
    dd_sha256_bytes(text, token, ret_token->sha256);
    explicit_bzero(text, length);
    return DD_OK;
}

/* Whether the file at path is another than the one seen; a missing one counts as all zero. */
static bool has_changed(const char *path, struct stat *seen) {
    struct stat now;
    if (stat(path, &now) != 0)
        memset(&now, 0, sizeof now);
    bool same = now.st_dev == seen->st_dev && now.st_ino == seen->st_ino && now.st_size == seen->st_size &&
                now.st_mtim.tv_sec == seen->st_mtim.tv_sec && now.st_mtim.tv_nsec == seen->st_mtim.tv_nsec &&
                now.st_ctim.tv_sec == seen->st_ctim.tv_sec && now.st_ctim.tv_nsec == seen->st_ctim.tv_nsec;
    *seen = now;
    return !same;
}

/* Of memory, of the disk, of descriptors: says nothing of what stands in the file. */
static bool may_pass(enum dd_status status) {
    return status == DD_NO_MEMORY || status == DD_IO;
}

/* Reads both.  What cannot be read lets nobody in; *err is of the last such. */
static enum dd_status read_all(struct dd_token_source *source, struct dd_api_tokens *ret_tokens, struct dd_error *err) {
    DD_CLEANUP(dd_token_list_release) struct dd_token_list list = {NULL, 0};
    struct dd_api_tokens tokens = {.items = dd_calloc(DD_TOKENS_MAX + 1, sizeof *tokens.items)};
    if (tokens.items == NULL)
        return dd_fail_memory(err, (DD_TOKENS_MAX + 1) * sizeof *tokens.items);
    enum dd_status result = DD_OK;
    if (source->token_file != NULL) {
        result = read_token_file(source->token_file, &tokens.items[0], err);
        tokens.count = result == DD_OK;
    }
    enum dd_status status = read_path(source->tokens_path, &list, result == DD_OK ? err : NULL);
    source->required |= source->token_file != NULL || (status != DD_NOT_FOUND && !may_pass(status));
    if (result == DD_OK && status != DD_NOT_FOUND)
        result = status;
    for (size_t i = 0; i < list.count; i++)
        tokens.items[tokens.count++] = list.rows[i].token;
    tokens.required = source->required || may_pass(status);
    *ret_tokens = tokens;
    return result;
}

enum dd_status dd_token_source_open(struct dd_token_source *source, const char *data_dir, const char *token_file,
                                    const char *listen, struct dd_error *err) {
    *source = (struct dd_token_source){.token_file = token_file, .required = !dd_is_loopback(listen)};
    struct dd_api_tokens tokens = {0};
    enum dd_status status =
        dd_path_join(source->tokens_path, sizeof source->tokens_path, err, data_dir, "tokens", NULL);
    if (status == DD_OK)
        status = read_all(source, &tokens, err);
    if (status == DD_OK && tokens.count == 0 && !dd_is_loopback(listen))
        status = dd_fail(err, DD_INVALID, "token_required",
                         "refusing to listen on %s without a token: everyone on that network could submit and read. "
                         "`distilld token create NAME --data-dir %s` makes one; or listen on 127.0.0.1",
                         listen, data_dir);
    free(tokens.items);
    return status;
}

bool dd_token_source_poll(struct dd_token_source *source, struct dd_api_tokens *ret_tokens) {
    bool tokens_changed = has_changed(source->tokens_path, &source->tokens_seen);
    bool file_changed = source->token_file != NULL && has_changed(source->token_file, &source->token_file_seen);
    struct dd_error err = {0};
    struct dd_api_tokens tokens = {.required = true};
    int64_t now_us = dd_clock_mono_us();
    bool again = source->again_us != 0 && now_us >= source->again_us;
    if (source->begun && !tokens_changed && !file_changed && !again)
        return false;
    enum dd_status status = read_all(source, &tokens, &err);
    source->again_us = may_pass(status) ? now_us + READ_AGAIN_US : 0;
    if (status != DD_OK)
        dd_log(DD_LOG_ERROR, "access", "%s; what stands there lets nobody in", err.message);
    else if (source->begun)
        dd_log(DD_LOG_INFO, "access", "the tokens were read again: %zu", tokens.count);
    source->begun = true;
    *ret_tokens = tokens;
    return true;
}
