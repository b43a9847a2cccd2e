"""Who is still there: a FIFO that every member of a channel holds open, because its hang-up is the kernel's word.

Receivers hold its read end, senders its write end. Poll reports POLLHUP on the read end when some sender has come and the
last has gone, POLLERR on the write end when the last receiver has gone (fifo(7), poll(2)): whatever ended
them, and forked copies count until they are closed. `fifo:` is such a FIFO itself; mechanisms that
do not tell (queues, datagrams) have one beside their object.

    beside a path       the directory's own  .NAME.presence
    else                /dev/shm/kinfolk-UID/MECHANISM-NAME

Rules:
1. The FIFO is made 0600 and gets a wider mode afterwards. What kinfolk made carries a mark (`marks`) from the moment
   it is; only that is removed by the last member to leave. After a SIGKILL of all it stays, harmless: the next
   receiver takes it over.
2. Joining and leaving are done under the lock of the runtime directory: nobody joins a name that is being removed.
3. A symlink is never followed, and what is no FIFO is refused before it is opened.
4. *Last* is who finds, once he has closed, neither another member (`claims.Membership`) nor a copy of any end: a child that
   was forked just now, or gets an end that is on its way, has not said yet that it is a member. Copies show by an flock(2)
   that all ends share: just what makes it useless as a sign of life, that a copy keeps it, is wanted here.
5. A channel ends under the lock too: a receiver that finds everybody gone lets go of its end first, so that whoever comes
   later waits for the next receiver, instead of sending to one that has said goodbye.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import select
import stat
import time
from collections.abc import Callable
from urllib.parse import quote

from kinfolk import marks, runtime_directory
from kinfolk.channels.claims import Membership
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.rendezvous import NotYet, retry, wait_for_path

_LONGEST_NAME = 200  # of what stands for a name in a file name of at most 255 bytes
# Seconds until a copy is believed to be an end: between its fork and its exec, every process that is being
# started has one.
_STARTING = 0.02


class FifoEnd(Descriptor):
    """An open end of a FIFO that has a name; the last one to close removes the name if kinfolk made it."""

    __slots__ = ("_ended", "_inode", "_membership", "keep_name", "path")

    def __init__(self, opened: Descriptor, path: str, *, keep_name: bool = False) -> None:
        """Take over from a descriptor of the FIFO at ``path``, unless this raises; ``keep_name`` never removes the name."""
        super().__init__(-1, f"fifo {path}")
        number = opened.fileno()
        status = os.fstat(number)
        self._inode = status.st_dev, status.st_ino
        self._membership = Membership(number)
        self.path, self.keep_name = path, keep_name
        self._ended = False
        with contextlib.suppress(OSError):  # a hostile user has it alone: then nobody is ever last
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        opened.hand_over(self)

    def close(self) -> None:
        """Close; the last member removes the name."""
        self.leave()

    def alone(self) -> bool:
        """Whether nobody else is a member."""
        return not self._membership.others()

    def leave(self, if_last: Callable[[], None] | None = None) -> bool:
        """Close; whether this was the last member, by whom the name was removed.

        ``if_last`` is then called under the lock, before the name goes, to remove what the members shared.
        """
        if self.closed:
            return False
        if self._ended:
            super().close()
            return False
        with runtime_directory.lock_for_leaving() as locked:
            last = locked and self._seems_last()
            self.abandon()
            return last and self._remove(if_last)

    def sweep(self, if_last: Callable[[], None]) -> None:
        """Close one that was opened to see whether anybody is a member: if nobody is, as the last. Under the lock."""
        last = self._is_ours() and self._seems_last()
        self.abandon()
        if last:
            self._remove(if_last, patience=0)

    def end(self, found: Callable[[], bool], if_last: Callable[[], None] | None = None) -> bool:
        """Leave, because everybody else on the other side has left; False if ``found`` under the lock that it is not so.

        The number stays, as it may be in somebody's event loop; what it stands for now is at its end for ever.
        """
        with runtime_directory.lock_for_leaving() as locked:
            if found():
                return False
            last = locked and self._seems_last()
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.close(writing)
            self._membership.closing()
            try:
                os.dup2(reading, self.fileno(), inheritable=False)
            finally:
                os.close(reading)
                self._membership.closed()
            self._ended = True
            if last:
                self._remove(if_last)
            return True

    def _seems_last(self) -> bool:
        return not self.keep_name and self.alone() and self._made_here()

    def _remove(self, if_last: Callable[[], None] | None, *, patience: float = _STARTING) -> bool:
        """Remove the name, if there is no copy of any end; whether it was removed. This one is closed already."""
        if self._has_copies(patience):
            return False
        if if_last is not None:
            if_last()
        with contextlib.suppress(
            PermissionError
        ):  # of the directory: it stays for the owner's next receiver
            self.unlink()
        return True

    def _has_copies(self, patience: float) -> bool:
        try:
            probe = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return True  # or nothing to remove, or no way to tell
        try:
            status = os.fstat(probe)
            return (status.st_dev, status.st_ino) != self._inode or not _nobody_shares(
                probe, patience
            )
        finally:
            os.close(probe)
            self._membership.closed()

    def abandon(self) -> None:
        """Close and leave the name as it is, to be used under the lock."""
        self._membership.closing()
        super().close()
        self._membership.closed()

    def unlink(self) -> None:
        """Remove the name, if it still is this FIFO's."""
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self.path)

    def _made_here(self) -> bool:
        return marks.is_marked(os.fstat(self.fileno()).st_mode)

    def set_mode(self, mode: int) -> None:
        """Permission bits, if it is kinfolk's and ours; who has it open keeps it."""
        if self._is_ours():
            marks.mark(self.fileno(), mode)

    def _is_ours(self) -> bool:
        status = os.fstat(self.fileno())
        return marks.is_marked(status.st_mode) and status.st_uid == os.geteuid()


def open_end(
    path: str,
    flags: int,
    *,
    make: int | None = None,
    keep_name: bool = False,
    if_first: Callable[[bool], None] | None = None,
) -> FifoEnd:
    """Open one end of a FIFO, making it with the permission bits ``make`` when there is none.

    ``if_first`` is called under the lock when nobody else is a member, with whether there were members before: whether a
    FIFO of ours lay there.

    To be tried again (`kinfolk.rendezvous.wait_for_path`): raises NotYet while there is no FIFO, or, for O_WRONLY, while
    nobody has its read end. Raises AddressError for what is no FIFO, and OSError.
    """
    with runtime_directory.try_lock():
        made = make is not None and _make(path, make)
        try:
            _check_is_fifo(os.lstat(path), path)  # what is none may do something when it is opened
            flags |= os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            opened = Descriptor.opened(path, os.open, path, flags)
        except FileNotFoundError:
            raise NotYet from None
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise NotYet from None  # the opening of the other end is an event on the path
            raise
        try:
            _check_is_fifo(os.fstat(opened.fileno()), path)  # it may have been replaced
            end = FifoEnd(opened, path, keep_name=keep_name)
        except BaseException:
            opened.close()
            raise
        if (make is not None or if_first is not None) and end.alone():
            try:
                if (
                    make is not None
                ):  # who made it was killed before it had its mode, or wanted another one
                    end.set_mode(make)
                if if_first is not None:
                    if_first(not made and end._is_ours())
            except BaseException:
                # not by `leave`, which would wait for the lock that is held here
                end.abandon()
                raise
        return end


def sweep(path: str, if_abandoned: Callable[[], None]) -> None:
    """Remove the FIFO at ``path``, and what its members shared, if they are all dead. Under the lock of the runtime directory.

    Whoever polls it may see a receiver for a moment; nobody can join meanwhile. What is not kinfolk's, or not ours, stays.
    """
    with contextlib.suppress(OSError, AddressError):
        _check_is_fifo(os.lstat(path), path)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        opened = Descriptor.opened(path, os.open, path, flags)
        try:
            end = FifoEnd(opened, path)
        except BaseException:
            opened.close()
            raise
        end.sweep(if_abandoned)


def _nobody_shares(fd: int, patience: float) -> bool:
    """Whether no end but this one is open anywhere, or about to be closed by an exec within so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)


def _check_is_fifo(status: os.stat_result, path: str) -> None:
    if not stat.S_ISFIFO(status.st_mode):
        raise AddressError(
            "this is no FIFO", subject=path, remedy="choose another name, or remove it"
        )


def _make(path: str, mode: int) -> bool:
    try:
        marks.make_fifo(path, 0o600)
    except FileExistsError:
        return False
    try:
        _set_mode(path, mode)
    except BaseException:
        os.unlink(path)
        raise
    return True


def _set_mode(path: str, mode: int) -> None:
    """Whatever the umask has taken away; by a descriptor, because the path may be a link by now."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd).st_mode
        if stat.S_ISFIFO(found) and stat.S_IMODE(found) != marks.marked(mode):
            marks.mark(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


class Presence:
    """Membership in a channel whose mechanism does not tell who is there."""

    def __init__(self, descriptor: Descriptor) -> None:
        """Around a read end (a receiver's) or a write end (a sender's), of a pipe or a FIFO."""
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor.fileno(), 0)

    @classmethod
    def join_receiver(
        cls, path: str, mode: int = 0o600, if_first: Callable[[bool], None] | None = None
    ) -> Steps[Presence]:
        """Make the FIFO when there is none, and hold its read end.

        ``if_first`` is called under the lock when nobody else is a member, to clear what killed ones left; with whether
        there were any.
        """
        return (yield from _joined(path, os.O_RDONLY, mode, if_first))

    @classmethod
    def join_sender(cls, path: str) -> Steps[Presence]:
        """Wait for a receiver to be there, and hold the write end."""
        return (yield from _joined(path, os.O_WRONLY))

    @classmethod
    def anonymous(cls) -> tuple[Presence, Presence]:
        """A receiver's and a sender's, for a channel without a name."""
        reading, writing = Descriptor.pipe("presence", os.O_CLOEXEC | os.O_NONBLOCK)
        return cls(reading), cls(writing)

    @property
    def path(self) -> str | None:
        """The FIFO's name; None for an anonymous one."""
        return self._descriptor.path if isinstance(self._descriptor, FifoEnd) else None

    @classmethod
    def passed(cls, fd: int, path: str | None) -> Presence:
        """The membership of an end that came from another process, by its `fileno` and `path`."""
        end = Descriptor(fd, "presence")
        return cls(end if path is None else FifoEnd(end, path))

    def fileno(self) -> int:
        """The descriptor that hangs up: for `Interest.hangup`."""
        return self._descriptor.fileno()

    def others_gone(self) -> bool:
        """A receiver asks: has some sender come, and the last gone? A sender: has the last receiver gone?"""
        return bool(self._poll.poll(0))

    def end(self, found: Callable[[], bool], if_last: Callable[[], None] | None = None) -> bool:
        """A receiver lets go of senders who have all gone: see `FifoEnd.end`."""
        if isinstance(self._descriptor, FifoEnd):
            return self._descriptor.end(found, if_last)
        return not found()

    def leave(self, if_last: Callable[[], None] | None = None) -> bool:
        """Close; True for the last member of all, which also removed the FIFO's name: see `FifoEnd.leave`."""
        if isinstance(self._descriptor, FifoEnd):
            return self._descriptor.leave(if_last)
        self._descriptor.close()
        return False


def _joined(
    path: str, flags: int, make: int | None = None, if_first: Callable[[bool], None] | None = None
) -> Steps[Presence]:
    def attempt() -> FifoEnd:
        return open_end(path, flags, make=make, if_first=if_first)

    def attempt_in_the_runtime_directory() -> FifoEnd:
        try:
            return attempt()
        except FileNotFoundError:
            raise NotYet from None  # a cleaner of /dev/shm took it away, who knows no lock

    if os.path.dirname(path) == runtime_directory.path_name():
        return Presence((yield from retry(attempt_in_the_runtime_directory)))
    return Presence((yield from wait_for_path(path, attempt)))


def presence_path(mechanism: str, name: str) -> str:
    """Where the presence of a name without a directory of its own lies."""
    quoted = quote(name, safe="", errors="surrogateescape")
    if len(quoted) > _LONGEST_NAME:
        quoted = "#" + hashlib.sha256(quoted.encode()).hexdigest()
    return f"{runtime_directory.path_name()}/{mechanism}-{quoted}"
