/* train: what the files of the training loop share.  Private to batches, checkpoint, record, finished, logits_cache,
 * train*, predict and estimate.
 * Threads: a run belongs to the thread that called dd_train; only packing and the kernels below use the team.
 */
#ifndef DD_ENGINE_TRAIN_H
#define DD_ENGINE_TRAIN_H

#include "engine/engine.h"
#include "engine/match.h"
#include "engine/nn.h"

#define DD_INFER_TOKENS 2048 /* of a packed batch of inference: enough for the products to run at full rate */
#define DD_INFER_SEQUENCES 256

/* --- rows as token ids (batches.c) ------------------------------------------------------------------------------ */

/* Rows behind one another as token ids, in file order.  Invariant: offsets[0] = 0, ascending, offsets[rows] = n_tokens;
 * every row has 2 … max_length tokens, every id is below vocab_size. */
struct dd_packed {
    uint32_t rows;
    uint64_t n_tokens, room; /* room: tokens that ids and segments can take before they must grow */
    int longest;             /* tokens of the longest row; 0 when there is none */
    int32_t *ids;            /* [n_tokens] */
    uint8_t *segments;       /* [n_tokens] */
    uint64_t *offsets;       /* [rows + 1] */
    int32_t *labels;         /* [rows] */
};
/* Where the rows to be packed come from; called from several threads at once. */
struct dd_row_source {
    const void *context;
    void (*row)(const void *context, uint64_t index, struct dd_row *ret_row);
    uint64_t rows;
};
struct dd_progress { /* of a phase, as in dd_train_events; all NULL where nobody asks */
    const struct dd_train_events *events;
    const char *phase;
    double from, to; /* this piece of work's part of the phase */
};
void dd_progress_report(const struct dd_progress *progress, double done);

void dd_packed_release(struct dd_packed *packed);
/* config gives vocab_size, type_vocab_size and max_positions to check against.  Errors: DD_INVALID (the vocabulary is
 * larger than the model's embeddings, pairs for a model with one segment …), DD_TOO_LARGE (over 2^32 - 2 rows),
 * DD_STOPPED. */
enum dd_status dd_packed_build(const struct dd_row_source *source, const struct dd_tokenizer *tokenizer,
                               const struct dd_bert_config *config, int max_length, struct dd_team *team,
                               const struct dd_cancel *cancel, const struct dd_progress *progress,
                               struct dd_packed *ret_packed, struct dd_error *err) DD_MUST_CHECK;
struct dd_split_rows { /* context of the source below; lives as long as the packing */
    const struct dd_dataset *dataset;
    enum dd_split split;
    bool unlabelled;      /* the rows of that split follow */
    const uint32_t *only; /* [n_only] the rows of the split that count, or NULL: all */
    uint64_t n_only;
};
struct dd_row_source dd_source_of_split(const struct dd_split_rows *rows);
/* Makes room for `more` tokens behind those there are; grows by half, so that appending stays linear. */
enum dd_status dd_packed_reserve(struct dd_packed *packed, uint64_t more, struct dd_error *err) DD_MUST_CHECK;
/* Room for `more` rows behind those there are; their tokens must still be made room for.  DD_TOO_LARGE beyond 2^32 - 2
 * rows. */
enum dd_status dd_packed_reserve_rows(struct dd_packed *packed, uint64_t more, struct dd_error *err) DD_MUST_CHECK;
/* Rows first … first + rows - 1 as if they had been packed alone: same digest, same batches.  Only its offsets are its
 * own; the rest is borrowed from whole, which must neither grow nor go before the part is released. */
enum dd_status dd_packed_part(const struct dd_packed *whole, uint32_t first, uint32_t rows, struct dd_packed *ret_part,
                              struct dd_error *err) DD_MUST_CHECK;
void dd_packed_part_release(struct dd_packed *part);
/* A copy of n ≥ 1 rows in this order, as if they had been packed alone. */
enum dd_status dd_packed_pick(const struct dd_packed *packed, const uint32_t *rows, uint32_t n,
                              struct dd_packed *ret_picked, struct dd_error *err) DD_MUST_CHECK;
/* SHA-256 over rows, lengths, ids and segments: what a model sees of them. */
enum dd_status dd_packed_digest(const struct dd_packed *packed, uint8_t out[DD_SHA256_BYTES],
                                struct dd_error *err) DD_MUST_CHECK;
/* Tokens of the batch_size longest rows: no batch of that many rows has more. */
uint64_t dd_packed_largest_batch(const struct dd_packed *packed, int batch_size);

/* The buffers of one batch. */
struct dd_gather {
    int max_tokens, max_sequences;
    int32_t *ids, *offsets, *labels;
    uint8_t *segments;
    struct dd_batch batch; /* what the last dd_gather_rows put together; points into the buffers */
};
enum dd_status dd_gather_init(struct dd_gather *gather, int max_tokens, int max_sequences,
                              struct dd_error *err) DD_MUST_CHECK;
void dd_gather_release(struct dd_gather *gather);
/* n ≤ max_sequences rows whose tokens sum to ≤ max_tokens (the caller's check). */
void dd_gather_rows(struct dd_gather *gather, const struct dd_packed *packed, const uint32_t *rows, int n);

/* Every row once, in batches of like length, longest first; how they are cut depends on the rows and the gather's
 * bounds alone.  `rows` are the batch's.  Errors: DD_STOPPED, DD_NO_MEMORY. */
typedef void dd_batch_fn(void *context, const struct dd_batch *batch, const uint32_t *rows);
enum dd_status dd_for_batches(const struct dd_packed *packed, struct dd_gather *gather, struct dd_team *team,
                              const struct dd_cancel *cancel, const struct dd_progress *progress, dd_batch_fn *each,
                              void *context, struct dd_error *err) DD_MUST_CHECK;
/* logits [rows, n_labels] of every row in file order, dropout off, batches as dd_for_batches makes them. */
enum dd_status dd_forward_rows(struct dd_bert *bert, const struct dd_params *params, const struct dd_packed *packed,
                               struct dd_gather *gather, struct dd_team *team, int n_labels,
                               const struct dd_cancel *cancel, const struct dd_progress *progress, float *logits,
                               struct dd_error *err) DD_MUST_CHECK;
/* Bounds of a batch that are enough for inference over these rows at full rate, and no more than they need. */
void dd_infer_bounds(const struct dd_packed *packed, int *ret_tokens, int *ret_sequences);
/* Row by row: the label of the largest logit (the first on ties) and its softmax probability.  score may be NULL. */
void dd_argmax_rows(const float *logits, size_t n, int n_labels, int32_t *label, float *score);

/* --- whole words in the student's vocabulary (whole_words.c) ------------------------------------------------------ */

/* base's vocabulary and behind it at most `most` words of the train split (and the unlabelled one) that base cuts into
 * pieces, the most frequent first, each met twice at least.  The caller frees.  Errors: DD_NO_MEMORY. */
enum dd_status dd_whole_words_new(const struct dd_dataset *dataset, bool unlabelled, const struct dd_tokenizer *base,
                                  int most, struct dd_tokenizer **ret_tokenizer, struct dd_error *err) DD_MUST_CHECK;
/* from [base's entries, hidden] → to [own's entries, hidden]: of the entries that own has beyond base's, the mean of
 * their pieces' rows; the others are left alone. */
void dd_whole_words_embed(const struct dd_tokenizer *base, const struct dd_tokenizer *own, int hidden,
                          const float *from, float *to);
/* Appends rows first … of `from`, which base has spelled, to `to` as own spells the same words.  A row that would be
 * longer than max_length stays as it is.  Errors: DD_TOO_LARGE, DD_NO_MEMORY. */
enum dd_status dd_packed_respell(const struct dd_packed *from, uint32_t first, const struct dd_tokenizer *base,
                                 const struct dd_tokenizer *own, int max_length, struct dd_packed *to,
                                 struct dd_error *err) DD_MUST_CHECK;

/* --- more rows from those there are (augment.c, neighbours.c) ---------------------------------------------------- */

#define DD_NEIGHBOURS 10 /* of a word */
/* For each of the words that rows use, the nearest of the vocabulary, best first; see neighbours.c. */
struct dd_neighbours {
    int words;
    int32_t *place; /* [vocabulary]: index of the word below, or -1 */
    int32_t *near;  /* [words, DD_NEIGHBOURS], ids */
    uint8_t *count; /* [words]: how many it has */
};
/* embeddings [vocab, hidden]; the ids of packed are < vocab.  Errors: DD_NO_MEMORY. */
enum dd_status dd_neighbours_find(const struct dd_packed *packed, const struct dd_tokenizer *tokenizer,
                                  const float *embeddings, int vocab, int hidden, struct dd_team *team,
                                  struct dd_neighbours *ret, struct dd_error *err) DD_MUST_CHECK;
void dd_neighbours_release(struct dd_neighbours *neighbours);

struct dd_augment {
    const struct dd_tokenizer *tokenizer;
    int max_length;
    uint64_t seed;
    int copies;                          /* of each row */
    double replace, mask, ngram, splice; /* probabilities */
    const struct dd_neighbours *near;    /* needed where replace > 0 */
};
/* Appends copies × rows rows, all copies 1 of rows first … first + rows - 1 first, without labels (-1); first + rows ≤
 * packed->rows.  Row and copy alone decide what is made (and which of these rows are of the same class, for splice).
 * Errors: DD_INVALID "mask_token_missing", DD_TOO_LARGE, DD_STOPPED, DD_NO_MEMORY; then packed is as it was or must be
 * released. */
enum dd_status dd_packed_augment(struct dd_packed *packed, uint32_t first, uint32_t rows, const struct dd_augment *how,
                                 const struct dd_cancel *cancel, struct dd_error *err) DD_MUST_CHECK;

/* --- logits of the teacher (logits_cache.c) --------------------------------------------------------------------- */

/* logits [rows, teacher's labels] in the teacher's own order: read from cache_dir, or computed and stored there.  A
 * team joins the pool only to compute: the caller should have left its own, so that a run which waits for another's
 * answer holds no cores. *ret_computed says which.  The caller frees *ret_logits. */
enum dd_status dd_logits_cached(const struct dd_model *teacher, const struct dd_packed *packed, int max_length,
                                const char *cache_dir, struct dd_pool *pool, const struct dd_train_events *events,
                                const struct dd_progress *progress, const struct dd_cancel *cancel, float **ret_logits,
                                bool *ret_computed, struct dd_error *err) DD_MUST_CHECK;

struct dd_states_wanted {
    bool tokens; /* of every token; else at [CLS] alone */
    int n, state[DD_MAX_LAYERS + 1];
};
/* The teacher's inner states, cached like its logits: [rows or tokens, n, width], in file order. */
enum dd_status dd_states_cached(const struct dd_states_wanted *wanted, const struct dd_model *teacher,
                                const struct dd_packed *packed, int max_length, const char *cache_dir,
                                struct dd_pool *pool, const struct dd_train_events *events,
                                const struct dd_progress *progress, const struct dd_cancel *cancel, float **ret_states,
                                bool *ret_computed, struct dd_error *err) DD_MUST_CHECK;

/* --- what a run keeps (train_state.c, checkpoint.c, finished.c) ------------------------------------------------- */

struct dd_run_identity {           /* a checkpoint belongs to exactly one of these */
    uint8_t spec[DD_SHA256_BYTES]; /* dd_spec_hash */
    uint8_t data[DD_SHA256_BYTES]; /* train, dev and, where they are used, unlabelled rows; class names */
    uint8_t base[DD_SHA256_BYTES]; /* teacher or starting model, model of init, vocabulary */
};
/* What a checkpoint keeps beyond what all runs have: the least that the spec needs (dd_run_extent), so that the files
 * of plain runs stay those of earlier versions. */
enum dd_state_extent {
    DD_EXTENT_PLAIN = 0,
    DD_EXTENT_STATES, /* hidden and cls */
    DD_EXTENT_ALL,    /* attention, relation and weights of labels besides */
};
/* Everything that changes while training, but for the weights and the optimizer's state. */
struct dd_run_state {
    int64_t step;                    /* done, over the whole run */
    int epoch;                       /* 1-based: the one in progress */
    int64_t epoch_step;              /* done in it; all of them: only its evaluation is missing */
    double sum_loss, sum_kl, sum_ce; /* of its rows so far, but for skipped steps */
    double sum_hidden, sum_cls;      /* as sum_loss */
    double sum_attention, sum_relation;
    double sum_ce_weight;        /* of sum_ce: of class weights, or the number of labelled rows */
    enum dd_state_extent extent; /* what of them its checkpoints keep */
    uint64_t sum_rows, sum_tokens;
    uint64_t sum_unlabelled; /* of sum_rows: those without a label, which have no CE */
    double elapsed_seconds, epoch_seconds, evaluation_seconds;

    /* The guard: times it went back, the step after which it last did, skipped steps without one between; and what it
     * did in the epoch in progress. */
    int rollbacks, skipped_in_row;
    int64_t restart_step;
    enum dd_rollback rolled_back;
    int rolled_back_to;

    int epochs_done;
    /* Meaningless while epochs_done is 0.  best: the one that is kept; peak: the first with the best metric, which is
     * the same unless the spec's selection prefers a later one. */
    struct dd_epoch_metrics last, best, peak;
    uint8_t best_sha256[DD_SHA256_BYTES]; /* of best-<epoch>/, dd_directory_sha256 */
    bool delivered;                       /* the epoch callback of `last` has returned DD_OK */
    /* Steps whose epoch callback has not returned: of `last` until delivered, else of the epoch in progress. */
    struct dd_step_metrics *steps; /* owned */
    size_t n_steps, steps_cap;
    size_t n_dev; /* dev predictions of `last` */
    int32_t *dev_label;
    float *dev_score; /* owned, [n_dev] */
};
#define DD_STEPS_KEPT 262144 /* steps remembered for repetition; of longer epochs the newest */
void dd_run_state_init(struct dd_run_state *state);
void dd_run_state_release(struct dd_run_state *state);
enum dd_status dd_run_state_add_step(struct dd_run_state *state, const struct dd_step_metrics *step,
                                     struct dd_error *err) DD_MUST_CHECK;

/* Replaces run_dir/checkpoint durably; the one before stays as checkpoint.previous.  The optimizer must be flushed.
 * deadline_us (dd_clock_mono_us; 0 = none): gives up with DD_BUSY when it has passed before the file is in place. */
enum dd_status dd_checkpoint_write(const char *run_dir, const struct dd_run_identity *identity,
                                   const struct dd_run_state *state, const struct dd_params *params,
                                   struct dd_optimizer *optimizer, int64_t deadline_us,
                                   struct dd_error *err) DD_MUST_CHECK;
uint64_t dd_checkpoint_bytes(const struct dd_optimizer_spec *spec, uint64_t n_params, uint64_t n_frozen,
                             uint64_t dev_rows);
struct dd_run_shape { /* bounds of a position */
    int epochs;
    int64_t steps_per_epoch;
    uint64_t dev_rows;
    int n_classes;
};
struct dd_checkpoint { /* a file that is whole, of this run, and possible */
    struct dd_mapping map;
    struct dd_run_state state;
    int64_t optimizer_step;
    const uint8_t *slabs; /* into map: weights, then the optimizer's */
};
/* Errors: DD_NOT_FOUND, DD_CORRUPT, DD_UNSUPPORTED (a newer version), DD_CONFLICT "checkpoint_foreign" (of another
 * spec, data set, base model). */
enum dd_status dd_checkpoint_open(const char *path, const struct dd_run_identity *identity,
                                  const struct dd_run_shape *shape, const struct dd_params *params,
                                  struct dd_optimizer *optimizer, struct dd_checkpoint *ret_checkpoint,
                                  struct dd_error *err) DD_MUST_CHECK;
/* Copies it into the arguments given to open; *state is replaced and takes over the checkpoint's arrays. */
void dd_checkpoint_apply(struct dd_checkpoint *checkpoint, struct dd_run_state *state, struct dd_params *params,
                         struct dd_optimizer *optimizer);
void dd_checkpoint_close(struct dd_checkpoint *checkpoint);

struct dd_finished {
    int epochs_done;
    int64_t steps_done;
    uint64_t parameters, model_bytes;
    struct dd_epoch_metrics best, last;
    uint8_t best_sha256[DD_SHA256_BYTES], last_sha256[DD_SHA256_BYTES];
};
enum dd_status dd_finished_write(const char *run_dir, const struct dd_run_identity *identity,
                                 const struct dd_finished *finished, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_finished_read(const char *run_dir, const struct dd_run_identity *identity,
                                struct dd_finished *ret_finished, struct dd_error *err) DD_MUST_CHECK;

/* --- one run (train.c, train_*.c) ------------------------------------------------------------------------------- */

struct dd_pace {                    /* smoothed speed, for people only: nothing of it decides a result */
    double tokens, seconds;         /* decaying over about 1 s */
    double eta_tokens, eta_seconds; /* over about 20 s */
};
struct dd_matching { /* train_match.c; all zero where the spec matches nothing */
    struct dd_match_spec spec;
    struct dd_match *match; /* NULL where no states are matched */
    struct dd_heads_spec heads_spec;
    struct dd_heads *heads;         /* NULL where neither attention nor relations are */
    struct dd_states_wanted wanted; /* what `states` holds */
    float *states;                  /* of the train rows, as dd_states_cached; NULL: the asker is asked every step */
    struct dd_asker asker;
};
/* The same rows as the teachers spell them, until they have been asked, where the student has words of its own. */
struct dd_told {
    bool apart; /* else train and dev are the teachers' too, and these are empty */
    struct dd_packed train, dev;
};
/* Seconds beside the steps; what a run's log says of them. */
struct dd_run_seconds {
    double student, tokens, teacher, memory, resume; /* before the first step */
    double best, checkpoint;                         /* best models and checkpoints written, in all */
};

struct dd_run {
    const struct dd_train_input *input;
    const struct dd_spec *spec;
    int run_fd; /* the directory, locked */
    int64_t began_us, lap_us;
    struct dd_run_seconds seconds;
    struct dd_run_identity identity;
    struct dd_team *team;
    struct dd_model *student; /* owned */
    struct dd_params *grads;
    struct dd_bert *bert;
    struct dd_optimizer *optimizer;
    struct dd_packed train, dev; /* as the student spells them */
    struct dd_told told;
    uint32_t n_labelled, n_unlabelled, n_augmented, n_augmented_unlabelled; /* train's rows, in this order */
    int n_classes;
    struct dd_matching matching;
    float *teacher_train, *teacher_dev; /* [rows, n_classes], data set's class order; NULL for finetune */
    int32_t *teacher_dev_label;         /* [dev rows] */
    float *teacher_dev_score;
    uint32_t *order; /* [train rows], of epoch order_epoch */
    int order_epoch;
    struct dd_gather gather;
    float *logits, *dlogits, *teacher_batch; /* [batch_size, n_classes] */
    double *class_weight;                    /* [n_classes], or NULL */
    float *dev_logits;                       /* [dev rows, n_classes] */
    int32_t *dev_label;
    float *dev_score;
    int64_t steps_per_epoch, steps;
    struct dd_run_state state;
    struct dd_pace pace;
    int kept_best;            /* best epoch that checkpoint.previous refers to; 0: none */
    int64_t checkpoint_at_us; /* when the last one was written, or the run was taken up */
    int64_t saved_step;       /* what the newest checkpoint holds; -1: there is none */
    int saved_epochs;
    double checkpoint_cost_s; /* how long the last one took; 0: unknown */
};
void dd_run_log(const struct dd_run *run, enum dd_log_level level, const char *fmt, ...) DD_PRINTF(3, 4);
/* Seconds since the lap before. */
double dd_run_lap(struct dd_run *run);
void dd_run_phase(const struct dd_run *run, const char *phase, double done);

/* The student (or the model to finetune) with its first weights.  Source of the weights per task and spec->init. */
enum dd_status dd_student_new(const struct dd_run *run, struct dd_model **ret_student,
                              struct dd_error *err) DD_MUST_CHECK;
/* Packs dev and train: the train split, then the unlabelled one and augmented copies where the spec wants them; told
 * too where the student spells them otherwise. */
enum dd_status dd_run_pack(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
/* What the teachers are asked about: row i is that of the student's train and dev. */
const struct dd_packed *dd_run_told_train(const struct dd_run *run);
const struct dd_packed *dd_run_told_dev(const struct dd_run *run);
void dd_told_release(struct dd_told *told);
/* How many entries the student's vocabulary has beyond the teacher's; 0 without a teacher. */
int dd_run_whole_words(const struct dd_run *run);
/* Its first weights again. */
enum dd_status dd_student_weights(const struct dd_run *run, struct dd_model *student,
                                  struct dd_error *err) DD_MUST_CHECK;
/* Its configuration alone; vocab_size of a vocabulary still to be built is the spec's bound. */
void dd_student_config(const struct dd_spec *spec, int n_classes, const struct dd_bert_config *base, int vocab_size,
                       int pad_token_id, struct dd_bert_config *ret_config);
/* Which label of `labels` each class of the data set is.  By name, or by index where all are LABEL_<i>.  DD_INVALID
 * when one is missing; `who` names the model in the message. */
enum dd_status dd_match_labels(const struct dd_dataset *dataset, const struct dd_model_info *labels, const char *who,
                               int *ret_label_of_class, struct dd_error *err) DD_MUST_CHECK;
/* Fills teacher_train, teacher_dev and the teacher's predictions; of several teachers, their mean. */
enum dd_status dd_run_ask_teacher(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;

/* --- matching of the teacher's inner states (train_match.c) --- */

/* Bytes of states of every token up to which they are kept; above, the teacher runs in each step. */
#define DD_STATES_BYTES ((uint64_t)256 << 20)
/* What is matched with what; teacher is of a spec that matches. */
void dd_match_spec_make(const struct dd_spec *spec, const struct dd_bert_config *teacher, struct dd_match_spec *ret);
void dd_heads_spec_make(const struct dd_spec *spec, const struct dd_bert_config *teacher, struct dd_heads_spec *ret);
/* The teacher's width where a projection to it is trained, else 0.  teacher may be NULL. */
int dd_match_projection(const struct dd_spec *spec, const struct dd_bert_config *teacher);
/* The teacher's states of the train rows, where they are kept; without a team, as dd_states_cached. */
enum dd_status dd_run_ask_states(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_matching_init(struct dd_run *run, int max_tokens, int max_sequences,
                                struct dd_error *err) DD_MUST_CHECK;
void dd_matching_release(struct dd_matching *matching);
struct dd_matching_loss {
    struct dd_match_loss states;
    struct dd_heads_loss heads;
    double total;
};
/* After the forward of the gathered batch of these rows: as dd_match_run and dd_heads_run.  All 0 where the spec
 * matches nothing. */
struct dd_matching_loss dd_run_match(struct dd_run *run, const uint32_t *rows);
enum dd_state_extent dd_run_extent(const struct dd_spec *spec);

/* The layer of a source of source_layers layers that the student's layer starts from and is matched with: by the
 * spec's layer_map, else evenly spaced with the last included.  May be out of range. */
int dd_source_layer(const struct dd_spec *spec, int layer, int source_layers);

/* The weights that count: the moving average where the spec has one.  After a flush; borrows from the run. */
struct dd_params dd_run_weights(const struct dd_run *run);
/* One optimizer step; fills *ret_step but for nothing.  On a loss or gradient that is not finite nothing is updated,
 * and the step is counted as skipped where the guard allows (dd_run_skips); else DD_INVALID "training_diverged". */
enum dd_status dd_run_step(struct dd_run *run, struct dd_step_metrics *ret_step, struct dd_error *err) DD_MUST_CHECK;
/* The epoch's metrics on dev into *ret_metrics, predictions into dev_label and dev_score. */
enum dd_status dd_run_evaluate(struct dd_run *run, struct dd_epoch_metrics *ret_metrics,
                               struct dd_error *err) DD_MUST_CHECK;

/* --- best, early end and rollback (train_guard.c) */
/* Of the epoch that is being closed, whose predictions are in the state: whether it is kept instead of the best so far
 * (metrics->is_best).  Sets the state's best and peak. */
void dd_run_rank_epoch(struct dd_run *run, struct dd_epoch_metrics *metrics);
void dd_run_log_kept(const struct dd_run *run); /* at the end, when it is not the peak */
bool dd_run_ended(const struct dd_run *run);    /* all epochs are done, or patience is at its end */
/* Whether a step that is not finite may be passed over; else the run has diverged. */
bool dd_run_skips(const struct dd_run *run);
/* After a step: goes back when too many in a row were skipped. */
enum dd_status dd_run_guard_step(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
/* After an epoch was closed and its best model saved, before its checkpoint: goes back when it collapsed, and writes
 * into state.last what was done. */
enum dd_status dd_run_guard_epoch(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
double dd_run_lr_scale(const struct dd_run_state *state); /* of the schedule, after its rollbacks */

/* Opens, makes and locks run_dir and removes the temporaries of a killed attempt.  DD_CONFLICT when another process or
 * thread trains there. */
enum dd_status dd_run_lock(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_run_identify(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
/* Over the names and bytes of all files in a directory, by name: how an exported model is known to be whole. */
enum dd_status dd_directory_sha256(const char *dir, uint8_t out[DD_SHA256_BYTES], struct dd_error *err) DD_MUST_CHECK;
/* State of the newest checkpoint that is whole and whose best model is, or of a fresh run.  Logs what it found. */
enum dd_status dd_run_resume(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_run_save(struct dd_run *run, int64_t deadline_us, struct dd_error *err) DD_MUST_CHECK;
enum dd_status dd_run_save_best(struct dd_run *run, const struct dd_epoch_metrics *metrics,
                                struct dd_error *err) DD_MUST_CHECK;
/* The weights of the best model so far into the student. */
enum dd_status dd_run_load_best(struct dd_run *run, struct dd_error *err) DD_MUST_CHECK;
/* last/, the finished record, then the checkpoints and other best directories go. */
enum dd_status dd_run_finish(struct dd_run *run, struct dd_train_result *ret_result,
                             struct dd_error *err) DD_MUST_CHECK;
/* DD_OK and *ret_done when this very run finished before and its models are whole. */
enum dd_status dd_run_was_finished(struct dd_run *run, bool *ret_done, struct dd_train_result *ret_result,
                                   struct dd_error *err) DD_MUST_CHECK;
/* README.md of an exported directory. */
enum dd_status dd_run_card(const struct dd_run *run, const struct dd_epoch_metrics *metrics, char **ret_card,
                           struct dd_error *err) DD_MUST_CHECK;

#endif
