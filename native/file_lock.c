/* Blocking in fcntl(2) (F_OFD_SETLKW, F_SETLKW) and in flock(2), so that other threads, signals and the time can
 * end it.
 *
 * A lock has no descriptor that could be polled, so whoever waits for one blocks in the system call, as with System
 * V queues, and is got out of there in the same way: `enter`, the call, `leave` (sysv_wait.c).
 *
 * Rules:
 * 1. These calls are restarted after a handler with SA_RESTART (signal(7)), and would never be got out of: so the wait
 *    `restarts`, and has that flag taken from the handler of the waking signal.
 * 2. When a call returns EINTR it has locked nothing; when it has locked, that is told, whatever else happened
 *    meanwhile.
 */

#include "file_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

int
kin_file_lock_init(struct kin_wait *wait)
{
    int error = kin_wait_init(wait);
    wait->restarts = true;
    return error;
}

int
kin_file_lock_wait(struct kin_wait *wait, const struct kin_file_lock *lock, int milliseconds)
{
    struct kin_stay stay;
    int entered = kin_wait_enter(wait, &stay, milliseconds);
    if (entered != KIN_WAIT_DONE)
        return entered;
    struct flock range = {.l_type = (short)lock->type,
                          .l_whence = SEEK_SET,
                          .l_start = lock->start,
                          .l_len = lock->length};
    int result = lock->command == KIN_BY_FLOCK ? flock(lock->fd, lock->type)
                                               : fcntl(lock->fd, lock->command, &range);
    int error = errno;
    kin_wait_leave(wait, &stay);
    if (result == 0)
        return KIN_WAIT_DONE;
    return error == EINTR ? KIN_WAIT_AGAIN : -error;
}
