/* model_walk: from an unpickled object to named tensors.
 *
 * The object is a state dict (a dict of tensors), a checkpoint (a dict that holds one under a usual key), or a module
 * with _parameters, _buffers, _modules in its state, which is walked as torch.nn.Module.state_dict does.  A
 * configuration among a module's attributes becomes weights->config.
 *
 * Objects may share parts or contain themselves, so the walk has a budget: depth, modules and items looked at are
 * bounded.  Threads: no state.
 */
#include "engine/pickle.h"

#include <math.h>
#include <string.h>

#define MAX_MODULE_DEPTH 64
#define MAX_MODULES 16384
#define MAX_ITEMS_SEEN (1u << 24)
#define MAX_CONFIG_DEPTH 3
#define MAX_CONFIG_ITEMS 8192

struct walk {
    const struct dd_pickle *pickle;
    const struct dd_torch_source *source;
    struct dd_weights *weights;
    char name[DD_WEIGHT_NAME_BYTES + 1];
    uint32_t modules, items; /* looked at */
    uint32_t config_items;
    struct dd_error *err;
};

/* Counts a module with that many items against the budget. */
static enum dd_status spend(struct walk *walk, uint32_t modules, uint32_t items, int depth) {
    walk->modules += modules;
    walk->items += DD_MIN(items, MAX_ITEMS_SEEN);
    if (depth > MAX_MODULE_DEPTH || walk->modules > MAX_MODULES || walk->items > MAX_ITEMS_SEEN) {
        return dd_fail(walk->err, DD_TOO_LARGE, "pickle_too_large", "its modules are nested too deeply or too many");
    }
    return DD_OK;
}

static enum dd_status find_storage(struct walk *walk, const struct dd_pickle_node *storage,
                                   struct dd_storage *ret_storage) {
    const struct dd_pickle_node *key = dd_pickle_node(walk->pickle, storage->storage.key);
    size_t needed;
    if (!dd_size_mul((size_t)storage->storage.elements, storage->storage.element_bytes, &needed)) {
        return dd_pickle_fail(walk->err, "a storage's size overflows");
    }
    if (!walk->source->find(walk->source->context, key->text.bytes, key->text.count, ret_storage)) {
        return dd_pickle_fail(walk->err, "a storage is missing from the file");
    }
    return needed <= ret_storage->size_bytes ? DD_OK : dd_pickle_fail(walk->err, "a storage is shorter than it says");
}

/* --- the walk ----------------------------------------------------------------------------------------------------- */

static bool int_items(const struct walk *walk, uint32_t tuple, int *ret_count, size_t *out) {
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, tuple);
    if (node->list.count > DD_WEIGHT_RANK) {
        return false;
    }
    for (uint32_t i = 0; i < node->list.count; i++) {
        const struct dd_pickle_node *item = dd_pickle_node(walk->pickle, node->list.items[i]);
        if (item->kind != DD_PICKLE_INT || item->integer < 0) {
            return false;
        }
        out[i] = (size_t)item->integer;
    }
    *ret_count = (int)node->list.count;
    return true;
}

static enum dd_status add_tensor(struct walk *walk, const struct dd_pickle_node *node, size_t name_bytes) {
    const struct dd_pickle_node *storage = dd_pickle_node(walk->pickle, node->tensor.storage);
    struct dd_weight weight = {.dtype = (enum dd_dtype)node->tensor.dtype, .offset = (size_t)node->tensor.offset};
    int n_strides = 0;
    if (!int_items(walk, node->tensor.shape, &weight.rank, weight.shape) ||
        !int_items(walk, node->tensor.stride, &n_strides, weight.stride) || n_strides != weight.rank) {
        return dd_fail(walk->err, DD_CORRUPT, "pickle_corrupt",
                       "tensor %.200s has a shape or strides that are not 0 to 8 whole numbers", walk->name);
    }
    enum dd_status status = find_storage(walk, storage, &weight.storage);
    if (status == DD_OK && storage->storage.is_view &&
        !dd_size_add(weight.offset, storage->storage.view_offset, &weight.offset)) {
        status = dd_pickle_fail(walk->err, "a storage's view lies outside it");
    }
    return status == DD_OK ? dd_weights_add(walk->weights, walk->name, name_bytes, &weight, walk->err) : status;
}

/* Writes the text of key (a STRING) and `end` at the end of walk->name; false when it is too long or no text. */
static bool extend_name(struct walk *walk, size_t at, uint32_t key, const char *end, size_t *ret_bytes) {
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, key);
    size_t end_bytes = strlen(end);
    if (node->kind != DD_PICKLE_STRING || node->text.count > DD_WEIGHT_NAME_BYTES - at - end_bytes) {
        return false;
    }
    memcpy(walk->name + at, node->text.bytes, node->text.count);
    memcpy(walk->name + at + node->text.count, end, end_bytes + 1);
    *ret_bytes = at + node->text.count + end_bytes;
    return true;
}

/* The tensors among a dict's values; what is no tensor is passed over. */
static enum dd_status add_tensors(struct walk *walk, uint32_t dict, size_t at) {
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, dd_pickle_dict(walk->pickle, dict));
    enum dd_status status = node->kind == DD_PICKLE_DICT ? spend(walk, 0, node->list.count, 0) : DD_OK;
    for (uint32_t i = 0; node->kind == DD_PICKLE_DICT && i + 1 < node->list.count && status == DD_OK; i += 2) {
        const struct dd_pickle_node *value = dd_pickle_node(walk->pickle, node->list.items[i + 1]);
        size_t bytes = 0;
        if (value->kind != DD_PICKLE_TENSOR) {
            continue;
        }
        status = extend_name(walk, at, node->list.items[i], "", &bytes)
                     ? add_tensor(walk, value, bytes)
                     : dd_pickle_fail(walk->err, "a tensor's name is no text, or too long");
    }
    return status;
}

static enum dd_status walk_module(struct walk *walk, uint32_t module, size_t at, int depth) {
    uint32_t attributes = dd_pickle_attributes(walk->pickle, module);
    uint32_t children = dd_pickle_dict(walk->pickle, dd_pickle_get(walk->pickle, attributes, "_modules"));
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, children);
    uint32_t n_items = node->kind == DD_PICKLE_DICT ? node->list.count : 0;
    enum dd_status status = spend(walk, 1, n_items, depth);
    if (status == DD_OK) {
        status = add_tensors(walk, dd_pickle_get(walk->pickle, attributes, "_parameters"), at);
    }
    if (status == DD_OK) {
        status = add_tensors(walk, dd_pickle_get(walk->pickle, attributes, "_buffers"), at);
    }
    for (uint32_t i = 0; i + 1 < n_items && status == DD_OK; i += 2) {
        size_t bytes = 0;
        if (dd_pickle_node(walk->pickle, node->list.items[i + 1])->kind != DD_PICKLE_OBJECT) {
            continue;
        }
        status = extend_name(walk, at, node->list.items[i], ".", &bytes)
                     ? walk_module(walk, node->list.items[i + 1], bytes, depth + 1)
                     : dd_pickle_fail(walk->err, "a module's name is no text, or too long");
    }
    return status;
}

/* --- a configuration among the attributes ------------------------------------------------------------------------- */

/* Adds value to a JSON array (key ABSENT) or object; what JSON cannot say, or lies too deep, is left out. */
static enum dd_status put_json(struct walk *walk, cJSON *into, uint32_t key, uint32_t value, int depth);

static enum dd_status put_json_items(struct walk *walk, cJSON *into, const struct dd_pickle_node *node, int depth) {
    enum dd_status status = DD_OK;
    uint32_t step = node->kind == DD_PICKLE_DICT ? 2 : 1;
    for (uint32_t i = 0; i + step <= node->list.count && status == DD_OK; i += step) {
        uint32_t key = step == 2 ? node->list.items[i] : DD_PICKLE_ABSENT;
        status = put_json(walk, into, key, node->list.items[i + step - 1], depth);
    }
    return status;
}

/* *ret_json is NULL for what JSON cannot say. */
static enum dd_status scalar_to_json(struct walk *walk, const struct dd_pickle_node *node, cJSON **ret_json) {
    switch (node->kind) {
    case DD_PICKLE_NONE:
        *ret_json = cJSON_CreateNull();
        break;
    case DD_PICKLE_BOOL:
        *ret_json = cJSON_CreateBool(node->integer != 0);
        break;
    case DD_PICKLE_INT:
        *ret_json = cJSON_CreateNumber((double)node->integer);
        break;
    case DD_PICKLE_FLOAT:
        *ret_json = isfinite(node->real) ? cJSON_CreateNumber(node->real) : cJSON_CreateNull();
        break;
    case DD_PICKLE_STRING: {
        DD_CLEANUP(dd_free_ptr) char *text = dd_strndup(node->text.bytes, node->text.count);
        *ret_json = text == NULL ? NULL : cJSON_CreateString(text);
        break;
    }
    default:
        return DD_OK;
    }
    return *ret_json == NULL ? dd_fail_memory(walk->err, sizeof **ret_json) : DD_OK;
}

/* Keys are texts or whole numbers, as in id2label. */
static bool json_key(const struct walk *walk, uint32_t key, char *out, size_t out_bytes) {
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, key);
    if (node->kind == DD_PICKLE_INT) {
        snprintf(out, out_bytes, "%lld", (long long)node->integer);
        return true;
    }
    if (node->kind != DD_PICKLE_STRING || node->text.count >= out_bytes ||
        memchr(node->text.bytes, 0, node->text.count) != NULL) {
        return false;
    }
    memcpy(out, node->text.bytes, node->text.count);
    out[node->text.count] = 0;
    return true;
}

static enum dd_status put_json(struct walk *walk, cJSON *into, uint32_t key, uint32_t value, int depth) {
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, value);
    bool keyed = node->kind == DD_PICKLE_DICT;
    bool nested = keyed || node->kind == DD_PICKLE_LIST || node->kind == DD_PICKLE_TUPLE;
    char name[256];
    cJSON *item = NULL;
    if ((key != DD_PICKLE_ABSENT && !json_key(walk, key, name, sizeof name)) || depth > MAX_CONFIG_DEPTH) {
        return DD_OK;
    }
    if (++walk->config_items > MAX_CONFIG_ITEMS) {
        return dd_fail(walk->err, DD_TOO_LARGE, "pickle_too_large", "its configuration has more than %d items",
                       MAX_CONFIG_ITEMS);
    }
    enum dd_status status = DD_OK;
    if (nested) {
        item = keyed ? cJSON_CreateObject() : cJSON_CreateArray();
        status = item == NULL ? dd_fail_memory(walk->err, sizeof *item) : put_json_items(walk, item, node, depth + 1);
    } else {
        status = scalar_to_json(walk, node, &item);
    }
    if (status == DD_OK && item != NULL &&
        !(key == DD_PICKLE_ABSENT ? cJSON_AddItemToArray(into, item) : cJSON_AddItemToObject(into, name, item))) {
        status = dd_fail_memory(walk->err, sizeof *item);
    }
    if (status != DD_OK) {
        cJSON_Delete(item);
    }
    return status;
}

/* The attributes of index when they are those of a transformer's configuration (an object, or a plain dict). */
static uint32_t config_attributes(const struct walk *walk, uint32_t index) {
    uint32_t attributes = dd_pickle_attributes(walk->pickle, index);
    if (attributes == DD_PICKLE_ABSENT) {
        attributes = dd_pickle_dict(walk->pickle, index);
    }
    return dd_pickle_get(walk->pickle, attributes, "hidden_size") != DD_PICKLE_ABSENT &&
                   dd_pickle_get(walk->pickle, attributes, "num_attention_heads") != DD_PICKLE_ABSENT
               ? attributes
               : DD_PICKLE_ABSENT;
}

/* The first configuration in a module's attributes or, failing that, in those of its submodules. */
static uint32_t find_config(struct walk *walk, uint32_t module, int depth, uint32_t *ret_owner) {
    uint32_t attributes = dd_pickle_attributes(walk->pickle, module);
    if (attributes == DD_PICKLE_ABSENT) {
        attributes = dd_pickle_dict(walk->pickle, module);
    }
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, attributes);
    if (node->kind != DD_PICKLE_DICT || node->list.count > 2 * DD_PICKLE_MAX_ATTRIBUTES ||
        spend(walk, 1, node->list.count, depth) != DD_OK) {
        return DD_PICKLE_ABSENT;
    }
    for (uint32_t i = 0; i + 1 < node->list.count; i += 2) {
        uint32_t found = config_attributes(walk, node->list.items[i + 1]);
        if (found != DD_PICKLE_ABSENT) {
            *ret_owner = node->list.items[i + 1];
            return found;
        }
    }
    node =
        dd_pickle_node(walk->pickle, dd_pickle_dict(walk->pickle, dd_pickle_get(walk->pickle, attributes, "_modules")));
    for (uint32_t i = 0; node->kind == DD_PICKLE_DICT && i + 1 < node->list.count && i < 2 * DD_PICKLE_MAX_ATTRIBUTES;
         i += 2) {
        uint32_t found = find_config(walk, node->list.items[i + 1], depth + 1, ret_owner);
        if (found != DD_PICKLE_ABSENT) {
            return found;
        }
    }
    return DD_PICKLE_ABSENT;
}

/* transformers keeps model_type in the class, not the instance: "transformers.models.bert.configuration_bert" says
 * bert. */
static bool put_model_type(struct walk *walk, cJSON *json, uint32_t owner) {
    static const char package[] = "transformers.models.";
    const struct dd_pickle_node *node = dd_pickle_node(walk->pickle, owner);
    const struct dd_pickle_node *class =
        node->kind == DD_PICKLE_OBJECT ? dd_pickle_node(walk->pickle, node->object.callee) : node;
    if (class->kind != DD_PICKLE_GLOBAL || cJSON_HasObjectItem(json, "model_type")) {
        return true;
    }
    const struct dd_pickle_node *module = dd_pickle_node(walk->pickle, class->global.module);
    size_t package_bytes = sizeof package - 1;
    if (module->kind != DD_PICKLE_STRING || module->text.count <= package_bytes ||
        memcmp(module->text.bytes, package, package_bytes) != 0) {
        return true;
    }
    const char *type = module->text.bytes + package_bytes;
    size_t rest = module->text.count - package_bytes;
    const char *dot = memchr(type, '.', rest);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)DD_MIN(dot == NULL ? rest : (size_t)(dot - type), sizeof name - 1), type);
    return cJSON_AddStringToObject(json, "model_type", name) != NULL;
}

static enum dd_status take_config(struct walk *walk, uint32_t root) {
    uint32_t owner = DD_PICKLE_ABSENT;
    struct dd_error *err = walk->err;
    walk->modules = walk->items = 0;
    walk->err = NULL; /* a search that ends early has found nothing; that is no error */
    uint32_t attributes = find_config(walk, root, 0, &owner);
    walk->err = err;
    if (attributes == DD_PICKLE_ABSENT) {
        return DD_OK;
    }
    cJSON *json = cJSON_CreateObject();
    enum dd_status status = json == NULL ? dd_fail_memory(err, sizeof *json)
                                         : put_json_items(walk, json, dd_pickle_node(walk->pickle, attributes), 0);
    if (status == DD_OK && !put_model_type(walk, json, owner)) {
        status = dd_fail_memory(err, sizeof *json);
    }
    if (status != DD_OK) {
        cJSON_Delete(json);
        return status;
    }
    cJSON_Delete(walk->weights->config);
    walk->weights->config = json;
    return DD_OK;
}

/* --- the object --------------------------------------------------------------------------------------------------- */

static bool has_tensor(const struct dd_pickle *pickle, uint32_t index) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, dd_pickle_dict(pickle, index));
    for (uint32_t i = 0; node->kind == DD_PICKLE_DICT && i + 1 < node->list.count; i += 2) {
        if (dd_pickle_node(pickle, node->list.items[i + 1])->kind == DD_PICKLE_TENSOR) {
            return true;
        }
    }
    return false;
}

static bool is_module(const struct dd_pickle *pickle, uint32_t index) {
    return dd_pickle_get(pickle, dd_pickle_attributes(pickle, index), "_modules") != DD_PICKLE_ABSENT;
}

enum dd_status dd_torch_collect(const struct dd_pickle *pickle, const struct dd_torch_source *source,
                                struct dd_weights *weights, struct dd_error *err) {
    static const char *const keys[] = {"state_dict", "model_state_dict", "model", "net", "module"};
    struct walk walk = {.pickle = pickle, .source = source, .weights = weights, .err = err};
    uint32_t object = pickle->root;
    for (size_t i = 0; i < DD_ARRAY_LEN(keys) && !is_module(pickle, object) && !has_tensor(pickle, object); i++) {
        uint32_t inner = dd_pickle_get(pickle, pickle->root, keys[i]);
        if (is_module(pickle, inner) || has_tensor(pickle, inner)) {
            object = inner;
        }
    }
    enum dd_status status;
    if (is_module(pickle, object)) {
        snprintf(weights->format, sizeof weights->format, "pickled_module");
        status = walk_module(&walk, object, 0, 0);
    } else if (has_tensor(pickle, object)) {
        status = add_tensors(&walk, object, 0);
    } else {
        return dd_fail(err, DD_UNSUPPORTED, "pickle_no_model", "the pickle holds neither a state dict nor a module");
    }
    if (status == DD_OK) {
        status = take_config(&walk, object);
    }
    return status == DD_OK && weights->config == NULL && object != pickle->root ? take_config(&walk, pickle->root)
                                                                                : status;
}
