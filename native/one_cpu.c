/* Staying on one CPU for a moment: while a keeper makes a child by vfork.
 *
 *     owner, CPU 0    sendmsg ── about to sleep, but runnable still: the keeper has come first
 *     keeper, CPU 0   vfork ── two are runnable here, so the child is put on CPU 1
 *     CPU 1           busy with something else, for the rest of its time slice: 3 ms
 *
 * All three wait for one another, so one CPU is enough for them, and the caches are warm there. From
 * execve on the child may run anywhere, and the kernel looks for the best place again.
 *
 * Rules:
 * 1. Only where nothing restricts the thread: it may run on every CPU that is online. A mask that was
 *    set once restricts a process for ever, also when its cpuset grows; one of all ones does not.
 * 2. What somebody else has set meanwhile (taskset(1)) is left alone.
 */

#include "one_cpu.h"

#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BITS = 8 * sizeof(unsigned long) };

/* Every bit, and the kernel ignores those that stand for nothing. */
#define ONES_8 ~0UL, ~0UL, ~0UL, ~0UL, ~0UL, ~0UL, ~0UL, ~0UL
#define ONES_64 ONES_8, ONES_8, ONES_8, ONES_8, ONES_8, ONES_8, ONES_8, ONES_8
const unsigned long KIN_EVERY_CPU[KIN_CPU_WORDS] = {
    ONES_64,
    ONES_64,
#if __SIZEOF_LONG__ == 4
    ONES_64,
    ONES_64,
#endif
};

/* False when the kernel knows more CPUs than there is room for, or nothing of it. */
static bool
look(unsigned long *mask)
{
    memset(mask, 0, KIN_CPUS / 8);
    return syscall(SYS_sched_getaffinity, 0, KIN_CPUS / 8, mask) > 0;
}

static bool
bind_to(const unsigned long *mask)
{
    return syscall(SYS_sched_setaffinity, 0, KIN_CPUS / 8, mask) == 0;
}

void
kin_one_cpu_init(struct kin_one_cpu *cpus)
{
    long count = 0;
    cpus->usable = look(cpus->every);
    for (size_t i = 0; i < KIN_CPU_WORDS; i++)
        count += __builtin_popcountl(cpus->every[i]);
    if (count < 2 || count != sysconf(_SC_NPROCESSORS_ONLN))
        cpus->usable = false;
}

bool
kin_one_cpu_stay(const struct kin_one_cpu *cpus)
{
    unsigned long mask[KIN_CPU_WORDS];
    int here = sched_getcpu();
    if (!cpus->usable || here < 0 || here >= KIN_CPUS || !look(mask) ||
        memcmp(mask, cpus->every, sizeof mask) != 0)
        return false;
    memset(mask, 0, sizeof mask);
    mask[(size_t)here / BITS] = 1UL << ((size_t)here % BITS);
    return bind_to(mask);
}

void
kin_one_cpu_leave(void)
{
    bind_to(KIN_EVERY_CPU);
}
