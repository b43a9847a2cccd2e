/* The calling thread's robust list, shared with glibc: by it the kernel releases what a thread that
 * ended still held (set_robust_list(2), Documentation/locking/robust-futex-ABI).
 *
 * A thread has one list, and glibc has registered it for its own robust mutexes; to register another
 * would take theirs away. So ours are linked into the same one, and look like theirs:
 *
 *      struct pthread                  a mutex of ours              a pthread_mutex_t
 *      ┌─────────────┐                 ┌─────────────┐              ┌─────────────┐
 *      │             │               0 │ word        │            0 │ __lock      │
 *      │ robust_prev │                 │     …       │              │     …       │
 *      │ list.next ──┼──────┐       24 │ prev        │ ┌─┐       24 │ __prev      │
 *      │ futex_offset│      └─────> 32 │ next ───────┼─┘ └────> 32  │ __next ─────┼──> list.next
 *      │ pending     │                 └─────────────┘              └─────────────┘
 *      └─────────────┘     `prev` points the same way back, to the `next` of the previous one
 *
 * Rules:
 * 1. `pending` names the node from before the word changes hands until the list says so too: at every
 *    instruction in between the kernel finds it by one of the two (robust-futexes.rst).
 * 2. The kernel looks from the same thread's point of view: the compiler must keep the order, the
 *    processor keeps it by itself.
 * 3. A node lies in memory that others may overwrite. Before it is unlinked, its pointers are compared
 *    with what this process remembers (`older`, `below`); a difference is believed only if the
 *    neighbours agree, which is looked up by process_vm_readv(2), because they may be nowhere. glibc
 *    makes such differences when its mutexes stand between ours; so does a program that zeroes the
 *    memory of a mutex that it holds, and that must not make us write to address 0.
 * 4. A forked child has one thread and an empty list (glibc sees to that); it has a new identity.
 *
 * The offset is checked in each thread. It is that of every 64-bit glibc; musl links its list another way.
 */

#include "robust.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef __GLIBC__
#error "kinfolk shares the robust list with glibc, and with no other C library"
#endif

_Static_assert(sizeof(void *) == 8, "the layout of a robust mutex is known for 64 bits only");

#define NEXT_OFFSET (KIN_ROBUST_NODE_OFFSET + (long)offsetof(struct kin_robust_node, next))

_Thread_local struct kin_thread kin_this_thread;

/* ------------------------------------------------------------------------------ who this is */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic uint32_t forks;

static void
begin_child(void)
{
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
    if (kin_this_thread.head != NULL)
        kin_this_thread.head->list_op_pending = NULL; /* the one thing that glibc leaves */
    kin_this_thread = (struct kin_thread){0};
}

static void
prepare(void)
{
    pthread_atfork(NULL, NULL, begin_child);
}

struct kin_thread *
kin_thread_begin(void)
{
    struct kin_thread *thread = &kin_this_thread;
    size_t length = 0;
    struct stat space;
    pthread_once(&once, prepare);
    if (syscall(SYS_get_robust_list, 0, &thread->head, &length) < 0 || thread->head == NULL ||
        length != sizeof *thread->head ||
        thread->head->futex_offset != -NEXT_OFFSET)
        return NULL;
    thread->pid_namespace = stat("/proc/self/ns/pid", &space) == 0 ? space.st_ino : 0;
    uint32_t tid = (uint32_t)syscall(SYS_gettid);
    thread->identity = (uint64_t)kin_robust_forks() << 32 | tid;
    thread->tid = tid;
    return thread;
}

uint32_t
kin_robust_forks(void)
{
    return atomic_load_explicit(&forks, memory_order_relaxed);
}

uint32_t
kin_robust_holder_here(const struct kin_mutex *mutex)
{
    uint64_t holder = __atomic_load_n(&mutex->holder, __ATOMIC_RELAXED);
    return holder >> 32 == kin_robust_forks() ? (uint32_t)holder : 0;
}

/* -------------------------------------------------------------------------------- the list */

/* Whether a word of this process holds a value; false too when there is nothing to be read. */
static bool
holds(void *address, const void *value)
{
    const void *found = NULL;
    struct iovec here = {&found, sizeof found}, there = {address, sizeof found};
    if ((uintptr_t)address % sizeof found != 0)
        return false;
    if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != sizeof found) {
        if (errno == EFAULT)
            return false;
        found = *(const void **)address; /* a sandbox forbids to look first: as glibc does it */
    }
    return found == value;
}

static bool
stands_between(void **prev, struct kin_robust_node *node, void *next)
{
    uintptr_t prev_of_next = ((uintptr_t)next & ~(uintptr_t)1) - sizeof(void *);
    return holds(prev, &node->next) && holds((void *)prev_of_next, &node->next);
}

bool
kin_robust_unlink_slowly(struct kin_thread *thread, struct kin_mutex *mutex)
{
    struct kin_robust_node *node = kin_robust_node_in(mutex);
    void **known = (void **)(void *)&thread->head->list.next;
    struct kin_mutex **place = &thread->newest, *newer = NULL;
    while (*place != mutex) { /* it is there, or `holder` would not say so */
        newer = *place;
        known = &kin_robust_node_in(newer)->next;
        place = &newer->older;
    }
    void **prev = node->prev, *next = node->next;
    bool as_known = prev == known && next == mutex->below; /* then where they point to is mapped */
    if (!as_known && !stands_between(prev, node, next)) {
        prev = known;
        next = mutex->below;
        if (!stands_between(prev, node, next))
            return false;
    }
    kin_robust_node_of(next)->prev = prev;
    *prev = next;
    kin_robust_keep_order();
    *place = mutex->older;
    if (newer != NULL && newer->below == &node->next)
        newer->below = next;
    return true;
}
