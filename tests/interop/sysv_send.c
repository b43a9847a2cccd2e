/* sysv_send KEY MTYPE FILE...: sends each FILE's bytes as one message to a System V queue.
 *
 * Beyond the source, which names System V message queues and shows none.
 *
 * KEY is a number (0x... for hexadecimal) or PATH#PROJ, which goes through ftok. A missing queue is
 * created (0600). A full one blocks. The body is bare bytes, no framing; it may be empty. */

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

static size_t read_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(EXIT_FAILURE, "open %s", path);
    size_t length = 0;
    while (length < sizeof message.body) {
        ssize_t got = read(fd, message.body + length, sizeof message.body - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            err(EXIT_FAILURE, "read %s", path);
        if (got == 0)
            break;
        length += (size_t)got;
    }
    if (length == sizeof message.body)
        errx(EXIT_FAILURE, "%s is too large for a message", path);
    close(fd);
    return length;
}

int main(int argc, char *argv[])
{
    if (argc < 4)
        errx(2, "usage: sysv_send KEY MTYPE FILE...");
    key_t key = parse_key(argv[1]);
    message.mtype = parse_number(argv[2], 1, LONG_MAX, "a message type (1 or more)");

    int queue = msgget(key, IPC_CREAT | 0600);
    if (queue < 0)
        err(EXIT_FAILURE, "msgget");
    for (int i = 3; i < argc; i++) {
        size_t length = read_file(argv[i]);
        while (msgsnd(queue, &message, length, 0) < 0)
            if (errno != EINTR)
                err(EXIT_FAILURE, "msgsnd of %zu bytes (/proc/sys/kernel/msgmax is the limit)",
                    length);
    }
    return EXIT_SUCCESS;
}
