/* What a process holds of an arena, when it forks: the child holds it too, from before it runs.
 *
 *     parent                                          child
 *     prepare    a row more, of the parent's: the child's blocks
 *     fork ─────────────────────────────────────────> the row becomes its own
 *     goes on when it has, or is dead  <───────────── a pipe says so
 *
 * Rules:
 * 1. Each handle has a row of its own made, with what was got by that handle. A process that holds nothing pays nothing.
 * 2. Until the child has it, the row is the parent's, who waits: a block is never without a row that lives.
 * 3. When there is no row, or the parent was killed before the child had it, or somebody who is stopped has the guard, the child's
 *    views lead nowhere (SIGSEGV): never to the memory of another message. A fork is not kept waiting.
 * 4. What is inherited is held as a receiver holds it, also what was reserved: it can be looked at, and not be sent.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena_inside.h"
#include "futex.h"
#include "local_lock.h"

enum { WORDS = KIN_ARENA_MOST_UNITS / 64 };

struct known {
    struct known *next;
    struct kin_arena *arena;
    uint32_t row; /* of the child that is about to be; + 1 */
};

static struct kin_local_lock lock; /* also held from before a fork until after it */
static struct known *all;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int born[2] = {-1, -1}; /* a pipe, during a fork */

enum { PATIENCE = 1 }; /* seconds that a fork may take, if somebody has a guard who is stopped */

static struct timespec
soon(void)
{
    return kin_timespec(kin_now() + (uint64_t)PATIENCE * KIN_SECOND);
}

static bool
holds_any(struct kin_arena *arena)
{
    uint64_t any = 0;
    for (int i = 0; i < WORDS; i++)
        any |= atomic_load_explicit(&arena->own[i], memory_order_relaxed);
    return any != 0 && kin_members_row(&arena->members) != NULL;
}

/* ----------------------------------------------------------------------------------- the parent */

static void
beget(struct known *known, const struct timespec *deadline)
{
    struct kin_arena *arena = known->arena;
    uint32_t row;
    int error;
    do
        error = kin_mutex_lock(&arena->guard, deadline);
    while (error == EINTR);
    if (error != 0 && error != EOWNERDEAD)
        return;
    if (kin_members_beget(&arena->members, &row)) {
        for (uint32_t unit = 0; unit < arena->shape.units; unit += 64) {
            _Atomic uint64_t *word = kin_arena_hold_word(arena, row, KIN_HOLD_RECEIVES, unit);
            atomic_store_explicit(word, atomic_load(&arena->own[unit / 64]), memory_order_release);
        }
        known->row = row + 1;
    }
    kin_mutex_unlock(&arena->guard);
}

static void
before(void)
{
    bool any = false;
    const struct timespec deadline = soon();
    kin_local_enter(&lock);
    for (struct known *one = all; one != NULL; one = one->next) {
        one->row = 0;
        if (holds_any(one->arena)) {
            beget(one, &deadline);
            any = true;
        }
    }
    if (any && pipe2(born, O_CLOEXEC) < 0)
        born[0] = born[1] = -1;
}

static void
after_in_parent(void)
{
    int error = errno; /* the fork's */
    char byte;
    if (born[0] >= 0) {
        close(born[1]);
        while (read(born[0], &byte, 1) < 0 && errno == EINTR)
            ;
        close(born[0]);
        born[0] = born[1] = -1;
    }
    for (struct known *one = all; one != NULL; one = one->next)
        if (one->row != 0 && kin_members_disown(&one->arena->members, one->row - 1))
            kin_arena_tidy(one->arena);
    kin_local_leave(&lock);
    errno = error;
}

/* ------------------------------------------------------------------------------------ the child */

/* Rule 3. */
static void
lose(struct kin_arena *arena)
{
    for (uint32_t unit = 0; unit < arena->shape.units; unit++)
        if (atomic_load(&arena->own[unit / 64]) & UINT64_C(1) << unit % 64) {
            uint32_t units = kin_arena_length_at(arena, unit, kin_arena_word(arena, unit));
            mmap(arena->blocks + unit * arena->shape.unit,
                 (units == 0 ? 1 : units) * arena->shape.unit, PROT_NONE,
                 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        }
}

static void
after_in_child(void)
{
    const struct timespec deadline = soon();
    for (struct known *one = all; one != NULL; one = one->next) {
        struct kin_arena *arena = one->arena;
        uint32_t forks = kin_robust_forks();
        bool had_any = false;
        for (int i = 0; i < WORDS; i++)
            had_any |= atomic_load_explicit(&arena->own[i], memory_order_relaxed) != 0;
        if (!had_any)
            continue;
        if (one->row != 0 && kin_members_adopt(&arena->members, one->row - 1, &deadline)) {
            if (arena->inherited_by != forks - 1)
                arena->inherited_from = forks - 1;
            arena->inherited_by = forks;
        } else {
            lose(arena);
            for (int i = 0; i < WORDS; i++)
                atomic_store_explicit(&arena->own[i], 0, memory_order_relaxed);
        }
    }
    if (born[0] >= 0) {
        close(born[0]);
        close(born[1]);
        born[0] = born[1] = -1;
    }
}

/* -------------------------------------------------------------------------------------- knowing */

static void
prepare(void)
{
    kin_thread(); /* its handler comes first in the child, where it counts the fork */
    pthread_atfork(before, after_in_parent, after_in_child);
}

bool
kin_arena_know(struct kin_arena *arena)
{
    struct known *known = malloc(sizeof *known);
    if (known == NULL)
        return false;
    pthread_once(&once, prepare);
    kin_arena_forget(arena); /* one that was not closed may have been there */
    kin_local_enter(&lock);
    *known = (struct known){all, arena, 0};
    all = known;
    kin_local_leave(&lock);
    return true;
}

void
kin_arena_forget(const struct kin_arena *arena)
{
    kin_local_enter(&lock);
    for (struct known **one = &all; *one != NULL; one = &(*one)->next)
        if ((*one)->arena == arena) {
            struct known *known = *one;
            *one = known->next;
            free(known);
            break;
        }
    kin_local_leave(&lock);
}
