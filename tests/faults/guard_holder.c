/* Has the guard of an object in shared memory, and is stopped with it: guard_holder FILE
 *
 * It stops itself (SIGSTOP) when it has the guard. Who continues it has it release that, and end. Killed, it leaves the guard
 * to the kernel, as whoever dies with it. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mutex.h"
#include "sync_object.h"

int
main(int argc, char *argv[])
{
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    struct kin_object *object =
        mmap(NULL, sizeof *object, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct kin_mutex guard;
    if (object == MAP_FAILED || kin_mutex_bind(&guard, &object->guard) != KIN_SOUND)
        return 1;
    int error = kin_mutex_lock(&guard, NULL);
    if (error != 0 && error != EOWNERDEAD)
        return 1;
    raise(SIGSTOP);
    return kin_mutex_unlock(&guard) == 0 ? 0 : 1;
}
