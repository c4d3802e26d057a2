/* Texts through the tokenizer.  Input: a byte of choices, a byte of max_length, text, optionally 0xFF and the pair. */
#include "engine/words.h"
#include "fuzz/fuzz.h"

static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n##a\n##b\n##c\nab\n##bc\nthe\n##ing\ni\n##i\n"
                            "\xe6\x88\x91\n\xe4\xbb\xac\n.\n,\n!\n\xc3\xa9\n##\xc3\xa9\n\xe1\xbe\xb3\n[unused1]\n";

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static struct dd_tokenizer *tokenizers[8];
    struct dd_error err;
    if (count < 2) {
        return 0;
    }
    int which = bytes[0] & 7, max_length = 5 + bytes[1] % 124, n = 0;
    const struct dd_tokenizer_options options = {which & 1, which & 2, which & 4};
    if (tokenizers[which] == NULL) {
        FUZZ_CHECK(dd_tokenizer_new(vocab, sizeof vocab - 1, &options, &tokenizers[which], &err) == DD_OK);
    }
    const struct dd_tokenizer *tokenizer = tokenizers[which];
    const uint8_t *cut = memchr(bytes + 2, 0xFF, count - 2);
    size_t text_bytes = cut == NULL ? count - 2 : (size_t)(cut - bytes) - 2;
    size_t pair_bytes = cut == NULL ? 0 : count - text_bytes - 3;
    char *text = fuzz_text(bytes + 2, text_bytes), *pair = cut == NULL ? NULL : fuzz_text(cut + 1, pair_bytes);
    int32_t *ids = calloc((size_t)max_length, sizeof *ids);
    uint8_t *segments = calloc((size_t)max_length, 1);
    FUZZ_CHECK(ids != NULL && segments != NULL);
    FUZZ_CHECK(dd_tokenizer_encode(tokenizer, text, text_bytes, pair, pair_bytes, max_length, ids, segments, &n,
                                   &err) == DD_OK);
    FUZZ_CHECK(n >= 2 + (pair != NULL) && n <= max_length && ids[0] == 2 && ids[n - 1] == 3);
    for (int i = 0; i < n; i++) {
        FUZZ_CHECK(ids[i] >= 0 && ids[i] < dd_tokenizer_size(tokenizer) && segments[i] <= (pair != NULL));
    }
    size_t total = dd_tokenizer_count(tokenizer, text, text_bytes);
    if (pair == NULL) {
        FUZZ_CHECK((size_t)n == DD_MIN(total + 2, (size_t)max_length));
    }
    free(segments);
    free(ids);
    free(pair);
    free(text);
    return 0;
}
