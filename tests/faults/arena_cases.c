/* Cases of the arena, for harness.c. Built with a mistake in arena.c, they show it: test_arena_kills.py.
 *
 * A message is as many bytes of its number as LONG says, which takes two units. At the end everybody's blocks have to have come
 * back: somebody else gets all there are.
 */

#include "harness.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

enum { CAPACITY = 4096, UNIT = 4096, ALL = 8, LONG = UNIT + 100, EACH = 2, MOST = 16, ROOM = 1 << 16 };

struct shared {
    _Alignas(4096) unsigned char ring[ROOM];
    _Atomic int returned; /* of the victim's calls */
    _Atomic int ended;    /* bystanders that have got a block */
    _Atomic int noted[MOST];
};

/* Each process has its own copy. */
static struct kin_ring sender, receiver;
static struct kin_watcher watcher;
static const struct kin_ring_terms TERMS = {CAPACITY, ALL * UNIT};

/* ----------------------------------------------------------------------------------- opening */

static void
open_both(void *memory)
{
    struct shared *shared = memory;
    if (kin_watcher_init(&watcher) != 0 ||
        kin_ring_open(&sender, shared->ring, ROOM, KIN_RING_SENDS, &TERMS, &watcher) != KIN_SOUND ||
        kin_ring_open(&receiver, shared->ring, ROOM, KIN_RING_RECEIVES, &TERMS, &watcher) != KIN_SOUND)
        violated("the ring can't be opened");
}

/* … with what is thousands of instructions of libc's: a thread that watches, and a row; and the block's pages. */
static void
be_victim(void *memory)
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
    if (kin_ring_close(&sender) != 0 || kin_ring_close(&receiver) != 0)
        violated("can't close");
    kin_watcher_end(&watcher);
}

/* ----------------------------------------------------------------------------- one at a time */

static void
enter(struct kin_ring *ring)
{
    int error;
    while ((error = kin_ring_enter(ring, 0)) == EINTR)
        ;
    if (error != 0)
        violated("can't enter");
}

static bool
allocate(uint64_t length, struct kin_block *block)
{
    int error = kin_arena_allocate(&sender.arena, length, block);
    if (error != 0 && error != EAGAIN)
        violated("can't allocate");
    return error == 0;
}

static void
allocate_waiting(uint64_t length, struct kin_block *block)
{
    while (!allocate(length, block)) {
        int error = kin_arena_wait(&sender.arena, length, sender.alarm, NULL);
        if (error != 0 && error != EINTR)
            violated("can't wait");
    }
}

static void
send_block(int number, const struct kin_block *block)
{
    memset(kin_arena_bytes(&sender.arena, block), number, block->length);
    enter(&sender);
    if (kin_ring_put_block(&sender, block, (uint8_t)number) != 0)
        violated("there is room for a frame");
    kin_ring_leave(&sender);
    kin_arena_release(&sender.arena, block);
}

static void
send_message(int number)
{
    struct kin_block block;
    allocate_waiting(LONG, &block);
    send_block(number, &block);
}

static int
receive(struct shared *shared)
{
    struct kin_ring_frame frame;
    struct kin_block block;
    enter(&receiver);
    int error = kin_ring_next(&receiver, &frame);
    if (error == 0 && frame.flags != KIN_RING_IN_BLOCK)
        violated("what is there is in no block");
    if (error == 0)
        error = kin_ring_next_block(&receiver, &frame, &block);
    if (error != 0) {
        kin_ring_withdraw(&receiver);
        if (error == EAGAIN)
            return 0;
        violated(error == ENOENT ? "it has not joined" : "what is there is no block");
    }
    kin_ring_take(&receiver, &frame);
    kin_ring_leave(&receiver);
    const unsigned char *bytes = kin_arena_bytes(&receiver.arena, &block);
    if (block.length != LONG)
        violated("a torn message");
    for (uint64_t i = 0; i < block.length; i += 64)
        if (bytes[i] != frame.kind)
            violated("a torn message");
    kin_arena_release(&receiver.arena, &block);
    if (atomic_fetch_add(&shared->noted[frame.kind], 1) != 0)
        violated("a message came twice");
    return frame.kind;
}

/* --------------------------------------------------------------------------------- the others */

/* All that is there is received; then all blocks are free. */
static void
have_all(void *memory)
{
    struct kin_block halves[2];
    while (receive(memory) != 0)
        ;
    if (!allocate(ALL / 2 * UNIT, &halves[0]))
        violated("a block has leaked");
    if (!allocate(ALL / 2 * UNIT, &halves[1])) {
        /* The first one may lie in the middle, as the dead are not looked for before there is no room. */
        kin_arena_release(&sender.arena, &halves[0]);
        if (!allocate(ALL / 2 * UNIT, &halves[0]) || !allocate(ALL / 2 * UNIT, &halves[1]))
            violated("a block has leaked");
    }
    for (int i = 0; i < 2; i++)
        kin_arena_release(&sender.arena, &halves[i]);
    send_message(9);
    if (receive(memory) != 9)
        violated("it does not go on");
}

static void
get_one(void *memory)
{
    struct kin_block block;
    allocate_waiting(LONG, &block);
    kin_arena_release(&sender.arena, &block);
    ((struct shared *)memory)->ended++;
}

/* The victim is no bystander, for whom the others would wait. */
static void
get_mine(void *memory)
{
    struct kin_block block;
    (void)memory;
    allocate_waiting(LONG, &block);
    kin_arena_release(&sender.arena, &block);
}

/* Whoever sleeps for a block has to get it from the victim, if that took anything. */
static void
let_them_get(struct shared *shared, int count)
{
    while (shared->ended < count &&
           atomic_load(&((struct kin_ring_memory *)(void *)shared->ring)->receivers.position) != 0)
        sched_yield();
    while (receive(shared) != 0)
        ;
    while (shared->ended < count)
        sched_yield();
    have_all(shared);
}

static void
end_one(void *memory)
{
    let_them_get(memory, 1);
}

static void
end_two(void *memory)
{
    let_them_get(memory, 2);
}

/* ------------------------------------------------------------------------------------ the acts */

static void
reserve_and_drop(void *memory)
{
    struct kin_block block;
    (void)memory;
    if (!allocate(LONG, &block))
        violated("there is room");
    kin_arena_release(&sender.arena, &block);
}

static void
send_one(void *memory)
{
    struct kin_block block;
    if (!allocate(LONG, &block))
        violated("there is room");
    send_block(1, &block);
    ((struct shared *)memory)->returned = 1;
}

static int
check_sent(const void *memory)
{
    const struct shared *shared = memory;
    if (shared->returned != 0 && shared->noted[1] == 0)
        violated("what was sent is lost");
    return 0;
}

static void
prepare_two(void *memory)
{
    be_victim(memory);
    send_message(1);
    send_message(2);
    close_both();
}

static void
receive_one(void *memory)
{
    if (receive(memory) == 1)
        ((struct shared *)memory)->returned = 1;
}

static int
check_received(const void *memory)
{
    const struct shared *shared = memory;
    if (shared->noted[2] == 0 || (shared->returned != 0 && shared->noted[1] == 0))
        violated("a message is lost");
    return 0;
}

static void
fill(void *memory)
{
    be_victim(memory);
    for (int i = 0; i < ALL / EACH; i++)
        send_message(1 + i);
    close_both();
}

static void
receive_here(void *memory)
{
    struct shared *shared = memory;
    be_victim(memory);
    if (atomic_load(&((struct kin_ring_memory *)(void *)shared->ring)->receivers.position) == 0)
        receive(memory);
    close_both();
}

static void
close_here(void *memory)
{
    (void)memory;
    close_both();
}

/* ------------------------------------------------------------- a file that nobody has open any more */

/* As after a reboot: of another boot, each lock the one of a thread that is somebody else by now; two messages, and a block that
 * a dead process had. */
static void
fill_and_die(void *memory)
{
    struct shared *shared = memory;
    struct kin_ring_memory *ring = (struct kin_ring_memory *)(void *)shared->ring;
    struct kin_block block;
    be_victim(memory);
    send_message(1);
    send_message(2);
    if (!allocate(LONG, &block))
        violated("there is room");
    struct kin_mutex_state *locks[] = {&ring->object.guard, &ring->senders.lock, &ring->receivers.lock};
    for (int i = 0; i < 3; i++)
        atomic_store(&locks[i]->word, (uint64_t)getppid());
    ring->object.header.boot_id[0] ^= 1;
    _exit(0);
}

static void
leave_behind(void *memory)
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        fill_and_die(memory);
    if (waitpid(pid, &status, 0) != pid || status != 0)
        violated("it can't be prepared");
}

static void
adopt(void *memory)
{
    if (kin_ring_adopt(memory, ROOM) != KIN_SOUND)
        violated("it can't be taken over");
}

static void
adopt_and_open(void *memory)
{
    adopt(memory);
    be_victim(memory);
}

static void
receive_and_have_all(void *memory)
{
    if (receive(memory) != 1 || receive(memory) != 2)
        violated("a message is lost");
    have_all(memory);
}

/* --------------------------------------------------------------------------- made, and forked */

static void
open_it(void *memory)
{
    open_both(memory);
}

static struct kin_block held;

static void
hold_one(void *memory)
{
    be_victim(memory);
    if (!allocate(LONG, &held))
        violated("there is room");
    memset(kin_arena_bytes(&sender.arena, &held), 5, LONG);
}

/* The child has what it inherited, whatever becomes of the parent, or nothing; and ends. */
static void
fork_here(void *memory)
{
    struct shared *shared = memory;
    pid_t child = fork();
    if (child != 0)
        return;
    const struct kin_member *row = kin_members_row(&sender.arena.members);
    const unsigned char *bytes = kin_arena_bytes(&sender.arena, &held);
    for (uint64_t i = 0; row != NULL && i < LONG; i += 64)
        if (bytes[i] != 5)
            shared->noted[0] = 1;
    _exit(0);
}

static int
check_forked(const void *memory)
{
    return ((const struct shared *)memory)->noted[0];
}

/* The child may live yet, and have a block. */
static void
have_all_in_the_end(void *memory)
{
    struct kin_block blocks[ALL];
    for (int i = 0; i < ALL; i++)
        allocate_waiting(UNIT, &blocks[i]);
    for (int i = 0; i < ALL; i++)
        kin_arena_release(&sender.arena, &blocks[i]);
    have_all(memory);
}

const struct fault_case fault_cases[] = {
    {"reserve", sizeof(struct shared), NULL, be_victim, reserve_and_drop, NULL, NULL,
     {{AFTERWARDS, be_victim, have_all}}},
    {"commit", sizeof(struct shared), NULL, be_victim, send_one, NULL, check_sent,
     {{AFTERWARDS, be_victim, have_all}}},
    {"receive", sizeof(struct shared), prepare_two, be_victim, receive_one, NULL, check_received,
     {{AFTERWARDS, be_victim, have_all}}},
    {"leave", sizeof(struct shared), NULL, be_victim, close_here, NULL, NULL,
     {{AFTERWARDS, be_victim, have_all}}},
    /* Somebody sleeps until a block comes back. */
    {"give-back", sizeof(struct shared), fill, be_victim, receive_one, NULL, NULL,
     {{EARLY, be_victim, get_one}, {EARLY, be_victim, get_one}, {AFTERWARDS, be_victim, end_two}}},
    /* It sleeps itself, beside another. */
    {"wait", sizeof(struct shared), fill, be_victim, get_mine, receive_here, NULL,
     {{EARLY, be_victim, get_one}, {AFTERWARDS, be_victim, end_one}}},
    {"adopt", sizeof(struct shared), leave_behind, NULL, adopt, NULL, NULL,
     {{AFTERWARDS, adopt_and_open, receive_and_have_all}}},
    {"make", sizeof(struct shared), NULL, NULL, open_it, NULL, NULL, {{AFTERWARDS, be_victim, have_all}}},
    {"attach", sizeof(struct shared), prepare_two, NULL, open_it, NULL, check_received,
     {{AFTERWARDS, be_victim, have_all}}},
    {"join", sizeof(struct shared), prepare_two, NULL, be_victim, NULL, check_received,
     {{AFTERWARDS, be_victim, have_all}}},
    {"fork", sizeof(struct shared), NULL, hold_one, fork_here, NULL, check_forked,
     {{AFTERWARDS, be_victim, have_all_in_the_end}}},
    {NULL, 0, NULL, NULL, NULL, NULL, NULL, {{NOBODY, NULL, NULL}}},
};
