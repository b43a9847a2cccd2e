/* tcp_send HOST PORT FILE: connects and sends the bytes of FILE, then closes.
 *
 * Beyond the source, which compares Unix sockets with TCP over loopback and shows no TCP program:
 * its sender.c over TCP. There is no framing; the end of the connection is the end of the bytes. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connect that a signal interrupts goes on without us: wait for it, don't call it again. */
static int connect_retrying(int fd, const struct sockaddr *address, socklen_t length)
{
    if (connect(fd, address, length) == 0)
        return 0;
    if (errno != EINTR)
        return -1;
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    while (poll(&writable, 1, -1) < 0)
        if (errno != EINTR)
            return -1;
    int error;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -1;
    errno = error;
    return error == 0 ? 0 : -1;
}

static int connect_to(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found;
    int problem = getaddrinfo(host, port, &hints, &found);
    if (problem != 0)
        errx(EXIT_FAILURE, "%s port %s: %s", host, port, gai_strerror(problem));

    for (const struct addrinfo *each = found; each != NULL; each = each->ai_next) {
        int fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol);
        if (fd < 0)
            continue;
        if (connect_retrying(fd, each->ai_addr, each->ai_addrlen) == 0) {
            freeaddrinfo(found);
            return fd;
        }
        int reason = errno;
        close(fd);
        errno = reason;
    }
    err(EXIT_FAILURE, "connect to %s port %s", host, port);
}

static void send_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            err(EXIT_FAILURE, "send");
        }
        bytes += sent;
        length -= (size_t)sent;
    }
}

int main(int argc, char *argv[])
{
    if (argc != 4)
        errx(2, "usage: tcp_send HOST PORT FILE");

    int file = open(argv[3], O_RDONLY | O_CLOEXEC);
    if (file < 0)
        err(EXIT_FAILURE, "open %s", argv[3]);
    int connection = connect_to(argv[1], argv[2]);

    char buffer[BUFSIZ];
    for (;;) {
        ssize_t length = read(file, buffer, sizeof buffer);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            err(EXIT_FAILURE, "read %s", argv[3]);
        if (length == 0)
            break;
        send_all(connection, buffer, (size_t)length);
    }
    close(connection);
    close(file);
    return EXIT_SUCCESS;
}
