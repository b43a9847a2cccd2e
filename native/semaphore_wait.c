/* Waiting for a semaphore. The rules of the word are those of semaphore.c.
 *
 *      newcomer ──> enough there? ── yes ──> somebody starves? ── no ──> take
 *                       │ ▲                       │ yes
 *                       │ └───────────────────────┴─ give way: see patience.h
 *                       ▼
 *                  look: watch all others, drop the dead ──> set SLEEPERS ──> sleep on `turn` ──> woken: again
 *
 * Rules:
 * 1. Each who goes to sleep changes the word before, by a change that changes no balance, also if SLEEPERS is set
 *    already. Whoever gives, and finds it set, looks at the word, counts `turn` up, wakes, and clears SLEEPERS only
 *    if there were less to be woken than it would have, and the word has stayed. So nobody sleeps then: who came
 *    after the count has changed the word, and who came before has been woken, or does not fall asleep.
 * 2. Who wants several may be woken when there is one, and who wants one sleeps on. So while one such sleeps (SEVERAL),
 *    each who gives wakes all.
 * 3. A wake-up that goes with somebody who is killed is made up for by the watchers of the others (members.h).
 *    Who leaves for another reason was not woken, or has found too little.
 * 4. Spinning adapts to how long it took lately, as in a mutex.
 */

#include "semaphore_word.h"

#include <limits.h>

#include "futex.h"
#include "patience.h"
#include "spin.h"

enum { MOST_SPINS = 100 };

struct wait {
    struct kin_semaphore *semaphore;
    uint32_t count;
    const struct timespec *deadline;
    struct kin_semaphore_stop *stop; /* or NULL */
    struct kin_patience patience;
};

static bool
gives_way(const struct kin_semaphore *semaphore, uint64_t word)
{
    return word & KIN_SLEEPERS &&
           atomic_load_explicit(&semaphore->state->starving, memory_order_relaxed) != 0;
}

int
kin_semaphore_take_one(struct kin_semaphore *semaphore)
{
    struct kin_member *row = kin_members_row(&semaphore->members);
    uint64_t word;
    if (row == NULL || gives_way(semaphore, kin_semaphore_look(semaphore)))
        return EBUSY;
    return kin_semaphore_change(semaphore, row, 1, &word, NULL);
}

/* A short while, in case that it is given back soon. 0 or as kin_semaphore_change. */
static int
spin(struct wait *wait, struct kin_member *row)
{
    struct kin_semaphore *semaphore = wait->semaphore;
    int before = __atomic_load_n(&semaphore->spins, __ATOMIC_RELAXED), count = 0, error;
    int most = 2 * before + 10 < MOST_SPINS ? 2 * before + 10 : MOST_SPINS;
    uint64_t word;
    if (!kin_several_cpus())
        return EBUSY;
    do {
        kin_relax();
        word = kin_semaphore_look(semaphore);
        error = kin_value_in(word) < wait->count
                    ? EBUSY
                    : kin_semaphore_change(semaphore, row, (int32_t)wait->count, &word,
                                           wait->deadline);
    } while (error == EBUSY && ++count < most);
    __atomic_store_n(&semaphore->spins, before + (count - before) / 8, __ATOMIC_RELAXED);
    return error;
}

/* Rule 1. 0; EBUSY: there is enough by now, or something else has changed; EILSEQ. */
static int
tell(struct wait *wait, struct kin_member *row)
{
    uint64_t word;
    int error = kin_semaphore_make_ready(wait->semaphore, &word);
    if (error != 0)
        return error;
    uint64_t flags = (word & KIN_SEVERAL) | KIN_SLEEPERS | (wait->count > 1 ? KIN_SEVERAL : 0);
    bool told = kin_value_in(word) < wait->count &&
                kin_semaphore_put(wait->semaphore, word, row, 0, kin_value_in(word) | flags);
    return told ? 0 : EBUSY;
}

enum { AGAIN = -1 };

/* One turn: 0, an errno, or AGAIN. */
static int
step(struct wait *wait, struct kin_member *row)
{
    struct kin_semaphore *semaphore = wait->semaphore;
    uint32_t turn = kin_members_turn(&semaphore->members);
    int unwatched = kin_members_look(&semaphore->members, KIN_LOOK_TOLD, wait->deadline);
    uint64_t word;
    int error =
        kin_semaphore_change(semaphore, row, (int32_t)wait->count, &word, wait->deadline);
    if (error != EBUSY)
        return error;
    /* Only now: it may have been woken. */
    if (unwatched != 0)
        return unwatched;
    if (wait->stop != NULL && atomic_load_explicit(&wait->stop->wanted, memory_order_acquire))
        return ECANCELED;
    error = tell(wait, row);
    if (error != 0)
        return error == EBUSY ? AGAIN : error;
    kin_patience_lose(&wait->patience);
    error = kin_members_sleep(&semaphore->members, turn, wait->deadline);
    return error == 0 ? AGAIN : error;
}

static int
wait_for(struct wait *wait, struct kin_member *row)
{
    struct kin_semaphore *semaphore = wait->semaphore;
    int error;
    if (gives_way(semaphore, kin_semaphore_look(semaphore)) &&
        (error = kin_give_way(&semaphore->state->starving, wait->deadline)) != 0)
        return error;
    error = spin(wait, row);
    if (error != EBUSY)
        return error;
    do
        error = step(wait, row);
    while (error == AGAIN);
    kin_patience_end(&wait->patience);
    return error;
}

/* The own row, for whom there is none as yet. */
static int
row_for(struct kin_semaphore *semaphore, struct kin_member **row, const struct timespec *deadline)
{
    int error = 0;
    while (error == 0 && (*row = kin_members_row(&semaphore->members)) == NULL)
        error = kin_members_join(&semaphore->members, deadline);
    return error;
}

int
kin_semaphore_acquire(struct kin_semaphore *semaphore, uint32_t count,
                      const struct timespec *deadline, struct kin_semaphore_stop *stop)
{
    struct kin_thread *thread = kin_thread();
    struct kin_member *row;
    if (thread == NULL)
        return ENOTSUP;
    int error = row_for(semaphore, &row, deadline);
    if (error != 0)
        return error;
    struct wait wait = {semaphore, count, deadline, stop,
                        .patience = {&semaphore->state->starving, thread->tid}};
    return wait_for(&wait, row);
}

/* Looks for the dead, before a deadline. */
static int
look_until(struct kin_semaphore *semaphore, const struct timespec *deadline)
{
    int error;
    do
        error = kin_members_look(&semaphore->members, KIN_LOOK_ALL, deadline);
    while (error == EINTR);
    return error;
}

static int
try_until(struct kin_semaphore *semaphore, uint32_t count, const struct timespec *deadline)
{
    struct kin_member *row;
    uint64_t word;
    int error = row_for(semaphore, &row, deadline);
    if (error == 0)
        error = kin_semaphore_change(semaphore, row, (int32_t)count, &word, deadline);
    if (error != EBUSY)
        return error;
    error = look_until(semaphore, deadline);
    return error != 0 ? error
                      : kin_semaphore_change(semaphore, row, (int32_t)count, &word, deadline);
}

int
kin_semaphore_try(struct kin_semaphore *semaphore, uint32_t count)
{
    const struct timespec soon = kin_timespec(kin_now() + KIN_SEMAPHORE_PATIENCE);
    int error;
    do
        error = try_until(semaphore, count, &soon);
    while (error == EINTR);
    return error == ETIMEDOUT ? EBUSY : error;
}

void
kin_semaphore_stop_wait(struct kin_semaphore *semaphore, struct kin_semaphore_stop *stop)
{
    atomic_store_explicit(&stop->wanted, true, memory_order_release);
    kin_members_wake(&semaphore->members, INT_MAX);
}

uint32_t
kin_semaphore_now(const struct kin_semaphore *semaphore)
{
    return kin_value_in(kin_semaphore_look(semaphore));
}

int
kin_semaphore_value(struct kin_semaphore *semaphore, uint32_t *value)
{
    const struct timespec soon = kin_timespec(kin_now() + KIN_SEMAPHORE_PATIENCE);
    int error = look_until(semaphore, &soon);
    *value = kin_semaphore_now(semaphore);
    return error == ETIMEDOUT ? 0 : error;
}
