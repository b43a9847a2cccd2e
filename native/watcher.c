/* The one thread of a process that waits for what must interrupt something else.
 *
 * A thread that blocks in a system call without a descriptor (msgrcv, a futex) can't wait
 * for a hang-up or a death at the same time. The watcher does it for all of them: one epoll, and
 * for each descriptor what to do when it is ready.
 *
 *      presence FIFO  ─┐                          ┌─> wakes a kin_wait (sysv_wait.c)
 *      pidfd          ─┼─> epoll ─> the thread ───┼─> reaps a kin_child (child.c)
 *      (…)            ─┘                          ├─> wakes all who sleep on a futex (members.c)
 *                                                 └─> writes an eventfd
 *
 * Rules:
 * 1. A watch acts once (EPOLLONESHOT); who waits again, watches again. What is ready when the
 *    watch is added counts, so nothing is missed between looking and watching.
 * 2. The thread is there only while the process is not forking: it is ended before, and started
 *    again in the parent. So no child has a watcher that it did not start, and what a thread of the
 *    parent holds is never taken for something of the child's. Both mutexes are held meanwhile, so
 *    the child finds the list whole.
 *    When it can't be started again (RLIMIT_NPROC: the child has its place), nobody is left
 *    waiting for it: every watch acts at once, as if it were ready, so whoever waits looks,
 *    watches anew and is told what is wrong. Children are the exception: they stay, and the
 *    thread is started by the next owner who comes by, with a watch to add or to remove, or with
 *    a fork.
 * 3. It handles no signals, knows no Python, allocates nothing, and sleeps unless something is
 *    ready.
 * 4. An action runs with the mutex held: when `remove` has returned, it is over. Actions wait for
 *    nobody who may wait for the watcher: kin_wait_wake is answered by a thread that left its
 *    system call, before that thread does anything else.
 */

#include "watcher.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "futex.h"

enum { STOP = 0, EVENTS = 16, STACK = 128 * 1024 };

struct kin_watch_entry {
    struct kin_watch watch;
    uint64_t number; /* in epoll's data: an event that is fetched already finds nothing, or this */
    struct kin_watch_entry *next;
};

/* ------------------------------------------------------------------------------- the thread */

/* A pidfd, whose child may close it from now on, and its number become another's. */
static void
give_back(const struct kin_watcher *watcher, struct kin_watch *watch)
{
    epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->fd = -1;
    kin_child_unwatch(watch->child);
}

static void
act(const struct kin_watcher *watcher, struct kin_watch *watch)
{
    uint64_t one = 1;
    if (watch->event_fd >= 0)
        while (write(watch->event_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    if (watch->wait != NULL)
        kin_wait_wake(watch->wait);
    if (watch->turn != NULL) {
        /* SYNC POINT: who takes `turn` before it looks at `told` does not sleep past it. */
        atomic_store_explicit(watch->told, true, memory_order_relaxed);
        atomic_fetch_add_explicit(watch->turn, 1, memory_order_release);
        kin_futex_wake(watch->turn, INT_MAX);
    }
    if (watch->child != NULL)
        give_back(watcher, watch);
}

static void *
watch_for_ever(void *argument)
{
    struct kin_watcher *watcher = argument;
    struct epoll_event events[EVENTS];
    bool stopping = false;
    while (!stopping) {
        int count = epoll_wait(watcher->epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            /* What came together with the stop is done first: EPOLLONESHOT tells of it only once. */
            if (events[i].data.u64 == STOP) {
                stopping = true;
                continue;
            }
            pthread_mutex_lock(&watcher->mutex);
            for (struct kin_watch_entry *entry = watcher->all; entry != NULL; entry = entry->next)
                if (entry->number == events[i].data.u64) {
                    act(watcher, &entry->watch); /* who shares the number has the same action */
                    break;
                }
            pthread_mutex_unlock(&watcher->mutex);
        }
    }
    return NULL;
}

static int
start(struct kin_watcher *watcher)
{
    sigset_t every, before;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    error = pthread_create(&watcher->thread, &attributes, watch_for_ever, watcher);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    watcher->lost = error != 0;
    if (error == 0) {
        watcher->running = true;
        pthread_setname_np(watcher->thread, "kinfolk-watcher");
    }
    return error;
}

/* ------------------------------------------------------------------------------- its owners */

int
kin_watcher_init(struct kin_watcher *watcher)
{
    *watcher = (struct kin_watcher){.epoll = -1, .stop_fd = -1};
    int error = pthread_mutex_init(&watcher->owners, NULL);
    return error != 0 ? error : pthread_mutex_init(&watcher->mutex, NULL);
}

static void
drop(struct kin_watch_entry *entry)
{
    if (entry->watch.owns)
        close(entry->watch.fd);
    free(entry);
}

static void
forget(struct kin_watcher *watcher)
{
    while (watcher->all != NULL) {
        struct kin_watch_entry *entry = watcher->all;
        watcher->all = entry->next;
        drop(entry);
    }
    if (watcher->epoll >= 0)
        close(watcher->epoll);
    if (watcher->stop_fd >= 0)
        close(watcher->stop_fd);
    watcher->epoll = watcher->stop_fd = -1;
}

static int
open_descriptors(struct kin_watcher *watcher)
{
    struct epoll_event stop = {.events = EPOLLIN, .data.u64 = STOP};
    watcher->epoll = epoll_create1(EPOLL_CLOEXEC);
    watcher->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watcher->epoll >= 0 && watcher->stop_fd >= 0 &&
        epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, watcher->stop_fd, &stop) == 0)
        return 0;
    int error = errno;
    forget(watcher);
    return error;
}

static int
add(struct kin_watcher *watcher, const struct kin_watch *watch, uint64_t *number)
{
    int error;
    if (watcher->epoll < 0 && (error = open_descriptors(watcher)) != 0)
        return error;
    if (!watcher->running && (error = start(watcher)) != 0)
        return error;
    struct kin_watch_entry *entry = malloc(sizeof *entry);
    if (entry == NULL)
        return ENOMEM;

    struct epoll_event event = {.events = watch->events | EPOLLONESHOT};
    pthread_mutex_lock(&watcher->mutex);
    if (*number == 0)
        *number = ++watcher->last_number;
    *entry = (struct kin_watch_entry){*watch, *number, watcher->all};
    watcher->all = entry;
    event.data.u64 = entry->number;
    if (watch->child != NULL)
        kin_child_watch(watch->child);
    error = epoll_ctl(watcher->epoll, EPOLL_CTL_ADD, watch->fd, &event) < 0 ? errno : 0;
    if (error != 0) {
        if (watch->child != NULL)
            kin_child_unwatch(watch->child);
        watcher->all = entry->next;
        free(entry);
    }
    pthread_mutex_unlock(&watcher->mutex);
    return error;
}

int
kin_watcher_add(struct kin_watcher *watcher, const struct kin_watch *watch, uint64_t *number)
{
    pthread_mutex_lock(&watcher->owners);
    int error = add(watcher, watch, number);
    pthread_mutex_unlock(&watcher->owners);
    return error;
}

void
kin_watcher_remove(struct kin_watcher *watcher, uint64_t number)
{
    pthread_mutex_lock(&watcher->owners);
    pthread_mutex_lock(&watcher->mutex);
    struct kin_watch_entry **place = &watcher->all;
    while (*place != NULL) {
        struct kin_watch_entry *entry = *place;
        if (entry->number == number) {
            if (entry->watch.child == NULL)
                epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, entry->watch.fd, NULL);
            else if (entry->watch.fd >= 0)
                give_back(watcher, &entry->watch);
            *place = entry->next;
            drop(entry);
        } else
            place = &entry->next;
    }
    pthread_mutex_unlock(&watcher->mutex);
    if (watcher->lost && watcher->all != NULL)
        start(watcher);
    pthread_mutex_unlock(&watcher->owners);
}

static void
end_thread(struct kin_watcher *watcher)
{
    uint64_t count = 1;
    if (!watcher->running)
        return;
    while (write(watcher->stop_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
    pthread_join(watcher->thread, NULL);
    watcher->running = false;
    while (read(watcher->stop_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

void
kin_watcher_before_fork(struct kin_watcher *watcher)
{
    pthread_mutex_lock(&watcher->owners);
    end_thread(watcher);
    pthread_mutex_lock(&watcher->mutex);
}

/* There is no thread to do it: see rule 2. */
static void
act_on_all(struct kin_watcher *watcher)
{
    for (struct kin_watch_entry *entry = watcher->all; entry != NULL; entry = entry->next)
        if (entry->watch.child != NULL)
            kin_child_collect(entry->watch.child);
        else if (entry->watch.fd >= 0) {
            act(watcher, &entry->watch);
            epoll_ctl(watcher->epoll, EPOLL_CTL_DEL, entry->watch.fd, NULL);
            if (!entry->watch.owns)
                entry->watch.fd = -1; /* it has acted, and the number may become another's */
        }
}

void
kin_watcher_after_fork_in_parent(struct kin_watcher *watcher)
{
    int forks = errno; /* of a fork that failed: Python 3.11 looks at it after this */
    if (watcher->all != NULL && start(watcher) != 0)
        act_on_all(watcher);
    pthread_mutex_unlock(&watcher->mutex);
    pthread_mutex_unlock(&watcher->owners);
    errno = forks;
}

void
kin_watcher_after_fork_in_child(struct kin_watcher *watcher)
{
    forget(watcher);
    watcher->lost = false;
    pthread_mutex_unlock(&watcher->mutex);
    pthread_mutex_unlock(&watcher->owners);
}

void
kin_watcher_stop(struct kin_watcher *watcher)
{
    pthread_mutex_lock(&watcher->owners);
    end_thread(watcher);
    watcher->lost = false;
    pthread_mutex_unlock(&watcher->owners);
}

void
kin_watcher_end(struct kin_watcher *watcher)
{
    kin_watcher_stop(watcher);
    forget(watcher);
}
