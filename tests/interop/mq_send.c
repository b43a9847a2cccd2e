/* mq_send NAME PRIORITY FILE...: sends each FILE's bytes as one message to a POSIX message queue.
 *
 * Beyond the source, which names message queues and shows none.
 *
 * NAME begins with a slash. A missing queue is created (0600, the system's default sizes). A full
 * one blocks. The body is bare bytes, no framing; it may be empty. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static size_t read_file(const char *path, char *body, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(EXIT_FAILURE, "open %s", path);
    size_t length = 0;
    while (length < room) {
        ssize_t got = read(fd, body + length, room - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            err(EXIT_FAILURE, "read %s", path);
        if (got == 0)
            break;
        length += (size_t)got;
    }
    close(fd);
    return length;
}

static unsigned parse_priority(const char *text)
{
    char *end;
    errno = 0;
    long priority = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || priority < 0 ||
        priority >= sysconf(_SC_MQ_PRIO_MAX))
        errx(2, "%s is not a priority", text);
    return (unsigned)priority;
}

int main(int argc, char *argv[])
{
    if (argc < 4)
        errx(2, "usage: mq_send NAME PRIORITY FILE...");
    unsigned priority = parse_priority(argv[2]);

    mqd_t queue = mq_open(argv[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0600, NULL);
    if (queue == (mqd_t)-1)
        err(EXIT_FAILURE, "mq_open %s", argv[1]);
    struct mq_attr attributes;
    if (mq_getattr(queue, &attributes) < 0)
        err(EXIT_FAILURE, "mq_getattr %s", argv[1]);

    /* One byte more than fits: a body that is too big is seen, not cut. */
    size_t room = (size_t)attributes.mq_msgsize + 1;
    char *body = malloc(room);
    if (body == NULL)
        err(EXIT_FAILURE, "malloc");
    for (int i = 3; i < argc; i++) {
        size_t length = read_file(argv[i], body, room);
        if (length == room)
            errx(EXIT_FAILURE, "%s is larger than this queue's messages (%ld bytes)", argv[i],
                 attributes.mq_msgsize);
        while (mq_send(queue, body, length, priority) < 0)
            if (errno != EINTR)
                err(EXIT_FAILURE, "mq_send %s", argv[1]);
    }
    free(body);
    mq_close(queue);
    return EXIT_SUCCESS;
}
