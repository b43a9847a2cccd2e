/* file_lock HOW FILE START LENGTH shared|exclusive: locks bytes of FILE, says so, and keeps them until its input ends.
 *
 * Stands for the source's file locks, which it names without a program.
 *
 * HOW is fcntl (F_SETLKW), ofd (F_OFD_SETLKW), lockf(3) (exclusive) or flock(2) (all of the file). With LENGTH 0 all
 * that follows is locked. Prints "busy" first when it has to wait, then "locked". FILE is made (0600) if it is missing.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int fd;
static const char *how;
static struct flock range;

static bool lock(bool waits)
{
    int result;
    if (strcmp(how, "flock") == 0)
        result = flock(fd, (range.l_type == F_RDLCK ? LOCK_SH : LOCK_EX) | (waits ? 0 : LOCK_NB));
    else if (strcmp(how, "lockf") == 0)
        result = lseek(fd, range.l_start, SEEK_SET) < 0
                     ? -1
                     : lockf(fd, waits ? F_LOCK : F_TLOCK, range.l_len);
    else if (strcmp(how, "ofd") == 0)
        result = fcntl(fd, waits ? F_OFD_SETLKW : F_OFD_SETLK, &range);
    else if (strcmp(how, "fcntl") == 0)
        result = fcntl(fd, waits ? F_SETLKW : F_SETLK, &range);
    else
        errx(2, "%s: fcntl, ofd, lockf or flock", how);
    if (result < 0 && (waits || (errno != EAGAIN && errno != EACCES)))
        err(EXIT_FAILURE, "%s", how);
    return result == 0;
}

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

int main(int argc, char *argv[])
{
    if (argc != 6)
        errx(2, "usage: file_lock fcntl|ofd|lockf|flock FILE START LENGTH shared|exclusive");
    how = argv[1];
    range = (struct flock){.l_type = strcmp(argv[5], "shared") == 0 ? F_RDLCK : F_WRLCK,
                           .l_whence = SEEK_SET,
                           .l_start = atoll(argv[3]),
                           .l_len = atoll(argv[4])};
    fd = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        err(EXIT_FAILURE, "open %s", argv[2]);
    if (!lock(false)) {
        say("busy");
        lock(true);
    }
    say("locked");
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return EXIT_SUCCESS;
}
