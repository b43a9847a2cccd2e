/* futex(2), for words that processes share: sleeping while a word has a value, and waking who does.
 *
 * Never FUTEX_PRIVATE_FLAG: the kernel, when it wakes for a thread that died, looks among the shared ones. */

#ifndef KIN_FUTEX_H
#define KIN_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { KIN_MILLISECOND = 1000000, KIN_SECOND = 1000000000 };

static inline uint64_t
kin_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * KIN_SECOND + (uint64_t)time.tv_nsec;
}

static inline struct timespec
kin_timespec(uint64_t nanoseconds)
{
    return (struct timespec){(time_t)(nanoseconds / KIN_SECOND), (long)(nanoseconds % KIN_SECOND)};
}

/* Sleeps while the word has this value, until a deadline on CLOCK_MONOTONIC; NULL: for ever. 0 if woken, or if it
 * has another value; ETIMEDOUT and EINTR (a handler ran) only if no wake-up was meant for this thread. */
static inline int
kin_futex_sleep(void *word, uint32_t value, const struct timespec *deadline)
{
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline, NULL,
                FUTEX_BITSET_MATCH_ANY) == 0 ||
        errno == EAGAIN)
        return 0;
    return errno;
}

/* How many were woken, of at most so many. */
static inline long
kin_futex_wake(void *word, int most)
{
    return syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0);
}

#endif
