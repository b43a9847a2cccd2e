/* The anchor: a process in the owner's group that is a child of the keeper and does nothing.
 *
 *     session ─┬─ the owner's group    owner ── …   children of the keeper, and with them the anchor
 *              └─ the keeper's group   keeper ── the anchor, while there are none
 *
 * A process group is orphaned when none of its members has a parent in another group of the session
 * (setpgid(2)). When the end of a process makes its group orphaned and a member is stopped, the
 * kernel sends SIGHUP and SIGCONT to all of the group (kill_orphaned_pgrp in kernel/exit.c). Where
 * no shell controls the owner, the keeper's children are all that keeps his group from being
 * orphaned, so the end of the last one would hang up the owner because of somebody who happens to
 * be stopped. The anchor is one more such child, and stays until all others have been reaped; and
 * the kernel asks nothing when a process leaves a group by setpgid(2).
 *
 * Rules:
 * 1. It stands in the group no longer than a child of the keeper is there. A group that nobody can
 *    continue has to count as orphaned otherwise: so Ctrl-Z does not stop it for ever, and a
 *    stopped job is hung up when its shell ends.
 * 2. It leaves the group before it is ended. Killed alone by somebody else, it is made anew.
 * 3. It costs a task and a page: clone(2) with CLONE_VM copies nothing. So it shares the keeper's
 *    memory, errno and all, while the keeper runs: it reads two fields, writes its own stack alone,
 *    and makes bare calls that do not fail, the last of which does not return.
 * 4. No signal reaches it but SIGKILL and SIGSTOP: all others are blocked from before its birth. It
 *    ends with the keeper (PR_SET_PDEATHSIG).
 * 5. It holds no descriptor: it shares the keeper's table until it has none. Where that can't be
 *    given up (close_range(2), Linux 5.9), it shares it for ever, and what the keeper closes is
 *    closed.
 * 6. Nobody's wait(2) sees it, for no signal tells of its end: only with __WALL.
 * 7. Where it can't be had, things are as they would be without it. One that ends by itself says
 *    so, and is not made anew before the next start.
 *
 * clone, which is rejected for programs and functions (docs/design/processes.md), by glibc's
 * wrapper: fork handlers and thread states are nothing to a process that only sleeps.
 */

#include "anchor.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD /* glibc before 2.31 */
#define CLONE_PIDFD 0x1000
#endif

enum {
    STACK = 16 * 1024, /* and below it a page that nobody may touch, of any size there is */
    GUARD = 64 * 1024,
    UNSHARE = 1 << 1, /* CLOSE_RANGE_UNSHARE, which headers before glibc 2.34 lack */
};

/* The kernel's own, of which glibc keeps two signals for itself. */
typedef uint64_t mask_t;

static const mask_t EVERY = ~(mask_t)0;

static int
stand(void *argument)
{
    const struct kin_anchor *anchor = argument;
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    if (syscall(SYS_getppid) != anchor->parent) /* it died before: nobody sends that any more */
        return 0;
    syscall(SYS_prctl, PR_SET_NAME, "kin-anchor");
    if (anchor->has_close_range)
        syscall(SYS_close_range, 0U, ~0U, UNSHARE);
    for (;;)
        syscall(SYS_rt_sigsuspend, &EVERY, sizeof EVERY);
}

static char *
new_stack(void)
{
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK;
    char *room = mmap(NULL, GUARD + STACK, PROT_NONE, kind, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    if (mprotect(room + GUARD, STACK, PROT_READ | PROT_WRITE) == 0)
        return room;
    munmap(room, GUARD + STACK);
    return NULL;
}

static bool
make(struct kin_anchor *anchor)
{
    mask_t before;
    int pidfd = -1;
    if (anchor->stack == NULL && (anchor->stack = new_stack()) == NULL)
        return false;
    anchor->parent = getpid();
    /* There is no such descriptor: it only asks whether the call may be made. */
    anchor->has_close_range = syscall(SYS_close_range, ~0U, ~0U, UNSHARE) == 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &EVERY, &before, sizeof before);
    int pid = clone(stand, anchor->stack + GUARD + STACK, CLONE_VM | CLONE_FILES | CLONE_PIDFD,
                    anchor, &pidfd);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    if (pid < 0)
        return false;
    anchor->pid = pid;
    anchor->pidfd = pidfd;
    anchor->group = 0;
    return true;
}

/* Whether somebody has killed it. */
static bool
bury(struct kin_anchor *anchor)
{
    int word = 0;
    while (waitpid(anchor->pid, &word, __WALL) < 0 && errno == EINTR)
        ;
    kin_anchor_look_away(anchor);
    anchor->pid = anchor->group = 0;
    return WIFSIGNALED(word) && WTERMSIG(word) == SIGKILL;
}

void
kin_anchor_init(struct kin_anchor *anchor)
{
    *anchor = (struct kin_anchor){.pidfd = -1};
}

void
kin_anchor_enter(struct kin_anchor *anchor, pid_t group)
{
    if (anchor->group == group || (anchor->pid == 0 && !make(anchor)))
        return;
    if (setpgid(anchor->pid, group) == 0)
        anchor->group = group;
}

void
kin_anchor_leave(struct kin_anchor *anchor)
{
    if (anchor->group != 0 && setpgid(anchor->pid, getpgrp()) == 0)
        anchor->group = 0;
}

void
kin_anchor_replace(struct kin_anchor *anchor)
{
    pid_t group = anchor->group;
    if (bury(anchor) && group != 0)
        kin_anchor_enter(anchor, group);
}

bool
kin_anchor_end(struct kin_anchor *anchor)
{
    if (anchor->pid == 0)
        return false;
    kin_anchor_leave(anchor);
    kill(anchor->pid, SIGKILL); /* nobody has reaped it, so the number is its own */
    bury(anchor);
    return true;
}

void
kin_anchor_look_away(struct kin_anchor *anchor)
{
    if (anchor->pidfd >= 0)
        close(anchor->pidfd);
    anchor->pidfd = -1;
}
