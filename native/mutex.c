/* The robust mutex: a futex word that the kernel knows how to release.
 *
 *                     ┌──────────────────────── unlock, nobody sleeps ────────────────────┐
 *                     ▼                                                                   │
 *                 ┌────────┐  lock   ┌─────────┐  a waiter is about to sleep  ┌─────────────────┐
 *                 │   0    │────────>│   TID   │─────────────────────────────>│  TID │ WAITERS  │
 *                 └────────┘         └─────────┘                              └─────────────────┘
 *                     ▲                   │                                      │  ▲     │
 *      nobody slept   │                   │ the owner ends               unlock  │  │lock │ the owner ends
 *                     │                   ▼                                      ▼  │     ▼
 *                 ┌─────────┐        ┌────────────┐                    ┌─────────┐  │ ┌──────────────────────┐
 *                 │ WAITERS │        │ OWNER_DIED │── lock ──> TID     │ WAITERS │──┘ │ OWNER_DIED │ WAITERS │
 *                 └─────────┘        └────────────┘                    └─────────┘    └──────────────────────┘
 *                                                                     then: wake one      the kernel wakes one
 *
 * What has no owner may be taken by whoever comes; who takes it keeps WAITERS as it is.
 *
 * No wake-up is lost, whoever is killed at whatever instruction:
 * 1. As long as somebody sleeps, WAITERS is set. It is cleared in one way only: an unlock leaves the word
 *    WAITERS, wakes one and finds nobody, and the word has stayed WAITERS since. Nobody goes to sleep while
 *    it is that (a sleeper expects an owner), so nobody sleeps. `releases`, in the same eight
 *    bytes, tells that it *stayed* and is not WAITERS again.
 * 2. A free word with WAITERS has somebody awake who will see to it: who has unlocked and not woken yet, or
 *    who was woken and has not looked yet. Both have the mutex *pending*: when one of them is killed the kernel
 *    wakes another, for nobody owns the word (handle_futex_death in kernel/futex/core.c). And whoever
 *    takes it in between keeps WAITERS, and wakes on unlocking.
 * 3. Who was woken leaves without the mutex only after he has seen an owner, or has woken another.
 * A count of sleepers or arrivals beside the word would not do: who is counted may be stopped before he
 * sleeps, for as long as it takes for the same thread to own it again.
 *
 * Also:
 * 4. Words are changed as eight bytes by us and as four by the kernel: one instruction each.
 * 5. Who was awake takes before who has to be woken; that is fast, and may starve a sleeper. So a waiter that
 *    was woken in vain for some milliseconds leaves its TID in `starving`; whoever comes
 *    newly then, and sees WAITERS, gives way: sleeps until that one has had its turn, or for some milliseconds,
 *    since it may be dead. Who was woken gives way to nobody.
 * 6. Given up is `given_up` together with OWNER_DIED in the word: nobody owns it, so that the kernel wakes the next
 *    sleeper when one that was woken is killed; and each wakes another before it leaves.
 * 7. Spinning is for the case that the owner runs on another CPU and is nearly done. It adapts to how
 *    long that took lately; with one CPU, or an owner in this process (who may want the GIL), there is none.
 *
 * A waiter never gives the mutex to another: the other may be dead, and then nobody would own it.
 */

#include "mutex_word.h"

#include <limits.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "futex.h"

/* --------------------------------------------------------------------------------- locking */

/* 0, or why this thread can't lock it, whoever has it: not by the word, which may have been overwritten. A node must
 * not be linked twice. */
static int
look_through(const struct kin_thread *thread, const struct kin_mutex_state *state)
{
    int count = 0;
    for (const struct kin_mutex *held = thread->newest; held != NULL; held = held->older, count++)
        if (held->state == state)
            return kin_mutex_owner(kin_mutex_look(state)) == thread->tid ? EDEADLK : EILSEQ;
    return count < KIN_ROBUST_MOST ? 0 : ENOLCK;
}

int
kin_mutex_take(struct kin_mutex *mutex, const struct timespec *deadline, unsigned flags)
{
    struct kin_thread *thread = kin_thread();
    struct kin_mutex_state *state = mutex->state;
    int error;
    if (thread == NULL)
        return ENOTSUP;
    if (thread->pid_namespace != mutex->pid_namespace)
        return EXDEV;
    if (thread->newest != NULL && (error = look_through(thread, state)) != 0)
        return error;
    kin_robust_begin(thread, &state->node);
    /* A guess: it is free, as it was when this handle had it last. */
    uint64_t free = kin_mutex_releases(__atomic_load_n(&mutex->last, __ATOMIC_RELAXED));
    if (kin_mutex_take_over(state, free, free | thread->tid)) {
        kin_mutex_taken(mutex, thread, free | thread->tid, false);
        return 0;
    }
    return kin_mutex_wait_for(mutex, thread, deadline, flags);
}

int
kin_mutex_lock(struct kin_mutex *mutex, const struct timespec *deadline)
{
    return kin_mutex_take(mutex, deadline, 0);
}

int
kin_mutex_trylock(struct kin_mutex *mutex)
{
    return kin_mutex_take(mutex, NULL, KIN_MUTEX_NOW);
}

/* -------------------------------------------------------------------------------- unlocking */

/* Leaves the word free, with somebody to be woken; or for ever without an owner. */
static __attribute__((noinline)) int
release_and_wake(struct kin_mutex_state *state, struct kin_thread *thread, bool for_good)
{
    uint64_t word, new;
    do {
        word = kin_mutex_look(state);
        if (kin_mutex_owner(word) != thread->tid)
            return EILSEQ;
        new = (kin_mutex_releases(word) + KIN_ONE_RELEASE) | KIN_WAITERS;
        new |= for_good ? KIN_OWNER_DIED : 0;
    } while (!kin_mutex_let_go(state, word, new));
    if (kin_futex_wake(&state->word, for_good ? INT_MAX : 1) == 0 && !for_good)
        kin_mutex_let_go(state, new, kin_mutex_releases(new)); /* rule 1 */
    return 0;
}

static inline int
release(struct kin_mutex *mutex, bool for_good)
{
    struct kin_thread *thread = kin_thread();
    struct kin_mutex_state *state = mutex->state;
    if (thread == NULL || !kin_mutex_is_held_by(mutex, thread))
        return EPERM;
    kin_robust_begin(thread, &state->node);
    int error = kin_robust_unlink(thread, mutex) ? 0 : EILSEQ;
    if (error == 0) {
        /* Before the word: after it, the holder may be another thread of this process. */
        __atomic_store_n(&mutex->holder, 0, __ATOMIC_RELAXED);
        if (for_good)
            atomic_store_explicit(&state->given_up, 1, memory_order_relaxed);
        uint64_t word = mutex->last;
        bool quiet = !for_good && (uint32_t)word == thread->tid;
        if (!quiet || !kin_mutex_let_go(state, word, kin_mutex_releases(word)))
            error = release_and_wake(state, thread, for_good);
    }
    kin_robust_end(thread);
    return error;
}

int
kin_mutex_unlock(struct kin_mutex *mutex)
{
    return release(mutex, false);
}

int
kin_mutex_give_up(struct kin_mutex *mutex)
{
    return release(mutex, true);
}

uint32_t
kin_mutex_holder(const struct kin_mutex *mutex)
{
    return kin_mutex_owner(kin_mutex_look(mutex->state));
}

int
kin_mutex_owner_died(const struct kin_mutex *mutex)
{
    struct kin_thread *thread = kin_thread();
    return thread != NULL && mutex->owner_died && kin_mutex_is_held_by(mutex, thread);
}

/* ------------------------------------------------------------------------------- the handle */

enum kin_finding
kin_mutex_bind(struct kin_mutex *mutex, struct kin_mutex_state *state)
{
    struct kin_thread *thread = kin_thread();
    if (thread == NULL)
        return KIN_UNSUPPORTED;
    *mutex = (struct kin_mutex){.state = state, .pid_namespace = thread->pid_namespace};
    return KIN_SOUND;
}

int
kin_mutex_close(struct kin_mutex *mutex)
{
    uint32_t tid = kin_robust_holder_here(mutex);
    uint64_t word = kin_mutex_look(mutex->state);
    bool died = kin_mutex_owner(word) == 0 && word & KIN_OWNER_DIED;
    if (tid != 0 && !died && syscall(SYS_tgkill, getpid(), tid, 0) == 0)
        return EBUSY;
    mutex->state = NULL;
    return 0;
}

void
kin_mutex_state_repair(struct kin_mutex_state *state)
{
    uint64_t word = kin_mutex_look(state);
    bool died = kin_mutex_owner(word) != 0 || word & KIN_OWNER_DIED;
    state->node = (struct kin_robust_node){0};
    atomic_store_explicit(&state->starving, 0, memory_order_relaxed);
    atomic_store_explicit(&state->word, kin_mutex_releases(word) | (died ? KIN_OWNER_DIED : 0),
                          memory_order_release);
}
