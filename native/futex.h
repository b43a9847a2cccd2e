/* futex(2), for words that processes share: sleeping while a word has a value, and waking who does.
 *
 * Never FUTEX_PRIVATE_FLAG: the kernel, when it wakes for a thread that died, looks among the shared ones. */

#ifndef KIN_FUTEX_H
#define KIN_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
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

/* Whether a deadline on CLOCK_MONOTONIC is over; NULL never is. Futexes take some microseconds to find that out. */
static inline bool
kin_has_passed(const struct timespec *deadline)
{
    if (deadline == NULL)
        return false;
    return kin_now() >= (uint64_t)deadline->tv_sec * KIN_SECOND + (uint64_t)deadline->tv_nsec;
}

/* Sleeps while the word has this value, until a deadline on CLOCK_MONOTONIC; NULL: for ever. 0 if woken, or if it
 * has another value; ETIMEDOUT and EINTR (a handler ran) only if no wake-up was meant for this thread. It may be woken
 * as one of those with any of these `bits`, and by every other wake-up. */
static inline int
kin_futex_sleep_as(void *word, uint32_t value, const struct timespec *deadline, uint32_t bits)
{
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline, NULL, bits) == 0 ||
        errno == EAGAIN)
        return 0;
    return errno;
}

/* The same, as one of all. */
static inline int
kin_futex_sleep(void *word, uint32_t value, const struct timespec *deadline)
{
    return kin_futex_sleep_as(word, value, deadline, FUTEX_BITSET_MATCH_ANY);
}

/* How many were woken, of at most so many. */
static inline long
kin_futex_wake(void *word, int most)
{
    return syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0);
}

/* All who sleep with one of these bits. */
static inline void
kin_futex_wake_those(void *word, uint32_t bits)
{
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, bits);
}

#endif
