/* Spinning: looking again and again for something that another CPU is about to do. */

#ifndef KIN_SPIN_H
#define KIN_SPIN_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

/* Whether another CPU can do anything meanwhile. */
static inline bool
kin_several_cpus(void)
{
    static _Atomic int known; /* 1: one, 2: several */
    int count = atomic_load_explicit(&known, memory_order_relaxed);
    if (count == 0) {
        cpu_set_t set;
        count = sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1 ? 1 : 2;
        atomic_store_explicit(&known, count, memory_order_relaxed);
    }
    return count > 1;
}

/* Between two looks: lets the other thread of this core, and the bus, have their turn. */
static inline void
kin_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

#endif
