/* No thread ever runs a signal handler: all block the signals, and one waits for them with sigwait(3).
 *
 * A signal's frame is written below the stack pointer of the thread it interrupts, but for 128 bytes (the x86-64 ABI's
 * red zone); oneDNN's sgemm keeps more than that there, so a handler on a thread that multiplies spoils its operands
 * and then the heap.
 */
#include <pthread.h>
#include <signal.h>

#include "daemon/daemon.h"

void dd_signals_block(const sigset_t *signals) {
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
}
