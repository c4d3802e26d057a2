/* A blocking HTTP client on raw sockets, for tests that must see and send every byte. */
#ifndef DD_TESTS_API_CLIENT_H
#define DD_TESTS_API_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

static unsigned client_port;

struct reply {
    int status; /* 0: the connection closed without an answer */
    char *head; /* status line and headers */
    char *body; /* decoded when chunked; NUL after its end */
    size_t len;
    cJSON *json; /* NULL: not JSON */
};

static inline void reply_free(struct reply *reply) {
    free(reply->head);
    free(reply->body);
    cJSON_Delete(reply->json);
    *reply = (struct reply){0};
}

static inline int client_connect(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)client_port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval limit = {.tv_sec = 20}; /* a hang fails the test instead of stopping it */
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* false: the peer has closed. */
static inline bool client_send(int fd, const void *bytes, size_t len) {
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        at += n;
        len -= (size_t)n;
    }
    return true;
}

/* Value of a header, in a static buffer; NULL when it is not there. */
static inline const char *reply_header(const struct reply *reply, const char *name) {
    static char value[4096];
    size_t n = strlen(name);
    for (const char *line = reply->head; line != NULL && *line != '\0'; line = strstr(line, "\r\n")) {
        line += strncmp(line, "\r\n", 2) == 0 ? 2 : 0;
        if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
            line += n + 1 + strspn(line + n + 1, " ");
            snprintf(value, sizeof value, "%.*s", (int)strcspn(line, "\r\n"), line);
            return value;
        }
    }
    return NULL;
}

static inline void decode_chunks(struct reply *reply) {
    char *out = reply->body;
    const char *at = reply->body;
    for (;;) {
        char *end;
        size_t n = strtoul(at, &end, 16);
        if (end == at || n == 0) {
            break;
        }
        at = strstr(end, "\r\n") + 2;
        memmove(out, at, n);
        out += n;
        at += n + 2;
    }
    *out = '\0';
    reply->len = (size_t)(out - reply->body);
}

/* Reads until the answer is whole or the connection closes. */
static inline struct reply client_read(int fd, bool head_only) {
    struct reply reply = {0};
    size_t cap = 1u << 16, len = 0;
    char *bytes = calloc(1, cap + 1), *split = NULL;
    for (;;) {
        split = strstr(bytes, "\r\n\r\n");
        if (split != NULL) {
            reply.status = atoi(bytes + 9);
            const char *length = NULL;
            struct reply partial = {.head = bytes};
            char saved = split[2];
            split[2] = '\0';
            length = reply_header(&partial, "Content-Length");
            size_t wanted = length != NULL ? strtoul(length, NULL, 10) : SIZE_MAX;
            split[2] = saved;
            bool empty = head_only || reply.status == 204 || reply.status == 304;
            if (empty || (wanted != SIZE_MAX && len - (size_t)(split + 4 - bytes) >= wanted)) {
                break;
            }
        }
        if (len == cap) {
            bytes = realloc(bytes, 2 * cap + 1);
            memset(bytes + cap, 0, cap + 1);
            cap *= 2;
        }
        ssize_t n = recv(fd, bytes + len, cap - len, 0);
        if (n <= 0) {
            break;
        }
        len += (size_t)n;
        bytes[len] = '\0';
    }
    if (split == NULL) {
        free(bytes);
        return reply;
    }
    reply.head = strndup(bytes, (size_t)(split - bytes) + 2);
    reply.len = len - (size_t)(split + 4 - bytes);
    reply.body = malloc(reply.len + 1);
    memcpy(reply.body, split + 4, reply.len);
    reply.body[reply.len] = '\0';
    free(bytes);
    const char *coding = reply_header(&reply, "Transfer-Encoding");
    if (coding != NULL && strcmp(coding, "chunked") == 0) {
        decode_chunks(&reply);
    }
    reply.json = cJSON_ParseWithLength(reply.body, reply.len);
    return reply;
}

static inline struct reply client_raw(const char *bytes) {
    int fd = client_connect();
    (void)client_send(fd, bytes, strlen(bytes));
    struct reply reply = client_read(fd, false);
    close(fd);
    return reply;
}

/* headers: whole lines with CRLF, or NULL. body: NULL for none. */
static inline struct reply client_call_bytes(const char *method, const char *path, const char *headers,
                                             const void *body, size_t body_len) {
    char *head = NULL;
    char length[64] = "";
    if (body != NULL) {
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", body_len);
    }
    bool own_host = headers != NULL && strstr(headers, "Host:") != NULL;
    assert_true(asprintf(&head, "%s %s HTTP/1.1\r\n%s%s%sConnection: close\r\n\r\n", method, path,
                         own_host ? "" : "Host: localhost\r\n", headers == NULL ? "" : headers, length) > 0);
    int fd = client_connect();
    if (client_send(fd, head, strlen(head)) && body != NULL) {
        (void)client_send(fd, body, body_len);
    }
    struct reply reply = client_read(fd, strcmp(method, "HEAD") == 0);
    close(fd);
    free(head);
    return reply;
}

static inline struct reply client_call(const char *method, const char *path, const char *headers, const char *body) {
    return client_call_bytes(method, path, headers, body, body == NULL ? 0 : strlen(body));
}

static inline struct reply client_get(const char *path) {
    return client_call("GET", path, NULL, NULL);
}

static inline struct reply client_post_json(const char *path, const char *body) {
    return client_call("POST", path, "Content-Type: application/json\r\n", body);
}

static inline const char *json_text(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static inline double json_number(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(item) ? item->valuedouble : -1e300;
}

/* The answer is a whole problem with this status and code. Frees the reply. */
#define assert_problem(reply_, status_, code_)                                                                         \
    do {                                                                                                               \
        struct reply r_ = (reply_);                                                                                    \
        if (r_.status != (status_)) {                                                                                  \
            print_error("got %d: %s\n", r_.status, r_.body == NULL ? "no answer" : r_.body);                           \
        }                                                                                                              \
        assert_int_equal(r_.status, (status_));                                                                        \
        assert_string_equal(reply_header(&r_, "Content-Type"), "application/problem+json");                            \
        assert_non_null(r_.json);                                                                                      \
        assert_string_equal(json_text(r_.json, "code"), (code_));                                                      \
        assert_int_equal((int)json_number(r_.json, "status"), (status_));                                              \
        assert_non_null(json_text(r_.json, "type"));                                                                   \
        assert_non_null(json_text(r_.json, "title"));                                                                  \
        assert_non_null(json_text(r_.json, "detail"));                                                                 \
        assert_string_equal(json_text(r_.json, "request_id"), reply_header(&r_, "X-Request-Id"));                      \
        reply_free(&r_);                                                                                               \
    } while (0)

#endif
