/* Rows of members.h for a child that is about to be forked, which holds from its first instruction on what it inherits.
 *
 * Such a row says the parent's pid and EMBRYO handles, until the child writes its own: so it lives as long as either. Under the
 * guard, but for the parent's giving up: then it has left the row (rule 6 of members.c). */

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "members.h"
#include "members_inside.h"
#include "mutex.h"
#include "start_time.h"

bool
kin_members_beget(struct kin_members *members, uint32_t *number)
{
    const struct kin_member *own = kin_members_row(members);
    struct kin_members_state *state = members->state;
    if (own == NULL)
        return false;
    for (uint32_t i = 0; i < members->count; i++) {
        struct kin_member *row = &state->rows[i];
        if (row->pid != 0)
            continue;
        if (i >= __atomic_load_n(&state->used, __ATOMIC_RELAXED))
            __atomic_store_n(&state->used, i + 1, __ATOMIC_RELAXED);
        kin_members_count_change(state);
        __atomic_store_n(&row->handles, KIN_EMBRYO, __ATOMIC_RELAXED);
        __atomic_store_n(&row->start, own->start, __ATOMIC_RELAXED);
        __atomic_store_n(&row->pid, own->pid, __ATOMIC_RELEASE);
        *number = i;
        return true;
    }
    return false;
}

bool
kin_members_adopt(struct kin_members *members, uint32_t number, const struct timespec *deadline)
{
    struct kin_member *row = &members->state->rows[number];
    uint32_t pid = (uint32_t)getpid();
    uint64_t start = kin_own_start();
    int error;
    do
        error = kin_mutex_lock(members->terms.guard, deadline);
    while (error == EINTR);
    if (error != 0 && error != EOWNERDEAD)
        return false;
    bool mine = row->pid == (uint32_t)getppid() && row->handles == KIN_EMBRYO;
    if (mine) {
        kin_members_count_change(members->state);
        __atomic_store_n(&row->start, start, __ATOMIC_RELAXED);
        __atomic_store_n(&row->pid, pid, __ATOMIC_RELAXED);
        __atomic_store_n(&row->handles, 1, __ATOMIC_RELEASE);
        atomic_store_explicit(&members->joined,
                              (uint64_t)kin_robust_forks() << 32 | (number + 1),
                              memory_order_relaxed);
    }
    kin_mutex_unlock(members->terms.guard);
    if (mine)
        kin_members_wake(members, INT_MAX); /* it is to be watched */
    return mine;
}

bool
kin_members_disown(struct kin_members *members, uint32_t number)
{
    struct kin_member *row = &members->state->rows[number];
    uint32_t embryo = KIN_EMBRYO;
    /* A child that has not adopted it by now finds that it can't. */
    return __atomic_load_n(&row->pid, __ATOMIC_RELAXED) == (uint32_t)getpid() &&
           __atomic_compare_exchange_n(&row->handles, &embryo, 0, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}
