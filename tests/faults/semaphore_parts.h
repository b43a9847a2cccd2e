/* What one process does with a semaphore in the cases of semaphore_cases.c: opens it, joins, takes, gives.
 *
 * It has ALL. Whoever takes ALL afterwards finds all there is, and no more. With -DKEEPS what the dead took does not
 * come back: the negative control.
 */

#ifndef SEMAPHORE_PARTS_H
#define SEMAPHORE_PARTS_H

#include "harness.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "semaphore_word.h"

enum { ALL = 2, MANY = 40, MEMBERS = 12, TURNS = 200 };

#ifdef KEEPS
enum { KEPT = 1 };
#else
enum { KEPT = 0 };
#endif

struct shared {
    _Alignas(64) char object[2048];
    _Atomic uint32_t go, taken;
    pid_t victim, other;
};

/* Each process has its own copy. */
static struct kin_semaphore semaphore;
static struct kin_watcher watcher;
static uint32_t all = ALL;

/* ---------------------------------------------------------------------------- the semaphore */

static inline void
open_of(struct shared *shared, uint32_t initial)
{
    struct kin_semaphore_terms terms = {initial, initial ? initial : ALL, KEPT, MEMBERS};
    if (semaphore.state != NULL)
        return;
    if (kin_watcher_init(&watcher) != 0 ||
        kin_semaphore_open(&semaphore, shared->object, sizeof shared->object, &terms, &watcher,
                           NULL) != KIN_SOUND)
        violated("the semaphore can't be opened");
    all = semaphore.initial;
}

static inline void
opens(void *memory)
{
    open_of(memory, ALL);
}

/* … and has a thread that watches: its making is thousands of instructions of libc's. */
static inline void
opens_warm(void *memory)
{
    struct kin_watch never = {.fd = eventfd(0, 0), .event_fd = -1, .owns = true};
    uint64_t number = 0;
    opens(memory);
    if (kin_watcher_add(&watcher, &never, &number) != 0)
        violated("can't watch");
}

/* … and is a member that watches the others. */
static inline void
joins(void *memory)
{
    uint32_t value;
    opens(memory);
    if (kin_members_join(&semaphore.members, NULL) != 0 || kin_semaphore_value(&semaphore, &value) != 0)
        violated("can't join");
}

static inline void
take(uint32_t count)
{
    int error;
    do
        error = kin_semaphore_acquire(&semaphore, count, NULL, NULL);
    while (error == EINTR);
    if (error != 0)
        violated("can't take");
}

static inline void
give(uint32_t count)
{
    if (kin_semaphore_release(&semaphore, count) != 0)
        violated("can't give back what was taken");
}

/* ------------------------------------------------------------------------ taking and giving */

static inline void
prepare(void *memory)
{
    open_of(memory, ALL);
    kin_semaphore_close(&semaphore);
}

static inline void
prepare_many(void *memory)
{
    open_of(memory, MANY);
    kin_semaphore_close(&semaphore);
}

static inline void
prepare_none(void *memory)
{
    open_of(memory, 0);
    kin_semaphore_close(&semaphore);
}

static inline void
joins_and_takes(void *memory)
{
    joins(memory);
    take(1);
}

static inline void
joins_and_takes_all(void *memory)
{
    joins(memory);
    take(all);
}

static inline void
takes(void *memory)
{
    (void)memory;
    take(1);
}

static inline void
takes_all(void *memory)
{
    (void)memory;
    take(all);
}

static inline void
gives(void *memory)
{
    (void)memory;
    give(1);
}

static inline void
gives_all(void *memory)
{
    (void)memory;
    give(all);
}

static inline void
takes_and_gives(void *memory)
{
    (void)memory;
    take(1);
    give(1);
}

static inline void
takes_and_gives_twice(void *memory)
{
    takes_and_gives(memory);
    takes_and_gives(memory);
}

/* All of them is all there is. */
static inline void
takes_and_gives_all(void *memory)
{
    (void)memory;
    take(all);
    if (kin_semaphore_try(&semaphore, 1) != EBUSY)
        violated("there is more than there was");
    give(all);
}

static inline void
takes_turns(void *memory)
{
    (void)memory;
    for (int i = 0; i < TURNS; i++) {
        uint32_t count = 1 + (uint32_t)i % all;
        take(count);
        give(count);
    }
}

static inline void
takes_turns_for_ever(void *memory)
{
    for (;;)
        takes_turns(memory);
}

#endif
