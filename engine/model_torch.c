/* model_torch: the two kinds of file that torch.save writes.
 *
 * zip (since PyTorch 1.6): entries "<name>/data.pkl" (the pickle), "<name>/data/<key>" (a storage's bytes, stored),
 *   "<name>/byteorder" ("little"), "<name>/version".
 * legacy: five pickles behind one another: the magic number 0x1950a86a20f9469cfc6c, the protocol 1001, a dict about
 *   the system, the object, the list of storage keys; then for each key in order: elements i64, the elements' bytes.
 *
 * Source: torch/serialization.py.  Threads: no state.
 */
#include "engine/pickle.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PICKLE_BYTES ((size_t)256 << 20)
#define LEGACY_PROTOCOL 1001

/* --- the zip form ------------------------------------------------------------------------------------------------- */

bool dd_torch_is_zip(const uint8_t *bytes, size_t len) {
    return len >= 4 && memcmp(bytes, "PK\3\4", 4) == 0;
}

struct archive {
    struct dd_zip zip;
    const char *prefix; /* of its entries: "<name>/"; in the mapping */
    size_t prefix_bytes;
};

/* The entry "<name>/<folder><file>". */
static const struct dd_zip_entry *find_member(const struct archive *archive, const char *folder, const char *file,
                                              size_t file_bytes) {
    char name[512];
    int length = snprintf(name, sizeof name, "%.*s%s%.*s", (int)archive->prefix_bytes, archive->prefix, folder,
                          (int)DD_MIN(file_bytes, sizeof name), file);
    return length < 0 || (size_t)length >= sizeof name ? NULL : dd_zip_find(&archive->zip, name, (size_t)length);
}

static bool find_in_archive(const void *context, const char *key, size_t key_bytes, struct dd_storage *ret_storage) {
    const struct dd_zip_entry *entry = find_member(context, "data/", key, key_bytes);
    if (entry != NULL) {
        *ret_storage = entry->storage;
    }
    return entry != NULL;
}

/* Finds data.pkl and its folder; NULL without. */
static const struct dd_storage *find_pickle(struct archive *archive) {
    static const char file[] = "/data.pkl";
    size_t file_bytes = sizeof file - 1;
    for (size_t i = 0; i < archive->zip.count; i++) {
        const struct dd_zip_entry *entry = &archive->zip.entries[i];
        if (entry->name_bytes >= file_bytes && entry->name_bytes < 400 &&
            memcmp(entry->name + entry->name_bytes - file_bytes, file, file_bytes) == 0 &&
            memchr(entry->name, '/', entry->name_bytes - file_bytes) == NULL) {
            archive->prefix = entry->name;
            archive->prefix_bytes = entry->name_bytes - file_bytes + 1;
            return &entry->storage;
        }
    }
    return NULL;
}

static enum dd_status check_members(const struct archive *archive, struct dd_error *err) {
    const struct dd_zip_entry *order = find_member(archive, "byteorder", "", 0);
    if (find_member(archive, "constants.pkl", "", 0) != NULL) {
        return dd_fail(err, DD_UNSUPPORTED, "torchscript",
                       "the file is a TorchScript program; save the model with torch.save or save_pretrained");
    }
    if (order != NULL && !order->storage.deflated &&
        (order->storage.size_bytes != 6 || memcmp(order->storage.bytes, "little", 6) != 0)) {
        return dd_fail(err, DD_UNSUPPORTED, "big_endian", "the file was written on a big-endian machine");
    }
    return DD_OK;
}

static enum dd_status read_archive(const struct archive *archive, const struct dd_storage *storage,
                                   struct dd_weights *weights, struct dd_error *err) {
    struct dd_torch_source source = {archive, find_in_archive};
    struct dd_pickle pickle = {0};
    DD_CLEANUP(dd_free_ptr) uint8_t *owned = NULL;
    const uint8_t *bytes = NULL;
    if (storage->size_bytes > MAX_PICKLE_BYTES) {
        return dd_fail(err, DD_TOO_LARGE, "pickle_too_large", "its data.pkl has more than %zu bytes", MAX_PICKLE_BYTES);
    }
    enum dd_status status = dd_storage_bytes(storage, &bytes, &owned, err);
    if (status == DD_OK) {
        status = dd_pickle_parse(bytes, storage->size_bytes, &pickle, err);
    }
    if (status == DD_OK) {
        status = dd_torch_collect(&pickle, &source, weights, err);
    }
    dd_pickle_release(&pickle);
    return status;
}

enum dd_status dd_torch_zip_read(const uint8_t *bytes, size_t len, struct dd_weights *weights, struct dd_error *err) {
    struct archive archive = {0};
    enum dd_status status = dd_zip_open(bytes, len, &archive.zip, err);
    if (status != DD_OK) {
        return status;
    }
    const struct dd_storage *pickle = find_pickle(&archive);
    if (pickle == NULL) {
        status = dd_fail(err, DD_UNSUPPORTED, "zip_no_pickle",
                         "the zip archive has no data.pkl: it was not written by torch.save");
    } else {
        status = check_members(&archive, err);
    }
    for (size_t i = 0; i < archive.zip.count; i++) {
        weights->data_bytes += archive.zip.entries[i].storage.size_bytes;
    }
    if (status == DD_OK) {
        status = read_archive(&archive, pickle, weights, err);
    }
    dd_zip_release(&archive.zip);
    return status;
}

/* --- the legacy form ---------------------------------------------------------------------------------------------- */

/* A storage of the file: what the object's pickle says of it, then where its bytes are. */
struct legacy_storage {
    const char *key; /* in the mapping; not terminated */
    size_t key_bytes;
    size_t element_bytes;
    const uint8_t *bytes; /* NULL until found */
    size_t size_bytes;
};
struct legacy {
    struct legacy_storage *storages; /* sorted by key, each once */
    size_t count;
};

static int compare_storages(const void *a, const void *b) {
    const struct legacy_storage *left = a, *right = b;
    int order = memcmp(left->key, right->key, DD_MIN(left->key_bytes, right->key_bytes));
    return order != 0 ? order : (left->key_bytes > right->key_bytes) - (left->key_bytes < right->key_bytes);
}

static struct legacy_storage *find_key(const struct legacy *legacy, const char *key, size_t key_bytes) {
    struct legacy_storage wanted = {.key = key, .key_bytes = key_bytes};
    return legacy->count == 0 ? NULL
                              : bsearch(&wanted, legacy->storages, legacy->count, sizeof wanted, compare_storages);
}

static bool find_in_legacy(const void *context, const char *key, size_t key_bytes, struct dd_storage *ret_storage) {
    const struct legacy_storage *found = find_key(context, key, key_bytes);
    if (found == NULL || found->bytes == NULL) {
        return false;
    }
    *ret_storage =
        (struct dd_storage){.bytes = found->bytes, .stored_bytes = found->size_bytes, .size_bytes = found->size_bytes};
    return true;
}

/* The storages that the object's pickle names. */
static enum dd_status list_storages(const struct dd_pickle *object, struct legacy *legacy, struct dd_error *err) {
    size_t count = 0;
    for (uint32_t i = 0; i < object->count; i++) {
        count += object->nodes[i].kind == DD_PICKLE_STORAGE;
    }
    legacy->storages = dd_calloc(count + 1, sizeof *legacy->storages);
    if (legacy->storages == NULL) {
        return dd_fail_memory(err, count * sizeof *legacy->storages);
    }
    for (uint32_t i = 0; i < object->count; i++) {
        const struct dd_pickle_node *node = &object->nodes[i];
        if (node->kind == DD_PICKLE_STORAGE) {
            const struct dd_pickle_node *key = dd_pickle_node(object, node->storage.key);
            legacy->storages[legacy->count++] = (struct legacy_storage){
                .key = key->text.bytes, .key_bytes = key->text.count, .element_bytes = node->storage.element_bytes};
        }
    }
    qsort(legacy->storages, legacy->count, sizeof *legacy->storages, compare_storages);
    size_t kept = 0;
    for (size_t i = 0; i < legacy->count; i++) {
        if (kept > 0 && compare_storages(&legacy->storages[kept - 1], &legacy->storages[i]) == 0) {
            if (legacy->storages[kept - 1].element_bytes != legacy->storages[i].element_bytes) {
                return dd_pickle_fail(err, "a storage has two types");
            }
            continue;
        }
        legacy->storages[kept++] = legacy->storages[i];
    }
    legacy->count = kept;
    return DD_OK;
}

/* The data behind the pickles, in the order of the list of keys. */
static enum dd_status locate_storages(const struct legacy *legacy, const struct dd_pickle *keys, const uint8_t *at,
                                      const uint8_t *end, struct dd_error *err) {
    const struct dd_pickle_node *list = dd_pickle_node(keys, keys->root);
    if (list->kind != DD_PICKLE_LIST) {
        return dd_pickle_fail(err, "its list of storages is missing");
    }
    for (uint32_t i = 0; i < list->list.count; i++) {
        const struct dd_pickle_node *key = dd_pickle_node(keys, list->list.items[i]);
        struct legacy_storage *storage =
            key->kind == DD_PICKLE_STRING ? find_key(legacy, key->text.bytes, key->text.count) : NULL;
        uint64_t elements = 0;
        size_t bytes = 0;
        if (storage == NULL || storage->bytes != NULL) {
            return dd_pickle_fail(err, "its list of storages does not agree with its tensors");
        }
        if (end - at < 8) {
            return dd_pickle_fail(err, "its data is cut off");
        }
        memcpy(&elements, at, sizeof elements);
        at += sizeof elements;
        if (!dd_size_mul((size_t)elements, storage->element_bytes, &bytes) || bytes > (size_t)(end - at)) {
            return dd_pickle_fail(err, "its data is cut off");
        }
        storage->bytes = at;
        storage->size_bytes = bytes;
        at += bytes;
    }
    return DD_OK;
}

/* The three pickles before the object: magic number, protocol, system. */
static enum dd_status check_legacy_head(const struct dd_pickle *magic, const struct dd_pickle *protocol,
                                        const struct dd_pickle *system, struct dd_error *err) {
    static const uint8_t number[10] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    const struct dd_pickle_node *node = dd_pickle_node(magic, magic->root);
    if (node->kind != DD_PICKLE_BYTES || node->text.count != sizeof number ||
        memcmp(node->text.bytes, number, sizeof number) != 0) {
        return dd_fail(err, DD_UNSUPPORTED, "pickle_foreign", "the file is a pickle, but not one of torch.save");
    }
    node = dd_pickle_node(protocol, protocol->root);
    if (node->kind != DD_PICKLE_INT || node->integer != LEGACY_PROTOCOL) {
        return dd_fail(err, DD_UNSUPPORTED, "pickle_protocol",
                       "the file has an unknown version of torch.save's format");
    }
    node = dd_pickle_node(system, dd_pickle_get(system, system->root, "little_endian"));
    if (node->kind != DD_PICKLE_BOOL || node->integer == 0) {
        return dd_fail(err, DD_UNSUPPORTED, "big_endian", "the file was written on a big-endian machine");
    }
    return DD_OK;
}

enum dd_status dd_torch_legacy_read(const uint8_t *bytes, size_t len, struct dd_weights *weights,
                                    struct dd_error *err) {
    enum { MAGIC, PROTOCOL, SYSTEM, OBJECT, KEYS, N_PICKLES };
    struct dd_pickle pickles[N_PICKLES] = {0};
    struct legacy legacy = {0};
    struct dd_torch_source source = {&legacy, find_in_legacy};
    enum dd_status status = DD_OK;
    size_t at = 0;
    for (int i = 0; i < N_PICKLES && status == DD_OK; i++) {
        size_t rest = len - at;
        status =
            dd_pickle_parse(bytes + at, i == OBJECT || i == KEYS ? rest : DD_MIN(rest, (size_t)4096), &pickles[i], err);
        at += pickles[i].used_bytes;
        if (status == DD_OK && i == SYSTEM) {
            status = check_legacy_head(&pickles[MAGIC], &pickles[PROTOCOL], &pickles[SYSTEM], err);
        }
    }
    if (status == DD_OK) {
        status = list_storages(&pickles[OBJECT], &legacy, err);
    }
    if (status == DD_OK) {
        status = locate_storages(&legacy, &pickles[KEYS], bytes + at, bytes + len, err);
    }
    if (status == DD_OK) {
        weights->data_bytes += len - at;
        status = dd_torch_collect(&pickles[OBJECT], &source, weights, err);
    }
    free(legacy.storages);
    for (int i = 0; i < N_PICKLES; i++) {
        dd_pickle_release(&pickles[i]);
    }
    return status;
}
