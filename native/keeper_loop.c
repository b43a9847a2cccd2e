/* The keeper's loop: what it does for every program, without Python.
 *
 *     owner ── StartProgram ──> vfork, execve; pidfd_open ── Started, pidfd, pipe ──> owner
 *                                       │ SIGCHLD
 *     owner <── status pipe ── record ──┴ wait4
 *
 * It sleeps in poll(2) over the owner's pidfd, the signalfd, the line and the anchor's pidfd. Any
 * other request is handed to the caller (keeper.py), who goes on with the loop afterwards.
 *
 * Why in C: the owner waits for every step of a start, and the interpreter of a process that has
 * slept runs it on cold caches, which took as long as the start itself.
 *
 * Rules (those of keeper.py stand at its head):
 * 1. One thread, the main one: programs get the death signal when it ends.
 * 2. The owner's death comes before anything else that is ready; ends come before requests.
 * 3. A request is answered once (keeper_reply.c), before the next one is read.
 * 4. Either the owner has got a child with pidfd and pipe, or it is killed.
 * 5. A change is told only where the pipe keeps room for the end.
 * 6. Before a child goes into the owner's group the anchor (anchor.c) stands there; it leaves when
 *    no child is left.
 */

#include "keeper_loop.h"

#include "keeper_reply.h"
#include "keeper_wire.h"
#include "launch_block.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct kin_keeper_child {
    pid_t pid;
    int report; /* the write end of its status pipe; -1 once it was closed */
    uint64_t number; /* of the request */
    struct kin_keeper_child *next;
};

void
kin_keeper_init(struct kin_keeper *keeper)
{
    kin_one_cpu_init(&keeper->cpus);
    kin_anchor_init(&keeper->anchor);
}

/* ------------------------------------------------------------------------------ the children */

static struct kin_keeper_child **
row_of(struct kin_keeper *keeper, pid_t pid)
{
    return &keeper->children[(unsigned)pid % KIN_KEEPER_ROWS];
}

/* What points to it, or to the NULL where it would be. */
static struct kin_keeper_child **
find(struct kin_keeper *keeper, pid_t pid)
{
    struct kin_keeper_child **at = row_of(keeper, pid);
    while (*at != NULL && (*at)->pid != pid)
        at = &(*at)->next;
    return at;
}

pid_t
kin_keeper_child_of(const struct kin_keeper *keeper, uint64_t number)
{
    for (int row = 0; row < KIN_KEEPER_ROWS; row++)
        for (const struct kin_keeper_child *each = keeper->children[row]; each; each = each->next)
            if (each->number == number)
                return each->pid;
    return 0;
}

static void
close_report(struct kin_keeper_child *child)
{
    if (child->report >= 0)
        close(child->report);
    child->report = -1;
}

void
kin_keeper_close_own(struct kin_keeper *keeper)
{
    kin_anchor_look_away(&keeper->anchor);
    for (int row = 0; row < KIN_KEEPER_ROWS; row++)
        for (struct kin_keeper_child *each = keeper->children[row]; each; each = each->next)
            close_report(each);
}

void
kin_keeper_release(struct kin_keeper *keeper)
{
    for (int row = 0; row < KIN_KEEPER_ROWS; row++)
        for (struct kin_keeper_child *each; (each = keeper->children[row]) != NULL;) {
            keeper->children[row] = each->next;
            free(each);
        }
}

/* --------------------------------------------------------------------------------- starting */

void
kin_keeper_hand_over(struct kin_keeper *keeper, uint64_t number, pid_t pid, int reader, int report)
{
    struct kin_keeper_child *child = malloc(sizeof *child);
    int error = child == NULL ? ENOMEM : kin_keeper_introduce(keeper, number, pid, reader);
    if (error != 0) {
        kill(pid, SIGKILL); /* nobody has reaped it, so the number is its own */
        kin_keeper_refuse(keeper, number, error);
    }
    if (child == NULL) {
        close(report);
        return;
    }
    struct kin_keeper_child **row = row_of(keeper, pid);
    *child = (struct kin_keeper_child){pid, report, number, *row};
    *row = child;
}

void
kin_keeper_expect(struct kin_keeper *keeper, int process_group)
{
    if (process_group > 0 && process_group == getpgid(getppid())) /* the owner's */
        kin_anchor_enter(&keeper->anchor, process_group);
}

/* As kin_spawn. */
static pid_t
start(struct kin_keeper *keeper, const struct kin_spawn *plan, struct kin_spawn_failure *failure)
{
    kin_keeper_expect(keeper, plan->process_group);
    bool bound = kin_one_cpu_stay(&keeper->cpus);
    struct kin_spawn here = *plan;
    if (bound) {
        here.cpus = KIN_EVERY_CPU;
        here.cpus_size = sizeof KIN_EVERY_CPU;
    }
    pid_t pid = kin_spawn(&here, failure);
    /* The anchor may have taken the last process that this user may have. */
    if (pid < 0 && failure->step == KIN_SPAWN_VFORK && kin_anchor_end(&keeper->anchor))
        pid = kin_spawn(&here, failure);
    if (bound)
        kin_one_cpu_leave();
    return pid;
}

void
kin_keeper_start_program(struct kin_keeper *keeper, uint64_t number, const unsigned char *block,
                         size_t size, const int *descriptors, size_t descriptor_count)
{
    struct kin_block_plan read;
    struct kin_spawn_failure failure;
    int ends[2];
    int error = kin_block_read(&read, block, size, descriptors, descriptor_count);
    if (error == 0 && pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        error = errno;
    if (error != 0) {
        kin_keeper_refuse(keeper, number, error);
    } else {
        read.plan.death_signal = keeper->death_signal;
        pid_t pid = start(keeper, &read.plan, &failure);
        if (pid < 0) {
            struct kin_wire_reply failed;
            const char *step = kin_spawn_step_name(failure.step);
            kin_wire_failed(&failed, number, step, failure.error, failure.item);
            close(ends[1]);
            kin_keeper_reply(keeper, &failed, NULL, 0, 0);
        } else {
            kin_keeper_hand_over(keeper, number, pid, ends[0], ends[1]);
        }
        close(ends[0]);
    }
    kin_block_release(&read);
}

/* ---------------------------------------------------------------------------------- reaping */

/* Failures are the reader's loss: he has gone, or does not read. */
static void
record(int report, enum kin_wire_kind kind, int word, const struct rusage *usage)
{
    struct kin_wire_record bytes;
    kin_wire_record(&bytes, kind, word, usage);
    while (write(report, &bytes, sizeof bytes) < 0 && errno == EINTR)
        ;
}

static bool
has_room(int report)
{
    enum { ENOUGH = 8 }; /* records */
    int unread = 0;
    return ioctl(report, FIONREAD, &unread) < 0 ||
           (size_t)unread < ENOUGH * sizeof(struct kin_wire_record);
}

static void
tell(struct kin_keeper *keeper, pid_t pid, int word, const struct rusage *usage)
{
    struct kin_keeper_child **at = find(keeper, pid), *child = *at;
    if (child == NULL) /* an orphan */
        return;
    if (WIFEXITED(word) || WIFSIGNALED(word)) {
        if (child->report >= 0)
            record(child->report, KIN_WIRE_ENDED, word, usage);
        close_report(child);
        *at = child->next;
        free(child);
    } else if (child->report >= 0 && has_room(child->report)) {
        record(child->report, KIN_WIRE_CHANGED, word, NULL);
    }
}

/* Whether there are children that have not changed; the anchor is none of them. */
static bool
reap_all(struct kin_keeper *keeper)
{
    for (;;) {
        int word;
        struct rusage usage;
        pid_t pid = wait4(-1, &word, WNOHANG | WUNTRACED | WCONTINUED, &usage);
        if (pid > 0)
            tell(keeper, pid, word, &usage);
        else if (pid == 0 || errno != EINTR)
            return pid == 0;
    }
}

bool
kin_keeper_reap(struct kin_keeper *keeper)
{
    struct signalfd_siginfo unused[2]; /* one for the thread, one for the process, at most */
    reap_all(keeper);                  /* first, for somebody waits */
    ssize_t read_or_not = read(keeper->ended, unused, sizeof unused);
    (void)read_or_not; /* there may be nothing */
    /* What had ended before the read, and is not signalled again. */
    bool is_left = reap_all(keeper);
    if (!is_left)
        kin_anchor_leave(&keeper->anchor);
    return is_left;
}

void
kin_keeper_forget_lost(struct kin_keeper *keeper)
{
    for (int row = 0; row < KIN_KEEPER_ROWS; row++)
        for (struct kin_keeper_child **at = &keeper->children[row], *each; (each = *at) != NULL;) {
            siginfo_t unused;
            if (waitid(P_PID, (id_t)each->pid, &unused, WEXITED | WNOHANG | WNOWAIT) == 0 ||
                errno != ECHILD) {
                at = &each->next;
                continue;
            }
            close_report(each);
            *at = each->next;
            free(each);
        }
}

/* --------------------------------------------------------------------------------- the loop */

static void
take_descriptors(struct msghdr *message, struct kin_keeper_request *request)
{
    request->descriptor_count = 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(message); each; each = CMSG_NXTHDR(message, each))
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS) {
            size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            size_t at = request->descriptor_count;
            memcpy(request->descriptors + at, CMSG_DATA(each), count * sizeof(int));
            request->descriptor_count += count; /* `receive` lets no more in than there is room */
        }
}

/* As recvmsg(2). */
static ssize_t
receive(const struct kin_keeper *keeper, struct kin_keeper_request *request)
{
    _Alignas(struct cmsghdr) char beside[CMSG_SPACE(KIN_KEEPER_DESCRIPTORS * sizeof(int))];
    struct iovec data = {request->packet, sizeof request->packet};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = beside,
        .msg_controllen = CMSG_LEN(KIN_KEEPER_DESCRIPTORS * sizeof(int)),
    };
    ssize_t size = recvmsg(keeper->line, &message, MSG_CMSG_CLOEXEC);
    if (size < 0)
        return size;
    request->size = (size_t)size;
    request->truncated = (message.msg_flags & MSG_CTRUNC) != 0;
    take_descriptors(&message, request);
    return size;
}

/* Starts the program if it is a request for one, or says why not. */
static bool
serve(struct kin_keeper *keeper, struct kin_keeper_request *request)
{
    uint64_t number;
    const unsigned char *block;
    size_t size;
    if (!kin_wire_is_program(request->packet, request->size, &number, &block, &size))
        return false;
    if (request->truncated)
        kin_keeper_refuse(keeper, number, EMFILE);
    else
        kin_keeper_start_program(keeper, number, block, size, request->descriptors,
                                 request->descriptor_count);
    for (size_t i = 0; i < request->descriptor_count; i++)
        close(request->descriptors[i]);
    return true;
}

static enum kin_keeper_event
trouble(void)
{
    return errno == EINTR ? KIN_KEEPER_INTERRUPTED : KIN_KEEPER_FAILED;
}

enum kin_keeper_event
kin_keeper_next(struct kin_keeper *keeper, struct kin_keeper_request *request)
{
    for (;;) {
        struct pollfd polled[] = {
            {.fd = keeper->owner, .events = POLLIN},
            {.fd = keeper->ended, .events = POLLIN},
            {.fd = keeper->alone ? -1 : keeper->line, .events = POLLIN},
            {.fd = keeper->anchor.pidfd, .events = POLLIN},
        };
        if (poll(polled, sizeof polled / sizeof *polled, -1) < 0)
            return trouble();
        if (polled[0].revents != 0)
            return KIN_KEEPER_OVER;
        if (polled[1].revents != 0 && !kin_keeper_reap(keeper) && keeper->alone)
            return KIN_KEEPER_OVER;
        if (polled[3].revents != 0)
            kin_anchor_replace(&keeper->anchor);
        if (polled[2].revents == 0)
            continue;
        ssize_t size = receive(keeper, request);
        if (size > 0) {
            if (!serve(keeper, request))
                return KIN_KEEPER_REQUEST;
        } else if (size == 0 || errno == ECONNRESET) {
            /* The owner has executed another program. It lives, and so may what is below. */
            keeper->alone = true;
            if (!kin_keeper_reap(keeper))
                return KIN_KEEPER_OVER;
        } else {
            return trouble();
        }
    }
}
