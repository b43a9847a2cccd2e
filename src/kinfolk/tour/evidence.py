"""What the kernel says of a process, whosever child it is: a witness beside kinfolk's own word.

Rules:
1. A process is held by a pidfd, so that what is said and done is about it alone, and never about a later one of its number.
2. Who is watched does not outlive the block.
3. An orphan may be given to the very process that walks the tour (as PID 1, or a subreaper). Then that has to reap it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

from kinfolk.tour.processes import PATIENCE

#: Seconds between two looks at /proc for what the kernel announces to nobody but the parent.
_LOOK = 0.001


class Watched:
    """A process that somebody else may have started. Made by `watched`."""

    def __init__(self, pid: int, pidfd: int) -> None:
        """``pidfd`` is the caller's to close."""
        self.pid = pid
        self._pidfd = pidfd

    def ended(self, timeout: float) -> bool:
        """Whether it ends within ``timeout`` seconds; a zombie has ended."""
        return bool(select.select([self._pidfd], [], [], timeout)[0])

    def gone(self, timeout: float) -> bool:
        """Whether it is reaped within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            collect(self.pid)
            try:
                signal.pidfd_send_signal(self._pidfd, 0)
            except ProcessLookupError:
                return True
            except PermissionError:  # another user's by now
                return False
            if time.monotonic() > end:
                return False
            time.sleep(_LOOK)

    def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Watched]:
    """Watch a process that is there, if only as a zombie; who runs at the end of the block is killed."""
    pidfd = os.pidfd_open(pid)
    process = Watched(pid, pidfd)
    try:
        yield process
    finally:
        process.kill()
        process.ended(PATIENCE)
        collect(pid)
        os.close(pidfd)


def collect(pid: int) -> None:
    """Reap a process that has ended, if it is a child of this one by now."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def status_line(pid: int | str, name: str) -> str:
    """A line of /proc/PID/status, such as ``Umask``; empty where there is none."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    return lines.get(name, "").strip()


def kibibytes(text: str) -> int:
    """The number in ``1234 kB``, as /proc writes sizes; 0 where nothing is written."""
    return int(text.split(maxsplit=1)[0]) if text else 0


def segment_attachments(number: int) -> int:
    """How many are attached to a System V segment; -1 when there is none of that id (proc_sysvipc(5))."""
    with open("/proc/sysvipc/shm") as table:
        next(table)
        rows = (line.split() for line in table)
        return next((int(row[6]) for row in rows if int(row[1]) == number), -1)
