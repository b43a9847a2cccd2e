/* The ring: messages between any number of senders and receivers, in memory that they share. See ring.c. */

#ifndef KIN_RING_H
#define KIN_RING_H

#include <sys/uio.h>

#include "arena.h"
#include "ring_layout.h"

enum kin_ring_way { KIN_RING_SENDS, KIN_RING_RECEIVES };

/* One end, as this process has it: its *handle*. Any thread may use it. */
struct kin_ring {
    struct kin_ring_side *mine, *theirs;
    unsigned char *bytes;
    uint64_t capacity;
    enum kin_ring_way way;
    bool acknowledged;     /* messages are: arena_acknowledge.c */
    int file;              /* that it lies in; -1: nobody has said: ring_poll.c */
    struct kin_mutex lock; /* of `mine` */
    struct kin_arena arena;

    /* Between `enter` and `leave`, or `withdraw`: */
    uint64_t from; /* `mine->position` */
    uint64_t at;   /* written, or read, up to here, and not committed */
    uint64_t seen; /* where the others were, when it was last looked */

    /* Waiting: ring_wait.c */
    int spins;                   /* nanoseconds for which spinning has paid, lately */
    uint32_t waits;
    uint32_t process;            /* its id … */
    uint32_t forks;              /* … in the process that has this count */
    _Atomic uint32_t alarm;      /* how often `kin_ring_alarm` was called */
    _Atomic uint32_t waiting[2]; /* threads in `kin_ring_wait`, by the alarm (odd, even) that they know of */
};

/* Bytes, each a power of two: of the ring, and of the units of its arena; whether messages are acknowledged. */
struct kin_ring_terms {
    uint64_t capacity, arena;
    bool acknowledged;
    const struct timespec *patience; /* until when it may be made by somebody else; NULL: some seconds, whatever interrupts */
};

/* The bytes of memory that such a ring takes; 0 for one that can't be. So many at the beginning have to have memory behind
 * them; the rest gets it when it is first used. */
uint64_t kin_ring_room(const struct kin_ring_terms *terms);
uint64_t kin_ring_head(const struct kin_ring_terms *terms);

/* The largest message that fits without a block. */
uint64_t kin_ring_most(const struct kin_ring *ring);

/* Opens an end of the ring in `memory`, of which `room` bytes are there; makes it, by the terms, if they
 * are zero. The watcher outlives it. KIN_OTHER_TERMS: it receives, and of one of both messages are acknowledged;
 * KIN_INTERRUPTED: to be called again, with the same patience. */
enum kin_finding kin_ring_open(struct kin_ring *ring, void *memory, size_t room,
                               enum kin_ring_way way, const struct kin_ring_terms *terms,
                               struct kin_watcher *watcher);

/* The second half of it: of a ring that is one, with its guard bound. */
enum kin_finding kin_ring_bind(struct kin_ring *ring, void *memory, size_t room,
                               enum kin_ring_way way, struct kin_watcher *watcher);

/* For a ring in a file that outlives its peers, under a lock that says that nobody has it open: takes back what the dead had, also
 * those of before a reboot, and makes it one of this boot and pid namespace. KIN_SOUND; else nothing was changed. */
enum kin_finding kin_ring_adopt(void *memory, size_t room);

/* 0 or EBUSY: a thread of this process is in it. Afterwards the memory may be unmapped. */
int kin_ring_close(struct kin_ring *ring);

/* Bytes that are sent and not received, as they were a moment ago. */
uint64_t kin_ring_depth(const struct kin_ring *ring);

/* ------------------------------------------------------------------ one operation, of any number of messages
 *
 *     enter ── put, put, … ──┬── leave        committed
 *           ── next, take, …  └── withdraw     as if nothing had been
 *
 * Nothing in between waits. Errors, beside those of kin_mutex_lock:
 *     EAGAIN     no room, or no message
 *     EBUSY      `flags` say KIN_MUTEX_AWAKE, and somebody else is in there
 *     EMSGSIZE   it will never fit
 *     EPROTO     messages are acknowledged, and it is in no block
 *     EBADMSG    the memory was overwritten, by what is no ring
 */

int kin_ring_enter(struct kin_ring *ring, unsigned flags);

/* The same until a time of CLOCK_MONOTONIC, then ETIMEDOUT: who is inside may be stopped. NULL: without a limit. */
int kin_ring_enter_until(struct kin_ring *ring, const struct timespec *deadline);

/* The same where the caller's time limit is not known: EAGAIN after some time slices, so that he looks at it and comes again. */
enum { KIN_RING_PATIENCE = 50 * 1000 * 1000 }; /* nanoseconds */
int kin_ring_enter_soon(struct kin_ring *ring);

void kin_ring_leave(struct kin_ring *ring);
void kin_ring_withdraw(struct kin_ring *ring);

/* Adds a message, of pieces that are `length` bytes together. */
int kin_ring_put(struct kin_ring *ring, const struct iovec *pieces, int count, uint64_t length,
                 uint8_t kind);

/* The same with flags of its frame. */
int kin_ring_put_flagged(struct kin_ring *ring, const struct iovec *pieces, int count,
                         uint64_t length, uint8_t kind, uint8_t flags);

/* Looks at the next message. */
int kin_ring_next(struct kin_ring *ring, struct kin_ring_frame *frame);

/* Where its bytes lie, unless around the end: NULL. What `next` said of their length holds. */
const unsigned char *kin_ring_whole(const struct kin_ring *ring, const struct kin_ring_frame *frame);

/* Copies its bytes out, which `next` said are `frame->length`. */
void kin_ring_copy(const struct kin_ring *ring, const struct kin_ring_frame *frame, void *to);

/* Goes on behind it. */
void kin_ring_take(struct kin_ring *ring, const struct kin_ring_frame *frame);

/* -------------------------------------------------------------------------------------------- waiting */

/* Looks for a moment, as long as that has paid lately: true when there is room for `need` bytes, or a message. */
bool kin_ring_spin(struct kin_ring *ring, uint64_t need);

/* Sleeps until there is a message, or a quarter of the room. `alarm`: what `ring->alarm` was when the caller
 * last looked for what else may end its waiting. 0; ECANCELED: another alarm; ETIMEDOUT; EINTR; as enter. */
int kin_ring_wait(struct kin_ring *ring, uint32_t alarm, const struct timespec *deadline);

/* Whether the kernel can (Linux 5.16), and lets us. */
bool kin_ring_can_wait(void);

/* Has everybody who waits by this handle return, or see another alarm. By one thread at a time. */
void kin_ring_alarm(struct kin_ring *ring);

/* ------------------------------------------------------------------------------------------ polling */

/* The file that the ring lies in, which stays open as long as the handle; whoever sends or receives has to say it, or others
 * who poll never hear of it. Not a memfd as memfd_create gave it: it has to be opened again, from /proc/self/fd. */
void kin_ring_lies_in(struct kin_ring *ring, int file);

/* A new descriptor that is readable from when there is news, until `settle`; or -errno. */
int kin_ring_poll(struct kin_ring *ring);

/* Makes it silent, and says whether there is anything: a message, a quarter of the room, or somebody who is about to commit. If
 * not, the descriptor speaks when there is. By one thread at a time. */
bool kin_ring_settle(const struct kin_ring *ring, int poll);

/* The handle came by a fork: nobody waits here. Before its first use in this process, by one thread. */
void kin_ring_forked(struct kin_ring *ring);

#endif
