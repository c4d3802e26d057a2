/* dataset_meta: meta.json of a data set directory: classes, how dev came about, statistics.
 * Thread: any.  The file is hostile: every field is checked for type and range, and what the split files say themselves
 * (rows, rows a class, hash) is compared by dd_dataset_open.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dataset.h"
#include "engine/unicode.h"

#define META_FORMAT 1
#define META_BYTES_MAX ((size_t)1 << 20)
#define PATH_BYTES 4096
#define COUNT_MAX 0x1p53

static void free_json(cJSON **json) {
    cJSON_Delete(*json);
}

/* --- writing ----------------------------------------------------------------- */

static bool put_number(cJSON *object, const char *name, double value) {
    return cJSON_AddNumberToObject(object, name, value) != NULL;
}

static bool put_split(cJSON *splits, const struct dd_dataset_meta *meta, enum dd_split split) {
    const struct dd_split_info *info = &meta->splits[split];
    cJSON *object = cJSON_AddObjectToObject(splits, dd_split_name(split));
    bool ok = object && put_number(object, "rows", (double)info->rows);
    cJSON *class_rows = ok ? cJSON_AddArrayToObject(object, "class_rows") : NULL;
    ok = ok && class_rows;
    for (int i = 0; ok && i < meta->n_classes; i++) {
        ok = cJSON_AddItemToArray(class_rows, cJSON_CreateNumber((double)info->class_rows[i]));
    }
    cJSON *characters = ok ? cJSON_AddObjectToObject(object, "characters") : NULL;
    ok = ok && characters && put_number(characters, "mean", info->characters.mean) &&
         put_number(characters, "min", (double)info->characters.min) &&
         put_number(characters, "p50", (double)info->characters.p50) &&
         put_number(characters, "p95", (double)info->characters.p95) &&
         put_number(characters, "max", (double)info->characters.max) &&
         put_number(object, "duplicates", (double)info->duplicates);
    cJSON *others = ok ? cJSON_AddObjectToObject(object, "duplicates_of") : NULL;
    ok = ok && others;
    for (enum dd_split other = 0; ok && other < DD_SPLIT_COUNT; other++) {
        if (other != split && meta->splits[other].present) {
            ok = put_number(others, dd_split_name(other), (double)info->duplicates_of[other]);
        }
    }
    return ok && cJSON_AddStringToObject(object, "sha256", info->sha256);
}

static cJSON *to_json(const struct dd_dataset_meta *meta) {
    cJSON *root = cJSON_CreateObject();
    bool ok = root && put_number(root, "format", META_FORMAT);
    cJSON *classes = ok ? cJSON_AddArrayToObject(root, "classes") : NULL;
    ok = ok && classes;
    for (int i = 0; ok && i < meta->n_classes; i++) {
        ok = cJSON_AddItemToArray(classes, cJSON_CreateString(meta->classes[i]));
    }
    ok = ok && cJSON_AddBoolToObject(root, "pairs", meta->pairs);
    if (ok && meta->dev_was_split) {
        char seed[24]; /* as text: a double does not hold 64 bits */
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)meta->seed);
        cJSON *split = cJSON_AddObjectToObject(root, "dev_split");
        ok = split && put_number(split, "fraction", meta->dev_fraction) && cJSON_AddStringToObject(split, "seed", seed);
    }
    cJSON *splits = ok ? cJSON_AddObjectToObject(root, "splits") : NULL;
    ok = ok && splits;
    for (enum dd_split split = 0; ok && split < DD_SPLIT_COUNT; split++) {
        ok = !meta->splits[split].present || put_split(splits, meta, split);
    }
    if (!ok) {
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

enum dd_status dd_dataset_meta_write(const char *dir, const struct dd_dataset_meta *meta, struct dd_error *err) {
    char path[PATH_BYTES];
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "meta.json", NULL);
    if (status) {
        return status;
    }
    DD_CLEANUP(free_json) cJSON *root = to_json(meta);
    DD_CLEANUP(dd_free_ptr) char *text = root ? cJSON_Print(root) : NULL;
    if (!text) {
        return dd_fail_memory(err, META_BYTES_MAX);
    }
    return dd_file_write_durable(path, text, strlen(text), err);
}

/* --- reading ----------------------------------------------------------------- */

static bool get_number(const cJSON *object, const char *name, double most, double *ret_value) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= most)) {
        return false;
    }
    *ret_value = item->valuedouble;
    return true;
}

static bool get_count(const cJSON *object, const char *name, uint64_t *ret_value) {
    double value;
    if (!get_number(object, name, COUNT_MAX, &value) || value != floor(value)) {
        return false;
    }
    *ret_value = (uint64_t)value;
    return true;
}

static bool get_length(const cJSON *object, const char *name, int64_t *ret_value) {
    uint64_t value;
    if (!get_count(object, name, &value)) {
        return false;
    }
    *ret_value = (int64_t)value;
    return true;
}

static bool get_split(const cJSON *object, const struct dd_dataset_meta *meta, struct dd_split_info *info) {
    const cJSON *class_rows = cJSON_GetObjectItemCaseSensitive(object, "class_rows");
    if (!cJSON_IsObject(object) || !get_count(object, "rows", &info->rows) || !cJSON_IsArray(class_rows) ||
        cJSON_GetArraySize(class_rows) != meta->n_classes) {
        return false;
    }
    int i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, class_rows) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= COUNT_MAX)) {
            return false;
        }
        info->class_rows[i++] = (uint64_t)item->valuedouble;
    }
    const cJSON *characters = cJSON_GetObjectItemCaseSensitive(object, "characters");
    const cJSON *others = cJSON_GetObjectItemCaseSensitive(object, "duplicates_of");
    const cJSON *sha256 = cJSON_GetObjectItemCaseSensitive(object, "sha256");
    if (!get_number(characters, "mean", COUNT_MAX, &info->characters.mean) ||
        !get_length(characters, "min", &info->characters.min) ||
        !get_length(characters, "p50", &info->characters.p50) ||
        !get_length(characters, "p95", &info->characters.p95) ||
        !get_length(characters, "max", &info->characters.max) || !get_count(object, "duplicates", &info->duplicates) ||
        !cJSON_IsObject(others) || !cJSON_IsString(sha256) || strlen(sha256->valuestring) != DD_SHA256_HEX_BYTES - 1) {
        return false;
    }
    for (enum dd_split other = 0; other < DD_SPLIT_COUNT; other++) {
        const char *name = dd_split_name(other);
        if (cJSON_GetObjectItemCaseSensitive(others, name) && !get_count(others, name, &info->duplicates_of[other])) {
            return false;
        }
    }
    memcpy(info->sha256, sha256->valuestring, DD_SHA256_HEX_BYTES);
    info->present = true;
    return true;
}

static bool get_classes(const cJSON *root, struct dd_dataset_meta *meta) {
    const cJSON *classes = cJSON_GetObjectItemCaseSensitive(root, "classes");
    int n = cJSON_IsArray(classes) ? cJSON_GetArraySize(classes) : 0;
    if (n < 2 || n > DD_MAX_CLASSES) {
        return false;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, classes) {
        size_t len = cJSON_IsString(item) ? strlen(item->valuestring) : 0;
        if (len == 0 || len >= DD_LABEL_BYTES || !dd_utf8_valid(item->valuestring, len)) {
            return false;
        }
        for (int i = 0; i < meta->n_classes; i++) {
            if (strcmp(meta->classes[i], item->valuestring) == 0) {
                return false;
            }
        }
        memcpy(meta->classes[meta->n_classes++], item->valuestring, len + 1);
    }
    return true;
}

static bool get_dev_split(const cJSON *root, struct dd_dataset_meta *meta) {
    const cJSON *split = cJSON_GetObjectItemCaseSensitive(root, "dev_split");
    if (!split) {
        return true;
    }
    const cJSON *seed = cJSON_GetObjectItemCaseSensitive(split, "seed");
    if (!get_number(split, "fraction", 1, &meta->dev_fraction) || !cJSON_IsString(seed)) {
        return false;
    }
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(seed->valuestring, &end, 10);
    meta->seed = value;
    meta->dev_was_split = true;
    return errno == 0 && end != seed->valuestring && *end == '\0';
}

static bool from_json(const cJSON *root, struct dd_dataset_meta *meta) {
    double format;
    const cJSON *pairs = cJSON_GetObjectItemCaseSensitive(root, "pairs");
    const cJSON *splits = cJSON_GetObjectItemCaseSensitive(root, "splits");
    if (!get_number(root, "format", COUNT_MAX, &format) || format != META_FORMAT || !cJSON_IsBool(pairs) ||
        !cJSON_IsObject(splits) || !get_classes(root, meta) || !get_dev_split(root, meta)) {
        return false;
    }
    meta->pairs = cJSON_IsTrue(pairs);
    for (enum dd_split split = 0; split < DD_SPLIT_COUNT; split++) {
        const cJSON *object = cJSON_GetObjectItemCaseSensitive(splits, dd_split_name(split));
        if (object && !get_split(object, meta, &meta->splits[split])) {
            return false;
        }
    }
    return meta->splits[DD_SPLIT_TRAIN].present && meta->splits[DD_SPLIT_DEV].present;
}

enum dd_status dd_dataset_meta_read(const char *dir, struct dd_dataset_meta *ret_meta, struct dd_error *err) {
    char path[PATH_BYTES];
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t len = 0;
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "meta.json", NULL);
    if (!status) {
        status = dd_file_read(path, META_BYTES_MAX, &text, &len, err);
    }
    if (status) {
        return status;
    }
    DD_CLEANUP(free_json) cJSON *root = cJSON_ParseWithLength(text, len);
    memset(ret_meta, 0, sizeof *ret_meta);
    if (!from_json(root, ret_meta)) {
        return dd_fail(err, DD_CORRUPT, "dataset_damaged", "%s is damaged; import the data set again", path);
    }
    return DD_OK;
}
