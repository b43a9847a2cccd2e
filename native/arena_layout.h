/* How the arena of a ring lies in shared memory, behind the bytes of the ring. See ring_layout.h, and arena.c.
 *
 *          ┌──────────────────────────────┐
 *          │ state                        │ who sleeps; the last stamp
 *       64 ├──────────────────────────────┤
 *          │ members, and their rows      │ members.h: a process that has blocks is one
 *          ├──────────────────────────────┤
 *          │ holds                        │ three rows of bits a member, a bit a unit: as a sender, as a receiver,
 *          │                              │ as one who has not acknowledged it
 *          ├──────────────────────────────┤
 *          │ entries                      │ one a unit
 *          ├──────────────────────────────┤ at a multiple of 4096
 *          │ units                        │ a power of two bytes each, and a power of two of them
 *          └──────────────────────────────┘
 *
 *      units     │ 0 │ 1 │ 2 │ 3 │ 4 │ 5 │ 6 │ 7 │
 *                └───┴───┴───┴───┴───┴───┴───┴───┘
 *      blocks    │ free  │    A      │ B │ free  │
 *      entries     0   0   3   0   0   1   0   0      a block's first entry says how long it is; all others are 0
 *
 *      word      0 units │ 16 KIN_BLOCK_SENT │ 17 KIN_BLOCK_RETURNED │ 18 KIN_BLOCK_DROPPED │ 32 stamp, which tells it from the blocks that were there before
 *      frame     8 number of the first unit, stamp │ 16 bytes of the message
 */

#ifndef KIN_ARENA_LAYOUT_H
#define KIN_ARENA_LAYOUT_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    KIN_ARENA_MOST_UNITS = 4096,
    KIN_ARENA_LEAST_UNITS = 8,
    KIN_ARENA_SMALLEST_UNIT = 4096, /* a page */
    KIN_BLOCK_UNITS = 0xffff,
    KIN_BLOCK_SENT = 1 << 16,       /* it lies where `at` says, if what lies there says so too */
    KIN_BLOCK_RETURNED = 1 << 17,   /* it was received, not acknowledged, and is to be received again */
    KIN_BLOCK_DROPPED = 1 << 18,    /* … is to become that: who has it wants it no more */
};

/* Written once, by who makes the ring. */
struct kin_arena_shape {
    uint64_t unit; /* bytes */
    uint32_t units;
    uint32_t members; /* rows */
};

struct kin_arena_state {
    _Atomic uint32_t asleep; /* 1: somebody may sleep until a block is free */
    uint32_t stamp;          /* of the newest block; under the guard */
    /* Of a ring whose messages are acknowledged: arena_acknowledge.c */
    _Atomic uint32_t returns;   /* counts blocks that were returned */
    _Atomic uint32_t taken_up;  /* … as it was when none of them was left */
    _Atomic uint32_t ending;    /* 1: somebody may wait until all are acknowledged */
    _Atomic uint32_t left_over; /* counts what was left to whoever has the guard next, as it could not be had at once */
    _Atomic uint64_t first; /* row + 1 │ 16 handle: who has waited in vain, and gets the next block; 0: nobody */
    _Atomic uint32_t tidied; /* … as it was when all of it was done */
    uint32_t unused;
    uint64_t reserved[3];
};

struct kin_arena_entry {
    _Atomic uint64_t word; /* 0: free, or inside a block */
    _Atomic uint64_t at;   /* the position of its frame */
    _Atomic uint64_t message; /* its kind │ 8 its length: of one that was returned */
};

/* In the ring, behind its frame. */
struct kin_arena_place {
    uint32_t unit;
    uint32_t stamp;
    uint64_t length;
};

_Static_assert(sizeof(struct kin_arena_state) == 64, "a cache line");
_Static_assert(sizeof(struct kin_arena_place) == 16, "as drawn");

#endif
