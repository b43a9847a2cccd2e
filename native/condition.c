/* The condition: waiting, without a mutex, for what happens under it.
 *
 *      who waits                                      who changes something
 *
 *      holds the mutex                                holds the mutex
 *      look: watch all others, drop the dead          changes it
 *      remember `notified`; sleepers = 1              sleepers? ── no ──> nobody to be woken
 *      ┌─> take `turn`                                notified + 1
 *      │   look                                       turn + 1, wake some
 *      │   `notified` has changed? ── yes ──┐         fewer than that? sleepers = 0
 *      │   release the mutex, once          │         releases the mutex
 *      └── sleep while `turn` is the same   │
 *          acquire the mutex  <─────────────┘         … is killed: others watch it; notified + 1, turn + 1, wake all
 *
 * There is no queue and no count of waiters, which the dead would leave in disorder, and no pthread_cond_t, in
 * which a killed waiter blocks the next signal for ever. `turn` is that of the members (members.h): whatever may
 * concern a sleeper counts it up, and all look. `notified` says whether to go on: a process that has just come is
 * only watched too.
 *
 * Rules:
 * 1. Who waits is woken by what comes after it has begun, though it may not sleep yet: it holds the mutex until
 *    `notified` is remembered, and from then on sleeps only if that is the same as before `turn` was taken.
 * 2. A notify wakes at least as many as it says, if so many wait: who sleeps, and besides whoever waits and is awake
 *    just now. All of them are to look whether there is anything for them, so one too many does no harm.
 * 3. `sleepers` is cleared when a wake-up has found fewer than it would have. Nobody comes to wait meanwhile, without
 *    the mutex; and who waits and is awake finds `notified` changed.
 * 4. The death of any member wakes all: it may have been woken for something, and not have come to it; or have changed
 *    something, and not have come to say so; or have been in the middle of a notify. Whoever drops its row counts
 *    `notified` up, under the guard, before the row is free: so each who waited then goes on, whoever was quickest.
 * 5. Who changes something has joined before it acquired the mutex, so that somebody watches it.
 * 6. All go with the same mutex, or rule 1 holds for nobody. Where it is mapped says nothing, so a mutex has a number,
 *    its `identity`, given by the first condition that it is held for; and the condition has that of the mutex by which
 *    it was used first. Another one is refused, unless nobody else is a member, who could go by the old one.
 *
 * The guard is held inside the mutex, and never the other way round.
 */

#include "condition.h"

#include <errno.h>
#include <limits.h>
#include <sys/random.h>

static bool
left(struct kin_members *members, struct kin_member *row, bool is_dead)
{
    struct kin_condition *condition =
        (struct kin_condition *)(void *)((char *)members - offsetof(struct kin_condition, members));
    (void)row;
    if (is_dead)
        kin_condition_wake(condition); /* rule 4 */
    return true;
}

int
kin_condition_join(struct kin_condition *condition, const struct timespec *deadline)
{
    if (kin_members_row(&condition->members) != NULL)
        return 0;
    return kin_members_join(&condition->members, deadline);
}

static uint32_t
notified(const struct kin_condition *condition)
{
    return atomic_load_explicit(&condition->state->notified, memory_order_relaxed);
}

/* Of a mutex that is held; others may be looking. 0 or an errno. */
static int
identify(const struct kin_mutex *mutex, uint64_t *identity)
{
    struct kin_object *object =
        (struct kin_object *)(void *)((char *)mutex->state - offsetof(struct kin_object, guard));
    *identity = __atomic_load_n(&object->header.identity, __ATOMIC_RELAXED);
    while (*identity == 0) {
        if (getrandom(identity, sizeof *identity, 0) != (ssize_t)sizeof *identity)
            return errno;
        __atomic_store_n(&object->header.identity, *identity, __ATOMIC_RELAXED);
    }
    return 0;
}

/* Rule 6, for a mutex that is held, by who has joined. 0; EMEDIUMTYPE: others use another one; or an errno. */
static int
check_mutex(struct kin_condition *condition, const struct kin_mutex *mutex,
            const struct timespec *deadline)
{
    _Atomic uint64_t *its = &condition->state->mutex;
    uint64_t identity;
    int error = identify(mutex, &identity);
    if (error != 0 || atomic_load_explicit(its, memory_order_relaxed) == identity)
        return error;
    error = kin_mutex_lock(&condition->guard, deadline);
    if (error != 0 && error != EOWNERDEAD)
        return error;
    uint64_t found = atomic_load_explicit(its, memory_order_relaxed);
    bool is_free = found == 0 || kin_members_alone(&condition->members);
    if (is_free)
        atomic_store_explicit(its, identity, memory_order_relaxed);
    kin_mutex_unlock(&condition->guard);
    return is_free || found == identity ? 0 : EMEDIUMTYPE;
}

/* ------------------------------------------------------------------------------------ waiting */

int
kin_condition_begin(struct kin_condition *condition, struct kin_mutex *mutex,
                    struct kin_condition_wait *wait, const struct timespec *deadline)
{
    if (!kin_mutex_is_held(mutex))
        return EPERM;
    int error = kin_condition_join(condition, deadline);
    if (error == 0)
        error = check_mutex(condition, mutex, deadline);
    /* What stands against watching is said before the mutex is released. */
    if (error == 0)
        error = kin_members_look(&condition->members, KIN_LOOK_TOLD, deadline);
    if (error != 0)
        return error;
    *wait = (struct kin_condition_wait){.mutex = mutex, .seen = notified(condition)};
    atomic_store_explicit(&condition->state->sleepers, 1, memory_order_relaxed);
    return 0;
}

bool
kin_condition_was_notified(const struct kin_condition *condition,
                           const struct kin_condition_wait *wait)
{
    return notified(condition) != wait->seen;
}

/* What `step` returns to be called again. */
enum { AGAIN = -1 };

static int
step(struct kin_condition *condition, struct kin_condition_wait *wait,
     const struct timespec *deadline)
{
    uint32_t turn = kin_members_turn(&condition->members);
    int error = kin_members_look(&condition->members, KIN_LOOK_TOLD, deadline);
    if (wait->released && kin_condition_was_notified(condition, wait))
        return 0; /* first: it may have been woken for it */
    if (error != 0)
        return error;
    if (!wait->released) {
        error = kin_mutex_unlock(wait->mutex);
        if (error != 0)
            return error;
        wait->released = true;
    }
    if (kin_has_passed(deadline))
        return ETIMEDOUT;
    error = kin_members_sleep(&condition->members, turn, deadline);
    return error == 0 ? AGAIN : error;
}

int
kin_condition_sleep(struct kin_condition *condition, struct kin_condition_wait *wait,
                    const struct timespec *deadline)
{
    int error = kin_condition_join(condition, deadline); /* a signal handler may have forked */
    if (error != 0)
        return error;
    do
        error = step(condition, wait, deadline);
    while (error == AGAIN);
    return error;
}

/* ------------------------------------------------------------------------------------- waking */

static long
wake(struct kin_condition *condition, int count)
{
    atomic_fetch_add_explicit(&condition->state->notified, 1, memory_order_relaxed);
    return kin_members_wake(&condition->members, count);
}

int
kin_condition_notify(struct kin_condition *condition, const struct kin_mutex *mutex, int count,
                     const struct timespec *deadline)
{
    if (!kin_mutex_is_held(mutex))
        return EPERM;
    int error = kin_condition_join(condition, deadline);
    if (error == 0)
        error = check_mutex(condition, mutex, deadline);
    if (error != 0)
        return error;
    if (atomic_load_explicit(&condition->state->sleepers, memory_order_relaxed) != 0 &&
        wake(condition, count) < count)
        atomic_store_explicit(&condition->state->sleepers, 0, memory_order_relaxed);
    return 0;
}

void
kin_condition_wake(struct kin_condition *condition)
{
    wake(condition, INT_MAX);
}

/* --------------------------------------------------------------------------------- the handle */

size_t
kin_condition_size(uint32_t members)
{
    return offsetof(struct kin_condition_object, members) + kin_members_size(members);
}

static void
format(struct kin_object *object, void *argument)
{
    const uint32_t *members = argument;
    kin_members_format(&((struct kin_condition_object *)(void *)object)->members, *members);
}

static bool
bind(struct kin_condition *condition, struct kin_condition_object *object, size_t size,
     struct kin_watcher *watcher)
{
    struct kin_members_terms terms = {&condition->guard, watcher, left};
    condition->state = &object->state;
    return kin_members_bind(&condition->members, &object->members,
                            size - offsetof(struct kin_condition_object, members), &terms) &&
           kin_condition_size(condition->members.count) == size;
}

enum kin_finding
kin_condition_open(struct kin_condition *condition, void *memory, size_t room, uint32_t members,
                   struct kin_watcher *watcher, const struct timespec *patience)
{
    size_t size = kin_condition_size(members);
    *condition = (struct kin_condition){0};
    enum kin_finding found = kin_object_open_sized(&condition->guard, memory, room, KIN_CONDITION,
                                                   &size, format, &members, patience);
    if (found == KIN_SOUND && !bind(condition, memory, size, watcher)) {
        condition->state = NULL;
        return KIN_ALIEN;
    }
    return found;
}

void
kin_condition_close(struct kin_condition *condition)
{
    kin_members_close(&condition->members);
    condition->state = NULL;
}

static void
repair(struct kin_object *object, void *size)
{
    struct kin_condition condition = {0};
    if (!bind(&condition, (struct kin_condition_object *)(void *)object, *(size_t *)size, NULL))
        return; /* which opening it says, too */
    kin_members_repair(&condition.members);
    atomic_store_explicit(&condition.state->sleepers, 0, memory_order_relaxed);
    atomic_store_explicit(&condition.state->mutex, 0, memory_order_relaxed);
}

void
kin_condition_repair(void *memory, size_t room)
{
    size_t size = kin_object_size(memory, room, KIN_CONDITION, 0);
    if (kin_object_look(memory, room, KIN_CONDITION, size) == KIN_OTHER_BOOT)
        kin_object_repair(memory, repair, &size);
}
