/* pickle_torch: the few calls by which torch.save describes tensors, given meaning as data; and how to look at a
 * pickle's result.
 *
 *   torch._utils._rebuild_tensor(storage, offset, size, stride)               TENSOR
 *   torch._utils._rebuild_tensor_v2(…, requires_grad, hooks[, metadata])      TENSOR
 *   torch._utils._rebuild_tensor_v3(…, requires_grad, hooks, dtype, …)        TENSOR of that dtype
 *   torch._utils._rebuild_parameter(tensor, …), …_with_state(tensor, …)       the tensor
 *   torch._tensor._rebuild_from_type_v2(function, type, args, state)          function(*args), one of the above
 *   collections.OrderedDict([pairs]), collections.defaultdict(…), dict()      DICT
 *   torch.Size(tuple), set(list), list(list) …                                their argument
 *   copyreg._reconstructor(class, …)                                          OBJECT of the class
 *   ("storage", class, key, location, elements[, view])  as persistent id     STORAGE
 *   ("module", class, file, source)                      as persistent id     the class
 *
 * All else is an OBJECT.  Source: torch/_utils.py, torch/serialization.py.  Threads: no state.
 */
#include "engine/pickle.h"

#include <string.h>

/* --- looking ------------------------------------------------------------------------------------------------------ */

const struct dd_pickle_node *dd_pickle_node(const struct dd_pickle *pickle, uint32_t index) {
    static const struct dd_pickle_node none = {.kind = DD_PICKLE_NONE};
    return index < pickle->count ? &pickle->nodes[index] : &none;
}

bool dd_pickle_text_is(const struct dd_pickle *pickle, uint32_t index, const char *text) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, index);
    return node->kind == DD_PICKLE_STRING && node->text.count == strlen(text) &&
           memcmp(node->text.bytes, text, node->text.count) == 0;
}

bool dd_pickle_global_is(const struct dd_pickle *pickle, uint32_t index, const char *module, const char *name) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, index);
    return node->kind == DD_PICKLE_GLOBAL && dd_pickle_text_is(pickle, node->global.module, module) &&
           dd_pickle_text_is(pickle, node->global.name, name);
}

uint32_t dd_pickle_dict(const struct dd_pickle *pickle, uint32_t index) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, index);
    if (node->kind == DD_PICKLE_OBJECT) {
        return node->object.dict;
    }
    return node->kind == DD_PICKLE_DICT ? index : DD_PICKLE_ABSENT;
}

uint32_t dd_pickle_get(const struct dd_pickle *pickle, uint32_t dict, const char *key) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, dd_pickle_dict(pickle, dict));
    if (node->kind != DD_PICKLE_DICT || node->list.count > 2 * DD_PICKLE_MAX_ATTRIBUTES) {
        return DD_PICKLE_ABSENT;
    }
    for (uint32_t i = node->list.count; i >= 2; i -= 2) {
        if (dd_pickle_text_is(pickle, node->list.items[i - 2], key)) {
            return node->list.items[i - 1];
        }
    }
    return DD_PICKLE_ABSENT;
}

uint32_t dd_pickle_attributes(const struct dd_pickle *pickle, uint32_t index) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, index);
    if (node->kind != DD_PICKLE_OBJECT) {
        return DD_PICKLE_ABSENT;
    }
    const struct dd_pickle_node *state = dd_pickle_node(pickle, node->object.state);
    if (state->kind == DD_PICKLE_TUPLE && state->list.count == 2) {
        return dd_pickle_dict(pickle, state->list.items[0]);
    }
    return dd_pickle_dict(pickle, node->object.state);
}

/* --- arguments ---------------------------------------------------------------------------------------------------- */

static uint32_t argument(const struct dd_pickle *pickle, uint32_t tuple, uint32_t at) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, tuple);
    return node->kind == DD_PICKLE_TUPLE && at < node->list.count ? node->list.items[at] : DD_PICKLE_ABSENT;
}

static bool size_argument(const struct dd_pickle *pickle, uint32_t tuple, uint32_t at, uint64_t *ret_value) {
    const struct dd_pickle_node *node = dd_pickle_node(pickle, argument(pickle, tuple, at));
    if (node->kind != DD_PICKLE_INT || node->integer < 0) {
        return false;
    }
    *ret_value = (uint64_t)node->integer;
    return true;
}

static enum dd_status object(struct dd_pickle *pickle, uint32_t callee, uint32_t args, uint32_t *ret_index,
                             struct dd_error *err) {
    struct dd_pickle_node node = {
        .kind = DD_PICKLE_OBJECT,
        .object = {callee, args, DD_PICKLE_ABSENT, DD_PICKLE_ABSENT, DD_PICKLE_ABSENT},
    };
    return dd_pickle_add(pickle, &node, ret_index, err);
}

/* --- storages ----------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint16_t element_bytes;
    enum dd_dtype dtype;
} storage_classes[] = {
    {"FloatStorage", 4, DD_DTYPE_F32},          {"HalfStorage", 2, DD_DTYPE_F16},
    {"BFloat16Storage", 2, DD_DTYPE_BF16},      {"DoubleStorage", 8, DD_DTYPE_F64},
    {"LongStorage", 8, DD_DTYPE_OTHER},         {"IntStorage", 4, DD_DTYPE_OTHER},
    {"ShortStorage", 2, DD_DTYPE_OTHER},        {"CharStorage", 1, DD_DTYPE_OTHER},
    {"ByteStorage", 1, DD_DTYPE_OTHER},         {"BoolStorage", 1, DD_DTYPE_OTHER},
    {"ComplexFloatStorage", 8, DD_DTYPE_OTHER}, {"ComplexDoubleStorage", 16, DD_DTYPE_OTHER},
    {"QInt8Storage", 1, DD_DTYPE_OTHER},        {"QUInt8Storage", 1, DD_DTYPE_OTHER},
    {"QInt32Storage", 4, DD_DTYPE_OTHER},       {"UntypedStorage", 1, DD_DTYPE_OTHER},
};

static const struct {
    const char *name;
    enum dd_dtype dtype;
} dtype_names[] = {
    {"float32", DD_DTYPE_F32},
    {"float16", DD_DTYPE_F16},
    {"bfloat16", DD_DTYPE_BF16},
    {"float64", DD_DTYPE_F64},
};

static enum dd_status storage(struct dd_pickle *pickle, uint32_t id, uint32_t *ret_index, struct dd_error *err) {
    const struct dd_pickle_node *class = dd_pickle_node(pickle, argument(pickle, id, 1));
    struct dd_pickle_node node = {.kind = DD_PICKLE_STORAGE, .storage = {.key = argument(pickle, id, 2)}};
    size_t at = 0;
    while (
        at < DD_ARRAY_LEN(storage_classes) &&
        (class->kind != DD_PICKLE_GLOBAL || !dd_pickle_text_is(pickle, class->global.name, storage_classes[at].name))) {
        at++;
    }
    if (at == DD_ARRAY_LEN(storage_classes)) {
        return dd_fail(err, DD_UNSUPPORTED, "pickle_storage", "the pickle has a tensor storage of an unknown class");
    }
    if (dd_pickle_node(pickle, node.storage.key)->kind != DD_PICKLE_STRING ||
        !size_argument(pickle, id, 4, &node.storage.elements)) {
        return dd_pickle_fail(err, "a storage lacks its key or size");
    }
    node.storage.element_bytes = storage_classes[at].element_bytes;
    node.storage.dtype = (uint16_t)storage_classes[at].dtype;
    uint32_t view = argument(pickle, id, 5);
    if (dd_pickle_node(pickle, view)->kind == DD_PICKLE_TUPLE) {
        uint64_t view_elements = 0;
        if (!size_argument(pickle, view, 1, &node.storage.view_offset) ||
            !size_argument(pickle, view, 2, &view_elements)) {
            return dd_pickle_fail(err, "a storage's view lacks its offset or size");
        }
        node.storage.is_view = true;
    }
    return dd_pickle_add(pickle, &node, ret_index, err);
}

enum dd_status dd_pickle_persistent(struct dd_pickle *pickle, uint32_t id, uint32_t *ret_index, struct dd_error *err) {
    if (dd_pickle_text_is(pickle, argument(pickle, id, 0), "storage")) {
        return storage(pickle, id, ret_index, err);
    }
    if (dd_pickle_text_is(pickle, argument(pickle, id, 0), "module") && argument(pickle, id, 1) != DD_PICKLE_ABSENT) {
        *ret_index = argument(pickle, id, 1);
        return DD_OK;
    }
    return dd_pickle_fail(err, "it refers to something outside that is no storage");
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

static enum dd_status rebuild_tensor(struct dd_pickle *pickle, uint32_t args, bool has_dtype, uint32_t *ret_index,
                                     struct dd_error *err) {
    const struct dd_pickle_node *from = dd_pickle_node(pickle, argument(pickle, args, 0));
    struct dd_pickle_node node = {
        .kind = DD_PICKLE_TENSOR,
        .tensor = {.storage = argument(pickle, args, 0),
                   .shape = argument(pickle, args, 2),
                   .stride = argument(pickle, args, 3)},
    };
    if (from->kind != DD_PICKLE_STORAGE || !size_argument(pickle, args, 1, &node.tensor.offset) ||
        dd_pickle_node(pickle, node.tensor.shape)->kind != DD_PICKLE_TUPLE ||
        dd_pickle_node(pickle, node.tensor.stride)->kind != DD_PICKLE_TUPLE) {
        return dd_pickle_fail(err, "a tensor lacks its storage, offset, shape or strides");
    }
    node.tensor.dtype = from->storage.dtype;
    for (size_t i = 0; has_dtype && i < DD_ARRAY_LEN(dtype_names); i++) {
        if (dd_pickle_global_is(pickle, argument(pickle, args, 6), "torch", dtype_names[i].name)) {
            node.tensor.dtype = (uint16_t)dtype_names[i].dtype;
        }
    }
    return dd_pickle_add(pickle, &node, ret_index, err);
}

/* _rebuild_parameter: its tensor, or None when that is no tensor we know (a quantized one, say). */
static enum dd_status first_argument(struct dd_pickle *pickle, uint32_t args, uint32_t *ret_index,
                                     struct dd_error *err) {
    *ret_index = argument(pickle, args, 0);
    return *ret_index == DD_PICKLE_ABSENT ? dd_pickle_fail(err, "a call lacks its argument") : DD_OK;
}

/* dict(), OrderedDict(), defaultdict(factory) or, from Python 2, OrderedDict([[key, value], …]). */
static enum dd_status make_dict(struct dd_pickle *pickle, uint32_t args, uint32_t *ret_index, struct dd_error *err) {
    struct dd_pickle_node node = {.kind = DD_PICKLE_DICT};
    enum dd_status status = dd_pickle_add(pickle, &node, ret_index, err);
    uint32_t pairs = argument(pickle, args, 0);
    uint32_t count = dd_pickle_node(pickle, pairs)->kind == DD_PICKLE_LIST ? pickle->nodes[pairs].list.count : 0;
    for (uint32_t i = 0; i < count && status == DD_OK; i++) {
        const struct dd_pickle_node *pair = dd_pickle_node(pickle, pickle->nodes[pairs].list.items[i]);
        if ((pair->kind != DD_PICKLE_LIST && pair->kind != DD_PICKLE_TUPLE) || pair->list.count != 2) {
            return dd_pickle_fail(err, "a dictionary is made of what are no pairs");
        }
        status = dd_pickle_append(pickle, *ret_index, pair->list.items[0], err);
        if (status == DD_OK) {
            status = dd_pickle_append(pickle, *ret_index, pair->list.items[1], err);
        }
    }
    return status;
}

enum meaning { INERT, TENSOR, TENSOR_V3, FROM_TYPE, FIRST, DICT, RECONSTRUCT };
static const struct {
    const char *module, *name;
    enum meaning meaning;
} calls[] = {
    {"torch._utils", "_rebuild_tensor", TENSOR},
    {"torch._utils", "_rebuild_tensor_v2", TENSOR},
    {"torch._utils", "_rebuild_tensor_v3", TENSOR_V3},
    {"torch._utils", "_rebuild_parameter", FIRST},
    {"torch._utils", "_rebuild_parameter_with_state", FIRST},
    {"torch._tensor", "_rebuild_from_type_v2", FROM_TYPE},
    {"torch.tensor", "_rebuild_from_type_v2", FROM_TYPE},
    {"collections", "OrderedDict", DICT},
    {"collections", "defaultdict", DICT},
    {"builtins", "dict", DICT},
    {"__builtin__", "dict", DICT},
    {"torch", "Size", FIRST},
    {"copyreg", "_reconstructor", RECONSTRUCT},
    {"copy_reg", "_reconstructor", RECONSTRUCT},
};

static enum meaning meaning_of(const struct dd_pickle *pickle, uint32_t callee) {
    for (size_t i = 0; i < DD_ARRAY_LEN(calls); i++) {
        if (dd_pickle_global_is(pickle, callee, calls[i].module, calls[i].name)) {
            return calls[i].meaning;
        }
    }
    return INERT;
}

enum dd_status dd_pickle_reduce(struct dd_pickle *pickle, uint32_t callee, uint32_t args, uint32_t *ret_index,
                                struct dd_error *err) {
    enum meaning meaning = meaning_of(pickle, callee);
    if (meaning == FROM_TYPE) {
        callee = argument(pickle, args, 0);
        args = argument(pickle, args, 2);
        meaning = meaning_of(pickle, callee);
        if (meaning == FROM_TYPE || callee == DD_PICKLE_ABSENT || args == DD_PICKLE_ABSENT) {
            return dd_pickle_fail(err, "a tensor's type is wrapped strangely");
        }
    }
    switch (meaning) {
    case TENSOR:
        return rebuild_tensor(pickle, args, false, ret_index, err);
    case TENSOR_V3:
        return rebuild_tensor(pickle, args, true, ret_index, err);
    case FIRST:
        return first_argument(pickle, args, ret_index, err);
    case DICT:
        return make_dict(pickle, args, ret_index, err);
    case RECONSTRUCT:
        return object(pickle, argument(pickle, args, 0), args, ret_index, err);
    case FROM_TYPE:
    case INERT:
        break;
    }
    return object(pickle, callee, args, ret_index, err);
}
