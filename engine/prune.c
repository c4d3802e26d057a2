/* prune: a model with only the vocabulary entries that given texts need.
 *
 * Why the texts are cut as before: WordPiece takes, at each place of a word, the longest entry that fits.  What it took
 * is kept, and nothing is added, so the longest entry that fits is still the same one.  That holds for words that end
 * as [UNK], too, only if the pieces matched before the place where nothing fitted are kept: with "ab", "a" and "##bc",
 * "abc" is [UNK] ("ab", then nothing); without "ab" it would be "a ##bc".  Words longer than a word may be look at no
 * entry.  All texts are read to their ends, so it holds for every max_length.
 *
 * Entries keep their order.  The logits keep their bits, since an embedding row is copied and nothing else depends on
 * an id.  Other texts may be cut otherwise than before: a word whose entry is gone is cut into smaller ones or is
 * [UNK]. Threads: no state.
 */
#include "engine/words.h"

#include "engine/model.h"

#include <stdlib.h>
#include <string.h>

#define WORD_EMBEDDINGS "bert.embeddings.word_embeddings.weight"
#define CANCEL_ROWS 1024

struct dd_vocab_use {
    const struct dd_tokenizer *tokenizer;
    bool *used; /* owned, [dd_tokenizer_size] */
};

enum dd_status dd_vocab_use_new(const struct dd_tokenizer *tokenizer, struct dd_vocab_use **ret_use,
                                struct dd_error *err) {
    int size = dd_tokenizer_size(tokenizer);
    struct dd_vocab_use *use = dd_calloc(1, sizeof *use);
    bool *used = dd_calloc((size_t)size, sizeof *used);
    if (use == NULL || used == NULL) {
        free(use);
        free(used);
        return dd_fail_memory(err, (size_t)size);
    }
    *use = (struct dd_vocab_use){.tokenizer = tokenizer, .used = used};
    for (int id = 0; id < size; id++) {
        used[id] = dd_token_special(dd_tokenizer_token(tokenizer, id));
    }
    *ret_use = use;
    return DD_OK;
}

void dd_vocab_use_free(struct dd_vocab_use *use) {
    if (use != NULL) {
        free(use->used);
        free(use);
    }
}

void dd_vocab_use_text(struct dd_vocab_use *use, const char *text, size_t bytes) {
    dd_tokenizer_mark(use->tokenizer, text, bytes, use->used);
}

enum dd_status dd_vocab_use_dataset(struct dd_vocab_use *use, const struct dd_dataset *dataset,
                                    const struct dd_cancel *cancel, struct dd_error *err) {
    for (int split = 0; split < DD_SPLIT_COUNT; split++) {
        uint64_t rows = dd_dataset_rows(dataset, (enum dd_split)split);
        for (uint64_t i = 0; i < rows; i++) {
            struct dd_row row;
            if (i % CANCEL_ROWS == 0 && dd_cancel_requested(cancel) != DD_STOP_NONE) {
                return dd_fail(err, DD_STOPPED, "stopped", "stopped while looking for the words in use");
            }
            dd_dataset_row(dataset, (enum dd_split)split, i, &row);
            dd_vocab_use_text(use, row.text, row.text_bytes);
            if (row.pair != NULL) {
                dd_vocab_use_text(use, row.pair, row.pair_bytes);
            }
        }
    }
    return DD_OK;
}

/* "a", "##a" and, of ideographs, those forms that the tokenizer can make: where they are set apart, "##字" is none. */
static bool is_character(const struct dd_tokenizer *tokenizer, const char *token) {
    bool continues = strncmp(token, "##", 2) == 0 && token[2] != 0;
    const char *at = token + (continues ? 2 : 0), *end = token + strlen(token);
    if (at == end) {
        return false;
    }
    uint32_t c = dd_utf8_next(&at, end);
    if (at != end) {
        return false;
    }
    bool ideograph = (dd_char_class(c) & DD_CHAR_CJK) != 0;
    return c < 0x80 || (ideograph && !(continues && dd_tokenizer_settings(tokenizer)->tokenize_chinese_chars));
}

void dd_vocab_use_characters(struct dd_vocab_use *use) {
    for (int id = 0; id < dd_tokenizer_size(use->tokenizer); id++) {
        use->used[id] = use->used[id] || is_character(use->tokenizer, dd_tokenizer_token(use->tokenizer, id));
    }
}

/* --- the smaller model -------------------------------------------------------------------------------------------- */

/* Which entries stay, in order; which of them stands for padding. */
struct kept {
    int32_t *ids; /* owned, [count] */
    int count, pad;
};

static enum dd_status choose(const struct dd_model *model, const struct dd_vocab_use *use, struct kept *kept,
                             struct dd_error *err) {
    int size = dd_tokenizer_size(use->tokenizer), pad = model->info.config.pad_token_id;
    pad = pad < size ? pad : dd_tokenizer_pad(use->tokenizer);
    kept->ids = dd_calloc((size_t)size, sizeof *kept->ids);
    if (kept->ids == NULL) {
        return dd_fail_memory(err, (size_t)size * sizeof *kept->ids);
    }
    for (int32_t id = 0; id < size; id++) {
        if (id == pad) {
            kept->pad = kept->count;
        }
        if (use->used[id] || id == pad) {
            kept->ids[kept->count++] = id;
        }
    }
    return DD_OK;
}

static enum dd_status prune_tokenizer(const struct dd_tokenizer *from, const struct kept *kept,
                                      struct dd_tokenizer **ret_tokenizer, struct dd_error *err) {
    size_t max_bytes;
    (void)dd_tokenizer_vocab(from, &max_bytes);
    DD_CLEANUP(dd_buffer_release) struct dd_buffer vocab;
    dd_buffer_init(&vocab, max_bytes + 1); /* its last line may have had no newline */
    for (int i = 0; i < kept->count; i++) {
        dd_buffer_puts(&vocab, dd_tokenizer_token(from, kept->ids[i]));
        dd_buffer_putc(&vocab, '\n');
    }
    enum dd_status status = dd_buffer_check(&vocab, err);
    return status == DD_OK ? dd_tokenizer_new(vocab.data, vocab.len, dd_tokenizer_settings(from), ret_tokenizer, err)
                           : status;
}

static enum dd_status prune_params(const struct dd_params *from, const struct kept *kept,
                                   const struct dd_bert_config *config, struct dd_params **ret_params,
                                   struct dd_error *err) {
    struct dd_params *params = NULL;
    enum dd_status status = dd_params_new(config, &params, err);
    if (status != DD_OK) {
        return status;
    }
    size_t row = (size_t)config->hidden_size;
    for (int i = 0; i < params->n_tensors; i++) {
        const struct dd_tensor *to = &params->tensors[i], *source = &from->tensors[i];
        if (strcmp(to->name, WORD_EMBEDDINGS) != 0) {
            memcpy(params->slab + to->offset, from->slab + source->offset, to->count * sizeof(float));
            continue;
        }
        for (int k = 0; k < kept->count; k++) {
            memcpy(params->slab + to->offset + (size_t)k * row,
                   from->slab + source->offset + (size_t)kept->ids[k] * row, row * sizeof(float));
        }
    }
    *ret_params = params;
    return DD_OK;
}

static enum dd_status build(const struct dd_model *model, const struct kept *kept, struct dd_model *pruned,
                            struct dd_error *err) {
    uint64_t rows_gone = (uint64_t)(model->info.config.vocab_size - kept->count);
    pruned->info = model->info;
    pruned->info.config.vocab_size = kept->count;
    pruned->info.config.pad_token_id = kept->pad;
    pruned->info.parameters -= rows_gone * (uint64_t)model->info.config.hidden_size;
    pruned->info.bytes = 0;
    pruned->info.sha256[0] = 0;
    enum dd_status status = prune_tokenizer(model->tokenizer, kept, &pruned->tokenizer, err);
    return status == DD_OK ? prune_params(model->params, kept, &pruned->info.config, &pruned->params, err) : status;
}

enum dd_status dd_model_prune(const struct dd_model *model, const struct dd_vocab_use *use, struct dd_model **ret_model,
                              struct dd_error *err) {
    if (model->tokenizer == NULL) {
        return dd_fail(err, DD_INVALID, "model_without_vocabulary", "the model has no vocab.txt to prune");
    }
    if (model->info.int8) {
        return dd_fail(err, DD_INVALID, "model_is_int8", "an int8 model cannot be pruned; prune first, then quantize");
    }
    struct dd_model *pruned = dd_calloc(1, sizeof *pruned);
    if (pruned == NULL) {
        return dd_fail_memory(err, sizeof *pruned);
    }
    struct kept kept = {0};
    enum dd_status status = choose(model, use, &kept, err);
    if (status == DD_OK) {
        status = build(model, &kept, pruned, err);
    }
    free(kept.ids);
    if (status != DD_OK) {
        dd_model_free(pruned);
        return status;
    }
    *ret_model = pruned;
    return DD_OK;
}
