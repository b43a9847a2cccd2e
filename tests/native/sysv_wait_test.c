/* The wait core as threads, for the sanitizers: tests/native/test_sysv_wait.py compiles and runs it.
 *
 *     sysv_wait_test WHAT ROUNDS QUEUE
 *
 *     wakes       a blocked receiver is woken at every moment of its call
 *     deadlines   every wait ends by its deadline, none before
 *     traffic     messages pass while both ends are woken at random: each once
 *     watcher     the same wakes, by the watcher, when a pipe hangs up
 *
 * QUEUE is the id of an empty queue, which the caller removes. Ends with 0, or with a sentence and
 * 1. A wake-up that is lost hangs: the caller sets a limit.
 */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <time.h>
#include <unistd.h>

#include "sysv_wait.h"
#include "watcher.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

static int queue;
static int rounds;

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

/* ------------------------------------------------------------------------- wakes, by whomever */

static struct kin_wait wait_object;
static pthread_barrier_t barrier;

static void *
blocks(void *unused)
{
    (void)unused;
    long type;
    unsigned seed = 1;
    for (int i = 0; i < rounds; i++) {
        pthread_barrier_wait(&barrier);
        spin(&seed, 1000);
        CHECK(kin_wait_for_message(&wait_object, queue, 0, KIN_WAIT_FOREVER, &type) ==
              KIN_WAIT_AGAIN);
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
watcher(void)
{
    struct kin_watcher watching;
    pthread_t thread;
    unsigned seed = 3;
    CHECK(kin_watcher_init(&watching) == 0);
    CHECK(pthread_create(&thread, NULL, blocks, NULL) == 0);
    for (int i = 0; i < rounds; i++) {
        int ends[2];
        uint64_t number = 0;
        CHECK(pipe(ends) == 0);
        pthread_barrier_wait(&barrier);
        struct kin_watch watch = {.fd = ends[0], .event_fd = -1, .wait = &wait_object};
        CHECK(kin_watcher_add(&watching, &watch, &number) == 0);
        spin(&seed, 4000);
        close(ends[1]);
        pthread_barrier_wait(&barrier);
        kin_watcher_remove(&watching, number);
        close(ends[0]);
        if (i % 10 == 0) { /* as around a fork */
            kin_watcher_before_fork(&watching);
            kin_watcher_after_fork_in_parent(&watching);
        }
    }
    pthread_join(thread, NULL);
    kin_watcher_end(&watching);
}

/* --------------------------------------------------------------------------------- deadlines */

static void
deadlines(void)
{
    unsigned seed = 4;
    long type;
    for (int i = 0; i < rounds; i++) {
        int milliseconds = 1 + rand_r(&seed) % 3;
        double start = now();
        CHECK(kin_wait_for_message(&wait_object, queue, 0, milliseconds, &type) == KIN_WAIT_AGAIN);
        CHECK(now() - start >= milliseconds / 1e3);
    }
}

/* ----------------------------------------------------------------------------------- traffic */

static struct kin_wait sends_by, receives_by;
static atomic_bool over;

static void *
sends(void *unused)
{
    (void)unused;
    static struct {
        long type;
        int number;
    } message = {.type = 1};
    for (message.number = 0; message.number < rounds; message.number++)
        for (;;) {
            int result = kin_wait_to_send(&sends_by, queue, (struct kin_sysv_message *)&message,
                                          sizeof message.number, 5);
            if (result == KIN_WAIT_DONE)
                break;
            CHECK(result == KIN_WAIT_AGAIN);
        }
    return NULL;
}

static void *
disturbs(void *unused)
{
    (void)unused;
    unsigned seed = 5;
    while (!atomic_load(&over)) {
        spin(&seed, 20000);
        kin_wait_wake(rand_r(&seed) % 2 ? &sends_by : &receives_by);
    }
    return NULL;
}

static void
traffic(void)
{
    pthread_t sender, disturber;
    struct {
        long type;
        int number;
    } message;
    long type;
    struct msqid_ds status;
    CHECK(msgctl(queue, IPC_STAT, &status) == 0);
    status.msg_qbytes = 16; /* four messages fill it */
    CHECK(msgctl(queue, IPC_SET, &status) == 0);
    CHECK(pthread_create(&sender, NULL, sends, NULL) == 0);
    CHECK(pthread_create(&disturber, NULL, disturbs, NULL) == 0);
    for (int expected = 0; expected < rounds;) {
        ssize_t length = msgrcv(queue, &message, sizeof message.number, 0, IPC_NOWAIT);
        if (length < 0) {
            CHECK(errno == ENOMSG);
            int result = kin_wait_for_message(&receives_by, queue, 0, 5, &type);
            CHECK(result == KIN_WAIT_AGAIN);
            continue;
        }
        CHECK(message.number == expected);
        expected++;
    }
    pthread_join(sender, NULL);
    atomic_store(&over, true);
    pthread_join(disturber, NULL);
    CHECK(msgrcv(queue, &message, sizeof message.number, 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
}

int
main(int argc, char *argv[])
{
    if (argc != 4)
        return 2;
    rounds = atoi(argv[2]);
    queue = atoi(argv[3]);
    CHECK(kin_wait_init(&wait_object) == 0);
    CHECK(kin_wait_init(&sends_by) == 0 && kin_wait_init(&receives_by) == 0);
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    if (strcmp(argv[1], "wakes") == 0)
        wakes();
    else if (strcmp(argv[1], "deadlines") == 0)
        deadlines();
    else if (strcmp(argv[1], "traffic") == 0)
        traffic();
    else if (strcmp(argv[1], "watcher") == 0)
        watcher();
    else
        return 2;
    return 0;
}
