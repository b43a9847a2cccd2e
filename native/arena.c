/* Blocks for large messages, which are written and read where they lie. arena_layout.h draws them; docs/design/ring.md says
 * why it is so.
 *
 *                    entry      bits: sender    in the ring    receiver       then killed here: whose it is
 *      allocate      bit, word        1              –             –          nobody's: free
 *      commit        SENT, at         1          position          –          the ring's
 *      release                        0              1             –
 *      receive                        0              1             1          the ring's
 *      commit                         0          position          1          nobody's: free
 *      release       0                0              –             0
 *
 * Rules:
 * 1. A block is in use as long as a frame in the ring names it, or a bit in the row of a process does. Nothing else says so, and
 *    no list has to be right: taking back what a dead process had is zeroing its bits.
 * 2. Blocks are made and freed under the guard, each by one store of the entry, which the kernel releases if its holder dies.
 *    A kill before or after leaves a block that nobody has, or a bit without a block; `sweep` frees the one, the row of
 *    the dead goes with the other.
 * 3. A bit is set before what others know it by goes away: the sender's until the frame is committed, the receiver's before
 *    the frame is taken. Whoever asks whether a block is in use looks into the ring first, and at the bits then. So it is
 *    never seen without either.
 * 4. A frame is believed only if it names the block, with its stamp, and the block names the frame's position: a dead
 *    sender may have written one without the other.
 * 5. A block is the first free run of units, the lowest: so what was used last is used again, while caches and page tables
 *    know it. Units have no memory until they are first used: arena_pages.c.
 * 6. What ends in the upper half is never left to a receiver: he copies it and gives it back. So whatever receivers keep, half of the
 *    arena comes back as soon as what was sent is received, and no message is larger than that.
 * 7. Whoever gives up something waits for nobody: who has the guard may be stopped. He takes his bit away; and if he can't have the
 *    guard he counts `left_over` up, so that whoever has it next, before he looks for a block, does the rest (arena_wait.c).
 * 8. What others wrote is not believed: the shape is checked and copied, entries and frames are checked before they are used.
 */

#include "arena_inside.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "ring.h"

enum { BITS = 64, PAGE = 4096 };

/* -------------------------------------------------------------------------------------- shape */

static uint64_t
words_of(const struct kin_arena_shape *shape)
{
    return (shape->units + BITS - 1) / BITS;
}

static uint64_t
holds_at(const struct kin_arena_shape *shape)
{
    return sizeof(struct kin_arena_state) + kin_members_size(shape->members);
}

static uint64_t
entries_at(const struct kin_arena_shape *shape)
{
    return holds_at(shape) + shape->members * KIN_HOLDS * words_of(shape) * sizeof(uint64_t);
}

static bool
is_power_of_two(uint64_t number)
{
    return number != 0 && (number & (number - 1)) == 0;
}

static bool
may_be(const struct kin_arena_shape *shape)
{
    return is_power_of_two(shape->unit) && shape->unit >= KIN_ARENA_SMALLEST_UNIT &&
           shape->unit <= UINT64_C(1) << 40 && is_power_of_two(shape->units) &&
           shape->units >= KIN_ARENA_LEAST_UNITS && shape->units <= KIN_ARENA_MOST_UNITS &&
           shape->members > 0 && shape->members <= KIN_MOST_MEMBERS;
}

struct kin_arena_shape
kin_arena_shape_of(uint64_t size)
{
    struct kin_arena_shape shape = {.unit = KIN_ARENA_SMALLEST_UNIT, .members = KIN_MEMBERS};
    while (size / shape.unit > KIN_ARENA_MOST_UNITS)
        shape.unit *= 2;
    shape.units = (uint32_t)(size / shape.unit);
    return may_be(&shape) && shape.units * shape.unit == size ? shape : (struct kin_arena_shape){0};
}

uint64_t
kin_arena_head(const struct kin_arena_shape *shape)
{
    if (!may_be(shape))
        return 0;
    uint64_t end = entries_at(shape) + shape->units * sizeof(struct kin_arena_entry);
    return (end + PAGE - 1) / PAGE * PAGE;
}

uint64_t
kin_arena_room(const struct kin_arena_shape *shape)
{
    return may_be(shape) ? kin_arena_head(shape) + shape->units * shape->unit : 0;
}

uint64_t
kin_arena_most(const struct kin_arena *arena)
{
    return arena->shape.unit * (arena->shape.units / 2);
}

/* ---------------------------------------------------------------------------------- who has it */

_Atomic uint64_t *
kin_arena_hold_word(const struct kin_arena *arena, uint32_t row, enum kin_hold hold, uint32_t unit)
{
    uint64_t words = words_of(&arena->shape);
    return &arena->holds[(row * KIN_HOLDS + (uint32_t)hold) * words + unit / BITS];
}

static bool
is_held(const struct kin_arena *arena, uint32_t unit)
{
    uint32_t rows = kin_arena_rows(arena);
    for (uint32_t row = 0; row < rows; row++)
        for (enum kin_hold hold = 0; hold < KIN_HOLDS; hold++)
            if (atomic_load_explicit(kin_arena_hold_word(arena, row, hold, unit), memory_order_acquire) &
                kin_arena_bit(unit))
                return true;
    return false;
}

/* Rule 3. */
static bool
is_in_use(const struct kin_arena *arena, uint32_t unit, uint64_t word)
{
    uint64_t length;
    return kin_arena_is_sent(arena, unit, word, &length) || is_held(arena, unit) ||
           word & KIN_BLOCK_RETURNED;
}

/* ------------------------------------------------------------------------------------- freeing */

bool
kin_arena_free_if_unused(struct kin_arena *arena, uint32_t unit, uint64_t word)
{
    if (word == 0 || is_in_use(arena, unit, word))
        return false;
    atomic_store_explicit(&arena->entries[unit].word, 0, memory_order_release);
    return true;
}

bool
kin_arena_sweep(struct kin_arena *arena)
{
    bool any = false;
    for (uint32_t unit = 0, units; unit < arena->shape.units; unit += units) {
        uint64_t word = kin_arena_word(arena, unit);
        units = kin_arena_length_at(arena, unit, word);
        if (units == 0)
            break;
        any |= kin_arena_free_if_unused(arena, unit, word);
    }
    return any;
}

/* Of a process that is dead, or has closed its last handle, and so has no blocks. */
static bool
left(struct kin_members *members, struct kin_member *row, bool is_dead)
{
    struct kin_arena *arena =
        (struct kin_arena *)(void *)((char *)members - offsetof(struct kin_arena, members));
    (void)is_dead;
    kin_arena_return_of(arena, row);
    for (enum kin_hold hold = 0; hold < KIN_HOLDS; hold++)
        for (uint32_t unit = 0; unit < arena->shape.units; unit += BITS)
            atomic_store_explicit(kin_arena_hold_word(arena, kin_arena_row(arena, row), hold, unit), 0,
                                  memory_order_release);
    uint64_t first = atomic_load_explicit(&arena->state->first, memory_order_relaxed);
    bool was_first = first != 0 && (first & 0xffff) == kin_arena_row(arena, row) + 1;
    if (was_first)
        atomic_store_explicit(&arena->state->first, 0, memory_order_relaxed);
    if (kin_arena_sweep(arena) || was_first)
        kin_arena_wake(arena);
    return true;
}

/* Whether this process holds it; as what it does, it was inherited. */
static bool
holds(const struct kin_arena *arena, const struct kin_block *block, enum kin_hold *hold)
{
    uint32_t forks = kin_robust_forks();
    *hold = block->forks == forks ? block->hold : KIN_HOLD_RECEIVES;
    return block->forks == forks ||
           (arena->inherited_by == forks && arena->inherited_from <= block->forks);
}

void
kin_arena_release(struct kin_arena *arena, const struct kin_block *block)
{
    struct kin_member *row = kin_members_row(&arena->members);
    enum kin_hold hold;
    if (row == NULL || !holds(arena, block, &hold))
        return;
    /* This one first: a child that is forked just now shall not hold it. */
    atomic_fetch_and_explicit(&arena->own[block->unit / BITS], ~kin_arena_bit(block->unit),
                              memory_order_relaxed);
    atomic_fetch_and_explicit(kin_arena_hold_word(arena, kin_arena_row(arena, row), hold, block->unit),
                              ~kin_arena_bit(block->unit), memory_order_release);
    int error = kin_mutex_take(&arena->guard, NULL, KIN_MUTEX_AWAKE);
    if (error != 0 && error != EOWNERDEAD) {
        kin_arena_leave_over(arena);
        return;
    }
    uint64_t word = kin_arena_word(arena, block->unit);
    bool is_free = word >> 32 == block->stamp && kin_arena_free_if_unused(arena, block->unit, word);
    kin_mutex_unlock(&arena->guard);
    if (is_free)
        kin_arena_tell(arena);
}

/* ---------------------------------------------------------------------------------- allocating */

/* Under the guard: 0 and the first of so many free units, EAGAIN or EBADMSG. */
int
kin_arena_find(const struct kin_arena *arena, uint32_t wanted, uint32_t *first)
{
    uint32_t begin = 0; /* of the run of free units, which there may be thousands of */
    for (uint32_t unit = 0; unit < arena->shape.units;) {
        uint64_t word = kin_arena_word(arena, unit);
        if (word != 0) {
            uint32_t units = kin_arena_length_at(arena, unit, word);
            if (units == 0)
                return EBADMSG;
            begin = unit += units;
        } else if (++unit - begin == wanted) {
            *first = begin;
            return 0;
        }
    }
    return EAGAIN;
}

void
kin_arena_hold(struct kin_arena *arena, const struct kin_member *row, struct kin_block *block)
{
    block->forks = kin_robust_forks();
    atomic_fetch_or_explicit(&arena->own[block->unit / BITS], kin_arena_bit(block->unit),
                             memory_order_relaxed);
    atomic_fetch_or_explicit(kin_arena_hold_word(arena, kin_arena_row(arena, row), block->hold, block->unit),
                             kin_arena_bit(block->unit), memory_order_release);
}

static int
take(struct kin_arena *arena, const struct kin_member *row, struct kin_block *block)
{
    uint32_t units = kin_arena_units_for(arena, block->length);
    int error = kin_arena_enter_soon(arena);
    if (error != 0)
        return error;
    bool others = false;
    kin_arena_tidy_here(arena);
    error = kin_arena_is_behind(arena) ? EAGAIN : kin_arena_find(arena, units, &block->unit);
    if (error == 0) {
        others = kin_arena_step_back(arena);
        block->stamp = ++arena->state->stamp;
        block->in_place = block->unit + units <= arena->shape.units / 2;
        kin_arena_hold(arena, row, block);
        atomic_store_explicit(&arena->entries[block->unit].word,
                              units | (uint64_t)block->stamp << 32, memory_order_release);
    }
    kin_mutex_unlock(&arena->guard);
    if (others)
        kin_arena_tell(arena);
    return error;
}

int
kin_arena_allocate(struct kin_arena *arena, uint64_t length, struct kin_block *block)
{
    struct kin_member *row;
    int error;
    *block = (struct kin_block){.length = length, .hold = KIN_HOLD_SENDS};
    if (length > kin_arena_most(arena))
        return EMSGSIZE;
    while ((row = kin_members_row(&arena->members)) == NULL)
        if ((error = kin_arena_join(arena)) != 0)
            return error == EBUSY ? EAGAIN : error;
    error = take(arena, row, block);
    if (error == EAGAIN && (error = kin_arena_look(arena, KIN_LOOK_ALL)) == 0)
        error = take(arena, row, block);
    if (error != 0)
        return error == EBUSY ? EAGAIN : error;
    error = kin_arena_populate(arena, block);
    if (error != 0)
        kin_arena_release(arena, block);
    return error == EFAULT || error == ENOMEM ? ENOSPC : error; /* madvise(2) */
}

void *
kin_arena_bytes(const struct kin_arena *arena, const struct kin_block *block)
{
    return arena->blocks + block->unit * arena->shape.unit;
}

/* ------------------------------------------------------------------------------------- opening */

void
kin_arena_format(void *memory, const struct kin_arena_shape *shape)
{
    struct kin_arena_state *state = memory;
    kin_members_format((struct kin_members_state *)(void *)(state + 1), shape->members);
}

bool
kin_arena_bind(struct kin_arena *arena, struct kin_ring *ring, void *memory,
               const struct kin_arena_shape *shape, struct kin_watcher *watcher)
{
    struct kin_members_terms terms = {&arena->guard, watcher, left};
    unsigned char *start = memory;
    if (!may_be(shape))
        return false;
    arena->ring = ring;
    arena->shape = *shape;
    arena->state = memory;
    arena->holds = (_Atomic uint64_t *)(void *)(start + holds_at(shape));
    arena->entries = (struct kin_arena_entry *)(void *)(start + entries_at(shape));
    arena->blocks = start + kin_arena_head(shape);
    return kin_members_bind(&arena->members, (struct kin_members_state *)(void *)(arena->state + 1),
                            kin_members_size(shape->members), &terms) &&
           arena->members.count == shape->members && kin_arena_know(arena);
}

void
kin_arena_close(struct kin_arena *arena)
{
    kin_arena_forget(arena);
    if (arena->members.state == NULL)
        return;
    kin_arena_give_up(arena);
    if (!kin_members_leave(&arena->members))
        kin_arena_leave_over(arena);
    kin_members_close(&arena->members);
}
