/* A link(2) that does not come back while the file $BLOCK_FILE exists: how a worker gets stuck in a test of the
 * watchdog. Loaded into the daemon with LD_PRELOAD. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int link(const char *from, const char *to) {
    const char *file = getenv("BLOCK_FILE");
    while (file != NULL && access(file, F_OK) == 0)
        usleep(5000);
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}
