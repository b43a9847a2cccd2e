/* The event as threads, for the sanitizers: tests/native/test_event.py compiles and runs it.
 *
 *     event_test WHAT ROUNDS
 *
 *     rounds     one tells many, again and again; what was written before is seen after
 *     instants   set and cleared at once: who waits goes all the same
 *     brief      little patience, while others set and clear
 *     deaths     a setter ends in the middle; all who wait go
 *     finishing  a setter is stopped in the middle; who sets or clears next does the rest
 *     stops      waits that another thread ends, at any moment
 *     misuse     what is refused, and what stays after a reboot
 *
 * Ends with 0, or with a sentence and 1. A wake-up that is lost hangs: the caller sets a limit.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "event.h"
#include "futex.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

enum { THREADS = 4, EVENTS = 2 + THREADS, SIZE = sizeof(struct kin_event_object) };

/* As event.c has it. */
#define HALF_SET (UINT64_C(1) << 63 | UINT64_C(1) << 32)

static int rounds;
static char *memory; /* of EVENTS events, shared */
static struct kin_event_state *events[EVENTS];

static void
open_all(void)
{
    memset(memory, 0, EVENTS * SIZE);
    for (int i = 0; i < EVENTS; i++)
        CHECK(kin_event_open(&events[i], memory + i * SIZE, SIZE, NULL) == KIN_SOUND);
}

static void
wait_for(struct kin_event_state *event)
{
    CHECK(kin_event_wait(event, kin_event_round(event), NULL, NULL) == 0);
}

static void
start(pthread_t threads[THREADS], void *(*body)(void *))
{
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
}

static void
join(pthread_t threads[THREADS])
{
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* ------------------------------------------------------------------------------------- rounds */

static long told;          /* plain, so that ThreadSanitizer watches them */
static long heard[THREADS];

static void *
hears(void *number)
{
    long own = (long)number;
    for (int i = 0; i < rounds; i++) {
        wait_for(events[i % 2]);
        CHECK(told == i);
        heard[own] = told;
        CHECK(kin_event_set(events[2 + own]) == 0);
    }
    return NULL;
}

static void
tell_rounds(void)
{
    pthread_t threads[THREADS];
    open_all();
    start(threads, hears);
    for (int i = 0; i < rounds; i++) {
        told = i;
        CHECK(kin_event_set(events[i % 2]) == 0);
        for (int j = 0; j < THREADS; j++) {
            wait_for(events[2 + j]);
            CHECK(heard[j] == i);
            kin_event_clear(events[2 + j]);
        }
        kin_event_clear(events[i % 2]);
    }
    join(threads);
}

/* ----------------------------------------------------------------------------------- instants */

static _Atomic int waiting, gone;

static void *
waits_for_an_instant(void *unused)
{
    (void)unused;
    for (int i = 0; i < rounds; i++) {
        uint64_t round = kin_event_round(events[0]);
        waiting++;
        CHECK(kin_event_wait(events[0], round, NULL, NULL) == 0);
        gone++;
        while (gone < (i + 1) * THREADS)
            sched_yield();
    }
    return NULL;
}

static void
instants(void)
{
    pthread_t threads[THREADS];
    open_all();
    start(threads, waits_for_an_instant);
    for (int i = 0; i < rounds; i++) {
        while (waiting < (i + 1) * THREADS)
            sched_yield();
        CHECK(kin_event_set(events[0]) == 0);
        kin_event_clear(events[0]);
    }
    join(threads);
    CHECK(!kin_event_is_set(events[0]));
}

/* -------------------------------------------------------------------------------------- brief */

static void *
is_brief(void *number)
{
    unsigned seed = (unsigned)(long)number;
    for (int i = 0; i < rounds; i++) {
        struct timespec until = kin_timespec(kin_now() + (unsigned)(rand_r(&seed) % 20000));
        int error = kin_event_wait(events[0], kin_event_round(events[0]), &until, NULL);
        CHECK(error == 0 || error == ETIMEDOUT);
        if (rand_r(&seed) % 4 == 0)
            CHECK(kin_event_set(events[0]) == 0);
        if (rand_r(&seed) % 4 == 0)
            kin_event_clear(events[0]);
    }
    return NULL;
}

static void
brief(void)
{
    pthread_t threads[THREADS];
    struct timespec past = {0, 0};
    open_all();
    start(threads, is_brief);
    join(threads);
    kin_event_clear(events[0]);
    uint64_t before = events[0]->word;
    CHECK(kin_event_wait(events[0], kin_event_round(events[0]), &past, NULL) == ETIMEDOUT);
    CHECK(events[0]->word == before); /* it was not told of a sleeper */
}

/* ------------------------------------------------------------------------- deaths, finishing */

static void *
waits(void *unused)
{
    uint64_t round = kin_event_round(events[0]);
    (void)unused;
    waiting++;
    CHECK(kin_event_wait(events[0], round, NULL, NULL) == 0);
    return NULL;
}

static void
until_they_sleep(void)
{
    while (waiting < THREADS)
        sched_yield();
    /* Before they have marked it, a half set one would be wrong. After that it does not matter whether they sleep. */
    while (!(events[0]->word & FUTEX_WAITERS))
        sched_yield();
}

static void *
half_sets(void *unused)
{
    (void)unused;
    kin_robust_begin(kin_thread(), (void *)((char *)events[0] + KIN_ROBUST_NODE_OFFSET));
    atomic_store(&events[0]->word, HALF_SET);
    return NULL; /* pending */
}

static void
deaths(void)
{
    for (int i = 0; i < rounds; i++) {
        pthread_t threads[THREADS], setter;
        open_all();
        waiting = 0;
        start(threads, waits);
        until_they_sleep();
        CHECK(pthread_create(&setter, NULL, half_sets, NULL) == 0);
        CHECK(pthread_join(setter, NULL) == 0);
        join(threads);
        CHECK(kin_event_is_set(events[0]));
    }
}

static void
finishing(void)
{
    for (int i = 0; i < rounds; i++) {
        pthread_t threads[THREADS];
        open_all();
        waiting = 0;
        start(threads, waits);
        until_they_sleep();
        atomic_store(&events[0]->word, HALF_SET);
        if (i % 2)
            kin_event_clear(events[0]);
        else
            CHECK(kin_event_set(events[0]) == 0);
        join(threads);
    }
}

/* -------------------------------------------------------------------------------------- stops */

static struct kin_event_stop stop_by;

static void *
waits_until_stopped(void *unused)
{
    struct timespec later = kin_timespec(kin_now() + (uint64_t)KIN_SECOND * 3600);
    int error = kin_event_wait(events[0], kin_event_round(events[0]), unused ? &later : NULL,
                               &stop_by);
    CHECK(error == ECANCELED);
    return NULL;
}

static void
stops(void)
{
    unsigned seed = 7;
    open_all();
    for (int i = 0; i < rounds; i++) {
        pthread_t thread;
        memset(&stop_by, 0, sizeof stop_by);
        CHECK(pthread_create(&thread, NULL, waits_until_stopped, i % 2 ? &thread : NULL) == 0);
        for (uint64_t end = kin_now() + (unsigned)(rand_r(&seed) % 60000); kin_now() < end;)
            sched_yield();
        kin_event_stop_wait(events[0], &stop_by);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    kin_event_set(events[0]);
    memset(&stop_by, 0, sizeof stop_by);
    kin_event_stop_wait(events[0], &stop_by);
    CHECK(kin_event_wait(events[0], 0, NULL, &stop_by) == 0); /* what is set comes first */
}

/* ------------------------------------------------------------------------------------- misuse */

static void
nothing(int number)
{
    (void)number;
}

static void *
is_interrupted(void *unused)
{
    (void)unused;
    CHECK(kin_event_wait(events[0], kin_event_round(events[0]), NULL, NULL) == EINTR);
    return NULL;
}

static void
misuse(void)
{
    struct kin_event_state *again;
    struct kin_mutex mutex;
    struct sigaction action = {.sa_handler = nothing};
    pthread_t thread;
    CHECK(kin_event_open(&again, memory + 8, SIZE, NULL) == KIN_MISPLACED && again == NULL);
    CHECK(kin_event_open(&again, memory, SIZE - 1, NULL) == KIN_MISPLACED);
    memory[SIZE - 1] = 1;
    CHECK(kin_event_open(&again, memory, SIZE, NULL) == KIN_ALIEN);
    open_all();
    CHECK(!kin_event_is_set(events[0]));
    CHECK(kin_mutex_open(&mutex, memory, KIN_MUTEX_SIZE) == KIN_OTHER_KIND);

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, is_interrupted, NULL) == 0);
    while (pthread_tryjoin_np(thread, NULL) != 0) /* it may not sleep yet */
        pthread_kill(thread, SIGUSR1), sched_yield();

    for (int set = 0; set < 2; set++) {
        struct kin_object_header *header = (void *)memory;
        if (set)
            CHECK(kin_event_set(events[0]) == 0);
        header->boot_id[0] ^= 1;
        events[0]->word |= set ? UINT64_C(1) << 63 : FUTEX_WAITERS;
        CHECK(kin_event_open(&again, memory, SIZE, NULL) == KIN_OTHER_BOOT);
        kin_event_repair(memory);
        CHECK(kin_event_open(&again, memory, SIZE, NULL) == KIN_SOUND && again == events[0]);
        CHECK(kin_event_is_set(again) == set);
        CHECK(!(again->word & (UINT64_C(1) << 63 | FUTEX_WAITERS)));
    }
}

int
main(int argc, char *argv[])
{
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {{"rounds", tell_rounds}, {"instants", instants},   {"brief", brief},
               {"deaths", deaths},      {"finishing", finishing}, {"stops", stops},
               {"misuse", misuse}};
    if (argc != 3)
        return 2;
    rounds = atoi(argv[2]);
    memory = mmap(NULL, EVENTS * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(argv[1], all[i].name) == 0) {
            all[i].run();
            return 0;
        }
    return 2;
}
