/* distilld token: create, list and revoke tokens.  Works on the data directory, whether its daemon runs or not; a
 * daemon that runs looks at the file before it believes a token. Threads: main.
 */
#include <string.h>

#include "daemon/command.h"
#include "daemon/tokens.h"

static int create(const char *dir, const char *name, enum dd_scope scope, struct dd_error *err) {
    char secret[DD_SECRET_BYTES];
    enum dd_status status = dd_dir_make(dir, err);
    if (status == DD_OK)
        status = dd_admin_become_owner(dir, err);
    if (status == DD_OK)
        status = dd_token_create(dir, name, scope, secret, err);
    if (status != DD_OK)
        return dd_report_error(err);
    printf("%s\n", secret);
    fprintf(stderr, "This is the only time that the token is shown; %s/tokens keeps its hash.\n", dir);
    explicit_bzero(secret, sizeof secret);
    return 0;
}

static int list(const char *dir, struct dd_error *err) {
    struct dd_token_list tokens = {NULL, 0};
    enum dd_status status = dd_token_list_read(dir, &tokens, err);
    if (status == DD_NOT_FOUND) {
        fprintf(stderr, "There are no tokens in %s.\n", dir);
        return 0;
    }
    if (status != DD_OK)
        return dd_report_error(err);
    for (size_t i = 0; i < tokens.count; i++)
        printf("%-24s  %s  %s\n", tokens.rows[i].token.name,
               tokens.rows[i].token.scope == DD_SCOPE_FULL ? "full" : "read", tokens.rows[i].created);
    if (tokens.count == 0)
        fprintf(stderr,
                "There is no token left in %s/tokens, so nobody is let in; where the daemon listens on loopback "
                "alone, stopping it and deleting that file makes tokens unnecessary again.\n",
                dir);
    dd_token_list_release(&tokens);
    return 0;
}

static int revoke_token(const char *dir, const char *name, struct dd_error *err) {
    enum dd_status status = dd_admin_become_owner(dir, err);
    if (status == DD_OK)
        status = dd_token_revoke(dir, name, err);
    return status == DD_OK ? 0 : dd_report_error(err);
}

int dd_token_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    char dir[PATH_MAX];
    if (dd_admin_data_dir(options, dir, &err) != DD_OK)
        return dd_report_error(&err);
    bool is_list = strcmp(args[0], "list") == 0;
    if (is_list && args[1] == NULL)
        return list(dir, &err);
    if (!is_list && args[1] != NULL && strcmp(args[0], "create") == 0)
        return create(dir, args[1], options->read_only ? DD_SCOPE_READ : DD_SCOPE_FULL, &err);
    if (!is_list && args[1] != NULL && strcmp(args[0], "revoke") == 0)
        return revoke_token(dir, args[1], &err);
    fprintf(stderr, "distilld: usage: distilld token create NAME [--read-only] | list | revoke NAME\n");
    return DD_EXIT_USAGE;
}
