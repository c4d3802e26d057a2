/* model_load: a model directory or weights file becomes a dd_model, or a description of one.
 *
 * Order: weights file (headers only) → configuration → which tensor is which parameter → tokenizer; only then, when
 * everything agrees, memory for the values.  Its size is checked against the file's, so that a small file with a large
 * configuration gets an error instead of gigabytes.  Values that are not finite are refused.
 * Threads: no state.
 */
#include "engine/model.h"

#include "engine/int8.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_CONFIG_BYTES ((size_t)4 << 20)
#define CHUNK_FLOATS 65536
/* Below this many values the slab may be larger than the file: 64 MiB harm nobody. */
#define SMALL_MODEL_VALUES ((uint64_t)1 << 24)

/* A model before its values are read. */
struct source {
    char dir[4096];
    struct dd_weights *weights;
    struct dd_params *layout;
    int *indices; /* [layout->n_tensors]: of weights->items, or -1 */
    struct dd_tokenizer *tokenizer;
};

static void release_source(struct source *source) {
    dd_weights_free(source->weights);
    dd_params_free(source->layout);
    free(source->indices);
    dd_tokenizer_free(source->tokenizer);
}

/* --- finding the files -------------------------------------------------------------------------------------------- */

static bool is_weights_name(const char *name) {
    static const char *const endings[] = {".safetensors", ".pt", ".pth", ".bin"};
    static const char *const others[] = {"training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin"};
    for (size_t i = 0; i < DD_ARRAY_LEN(others); i++) {
        if (strcmp(name, others[i]) == 0) {
            return false;
        }
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(endings); i++) {
        size_t bytes = strlen(name), end = strlen(endings[i]);
        if (bytes > end && name[0] != '.' && strcmp(name + bytes - end, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* The one weights file of a directory that has none of the usual names. */
static enum dd_status only_weights_file(const char *dir, char *out, size_t out_bytes, struct dd_error *err) {
    char found[256] = "";
    int count = 0;
    DIR *stream = opendir(dir);
    if (stream == NULL) {
        return dd_fail_errno(err, errno, "cannot read the model directory %s", dir);
    }
    for (const struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        if (is_weights_name(entry->d_name)) {
            snprintf(found, sizeof found, "%s", entry->d_name);
            count++;
        }
    }
    closedir(stream);
    if (count != 1) {
        return dd_fail(err, DD_NOT_FOUND, "weights_not_found",
                       count == 0 ? "the model directory has no model.safetensors, pytorch_model.bin or other weights "
                                    "file (.safetensors, .bin, .pt, .pth)"
                                  : "the model directory has %d weights files; name one of them instead",
                       count);
    }
    return dd_path_join(out, out_bytes, err, dir, found, NULL);
}

static enum dd_status find_weights(const char *dir, char *out, size_t out_bytes, struct dd_error *err) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                        "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        struct stat info;
        enum dd_status status = dd_path_join(out, out_bytes, err, dir, names[i], NULL);
        if (status != DD_OK) {
            return status;
        }
        if (stat(out, &info) == 0 && S_ISREG(info.st_mode)) {
            return DD_OK;
        }
    }
    return only_weights_file(dir, out, out_bytes, err);
}

static enum dd_status open_weights(struct source *source, const char *path, struct dd_error *err) {
    char weights[4096];
    struct stat info;
    if (stat(path, &info) != 0) {
        return dd_fail_errno(err, errno, "cannot open the model %s", path);
    }
    const char *slash = strrchr(path, '/');
    size_t dir_bytes = S_ISDIR(info.st_mode) ? strlen(path) : slash == NULL ? 0 : (size_t)(slash - path);
    if (dir_bytes >= sizeof source->dir || strlen(path) >= sizeof weights) {
        return dd_fail(err, DD_INVALID, "path_too_long", "the model's path is too long");
    }
    memcpy(source->dir, path, dir_bytes);
    source->dir[dir_bytes] = 0;
    if (dir_bytes == 0) {
        snprintf(source->dir, sizeof source->dir, "%s", slash == NULL ? "." : "/");
    }
    enum dd_status status = DD_OK;
    snprintf(weights, sizeof weights, "%s", path);
    if (S_ISDIR(info.st_mode)) {
        status = find_weights(source->dir, weights, sizeof weights, err);
    }
    return status == DD_OK ? dd_weights_open(weights, &source->weights, err) : status;
}

/* --- the configuration -------------------------------------------------------------------------------------------- */

/* config.json beside the weights; *ret_json is NULL (and success) where there is none. */
static enum dd_status read_config_file(const char *dir, cJSON **ret_json, struct dd_error *err) {
    char path[4096];
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t bytes = 0;
    struct dd_error failure = {0};
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "config.json", NULL);
    if (status != DD_OK) {
        return status;
    }
    status = dd_file_read(path, MAX_CONFIG_BYTES, &text, &bytes, &failure);
    if (status != DD_OK && status != DD_NOT_FOUND) {
        if (err != NULL) {
            *err = failure;
        }
        return status;
    }
    cJSON *json = status == DD_OK ? dd_json_parse(text, bytes) : NULL;
    if (status == DD_OK && json == NULL) {
        return dd_fail(err, DD_CORRUPT, "model_config_invalid", "config.json is not JSON");
    }
    *ret_json = json;
    return DD_OK;
}

static bool labels_are_default(const struct dd_model_info *info) {
    for (int i = 0; i < info->n_labels; i++) {
        char name[32];
        snprintf(name, sizeof name, "LABEL_%d", i);
        if (strcmp(info->labels[i], name) != 0) {
            return false;
        }
    }
    return true;
}

/* Names of the labels from config.json for a module whose own configuration has none, when the number agrees. */
static enum dd_status borrow_labels(const cJSON *json, struct dd_model_info *info, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) struct dd_model_info *beside = dd_calloc(1, sizeof *beside);
    struct dd_config_facts facts;
    if (beside == NULL) {
        return dd_fail_memory(err, sizeof *beside);
    }
    if (dd_model_config_read(json, beside, &facts, NULL) == DD_OK && beside->n_labels == info->n_labels) {
        memcpy(info->labels, beside->labels, sizeof info->labels);
    }
    return DD_OK;
}

/* The number of labels: what the configuration says, but the file's classifier where it does not say, or says only
 * what its class has by default.  A classifier of one row is a score, not a choice: such a model is an encoder. */
static enum dd_status settle_labels(const struct source *source, bool inside, struct dd_config_facts *facts,
                                    struct dd_model_info *info, struct dd_error *err) {
    size_t rows = facts->ignore_classifier ? 0 : dd_model_classifier_rows(source->weights);
    if (rows > DD_MAX_CLASSES) {
        return dd_fail(err, DD_UNSUPPORTED, "model_unsupported",
                       "the classifier has %zu labels; at most %d are supported", rows, DD_MAX_CLASSES);
    }
    if (rows == 1) {
        facts->ignore_classifier = true;
    } else if (rows > 1 && (!facts->n_labels_given || (inside && labels_are_default(info)))) {
        info->n_labels = (int)rows;
        dd_model_labels_default(info);
    }
    info->config.n_labels = info->n_labels;
    return DD_OK;
}

static enum dd_status read_config(struct source *source, struct dd_model_info *info, struct dd_config_facts *facts,
                                  struct dd_error *err) {
    cJSON *beside = NULL;
    const cJSON *inside = source->weights->config;
    enum dd_status status = read_config_file(source->dir, &beside, err);
    if (status != DD_OK) {
        return status;
    }
    if (inside == NULL && beside == NULL) {
        return dd_fail(err, DD_NOT_FOUND, "model_config_not_found",
                       "there is no config.json beside the weights and no configuration inside them");
    }
    status = dd_model_config_read(inside != NULL ? inside : beside, info, facts, err);
    if (status != DD_OK) {
        dd_error_prefix(err, inside != NULL ? "the configuration inside the module" : "config.json");
    } else {
        status = settle_labels(source, inside != NULL, facts, info, err);
    }
    if (status == DD_OK && inside != NULL && beside != NULL && labels_are_default(info)) {
        status = borrow_labels(beside, info, err);
    }
    cJSON_Delete(beside);
    return status;
}

/* --- everything but the values ------------------------------------------------------------------------------------ */

static enum dd_status open_tokenizer(struct source *source, const struct dd_config_facts *facts,
                                     struct dd_model_info *info, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *vocab = NULL;
    size_t bytes = 0;
    struct dd_tokenizer_options options = {0};
    enum dd_status status = dd_model_vocab_read(source->dir, facts->do_lower_case, &vocab, &bytes, &options, err);
    if (status != DD_OK) {
        return status;
    }
    info->do_lower_case = options.do_lower_case;
    info->has_tokenizer = vocab != NULL;
    if (vocab == NULL) {
        return DD_OK;
    }
    status = dd_tokenizer_new(vocab, bytes, &options, &source->tokenizer, err);
    if (status != DD_OK) {
        return dd_error_prefix(err, "vocab.txt");
    }
    if (dd_tokenizer_size(source->tokenizer) > info->config.vocab_size) {
        return dd_fail(err, DD_CORRUPT, "vocab_too_large",
                       "vocab.txt has %d tokens, the model's embeddings only %d (vocab_size)",
                       dd_tokenizer_size(source->tokenizer), info->config.vocab_size);
    }
    return DD_OK;
}

/* kind, has_pooler, parameters; and whether the file can hold so many values at all. */
static enum dd_status describe(const struct source *source, struct dd_model_info *info, struct dd_error *err) {
    uint64_t values = 0, total = 0, file_values = source->weights->data_bytes / (info->int8 ? 1 : 2);
    int n = source->layout->n_tensors;
    for (int i = 0; i < n; i++) {
        const struct dd_tensor *tensor = &source->layout->tensors[i];
        total += (uint64_t)tensor->shape[0] * tensor->shape[1];
        values += source->indices[i] >= 0 ? (uint64_t)tensor->shape[0] * tensor->shape[1] : 0;
    }
    info->kind = source->indices[n - 1] >= 0 ? DD_MODEL_CLASSIFIER : DD_MODEL_ENCODER;
    info->has_pooler = source->indices[n - 4] >= 0;
    info->parameters = values;
    info->bytes = source->weights->file_bytes;
    snprintf(info->weights_file, sizeof info->weights_file, "%s", source->weights->file);
    snprintf(info->weights_format, sizeof info->weights_format, "%.15s%s", source->weights->format,
             info->int8 ? "_int8" : "");
    if (info->int8 && info->kind != DD_MODEL_CLASSIFIER) {
        return dd_fail(err, DD_CORRUPT, "weights_missing", "classifier.weight is missing from the file");
    }
    if (values > file_values && total > SMALL_MODEL_VALUES) {
        return dd_fail(err, DD_CORRUPT, "weights_corrupt",
                       "the configuration asks for %llu parameters; the file's %llu bytes cannot hold them",
                       (unsigned long long)values, (unsigned long long)source->weights->data_bytes);
    }
    return DD_OK;
}

static enum dd_status open_source(const char *path, struct source *source, struct dd_model_info *info,
                                  struct dd_error *err) {
    struct dd_config_facts facts = {0};
    enum dd_status status = open_weights(source, path, err);
    if (status == DD_OK) {
        status = read_config(source, info, &facts, err);
    }
    if (status == DD_OK) {
        status = facts.int8 ? dd_params_layout_int8(&info->config, &source->layout, err)
                            : dd_params_layout(&info->config, &source->layout, err);
    }
    if (status != DD_OK) {
        return status;
    }
    info->int8 = facts.int8;
    source->indices = dd_calloc((size_t)source->layout->n_tensors, sizeof *source->indices);
    if (source->indices == NULL) {
        return dd_fail_memory(err, (size_t)source->layout->n_tensors * sizeof *source->indices);
    }
    status = dd_model_match(source->weights, source->layout, facts.ignore_classifier, facts.int8, source->indices, err);
    if (status == DD_OK) {
        status = describe(source, info, err);
    }
    return status == DD_OK ? open_tokenizer(source, &facts, info, err) : status;
}

/* --- the values --------------------------------------------------------------------------------------------------- */

static bool all_finite(const float *values, size_t count) {
    uint32_t bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad == 0;
}

static void hash_head(struct dd_sha256 *hash, const struct dd_tensor *tensor) {
    uint64_t numbers[3] = {(uint64_t)tensor->rank, tensor->shape[0], tensor->rank == 2 ? tensor->shape[1] : 1};
    dd_sha256_update(hash, tensor->name, strlen(tensor->name) + 1);
    dd_sha256_update(hash, numbers, sizeof numbers);
}

/* Reads one tensor in chunks [CHUNK_FLOATS], hashes it, and keeps it in into[tensor->count] unless that is NULL. */
static enum dd_status read_tensor(const struct dd_weight *weight, const struct dd_tensor *tensor,
                                  struct dd_sha256 *hash, float *chunk, float *into, struct dd_error *err) {
    struct dd_weight_reader reader;
    enum dd_status status = dd_weight_reader_init(&reader, weight, err);
    if (status != DD_OK) {
        return status;
    }
    hash_head(hash, tensor);
    for (size_t at = 0; at < tensor->count && status == DD_OK; at += CHUNK_FLOATS) {
        size_t count = DD_MIN(tensor->count - at, (size_t)CHUNK_FLOATS);
        dd_weight_read(&reader, at, count, chunk);
        dd_sha256_update(hash, chunk, count * sizeof *chunk);
        if (into != NULL) {
            memcpy(into + at, chunk, count * sizeof *chunk);
        }
        if (!all_finite(chunk, count)) {
            status = dd_fail(err, DD_CORRUPT, "weights_not_finite", "%s holds values that are no finite fp32 numbers",
                             tensor->name);
        }
    }
    dd_weight_reader_release(&reader);
    return status;
}

/* Every tensor that the file has, in slab order, into params (or nowhere when NULL); their hash into info. */
static enum dd_status read_values(const struct source *source, struct dd_params *params, struct dd_model_info *info,
                                  struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) float *chunk = dd_calloc(CHUNK_FLOATS, sizeof *chunk);
    uint8_t digest[DD_SHA256_BYTES];
    if (chunk == NULL) {
        return dd_fail_memory(err, CHUNK_FLOATS * sizeof *chunk);
    }
    struct dd_sha256 *hash = dd_sha256_new();
    if (hash == NULL) {
        return dd_fail_memory(err, DD_SHA256_BYTES);
    }
    enum dd_status status = DD_OK;
    const struct dd_params *layout = params != NULL ? params : source->layout;
    for (int i = 0; i < layout->n_tensors && status == DD_OK; i++) {
        const struct dd_tensor *tensor = &layout->tensors[i];
        const struct dd_weight *weight = source->indices[i] >= 0 ? &source->weights->items[source->indices[i]] : NULL;
        if (weight != NULL && info->int8 && dd_int8_keeps(tensor->name)) {
            hash_head(hash, tensor);
            status =
                dd_int8_read_tensor(source->weights, weight, tensor, params == NULL ? NULL : params->int8, hash, err);
        } else if (weight != NULL) {
            status =
                read_tensor(weight, tensor, hash, chunk, params == NULL ? NULL : params->slab + tensor->offset, err);
        }
    }
    if (status == DD_OK) {
        dd_sha256_digest(hash, digest);
        dd_hex(digest, sizeof digest, info->sha256);
    }
    dd_sha256_free(hash);
    return status;
}

/* Room for the values, and the values. */
static enum dd_status fill_params(const struct source *source, struct dd_params *params, struct dd_model_info *info,
                                  struct dd_error *err) {
    enum dd_status status = dd_params_allocate(params, err);
    if (status == DD_OK && info->int8) {
        status = dd_int8_new(&info->config, &params->int8, err);
    }
    return status == DD_OK ? read_values(source, params, info, err) : status;
}

/* sha256: NULL, or the values are left where they are. */
static enum dd_status load(const char *path, const char *sha256, struct dd_model **ret_model, struct dd_error *err) {
    DD_CLEANUP(release_source) struct source source = {0};
    struct dd_model *model = dd_calloc(1, sizeof *model);
    if (model == NULL) {
        return dd_fail_memory(err, sizeof *model);
    }
    enum dd_status status = open_source(path, &source, &model->info, err);
    if (status == DD_OK) { /* the layout becomes the model's */
        model->params = source.layout;
        source.layout = NULL;
    }
    if (status == DD_OK && (sha256 == NULL || model->info.int8)) {
        status = fill_params(&source, model->params, &model->info, err);
    } else if (status == DD_OK) {
        snprintf(model->info.sha256, sizeof model->info.sha256, "%s", sha256);
        model->path = dd_strdup(path);
        status = model->path != NULL ? DD_OK : dd_fail_memory(err, strlen(path));
    }
    if (status != DD_OK) {
        dd_model_free(model);
        return status;
    }
    model->tokenizer = source.tokenizer;
    source.tokenizer = NULL;
    *ret_model = model;
    return DD_OK;
}

enum dd_status dd_model_load(const char *path, struct dd_model **ret_model, struct dd_error *err) {
    return load(path, NULL, ret_model, err);
}

enum dd_status dd_model_open(const char *path, const char *sha256, struct dd_model **ret_model, struct dd_error *err) {
    return load(path, sha256, ret_model, err);
}

enum dd_status dd_model_need_weights(const struct dd_model *model, struct dd_error *err) {
    if (model->params->slab != NULL) {
        return DD_OK;
    }
    struct dd_model *found = NULL;
    enum dd_status status = load(model->path, NULL, &found, err);
    if (status != DD_OK) {
        return status;
    }
    if (strcmp(found->info.sha256, model->info.sha256) != 0 || found->params->count != model->params->count) {
        status = dd_fail(err, DD_CORRUPT, "model_changed",
                         "the weights in %s are not those that were registered; register them again", model->path);
    } else {
        model->params->slab = found->params->slab;
        found->params->slab = NULL;
    }
    dd_model_free(found);
    return status;
}

enum dd_status dd_model_inspect(const char *path, struct dd_model_info *ret_info, struct dd_error *err) {
    DD_CLEANUP(release_source) struct source source = {0};
    DD_CLEANUP(dd_free_ptr) struct dd_model_info *info = dd_calloc(1, sizeof *info);
    if (info == NULL) {
        return dd_fail_memory(err, sizeof *info);
    }
    enum dd_status status = open_source(path, &source, info, err);
    if (status == DD_OK) {
        status = read_values(&source, NULL, info, err);
    }
    if (status == DD_OK) {
        *ret_info = *info;
    }
    return status;
}

void dd_model_free(struct dd_model *model) {
    if (model == NULL) {
        return;
    }
    dd_params_free(model->params);
    dd_tokenizer_free(model->tokenizer);
    free(model->path);
    free(model);
}
