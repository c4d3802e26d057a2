/* What torch.save writes since 1.6: a zip archive with a pickle and storages inside. */
#include "fuzz/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    (void)dd_torch_is_zip(bytes, count);
    fuzz_weights(dd_torch_zip_read, bytes, count);
    return 0;
}
