"""The kernel makes no more processes or threads: one error for all who ask it to.

fork(2), vfork(2), clone(2) and pthread_create(3) say EAGAIN when a limit is reached: of the user (RLIMIT_NPROC), of the
control group (pids.max), of the kernel (threads-max, pid_max). Threads count as processes in all of them.
"""

from __future__ import annotations

import errno
import os

from kinfolk.errors import KinfolkError, LimitReached, from_os_error


def refused(code: int, what: str, subject: str = "") -> KinfolkError:
    """The error for ``what`` could not be started, whose errno is ``code``.

    LimitReached; with 0, which says nothing (Python 3.11 runs handlers at fork before it looks at errno), as with EAGAIN.
    """
    if code not in (0, errno.EAGAIN):
        return from_os_error(OSError(code, os.strerror(code)), what, subject)
    return LimitReached(
        what,
        subject=subject,
        why="there are too many processes and threads",
        remedy="end some, or raise the limit: ulimit -u, pids.max of the cgroup",
        code=errno.EAGAIN,
    )
