/* memory: allocation with overflow checks, and the cleanup functions for locals.
 *
 * In a failpoint build every allocation here asks the failpoint "alloc" first.  Any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"

#define CACHE_LINE_BYTES ((size_t)64)
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

bool dd_size_mul(size_t a, size_t b, size_t *ret_product) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *ret_product = product;
    return true;
}

bool dd_size_add(size_t a, size_t b, size_t *ret_sum) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *ret_sum = sum;
    return true;
}

void *dd_calloc(size_t count, size_t size) {
    size_t bytes;
    if (dd_failpoint("alloc") || !dd_size_mul(count, size, &bytes)) {
        return NULL;
    }
    return calloc(bytes ? bytes : 1, 1);
}

void *dd_realloc_array(void *old, size_t count, size_t size) {
    size_t bytes;
    if (dd_failpoint("alloc") || !dd_size_mul(count, size, &bytes)) {
        return NULL;
    }
    return realloc(old, bytes ? bytes : 1); /* realloc(p, 0) would free p */
}

void *dd_calloc_aligned(size_t count, size_t size) {
    size_t bytes;
    size_t rounded;
    if (dd_failpoint("alloc") || !dd_size_mul(count, size, &bytes)) {
        return NULL;
    }
    size_t alignment = bytes > HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : CACHE_LINE_BYTES;
    if (!dd_size_add(bytes ? bytes : 1, alignment - 1, &rounded)) {
        return NULL;
    }
    rounded &= ~(alignment - 1);
    void *memory = aligned_alloc(alignment, rounded);
    if (!memory) {
        return NULL;
    }
    if (alignment == HUGE_PAGE_BYTES) {
        madvise(memory, rounded, MADV_HUGEPAGE); /* a wish: without it the memory is merely slower */
    }
    memset(memory, 0, rounded);
    return memory;
}

/* AddressSanitizer sees the borders of what malloc gave, not those of a mapping. */
#ifdef __SANITIZE_ADDRESS__
#define MAPPED false
#else
#define MAPPED true
#endif

static bool mapped_bytes(size_t count, size_t size, size_t *ret_bytes) {
    size_t bytes;
    if (!dd_size_mul(count, size, &bytes) || !dd_size_add(bytes, HUGE_PAGE_BYTES - 1, &bytes)) {
        return false;
    }
    *ret_bytes = bytes & ~(HUGE_PAGE_BYTES - 1);
    return true;
}

void *dd_slab_new(size_t count, size_t size) {
    size_t bytes, room;
    if (!MAPPED) {
        return dd_calloc_aligned(count, size);
    }
    if (dd_failpoint("alloc") || !mapped_bytes(DD_MAX(count, (size_t)1), size, &bytes) ||
        !dd_size_add(bytes, HUGE_PAGE_BYTES, &room)) {
        return NULL;
    }
    char *map = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        return NULL;
    }
    size_t before = (HUGE_PAGE_BYTES - ((uintptr_t)map & (HUGE_PAGE_BYTES - 1))) & (HUGE_PAGE_BYTES - 1);
    if (before > 0) {
        munmap(map, before);
    }
    munmap(map + before + bytes, HUGE_PAGE_BYTES - before);
    madvise(map + before, bytes, MADV_HUGEPAGE); /* a wish: without it the memory is merely slower */
    return map + before;
}

void dd_slab_sparse(void *start, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)start + page - 1) & ~(page - 1), end = ((uintptr_t)start + bytes) & ~(page - 1);
    if (MAPPED && first < end) {
        madvise((char *)start + (first - (uintptr_t)start), end - first, MADV_NOHUGEPAGE);
    }
}

void dd_slab_free(void *slab, size_t count, size_t size) {
    size_t bytes;
    if (!MAPPED) {
        free(slab);
    } else if (slab != NULL && mapped_bytes(DD_MAX(count, (size_t)1), size, &bytes)) {
        munmap(slab, bytes);
    }
}

char *dd_strdup(const char *text) {
    return text ? dd_strndup(text, strlen(text)) : NULL;
}

char *dd_strndup(const char *text, size_t bytes) {
    size_t room;
    if (dd_failpoint("alloc") || !dd_size_add(bytes, 1, &room)) {
        return NULL;
    }
    char *copy = malloc(room);
    if (!copy) {
        return NULL;
    }
    if (bytes) {
        memcpy(copy, text, bytes);
    }
    copy[bytes] = '\0';
    return copy;
}

void dd_free_ptr(void *pointer_to_pointer) {
    void *pointer;
    memcpy(&pointer, pointer_to_pointer, sizeof pointer);
    free(pointer);
}

void dd_close_fd(int *fd) {
    if (*fd >= 0) {
        int saved = errno;
        close(*fd);
        errno = saved;
        *fd = -1;
    }
}

void dd_fclose_ptr(FILE **file) {
    if (*file) {
        int saved = errno;
        fclose(*file);
        errno = saved;
        *file = NULL;
    }
}
