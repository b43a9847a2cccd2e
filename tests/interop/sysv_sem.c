/* sysv_sem KEY N VALUE WORD...: takes from a System V set of N semaphores, and puts into it.
 *
 * Stands for the source's chapter on semaphores, which shows no program, and for its warning: a set is made by one call and
 * gets its values by another.
 *
 * KEY is a number (0x... for hexadecimal), PATH#PROJ, which goes through ftok, or id:N for a set that was made by
 * IPC_PRIVATE. The set is made (0600) if it is missing, and every semaphore gets the VALUE; otherwise this waits until
 * somebody has operated on it (sem_otime), as Stevens taught. Then the WORDs are done in their order:
 *
 *     I-K, I+K    takes K from semaphore I, puts K in; with a comma between several, all at once: 0-1,1+1
 *     undo        what follows is undone at the end (SEM_UNDO)
 *     say         prints the values       ready   prints "waiting"
 *     hear        waits for the end of standard input */

#include <err.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <unistd.h>

enum { MOST = 100 };

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static int set, n;
static short flags;

static long parse_number(const char *text, char **end, long least, long most, const char *what)
{
    char *here;
    errno = 0;
    long number = strtol(text, &here, 0);
    if (errno != 0 || here == text || (end == NULL && *here != '\0') || number < least ||
        number > most)
        errx(2, "%s is not %s", text, what);
    if (end != NULL)
        *end = here;
    return number;
}

static key_t parse_key(char *text)
{
    char *hash = strrchr(text, '#');
    if (hash == NULL)
        return (key_t)(uint32_t)parse_number(text, NULL, 1, UINT32_MAX, "a key");
    *hash = '\0';
    key_t key =
        ftok(text, (int)parse_number(hash + 1, NULL, 1, 255, "a project number (1 to 255)"));
    if (key == -1)
        err(EXIT_FAILURE, "ftok %s", text);
    return key;
}

static void find(char *text, long value)
{
    struct semid_ds status = {.sem_otime = 0};
    if (strncmp(text, "id:", 3) == 0) {
        set = (int)parse_number(text + 3, NULL, 0, INT_MAX, "an id");
        return;
    }
    key_t key = parse_key(text);
    set = semget(key, n, IPC_CREAT | IPC_EXCL | 0600);
    if (set >= 0) {
        unsigned short values[MOST];
        for (int i = 0; i < n; i++)
            values[i] = (unsigned short)value;
        struct sembuf stamp[] = {{0, 1, 0}, {0, -1, 0}};
        if (semctl(set, 0, SETALL, (union semun){.array = values}) < 0 || semop(set, stamp, 2) < 0)
            err(EXIT_FAILURE, "semctl");
        return;
    }
    if (errno != EEXIST || (set = semget(key, n, 0)) < 0)
        err(EXIT_FAILURE, "semget");
    while (status.sem_otime == 0) {
        if (semctl(set, 0, IPC_STAT, (union semun){.buf = &status}) < 0)
            err(EXIT_FAILURE, "semctl");
        sched_yield();
    }
}

static void operate(const char *word)
{
    struct sembuf operations[MOST];
    size_t count = 0;
    char *end = NULL;
    for (const char *next = word; count < MOST; next = end + 1) {
        struct sembuf *one = &operations[count++];
        one->sem_num = (unsigned short)parse_number(next, &end, 0, n - 1, "an operation");
        one->sem_op = (short)parse_number(end, &end, SHRT_MIN, SHRT_MAX, "an operation");
        one->sem_flg = flags;
        if (*end == '\0')
            break;
    }
    if (semop(set, operations, count) < 0)
        err(EXIT_FAILURE, "semop");
}

static void follow(const char *word)
{
    char ignored[100];
    unsigned short values[MOST];
    if (strcmp(word, "say") == 0) {
        if (semctl(set, 0, GETALL, (union semun){.array = values}) < 0)
            err(EXIT_FAILURE, "semctl");
        for (int i = 0; i < n; i++)
            printf("%d%c", values[i], i == n - 1 ? '\n' : ' ');
    } else if (strcmp(word, "undo") == 0)
        flags = SEM_UNDO;
    else if (strcmp(word, "ready") == 0)
        puts("waiting");
    else if (strcmp(word, "hear") == 0)
        while (read(STDIN_FILENO, ignored, sizeof ignored) > 0)
            ;
    else
        operate(word);
    fflush(stdout);
}

int main(int argc, char *argv[])
{
    if (argc < 4)
        errx(2, "usage: sysv_sem KEY N VALUE WORD...");
    n = (int)parse_number(argv[2], NULL, 1, MOST, "a number of semaphores");
    find(argv[1], parse_number(argv[3], NULL, 0, 32767, "a value"));
    for (int i = 4; i < argc; i++)
        follow(argv[i]);
    return EXIT_SUCCESS;
}
