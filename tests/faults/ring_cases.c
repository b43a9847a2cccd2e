/* Cases of the ring, for harness.c.
 *
 * A message is its number, told three times and followed by as many bytes as the number says: so a torn one shows. Its receiver
 * notes that he has it. What nobody notes, and is not in the ring, went with the victim, who may have taken one
 * call's worth.
 */

#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "ring.h"

enum { CAPACITY = 4096, MOST = 64, LONG = 320, FILLING = 12 /* that leave less room than what LONG takes */ };

/* Of an arena that is not used here; what it takes. */
enum { ARENA = 1 << 15, ARENA_ROOM = ARENA + 8192 };

struct shared {
    struct kin_ring_memory ring;
    unsigned char bytes[CAPACITY], arena[ARENA_ROOM];
    pid_t victim;
    _Atomic int returned;      /* of the victim's calls */
    _Atomic int ended;         /* bystanders that have received what they wait for */
    _Atomic int senders;       /* bystanders that have begun to send */
    _Atomic uint32_t noted[MOST];
};

_Static_assert(offsetof(struct shared, bytes) == KIN_RING_BYTES_AT, "as in ring_layout.h");

/* Each process has its own copy. */
static struct kin_ring sender, receiver;
static const struct kin_ring_terms TERMS = {CAPACITY, ARENA};

/* ------------------------------------------------------------------------------- both ways */

static struct kin_ring *
opened(struct kin_ring *ring, struct shared *shared, enum kin_ring_way way)
{
    if (ring->mine == NULL &&
        kin_ring_open(ring, shared, offsetof(struct shared, victim), way, &TERMS, NULL) != KIN_SOUND)
        violated("the ring can't be opened");
    return ring;
}

static struct kin_ring *
to_send(struct shared *shared)
{
    return opened(&sender, shared, KIN_RING_SENDS);
}

static struct kin_ring *
to_receive(struct shared *shared)
{
    return opened(&receiver, shared, KIN_RING_RECEIVES);
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
sleep_for(struct kin_ring *ring)
{
    int error = kin_ring_wait(ring, ring->alarm, NULL);
    if (error != 0 && error != EINTR && error != ECANCELED)
        violated("can't wait");
}

/* Between enter and leave. EAGAIN: there is no room. */
static int
put(struct kin_ring *ring, uint32_t number, uint32_t length)
{
    unsigned char text[LONG];
    uint32_t head[3] = {number, number, length};
    memset(text, (int)number, sizeof text);
    struct iovec pieces[2] = {{head, sizeof head}, {text, length}};
    int error = kin_ring_put(ring, pieces, 2, sizeof head + length, (uint8_t)number);
    if (error != 0 && error != EAGAIN)
        violated("can't put");
    return error;
}

static void
send_message(struct shared *shared, uint32_t number, uint32_t length)
{
    struct kin_ring *ring = to_send(shared);
    for (;;) {
        enter(ring);
        if (put(ring, number, length) == 0)
            break;
        kin_ring_withdraw(ring);
        sleep_for(ring);
    }
    kin_ring_leave(ring);
}

/* Between enter and leave. 0: there is none. */
static uint32_t
take(struct kin_ring *ring)
{
    struct kin_ring_frame frame;
    struct {
        uint32_t head[3];
        unsigned char text[LONG];
    } message;
    int error = kin_ring_next(ring, &frame);
    if (error == EAGAIN)
        return 0;
    if (error != 0 || frame.length > sizeof message)
        violated("what is there is no message");
    kin_ring_copy(ring, &frame, &message);
    kin_ring_take(ring, &frame);
    if (message.head[0] != frame.kind || message.head[1] != frame.kind ||
        message.head[2] != frame.length - sizeof message.head)
        violated("a torn message");
    for (uint32_t i = 0; i < message.head[2]; i++)
        if (message.text[i] != frame.kind)
            violated("a torn message");
    return frame.kind;
}

static void
note(struct shared *shared, uint32_t number)
{
    if (atomic_fetch_add(&shared->noted[number], 1) != 0)
        violated("a message came twice");
}

static uint32_t
receive(struct shared *shared, bool waits)
{
    struct kin_ring *ring = to_receive(shared);
    for (;;) {
        enter(ring);
        uint32_t number = take(ring);
        if (number != 0) {
            kin_ring_leave(ring);
            note(shared, number);
            return number;
        }
        kin_ring_withdraw(ring);
        if (!waits)
            return 0;
        sleep_for(ring);
    }
}

static uint64_t
position(struct kin_ring_side *side)
{
    return atomic_load(&side->position);
}

static bool
is_empty(struct shared *shared)
{
    return position(&shared->ring.senders) == position(&shared->ring.receivers);
}

/* -------------------------------------------------------------------- before, and bystanders */

static void
open_both(void *memory)
{
    sender.mine = receiver.mine = NULL; /* of another play */
    to_send(memory);
    to_receive(memory);
}

/* Here, so that making is no part of what is stepped. */
static void
be_victim(void *memory)
{
    open_both(memory);
    ((struct shared *)memory)->victim = getpid();
}

static void
receive_one(void *memory)
{
    receive(memory, true);
    ((struct shared *)memory)->ended++;
}

/* The victim is no bystander: who counted it as one would take from those what they wait for. */
static void
receive_mine(void *memory)
{
    receive(memory, true);
}

static void
send_another(void *memory)
{
    struct shared *shared = memory;
    send_message(shared, 50 + (uint32_t)atomic_fetch_add(&shared->senders, 1), LONG - 60);
}

/* Everything that is there, and that it goes on. */
static void
drain(void *memory)
{
    uint32_t number;
    while (receive(memory, false) != 0)
        ;
    send_message(memory, 60, LONG);
    while ((number = receive(memory, false)) != 60) /* others may be at it too */
        if (number == 0)
            violated("what is sent does not come");
}

/* Ends those that wait for a message, one for each; but what is there they have to find by themselves. */
static void
end_receivers(struct shared *shared, int count)
{
    while (shared->ended < count && !is_empty(shared))
        sched_yield();
    for (int i = shared->ended; i < count; i++)
        send_message(shared, 40 + (uint32_t)i, 0);
    while (shared->ended < count)
        sched_yield();
}

static void
end_one(void *memory)
{
    end_receivers(memory, 1);
    drain(memory);
}

static void
end_two(void *memory)
{
    end_receivers(memory, 2);
    drain(memory);
}

/* ---------------------------------------------------------------------------- sent, received */

static void
send_one(void *memory)
{
    send_message(memory, 1, LONG);
    ((struct shared *)memory)->returned++;
}

/* What was sent is there, or was received. */
static int
check_sent(const void *memory)
{
    const struct shared *shared = memory;
    for (int i = 1; i <= shared->returned; i++)
        if (shared->noted[i] == 0)
            violated("what was sent is lost");
    return 0;
}

static void
send_batch(void *memory)
{
    struct shared *shared = memory;
    struct kin_ring *ring = to_send(shared);
    enter(ring);
    for (uint32_t i = 1; i <= 3; i++)
        if (put(ring, i, i * 50) != 0)
            violated("there is room");
    kin_ring_leave(ring);
    shared->returned = 3;
}

static int
check_batch(const void *memory)
{
    const struct shared *shared = memory;
    if (shared->noted[1] != shared->noted[2] || shared->noted[2] != shared->noted[3])
        violated("a part of what was committed at once");
    return check_sent(memory);
}

static void
prepare_two(void *memory)
{
    open_both(memory);
    send_message(memory, 1, 100);
    send_message(memory, 2, LONG);
}

static void
receive_now(void *memory)
{
    if (receive(memory, false) == 1)
        ((struct shared *)memory)->returned++;
}

/* The first may have gone with the victim; the second has not. */
static int
check_received(const void *memory)
{
    const struct shared *shared = memory;
    if (shared->noted[2] == 0 || (shared->returned && shared->noted[1] == 0))
        violated("a message is lost");
    return 0;
}

/* ------------------------------------------------------------------------------------- waking */

/* Only if the victim has not: what it has sent has to arrive by itself. */
static void
send_instead(void *memory)
{
    struct shared *shared = memory;
    if (position(&shared->ring.senders) == 0)
        send_message(shared, 4, LONG);
}

static void
send_two(void *memory)
{
    struct kin_ring *ring = to_send(memory);
    enter(ring);
    for (uint32_t i = 1; i <= 2; i++)
        if (put(ring, i, i * 50) != 0)
            violated("there is room");
    kin_ring_leave(ring);
}

static void
send_third(void *memory)
{
    send_message(memory, 3, 10);
}

static void
fill(void *memory)
{
    open_both(memory);
    for (uint32_t i = 1; i <= FILLING; i++)
        send_message(memory, i, LONG - 20);
}

static void
take_all(void *memory)
{
    struct kin_ring *ring = to_receive(memory);
    struct kin_ring_frame frame;
    enter(ring);
    while (kin_ring_next(ring, &frame) == 0)
        kin_ring_take(ring, &frame);
    kin_ring_leave(ring);
}

static void
take_instead(void *memory)
{
    struct shared *shared = memory;
    if (position(&shared->ring.receivers) == 0)
        take_all(memory);
}

static void
send_long(void *memory)
{
    send_message(memory, 55, LONG);
}

static void
wait_briefly(void *memory)
{
    struct kin_ring *ring = to_receive(memory);
    struct timespec now = {0};
    int error = kin_ring_wait(ring, ring->alarm, &now);
    if (error != 0 && error != ETIMEDOUT)
        violated("can't wait");
}

static void
alarm_all(void *memory)
{
    kin_ring_alarm(to_receive(memory));
}

/* ------------------------------------------------------------------------------------ polling */

/* The file in which the ring would lie: it has to have a byte. */
static void
open_file(void *memory)
{
    static int file = -1;
    if (file < 0 && ((file = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) < 0 ||
                     ftruncate(file, 1) != 0))
        violated("there is no file");
    open_both(memory);
    kin_ring_lies_in(&sender, file);
    kin_ring_lies_in(&receiver, file);
}

static void
be_called(void *memory)
{
    open_file(memory);
    ((struct shared *)memory)->victim = getpid();
}

static void
sleep_by(struct kin_ring *ring, int number)
{
    struct pollfd news = {number, POLLIN, 0};
    if (!kin_ring_settle(ring, number) && poll(&news, 1, -1) < 0 && errno != EINTR)
        violated("can't poll");
}

static void
receive_polling(void *memory)
{
    struct shared *shared = memory;
    int news = kin_ring_poll(&receiver);
    if (news < 0)
        violated("there is no inotify");
    while (receive(shared, false) == 0)
        sleep_by(&receiver, news);
    shared->ended++;
}

static void
send_polling(void *memory)
{
    int news = kin_ring_poll(&sender), error = EAGAIN;
    (void)memory;
    while (error != 0) {
        enter(&sender);
        if ((error = put(&sender, 50, LONG)) == 0) {
            kin_ring_leave(&sender);
            break;
        }
        kin_ring_withdraw(&sender);
        sleep_by(&sender, news);
    }
}

static void
fill_all(void *memory)
{
    open_file(memory);
    for (uint32_t i = 1; i <= FILLING; i++)
        send_message(memory, i, LONG - 20);
}

static void
nothing(void *memory)
{
    (void)memory;
}

#define ENDS(function) {AFTERWARDS, open_both, function}

const struct fault_case fault_cases[] = {
    {"send", sizeof(struct shared), open_both, be_victim, send_one, NULL, check_sent, {ENDS(drain)}},
    {"batch", sizeof(struct shared), open_both, be_victim, send_batch, NULL, check_batch,
     {ENDS(drain)}},
    {"receive", sizeof(struct shared), prepare_two, be_victim, receive_now, NULL, check_received,
     {ENDS(drain)}},
    /* Somebody sleeps who has to hear of it. */
    {"wake", sizeof(struct shared), open_both, be_victim, send_one, send_instead, NULL,
     {{EARLY, open_both, receive_one}, ENDS(end_one)}},
    {"wake-with-others", sizeof(struct shared), open_both, be_victim, send_batch, send_instead, NULL,
     {{EARLY, open_both, receive_one}, {EARLY, open_both, receive_one}, ENDS(end_two)}},
    {"give-room", sizeof(struct shared), fill, be_victim, take_all, take_instead, NULL,
     {{EARLY, open_both, send_another}, {EARLY, open_both, send_another}, ENDS(drain)}},
    /* It sleeps itself, beside others. */
    {"wait", sizeof(struct shared), open_both, be_victim, receive_mine, send_two, NULL,
     {{EARLY, open_both, receive_one}, ENDS(end_one)}},
    {"wait-with-others", sizeof(struct shared), open_both, be_victim, receive_mine, send_two, NULL,
     {{EARLY, open_both, receive_one}, {NEXT, open_both, receive_one}, {MEANWHILE, open_both, send_third},
      ENDS(end_two)}},
    {"wait-for-room", sizeof(struct shared), fill, be_victim, send_long, take_all, NULL,
     {{EARLY, open_both, send_another}, {NEXT, open_both, send_another}, ENDS(drain)}},
    {"time-out", sizeof(struct shared), open_both, be_victim, wait_briefly, send_two, NULL,
     {{EARLY, open_both, receive_one}, ENDS(end_one)}},
    {"alarm", sizeof(struct shared), open_both, be_victim, alarm_all, send_two, NULL,
     {{EARLY, open_both, receive_one}, {EARLY, open_both, receive_one}, ENDS(end_two)}},
    /* Somebody polls who has to hear of it. */
    {"call", sizeof(struct shared), open_file, be_called, send_one, send_instead, NULL,
     {{EARLY, open_file, receive_polling}, {AFTERWARDS, open_file, end_one}}},
    {"call-others", sizeof(struct shared), open_file, be_called, send_batch, send_instead, NULL,
     {{EARLY, open_file, receive_polling}, {EARLY, open_file, receive_polling},
      {AFTERWARDS, open_file, end_two}}},
    {"call-for-room", sizeof(struct shared), fill_all, be_called, take_all, take_instead, NULL,
     {{EARLY, open_file, send_polling}, {AFTERWARDS, open_file, drain}}},
    {"make", sizeof(struct shared), NULL, NULL, open_both, nothing, NULL, {ENDS(drain)}},
    {NULL, 0, NULL, NULL, NULL, NULL, NULL, {{NOBODY, NULL, NULL}}},
};
