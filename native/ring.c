/* The ring: opening it, and one operation on it. ring_layout.h draws it; docs/design/ring.md says why it is so.
 *
 *     senders    enter ── put ──> bytes ── leave: position ─────────> next ── take ── leave    receivers
 *                  ▲                                                                    │
 *                  └────────────────────────────── position: the room is free ──────────┘
 *
 * Rules:
 * 1. Those who send have a lock among themselves, and so have those who receive. A sender and a receiver meet in two
 *    words alone, so one of each never waits for the other unless the ring is full or empty.
 * 2. A message is sent when `position` of the senders says so: one store, after its bytes. It is taken when that of the
 *    receivers does. Whoever is killed before has done nothing, and leaves only a lock, which the kernel releases: what
 *    he had written is written over.
 * 3. Several messages may be committed at once, by the same store.
 * 4. Whoever commits has the futex of the other side *pending* from before the store until he has woken who sleeps there:
 *    killed in between, the kernel wakes one (robust.h, ring_wait.c).
 * 5. What others wrote is not believed. The shape is checked and copied when it is opened. Positions and lengths are read
 *    once, and checked against it before they are used.
 */

#include "ring.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "futex.h"
#include "ring_bell.h"

/* ------------------------------------------------------------------------------------- opening */

static bool
may_be(uint64_t capacity)
{
    return capacity >= KIN_RING_SMALLEST && capacity <= KIN_RING_LARGEST &&
           (capacity & (capacity - 1)) == 0;
}

uint64_t
kin_ring_room(const struct kin_ring_terms *terms)
{
    struct kin_arena_shape arena = kin_arena_shape_of(terms->arena);
    return may_be(terms->capacity) && arena.units != 0
               ? KIN_RING_BYTES_AT + terms->capacity + kin_arena_room(&arena)
               : 0;
}

uint64_t
kin_ring_head(const struct kin_ring_terms *terms)
{
    struct kin_arena_shape arena = kin_arena_shape_of(terms->arena);
    return kin_ring_room(terms) == 0
               ? 0
               : KIN_RING_BYTES_AT + terms->capacity + kin_arena_head(&arena);
}

uint64_t
kin_ring_most(const struct kin_ring *ring)
{
    return kin_ring_threshold(ring) - KIN_RING_FRAME;
}

static void
format(struct kin_object *object, void *argument)
{
    struct kin_ring_memory *memory = (struct kin_ring_memory *)(void *)object;
    const struct kin_ring_terms *terms = argument;
    memory->shape = (struct kin_ring_shape){
        .layout = KIN_RING_LAYOUT,
        .acknowledged = terms->acknowledged,
        .capacity = terms->capacity,
        .arena = kin_arena_shape_of(terms->arena),
    };
    kin_arena_format((unsigned char *)(memory + 1) + terms->capacity, &memory->shape.arena);
}

/* Whether what is there fits into so many bytes. */
static enum kin_finding
check(const struct kin_ring_shape *shape, size_t room)
{
    uint64_t arena = kin_arena_room(&shape->arena);
    if (shape->layout != KIN_RING_LAYOUT)
        return KIN_OTHER_VERSION;
    if (!may_be(shape->capacity) || arena == 0)
        return KIN_ALIEN;
    room -= KIN_RING_BYTES_AT;
    return shape->capacity <= room && arena <= room - shape->capacity ? KIN_SOUND : KIN_MISPLACED;
}

enum kin_finding
kin_ring_bind(struct kin_ring *ring, void *memory, size_t room, enum kin_ring_way way,
              struct kin_watcher *watcher)
{
    struct kin_ring_memory *there = memory;
    struct kin_ring_shape shape = there->shape;
    enum kin_finding found = check(&shape, room);
    if (found != KIN_SOUND)
        return found;
    bool sends = way == KIN_RING_SENDS;
    ring->way = way;
    ring->acknowledged = shape.acknowledged != 0;
    ring->mine = sends ? &there->senders : &there->receivers;
    ring->theirs = sends ? &there->receivers : &there->senders;
    ring->bytes = (unsigned char *)memory + KIN_RING_BYTES_AT;
    ring->capacity = shape.capacity;
    kin_ring_forked(ring);
    if (!kin_arena_bind(&ring->arena, ring, ring->bytes + ring->capacity, &shape.arena, watcher))
        return KIN_ALIEN;
    found = kin_mutex_bind(&ring->lock, &ring->mine->lock);
    if (found != KIN_SOUND)
        kin_arena_close(&ring->arena);
    return found;
}

enum kin_finding
kin_ring_open(struct kin_ring *ring, void *memory, size_t room, enum kin_ring_way way,
              const struct kin_ring_terms *terms, struct kin_watcher *watcher)
{
    struct kin_ring_memory *there = memory;
    struct kin_ring_terms wanted = *terms;
    *ring = (struct kin_ring){.file = -1};
    uint64_t need = kin_ring_room(terms);
    if (need == 0)
        return KIN_MISPLACED;
    if (!kin_ring_can_wait())
        return KIN_UNSUPPORTED;
    enum kin_finding found = kin_object_look(memory, room, KIN_RING, sizeof *there);
    if (found == KIN_SOUND && atomic_load(&there->object.header.magic) == 0 && need > room)
        return KIN_MISPLACED; /* it would be made beyond the end */
    const struct timespec patience = terms->patience != NULL ? *terms->patience : kin_object_patience();
    do
        found = kin_object_open(&ring->arena.guard, memory, room, KIN_RING, sizeof *there, format,
                                &wanted, &patience);
    while (found == KIN_INTERRUPTED && terms->patience == NULL);
    if (found == KIN_SOUND)
        found = kin_ring_bind(ring, memory, room, way, watcher);
    if (found == KIN_SOUND && way == KIN_RING_RECEIVES && ring->acknowledged != terms->acknowledged) {
        kin_arena_close(&ring->arena);
        return KIN_OTHER_TERMS;
    }
    return found;
}

int
kin_ring_close(struct kin_ring *ring)
{
    if (ring->mine == NULL)
        return 0;
    int error = kin_mutex_close(&ring->lock);
    if (error != 0)
        return error;
    kin_arena_close(&ring->arena);
    return kin_mutex_close(&ring->arena.guard);
}

uint64_t
kin_ring_depth(const struct kin_ring *ring)
{
    uint64_t depth = kin_ring_between(ring);
    return depth <= ring->capacity ? depth : 0; /* one of them moved meanwhile */
}

/* --------------------------------------------------------------------------------- one operation */

/* Whether so many bytes may lie between the positions: also if a lock was overwritten, so that others are inside too. */
static bool
may_lie(const struct kin_ring *ring, uint64_t between)
{
    return between <= ring->capacity;
}

/* Where the others are. False: the memory was overwritten. */
static bool
look(struct kin_ring *ring)
{
    /* SYNC POINT: kin_ring_leave of the other side. What it wrote before is seen, or what it read was read. */
    uint64_t seen = atomic_load_explicit(&ring->theirs->position, memory_order_acquire);
    uint64_t between = ring->way == KIN_RING_SENDS ? ring->at - seen : seen - ring->at;
    if (!may_lie(ring, between) || seen % KIN_RING_FRAME != 0)
        return false;
    ring->seen = seen;
    return true;
}

static int
enter(struct kin_ring *ring, const struct timespec *deadline, unsigned flags)
{
    int error = kin_mutex_take(&ring->lock, deadline, flags);
    if (error != 0 && error != EOWNERDEAD) /* rule 2: there is nothing to repair */
        return error;
    ring->from = ring->at = atomic_load_explicit(&ring->mine->position, memory_order_relaxed);
    uint64_t between = ring->way == KIN_RING_SENDS ? ring->at - ring->seen : ring->seen - ring->at;
    if (ring->at % KIN_RING_FRAME == 0 && (may_lie(ring, between) || look(ring)))
        return 0;
    kin_ring_withdraw(ring);
    return EBADMSG;
}

int
kin_ring_enter(struct kin_ring *ring, unsigned flags)
{
    return enter(ring, NULL, flags);
}

int
kin_ring_enter_until(struct kin_ring *ring, const struct timespec *deadline)
{
    return enter(ring, deadline, 0);
}

int
kin_ring_enter_soon(struct kin_ring *ring)
{
    const struct timespec until = kin_timespec(kin_now() + KIN_RING_PATIENCE);
    int error = enter(ring, &until, 0);
    return error == ETIMEDOUT ? EAGAIN : error;
}

void
kin_ring_withdraw(struct kin_ring *ring)
{
    kin_mutex_unlock(&ring->lock);
}

/* Asks for a cache line that is to be written soon: the other side has it. Where there is none, nothing happens. */
static inline void
will_write(const unsigned char *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*line)); /* GCC says it for newer CPUs alone; older ones pass over it */
#else
    __builtin_prefetch(line, 1);
#endif
}

/* The next message goes there: while the caller is busy with something else, its lines come. A twentieth of a round trip. */
static inline void
make_ready(const struct kin_ring *ring)
{
    enum { LINE = 64 };
    will_write(ring->bytes + (ring->at & (ring->capacity - 1)));
    will_write(ring->bytes + ((ring->at + LINE) & (ring->capacity - 1)));
}

void
kin_ring_leave(struct kin_ring *ring)
{
    if (ring->at != ring->from) {
        struct kin_thread *thread = kin_thread(); /* it holds the lock, so it is one */
        uint64_t here = kin_ring_whereabouts(ring);
        bool polled = kin_ring_is_polled(ring->theirs);
        if (__builtin_expect(polled, 0))
            kin_ring_call(ring);
        kin_robust_begin(thread, kin_ring_bell(ring->theirs));
        if (atomic_load_explicit(&ring->mine->whereabouts, memory_order_relaxed) != here)
            atomic_store_explicit(&ring->mine->whereabouts, here, memory_order_relaxed);
        /* SYNC POINT: look */
        atomic_store_explicit(&ring->mine->position, ring->at, memory_order_release);
        kin_ring_tell(ring);
        if (__builtin_expect(!polled && kin_ring_is_polled(ring->theirs), 0))
            kin_ring_call(ring); /* since a moment ago */
        if (ring->way == KIN_RING_SENDS)
            make_ready(ring);
    }
    kin_mutex_unlock(&ring->lock);
}

/* -------------------------------------------------------------------------------------- sending */

static void
write_around(struct kin_ring *ring, uint64_t at, const void *from, uint64_t length)
{
    uint64_t place = at & (ring->capacity - 1), behind = ring->capacity - place;
    if (length <= behind) {
        memcpy(ring->bytes + place, from, length);
    } else {
        memcpy(ring->bytes + place, from, behind);
        memcpy(ring->bytes, (const char *)from + behind, length - behind);
    }
}

static bool
fits(const struct kin_ring *ring, uint64_t need)
{
    uint64_t room = ring->capacity - (ring->at - ring->seen);
    if (room >= kin_ring_threshold(ring))
        return true;
    /* Not before those who sleep until there is more: else they might for ever. */
    return room >= need && !kin_ring_has_sleepers(ring->mine);
}

int
kin_ring_put_flagged(struct kin_ring *ring, const struct iovec *pieces, int count,
                     uint64_t length, uint8_t kind, uint8_t flags)
{
    if (length > kin_ring_most(ring))
        return EMSGSIZE;
    if (ring->acknowledged && !(flags & KIN_RING_IN_BLOCK))
        return EPROTO;
    uint64_t need = kin_ring_framed(length);
    if (!fits(ring, need)) {
        if (!look(ring))
            return EBADMSG;
        if (!fits(ring, need))
            return EAGAIN;
    }
    struct kin_ring_frame frame = {.length = (uint32_t)length, .kind = kind, .flags = flags};
    memcpy(ring->bytes + (ring->at & (ring->capacity - 1)), &frame, sizeof frame);
    uint64_t at = ring->at + KIN_RING_FRAME;
    for (int i = 0; i < count; i++) {
        write_around(ring, at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    ring->at += need;
    return 0;
}

int
kin_ring_put(struct kin_ring *ring, const struct iovec *pieces, int count, uint64_t length,
             uint8_t kind)
{
    return kin_ring_put_flagged(ring, pieces, count, length, kind, 0);
}

/* ------------------------------------------------------------------------------------ receiving */

int
kin_ring_next(struct kin_ring *ring, struct kin_ring_frame *frame)
{
    if (ring->at == ring->seen && !look(ring))
        return EBADMSG;
    uint64_t there = ring->seen - ring->at;
    if (there == 0)
        return EAGAIN;
    memcpy(frame, ring->bytes + (ring->at & (ring->capacity - 1)), sizeof *frame);
    return may_lie(ring, there) && kin_ring_framed(frame->length) <= there ? 0 : EBADMSG;
}

const unsigned char *
kin_ring_whole(const struct kin_ring *ring, const struct kin_ring_frame *frame)
{
    uint64_t place = (ring->at + KIN_RING_FRAME) & (ring->capacity - 1);
    return frame->length <= ring->capacity - place ? ring->bytes + place : NULL;
}

void
kin_ring_copy(const struct kin_ring *ring, const struct kin_ring_frame *frame, void *to)
{
    const unsigned char *whole = kin_ring_whole(ring, frame);
    if (whole != NULL) {
        memcpy(to, whole, frame->length);
    } else {
        uint64_t place = (ring->at + KIN_RING_FRAME) & (ring->capacity - 1);
        uint64_t behind = ring->capacity - place;
        memcpy(to, ring->bytes + place, behind);
        memcpy((char *)to + behind, ring->bytes, frame->length - behind);
    }
}

void
kin_ring_take(struct kin_ring *ring, const struct kin_ring_frame *frame)
{
    ring->at += kin_ring_framed(frame->length);
}
