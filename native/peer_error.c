/* What went wrong, for C programs: the errno of the ring and of the system as one of a few, and a sentence for each. */

#include <errno.h>

#include "peer_channel.h"

static const char *const TEXTS[] = {
    [KIN_OK] = "all is well",
    [KIN_TIMED_OUT] = "the time is up",
    [KIN_INTERRUPTED_CALL] = "a signal handler has run: call again",
    [KIN_END_OF_CHANNEL] = "every sender has gone, and all was received",
    [KIN_BROKEN_CHANNEL] = "every receiver has gone",
    [KIN_CLOSED] = "this end was closed by another thread",
    [KIN_TOO_BIG] = "the message will never fit: open the ring with a larger arena",
    [KIN_CORRUPT] = "the memory was overwritten, or is no ring: close it on all sides, and open it anew",
    [KIN_OTHER_KINFOLK] =
        "it was made by another version of kinfolk, before a reboot, or in another pid namespace",
    [KIN_UNTRUSTED] = "it is another user's, or others may write there: choose another name",
    [KIN_BAD_ADDRESS] =
        "this is no address of a ring, no size or no time: write ring:NAME, powers of two, "
        "and a deadline on CLOCK_MONOTONIC",
    [KIN_WRONG_END] = "this end does not do that, or the room is not its own, or not any more",
    [KIN_NO_SPACE] = "/dev/shm is full: remove what nobody needs there, or ask for a smaller arena",
    [KIN_LIMIT] = "no descriptor, thread, memory or row is left",
    [KIN_NOT_HERE] = "a ring takes Linux 5.16, and threads that glibc has started",
    [KIN_ACKNOWLEDGED] = "messages of this ring have to be acknowledged: receive them in Python",
    [KIN_SYSTEM] = "a system call failed: errno says why",
};

const char *
kin_error_text(enum kin_error error)
{
    return (unsigned)error < sizeof TEXTS / sizeof *TEXTS ? TEXTS[error] : "no error of kinfolk's";
}

enum kin_error
kin_peer_error(int error)
{
    switch (error) {
    case 0:
        return KIN_OK;
    case ETIMEDOUT:
        return KIN_TIMED_OUT;
    case EINTR:
        return KIN_INTERRUPTED_CALL;
    case EMSGSIZE:
        return KIN_TOO_BIG;
    case EBADMSG:
    case EILSEQ:
    case ENOTRECOVERABLE:
        return KIN_CORRUPT;
    case EXDEV:
        return KIN_OTHER_KINFOLK;
    case EACCES:
        return KIN_UNTRUSTED;
    case EINVAL:
        return KIN_BAD_ADDRESS;
    case ENOSPC:
        return KIN_NO_SPACE;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EUSERS:
    case ENOLCK:
        return KIN_LIMIT;
    case ENOTSUP:
        return KIN_NOT_HERE;
    default:
        errno = error;
        return KIN_SYSTEM;
    }
}
