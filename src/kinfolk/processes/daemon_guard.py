"""The guard of a daemon that is not ready yet: its parent, which sees it become ready, fail, die or take too long.

What it does when is in `kinfolk.processes.daemon_birth`. It waits by poll(2) itself and not by `kinfolk.waiting`: it is to have no
more state and descriptors than it needs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable

from kinfolk.deadlines import Deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import Timeout
from kinfolk.processes.daemon_line import Failed, Ready, hear
from kinfolk.processes.exit_status import ExitStatus

#: Seconds that a daemon has for its end once it has said that it failed, then on SIGTERM; then SIGKILL.
GRACE = 5.0

#: What the original exits with when the daemon was not ready in time, like timeout(1).
TOO_LATE = 124

#: `Sign.look` of a daemon that has no log.
NO_LOG = "give it a log by log= or --log to see why"


class Sign:
    """What says that a daemon is ready, besides its own word on the line: here nothing does."""

    #: readable when there is something to see
    fd: int | None = None
    #: it is ready when it has lived for so many seconds since its execve
    settle: float | None = None
    #: what to do when it is late
    remedy: str = ""
    #: where to look for the reason
    look: str = "see its log"

    def seen(self) -> bool:
        """Whether the sign was given; reads what there is."""
        return False


class CalledOff(Exception):
    """The original has gone; the daemon was ended."""


class Guard:
    """Watches over one child."""

    def __init__(
        self, pid: int, above: Descriptor, below: Descriptor, sign: Sign, deadline: Deadline
    ) -> None:
        """``above`` is the line to the original, of which the end matters; on ``below`` the daemon speaks."""
        self._pid, self._pidfd = pid, os.pidfd_open(pid)
        self._above, self._below = above, below
        self._sign, self._deadline = sign, deadline
        self._said: Ready | Failed | None = None
        self._own_word = False
        self._settling: Deadline | None = None
        self._looks: dict[int, Callable[[], None]] = {below.fileno(): self._hear}
        if sign.fd is not None:
            self._looks[sign.fd] = self._see

    def outcome(self) -> Ready | Failed:
        """Wait for it. A daemon that failed has ended by then and is reaped. Raises CalledOff."""
        while True:
            limit = self._next()
            ready = self._wait(limit)
            for fd in [fd for fd in ready if fd in self._looks]:
                self._looks[fd]()
            if (
                self._pidfd in ready
            ):  # its last words were, too: poll looks at them later than at this
                return self._ended(reap(self._pid))
            if self._above.fileno() in ready:
                self._end()
                raise CalledOff
            if self._said is None and limit.passed():
                self._said = Ready() if limit is self._settling else self._too_late()
            if self._said is not None:
                if isinstance(self._said, Failed):
                    self._end(by_itself=self._own_word)
                return self._said

    def _next(self) -> Deadline:
        """What comes first: that it has lived for long enough, or that it is too late."""
        settling, last = self._settling, self._deadline
        if settling is None or settling.at is None:
            return last
        return settling if last.at is None or settling.at <= last.at else last

    def _wait(self, limit: Deadline) -> list[int]:
        poll = select.poll()
        poll.register(self._above.fileno(), 0)  # a hang-up
        for fd in (self._pidfd, *self._looks):
            poll.register(fd, select.POLLIN)
        return [fd for fd, _ in poll.poll(limit.milliseconds())]

    def _hear(self) -> None:
        message = hear(self._below)
        if isinstance(message, Ready | Failed):
            self._said, self._own_word = self._said or message, True
            return
        # The end of the line is an execve, or the end of the process, of which the pidfd tells.
        del self._looks[self._below.fileno()]
        if self._sign.settle is not None:
            self._settling = Deadline(self._sign.settle)

    def _see(self) -> None:
        if self._sign.seen():
            self._said = self._said or Ready()

    def _ended(self, status: ExitStatus) -> Failed:
        if isinstance(self._said, Failed):
            return self._said
        when = "before it was ready" if self._said is None else "as soon as it was ready"
        remedy = self._sign.look
        if status.success:
            remedy = "it has to stay in the foreground: it need not become a daemon itself"
        return Failed(
            "SystemProblem",
            f"the daemon ended {when}",
            why=str(status),
            remedy=remedy,
            code=status.shell_code or 1,
        )

    def _too_late(self) -> Failed:
        why = f"it was not ready within {self._deadline.timeout:g} s, and was ended"
        error = Timeout(
            "the daemon did not start", why=why, remedy=f"{self._sign.remedy}; {self._sign.look}"
        )
        return Failed.by(error, TOO_LATE)

    def _end(self, *, by_itself: bool = False) -> None:
        """End the daemon and its group, and reap it. One that ends ``by_itself`` is left to its clean-up before."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if by_itself:
            poll.register(self._above.fileno(), 0)  # nobody waits for it any more
            poll.poll(GRACE * 1000)
            poll.unregister(self._above.fileno())
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        if not poll.poll(GRACE * 1000):
            self._signal(signal.SIGKILL)
        reap(self._pid)

    def _signal(self, number: signal.Signals) -> None:
        # Nobody else has its number, for it was not reaped. It may have no group of its own yet.
        for send in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self._pid, number)
                return


def reap(pid: int) -> ExitStatus:
    """Wait for the end of a child."""
    try:
        return ExitStatus.from_wait(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return ExitStatus.unknown("somebody else has collected it, or SIGCHLD is ignored")
