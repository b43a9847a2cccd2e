"""How a process ended that somebody else has reaped: the kernel remembers it for who holds a pidfd (PIDFD_GET_INFO).

ioctl_pidfd(2): struct pidfd_info, whose first version has 64 bytes; the status word is there since Linux 6.15, once
the process was reaped. Before 6.13 there is no such call.
"""

from __future__ import annotations

import errno
import fcntl
import struct

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
