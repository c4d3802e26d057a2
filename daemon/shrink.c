/* Smaller models made from others: their directory and model card.  What is said of how a model was made stands in one
 * JSON object, the model's `source` in the API; the card says the same to people.
 * Threads: any; plain functions of their arguments and the file system.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/daemon.h"

#define MAX_CARD_BYTES ((size_t)1 << 20)
#define CARD_FILE "README.md"

enum dd_status dd_card_read(const char *dir, char **ret_card, struct dd_error *err) {
    char path[PATH_MAX];
    struct dd_error failure = {0};
    size_t bytes;
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, CARD_FILE, NULL);
    if (status != DD_OK)
        return status;
    status = dd_file_read(path, MAX_CARD_BYTES, ret_card, &bytes, &failure);
    if (status == DD_OK)
        return DD_OK;
    *ret_card = NULL; /* a card that is missing, too long or in a file's place is no reason to make no model */
    return status == DD_NO_MEMORY ? dd_fail_memory(err, MAX_CARD_BYTES) : DD_OK;
}

/* source's object `when`, made where it is missing. */
static cJSON *side(cJSON *source, const char *when) {
    cJSON *json = cJSON_GetObjectItemCaseSensitive(source, when);
    return json != NULL ? json : cJSON_AddObjectToObject(source, when);
}

static void put_size(cJSON *source, const char *when, const struct dd_model_info *info) {
    cJSON *json = side(source, when);
    cJSON_AddNumberToObject(json, "tokens", info->config.vocab_size);
    cJSON_AddNumberToObject(json, "parameters", (double)info->parameters);
    cJSON_AddNumberToObject(json, "bytes", (double)info->bytes);
}

void dd_shrink_put_scores(cJSON *source, const char *when, const struct dd_report *report) {
    cJSON *json = side(source, when);
    dd_put_number(json, "accuracy", report->accuracy);
    dd_put_number(json, "macro_f1", report->macro.f1);
}

static const char *text_of(const cJSON *json, const char *field) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, field));
    return text != NULL ? text : "";
}

/* One line of the table, where both models have the figure. */
static void put_row(struct dd_buffer *out, const cJSON *source, const char *title, const char *field) {
    const cJSON *before = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(source, "before"), field);
    const cJSON *after = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(source, "after"), field);
    if (!cJSON_IsNumber(before) || !cJSON_IsNumber(after))
        return;
    bool share = before->valuedouble <= 1;
    dd_buffer_printf(out, share ? "| %s | %.4f | %.4f |\n" : "| %s | %.0f | %.0f |\n", title, before->valuedouble,
                     after->valuedouble);
}

/* The old card without its YAML head, which would be a second one. */
static const char *card_body(const char *card) {
    if (strncmp(card, "---\n", 4) != 0)
        return card;
    const char *end = strstr(card + 4, "\n---\n");
    return end != NULL ? end + 5 : card;
}

static void put_pruned(struct dd_buffer *out, const cJSON *source) {
    const char *model = text_of(source, "model"), *dataset = text_of(source, "dataset");
    const char *quote = dataset[0] != '\0' ? "`" : "";
    bool characters = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(source, "keep_characters"));
    dd_buffer_puts(out, "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n- bert\n- "
                        "text-classification\n---\n\n");
    dd_buffer_printf(out, "# `%s` with a smaller vocabulary\n\n", model);
    dd_buffer_printf(out,
                     "Made by distilld %s from the model `%s`: only the vocabulary entries that the texts of %s%s%s "
                     "need%s were kept. On these texts the answers are the same; words of other texts may be cut "
                     "into smaller pieces, or be [UNK].\n",
                     DD_VERSION, model, quote, dataset[0] != '\0' ? dataset : "a file", quote,
                     characters ? ", and all single ASCII characters and ideographs," : "");
}

static void put_quantized(struct dd_buffer *out, const cJSON *source) {
    const char *model = text_of(source, "model"), *dataset = text_of(source, "dataset");
    dd_buffer_puts(out,
                   "---\npipeline_tag: text-classification\ntags:\n- bert\n- text-classification\n- int8\n---\n\n");
    dd_buffer_printf(out, "# `%s` in int8\n\n", model);
    dd_buffer_printf(
        out,
        "Made by distilld %s from the model `%s`: word embeddings and linear layers have int8 weights with "
        "a scale for each row, and their inputs become int8 token by token. `distilld predict` and its "
        "API read it; transformers does not.\n",
        DD_VERSION, model);
    if (dataset[0] != '\0')
        dd_buffer_printf(out, "\nAccuracy and macro F1 are those on the %s split of `%s`.\n", text_of(source, "split"),
                         dataset);
}

static enum dd_status make_card(const cJSON *source, const char *old, struct dd_buffer *out, struct dd_error *err) {
    if (strcmp(text_of(source, "type"), "pruned") == 0)
        put_pruned(out, source);
    else
        put_quantized(out, source);
    dd_buffer_puts(out, "\n| | before | after |\n|---|---|---|\n");
    put_row(out, source, "vocabulary", "tokens");
    put_row(out, source, "parameters", "parameters");
    put_row(out, source, "bytes of weights", "bytes");
    put_row(out, source, "accuracy", "accuracy");
    put_row(out, source, "macro F1", "macro_f1");
    if (old != NULL)
        dd_buffer_printf(out, "\nThe card of `%s` follows.\n\n%s", text_of(source, "model"), card_body(old));
    return dd_buffer_check(out, err);
}

enum dd_status dd_shrink_save(const struct dd_model *made, const struct dd_model *from, const char *card, cJSON *source,
                              const char *dir, struct dd_error *err) {
    char path[PATH_MAX];
    DD_CLEANUP(dd_free_ptr) struct dd_model_info *info = dd_calloc(1, sizeof *info);
    DD_CLEANUP(dd_buffer_release) struct dd_buffer text;
    dd_buffer_init(&text, 2 * MAX_CARD_BYTES);
    enum dd_status status = info == NULL ? dd_fail_memory(err, sizeof *info) : dd_model_save(made, dir, NULL, err);
    if (status == DD_OK)
        status = dd_model_inspect(dir, info, err);
    if (status == DD_OK) {
        put_size(source, "before", &from->info);
        put_size(source, "after", info);
        status = make_card(source, card, &text, err);
    }
    if (status == DD_OK)
        status = dd_path_join(path, sizeof path, err, dir, CARD_FILE, NULL);
    return status == DD_OK ? dd_file_write_durable(path, text.data, text.len, err) : status;
}
