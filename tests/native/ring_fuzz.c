/* A ring whose memory is written over while threads send and receive: tests/native/test_ring_fuzz.py compiles and runs it.
 *
 *     ring_fuzz WHAT MILLISECONDS SEED       WHAT is one of the parts below, or `all`; `locks` also those that say who holds;
 *                                            `acknowledged`: all, of a ring whose messages are acknowledged
 *
 *         guard ╳│ header, shape │ sides │ bytes of the ring │ tables of the arena │ blocks │╳ guard
 *
 * Whatever lies there, a call ends, in an error that is known or a message that lies within the memory, all of which is read.
 * What is outside is a mapping without rights, larger than any length that a frame can say, or the heap: AddressSanitizer looks.
 *
 * Who holds a lock can be checked against nothing: a word that says it is a living thread's is waited for. So those words are
 * left alone, or given back after a moment (`locks`). Ends with 0, or with a sentence and 1; a call that does not
 * end is said after LIMIT seconds.
 */

#include <errno.h>
#include <limits.h>
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

enum { CAPACITY = 4096, ARENA = 1 << 16, THREADS = 4, LIMIT = 20, PATIENCE = 300 /* µs */ };

#define GUARD (UINT64_C(1) << 33)

static struct kin_ring_terms terms = {.capacity = CAPACITY, .arena = ARENA};
static unsigned char *memory;
static size_t room;
static struct kin_ring sender, receiver;
static struct kin_watcher watcher;
static _Atomic int over;
static _Atomic unsigned long calls[THREADS], good[THREADS];
static unsigned seed;

struct part {
    const char *name;
    size_t from, to;
};

static struct part parts[8];

/* ------------------------------------------------------------------------------------ errors */

/* What may come of a call on noise. */
static void
known(int error)
{
    switch (error) {
    case 0:
    case EAGAIN:
    case EBUSY:
    case EBADMSG:
    case EILSEQ:
    case ENOENT:
    case ENOSPC:
    case EUSERS:
    case ETIMEDOUT:
    case EDEADLK:
    case ENOTRECOVERABLE:
    case ECANCELED:
    case ESTALE:
    case EPROTO:
        return;
    default:
        errno = error;
        CHECK(!"an error that is known");
    }
}

static struct timespec
soon(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += PATIENCE * 1000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_nsec -= 1000000000;
        time.tv_sec++;
    }
    return time;
}

/* ------------------------------------------------------------------------------------- calls */

static bool
within(const unsigned char *bytes, uint64_t length)
{
    return bytes >= memory && length <= room && bytes + length <= memory + room;
}

/* Every byte of it. */
static void
read_all(const unsigned char *bytes, uint64_t length)
{
    volatile unsigned char sum = 0;
    for (uint64_t i = 0; i < length; i++)
        sum = (unsigned char)(sum + bytes[i]);
}

static void
send_small(unsigned *dice)
{
    static unsigned char text[CAPACITY];
    struct iovec piece = {text, (size_t)rand_r(dice) % (CAPACITY / 4 - 8)};
    int error = kin_ring_enter(&sender, 0);
    known(error);
    if (error != 0)
        return;
    error = kin_ring_put(&sender, &piece, 1, piece.iov_len, 0);
    known(error);
    if (error == 0)
        kin_ring_leave(&sender);
    else
        kin_ring_withdraw(&sender);
    struct timespec deadline = soon();
    if (error == EAGAIN)
        known(kin_ring_wait(&sender, sender.alarm, &deadline));
}

static void
send_large(unsigned *dice)
{
    struct kin_block block;
    struct timespec deadline = soon();
    uint64_t length = (uint64_t)rand_r(dice) % (ARENA / 2);
    int error = kin_arena_allocate(&sender.arena, length, &block);
    known(error);
    if (error == EAGAIN)
        known(kin_arena_wait(&sender.arena, length, sender.alarm, &deadline));
    if (error != 0)
        return;
    unsigned char *bytes = kin_arena_bytes(&sender.arena, &block);
    CHECK(within(bytes, length));
    memset(bytes, rand_r(dice), length);
    error = kin_ring_enter(&sender, 0);
    known(error);
    if (error == 0) {
        error = kin_ring_put_block(&sender, &block, 0);
        known(error);
        if (error == 0)
            kin_ring_leave(&sender);
        else
            kin_ring_withdraw(&sender);
    }
    kin_arena_release(&sender.arena, &block);
}

/* What was received is not needed any more. */
static void
end_with(const struct kin_block *block)
{
    struct kin_arena *arena = &receiver.arena;
    if (!receiver.acknowledged)
        kin_arena_release(arena, block);
    else
        known((block->stamp % 3 == 0 ? kin_arena_return : kin_arena_acknowledge)(arena, block->unit,
                                                                                 block->stamp));
}

/* One that came back. */
static void
receive_again(void)
{
    struct kin_block block;
    uint8_t kind;
    if (!kin_arena_has_returned(&receiver.arena))
        return;
    int error = kin_arena_take_returned(&receiver.arena, &block, &kind);
    known(error);
    if (error == 0) {
        const unsigned char *bytes = kin_arena_bytes(&receiver.arena, &block);
        CHECK(within(bytes, block.length));
        read_all(bytes, block.length);
        end_with(&block);
    }
}

static bool
receive(void)
{
    struct kin_ring_frame frame;
    struct kin_block block;
    unsigned char *copy = NULL;
    int error = kin_ring_enter(&receiver, 0);
    known(error);
    if (error != 0)
        return false;
    error = kin_ring_next(&receiver, &frame);
    known(error);
    if (error == 0 && frame.flags & KIN_RING_IN_BLOCK) {
        error = kin_ring_next_block(&receiver, &frame, &block);
        known(error);
    } else if (error == 0) {
        CHECK(frame.length <= CAPACITY);
        copy = malloc((size_t)frame.length + 1);
        kin_ring_copy(&receiver, &frame, copy);
    }
    if (error == 0) {
        kin_ring_take(&receiver, &frame);
        kin_ring_leave(&receiver);
    } else {
        kin_ring_withdraw(&receiver);
    }
    if (error == 0 && copy == NULL) {
        const unsigned char *bytes = kin_arena_bytes(&receiver.arena, &block);
        CHECK(within(bytes, block.length));
        kin_arena_touch(&receiver.arena, &block);
        read_all(bytes, block.length);
        end_with(&block);
    }
    free(copy);
    struct timespec deadline = soon();
    if (error == ENOENT)
        known(kin_members_join(&receiver.arena.members, NULL));
    if (error == EAGAIN)
        known(kin_ring_wait(&receiver, receiver.alarm, &deadline));
    return error == 0;
}

static bool
take_one(void)
{
    if (receiver.acknowledged)
        receive_again();
    return receive();
}

/* Whatever else looks into the memory. */
static void
look_around(void)
{
    struct kin_ring other;
    CHECK(kin_ring_depth(&sender) <= CAPACITY);
    kin_arena_depth(&sender.arena);
    if (receiver.acknowledged)
        kin_arena_may_come(&receiver.arena);
    known(kin_members_look(&receiver.arena.members, KIN_LOOK_ALL, NULL));
    enum kin_finding found =
        kin_ring_open(&other, memory, room, KIN_RING_RECEIVES, &terms, &watcher);
    CHECK(found <= KIN_OTHER_TERMS);
    if (found == KIN_SOUND) {
        known(kin_members_join(&other.arena.members, NULL));
        CHECK(kin_ring_close(&other) == 0);
    }
}

static void *
live(void *number)
{
    int own = (int)(intptr_t)number;
    unsigned dice = seed + (unsigned)own;
    while (!over) {
        if (own == 0)
            (rand_r(&dice) % 2 ? send_small : send_large)(&dice);
        else if (own == 3)
            look_around();
        else
            good[own] += take_one();
        calls[own]++;
    }
    return NULL;
}

/* -------------------------------------------------------------------------------------- noise */

static bool
is_lock(size_t at)
{
    size_t lock = sizeof(struct kin_mutex_state);
    return (at >= offsetof(struct kin_object, guard) && at < offsetof(struct kin_object, guard) + lock) ||
           (at >= offsetof(struct kin_ring_memory, senders) &&
            at < offsetof(struct kin_ring_memory, senders) + lock) ||
           (at >= offsetof(struct kin_ring_memory, receivers) &&
            at < offsetof(struct kin_ring_memory, receivers) + lock);
}

/* Half of it are numbers that might be. */
static uint64_t
noise(unsigned *dice, uint64_t was)
{
    static const uint64_t odd[] = {0, 1, 8, 16, CAPACITY, ARENA, UINT64_MAX, UINT32_MAX, 1 << 16, 4095};
    uint64_t any = (uint64_t)rand_r(dice) << 42 ^ (uint64_t)rand_r(dice) << 21 ^ (uint64_t)rand_r(dice);
    switch (rand_r(dice) % 8) {
    case 0:
        return any;
    case 1:
        return odd[any % (sizeof odd / sizeof *odd)];
    case 2:
        return was ^ UINT64_C(1) << any % 64;
    case 3:
        return was + any % 64 * 8;
    case 4:
        return was - any % 64 * 8;
    case 5:
        return any % 32 | (any >> 32 & 3) << 16 | (any >> 40 & 15) << 32;
    case 6: /* a frame that says it is in a block */
        return 16 | UINT64_C(1) << 40;
    default:
        return (was & ~(uint64_t)UINT32_MAX) | any % 100000;
    }
}

static void
give_locks_back(void)
{
    struct kin_ring_memory *ring = (struct kin_ring_memory *)(void *)memory;
    struct kin_mutex_state *all[] = {&ring->object.guard, &ring->senders.lock, &ring->receivers.lock};
    for (int i = 0; i < 3; i++) {
        atomic_store(&all[i]->word, 0);
        atomic_store(&all[i]->starving, 0);
        atomic_store(&all[i]->given_up, 0);
        kin_futex_wake(&all[i]->word, INT_MAX);
        kin_futex_wake(&all[i]->starving, INT_MAX);
    }
}

static void
write_over(const struct part *part, bool locks, unsigned *dice)
{
    size_t words = (part->to - part->from) / 8;
    for (int many = rand_r(dice) % 20; many >= 0; many--) {
        size_t at = part->from + (size_t)rand_r(dice) % words * 8;
        volatile uint64_t *word = (volatile uint64_t *)(volatile void *)(memory + at);
        if (locks || !is_lock(at))
            *word = noise(dice, *word);
    }
    if (locks) {
        usleep(200);
        give_locks_back();
    }
    /* Now and then it is a ring again, or nothing but errors would follow. */
    if (rand_r(dice) % 4 == 0) {
        struct kin_ring_memory *ring = (struct kin_ring_memory *)(void *)memory;
        atomic_store(&ring->senders.position, atomic_load(&ring->receivers.position) & ~UINT64_C(7));
    }
    if (rand_r(dice) % 16 == 0) {
        memset(memory + parts[4].from, 0, parts[4].to - parts[4].from);
        atomic_store(&((struct kin_ring_memory *)(void *)memory)->receivers.position, 0);
        atomic_store(&((struct kin_ring_memory *)(void *)memory)->senders.position, 0);
    }
}

static void
fuzz(const char *what, long milliseconds)
{
    unsigned dice = seed * 31 + 7;
    uint64_t end = kin_now() + (uint64_t)milliseconds * 1000000, stuck = kin_now();
    unsigned long before[THREADS] = {0};
    bool locks = strcmp(what, "locks") == 0, every = locks || terms.acknowledged || strcmp(what, "all") == 0;
    int count = 0, chosen = -1;
    for (; parts[count].name != NULL; count++)
        if (strcmp(parts[count].name, what) == 0)
            chosen = count;
    CHECK(every || chosen >= 0);
    while (kin_now() < end) {
        write_over(&parts[every ? rand_r(&dice) % count : chosen], locks, &dice);
        if (rand_r(&dice) % 8 == 0)
            usleep(50);
        bool on = true;
        for (int i = 0; i < THREADS; i++)
            on &= calls[i] != before[i];
        if (on) {
            stuck = kin_now();
            for (int i = 0; i < THREADS; i++)
                before[i] = calls[i];
        }
        CHECK(kin_now() - stuck < LIMIT * UINT64_C(1000000000)); /* else a call does not end */
    }
}

/* --------------------------------------------------------------------------------------- main */

static void
divide(void)
{
    size_t tables = KIN_RING_BYTES_AT + CAPACITY;
    size_t entries = (size_t)((unsigned char *)sender.arena.entries - memory);
    size_t blocks = (size_t)(sender.arena.blocks - memory);
    struct part all[] = {
        {"header", 0, 256},
        {"senders", 256, 512},
        {"receivers", 512, 768},
        {"bytes", KIN_RING_BYTES_AT, tables},
        {"entries", entries, blocks},
        {"members", tables, tables + 64 + kin_members_size(4)},
        {"blocks", blocks, room},
        {NULL, 0, 0},
    };
    memcpy(parts, all, sizeof all);
}

int
main(int argc, char *argv[])
{
    CHECK(argc == 4);
    seed = (unsigned)atoi(argv[3]);
    terms.acknowledged = strcmp(argv[1], "acknowledged") == 0;
    room = kin_ring_room(&terms);
    unsigned char *all = mmap(NULL, 2 * GUARD + room, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(all != MAP_FAILED);
    memory = mmap(all + GUARD, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
                  -1, 0);
    CHECK(memory == all + GUARD && kin_watcher_init(&watcher) == 0);
    CHECK(kin_ring_open(&sender, memory, room, KIN_RING_SENDS, &terms, &watcher) == KIN_SOUND);
    CHECK(kin_ring_open(&receiver, memory, room, KIN_RING_RECEIVES, &terms, &watcher) == KIN_SOUND);
    divide();
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, live, (void *)i) == 0);
    fuzz(argv[1], atol(argv[2]));
    over = 1;
    give_locks_back();
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    printf("calls %lu received %lu\n", calls[0] + calls[1] + calls[2] + calls[3], good[1] + good[2]);
    fflush(stdout);
    _exit(0); /* nothing can be closed in good order */
}
