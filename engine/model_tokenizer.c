/* model_tokenizer: the vocabulary and the tokenizer's settings in a model directory, read and written.
 *
 * vocab.txt is the vocabulary; a directory that transformers 5 saved has only tokenizer.json, from which it is taken.
 * do_lower_case is looked for in tokenizer_config.json, tokenizer.json, config.json, in this order; a lone vocab.txt
 * tells by its words: one with capitals was made for cased text.  (bert-base-chinese has none: told that text is cased,
 * every "A" would be [UNK].)  strip_accents follows do_lower_case where it is null, as in BertTokenizer.
 * Threads: no state.
 */
#include "engine/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VOCAB_BYTES ((size_t)64 << 20)
#define MAX_TOKENIZER_JSON_BYTES ((size_t)64 << 20)
#define MAX_SETTINGS_BYTES ((size_t)4 << 20)
#define UNSAID (-1)

/* What the files say: 0, 1 or UNSAID. */
struct said {
    int do_lower_case, strip_accents, tokenize_chinese_chars;
};

/* *ret_json is NULL (and success) where the file is missing. */
static enum dd_status read_json(const char *dir, const char *file, size_t max_bytes, cJSON **ret_json,
                                struct dd_error *err) {
    char path[4096];
    DD_CLEANUP(dd_free_ptr) char *text = NULL;
    size_t bytes = 0;
    struct dd_error failure = {0};
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, file, NULL);
    if (status != DD_OK) {
        return status;
    }
    status = dd_file_read(path, max_bytes, &text, &bytes, &failure);
    if (status == DD_NOT_FOUND) {
        *ret_json = NULL;
        return DD_OK;
    }
    if (status != DD_OK) {
        if (err != NULL) {
            *err = failure;
        }
        return status;
    }
    cJSON *json = dd_json_parse(text, bytes);
    if (!cJSON_IsObject(json)) {
        cJSON_Delete(json);
        return dd_fail(err, DD_CORRUPT, "tokenizer_config_invalid", "%s is not a JSON object", file);
    }
    *ret_json = json;
    return DD_OK;
}

static enum dd_status read_flag(const cJSON *json, const char *file, const char *field, int *value,
                                struct dd_error *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, field);
    if (item == NULL || cJSON_IsNull(item) || *value != UNSAID) {
        return DD_OK;
    }
    if (!cJSON_IsBool(item)) {
        return dd_fail(err, DD_INVALID, "tokenizer_config_invalid", "%s: %s must be true, false or null", file, field);
    }
    *value = cJSON_IsTrue(item);
    return DD_OK;
}

static enum dd_status read_settings(const char *dir, struct said *said, struct dd_error *err) {
    static const char file[] = "tokenizer_config.json";
    cJSON *json = NULL;
    enum dd_status status = read_json(dir, file, MAX_SETTINGS_BYTES, &json, err);
    if (status == DD_OK && json != NULL) {
        status = read_flag(json, file, "do_lower_case", &said->do_lower_case, err);
    }
    if (status == DD_OK && json != NULL) {
        status = read_flag(json, file, "strip_accents", &said->strip_accents, err);
    }
    if (status == DD_OK && json != NULL) {
        status = read_flag(json, file, "tokenize_chinese_chars", &said->tokenize_chinese_chars, err);
    }
    cJSON_Delete(json);
    return status;
}

static enum dd_status read_normalizer(const cJSON *json, struct said *said, struct dd_error *err) {
    static const char file[] = "tokenizer.json";
    const cJSON *normalizer = cJSON_GetObjectItemCaseSensitive(json, "normalizer");
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(normalizer, "type");
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "BertNormalizer") != 0) {
        return DD_OK;
    }
    enum dd_status status = read_flag(normalizer, file, "lowercase", &said->do_lower_case, err);
    if (status == DD_OK) {
        status = read_flag(normalizer, file, "strip_accents", &said->strip_accents, err);
    }
    return status == DD_OK ? read_flag(normalizer, file, "handle_chinese_chars", &said->tokenize_chinese_chars, err)
                           : status;
}

/* The vocabulary of a WordPiece tokenizer.json as the text of vocab.txt: tokens in the order of their ids. */
static enum dd_status vocab_from_json(const cJSON *json, char **ret_vocab, size_t *ret_bytes, struct dd_error *err) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(json, "model");
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(model, "type");
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab");
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "WordPiece") != 0 || !cJSON_IsObject(vocab)) {
        return dd_fail(err, DD_UNSUPPORTED, "tokenizer_unsupported",
                       "tokenizer.json is not a WordPiece tokenizer, and there is no vocab.txt");
    }
    size_t count = (size_t)cJSON_GetArraySize(vocab);
    DD_CLEANUP(dd_free_ptr) const char **tokens = dd_calloc(count + 1, sizeof *tokens);
    if (tokens == NULL) {
        return dd_fail_memory(err, count * sizeof *tokens);
    }
    for (const cJSON *item = vocab->child; item != NULL; item = item->next) {
        double id = item->valuedouble;
        if (!cJSON_IsNumber(item) || !(id >= 0 && id < (double)count) || id != floor(id) ||
            tokens[(size_t)id] != NULL || strpbrk(item->string, "\r\n") != NULL) {
            return dd_fail(err, DD_CORRUPT, "tokenizer_config_invalid",
                           "tokenizer.json: the ids of its %zu tokens must be the numbers from 0, each once", count);
        }
        tokens[(size_t)id] = item->string;
    }
    struct dd_buffer text;
    dd_buffer_init(&text, MAX_VOCAB_BYTES);
    for (size_t i = 0; i < count; i++) {
        dd_buffer_puts(&text, tokens[i]);
        dd_buffer_putc(&text, '\n');
    }
    enum dd_status status = dd_buffer_check(&text, err);
    if (status == DD_OK) {
        *ret_vocab = dd_buffer_take(&text, ret_bytes);
    }
    dd_buffer_release(&text);
    return status;
}

/* Whether a word of the vocabulary has an ASCII capital; [SPECIALS] and <S> do not count. */
static bool vocab_is_cased(const char *vocab, size_t bytes) {
    for (const char *line = vocab, *end = vocab + bytes; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *stop = newline == NULL ? end : newline;
        if (line < stop && *line != '[' && *line != '<') {
            for (const char *at = line; at < stop; at++) {
                if (*at >= 'A' && *at <= 'Z') {
                    return true;
                }
            }
        }
        line = stop + 1;
    }
    return false;
}

enum dd_status dd_model_vocab_read(const char *dir, int do_lower_case, char **ret_vocab, size_t *ret_bytes,
                                   struct dd_tokenizer_options *ret_options, struct dd_error *err) {
    struct said said = {UNSAID, UNSAID, UNSAID};
    char path[4096];
    DD_CLEANUP(dd_free_ptr) char *vocab = NULL;
    size_t bytes = 0;
    cJSON *json = NULL;
    struct dd_error failure = {0};
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "vocab.txt", NULL);
    if (status != DD_OK) {
        return status;
    }
    status = dd_file_read(path, MAX_VOCAB_BYTES, &vocab, &bytes, &failure);
    if (status != DD_OK && status != DD_NOT_FOUND) {
        if (err != NULL) {
            *err = failure;
        }
        return status;
    }
    status = read_settings(dir, &said, err);
    if (status == DD_OK && (vocab == NULL || said.do_lower_case == UNSAID)) {
        status = read_json(dir, "tokenizer.json", MAX_TOKENIZER_JSON_BYTES, &json, err);
    }
    if (status == DD_OK && json != NULL) {
        status = read_normalizer(json, &said, err);
    }
    if (status == DD_OK && json != NULL && vocab == NULL) {
        status = vocab_from_json(json, &vocab, &bytes, err);
    }
    cJSON_Delete(json);
    if (status != DD_OK) {
        return status;
    }
    if (said.do_lower_case == UNSAID) {
        said.do_lower_case = do_lower_case;
    }
    if (said.do_lower_case == UNSAID) {
        said.do_lower_case = vocab == NULL || !vocab_is_cased(vocab, bytes);
    }
    ret_options->do_lower_case = said.do_lower_case == 1;
    ret_options->strip_accents = (said.strip_accents == UNSAID ? said.do_lower_case : said.strip_accents) == 1;
    ret_options->tokenize_chinese_chars = said.tokenize_chinese_chars != 0;
    *ret_vocab = vocab;
    *ret_bytes = bytes;
    vocab = NULL;
    return DD_OK;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static bool put_special_tokens(cJSON *json) {
    static const char *const specials[][2] = {{"unk_token", "[UNK]"},
                                              {"sep_token", "[SEP]"},
                                              {"pad_token", "[PAD]"},
                                              {"cls_token", "[CLS]"},
                                              {"mask_token", "[MASK]"}};
    for (size_t i = 0; i < DD_ARRAY_LEN(specials); i++) {
        if (cJSON_AddStringToObject(json, specials[i][0], specials[i][1]) == NULL) {
            return false;
        }
    }
    return true;
}

static cJSON *settings_json(const struct dd_model *model) {
    const struct dd_tokenizer_options *options = dd_tokenizer_settings(model->tokenizer);
    cJSON *json = cJSON_CreateObject();
    bool whole = json != NULL && cJSON_AddBoolToObject(json, "do_lower_case", options->do_lower_case) != NULL;
    if (whole) {
        whole = (options->strip_accents == options->do_lower_case
                     ? cJSON_AddNullToObject(json, "strip_accents")
                     : cJSON_AddBoolToObject(json, "strip_accents", options->strip_accents)) != NULL;
    }
    whole = whole && cJSON_AddBoolToObject(json, "tokenize_chinese_chars", options->tokenize_chinese_chars) != NULL &&
            cJSON_AddStringToObject(json, "tokenizer_class", "BertTokenizer") != NULL &&
            cJSON_AddNumberToObject(json, "model_max_length", model->info.config.max_positions) != NULL &&
            put_special_tokens(json);
    if (!whole) {
        cJSON_Delete(json);
        return NULL;
    }
    return json;
}

/* Prints json (NULL: out of memory), which it frees, to a file of dir, durably. */
static enum dd_status write_json(const char *dir, const char *file, cJSON *json, struct dd_error *err) {
    char path[4096];
    DD_CLEANUP(dd_free_ptr) char *text = json == NULL ? NULL : cJSON_Print(json);
    cJSON_Delete(json);
    if (text == NULL) {
        return dd_fail_memory(err, MAX_SETTINGS_BYTES);
    }
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, file, NULL);
    return status == DD_OK ? dd_file_write_durable(path, text, strlen(text), err) : status;
}

enum dd_status dd_model_tokenizer_write(const struct dd_model *model, const char *dir, struct dd_error *err) {
    char path[4096];
    size_t bytes = 0;
    const char *vocab = dd_tokenizer_vocab(model->tokenizer, &bytes);
    enum dd_status status = dd_path_join(path, sizeof path, err, dir, "vocab.txt", NULL);
    if (status == DD_OK) {
        status = dd_file_write_durable(path, vocab, bytes, err);
    }
    if (status == DD_OK) {
        status = write_json(dir, "tokenizer_config.json", settings_json(model), err);
    }
    if (status == DD_OK) {
        cJSON *specials = cJSON_CreateObject();
        if (specials != NULL && !put_special_tokens(specials)) {
            cJSON_Delete(specials);
            specials = NULL;
        }
        status = write_json(dir, "special_tokens_map.json", specials, err);
    }
    return status;
}
