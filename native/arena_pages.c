/* The memory of blocks: units have none until they are first used, and a process maps what it has not used yet.
 *
 * Rules:
 * 1. The kernel gives memory, or says ENOSPC, before anybody writes: a touch never fails.
 * 2. What this process has mapped is remembered, a bit a unit: it is asked for once.
 */

#include <errno.h>
#include <sys/mman.h>

#include "arena_inside.h"

#ifndef MADV_POPULATE_READ /* Linux 5.14; headers may be older */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum { BITS = 64 };

/* The first unit from this one on, up to an end, that this process has not used yet. A block may have thousands. */
static uint32_t
first_new(const struct kin_arena *arena, uint32_t unit, uint32_t end)
{
    while (unit < end) {
        uint64_t had = atomic_load_explicit(&arena->had[unit / BITS], memory_order_relaxed) >> unit % BITS;
        uint32_t run = ~had == 0 ? BITS : (uint32_t)__builtin_ctzll(~had);
        if (run == 0)
            return unit;
        unit += run;
    }
    return end;
}

/* `how`: of madvise(2). 0 or an errno. */
static int
populate(struct kin_arena *arena, const struct kin_block *block, int how)
{
    uint32_t end = block->unit + kin_arena_units_for(arena, block->length);
    uint32_t unit = first_new(arena, block->unit, end);
    if (unit == end)
        return 0;
    uint64_t size = (end - unit) * arena->shape.unit;
    while (madvise(arena->blocks + unit * arena->shape.unit, size, how) < 0)
        if (errno != EINTR && errno != EAGAIN)
            return errno;
    for (; unit < end; unit++)
        atomic_fetch_or_explicit(&arena->had[unit / BITS], kin_arena_bit(unit), memory_order_relaxed);
    return 0;
}

int
kin_arena_populate(struct kin_arena *arena, const struct kin_block *block)
{
    return populate(arena, block, MADV_POPULATE_WRITE);
}

void
kin_arena_touch(struct kin_arena *arena, const struct kin_block *block)
{
    populate(arena, block, MADV_POPULATE_READ); /* else each page comes when it is read */
}
