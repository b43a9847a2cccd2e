/* A C program that takes turns with others at what a kinfolk mutex guards: by include/kinfolk.h alone.
 *
 *     mutex_peer FILE turns N      changes the numbers N times
 *     mutex_peer FILE dies         … half, and is killed
 *     mutex_peer FILE waits        says `waiting`, and what it gets
 *
 * FILE is mapped (/dev/shm/NAME for POSIX shared memory). At its beginning lies the mutex, then two numbers, which are
 * equal when nobody is at them. tests/native/test_mutex_peer.py compiles and runs it.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <kinfolk.h>

struct shared {
    char mutex[KIN_MUTEX_SIZE];
    volatile int64_t first, second;
};

static int
fail(const char *what, int error)
{
    fprintf(stderr, "mutex_peer: %s: %s\n", what, strerror(error));
    return 1;
}

static int
lock(struct kin_mutex *mutex, struct shared *shared)
{
    int error;
    do
        error = kin_mutex_lock(mutex, NULL);
    while (error == EINTR);
    if (error == EOWNERDEAD)
        shared->second = shared->first;
    return error;
}

static int
take_turns(struct kin_mutex *mutex, struct shared *shared, long turns)
{
    for (; turns > 0; turns--) {
        int error = lock(mutex, shared);
        if (error != 0 && error != EOWNERDEAD)
            return fail("kin_mutex_lock", error);
        if (shared->first != shared->second)
            return fail("somebody else is at it", 0);
        shared->first++;
        shared->second++;
        if ((error = kin_mutex_unlock(mutex)) != 0)
            return fail("kin_mutex_unlock", error);
    }
    return 0;
}

int
main(int argc, char *argv[])
{
    struct kin_mutex mutex;
    if (argc < 3) {
        fputs("usage: mutex_peer FILE turns N | dies | waits\n", stderr);
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return fail(argv[1], errno);
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        return fail("mmap", errno);
    enum kin_finding found = kin_mutex_open(&mutex, shared, sizeof *shared);
    if (found != KIN_SOUND) {
        fprintf(stderr, "mutex_peer: kin_mutex_open finds %d\n", found);
        return 1;
    }
    if (strcmp(argv[2], "turns") == 0 && argc == 4) {
        int result = take_turns(&mutex, shared, atol(argv[3]));
        return result != 0 ? result : kin_mutex_close(&mutex);
    }
    if (strcmp(argv[2], "dies") == 0) {
        lock(&mutex, shared);
        shared->first++;
        raise(SIGKILL);
    }
    puts("waiting");
    fflush(stdout);
    int error = lock(&mutex, shared);
    puts(error == 0 ? "free" : error == EOWNERDEAD ? "its owner died" : "an error");
    return 0;
}
