/* Cases of the mutex, for harness.c. With -DPLAIN it is one that the kernel knows nothing of: the negative control.
 *
 * What the mutex guards are two numbers, which are equal when nobody is at them.
 */

#include "harness.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sync_object.h"

struct shared {
    struct kin_object object;
    pthread_mutex_t plain;
    pthread_mutex_t robust; /* glibc's, in the same robust list */
    _Atomic uint32_t go;
    pid_t victim;
    _Atomic long first, second;
    char other[2][KIN_MUTEX_SIZE] __attribute__((aligned(KIN_MUTEX_ALIGNMENT)));
};

enum { TURNS = 500 };

/* Each process has its own copy. */
static struct kin_mutex mutex;
#ifndef PLAIN
static struct kin_mutex others[2];
static bool strict;
#endif

/* ------------------------------------------------------------------------------- the mutex */

static void
open_mutex(struct shared *shared)
{
    if (mutex.state == NULL &&
        kin_mutex_open(&mutex, &shared->object, sizeof shared->object) != KIN_SOUND)
        violated("the mutex can't be opened");
}

static int
lock(struct shared *shared)
{
#ifdef PLAIN
    return pthread_mutex_lock(&shared->plain);
#else
    (void)shared;
    int error;
    do
        error = kin_mutex_take(&mutex, NULL, strict ? KIN_MUTEX_STRICT : 0);
    while (error == EINTR);
    return error;
#endif
}

static void
unlock(struct shared *shared)
{
#ifdef PLAIN
    pthread_mutex_unlock(&shared->plain);
#else
    (void)shared;
    if (kin_mutex_unlock(&mutex) != 0)
        violated("can't unlock what is locked");
#endif
}

static void
change(struct shared *shared)
{
    long first = shared->first;
    if (first != shared->second)
        violated("somebody else is at it");
    shared->first = first + 1;
    for (volatile int i = 0; i < 50; i++)
        ;
    if (shared->second != first)
        violated("somebody else came in");
    shared->second = first + 1;
}

/* Locked; repairs what it finds, if it was told of it. */
static void
enter(struct shared *shared)
{
    int error = lock(shared);
    if (error == EOWNERDEAD)
        shared->second = shared->first;
    else if (error != 0)
        violated("can't lock");
}

static void
turn(void *memory)
{
    enter(memory);
    change(memory);
    unlock(memory);
}

/* ------------------------------------------------------------------------------- the parts */

static void
prepare(void *memory)
{
    struct shared *shared = memory;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->plain, &attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->robust, &attributes);
    open_mutex(shared);
    kin_mutex_close(&mutex);
}

static void
opens(void *memory)
{
    open_mutex(memory);
}

static void
opens_and_enters(void *memory)
{
    open_mutex(memory);
    enter(memory);
}

static void
locks(void *memory)
{
    lock(memory);
}

static void
unlocks(void *memory)
{
    unlock(memory);
}

static void
takes_turns(void *memory)
{
    for (int i = 0; i < TURNS; i++)
        turn(memory);
}

static void
takes_turns_for_ever(void *memory)
{
    for (;;)
        turn(memory);
}

static void
wait_for_go(struct shared *shared)
{
    while (shared->go == 0)
        syscall(SYS_futex, &shared->go, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static void
unlocks_on_go(void *memory)
{
    wait_for_go(memory);
    unlock(memory);
}

static void
say_go(void *memory)
{
    struct shared *shared = memory;
    shared->go = 1;
    syscall(SYS_futex, &shared->go, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int
numbers_differ(const void *memory)
{
    const struct shared *shared = memory;
    return shared->first != shared->second;
}

#ifndef PLAIN

/* Dies with it: the next one is told. */
static void
dies(void *memory)
{
    open_mutex(memory);
    enter(memory);
    ((struct shared *)memory)->first++;
    _exit(0);
}

static void
dies_on_go(void *memory)
{
    wait_for_go(memory);
    _exit(0);
}

static void
opens_strictly(void *memory)
{
    strict = true;
    open_mutex(memory);
}

/* Gets it, or hears that its owner died; then nobody is kept from hearing it too. */
static void
tries(void *memory)
{
    int error = lock(memory);
    if (error == 0)
        unlock(memory);
    else if (error != EOWNERDEAD)
        violated("neither taken nor refused");
}

static void
gives_up(void *memory)
{
    (void)memory;
    kin_mutex_give_up(&mutex);
}

static void
gives_up_on_go(void *memory)
{
    wait_for_go(memory);
    gives_up(memory);
}

/* Gets it, or hears that it was given up. */
static void
turn_or_none(void *memory)
{
    struct shared *shared = memory;
    int error = lock(shared);
    if (error == ENOTRECOVERABLE)
        return;
    if (error != 0 && error != EOWNERDEAD)
        violated("can't lock");
    if (error == EOWNERDEAD)
        shared->second = shared->first;
    change(shared);
    unlock(shared);
}

static void
nothing(int number)
{
    (void)number;
}

static void
opens_with_handler(void *memory)
{
    struct shared *shared = memory;
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    shared->victim = getpid();
    open_mutex(shared);
}

/* The victim leaves without it, if it still waits. */
static void
interrupt(void *memory)
{
    kill(((struct shared *)memory)->victim, SIGUSR1);
    say_go(memory);
}

static void
locks_unless_interrupted(void *memory)
{
    (void)memory;
    kin_mutex_lock(&mutex, NULL);
}

static void
waits_briefly(void *memory)
{
    struct timespec deadline;
    (void)memory;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_nsec += 10000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_nsec -= 1000000000;
        deadline.tv_sec++;
    }
    kin_mutex_lock(&mutex, &deadline);
}

/* Holds one of ours and one of glibc's, and takes another. */
static void
opens_several(void *memory)
{
    struct shared *shared = memory;
    open_mutex(shared);
    for (int i = 0; i < 2; i++)
        if (kin_mutex_open(&others[i], shared->other[i], KIN_MUTEX_SIZE) != KIN_SOUND)
            violated("can't open the others");
    kin_mutex_lock(&others[0], NULL);
    pthread_mutex_lock(&shared->robust);
    kin_mutex_lock(&others[1], NULL);
}

static void
locks_and_unlocks_several(void *memory)
{
    struct shared *shared = memory;
    kin_mutex_lock(&mutex, NULL);
    kin_mutex_unlock(&others[0]); /* not the newest, and next to glibc's */
    pthread_mutex_unlock(&shared->robust);
    kin_mutex_unlock(&mutex);
    kin_mutex_unlock(&others[1]);
}

static void
takes_each(void *memory)
{
    struct shared *shared = memory;
    for (int i = 0; i < 2; i++) {
        if (kin_mutex_open(&others[i], shared->other[i], KIN_MUTEX_SIZE) != KIN_SOUND)
            violated("can't open the others");
        kin_mutex_lock(&others[i], NULL);
        kin_mutex_unlock(&others[i]);
    }
    if (pthread_mutex_lock(&shared->robust) == EOWNERDEAD)
        pthread_mutex_consistent(&shared->robust);
    pthread_mutex_unlock(&shared->robust);
    turn(memory);
}

/* Somebody starved, and is dead. */
static void
prepare_starving(void *memory)
{
    struct shared *shared = memory;
    prepare(memory);
    atomic_store(&shared->object.guard.word, FUTEX_WAITERS);
    atomic_store(&shared->object.guard.starving, 0x3ffffffe);
}

#endif

/* ------------------------------------------------------------------------------- the table */

#define BLANK(name_) .name = name_, .size = sizeof(struct shared)
#define OF(name_) BLANK(name_), .prepare = prepare
#define TAKES_IT(when_) {when_, opens, turn}
#define HAS_IT(act_) {EARLY, opens_and_enters, act_}
#define TAKES_TURNS {ALONGSIDE, opens, takes_turns}

const struct fault_case fault_cases[] = {
    {OF("lock"), .ready = opens, .act = locks, .bystanders = {TAKES_IT(AFTERWARDS)}},
    {OF("unlock"), .ready = opens_and_enters, .act = unlocks, .bystanders = {TAKES_IT(AFTERWARDS)}},
    {OF("wait"), .ready = opens, .act = locks, .unblock = say_go,
     .bystanders = {HAS_IT(unlocks_on_go), TAKES_IT(MEANWHILE), TAKES_IT(MEANWHILE)}},
    {OF("wait-behind"), .ready = opens, .act = locks, .unblock = say_go,
     .bystanders = {HAS_IT(unlocks_on_go), TAKES_IT(EARLY), TAKES_IT(AFTERWARDS)}},
    {OF("wake"), .ready = opens_and_enters, .act = unlocks,
     .bystanders = {TAKES_IT(NEXT), TAKES_IT(NEXT)}},
    {OF("turns"), .ready = opens, .act = takes_turns_for_ever, .check = numbers_differ,
     .bystanders = {TAKES_TURNS, TAKES_TURNS, TAKES_IT(ALONGSIDE), TAKES_IT(AFTERWARDS)}},
#ifndef PLAIN
    {OF("wait-for-dying"), .ready = opens, .act = locks, .unblock = say_go,
     .bystanders = {HAS_IT(dies_on_go), TAKES_IT(MEANWHILE), TAKES_IT(MEANWHILE)}},
    {OF("repair"), .ready = opens, .act = turn, .check = numbers_differ,
     .bystanders = {{EARLY, NULL, dies}, TAKES_IT(AFTERWARDS)}},
    {OF("strict"), .ready = opens_strictly, .act = locks, .unblock = say_go,
     .bystanders = {HAS_IT(dies_on_go), {MEANWHILE, opens_strictly, tries}, TAKES_IT(MEANWHILE),
                    TAKES_IT(AFTERWARDS)}},
    {OF("give-up"), .ready = opens_and_enters, .act = gives_up,
     .bystanders = {{NEXT, opens, turn_or_none}, {NEXT, opens, turn_or_none},
                    {AFTERWARDS, opens, turn_or_none}}},
    {OF("hear-of-giving-up"), .ready = opens, .act = locks, .unblock = say_go,
     .bystanders = {HAS_IT(gives_up_on_go), {MEANWHILE, opens, turn_or_none},
                    {MEANWHILE, opens, turn_or_none}, {AFTERWARDS, opens, turn_or_none}}},
    {OF("time-out"), .ready = opens, .act = waits_briefly, .unblock = say_go,
     .bystanders = {HAS_IT(unlocks_on_go), TAKES_IT(MEANWHILE), TAKES_IT(AFTERWARDS)}},
    {OF("interrupt"), .ready = opens_with_handler, .act = locks_unless_interrupted,
     .unblock = interrupt,
     .bystanders = {HAS_IT(unlocks_on_go), TAKES_IT(MEANWHILE), TAKES_IT(AFTERWARDS)}},
    {OF("several"), .ready = opens_several, .act = locks_and_unlocks_several,
     .bystanders = {{AFTERWARDS, opens, takes_each}}},
    {BLANK("starving"), .prepare = prepare_starving, .ready = opens, .act = locks,
     .bystanders = {TAKES_IT(AFTERWARDS), TAKES_IT(AFTERWARDS)}},
    {BLANK("make"), .act = opens,
     .bystanders = {{AFTERWARDS, opens, turn}, {AFTERWARDS, opens, turn}}},
#endif
    {0},
};
