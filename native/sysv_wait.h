/* Blocking in msgrcv(2) and msgsnd(2) so that other threads can end it. See sysv_wait.c. */

#ifndef KIN_SYSV_WAIT_H
#define KIN_SYSV_WAIT_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* One direction of one end: at most one thread blocks in it, any thread may wake it. */
struct kin_wait {
    pthread_mutex_t mutex;       /* guards all below; never held while blocking */
    pthread_cond_t acknowledged; /* `blocked` has become false */
    bool requested;              /* somebody wants the blocked thread, or the next one, back */
    bool blocked;                /* `thread` is in the system call, or about to enter it */
    pid_t thread;
    bool restarts; /* set once, before the first wait: its system call is one that SA_RESTART restarts (signal(7)) */
};

/* One stay of a thread in a system call. */
struct kin_stay {
    sigset_t mask; /* of the thread, as it was */
    bool timed;
    int timer;
};

/* A message as msgrcv and msgsnd want it: the type, then the text. */
struct kin_sysv_message {
    long type;
    char text[];
};

enum {
    KIN_WAIT_FOREVER = -1, /* as a timeout */
    KIN_WAIT_AGAIN = 0,    /* a message or room may be there, or a wake, a signal, the time */
    KIN_WAIT_DONE = 1,     /* the call itself took or sent a message, or got the lock */
};

/* 0, or an errno. Nothing is to be destroyed: it all lies in the struct, and a forked child could
 * not destroy a condition for which a thread of its parent waits. */
int kin_wait_init(struct kin_wait *wait);

/* Makes the thread that blocks return, or the next one that would. Returns once it has left the
 * system call: at once when nobody blocks, else usually within some microseconds. */
void kin_wait_wake(struct kin_wait *wait);

/* Makes sure that the signal interrupts: 0, or an errno. Every wait does it too. */
int kin_wait_prepare_signal(const struct kin_wait *wait);

/* Around a system call that blocks. KIN_WAIT_DONE: go into it, and then `leave`. KIN_WAIT_AGAIN: somebody called
 * kin_wait_wake already, or there is no time. Or -errno. */
int kin_wait_enter(struct kin_wait *wait, struct kin_stay *stay, int milliseconds);
void kin_wait_leave(struct kin_wait *wait, struct kin_stay *stay);

/* Waits for up to `milliseconds` until a message of `type` (as in msgrcv) is in the queue, and
 * leaves it there. Only one without any text can't be left: it is taken, *taken becomes its type,
 * and the result is KIN_WAIT_DONE. Else KIN_WAIT_AGAIN, or -errno. */
int kin_wait_for_message(struct kin_wait *wait, int queue, long type, int milliseconds,
                         long *taken);

/* Waits for up to `milliseconds` until there is room and sends. KIN_WAIT_DONE when the message is
 * in the queue; KIN_WAIT_AGAIN when it is not; or -errno. */
int kin_wait_to_send(struct kin_wait *wait, int queue, const struct kin_sysv_message *message,
                     size_t length, int milliseconds);

#endif
