/* vocab.txt, tokenizer.json and tokenizer_config.json.  Input: a byte that says which, then the file. */
#include "engine/model.h"
#include "fuzz/fuzz.h"

static const char text[] = "The quick br\xc3\xb6wn fox \xe6\x88\x91\xe4\xbb\xac jumps, [MASK] and all.";

static void try_vocab(const char *vocab, size_t bytes, const struct dd_tokenizer_options *options) {
    struct dd_error err;
    struct dd_tokenizer *tokenizer;
    enum dd_status status = dd_tokenizer_new(vocab, bytes, options, &tokenizer, &err);
    fuzz_check_error(status, &err);
    if (status != DD_OK) {
        return;
    }
    int32_t ids[64];
    int n;
    FUZZ_CHECK(dd_tokenizer_encode(tokenizer, text, sizeof text - 1, text, 9, 64, ids, NULL, &n, &err) == DD_OK);
    for (int i = 0; i < n; i++) {
        FUZZ_CHECK(dd_tokenizer_token(tokenizer, ids[i]) != NULL);
    }
    FUZZ_CHECK(dd_tokenizer_token(tokenizer, -1) == NULL);
    FUZZ_CHECK(dd_tokenizer_token(tokenizer, dd_tokenizer_size(tokenizer)) == NULL);
    size_t kept_bytes;
    const char *kept = dd_tokenizer_vocab(tokenizer, &kept_bytes);
    struct dd_tokenizer *again;
    FUZZ_CHECK(dd_tokenizer_new(kept, kept_bytes, options, &again, &err) == DD_OK);
    FUZZ_CHECK(dd_tokenizer_size(again) == dd_tokenizer_size(tokenizer));
    dd_tokenizer_free(again);
    dd_tokenizer_free(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    static const char *const names[] = {"vocab.txt", "tokenizer.json", "tokenizer_config.json"};
    static const char small[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n";
    if (count == 0) {
        return 0;
    }
    char path[128], *vocab = NULL;
    size_t vocab_bytes = 0, which = bytes[0] % 3;
    struct dd_error err;
    struct dd_tokenizer_options options = {true, true, true};
    for (size_t i = 0; i < DD_ARRAY_LEN(names); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", fuzz_dir(), names[i]);
        (void)unlink(path);
    }
    if (which == 2) {
        fuzz_file("vocab.txt", (const uint8_t *)small, sizeof small - 1, path);
    }
    fuzz_file(names[which], bytes + 1, count - 1, path);
    enum dd_status status =
        dd_model_vocab_read(fuzz_dir(), (int)(bytes[0] >> 4) % 3 - 1, &vocab, &vocab_bytes, &options, &err);
    fuzz_check_error(status, &err);
    if (status == DD_OK && vocab != NULL) {
        try_vocab(vocab, vocab_bytes, &options);
    }
    if (status == DD_OK) {
        free(vocab);
    }
    return 0;
}
