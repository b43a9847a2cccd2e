/* The one thread of a process that waits for what must interrupt something else. See watcher.c. */

#ifndef KIN_WATCHER_H
#define KIN_WATCHER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "child.h"
#include "sysv_wait.h"

/* What is watched for, and what is done then: once. */
struct kin_watch {
    int fd;                  /* stays open as long as it is watched, and stands in one watch only */
    uint32_t events;         /* EPOLLIN, …; 0: only a hang-up or an error (these always count) */
    int event_fd;            /* is written to, unless it is -1 */
    struct kin_wait *wait;   /* is woken, unless it is NULL */
    struct kin_child *child; /* is collected, unless it is NULL; then fd is watched no more */
    _Atomic uint32_t *turn;  /* has 1 added, and all who sleep on it are woken, unless it is NULL; */
    _Atomic bool *told;      /* … and this is set before that */
    bool owns;               /* the watch closes fd: when it is removed, and in a forked child */
};

struct kin_watcher {
    pthread_mutex_t owners;      /* one call of an owner at a time, and none during a fork */
    pthread_mutex_t mutex;       /* guards the list; held while an action runs, and during a fork */
    struct kin_watch_entry *all; /* newest first */
    uint64_t last_number;
    pthread_t thread;
    bool running;
    bool lost; /* it could not be started, and there may be watches that want it */
    int epoll, stop_fd; /* -1 while there are none */
};

/* Where they return an int, it is 0 or an errno. All are for any thread, at any time. */

int kin_watcher_init(struct kin_watcher *watcher);

/* Adds a watch, and starts the thread if it does not run. *number is what `remove` takes; 0 asks
 * for a new one, and watches that are to be removed together may share one. After an error, fd is
 * the caller's still. */
int kin_watcher_add(struct kin_watcher *watcher, const struct kin_watch *watch, uint64_t *number);

/* When this returns, the actions of the watches with this number neither run nor will. Unknown
 * numbers are no error. A thread that was lost is started again, if there is more to watch. */
void kin_watcher_remove(struct kin_watcher *watcher, uint64_t number);

/* Ends the thread, and lets nobody add or remove until after the fork. The watches stay. */
void kin_watcher_before_fork(struct kin_watcher *watcher);

/* Starts the thread again if there is anything to watch; if that can't be, watches act now. The
 * errno of the fork stays. */
void kin_watcher_after_fork_in_parent(struct kin_watcher *watcher);

/* Forgets every watch, for they are of threads that do not exist here, and closes the watcher's
 * descriptors. */
void kin_watcher_after_fork_in_child(struct kin_watcher *watcher);

/* Ends the thread; the next `add` starts it again. */
void kin_watcher_stop(struct kin_watcher *watcher);

/* At the very end: ends the thread, forgets every watch, closes the descriptors. */
void kin_watcher_end(struct kin_watcher *watcher);

#endif
