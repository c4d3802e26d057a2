/* tokenizer: WordPiece over a BERT vocabulary.
 * Thread: any; a struct dd_tokenizer is immutable after dd_tokenizer_new.
 *
 * A word is cut greedily: the longest vocabulary entry that begins it, then the longest "##" entry that begins the
 * rest, and so on; if at some place nothing fits, or the word is longer than DD_WORD_CHARS, the whole word is [UNK].
 * Entries stand in one open hash table, keyed by their code points (without "##") and by whether they continue a word.
 * The hash grows character by character, so all prefixes of a word cost one pass; candidates are then tried from the
 * longest down.  Special tokens are never looked up in text: "[CLS]" in a text is "[", "cls", "]".
 *
 * Invariants: slots is a power of two and at most half full; where the vocabulary holds an entry twice the last line
 * wins, as in transformers and tokenizers; entries longer than a word can be are not in the table.
 */
#include "engine/words.h"

#include <stdlib.h>
#include <string.h>

#define MAX_VOCAB_LINES ((size_t)1 << 20)
#define MAX_VOCAB_BYTES ((size_t)64 << 20)

struct slot {
    uint32_t tag; /* high half of the hash */
    int32_t id;   /* -1: empty */
};

struct dd_tokenizer {
    struct dd_tokenizer_options options;
    char *vocab; /* owned: the text as given */
    size_t vocab_bytes;
    char *tokens; /* owned: the same lines, each NUL-terminated */
    struct token {
        uint32_t text;  /* offset into tokens */
        uint32_t chars; /* offset into chars of the code points compared, "##" left off */
        uint32_t count; /* of these; 0: never matches */
        bool continues; /* began with "##" */
    } * lines;          /* owned, [n_lines] */
    int n_lines;
    uint32_t *chars;    /* owned */
    struct slot *slots; /* owned, [mask + 1] */
    size_t mask;
    uint64_t seed; /* of the hash, drawn at random, so that no vocabulary can be made to collide */
    int max_chars; /* longest entry in the table */
    int32_t unk, cls, sep, pad;
};

static uint64_t hash_begin(const struct dd_tokenizer *tokenizer, bool continues) {
    return continues ? ~tokenizer->seed : tokenizer->seed;
}

static uint64_t hash_add(uint64_t hash, uint32_t c) {
    hash = (hash ^ c) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

static uint64_t hash_end(uint64_t hash) {
    hash *= 0xBF58476D1CE4E5B9u;
    return hash ^ hash >> 32;
}

/* The slot that holds the entry, or the empty one where it would go. */
static size_t find_slot(const struct dd_tokenizer *tokenizer, uint64_t hash, bool continues, const uint32_t *chars,
                        int count) {
    hash = hash_end(hash);
    size_t at = (size_t)hash & tokenizer->mask;
    uint32_t tag = (uint32_t)(hash >> 32);
    for (;; at = (at + 1) & tokenizer->mask) {
        const struct slot *slot = &tokenizer->slots[at];
        if (slot->id < 0) {
            return at;
        }
        if (slot->tag == tag) {
            const struct token *line = &tokenizer->lines[slot->id];
            if (line->count == (uint32_t)count && line->continues == continues &&
                memcmp(tokenizer->chars + line->chars, chars, (size_t)count * sizeof *chars) == 0) {
                return at;
            }
        }
    }
}

/* --- reading the vocabulary -------------------------------------------------- */

static bool ends_in_space(const char *text, size_t bytes) {
    return bytes > 0 && (text[bytes - 1] == ' ' || (text[bytes - 1] >= '\t' && text[bytes - 1] <= '\r'));
}

/* Fills line `id` from text[0, bytes), with its code points at chars[*chars_used …]. */
static void read_line(struct dd_tokenizer *tokenizer, int id, const char *text, size_t bytes, size_t *chars_used) {
    struct token *line = &tokenizer->lines[id];
    while (ends_in_space(text, bytes)) { /* a carriage return above all */
        bytes--;
    }
    tokenizer->tokens[(size_t)(text - tokenizer->vocab) + bytes] = '\0';
    line->text = (uint32_t)(text - tokenizer->vocab);
    line->chars = (uint32_t)*chars_used;
    line->continues = bytes >= 2 && text[0] == '#' && text[1] == '#';
    const char *at = text + (line->continues ? 2 : 0), *end = text + bytes;
    while (at < end) {
        tokenizer->chars[(*chars_used)++] = dd_utf8_next(&at, end);
    }
    line->count = (uint32_t)(*chars_used - line->chars);
}

static void insert_line(struct dd_tokenizer *tokenizer, int id) {
    const struct token *line = &tokenizer->lines[id];
    if (line->count == 0 || line->count > DD_WORD_CHARS) {
        return;
    }
    const uint32_t *chars = tokenizer->chars + line->chars;
    uint64_t hash = hash_begin(tokenizer, line->continues);
    for (uint32_t i = 0; i < line->count; i++) {
        hash = hash_add(hash, chars[i]);
    }
    struct slot *slot = &tokenizer->slots[find_slot(tokenizer, hash, line->continues, chars, (int)line->count)];
    slot->tag = (uint32_t)(hash_end(hash) >> 32);
    slot->id = id;
    tokenizer->max_chars = DD_MAX(tokenizer->max_chars, (int)line->count);
}

static enum dd_status find_special(const struct dd_tokenizer *tokenizer, const char *token, int32_t *ret_id,
                                   struct dd_error *err) {
    for (int id = tokenizer->n_lines - 1; id >= 0; id--) {
        if (strcmp(dd_tokenizer_token(tokenizer, id), token) == 0) {
            *ret_id = id;
            return DD_OK;
        }
    }
    return dd_fail(err, DD_CORRUPT, "vocab_invalid", "the vocabulary has no line %s, which BERT needs", token);
}

static enum dd_status check_vocab(const char *vocab, size_t bytes, size_t *ret_lines, struct dd_error *err) {
    if (bytes > MAX_VOCAB_BYTES) {
        return dd_fail(err, DD_CORRUPT, "vocab_invalid", "the vocabulary has %zu bytes, at most %zu are read", bytes,
                       MAX_VOCAB_BYTES);
    }
    size_t lines = 0;
    for (const char *at = vocab, *end = vocab + bytes; at < end; lines++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((newline ? newline : end) - at);
        if (!dd_utf8_valid(at, length) || memchr(at, '\0', length)) {
            return dd_fail(err, DD_CORRUPT, "vocab_invalid", "line %zu of the vocabulary is not UTF-8 text", lines + 1);
        }
        at += length + (newline != NULL);
    }
    if (lines > MAX_VOCAB_LINES) {
        return dd_fail(err, DD_CORRUPT, "vocab_invalid", "the vocabulary has %zu lines, at most %zu are read", lines,
                       MAX_VOCAB_LINES);
    }
    *ret_lines = lines;
    return DD_OK;
}

static enum dd_status allocate(struct dd_tokenizer *tokenizer, const char *vocab, size_t bytes, size_t lines,
                               struct dd_error *err) {
    size_t slots = 16;
    while (slots < lines * 2) {
        slots *= 2;
    }
    tokenizer->vocab = dd_calloc(bytes + 1, 1);
    tokenizer->tokens = dd_calloc(bytes + 1, 1);
    tokenizer->lines = dd_calloc(lines, sizeof *tokenizer->lines);
    tokenizer->chars = dd_calloc(bytes, sizeof *tokenizer->chars);
    tokenizer->slots = dd_calloc(slots, sizeof *tokenizer->slots);
    if (!tokenizer->vocab || !tokenizer->tokens || !tokenizer->lines || !tokenizer->chars || !tokenizer->slots) {
        return dd_fail_memory(err, bytes * 6 + slots * sizeof *tokenizer->slots);
    }
    if (bytes > 0) {
        memcpy(tokenizer->vocab, vocab, bytes);
        memcpy(tokenizer->tokens, vocab, bytes);
    }
    tokenizer->vocab_bytes = bytes;
    tokenizer->n_lines = (int)lines;
    tokenizer->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) {
        tokenizer->slots[i].id = -1;
    }
    return dd_random_bytes(&tokenizer->seed, sizeof tokenizer->seed, err);
}

static enum dd_status fill(struct dd_tokenizer *tokenizer, struct dd_error *err) {
    size_t chars_used = 0;
    const char *at = tokenizer->vocab, *end = at + tokenizer->vocab_bytes;
    for (int id = 0; id < tokenizer->n_lines; id++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((newline ? newline : end) - at);
        read_line(tokenizer, id, at, length, &chars_used);
        at += length + (newline != NULL);
        insert_line(tokenizer, id);
    }
    struct {
        const char *token;
        int32_t *id;
    } special[] = {
        {"[UNK]", &tokenizer->unk}, {"[CLS]", &tokenizer->cls}, {"[SEP]", &tokenizer->sep}, {"[PAD]", &tokenizer->pad}};
    for (size_t i = 0; i < DD_ARRAY_LEN(special); i++) {
        enum dd_status status = find_special(tokenizer, special[i].token, special[i].id, err);
        if (status) {
            return status;
        }
    }
    return DD_OK;
}

enum dd_status dd_tokenizer_new(const char *vocab, size_t vocab_bytes, const struct dd_tokenizer_options *options,
                                struct dd_tokenizer **ret_tokenizer, struct dd_error *err) {
    size_t lines = 0;
    enum dd_status status = check_vocab(vocab, vocab_bytes, &lines, err);
    if (status) {
        return status;
    }
    struct dd_tokenizer *tokenizer = dd_calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        return dd_fail_memory(err, sizeof *tokenizer);
    }
    tokenizer->options = *options;
    status = allocate(tokenizer, vocab, vocab_bytes, lines, err);
    if (!status) {
        status = fill(tokenizer, err);
    }
    if (status) {
        dd_tokenizer_free(tokenizer);
        return status;
    }
    *ret_tokenizer = tokenizer;
    return DD_OK;
}

void dd_tokenizer_free(struct dd_tokenizer *tokenizer) {
    if (!tokenizer) {
        return;
    }
    free(tokenizer->vocab);
    free(tokenizer->tokens);
    free(tokenizer->lines);
    free(tokenizer->chars);
    free(tokenizer->slots);
    free(tokenizer);
}

int dd_tokenizer_size(const struct dd_tokenizer *tokenizer) {
    return tokenizer->n_lines;
}

const char *dd_tokenizer_token(const struct dd_tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < tokenizer->n_lines ? tokenizer->tokens + tokenizer->lines[id].text : NULL;
}

const char *dd_tokenizer_vocab(const struct dd_tokenizer *tokenizer, size_t *ret_bytes) {
    *ret_bytes = tokenizer->vocab_bytes;
    return tokenizer->vocab;
}

const struct dd_tokenizer_options *dd_tokenizer_settings(const struct dd_tokenizer *tokenizer) {
    return &tokenizer->options;
}

bool dd_token_continues(const char *token) {
    return token[0] == '#' && token[1] == '#' && token[2] != '\0';
}

bool dd_token_special(const char *token) {
    static const char *const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (size_t i = 0; i < DD_ARRAY_LEN(specials); i++) {
        if (strcmp(token, specials[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* --- encoding ---------------------------------------------------------------- */

int dd_tokenizer_match(const struct dd_tokenizer *tokenizer, const struct dd_words *words, int32_t *pieces,
                       bool *ret_whole) {
    int n_pieces = 0;
    int start = 0;
    while (!words->too_long && start < words->count) {
        uint64_t prefix[DD_WORD_CHARS + 1];
        int longest = DD_MIN(words->count - start, tokenizer->max_chars);
        prefix[0] = hash_begin(tokenizer, start > 0);
        for (int i = 0; i < longest; i++) {
            prefix[i + 1] = hash_add(prefix[i], words->chars[start + i]);
        }
        int32_t id = -1;
        int count = longest;
        for (; count > 0; count--) {
            id = tokenizer->slots[find_slot(tokenizer, prefix[count], start > 0, words->chars + start, count)].id;
            if (id >= 0) {
                break;
            }
        }
        if (id < 0) {
            break;
        }
        pieces[n_pieces++] = id;
        start += count;
    }
    *ret_whole = !words->too_long && start >= words->count;
    return n_pieces;
}

/* Cuts one word into pieces[DD_WORD_CHARS]; returns their number. */
static int cut_word(const struct dd_tokenizer *tokenizer, const struct dd_words *words, int32_t *pieces) {
    bool whole;
    int n_pieces = dd_tokenizer_match(tokenizer, words, pieces, &whole);
    if (whole) {
        return n_pieces;
    }
    pieces[0] = tokenizer->unk;
    return 1;
}

/* Writes the first `cap` tokens of a text and returns how many it has in all; stops counting above `enough`. */
static size_t encode_text(const struct dd_tokenizer *tokenizer, const char *text, size_t bytes, size_t cap,
                          size_t enough, int32_t *ids) {
    struct dd_words words;
    dd_words_init(&words, &tokenizer->options, text, bytes);
    size_t total = 0;
    while (total < enough && dd_words_next(&words)) {
        int32_t pieces[DD_WORD_CHARS];
        size_t n_pieces = (size_t)cut_word(tokenizer, &words, pieces);
        size_t room = total < cap ? DD_MIN(cap - total, n_pieces) : 0;
        if (room > 0) {
            memcpy(ids + total, pieces, room * sizeof *ids);
        }
        total += n_pieces;
    }
    return total;
}

size_t dd_tokenizer_count(const struct dd_tokenizer *tokenizer, const char *text, size_t bytes) {
    return encode_text(tokenizer, text, bytes, 0, SIZE_MAX, NULL);
}

void dd_tokenizer_mark(const struct dd_tokenizer *tokenizer, const char *text, size_t bytes, bool *used) {
    struct dd_words words;
    dd_words_init(&words, &tokenizer->options, text, bytes);
    while (dd_words_next(&words)) {
        int32_t pieces[DD_WORD_CHARS];
        bool whole;
        int n_pieces = dd_tokenizer_match(tokenizer, &words, pieces, &whole);
        for (int i = 0; i < n_pieces; i++) {
            used[pieces[i]] = true;
        }
    }
}

int32_t dd_tokenizer_pad(const struct dd_tokenizer *tokenizer) {
    return tokenizer->pad;
}

/* tokenizers' longest-first rule: how much of two texts of n1 and n2 tokens stays within `room`. */
static void truncate_pair(size_t *n1, size_t *n2, size_t room) {
    if (*n1 + *n2 <= room) {
        return;
    }
    size_t *shorter = *n1 > *n2 ? n2 : n1, *longer = *n1 > *n2 ? n1 : n2;
    if (*shorter <= room / 2) {
        *longer = room - *shorter;
    } else {
        *shorter = room / 2;
        *longer = room / 2 + room % 2;
    }
}

enum dd_status dd_tokenizer_encode(const struct dd_tokenizer *tokenizer, const char *text, size_t text_bytes,
                                   const char *pair, size_t pair_bytes, int max_length, int32_t *ids, uint8_t *segments,
                                   int *ret_count, struct dd_error *err) {
    int special = pair ? 3 : 2;
    if (max_length < special) {
        return dd_fail(err, DD_INVALID, "max_length_too_small", "max_length must be at least %d, got %d", special,
                       max_length);
    }
    size_t room = (size_t)(max_length - special);
    size_t n1, n2 = 0;
    if (pair) {
        DD_CLEANUP(dd_free_ptr) int32_t *pair_ids = dd_calloc(room, sizeof *pair_ids);
        if (!pair_ids) {
            return dd_fail_memory(err, room * sizeof *pair_ids);
        }
        /* Which of two texts that are both too long gets the odd token depends on their full lengths. */
        n1 = encode_text(tokenizer, text, text_bytes, room, SIZE_MAX, ids + 1);
        n2 = encode_text(tokenizer, pair, pair_bytes, room, SIZE_MAX, pair_ids);
        truncate_pair(&n1, &n2, room);
        memcpy(ids + 1 + n1 + 1, pair_ids, n2 * sizeof *ids);
        ids[1 + n1 + 1 + n2] = tokenizer->sep;
    } else {
        n1 = DD_MIN(encode_text(tokenizer, text, text_bytes, room, room, ids + 1), room);
    }
    ids[0] = tokenizer->cls;
    ids[1 + n1] = tokenizer->sep;
    size_t count = n1 + n2 + (size_t)special;
    if (segments) {
        memset(segments, 0, n1 + 2);
        memset(segments + n1 + 2, 1, count - (n1 + 2));
    }
    *ret_count = (int)count;
    return DD_OK;
}
