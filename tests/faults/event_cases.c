/* Cases of the event, for harness.c. */

#include "harness.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "event.h"
#include "futex.h"

struct shared {
    struct kin_event_object object;
    _Atomic uint32_t go;
    pid_t victim;
};

/* Each process has its own. */
static struct kin_event_state *event;

static void
opens(void *memory)
{
    if (event == NULL &&
        kin_event_open(&event, memory, sizeof(struct kin_event_object), NULL) != KIN_SOUND)
        violated("the event can't be opened");
}

/* By the harness itself, which plays several cases. */
static void
prepare(void *memory)
{
    opens(memory);
    event = NULL;
}

/* ------------------------------------------------------------------------------------ waiting */

/* As the binding does it: interrupts don't end it. */
static void
waits(void *memory)
{
    uint64_t round = kin_event_round(event);
    int error;
    (void)memory;
    do
        error = kin_event_wait(event, round, NULL, NULL);
    while (error == EINTR);
    if (error != 0)
        violated("a wait failed");
    if (!kin_event_is_set(event) && kin_event_round(event) == round)
        violated("a wait ended too early");
}

static void
waits_briefly(void *memory)
{
    struct timespec deadline = kin_timespec(kin_now() + 10 * KIN_MILLISECOND);
    int error = kin_event_wait(event, kin_event_round(event), &deadline, NULL);
    (void)memory;
    if (error != 0 && error != ETIMEDOUT)
        violated("a wait failed");
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
    opens(memory);
}

static void
waits_unless_interrupted(void *memory)
{
    (void)memory;
    kin_event_wait(event, kin_event_round(event), NULL, NULL);
}

/* ---------------------------------------------------------------------------- setting, clearing */

static void
sets(void *memory)
{
    (void)memory;
    if (kin_event_set(event) != 0)
        violated("it can't be set");
}

static void
clears(void *memory)
{
    (void)memory;
    kin_event_clear(event);
}

static void
sets_and_clears(void *memory)
{
    sets(memory);
    clears(memory);
}

/* Only what was never set: else those who wait have to go without. */
static void
sets_if_nobody_has(void *memory)
{
    if (kin_event_round(event) == 0)
        sets(memory);
}

static void
sets_from_outside(void *memory)
{
    opens(memory);
    sets(memory);
    event = NULL;
}

static void
say_go(void *memory)
{
    struct shared *shared = memory;
    shared->go = 1;
    kin_futex_wake(&shared->go, INT_MAX);
}

static void
interrupt(void *memory)
{
    kill(((struct shared *)memory)->victim, SIGUSR1);
    say_go(memory);
}

/* Stopped between setting it and waking who waits; and then killed. The numbers are those of event.c. */
static void
half_sets(void *memory)
{
    struct shared *shared = memory;
    kin_robust_begin(kin_thread(), (void *)((char *)event + KIN_ROBUST_NODE_OFFSET));
    atomic_store(&event->word, UINT64_C(1) << 63 | UINT64_C(1) << 32);
    while (shared->go == 0)
        kin_futex_sleep(&shared->go, 0, NULL);
    _exit(0);
}

/* ---------------------------------------------------------------------------------- the table */

#define BLANK(name_) .name = name_, .size = sizeof(struct shared)
#define OF(name_, ready_) BLANK(name_), .prepare = prepare, .ready = ready_
#define WAITS(when_) {when_, opens, waits}
#define HALF_SETS(when_) {when_, opens, half_sets}

const struct fault_case fault_cases[] = {
    {OF("set", opens), .act = sets,
     .bystanders = {WAITS(EARLY), WAITS(EARLY), {AFTERWARDS, opens, sets_if_nobody_has}}},
    {OF("set-and-clear", opens), .act = sets_and_clears,
     .bystanders = {WAITS(EARLY), WAITS(EARLY), {AFTERWARDS, opens, sets_if_nobody_has}}},
    {OF("wait", opens), .act = waits, .unblock = sets_from_outside,
     .bystanders = {WAITS(EARLY), WAITS(MEANWHILE), WAITS(MEANWHILE)}},
    /* The setter has died: the kernel wakes the victim alone. */
    {OF("relay", opens), .act = waits, .unblock = say_go,
     .bystanders = {WAITS(MEANWHILE), WAITS(MEANWHILE), HALF_SETS(MEANWHILE)}},
    {OF("time-out", opens), .act = waits_briefly, .unblock = say_go,
     .bystanders = {WAITS(MEANWHILE), WAITS(MEANWHILE), HALF_SETS(MEANWHILE)}},
    {OF("interrupt", opens_with_handler), .act = waits_unless_interrupted, .unblock = interrupt,
     .bystanders = {WAITS(MEANWHILE), WAITS(MEANWHILE), HALF_SETS(MEANWHILE)}},
    /* The setter is stopped meanwhile. */
    {OF("clear", opens), .act = clears, .unblock = say_go,
     .bystanders = {WAITS(EARLY), WAITS(EARLY), HALF_SETS(EARLY)}},
    {OF("set-again", opens), .act = sets, .unblock = say_go,
     .bystanders = {WAITS(EARLY), WAITS(EARLY), HALF_SETS(EARLY)}},
    {BLANK("make"), .act = opens,
     .bystanders = {{AFTERWARDS, opens, sets}, WAITS(AFTERWARDS)}},
    {0},
};
