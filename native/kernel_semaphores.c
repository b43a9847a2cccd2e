/* Blocking in sem_wait(3) and semtimedop(2) so that other threads, signals and the time can end it.
 *
 * Neither has a descriptor, so whoever waits blocks in the call itself, and is got out of there as from a System V
 * queue: `enter`, the call, `leave` (sysv_wait.c).
 *
 * Rules:
 * 1. semtimedop is never restarted after a handler (signal(7)) and has a timeout of its own. sem_wait is restarted
 *    where the handler has SA_RESTART: so that wait `restarts`. sem_timedwait is of no use: its clock is the one
 *    that people set.
 * 2. When a call returns EINTR it has taken nothing, and no wake-up was spent on it: the kernel says EINTR only to
 *    who was not woken (futex(2)). When it has taken, that is told, whatever else happened meanwhile.
 * 3. What is in a sem_t is libc's business. Only whether one lies there is looked at, by comparing it with what
 *    sem_init makes of one: in glibc one for several processes differs from a blank one, or from one for threads.
 *
 * Not here: a wake-up that was given to a process which is killed before it takes. sem_post wakes one sleeper,
 * once; nothing in a sem_t tells who that was (docs/design/kernel-semaphores.md).
 */

#include "kernel_semaphores.h"

#include <errno.h>
#include <string.h>

/* -------------------------------------------------------------------------------------- sem_t */

bool
kin_sem_make(sem_t *semaphore, unsigned value)
{
    memset(semaphore, 0, sizeof *semaphore);
    return sem_init(semaphore, 1, value) == 0;
}

bool
kin_sem_is_one(const sem_t *semaphore)
{
    sem_t shared, private;
    memset(&private, 0, sizeof private);
    if (!kin_sem_make(&shared, 0) || sem_init(&private, 0, 0) != 0)
        return false;
    const unsigned char *found = (const unsigned char *)semaphore;
    const unsigned char *wanted = (const unsigned char *)&shared;
    const unsigned char *unwanted = (const unsigned char *)&private;
    for (size_t i = 0; i < sizeof shared; i++)
        if (wanted[i] != unwanted[i] && found[i] != wanted[i])
            return false;
    int value;
    return sem_getvalue((sem_t *)semaphore, &value) == 0 && value >= 0;
}

int
kin_sem_wait_init(struct kin_wait *wait)
{
    int error = kin_wait_init(wait);
    wait->restarts = true;
    return error;
}

/* What a call that has returned means. */
static int
outcome(int result, int error)
{
    if (result == 0)
        return KIN_WAIT_DONE;
    return error == EINTR || error == EAGAIN ? KIN_WAIT_AGAIN : -error;
}

int
kin_sem_wait(struct kin_wait *wait, sem_t *semaphore, int milliseconds)
{
    struct kin_stay stay;
    int entered = kin_wait_enter(wait, &stay, milliseconds);
    if (entered != KIN_WAIT_DONE)
        return entered;
    int result = sem_wait(semaphore);
    int error = errno;
    kin_wait_leave(wait, &stay);
    return outcome(result, error);
}

/* ------------------------------------------------------------------------------------ System V */

int
kin_set_wait(struct kin_wait *wait, int set, struct sembuf *operations, size_t count,
             int milliseconds)
{
    struct kin_stay stay;
    int entered = milliseconds == 0
                      ? KIN_WAIT_AGAIN
                      : kin_wait_enter(wait, &stay, KIN_WAIT_FOREVER);
    if (entered != KIN_WAIT_DONE)
        return entered;
    struct timespec time = {.tv_sec = milliseconds / 1000,
                            .tv_nsec = milliseconds % 1000 * 1000000L};
    int result = semtimedop(set, operations, count, milliseconds < 0 ? NULL : &time);
    int error = errno;
    kin_wait_leave(wait, &stay);
    return outcome(result, error);
}
