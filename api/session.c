/* /session: a browser gives its token once and goes on with a cookie that scripts cannot read and other sites cannot
 * send.  The cookie's name has the port in it: cookies do not know ports, and two daemons may share a host.
 *
 * HTTP thread.
 */
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

void dd_session_cookie_name(const struct dd_api *api, char out[32]) {
    snprintf(out, 32, "distilld-%u", api->port);
}

/* Secure also where a proxy before us speaks TLS: the browser's Origin says so. */
static void set_cookie(struct dd_request *request, const char *value, int seconds) {
    char name[32], header[256];
    const char *origin = request->headers.origin;
    bool secure = request->api->tls != NULL || (origin != NULL && strncmp(origin, "https://", 8) == 0);
    dd_session_cookie_name(request->api, name);
    snprintf(header, sizeof header, "%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Strict%s", name, value, seconds,
             secure ? "; Secure" : "");
    if (request->response != NULL) {
        (void)MHD_add_response_header(request->response, "Set-Cookie", header);
    }
}

static void answer(struct dd_request *request, int status) {
    const struct dd_identity *identity = &request->identity;
    bool full = !identity->known || identity->scope == DD_SCOPE_FULL;
    char text[256], time[DD_TIME_TEXT_BYTES] = "";
    if (identity->expires_ms != 0) {
        dd_time_format(identity->expires_ms, time);
    }
    const char *name_quote = identity->known ? "\"" : "", *time_quote = time[0] != '\0' ? "\"" : "";
    int len = snprintf(text, sizeof text, "{\"required\":%s,\"name\":%s%s%s,\"scope\":\"%s\",\"expires_at\":%s%s%s}",
                       identity->known ? "true" : "false", name_quote, identity->known ? identity->name : "null",
                       name_quote, full ? "full" : "read", time_quote, time[0] != '\0' ? time : "null", time_quote);
    dd_answer_text(request, status, "application/json", text, (size_t)len, NULL);
}

static void sign_in(struct dd_request *request) {
    const char *token = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request->json, "token"));
    char cookie[DD_COOKIE_BYTES];
    struct dd_error err = {0};
    if (!dd_access_required(request->api->access)) {
        (void)dd_request_fail(request, DD_CONFLICT, "token_not_needed", "no token is needed here");
    } else if (dd_access_sign_in(request->api->access, token != NULL ? token : "", dd_clock_wall_ms(), cookie,
                                 &request->identity, &err) != DD_OK) {
        (void)dd_request_fail(request, err.status, err.code, "%s", err.message);
    }
    if (request->failed) {
        dd_answer_problem(request);
        return;
    }
    answer(request, 201);
    if (request->response != NULL) {
        (void)MHD_add_response_header(request->response, "Location", DD_API_PREFIX "/session");
    }
    set_cookie(request, cookie, DD_SESSION_SECONDS);
}

static bool end_session(struct dd_request *request, const char *cookie) {
    dd_access_sign_out(request->api->access, cookie);
    return false; /* all of them */
}

void dd_session_run(struct dd_request *request) {
    if (request->route->method == DD_POST) {
        sign_in(request);
        return;
    }
    if (request->route->method == DD_GET) {
        answer(request, 200);
        return;
    }
    (void)dd_guard_cookies(request, end_session);
    struct dd_api_result nothing = {.fd = -1};
    dd_answer_result(request, &nothing);
    set_cookie(request, "", 0);
}
