/* unix_dgram_send PATH FILE...: sends each FILE's bytes as one datagram to the Unix socket PATH.
 *
 * Beyond the source, which says that Unix sockets have datagrams too, lossless and in order, and
 * shows none.
 *
 * The receiver must have bound PATH. A full receiver blocks. A datagram may be empty. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char body[1 << 20];

static size_t read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(EXIT_FAILURE, "open %s", path);
    size_t length = 0;
    while (length < sizeof body) {
        ssize_t got = read(fd, body + length, sizeof body - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            err(EXIT_FAILURE, "read %s", path);
        if (got == 0)
            break;
        length += (size_t)got;
    }
    if (length == sizeof body)
        errx(EXIT_FAILURE, "%s is too large for a datagram", path);
    close(fd);
    return length;
}

int main(int argc, char *argv[])
{
    if (argc < 3)
        errx(2, "usage: unix_dgram_send PATH FILE...");

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(argv[1]) >= sizeof address.sun_path)
        errx(2, "%s is longer than a socket path may be", argv[1]);
    strcpy(address.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        err(EXIT_FAILURE, "socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(EXIT_FAILURE, "connect %s", argv[1]);

    for (int i = 2; i < argc; i++) {
        size_t length = read_file(argv[i]);
        while (send(fd, body, length, MSG_NOSIGNAL) < 0) /* whole or not at all: never short */
            if (errno != EINTR)
                err(EXIT_FAILURE, "send of %zu bytes", length);
    }
    close(fd);
    return EXIT_SUCCESS;
}
