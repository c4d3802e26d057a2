/* failpoint: planned faults, in test builds (-DDD_FAILPOINTS) only.
 *
 * A plan is a comma-separated list of KIND[@THREAD]:N[+]:ERRNO: the N-th call of dd_failpoint(KIND), counted from when
 * the plan was set, fails with that errno; with + so do all after it.  With @THREAD only calls of threads of that name
 * count and fail.  The plan comes from DISTILLD_FAIL at the first call, or from dd_failpoint_set.  One that cannot be
 * read is reported on standard error and nothing is armed.
 *
 * A test of the whole daemon changes the plan while it runs, through a file named by DISTILLD_FAIL_CONTROL that both
 * have mapped or open: struct control below, in the machine's byte order.  The test writes the plan, then adds 1 to
 * `wanted`; the next call of dd_failpoint in any thread arms the plan, clears the counts and sets `armed` to `wanted`.
 */
#include "base/base.h"

#ifdef DD_FAILPOINTS

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_POINTS 16
#define PLAN_BYTES 512

struct control {
    atomic_uint wanted, armed;
    uint64_t injected; /* faults since the plan was armed */
    uint64_t calls;    /* that the plan's first point counted: how many positions there are */
    char unused[40];
    char plan[PLAN_BYTES];
};

struct point {
    char kind[16];
    char thread[16]; /* "": any */
    unsigned long at;
    unsigned long calls;
    bool onwards;
    int number;
};

static const struct {
    const char *name;
    int number;
} errno_names[] = {
    {"ENOSPC", ENOSPC}, {"EIO", EIO},       {"ENOMEM", ENOMEM}, {"EINTR", EINTR},
    {"EACCES", EACCES}, {"EMFILE", EMFILE}, {"EROFS", EROFS},   {"EBUSY", EBUSY},
    {"EDQUOT", EDQUOT}, {"ENOENT", ENOENT}, {"EAGAIN", EAGAIN}, {"ENOSYS", ENOSYS},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t from_environment = PTHREAD_ONCE_INIT;
static struct point points[MAX_POINTS];
static size_t n_points;
static struct control *control; /* NULL: no file */

static bool parse_point(const char *text, struct point *ret_point) {
    char name[16];
    struct point point = {0};
    int used = 0;
    if (sscanf(text, "%15[a-z]%n", point.kind, &used) != 1) {
        return false;
    }
    text += used;
    if (*text == '@') {
        if (sscanf(text, "@%15[a-zA-Z-]%n", point.thread, &used) != 1) {
            return false;
        }
        text += used;
    }
    if (*text != ':' || sscanf(text, ":%lu%n", &point.at, &used) != 1) {
        return false;
    }
    text += used;
    point.onwards = *text == '+';
    text += point.onwards;
    if (sscanf(text, ":%15[A-Z0-9]%n", name, &used) != 1 || text[used]) {
        return false;
    }
    for (size_t i = 0; i < DD_ARRAY_LEN(errno_names); i++) {
        if (strcmp(errno_names[i].name, name) == 0) {
            point.number = errno_names[i].number;
        }
    }
    if (point.number == 0 || point.at == 0) {
        return false;
    }
    *ret_point = point;
    return true;
}

static bool set_plan(const char *plan) {
    struct point parsed[MAX_POINTS];
    size_t count = 0;
    char copy[PLAN_BYTES];
    if (snprintf(copy, sizeof copy, "%s", plan ? plan : "") >= (int)sizeof copy) {
        return false;
    }
    char *rest = NULL;
    for (char *item = strtok_r(copy, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        if (count == MAX_POINTS || !parse_point(item, &parsed[count++])) {
            return false;
        }
    }
    memcpy(points, parsed, count * sizeof *points);
    n_points = count;
    return true;
}

static void map_control(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        fprintf(stderr, "DISTILLD_FAIL_CONTROL=%s: %s\n", path, strerror(errno));
    } else {
        control = mapped;
    }
    dd_close_fd(&fd);
}

static void read_environment(void) {
    const char *plan = getenv("DISTILLD_FAIL");
    const char *path = getenv("DISTILLD_FAIL_CONTROL");
    if (plan && !set_plan(plan)) {
        fprintf(stderr, "DISTILLD_FAIL=%s: expected KIND[@THREAD]:N[+]:ERRNO, comma-separated\n", plan);
    }
    if (path) {
        map_control(path);
    }
}

bool dd_failpoint_set(const char *plan) {
    pthread_once(&from_environment, read_environment);
    pthread_mutex_lock(&lock);
    bool read = set_plan(plan);
    pthread_mutex_unlock(&lock);
    return read;
}

/* With the lock held: arms what the control file asks for. */
static void obey_control(void) {
    unsigned wanted = control ? atomic_load(&control->wanted) : 0;
    if (!control || wanted == atomic_load(&control->armed)) {
        return;
    }
    char plan[PLAN_BYTES];
    snprintf(plan, sizeof plan, "%.*s", PLAN_BYTES - 1, control->plan);
    if (!set_plan(plan)) {
        fprintf(stderr, "the plan \"%s\" in DISTILLD_FAIL_CONTROL cannot be read\n", plan);
        return;
    }
    control->injected = 0;
    control->calls = 0;
    atomic_store(&control->armed, wanted);
}

static bool thread_matches(const struct point *point) {
    char own[16] = "";
    return !point->thread[0] ||
           (pthread_getname_np(pthread_self(), own, sizeof own) == 0 && strcmp(own, point->thread) == 0);
}

int dd_failpoint(const char *kind) {
    pthread_once(&from_environment, read_environment);
    int number = 0;
    pthread_mutex_lock(&lock);
    obey_control();
    for (size_t i = 0; i < n_points; i++) {
        struct point *point = &points[i];
        if (strcmp(point->kind, kind) != 0 || !thread_matches(point)) {
            continue;
        }
        point->calls++;
        if (point->calls == point->at || (point->onwards && point->calls > point->at)) {
            number = point->number;
        }
        if (control && i == 0) {
            control->calls = point->calls;
        }
    }
    if (control && number) {
        control->injected++;
    }
    pthread_mutex_unlock(&lock);
    return number;
}

#endif
