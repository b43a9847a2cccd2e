/* Staying on one CPU for a moment. See one_cpu.c. */

#ifndef KIN_ONE_CPU_H
#define KIN_ONE_CPU_H

#include <stdbool.h>
#include <stddef.h>

enum { KIN_CPUS = 8192, KIN_CPU_WORDS = KIN_CPUS / (8 * sizeof(unsigned long)) };

struct kin_one_cpu {
    unsigned long every[KIN_CPU_WORDS]; /* as sched_getaffinity(2) tells an unbound process */
    bool usable;
};

void kin_one_cpu_init(struct kin_one_cpu *cpus);

/* Binds the calling thread to the CPU that it runs on. False: it may not run on every one, and stays
 * as it is. */
bool kin_one_cpu_stay(const struct kin_one_cpu *cpus);

/* What sched_setaffinity(2) takes to undo it, also in a child. */
extern const unsigned long KIN_EVERY_CPU[KIN_CPU_WORDS];

/* Undoes it. */
void kin_one_cpu_leave(void);

#endif
