/* posix_shm /NAME SIZE [TEXT]: shares text with other processes in POSIX shared memory.
 *
 * Beyond the source, which shows System V's kind only.
 *
 * A SIZE of 0 takes what is there; another one creates it (0600), fails when it exists, and gives it that
 * size by ftruncate, so without any space behind it, as most programs do. Prints the text that it finds,
 * and writes the TEXT in its place. */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static long parse_size(const char *text)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 0);
    if (errno != 0 || end == text || *end != '\0' || number < 0)
        errx(2, "%s is not a size", text);
    return number;
}

int main(int argc, char *argv[])
{
    if (argc < 3 || argc > 4)
        errx(2, "usage: posix_shm /NAME SIZE [TEXT]");
    long size = parse_size(argv[2]);
    int fd = shm_open(argv[1], size == 0 ? O_RDWR : O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        err(EXIT_FAILURE, "shm_open %s", argv[1]);
    if (size > 0 && ftruncate(fd, size) < 0)
        err(EXIT_FAILURE, "ftruncate");
    struct stat status;
    if (fstat(fd, &status) < 0)
        err(EXIT_FAILURE, "fstat");
    size_t length = (size_t)status.st_size;
    char *text = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (text == MAP_FAILED)
        err(EXIT_FAILURE, "mmap");
    close(fd);
    printf("%zu bytes: %.*s\n", length, (int)strnlen(text, length), text);
    if (argc == 4) {
        if (strlen(argv[3]) >= length)
            errx(EXIT_FAILURE, "the text is too long");
        strcpy(text, argv[3]);
    }
    return EXIT_SUCCESS;
}
