/* Who sent a signal that a Python handler is called for. See signal_info.c. */

#ifndef KIN_SIGNAL_INFO_H
#define KIN_SIGNAL_INFO_H

#include <stdbool.h>

struct kin_signal_info {
    int code;         /* si_code of sigaction(2) */
    int pid;          /* si_pid */
    unsigned int uid; /* si_uid */
    int value;        /* si_int */
};

/* Puts a recorder before the handler that a signal has now, and forgets what was recorded.
 * 0, or an errno: EINVAL when there is no plain handler to put it before. */
int kin_signal_record(int signal_number);

/* The latest arrival since then; false when there was none. */
bool kin_signal_recorded(int signal_number, struct kin_signal_info *info);

/* In a forked child: lets go of what another thread was writing at the fork. */
void kin_signal_after_fork(void);

/* sigqueue(3) by pidfd: 0, or an errno. The flags are those of pidfd_send_signal(2). */
int kin_signal_queue(int pidfd, int signal_number, int value, unsigned int flags);

#endif
