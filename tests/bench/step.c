/* step: what a training step costs beside the machine's own matrix rate.
 *
 *   step [layers] [hidden] [heads] [batch] [threads] [mean length] [vocab] [steps]     defaults 3 768 3 32 1 19 21128
 * 10 DD_BENCH_BF16=1: precision bf16
 *
 * Prints forward, backward and optimizer in milliseconds, matrix GFLOP/s (FLOPs that the step needs, real tokens), the
 * rate of dd_sgemm on one core in the same run at the shapes of the layers, and the share that the step reaches of
 * threads × that rate.  Lengths are spread evenly from half the mean to one and a half times it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/bert.h"
#include "engine/blas.h"
#include "engine/nn.h"
#include "engine/pool.h"

static double seconds(void) {
    struct timespec now;
    clock_gettime(getenv("DD_BENCH_CPU") != NULL ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void must(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        fprintf(stderr, "%s\n", err->message);
        exit(1);
    }
}

/* One core's GFLOP/s over the three orientations of the hidden × hidden and hidden × 4 hidden products. */
static double sgemm_rate(int tokens, int hidden) {
    size_t most = (size_t)DD_MAX(tokens, hidden) * (size_t)hidden * 4;
    float *a = dd_calloc_aligned(most, 4), *b = dd_calloc_aligned(most, 4), *c = dd_calloc_aligned(most, 4);
    double flops = 0.0, spent = 0.0;
    for (size_t i = 0; i < most; i++) {
        a[i] = b[i] = (float)(i % 17) * 0.1f;
    }
    for (int round = 0; round < 2; round++) {
        for (int wide = 1; wide <= 4; wide += 3) {
            int out = hidden * wide;
            double best = INFINITY;
            for (int repeat = 0; repeat < 5; repeat++) {
                double start = seconds();
                dd_sgemm(false, true, tokens, out, hidden, a, hidden, b, hidden, 0.0f, c, out);
                dd_sgemm(false, false, tokens, hidden, out, a, out, b, hidden, 0.0f, c, hidden);
                dd_sgemm(true, false, out, hidden, tokens, a, out, b, hidden, 0.0f, c, hidden);
                best = fmin(best, seconds() - start);
            }
            flops += 6.0 * tokens * out * hidden;
            spent += best;
        }
    }
    free(a);
    free(b);
    free(c);
    return flops / spent * 1e-9;
}

struct options {
    int layers, hidden, heads, batch, threads, length, vocab, steps;
};

static struct options parse(int argc, char **argv) {
    int value[8] = {3, 768, 3, 32, 1, 19, 21128, 10};
    for (int i = 1; i < argc && i <= 8; i++) {
        value[i - 1] = atoi(argv[i]);
    }
    return (struct options){value[0], value[1], value[2], value[3], value[4], value[5], value[6], value[7]};
}

static int fill_batch(const struct options *o, int step, int32_t *ids, uint8_t *segments, int32_t *offsets) {
    struct dd_stream stream = {.seed = (uint64_t)step, .purpose = DD_PURPOSE_SPLIT};
    for (int s = 0; s < o->batch; s++) {
        int length = o->length / 2 + (int)dd_random_below(&stream, (uint64_t)s, (uint64_t)o->length + 1);
        offsets[s + 1] = offsets[s] + DD_MAX(length, 2);
    }
    for (int t = 0; t < offsets[o->batch]; t++) {
        /* Words are used unevenly, as in text: a tenth of the vocabulary serves most tokens. */
        uint64_t bound =
            dd_random_below(&stream, 5000 + (uint64_t)t, 10) < 9 ? (uint64_t)o->vocab / 10 : (uint64_t)o->vocab;
        ids[t] = (int32_t)dd_random_below(&stream, 1000000 + (uint64_t)t, bound);
        segments[t] = 0;
    }
    return offsets[o->batch];
}

int main(int argc, char **argv) {
    struct options o = parse(argc, argv);
    const struct dd_bert_config config = {.vocab_size = o.vocab,
                                          .hidden_size = o.hidden,
                                          .layers = o.layers,
                                          .heads = o.heads,
                                          .intermediate_size = 4 * o.hidden,
                                          .max_positions = 512,
                                          .type_vocab_size = 2,
                                          .n_labels = 3,
                                          .hidden_act = "gelu",
                                          .layer_norm_eps = 1e-12,
                                          .initializer_range = 0.02,
                                          .hidden_dropout = 0.1,
                                          .attention_dropout = 0.1,
                                          .classifier_dropout = NAN};
    const struct dd_optimizer_spec spec = {.type = DD_OPTIMIZER_ADAMW,
                                           .lr = 1e-4,
                                           .weight_decay = 0.01,
                                           .eps = 1e-8,
                                           .beta1 = 0.9,
                                           .beta2 = 0.999,
                                           .schedule = DD_SCHEDULE_CONSTANT,
                                           .max_grad_norm = 1.0};
    struct dd_error err;
    struct dd_pool *pool;
    struct dd_team *team;
    struct dd_params *params, *grads;
    struct dd_bert *bert;
    struct dd_optimizer *optimizer;
    int max_length = 2 * o.length, max_tokens = max_length * o.batch;
    must(dd_pool_new(o.threads, &pool, &err), &err);
    must(dd_team_join(pool, &team, &err), &err);
    must(dd_params_new(&config, &params, &err), &err);
    must(dd_params_new(&config, &grads, &err), &err);
    must(dd_bert_new(&config, max_tokens, o.batch, max_length, true,
                     getenv("DD_BENCH_BF16") != NULL ? DD_PRECISION_BF16 : DD_PRECISION_FP32, team, &bert, &err),
         &err);
    must(dd_optimizer_new(&spec, params, &config, 1000, team, &optimizer, &err), &err);
    dd_params_init(params, &config, 1);
    int32_t *ids = dd_calloc((size_t)max_tokens, 4), *offsets = dd_calloc((size_t)o.batch + 1, 4);
    int32_t *labels = dd_calloc((size_t)o.batch, 4);
    uint8_t *segments = dd_calloc((size_t)max_tokens, 1);
    float *logits = dd_calloc((size_t)o.batch * 3, 4), *dlogits = dd_calloc((size_t)o.batch * 3, 4);
    double phase[3] = {0.0, 0.0, 0.0}, flops = 0.0, tokens = 0.0;
    for (int step = -2; step < o.steps; step++) {
        int n_tokens = fill_batch(&o, step + 2, ids, segments, offsets);
        const struct dd_batch batch = {o.batch, n_tokens, ids, segments, offsets};
        const struct dd_dropout dropout = {.on = true, .seed = 1, .step = (uint64_t)(step + 2)};
        double time[4], lr;
        int n_touched;
        dd_team_step(team);
        time[0] = seconds();
        dd_optimizer_refresh(optimizer, ids, n_tokens);
        dd_bert_forward(bert, params, &batch, &dropout, logits);
        dd_distill_loss(logits, NULL, labels, o.batch, 3, 1.0, 0.0, dlogits);
        time[1] = seconds();
        dd_bert_backward(bert, params, &batch, &dropout, dlogits, grads);
        time[2] = seconds();
        const int32_t *touched = dd_bert_touched(bert, &n_touched);
        dd_optimizer_step(optimizer, grads, touched, n_touched, &lr);
        time[3] = seconds();
        for (int i = 0; i < 3 && step >= 0; i++) {
            phase[i] += time[i + 1] - time[i];
        }
        flops += step >= 0 ? dd_bert_flops(&config, &batch, true) : 0.0;
        tokens += step >= 0 ? n_tokens : 0.0;
    }
    double total = phase[0] + phase[1] + phase[2], rate = sgemm_rate((int)(tokens / o.steps), o.hidden);
    printf("%d x %d, %d heads, batch %d, %.0f tokens, %d threads, %s, %s\n", o.layers, o.hidden, o.heads, o.batch,
           tokens / o.steps, o.threads, dd_engine_cpu(), dd_engine_blas());
    printf("forward %.2f ms, backward %.2f ms, optimizer %.2f ms; %.0f tokens/s\n", phase[0] / o.steps * 1e3,
           phase[1] / o.steps * 1e3, phase[2] / o.steps * 1e3, tokens / total);
    printf("%.1f GFLOP/s of %d x %.1f: share %.3f (without the optimizer %.3f)\n", flops / total * 1e-9, o.threads,
           rate, flops / total * 1e-9 / (rate * o.threads), flops / (phase[0] + phase[1]) * 1e-9 / (rate * o.threads));
    free(ids);
    free(offsets);
    free(labels);
    free(segments);
    free(logits);
    free(dlogits);
    dd_optimizer_free(optimizer);
    dd_bert_free(bert);
    dd_params_free(params);
    dd_params_free(grads);
    dd_team_leave(team);
    dd_pool_free(pool);
    return 0;
}
