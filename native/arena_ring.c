/* Between a ring and its arena: a block that a frame of the ring names. Rules 1, 3 and 4 of arena.c. */

#include <errno.h>
#include <string.h>

#include "arena_inside.h"
#include "ring.h"

/* A word of the ring that others may be writing: what was read counts only if the receivers were not there yet, afterwards. */
__attribute__((no_sanitize("thread"))) static uint64_t
word_in_ring(const struct kin_ring *ring, uint64_t position)
{
    uint64_t place = position & (ring->capacity - 1) & ~(uint64_t)7;
    return *(const volatile uint64_t *)(const volatile void *)(ring->bytes + place);
}

/* Whether a frame in the ring names it, and how long its message is. */
bool
kin_arena_is_sent(const struct kin_arena *arena, uint32_t unit, uint64_t word, uint64_t *length)
{
    const struct kin_ring *ring = arena->ring;
    bool sends = ring->way == KIN_RING_SENDS;
    const struct kin_ring_side *senders = sends ? ring->mine : ring->theirs;
    const struct kin_ring_side *receivers = sends ? ring->theirs : ring->mine;
    if (!(word & KIN_BLOCK_SENT))
        return false;
    uint64_t at = atomic_load_explicit(&arena->entries[unit].at, memory_order_relaxed);
    /* SYNC POINT: kin_ring_leave */
    uint64_t sent = atomic_load_explicit(&senders->position, memory_order_acquire);
    if (sent - at > ring->capacity || sent == at)
        return false;
    struct kin_ring_frame frame;
    uint64_t head = word_in_ring(ring, at), place = word_in_ring(ring, at + KIN_RING_FRAME);
    *length = word_in_ring(ring, at + 2 * KIN_RING_FRAME);
    atomic_thread_fence(memory_order_acquire);
    uint64_t received = atomic_load_explicit(&receivers->position, memory_order_acquire);
    memcpy(&frame, &head, sizeof frame);
    return (int64_t)(at - received) >= 0 && frame.flags & KIN_RING_IN_BLOCK &&
           (uint32_t)place == unit && place >> 32 == word >> 32;
}

int
kin_ring_next_block(struct kin_ring *ring, const struct kin_ring_frame *frame,
                    struct kin_block *block)
{
    struct kin_arena *arena = &ring->arena;
    struct kin_arena_place place;
    const struct kin_member *row = kin_members_row(&arena->members);
    if (row == NULL)
        return ENOENT; /* join */
    if (frame->length != sizeof place)
        return EBADMSG;
    kin_ring_copy(ring, frame, &place);
    if (place.unit >= arena->shape.units)
        return EBADMSG;
    uint64_t word = kin_arena_word(arena, place.unit);
    uint32_t units = kin_arena_length_at(arena, place.unit, word);
    if (units == 0 || word >> 32 != place.stamp || !(word & KIN_BLOCK_SENT) ||
        place.length > units * arena->shape.unit)
        return EBADMSG;
    *block = (struct kin_block){
        .unit = place.unit,
        .stamp = place.stamp,
        .length = place.length,
        .hold = KIN_HOLD_RECEIVES,
        .in_place = place.unit + units <= arena->shape.units / 2,
    };
    if (ring->acknowledged)
        kin_arena_owe(arena, row, block);
    else
        kin_arena_hold(arena, row, block);
    return 0;
}

/* Rule 4: before its frame is committed. */
static void
say_sent(struct kin_arena *arena, const struct kin_block *block, uint64_t at, uint8_t kind)
{
    struct kin_arena_entry *entry = &arena->entries[block->unit];
    atomic_store_explicit(&entry->at, at, memory_order_relaxed);
    atomic_store_explicit(&entry->message, block->length << 8 | kind, memory_order_relaxed);
    atomic_fetch_or_explicit(&entry->word, KIN_BLOCK_SENT, memory_order_release);
}

int
kin_ring_put_block(struct kin_ring *ring, const struct kin_block *block, uint8_t kind)
{
    struct kin_arena_place place = {block->unit, block->stamp, block->length};
    struct iovec piece = {&place, sizeof place};
    uint64_t at = ring->at;
    int error = kin_ring_put_flagged(ring, &piece, 1, sizeof place, kind, KIN_RING_IN_BLOCK);
    if (error == 0)
        say_sent(&ring->arena, block, at, kind);
    return error;
}

uint64_t
kin_arena_depth(struct kin_arena *arena)
{
    uint64_t depth = 0, length;
    for (uint32_t unit = 0; unit < arena->shape.units; unit++) { /* no guard: others go on */
        uint64_t word = kin_arena_word(arena, unit);
        if (word != 0 && kin_arena_is_sent(arena, unit, word, &length) && length <= kin_arena_most(arena))
            depth += length;
    }
    return depth;
}

