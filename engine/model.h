/* model: what the files that read and write models share.  Private to engine/model_*.c, safetensors.c, pickle*.c,
 * archive.c and params.c.
 * Threads: no global state; every call works on its arguments alone.
 */
#ifndef DD_ENGINE_MODEL_H
#define DD_ENGINE_MODEL_H

#include <cjson/cJSON.h>

#include "engine/engine.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weights are mapped as they lie in the file: little-endian");

/* --- params.c ----------------------------------------------------------------------------------------------------- */

/* Every tensor begins at a multiple of this many floats (64 bytes), but k and v, which follow q without a gap. */
#define DD_PARAM_ALIGN 16
#define DD_MAX_HIDDEN 16384
#define DD_MAX_INTERMEDIATE 65536
#define DD_MAX_VOCAB (1 << 20)
#define DD_MAX_POSITIONS (1 << 16)
#define DD_MAX_TYPES 1024
#define DD_MAX_SLAB_FLOATS ((size_t)1 << 33)

/* Bounds of every field and heads | hidden_size.  DD_INVALID "model_config_invalid", naming the field as config.json
 * does. */
enum dd_status dd_bert_config_check(const struct dd_bert_config *config, struct dd_error *err) DD_MUST_CHECK;
/* The tensors of a model without its slab: *ret_params has slab NULL.  For looking at a model without loading it. */
enum dd_status dd_params_layout(const struct dd_bert_config *config, struct dd_params **ret_params,
                                struct dd_error *err) DD_MUST_CHECK;
/* With a projection from the model's width to `width` behind the model's tensors, for training alone; 0: without. */
enum dd_status dd_params_layout_projected(const struct dd_bert_config *config, int width, struct dd_params **ret_params,
                                          struct dd_error *err) DD_MUST_CHECK;
/* The same for a model whose matrices are kept as int8: those that dd_int8_keeps have their shapes, but count 0. */
enum dd_status dd_params_layout_int8(const struct dd_bert_config *config, struct dd_params **ret_params,
                                     struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_params_allocate(struct dd_params *params, struct dd_error *err) DD_MUST_CHECK; /* the slab, zeroed */
/* Values that are learned, as int8 or float: the slab without its padding. */
uint64_t dd_params_values(const struct dd_params *params);

/* --- weights: tensors in a file, whatever its format (model_weights.c) -------------------------------------------- */

enum dd_dtype { DD_DTYPE_OTHER = 0, DD_DTYPE_F32, DD_DTYPE_F16, DD_DTYPE_BF16, DD_DTYPE_F64, DD_DTYPE_I8 };
size_t dd_dtype_bytes(enum dd_dtype dtype); /* 0 for OTHER */

#define DD_WEIGHT_RANK 8
#define DD_WEIGHT_NAME_BYTES 512 /* longest name accepted */
#define DD_MAX_WEIGHTS 16384

/* Bytes of one or more tensors: in a mapping, or deflated there. */
struct dd_storage {
    const uint8_t *bytes;
    size_t stored_bytes; /* in the mapping */
    size_t size_bytes;   /* = stored_bytes unless deflated */
    bool deflated;
    uint32_t crc32; /* of the inflated bytes; checked when deflated */
};
/* Invariant (dd_weights_add checks it): unless dtype is OTHER, every element lies inside its storage. */
struct dd_weight {
    char *name; /* as in the file; owned by the set */
    enum dd_dtype dtype;
    int rank;
    size_t shape[DD_WEIGHT_RANK], stride[DD_WEIGHT_RANK]; /* in elements */
    size_t offset;                                        /* of the first element in its storage, in elements */
    struct dd_storage storage;
};
struct dd_weights {
    struct dd_weight *items;
    size_t count, cap;
    struct dd_mapping *mappings; /* owned; storages point into them */
    size_t n_mappings;
    uint64_t data_bytes; /* tensor bytes that the files hold, inflated */
    uint64_t file_bytes;
    char file[64], format[24]; /* as in dd_model_info */
    cJSON *config;             /* found in a pickled module, as config.json would say it; owned; else NULL */
};
/* A weights file, or the index of several; the format is told by the content.  Nothing but headers is read. */
enum dd_status dd_weights_open(const char *path, struct dd_weights **ret_weights, struct dd_error *err) DD_MUST_CHECK;
void dd_weights_free(struct dd_weights *weights);
/* Copies *weight with the name's first name_bytes bytes; used by the readers of formats. */
enum dd_status dd_weights_add(struct dd_weights *weights, const char *name, size_t name_bytes,
                              const struct dd_weight *weight, struct dd_error *err) DD_MUST_CHECK;
void dd_weight_shape_text(int rank, const size_t *shape, char *out, size_t out_bytes); /* "[768, 3]" */

/* Values of one weight of rank 1 or 2 and known dtype as fp32, in row-major order. */
struct dd_weight_reader {
    const struct dd_weight *weight;
    const uint8_t *bytes; /* of the storage */
    uint8_t *inflated;    /* owned, or NULL */
};
enum dd_status dd_weight_reader_init(struct dd_weight_reader *reader, const struct dd_weight *weight,
                                     struct dd_error *err) DD_MUST_CHECK;
void dd_weight_reader_release(struct dd_weight_reader *reader);
void dd_weight_read(const struct dd_weight_reader *reader, size_t first, size_t count, float *out);

/* --- formats: each adds the tensors in bytes[len], which stay mapped, to weights ---------------------------------- */

enum dd_status dd_safetensors_read(const uint8_t *bytes, size_t len, struct dd_weights *weights,
                                   struct dd_error *err) DD_MUST_CHECK;
/* A tensor to be written: values are floats for F32 and F16 (rounded to nearest), bytes for I8. */
struct dd_tensor_out {
    char name[112];
    enum dd_dtype dtype;
    int rank;
    size_t shape[2];
    const void *values;
};
/* A file of these tensors in their order, durably.  DD_INVALID "weights_out_of_range" for what F16 cannot hold. */
enum dd_status dd_safetensors_write(const char *path, const struct dd_tensor_out *tensors, size_t count,
                                    struct dd_error *err) DD_MUST_CHECK;
/* What torch.save wrote: a state dict or a whole module, zip (since 1.6) or legacy.  May set weights->config. */
bool dd_torch_is_zip(const uint8_t *bytes, size_t len);
enum dd_status dd_torch_zip_read(const uint8_t *bytes, size_t len, struct dd_weights *weights,
                                 struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_torch_legacy_read(const uint8_t *bytes, size_t len, struct dd_weights *weights,
                                    struct dd_error *err) DD_MUST_CHECK;

/* --- zip (model_zip.c) -------------------------------------------------------------------------------------------- */

struct dd_zip_entry {
    const char *name; /* not terminated */
    size_t name_bytes;
    struct dd_storage storage;
};
struct dd_zip {
    struct dd_zip_entry *entries; /* sorted by name */
    size_t count;
};
/* The central directory of a zip archive that lies in memory; zip64 too.  Stored and deflated entries, no encryption.
 */
enum dd_status dd_zip_open(const uint8_t *bytes, size_t len, struct dd_zip *ret_zip,
                           struct dd_error *err) DD_MUST_CHECK;
void dd_zip_release(struct dd_zip *zip);
const struct dd_zip_entry *dd_zip_find(const struct dd_zip *zip, const char *name, size_t name_bytes); /* or NULL */
/* Bytes of a storage: in place (*ret_owned NULL) or inflated and checked (*ret_owned is the caller's to free). */
enum dd_status dd_storage_bytes(const struct dd_storage *storage, const uint8_t **ret_bytes, uint8_t **ret_owned,
                                struct dd_error *err) DD_MUST_CHECK;

/* --- config.json, labels and tokenizer settings (model_config.c, model_tokenizer.c) ------------------------------- */

/* Parses text that ends with NUL after `bytes` bytes; NULL when it is not one JSON value or holds a NUL. */
cJSON *dd_json_parse(const char *text, size_t bytes);
/* kind, config, n_labels, labels.  labels_given says whether the file names any (else "LABEL_0" …), n_labels_given
 * whether it says how many there are. */
struct dd_config_facts {
    bool labels_given, n_labels_given, ignore_classifier;
    bool int8;         /* the weights are those of model_int8.c */
    int do_lower_case; /* 0, 1; -1 not said */
};
enum dd_status dd_model_config_read(const cJSON *json, struct dd_model_info *info, struct dd_config_facts *ret_facts,
                                    struct dd_error *err) DD_MUST_CHECK;
void dd_model_labels_default(struct dd_model_info *info);
/* config.json of a model whose floats are written as dtype; the caller frees the text. */
enum dd_status dd_model_config_write(const struct dd_model_info *info, enum dd_dtype dtype, char **ret_text,
                                     struct dd_error *err) DD_MUST_CHECK;
/* vocab.txt, tokenizer_config.json and tokenizer.json of a directory.  *ret_vocab is NULL (and success) where there is
 * no vocabulary; else its text in the form of vocab.txt, the caller's to free. */
enum dd_status dd_model_vocab_read(const char *dir, int do_lower_case, char **ret_vocab, size_t *ret_bytes,
                                   struct dd_tokenizer_options *ret_options, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_model_tokenizer_write(const struct dd_model *model, const char *dir,
                                        struct dd_error *err) DD_MUST_CHECK;

/* --- names (model_names.c) ---------------------------------------------------------------------------------------- */

/* For each tensor of the layout the index of its weight, or -1 (pooler, classifier only).  sources: [n_tensors].
 * int8: tensors that dd_int8_keeps are I8, and their scales are passed over. */
enum dd_status dd_model_match(const struct dd_weights *weights, const struct dd_params *layout, bool ignore_classifier,
                              bool int8, int *sources, struct dd_error *err) DD_MUST_CHECK;
/* --- int8 (model_int8.c) ------------------------------------------------------------------------------------------ */

#define DD_INT8_METHOD "distilld_int8" /* quantization_config.quant_method in config.json */
#define DD_INT8_VERSION 1
#define DD_INT8_MODEL_TYPE "distilld_int8_bert"
/* The tensor that dd_int8_keeps, from its weight and scale, into `into` (NULL: only checked and hashed). */
enum dd_status dd_int8_read_tensor(const struct dd_weights *weights, const struct dd_weight *weight,
                                   const struct dd_tensor *tensor, struct dd_int8 *into, struct dd_sha256 *hash,
                                   struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_int8_write(const struct dd_params *params, const char *path, struct dd_error *err) DD_MUST_CHECK;

/* Rows of classifier.weight in the file; 0 where there is none. */
size_t dd_model_classifier_rows(const struct dd_weights *weights);

#endif
