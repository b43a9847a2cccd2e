/* Spinning: looking again and again for something that another CPU is about to do. */

#ifndef KIN_SPIN_H
#define KIN_SPIN_H

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
