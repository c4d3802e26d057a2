/* unicode: UTF-8 and what BERT's tokenizer asks of a character.  Private to engine/.
 * Pure functions, any thread.
 *
 * Characters come from utf8proc.  Where the Rust library `tokenizers` (0.23: unicode_categories of Unicode 8, an older
 * normalization crate, char::to_lowercase of Unicode 17) says something else than utf8proc 2.8 (Unicode 15), Rust is
 * followed, by the tables of unicode_exceptions.c, which tests/golden/make_tokenizer.py writes from an exhaustive
 * comparison: a model was trained on what its tokenizer did, not on what the newest standard says.
 */
#ifndef DD_ENGINE_UNICODE_H
#define DD_ENGINE_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DD_CHAR_REPLACEMENT 0xFFFDu
#define DD_CHAR_LAST 0x10FFFFu

/* Decodes one character at *at (< end) and moves on.  A byte that begins no well-formed sequence (overlong forms,
 * surrogates, beyond U+10FFFF, cut off) counts as one U+FFFD. */
uint32_t dd_utf8_next(const char **at, const char *end);
size_t dd_utf8_count(const char *text, size_t bytes); /* code points, as dd_utf8_next sees them */
size_t dd_utf8_put(char out[4], uint32_t c);          /* bytes written; c must be a scalar value */

/* Classes of a character, in BERT's sense. */
enum dd_char_class {
    DD_CHAR_DROP = 1,        /* U+0000, U+FFFD, categories Cc, Cf, Co, but not tab, LF, CR */
    DD_CHAR_SPACE = 2,       /* tab, LF, CR, categories Z* */
    DD_CHAR_CJK = 4,         /* BERT's ideograph blocks */
    DD_CHAR_PUNCTUATION = 8, /* ASCII 33–47, 58–64, 91–96, 123–126 and category P */
    DD_CHAR_MARK = 16,       /* category Mn */
    DD_CHAR_CHANGES = 32,    /* has a canonical decomposition, a lower case or a combining class */
};
unsigned dd_char_class(uint32_t c);

#define DD_CHAR_DECOMPOSED_MAX 4
int dd_char_decompose(uint32_t c, uint32_t out[DD_CHAR_DECOMPOSED_MAX]); /* full canonical (NFD), without reordering */
#define DD_CHAR_LOWER_MAX 2
int dd_char_lower(uint32_t c, uint32_t out[DD_CHAR_LOWER_MAX]); /* full, without context: U+0130 gives two */
int dd_char_combining_class(uint32_t c);                        /* 0: starter */

/* The tables of exceptions, sorted, not overlapping. */
struct dd_char_range {
    uint32_t first, last;
    unsigned flags; /* of DD_CHAR_DROP, _SPACE, _PUNCTUATION, _MARK: what Rust says */
};
struct dd_lower_range {
    uint32_t first, last;
    int32_t delta;  /* lower case = c + delta … */
    uint32_t extra; /* … followed by this, if not 0 */
};
extern const struct dd_char_range dd_char_exceptions[];
extern const size_t dd_char_exceptions_count;
extern const struct dd_lower_range dd_lower_exceptions[];
extern const size_t dd_lower_exceptions_count;
extern const struct dd_char_range dd_starter_exceptions[]; /* combining class 0 in Rust; flags unused */
extern const size_t dd_starter_exceptions_count;
extern const struct dd_char_range dd_undecomposed_exceptions[]; /* no decomposition in Rust; flags unused */
extern const size_t dd_undecomposed_exceptions_count;

#endif
