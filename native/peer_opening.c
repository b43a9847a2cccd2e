/* Opening an end of a ring in a C program: what ring.py and ring_memory.py do in Python.
 *
 *     kinfolk-UID/ring-NAME            the presence: who comes joins it first
 *     kinfolk-UID/memory-of-ring-NAME     the memory, made by a receiver with the lock of the names
 *
 * Rules:
 * 1. The memory gets its name when it has its size, space for all but the blocks, and is a ring: a kill before leaves nothing.
 * 2. A file that others than we and root could write, or that is none, is refused.
 * 3. Receivers that are the first remove what killed ones left.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "peer_channel.h"

static const struct kin_ring_terms USUAL = {.capacity = 1 << 20, .arena = 256 << 20};
static const char SCHEME[] = "ring:";

/* ------------------------------------------------------------------------------ the watcher */

static struct kin_watcher watcher;
static int watcher_error;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
before_fork(void)
{
    kin_watcher_before_fork(&watcher);
}

static void
after_fork_in_parent(void)
{
    kin_watcher_after_fork_in_parent(&watcher);
}

static void
after_fork_in_child(void)
{
    kin_watcher_after_fork_in_child(&watcher);
}

static void
prepare(void)
{
    kin_thread(); /* its handler comes first in the child, where it counts the fork */
    watcher_error = kin_watcher_init(&watcher);
    if (watcher_error == 0)
        watcher_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

struct kin_watcher *
kin_peer_watcher(void)
{
    pthread_once(&once, prepare);
    return watcher_error == 0 ? &watcher : NULL;
}

/* ------------------------------------------------------------------------------- the memory */

/* Whoever opens the name finds a ring, of the sizes that it has, whatever he asks for. */
static int
format(int fd, const struct kin_ring_terms *terms)
{
    struct kin_ring ring;
    size_t size = (size_t)kin_ring_room(terms);
    if (kin_peer_watcher() == NULL)
        return EMFILE;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return errno;
    if (kin_ring_open(&ring, memory, size, KIN_RING_RECEIVES, terms, kin_peer_watcher()) == KIN_SOUND)
        kin_ring_close(&ring); /* else whoever opens it says why */
    munmap(memory, size);
    return 0;
}

static int
make_memory(const char *path, const struct kin_ring_terms *terms, int *fd)
{
    char itself[64], directory[KIN_NAME_ROOM];
    snprintf(directory, sizeof directory, "%s", path);
    *strrchr(directory, '/') = '\0';
    *fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd < 0)
        return errno;
    int error = 0;
    snprintf(itself, sizeof itself, "/proc/self/fd/%d", *fd);
    if (fchmod(*fd, 0600) < 0 || ftruncate(*fd, (off_t)kin_ring_room(terms)) < 0)
        error = errno;
    while (error == 0 && (error = posix_fallocate(*fd, 0, (off_t)kin_ring_head(terms))) == EINTR)
        error = 0;
    if (error == 0)
        error = format(*fd, terms);
    if (error == 0 && linkat(AT_FDCWD, itself, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
        error = errno;
    if (error != 0)
        close(*fd);
    return error;
}

/* EAGAIN: there is none. */
static int
open_memory(const char *path, int *fd, size_t *size)
{
    struct stat status;
    *fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (*fd < 0)
        return errno == ENOENT ? EAGAIN : errno == ELOOP ? EACCES : errno;
    int error = 0;
    if (fstat(*fd, &status) < 0)
        error = errno;
    else if ((status.st_uid != geteuid() && status.st_uid != 0) || status.st_mode & 022)
        error = EACCES;
    else if (!S_ISREG(status.st_mode) || status.st_size <= KIN_RING_BYTES_AT)
        error = EBADMSG;
    else
        *size = (size_t)status.st_size;
    if (error != 0)
        close(*fd);
    return error;
}

static int
make_or_open_memory(const char *path, const struct kin_ring_terms *terms, int *fd, size_t *size)
{
    struct kin_names_lock names;
    int error = kin_names_try_lock(&names);
    if (error != 0)
        return error;
    error = open_memory(path, fd, size);
    if (error == EAGAIN) {
        error = make_memory(path, terms, fd);
        *size = (size_t)kin_ring_room(terms);
    }
    kin_names_unlock(&names);
    return error;
}

void
kin_peer_forget(void *end)
{
    unlink(((struct kin_end *)end)->memory_path);
}

/* ---------------------------------------------------------------------------------- opening */

static enum kin_error
meaning_of(enum kin_finding found)
{
    switch (found) {
    case KIN_SOUND:
        return KIN_OK;
    case KIN_OTHER_VERSION:
    case KIN_OTHER_NAMESPACE:
    case KIN_OTHER_BOOT:
        return KIN_OTHER_KINFOLK;
    case KIN_UNSUPPORTED:
        return KIN_NOT_HERE;
    case KIN_TOO_MANY:
    case KIN_EXHAUSTED:
        return KIN_LIMIT;
    case KIN_OTHER_TERMS:
        return KIN_ACKNOWLEDGED;
    case KIN_BEING_MADE:
        return KIN_TIMED_OUT;
    default:
        return KIN_CORRUPT;
    }
}

static int
join(struct kin_end *end, const char *path, enum kin_ring_way way, const struct timespec *deadline)
{
    uint32_t pause = 0;
    for (;;) {
        int error = way == KIN_RING_RECEIVES
                        ? kin_presence_try_receiver(&end->presence, path, kin_peer_forget, end)
                        : kin_presence_try_sender(&end->presence, path);
        if (error != EAGAIN)
            return error;
        if (!kin_names_pause(&pause, deadline))
            return ETIMEDOUT;
    }
}

static enum kin_error
open_ring(struct kin_end *end, enum kin_ring_way way, const struct kin_ring_terms *terms,
          const struct timespec *deadline)
{
    uint32_t pause = 0;
    int error, *fd = &end->file;
    while ((error = way == KIN_RING_RECEIVES
                        ? make_or_open_memory(end->memory_path, terms, fd, &end->size)
                        : open_memory(end->memory_path, fd, &end->size)) == EAGAIN)
        if (!kin_names_pause(&pause, deadline))
            return KIN_TIMED_OUT;
    if (error != 0) {
        *fd = -1;
        return kin_peer_error(error);
    }
    end->memory = mmap(NULL, end->size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (end->memory == MAP_FAILED) {
        end->memory = NULL;
        return kin_peer_error(errno);
    }
    struct kin_watcher *ours = kin_peer_watcher();
    if (ours == NULL)
        return KIN_LIMIT;
    enum kin_finding found =
        kin_ring_open(&end->ring, end->memory, end->size, way, terms, ours);
    if (found == KIN_SOUND)
        kin_ring_lies_in(&end->ring, end->file);
    return meaning_of(found);
}

static enum kin_error
open_end(struct kin_end **opened, const char *address, enum kin_ring_way way,
         const struct kin_sizes *sizes, const struct timespec *deadline)
{
    struct kin_ring_terms terms = USUAL;
    char path[KIN_NAME_ROOM];
    *opened = NULL;
    if (sizes != NULL && sizes->capacity != 0)
        terms.capacity = sizes->capacity;
    if (sizes != NULL && sizes->arena != 0)
        terms.arena = sizes->arena;
    struct kin_end *end = calloc(1, sizeof *end);
    if (end == NULL)
        return KIN_LIMIT;
    end->file = -1;
    end->known = UINT64_MAX;
    end->references = 1;
    const char *name = address + sizeof SCHEME - 1;
    enum kin_error error = KIN_BAD_ADDRESS;
    if (kin_ring_room(&terms) != 0 && strncmp(address, SCHEME, sizeof SCHEME - 1) == 0 &&
        strpbrk(name, "?%") == NULL && kin_names_path(path, "ring", name) &&
        kin_names_path(end->memory_path, "memory-of-ring", name))
        error = kin_peer_error(join(end, path, way, deadline));
    if (error != KIN_OK) {
        free(end);
        return error;
    }
    error = open_ring(end, way, &terms, deadline);
    if (error == KIN_OK) {
        *opened = end;
        return KIN_OK;
    }
    int system = errno;
    kin_presence_leave(&end->presence, kin_peer_forget, end);
    if (end->memory != NULL)
        munmap(end->memory, end->size);
    if (end->file >= 0)
        close(end->file);
    free(end);
    errno = system;
    return error;
}

enum kin_error
kin_open_receiver(struct kin_end **end, const char *address, const struct kin_sizes *sizes,
                  const struct timespec *deadline)
{
    return open_end(end, address, KIN_RING_RECEIVES, sizes, deadline);
}

enum kin_error
kin_open_sender(struct kin_end **end, const char *address, const struct timespec *deadline)
{
    return open_end(end, address, KIN_RING_SENDS, NULL, deadline);
}
