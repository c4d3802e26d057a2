/* Which thread takes the process's signals.
 *
 * Two things rule out handlers that do work wherever they happen to run.  A signal's frame is written below the stack
 * pointer of the thread it interrupts, but for 128 bytes (the x86-64 ABI's red zone); oneDNN's sgemm keeps more than
 * that there, so a handler on a thread that multiplies spoils its operands and then the heap.  And OpenBLAS starts a
 * thread before main(), which blocks nothing: the kernel would hand it a signal that all of ours block, and do what
 * the signal does by default.  So all of our threads block the signals, one waits for them, and on a library's thread
 * a handler passes them on to that one.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "daemon/daemon.h"

static _Atomic(pthread_t) waiter;

static void pass_on(int number) {
    pthread_kill(atomic_load(&waiter), number);
}

void dd_signals_block(const sigset_t *signals) {
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
}

void dd_signals_send_to(pthread_t thread, const sigset_t *signals) {
    struct sigaction action = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
    atomic_store(&waiter, thread);
    for (int number = 1; number < NSIG; number++)
        if (sigismember(signals, number) == 1)
            sigaction(number, &action, NULL);
}
