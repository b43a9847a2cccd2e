"""Memory that is a file: POSIX shared memory, a memfd, a mapped file. One hold for all three.

    descriptor    of the object; grows, tells, is passed on
    membership    of its users, where the lifetime is "peers" (`kinfolk.memory.membership`)
    mapping       mmap(2), as long as anything looks into it

Rules:
1. What is mapped has space behind every page: reserved when it was created, or filled in when it was attached to. Where only
   reading is allowed, each page is read once at attaching (MADV_POPULATE_READ, which fails instead of a SIGBUS).
2. It only ever grows here: made smaller, it would be a SIGBUS under whoever has it mapped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

from kinfolk import marks, runtime_directory
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AlreadyExists, InvalidValue, LimitReached, NotFound, Unsupported
from kinfolk.memory.contract import Mapping, Passed, Segment
from kinfolk.memory.membership import Membership, remove_if_unused
from kinfolk.memory.space import (
    fill_holes,
    refuse,
    refuse_beyond_memory,
    reserve,
)
from kinfolk.nameless_file import NamelessFile
from kinfolk.room import Room, no_space, room_in_file_system, room_in_memory

_MADV_POPULATE_READ = 22  # Linux 5.14


class FileMapping(mmap.mmap):
    """The memory of a file, which keeps the hold on it."""

    segment: FileSegment


class FileSegment(Segment):
    """A hold on memory that is a file."""

    def __init__(
        self,
        descriptor: Descriptor,
        subject: str,
        *,
        path: str | None = None,
        membership: Membership | None = None,
        read_only: bool = False,
        private: bool = False,
        on_disk: bool = False,
        nameless: NamelessFile | None = None,
    ) -> None:
        """Take over a descriptor; no ``path``: a memfd. ``nameless`` is to be linked by `publish`."""
        self._descriptor, self.subject, self._path = descriptor, subject, path
        self._on_disk = on_disk
        self._membership, self._nameless = membership, nameless
        self.read_only, self.private = read_only, private
        self.lifetime = "peers" if membership is not None or path is None else "name"
        self.size = os.fstat(descriptor.fileno()).st_size

    # ── mapping ──────────────────────────────────────────────────────────────────────────────

    def map(self) -> Mapping:
        """mmap(2). Raises LimitReached without the address space, InvalidValue when it was made smaller meanwhile, NoSpace."""
        flags = mmap.MAP_PRIVATE if self.private or self._is_write_sealed() else mmap.MAP_SHARED
        protection = mmap.PROT_READ if self.read_only else mmap.PROT_READ | mmap.PROT_WRITE
        try:
            mapping = self._mapped(flags, protection)
        except (ValueError, OverflowError) as error:
            raise InvalidValue(
                f"its {self.size} bytes can't be mapped", subject=self.subject, why=str(error)
            ) from None
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise LimitReached(
                f"{self.size} bytes can't be mapped",
                subject=self.subject,
                why=os.strerror(errno.ENOMEM),
                remedy="ask for less, or raise the limit: ulimit -v, sysctl vm.max_map_count",
                code=errno.ENOMEM,
            ) from error
        mapping.segment = self
        if (self.read_only or self.private) and not self._on_disk:
            self._see_every_page(mapping)
        return mapping

    def _mapped(self, flags: int, protection: int) -> FileMapping:
        number = self._descriptor.fileno()
        if sys.version_info >= (3, 13):
            return FileMapping(number, self.size, flags, protection, trackfd=False)
        return FileMapping(number, self.size, flags, protection)

    def _is_write_sealed(self) -> bool:
        # A shared mapping of such a one needs Linux 6.7; as nobody writes, a private one is the same.
        if self._path is not None or not self.read_only:
            return False
        seals = fcntl.fcntl(self._descriptor.fileno(), fcntl.F_GET_SEALS)
        return bool(seals & fcntl.F_SEAL_WRITE)

    def _see_every_page(self, mapping: FileMapping) -> None:
        """Memory with holes takes its space when it is read. (In a file on a disk a hole may stay one.)"""
        status = os.fstat(self._descriptor.fileno())
        if status.st_blocks * 512 >= self.size:
            return
        try:
            mapping.madvise(_MADV_POPULATE_READ)
        except OSError as error:
            if error.errno == errno.EINVAL:  # Linux < 5.14
                return
            raise no_space(self.size, self._room(), self.subject, errno.ENOSPC) from error

    # ── creation ─────────────────────────────────────────────────────────────────────────────

    def publish(self) -> None:
        """linkat(2). Raises AlreadyExists, OSError."""
        while (nameless := self._nameless) is not None:
            try:
                nameless.link()
                self._nameless = None
            except FileExistsError:
                refuse_existing(nameless.path, self.subject, on_disk=self._on_disk)

    def grow(self, size: int) -> None:
        """Make it larger, with the space reserved; others map it anew to see that. Raises Unsupported, NoSpace, OSError."""
        if self.read_only or self.private:
            raise Unsupported(
                "it can't be resized from here",
                subject=self.subject,
                why="it was attached read-only" if self.read_only else "it is a private copy",
                remedy="attach without that",
            )
        now = os.fstat(self.fileno()).st_size
        if size < self.size:
            raise Unsupported(
                f"it can't be made smaller than {self.size} bytes",
                subject=self.subject,
                why="who has the rest mapped would be killed by SIGBUS",
                remedy="create another one",
            )
        if size > now:
            self._refuse_without_room(size - now)
            reserve(self.fileno(), now, size, self._room, self.subject)
        self.look()

    def look(self) -> int:
        """The size by now, with space behind it if this end may write. Raises NoSpace before anything is taken, OSError."""
        status = os.fstat(self.fileno())
        # What stands for a disk's blocks counts more than data; of memory the figure is exact.
        holes = self._on_disk or status.st_blocks * 512 < status.st_size
        writes = not (self.read_only or self.private)
        if holes and (
            writes or not self._on_disk
        ):  # of a file on a disk what is only read may stay a hole
            self._refuse_without_room(status.st_size - status.st_blocks * 512)
        if holes and writes:
            fill_holes(self.fileno(), status.st_size, self._room, self.subject)
        self.size = status.st_size
        return self.size

    def _refuse_without_room(self, size: int) -> None:
        if not self._on_disk:
            refuse_beyond_memory(size, self.subject)
        if self._path is not None:
            refuse(size, self._room(), self.subject)

    def _room(self) -> Room:
        if self._path is None:
            return room_in_memory()
        directory = os.path.dirname(self._path) or "."
        return room_in_file_system(self.fileno(), directory)

    # ── what it is ───────────────────────────────────────────────────────────────────────────

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor.fileno()

    def mode(self) -> int:
        """Its permission bits."""
        bits = 0o777 if self._membership is None else 0o666
        return stat.S_IMODE(os.fstat(self.fileno()).st_mode) & bits

    def chmod(self, mode: int) -> None:
        """fchmod(2)."""
        give_mode = os.fchmod if self._membership is None else marks.mark
        give_mode(self.fileno(), mode)

    def flush(self, mapping: Any, offset: int, size: int) -> None:
        """msync(2), where there is something behind it."""
        if self._path is not None:
            start = offset - offset % mmap.PAGESIZE
            mapping.flush(start, min(size + offset - start, len(mapping) - start))

    def unlink(self) -> None:
        """Remove the name, if it still is that of this file. Raises NotFound, Unsupported, OSError."""
        if self._path is None:
            raise Unsupported(
                "there is no name to remove",
                subject=self.subject,
                remedy="close it: the memory goes with its last user",
            )
        # Under the lock, or it might be somebody else's by the time that it is removed.
        with runtime_directory.lock_for_leaving():
            there = None
            with contextlib.suppress(FileNotFoundError):
                there = os.lstat(self._path)
            ours = os.fstat(self.fileno())
            if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                raise NotFound("the name has gone already", subject=self.subject)
            os.unlink(self._path)

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def leave(self) -> None:
        """The last user removes the name, where the lifetime is "peers"."""
        if self._membership is not None:
            self._membership.leave()

    def close(self) -> None:
        """Leave, and close the descriptor; what never got its name vanishes."""
        nameless, self._nameless = self._nameless, None
        if nameless is not None:
            nameless.close()
        self.leave()
        self._descriptor.close()

    def __del__(self) -> None:
        if hasattr(self, "size"):  # else it was never finished
            self.close()

    # ── other processes ──────────────────────────────────────────────────────────────────────

    def passable(self) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
        """By its descriptors."""
        member = None if self._membership is None else Passed(self._membership.fileno())
        number, how = Passed(self._descriptor.fileno()), (self.read_only, self.private)
        return _passed, (number, member, self.subject, self._path, *how, self._on_disk)


def _passed(
    number: int,
    member: int | None,
    subject: str,
    path: str | None,
    read_only: bool,
    private: bool,
    on_disk: bool,
) -> FileSegment:
    descriptor = Descriptor(number, subject)
    membership = None
    if member is not None:
        assert path is not None
        membership = Membership.passed(member, path)
    return FileSegment(
        descriptor,
        subject,
        path=path,
        membership=membership,
        read_only=read_only,
        private=private,
        on_disk=on_disk,
    )


def refuse_existing(path: str, subject: str, *, on_disk: bool) -> None:
    """Raise AlreadyExists when something has the name; what has lifetime="peers" and no user left is removed first."""
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return
    if not on_disk:
        with contextlib.suppress(OSError):
            if remove_if_unused(path):
                return
    what = f"{there.st_size} bytes" if stat.S_ISREG(there.st_mode) else "no memory"
    raise AlreadyExists(
        "the name is taken", subject=subject, why=f"user {there.st_uid} has {what} there"
    )
