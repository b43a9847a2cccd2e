/* A child that is reaped once, by whoever comes first: who waits for it, or the watcher.
 *
 *     the watcher's thread ─┐                     ┌─ waitid(P_PIDFD): once
 *     a thread that waits  ─┼─> kin_child_collect ┤
 *     the last owner       ─┘                     └─ afterwards: what it said
 *
 * Rules:
 * 1. By pidfd, never by pid: a child that somebody else has reaped (wait(2) in the user's code, or
 *    SIGCHLD ignored) is ECHILD, and another child that got its pid is not touched.
 * 2. The pidfd is not closed while the watcher has it: its number could be another watch's by the
 *    time when the watcher, having been told of the end, takes it out of its epoll.
 * 3. The watcher reaps as soon as the child has ended, so there is no zombie, whatever its owner
 *    does or forgets to do.
 */

#include "child.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BY_PIDFD = 3 }; /* P_PIDFD, which headers before glibc 2.36 lack */

int
kin_child_init(struct kin_child *child, pid_t pid)
{
    siginfo_t unused;
    memset(child, 0, sizeof *child);
    child->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (child->pidfd < 0 && errno != ESRCH)
        return errno;
    /* Who got its number since is no child of ours. */
    if (child->pidfd >= 0 &&
        syscall(SYS_waitid, BY_PIDFD, child->pidfd, &unused, WEXITED | WNOHANG | WNOWAIT, NULL) < 0 &&
        errno == ECHILD) {
        close(child->pidfd);
        child->pidfd = -1;
    }
    if (child->pidfd < 0) {
        child->collected = true;
        child->error = ECHILD;
    }
    return pthread_mutex_init(&child->mutex, NULL);
}

static int
status_word(const siginfo_t *info)
{
    switch (info->si_code) {
    case CLD_EXITED:
        return (info->si_status & 0xff) << 8;
    case CLD_DUMPED:
        return info->si_status | 0x80;
    default: /* CLD_KILLED */
        return info->si_status;
    }
}

static void
collect(struct kin_child *child)
{
    siginfo_t info = {0};
    long result;
    if (child->collected)
        return;
    /* glibc's waitid does not give the usage; the system call does. */
    do
        result = syscall(SYS_waitid, BY_PIDFD, child->pidfd, &info, WEXITED | WNOHANG,
                         &child->usage);
    while (result < 0 && errno == EINTR);
    if (result == 0 && info.si_pid == 0)
        return;
    child->collected = true;
    child->error = result < 0 ? errno : 0;
    child->status = status_word(&info);
}

static void
close_if_abandoned(struct kin_child *child)
{
    if (child->abandoned && child->collected && !child->watched && child->pidfd >= 0) {
        close(child->pidfd);
        child->pidfd = -1;
    }
}

bool
kin_child_collect(struct kin_child *child)
{
    pthread_mutex_lock(&child->mutex);
    collect(child);
    close_if_abandoned(child);
    bool collected = child->collected;
    pthread_mutex_unlock(&child->mutex);
    return collected;
}

void
kin_child_watch(struct kin_child *child)
{
    pthread_mutex_lock(&child->mutex);
    child->watched = true;
    pthread_mutex_unlock(&child->mutex);
}

void
kin_child_unwatch(struct kin_child *child)
{
    pthread_mutex_lock(&child->mutex);
    child->watched = false;
    collect(child);
    close_if_abandoned(child);
    pthread_mutex_unlock(&child->mutex);
}

void
kin_child_abandon(struct kin_child *child)
{
    pthread_mutex_lock(&child->mutex);
    child->abandoned = true;
    close_if_abandoned(child);
    pthread_mutex_unlock(&child->mutex);
}
