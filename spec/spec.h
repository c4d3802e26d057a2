/* spec: what an experiment is.  One table (fields.c) holds every field of an experiment's spec: its JSON name, type,
 * bounds, default and help.  Parsing, validation, the resolved JSON and the JSON Schema of openapi.json all come from
 * it, so a new field is one row here and its use in engine/.  Depends on base and cJSON.
 */
#ifndef DD_SPEC_H
#define DD_SPEC_H

#include <cjson/cJSON.h>

#include "base/base.h"

#define DD_NAME_BYTES 65 /* dataset and model names: [a-z0-9][a-z0-9._-]{0,63} */
#define DD_MAX_LAYERS 96
#define DD_MAX_TAGS 32
#define DD_MAX_TEACHERS 8 /* beside the first */
#define DD_MAX_FOLDS (1 + DD_MAX_TEACHERS)

enum dd_task { DD_TASK_DISTILL = 0, DD_TASK_FINETUNE };
enum dd_optimizer_type { DD_OPTIMIZER_ADAMW = 0, DD_OPTIMIZER_SGD };
enum dd_schedule { DD_SCHEDULE_LINEAR = 0, DD_SCHEDULE_COSINE, DD_SCHEDULE_CONSTANT };
enum dd_init { DD_INIT_RANDOM = 0, DD_INIT_TEACHER, DD_INIT_MODEL };
enum dd_precision { DD_PRECISION_FP32 = 0, DD_PRECISION_BF16 };
enum dd_metric { DD_METRIC_MACRO_F1 = 0, DD_METRIC_ACCURACY, DD_METRIC_DEV_LOSS, DD_METRIC_TEACHER_AGREEMENT };
enum dd_selection { DD_SELECTION_BEST = 0, DD_SELECTION_ONE_SE };
enum dd_loss_kind { DD_LOSS_KL = 0, DD_LOSS_MSE };
enum dd_class_weights { DD_CLASS_WEIGHTS_NONE = 0, DD_CLASS_WEIGHTS_BALANCED };
enum dd_teacher_mean { DD_MEAN_PROBABILITIES = 0, DD_MEAN_LOGITS, DD_MEAN_OUT_OF_FOLD };
enum dd_flag { DD_FLAG_UNSET = 0, DD_FLAG_NO, DD_FLAG_YES }; /* a true or false that may not have been given */

struct dd_optimizer_spec {
    enum dd_optimizer_type type;
    double lr;                /* peak */
    double weight_decay;      /* AdamW: decoupled; SGD: added to the gradient, as torch.optim.SGD */
    double eps, beta1, beta2; /* AdamW */
    double momentum;          /* SGD */
    double warmup;            /* share of all steps in [0, 1]; */
    enum dd_schedule schedule;
    double max_grad_norm;           /* 0: no clipping */
    double layer_lr_decay;          /* factor of lr for each layer below the head; 0 and 1: none */
    double ema;                     /* decay of the weights' moving average; 0: none */
    enum dd_flag freeze_embeddings; /* all that is named bert.embeddings.… keeps its first values */
    enum dd_flag nesterov;          /* SGD, with momentum */
};

/* All that decides the result of a run, plus its labels.  Plain values: the engine reads it without knowing JSON.
 * A field at DD_UNSET (ints) or NAN (doubles) has not been given and is settled by dd_spec_resolve. */
#define DD_UNSET (-1)
struct dd_spec {
    /* labels: do not decide the result, not part of the hash */
    char name[1024];             /* at most 255 characters of UTF-8 */
    char notes[16384];           /* 4,095 */
    char tags[DD_MAX_TAGS][256]; /* 63 each */
    int n_tags;
    int priority; /* -1000 … 1000, larger first */
    int preset;   /* of dd_presets, which has filled what was not given; DD_UNSET: none.  Not in the resolved JSON. */

    enum dd_task task;
    char dataset[DD_NAME_BYTES];
    char teacher[DD_NAME_BYTES];                   /* distill */
    char teachers[DD_MAX_TEACHERS][DD_NAME_BYTES]; /* further ones */
    int n_teachers;
    enum dd_teacher_mean teacher_mean; /* of all; unset with one teacher */
    char model[DD_NAME_BYTES];         /* finetune: the encoder to start from; "" trains from scratch */
    char vocabulary[DD_NAME_BYTES];    /* finetune from scratch: a model whose vocab.txt to use; "" builds one */
    int folds, fold;                   /* finetune: the fold of so many that is held out; 0 folds: none */
    int vocab_size;                    /* upper bound of a vocabulary that is built */
    enum dd_flag lower_case;           /* of a vocabulary that is built */

    int layers, heads, hidden_size, intermediate_size;
    enum dd_init init;
    char init_model[DD_NAME_BYTES];
    int layer_map[DD_MAX_LAYERS]; /* teacher layer that each student layer is copied from and matched with, 0-based */
    int n_layer_map;              /* 0: evenly spaced, last layer included */
    int whole_words;              /* added to the teacher's vocabulary at most; 0: none */
    double hidden_dropout, attention_dropout, classifier_dropout;
    char hidden_act[16]; /* gelu, gelu_new, relu */

    struct dd_optimizer_spec optimizer;
    double temperature;                                                  /* "T" */
    double alpha;                                                        /* share of the KL term */
    enum dd_flag unlabelled;                                             /* train on that split too */
    int augment;                                                         /* copies of each training row; 0: none */
    enum dd_flag augment_unlabelled;                                     /* and of each unlabelled row */
    double augment_mask, augment_ngram, augment_splice, augment_replace; /* probabilities; unset without copies */
    double hidden_weight, cls_weight;                                    /* of the matching of inner states; 0: off */
    double attention_weight, relation_weight; /* of the matching of how tokens relate; 0: off */
    int relation_heads;                       /* unset without relation_weight */
    int epochs, batch_size, max_length;
    uint64_t seed; /* < 2^53 */
    enum dd_precision precision;
    enum dd_metric metric;       /* what "best" means */
    enum dd_selection selection; /* and how much of it */
    int patience;                /* epochs without a better one before the run ends; 0: never */
    enum dd_flag guard;
    enum dd_loss_kind loss;
    double temperature_end, alpha_end; /* "T_end"; NAN: as at the start */
    double label_smoothing;
    enum dd_class_weights class_weights;
    char save_as[DD_NAME_BYTES]; /* name of the registered result; "" = "exp-<id>" */
};

/* Reads body into *ret_spec (unset where not given).  Unknown fields, wrong types, bounds, repeated keys: each is one
 * fault, all are found.  Returns DD_INVALID when there is any.  pointer_prefix goes before each pointer ("" or
 * "/base"). */
enum dd_status dd_spec_parse(const cJSON *body, const char *pointer_prefix, struct dd_spec *ret_spec,
                             struct dd_faults *faults, struct dd_error *err) DD_MUST_CHECK;

/* For a spec that was resolved and stored, perhaps by an earlier release: a field that it does not have and that came
 * later gets its neutral value, not today's default.  Between parse and resolve. */
void dd_spec_settle_stored(struct dd_spec *spec);

/* What resolution needs to know of the world. */
struct dd_spec_teacher {
    int layers, heads, hidden_size, intermediate_size, max_position_embeddings;
    double hidden_dropout, attention_dropout;
    char hidden_act[16];
};
/* Settles every unset field: defaults, then the teacher's (or starting model's) sizes.  base_model may be NULL (from
 * scratch). Checks what needs several fields (heads divide hidden_size, layer_map within range, max_length within
 * positions). */
enum dd_status dd_spec_resolve(struct dd_spec *spec, const struct dd_spec_teacher *base_model, struct dd_faults *faults,
                               struct dd_error *err) DD_MUST_CHECK;

/* The resolved spec as JSON, every field; what GET answers and what a POST of it repeats. NULL when out of memory. */
cJSON *dd_spec_to_json(const struct dd_spec *spec);
/* JSON Schema of the request body, from the table. NULL when out of memory. */
cJSON *dd_spec_schema(void);
/* Text with every number exact (cJSON rounds some to 15 digits), in cJSON's layout.  NULL for NULL or out of memory;
 * the caller frees. */
char *dd_json_print(const cJSON *json, bool pretty);
/* SHA-256 over the canonical form of all fields that decide the result (no labels, no field at its neutral value). */
void dd_spec_hash(const struct dd_spec *spec, uint8_t out[DD_SHA256_BYTES]);

/* Named sets of fields (presets.c): "preset" in a body fills with them what the body does not give. */
struct dd_preset {
    const char *name, *why; /* why: a sentence for people */
    const char *fields;     /* JSON object */
};
extern const struct dd_preset dd_presets[];
extern const size_t dd_presets_count;
cJSON *dd_preset_fields(const char *name); /* NULL: no such preset, or out of memory */

/* Merges changes (RFC 7386) into a spec's JSON; fields that only made sense beside what changes, and those that a new
 * preset is to fill, are taken out first.  False when out of memory. */
bool dd_spec_change(cJSON *spec, const cJSON *changes) DD_MUST_CHECK;

bool dd_spec_matches(const struct dd_spec *spec);        /* whether anything inside the teacher is matched: */
bool dd_spec_matches_states(const struct dd_spec *spec); /* its states (hidden_weight, cls_weight) */
bool dd_spec_matches_heads(const struct dd_spec *spec);  /* its attention (attention_weight, relation_weight) */
bool dd_spec_matches_tokens(const struct dd_spec *spec); /* any of it token by token, so not [CLS] states alone */
bool dd_name_valid(const char *name);                    /* [a-z0-9][a-z0-9._-]{0,63} */
/* For "did you mean": single-byte edits (insert, delete, replace, swap of neighbours) from a to b, of which only the
 * first 64 bytes count. */
int dd_edit_distance(const char *a, const char *b);
/* True when candidate is close enough to be meant by given, and closer than *best_distance, which then is lowered.
 * Start with INT_MAX. */
bool dd_near_miss(const char *given, const char *candidate, int *best_distance);

const char *dd_task_name(enum dd_task task);
const char *dd_optimizer_name(enum dd_optimizer_type type);
const char *dd_schedule_name(enum dd_schedule schedule);
const char *dd_teacher_mean_name(enum dd_teacher_mean mean);
const char *dd_precision_name(enum dd_precision precision);

#endif
