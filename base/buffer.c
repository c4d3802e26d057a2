/* buffer: growable bytes with a cap.
 *
 * Invariants are at struct dd_buffer.  cap is 0 exactly while data is the shared empty string, which is never written
 * and never freed.  Memory doubles, so n appends copy O(n) bytes.  A buffer belongs to one thread at a time.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define FIRST_BYTES 64

static char empty_text[1];

void dd_buffer_init(struct dd_buffer *buffer, size_t max_bytes) {
    *buffer = (struct dd_buffer){.data = empty_text, .max = max_bytes};
}

void dd_buffer_release(struct dd_buffer *buffer) {
    if (buffer->cap) {
        free(buffer->data);
    }
    dd_buffer_init(buffer, buffer->max);
}

void dd_buffer_clear(struct dd_buffer *buffer) {
    buffer->len = 0;
    buffer->failed = false;
    buffer->over_max = false;
    if (buffer->cap) {
        buffer->data[0] = '\0';
    }
}

/* Makes room for `more` bytes and their NUL; false marks the buffer failed. */
static bool reserve(struct dd_buffer *buffer, size_t more) {
    if (buffer->failed) {
        return false;
    }
    size_t need; /* with the NUL */
    if (!dd_size_add(buffer->len, more, &need) || need > buffer->max || !dd_size_add(need, 1, &need)) {
        buffer->failed = true;
        buffer->over_max = true;
        return false;
    }
    if (need <= buffer->cap) {
        return true;
    }
    size_t cap = buffer->cap ? buffer->cap : FIRST_BYTES;
    while (cap < need && cap <= SIZE_MAX / 2) {
        cap *= 2;
    }
    cap = DD_MAX(cap, need);
    char *grown = dd_realloc_array(buffer->cap ? buffer->data : NULL, cap, 1);
    if (!grown) {
        buffer->failed = true;
        return false;
    }
    buffer->data = grown;
    buffer->cap = cap;
    return true;
}

/* bytes must not lie inside the buffer itself: growing may move it. */
void dd_buffer_append(struct dd_buffer *buffer, const void *bytes, size_t count) {
    if (count == 0 || !reserve(buffer, count)) {
        return;
    }
    memcpy(buffer->data + buffer->len, bytes, count);
    buffer->len += count;
    buffer->data[buffer->len] = '\0';
}

void dd_buffer_puts(struct dd_buffer *buffer, const char *text) {
    dd_buffer_append(buffer, text, strlen(text));
}

void dd_buffer_putc(struct dd_buffer *buffer, char c) {
    dd_buffer_append(buffer, &c, 1);
}

void dd_buffer_put_int(struct dd_buffer *buffer, int64_t value) {
    char text[DD_NUMBER_TEXT_BYTES];
    size_t count = dd_number_print_int(value, text);
    dd_buffer_append(buffer, text, count);
}

void dd_buffer_put_number(struct dd_buffer *buffer, double value) {
    char text[DD_NUMBER_TEXT_BYTES];
    size_t count = dd_number_print(value, text);
    dd_buffer_append(buffer, text, count);
}

void dd_buffer_printf(struct dd_buffer *buffer, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    dd_buffer_vprintf(buffer, fmt, args);
    va_end(args);
}

void dd_buffer_vprintf(struct dd_buffer *buffer, const char *fmt, va_list args) {
    if (buffer->failed) {
        return;
    }
    char small[256];
    va_list again;
    va_copy(again, args);
    int wanted = vsnprintf(small, sizeof small, fmt, args);
    if (wanted < 0) {
        buffer->failed = true;
    } else if ((size_t)wanted < sizeof small) {
        dd_buffer_append(buffer, small, (size_t)wanted);
    } else if (reserve(buffer, (size_t)wanted)) {
        vsnprintf(buffer->data + buffer->len, (size_t)wanted + 1, fmt, again);
        buffer->len += (size_t)wanted;
    }
    va_end(again);
}

enum dd_status dd_buffer_check(const struct dd_buffer *buffer, struct dd_error *err) {
    if (!buffer->failed) {
        return DD_OK;
    }
    if (buffer->over_max) {
        return dd_fail(err, DD_TOO_LARGE, "text_too_large", "more than the %zu bytes allowed here", buffer->max);
    }
    return dd_fail_memory(err, buffer->cap);
}

/* NULL only when out of memory for the empty string. */
char *dd_buffer_take(struct dd_buffer *buffer, size_t *ret_len) {
    char *data = buffer->cap ? buffer->data : dd_strndup("", 0);
    if (ret_len) {
        *ret_len = buffer->len;
    }
    dd_buffer_init(buffer, buffer->max);
    return data;
}
