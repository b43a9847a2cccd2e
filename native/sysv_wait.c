/* Blocking in msgrcv(2) and msgsnd(2) so that other threads can end it; and `enter` and `leave`, between which
 * other calls block like that (file_lock.c).
 *
 * System V queues have no descriptor: whoever waits for one blocks in the system call itself, and
 * a signal is all that gets a thread out of there. Both calls are ended by any signal that has a
 * handler, whatever SA_RESTART says (signal(7)), and then nothing was taken or sent.
 *
 *      the blocked thread                        who wakes it (close, cancellation, watcher)
 *
 *      requested?  ── yes ──> return             requested = true
 *      blocked = true                            while blocked:
 *      ┌─ arm the timer                              tgkill(thread, SIGURG)
 *      │  msgrcv / msgsnd  <── EINTR ───────────     wait for the acknowledgement, 1 ms at most
 *      └─ disarm
 *      blocked = requested = false ── acknowledgement ──> return
 *
 * Rules:
 * 1. A signal that comes just before the system call is lost; so it is sent again every
 *    millisecond until the thread has acknowledged. The same for the deadline: the timer
 *    (timer_create(2), SIGEV_THREAD_ID) goes on every millisecond until it is deleted.
 * 2. The outcome of the system call is known when the acknowledgement is given: a wake never
 *    leaves open whether a message was sent.
 * 3. The thread is signalled only with the mutex held and `blocked` true, so never after it ended.
 * 4. Waiting takes no message: msgrcv with room for 0 bytes and without MSG_NOERROR returns E2BIG
 *    when one is there. (One without text fits into 0 bytes; it is handed over.)
 * 5. A handler that somebody set for SIGURG stays, as any handler will do; only a disposition that
 *    drops the signal (default, ignored) is replaced, and this is looked at again at every use.
 *    From one that restarts a call which can be restarted (`restarts`), SA_RESTART is taken away.
 * 6. The thread may have blocked SIGURG; it is let in for the length of the call.
 *
 * Why SIGURG, and what else was considered: docs/design/sysv.md.
 */

#include "sysv_wait.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { KIN_WAKE_SIGNAL = SIGURG };

static const struct timespec one_millisecond = {.tv_nsec = 1000000};

/* ------------------------------------------------------------------------------- the signal */

static void
do_nothing(int signal_number)
{
    (void)signal_number; /* its being run is what interrupts the system call */
}

static bool
drops_signal(const struct sigaction *action)
{
    return !(action->sa_flags & SA_SIGINFO) &&
           (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN);
}

static bool
interrupts(const struct sigaction *action, bool restarts)
{
    return !drops_signal(action) && !(restarts && action->sa_flags & SA_RESTART);
}

int
kin_wait_prepare_signal(const struct kin_wait *wait)
{
    for (;;) {
        struct sigaction seen, wanted, before;
        if (sigaction(KIN_WAKE_SIGNAL, NULL, &seen) < 0)
            return errno;
        if (interrupts(&seen, wait->restarts))
            return 0;
        wanted = seen;
        if (drops_signal(&seen)) {
            /* SA_RESTART is for every other system call that a late signal may meet. */
            wanted = (struct sigaction){.sa_handler = do_nothing,
                                        .sa_flags = SA_RESTART | SA_ONSTACK};
            sigemptyset(&wanted.sa_mask);
        }
        if (wait->restarts)
            wanted.sa_flags &= ~SA_RESTART;
        if (sigaction(KIN_WAKE_SIGNAL, &wanted, &before) < 0)
            return errno;
        if (before.sa_handler == seen.sa_handler) /* of a union with sa_sigaction */
            return 0;
        sigaction(KIN_WAKE_SIGNAL, &before, NULL); /* somebody was quicker: his handler stays */
    }
}

/* -------------------------------------------------------------------------------- the timer */

/* By the system calls themselves: before glibc 2.34, the functions are in librt. */

static int
timer_start(int *timer, int milliseconds)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KIN_WAKE_SIGNAL};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, timer) < 0)
        return errno;
    struct itimerspec time = {
        .it_value = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000L},
        .it_interval = one_millisecond,
    };
    if (syscall(SYS_timer_settime, *timer, 0, &time, NULL) == 0)
        return 0;
    int error = errno;
    syscall(SYS_timer_delete, *timer);
    return error;
}

/* ------------------------------------------------------------------------ before and after */

void
kin_wait_leave(struct kin_wait *wait, struct kin_stay *stay)
{
    if (stay->timed)
        syscall(SYS_timer_delete, stay->timer);
    if (sigismember(&stay->mask, KIN_WAKE_SIGNAL))
        pthread_sigmask(SIG_SETMASK, &stay->mask, NULL);

    pthread_mutex_lock(&wait->mutex);
    wait->blocked = wait->requested = false;
    pthread_cond_broadcast(&wait->acknowledged); /* SYNC POINT: kin_wait_wake waits for it */
    pthread_mutex_unlock(&wait->mutex);
}

int
kin_wait_enter(struct kin_wait *wait, struct kin_stay *stay, int milliseconds)
{
    if (milliseconds == 0)
        return KIN_WAIT_AGAIN;
    int error = kin_wait_prepare_signal(wait);
    if (error != 0)
        return -error;

    pthread_mutex_lock(&wait->mutex);
    bool wanted_back = wait->requested;
    wait->requested = false;
    if (!wanted_back) {
        wait->blocked = true; /* SYNC POINT: kin_wait_wake looks at it after `requested` is set */
        wait->thread = (pid_t)syscall(SYS_gettid);
    }
    pthread_mutex_unlock(&wait->mutex);
    if (wanted_back)
        return KIN_WAIT_AGAIN;

    sigset_t wake;
    sigemptyset(&wake);
    sigaddset(&wake, KIN_WAKE_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &wake, &stay->mask);

    stay->timed = false;
    if (milliseconds > 0) {
        error = timer_start(&stay->timer, milliseconds);
        stay->timed = error == 0;
    }
    if (error != 0)
        kin_wait_leave(wait, stay);
    return error != 0 ? -error : KIN_WAIT_DONE;
}

int
kin_wait_init(struct kin_wait *wait)
{
    pthread_condattr_t attributes;
    *wait = (struct kin_wait){0};
    int error = pthread_mutex_init(&wait->mutex, NULL);
    if (error == 0 && (error = pthread_condattr_init(&attributes)) == 0) {
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        error = pthread_cond_init(&wait->acknowledged, &attributes);
        pthread_condattr_destroy(&attributes);
    }
    return error;
}

void
kin_wait_wake(struct kin_wait *wait)
{
    pthread_mutex_lock(&wait->mutex);
    wait->requested = true;
    /* kin_wait_leave takes the request back: when it is gone, the thread that blocked was outside. */
    while (wait->blocked && wait->requested) {
        kin_wait_prepare_signal(wait);
        syscall(SYS_tgkill, getpid(), wait->thread, KIN_WAKE_SIGNAL);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += one_millisecond.tv_nsec;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&wait->acknowledged, &wait->mutex, &until);
    }
    pthread_mutex_unlock(&wait->mutex);
}

/* --------------------------------------------------------------------------------- the waits */

int
kin_wait_for_message(struct kin_wait *wait, int queue, long type, int milliseconds, long *taken)
{
    struct kin_stay stay;
    int entered = kin_wait_enter(wait, &stay, milliseconds);
    if (entered != KIN_WAIT_DONE)
        return entered;
    struct kin_sysv_message empty;
    ssize_t length = msgrcv(queue, &empty, 0, type, 0);
    int error = errno;
    kin_wait_leave(wait, &stay);
    if (length == 0) {
        *taken = empty.type;
        return KIN_WAIT_DONE;
    }
    return error == E2BIG || error == EINTR ? KIN_WAIT_AGAIN : -error;
}

int
kin_wait_to_send(struct kin_wait *wait, int queue, const struct kin_sysv_message *message,
                 size_t length, int milliseconds)
{
    struct kin_stay stay;
    int entered = kin_wait_enter(wait, &stay, milliseconds);
    if (entered != KIN_WAIT_DONE)
        return entered;
    int result = msgsnd(queue, message, length, 0);
    int error = errno;
    kin_wait_leave(wait, &stay);
    if (result == 0)
        return KIN_WAIT_DONE;
    return error == EINTR ? KIN_WAIT_AGAIN : -error;
}
