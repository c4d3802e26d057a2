/* safetensors: values of every dtype, what a header must not say, and damage. */
#include "model_fixture.h"

static void test_dtypes(void **state) {
    (void)state;
    static const char *const files[] = {"f32.safetensors", "f16.safetensors", "bf16.safetensors", "f64.safetensors"};
    float expected[24], values[24];
    for (size_t i = 0; i < DD_ARRAY_LEN(files); i++) {
        char path[512];
        struct dd_error err;
        struct dd_weights *weights = NULL;
        struct dd_weight_reader reader;
        const struct dd_weight *weight = NULL;
        snprintf(path, sizeof path, "%s/%s", FIXTURES, files[i]);
        must(dd_weights_open(path, &weights, &err), &err);
        for (size_t j = 0; j < weights->count; j++) {
            if (strcmp(weights->items[j].name, "classifier.weight") == 0) {
                weight = &weights->items[j];
            }
        }
        assert_non_null(weight);
        assert_int_equal(weight->rank, 2);
        assert_int_equal(weight->shape[0], 3);
        assert_int_equal(weight->shape[1], 8);
        must(dd_weight_reader_init(&reader, weight, &err), &err);
        dd_weight_read(&reader, 0, 24, values);
        for (size_t at = 0; at < 24; at += 7) { /* and in pieces */
            float piece[7];
            size_t count = DD_MIN((size_t)7, 24 - at);
            dd_weight_read(&reader, at, count, piece);
            assert_memory_equal(piece, values + at, count * sizeof *piece);
        }
        if (i == 0) {
            memcpy(expected, values, sizeof expected);
        }
        assert_memory_equal(values, expected, sizeof expected);
        dd_weight_reader_release(&reader);
        dd_weights_free(weights);
    }
}

/* Every binary16 against the value its definition gives. */
static void test_half_values(void **state) {
    (void)state;
    uint16_t halves[65536];
    float values[65536];
    struct dd_weight weight = {.dtype = DD_DTYPE_F16,
                               .rank = 1,
                               .shape = {65536},
                               .stride = {1},
                               .storage = {(const uint8_t *)halves, sizeof halves, sizeof halves, false, 0}};
    struct dd_weight_reader reader;
    struct dd_error err;
    for (int i = 0; i < 65536; i++) {
        halves[i] = (uint16_t)i;
    }
    must(dd_weight_reader_init(&reader, &weight, &err), &err);
    dd_weight_read(&reader, 0, 65536, values);
    for (int i = 0; i < 65536; i++) {
        int exponent = i >> 10 & 31, mantissa = i & 1023;
        double value = exponent == 0    ? ldexp(mantissa, -24)
                       : exponent == 31 ? (mantissa == 0 ? INFINITY : NAN)
                                        : ldexp(1024 + mantissa, exponent - 25);
        if (isnan(value)) {
            assert_true(isnan(values[i]));
            continue;
        }
        assert_true((double)values[i] == ((i & 0x8000) != 0 ? -value : value));
        assert_int_equal(signbit(values[i]) != 0, (i & 0x8000) != 0);
    }
    dd_weight_reader_release(&reader);
}

static enum dd_status read_header(const char *json, size_t data_bytes, struct dd_error *err) {
    uint64_t header_bytes = strlen(json);
    size_t len = 8 + header_bytes + data_bytes;
    uint8_t *bytes = calloc(len, 1);
    assert_non_null(bytes);
    memcpy(bytes, &header_bytes, 8);
    memcpy(bytes + 8, json, header_bytes);
    struct dd_weights *weights = dd_calloc(1, sizeof *weights);
    enum dd_status status = dd_safetensors_read(bytes, len, weights, err);
    drain(weights);
    free(bytes);
    return status;
}

static void test_headers(void **state) {
    (void)state;
    static const struct {
        const char *json;
        size_t data_bytes;
        enum dd_status status;
        const char *part;
    } cases[] = {
        {"{}", 0, DD_OK, ""},
        {"{\"__metadata__\":{\"format\":\"pt\"}}  ", 0, DD_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, DD_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}", 0, DD_OK, ""},
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]}}", 16, DD_OK, ""},
        {"[]", 0, DD_CORRUPT, "not a JSON object"},
        {"{\"a\":1}", 0, DD_CORRUPT, "needs a dtype"},
        {"{\"a\":{}", 0, DD_CORRUPT, "not a JSON object"},
        {"{}x", 0, DD_CORRUPT, "not a JSON object"},
        {"{}", 1, DD_CORRUPT, "follow the last tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, DD_CORRUPT, "outside the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, DD_CORRUPT, "outside the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, DD_CORRUPT, "do not agree"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, DD_CORRUPT, "whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, DD_CORRUPT, "whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,4]}}", 4, DD_CORRUPT, "whole number"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":\"x\",\"data_offsets\":[0,4]}}", 4, DD_CORRUPT, "must be a list"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, DD_CORRUPT, "must be a list"},
        {"{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, DD_UNSUPPORTED, "F99"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,4]}}", 4,
         DD_CORRUPT, "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, DD_CORRUPT, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, DD_CORRUPT,
         "more than 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         4, DD_CORRUPT, "overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
         12, DD_CORRUPT, "hole"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        struct dd_error err = {0};
        enum dd_status status = read_header(cases[i].json, cases[i].data_bytes, &err);
        if (status != cases[i].status || strstr(err.message, cases[i].part) == NULL) {
            fail_msg("%s: %s, %s", cases[i].json, dd_status_name(status), err.message);
        }
    }
}

static void test_header_lengths(void **state) {
    (void)state;
    static const uint64_t lengths[] = {0, 1, 3, 1000, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 40};
    for (size_t i = 0; i < DD_ARRAY_LEN(lengths); i++) {
        uint8_t bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        struct dd_weights *weights = dd_calloc(1, sizeof *weights);
        struct dd_error err = {0};
        memcpy(bytes, &lengths[i], 8);
        assert_int_equal(dd_safetensors_read(bytes, sizeof bytes, weights, &err), DD_CORRUPT);
        assert_int_equal(dd_safetensors_read(bytes, 5, weights, &err), DD_CORRUPT);
        dd_weights_free(weights);
    }
}

static void test_names_occur_once(void **state) {
    (void)state;
    static const char json[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                               "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
    uint8_t bytes[8 + sizeof json - 1 + 8] = {0};
    uint64_t header_bytes = sizeof json - 1;
    char path[512];
    struct dd_weights *weights = NULL;
    struct dd_error err = {0};
    memcpy(bytes, &header_bytes, 8);
    memcpy(bytes + 8, json, header_bytes);
    scratch_path(path, "twice.safetensors");
    write_all(path, bytes, sizeof bytes);
    assert_int_equal(dd_weights_open(path, &weights, &err), DD_CORRUPT);
    assert_non_null(strstr(err.message, "occurs twice"));
}

static void test_damage(void **state) {
    (void)state;
    survive_damage("f32.safetensors", dd_safetensors_read, 4000, 1);
    survive_damage("bf16.safetensors", dd_safetensors_read, 2000, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtypes),         cmocka_unit_test(test_half_values),      cmocka_unit_test(test_headers),
        cmocka_unit_test(test_header_lengths), cmocka_unit_test(test_names_occur_once), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
