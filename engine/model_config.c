/* model_config: config.json, read and written.
 *
 * Reading is tolerant of fields it does not know and strict about those it does: types, bounds, and everything that
 * would make the network another one than dd_bert computes (other model types, relative positions, decoders, pruned
 * heads, quantised weights) is refused rather than ignored.  Defaults are those of transformers.BertConfig.
 * Threads: no state.
 */
#include "engine/model.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

cJSON *dd_json_parse(const char *text, size_t bytes) {
    if (strlen(text) != bytes) {
        return NULL;
    }
    return cJSON_ParseWithOpts(text, NULL, 1);
}

static enum dd_status invalid(struct dd_error *err, const char *field, const char *what) {
    return dd_fail(err, DD_INVALID, "model_config_invalid", "%s %s", field, what);
}

static enum dd_status unsupported(struct dd_error *err, const char *field, const char *what) {
    return dd_fail(err, DD_UNSUPPORTED, "model_unsupported", "%s %s", field, what);
}

/* An absent or null field leaves *value as it is. */
static enum dd_status read_int(const cJSON *json, const char *field, int *value, struct dd_error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, field);
    if (item == NULL || cJSON_IsNull(item)) {
        return DD_OK;
    }
    if (!cJSON_IsNumber(item) || item->valuedouble != floor(item->valuedouble) ||
        !(fabs(item->valuedouble) <= (double)INT_MAX)) {
        return invalid(err, field, "must be a whole number");
    }
    *value = (int)item->valuedouble;
    return DD_OK;
}

static enum dd_status read_double(const cJSON *json, const char *field, double *value, struct dd_error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, field);
    if (item == NULL || cJSON_IsNull(item)) {
        return DD_OK;
    }
    if (!cJSON_IsNumber(item)) {
        return invalid(err, field, "must be a number");
    }
    *value = item->valuedouble;
    return DD_OK;
}

/* NULL where the field is absent or null. */
static enum dd_status read_text(const cJSON *json, const char *field, const char **ret_text, struct dd_error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, field);
    if (item == NULL || cJSON_IsNull(item)) {
        *ret_text = NULL;
        return DD_OK;
    }
    if (!cJSON_IsString(item)) {
        return invalid(err, field, "must be a text");
    }
    *ret_text = item->valuestring;
    return DD_OK;
}

static enum dd_status read_shape(const cJSON *json, struct dd_bert_config *config, struct dd_error *err) {
    const struct {
        const char *field;
        int *value;
    } required[] = {
        {"vocab_size", &config->vocab_size},
        {"hidden_size", &config->hidden_size},
        {"num_hidden_layers", &config->layers},
        {"num_attention_heads", &config->heads},
        {"intermediate_size", &config->intermediate_size},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(required); i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, required[i].field);
        if (item == NULL || cJSON_IsNull(item)) {
            return invalid(err, required[i].field, "is missing");
        }
        enum dd_status status = read_int(json, required[i].field, required[i].value, err);
        if (status != DD_OK) {
            return status;
        }
    }
    enum dd_status status = read_int(json, "max_position_embeddings", &config->max_positions, err);
    if (status == DD_OK) {
        status = read_int(json, "type_vocab_size", &config->type_vocab_size, err);
    }
    return status == DD_OK ? read_int(json, "pad_token_id", &config->pad_token_id, err) : status;
}

static enum dd_status read_rates(const cJSON *json, struct dd_bert_config *config, struct dd_error *err) {
    const struct {
        const char *field;
        double *value;
    } rates[] = {
        {"layer_norm_eps", &config->layer_norm_eps},
        {"initializer_range", &config->initializer_range},
        {"hidden_dropout_prob", &config->hidden_dropout},
        {"attention_probs_dropout_prob", &config->attention_dropout},
        {"classifier_dropout", &config->classifier_dropout},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(rates); i++) {
        enum dd_status status = read_double(json, rates[i].field, rates[i].value, err);
        if (status != DD_OK) {
            return status;
        }
    }
    return DD_OK;
}

/* The names that transformers has for the three functions; those on the right compute the same. */
static enum dd_status read_activation(const cJSON *json, struct dd_bert_config *config, struct dd_error *err) {
    static const struct {
        const char *theirs, *ours;
    } names[] = {
        {"gelu", "gelu"},          {"gelu_python", "gelu"},           {"gelu_new", "gelu_new"},
        {"gelu_fast", "gelu_new"}, {"gelu_pytorch_tanh", "gelu_new"}, {"relu", "relu"},
    };
    const char *text = NULL;
    enum dd_status status = read_text(json, "hidden_act", &text, err);
    if (status != DD_OK) {
        return status;
    }
    text = text == NULL ? "gelu" : text;
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i].theirs) == 0) {
            snprintf(config->hidden_act, sizeof config->hidden_act, "%s", names[i].ours);
            return DD_OK;
        }
    }
    return dd_fail(err, DD_UNSUPPORTED, "model_unsupported",
                   "hidden_act is \"%.40s\"; gelu, gelu_new, gelu_pytorch_tanh and relu are supported", text);
}

/* --- what would be another network -------------------------------------------------------------------------------- */

static bool is_true(const cJSON *json, const char *field) {
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, field));
}

static enum dd_status check_kind_of_network(const cJSON *json, struct dd_error *err) {
    const char *type = NULL, *positions = NULL;
    enum dd_status status = read_text(json, "model_type", &type, err);
    if (status == DD_OK) {
        status = read_text(json, "position_embedding_type", &positions, err);
    }
    if (status != DD_OK) {
        return status;
    }
    if (type != NULL && strcmp(type, "bert") != 0 && strcmp(type, DD_INT8_MODEL_TYPE) != 0) {
        return dd_fail(err, DD_UNSUPPORTED, "model_unsupported", "model_type is \"%.40s\"; only bert is supported",
                       type);
    }
    if (positions != NULL && strcmp(positions, "absolute") != 0) {
        return dd_fail(err, DD_UNSUPPORTED, "model_unsupported",
                       "position_embedding_type is \"%.40s\"; only absolute is supported", positions);
    }
    if (is_true(json, "is_decoder") || is_true(json, "add_cross_attention")) {
        return unsupported(err, "is_decoder", "is true; only encoders are supported");
    }
    const cJSON *pruned = cJSON_GetObjectItemCaseSensitive(json, "pruned_heads");
    if ((cJSON_IsObject(pruned) || cJSON_IsArray(pruned)) && pruned->child != NULL) {
        return unsupported(err, "pruned_heads", "is not empty; pruned models are not supported");
    }
    return DD_OK;
}

/* Quantised weights are read only in our own format. */
static enum dd_status read_quantization(const cJSON *json, struct dd_config_facts *facts, struct dd_error *err) {
    const cJSON *quantization = cJSON_GetObjectItemCaseSensitive(json, "quantization_config");
    if (!cJSON_IsObject(quantization)) {
        const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "model_type"));
        return type == NULL || strcmp(type, DD_INT8_MODEL_TYPE) != 0
                   ? DD_OK
                   : unsupported(err, "quantization_config", "is missing, but model_type says that weights are int8");
    }
    const char *method = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(quantization, "quant_method"));
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(quantization, "version");
    if (method == NULL || strcmp(method, DD_INT8_METHOD) != 0) {
        return unsupported(err, "quantization_config",
                           "is given; of quantised models only distilld's own are supported");
    }
    if (!cJSON_IsNumber(version) || version->valuedouble != DD_INT8_VERSION) {
        return unsupported(err, "quantization_config", "has another version than 1: it was made by a newer distilld");
    }
    facts->int8 = true;
    return DD_OK;
}

/* The classifier.* of another architecture (token classification, multiple choice) is no sequence classifier. */
static enum dd_status read_architecture(const cJSON *json, struct dd_config_facts *facts, struct dd_error *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "architectures");
    const char *problem = NULL;
    const char *architecture = cJSON_IsArray(list) && cJSON_IsString(list->child) ? list->child->valuestring : NULL;
    if (architecture != NULL && strncmp(architecture, "Bert", 4) == 0 && strstr(architecture, "For") != NULL) {
        facts->ignore_classifier = strcmp(architecture, "BertForSequenceClassification") != 0;
    }
    enum dd_status status = read_text(json, "problem_type", &problem, err);
    if (status == DD_OK && problem != NULL && !facts->ignore_classifier &&
        strcmp(problem, "single_label_classification") != 0) {
        return dd_fail(err, DD_UNSUPPORTED, "model_unsupported",
                       "problem_type is \"%.40s\"; only single_label_classification is supported", problem);
    }
    return status;
}

/* --- labels ------------------------------------------------------------------------------------------------------- */

void dd_model_labels_default(struct dd_model_info *info) {
    for (int i = 0; i < DD_MAX_CLASSES; i++) {
        info->labels[i][0] = 0;
        if (i < info->n_labels) {
            snprintf(info->labels[i], sizeof info->labels[i], "LABEL_%d", i);
        }
    }
}

static bool is_utf8(const char *text) {
    size_t left = strlen(text);
    while (left > 0) {
        utf8proc_int32_t code_point;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)left, &code_point);
        if (used <= 0) {
            return false;
        }
        text += used;
        left -= (size_t)used;
    }
    return true;
}

/* One entry of id2label into info->labels, which are empty until set. */
static enum dd_status read_label(const cJSON *item, int count, bool *seen, struct dd_model_info *info,
                                 struct dd_error *err) {
    char *end = NULL;
    long index = strtol(item->string, &end, 10);
    if (end == item->string || *end != 0 || index < 0 || index >= count || seen[index]) {
        return dd_fail(err, DD_INVALID, "model_config_invalid",
                       "id2label has the key \"%.40s\"; its %d keys must be the numbers from 0, each once",
                       item->string, count);
    }
    seen[index] = true;
    char *label = info->labels[index];
    if (cJSON_IsNumber(item) && item->valuedouble == floor(item->valuedouble) && fabs(item->valuedouble) < 1e15) {
        snprintf(label, sizeof info->labels[index], "%.0f", item->valuedouble);
        return DD_OK;
    }
    if (!cJSON_IsString(item) || strlen(item->valuestring) >= sizeof info->labels[index] ||
        !is_utf8(item->valuestring)) {
        return dd_fail(err, DD_INVALID, "model_config_invalid",
                       "id2label[%ld] must be a text of at most %zu bytes of UTF-8", index,
                       sizeof info->labels[index] - 1);
    }
    snprintf(label, sizeof info->labels[index], "%s", item->valuestring);
    return DD_OK;
}

static enum dd_status read_labels(const cJSON *json, struct dd_model_info *info, struct dd_config_facts *facts,
                                  struct dd_error *err) {
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(json, "id2label");
    int count = 0;
    bool seen[DD_MAX_CLASSES] = {0};
    enum dd_status status = read_int(json, "num_labels", &count, err);
    if (status != DD_OK) {
        return status;
    }
    facts->n_labels_given = count > 0;
    info->n_labels = count > 0 ? count : 2;
    if (map != NULL && !cJSON_IsNull(map)) {
        if (!cJSON_IsObject(map)) {
            return invalid(err, "id2label", "must be an object");
        }
        if (map->child != NULL) {
            info->n_labels = cJSON_GetArraySize(map);
            facts->labels_given = facts->n_labels_given = true;
        }
    }
    if (info->n_labels > DD_MAX_CLASSES) {
        return dd_fail(err, DD_INVALID, "model_config_invalid", "the model has %d labels; at most %d are supported",
                       info->n_labels, DD_MAX_CLASSES);
    }
    dd_model_labels_default(info);
    for (const cJSON *item = facts->labels_given ? map->child : NULL; item != NULL; item = item->next) {
        status = read_label(item, info->n_labels, seen, info, err);
        if (status != DD_OK) {
            return status;
        }
    }
    for (int i = 0; i < info->n_labels; i++) {
        for (int j = 0; j < i; j++) {
            if (strcmp(info->labels[i], info->labels[j]) == 0) {
                return dd_fail(err, DD_INVALID, "model_config_invalid", "id2label gives %d and %d the same name \"%s\"",
                               j, i, info->labels[i]);
            }
        }
    }
    return DD_OK;
}

static enum dd_status read_fold(const cJSON *json, struct dd_fold_record *ret_fold, struct dd_error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, "distilld_fold");
    struct dd_fold_record fold = {.folds = 0};
    *ret_fold = fold;
    if (item == NULL || cJSON_IsNull(item)) {
        return DD_OK;
    }
    const char *sha256 = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "train_sha256"));
    enum dd_status status = read_int(item, "folds", &fold.folds, err);
    if (status == DD_OK) {
        status = read_int(item, "fold", &fold.fold, err);
    }
    if (status != DD_OK) {
        return status;
    }
    if (fold.folds < 2 || fold.folds > DD_MAX_FOLDS || fold.fold < 0 || fold.fold >= fold.folds || sha256 == NULL ||
        strlen(sha256) != sizeof fold.train_sha256 - 1 || strspn(sha256, "0123456789abcdef") != strlen(sha256)) {
        return invalid(err, "distilld_fold", "must have folds, a smaller fold, and train_sha256");
    }
    snprintf(fold.train_sha256, sizeof fold.train_sha256, "%s", sha256);
    *ret_fold = fold;
    return DD_OK;
}

enum dd_status dd_model_config_read(const cJSON *json, struct dd_model_info *info, struct dd_config_facts *ret_facts,
                                    struct dd_error *err) {
    struct dd_config_facts facts = {.do_lower_case = -1};
    struct dd_bert_config *config = &info->config;
    memset(config, 0, sizeof *config); /* padding too: equal configurations have equal bytes */
    config->max_positions = 512;
    config->type_vocab_size = 2;
    config->layer_norm_eps = 1e-12;
    config->initializer_range = 0.02;
    config->hidden_dropout = config->attention_dropout = 0.1;
    config->classifier_dropout = NAN;
    if (!cJSON_IsObject(json)) {
        return dd_fail(err, DD_CORRUPT, "model_config_invalid", "the configuration is not a JSON object");
    }
    enum dd_status status = check_kind_of_network(json, err);
    if (status == DD_OK) {
        status = read_quantization(json, &facts, err);
    }
    if (status == DD_OK) {
        status = read_architecture(json, &facts, err);
    }
    if (status == DD_OK) {
        status = read_shape(json, config, err);
    }
    if (status == DD_OK) {
        status = read_rates(json, config, err);
    }
    if (status == DD_OK) {
        status = read_activation(json, config, err);
    }
    if (status == DD_OK) {
        status = read_labels(json, info, &facts, err);
    }
    if (status != DD_OK) {
        return status;
    }
    const cJSON *lower = cJSON_GetObjectItemCaseSensitive(json, "do_lower_case");
    if (cJSON_IsBool(lower)) {
        facts.do_lower_case = cJSON_IsTrue(lower);
    }
    status = read_fold(json, &info->fold, err);
    if (status != DD_OK) {
        return status;
    }
    config->n_labels = info->n_labels;
    *ret_facts = facts;
    return dd_bert_config_check(config, err);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static bool put_numbers(cJSON *json, const struct dd_bert_config *config) {
    const struct {
        const char *field;
        double value;
    } numbers[] = {
        {"vocab_size", config->vocab_size},
        {"hidden_size", config->hidden_size},
        {"num_hidden_layers", config->layers},
        {"num_attention_heads", config->heads},
        {"intermediate_size", config->intermediate_size},
        {"max_position_embeddings", config->max_positions},
        {"type_vocab_size", config->type_vocab_size},
        {"pad_token_id", config->pad_token_id},
        {"layer_norm_eps", config->layer_norm_eps},
        {"initializer_range", config->initializer_range},
        {"hidden_dropout_prob", config->hidden_dropout},
        {"attention_probs_dropout_prob", config->attention_dropout},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(numbers); i++) {
        if (cJSON_AddNumberToObject(json, numbers[i].field, numbers[i].value) == NULL) {
            return false;
        }
    }
    return (isnan(config->classifier_dropout)
                ? cJSON_AddNullToObject(json, "classifier_dropout")
                : cJSON_AddNumberToObject(json, "classifier_dropout", config->classifier_dropout)) != NULL;
}

static bool put_labels(cJSON *json, const struct dd_model_info *info) {
    cJSON *names = cJSON_AddObjectToObject(json, "id2label"), *ids = cJSON_AddObjectToObject(json, "label2id");
    for (int i = 0; names != NULL && ids != NULL && i < info->n_labels; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        if (cJSON_AddStringToObject(names, key, info->labels[i]) == NULL ||
            cJSON_AddNumberToObject(ids, info->labels[i], i) == NULL) {
            return false;
        }
    }
    return names != NULL && ids != NULL;
}

static bool put_constants(cJSON *json, const struct dd_model_info *info, enum dd_dtype dtype) {
    bool classifier = info->kind == DD_MODEL_CLASSIFIER;
    cJSON *list = cJSON_AddArrayToObject(json, "architectures");
    cJSON *architecture = cJSON_CreateString(classifier ? "BertForSequenceClassification" : "BertModel");
    if (list == NULL || architecture == NULL) {
        cJSON_Delete(architecture);
        return false;
    }
    cJSON_AddItemToArray(list, architecture);
    if (classifier && cJSON_AddStringToObject(json, "problem_type", "single_label_classification") == NULL) {
        return false;
    }
    return cJSON_AddStringToObject(json, "model_type", info->int8 ? DD_INT8_MODEL_TYPE : "bert") != NULL &&
           cJSON_AddStringToObject(json, "hidden_act", info->config.hidden_act) != NULL &&
           cJSON_AddStringToObject(json, "position_embedding_type", "absolute") != NULL &&
           cJSON_AddStringToObject(json, "torch_dtype", dtype == DD_DTYPE_F16 ? "float16" : "float32") != NULL;
}

static bool put_quantization(cJSON *json, const struct dd_model_info *info) {
    if (!info->int8) {
        return true;
    }
    cJSON *quantization = cJSON_AddObjectToObject(json, "quantization_config");
    return quantization != NULL && cJSON_AddStringToObject(quantization, "quant_method", DD_INT8_METHOD) != NULL &&
           cJSON_AddNumberToObject(quantization, "version", DD_INT8_VERSION) != NULL;
}

static bool put_fold(cJSON *json, const struct dd_fold_record *fold) {
    if (fold->folds == 0) {
        return true;
    }
    cJSON *item = cJSON_AddObjectToObject(json, "distilld_fold");
    return item != NULL && cJSON_AddNumberToObject(item, "folds", fold->folds) != NULL &&
           cJSON_AddNumberToObject(item, "fold", fold->fold) != NULL &&
           cJSON_AddStringToObject(item, "train_sha256", fold->train_sha256) != NULL;
}

enum dd_status dd_model_config_write(const struct dd_model_info *info, enum dd_dtype dtype, char **ret_text,
                                     struct dd_error *err) {
    cJSON *json = cJSON_CreateObject();
    char *text = NULL;
    if (json != NULL && put_constants(json, info, dtype) && put_numbers(json, &info->config) &&
        put_labels(json, info) && put_quantization(json, info) && put_fold(json, &info->fold)) {
        text = cJSON_Print(json);
    }
    cJSON_Delete(json);
    if (text == NULL) {
        return dd_fail_memory(err, 4096);
    }
    *ret_text = text;
    return DD_OK;
}
