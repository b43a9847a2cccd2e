"""Who a process is: its pid and its start time together, so that a recycled pid is never mistaken.

The start time is field 22 of /proc/PID/stat, in clock ticks since boot (proc_pid_stat(5)). What
the kernel vouches for about a peer is a `Peer`. Death is learned from a pidfd: it is readable as
soon as the process has ended, also while it is still an unreaped zombie (pidfd_open(2)).
"""

from __future__ import annotations

import errno
import os
import re
import select
from typing import NamedTuple

from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, from_os_error


class Peer(NamedTuple):
    """A process at the other end, as the kernel vouches for it (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Identity(NamedTuple):
    """A process that is not confused with a later one of the same pid."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The identity of a process of this host, None when it has gone."""
        started = start_time(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def own(cls) -> Identity:
        """The identity of the calling process."""
        pid = os.getpid()
        return cls(pid, start_time(pid) or 0)

    @classmethod
    def parse(cls, text: str) -> Identity:
        """The identity that ``str`` wrote: ``4711@123456``. Raises InvalidValue."""
        written = re.fullmatch(r"([1-9][0-9]{0,9})@([0-9]{1,19})", text, re.ASCII)
        if written is None:
            raise InvalidValue(
                f"{text!r} is no identity",
                remedy="write PID@START, the start time in clock ticks since boot, such as 4711@123456",
            )
        return cls(int(written[1]), int(written[2]))

    def __str__(self) -> str:
        """``4711@123456``: the pid, and the clock ticks since boot at which it started."""
        return f"{self.pid}@{self.start_time}"


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process started; None when it has gone. Raises LimitReached for want of a descriptor."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold spaces and parentheses of its own.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise from_os_error(error, "can't see when it started", f"process {pid}") from error


def open_pidfd(pid: int) -> int | None:
    """A pidfd of a process (close-on-exec), None when there is no process of that pid (any more); the number is the caller's.

    Raises OSError for what is not the process's death (EMFILE, …).
    """
    owned = owned_pidfd(pid)
    return None if owned is None else owned.detach()


def owned_pidfd(pid: int) -> Descriptor | None:
    """As `open_pidfd`, with an owner from the first moment on."""
    try:
        return Descriptor.opened(f"process {pid}", os.pidfd_open, pid)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # 0, or a thread's number
            return None
        raise


def is_dead(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended; an unreaped zombie is dead, a stopped one is not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
