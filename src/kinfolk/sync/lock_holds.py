"""One lock that somebody has on a file, or is about to get; and the kinds that belong to an open file description.

    ofd     F_OFD_SETLK    bytes of a file; conflicts with `posix`, of whatever program
    flock   flock(2)       the whole file; conflicts with flock(1), and with nothing else (but on NFS)

Rules:
1. Each hold has opened the file for itself. So to the kernel two threads are two, as two processes are, and wait for each other there; nothing is
   kept between two holds.
2. What is released is unlocked, and not only closed: a copy of the descriptor in a child that is just being forked would keep it.
3. What is dropped without `close` is closed with a ResourceWarning, as files are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import warnings
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from kinfolk import record_locks
from kinfolk._native import LockedFile
from kinfolk.errors import (
    AccessDenied,
    Deadlock,
    InvalidValue,
    KinfolkError,
    LimitReached,
    Unsupported,
    from_os_error,
    is_bare,
)
from kinfolk.interest import Interest
from kinfolk.sync import lock_table
from kinfolk.sync.lock_owner import Owner, stops

_BY_FLOCK = -1  # KIN_BY_FLOCK of native/file_lock.h
#: The end of what reaches to the end of the file, wherever that will be.
END = 2**63


class Span(NamedTuple):
    """Bytes of a file, as fcntl(2) counts them."""

    start: int
    length: int  # 0: to the end

    @property
    def end(self) -> int:
        """The first byte after them."""
        return self.start + self.length if self.length else END

    def overlaps(self, other: Span) -> bool:
        """Whether they have a byte in common."""
        return self.start < other.end and other.start < self.end


def span(start: int, length: int | None, subject: str) -> Span:
    """``length`` bytes from ``start`` on, None for all that follow. Raises InvalidValue."""
    whole = isinstance(start, int) and (length is None or isinstance(length, int))
    most = min(END - start, END - 1) if whole else 0  # the kernel takes no length of 2^63
    if not whole or not 0 <= start < END or not (length is None or 0 < length <= most):
        raise InvalidValue(
            "there are no such bytes",
            subject=subject,
            why=f"start={start!r}, length={length!r}",
            remedy="give whole numbers: start from 0 on, a length of 1 or more, or None for all that follow",
        )
    return Span(start, length or 0)


class Hold(ABC):
    """A lock of one owner on a file of its own opening. One thread at a time."""

    #: holds of different families never conflict
    family: ClassVar[str]
    #: whether it is opened for writing in order to be exclusive
    writes: ClassVar[bool]

    def __init__(
        self, file: LockedFile, span: Span, owner: Owner, subject: str, *, shared: bool
    ) -> None:
        """Take over a file that is open; nothing is locked yet."""
        status = os.fstat(file.fileno())
        self.inode = status.st_dev, status.st_ino
        self.span, self.owner, self.shared = span, owner, shared
        self.locked = False
        #: a copy in a forked child: the parent has it
        self.forked = False
        self._subject = subject
        self._wait: _Wait | None = None
        self._file: LockedFile | None = file
        lock_table.add(self)

    def fileno(self) -> int:
        """The descriptor that the lock hangs on."""
        return -1 if self._file is None else self._file.fileno()

    def attempt(self) -> Interest | None:
        """Lock; or what to wait for before the next attempt. Raises Deadlock, Unsupported, LimitReached, AccessDenied."""
        try:
            if self._set(fcntl.F_RDLCK if self.shared else fcntl.F_WRLCK):
                self.locked = True
                return None
        except OSError as error:
            raise refused(error, self._subject) from error
        return self._blocked()

    def _blocked(self) -> Interest:
        self._refuse_to_wait_for_itself()
        if self._wait is None and self._file is not None:
            self._wait = _Wait(self._file, self.blocking(), self._subject)
        return Interest(call=self._wait)

    def _refuse_to_wait_for_itself(self) -> None:
        for other in lock_table.everything():
            if (
                isinstance(other, Hold)
                and other.locked
                and self.conflicts(other)
                and stops(self.owner, other.owner)
            ):
                raise Deadlock(
                    f"{other.owner} has locked it already",
                    subject=self._subject,
                    why="by another FileLock, and would wait for itself for ever",
                    remedy="release that one first",
                )

    def conflicts(self, other: Hold) -> bool:
        """Whether only one of the two can be locked."""
        return (
            other is not self
            and self.inode == other.inode
            and self.family == other.family
            and not (self.shared and other.shared)
            and self.span.overlaps(other.span)
        )

    @abstractmethod
    def _set(self, kind: int) -> bool:
        """F_RDLCK, F_WRLCK or F_UNLCK, at once; False when others stand against it. Raises OSError."""

    @abstractmethod
    def blocking(self) -> tuple[int, int, int, int]:
        """What `LockedFile.wait` is called with: the command, the kind, start and length."""

    def blocker(self) -> int | None:
        """The pid of a process that stands against it, None where the kernel does not say. Raises OSError."""
        return None

    def downgrade(self) -> None:
        """Exclusive becomes shared, without a moment in between. Raises Unsupported."""
        try:
            self._set(fcntl.F_RDLCK)
        except OSError as error:
            raise refused(error, self._subject) from error
        self.shared = True

    def check(self) -> None:
        """Raise NotOwner when the lock was lost under its owner's hands. An open file description loses none."""
        return

    def close(self) -> None:
        """Unlock and close. Closing twice does nothing; what an exception of a signal handler interrupts is done when this is dropped."""
        file, self.locked = self._file, False
        if file is not None:
            if file.fileno() >= 0:
                self._unlock()
            lock_table.close(file, self.inode)
            self._file = self._wait = None

    def _unlock(self) -> None:
        try:
            self._set(fcntl.F_UNLCK)
        except OSError:  # closing does it too
            return

    def after_fork_in_child(self) -> None:
        """Let go of the copy, which would keep the lock."""
        if self._file is not None:
            self._file.close()
            self._file = self._wait = None
            self.forked, self.locked = True, False

    def __del__(self) -> None:
        if getattr(self, "_file", None) is None or sys.is_finalizing():
            return
        try:
            if self.locked:
                what = f"unreleased lock on {self._subject}"
                warnings.warn(what, ResourceWarning, source=self, stacklevel=2)
        finally:
            self.close()


class _Wait:
    """The call that blocks until a hold is locked, in whatever thread (`kinfolk.helper_threads.BlockingCall`)."""

    def __init__(self, file: LockedFile, what: tuple[int, int, int, int], subject: str) -> None:
        self._file, self._what, self._subject = file, what, subject

    def block(self, milliseconds: int | None) -> bool:
        try:
            return self._file.wait(*self._what, -1 if milliseconds is None else milliseconds)
        except OSError as error:
            if is_bare(error):
                raise refused(error, self._subject) from error
            raise

    def wake(self) -> None:
        self._file.wake()


class OfdHold(Hold):
    """F_OFD_SETLK: of bytes, by an open file description."""

    family = "record"
    writes = True

    def _set(self, kind: int) -> bool:
        return record_locks.try_to_set(self.fileno(), fcntl.F_OFD_SETLK, kind, *self.span)

    def blocking(self) -> tuple[int, int, int, int]:
        """By F_OFD_SETLKW."""
        return fcntl.F_OFD_SETLKW, fcntl.F_RDLCK if self.shared else fcntl.F_WRLCK, *self.span

    def blocker(self) -> int | None:
        """F_OFD_GETLK names processes with POSIX locks."""
        return blocking_pid(self, fcntl.F_OFD_GETLK)


class FlockHold(Hold):
    """flock(2): of the whole file, by an open file description."""

    family = "flock"
    writes = False

    def _set(self, kind: int) -> bool:
        try:
            fcntl.flock(self.fileno(), _OPERATIONS[kind] | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def blocking(self) -> tuple[int, int, int, int]:
        """By flock(2)."""
        return _BY_FLOCK, fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX, 0, 0

    def downgrade(self) -> None:
        """Raise Unsupported."""
        raise Unsupported(
            "it can't become shared without being unlocked for a moment",
            subject=self._subject,
            why="flock(2) converts a lock by giving it away and asking for another",
            remedy='release it and acquire it shared, or use kind="ofd"',
        )


_OPERATIONS = {
    fcntl.F_RDLCK: fcntl.LOCK_SH,
    fcntl.F_WRLCK: fcntl.LOCK_EX,
    fcntl.F_UNLCK: fcntl.LOCK_UN,
}


def blocking_pid(hold: Hold, command: int) -> int | None:
    """What F_GETLK says of who stands against a hold; None for an open file description, and for nobody."""
    kind = fcntl.F_RDLCK if hold.shared else fcntl.F_WRLCK
    found = record_locks.ask(hold.fileno(), command, kind, *hold.span)
    return found.pid if found is not None and found.pid > 0 else None


def refused(error: OSError, subject: str) -> KinfolkError:
    """The error for a lock that can't be had at all."""
    match error.errno:
        case errno.EDEADLK:
            return Deadlock(
                "it would be waited for for ever",
                subject=subject,
                why="who holds it waits, over other locks perhaps, for what this process holds: the kernel has found the circle",
                remedy="release what is held, and lock in the same order everywhere",
            )
        case errno.ENOLCK:
            return LimitReached(
                "there is no lock to be had",
                subject=subject,
                why="the kernel's table is full, or the server of a network file system gives none",
                remedy="release some, see whether the server's lock service runs, or lock a file on a local file system",
                code=error.errno,
            )
        case errno.EOPNOTSUPP | errno.ENOSYS | errno.EINVAL:
            return Unsupported(
                "this file can't be locked like this",
                subject=subject,
                why=f"its file system, or the kernel, knows no such locks: {os.strerror(error.errno or 0)}",
                remedy="try another kind, or lock a file on a local file system",
            )
        case errno.EBADF:
            return AccessDenied(
                "this file can't be locked exclusively",
                subject=subject,
                why="its file system wants it open for writing, and it may only be read",
                remedy="lock it with shared=True",
                code=errno.EACCES,
            )
        case _:
            return from_os_error(error, "it can't be locked", subject)
