/* Who is connected: how many in all and from one address, and who has to be told that there are too many.
 *
 * libmicrohttpd would close what comes over a limit without a word, or leave it waiting.  So it is let to accept
 * REFUSALS more than the limit; those are answered 503 or 429 at their first request and closed, and have REFUSAL_S for
 * it.  On loopback every client has one address, so there a limit a peer would be a limit for all.
 *
 * HTTP thread.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/internal.h"

#define REFUSAL_S 5u

struct dd_connection {
    struct dd_connection *next, **at;
    uint8_t address[16];
    bool over_all, over_peer;
};

/* IPv4 as ::ffff:a.b.c.d, so that it is one address on sockets of both kinds. */
static void address_of(struct MHD_Connection *connection, uint8_t out[16]) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    union dd_address peer = {.room = {0}};
    socklen_t len = sizeof peer;
    memset(out, 0, 16);
    if (info == NULL || getpeername(info->connect_fd, &peer.any, &len) != 0) {
        return;
    }
    if (peer.any.sa_family == AF_INET6) {
        memcpy(out, &peer.v6.sin6_addr, 16);
        return;
    }
    out[10] = out[11] = 0xFF;
    memcpy(out + 12, &peer.v4.sin_addr, 4);
}

static bool over_peer_limit(const struct dd_api *api, const struct dd_connection *own) {
    int same = 0;
    for (const struct dd_connection *c = api->open; c != NULL; c = c->next) {
        same += memcmp(c->address, own->address, sizeof own->address) == 0;
    }
    return same > DD_MAX(api->config.max_connections / 2, 1);
}

static void opened(struct dd_api *api, struct MHD_Connection *connection, void **context) {
    int count = ++api->connections;
    struct dd_connection *own = dd_calloc(1, sizeof *own);
    *context = own;
    if (own == NULL) {
        return; /* counted, and served: memory is refused elsewhere */
    }
    address_of(connection, own->address);
    own->next = api->open;
    own->at = &api->open;
    if (own->next != NULL) {
        own->next->at = &own->next;
    }
    api->open = own;
    own->over_all = count > api->config.max_connections;
    own->over_peer = !api->listen_loopback && over_peer_limit(api, own);
    if (own->over_all || own->over_peer) {
        (void)MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, REFUSAL_S);
    }
}

static void closed(struct dd_api *api, void **context) {
    struct dd_connection *own = *context;
    api->connections--;
    *context = NULL;
    if (own == NULL) {
        return;
    }
    *own->at = own->next;
    if (own->next != NULL) {
        own->next->at = own->at;
    }
    free(own);
}

void dd_connection_notify(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode what) {
    struct dd_api *api = context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        opened(api, connection, socket_context);
    } else {
        closed(api, socket_context);
    }
}

enum dd_status dd_connection_check(struct dd_request *request) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    const struct dd_connection *own = info != NULL ? info->socket_context : NULL;
    int most = request->api->config.max_connections;
    if (own == NULL || (!own->over_all && !own->over_peer)) {
        return DD_OK;
    }
    request->close = true;
    request->problem.retry_after_s = (int)REFUSAL_S;
    return own->over_peer
               ? dd_request_fail(request, DD_TOO_MANY, "too_many_connections",
                                 "there are %d connections from this address already; close some", DD_MAX(most / 2, 1))
               : dd_request_fail(request, DD_BUSY, "too_many_connections",
                                 "there are %d connections already, which is the limit; ask again later", most);
}
