/* neighbours: for words that texts use, the nearest words of the vocabulary, for the augmentation that replaces words.
 *
 * Near is the cosine of the teacher's own word embeddings: what TinyBERT (Jiao et al. 2020, Algorithm 1) takes GloVe
 * vectors for, without a file of vectors to ship and for any language the teacher reads.  A neighbour is of the same
 * kind as the word (a "##" piece for a "##" piece), is never the word itself, a special token or an [unused] one, and
 * its embedding is not zero.
 *
 * Cost: one matrix product of the words in use with the vocabulary; 2,000 words × 21,128 × 768 take a second of a core.
 * Threads: the team's.
 */
#include "engine/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blas.h"
#include "engine/pool.h"

#define BLOCK 64 /* words a product */

enum kind { KIND_NONE, KIND_WORD, KIND_PIECE };

struct search {
    const float *unit; /* [vocab, hidden], each row of length 1 or 0 */
    const uint8_t *kind;
    int vocab, hidden;
    const int32_t *words;
    int n;
    struct dd_neighbours *found;
    float *scores; /* [lanes, BLOCK, vocab] */
    float *rows;   /* [lanes, BLOCK, hidden] */
};

static enum kind kind_of(const char *token) {
    size_t n = strlen(token);
    if (n == 0 || (token[0] == '[' && n > 2 && token[n - 1] == ']')) {
        return KIND_NONE;
    }
    return n > 2 && token[0] == '#' && token[1] == '#' ? KIND_PIECE : KIND_WORD;
}

static void normalise(const float *in, int hidden, float *out) {
    double sum = 0.0;
    for (int h = 0; h < hidden; h++) {
        sum += (double)in[h] * (double)in[h];
    }
    double scale = sum > 0.0 && isfinite(sum) ? 1.0 / sqrt(sum) : 0.0;
    for (int h = 0; h < hidden; h++) {
        out[h] = scale > 0.0 ? (float)((double)in[h] * scale) : 0.0F;
    }
}

/* The best of one word's scores, best first, smaller ids first on ties. */
static void pick(const struct search *search, int word, const float *scores) {
    int32_t *best = search->found->near + (size_t)word * DD_NEIGHBOURS;
    float score[DD_NEIGHBOURS];
    int n = 0;
    int32_t self = search->words[word];
    for (int32_t id = 0; id < search->vocab; id++) {
        if (id == self || search->kind[id] != search->kind[self] || !(scores[id] > 0.0F) ||
            (n == DD_NEIGHBOURS && scores[id] <= score[n - 1])) {
            continue;
        }
        int at = n < DD_NEIGHBOURS ? n++ : n - 1;
        for (; at > 0 && score[at - 1] < scores[id]; at--) {
            score[at] = score[at - 1];
            best[at] = best[at - 1];
        }
        score[at] = scores[id];
        best[at] = id;
    }
    search->found->count[word] = (uint8_t)n;
}

static void search_block(void *context, int chunk) {
    struct search *search = context;
    size_t lane = (size_t)dd_team_lane(), vocab = (size_t)search->vocab, hidden = (size_t)search->hidden;
    float *scores = search->scores + lane * BLOCK * vocab, *rows = search->rows + lane * BLOCK * hidden;
    int first = chunk * BLOCK, n = DD_MIN(BLOCK, search->n - first);
    for (int i = 0; i < n; i++) {
        memcpy(rows + (size_t)i * hidden, search->unit + (size_t)search->words[first + i] * hidden,
               hidden * sizeof *rows);
    }
    dd_sgemm(false, true, n, search->vocab, search->hidden, rows, search->hidden, search->unit, search->hidden, 0.0F,
             scores, search->vocab);
    for (int i = 0; i < n; i++) {
        if (search->kind[search->words[first + i]] != KIND_NONE) {
            pick(search, first + i, scores + (size_t)i * vocab);
        }
    }
}

/* The distinct ids of packed's rows, ascending, and where each id is among them. */
static enum dd_status words_in_use(const struct dd_packed *packed, int vocab, struct dd_neighbours *found,
                                   int32_t **ret_words, struct dd_error *err) {
    found->place = dd_calloc((size_t)vocab, sizeof *found->place);
    int32_t *words = dd_calloc((size_t)vocab, sizeof *words);
    if (!found->place || !words) {
        free(words);
        return dd_fail_memory(err, (size_t)vocab * sizeof *words);
    }
    for (uint64_t t = 0; t < packed->n_tokens; t++) {
        found->place[packed->ids[t]] = 1;
    }
    for (int32_t id = 0; id < vocab; id++) {
        bool used = found->place[id] == 1;
        found->place[id] = used ? found->words : -1;
        if (used) {
            words[found->words++] = id;
        }
    }
    *ret_words = words;
    return DD_OK;
}

static enum dd_status prepare(struct search *search, const struct dd_tokenizer *tokenizer, const float *embeddings,
                              size_t lanes, float **ret_unit, uint8_t **ret_kind, struct dd_error *err) {
    size_t vocab = (size_t)search->vocab, hidden = (size_t)search->hidden;
    size_t words = (size_t)search->found->words;
    float *unit = dd_calloc(vocab, hidden * sizeof *unit);
    uint8_t *kind = dd_calloc(vocab, 1);
    *ret_unit = unit;
    *ret_kind = kind;
    search->scores = dd_calloc(lanes * BLOCK, vocab * sizeof *search->scores);
    search->rows = dd_calloc(lanes * BLOCK, hidden * sizeof *search->rows);
    search->found->near = dd_calloc(words, DD_NEIGHBOURS * sizeof *search->found->near);
    search->found->count = dd_calloc(words, 1);
    if (!unit || !kind || !search->scores || !search->rows || !search->found->near || !search->found->count) {
        return dd_fail_memory(err, vocab * hidden * sizeof *unit);
    }
    for (size_t id = 0; id < vocab; id++) {
        normalise(embeddings + id * hidden, search->hidden, unit + id * hidden);
        kind[id] = (uint8_t)((int)id < dd_tokenizer_size(tokenizer) ? kind_of(dd_tokenizer_token(tokenizer, (int)id))
                                                                    : KIND_NONE);
    }
    search->unit = unit;
    search->kind = kind;
    return DD_OK;
}

enum dd_status dd_neighbours_find(const struct dd_packed *packed, const struct dd_tokenizer *tokenizer,
                                  const float *embeddings, int vocab, int hidden, struct dd_team *team,
                                  struct dd_neighbours *ret, struct dd_error *err) {
    struct dd_neighbours found = {0};
    struct search search = {.vocab = vocab, .hidden = hidden, .found = &found};
    int32_t *words = NULL;
    float *unit = NULL;
    uint8_t *kind = NULL;
    enum dd_status status = words_in_use(packed, vocab, &found, &words, err);
    if (status == DD_OK) {
        search.words = words;
        search.n = found.words;
        status = prepare(&search, tokenizer, embeddings, (size_t)dd_team_lanes(team), &unit, &kind, err);
    }
    if (status == DD_OK) {
        dd_team_for(team, (found.words + BLOCK - 1) / BLOCK, search_block, &search);
        *ret = found;
    } else {
        dd_neighbours_release(&found);
    }
    free(words);
    free(unit);
    free(kind);
    free(search.scores);
    free(search.rows);
    return status;
}

void dd_neighbours_release(struct dd_neighbours *neighbours) {
    free(neighbours->place);
    free(neighbours->near);
    free(neighbours->count);
    *neighbours = (struct dd_neighbours){0};
}
