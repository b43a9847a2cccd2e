/* unix_seqpacket_echo_client PATH MESSAGE...: sends all, then prints each `echo msg: "..."`.
 *
 * Beyond the source: its unix_domain_client.c over SOCK_SEQPACKET. All messages are sent before the
 * first is received: a server that lost their boundaries would be found out.
 *
 * It does not shut down its writing side. A message may not be empty: to the receiver it would look
 * like the end. */

#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char echo[64 * 1024];

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        errx(2, "%s is longer than a socket path may be", path);
    strcpy(address.sun_path, path);

    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        err(EXIT_FAILURE, "socket");
    while (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR)
            err(EXIT_FAILURE, "connect %s", path);
    return fd;
}

int main(int argc, char *argv[])
{
    if (argc < 3)
        errx(2, "usage: unix_seqpacket_echo_client PATH MESSAGE...");
    for (int i = 2; i < argc; i++)
        if (argv[i][0] == '\0')
            errx(2, "a message may not be empty");

    int fd = connect_to(argv[1]);
    for (int i = 2; i < argc; i++) /* whole or not at all: never short */
        while (send(fd, argv[i], strlen(argv[i]), MSG_NOSIGNAL) < 0)
            if (errno != EINTR)
                err(EXIT_FAILURE, "send");

    for (int i = 2; i < argc; i++) {
        ssize_t length;
        do /* MSG_TRUNC: the true length, so a cut is seen */
            length = recv(fd, echo, sizeof echo, MSG_TRUNC);
        while (length < 0 && errno == EINTR);
        if (length < 0)
            err(EXIT_FAILURE, "recv");
        if (length == 0)
            errx(EXIT_FAILURE, "the server closed the connection without an echo");
        if ((size_t)length > sizeof echo)
            errx(EXIT_FAILURE, "an echo of %zd bytes does not fit", length);
        printf("echo msg: \"%.*s\"\n", (int)length, echo);
    }
    close(fd);
    return EXIT_SUCCESS;
}
