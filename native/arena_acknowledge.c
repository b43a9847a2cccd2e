/* Messages that belong to their receiver until he has acknowledged them.
 *
 *                     bit of a receiver   in the ring   RETURNED     killed here: whose it is
 *      receive               1            position          0        the ring's; then the receiver's, so returned
 *      acknowledge           0                              0        returned; then nobody's: free
 *      drop                  1                              D        the receiver's, so returned
 *      whoever has the guard 1                              1, D     returned
 *                            0                              1, D
 *                            0                              1
 *      receive again         1                              1        returned
 *                            1                              0        the receiver's, so returned
 *
 * Rules:
 * 1. All of it but the receiving out of the ring, and the dropping, is under the guard. A message is acknowledged by one store, of a bit that
 *    becomes 0; it is returned by one, of RETURNED.
 * 2. Whoever has a message has the bit before the frame is taken out of the ring, or RETURNED taken away. So he may be killed with
 *    a bit and without the message: when it lies in the ring yet, or is RETURNED, or another receiver has the bit too, then it is not
 *    returned for him. Whoever acknowledges a block, or receives it again, takes these bits away.
 * 3. RETURNED comes before the bit goes, and `returns` before RETURNED. So it is always somebody's, and whoever sees the count knows of
 *    it. Who is killed before he has woken one is a member, whose death has all who sleep look.
 * 4. `ending` is set and looked at under the guard, with the bits: so who waits for the last one to be acknowledged hears of it.
 * 5. What is read is a copy, made while the bit is there: a bit is one for the whole process, and the same block may come to it
 *    twice.
 * 6. Who returns a message waits for nobody: he *drops* it, by one store, of DROPPED, in the block that is his; then whoever has the
 *    guard next returns it, first of all he himself. To acknowledge one, or to drop it, its bit in the handle has to be taken away: one
 *    thread alone does so. RETURNED and DROPPED are taken away together, so DROPPED is never of somebody before.
 */

#include <errno.h>
#include <limits.h>

#include "arena_inside.h"
#include "ring_bell.h"

static _Atomic uint64_t *
bits(const struct kin_arena *arena, uint32_t row, uint32_t unit)
{
    return kin_arena_hold_word(arena, row, KIN_HOLD_OWES, unit);
}

static bool
owes(const struct kin_arena *arena, uint32_t row, uint32_t unit)
{
    return atomic_load_explicit(bits(arena, row, unit), memory_order_acquire) & kin_arena_bit(unit);
}

static void
owes_no_more(const struct kin_arena *arena, uint32_t row, uint32_t unit)
{
    atomic_fetch_and_explicit(bits(arena, row, unit), ~kin_arena_bit(unit), memory_order_release);
}

/* Rule 2. */
static void
forgive_others(const struct kin_arena *arena, uint32_t own, uint32_t unit)
{
    for (uint32_t row = 0; row < kin_arena_rows(arena); row++)
        if (row != own && owes(arena, row, unit))
            owes_no_more(arena, row, unit);
}

static bool
others_owe(const struct kin_arena *arena, uint32_t own, uint32_t unit)
{
    for (uint32_t row = 0; row < kin_arena_rows(arena); row++)
        if (row != own && owes(arena, row, unit))
            return true;
    return false;
}

/* What the handle knows, of this process. */
static void
know_process(struct kin_arena *arena)
{
    if (arena->owes_as == kin_robust_forks())
        return;
    for (int i = 0; i < KIN_ARENA_MOST_UNITS / 64; i++)
        atomic_store_explicit(&arena->owes[i], 0, memory_order_relaxed);
    arena->owes_as = kin_robust_forks();
    arena->ends = false;
}

/* Whether this thread is the one to settle it: rule 6. */
static bool
forget(struct kin_arena *arena, uint32_t unit)
{
    return atomic_fetch_and_explicit(&arena->owes[unit / 64], ~kin_arena_bit(unit),
                                     memory_order_relaxed) &
           kin_arena_bit(unit);
}

void
kin_arena_owe(struct kin_arena *arena, const struct kin_member *row, struct kin_block *block)
{
    know_process(arena);
    block->forks = kin_robust_forks();
    block->hold = KIN_HOLD_OWES;
    atomic_fetch_or_explicit(&arena->owes[block->unit / 64], kin_arena_bit(block->unit),
                             memory_order_relaxed);
    atomic_fetch_or_explicit(bits(arena, kin_arena_row(arena, row), block->unit),
                             kin_arena_bit(block->unit), memory_order_release);
}

/* ---------------------------------------------------------------------------------- returning */

static struct kin_ring_side *
receivers_of(const struct kin_arena *arena)
{
    return arena->ring->way == KIN_RING_RECEIVES ? arena->ring->mine : arena->ring->theirs;
}

/* Under the guard. */
static void
say_returned(struct kin_arena *arena, uint32_t unit)
{
    struct kin_ring_side *receivers = receivers_of(arena);
    atomic_fetch_add_explicit(&arena->state->returns, 1, memory_order_release);
    atomic_fetch_or_explicit(&arena->entries[unit].word, KIN_BLOCK_RETURNED, memory_order_seq_cst);
    /* SYNC POINT: sleep_until_there */
    atomic_thread_fence(memory_order_seq_cst);
    if (kin_ring_has_sleepers(receivers))
        kin_ring_wake(receivers);
}

/* Under the guard. */
static void
give_back(struct kin_arena *arena, uint32_t row, uint32_t unit)
{
    uint64_t word = kin_arena_word(arena, unit), length;
    /* Into the ring first: who has received it meanwhile has the bit. */
    if (word & KIN_BLOCK_SENT && !kin_arena_is_sent(arena, unit, word, &length) &&
        !others_owe(arena, row, unit))
        say_returned(arena, unit);
    owes_no_more(arena, row, unit);
}

void
kin_arena_return_dropped(struct kin_arena *arena)
{
    for (uint32_t unit = 0; unit < arena->shape.units; unit++) {
        uint64_t word = kin_arena_word(arena, unit);
        if (!(word & KIN_BLOCK_DROPPED))
            continue;
        if (!(word & KIN_BLOCK_RETURNED))
            say_returned(arena, unit);
        forgive_others(arena, UINT32_MAX, unit);
        atomic_fetch_and_explicit(&arena->entries[unit].word, ~(uint64_t)KIN_BLOCK_DROPPED,
                                  memory_order_release);
    }
}

/* Of what this thread alone may settle. */
static void
drop(struct kin_arena *arena, uint32_t unit)
{
    atomic_fetch_or_explicit(&arena->entries[unit].word, KIN_BLOCK_DROPPED, memory_order_release);
}

/* After `drop`: whoever receives sees to it that they come back, if it can't be done here. */
static void
return_soon(struct kin_arena *arena)
{
    struct kin_ring_side *receivers = receivers_of(arena);
    if (kin_arena_tidy(arena))
        return;
    atomic_fetch_add_explicit(&arena->state->returns, 1, memory_order_seq_cst);
    /* SYNC POINT: sleep_until_there */
    atomic_thread_fence(memory_order_seq_cst);
    if (kin_ring_has_sleepers(receivers))
        kin_ring_wake(receivers);
}

void
kin_arena_return_of(struct kin_arena *arena, const struct kin_member *row)
{
    for (uint32_t unit = 0; unit < arena->shape.units; unit++)
        if (owes(arena, kin_arena_row(arena, row), unit))
            give_back(arena, kin_arena_row(arena, row), unit);
}

void
kin_arena_return_all(struct kin_arena *arena)
{
    bool any = false;
    if (arena->owes_as != kin_robust_forks())
        return;
    for (uint32_t unit = 0; unit < arena->shape.units; unit++)
        if (arena->owes[unit / 64] != 0 && forget(arena, unit)) {
            drop(arena, unit);
            any = true;
        }
    if (any)
        return_soon(arena);
}

/* ------------------------------------------------------------------- acknowledged, or returned */

/* Under the guard: by the own row; it says whether nobody else waits for the last of all. */
static bool
is_last(const struct kin_arena *arena)
{
    for (uint32_t unit = 0; unit < arena->shape.units; unit++)
        if (kin_arena_word(arena, unit) & KIN_BLOCK_RETURNED || others_owe(arena, UINT32_MAX, unit))
            return false;
    return true;
}

/* 0 with the guard held, and the row, for whoever is to settle it; or an errno. */
static int
enter_for(struct kin_arena *arena, uint32_t unit, uint32_t stamp, uint32_t *row)
{
    if (unit >= arena->shape.units || arena->owes_as != kin_robust_forks())
        return ESTALE;
    int error = kin_arena_enter_soon(arena);
    if (error != 0)
        return error;
    const struct kin_member *own = kin_members_row(&arena->members);
    if (own != NULL && kin_arena_word(arena, unit) >> 32 == stamp &&
        owes(arena, *row = kin_arena_row(arena, own), unit) && forget(arena, unit))
        return 0;
    kin_mutex_unlock(&arena->guard);
    return ESTALE;
}

int
kin_arena_acknowledge(struct kin_arena *arena, uint32_t unit, uint32_t stamp)
{
    uint32_t row;
    int error = enter_for(arena, unit, stamp, &row);
    if (error != 0)
        return error;
    forgive_others(arena, row, unit);
    owes_no_more(arena, row, unit);
    bool is_free = kin_arena_free_if_unused(arena, unit, kin_arena_word(arena, unit));
    if (atomic_load_explicit(&arena->state->ending, memory_order_relaxed) != 0 && is_last(arena)) {
        atomic_store_explicit(&arena->state->ending, 0, memory_order_release);
        kin_members_wake(&arena->members, INT_MAX);
    }
    kin_mutex_unlock(&arena->guard);
    if (is_free)
        kin_arena_tell(arena);
    return 0;
}

int
kin_arena_return(struct kin_arena *arena, uint32_t unit, uint32_t stamp)
{
    if (unit >= arena->shape.units || arena->owes_as != kin_robust_forks() ||
        kin_arena_word(arena, unit) >> 32 != stamp || !forget(arena, unit))
        return ESTALE;
    drop(arena, unit);
    return_soon(arena);
    return 0;
}

bool
kin_arena_may_come(struct kin_arena *arena)
{
    bool any = false, own = false;
    know_process(arena);
    if (kin_arena_enter_soon(arena) != 0)
        return arena->ends = true; /* it may */
    kin_arena_tidy_here(arena);
    const struct kin_member *member = kin_members_row(&arena->members);
    uint32_t row = member == NULL ? UINT32_MAX : kin_arena_row(arena, member);
    for (uint32_t unit = 0; unit < arena->shape.units; unit++) {
        any |= kin_arena_word(arena, unit) & KIN_BLOCK_RETURNED || others_owe(arena, row, unit);
        own |= row != UINT32_MAX && owes(arena, row, unit);
    }
    arena->ends = any && !own;
    if (arena->ends)
        atomic_store_explicit(&arena->state->ending, 1, memory_order_relaxed);
    kin_mutex_unlock(&arena->guard);
    return arena->ends;
}

/* ------------------------------------------------------------------------------ receiving again */

/* Under the guard: the oldest of those that were returned. */
static bool
find(const struct kin_arena *arena, uint32_t *found)
{
    uint32_t age = 0;
    bool any = false;
    for (uint32_t unit = 0, units; unit < arena->shape.units; unit += units) {
        uint64_t word = kin_arena_word(arena, unit);
        units = kin_arena_length_at(arena, unit, word);
        if (units == 0)
            break;
        uint32_t this_age = arena->state->stamp - (uint32_t)(word >> 32);
        if (word & KIN_BLOCK_RETURNED && (!any || this_age > age)) {
            *found = unit;
            age = this_age;
            any = true;
        }
    }
    return any;
}

static int
take(struct kin_arena *arena, const struct kin_member *row, struct kin_block *block, uint8_t *kind)
{
    uint32_t returns = atomic_load_explicit(&arena->state->returns, memory_order_acquire), unit = 0;
    kin_arena_tidy_here(arena); /* what was dropped before it was counted */
    if (!find(arena, &unit)) {
        atomic_store_explicit(&arena->state->taken_up, returns, memory_order_release);
        return EAGAIN;
    }
    struct kin_arena_entry *entry = &arena->entries[unit];
    uint64_t word = kin_arena_word(arena, unit);
    uint64_t message = atomic_load_explicit(&entry->message, memory_order_relaxed);
    *block = (struct kin_block){.unit = unit, .stamp = (uint32_t)(word >> 32), .length = message >> 8};
    *kind = (uint8_t)message;
    if (block->length > kin_arena_length_at(arena, unit, word) * arena->shape.unit)
        return EBADMSG;
    forgive_others(arena, kin_arena_row(arena, row), unit);
    kin_arena_owe(arena, row, block);
    atomic_fetch_and_explicit(&entry->word, ~(uint64_t)(KIN_BLOCK_RETURNED | KIN_BLOCK_DROPPED),
                              memory_order_release);
    return 0;
}

int
kin_arena_take_returned(struct kin_arena *arena, struct kin_block *block, uint8_t *kind)
{
    const struct kin_member *row;
    int error;
    if (!kin_arena_has_returned(arena))
        return EAGAIN;
    while ((row = kin_members_row(&arena->members)) == NULL)
        if ((error = kin_arena_join(arena)) != 0)
            return error == EBUSY ? EAGAIN : error;
    error = kin_arena_enter_soon(arena);
    if (error != 0)
        return error == EBUSY ? EAGAIN : error;
    error = take(arena, row, block, kind);
    kin_mutex_unlock(&arena->guard);
    return error;
}
