/* step: what a training step costs beside the machine's own matrix rate.
 *
 *   step [--layers 3] [--hidden 768] [--heads 3] [--batch 32] [--threads 1] [--vocab 21128] [--steps 10]
 *        [--mean 19 | --lengths FILE] [--precision fp32|bf16] [--name NAME] [--export FILE] [--json FILE] [--cpu 1]
 *
 * Lengths in tokens: drawn from the numbers in FILE (one a line), or spread evenly from half the mean to one and a half
 * times it.  Token ids are drawn unevenly, as words are used in text.  Two more steps run first and are not counted.
 *
 * Prints forward, backward and optimizer in milliseconds, matrix GFLOP/s (FLOPs that the step needs, real tokens), the
 * rate of dd_sgemm on as many threads at the shapes of the layers, and the share that the step reaches.  The rate is
 * taken between every two steps, since a core that a neighbour uses too halves its speed from one second to the next:
 * the share is the steps' FLOPs over what the products would have done in the same seconds, at the mean of the rates
 * before and after each step.
 * --export writes the very batches for torch_reference.py, --json appends the figures as one line.  --cpu 1 counts the
 * process's CPU time instead of the wall clock: figures on a loaded machine (one thread only).
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/bert.h"
#include "engine/blas.h"
#include "engine/nn.h"
#include "engine/pool.h"

#define WARMUP 2
#define CLASSES 3
#define MAX_THREADS 256

struct options {
    int layers, hidden, heads, batch, threads, vocab, steps, mean, cpu;
    const char *lengths, *precision, *name, *export, *json;
};

static bool use_cpu_clock;

static double seconds(void) {
    struct timespec now;
    clock_gettime(use_cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "step: %s: %s\n", what, why);
    exit(1);
}

static void must(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        die("engine", err->message);
    }
}

static void *zeros(size_t count, size_t bytes) {
    void *memory = dd_calloc_aligned(count, bytes);
    if (memory == NULL) {
        die("memory", strerror(ENOMEM));
    }
    return memory;
}

/* --- options ------------------------------------------------------------------------------------------------------ */

static struct options parse(int argc, char **argv) {
    struct options o = {.layers = 3,
                        .hidden = 768,
                        .heads = 3,
                        .batch = 32,
                        .threads = 1,
                        .vocab = 21128,
                        .steps = 10,
                        .mean = 19,
                        .precision = "fp32",
                        .name = "step"};
    const struct {
        const char *name;
        int *number;
        const char **text;
    } known[] = {{"--layers", &o.layers, NULL},       {"--hidden", &o.hidden, NULL},   {"--heads", &o.heads, NULL},
                 {"--batch", &o.batch, NULL},         {"--threads", &o.threads, NULL}, {"--vocab", &o.vocab, NULL},
                 {"--steps", &o.steps, NULL},         {"--mean", &o.mean, NULL},       {"--cpu", &o.cpu, NULL},
                 {"--lengths", NULL, &o.lengths},     {"--name", NULL, &o.name},       {"--export", NULL, &o.export},
                 {"--precision", NULL, &o.precision}, {"--json", NULL, &o.json}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        while (k < DD_ARRAY_LEN(known) && strcmp(argv[i], known[k].name) != 0) {
            k++;
        }
        if (k == DD_ARRAY_LEN(known) || i + 1 == argc) {
            die(argv[i], "unknown, or without a value; see the head of tests/bench/step.c");
        }
        if (known[k].text != NULL) {
            *known[k].text = argv[i + 1];
        } else if ((*known[k].number = atoi(argv[i + 1])) < (known[k].number == &o.cpu ? 0 : 1)) {
            die(argv[i], "must be a positive number");
        }
    }
    if (o.threads > MAX_THREADS || (o.cpu != 0 && o.threads != 1)) {
        die("--threads", "out of range");
    }
    return o;
}

/* --- the batches ----------------------------------------------------------------------------------------------------
 */

struct batches {
    int *lengths; /* the pool they are drawn from */
    int n_lengths, max_length;
    int32_t *ids, *offsets, *labels;
    uint8_t *segments;
};

static void read_lengths(struct batches *batches, const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        die(path, strerror(errno));
    }
    int length, capacity = 0;
    while (fscanf(file, "%d", &length) == 1 && batches->n_lengths < 1000000) {
        if (batches->n_lengths == capacity) {
            capacity = 2 * capacity + 1024;
            batches->lengths = realloc(batches->lengths, (size_t)capacity * sizeof(int));
            if (batches->lengths == NULL) {
                die(path, strerror(ENOMEM));
            }
        }
        batches->lengths[batches->n_lengths++] = DD_MAX(2, DD_MIN(length, 512));
    }
    fclose(file);
    if (batches->n_lengths == 0) {
        die(path, "holds no numbers");
    }
}

static void batches_init(struct batches *batches, const struct options *o) {
    *batches = (struct batches){0};
    if (o->lengths != NULL) {
        read_lengths(batches, o->lengths);
    } else {
        batches->n_lengths = o->mean + 1;
        batches->lengths = zeros((size_t)batches->n_lengths, sizeof(int));
        for (int i = 0; i <= o->mean; i++) {
            batches->lengths[i] = DD_MAX(2, DD_MIN(o->mean / 2 + i, 512));
        }
    }
    for (int i = 0; i < batches->n_lengths; i++) {
        batches->max_length = DD_MAX(batches->max_length, batches->lengths[i]);
    }
    size_t tokens = (size_t)batches->max_length * (size_t)o->batch;
    batches->ids = zeros(tokens, sizeof(int32_t));
    batches->segments = zeros(tokens, 1);
    batches->offsets = zeros((size_t)o->batch + 1, sizeof(int32_t));
    batches->labels = zeros((size_t)o->batch, sizeof(int32_t));
}

static void batches_release(struct batches *batches) {
    free(batches->lengths);
    free(batches->ids);
    free(batches->segments);
    free(batches->offsets);
    free(batches->labels);
}

/* Fills in batch `step`, a function of its number alone; a tenth of the vocabulary serves most tokens. */
static struct dd_batch batches_fill(struct batches *batches, const struct options *o, int step) {
    struct dd_stream stream = {.seed = (uint64_t)step, .purpose = DD_PURPOSE_SPLIT};
    int32_t *offsets = batches->offsets;
    for (int s = 0; s < o->batch; s++) {
        uint64_t at = dd_random_below(&stream, (uint64_t)s, (uint64_t)batches->n_lengths);
        offsets[s + 1] = offsets[s] + batches->lengths[at];
        batches->labels[s] = (int32_t)dd_random_below(&stream, 3000000 + (uint64_t)s, CLASSES);
    }
    for (int t = 0; t < offsets[o->batch]; t++) {
        bool common = dd_random_below(&stream, 5000 + (uint64_t)t, 10) < 9;
        uint64_t bound = (uint64_t)DD_MAX(common ? o->vocab / 10 : o->vocab, 1);
        batches->ids[t] = (int32_t)dd_random_below(&stream, 1000000 + (uint64_t)t, bound);
    }
    return (struct dd_batch){o->batch, offsets[o->batch], batches->ids, batches->segments, offsets};
}

static double mean_tokens(struct batches *batches, const struct options *o) {
    double tokens = 0.0;
    for (int step = WARMUP; step < o->steps + WARMUP; step++) {
        tokens += batches_fill(batches, o, step).n_tokens;
    }
    return tokens / o->steps;
}

static void write_numbers(FILE *file, const int32_t *number, int count, int first) {
    fputc('[', file);
    for (int i = 0; i < count; i++) {
        fprintf(file, "%s%d", i == 0 ? "" : ",", number[first + i]);
    }
    fputc(']', file);
}

/* {"batches": [[[id, …], …], …], "labels": [[…], …]}, the warm-up first. */
static void batches_export(struct batches *batches, const struct options *o) {
    FILE *file = fopen(o->export, "w");
    if (file == NULL) {
        die(o->export, strerror(errno));
    }
    fputs("{\"batches\":[", file);
    for (int step = 0; step < o->steps + WARMUP; step++) {
        struct dd_batch batch = batches_fill(batches, o, step);
        fputs(step == 0 ? "[" : ",\n[", file);
        for (int s = 0; s < batch.n_sequences; s++) {
            fputs(s == 0 ? "" : ",", file);
            write_numbers(file, batch.ids, batch.offsets[s + 1] - batch.offsets[s], batch.offsets[s]);
        }
        fputc(']', file);
    }
    fputs("],\n\"labels\":[", file);
    for (int step = 0; step < o->steps + WARMUP; step++) {
        batches_fill(batches, o, step);
        fputs(step == 0 ? "" : ",", file);
        write_numbers(file, batches->labels, o->batch, 0);
    }
    fputs("]}\n", file);
    if (fclose(file) != 0) {
        die(o->export, strerror(errno));
    }
}

/* --- the machine's matrix rate --------------------------------------------------------------------------------------
 */

struct rate {
    pthread_t thread;
    int tokens, hidden;
    float *a, *b, *c;
    double flops_per_second;
};

/* This thread's FLOP/s over the three orientations of the hidden × hidden and hidden × 4 hidden products. */
static void *rate_main(void *argument) {
    struct rate *rate = argument;
    int tokens = rate->tokens, hidden = rate->hidden;
    double flops = 0.0, spent = 0.0;
    for (int out = hidden; out <= 4 * hidden; out += 3 * hidden) {
        double start = 0.0;
        for (int repeat = 0; repeat < 2; repeat++) { /* the first is not counted */
            start = seconds();
            dd_sgemm(false, true, tokens, out, hidden, rate->a, hidden, rate->b, hidden, 0.0f, rate->c, out);
            dd_sgemm(false, false, tokens, hidden, out, rate->a, out, rate->b, hidden, 0.0f, rate->c, hidden);
            dd_sgemm(true, false, out, hidden, tokens, rate->a, out, rate->b, hidden, 0.0f, rate->c, hidden);
        }
        flops += 6.0 * tokens * out * hidden;
        spent += seconds() - start;
    }
    rate->flops_per_second = flops / spent;
    return NULL;
}

struct rates {
    int threads;
    struct rate thread[MAX_THREADS];
};

static void rates_init(struct rates *rates, int threads, int tokens, int hidden) {
    size_t most = (size_t)DD_MAX(tokens, hidden) * (size_t)hidden * 4;
    rates->threads = threads;
    for (int t = 0; t < threads; t++) {
        struct rate *rate = &rates->thread[t];
        *rate = (struct rate){.tokens = tokens,
                              .hidden = hidden,
                              .a = zeros(most, sizeof(float)),
                              .b = zeros(most, sizeof(float)),
                              .c = zeros(most, sizeof(float))};
        for (size_t i = 0; i < most; i++) {
            rate->a[i] = rate->b[i] = (float)(i % 17) * 0.1f;
        }
    }
}

static void rates_release(struct rates *rates) {
    for (int t = 0; t < rates->threads; t++) {
        free(rates->thread[t].a);
        free(rates->thread[t].b);
        free(rates->thread[t].c);
    }
}

/* FLOP/s of all threads at this moment, each with products of its own. */
static double rate_now(struct rates *rates) {
    double sum = 0.0;
    for (int t = 0; t < rates->threads; t++) {
        if (pthread_create(&rates->thread[t].thread, NULL, rate_main, &rates->thread[t]) != 0) {
            die("sgemm", "no thread");
        }
    }
    for (int t = 0; t < rates->threads; t++) {
        pthread_join(rates->thread[t].thread, NULL);
        sum += rates->thread[t].flops_per_second;
    }
    return sum;
}

/* --- the steps ------------------------------------------------------------------------------------------------------
 */

struct work {
    struct dd_bert_config config;
    struct dd_pool *pool;
    struct dd_team *team;
    struct dd_params *params, *grads;
    struct dd_bert *bert;
    struct dd_optimizer *optimizer;
    float *logits, *dlogits;
};

static void work_init(struct work *work, const struct options *o, int max_length) {
    const struct dd_optimizer_spec spec = {.type = DD_OPTIMIZER_ADAMW,
                                           .lr = 3e-4,
                                           .weight_decay = 0.01,
                                           .eps = 1e-8,
                                           .beta1 = 0.9,
                                           .beta2 = 0.999,
                                           .schedule = DD_SCHEDULE_CONSTANT,
                                           .max_grad_norm = 1.0};
    *work = (struct work){.config = {.vocab_size = o->vocab,
                                     .hidden_size = o->hidden,
                                     .layers = o->layers,
                                     .heads = o->heads,
                                     .intermediate_size = 4 * o->hidden,
                                     .max_positions = 512,
                                     .type_vocab_size = 2,
                                     .n_labels = CLASSES,
                                     .hidden_act = "gelu",
                                     .layer_norm_eps = 1e-12,
                                     .initializer_range = 0.02,
                                     .hidden_dropout = 0.1,
                                     .attention_dropout = 0.1,
                                     .classifier_dropout = NAN}};
    enum dd_precision precision = strcmp(o->precision, "bf16") == 0 ? DD_PRECISION_BF16 : DD_PRECISION_FP32;
    struct dd_error err;
    must(dd_pool_new(o->threads, &work->pool, &err), &err);
    must(dd_team_join(work->pool, &work->team, &err), &err);
    must(dd_params_new(&work->config, &work->params, &err), &err);
    must(dd_params_new(&work->config, &work->grads, &err), &err);
    dd_params_expect_few_words(work->grads);
    must(dd_bert_new(&work->config, max_length * o->batch, o->batch, max_length, true, precision, work->team,
                     &work->bert, &err),
         &err);
    must(dd_optimizer_new(&spec, work->params, &work->config, 1000, work->team, &work->optimizer, &err), &err);
    dd_params_init(work->params, &work->config, 1);
    work->logits = zeros((size_t)o->batch * CLASSES, sizeof(float));
    work->dlogits = zeros((size_t)o->batch * CLASSES, sizeof(float));
}

static void work_release(struct work *work) {
    free(work->logits);
    free(work->dlogits);
    dd_optimizer_free(work->optimizer);
    dd_bert_free(work->bert);
    dd_params_free(work->params);
    dd_params_free(work->grads);
    dd_team_leave(work->team);
    dd_pool_free(work->pool);
}

struct figures {
    double forward, backward, optimizer, median; /* seconds a step */
    double tokens, gflops, sgemm_gflops, loss, peak_bytes;
};

/* One step on one batch; time[0 … 3] are its borders. */
static double run_step(struct work *work, const struct dd_batch *batch, const int32_t *labels, int step,
                       double time[4]) {
    const struct dd_dropout dropout = {.on = true, .seed = 1, .step = (uint64_t)step};
    double lr;
    int n_touched;
    dd_team_step(work->team);
    time[0] = seconds();
    dd_optimizer_refresh(work->optimizer, batch->ids, batch->n_tokens);
    dd_bert_forward(work->bert, work->params, batch, &dropout, work->logits);
    struct dd_loss loss =
        dd_distill_loss(work->logits, NULL, labels, batch->n_sequences, CLASSES, 1.0, 0.0, work->dlogits);
    time[1] = seconds();
    dd_bert_backward(work->bert, work->params, batch, &dropout, work->dlogits, work->grads);
    time[2] = seconds();
    const int32_t *touched = dd_bert_touched(work->bert, &n_touched);
    dd_optimizer_step(work->optimizer, work->grads, touched, n_touched, &lr);
    time[3] = seconds();
    return loss.total;
}

static int compare_doubles(const void *a, const void *b) {
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* The most memory that this process has had resident since forget_peak. */
static double peak_bytes(void) {
    char line[256];
    double kilobytes = 0.0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kilobytes = strtod(line + 6, NULL);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kilobytes * 1024.0;
}

static void forget_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file == NULL || fputs("5", file) < 0 || fclose(file) != 0) {
        die("/proc/self/clear_refs", strerror(errno));
    }
}

static struct figures measure(struct work *work, struct batches *batches, const struct options *o) {
    static struct rates rates;
    struct figures f = {0};
    double *spent = zeros((size_t)o->steps, sizeof(double)), flops = 0.0, total = 0.0, could = 0.0, time[4];
    for (int step = 0; step < WARMUP; step++) {
        struct dd_batch batch = batches_fill(batches, o, step);
        run_step(work, &batch, batches->labels, step, time);
    }
    rates_init(&rates, o->threads, (int)mean_tokens(batches, o), o->hidden);
    double before = rate_now(&rates);
    for (int step = WARMUP; step < o->steps + WARMUP; step++) {
        struct dd_batch batch = batches_fill(batches, o, step);
        f.loss = run_step(work, &batch, batches->labels, step, time);
        double after = rate_now(&rates), all = time[3] - time[0];
        f.forward += (time[1] - time[0]) / o->steps;
        f.backward += (time[2] - time[1]) / o->steps;
        f.optimizer += (time[3] - time[2]) / o->steps;
        spent[step - WARMUP] = all;
        total += all;
        could += all * (before + after) / 2.0;
        flops += dd_bert_flops(&work->config, &batch, true);
        f.tokens += (double)batch.n_tokens / o->steps;
        before = after;
    }
    qsort(spent, (size_t)o->steps, sizeof *spent, compare_doubles);
    f.median = spent[o->steps / 2];
    f.gflops = flops / total * 1e-9;
    f.sgemm_gflops = could / total * 1e-9;
    free(spent);
    /* The engine gives nothing back, so one more step without the matrices of `rates` shows what all of them took. */
    rates_release(&rates);
    forget_peak();
    struct dd_batch batch = batches_fill(batches, o, WARMUP);
    run_step(work, &batch, batches->labels, o->steps + WARMUP, time);
    f.peak_bytes = peak_bytes();
    return f;
}

static void print(const struct options *o, const struct figures *f) {
    double rate = f->sgemm_gflops;
    double mean = f->forward + f->backward + f->optimizer;
    printf("%s: %d x %d, %d heads, batch %d, %.0f tokens, %d threads, %s, %s, %s\n", o->name, o->layers, o->hidden,
           o->heads, o->batch, f->tokens, o->threads, o->precision, dd_engine_cpu(), dd_engine_blas());
    printf("  forward %.2f ms, backward %.2f ms, optimizer %.2f ms; %.0f tokens/s\n", f->forward * 1e3,
           f->backward * 1e3, f->optimizer * 1e3, f->tokens / mean);
    printf("  %.1f GFLOP/s of sgemm's %.1f: share %.3f (without the optimizer %.3f); last loss %.4f\n", f->gflops, rate,
           f->gflops / rate, f->gflops * mean / (f->forward + f->backward) / rate, f->loss);
}

static void append_json(const struct options *o, const struct figures *f) {
    double rate = f->sgemm_gflops;
    double mean = f->forward + f->backward + f->optimizer;
    FILE *file = fopen(o->json, "a");
    if (file == NULL) {
        die(o->json, strerror(errno));
    }
    fprintf(file,
            "{\"engine\":\"distilld\",\"name\":\"%s\",\"layers\":%d,\"hidden_size\":%d,\"heads\":%d,\"batch_size\":%d,"
            "\"vocab_size\":%d,\"threads\":%d,\"precision\":\"%s\",\"cpu\":\"%s\",\"blas\":\"%s\",\"steps\":%d,"
            "\"tokens_per_step\":%.1f,\"forward_ms\":%.3f,\"backward_ms\":%.3f,\"optimizer_ms\":%.3f,"
            "\"step_ms_median\":%.3f,\"tokens_per_second\":%.1f,\"gflops\":%.2f,\"sgemm_gflops\":%.2f,"
            "\"share_of_sgemm\":%.4f,\"peak_memory_bytes\":%.0f,\"last_loss\":%.6f}\n",
            o->name, o->layers, o->hidden, o->heads, o->batch, o->vocab, o->threads, o->precision, dd_engine_cpu(),
            dd_engine_blas(), o->steps, f->tokens, f->forward * 1e3, f->backward * 1e3, f->optimizer * 1e3,
            f->median * 1e3, f->tokens / mean, f->gflops, rate, f->gflops / rate, f->peak_bytes, f->loss);
    if (fclose(file) != 0) {
        die(o->json, strerror(errno));
    }
}

int main(int argc, char **argv) {
    struct options o = parse(argc, argv);
    struct batches batches;
    struct work work;
    use_cpu_clock = o.cpu != 0;
    batches_init(&batches, &o);
    if (o.export != NULL) {
        batches_export(&batches, &o);
    }
    work_init(&work, &o, batches.max_length);
    struct figures figures = measure(&work, &batches, &o);
    print(&o, &figures);
    if (o.json != NULL) {
        append_json(&o, &figures);
    }
    work_release(&work);
    batches_release(&batches);
    return 0;
}
