/* posix_sem /NAME WORD...: takes from a POSIX semaphore that is shared with other processes, and puts into it.
 *
 * Stands for the source's chapter on semaphores, which shows no program.
 *
 *     make=N   sem_open with O_CREAT: made (0600) with the value N if it is missing; otherwise it has to be there
 *     wait     sem_wait          say    prints the value
 *     try      sem_trywait       ready  prints "waiting"
 *     post     sem_post          hear   waits for the end of standard input
 *
 * The WORDs are done in their order. With SHM:/NAME:OFFSET in the place of a name, it is a sem_t in POSIX shared memory, and
 * make=N is sem_init. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static long parse_number(const char *text, const char *what)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 0);
    if (errno != 0 || end == text || *end != '\0' || number < 0 || number > INT_MAX)
        errx(2, "%s is not %s", text, what);
    return number;
}

static sem_t *in_memory(char *name)
{
    char *colon = strrchr(name, ':');
    if (colon == NULL)
        errx(2, "%s is no SHM:/NAME:OFFSET", name);
    *colon = '\0';
    struct stat status;
    int fd = shm_open(name, O_RDWR, 0);
    if (fd < 0 || fstat(fd, &status) < 0)
        err(EXIT_FAILURE, "shm_open %s", name);
    char *memory = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        err(EXIT_FAILURE, "mmap");
    return (sem_t *)(void *)(memory + parse_number(colon + 1, "an offset"));
}

static void check(int result, const char *what)
{
    if (result < 0)
        err(EXIT_FAILURE, "%s", what);
}

static void follow(sem_t *semaphore, const char *word)
{
    int value;
    char ignored[100];
    if (strcmp(word, "wait") == 0)
        check(sem_wait(semaphore), "sem_wait");
    else if (strcmp(word, "try") == 0)
        check(sem_trywait(semaphore), "sem_trywait");
    else if (strcmp(word, "post") == 0)
        check(sem_post(semaphore), "sem_post");
    else if (strcmp(word, "say") == 0) {
        check(sem_getvalue(semaphore, &value), "sem_getvalue");
        printf("%d\n", value);
    } else if (strcmp(word, "ready") == 0)
        puts("waiting");
    else if (strcmp(word, "hear") == 0)
        while (read(STDIN_FILENO, ignored, sizeof ignored) > 0)
            ;
    else
        errx(2, "%s is no word", word);
    fflush(stdout);
}

int main(int argc, char *argv[])
{
    if (argc < 3)
        errx(2, "usage: posix_sem /NAME [make=N] WORD...");
    int first = 2;
    long value = -1;
    if (strncmp(argv[first], "make=", 5) == 0)
        value = parse_number(argv[first++] + 5, "a value");
    sem_t *semaphore;
    if (strncmp(argv[1], "SHM:", 4) == 0) {
        semaphore = in_memory(argv[1] + 4);
        if (value >= 0)
            check(sem_init(semaphore, 1, (unsigned)value), "sem_init");
    } else {
        semaphore = value < 0 ? sem_open(argv[1], 0)
                              : sem_open(argv[1], O_CREAT, 0600, (unsigned)value);
        if (semaphore == SEM_FAILED)
            err(EXIT_FAILURE, "sem_open %s", argv[1]);
    }
    for (int i = first; i < argc; i++)
        follow(semaphore, argv[i]);
    return EXIT_SUCCESS;
}
