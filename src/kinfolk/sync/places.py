"""Where an object lies: by name, inside memory that processes share already, or anonymous.

    named        /dev/shm/kinfolk-UID/KIND-NAME   a file of its own, until `unlink` or the next boot
    inside       at an offset of `memory.buf`      goes and stays with that memory
    anonymous    a sealed memfd                     of this process, those it forks, and those that it is passed to

What lies there is made by the first who opens it (native/sync_object.c): zeroed memory is an object that nobody has
used yet, so that a name is given to nothing but a whole file of zeros, and whoever is killed at any instruction leaves
either nothing or what the next one completes.

Rules:
1. A file is 0600, ours, no symlink and as large as it has to be, or it is refused. It has its space before its name, and no
   way to lose it: /dev/shm that is full is NoSpace, never a SIGBUS.
2. Names are made and removed under the lock of the runtime directory. Only the file that was opened is unlinked, not a later one of
   the same name.
3. The names of one user are his own. For several users, an object lies inside memory that both may write to.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from kinfolk import runtime_directory
from kinfolk.deadlines import NEVER
from kinfolk.descriptors import Descriptor
from kinfolk.errors import (
    CorruptObject,
    InvalidValue,
    KinfolkError,
    NoSpace,
    NotFound,
    Unsupported,
    UntrustedPeer,
    UsageError,
    from_os_error,
)
from kinfolk.interest import Steps
from kinfolk.memfd import create
from kinfolk.nameless_file import NamelessFile
from kinfolk.room import no_shared_memory, no_space, room_in_memory
from kinfolk.sync.findings import Finding, refusal
from kinfolk.transfer import arrived, carrier
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run

T = TypeVar("T")

_LONGEST_NAME = 200  # of what stands for a name in a file name of at most 255 bytes
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Memory(Protocol):
    """Memory that processes share, such as a SharedMemory."""

    @property
    def buf(self) -> memoryview:
        """All of it, writable."""


class Openable(Protocol):
    """The native side of an object."""

    def _open(self, buffer: Any, offset: int, option: Any, /) -> int: ...

    def _repair(self, buffer: Any, offset: int, /) -> None: ...


class _File(Descriptor):
    """The file that an object lies in. Locks are seldom closed by those who use them: so it goes without a warning."""

    __slots__ = ()

    def __del__(self) -> None:
        self.close()


class Place:
    """Where one object lies, as this process sees it."""

    def __init__(
        self,
        kind: str,
        subject: str,
        buffer: Any,
        offset: int,
        *,
        path: str | None = None,
        file: _File | None = None,
        passed: tuple[Any, ...] = (),
    ) -> None:
        """Made by `named`, `inside`, `anonymous`."""
        self.kind, self.subject = kind, subject
        self._buffer, self._offset = buffer, offset
        self._path, self._file = path, file
        self._passed = passed

    def open(self, native: Openable, size: int, option: Any) -> None:
        """Open the object in there, making it if nobody has. Raises CorruptObject, InvalidValue, Unsupported."""
        try:
            found = native._open(self._buffer, self._offset, option)
            if found == Finding.OTHER_BOOT:
                found = self._locked(lambda: self._repaired(native, option))
        except KinfolkError:
            raise
        except (BufferError, TypeError, OverflowError, ValueError) as error:
            raise InvalidValue(
                f"no {self.kind} can lie there",
                subject=self.subject,
                why=str(error),
                remedy="give memory in one piece that may be written to, and the offset as a whole number",
            ) from None
        if found != Finding.SOUND:
            raise refusal(found, self.kind, self.subject, size)

    def _repaired(self, native: Openable, option: Any) -> int:
        # Again: somebody may have had the lock before. What is of this boot is not touched.
        native._repair(self._buffer, self._offset)
        return native._open(self._buffer, self._offset, option)

    def _locked(self, work: Callable[[], T]) -> T:
        return _under_lock(work, self.subject)

    def close(self) -> None:
        """Give back what is held; the memory goes when nobody looks into it."""
        self._buffer = None
        if self._file is not None:
            self._file.close()

    def unlink(self) -> None:
        """Remove the name; who has it open keeps it. Raises NotFound, Unsupported, AccessDenied."""
        path, file = self._path, self._file
        if path is None or file is None:
            raise Unsupported(
                f"this {self.kind} has no name",
                subject=self.subject,
                why="it goes with the memory that it lies in",
                remedy="unlink that, or just close",
            )

        def remove() -> None:
            here = os.fstat(file.fileno())
            try:
                there = os.lstat(path)
            except FileNotFoundError:
                there = None
            if there is None or (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                raise NotFound(f"this {self.kind} has lost its name already", subject=self.subject)
            os.unlink(path)

        self._locked(remove)

    def part(self, kind: str, offset: int) -> Place:
        """That of an object which is a part of the one here, at an ``offset`` of it."""
        return _Part(kind, f"{kind} of {self.subject}", self._buffer, self._offset + offset)

    def passable(self) -> tuple[Any, ...]:
        """What `arrive` makes the place of in another process. Raises UsageError unless one is being started."""
        if self._file is None:
            return (self.kind, self.subject, None, self._passed)
        carry = carrier(
            f"a {self.kind}",
            self.subject,
            "give it to a process as an argument when that starts, or open its name there",
        )
        return (self.kind, self.subject, self._path, carry(self._file.fileno()))


class _Part(Place):
    """Where a part of another object lies. It goes where that one goes."""

    def passable(self) -> tuple[Any, ...]:
        raise UsageError(
            f"this {self.kind} can't be passed on by itself",
            subject=self.subject,
            why="it is a part of the other",
            remedy="pass that on",
        )


def arrive(size: int, kind: str, subject: str, path: str | None, carried: Any) -> Place:
    """The place of an object that was passed to this process."""
    if isinstance(carried, tuple):
        memory, offset = carried
        return inside(kind, memory, offset)
    file = _File(arrived(carried), subject)
    return Place(kind, subject, _map(file, size), 0, path=path, file=file)


def of_file(kind: str, subject: str, number: int, size: int, path: str | None) -> Place:
    """In a file that was opened for it, whose descriptor this takes over. Raises OSError."""
    file = _File(number, subject)
    try:
        return Place(kind, subject, _map(file, size), 0, path=path, file=file)
    except BaseException:
        file.close()
        raise


def inside(kind: str, memory: Memory | Any, offset: int) -> Place:
    """At an offset of memory: an object with `buf`, or a writable buffer such as an mmap."""
    buffer = getattr(memory, "buf", memory)
    subject = f"{kind} at {offset} of {getattr(memory, 'address', None) or type(memory).__name__}"
    if _is_private(buffer):
        raise InvalidValue(
            f"no {kind} can lie there",
            subject=subject,
            why="this memory is private: after a fork each process has its own copy, and would lock that",
            remedy="use a SharedMemory, or an mmap with MAP_SHARED",
        )
    return Place(kind, subject, buffer, offset, passed=(memory, offset))


def _is_private(buffer: Any) -> bool:
    """Whether memory is known not to be shared (proc_pid_maps(5)); what can't be told is for others to refuse."""
    try:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        with open("/proc/self/maps", "rb") as file:
            for line in file:
                span, permissions, _ = line.split(b" ", 2)
                start, end = span.split(b"-")
                if int(start, 16) <= address < int(end, 16):
                    return permissions.endswith(b"p")
    except (TypeError, ValueError, BufferError, OSError):
        return False
    return False


def anonymous(kind: str, size: int) -> Place:
    """In a memfd. Raises NoSpace, LimitReached."""
    return _translated(
        lambda: _anonymous(kind, size),
        kind,
        lambda: no_space(size, room_in_memory(), kind, errno.ENOSPC),
    )


def _anonymous(kind: str, size: int) -> Place:
    file = _File(create(), kind)
    os.posix_fallocate(file.fileno(), 0, size)
    fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    return Place(kind, kind, _map(file, size), 0, file=file)


def _map(file: _File, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(file.fileno(), size, trackfd=False)
    return mmap.mmap(file.fileno(), size)


# ── by name ──────────────────────────────────────────────────────────────────────────────────


def named(kind: str, name: str, size: int, least: int | None = None) -> Place:
    """In a file of its own, made with ``size`` bytes if there is none.

    One that is there has to be as large; or, where a kind has several sizes, to have at least the ``least``. All of it is mapped.

    Raises InvalidValue, UntrustedPeer, CorruptObject, NoSpace, AccessDenied, LimitReached.
    """
    if not _is_name(name):
        raise InvalidValue(
            f"{name!r} names no {kind}",
            remedy="give a name of one character or more, without NUL and halves of surrogate pairs",
        )
    subject = f"{kind} {name}"
    path = path_of(kind, name)

    def opened() -> Place:
        try:
            file = _File(_open(path), subject)
        except FileNotFoundError:
            file = _File(_made(path, size), subject)
        _check(file.fileno(), path, least or size)
        whole = os.fstat(file.fileno()).st_size if least else size
        return Place(kind, subject, _map(file, whole), 0, path=path, file=file)

    return _under_lock(opened, subject, size)


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def path_of(kind: str, name: str) -> str:
    """Where the object of a name lies, or would lie."""
    quoted = quote(name, safe="", errors="surrogateescape")
    if len(quoted) > _LONGEST_NAME:
        quoted = "#" + hashlib.sha256(quoted.encode()).hexdigest()
    return f"{runtime_directory.path_name()}/{kind}-{quoted}"


def _open(path: str) -> int:
    # O_NONBLOCK: what was planted there may be a FIFO.
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _made(path: str, size: int) -> int:
    """A new file, whole before it has its name. Called under the lock."""
    file = NamelessFile(path)
    try:
        number = file.descriptor.fileno()
        os.fchmod(number, 0o600)  # the umask may have taken more than it should
        os.posix_fallocate(number, 0, size)
        file.link()
        return file.descriptor.detach()
    finally:
        file.close()


def _check(number: int, path: str, size: int) -> None:
    status = os.fstat(number)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise UntrustedPeer(
            "others may write to it",
            subject=path,
            why=f"it is of user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            remedy="remove it, as root if need be",
        )
    if not stat.S_ISREG(status.st_mode) or status.st_size < size:
        raise CorruptObject(
            "this is no file of kinfolk's",
            subject=path,
            why=f"it has {status.st_size} bytes, and {size} are needed",
            remedy="remove it",
        )


# ── the lock, and errors ─────────────────────────────────────────────────────────────────────


def _under_lock(work: Callable[[], T], subject: str, size: int = 0) -> T:
    def steps() -> Steps[T]:
        with (yield from runtime_directory.lock()):
            return work()

    return _translated(
        lambda: run(steps(), Turnstile(subject, lambda: None), NEVER, f"{subject}: open"),
        subject,
        lambda: no_shared_memory(size, subject, errno.ENOSPC),
    )


def _translated(work: Callable[[], T], subject: str, full: Callable[[], NoSpace]) -> T:
    try:
        return work()
    except KinfolkError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedPeer(
                "its name is a symbolic link, which is not followed",
                subject=subject,
                remedy="remove the link",
            ) from error
        if error.errno == errno.ENOSPC:
            raise full() from error
        raise from_os_error(error, "can't open it", subject) from error
