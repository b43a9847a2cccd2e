/* The semaphore: a count from which several may take, and to which what a dead process took comes
 * back. See semaphore.c. Not called semaphore.h: with -Inative that would hide <semaphore.h>. */

#ifndef KIN_SEMAPHORE_H
#define KIN_SEMAPHORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "members.h"
#include "sync_object.h"

enum {
    KIN_SEMAPHORE_MOST = (1 << 24) - 1, /* as a value */
    KIN_MOST_HELD = 1 << 30,            /* by one process */
    KIN_SEMAPHORE_PATIENCE = 50000000,  /* nanoseconds */
};

/* In shared memory, behind struct kin_object; semaphore_word.h draws the word. */
struct kin_semaphore_state {
    _Atomic uint64_t word;
    _Atomic int32_t intent;     /* what is due, when it does not fit into the word; written under the guard */
    _Atomic uint32_t starving;  /* as in a mutex */
    uint32_t initial, maximum;  /* values */
    uint32_t keeps;             /* 1: what the dead took does not come back */
    uint32_t unused;
    uint64_t reserved[4];
};

struct kin_semaphore_object {
    struct kin_object object;
    struct kin_semaphore_state state;
    struct kin_members_state members; /* and its rows */
};

_Static_assert(sizeof(struct kin_semaphore_state) == 64, "a cache line");

/* How one is made; who finds one made takes it as it is. */
struct kin_semaphore_terms {
    uint32_t initial, maximum; /* values */
    uint32_t keeps;
    uint32_t members; /* rows */
};

/* A handle, private to its process, whose threads may use it at once. It stays where it is while it is open. */
struct kin_semaphore {
    struct kin_semaphore_state *state;
    struct kin_members members;
    struct kin_mutex guard;
    uint32_t initial, maximum, keeps; /* copies: the state may be overwritten */
    int spins;                        /* how long spinning has paid, lately */
};

/* By which another thread ends a wait. All zero at first. */
struct kin_semaphore_stop {
    _Atomic bool wanted;
};

size_t kin_semaphore_size(uint32_t members);

/* Opens the semaphore that lies in `memory`, of which `room` bytes are there; makes it if they are zero. */
enum kin_finding kin_semaphore_open(struct kin_semaphore *semaphore, void *memory, size_t room,
                                    const struct kin_semaphore_terms *terms,
                                    struct kin_watcher *watcher, const struct timespec *patience);

/* After KIN_OTHER_BOOT, under a lock: as kin_object_repair. All who took are dead. */
void kin_semaphore_repair(void *memory, size_t room);

/* No thread of this process is in a call by this handle. What the process holds it holds on. */
void kin_semaphore_close(struct kin_semaphore *semaphore);

/* One, if it can be had at once and without a system call: else EBUSY, and kin_semaphore_acquire has to see to it. */
int kin_semaphore_take_one(struct kin_semaphore *semaphore);

/* Takes `count`, waiting until `deadline` on CLOCK_MONOTONIC, or for ever (NULL). `stop` may be NULL.
 *     0
 *     ETIMEDOUT
 *     EINTR      a signal handler has run
 *     ECANCELED  by kin_semaphore_stop_wait
 *     EUSERS     as many processes use it as it has rows
 *     ERANGE     this process holds KIN_MOST_HELD
 *     EILSEQ     the memory was overwritten
 *     else       as kin_members_look, kin_mutex_lock
 */
int kin_semaphore_acquire(struct kin_semaphore *semaphore, uint32_t count,
                          const struct timespec *deadline, struct kin_semaphore_stop *stop);

/* The same without waiting: EBUSY when there are not so many, also after the dead were looked for, if that takes no more than
 * KIN_SEMAPHORE_PATIENCE: who has the guard may be stopped. */
int kin_semaphore_try(struct kin_semaphore *semaphore, uint32_t count);

/* Whoever waits by `stop`, or is about to, leaves soon. */
void kin_semaphore_stop_wait(struct kin_semaphore *semaphore, struct kin_semaphore_stop *stop);

/* Gives one back without more than a wake-up: else EBUSY, and kin_semaphore_release has to see to it. */
int kin_semaphore_give_one(struct kin_semaphore *semaphore);

/* Gives back, or adds, `count`. 0; or nothing was given: EOVERFLOW: it would be more than the maximum; EINTR: a signal handler
 * ran while somebody had the guard, for whom it waits; or as acquire. */
int kin_semaphore_release(struct kin_semaphore *semaphore, uint32_t count);

/* How many are there; what the dead took is looked for first, for as long. */
int kin_semaphore_value(struct kin_semaphore *semaphore, uint32_t *value);

/* How many a process has taken more than it gave. */
int32_t kin_semaphore_held(struct kin_semaphore *semaphore, const struct kin_member *row);

/* The value without a look for the dead. */
uint32_t kin_semaphore_now(const struct kin_semaphore *semaphore);

#endif
