/* What `distilld run` works with instead of a daemon: data set and models by path, or by name in a data directory.
 */
#ifndef DD_DAEMON_LOCAL_H
#define DD_DAEMON_LOCAL_H

#include "daemon/daemon.h"

struct dd_local {
    struct dd_daemon daemon; /* data directory, pool and cache only; no storage, no workers, no HTTP */
    struct dd_setup setup;
    char work_dir[PATH_MAX]; /* DATA-DIR/foreground/<key> */
};
/* text: the spec's JSON.  On failure nothing is kept; faults of the spec are in faults. */
enum dd_status dd_local_open(struct dd_local *local, const struct dd_options *options, const char *text,
                             struct dd_faults *faults, struct dd_error *err) DD_MUST_CHECK;
void dd_local_close(struct dd_local *local);
/* A file of text, or a directory with train, dev, … files, as a data set in dir, which is made anew each time: the
 * files may have changed.  Bad rows go into faults. */
enum dd_status dd_local_import(const char *path, const char *dir, struct dd_faults *faults,
                               struct dd_error *err) DD_MUST_CHECK;

#endif
