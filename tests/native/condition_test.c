/* The condition as threads, for the sanitizers: tests/native/test_condition.py compiles and runs it.
 *
 *     condition_test WHAT ROUNDS
 *
 *     store      some give, some take, one at a time; each notify is for one
 *     brief      the same, with little patience: nobody takes a notify with him that is for another
 *     all        everybody is told of each round
 *     several    handles of one process, each of which notifies
 *     deaths     processes end, with or without a word; who waits goes on
 *     newcomers  processes that come and go are no reason to go on
 *     mutexes    another mutex than the others' is refused, wherever it is mapped
 *     misuse     what is refused, and what stays after a reboot
 *
 * Ends with 0, or with a sentence and 1. A wake-up that is lost hangs: the caller sets a limit.
 */

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "condition.h"
#include "futex.h"
#include "watcher.h"

#define CHECK(condition)                                                                        \
    do                                                                                          \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));       \
            _exit(1);                                                                           \
        }                                                                                       \
    while (0)

enum { THREADS = 4, MEMBERS = 3, ROOM = 4096 };

static int rounds;
static char *memory;
static struct kin_watcher watcher;
static struct kin_condition condition;
static struct kin_mutex mutex;

static void
open_it(struct kin_condition *opened)
{
    CHECK(kin_condition_open(opened, memory, ROOM, MEMBERS, &watcher, NULL) == KIN_SOUND);
    CHECK(kin_condition_join(opened, NULL) == 0);
}

static void
open_both(void)
{
    memset(memory, 0, ROOM);
    open_it(&condition);
    struct kin_condition_object *object = (void *)memory;
    CHECK(kin_mutex_open(&mutex, &object->mutex, KIN_MUTEX_SIZE) == KIN_SOUND);
}

static void
lock(void)
{
    int error = kin_mutex_lock(&mutex, NULL);
    CHECK(error == 0 || error == EOWNERDEAD);
}

static void
unlock(void)
{
    CHECK(kin_mutex_unlock(&mutex) == 0);
}

/* Whether it was notified. */
static bool
wait_by(struct kin_condition *by, const struct timespec *deadline)
{
    struct kin_condition_wait wait;
    CHECK(kin_condition_begin(by, &mutex, &wait, NULL) == 0);
    int error = kin_condition_sleep(by, &wait, deadline);
    CHECK(error == 0 || error == ETIMEDOUT);
    lock();
    return kin_condition_was_notified(by, &wait);
}

static void
start(pthread_t threads[THREADS], void *(*body)(void *))
{
    for (long i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
}

static void
join(pthread_t threads[THREADS])
{
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* ------------------------------------------------------------------------------------ a store */

static long things, taken; /* plain, so that ThreadSanitizer watches them */
static bool brief;

static void *
gives_or_takes(void *number)
{
    unsigned seed = (unsigned)(long)number;
    for (int i = 0; i < rounds; i++) {
        lock();
        if ((long)number % 2) {
            things++;
            CHECK(kin_condition_notify(&condition, &mutex, 1, NULL) == 0);
        } else {
            while (things == 0) {
                struct timespec soon = kin_timespec(kin_now() + (unsigned)rand_r(&seed) % 20000);
                wait_by(&condition, brief && rand_r(&seed) % 2 ? &soon : NULL);
            }
            things--;
            taken++;
        }
        unlock();
    }
    return NULL;
}

static void
store(void)
{
    pthread_t threads[THREADS];
    open_both();
    start(threads, gives_or_takes);
    join(threads);
    CHECK(things == 0 && taken == (long)rounds * THREADS / 2);
}

static void
store_briefly(void)
{
    brief = true;
    store();
    struct timespec past = {0, 0};
    lock();
    CHECK(!wait_by(&condition, &past));
    unlock();
}

/* ---------------------------------------------------------------------------------------- all */

static int round_number, heard;

static void *
hears(void *unused)
{
    (void)unused;
    for (int i = 1; i <= rounds; i++) {
        lock();
        while (round_number < i)
            wait_by(&condition, NULL);
        if (++heard == THREADS)
            CHECK(kin_condition_notify(&condition, &mutex, INT_MAX, NULL) == 0);
        unlock();
    }
    return NULL;
}

static void
all(void)
{
    pthread_t threads[THREADS];
    open_both();
    start(threads, hears);
    for (int i = 1; i <= rounds; i++) {
        lock();
        round_number = i;
        heard = 0;
        CHECK(kin_condition_notify(&condition, &mutex, INT_MAX, NULL) == 0);
        while (heard < THREADS)
            wait_by(&condition, NULL);
        unlock();
    }
    join(threads);
}

/* ------------------------------------------------------------------------------------ several */

/* Everybody sleeps; then each is told by one notify. */
static _Atomic int gone;

static void *
waits_once(void *unused)
{
    (void)unused;
    lock();
    heard++;
    while (things == 0)
        wait_by(&condition, NULL);
    things--;
    unlock();
    gone++;
    return NULL;
}

static void
several(void)
{
    struct kin_condition others[2];
    open_both();
    for (int i = 0; i < 2; i++)
        open_it(&others[i]);
    for (int i = 0; i < rounds; i++) {
        pthread_t threads[THREADS];
        heard = gone = 0;
        start(threads, waits_once);
        for (bool all_wait = false; !all_wait; sched_yield()) {
            lock();
            all_wait = heard == THREADS;
            unlock();
        }
        for (int j = 1; j <= THREADS; j++) {
            lock();
            things++;
            CHECK(kin_condition_notify(j % 2 ? &condition : &others[j / 2 % 2], &mutex, 1, NULL) == 0);
            unlock();
            while (gone < j)
                sched_yield();
        }
        join(threads);
    }
    for (int i = 0; i < 2; i++)
        kin_condition_close(&others[i]);
    kin_condition_close(&condition);
    struct kin_condition_object *object = (void *)memory;
    CHECK(object->members.rows[0].pid == 0);
}

/* ------------------------------------------------------------------------------------- deaths */

/* As the interpreter does it. */
static pid_t
fork_it(void)
{
    kin_watcher_before_fork(&watcher);
    pid_t pid = fork();
    if (pid == 0)
        kin_watcher_after_fork_in_child(&watcher);
    else
        kin_watcher_after_fork_in_parent(&watcher);
    CHECK(pid >= 0);
    return pid;
}

static void
reap(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void
deaths(void)
{
    long *given = (long *)(void *)(memory + ROOM);
    open_both();
    for (int i = 0; i < rounds; i++) {
        *given = 0;
        lock();
        pid_t pid = fork_it();
        if (pid == 0) {
            CHECK(kin_condition_join(&condition, NULL) == 0);
            lock();
            *given = 1;
            if (i % 3 == 0)
                CHECK(kin_condition_notify(&condition, &mutex, 1, NULL) == 0);
            if (i % 3 == 1)
                unlock();
            _exit(0); /* with the mutex, or without a word */
        }
        while (*given == 0)
            wait_by(&condition, NULL);
        CHECK(i % 3 == 1 || kin_mutex_owner_died(&mutex));
        unlock();
        reap(pid);
    }
}

static void
newcomers(void)
{
    open_both();
    for (int i = 0; i < rounds; i++) {
        struct kin_condition_wait wait;
        struct timespec later = kin_timespec(kin_now() + 100 * KIN_MILLISECOND);
        lock();
        pid_t pid = fork_it();
        if (pid == 0) {
            CHECK(kin_condition_join(&condition, NULL) == 0);
            kin_condition_close(&condition);
            _exit(0);
        }
        CHECK(kin_condition_begin(&condition, &mutex, &wait, NULL) == 0);
        CHECK(kin_condition_sleep(&condition, &wait, &later) == ETIMEDOUT);
        reap(pid);
    }
}

/* ------------------------------------------------------------------------------------ mutexes */

static int
notify_by(struct kin_condition *by, struct kin_mutex *with)
{
    CHECK(kin_mutex_lock(with, NULL) == 0);
    int error = kin_condition_notify(by, with, 1, NULL);
    CHECK(kin_mutex_unlock(with) == 0);
    return error;
}

static void
mutexes(void)
{
    struct kin_condition second;
    struct kin_condition_wait wait;
    struct kin_mutex other, mirrored;
    open_both();
    open_it(&second);
    CHECK(kin_mutex_open(&other, memory + ROOM, KIN_MUTEX_SIZE) == KIN_SOUND);
    CHECK(notify_by(&condition, &mutex) == 0);
    CHECK(notify_by(&second, &other) == EMEDIUMTYPE);
    CHECK(kin_mutex_lock(&other, NULL) == 0);
    CHECK(kin_condition_begin(&second, &other, &wait, NULL) == EMEDIUMTYPE);
    CHECK(kin_mutex_unlock(&other) == 0);

    char *mirror = mremap(memory, 0, ROOM, MREMAP_MAYMOVE); /* the same memory once more */
    CHECK(mirror != MAP_FAILED);
    struct kin_condition_object *object = (void *)mirror;
    CHECK(kin_mutex_open(&mirrored, &object->mutex, KIN_MUTEX_SIZE) == KIN_SOUND);
    CHECK(notify_by(&second, &mirrored) == 0);

    kin_condition_close(&second);
    CHECK(notify_by(&condition, &other) == 0); /* there is nobody to go by the first */
    for (int i = 0; i < rounds; i++) {
        pid_t pid = fork_it();
        if (pid == 0) {
            CHECK(kin_condition_join(&condition, NULL) == 0);
            CHECK(notify_by(&condition, i % 2 ? &mutex : &other) == (i % 2 ? EMEDIUMTYPE : 0));
            _exit(0);
        }
        reap(pid);
    }
    CHECK(notify_by(&condition, &mutex) == 0); /* the dead are nobody */
    CHECK(munmap(mirror, ROOM) == 0);
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
    struct kin_condition_wait wait;
    (void)unused;
    lock();
    CHECK(kin_condition_begin(&condition, &mutex, &wait, NULL) == 0);
    CHECK(kin_condition_sleep(&condition, &wait, NULL) == EINTR && wait.released);
    lock();
    CHECK(!kin_condition_was_notified(&condition, &wait));
    unlock();
    return NULL;
}

static void *
does_not_hold_it(void *unused)
{
    struct kin_condition_wait wait;
    (void)unused;
    CHECK(kin_condition_begin(&condition, &mutex, &wait, NULL) == EPERM);
    CHECK(kin_condition_notify(&condition, &mutex, 1, NULL) == EPERM);
    return NULL;
}

static void
refuse_more_than_there_is_room_for(void)
{
    int lines[2], done;
    pid_t pids[MEMBERS];
    char byte;
    CHECK(pipe(lines) == 0);
    for (int i = 0; i < MEMBERS; i++) {
        pids[i] = fork_it();
        if (pids[i] == 0) {
            close(lines[1]);
            bool one_too_many = i == MEMBERS - 1;
            CHECK(kin_condition_join(&condition, NULL) == (one_too_many ? EUSERS : 0));
            CHECK(one_too_many || read(lines[0], &byte, 1) == 0);
            _exit(0);
        }
        if (i == MEMBERS - 1) {
            reap(pids[i]);
            continue;
        }
        struct kin_condition_object *object = (void *)memory;
        while (__atomic_load_n(&object->members.rows[i + 1].pid, __ATOMIC_ACQUIRE) == 0)
            sched_yield();
    }
    close(lines[1]);
    close(lines[0]);
    for (int i = 0; i < MEMBERS - 1; i++)
        CHECK(waitpid(pids[i], &done, 0) == pids[i]);
    pid_t pid = fork_it(); /* the dead make room */
    if (pid == 0)
        _exit(kin_condition_join(&condition, NULL));
    reap(pid);
}

static void
misuse(void)
{
    struct kin_condition again;
    struct sigaction action = {.sa_handler = nothing};
    pthread_t thread;
    CHECK(kin_condition_open(&again, memory + 8, ROOM - 8, MEMBERS, &watcher, NULL) ==
          KIN_MISPLACED);
    size_t size = kin_condition_size(MEMBERS);
    CHECK(kin_condition_open(&again, memory, size - 1, MEMBERS, &watcher, NULL) == KIN_MISPLACED);
    open_both();
    CHECK(kin_condition_open(&again, memory, ROOM, 1, &watcher, NULL) == KIN_SOUND);
    CHECK(again.members.count == MEMBERS); /* as it was made */
    kin_condition_close(&again);

    lock();
    CHECK(pthread_create(&thread, NULL, does_not_hold_it, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    unlock();
    does_not_hold_it(NULL);

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, is_interrupted, NULL) == 0);
    while (pthread_tryjoin_np(thread, NULL) != 0) /* it may not sleep yet */
        pthread_kill(thread, SIGUSR1), sched_yield();

    refuse_more_than_there_is_room_for();

    struct kin_object_header *header = (void *)memory;
    header->boot_id[0] ^= 1;
    CHECK(kin_condition_open(&again, memory, ROOM, MEMBERS, &watcher, NULL) == KIN_OTHER_BOOT);
    kin_condition_repair(memory, ROOM);
    struct kin_condition_object *object = (void *)memory;
    for (int i = 0; i < MEMBERS; i++)
        CHECK(object->members.rows[i].pid == 0);
    CHECK(kin_condition_open(&again, memory, ROOM, MEMBERS, &watcher, NULL) == KIN_SOUND);
    kin_condition_close(&again);
    object->members.count = 1;
    CHECK(kin_condition_open(&again, memory, ROOM, MEMBERS, &watcher, NULL) == KIN_ALIEN);
}

int
main(int argc, char *argv[])
{
    static const struct {
        const char *name;
        void (*run)(void);
    } every[] = {{"store", store},     {"brief", store_briefly}, {"all", all},
                 {"several", several}, {"deaths", deaths},       {"newcomers", newcomers},
                 {"mutexes", mutexes}, {"misuse", misuse}};
    if (argc != 3)
        return 2;
    rounds = atoi(argv[2]);
    memory = mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && kin_watcher_init(&watcher) == 0);
    for (size_t i = 0; i < sizeof every / sizeof *every; i++)
        if (strcmp(argv[1], every[i].name) == 0) {
            every[i].run();
            kin_condition_close(&condition);
            kin_watcher_end(&watcher);
            return 0;
        }
    return 2;
}
