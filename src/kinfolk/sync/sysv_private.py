"""System V sets without a key: who uses one, so that the last one removes it. The kernel never does by itself.

    make    lock ── sweep ── semget(IPC_PRIVATE), marked ── a file, named for the id, flock shared ── linkat ── complete ── unlock
    leave   close ── lock ── open ── flock exclusive? then the last: the set and the file go ── unlock

Whoever has a copy of the descriptor is a user, by whatever fork; the kernel drops an flock with the last copy, whatever ends
whoever had it. When all are killed, the next process of this user that makes a set without a key removes theirs.

Rules:
1. A set without a key that carries the mark of being made is nobody's, if one has the lock: its maker held that.
2. Whose file a process finds locked, or not to be opened, is left alone. So is a set that is not ours, or has a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref

from kinfolk import exit_hooks, interpreter_exit, runtime_directory
from kinfolk._native import sysv_sem_remove
from kinfolk.descriptors import Descriptor
from kinfolk.interest import Steps
from kinfolk.nameless_file import NamelessFile
from kinfolk.rendezvous import NotYet
from kinfolk.sync import name_lock
from kinfolk.sync.sysv_set import Terms, all_sets, make, status_of
from kinfolk.sync.takings import Takings

IPC_PRIVATE = 0


class _Use(Descriptor):
    """What the lock hangs on. Semaphores are seldom closed by those who use them: so it goes without a warning."""

    __slots__ = ()

    def __del__(self) -> None:
        self.close()


class Private:
    """This process's use of a set without a key."""

    def __init__(self, number: int, fd: int, subject: str) -> None:
        """Take over a descriptor that has the shared lock. Made by `begin`, or of one that was passed."""
        self.number = number
        self._descriptor = _Use(fd, subject)
        self._left = False
        #: what waits by it
        self.takings: Takings | None = None
        #: whether this process's exit has come by (`kinfolk.interpreter_exit`)
        self.finished = False
        _all.add(self)

    def fileno(self) -> int:
        """The descriptor that the lock hangs on. Raises Closed."""
        return self._descriptor.fileno()

    def leave(self) -> None:
        """Be a user no more; the last one removes the set. Never raises; may be repeated."""
        if self._left:
            return
        self._left = True
        self._descriptor.close()
        _late.add(self.number)
        _remove_late()

    def abandon(self) -> None:
        """Undo its making. Under the lock, which `leave` would wait for."""
        self._left = True
        self._descriptor.close()
        with contextlib.suppress(OSError):
            os.unlink(_path_of(self.number))

    def __del__(self) -> None:
        if hasattr(self, "_left"):  # else it was never finished
            self.leave()

    # ── at the exit of the interpreter: who waits falls silent before the set goes ───────────

    def expire(self) -> None:
        """Let nobody go on who waits."""
        if self.takings is not None:
            self.takings.expire()

    def wake(self) -> None:
        """Have those who wait sleep where the set is not needed."""
        if self.takings is not None:
            self.takings.wake()

    def quiet(self) -> bool:
        """Whether they do."""
        return self.takings is None or self.takings.quiet()

    def finish(self) -> None:
        """Leave."""
        self.finished = True
        self.leave()


#: Sets that this process has left, and perhaps not looked after: an object may be dropped while the same thread has the lock.
_late: set[int] = set()


def _remove_late() -> None:
    """Remove those that nobody uses. Never raises."""
    if not _late:
        return
    with runtime_directory.lock_for_leaving() as locked:
        while locked and _late:
            with contextlib.suppress(OSError, KeyError):
                _remove_if_unused(_late.pop())


_all: weakref.WeakSet[Private] = weakref.WeakSet()
exit_hooks.register(_remove_late)
interpreter_exit.close_at_exit(lambda: list(_all))


def begin(terms: Terms, subject: str) -> Steps[Private]:
    """A new set without a key. Raises KinfolkError, OSError."""
    while True:
        with (yield from name_lock.lock(subject)), contextlib.suppress(NotYet):
            _sweep()
            return _make(terms, subject)


def _make(terms: Terms, subject: str) -> Private:
    """Raises NotYet when somebody removed it before it was complete."""
    first: list[Private] = []
    try:
        make(IPC_PRIVATE, terms, subject, lambda number: first.append(_begin(number, subject)))
    except BaseException:
        for private in first:
            private.abandon()
        raise
    return first[0]


def _begin(number: int, subject: str) -> Private:
    file = NamelessFile(_path_of(number))
    try:
        fcntl.flock(file.descriptor.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        file.link()
        return Private(number, file.descriptor.detach(), subject)
    finally:
        file.close()


def arrived(number: int, fd: int, subject: str) -> Private:
    """That of a descriptor which was passed to this process."""
    return Private(number, fd, subject)


def _prefix() -> str:
    # Ids are counted in each IPC namespace, and some of them share a /dev/shm.
    namespace = os.stat("/proc/self/ns/ipc").st_ino
    return f"{runtime_directory.path_name()}/sysv-sem-{namespace}-"


def _path_of(number: int) -> str:
    return f"{_prefix()}{number}"


def _sweep() -> None:
    """Remove the sets without a key whose users were all killed. Under the lock. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        for number, status in list(all_sets()):
            if status.key == 0 and status.in_the_making:
                _remove(number)
    directory, prefix = os.path.split(_prefix())
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            digits = name.removeprefix(prefix)
            if name.startswith(prefix) and digits.isdecimal():
                with contextlib.suppress(OSError):
                    _remove_if_unused(int(digits))


def _remove_if_unused(number: int) -> None:
    """Under the lock. Raises OSError."""
    path = _path_of(number)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    probe = os.open(path, flags)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(number)
            os.unlink(path)
    finally:
        os.close(probe)


def _remove(number: int) -> None:
    with contextlib.suppress(OSError):
        status = status_of(number)
        if status.key == 0 and status.creator == os.geteuid():
            sysv_sem_remove(number)
