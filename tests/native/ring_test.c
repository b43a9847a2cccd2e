/* The ring as threads, for the sanitizers: tests/native/test_ring.py compiles and runs it.
 *
 *     ring_test WHAT ROUNDS
 *
 *     stream       one sends, one receives: everything comes, in order, whole
 *     many         three send and three receive, in a ring that is mostly full or empty
 *     batches      the same, several at once
 *     alarms       threads wait for what never comes, and are called back again and again
 *     overwritten  the memory is filled with noise while others are at it: an error, or nonsense, and nothing outside it
 *     blocks       large messages, of all lengths, in an arena that is mostly full
 *     noise        the tables of the arena are filled with noise
 *     misuse       what is refused
 *
 * Ends with 0, or with a sentence and 1. A wake-up that is lost hangs: the caller sets a limit.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "futex.h"
#include "ring.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

enum { CAPACITY = 4096, ARENA = 1 << 15, SENDERS = 3, RECEIVERS = 3, LONGEST = 900 };

static uint32_t rounds;
static void *memory;
static struct kin_ring sender, receiver;
static struct kin_watcher watcher;
static const struct kin_ring_terms TERMS = {CAPACITY, ARENA};
static _Atomic uint32_t received[SENDERS];
static _Atomic int over;

struct message {
    uint32_t from, number, length;
    unsigned char text[LONGEST];
};

static void
enter(struct kin_ring *ring)
{
    int error;
    while ((error = kin_ring_enter(ring, 0)) == EINTR)
        ;
    CHECK(error == 0);
}

static void
make(struct message *message, uint32_t from, uint32_t number)
{
    *message = (struct message){.from = from, .number = number, .length = number * 7 % LONGEST};
    memset(message->text, (int)(number & 255), message->length);
}

/* As many as there is room for, up to `most`; waits for the first. */
static uint32_t
send_some(uint32_t from, uint32_t number, uint32_t most)
{
    struct message message;
    uint32_t count = 0;
    for (;;) {
        enter(&sender);
        for (; count < most; count++) {
            make(&message, from, number + count);
            struct iovec pieces[2] = {{&message, offsetof(struct message, text)},
                                      {message.text, message.length}};
            int error = kin_ring_put(&sender, pieces, 2, pieces[0].iov_len + pieces[1].iov_len, 9);
            CHECK(error == 0 || error == EAGAIN);
            if (error != 0)
                break;
        }
        if (count > 0)
            break;
        kin_ring_withdraw(&sender);
        CHECK(kin_ring_wait(&sender, sender.alarm, NULL) == 0);
    }
    kin_ring_leave(&sender);
    return count;
}

static void
check(const struct message *message, uint32_t length)
{
    CHECK(message->from < SENDERS && message->length + offsetof(struct message, text) == length);
    for (uint32_t i = 0; i < message->length; i++)
        CHECK(message->text[i] == (message->number & 255));
}

/* How many: 0 when it is over. */
static uint32_t
receive_some(uint32_t most, bool in_order)
{
    static uint32_t last;
    struct message message;
    struct kin_ring_frame frame;
    uint32_t count = 0;
    for (;;) {
        enter(&receiver);
        for (; count < most; count++) {
            int error = kin_ring_next(&receiver, &frame);
            CHECK(error == 0 || error == EAGAIN);
            if (error != 0)
                break;
            CHECK(frame.kind == 9 && frame.length <= sizeof message);
            kin_ring_copy(&receiver, &frame, &message);
            kin_ring_take(&receiver, &frame);
            check(&message, frame.length);
            atomic_fetch_add(&received[message.from], message.number);
            if (in_order)
                CHECK(message.number == last++);
        }
        if (count > 0)
            break;
        kin_ring_withdraw(&receiver);
        uint32_t alarm = receiver.alarm;
        if (over)
            return 0;
        int error = kin_ring_spin(&receiver, 1) ? 0 : kin_ring_wait(&receiver, alarm, NULL);
        CHECK(error == 0 || error == ECANCELED);
    }
    kin_ring_leave(&receiver);
    return count;
}

static uint32_t batch;

static void *
send_all(void *argument)
{
    uint32_t from = (uint32_t)(uintptr_t)argument;
    for (uint32_t number = 0; number < rounds;)
        number += send_some(from, number, rounds - number < batch ? rounds - number : batch);
    return NULL;
}

static void *
receive_all(void *argument)
{
    while (receive_some(batch, argument != NULL) > 0)
        ;
    return NULL;
}

static void
traffic(int senders, int receivers, uint32_t at_once)
{
    pthread_t threads[SENDERS + RECEIVERS];
    batch = at_once;
    for (int i = 0; i < receivers; i++)
        CHECK(pthread_create(&threads[SENDERS + i], NULL, receive_all,
                             receivers == 1 ? memory : NULL) == 0);
    for (long i = 0; i < senders; i++)
        CHECK(pthread_create(&threads[i], NULL, send_all, (void *)i) == 0);
    for (int i = 0; i < senders; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    while (kin_ring_depth(&receiver) > 0)
        usleep(100);
    over = 1;
    kin_ring_alarm(&receiver);
    for (int i = 0; i < receivers; i++)
        CHECK(pthread_join(threads[SENDERS + i], NULL) == 0);
    for (int i = 0; i < senders; i++)
        CHECK(received[i] == (uint32_t)((uint64_t)rounds * (rounds - 1) / 2));
}

static void *
wait_for_nothing(void *argument)
{
    (void)argument;
    for (uint32_t alarm = 0; alarm < rounds;) {
        int error = kin_ring_wait(&receiver, alarm, NULL);
        CHECK(error == 0 || error == ECANCELED);
        alarm = receiver.alarm;
    }
    return NULL;
}

static void
alarms(void)
{
    pthread_t threads[RECEIVERS];
    for (int i = 0; i < RECEIVERS; i++)
        CHECK(pthread_create(&threads[i], NULL, wait_for_nothing, NULL) == 0);
    for (uint32_t i = 0; i < rounds; i++)
        kin_ring_alarm(&receiver);
    for (int i = 0; i < RECEIVERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(receiver.waiting[0] == 0 && receiver.waiting[1] == 0);
}

/* ------------------------------------------------------------------------------------- blocks */

static void
allocate(uint64_t length, struct kin_block *block)
{
    int error;
    while ((error = kin_arena_allocate(&sender.arena, length, block)) == EAGAIN)
        CHECK(kin_arena_wait(&sender.arena, length, sender.alarm, NULL) == 0);
    CHECK(error == 0);
}

static void *
send_blocks(void *argument)
{
    uint32_t from = (uint32_t)(uintptr_t)argument;
    for (uint32_t number = 0; number < rounds; number++) {
        struct kin_block block;
        allocate(1 + (uint64_t)number * 977 % (ARENA / 2), &block);
        memset(kin_arena_bytes(&sender.arena, &block), (int)(number & 255), block.length);
        if (number % 5 == 4) { /* it was only reserved */
            kin_arena_release(&sender.arena, &block);
            continue;
        }
        for (;;) {
            enter(&sender);
            if (kin_ring_put_block(&sender, &block, (uint8_t)number) == 0)
                break;
            kin_ring_withdraw(&sender);
            CHECK(kin_ring_wait(&sender, sender.alarm, NULL) == 0);
        }
        kin_ring_leave(&sender);
        kin_arena_release(&sender.arena, &block);
        atomic_fetch_add(&received[from], 1);
    }
    return NULL;
}

static void *
receive_blocks(void *argument)
{
    struct kin_ring_frame frame;
    struct kin_block block;
    (void)argument;
    for (;;) {
        enter(&receiver);
        int error = kin_ring_next(&receiver, &frame);
        if (error == 0) {
            CHECK(kin_ring_next_block(&receiver, &frame, &block) == 0);
            kin_ring_take(&receiver, &frame);
            kin_ring_leave(&receiver);
            const unsigned char *bytes = kin_arena_bytes(&receiver.arena, &block);
            for (uint64_t i = 0; i < block.length; i++)
                CHECK(bytes[i] == frame.kind);
            kin_arena_release(&receiver.arena, &block);
            atomic_fetch_sub(&received[0], 1);
            continue;
        }
        kin_ring_withdraw(&receiver);
        CHECK(error == EAGAIN);
        uint32_t alarm = receiver.alarm;
        if (over)
            return NULL;
        error = kin_ring_wait(&receiver, alarm, NULL);
        CHECK(error == 0 || error == ECANCELED);
    }
}

static void
blocks(void)
{
    pthread_t threads[SENDERS + RECEIVERS];
    CHECK(kin_members_join(&receiver.arena.members, NULL) == 0);
    for (long i = 0; i < SENDERS + RECEIVERS; i++)
        CHECK(pthread_create(&threads[i], NULL, i < SENDERS ? send_blocks : receive_blocks,
                             (void *)(uintptr_t)i) == 0);
    for (int i = 0; i < SENDERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    while (kin_ring_depth(&receiver) > 0)
        usleep(100);
    over = 1;
    kin_ring_alarm(&receiver);
    for (int i = 0; i < RECEIVERS; i++)
        CHECK(pthread_join(threads[SENDERS + i], NULL) == 0);
    CHECK(received[0] + received[1] + received[2] == 0 && kin_arena_depth(&receiver.arena) == 0);
    struct kin_block halves[2]; /* all came back */
    for (int i = 0; i < 2; i++)
        CHECK(kin_arena_allocate(&sender.arena, ARENA / 2, &halves[i]) == 0);
    CHECK(halves[0].in_place && !halves[1].in_place);
    CHECK(kin_arena_allocate(&sender.arena, 1, &halves[0]) == EAGAIN);
}

/* Nothing is written or read outside, whatever the tables say; the members' own are left alone. */
static void
noise(void)
{
    unsigned seed = 1;
    uint32_t refused = 0;
    CHECK(kin_members_join(&receiver.arena.members, NULL) == 0);
    struct kin_arena *arena = &sender.arena;
    for (uint32_t i = 0; i < rounds; i++) {
        struct kin_block block;
        for (uint32_t unit = 0; unit < arena->shape.units; unit++) {
            uint64_t word = (uint64_t)rand_r(&seed) << 33 ^ (uint64_t)rand_r(&seed);
            atomic_store(&arena->entries[unit].word, rand_r(&seed) % 2 ? 0 : word & ~UINT64_C(0xfff8));
            atomic_store(&arena->entries[unit].at, word * 7);
        }
        int error = kin_arena_allocate(arena, 1 + (uint64_t)rand_r(&seed) % (ARENA / 2), &block);
        CHECK(error == 0 || error == EAGAIN || error == EBADMSG);
        refused += error == EBADMSG;
        if (error == 0) {
            memset(kin_arena_bytes(arena, &block), 1, block.length);
            kin_arena_release(arena, &block);
        }
        CHECK(kin_arena_depth(arena) == 0);
        struct kin_arena_place place = {(uint32_t)rand_r(&seed) % 12, (uint32_t)rand_r(&seed) % 4,
                                        (uint64_t)rand_r(&seed) % (2 * ARENA)};
        struct iovec piece = {&place, sizeof place};
        if (place.unit < arena->shape.units && i % 2 == 0)
            atomic_store(&arena->entries[place.unit].word, (uint64_t)place.stamp << 32 |
                         (uint64_t)(rand_r(&seed) % 16) | KIN_BLOCK_SENT);
        struct kin_ring_frame frame;
        enter(&sender);
        CHECK(kin_ring_put_flagged(&sender, &piece, 1, sizeof place, 0, KIN_RING_IN_BLOCK) == 0);
        kin_ring_leave(&sender);
        enter(&receiver);
        CHECK(kin_ring_next(&receiver, &frame) == 0);
        error = kin_ring_next_block(&receiver, &frame, &block);
        CHECK(error == 0 || error == EBADMSG);
        refused += error == EBADMSG;
        kin_ring_take(&receiver, &frame);
        kin_ring_leave(&receiver);
        if (error == 0) {
            volatile unsigned char *bytes = kin_arena_bytes(&receiver.arena, &block);
            (void)(bytes[0] + bytes[block.length == 0 ? 0 : block.length - 1]);
            CHECK(bytes + block.length <= (unsigned char *)memory + kin_ring_room(&TERMS));
            kin_arena_release(&receiver.arena, &block);
        }
    }
    CHECK(refused > 0);
}

/* One operation of each kind on whatever lies there; the lock's own words are left alone. */
static void
overwritten(void)
{
    struct kin_ring_memory *ring = memory;
    unsigned char *bytes = (unsigned char *)memory + KIN_RING_BYTES_AT, *copy = malloc(CAPACITY);
    unsigned seed = 1;
    uint32_t refused = 0;
    CHECK(copy != NULL);
    for (uint32_t i = 0; i < rounds; i++) {
        for (int k = 0; k < CAPACITY; k += 4) { /* half of it are lengths that might be */
            uint32_t word = (uint32_t)rand_r(&seed) * 2;
            word = i % 2 == 0 ? word : word % (2 * CAPACITY);
            memcpy(bytes + k, &word, sizeof word);
        }
        uint64_t noise = (uint64_t)rand_r(&seed) << 33 ^ (uint64_t)rand_r(&seed) << 3;
        uint64_t apart = (uint64_t)rand_r(&seed) % (i % 3 == 0 ? 1 : i % 3 == 1 ? 5000 : 1 << 30);
        atomic_store(&ring->senders.position, noise + apart / 8 * 8);
        atomic_store(&ring->receivers.position, noise);
        atomic_store(&ring->shape.capacity, noise);
        struct iovec piece = {copy, (size_t)(rand_r(&seed) % 1000)};
        if (kin_ring_enter(&sender, 0) == 0) {
            kin_ring_put(&sender, &piece, 1, piece.iov_len, 0);
            kin_ring_leave(&sender);
        }
        struct kin_ring_frame frame;
        int error = kin_ring_enter(&receiver, 0);
        if (error == 0) {
            error = kin_ring_next(&receiver, &frame);
            if (error == 0) {
                CHECK(frame.length <= CAPACITY);
                kin_ring_copy(&receiver, &frame, copy);
                kin_ring_take(&receiver, &frame);
            }
            kin_ring_leave(&receiver);
        }
        CHECK(error == 0 || error == EAGAIN || error == EBADMSG);
        refused += error == EBADMSG;
    }
    CHECK(refused > 0);
    free(copy);
}

static void
misuse(void)
{
    struct kin_ring other;
    struct kin_ring_terms odd = {5000, ARENA}, none = {CAPACITY, 100}, larger = {2 * CAPACITY, ARENA};
    size_t room = kin_ring_room(&TERMS);
    CHECK(kin_ring_open(&other, memory, room, KIN_RING_SENDS, &odd, &watcher) == KIN_MISPLACED);
    CHECK(kin_ring_open(&other, memory, room, KIN_RING_SENDS, &none, &watcher) == KIN_MISPLACED);
    CHECK(kin_ring_open(&other, memory, room - 1, KIN_RING_SENDS, &TERMS, &watcher) == KIN_MISPLACED);
    CHECK(kin_ring_open(&other, memory, room, KIN_RING_SENDS, &larger, &watcher) == KIN_SOUND);
    CHECK(other.capacity == CAPACITY); /* that of who made it */
    char large[CAPACITY] = {0};
    struct iovec piece = {large, sizeof large};
    enter(&sender);
    CHECK(kin_ring_put(&sender, &piece, 1, sizeof large, 0) == EMSGSIZE);
    CHECK(kin_ring_put(&sender, &piece, 1, kin_ring_most(&sender), 0) == 0);
    kin_ring_withdraw(&sender);
    CHECK(kin_ring_depth(&sender) == 0);
    ((struct kin_ring_memory *)memory)->shape.capacity = 3;
    CHECK(kin_ring_open(&other, memory, room, KIN_RING_SENDS, &TERMS, &watcher) == KIN_ALIEN);
    ((struct kin_ring_memory *)memory)->shape.layout = 7;
    CHECK(kin_ring_open(&other, memory, room, KIN_RING_SENDS, &TERMS, &watcher) == KIN_OTHER_VERSION);
}

int
main(int argc, char *argv[])
{
    CHECK(argc == 3);
    const char *what = argv[1];
    rounds = (uint32_t)atoi(argv[2]);
    memory = mmap(NULL, kin_ring_room(&TERMS), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                  -1, 0);
    CHECK(memory != MAP_FAILED && kin_watcher_init(&watcher) == 0);
    size_t room = kin_ring_room(&TERMS);
    CHECK(kin_ring_open(&sender, memory, room, KIN_RING_SENDS, &TERMS, &watcher) == KIN_SOUND);
    CHECK(kin_ring_open(&receiver, memory, room, KIN_RING_RECEIVES, &TERMS, &watcher) == KIN_SOUND);
    if (strcmp(what, "stream") == 0)
        traffic(1, 1, 1);
    else if (strcmp(what, "many") == 0)
        traffic(SENDERS, RECEIVERS, 1);
    else if (strcmp(what, "batches") == 0)
        traffic(SENDERS, RECEIVERS, 5);
    else if (strcmp(what, "alarms") == 0)
        alarms();
    else if (strcmp(what, "overwritten") == 0)
        overwritten();
    else if (strcmp(what, "blocks") == 0)
        blocks();
    else if (strcmp(what, "noise") == 0)
        noise();
    else if (strcmp(what, "misuse") == 0)
        misuse();
    else
        return 2;
    CHECK(kin_ring_close(&sender) == 0 && kin_ring_close(&receiver) == 0);
    return 0;
}
