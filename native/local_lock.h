/* A lock among the threads of one process, which a forked child finds free, whoever had it.
 *
 * For what a handle knows privately, in memory that a fork copies. A pthread_mutex_t that a thread of the parent
 * held is held for ever in the child. The word says of which process, among those forked, it is: of another one it
 * is free.
 */

#ifndef KIN_LOCAL_LOCK_H
#define KIN_LOCAL_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>

#include "futex.h"
#include "robust.h"

/* All zero is free. The lower half is a futex. */
struct kin_local_lock {
    _Atomic uint64_t word;
};

enum kin_local_how { KIN_FREE, KIN_LOCKED, KIN_WANTED /* somebody sleeps, or did */ };

static inline uint64_t
kin_local_word(enum kin_local_how how)
{
    return (uint64_t)kin_robust_forks() << 32 | (uint32_t)how;
}

/* 0; or ETIMEDOUT at a deadline on CLOCK_MONOTONIC (NULL: never), EINTR: then it is not held. */
static inline int
kin_local_enter_until(struct kin_local_lock *lock, const struct timespec *deadline)
{
    enum kin_local_how how = KIN_LOCKED;
    for (;;) {
        uint64_t found = atomic_load_explicit(&lock->word, memory_order_relaxed);
        bool taken = found >> 32 == kin_robust_forks() && (uint32_t)found != KIN_FREE;
        uint64_t wanted = kin_local_word(taken ? KIN_WANTED : how);
        if (found != wanted &&
            !atomic_compare_exchange_weak_explicit(&lock->word, &found, wanted,
                                                   memory_order_acquire, memory_order_relaxed))
            continue;
        if (!taken)
            return 0;
        how = KIN_WANTED; /* there may be others */
        int error = kin_futex_sleep(&lock->word, KIN_WANTED, deadline);
        if (error != 0)
            return error;
    }
}

static inline void
kin_local_enter(struct kin_local_lock *lock)
{
    while (kin_local_enter_until(lock, NULL) != 0)
        ;
}

static inline void
kin_local_leave(struct kin_local_lock *lock)
{
    uint64_t was =
        atomic_exchange_explicit(&lock->word, kin_local_word(KIN_FREE), memory_order_release);
    if ((uint32_t)was == KIN_WANTED)
        kin_futex_wake(&lock->word, 1);
}

#endif
