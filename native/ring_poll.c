/* Descriptors for who polls a ring: readable when it brings news.
 *
 *     who polls                                       who commits, inside, for the other side
 *     inotify on the file that the ring lies in       polled? ── reads one byte of the file: IN_ACCESS to all who poll
 *     polled = 1                                      position = …
 *
 *     settle: takes the events away
 *     somebody inside? ── then it may be there in a moment: look again
 *     something there? ── there it is
 *     else nothing was missed: whoever comes inside from now on calls
 *
 * Rules:
 * 1. Whoever commits calls first, while he holds the lock of his side. Killed before the commit, he has sent nothing; killed
 *    after it, he has called. So no death has to be watched, and a message that was sent has been told: no thread is in between.
 * 2. He calls only if it is news: a message into an empty ring, or the quarter of the room that senders wait for. He looks for
 *    that with the lock, and who polls looks at the lock: one of them sees the other.
 * 3. Events are each process's own (inotify(7)): nobody takes away another's, dead or alive.
 * 4. The call is a read, which harms no file that it may meet if somebody else has closed our descriptor.
 * 5. Who has polled once is called from then on, as long as the ring lives: one system call for each piece of news. Where nobody
 *    ever has, it costs nothing.
 *
 * A descriptor may be readable with nothing there. If a process is stopped between call and commit, it stays so until that
 * goes on.
 */

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "mutex_word.h"
#include "ring_bell.h"

void
kin_ring_lies_in(struct kin_ring *ring, int file)
{
    ring->file = file;
}

/* Inside: whether what is committed next is what the others wait for. */
static bool
is_news(const struct kin_ring *ring)
{
    uint64_t theirs = atomic_load_explicit(&ring->theirs->position, memory_order_relaxed);
    if (ring->way == KIN_RING_SENDS)
        return theirs == ring->from;
    uint64_t before = ring->capacity - (theirs - ring->from);
    uint64_t after = ring->capacity - (theirs - ring->at);
    return before < kin_ring_threshold(ring) && after >= kin_ring_threshold(ring);
}

void
kin_ring_call(const struct kin_ring *ring)
{
    int error = errno;
    char byte;
    /* SYNC POINT: kin_ring_settle. Either the lock is seen there, or here what was taken. */
    atomic_thread_fence(memory_order_seq_cst);
    if (ring->file >= 0 && is_news(ring))
        while (pread(ring->file, &byte, 1, 0) < 0 && errno == EINTR)
            ;
    errno = error;
}

int
kin_ring_poll(struct kin_ring *ring)
{
    char path[32];
    int poll = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (poll < 0)
        return -errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", ring->file);
    if (inotify_add_watch(poll, path, IN_ACCESS) < 0) {
        int error = errno;
        close(poll);
        return -error;
    }
    atomic_store_explicit(&ring->mine->polled, 1, memory_order_seq_cst);
    return poll;
}

bool
kin_ring_settle(const struct kin_ring *ring, int poll)
{
    _Alignas(struct inotify_event) char events[1024];
    while (read(poll, events, sizeof events) > 0)
        ;
    /* SYNC POINT: kin_ring_call */
    atomic_thread_fence(memory_order_seq_cst);
    bool inside = kin_mutex_owner(kin_mutex_look(&ring->theirs->lock)) != 0;
    atomic_thread_fence(memory_order_acquire);
    uint64_t need = ring->way == KIN_RING_SENDS ? kin_ring_threshold(ring) : 1;
    if (kin_ring_is_there(ring, need))
        return true;
    if (inside)
        sched_yield(); /* it may need this CPU */
    return inside;
}
