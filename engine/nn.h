/* nn: the inside of the engine that the training loop and the predictor stand on.  Private to engine/.
 * Threads: everything here runs on the caller's thread and its team; nothing is allocated after the _new functions.
 */
#ifndef DD_ENGINE_NN_H
#define DD_ENGINE_NN_H

#include "engine/engine.h"

/* --- counter-based random numbers (philox.c) -------------------------------------------------------------------- */

/* What a stream is for; part of the counter, so no two purposes share numbers.  Values are fixed for ever: they decide
 * bits. */
enum dd_purpose {
    DD_PURPOSE_INIT = 1,
    DD_PURPOSE_SHUFFLE,
    DD_PURPOSE_SPLIT,
    DD_PURPOSE_DROPOUT,
    DD_PURPOSE_SEED,
    DD_PURPOSE_AUGMENT,
    DD_PURPOSE_FOLDS,
    DD_PURPOSE_BOOTSTRAP = 15
};
struct dd_stream {
    uint64_t seed;
    uint32_t purpose;
    uint32_t tensor;
    uint64_t step;
};
/* Philox 4×32-10 (Salmon et al. 2011; vectors of Random123): block `index` of the stream, 128 bits. */
void dd_philox(const struct dd_stream *stream, uint64_t index, uint32_t out[4]);
uint64_t dd_random_below(const struct dd_stream *stream, uint64_t index, uint64_t bound); /* unbiased */
void dd_random_normal(const struct dd_stream *stream, size_t first, size_t count, float stddev,
                      float *out); /* Box–Muller, double inside */
void dd_random_permutation(const struct dd_stream *stream, uint32_t *out, uint32_t count); /* Fisher–Yates */

/* --- BERT (bert*.c, attention.c, kernels*.c, linear.c) ---------------------------------------------------------- */

/* A packed batch: the real tokens of all sequences behind one another, no padding. */
struct dd_batch {
    int n_sequences, n_tokens;
    const int32_t *ids;      /* [n_tokens] */
    const uint8_t *segments; /* [n_tokens], 0 or 1 */
    const int32_t *offsets;  /* [n_sequences + 1]: sequence s is tokens offsets[s] … offsets[s+1]-1 */
};
struct dd_dropout {
    bool on;       /* false: evaluation */
    uint64_t seed; /* the spec's */
    uint64_t step; /* 0-based over the whole run: masks are a function of (seed, step, tensor, index) */
};
/* Activations and scratch for one shape of model and the largest batch; sized once. */
struct dd_bert;
enum dd_status dd_bert_new(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                           bool training, enum dd_precision precision, struct dd_team *team, struct dd_bert **ret_bert,
                           struct dd_error *err) DD_MUST_CHECK;
/* For evaluation with params that keep matrices as int8. */
enum dd_status dd_bert_new_int8(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                                struct dd_team *team, struct dd_bert **ret_bert, struct dd_error *err) DD_MUST_CHECK;
void dd_bert_free(struct dd_bert *bert);
size_t dd_bert_bytes(const struct dd_bert_config *config, int max_tokens, int max_sequences, int max_length,
                     bool training, enum dd_precision precision); /* what _new will allocate; SIZE_MAX on overflow */
/* logits [n_sequences, n_labels].  ids must be < vocab_size, lengths ≤ max_length (the caller's check). */
void dd_bert_forward(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                     const struct dd_dropout *dropout, float *logits);
/* After forward with the same arguments, training only: writes (not adds) every gradient into grads (layout of params).
 * Rows of embeddings.word_embeddings that the batch does not use are left as they are: dd_bert_touched names those in
 * use. */
void dd_bert_backward(struct dd_bert *bert, const struct dd_params *params, const struct dd_batch *batch,
                      const struct dd_dropout *dropout, const float *dlogits, struct dd_params *grads);
/* true: the backward leaves the gradients of embeddings.… as they are and does no work for them; nothing is touched. */
void dd_bert_set_frozen(struct dd_bert *bert, bool frozen);
/* Distinct word ids of the last backward's batch, ascending. */
const int32_t *dd_bert_touched(const struct dd_bert *bert, int *ret_count);
/* The classifier reads the last layer at [CLS] alone, and by default only that is computed.  true: evaluation forwards
 * compute that layer's every row, for dd_bert_hidden.  Logits are the same function either way (bits may differ). */
void dd_bert_set_full(struct dd_bert *bert, bool full);
/* Last hidden state [n_tokens, hidden] (NULL unless full) and pooled [n_sequences, hidden] of the last forward; for
 * tests and encoder parity. */
const float *dd_bert_hidden(const struct dd_bert *bert);
const float *dd_bert_pooled(const struct dd_bert *bert);
/* Matching of inner states (match.h).  State 0 is the output of the embeddings, state i that of layer i - 1. */
/* Of a training model, after its forward: [n_tokens, hidden], the last one [n_sequences, hidden], at [CLS]. */
const float *dd_bert_state(const struct dd_bert *bert, int state);
/* What the next backwards add to d loss / d state, for each of the layers + 1 states; an entry is NULL where there is
 * nothing.  tokens [n_tokens, hidden], of all but the last state; cls [n_sequences, hidden].  Borrowed; NULL: none. */
struct dd_bert_extra {
    const float *const *tokens, *const *cls;
};
void dd_bert_set_extra(struct dd_bert *bert, const struct dd_bert_extra *extra);
/* What attention worked with in the last forward: a layer's queries, keys and values, biases added, rows of hidden
 * floats at the strides.  Of an evaluation model: of the layer before the state that the tap is being shown. */
struct dd_bert_qkv {
    const float *q, *k, *v;
    size_t q_stride, kv_stride;
    bool cls; /* q has a row a sequence, its [CLS]; else a row a token */
};
struct dd_bert_qkv dd_bert_qkv(const struct dd_bert *bert, int layer);
/* What the next backwards add to d loss / d these, for each layer; an entry is NULL where there is nothing.  Rows as
 * above, contiguous.  Borrowed; NULL: none. */
struct dd_bert_extra_qkv {
    const float *const *q, *const *k, *const *v;
};
void dd_bert_set_extra_qkv(struct dd_bert *bert, const struct dd_bert_extra_qkv *extra);
/* Called in the next forwards with each state [rows, hidden] as soon as it is there; rows are the batch's tokens, or
 * its sequences where only [CLS] is computed.  NULL: nobody. */
typedef void dd_bert_tap(void *context, int state, const float *values, int rows);
void dd_bert_set_tap(struct dd_bert *bert, dd_bert_tap *tap, void *context);
double dd_bert_flops(const struct dd_bert_config *config, const struct dd_batch *batch,
                     bool training); /* matrix FLOPs, real tokens */

/* Of gradients: the rows of words are written for the batch's words alone, so only theirs shall take memory. */
void dd_params_expect_few_words(struct dd_params *params);
/* As dd_params_new; width > 0: with "match.projection" [width, hidden] and its bias behind the model's tensors. */
enum dd_status dd_params_new_projected(const struct dd_bert_config *config, int width, struct dd_params **ret_params,
                                       struct dd_error *err) DD_MUST_CHECK;
/* N(0, initializer_range), biases 0, LayerNorm 1/0, [PAD] row 0. */
void dd_params_init(struct dd_params *params, const struct dd_bert_config *config, uint64_t seed);
/* Only the tensors that `has` misses: pooler and/or classifier of a pretrained encoder. */
void dd_params_init_head(struct dd_params *params, const struct dd_bert_config *config, uint64_t seed, bool pooler,
                         bool classifier);

/* --- losses (loss.c) -------------------------------------------------------------------------------------------- */

struct dd_loss {
    double total, kl, ce;
    double ce_weight; /* what ce was divided by: the sum of the labels' weights */
};                    /* of the batch: the formula of the note; kl 0 when teacher is NULL */
/* student [n, c]; teacher [n, c] or NULL (then total = ce); labels [n], −1 = no label: such a row has no CE term.
 * dlogits [n, c] (NULL: value only) = d total / d student.
 *   p = log_softmax(student/T), q = softmax(teacher/T), kl = Σ q (log q − p) T² / n, ce = mean, total = α kl + (1−α) ce
 */
struct dd_loss dd_distill_loss(const float *student, const float *teacher, const int32_t *labels, int n, int c,
                               double temperature, double alpha, float *dlogits);
struct dd_loss_options {
    enum dd_loss_kind kind; /* of the term `kl` */
    double temperature;     /* DD_LOSS_KL */
    double alpha;
    double label_smoothing;     /* in [0, 1] */
    const double *class_weight; /* [c], or NULL: all 1 */
};
/* The same with every option.  DD_LOSS_MSE: kl = Σ ((s − mean s) − (t − mean t))² / (n c), the means over a row.  ce is
 * torch.nn.CrossEntropyLoss(weight, label_smoothing, ignore_index=-1): divided by the sum of the labels' weights. */
struct dd_loss dd_loss_compute(const float *student, const float *teacher, const int32_t *labels, int n, int c,
                               const struct dd_loss_options *options, float *dlogits);
/* n / (k n_c) of the labels ≥ 0 as sklearn's "balanced", over the k classes that occur; 1 for the others.  The caller
 * frees *ret_weight [c]. */
enum dd_status dd_class_weights(const int32_t *labels, size_t n, int c, double **ret_weight,
                                struct dd_error *err) DD_MUST_CHECK;

/* --- optimizers (optimizer.c) ----------------------------------------------------------------------------------- */

struct dd_optimizer;
/* Keeps params borrowed.  team as for dd_bert. */
enum dd_status dd_optimizer_new(const struct dd_optimizer_spec *spec, struct dd_params *params,
                                const struct dd_bert_config *config, int64_t total_steps, struct dd_team *team,
                                struct dd_optimizer **ret_optimizer, struct dd_error *err) DD_MUST_CHECK;
void dd_optimizer_free(struct dd_optimizer *optimizer);
/* Floats at the front of the slab that are not trained (freeze_embeddings); of params the layout is enough. */
size_t dd_optimizer_frozen(const struct dd_optimizer_spec *spec, const struct dd_params *params);
size_t dd_optimizer_bytes(const struct dd_optimizer_spec *spec, size_t n_params, size_t n_frozen);
double dd_optimizer_lr(const struct dd_optimizer *optimizer,
                       int64_t step); /* step 0-based; get_linear_schedule_with_warmup and kin; ≥ 0 */
/* Word-embedding rows that no batch used are updated late but exactly (the skipped steps are replayed, the same float
 * operations): call before each forward with the batch's ids, … */
void dd_optimizer_refresh(struct dd_optimizer *optimizer, const int32_t *ids, int n);
/* … and this before reading all params (evaluation on other rows, checkpoint, export). */
void dd_optimizer_flush(struct dd_optimizer *optimizer);
/* One step: global norm (double), clip, update.  touched: rows of the word embeddings that have a gradient.  Returns
 * the norm before clipping; when it is not finite, nothing is updated and the step counts as done. */
double dd_optimizer_step(struct dd_optimizer *optimizer, const struct dd_params *grads, const int32_t *touched,
                         int n_touched, double *ret_lr);
/* A step that could not be computed: counts as done, changes nothing. */
void dd_optimizer_skip(struct dd_optimizer *optimizer);
/* After params were replaced: moments 0, bias correction and average begin here, lr is multiplied by scale and rises
 * again. */
void dd_optimizer_restart(struct dd_optimizer *optimizer, double scale);
/* The weights' moving average, layout of params, after a flush; NULL without spec.ema. */
float *dd_optimizer_average(const struct dd_optimizer *optimizer);
/* For checkpoints, after a flush: step count and state slabs (first and second moment or momentum; NULL where there is
 * none), each params->count floats, less the frozen ones. */
int64_t dd_optimizer_state(struct dd_optimizer *optimizer, float **ret_first, float **ret_second);
#define DD_OPTIMIZER_SLABS 3
struct dd_optimizer_slab { /* NULL and 0 where there is none */
    float *floats;
    size_t count;
};
/* First and second moment (or momentum) of what is trained, average. */
void dd_optimizer_slabs(struct dd_optimizer *optimizer, struct dd_optimizer_slab ret_slabs[DD_OPTIMIZER_SLABS]);
void dd_optimizer_set_step(struct dd_optimizer *optimizer,
                           int64_t step); /* after filling the slabs and params from a checkpoint */
/* Where the last restart was, and its scale; 0 and 1: there was none. */
void dd_optimizer_set_restart(struct dd_optimizer *optimizer, int64_t step, double scale);

#endif
