/* When a process began, by which one is told from a later one with the same pid.
 *
 * In ticks since boot, field 22 of /proc/PID/stat (proc_pid_stat(5)). Field 1 is the pid as that
 * /proc sees it: where /proc is of another pid namespace than the process, its pids and so its
 * numbers are of others, and nothing is told by them.
 */

#ifndef KIN_START_TIME_H
#define KIN_START_TIME_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 0 when it can't be read, or is of another than `pid`. */
static inline uint64_t
kin_start_time(const char *path, uint32_t pid)
{
    char text[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (length <= 0)
        return 0;
    text[length] = 0;
    const char *field = strrchr(text, ')'); /* the name, field 2, may hold anything */
    if (field == NULL || strtoul(text, NULL, 10) != pid)
        return 0;
    for (int number = 2; number < 22 && field != NULL; number++)
        field = strchr(field + 1, ' ');
    return field == NULL ? 0 : strtoull(field + 1, NULL, 10);
}

static inline uint64_t
kin_own_start(void)
{
    return kin_start_time("/proc/self/stat", (uint32_t)getpid());
}

/* Whether the process with this pid began at another time. False where that can't be known. */
static inline bool
kin_is_another(uint32_t pid, uint64_t start)
{
    char path[32];
    if (start == 0)
        return false;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    uint64_t found = kin_start_time(path, pid);
    return found != 0 && found != start && kin_own_start() != 0;
}

#endif
