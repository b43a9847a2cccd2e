/* An end of a ring in a C program: who is there, and closing. Sending is in peer_sending.c, receiving in peer_receiving.c.
 * It is what ring_transport.py does in Python.
 *
 *     begin ── try ──┬────────────────────────────────────────────────────────────> leave
 *               ▲    └─ nothing there, no room ── look who is there ── sleep ─┐
 *               └─────────────────────────────────────────────────────────────┘
 *
 * Rules:
 * 1. Before it sleeps, the count of alarms is read, the hang-up of the presence is watched, and then it is looked: so neither a
 *    hang-up nor a close is lost between looking and sleeping.
 * 2. It is also looked before something is sent if there is news: an end of the other side was closed (counted in the
 *    ring), or somebody died (an alarm). Who has not looked yet has news.
 */

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "peer_channel.h"

/* ------------------------------------------------------------------------------ who is there */

static void
sound(void *ring)
{
    kin_ring_alarm(ring);
}

/* With the lock. The hang-up sounds once for each watch, and not in a forked copy. 0 or an errno. */
static int
watch(struct kin_end *end, uint32_t alarm)
{
    uint32_t forks = kin_robust_forks();
    struct kin_watch terms = {
        .fd = end->presence.fd,
        .event_fd = -1,
        .alarm = sound,
        .alarmed = &end->ring,
    };
    if (end->watch != 0 && end->watched_forks == forks) {
        if (end->watched_alarm == alarm)
            return 0;
        kin_watcher_remove(kin_peer_watcher(), end->watch);
    }
    end->watch = 0;
    end->watched_alarm = alarm;
    end->watched_forks = forks;
    return kin_watcher_add(kin_peer_watcher(), &terms, &end->watch);
}

uint64_t
kin_peer_news(struct kin_end *end, uint32_t alarm)
{
    uint32_t departures = atomic_load_explicit(&end->ring.theirs->departures, memory_order_acquire);
    return (uint64_t)departures << 32 | alarm;
}

enum kin_error
kin_peer_look(struct kin_end *end, uint32_t *alarm, bool *gone)
{
    int error = 0;
    kin_local_enter(&end->lock);
    *alarm = atomic_load(&end->ring.alarm);
    *gone = end->presence.fd < 0;
    if (!*gone) {
        error = watch(end, *alarm);
        uint64_t known = kin_peer_news(end, *alarm);
        *gone = kin_presence_others_gone(&end->presence);
        atomic_store(&end->known, *gone || error != 0 ? UINT64_MAX : known);
    }
    kin_local_leave(&end->lock);
    return end->closing ? KIN_CLOSED : kin_peer_error(error);
}

enum kin_error
kin_peer_begin(struct kin_end *end, enum kin_ring_way way)
{
    if (end->ring.forks != kin_robust_forks()) { /* a copy: nobody is inside here */
        kin_ring_forked(&end->ring);
        atomic_store(&end->inside, 0);
        atomic_store(&end->known, UINT64_MAX);
        kin_presence_forked(&end->presence);
    }
    if (end->ring.way != way)
        return KIN_WRONG_END;
    atomic_fetch_add(&end->inside, 1);
    if (!end->closing)
        return KIN_OK;
    kin_peer_leave(end);
    return KIN_CLOSED;
}

void
kin_peer_leave(struct kin_end *end)
{
    atomic_fetch_sub(&end->inside, 1);
}

/* ---------------------------------------------------------------------------------- closing */

void
kin_peer_release(struct kin_end *end)
{
    if (atomic_fetch_sub(&end->references, 1) != 1)
        return;
    if (kin_ring_close(&end->ring) != 0)
        return; /* a thread's robust list points to it: it stays */
    munmap(end->memory, end->size);
    close(end->file);
    free(end);
}

void
kin_close(struct kin_end *end)
{
    if (end == NULL)
        return;
    if (kin_peer_begin(end, end->ring.way) == KIN_OK)
        kin_peer_leave(end);
    end->closing = true;
    do {
        kin_ring_alarm(&end->ring);
        sched_yield();
    } while (atomic_load(&end->inside) != 0);
    kin_local_enter(&end->lock);
    if (end->watch != 0 && end->watched_forks == kin_robust_forks())
        kin_watcher_remove(kin_peer_watcher(), end->watch);
    kin_presence_leave(&end->presence, kin_peer_forget, end);
    kin_local_leave(&end->lock);
    atomic_fetch_add_explicit(&end->ring.mine->departures, 1, memory_order_release);
    kin_peer_release(end);
}
