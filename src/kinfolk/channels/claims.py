"""One process at a time on one direction of a stream.

A byte stream that two processes read (or write without chunks) is torn apart between them. A *claim* is a
POSIX record lock on the inode of the pipe or socket itself (fcntl(2), F_SETLK): byte 0 for receiving, byte 1 for sending,
byte 2 for having opened a name in order to receive there (which is not yet receiving: the end may be passed on first).
It belongs to a process: a forked copy does not have it, and it ends with the process, however that ends.

A pipe's end is open in one direction only, so that the kernel grants a lock of the shared kind to everybody; who
takes one then looks for others (F_GETLK) and steps back when there are any. Two who come at the
same moment may both step back, and are told Busy; never do both get it.

A *membership* is a lock of the same kind on a byte of its own, drawn at random (pids repeat between pid namespaces),
and says that the process has a FIFO open: whoever leaves looks whether there is another.

Rules:
1. The kernel drops a process's locks on an inode when that process closes *any* descriptor of it:
   closing an end makes the others on that inode take theirs again, at once.
2. A claim is checked against the pid at each use, so that a forked copy takes its own. A membership is taken
   again in every forked child.
3. Record locks don't part two ends of one process: where these can't share a direction either, a claim also
   looks at the other claims of the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import weakref

from kinfolk import record_locks
from kinfolk.errors import Busy

RECEIVING, SENDING, OPENED = 0, 1, 2
_MEMBERS = 3  # the first byte of memberships


class _Held:
    """A record lock of this process on the inode of a descriptor."""

    __slots__ = ("__weakref__", "_fd", "_there", "_writable")

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        self._fd = fd
        self._there = _on_inode(status.st_dev, status.st_ino)
        self._writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        self._there.held[id(self)] = self

    def lost(self) -> None:
        """The kernel has dropped the lock: this process closed a descriptor of the inode, or was forked."""
        raise NotImplementedError

    def closing(self) -> None:
        """The descriptor is about to be closed: nothing is to be taken on its number any more."""
        self._there.held.pop(id(self), None)

    def closed(self) -> None:
        """The descriptor was closed just now."""
        self.closing()
        for other in self._neighbours():
            other.lost()

    def _neighbours(self) -> list[_Held]:
        """What else this process holds on the inode."""
        return [other for other in self._there.all() if other is not self]

    def _lock(self, byte: int) -> bool:
        """False when another process has it."""
        # An end that is open for reading only gets no lock but the shared kind.
        return self._set(fcntl.F_WRLCK if self._writable else fcntl.F_RDLCK, byte)

    def _set(self, kind: int, byte: int) -> bool:
        return record_locks.try_to_set(self._fd, fcntl.F_SETLK, kind, byte, 1)

    def _holder(self, byte: int, length: int) -> int | None:
        """The pid of another process that has a lock there (0: of another pid namespace), None when none has."""
        found = record_locks.ask(self._fd, fcntl.F_GETLK, fcntl.F_WRLCK, byte, length)
        return None if found is None else found.pid


class _Inode:
    """What this process holds on one inode; there as long as something of it is."""

    __slots__ = ("__weakref__", "held")

    def __init__(self) -> None:
        # By id: a set can't be iterated over while another thread adds to it.
        self.held: weakref.WeakValueDictionary[int, _Held] = weakref.WeakValueDictionary()

    def all(self) -> list[_Held]:
        return [held for reference in self.held.valuerefs() if (held := reference()) is not None]


# By inode: a process may have thousands of channels open, and each that closes looks at its neighbours.
_inodes: weakref.WeakValueDictionary[tuple[int, int], _Inode] = weakref.WeakValueDictionary()
_adding = threading.RLock()  # a signal handler may open a channel too


def _on_inode(device: int, number: int) -> _Inode:
    """The one of that inode, for all threads."""
    with _adding:
        found = _inodes.get((device, number))
        if found is None:
            found = _inodes[device, number] = _Inode()
        return found


class Claim(_Held):
    """The right of this process to use one direction of one stream; nothing is taken before `take`."""

    __slots__ = ("_direction", "_pid", "_sole", "_subject")

    def __init__(self, fd: int, direction: int, subject: str, *, sole: bool = False) -> None:
        """Prepare a claim on the stream of ``fd``; ``sole`` if two ends of one process can't share it either."""
        super().__init__(fd)
        self._direction, self._subject, self._sole = direction, subject, sole
        self._pid = 0

    def take(self) -> bool:
        """Make sure that this process has the claim; whether it had not. Raises Busy, naming the process that has it."""
        pid = os.getpid()
        if self._pid == pid:
            return False
        if self._sole and any(
            isinstance(other, Claim) and other._pid == pid and other._direction == self._direction
            for other in self._neighbours()
        ):
            raise self._busy(pid)
        if not self._lock(self._direction):
            raise self._busy(self._holder(self._direction, 1))
        if not self._writable and (holder := self._holder(self._direction, 1)) is not None:
            self._set(fcntl.F_UNLCK, self._direction)
            raise self._busy(holder)
        self._pid = pid
        return True

    def release(self) -> None:
        """Give the claim back, and take it anew at the next use."""
        self._set(fcntl.F_UNLCK, self._direction)
        self._pid = 0

    def lost(self) -> None:
        """Taken again at once; by a forked child at the next use."""
        taken, self._pid = self._pid == os.getpid(), 0
        if taken:
            with contextlib.suppress(
                OSError
            ):  # Busy: somebody was quicker, and the next use says so
                self.take()

    def _busy(self, holder: int | None) -> Busy:
        verb = "sends" if self._direction == SENDING else "receives"
        return Busy(
            f"another {'end' if holder == os.getpid() else 'process'} {verb} here",
            subject=self._subject,
            why=f"process {holder} does, and only one can at a time"
            if holder
            else "only one can at a time",
            remedy="let that one close its end first, or give each process a channel of its own",
        )


class Membership(_Held):
    """That this process has a FIFO open."""

    __slots__ = ()

    def __init__(self, fd: int) -> None:
        """Join; ``fd`` is either end of the FIFO."""
        super().__init__(fd)
        self.lost()

    def lost(self) -> None:
        """Taken again at once."""
        self._lock(_MEMBERS + int.from_bytes(os.urandom(7), "little"))

    def others(self) -> bool:
        """Whether it is open elsewhere, here or in another process (of kinfolk: nobody else says so)."""
        return self._holder(_MEMBERS, 0) is not None or any(
            isinstance(other, Membership) for other in self._neighbours()
        )


def _after_fork_in_child() -> None:
    global _adding  # noqa: PLW0603
    _adding = threading.RLock()  # another thread may have had it
    for reference in _inodes.valuerefs():
        if (inode := reference()) is not None:
            for held in inode.all():
                held.lost()


os.register_at_fork(after_in_child=_after_fork_in_child)
