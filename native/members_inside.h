/* Between members.c, members_leave.c and members_fork.c. */

#ifndef KIN_MEMBERS_INSIDE_H
#define KIN_MEMBERS_INSIDE_H

#include "members.h"

#define KIN_EMBRYO (UINT32_C(1) << 31) /* as `handles`: of a child that is not there yet */

/* How many rows have been used; what lies in the memory is not believed. */
uint32_t kin_members_used(const struct kin_members *members);

/* Under the guard. */
static inline void
kin_members_count_change(struct kin_members_state *state)
{
    atomic_fetch_add_explicit(&state->changes, 1, memory_order_release);
}

/* Under the guard. */
static inline void
kin_members_free_row(struct kin_members *members, struct kin_member *row)
{
    kin_members_count_change(members->state);
    __atomic_store_n(&row->pid, 0, __ATOMIC_RELEASE);
}


#endif
