/* weights: reads every tensor that a format's reader has found, as the loader would. */
#ifndef DD_FUZZ_WEIGHTS_H
#define DD_FUZZ_WEIGHTS_H

#include "engine/model.h"
#include "fuzz/fuzz.h"

typedef enum dd_status fuzz_reader(const uint8_t *bytes, size_t count, struct dd_weights *weights,
                                   struct dd_error *err);

static inline void fuzz_weights(fuzz_reader *reader, const uint8_t *bytes, size_t count) {
    struct dd_error err;
    struct dd_weights *weights = calloc(1, sizeof *weights);
    FUZZ_CHECK(weights != NULL);
    enum dd_status status = reader(bytes, count, weights, &err);
    fuzz_check_error(status, &err);
    for (size_t i = 0; status == DD_OK && i < weights->count; i++) {
        const struct dd_weight *weight = &weights->items[i];
        struct dd_weight_reader values;
        char shape[128];
        float out[64];
        dd_weight_shape_text(weight->rank, weight->shape, shape, sizeof shape);
        size_t elements = weight->rank == 0 ? 0 : 1;
        for (int d = 0; d < weight->rank; d++) {
            elements *= weight->shape[d]; /* dd_weights_add has refused what overflows */
        }
        if (weight->dtype == DD_DTYPE_OTHER || weight->rank < 1 || weight->rank > 2 || elements == 0 ||
            dd_weight_reader_init(&values, weight, &err) != DD_OK) {
            continue;
        }
        dd_weight_read(&values, 0, DD_MIN(elements, DD_ARRAY_LEN(out)), out);
        dd_weight_read(&values, elements - 1, 1, out);
        dd_weight_reader_release(&values);
    }
    dd_weights_free(weights);
}

#endif
