/* pipe_pair PARENT_MESSAGE CHILD_MESSAGE             makes two pipes, forks, plays both parts
 * pipe_pair parent READ_FD WRITE_FD PARENT_MESSAGE   plays the parent: speaks first, then listens
 * pipe_pair child READ_FD WRITE_FD CHILD_MESSAGE     plays the child: listens first, then speaks
 *
 * Stands for the source's anonymous pipe example, with the two pipes that the source recommends for
 * both ways (its own example shares one pipe and sleeps, so that it does not read back what it
 * wrote).
 *
 *            parent --- WRITE_FD ===== pipe =====> READ_FD ---- child
 *            parent --- READ_FD <===== pipe ====== WRITE_FD --- child
 *
 * The parts that take descriptors let another program, in any language, make the pipes and play the
 * other part. A message is 1 to PIPE_BUF bytes: one atomic write, so one read takes all of it. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void write_message(int fd, const char *message)
{
    size_t length = strlen(message);
    while (length > 0) {
        ssize_t written = write(fd, message, length);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            err(EXIT_FAILURE, "write to descriptor %d", fd);
        }
        message += written;
        length -= (size_t)written;
    }
}

static void read_and_print(int fd, const char *what)
{
    char buffer[PIPE_BUF];
    ssize_t length;
    do
        length = read(fd, buffer, sizeof buffer);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        err(EXIT_FAILURE, "read from descriptor %d", fd);
    if (length == 0)
        errx(EXIT_FAILURE, "the other part left without a message");
    printf("%s: %.*s\n", what, (int)length, buffer);
    fflush(stdout); /* printed before the answer goes out */
}

static void play_parent(int read_fd, int write_fd, const char *message)
{
    write_message(write_fd, message);
    close(write_fd);
    read_and_print(read_fd, "recv_from_child");
    close(read_fd);
}

static void play_child(int read_fd, int write_fd, const char *message)
{
    read_and_print(read_fd, "recv_from_parent");
    write_message(write_fd, message);
    close(write_fd);
    close(read_fd);
}

static int play_both(const char *parent_message, const char *child_message)
{
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0)
        err(EXIT_FAILURE, "pipe2");

    pid_t child = fork();
    if (child < 0)
        err(EXIT_FAILURE, "fork");
    if (child == 0) {
        close(down[1]);
        close(up[0]);
        play_child(down[0], up[1], child_message);
        return EXIT_SUCCESS;
    }
    close(down[0]);
    close(up[1]);
    play_parent(up[0], down[1], parent_message);

    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            err(EXIT_FAILURE, "waitpid");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void check_message(const char *message)
{
    size_t length = strlen(message);
    if (length < 1 || length > PIPE_BUF)
        errx(2, "a message must have 1 to %d bytes, this one has %zu", PIPE_BUF, length);
}

static int descriptor(const char *text)
{
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || fd < 0 || fd > INT_MAX)
        errx(2, "%s is not a descriptor", text);
    return (int)fd;
}

int main(int argc, char *argv[])
{
    if (argc == 3) {
        check_message(argv[1]);
        check_message(argv[2]);
        return play_both(argv[1], argv[2]);
    }
    if (argc == 5 && strcmp(argv[1], "parent") == 0) {
        check_message(argv[4]);
        play_parent(descriptor(argv[2]), descriptor(argv[3]), argv[4]);
        return EXIT_SUCCESS;
    }
    if (argc == 5 && strcmp(argv[1], "child") == 0) {
        check_message(argv[4]);
        play_child(descriptor(argv[2]), descriptor(argv[3]), argv[4]);
        return EXIT_SUCCESS;
    }
    errx(2, "usage: pipe_pair PARENT_MESSAGE CHILD_MESSAGE\n"
            "       pipe_pair parent|child READ_FD WRITE_FD MESSAGE");
}
