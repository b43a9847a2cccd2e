/* Waiting for a ring: a short spin, then sleep; and how no wake-up is lost.
 *
 *     who waits                                            who commits, for the other side
 *    ┌> asleep = WAITERS                                   position = …
 *    │  ──────────────── each sees what the other did, or both do ────────────────
 *    │  something there? ── yes ─┐                         asleep is 0? ── yes ──> done
 *    └─ sleep while asleep is    │                         asleep = 0, futex_wake(1)
 *       WAITERS, and `position`  │
 *       is what it was           ▼
 *                              asleep = 0, futex_wake(1), and go for it
 *
 * Rules, under which nobody sleeps while there is something for him, whoever is killed at whatever instruction (the model in
 * tests/native/model goes through all of them):
 * 1. Whoever takes WAITERS away wakes one, and has the futex pending (robust.h) from before until after: when he is killed
 *    in between, the kernel wakes one, because nobody owns the word.
 * 2. Whoever was woken says again that others may sleep; looks; and if there is something, wakes another
 *    *before* he goes for it. He has the futex pending until then. After that he may be killed anywhere: the other looks
 *    too. (Afterwards would be too late: what is pending has to be the lock while that is taken.)
 *    Mostly there is no other: then that call has found out that nobody sleeps, and WAITERS stays away.
 * 3. Nobody falls asleep on what he saw before a commit: the kernel compares the position too (futex_waitv(2)). WAITERS alone may
 *    have been taken away and set again by somebody who was killed then, and whose death woke nobody, as nobody slept yet.
 * 4. Whoever leaves by himself (time is up, a signal) wakes one too: so WAITERS is not left behind without need.
 * 5. All who sleep on one futex sleep for the same: a message, or a quarter of the room. Senders that each waited for as
 *    much as they need could wake one another in vain, for ever. It also makes them sleep seldom, and long.
 * 6. What concerns this process alone (a close, a hang-up) is an `alarm`: a count beside the futex, and knocking until
 *    everybody who knew only the count before has left.
 * 7. Spinning is for the case that the other side runs on another CPU just now. It adapts to how long that took lately, and
 *    now and then tries longer: two that sleep because each spins too shortly for the other would never notice. There is
 *    none on the CPU where the other side was last, which one CPU always is, with the other side in this process (it may
 *    want the GIL), or when it sleeps.
 * 8. Where messages are acknowledged, who waits for one watches all members (members.h), before anything is pending. What a
 *    dead one had is returned by whoever sees that; the count of what was returned is compared as the position is.
 *
 * A position is compared by its lower half: for it to be the same again, 4 GiB have to go through while one who looked is
 * kept from sleeping; the next commit wakes him.
 */

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <unistd.h>

#include "futex.h"
#include "ring_bell.h"
#include "spin.h"

/* Nanoseconds of spinning. The longest is what it takes two that sleep to wake each other. */
enum { SHORTEST = 1000, LONGEST = 50000 };

enum {
    TRIES_LONGER = 16, /* one wait in so many */
    LOOKS = 32,        /* between two looks at the clock */
};

uint64_t
kin_ring_whereabouts(const struct kin_ring *ring)
{
    return (uint64_t)ring->process << 32 | (uint32_t)sched_getcpu();
}

/* ------------------------------------------------------------------------------------- spinning */

bool
kin_ring_is_there(const struct kin_ring *ring, uint64_t need)
{
    uint64_t between = kin_ring_between(ring);
    if (ring->way == KIN_RING_SENDS)
        return ring->capacity - between >= need;
    return between != 0 || (ring->acknowledged && kin_arena_has_returned(&ring->arena));
}

/* Whether the other side may be at it just now. */
static bool
is_at_work(const struct kin_ring *ring)
{
    uint64_t there = atomic_load_explicit(&ring->theirs->whereabouts, memory_order_relaxed);
    return there != 0 && there >> 32 != ring->process && (uint32_t)there != (uint32_t)sched_getcpu() &&
           !kin_ring_has_sleepers(ring->theirs);
}

bool
kin_ring_spin(struct kin_ring *ring, uint64_t need)
{
    if (!is_at_work(ring))
        return false;
    int usual = __atomic_load_n(&ring->spins, __ATOMIC_RELAXED), longest = 2 * usual + SHORTEST;
    uint32_t waits = __atomic_fetch_add(&ring->waits, 1, __ATOMIC_RELAXED);
    if (longest > LONGEST || waits % TRIES_LONGER == 0)
        longest = LONGEST;
    uint64_t begin = 0;
    for (int took = 0; took < longest;) {
        for (int i = 0; i < LOOKS; i++) {
            if (kin_ring_is_there(ring, need)) {
                took = took > usual ? took : usual + (took - usual) / 8;
                __atomic_store_n(&ring->spins, took, __ATOMIC_RELAXED);
                return true;
            }
            kin_relax();
        }
        uint64_t now = kin_now();
        begin = begin == 0 ? now : begin;
        took = (int)(now - begin);
    }
    __atomic_store_n(&ring->spins, usual - usual / 4, __ATOMIC_RELAXED);
    return false;
}

/* ------------------------------------------------------------------------------------- sleeping */

void
kin_ring_wake(struct kin_ring_side *side)
{
    if (atomic_exchange_explicit(&side->asleep, 0, memory_order_seq_cst) != 0)
        kin_futex_wake(&side->asleep, 1);
}

static bool
is_alarmed(struct kin_ring *ring, uint32_t alarm)
{
    return atomic_load_explicit(&ring->alarm, memory_order_seq_cst) != alarm;
}

/* futex_waitv(2), of Linux 5.16; headers may be older. */
struct compared {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
};

enum { FUTEX_WAITV = 449, FOUR_BYTES = 2 };

bool
kin_ring_can_wait(void)
{
    return syscall(FUTEX_WAITV, NULL, 0, 0, NULL, 0) < 0 && errno == EINVAL;
}

/* What somebody saw who is about to sleep. */
struct seen {
    uint64_t position;
    uint32_t returns, turn; /* if `returned`, he waits for what is returned, too: rule 8 */
    bool returned;
};

/* Sleeps while nobody has taken WAITERS away, nor changed what was seen. As kin_futex_sleep. */
static int
sleep_while(struct kin_ring *ring, const struct seen *seen, const struct timespec *deadline)
{
    struct kin_arena *arena = &ring->arena;
    struct compared words[4] = {
        {FUTEX_WAITERS, (uintptr_t)&ring->mine->asleep, FOUR_BYTES, 0},
        {(uint32_t)seen->position, (uintptr_t)&ring->theirs->position, FOUR_BYTES, 0},
        {seen->returns, (uintptr_t)&arena->state->returns, FOUR_BYTES, 0},
        {seen->turn, (uintptr_t)&arena->members.state->turn, FOUR_BYTES, 0},
    };
    int count = seen->returned ? 4 : 2;
    if (syscall(FUTEX_WAITV, words, count, 0, deadline, CLOCK_MONOTONIC) >= 0 || errno == EAGAIN)
        return 0;
    return errno;
}

/* Whether there is reason to look again, beside a message: a member has come, died, or acknowledged the last message. */
static bool
has_turned(const struct kin_ring *ring, const struct seen *seen)
{
    return seen->returned && (kin_members_turn(&ring->arena.members) != seen->turn ||
                              kin_arena_has_ended(&ring->arena));
}

/* The futex is pending. */
static int
sleep_until_there(struct kin_ring *ring, struct seen *seen, uint32_t alarm,
                  const struct timespec *deadline)
{
    for (;;) {
        atomic_exchange_explicit(&ring->mine->asleep, FUTEX_WAITERS, memory_order_seq_cst);
        /* SYNC POINT: kin_ring_tell */
        atomic_thread_fence(memory_order_seq_cst);
        seen->position = atomic_load_explicit(&ring->theirs->position, memory_order_relaxed);
        seen->returns = atomic_load_explicit(&ring->arena.state->returns, memory_order_acquire);
        int error = 0;
        if (!kin_ring_is_there(ring, kin_ring_threshold(ring)) && !has_turned(ring, seen)) {
            if (is_alarmed(ring, alarm))
                return 0;
            error = sleep_while(ring, seen, deadline);
            if (error == 0)
                continue;
        }
        kin_ring_wake(ring->mine);
        return error;
    }
}

int
kin_ring_wait(struct kin_ring *ring, uint32_t alarm, const struct timespec *deadline)
{
    struct kin_thread *thread = kin_thread();
    if (thread == NULL)
        return ENOTSUP;
    /* SYNC POINT: kin_ring_alarm. Either it waits for this one, or is seen below. */
    _Atomic uint32_t *count = &ring->waiting[alarm & 1];
    atomic_fetch_add_explicit(count, 1, memory_order_seq_cst);
    int error = 0;
    struct seen seen = {.returned = ring->acknowledged && ring->way == KIN_RING_RECEIVES};
    if (seen.returned) {
        seen.turn = kin_members_turn(&ring->arena.members);
        error = kin_arena_look(&ring->arena, KIN_LOOK_TOLD);
        if (error == EBUSY) { /* it can't sleep for now */
            atomic_fetch_sub_explicit(count, 1, memory_order_seq_cst);
            return kin_has_passed(deadline) ? ETIMEDOUT : 0;
        }
    }
    if (error == 0 && !is_alarmed(ring, alarm)) {
        kin_robust_begin(thread, kin_ring_bell(ring->mine));
        error = sleep_until_there(ring, &seen, alarm, deadline);
        kin_robust_end(thread);
    }
    if (error == 0 && is_alarmed(ring, alarm))
        error = ECANCELED;
    atomic_fetch_sub_explicit(count, 1, memory_order_seq_cst);
    return error;
}

void
kin_ring_alarm(struct kin_ring *ring)
{
    uint32_t before = atomic_fetch_add_explicit(&ring->alarm, 1, memory_order_seq_cst);
    struct kin_thread *thread = kin_thread();
    if (thread == NULL)
        return; /* nor could any thread of ours have waited */
    kin_robust_begin(thread, kin_ring_bell(ring->mine));
    while (atomic_load_explicit(&ring->waiting[before & 1], memory_order_seq_cst) != 0) {
        atomic_exchange_explicit(&ring->mine->asleep, 0, memory_order_seq_cst);
        kin_futex_wake(&ring->mine->asleep, INT_MAX);
        kin_arena_wake(&ring->arena);
        sched_yield();
    }
    kin_robust_end(thread);
}

void
kin_ring_forked(struct kin_ring *ring)
{
    ring->process = (uint32_t)getpid();
    ring->forks = kin_robust_forks();
    atomic_store_explicit(&ring->waiting[0], 0, memory_order_relaxed);
    atomic_store_explicit(&ring->waiting[1], 0, memory_order_relaxed);
}
