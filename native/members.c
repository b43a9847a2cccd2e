/* Who uses an object in shared memory, so that the death of any of them is noticed.
 *
 *      the object                                    process 100          process 200
 *      ┌──────────────────────────────┐              ┌───────────┐        ┌───────────┐
 *      │ turn │ changes │ count, used │ <── sleeps ──│ thread    │        │ watcher ──┼── pidfd of 100
 *      ├──────────────────────────────┤              └───────────┘        └─────┬─────┘
 *      │ row 0   pid 100, balance     │                                         │ 100 dies: told, turn + 1,
 *      │ row 1   pid 200, balance     │ <───────────────────────────────────────┘ all who sleep are woken
 *      │ row 2   free                 │
 *      └──────────────────────────────┘
 *
 * Rules:
 * 1. A row is written under the guard: `changes` is counted up, the row filled in, its pid last; a kill at any
 *    instruction leaves it free or whole. Then `turn` is counted up and all are woken, to watch the new one too. Who is
 *    killed before that has changed nothing of the object, so nobody has to have watched it: also by no other thread,
 *    for only then do these learn of the row (`joined`).
 * 2. Who sleeps watches all others from before it slept: a pidfd each, opened by the pid of the row and then
 *    compared by the start time, so a later process of the same pid is not taken for it. What can't be compared (a
 *    /proc that hides others, or is of another pid namespace) is believed to be the right one as long as it lives.
 * 3. Dead is who has no process, or whose pidfd is readable (pidfd_open(2)): an unreaped zombie is, one that is stopped
 *    is not. Whoever sees it drops the row, under the guard: once, for a row that has become free is none.
 * 4. What is watched belongs to the watcher, which closes it in a forked child. The child knows nothing then, since
 *    `forks` is another's.
 * 5. The guard is held while rows are read and written, never while descriptors are opened (but for the rare question
 *    whether one is alone): for that there is a lock of the process's own, which a forked child finds free.
 * 6. Whoever has the guard may be stopped. So who waits for it, or for the other lock, has a deadline, and goes when a signal
 *    handler ran. Who leaves waits for nobody: his row is *left* from the one instruction on by which it counts no handles,
 *    and whoever has the guard next does the rest: he himself, if it is free; else who joins.
 * A process that executes another program stays who it is, with what it holds.
 */

#include "members.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "members_inside.h"
#include "mutex.h"
#include "start_time.h"

/* What this process knows of a row: whom it watches there. */
struct kin_watched {
    uint32_t pid; /* 0: nobody */
    bool is_dead; /* for certain; its row is to be dropped */
    _Atomic bool told;
    int pidfd;       /* the watcher's */
    uint64_t start;
    uint64_t number; /* of the watch; 0: it is not watched */
};

static bool
has_ended(int pidfd)
{
    struct pollfd look = {pidfd, POLLIN, 0};
    return poll(&look, 1, 0) > 0;
}

/* What is known privately is for one thread at a time. 0 or as kin_local_enter_until. */
static int
lock(struct kin_members *members, const struct timespec *deadline)
{
    int error = kin_local_enter_until(&members->lock, deadline);
    if (error != 0)
        return error;
    if (members->forks != kin_robust_forks()) { /* it is the parent's */
        free(members->watched);
        members->watched = NULL;
        members->forks = kin_robust_forks();
        members->changes = 0;
    }
    return 0;
}

/* ------------------------------------------------------------------------------------ rows */

static int
enter(struct kin_members *members, const struct timespec *deadline)
{
    int error = kin_mutex_lock(members->terms.guard, deadline);
    return error == EOWNERDEAD ? 0 : error;
}

static void
leave(struct kin_members *members)
{
    kin_mutex_unlock(members->terms.guard);
}

uint32_t
kin_members_used(const struct kin_members *members)
{
    uint32_t number = __atomic_load_n(&members->state->used, __ATOMIC_RELAXED);
    return number < members->count ? number : members->count;
}

static bool
is_row_of(const struct kin_member *row, uint32_t pid, uint64_t start)
{
    return row->pid == pid && row->start == start;
}

/* Under the guard: the row of this process, or a free one that becomes it, or NULL. */
static struct kin_member *
take_row(struct kin_members *members, uint32_t pid, uint64_t start)
{
    struct kin_members_state *state = members->state;
    struct kin_member *free_one = NULL;
    for (uint32_t i = 0; i < kin_members_used(members); i++) {
        struct kin_member *row = &state->rows[i];
        if (is_row_of(row, pid, start) &&
            __atomic_load_n(&row->handles, __ATOMIC_RELAXED) != KIN_EMBRYO)
            return row;
        if (row->pid == 0 && free_one == NULL)
            free_one = row;
    }
    if (free_one == NULL) {
        uint32_t number = kin_members_used(members);
        if (number == members->count)
            return NULL;
        __atomic_store_n(&state->used, number + 1, __ATOMIC_RELAXED);
        free_one = &state->rows[number];
    }
    kin_members_count_change(state);
    /* Somebody may look whether the object is blank, who has just seen that it was. */
    __atomic_store_n(&free_one->handles, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&free_one->start, start, __ATOMIC_RELAXED);
    __atomic_store_n(&free_one->pid, pid, __ATOMIC_RELEASE);
    return free_one;
}

/* With the lock. */
static int
join(struct kin_members *members, const struct timespec *deadline)
{
    uint64_t start = kin_own_start();
    int error = enter(members, deadline);
    if (error != 0)
        return error;
    kin_members_sweep(members);
    struct kin_member *row = take_row(members, (uint32_t)getpid(), start);
    if (row != NULL)
        __atomic_fetch_add(&row->handles, 1, __ATOMIC_RELAXED);
    leave(members);
    if (row == NULL)
        return EUSERS;
    kin_members_wake(members, INT_MAX); /* rule 1: and only then may other threads go by it */
    uint64_t number = (uint64_t)(row - members->state->rows) + 1;
    /* SYNC POINT: kin_members_row */
    atomic_store_explicit(&members->joined, (uint64_t)kin_robust_forks() << 32 | number,
                          memory_order_release);
    return 0;
}

static int
join_once(struct kin_members *members, const struct timespec *deadline)
{
    int error = lock(members, deadline);
    if (error != 0)
        return error;
    if (kin_members_row(members) == NULL) /* else another thread was quicker */
        error = join(members, deadline);
    kin_local_leave(&members->lock);
    return error;
}

int
kin_members_join(struct kin_members *members, const struct timespec *deadline)
{
    int error = join_once(members, deadline);
    if (error != EUSERS)
        return error;
    error = kin_members_look(members, KIN_LOOK_ALL, deadline);
    return error != 0 ? error : join_once(members, deadline);
}

/* Asked without the watcher. */
static bool
is_over(uint32_t pid, uint64_t start)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return errno == ESRCH || errno == EINVAL;
    bool over = has_ended(pidfd) || kin_is_another(pid, start);
    close(pidfd);
    return over;
}

bool
kin_members_alone(const struct kin_members *members)
{
    const struct kin_member *own = kin_members_row(members);
    for (uint32_t i = 0; i < kin_members_used(members); i++) {
        const struct kin_member *row = &members->state->rows[i];
        uint32_t handles = __atomic_load_n(&row->handles, __ATOMIC_RELAXED);
        if (row == own ? handles != 1
                       : handles != 0 && row->pid != 0 && !is_over(row->pid, row->start))
            return false;
    }
    return own != NULL;
}

/* -------------------------------------------------------------------------------- watching */

static void
forget(struct kin_members *members, struct kin_watched *watched)
{
    if (watched->number != 0)
        kin_watcher_remove(members->terms.watcher, watched->number);
    *watched = (struct kin_watched){0};
}

/* 0, also if it turns out to be dead; or an errno. */
static int
watch(struct kin_members *members, struct kin_watched *watched)
{
    int pidfd = (int)syscall(SYS_pidfd_open, watched->pid, 0);
    if (pidfd < 0 && errno != ESRCH && errno != EINVAL) /* EINVAL: a thread's number by now */
        return errno;
    if (pidfd < 0 || kin_is_another(watched->pid, watched->start)) {
        watched->is_dead = true;
        if (pidfd >= 0)
            close(pidfd);
        return 0;
    }
    struct kin_watch terms = {
        .fd = pidfd,
        .events = EPOLLIN,
        .event_fd = -1,
        .turn = &members->state->turn,
        .told = &watched->told,
        .owns = true,
    };
    watched->pidfd = pidfd;
    int error = kin_watcher_add(members->terms.watcher, &terms, &watched->number);
    if (error != 0) {
        watched->number = 0;
        close(pidfd);
    }
    return error;
}

/* Compares what is known with the rows. Those that are new are to be watched. */
static int
compare(struct kin_members *members, const struct timespec *deadline)
{
    const struct kin_members_state *state = members->state;
    uint32_t changes = atomic_load_explicit(&state->changes, memory_order_acquire);
    if (changes == members->changes)
        return 0;
    if (members->watched == NULL)
        members->watched = calloc(members->count, sizeof *members->watched);
    struct kin_watched *now = calloc(members->count, sizeof *now);
    if (members->watched == NULL || now == NULL) {
        free(now);
        return ENOMEM;
    }
    int error = enter(members, deadline);
    if (error == 0) {
        changes = atomic_load_explicit(&state->changes, memory_order_relaxed);
        for (uint32_t i = 0; i < kin_members_used(members); i++) {
            now[i].pid = state->rows[i].pid;
            now[i].start = state->rows[i].start;
        }
        leave(members);
        const struct kin_member *own = kin_members_row(members);
        for (uint32_t i = 0; i < members->count; i++) {
            struct kin_watched *watched = &members->watched[i];
            if (watched->pid == now[i].pid && watched->start == now[i].start)
                continue;
            forget(members, watched);
            if (&state->rows[i] != own) {
                watched->pid = now[i].pid;
                watched->start = now[i].start;
            }
        }
        members->changes = changes;
    }
    free(now);
    return error;
}

static int
drop(struct kin_members *members, struct kin_watched *watched, const struct timespec *deadline)
{
    struct kin_member *row = &members->state->rows[watched - members->watched];
    int error = enter(members, deadline);
    if (error != 0)
        return error;
    if (is_row_of(row, watched->pid, watched->start) && members->terms.left(members, row, true))
        kin_members_free_row(members, row);
    leave(members);
    forget(members, watched);
    return 0;
}

/* One of the others: watched if it lives, dropped if not. */
static int
look_at(struct kin_members *members, struct kin_watched *watched, enum kin_look how,
        const struct timespec *deadline)
{
    bool told = atomic_load_explicit(&watched->told, memory_order_acquire);
    int error = 0;
    if (watched->number != 0 && told && !has_ended(watched->pidfd)) {
        /* A fork has cost this process its watcher: it acts no more. */
        struct kin_watched again = {.pid = watched->pid, .start = watched->start};
        forget(members, watched);
        *watched = again;
        told = false;
    }
    if (watched->number == 0 && !watched->is_dead)
        error = watch(members, watched);
    if (watched->number != 0 && (told || how == KIN_LOOK_ALL) && has_ended(watched->pidfd))
        watched->is_dead = true;
    return error == 0 && watched->is_dead ? drop(members, watched, deadline) : error;
}

int
kin_members_look(struct kin_members *members, enum kin_look how, const struct timespec *deadline)
{
    int error = lock(members, deadline);
    if (error != 0)
        return error;
    error = compare(members, deadline);
    for (uint32_t i = 0; i < members->count && error == 0 && members->watched != NULL; i++)
        if (members->watched[i].pid != 0)
            error = look_at(members, &members->watched[i], how, deadline);
    kin_local_leave(&members->lock);
    return error;
}

/* ------------------------------------------------------------------------------- the handle */

void
kin_members_format(struct kin_members_state *state, uint32_t count)
{
    __atomic_store_n(&state->count, count, __ATOMIC_RELAXED); /* others may look whether it is blank */
}

bool
kin_members_bind(struct kin_members *members, struct kin_members_state *state, size_t room,
                 const struct kin_members_terms *terms)
{
    *members = (struct kin_members){.state = state, .terms = *terms};
    if (room < sizeof *state)
        return false;
    members->count = __atomic_load_n(&state->count, __ATOMIC_RELAXED);
    members->forks = kin_robust_forks();
    return members->count > 0 && members->count <= KIN_MOST_MEMBERS &&
           room >= kin_members_size(members->count);
}

void
kin_members_close(struct kin_members *members)
{
    kin_members_leave(members);
    if (members->watched != NULL && members->forks == kin_robust_forks())
        for (uint32_t i = 0; i < members->count; i++)
            forget(members, &members->watched[i]);
    free(members->watched);
    *members = (struct kin_members){0};
}
