/* train_card: the model card, README.md of an exported directory: what it is, how it was made, how good it is, how to
 * load it.  Only what the spec, the data set and the metrics say; no paths, hosts or users.
 */
#include "engine/train.h"

#include <math.h>
#include <string.h>

#define CARD_MAX_BYTES ((size_t)1 << 20)

/* Text of a user inside one line of Markdown: control characters become spaces, what would be markup is escaped. */
static void put_text(struct dd_buffer *out, const char *text) {
    for (const char *at = text; *at; at++) {
        unsigned char c = (unsigned char)*at;
        if (c < 0x20 || c == 0x7f) {
            dd_buffer_putc(out, ' ');
        } else {
            if (strchr("\\`*_[]<>|#", c)) {
                dd_buffer_putc(out, '\\');
            }
            dd_buffer_putc(out, (char)c);
        }
    }
}

static void put_metric(struct dd_buffer *out, const char *name, double value) {
    if (isfinite(value)) {
        dd_buffer_printf(out, "| %s | %.4f |\n", name, value);
    }
}

static void put_teachers(const struct dd_run *run, struct dd_buffer *out) {
    const struct dd_spec *spec = run->spec;
    if (spec->n_teachers > 0) {
        dd_buffer_printf(out, "distilled from the mean of the %s of the teachers ",
                         dd_teacher_mean_name(spec->teacher_mean));
    } else {
        dd_buffer_puts(out, "distilled from the teacher ");
    }
    for (int i = 0; i <= spec->n_teachers; i++) {
        const struct dd_model *teacher = i == 0 ? run->input->base : run->input->teachers[i - 1];
        dd_buffer_printf(out, "%s`%s` (%d layers, hidden size %d)",
                         i == 0                  ? ""
                         : i == spec->n_teachers ? " and "
                                                 : ", ",
                         i == 0 ? spec->teacher : spec->teachers[i - 1], teacher->info.config.layers,
                         teacher->info.config.hidden_size);
    }
    dd_buffer_putc(out, ' ');
}

static void put_head(const struct dd_run *run, struct dd_buffer *out) {
    const struct dd_bert_config *config = &run->student->info.config;
    const char *title = run->input->card_title && run->input->card_title[0] ? run->input->card_title : run->spec->name;
    dd_buffer_printf(out,
                     "---\nlibrary_name: transformers\npipeline_tag: text-classification\ntags:\n- bert\n- "
                     "text-classification\n%s---\n\n# ",
                     run->spec->task == DD_TASK_DISTILL ? "- distillation\n" : "");
    put_text(out, title[0] ? title : "A text classifier");
    dd_buffer_printf(out,
                     "\n\nA BERT text classifier with %d %s, %d attention %s, hidden size %d and a vocabulary of %d "
                     "(%llu parameters), ",
                     config->layers, config->layers == 1 ? "layer" : "layers", config->heads,
                     config->heads == 1 ? "head" : "heads", config->hidden_size, config->vocab_size,
                     (unsigned long long)run->student->info.parameters);
    if (run->spec->task == DD_TASK_DISTILL) {
        put_teachers(run, out);
    } else if (run->spec->model[0]) {
        dd_buffer_printf(out, "fine-tuned from `%s` ", run->spec->model);
    } else {
        dd_buffer_puts(out, "trained from scratch ");
    }
    dd_buffer_printf(out, "on the data set `%s` by distilld %s.\n", run->spec->dataset, DD_VERSION);
}

static void put_labels(const struct dd_run *run, struct dd_buffer *out) {
    dd_buffer_puts(out, "\n## Labels\n\n| id | label |\n|---|---|\n");
    for (int c = 0; c < run->n_classes; c++) {
        dd_buffer_printf(out, "| %d | ", c);
        put_text(out, run->student->info.labels[c]);
        dd_buffer_puts(out, " |\n");
    }
}

static void put_metrics(const struct dd_run *run, const struct dd_epoch_metrics *m, struct dd_buffer *out) {
    dd_buffer_printf(out, "\n## On the dev split\n\n%u rows, epoch %d of %d.\n\n| metric | value |\n|---|---|\n",
                     run->dev.rows, m->epoch, run->spec->epochs);
    put_metric(out, "accuracy", m->accuracy);
    put_metric(out, "macro precision", m->macro_precision);
    put_metric(out, "macro recall", m->macro_recall);
    put_metric(out, "macro F1", m->macro_f1);
    put_metric(out, "weighted precision", m->weighted_precision);
    put_metric(out, "weighted recall", m->weighted_recall);
    put_metric(out, "weighted F1", m->weighted_f1);
    put_metric(out, "loss", m->dev_loss);
    put_metric(out, "agreement with the teacher", m->teacher_agreement);
}

/* A setting that may move during the run; nothing where there is none. */
static void put_from_to(struct dd_buffer *out, const char *name, double from, double to) {
    if (isfinite(from) && isfinite(to)) {
        dd_buffer_printf(out, "| %s | %g to %g |\n", name, from, to);
    } else if (isfinite(from)) {
        dd_buffer_printf(out, "| %s | %g |\n", name, from);
    }
}

/* Settings that are seldom used: only where they are. */
static void put_options(const struct dd_spec *spec, struct dd_buffer *out) {
    if (spec->optimizer.layer_lr_decay > 0.0 && spec->optimizer.layer_lr_decay < 1.0) {
        dd_buffer_printf(out, "| lr factor a layer | %g |\n", spec->optimizer.layer_lr_decay);
    }
    if (spec->optimizer.ema > 0.0) {
        dd_buffer_printf(out, "| moving average of the weights | %g |\n", spec->optimizer.ema);
    }
    if (spec->optimizer.freeze_embeddings == DD_FLAG_YES) {
        dd_buffer_puts(out, "| embeddings | frozen |\n");
    }
    if (spec->optimizer.type == DD_OPTIMIZER_SGD && spec->optimizer.nesterov == DD_FLAG_YES) {
        dd_buffer_puts(out, "| momentum | Nesterov's |\n");
    }
    const struct {
        const char *what;
        double weight; /* NAN for finetune */
    } matched[] = {{"hidden states", spec->hidden_weight},
                   {"[CLS] states", spec->cls_weight},
                   {"attention scores", spec->attention_weight},
                   {"relations", spec->relation_weight}};
    for (size_t i = 0; spec->task == DD_TASK_DISTILL && i < DD_ARRAY_LEN(matched); i++) {
        if (matched[i].weight > 0.0) {
            dd_buffer_printf(out, "| weight of the teacher's %s | %g |\n", matched[i].what, matched[i].weight);
        }
    }
    if (spec->label_smoothing > 0.0) {
        dd_buffer_printf(out, "| label smoothing | %g |\n", spec->label_smoothing);
    }
    if (spec->class_weights == DD_CLASS_WEIGHTS_BALANCED) {
        dd_buffer_puts(out, "| class weights | balanced |\n");
    }
}

static void put_spec(const struct dd_run *run, struct dd_buffer *out) {
    const struct dd_spec *spec = run->spec;
    const struct dd_optimizer_spec *o = &spec->optimizer;
    static const char *const inits[] = {
        [DD_INIT_RANDOM] = "random", [DD_INIT_TEACHER] = "teacher", [DD_INIT_MODEL] = "model"};
    dd_buffer_puts(out, "\n## Training\n\n| setting | value |\n|---|---|\n");
    dd_buffer_printf(out, "| rows | %u |\n", run->n_labelled);
    if (run->student->info.fold.folds > 0) {
        dd_buffer_printf(out, "| held out | fold %d of %d (from 0) |\n", spec->fold, spec->folds);
    }
    if (spec->task == DD_TASK_DISTILL && spec->n_teachers > 0 && spec->teacher_mean == DD_MEAN_OUT_OF_FOLD) {
        dd_buffer_puts(out, "| train rows labelled by | the teacher that has not seen them |\n");
    }
    if (run->n_unlabelled > 0) {
        dd_buffer_printf(out, "| unlabelled rows | %u |\n", run->n_unlabelled);
    }
    if (run->n_augmented > 0) {
        dd_buffer_printf(out, "| augmented rows | %u: %d of each; replace %g, mask %g, n-gram %g, splice %g |\n",
                         run->n_augmented, spec->augment, spec->augment_replace, spec->augment_mask,
                         spec->augment_ngram, spec->augment_splice);
    }
    if (run->n_augmented_unlabelled > 0) {
        dd_buffer_printf(out, "| augmented unlabelled rows | %u |\n", run->n_augmented_unlabelled);
    }
    if (dd_run_whole_words(run) > 0) {
        dd_buffer_printf(out, "| whole words beyond the teacher's vocabulary | %d |\n", dd_run_whole_words(run));
    }
    if (spec->task == DD_TASK_DISTILL) {
        put_from_to(out, "T", spec->loss == DD_LOSS_MSE ? NAN : spec->temperature, spec->temperature_end);
        put_from_to(out, "alpha", spec->alpha, spec->alpha_end);
        dd_buffer_printf(out, "%s| init | %s |\n",
                         spec->loss == DD_LOSS_MSE ? "| loss | squared error of the centred logits |\n" : "",
                         inits[spec->init]);
    }
    dd_buffer_printf(out, "| optimizer | %s |\n| lr | %g |\n| schedule | %s, warm-up %g |\n",
                     dd_optimizer_name(o->type), o->lr, dd_schedule_name(o->schedule), o->warmup);
    if (o->type == DD_OPTIMIZER_ADAMW) {
        dd_buffer_printf(out, "| betas, eps | %g, %g, %g |\n", o->beta1, o->beta2, o->eps);
    } else {
        dd_buffer_printf(out, "| momentum | %g |\n", o->momentum);
    }
    dd_buffer_printf(out, "| weight decay | %g |\n| clipping by norm | %g |\n", o->weight_decay, o->max_grad_norm);
    put_options(spec, out);
    dd_buffer_printf(out,
                     "| epochs | %d |\n| batch size | %d |\n| max length | %d |\n| seed | %llu |\n| precision | %s |\n",
                     spec->epochs, spec->batch_size, spec->max_length, (unsigned long long)spec->seed,
                     dd_precision_name(spec->precision));
}

enum dd_status dd_run_card(const struct dd_run *run, const struct dd_epoch_metrics *metrics, char **ret_card,
                           struct dd_error *err) {
    struct dd_buffer out;
    dd_buffer_init(&out, CARD_MAX_BYTES);
    put_head(run, &out);
    put_metrics(run, metrics, &out);
    put_labels(run, &out);
    put_spec(run, &out);
    dd_buffer_printf(&out,
                     "\n## Use\n\n```python\nfrom transformers import pipeline\n\nclassify = "
                     "pipeline(\"text-classification\", model=\"path/to/this/directory\", truncation=True, "
                     "max_length=%d)\nprint(classify(\"…\"))\n```\n",
                     run->spec->max_length);
    enum dd_status status = dd_buffer_check(&out, err);
    if (status == DD_OK) {
        *ret_card = dd_buffer_take(&out, NULL);
    }
    dd_buffer_release(&out);
    return status;
}
