/* The word of a robust mutex and the count beside it, as eight bytes. See mutex.c. */

#ifndef KIN_MUTEX_WORD_H
#define KIN_MUTEX_WORD_H

#include "mutex.h"

#define KIN_WAITERS ((uint64_t)FUTEX_WAITERS)
#define KIN_OWNER_DIED ((uint64_t)FUTEX_OWNER_DIED)
#define KIN_ONE_RELEASE (UINT64_C(1) << 32)

/* The kernel's four bytes are the first: 64-bit glibc has no other byte order that matters. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the word is the lower half");

static inline uint64_t
kin_mutex_look(const struct kin_mutex_state *state)
{
    return atomic_load_explicit(&state->word, memory_order_relaxed);
}

static inline uint32_t
kin_mutex_owner(uint64_t word)
{
    return (uint32_t)word & FUTEX_TID_MASK;
}

static inline uint64_t
kin_mutex_releases(uint64_t word)
{
    return word & ~(uint64_t)UINT32_MAX;
}

/* SYNC POINT: what the last owner did, up to its `let_go`, is seen after a `take_over`. */
static inline bool
kin_mutex_take_over(struct kin_mutex_state *state, uint64_t old, uint64_t new)
{
    return atomic_compare_exchange_strong_explicit(&state->word, &old, new, memory_order_acquire,
                                                   memory_order_relaxed);
}

/* SYNC POINT: see `take_over`. */
static inline bool
kin_mutex_let_go(struct kin_mutex_state *state, uint64_t old, uint64_t new)
{
    return atomic_compare_exchange_strong_explicit(&state->word, &old, new, memory_order_release,
                                                   memory_order_relaxed);
}

/* It is this thread's by the word, which is pending: from here on by the list, too. */
static inline void
kin_mutex_taken(struct kin_mutex *mutex, struct kin_thread *thread, uint64_t word, bool owner_died)
{
    kin_robust_link(thread, mutex);
    __atomic_store_n(&mutex->last, word, __ATOMIC_RELAXED);
    __atomic_store_n(&mutex->holder, thread->identity, __ATOMIC_RELAXED);
    if (__builtin_expect(mutex->owner_died != owner_died, 0))
        mutex->owner_died = owner_died;
}

static inline bool
kin_mutex_is_held_by(const struct kin_mutex *mutex, const struct kin_thread *thread)
{
    return __atomic_load_n(&mutex->holder, __ATOMIC_RELAXED) == thread->identity;
}

/* mutex_wait.c: the rest of kin_mutex_take, for a mutex that is not simply free. It is pending. */
int kin_mutex_wait_for(struct kin_mutex *mutex, struct kin_thread *thread,
                       const struct timespec *deadline, unsigned flags);

#endif
