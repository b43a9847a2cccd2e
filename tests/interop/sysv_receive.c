/* sysv_receive KEY MTYPE OUTPUT [COUNT]: takes COUNT messages (default 1) from a System V queue.
 *
 * Beyond the source, which names System V message queues and shows none.
 *
 * KEY is a number (0x... for hexadecimal) or PATH#PROJ, which goes through ftok. MTYPE is msgrcv's:
 * 0 takes the oldest message, a positive one the oldest of that type, a negative one the lowest
 * type up to its absolute value. A missing queue is created (0600) and nothing is ever removed.
 * Prints "listening" when the queue is there, then for each message "received N bytes mtype T"; the
 * bodies, bare, go one after the other into OUTPUT. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <unistd.h>

static struct {
    long mtype;
    char body[1 << 20];
} message;

static long parse_number(const char *text, long least, long most, const char *what)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 0);
    if (errno != 0 || end == text || *end != '\0' || number < least || number > most)
        errx(2, "%s is not %s", text, what);
    return number;
}

static key_t parse_key(char *text)
{
    char *hash = strrchr(text, '#');
    if (hash == NULL)
        return (key_t)(uint32_t)parse_number(text, 1, UINT32_MAX, "a key");
    *hash = '\0';
    key_t key = ftok(text, (int)parse_number(hash + 1, 1, 255, "a project number (1 to 255)"));
    if (key == -1)
        err(EXIT_FAILURE, "ftok %s", text);
    return key;
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
    if (argc != 4 && argc != 5)
        errx(2, "usage: sysv_receive KEY MTYPE OUTPUT [COUNT]");
    key_t key = parse_key(argv[1]);
    long mtype = parse_number(argv[2], LONG_MIN, LONG_MAX, "a message type");
    long count = argc == 5 ? parse_number(argv[4], 1, LONG_MAX, "a count") : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);

    int output = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (output < 0)
        err(EXIT_FAILURE, "open %s", argv[3]);
    int queue = msgget(key, IPC_CREAT | 0600);
    if (queue < 0)
        err(EXIT_FAILURE, "msgget");

    puts("listening");
    while (count-- > 0) {
        ssize_t length;
        do
            length = msgrcv(queue, &message, sizeof message.body, mtype, 0);
        while (length < 0 && errno == EINTR);
        if (length < 0)
            err(EXIT_FAILURE, "msgrcv");
        write_all(output, message.body, (size_t)length);
        printf("received %zd bytes mtype %ld\n", length, message.mtype);
    }
    if (close(output) < 0)
        err(EXIT_FAILURE, "close %s", argv[3]);
    return EXIT_SUCCESS;
}
