"""Where an object lies: by name, inside memory that processes share already, or anonymous.

    named        /dev/shm/kinfolk-UID/KIND-NAME   a file of its own, until `unlink` or the next boot (`kinfolk.sync.names`)
    inside       at an offset of `memory.buf`      goes and stays with that memory
    anonymous    a sealed memfd                     of this process, those it forks, and those that it is passed to

What lies there is made by the first who opens it (native/sync_object.c): zeroed memory is an object that nobody has
used yet, so that a name is given to nothing but a whole file of zeros, and whoever is killed at any instruction leaves
either nothing or what the next one completes.

Rules:
1. An object's file has its space before it is looked into, and no way to lose it: /dev/shm that is full is NoSpace, never a SIGBUS.
2. Names (`kinfolk.sync.names`) are removed under a lock, too (`kinfolk.sync.name_lock`). Only the file that was opened is unlinked, not a
   later one of the same name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from kinfolk._native import object_maker
from kinfolk.descriptors import Descriptor
from kinfolk.errors import (
    InvalidValue,
    KinfolkError,
    NotFound,
    Unsupported,
    UsageError,
    from_os_error,
)
from kinfolk.memfd import create
from kinfolk.nameless_file import NamelessFile
from kinfolk.room import no_space, room_in_memory
from kinfolk.sync import name_lock
from kinfolk.sync.findings import Finding, being_made, refusal
from kinfolk.transfer import arrived, carrier

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
        """Open the object in there, making it if nobody has. Raises CorruptObject, InvalidValue, Timeout, Unsupported."""
        try:
            found = native._open(self._buffer, self._offset, option)
            if found == Finding.OTHER_BOOT:
                found = name_lock.under(lambda: self._repaired(native, option), self.subject)
        except KinfolkError:
            raise
        except (BufferError, TypeError, OverflowError, ValueError) as error:
            raise InvalidValue(
                f"no {self.kind} can lie there",
                subject=self.subject,
                why=str(error),
                remedy="give memory in one piece that may be written to, and the offset as a whole number",
            ) from None
        if found == Finding.BEING_MADE:
            raise being_made(object_maker(self._buffer, self._offset), self.kind, self.subject)
        if found != Finding.SOUND:
            raise refusal(found, self.kind, self.subject, size)

    def _repaired(self, native: Openable, option: Any) -> int:
        # Again: somebody may have had the lock before. What is of this boot is not touched.
        native._repair(self._buffer, self._offset)
        return native._open(self._buffer, self._offset, option)

    def take_name(self, file: NamelessFile) -> None:
        """Give its file the name, and take it over. Raises FileExistsError, OSError."""
        file.link()
        self._path = file.path
        self._file = file.descriptor.hand_over(_File(-1, self.subject))

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

        name_lock.under(remove, self.subject)

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
    try:
        return Place(kind, subject, _map(file, size), 0, path=path, file=file)
    except BaseException:
        file.close()
        raise


def found(kind: str, subject: str, number: int, path: str, size_of: Callable[[int], int]) -> Place:
    """In a file that was found, whose descriptor this takes over; ``size_of`` looks at it, and says how much of it. Raises OSError."""
    file = _File(number, subject)
    try:
        size = size_of(number)
        os.posix_fallocate(number, 0, size)  # who made it may not have, and there may be no more
        return Place(kind, subject, _map(file, size), 0, path=path, file=file)
    except BaseException:
        file.close()
        raise


def unnamed(kind: str, file: NamelessFile, subject: str, size: int) -> Place:
    """In a new file, which has its space, and gets its name by `Place.take_name`. Raises OSError."""
    return Place(kind, subject, _map(file.descriptor, size), 0)


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
    try:
        return _anonymous(kind, size)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(size, room_in_memory(), kind, errno.ENOSPC) from error
        raise from_os_error(error, "can't open it", kind) from error


def _anonymous(kind: str, size: int) -> Place:
    file = create(_File, kind)
    try:
        os.posix_fallocate(file.fileno(), 0, size)
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _SEALS)
        return Place(kind, kind, _map(file, size), 0, file=file)
    except BaseException:
        file.close()
        raise


def _map(file: Descriptor, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(file.fileno(), size, trackfd=False)
    return mmap.mmap(file.fileno(), size)
