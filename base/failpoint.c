/* failpoint: planned faults, in test builds (-DDD_FAILPOINTS) only.
 *
 * A plan is a comma-separated list of KIND:N:ERRNO or KIND:N+:ERRNO: the N-th call of dd_failpoint(KIND), counted from
 * when the plan was set, fails with that errno; with + so do all after it.  It comes from DISTILLD_FAIL at the first
 * call, or from dd_failpoint_set.  A plan that cannot be read is reported on standard error and nothing is armed.
 */
#include "base/base.h"

#ifdef DD_FAILPOINTS

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_POINTS 16

struct point {
    char kind[16];
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

static bool parse_point(const char *text, struct point *ret_point) {
    char name[16];
    struct point point = {0};
    char plus = 0;
    int used = 0;
    if (sscanf(text, "%15[a-z]:%lu:%15[A-Z0-9]%n", point.kind, &point.at, name, &used) != 3 || text[used]) {
        used = 0;
        if (sscanf(text, "%15[a-z]:%lu%c:%15[A-Z0-9]%n", point.kind, &point.at, &plus, name, &used) != 4 ||
            plus != '+' || text[used]) {
            return false;
        }
    }
    point.onwards = plus == '+';
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
    char copy[512];
    if (snprintf(copy, sizeof copy, "%s", plan ? plan : "") >= (int)sizeof copy) {
        return false;
    }
    char *rest = NULL;
    for (char *item = strtok_r(copy, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        if (count == MAX_POINTS || !parse_point(item, &parsed[count++])) {
            return false;
        }
    }
    pthread_mutex_lock(&lock);
    memcpy(points, parsed, count * sizeof *points);
    n_points = count;
    pthread_mutex_unlock(&lock);
    return true;
}

static void read_environment(void) {
    const char *plan = getenv("DISTILLD_FAIL");
    if (plan && !set_plan(plan)) {
        fprintf(stderr, "DISTILLD_FAIL=%s: expected KIND:N[+]:ERRNO, comma-separated\n", plan);
    }
}

bool dd_failpoint_set(const char *plan) {
    pthread_once(&from_environment, read_environment);
    return set_plan(plan);
}

int dd_failpoint(const char *kind) {
    pthread_once(&from_environment, read_environment);
    int number = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_points; i++) {
        struct point *point = &points[i];
        if (strcmp(point->kind, kind) != 0) {
            continue;
        }
        point->calls++;
        if (point->calls == point->at || (point->onwards && point->calls > point->at)) {
            number = point->number;
        }
    }
    pthread_mutex_unlock(&lock);
    return number;
}

#endif
