/* The tokens of a data directory, and what of them counts at this moment.
 */
#ifndef DD_DAEMON_TOKENS_H
#define DD_DAEMON_TOKENS_H

#include <limits.h>
#include <sys/stat.h>

#include "api/api.h"
#include "base/base.h"

#define DD_TOKENS_MAX 256
#define DD_TOKEN_FILE_NAME "token-file" /* what the token of --token-file is called; no other may be */
#define DD_SECRET_BYTES 80              /* room for a new token's text */

struct dd_token_row {
    struct dd_api_token token;
    char created[DD_TIME_TEXT_BYTES];
};
struct dd_token_list {
    struct dd_token_row *rows; /* owned */
    size_t count;
};
void dd_token_list_release(struct dd_token_list *list);
/* place: for messages.  DD_INVALID names the line. */
enum dd_status dd_token_list_parse(const char *text, const char *place, struct dd_token_list *ret_list,
                                   struct dd_error *err) DD_MUST_CHECK;
/* The file of a data directory; DD_NOT_FOUND where there is none. */
enum dd_status dd_token_list_read(const char *data_dir, struct dd_token_list *ret_list,
                                  struct dd_error *err) DD_MUST_CHECK;
/* Adds a token (DD_CONFLICT where the name is taken) and gives its text, which is nowhere else; removes one
 * (DD_NOT_FOUND).  Whole or not at all, also beside another process that does the same. */
enum dd_status dd_token_create(const char *data_dir, const char *name, enum dd_scope scope,
                               char ret_secret[DD_SECRET_BYTES], struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_token_revoke(const char *data_dir, const char *name, struct dd_error *err) DD_MUST_CHECK;

/* What a running daemon accepts: the file above and --token-file, each read again when it has changed. */
struct dd_token_source {
    char tokens_path[PATH_MAX];
    const char *token_file; /* NULL: none */
    struct stat tokens_seen, token_file_seen;
    bool required; /* once true it stays: a file that vanishes lets nobody in */
    bool begun;
    int64_t again_us; /* mono: when to read again what could not be read for want of memory or the like; 0: not */
};
/* Errors: what cannot be read; DD_INVALID "token_required" when there is no token and listen reaches beyond loopback.
 */
enum dd_status dd_token_source_open(struct dd_token_source *source, const char *data_dir, const char *token_file,
                                    const char *listen, struct dd_error *err) DD_MUST_CHECK;
/* struct dd_api_ops.tokens, with source instead of the daemon. */
bool dd_token_source_poll(struct dd_token_source *source, struct dd_api_tokens *ret_tokens);
bool dd_is_loopback(const char *listen);

#endif
