/* Uploaded archives.  Whatever comes in, only regular files with plain names come out, within the bound, in the one
 * directory asked for; after a failure nothing is left. */
#include <dirent.h>

#include "engine/engine.h"
#include "fuzz/fuzz.h"

#define MAX_BYTES ((uint64_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    struct dd_error err;
    char path[128], dir[128], inside[512];
    fuzz_file("input", bytes, count, path);
    (void)snprintf(dir, sizeof dir, "%s/out", fuzz_dir());
    enum dd_status status = dd_archive_extract(path, dir, MAX_BYTES, &err);
    fuzz_check_error(status, &err);
    DIR *opened = opendir(dir);
    FUZZ_CHECK((opened != NULL) == (status == DD_OK));
    uint64_t total = 0;
    for (struct dirent *entry; opened != NULL && (entry = readdir(opened)) != NULL;) {
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        (void)snprintf(inside, sizeof inside, "%s/%s", dir, entry->d_name);
        FUZZ_CHECK(lstat(inside, &info) == 0 && S_ISREG(info.st_mode));
        total += (uint64_t)info.st_size;
    }
    FUZZ_CHECK(total <= MAX_BYTES);
    if (opened != NULL) {
        (void)closedir(opened);
    }
    FUZZ_CHECK(dd_tree_remove(dir, &err) == DD_OK && unlink(path) == 0);
    opened = opendir(fuzz_dir());
    FUZZ_CHECK(opened != NULL);
    int left = -2; /* "." and ".." */
    while (readdir(opened) != NULL) {
        left++;
    }
    (void)closedir(opened);
    FUZZ_CHECK(left == 0);
    return 0;
}
