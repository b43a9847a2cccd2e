/* Who uses an object in shared memory, so that the death of any of them is noticed. See members.c.
 *
 * For what is built upon it, such as the semaphore. In the object, after struct kin_object and whatever else it has, at
 * a multiple of 64 bytes, lies a struct kin_members_state with its rows; in the handle, a struct kin_members:
 *
 *     kin_members_format(state, count)               in the object's kin_object_format
 *     kin_members_bind(&members, state, &terms)      when it is opened; the handle has not joined yet
 *     kin_members_row(&members)                      the own row, or NULL: then kin_members_join, and again
 *     kin_members_close(&members)                    before the memory goes
 *
 * Whoever changes the object has joined before: so others learn of his death. Who waits for a change does
 *
 *     for (;;) {
 *         uint32_t turn = kin_members_turn(&members);              1  before anything is looked at
 *         error = kin_members_look(&members, KIN_LOOK_TOLD, deadline);   2  all others are watched; the dead are dropped
 *         if (error != 0 || whatever it waits for is there)        3
 *             break;
 *         tell the object that somebody sleeps;                    4  if its makers of changes look at that
 *         error = kin_members_sleep(&members, turn, deadline);     5  0: look again; ETIMEDOUT, EINTR: nobody woke it
 *         if (error != 0)
 *             break;
 *     }
 *
 * and who has made a change, afterwards, kin_members_wake(&members, how many). Between 1 and 5 nothing is lost,
 * since a change, a death and a newcomer all count `turn` up before they wake. And if one is killed in between, or
 * after it was woken and before it looked: then that death wakes everybody, and everybody looks again. So no
 * wake-up that the object gives to few is lost with the dead, and nobody sleeps by a clock.
 */

#ifndef KIN_MEMBERS_H
#define KIN_MEMBERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "futex.h"
#include "local_lock.h"
#include "robust.h"
#include "watcher.h"

enum { KIN_MEMBERS = 64, KIN_MOST_MEMBERS = 1024 }; /* rows: by default, and at most */

/* In shared memory: a process that uses the object. Written under the guard, but for what is the object's. */
struct kin_member {
    uint32_t pid;             /* 0: a free row; written last */
    uint32_t handles;         /* how many of the process have joined; 0: it is left to whoever has the guard */
    uint64_t start;           /* ticks since boot, proc_pid_stat(5); 0: not known */
    _Atomic uint64_t balance; /* what the process holds, in the object's own terms; stays when a row becomes free */
    uint64_t reserved[5];     /* for the object, too, and the same holds */
};

/* In shared memory. All zero but for `count` is a table that nobody has used. */
struct kin_members_state {
    _Atomic uint32_t turn;    /* the futex that sleepers of the object sleep on */
    _Atomic uint32_t changes; /* counts rows that were taken or became free */
    uint32_t count;           /* of rows; never changes */
    uint32_t used;            /* rows from there on were never taken */
    uint64_t reserved[6];
    struct kin_member rows[];
};

_Static_assert(sizeof(struct kin_member) == 64, "a cache line: each process writes to its own");
_Static_assert(sizeof(struct kin_members_state) == 64, "a cache line");

static inline size_t
kin_members_size(uint32_t count)
{
    return sizeof(struct kin_members_state) + count * sizeof(struct kin_member);
}

struct kin_members;

/* Called with the guard held for the row of a process that is dead, or whose last handle is closed: takes back what
 * it held, as far as that is due. True if the row may be another's now, which it has to be for one that is dead.
 * Whoever does it may be killed in the middle; then the next one is asked again. It may wake (kin_members_wake). */
typedef bool kin_member_left(struct kin_members *members, struct kin_member *row, bool is_dead);

struct kin_members_terms {
    struct kin_mutex *guard;     /* bound, of this handle */
    struct kin_watcher *watcher; /* the process's one; outlives the handle */
    kin_member_left *left;
};

/* A handle's part, private to its process. Its threads may use it at once; a forked child has its own copy, which
 * has not joined, and watches nothing. */
struct kin_members {
    struct kin_members_state *state;
    struct kin_members_terms terms;
    uint32_t count;          /* of rows */
    _Atomic uint64_t joined; /* which process of those forked, and the number of its row + 1; 0: none */
    struct kin_local_lock lock; /* of the rest */
    uint32_t forks;             /* which process the rest is of */
    uint32_t changes;           /* as of which it is known who is a member */
    struct kin_watched *watched; /* one for each row; NULL as long as it has not looked */
};

/* In the object's format: the rest is zero already, or what a maker who was killed has written, the same. */
void kin_members_format(struct kin_members_state *state, uint32_t count);

/* False: that is no table, or does not fit into so many bytes. */
bool kin_members_bind(struct kin_members *members, struct kin_members_state *state, size_t room,
                      const struct kin_members_terms *terms);

/* Gets this process a row, its own if another handle has one already. 0; EUSERS: all are taken, by the living; or what
 * kin_mutex_lock or kin_members_look says; ETIMEDOUT, EINTR: who has the guard is slow, or stopped. */
int kin_members_join(struct kin_members *members, const struct timespec *deadline);

/* With the guard, by who has joined: nobody else who lives is a member, nor is this process by another handle. It asks
 * the kernel for each; the watcher has no part in it. */
bool kin_members_alone(const struct kin_members *members);

/* This handle has not joined any more. Waits for nobody: false if it was the process's last, and somebody has the guard, who may
 * be stopped. Then what the object's `left` does is to be done by whoever has it next. */
bool kin_members_leave(struct kin_members *members);

/* With the guard: that, for all who have left. Whoever joins does it; an object for which it is urgent sees to it sooner. */
void kin_members_sweep(struct kin_members *members);

/* Leaves, and forgets all that is watched. Nobody is in a call by this handle. It is bound no more. */
void kin_members_close(struct kin_members *members);

enum kin_look {
    KIN_LOOK_TOLD, /* at those that the watcher has told of: enough for who will sleep */
    KIN_LOOK_ALL,  /* at each, by asking the kernel: for who will not */
};

/* Watches all other members, from now on, and drops the rows of the dead. 0; EMFILE and ENFILE: there is no
 * descriptor for one; EAGAIN: no thread for the watcher; ENOMEM; ENOSPC (epoll(7)); or as kin_mutex_lock, whose deadline
 * it is. */
int kin_members_look(struct kin_members *members, enum kin_look how, const struct timespec *deadline);

/* After a reboot, under a lock (kin_object_repair): nobody of then is a member any more. `left` is called for each with
 * is_dead; its `members` is as good as bound, without a watcher. */
void kin_members_repair(struct kin_members *members);

/* For a child, around its fork: see members_fork.c. With the guard held, in the parent: a row for it, which counts as the parent's;
 * false: there is none. */
bool kin_members_beget(struct kin_members *members, uint32_t *number);

/* In the child: the row is its own, and the handle has joined. False: it was taken back, as the parent is dead. */
bool kin_members_adopt(struct kin_members *members, uint32_t number, const struct timespec *deadline);

/* In the parent, once the child has had its time: leaves the row unless it was adopted. Whether there is something to be swept
 * now. */
bool kin_members_disown(struct kin_members *members, uint32_t number);

/* The own row; NULL when this process has not joined by this handle. */
static inline struct kin_member *
kin_members_row(const struct kin_members *members)
{
    /* SYNC POINT: join, in members.c */
    uint64_t joined = atomic_load_explicit(&members->joined, memory_order_acquire);
    if (__builtin_expect((uint32_t)joined == 0 || joined >> 32 != kin_robust_forks(), 0))
        return NULL;
    return &members->state->rows[(uint32_t)joined - 1];
}

static inline uint32_t
kin_members_turn(const struct kin_members *members)
{
    /* SYNC POINT: kin_members_wake */
    return atomic_load_explicit(&members->state->turn, memory_order_acquire);
}

/* 0: look again; ETIMEDOUT and EINTR: no wake-up was meant for this thread. */
static inline int
kin_members_sleep(struct kin_members *members, uint32_t turn, const struct timespec *deadline)
{
    return kin_futex_sleep(&members->state->turn, turn, deadline);
}

/* How many were woken, of at most so many. */
static inline long
kin_members_wake(struct kin_members *members, int most)
{
    /* SYNC POINT: kin_members_turn */
    atomic_fetch_add_explicit(&members->state->turn, 1, memory_order_acq_rel);
    return kin_futex_wake(&members->state->turn, most);
}

#endif
