/* tokenizer_words: the iterator of words.h.
 * Thread: any; a struct dd_words belongs to its caller.
 * Invariant: chars[run_start … count) are all combining characters (class ≠ 0) in canonical order.
 */
#include "engine/words.h"

#include <string.h>

void dd_words_init(struct dd_words *words, const struct dd_tokenizer_options *options, const char *text, size_t bytes) {
    words->count = 0;
    words->too_long = false;
    words->options = *options;
    words->at = text;
    words->end = text + bytes;
    words->queue_at = words->queue_end = 0;
    words->run_start = 0;
}

static void queue_put(struct dd_words *words, uint32_t c) {
    words->queue[words->queue_end++] = c;
}

/* Queues what one character of the input becomes. */
static void queue_normalized(struct dd_words *words, uint32_t c, unsigned flags) {
    words->queue_at = words->queue_end = 0;
    bool apart = (flags & DD_CHAR_CJK) && words->options.tokenize_chinese_chars;
    if (apart) {
        queue_put(words, ' ');
    }
    uint32_t parts[DD_CHAR_DECOMPOSED_MAX] = {c};
    int n_parts = words->options.strip_accents ? dd_char_decompose(c, parts) : 1;
    for (int i = 0; i < n_parts; i++) {
        uint32_t lower[DD_CHAR_LOWER_MAX] = {parts[i]};
        /* A mark that will be dropped goes through the queue too: it ends or continues a run of combining marks. */
        int n_lower = words->options.do_lower_case ? dd_char_lower(parts[i], lower) : 1;
        for (int j = 0; j < n_lower; j++) {
            queue_put(words, lower[j]);
        }
    }
    if (apart) {
        queue_put(words, ' ');
    }
}

static void append(struct dd_words *words, uint32_t c) {
    if (words->count > DD_WORD_CHARS) {
        words->too_long = true;
        return;
    }
    words->chars[words->count++] = c;
    words->too_long = words->count > DD_WORD_CHARS;
}

/* Appends a character that may be a combining mark: NFD orders runs of them by class, and drops Mn afterwards. */
static void append_ordered(struct dd_words *words, uint32_t c, unsigned flags) {
    int combining = dd_char_combining_class(c);
    if (combining == 0) {
        if (!(flags & DD_CHAR_MARK)) {
            append(words, c);
        }
        words->run_start = words->count;
        return;
    }
    if (flags & DD_CHAR_MARK) {
        return;
    }
    append(words, c);
    for (int i = words->count - 1; i > words->run_start && dd_char_combining_class(words->chars[i - 1]) > combining;
         i--) {
        words->chars[i] = words->chars[i - 1];
        words->chars[i - 1] = c;
    }
}

/* Takes one normalized character.  Returns true when a word is complete; *ret_taken tells whether c is used up. */
static bool take(struct dd_words *words, uint32_t c, unsigned flags, bool *ret_taken) {
    *ret_taken = true;
    if (flags & DD_CHAR_SPACE) {
        words->run_start = words->count;
        return words->count > 0;
    }
    if (flags & DD_CHAR_PUNCTUATION) {
        if (words->count > 0) {
            *ret_taken = false;
            return true;
        }
        append(words, c);
        return true;
    }
    if (words->options.strip_accents && (flags & (DD_CHAR_CHANGES | DD_CHAR_MARK))) {
        append_ordered(words, c, flags);
    } else {
        append(words, c);
        words->run_start = words->count;
    }
    return false;
}

bool dd_words_next(struct dd_words *words) {
    words->count = 0;
    words->run_start = 0;
    words->too_long = false;
    bool strip = words->options.strip_accents, lower = words->options.do_lower_case;
    for (;;) {
        bool taken;
        while (words->queue_at < words->queue_end) {
            uint32_t c = words->queue[words->queue_at];
            bool complete = take(words, c, dd_char_class(c), &taken);
            words->queue_at += taken;
            if (complete) {
                return true;
            }
        }
        if (words->at >= words->end) {
            return words->count > 0;
        }
        const char *before = words->at;
        uint32_t c = dd_utf8_next(&words->at, words->end);
        unsigned flags = dd_char_class(c);
        if (flags & DD_CHAR_DROP) {
            continue;
        }
        if ((flags & DD_CHAR_SPACE) || !(flags & (DD_CHAR_CJK | DD_CHAR_CHANGES | DD_CHAR_MARK))) {
            if (take(words, c, flags, &taken)) {
                words->at = taken ? words->at : before;
                return true;
            }
        } else if (c < 0x80) { /* a capital letter */
            append(words, lower ? c | 0x20 : c);
            words->run_start = words->count;
        } else if ((flags & DD_CHAR_CHANGES) == 0 && (flags & DD_CHAR_CJK) && words->options.tokenize_chinese_chars) {
            if (words->count == 0) {
                append(words, c);
            } else {
                words->at = before;
            }
            return true;
        } else if (strip || lower || (flags & DD_CHAR_CJK)) {
            queue_normalized(words, c, flags);
        } else if (take(words, c, flags, &taken)) {
            words->at = taken ? words->at : before;
            return true;
        }
    }
}
