/* A C program at one end of a ring, by include/kinfolk.h alone: tests/native/test_ring_peer.py compiles and runs it.
 *
 *     ring_peer send ADDRESS COUNT      messages of all lengths, some of them built in place
 *     ring_peer recv ADDRESS            until the end; says how many
 *     ring_peer hold ADDRESS            looks at one in place, says so, and waits to be killed
 *     ring_peer reserve ADDRESS         has a block, says so, and waits to be killed
 *     ring_peer keep ADDRESS            closes, and looks at its message afterwards
 *     ring_peer try ADDRESS             what is there now: says the error
 *     ring_peer fork ADDRESS COUNT      sends half of them, and a forked child the rest
 *     ring_peer threads ADDRESS COUNT   two threads send and two receive, within this process
 *     ring_peer ends ADDRESS COUNT      the same COUNT times, for two messages
 *     ring_peer close ADDRESS           a thread waits for a message, and is told of the close
 *     ring_peer wrong ADDRESS           asks for what can't be, and sends nothing at all; says each error
 *     ring_peer cycles ADDRESS COUNT    opens and closes both ends so often; says how many descriptors there are more
 *
 * A message is its number, eight bytes, and then bytes that say it too.
 */

#include <dirent.h>
#include <errno.h>
#include <kinfolk.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *address;
static struct kin_end *sender, *receiver;
static const struct timespec NOW;
static const struct kin_sizes SIZES = {4096, 1 << 18};
static _Atomic long received;

static void
must(enum kin_error error, const char *what)
{
    if (error != KIN_OK) {
        fprintf(stderr, "ring_peer: %s: %s (%s)\n", what, kin_error_text(error), strerror(errno));
        exit(1);
    }
}

static void
say(const char *what)
{
    puts(what);
    fflush(stdout);
}

static size_t
length_of(uint64_t number)
{
    return 8 + number * 7919 % (number % 5 == 0 ? 60000 : 900);
}

static void
fill(void *bytes, uint64_t number)
{
    memcpy(bytes, &number, sizeof number);
    memset((char *)bytes + 8, (int)(number & 255), length_of(number) - 8);
}

static void
send_one(uint64_t number)
{
    static _Thread_local char text[1 << 16];
    if (number % 3 == 0) {
        struct kin_room room;
        must(kin_reserve(sender, &room, length_of(number), NULL), "reserve");
        if (number % 2 == 0) {
            kin_drop(&room); /* it thinks better of it */
            must(kin_reserve(sender, &room, length_of(number), NULL), "reserve");
        }
        fill(room.bytes, number);
        must(kin_commit(&room, KIN_MEMORY, NULL), "commit");
    } else {
        fill(text, number);
        must(kin_send(sender, KIN_BYTES, text, length_of(number), NULL), "send");
    }
}

static void
check(const struct kin_message *message)
{
    uint64_t number;
    const unsigned char *text = message->bytes;
    memcpy(&number, text, sizeof number);
    int wrong = message->length != length_of(number);
    for (size_t i = 8; i < message->length && !wrong; i++)
        wrong = text[i] != (number & 255);
    if (wrong) {
        fputs("ring_peer: a torn message\n", stderr);
        exit(1);
    }
}

static void *
receive_all(void *unused)
{
    struct kin_message message;
    enum kin_error error;
    (void)unused;
    while ((error = kin_recv(receiver, &message, NULL)) == KIN_OK) {
        check(&message);
        received++;
        kin_release_message(&message);
    }
    if (error != KIN_END_OF_CHANNEL)
        must(error, "recv");
    return NULL;
}

static long count;

static void *
send_all(void *first)
{
    for (uint64_t i = (uintptr_t)first; i < (uint64_t)count; i += 2)
        send_one(i);
    return NULL;
}

static void
threads(long rounds)
{
    pthread_t all[4];
    for (long round = 0; round < rounds; round++) {
        must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
        must(kin_open_sender(&sender, address, NULL), "open");
        for (uintptr_t i = 0; i < 4; i++)
            pthread_create(&all[i], NULL, i < 2 ? receive_all : send_all, (void *)(i % 2));
        pthread_join(all[2], NULL);
        pthread_join(all[3], NULL);
        kin_close(sender);
        pthread_join(all[0], NULL);
        pthread_join(all[1], NULL);
        kin_close(receiver);
    }
    printf("%ld\n", received);
}

static void *
wait_in_vain(void *unused)
{
    struct kin_message message;
    (void)unused;
    say("waiting");
    if (kin_recv(receiver, &message, NULL) == KIN_CLOSED)
        received++;
    return NULL;
}

static void
close_meanwhile(void)
{
    pthread_t thread;
    char line[8];
    must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
    pthread_create(&thread, NULL, wait_in_vain, NULL);
    if (fgets(line, sizeof line, stdin) == NULL) /* it sleeps */
        exit(1);
    kin_close(receiver);
    pthread_join(thread, NULL);
    printf("%ld\n", received);
}

static long
descriptors(void)
{
    long number = 0;
    DIR *all = opendir("/proc/self/fd");
    while (readdir(all) != NULL)
        number++;
    closedir(all);
    return number;
}

static void
cycles(void)
{
    struct kin_message message;
    long before = 0;
    for (long i = 0; i < count; i++) {
        if (i == 1)
            before = descriptors();
        must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
        must(kin_open_sender(&sender, address, NULL), "open");
        send_one(5 + (uint64_t)i);
        must(kin_recv(receiver, &message, NULL), "recv");
        check(&message);
        if (i % 2 == 0)
            kin_release_message(&message);
        kin_close(i % 3 == 0 ? sender : receiver);
        kin_close(i % 3 == 0 ? receiver : sender);
        kin_release_message(&message);
    }
    printf("%ld\n", descriptors() - before);
}

static void
hold(void)
{
    struct kin_message message;
    must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
    must(kin_recv(receiver, &message, NULL), "recv");
    say(message.in_place ? "in place" : "a copy");
    pause();
}

static void
keep(void)
{
    struct kin_message message;
    must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
    must(kin_recv(receiver, &message, NULL), "recv");
    kin_close(receiver);
    check(&message);
    say(message.in_place ? "in place" : "a copy");
    kin_release_message(&message);
}

static void
reserve(void)
{
    struct kin_room room;
    must(kin_open_sender(&sender, address, NULL), "open");
    must(kin_reserve(sender, &room, kin_most(sender), NULL), "reserve");
    memset(room.bytes, 1, room.length);
    say("reserved");
    pause();
}

static void
try(void)
{
    struct kin_message message;
    enum kin_error error = kin_open_receiver(&receiver, address, &SIZES, &NOW);
    if (error == KIN_OK)
        error = kin_recv(receiver, &message, &NOW);
    kin_release_message(&message);
    kin_close(receiver);
    say(kin_error_text(error));
}

static void
wrong(void)
{
    struct kin_message message;
    struct kin_room room;
    const struct timespec no_time = {.tv_nsec = 2000000000};
    must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
    must(kin_open_sender(&sender, address, NULL), "open");
    must(kin_send(sender, KIN_BYTES, NULL, 0, NULL), "send");
    must(kin_recv(receiver, &message, NULL), "recv");
    printf("%zu\n", message.length);
    kin_release_message(&message);
    say(kin_error_text(kin_recv(receiver, &message, &no_time)));
    must(kin_reserve(sender, &room, 9, NULL), "reserve");
    must(kin_commit(&room, KIN_MEMORY, NULL), "commit");
    say(kin_error_text(kin_commit(&room, KIN_MEMORY, NULL))); /* it is gone */
    say(kin_error_text(kin_reserve(receiver, &room, 9, NULL)));
    say(kin_error_text(kin_commit(&room, KIN_MEMORY, NULL))); /* there is none */
    kin_close(sender);
    kin_close(receiver);
}

static void
send_forked(void)
{
    int status;
    must(kin_open_sender(&sender, address, NULL), "open");
    for (long i = 0; i < count / 2; i++)
        send_one((uint64_t)i);
    pid_t child = fork();
    if (child == 0) {
        for (long i = count / 2; i < count; i++)
            send_one((uint64_t)i);
        kin_close(sender);
        _exit(0);
    }
    kin_close(sender);
    if (waitpid(child, &status, 0) != child || status != 0)
        exit(1);
}

int
main(int argc, char *argv[])
{
    if (argc < 3) {
        fputs("usage: ring_peer WHAT ADDRESS [COUNT]\n", stderr);
        return 2;
    }
    const char *what = argv[1];
    address = argv[2];
    count = argc > 3 ? atol(argv[3]) : 0;
    if (strcmp(what, "send") == 0) {
        must(kin_open_sender(&sender, address, NULL), "open");
        say("open");
        for (long i = 0; i < count; i++)
            send_one((uint64_t)i);
        kin_close(sender);
    } else if (strcmp(what, "recv") == 0) {
        must(kin_open_receiver(&receiver, address, &SIZES, NULL), "open");
        say("open");
        receive_all(NULL);
        kin_close(receiver);
        printf("%ld\n", received);
    } else if (strcmp(what, "hold") == 0) {
        hold();
    } else if (strcmp(what, "keep") == 0) {
        keep();
    } else if (strcmp(what, "reserve") == 0) {
        reserve();
    } else if (strcmp(what, "try") == 0) {
        try();
    } else if (strcmp(what, "fork") == 0) {
        send_forked();
    } else if (strcmp(what, "threads") == 0) {
        threads(1);
    } else if (strcmp(what, "ends") == 0) {
        long rounds = count;
        count = 2;
        threads(rounds);
    } else if (strcmp(what, "close") == 0) {
        close_meanwhile();
    } else if (strcmp(what, "wrong") == 0) {
        wrong();
    } else if (strcmp(what, "cycles") == 0) {
        cycles();
    } else {
        return 2;
    }
    return 0;
}
