/* JSON bodies: the strict parser, every route's table, and the experiment's spec.  What the spec's parser accepts and
 * resolves must be accepted again in the form that GET answers, and mean the same. */
#include "api/internal.h"
#include "fuzz/fuzz.h"
#include "spec/spec.h"

static void try_spec(const cJSON *json) {
    struct dd_error err;
    struct dd_faults faults;
    static struct dd_spec spec, again;
    static const struct dd_spec_teacher teacher = {.layers = 12,
                                                   .heads = 12,
                                                   .hidden_size = 768,
                                                   .intermediate_size = 3072,
                                                   .max_position_embeddings = 512,
                                                   .hidden_act = "gelu"};
    dd_faults_init(&faults);
    enum dd_status status = dd_spec_parse(json, "", &spec, &faults, &err);
    if (status == DD_OK) {
        status = dd_spec_resolve(&spec, &teacher, &faults, &err);
    }
    fuzz_check_error(status, &err);
    FUZZ_CHECK((status == DD_INVALID) == (faults.total > 0));
    dd_faults_release(&faults);
    if (status != DD_OK) {
        return;
    }
    cJSON *resolved = dd_spec_to_json(&spec);
    FUZZ_CHECK(resolved != NULL);
    dd_faults_init(&faults);
    FUZZ_CHECK(dd_spec_parse(resolved, "", &again, &faults, &err) == DD_OK);
    uint8_t first[DD_SHA256_BYTES], second[DD_SHA256_BYTES];
    FUZZ_CHECK(dd_spec_resolve(&again, &teacher, &faults, &err) == DD_OK);
    dd_spec_hash(&spec, first);
    dd_spec_hash(&again, second);
    FUZZ_CHECK(memcmp(first, second, sizeof first) == 0);
    dd_faults_release(&faults);
    cJSON_Delete(resolved);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    struct dd_error err;
    cJSON *json = NULL;
    char *text = fuzz_text(bytes, count);
    enum dd_status status = dd_strict_json_parse(text, count, &json, &err);
    fuzz_check_error(status, &err);
    if (status == DD_OK) {
        if (cJSON_IsObject(json)) {
            size_t n_routes;
            const struct dd_route *routes = dd_routes(&n_routes);
            for (size_t i = 0; i < n_routes; i++) {
                struct dd_faults faults;
                dd_faults_init(&faults);
                if (routes[i].body != NULL) {
                    dd_body_check(routes[i].body, json, &faults);
                }
                dd_faults_release(&faults);
            }
            try_spec(json);
        }
        for (int pretty = 0; pretty < 2; pretty++) { /* what is printed reads as the same */
            char *printed = dd_json_print(json, pretty == 1);
            FUZZ_CHECK(printed != NULL);
            cJSON *again = NULL;
            FUZZ_CHECK(dd_strict_json_parse(printed, strlen(printed), &again, &err) == DD_OK);
            FUZZ_CHECK(cJSON_Compare(json, again, true));
            cJSON_Delete(again);
            free(printed);
        }
        cJSON_Delete(json);
    }
    free(text);
    return 0;
}
