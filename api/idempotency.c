/* Idempotency-Key on POST: the same key and request replays the first answer (status, Location, body); the same key
 * with another request is 422; a second request while the first still runs is 409.  Only successes are kept: a refused
 * request changed nothing, so a retry of it is free to succeed.
 *
 * What is kept lives in the daemon (ops->idempotent_get/put); what runs now is a list in
 * struct dd_api.  Any thread; one lock, held for list operations only.
 */
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

/* Whether the key is ours now; false: another request that still runs has it. */
static bool claim_key(struct dd_request *request) {
    struct dd_api *api = request->api;
    bool taken = false;
    pthread_mutex_lock(&api->claims_lock);
    for (const struct dd_request *other = api->claims; other != NULL && !taken; other = other->claim_next) {
        taken = strcmp(other->headers.idempotency_key, request->headers.idempotency_key) == 0;
    }
    if (!taken) {
        request->claim_next = api->claims;
        api->claims = request;
        request->idempotency_claimed = true;
    }
    pthread_mutex_unlock(&api->claims_lock);
    return !taken;
}

void dd_idempotent_leave(struct dd_request *request) {
    if (!request->idempotency_claimed) {
        return;
    }
    request->idempotency_claimed = false;
    struct dd_api *api = request->api;
    pthread_mutex_lock(&api->claims_lock);
    for (struct dd_request **at = &api->claims; *at != NULL; at = &(*at)->claim_next) {
        if (*at == request) {
            *at = request->claim_next;
            break;
        }
    }
    pthread_mutex_unlock(&api->claims_lock);
}

/* Method, target and body, as hex. */
static enum dd_status hash_request(struct dd_request *request) {
    struct dd_sha256 *hash = dd_sha256_new();
    char *hex = malloc(DD_SHA256_HEX_BYTES);
    if (hash == NULL || hex == NULL) {
        dd_sha256_free(hash);
        free(hex);
        return dd_request_fail(request, DD_NO_MEMORY, "no_memory", "out of memory");
    }
    uint8_t digest[DD_SHA256_BYTES];
    dd_sha256_update(hash, request->method, strlen(request->method) + 1);
    dd_sha256_update(hash, request->uri, strlen(request->uri) + 1);
    if (request->upload != NULL) {
        dd_upload_digest(request->upload, digest);
        dd_sha256_update(hash, digest, sizeof digest);
    } else {
        dd_sha256_update(hash, request->body.data, request->body.len);
    }
    dd_sha256_digest(hash, digest);
    dd_hex(digest, sizeof digest, hex);
    dd_sha256_free(hash);
    free(request->idempotency_hash);
    request->idempotency_hash = hex;
    return DD_OK;
}

static enum dd_idempotent_outcome replay(struct dd_request *request) {
    const struct dd_api_ops *ops = &request->api->ops;
    DD_CLEANUP(dd_free_ptr) char *hash = NULL;
    DD_CLEANUP(dd_free_ptr) char *location = NULL;
    DD_CLEANUP(dd_free_ptr) char *body = NULL;
    int status = 0;
    struct dd_error err = {0};
    enum dd_status found =
        ops->idempotent_get(ops->daemon, request->headers.idempotency_key, &hash, &status, &location, &body, &err);
    if (found == DD_NOT_FOUND) {
        return DD_IDEMPOTENT_RUN;
    }
    if (found != DD_OK) {
        (void)dd_request_fail(request, err.status, err.code, "%s", err.message);
        return DD_IDEMPOTENT_FAILED;
    }
    if (hash == NULL || strcmp(hash, request->idempotency_hash) != 0) {
        (void)dd_request_fail(request, DD_INVALID, "idempotency_key_reused",
                              "this Idempotency-Key was used with another request; take a new one");
        return DD_IDEMPOTENT_FAILED;
    }
    dd_answer_replay(request, status, location, body == NULL ? "" : body);
    return DD_IDEMPOTENT_ANSWERED;
}

enum dd_idempotent_outcome dd_idempotent_enter(struct dd_request *request) {
    if (request->idempotency_hash == NULL) {
        return DD_IDEMPOTENT_RUN;
    }
    if (hash_request(request) != DD_OK) {
        return DD_IDEMPOTENT_FAILED;
    }
    if (!claim_key(request)) {
        request->problem.retry_after_s = 1;
        (void)dd_request_fail(request, DD_CONFLICT, "idempotency_key_in_use",
                              "a request with this Idempotency-Key is still running; ask again in a moment");
        return DD_IDEMPOTENT_FAILED;
    }
    return replay(request);
}

void dd_idempotent_store(struct dd_request *request, int status, const char *location, const char *body) {
    const struct dd_api_ops *ops = &request->api->ops;
    struct dd_error err = {0};
    if (ops->idempotent_put(ops->daemon, request->headers.idempotency_key, request->idempotency_hash, status, location,
                            body, &err) != DD_OK) {
        dd_log(DD_LOG_WARNING, "http", "%s: the answer could not be kept for its Idempotency-Key: %s", request->id,
               err.message);
    }
}
