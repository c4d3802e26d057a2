/* Backups of a data directory, and the way back.  Format and order: backup.c.
 */
#ifndef DD_DAEMON_BACKUP_H
#define DD_DAEMON_BACKUP_H

#include "daemon/daemon.h"

struct dd_backup_report {
    uint64_t files, bytes;
    int elsewhere; /* models registered from outside the data directory, which are not in it */
};
/* dest: missing or empty, not inside data_dir.  While the daemon runs or not.  After a failure dest has no MANIFEST. */
enum dd_status dd_backup(const char *data_dir, const char *dest, struct dd_backup_report *ret_report,
                         struct dd_error *err) DD_MUST_CHECK;
/* data_dir: missing or empty, else DD_CONFLICT.  Every file is held against its checksum; DD_CORRUPT where one differs,
 * and then data_dir is empty again. */
enum dd_status dd_restore(const char *source, const char *data_dir, struct dd_backup_report *ret_report,
                          struct dd_error *err) DD_MUST_CHECK;

#endif
