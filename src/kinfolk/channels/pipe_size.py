"""How large a pipe is, and how it is made larger: what the kernel says of it."""

from __future__ import annotations

import errno
import fcntl

from kinfolk.channels.contract import Limits
from kinfolk.channels.framing import PIPE_BUF
from kinfolk.errors import LimitReached


def set_capacity(fd: int, capacity: int, subject: str) -> None:
    """F_SETPIPE_SZ. Raises LimitReached, naming the kernel's limit."""
    try:
        # fcntl would take the low 32 bits of a larger number
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, min(capacity, 2**32 - 1))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        with open("/proc/sys/fs/pipe-max-size", encoding="ascii") as file:
            largest = file.read().strip()
        raise LimitReached(
            f"the pipe can't be made {capacity} bytes large",
            subject=subject,
            why=f"this user may go up to {largest} for one pipe, and fs.pipe-user-pages-soft for all together",
            remedy=f"ask for less, or raise it: sysctl fs.pipe-max-size={capacity}",
            code=errno.EPERM,
        ) from error


def pipe_limits(
    mechanism: str, fd: int, max_message: int, senders: str, raw: bool, *, presence: bool = True
) -> Limits:
    """The limits of a pipe, its size read from the kernel."""
    capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    return Limits(
        mechanism,
        max_message=max_message,
        capacity=capacity,
        depth=None if raw else capacity // PIPE_BUF,
        senders=senders,
        receivers="one",
        presence=presence,
        empty_messages=not raw,
        notes=(
            "Whoever writes to it without O_DIRECT, as programs do that are not kinfolk's, may spoil a message of somebody"
            " else: the receiver gets CorruptChannel for it.",
            "A receiver learns of the death of a sending process when the kernel has torn it down: usually within"
            " 1 ms, later for a process of some GiB.",
        ),
    )
