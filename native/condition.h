/* The condition: waiting, without a mutex, for what happens under it. See condition.c. */

#ifndef KIN_CONDITION_H
#define KIN_CONDITION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "members.h"
#include "mutex.h"
#include "sync_object.h"

/* In shared memory, behind struct kin_object. */
struct kin_condition_state {
    _Atomic uint32_t notified; /* counts what wakes: notifies, and deaths */
    _Atomic uint32_t sleepers; /* 1: somebody may sleep; of whoever holds the mutex */
    _Atomic uint64_t mutex;    /* the identity of the one that all use; written under the guard */
    uint64_t reserved[6];
};

struct kin_condition_object {
    struct kin_object object;
    struct kin_condition_state state;
    struct kin_object mutex; /* for those who bring none: a Mutex in itself, which is opened as such */
    struct kin_members_state members; /* and its rows */
};

_Static_assert(sizeof(struct kin_condition_state) == 64, "a cache line");

/* A handle, private to its process, whose threads may use it at once. It stays where it is while it is open. */
struct kin_condition {
    struct kin_condition_state *state;
    struct kin_members members;
    struct kin_mutex guard;
};

/* One wait. */
struct kin_condition_wait {
    struct kin_mutex *mutex;
    uint32_t seen; /* `notified`, when it began */
    bool released; /* the mutex is */
};

size_t kin_condition_size(uint32_t members);

/* Opens the condition that lies in `memory`, of which `room` bytes are there; makes it, for so many members,
 * if they are zero. */
enum kin_finding kin_condition_open(struct kin_condition *condition, void *memory, size_t room,
                                    uint32_t members, struct kin_watcher *watcher,
                                    const struct timespec *patience);

/* After KIN_OTHER_BOOT, under a lock: as kin_object_repair. The mutex in it is for itself. */
void kin_condition_repair(void *memory, size_t room);

/* No thread of this process is in a call by this handle. */
void kin_condition_close(struct kin_condition *condition);

/* Makes this process a member, if it is none: before it changes anything for which others wait. 0; EUSERS: there
 * are as many as there can be; or as kin_members_look, kin_mutex_lock. */
int kin_condition_join(struct kin_condition *condition, const struct timespec *deadline);

/* Waiting is three steps, so that what a signal handler does may come in between:
 *
 *     error = kin_condition_begin(&condition, &mutex, &wait, deadline); 0; else the mutex is held as before
 *     while ((error = kin_condition_sleep(&condition, &wait, deadline)) == EINTR)
 *         …                                                             the mutex is not held
 *     kin_mutex_take(&mutex, …)                                         as often as it takes
 *     kin_condition_was_notified(&condition, &wait)                     the result, for sure
 *
 * begin: 0; EPERM: the mutex is not held by this thread and handle; EMEDIUMTYPE: others use the condition with
 *        another one; EILSEQ; or as `join`, kin_members_look: ETIMEDOUT, EINTR: who has the guard is slow, or stopped.
 * sleep: 0; ETIMEDOUT at `deadline` on CLOCK_MONOTONIC, NULL: never; EINTR; or as kin_members_look.
 */
int kin_condition_begin(struct kin_condition *condition, struct kin_mutex *mutex,
                        struct kin_condition_wait *wait, const struct timespec *deadline);
int kin_condition_sleep(struct kin_condition *condition, struct kin_condition_wait *wait,
                        const struct timespec *deadline);
bool kin_condition_was_notified(const struct kin_condition *condition,
                                const struct kin_condition_wait *wait);

/* Wakes as many of those who wait, at least. 0; EPERM, EMEDIUMTYPE: as begin; or as `join`. */
int kin_condition_notify(struct kin_condition *condition, const struct kin_mutex *mutex, int count,
                         const struct timespec *deadline);

/* Wakes all, whoever holds the mutex: there is none any more. */
void kin_condition_wake(struct kin_condition *condition);

#endif
