"""Who uses memory: an flock(2) that every user shares, on an open file of its own, beside the one that is mapped.

    create   O_TMPFILE ── flock shared ── guard ── linkat     nobody finds it without a user, nor without a guard
    attach   open ── flock shared, if somebody has it         else it is stale: removed, and not found
    leave    close ── open ── flock exclusive? then the last  under it the name is removed

The kernel drops it with the last copy of the descriptor, whatever ends whoever had one: a forked copy counts until it is
closed, and one that is on its way to a child too. That makes an flock useless as the sign of life of *one* process
(`kinfolk.channels.claims`); here it is just what is asked.

Rules:
1. What has lifetime="peers" carries a mark (kinfolk.marks). Only such a name of this user's is ever removed here.
2. A name is removed only under the exclusive lock, and only while it is that file's. Who unlinks it by hand is a user, and
   has the shared one: so it can't become another's in between.
3. What nobody uses is never attached to: between two looks it may be removed.
4. When all are killed the guard removes the name (`kinfolk.memory.guard`), or else the next who creates.
5. Who looks whether he is the last tries the exclusive lock last of all. So of several who leave together the last to look is right,
   and who finds it taken exclusively waits for the other to be done: after the last close the name has gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable

from kinfolk.descriptors import Descriptor
from kinfolk.marks import is_marked
from kinfolk.memory import guard
from kinfolk.rendezvous import NotYet

_LOOK_AGAIN = 0.001
_PATIENCE = 0.1  # seconds that leaving waits for somebody who is just removing the name

#: What is removed with a name, under the lock.
Also = Callable[[], object]


class Membership:
    """That somebody uses the memory of a file, or what a file stands for."""

    def __init__(self, descriptor: Descriptor, path: str, also: Also | None = None) -> None:
        """Around a descriptor that has the shared lock. The last one calls ``also``."""
        self._descriptor, self._path, self._also = descriptor, path, also

    @classmethod
    def begin(
        cls, fd: int, path: str, also: Also | None = None, segment: tuple[int, ...] = ()
    ) -> Membership:
        """Of a new file, before it has its name, ``path``; with a guard. Raises LimitReached, Unsupported, OSError.

        ``segment`` is what ``also`` removes, as the guard has to know it.
        """
        descriptor = _reopened(fd)
        try:
            fcntl.flock(descriptor.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            guarded = _reopened(fd)
            try:
                guard.start(guarded.fileno(), path, *segment)
            finally:
                guarded.close()
        except BaseException:
            descriptor.close()
            raise
        return cls(descriptor, path, also)

    @classmethod
    def join(cls, fd: int, path: str, also: Also | None = None) -> Membership:
        """Of a file that was found at ``path``. Raises NotYet; FileNotFoundError for a stale one, which is removed; OSError."""
        descriptor = _reopened(fd)
        try:
            if _try_lock(descriptor.fileno(), fcntl.LOCK_EX):
                if _may_be_removed(os.fstat(descriptor.fileno())):
                    with contextlib.suppress(OSError):
                        _remove(descriptor.fileno(), path, also)
                raise _gone()
            if not _try_lock(descriptor.fileno(), fcntl.LOCK_SH):
                raise NotYet(_LOOK_AGAIN)  # somebody looks whether he is the last
            if os.fstat(descriptor.fileno()).st_nlink == 0:
                raise _gone()
        except BaseException:
            descriptor.close()
            raise
        return cls(descriptor, path, also)

    @classmethod
    def passed(cls, number: int, path: str, also: Also | None = None) -> Membership:
        """By a copy of the descriptor of another process."""
        return cls(Descriptor(number, path), path, also)

    @property
    def path(self) -> str:
        """The name of the file."""
        return self._path

    def fileno(self) -> int:
        """The descriptor that the lock hangs on."""
        return self._descriptor.fileno()

    def leave(self) -> None:
        """Be a user no more; the last one removes the name. Never raises; may be repeated."""
        if self._descriptor.closed:
            return
        status = os.fstat(self._descriptor.fileno())
        self._descriptor.close()
        with contextlib.suppress(OSError):
            remove_if_unused(self._path, (status.st_dev, status.st_ino), self._also)


def remove_if_unused(
    path: str, inode: tuple[int, int] | None = None, also: Also | None = None
) -> bool:
    """Remove what has lifetime="peers" and no user, if it is ours (and that inode); whether it was. Raises OSError."""
    if not _may_be_removed(os.lstat(path), inode):  # to open a FIFO or a device does something
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    probe = Descriptor.opened(path, os.open, path, flags)
    try:
        return _may_be_removed(os.fstat(probe.fileno()), inode) and _settle(
            probe.fileno(), path, also
        )
    finally:
        probe.close()


def _settle(fd: int, path: str, also: Also | None) -> bool:
    """Remove the name if nobody uses it; whether it has gone. Raises OSError."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        if _try_lock(fd, fcntl.LOCK_EX):
            return _remove(fd, path, also)
        if _try_lock(fd, fcntl.LOCK_SH):
            # Users; or others who have just looked like this, and who try the other lock after us. This ends the shared one.
            return _try_lock(fd, fcntl.LOCK_EX) and _remove(fd, path, also)
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN)
        if os.fstat(fd).st_nlink == 0:
            return True


def _may_be_removed(status: os.stat_result, inode: tuple[int, int] | None = None) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and is_marked(status.st_mode)
        and status.st_uid == os.geteuid()
        and inode in (None, (status.st_dev, status.st_ino))
    )


def _remove(fd: int, path: str, also: Also | None) -> bool:
    there, ours = os.lstat(path), os.fstat(fd)
    if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
        return False
    if also is not None:
        also()
    os.unlink(path)
    return True


def _gone() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _reopened(fd: int) -> Descriptor:
    """The same file, opened once more: an flock belongs to what open(2) made, and a mapping keeps that."""
    number = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return Descriptor(number, "membership")


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
