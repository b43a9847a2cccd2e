/* Who has waited for too long, and who gives way to him then; for locks whose word is taken by whoever is awake.
 *
 * Whoever is awake takes what is free before who has to be woken: that is fast, and may starve a sleeper. So one
 * that was woken in vain for some milliseconds leaves its TID beside the word, in `starving`; and whoever comes
 * newly then, sees that somebody sleeps, and finds it, gives way once: sleeps until that one has had its turn, or
 * for some milliseconds, since it may be dead, or stopped.
 */

#ifndef KIN_PATIENCE_H
#define KIN_PATIENCE_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "futex.h"

enum {
    KIN_PATIENCE = 4 * KIN_MILLISECOND, /* nanoseconds until a waiter starves */
    KIN_GIVE_WAY = 4 * KIN_MILLISECOND, /* for how long newcomers do */
};

/* Of one wait. */
struct kin_patience {
    _Atomic uint32_t *starving; /* in shared memory; a futex too */
    uint32_t tid;
    uint64_t since; /* when it first slept; 0: it has not */
    bool starves;   /* has left its TID in `starving` */
};

/* Before each sleep: says so if it has been woken in vain for too long. */
static inline void
kin_patience_lose(struct kin_patience *patience)
{
    uint64_t time = kin_now();
    if (patience->since == 0)
        patience->since = time;
    else if (time - patience->since > KIN_PATIENCE) {
        uint32_t nobody = 0;
        patience->starves |= atomic_compare_exchange_strong_explicit(
            patience->starving, &nobody, patience->tid, memory_order_relaxed, memory_order_relaxed);
    }
}

/* At the end of the wait, whatever came of it. */
static inline void
kin_patience_end(struct kin_patience *patience)
{
    uint32_t own = patience->tid;
    if (patience->starves &&
        atomic_compare_exchange_strong_explicit(patience->starving, &own, 0, memory_order_relaxed,
                                                memory_order_relaxed))
        kin_futex_wake(patience->starving, INT_MAX);
}

/* What a newcomer does. `deadline` may be NULL. 0 or EINTR. */
static inline int
kin_give_way(_Atomic uint32_t *starving, const struct timespec *deadline)
{
    uint32_t who = atomic_load_explicit(starving, memory_order_relaxed);
    struct timespec until = kin_timespec(kin_now() + KIN_GIVE_WAY);
    bool own = deadline == NULL || deadline->tv_sec > until.tv_sec ||
               (deadline->tv_sec == until.tv_sec && deadline->tv_nsec > until.tv_nsec);
    int error = who == 0 ? 0 : kin_futex_sleep(starving, who, own ? &until : deadline);
    if (error == ETIMEDOUT && own) /* it is dead, or as good as that: once is enough */
        atomic_compare_exchange_strong_explicit(starving, &who, 0, memory_order_relaxed,
                                                memory_order_relaxed);
    return error == EINTR ? EINTR : 0;
}

/* A moment, while another CPU may be nearly done. */
static inline void
kin_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Whether that can be. */
static inline bool
kin_several_cpus(void)
{
    static _Atomic int known; /* 1: one, 2: several */
    int count = atomic_load_explicit(&known, memory_order_relaxed);
    if (count == 0) {
        cpu_set_t set;
        count = sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1 ? 1 : 2;
        atomic_store_explicit(&known, count, memory_order_relaxed);
    }
    return count > 1;
}

#endif
