/* Receiving from a ring in a C program. Rules 1 and 2 are those of peer_channel.c.
 *
 *     small     copied out
 *     large     looked at where it is, until it is released; or copied, if it is not to stay there (rule 6 of arena.c)
 *
 * 3. A receiver that finds the senders gone looks into the ring once more, with the lock of the names: what they sent
 *    before is received. Then it has left, and every call says that the channel ended.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "peer_channel.h"

_Static_assert(sizeof(struct kin_block) <= sizeof(((struct kin_message *)0)->block), "in kinfolk.h");

/* Inside: the message is copied out, or its block is held. */
static int
copy_or_hold(struct kin_ring *ring, const struct kin_ring_frame *frame, struct kin_message *message,
             struct kin_block *block)
{
    if (frame->flags & ~KIN_RING_IN_BLOCK)
        return EBADMSG;
    if (frame->flags & KIN_RING_IN_BLOCK)
        return kin_ring_next_block(ring, frame, block);
    void *copy = malloc((size_t)frame->length + 1);
    if (copy == NULL)
        return ENOMEM;
    kin_ring_copy(ring, frame, copy);
    *message = (struct kin_message){.bytes = copy, .length = frame->length};
    return 0;
}

static int
take(struct kin_ring *ring, struct kin_message *message, struct kin_block *block, bool *is_block,
     const struct timespec *deadline)
{
    struct kin_ring_frame frame;
    int error = kin_ring_enter_until(ring, deadline);
    if (error != 0)
        return error;
    error = kin_ring_next(ring, &frame);
    if (error == 0)
        error = copy_or_hold(ring, &frame, message, block);
    if (error != 0) {
        kin_ring_withdraw(ring);
        return error;
    }
    kin_ring_take(ring, &frame);
    kin_ring_leave(ring);
    *is_block = frame.flags & KIN_RING_IN_BLOCK;
    message->encoding = frame.kind;
    return 0;
}

/* A block that this process holds: looked at where it is, or copied and given back (rule 6 of arena.c). */
static void
receive_block(struct kin_end *end, const struct kin_block *block, struct kin_message *message)
{
    struct kin_arena *arena = &end->ring.arena;
    uint8_t encoding = message->encoding;
    void *there = kin_arena_bytes(arena, block), *copy = NULL;
    if (!block->in_place)
        copy = malloc(block->length + 1);
    *message = (struct kin_message){.length = block->length, .encoding = encoding};
    if (copy != NULL) {
        message->bytes = memcpy(copy, there, block->length);
        kin_arena_release(arena, block);
        return;
    }
    kin_arena_touch(arena, block);
    message->bytes = there;
    message->in_place = 1;
    message->end = end;
    memcpy(message->block, block, sizeof *block);
    atomic_fetch_add(&end->references, 1);
}

static int
try_receive(struct kin_end *end, struct kin_message *message, const struct timespec *deadline)
{
    struct kin_block block;
    bool is_block = false;
    int error;
    while ((error = take(&end->ring, message, &block, &is_block, deadline)) == ENOENT) /* its first block */
        if ((error = kin_members_join(&end->ring.arena.members, deadline)) != 0)
            return error;
    if (error == 0 && is_block)
        receive_block(end, &block, message);
    return error;
}

struct ending {
    struct kin_end *end;
    struct kin_message *message;
    const struct timespec *deadline;
    int error; /* of the last look; EAGAIN: there is nothing */
};

/* With the lock of the names. */
static bool
is_not_over(void *argument)
{
    struct ending *ending = argument;
    if (!kin_presence_others_gone(&ending->end->presence))
        return true;
    ending->error = try_receive(ending->end, ending->message, ending->deadline);
    return ending->error != EAGAIN;
}

static void
forget(void *argument)
{
    kin_peer_forget(((struct ending *)argument)->end);
}

/* Ends as every sender has gone; or there is a message still, or they have come back: EAGAIN. */
static enum kin_error
finish(struct kin_end *end, struct kin_message *message, const struct timespec *deadline)
{
    struct ending ending = {end, message, deadline, EAGAIN};
    kin_local_enter(&end->lock);
    if (end->presence.fd >= 0 && end->watch != 0 && end->watched_forks == kin_robust_forks())
        kin_watcher_remove(kin_peer_watcher(), end->watch);
    end->watch = 0;
    if (end->presence.fd < 0 || kin_presence_end(&end->presence, is_not_over, forget, &ending))
        end->ended = true;
    kin_local_leave(&end->lock);
    if (end->ended) {
        kin_ring_alarm(&end->ring); /* the watch that would have woken other threads is no more */
        return KIN_END_OF_CHANNEL;
    }
    return ending.error == EAGAIN ? KIN_TIMED_OUT : kin_peer_error(ending.error);
}

enum kin_error
kin_recv(struct kin_end *end, struct kin_message *message, const struct timespec *deadline)
{
    uint32_t alarm;
    bool gone;
    *message = (struct kin_message){0};
    enum kin_error failed = kin_peer_begin(end, KIN_RING_RECEIVES);
    if (failed != KIN_OK)
        return failed;
    for (;;) {
        int error = end->ended ? EAGAIN : try_receive(end, message, deadline);
        failed = kin_peer_error(error);
        if (error != EAGAIN || (failed = kin_peer_look(end, &alarm, &gone)) != KIN_OK)
            break;
        if (gone) {
            failed = finish(end, message, deadline);
            if (failed != KIN_TIMED_OUT)
                break;
            continue;
        }
        error = kin_ring_spin(&end->ring, 1) ? 0 : kin_ring_wait(&end->ring, alarm, deadline);
        failed = kin_peer_error(error);
        if (error != 0 && error != ECANCELED)
            break;
    }
    kin_peer_leave(end);
    return failed;
}

void
kin_release_message(struct kin_message *message)
{
    struct kin_end *end = message->end;
    struct kin_block block;
    if (end == NULL) {
        free((void *)(uintptr_t)message->bytes);
    } else {
        memcpy(&block, message->block, sizeof block);
        kin_arena_release(&end->ring.arena, &block);
        kin_peer_release(end);
    }
    *message = (struct kin_message){0};
}
