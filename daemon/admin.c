/* What the commands that look after a data directory share.
 * Threads: main.
 */
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/command.h"

#define SERVICE_DATA_DIR "/var/lib/distilld" /* StateDirectory= of systemd/distilld.service */

enum dd_status dd_chosen_data_dir(const struct dd_options *options, char out[PATH_MAX], struct dd_error *err) {
    if (options->data_dir != NULL)
        return dd_path_join(out, PATH_MAX, err, options->data_dir, NULL);
    return dd_default_data_dir(out, PATH_MAX, err);
}

enum dd_status dd_admin_data_dir(const struct dd_options *options, char out[PATH_MAX], struct dd_error *err) {
    if (options->data_dir == NULL && geteuid() == 0 && getenv("STATE_DIRECTORY") == NULL &&
        access(SERVICE_DATA_DIR, F_OK) == 0)
        return dd_path_join(out, PATH_MAX, err, SERVICE_DATA_DIR, NULL);
    return dd_chosen_data_dir(options, out, err);
}

enum dd_status dd_admin_become_owner(const char *dir, struct dd_error *err) {
    struct stat info;
    umask(0077);
    if (geteuid() != 0 || stat(dir, &info) != 0 || info.st_uid == 0)
        return DD_OK;
    if (setgroups(0, NULL) != 0 || setresgid(info.st_gid, info.st_gid, info.st_gid) != 0 ||
        setresuid(info.st_uid, info.st_uid, info.st_uid) != 0)
        return dd_fail_errno(err, errno, "cannot act as the owner of %s", dir);
    return DD_OK;
}
