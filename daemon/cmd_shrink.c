/* distilld prune and quantize: a smaller model from a model directory, without a daemon.
 * Threads: main only.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/command.h"
#include "daemon/local.h"

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* --out, or "./MODEL-suffix". */
static enum dd_status out_dir(const struct dd_options *options, const char *model, const char *suffix,
                              char out[PATH_MAX], struct dd_error *err) {
    char name[PATH_MAX], real[PATH_MAX];
    if (options->out != NULL)
        return dd_path_join(out, PATH_MAX, err, options->out, NULL);
    if (realpath(model, real) == NULL)
        return dd_fail_errno(err, errno, "%s", model);
    if (snprintf(name, sizeof name, "%s-%s", base_name(real), suffix) >= (int)sizeof name)
        return dd_fail(err, DD_INVALID, "path_too_long", "the model's path is too long");
    return dd_path_join(out, PATH_MAX, err, ".", name, NULL);
}

/* A data set of a data directory as it is; text files imported into a directory that is gone when it returns: what is
 * open stays mapped. */
static enum dd_status open_dataset(const char *path, struct dd_dataset **ret_dataset, struct dd_error *err) {
    char meta[PATH_MAX], temporary[64] = "/tmp/distilld-import-XXXXXX", dir[PATH_MAX];
    struct dd_faults faults;
    enum dd_status status = dd_path_join(meta, sizeof meta, err, path, "meta.json", NULL);
    if (status != DD_OK)
        return status;
    if (access(meta, F_OK) == 0)
        return dd_dataset_open(path, ret_dataset, err);
    if (mkdtemp(temporary) == NULL)
        return dd_fail_errno(err, errno, "%s", temporary);
    dd_faults_init(&faults);
    status = dd_path_join(dir, sizeof dir, err, temporary, "dataset", NULL);
    if (status == DD_OK)
        status = dd_local_import(path, dir, &faults, err);
    if (status == DD_OK)
        status = dd_dataset_open(dir, ret_dataset, err);
    struct dd_error ignored; /* what is left lies in /tmp */
    (void)!dd_tree_remove(temporary, &ignored);
    dd_report_faults(&faults);
    dd_faults_release(&faults);
    return status;
}

static enum dd_status use_dataset(struct dd_vocab_use *use, const char *path, struct dd_error *err) {
    struct dd_dataset *dataset = NULL;
    enum dd_status status = open_dataset(path, &dataset, err);
    if (status == DD_OK)
        status = dd_vocab_use_dataset(use, dataset, NULL, err);
    dd_dataset_free(dataset);
    return status;
}

static enum dd_status use_texts(struct dd_vocab_use *use, const char *path, struct dd_error *err) {
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return dd_fail_errno(err, errno, "%s", path);
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t length; (length = getline(&line, &cap, file)) >= 0;)
        dd_vocab_use_text(use, line, (size_t)length); /* a tab is a space to the tokenizer: both texts of a pair */
    enum dd_status status = ferror(file) ? dd_fail_errno(err, errno, "%s", path) : DD_OK;
    free(line);
    fclose(file);
    return status;
}

static enum dd_status collect_use(const struct dd_options *options, const struct dd_model *model,
                                  struct dd_vocab_use **ret_use, struct dd_error *err) {
    if (options->dataset == NULL && options->texts == NULL)
        return dd_fail(err, DD_INVALID, "usage", "prune needs the texts: --dataset PATH, --texts FILE or both");
    if (model->tokenizer == NULL)
        return dd_fail(err, DD_INVALID, "model_without_vocabulary", "the model has no vocab.txt to prune");
    struct dd_vocab_use *use = NULL;
    enum dd_status status = dd_vocab_use_new(model->tokenizer, &use, err);
    if (status == DD_OK && options->dataset != NULL)
        status = use_dataset(use, options->dataset, err);
    if (status == DD_OK && options->texts != NULL)
        status = use_texts(use, options->texts, err);
    if (status != DD_OK) {
        dd_vocab_use_free(use);
        return status;
    }
    if (options->keep_characters)
        dd_vocab_use_characters(use);
    *ret_use = use;
    return DD_OK;
}

static void print_made(const cJSON *source, const char *dir) {
    static const struct {
        const char *title, *field;
        int digits;
    } rows[] = {{"vocabulary", "tokens", 0},
                {"parameters", "parameters", 0},
                {"bytes", "bytes", 0},
                {"accuracy", "accuracy", 4},
                {"macro F1", "macro_f1", 4}};
    const cJSON *before = cJSON_GetObjectItemCaseSensitive(source, "before");
    const cJSON *after = cJSON_GetObjectItemCaseSensitive(source, "after");
    for (size_t i = 0; i < DD_ARRAY_LEN(rows); i++) {
        const cJSON *then = cJSON_GetObjectItemCaseSensitive(before, rows[i].field);
        const cJSON *now = cJSON_GetObjectItemCaseSensitive(after, rows[i].field);
        if (cJSON_IsNumber(then) && cJSON_IsNumber(now))
            printf("%-12s %12.*f -> %.*f\n", rows[i].title, rows[i].digits, then->valuedouble, rows[i].digits,
                   now->valuedouble);
    }
    printf("saved in %s\n", dir);
}

static enum dd_status save(const struct dd_model *made, const struct dd_model *from, const char *path, cJSON *source,
                           const char *dir, struct dd_error *err) {
    DD_CLEANUP(dd_free_ptr) char *card = NULL;
    enum dd_status status = dd_card_read(path, &card, err);
    if (status == DD_OK)
        status = dd_shrink_save(made, from, card, source, dir, err);
    if (status == DD_OK)
        print_made(source, dir);
    return status;
}

int dd_prune_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_model *model = NULL, *made = NULL;
    struct dd_vocab_use *use = NULL;
    char dir[PATH_MAX];
    cJSON *source = cJSON_CreateObject();
    cJSON_AddStringToObject(source, "type", "pruned");
    cJSON_AddStringToObject(source, "model", base_name(args[0]));
    cJSON_AddBoolToObject(source, "keep_characters", options->keep_characters);
    if (options->dataset != NULL && options->texts == NULL)
        cJSON_AddStringToObject(source, "dataset", base_name(options->dataset));
    enum dd_status status = dd_model_load(args[0], &model, &err);
    if (status == DD_OK)
        status = out_dir(options, args[0], "pruned", dir, &err);
    if (status == DD_OK)
        status = collect_use(options, model, &use, &err);
    if (status == DD_OK)
        status = dd_model_prune(model, use, &made, &err);
    if (status == DD_OK)
        status = save(made, model, args[0], source, dir, &err);
    dd_vocab_use_free(use);
    dd_model_free(made);
    dd_model_free(model);
    cJSON_Delete(source);
    return status == DD_OK ? 0 : dd_report_error(&err);
}

/* Accuracy and macro F1 of both on the data set, into source. */
static enum dd_status measure(const struct dd_options *options, const struct dd_model *model,
                              const struct dd_model *made, cJSON *source, struct dd_error *err) {
    struct dd_dataset *dataset = NULL;
    struct dd_pool *pool = NULL;
    enum dd_split split = DD_SPLIT_DEV;
    int longest = DD_MIN(512, model->info.config.max_positions);
    int max_length = options->max_length > 0 ? DD_MIN((int)options->max_length, longest) : longest;
    if (options->split != NULL && !dd_split_parse(options->split, &split))
        return dd_fail(err, DD_INVALID, "usage", "there is no split \"%s\"", options->split);
    cJSON_AddStringToObject(source, "dataset", base_name(options->dataset));
    cJSON_AddStringToObject(source, "split", dd_split_name(split));
    enum dd_status status = open_dataset(options->dataset, &dataset, err);
    if (status == DD_OK)
        status = dd_pool_new(dd_cores(options), &pool, err);
    const struct dd_model *const models[] = {model, made};
    for (int i = 0; i < 2 && status == DD_OK; i++) {
        struct dd_report report;
        status = dd_evaluate(models[i], pool, max_length, dataset, split, NULL, &report, err);
        if (status == DD_OK) {
            dd_shrink_put_scores(source, i == 0 ? "before" : "after", &report);
            dd_report_release(&report);
        }
    }
    dd_pool_free(pool);
    dd_dataset_free(dataset);
    return status;
}

int dd_quantize_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_model *model = NULL, *made = NULL;
    char dir[PATH_MAX];
    cJSON *source = cJSON_CreateObject();
    cJSON_AddStringToObject(source, "type", "quantized");
    cJSON_AddStringToObject(source, "model", base_name(args[0]));
    enum dd_status status = dd_model_load(args[0], &model, &err);
    if (status == DD_OK)
        status = out_dir(options, args[0], "int8", dir, &err);
    if (status == DD_OK)
        status = dd_model_quantize(model, &made, &err);
    if (status == DD_OK && options->dataset != NULL)
        status = measure(options, model, made, source, &err);
    if (status == DD_OK)
        status = save(made, model, args[0], source, dir, &err);
    dd_model_free(made);
    dd_model_free(model);
    cJSON_Delete(source);
    return status == DD_OK ? 0 : dd_report_error(&err);
}
