/* train_student: the model a run trains, with its first weights.
 *
 *   distill               teacher's vocabulary, perhaps with whole words behind it (whole_words.c), positions and
 *                         constants; layers, heads and sizes of the spec; weights random, from the teacher or from
 *                         another model (spec->init)
 *   finetune, model       the starting model; a new head unless its labels are the data set's classes
 *   finetune, no model    all new; the vocabulary given or built from the train split
 *
 * Every weight is first drawn by dd_params_init, then what has a source is copied over it: so what is drawn does not
 * depend on what is copied.
 */
#include "engine/train.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD_EMBEDDINGS "bert.embeddings.word_embeddings.weight"
#define DEFAULT_POSITIONS 512
#define DEFAULT_LAYER_NORM_EPS 1e-12
#define DEFAULT_INITIALIZER_RANGE 0.02

/* --- labels ----------------------------------------------------------------------------------------------------- */

/* Labels that say nothing: what transformers writes when nobody named them. */
static bool labels_unnamed(const struct dd_model_info *info) {
    char text[32];
    for (int l = 0; l < info->n_labels; l++) {
        snprintf(text, sizeof text, "LABEL_%d", l);
        if (strcmp(info->labels[l], text) != 0) {
            return false;
        }
    }
    return true;
}

static int label_of(const struct dd_model_info *info, const char *name) {
    for (int l = 0; l < info->n_labels; l++) {
        if (strcmp(info->labels[l], name) == 0) {
            return l;
        }
    }
    return -1;
}

/* "a, b, c, … (12 in all)"; cut between names, so that the text stays UTF-8. */
static void list_names(char *out, size_t bytes, int count, const char *(*name)(const void *context, int index),
                       const void *context) {
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < count; i++) {
        const char *text = name(context, i);
        if (at + strlen(text) + 32 > bytes) {
            snprintf(out + at, bytes - at, ", … (%d in all)", count);
            return;
        }
        at += (size_t)snprintf(out + at, bytes - at, "%s%s", i ? ", " : "", text);
    }
}

static const char *class_name(const void *context, int index) {
    return dd_dataset_class(context, index);
}

static const char *label_name(const void *context, int index) {
    return ((const struct dd_model_info *)context)->labels[index];
}

enum dd_status dd_match_labels(const struct dd_dataset *dataset, const struct dd_model_info *labels, const char *who,
                               int *ret_label_of_class, struct dd_error *err) {
    int classes = dd_dataset_classes(dataset), found[DD_MAX_CLASSES];
    bool by_index = labels_unnamed(labels), all = !by_index || labels->n_labels == classes;
    for (int c = 0; all && c < classes; c++) {
        found[c] = by_index ? c : label_of(labels, dd_dataset_class(dataset, c));
        all = found[c] >= 0;
    }
    if (!all) {
        char have[240], want[240];
        list_names(want, sizeof want, classes, class_name, dataset);
        list_names(have, sizeof have, labels->n_labels, label_name, labels);
        return dd_fail(err, DD_INVALID, "labels_do_not_match",
                       "the labels of the %s do not cover the data set's classes: it has [%s], the data set [%s]", who,
                       have, want);
    }
    memcpy(ret_label_of_class, found, (size_t)classes * sizeof *found);
    return DD_OK;
}

/* --- copying weights -------------------------------------------------------------------------------------------- */

struct copy {
    const struct dd_params *from;
    struct dd_params *to;
    const char *who;                       /* the source, for messages */
    const struct dd_tokenizer *base, *own; /* of from and to; own may have words beyond base's */
};

/* The rows that both have, then the means of the others' pieces. */
static void copy_words(const struct copy *copy, const struct dd_tensor *from, const struct dd_tensor *to) {
    const float *source = copy->from->slab + from->offset;
    float *target = copy->to->slab + to->offset;
    memcpy(target, source, from->count * sizeof *target);
    dd_whole_words_embed(copy->base, copy->own, (int)from->shape[1], source, target);
}

static enum dd_status copy_tensor(const struct copy *copy, const char *from_name, const char *to_name,
                                  struct dd_error *err) {
    const struct dd_tensor *from = dd_params_find(copy->from, from_name), *to = dd_params_find(copy->to, to_name);
    if (!from || !to) {
        return dd_fail(err, DD_INTERNAL, "tensor_missing", "no tensor %s", from ? to_name : from_name);
    }
    if (strcmp(to_name, WORD_EMBEDDINGS) == 0 && from->rank == 2 && from->shape[1] == to->shape[1] &&
        from->shape[0] < to->shape[0]) { /* check_sizes has compared the vocabularies */
        copy_words(copy, from, to);
        return DD_OK;
    }
    if (from->rank != to->rank || from->count != to->count || from->shape[0] != to->shape[0]) {
        return dd_fail(err, DD_INVALID, "init_shape_mismatch",
                       "%s cannot be copied from the %s: it is %zu × %zu there and %zu × %zu here", to_name, copy->who,
                       from->shape[0], from->rank > 1 ? from->shape[1] : 1, to->shape[0],
                       to->rank > 1 ? to->shape[1] : 1);
    }
    memcpy(copy->to->slab + to->offset, copy->from->slab + from->offset, to->count * sizeof(float));
    return DD_OK;
}

/* Every tensor whose name begins with one prefix, to the same name under another. */
static enum dd_status copy_prefix(const struct copy *copy, const char *from_prefix, const char *to_prefix,
                                  struct dd_error *err) {
    for (int t = 0; t < copy->from->n_tensors; t++) {
        const char *name = copy->from->tensors[t].name;
        if (strncmp(name, from_prefix, strlen(from_prefix)) != 0) {
            continue;
        }
        char to_name[160];
        snprintf(to_name, sizeof to_name, "%s%s", to_prefix, name + strlen(from_prefix));
        enum dd_status status = copy_tensor(copy, name, to_name, err);
        if (status != DD_OK) {
            return status;
        }
    }
    return DD_OK;
}

int dd_source_layer(const struct dd_spec *spec, int layer, int source_layers) {
    if (spec->n_layer_map > 0) {
        return layer < spec->n_layer_map ? spec->layer_map[layer] : -1;
    }
    return (int)((int64_t)(layer + 1) * source_layers / spec->layers) - 1;
}

static enum dd_status copy_layers(const struct dd_spec *spec, const struct copy *copy, int source_layers,
                                  struct dd_error *err) {
    for (int layer = 0; layer < spec->layers; layer++) {
        int source = dd_source_layer(spec, layer, source_layers);
        if (source < 0 || source >= source_layers) {
            return dd_fail(err, DD_INVALID, "layer_map_invalid",
                           "layer %d cannot start from layer %d of the %s, which has %d layers; give layer_map", layer,
                           source, copy->who, source_layers);
        }
        char from[64], to[64];
        snprintf(from, sizeof from, "bert.encoder.layer.%d.", source);
        snprintf(to, sizeof to, "bert.encoder.layer.%d.", layer);
        enum dd_status status = copy_prefix(copy, from, to, err);
        if (status != DD_OK) {
            return status;
        }
    }
    return DD_OK;
}

/* The head, its rows in the data set's class order. */
static enum dd_status copy_classifier(const struct copy *copy, const int *label_of_class, int classes,
                                      struct dd_error *err) {
    static const char *const names[] = {"classifier.weight", "classifier.bias"};
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        const struct dd_tensor *from = dd_params_find(copy->from, names[i]), *to = dd_params_find(copy->to, names[i]);
        if (!from || !to || from->count / from->shape[0] != to->count / to->shape[0]) {
            return dd_fail(err, DD_INTERNAL, "tensor_missing", "no %s of the right width", names[i]);
        }
        size_t width = to->count / to->shape[0];
        for (int c = 0; c < classes; c++) {
            memcpy(copy->to->slab + to->offset + (size_t)c * width,
                   copy->from->slab + from->offset + (size_t)label_of_class[c] * width, width * sizeof(float));
        }
    }
    return DD_OK;
}

/* Whether the student's vocabulary is the source's, or the source's with words behind it. */
static bool same_words(const struct dd_model *student, const struct dd_model *source) {
    if (!source->tokenizer) {
        return false;
    }
    size_t ours = 0, theirs = 0;
    const char *a = dd_tokenizer_vocab(student->tokenizer, &ours);
    const char *b = dd_tokenizer_vocab(source->tokenizer, &theirs);
    if (theirs > ours || memcmp(a, b, theirs) != 0) {
        return false;
    }
    int to = student->info.config.vocab_size, from = source->info.config.vocab_size;
    bool longer = dd_tokenizer_size(student->tokenizer) > dd_tokenizer_size(source->tokenizer);
    return longer ? to >= from && from >= dd_tokenizer_size(source->tokenizer) : ours == theirs && to == from;
}

static enum dd_status check_sizes(const struct dd_model *student, const struct dd_model *source, const char *who,
                                  struct dd_error *err) {
    const struct dd_bert_config *to = &student->info.config, *from = &source->info.config;
    if (to->hidden_size != from->hidden_size || to->intermediate_size != from->intermediate_size) {
        return dd_fail(
            err, DD_INVALID, "init_shape_mismatch",
            "weights can be copied from the %s only with its hidden_size %d and intermediate_size %d, got %d "
            "and %d",
            who, from->hidden_size, from->intermediate_size, to->hidden_size, to->intermediate_size);
    }
    if (!same_words(student, source)) {
        return dd_fail(err, DD_INVALID, "init_vocabulary_mismatch",
                       "weights can be copied from the %s only with the same vocabulary: its %d rows are not the "
                       "student's %d",
                       who, from->vocab_size, to->vocab_size);
    }
    return DD_OK;
}

/* Embeddings, mapped layers, pooler, and the head where its labels are exactly the classes. */
static enum dd_status copy_model(const struct dd_run *run, struct dd_model *student, const struct dd_model *source,
                                 const char *who, struct dd_error *err) {
    struct copy copy = {.from = source->params,
                        .to = student->params,
                        .who = who,
                        .base = source->tokenizer,
                        .own = student->tokenizer};
    enum dd_status status = check_sizes(student, source, who, err);
    if (status == DD_OK) {
        status = dd_model_need_weights(source, err);
    }
    if (status == DD_OK) {
        status = copy_prefix(&copy, "bert.embeddings.", "bert.embeddings.", err);
    }
    if (status == DD_OK) {
        status = copy_layers(run->spec, &copy, source->info.config.layers, err);
    }
    if (status == DD_OK && source->info.has_pooler) {
        status = copy_prefix(&copy, "bert.pooler.", "bert.pooler.", err);
    }
    if (status != DD_OK) {
        return status;
    }
    int label_of_class[DD_MAX_CLASSES];
    bool same = source->info.kind == DD_MODEL_CLASSIFIER && source->info.n_labels == run->n_classes &&
                dd_match_labels(run->input->dataset, &source->info, who, label_of_class, NULL) == DD_OK;
    if (source->info.kind == DD_MODEL_CLASSIFIER) {
        dd_run_log(run, DD_LOG_INFO, "the classifier head %s",
                   same ? "is the source's, its labels are the data set's classes"
                        : "is new: the source has other labels than the data set");
    }
    if (source->info.config.heads != student->info.config.heads) {
        dd_run_log(run, DD_LOG_WARNING, "the weights come from a model with %d attention heads, this one has %d",
                   source->info.config.heads, student->info.config.heads);
    }
    return same ? copy_classifier(&copy, label_of_class, run->n_classes, err) : DD_OK;
}

/* --- the model -------------------------------------------------------------------------------------------------- */

void dd_student_config(const struct dd_spec *spec, int n_classes, const struct dd_bert_config *base, int vocab_size,
                       int pad_token_id, struct dd_bert_config *ret_config) {
    struct dd_bert_config config;
    if (base) {
        config = *base;
    } else {
        config = (struct dd_bert_config){.vocab_size = vocab_size,
                                         .max_positions = DD_MAX(DEFAULT_POSITIONS, spec->max_length),
                                         .type_vocab_size = 2,
                                         .pad_token_id = pad_token_id,
                                         .layer_norm_eps = DEFAULT_LAYER_NORM_EPS,
                                         .initializer_range = DEFAULT_INITIALIZER_RANGE};
    }
    config.layers = spec->layers;
    config.heads = spec->heads;
    config.hidden_size = spec->hidden_size;
    config.intermediate_size = spec->intermediate_size;
    config.n_labels = n_classes;
    config.hidden_dropout = spec->hidden_dropout;
    config.attention_dropout = spec->attention_dropout;
    config.classifier_dropout = spec->classifier_dropout;
    memcpy(config.hidden_act, spec->hidden_act, sizeof config.hidden_act);
    *ret_config = config;
}

static int token_id(const struct dd_tokenizer *tokenizer, const char *token) {
    for (int id = 0; id < dd_tokenizer_size(tokenizer); id++) {
        if (strcmp(dd_tokenizer_token(tokenizer, id), token) == 0) {
            return id;
        }
    }
    return 0;
}

static enum dd_status student_tokenizer(const struct dd_run *run, struct dd_tokenizer **ret_tokenizer,
                                        struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    if (in->base) {
        if (!in->base->tokenizer) {
            return dd_fail(err, DD_INVALID, "model_without_vocabulary",
                           "the %s has no vocab.txt; register it again with one",
                           run->spec->task == DD_TASK_DISTILL ? "teacher" : "starting model");
        }
        if (run->spec->task == DD_TASK_DISTILL && run->spec->whole_words > 0) {
            return dd_whole_words_new(in->dataset, run->spec->unlabelled == DD_FLAG_YES, in->base->tokenizer,
                                      run->spec->whole_words, ret_tokenizer, err);
        }
        size_t bytes = 0;
        const char *vocab = dd_tokenizer_vocab(in->base->tokenizer, &bytes);
        return dd_tokenizer_new(vocab, bytes, dd_tokenizer_settings(in->base->tokenizer), ret_tokenizer, err);
    }
    if (in->vocab) {
        return dd_tokenizer_new(in->vocab, in->vocab_bytes, &in->vocab_options, ret_tokenizer, err);
    }
    bool lower = run->spec->lower_case != DD_FLAG_NO;
    struct dd_tokenizer_options options = {
        .do_lower_case = lower, .strip_accents = lower, .tokenize_chinese_chars = true};
    DD_CLEANUP(dd_free_ptr) char *vocab = NULL;
    size_t bytes = 0;
    enum dd_status status = dd_vocab_build(in->dataset, &options, run->spec->vocab_size, &vocab, &bytes, err);
    if (status == DD_OK) {
        status = dd_tokenizer_new(vocab, bytes, &options, ret_tokenizer, err);
    }
    if (status == DD_OK) {
        dd_run_log(run, DD_LOG_INFO, "built a vocabulary of %d pieces from the train split",
                   dd_tokenizer_size(*ret_tokenizer));
    }
    return status;
}

static void student_info(const struct dd_run *run, struct dd_model *student) {
    struct dd_model_info *info = &student->info;
    info->kind = DD_MODEL_CLASSIFIER;
    info->has_pooler = info->has_tokenizer = true;
    info->n_labels = run->n_classes;
    for (int c = 0; c < run->n_classes; c++) {
        snprintf(info->labels[c], sizeof info->labels[c], "%s", dd_dataset_class(run->input->dataset, c));
    }
    info->do_lower_case = dd_tokenizer_settings(student->tokenizer)->do_lower_case;
    if (run->spec->task == DD_TASK_FINETUNE && run->spec->folds > 0) {
        info->fold = (struct dd_fold_record){.folds = run->spec->folds, .fold = run->spec->fold};
        snprintf(info->fold.train_sha256, sizeof info->fold.train_sha256, "%s",
                 dd_dataset_split(run->input->dataset, DD_SPLIT_TRAIN)->sha256);
    }
    for (int t = 0; t < student->params->n_tensors - student->params->n_training; t++) {
        info->parameters += student->params->tensors[t].count;
    }
    info->bytes = info->parameters * sizeof(float);
    snprintf(info->weights_file, sizeof info->weights_file, "model.safetensors");
    snprintf(info->weights_format, sizeof info->weights_format, "safetensors");
}

enum dd_status dd_student_weights(const struct dd_run *run, struct dd_model *student, struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    dd_params_init(student->params, &student->info.config, run->spec->seed);
    if (run->spec->task == DD_TASK_FINETUNE) {
        return in->base ? copy_model(run, student, in->base, "starting model", err) : DD_OK;
    }
    switch (run->spec->init) {
    case DD_INIT_TEACHER:
        return copy_model(run, student, in->base, "teacher", err);
    case DD_INIT_MODEL:
        if (!in->init) {
            return dd_fail(err, DD_INVALID, "init_model_missing", "init names a model, but none was given");
        }
        return copy_model(run, student, in->init, "model of init", err);
    case DD_INIT_RANDOM:
    default:
        return DD_OK;
    }
}

enum dd_status dd_student_new(const struct dd_run *run, struct dd_model **ret_student, struct dd_error *err) {
    const struct dd_train_input *in = run->input;
    struct dd_model *student = dd_calloc(1, sizeof *student);
    if (!student) {
        return dd_fail_memory(err, sizeof *student);
    }
    enum dd_status status = student_tokenizer(run, &student->tokenizer, err);
    if (status == DD_OK) {
        dd_student_config(run->spec, run->n_classes, in->base ? &in->base->info.config : NULL,
                          dd_tokenizer_size(student->tokenizer), token_id(student->tokenizer, "[PAD]"),
                          &student->info.config);
        if (in->base && dd_tokenizer_size(student->tokenizer) > dd_tokenizer_size(in->base->tokenizer)) {
            student->info.config.vocab_size =
                DD_MAX(student->info.config.vocab_size, dd_tokenizer_size(student->tokenizer));
        }
        int projection = dd_match_projection(run->spec, in->base ? &in->base->info.config : NULL);
        status = dd_params_new_projected(&student->info.config, projection, &student->params, err);
    }
    if (status == DD_OK) {
        student_info(run, student);
        status = dd_student_weights(run, student, err);
    }
    if (status != DD_OK) {
        dd_model_free(student);
        return status;
    }
    *ret_student = student;
    return DD_OK;
}
