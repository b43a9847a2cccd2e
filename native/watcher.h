/* The one thread of a process that waits for what must interrupt something else. See watcher.c. */

#ifndef KIN_WATCHER_H
#define KIN_WATCHER_H

#include <pthread.h>
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
};

struct kin_watcher {
    pthread_mutex_t mutex;       /* guards the list; held while an action runs */
    struct kin_watch_entry *all; /* newest first */
    uint64_t last_number;
    pthread_t thread;
    bool running;
    int epoll, stop_fd; /* -1 while there are none */
};

/* All return 0 or an errno. None but kin_watcher_remove may be called by two threads at a time. */

int kin_watcher_init(struct kin_watcher *watcher);

/* Adds a watch, and starts the thread if it does not run. The number is what `remove` takes. */
int kin_watcher_add(struct kin_watcher *watcher, const struct kin_watch *watch, uint64_t *number);

/* When this returns, the watch's action neither runs nor will. Unknown numbers are no error. */
void kin_watcher_remove(struct kin_watcher *watcher, uint64_t number);

/* Before fork: ends the thread. The watches stay. */
void kin_watcher_stop(struct kin_watcher *watcher);

/* After fork, in the parent: starts the thread again if there is anything to watch. */
int kin_watcher_resume(struct kin_watcher *watcher);

/* After fork, in the child (or at the very end, after `stop`): forgets every watch, for they are
 * of threads that do not exist here, and closes the watcher's descriptors. */
void kin_watcher_clear(struct kin_watcher *watcher);

#endif
