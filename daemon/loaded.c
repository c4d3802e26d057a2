/* Data sets and models in memory, least recently used out first.
 *
 * Invariants: an entry in the list is whole; an entry with users > 0 is never freed; an entry that was forgotten or
 * pushed out is off the list and is freed by its last user.  Threads: any.  cache->lock guards list and counts and is
 * never held while a file is read: two threads that miss at once both load, and the second to finish uses the first's.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define MAX_ENTRIES 16

struct dd_loaded_private {
    int users;
    bool listed;
    uint64_t last_use, bytes;
    pthread_mutex_t predicting; /* guards predictor */
    struct dd_predictor *predictor;
    int predictor_max_length;
};
struct dd_loaded_cache {
    pthread_mutex_t lock;
    struct dd_loaded *entries[MAX_ENTRIES];
    int n_entries;
    uint64_t clock, max_model_bytes;
};

struct dd_loaded_cache *dd_loaded_cache_new(uint64_t max_model_bytes) {
    struct dd_loaded_cache *cache = dd_calloc(1, sizeof *cache);
    if (cache == NULL)
        return NULL;
    pthread_mutex_init(&cache->lock, NULL);
    cache->max_model_bytes = max_model_bytes;
    return cache;
}

static void entry_free(struct dd_loaded *entry) {
    if (entry == NULL)
        return;
    dd_predictor_free(entry->inside->predictor);
    dd_dataset_free(entry->dataset);
    dd_model_free(entry->model);
    pthread_mutex_destroy(&entry->inside->predicting);
    free(entry->inside);
    free(entry);
}

void dd_loaded_cache_free(struct dd_loaded_cache *cache) {
    if (cache == NULL)
        return;
    for (int i = 0; i < cache->n_entries; i++)
        entry_free(cache->entries[i]);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static int find(const struct dd_loaded_cache *cache, enum dd_asset_kind kind, int64_t id) {
    for (int i = 0; i < cache->n_entries; i++)
        if (cache->entries[i]->kind == kind && cache->entries[i]->asset_id == id)
            return i;
    return -1;
}

/* Takes entry i off the list; returns it when it is to be freed now. */
static struct dd_loaded *unlist(struct dd_loaded_cache *cache, int i) {
    struct dd_loaded *entry = cache->entries[i];
    cache->entries[i] = cache->entries[--cache->n_entries];
    entry->inside->listed = false;
    return entry->inside->users == 0 ? entry : NULL;
}

/* The entry that has been idle longest, when the list is full or its idle models are too big; −1 otherwise. */
static int victim(const struct dd_loaded_cache *cache) {
    uint64_t idle_bytes = 0;
    int oldest = -1;
    for (int i = 0; i < cache->n_entries; i++) {
        const struct dd_loaded_private *inside = cache->entries[i]->inside;
        if (inside->users > 0)
            continue;
        idle_bytes += inside->bytes;
        if (oldest < 0 || inside->last_use < cache->entries[oldest]->inside->last_use)
            oldest = i;
    }
    return cache->n_entries >= MAX_ENTRIES || idle_bytes > cache->max_model_bytes ? oldest : -1;
}

static void shrink(struct dd_loaded_cache *cache) {
    for (;;) {
        pthread_mutex_lock(&cache->lock);
        int i = victim(cache);
        struct dd_loaded *gone = i < 0 ? NULL : unlist(cache, i);
        pthread_mutex_unlock(&cache->lock);
        if (i < 0)
            return;
        entry_free(gone);
    }
}

static enum dd_status load(struct dd_daemon *daemon, const struct dd_asset *asset, enum dd_asset_kind kind,
                           struct dd_loaded **ret_entry, struct dd_error *err) {
    char path[PATH_MAX];
    enum dd_status status = dd_asset_path(daemon, asset, path, err);
    if (status != DD_OK)
        return status;
    struct dd_loaded *entry = dd_calloc(1, sizeof *entry);
    struct dd_loaded_private *inside = dd_calloc(1, sizeof *inside);
    if (entry == NULL || inside == NULL) {
        free(entry);
        free(inside);
        return dd_fail_memory(err, sizeof *entry);
    }
    pthread_mutex_init(&inside->predicting, NULL);
    entry->inside = inside;
    entry->asset_id = asset->id;
    entry->kind = kind;
    status = kind == DD_ASSET_DATASET ? dd_dataset_open(path, &entry->dataset, err)
                                      : dd_model_load(path, &entry->model, err);
    if (status != DD_OK) {
        entry_free(entry);
        return dd_error_prefix(err, "%s %s", kind == DD_ASSET_DATASET ? "data set" : "model", asset->name);
    }
    if (entry->model != NULL)
        inside->bytes = dd_model_memory_bytes(entry->model);
    *ret_entry = entry;
    return DD_OK;
}

/* Models have a kind ("encoder", "classifier"), data sets have none. */
static enum dd_asset_kind kind_of(const struct dd_asset *asset) {
    return asset->kind != NULL && asset->kind[0] != '\0' ? DD_ASSET_MODEL : DD_ASSET_DATASET;
}

enum dd_status dd_loaded_get(struct dd_daemon *daemon, const struct dd_asset *asset, struct dd_loaded **ret_loaded,
                             struct dd_error *err) {
    struct dd_loaded_cache *cache = daemon->loaded;
    enum dd_asset_kind kind = kind_of(asset);
    struct dd_loaded *fresh = NULL, *entry = NULL;
    for (int round = 0; entry == NULL; round++) {
        pthread_mutex_lock(&cache->lock);
        int i = find(cache, kind, asset->id);
        if (i >= 0) {
            entry = cache->entries[i];
        } else if (fresh != NULL) {
            entry = fresh;
            fresh = NULL;
            if (cache->n_entries < MAX_ENTRIES) {
                cache->entries[cache->n_entries++] = entry;
                entry->inside->listed = true;
            }
        }
        if (entry != NULL) {
            entry->inside->users++;
            entry->inside->last_use = ++cache->clock;
        }
        pthread_mutex_unlock(&cache->lock);
        if (entry == NULL) {
            shrink(cache);
            enum dd_status status = load(daemon, asset, kind, &fresh, err);
            if (status != DD_OK)
                return status;
        }
    }
    entry_free(fresh);
    *ret_loaded = entry;
    return DD_OK;
}

void dd_loaded_put(struct dd_daemon *daemon, struct dd_loaded *loaded) {
    if (loaded == NULL)
        return;
    struct dd_loaded_cache *cache = daemon->loaded;
    pthread_mutex_lock(&cache->lock);
    bool last = --loaded->inside->users == 0 && !loaded->inside->listed;
    pthread_mutex_unlock(&cache->lock);
    if (last)
        entry_free(loaded);
    shrink(cache);
}

void dd_loaded_forget(struct dd_daemon *daemon, enum dd_asset_kind kind, int64_t asset_id) {
    struct dd_loaded_cache *cache = daemon->loaded;
    pthread_mutex_lock(&cache->lock);
    int i = find(cache, kind, asset_id);
    struct dd_loaded *gone = i < 0 ? NULL : unlist(cache, i);
    pthread_mutex_unlock(&cache->lock);
    entry_free(gone);
}

enum dd_status dd_loaded_predict(struct dd_daemon *daemon, struct dd_loaded *loaded, int max_length,
                                 const struct dd_row *rows, size_t n, const struct dd_cancel *cancel, float *logits,
                                 struct dd_error *err) {
    struct dd_loaded_private *inside = loaded->inside;
    enum dd_status status = DD_OK;
    pthread_mutex_lock(&inside->predicting);
    if (inside->predictor != NULL && inside->predictor_max_length != max_length) {
        dd_predictor_free(inside->predictor);
        inside->predictor = NULL;
    }
    if (inside->predictor == NULL) {
        status = dd_predictor_new(loaded->model, daemon->pool, max_length, &inside->predictor, err);
        inside->predictor_max_length = max_length;
    }
    if (status == DD_OK)
        status = dd_predict(inside->predictor, rows, n, cancel, logits, err);
    pthread_mutex_unlock(&inside->predicting);
    return status;
}
