/* Tokens on disk: what is written is read, damage lets nobody in, and what a running daemon sees of it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/tokens.h"

static char dir[64];

static int set_up(void **state) {
    (void)state;
    dd_log_configure(DD_LOG_ERROR, DD_LOG_TEXT, open("/dev/null", O_WRONLY));
    snprintf(dir, sizeof dir, "/tmp/distilld-test-tokens-XXXXXX");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    struct dd_error err = {0};
    return dd_tree_remove(dir, &err) == DD_OK ? 0 : -1;
}

static void write_tokens(const char *text) {
    char path[96];
    struct dd_error err = {0};
    snprintf(path, sizeof path, "%s/tokens", dir);
    assert_int_equal(dd_file_write_durable(path, text, strlen(text), &err), DD_OK);
}

static bool has(const struct dd_api_tokens *tokens, const char *secret, enum dd_scope scope) {
    uint8_t sha256[DD_SHA256_BYTES];
    dd_sha256_bytes(secret, strlen(secret), sha256);
    for (size_t i = 0; i < tokens->count; i++)
        if (memcmp(tokens->items[i].sha256, sha256, sizeof sha256) == 0)
            return tokens->items[i].scope == scope;
    return false;
}

static void test_create_list_revoke(void **state) {
    (void)state;
    struct dd_error err = {0};
    struct dd_token_list list;
    char alice[DD_SECRET_BYTES], bob[DD_SECRET_BYTES], path[96], *text;
    size_t length;
    assert_int_equal(dd_token_list_read(dir, &list, &err), DD_NOT_FOUND);
    assert_int_equal(dd_token_create(dir, "alice", DD_SCOPE_FULL, alice, &err), DD_OK);
    assert_int_equal(dd_token_create(dir, "bob-1.x", DD_SCOPE_READ, bob, &err), DD_OK);
    assert_string_not_equal(alice, bob);
    assert_int_equal(strlen(alice), strlen("distilld_") + 64);
    assert_int_equal(dd_token_create(dir, "alice", DD_SCOPE_READ, bob, &err), DD_CONFLICT);
    static const char *const bad[] = {"", "Alice", "a b", "../x", "token-file", "a\nb"};
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++)
        assert_int_equal(dd_token_create(dir, bad[i], DD_SCOPE_FULL, alice, &err), DD_INVALID);
    assert_int_equal(dd_token_list_read(dir, &list, &err), DD_OK);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.rows[1].token.name, "bob-1.x");
    assert_int_equal(list.rows[1].token.scope, DD_SCOPE_READ);
    dd_token_list_release(&list);
    snprintf(path, sizeof path, "%s/tokens", dir);
    assert_int_equal(dd_file_read(path, 1 << 16, &text, &length, &err), DD_OK);
    assert_null(strstr(text, alice + strlen("distilld_"))); /* hashes only */
    free(text);
    assert_int_equal(dd_token_revoke(dir, "carol", &err), DD_NOT_FOUND);
    assert_int_equal(dd_token_revoke(dir, "alice", &err), DD_OK);
    assert_int_equal(dd_token_revoke(dir, "bob-1.x", &err), DD_OK);
    assert_int_equal(dd_token_list_read(dir, &list, &err), DD_OK); /* the file stays */
    assert_int_equal(list.count, 0);
    dd_token_list_release(&list);
}

static void test_full(void **state) {
    (void)state;
    struct dd_error err = {0};
    char secret[DD_SECRET_BYTES], name[16];
    for (int i = 0; i < DD_TOKENS_MAX; i++) {
        snprintf(name, sizeof name, "t%d", i);
        assert_int_equal(dd_token_create(dir, name, DD_SCOPE_FULL, secret, &err), DD_OK);
    }
    assert_int_equal(dd_token_create(dir, "more", DD_SCOPE_FULL, secret, &err), DD_CONFLICT);
    assert_string_equal(err.code, "too_many_tokens");
}

#define HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
static void test_damaged(void **state) {
    (void)state;
    static const char *const bad[] = {
        "alice full 2026 " HASH "0\n",
        "alice full 2026\n",
        "alice all 2026 " HASH "\n",
        "Alice full 2026 " HASH "\n",
        "alice full 2026 " HASH " x\n",
        "alice full 2026 0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef\n",
        "a full 2026 " HASH "\na read 2026 " HASH "\n",
        "\x01\n",
        "a/../b full 2026 " HASH "\n"};
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        struct dd_token_list list;
        struct dd_error err = {0};
        if (dd_token_list_parse(bad[i], "tokens", &list, &err) != DD_INVALID)
            fail_msg("taken: %s", bad[i]);
        assert_non_null(strstr(err.message, "tokens:"));
    }
    struct dd_token_list list;
    struct dd_error err = {0};
    assert_int_equal(dd_token_list_parse("# a comment\n\nalice full 2026 " HASH, "tokens", &list, &err), DD_OK);
    assert_int_equal(list.count, 1);
    dd_token_list_release(&list);
}

static void test_source(void **state) {
    (void)state;
    struct dd_error err = {0};
    struct dd_token_source source;
    struct dd_api_tokens tokens;
    char alice[DD_SECRET_BYTES], token_file[96];
    snprintf(token_file, sizeof token_file, "%s/one", dir);
    /* on loopback without tokens everybody may do everything; beyond it the start is refused */
    assert_int_equal(dd_token_source_open(&source, dir, NULL, "0.0.0.0:8080", &err), DD_INVALID);
    assert_string_equal(err.code, "token_required");
    assert_int_equal(dd_token_source_open(&source, dir, token_file, "127.0.0.1:8080", &err), DD_NOT_FOUND);
    assert_int_equal(dd_token_source_open(&source, dir, NULL, "127.0.0.1:8080", &err), DD_OK);
    assert_true(dd_token_source_poll(&source, &tokens));
    assert_false(tokens.required);
    free(tokens.items);
    assert_false(dd_token_source_poll(&source, &tokens));
    /* the first token closes the door at once */
    assert_int_equal(dd_token_create(dir, "alice", DD_SCOPE_READ, alice, &err), DD_OK);
    assert_true(dd_token_source_poll(&source, &tokens));
    assert_true(tokens.required);
    assert_true(has(&tokens, alice, DD_SCOPE_READ));
    free(tokens.items);
    /* a damaged and a vanished file let nobody in */
    write_tokens("nonsense\n");
    assert_true(dd_token_source_poll(&source, &tokens));
    assert_true(tokens.required);
    assert_int_equal(tokens.count, 0);
    free(tokens.items);
    assert_int_equal(dd_token_source_open(&source, dir, NULL, "127.0.0.1:8080", &err), DD_INVALID);
    write_tokens("");
    assert_int_equal(dd_token_source_open(&source, dir, NULL, "[::1]:8080", &err), DD_OK);
    assert_true(dd_token_source_poll(&source, &tokens));
    free(tokens.items);
    assert_int_equal(unlink(source.tokens_path), 0);
    assert_true(dd_token_source_poll(&source, &tokens));
    assert_true(tokens.required);
    free(tokens.items);
}

static void test_token_file(void **state) {
    (void)state;
    struct dd_error err = {0};
    struct dd_token_source source;
    struct dd_api_tokens tokens;
    char path[96];
    snprintf(path, sizeof path, "%s/one", dir);
    assert_int_equal(dd_file_write_durable(path, "short\n", 6, &err), DD_OK);
    assert_int_equal(dd_token_source_open(&source, dir, path, "0.0.0.0:1", &err), DD_INVALID);
    assert_int_equal(dd_file_write_durable(path, "sixteen characters\nmore\n", 24, &err), DD_OK);
    assert_int_equal(dd_token_source_open(&source, dir, path, "0.0.0.0:1", &err), DD_OK);
    assert_true(dd_token_source_poll(&source, &tokens));
    assert_true(has(&tokens, "sixteen characters", DD_SCOPE_FULL));
    free(tokens.items);
    assert_int_equal(dd_file_write_durable(path, "another sixteen characters\n", 27, &err), DD_OK);
    assert_true(dd_token_source_poll(&source, &tokens));
    assert_false(has(&tokens, "sixteen characters", DD_SCOPE_FULL));
    assert_true(has(&tokens, "another sixteen characters", DD_SCOPE_FULL));
    free(tokens.items);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create_list_revoke, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_source, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_token_file, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
