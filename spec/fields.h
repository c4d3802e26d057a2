/* The table of all fields of a spec.  Private to spec/.
 * Invariant: dd_spec_fields[] is the only place that knows a field's JSON name, bounds, default and help; parse.c,
 * resolve.c and json.c walk it and have no list of their own.
 */
#ifndef DD_SPEC_FIELDS_H
#define DD_SPEC_FIELDS_H

#include "spec/spec.h"

enum dd_spec_field_kind {
    DD_KIND_LINE,   /* char[]: text without control characters */
    DD_KIND_TEXT,   /* char[]: text of many lines */
    DD_KIND_NAME,   /* char[DD_NAME_BYTES]: a data set or model */
    DD_KIND_INT,    /* int */
    DD_KIND_NUMBER, /* double */
    DD_KIND_CHOICE, /* an enum, by `names` */
    DD_KIND_WORD,   /* char[]: one of `names` */
    DD_KIND_BOOL,   /* enum dd_flag */
    DD_KIND_SEED,   /* uint64_t below 2^53 */
    DD_KIND_TAGS,
    DD_KIND_INIT, /* init and init_model */
    DD_KIND_LAYER_MAP,
    DD_KIND_PRESET,    /* int, place in dd_presets; in requests alone */
    DD_KIND_TEACHERS,  /* teachers and n_teachers */
    DD_KIND_OPTIMIZER, /* a string or the object of the fields with in_optimizer */
};

/* The four situations that a spec can be in; a field says in which it means something. */
enum {
    DD_WHEN_DISTILL = 1u << 0,
    DD_WHEN_PRETRAINED = 1u << 1, /* finetune with "model" */
    DD_WHEN_VOCABULARY = 1u << 2, /* finetune from scratch with "vocabulary" */
    DD_WHEN_BUILD = 1u << 3,      /* finetune from scratch, vocabulary built from the data set */
    DD_WHEN_FINETUNE = DD_WHEN_PRETRAINED | DD_WHEN_VOCABULARY | DD_WHEN_BUILD,
    DD_WHEN_ALWAYS = DD_WHEN_DISTILL | DD_WHEN_FINETUNE,
};

/* Another field that must be on for a field to mean anything. */
enum dd_spec_needs { DD_NEEDS_NOTHING = 0, DD_NEEDS_AUGMENT, DD_NEEDS_TEACHERS, DD_NEEDS_RELATION, DD_NEEDS_FOLDS };

struct dd_spec_field {
    const char *name;
    enum dd_spec_field_kind kind;
    bool in_optimizer;
    bool label;    /* does not decide the result: not hashed */
    unsigned when; /* DD_WHEN_… */
    enum dd_spec_needs needs;
    unsigned optimizers; /* bit mask 1u << type; 0: any */
    size_t offset, bytes;
    double min, max;          /* inclusive; for strings: characters */
    const char *const *names; /* NULL-terminated */
    double fallback;          /* the default; NAN: settled by resolve.c, told in help */
    bool optional;            /* a number that may stay unset (NAN): then neither in the resolved JSON nor hashed */
    const char *neutral;      /* the value, as JSON without quotes, at which the field is not hashed; NULL: always is */
    const char *help;         /* a sentence for people, with the reason of the default */
};
extern const struct dd_spec_field dd_spec_fields[];
extern const size_t dd_spec_fields_count;

extern const char *const dd_preset_names[];

void dd_spec_field_unset(struct dd_spec *spec, const struct dd_spec_field *field);
void dd_spec_unset(struct dd_spec *spec);            /* nothing given */
unsigned dd_spec_when(const struct dd_spec *spec);   /* the situation: one DD_WHEN_… bit */
const char *dd_when_text(unsigned when);             /* "when task is \"distill\"" */
const char *dd_needs_text(enum dd_spec_needs needs); /* "augment is at least 1" */
enum dd_metric dd_metric_named(const char *name);    /* DD_UNSET: there is none of that name */
bool dd_metric_is_share(enum dd_metric metric);      /* of the dev rows, so its standard error follows from them */
/* Whether the field means something for this spec. */
bool dd_spec_field_applies(const struct dd_spec *spec, const struct dd_spec_field *field);
bool dd_spec_field_given(const struct dd_spec *spec, const struct dd_spec_field *field);

static inline void *dd_spec_field_at(struct dd_spec *spec, const struct dd_spec_field *field) {
    return (char *)spec + field->offset;
}
static inline const void *dd_spec_field_get(const struct dd_spec *spec, const struct dd_spec_field *field) {
    return (const char *)spec + field->offset;
}

/* Shortest decimal that reads back as the same double: "1.7", "5e-05". */
#define DD_NUMBER_BYTES 32
void dd_number_text(double value, char out[DD_NUMBER_BYTES]);

#endif
