/* The spec: every kind of fault by table, and the defaults. */
#include <limits.h>

#include "spec_fixture.h"

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
    {"{" F "\"metric\":\"teacher_agreement\"}", "/metric", "there is no teacher"},
    {"{" D "\"selection\":\"one_se\"}", "/selection", "needs metric to be"},
    {"{" F "\"selection\":\"one_se\",\"metric\":\"dev_loss\"}", "/selection", "shares of the dev rows"},
    {"{" D "\"whole_words\":65537}", "/whole_words", "must be between 0 and 65536, got 65537"},
    {"{" F "\"whole_words\":1}", "/whole_words", "applies only when task is \"distill\""},
    {"{" D "\"whole_words\":1,\"hidden_weight\":1}", "/whole_words", "must be 0 beside hidden_weight"},
    {"{" D "\"whole_words\":1,\"attention_weight\":1}", "/whole_words", "must be 0 beside hidden_weight"},
    {"{" D "\"whole_words\":1,\"relation_weight\":1}", "/whole_words", "which compare student and teacher token by"},
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
    {"{" D "\"layers\":1,\"alpha\":0,\"augment_ngram\":0}", "/augment_ngram", "and by default it is 0 here"},
    {"{" D "\"augment\":2,\"augment_unlabelled\":true}", "/augment_unlabelled", "needs unlabelled to be true"},
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

/* Unlabelled rows and a single layer bring copies and fewer passes with them, unless the spec says otherwise, begins at
 * random or does not listen to the teacher. */
static void test_defaults_of_signal(void **state) {
    (void)state;
    static const struct {
        const char *fields;
        int augment, epochs;
        double replace, cls;
    } cases[] = {{"\"unlabelled\":true", 2, 8, 0.3, 1},
                 {"\"unlabelled\":false", 0, 20, NAN, 0},
                 {"\"unlabelled\":true,\"augment\":0", 0, 8, NAN, 1},
                 {"\"unlabelled\":true,\"augment\":1,\"epochs\":5", 1, 5, 0, 1},
                 {"\"unlabelled\":true,\"alpha\":0", 0, 8, NAN, 0},
                 {"\"augment\":1", 1, 8, 0, 0},
                 {"\"layers\":1", 4, 8, 0.3, 1},
                 {"\"layers\":2", 0, 20, NAN, 0},
                 {"\"layers\":1,\"unlabelled\":true", 8, 4, 0.3, 1},
                 {"\"layers\":1,\"unlabelled\":true,\"augment\":2", 2, 8, 0, 1},
                 {"\"layers\":1,\"unlabelled\":true,\"augment\":0", 0, 8, NAN, 1},
                 {"\"layers\":1,\"augment_replace\":0.5", 4, 8, 0.5, 1},
                 {"\"unlabelled\":true,\"augment_ngram\":0", 2, 8, 0.3, 1},
                 {"\"layers\":1,\"augment\":0", 0, 20, NAN, 1},
                 {"\"layers\":1,\"augment\":0,\"cls_weight\":0", 0, 20, NAN, 0},
                 {"\"layers\":1,\"alpha\":0", 0, 20, NAN, 0},
                 {"\"layers\":1,\"alpha\":0,\"alpha_end\":0.5", 4, 8, 0.3, 1},
                 {"\"layers\":1,\"init\":\"random\"", 0, 60, NAN, 0},
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
        bool all = spec.augment > 0 && spec.layers == 1 && spec.unlabelled == DD_FLAG_YES;
        assert_int_equal(spec.augment_unlabelled, all ? DD_FLAG_YES : spec.augment > 0 ? DD_FLAG_NO : DD_FLAG_UNSET);
        assert_true(spec.cls_weight == cases[i].cls);
        bool eight = spec.augment == 8;
        assert_true(strstr(body, "alpha") != NULL || spec.alpha == (eight ? 0.95 : 0.2));
        assert_int_equal(spec.metric, eight ? DD_METRIC_TEACHER_AGREEMENT : DD_METRIC_MACRO_F1);
        assert_int_equal(spec.selection, eight ? DD_SELECTION_ONE_SE : DD_SELECTION_BEST);
    }
    struct dd_spec spec; /* what is given stays */
    assert_int_equal(settle("{" D "\"layers\":1,\"unlabelled\":true,\"alpha\":0.3}", &spec, &faults), DD_OK);
    assert_true(spec.augment == 8 && spec.alpha == 0.3);
    assert_int_equal(settle("{" D "\"layers\":1,\"unlabelled\":true,\"metric\":\"dev_loss\"}", &spec, &faults), DD_OK);
    assert_int_equal(spec.selection, DD_SELECTION_BEST);
    assert_int_equal(settle("{" F "\"metric\":\"accuracy\",\"selection\":\"one_se\"}", &spec, &faults), DD_OK);
    assert_int_equal(spec.selection, DD_SELECTION_ONE_SE);
    dd_faults_release(&faults);
}

/* Words of its own for a student of one layer that is the teacher's and listens to it, unless something is matched
 * token by token. */
static void test_default_of_whole_words(void **state) {
    (void)state;
    static const struct {
        const char *fields;
        int words;
    } cases[] = {{"\"layers\":1", 4096},
                 {"\"layers\":1,\"unlabelled\":true", 4096},
                 {"\"layers\":1,\"augment\":0,\"cls_weight\":0", 4096},
                 {"\"layers\":1,\"whole_words\":0", 0},
                 {"\"layers\":1,\"whole_words\":7", 7},
                 {"\"layers\":2", 0},
                 {"\"layers\":2,\"whole_words\":7", 7},
                 {"\"layers\":1,\"init\":\"random\"", 0},
                 {"\"layers\":1,\"alpha\":0", 0},
                 {"\"layers\":1,\"hidden_weight\":1", 0},
                 {"\"layers\":1,\"attention_weight\":1", 0},
                 {"\"layers\":1,\"relation_weight\":1", 0}};
    struct dd_faults faults;
    dd_faults_init(&faults);
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        char body[256];
        struct dd_spec spec;
        snprintf(body, sizeof body, "{" D "%s}", cases[i].fields);
        assert_int_equal(settle(body, &spec, &faults), DD_OK);
        assert_int_equal(spec.whole_words, cases[i].words);
    }
    dd_faults_release(&faults);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_fault_names_its_field),
        cmocka_unit_test(test_all_faults_at_once),
        cmocka_unit_test(test_long_texts_are_counted_in_characters),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_augment_and_its_rates),
        cmocka_unit_test(test_defaults_of_signal),
        cmocka_unit_test(test_default_of_whole_words),
        cmocka_unit_test(test_near_misses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
