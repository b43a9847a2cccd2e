/* Waiting for the kernel's own semaphores, sem_t and System V's. See kernel_semaphores.c. */

#ifndef KIN_KERNEL_SEMAPHORES_H
#define KIN_KERNEL_SEMAPHORES_H

#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ipc.h>
#include <sys/sem.h>

#include "sysv_wait.h"

/* A sem_t for several processes, as sem_init(3) makes it, in memory that nobody else has yet. False: there can't be
 * such a value. */
bool kin_sem_make(sem_t *semaphore, unsigned value);

/* Whether such a one lies there, as far as can be told: blank memory, or one for a single process, is none. */
bool kin_sem_is_one(const sem_t *semaphore);

/* 0, or an errno: a struct for kin_sem_wait. */
int kin_sem_wait_init(struct kin_wait *wait);

/* Waits for up to `milliseconds` and takes one. KIN_WAIT_DONE when it has; KIN_WAIT_AGAIN when it has not: a wake, a
 * signal, the time; or -errno. kin_wait_wake ends it. */
int kin_sem_wait(struct kin_wait *wait, sem_t *semaphore, int milliseconds);

/* The same for operations on a System V set, all of them at once. Of kin_wait_init. */
int kin_set_wait(struct kin_wait *wait, int set, struct sembuf *operations, size_t count,
                 int milliseconds);

#endif
