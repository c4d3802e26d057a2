/* A gzip stream that is read while it is written: all that was put in can be decoded as soon as it has been taken out.
 * The names in one event are those of the event before, so an epoch's 1,150 bytes become about 250.
 * Threads: the caller's; a stream belongs to one at a time.
 */
#include <stdlib.h>
#include <zlib.h>

#include "api/internal.h"

/* A window of 4 KiB holds the last few events, which is what the next one repeats; 32 KiB a stream instead of 256. */
#define WINDOW_BITS 12
#define MEMORY_LEVEL 5
#define GZIP_WRAPPER 16

struct dd_squeeze {
    z_stream z;
    int flush; /* Z_SYNC_FLUSH while something waits to be taken, Z_FINISH for the last of it, Z_NO_FLUSH: nothing waits
                */
    char plain[DD_SQUEEZE_BYTES];
};

struct dd_squeeze *dd_squeeze_new(void) {
    struct dd_squeeze *squeeze = dd_calloc(1, sizeof *squeeze);
    if (squeeze != NULL && deflateInit2(&squeeze->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_BITS + GZIP_WRAPPER,
                                        MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(squeeze);
        return NULL;
    }
    return squeeze;
}

void dd_squeeze_free(struct dd_squeeze *squeeze) {
    if (squeeze != NULL) {
        deflateEnd(&squeeze->z);
        free(squeeze);
    }
}

char *dd_squeeze_plain(struct dd_squeeze *squeeze) {
    return squeeze->plain;
}

static void begin(struct dd_squeeze *squeeze, size_t n, int flush) {
    squeeze->z.next_in = (Bytef *)squeeze->plain;
    squeeze->z.avail_in = (uInt)n;
    squeeze->flush = flush;
}

void dd_squeeze_put(struct dd_squeeze *squeeze, size_t n) {
    begin(squeeze, n, Z_SYNC_FLUSH);
}

void dd_squeeze_finish(struct dd_squeeze *squeeze) {
    begin(squeeze, 0, Z_FINISH);
}

size_t dd_squeeze_take(struct dd_squeeze *squeeze, char *out, size_t room) {
    if (squeeze->flush == Z_NO_FLUSH) {
        return 0;
    }
    squeeze->z.next_out = (Bytef *)out;
    squeeze->z.avail_out = (uInt)room;
    int result = deflate(&squeeze->z, squeeze->flush);
    if (squeeze->z.avail_out > 0 || result == Z_STREAM_END) { /* it had room to spare, so nothing is left */
        squeeze->flush = Z_NO_FLUSH;
    }
    return room - squeeze->z.avail_out;
}
