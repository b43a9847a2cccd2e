/* Waiting for a robust mutex: a short spin, then sleep; and who has to give way to whom. The rules are those of
 * mutex.c.
 *
 *      newcomer ──> free? ──────── yes ──> somebody starves? ── no ──> take it
 *                    │ ▲                       │ yes
 *                    │ └───────────────────────┴─ give way: sleep until that one has had it, 4 ms at most
 *                    ▼
 *                  spin ──> set WAITERS ──> sleep ──> woken: free? ── yes ──> take it
 *                             ▲                          │ no
 *                             └── 4 ms have passed? then leave the own TID in `starving`
 *
 * Each turn of the loop is a `step`, which looks at the word anew.
 */

#include "mutex_word.h"

#include "futex.h"
#include "patience.h"

enum { MOST_SPINS = 100 };

struct wait {
    struct kin_mutex *mutex;
    struct kin_thread *thread;
    const struct timespec *deadline;
    struct kin_patience patience;
    int spins, most_spins;
    bool old; /* has slept, or given way, already */
};

static int
most_spins(const struct kin_mutex *mutex)
{
    if (kin_robust_holder_here(mutex) != 0 || !kin_several_cpus())
        return 0;
    int most = 2 * __atomic_load_n(&mutex->spins, __ATOMIC_RELAXED) + 10;
    return most < MOST_SPINS ? most : MOST_SPINS;
}

static void
learn(const struct wait *wait)
{
    int before = __atomic_load_n(&wait->mutex->spins, __ATOMIC_RELAXED);
    int spins = before + (wait->spins - before) / 8;
    __atomic_store_n(&wait->mutex->spins, spins, __ATOMIC_RELAXED);
}

/* Leaves without it, though nobody may own it: somebody else has to look. */
static int
pass_on(struct kin_mutex_state *state, int error)
{
    kin_futex_wake(&state->word, 1);
    return error;
}

/* What `step` returns to be called again. */
enum { AGAIN = -1 };

/* Nobody owns it. */
static int
step_free(struct wait *wait, uint64_t word, unsigned flags)
{
    struct kin_mutex_state *state = wait->mutex->state;
    bool died = (word & KIN_OWNER_DIED) != 0;
    if (died && atomic_load_explicit(&state->given_up, memory_order_relaxed))
        return pass_on(state, ENOTRECOVERABLE);
    if (died && flags & KIN_MUTEX_STRICT)
        return pass_on(state, EOWNERDEAD);
    if (word & KIN_WAITERS && !wait->old && !(flags & KIN_MUTEX_NOW)) {
        bool starves = atomic_load_explicit(&state->starving, memory_order_relaxed) != 0;
        if (starves && flags & KIN_MUTEX_AWAKE)
            return EBUSY;
        if (starves) {
            wait->old = true;
            return kin_give_way(&state->starving, wait->deadline) == 0 ? AGAIN : EINTR;
        }
    }
    uint64_t mine = kin_mutex_releases(word) | (word & KIN_WAITERS) | wait->thread->tid;
    if (!kin_mutex_take_over(state, word, mine))
        return AGAIN;
    kin_mutex_taken(wait->mutex, wait->thread, mine, died);
    return died ? EOWNERDEAD : 0;
}

/* Somebody does. */
static int
step_owned(struct wait *wait, uint64_t word, unsigned flags)
{
    struct kin_mutex_state *state = wait->mutex->state;
    if (kin_mutex_owner(word) == wait->thread->tid)
        return EDEADLK;
    if (flags & KIN_MUTEX_NOW)
        return EBUSY;
    if (wait->spins < wait->most_spins) {
        wait->spins++;
        kin_relax();
        return AGAIN;
    }
    if (flags & KIN_MUTEX_AWAKE)
        return EBUSY;
    if (!(word & KIN_WAITERS) && !kin_mutex_take_over(state, word, word | KIN_WAITERS))
        return AGAIN;
    kin_patience_lose(&wait->patience);
    wait->old = true;
    int error = kin_futex_sleep(&state->word, (uint32_t)(word | KIN_WAITERS), wait->deadline);
    /* An error: then no wake-up was meant for this one, and it may leave as it is. */
    return error == 0 ? AGAIN : error;
}

static int
step(struct wait *wait, unsigned flags)
{
    uint64_t word = kin_mutex_look(wait->mutex->state);
    return kin_mutex_owner(word) == 0 ? step_free(wait, word, flags)
                                      : step_owned(wait, word, flags);
}

int
kin_mutex_wait_for(struct kin_mutex *mutex, struct kin_thread *thread,
                   const struct timespec *deadline, unsigned flags)
{
    struct wait wait = {mutex, thread, deadline,
                        .patience = {&mutex->state->starving, thread->tid},
                        .most_spins = most_spins(mutex)};
    int result;
    do
        result = step(&wait, flags);
    while (result == AGAIN);
    if (wait.most_spins > 0)
        learn(&wait);
    if (result != 0 && !(result == EOWNERDEAD && kin_mutex_is_held_by(mutex, thread)))
        kin_robust_end(thread);
    kin_patience_end(&wait.patience);
    return result;
}
