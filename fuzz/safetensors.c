/* model.safetensors: header and every tensor's values. */
#include "fuzz/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    fuzz_weights(dd_safetensors_read, bytes, count);
    return 0;
}
