/* The robust mutex, for what is built upon it here. See mutex.c; include/kinfolk.h is for everybody. */

#ifndef KIN_MUTEX_H
#define KIN_MUTEX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../include/kinfolk.h"
#include "robust.h"

/* In shared memory. All zero is a free mutex.
 *
 *      0   word      TID of the owner │ FUTEX_WAITERS │ FUTEX_OWNER_DIED   the kernel knows this one
 *      4   releases  counts those that left FUTEX_WAITERS in the word
 *      8   starving  TID of a waiter to whom newcomers give way; a futex too
 *     12   given_up  1: for good
 *     16             (where a pthread_mutex_t has its kind)
 *     24   node      prev, next: in the robust list of the owner
 *     40             unused
 */
struct kin_mutex_state {
    _Atomic uint64_t word; /* and releases, in the upper half */
    _Atomic uint32_t starving;
    _Atomic uint32_t given_up;
    uint64_t unused;
    struct kin_robust_node node;
    uint64_t reserved[3];
};

_Static_assert(sizeof(struct kin_mutex_state) == 64, "a cache line");
_Static_assert(offsetof(struct kin_mutex_state, node) == KIN_ROBUST_NODE_OFFSET, "as glibc has it");

/* Opens a mutex whose memory is known to be sound, such as one inside a larger object. */
enum kin_finding kin_mutex_bind(struct kin_mutex *mutex, struct kin_mutex_state *state);

enum kin_mutex_flags {
    KIN_MUTEX_STRICT = 1, /* EOWNERDEAD does not take it: so the next one gets that, too */
    KIN_MUTEX_AWAKE = 2,  /* spins, and does not sleep: EBUSY */
    KIN_MUTEX_NOW = 4,    /* does not even spin, or give way: EBUSY */
};

/* Whether it is held by this handle, and this thread. */
static inline bool
kin_mutex_is_held(const struct kin_mutex *mutex)
{
    const struct kin_thread *thread = kin_thread();
    return thread != NULL && __atomic_load_n(&mutex->holder, __ATOMIC_RELAXED) == thread->identity;
}

/* kin_mutex_lock with flags. */
int kin_mutex_take(struct kin_mutex *mutex, const struct timespec *deadline, unsigned flags);

/* Makes the state of before a reboot one of now: a holder counts as dead. */
void kin_mutex_state_repair(struct kin_mutex_state *state);

#endif
