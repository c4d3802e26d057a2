/* distilld.conf. */
#include "daemon/config.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    struct dd_error err;
    struct dd_options options;
    memset(&options, 0, sizeof options);
    char *text = fuzz_text(bytes, count);
    enum dd_status status = dd_options_read_text(&options, text, "distilld.conf", &err);
    fuzz_check_error(status, &err);
    dd_options_release(&options);
    free(text);
    return 0;
}
