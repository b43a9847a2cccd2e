/* What a keeper says to its owner: one packet a reply, with a new child its pidfd and status pipe.
 *
 *     Started + pidfd, read end of the pipe (+ credentials, for an owner in another pid namespace)
 *     Failed, Refused
 *
 * Rules:
 * 1. No owner, no answer: a line that nobody reads any more is no error.
 * 2. An owner outside of this pid namespace is told the pid by the kernel, as it is for him.
 */

#include "keeper_reply.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int
kin_keeper_reply(const struct kin_keeper *keeper, const struct kin_wire_reply *bytes,
                 const int *descriptors, size_t count, pid_t about)
{
    enum { MOST = 2 };
    _Alignas(struct cmsghdr) char
        beside[CMSG_SPACE(MOST * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec data = {(void *)(uintptr_t)bytes->bytes, bytes->size};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = beside;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(rights), descriptors, count * sizeof(int));
        if (keeper->vouches) {
            /* Another's takes CAP_SYS_ADMIN in the namespace, which its first process has. */
            const struct ucred who = {about, geteuid(), getegid()};
            message.msg_controllen += CMSG_SPACE(sizeof who);
            struct cmsghdr *credentials = CMSG_NXTHDR(&message, rights);
            credentials->cmsg_level = SOL_SOCKET;
            credentials->cmsg_type = SCM_CREDENTIALS;
            credentials->cmsg_len = CMSG_LEN(sizeof who);
            memcpy(CMSG_DATA(credentials), &who, sizeof who);
        }
    }
    ssize_t sent;
    do
        sent = sendmsg(keeper->line, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 && errno != EPIPE && errno != ECONNRESET ? errno : 0;
}

void
kin_keeper_refuse(const struct kin_keeper *keeper, uint64_t number, int error)
{
    struct kin_wire_reply refused;
    kin_wire_refused(&refused, number, error);
    kin_keeper_reply(keeper, &refused, NULL, 0, 0);
}

int
kin_keeper_introduce(const struct kin_keeper *keeper, uint64_t number, pid_t pid, int reader)
{
    struct kin_wire_reply started;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return errno;
    kin_wire_started(&started, number, pid);
    int error = kin_keeper_reply(keeper, &started, (const int[]){pidfd, reader}, 2, pid);
    close(pidfd);
    return error;
}
