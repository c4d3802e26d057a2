/* whole_words: a student's own vocabulary: the teacher's and, behind it, words of the training texts that the teacher's
 * cuts into pieces.
 *
 * Source: Gee, Zugarini, Rigutini, Torroni 2022, "Fast Vocabulary Transfer for Language Model Compression": an entry
 * that the teacher does not have begins as the mean of the embeddings of the pieces that the teacher makes of it.
 * There the vocabulary is replaced; here every entry of the teacher's keeps its id, so that its embeddings, and rows
 * that are masked or changed by ids, serve both.  A student of few layers gains by it: the teacher's lower layers put
 * the pieces of a word together again, and it has none.
 *
 * WordPiece takes the longest entry that fits, so a word that was added is one token wherever it stands, and may also
 * begin a longer one.  Ideographs are words by themselves (words.h): texts of them alone gain nothing.
 *
 * Rows are packed in the teacher's spelling first: copies are made there, and it is what the teacher is asked about.
 * The student's rows are the same texts in its own spelling; altered copies have no text, so theirs is put together
 * from the pieces of each word.
 * Threads: no state.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/train.h"
#include "engine/vocab.h"
#include "engine/words.h"

#define TIMES_LEAST 2 /* a word that occurs once says nothing that its text does not */
#define MAX_VOCAB ((size_t)1 << 20)

/* --- the vocabulary --------------------------------------------------------------------------------------------- */

struct candidate {
    const uint32_t *chars; /* borrowed from the counts */
    uint32_t n;
    uint64_t times;
};

/* The most frequent first, then by code points. */
static int by_times(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->times != y->times) {
        return x->times < y->times ? 1 : -1;
    }
    for (uint32_t i = 0; i < x->n && i < y->n; i++) {
        if (x->chars[i] != y->chars[i]) {
            return x->chars[i] < y->chars[i] ? -1 : 1;
        }
    }
    return (x->n > y->n) - (x->n < y->n);
}

/* How many pieces the tokenizer makes of a word of n ≤ DD_WORD_CHARS characters; 0: it is [UNK]. */
static int pieces_of(const struct dd_tokenizer *tokenizer, const uint32_t *chars, uint32_t n,
                     int32_t pieces[DD_WORD_CHARS]) {
    struct dd_words word = {.count = (int)n};
    bool whole;
    memcpy(word.chars, chars, n * sizeof *chars);
    int count = dd_tokenizer_match(tokenizer, &word, pieces, &whole);
    return whole ? count : 0;
}

static size_t find_candidates(const struct dd_word_counts *counts, const struct dd_tokenizer *base,
                              struct candidate *candidates) {
    size_t n = 0;
    for (size_t i = 0; i < counts->words.count; i++) {
        const struct dd_sequence *word = &counts->words.items[i];
        const uint32_t *chars = counts->words.pool + word->at;
        int32_t pieces[DD_WORD_CHARS];
        if (counts->counts[i] >= TIMES_LEAST && pieces_of(base, chars, word->len, pieces) > 1) {
            candidates[n] = (struct candidate){.chars = chars, .n = word->len, .times = counts->counts[i]};
            n++;
        }
    }
    qsort(candidates, n, sizeof *candidates, by_times);
    return n;
}

/* The text of a vocab.txt: the teacher's, then the words. */
static void print_vocab(const struct dd_tokenizer *base, const struct candidate *words, size_t n,
                        struct dd_buffer *out) {
    size_t bytes = 0;
    const char *vocab = dd_tokenizer_vocab(base, &bytes);
    dd_buffer_append(out, vocab, bytes);
    if (bytes > 0 && vocab[bytes - 1] != '\n') {
        dd_buffer_putc(out, '\n');
    }
    for (size_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < words[i].n; k++) {
            char text[4];
            dd_buffer_append(out, text, dd_utf8_put(text, words[i].chars[k]));
        }
        dd_buffer_putc(out, '\n');
    }
}

enum dd_status dd_whole_words_new(const struct dd_dataset *dataset, bool unlabelled, const struct dd_tokenizer *base,
                                  int most, struct dd_tokenizer **ret_tokenizer, struct dd_error *err) {
    struct dd_word_counts counts;
    enum dd_status status = dd_word_counts_new(dataset, unlabelled, dd_tokenizer_settings(base), &counts, err);
    if (status != DD_OK) {
        return status;
    }
    DD_CLEANUP(dd_buffer_release) struct dd_buffer vocab;
    dd_buffer_init(&vocab, (size_t)64 << 20);
    struct candidate *candidates = dd_calloc(DD_MAX(counts.words.count, (size_t)1), sizeof *candidates);
    if (candidates) {
        size_t room = MAX_VOCAB - DD_MIN((size_t)dd_tokenizer_size(base), MAX_VOCAB);
        size_t found = find_candidates(&counts, base, candidates);
        print_vocab(base, candidates, DD_MIN(DD_MIN(found, (size_t)most), room), &vocab);
        status = dd_buffer_check(&vocab, err);
    } else {
        status = dd_fail_memory(err, counts.words.count * sizeof *candidates);
    }
    if (status == DD_OK) {
        status = dd_tokenizer_new(vocab.data, vocab.len, dd_tokenizer_settings(base), ret_tokenizer, err);
    }
    free(candidates);
    dd_word_counts_release(&counts);
    return status;
}

/* --- first embeddings ------------------------------------------------------------------------------------------- */

/* Code points of an entry without its "##", at most room of them; how many it has. */
static uint32_t read_entry(const char *token, uint32_t *chars, uint32_t room) {
    const char *at = token + (dd_token_continues(token) ? 2 : 0);
    const char *end = token + strlen(token);
    uint32_t n = 0;
    while (at < end && n < room) {
        chars[n++] = dd_utf8_next(&at, end);
    }
    return at < end ? room + 1 : n;
}

void dd_whole_words_embed(const struct dd_tokenizer *base, const struct dd_tokenizer *own, int hidden,
                          const float *from, float *to) {
    size_t width = (size_t)hidden;
    for (int32_t id = dd_tokenizer_size(base); id < dd_tokenizer_size(own); id++) {
        uint32_t chars[DD_WORD_CHARS];
        int32_t pieces[DD_WORD_CHARS];
        uint32_t length = read_entry(dd_tokenizer_token(own, id), chars, DD_WORD_CHARS);
        int n = length <= DD_WORD_CHARS ? pieces_of(base, chars, length, pieces) : 0;
        float *row = to + (size_t)id * width;
        for (size_t h = 0; n > 0 && h < width; h++) {
            float sum = 0.0f;
            for (int p = 0; p < n; p++) {
                sum += from[(size_t)pieces[p] * width + h];
            }
            row[h] = sum / (float)n;
        }
    }
}

/* --- rows in the student's spelling ------------------------------------------------------------------------------ */

enum kind { KIND_BEGINS = 0, KIND_GOES_ON, KIND_SPECIAL };

struct speller {
    const struct dd_tokenizer *base, *own;
    uint8_t *kinds;    /* [base's entries], enum kind */
    int32_t *ids;      /* [max_length]: the row as far as it is spelled */
    uint8_t *segments; /* [max_length] */
    int n, max_length; /* n: tokens of the row; over max_length: it does not fit */
};

static enum dd_status speller_init(struct speller *speller, struct dd_error *err) {
    int size = dd_tokenizer_size(speller->base);
    speller->kinds = dd_calloc((size_t)size, sizeof *speller->kinds);
    speller->ids = dd_calloc((size_t)speller->max_length, sizeof *speller->ids);
    speller->segments = dd_calloc((size_t)speller->max_length, sizeof *speller->segments);
    if (!speller->kinds || !speller->ids || !speller->segments) {
        return dd_fail_memory(err, (size_t)size);
    }
    for (int id = 0; id < size; id++) {
        const char *token = dd_tokenizer_token(speller->base, id);
        speller->kinds[id] = dd_token_special(token)     ? KIND_SPECIAL
                             : dd_token_continues(token) ? KIND_GOES_ON
                                                         : KIND_BEGINS;
    }
    return DD_OK;
}

static void speller_release(struct speller *speller) {
    free(speller->kinds);
    free(speller->ids);
    free(speller->segments);
}

static void put_tokens(struct speller *speller, const int32_t *ids, int n, uint8_t segment) {
    for (int i = 0; i < n; i++, speller->n++) {
        if (speller->n < speller->max_length) {
            speller->ids[speller->n] = ids[i];
            speller->segments[speller->n] = segment;
        }
    }
}

/* A word of n pieces; it stays as it is where its characters are more than a word has, or spell nothing. */
static void put_word(struct speller *speller, const int32_t *ids, int n, uint8_t segment) {
    uint32_t chars[DD_WORD_CHARS], length = 0;
    int32_t pieces[DD_WORD_CHARS];
    for (int i = 0; n > 1 && i < n && length <= DD_WORD_CHARS; i++) {
        length += read_entry(dd_tokenizer_token(speller->base, ids[i]), chars + length, DD_WORD_CHARS - length);
    }
    int found = length > 0 && length <= DD_WORD_CHARS ? pieces_of(speller->own, chars, length, pieces) : 0;
    put_tokens(speller, found > 0 ? pieces : ids, found > 0 ? found : n, segment);
}

static void spell_row(struct speller *speller, const struct dd_packed *from, uint32_t row) {
    speller->n = 0;
    for (uint64_t t = from->offsets[row], end = from->offsets[row + 1]; t < end;) {
        uint64_t next = t + 1;
        while (speller->kinds[from->ids[t]] == KIND_BEGINS && next < end &&
               speller->kinds[from->ids[next]] == KIND_GOES_ON && from->segments[next] == from->segments[t]) {
            next++;
        }
        put_word(speller, from->ids + t, (int)(next - t), from->segments[t]);
        t = next;
    }
    if (speller->n > speller->max_length) { /* a longer first piece can leave more behind it: as the teacher has it */
        uint64_t at = from->offsets[row];
        speller->n = (int)(from->offsets[row + 1] - at);
        memcpy(speller->ids, from->ids + at, (size_t)speller->n * sizeof *speller->ids);
        memcpy(speller->segments, from->segments + at, (size_t)speller->n);
    }
}

enum dd_status dd_packed_respell(const struct dd_packed *from, uint32_t first, const struct dd_tokenizer *base,
                                 const struct dd_tokenizer *own, int max_length, struct dd_packed *to,
                                 struct dd_error *err) {
    struct speller speller = {.base = base, .own = own, .max_length = max_length};
    enum dd_status status = speller_init(&speller, err);
    if (status == DD_OK) {
        status = dd_packed_reserve_rows(to, from->rows - first, err);
    }
    for (uint32_t row = first; status == DD_OK && row < from->rows; row++) {
        spell_row(&speller, from, row);
        status = dd_packed_reserve(to, (uint64_t)speller.n, err);
        if (status == DD_OK) {
            memcpy(to->ids + to->n_tokens, speller.ids, (size_t)speller.n * sizeof *speller.ids);
            memcpy(to->segments + to->n_tokens, speller.segments, (size_t)speller.n);
            to->n_tokens += (uint64_t)speller.n;
            to->longest = DD_MAX(to->longest, speller.n);
            to->labels[to->rows] = from->labels[row];
            to->rows++;
            to->offsets[to->rows] = to->n_tokens;
        }
    }
    speller_release(&speller);
    return status;
}
