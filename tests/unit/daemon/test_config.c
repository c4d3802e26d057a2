/* Options: which source wins, what each kind refuses, and that the sample file is the table's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/config.h"

static char config_path[] = "/tmp/distilld-test-config-XXXXXX";

static void write_config(const char *text) {
    FILE *file = fopen(config_path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static enum dd_status read_options(struct dd_options *o, const char *const *words, struct dd_error *err) {
    char *argv[16], *copies[16];
    const char *args[17];
    int argc = 0;
    while (words[argc] != NULL) {
        copies[argc] = dd_strdup(words[argc]);
        argv[argc] = copies[argc];
        argc++;
    }
    enum dd_status status = dd_options_read(DD_FOR_SERVE, argc, argv, o, args, err);
    for (int i = 0; i < argc; i++)
        free(copies[i]);
    return status;
}

static void test_command_line_over_environment_over_file(void **state) {
    (void)state;
    const char *const none[] = {"--config", config_path, NULL};
    const char *const flags[] = {"--config", config_path, "--workers", "3", "--listen=127.0.0.1:3", NULL};
    struct dd_options o;
    struct dd_error err = {0};
    write_config("# comment\n\n workers = 1 \nlisten=127.0.0.1:1\ndata-dir = /from/the file\nmemory-limit = 2G\n");
    assert_int_equal(read_options(&o, none, &err), DD_OK);
    assert_int_equal(o.workers, 1);
    assert_string_equal(o.listen, "127.0.0.1:1");
    assert_string_equal(o.data_dir, "/from/the file");
    assert_int_equal(o.memory_limit_bytes, 2LL << 30);
    assert_int_equal(o.checkpoint_seconds, 600);
    dd_options_release(&o);

    setenv("DISTILLD_WORKERS", "2", 1);
    setenv("DISTILLD_DATA_DIR", "/from/env", 1);
    assert_int_equal(read_options(&o, none, &err), DD_OK);
    assert_int_equal(o.workers, 2);
    assert_string_equal(o.data_dir, "/from/env");
    assert_string_equal(o.listen, "127.0.0.1:1");
    dd_options_release(&o);

    assert_int_equal(read_options(&o, flags, &err), DD_OK);
    assert_int_equal(o.workers, 3);
    assert_string_equal(o.listen, "127.0.0.1:3");
    assert_string_equal(o.data_dir, "/from/env");
    dd_options_release(&o);
    unsetenv("DISTILLD_WORKERS");
    unsetenv("DISTILLD_DATA_DIR");
}

static void test_a_stronger_list_replaces_a_weaker_one(void **state) {
    (void)state;
    const char *const none[] = {"--config", config_path, NULL};
    const char *const flags[] = {"--config", config_path, "--model-root", "/c", "--model-root=/d", NULL};
    struct dd_options o;
    struct dd_error err = {0};
    write_config("model-root = /a\nmodel-root = /b\n");
    assert_int_equal(read_options(&o, none, &err), DD_OK);
    assert_string_equal(o.model_roots[0], "/a");
    assert_string_equal(o.model_roots[1], "/b");
    assert_null(o.model_roots[2]);
    dd_options_release(&o);
    setenv("DISTILLD_MODEL_ROOT", "/e:/f", 1);
    assert_int_equal(read_options(&o, none, &err), DD_OK);
    assert_string_equal(o.model_roots[0], "/e");
    assert_string_equal(o.model_roots[1], "/f");
    dd_options_release(&o);
    assert_int_equal(read_options(&o, flags, &err), DD_OK);
    assert_string_equal(o.model_roots[0], "/c");
    assert_string_equal(o.model_roots[1], "/d");
    assert_null(o.model_roots[2]);
    dd_options_release(&o);
    unsetenv("DISTILLD_MODEL_ROOT");
}

static void test_faults_name_the_place(void **state) {
    (void)state;
    static const struct {
        const char *file, *flag, *code, *message;
    } cases[] = {
        {"workers = many\n", NULL, "config_invalid", ":1: workers must be a whole number from 1 to 64"},
        {"\nworkers = 0\n", NULL, "config_invalid", ":2: workers must be a whole number from 1 to 64"},
        {"workers 3\n", NULL, "config_invalid", ":1: a line must be \"name = value\""},
        {"wokers = 3\n", NULL, "config_invalid", "did you mean \"workers\"?"},
        {"out = x\n", NULL, "config_invalid", "there is no option \"out\""},
        {"memory-limit = 10Q\n", NULL, "config_invalid", "K, M, G or T"},
        {"memory-limit = 99999999999999T\n", NULL, "config_invalid", "whole number"},
        {"log-level = loud\n", NULL, "config_invalid", "must be one of: debug info warning error; got \"loud\""},
        {"data-dir =\n", NULL, "config_invalid", "data-dir must not be empty"},
        {"", "--workrs=3", "usage", "did you mean \"workers\"?"},
        {"", "--workers", "usage", "--workers needs a value"},
        {"", "--json", "usage", "there is no option \"json\""},
        {"", "-x", "usage", "options begin with two dashes"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        const char *const words[] = {"--config", config_path, cases[i].flag, NULL};
        struct dd_options o;
        struct dd_error err = {0};
        write_config(cases[i].file);
        assert_int_equal(read_options(&o, words, &err), DD_INVALID);
        assert_string_equal(err.code, cases[i].code);
        if (strstr(err.message, cases[i].message) == NULL)
            fail_msg("\"%s\" is not in \"%s\"", cases[i].message, err.message);
    }
}

static void test_a_named_file_must_exist_and_be_small(void **state) {
    (void)state;
    const char *const words[] = {"--config", "/nonexistent/distilld.conf", NULL};
    struct dd_options o;
    struct dd_error err = {0};
    assert_int_equal(read_options(&o, words, &err), DD_NOT_FOUND);
    char *large = calloc(1, 100001);
    assert_non_null(large);
    memset(large, '#', 100000);
    write_config(large);
    free(large);
    const char *const config[] = {"--config", config_path, NULL};
    assert_int_equal(read_options(&o, config, &err), DD_TOO_LARGE);
}

static void test_the_sample_file_is_the_tables(void **state) {
    (void)state;
    struct dd_buffer sample;
    dd_buffer_init(&sample, 1 << 20);
    dd_options_sample(&sample);
    char *file;
    size_t length;
    struct dd_error err = {0};
    assert_int_equal(dd_file_read("systemd/distilld.conf", 1 << 20, &file, &length, &err), DD_OK);
    assert_string_equal(sample.data, file); /* else: build/distilld help config > systemd/distilld.conf */
    free(file);
    struct dd_options o = {0};
    assert_int_equal(dd_options_read_text(&o, sample.data, "sample", &err), DD_OK);
    dd_options_release(&o);
    dd_buffer_release(&sample);
}

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(config_path);
    return fd >= 0 ? close(fd) : -1;
}

static int remove_file(void **state) {
    (void)state;
    return unlink(config_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_line_over_environment_over_file),
        cmocka_unit_test(test_a_stronger_list_replaces_a_weaker_one),
        cmocka_unit_test(test_faults_name_the_place),
        cmocka_unit_test(test_a_named_file_must_exist_and_be_small),
        cmocka_unit_test(test_the_sample_file_is_the_tables),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
