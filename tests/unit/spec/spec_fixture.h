/* Shared by the tests of the spec: a teacher to resolve against, and a spec from its text. */
#ifndef DD_TESTS_SPEC_FIXTURE_H
#define DD_TESTS_SPEC_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "spec/fields.h"

static const struct dd_spec_teacher teacher = {.layers = 12,
                                               .heads = 12,
                                               .hidden_size = 768,
                                               .intermediate_size = 3072,
                                               .max_position_embeddings = 512,
                                               .hidden_dropout = 0.1,
                                               .attention_dropout = 0.2,
                                               .hidden_act = "gelu_new"};

/* Parses and, when that passes, resolves. */
static inline enum dd_status settle(const char *text, struct dd_spec *spec, struct dd_faults *faults) {
    cJSON *body = cJSON_Parse(text);
    assert_non_null(body);
    struct dd_error err = {0};
    enum dd_status status = dd_spec_parse(body, "", spec, faults, &err);
    if (status == DD_OK) {
        const struct dd_spec_teacher *base = spec->task != DD_TASK_FINETUNE || spec->model[0] != '\0' ? &teacher : NULL;
        status = dd_spec_resolve(spec, base, faults, &err);
    }
    if (status != DD_OK) {
        assert_int_equal(status, DD_INVALID);
        assert_string_equal(err.code, "spec_invalid");
    }
    assert_int_equal(status == DD_OK, faults->total == 0);
    cJSON_Delete(body);
    return status;
}

/* What a distillation and a fine-tune cannot be without, to begin a body with. */
#define D "\"dataset\":\"milk\",\"teacher\":\"t\","
#define F "\"task\":\"finetune\",\"dataset\":\"milk\","

#endif
