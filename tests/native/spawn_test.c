/* The start and the reaping of children in plain C, for the sanitizers: tests/native/test_spawn.py compiles and runs it.
 *
 *     spawn_test WHAT ROUNDS CHILD
 *
 *     descriptors  every child has exactly what the plan says, whatever the numbers were: cycles too
 *     failures     each step that fails is named, with its errno, and leaves no process
 *     threads      eight threads start children, while signals come; all statuses are right
 *     reaping      the watcher, threads that wait and one that abandons reap the same children: once each
 *     lasting      a child that is started by a thread which ends outlives it
 *
 * CHILD is this very program, built without a sanitizer; as `CHILD check NUMBER:INODE …` it is what is started. Ends
 * with 0, or with a sentence and 1.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "spawn.h"
#include "watcher.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

enum { HIGHEST = 64, MOST = 16, THREADS = 8 };

static int rounds;
static char *child;

/* ------------------------------------------------------------------------- what is started */

/* Says nothing and ends with 0 if exactly these numbers are open, each with its inode. */
static int
check(char **expected)
{
    char seen[4096] = {0};
    for (; *expected != NULL; expected++) {
        int number;
        unsigned long long inode;
        struct stat status;
        if (sscanf(*expected, "%d:%llu", &number, &inode) != 2)
            return 2;
        if (fstat(number, &status) < 0 || status.st_ino != inode)
            return 3;
        if (fcntl(number, F_GETFD) != 0)
            return 4;
        seen[number] = 1;
    }
    for (int number = 0; number < (int)sizeof seen; number++)
        if (!seen[number] && fcntl(number, F_GETFD) >= 0)
            return 5;
    return 0;
}

/* ------------------------------------------------------------------------------ the starter */

/* Under ThreadSanitizer vfork is fork: so what the child reports goes through shared memory. */
static struct kin_spawn_failure *
new_failure(void)
{
    void *page = mmap(NULL, sizeof(struct kin_spawn_failure), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    return page;
}

static struct kin_spawn
plan_of(char **executables, char **argv)
{
    static char *no_environment[] = {NULL};
    return (struct kin_spawn){
        .executables = executables,
        .argv = argv,
        .envp = no_environment,
        .group_count = -1,
        .process_group = -1,
        .terminal = -1,
        .umask = -1,
    };
}

static int
ended(pid_t pid)
{
    int status;
    CHECK(pid > 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static unsigned long long
inode_of(int number)
{
    struct stat status;
    CHECK(fstat(number, &status) == 0);
    return status.st_ino;
}

static int
by_target(const void *left, const void *right)
{
    const struct kin_spawn_descriptor *a = left, *b = right;
    return (a->there > b->there) - (a->there < b->there);
}

static void
descriptors(void)
{
    unsigned seed = 1;
    struct kin_spawn_failure *failure = new_failure();
    int own[HIGHEST] = {0};
    for (int number = 3; number < HIGHEST; number++)
        if (rand_r(&seed) % 2) { /* half of the numbers are free */
            int fd = memfd_create("test", MFD_CLOEXEC);
            CHECK(fd >= 0);
            if (fd != number) {
                CHECK(dup3(fd, number, O_CLOEXEC) == number);
                close(fd);
            }
            own[number] = 1;
        }
    for (int round = 0; round < rounds; round++) {
        struct kin_spawn_descriptor mapping[MOST] = {0};
        char words[MOST][40], *argv[MOST + 3] = {child, "check"};
        int count = rand_r(&seed) % (MOST + 1), taken[HIGHEST] = {0};
        /* Few numbers, so that chains and cycles are frequent. */
        int span = 6 + rand_r(&seed) % (HIGHEST - 6);
        for (int i = 0; i < count; i++) {
            int here, there;
            do
                here = 3 + rand_r(&seed) % (HIGHEST - 3);
            while (!own[here] || (here >= span && rand_r(&seed) % 4));
            there = rand_r(&seed) % span;
            if (taken[there])
                continue;
            taken[there] = 1;
            mapping[i] = (struct kin_spawn_descriptor){here, there, false};
        }
        int kept = 0;
        for (int i = 0; i < count; i++)
            if (mapping[i].here != 0)
                mapping[kept++] = mapping[i];
        for (int i = 0; i < kept; i++) {
            snprintf(words[i], sizeof words[i], "%d:%llu", mapping[i].there,
                     inode_of(mapping[i].here));
            argv[2 + i] = words[i];
        }
        qsort(mapping, (size_t)kept, sizeof *mapping, by_target);
        char *executables[] = {child, NULL};
        struct kin_spawn plan = plan_of(executables, argv);
        plan.descriptors = mapping;
        plan.descriptor_count = (size_t)kept;
        CHECK(ended(kin_spawn(&plan, failure)) == 0);
    }
    for (int number = 3; number < HIGHEST; number++)
        CHECK(!own[number] || fcntl(number, F_GETFD) == FD_CLOEXEC);
}

static void
fails(struct kin_spawn *plan, enum kin_spawn_step step, int error, int item)
{
    struct kin_spawn_failure *failure = new_failure();
    CHECK(kin_spawn(plan, failure) == -1);
    CHECK(failure->step == step);
    errno = failure->error;
    CHECK(failure->error == error);
    CHECK(failure->item == item);
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    munmap(failure, sizeof *failure);
}

static void
failures(void)
{
    for (int round = 0; round < rounds; round++) {
        char *executables[] = {"/nonexistent/a", child, NULL}, *argv[] = {child, "check", NULL};
        struct kin_spawn plan = plan_of(executables, argv);

        struct kin_spawn wrong = plan;
        wrong.cwd = "/nonexistent";
        fails(&wrong, KIN_SPAWN_CWD, ENOENT, 0);
        wrong = plan;
        wrong.cgroup_procs = "/nonexistent/cgroup.procs";
        fails(&wrong, KIN_SPAWN_CGROUP, ENOENT, 0);
        wrong = plan;
        wrong.process_group = 1 << 22;
        fails(&wrong, KIN_SPAWN_PROCESS_GROUP, EPERM, 0);
        wrong = plan;
        wrong.death_signal = 65;
        fails(&wrong, KIN_SPAWN_DEATH_SIGNAL, EINVAL, 0);

        struct kin_spawn_limit limits[] = {{RLIMIT_CORE, {0, 0}}, {RLIMIT_NOFILE, {2, 1}}};
        wrong = plan;
        wrong.limits = limits;
        wrong.limit_count = 2;
        fails(&wrong, KIN_SPAWN_RLIMITS, EINVAL, 1);

        struct kin_spawn_descriptor closed[] = {{2, 2, false}, {999, 3, false}};
        wrong = plan;
        wrong.descriptors = closed;
        wrong.descriptor_count = 2;
        fails(&wrong, KIN_SPAWN_DESCRIPTORS, EBADF, 3);

        char *nowhere[] = {"/nonexistent/a", "/nonexistent/b", NULL};
        wrong = plan;
        wrong.executables = nowhere;
        fails(&wrong, KIN_SPAWN_EXECUTABLES, ENOENT, 1);
        char *denied[] = {"/nonexistent/a", "/proc/version", "/nonexistent/b", NULL};
        wrong.executables = denied; /* what may not be run is told, as by execvp(3) */
        fails(&wrong, KIN_SPAWN_EXECUTABLES, EACCES, 1);

        struct kin_spawn_failure *failure = new_failure();
        CHECK(ended(kin_spawn(&plan, failure)) == 0);
        munmap(failure, sizeof *failure);
    }
}

/* ------------------------------------------------------------------------------------ threads */

static atomic_int handled;

static void
handle(int number)
{
    (void)number;
    atomic_fetch_add(&handled, 1);
}

static void *
start_some(void *argument)
{
    long own = (long)argument;
    struct kin_spawn_failure *failure = new_failure();
    for (int round = 0; round < rounds; round++) {
        char command[32], *executables[] = {"/bin/sh", NULL};
        char *argv[] = {"sh", "-c", command, NULL};
        int code = (int)((own * 31 + round) % 256);
        snprintf(command, sizeof command, "exit %d", code);
        struct kin_spawn plan = plan_of(executables, argv);
        plan.death_signal = SIGKILL;
        pid_t pid = round % 2 ? kin_spawn(&plan, failure) : kin_spawn_lasting(&plan, failure);
        kill(getpid(), SIGUSR1); /* comes at any time for the other threads */
        int status = ended(pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
    }
    return NULL;
}

static void
threads(void)
{
    pthread_t all[THREADS];
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&all[i], NULL, start_some, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(all[i], NULL) == 0);
    CHECK(atomic_load(&handled) > 0);
}

/* ------------------------------------------------------------------------------------ reaping */

static void *
collect(void *argument)
{
    while (!kin_child_collect(argument))
        sched_yield();
    return NULL;
}

static void
reaping(void)
{
    unsigned seed = 2;
    struct kin_watcher watching;
    struct kin_spawn_failure *failure = new_failure();
    CHECK(kin_watcher_init(&watching) == 0);
    for (int round = 0; round < rounds; round++) {
        char command[32], *executables[] = {"/bin/sh", NULL};
        char *argv[] = {"sh", "-c", command, NULL};
        snprintf(command, sizeof command, round % 5 ? "exit %d" : "kill -9 $$", round % 256);
        struct kin_spawn plan = plan_of(executables, argv);
        pid_t pid = kin_spawn(&plan, failure);
        CHECK(pid > 0);
        struct kin_child one;
        CHECK(kin_child_init(&one, pid) == 0);
        int pidfd = one.pidfd;
        CHECK(pidfd >= 0);
        struct kin_watch watch = {.fd = pidfd, .events = 1, .event_fd = -1, .child = &one};
        uint64_t number = 0;
        CHECK(kin_watcher_add(&watching, &watch, &number) == 0);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, collect, &one) == 0);
        bool abandoned = rand_r(&seed) % 2;
        if (abandoned)
            kin_child_abandon(&one);
        collect(&one);
        CHECK(pthread_join(thread, NULL) == 0);
        kin_watcher_remove(&watching, number);
        CHECK(one.error == 0);
        if (round % 5)
            CHECK(WIFEXITED(one.status) && WEXITSTATUS(one.status) == round % 256);
        else
            CHECK(WIFSIGNALED(one.status) && WTERMSIG(one.status) == SIGKILL);
        if (abandoned)
            CHECK(fcntl(pidfd, F_GETFD) < 0);
        else
            close(pidfd);
        CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
    }
    kin_watcher_end(&watching);
}

/* ------------------------------------------------------------------------------------ lasting */

static atomic_int started, starter;

static void *
start_one(void *lasting)
{
    atomic_store(&starter, (int)syscall(SYS_gettid));
    char *executables[] = {"/bin/sleep", NULL}, *argv[] = {"sleep", "1000", NULL};
    struct kin_spawn plan = plan_of(executables, argv);
    plan.death_signal = SIGKILL;
    struct kin_spawn_failure *failure = new_failure();
    atomic_store(&started, (lasting != NULL ? kin_spawn_lasting : kin_spawn)(&plan, failure));
    return NULL;
}

static bool
outlives_its_thread(bool lasting)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, start_one, lasting ? &started : NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    pid_t pid = atomic_load(&started);
    CHECK(pid > 0);
    /* join returns before the thread has sent the death signal; it is gone only after. */
    while (syscall(SYS_tgkill, getpid(), atomic_load(&starter), 0) == 0)
        sched_yield();
    kill(pid, SIGTERM);
    int status = ended(pid);
    CHECK(WIFSIGNALED(status));
    return WTERMSIG(status) == SIGTERM;
}

static void
lasting(void)
{
    for (int round = 0; round < rounds; round++)
        CHECK(outlives_its_thread(true));
    for (int round = 0; round < rounds; round++)
        CHECK(!outlives_its_thread(false)); /* the negative control */
}

int
main(int argc, char *argv[])
{
    if (argc >= 2 && strcmp(argv[1], "check") == 0)
        return check(argv + 2);
    if (argc != 4)
        return 2;
    rounds = atoi(argv[2]);
    child = argv[3];
    if (strcmp(argv[1], "descriptors") == 0)
        descriptors();
    else if (strcmp(argv[1], "failures") == 0)
        failures();
    else if (strcmp(argv[1], "threads") == 0)
        threads();
    else if (strcmp(argv[1], "reaping") == 0)
        reaping();
    else if (strcmp(argv[1], "lasting") == 0)
        lasting();
    else
        return 2;
    return 0;
}
