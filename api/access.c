/* Who is known: the tokens that the daemon gives out and the sessions that browsers opened with them.
 *
 * Kept are SHA-256 hashes only.  A plain hash is enough: secrets are random with 256 bits, so nobody finds one by
 * trying, and a slow hash would only slow us (a slow hash is for passwords that people choose).  A secret is hashed and
 * the hash compared with every one there is, in constant time each, so that an answer's time says nothing about any of
 * them.
 *
 * Sessions live in memory: a restart or a sign-out ends them for good, the removal of their token does, and so does
 * their age.  When too many are open the oldest goes.
 *
 * Threads: any; `lock` guards everything here and is held across ops.tokens, which reads a small file when it has
 * changed.  Invariant: every session's token is one of `tokens`.
 */
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

#define MAX_SESSIONS 256

struct session {
    uint8_t sha256[DD_SHA256_BYTES]; /* of the cookie's value */
    struct dd_api_token token;
    int64_t expires_ms; /* 0: free */
};

struct dd_access {
    pthread_mutex_t lock;
    const struct dd_api_ops *ops;
    struct dd_api_tokens tokens;
    struct session sessions[MAX_SESSIONS];
    bool ended; /* a credential is gone since dd_access_tick last said so */
};

enum dd_status dd_access_new(const struct dd_api_ops *ops, struct dd_access **ret_access, struct dd_error *err) {
    struct dd_access *access = dd_calloc(1, sizeof *access);
    if (access == NULL) {
        return dd_fail_memory(err, sizeof *access);
    }
    pthread_mutex_init(&access->lock, NULL);
    access->ops = ops;
    *ret_access = access;
    return DD_OK;
}

void dd_access_free(struct dd_access *access) {
    if (access == NULL) {
        return;
    }
    free(access->tokens.items);
    pthread_mutex_destroy(&access->lock);
    free(access);
}

static const struct dd_api_token *find_token(const struct dd_api_tokens *tokens,
                                             const uint8_t sha256[DD_SHA256_BYTES]) {
    const struct dd_api_token *found = NULL;
    for (size_t i = 0; i < tokens->count; i++) {
        if (dd_equal_constant_time(tokens->items[i].sha256, sha256, DD_SHA256_BYTES)) {
            found = &tokens->items[i];
        }
    }
    return found;
}

static struct session *find_session(struct dd_access *access, const uint8_t sha256[DD_SHA256_BYTES], int64_t now_ms) {
    struct session *found = NULL;
    for (size_t i = 0; i < MAX_SESSIONS; i++) {
        struct session *session = &access->sessions[i];
        if (dd_equal_constant_time(session->sha256, sha256, DD_SHA256_BYTES) && session->expires_ms > now_ms) {
            found = session;
        }
    }
    return found;
}

static void end_session(struct dd_access *access, struct session *session) {
    explicit_bzero(session, sizeof *session);
    access->ended = true;
}

/* Asks the daemon whether other tokens count now; what hung on one that does not goes with it. */
static void refresh(struct dd_access *access) {
    struct dd_api_tokens fresh = {0};
    if (access->ops->tokens == NULL || !access->ops->tokens(access->ops->daemon, &fresh)) {
        return;
    }
    for (size_t i = 0; i < access->tokens.count; i++) {
        const struct dd_api_token *old = &access->tokens.items[i], *now = find_token(&fresh, old->sha256);
        access->ended |= now == NULL || now->scope != old->scope;
    }
    access->ended |= fresh.required && !access->tokens.required;
    free(access->tokens.items);
    access->tokens = fresh;
    for (size_t i = 0; i < MAX_SESSIONS; i++) {
        struct session *session = &access->sessions[i];
        const struct dd_api_token *token = find_token(&fresh, session->token.sha256);
        if (session->expires_ms != 0 && token == NULL) {
            end_session(access, session);
        } else if (token != NULL) {
            session->token = *token;
        }
    }
}

bool dd_access_required(struct dd_access *access) {
    pthread_mutex_lock(&access->lock);
    refresh(access);
    bool required = access->tokens.required;
    pthread_mutex_unlock(&access->lock);
    return required;
}

static void identify(const struct dd_api_token *token, int64_t expires_ms, struct dd_identity *ret_identity) {
    *ret_identity = (struct dd_identity){.known = true, .scope = token->scope, .expires_ms = expires_ms};
    snprintf(ret_identity->name, sizeof ret_identity->name, "%s", token->name);
}

bool dd_access_token(struct dd_access *access, const char *secret, struct dd_identity *ret_identity) {
    uint8_t sha256[DD_SHA256_BYTES];
    dd_sha256_bytes(secret, strlen(secret), sha256);
    pthread_mutex_lock(&access->lock);
    const struct dd_api_token *token = find_token(&access->tokens, sha256);
    if (token != NULL) {
        identify(token, 0, ret_identity);
    }
    pthread_mutex_unlock(&access->lock);
    return token != NULL;
}

bool dd_access_session(struct dd_access *access, const char *cookie, int64_t now_ms, struct dd_identity *ret_identity) {
    uint8_t sha256[DD_SHA256_BYTES];
    dd_sha256_bytes(cookie, strlen(cookie), sha256);
    pthread_mutex_lock(&access->lock);
    const struct session *session = find_session(access, sha256, now_ms);
    if (session != NULL) {
        identify(&session->token, session->expires_ms, ret_identity);
    }
    pthread_mutex_unlock(&access->lock);
    return session != NULL;
}

enum dd_status dd_access_sign_in(struct dd_access *access, const char *secret, int64_t now_ms,
                                 char ret_cookie[DD_COOKIE_BYTES], struct dd_identity *ret_identity,
                                 struct dd_error *err) {
    uint8_t random[DD_SHA256_BYTES], sha256[DD_SHA256_BYTES];
    char cookie[DD_COOKIE_BYTES];
    enum dd_status status = dd_random_bytes(random, sizeof random, err);
    if (status != DD_OK) {
        return status;
    }
    dd_hex(random, sizeof random, cookie);
    dd_sha256_bytes(secret, strlen(secret), sha256);
    pthread_mutex_lock(&access->lock);
    const struct dd_api_token *token = find_token(&access->tokens, sha256);
    if (token != NULL) {
        struct session *place = &access->sessions[0]; /* a free one, or else the oldest */
        for (size_t i = 1; i < MAX_SESSIONS; i++) {
            place = access->sessions[i].expires_ms < place->expires_ms ? &access->sessions[i] : place;
        }
        access->ended |= place->expires_ms != 0;
        *place = (struct session){.token = *token, .expires_ms = now_ms + (int64_t)DD_SESSION_SECONDS * 1000};
        dd_sha256_bytes(cookie, strlen(cookie), place->sha256);
        identify(token, place->expires_ms, ret_identity);
    }
    pthread_mutex_unlock(&access->lock);
    if (token == NULL) {
        return dd_fail(err, DD_UNAUTHORIZED, "token_wrong", "this token is not valid here");
    }
    memcpy(ret_cookie, cookie, sizeof cookie);
    return DD_OK;
}

void dd_access_sign_out(struct dd_access *access, const char *cookie) {
    uint8_t sha256[DD_SHA256_BYTES];
    dd_sha256_bytes(cookie, strlen(cookie), sha256);
    pthread_mutex_lock(&access->lock);
    struct session *session = find_session(access, sha256, 0);
    if (session != NULL) {
        end_session(access, session);
    }
    pthread_mutex_unlock(&access->lock);
}

bool dd_access_tick(struct dd_access *access, int64_t now_ms) {
    pthread_mutex_lock(&access->lock);
    refresh(access);
    for (size_t i = 0; i < MAX_SESSIONS; i++) {
        if (access->sessions[i].expires_ms != 0 && access->sessions[i].expires_ms <= now_ms) {
            end_session(access, &access->sessions[i]);
        }
    }
    bool ended = access->ended;
    access->ended = false;
    pthread_mutex_unlock(&access->lock);
    return ended;
}
