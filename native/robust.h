/* The calling thread's robust list, shared with glibc. See robust.c. */

#ifndef KIN_ROBUST_H
#define KIN_ROBUST_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../include/kinfolk.h"

/* The part of a robust mutex that is linked into its owner's list. It lies 24 bytes behind the
 * futex word, as in a pthread_mutex_t. Nobody but the owner looks at it. */
struct kin_robust_node {
    void **prev; /* where the pointer to this one is: the `next` before it, or the head */
    void *next;  /* the `next` of the next node, or the head; the lowest bit is glibc's */
};

enum {
    KIN_ROBUST_NODE_OFFSET = 24,
    KIN_ROBUST_MOST = 1024, /* held by one thread; the kernel walks 2048, and glibc has some too */
};

struct kin_thread {
    uint64_t identity; /* the process and the thread's id: which forks, then threads, tell apart */
    uint64_t pid_namespace;
    struct robust_list_head *head;
    struct kin_mutex *newest; /* what it holds, the last one first, by the `older` of each */
    uint32_t tid;             /* 0: nothing is known yet in this thread of this process */
};

extern _Thread_local struct kin_thread kin_this_thread __attribute__((visibility("hidden")));

/* What `kin_thread` does when it is first called in a thread. NULL: there is no robust list here that
 * is laid out as ours. */
struct kin_thread *kin_thread_begin(void);

static inline struct kin_thread *
kin_thread(void)
{
    struct kin_thread *thread = &kin_this_thread;
    return __builtin_expect(thread->tid != 0, 1) ? thread : kin_thread_begin();
}

/* The thread of this process that holds, by this handle; 0: none does. */
uint32_t kin_robust_holder_here(const struct kin_mutex *mutex);

/* How often this process was forked from one that used this: tells it from its ancestors. */
uint32_t kin_robust_forks(void);

static inline void
kin_robust_keep_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* Around every change of a word whose death the kernel has to mind: from `begin` to `end`, it looks at
 * this node too. It may do so as long as the word is this thread's: a lock leaves the `end` to the unlock. */
static inline void
kin_robust_begin(struct kin_thread *thread, struct kin_robust_node *node)
{
    struct robust_list *pending = (struct robust_list *)(void *)&node->next;
    if (thread->head->list_op_pending != pending)
        thread->head->list_op_pending = pending;
    kin_robust_keep_order();
}

static inline void
kin_robust_end(struct kin_thread *thread)
{
    kin_robust_keep_order();
    thread->head->list_op_pending = NULL;
}

static inline struct kin_robust_node *
kin_robust_node_of(void *next)
{
    uintptr_t address = (uintptr_t)next & ~(uintptr_t)1;
    return (struct kin_robust_node *)(void *)(address - offsetof(struct kin_robust_node, next));
}

static inline struct kin_robust_node *
kin_robust_node_in(const struct kin_mutex *mutex)
{
    return (struct kin_robust_node *)(void *)((char *)mutex->state + KIN_ROBUST_NODE_OFFSET);
}

/* Puts a mutex on the list, first. Between `begin` and `end`, while the thread owns the word. */
static inline void
kin_robust_link(struct kin_thread *thread, struct kin_mutex *mutex)
{
    struct kin_robust_node *node = kin_robust_node_in(mutex);
    void **head = (void **)(void *)&thread->head->list.next, *first = *head;
    node->next = first;
    node->prev = head;
    kin_robust_node_of(first)->prev = &node->next;
    kin_robust_keep_order(); /* the kernel follows `next`: the node is ready before it is reached */
    *head = &node->next;

    mutex->below = first;
    mutex->older = thread->newest;
    thread->newest = mutex;
}

/* Takes it off when it is not the first, or not as this process remembers it. False if the list was overwritten so
 * that it can't be taken off: nothing was changed, and its memory must stay mapped as long as the thread lives. */
bool kin_robust_unlink_slowly(struct kin_thread *thread, struct kin_mutex *mutex);

/* Takes it off. False as `slowly`. */
static inline bool
kin_robust_unlink(struct kin_thread *thread, struct kin_mutex *mutex)
{
    struct kin_robust_node *node = kin_robust_node_in(mutex);
    void **head = (void **)(void *)&thread->head->list.next, *next = mutex->below;
    if (__builtin_expect(thread->newest != mutex || *head != (void *)&node->next ||
                             node->prev != head || node->next != next, 0))
        return kin_robust_unlink_slowly(thread, mutex);
    kin_robust_node_of(next)->prev = head;
    *head = next;
    kin_robust_keep_order();
    thread->newest = mutex->older;
    return true;
}

#endif
