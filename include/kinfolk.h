/* kinfolk for C programs: the robust mutex, the same that kinfolk.Mutex takes in Python.
 *
 *     pkg-config --cflags --libs kinfolk        (see docs/howto/c-programs.md)
 *
 * A mutex lies in memory that processes share: KIN_MUTEX_SIZE bytes, at a multiple of
 * KIN_MUTEX_ALIGNMENT, zeroed before its first use. A process reaches it by a struct kin_mutex of its
 * own, its *handle*, which any of its threads may use.
 *
 *     struct kin_mutex mutex;
 *     if (kin_mutex_open(&mutex, memory, size) != KIN_SOUND) …
 *     int error = kin_mutex_lock(&mutex, NULL);
 *     if (error == EOWNERDEAD)                  the lock is held, and what it guards may be half done
 *         repair();
 *     if (error == 0 || error == EOWNERDEAD)
 *         kin_mutex_unlock(&mutex);
 *
 * It belongs to the thread that locked it. When that thread ends without unlocking, by SIGKILL or by
 * returning, the kernel releases it (set_robust_list(2)), and the next one is told.
 *
 * 64-bit Linux with glibc. Whoever may write to the memory can do to the processes that use it what
 * it likes, as with a robust pthread_mutex_t: share it with nobody that you do not trust.
 */

#ifndef KINFOLK_H
#define KINFOLK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_MUTEX_SIZE = 128, KIN_MUTEX_ALIGNMENT = 64 };

/* What kin_mutex_open finds. */
enum kin_finding {
    KIN_SOUND = 0,
    KIN_MISPLACED,         /* not at a multiple of the alignment, or the memory ends before it */
    KIN_ALIEN,             /* neither zeroed nor written by kinfolk, or damaged */
    KIN_OTHER_VERSION,     /* by a kinfolk with another layout */
    KIN_OTHER_KIND,        /* another kind of object, or one of another size */
    KIN_OTHER_NAMESPACE,   /* of another pid namespace, whose thread ids mean nothing here */
    KIN_OTHER_BOOT,        /* of the time before the last boot: kin_mutex_repair */
    KIN_UNSUPPORTED,       /* this thread has no robust list: not started by glibc */
    KIN_TOO_MANY,          /* it is blank, and this thread holds too many to make it */
    KIN_EXHAUSTED,         /* there is no descriptor, or memory, to find out which boot this is */
    KIN_BEING_MADE,        /* a thread that lives has been making it for 5 s: was it stopped? */
    KIN_INTERRUPTED,       /* by a signal handler; kin_mutex_open goes on, and never says so */
};

struct kin_mutex_state; /* in shared memory; native/mutex.h draws it */

/* A handle. Its fields are private; it stays where it is while it is open, and is not shared. */
struct kin_mutex {
    struct kin_mutex_state *state;
    uint64_t pid_namespace;
    uint64_t holder;         /* the thread of this process that holds it, and which process */
    uint64_t last;           /* the word as it was when it was locked last */
    struct kin_mutex *older; /* what the holder locked before, and holds */
    void *below;             /* what stood on the holder's robust list before */
    int owner_died;          /* whether the holder was told so */
    int spins;               /* how long spinning has paid, lately */
};

/* Opens the mutex that lies in `memory`, of which `room` bytes are there; makes it if they are zero. */
enum kin_finding kin_mutex_open(struct kin_mutex *mutex, void *memory, size_t room);

/* After KIN_OTHER_BOOT: makes it usable again; who held it then counts as dead. The caller sees to it
 * that nobody else does the same, or uses it, meanwhile. */
void kin_mutex_repair(void *memory);

/* 0 or EBUSY: a thread of this process holds it. Afterwards its memory may be unmapped. */
int kin_mutex_close(struct kin_mutex *mutex);

/* Locks, waiting until `deadline` on CLOCK_MONOTONIC, or for ever (NULL). It is held afterwards if
 * this returned 0 or EOWNERDEAD, and else is not:
 *     0
 *     EOWNERDEAD       locked, and the last holder ended while it held it
 *     ETIMEDOUT
 *     EINTR            a signal handler has run
 *     EDEADLK          this thread holds it already
 *     ENOTRECOVERABLE  somebody has given it up
 *     EXDEV            this process, by now, is in another pid namespace than the mutex
 *     ENOTSUP          this thread has no robust list
 *     ENOLCK           this thread holds 1,024 already
 *     EILSEQ           the memory was overwritten while this thread held it
 */
int kin_mutex_lock(struct kin_mutex *mutex, const struct timespec *deadline);

/* The same without waiting: EBUSY when it is held. */
int kin_mutex_trylock(struct kin_mutex *mutex);

/* 0; EPERM: this thread does not hold it, by this handle; EILSEQ: the memory was overwritten. */
int kin_mutex_unlock(struct kin_mutex *mutex);

/* Unlocks for good: from now on everybody gets ENOTRECOVERABLE, sleepers too. As unlock. */
int kin_mutex_give_up(struct kin_mutex *mutex);

/* The thread id of whoever holds it just now; 0 when nobody does. */
uint32_t kin_mutex_holder(const struct kin_mutex *mutex);

/* Whether the calling thread holds it and got EOWNERDEAD when it locked. */
int kin_mutex_owner_died(const struct kin_mutex *mutex);

#ifdef __cplusplus
}
#endif

#endif
