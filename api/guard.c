/* Who may ask what: Host (DNS rebinding), Origin and Sec-Fetch-Site (cross-site requests), the bearer token, and the
 * framing, type and size of the body.  Loopback is no boundary: any page in the user's browser can reach it, so these
 * checks hold without a token as well.  Tokens and sessions themselves are kept by access.c.
 *
 * HTTP thread.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "api/internal.h"

#define MAX_EMPTY_BODY (64u << 10) /* read and thrown away where a call takes no body */

static void join(struct dd_buffer *buffer, const char *between, const char *value) {
    if (buffer->len > 0) {
        dd_buffer_puts(buffer, between);
    }
    dd_buffer_puts(buffer, value);
}

static void once(const char **field, unsigned *count, const char *value) {
    if (count != NULL) {
        (*count)++;
    }
    if (*field == NULL) {
        *field = value;
    }
}

static enum MHD_Result read_header(void *context, enum MHD_ValueKind kind, const char *key, const char *value) {
    (void)kind;
    struct dd_headers *h = context;
    assert(h != NULL);
    value = value == NULL ? "" : value;
    if (key[0] == '\0' || strpbrk(key, " \t") != NULL) {
        h->malformed = true; /* libmicrohttpd lets such lines pass; a proxy may read them as another header */
    } else if (strcasecmp(key, "Host") == 0) {
        once(&h->host, &h->n_host, value);
    } else if (strcasecmp(key, "Origin") == 0) {
        once(&h->origin, &h->n_origin, value);
    } else if (strcasecmp(key, "Sec-Fetch-Site") == 0) {
        once(&h->sec_fetch_site, NULL, value);
    } else if (strcasecmp(key, "Authorization") == 0) {
        once(&h->authorization, &h->n_authorization, value);
    } else if (strcasecmp(key, "Content-Type") == 0) {
        once(&h->content_type, &h->n_content_type, value);
    } else if (strcasecmp(key, "Content-Length") == 0) {
        once(&h->content_length, &h->n_content_length, value);
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        once(&h->transfer_encoding, &h->n_transfer_encoding, value);
    } else if (strcasecmp(key, "Idempotency-Key") == 0) {
        once(&h->idempotency_key, &h->n_idempotency_key, value);
    } else if (strcasecmp(key, "Last-Event-ID") == 0) {
        once(&h->last_event_id, NULL, value);
    } else if (strcasecmp(key, "Accept") == 0) {
        join(&h->accept, ", ", value);
    } else if (strcasecmp(key, "Accept-Encoding") == 0) {
        join(&h->accept_encoding, ", ", value);
    } else if (strcasecmp(key, "If-None-Match") == 0) {
        join(&h->if_none_match, ", ", value);
    } else if (strcasecmp(key, "Expect") == 0) {
        join(&h->expect, ", ", value);
    } else if (strcasecmp(key, "Cache-Control") == 0) {
        h->no_cache = h->no_cache || strcasestr(value, "no-cache") != NULL;
    } else if (strcasecmp(key, "Cookie") == 0) {
        join(&h->cookie, "; ", value);
    }
    return MHD_YES;
}

void dd_headers_read(struct dd_request *request) {
    struct dd_headers *h = &request->headers;
    dd_buffer_init(&h->accept, 8192);
    dd_buffer_init(&h->accept_encoding, 8192);
    dd_buffer_init(&h->if_none_match, 32768);
    dd_buffer_init(&h->expect, 256);
    dd_buffer_init(&h->cookie, 16384);
    (void)MHD_get_connection_values(request->connection, MHD_HEADER_KIND, read_header, h);
}

bool dd_headers_whole(const struct dd_headers *headers) {
    const struct dd_buffer *const lines[] = {&headers->accept, &headers->accept_encoding, &headers->if_none_match,
                                             &headers->expect, &headers->cookie};
    for (size_t i = 0; i < DD_ARRAY_LEN(lines); i++) {
        if (lines[i]->failed && !lines[i]->over_max) {
            return false;
        }
    }
    return true;
}

bool dd_headers_bounded(const struct dd_headers *headers) {
    return headers->transfer_encoding == NULL ||
           (headers->n_transfer_encoding == 1 && strcasecmp(headers->transfer_encoding, "chunked") == 0);
}

void dd_headers_release(struct dd_headers *headers) {
    dd_buffer_release(&headers->accept);
    dd_buffer_release(&headers->accept_encoding);
    dd_buffer_release(&headers->if_none_match);
    dd_buffer_release(&headers->expect);
    dd_buffer_release(&headers->cookie);
}

/* --- Host --------------------------------------------------------------------------------------------------------- */

/* "host", "host:port", "[v6]", "[v6]:port" → lower-case host without brackets and final dot; false when it is none. */
static bool split_authority(const char *authority, char *host, size_t host_bytes, const char **ret_port) {
    size_t n;
    const char *from = authority, *rest;
    if (*from == '[') {
        from++;
        n = strcspn(from, "]");
        if (from[n] != ']') {
            return false;
        }
        rest = from + n + 1;
    } else {
        n = strcspn(from, ":");
        rest = from + n;
    }
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%";
    if (n == 0 || n >= host_bytes || strspn(from, allowed) < n) {
        return false;
    }
    if (*rest == ':') {
        rest++;
        if (strspn(rest, "0123456789") != strlen(rest) || strlen(rest) > 5) {
            return false;
        }
    } else if (*rest != '\0') {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        host[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i]);
    }
    n -= n > 1 && host[n - 1] == '.';
    host[n] = '\0';
    *ret_port = rest;
    return true;
}

static bool is_loopback_name(const char *host) {
    struct in_addr v4;
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127);
}

/* Listening on all addresses: an address literal is right when it is the one that this connection came in by.  Only
 * names can be rebound, so this lets nobody in. */
static bool is_own_address(const struct dd_request *request, const char *host) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    union dd_address own = {.room = {0}};
    socklen_t len = sizeof own;
    if (info == NULL || getsockname(info->connect_fd, &own.any, &len) != 0) {
        return false;
    }
    struct in_addr v4;
    struct in6_addr v6;
    if (own.any.sa_family == AF_INET) {
        return inet_pton(AF_INET, host, &v4) == 1 && memcmp(&v4, &own.v4.sin_addr, sizeof v4) == 0;
    }
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF}; /* ::ffff:a.b.c.d, on a socket for both families */
    const uint8_t *own6 = own.v6.sin6_addr.s6_addr;
    if (memcmp(own6, mapped, sizeof mapped) == 0 && inet_pton(AF_INET, host, &v4) == 1) {
        return memcmp(&v4, own6 + sizeof mapped, sizeof v4) == 0;
    }
    return inet_pton(AF_INET6, host, &v6) == 1 && memcmp(&v6, own6, sizeof v6) == 0;
}

static bool host_allowed(const struct dd_request *request, const char *authority) {
    char host[256];
    const char *port;
    if (!split_authority(authority, host, sizeof host, &port)) {
        return false;
    }
    const struct dd_api *api = request->api;
    if (is_loopback_name(host) || strcasecmp(host, api->listen_host) == 0) {
        return true;
    }
    for (char **name = api->hosts; *name != NULL; name++) {
        if (strcasecmp(host, *name) == 0) {
            return true;
        }
    }
    return is_own_address(request, host);
}

static enum dd_status check_host(struct dd_request *request) {
    const struct dd_headers *h = &request->headers;
    if (h->malformed) {
        return dd_request_fail(request, DD_MALFORMED, "header_malformed", "a header line has no proper name");
    }
    if (h->n_host != 1) {
        return dd_request_fail(request, DD_MALFORMED, "host_missing", "the request must have exactly one Host header");
    }
    const char *bad = !host_allowed(request, h->host)                                            ? h->host
                      : request->authority != NULL && !host_allowed(request, request->authority) ? request->authority
                                                                                                 : NULL;
    if (bad != NULL) {
        return dd_request_fail(request, DD_MISDIRECTED, "host_foreign",
                               "this server does not answer for the host %.100s; add it with --host if it should", bad);
    }
    return DD_OK;
}

/* --- Origin ------------------------------------------------------------------------------------------------------- */

/* Same host and port; a missing port is the scheme's. */
bool dd_is_same_origin(const char *origin, const char *authority) {
    const char *default_port = "80";
    if (strncasecmp(origin, "https://", 8) == 0) {
        origin += 8;
        default_port = "443";
    } else if (strncasecmp(origin, "http://", 7) == 0) {
        origin += 7;
    } else {
        return false;
    }
    char a[256], b[256];
    const char *a_port, *b_port;
    if (!split_authority(origin, a, sizeof a, &a_port) || !split_authority(authority, b, sizeof b, &b_port)) {
        return false;
    }
    return strcmp(a, b) == 0 &&
           strcmp(*a_port == '\0' ? default_port : a_port, *b_port == '\0' ? default_port : b_port) == 0;
}

bool dd_is_api_path(const char *path) {
    return (strncmp(path, "/api", 4) == 0 && (path[4] == '/' || path[4] == '\0')) || strcmp(path, "/metrics") == 0;
}

enum dd_status dd_guard_origin(struct dd_request *request) {
    enum dd_status status = check_host(request);
    if (status != DD_OK) {
        return status;
    }
    const struct dd_headers *h = &request->headers;
    bool safe = strcmp(request->method, "GET") == 0 || request->head;
    if (safe && !dd_is_api_path(request->path)) {
        return DD_OK;
    }
    if (h->n_origin > 1 || (h->origin != NULL && !dd_is_same_origin(h->origin, h->host))) {
        return dd_request_fail(request, DD_FORBIDDEN, "origin_foreign",
                               "this request comes from a page of another origin; Origin must match Host");
    }
    const char *site = h->sec_fetch_site;
    if (site != NULL && strcasecmp(site, "same-origin") != 0 && strcasecmp(site, "none") != 0 &&
        (!safe || strcasecmp(site, "same-site") != 0)) {
        return dd_request_fail(request, DD_FORBIDDEN, "cross_site", "this request comes from a page of another site");
    }
    return DD_OK;
}

/* --- token and session ------------------------------------------------------------------------------------------- */

static bool is_safe(const struct dd_request *request) {
    return strcmp(request->method, "GET") == 0 || request->head || strcmp(request->method, "OPTIONS") == 0;
}

bool dd_guard_cookies(struct dd_request *request, bool (*use)(struct dd_request *request, const char *value)) {
    char name[32], value[DD_COOKIE_BYTES];
    dd_session_cookie_name(request->api, name);
    size_t name_len = strlen(name);
    for (const char *at = request->headers.cookie.data; *at != '\0'; at += strcspn(at, ";"), at += *at == ';') {
        at += strspn(at, " \t");
        size_t len = strcspn(at, ";");
        if (len != name_len + DD_COOKIE_BYTES || strncmp(at, name, name_len) != 0 || at[name_len] != '=') {
            continue;
        }
        memcpy(value, at + name_len + 1, DD_COOKIE_BYTES - 1);
        value[DD_COOKIE_BYTES - 1] = '\0';
        if (use(request, value)) {
            return true;
        }
    }
    return false;
}

static bool is_session(struct dd_request *request, const char *cookie) {
    return dd_access_session(request->api->access, cookie, dd_clock_wall_ms(), &request->identity);
}

/* A browser sends the cookie whoever made it ask.  SameSite keeps other sites from that, but pages on another port of
 * this host are the same site: what changes something must prove that it comes from our own pages. */
static enum dd_status check_cookie_use(struct dd_request *request) {
    const struct dd_headers *h = &request->headers;
    const char *site = h->sec_fetch_site;
    if (site != NULL && strcasecmp(site, "same-site") == 0) {
        return dd_request_fail(request, DD_FORBIDDEN, "cross_site", "this request comes from a page of another origin");
    }
    if (is_safe(request) || h->origin != NULL || (site != NULL && strcasecmp(site, "same-origin") == 0)) {
        return DD_OK; /* that Origin is ours was checked before */
    }
    return dd_request_fail(request, DD_FORBIDDEN, "origin_missing",
                           "a request with a session's cookie must have the Origin or Sec-Fetch-Site header that "
                           "browsers send; other programs send the token as \"Authorization: Bearer …\"");
}

/* Anybody may try to sign in, and learns no more from it than from sending the token. */
static bool is_sign_in(const struct dd_request *request) {
    return strcmp(request->path, DD_API_PREFIX "/session") == 0 && strcmp(request->method, "POST") == 0;
}

enum dd_status dd_guard_token(struct dd_request *request) {
    struct dd_access *access = request->api->access;
    const struct dd_headers *h = &request->headers;
    if (!dd_is_api_path(request->path) || !dd_access_required(access) || is_sign_in(request)) {
        return DD_OK;
    }
    if (h->n_authorization > 0) {
        const char *token = h->n_authorization == 1 && strncasecmp(h->authorization, "Bearer ", 7) == 0
                                ? h->authorization + 7 + strspn(h->authorization + 7, " ")
                                : "";
        return dd_access_token(access, token, &request->identity)
                   ? DD_OK
                   : dd_request_fail(request, DD_UNAUTHORIZED, "token_wrong", "the bearer token is not valid here");
    }
    if (dd_guard_cookies(request, is_session)) {
        return check_cookie_use(request);
    }
    return dd_request_fail(request, DD_UNAUTHORIZED, "token_missing",
                           "send the token as \"Authorization: Bearer …\", or sign in");
}

enum dd_status dd_guard_scope(struct dd_request *request) {
    const struct dd_identity *identity = &request->identity;
    bool own_session = request->route->builtin == DD_BUILTIN_SESSION;
    if (!identity->known || identity->scope == DD_SCOPE_FULL || is_safe(request) || own_session ||
        (request->route->flags & DD_ROUTE_QUESTION)) {
        return DD_OK;
    }
    return dd_request_fail(request, DD_FORBIDDEN, "token_read_only",
                           "the token %s may only read; this needs one with the scope full", identity->name);
}

void dd_peer_text(const struct dd_request *request, char out[DD_PEER_TEXT_BYTES]) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    union dd_address peer = {.room = {0}};
    socklen_t len = sizeof peer;
    const char *text = NULL;
    if (info != NULL && getpeername(info->connect_fd, &peer.any, &len) == 0) {
        text = peer.any.sa_family == AF_INET ? inet_ntop(AF_INET, &peer.v4.sin_addr, out, DD_PEER_TEXT_BYTES)
                                             : inet_ntop(AF_INET6, &peer.v6.sin6_addr, out, DD_PEER_TEXT_BYTES);
    }
    if (text == NULL) {
        snprintf(out, DD_PEER_TEXT_BYTES, "?");
    }
}

/* --- body --------------------------------------------------------------------------------------------------------- */

static bool media_is(const char *content_type, const char *media) {
    size_t n = strcspn(content_type, "; \t");
    return n == strlen(media) && strncasecmp(content_type, media, n) == 0;
}

static enum dd_status check_framing(struct dd_request *request, bool *ret_has_body, uint64_t *ret_length) {
    const struct dd_headers *h = &request->headers;
    int64_t length = 0;
    if (h->n_content_length > 1 || (h->n_content_length == 1 && h->transfer_encoding != NULL) ||
        (h->n_content_length == 1 && (!dd_text_int(h->content_length, &length) || length < 0))) {
        return dd_request_fail(request, DD_MALFORMED, "framing_ambiguous",
                               "send one Content-Length, or Transfer-Encoding: chunked, not both");
    }
    if (!dd_headers_bounded(h)) {
        return dd_request_fail(request, DD_MALFORMED, "transfer_encoding_unknown",
                               "Transfer-Encoding must be chunked, got %.40s", h->transfer_encoding);
    }
    *ret_length = (uint64_t)length;
    *ret_has_body = length > 0 || h->transfer_encoding != NULL;
    return DD_OK;
}

enum dd_status dd_guard_body(struct dd_request *request, bool *ret_has_body) {
    uint64_t length = 0;
    enum dd_status status = check_framing(request, ret_has_body, &length);
    if (status != DD_OK) {
        return status;
    }
    const struct dd_route *route = request->route;
    const struct dd_headers *h = &request->headers;
    const char *type = h->content_type == NULL ? "" : h->content_type;
    unsigned takes = route->flags & (DD_ROUTE_JSON | DD_ROUTE_MULTIPART);
    bool multipart = (takes & DD_ROUTE_MULTIPART) && media_is(type, "multipart/form-data");
    bool json = media_is(type, "application/json") ||
                (route->method == DD_PATCH && media_is(type, "application/merge-patch+json"));
    request->body_limit = multipart ? request->api->config.max_upload_bytes
                          : takes   ? request->api->config.max_json_bytes
                                    : MAX_EMPTY_BODY;
    if (length > request->body_limit) {
        return dd_request_fail(request, DD_TOO_LARGE, "body_too_large",
                               "the body has %llu bytes, at most %llu are taken", (unsigned long long)length,
                               (unsigned long long)request->body_limit);
    }
    bool needed = takes && !(route->flags & DD_ROUTE_BODY_OPTIONAL);
    bool wrong_type = takes == DD_ROUTE_MULTIPART ? !multipart : takes == DD_ROUTE_JSON ? !json : !json && !multipart;
    if (takes && (*ret_has_body || needed) && (wrong_type || h->n_content_type > 1)) {
        return dd_request_fail(request, DD_UNSUPPORTED, "content_type_unsupported", "Content-Type must be %s",
                               takes == DD_ROUTE_MULTIPART ? "multipart/form-data"
                               : takes == DD_ROUTE_JSON    ? "application/json"
                                                           : "application/json or multipart/form-data");
    }
    if (multipart) {
        return dd_upload_new(request->api->config.upload_dir, type, route->form, request->idempotency_hash != NULL,
                             &request->upload, &request->problem.error);
    }
    return DD_OK;
}
