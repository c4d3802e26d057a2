/* pool: threads that help running experiments, shared among them.
 *
 * A pool of `threads` has threads - 1 helpers; the thread that calls dd_team_for is always one of its team's workers.
 * Each helper belongs to one team or to none (idle).  A team's right is threads / teams, the first teams one more; it
 * takes and gives helpers only in dd_team_step, so within a step nobody's speed changes by another's coming.
 *
 * A job is published in the team's `gate`: bit OPEN says that chunks may be taken, the low bits count helpers inside,
 * bit WAITING that the caller sleeps until the last of them leaves.  A helper enters by adding one while OPEN; the
 * caller closes the gate when no chunk is left and waits only for those inside, so a helper that wakes late costs
 * nothing.  fn, context and n_chunks change only while the gate is closed and nobody is inside.  A helper that was
 * given to another team a moment ago may still help its old one once: harmless, since results do not depend on who
 * works.
 *
 * Helpers and waiting callers spin some microseconds, then sleep in futex(2).  Teams live in an array of the pool, so
 * a late helper never looks at freed memory.
 */
#include "engine/pool.h"

#include "engine/blas.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_THREADS 1024
#define MAX_TEAMS 1024
#define NICE_STEP 5 /* a third of the others' weight, where all want the same core */
#define SPINS 1500  /* × pause, some 20 to 60 µs */

#define GATE_INSIDE 0xffffu
#define GATE_OPEN 0x10000u
#define GATE_WAITING 0x20000u

struct dd_team {
    _Alignas(64) atomic_uint gate;
    _Alignas(64) atomic_int next_chunk;
    int n_chunks;
    void (*fn)(void *context, int chunk);
    void *context;
    struct dd_pool *pool;
    bool joined;             /* under pool->lock */
    int n_helpers;           /* own thread only */
    struct helper **helpers; /* [threads - 1], own thread only */
};

struct helper {
    _Alignas(64) atomic_uint signal; /* counts wake-ups; futex */
    atomic_bool asleep;
    _Atomic(struct dd_team *) team;
    struct dd_pool *pool;
    int lane;
    pthread_t thread;
};

struct dd_pool {
    int threads, n_started;
    struct helper *helpers; /* [threads - 1] */
    atomic_bool stop;
    atomic_bool gives_way;
    pthread_mutex_t lock;
    struct dd_team *teams; /* [MAX_TEAMS] */
    struct helper **owned; /* [MAX_TEAMS, threads - 1]: the teams' helper lists */
    struct helper **idle;  /* under lock */
    int n_idle, n_joined;  /* under lock */
};

static _Thread_local int own_lane;

int dd_team_lane(void) {
    return own_lane;
}

static void relax(void) {
    __builtin_ia32_pause();
}

static void futex_sleep(atomic_uint *word, unsigned seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void run_chunks(struct dd_team *team) {
    int n_chunks = team->n_chunks;
    for (;;) {
        int chunk = atomic_fetch_add_explicit(&team->next_chunk, 1, memory_order_relaxed);
        if (chunk >= n_chunks) {
            return;
        }
        team->fn(team->context, chunk);
    }
}

static void help(struct dd_team *team) {
    unsigned gate = atomic_load_explicit(&team->gate, memory_order_relaxed);
    do {
        if ((gate & GATE_OPEN) == 0) {
            return;
        }
    } while (!atomic_compare_exchange_weak_explicit(&team->gate, &gate, gate + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    run_chunks(team);
    unsigned left = atomic_fetch_sub_explicit(&team->gate, 1, memory_order_release) - 1;
    if (left == GATE_WAITING) {
        futex_wake(&team->gate);
    }
}

static void wait_signal(struct helper *helper, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&helper->signal, memory_order_acquire) != seen) {
            return;
        }
        relax();
    }
    atomic_store(&helper->asleep, true);
    while (atomic_load(&helper->signal) == seen) {
        futex_sleep(&helper->signal, seen);
    }
    atomic_store_explicit(&helper->asleep, false, memory_order_relaxed);
}

void dd_thread_give_way(void) {
    int ignored = nice(NICE_STEP); /* of this thread alone, in Linux; where it is refused nothing is lost */
    (void)ignored;
}

void dd_pool_give_way(struct dd_pool *pool) {
    atomic_store_explicit(&pool->gives_way, true, memory_order_relaxed);
}

static void *helper_main(void *argument) {
    struct helper *helper = argument;
    pthread_setname_np(pthread_self(), "pool");
    own_lane = helper->lane;
    unsigned seen = 0;
    bool gave_way = false;
    while (!atomic_load_explicit(&helper->pool->stop, memory_order_relaxed)) {
        if (!gave_way && atomic_load_explicit(&helper->pool->gives_way, memory_order_relaxed)) {
            gave_way = true;
            dd_thread_give_way();
        }
        struct dd_team *team = atomic_load_explicit(&helper->team, memory_order_acquire);
        if (team != NULL) {
            help(team);
        }
        wait_signal(helper, seen);
        seen = atomic_load_explicit(&helper->signal, memory_order_acquire);
    }
    return NULL;
}

static void signal_helper(struct helper *helper) {
    atomic_fetch_add(&helper->signal, 1);
    if (atomic_load(&helper->asleep)) {
        futex_wake(&helper->signal);
    }
}

static enum dd_status start_helpers(struct dd_pool *pool, struct dd_error *err) {
    for (int i = 0; i < pool->threads - 1; i++) {
        struct helper *helper = &pool->helpers[i];
        helper->pool = pool;
        helper->lane = i + 1;
        pool->idle[pool->n_idle++] = helper;
        int failure = pthread_create(&helper->thread, NULL, helper_main, helper);
        if (failure != 0) {
            return dd_fail(err, DD_NO_MEMORY, "thread_start_failed", "cannot start compute thread %d of %d: error %d",
                           i + 2, pool->threads, failure);
        }
        pool->n_started++;
    }
    return DD_OK;
}

enum dd_status dd_pool_new(int threads, struct dd_pool **ret_pool, struct dd_error *err) {
    if (threads < 1 || threads > MAX_THREADS) {
        return dd_fail(err, DD_INVALID, "threads_out_of_range", "threads is %d; it must be between 1 and %d", threads,
                       MAX_THREADS);
    }
    size_t n_helpers = (size_t)threads - 1;
    struct dd_pool *pool = dd_calloc(1, sizeof *pool);
    if (pool == NULL) {
        return dd_fail_memory(err, sizeof *pool);
    }
    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pool->helpers = dd_calloc_aligned(n_helpers + 1, sizeof *pool->helpers);
    pool->teams = dd_calloc_aligned(MAX_TEAMS, sizeof *pool->teams);
    pool->owned = dd_calloc(MAX_TEAMS * (n_helpers + 1), sizeof(struct helper *));
    pool->idle = dd_calloc(n_helpers + 1, sizeof(struct helper *));
    if (pool->helpers == NULL || pool->teams == NULL || pool->owned == NULL || pool->idle == NULL) {
        dd_pool_free(pool);
        return dd_fail_memory(err, MAX_TEAMS * sizeof *pool->teams);
    }
    enum dd_status status = start_helpers(pool, err);
    if (status != DD_OK) {
        dd_pool_free(pool);
        return status;
    }
    *ret_pool = pool;
    return DD_OK;
}

void dd_pool_free(struct dd_pool *pool) {
    if (pool == NULL) {
        return;
    }
    assert(pool->n_joined == 0);
    atomic_store(&pool->stop, true);
    for (int i = 0; i < pool->n_started; i++) {
        signal_helper(&pool->helpers[i]);
        pthread_join(pool->helpers[i].thread, NULL);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool->helpers);
    free(pool->teams);
    free(pool->owned);
    free(pool->idle);
    free(pool);
}

int dd_pool_threads(const struct dd_pool *pool) {
    return pool->threads;
}

int dd_team_lanes(const struct dd_team *team) {
    return team->pool->threads;
}

/* Helpers this team may have now.  Under lock. */
static int helpers_due(const struct dd_pool *pool, const struct dd_team *team) {
    int rank = 0;
    for (const struct dd_team *other = pool->teams; other < team; other++) {
        rank += other->joined ? 1 : 0;
    }
    int share = pool->threads / pool->n_joined + (rank < pool->threads % pool->n_joined ? 1 : 0);
    return DD_MAX(share - 1, 0);
}

/* Under lock. */
static void give_helpers(struct dd_team *team, int keep_helpers) {
    while (team->n_helpers > keep_helpers) {
        struct helper *helper = team->helpers[--team->n_helpers];
        atomic_store_explicit(&helper->team, NULL, memory_order_release);
        team->pool->idle[team->pool->n_idle++] = helper;
    }
}

void dd_team_step(struct dd_team *team) {
    struct dd_pool *pool = team->pool;
    if (pool->threads == 1) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    int due = helpers_due(pool, team);
    give_helpers(team, due);
    while (team->n_helpers < due && pool->n_idle > 0) {
        struct helper *helper = pool->idle[--pool->n_idle];
        atomic_store_explicit(&helper->team, team, memory_order_release);
        team->helpers[team->n_helpers++] = helper;
    }
    pthread_mutex_unlock(&pool->lock);
}

enum dd_status dd_team_join(struct dd_pool *pool, struct dd_team **ret_team, struct dd_error *err) {
    struct dd_team *team = NULL;
    enum dd_status status = dd_blas_open(err);
    if (status != DD_OK) {
        return status;
    }
    pthread_mutex_lock(&pool->lock);
    for (int i = 0; i < MAX_TEAMS && team == NULL; i++) {
        if (!pool->teams[i].joined) {
            team = &pool->teams[i];
            team->helpers = pool->owned + (size_t)i * (size_t)pool->threads;
            team->pool = pool;
            team->joined = true;
            pool->n_joined++;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    if (team == NULL) {
        return dd_fail(err, DD_BUSY, "too_many_teams", "%d computations share the cores already; try again later",
                       MAX_TEAMS);
    }
    dd_team_step(team);
    *ret_team = team;
    return DD_OK;
}

void dd_team_leave(struct dd_team *team) {
    if (team == NULL) {
        return;
    }
    struct dd_pool *pool = team->pool;
    pthread_mutex_lock(&pool->lock);
    give_helpers(team, 0);
    team->joined = false;
    pool->n_joined--;
    pthread_mutex_unlock(&pool->lock);
}

/* Closes the gate and waits for the helpers inside. */
static void close_gate(struct dd_team *team) {
    unsigned gate = atomic_fetch_and_explicit(&team->gate, ~GATE_OPEN, memory_order_acquire) & ~GATE_OPEN;
    for (int i = 0; (gate & GATE_INSIDE) != 0 && i < SPINS; i++) {
        relax();
        gate = atomic_load_explicit(&team->gate, memory_order_acquire);
    }
    while ((gate & GATE_INSIDE) != 0) {
        gate = atomic_fetch_or(&team->gate, GATE_WAITING) | GATE_WAITING;
        if ((gate & GATE_INSIDE) != 0) {
            futex_sleep(&team->gate, gate);
            gate = atomic_load_explicit(&team->gate, memory_order_acquire);
        }
    }
    atomic_store_explicit(&team->gate, 0, memory_order_relaxed);
}

void dd_team_for(struct dd_team *team, int n_chunks, void (*fn)(void *context, int chunk), void *context) {
    if (team->n_helpers == 0 || n_chunks <= 1) {
        for (int chunk = 0; chunk < n_chunks; chunk++) {
            fn(context, chunk);
        }
        return;
    }
    team->fn = fn;
    team->context = context;
    team->n_chunks = n_chunks;
    atomic_store_explicit(&team->next_chunk, 0, memory_order_relaxed);
    atomic_store_explicit(&team->gate, GATE_OPEN, memory_order_release);
    for (int i = 0; i < DD_MIN(team->n_helpers, n_chunks - 1); i++) {
        signal_helper(team->helpers[i]);
    }
    run_chunks(team);
    close_gate(team);
}
