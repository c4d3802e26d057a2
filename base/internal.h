/* internal: helpers that the files of base share among themselves; no other folder includes this. */
#ifndef DD_BASE_INTERNAL_H
#define DD_BASE_INTERNAL_H

#include <xxhash.h>

#include <stdbool.h>
#include <stddef.h>

/* The largest length ≤ bytes at which text[0, bytes) can be cut without splitting a code point.  text may be of any
 * bytes; what is no UTF-8 is cut where it is. */
size_t dd_utf8_cut(const char *text, size_t bytes);

/* Makes text valid UTF-8 in place: a character cut off at its end goes, what else is ill-formed becomes '?'. */
void dd_utf8_mend(char *text);

/* The directory that holds path ("." for a bare name, "/" for a name in the root); false when out is too small. */
bool dd_path_parent(const char *path, char *out, size_t out_bytes) __attribute__((warn_unused_result));

/* As dd_checksum_bytes has it: canonical form, then 16 zeros. */
void dd_checksum_put(XXH128_hash_t hash, uint8_t out[DD_SHA256_BYTES]);

#endif
