"""How a process ended that somebody else has reaped: the kernel remembers it for who holds a pidfd (PIDFD_GET_INFO).

    dies ── a zombie: nobody is told but its parent ── reaped: the kernel remembers ──> `Orphaned.status`

ioctl_pidfd(2): struct pidfd_info, whose first version has 64 bytes; the status word is there since Linux 6.15, once
the process was reaped. Before 6.13 there is no such call.

Rules:
1. A kernel that remembers is asked until the process was reaped, however long that takes a busy parent.
2. Some parents never reap: a container's first process that is no init. Patience with the parents that this process's orphans get
   (one init, or one subreaper) ends when one orphan has waited for `_PATIENCE` seconds; after that each waits for `_LESS` alone,
   until one is reaped. Then its status is unknown.

Rejected: poll(2) for the hang-up that a pidfd shows once its process is reaped (Linux 6.9). It says no more than the question
itself, and the pidfd is closed by whichever thread has the status first.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from time import monotonic

from kinfolk.processes.exit_status import ExitStatus

#: _IOWR(0xFF, 11, struct pidfd_info)
_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11

#: mask, cgroupid; pid, tgid, ppid; ruid … fsgid; exit_code
_INFO = struct.Struct("=QQ3I8Ii")
_PIDFD_INFO_EXIT = 1 << 3


def remembered(pidfd: int) -> ExitStatus | None:
    """How a dead process ended; None as long as nobody has reaped it. Unknown where the kernel does not remember."""
    request = bytearray(_INFO.pack(_PIDFD_INFO_EXIT, *(0,) * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return ExitStatus.unknown(
                "its parent alone was told, and this kernel does not remember"
            )
        if error.errno == errno.ESRCH:  # before 6.15, or reaped before anybody had a pidfd
            return ExitStatus.unknown("its parent alone was told, and the kernel has forgotten")
        raise
    mask, *_, word = _INFO.unpack(request)
    return ExitStatus.from_wait(word) if mask & _PIDFD_INFO_EXIT else None


#: Seconds that whoever adopts an orphan has to reap it, before its status is unknown; and once he has let them pass.
_PATIENCE, _LESS = 10.0, 0.5


class _Adopter:
    """Who gets the orphans of this process: whether he reaps, as far as that is known."""

    reaps = True


class Orphaned:
    """A dead process whose parent has died as well, so that another one is to reap it."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = monotonic()

    def status(self, pidfd: int) -> ExitStatus | None:
        """How it ended; None as long as it is worth asking again."""
        status = remembered(pidfd)
        if status is not None:
            _Adopter.reaps = True
            return status
        if monotonic() - self._since <= (_PATIENCE if _Adopter.reaps else _LESS):
            return None
        _Adopter.reaps = False
        return ExitStatus.unknown("its keeper died, and who adopted it does not reap it")
