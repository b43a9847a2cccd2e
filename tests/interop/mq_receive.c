/* mq_receive NAME OUTPUT [COUNT]: takes COUNT messages (default 1) from a POSIX message queue.
 *
 * Beyond the source, which names message queues and shows none.
 *
 * A missing queue is created (0600, the system's default sizes) and nothing is ever unlinked: a
 * queue's name outlives its users. Prints "listening" when the queue is open, then for each message
 * "received N bytes priority P"; the bodies, bare, go one after the other into OUTPUT. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

int main(int argc, char *argv[])
{
    if (argc != 3 && argc != 4)
        errx(2, "usage: mq_receive NAME OUTPUT [COUNT]");
    unsigned long count = argc == 4 ? parse_count(argv[3]) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);

    int output = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (output < 0)
        err(EXIT_FAILURE, "open %s", argv[2]);
    mqd_t queue = mq_open(argv[1], O_RDONLY | O_CREAT | O_CLOEXEC, 0600, NULL);
    if (queue == (mqd_t)-1)
        err(EXIT_FAILURE, "mq_open %s", argv[1]);
    struct mq_attr attributes;
    if (mq_getattr(queue, &attributes) < 0)
        err(EXIT_FAILURE, "mq_getattr %s", argv[1]);
    size_t room = (size_t)attributes.mq_msgsize;
    char *body = malloc(room);
    if (body == NULL)
        err(EXIT_FAILURE, "malloc");

    puts("listening");
    while (count-- > 0) {
        unsigned priority;
        ssize_t length;
        do
            length = mq_receive(queue, body, room, &priority);
        while (length < 0 && errno == EINTR);
        if (length < 0)
            err(EXIT_FAILURE, "mq_receive %s", argv[1]);
        write_all(output, body, (size_t)length);
        printf("received %zd bytes priority %u\n", length, priority);
    }
    free(body);
    mq_close(queue);
    if (close(output) < 0)
        err(EXIT_FAILURE, "close %s", argv[2]);
    return EXIT_SUCCESS;
}
