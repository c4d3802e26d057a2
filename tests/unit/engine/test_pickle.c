/* The unpickler: what it builds, what it refuses, that it calls nothing, and damage to every form of torch.save. */
#include "model_fixture.h"

#include "engine/pickle.h"

#define PROGRAM(text) ((const uint8_t *)("\x80\x02" text)), (sizeof("\x80\x02" text) - 1)

/* From an exact block, so that a sanitizer sees a byte too far. */
static enum dd_status parse(const uint8_t *program, size_t bytes, struct dd_pickle *ret_pickle, uint8_t **ret_block,
                            struct dd_error *err) {
    *ret_block = malloc(bytes == 0 ? 1 : bytes);
    assert_non_null(*ret_block);
    memcpy(*ret_block, program, bytes);
    return dd_pickle_parse(*ret_block, bytes, ret_pickle, err);
}

static void test_values(void **state) {
    (void)state;
    struct dd_pickle pickle;
    struct dd_error err;
    uint8_t *block;
    /* {"a": [1, 300, -2, 2**40, True, None, 1.5], "b": ("x",)} with the memo in use */
    must(parse(PROGRAM("}q\0(X\1\0\0\0a](K\1M\x2c\1J\xfe\xff\xff\xff\x8a\6\0\0\0\0\0\1\x88NG\x3f\xf8\0\0\0\0\0\0e"
                       "X\1\0\0\0bX\1\0\0\0xq\1\x85u."),
               &pickle, &block, &err),
         &err);
    uint32_t list = dd_pickle_get(&pickle, pickle.root, "a"), tuple = dd_pickle_get(&pickle, pickle.root, "b");
    const struct dd_pickle_node *node = dd_pickle_node(&pickle, list);
    assert_int_equal(node->kind, DD_PICKLE_LIST);
    assert_int_equal(node->list.count, 7);
    static const int64_t integers[] = {1, 300, -2, (int64_t)1 << 40, 1};
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(dd_pickle_node(&pickle, node->list.items[i])->integer, integers[i]);
    }
    assert_int_equal(dd_pickle_node(&pickle, node->list.items[5])->kind, DD_PICKLE_NONE);
    assert_true(dd_pickle_node(&pickle, node->list.items[6])->real == 1.5);
    assert_int_equal(dd_pickle_node(&pickle, tuple)->kind, DD_PICKLE_TUPLE);
    assert_true(dd_pickle_text_is(&pickle, dd_pickle_node(&pickle, tuple)->list.items[0], "x"));
    assert_int_equal(dd_pickle_get(&pickle, pickle.root, "c"), DD_PICKLE_ABSENT);
    dd_pickle_release(&pickle);
    free(block);
}

static void test_calls_are_records(void **state) {
    (void)state;
    struct dd_pickle pickle;
    struct dd_error err;
    uint8_t *block;
    must(parse(PROGRAM("cposix\nsystem\nX\4\0\0\0true\x85R."), &pickle, &block, &err), &err);
    const struct dd_pickle_node *node = dd_pickle_node(&pickle, pickle.root);
    assert_int_equal(node->kind, DD_PICKLE_OBJECT);
    assert_true(dd_pickle_global_is(&pickle, node->object.callee, "posix", "system"));
    dd_pickle_release(&pickle);
    free(block);
    must(parse(PROGRAM("ccollections\nOrderedDict\n)RX\1\0\0\0kK\7s."), &pickle, &block, &err), &err);
    assert_int_equal(dd_pickle_node(&pickle, dd_pickle_get(&pickle, pickle.root, "k"))->integer, 7);
    dd_pickle_release(&pickle);
    free(block);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const uint8_t *program;
        size_t bytes;
    } cases[] = {
        {PROGRAM("")},
        {PROGRAM(".")},
        {PROGRAM("(.")},
        {PROGRAM("N")},
        {PROGRAM("0.")},
        {PROGRAM("1.")},
        {PROGRAM("2.")},
        {PROGRAM("(2.")},
        {PROGRAM("t.")},
        {PROGRAM("Na.")},
        {PROGRAM("NNa.")},
        {PROGRAM("(Na.")},
        {PROGRAM("Ns.")},
        {PROGRAM("}Ns.")},
        {PROGRAM("}(Nu.")},
        {PROGRAM("(Nd.")},
        {PROGRAM("(u.")},
        {PROGRAM("(e.")},
        {PROGRAM("((e.")},
        {PROGRAM("R.")},
        {PROGRAM("NR.")},
        {PROGRAM("NNR.")},
        {PROGRAM("N(R.")},
        {PROGRAM("N\x81.")},
        {PROGRAM("NN\x92.")},
        {PROGRAM("b.")},
        {PROGRAM("Nb.")},
        {PROGRAM("\x85.")},
        {PROGRAM("N\x86.")},
        {PROGRAM("q\0.")},
        {PROGRAM("(q\0.")},
        {PROGRAM("h\0.")},
        {PROGRAM("j\0\0\0\0.")},
        {PROGRAM("Nr\xff\xff\xff\xff.")},
        {PROGRAM("Nr\xff\xff\xff\x7f.")},
        {PROGRAM("X\xff\xff\xff\xffxx.")},
        {PROGRAM("X\5\0\0\0xx.")},
        {PROGRAM("\x8d\xff\xff\xff\xff\xff\xff\xff\xff.")},
        {PROGRAM("\x8a\xff.")},
        {PROGRAM("\x8b\xff\xff\xff\xff.")},
        {PROGRAM("G\0\0")},
        {PROGRAM("K")},
        {PROGRAM("cposix")},
        {PROGRAM("cposix\nsystem")},
        {PROGRAM("NN\x93.")},
        {PROGRAM("Q.")},
        {PROGRAM("NQ.")},
        {PROGRAM(")Q.")},
        {PROGRAM("X\7\0\0\0storage\x85Q.")},
        {PROGRAM("X\6\0\0\0module\x85Q.")},
        {PROGRAM("\x95\xff")},
        {PROGRAM("I1\n.")},
        {PROGRAM("\x97.")},
        {PROGRAM("\x82\1.")},
        {PROGRAM("ctorch._utils\n_rebuild_tensor_v2\n)R.")},
        {PROGRAM("ctorch._utils\n_rebuild_parameter\n)R.")},
        {PROGRAM("ctorch._tensor\n_rebuild_from_type_v2\n)R.")},
        {PROGRAM("ccollections\nOrderedDict\n](K\1e\x85R.")},
        {(const uint8_t *)"", 0},
        {(const uint8_t *)"\x80", 1},
        {(const uint8_t *)"\x80\1N.", 4},
        {(const uint8_t *)"\x80\6N.", 4},
        {(const uint8_t *)"N.", 2},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        struct dd_pickle pickle = {0};
        struct dd_error err = {0};
        uint8_t *block;
        enum dd_status status = parse(cases[i].program, cases[i].bytes, &pickle, &block, &err);
        if (status != DD_CORRUPT && status != DD_TOO_LARGE && status != DD_UNSUPPORTED) {
            fail_msg("case %zu: %s", i, dd_status_name(status));
        }
        assert_true(err.message[0] != 0);
        free(block);
    }
}

/* A program of one instruction repeated; all are refused by a limit, not by the machine's memory. */
static void test_bombs(void **state) {
    (void)state;
    static const struct {
        const char *start, *repeat;
    } bombs[] = {{"", "]"}, {"", "("}, {"N", "2"}, {"]", "Na"}, {"]q\1", "h\1h\1h\1(h\1h\1h\1h\1h\1h\1h\1h\1t0"}};
    const size_t bytes = 24u << 20;
    for (size_t i = 0; i < DD_ARRAY_LEN(bombs); i++) {
        uint8_t *program = malloc(bytes);
        struct dd_pickle pickle = {0};
        struct dd_error err = {0};
        size_t start = strlen(bombs[i].start), repeat = strlen(bombs[i].repeat);
        assert_non_null(program);
        memcpy(program, "\x80\x02", 2);
        memcpy(program + 2, bombs[i].start, start);
        for (size_t at = 2 + start; at < bytes; at++) {
            program[at] = (uint8_t)bombs[i].repeat[(at - 2 - start) % repeat];
        }
        assert_int_equal(dd_pickle_parse(program, bytes, &pickle, &err), DD_TOO_LARGE);
        free(program);
    }
}

static bool find_nothing(const void *context, const char *key, size_t key_bytes, struct dd_storage *ret_storage) {
    (void)context;
    (void)key;
    (void)key_bytes;
    (void)ret_storage;
    return false;
}

/* Modules that contain themselves, directly or doubled at every level: the walk ends. */
static void test_endless_modules(void **state) {
    (void)state;
    static const char head[] = "\x80\x02"
                               "cm\nM\n)\x81q\1}X\10\0\0\0_modulesq\3}q\2(X\1\0\0\0ah\1X\1\0\0\0bh\1us"
                               "b.";
    struct dd_torch_source source = {NULL, find_nothing};
    struct dd_pickle pickle;
    struct dd_error err = {0};
    struct dd_weights *weights = dd_calloc(1, sizeof *weights);
    must(dd_pickle_parse((const uint8_t *)head, sizeof head - 1, &pickle, &err), &err);
    assert_int_equal(dd_torch_collect(&pickle, &source, weights, &err), DD_TOO_LARGE);
    dd_weights_free(weights);
    dd_pickle_release(&pickle);
}

static void test_damage(void **state) {
    (void)state;
    survive_damage("state_zip.bin", dd_torch_zip_read, 3000, 11);
    survive_damage("state_deflated.bin", dd_torch_zip_read, 3000, 12);
    survive_damage("module_zip.pt", dd_torch_zip_read, 3000, 13);
    survive_damage("state_legacy.bin", dd_torch_legacy_read, 3000, 14);
    survive_damage("module_legacy.pt", dd_torch_legacy_read, 3000, 15);
}

/* Damage inside data.pkl alone, where the archive around it stays whole. */
static void test_damaged_programs(void **state) {
    (void)state;
    static const char *const files[] = {"module_zip.pt", "module_half_protocol4.pt", "malicious_zip.bin"};
    uint64_t random = 21;
    for (size_t f = 0; f < DD_ARRAY_LEN(files); f++) {
        char path[512];
        size_t bytes = 0;
        struct dd_zip zip = {0};
        struct dd_error err = {0};
        snprintf(path, sizeof path, "%s/%s", FIXTURES, files[f]);
        uint8_t *whole = read_all(path, &bytes);
        must(dd_zip_open(whole, bytes, &zip, &err), &err);
        const struct dd_storage *program = NULL;
        for (size_t i = 0; i < zip.count; i++) {
            if (zip.entries[i].name_bytes > 8 &&
                memcmp(zip.entries[i].name + zip.entries[i].name_bytes - 8, "data.pkl", 8) == 0) {
                program = &zip.entries[i].storage;
            }
        }
        assert_non_null(program);
        size_t at = (size_t)(program->bytes - whole), length = program->size_bytes;
        for (int i = 0; i < 4000; i++) {
            uint8_t *damaged = malloc(bytes);
            assert_non_null(damaged);
            memcpy(damaged, whole, bytes);
            for (uint32_t n = 1 + next_random(&random) % 4; n > 0; n--) {
                damaged[at + next_random(&random) % length] = (uint8_t)next_random(&random);
            }
            struct dd_weights *weights = dd_calloc(1, sizeof *weights);
            enum dd_status status = dd_torch_zip_read(damaged, bytes, weights, &err);
            assert_int_not_equal(status, DD_INTERNAL);
            drain(weights);
            free(damaged);
        }
        dd_zip_release(&zip);
        free(whole);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),           cmocka_unit_test(test_calls_are_records),
        cmocka_unit_test(test_refusals),         cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_endless_modules),  cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damaged_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
