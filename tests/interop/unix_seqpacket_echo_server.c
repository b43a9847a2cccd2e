/* unix_seqpacket_echo_server PATH: sends each message back, one by one, until the client leaves.
 *
 * Beyond the source: its unix_domain_server.c over SOCK_SEQPACKET, which keeps the boundaries of
 * messages, so that a connection can carry several of them (up to 64 KiB each here).
 *
 * Prints "listening" when clients may connect, then `new msg: "..."` for each message, before it is
 * sent back. SIGINT, SIGHUP and SIGTERM remove the socket and exit 0. */

#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static char message[64 * 1024];

static void remove_socket_and_exit(int signo)
{
    (void)signo;
    unlink(address.sun_path);
    _exit(EXIT_SUCCESS);
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

static int listen_on(const char *path)
{
    if (strlen(path) >= sizeof address.sun_path)
        errx(2, "%s is longer than a socket path may be", path);
    strcpy(address.sun_path, path);

    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listener < 0)
        err(EXIT_FAILURE, "socket");
    remove_stale_socket(path);

    struct sigaction action = {.sa_handler = remove_socket_and_exit};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        err(EXIT_FAILURE, "bind %s", path);
    if (chmod(path, 0640) < 0)
        err(EXIT_FAILURE, "chmod %s", path);
    if (listen(listener, SOMAXCONN) < 0)
        err(EXIT_FAILURE, "listen %s", path);
    return listener;
}

static void serve(int client)
{
    for (;;) {
        ssize_t length;
        do /* MSG_TRUNC: the true length, so a cut is seen */
            length = recv(client, message, sizeof message, MSG_TRUNC);
        while (length < 0 && errno == EINTR);
        if (length == 0)
            return;
        if (length < 0) {
            warn("recv"); /* this client's loss; the server goes on */
            return;
        }
        if ((size_t)length > sizeof message) {
            warnx("a message of %zd bytes does not fit", length);
            return;
        }
        printf("new msg: \"%.*s\"\n", (int)length, message);
        /* Whole or not at all: never short. */
        while (send(client, message, (size_t)length, MSG_NOSIGNAL) < 0) {
            if (errno != EINTR) {
                warn("send");
                return;
            }
        }
    }
}

int main(int argc, char *argv[])
{
    if (argc != 2)
        errx(2, "usage: unix_seqpacket_echo_server PATH");
    setvbuf(stdout, NULL, _IOLBF, 0);

    int listener = listen_on(argv[1]);
    puts("listening");
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            warn("accept");
            unlink(address.sun_path);
            return EXIT_FAILURE;
        }
        serve(client);
        close(client);
    }
}
