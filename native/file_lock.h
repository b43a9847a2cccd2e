/* Blocking in fcntl(2) and flock(2) until a lock is had. See file_lock.c. */

#ifndef KIN_FILE_LOCK_H
#define KIN_FILE_LOCK_H

#include <sys/types.h>

#include "sysv_wait.h"

struct kin_file_lock {
    int fd;
    int command;         /* F_OFD_SETLKW, F_SETLKW, or KIN_BY_FLOCK */
    int type;            /* F_RDLCK or F_WRLCK; LOCK_SH or LOCK_EX by flock */
    off_t start, length; /* of the bytes; length 0: to the end, wherever that will be */
};

enum { KIN_BY_FLOCK = -1 };

/* 0, or an errno: a struct for kin_file_lock_wait. */
int kin_file_lock_init(struct kin_wait *wait);

/* Waits for up to `milliseconds` and locks. KIN_WAIT_DONE when it is locked; KIN_WAIT_AGAIN when it is not: a wake, a
 * signal, the time; or -errno, such as -EDEADLK. kin_wait_wake ends it. */
int kin_file_lock_wait(struct kin_wait *wait, const struct kin_file_lock *lock, int milliseconds);

#endif
