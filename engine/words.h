/* words: BERT's normalizer and pre-tokenizer as an iterator: from text to the words that WordPiece cuts up.  Private to
 * engine/; used by the tokenizer and by the vocabulary builder, so that the two can never disagree.
 *
 * Source: BertNormalizer and BertPreTokenizer of the Rust library `tokenizers`: clean → spaces around ideographs → NFD
 * and drop Mn (strip_accents) → lower case character by character → split at white space, punctuation apart.
 * Nothing is allocated; a word of over DD_WORD_CHARS characters is reported as too long and its tail forgotten.
 */
#ifndef DD_ENGINE_WORDS_H
#define DD_ENGINE_WORDS_H

#include "engine/engine.h"
#include "engine/unicode.h"

#define DD_WORD_CHARS 100 /* max_input_chars_per_word: longer words are [UNK] */

struct dd_words {
    /* the word found by the last dd_words_next */
    uint32_t chars[DD_WORD_CHARS + 1];
    int count;
    bool too_long; /* over DD_WORD_CHARS characters; chars and count are not the whole word then */

    /* private */
    struct dd_tokenizer_options options;
    const char *at, *end;
    uint32_t
        queue[DD_CHAR_DECOMPOSED_MAX * DD_CHAR_LOWER_MAX + 2]; /* normalized, not yet part of a word; from queue_at */
    int queue_at, queue_end;
    int run_start; /* index of the first character since the last starter: what a combining mark may pass */
};
/* Borrows text. */
void dd_words_init(struct dd_words *words, const struct dd_tokenizer_options *options, const char *text, size_t bytes);
bool dd_words_next(struct dd_words *words); /* false: no more words */

/* The pieces of the word that words has found, as far as there are any, into pieces[DD_WORD_CHARS]; returns their
 * number.  *ret_whole: they make up the word, else it is [UNK]. */
int dd_tokenizer_match(const struct dd_tokenizer *tokenizer, const struct dd_words *words, int32_t *pieces,
                       bool *ret_whole);
bool dd_token_continues(const char *token); /* "##x": a piece that goes on with a word */
bool dd_token_special(const char *token);   /* one of BERT's five, [PAD] to [MASK] */
/* Tokens of a text, without [CLS] and [SEP] (tokenizer.c). */
size_t dd_tokenizer_count(const struct dd_tokenizer *tokenizer, const char *text, size_t bytes);
/* Sets used[id] for every entry that cutting this text takes, also on the way to an [UNK]: a vocabulary of these alone
 * cuts the text as this one does (head of prune.c). */
void dd_tokenizer_mark(const struct dd_tokenizer *tokenizer, const char *text, size_t bytes, bool *used);
int32_t dd_tokenizer_pad(const struct dd_tokenizer *tokenizer);

#endif
