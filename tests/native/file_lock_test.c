/* Waiting for locks on files as threads, for the sanitizers: tests/native/test_file_lock.py compiles and runs it.
 *
 *     file_lock_test WHAT ROUNDS FILE
 *
 *     wakes       a blocked waiter is woken at every moment of its call
 *     deadlines   every wait ends by its deadline, none before; also where SIGURG restarts system calls
 *     turns       threads that each have opened FILE take turns, and are woken at random: one at a time, and all
 *                 come to their end
 *
 * Each by OFD locks, then by flock. Ends with 0, or with a sentence and 1. A wake-up that is lost hangs: the caller
 * sets a limit.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "file_lock.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

static int rounds;
static const char *path;
static bool by_flock;
static struct kin_wait waits[4];

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

static int
opened(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    return fd;
}

static struct kin_file_lock
lock_of(int fd)
{
    return by_flock ? (struct kin_file_lock){fd, KIN_BY_FLOCK, LOCK_EX, 0, 0}
                    : (struct kin_file_lock){fd, F_OFD_SETLKW, F_WRLCK, 10, 5};
}

static void
unlock(int fd)
{
    struct flock range = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    CHECK((by_flock ? flock(fd, LOCK_UN) : fcntl(fd, F_OFD_SETLK, &range)) == 0);
}

/* ------------------------------------------------------------------------------------- wakes */

static pthread_barrier_t barrier;

static void *
blocks(void *unused)
{
    (void)unused;
    unsigned seed = 1;
    struct kin_file_lock lock = lock_of(opened());
    for (int i = 0; i < rounds; i++) {
        pthread_barrier_wait(&barrier);
        spin(&seed, 1000);
        CHECK(kin_file_lock_wait(&waits[0], &lock, KIN_WAIT_FOREVER) == KIN_WAIT_AGAIN);
        pthread_barrier_wait(&barrier);
    }
    close(lock.fd);
    return NULL;
}

static void
wakes(void)
{
    pthread_t thread;
    unsigned seed = 2;
    struct kin_file_lock lock = lock_of(opened());
    CHECK(kin_file_lock_wait(&waits[1], &lock, KIN_WAIT_FOREVER) == KIN_WAIT_DONE);
    CHECK(pthread_create(&thread, NULL, blocks, NULL) == 0);
    for (int i = 0; i < rounds; i++) {
        pthread_barrier_wait(&barrier);
        spin(&seed, 4000);
        kin_wait_wake(&waits[0]);
        pthread_barrier_wait(&barrier);
    }
    pthread_join(thread, NULL);
    close(lock.fd);
}

/* --------------------------------------------------------------------------------- deadlines */

static void
ignore(int signal_number)
{
    (void)signal_number;
}

static void
deadlines(void)
{
    unsigned seed = 3;
    struct kin_file_lock had = lock_of(opened()), lock = lock_of(opened());
    CHECK(kin_file_lock_wait(&waits[1], &had, KIN_WAIT_FOREVER) == KIN_WAIT_DONE);
    for (int i = 0; i < rounds; i++) {
        struct sigaction restarting = {.sa_handler = ignore, .sa_flags = SA_RESTART};
        if (i % 3 == 0)
            sigaction(SIGURG, &restarting, NULL);
        int milliseconds = 1 + rand_r(&seed) % 3;
        double start = now();
        CHECK(kin_file_lock_wait(&waits[0], &lock, milliseconds) == KIN_WAIT_AGAIN);
        CHECK(now() - start >= milliseconds / 1e3);
    }
    close(had.fd);
    CHECK(kin_file_lock_wait(&waits[0], &lock, 1) == KIN_WAIT_DONE);
    close(lock.fd);
}

/* ------------------------------------------------------------------------------------- turns */

static atomic_int inside, over;

static void *
takes_turns(void *own)
{
    struct kin_wait *wait = own;
    struct kin_file_lock lock = lock_of(opened());
    for (int i = 0; i < rounds;) {
        int result = kin_file_lock_wait(wait, &lock, 5);
        CHECK(result == KIN_WAIT_DONE || result == KIN_WAIT_AGAIN);
        if (result == KIN_WAIT_AGAIN)
            continue;
        CHECK(atomic_fetch_add(&inside, 1) == 0);
        CHECK(atomic_fetch_sub(&inside, 1) == 1);
        unlock(lock.fd);
        i++;
    }
    close(lock.fd);
    atomic_fetch_add(&over, 1);
    return NULL;
}

static void
turns(void)
{
    pthread_t threads[3];
    unsigned seed = 4;
    atomic_store(&over, 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, takes_turns, &waits[i]) == 0);
    while (atomic_load(&over) < 3) {
        spin(&seed, 20000);
        kin_wait_wake(&waits[rand_r(&seed) % 3]);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

int
main(int argc, char *argv[])
{
    if (argc != 4)
        return 2;
    rounds = atoi(argv[2]);
    path = argv[3];
    for (int i = 0; i < 4; i++)
        CHECK(kin_file_lock_init(&waits[i]) == 0);
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    for (int kind = 0; kind < 2; kind++) {
        by_flock = kind == 1;
        if (strcmp(argv[1], "wakes") == 0)
            wakes();
        else if (strcmp(argv[1], "deadlines") == 0)
            deadlines();
        else if (strcmp(argv[1], "turns") == 0)
            turns();
        else
            return 2;
    }
    return 0;
}
