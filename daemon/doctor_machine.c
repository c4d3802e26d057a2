/* The doctor on the machine and the configuration.
 * Threads: main.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <unistd.h>

#include "daemon/doctor.h"

#define LEAST_FILES 2048 /* connections, event readers, and what training opens */

static void look_at_processor(struct dd_findings *findings, const struct dd_options *options) {
    const char *cpu = dd_engine_cpu();
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (strcmp(cpu, "baseline") == 0)
        dd_finding(findings, DD_FINDING_WARN, "processor", "a processor with AVX2 trains several times as fast",
                   "kernels for %s, %ld cores", cpu, cores);
    else
        dd_finding(findings, DD_FINDING_OK, "processor", "", "kernels for %s, %ld cores, bf16 %s", cpu, cores,
                   dd_engine_has_bf16() ? "yes" : "no");
    if (options->threads > cores)
        dd_finding(findings, DD_FINDING_WARN, "threads", "give at most as many threads as there are cores",
                   "%lld threads on %ld cores", (long long)options->threads, cores);
    const char *blas = dd_engine_blas();
    if (blas != NULL)
        dd_finding(findings, DD_FINDING_OK, "BLAS", "", "%s", blas);
    else
        dd_finding(findings, DD_FINDING_FAIL, "BLAS", "install oneDNN and OpenBLAS (Debian: libdnnl2, libopenblas0)",
                   "the matrix library cannot be opened; nothing can be trained");
}

static void look_at_limits(struct dd_findings *findings) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return;
    bool few = files.rlim_cur < LEAST_FILES;
    dd_finding(findings, few ? DD_FINDING_WARN : DD_FINDING_OK, "open files",
               few ? "raise it: `ulimit -n 4096`, or LimitNOFILE= in the unit" : "", "at most %llu (of this shell)",
               (unsigned long long)files.rlim_cur);
}

static void look_at_clock(struct dd_findings *findings) {
    struct timex state = {0};
    char now[DD_TIME_TEXT_BYTES];
    int64_t wall_ms = dd_clock_wall_ms();
    dd_time_format(wall_ms, now);
    if (wall_ms < INT64_C(1700000000000))
        dd_finding(findings, DD_FINDING_FAIL, "clock", "set the clock: records and sessions go by it", "it is %s", now);
    else if (adjtimex(&state) >= 0 && (state.status & STA_UNSYNC) != 0)
        dd_finding(findings, DD_FINDING_WARN, "clock", "let a time service (systemd-timesyncd, chrony) keep it",
                   "%s, not synchronised", now);
    else
        dd_finding(findings, DD_FINDING_OK, "clock", "", "%s", now);
}

/* Whether a daemon has the data directory: it holds a lock as long as it runs. */
static bool daemon_runs(const char *data_dir) {
    char path[PATH_MAX];
    if (dd_path_join(path, sizeof path, NULL, data_dir, "distilld.db.lock", NULL) != DD_OK)
        return false;
    DD_CLEANUP(dd_close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

static void look_at_address(struct dd_findings *findings, const char *listen, bool running) {
    const char *colon = strrchr(listen, ':');
    char host[128];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    bool brackets = listen[0] == '[';
    int length = colon == NULL ? 0 : (int)(colon - listen) - 2 * brackets;
    snprintf(host, sizeof host, "%.*s", DD_MAX(length, 0), listen + brackets);
    int failed = length > 0 ? getaddrinfo(host, colon + 1, &hints, &found) : EAI_NONAME;
    if (failed != 0) {
        dd_finding(findings, DD_FINDING_FAIL, "address", "write ADDRESS:PORT, for instance 127.0.0.1:8080", "%s: %s",
                   listen, gai_strerror(failed));
        return;
    }
    DD_CLEANUP(dd_close_fd) int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    errno = 0;
    if (fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0)
        dd_finding(findings, DD_FINDING_OK, "address", "", "%s is free", listen);
    else if (errno == EADDRINUSE && running)
        dd_finding(findings, DD_FINDING_OK, "address", "", "%s is taken, and a daemon runs on this data directory",
                   listen);
    else
        dd_finding(findings, DD_FINDING_FAIL, "address", "choose another with --listen, or stop what is there",
                   "%s: %s", listen, strerror(errno));
    freeaddrinfo(found);
}

static void look_at_file(struct dd_findings *findings, const char *check, const char *path, bool secret) {
    struct stat info;
    if (path == NULL)
        return;
    if (access(path, R_OK) != 0 || stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        dd_finding(findings, DD_FINDING_FAIL, check, "the daemon must be able to read it", "%s: %s", path,
                   errno != 0 ? strerror(errno) : "not a file");
    else if (secret && (info.st_mode & 0077) != 0)
        dd_finding(findings, DD_FINDING_WARN, check, "chmod 600 it", "%s can be read by others than its owner", path);
    else
        dd_finding(findings, DD_FINDING_OK, check, "", "%s", path);
}

static void look_at_access(struct dd_findings *findings, const struct dd_options *o, const char *listen,
                           const char *data_dir) {
    struct dd_token_source source;
    struct dd_token_list list = {NULL, 0};
    struct dd_error err = {0};
    if (dd_token_source_open(&source, data_dir, o->token_file, listen, &err) != DD_OK) {
        dd_finding(findings, DD_FINDING_FAIL, "tokens", "`distilld token` makes and lists them", "%s", err.message);
    } else {
        if (dd_token_list_read(data_dir, &list, &err) != DD_OK)
            list.count = 0;
        dd_finding(findings, DD_FINDING_OK, "tokens", "", "%zu%s%s", list.count,
                   o->token_file != NULL ? " and that of token-file" : "",
                   source.required ? "" : "; loopback needs none");
        dd_token_list_release(&list);
    }
    if (!dd_is_loopback(listen) && o->tls_cert == NULL)
        dd_finding(findings, DD_FINDING_WARN, "TLS", "give --tls-cert and --tls-key, or let a proxy speak TLS",
                   "%s without TLS: tokens and texts can be read on the way", listen);
    if ((o->tls_cert == NULL) != (o->tls_key == NULL))
        dd_finding(findings, DD_FINDING_FAIL, "TLS", "give both --tls-cert and --tls-key", "one without the other");
    look_at_file(findings, "TLS cert", o->tls_cert, false);
    look_at_file(findings, "TLS key", o->tls_key, true);
    for (int i = 0; o->model_roots[i] != NULL; i++) {
        bool good = access(o->model_roots[i], R_OK | X_OK) == 0;
        dd_finding(findings, good ? DD_FINDING_OK : DD_FINDING_WARN, "model root",
                   good ? "" : "make it, or take it out of the configuration", "%s%s%s", o->model_roots[i],
                   good ? "" : ": ", good ? "" : strerror(errno));
    }
}

void dd_doctor_machine(struct dd_findings *findings, const struct dd_options *options, const char *data_dir) {
    const char *listen = options->listen != NULL ? options->listen : "127.0.0.1:8080";
    look_at_processor(findings, options);
    look_at_limits(findings);
    look_at_clock(findings);
    look_at_address(findings, listen, daemon_runs(data_dir));
    look_at_access(findings, options, listen, data_dir);
}
