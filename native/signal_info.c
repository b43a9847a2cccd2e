/* Who sent a signal, kept for a handler that is told its number alone.
 *
 *     kernel ──> record() ── writes ──> slots[signal] <── reads ── kin_signal_recorded()
 *                   └──> the handler that was there, which makes Python call a function, later
 *
 * Rules:
 * 1. A slot holds the latest arrival: what is called later is called once for several.
 * 2. It is a sequence lock. The sequence is odd while a handler writes. A handler that finds it so,
 *    in another thread, writes nothing: the two arrived at once, and one of them is the latest. So
 *    nobody waits inside a handler.
 * 3. Here are only atomics and sigaction(2), which signal-safety(7) allows in a handler.
 * 4. A fault that the processor raised is not recorded: going back to the instruction would raise
 *    it again, for ever. The default action is restored, and the repetition ends the process as it
 *    would have ended without a handler.
 */

#include "signal_info.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424 /* on every architecture */
#endif

enum { NOTHING = INT_MIN }; /* a code that no signal has */

struct slot {
    _Atomic uint32_t sequence;
    _Atomic uint64_t who;  /* pid, uid */
    _Atomic uint64_t what; /* code, value */
};

typedef void (*handler)(int);

static struct slot slots[NSIG];
static _Atomic(handler) handlers[NSIG]; /* what is called afterwards */

static uint64_t
pair(int high, unsigned int low)
{
    return (uint64_t)(uint32_t)high << 32 | low;
}

static void
write_slot(struct slot *slot, const struct kin_signal_info *info)
{
    uint32_t before = atomic_load_explicit(&slot->sequence, memory_order_relaxed);
    if (before % 2 != 0 ||
        !atomic_compare_exchange_strong_explicit(&slot->sequence, &before, before + 1,
                                                 memory_order_acquire, memory_order_relaxed))
        return;
    /* SYNC POINT with kin_signal_recorded: what follows is not seen before the odd number. */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&slot->who, pair(info->pid, info->uid), memory_order_relaxed);
    atomic_store_explicit(&slot->what, pair(info->code, (unsigned int)info->value),
                          memory_order_relaxed);
    atomic_store_explicit(&slot->sequence, before + 2, memory_order_release);
}

static void
record(int signal_number, siginfo_t *siginfo, void *context)
{
    (void)context;
    int is_fault = signal_number == SIGSEGV || signal_number == SIGBUS ||
                   signal_number == SIGFPE || signal_number == SIGILL;
    if (is_fault && siginfo->si_code > 0) {
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        sigaction(signal_number, &fatal, NULL);
        return;
    }
    struct kin_signal_info info = {siginfo->si_code, siginfo->si_pid, siginfo->si_uid,
                                   siginfo->si_value.sival_int};
    write_slot(&slots[signal_number], &info);
    handler next = atomic_load_explicit(&handlers[signal_number], memory_order_acquire);
    next(signal_number);
}

int
kin_signal_record(int signal_number)
{
    struct sigaction action;
    if (sigaction(signal_number, NULL, &action) < 0)
        return errno;
    if (action.sa_flags & SA_SIGINFO || action.sa_handler == SIG_DFL ||
        action.sa_handler == SIG_IGN)
        return EINVAL;
    const struct kin_signal_info nothing = {.code = NOTHING};
    write_slot(&slots[signal_number], &nothing);
    atomic_store_explicit(&handlers[signal_number], action.sa_handler, memory_order_release);
    action.sa_sigaction = record;
    action.sa_flags |= SA_SIGINFO;
    return sigaction(signal_number, &action, NULL) < 0 ? errno : 0;
}

bool
kin_signal_recorded(int signal_number, struct kin_signal_info *info)
{
    struct slot *slot = &slots[signal_number];
    for (;;) {
        uint32_t before = atomic_load_explicit(&slot->sequence, memory_order_acquire);
        uint64_t who = atomic_load_explicit(&slot->who, memory_order_relaxed);
        uint64_t what = atomic_load_explicit(&slot->what, memory_order_relaxed);
        /* SYNC POINT with write_slot: what was read is older than this second look. */
        atomic_thread_fence(memory_order_acquire);
        if (before % 2 == 0 &&
            before == atomic_load_explicit(&slot->sequence, memory_order_relaxed)) {
            info->pid = (int)(who >> 32);
            info->uid = (unsigned int)who;
            info->code = (int)(what >> 32);
            info->value = (int)what;
            return before != 0 && info->code != NOTHING;
        }
    }
}

void
kin_signal_after_fork(void)
{
    for (int number = 0; number < NSIG; number++) {
        uint32_t now = atomic_load_explicit(&slots[number].sequence, memory_order_relaxed);
        if (now % 2 != 0) {
            atomic_store_explicit(&slots[number].what, pair(NOTHING, 0), memory_order_relaxed);
            atomic_store_explicit(&slots[number].sequence, now + 1, memory_order_release);
        }
    }
}

int
kin_signal_queue(int pidfd, int signal_number, int value, unsigned int flags)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = signal_number;
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = value;
    return syscall(SYS_pidfd_send_signal, pidfd, signal_number, &info, flags) < 0 ? errno : 0;
}
