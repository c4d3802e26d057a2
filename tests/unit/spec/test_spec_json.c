/* The spec as JSON: the round trip of random specs and of numbers, hash and schema. */
#include "spec_fixture.h"

/* --- random specs ----------------------------------------------------------------------------------------------- */

static unsigned long long random_state = 20261123;
static unsigned random_below(unsigned bound) {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(random_state >> 33) % bound;
}

static cJSON *random_value(const struct dd_spec_field *field) {
    double share = random_below(1u << 20) / (double)(1u << 20);
    static const char *const names[] = {"milk", "a", "0.x-y_z", "exp-12"};
    cJSON *value;
    switch (field->kind) {
    case DD_KIND_LINE:
        return cJSON_CreateString(random_below(2) ? "牛奶 \"x\" \\ 𝄞" : "");
    case DD_KIND_TEXT:
        return cJSON_CreateString("a\nb\tc");
    case DD_KIND_NAME:
        return cJSON_CreateString(names[random_below(4)]);
    case DD_KIND_INT:
    case DD_KIND_SEED:
        return cJSON_CreateNumber(floor(field->min + share * (field->max - field->min)));
    case DD_KIND_NUMBER:
        return cJSON_CreateNumber(field->min + share * (field->max - field->min));
    case DD_KIND_CHOICE:
    case DD_KIND_WORD:
        return cJSON_CreateString(field->names[random_below(2)]);
    case DD_KIND_BOOL:
        return cJSON_CreateBool((int)random_below(2));
    case DD_KIND_INIT:
        return cJSON_CreateString(random_below(2) ? "teacher" : random_below(2) ? "random" : "milk");
    case DD_KIND_TAGS:
        value = cJSON_CreateArray();
        for (unsigned i = 0, n = random_below(4); i < n; i++)
            cJSON_AddItemToArray(value, cJSON_CreateString(names[i]));
        return value;
    case DD_KIND_TEACHERS:
        value = cJSON_CreateArray();
        for (unsigned i = 0, n = random_below(3); i < n; i++)
            cJSON_AddItemToArray(value, cJSON_CreateString(names[i + 1]));
        return value;
    case DD_KIND_LAYER_MAP:
        value = cJSON_CreateArray();
        for (unsigned i = 0; i < 3; i++)
            cJSON_AddItemToArray(value, cJSON_CreateNumber(random_below(12)));
        return value;
    default:
        return cJSON_CreateObject();
    }
}

static cJSON *random_body(void) {
    cJSON *body = cJSON_CreateObject(), *optimizer = NULL;
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const struct dd_spec_field *field = &dd_spec_fields[i];
        bool wanted = random_below(6) == 0 || strcmp(field->name, "dataset") == 0 || field->kind == DD_KIND_OPTIMIZER;
        if (!wanted)
            continue;
        cJSON *value = random_value(field);
        cJSON_AddItemToObject(field->in_optimizer ? optimizer : body, field->name, value);
        if (field->kind == DD_KIND_OPTIMIZER)
            optimizer = value;
    }
    return body;
}

static void test_resolved_json_resolves_to_itself(void **state) {
    (void)state;
    int passed = 0;
    for (int round = 0; round < 60000; round++) {
        cJSON *body = random_body();
        struct dd_spec *spec = calloc(2, sizeof *spec);
        struct dd_faults faults;
        dd_faults_init(&faults);
        char *text = cJSON_PrintUnformatted(body);
        if (settle(text, &spec[0], &faults) == DD_OK) {
            passed++;
            cJSON *resolved = dd_spec_to_json(&spec[0]);
            char *first = cJSON_PrintUnformatted(resolved);
            assert_int_equal(settle(first, &spec[1], &faults), DD_OK);
            cJSON *again = dd_spec_to_json(&spec[1]);
            char *second = cJSON_PrintUnformatted(again);
            assert_string_equal(first, second);
            uint8_t one[DD_SHA256_BYTES], two[DD_SHA256_BYTES];
            dd_spec_hash(&spec[0], one);
            dd_spec_hash(&spec[1], two);
            assert_memory_equal(one, two, sizeof one);
            cJSON_Delete(resolved);
            cJSON_Delete(again);
            free(first);
            free(second);
        }
        free(text);
        free(spec);
        dd_faults_release(&faults);
        cJSON_Delete(body);
    }
    assert_in_range(passed, 100, 60000); /* the generator must hit valid specs, or this shows nothing */
}

/* Through text and back, twice, as a stored spec travels that is cloned. */
static void test_numbers_survive_text(void **state) {
    (void)state;
    static const double edges[] = {0,
                                   1,
                                   999999999999999.0,
                                   1e15,
                                   1e15 + 1,
                                   4503599627370497.0,
                                   9007199254740990.0,
                                   9007199254740991.0,
                                   0.1 + 0.2,
                                   1.0 / 3,
                                   5e-5,
                                   1e-300,
                                   -1.5};
    for (int round = 0; round < 20000; round++) {
        double value;
        if (round < (int)(sizeof edges / sizeof edges[0]))
            value = edges[round];
        else if (round % 2 == 0)
            value =
                (double)(((uint64_t)random_below(1 << 27) << 26 | (uint64_t)random_below(1 << 26)) >> random_below(20));
        else
            value = (random_below(1 << 30) + 0.5) / (1 + random_below(1 << 30));
        cJSON *json = cJSON_CreateObject();
        cJSON_AddNumberToObject(json, "value", value);
        for (int times = 0; times < 2; times++) {
            char *text = dd_json_print(json, times == 1);
            assert_true(cJSON_IsNumber(json->child) && json->child->valuedouble == value &&
                        json->child->valuestring == NULL);
            cJSON_Delete(json);
            json = cJSON_Parse(text);
            const cJSON *number = cJSON_GetObjectItemCaseSensitive(json, "value");
            assert_true(cJSON_IsNumber(number));
            assert_true(number->valuedouble == value);
            if (value == (double)(uint64_t)value) /* digits, as a client without floating point reads it */
                assert_null(strpbrk(strchr(text, ':'), ".e"));
            free(text);
        }
        cJSON_Delete(json);
    }
    assert_null(dd_json_print(NULL, false));
}

/* The layout is cJSON's, and so is every text that is no number. */
static void test_printed_as_cjson_does(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{}",
        "[]",
        "null",
        "true",
        "\"\"",
        "[[],{},[{}],{\"\":[]}]",
        "{\"a\":1,\"b\":[1,2,{\"c\":null,\"d\":[false,true]}],\"e\":{\"f\":{\"g\":-7}}}",
        "[\"\\b\\f\\n\\r\\t\\\"\\\\/\\u0001\\u001f\\u007f\\u00e4\\ud83d\\ude00\"]",
        "{\"k\\n\\\"\":\"\\u000bx\"}",
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(texts); i++) {
        cJSON *json = cJSON_Parse(texts[i]);
        assert_non_null(json);
        for (int pretty = 0; pretty < 2; pretty++) {
            char *ours = dd_json_print(json, pretty == 1);
            char *theirs = pretty == 1 ? cJSON_Print(json) : cJSON_PrintUnformatted(json);
            assert_string_equal(ours, theirs);
            free(ours);
            free(theirs);
        }
        cJSON_Delete(json);
    }
}

static void test_seeds_survive_text(void **state) {
    (void)state;
    struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    for (uint64_t seed = (1ull << 53) - 40; seed < 1ull << 53; seed++) {
        char body[128];
        snprintf(body, sizeof body, "{\"dataset\":\"d\",\"teacher\":\"t\",\"seed\":%llu}", (unsigned long long)seed);
        assert_int_equal(settle(body, &spec, &faults), DD_OK);
        cJSON *json = dd_spec_to_json(&spec);
        char *text = dd_json_print(json, false);
        cJSON_Delete(json);
        assert_int_equal(settle(text, &spec, &faults), DD_OK);
        assert_true(spec.seed == seed);
        free(text);
    }
    dd_faults_release(&faults);
}

static void test_hash_sees_results_not_labels(void **state) {
    (void)state;
    static const char *const same[] = {
        "\"hidden_weight\":0",    "\"cls_weight\":0",      "\"teachers\":[]",
        "\"attention_weight\":0", "\"relation_weight\":0", "\"relation_weight\":0,\"relation_heads\":3",
        "\"unlabelled\":false",   "\"augment\":0",         "\"augment\":0,\"augment_mask\":0.3",
        "\"name\":\"a\"",         "\"notes\":\"b\"",       "\"tags\":[\"c\"]",
        "\"priority\":9",         "\"save_as\":\"d\"",     "\"alpha\":0.2",
        "\"init\":\"teacher\"",   "\"epochs\":20"};
    static const char *const other[] = {"\"alpha\":0.3",
                                        "\"seed\":2",
                                        "\"layers\":2",
                                        "\"init\":\"random\"",
                                        "\"init\":\"model\"",
                                        "\"optimizer\":\"sgd\"",
                                        "\"batch_size\":31",
                                        "\"hidden_dropout\":0",
                                        "\"optimizer\":{\"warmup\":0.2}",
                                        "\"optimizer\":{\"type\":\"sgd\",\"nesterov\":true}",
                                        "\"unlabelled\":true",
                                        "\"augment\":2",
                                        "\"hidden_weight\":0.5",
                                        "\"cls_weight\":1",
                                        "\"attention_weight\":1",
                                        "\"relation_weight\":1",
                                        "\"relation_weight\":1,\"relation_heads\":6",
                                        "\"cls_weight\":1,\"layer_map\":[0,1,2]",
                                        "\"teachers\":[\"a\"]"};
    struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    uint8_t base[DD_SHA256_BYTES], hash[DD_SHA256_BYTES];
    assert_int_equal(settle("{" D "\"T\":4}", &spec, &faults), DD_OK);
    dd_spec_hash(&spec, base);
    char text[256];
    for (size_t i = 0; i < DD_ARRAY_LEN(same) + DD_ARRAY_LEN(other); i++) {
        bool equal = i < DD_ARRAY_LEN(same);
        snprintf(text, sizeof text, "{" D "%s}", equal ? same[i] : other[i - DD_ARRAY_LEN(same)]);
        assert_int_equal(settle(text, &spec, &faults), DD_OK);
        dd_spec_hash(&spec, hash);
        assert_int_equal(memcmp(base, hash, sizeof hash) == 0, equal);
    }
    /* Lists of names that would read the same if they were cut or run together. */
    static const char *const lists[] = {"[\"a\",\"b\"]", "[\"b\",\"a\"]", "[\"ab\"]", "[\"a\",\"b\",\"c\"]"};
    uint8_t hashes[DD_ARRAY_LEN(lists)][DD_SHA256_BYTES];
    for (size_t i = 0; i < DD_ARRAY_LEN(lists); i++) {
        snprintf(text, sizeof text, "{" D "\"teachers\":%s}", lists[i]);
        assert_int_equal(settle(text, &spec, &faults), DD_OK);
        dd_spec_hash(&spec, hashes[i]);
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(hashes[i], hashes[k], sizeof hash);
    }
    dd_faults_release(&faults);
}

/* What the first release hashed for these, with all its fields given: checkpoints that it left must go on.  The hashes
 * never change; fields that came later are at their neutral values here. */
#define GOLDEN_SHAPE                                                                                                   \
    "\"layers\":3,\"heads\":12,\"hidden_size\":768,\"intermediate_size\":3072,\"hidden_dropout\":0.1,"                 \
    "\"attention_dropout\":0.2,\"classifier_dropout\":0.1,\"hidden_act\":\"gelu_new\",\"batch_size\":32,"              \
    "\"max_length\":128,\"seed\":1,\"precision\":\"fp32\","
#define GOLDEN_ADAMW                                                                                                   \
    "\"optimizer\":{\"type\":\"adamw\",\"lr\":0.0003,\"weight_decay\":0.01,\"eps\":1e-08,\"beta1\":0.9,\"beta2\":0."   \
    "999,"                                                                                                             \
    "\"warmup\":0.1,\"schedule\":\"linear\",\"max_grad_norm\":1},"
static const struct {
    const char *body, *sha256;
} golden_hashes[] = {
    {"{" D GOLDEN_SHAPE GOLDEN_ADAMW "\"init\":\"random\",\"T\":4,\"alpha\":0.2,\"epochs\":60}",
     "9f10d006cad1a749925654db3465c6db2a742f83af7508d34c7e5854b85d0582"},
    {"{" D GOLDEN_SHAPE "\"init\":\"teacher\",\"layer_map\":[0,5,11],\"T\":4,\"alpha\":0.2,\"epochs\":60,"
     "\"optimizer\":{\"type\":\"sgd\",\"lr\":0.05,\"weight_decay\":0,\"momentum\":0,\"warmup\":0,"
     "\"schedule\":\"constant\",\"max_grad_norm\":1}}",
     "bdcf3e2570095a6ba6012665b1b0669562b6925eef8d4a3f7a2677e0a593365b"},
    {"{" F GOLDEN_SHAPE GOLDEN_ADAMW "\"vocab_size\":8000,\"lower_case\":true,\"epochs\":10}",
     "9d7fc2c2bbfa5fdf6fcb60bc49aed473cb95a60015762e1bf39f5a46bf8ba9a0"},
};

static void test_hashes_of_the_first_release(void **state) {
    (void)state;
    for (size_t i = 0; i < DD_ARRAY_LEN(golden_hashes); i++) {
        struct dd_spec spec;
        struct dd_faults faults;
        uint8_t hash[DD_SHA256_BYTES];
        char hex[DD_SHA256_HEX_BYTES];
        dd_faults_init(&faults);
        cJSON *body = cJSON_Parse(golden_hashes[i].body);
        assert_int_equal(dd_spec_parse(body, "", &spec, &faults, NULL), DD_OK);
        cJSON_Delete(body);
        dd_spec_settle_stored(&spec);
        assert_int_equal(dd_spec_resolve(&spec, &teacher, &faults, NULL), DD_OK);
        dd_spec_hash(&spec, hash);
        dd_hex(hash, sizeof hash, hex);
        assert_string_equal(hex, golden_hashes[i].sha256);
        dd_faults_release(&faults);
    }
}

static void test_schema_covers_the_table(void **state) {
    (void)state;
    cJSON *schema = dd_spec_schema();
    assert_non_null(schema);
    const cJSON *properties = cJSON_GetObjectItemCaseSensitive(schema, "properties");
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItem(properties, "optimizer"), "oneOf");
    const cJSON *settings = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(choices, 1), "properties");
    for (size_t i = 0; i < dd_spec_fields_count; i++) {
        const cJSON *of = dd_spec_fields[i].in_optimizer ? settings : properties;
        const cJSON *field = cJSON_GetObjectItemCaseSensitive(of, dd_spec_fields[i].name);
        assert_non_null(field);
        assert_true(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(field, "description")));
    }
    cJSON_Delete(schema);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resolved_json_resolves_to_itself),
        cmocka_unit_test(test_numbers_survive_text),
        cmocka_unit_test(test_printed_as_cjson_does),
        cmocka_unit_test(test_seeds_survive_text),
        cmocka_unit_test(test_hash_sees_results_not_labels),
        cmocka_unit_test(test_hashes_of_the_first_release),
        cmocka_unit_test(test_schema_covers_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
