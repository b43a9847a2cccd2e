/* Who is there in a channel: what presence.py and claims.py do, for programs without Python. They say why it is so.
 *
 *     a FIFO, in the runtime directory
 *       open for reading or writing     a receiver, a sender: the kernel hangs up when the last of them ends
 *       a record lock on a random byte  a member, in the eyes of who leaves
 *       flock(2), shared                a copy of an end: a child that was forked just now
 *       sticky, S_ISGID without x       made by kinfolk, which removes it (marks.py)
 *
 * Rule: the kernel drops a process's record locks on an inode when it closes *any* descriptor of it. So the others of
 * this process on that inode take theirs again, at once.
 */

#include "peer_presence.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local_lock.h"

enum { MEMBERS = 3, STARTING = 20 };
enum { USUAL = S_ISVTX | S_ISGID, WITHOUT_SETGID = S_ISVTX | S_IXGRP | S_IXOTH };

static struct kin_local_lock lock; /* of the list */
static struct kin_presence *all;

/* ------------------------------------------------------------------------------- membership */

static void
take_membership(const struct kin_presence *presence)
{
    int64_t byte = 0;
    if (getrandom(&byte, 7, 0) != 7)
        byte = getpid();
    int flags = fcntl(presence->fd, F_GETFL);
    struct flock area = {
        .l_type = (flags & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = MEMBERS + byte,
        .l_len = 1,
    };
    fcntl(presence->fd, F_SETLK, &area);
}

static bool
is_same(const struct kin_presence *one, const struct kin_presence *other)
{
    return one->device == other->device && one->inode == other->inode;
}

static void
know(struct kin_presence *presence)
{
    kin_local_enter(&lock);
    presence->next = all;
    all = presence;
    take_membership(presence);
    kin_local_leave(&lock);
}

/* Closes a descriptor of the FIFO: that of the presence, which is none any more, or another. */
static void
close_one(struct kin_presence *presence, int fd)
{
    kin_local_enter(&lock);
    close(fd);
    if (fd == presence->fd) {
        presence->fd = -1;
        for (struct kin_presence **one = &all; *one != NULL; one = &(*one)->next)
            if (*one == presence) {
                *one = presence->next;
                break;
            }
    }
    for (const struct kin_presence *one = all; one != NULL; one = one->next)
        if (is_same(one, presence))
            take_membership(one);
    kin_local_leave(&lock);
}

static bool
is_alone(const struct kin_presence *presence)
{
    struct flock area = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = MEMBERS};
    bool others = fcntl(presence->fd, F_GETLK, &area) < 0 || area.l_type != F_UNLCK;
    kin_local_enter(&lock);
    for (const struct kin_presence *one = all; one != NULL; one = one->next)
        others |= one != presence && is_same(one, presence);
    kin_local_leave(&lock);
    return !others;
}

void
kin_presence_forked(struct kin_presence *presence)
{
    if (presence->fd >= 0)
        take_membership(presence);
}

/* ----------------------------------------------------------------------------------- joining */

static bool
is_marked(mode_t mode)
{
    mode_t bits = mode & (S_ISVTX | S_ISGID | 0111);
    return bits == USUAL || bits == WITHOUT_SETGID;
}

static void
mark(int fd)
{
    struct stat status;
    if (fchmod(fd, 0600 | USUAL) == 0 && fstat(fd, &status) == 0 && is_marked(status.st_mode))
        return;
    fchmod(fd, 0600 | WITHOUT_SETGID);
}

/* With the lock of the names. */
static int
open_end(struct kin_presence *presence, const char *path, int flags)
{
    struct stat status;
    snprintf(presence->path, sizeof presence->path, "%s", path);
    if (lstat(path, &status) < 0)
        return errno == ENOENT ? EAGAIN : errno;
    if (!S_ISFIFO(status.st_mode))
        return EINVAL; /* what is none may do something when it is opened */
    presence->fd = open(path, flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (presence->fd < 0)
        return errno == ENOENT || errno == ENXIO ? EAGAIN : errno;
    if (fstat(presence->fd, &status) < 0 || !S_ISFIFO(status.st_mode)) {
        close(presence->fd);
        presence->fd = -1;
        return EINVAL;
    }
    presence->device = status.st_dev;
    presence->inode = status.st_ino;
    know(presence);
    flock(presence->fd, LOCK_SH | LOCK_NB);
    return 0;
}

static int
make(const char *path)
{
    if (mkfifo(path, 0600 | USUAL) == 0 || errno == EEXIST)
        return 0;
    return errno == EPERM && mkfifo(path, 0600 | WITHOUT_SETGID) == 0 ? 0 : errno;
}

int
kin_presence_try_receiver(struct kin_presence *presence, const char *path, void (*if_first)(void *),
                          void *argument)
{
    struct kin_names_lock names;
    struct stat status;
    presence->fd = -1;
    int error = kin_names_try_lock(&names);
    if (error != 0)
        return error;
    error = make(path);
    if (error == 0)
        error = open_end(presence, path, O_RDONLY);
    if (error == 0 && is_alone(presence)) {
        /* Who made it was killed before it had its mode; or the umask took some of it. */
        if (fstat(presence->fd, &status) == 0 && is_marked(status.st_mode) &&
            status.st_uid == geteuid())
            mark(presence->fd);
        if_first(argument);
    }
    kin_names_unlock(&names);
    return error;
}

int
kin_presence_try_sender(struct kin_presence *presence, const char *path)
{
    struct kin_names_lock names;
    presence->fd = -1;
    int error = kin_names_try_lock(&names);
    if (error != 0)
        return error;
    error = open_end(presence, path, O_WRONLY);
    kin_names_unlock(&names);
    return error;
}

bool
kin_presence_others_gone(const struct kin_presence *presence)
{
    struct pollfd look = {presence->fd, 0, 0};
    return poll(&look, 1, 0) > 0;
}

/* ----------------------------------------------------------------------------------- leaving */

static bool
nobody_shares(int fd)
{
    for (int tries = 0; tries < STARTING; tries++) { /* between its fork and its exec, a process has a copy */
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return true;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return false;
}

/* It has left. Whether there is neither a copy of any end, nor another FIFO by that name. */
static bool
has_no_copies(struct kin_presence *presence)
{
    struct stat status;
    int probe = open(presence->path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (probe < 0)
        return false;
    bool none = fstat(probe, &status) == 0 && status.st_dev == presence->device &&
                status.st_ino == presence->inode && nobody_shares(probe);
    close_one(presence, probe);
    return none;
}

static bool
seems_last(const struct kin_presence *presence)
{
    struct stat status;
    return is_alone(presence) && fstat(presence->fd, &status) == 0 && is_marked(status.st_mode);
}

/* With the lock of the names, if it was had. */
static void
close_and_remove(struct kin_presence *presence, bool locked, void (*if_last)(void *), void *argument)
{
    bool last = locked && seems_last(presence);
    close_one(presence, presence->fd);
    if (last && has_no_copies(presence)) {
        if_last(argument);
        unlink(presence->path);
    }
}

void
kin_presence_leave(struct kin_presence *presence, void (*if_last)(void *), void *argument)
{
    struct kin_names_lock names;
    if (presence->fd < 0)
        return;
    bool locked = kin_names_lock_to_leave(&names);
    close_and_remove(presence, locked, if_last, argument);
    if (locked)
        kin_names_unlock(&names);
}

bool
kin_presence_end(struct kin_presence *presence, bool (*found)(void *), void (*if_last)(void *),
                 void *argument)
{
    struct kin_names_lock names;
    bool locked = kin_names_lock_to_leave(&names);
    bool over = !found(argument);
    if (over)
        close_and_remove(presence, locked, if_last, argument);
    if (locked)
        kin_names_unlock(&names);
    return over;
}
