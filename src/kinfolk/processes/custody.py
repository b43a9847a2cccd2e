"""Who has a child in custody: the one place that collects its status.

    Process ──> Custody ──┬── Direct: a child of this process (direct.py)
                          └── a child of the keeper (keeping.py)

Rules:
1. A status is collected once, under the lock, and kept: whoever asks, and how often, gets the same one.
2. Whoever waits has a descriptor of his own, so any number of threads and tasks wait at a time (an event loop takes
   each number once only), and the original can be closed as soon as the status is known.
3. A signal goes through the pidfd, under the lock, and none once the status is known: no stranger gets it.
4. A copy in a forked child may do nothing: the process is no child of its.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from abc import ABC, abstractmethod
from typing import Literal, TypeVar

from kinfolk.deadlines import Deadline, deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import ForkedCopy, Timeout, from_os_error
from kinfolk.identity import Identity
from kinfolk.interest import Interest, Steps
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.signal_table import shown
from kinfolk.task_waiter import TaskWaiter
from kinfolk.thread_waiter import lend, take_back

T = TypeVar("T")

Containment = Literal["keeper", "direct", "kernel", "none"]

#: Seconds until another look at what ended and can't be collected yet: a debugger that traces it comes first (ptrace(2)).
TRACED = 0.01


class Custody(ABC):
    """One child. Thread-safe; a signal handler may use it too."""

    #: who ends it when its owner dies
    containment: Containment

    #: whether nobody has it who was to get it (handover.py)
    unheard = False

    def __init__(
        self, identity: Identity, pidfd: Descriptor, announcer: Descriptor | None = None
    ) -> None:
        """Take over a pidfd, and what becomes readable when the status is there, if that is not the pidfd."""
        self.pid = identity.pid
        self._identity = identity
        self._owner = os.getpid()
        self._pidfd = pidfd
        self._announcer = pidfd if announcer is None else announcer
        self._lock = threading.RLock()
        self._status: ExitStatus | None = None
        self._lent = False  # a number was given to the user
        self._waiting = 0  # threads and tasks

    # ── what each kind provides ──────────────────────────────────────────────────────────────

    @abstractmethod
    def _collect(self) -> ExitStatus | None:
        """The final status if it is there. Never blocks; called under the lock until it has given one."""

    @abstractmethod
    def abandon(self) -> None:
        """Nobody will ask any more: it is to be reaped unseen. For finalizers: takes no lock and never raises."""

    @abstractmethod
    def _change(self) -> ExitStatus | None:
        """That it stopped or went on since the last call. Never blocks; called under the lock while it lives."""

    @abstractmethod
    def signal_tree(self, number: int) -> None:
        """Send a signal to it and to everything below it. SIGKILL leaves nobody behind. Raises ForkedCopy."""

    @abstractmethod
    def members(self) -> list[int]:
        """The pids of it and of everything below it, or that was below it when a signal was sent, as far as they live."""

    def _close(self) -> None:
        """Give the descriptors back."""
        self._pidfd.close()
        if self._announcer is not self._pidfd:
            self._announcer.close()

    # ── what all have ────────────────────────────────────────────────────────────────────────

    @property
    def identity(self) -> Identity:
        """Who it is; looked up when first asked for, because that costs a tenth of a start."""
        if not self._identity.start_time and not self.is_a_copy:
            with self._lock:
                if not self.known:
                    found = Identity.of(self.pid)
                    if found is not None and self._is_unreaped():
                        self._identity = found
        return self._identity

    def _is_unreaped(self) -> bool:
        """Whether its number has been its own until now."""
        with contextlib.suppress(PermissionError):  # it runs a set-user-ID program
            try:
                signal.pidfd_send_signal(self._pidfd.fileno(), 0)
            except ProcessLookupError:
                return False
        return True

    @property
    def is_a_copy(self) -> bool:
        """Whether a fork made it: then the process is no child of this one."""
        return self._owner != os.getpid()

    def check_owner(self) -> None:
        """Raise ForkedCopy in a forked copy."""
        if self._owner != os.getpid():
            raise ForkedCopy(
                f"process {self.pid} is no child of this process",
                why=f"it is one of process {self._owner}, of which this is a forked copy",
                remedy="wait for it there, or start it here",
            )

    def collect(self) -> ExitStatus | None:
        """The final status, None while it lives. Never blocks. Raises ForkedCopy."""
        if self._status is None:
            self.check_owner()
            with self._lock:
                if self._status is None:
                    self._status = self._collect()
                    if self._status is not None and not self._lent:
                        self._close()
        return self._status

    @property
    def known(self) -> bool:
        """Whether the final status was collected here."""
        return self._status is not None

    def change(self) -> ExitStatus | None:
        """That it stopped or went on since this was last asked, or ended; else None. Never blocks."""
        self.check_owner()
        with self._lock:
            status = self.collect()
            return self._change() if status is None else status

    def ended(self) -> Steps[ExitStatus]:
        """The steps of waiting for its end."""
        if self._status is None:
            with self.watched() as interest:
                while self.collect() is None:
                    yield interest
                    if self.collect() is None:
                        yield Interest(again_in=TRACED)
        assert self._status is not None
        return self._status

    def watched(self) -> Watched:
        """An interest in its end, with a descriptor of the caller's own, for the length of a ``with`` block."""
        return Watched(self)

    def begin_wait(self) -> Descriptor | None:
        """A descriptor for one who waits, who calls `end_wait` afterwards; None when the status is known."""
        self.check_owner()
        with self._lock:
            if self._status is not None:
                return None
            try:
                own = self._announcer.duplicate()
            except OSError as error:
                raise from_os_error(error, f"can't wait for process {self.pid}") from error
            self._waiting += 1
            if self._waiting == 1:
                self._somebody_waits()
            return own

    def end_wait(self, own: Descriptor) -> None:
        """One who waited has the status, or gives up."""
        own.close()
        with self._lock:
            self._waiting -= 1
            if self._waiting == 0 and self._status is None:
                self._nobody_waits()

    def _somebody_waits(self) -> None:  # noqa: B027
        """Called under the lock, while it lives."""

    def _nobody_waits(self) -> None:  # noqa: B027
        """Called under the lock, when all who waited have given up."""

    def send(self, number: int) -> bool:
        """Send a signal (0: none, but look); whether there was somebody to get it.

        Raises AccessDenied, ForkedCopy.
        """
        self.check_owner()
        with self._lock:
            if self.collect() is not None:
                return False
            try:
                signal.pidfd_send_signal(self._pidfd.fileno(), number)
            except ProcessLookupError:
                return False
            except OSError as error:
                what = f"{shown(number)} can't be sent"
                remedy = "it runs a set-user-ID program or has changed its user: only that user or root may"
                raise from_os_error(error, what, f"process {self.pid}", remedy) from error
        return True

    def lend_announcer(self) -> int:
        """The number of what is readable when the status is there; it stays open as long as this object."""
        self.check_owner()
        with self._lock:
            if self.collect() is not None and self._announcer.closed:
                self._announcer = _always_readable()
            self._lent = True
            return self._announcer.fileno()

    def lend_pidfd(self) -> int:
        """The number of the pidfd, open as long as this object. Raises Closed once the status is known."""
        self.check_owner()
        with self._lock:
            self._lent = True
            return self._pidfd.fileno()

    def close(self) -> None:
        """Give back what was lent, once the status is known. Closing twice does nothing."""
        if self._status is not None or self.is_a_copy:
            self._close()


class Watched:
    """See `Custody.watched`. A class, for a generator takes twice as long, and every wait has one."""

    __slots__ = ("_custody", "_own")

    def __init__(self, custody: Custody) -> None:
        self._custody = custody
        self._own: Descriptor | None = None

    def __enter__(self) -> Interest:
        self._own = own = self._custody.begin_wait()
        return Interest(again_in=0) if own is None else Interest(readable=(own.fileno(),))

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._custody.end_wait(self._own)


def _always_readable() -> Descriptor:
    try:
        return Descriptor.opened(
            "an end that has come", os.eventfd, 1, os.EFD_CLOEXEC | os.EFD_NONBLOCK
        )
    except OSError as error:
        raise from_os_error(error, "no descriptor can be made") from error


# ── how its steps are run ────────────────────────────────────────────────────────────────────


def blocking(steps: Steps[T], timeout: float | None, what: str, subject: object = "") -> T:
    """Run steps in the calling thread. Raises Timeout (``subject``: ``what`` …), and what they raise.

    Not by `kinfolk.waiting.run`: here nobody stands in line, and nothing is closed under who waits.
    """
    due = deadline(timeout)
    try:
        while True:
            interest = next(steps)
            if due.at is not None and due.passed():
                raise _too_early(subject, what, due)
            waiter = lend()
            try:
                waiter.wait(interest, due, what)
            except Timeout:
                raise _too_early(subject, what, due) from None
            finally:
                take_back(waiter)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def awaiting(steps: Steps[T], timeout: float | None, what: str, subject: object = "") -> T:
    """`blocking`, in the current asyncio task."""
    due = deadline(timeout)
    try:
        while True:
            interest = next(steps)
            if due.passed():
                raise _too_early(subject, what, due)
            try:
                await TaskWaiter().wait(interest, due, what)
            except Timeout:
                raise _too_early(subject, what, due) from None
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _too_early(subject: object, what: str, due: Deadline) -> Timeout:
    why = f"not within {due.timeout:g} s"
    return Timeout(what, subject=str(subject), why=why, remedy="wait longer, or stop it")
