/* What torch.save wrote before 1.6: pickles behind one another, then the storages. */
#include "fuzz/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    fuzz_weights(dd_torch_legacy_read, bytes, count);
    return 0;
}
