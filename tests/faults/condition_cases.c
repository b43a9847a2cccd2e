/* Cases of the condition, for harness.c.
 *
 * Some give, and others take: who takes waits while as many were taken as were given. `given` is one number, which
 * is there or not when its writer is killed.
 */

#include "harness.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "condition.h"
#include "futex.h"
#include "watcher.h"

enum { MEMBERS = 12, MOST = 2 }; /* of the condition; to be taken, by as many */

struct shared {
    char condition[sizeof(struct kin_condition_object) + MEMBERS * sizeof(struct kin_member)]
        __attribute__((aligned(KIN_OBJECT_ALIGNMENT)));
    _Atomic int given, taken;
    _Atomic uint32_t go;
    pid_t victim, other;
    _Atomic uint32_t interrupted, all_taken;
};

/* Each process has its own. */
static struct kin_watcher watcher;
static struct kin_condition condition;
static struct kin_mutex mutex;

static void
opens_without_joining(void *memory)
{
    struct shared *shared = memory;
    void *own = &((struct kin_condition_object *)(void *)shared->condition)->mutex;
    if (kin_watcher_init(&watcher) != 0 ||
        kin_condition_open(&condition, shared->condition, sizeof shared->condition, MEMBERS,
                           &watcher, NULL) != KIN_SOUND ||
        kin_mutex_open(&mutex, own, KIN_MUTEX_SIZE) != KIN_SOUND)
        violated("the condition can't be opened");
}

static void
opens(void *memory)
{
    opens_without_joining(memory);
    if (kin_condition_join(&condition, NULL) != 0)
        violated("it can't be joined");
}

/* What takes most of the instructions is not to be stepped through each time. */
static void
opens_and_looks(void *memory)
{
    opens(memory);
    if (kin_members_look(&condition.members, KIN_LOOK_TOLD, NULL) != 0)
        violated("it can't look at the others");
}

static void
prepare(void *memory)
{
    opens_without_joining(memory);
    kin_condition_close(&condition);
    kin_mutex_close(&mutex);
}

/* ------------------------------------------------------------------------------------- the parts */

static void
lock(void)
{
    int error;
    do
        error = kin_mutex_lock(&mutex, NULL);
    while (error == EINTR);
    if (error != 0 && error != EOWNERDEAD)
        violated("can't lock");
}

static void
unlock(void)
{
    if (kin_mutex_unlock(&mutex) != 0)
        violated("can't unlock");
}

/* As the binding does it. Whether it was notified; `interrupted` says whether a signal ends it. */
static bool
wait_for(const struct timespec *deadline, bool interrupted)
{
    struct kin_condition_wait wait;
    int error = kin_condition_begin(&condition, &mutex, &wait, NULL);
    if (error != 0)
        violated("can't wait");
    do
        error = kin_condition_sleep(&condition, &wait, deadline);
    while (error == EINTR && !interrupted);
    if (error != 0 && error != ETIMEDOUT && error != EINTR)
        violated("can't sleep");
    lock();
    if (error == 0 && !kin_condition_was_notified(&condition, &wait))
        violated("woken for nothing");
    return kin_condition_was_notified(&condition, &wait);
}

static void
notify(int count)
{
    if (kin_condition_notify(&condition, &mutex, count, NULL) != 0)
        violated("can't notify");
}

static void
takes(void *memory)
{
    struct shared *shared = memory;
    lock();
    while (shared->taken == shared->given)
        wait_for(NULL, false);
    shared->taken++;
    unlock();
}

/* Waits, too, and leaves it to another. */
static void
looks(void *memory)
{
    struct shared *shared = memory;
    lock();
    while (shared->given == 0)
        wait_for(NULL, false);
    notify(1);
    unlock();
}

/* Leaves whether there is anything or not, but not with what was meant for another. */
static void
leaves_soon(bool interrupted)
{
    struct timespec deadline = kin_timespec(kin_now() + 10 * KIN_MILLISECOND);
    lock();
    if (wait_for(interrupted ? NULL : &deadline, interrupted))
        notify(1);
    unlock();
}

static void
looks_briefly(void *memory)
{
    (void)memory;
    leaves_soon(false);
}

static void
looks_unless_interrupted(void *memory)
{
    (void)memory;
    leaves_soon(true);
}

static void
gives_to_all(void *memory)
{
    lock();
    ((struct shared *)memory)->given = MOST;
    notify(INT_MAX);
    unlock();
}

static void
gives_to_each(void *memory)
{
    for (int i = 0; i < MOST; i++) {
        lock();
        ((struct shared *)memory)->given++;
        notify(1);
        unlock();
    }
}

/* And is killed before it comes to notify. */
static void
gives_silently(void *memory)
{
    lock();
    ((struct shared *)memory)->given = MOST;
    unlock();
}

static void
leaves(void *memory)
{
    (void)memory;
    kin_condition_close(&condition);
}

/* What a giver who was killed did not come to. Without joining, which wakes; and without a word if it is given. */
static void
gives_the_rest(void *memory)
{
    struct shared *shared = memory;
    lock();
    int missing = MOST - shared->given;
    unlock();
    if (missing > 0)
        gives_to_all(memory);
}

/* ------------------------------------------------------------------------------------------ on go */

static void
wait_for_go(struct shared *shared)
{
    while (shared->go == 0)
        kin_futex_sleep(&shared->go, 0, NULL);
}

static void
say_go(void *memory)
{
    struct shared *shared = memory;
    shared->go = 1;
    kin_futex_wake(&shared->go, INT_MAX);
}

static void
nothing(int number)
{
    (void)number;
}

static void
opens_with_handler(void *memory)
{
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    ((struct shared *)memory)->victim = getpid();
    opens_and_looks(memory);
}

static void
interrupt(void *memory)
{
    kill(((struct shared *)memory)->victim, SIGUSR1);
    say_go(memory);
}

static void
gives_to_all_on_go(void *memory)
{
    wait_for_go(memory);
    gives_to_all(memory);
}

static void
gives_to_each_on_go(void *memory)
{
    wait_for_go(memory);
    gives_to_each(memory);
}

static void
gives_and_dies_on_go(void *memory)
{
    wait_for_go(memory);
    gives_silently(memory);
    _exit(0);
}

/* One is woken, who is to pass it on; and nobody's end or coming wakes anybody. */
static void
gives_once_and_stays(void *memory)
{
    struct shared *shared = memory;
    wait_for_go(memory);
    lock();
    shared->given = MOST;
    notify(1);
    unlock();
    while (shared->all_taken == 0)
        kin_futex_sleep(&shared->all_taken, 0, NULL);
}

static void
takes_all(void *memory)
{
    struct shared *shared = memory;
    for (int i = 0; i < MOST; i++)
        takes(memory);
    shared->all_taken = 1;
    kin_futex_wake(&shared->all_taken, INT_MAX);
}

static struct shared *interrupted_in;

static void
count_interrupt(int number)
{
    (void)number;
    interrupted_in->interrupted++;
}

static void
opens_as_other(void *memory)
{
    struct sigaction action = {.sa_handler = count_interrupt};
    interrupted_in = memory;
    sigaction(SIGUSR1, &action, NULL);
    interrupted_in->other = getpid();
    opens_and_looks(memory);
}

/* The other one slept before the victim; interrupted, it falls asleep after it. */
static void
let_first(void *memory)
{
    struct shared *shared = memory;
    uint32_t before = shared->interrupted;
    kill(shared->other, SIGUSR1);
    while (shared->interrupted == before)
        sched_yield();
    say_go(memory);
}

static int
not_all_taken(const void *memory)
{
    return ((const struct shared *)memory)->taken != MOST;
}

/* -------------------------------------------------------------------------------------- the table */

#define OF(name_, ready_)                                                                       \
    .name = name_, .size = sizeof(struct shared), .prepare = prepare, .ready = ready_,          \
    .check = not_all_taken
#define TAKES(when_) {when_, opens, takes}
#define GIVES(how_) {EARLY, opens, how_}
#define THE_REST {AFTERWARDS, opens_without_joining, gives_the_rest}

const struct fault_case fault_cases[] = {
    {OF("notify", opens), .act = gives_to_each,
     .bystanders = {TAKES(EARLY), TAKES(EARLY), THE_REST}},
    {OF("notify-all", opens), .act = gives_to_all,
     .bystanders = {TAKES(EARLY), TAKES(EARLY), THE_REST}},
    {OF("change", opens), .act = gives_silently,
     .bystanders = {TAKES(EARLY), TAKES(EARLY), THE_REST}},
    {OF("change-alongside", opens), .act = gives_silently,
     .bystanders = {TAKES(ALONGSIDE), TAKES(NEXT), THE_REST}},
    {OF("wait", opens_and_looks), .act = looks, .unblock = say_go,
     .bystanders = {TAKES(EARLY), GIVES(gives_to_each_on_go), TAKES(MEANWHILE)}},
    {OF("wait-for-all", opens_and_looks), .act = looks, .unblock = say_go,
     .bystanders = {TAKES(EARLY), GIVES(gives_to_all_on_go), TAKES(MEANWHILE)}},
    {OF("woken", opens_and_looks), .act = looks, .unblock = let_first,
     .bystanders = {{EARLY, opens_as_other, takes_all}, GIVES(gives_once_and_stays)}},
    {OF("wait-for-dying", opens_and_looks), .act = looks, .unblock = say_go,
     .bystanders = {TAKES(EARLY), GIVES(gives_and_dies_on_go), TAKES(MEANWHILE)}},
    {OF("time-out", opens_and_looks), .act = looks_briefly, .unblock = say_go,
     .bystanders = {TAKES(EARLY), GIVES(gives_to_each_on_go), TAKES(MEANWHILE)}},
    {OF("interrupt", opens_with_handler), .act = looks_unless_interrupted, .unblock = interrupt,
     .bystanders = {TAKES(EARLY), GIVES(gives_to_each_on_go), TAKES(MEANWHILE)}},
    {OF("join", NULL), .act = opens,
     .bystanders = {TAKES(EARLY), TAKES(NEXT), THE_REST}},
    {OF("leave", opens), .act = leaves,
     .bystanders = {TAKES(EARLY), TAKES(NEXT), THE_REST}},
    {0},
};
