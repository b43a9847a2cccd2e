/* Sending into a ring from a C program. Rules 1 and 2 are those of peer_channel.c.
 *
 *     small     copied into the ring
 *     large     copied into a block, or built in one: kin_reserve, kin_commit
 *
 * 3. What is not sent, for whatever reason, leaves nothing: a block that was got is given back, a room stays its owner's.
 */

#include <errno.h>
#include <string.h>

#include "peer_channel.h"

static enum kin_error
check_receivers(struct kin_end *end, uint32_t *alarm)
{
    bool gone;
    enum kin_error error = kin_peer_look(end, alarm, &gone);
    return error == KIN_OK && gone ? KIN_BROKEN_CHANNEL : error;
}

static int
put(struct kin_ring *ring, const struct kin_block *block, struct iovec piece, uint8_t encoding,
    const struct timespec *deadline)
{
    int error = kin_ring_enter_until(ring, deadline);
    if (error != 0)
        return error;
    error = block != NULL ? kin_ring_put_block(ring, block, encoding)
                          : kin_ring_put(ring, &piece, 1, piece.iov_len, encoding);
    if (error == 0)
        kin_ring_leave(ring);
    else
        kin_ring_withdraw(ring);
    return error;
}

/* What is in a block, or in a piece. */
static enum kin_error
send_in(struct kin_end *end, const struct kin_block *block, struct iovec piece, uint8_t encoding,
        const struct timespec *deadline)
{
    struct kin_ring *ring = &end->ring;
    uint32_t alarm = atomic_load(&ring->alarm);
    enum kin_error failed = KIN_OK;
    int error = 0;
    if (atomic_load(&end->known) != kin_peer_news(end, alarm))
        failed = check_receivers(end, &alarm);
    while (failed == KIN_OK && (error = put(ring, block, piece, encoding, deadline)) == EAGAIN) {
        failed = check_receivers(end, &alarm);
        if (failed == KIN_OK && !kin_ring_spin(ring, kin_ring_most(ring)))
            error = kin_ring_wait(ring, alarm, deadline);
        if (error != 0 && error != EAGAIN && error != ECANCELED)
            break;
    }
    return failed != KIN_OK ? failed : kin_peer_error(error);
}

static enum kin_error
allocate(struct kin_end *end, size_t length, struct kin_block *block, const struct timespec *deadline)
{
    struct kin_arena *arena = &end->ring.arena;
    uint32_t alarm;
    int error = 0;
    for (;;) {
        enum kin_error failed = check_receivers(end, &alarm);
        if (failed != KIN_OK) {
            kin_arena_give_up(arena);
            return failed;
        }
        error = kin_arena_allocate(arena, length, block);
        if (error == EAGAIN)
            error = kin_arena_wait(arena, length, alarm, deadline);
        else
            return kin_peer_error(error);
        if (error != 0 && error != ECANCELED)
            return kin_peer_error(error);
    }
}

enum kin_error
kin_reserve(struct kin_end *end, struct kin_room *room, size_t length,
            const struct timespec *deadline)
{
    struct kin_block block;
    *room = (struct kin_room){.length = length};
    enum kin_error error = kin_peer_begin(end, KIN_RING_SENDS);
    if (error != KIN_OK)
        return error;
    error = allocate(end, length, &block, deadline);
    if (error == KIN_OK) {
        atomic_fetch_add(&end->references, 1);
        room->end = end;
        room->bytes = kin_arena_bytes(&end->ring.arena, &block);
        memcpy(room->block, &block, sizeof block);
    }
    kin_peer_leave(end);
    return error;
}

enum kin_error
kin_commit(struct kin_room *room, enum kin_encoding encoding, const struct timespec *deadline)
{
    struct kin_end *end = room->end;
    struct kin_block block;
    if (end == NULL)
        return KIN_WRONG_END; /* it was sent or dropped, or there never was any */
    memcpy(&block, room->block, sizeof block);
    if (block.forks != kin_robust_forks())
        return KIN_WRONG_END; /* it is the parent's */
    enum kin_error error = kin_peer_begin(end, KIN_RING_SENDS);
    if (error != KIN_OK)
        return error;
    error = send_in(end, &block, (struct iovec){0}, (uint8_t)encoding, deadline);
    kin_peer_leave(end);
    if (error == KIN_OK)
        kin_drop(room);
    return error;
}

void
kin_drop(struct kin_room *room)
{
    struct kin_end *end = room->end;
    struct kin_block block;
    if (end == NULL)
        return;
    memcpy(&block, room->block, sizeof block);
    *room = (struct kin_room){0};
    kin_arena_release(&end->ring.arena, &block);
    kin_peer_release(end);
}

enum kin_error
kin_send(struct kin_end *end, enum kin_encoding encoding, const void *bytes, size_t length,
         const struct timespec *deadline)
{
    struct kin_room room;
    enum kin_error error;
    if (length == 0)
        bytes = ""; /* NULL may be given, and memcpy takes none */
    if (length > kin_ring_most(&end->ring) || end->ring.acknowledged) {
        error = kin_reserve(end, &room, length, deadline);
        if (error != KIN_OK)
            return error;
        memcpy(room.bytes, bytes, length);
        error = kin_commit(&room, encoding, deadline);
        kin_drop(&room);
        return error;
    }
    error = kin_peer_begin(end, KIN_RING_SENDS);
    if (error != KIN_OK)
        return error;
    struct iovec piece = {(void *)(uintptr_t)bytes, length};
    error = send_in(end, NULL, piece, (uint8_t)encoding, deadline);
    kin_peer_leave(end);
    return error;
}

uint64_t
kin_most(const struct kin_end *end)
{
    uint64_t block = kin_arena_most(&end->ring.arena), small = kin_ring_most(&end->ring);
    return block > small ? block : small;
}
