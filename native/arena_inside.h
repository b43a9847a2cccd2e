/* Between arena.c, arena_wait.c and arena_ring.c. */

#ifndef KIN_ARENA_INSIDE_H
#define KIN_ARENA_INSIDE_H

#include "arena.h"

/* The guard, for who has a time limit, which is not known here. 0; EBUSY when somebody holds it who does not seem to run; or an
 * errno. */
int kin_arena_enter_soon(struct kin_arena *arena);

static inline uint64_t
kin_arena_word(const struct kin_arena *arena, uint32_t unit)
{
    return atomic_load_explicit(&arena->entries[unit].word, memory_order_acquire);
}

/* How many units, from this one on, are one block, or one free unit; 0: the memory was overwritten. */
static inline uint32_t
kin_arena_length_at(const struct kin_arena *arena, uint32_t unit, uint64_t word)
{
    uint32_t units = word & KIN_BLOCK_UNITS;
    if (word == 0)
        return 1;
    return units <= arena->shape.units - unit ? units : 0;
}

static inline uint32_t
kin_arena_units_for(const struct kin_arena *arena, uint64_t length)
{
    uint64_t units = (length + arena->shape.unit - 1) / arena->shape.unit;
    return units == 0 ? 1 : (uint32_t)units;
}

/* Under the guard: 0 and the first of so many free units, EAGAIN or EBADMSG. */
int kin_arena_find(const struct kin_arena *arena, uint32_t wanted, uint32_t *first);

/* Under the guard: frees what nobody has; whether there was any. */
bool kin_arena_sweep(struct kin_arena *arena);

/* The bits of a row, of a unit and 63 others. */
_Atomic uint64_t *kin_arena_hold_word(const struct kin_arena *arena, uint32_t row,
                                      enum kin_hold hold, uint32_t unit);

/* Has forks mind a handle; false: no memory. And no more: also before its memory is used for something else. */
bool kin_arena_know(struct kin_arena *arena);
void kin_arena_forget(const struct kin_arena *arena);

/* Sets the bit of this process's row. */
void kin_arena_hold(struct kin_arena *arena, const struct kin_member *row, struct kin_block *block);

/* Sets the bit of one who has to acknowledge it. */
void kin_arena_owe(struct kin_arena *arena, const struct kin_member *row, struct kin_block *block);

/* Under the guard: frees the block if nobody has it; whether it did. */
bool kin_arena_free_if_unused(struct kin_arena *arena, uint32_t unit, uint64_t word);

/* Has the kernel give it memory. 0 or an errno of madvise(2). */
int kin_arena_populate(struct kin_arena *arena, const struct kin_block *block);

/* After a block became free, and the guard was left. */
void kin_arena_tell(struct kin_arena *arena);

/* Something was left over, as the guard can't be had at once. */
void kin_arena_leave_over(struct kin_arena *arena);

/* The same, after an attempt: it is done now, or, if somebody has the guard, by whoever has it next; then false. Waits for nobody. */
bool kin_arena_tidy(struct kin_arena *arena);

/* Under the guard: does what others have left. */
void kin_arena_tidy_here(struct kin_arena *arena);

/* Under the guard: returns what was dropped. */
void kin_arena_return_dropped(struct kin_arena *arena);

static inline uint64_t
kin_arena_bit(uint32_t unit)
{
    return UINT64_C(1) << unit % 64;
}

static inline uint32_t
kin_arena_row(const struct kin_arena *arena, const struct kin_member *row)
{
    return (uint32_t)(row - arena->members.state->rows);
}

/* How many rows have been used; what lies in the memory is not believed. */
static inline uint32_t
kin_arena_rows(const struct kin_arena *arena)
{
    uint32_t rows = __atomic_load_n(&arena->members.state->used, __ATOMIC_ACQUIRE);
    return rows < arena->shape.members ? rows : arena->shape.members;
}

/* Under the guard: whether somebody else is to get a block first. */
bool kin_arena_is_behind(const struct kin_arena *arena);

/* Under the guard: nobody is, unless it is somebody else's turn. Whether it was this handle's. */
bool kin_arena_step_back(struct kin_arena *arena);

/* Whether a frame in the ring names it, and how long its message is. */
bool kin_arena_is_sent(const struct kin_arena *arena, uint32_t unit, uint64_t word, uint64_t *length);

#endif
