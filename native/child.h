/* A child that is reaped once, by whoever comes first. See child.c. */

#ifndef KIN_CHILD_H
#define KIN_CHILD_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/resource.h>

struct kin_child {
    pthread_mutex_t mutex; /* guards all below */
    int pidfd;             /* the caller's to close, until `abandon`; -1: there is none */
    bool watched;          /* the watcher has the pidfd too, so that it must stay open */
    bool abandoned;        /* nobody asks any more */
    bool collected;
    int error;  /* of waitid(2): somebody else has collected it; 0: the rest is known */
    int status; /* a status word as of wait(2) */
    struct rusage usage;
};

/* Opens the pidfd of a child that was just started: 0, or an errno. When somebody else has reaped
 * it meanwhile, the pidfd is -1, and it counts as collected, with ECHILD. */
int kin_child_init(struct kin_child *child, pid_t pid);

/* Whether it has ended; then it is reaped, and `error`, `status` and `usage` stay as they are from
 * now on. Never blocks. Any thread. */
bool kin_child_collect(struct kin_child *child);

/* The watcher takes the pidfd, and gives it back: then it collects too. */
void kin_child_watch(struct kin_child *child);
void kin_child_unwatch(struct kin_child *child);

/* Nobody asks any more: the pidfd is taken over, and closed once the child is reaped and the
 * watcher has given it back. */
void kin_child_abandon(struct kin_child *child);

#endif
