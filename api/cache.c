/* cache: answers that need not be made again.  A dashboard in every tab and a script in a loop ask for the same few
 * things, many times between two changes of the database.
 *
 * An answer is kept with the revision that the daemon had before it was made (struct dd_api_ops: revision), and given
 * again only while the daemon still has that revision: whatever is committed, and known to be by who committed it, is
 * in every later answer.  Of a run that trains, step and speed change without a commit, and so do the daemon's own
 * counters; answers that tell them (the flag DD_ROUTE_LIVE) are given again for LIVE_US at most, which is as often as
 * step events are sent.  Cache-Control: no-cache in a request asks for a new one.
 *
 * Key: the request's target as it came, the chosen media type, whether gzip is taken.  Who asks is no part of it:
 * access is checked before, and no answer of a kept route depends on it.
 *
 * Threads: found on the HTTP thread, put from there and from request threads; `lock` guards the table and is a leaf. An
 * answer itself never changes; it goes when its last user does (`uses`), be that a response that is still being sent.
 */
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"

#define ENTRIES 128
#define MOST_BYTES ((size_t)4 << 20)        /* of all bodies */
#define MOST_BODY_BYTES ((size_t)512 << 10) /* of one */
#define MOST_KEY_BYTES 512
#define LIVE_US 250000

struct entry {
    size_t key_len; /* 0: free */
    char key[MOST_KEY_BYTES];
    uint64_t hash;
    struct dd_stamp stamp;
    struct dd_kept *kept;
    uint64_t used; /* the table's clock when it was last found or put */
};

struct dd_cache {
    pthread_mutex_t lock;
    uint64_t clock;
    size_t bytes;
    struct entry entries[ENTRIES];
};

/* --- answers ------------------------------------------------------------------------------------------------------ */

struct dd_kept *dd_kept_new(char *body, size_t len, const char *media, char *link) {
    struct dd_kept *kept = dd_calloc(1, sizeof *kept);
    if (kept == NULL) {
        free(body);
        free(link);
        return NULL;
    }
    kept->uses = 1;
    kept->body = body;
    kept->len = len;
    kept->media = media;
    kept->link = link;
    return kept;
}

struct dd_kept *dd_kept_ref(struct dd_kept *kept) {
    kept->uses++;
    return kept;
}

void dd_kept_unref(struct dd_kept *kept) {
    if (kept != NULL && --kept->uses == 0) {
        if (kept->again != NULL) {
            MHD_destroy_response(kept->again);
        }
        free(kept->body);
        free(kept->link);
        free(kept);
    }
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

struct dd_cache *dd_cache_new(void) {
    struct dd_cache *cache = dd_calloc(1, sizeof *cache);
    if (cache != NULL) {
        pthread_mutex_init(&cache->lock, NULL);
    }
    return cache;
}

static void drop(struct dd_cache *cache, struct entry *entry) {
    if (entry->key_len > 0) {
        cache->bytes -= entry->kept->len;
        dd_kept_unref(entry->kept);
        entry->kept = NULL;
        entry->key_len = 0;
        entry->used = 0;
    }
}

void dd_cache_free(struct dd_cache *cache) {
    for (size_t i = 0; cache != NULL && i < ENTRIES; i++) {
        drop(cache, &cache->entries[i]);
    }
    if (cache != NULL) {
        pthread_mutex_destroy(&cache->lock);
    }
    free(cache);
}

void dd_cache_stamp(struct dd_request *request) {
    const struct dd_api_ops *ops = &request->api->ops;
    unsigned flags = request->route->flags;
    request->stamp = (struct dd_stamp){.known = false};
    if (request->route->method == DD_GET && (flags & (DD_ROUTE_KEPT | DD_ROUTE_LIVE)) != 0 && ops->revision != NULL) {
        request->stamp.known = true;
        request->stamp.revision = ops->revision(ops->daemon);
        request->stamp.tick = flags & DD_ROUTE_LIVE ? dd_clock_mono_us() / LIVE_US : 0;
    }
}

static const char *media_of(const struct dd_request *request) {
    return request->accept != NULL ? request->accept : "";
}

/* Revisions and ticks only grow. */
static bool as_new(const struct dd_stamp *answer, const struct dd_stamp *request) {
    return answer->known && request->known && answer->revision >= request->revision && answer->tick >= request->tick;
}

bool dd_cache_will_do(const struct dd_request *running, const struct dd_request *request) {
    return as_new(&running->stamp, &request->stamp) && !request->headers.no_cache &&
           running->wants_gzip == request->wants_gzip && strcmp(running->uri, request->uri) == 0 &&
           strcmp(media_of(running), media_of(request)) == 0;
}

/* target, media type and coding, NUL between them; 0: too long to keep. */
static size_t make_key(const struct dd_request *request, char key[MOST_KEY_BYTES], uint64_t *ret_hash) {
    size_t target = strlen(request->uri) + 1, media = strlen(media_of(request)) + 1;
    size_t len = target + media + 1;
    if (len > MOST_KEY_BYTES) {
        return 0;
    }
    memcpy(key, request->uri, target);
    memcpy(key + target, media_of(request), media);
    key[len - 1] = request->wants_gzip ? 'z' : '-';
    uint64_t hash = 14695981039346656037u; /* FNV-1a; a collision costs a comparison */
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ (unsigned char)key[i]) * 1099511628211u;
    }
    *ret_hash = hash;
    return len;
}

/* With the lock held. */
static struct entry *find(struct dd_cache *cache, const char *key, size_t len, uint64_t hash) {
    for (size_t i = 0; i < ENTRIES; i++) {
        struct entry *entry = &cache->entries[i];
        if (entry->key_len == len && entry->hash == hash && memcmp(entry->key, key, len) == 0) {
            return entry;
        }
    }
    return NULL;
}

struct dd_kept *dd_cache_find(struct dd_cache *cache, const struct dd_request *request) {
    char key[MOST_KEY_BYTES];
    uint64_t hash;
    size_t len = request->stamp.known && !request->headers.no_cache ? make_key(request, key, &hash) : 0;
    struct dd_kept *found = NULL;
    if (len == 0) {
        return NULL;
    }
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = find(cache, key, len, hash);
    if (entry != NULL && as_new(&entry->stamp, &request->stamp)) {
        entry->used = ++cache->clock;
        found = dd_kept_ref(entry->kept);
    }
    pthread_mutex_unlock(&cache->lock);
    return found;
}

/* The entry not used for longest: a free one, where there is one (those have never been used). */
static struct entry *oldest(struct dd_cache *cache) {
    struct entry *found = &cache->entries[0];
    for (size_t i = 1; i < ENTRIES; i++) {
        found = cache->entries[i].used < found->used ? &cache->entries[i] : found;
    }
    return found;
}

/* The used entry not used for longest; NULL: there is none. */
static struct entry *oldest_used(struct dd_cache *cache) {
    struct entry *found = NULL;
    for (size_t i = 0; i < ENTRIES; i++) {
        struct entry *entry = &cache->entries[i];
        found = entry->key_len > 0 && (found == NULL || entry->used < found->used) ? entry : found;
    }
    return found;
}

void dd_cache_put(struct dd_cache *cache, const struct dd_request *request, struct dd_kept *kept) {
    char key[MOST_KEY_BYTES];
    uint64_t hash;
    size_t len = request->stamp.known && kept->len <= MOST_BODY_BYTES ? make_key(request, key, &hash) : 0;
    if (len == 0) {
        return; /* it is made again then */
    }
    pthread_mutex_lock(&cache->lock);
    struct entry *first, *place = find(cache, key, len, hash);
    if (place != NULL) {
        drop(cache, place);
    }
    place = oldest(cache);
    drop(cache, place);
    while (cache->bytes + kept->len > MOST_BYTES && (first = oldest_used(cache)) != NULL) {
        drop(cache, first);
    }
    memcpy(place->key, key, len);
    place->key_len = len;
    place->hash = hash;
    place->stamp = request->stamp;
    place->kept = dd_kept_ref(kept);
    place->used = ++cache->clock;
    cache->bytes += kept->len;
    pthread_mutex_unlock(&cache->lock);
}
