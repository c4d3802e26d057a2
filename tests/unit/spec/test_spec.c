/* The spec: every kind of fault by table, defaults, the round trip of random specs, hash and schema. */
#include <limits.h>
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
static enum dd_status settle(const char *text, struct dd_spec *spec, struct dd_faults *faults) {
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

#define D "\"dataset\":\"milk\",\"teacher\":\"t\","
#define F "\"task\":\"finetune\",\"dataset\":\"milk\","
static const struct {
    const char *body, *pointer, *detail;
} faulty[] = {
    {"[]", "", "must be an object, got an array"},
    {"{\"teacher\":\"t\"}", "/dataset", "is required"},
    {"{\"dataset\":\"d\"}", "/teacher", "is required"},
    {"{\"dataset\":\"\",\"teacher\":\"t\"}", "/dataset", "must be a name of 1 to 64"},
    {"{\"dataset\":\"Milk\",\"teacher\":\"t\"}", "/dataset", "must be a name of 1 to 64"},
    {"{\"dataset\":\"../x\",\"teacher\":\"t\"}", "/dataset", "must be a name of 1 to 64"},
    {"{\"dataset\":7,\"teacher\":\"t\"}", "/dataset", "must be a name (a string), got 7"},
    {"{" D "\"alpha\":1.7}", "/alpha", "must be between 0 and 1, got 1.7"},
    {"{" D "\"alpha\":-0.1}", "/alpha", "must be between 0 and 1, got -0.1"},
    {"{" D "\"alpha\":\"0.2\"}", "/alpha", "must be a number, got a string"},
    {"{" D "\"alpha\":null}", "/alpha", "must be a number, got null"},
    {"{" D "\"alpha\":1e999}", "/alpha", "must be between 0 and 1, got inf"},
    {"{" D "\"T\":0}", "/T", "must be between 0.01 and 1000, got 0"},
    {"{" D "\"epochs\":1.5}", "/epochs", "must be a whole number, got 1.5"},
    {"{" D "\"epochs\":0}", "/epochs", "must be between 1 and 10000, got 0"},
    {"{" D "\"epochs\":true}", "/epochs", "must be a whole number, got true"},
    {"{" D "\"seed\":9007199254740992}", "/seed", "must be between 0 and 9007199254740991, got 9007199254740992"},
    {"{" D "\"alhpa\":0.5}", "/alhpa", "is not a field; did you mean \"alpha\"?"},
    {"{" D "\"layer\":3}", "/layer", "did you mean \"layers\"?"},
    {"{" D "\"zzzzzzzzzzzz\":3}", "/zzzzzzzzzzzz", "is not a field"},
    {"{" D "\"a/b~c\":3}", "/a~1b~0c", "is not a field"},
    {"{" D "\"lr\":0.1}", "/lr", "it belongs inside \"optimizer\""},
    {"{" D "\"optimizer\":{\"alpha\":0.1}}", "/optimizer/alpha", "it belongs beside \"optimizer\""},
    {"{" D "\"alpha\":0.1,\"alpha\":0.2}", "/alpha", "is given more than once"},
    {"{" D "\"optimizer\":\"adam\"}", "/optimizer", "must be \"adamw\" or \"sgd\", got \"adam\""},
    {"{" D "\"optimizer\":3}", "/optimizer", "must be \"adamw\", \"sgd\" or an object, got 3"},
    {"{" D "\"optimizer\":{\"type\":\"lion\"}}", "/optimizer/type", "must be \"adamw\" or \"sgd\", got \"lion\""},
    {"{" D "\"optimizer\":{\"lr\":-1}}", "/optimizer/lr", "must be between 0 and 100, got -1"},
    {"{" D "\"optimizer\":{\"type\":\"sgd\",\"beta1\":0.5}}", "/optimizer/beta1",
     "does not apply to optimizer \"sgd\""},
    {"{" D "\"optimizer\":{\"momentum\":0.5}}", "/optimizer/momentum", "does not apply to optimizer \"adamw\""},
    {"{" D "\"optimizer\":{\"beta2\":1}}", "/optimizer/beta2", "must be between 0 and 0.999999, got 1"},
    {"{" D "\"tags\":\"a\"}", "/tags", "must be an array of strings, got a string"},
    {"{" D "\"tags\":[\"a\",7]}", "/tags/1", "must be a string, got 7"},
    {"{" D "\"tags\":[\"a\",\"a\"]}", "/tags/1", "is repeated"},
    {"{" D "\"tags\":[\"\"]}", "/tags/0", "must have 1 to 63 characters, has 0"},
    {"{" D "\"name\":\"a\\nb\"}", "/name", "must be one line without control characters"},
    {"{" D "\"name\":\"\xff\"}", "/name", "must be valid UTF-8"},
    {"{" D "\"name\":\"\xed\xa0\x80\"}", "/name", "must be valid UTF-8"},
    {"{" D "\"name\":\"\xc0\x80\"}", "/name", "must be valid UTF-8"},
    {"{" D "\"task\":\"destil\"}", "/task", "must be \"distill\" or \"finetune\", got \"destil\""},
    {"{" D "\"model\":\"m\"}", "/model", "applies only when task is \"finetune\""},
    {"{" D "\"vocab_size\":100}", "/vocab_size", "applies only when task is \"finetune\" with neither model nor"},
    {"{" F "\"T\":4}", "/T", "applies only when task is \"distill\""},
    {"{" F "\"teacher\":\"t\"}", "/teacher", "applies only when task is \"distill\""},
    {"{" F "\"model\":\"m\",\"vocabulary\":\"v\"}", "/vocabulary", "applies only when task is \"finetune\" without"},
    {"{" F "\"model\":\"m\",\"layers\":3}", "/layers", "must be 12, the starting model's"},
    {"{" F "\"lower_case\":\"yes\"}", "/lower_case", "must be true or false, got a string"},
    {"{" F "\"max_length\":600}", "/max_length", "must be at most 512, the model's positions; got 600"},
    {"{" D "\"init\":\"No Name\"}", "/init", "must be \"random\", \"teacher\" or the name of a model"},
    {"{" D "\"init\":1}", "/init", "or the name of a model, got 1"},
    {"{" D "\"init\":\"random\",\"layer_map\":[0]}", "/layer_map", "applies only when init is \"teacher\""},
    {"{" D "\"init\":\"teacher\",\"layer_map\":[0]}", "/layer_map", "an entry for each of the 3 layers, has 1"},
    {"{" D "\"init\":\"teacher\",\"layer_map\":[0,1,12]}", "/layer_map", "entry 2 must be between 0 and 11"},
    {"{" D "\"init\":\"teacher\",\"layer_map\":[0,1,96]}", "/layer_map/2", "must be between 0 and 95, got 96"},
    {"{" D "\"init\":\"teacher\",\"layer_map\":[]}", "/layer_map", "for each student layer, or be left out"},
    {"{" D "\"init\":\"teacher\",\"hidden_size\":384}", "/hidden_size", "must be 768, the teacher's"},
    {"{" D "\"init\":\"teacher\",\"layers\":13}", "/layers", "must be at most the teacher's 12"},
    {"{" D "\"layers\":13,\"hidden_weight\":1}", "/layers", "at most the teacher's 12 when inner states are matched"},
    {"{" D "\"cls_weight\":1,\"layer_map\":[0,1,12]}", "/layer_map", "entry 2 must be between 0 and 11"},
    {"{" D "\"init\":\"random\",\"hidden_weight\":0,\"layer_map\":[0,1,2]}", "/layer_map",
     "or inner states are matched"},
    {"{" D "\"hidden_weight\":-1}", "/hidden_weight", "must be between 0 and 1000, got -1"},
    {"{" F "\"cls_weight\":1}", "/cls_weight", "applies only when task is \"distill\""},
    {"{" D "\"layers\":13,\"attention_weight\":1}", "/layers",
     "at most the teacher's 12 when inner states are matched"},
    {"{" D "\"relation_weight\":1001}", "/relation_weight", "must be between 0 and 1000, got 1001"},
    {"{" F "\"attention_weight\":1}", "/attention_weight", "applies only when task is \"distill\""},
    {"{" D "\"relation_heads\":4}", "/relation_heads", "applies only when relation_weight is above 0"},
    {"{" D "\"relation_weight\":1,\"relation_heads\":5}", "/relation_heads",
     "must divide hidden_size 768 and the teacher's 768; got 5"},
    {"{" F "\"folds\":1}", "/folds", "must be 0 or at least 2, got 1"},
    {"{" F "\"folds\":10}", "/folds", "must be between 0 and 9, got 10"},
    {"{" F "\"folds\":3,\"fold\":3}", "/fold", "must be below folds, 3, since it counts from 0; got 3"},
    {"{" F "\"fold\":1}", "/fold", "applies only when folds is at least 2"},
    {"{" D "\"folds\":3}", "/folds", "applies only when task is \"finetune\""},
    {"{" D "\"teachers\":[\"a\"],\"teacher_mean\":\"out_of_fold\",\"cls_weight\":1}", "/teacher_mean",
     "cannot be \"out_of_fold\" when inner states are matched"},
    {"{" D "\"heads\":5}", "/heads", "768 is not divisible by 5; try 4 or 6"},
    {"{" D "\"unlabelled\":1}", "/unlabelled", "must be true or false, got 1"},
    {"{" F "\"unlabelled\":true}", "/unlabelled", "applies only when task is \"distill\""},
    {"{" D "\"augment\":65}", "/augment", "must be between 0 and 64, got 65"},
    {"{" D "\"augment_mask\":0.1}", "/augment_mask", "applies only when augment is at least 1"},
    {"{" D "\"augment\":2,\"augment_splice\":1.5}", "/augment_splice", "must be between 0 and 1, got 1.5"},
    {"{" F "\"augment_ngram\":0.1}", "/augment_ngram", "applies only when task is \"distill\""},
    {"{" D "\"teachers\":\"a\"}", "/teachers", "must be an array of names, got a string"},
    {"{" D "\"teachers\":[\"a\",\"A b\"]}", "/teachers/1", "must be a name of 1 to 64"},
    {"{" D "\"teachers\":[\"a\",\"a\"]}", "/teachers/1", "is repeated"},
    {"{" D "\"teachers\":[\"a\",\"t\"]}", "/teachers/1", "is the teacher already"},
    {"{" D "\"teachers\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]}", "/teachers",
     "must have at most 8 names"},
    {"{" D "\"teacher_mean\":\"logits\"}", "/teacher_mean", "applies only when teachers are given"},
    {"{" F "\"teachers\":[\"a\"]}", "/teachers", "applies only when task is \"distill\""},
    {"{" D "\"optimizer\":{\"nesterov\":true}}", "/optimizer/nesterov", "does not apply to optimizer \"adamw\""},
    {"{" D "\"optimizer\":{\"type\":\"sgd\",\"nesterov\":1}}", "/optimizer/nesterov", "must be true or false"},
    {"{" D "\"optimizer\":{\"type\":\"sgd\",\"momentum\":0,\"nesterov\":true}}", "/optimizer/nesterov",
     "needs a momentum above 0"},
    {"{" D "\"hidden_act\":\"swish\"}", "/hidden_act", "must be \"gelu\", \"gelu_new\" or \"relu\", got \"swish\""},
};

static void test_every_fault_names_its_field(void **state) {
    (void)state;
    for (size_t i = 0; i < DD_ARRAY_LEN(faulty); i++) {
        struct dd_spec spec;
        struct dd_faults faults;
        dd_faults_init(&faults);
        enum dd_status status = settle(faulty[i].body, &spec, &faults);
        bool found = false;
        for (size_t k = 0; k < faults.count; k++)
            found |= strcmp(faults.items[k].pointer, faulty[i].pointer) == 0 &&
                     strstr(faults.items[k].detail, faulty[i].detail) != NULL;
        if (status != DD_INVALID || !found)
            fail_msg("%s: no fault %s: %s; first is %s: %s", faulty[i].body, faulty[i].pointer, faulty[i].detail,
                     faults.count > 0 ? faults.items[0].pointer : "none",
                     faults.count > 0 ? faults.items[0].detail : "");
        dd_faults_release(&faults);
    }
}

static void test_all_faults_at_once(void **state) {
    (void)state;
    struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    assert_int_equal(settle("{\"alpha\":2,\"T\":-1,\"epochs\":\"x\",\"tags\":[1,2],\"bogus\":1}", &spec, &faults),
                     DD_INVALID);
    assert_int_equal(faults.total, 8); /* six values, dataset and teacher */
    dd_faults_release(&faults);
}

static void test_long_texts_are_counted_in_characters(void **state) {
    (void)state;
    char text[4096];
    for (int extra = 0; extra < 2; extra++) {
        size_t used = (size_t)snprintf(text, sizeof text, "{" D "\"name\":\"");
        for (int i = 0; i < 255 + extra; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "𝄞");
        snprintf(text + used, sizeof text - used, "\"}");
        struct dd_spec spec;
        struct dd_faults faults;
        dd_faults_init(&faults);
        assert_int_equal(settle(text, &spec, &faults), extra ? DD_INVALID : DD_OK);
        dd_faults_release(&faults);
    }
}

static void test_defaults(void **state) {
    (void)state;
    struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    assert_int_equal(settle("{" D "\"name\":\"x\"}", &spec, &faults), DD_OK);
    assert_int_equal(spec.layers, 3);
    assert_int_equal(spec.heads, 12);
    assert_int_equal(spec.hidden_size, 768);
    assert_int_equal(spec.intermediate_size, 3072);
    assert_int_equal(spec.epochs, 20);
    assert_int_equal(spec.init, DD_INIT_TEACHER);
    assert_string_equal(spec.hidden_act, "gelu_new");
    assert_true(spec.alpha == 0.2 && spec.temperature == 4);
    assert_true(spec.optimizer.lr == 1e-4 && spec.optimizer.warmup == 0.1 && spec.optimizer.weight_decay == 0.01);
    assert_true(spec.attention_dropout == 0.2 && spec.classifier_dropout == 0.1);
    assert_int_equal(spec.seed, 1);

    assert_int_equal(settle("{" D "\"optimizer\":\"sgd\"}", &spec, &faults), DD_OK);
    assert_true(spec.optimizer.lr == 0.05 && spec.optimizer.momentum == 0.9 && spec.optimizer.weight_decay == 0);
    assert_true(spec.optimizer.warmup == 0.1);
    assert_int_equal(spec.optimizer.schedule, DD_SCHEDULE_LINEAR);

    /* init: the teacher's weights where they fit */
    static const char *const unlike[] = {"\"heads\":3", "\"hidden_size\":96", "\"intermediate_size\":99",
                                         "\"init\":\"random\"", "\"layers\":13"};
    for (size_t i = 0; i < DD_ARRAY_LEN(unlike); i++) {
        char text[128];
        snprintf(text, sizeof text, "{" D "%s}", unlike[i]);
        assert_int_equal(settle(text, &spec, &faults), DD_OK);
        assert_int_equal(spec.init, DD_INIT_RANDOM);
        assert_int_equal(spec.epochs, 60);
        assert_true(spec.optimizer.lr == 3e-4);
    }
    assert_int_equal(settle("{" D "\"layer_map\":[0,1,2]}", &spec, &faults), DD_OK);
    assert_int_equal(spec.init, DD_INIT_TEACHER);

    assert_int_equal(settle("{" F "\"notes\":\"a\\nb\"}", &spec, &faults), DD_OK);
    assert_int_equal(spec.layers, 4);
    assert_int_equal(spec.hidden_size, 256);
    assert_int_equal(spec.heads, 4);
    assert_int_equal(spec.lower_case, DD_FLAG_YES);
    assert_int_equal(spec.vocab_size, 8000);

    assert_int_equal(settle("{" F "\"model\":\"bert\"}", &spec, &faults), DD_OK);
    assert_int_equal(spec.layers, 12);
    assert_true(spec.optimizer.lr == 5e-5);

    assert_int_equal(settle("{" D "\"hidden_size\":96}", &spec, &faults), DD_OK);
    assert_int_equal(spec.intermediate_size, 384);
    dd_faults_release(&faults);
}

/* Rates of copies that are not made say nothing: they are not shown, and a sweep over augment may begin at 0. */
static void test_augment_and_its_rates(void **state) {
    (void)state;
    struct dd_spec spec;
    struct dd_faults faults;
    dd_faults_init(&faults);
    assert_int_equal(settle("{" D "\"augment\":3,\"augment_ngram\":0}", &spec, &faults), DD_OK);
    assert_true(spec.augment_mask == 0.1 && spec.augment_ngram == 0 && spec.augment_splice == 0);
    assert_int_equal(spec.unlabelled, DD_FLAG_NO);
    assert_int_equal(settle("{" D "\"augment\":0,\"augment_mask\":0.5}", &spec, &faults), DD_OK);
    cJSON *json = dd_spec_to_json(&spec);
    assert_true(cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(json, "augment")));
    assert_null(cJSON_GetObjectItemCaseSensitive(json, "augment_mask"));
    cJSON_Delete(json);
    dd_faults_release(&faults);
}

/* Unlabelled rows bring copies with them and fewer passes, unless the spec says otherwise or begins at random. */
static void test_defaults_beside_unlabelled_rows(void **state) {
    (void)state;
    static const struct {
        const char *fields;
        int augment, epochs;
        double replace, cls;
    } cases[] = {{"\"unlabelled\":true", 2, 8, 0.3, 1},
                 {"\"unlabelled\":false", 0, 20, NAN, 0},
                 {"\"unlabelled\":true,\"augment\":0", 0, 8, NAN, 1},
                 {"\"unlabelled\":true,\"augment\":1,\"epochs\":5", 1, 5, 0, 1},
                 {"\"augment\":1", 1, 20, 0, 0},
                 {"\"unlabelled\":true,\"init\":\"random\"", 0, 60, NAN, 0},
                 {"\"unlabelled\":true,\"cls_weight\":0", 2, 8, 0.3, 0},
                 {"\"unlabelled\":true,\"teachers\":[\"b\"],\"teacher_mean\":\"out_of_fold\"", 2, 8, 0.3, 0}};
    struct dd_faults faults;
    dd_faults_init(&faults);
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        char body[256];
        struct dd_spec spec;
        snprintf(body, sizeof body, "{" D "%s}", cases[i].fields);
        assert_int_equal(settle(body, &spec, &faults), DD_OK);
        assert_int_equal(spec.augment, cases[i].augment);
        assert_int_equal(spec.epochs, cases[i].epochs);
        assert_true(isnan(cases[i].replace) ? isnan(spec.augment_replace) : spec.augment_replace == cases[i].replace);
        assert_true(spec.augment == 0 || spec.augment_mask == 0.1);
        assert_true(spec.cls_weight == cases[i].cls);
    }
    dd_faults_release(&faults);
}

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

static void test_near_misses(void **state) {
    (void)state;
    assert_int_equal(dd_edit_distance("alpha", "alhpa"), 1);
    assert_int_equal(dd_edit_distance("", "abc"), 3);
    assert_int_equal(dd_edit_distance("kitten", "sitting"), 3);
    int best = INT_MAX;
    assert_true(dd_near_miss("milk-techer", "milk-teacher", &best));
    assert_false(dd_near_miss("milk-techer", "grid-student", &best));
}

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
        cmocka_unit_test(test_every_fault_names_its_field),
        cmocka_unit_test(test_all_faults_at_once),
        cmocka_unit_test(test_long_texts_are_counted_in_characters),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_augment_and_its_rates),
        cmocka_unit_test(test_defaults_beside_unlabelled_rows),
        cmocka_unit_test(test_resolved_json_resolves_to_itself),
        cmocka_unit_test(test_numbers_survive_text),
        cmocka_unit_test(test_printed_as_cjson_does),
        cmocka_unit_test(test_seeds_survive_text),
        cmocka_unit_test(test_hash_sees_results_not_labels),
        cmocka_unit_test(test_hashes_of_the_first_release),
        cmocka_unit_test(test_schema_covers_the_table),
        cmocka_unit_test(test_near_misses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
