/* Starting a program without copying the starter: one vfork, and everything else in the child.
 *
 *     the starter's thread             the child, in the starter's memory
 *     ────────────────────             ───────────────────────────────────
 *     block every signal
 *     vfork ─────────────────────────> actions of signals, session, group, terminal, cgroup,
 *       (this thread sleeps,           descriptors, limits, user, directory, death signal, mask
 *        the others run)               execve ── it has memory of its own from here
 *     ready again <─────────────────── or: *failure = step, errno; _exit
 *     signals as before; reap if it failed
 *
 * A process that was forked to run a function does what stands between signals and execve to itself
 * (kin_spawn_become).
 *
 * Rules:
 * 1. vfork by glibc, never clone(): glibc's own state stays right. kin_child_main is a function of
 *    its own that never returns, so the frame that vfork returns to twice is not written to.
 * 2. The child runs in the starter's memory while the starter's other threads run. So it takes no
 *    lock, allocates nothing, writes only its own stack, plan->descriptors and *failure, and uses
 *    system calls alone; where glibc's function does more than the call (set*id tells all threads,
 *    sigaction may lock, open may be cancelled), it is made bare.
 * 3. No handler of the starter ever runs in the child: all signals are blocked from before vfork
 *    until every handler was replaced by the default action, or by none.
 * 4. What needs privileges comes before they are given up; the death signal after, because
 *    changing credentials clears it (prctl(2)).
 * 5. Descriptors are put in place before limits (a low RLIMIT_NOFILE forbids the numbers), and the
 *    rest is closed after.
 *
 * Not posix_spawn(3): it has no directory, user, limits, or death signal, and in glibc 2.36 does
 * not say which step failed.
 */

#include "spawn.h"

#include "spawn_descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* 32-bit systems have two of each; the plain one takes 16 bits. */
#ifdef SYS_setresuid32
#define SET_UID SYS_setresuid32
#define SET_GID SYS_setresgid32
#define SET_GROUPS SYS_setgroups32
#else
#define SET_UID SYS_setresuid
#define SET_GID SYS_setresgid
#define SET_GROUPS SYS_setgroups
#endif

enum {
    SIGNALS = 64,
    NOT_STARTED = 127, /* the exit code of a child that failed; nobody sees it */
    STACK = 128 * 1024,
};

/* The kernel's own, of which glibc keeps two signals for itself. */
typedef uint64_t mask_t;

static void
set_mask(const mask_t *mask, mask_t *before)
{
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, mask, before, sizeof *mask);
}

static const char *const STEPS[] = {
    [KIN_SPAWN_VFORK] = "vfork",
    [KIN_SPAWN_NEW_SESSION] = "new_session",
    [KIN_SPAWN_PROCESS_GROUP] = "process_group",
    [KIN_SPAWN_TERMINAL] = "terminal",
    [KIN_SPAWN_CGROUP] = "cgroup",
    [KIN_SPAWN_DESCRIPTORS] = "descriptors",
    [KIN_SPAWN_RLIMITS] = "rlimits",
    [KIN_SPAWN_NICE] = "nice",
    [KIN_SPAWN_GROUPS] = "groups",
    [KIN_SPAWN_GID] = "gid",
    [KIN_SPAWN_UID] = "uid",
    [KIN_SPAWN_CWD] = "cwd",
    [KIN_SPAWN_DEATH_SIGNAL] = "death_signal",
    [KIN_SPAWN_EXECUTABLES] = "executables",
};

const char *
kin_spawn_step_name(enum kin_spawn_step step)
{
    return STEPS[step];
}

/* ---------------------------------------------------------------------------- in the child */

static bool
failed(struct kin_spawn_failure *failure, enum kin_spawn_step step, int item)
{
    failure->step = step;
    failure->item = item;
    failure->error = errno;
    return false;
}

static int
bare_open(const char *path, int flags)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC);
}

static void
bare_close(int fd)
{
    syscall(SYS_close, fd);
}

/* Each to its default, or ignored. The handler comes first in the kernel's struct sigaction (not on
 * MIPS). */
static void
set_actions(mask_t ignored, mask_t as_here)
{
    const unsigned long by_default[16] = {(unsigned long)SIG_DFL};
    const unsigned long nothing[16] = {(unsigned long)SIG_IGN};
    for (int number = 1; number <= SIGNALS; number++) {
        mask_t bit = (mask_t)1 << (number - 1);
        unsigned long before[16] = {(unsigned long)SIG_DFL};
        syscall(SYS_rt_sigaction, number, ignored & bit ? nothing : by_default, before,
                sizeof(mask_t));
        if ((as_here & bit) && before[0] == (unsigned long)SIG_IGN)
            syscall(SYS_rt_sigaction, number, nothing, NULL, sizeof(mask_t));
    }
}

static int
enter_cgroup(const char *path)
{
    int fd = bare_open(path, O_WRONLY);
    if (fd < 0)
        return -1;
    long written = syscall(SYS_write, fd, "0", 1); /* 0: who writes it */
    int error = errno;
    bare_close(fd);
    errno = error;
    return written < 0 ? -1 : 0;
}

/* As execvp(3): what is not there is passed over, what may not be run is remembered. */
static void
execute(const struct kin_spawn *plan, struct kin_spawn_failure *failure)
{
    int denied = -1, i = 0;
    for (;; i++) {
        execve(plan->executables[i], plan->argv, plan->envp);
        if (errno == EACCES && denied < 0)
            denied = i;
        bool next = errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == ESTALE ||
                    errno == ENODEV || errno == ETIMEDOUT;
        if (!next) {
            failed(failure, KIN_SPAWN_EXECUTABLES, i);
            return;
        }
        if (plan->executables[i + 1] == NULL)
            break;
    }
    if (denied >= 0) {
        errno = EACCES;
        i = denied;
    }
    failed(failure, KIN_SPAWN_EXECUTABLES, i);
}

bool
kin_spawn_become(const struct kin_spawn *plan, struct kin_spawn_failure *failure, pid_t parent)
{
    if (plan->new_session && setsid() < 0)
        return failed(failure, KIN_SPAWN_NEW_SESSION, 0);
    if (plan->process_group >= 0 && setpgid(0, plan->process_group) < 0)
        return failed(failure, KIN_SPAWN_PROCESS_GROUP, 0);
    /* Before the program may read from it. SIGTTOU is blocked, so a background group may do it. */
    if (plan->terminal >= 0 && tcsetpgrp(plan->terminal, getpgrp()) < 0)
        return failed(failure, KIN_SPAWN_TERMINAL, 0);
    if (plan->cgroup_procs != NULL && enter_cgroup(plan->cgroup_procs) < 0)
        return failed(failure, KIN_SPAWN_CGROUP, 0);
    int misplaced = kin_spawn_arrange(plan);
    if (misplaced >= 0)
        return failed(failure, KIN_SPAWN_DESCRIPTORS, plan->descriptors[misplaced].there);
    if (plan->executables != NULL)
        kin_spawn_close_others(plan);
    else
        kin_spawn_close_sources(plan);
    for (size_t i = 0; i < plan->limit_count; i++)
        if (setrlimit(plan->limits[i].resource, &plan->limits[i].limit) < 0)
            return failed(failure, KIN_SPAWN_RLIMITS, (int)i);
    if (plan->nice != 0) {
        errno = 0; /* -1 is a niceness too */
        int before = getpriority(PRIO_PROCESS, 0);
        if ((before == -1 && errno != 0) || setpriority(PRIO_PROCESS, 0, before + plan->nice) < 0)
            return failed(failure, KIN_SPAWN_NICE, 0);
    }
    if (plan->group_count >= 0 && syscall(SET_GROUPS, plan->group_count, plan->groups) < 0)
        return failed(failure, KIN_SPAWN_GROUPS, 0);
    if (plan->set_gid && syscall(SET_GID, plan->gid, plan->gid, plan->gid) < 0)
        return failed(failure, KIN_SPAWN_GID, 0);
    if (plan->set_uid && syscall(SET_UID, plan->uid, plan->uid, plan->uid) < 0)
        return failed(failure, KIN_SPAWN_UID, 0);
    if (plan->umask >= 0)
        umask((mode_t)plan->umask);
    if (plan->cwd != NULL && chdir(plan->cwd) < 0)
        return failed(failure, KIN_SPAWN_CWD, 0);
    if (plan->death_signal != 0) {
        if (prctl(PR_SET_PDEATHSIG, plan->death_signal) < 0)
            return failed(failure, KIN_SPAWN_DEATH_SIGNAL, 0);
        /* It died before: nobody sends the signal any more. 0: it is outside of our pid namespace. */
        pid_t now = getppid();
        if (now != parent && now != 0)
            _exit(NOT_STARTED);
    }
    mask_t blocked = plan->blocked;
    set_mask(&blocked, NULL);
    return true;
}

_Noreturn static void
kin_child_main(const struct kin_spawn *plan, struct kin_spawn_failure *failure, pid_t parent)
{
    set_actions(plan->ignored, plan->ignored_as_here);
    if (plan->cpus != NULL)
        syscall(SYS_sched_setaffinity, 0, plan->cpus_size, plan->cpus);
    if (kin_spawn_become(plan, failure, parent))
        execute(plan, failure);
    _exit(NOT_STARTED);
}

/* -------------------------------------------------------------------------- in the starter */

/* Nothing of this frame is used after vfork but what was passed in: it returns here twice. */
__attribute__((noinline)) static pid_t
vfork_and_run(const struct kin_spawn *plan, struct kin_spawn_failure *failure, pid_t self)
{
    pid_t pid = vfork();
    if (pid == 0)
        kin_child_main(plan, failure, self);
    return pid;
}

pid_t
kin_spawn(const struct kin_spawn *plan, struct kin_spawn_failure *failure)
{
    const mask_t every = ~(mask_t)0;
    mask_t before;
    failure->error = 0;
    set_mask(&every, &before);
    pid_t pid = vfork_and_run(plan, failure, getpid());
    if (pid < 0) {
        failure->step = KIN_SPAWN_VFORK;
        failure->item = 0;
        failure->error = errno;
    } else if (failure->error != 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        pid = -1;
    }
    set_mask(&before, NULL);
    return pid;
}

/* ------------------------------------------------------------------------ by a lasting thread */

struct errand {
    const struct kin_spawn *plan;
    struct kin_spawn_failure *failure;
    pid_t pid;
    sem_t done;
};

static void *
be_parent(void *argument)
{
    struct errand *errand = argument; /* gone once `done` is posted */
    pthread_setname_np(pthread_self(), "kinfolk-parent");
    pid_t pid = errand->pid = kin_spawn(errand->plan, errand->failure);
    sem_post(&errand->done);
    siginfo_t unused;
    /* Returns when it has ended, whoever reaps it (then with ECHILD). */
    while (pid > 0 && waitid(P_PID, (id_t)pid, &unused, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    return NULL;
}

pid_t
kin_spawn_lasting(const struct kin_spawn *plan, struct kin_spawn_failure *failure)
{
    if (syscall(SYS_gettid) == getpid())
        return kin_spawn(plan, failure);

    struct errand errand = {.plan = plan, .failure = failure, .pid = -1};
    const mask_t every = ~(mask_t)0;
    mask_t before;
    pthread_attr_t attributes;
    pthread_t thread;
    int error = pthread_attr_init(&attributes);
    if (error == 0) {
        pthread_attr_setstacksize(&attributes, STACK);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        sem_init(&errand.done, 0, 0);
        set_mask(&every, &before); /* it inherits the mask, and handles nothing */
        error = pthread_create(&thread, &attributes, be_parent, &errand);
        set_mask(&before, NULL);
        pthread_attr_destroy(&attributes);
    }
    if (error != 0) {
        failure->step = KIN_SPAWN_VFORK;
        failure->item = 0;
        failure->error = error;
        return -1;
    }
    while (sem_wait(&errand.done) < 0 && errno == EINTR)
        ;
    sem_destroy(&errand.done);
    return errand.pid;
}
