/* What is kept in storage about data sets and models, written once when they come in, so that a GET reads no file.
 * Threads: request and worker threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

/* Rows up to which the token statistics of a data set are made: beyond, the vocabulary for them costs too long. */
#define MAX_ROWS_FOR_TOKENS 500000
#define TOKEN_VOCABULARY 8000

static cJSON *lengths_json(const struct dd_length_stats *stats) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "min", (double)stats->min);
    dd_put_number(json, "mean", stats->mean);
    cJSON_AddNumberToObject(json, "p50", (double)stats->p50);
    cJSON_AddNumberToObject(json, "p95", (double)stats->p95);
    cJSON_AddNumberToObject(json, "max", (double)stats->max);
    return json;
}

/* The tokenizer that a model trained from scratch on this data set would get; NULL where that takes too long. */
static struct dd_tokenizer *own_tokenizer(const struct dd_dataset *dataset, const struct dd_cancel *cancel) {
    const struct dd_tokenizer_options options = {true, true, true};
    struct dd_tokenizer *tokenizer = NULL;
    struct dd_error err;
    DD_CLEANUP(dd_free_ptr) char *vocab = NULL;
    size_t bytes;
    if (dd_dataset_rows(dataset, DD_SPLIT_TRAIN) > MAX_ROWS_FOR_TOKENS || dd_cancel_requested(cancel) != DD_STOP_NONE)
        return NULL;
    if (dd_vocab_build(dataset, &options, TOKEN_VOCABULARY, &vocab, &bytes, &err) != DD_OK)
        return NULL;
    return dd_tokenizer_new(vocab, bytes, &options, &tokenizer, &err) == DD_OK ? tokenizer : NULL;
}

static cJSON *split_json(const struct dd_dataset *dataset, enum dd_split split, const struct dd_tokenizer *tokenizer) {
    const struct dd_split_info *info = dd_dataset_split(dataset, split);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "rows", (double)info->rows);
    cJSON_AddItemToObject(json, "characters", lengths_json(&info->characters));
    struct dd_length_stats tokens;
    struct dd_error err;
    if (tokenizer != NULL && info->rows <= MAX_ROWS_FOR_TOKENS &&
        dd_dataset_token_stats(dataset, split, tokenizer, &tokens, &err) == DD_OK)
        cJSON_AddItemToObject(json, "tokens", lengths_json(&tokens));
    else
        cJSON_AddNullToObject(json, "tokens");
    cJSON_AddNumberToObject(json, "duplicates", (double)info->duplicates);
    cJSON *of = cJSON_AddObjectToObject(json, "duplicates_of");
    for (int other = 0; other < DD_SPLIT_COUNT; other++)
        if (other != (int)split && dd_dataset_split(dataset, (enum dd_split)other)->present)
            cJSON_AddNumberToObject(of, dd_split_name((enum dd_split)other), (double)info->duplicates_of[other]);
    cJSON_AddStringToObject(json, "sha256", info->sha256);
    return json;
}

cJSON *dd_dataset_describe(const struct dd_dataset *dataset, uint64_t skipped, const struct dd_cancel *cancel) {
    cJSON *json = cJSON_CreateObject();
    cJSON *classes = cJSON_AddArrayToObject(json, "classes");
    for (int c = 0; c < dd_dataset_classes(dataset); c++) {
        cJSON *class = cJSON_CreateObject();
        cJSON_AddStringToObject(class, "name", dd_dataset_class(dataset, c));
        cJSON *rows = cJSON_AddObjectToObject(class, "rows");
        for (int s = 0; s < DD_SPLIT_UNLABELLED; s++) {
            const struct dd_split_info *info = dd_dataset_split(dataset, (enum dd_split)s);
            if (info->present)
                cJSON_AddNumberToObject(rows, dd_split_name((enum dd_split)s), (double)info->class_rows[c]);
        }
        cJSON_AddItemToArray(classes, class);
    }
    struct dd_tokenizer *tokenizer = own_tokenizer(dataset, cancel);
    cJSON *rows = cJSON_AddObjectToObject(json, "rows"), *splits = cJSON_AddObjectToObject(json, "splits");
    for (int s = 0; s < DD_SPLIT_COUNT; s++) {
        const struct dd_split_info *info = dd_dataset_split(dataset, (enum dd_split)s);
        if (!info->present)
            continue;
        cJSON_AddNumberToObject(rows, dd_split_name((enum dd_split)s), (double)info->rows);
        cJSON_AddItemToObject(splits, dd_split_name((enum dd_split)s),
                              split_json(dataset, (enum dd_split)s, tokenizer));
    }
    if (tokenizer != NULL)
        cJSON_AddStringToObject(json, "tokens_counted_with", "a vocabulary of 8,000 built from the training split");
    else
        cJSON_AddNullToObject(json, "tokens_counted_with");
    dd_tokenizer_free(tokenizer);
    cJSON_AddBoolToObject(json, "pairs", dd_dataset_has_pairs(dataset));
    double fraction;
    uint64_t seed;
    if (dd_dataset_dev_was_split(dataset, &fraction, &seed)) {
        cJSON *split = cJSON_AddObjectToObject(json, "dev_split");
        cJSON_AddNumberToObject(split, "fraction", fraction);
        cJSON_AddNumberToObject(split, "seed", (double)seed);
    } else {
        cJSON_AddNullToObject(json, "dev_split");
    }
    cJSON_AddNumberToObject(json, "skipped", (double)skipped);
    return json;
}

cJSON *dd_model_describe(const struct dd_model_info *info, int max_length, cJSON *source) {
    const struct dd_bert_config *c = &info->config;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "kind", info->kind == DD_MODEL_CLASSIFIER ? "classifier" : "encoder");
    cJSON *shape = cJSON_AddObjectToObject(json, "shape");
    cJSON_AddNumberToObject(shape, "layers", c->layers);
    cJSON_AddNumberToObject(shape, "heads", c->heads);
    cJSON_AddNumberToObject(shape, "hidden_size", c->hidden_size);
    cJSON_AddNumberToObject(shape, "intermediate_size", c->intermediate_size);
    cJSON_AddNumberToObject(shape, "vocab_size", c->vocab_size);
    cJSON_AddNumberToObject(shape, "max_positions", c->max_positions);
    cJSON_AddNumberToObject(shape, "type_vocab_size", c->type_vocab_size);
    cJSON_AddNumberToObject(shape, "pad_token_id", c->pad_token_id);
    cJSON_AddStringToObject(shape, "hidden_act", c->hidden_act);
    cJSON_AddNumberToObject(shape, "layer_norm_eps", c->layer_norm_eps);
    cJSON_AddNumberToObject(shape, "initializer_range", c->initializer_range);
    cJSON_AddNumberToObject(shape, "hidden_dropout", c->hidden_dropout);
    cJSON_AddNumberToObject(shape, "attention_dropout", c->attention_dropout);
    dd_put_number(shape, "classifier_dropout", c->classifier_dropout);
    cJSON_AddNumberToObject(json, "parameters", (double)info->parameters);
    cJSON_AddNumberToObject(json, "bytes", (double)info->bytes);
    cJSON *labels = cJSON_AddArrayToObject(json, "labels");
    for (int i = 0; info->kind == DD_MODEL_CLASSIFIER && i < info->n_labels; i++)
        cJSON_AddItemToArray(labels, cJSON_CreateString(info->labels[i]));
    cJSON_AddBoolToObject(json, "has_pooler", info->has_pooler);
    cJSON_AddBoolToObject(json, "has_tokenizer", info->has_tokenizer);
    cJSON_AddBoolToObject(json, "lower_case", info->do_lower_case);
    cJSON_AddStringToObject(json, "weights_format", info->weights_format);
    cJSON_AddStringToObject(json, "sha256", info->sha256);
    cJSON_AddNumberToObject(json, "max_length", max_length);
    if (info->fold.folds > 0) {
        cJSON *fold = cJSON_AddObjectToObject(json, "fold");
        cJSON_AddNumberToObject(fold, "folds", info->fold.folds);
        cJSON_AddNumberToObject(fold, "fold", info->fold.fold);
        cJSON_AddStringToObject(fold, "train_sha256", info->fold.train_sha256);
    }
    cJSON_AddItemToObject(json, "source", source);
    return json;
}

static bool get_int(const cJSON *object, const char *name, int *ret_value) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item))
        return false;
    *ret_value = item->valueint;
    return true;
}

static bool get_number(const cJSON *object, const char *name, double *ret_value) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    *ret_value = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    return cJSON_IsNumber(item) || cJSON_IsNull(item);
}

bool dd_model_config_of(const char *info_json, struct dd_bert_config *ret_config) {
    struct dd_bert_config c;
    memset(&c, 0, sizeof c);
    cJSON *json = dd_json_of(info_json);
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(json, "shape");
    const cJSON *act = cJSON_GetObjectItemCaseSensitive(shape, "hidden_act");
    bool good =
        get_int(shape, "layers", &c.layers) && get_int(shape, "heads", &c.heads) &&
        get_int(shape, "hidden_size", &c.hidden_size) && get_int(shape, "intermediate_size", &c.intermediate_size) &&
        get_int(shape, "vocab_size", &c.vocab_size) && get_int(shape, "max_positions", &c.max_positions) &&
        get_int(shape, "type_vocab_size", &c.type_vocab_size) && get_int(shape, "pad_token_id", &c.pad_token_id) &&
        get_number(shape, "layer_norm_eps", &c.layer_norm_eps) &&
        get_number(shape, "initializer_range", &c.initializer_range) &&
        get_number(shape, "hidden_dropout", &c.hidden_dropout) &&
        get_number(shape, "attention_dropout", &c.attention_dropout) &&
        get_number(shape, "classifier_dropout", &c.classifier_dropout) && cJSON_IsString(act);
    if (good) {
        snprintf(c.hidden_act, sizeof c.hidden_act, "%s", act->valuestring);
        c.n_labels = DD_MAX(2, cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "labels")));
        *ret_config = c;
    }
    cJSON_Delete(json);
    return good;
}

void dd_spec_teacher_from(const struct dd_bert_config *config, struct dd_spec_teacher *ret_teacher) {
    *ret_teacher = (struct dd_spec_teacher){.layers = config->layers,
                                            .heads = config->heads,
                                            .hidden_size = config->hidden_size,
                                            .intermediate_size = config->intermediate_size,
                                            .max_position_embeddings = config->max_positions,
                                            .hidden_dropout = config->hidden_dropout,
                                            .attention_dropout = config->attention_dropout};
    /* The tanh form has several names in Hugging Face's configurations; a spec has one. */
    bool tanh_form = strcmp(config->hidden_act, "gelu_pytorch_tanh") == 0;
    snprintf(ret_teacher->hidden_act, sizeof ret_teacher->hidden_act, "%s",
             tanh_form ? "gelu_new" : config->hidden_act);
}
