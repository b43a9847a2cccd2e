/* The event: what has come about, or not yet. See event.c. */

#ifndef KIN_EVENT_H
#define KIN_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "sync_object.h"

/* In shared memory. */
struct kin_event_state {
    _Atomic uint64_t word; /* event.c draws it; the kernel looks at the lower half */
    uint64_t reserved[7];
};

struct kin_event_object {
    struct kin_object object;
    struct kin_event_state state;
};

/* By which another thread of this process ends a wait. All zero at first, and good for one wait. */
struct kin_event_stop {
    _Atomic uint32_t wanted;
    _Atomic uint32_t inside; /* a futex of this process */
};

/* Opens the event that lies in `memory`, making one that is not set if it is blank. */
enum kin_finding kin_event_open(struct kin_event_state **event, void *memory, size_t room,
                                const struct timespec *patience);

/* After KIN_OTHER_BOOT, under a lock: as kin_object_repair. It stays set, or not. */
void kin_event_repair(void *memory);

bool kin_event_is_set(const struct kin_event_state *event);

/* Lets everybody who waits go, and who will wait, until it is cleared. 0 or ENOTSUP. */
int kin_event_set(struct kin_event_state *event);

void kin_event_clear(struct kin_event_state *event);

/* What a wait that begins now waits out, however often it is interrupted. */
uint64_t kin_event_round(const struct kin_event_state *event);

/* Whether it is set, or has been since that round. */
bool kin_event_has_come(const struct kin_event_state *event, uint64_t round);

/* Waits until it has come, since that round. `stop` may be NULL.
 *     0
 *     ETIMEDOUT  at `deadline` on CLOCK_MONOTONIC; NULL: never
 *     EINTR      a signal handler has run
 *     ECANCELED  by kin_event_stop_wait
 *     ENOTSUP    this thread has no robust list
 */
int kin_event_wait(struct kin_event_state *event, uint64_t round, const struct timespec *deadline,
                   struct kin_event_stop *stop);

/* When this returns, whoever waits by `stop` has left, or will not sleep. */
void kin_event_stop_wait(struct kin_event_state *event, struct kin_event_stop *stop);

#endif
