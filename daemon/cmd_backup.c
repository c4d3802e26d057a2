/* distilld backup, distilld restore.
 * Threads: main.
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/backup.h"
#include "daemon/command.h"

/* Root makes the directory for the owner of the data, who then fills it. */
static enum dd_status hand_over(const char *dest, const char *data_dir, struct dd_error *err) {
    struct stat info;
    enum dd_status status = dd_dir_make(dest, err);
    if (status == DD_OK && geteuid() == 0 && stat(data_dir, &info) == 0 && chown(dest, info.st_uid, info.st_gid) != 0)
        status = dd_fail_errno(err, errno, "%s", dest);
    return status == DD_OK ? dd_admin_become_owner(data_dir, err) : status;
}

int dd_backup_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_backup_report report;
    char dir[PATH_MAX], db[PATH_MAX];
    enum dd_status status = dd_admin_data_dir(options, dir, &err);
    if (status == DD_OK)
        status = dd_path_join(db, sizeof db, &err, dir, "distilld.db", NULL);
    if (status == DD_OK && access(db, F_OK) != 0)
        status = dd_fail(&err, DD_NOT_FOUND, "no_database", "%s is no data directory of distilld", dir);
    if (status == DD_OK)
        status = hand_over(args[0], dir, &err);
    if (status == DD_OK)
        status = dd_backup(dir, args[0], &report, &err);
    if (status != DD_OK)
        return dd_report_error(&err);
    printf("%" PRIu64 " files, %" PRIu64 " bytes in %s\n", report.files, report.bytes, args[0]);
    if (report.elsewhere > 0)
        fprintf(stderr, "%d model%s registered from outside %s %s not in it.\n", report.elsewhere,
                report.elsewhere == 1 ? "" : "s", dir, report.elsewhere == 1 ? "is" : "are");
    return 0;
}

int dd_restore_command(const struct dd_options *options, const char *const *args) {
    struct dd_error err = {0};
    struct dd_backup_report report;
    char dir[PATH_MAX];
    enum dd_status status = dd_admin_data_dir(options, dir, &err);
    if (status == DD_OK)
        status = dd_admin_become_owner(dir, &err);
    if (status == DD_OK)
        status = dd_restore(args[0], dir, &report, &err);
    if (status != DD_OK)
        return dd_report_error(&err);
    printf("%" PRIu64 " files, %" PRIu64 " bytes in %s\n", report.files, report.bytes, dir);
    return 0;
}
