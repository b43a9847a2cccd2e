"""Sending a signal to a process, to exactly the process that is meant, or to a group; with a value where one is given.

    pidfd_open(pid) ──> is that the one? (start time) ──> has it ended? ──> pidfd_send_signal

Rules:
1. A process is signalled through a pidfd alone: once that is open, the number may be given to somebody else, and nothing reaches
   him. Of an `Identity` the start time is compared after the pidfd was opened: whoever has the number then, and started when
   the identity did, had it before.
2. A process that has ended is not found, also while it is a zombie.
3. A real-time signal is always queued, with the value 0 if none is given: then the kernel refuses it when the receiver's queue is
   full (RLIMIT_SIGPENDING). Sent by kill(2) it would be merged in silence.
4. Never a number that kill(2) takes for several processes: 0, -1, and 1 as a group.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import signal as python
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from kinfolk import _native
from kinfolk.deadlines import Deadline
from kinfolk.errors import (
    AccessDenied,
    InvalidValue,
    KinfolkError,
    LimitReached,
    NotFound,
    Unsupported,
    from_os_error,
)
from kinfolk.identity import Identity, is_dead, open_pidfd, start_time
from kinfolk.interest import Steps
from kinfolk.rendezvous import NotYet, retry
from kinfolk.signal_table import Like, entry_of
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), since Linux 6.9
_EVERYBODY = 1  # killpg(1) would be kill(-1)


class Identified(Protocol):
    """Whatever knows which process it is, such as a `Process`."""

    @property
    def identity(self) -> Identity:
        """Pid and start time."""
        ...


class Group(NamedTuple):
    """A process group, by its number or by the identity of the process that leads it (setpgid(2))."""

    leader: int | Identity | Identified


Target = int | Identity | Identified | Group


def send(
    target: Target, signal: Like, value: int | None = None, *, timeout: float | None = 0
) -> None:
    """Send a signal to a pid, an `Identity`, a process, or a `Group`, with a value if one is given (a C int).

    An identity whose pid now belongs to another process is refused, and no signal is sent. Start times count hundredths of a
    second: only a pid given anew within the same one can't be told apart. A group by its leader's identity, and a value
    to a group, need Linux 6.9.

    When the receiver's queue of signals is full (`ulimit -i`), waits up to ``timeout`` seconds for room; 0 raises
    LimitReached. That can happen to real-time signals and to those with a value only. The receiver sees our
    pid and user id. Thread-safe. Raises NotFound, AccessDenied, LimitReached, Timeout, InvalidValue, Unsupported.
    pidfd_send_signal(2), sigqueue(3), killpg(3).
    """
    sending = _Sending(target, signal, value, timeout)
    run(sending.steps(), sending.turnstile, sending.deadline, sending.what)


async def asend(
    target: Target, signal: Like, value: int | None = None, *, timeout: float | None = 0
) -> None:
    """`send`, on asyncio. A cancelled one has not sent."""
    sending = _Sending(target, signal, value, timeout)
    await arun(sending.steps(), sending.turnstile, sending.deadline, sending.what)


class _Sending:
    """One call of send: whom, what."""

    def __init__(
        self, target: Target, signal: Like, value: int | None, timeout: float | None
    ) -> None:
        self.signal, self.name = entry_of(signal)[:2]
        self.value = _checked_value(value)
        self.deadline = Deadline(timeout)
        self.is_group = isinstance(target, Group)
        self.pid, self.identity = _whom(target.leader if isinstance(target, Group) else target)
        shown = self.pid if self.identity is None else self.identity
        self.subject = f"{'group' if self.is_group else 'process'} {shown}"
        self.what = f"{self.subject}: send {self.name}"
        self.turnstile = Turnstile(self.subject, lambda: None)

    def steps(self) -> Steps[None]:
        plain = self.value is None and self.identity is None and self.pid != _EVERYBODY
        if self.is_group and plain:
            with self._translated():
                os.killpg(self.pid, self.signal)
            return
        with self._pidfd() as pidfd, self._translated():
            yield from retry(lambda: self._attempt(pidfd))

    def _attempt(self, pidfd: int) -> None:
        flags = _PROCESS_GROUP if self.is_group else 0
        try:
            if self.value is None and not python.SIGRTMIN <= self.signal <= python.SIGRTMAX:
                python.pidfd_send_signal(pidfd, self.signal, None, flags)
            else:
                _native.queue_signal(pidfd, self.signal, self.value or 0, flags)
        except BlockingIOError:
            if self.deadline.timeout == 0:
                raise
            raise NotYet from None

    @contextlib.contextmanager
    def _pidfd(self) -> Iterator[int]:
        """One of the process that is meant, which has not ended. Raises NotFound."""
        with self._translated():
            pidfd = open_pidfd(self.pid)
        if pidfd is None:
            raise self._not_found("no process has this pid")
        try:
            if self.identity is not None:
                self._refuse_stranger(self.identity)
            if is_dead(pidfd) and not self.is_group:
                raise self._not_found("it has ended, and only waits for its parent to reap it")
            yield pidfd
        finally:
            os.close(pidfd)

    def _refuse_stranger(self, identity: Identity) -> None:
        with self._translated():
            started = start_time(self.pid)
        if started is None and os.path.exists(f"/proc/{os.getpid()}"):
            raise self._not_found("it has ended, or /proc hides it from this user (hidepid)")
        if started is None:
            raise Unsupported(
                self._failed,
                subject=self.subject,
                why="without /proc nobody can say whose the pid is now",
                remedy="mount /proc, or give the bare pid",
            )
        if started != identity.start_time:
            raise self._not_found("it has ended, and its pid belongs to another process now")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error) from error

    @property
    def _failed(self) -> str:
        return f"{self.name} can't be sent"

    def _not_found(self, why: str) -> NotFound:
        return NotFound(
            self._failed,
            subject=self.subject,
            why=why,
            remedy="see what runs, for example with ps -e",
            code=errno.ESRCH,
        )

    def _error(self, error: OSError) -> KinfolkError:
        match error.errno:
            case errno.ESRCH:
                return self._not_found(
                    "no process is in this group" if self.is_group else "it has ended"
                )
            case errno.EPERM:
                return AccessDenied(
                    self._failed,
                    subject=self.subject,
                    why=f"it is another user's, and this is user {os.geteuid()}",
                    remedy="send it as that user, or as root (CAP_KILL)",
                    code=errno.EPERM,
                )
            case errno.EAGAIN:
                return LimitReached(
                    self._failed,
                    subject=self.subject,
                    why="its queue of signals is full",
                    remedy="wait with timeout=, or raise the receiver's limit: ulimit -i",
                    code=errno.EAGAIN,
                )
            case errno.EINVAL if self.is_group:  # flags that the kernel does not know
                return Unsupported(
                    self._failed,
                    subject=self.subject,
                    why="this kernel has no such signals to groups (Linux 6.9 has)",
                    remedy="give the group's number, and no value",
                )
        return from_os_error(error, self._failed, self.subject)


def _checked_value(value: int | None) -> int | None:
    if value is not None and not (isinstance(value, int) and -(2**31) <= value < 2**31):
        raise InvalidValue(
            f"value {value!r} can't travel with a signal",
            why="it is a C int",
            remedy=f"give a whole number from {-(2**31)} to {2**31 - 1}, or use a channel",
        )
    return value


def _whom(target: int | Identity | Identified) -> tuple[int, Identity | None]:
    """The pid, and the identity if one is given."""
    if not isinstance(target, Identity):
        target = getattr(target, "identity", target)
    if isinstance(target, Identity):
        pid, identity = target.pid, target
    else:
        try:
            pid, identity = operator.index(target), None  # type: ignore[arg-type]
        except TypeError:
            raise InvalidValue(
                f"{target!r} is no process",
                remedy="give a pid, an Identity, a Process, or a Group",
            ) from None
    if not 0 < pid < 2**31 or isinstance(target, bool):
        raise InvalidValue(
            f"{pid} is no pid",
            why="kill(2) takes 0 and negative numbers for several processes" if pid <= 0 else "",
            remedy="give the pid of one process, or a Group",
        )
    return pid, identity
