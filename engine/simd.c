/* simd: chooses the kernels at run time; see simd.h. */
#include "engine/simd.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

extern const struct dd_simd dd_simd_table_avx512, dd_simd_table_avx2, dd_simd_table_baseline;

static const struct dd_simd *chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                __builtin_cpu_supports("bmi2");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    const struct dd_simd *const table[] = {avx512 ? &dd_simd_table_avx512 : NULL, avx2 ? &dd_simd_table_avx2 : NULL,
                                           &dd_simd_table_baseline};
    const char *wanted = getenv("DISTILLD_SIMD");
    for (size_t i = 0; i < DD_ARRAY_LEN(table); i++) {
        if (table[i] != NULL && (chosen == NULL || (wanted != NULL && strcmp(wanted, table[i]->name) == 0))) {
            chosen = table[i];
        }
    }
}

const struct dd_simd *dd_simd(void) {
    pthread_once(&once, choose);
    return chosen;
}

const char *dd_engine_cpu(void) {
    return dd_simd()->name;
}

static size_t pad(size_t n) {
    return (n + DD_SIMD_PAD - 1) / DD_SIMD_PAD * DD_SIMD_PAD;
}

size_t dd_attention_scratch_floats(int max_length, int head_size) {
    size_t padded = pad((size_t)max_length), block = DD_MIN((size_t)DD_ATTENTION_BLOCK, (size_t)max_length);
    size_t mask_words = block * padded / 16 + 2 * DD_MASK_GROUP_WORDS;
    return 2 * block * padded + 2 * (size_t)head_size * padded + pad(mask_words / 2 + 1);
}

size_t dd_relation_scratch_floats(int max_length, int student_size, int teacher_size) {
    size_t padded = pad((size_t)max_length), block = DD_MIN((size_t)DD_ATTENTION_BLOCK, (size_t)max_length);
    return (2 * block + (size_t)student_size + (size_t)teacher_size + 2) * padded;
}

struct dd_mask dd_mask_new(const struct dd_dropout *dropout, double p, uint32_t tensor) {
    struct dd_mask mask = {.scale = 1.0f};
    if (dropout->on && p > 0.0) {
        mask.stream = (struct dd_stream){dropout->seed, DD_PURPOSE_DROPOUT, tensor, dropout->step};
        mask.threshold = (uint32_t)DD_MIN(lround(p * 65536.0), 65535L);
        mask.scale = (float)(65536.0 / (65536.0 - mask.threshold));
    }
    return mask;
}
