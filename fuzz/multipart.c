/* multipart/form-data.  Input: one byte that decides how the body is cut, the Content-Type up to a line feed, the body.
 * However it is cut, the parser must tell its sink the same. */
#include "api/internal.h"
#include "fuzz/fuzz.h"

struct told { /* everything the sink was told; data of one part joined */
    struct dd_buffer text;
    bool open;
};

static enum dd_status on_begin(void *context, const struct dd_part *part, struct dd_error *err) {
    struct told *told = context;
    (void)err;
    FUZZ_CHECK(!told->open && strchr(part->filename, '/') == NULL && strcmp(part->filename, "..") != 0);
    told->open = true;
    dd_buffer_printf(&told->text, "<%s|%s|%d>", part->name, part->filename, part->has_filename);
    return DD_OK;
}

static enum dd_status on_data(void *context, const char *bytes, size_t count, struct dd_error *err) {
    struct told *told = context;
    (void)err;
    FUZZ_CHECK(told->open);
    dd_buffer_append(&told->text, bytes, count);
    return DD_OK;
}

static enum dd_status on_end(void *context, struct dd_error *err) {
    struct told *told = context;
    (void)err;
    FUZZ_CHECK(told->open);
    told->open = false;
    dd_buffer_puts(&told->text, "</>");
    return DD_OK;
}

static enum dd_status parse(const char *type, const char *body, size_t count, size_t piece, struct told *told) {
    struct dd_error err;
    struct dd_multipart *multipart;
    const struct dd_multipart_sink sink = {told, on_begin, on_data, on_end};
    dd_buffer_init(&told->text, (size_t)1 << 24);
    told->open = false;
    enum dd_status status = dd_multipart_new(type, &sink, &multipart, &err);
    if (status != DD_OK) {
        fuzz_check_error(status, &err);
        return status;
    }
    for (size_t at = 0; at < count && status == DD_OK; at += piece) {
        char *part = fuzz_text((const uint8_t *)body + at, DD_MIN(piece, count - at));
        status = dd_multipart_feed(multipart, part, DD_MIN(piece, count - at), &err);
        free(part);
    }
    if (status == DD_OK) {
        status = dd_multipart_finish(multipart, &err);
    }
    fuzz_check_error(status, &err);
    dd_multipart_free(multipart);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    const uint8_t *line_end = count < 2 ? NULL : memchr(bytes + 1, '\n', count - 1);
    if (line_end == NULL) {
        return 0;
    }
    char *type = fuzz_text(bytes + 1, (size_t)(line_end - bytes) - 1);
    const char *body = (const char *)line_end + 1;
    size_t body_bytes = count - (size_t)(line_end - bytes) - 1;
    struct told whole, pieces;
    enum dd_status first = parse(type, body, body_bytes, DD_MAX(body_bytes, 1), &whole);
    enum dd_status second = parse(type, body, body_bytes, (size_t)bytes[0] % 64 + 1, &pieces);
    FUZZ_CHECK(first == second);
    if (first == DD_OK) {
        FUZZ_CHECK(whole.text.len == pieces.text.len && memcmp(whole.text.data, pieces.text.data, whole.text.len) == 0);
    }
    dd_buffer_release(&whole.text);
    dd_buffer_release(&pieces.text);
    free(type);
    return 0;
}
