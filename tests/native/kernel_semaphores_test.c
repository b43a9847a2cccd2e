/* The waits for the kernel's semaphores as threads, for the sanitizers: tests/native/test_kernel_semaphores.py
 * compiles and runs it.
 *
 *     kernel_semaphores_test WHAT KIND ROUNDS SET
 *
 *     wakes       who waits is woken at every moment of its call
 *     deadlines   every wait ends by its deadline, none before
 *     traffic     as many are taken as are put in, while who takes is woken at random
 *     restarting  the same as wakes, with a handler of somebody's that restarts calls (SA_RESTART)
 *
 * KIND is posix or set. SET is the id of a set of one semaphore, 0, which the caller removes. Ends with 0, or with a
 * sentence and 1. A wake-up that is lost hangs: the caller sets a limit.
 */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernel_semaphores.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

static bool posix;
static int rounds, set;
static sem_t sem;
static struct kin_wait wait_object;

static int
take(int milliseconds)
{
    struct sembuf operation = {0, -1, 0};
    return posix ? kin_sem_wait(&wait_object, &sem, milliseconds)
                 : kin_set_wait(&wait_object, set, &operation, 1, milliseconds);
}

static void
put(void)
{
    struct sembuf operation = {0, 1, 0};
    CHECK((posix ? sem_post(&sem) : semop(set, &operation, 1)) == 0);
}

static void
spin(unsigned *seed, unsigned most)
{
    for (volatile unsigned left = (unsigned)rand_r(seed) % most; left > 0; left--)
        ;
}

static double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* -------------------------------------------------------------------------------------- wakes */

static pthread_barrier_t barrier;

static void *
blocks(void *unused)
{
    unsigned seed = 1;
    (void)unused;
    for (int i = 0; i < rounds; i++) {
        pthread_barrier_wait(&barrier);
        spin(&seed, 1000);
        CHECK(take(KIN_WAIT_FOREVER) == KIN_WAIT_AGAIN);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void
wakes(void)
{
    pthread_t thread;
    unsigned seed = 2;
    CHECK(pthread_create(&thread, NULL, blocks, NULL) == 0);
    for (int i = 0; i < rounds; i++) {
        pthread_barrier_wait(&barrier);
        spin(&seed, 4000);
        kin_wait_wake(&wait_object);
        pthread_barrier_wait(&barrier);
    }
    pthread_join(thread, NULL);
}

static void
handler(int signal_number)
{
    (void)signal_number;
}

static void
restarting(void)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGURG, &action, NULL) == 0);
    wakes();
    CHECK(sigaction(SIGURG, NULL, &action) == 0 && action.sa_handler == handler);
}

/* ---------------------------------------------------------------------------------- deadlines */

static void
deadlines(void)
{
    unsigned seed = 4;
    CHECK(take(0) == KIN_WAIT_AGAIN);
    for (int i = 0; i < rounds; i++) {
        int milliseconds = 1 + rand_r(&seed) % 3;
        double start = now();
        CHECK(take(milliseconds) == KIN_WAIT_AGAIN);
        CHECK(now() - start >= milliseconds / 1e3);
    }
}

/* ------------------------------------------------------------------------------------ traffic */

static atomic_bool over;

static void *
puts_in(void *unused)
{
    unsigned seed = 5;
    (void)unused;
    for (int i = 0; i < rounds; i++) {
        spin(&seed, 2000);
        put();
    }
    return NULL;
}

static void *
disturbs(void *unused)
{
    unsigned seed = 6;
    (void)unused;
    while (!atomic_load(&over)) {
        spin(&seed, 20000);
        kin_wait_wake(&wait_object);
    }
    return NULL;
}

static void
traffic(void)
{
    pthread_t putter, disturber;
    CHECK(pthread_create(&putter, NULL, puts_in, NULL) == 0);
    CHECK(pthread_create(&disturber, NULL, disturbs, NULL) == 0);
    for (int taken = 0; taken < rounds;) {
        int result = take(taken % 2 ? KIN_WAIT_FOREVER : 5);
        CHECK(result == KIN_WAIT_DONE || result == KIN_WAIT_AGAIN);
        taken += result == KIN_WAIT_DONE;
    }
    pthread_join(putter, NULL);
    atomic_store(&over, true);
    pthread_join(disturber, NULL);
    CHECK(take(1) == KIN_WAIT_AGAIN); /* nothing is left */
}

int
main(int argc, char *argv[])
{
    if (argc != 5)
        return 2;
    posix = strcmp(argv[2], "posix") == 0;
    rounds = atoi(argv[3]);
    set = atoi(argv[4]);
    sem_t blank;
    memset(&blank, 0, sizeof blank);
    CHECK(kin_sem_make(&sem, 7) && kin_sem_is_one(&sem));
    CHECK(kin_sem_make(&sem, 0) && kin_sem_is_one(&sem) && !kin_sem_is_one(&blank));
    CHECK((posix ? kin_sem_wait_init(&wait_object) : kin_wait_init(&wait_object)) == 0);
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    if (strcmp(argv[1], "wakes") == 0)
        wakes();
    else if (strcmp(argv[1], "restarting") == 0)
        restarting();
    else if (strcmp(argv[1], "deadlines") == 0)
        deadlines();
    else if (strcmp(argv[1], "traffic") == 0)
        traffic();
    else
        return 2;
    return 0;
}
