/* Settles every field that was not given, then checks what needs several fields at once.
 * Threads: pure functions, any thread.
 * Invariant: after DD_OK every field that applies and is not optional has a value, and resolving again changes nothing.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "spec/fields.h"

#define SCRATCH_POSITIONS 512 /* of a model trained from scratch, as BERT's */
#define WHOLE_WORDS 4096      /* beyond the teacher's vocabulary, for a student of one layer */

static void settle_int(int *field, int value) {
    if (*field == DD_UNSET)
        *field = value;
}

static void settle_number(double *field, double value) {
    if (isnan(*field))
        *field = value;
}

/* Defaults of the table: the fields whose default is one value. */
static void settle_fixed(struct dd_spec *spec) {
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        if (isnan(field->fallback) || dd_spec_field_given(spec, field) || !dd_spec_field_applies(spec, field))
            continue;
        void *at = dd_spec_field_at(spec, field);
        if (field->kind == DD_KIND_INT || field->kind == DD_KIND_CHOICE || field->kind == DD_KIND_INIT)
            *(int *)at = (int)field->fallback;
        else if (field->kind == DD_KIND_NUMBER)
            *(double *)at = field->fallback;
        else if (field->kind == DD_KIND_SEED)
            *(uint64_t *)at = (uint64_t)field->fallback;
        else if (field->kind == DD_KIND_BOOL)
            *(int *)at = field->fallback != 0 ? DD_FLAG_YES : DD_FLAG_NO;
    }
}

static int choice_of(const struct dd_spec_field *field, const char *name) {
    int i = 0;
    while (field->names[i] != NULL && strcmp(field->names[i], name) != 0)
        i++;
    assert(field->names[i] != NULL); /* a row of the table that is wrong */
    return i;
}

void dd_spec_settle_stored(struct dd_spec *spec) {
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        if (field->neutral == NULL || dd_spec_field_given(spec, field) || !dd_spec_field_applies(spec, field))
            continue;
        void *at = dd_spec_field_at(spec, field);
        if (field->kind == DD_KIND_INT)
            *(int *)at = (int)strtol(field->neutral, NULL, 10);
        else if (field->kind == DD_KIND_NUMBER)
            *(double *)at = strtod(field->neutral, NULL);
        else if (field->kind == DD_KIND_CHOICE)
            *(int *)at = choice_of(field, field->neutral);
        else if (field->kind == DD_KIND_BOOL)
            *(int *)at = strcmp(field->neutral, "true") == 0 ? DD_FLAG_YES : DD_FLAG_NO;
    }
}

static void settle_optimizer(struct dd_spec *spec) {
    struct dd_optimizer_spec *o = &spec->optimizer;
    bool adamw = o->type == DD_OPTIMIZER_ADAMW;
    unsigned when = dd_spec_when(spec);
    bool trained = when == DD_WHEN_PRETRAINED || (when == DD_WHEN_DISTILL && spec->init != DD_INIT_RANDOM);
    settle_number(&o->lr, !adamw ? 0.05 : !trained ? 3e-4 : when == DD_WHEN_DISTILL ? 1e-4 : 5e-5);
    settle_number(&o->weight_decay, adamw ? 0.01 : 0);
    settle_number(&o->warmup, 0.1);
    if (!adamw)
        settle_number(&o->momentum, 0.9);
    if ((int)o->schedule == DD_UNSET)
        o->schedule = DD_SCHEDULE_LINEAR;
}

/* From the teacher where its tensors fit. */
static void settle_init(struct dd_spec *spec, const struct dd_spec_teacher *base) {
    if ((int)spec->init != DD_UNSET || dd_spec_when(spec) != DD_WHEN_DISTILL)
        return;
    bool fits = base != NULL && spec->hidden_size == base->hidden_size && spec->heads == base->heads &&
                spec->intermediate_size == base->intermediate_size && spec->layers <= base->layers;
    spec->init = fits || (spec->n_layer_map > 0 && !dd_spec_matches(spec)) ? DD_INIT_TEACHER : DD_INIT_RANDOM;
}

/* An end that is the start is no schedule: one hash for what is one run. */
static void settle_schedules(struct dd_spec *spec) {
    if (spec->temperature_end == spec->temperature)
        spec->temperature_end = NAN;
    if (spec->alpha_end == spec->alpha)
        spec->alpha_end = NAN;
}

static void settle_shape(struct dd_spec *spec, const struct dd_spec_teacher *base) {
    if (base != NULL) {
        settle_int(&spec->layers, spec->task == DD_TASK_DISTILL ? DD_MIN(3, base->layers) : base->layers);
        settle_int(&spec->hidden_size, base->hidden_size);
        settle_int(&spec->heads, base->heads);
        settle_int(&spec->intermediate_size,
                   spec->hidden_size == base->hidden_size ? base->intermediate_size : 4 * spec->hidden_size);
        settle_number(&spec->hidden_dropout, base->hidden_dropout);
        settle_number(&spec->attention_dropout, base->attention_dropout);
        if (spec->hidden_act[0] == '\0')
            snprintf(spec->hidden_act, sizeof spec->hidden_act, "%s", base->hidden_act);
        settle_int(&spec->max_length, DD_MIN(128, base->max_position_embeddings));
    }
    settle_int(&spec->layers, 4);
    settle_int(&spec->hidden_size, 256);
    settle_int(&spec->heads, DD_MAX(1, spec->hidden_size / 64));
    settle_int(&spec->intermediate_size, 4 * spec->hidden_size);
    settle_number(&spec->hidden_dropout, 0.1);
    settle_number(&spec->attention_dropout, 0.1);
    settle_number(&spec->classifier_dropout, spec->hidden_dropout);
    if (spec->hidden_act[0] == '\0')
        snprintf(spec->hidden_act, sizeof spec->hidden_act, "gelu");
    settle_int(&spec->max_length, 128);
}

/* The teacher's heads, or the next smaller number that divides both widths. */
static void settle_relation_heads(struct dd_spec *spec, const struct dd_spec_teacher *base) {
    if (spec->task == DD_TASK_FINETUNE || !(spec->relation_weight > 0) || spec->relation_heads != DD_UNSET)
        return;
    int width = base != NULL ? base->hidden_size : spec->hidden_size, n = base != NULL ? base->heads : spec->heads;
    while (n > 1 && (width % n != 0 || spec->hidden_size % n != 0))
        n--;
    spec->relation_heads = n;
}

static void check_relation_heads(const struct dd_spec *spec, const struct dd_spec_teacher *base,
                                 struct dd_faults *faults) {
    int n = spec->relation_heads;
    if (spec->hidden_size % n != 0 || base->hidden_size % n != 0)
        dd_faults_add(faults, "/relation_heads", "must divide hidden_size %d and the teacher's %d; got %d",
                      spec->hidden_size, base->hidden_size, n);
}

static void check_same(struct dd_faults *faults, const char *pointer, int value, int wanted, const char *why) {
    if (value != wanted)
        dd_faults_add(faults, pointer, "must be %d, %s; got %d", wanted, why, value);
}

static void check_heads(const struct dd_spec *spec, struct dd_faults *faults) {
    if (spec->hidden_size % spec->heads == 0)
        return;
    int below = spec->heads;
    int above = below;
    while (spec->hidden_size % below != 0)
        below--;
    while (above < spec->hidden_size && spec->hidden_size % above != 0)
        above++;
    dd_faults_add(faults, "/heads", "must divide hidden_size: %d is not divisible by %d; try %d or %d",
                  spec->hidden_size, spec->heads, below, above);
}

static void check_folds(const struct dd_spec *spec, struct dd_faults *faults) {
    if (spec->task != DD_TASK_FINETUNE) {
        if (spec->n_teachers > 0 && spec->teacher_mean == DD_MEAN_OUT_OF_FOLD && dd_spec_matches(spec))
            dd_faults_add(faults, "/teacher_mean",
                          "cannot be \"out_of_fold\" when inner states are matched: they are one teacher's, which has "
                          "seen most rows");
    } else if (spec->folds == 1) {
        dd_faults_add(faults, "/folds", "must be 0 or at least 2, got 1");
    } else if (spec->folds > 0 && spec->fold >= spec->folds) {
        dd_faults_add(faults, "/fold", "must be below folds, %d, since it counts from 0; got %d", spec->folds,
                      spec->fold);
    }
}

/* The layers that are copied from the teacher or matched with its. */
static void check_layer_map(const struct dd_spec *spec, const struct dd_spec_teacher *base, struct dd_faults *faults) {
    if (spec->layers > base->layers)
        dd_faults_add(faults, "/layers", "must be at most the teacher's %d when %s, got %d", base->layers,
                      spec->init == DD_INIT_TEACHER ? "init is \"teacher\"" : "inner states are matched", spec->layers);
    if (spec->n_layer_map != 0 && spec->n_layer_map != spec->layers)
        dd_faults_add(faults, "/layer_map", "must have an entry for each of the %d layers, has %d", spec->layers,
                      spec->n_layer_map);
    for (int i = 0; i < spec->n_layer_map; i++)
        if (spec->layer_map[i] >= base->layers)
            dd_faults_add(faults, "/layer_map", "entry %d must be between 0 and %d, the teacher's last layer; got %d",
                          i, base->layers - 1, spec->layer_map[i]);
}

static void check_teacher_init(const struct dd_spec *spec, const struct dd_spec_teacher *base,
                               struct dd_faults *faults) {
    check_same(faults, "/hidden_size", spec->hidden_size, base->hidden_size, "the teacher's, when init is \"teacher\"");
    check_same(faults, "/intermediate_size", spec->intermediate_size, base->intermediate_size,
               "the teacher's, when init is \"teacher\"");
}

/* Copies, [CLS] states and epochs (docs/quality.md).  A student of one layer hears too little of its teacher on the
 * labelled rows alone: copies that the teacher labels and its states are worth more than further passes over the same
 * texts, and most with unlabelled rows and eight copies of each row, seen a few times; then the labels weigh less,
 * which a batch of so many copies has few of.  Alpha 0 is a student that does not listen. */
static void settle_signal(struct dd_spec *spec) {
    bool distill = spec->task == DD_TASK_DISTILL, trained = spec->init != DD_INIT_RANDOM;
    bool unlabelled = distill && spec->unlabelled == DD_FLAG_YES;
    bool silent = spec->alpha == 0 && !(spec->alpha_end > 0);
    bool listens = distill && spec->init == DD_INIT_TEACHER && !silent;
    bool more = listens && (unlabelled || spec->layers == 1), most = more && unlabelled && spec->layers == 1;
    bool given = spec->augment != DD_UNSET, eight = most && !given;
    bool one = spec->n_teachers == 0 || spec->teacher_mean != DD_MEAN_OUT_OF_FOLD; /* whose states are matched */
    if (distill) {
        settle_number(&spec->cls_weight, more && one ? 1 : 0);
        settle_int(&spec->augment, !more ? 0 : eight ? 8 : unlabelled ? 2 : 4);
        settle_number(&spec->alpha, eight ? 0.95 : 0.2);
        bool words = listens && spec->layers == 1 && !dd_spec_matches_tokens(spec);
        settle_int(&spec->whole_words, words ? WHOLE_WORDS : 0);
        if (spec->augment > 0)
            settle_number(&spec->augment_replace, given ? 0 : 0.3);
        if (spec->augment > 0 && spec->augment_unlabelled == DD_FLAG_UNSET)
            spec->augment_unlabelled = most ? DD_FLAG_YES : DD_FLAG_NO;
        settle_fixed(spec); /* which of its fields apply is known now */
    }
    if ((int)spec->metric == DD_UNSET)
        spec->metric = eight ? DD_METRIC_TEACHER_AGREEMENT : DD_METRIC_MACRO_F1;
    if ((int)spec->selection == DD_UNSET)
        spec->selection = eight && dd_metric_is_share(spec->metric) ? DD_SELECTION_ONE_SE : DD_SELECTION_BEST;
    bool longer = unlabelled || (distill && spec->augment > 0); /* an epoch reads more than the labelled rows */
    settle_int(&spec->epochs, !distill ? 10 : !trained ? 60 : eight ? 4 : longer ? 8 : 20);
}

/* What copies are like was said, but not that there are any, and by default there are none. */
static void check_copies(const struct dd_spec *given, const struct dd_spec *spec, struct dd_faults *faults) {
    if (spec->augment_unlabelled == DD_FLAG_YES && spec->unlabelled != DD_FLAG_YES)
        dd_faults_add(faults, "/augment_unlabelled", "needs unlabelled to be true");
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        if (field->needs == DD_NEEDS_AUGMENT && given->augment == DD_UNSET && spec->augment == 0 &&
            dd_spec_field_given(given, field)) {
            char pointer[64];
            snprintf(pointer, sizeof pointer, "/%s", field->name);
            dd_faults_add(faults, pointer, "applies only when augment is at least 1, and by default it is 0 here");
        }
    }
}

enum dd_status dd_spec_resolve(struct dd_spec *spec, const struct dd_spec_teacher *base_model, struct dd_faults *faults,
                               struct dd_error *err) {
    size_t before = faults->total;
    const struct dd_spec given = *spec;
    settle_fixed(spec); /* twice: which optimizer fields apply is known once its type is settled */
    settle_fixed(spec);
    settle_shape(spec, base_model);
    settle_init(spec, base_model);
    settle_signal(spec);
    settle_schedules(spec);
    settle_optimizer(spec);
    settle_relation_heads(spec, base_model);

    check_copies(&given, spec, faults);
    if (spec->task == DD_TASK_FINETUNE && spec->metric == DD_METRIC_TEACHER_AGREEMENT)
        dd_faults_add(faults, "/metric",
                      "cannot be \"teacher_agreement\" when task is \"finetune\": there is no teacher");
    if (spec->selection == DD_SELECTION_ONE_SE && !dd_metric_is_share(spec->metric))
        dd_faults_add(
            faults, "/selection",
            "\"one_se\" needs metric to be \"accuracy\" or \"teacher_agreement\", shares of the dev rows, whose "
            "standard error follows from their number");
    if (spec->task == DD_TASK_DISTILL && spec->whole_words > 0 && dd_spec_matches_tokens(spec))
        dd_faults_add(faults, "/whole_words",
                      "must be 0 beside hidden_weight, attention_weight or relation_weight, which compare student and "
                      "teacher token by token");
    check_heads(spec, faults);
    if (spec->optimizer.type == DD_OPTIMIZER_SGD && spec->optimizer.nesterov == DD_FLAG_YES &&
        spec->optimizer.momentum == 0)
        dd_faults_add(faults, "/optimizer/nesterov", "needs a momentum above 0; leave out nesterov or momentum");
    int positions = base_model != NULL ? base_model->max_position_embeddings : SCRATCH_POSITIONS;
    if (spec->max_length > positions)
        dd_faults_add(faults, "/max_length", "must be at most %d, the model's positions; got %d", positions,
                      spec->max_length);
    unsigned when = dd_spec_when(spec);
    check_folds(spec, faults);
    if (when == DD_WHEN_DISTILL && spec->init == DD_INIT_TEACHER && base_model != NULL)
        check_teacher_init(spec, base_model, faults);
    if (when == DD_WHEN_DISTILL && base_model != NULL && (spec->init == DD_INIT_TEACHER || dd_spec_matches(spec)))
        check_layer_map(spec, base_model, faults);
    if (when == DD_WHEN_DISTILL && base_model != NULL && spec->relation_weight > 0)
        check_relation_heads(spec, base_model, faults);
    if (when == DD_WHEN_PRETRAINED && base_model != NULL) {
        const char *why = "the starting model's (leave it out)";
        check_same(faults, "/layers", spec->layers, base_model->layers, why);
        check_same(faults, "/heads", spec->heads, base_model->heads, why);
        check_same(faults, "/hidden_size", spec->hidden_size, base_model->hidden_size, why);
        check_same(faults, "/intermediate_size", spec->intermediate_size, base_model->intermediate_size, why);
    }
    size_t found = faults->total - before;
    if (found == 0)
        return DD_OK;
    return dd_fail(err, DD_INVALID, "spec_invalid", "%zu field%s of the spec %s not fit the others", found,
                   found == 1 ? "" : "s", found == 1 ? "does" : "do");
}
