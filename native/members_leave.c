/* How a process is a member no more, that lives: rule 6 of members.c.
 *
 *      handles   2 ──> 1 ──> 0 ──┬── the guard is free ──> what the object's `left` does; the row is free
 *                                └── somebody has it ────> the same, by whoever joins next, or sees to it
 *
 * Who is killed on the way is dead, and dropped as such. Before a process joins anew what it has left is swept.
 */

#include <errno.h>

#include "members.h"
#include "members_inside.h"
#include "mutex.h"

static bool
is_left(const struct kin_member *row)
{
    return row->pid != 0 && __atomic_load_n(&row->handles, __ATOMIC_ACQUIRE) == 0;
}

void
kin_members_sweep(struct kin_members *members)
{
    for (uint32_t i = 0; i < kin_members_used(members); i++) {
        struct kin_member *row = &members->state->rows[i];
        if (is_left(row) && members->terms.left(members, row, false))
            kin_members_free_row(members, row);
    }
}

bool
kin_members_leave(struct kin_members *members)
{
    struct kin_member *own = kin_members_row(members);
    if (own == NULL)
        return true;
    atomic_store_explicit(&members->joined, 0, memory_order_relaxed);
    if (__atomic_sub_fetch(&own->handles, 1, __ATOMIC_ACQ_REL) != 0)
        return true;
    int error = kin_mutex_take(members->terms.guard, NULL, KIN_MUTEX_AWAKE);
    if (error != 0 && error != EOWNERDEAD)
        return false; /* rule 6 */
    kin_members_sweep(members);
    kin_mutex_unlock(members->terms.guard);
    return true;
}

void
kin_members_repair(struct kin_members *members)
{
    struct kin_members_state *state = members->state;
    for (uint32_t i = 0; i < kin_members_used(members); i++)
        if (state->rows[i].pid != 0 && members->terms.left(members, &state->rows[i], true))
            kin_members_free_row(members, &state->rows[i]);
}
