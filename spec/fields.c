/* The table of fields, and what can be asked of it without JSON.
 * Threads: constant data, any thread.
 *
 * Where the defaults come from:
 *   - The note (a BERT distilled by hand): alpha 0.2, SGD with lr 0.05, 60 epochs, T² scaling.  It does not tell its T;
 *     4 is the usual middle of Hinton et al. (2015).  Its SGD had no momentum, warm-up or schedule and sticks to the
 *     largest class for epochs; momentum 0.9 with AdamW's schedule does not, and from the teacher's layers it does as
 *     well as AdamW (make quality).
 *   - init teacher (Sanh et al. 2019, Turc et al. 2019): the largest single gain that make quality found.
 *   - AdamW: betas and eps of torch.optim.AdamW; decay 0.01, warm-up of a tenth of the steps and linear decay of Devlin
 *     et al. (2019).  lr 5e-5 for weights that are already trained (Devlin et al. try 2e-5, 3e-5, 5e-5; the largest
 * suits small sets), 3e-4 for random weights, which at 5e-5 need many times the epochs.
 *   - max_grad_norm 1: what every BERT script clips at; without it the late collapse that the note saw is common.
 *
 * A field that is added after a release needs `.neutral`: the value with which a run is, to the bit, what it was before
 * the field existed ("0", "false", "kl").  At that value the field is left out of the hash, so checkpoints and finished
 * runs of the releases before still belong to their spec; and a stored spec that lacks the field is taken to have that
 * value, whatever the default of new specs is (dd_spec_settle_stored).  The fields of the first release have none and
 * are always hashed.  Neither `.neutral` nor a field's place among the hashed ones may change once it has been
 * released, whatever becomes of its default.
 */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "spec/fields.h"

static const char *const task_names[] = {"distill", "finetune", NULL};
static const char *const optimizer_names[] = {"adamw", "sgd", NULL};
static const char *const schedule_names[] = {"linear", "cosine", "constant", NULL};
static const char *const precision_names[] = {"fp32", "bf16", NULL};
static const char *const metric_names[] = {"macro_f1", "accuracy", "dev_loss", NULL};
static const char *const loss_names[] = {"kl", "mse", NULL};
static const char *const class_weights_names[] = {"none", "balanced", NULL};
static const char *const mean_names[] = {"probabilities", "logits", "out_of_fold", NULL};
static const char *const activation_names[] = {"gelu", "gelu_new", "relu", NULL};

#define AT(member) .offset = offsetof(struct dd_spec, member), .bytes = sizeof(((struct dd_spec *)0)->member)
#define ADAMW (1u << DD_OPTIMIZER_ADAMW)
#define SGD (1u << DD_OPTIMIZER_SGD)
#define MAX_EXACT 9007199254740991.0 /* 2^53 − 1 */

const struct dd_spec_field dd_spec_fields[] = {
    {.name = "name",
     .kind = DD_KIND_LINE,
     .label = true,
     .when = DD_WHEN_ALWAYS,
     AT(name),
     .max = 255,
     .fallback = NAN,
     .help = "What people call the run. Default: empty."},
    {.name = "notes",
     .kind = DD_KIND_TEXT,
     .label = true,
     .when = DD_WHEN_ALWAYS,
     AT(notes),
     .max = 4095,
     .fallback = NAN,
     .help = "Free text. Default: empty."},
    {.name = "tags",
     .kind = DD_KIND_TAGS,
     .label = true,
     .when = DD_WHEN_ALWAYS,
     AT(tags),
     .max = DD_MAX_TAGS,
     .fallback = NAN,
     .help = "Words to filter the history by."},
    {.name = "priority",
     .kind = DD_KIND_INT,
     .label = true,
     .when = DD_WHEN_ALWAYS,
     AT(priority),
     .min = -1000,
     .max = 1000,
     .fallback = 0,
     .help = "Place in the queue: larger first, then oldest first."},
    {.name = "preset",
     .kind = DD_KIND_PRESET,
     .label = true,
     .when = DD_WHEN_DISTILL,
     AT(preset),
     .names = dd_preset_names,
     .fallback = NAN,
     .help =
         "Fills what is not given: note is the recipe of the note, balanced the defaults, strong and tiny start from "
         "the teacher's layers. GET /presets lists their fields."},
    {.name = "task",
     .kind = DD_KIND_CHOICE,
     .when = DD_WHEN_ALWAYS,
     AT(task),
     .names = task_names,
     .fallback = DD_TASK_DISTILL,
     .help = "distill trains a student from a teacher; finetune trains a classifier, usually the teacher."},
    {.name = "dataset",
     .kind = DD_KIND_NAME,
     .when = DD_WHEN_ALWAYS,
     AT(dataset),
     .min = 1,
     .fallback = NAN,
     .help = "Name of the data set. Required."},
    {.name = "teacher",
     .kind = DD_KIND_NAME,
     .when = DD_WHEN_DISTILL,
     AT(teacher),
     .min = 1,
     .fallback = NAN,
     .help = "Name of the classifier to learn from. Required for distill."},
    {.name = "teachers",
     .kind = DD_KIND_TEACHERS,
     .when = DD_WHEN_DISTILL,
     AT(teachers),
     .max = DD_MAX_TEACHERS,
     .fallback = NAN,
     .help = "Further classifiers with the teacher's vocabulary: the student learns from the mean of all."},
    {.name = "teacher_mean",
     .kind = DD_KIND_CHOICE,
     .when = DD_WHEN_DISTILL,
     .needs = DD_NEEDS_TEACHERS,
     AT(teacher_mean),
     .names = mean_names,
     .fallback = DD_MEAN_PROBABILITIES,
     .help =
         "What of several teachers the mean is taken of: their probabilities at temperature 1, or their logits. "
         "out_of_fold: they are the models of all folds of this data set (see folds); a train row is labelled by the "
         "one that has not seen it, all other rows by the mean of the probabilities."},
    {.name = "model",
     .kind = DD_KIND_NAME,
     .when = DD_WHEN_FINETUNE,
     AT(model),
     .fallback = NAN,
     .help = "Pretrained encoder or classifier to start from; without it the model is trained from scratch."},
    {.name = "folds",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_FINETUNE,
     AT(folds),
     .max = DD_MAX_FOLDS,
     .fallback = 0,
     .neutral = "0",
     .help = "Cuts the train split into this many folds, each with its share of every class, and trains on all but the "
             "one that fold names: one of k teachers for teacher_mean out_of_fold. The data set and folds alone decide "
             "which row is where, and rows of the same text stay together. A sweep over fold trains them all. 0: off."},
    {.name = "fold",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_FINETUNE,
     .needs = DD_NEEDS_FOLDS,
     AT(fold),
     .max = DD_MAX_FOLDS - 1,
     .fallback = 0,
     .help = "The fold that is held out, from 0."},
    {.name = "vocabulary",
     .kind = DD_KIND_NAME,
     .when = DD_WHEN_VOCABULARY | DD_WHEN_BUILD,
     AT(vocabulary),
     .fallback = NAN,
     .help = "A model whose vocabulary to use from scratch; without it one is built from the training split."},
    {.name = "vocab_size",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_BUILD,
     AT(vocab_size),
     .min = 64,
     .max = 250000,
     .fallback = 8000,
     .help = "Upper bound of a vocabulary that is built. 8,000 holds every common Chinese character and leaves room "
             "for words."},
    {.name = "lower_case",
     .kind = DD_KIND_BOOL,
     .when = DD_WHEN_BUILD,
     AT(lower_case),
     .fallback = 1,
     .help = "Whether a vocabulary that is built is lower-case, as BERT's uncased ones are."},
    {.name = "layers",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(layers),
     .min = 1,
     .max = DD_MAX_LAYERS,
     .fallback = NAN,
     .help = "Transformer layers. Default: 3 for a student (at most the teacher's), 4 from scratch, the model's own "
             "for a pretrained one."},
    {.name = "heads",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(heads),
     .min = 1,
     .max = 256,
     .fallback = NAN,
     .help = "Attention heads; must divide hidden_size. Default: the teacher's or model's; from scratch one for each "
             "64 of hidden_size."},
    {.name = "hidden_size",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(hidden_size),
     .min = 1,
     .max = 8192,
     .fallback = NAN,
     .help = "Width. Default: the teacher's or model's; 256 from scratch."},
    {.name = "intermediate_size",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(intermediate_size),
     .min = 1,
     .max = 32768,
     .fallback = NAN,
     .help = "Width of the feed-forward part. Default: the teacher's or model's; four times hidden_size where that "
             "differs or from scratch."},
    {.name = "init",
     .kind = DD_KIND_INIT,
     .when = DD_WHEN_DISTILL,
     AT(init),
     .names = NULL,
     .fallback = NAN,
     .help = "The student's first weights: random as in the note, teacher (its embeddings, the layers of layer_map and "
             "pooler), or the name of a model of the same shape. Default: teacher where its tensors fit, else random."},
    {.name = "layer_map",
     .kind = DD_KIND_LAYER_MAP,
     .when = DD_WHEN_DISTILL,
     AT(layer_map),
     .max = DD_MAX_LAYERS,
     .fallback = NAN,
     .help = "For each student layer the teacher layer (from 0) that it is copied from with init teacher, and matched "
             "with by hidden_weight, cls_weight, attention_weight and (the last entry) relation_weight. Default: "
             "evenly spaced, last layer included."},
    {.name = "hidden_dropout",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_ALWAYS,
     AT(hidden_dropout),
     .max = 0.9,
     .fallback = NAN,
     .help = "Dropout after embeddings and dense layers. Default: the teacher's or model's; 0.1."},
    {.name = "attention_dropout",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_ALWAYS,
     AT(attention_dropout),
     .max = 0.9,
     .fallback = NAN,
     .help = "Dropout of attention probabilities. Default: the teacher's or model's; 0.1."},
    {.name = "classifier_dropout",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_ALWAYS,
     AT(classifier_dropout),
     .max = 0.9,
     .fallback = NAN,
     .help = "Dropout before the classifier. Default: hidden_dropout."},
    {.name = "hidden_act",
     .kind = DD_KIND_WORD,
     .when = DD_WHEN_ALWAYS,
     AT(hidden_act),
     .names = activation_names,
     .fallback = NAN,
     .help = "Activation of the feed-forward part: gelu is the erf form, gelu_new the tanh form. Default: the "
             "teacher's or model's; gelu."},
    {.name = "optimizer",
     .kind = DD_KIND_OPTIMIZER,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer),
     .fallback = NAN,
     .help = "A name, or an object of the settings below."},
    {.name = "type",
     .kind = DD_KIND_CHOICE,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.type),
     .names = optimizer_names,
     .fallback = DD_OPTIMIZER_ADAMW,
     .help = "adamw is torch.optim.AdamW with decay for all but biases and LayerNorm; sgd is torch.optim.SGD."},
    {.name = "lr",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.lr),
     .max = 100,
     .fallback = NAN,
     .help = "Peak learning rate. Default: adamw 5e-5 from trained weights (1e-4 for a student) and 3e-4 from random "
             "ones; sgd 0.05 as in "
             "the note."},
    {.name = "weight_decay",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.weight_decay),
     .max = 10,
     .fallback = NAN,
     .help = "adamw: decoupled, default 0.01; sgd: added to the gradient, default 0."},
    {.name = "eps",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     .optimizers = ADAMW,
     AT(optimizer.eps),
     .min = 1e-16,
     .max = 1,
     .fallback = 1e-8,
     .help = "Added to the root of the second moment."},
    {.name = "beta1",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     .optimizers = ADAMW,
     AT(optimizer.beta1),
     .max = 0.999999,
     .fallback = 0.9,
     .help = "Decay of the first moment."},
    {.name = "beta2",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     .optimizers = ADAMW,
     AT(optimizer.beta2),
     .max = 0.999999,
     .fallback = 0.999,
     .help = "Decay of the second moment."},
    {.name = "momentum",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     .optimizers = SGD,
     AT(optimizer.momentum),
     .max = 0.999999,
     .fallback = NAN,
     .help = "Momentum of sgd. Default: 0.9; without it a student from random weights answers the largest class for "
             "many epochs."},
    {.name = "warmup",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.warmup),
     .max = 1,
     .fallback = NAN,
     .help = "Share of all steps in which lr rises linearly from 0. Default: 0.1."},
    {.name = "schedule",
     .kind = DD_KIND_CHOICE,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.schedule),
     .names = schedule_names,
     .fallback = NAN,
     .help = "What lr does after the warm-up. Default: linear, to 0 at the end."},
    {.name = "max_grad_norm",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.max_grad_norm),
     .max = 1e6,
     .fallback = 1,
     .help = "The gradient's global norm is clipped to this; 0 does not clip."},
    {.name = "layer_lr_decay",
     .kind = DD_KIND_NUMBER,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.layer_lr_decay),
     .min = 0.01,
     .max = 1,
     .fallback = 1,
     .neutral = "1",
     .help = "lr is multiplied by this once for each layer below the head: not for pooler and classifier, once for the "
             "top layer, layers + 1 times for the embeddings (ELECTRA uses 0.8 to fine-tune)."},
    {.name = "nesterov",
     .kind = DD_KIND_BOOL,
     .in_optimizer = true,
     .when = DD_WHEN_ALWAYS,
     .optimizers = SGD,
     AT(optimizer.nesterov),
     .fallback = 0,
     .neutral = "false",
     .help = "Nesterov's momentum, as torch.optim.SGD: the step is taken by the gradient plus momentum times the new "
             "buffer. Needs a momentum above 0."},
    {.name = "T",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(temperature),
     .min = 0.01,
     .max = 1000,
     .fallback = 4,
     .help = "Temperature of both softmaxes in the KL term, which is scaled by T squared."},
    {.name = "alpha",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(alpha),
     .max = 1,
     .fallback = 0.2,
     .help = "Share of the KL term; 1 - alpha is that of the cross entropy with the labels."},
    {.name = "unlabelled",
     .kind = DD_KIND_BOOL,
     .when = DD_WHEN_DISTILL,
     AT(unlabelled),
     .fallback = 0,
     .neutral = "false",
     .help = "Train on the data set's unlabelled rows too, with the KL term only: an epoch is one pass over both."},
    {.name = "augment",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_DISTILL,
     AT(augment),
     .max = 64,
     .fallback = 0,
     .neutral = "0",
     .help = "Altered copies of each training row, labelled by the teacher (KL term only). Tang et al. (2019) use 20."},
    {.name = "augment_mask",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     .needs = DD_NEEDS_AUGMENT,
     AT(augment_mask),
     .max = 1,
     .fallback = 0.1,
     .help = "Probability with which each word of a copy becomes [MASK]. Tang et al. use 0.1."},
    {.name = "augment_ngram",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     .needs = DD_NEEDS_AUGMENT,
     AT(augment_ngram),
     .max = 1,
     .fallback = 0.25,
     .help = "Probability with which only 1 to 5 words behind one another are kept of a copy. Tang et al. use 0.25."},
    {.name = "augment_splice",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     .needs = DD_NEEDS_AUGMENT,
     AT(augment_splice),
     .max = 1,
     .fallback = 0,
     .help = "Probability with which a copy's second half is that of another row of the same class."},
    {.name = "hidden_weight",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(hidden_weight),
     .max = 1000,
     .fallback = 0,
     .neutral = "0",
     .help = "Weight of matching the teacher's hidden states at every token, as TinyBERT does: the mean squared error "
             "of the embeddings and of each layer against the teacher's layer of layer_map, the last layer at [CLS]. "
             "A student of another width learns a projection. Costs the most; 1 is usual. 0: off."},
    {.name = "cls_weight",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(cls_weight),
     .max = 1000,
     .fallback = 0,
     .neutral = "0",
     .help = "Weight of matching the direction of the [CLS] states of each layer with those of the teacher's layer of "
             "layer_map, as Patient KD does. Nearly free: the teacher's states are computed once and cached. 0: off."},
    {.name = "attention_weight",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(attention_weight),
     .max = 1000,
     .fallback = 0,
     .neutral = "0",
     .help = "Weight of matching the attention scores (before the softmax, as TinyBERT does) of each layer with those "
             "of the teacher's layer of layer_map, head by head; where the numbers of heads differ, their means over "
             "heads; the last layer at [CLS]. The teacher runs in every step. 0: off."},
    {.name = "relation_weight",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(relation_weight),
     .max = 1000,
     .fallback = 0,
     .neutral = "0",
     .help = "Weight of matching how the tokens' keys and values relate in the last layer, as MiniLM does: KL of the "
             "softmax of their scaled products, the mean over relation heads and tokens. Widths and heads may differ, "
             "nothing is projected. The teacher runs in every step. 0: off."},
    {.name = "relation_heads",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_DISTILL,
     .needs = DD_NEEDS_RELATION,
     AT(relation_heads),
     .min = 1,
     .max = 1024,
     .fallback = NAN,
     .help = "Into how many pieces both widths are cut for relation_weight; must divide both. Default: the teacher's "
             "heads, or the next smaller number that divides both."},
    {.name = "epochs",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(epochs),
     .min = 1,
     .max = 10000,
     .fallback = NAN,
     .help = "Passes over the training split. Default: 60 for distill as in the note, 10 for finetune."},
    {.name = "batch_size",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(batch_size),
     .min = 1,
     .max = 4096,
     .fallback = 32,
     .help = "Rows a step; the last batch of an epoch may be smaller."},
    {.name = "max_length",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(max_length),
     .min = 4,
     .max = 8192,
     .fallback = NAN,
     .help = "Tokens a row, [CLS] and [SEP] included; the rest is cut off. Default: 128, or the model's positions "
             "where they are fewer. From scratch at most 512."},
    {.name = "seed",
     .kind = DD_KIND_SEED,
     .when = DD_WHEN_ALWAYS,
     AT(seed),
     .max = MAX_EXACT,
     .fallback = 1,
     .help = "Decides initialisation, order and dropout: the same spec gives the same bits."},
    {.name = "precision",
     .kind = DD_KIND_CHOICE,
     .when = DD_WHEN_ALWAYS,
     AT(precision),
     .names = precision_names,
     .fallback = DD_PRECISION_FP32,
     .help = "Of the matrix products; bf16 where the CPU has it."},
    {.name = "metric",
     .kind = DD_KIND_CHOICE,
     .when = DD_WHEN_ALWAYS,
     AT(metric),
     .names = metric_names,
     .fallback = DD_METRIC_MACRO_F1,
     .neutral = "macro_f1",
     .help = "Of the dev split: what the best epoch is best in, and what patience watches.  For dev_loss less is "
             "better."},
    {.name = "patience",
     .kind = DD_KIND_INT,
     .when = DD_WHEN_ALWAYS,
     AT(patience),
     .max = 10000,
     .fallback = 0,
     .neutral = "0",
     .help = "The run ends after this many epochs in a row without a better metric; 0 trains all epochs.  The schedule "
             "of lr still spans all epochs."},
    {.name = "guard",
     .kind = DD_KIND_BOOL,
     .when = DD_WHEN_ALWAYS,
     AT(guard),
     .fallback = 1,
     .neutral = "true",
     .help =
         "Watches for collapse: three steps in a row whose loss or gradient is not finite; or, once macro-F1 on dev "
         "has "
         "been 1.5 times that of answering the most frequent class, an epoch that gives one class alone or has less "
         "than 0.6 of the best macro-F1. Then the run goes back to the best epoch's weights with half the lr, at "
         "most three times. A run without collapse has the same bits with and without."},
    {.name = "ema",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.ema),
     .max = 0.999999,
     .fallback = 0,
     .neutral = "0",
     .help =
         "Decay of a moving average of the weights; 0 has none. Evaluation and the exported models use the average. "
         "At step t the decay is at most (1 + t) / (10 + t), so that the first weights are soon forgotten. Costs as "
         "much memory as the weights."},
    {.name = "freeze_embeddings",
     .kind = DD_KIND_BOOL,
     .when = DD_WHEN_ALWAYS,
     AT(optimizer.freeze_embeddings),
     .fallback = 0,
     .neutral = "false",
     .help = "Word, position and type embeddings and their LayerNorm keep their first values, without gradients or "
             "moments. For embeddings that are already trained."},
    {.name = "loss",
     .kind = DD_KIND_CHOICE,
     .when = DD_WHEN_DISTILL,
     AT(loss),
     .names = loss_names,
     .fallback = DD_LOSS_KL,
     .neutral = "kl",
     .help = "What alpha is the share of. kl: the sum over classes of q (log q - log p), with q and p the softmax of "
             "teacher and student at T, times T squared, mean over rows. mse (Kim et al. 2021; Ba and Caruana 2014): "
             "the mean over rows and classes of the squared difference of the logits, each row's mean taken off; "
             "twice what kl tends to for large T. It has no T."},
    {.name = "T_end",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(temperature_end),
     .min = 0.01,
     .max = 1000,
     .fallback = NAN,
     .optional = true,
     .help = "T moves to this, linearly over the steps. Default: T stays. The loss on dev is taken at the end values."},
    {.name = "alpha_end",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_DISTILL,
     AT(alpha_end),
     .max = 1,
     .fallback = NAN,
     .optional = true,
     .help = "alpha moves to this, linearly over the steps. Default: alpha stays."},
    {.name = "label_smoothing",
     .kind = DD_KIND_NUMBER,
     .when = DD_WHEN_ALWAYS,
     AT(label_smoothing),
     .max = 1,
     .fallback = 0,
     .neutral = "0",
     .help = "Of the cross entropy, as torch.nn.CrossEntropyLoss: this share of each label is spread evenly over all "
             "classes."},
    {.name = "class_weights",
     .kind = DD_KIND_CHOICE,
     .when = DD_WHEN_ALWAYS,
     AT(class_weights),
     .names = class_weights_names,
     .fallback = DD_CLASS_WEIGHTS_NONE,
     .neutral = "none",
     .help = "Of the cross entropy, whose mean is weighted as torch.nn.CrossEntropyLoss does. balanced: n / (k n_c), "
             "as scikit-learn, from the labelled train rows: n of them, k classes that occur, n_c of class c."},
    {.name = "save_as",
     .kind = DD_KIND_NAME,
     .label = true,
     .when = DD_WHEN_ALWAYS,
     AT(save_as),
     .fallback = NAN,
     .help = "Name under which the result is registered as a model. Default: exp- and the run's id."},
};
const size_t dd_spec_fields_count = DD_ARRAY_LEN(dd_spec_fields);

void dd_spec_field_unset(struct dd_spec *spec, const struct dd_spec_field *field) {
    void *at = dd_spec_field_at(spec, field);
    switch (field->kind) {
    case DD_KIND_INT:
    case DD_KIND_CHOICE:
    case DD_KIND_INIT:
    case DD_KIND_PRESET:
        *(int *)at = DD_UNSET;
        break;
    case DD_KIND_NUMBER:
        *(double *)at = NAN;
        break;
    case DD_KIND_SEED:
        *(uint64_t *)at = UINT64_MAX;
        break;
    case DD_KIND_TAGS:
        spec->n_tags = 0;
        break;
    case DD_KIND_LAYER_MAP:
        spec->n_layer_map = 0;
        break;
    case DD_KIND_TEACHERS:
        spec->n_teachers = 0;
        break;
    case DD_KIND_OPTIMIZER: /* by its fields */
        break;
    default: /* texts: empty; flags: unset */
        memset(at, 0, field->bytes);
        break;
    }
}

void dd_spec_unset(struct dd_spec *spec) {
    memset(spec, 0, sizeof *spec);
    for (size_t i = 0; i < dd_spec_fields_count; i++)
        dd_spec_field_unset(spec, &dd_spec_fields[i]);
    spec->priority = 0; /* may be −1, so it has no unset value */
}

bool dd_spec_field_given(const struct dd_spec *spec, const struct dd_spec_field *field) {
    const void *at = dd_spec_field_get(spec, field);
    switch (field->kind) {
    case DD_KIND_INT:
    case DD_KIND_CHOICE:
    case DD_KIND_INIT:
    case DD_KIND_PRESET:
        return *(const int *)at != DD_UNSET;
    case DD_KIND_NUMBER:
        return !isnan(*(const double *)at);
    case DD_KIND_SEED:
        return *(const uint64_t *)at != UINT64_MAX;
    case DD_KIND_BOOL:
        return *(const int *)at != DD_FLAG_UNSET;
    case DD_KIND_TAGS:
        return spec->n_tags > 0;
    case DD_KIND_LAYER_MAP:
        return spec->n_layer_map > 0;
    case DD_KIND_TEACHERS:
        return spec->n_teachers > 0;
    case DD_KIND_OPTIMIZER:
        return true;
    default:
        return *(const char *)at != '\0';
    }
}

unsigned dd_spec_when(const struct dd_spec *spec) {
    if (spec->task != DD_TASK_FINETUNE)
        return DD_WHEN_DISTILL;
    if (spec->model[0] != '\0')
        return DD_WHEN_PRETRAINED;
    return spec->vocabulary[0] != '\0' ? DD_WHEN_VOCABULARY : DD_WHEN_BUILD;
}

const char *dd_when_text(unsigned when) {
    switch (when) {
    case DD_WHEN_DISTILL:
        return "when task is \"distill\"";
    case DD_WHEN_FINETUNE:
        return "when task is \"finetune\"";
    case DD_WHEN_VOCABULARY | DD_WHEN_BUILD:
        return "when task is \"finetune\" without a model";
    case DD_WHEN_BUILD:
        return "when task is \"finetune\" with neither model nor vocabulary";
    default:
        return "always";
    }
}

const char *dd_needs_text(enum dd_spec_needs needs) {
    switch (needs) {
    case DD_NEEDS_AUGMENT:
        return "augment is at least 1";
    case DD_NEEDS_TEACHERS:
        return "teachers are given";
    case DD_NEEDS_RELATION:
        return "relation_weight is above 0";
    case DD_NEEDS_FOLDS:
        return "folds is at least 2";
    case DD_NEEDS_NOTHING:
        break;
    }
    return "";
}

static bool needs_met(const struct dd_spec *spec, enum dd_spec_needs needs) {
    switch (needs) {
    case DD_NEEDS_AUGMENT:
        return spec->augment > 0;
    case DD_NEEDS_TEACHERS:
        return spec->n_teachers > 0;
    case DD_NEEDS_RELATION:
        return spec->relation_weight > 0;
    case DD_NEEDS_FOLDS:
        return spec->folds > 0;
    case DD_NEEDS_NOTHING:
        break;
    }
    return true;
}

bool dd_spec_field_applies(const struct dd_spec *spec, const struct dd_spec_field *field) {
    if ((field->when & dd_spec_when(spec)) == 0)
        return false;
    if (!needs_met(spec, field->needs))
        return false;
    if (field->kind == DD_KIND_LAYER_MAP && spec->init != DD_INIT_TEACHER && (int)spec->init != DD_UNSET &&
        !dd_spec_matches(spec))
        return false;
    if (spec->loss == DD_LOSS_MSE && (field->offset == offsetof(struct dd_spec, temperature) ||
                                      field->offset == offsetof(struct dd_spec, temperature_end)))
        return false;
    unsigned type = (int)spec->optimizer.type == DD_UNSET ? DD_OPTIMIZER_ADAMW : spec->optimizer.type;
    return field->optimizers == 0 || (field->optimizers & (1u << type)) != 0;
}

/* A weight that is NAN has not been given. */
bool dd_spec_matches_states(const struct dd_spec *spec) {
    return spec->task != DD_TASK_FINETUNE && (spec->hidden_weight > 0 || spec->cls_weight > 0);
}

bool dd_spec_matches_heads(const struct dd_spec *spec) {
    return spec->task != DD_TASK_FINETUNE && (spec->attention_weight > 0 || spec->relation_weight > 0);
}

bool dd_spec_matches(const struct dd_spec *spec) {
    return dd_spec_matches_states(spec) || dd_spec_matches_heads(spec);
}

void dd_number_text(double value, char out[DD_NUMBER_BYTES]) {
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, DD_NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

const char *dd_task_name(enum dd_task task) {
    return (unsigned)task < 2 ? task_names[task] : "unknown";
}

const char *dd_optimizer_name(enum dd_optimizer_type type) {
    return (unsigned)type < 2 ? optimizer_names[type] : "unknown";
}

const char *dd_schedule_name(enum dd_schedule schedule) {
    return (unsigned)schedule < 3 ? schedule_names[schedule] : "unknown";
}

const char *dd_teacher_mean_name(enum dd_teacher_mean mean) {
    return (unsigned)mean < 3 ? mean_names[mean] : "unknown";
}

const char *dd_precision_name(enum dd_precision precision) {
    return (unsigned)precision < 2 ? precision_names[precision] : "unknown";
}
