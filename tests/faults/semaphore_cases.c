/* Cases of the semaphore, for harness.c: who is killed at what, and who has to come to his end all the same. */

#include "semaphore_parts.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

/* ------------------------------------------------------------------------ parts of few cases */

static void
closes(void *memory)
{
    (void)memory;
    kin_semaphore_close(&semaphore);
}

static void
wait_for(_Atomic uint32_t *sign)
{
    while (*sign == 0)
        syscall(SYS_futex, sign, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static void
say(_Atomic uint32_t *sign)
{
    *sign = 1;
    syscall(SYS_futex, sign, FUTEX_WAKE, 4, NULL, NULL, 0);
}

static void
wait_for_go(struct shared *shared)
{
    wait_for(&shared->go);
}

static void
gives_on_go(void *memory)
{
    wait_for_go(memory);
    give(1);
}

/* Its end would wake who sleeps. */
static void
gives_and_stays(void *memory)
{
    gives_on_go(memory);
    wait_for(&((struct shared *)memory)->taken);
}

static void
takes_and_says(void *memory)
{
    take(1);
    say(&((struct shared *)memory)->taken);
}

static void
gives_all_on_go(void *memory)
{
    wait_for_go(memory);
    give(all);
}

static void
dies_on_go(void *memory)
{
    wait_for_go(memory);
    _exit(0);
}

static void
ends(void *memory)
{
    (void)memory;
    _exit(0);
}

static void
say_go(void *memory)
{
    say(&((struct shared *)memory)->go);
}

/* Unless the victim has: then whoever sleeps has to hear of it by its death alone. */
static void
give_instead(void *memory)
{
    opens(memory);
    if (kin_semaphore_now(&semaphore) == 0)
        give(1);
    kin_semaphore_close(&semaphore);
    kin_watcher_end(&watcher);
}

/* A second thread of the victim, which goes by the row that the first one joins by: it gives at once, and is stopped
 * before it has woken anybody. */
static void *
gives_and_stops(void *unused)
{
    struct kin_member *row;
    uint64_t word;
    (void)unused;
    while ((row = kin_members_row(&semaphore.members)) == NULL)
        ;
    if (kin_semaphore_change(&semaphore, row, -1, &word, NULL) != 0)
        violated("can't give");
    for (;;)
        pause();
}

static void
opens_with_a_second_thread(void *memory)
{
    pthread_t thread;
    opens_warm(memory);
    if (pthread_create(&thread, NULL, gives_and_stops, NULL) != 0)
        violated("can't start a thread");
}

static void
only_joins(void *memory)
{
    (void)memory;
    if (kin_members_join(&semaphore.members, NULL) != 0)
        violated("can't join");
}

static void
nothing(int number)
{
    (void)number;
}

static void
joins_with_handler(void *memory)
{
    struct shared *shared = memory;
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    shared->victim = getpid();
    joins(shared);
}

/* The victim leaves without it, if it still waits. */
static void
interrupt(void *memory)
{
    kill(((struct shared *)memory)->victim, SIGUSR1);
    say_go(memory);
}

static void
joins_as_other(void *memory)
{
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    ((struct shared *)memory)->other = getpid();
    joins(memory);
}

/* The other one was asleep before the victim; interrupted, it falls asleep after it. */
static void
let_first(void *memory)
{
    opens(memory);
    uint64_t before = kin_semaphore_look(&semaphore);
    while (kin_semaphore_look(&semaphore) == before) {
        kill(((struct shared *)memory)->other, SIGUSR1);
        sched_yield();
    }
    kin_semaphore_close(&semaphore);
    kin_watcher_end(&watcher);
    say_go(memory);
}

static void
takes_unless_interrupted(void *memory)
{
    (void)memory;
    kin_semaphore_acquire(&semaphore, 1, NULL, NULL);
}

static void
waits_briefly(void *memory)
{
    struct timespec deadline = kin_timespec(kin_now() + 10 * KIN_MILLISECOND);
    (void)memory;
    kin_semaphore_acquire(&semaphore, 1, &deadline, NULL);
}

/* ------------------------------------------------------------------------------- the table */

#define BLANK(name_) .name = name_, .size = sizeof(struct shared)
#define OF(name_) BLANK(name_), .prepare = prepare
#define OF_MANY(name_) BLANK(name_), .prepare = prepare_many
#define TAKES_ONE(when_) {when_, joins, takes_and_gives}
#define TAKES_ALL(when_) {when_, joins, takes_and_gives_all}
#define HAS_ALL(act_) {EARLY, joins_and_takes_all, act_}
#define HAS_ONE(act_) {EARLY, joins_and_takes, act_}
#define TAKES_TURNS {ALONGSIDE, joins, takes_turns}

const struct fault_case fault_cases[] = {
    /* what stands in the word at first is nobody's, its own, another's; or does not fit into it */
    {OF("take"), .ready = joins, .act = takes, .bystanders = {TAKES_ALL(AFTERWARDS)}},
    {OF("give"), .ready = joins_and_takes, .act = gives, .bystanders = {TAKES_ALL(AFTERWARDS)}},
    {OF("take-after-another"), .ready = joins, .act = takes_and_gives_twice,
     .bystanders = {{EARLY, joins, takes_and_gives}, TAKES_ALL(AFTERWARDS)}},
    {OF_MANY("take-many"), .ready = joins, .act = takes_all, .bystanders = {TAKES_ALL(AFTERWARDS)}},
    {OF_MANY("give-many"), .ready = joins_and_takes_all, .act = gives_all,
     .bystanders = {TAKES_ALL(AFTERWARDS)}},
    /* coming and going */
    {BLANK("make"), .act = opens, .bystanders = {TAKES_ALL(AFTERWARDS), TAKES_ONE(AFTERWARDS)}},
    {OF("join"), .ready = opens_warm, .act = takes, .unblock = say_go,
     .bystanders = {HAS_ONE(gives_on_go), {NEXT, joins, takes_and_gives_all}, TAKES_ALL(AFTERWARDS)}},
    {BLANK("join-and-give"), .prepare = prepare_none, .ready = opens_warm, .act = gives,
     .unblock = give_instead, .bystanders = {{NEXT, joins, takes}}},
    {BLANK("join-among-threads"), .prepare = prepare_none, .ready = opens_with_a_second_thread,
     .act = only_joins, .unblock = give_instead, .bystanders = {{NEXT, joins, takes}}},
    {OF("leave"), .ready = joins, .act = closes, .bystanders = {TAKES_ALL(AFTERWARDS)}},
    {OF("leave-holding"), .ready = joins_and_takes, .act = closes,
     .bystanders = {TAKES_ALL(AFTERWARDS)}},
    /* waiting, and being woken */
    {OF("wait"), .ready = joins, .act = takes, .unblock = say_go,
     .bystanders = {HAS_ALL(gives_all_on_go), TAKES_ONE(MEANWHILE), TAKES_ONE(MEANWHILE),
                    TAKES_ALL(AFTERWARDS)}},
    {OF("wait-cold"), .ready = opens, .act = takes, .unblock = say_go,
     .bystanders = {HAS_ALL(gives_all_on_go), TAKES_ONE(MEANWHILE), TAKES_ALL(AFTERWARDS)}},
    {OF("wait-at-first"), .ready = opens_warm, .act = takes, .unblock = say_go,
     .bystanders = {HAS_ALL(gives_all_on_go), TAKES_ONE(MEANWHILE), TAKES_ALL(AFTERWARDS)}},
    {OF("wait-behind"), .ready = joins, .act = takes, .unblock = say_go,
     .bystanders = {HAS_ALL(gives_on_go), TAKES_ONE(EARLY), TAKES_ALL(AFTERWARDS)}},
    /* Nobody else ends or joins: the death alone wakes who sleeps. The victim gives … */
    {BLANK("wake-or-die"), .prepare = prepare_none, .ready = joins, .act = gives,
     .unblock = give_instead, .bystanders = {{NEXT, joins, takes}}},
    /* … or is the only one to be woken, in front of another. */
    {OF("woken"), .ready = joins, .act = takes, .unblock = let_first,
     .bystanders = {HAS_ALL(gives_and_stays), {NEXT, joins_as_other, takes_and_says}}},
    {OF("wait-for-all"), .ready = joins, .act = takes_all, .unblock = say_go,
     .bystanders = {HAS_ONE(gives_on_go), TAKES_ALL(EARLY), TAKES_ONE(MEANWHILE)}},
    {OF("wake"), .ready = joins_and_takes_all, .act = gives,
     .bystanders = {TAKES_ONE(NEXT), TAKES_ONE(NEXT), TAKES_ALL(AFTERWARDS)}},
    {OF("wake-several"), .ready = joins_and_takes_all, .act = gives_all,
     .bystanders = {TAKES_ALL(NEXT), TAKES_ONE(NEXT), TAKES_ALL(AFTERWARDS)}},
    {OF("time-out"), .ready = joins, .act = waits_briefly, .unblock = say_go,
     .bystanders = {HAS_ALL(gives_all_on_go), TAKES_ONE(MEANWHILE), TAKES_ALL(AFTERWARDS)}},
    {OF("interrupt"), .ready = joins_with_handler, .act = takes_unless_interrupted,
     .unblock = interrupt,
     .bystanders = {HAS_ALL(gives_all_on_go), TAKES_ONE(MEANWHILE), TAKES_ALL(AFTERWARDS)}},
    /* taking back */
    {OF("reclaim"), .ready = opens_warm, .act = takes_all,
     .bystanders = {HAS_ALL(ends), TAKES_ALL(AFTERWARDS)}},
    {OF_MANY("reclaim-many"), .ready = opens_warm, .act = takes_all,
     .bystanders = {HAS_ALL(ends), HAS_ONE(ends), TAKES_ALL(AFTERWARDS)}},
    {OF("wait-for-dying"), .ready = joins, .act = takes, .unblock = say_go,
     .bystanders = {HAS_ALL(dies_on_go), TAKES_ONE(MEANWHILE), TAKES_ALL(MEANWHILE)}},
    {OF("turns"), .ready = joins, .act = takes_turns_for_ever,
     .bystanders = {TAKES_TURNS, TAKES_TURNS, TAKES_ONE(ALONGSIDE), TAKES_ALL(AFTERWARDS)}},
    {0},
};
