/* The event: a futex word that lets go of all who wait, though whoever sets it may be killed at any instruction.
 *
 *      63        62 ………………… 32 │ 31        30   29      28 ………………… 0
 *      WAKING    generation     │ WAITERS   0    CLEAR   generation      not set
 *      WAKING    generation     │ 0                                      set: the kernel's half, the right one, is 0
 *
 *                  ┌─────────── set ───────────┐
 *                  │                           ▼
 *              ┌───────┐                   ┌───────┐
 *              │ CLEAR │ <──── clear ───── │   0   │ set
 *              └───────┘                   └───────┘
 *                  │ a waiter is about to      ▲ all were woken, and
 *                  ▼ sleep                     │ nothing has changed since
 *        ┌─────────────────┐               ┌────────┐
 *        │ WAITERS │ CLEAR │ ──── set ───> │ WAKING │   then: wake all
 *        └─────────────────┘               └────────┘
 *
 * `generation` counts at each set: who waits goes when it has changed, also if a clear has followed at once. It
 * stands in both halves: so who is stopped between looking and falling asleep does not fall asleep in a later
 * generation.
 *
 * No wake-up is lost, whoever is killed at whatever instruction:
 * 1. While somebody sleeps, WAITERS is set, or WAKING. Nobody falls asleep while it is set (a sleeper expects
 *    CLEAR); so after a FUTEX_WAKE of all nobody sleeps until the word has changed. If it has not, WAKING is
 *    cleared.
 * 2. While WAKING is set, somebody will wake all: whoever has set it, or who was woken. Both have the word
 *    *pending* in their robust list, from before until after. When one of them is killed the kernel wakes another,
 *    for nobody owns a word that is 0 (handle_futex_death in kernel/futex/core.c). And whoever leaves a wait and
 *    sees WAKING wakes all first.
 * 3. Who clears, or sets again, finishes first what he finds begun: a setter may be stopped, and nobody shall clear
 *    a word on which others sleep who are to go.
 * 4. While it is not set, nobody has to be woken for the dead. The kernel takes CLEAR for the thread id of an
 *    owner; there is none so high (PID_MAX_LIMIT), so it does nothing.
 *
 * Nobody is counted, and nobody watched. All who sleep are woken at once: no wake-up is for one of them alone,
 * except the kernel's, and rule 2 passes that on.
 */

#include "event.h"

#include <errno.h>

#include "futex.h"

#define CLEAR (UINT64_C(1) << 29)
#define WAITERS (UINT64_C(1) << 31)
#define ONE_SET (UINT64_C(1) << 32)
#define WAKING (UINT64_C(1) << 63)
#define GENERATION (WAKING - ONE_SET)

_Static_assert(CLEAR > 4 * 1024 * 1024 && CLEAR < FUTEX_TID_MASK, "no thread has it as its id");

/* As what one sleeps: so that who stops one wakes only those who can be stopped. */
#define FOR_GOOD (UINT32_C(1) << 0)
#define WITH_STOP (UINT32_C(1) << 1)

_Static_assert(sizeof(struct kin_event_state) == 64, "a cache line");

static uint64_t
look(const struct kin_event_state *event)
{
    /* SYNC POINT: what a setter did before is seen by who finds it set. */
    return atomic_load_explicit(&event->word, memory_order_acquire);
}

static bool
change(struct kin_event_state *event, uint64_t old, uint64_t new)
{
    /* SYNC POINT: look; and kin_event_clear, for who sets what is set. */
    return atomic_compare_exchange_strong_explicit(&event->word, &old, new, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* Not set, in this generation; nobody sleeps. */
static uint64_t
cleared(uint64_t generation)
{
    return generation | CLEAR | (generation >> 32 & (CLEAR - 1));
}

static void
begin(struct kin_thread *thread, struct kin_event_state *event)
{
    /* There is no node: the kernel reads only the word that would belong to one here. */
    kin_robust_begin(thread, (void *)((char *)event + KIN_ROBUST_NODE_OFFSET));
}

/* Rule 1. */
static void
wake_all(struct kin_event_state *event, uint64_t word)
{
    kin_futex_wake(&event->word, INT_MAX);
    change(event, word, word & ~WAKING);
}

/* -------------------------------------------------------------------------- setting, clearing */

bool
kin_event_is_set(const struct kin_event_state *event)
{
    return !(look(event) & CLEAR);
}

int
kin_event_set(struct kin_event_state *event)
{
    struct kin_thread *thread = kin_thread();
    uint64_t word, new;
    if (thread == NULL)
        return ENOTSUP;
    begin(thread, event);
    do {
        word = look(event);
        new = word; /* and written all the same: who clears it next sees what was done before */
        if (word & CLEAR)
            new = ((word + ONE_SET) & GENERATION) | (word & WAITERS ? WAKING : 0);
    } while (!change(event, word, new));
    if (new & WAKING)
        wake_all(event, new);
    kin_robust_end(thread);
    return 0;
}

void
kin_event_clear(struct kin_event_state *event)
{
    uint64_t word;
    do {
        word = look(event);
        if (word & CLEAR)
            return;
        if (word & WAKING)
            wake_all(event, word); /* rule 3 */
    } while (!change(event, word & ~WAKING, cleared(word & GENERATION)));
}

/* ------------------------------------------------------------------------------------ waiting */

uint64_t
kin_event_round(const struct kin_event_state *event)
{
    return look(event) & GENERATION;
}

static bool
has_come(uint64_t word, uint64_t round)
{
    return !(word & CLEAR) || (word & GENERATION) != round;
}

bool
kin_event_has_come(const struct kin_event_state *event, uint64_t round)
{
    return has_come(look(event), round);
}

/* What `step` returns to be called again. */
enum { AGAIN = -1 };

static int
step(struct kin_event_state *event, uint64_t round, const struct timespec *deadline,
     struct kin_event_stop *stop)
{
    uint64_t word = look(event);
    if (has_come(word, round))
        return 0;
    if (stop != NULL && atomic_load(&stop->wanted))
        return ECANCELED;
    if (kin_has_passed(deadline))
        return ETIMEDOUT;
    if (!(word & WAITERS) && !change(event, word, word | WAITERS))
        return AGAIN;
    int error = kin_futex_sleep_as(&event->word, (uint32_t)(word | WAITERS), deadline,
                                   stop != NULL ? WITH_STOP : FOR_GOOD);
    if (error == 0)
        return AGAIN;
    return kin_event_has_come(event, round) ? 0 : error; /* perhaps at the same moment */
}

int
kin_event_wait(struct kin_event_state *event, uint64_t round, const struct timespec *deadline,
               struct kin_event_stop *stop)
{
    struct kin_thread *thread = kin_thread();
    if (thread == NULL)
        return ENOTSUP;
    if (stop != NULL)
        atomic_store(&stop->inside, 1); /* SYNC POINT: `wanted`, and then this, in stop_wait */
    begin(thread, event);
    int result;
    do
        result = step(event, round, deadline, stop);
    while (result == AGAIN);
    uint64_t word = look(event);
    if (word & WAKING)
        wake_all(event, word); /* rule 2 */
    kin_robust_end(thread);
    if (stop != NULL) {
        atomic_store(&stop->inside, 0);
        if (atomic_load(&stop->wanted))
            kin_futex_wake(&stop->inside, INT_MAX);
    }
    return result;
}

/* Who is about to sleep does not feel a wake-up that comes just before; so it comes again until he has left. */
void
kin_event_stop_wait(struct kin_event_state *event, struct kin_event_stop *stop)
{
    atomic_store(&stop->wanted, 1);
    while (atomic_load(&stop->inside)) {
        kin_futex_wake_those(&event->word, WITH_STOP);
        struct timespec soon = kin_timespec(kin_now() + KIN_MILLISECOND);
        kin_futex_sleep(&stop->inside, 1, &soon);
    }
}

/* ------------------------------------------------------------------------------------ opening */

static void
format(struct kin_object *object, void *unused)
{
    struct kin_event_state *event = &((struct kin_event_object *)(void *)object)->state;
    (void)unused;
    atomic_store_explicit(&event->word, cleared(0), memory_order_relaxed);
}

static void
repair(struct kin_object *object, void *unused)
{
    struct kin_event_state *event = &((struct kin_event_object *)(void *)object)->state;
    (void)unused;
    uint64_t word = look(event);
    atomic_store_explicit(&event->word, word & ~(WAITERS | WAKING), memory_order_relaxed);
}

enum kin_finding
kin_event_open(struct kin_event_state **event, void *memory, size_t room,
               const struct timespec *patience)
{
    struct kin_event_object *object = memory;
    struct kin_mutex guard; /* while it is made, and never again */
    enum kin_finding found =
        kin_object_open(&guard, memory, room, KIN_EVENT, sizeof *object, format, NULL, patience);
    *event = found == KIN_SOUND ? &object->state : NULL;
    return found;
}

void
kin_event_repair(void *memory)
{
    kin_object_repair(memory, repair, NULL);
}
