/* pickle: an unpickler that builds data and runs nothing.  Private to pickle*.c and model_torch.c.
 *
 * A pickle is a program for a stack machine that may name any Python callable and call it.  This machine knows no
 * callables: a name is a pair of strings, a call is a record of the name and its arguments.  The few calls that
 * torch.save needs to describe tensors (the table in pickle_torch.c) are given their meaning as data; everything else
 * stays an inert record with its state, through which model_torch.c walks to find tensors.
 *
 * Limits: nodes, container items and stack entries are capped; memo slots cannot exceed the pickle's length; strings
 * are not copied.  So memory is bounded whatever the program says.
 */
#ifndef DD_ENGINE_PICKLE_H
#define DD_ENGINE_PICKLE_H

#include "engine/model.h"

enum dd_pickle_kind {
    DD_PICKLE_NONE = 0,
    DD_PICKLE_BOOL,
    DD_PICKLE_INT,
    DD_PICKLE_FLOAT,
    DD_PICKLE_STRING,
    DD_PICKLE_BYTES, /* also integers beyond 64 bits, little-endian */
    DD_PICKLE_LIST,
    DD_PICKLE_TUPLE,
    DD_PICKLE_SET,
    DD_PICKLE_DICT,   /* items: key, value, key, value … */
    DD_PICKLE_GLOBAL, /* a name */
    DD_PICKLE_OBJECT, /* a call or an instance, never executed */
    DD_PICKLE_STORAGE,
    DD_PICKLE_TENSOR
};

#define DD_PICKLE_ABSENT UINT32_MAX /* "no node" */

/* Nodes name one another by index. */
struct dd_pickle_node {
    enum dd_pickle_kind kind;
    union {
        int64_t integer; /* BOOL, INT */
        double real;
        struct { /* STRING, BYTES: in the pickle; not terminated */
            const char *bytes;
            size_t count;
        } text;
        struct { /* LIST, TUPLE, SET, DICT */
            uint32_t *items;
            uint32_t count, cap;
        } list;
        struct { /* GLOBAL: STRING nodes */
            uint32_t module, name;
        } global;
        struct { /* OBJECT: callee or class, arguments, what BUILD gave, what SETITEMS and APPENDS gave */
            uint32_t callee, args, state, dict, list;
        } object;
        struct { /* STORAGE; view_* for the views of old files, in elements */
            uint32_t key;
            uint16_t element_bytes;
            uint16_t dtype;
            uint64_t elements, view_offset;
            bool is_view;
        } storage;
        struct { /* TENSOR; shape and stride: TUPLE nodes of INT */
            uint32_t storage, shape, stride;
            uint16_t dtype;
            uint64_t offset;
        } tensor;
    };
};

struct dd_pickle {
    struct dd_pickle_node *nodes;
    uint32_t count, cap;
    uint64_t items; /* over all containers */
    uint32_t root;
    size_t used_bytes; /* of the input, STOP included */
};
/* Runs the program that begins at bytes; protocols 2 to 5.  bytes must outlive the result. */
enum dd_status dd_pickle_parse(const uint8_t *bytes, size_t len, struct dd_pickle *ret_pickle,
                               struct dd_error *err) DD_MUST_CHECK;
void dd_pickle_release(struct dd_pickle *pickle);

/* --- looking at the result ---------------------------------------------------------------------------------------- */

const struct dd_pickle_node *dd_pickle_node(const struct dd_pickle *pickle, uint32_t index); /* ABSENT gives None */
bool dd_pickle_text_is(const struct dd_pickle *pickle, uint32_t index, const char *text);
bool dd_pickle_global_is(const struct dd_pickle *pickle, uint32_t index, const char *module, const char *name);
/* The value of a text key in a DICT, or in the dict part of an OBJECT; the last one wins.  A dict of more than
 * DD_PICKLE_MAX_ATTRIBUTES entries is no object's attributes: nothing is found in it (and no time lost). */
#define DD_PICKLE_MAX_ATTRIBUTES 4096
uint32_t dd_pickle_get(const struct dd_pickle *pickle, uint32_t dict, const char *key);
/* The DICT that index is or holds: a DICT itself, an OBJECT's dict part; else ABSENT. */
uint32_t dd_pickle_dict(const struct dd_pickle *pickle, uint32_t index);
/* The attributes of an OBJECT: its state, or the first part of a (dict, slots) state; else ABSENT. */
uint32_t dd_pickle_attributes(const struct dd_pickle *pickle, uint32_t index);

/* --- shared by pickle.c and pickle_torch.c ------------------------------------------------------------------------ */

enum dd_status dd_pickle_add(struct dd_pickle *pickle, const struct dd_pickle_node *node, uint32_t *ret_index,
                             struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_pickle_append(struct dd_pickle *pickle, uint32_t container, uint32_t item,
                                struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_pickle_fail(struct dd_error *err, const char *what);
/* What callee(*args) stands for. */
enum dd_status dd_pickle_reduce(struct dd_pickle *pickle, uint32_t callee, uint32_t args, uint32_t *ret_index,
                                struct dd_error *err) DD_MUST_CHECK;
/* What the persistent id (a tuple) stands for. */
enum dd_status dd_pickle_persistent(struct dd_pickle *pickle, uint32_t id, uint32_t *ret_index,
                                    struct dd_error *err) DD_MUST_CHECK;

/* --- from the object to tensors (model_walk.c) -------------------------------------------------------------------- */

/* Where the bytes of the storage `key` lie; false when it is not there. */
struct dd_torch_source {
    const void *context;
    bool (*find)(const void *context, const char *key, size_t key_bytes, struct dd_storage *ret_storage);
};
/* Adds the tensors of the state dict, checkpoint or module that is the pickle's root; sets format and config. */
enum dd_status dd_torch_collect(const struct dd_pickle *pickle, const struct dd_torch_source *source,
                                struct dd_weights *weights, struct dd_error *err) DD_MUST_CHECK;

#endif
