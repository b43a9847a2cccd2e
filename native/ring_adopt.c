/* A ring in a file that nobody has open: what the dead have left is taken back, all of it, by who opens it first.
 *
 *     kept        the frames between the two positions, and the blocks that they name
 *     taken back  locks, rows and their blocks, who sleeps; the boot and the pid namespace are ours from then on
 *
 * Among the living the kernel and the watcher see to this (robust.h, members.h). They can't where nothing of the time before
 * is left to be asked: after a reboot, in a container that was started anew, in a copy that was made while it was in use.
 *
 * Rules:
 * 1. The caller has a lock that says that nobody else has it open, here or elsewhere.
 * 2. It is looked at before anything is changed: what is no ring, or no whole one, stays as it is.
 * 3. Whoever is killed in the middle leaves it to the next who has the lock, and does all of it again, in whatever boot.
 */

#include <stdlib.h>
#include <string.h>

#include "arena_inside.h"
#include "ring.h"

/* Under rule 1, as everything here: nobody writes meanwhile. Only a machine that went down may have left frames that are none;
 * to look at each takes as long as there are many. */
static bool
is_whole(struct kin_ring *ring, bool of_this_boot)
{
    uint64_t at = atomic_load_explicit(&ring->mine->position, memory_order_relaxed);
    uint64_t sent = atomic_load_explicit(&ring->theirs->position, memory_order_relaxed);
    if (at % KIN_RING_FRAME != 0 || sent % KIN_RING_FRAME != 0 || sent - at > ring->capacity)
        return false;
    while (at != sent && !of_this_boot) {
        struct kin_ring_frame frame;
        memcpy(&frame, ring->bytes + (at & (ring->capacity - 1)), sizeof frame);
        if (kin_ring_framed(frame.length) > sent - at)
            return false;
        at += kin_ring_framed(frame.length);
    }
    return true;
}

static void
repair_side(struct kin_ring_side *side)
{
    kin_mutex_state_repair(&side->lock);
    atomic_store_explicit(&side->whereabouts, 0, memory_order_relaxed);
    atomic_store_explicit(&side->asleep, 0, memory_order_relaxed);
    atomic_store_explicit(&side->polled, 0, memory_order_relaxed);
}

static void
repair(struct kin_object *object, void *argument)
{
    struct kin_ring *ring = argument;
    struct kin_arena *arena = &ring->arena;
    (void)object;
    repair_side(ring->mine);
    repair_side(ring->theirs);
    atomic_store_explicit(&arena->state->asleep, 0, memory_order_relaxed);
    kin_members_repair(&arena->members);
    atomic_store_explicit(&arena->state->first, 0, memory_order_relaxed);
    /* After a power cut there may be bits without a row, and blocks without either. What is zero may be a hole in the file. */
    for (_Atomic uint64_t *bits = arena->holds; (void *)bits < (void *)arena->entries; bits++)
        if (atomic_load_explicit(bits, memory_order_relaxed) != 0)
            atomic_store_explicit(bits, 0, memory_order_relaxed);
    kin_arena_sweep(arena);
}

static enum kin_finding
adopt(struct kin_ring *ring, struct kin_ring_memory *there, size_t room, bool of_this_boot)
{
    enum kin_finding found = kin_mutex_bind(&ring->arena.guard, &there->object.guard);
    if (found == KIN_SOUND)
        found = kin_ring_bind(ring, there, room, KIN_RING_RECEIVES, NULL);
    if (found != KIN_SOUND)
        return found;
    if (is_whole(ring, of_this_boot))
        kin_object_repair(&there->object, repair, ring);
    else
        found = KIN_ALIEN;
    kin_arena_close(&ring->arena);
    return found;
}

enum kin_finding
kin_ring_adopt(void *memory, size_t room)
{
    struct kin_ring_memory *there = memory;
    enum kin_finding found = kin_object_look(memory, room, KIN_RING, sizeof *there);
    if (found != KIN_SOUND && found != KIN_OTHER_BOOT && found != KIN_OTHER_NAMESPACE)
        return found;
    if (atomic_load(&there->object.header.magic) == 0)
        return KIN_ALIEN; /* a file has its name when it is a ring: this is somebody's zeros */
    /* Not on the stack: a child that is forked now knows of it for ever (arena_fork.c). */
    struct kin_ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL)
        return KIN_EXHAUSTED;
    ring->file = -1;
    found = adopt(ring, there, room, found != KIN_OTHER_BOOT);
    free(ring);
    return found;
}
