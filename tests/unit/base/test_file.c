/* Files in and out, directories, trees: what they do, and that every failure leaves nothing behind. */
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#include "tests/unit/base/common.h"

static int entries(const char *path) {
    DIR *dir = opendir(path);
    int count = -2; /* "." and ".." */
    assert_non_null(dir);
    while (readdir(dir)) {
        count++;
    }
    closedir(dir);
    return count;
}

static void put_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) < 0, 0);
    assert_int_equal(fclose(file), 0);
}

static void assert_content(struct scratch *s, const char *path, const char *text) {
    DD_CLEANUP(dd_free_ptr) char *bytes = NULL;
    size_t len = 0;
    assert_ok(s, dd_file_read(path, 1 << 24, &bytes, &len, &s->err));
    assert_int_equal(len, strlen(text));
    assert_string_equal(bytes, text);
}

static void test_read(void **state) {
    struct scratch *s = *state;
    char *bytes = NULL;
    size_t len = 99;
    put_text(at(s, "f"), "0123456789");
    static const size_t caps[] = {10, 11, 4096, SIZE_MAX};
    for (size_t i = 0; i < DD_ARRAY_LEN(caps); i++) {
        assert_ok(s, dd_file_read(s->path, caps[i], &bytes, &len, &s->err));
        assert_int_equal(len, 10);
        assert_string_equal(bytes, "0123456789");
        free(bytes);
    }
    bytes = NULL;
    len = 99;
    assert_fails(s, DD_TOO_LARGE, "file_too_large", dd_file_read(s->path, 9, &bytes, &len, &s->err));
    assert_fails(s, DD_TOO_LARGE, "file_too_large", dd_file_read(s->path, 0, &bytes, &len, &s->err));
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_file_read(at(s, "none"), 10, &bytes, &len, &s->err));
    assert_fails(s, DD_INVALID, "not_a_file", dd_file_read(s->dir, 10, &bytes, &len, &s->err));
    assert_int_equal(mkfifo(at(s, "fifo"), 0600), 0);
    assert_fails(s, DD_INVALID, "not_a_file", dd_file_read(s->path, 10, &bytes, &len, &s->err)); /* and returns */
    assert_fails(s, DD_INVALID, "not_a_file", dd_file_read("/dev/zero", 10, &bytes, &len, &s->err));
    assert_null(bytes); /* untouched by failures */
    assert_int_equal(len, 99);
    put_text(at(s, "empty"), "");
    assert_ok(s, dd_file_read(s->path, 0, &bytes, &len, &s->err));
    assert_int_equal(len, 0);
    assert_string_equal(bytes, "");
    free(bytes);
    assert_ok(s, dd_file_read("/proc/self/status", 1 << 20, &bytes, &len, &s->err)); /* whose size is said to be 0 */
    assert_true(len > 100);
    assert_int_equal(strlen(bytes), len);
    free(bytes);
    assert_int_equal(dd_file_read("/proc/self/status", 100, &bytes, &len, NULL), DD_TOO_LARGE);
}

static void test_mapping(void **state) {
    struct scratch *s = *state;
    struct dd_mapping mapping = {0};
    put_text(at(s, "f"), "mapped");
    assert_ok(s, dd_mapping_open(s->path, &mapping, &s->err));
    assert_int_equal(mapping.len, 6);
    assert_memory_equal(mapping.bytes, "mapped", 6);
    dd_mapping_release(&mapping);
    dd_mapping_release(&mapping);
    put_text(at(s, "empty"), "");
    assert_ok(s, dd_mapping_open(s->path, &mapping, &s->err));
    assert_int_equal(mapping.len, 0);
    assert_non_null(mapping.bytes);
    dd_mapping_release(&mapping);
    assert_fails(s, DD_INVALID, "not_a_file", dd_mapping_open(s->dir, &mapping, &s->err));
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_mapping_open(at(s, "none"), &mapping, &s->err));
}

/* Sizes around the chunk, in pieces of several sizes; the digest is right at every moment. */
static void test_writer(void **state) {
    struct scratch *s = *state;
    static const size_t sizes[] = {0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 12345};
    static const size_t pieces[] = {1 << 19, 4097, (1 << 20) + 3, 5 << 20};
    static uint8_t content[4 << 20];
    for (size_t i = 0; i < sizeof content; i++) {
        content[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(sizes); i++) {
        for (size_t p = 0; p < 2 * DD_ARRAY_LEN(pieces); p++) {
            size_t piece = pieces[p / 2];
            bool sha256 = p % 2 == 0;
            struct dd_writer *writer = NULL;
            uint8_t digest[DD_SHA256_BYTES], expected[DD_SHA256_BYTES];
            char *bytes = NULL;
            size_t len = 0, done = 0;
            put_text(at(s, "f"), "the old content");
            assert_ok(s, dd_writer_open(s->path, sha256 ? DD_WRITER_SHA256 : DD_WRITER_XXH3, &writer, &s->err));
            while (done < sizes[i]) {
                size_t count = DD_MIN(piece, sizes[i] - done);
                assert_ok(s, dd_writer_write(writer, content + done, count, &s->err));
                done += count;
                dd_writer_digest(writer, digest);
                (sha256 ? dd_sha256_bytes : dd_checksum_bytes)(content, done, expected);
                assert_memory_equal(digest, expected, sizeof digest);
            }
            assert_content(s, s->path, "the old content"); /* nobody sees anything before the commit */
            assert_ok(s, dd_writer_commit(writer, &s->err));
            assert_int_equal(dd_writer_commit(writer, &s->err), DD_INTERNAL);
            assert_int_equal(dd_writer_write(writer, "x", 1, &s->err), DD_INTERNAL);
            dd_writer_free(writer);
            assert_ok(s, dd_file_read(s->path, sizeof content, &bytes, &len, &s->err));
            assert_int_equal(len, sizes[i]);
            assert_memory_equal(bytes, content, len);
            free(bytes);
            assert_int_equal(entries(s->dir), 1);
        }
    }
    dd_writer_free(NULL);
}

static void test_writer_without_commit(void **state) {
    struct scratch *s = *state;
    struct dd_writer *writer = NULL;
    put_text(at(s, "f"), "old");
    assert_ok(s, dd_writer_open(s->path, DD_WRITER_PLAIN, &writer, &s->err));
    assert_ok(s, dd_writer_write(writer, "new", 3, &s->err));
    assert_int_equal(entries(s->dir), 2);
    dd_writer_free(writer);
    assert_int_equal(entries(s->dir), 1);
    assert_content(s, s->path, "old");
    assert_ok(s, dd_file_write_durable(s->path, "newer", 5, &s->err));
    assert_content(s, s->path, "newer");
    struct stat info;
    assert_int_equal(stat(s->path, &info), 0);
    assert_int_equal(info.st_mode & 07, 0); /* nothing for others */
}

static void test_writer_bad_paths(void **state) {
    struct scratch *s = *state;
    struct dd_writer *writer = NULL;
    char longest[5000];
    memset(longest, 'p', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_writer_open("", DD_WRITER_PLAIN, &writer, &s->err));
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_writer_open(at(s, "no/f"), DD_WRITER_PLAIN, &writer, &s->err));
    assert_fails(s, DD_IO, "io_error", dd_writer_open(longest, DD_WRITER_PLAIN, &writer, &s->err));
    longest[4090] = '\0';
    assert_fails(s, DD_IO, "io_error", dd_writer_open(longest, DD_WRITER_PLAIN, &writer, &s->err));
    assert_null(writer);
    assert_int_equal(mkdir(at(s, "d"), 0700), 0);
    assert_fails(s, DD_IO, "io_error", dd_file_write_durable(s->path, "x", 1, &s->err)); /* a directory is in the way */
    assert_int_equal(entries(s->dir), 1);
    assert_int_equal(symlink("/dev/full", at(s, "link")), 0);
    assert_ok(s, dd_file_write_durable(s->path, "x", 1, &s->err)); /* the link is replaced, not followed */
    assert_content(s, s->path, "x");
}

/* A real short write, then a real failure: the kernel lets the file grow to the limit and no further. */
static void test_writer_at_a_limit(void **state) {
    struct scratch *s = *state;
    static char content[3 << 20];
    struct rlimit old, small;
    put_text(at(s, "f"), "old");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){.rlim_cur = (1 << 20) + 777, .rlim_max = old.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum dd_status status = dd_file_write_durable(s->path, content, sizeof content, &s->err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, DD_IO);
    assert_non_null(strstr(s->err.message, strerror(EFBIG)));
    assert_content(s, s->path, "old");
    assert_int_equal(entries(s->dir), 1);
}

static void test_dir_make(void **state) {
    struct scratch *s = *state;
    struct stat info;
    char longest[5000];
    memset(longest, '/', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_ok(s, dd_dir_make(at(s, "a/b/c"), &s->err));
    assert_int_equal(stat(s->path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0750);
    assert_ok(s, dd_dir_make(s->path, &s->err)); /* again */
    assert_ok(s, dd_dir_make(at(s, "a//x/./y///"), &s->err));
    assert_true(exists(at(s, "a/x/y")));
    assert_ok(s, dd_dir_make("/", &s->err));
    put_text(at(s, "file"), "");
    assert_fails(s, DD_IO, "io_error", dd_dir_make(s->path, &s->err));
    assert_fails(s, DD_IO, "io_error", dd_dir_make(at(s, "file/below"), &s->err));
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_dir_make("", &s->err));
    assert_fails(s, DD_IO, "io_error", dd_dir_make(longest, &s->err));
    assert_int_equal(symlink("a", at(s, "link")), 0);
    assert_ok(s, dd_dir_make(at(s, "link/z"), &s->err)); /* a data directory may be a link */
    assert_true(exists(at(s, "a/z")));
    assert_int_equal(symlink("nowhere", at(s, "dangling")), 0);
    assert_fails(s, DD_IO, "io_error", dd_dir_make(s->path, &s->err));
    char old[PATH_MAX];
    assert_non_null(getcwd(old, sizeof old));
    assert_int_equal(chdir(s->dir), 0);
    assert_ok(s, dd_dir_make("relative", &s->err));
    assert_ok(s, dd_file_write_durable("bare", "x", 1, &s->err));
    assert_ok(s, dd_tree_remove("relative/", &s->err));
    assert_int_equal(chdir(old), 0);
    assert_false(exists(at(s, "relative")));
    assert_true(exists(at(s, "bare")));
    assert_ok(s, dd_dir_sync(s->dir, &s->err));
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_dir_sync(at(s, "none"), &s->err));
    assert_fails(s, DD_IO, "io_error", dd_dir_sync(at(s, "bare"), &s->err));
}

static void test_tree_remove(void **state) {
    struct scratch *s = *state;
    char target[600];
    assert_ok(s, dd_tree_remove(at(s, "missing"), &s->err));
    assert_ok(s, dd_tree_remove(at(s, "missing/deeper"), &s->err));
    assert_ok(s, dd_dir_make(at(s, "outside"), &s->err));
    snprintf(target, sizeof target, "%s", s->path);
    put_text(at(s, "outside/precious"), "keep me");
    assert_ok(s, dd_dir_make(at(s, "tree/a/b/c"), &s->err));
    for (int i = 0; i < 300; i++) { /* more than one read of the directory */
        char name[64];
        snprintf(name, sizeof name, "tree/a/file-with-a-long-name-%d", i);
        put_text(at(s, name), "x");
    }
    assert_int_equal(symlink(target, at(s, "tree/a/link")), 0);
    assert_int_equal(symlink("..", at(s, "tree/a/b/up")), 0);
    assert_int_equal(symlink("nowhere", at(s, "tree/dangling")), 0);
    assert_int_equal(mkfifo(at(s, "tree/fifo"), 0600), 0);
    assert_ok(s, dd_tree_remove(at(s, "tree//"), &s->err));
    assert_false(exists(at(s, "tree")));
    assert_content(s, at(s, "outside/precious"), "keep me");
    /* A link itself goes, what it points to stays, with a slash behind its name too. */
    assert_int_equal(symlink(target, at(s, "link")), 0);
    assert_ok(s, dd_tree_remove(at(s, "link/"), &s->err));
    assert_false(exists(at(s, "link")));
    assert_int_equal(symlink(target, at(s, "link")), 0);
    assert_ok(s, dd_tree_remove(at(s, "link"), &s->err));
    assert_content(s, at(s, "outside/precious"), "keep me");
    put_text(at(s, "single"), "x");
    assert_ok(s, dd_tree_remove(s->path, &s->err));
    assert_false(exists(s->path));
    assert_int_not_equal(dd_tree_remove("/proc/self/status", &s->err), DD_OK);
    char longest[5000];
    memset(longest, 'p', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_fails(s, DD_IO, "io_error", dd_tree_remove(longest, &s->err));
}

static void test_deep_trees(void **state) {
    struct scratch *s = *state;
    char path[512];
    uint64_t bytes = 0;
    int levels = 0;
    size_t len = (size_t)snprintf(path, sizeof path, "%s/deep", s->dir);
    for (; levels < 140 && len + 3 < sizeof path; levels++) {
        assert_int_equal(mkdir(path, 0700), 0);
        len += (size_t)snprintf(path + len, sizeof path - len, "/d");
    }
    assert_int_equal(levels, 140);
    assert_fails(s, DD_TOO_LARGE, "tree_too_deep", dd_tree_remove(at(s, "deep"), &s->err));
    assert_fails(s, DD_TOO_LARGE, "tree_too_deep", dd_tree_bytes(at(s, "deep"), &bytes, &s->err));
    char half[512];
    snprintf(half, sizeof half, "%.*s", (int)(strlen(s->dir) + 5 + 2 * 70), path);
    assert_ok(s, dd_tree_remove(half, &s->err));
    assert_ok(s, dd_tree_remove(at(s, "deep"), &s->err));
    assert_false(exists(at(s, "deep")));
}

static void test_tree_bytes(void **state) {
    struct scratch *s = *state;
    uint64_t bytes = 7;
    assert_ok(s, dd_dir_make(at(s, "t/a"), &s->err));
    assert_ok(s, dd_tree_bytes(at(s, "t"), &bytes, &s->err));
    assert_int_equal(bytes, 0);
    put_text(at(s, "t/a/x"), "12345");
    put_text(at(s, "t/y"), "678");
    assert_int_equal(symlink("y", at(s, "t/z")), 0);
    assert_int_equal(symlink("/", at(s, "t/root")), 0);
    assert_ok(s, dd_tree_bytes(at(s, "t"), &bytes, &s->err));
    assert_int_equal(bytes, 8);
    assert_ok(s, dd_tree_bytes(at(s, "t/y"), &bytes, &s->err));
    assert_int_equal(bytes, 3);
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_tree_bytes(at(s, "none"), &bytes, &s->err));
    assert_int_equal(bytes, 3);
}

static void test_path_join(void **state) {
    struct scratch *s = *state;
    char out[16];
    assert_ok(s, dd_path_join(out, sizeof out, &s->err, "a", "b", "c", NULL));
    assert_string_equal(out, "a/b/c");
    assert_ok(s, dd_path_join(out, sizeof out, &s->err, "/", "b", NULL));
    assert_string_equal(out, "/b");
    assert_ok(s, dd_path_join(out, sizeof out, &s->err, "a/", "b", NULL));
    assert_string_equal(out, "a/b");
    assert_ok(s, dd_path_join(out, sizeof out, &s->err, "only", NULL));
    assert_string_equal(out, "only");
    assert_ok(s, dd_path_join(out, sizeof out, &s->err, "0123456", "8901234", NULL)); /* just fits */
    assert_int_equal(strlen(out), 15);
    assert_fails(s, DD_TOO_LARGE, "path_too_long", dd_path_join(out, sizeof out, &s->err, "01234567", "9012345", NULL));
    assert_string_equal(out, "");
    assert_fails(s, DD_TOO_LARGE, "path_too_long", dd_path_join(out, sizeof out, &s->err, "012345678901234", "", NULL));
    assert_int_equal(dd_path_join(out, 0, NULL, "a", NULL), DD_TOO_LARGE);
}

static void test_disk_free(void **state) {
    struct scratch *s = *state;
    uint64_t available = 0, total = 0;
    assert_ok(s, dd_disk_free(s->dir, &available, &total, &s->err));
    assert_true(total > 0);
    assert_true(available <= total);
    assert_fails(s, DD_NOT_FOUND, "file_not_found", dd_disk_free(at(s, "none"), &available, &total, &s->err));
}

#ifdef DD_FAILPOINTS
#define ARM(...) assert_true(dd_failpoint_set("" __VA_ARGS__))

static void test_plans(void **state) {
    (void)state;
    static const char *const bad[] = {"write",      "write:1",      "write:0:EIO",   "write:x:EIO",    "write:1:NOPE",
                                      ":1:EIO",     "write:1-:EIO", "write:1:EIO,x", "write:1:EIO ",   "WRITE:1:EIO",
                                      "write:1+:0", "write@:1:EIO", "write@a",       "write@a:1++:EIO"};
    ARM("x:2:EIO,y:2+:ENOSPC");
    for (size_t i = 0; i < DD_ARRAY_LEN(bad); i++) {
        assert_false(dd_failpoint_set(bad[i]));
    }
    assert_int_equal(dd_failpoint("x"), 0);
    assert_int_equal(dd_failpoint("x"), EIO);
    assert_int_equal(dd_failpoint("x"), 0);
    assert_int_equal(dd_failpoint("y"), 0);
    assert_int_equal(dd_failpoint("y"), ENOSPC);
    assert_int_equal(dd_failpoint("y"), ENOSPC);
    assert_int_equal(dd_failpoint("z"), 0);
    ARM();
    assert_int_equal(dd_failpoint("y"), 0);
}

/* Each call of a durable write fails in turn: the old file stays or the new one is whole, and no temporary is left. */
static void test_every_write_failure(void **state) {
    struct scratch *s = *state;
    static const struct {
        const char *kind, *error;
        enum dd_status expected;
    } kinds[] = {
        {"open", "EMFILE", DD_IO},        {"write", "ENOSPC", DD_NO_SPACE},   {"fsync", "EIO", DD_IO},
        {"close", "EDQUOT", DD_NO_SPACE}, {"rename", "EACCES", DD_FORBIDDEN}, {"alloc", "ENOMEM", DD_NO_MEMORY},
        {"random", "ENOSYS", DD_IO}};
    static char content[(2 << 20) + 100];
    memset(content, 'n', sizeof content - 1);
    for (size_t kind = 0; kind < DD_ARRAY_LEN(kinds); kind++) {
        int failures = 0;
        for (int n = 1;; n++) {
            char plan[64];
            assert_true(n < 20);
            put_text(at(s, "f"), "old");
            snprintf(plan, sizeof plan, "%s:%d:%s", kinds[kind].kind, n, kinds[kind].error);
            assert_true(dd_failpoint_set(plan));
            struct dd_writer *writer = NULL;
            enum dd_status status = dd_writer_open(s->path, DD_WRITER_SHA256, &writer, &s->err);
            for (size_t done = 0; status == DD_OK && done < sizeof content - 1; done += (1 << 19) + 7) {
                status =
                    dd_writer_write(writer, content + done, DD_MIN(sizeof content - 1 - done, (1 << 19) + 7), &s->err);
            }
            status = status ? status : dd_writer_commit(writer, &s->err);
            if (status != DD_OK && writer) { /* it stays failed, and nothing is left even before the free */
                assert_int_equal(dd_writer_write(writer, "x", 1, NULL), status);
                assert_int_equal(dd_writer_commit(writer, NULL), status);
            }
            assert_int_equal(entries(s->dir), 1);
            dd_writer_free(writer);
            ARM();
            if (status == DD_OK) {
                assert_content(s, s->path, content);
                break;
            }
            failures++;
            assert_int_equal(status, kinds[kind].expected);
            DD_CLEANUP(dd_free_ptr) char *bytes = NULL;
            size_t len = 0;
            assert_ok(s, dd_file_read(s->path, sizeof content, &bytes, &len, &s->err));
            /* Only the directory's own open or fsync can fail after the rename. */
            bool late = n == 2 && (strcmp(kinds[kind].kind, "open") == 0 || strcmp(kinds[kind].kind, "fsync") == 0);
            assert_string_equal(bytes, late ? content : "old");
        }
        assert_true(failures > 0);
    }
}

static void test_interrupted_calls_go_on(void **state) {
    struct scratch *s = *state;
    put_text(at(s, "f"), "old");
    ARM("write:1:EINTR,random:1:EINTR");
    assert_ok(s, dd_file_write_durable(s->path, "new", 3, &s->err));
    ARM("read:1:EINTR");
    assert_content(s, s->path, "new");
    ARM();
}

static void test_other_failures(void **state) {
    struct scratch *s = *state;
    char *bytes = NULL;
    size_t len;
    struct dd_mapping mapping;
    uint64_t available, total;
    struct dd_buffer buffer;
    put_text(at(s, "f"), "content");
    ARM("open:1:EMFILE");
    assert_fails(s, DD_IO, "io_error", dd_file_read(s->path, 100, &bytes, &len, &s->err));
    ARM("read:1:EIO");
    assert_fails(s, DD_IO, "io_error", dd_file_read(s->path, 100, &bytes, &len, &s->err));
    ARM("alloc:1:ENOMEM");
    assert_fails(s, DD_NO_MEMORY, "out_of_memory", dd_file_read(s->path, 100, &bytes, &len, &s->err));
    ARM("mmap:1:ENOMEM");
    assert_fails(s, DD_NO_MEMORY, "out_of_memory", dd_mapping_open(s->path, &mapping, &s->err));
    ARM("statvfs:1:EIO");
    assert_fails(s, DD_IO, "io_error", dd_disk_free(s->dir, &available, &total, &s->err));
    ARM("mkdir:2:ENOSPC"); /* the first is /tmp, which is there */
    assert_fails(s, DD_NO_SPACE, "no_space", dd_dir_make(at(s, "a/b"), &s->err));
    ARM("fsync:1:EIO");
    assert_fails(s, DD_IO, "io_error", dd_dir_make(at(s, "a/b"), &s->err));
    ARM();
    assert_ok(s, dd_dir_make(at(s, "a/b"), &s->err));
    ARM("unlink:1:EIO");
    assert_fails(s, DD_IO, "io_error", dd_tree_remove(at(s, "a"), &s->err));
    ARM("unlink:3:EIO");
    assert_fails(s, DD_IO, "io_error", dd_tree_remove(at(s, "a"), &s->err));
    ARM("open:1:EMFILE");
    assert_fails(s, DD_IO, "io_error", dd_tree_remove(at(s, "a"), &s->err));
    ARM("open:1:EMFILE");
    assert_fails(s, DD_IO, "io_error", dd_tree_bytes(at(s, "a"), &total, &s->err));
    ARM("alloc:1:ENOMEM");
    dd_buffer_init(&buffer, 100);
    dd_buffer_puts(&buffer, "x");
    assert_fails(s, DD_NO_MEMORY, "out_of_memory", dd_buffer_check(&buffer, &s->err));
    dd_buffer_release(&buffer);
    ARM("alloc:1+:ENOMEM");
    struct dd_faults faults;
    dd_faults_init(&faults);
    dd_faults_add(&faults, "/a", "lost");
    assert_int_equal(faults.count, 0);
    assert_int_equal(faults.total, 1); /* the fact is not */
    assert_null(dd_strdup("x"));
    assert_null(dd_calloc(1, 1));
    assert_null(dd_calloc_aligned(1, 1));
    assert_null(dd_sha256_new());
    dd_buffer_init(&buffer, 10);
    assert_null(dd_buffer_take(&buffer, &len));
    ARM();
    dd_faults_release(&faults);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        SCRATCH(test_read),
        SCRATCH(test_mapping),
        SCRATCH(test_writer),
        SCRATCH(test_writer_without_commit),
        SCRATCH(test_writer_bad_paths),
        SCRATCH(test_writer_at_a_limit),
        SCRATCH(test_dir_make),
        SCRATCH(test_tree_remove),
        SCRATCH(test_deep_trees),
        SCRATCH(test_tree_bytes),
        SCRATCH(test_path_join),
        SCRATCH(test_disk_free),
#ifdef DD_FAILPOINTS /* make failpoints */
        PLAIN(test_plans),
        SCRATCH(test_every_write_failure),
        SCRATCH(test_interrupted_calls_go_on),
        SCRATCH(test_other_failures),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
