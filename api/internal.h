/* Private to api/: what its files share.
 *
 * A request's way: uri (request.c) → guard → route → parameters → body → operation, on the HTTP thread or on a request
 * thread (jobs.c) → answer (answer.c).  Lock order: jobs or events lock, then libmicrohttpd's own; never the other way.
 */
#ifndef DD_API_INTERNAL_H
#define DD_API_INTERNAL_H

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>

#include "api/api.h"
#include "api/routes.h"

#define DD_MAX_QUERY_PARAMS 64
#define DD_MAX_PARTS 256
#define DD_JSON_MAX_DEPTH 64

union dd_address { /* of a socket, without casts between kinds */
    struct sockaddr_storage room;
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* --- text (text.c) ------------------------------------------------------------------------------------------------ */

/* Decodes %XX (and '+' when plus) in place.  false: a bad escape, U+0000 or invalid UTF-8. */
bool dd_percent_decode(char *text, bool plus);
bool dd_word_in(const char *list, const char *word, size_t len); /* space-separated list */
bool dd_text_int(const char *text, int64_t *ret_value);          /* whole text, base 10 */
bool dd_text_number(const char *text, double *ret_value);        /* whole text, finite, JSON's grammar */

/* --- JSON (json.c) ------------------------------------------------------------------------------------------------ */

/* Strict RFC 8259 on top of cJSON: valid UTF-8, no U+0000, no repeated names, at most DD_JSON_MAX_DEPTH deep, finite
 * numbers, nothing after the value.  The message has line, column and byte of the first fault. */
enum dd_status dd_strict_json_parse(const char *bytes, size_t len, cJSON **ret_json,
                                    struct dd_error *err) DD_MUST_CHECK;

/* --- parameters (params.c) ---------------------------------------------------------------------------------------- */

struct dd_params {
    struct dd_api_param items[DD_MAX_QUERY_PARAMS];
    size_t count;
};
/* Splits and checks a raw query string (cut up in place; values point into it).  All faults are collected. */
enum dd_status dd_query_parse(char *query, const struct dd_field *fields, unsigned route_flags,
                              struct dd_params *ret_params, struct dd_faults *faults,
                              struct dd_error *err) DD_MUST_CHECK;
/* One value against one field; adds a fault at pointer when it does not fit. */
bool dd_field_check_text(const struct dd_field *field, const char *value, const char *pointer,
                         struct dd_faults *faults);
const struct dd_field *dd_field_find(const struct dd_field *fields, const char *name);
/* A simple JSON body against its table: unknown members, types, bounds, what is missing. */
void dd_body_check(const struct dd_field *fields, const cJSON *body, struct dd_faults *faults);
/* In a JSON merge patch null means "back to empty": puts that empty value in its place. */
enum dd_status dd_body_nulls_to_empty(const struct dd_field *fields, cJSON *body, struct dd_error *err) DD_MUST_CHECK;
/* The conventions' own parameters, which every route (pretty) or every list (limit, cursor) takes. */
extern const struct dd_field dd_common_fields[], dd_list_fields[];

/* --- content negotiation (accept.c) ------------------------------------------------------------------------------- */

/* Picks from offers (NULL-terminated) what Accept likes best; equal q: the earlier offer.  NULL header: the first.
 * NULL when nothing fits. */
const char *dd_accept_pick(const char *accept, const char *const *offers);
bool dd_accept_gzip(const char *accept_encoding);
/* Whether an If-None-Match list names this opaque tag (weak comparison). */
bool dd_etag_listed(const char *if_none_match, const char *etag);

/* --- multipart/form-data (multipart.c) ---------------------------------------------------------------------------- */

struct dd_part {
    char name[128], filename[256]; /* filename: base name */
    bool has_filename;
};
struct dd_multipart_sink {
    void *context;
    enum dd_status (*begin)(void *context, const struct dd_part *part, struct dd_error *err);
    enum dd_status (*data)(void *context, const char *bytes, size_t count, struct dd_error *err);
    enum dd_status (*end)(void *context, struct dd_error *err);
};
struct dd_multipart;
/* content_type: the request's header, with the boundary. */
enum dd_status dd_multipart_new(const char *content_type, const struct dd_multipart_sink *sink,
                                struct dd_multipart **ret_multipart, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_multipart_feed(struct dd_multipart *multipart, const char *bytes, size_t count,
                                 struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_multipart_finish(struct dd_multipart *multipart, struct dd_error *err) DD_MUST_CHECK;
void dd_multipart_free(struct dd_multipart *multipart);

/* --- uploads (upload.c) ------------------------------------------------------------------------------------------- */

struct dd_upload; /* a form on its way to files and fields */
enum dd_status dd_upload_new(const char *upload_dir, const char *content_type, const struct dd_field *form, bool hashed,
                             struct dd_upload **ret_upload, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_upload_feed(struct dd_upload *upload, const char *bytes, size_t count,
                              struct dd_error *err) DD_MUST_CHECK;
/* After the last byte: what is missing or wrong goes to faults. */
enum dd_status dd_upload_finish(struct dd_upload *upload, struct dd_faults *faults, struct dd_error *err) DD_MUST_CHECK;
const struct dd_api_file *dd_upload_files(const struct dd_upload *upload, size_t *ret_count);
const struct dd_api_param *dd_upload_fields(const struct dd_upload *upload, size_t *ret_count);
void dd_upload_digest(struct dd_upload *upload, uint8_t out[DD_SHA256_BYTES]); /* of names, values, file contents */
void dd_upload_free(struct dd_upload *upload);                                 /* removes what was not renamed away */

/* --- requests (request.c) ----------------------------------------------------------------------------------------- */

struct dd_headers { /* what we read of the request's; pointers live as long as the request */
    const char *host, *origin, *sec_fetch_site, *authorization, *content_type, *content_length, *transfer_encoding,
        *idempotency_key, *last_event_id;
    unsigned n_host, n_origin, n_content_length, n_transfer_encoding, n_content_type, n_idempotency_key,
        n_authorization;
    bool malformed;                                                  /* a line without a proper name */
    bool no_cache;                                                   /* Cache-Control: no-cache: a new answer */
    struct dd_buffer accept, accept_encoding, if_none_match, expect; /* repeated lines joined with ", " */
    struct dd_buffer cookie;                                         /* joined with "; " */
};

struct dd_identity { /* who is asking */
    bool known;      /* false: no token is needed here, everybody may do everything */
    char name[65];   /* of the token */
    enum dd_scope scope;
    int64_t expires_ms; /* of the session; 0: the token itself was sent */
};

#define DD_REQUEST_ID_BYTES 40

struct dd_stamp { /* what an answer was made from (cache.c) */
    bool known;   /* false: it is not kept */
    uint64_t revision;
    int64_t tick;
};

enum dd_phase {
    DD_PHASE_NEW,    /* headers not seen yet */
    DD_PHASE_BODY,   /* reading the body (keeping it, or draining it when failed) */
    DD_PHASE_PARKED, /* suspended, a request thread works */
    DD_PHASE_READY,  /* the answer is made */
    DD_PHASE_SENT,
};

struct dd_request {
    struct dd_api *api;
    struct MHD_Connection *connection;
    char id[DD_REQUEST_ID_BYTES];
    char method[16];
    /* As sent (what is logged and linked to); target is the same, cut up: path, then query.  One piece of memory. */
    char *uri, *target;
    char *path, *query;
    const char *authority; /* of an absolute-form target; NULL */
    bool head, overlong;
    struct dd_headers headers;
    struct dd_identity identity;
    const struct dd_route *route;
    struct dd_captures captures;
    struct dd_params params;
    const char *accept;
    bool pretty, wants_gzip;
    enum dd_phase phase;
    int64_t started_us, whole_us; /* mono: request line, last byte of the body (0: not yet) */
    int64_t paused_us;            /* before it was looked at (pace.c) */

    uint64_t body_bytes, body_limit;
    struct dd_buffer body;
    struct dd_upload *upload;
    cJSON *json;
    struct dd_api_param *all_params; /* query, then form */
    char *idempotency_hash;          /* NULL: no key */
    bool idempotency_claimed;

    bool failed, counted;
    bool close; /* after the answer */
    struct dd_problem problem;
    char allow[64]; /* Allow of a 405 */

    struct dd_stamp stamp; /* as the answer is made from it */
    struct dd_kept *kept;  /* the answer, to be kept once it is whole */
    struct dd_kept *lent;  /* the kept answer whose response is being sent */

    struct dd_cancel cancel;
    struct dd_request *claim_next; /* idempotency.c, under claims_lock */
    struct dd_request *job_next;   /* jobs.c, under its lock */
    bool job_heavy;
    struct MHD_Response *response; /* the answer */
    int status;
    uint64_t response_bytes;
};

struct dd_connection;

struct dd_pace { /* pace.c; mono: tokens counted, a batch begun, a request last begun or answered */
    double tokens;
    int64_t filled_us, batch_us, busy_us;
};

struct dd_api {
    struct dd_api_config config; /* strings owned, defaults filled in */
    char **hosts;
    struct dd_api_ops ops;
    struct MHD_Daemon *mhd;
    int listen_fd;
    char listen_host[64]; /* without brackets */
    bool listen_any, listen_loopback;
    unsigned port;
    char boot[9];
    struct dd_tls *tls;             /* NULL: plain HTTP */
    char *openapi, *openapi_pretty; /* HTTP thread alone; NULL: not asked for yet */
    struct MHD_Response *no_memory; /* what is sent when there is no memory to make an answer */
    struct dd_jobs *jobs;
    struct dd_events *events;
    struct dd_access *access;
    struct dd_latency *latency;
    struct dd_cache *cache;
    struct dd_connection *open; /* HTTP thread alone, as the next two */
    struct dd_request *spare;   /* requests to be used again, by job_next */
    int n_spare;
    struct dd_pace pace; /* HTTP thread alone */
    pthread_mutex_t claims_lock;
    struct dd_request *claims; /* Idempotency-Keys whose requests run now; under claims_lock */
    pthread_t timer;
    bool timer_started;
    pthread_mutex_t timer_lock;
    pthread_cond_t timer_wake;
    bool timer_stop, timer_kicked; /* under timer_lock */
    atomic_bool stopping;
    atomic_uint_fast64_t next_request, requests, responses_4xx, responses_5xx, bytes_sent;
    atomic_int answering;   /* requests read whole, not yet completed */
    atomic_int connections; /* open ones */
};

enum MHD_Result dd_request_handle(void *api, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *upload_data, size_t *upload_data_size,
                                  void **request);
void *dd_request_begin(void *api, const char *uri, struct MHD_Connection *connection);
void dd_requests_free_spare(struct dd_api *api);
void dd_request_completed(void *api, struct MHD_Connection *connection, void **request,
                          enum MHD_RequestTerminationCode why);
/* Runs the operation and makes the answer (request->response).  HTTP thread or request thread. */
void dd_request_run(struct dd_request *request);
/* Notes a failure in request->problem; the first one stays. */
enum dd_status dd_request_fail(struct dd_request *request, enum dd_status status, const char *code, const char *fmt,
                               ...) DD_PRINTF(4, 5);

/* --- guard (guard.c) ---------------------------------------------------------------------------------------------- */

void dd_headers_read(struct dd_request *request);
bool dd_headers_whole(const struct dd_headers *headers);   /* false: there was no memory to keep them */
bool dd_headers_bounded(const struct dd_headers *headers); /* false: where its body ends cannot be known */
void dd_headers_release(struct dd_headers *headers);
/* Host, Origin, Sec-Fetch-Site.  Before anything else. */
enum dd_status dd_guard_origin(struct dd_request *request) DD_MUST_CHECK;
/* The token or the session, where they are required and the path needs them.  Fills request->identity. */
enum dd_status dd_guard_token(struct dd_request *request) DD_MUST_CHECK;
/* Whether the token's scope covers the route. */
enum dd_status dd_guard_scope(struct dd_request *request) DD_MUST_CHECK;
/* Calls use with each value that the request's session cookie has (other pages of this host may have set one of the
 * same name) until it says true. */
bool dd_guard_cookies(struct dd_request *request, bool (*use)(struct dd_request *request, const char *value));
bool dd_is_same_origin(const char *origin, const char *authority);
/* Content-Type, Content-Length, Transfer-Encoding against the route. Sets body_limit. */
enum dd_status dd_guard_body(struct dd_request *request, bool *ret_has_body) DD_MUST_CHECK;
bool dd_is_api_path(const char *path); /* needs the token */
/* Address of who is asking, "?" when there is none. */
#define DD_PEER_TEXT_BYTES INET6_ADDRSTRLEN
void dd_peer_text(const struct dd_request *request, char out[DD_PEER_TEXT_BYTES]);

/* --- TLS (tls.c) ----------------------------------------------------------------------------------------------------
 */

struct dd_tls; /* at most one a process */
enum dd_status dd_tls_new(const char *cert_path, const char *key_path, struct dd_tls **ret_tls,
                          struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_tls_load(struct dd_tls *tls, struct dd_error *err) DD_MUST_CHECK; /* again; else all stays */
void dd_tls_free(struct dd_tls *tls);                                               /* when no handshake can come */
gnutls_certificate_retrieve_function2 dd_tls_retrieve; /* what libmicrohttpd asks at a handshake */

/* --- access (access.c, session.c) -----------------------------------------------------------------------------------
 */

#define DD_SESSION_SECONDS (7 * 24 * 3600)
#define DD_COOKIE_BYTES (2 * DD_SHA256_BYTES + 1)

struct dd_access; /* tokens and sessions; any thread */
enum dd_status dd_access_new(const struct dd_api_ops *ops, struct dd_access **ret_access,
                             struct dd_error *err) DD_MUST_CHECK; /* ops must outlive it */
void dd_access_free(struct dd_access *access);
bool dd_access_required(struct dd_access *access); /* looks first whether the tokens have changed */
bool dd_access_token(struct dd_access *access, const char *secret, struct dd_identity *ret_identity);
bool dd_access_session(struct dd_access *access, const char *cookie, int64_t now_ms, struct dd_identity *ret_identity);
/* A new session for the token; DD_UNAUTHORIZED when there is no such. */
enum dd_status dd_access_sign_in(struct dd_access *access, const char *secret, int64_t now_ms,
                                 char ret_cookie[DD_COOKIE_BYTES], struct dd_identity *ret_identity,
                                 struct dd_error *err) DD_MUST_CHECK;
void dd_access_sign_out(struct dd_access *access, const char *cookie);
/* Ends what is too old; true when anything has ended since the last call: streams opened with it must end too. */
bool dd_access_tick(struct dd_access *access, int64_t now_ms);
void dd_session_cookie_name(const struct dd_api *api, char out[32]);
void dd_session_run(struct dd_request *request); /* GET, POST and DELETE of /session: makes the answer */

/* --- answers (answer.c, problem.c, pages.c) ------------------------------------------------------------------------
 */

/* Each sets request->response and request->status; when memory is out response stays NULL, and what is sent is the
 * answer that was made for it at the start. */
void dd_answer_problem(struct dd_request *request);
void dd_answer_result(struct dd_request *request, struct dd_api_result *result); /* takes what result owns */
void dd_answer_text(struct dd_request *request, int status, const char *content_type, const char *text, size_t len,
                    const char *etag);
void dd_answer_options(struct dd_request *request, unsigned methods);
void dd_answer_replay(struct dd_request *request, int status, const char *location, const char *body);
bool dd_answer_page(struct dd_request *request); /* false: no such page */
void dd_answer_kept(struct dd_request *request, int status, struct dd_kept *kept);
void dd_answer_again(struct dd_request *request, struct dd_kept *kept); /* the same with 200; HTTP thread */
/* Headers that every answer has. */
void dd_answer_common_headers(struct dd_request *request, struct MHD_Response *response);
/* A 503 made in advance, for any request; NULL when out of memory. */
struct MHD_Response *dd_answer_no_memory(void);
bool dd_gzip(const char *bytes, size_t len, struct dd_buffer *out);
/* JSON text of the problem; the caller frees. NULL when out of memory. */
char *dd_problem_text(const struct dd_request *request, int http_status);

/* --- idempotency (idempotency.c) -----------------------------------------------------------------------------------
 */

enum dd_idempotent_outcome { DD_IDEMPOTENT_RUN, DD_IDEMPOTENT_ANSWERED, DD_IDEMPOTENT_FAILED };
enum dd_idempotent_outcome dd_idempotent_enter(struct dd_request *request);
void dd_idempotent_store(struct dd_request *request, int status, const char *location, const char *body);
void dd_idempotent_leave(struct dd_request *request);

/* --- request threads (jobs.c) ---------------------------------------------------------------------------------------
 */

struct dd_jobs;
enum dd_status dd_jobs_new(int threads, struct dd_jobs **ret_jobs, struct dd_error *err) DD_MUST_CHECK;
/* Suspends the connection and queues the request.  DD_BUSY: the queue is full, or the server stops. */
enum dd_status dd_jobs_park(struct dd_jobs *jobs, struct dd_request *request, struct dd_error *err) DD_MUST_CHECK;
int dd_jobs_waiting(struct dd_jobs *jobs); /* parked and not begun */
void dd_jobs_tick(struct dd_jobs *jobs);   /* looks for clients that have gone */
void dd_jobs_stop(struct dd_jobs *jobs, int drain_ms);
void dd_jobs_free(struct dd_jobs *jobs);

/* --- events (events.c, stream.c) ------------------------------------------------------------------------------------
 */

struct dd_events;
enum dd_status dd_events_new(const char *boot, int max_readers, struct dd_events **ret_events,
                             struct dd_error *err) DD_MUST_CHECK;
void dd_events_free(struct dd_events *events); /* no reader may be left */
/* true: a step is held back, and the timer should be told. */
bool dd_events_publish(struct dd_events *events, const char *type, int64_t experiment_id, const char *data);
/* Makes the streaming answer. experiment_id 0: all. */
/* What of the stream a reader wants.  types: bits of dd_events_types, 0 for all; steps_of: steps of this experiment
 * alone, 0 for all. */
struct dd_events_filter {
    unsigned types;
    int64_t steps_of;
    int64_t step_every_us; /* at most one step event in this time; 0: all there are */
};
unsigned dd_events_types(const char *list); /* "status,epoch" */
void dd_events_answer(struct dd_events *events, struct dd_request *request, int64_t experiment_id,
                      const struct dd_events_filter *filter, const char *last_event_id);
/* Heartbeats, held-back steps, gone clients.  Returns when it wants to be called next (mono µs). */
int64_t dd_events_tick(struct dd_events *events, int64_t now_us);
void dd_events_stop(struct dd_events *events);    /* ends all streams, takes no more */
void dd_events_end_all(struct dd_events *events); /* ends all streams; who may come back does */
int dd_events_readers(struct dd_events *events);
uint64_t dd_events_bytes_sent(const struct dd_events *events);

/* --- a gzip stream that is read while it is written (squeeze.c) ------------------------------------------------------
 */

#define DD_SQUEEZE_BYTES 16384

struct dd_squeeze;
struct dd_squeeze *dd_squeeze_new(void); /* NULL: no memory */
void dd_squeeze_free(struct dd_squeeze *squeeze);
char *dd_squeeze_plain(struct dd_squeeze *squeeze); /* DD_SQUEEZE_BYTES to be filled, once nothing is left to take */
void dd_squeeze_put(struct dd_squeeze *squeeze, size_t n); /* n bytes of the plain ones are to be compressed */
void dd_squeeze_finish(struct dd_squeeze *squeeze);        /* nothing will follow */
/* Up to `room` compressed bytes (at least 8), how many; 0: nothing is left. */
size_t dd_squeeze_take(struct dd_squeeze *squeeze, char *out, size_t room);

/* --- connections (connections.c) ------------------------------------------------------------------------------------
 */

void dd_connection_notify(void *api, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode what);
/* DD_BUSY or DD_TOO_MANY where there are too many connections, and closes this one after the answer. */
enum dd_status dd_connection_check(struct dd_request *request) DD_MUST_CHECK;

/* --- pace (pace.c) --------------------------------------------------------------------------------------------------
 */

int64_t dd_pace_begin(struct dd_api *api); /* a request has come: may wait for others; how long it did, µs */
void dd_pace_end(struct dd_api *api);      /* it is answered */

/* --- latency (latency.c) --------------------------------------------------------------------------------------------
 */

struct dd_latency *dd_latency_new(void); /* NULL when out of memory */
void dd_latency_free(struct dd_latency *latency);
/* route NULL: none was found; page: one of the dashboard's was. */
void dd_latency_add(struct dd_latency *latency, const struct dd_route *route, bool page, int64_t us);
void dd_latency_put(const struct dd_latency *latency, const char *name, struct dd_buffer *out);

/* --- kept answers (cache.c) ----------------------------------------------------------------------------------------
 */

struct dd_kept {
    atomic_int uses;
    char *body; /* as it is sent; NULL: only its tag is known, it was answered with 304 */
    size_t len;
    const char *media; /* static */
    char tag[100];     /* "" : none */
    bool coded;        /* gzip */
    char *link;        /* the header Link; NULL: none */
    /* The response as it was last sent from here.  HTTP thread; lent: it is being sent, and another has to be made. */
    struct MHD_Response *again;
    char again_id[DD_REQUEST_ID_BYTES]; /* X-Request-Id in it */
    bool lent;
};
/* Takes body and link, also when it fails (NULL: no memory). */
struct dd_kept *dd_kept_new(char *body, size_t len, const char *media, char *link);
struct dd_kept *dd_kept_ref(struct dd_kept *kept);
void dd_kept_unref(struct dd_kept *kept); /* NULL is none */

struct dd_cache;
struct dd_cache *dd_cache_new(void); /* NULL when out of memory */
void dd_cache_free(struct dd_cache *cache);
/* Notes what the answer will be made from.  Before the operation looks at anything. */
void dd_cache_stamp(struct dd_request *request);
/* The answer to this request, if it was made from what its stamp says or later; the caller unrefs.  NULL: none. */
struct dd_kept *dd_cache_find(struct dd_cache *cache, const struct dd_request *request);
/* Whether the answer that is being made to one will do for the other. */
bool dd_cache_will_do(const struct dd_request *running, const struct dd_request *request);
void dd_cache_put(struct dd_cache *cache, const struct dd_request *request, struct dd_kept *kept);

/* --- openapi (openapi.c, schemas.c) ---------------------------------------------------------------------------------
 */

cJSON *dd_schemas(void); /* components/schemas without the spec's; NULL when out of memory */

#endif
