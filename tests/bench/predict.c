/* predict: what an answer costs, fp32 and int8 in turn in one process.
 *
 *   predict [--layers 3] [--hidden 768] [--heads 12] [--vocab 21128] [--tokens 20] [--texts 1] [--rounds 30]
 *           [--threads 1] [--json FILE]
 *
 * Texts of `tokens` tokens, [CLS] and [SEP] included, on a model of random weights; the least time of `rounds` rounds
 * of each, since what disturbs a machine only adds.  Beside it, from the same run: plain sgemm calls at the shapes of
 * one such batch over weights of their own (what a short text's FLOPs cost, the weights' way from memory included), and
 * reading as many bytes as those weights have.  overhead = fp32 less sgemm.
 * --json appends the figures as one line.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/blas.h"
#include "engine/model.h"
#include "engine/nn.h"

#define CLASSES 3

struct options {
    int layers, hidden, heads, vocab, tokens, texts, rounds, threads, cpu;
    const char *json;
};

static clockid_t clock_used = CLOCK_MONOTONIC;

static double seconds(void) {
    struct timespec now;
    clock_gettime(clock_used, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void must(enum dd_status status, const struct dd_error *err) {
    if (status != DD_OK) {
        fprintf(stderr, "predict: %s\n", err->message);
        exit(1);
    }
}

static void *zeros(size_t count, size_t bytes) {
    void *memory = dd_calloc_aligned(count, bytes);
    if (memory == NULL) {
        fprintf(stderr, "predict: out of memory\n");
        exit(1);
    }
    return memory;
}

static struct options read_options(int argc, char **argv) {
    struct options o = {
        .layers = 3, .hidden = 768, .heads = 12, .vocab = 21128, .tokens = 20, .texts = 1, .rounds = 30, .threads = 1};
    const struct {
        const char *name;
        int *value;
    } known[] = {{"--layers", &o.layers}, {"--hidden", &o.hidden},   {"--heads", &o.heads},
                 {"--vocab", &o.vocab},   {"--tokens", &o.tokens},   {"--texts", &o.texts},
                 {"--rounds", &o.rounds}, {"--threads", &o.threads}, {"--cpu", &o.cpu}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            o.json = argv[i + 1];
            continue;
        }
        while (k < DD_ARRAY_LEN(known) && strcmp(argv[i], known[k].name) != 0) {
            k++;
        }
        if (k == DD_ARRAY_LEN(known) || i + 1 == argc || atoi(argv[i + 1]) < 1) {
            fprintf(stderr, "usage: see the head of tests/bench/predict.c\n");
            exit(64);
        }
        *known[k].value = atoi(argv[i + 1]);
    }
    return o;
}

/* Words are "w0" …, a token each. */
static struct dd_model *make_model(const struct options *o) {
    struct dd_error err;
    struct dd_buffer vocab;
    struct dd_model *model = zeros(1, sizeof *model);
    dd_buffer_init(&vocab, (size_t)1 << 24);
    dd_buffer_puts(&vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    for (int i = 5; i < o->vocab; i++) {
        dd_buffer_printf(&vocab, "w%d\n", i);
    }
    const struct dd_tokenizer_options settings = {true, true, true};
    must(dd_tokenizer_new(vocab.data, vocab.len, &settings, &model->tokenizer, &err), &err);
    dd_buffer_release(&vocab);
    model->info.kind = DD_MODEL_CLASSIFIER;
    model->info.n_labels = CLASSES;
    model->info.has_pooler = model->info.has_tokenizer = true;
    model->info.config = (struct dd_bert_config){.vocab_size = o->vocab,
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
                                                 .classifier_dropout = NAN};
    must(dd_params_new(&model->info.config, &model->params, &err), &err);
    dd_params_init(model->params, &model->info.config, 1);
    return model;
}

static struct dd_row *make_rows(const struct options *o) {
    struct dd_row *rows = zeros((size_t)o->texts, sizeof *rows);
    unsigned random = 1;
    for (int r = 0; r < o->texts; r++) {
        struct dd_buffer text;
        dd_buffer_init(&text, (size_t)1 << 20);
        for (int t = 2; t < o->tokens; t++) {
            random = random * 1664525u + 1013904223u;
            dd_buffer_printf(&text, "w%d ", 5 + (int)(random >> 8) % (o->vocab - 5));
        }
        rows[r].text_bytes = text.len;
        rows[r].text = dd_buffer_take(&text, NULL);
    }
    return rows;
}

/* The products of one forward at the shapes of bert_forward.c, each with weights of its own; returns their bytes. */
static size_t run_products(const struct options *o, float *weights, const float *x, float *y) {
    int tokens = o->tokens * o->texts, hidden = o->hidden, inner = 4 * hidden;
    size_t at = 0;
    for (int l = 0; l < o->layers; l++) {
        int rows = l == o->layers - 1 ? o->texts : tokens;
        const struct {
            int m, n, k;
        } shape[] = {{rows, hidden, hidden},
                     {tokens, 2 * hidden, hidden},
                     {rows, hidden, hidden},
                     {rows, inner, hidden},
                     {rows, hidden, inner}};
        for (size_t i = 0; i < DD_ARRAY_LEN(shape); i++) {
            dd_sgemm(false, true, shape[i].m, shape[i].n, shape[i].k, x, shape[i].k, weights + at, shape[i].k, 0.0f, y,
                     shape[i].n);
            at += (size_t)shape[i].n * (size_t)shape[i].k;
        }
    }
    dd_sgemm(false, true, o->texts, hidden, hidden, x, hidden, weights + at, hidden, 0.0f, y, hidden);
    return (at + (size_t)hidden * (size_t)hidden) * sizeof(float);
}

static double sum_of(const float *values, size_t bytes) {
    float sums[64] = {0};
    for (size_t i = 0; i + 64 <= bytes / sizeof(float); i += 64) {
        for (size_t k = 0; k < 64; k++) {
            sums[k] += values[i + k];
        }
    }
    return (double)sums[0];
}

static double least(double best, double since) {
    double took = seconds() - since;
    return took < best ? took : best;
}

struct figures {
    double fp32, int8, products, reading; /* seconds */
    size_t bytes;                         /* read */
};

static void print(const struct options *o, const struct figures *f) {
    printf("%d x %d, %d texts of %d tokens, %d threads; %s, %s, int8 by %s\n", o->layers, o->hidden, o->texts,
           o->tokens, o->threads, dd_engine_cpu(), dd_engine_blas(), dd_engine_int8());
    printf("fp32 %.3f ms   int8 %.3f ms   ratio %.2f\n", f->fp32 * 1e3, f->int8 * 1e3, f->fp32 / f->int8);
    printf("sgemm alone, one thread %.3f ms   overhead %.3f ms   reading its %.1f MB %.3f ms (%.1f GB/s)\n",
           f->products * 1e3, (f->fp32 - f->products) * 1e3, (double)f->bytes / 1e6, f->reading * 1e3,
           (double)f->bytes / f->reading * 1e-9);
}

static void append_json(const struct options *o, const struct figures *f) {
    FILE *file = fopen(o->json, "a");
    if (file == NULL) {
        perror(o->json);
        exit(1);
    }
    fprintf(file,
            "{\"engine\":\"predict\",\"layers\":%d,\"hidden_size\":%d,\"texts\":%d,\"tokens\":%d,\"threads\":%d,"
            "\"fp32_ms\":%.3f,\"int8_ms\":%.3f,\"sgemm_ms\":%.3f,\"int8_kernels\":\"%s\"}\n",
            o->layers, o->hidden, o->texts, o->tokens, o->threads, f->fp32 * 1e3, f->int8 * 1e3, f->products * 1e3,
            dd_engine_int8());
    if (fclose(file) != 0) {
        perror(o->json);
        exit(1);
    }
}

int main(int argc, char **argv) {
    const struct options o = read_options(argc, argv);
    clock_used = o.cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    struct dd_error err;
    struct dd_pool *pool = NULL;
    struct dd_predictor *predictor[2] = {NULL, NULL};
    struct dd_model *models[2] = {make_model(&o), NULL};
    must(dd_model_quantize(models[0], &models[1], &err), &err);
    must(dd_pool_new(o.threads, &pool, &err), &err);
    for (int i = 0; i < 2; i++) {
        must(dd_predictor_new(models[i], pool, 512, &predictor[i], &err), &err);
    }
    struct dd_row *rows = make_rows(&o);
    float *logits = zeros((size_t)o.texts, CLASSES * sizeof *logits);
    size_t wide = (size_t)o.tokens * (size_t)o.texts * 4 * (size_t)o.hidden;
    float *x = zeros(wide, sizeof *x), *y = zeros(wide, sizeof *y);
    size_t layer = (size_t)12 * (size_t)o.hidden * (size_t)o.hidden;
    float *weights = zeros((size_t)o.layers * layer + layer, sizeof *weights);
    struct figures f = {INFINITY, INFINITY, INFINITY, INFINITY, 0};
    double sink = 0.0;
    for (int round = 0; round < o.rounds; round++) {
        for (int i = 0; i < 2; i++) {
            double since = seconds();
            must(dd_predict(predictor[i], rows, (size_t)o.texts, NULL, logits, &err), &err);
            double *time = i == 0 ? &f.fp32 : &f.int8;
            *time = least(*time, since);
        }
        double since = seconds();
        f.bytes = run_products(&o, weights, x, y);
        f.products = least(f.products, since);
        since = seconds();
        sink += sum_of(weights, f.bytes);
        f.reading = least(f.reading, since);
    }
    print(&o, &f);
    if (o.json != NULL) {
        append_json(&o, &f);
    }
    if (!isfinite(sink)) { /* what was read is used */
        return 1;
    }
    return 0;
}
