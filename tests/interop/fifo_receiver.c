/* fifo_receiver FIFO OUTPUT: copies what comes through FIFO into the file OUTPUT until the last
 * writer has left.
 *
 * Stands for the source's receiver.c (named pipes). That one prints each chunk as if it were text;
 * this one prints "received N bytes" once, at the end. */

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
        fd = open(path, flags | O_CLOEXEC, 0600);
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
        errx(2, "usage: fifo_receiver FIFO OUTPUT");

    int output = open_retrying(argv[2], O_WRONLY | O_CREAT | O_TRUNC);
    int fifo = open_retrying(argv[1], O_RDONLY);

    char buffer[BUFSIZ];
    unsigned long long total = 0;
    for (;;) {
        ssize_t length = read(fifo, buffer, sizeof buffer);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            err(EXIT_FAILURE, "read %s", argv[1]);
        if (length == 0)
            break;
        write_all(output, buffer, (size_t)length);
        total += (unsigned long long)length;
    }
    close(fifo);
    if (close(output) < 0)
        err(EXIT_FAILURE, "close %s", argv[2]);
    printf("received %llu bytes\n", total);
    return EXIT_SUCCESS;
}
