/* The descriptors of a child that is being started: the plan's in their places, the rest closed,
 * but for a copy that goes on using some of the rest.
 *
 *     a chain   3 -> 4 -> 5     from its free end: 4 becomes 5, then 3 becomes 4
 *     a cycle   3 -> 4 -> 3     one is moved away: 4 becomes 9, 3 becomes 4, 9 becomes 3
 *
 * Rules: those of spawn.c, for this is its child: system calls alone, nothing allocated, nothing
 * written but plan->descriptors.
 */

#include "spawn_descriptors.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The index of the descriptor that goes to this number, -1 if none does. */
static int
index_of_target(const struct kin_spawn *plan, int number)
{
    int low = 0, high = (int)plan->descriptor_count - 1;
    while (low <= high) {
        int middle = low + (high - low) / 2;
        int there = plan->descriptors[middle].there;
        if (there == number)
            return middle;
        if (there < number)
            low = middle + 1;
        else
            high = middle - 1;
    }
    return -1;
}

/* Whether a descriptor other than `except` still waits at this number. */
static bool
is_needed(const struct kin_spawn *plan, int number, int except)
{
    for (int i = 0; i < (int)plan->descriptor_count; i++)
        if (i != except && plan->descriptors[i].pending && plan->descriptors[i].here == number)
            return true;
    return false;
}

/* Puts a descriptor in its place if nobody waits there; then whoever wanted the number that this
 * has left, and so on. */
static int
place_chain(const struct kin_spawn *plan, int i)
{
    while (i >= 0 && plan->descriptors[i].pending) {
        struct kin_spawn_descriptor *descriptor = &plan->descriptors[i];
        if (is_needed(plan, descriptor->there, i))
            return -1;
        int result = descriptor->here == descriptor->there
                         ? fcntl(descriptor->here, F_SETFD, 0)
                         : dup2(descriptor->here, descriptor->there); /* not close-on-exec */
        if (result < 0)
            return i;
        descriptor->pending = false;
        i = index_of_target(plan, descriptor->here);
    }
    return -1;
}

/* Frees a number that is wanted: whoever waits there finds his descriptor elsewhere. */
static int
move_away(const struct kin_spawn *plan, int number)
{
    /* A free number, which nobody wants: where only cycles are left, all that are wanted are open. */
    int elsewhere = fcntl(number, F_DUPFD_CLOEXEC, 0);
    for (size_t i = 0; i < plan->descriptor_count; i++)
        if (plan->descriptors[i].pending && plan->descriptors[i].here == number)
            plan->descriptors[i].here = elsewhere;
    return elsewhere;
}

int
kin_spawn_arrange(const struct kin_spawn *plan)
{
    int count = (int)plan->descriptor_count, failed;
    for (int i = 0; i < count; i++) {
        plan->descriptors[i].pending = true;
        if (fcntl(plan->descriptors[i].here, F_GETFD) < 0)
            return i;
    }
    for (int i = 0; i < count; i++)
        if ((failed = place_chain(plan, i)) >= 0)
            return failed;
    for (int i = 0; i < count; i++)
        if (plan->descriptors[i].pending) {
            if (move_away(plan, plan->descriptors[i].there) < 0)
                return i;
            if ((failed = place_chain(plan, i)) >= 0)
                return failed;
        }
    return -1;
}

enum { MANY = 1 << 20 }; /* fs.nr_open, unless somebody has raised it */

struct entry { /* of getdents64(2) */
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* Where the kernel (before 5.9) or a sandbox has no close_range. readdir would allocate. */
static void
close_others_one_by_one(const struct kin_spawn *plan)
{
    _Alignas(struct entry) char buffer[1024];
    int directory = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/fd",
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        struct rlimit limit = {.rlim_cur = MANY};
        getrlimit(RLIMIT_NOFILE, &limit);
        for (int number = 0; number < MANY && (rlim_t)number < limit.rlim_cur; number++)
            if (index_of_target(plan, number) < 0)
                syscall(SYS_close, number);
        return;
    }
    long length;
    /* Closing while reading: procfs goes by number, so nothing is passed over. */
    while ((length = syscall(SYS_getdents64, directory, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < length;) {
            struct entry *entry = (struct entry *)(void *)(buffer + at);
            int number = 0;
            at += entry->length;
            if (entry->name[0] == '.')
                continue;
            for (const char *digit = entry->name; *digit != '\0'; digit++)
                number = number * 10 + (*digit - '0');
            if (number != directory && index_of_target(plan, number) < 0)
                syscall(SYS_close, number);
        }
    syscall(SYS_close, directory);
}

void
kin_spawn_close_others(const struct kin_spawn *plan)
{
    unsigned int from = 0;
    for (size_t i = 0; i <= plan->descriptor_count; i++) {
        bool last = i == plan->descriptor_count;
        unsigned int kept = last ? ~0U : (unsigned int)plan->descriptors[i].there;
        if (last || from < kept)
            if (syscall(SYS_close_range, from, last ? ~0U : kept - 1, 0) < 0) {
                close_others_one_by_one(plan);
                return;
            }
        from = kept + 1;
    }
}

void
kin_spawn_close_sources(const struct kin_spawn *plan)
{
    for (size_t i = 0; i < plan->descriptor_count; i++)
        if (index_of_target(plan, plan->descriptors[i].here) < 0) /* one may stand there twice */
            syscall(SYS_close, plan->descriptors[i].here);
}

int
kin_spawn_step_aside(const struct kin_spawn *plan, int fd)
{
    if (index_of_target(plan, fd) < 0)
        return fd;
    for (size_t i = 0; i < plan->descriptor_count; i++)
        if (plan->descriptors[i].here == fd) /* the plan's own */
            return fd;
    int last = plan->descriptors[plan->descriptor_count - 1].there;
    int aside = fcntl(fd, F_DUPFD_CLOEXEC, last + 1);
    if (aside >= 0)
        syscall(SYS_close, fd);
    return aside;
}
