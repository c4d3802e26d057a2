/* From what an operation left behind to a libmicrohttpd response: JSON or file, ETag and 304, gzip, Link, Location, the
 * headers that every answer has.  HTTP thread or request thread; a response belongs to its request until it is queued.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "api/internal.h"
#include "spec/spec.h"

#define GZIP_FROM_BYTES 1400                 /* below that it saves no packet */
#define GZIP_FLEETING_FROM_BYTES (64u << 10) /* … of what changes with every look: coding it is never for twice */
#define GZIP_LEVEL 4
#define REQUEST_ID "X-Request-Id"

static void header(struct MHD_Response *response, const char *name, const char *value) {
    (void)MHD_add_response_header(response, name, value); /* fails only without memory; the answer is still right */
}

void dd_answer_common_headers(struct dd_request *request, struct MHD_Response *response) {
    header(response, REQUEST_ID, request->id);
    header(response, "X-Content-Type-Options", "nosniff");
    header(response, "Referrer-Policy", "no-referrer");
    header(response, "Cross-Origin-Resource-Policy", "same-origin");
    header(response, "X-Frame-Options", "DENY");
}

static void answer_headers(struct dd_request *request, struct MHD_Response *response, const char *content_type) {
    dd_answer_common_headers(request, response);
    header(response, "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox");
    header(response, "Cache-Control", "no-cache");
    header(response, "Vary", "Accept, Accept-Encoding");
    if (content_type != NULL) {
        header(response, "Content-Type", content_type);
    }
}

bool dd_gzip(const char *bytes, size_t len, struct dd_buffer *out) {
    z_stream z = {0};
    if (len > UINT32_MAX || deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        return false;
    }
    char chunk[16384];
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)len;
    int result = Z_OK;
    while (result == Z_OK) {
        z.next_out = (Bytef *)chunk;
        z.avail_out = sizeof chunk;
        result = deflate(&z, Z_FINISH);
        dd_buffer_append(out, chunk, sizeof chunk - z.avail_out);
    }
    deflateEnd(&z);
    return result == Z_STREAM_END && !out->failed;
}

/* Takes body (malloc'ed). */
static struct MHD_Response *response_of(char *body, size_t len) {
    struct MHD_Response *response = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        free(body);
    }
    return response;
}

static struct MHD_Response *empty_response(void) {
    static char nothing[1];
    return MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT);
}

static const char *with_charset(const char *media) {
    return strcmp(media, "text/plain") == 0 ? "text/plain; charset=utf-8"
           : strcmp(media, "text/csv") == 0 ? "text/csv; charset=utf-8; header=present"
                                            : media;
}

static bool is_cacheable(const struct dd_request *request, int status) {
    return status == 200 && request->route != NULL && request->route->method == DD_GET &&
           !(request->route->flags & DD_ROUTE_NO_CACHE);
}

static bool not_modified(const struct dd_request *request, const char *etag) {
    const struct dd_buffer *list = &request->headers.if_none_match;
    return list->len > 0 && !list->failed && dd_etag_listed(list->data, etag);
}

/* A gzip-coded answer is another sequence of bytes, so its tag is a weak one; comparison is weak either way. */
static void etag_header(struct MHD_Response *response, const char *etag, bool weak) {
    char value[120];
    size_t len = strnlen(etag, sizeof value - 5);
    char *end = value;
    if (weak) {
        *end++ = 'W';
        *end++ = '/';
    }
    *end++ = '"';
    memcpy(end, etag, len);
    memcpy(end + len, "\"", 2);
    header(response, "ETag", value);
}

static void answer_not_modified(struct dd_request *request, const char *etag) {
    struct MHD_Response *response = empty_response();
    if (response != NULL) {
        answer_headers(request, response, NULL);
        etag_header(response, etag, request->wants_gzip);
        request->response = response;
        request->status = 304;
    }
}

static void kept_headers(struct dd_request *request, struct MHD_Response *response, const struct dd_kept *kept) {
    answer_headers(request, response, with_charset(kept->media));
    if (kept->coded) {
        header(response, "Content-Encoding", "gzip");
    }
    if (kept->tag[0] != '\0') {
        etag_header(response, kept->tag, kept->coded);
    }
    if (kept->link != NULL) {
        header(response, "Link", kept->link);
    }
}

static void unref(void *kept) {
    dd_kept_unref(kept);
}

/* Of a kept answer that has only a tag, nothing is answered but 304. */
void dd_answer_kept(struct dd_request *request, int status, struct dd_kept *kept) {
    if (kept->tag[0] != '\0' && not_modified(request, kept->tag)) {
        answer_not_modified(request, kept->tag);
        return;
    }
    if (kept->body == NULL) {
        return;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback_cls(kept->len, kept->body, unref, dd_kept_ref(kept));
    if (response == NULL) {
        dd_kept_unref(kept);
        return;
    }
    kept_headers(request, response, kept);
    request->response = response;
    request->status = status;
    request->response_bytes = kept->len;
}

/* Making a response costs some thirty allocations; all that differs from the last time is whose answer it is. */
void dd_answer_again(struct dd_request *request, struct dd_kept *kept) {
    if (kept->lent || kept->again == NULL || (kept->tag[0] != '\0' && not_modified(request, kept->tag))) {
        dd_answer_kept(request, 200, kept);
        if (kept->again == NULL && request->response != NULL && request->status == 200) {
            struct MHD_Response *response =
                MHD_create_response_from_buffer(kept->len, kept->body, MHD_RESPMEM_PERSISTENT);
            if (response == NULL) {
                return;
            }
            kept_headers(request, response, kept);
            memcpy(kept->again_id, request->id, sizeof kept->again_id);
            kept->again = response;
        }
        return;
    }
    (void)MHD_del_response_header(kept->again, REQUEST_ID, kept->again_id);
    header(kept->again, REQUEST_ID, request->id);
    memcpy(kept->again_id, request->id, sizeof kept->again_id);
    kept->lent = true;
    request->lent = dd_kept_ref(kept); /* holds the body; completing the request gives both back */
    request->response = kept->again;
    request->status = 200;
    request->response_bytes = kept->len;
}

/* The tag of an answer: the operation's, or else a hash of the body.  One resource in several media types has one each.
 */
static void make_tag(const struct dd_request *request, const char *etag, struct dd_kept *kept) {
    if (etag != NULL && etag[0] != '\0') {
        bool other = request->route->produces[0] != NULL && strcmp(kept->media, request->route->produces[0]) != 0;
        snprintf(kept->tag, sizeof kept->tag, "%.79s%s%s", etag, request->pretty ? "-p" : "", other ? "-t" : "");
        return;
    }
    uint8_t digest[DD_SHA256_BYTES];
    dd_sha256_bytes(kept->body, kept->len, digest);
    dd_hex(digest, 16, kept->tag);
}

/* Replaces the body by its gzip form, where that can be had. */
static void code(struct dd_kept *kept) {
    struct dd_buffer small;
    dd_buffer_init(&small, kept->len);
    if (dd_gzip(kept->body, kept->len, &small)) {
        free(kept->body);
        kept->body = dd_buffer_take(&small, &kept->len);
        kept->coded = true;
    }
    dd_buffer_release(&small);
}

/* Takes body and link (NULL: none). etag "" or NULL: hash it, where the answer is cacheable. */
static void answer_body(struct dd_request *request, int status, const char *media, char *body, size_t len,
                        const char *etag, char *link) {
    struct dd_kept *kept = dd_kept_new(body, len, media, link);
    if (kept == NULL) {
        return;
    }
    bool cacheable = is_cacheable(request, status);
    if (cacheable) {
        make_tag(request, etag, kept);
    }
    bool fleeting = request->route != NULL && (request->route->flags & DD_ROUTE_NO_CACHE) != 0;
    if (request->wants_gzip && len >= (fleeting ? GZIP_FLEETING_FROM_BYTES : GZIP_FROM_BYTES)) {
        if (cacheable && not_modified(request, kept->tag)) { /* coding it would be for nothing */
            free(kept->body);
            kept->body = NULL;
            kept->len = 0;
        } else {
            code(kept);
        }
    }
    dd_answer_kept(request, status, kept);
    if (status == 200 && request->stamp.known && request->response != NULL) {
        request->kept = kept;
    } else {
        dd_kept_unref(kept);
    }
}

void dd_answer_text(struct dd_request *request, int status, const char *content_type, const char *text, size_t len,
                    const char *etag) {
    char *copy = dd_strndup(text, len);
    if (copy != NULL) {
        answer_body(request, status, content_type, copy, len, etag, NULL);
    }
}

void dd_answer_problem(struct dd_request *request) {
    struct dd_problem *p = &request->problem;
    int status = request->allow[0] != '\0'                      ? 405
                 : strcmp(p->error.code, "not_acceptable") == 0 ? 406
                                                                : dd_status_http(p->error.status);
    char *text = dd_problem_text(request, status);
    if (text == NULL) {
        return;
    }
    size_t len = strlen(text);
    struct MHD_Response *response = response_of(text, len);
    if (response == NULL) {
        return;
    }
    answer_headers(request, response, "application/problem+json");
    if (request->allow[0] != '\0') {
        header(response, "Allow", request->allow);
    }
    if (status == 401) {
        header(response, "WWW-Authenticate",
               strcmp(p->error.code, "token_wrong") == 0 ? "Bearer realm=\"distilld\", error=\"invalid_token\""
                                                         : "Bearer realm=\"distilld\"");
    }
    if (request->close) {
        header(response, "Connection", "close");
    }
    if (status == 429 || status == 503 || p->retry_after_s > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", DD_MAX(p->retry_after_s, 1));
        header(response, "Retry-After", seconds);
    }
    request->response = response;
    request->status = status;
    request->response_bytes = len;
}

struct MHD_Response *dd_answer_no_memory(void) {
    static char problem[] =
        "{\"type\":\"urn:distilld:problem:out_of_memory\",\"title\":\"Out of memory\",\"status\":503,"
        "\"code\":\"out_of_memory\",\"detail\":\"there is no memory to answer; ask again later\"}";
    struct MHD_Response *response =
        MHD_create_response_from_buffer(sizeof problem - 1, problem, MHD_RESPMEM_PERSISTENT);
    if (response != NULL) {
        header(response, "X-Content-Type-Options", "nosniff");
        header(response, "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox");
        header(response, "Cache-Control", "no-store");
        header(response, "Content-Type", "application/problem+json");
        header(response, "Retry-After", "1");
    }
    return response;
}

void dd_answer_options(struct dd_request *request, unsigned methods) {
    struct MHD_Response *response = empty_response();
    if (response != NULL) {
        char allow[64];
        dd_allow_text(methods, allow, sizeof allow);
        answer_headers(request, response, NULL);
        header(response, "Allow", allow);
        request->response = response;
        request->status = 204;
    }
}

void dd_answer_replay(struct dd_request *request, int status, const char *location, const char *body) {
    char *copy = dd_strdup(body);
    if (copy == NULL) {
        return;
    }
    answer_body(request, status, "application/json", copy, strlen(copy), NULL, NULL);
    if (request->response != NULL) {
        header(request->response, "Idempotency-Replayed", "true");
        if (location != NULL && location[0] != '\0') {
            header(request->response, "Location", location);
        }
    }
}

/* Percent-encodes all but unreserved characters. */
static void append_escaped(struct dd_buffer *out, const char *text) {
    for (; *text != '\0'; text++) {
        char c = *text;
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
                     c == '.' || c == '_' || c == '~';
        if (plain) {
            dd_buffer_putc(out, c);
        } else {
            dd_buffer_printf(out, "%%%02X", (unsigned char)c);
        }
    }
}

/* </path?same parameters&cursor=next>; rel="next"; the caller frees.  NULL: there is no next page, or no memory. */
static char *link_text(const struct dd_request *request, const char *cursor) {
    struct dd_buffer link;
    if (cursor[0] == '\0') {
        return NULL;
    }
    dd_buffer_init(&link, 16384);
    dd_buffer_printf(&link, "<%s?", request->path);
    for (size_t i = 0; i < request->params.count; i++) {
        if (strcmp(request->params.items[i].name, "cursor") != 0) {
            dd_buffer_printf(&link, "%s=", request->params.items[i].name);
            append_escaped(&link, request->params.items[i].value);
            dd_buffer_putc(&link, '&');
        }
    }
    dd_buffer_puts(&link, "cursor=");
    append_escaped(&link, cursor);
    dd_buffer_puts(&link, ">; rel=\"next\"");
    char *text = link.failed ? NULL : dd_buffer_take(&link, NULL);
    dd_buffer_release(&link);
    return text;
}

static void answer_file(struct dd_request *request, struct dd_api_result *result) {
    struct stat info;
    struct MHD_Response *response = NULL;
    if (fstat(result->fd, &info) == 0 && S_ISREG(info.st_mode)) {
        response = MHD_create_response_from_fd64((uint64_t)info.st_size, result->fd);
    }
    if (response == NULL) {
        (void)dd_request_fail(request, DD_INTERNAL, "internal", "the file to send cannot be read");
        dd_answer_problem(request);
        return;
    }
    result->fd = -1; /* the response closes it */
    answer_headers(request, response, result->content_type != NULL ? result->content_type : "application/octet-stream");
    if (result->etag[0] != '\0') {
        etag_header(response, result->etag, false);
    }
    request->response = response;
    request->response_bytes = (uint64_t)info.st_size;
    request->status = result->http_status != 0 ? result->http_status : 200;
}

/* 0 from an operation means what the route documents, as far as the result bears it out. */
static int success_status(const struct dd_request *request, const struct dd_api_result *result) {
    if (result->http_status != 0) {
        return result->http_status;
    }
    int documented = request->route->success;
    bool empty = result->json == NULL && result->text.len == 0 && result->fd < 0;
    if (documented == 201 && result->location[0] == '\0') {
        return 200; /* a dry run */
    }
    return documented == 204 && !empty ? 200 : documented;
}

static void answer_json(struct dd_request *request, struct dd_api_result *result, int status) {
    if ((request->route->flags & DD_ROUTE_LIST) && cJSON_IsObject(result->json)) {
        cJSON_DeleteItemFromObjectCaseSensitive(result->json, "next_cursor");
        if (result->next_cursor[0] != '\0') {
            cJSON_AddStringToObject(result->json, "next_cursor", result->next_cursor);
        } else {
            cJSON_AddNullToObject(result->json, "next_cursor");
        }
    }
    char *text = dd_json_print(result->json, request->pretty);
    if (text == NULL) {
        return;
    }
    if (request->idempotency_claimed && status >= 200 && status < 300) {
        dd_idempotent_store(request, status, result->location, text);
    }
    answer_body(request, status, "application/json", text, strlen(text), result->etag,
                link_text(request, result->next_cursor));
}

void dd_answer_result(struct dd_request *request, struct dd_api_result *result) {
    int status = success_status(request, result);
    if (result->fd >= 0 && result->etag[0] != '\0' && is_cacheable(request, status) &&
        not_modified(request, result->etag)) {
        answer_not_modified(request, result->etag);
    } else if (result->fd >= 0) {
        answer_file(request, result);
    } else if (result->json != NULL) {
        answer_json(request, result, status);
    } else if (status == 204) {
        request->response = empty_response();
        request->status = 204;
        if (request->response != NULL) {
            answer_headers(request, request->response, NULL);
        }
    } else {
        size_t len;
        const char *media = result->content_type != NULL ? result->content_type : request->accept;
        char *text = dd_buffer_take(&result->text, &len);
        text = text == NULL ? dd_strdup("") : text;
        if (text != NULL) {
            answer_body(request, status, media, text, len, result->etag, link_text(request, result->next_cursor));
        }
    }
    if (request->kept != NULL && result->location[0] == '\0' && result->filename[0] == '\0') {
        dd_cache_put(request->api->cache, request, request->kept);
    }
    if (request->response == NULL || request->status == 304 || request->failed) {
        return;
    }
    if (result->location[0] != '\0') {
        header(request->response, "Location", result->location);
    }
    if (result->filename[0] != '\0') {
        char value[256];
        snprintf(value, sizeof value, "attachment; filename=\"%s\"", result->filename);
        for (char *at = strchr(value, '"') + 1; at[1] != '\0'; at++) { /* nothing that could end the string */
            *at = *at == '"' || *at == '\\' || (unsigned char)*at < 0x20 ? '_' : *at;
        }
        header(request->response, "Content-Disposition", value);
    }
}
