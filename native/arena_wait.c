/* Waiting for a block of an arena, as members.h says: for another process's release, or death.
 *
 *     who waits                                   who frees a block
 *     asleep = 1                                  entry = 0
 *     ───────────── each sees what the other did, or both do ─────────────
 *     a block? ── yes ──> goes for it             asleep is 1? ── asleep = 0, turn + 1, all are woken
 *     sleeps while `turn` is what it was
 *
 * Rules:
 * 1. All are woken, and each looks whether there is enough for him: they want different lengths. Who finds too little is `first`, if
 *    nobody is: from then on nobody else gets a block, or small ones would be quicker for ever. He is until he has his block, gives
 *    up, or dies. Half of the arena comes back whatever receivers keep, so he gets it.
 * 2. Who frees and is killed before he wakes is a member, whose death wakes all; they look again. Who sleeps and is killed
 *    leaves the flag set: somebody wakes nobody then, once.
 * 3. What could not be done, since the guard was held, is told as a freed block is: who sleeps looks, and does it (rule 7 of arena.c).
 * 4. What concerns this process alone (a close, a hang-up) is the alarm of the ring.
 */

#include <errno.h>
#include <limits.h>

#include "arena_inside.h"
#include "futex.h"
#include "ring.h"

void
kin_arena_wake(struct kin_arena *arena)
{
    atomic_store_explicit(&arena->state->asleep, 0, memory_order_seq_cst);
    kin_members_wake(&arena->members, INT_MAX);
}

void
kin_arena_leave_over(struct kin_arena *arena)
{
    /* SYNC POINT: kin_arena_tidy_here */
    atomic_fetch_add_explicit(&arena->state->left_over, 1, memory_order_release);
    kin_arena_tell(arena);
}

void
kin_arena_tidy_here(struct kin_arena *arena)
{
    uint32_t left_over = atomic_load_explicit(&arena->state->left_over, memory_order_acquire);
    if (left_over == atomic_load_explicit(&arena->state->tidied, memory_order_relaxed))
        return;
    kin_members_sweep(&arena->members);
    kin_arena_return_dropped(arena);
    if (kin_arena_sweep(arena))
        kin_arena_wake(arena);
    /* Last: who is killed before leaves it to the next. */
    atomic_store_explicit(&arena->state->tidied, left_over, memory_order_relaxed);
}

bool
kin_arena_tidy(struct kin_arena *arena)
{
    kin_arena_leave_over(arena);
    int error = kin_mutex_take(&arena->guard, NULL, KIN_MUTEX_AWAKE);
    if (error != 0 && error != EOWNERDEAD)
        return false;
    kin_arena_tidy_here(arena);
    kin_mutex_unlock(&arena->guard);
    return true;
}

void
kin_arena_tell(struct kin_arena *arena)
{
    /* SYNC POINT: kin_arena_wait. Either it finds the block, or is seen to sleep. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&arena->state->asleep, memory_order_relaxed) != 0)
        kin_arena_wake(arena);
}

/* Signal handlers of Python run when the call is over, which is soon. */
#define SOON(error, call)                                                                      \
    const struct timespec until = kin_timespec(kin_now() + KIN_RING_PATIENCE);                 \
    int error;                                                                                 \
    do                                                                                         \
        error = call;                                                                          \
    while (error == EINTR);

int
kin_arena_enter_soon(struct kin_arena *arena)
{
    SOON(error, kin_mutex_take(&arena->guard, &until, 0))
    return error == EOWNERDEAD ? 0 : error == ETIMEDOUT ? EBUSY : error;
}

int
kin_arena_join(struct kin_arena *arena)
{
    SOON(error, kin_members_join(&arena->members, &until))
    return error == ETIMEDOUT ? EBUSY : error;
}

int
kin_arena_look(struct kin_arena *arena, enum kin_look how)
{
    SOON(error, kin_members_look(&arena->members, how, &until))
    return error == ETIMEDOUT ? EBUSY : error;
}

/* In a forked child, and before it has joined, a handle is nobody. */
static uint64_t
self_of(const struct kin_arena *arena)
{
    const struct kin_member *row = kin_members_row(&arena->members);
    return row == NULL ? 0 : (uint64_t)(uintptr_t)arena << 16 | (kin_arena_row(arena, row) + 1);
}

bool
kin_arena_is_behind(const struct kin_arena *arena)
{
    uint64_t first = atomic_load_explicit(&arena->state->first, memory_order_relaxed);
    return first != 0 && first != self_of(arena);
}

bool
kin_arena_step_back(struct kin_arena *arena)
{
    uint64_t first = atomic_load_explicit(&arena->state->first, memory_order_relaxed);
    if (first == 0 || first != self_of(arena))
        return false;
    atomic_store_explicit(&arena->state->first, 0, memory_order_relaxed);
    return true;
}

void
kin_arena_give_up(struct kin_arena *arena)
{
    /* Without the guard, which may not be had: nobody else changes it while it is this one's. */
    uint64_t self = self_of(arena);
    if (self != 0 && atomic_compare_exchange_strong_explicit(&arena->state->first, &self, 0, memory_order_relaxed,
                                                             memory_order_relaxed))
        kin_arena_tell(arena);
}

/* Whether there is a block now, or the memory is such that it had better be asked. */
static int
look_for(struct kin_arena *arena, uint64_t length, bool *found)
{
    uint32_t first;
    int error = kin_arena_enter_soon(arena);
    if (error != 0)
        return error;
    uint64_t self = self_of(arena);
    kin_arena_tidy_here(arena);
    if (!kin_arena_is_behind(arena)) {
        *found = kin_arena_find(arena, kin_arena_units_for(arena, length), &first) != EAGAIN;
        if (!*found)
            atomic_store_explicit(&arena->state->first, self, memory_order_relaxed);
    }
    kin_mutex_unlock(&arena->guard);
    return 0;
}

int
kin_arena_wait(struct kin_arena *arena, uint64_t length, uint32_t alarm,
               const struct timespec *deadline)
{
    struct kin_ring *ring = arena->ring;
    /* SYNC POINT: kin_ring_alarm, as in kin_ring_wait */
    _Atomic uint32_t *count = &ring->waiting[alarm & 1];
    atomic_fetch_add_explicit(count, 1, memory_order_seq_cst);
    int error = 0;
    while (error == 0) {
        bool found = false;
        uint32_t turn = kin_members_turn(&arena->members);
        error = kin_arena_look(arena, KIN_LOOK_TOLD);
        atomic_store_explicit(&arena->state->asleep, 1, memory_order_seq_cst);
        /* SYNC POINT: kin_arena_tell */
        atomic_thread_fence(memory_order_seq_cst);
        if (error == 0)
            error = look_for(arena, length, &found);
        if (error == EBUSY) { /* it can't be known */
            error = kin_has_passed(deadline) ? ETIMEDOUT : 0;
            found = true;
        }
        if (error == 0 && atomic_load_explicit(&ring->alarm, memory_order_seq_cst) != alarm)
            error = ECANCELED;
        if (error != 0 || found)
            break;
        error = kin_members_sleep(&arena->members, turn, deadline);
    }
    if (error != 0)
        kin_arena_give_up(arena);
    atomic_fetch_sub_explicit(count, 1, memory_order_seq_cst);
    return error;
}

