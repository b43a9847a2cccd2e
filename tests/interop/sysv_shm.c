/* sysv_shm KEY SIZE [NAME [MODE]]: shares a record with other processes in a System V segment.
 *
 * Stands for the source's shmget and shmat, which it explains and does not put into a program.
 *
 * KEY is a number (0x... for hexadecimal), PATH#PROJ, which goes through ftok, or id:N for a segment that
 * was made by IPC_PRIVATE. A SIZE of 0 takes what is there, as the source says; another one creates the
 * segment (0600, or the MODE) if it is missing. Prints the record that it finds, counts it up, and gives it
 * the NAME. */

#include <err.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

struct record {
    int64_t count;
    char name[13];
    double position[3];
};

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

static int find(char *text, size_t size, int mode)
{
    if (strncmp(text, "id:", 3) == 0)
        return (int)parse_number(text + 3, 0, INT_MAX, "an id");
    int id = shmget(parse_key(text), size, size == 0 ? 0 : IPC_CREAT | mode);
    if (id < 0)
        err(EXIT_FAILURE, "shmget");
    return id;
}

int main(int argc, char *argv[])
{
    if (argc < 3 || argc > 5)
        errx(2, "usage: sysv_shm KEY SIZE [NAME [MODE]]");
    int mode = argc < 5 ? 0600 : (int)parse_number(argv[4], 0, 0777, "a mode");
    int id = find(argv[1], (size_t)parse_number(argv[2], 0, LONG_MAX, "a size"), mode);
    struct record *record = shmat(id, NULL, 0);
    if (record == (void *)-1)
        err(EXIT_FAILURE, "shmat");
    printf("count %lld name %.13s position %g %g %g\n", (long long)record->count, record->name,
           record->position[0], record->position[1], record->position[2]);
    record->count++;
    if (argc > 3)
        strncpy(record->name, argv[3], sizeof record->name - 1);
    for (int i = 0; i < 3; i++)
        record->position[i] += 0.5;
    if (shmdt(record) < 0)
        err(EXIT_FAILURE, "shmdt");
    return EXIT_SUCCESS;
}
