/* The embedded dashboard: assets by their path; any other page path that a browser asks for is the application itself,
 * which reads the path in the browser.  Assets are stored gzip-compressed.  Constant data; HTTP thread.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "api/internal.h"
#include "api/pages.h"

/* Everything from our own origin, nothing inline.  data: and blob: images are charts exported as PNG. */
static const char page_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'";

static const struct dd_page *find_page(const char *path) {
    for (size_t i = 0; i < dd_pages_count; i++) {
        if (strcmp(dd_pages[i].path, path) == 0) {
            return &dd_pages[i];
        }
    }
    return NULL;
}

/* The whole asset, inflated; the caller frees. NULL: no memory, or not what its sizes say. */
static char *inflate_page(const struct dd_page *page) {
    char *out = malloc(page->bytes + 1);
    z_stream z = {0};
    if (out == NULL || page->bytes > UINT32_MAX || inflateInit2(&z, 15 + 16) != Z_OK) {
        free(out);
        return NULL;
    }
    z.next_in = (Bytef *)(uintptr_t)page->gzip;
    z.avail_in = (uInt)page->gzip_bytes;
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)page->bytes + 1;
    int result = inflate(&z, Z_FINISH);
    bool whole = result == Z_STREAM_END && z.total_out == page->bytes;
    inflateEnd(&z);
    if (!whole) {
        free(out);
        return NULL;
    }
    return out;
}

static void page_headers(struct dd_request *request, struct MHD_Response *response, const struct dd_page *page,
                         bool gzip) {
    char etag[128];
    snprintf(etag, sizeof etag, "%s\"%.100s\"", gzip ? "" : "W/", page->etag);
    dd_answer_common_headers(request, response);
    (void)MHD_add_response_header(response, "Content-Security-Policy", page_policy);
    (void)MHD_add_response_header(response, "Cross-Origin-Opener-Policy", "same-origin");
    (void)MHD_add_response_header(response, "Cache-Control",
                                  page->immutable ? "public, max-age=31536000, immutable" : "no-cache");
    (void)MHD_add_response_header(response, "ETag", etag);
    (void)MHD_add_response_header(response, "Vary", "Accept-Encoding");
}

static void answer_page(struct dd_request *request, const struct dd_page *page) {
    const struct dd_buffer *list = &request->headers.if_none_match;
    struct MHD_Response *response = NULL;
    request->status = 200;
    if (list->len > 0 && !list->failed && dd_etag_listed(list->data, page->etag)) {
        static char nothing[1];
        response = MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT);
        request->status = 304;
    } else if (request->wants_gzip) {
        response =
            MHD_create_response_from_buffer(page->gzip_bytes, (void *)(uintptr_t)page->gzip, MHD_RESPMEM_PERSISTENT);
    } else {
        char *bytes = inflate_page(page);
        response = bytes == NULL ? NULL : MHD_create_response_from_buffer(page->bytes, bytes, MHD_RESPMEM_MUST_FREE);
        if (response == NULL) {
            free(bytes);
        }
    }
    if (response == NULL) {
        return;
    }
    page_headers(request, response, page, request->wants_gzip);
    if (request->status == 200) {
        request->response_bytes = request->wants_gzip ? page->gzip_bytes : page->bytes;
        (void)MHD_add_response_header(response, "Content-Type", page->content_type);
        if (request->wants_gzip) {
            (void)MHD_add_response_header(response, "Content-Encoding", "gzip");
        }
    }
    request->response = response;
}

bool dd_answer_page(struct dd_request *request) {
    static const char *const html[] = {"text/html", NULL};
    const struct dd_page *page = find_page(strcmp(request->path, "/") == 0 ? "/index.html" : request->path);
    const char *accept = request->headers.accept.len > 0 ? request->headers.accept.data : NULL;
    if (page == NULL && accept != NULL && strstr(accept, "text/html") != NULL && dd_accept_pick(accept, html) != NULL) {
        page = find_page("/index.html");
    }
    if (page == NULL) {
        return false;
    }
    answer_page(request, page);
    return true;
}
