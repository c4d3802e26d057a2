/* Archives: what goes in comes out, and what an uploaded one must not do. */
#include "model_fixture.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>

struct item {
    const char *path;
    const char *text; /* NULL: a folder */
    const char *link; /* a symbolic link to this */
    const char *hard; /* a hard link to this */
    size_t zeros;     /* instead of text */
    mode_t type;      /* 0: as the others say */
};

/* Writes items in a format of libarchive's: "tar", "tar.gz", "tar.xz" or "zip". */
static void make_archive(const char *path, const char *kind, const struct item *items, size_t count) {
    static char zeros[65536];
    struct archive *archive = archive_write_new();
    assert_non_null(archive);
    if (strcmp(kind, "zip") == 0) {
        archive_write_set_format_zip(archive);
    } else {
        archive_write_set_format_pax_restricted(archive);
    }
    if (strcmp(kind, "tar.gz") == 0) {
        archive_write_add_filter_gzip(archive);
    } else if (strcmp(kind, "tar.xz") == 0) {
        archive_write_add_filter_xz(archive);
    }
    assert_int_equal(archive_write_open_filename(archive, path), ARCHIVE_OK);
    for (size_t i = 0; i < count; i++) {
        const struct item *item = &items[i];
        struct archive_entry *entry = archive_entry_new();
        size_t bytes = item->zeros != 0 ? item->zeros : item->text == NULL ? 0 : strlen(item->text);
        archive_entry_set_pathname(entry, item->path);
        archive_entry_set_perm(entry, 0777);
        archive_entry_set_filetype(entry, item->type != 0                                                ? item->type
                                          : item->link != NULL                                           ? AE_IFLNK
                                          : item->text == NULL && item->zeros == 0 && item->hard == NULL ? AE_IFDIR
                                                                                                         : AE_IFREG);
        if (item->link != NULL) {
            archive_entry_set_symlink(entry, item->link);
        }
        if (item->hard != NULL) {
            archive_entry_set_hardlink(entry, item->hard);
        }
        archive_entry_set_size(entry, (la_int64_t)bytes);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        for (size_t at = 0; at < bytes;) {
            size_t run = DD_MIN(sizeof zeros, bytes - at);
            at += (size_t)archive_write_data(archive, item->zeros != 0 ? zeros : item->text + at, run);
        }
        archive_entry_free(entry);
    }
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
}

static void expect_file(const char *name, const char *text) {
    char path[512];
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/out/%s", scratch, name);
    char *content = (char *)read_all(path, &bytes);
    assert_string_equal(content, text);
    free(content);
}

static int count_files(void) {
    char path[512];
    int count = 0;
    scratch_path(path, "out");
    DIR *stream = opendir(path);
    assert_non_null(stream);
    for (const struct dirent *entry = readdir(stream); entry != NULL; entry = readdir(stream)) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(stream);
    return count;
}

static enum dd_status extract(uint64_t max_bytes, struct dd_error *err) {
    char archive[512], out[512];
    scratch_path(archive, "in");
    scratch_path(out, "out");
    must(dd_tree_remove(out, err), err);
    return dd_archive_extract(archive, out, max_bytes, err);
}

static void make_in(const char *kind, const struct item *items, size_t count) {
    char archive[512];
    scratch_path(archive, "in");
    make_archive(archive, kind, items, count);
}

static void test_kinds(void **state) {
    (void)state;
    static const char *const kinds[] = {"tar", "tar.gz", "tar.xz", "zip"};
    static const struct item flat[] = {{.path = "config.json", .text = "{}"}, {.path = "./vocab.txt", .text = "a\n"}};
    static const struct item folder[] = {{.path = "m/1_Pooling/config.json", .text = "deep"},
                                         {.path = "m/"},
                                         {.path = "m/config.json", .text = "{}"},
                                         {.path = "m/._config.json", .text = "litter"},
                                         {.path = "__MACOSX/m/x", .text = "litter"},
                                         {.path = "m/vocab.txt", .text = "a\n"}};
    for (size_t i = 0; i < DD_ARRAY_LEN(kinds); i++) {
        for (int k = 0; k < 2; k++) {
            struct dd_error err;
            make_in(kinds[i], k == 0 ? flat : folder, k == 0 ? DD_ARRAY_LEN(flat) : DD_ARRAY_LEN(folder));
            must(extract(1000, &err), &err);
            expect_file("config.json", "{}");
            expect_file("vocab.txt", "a\n");
            assert_int_equal(count_files(), 2);
        }
    }
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        struct item items[3];
        size_t count;
        enum dd_status status;
        const char *part;
    } cases[] = {
        {{{.path = "/etc/x", .text = "x"}}, 1, DD_INVALID, "absolute"},
        {{{.path = "../x", .text = "x"}}, 1, DD_INVALID, "leads out"},
        {{{.path = "a/../../x", .text = "x"}}, 1, DD_INVALID, "leads out"},
        {{{.path = "a/..", .text = "x"}}, 1, DD_INVALID, "leads out"},
        {{{.path = "a\\b", .text = "x"}}, 1, DD_INVALID, "backslash"},
        {{{.path = "a\nb", .text = "x"}}, 1, DD_INVALID, "control character"},
        {{{.path = "x", .link = "/etc/passwd"}}, 1, DD_INVALID, "link or device"},
        {{{.path = "y", .text = "x"}, {.path = "x", .hard = "y"}}, 2, DD_INVALID, "link or device"},
        {{{.path = "x", .type = AE_IFIFO}}, 1, DD_INVALID, "link or device"},
        {{{.path = "x", .type = AE_IFCHR}}, 1, DD_INVALID, "link or device"},
        {{{.path = "x", .text = "1"}, {.path = "x", .text = "2"}}, 2, DD_INVALID, "occurs twice"},
        {{{.path = "a/x", .text = "1"}, {.path = "b/x", .text = "2"}}, 2, DD_INVALID, "second folder"},
        {{{.path = "a/b/x", .text = "1"}}, 1, DD_INVALID, "more than one folder down"},
        {{{.path = "a/"}}, 1, DD_INVALID, "holds no files"},
        {{{.path = "x", .zeros = 1001}}, 1, DD_TOO_LARGE, "more than 1000 bytes"},
        {{{.path = "x", .zeros = 600}, {.path = "y", .zeros = 600}}, 2, DD_TOO_LARGE, "more than 1000 bytes"},
    };
    for (size_t i = 0; i < DD_ARRAY_LEN(cases); i++) {
        struct dd_error err = {0};
        char out[512];
        make_in("tar.gz", cases[i].items, cases[i].count);
        enum dd_status status = extract(1000, &err);
        if (status != cases[i].status || strstr(err.message, cases[i].part) == NULL) {
            fail_msg("case %zu: %s, %s", i, dd_status_name(status), err.message);
        }
        scratch_path(out, "out");
        assert_int_not_equal(access(out, F_OK), 0);
    }
}

static void test_limits(void **state) {
    (void)state;
    struct item many[65];
    char names[65][16];
    struct dd_error err;
    for (int i = 0; i < 65; i++) {
        snprintf(names[i], sizeof names[i], "f%d", i);
        many[i] = (struct item){.path = names[i], .text = "x"};
    }
    make_in("zip", many, 64);
    must(extract(1000, &err), &err);
    assert_int_equal(count_files(), 64);
    make_in("zip", many, 65);
    assert_int_equal(extract(1000, &err), DD_INVALID);
    assert_non_null(strstr(err.message, "more than 64 entries"));
    static const struct item bomb[] = {{.path = "x", .zeros = (size_t)100 << 20}};
    make_in("tar.gz", bomb, 1);
    assert_int_equal(extract((uint64_t)1 << 40, &err), DD_INVALID);
    assert_non_null(strstr(err.message, "times its size"));
    make_in("zip", bomb, 1);
    assert_int_equal(extract((uint64_t)1 << 40, &err), DD_INVALID);
    char path[512];
    scratch_path(path, "in");
    write_all(path, "no archive at all", 17);
    assert_int_equal(extract(1000, &err), DD_CORRUPT);
    write_all(path, "", 0);
    assert_int_not_equal(extract(1000, &err), DD_OK);
    scratch_path(path, "out");
    must(dd_dir_make(path, &err), &err);
    assert_int_equal(dd_archive_extract("/nowhere", path, 1, &err), DD_CONFLICT);
}

static void test_write(void **state) {
    (void)state;
    char dir[512], path[512];
    struct dd_error err;
    size_t bytes[2] = {0};
    uint8_t *content[2];
    scratch_path(dir, "model");
    must(dd_dir_make(dir, &err), &err);
    scratch_path(path, "model/b.txt");
    write_all(path, "bee", 3);
    scratch_path(path, "model/a.txt");
    write_all(path, "", 0);
    scratch_path(path, "model/link");
    assert_int_equal(symlink("/etc/passwd", path), 0);
    scratch_path(path, "model/folder");
    assert_int_equal(mkdir(path, 0755), 0);
    scratch_path(path, "in");
    for (int i = 0; i < 2; i++) { /* the same directory, the same bytes */
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        assert_true(fd >= 0);
        must(dd_archive_write(dir, "student", fd, NULL, &err), &err);
        close(fd);
        content[i] = read_all(path, &bytes[i]);
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(content[0], content[1], bytes[0]);
    free(content[0]);
    free(content[1]);
    must(extract(1000, &err), &err);
    assert_int_equal(count_files(), 2);
    expect_file("b.txt", "bee");
    expect_file("a.txt", "");

    struct dd_cancel cancel = {DD_STOP_CANCEL};
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(dd_archive_write(dir, "student", fd, &cancel, &err), DD_STOPPED);
    close(fd);
    assert_int_not_equal(extract(1000, &err), DD_OK); /* what was written does not look whole */
    fd = open("/dev/full", O_WRONLY);
    assert_int_equal(dd_archive_write(dir, "student", fd, NULL, &err), DD_NO_SPACE);
    close(fd);
    assert_int_equal(dd_archive_write("/nowhere", "x", 1, NULL, &err), DD_NOT_FOUND);
}

static void test_damage(void **state) {
    (void)state;
    static const char *const kinds[] = {"tar", "tar.gz", "tar.xz", "zip"};
    static const struct item items[] = {{.path = "m/config.json", .text = "{\"hidden_size\": 8, \"x\": 1}"},
                                        {.path = "m/vocab.txt", .text = "a\nb\nc\nd\ne\nf\ng\n"},
                                        {.path = "m/weights", .zeros = 5000}};
    uint64_t random = 9;
    for (size_t k = 0; k < DD_ARRAY_LEN(kinds); k++) {
        char path[512];
        size_t bytes = 0;
        make_in(kinds[k], items, DD_ARRAY_LEN(items));
        scratch_path(path, "in");
        uint8_t *whole = read_all(path, &bytes);
        for (int i = 0; i < 300; i++) {
            uint8_t *damaged = malloc(bytes);
            struct dd_error err = {0};
            assert_non_null(damaged);
            memcpy(damaged, whole, bytes);
            size_t left = mutate(damaged, bytes, &random);
            write_all(path, damaged, left);
            free(damaged);
            enum dd_status status = extract(100000, &err);
            assert_int_not_equal(status, DD_INTERNAL);
            assert_int_equal(access(strcat(strcpy(path, scratch), "/out"), F_OK) == 0, status == DD_OK);
            scratch_path(path, "in");
        }
        free(whole);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds), cmocka_unit_test(test_refusals), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_write), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
