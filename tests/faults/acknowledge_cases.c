/* Cases of messages that are acknowledged, for harness.c. Built with a mistake in arena_acknowledge.c, they show it.
 *
 * Whoever has done with a message notes so before he acknowledges it, and once more when he has. What was sent has to be done in
 * the end; what was done comes again only if its receiver was killed before he could acknowledge it, and then says so.
 */

#include "harness.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "futex.h"
#include "ring.h"

enum { CAPACITY = 4096, UNIT = 4096, ALL = 8, LENGTH = 100, MOST = 16, ROOM = 1 << 16 };

struct shared {
    _Alignas(4096) unsigned char ring[ROOM];
    _Atomic int returned; /* of the victim's calls */
    _Atomic int ended;    /* bystanders that have received, or seen the end */
    _Atomic uint32_t over; /* who has the guard may give it back … */
    _Atomic int given_back; /* … and has */
    _Atomic int came[MOST], repeated[MOST], done[MOST], acknowledged[MOST];
};

/* Each process has its own copy. */
static struct kin_ring sender, receiver;
static struct kin_watcher watcher;
static const struct kin_ring_terms TERMS = {CAPACITY, ALL * UNIT, true, NULL};

static void
open_both(void *memory)
{
    struct shared *shared = memory;
    if (kin_watcher_init(&watcher) != 0 ||
        kin_ring_open(&sender, shared->ring, ROOM, KIN_RING_SENDS, &TERMS, &watcher) != KIN_SOUND ||
        kin_ring_open(&receiver, shared->ring, ROOM, KIN_RING_RECEIVES, &TERMS, &watcher) != KIN_SOUND)
        violated("the ring can't be opened");
}

/* … with a thread that watches, and a row. */
static void
be_member(void *memory)
{
    struct kin_watch never = {.fd = eventfd(0, 0), .event_fd = -1, .owns = true};
    uint64_t number = 0;
    open_both(memory);
    if (kin_watcher_add(&watcher, &never, &number) != 0 ||
        kin_members_join(&sender.arena.members, NULL) != 0 ||
        kin_members_join(&receiver.arena.members, NULL) != 0)
        violated("can't join");
}

static void
close_both(void)
{
    kin_arena_return_all(&receiver.arena);
    if (kin_ring_close(&sender) != 0 || kin_ring_close(&receiver) != 0)
        violated("can't close");
    kin_watcher_end(&watcher);
}

static void
enter(struct kin_ring *ring)
{
    int error;
    while ((error = kin_ring_enter(ring, 0)) == EINTR)
        ;
    if (error != 0)
        violated("can't enter");
}

static void
send_message(int number)
{
    struct kin_block block;
    if (kin_arena_allocate(&sender.arena, LENGTH, &block) != 0)
        violated("there is no block");
    memset(kin_arena_bytes(&sender.arena, &block), number, LENGTH);
    enter(&sender);
    if (kin_ring_put_block(&sender, &block, (uint8_t)number) != 0)
        violated("there is room");
    kin_ring_leave(&sender);
    kin_arena_release(&sender.arena, &block);
}

/* Whether there was one; as Ring.take_owed. */
static bool
take(struct shared *shared, struct kin_block *block, uint8_t *number)
{
    struct kin_ring_frame frame;
    bool repeated = true;
    int error = kin_arena_take_returned(&receiver.arena, block, number);
    if (error == EAGAIN) {
        repeated = false;
        enter(&receiver);
        error = kin_ring_next(&receiver, &frame);
        if (error == 0)
            error = kin_ring_next_block(&receiver, &frame, block);
        if (error == 0) {
            *number = frame.kind;
            kin_ring_take(&receiver, &frame);
            kin_ring_leave(&receiver);
        } else
            kin_ring_withdraw(&receiver);
    }
    if (error == EAGAIN)
        return false;
    if (error != 0)
        violated("what is there is no message");
    const unsigned char *bytes = kin_arena_bytes(&receiver.arena, block);
    for (int i = 0; i < LENGTH; i++)
        if (block->length != LENGTH || bytes[i] != *number)
            violated("a torn message");
    if (atomic_load(&shared->acknowledged[*number]) != 0)
        violated("it was acknowledged, and comes again");
    if (repeated)
        shared->repeated[*number]++;
    else if (atomic_fetch_add(&shared->came[*number], 1) != 0)
        violated("it comes again, and does not say so");
    return true;
}

static void
acknowledge(struct shared *shared, const struct kin_block *block, uint8_t number)
{
    int error;
    shared->done[number] = 1;
    while ((error = kin_arena_acknowledge(&receiver.arena, block->unit, block->stamp)) == EBUSY)
        ; /* who has the guard is being stepped */
    if (error != 0)
        violated("it can't be acknowledged");
    shared->acknowledged[number] = 1;
}

static void
wait_for_one(struct shared *shared)
{
    struct kin_block block;
    uint8_t number;
    while (!take(shared, &block, &number)) {
        int error = kin_ring_wait(&receiver, receiver.alarm, NULL);
        if (error != 0 && error != EINTR)
            violated("can't wait");
    }
    acknowledge(shared, &block, number);
    shared->ended++;
}

/* --------------------------------------------------------------------------------- the others */

static void
receive_one(void *memory)
{
    wait_for_one(memory);
}

/* All that is there, also what the dead had; then all blocks are free. */
static void
have_all(void *memory)
{
    struct shared *shared = memory;
    struct kin_block blocks[ALL];
    uint8_t number;
    if (kin_members_look(&receiver.arena.members, KIN_LOOK_ALL, NULL) != 0)
        violated("can't look");
    while (take(shared, &blocks[0], &number))
        acknowledge(shared, &blocks[0], number);
    for (int i = 0; i < ALL; i++)
        if (kin_arena_allocate(&sender.arena, UNIT, &blocks[i]) != 0)
            violated("a block has leaked");
    for (int i = 0; i < ALL; i++)
        kin_arena_release(&sender.arena, &blocks[i]);
    if (kin_arena_may_come(&receiver.arena))
        violated("there is something left");
}

static void
let_one_get(void *memory)
{
    struct shared *shared = memory;
    while (shared->ended == 0)
        sched_yield();
    have_all(memory);
}

/* Sleeps until others have acknowledged theirs, or died; then they are its. */
static void
wait_for_end(void *memory)
{
    struct kin_block block;
    uint8_t number;
    while (kin_arena_may_come(&receiver.arena)) {
        if (take(memory, &block, &number))
            acknowledge(memory, &block, number);
        else if (kin_ring_wait(&receiver, receiver.alarm, NULL) != 0)
            violated("can't wait");
    }
    ((struct shared *)memory)->ended++;
}

/* ------------------------------------------------------------------------------------ the acts */

static void
send_two(void *memory)
{
    be_member(memory);
    send_message(1);
    send_message(2);
    close_both();
}

static void
send_one(void *memory)
{
    be_member(memory);
    send_message(1);
    close_both();
}

/* The second is there, returned by somebody else. */
static void
return_two(void *memory)
{
    struct kin_block block;
    uint8_t number;
    be_member(memory);
    send_message(1);
    if (!take(memory, &block, &number))
        violated("there is one");
    close_both();
    be_member(memory);
    send_message(2);
    close_both();
}

static struct kin_block mine;
static uint8_t what;

static void
have_one(void *memory)
{
    be_member(memory);
    if (!take(memory, &mine, &what))
        violated("there is one");
}

static void
take_one(void *memory)
{
    struct kin_block block;
    uint8_t number;
    take(memory, &block, &number);
}

static void
take_two(void *memory)
{
    take_one(memory);
    take_one(memory);
}

static void
acknowledge_it(void *memory)
{
    acknowledge(memory, &mine, what);
    ((struct shared *)memory)->returned = 1;
}

static void
return_it(void *memory)
{
    (void)memory;
    if (kin_arena_return(&receiver.arena, mine.unit, mine.stamp) != 0)
        violated("it can't be returned");
}

static void
close_here(void *memory)
{
    (void)memory;
    close_both();
}

static void
get_one(void *memory)
{
    wait_for_one(memory);
}

/* It was acknowledged: by the victim, who may have been killed before his note of it, or by who had it again. */
static int
check_all(const void *memory)
{
    const struct shared *shared = memory;
    return shared->came[1] != 1 || !shared->done[1] || (shared->returned && !shared->acknowledged[1]) ||
           (shared->repeated[1] != 0 && !shared->acknowledged[1]);
}

static int
check_two(const void *memory)
{
    const struct shared *shared = memory;
    return !shared->done[1] || !shared->done[2];
}

static int
check_one(const void *memory)
{
    return !((const struct shared *)memory)->done[1];
}

static void
nothing(void *memory)
{
    (void)memory;
}

/* ------------------------------------------------------------------------ the guard can't be had */

static void
have_guard(void *memory)
{
    open_both(memory);
    if (kin_mutex_lock(&receiver.arena.guard, NULL) != 0)
        violated("the guard is free");
}

static void
have_block(void *memory)
{
    be_member(memory);
    if (kin_arena_allocate(&sender.arena, LENGTH, &mine) != 0)
        violated("there is room");
}

static void
release_it(void *memory)
{
    (void)memory;
    kin_arena_release(&sender.arena, &mine);
}

static void
keep_guard(void *memory)
{
    struct shared *shared = memory;
    while (shared->over == 0)
        kin_futex_sleep(&shared->over, 0, NULL);
    kin_mutex_unlock(&receiver.arena.guard);
    shared->given_back = 1;
}

static void
let_go_on(void *memory)
{
    struct shared *shared = memory;
    shared->over = 1;
    kin_futex_wake(&shared->over, 1);
}

static void
have_all_then(void *memory)
{
    while (((struct shared *)memory)->given_back == 0)
        sched_yield();
    have_all(memory);
}

/* By the harness, which lives on: a message that it gave back while somebody (here itself) had the guard. */
static void
leave_over(void *memory)
{
    send_one(memory);
    have_one(memory);
    kin_watcher_end(&watcher);
    if (kin_mutex_lock(&receiver.arena.guard, NULL) != 0)
        violated("the guard is free");
    return_it(memory);
    kin_mutex_unlock(&receiver.arena.guard);
}

#define THEN(function) {AFTERWARDS, be_member, function}

const struct fault_case fault_cases[] = {
    {"take", sizeof(struct shared), send_two, be_member, take_two, nothing, check_two, {THEN(have_all)}},
    {"take-again", sizeof(struct shared), return_two, be_member, take_two, nothing, check_two,
     {THEN(have_all)}},
    {"acknowledge", sizeof(struct shared), send_one, have_one, acknowledge_it, nothing, check_all,
     {THEN(have_all)}},
    {"return", sizeof(struct shared), send_one, have_one, return_it, nothing, check_one,
     {THEN(have_all)}},
    {"leave", sizeof(struct shared), send_one, have_one, close_here, nothing, check_one,
     {THEN(have_all)}},
    /* Somebody sleeps who has to get it, whatever the victim was doing. */
    {"return-to", sizeof(struct shared), send_one, have_one, return_it, nothing, check_one,
     {{NEXT, be_member, receive_one}, THEN(let_one_get)}},
    /* … or until nothing can come any more. */
    {"end", sizeof(struct shared), send_one, have_one, acknowledge_it, nothing, check_all,
     {{NEXT, be_member, wait_for_end}, THEN(let_one_get)}},
    /* It sleeps itself, and another one too: of two messages each gets one, unless the victim is dead. */
    {"wait", sizeof(struct shared), NULL, be_member, get_one, send_two, check_two,
     {{EARLY, be_member, receive_one}, THEN(let_one_get)}},
    /* Somebody has the guard all the while: the victim sleeps for nobody. */
    {"return-held", sizeof(struct shared), send_one, have_one, return_it, let_go_on, check_one,
     {{NEXT, have_guard, keep_guard}, THEN(have_all_then)}},
    {"release-held", sizeof(struct shared), NULL, have_block, release_it, let_go_on, NULL,
     {{NEXT, have_guard, keep_guard}, THEN(have_all_then)}},
    {"leave-held", sizeof(struct shared), send_one, have_one, close_here, let_go_on, check_one,
     {{NEXT, have_guard, keep_guard}, THEN(have_all_then)}},
    /* What somebody who lives could not do is done by the victim, or by who comes after. */
    {"tidy", sizeof(struct shared), leave_over, be_member, take_one, nothing, check_one,
     {THEN(have_all)}},
    {NULL, 0, NULL, NULL, NULL, NULL, NULL, {{NOBODY, NULL, NULL}}},
};
