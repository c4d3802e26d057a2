/* estimate: what a run will need, before it is queued: memory, disk, matrix operations and time.
 *
 * Lengths in tokens are guessed from a sample of the rows (no tokenizer may exist yet): an ideograph or a punctuation
 * mark is a token, other letters make one for every LETTERS_PER_TOKEN of a word.  Memory is what the _new functions
 * will reserve, by their own word (dd_bert_bytes, dd_optimizer_bytes): an upper bound, for what is never written to
 * (the moments of words that no text has, the room for longer batches) is never taken.  Time is operations over the
 * measured rate of sgemm on this machine, which is probed once a process (under 20 ms).
 */
#include "engine/train.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/blas.h"
#include "engine/model.h"

#define SAMPLE_ROWS 2048
#define LETTERS_PER_TOKEN 6
#define PROBE_N 256
#define PROBE_US 12000
#define SHARE_OF_SGEMM 0.75             /* what a step reaches of the rate of large products */
#define BLAS_BYTES ((uint64_t)8 << 20)  /* work buffers of the matrix library, a thread */
#define FIXED_BYTES ((uint64_t)8 << 20) /* files, hashes, logs */

/* --- the machine ------------------------------------------------------------------------------------------------ */

static pthread_once_t probe_once = PTHREAD_ONCE_INIT;
static double probed_flops = 50e9; /* a thread; the value where the probe cannot run */

static void probe(void) {
    size_t count = (size_t)PROBE_N * PROBE_N;
    float *a = dd_calloc_aligned(count, sizeof *a), *b = dd_calloc_aligned(count, sizeof *b),
          *c = dd_calloc_aligned(count, sizeof *c);
    double best = 0.0;
    if (a && b && c && dd_blas_open(NULL) == DD_OK) {
        for (size_t i = 0; i < count; i++) {
            a[i] = b[i] = 0.5f;
        }
        int64_t begin = 0;
        do { /* the first product also sets the library up, and is not counted */
            int64_t start = dd_clock_mono_us();
            dd_sgemm(false, true, PROBE_N, PROBE_N, PROBE_N, a, PROBE_N, b, PROBE_N, 0.0f, c, PROBE_N);
            int64_t end = dd_clock_mono_us();
            if (begin == 0) {
                begin = end;
            } else {
                best = DD_MAX(best, 2e6 * PROBE_N * PROBE_N * PROBE_N / (double)DD_MAX(end - start, (int64_t)1));
            }
        } while (best == 0.0 || dd_clock_mono_us() - begin < PROBE_US);
        probed_flops = best;
    }
    free(a);
    free(b);
    free(c);
}

/* --- lengths ---------------------------------------------------------------------------------------------------- */

/* About as many tokens as WordPiece makes of it. */
static int guess_tokens(const char *text, size_t bytes) {
    int tokens = 0, letters = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      (c >= 0xc0 && c < 0xe3); /* two-byte scripts and the lower three-byte ones: words of letters */
        if (letter) {
            if (letters++ % LETTERS_PER_TOKEN == 0) {
                tokens++;
            }
        } else if (c >= 0x80 && c < 0xc0) {
            continue; /* inside a character */
        } else {
            letters = 0;
            tokens += c > ' ';
        }
        if (tokens >= INT_MAX / 2) {
            break;
        }
    }
    return tokens;
}

struct lengths {
    int n; /* sampled rows */
    int32_t offsets[SAMPLE_ROWS + 1];
    int sorted[SAMPLE_ROWS]; /* longest first */
    double each;             /* rows that a sampled one stands for */
    double mean;
    int longest;
    double total; /* of the split */
};

static int descending(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x < y) - (x > y);
}

/* times: how often each row is trained on, with its altered copies; they are about as long as it is. */
static void sample_lengths(const struct dd_dataset *dataset, enum dd_split split, int max_length, int times,
                           struct lengths *ret) {
    uint64_t rows = dd_dataset_rows(dataset, split);
    uint64_t step = DD_MAX(rows / SAMPLE_ROWS, (uint64_t)1);
    *ret = (struct lengths){.each = (double)step * times};
    for (uint64_t r = 0; r < rows && ret->n < SAMPLE_ROWS; r += step) {
        struct dd_row row;
        dd_dataset_row(dataset, split, r, &row);
        size_t cap = (size_t)max_length * 16; /* enough bytes to fill max_length with any script */
        int tokens = 2 + guess_tokens(row.text, DD_MIN(row.text_bytes, cap));
        if (row.pair) {
            tokens += 1 + guess_tokens(row.pair, DD_MIN(row.pair_bytes, cap));
        }
        tokens = DD_MIN(tokens, max_length);
        ret->sorted[ret->n] = tokens;
        ret->offsets[ret->n + 1] = ret->offsets[ret->n] + tokens;
        ret->longest = DD_MAX(ret->longest, tokens);
        ret->n++;
    }
    if (ret->n == 0) {
        return;
    }
    ret->mean = (double)ret->offsets[ret->n] / ret->n;
    ret->total = ret->mean * (double)rows * times;
    qsort(ret->sorted, (size_t)ret->n, sizeof *ret->sorted, descending);
}

/* Tokens of the batch_size longest rows of both: in the samples, every each-th of them was seen. */
static double largest_batch(const struct lengths *a, const struct lengths *b, int batch_size) {
    double left = batch_size, tokens = 0.0;
    for (int i = 0, j = 0; left > 0.0 && (i < a->n || j < b->n);) {
        bool first = j == b->n || (i < a->n && a->sorted[i] >= b->sorted[j]);
        double share = DD_MIN(left, first ? a->each : b->each);
        tokens += share * (first ? a->sorted[i++] : b->sorted[j++]);
        left -= share;
    }
    return tokens;
}

/* Matrix operations of a pass over the split, per row sampled, scaled to all rows. */
static double split_flops(const struct dd_bert_config *config, const struct lengths *lengths, uint64_t rows,
                          bool training) {
    if (lengths->n == 0) {
        return 0.0;
    }
    const struct dd_batch batch = {
        .n_sequences = lengths->n, .n_tokens = lengths->offsets[lengths->n], .offsets = lengths->offsets};
    return dd_bert_flops(config, &batch, training) * (double)rows / lengths->n;
}

/* --- the sum ---------------------------------------------------------------------------------------------------- */

struct plan {
    const struct dd_spec *spec;
    const struct dd_bert_config *base;     /* NULL: none */
    const struct dd_bert_config *teachers; /* [spec->n_teachers] */
    struct dd_bert_config student;
    uint64_t train_rows, dev_rows, unlabelled_rows; /* with the augmented copies */
    struct lengths train, dev, unlabelled;
    double largest_batch;
    uint64_t slab_floats, parameters; /* of the student */
    uint64_t frozen_floats;
    uint64_t base_floats;    /* with the further teachers' */
    uint64_t matching_bytes; /* the states kept while training, and the buffers of a step */
    uint64_t states_bytes;   /* the file of states in the cache */
    uint64_t asking_bytes;   /* a batch of them */
    bool teacher_in_steps;
};

/* optimizer may be NULL, then nothing is frozen. */
static enum dd_status layout_floats(const struct dd_bert_config *config, int projection,
                                    const struct dd_optimizer_spec *optimizer, uint64_t *ret_floats,
                                    uint64_t *ret_frozen, uint64_t *ret_parameters, struct dd_error *err) {
    struct dd_params *layout = NULL;
    enum dd_status status = dd_params_layout_projected(config, projection, &layout, err);
    if (status == DD_OK) {
        *ret_floats = layout->count;
        *ret_frozen = optimizer ? dd_optimizer_frozen(optimizer, layout) : 0;
        *ret_parameters = dd_params_values(layout);
        dd_params_free(layout);
    }
    return status;
}

static uint64_t bounded(size_t bytes) {
    return bytes == SIZE_MAX ? (uint64_t)INT64_MAX / 4 : bytes;
}

static uint64_t bert_bytes(const struct dd_bert_config *config, double tokens, int sequences, int max_length,
                           bool training, enum dd_precision precision) {
    int count = tokens < 1.0 ? 1 : tokens > INT_MAX ? INT_MAX : (int)tokens;
    size_t bytes = dd_bert_bytes(config, count, sequences, max_length, training, precision);
    return bounded(bytes);
}

/* What matching adds.  Lengths are guesses, so where states of all tokens may or may not be kept, both are counted. */
static void plan_matching(struct plan *plan) {
    const struct dd_spec *spec = plan->spec;
    if (!plan->base || !dd_spec_matches(spec)) {
        return;
    }
    struct dd_match_spec match;
    dd_match_spec_make(spec, plan->base, &match);
    double tokens = DD_MAX(plan->largest_batch, (double)plan->dev.longest);
    int sequences = DD_MAX(spec->batch_size, 64), most = tokens > INT_MAX ? INT_MAX : DD_MAX((int)tokens, sequences);
    if (dd_spec_matches_states(spec)) {
        plan->matching_bytes = bounded(dd_match_bytes(&match, most, sequences));
    }
    if (dd_spec_matches_heads(spec)) { /* the teacher runs in every step, and nothing is kept */
        struct dd_heads_spec heads;
        dd_heads_spec_make(spec, plan->base, &heads);
        plan->matching_bytes += bounded(dd_heads_bytes(&heads, most, sequences, spec->max_length)) +
                                bert_bytes(plan->base, most, sequences, spec->max_length, false, DD_PRECISION_FP32);
        plan->teacher_in_steps = true;
        return;
    }
    uint64_t state = (uint64_t)match.teacher_width * sizeof(float);
    if (spec->hidden_weight > 0.0) {
        double all = (plan->train.total + plan->unlabelled.total) * (spec->layers + 1) * (double)state;
        plan->teacher_in_steps = all > (double)DD_STATES_BYTES;
        plan->states_bytes = (uint64_t)DD_MIN(all, (double)DD_STATES_BYTES);
        plan->asking_bytes = (uint64_t)DD_INFER_TOKENS * (uint64_t)(spec->layers + 1) * state;
        plan->matching_bytes += bert_bytes(plan->base, most, sequences, spec->max_length, false, DD_PRECISION_FP32);
    } else {
        plan->states_bytes = (plan->train_rows + plan->unlabelled_rows) * (uint64_t)plan->base->layers * state;
        plan->asking_bytes = (uint64_t)DD_INFER_SEQUENCES * (uint64_t)plan->base->layers * state;
    }
    plan->matching_bytes += plan->states_bytes;
}

static uint64_t plan_rows(const struct plan *plan) {
    return plan->train_rows + plan->unlabelled_rows + plan->dev_rows;
}

/* The sequences that dd_train gives its kernels room for, and what a batch costs outside them. */
static uint64_t memory_bytes(const struct plan *plan, int threads) {
    const struct dd_spec *spec = plan->spec;
    uint64_t rows = plan_rows(plan), classes = (uint64_t)plan->student.n_labels;
    uint64_t spelled = spec->task == DD_TASK_DISTILL && spec->whole_words > 0 ? 2 : 1; /* by teacher and student */
    uint64_t packed =
        spelled * ((uint64_t)((plan->train.total + plan->unlabelled.total + plan->dev.total) * 5.0) + rows * 16);
    uint64_t model = plan->slab_floats * 4, given = plan->base_floats * 4;
    double tokens = DD_MAX(plan->largest_batch, (double)plan->dev.longest);
    /* Weights and gradients, and what the guard reads back into them when it goes back. */
    uint64_t training =
        (spec->guard == DD_FLAG_YES ? 3 : 2) * model +
        dd_optimizer_bytes(&spec->optimizer, (size_t)plan->slab_floats, (size_t)plan->frozen_floats) +
        bert_bytes(&plan->student, tokens, DD_MAX(spec->batch_size, 64), spec->max_length, true, spec->precision) +
        plan->matching_bytes;
    uint64_t asking = 0, logits = plan->dev_rows * classes * 4;
    if (spec->task == DD_TASK_DISTILL && plan->base) {
        for (int i = 0; i <= spec->n_teachers; i++) {
            asking = DD_MAX(asking, bert_bytes(i == 0 ? plan->base : &plan->teachers[i - 1], DD_INFER_TOKENS,
                                               DD_INFER_SEQUENCES, spec->max_length, false, DD_PRECISION_FP32));
        }
        asking += model + (spec->n_teachers > 0 ? rows * classes * 8 : 0);
        logits += rows * classes * 4;
        asking += rows * (classes * 4 + 8); /* the part that is asked about: its answer and its offsets */
        asking += plan->states_bytes + plan->asking_bytes;
    }
    return DD_MAX(training, asking) + given + packed + logits + (uint64_t)DD_MAX(threads, 1) * BLAS_BYTES + FIXED_BYTES;
}

static double run_flops(const struct plan *plan) {
    const struct dd_spec *spec = plan->spec;
    double epoch = split_flops(&plan->student, &plan->train, plan->train_rows, true) +
                   split_flops(&plan->student, &plan->unlabelled, plan->unlabelled_rows, true) +
                   split_flops(&plan->student, &plan->dev, plan->dev_rows, false);
    /* Out of fold each teacher is asked about its own fold of the train rows. */
    bool fold = spec->n_teachers > 0 && spec->teacher_mean == DD_MEAN_OUT_OF_FOLD;
    double teacher = 0.0, share = fold ? 1.0 / (1 + spec->n_teachers) : 1.0;
    if (spec->task == DD_TASK_DISTILL && plan->base) {
        for (int i = 0; i <= spec->n_teachers; i++) {
            const struct dd_bert_config *asked = i == 0 ? plan->base : &plan->teachers[i - 1];
            teacher += split_flops(asked, &plan->train, plan->train_rows, false) * share +
                       split_flops(asked, &plan->unlabelled, plan->unlabelled_rows, false) +
                       split_flops(asked, &plan->dev, plan->dev_rows, false);
        }
    }
    if (plan->teacher_in_steps) {
        epoch += split_flops(plan->base, &plan->train, plan->train_rows, false) +
                 split_flops(plan->base, &plan->unlabelled, plan->unlabelled_rows, false);
    }
    return epoch * spec->epochs + teacher;
}

static enum dd_status make_plan(const struct dd_spec *spec, const struct dd_dataset *dataset,
                                const struct dd_bert_config *base, const struct dd_bert_config *teachers,
                                struct plan *plan, struct dd_error *err) {
    bool distill = spec->task == DD_TASK_DISTILL, unlabelled = distill && spec->unlabelled == DD_FLAG_YES;
    int times = 1 + (distill ? spec->augment : 0);
    int times_unlabelled = distill && spec->augment > 0 && spec->augment_unlabelled == DD_FLAG_YES ? times : 1;
    uint64_t unlabelled_rows = dd_dataset_rows(dataset, DD_SPLIT_UNLABELLED) * (uint64_t)times_unlabelled;
    *plan = (struct plan){.spec = spec,
                          .base = base,
                          .teachers = teachers,
                          .train_rows = dd_dataset_rows(dataset, DD_SPLIT_TRAIN) * (uint64_t)times,
                          .dev_rows = dd_dataset_rows(dataset, DD_SPLIT_DEV),
                          .unlabelled_rows = unlabelled ? unlabelled_rows : 0};
    dd_student_config(spec, dd_dataset_classes(dataset), base, DD_MAX(spec->vocab_size, 5), 0, &plan->student);
    if (distill && spec->whole_words > 0) {
        plan->student.vocab_size = DD_MIN(plan->student.vocab_size + spec->whole_words, DD_MAX_VOCAB);
    }
    sample_lengths(dataset, DD_SPLIT_TRAIN, spec->max_length, times, &plan->train);
    sample_lengths(dataset, DD_SPLIT_DEV, spec->max_length, 1, &plan->dev);
    if (!distill && spec->folds > 1) {
        plan->train_rows -= plan->train_rows / (uint64_t)spec->folds;
        plan->train.total *= (double)(spec->folds - 1) / spec->folds;
    }
    if (unlabelled) {
        sample_lengths(dataset, DD_SPLIT_UNLABELLED, spec->max_length, times_unlabelled, &plan->unlabelled);
    }
    plan->largest_batch = largest_batch(&plan->train, &plan->unlabelled, spec->batch_size);
    plan_matching(plan);
    enum dd_status status = layout_floats(&plan->student, dd_match_projection(spec, base), &spec->optimizer,
                                          &plan->slab_floats, &plan->frozen_floats, &plan->parameters, err);
    if (status == DD_OK && base) {
        uint64_t ignored;
        status = layout_floats(base, 0, NULL, &plan->base_floats, &ignored, &ignored, err);
    }
    for (int i = 0; status == DD_OK && distill && i < spec->n_teachers; i++) {
        uint64_t floats = 0, ignored;
        status = layout_floats(&teachers[i], 0, NULL, &floats, &ignored, &ignored, err);
        plan->base_floats += floats;
    }
    return status;
}

enum dd_status dd_train_estimate(const struct dd_spec *spec, const struct dd_dataset *dataset,
                                 const struct dd_bert_config *base_config, const struct dd_bert_config *teacher_configs,
                                 int threads, struct dd_train_estimate *ret_estimate, struct dd_error *err) {
    struct plan *plan = dd_calloc(1, sizeof *plan);
    if (!plan) {
        return dd_fail_memory(err, sizeof *plan);
    }
    enum dd_status status = make_plan(spec, dataset, base_config, teacher_configs, plan, err);
    if (status == DD_OK) {
        pthread_once(&probe_once, probe);
        uint64_t checkpoint =
            dd_checkpoint_bytes(&spec->optimizer, plan->slab_floats, plan->frozen_floats, plan->dev_rows);
        uint64_t model = plan->parameters * 4;
        uint64_t cache = spec->task == DD_TASK_DISTILL
                             ? plan_rows(plan) * (uint64_t)plan->student.n_labels * 4 * (uint64_t)(1 + spec->n_teachers)
                             : 0;
        double flops = run_flops(plan);
        *ret_estimate =
            (struct dd_train_estimate){.memory_bytes = memory_bytes(plan, threads),
                                       /* two checkpoints and one being written; two best, one being written, last */
                                       .disk_bytes = 3 * checkpoint + 4 * model + cache + plan->states_bytes,
                                       .parameters = plan->parameters,
                                       .model_bytes = model,
                                       .matmul_flops = flops,
                                       .seconds = flops / (probed_flops * DD_MAX(threads, 1) * SHARE_OF_SGEMM)};
    }
    free(plan);
    return status;
}
