/* The robust mutex as threads, for the sanitizers: tests/native/test_mutex.py compiles and runs it.
 *
 *     mutex_test WHAT ROUNDS
 *
 *     turns        threads take turns, some with little patience; nobody meets another inside
 *     deaths       threads end while they hold it; the next one is told, and nobody else
 *     making       threads open blank memory at the same moment: one mutex
 *     neighbours   held and released in any order, with robust mutexes of glibc's between: the list stays whole
 *     overwritten  its memory is zeroed while it is held: an error, and the list stays whole
 *     forks        a forked child has nothing of what its parent holds
 *     fairness     against one who never lets go for longer than an instant
 *     misuse       what is refused
 *
 * Ends with 0, or with a sentence and 1. A wake-up that is lost hangs: the caller sets a limit.
 */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "futex.h"
#include "sync_object.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

enum { THREADS = 4, OURS = 6, THEIRS = 3 };

static int rounds;
static char *memory; /* of OURS mutexes, shared */
static struct kin_mutex mutex;

static void *
place(int number)
{
    return memory + number * KIN_MUTEX_SIZE;
}

static void
open_it(struct kin_mutex *opened, int number)
{
    CHECK(kin_mutex_open(opened, place(number), KIN_MUTEX_SIZE) == KIN_SOUND);
}

static struct timespec
soon(long nanoseconds)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += nanoseconds;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

static void
run_threads(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* The list of this thread, as the kernel walks it: how many nodes of ours and of others. */
static int
walk(void)
{
    struct robust_list_head *head = kin_thread()->head;
    int count = -1;
    for (struct robust_list *entry = &head->list; count < 0 || entry != &head->list; count++) {
        CHECK(count < 1000);
        entry = (struct robust_list *)(void *)((uintptr_t)entry->next & ~(uintptr_t)1); /* PI */
    }
    CHECK(count > 0 || head->list_op_pending == NULL);
    return count;
}

/* ------------------------------------------------------------------------------------- turns */

static long first, second; /* what it guards: plain, so that ThreadSanitizer watches them */

static void *
takes_turns(void *number)
{
    unsigned seed = (unsigned)(long)number;
    for (int i = 0; i < rounds; i++) {
        struct timespec deadline = soon(rand_r(&seed) % 20000);
        int error = kin_mutex_lock(&mutex, rand_r(&seed) % 4 ? NULL : &deadline);
        if (error == ETIMEDOUT)
            continue;
        CHECK(error == 0);
        CHECK(first == second);
        first++;
        if (rand_r(&seed) % 50 == 0)
            sched_yield();
        second++;
        CHECK(kin_mutex_unlock(&mutex) == 0);
    }
    return NULL;
}

static void
turns(void)
{
    open_it(&mutex, 0);
    run_threads(takes_turns);
    CHECK(first == second && kin_mutex_holder(&mutex) == 0);
    CHECK(kin_mutex_close(&mutex) == 0);
}

/* ------------------------------------------------------------------------------------- deaths */

static void *
dies(void *unused)
{
    int error = kin_mutex_lock(&mutex, NULL);
    CHECK(error == (unused == NULL ? 0 : EOWNERDEAD));
    CHECK(kin_mutex_owner_died(&mutex) == (error != 0));
    first++;
    return NULL;
}

static void
deaths(void)
{
    open_it(&mutex, 0);
    for (int i = 0; i < rounds; i++) {
        pthread_t thread;
        bool twice = i % 3 == 0;
        for (int j = 0; j <= twice; j++) {
            CHECK(pthread_create(&thread, NULL, dies, j ? &thread : NULL) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
        }
        CHECK(kin_mutex_trylock(&mutex) == EOWNERDEAD && kin_mutex_owner_died(&mutex));
        CHECK(kin_mutex_unlock(&mutex) == 0);
        CHECK(kin_mutex_lock(&mutex, NULL) == 0 && !kin_mutex_owner_died(&mutex));
        CHECK(kin_mutex_unlock(&mutex) == 0);
    }
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, dies, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(kin_mutex_close(&mutex) == 0); /* whoever held it is gone */
}

/* ------------------------------------------------------------------------------------- making */

static pthread_barrier_t barrier;

static void *
makes(void *unused)
{
    (void)unused;
    for (int i = 0; i < rounds; i++) {
        struct kin_mutex own;
        pthread_barrier_wait(&barrier);
        open_it(&own, 0);
        CHECK(kin_mutex_lock(&own, NULL) == 0);
        first++;
        CHECK(kin_mutex_unlock(&own) == 0);
        pthread_barrier_wait(&barrier);
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            memset(place(0), 0, KIN_MUTEX_SIZE);
    }
    return NULL;
}

static void
making(void)
{
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    run_threads(makes);
    CHECK(first == (long)rounds * THREADS);
}

/* --------------------------------------------------------------------------------- neighbours */

static void
make_theirs(pthread_mutex_t theirs[THEIRS])
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < THEIRS; i++) {
        pthread_mutexattr_setprotocol(&attributes, i ? PTHREAD_PRIO_NONE : PTHREAD_PRIO_INHERIT);
        CHECK(pthread_mutex_init(&theirs[i], &attributes) == 0);
    }
}

static void *
neighbours_of(void *number)
{
    struct kin_mutex ours[OURS];
    pthread_mutex_t theirs[THEIRS];
    bool held[OURS + THEIRS] = {false};
    unsigned seed = (unsigned)(long)number;
    int count = 0;
    char *own = memory + (1 + (long)number) * OURS * KIN_MUTEX_SIZE;
    for (int i = 0; i < OURS; i++)
        CHECK(kin_mutex_open(&ours[i], own + i * KIN_MUTEX_SIZE, KIN_MUTEX_SIZE) == KIN_SOUND);
    make_theirs(theirs);
    for (int i = 0; i < rounds; i++) {
        int which = rand_r(&seed) % (OURS + THEIRS);
        if (which < OURS)
            CHECK((held[which] ? kin_mutex_unlock(&ours[which])
                               : kin_mutex_lock(&ours[which], NULL)) == 0);
        else
            CHECK((held[which] ? pthread_mutex_unlock(&theirs[which - OURS])
                               : pthread_mutex_lock(&theirs[which - OURS])) == 0);
        held[which] = !held[which];
        count += held[which] ? 1 : -1;
        CHECK(walk() == count);
    }
    for (int i = 0; i < OURS; i++)
        if (held[i])
            CHECK(kin_mutex_unlock(&ours[i]) == 0);
    for (int i = 0; i < THEIRS; i++)
        if (held[OURS + i])
            CHECK(pthread_mutex_unlock(&theirs[i]) == 0);
    CHECK(walk() == 0);
    return NULL;
}

static void
neighbours(void)
{
    run_threads(neighbours_of);
}

/* -------------------------------------------------------------------------------- overwritten */

static void
overwritten(void)
{
    struct kin_mutex ours[OURS];
    unsigned seed = 7;
    for (int i = 0; i < rounds; i++) {
        int victim = rand_r(&seed) % OURS, value = rand_r(&seed) % 2 ? 0 : rand_r(&seed);
        for (int j = 0; j < OURS; j++) {
            open_it(&ours[j], j);
            CHECK(kin_mutex_lock(&ours[j], NULL) == 0);
        }
        memset(place(victim), value, KIN_MUTEX_SIZE);
        CHECK(kin_mutex_lock(&ours[victim], NULL) == EILSEQ); /* and not linked twice */
        CHECK(kin_mutex_close(&ours[victim]) == EBUSY);
        for (int j = 0, first_one = rand_r(&seed) % OURS; j < OURS; j++) {
            int which = (first_one + j) % OURS;
            CHECK(kin_mutex_unlock(&ours[which]) == (which == victim ? EILSEQ : 0));
            CHECK(kin_mutex_close(&ours[which]) == 0);
        }
        CHECK(walk() == 0);
        memset(place(victim), 0, KIN_MUTEX_SIZE);
    }
}

/* ----------------------------------------------------------------------------------- fairness */

enum { HOLD = 200000, MOST_TURNS = 500 }; /* nanoseconds; turns that another has while one waits */

static _Atomic long hogged;
static _Atomic bool over;

/* On a CPU of its own, if there are two: there it is that who sleeps comes too late. */
static void
stay_on(int which)
{
    cpu_set_t allowed, one;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && seen++ == which) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            CHECK(pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0);
        }
}

static void *
hogs(void *unused)
{
    struct kin_mutex own; /* as in another process */
    (void)unused;
    open_it(&own, 0);
    stay_on(0);
    while (!over) {
        CHECK(kin_mutex_lock(&own, NULL) == 0);
        for (uint64_t end = kin_now() + HOLD; kin_now() < end;)
            ;
        hogged++;
        CHECK(kin_mutex_unlock(&own) == 0);
    }
    return NULL;
}

static void
fairness(void)
{
    pthread_t hog;
    open_it(&mutex, 0);
    CHECK(pthread_create(&hog, NULL, hogs, NULL) == 0);
    stay_on(1);
    for (int i = 0; i < rounds; i++) {
        long before = hogged;
        while (hogged < before + 2)
            sched_yield();
        before = hogged;
        CHECK(kin_mutex_lock(&mutex, NULL) == 0);
        CHECK(hogged - before <= MOST_TURNS);
        CHECK(kin_mutex_unlock(&mutex) == 0);
    }
    over = true;
    CHECK(pthread_join(hog, NULL) == 0);
}

/* -------------------------------------------------------------------------------------- forks */

static void
forks(void)
{
    struct kin_mutex other;
    open_it(&mutex, 0);
    open_it(&other, 1);
    for (int i = 0; i < rounds; i++) {
        int status;
        CHECK(kin_mutex_lock(&mutex, NULL) == 0);
        pid_t child = fork();
        if (child == 0) {
            CHECK(walk() == 0);
            CHECK(kin_mutex_unlock(&mutex) == EPERM);
            CHECK(kin_mutex_trylock(&mutex) == EBUSY);
            CHECK(kin_mutex_lock(&other, NULL) == 0);
            CHECK(kin_mutex_close(&mutex) == 0); /* none of its own */
            _exit(kin_mutex_close(&other) == EBUSY ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(kin_mutex_lock(&other, NULL) == EOWNERDEAD && kin_mutex_unlock(&other) == 0);
        CHECK(kin_mutex_unlock(&mutex) == 0);
    }
}

/* ------------------------------------------------------------------------------------- misuse */

static void
nothing(int number)
{
    (void)number;
}

static void *
has_it_not(void *main_thread)
{
    struct timespec past = {0, 0}, later = soon(2000000);
    CHECK(kin_mutex_unlock(&mutex) == EPERM && kin_mutex_give_up(&mutex) == EPERM);
    CHECK(kin_mutex_trylock(&mutex) == EBUSY);
    CHECK(kin_mutex_lock(&mutex, &past) == ETIMEDOUT);
    CHECK(kin_mutex_lock(&mutex, &later) == ETIMEDOUT);
    struct timespec time = soon(0);
    CHECK(time.tv_sec > later.tv_sec || time.tv_nsec >= later.tv_nsec);
    (void)main_thread;
    return NULL;
}

static void *
is_interrupted(void *unused)
{
    (void)unused;
    CHECK(kin_mutex_lock(&mutex, NULL) == EINTR);
    return NULL;
}

static void
misuse(void)
{
    struct kin_mutex again;
    struct sigaction action = {.sa_handler = nothing};
    pthread_t thread;
    CHECK(kin_mutex_open(&mutex, memory + 8, KIN_MUTEX_SIZE) == KIN_MISPLACED);
    CHECK(kin_mutex_open(&mutex, memory, KIN_MUTEX_SIZE - 1) == KIN_MISPLACED);
    memory[5] = 1;
    CHECK(kin_mutex_open(&mutex, memory, KIN_MUTEX_SIZE) == KIN_ALIEN);
    memory[5] = 0;
    open_it(&mutex, 0);
    open_it(&again, 0);
    CHECK(kin_mutex_unlock(&mutex) == EPERM);
    CHECK(kin_mutex_lock(&mutex, NULL) == 0);
    CHECK(kin_mutex_lock(&mutex, NULL) == EDEADLK && kin_mutex_lock(&again, NULL) == EDEADLK);
    CHECK(kin_mutex_unlock(&again) == EPERM);
    CHECK(kin_mutex_close(&mutex) == EBUSY && kin_mutex_close(&again) == 0);
    CHECK(pthread_create(&thread, NULL, has_it_not, NULL) == 0 && pthread_join(thread, NULL) == 0);

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, is_interrupted, NULL) == 0);
    while (pthread_tryjoin_np(thread, NULL) != 0) /* it may not sleep yet */
        pthread_kill(thread, SIGUSR1), sched_yield();

    struct kin_object_header *header = place(0);
    header->boot_id[0] ^= 1;
    CHECK(kin_mutex_open(&again, memory, KIN_MUTEX_SIZE) == KIN_OTHER_BOOT);
    kin_mutex_repair(memory);
    CHECK(kin_mutex_open(&again, memory, KIN_MUTEX_SIZE) == KIN_SOUND);
    CHECK(kin_mutex_unlock(&mutex) == EILSEQ); /* from before the boot, as it were */
    CHECK(kin_mutex_lock(&again, NULL) == EOWNERDEAD);
    CHECK(kin_mutex_give_up(&again) == 0);
    CHECK(kin_mutex_lock(&mutex, NULL) == ENOTRECOVERABLE);
    header->pid_namespace++;
    CHECK(kin_mutex_open(&again, memory, KIN_MUTEX_SIZE) == KIN_OTHER_NAMESPACE);
    header->pid_namespace--;
    header->kind++;
    CHECK(kin_mutex_open(&again, memory, KIN_MUTEX_SIZE) == KIN_OTHER_KIND);
    header->version++;
    CHECK(kin_mutex_open(&again, memory, KIN_MUTEX_SIZE) == KIN_OTHER_VERSION);
}

int
main(int argc, char *argv[])
{
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {{"turns", turns},           {"deaths", deaths}, {"making", making},
               {"neighbours", neighbours}, {"overwritten", overwritten},
               {"fairness", fairness},     {"forks", forks},   {"misuse", misuse}};
    if (argc != 3)
        return 2;
    rounds = atoi(argv[2]);
    memory = mmap(NULL, (1 + THREADS) * OURS * KIN_MUTEX_SIZE, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(argv[1], all[i].name) == 0) {
            all[i].run();
            return 0;
        }
    return 2;
}
