/* Operations on a real database without HTTP: compare, clone bodies, the resource, recovery's sweeping. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/daemon.h"

static struct dd_daemon test_daemon;
static char dir[] = "/tmp/distilld-test-service-XXXXXX";

static void open_storage(void) {
    char path[PATH_MAX];
    struct dd_error err = {0};
    assert_int_equal(dd_path_join(path, sizeof path, &err, test_daemon.data_dir, "distilld.db", NULL), DD_OK);
    assert_int_equal(dd_storage_open(path, &test_daemon.storage, &err), DD_OK);
}

static int set_up(void **state) {
    (void)state;
    struct dd_error err = {0};
    if (mkdtemp(dir) == NULL || dd_data_dir_open(&test_daemon, dir, NULL, &err) != DD_OK)
        return -1;
    open_storage();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    struct dd_error err = {0};
    dd_storage_close(test_daemon.storage);
    return dd_tree_remove(dir, &err) == DD_OK ? 0 : -1;
}

static int64_t insert(const char *spec, const char *name) {
    char text[1024], label[64], tags[] = "[\"a\"]", task[] = "distill", set[] = "milk", teacher[] = "t", none[] = "",
                                sgd[] = "sgd";
    snprintf(text, sizeof text, "%s", spec);
    snprintf(label, sizeof label, "%s", name);
    const struct dd_experiment row = {.name = label,
                                      .notes = none,
                                      .tags_json = tags,
                                      .spec_json = text,
                                      .task = task,
                                      .dataset = set,
                                      .teacher = teacher,
                                      .base_model = none,
                                      .optimizer = sgd,
                                      .layers = 1,
                                      .heads = 1,
                                      .hidden_size = 8,
                                      .temperature = 4,
                                      .alpha = 0.2,
                                      .lr = 0.05,
                                      .epochs = 3,
                                      .eta_seconds = NAN,
                                      .tokens_per_second = NAN,
                                      .elapsed_seconds = NAN};
    int64_t id = 0;
    struct dd_error err = {0};
    assert_int_equal(dd_storage_experiment_insert(test_daemon.storage, &row, &id, &err), DD_OK);
    return id;
}

static void put_epoch(int64_t id, int epoch, double f1) {
    struct dd_epoch_row row = {.epoch = epoch,
                               .train_loss = 1.0 / epoch,
                               .train_kl = NAN,
                               .train_ce = 0.5,
                               .accuracy = f1,
                               .macro_f1 = f1,
                               .teacher_agreement = NAN,
                               .recorded_ms = 1000,
                               .is_best = epoch == 2};
    int32_t labels[2] = {0, 1};
    float scores[2] = {0.5f, 0.75f};
    const struct dd_prediction_set set = {.n = 2, .label = labels, .score = scores};
    struct dd_error err = {0};
    assert_int_equal(dd_storage_epoch_put(test_daemon.storage, id, &row, &set, NULL, 0, NULL, &err), DD_OK);
}

static const cJSON *at(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    assert_non_null(item);
    return item;
}

static const cJSON *difference(const cJSON *answer, const char *field) {
    const cJSON *row;
    cJSON_ArrayForEach(row, at(answer, "differences")) {
        if (strcmp(at(row, "field")->valuestring, field) == 0)
            return at(row, "values");
    }
    return NULL;
}

static void test_compare(void **state) {
    (void)state;
    int64_t one = insert(
        "{\"T\":4,\"alpha\":0.2,\"layers\":1,\"optimizer\":{\"type\":\"sgd\",\"lr\":0.05},\"save_as\":\"x\"}", "one");
    int64_t two = insert(
        "{\"T\":8,\"alpha\":0.2,\"layers\":1,\"optimizer\":{\"type\":\"adamw\",\"lr\":0.05,\"eps\":1e-8}}", "two");
    put_epoch(one, 1, 0.25);
    put_epoch(one, 2, 0.75);
    char ids[64];
    snprintf(ids, sizeof ids, "%" PRId64 ",%" PRId64, one, two);
    const struct dd_api_param params[] = {{"ids", ids}};
    const struct dd_api_call call = {.params = params, .n_params = 1};
    struct dd_api_result result = {.fd = -1};
    struct dd_problem problem = {0};
    assert_int_equal(dd_compare_op(&test_daemon, &call, &result, &problem), DD_OK);
    assert_int_equal(cJSON_GetArraySize(at(result.json, "ids")), 2);
    assert_int_equal(cJSON_GetArrayItem(difference(result.json, "T"), 1)->valueint, 8);
    assert_string_equal(cJSON_GetArrayItem(difference(result.json, "optimizer.type"), 0)->valuestring, "sgd");
    assert_true(cJSON_IsNull(cJSON_GetArrayItem(difference(result.json, "optimizer.eps"), 0)));
    assert_null(difference(result.json, "alpha"));
    assert_null(difference(result.json, "optimizer.lr"));
    assert_null(difference(result.json, "save_as"));
    assert_int_equal(cJSON_GetArraySize(at(result.json, "differences")), 3);
    const cJSON *first = cJSON_GetArrayItem(at(result.json, "experiments"), 0);
    const cJSON *series = at(first, "series");
    assert_int_equal(cJSON_GetArraySize(at(series, "epoch")), 2);
    assert_true(cJSON_GetArrayItem(at(series, "macro_f1"), 1)->valuedouble == 0.75);
    assert_true(cJSON_IsNull(cJSON_GetArrayItem(at(series, "train_kl"), 0)));
    assert_int_equal(at(at(first, "best"), "epoch")->valueint, 2);
    cJSON_Delete(result.json);

    const struct dd_api_param some[] = {{"ids", ids}, {"fields", "macro_f1,accuracy"}, {"max_points", "4"}};
    const struct dd_api_call few = {.params = some, .n_params = 3};
    for (int epoch = 3; epoch <= 9; epoch++)
        put_epoch(one, epoch, 0.5);
    assert_int_equal(dd_compare_op(&test_daemon, &few, &result, &problem), DD_OK);
    first = cJSON_GetArrayItem(at(result.json, "experiments"), 0);
    assert_string_equal(at(at(first, "spec"), "save_as")->valuestring, "x"); /* the resource, not a part of it */
    assert_non_null(at(first, "allowed_actions"));
    series = at(first, "series");
    assert_int_equal(cJSON_GetArraySize(series), 3);
    assert_int_equal(cJSON_GetArraySize(at(series, "epoch")), 4);
    assert_int_equal(cJSON_GetArraySize(at(series, "accuracy")), 4);
    assert_true(cJSON_GetArrayItem(at(series, "macro_f1"), 1)->valuedouble == 0.75); /* the best stays */
    cJSON_Delete(result.json);

    const struct dd_api_param missing[] = {{"ids", "1,999999"}};
    const struct dd_api_call bad = {.params = missing, .n_params = 1};
    assert_int_equal(dd_compare_op(&test_daemon, &bad, &result, &problem), DD_NOT_FOUND);
}

static void test_clone_bodies(void **state) {
    (void)state;
    static const struct {
        const char *changes, *field, *expected; /* of the merged body; NULL: gone */
    } cases[] = {
        {"{}", "T", "4"},
        {"{}", "name", "\"n\""},
        {"{}", "save_as", NULL},
        {"{\"save_as\":\"y\"}", "save_as", "\"y\""},
        {"{\"T\":8}", "T", "8"},
        {"{\"T\":null}", "T", NULL},
        {"{\"optimizer\":{\"lr\":1}}", "optimizer", "{\"type\":\"adamw\",\"eps\":1,\"lr\":1}"},
        {"{\"optimizer\":{\"type\":\"sgd\"}}", "optimizer", "{\"type\":\"sgd\"}"},
        {"{\"optimizer\":\"sgd\"}", "optimizer", "\"sgd\""},
        {"{\"layers\":2}", "layer_map", NULL},
        {"{\"alpha\":1}", "layer_map", "[0]"},
        {"{\"tags\":[\"z\"]}", "tags", "[\"z\"]"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        char spec[] =
            "{\"T\":4,\"layers\":1,\"layer_map\":[0],\"save_as\":\"x\",\"optimizer\":{\"type\":\"adamw\",\"lr\":"
            "0.5,\"eps\":1}}";
        char name[] = "n", tags[] = "[\"a\"]";
        const struct dd_experiment e = {.spec_json = spec, .name = name, .tags_json = tags};
        cJSON *changes = cJSON_Parse(cases[i].changes), *body = dd_clone_body(&e, changes);
        const cJSON *field = cJSON_GetObjectItemCaseSensitive(body, cases[i].field);
        cJSON *expected = cases[i].expected != NULL ? cJSON_Parse(cases[i].expected) : NULL;
        if (expected == NULL ? field != NULL : !cJSON_Compare(field, expected, true))
            fail_msg("case %zu: %s of %s", i, cases[i].field, cases[i].changes);
        cJSON_Delete(expected);
        cJSON_Delete(body);
        cJSON_Delete(changes);
    }
}

static bool exists(const char *relative) {
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", test_daemon.data_dir, relative);
    return stat(path, &info) == 0;
}

static void make_dir(const char *relative) {
    char path[PATH_MAX];
    struct dd_error err = {0};
    snprintf(path, sizeof path, "%s/%s", test_daemon.data_dir, relative);
    assert_int_equal(dd_dir_make(path, &err), DD_OK);
}

static void test_recovery_removes_what_nobody_owns(void **state) {
    (void)state;
    int64_t id = insert("{}", "kept"), model_id;
    char run[64], inside[96], kept_dir[] = "models/m-1", name[] = "m", kind[] = "classifier", info[] = "{}";
    snprintf(run, sizeof run, "runs/%" PRId64, id);
    snprintf(inside, sizeof inside, "%s/best-1.tmp-abc", run);
    const struct dd_asset model = {.name = name, .dir = kept_dir, .owned = true, .info_json = info, .kind = kind};
    struct dd_error err = {0};
    assert_int_equal(dd_storage_asset_insert(test_daemon.storage, DD_ASSET_MODEL, &model, &model_id, &err), DD_OK);
    make_dir(inside);
    make_dir("runs/999999");
    make_dir("runs/nonsense");
    make_dir("models/m-1");
    make_dir("models/half-2");
    make_dir("datasets/half-3");
    make_dir("cache/x.tmp-1");
    make_dir("cache/good");
    assert_int_equal(dd_recover(&test_daemon, &err), DD_OK);
    assert_true(exists(run));
    assert_true(exists("models/m-1"));
    assert_true(exists("cache/good"));
    assert_false(exists(inside));
    assert_false(exists("runs/999999"));
    assert_false(exists("runs/nonsense"));
    assert_false(exists("models/half-2"));
    assert_false(exists("datasets/half-3"));
    assert_false(exists("cache/x.tmp-1"));
}

static void test_linked_directories_share_their_bytes(void **state) {
    (void)state;
    make_dir("from");
    char from[PATH_MAX], to[PATH_MAX], file[PATH_MAX + 16];
    struct dd_error err = {0};
    snprintf(from, sizeof from, "%s/from", test_daemon.data_dir);
    snprintf(to, sizeof to, "%s/to", test_daemon.data_dir);
    snprintf(file, sizeof file, "%s/weights", from);
    assert_int_equal(dd_file_write_durable(file, "abc", 3, &err), DD_OK);
    assert_int_equal(dd_dir_link(from, to, &err), DD_OK);
    assert_int_equal(dd_tree_remove(from, &err), DD_OK);
    snprintf(file, sizeof file, "%s/weights", to);
    char *text;
    size_t length;
    assert_int_equal(dd_file_read(file, 100, &text, &length, &err), DD_OK);
    assert_string_equal(text, "abc");
    free(text);
}

static void test_the_resource_has_what_the_contract_names(void **state) {
    (void)state;
    int64_t id = insert("{\"T\":4}", "resource");
    struct dd_experiment e;
    struct dd_error err = {0};
    assert_int_equal(dd_storage_experiment_get(test_daemon.storage, id, &e, &err), DD_OK);
    cJSON *json = dd_experiment_json(&test_daemon, &e);
    static const char *const fields[] = {"id",          "status",   "spec",  "created_at", "started_at",
                                         "finished_at", "progress", "best",  "last",       "teacher",
                                         "retention",   "model",    "error", "attempts"};
    for (size_t i = 0; i < DD_ARRAY_LEN(fields); i++)
        assert_non_null(at(json, fields[i]));
    static const char *const progress[] = {"epoch", "epochs", "step", "steps", "eta_seconds", "tokens_per_second"};
    for (size_t i = 0; i < DD_ARRAY_LEN(progress); i++)
        assert_non_null(at(at(json, "progress"), progress[i]));
    assert_string_equal(at(at(json, "spec"), "name")->valuestring, "resource");
    cJSON_Delete(json);
    dd_experiment_release(&e);
}

static void test_exports_are_named_as_the_notes_models(void **state) {
    (void)state;
    char name[DD_EXPORT_NAME_BYTES];
    dd_export_name("model", 23, 1.0, 1.0, 1.0, name);
    assert_string_equal(name, "model_epoch_23_p_1.0000_r_1.0000_f_1.0000");
    dd_export_name("milk", 7, 0.73599, 0.72614, 0.72951, name);
    assert_string_equal(name, "milk_epoch_7_p_0.7360_r_0.7261_f_0.7295");
    dd_export_name("milk", 0, 0.5, 0.5, 0.5, name);
    assert_string_equal(name, "milk");
    dd_export_name("milk", 3, NAN, 0.5, 0.5, name);
    assert_string_equal(name, "milk");
    char longest[DD_NAME_BYTES];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    dd_export_name(longest, INT_MAX, 1.0, 1.0, 1.0, name);
    assert_int_equal(strlen(name), 64 + strlen("_epoch_2147483647_p_1.0000_r_1.0000_f_1.0000"));
    assert_string_equal(name + strlen(name) - 9, "_f_1.0000");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_clone_bodies),
        cmocka_unit_test(test_recovery_removes_what_nobody_owns),
        cmocka_unit_test(test_linked_directories_share_their_bytes),
        cmocka_unit_test(test_the_resource_has_what_the_contract_names),
        cmocka_unit_test(test_exports_are_named_as_the_notes_models),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
