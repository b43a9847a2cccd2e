/* unix_echo_client PATH MESSAGE: sends MESSAGE, waits for one recv, prints `echo msg: "..."`.
 *
 * Stands for the source's unix_domain_client.c (stream sockets), with the path as an argument.
 *
 * It does not shut down its writing side: a server that answers only after the end of its input
 * would wait for ever. The message may not be empty, because a stream carries no empty messages. */

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER_SIZE = 1024 };

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        errx(2, "%s is longer than a socket path may be", path);
    strcpy(address.sun_path, path);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        err(EXIT_FAILURE, "socket");
    while (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR)
            err(EXIT_FAILURE, "connect %s", path);
    return fd;
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
    if (argc != 3 || argv[2][0] == '\0')
        errx(2, "usage: unix_echo_client PATH MESSAGE (not empty)");

    int fd = connect_to(argv[1]);
    send_all(fd, argv[2], strlen(argv[2]));

    char buffer[BUFFER_SIZE];
    ssize_t length;
    do
        length = recv(fd, buffer, sizeof buffer, 0);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        err(EXIT_FAILURE, "recv");
    if (length == 0)
        errx(EXIT_FAILURE, "the server closed the connection without an echo");
    printf("echo msg: \"%.*s\"\n", (int)length, buffer);
    close(fd);
    return EXIT_SUCCESS;
}
