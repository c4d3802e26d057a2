/* Presets: each a spec by itself, which gives way to what is given. */
#include "spec_fixture.h"

/* Every preset is a spec by itself, names no unknown field, and loses to what is given. */
static void test_presets(void **state) {
    (void)state;
    for (size_t i = 0; i < dd_presets_count; i++) {
        cJSON *fields = dd_preset_fields(dd_presets[i].name), *field;
        assert_true(cJSON_IsObject(fields));
        assert_true(strlen(dd_presets[i].why) > 10);
        cJSON *body = cJSON_CreateObject();
        cJSON_AddStringToObject(body, "dataset", "d");
        cJSON_AddStringToObject(body, "teacher", "t");
        cJSON_AddStringToObject(body, "preset", dd_presets[i].name);
        struct dd_faults faults;
        dd_faults_init(&faults);
        static struct dd_spec spec, again;
        assert_int_equal(dd_spec_parse(body, "", &spec, &faults, NULL), DD_OK);
        assert_int_equal(dd_spec_resolve(&spec, &teacher, &faults, NULL), DD_OK);
        cJSON *resolved = dd_spec_to_json(&spec);
        assert_null(cJSON_GetObjectItemCaseSensitive(resolved, "preset"));
        cJSON_ArrayForEach(field, fields) {
            const cJSON *inner, *got = cJSON_GetObjectItemCaseSensitive(resolved, field->string);
            if (!cJSON_IsObject(field)) {
                assert_true(cJSON_Compare(field, got, true));
                continue;
            }
            cJSON_ArrayForEach(inner, field) {
                assert_true(cJSON_Compare(inner, cJSON_GetObjectItemCaseSensitive(got, inner->string), true));
            }
        }
        /* the resolved JSON is the same run, without the preset */
        uint8_t hash[2][DD_SHA256_BYTES];
        assert_int_equal(dd_spec_parse(resolved, "", &again, &faults, NULL), DD_OK);
        assert_int_equal(dd_spec_resolve(&again, &teacher, &faults, NULL), DD_OK);
        dd_spec_hash(&spec, hash[0]);
        dd_spec_hash(&again, hash[1]);
        assert_memory_equal(hash[0], hash[1], sizeof hash[0]);
        assert_int_equal(faults.total, 0);
        dd_faults_release(&faults);
        cJSON_Delete(resolved);
        cJSON_Delete(body);
        cJSON_Delete(fields);
    }
    assert_null(dd_preset_fields("none"));
}

static cJSON *resolved_of(const char *text) {
    static struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    cJSON *body = cJSON_Parse(text);
    assert_int_equal(dd_spec_parse(body, "", &spec, &faults, NULL), DD_OK);
    assert_int_equal(dd_spec_resolve(&spec, &teacher, &faults, NULL), DD_OK);
    cJSON_Delete(body);
    dd_faults_release(&faults);
    return dd_spec_to_json(&spec);
}

static double number_at(const cJSON *json, const char *outer, const char *name) {
    return cJSON_GetNumberValue(
        cJSON_GetObjectItemCaseSensitive(outer != NULL ? cJSON_GetObjectItemCaseSensitive(json, outer) : json, name));
}

static void test_a_preset_gives_way(void **state) {
    (void)state;
    cJSON *json = resolved_of("{\"dataset\":\"d\",\"teacher\":\"t\",\"preset\":\"note\",\"alpha\":0.7,"
                              "\"optimizer\":{\"lr\":0.01}}");
    assert_true(number_at(json, NULL, "alpha") == 0.7);
    assert_true(number_at(json, NULL, "T") == 4);
    assert_true(number_at(json, "optimizer", "lr") == 0.01);
    assert_true(number_at(json, "optimizer", "max_grad_norm") == 0);
    cJSON_Delete(json);
    /* another optimizer takes nothing of the preset's; what it does not have is no fault */
    json = resolved_of("{\"dataset\":\"d\",\"teacher\":\"t\",\"preset\":\"note\",\"optimizer\":\"adamw\"}");
    assert_true(number_at(json, "optimizer", "lr") == 3e-4);
    assert_true(number_at(json, "optimizer", "max_grad_norm") == 1);
    assert_true(number_at(json, NULL, "alpha") == 0.2);
    cJSON_Delete(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_a_preset_gives_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
