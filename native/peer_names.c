/* The directory of this user's kinfolk processes: what runtime_directory.py does, for programs without Python.
 *
 * Rules, as there:
 * 1. It is ours alone (0700, our effective user's, no symlink) or it is refused.
 * 2. The lock is flock(2) on the directory itself, held for microseconds and never while waiting; so it ends with its holder.
 * 3. It is made when first needed, and removed with the lock when it is empty.
 */

#include "peer_names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST_NAME = 200, PATIENCE = 100, SHORTEST_PAUSE = 1, LONGEST_PAUSE = 50 };

static void
directory_path(char path[KIN_NAME_ROOM])
{
    snprintf(path, KIN_NAME_ROOM, "/dev/shm/kinfolk-%u", (unsigned)geteuid());
}

/* As urllib.parse.quote(name, safe="") writes it. */
static bool
quote(char *to, const char *name)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~";
    size_t length = 0;
    for (; *name != '\0'; name++) {
        bool is_plain = strchr(plain, *name) != NULL;
        if (*name == '/' || length + (is_plain ? 1 : 3) > LONGEST_NAME)
            return false;
        if (is_plain)
            to[length++] = *name;
        else
            length += (size_t)sprintf(to + length, "%%%02X", (unsigned char)*name);
    }
    to[length] = '\0';
    return length > 0;
}

bool
kin_names_path(char path[KIN_NAME_ROOM], const char *mechanism, const char *name)
{
    char quoted[LONGEST_NAME + 1];
    if (!quote(quoted, name))
        return false;
    directory_path(path);
    size_t length = strlen(path);
    return snprintf(path + length, KIN_NAME_ROOM - length, "/%s-%s", mechanism, quoted) <
           (int)(KIN_NAME_ROOM - length);
}

/* Whether it is ours, and was made under a umask that left its owner out: not any more. Only its owner may replace it meanwhile. */
static bool
mend(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid() &&
           (status.st_mode & 0700) != 0700 && chmod(path, 0700) == 0;
}

static int
open_directory(void)
{
    char path[KIN_NAME_ROOM];
    struct stat status;
    int directory;
    directory_path(path);
    do {
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return -1;
        directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    } while (directory < 0 && (errno == ENOENT /* removed by somebody's last use, just now */ ||
                               (errno == EACCES && mend(path))));
    if (directory < 0) {
        if (errno == ELOOP || errno == ENOTDIR)
            errno = EACCES;
        return -1;
    }
    if (fstat(directory, &status) < 0 || status.st_uid != geteuid() || status.st_mode & 077) {
        close(directory);
        errno = EACCES;
        return -1;
    }
    if ((status.st_mode & 0700) != 0700 && fchmod(directory, 0700) < 0) { /* as in mend */
        close(directory);
        return -1;
    }
    return directory;
}

int
kin_names_try_lock(struct kin_names_lock *lock)
{
    char path[KIN_NAME_ROOM];
    struct stat ours, there;
    lock->directory = open_directory();
    if (lock->directory < 0)
        return errno;
    int error = 0;
    directory_path(path);
    if (flock(lock->directory, LOCK_EX | LOCK_NB) < 0)
        error = errno == EINTR ? EAGAIN : errno;
    else if (fstat(lock->directory, &ours) < 0 || stat(path, &there) < 0)
        error = errno == ENOENT ? EAGAIN : errno;
    else if (ours.st_ino != there.st_ino)
        error = EAGAIN; /* it was removed, and made anew */
    if (error != 0)
        close(lock->directory);
    return error;
}

void
kin_names_unlock(struct kin_names_lock *lock)
{
    char path[KIN_NAME_ROOM];
    directory_path(path);
    rmdir(path); /* unless others use it */
    /* Not only closed: a child forked just now has the same lock with its copy. */
    flock(lock->directory, LOCK_UN);
    close(lock->directory);
}

static int64_t
milliseconds_until(const struct timespec *deadline)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t seconds = (int64_t)deadline->tv_sec - now.tv_sec;
    if (seconds > 1000)
        return 1000000;
    return seconds * 1000 + (deadline->tv_nsec - now.tv_nsec) / 1000000;
}

bool
kin_names_pause(uint32_t *milliseconds, const struct timespec *deadline)
{
    int64_t left = deadline == NULL ? LONGEST_PAUSE : milliseconds_until(deadline);
    if (left <= 0)
        return false;
    *milliseconds = *milliseconds == 0 ? SHORTEST_PAUSE : 2 * *milliseconds;
    if (*milliseconds > LONGEST_PAUSE)
        *milliseconds = LONGEST_PAUSE;
    int64_t pause = left < *milliseconds ? left : *milliseconds;
    nanosleep(&(struct timespec){0, pause * 1000000}, NULL);
    return true;
}

bool
kin_names_lock_to_leave(struct kin_names_lock *lock)
{
    struct timespec deadline;
    uint32_t pause;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_nsec += PATIENCE * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_nsec -= 1000000000;
        deadline.tv_sec++;
    }
    for (;;) {
        int error = kin_names_try_lock(lock);
        pause = 0;
        if (error == 0)
            return true;
        if (error != EAGAIN || !kin_names_pause(&pause, &deadline))
            return false;
    }
}
