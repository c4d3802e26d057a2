/* engine: from text to a trained student.  Data sets, tokenizer, BERT, losses, optimizers, report, model files,
 * checkpoints, the training loop.  Knows no HTTP and no SQL; JSON only for model files.  Usable alone as a C library.
 * Depends on base, spec (plain struct dd_spec), CBLAS, utf8proc, zlib, libarchive, cJSON (config.json).
 */
#ifndef DD_ENGINE_H
#define DD_ENGINE_H

#include "base/base.h"
#include "spec/spec.h"

/* --- the pool of cores (pool.c) --------------------------------------------------------------------------------- */

/* One pool a process; threads ≥ 1 counts the callers too, so 1 starts no thread.  Each running experiment (and each
 * prediction) is a team: cores are shared among the teams, and a team's share changes only in dd_team_step. */
struct dd_pool;
struct dd_team;
enum dd_status dd_pool_new(int threads, struct dd_pool **ret_pool, struct dd_error *err) DD_MUST_CHECK;
void dd_pool_free(struct dd_pool *pool); /* after every team has left */
int dd_pool_threads(const struct dd_pool *pool);
/* Computing gives way to threads that answer people: the calling thread's nice value rises by 5, for good. */
void dd_thread_give_way(void);
void dd_pool_give_way(struct dd_pool *pool); /* the same of every helper, from its next job on */
enum dd_status dd_team_join(struct dd_pool *pool, struct dd_team **ret_team, struct dd_error *err) DD_MUST_CHECK;
void dd_team_leave(struct dd_team *team);
void dd_team_step(struct dd_team *team); /* the place where cores change hands */
/* Runs fn(context, chunk) for chunk 0 … n_chunks-1 on the team's cores and returns when all are done.  What a chunk is
 * must be cut by the problem, never by the number of threads.  Not reentrant. */
void dd_team_for(struct dd_team *team, int n_chunks, void (*fn)(void *context, int chunk), void *context);
const char *dd_engine_cpu(void);  /* "avx512", "avx2" or "baseline": the kernels in use */
const char *dd_engine_blas(void); /* "OpenBLAS 0.3.21 SkylakeX"; NULL: none can be opened */
bool dd_engine_has_bf16(void);

/* --- tokenizer (tokenizer.c, vocab_build.c) --------------------------------------------------------------------- */

struct dd_tokenizer; /* immutable, any thread */
struct dd_tokenizer_options {
    bool do_lower_case;
    bool strip_accents;          /* usually = do_lower_case */
    bool tokenize_chinese_chars; /* usually true */
};
/* vocab: the text of vocab.txt, a token a line. Errors: DD_CORRUPT (no [UNK]/[CLS]/[SEP]/[PAD], not UTF-8, over 2^20
 * lines). */
enum dd_status dd_tokenizer_new(const char *vocab, size_t vocab_bytes, const struct dd_tokenizer_options *options,
                                struct dd_tokenizer **ret_tokenizer, struct dd_error *err) DD_MUST_CHECK;
void dd_tokenizer_free(struct dd_tokenizer *tokenizer);
int dd_tokenizer_size(const struct dd_tokenizer *tokenizer);                      /* lines in the vocabulary */
const char *dd_tokenizer_token(const struct dd_tokenizer *tokenizer, int32_t id); /* NULL out of range */
const char *dd_tokenizer_vocab(const struct dd_tokenizer *tokenizer, size_t *ret_bytes);
const struct dd_tokenizer_options *dd_tokenizer_settings(const struct dd_tokenizer *tokenizer);
/* [CLS] text [SEP] (pair [SEP]) into ids[max_length] and segments[max_length] (0/1; may be NULL), longest-first
 * truncation. pair NULL for single texts. Bytes that are not UTF-8 count as U+FFFD. *ret_count ≥ 2. Errors:
 * DD_NO_MEMORY. */
enum dd_status dd_tokenizer_encode(const struct dd_tokenizer *tokenizer, const char *text, size_t text_bytes,
                                   const char *pair, size_t pair_bytes, int max_length, int32_t *ids, uint8_t *segments,
                                   int *ret_count, struct dd_error *err) DD_MUST_CHECK;

/* --- data sets (dataset_*.c) ------------------------------------------------------------------------------------ */

enum dd_split { DD_SPLIT_TRAIN = 0, DD_SPLIT_DEV, DD_SPLIT_TEST, DD_SPLIT_UNLABELLED, DD_SPLIT_COUNT };
const char *dd_split_name(enum dd_split split); /* train dev test unlabelled */
bool dd_split_parse(const char *name, enum dd_split *ret_split) DD_MUST_CHECK;

enum dd_data_format { DD_FORMAT_AUTO = 0, DD_FORMAT_TSV, DD_FORMAT_CSV, DD_FORMAT_JSONL };
struct dd_import {
    const char *paths[DD_SPLIT_COUNT];      /* NULL where there is none; train is required */
    const char *file_names[DD_SPLIT_COUNT]; /* as the user called them: for messages and for guessing the format */
    enum dd_data_format format;
    const char *text_column, *pair_column, *label_column; /* NULL: by header or position */
    double dev_fraction;                                  /* in (0, 0.9]; used when there is no dev file; 0 = 0.1 */
    uint64_t seed;
    bool skip_bad_rows;
    const struct dd_cancel *cancel; /* may be NULL */
};
#define DD_BAD_ROWS_MAX 20
struct dd_import_report {
    struct {
        enum dd_split split;
        uint64_t line;
        char reason[200];
    } bad[DD_BAD_ROWS_MAX];
    int n_bad;          /* stored */
    uint64_t bad_total; /* found, = skipped with skip_bad_rows */
};
/* Reads the sources in a stream and writes the data set directory (which must not exist) durably: one binary file a
 * split (format at the head of dataset_file.c) and meta.json; on failure nothing is left.  Classes are in order of
 * first appearance in train… unless all labels are integers, then numeric order.  Errors: DD_INVALID
 * "dataset_rows_invalid" with report->bad filled; DD_TOO_LARGE, DD_IO … */
enum dd_status dd_dataset_import(const struct dd_import *import, const char *dir, struct dd_import_report *report,
                                 struct dd_error *err) DD_MUST_CHECK;

struct dd_row {
    const char *text;
    size_t text_bytes;
    const char *pair; /* NULL: a single text */
    size_t pair_bytes;
    int32_t label; /* class index, -1 in unlabelled */
};
struct dd_length_stats {
    double mean;
    int64_t min, p50, p95, max;
};
struct dd_split_info {
    bool present;
    uint64_t rows;
    uint64_t class_rows[256];               /* by class index */
    struct dd_length_stats characters;      /* code points of text + pair */
    uint64_t duplicates;                    /* rows whose text stood before in this split */
    uint64_t duplicates_of[DD_SPLIT_COUNT]; /* rows whose text also stands in that split */
    char sha256[DD_SHA256_HEX_BYTES];       /* of the split file's content */
};
#define DD_MAX_CLASSES 256
struct dd_dataset; /* mapped, immutable, any thread */
enum dd_status dd_dataset_open(const char *dir, struct dd_dataset **ret_dataset,
                               struct dd_error *err) DD_MUST_CHECK; /* checks the checksums: DD_CORRUPT */
void dd_dataset_free(struct dd_dataset *dataset);
int dd_dataset_classes(const struct dd_dataset *dataset);
const char *dd_dataset_class(const struct dd_dataset *dataset, int index);
bool dd_dataset_has_pairs(const struct dd_dataset *dataset);
const struct dd_split_info *dd_dataset_split(const struct dd_dataset *dataset, enum dd_split split);
uint64_t dd_dataset_rows(const struct dd_dataset *dataset, enum dd_split split);
void dd_dataset_row(const struct dd_dataset *dataset, enum dd_split split, uint64_t index, struct dd_row *ret_row);
bool dd_dataset_dev_was_split(const struct dd_dataset *dataset, double *ret_fraction, uint64_t *ret_seed);
/* The fold, 0 … folds - 1, of each train row: near equal shares of every class, rows of the same text together, decided
 * by the data set and `folds` (2 … DD_MAX_FOLDS) alone (folds.c).  The caller frees *ret_fold [train rows]. */
enum dd_status dd_folds_of(const struct dd_dataset *dataset, int folds, uint8_t **ret_fold,
                           struct dd_error *err) DD_MUST_CHECK;
/* Tokens a row with this tokenizer, before truncation (an O(rows) pass). */
enum dd_status dd_dataset_token_stats(const struct dd_dataset *dataset, enum dd_split split,
                                      const struct dd_tokenizer *tokenizer, struct dd_length_stats *ret_stats,
                                      struct dd_error *err) DD_MUST_CHECK;
/* WordPiece vocabulary from the train split: [PAD] [UNK] [CLS] [SEP] [MASK], every character in use (up to the bound),
 * then pieces by byte-pair merges on word counts.  Deterministic.  The caller frees *ret_vocab (text of vocab.txt). */
enum dd_status dd_vocab_build(const struct dd_dataset *dataset, const struct dd_tokenizer_options *options,
                              int vocab_size, char **ret_vocab, size_t *ret_bytes, struct dd_error *err) DD_MUST_CHECK;

/* --- models (model_*.c, safetensors.c, pickle.c, zip via libarchive) -------------------------------------------- */

struct dd_bert_config {
    int vocab_size, hidden_size, layers, heads, intermediate_size, max_positions, type_vocab_size, n_labels,
        pad_token_id;
    char hidden_act[16]; /* gelu, gelu_new (also gelu_pytorch_tanh), relu */
    double layer_norm_eps, initializer_range, hidden_dropout, attention_dropout;
    double classifier_dropout; /* NAN: as hidden_dropout */
};
struct dd_tensor {
    char name[96]; /* Hugging Face, e.g. "bert.encoder.layer.0.attention.self.query.weight" */
    int rank;      /* 1 or 2 */
    size_t shape[2];
    size_t offset, count; /* in floats, from the slab's start */
    bool decay;           /* false for biases and LayerNorm weights */
};
/* All parameters in one aligned slab.  q, k, v weights of a layer lie behind one another ([3 hidden, hidden]), so do
 * their biases. */
struct dd_params {
    float *slab;
    size_t count;
    struct dd_tensor *tensors; /* in slab order */
    int n_tensors;
    int n_training;       /* of them, the last ones: only there while training (match.h), never exported */
    struct dd_int8 *int8; /* owned: what the slab does not hold because it is kept as int8; else NULL */
};
enum dd_status dd_params_new(const struct dd_bert_config *config, struct dd_params **ret_params,
                             struct dd_error *err) DD_MUST_CHECK; /* zeroed */
void dd_params_free(struct dd_params *params);
const struct dd_tensor *dd_params_find(const struct dd_params *params, const char *name); /* NULL if absent */

/* What a model that was fine-tuned on all folds but one says of itself, in config.json ("distilld_fold"). */
struct dd_fold_record {
    int folds, fold;                        /* 0 folds: it is none */
    char train_sha256[DD_SHA256_HEX_BYTES]; /* of the train split that was cut into folds */
};
enum dd_model_kind { DD_MODEL_ENCODER = 0, DD_MODEL_CLASSIFIER };
struct dd_model_info {
    enum dd_model_kind kind;
    struct dd_bert_config config;
    uint64_t parameters, bytes; /* bytes of the weights file */
    bool has_pooler, has_tokenizer;
    int n_labels;
    char labels[DD_MAX_CLASSES][128]; /* id2label, or "LABEL_0" … */
    bool do_lower_case;
    char weights_file[64], weights_format[24]; /* "safetensors", "safetensors_int8", "pytorch_zip", "pytorch_legacy",
                                                  "pickled_module" */
    char sha256[DD_SHA256_HEX_BYTES]; /* of the weights, by value: over names, shapes and fp32 values in slab order */
    bool int8;                        /* matrices kept as int8: such a model answers, and can do nothing else */
    struct dd_fold_record fold;
};
struct dd_model {
    struct dd_model_info info;
    struct dd_params *params; /* always with pooler and classifier tensors: new ones zero where the file had none */
    struct dd_tokenizer *tokenizer; /* NULL where the directory has no vocab.txt */
    char *path;                     /* of dd_model_open, until the weights are there */
};
/* path: a directory, or a single .pt / .bin / .safetensors file with config.json and vocab.txt beside it or, for a
 * pickled module, its config inside.  Every dimension is checked against config and file size.  Errors: DD_CORRUPT,
 * DD_UNSUPPORTED, DD_NOT_FOUND; the message names the tensor and the shapes. */
enum dd_status dd_model_load(const char *path, struct dd_model **ret_model, struct dd_error *err) DD_MUST_CHECK;
/* The same but for the values, which wait for dd_model_need_weights: reading and hashing those of a 12-layer teacher
 * takes a second, and a run whose logits are all in the cache asks for none.  sha256: what info.sha256 was when the
 * model was registered (64 hex digits).  An int8 model is read whole. */
enum dd_status dd_model_open(const char *path, const char *sha256, struct dd_model **ret_model,
                             struct dd_error *err) DD_MUST_CHECK;
/* Reads the values if they are not there yet; by the model's only user.  DD_CORRUPT "model_changed": they are not those
 * that were registered. */
enum dd_status dd_model_need_weights(const struct dd_model *model, struct dd_error *err) DD_MUST_CHECK;
void dd_model_free(struct dd_model *model);
enum dd_status dd_model_inspect(const char *path, struct dd_model_info *ret_info,
                                struct dd_error *err) DD_MUST_CHECK; /* all but the values */
/* Writes a Hugging Face directory (config.json, vocab.txt, tokenizer_config.json, special_tokens_map.json,
 * model.safetensors F32, README.md = card) durably: built beside dir, then renamed over it (an old dir is replaced).
 * card may be NULL.  An int8 model is written as one (format at the head of model_int8.c). */
enum dd_status dd_model_save(const struct dd_model *model, const char *dir, const char *card,
                             struct dd_error *err) DD_MUST_CHECK;
/* The same with weights in fp16, half the size; read back, here and by transformers, as the nearest fp16 values.
 * DD_INVALID "weights_out_of_range" for what fp16 cannot hold, "model_is_int8". */
enum dd_status dd_model_save_fp16(const struct dd_model *model, const char *dir, const char *card,
                                  struct dd_error *err) DD_MUST_CHECK;
/* dir as .tar.gz to a file descriptor (entries below "<root>/"), regular files only, no owner names. */
enum dd_status dd_archive_write(const char *dir, const char *root, int fd, const struct dd_cancel *cancel,
                                struct dd_error *err) DD_MUST_CHECK;
/* An uploaded archive (.tar, .tar.gz, .tar.xz, .zip) into a new directory: flattens one leading folder; refuses
 * absolute paths, "..", links, devices, more than 64 entries, more than max_bytes in all. On failure nothing is left.
 */
enum dd_status dd_archive_extract(const char *archive, const char *dir, uint64_t max_bytes,
                                  struct dd_error *err) DD_MUST_CHECK;

/* --- smaller models (prune.c, model_int8.c) ------------------------------------------------------------------------
 */

/* The vocabulary entries that given texts need.  Begins with the special tokens; grows text by text.  Borrows the
 * tokenizer; one thread. */
struct dd_vocab_use;
enum dd_status dd_vocab_use_new(const struct dd_tokenizer *tokenizer, struct dd_vocab_use **ret_use,
                                struct dd_error *err) DD_MUST_CHECK;
void dd_vocab_use_free(struct dd_vocab_use *use);
void dd_vocab_use_text(struct dd_vocab_use *use, const char *text, size_t bytes);
/* Every text and pair of every split. */
enum dd_status dd_vocab_use_dataset(struct dd_vocab_use *use, const struct dd_dataset *dataset,
                                    const struct dd_cancel *cancel, struct dd_error *err) DD_MUST_CHECK;
/* And every entry of one ASCII character or ideograph, so that texts not seen here need fewer [UNK]. */
void dd_vocab_use_characters(struct dd_vocab_use *use);
/* A copy of model without the other entries and their embeddings.  Logits of those texts, and of all others that need
 * no other entries, stay the same to the bit.  Errors: DD_INVALID "model_without_vocabulary", "model_is_int8";
 * DD_NO_MEMORY. */
enum dd_status dd_model_prune(const struct dd_model *model, const struct dd_vocab_use *use, struct dd_model **ret_model,
                              struct dd_error *err) DD_MUST_CHECK;

/* A copy of a classifier whose matrices are int8, a scale an output (model_int8.c): a quarter of the size, and faster
 * where the CPU multiplies bytes.  For dd_predict only.  Errors: DD_INVALID "model_is_int8", "model_is_an_encoder";
 * DD_NO_MEMORY. */
enum dd_status dd_model_quantize(const struct dd_model *model, struct dd_model **ret_model,
                                 struct dd_error *err) DD_MUST_CHECK;
/* Memory of a model's weights. */
uint64_t dd_model_memory_bytes(const struct dd_model *model);
const char *dd_engine_int8(void); /* "avx512vnni", "avxvnni", "avx2" or "plain": the kernel in use */

/* --- the report (report.c) -------------------------------------------------------------------------------------- */

struct dd_report_row {
    double precision, recall, f1;
    int64_t support;
};
struct dd_report {
    int n_classes; /* rows shown */
    int class_index[DD_MAX_CLASSES];
    struct dd_report_row rows[DD_MAX_CLASSES];
    double accuracy;
    struct dd_report_row macro, weighted;
    int64_t support;
    int64_t *confusion;         /* owned: [n_classes, n_classes], rows gold, columns predicted, in the order of rows */
    bool micro_avg;             /* shown instead of accuracy when labels are a strict subset that leaves rows out */
    struct dd_report_row micro; /* precision, recall and F1 over all rows shown; all three equal accuracy else */
    bool no_hits;               /* no row at all is right: scikit-learn then prints the support as "501.0" */
};
/* gold, predicted: [n] class indices in [0, n_classes).  all_classes: show every class (as labels=range(n_classes)),
 * else the sorted union of those that occur.  Source: sklearn.metrics.classification_report, zero_division=0. */
enum dd_status dd_report_compute(const int32_t *gold, const int32_t *predicted, size_t n, int n_classes,
                                 bool all_classes, struct dd_report *ret_report, struct dd_error *err) DD_MUST_CHECK;
void dd_report_release(struct dd_report *report);
/* The text that scikit-learn prints with target_names and digits, byte for byte (widths count code points). */
void dd_report_text(const struct dd_report *report, const char *const *class_names, int digits, struct dd_buffer *out);

/* --- is a difference more than noise? (bootstrap.c) -------------------------------------------------------------- */

/* Paired bootstrap over rows: each resample draws n of the n rows with replacement, the same for all runs, by Philox
 * from the seed.  scores [n_runs, resamples + 1]: a run's score of the rows as they are, then of each resample; macro
 * F1 over the classes that occur in gold or predicted (scikit-learn's f1_score(average="macro", zero_division=0)), or
 * accuracy. gold, predicted[run]: [n] in [0, n_classes).  Errors: no rows, labels out of range, memory, DD_STOPPED. */
enum dd_status dd_bootstrap_scores(const int32_t *gold, size_t n, int n_classes, const int32_t *const *predicted,
                                   size_t n_runs, bool by_accuracy, int resamples, uint64_t seed,
                                   const struct dd_cancel *cancel, double *scores, struct dd_error *err) DD_MUST_CHECK;
struct dd_interval {
    double difference, low, high;
};
/* Mean score of the runs a less that of the runs b, each a list of rows of scores; low and high are the percentiles of
 * the resamples that leave (1 - confidence)/2 on either side (numpy.percentile).  scratch: [resamples]. */
struct dd_interval dd_bootstrap_difference(const double *scores, int resamples, const size_t *a, size_t n_a,
                                           const size_t *b, size_t n_b, double confidence, double *scratch);

/* --- prediction (predict.c) ------------------------------------------------------------------------------------- */

/* logits [n, n_labels] in the order of rows; batches are packed and sorted by length inside. pool may be shared with
 * training. */
struct dd_predictor; /* a model ready to answer; not for two threads at once; keeps `model` borrowed */
enum dd_status dd_predictor_new(const struct dd_model *model, struct dd_pool *pool, int max_length,
                                struct dd_predictor **ret_predictor, struct dd_error *err) DD_MUST_CHECK;
void dd_predictor_free(struct dd_predictor *predictor);
enum dd_status dd_predict(struct dd_predictor *predictor, const struct dd_row *rows, size_t n,
                          const struct dd_cancel *cancel, float *logits, struct dd_error *err) DD_MUST_CHECK;

/* --- training (train*.c, checkpoint.c, logits_cache.c) ---------------------------------------------------------- */

struct dd_step_metrics {
    int64_t step, steps;      /* step: 1-based over the whole run */
    int epoch, epochs;        /* 1-based */
    double loss, kl, ce;      /* of this batch; kl NAN for finetune, ce NAN where no row of it has a label; loss or norm
                               * not finite: the guard skipped the step */
    double lr, grad_norm;     /* norm before clipping */
    double elapsed_seconds;   /* training time since the start of the run, over all attempts */
    double tokens_per_second; /* real tokens, over the last second or so */
    double eta_seconds;
};
/* Why a run's guard went back (train_guard.c).  The numbers are stored by whoever keeps the history: they stay. */
enum dd_rollback { DD_ROLLBACK_NONE = 0, DD_ROLLBACK_NOT_FINITE, DD_ROLLBACK_ONE_CLASS, DD_ROLLBACK_F1_FELL };
const char *dd_rollback_name(enum dd_rollback why); /* "none", "not_finite", "one_class", "f1_fell" */
/* epoch is 1-based.  The note counts epochs from 0; we count from 1 and say so. */
struct dd_epoch_metrics {
    int epoch;
    double train_loss, train_kl, train_ce; /* means over rows, CE over those with a label (by
                                            * their weights, where classes have any); kl NAN for finetune */
    double train_hidden, train_cls;        /* before their weights; NAN where the weight is 0 */
    double train_attention, train_relation;
    double dev_loss, dev_kl, dev_ce; /* the same on dev, dev_loss without what is matched; CE for finetune */
    double accuracy, macro_precision, macro_recall, macro_f1, weighted_precision, weighted_recall, weighted_f1;
    double teacher_agreement; /* share of dev rows where student and teacher say the same; NAN for finetune */
    double lr;                /* at the last step of the epoch */
    double seconds, elapsed_seconds, tokens_per_second;
    bool is_best; /* the one to keep so far, by the spec's metric and selection */
    /* Why the guard went back during or after this epoch (the newest reason), and to which epoch's weights (0: the
     * first weights). */
    enum dd_rollback rollback;
    int rollback_to;
};
struct dd_predictions { /* of the dev split, in file order */
    size_t n;
    const int32_t *label; /* [n] argmax, first on ties */
    const float *score;   /* [n] its softmax probability at T = 1 */
};
struct dd_train_events {
    void *context;
    void (*step)(void *context, const struct dd_step_metrics *step);
    /* Must be durable when it returns DD_OK; anything else ends the run with that error.  May be called again with the
     * same epoch (and the steps before it) after a resumption: the same values, to be stored over the old. */
    enum dd_status (*epoch)(void *context, const struct dd_epoch_metrics *epoch, const struct dd_predictions *dev,
                            struct dd_error *err);
    /* Once, before the first epoch: the teacher on dev (distill), gold labels. teacher NULL for finetune. */
    enum dd_status (*reference)(void *context, const int32_t *gold, size_t n, const struct dd_predictions *teacher,
                                struct dd_error *err);
    void (*log)(void *context, enum dd_log_level level, const char *message);
    void (*phase)(void *context, const char *phase,
                  double done); /* "tokenizing", "teacher", "training", "exporting"; done in [0,1] */
};
struct dd_train_input {
    const struct dd_spec *spec; /* resolved */
    const struct dd_dataset *dataset;
    const struct dd_model *base; /* teacher (distill), starting encoder (finetune) or NULL (from scratch) */
    const struct dd_model *init; /* spec->init == DD_INIT_MODEL, else NULL */
    const struct dd_model *teachers[DD_MAX_TEACHERS]; /* as spec->teachers: classifiers with base's vocabulary */
    const char *vocab; /* finetune from scratch with a given vocabulary (text of vocab.txt), else NULL */
    size_t vocab_bytes;
    struct dd_tokenizer_options vocab_options;
    struct dd_pool *pool;
    const char *run_dir;   /* checkpoint, best-<epoch>/, last/ live here; made when missing */
    const char *cache_dir; /* logits cache, shared by all runs */
    const struct dd_cancel *cancel;
    double checkpoint_seconds; /* also inside epochs, this far apart; 0 = 600 */
    uint64_t states_bytes;     /* the teacher's states of every token are kept up to this size, else computed in each
                                  step; 0 = 256 MiB.  May decide the last bits: one value for all attempts of a run */
    const char *card_title;    /* for the model card */
    struct dd_train_events events;
};
struct dd_train_result {
    int epochs_done, best_epoch; /* epochs_done below spec->epochs: patience ended the run */
    int64_t steps_done;
    struct dd_epoch_metrics best, last;
    uint64_t parameters, model_bytes;
    char best_dir[4096], last_dir[4096]; /* Hugging Face directories below run_dir */
};
/* Whether the checksum that ends a checkpoint, a finished record, or a file of the logits' cache is that of what stands
 * before it. */
bool dd_sealed_whole(const uint8_t *bytes, size_t len);
/* Trains to the end or until stopped.  Starts from run_dir/checkpoint where one is whole and of this spec; a damaged
 * one is reported in the log and training starts again from the newest whole state.  DD_STOPPED: cancel, pause or
 * shutdown was asked for; a checkpoint of this very step has been written (for shutdown only if it took less than 3 s).
 * Bit-identical whatever the number of threads or interruptions. */
enum dd_status dd_train(const struct dd_train_input *input, struct dd_train_result *ret_result,
                        struct dd_error *err) DD_MUST_CHECK;

struct dd_train_estimate {
    uint64_t memory_bytes; /* peak, of the run alone */
    uint64_t disk_bytes;   /* checkpoint, best, last, cache */
    uint64_t parameters, model_bytes;
    double matmul_flops; /* of the whole run, teacher pass included */
    double seconds;      /* at the machine's measured rate */
};
/* From the spec and the data set alone; base_config may be NULL: then spec->vocab_size counts, which the caller sets to
 * the lines of a given vocabulary.  teacher_configs [spec->n_teachers]: of the further teachers. */
enum dd_status dd_train_estimate(const struct dd_spec *spec, const struct dd_dataset *dataset,
                                 const struct dd_bert_config *base_config, const struct dd_bert_config *teacher_configs,
                                 int threads, struct dd_train_estimate *ret_estimate,
                                 struct dd_error *err) DD_MUST_CHECK;

#endif
