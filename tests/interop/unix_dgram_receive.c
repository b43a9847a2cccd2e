/* unix_dgram_receive PATH OUTPUT [COUNT]: binds PATH and takes COUNT datagrams (default 1).
 *
 * Beyond the source, which says that Unix sockets have datagrams too, lossless and in order, and
 * shows none.
 *
 * Prints "listening" when senders may send, then for each datagram "received N bytes"; the bodies
 * go one after the other into OUTPUT. Removes the socket when it is done; one left by a killed run
 * is replaced by the next. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char body[1 << 20];

static void write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            err(EXIT_FAILURE, "write");
        }
        bytes += written;
        length -= (size_t)written;
    }
}

static unsigned long parse_count(const char *text)
{
    char *end;
    errno = 0;
    unsigned long count = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || count == 0)
        errx(2, "%s is not a count", text);
    return count;
}

static void remove_stale_socket(const char *path)
{
    struct stat status;
    if (lstat(path, &status) < 0) {
        if (errno != ENOENT)
            err(EXIT_FAILURE, "lstat %s", path);
        return;
    }
    if (!S_ISSOCK(status.st_mode))
        errx(EXIT_FAILURE, "%s exists and is not a socket", path);
    if (unlink(path) < 0)
        err(EXIT_FAILURE, "unlink %s", path);
}

static int bind_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        errx(2, "%s is longer than a socket path may be", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        err(EXIT_FAILURE, "socket");
    remove_stale_socket(path);
    umask(0177); /* a datagram socket has no listen() to wait for: it must be born private */
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(EXIT_FAILURE, "bind %s", path);
    return fd;
}

int main(int argc, char *argv[])
{
    if (argc != 3 && argc != 4)
        errx(2, "usage: unix_dgram_receive PATH OUTPUT [COUNT]");
    unsigned long count = argc == 4 ? parse_count(argv[3]) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);

    int output = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (output < 0)
        err(EXIT_FAILURE, "open %s", argv[2]);
    int fd = bind_to(argv[1]);

    puts("listening");
    while (count-- > 0) {
        ssize_t length;
        do /* MSG_TRUNC: the true length, so a cut is seen */
            length = recv(fd, body, sizeof body, MSG_TRUNC);
        while (length < 0 && errno == EINTR);
        if (length < 0)
            err(EXIT_FAILURE, "recv");
        if ((size_t)length > sizeof body)
            errx(EXIT_FAILURE, "a datagram of %zd bytes does not fit", length);
        write_all(output, body, (size_t)length);
        printf("received %zd bytes\n", length);
    }
    unlink(argv[1]);
    close(fd);
    if (close(output) < 0)
        err(EXIT_FAILURE, "close %s", argv[2]);
    return EXIT_SUCCESS;
}
