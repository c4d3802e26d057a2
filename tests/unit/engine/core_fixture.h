/* core_fixture: golden files of tests/golden/make_bert.py, pools, and small models, for the tests of the numeric core.
 */
#ifndef DD_TESTS_CORE_FIXTURE_H
#define DD_TESTS_CORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/nn.h"

#define GOLDEN_STEPS 20
static const char *const golden_cases[] = {"one_head", "two_heads_pairs", "three_heads"};

struct golden {
    struct dd_bert_config config;
    struct dd_batch batch;
    int32_t ids[256], offsets[64], labels[64];
    uint8_t segments[256];
    struct dd_params *params, *grads;
    float logits[512], dlogits[512];
    double adamw[GOLDEN_STEPS], sgd[GOLDEN_STEPS];
};

static inline void must(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        fail_msg("%s: %s", err->code, err->message);
    }
}

static inline void golden_read(FILE *file, void *to, size_t bytes) {
    assert_int_equal(fread(to, 1, bytes, file), bytes);
}

static inline void golden_header(FILE *file, struct golden *golden, int32_t *ret_tensors) {
    char magic[8];
    int32_t number[9], shape[3], segments[256];
    golden_read(file, magic, sizeof magic);
    assert_memory_equal(magic, "ddbert1\n", 8);
    golden_read(file, number, sizeof number);
    golden->config = (struct dd_bert_config){.vocab_size = number[0],
                                             .hidden_size = number[1],
                                             .layers = number[2],
                                             .heads = number[3],
                                             .intermediate_size = number[4],
                                             .max_positions = number[5],
                                             .type_vocab_size = number[6],
                                             .n_labels = number[7],
                                             .pad_token_id = number[8],
                                             .initializer_range = 0.02,
                                             .classifier_dropout = NAN};
    golden_read(file, golden->config.hidden_act, 16);
    golden_read(file, &golden->config.layer_norm_eps, sizeof(double));
    golden_read(file, shape, sizeof shape);
    assert_true(shape[0] < 64 && shape[1] <= 256);
    golden_read(file, golden->ids, sizeof(int32_t) * (size_t)shape[1]);
    golden_read(file, segments, sizeof(int32_t) * (size_t)shape[1]);
    golden_read(file, golden->offsets, sizeof(int32_t) * (size_t)(shape[0] + 1));
    golden_read(file, golden->labels, sizeof(int32_t) * (size_t)shape[0]);
    for (int i = 0; i < shape[1]; i++) {
        golden->segments[i] = (uint8_t)segments[i];
    }
    golden->batch = (struct dd_batch){shape[0], shape[1], golden->ids, golden->segments, golden->offsets};
    *ret_tensors = shape[2];
}

static inline void golden_load(struct golden *golden, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "tests/golden/fixtures/bert/%s.bin", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail_msg("cannot open %s: run from the repository's root", path);
        return;
    }
    struct dd_error err;
    int32_t n_tensors, count;
    golden_header(file, golden, &n_tensors);
    must(dd_params_new(&golden->config, &golden->params, &err), &err);
    must(dd_params_new(&golden->config, &golden->grads, &err), &err);
    assert_int_equal(n_tensors, golden->params->n_tensors);
    for (int i = 0; i < n_tensors; i++) {
        char tensor_name[96];
        golden_read(file, tensor_name, sizeof tensor_name);
        golden_read(file, &count, sizeof count);
        const struct dd_tensor *tensor = dd_params_find(golden->params, tensor_name);
        assert_non_null(tensor);
        assert_int_equal(tensor->count, count);
        golden_read(file, golden->params->slab + tensor->offset, sizeof(float) * tensor->count);
        golden_read(file, golden->grads->slab + tensor->offset, sizeof(float) * tensor->count);
    }
    size_t logits = (size_t)golden->batch.n_sequences * (size_t)golden->config.n_labels * sizeof(float);
    assert_true(logits <= sizeof golden->logits);
    golden_read(file, golden->logits, logits);
    golden_read(file, golden->dlogits, logits);
    golden_read(file, golden->adamw, sizeof golden->adamw);
    golden_read(file, golden->sgd, sizeof golden->sgd);
    fclose(file);
}

static inline void golden_release(struct golden *golden) {
    dd_params_free(golden->params);
    dd_params_free(golden->grads);
}

/* A pool of `threads` and one team in it. */
struct cores {
    struct dd_pool *pool;
    struct dd_team *team;
};

static inline struct cores cores_new(int threads) {
    struct cores cores;
    struct dd_error err;
    must(dd_pool_new(threads, &cores.pool, &err), &err);
    must(dd_team_join(cores.pool, &cores.team, &err), &err);
    return cores;
}

static inline void cores_free(struct cores *cores) {
    dd_team_leave(cores->team);
    dd_pool_free(cores->pool);
}

/* A batch of made-up sequences; free(batch.ids) and so on are the caller's, by made_free. */
struct made {
    struct dd_batch batch;
    int32_t *ids, *offsets, *labels;
    uint8_t *segments;
};

static inline struct made make_batch(int n_sequences, int longest, int vocab, uint64_t seed) {
    struct made made = {0};
    struct dd_stream stream = {.seed = seed, .purpose = DD_PURPOSE_SPLIT};
    made.offsets = dd_calloc((size_t)n_sequences + 1, sizeof(int32_t));
    made.labels = dd_calloc((size_t)n_sequences, sizeof(int32_t));
    for (int s = 0; s < n_sequences; s++) {
        made.offsets[s + 1] =
            made.offsets[s] + 2 + (int32_t)dd_random_below(&stream, (uint64_t)s, (uint64_t)longest - 1);
        made.labels[s] = (int32_t)dd_random_below(&stream, 5000 + (uint64_t)s, 3);
    }
    int tokens = made.offsets[n_sequences];
    made.ids = dd_calloc((size_t)tokens, sizeof(int32_t));
    made.segments = dd_calloc((size_t)tokens, 1);
    for (int t = 0; t < tokens; t++) {
        made.ids[t] = 1 + (int32_t)dd_random_below(&stream, 100000 + (uint64_t)t, (uint64_t)vocab - 1);
        made.segments[t] = (uint8_t)(t % 3 == 0);
    }
    made.batch = (struct dd_batch){n_sequences, tokens, made.ids, made.segments, made.offsets};
    return made;
}

static inline void made_free(struct made *made) {
    free(made->ids);
    free(made->segments);
    free(made->offsets);
    free(made->labels);
}

#endif
