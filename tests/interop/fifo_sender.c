/* fifo_sender FIFO FILE: writes the bytes of FILE into FIFO.
 *
 * Stands for the source's sender.c (named pipes).
 *
 * Opening the FIFO blocks until somebody has it open for reading; nothing else synchronises the
 * two. There is no framing. SIGPIPE keeps its default action: if the reader leaves early, this
 * program is killed by it. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int open_retrying(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        err(EXIT_FAILURE, "open %s", path);
    return fd;
}

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

int main(int argc, char *argv[])
{
    if (argc != 3)
        errx(2, "usage: fifo_sender FIFO FILE");

    /* The file first: a missing one must not let a waiting receiver through to an empty stream. */
    int file = open_retrying(argv[2], O_RDONLY);
    int fifo = open_retrying(argv[1], O_WRONLY);

    char buffer[BUFSIZ];
    for (;;) {
        ssize_t length = read(file, buffer, sizeof buffer);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            err(EXIT_FAILURE, "read %s", argv[2]);
        if (length == 0)
            break;
        write_all(fifo, buffer, (size_t)length);
    }
    close(fifo);
    close(file);
    return EXIT_SUCCESS;
}
