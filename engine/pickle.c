/* pickle: the stack machine.  See pickle.h for what it refuses to do.
 *
 * Opcodes are those that Python's pickler writes for protocols 2 to 5 (PEP 307, 3154, 574; Lib/pickletools.py); the
 * textual ones of protocol 0 and out-of-band buffers are refused.
 * Threads: no state beyond the arguments.
 */
#include "engine/pickle.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NODES (1u << 20)
#define MAX_ITEMS (1u << 22)
#define MAX_STACK (1u << 20)
#define MARK (UINT32_MAX - 1) /* on the stack only */

struct machine {
    struct dd_pickle *pickle;
    const uint8_t *at, *end;
    size_t len;
    uint32_t *stack;
    uint32_t depth, stack_cap;
    uint32_t *memo;
    uint32_t memo_count, memo_cap; /* slots at or beyond memo_count are unset */
    struct dd_error *err;
};

enum dd_status dd_pickle_fail(struct dd_error *err, const char *what) {
    return dd_fail(err, DD_CORRUPT, "pickle_corrupt", "the pickle is damaged or not written by torch.save: %s", what);
}

static enum dd_status too_large(struct dd_error *err, const char *what) {
    return dd_fail(err, DD_TOO_LARGE, "pickle_too_large", "the pickle has too many %s", what);
}

/* --- the heap ----------------------------------------------------------------------------------------------------- */

enum dd_status dd_pickle_add(struct dd_pickle *pickle, const struct dd_pickle_node *node, uint32_t *ret_index,
                             struct dd_error *err) {
    if (pickle->count == pickle->cap) {
        uint32_t cap = pickle->cap == 0 ? 256 : pickle->cap * 2;
        if (cap > MAX_NODES) {
            return too_large(err, "objects");
        }
        struct dd_pickle_node *nodes = dd_realloc_array(pickle->nodes, cap, sizeof *nodes);
        if (nodes == NULL) {
            return dd_fail_memory(err, cap * sizeof *nodes);
        }
        pickle->nodes = nodes;
        pickle->cap = cap;
    }
    pickle->nodes[pickle->count] = *node;
    *ret_index = pickle->count++;
    return DD_OK;
}

static bool is_container(enum dd_pickle_kind kind) {
    return kind == DD_PICKLE_LIST || kind == DD_PICKLE_TUPLE || kind == DD_PICKLE_SET || kind == DD_PICKLE_DICT;
}

enum dd_status dd_pickle_append(struct dd_pickle *pickle, uint32_t container, uint32_t item, struct dd_error *err) {
    struct dd_pickle_node *node = &pickle->nodes[container];
    if (node->list.count == node->list.cap) {
        uint32_t cap = node->list.cap == 0 ? 4 : node->list.cap * 2;
        if (cap > MAX_ITEMS) {
            return too_large(err, "items");
        }
        uint32_t *items = dd_realloc_array(node->list.items, cap, sizeof *items);
        if (items == NULL) {
            return dd_fail_memory(err, cap * sizeof *items);
        }
        node->list.items = items;
        node->list.cap = cap;
    }
    if (++pickle->items > MAX_ITEMS) {
        return too_large(err, "items");
    }
    node->list.items[node->list.count++] = item;
    return DD_OK;
}

void dd_pickle_release(struct dd_pickle *pickle) {
    for (uint32_t i = 0; i < pickle->count; i++) {
        if (is_container(pickle->nodes[i].kind)) {
            free(pickle->nodes[i].list.items);
        }
    }
    free(pickle->nodes);
    *pickle = (struct dd_pickle){0};
}

/* --- the stack and the memo --------------------------------------------------------------------------------------- */

static enum dd_status push(struct machine *m, uint32_t value) {
    if (m->depth == m->stack_cap) {
        uint32_t cap = m->stack_cap == 0 ? 256 : m->stack_cap * 2;
        if (cap > MAX_STACK) {
            return too_large(m->err, "objects on its stack");
        }
        uint32_t *stack = dd_realloc_array(m->stack, cap, sizeof *stack);
        if (stack == NULL) {
            return dd_fail_memory(m->err, cap * sizeof *stack);
        }
        m->stack = stack;
        m->stack_cap = cap;
    }
    m->stack[m->depth++] = value;
    return DD_OK;
}

static enum dd_status push_node(struct machine *m, const struct dd_pickle_node *node) {
    uint32_t index = 0;
    enum dd_status status = dd_pickle_add(m->pickle, node, &index, m->err);
    return status == DD_OK ? push(m, index) : status;
}

/* The top count entries, none of them a mark. */
static bool has_values(const struct machine *m, uint32_t count) {
    if (m->depth < count) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (m->stack[m->depth - 1 - i] == MARK) {
            return false;
        }
    }
    return true;
}

/* Where the entries above the topmost mark begin; false without a mark. */
static bool find_mark(const struct machine *m, uint32_t *ret_first) {
    for (uint32_t i = m->depth; i > 0; i--) {
        if (m->stack[i - 1] == MARK) {
            *ret_first = i;
            return true;
        }
    }
    return false;
}

static enum dd_status memo_put(struct machine *m, uint64_t slot) {
    if (!has_values(m, 1)) {
        return dd_pickle_fail(m->err, "it stores what is not there");
    }
    if (slot >= m->len || slot >= MAX_ITEMS) {
        return too_large(m->err, "memo slots");
    }
    if (slot >= m->memo_cap) {
        uint32_t cap = DD_MAX(m->memo_cap * 2, DD_MAX((uint32_t)slot + 1, 256u));
        uint32_t *memo = dd_realloc_array(m->memo, cap, sizeof *memo);
        if (memo == NULL) {
            return dd_fail_memory(m->err, cap * sizeof *memo);
        }
        m->memo = memo;
        m->memo_cap = cap;
    }
    while (m->memo_count <= slot) {
        m->memo[m->memo_count++] = DD_PICKLE_ABSENT;
    }
    m->memo[slot] = m->stack[m->depth - 1];
    return DD_OK;
}

static enum dd_status memo_get(struct machine *m, uint64_t slot) {
    if (slot >= m->memo_count || m->memo[slot] == DD_PICKLE_ABSENT) {
        return dd_pickle_fail(m->err, "it recalls what it never stored");
    }
    return push(m, m->memo[slot]);
}

/* --- reading arguments -------------------------------------------------------------------------------------------- */

static bool take(struct machine *m, size_t count, const uint8_t **ret_bytes) {
    if (count > (size_t)(m->end - m->at)) {
        return false;
    }
    *ret_bytes = m->at;
    m->at += count;
    return true;
}

static bool take_little(struct machine *m, int width, uint64_t *ret_value) {
    const uint8_t *bytes;
    if (!take(m, (size_t)width, &bytes)) {
        return false;
    }
    *ret_value = 0;
    for (int i = 0; i < width; i++) {
        *ret_value |= (uint64_t)bytes[i] << (8 * i);
    }
    return true;
}

static enum dd_status cut_off(struct machine *m) {
    return dd_pickle_fail(m->err, "it is cut off");
}

static enum dd_status push_text(struct machine *m, enum dd_pickle_kind kind, int length_width) {
    uint64_t count;
    const uint8_t *bytes;
    if (!take_little(m, length_width, &count) || count > m->len || !take(m, (size_t)count, &bytes)) {
        return cut_off(m);
    }
    struct dd_pickle_node node = {.kind = kind, .text = {(const char *)bytes, (size_t)count}};
    return push_node(m, &node);
}

static enum dd_status push_int(struct machine *m, int64_t value) {
    struct dd_pickle_node node = {.kind = DD_PICKLE_INT, .integer = value};
    return push_node(m, &node);
}

static enum dd_status push_little(struct machine *m, int width) {
    uint64_t value;
    if (!take_little(m, width, &value)) {
        return cut_off(m);
    }
    return push_int(m, width == 4 ? (int64_t)(int32_t)(uint32_t)value : (int64_t)value);
}

/* LONG1, LONG4: two's complement of any length. */
static enum dd_status push_long(struct machine *m, int length_width) {
    uint64_t count, value = 0;
    const uint8_t *bytes;
    if (!take_little(m, length_width, &count) || count > m->len || !take(m, (size_t)count, &bytes)) {
        return cut_off(m);
    }
    if (count > 8) {
        struct dd_pickle_node node = {.kind = DD_PICKLE_BYTES, .text = {(const char *)bytes, (size_t)count}};
        return push_node(m, &node);
    }
    for (size_t i = 0; i < count; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    if (count > 0 && count < 8 && (bytes[count - 1] & 0x80) != 0) {
        value |= UINT64_MAX << (8 * count);
    }
    return push_int(m, (int64_t)value);
}

static enum dd_status push_float(struct machine *m) {
    const uint8_t *bytes;
    if (!take(m, 8, &bytes)) {
        return cut_off(m);
    }
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) {
        bits = bits << 8 | bytes[i];
    }
    struct dd_pickle_node node = {.kind = DD_PICKLE_FLOAT};
    memcpy(&node.real, &bits, sizeof bits);
    return push_node(m, &node);
}

/* "module\nname\n" */
static enum dd_status push_global(struct machine *m) {
    struct dd_pickle_node global = {.kind = DD_PICKLE_GLOBAL};
    uint32_t *parts[2] = {&global.global.module, &global.global.name};
    for (int i = 0; i < 2; i++) {
        const uint8_t *newline = memchr(m->at, '\n', (size_t)(m->end - m->at));
        if (newline == NULL) {
            return cut_off(m);
        }
        struct dd_pickle_node node = {.kind = DD_PICKLE_STRING,
                                      .text = {(const char *)m->at, (size_t)(newline - m->at)}};
        m->at = newline + 1;
        enum dd_status status = dd_pickle_add(m->pickle, &node, parts[i], m->err);
        if (status != DD_OK) {
            return status;
        }
    }
    return push_node(m, &global);
}

/* --- building ----------------------------------------------------------------------------------------------------- */

static enum dd_status push_empty(struct machine *m, enum dd_pickle_kind kind) {
    struct dd_pickle_node node = {.kind = kind};
    return push_node(m, &node);
}

/* Replaces the entries from `first` on (and the mark below them when drop_mark) by one container of them. */
static enum dd_status collect(struct machine *m, enum dd_pickle_kind kind, uint32_t first, bool drop_mark) {
    uint32_t index = 0;
    struct dd_pickle_node node = {.kind = kind};
    enum dd_status status = dd_pickle_add(m->pickle, &node, &index, m->err);
    if (status == DD_OK && kind == DD_PICKLE_DICT && (m->depth - first) % 2 != 0) {
        status = dd_pickle_fail(m->err, "a key has no value");
    }
    for (uint32_t i = first; i < m->depth && status == DD_OK; i++) {
        status = dd_pickle_append(m->pickle, index, m->stack[i], m->err);
    }
    if (status != DD_OK) {
        return status;
    }
    m->depth = first - (drop_mark ? 1 : 0);
    return push(m, index);
}

static enum dd_status collect_marked(struct machine *m, enum dd_pickle_kind kind) {
    uint32_t first = 0;
    if (!find_mark(m, &first)) {
        return dd_pickle_fail(m->err, "a mark is missing");
    }
    return collect(m, kind, first, true);
}

static enum dd_status collect_top(struct machine *m, uint32_t count) {
    if (!has_values(m, count)) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    return collect(m, DD_PICKLE_TUPLE, m->depth - count, false);
}

/* The container of `kind` that items for target go to: itself, or the part of an OBJECT, made when missing. */
static enum dd_status target_container(struct machine *m, uint32_t target, enum dd_pickle_kind kind,
                                       uint32_t *ret_container) {
    struct dd_pickle_node *node = &m->pickle->nodes[target];
    if (node->kind == kind) {
        *ret_container = target;
        return DD_OK;
    }
    if (node->kind != DD_PICKLE_OBJECT) {
        return dd_pickle_fail(m->err, "items are put into what holds none");
    }
    bool keyed = kind == DD_PICKLE_DICT;
    uint32_t part = keyed ? node->object.dict : node->object.list;
    if (part == DD_PICKLE_ABSENT) {
        struct dd_pickle_node empty = {.kind = keyed ? DD_PICKLE_DICT : DD_PICKLE_LIST};
        enum dd_status status = dd_pickle_add(m->pickle, &empty, &part, m->err);
        if (status != DD_OK) {
            return status;
        }
        node = &m->pickle->nodes[target];
        *(keyed ? &node->object.dict : &node->object.list) = part;
    }
    *ret_container = part;
    return DD_OK;
}

/* SETITEM(S), APPEND(S), ADDITEMS: the entries from first on go into the entry below (and below the mark). */
static enum dd_status put_items(struct machine *m, enum dd_pickle_kind kind, uint32_t first, bool drop_mark) {
    uint32_t below = drop_mark ? 2 : 1, container = 0;
    if (first < below || m->stack[first - below] == MARK) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    if (kind == DD_PICKLE_DICT && (m->depth - first) % 2 != 0) {
        return dd_pickle_fail(m->err, "a key has no value");
    }
    enum dd_status status = target_container(m, m->stack[first - below], kind, &container);
    for (uint32_t i = first; i < m->depth && status == DD_OK; i++) {
        status = dd_pickle_append(m->pickle, container, m->stack[i], m->err);
    }
    m->depth = first - below + 1;
    return status;
}

static enum dd_status put_marked(struct machine *m, enum dd_pickle_kind kind) {
    uint32_t first = 0;
    if (!find_mark(m, &first)) {
        return dd_pickle_fail(m->err, "a mark is missing");
    }
    return put_items(m, kind, first, true);
}

static enum dd_status put_top(struct machine *m, enum dd_pickle_kind kind, uint32_t count) {
    if (!has_values(m, count)) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    return put_items(m, kind, m->depth - count, false);
}

/* REDUCE, NEWOBJ, NEWOBJ_EX: callee, args (and keywords, which are dropped). */
static enum dd_status call(struct machine *m, uint32_t count) {
    if (!has_values(m, count)) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    m->depth -= count;
    uint32_t callee = m->stack[m->depth], args = m->stack[m->depth + 1], result = 0;
    if (m->pickle->nodes[args].kind != DD_PICKLE_TUPLE) {
        return dd_pickle_fail(m->err, "a call's arguments are no tuple");
    }
    enum dd_status status = dd_pickle_reduce(m->pickle, callee, args, &result, m->err);
    return status == DD_OK ? push(m, result) : status;
}

/* BUILD: the state of an object; what else has a state (an OrderedDict's _metadata, a tensor's attributes) is of no
 * use. */
static enum dd_status build(struct machine *m) {
    if (!has_values(m, 2)) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    m->depth--;
    struct dd_pickle_node *node = &m->pickle->nodes[m->stack[m->depth - 1]];
    if (node->kind == DD_PICKLE_OBJECT) {
        node->object.state = m->stack[m->depth];
    }
    return DD_OK;
}

static enum dd_status stack_global(struct machine *m) {
    if (!has_values(m, 2)) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    m->depth -= 2;
    struct dd_pickle_node node = {.kind = DD_PICKLE_GLOBAL, .global = {m->stack[m->depth], m->stack[m->depth + 1]}};
    if (m->pickle->nodes[node.global.module].kind != DD_PICKLE_STRING ||
        m->pickle->nodes[node.global.name].kind != DD_PICKLE_STRING) {
        return dd_pickle_fail(m->err, "a name is no text");
    }
    return push_node(m, &node);
}

static enum dd_status persistent(struct machine *m) {
    if (!has_values(m, 1)) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    uint32_t result = 0;
    enum dd_status status = dd_pickle_persistent(m->pickle, m->stack[--m->depth], &result, m->err);
    return status == DD_OK ? push(m, result) : status;
}

static enum dd_status discard(struct machine *m, bool to_mark) {
    uint32_t first = m->depth;
    if (to_mark ? !find_mark(m, &first) : first == 0) {
        return dd_pickle_fail(m->err, "its stack is too short");
    }
    m->depth = first - 1;
    return DD_OK;
}

static enum dd_status skip(struct machine *m, size_t count) {
    const uint8_t *ignored;
    return take(m, count, &ignored) ? DD_OK : cut_off(m);
}

static enum dd_status push_bool(struct machine *m, bool value) {
    struct dd_pickle_node node = {.kind = DD_PICKLE_BOOL, .integer = value};
    return push_node(m, &node);
}

static enum dd_status memo_op(struct machine *m, int width, bool put) {
    uint64_t slot;
    if (!take_little(m, width, &slot)) {
        return cut_off(m);
    }
    return put ? memo_put(m, slot) : memo_get(m, slot);
}

/* One instruction but STOP. */
static enum dd_status step(struct machine *m, uint8_t opcode) {
    switch (opcode) {
    case 0x80: /* PROTO */
        if (m->at == m->end || *m->at < 2 || *m->at > 5) {
            return dd_pickle_fail(m->err, "its protocol is not 2, 3, 4 or 5");
        }
        return skip(m, 1);
    case 0x95: /* FRAME */
        return skip(m, 8);
    case '(':
        return push(m, MARK);
    case '0': /* POP */
        return discard(m, false);
    case '1': /* POP_MARK */
        return discard(m, true);
    case '2': /* DUP */
        return has_values(m, 1) ? push(m, m->stack[m->depth - 1]) : dd_pickle_fail(m->err, "its stack is too short");
    case 'N': /* NONE */
        return push_empty(m, DD_PICKLE_NONE);
    case 0x88: /* NEWTRUE */
        return push_bool(m, true);
    case 0x89: /* NEWFALSE */
        return push_bool(m, false);
    case 'K': /* BININT1 */
        return push_little(m, 1);
    case 'M': /* BININT2 */
        return push_little(m, 2);
    case 'J': /* BININT */
        return push_little(m, 4);
    case 0x8a: /* LONG1 */
        return push_long(m, 1);
    case 0x8b: /* LONG4 */
        return push_long(m, 4);
    case 'G': /* BINFLOAT */
        return push_float(m);
    case 'X': /* BINUNICODE */
    case 'T': /* BINSTRING, Python 2 */
        return push_text(m, DD_PICKLE_STRING, 4);
    case 0x8c: /* SHORT_BINUNICODE */
    case 'U':  /* SHORT_BINSTRING */
        return push_text(m, DD_PICKLE_STRING, 1);
    case 0x8d: /* BINUNICODE8 */
        return push_text(m, DD_PICKLE_STRING, 8);
    case 'C': /* SHORT_BINBYTES */
        return push_text(m, DD_PICKLE_BYTES, 1);
    case 'B': /* BINBYTES */
        return push_text(m, DD_PICKLE_BYTES, 4);
    case 0x8e: /* BINBYTES8 */
    case 0x96: /* BYTEARRAY8 */
        return push_text(m, DD_PICKLE_BYTES, 8);
    case ']':
        return push_empty(m, DD_PICKLE_LIST);
    case '}':
        return push_empty(m, DD_PICKLE_DICT);
    case ')':
        return push_empty(m, DD_PICKLE_TUPLE);
    case 0x8f: /* EMPTY_SET */
        return push_empty(m, DD_PICKLE_SET);
    case 't': /* TUPLE */
        return collect_marked(m, DD_PICKLE_TUPLE);
    case 'l': /* LIST */
        return collect_marked(m, DD_PICKLE_LIST);
    case 'd': /* DICT */
        return collect_marked(m, DD_PICKLE_DICT);
    case 0x91: /* FROZENSET */
        return collect_marked(m, DD_PICKLE_SET);
    case 0x85: /* TUPLE1 … TUPLE3 */
    case 0x86:
    case 0x87:
        return collect_top(m, (uint32_t)opcode - 0x84);
    case 'a': /* APPEND */
        return put_top(m, DD_PICKLE_LIST, 1);
    case 'e': /* APPENDS */
        return put_marked(m, DD_PICKLE_LIST);
    case 's': /* SETITEM */
        return put_top(m, DD_PICKLE_DICT, 2);
    case 'u': /* SETITEMS */
        return put_marked(m, DD_PICKLE_DICT);
    case 0x90: /* ADDITEMS */
        return put_marked(m, DD_PICKLE_SET);
    case 'c': /* GLOBAL */
        return push_global(m);
    case 0x93: /* STACK_GLOBAL */
        return stack_global(m);
    case 'R':  /* REDUCE */
    case 0x81: /* NEWOBJ */
        return call(m, 2);
    case 0x92: /* NEWOBJ_EX */
        return call(m, 3);
    case 'b':
        return build(m);
    case 'Q': /* BINPERSID */
        return persistent(m);
    case 'q': /* BINPUT */
        return memo_op(m, 1, true);
    case 'r': /* LONG_BINPUT */
        return memo_op(m, 4, true);
    case 'h': /* BINGET */
        return memo_op(m, 1, false);
    case 'j': /* LONG_BINGET */
        return memo_op(m, 4, false);
    case 0x94: /* MEMOIZE */
        return memo_put(m, m->memo_count);
    default: {
        char what[48];
        snprintf(what, sizeof what, "unknown instruction 0x%02x", opcode);
        return dd_pickle_fail(m->err, what);
    }
    }
}

enum dd_status dd_pickle_parse(const uint8_t *bytes, size_t len, struct dd_pickle *ret_pickle, struct dd_error *err) {
    struct dd_pickle pickle = {0};
    struct machine m = {.pickle = &pickle, .at = bytes, .end = bytes + len, .len = len, .err = err};
    enum dd_status status = DD_OK;
    bool stopped = false;
    if (len < 2 || bytes[0] != 0x80) {
        status = dd_pickle_fail(err, "it does not begin as protocols 2 to 5 do");
    }
    while (status == DD_OK && !stopped) {
        if (m.at == m.end) {
            status = cut_off(&m);
        } else if (*m.at == '.') {
            m.at++;
            stopped = true;
        } else {
            uint8_t opcode = *m.at++;
            status = step(&m, opcode);
        }
    }
    if (status == DD_OK && !has_values(&m, 1)) {
        status = dd_pickle_fail(err, "it ends with nothing on its stack");
    }
    if (status == DD_OK) {
        pickle.root = m.stack[m.depth - 1];
        pickle.used_bytes = (size_t)(m.at - bytes);
    }
    free(m.stack);
    free(m.memo);
    if (status != DD_OK) {
        dd_pickle_release(&pickle);
        return status;
    }
    *ret_pickle = pickle;
    return DD_OK;
}
