/* Plays the cases of harness.h. tests/faults/harness.py compiles and runs it.
 *
 *     harness steps CASE HANG ENOUGH FIRST EVERY
 *                           the victim is killed at its FIRST instruction, EVERY so many later, to its last
 *     harness storm CASE HANG ENOUGH COUNT SEED LONGEST
 *                           it is killed COUNT times, after up to LONGEST microseconds
 *     harness list
 *
 * HANG: milliseconds after which somebody is stuck; nobody waits it out unless he is. ENOUGH plays that went wrong
 * end the run. Prints one line:
 *
 *     points N stuck N violated N asleep N
 *
 * Single-stepping (ptrace(2), PTRACE_SINGLESTEP): a system call is one step. When it sleeps, that is a point of its own
 * to be killed at; then `unblock` gets it out, and the stepping goes on to the end of `act`.
 */

#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { VIOLATED = 3, FAILED = 4 };

static long hang_ms;
static long points, stuck, violations, asleep;

_Noreturn void
violated(const char *what)
{
    (void)!write(2, what, strlen(what));
    (void)!write(2, "\n", 1);
    _exit(VIOLATED);
}

_Noreturn static void
fail(const char *what)
{
    fprintf(stderr, "harness: %s: %s\n", what, strerror(errno));
    exit(FAILED);
}

static long
now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

/* What a file of proc(5) says of it; nothing, if there is none. */
static void
look_up(pid_t pid, const char *file, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = 0;
}

/* The letter of proc_pid_stat(5). */
static char
state_of(pid_t pid)
{
    char text[512];
    look_up(pid, "stat", text, sizeof text);
    char *end = strrchr(text, ')');
    return end == NULL ? 'X' : end[2];
}

/* ---------------------------------------------------------------------------- one play of a case */

/* Beside the case's own memory. */
struct signs {
    volatile int ready[1 + MOST_BYSTANDERS]; /* `ready` or `before` is over */
    volatile int go;                         /* the victim may begin, who is not traced */
    volatile int acted;                      /* … and its `act` is over */
};

struct play {
    const struct fault_case *what;
    void *shared;
    struct signs *signs;
    pid_t victim, bystanders[MOST_BYSTANDERS];
    bool unblocked;
};

/* 0 in the new process, when it has acted. `go`: NULL for who need not wait for it. */
static pid_t
start(void (*before)(void *), void (*act)(void *), void *shared, volatile int *ready,
      const volatile int *go, bool traced)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    if (before != NULL)
        before(shared);
    if (traced && ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(FAILED);
    *ready = 1;
    if (traced)
        raise(SIGSTOP);
    while (go != NULL && !*go)
        sched_yield();
    act(shared);
    return 0;
}

/* Whether it has come to sleep or to its end before it is stuck elsewhere. */
static void
until_at_rest(pid_t pid, const volatile int *ready)
{
    long end = now_us() + 10000000;
    for (;;) {
        char state = state_of(pid);
        if (state == 'Z' || state == 'X' || (*ready && state == 'S'))
            return;
        if (now_us() > end)
            fail("a bystander neither sleeps nor ends");
        sched_yield();
    }
}

static void
let_in(struct play *play, enum when when)
{
    for (int i = 0; i < MOST_BYSTANDERS; i++) {
        const struct bystander *who = &play->what->bystanders[i];
        if (who->when != when)
            continue;
        volatile int *ready = &play->signs->ready[1 + i];
        pid_t pid = start(who->before, who->act, play->shared, ready, NULL, false);
        if (pid == 0)
            _exit(0);
        play->bystanders[i] = pid;
        if (when != AFTERWARDS && when != ALONGSIDE)
            until_at_rest(pid, ready);
    }
}

static void
unblock(struct play *play)
{
    if (play->unblocked)
        return;
    play->unblocked = true;
    let_in(play, MEANWHILE);
    if (play->what->unblock != NULL)
        play->what->unblock(play->shared);
}

/* Says what he is in: his state, and his system call with its arguments (proc_pid_syscall(5)). */
static void
kill_stuck(pid_t pid)
{
    char text[256];
    look_up(pid, "syscall", text, sizeof text);
    fprintf(stderr, "harness: stuck in state %c, %s\n", state_of(pid), text);
    kill(pid, SIGKILL);
}

/* Its exit code, or −1 when it is stuck; then it is killed. */
static int
end_of(pid_t pid)
{
    int status;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd poll_for = {pidfd, POLLIN, 0};
    if (pidfd < 0)
        fail("pidfd_open");
    int ended = poll(&poll_for, 1, (int)hang_ms);
    close(pidfd);
    if (ended <= 0)
        kill_stuck(pid);
    if (waitpid(pid, &status, 0) != pid)
        fail("waitpid");
    if (ended <= 0)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

static void
begin(struct play *play, const struct fault_case *what)
{
    long page = sysconf(_SC_PAGESIZE);
    size_t size = (what->size + (size_t)page - 1) / (size_t)page * (size_t)page;
    void *memory = mmap(NULL, size + (size_t)page, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    *play = (struct play){.what = what, .shared = memory,
                          .signs = (struct signs *)(void *)((char *)memory + size)};
    if (what->prepare != NULL)
        what->prepare(memory);
    let_in(play, EARLY);
}

/* The victim is dead, and reaped, after so many steps, or microseconds. */
static void
finish(struct play *play, long after)
{
    bool is_stuck = false, is_violated = false;
    unblock(play);
    let_in(play, AFTERWARDS);
    for (int i = 0; i < MOST_BYSTANDERS; i++)
        if (play->bystanders[i] != 0) {
            int code = end_of(play->bystanders[i]);
            is_stuck |= code < 0;
            is_violated |= code > 0;
            if (code != 0)
                fprintf(stderr, "harness: bystander %d: %d, victim killed at %ld\n", i, code, after);
        }
    if (!is_stuck && !is_violated && play->what->check != NULL)
        is_violated = play->what->check(play->shared) != 0;
    points++;
    stuck += is_stuck;
    violations += is_violated;
    long page = sysconf(_SC_PAGESIZE);
    munmap(play->shared, (size_t)((char *)play->signs - (char *)play->shared) + (size_t)page);
}

static void
reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, __WALL) == pid && !WIFEXITED(status) && !WIFSIGNALED(status))
        ;
}

/* --------------------------------------------------------------------------- at every instruction */

enum step { STEPPED, SLEEPS, ENDED };

/* Whether the next instruction may sleep. Where it is not known, all may, which takes longer. */
static bool
at_system_call(pid_t pid)
{
#ifdef __x86_64__
    enum { SYSCALL = 0x050f };
    long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), NULL);
    return (ptrace(PTRACE_PEEKTEXT, pid, at, NULL) & 0xffff) == SYSCALL;
#else
    (void)pid;
    return true;
#endif
}

/* One instruction. SLEEPS: it is a system call that does not return as yet; to be called again. */
static enum step
step(pid_t pid, bool sleeps, long patience_us)
{
    static long signal_number; /* came in between, and is handed on */
    int status, options = sleeps || at_system_call(pid) ? WNOHANG | __WALL : __WALL;
    if (!sleeps && ptrace(PTRACE_SINGLESTEP, pid, NULL, signal_number) < 0)
        fail("PTRACE_SINGLESTEP");
    signal_number = 0;
    long end = now_us() + patience_us;
    for (;;) {
        pid_t found = waitpid(pid, &status, options);
        if (found == pid) {
            if (WIFSTOPPED(status) && WSTOPSIG(status) != SIGTRAP)
                signal_number = WSTOPSIG(status);
            return WIFSTOPPED(status) ? STEPPED : ENDED;
        }
        if (sleeps ? now_us() > end : state_of(pid) == 'S')
            return SLEEPS;
        sched_yield();
    }
}

/* Kills the victim at its `last` point; whether it came so far. */
static bool
play_steps(const struct fault_case *what, long last)
{
    struct play play;
    int status;
    begin(&play, what);
    play.victim = start(what->ready, what->act, play.shared, &play.signs->ready[0], NULL,
                        true);
    if (play.victim == 0) {
        play.signs->acted = 1;
        for (;;)
            pause();
    }
    if (waitpid(play.victim, &status, __WALL) != play.victim || !WIFSTOPPED(status))
        fail("the victim does not stop");
    let_in(&play, NEXT);
    let_in(&play, ALONGSIDE);
    bool sleeps = false;
    long point = 0;
    while (point < last && !play.signs->acted) {
        enum step found = step(play.victim, sleeps, hang_ms * 1000);
        if (found == ENDED)
            fail("the victim ended by itself");
        if (found == SLEEPS && sleeps) { /* for ever, it seems */
            stuck++;
            break;
        }
        point++;
        sleeps = found == SLEEPS;
        if (sleeps) {
            asleep++;
            if (point < last)
                unblock(&play);
        }
    }
    bool whole = play.signs->acted;
    kill(play.victim, SIGKILL);
    reap(play.victim);
    finish(&play, point);
    return !whole;
}

/* ----------------------------------------------------------------------------------- at random */

static void
play_storm(const struct fault_case *what, long longest, unsigned *seed)
{
    struct play play;
    begin(&play, what);
    play.victim = start(what->ready, what->act, play.shared, &play.signs->ready[0],
                        &play.signs->go, false);
    if (play.victim == 0)
        _exit(0);
    while (!play.signs->ready[0] && state_of(play.victim) != 'Z')
        sched_yield();
    let_in(&play, NEXT);
    let_in(&play, ALONGSIDE);
    play.signs->go = 1;
    long after = rand_r(seed) % (longest + 1), end = now_us() + after;
    long half = now_us() + (end - now_us()) / 2;
    while (now_us() < end)
        if (now_us() > half)
            unblock(&play); /* while it is at it */
    kill(play.victim, SIGKILL);
    reap(play.victim);
    finish(&play, after);
}

/* -------------------------------------------------------------------------------------- the rest */

static const struct fault_case *
find(const char *name)
{
    for (const struct fault_case *one = fault_cases; one->name != NULL; one++)
        if (strcmp(one->name, name) == 0)
            return one;
    fprintf(stderr, "harness: there is no case %s\n", name);
    exit(2);
}

int
main(int argc, char *argv[])
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (const struct fault_case *one = fault_cases; one->name != NULL; one++)
            puts(one->name);
        return 0;
    }
    if (argc < 6)
        return 2;
    const struct fault_case *what = find(argv[2]);
    hang_ms = atol(argv[3]);
    long enough = atol(argv[4]);
    if (strcmp(argv[1], "steps") == 0 && argc == 7) {
        long last = atol(argv[5]);
        while (stuck + violations < enough && play_steps(what, last))
            last += atol(argv[6]);
    } else if (strcmp(argv[1], "storm") == 0 && argc == 8) {
        unsigned seed = (unsigned)atol(argv[6]);
        for (long count = atol(argv[5]); count > 0 && stuck + violations < enough; count--)
            play_storm(what, atol(argv[7]), &seed);
    } else
        return 2;
    printf("points %ld stuck %ld violated %ld asleep %ld\n", points, stuck, violations, asleep);
    return stuck + violations == 0 ? 0 : 1;
}
