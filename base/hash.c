/* hash: SHA-256 (nettle, which uses the processor's SHA instructions where there are any), XXH3 (libxxhash), hex,
 * comparison in constant time, random bytes from the kernel. */
#include <errno.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/base.h"
#include "base/internal.h"

struct dd_sha256 {
    struct sha256_ctx context;
};

struct dd_sha256 *dd_sha256_new(void) {
    struct dd_sha256 *hash = dd_calloc(1, sizeof *hash);
    if (hash) {
        sha256_init(&hash->context);
    }
    return hash;
}

void dd_sha256_free(struct dd_sha256 *hash) {
    free(hash);
}

void dd_sha256_update(struct dd_sha256 *hash, const void *bytes, size_t count) {
    sha256_update(&hash->context, count, bytes);
}

void dd_sha256_digest(struct dd_sha256 *hash, uint8_t out[DD_SHA256_BYTES]) {
    sha256_digest(&hash->context, DD_SHA256_BYTES, out);
}

void dd_sha256_bytes(const void *bytes, size_t count, uint8_t out[DD_SHA256_BYTES]) {
    struct sha256_ctx context;
    sha256_init(&context);
    sha256_update(&context, count, bytes);
    sha256_digest(&context, DD_SHA256_BYTES, out);
}

void dd_checksum_put(XXH128_hash_t hash, uint8_t out[DD_SHA256_BYTES]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memset(out, 0, DD_SHA256_BYTES);
    memcpy(out, canonical.digest, sizeof canonical.digest);
}

void dd_checksum_bytes(const void *bytes, size_t count, uint8_t out[DD_SHA256_BYTES]) {
    dd_checksum_put(XXH3_128bits(bytes, count), out);
}

void dd_hex(const uint8_t *bytes, size_t count, char *out) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * count] = '\0';
}

bool dd_equal_constant_time(const void *a, const void *b, size_t count) {
    return memeql_sec(a, b, count) != 0;
}

enum dd_status dd_random_bytes(void *out, size_t count, struct dd_error *err) {
    uint8_t *bytes = out;
    size_t done = 0;
    while (done < count) {
        int planned = dd_failpoint("random");
        ssize_t got = planned ? -1 : getrandom(bytes + done, count - done, 0);
        if (got < 0) {
            int saved = planned ? planned : errno;
            if (saved == EINTR) {
                continue;
            }
            return dd_fail_errno(err, saved, "cannot read random bytes from the kernel");
        }
        done += (size_t)got;
    }
    return DD_OK;
}
