/* Changing a resolved spec: what cannot stay beside a change goes, what can stays, and the rest settles again. */
#include "spec_fixture.h"

#define BOTH "\"dataset\":\"d\",\"teacher\":\"t\""
#define MAP BOTH ",\"layers\":1,\"layer_map\":[4]"

/* The resolved spec of `from`, changed. */
static cJSON *changed(const char *from, const char *changes) {
    static struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    assert_int_equal(settle(from, &spec, &faults), DD_OK);
    cJSON *patch = cJSON_Parse(changes);
    cJSON *json = dd_spec_to_json(&spec);
    assert_true(dd_spec_change(json, patch));
    cJSON_Delete(patch);
    dd_faults_release(&faults);
    return json;
}

static const struct {
    const char *from, *changes, *field, *expected; /* field of the changed JSON; NULL: gone */
} cases[] = {
    {"{" MAP "}", "{}", "layer_map", "[4]"},
    {"{" MAP "}", "{\"alpha\":1}", "layer_map", "[4]"},
    {"{" MAP "}", "{\"layers\":2}", "layer_map", NULL},
    {"{" MAP "}", "{\"init\":\"random\"}", "layer_map", NULL},
    {"{" MAP "}", "{\"preset\":\"tiny\"}", "layer_map", NULL},
    {"{" BOTH ",\"T\":7}", "{\"preset\":\"note\"}", "T", NULL},
    {"{" BOTH ",\"optimizer\":{\"type\":\"adamw\",\"lr\":0.5}}", "{\"optimizer\":\"sgd\"}", "optimizer", "\"sgd\""},
    {"{" BOTH "}", "{\"optimizer\":{\"type\":\"sgd\"}}", "optimizer", "{\"type\":\"sgd\"}"},
    {"{" BOTH ",\"augment\":2,\"augment_mask\":0.1}", "{\"augment\":0}", "augment_mask", NULL},
    {"{" BOTH ",\"augment\":2,\"augment_mask\":0.1}", "{\"augment\":3}", "augment_mask", "0.1"},
    {"{" BOTH ",\"layers\":1}", "{\"hidden_weight\":1}", "whole_words", NULL},
    {"{" BOTH ",\"layers\":1}", "{\"hidden_weight\":0}", "whole_words", "4096"},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{}", "selection", "\"one_se\""},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"metric\":\"accuracy\"}", "selection", "\"one_se\""},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"metric\":\"macro_f1\"}", "selection", NULL},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"metric\":\"dev_loss\"}", "selection", NULL},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"unlabelled\":false}", "augment_unlabelled", NULL},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"augment\":0}", "augment_unlabelled", NULL},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"metric\":null}", "selection", NULL},
    {"{" BOTH ",\"layers\":1,\"unlabelled\":true}", "{\"unlabelled\":null}", "augment_unlabelled", NULL},
    {"{" BOTH ",\"optimizer\":\"sgd\"}", "{\"optimizer\":{\"type\":null}}", "optimizer", "{}"},
    {"{" BOTH ",\"optimizer\":\"sgd\"}", "{\"optimizer\":null}", "optimizer", NULL},
    {"{" BOTH ",\"augment\":2,\"augment_mask\":0.1}", "{\"augment\":null}", "augment_mask", NULL},
    {"{" BOTH ",\"teachers\":[\"u\"],\"teacher_mean\":\"logits\"}", "{\"teachers\":null}", "teacher_mean", NULL},
    {"{" BOTH ",\"teachers\":[\"u\"],\"teacher_mean\":\"logits\"}", "{\"teachers\":[]}", "teacher_mean", NULL},
};

/* And what is left is a spec: it parses and resolves. */
static void test_changes(void **state) {
    (void)state;
    static struct dd_spec spec;
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        cJSON *json = changed(cases[i].from, cases[i].changes);
        const cJSON *field = cJSON_GetObjectItemCaseSensitive(json, cases[i].field);
        cJSON *expected = cases[i].expected != NULL ? cJSON_Parse(cases[i].expected) : NULL;
        if (expected == NULL ? field != NULL : !cJSON_Compare(field, expected, true))
            fail_msg("%s of %s changed by %s", cases[i].field, cases[i].from, cases[i].changes);
        struct dd_faults faults;
        dd_faults_init(&faults);
        if (dd_spec_parse(json, "", &spec, &faults, NULL) != DD_OK ||
            dd_spec_resolve(&spec, &teacher, &faults, NULL) != DD_OK)
            fail_msg("%s changed by %s: %s %s", cases[i].from, cases[i].changes, faults.items[0].pointer,
                     faults.items[0].detail);
        dd_faults_release(&faults);
        cJSON_Delete(expected);
        cJSON_Delete(json);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_changes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
