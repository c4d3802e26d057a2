/* distilld predict and inspect: a model directory without a daemon.
 * Threads: main only; the pool's threads compute.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/command.h"

#define BATCH 256 /* texts that are read before they are answered */

struct texts {
    char *text[BATCH];
    struct dd_row rows[BATCH];
    size_t n;
};

static void texts_clear(struct texts *t) {
    for (size_t i = 0; i < t->n; i++)
        free(t->text[i]);
    t->n = 0;
}

/* Takes ownership of line; a tab separates a pair. */
static void texts_add(struct texts *t, char *line, bool pairs) {
    char *tab = pairs ? strchr(line, '\t') : NULL;
    struct dd_row row = {.text = line, .text_bytes = strlen(line), .label = -1};
    if (tab != NULL) {
        row.text_bytes = (size_t)(tab - line);
        row.pair = tab + 1;
        row.pair_bytes = strlen(tab + 1);
    }
    t->text[t->n] = line;
    t->rows[t->n++] = row;
}

static void print_prediction(const struct dd_model_info *info, const float *logits, bool json) {
    int best = 0;
    double sum = 0;
    for (int l = 1; l < info->n_labels; l++)
        if (logits[l] > logits[best])
            best = l;
    for (int l = 0; l < info->n_labels; l++)
        sum += exp((double)logits[l] - (double)logits[best]);
    if (!json) {
        printf("%s\t%.6f\n", info->labels[best], 1 / sum);
        return;
    }
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "label", info->labels[best]);
    dd_put_number(object, "score", 1 / sum);
    cJSON *scores = cJSON_AddObjectToObject(object, "scores"), *list = cJSON_AddArrayToObject(object, "logits");
    for (int l = 0; l < info->n_labels; l++) {
        dd_put_number(scores, info->labels[l], exp((double)logits[l] - (double)logits[best]) / sum);
        cJSON_AddItemToArray(list, cJSON_CreateNumber((double)logits[l]));
    }
    DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(object, false);
    puts(text != NULL ? text : "");
    cJSON_Delete(object);
}

static enum dd_status answer(struct dd_predictor *predictor, const struct dd_model_info *info, struct texts *t,
                             bool json, struct dd_error *err) {
    float *logits = dd_calloc(t->n, (size_t)info->n_labels * sizeof *logits);
    if (logits == NULL)
        return dd_fail_memory(err, t->n * (size_t)info->n_labels * sizeof *logits);
    enum dd_status status = dd_predict(predictor, t->rows, t->n, NULL, logits, err);
    for (size_t i = 0; status == DD_OK && i < t->n; i++)
        print_prediction(info, &logits[i * (size_t)info->n_labels], json);
    fflush(stdout);
    free(logits);
    texts_clear(t);
    return status;
}

static enum dd_status predict_all(struct dd_predictor *predictor, const struct dd_model_info *info,
                                  const char *const *args, bool json, struct dd_error *err) {
    struct texts *t = dd_calloc(1, sizeof *t);
    enum dd_status status = t == NULL ? dd_fail_memory(err, sizeof *t) : DD_OK;
    for (size_t i = 0; status == DD_OK && args[i] != NULL; i++) {
        char *copy = dd_strdup(args[i]);
        if (copy == NULL)
            status = dd_fail_memory(err, strlen(args[i]));
        else
            texts_add(t, copy, false);
        if (status == DD_OK && t->n == BATCH)
            status = answer(predictor, info, t, json, err);
    }
    while (status == DD_OK && args[0] == NULL) {
        char *line = NULL;
        size_t cap = 0;
        ssize_t length = getline(&line, &cap, stdin);
        if (length < 0) {
            free(line);
            status = ferror(stdin) ? dd_fail_errno(err, errno, "standard input") : DD_OK;
            break;
        }
        line[strcspn(line, "\r\n")] = '\0';
        texts_add(t, line, true);
        if (t->n == BATCH)
            status = answer(predictor, info, t, json, err);
    }
    if (status == DD_OK && t->n > 0)
        status = answer(predictor, info, t, json, err);
    if (t != NULL)
        texts_clear(t);
    free(t);
    return status;
}

int dd_predict_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_model *model = NULL;
    struct dd_pool *pool = NULL;
    struct dd_predictor *predictor = NULL;
    enum dd_status status = dd_model_load(args[0], &model, &err);
    if (status == DD_OK && (model->info.kind != DD_MODEL_CLASSIFIER || model->tokenizer == NULL))
        status = dd_fail(&err, DD_INVALID, "model_not_classifier", "%s: %s", args[0],
                         model->tokenizer == NULL ? "has no vocab.txt to read texts with"
                                                  : "is an encoder: it has no classes");
    if (status == DD_OK)
        status = dd_pool_new(dd_cores(options), &pool, &err);
    if (status == DD_OK) {
        int longest = DD_MIN(512, model->info.config.max_positions);
        int wanted = options->max_length > 0 ? (int)options->max_length : longest;
        status = dd_predictor_new(model, pool, DD_MIN(wanted, model->info.config.max_positions), &predictor, &err);
    }
    if (status == DD_OK)
        status = predict_all(predictor, &model->info, args + 1, options->json, &err);
    dd_predictor_free(predictor);
    dd_pool_free(pool);
    dd_model_free(model);
    return status == DD_OK ? 0 : dd_report_error(&err);
}

static void print_info(const struct dd_model_info *info) {
    const struct dd_bert_config *c = &info->config;
    printf("kind               %s\n", info->kind == DD_MODEL_CLASSIFIER ? "classifier" : "encoder");
    printf("layers             %d\nheads              %d\nhidden size        %d\nintermediate size  %d\n", c->layers,
           c->heads, c->hidden_size, c->intermediate_size);
    printf("vocabulary         %d\npositions          %d\nactivation         %s\n", c->vocab_size, c->max_positions,
           c->hidden_act);
    printf("dropout            %g hidden, %g attention\n", c->hidden_dropout, c->attention_dropout);
    printf("parameters         %" PRIu64 "\n", info->parameters);
    printf("weights            %s (%s, %.1f MB)\n", info->weights_file, info->weights_format,
           (double)info->bytes / 1e6);
    printf("tokenizer          %s\n", !info->has_tokenizer  ? "none (no vocab.txt)"
                                      : info->do_lower_case ? "WordPiece, lower case"
                                                            : "WordPiece, cased");
    if (info->kind == DD_MODEL_CLASSIFIER) {
        printf("labels            ");
        for (int i = 0; i < info->n_labels; i++)
            printf(" %s%s", info->labels[i], i + 1 < info->n_labels ? "," : "");
        printf("\n");
    }
    if (info->sha256[0] != '\0')
        printf("sha256             %s\n", info->sha256);
}

int dd_inspect_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_model_info *info = dd_calloc(1, sizeof *info);
    enum dd_status status = info == NULL ? dd_fail_memory(&err, sizeof *info) : dd_model_inspect(args[0], info, &err);
    if (status == DD_OK && options->json) {
        cJSON *source = cJSON_CreateObject();
        cJSON_AddStringToObject(source, "type", "path");
        cJSON_AddStringToObject(source, "path", args[0]);
        cJSON *json = dd_model_describe(info, DD_MIN(512, info->config.max_positions), source);
        DD_CLEANUP(dd_free_ptr) char *text = dd_json_print(json, true);
        puts(text != NULL ? text : "");
        cJSON_Delete(json);
    } else if (status == DD_OK) {
        print_info(info);
    }
    free(info);
    return status == DD_OK ? 0 : dd_report_error(&err);
}
