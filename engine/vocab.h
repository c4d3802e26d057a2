/* vocab: counting words, for the vocabulary builder.  Private to engine/vocab_*.c. */
#ifndef DD_ENGINE_VOCAB_H
#define DD_ENGINE_VOCAB_H

#include "engine/engine.h"

/* A set of sequences of numbers; each gets an index, in order of insertion. */
struct dd_sequences {
    uint32_t *pool; /* owned: all of them behind one another */
    size_t pool_len, pool_cap;
    struct dd_sequence {
        size_t at; /* of pool */
        uint32_t len;
    } * items; /* owned */
    size_t count, cap;
    uint32_t *slots; /* owned: open hash table of index + 1, [mask + 1], at most half full */
    size_t mask;
    uint64_t seed; /* random, so that no text can be made to collide; decides nothing else */
};
enum dd_status dd_sequences_init(struct dd_sequences *sequences, struct dd_error *err) DD_MUST_CHECK;
void dd_sequences_release(struct dd_sequences *sequences);
size_t dd_sequences_find(const struct dd_sequences *sequences, const uint32_t *numbers,
                         size_t len); /* SIZE_MAX: none */
/* numbers must not point into the pool. */
enum dd_status dd_sequences_intern(struct dd_sequences *sequences, const uint32_t *numbers, size_t len,
                                   size_t *ret_index, struct dd_error *err) DD_MUST_CHECK;

/* Distinct words (sequences of code points) and how often each occurs. */
struct dd_word_counts {
    struct dd_sequences words;
    uint64_t *counts; /* owned, [words.count] */
    size_t cap;
    uint64_t pruned; /* words met up to so many times were dropped, for want of room; 0: none */
};
/* Counts the words of the training split, and of the unlabelled one where that is asked for.  At most DD_WORDS_MAX of
 * at most DD_WORDS_CHARS_MAX characters are kept: when there would be more, the rarest go. */
#define DD_WORDS_MAX ((size_t)1 << 19)
#define DD_WORDS_CHARS_MAX ((size_t)1 << 23)
enum dd_status dd_word_counts_new(const struct dd_dataset *dataset, bool unlabelled,
                                  const struct dd_tokenizer_options *options, struct dd_word_counts *ret_counts,
                                  struct dd_error *err) DD_MUST_CHECK;
void dd_word_counts_release(struct dd_word_counts *counts);

#endif
