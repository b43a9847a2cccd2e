/* The semaphore as threads, for the sanitizers: tests/native/test_semaphore.py compiles and runs it.
 *
 *     semaphore_test WHAT ROUNDS
 *
 *     turns      threads take one of two, some with little patience; never three at once, and nothing is lost
 *     several    … and any number up to the intent's; keeps, too
 *     pairs      a semaphore of 0 each way: one gives what the other takes, so each has to sleep, and to be woken
 *     making     threads open blank memory at the same moment: one semaphore
 *     stopping   a wait that another thread ends, and what it was about to take is there for others
 *     behind     one sleeps behind another who wants more than there is
 *     dying      processes die with what they hold; who waits gets it
 *     leaving    rows of who has left, and a full table
 *     recycled   a dead member's pid is another process's
 *     fairness   against one who never gives back for longer than an instant
 *     forks      a forked child holds nothing, watches nothing, and has a row of its own
 *     misuse     what is refused, and a reboot
 *
 * Each thread has a row of its own, as if it were a process. Ends with 0, or with a sentence and 1. A wake-up that
 * is lost hangs: the caller sets a limit.
 */

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "semaphore_word.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

enum { THREADS = 4, MOST = 40, ROOM = 16384, MEMBERS = 8 };

static int rounds;
static char *memory;
static struct kin_watcher watcher;
static struct kin_semaphore semaphore;
static struct kin_semaphore_terms terms = {2, KIN_SEMAPHORE_MOST, 0, MEMBERS};

static void
open_at(struct kin_semaphore *opened, char *place)
{
    CHECK(kin_semaphore_open(opened, place, ROOM / 2, &terms, &watcher, NULL) == KIN_SOUND);
}

/* As if by process `number`, which is this one. */
static void
open_as(struct kin_semaphore *opened, char *place, uint32_t number)
{
    open_at(opened, place);
    struct kin_members_state *members = opened->members.state;
    CHECK(kin_mutex_lock(&opened->guard, NULL) == 0);
    members->rows[number].pid = (uint32_t)getpid();
    members->rows[number].start = 0; /* not known: it is not compared */
    members->rows[number].handles = 1;
    if (members->used <= number)
        members->used = number + 1;
    atomic_fetch_add(&members->changes, 1);
    CHECK(kin_mutex_unlock(&opened->guard) == 0);
    opened->members.joined = (uint64_t)kin_robust_forks() << 32 | (number + 1);
}

static struct timespec
soon(long nanoseconds)
{
    return kin_timespec(kin_now() + (uint64_t)nanoseconds);
}

static void
run_threads(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

static int32_t
held_by_all(struct kin_semaphore *by)
{
    int32_t held = 0;
    for (uint32_t i = 0; i < by->members.count; i++)
        held += kin_semaphore_held(by, &by->members.state->rows[i]);
    return held;
}

/* -------------------------------------------------------------------------------- turns, several */

static _Atomic long inside;
static long guarded; /* plain, so that ThreadSanitizer watches it: only for a semaphore of one */
static int most_taken = 1;

static void *
takes_turns(void *number)
{
    unsigned seed = (unsigned)(long)number + 1;
    struct kin_semaphore own;
    open_as(&own, memory, (uint32_t)(long)number);
    for (int i = 0; i < rounds; i++) {
        struct timespec deadline = soon(rand_r(&seed) % 20000);
        int count = 1 + rand_r(&seed) % most_taken;
        int error = kin_semaphore_acquire(&own, (uint32_t)count, rand_r(&seed) % 4 ? NULL : &deadline, NULL);
        if (error == ETIMEDOUT)
            continue;
        CHECK(error == 0);
        /* Relaxed: it is the semaphore that shows one what the other has done. */
        CHECK(atomic_fetch_add_explicit(&inside, count, memory_order_relaxed) + count <= terms.initial);
        if (terms.initial == 1)
            guarded++;
        if (rand_r(&seed) % 50 == 0)
            sched_yield();
        atomic_fetch_sub_explicit(&inside, count, memory_order_relaxed);
        CHECK(kin_semaphore_release(&own, (uint32_t)count) == 0);
    }
    kin_semaphore_close(&own);
    return NULL;
}

static void
turns_of(uint32_t initial, uint32_t keeps, int most)
{
    memset(memory, 0, ROOM);
    terms = (struct kin_semaphore_terms){initial, initial, keeps, MEMBERS};
    most_taken = most;
    guarded = 0;
    open_at(&semaphore, memory);
    run_threads(takes_turns);
    CHECK(kin_semaphore_now(&semaphore) == initial && held_by_all(&semaphore) == 0);
    CHECK(kin_semaphore_release(&semaphore, 1) == EOVERFLOW);
    kin_semaphore_close(&semaphore);
}

static void
turns(void)
{
    turns_of(1, 0, 1);
    turns_of(2, 0, 1);
    turns_of(1, 1, 1);
}

static void
several(void)
{
    turns_of(MOST, 0, MOST); /* beyond what fits into the word, too */
    turns_of(5, 0, 3);
    turns_of(5, 1, 5);
}

/* ------------------------------------------------------------------------------------- pairs */

static void *
answers(void *unused)
{
    struct kin_semaphore there, back;
    (void)unused;
    open_as(&there, memory, 1);
    open_as(&back, memory + ROOM / 2, 1);
    for (int i = 0; i < rounds; i++) {
        CHECK(kin_semaphore_acquire(&there, 1, NULL, NULL) == 0);
        guarded++;
        CHECK(kin_semaphore_release(&back, 1) == 0);
    }
    kin_semaphore_close(&there);
    kin_semaphore_close(&back);
    return NULL;
}

static void
pairs(void)
{
    struct kin_semaphore there, back;
    pthread_t thread;
    terms.initial = 0;
    open_as(&there, memory, 0);
    open_as(&back, memory + ROOM / 2, 0);
    CHECK(pthread_create(&thread, NULL, answers, NULL) == 0);
    for (int i = 0; i < rounds; i++) {
        guarded++;
        CHECK(kin_semaphore_release(&there, 1) == 0);
        CHECK(kin_semaphore_acquire(&back, 1, NULL, NULL) == 0);
        CHECK(guarded == 2 * (i + 1));
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(kin_semaphore_now(&there) == 0 && held_by_all(&there) == 0);
    kin_semaphore_close(&there);
    kin_semaphore_close(&back);
}

/* ------------------------------------------------------------------------------------- making */

static pthread_barrier_t barrier;

static void *
makes(void *number)
{
    for (int i = 0; i < rounds; i++) {
        struct kin_semaphore own;
        struct kin_semaphore_terms wanted = {3, 9, 0, 1 + (uint32_t)(long)number};
        pthread_barrier_wait(&barrier);
        CHECK(kin_semaphore_open(&own, memory, ROOM, &wanted, &watcher, NULL) == KIN_SOUND);
        CHECK(own.members.count >= 1 && own.members.count <= THREADS);
        CHECK(kin_semaphore_acquire(&own, 1, NULL, NULL) == 0);
        CHECK(kin_semaphore_release(&own, 1) == 0);
        pthread_barrier_wait(&barrier);
        kin_semaphore_close(&own);
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            memset(memory, 0, ROOM);
    }
    return NULL;
}

static void
making(void)
{
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    run_threads(makes);
}

/* --------------------------------------------------------------------------- stopping, behind */

struct waiter {
    pthread_t thread;
    uint32_t number, count;
    struct kin_semaphore_stop stop;
    _Atomic pid_t tid;
    int error;
};

static void *
waits(void *argument)
{
    struct waiter *self = argument;
    struct kin_semaphore own;
    open_as(&own, memory, self->number);
    self->tid = (pid_t)syscall(SYS_gettid);
    self->error = kin_semaphore_acquire(&own, self->count, NULL, &self->stop);
    kin_semaphore_close(&own);
    return NULL;
}

static void
begin_to_wait(struct waiter *waiter, uint32_t number, uint32_t count)
{
    *waiter = (struct waiter){.number = number, .count = count};
    CHECK(pthread_create(&waiter->thread, NULL, waits, waiter) == 0);
}

static void
until_asleep(const struct waiter *waiter)
{
    char path[64], text[512] = {0}, *state;
    while (waiter->tid == 0)
        sched_yield();
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", waiter->tid);
    do {
        FILE *file = fopen(path, "r");
        CHECK(file != NULL && fread(text, 1, sizeof text - 1, file) > 0 && fclose(file) == 0);
        state = strrchr(text, ')');
        sched_yield();
    } while (state == NULL || state[2] != 'S');
}

/* One of two is stopped, when one is given: the other one has it then, or gets the next. */
static void
stopping(void)
{
    terms.initial = 0;
    open_as(&semaphore, memory, 0);
    for (int i = 0; i < rounds; i++) {
        struct waiter stopped, other;
        begin_to_wait(&stopped, 1, 1);
        if (i % 2)
            until_asleep(&stopped); /* then it is the one that is woken */
        begin_to_wait(&other, 2, 1);
        if (i % 2)
            until_asleep(&other);
        CHECK(kin_semaphore_release(&semaphore, 1) == 0);
        kin_semaphore_stop_wait(&semaphore, &stopped.stop);
        CHECK(pthread_join(stopped.thread, NULL) == 0);
        CHECK(stopped.error == ECANCELED || stopped.error == 0);
        if (stopped.error == 0)
            CHECK(kin_semaphore_release(&semaphore, 1) == 0);
        CHECK(pthread_join(other.thread, NULL) == 0 && other.error == 0);
        CHECK(kin_semaphore_now(&semaphore) == 0);
    }
    kin_semaphore_close(&semaphore);
}

/* Who wants two is woken first, and one is enough for the other. */
static void
behind(void)
{
    terms.initial = 0;
    open_as(&semaphore, memory, 0);
    for (int i = 0; i < rounds; i++) {
        struct waiter first, second;
        begin_to_wait(&first, 1, 2);
        until_asleep(&first);
        begin_to_wait(&second, 2, 1);
        until_asleep(&second);
        CHECK(kin_semaphore_release(&semaphore, 1) == 0);
        CHECK(pthread_join(second.thread, NULL) == 0 && second.error == 0);
        CHECK(kin_semaphore_release(&semaphore, 2) == 0);
        CHECK(pthread_join(first.thread, NULL) == 0 && first.error == 0);
    }
    kin_semaphore_close(&semaphore);
}

/* ------------------------------------------------------------------------- dying, leaving, forks */

static void
ends_well(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* As os.fork does it: the watcher first. */
static pid_t
fork_watched(void)
{
    kin_watcher_before_fork(&watcher);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        kin_watcher_after_fork_in_child(&watcher);
    else
        kin_watcher_after_fork_in_parent(&watcher);
    return pid;
}

static void
dying(void)
{
    terms = (struct kin_semaphore_terms){MOST, MOST, 0, MEMBERS};
    open_at(&semaphore, memory);
    for (int i = 0; i < rounds; i++) {
        uint32_t count = i % 3 ? MOST : 1;
        int ready[2];
        char byte;
        CHECK(pipe(ready) == 0);
        pid_t child = fork_watched();
        if (child == 0) {
            CHECK(kin_semaphore_acquire(&semaphore, count, NULL, NULL) == 0);
            CHECK(write(ready[1], "+", 1) == 1);
            usleep(i % 4 * 100); /* the other may sleep by then, or not yet */
            raise(SIGKILL);
        }
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(kin_semaphore_acquire(&semaphore, MOST, NULL, NULL) == 0);
        CHECK(kin_semaphore_release(&semaphore, MOST) == 0);
        CHECK(waitpid(child, NULL, 0) == child);
        close(ready[0]);
        close(ready[1]);
    }
    uint32_t value;
    CHECK(kin_semaphore_value(&semaphore, &value) == 0 && value == MOST);
    kin_semaphore_close(&semaphore);
}

static void
leaving(void)
{
    struct kin_semaphore again;
    terms = (struct kin_semaphore_terms){2, 2, 0, 2};
    open_at(&semaphore, memory);
    open_at(&again, memory);
    CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == 0);
    CHECK(kin_semaphore_acquire(&again, 1, NULL, NULL) == 0);
    const struct kin_member *rows = semaphore.members.state->rows;
    CHECK(rows[0].handles == 2 && rows[1].pid == 0);
    kin_semaphore_close(&again);
    CHECK(rows[0].handles == 1 && kin_semaphore_held(&semaphore, &rows[0]) == 2);
    for (int i = 0; i < rounds; i++) {
        pid_t first = fork_watched();
        if (first == 0) { /* gives without having taken, and leaves: that is owed to nobody */
            struct kin_semaphore own;
            open_at(&own, memory);
            CHECK(kin_semaphore_release(&own, 1) == 0);
            CHECK(kin_semaphore_acquire(&own, 1, NULL, NULL) == 0);
            CHECK(rows[1].pid == (uint32_t)getpid());
            pid_t second = fork_watched();
            if (second == 0) {
                CHECK(kin_semaphore_release(&own, 1) == EUSERS); /* two rows, both of the living */
                _exit(0);
            }
            ends_well(second);
            kin_semaphore_close(&own);
            CHECK(rows[1].pid == 0);
            _exit(0);
        }
        ends_well(first);
        pid_t dead = fork_watched();
        if (dead == 0) {
            CHECK(kin_semaphore_release(&semaphore, 1) == 0);
            CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == 0);
            _exit(0);
        }
        ends_well(dead);
        CHECK(rows[1].pid == (uint32_t)dead); /* nobody has looked */
    }
    kin_semaphore_close(&semaphore);
    CHECK(rows[0].pid == (uint32_t)getpid() && rows[0].handles == 0); /* it holds on */
    open_at(&again, memory);
    CHECK(kin_semaphore_release(&again, 2) == 0);
    kin_semaphore_close(&again);
    CHECK(rows[0].pid == 0);
}

/* A dead member's number is another process's by now: of whom only the start time tells. */
static void
recycled(void)
{
    uint32_t value;
    terms = (struct kin_semaphore_terms){1, 1, 0, MEMBERS};
    open_at(&semaphore, memory);
    CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == 0);
    CHECK(kin_semaphore_release(&semaphore, 1) == 0); /* so this process has the first row */
    struct kin_member *row = &semaphore.members.state->rows[1];
    for (int i = 0; i < rounds; i++) {
        pid_t child = fork_watched();
        if (child == 0)
            _exit(kin_semaphore_acquire(&semaphore, 1, NULL, NULL));
        ends_well(child);
        CHECK(row->pid == (uint32_t)child && row->start != 0);
        row->pid = (uint32_t)getppid(); /* which lives */
        atomic_fetch_add(&semaphore.members.state->changes, 1);
        if (i % 2) { /* and when nothing is known of the start, it is believed */
            row->start = 0;
            CHECK(kin_semaphore_value(&semaphore, &value) == 0 && value == 0);
            row->start = 1;
            atomic_fetch_add(&semaphore.members.state->changes, 1);
        }
        CHECK(kin_semaphore_value(&semaphore, &value) == 0 && value == 1);
        CHECK(row->pid == 0);
    }
    kin_semaphore_close(&semaphore);
}

static void
forks(void)
{
    uint32_t value;
    terms = (struct kin_semaphore_terms){3, KIN_SEMAPHORE_MOST, 0, MEMBERS};
    open_at(&semaphore, memory);
    CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == 0);
    for (int i = 0; i < rounds; i++) {
        pid_t child = fork_watched();
        if (child == 0) {
            CHECK(kin_members_row(&semaphore.members) == NULL && watcher.all == NULL);
            CHECK(kin_semaphore_try(&semaphore, 3) == EBUSY); /* it watches its parent */
            CHECK(watcher.all != NULL);
            CHECK(kin_semaphore_release(&semaphore, 1) == 0);
            CHECK(kin_semaphore_held(&semaphore, kin_members_row(&semaphore.members)) == -1);
            _exit(0);
        }
        ends_well(child);
        CHECK(kin_semaphore_value(&semaphore, &value) == 0 && value == 3);
        CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == 0);
    }
    CHECK(kin_semaphore_release(&semaphore, (uint32_t)rounds + 1) == 0);
    kin_semaphore_close(&semaphore);
}

/* ----------------------------------------------------------------------------------- fairness */

enum { HOLD = 200000, MOST_TURNS = 500 }; /* nanoseconds; turns that another has while one waits */

static _Atomic long hogged;
static _Atomic bool over;

/* On a CPU of its own, if there are two: there it is that who sleeps comes too late. */
static void
stay_on(int which)
{
    cpu_set_t allowed, one;
    CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && seen++ == which) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            CHECK(pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0);
        }
}

static void *
hogs(void *unused)
{
    struct kin_semaphore own;
    (void)unused;
    open_as(&own, memory, 1);
    stay_on(0);
    while (!over) {
        CHECK(kin_semaphore_acquire(&own, 1, NULL, NULL) == 0);
        for (uint64_t end = kin_now() + HOLD; kin_now() < end;)
            ;
        hogged++;
        CHECK(kin_semaphore_release(&own, 1) == 0);
    }
    kin_semaphore_close(&own);
    return NULL;
}

static void
fairness(void)
{
    pthread_t hog;
    terms.initial = 1;
    open_as(&semaphore, memory, 0);
    CHECK(pthread_create(&hog, NULL, hogs, NULL) == 0);
    stay_on(1);
    for (int i = 0; i < rounds; i++) {
        long before = hogged;
        while (hogged < before + 2)
            sched_yield();
        before = hogged;
        CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == 0);
        CHECK(hogged - before <= MOST_TURNS);
        CHECK(kin_semaphore_release(&semaphore, 1) == 0);
    }
    over = true;
    CHECK(pthread_join(hog, NULL) == 0);
    kin_semaphore_close(&semaphore);
}

/* ------------------------------------------------------------------------------------- misuse */

static void
nothing(int number)
{
    (void)number;
}

static void *
is_interrupted(void *unused)
{
    struct kin_semaphore own;
    (void)unused;
    open_as(&own, memory, 1);
    CHECK(kin_semaphore_acquire(&own, 2, NULL, NULL) == EINTR);
    kin_semaphore_close(&own);
    return NULL;
}

static enum kin_finding
opening(size_t room)
{
    struct kin_semaphore own;
    return kin_semaphore_open(&own, memory, room, &terms, &watcher, NULL);
}

static void
misuse(void)
{
    struct timespec past = {0, 0}, later;
    struct sigaction action = {.sa_handler = nothing};
    pthread_t thread;
    size_t size = kin_semaphore_size(MEMBERS);
    terms = (struct kin_semaphore_terms){2, 2, 0, MEMBERS};
    CHECK(opening(size - 1) == KIN_MISPLACED);
    memory[5] = 1;
    CHECK(opening(ROOM) == KIN_ALIEN);
    memory[5] = 0;
    open_as(&semaphore, memory, 0);
    CHECK(kin_semaphore_acquire(&semaphore, 2, NULL, NULL) == 0);
    CHECK(kin_semaphore_take_one(&semaphore) == EBUSY && kin_semaphore_try(&semaphore, 1) == EBUSY);
    later = soon(2000000);
    CHECK(kin_semaphore_acquire(&semaphore, 1, &past, NULL) == ETIMEDOUT);
    CHECK(kin_semaphore_acquire(&semaphore, 1, &later, NULL) == ETIMEDOUT);
    CHECK(kin_now() >= (uint64_t)later.tv_sec * KIN_SECOND + (uint64_t)later.tv_nsec);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, is_interrupted, NULL) == 0);
    while (pthread_tryjoin_np(thread, NULL) != 0) /* it may not sleep yet */
        pthread_kill(thread, SIGUSR1), sched_yield();

    struct kin_semaphore_object *object = (struct kin_semaphore_object *)(void *)memory;
    struct kin_object_header *header = &object->object.header;
    for (int i = 0; i < 2; i++) { /* twice: it is of now, and nobody is there any more */
        header->boot_id[0] ^= 1;
        CHECK(opening(ROOM) == KIN_OTHER_BOOT);
        kin_semaphore_repair(memory, ROOM);
        CHECK(opening(ROOM) == KIN_SOUND);
        CHECK(kin_semaphore_now(&semaphore) == 2 && held_by_all(&semaphore) == 0);
        CHECK(object->members.rows[0].pid == 0);
    }
    header->pid_namespace++;
    CHECK(opening(ROOM) == KIN_OTHER_NAMESPACE);
    header->pid_namespace--;
    object->members.count++;
    CHECK(opening(ROOM) == KIN_ALIEN);
    object->members.count--;
    header->size += 64;
    CHECK(opening(ROOM) == KIN_ALIEN);
    header->size -= 64;
    header->kind++;
    CHECK(opening(ROOM) == KIN_OTHER_KIND);
    header->kind--;

    uint32_t value;
    object->state.word ^= UINT64_C(0x3ff) << KIN_ROW_SHIFT | KIN_CLOSED; /* overwritten */
    CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == EILSEQ);
    object->state.word = 1 | KIN_CLOSED | UINT64_C(77) << KIN_STAMP_SHIFT;
    CHECK(kin_semaphore_acquire(&semaphore, 1, NULL, NULL) == EILSEQ);
    memset(memory, 0, ROOM);
    CHECK(kin_semaphore_value(&semaphore, &value) == 0 && value == 0);
    memset(memory, 0xff, ROOM);
    CHECK(kin_semaphore_try(&semaphore, 1) != 0);
}

int
main(int argc, char *argv[])
{
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = {{"turns", turns},       {"several", several},   {"pairs", pairs},
               {"making", making},     {"stopping", stopping}, {"behind", behind},
               {"dying", dying},       {"leaving", leaving},   {"fairness", fairness},
               {"recycled", recycled}, {"forks", forks},       {"misuse", misuse}};
    if (argc != 3)
        return 2;
    rounds = atoi(argv[2]);
    memory = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && kin_watcher_init(&watcher) == 0);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(argv[1], all[i].name) == 0) {
            all[i].run();
            kin_watcher_end(&watcher);
            return 0;
        }
    return 2;
}
