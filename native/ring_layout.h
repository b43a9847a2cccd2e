/* How a ring lies in shared memory. Version 3.
 *
 *        0 ┌──────────────────────────────┐
 *          │ header, guard                │ as every object has them: sync_object.c
 *      128 ├──────────────────────────────┤
 *          │ shape                        │ written once, by who makes it; whoever opens it copies it
 *      256 ├──────────────────────────────┤ ┐
 *          │ lock                         │ │ among those who send
 *          │ position   whereabouts       │ │ bytes ever sent: the commit word
 *          │ asleep  departures  polled   │ │ the futex of those who wait for room
 *      512 ├──────────────────────────────┤ ┘ ┐
 *          │ lock                         │   │ among those who receive
 *          │ position   whereabouts       │   │ bytes ever taken: gives the room back
 *          │ asleep  departures  polled   │   │ the futex of those who wait for a message
 *      768 ├──────────────────────────────┤   ┘
 *          │ reserved                     │ cursors of a broadcast
 *     4096 ├──────────────────────────────┤
 *          │ bytes                        │ `capacity` of them, a power of two
 *          ├──────────────────────────────┤
 *          │ arena                        │ for large messages: arena_layout.h draws it
 *          └──────────────────────────────┘
 *
 *                       received              sent
 *                          │                   │
 *      ┌───────────────────▼───────────────────▼──────────────────┐
 *      │▒▒▒▒ free ▒▒▒▒▒▒▒▒▒│ frame │ frame │   │▒▒▒▒▒▒▒ free ▒▒▒▒▒│     a position modulo the capacity
 *      └──────────────────────────────────────────────────────────┘
 *
 *      frame:   0 length │ 4 kind │ 5 flags, 0 │ 8 the bytes, around the end if need be │ to a multiple of 8
 *      flags:   1: the bytes are where a block of the arena lies, which holds the message
 *
 * Positions only grow, and never come round: 2^64 bytes are some centuries. Each stands in a cache line that
 * only its own side writes; sides are 128 bytes apart and more, as CPUs fetch lines in pairs.
 */

#ifndef KIN_RING_LAYOUT_H
#define KIN_RING_LAYOUT_H

#include "arena_layout.h"
#include "sync_object.h"

enum {
    KIN_RING_LAYOUT = 3,
    KIN_RING_BYTES_AT = 4096,
    KIN_RING_FRAME = 8, /* what comes before a message, and what it is aligned to */
    KIN_RING_IN_BLOCK = 1,
};

#define KIN_RING_SMALLEST UINT64_C(4096)
#define KIN_RING_LARGEST (UINT64_C(1) << 34)

struct kin_ring_shape {
    uint32_t layout;
    uint32_t acknowledged; /* 1: all messages are in blocks, and are received until they are acknowledged */
    uint64_t capacity; /* of the ring of bytes */
    struct kin_arena_shape arena;
    uint64_t reserved[12];
};

struct kin_ring_side {
    struct kin_mutex_state lock;
    _Atomic uint64_t position;
    _Atomic uint64_t whereabouts; /* of who moved it last: process << 32 | CPU */
    uint64_t reserved[6];
    /* FUTEX_WAITERS: somebody may sleep here; else 0. The kernel looks at it when somebody dies: ring_wait.c */
    _Atomic uint32_t asleep;
    _Atomic uint32_t departures; /* counts ends of this side that were closed: a hint to look who is there */
    _Atomic uint32_t polled;     /* 1: somebody of this side has asked for a descriptor: ring_poll.c */
    uint32_t unused[13];
    uint64_t also_reserved[8];
};

struct kin_ring_memory {
    struct kin_object object;
    struct kin_ring_shape shape;
    struct kin_ring_side senders, receivers;
    uint8_t reserved[KIN_RING_BYTES_AT - 768];
};

_Static_assert(offsetof(struct kin_ring_memory, shape) == 128, "as drawn");
_Static_assert(offsetof(struct kin_ring_memory, senders) == 256, "as drawn");
_Static_assert(offsetof(struct kin_ring_memory, receivers) == 512, "as drawn");
_Static_assert(sizeof(struct kin_ring_memory) == KIN_RING_BYTES_AT, "as drawn");
_Static_assert(offsetof(struct kin_ring_side, position) % 64 == 0, "a cache line of its own");
_Static_assert(offsetof(struct kin_ring_side, asleep) % 64 == 0, "a cache line of its own");

/* The eight bytes before a message: read and written at once. */
struct kin_ring_frame {
    uint32_t length;
    uint8_t kind;
    uint8_t flags; /* KIN_RING_IN_BLOCK */
    uint16_t unused;
};

_Static_assert(sizeof(struct kin_ring_frame) == KIN_RING_FRAME, "as drawn");

/* What a message of so many bytes takes. */
static inline uint64_t
kin_ring_framed(uint64_t length)
{
    return KIN_RING_FRAME + (length + KIN_RING_FRAME - 1) / KIN_RING_FRAME * KIN_RING_FRAME;
}

#endif
