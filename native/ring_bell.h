/* Between ring.c and ring_wait.c: who sleeps, and who wakes him. */

#ifndef KIN_RING_BELL_H
#define KIN_RING_BELL_H

#include "ring.h"

/* For `kin_robust_begin`: has the kernel look at `asleep`, which nobody ever owns, when this thread dies. */
static inline struct kin_robust_node *
kin_ring_bell(struct kin_ring_side *side)
{
    return (struct kin_robust_node *)(void *)((char *)&side->asleep + KIN_ROBUST_NODE_OFFSET);
}

static inline bool
kin_ring_has_sleepers(const struct kin_ring_side *side)
{
    return atomic_load_explicit(&side->asleep, memory_order_relaxed) != 0;
}

static inline bool
kin_ring_is_polled(const struct kin_ring_side *side)
{
    return atomic_load_explicit(&side->polled, memory_order_relaxed) != 0;
}

/* Inside, before a commit: makes the descriptors of the other side speak, if it brings what they wait for. */
void kin_ring_call(const struct kin_ring *ring);

/* How much room senders sleep for, whatever they want to send; no message takes more. */
static inline uint64_t
kin_ring_threshold(const struct kin_ring *ring)
{
    return ring->capacity / 4;
}

/* Bytes between the two positions, which may move meanwhile: then it may be off, and even above the capacity. */
static inline uint64_t
kin_ring_between(const struct kin_ring *ring)
{
    uint64_t mine = atomic_load_explicit(&ring->mine->position, memory_order_relaxed);
    uint64_t theirs = atomic_load_explicit(&ring->theirs->position, memory_order_relaxed);
    return ring->way == KIN_RING_SENDS ? mine - theirs : theirs - mine;
}

/* Room for so many bytes, or a message. */
bool kin_ring_is_there(const struct kin_ring *ring, uint64_t need);

/* This process and the CPU it runs on. */
uint64_t kin_ring_whereabouts(const struct kin_ring *ring);

/* Wakes one who sleeps there. It is pending. */
void kin_ring_wake(struct kin_ring_side *side);

/* After a commit, while the futex of the others is pending: wakes one of them, if somebody sleeps and has something to
 * wake up for. */
static inline void
kin_ring_tell(struct kin_ring *ring)
{
    struct kin_ring_side *theirs = ring->theirs;
    /* SYNC POINT: kin_ring_wait. Either the position is seen there, or FUTEX_WAITERS here. */
    atomic_thread_fence(memory_order_seq_cst);
    if (__builtin_expect(!kin_ring_has_sleepers(theirs), 1))
        return;
    if (ring->way == KIN_RING_RECEIVES &&
        ring->capacity - kin_ring_between(ring) < kin_ring_threshold(ring))
        return;
    kin_ring_wake(theirs);
}

#endif
