/* What can be asked of the table of fields and of a spec without JSON.
 * Threads: pure functions, any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "spec/fields.h"

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

bool dd_spec_matches_tokens(const struct dd_spec *spec) {
    return dd_spec_matches_heads(spec) || (spec->task != DD_TASK_FINETUNE && spec->hidden_weight > 0);
}

bool dd_spec_matches(const struct dd_spec *spec) {
    return dd_spec_matches_states(spec) || dd_spec_matches_heads(spec);
}

void dd_number_text(double value, char out[DD_NUMBER_BYTES]) {
    _Static_assert(DD_NUMBER_BYTES >= DD_NUMBER_TEXT_BYTES, "room for every number");
    (void)dd_number_digits(value, out);
}

/* The words of a choice, by the field's row. */
static const char *const *choice_names(size_t offset) {
    const char *const *names = NULL;
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        names = field->kind == DD_KIND_CHOICE && field->offset == offset ? field->names : names;
    }
    return names;
}

static const char *choice_name(size_t offset, unsigned value) {
    const char *const *names = choice_names(offset);
    for (unsigned i = 0; names != NULL && names[i] != NULL; i++)
        if (i == value)
            return names[i];
    return "unknown";
}

const char *dd_task_name(enum dd_task task) {
    return choice_name(offsetof(struct dd_spec, task), (unsigned)task);
}

const char *dd_optimizer_name(enum dd_optimizer_type type) {
    return choice_name(offsetof(struct dd_spec, optimizer.type), (unsigned)type);
}

const char *dd_schedule_name(enum dd_schedule schedule) {
    return choice_name(offsetof(struct dd_spec, optimizer.schedule), (unsigned)schedule);
}

const char *dd_teacher_mean_name(enum dd_teacher_mean mean) {
    return choice_name(offsetof(struct dd_spec, teacher_mean), (unsigned)mean);
}

const char *dd_precision_name(enum dd_precision precision) {
    return choice_name(offsetof(struct dd_spec, precision), (unsigned)precision);
}

enum dd_metric dd_metric_named(const char *name) {
    const char *const *names = choice_names(offsetof(struct dd_spec, metric));
    for (int i = 0; names != NULL && names[i] != NULL; i++)
        if (strcmp(names[i], name) == 0)
            return (enum dd_metric)i;
    return (enum dd_metric)DD_UNSET;
}

bool dd_metric_is_share(enum dd_metric metric) {
    return metric == DD_METRIC_ACCURACY || metric == DD_METRIC_TEACHER_AGREEMENT;
}
