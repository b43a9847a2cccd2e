/* unix_echo_server PATH: for each client one recv, print it, send it back, close.
 *
 * Stands for the source's unix_domain_server.c (stream sockets), with the path as an argument.
 *
 * Prints "listening" when clients may connect, then `new msg: "..."` for each message, before it is
 * sent back. Only the first recv is echoed, at most 1024 bytes of it, as in the source. SIGINT,
 * SIGHUP and SIGTERM remove the socket and exit 0; the handler calls only what is async-signal-safe
 * (the source's calls fprintf and exit). */

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

enum { BUFFER_SIZE = 1024 };

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void remove_socket_and_exit(int signo)
{
    const char *line = signo == SIGINT   ? "received signal: SIGINT(2)\n"
                       : signo == SIGHUP ? "received signal: SIGHUP(1)\n"
                                         : "received signal: SIGTERM(15)\n";
    ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
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

    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        err(EXIT_FAILURE, "socket");
    remove_stale_socket(path);

    struct sigaction action = {.sa_handler = remove_socket_and_exit};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        err(EXIT_FAILURE, "bind %s", path);
    /* Before listen: nobody can connect while the mode is still what the umask left. */
    if (chmod(path, 0640) < 0)
        err(EXIT_FAILURE, "chmod %s", path);
    if (listen(listener, SOMAXCONN) < 0)
        err(EXIT_FAILURE, "listen %s", path);
    return listener;
}

static void send_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            warn("send"); /* this client's loss; the server goes on */
            return;
        }
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void serve(int client)
{
    char buffer[BUFFER_SIZE];
    ssize_t length;
    do
        length = recv(client, buffer, sizeof buffer, 0);
    while (length < 0 && errno == EINTR);
    if (length < 0) {
        warn("recv");
        return;
    }
    printf("new msg: \"%.*s\"\n", (int)length, buffer);
    send_all(client, buffer, (size_t)length);
}

int main(int argc, char *argv[])
{
    if (argc != 2)
        errx(2, "usage: unix_echo_server PATH");
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
