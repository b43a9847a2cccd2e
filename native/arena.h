/* Blocks for large messages, beside a ring: see arena.c.
 *
 *     kin_arena_allocate ──> held as a sender ── kin_ring_put_block, leave, kin_arena_release ──> in the ring
 *                                                                                                   │
 *         free <── kin_arena_release ── held as a receiver <── kin_ring_next_block, take, leave ────┘
 */

#ifndef KIN_ARENA_H
#define KIN_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "arena_layout.h"
#include "members.h"
#include "mutex.h"

enum kin_hold { KIN_HOLD_SENDS, KIN_HOLD_RECEIVES, KIN_HOLD_OWES, KIN_HOLDS };

struct kin_ring;

/* A handle's part, private to its process. */
struct kin_arena {
    struct kin_ring *ring;
    struct kin_arena_state *state;
    struct kin_members members;
    struct kin_mutex guard;
    _Atomic uint64_t *holds;
    struct kin_arena_entry *entries;
    unsigned char *blocks;
    struct kin_arena_shape shape; /* a copy, checked */
    _Atomic uint64_t had[KIN_ARENA_MOST_UNITS / 64]; /* units that this process has mapped, and that have memory */
    _Atomic uint64_t own[KIN_ARENA_MOST_UNITS / 64]; /* first units of the blocks that this handle holds */
    _Atomic uint64_t owes[KIN_ARENA_MOST_UNITS / 64]; /* those that it has to acknowledge … */
    uint32_t owes_as;                                 /* … in the process that has this count of kin_robust_forks */
    bool ends;                                        /* it waits until all are acknowledged */
    uint32_t inherited_from, inherited_by; /* processes by kin_robust_forks: what the first got, the second holds too */
};

/* A block that this process holds. */
struct kin_block {
    uint32_t unit, stamp;
    uint64_t length; /* of the message */
    enum kin_hold hold;
    uint32_t forks;  /* the process that holds it */
    bool in_place;   /* it may be held for as long as one likes */
};

/* How so many bytes are divided: a unit of 0 for a size that can't be. */
struct kin_arena_shape kin_arena_shape_of(uint64_t size);

/* Bytes before the units, and in all; 0 for a shape that can't be. */
uint64_t kin_arena_head(const struct kin_arena_shape *shape);
uint64_t kin_arena_room(const struct kin_arena_shape *shape);

/* When the ring is made, or opened; the rest of `arena` is zero. `memory` has the room. */
void kin_arena_format(void *memory, const struct kin_arena_shape *shape);
bool kin_arena_bind(struct kin_arena *arena, struct kin_ring *ring, void *memory,
                    const struct kin_arena_shape *shape, struct kin_watcher *watcher);
void kin_arena_close(struct kin_arena *arena);

/* The largest message. */
uint64_t kin_arena_most(const struct kin_arena *arena);

/* Gets a block, with memory behind it, without waiting.
 *     EAGAIN    there is none, also after the dead were looked for; or somebody has waited for one
 *     EMSGSIZE  there will never be
 *     ENOSPC    the kernel has no memory for it
 *     EUSERS    as many processes use it as it has rows
 *     EBADMSG   the memory was overwritten
 *     else      as kin_members_look
 */
int kin_arena_allocate(struct kin_arena *arena, uint64_t length, struct kin_block *block);

/* Where its bytes are. */
void *kin_arena_bytes(const struct kin_arena *arena, const struct kin_block *block);

/* Has its pages in this process's tables, if they were not: at once, not by a fault each. */
void kin_arena_touch(struct kin_arena *arena, const struct kin_block *block);

/* This process needs it no more: it is free if it is in no ring, and nobody else's. Not in a forked copy. Waits for nobody. */
void kin_arena_release(struct kin_arena *arena, const struct kin_block *block);

/* As kin_members_join and kin_members_look, for a short time: EBUSY when somebody has the guard who does not seem to run. */
int kin_arena_join(struct kin_arena *arena);
int kin_arena_look(struct kin_arena *arena, enum kin_look how);

/* Sleeps until it may be worth to ask for so many bytes again. As kin_ring_wait, or kin_members_look. */
int kin_arena_wait(struct kin_arena *arena, uint64_t length, uint32_t alarm,
                   const struct timespec *deadline);

/* Who has waited asks for no block any more: others may. After a `kin_arena_wait` that gave 0 and no `allocate` that did. */
void kin_arena_give_up(struct kin_arena *arena);

/* All who sleep look again. */
void kin_arena_wake(struct kin_arena *arena);

/* Bytes in the blocks that were sent and not received, as it was a moment ago. */
uint64_t kin_arena_depth(struct kin_arena *arena);

/* --------------------------------------------------- of a ring whose messages are acknowledged: arena_acknowledge.c */

/* The oldest message that was returned: this process has to acknowledge it, from here on. EAGAIN: there is none; else as allocate. */
int kin_arena_take_returned(struct kin_arena *arena, struct kin_block *block, uint8_t *kind);

/* Whether there may be one. */
static inline bool
kin_arena_has_returned(const struct kin_arena *arena)
{
    return atomic_load_explicit(&arena->state->returns, memory_order_acquire) !=
           atomic_load_explicit(&arena->state->taken_up, memory_order_acquire);
}

/* Whether this handle waits for the end, and it may have come. */
static inline bool
kin_arena_has_ended(const struct kin_arena *arena)
{
    return arena->ends && atomic_load_explicit(&arena->state->ending, memory_order_acquire) == 0;
}

/* It is done with, or to be received again. ESTALE: by this handle, in this process, it is not to be acknowledged (any more);
 * EBUSY: somebody has the guard who does not seem to run; or as kin_mutex_lock. Who returns waits for nobody. */
int kin_arena_acknowledge(struct kin_arena *arena, uint32_t unit, uint32_t stamp);
int kin_arena_return(struct kin_arena *arena, uint32_t unit, uint32_t stamp);

/* All that are to be acknowledged by this handle are to be received again. Waits for nobody. */
void kin_arena_return_all(struct kin_arena *arena);

/* Under the guard: those of a process that is dead, or has closed its last handle. */
void kin_arena_return_of(struct kin_arena *arena, const struct kin_member *row);

/* Whether some other process may still return one, or it can't be known for now; not if this one may too, which then waits for
 * nobody. Then kin_ring_wait also ends when that has changed. */
bool kin_arena_may_come(struct kin_arena *arena);

/* ------------------------------------------------------------------------ between enter and leave of its ring */

/* Adds the message in a block, which this process holds as a sender; it is to be released after `leave`. As kin_ring_put. */
int kin_ring_put_block(struct kin_ring *ring, const struct kin_block *block, uint8_t kind);

struct kin_ring_frame;

/* The block of the next message, whose frame `next` gave, with KIN_RING_IN_BLOCK: it is held from here on, as a receiver; to be
 * released if it is not taken. EBADMSG: there is none; ENOENT: kin_arena_join comes before `enter`. */
int kin_ring_next_block(struct kin_ring *ring, const struct kin_ring_frame *frame,
                        struct kin_block *block);

#endif
