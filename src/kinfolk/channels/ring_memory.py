"""The memory that a ring lies in: a file that all its ends map.

    ring:NAME   /dev/shm/kinfolk-UID/memory-of-ring-NAME   as long as it has peers
    ring:       a sealed memfd                          of those who inherit it, or get it

Zeroed memory is a ring that nobody has opened yet (native/sync_object.c). A file gets its name when it has its
size and its space, and is a ring: what a killed maker leaves is nothing. The blocks of its arena have
their size alone: memory comes to each when it is first used (native/arena.c).

Rules:
1. A file is 0600, ours, no symlink, or it is refused: whoever may write to it can do with its peers what he likes.
2. Names are made and removed under the lock of the runtime directory, by the members of the ring's presence.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import sys

from kinfolk import runtime_directory
from kinfolk._native import Ring
from kinfolk.channels.presence import presence_path
from kinfolk.channels.ring_limits import cut_short
from kinfolk.channels.trust import check_memory
from kinfolk.descriptors import Descriptor
from kinfolk.errors import CorruptChannel
from kinfolk.memfd import create
from kinfolk.memory.space import RoomOf, reserve
from kinfolk.nameless_file import NamelessFile
from kinfolk.rendezvous import NotYet
from kinfolk.room import SHARED_MEMORY, Room, room_in_file_system, room_in_memory
from kinfolk.watcher import core

#: What comes before the bytes of a ring (native/ring_layout.h).
HEAD = 4096
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def path_of(name: str) -> str:
    """Where the ring of a name lies, or would lie."""
    return presence_path("memory-of-ring", name)


def nameless(capacity: int, arena: int, subject: str) -> Descriptor:
    """New memory without a name. Raises NoSpace, LimitReached, OSError."""
    memory = create(Descriptor, "ring")
    try:
        _size(memory.fileno(), capacity, arena, room_in_memory, subject)
        fcntl.fcntl(memory.fileno(), fcntl.F_ADD_SEALS, _SEALS)
        # Of the first one inotify hears nothing since Linux 6.14: native/ring_poll.c
        again = f"/proc/self/fd/{memory.fileno()}"
        return Descriptor.opened("ring", os.open, again, os.O_RDWR | os.O_CLOEXEC)
    finally:
        memory.close()


def _size(number: int, capacity: int, arena: int, room: RoomOf, subject: str) -> None:
    """Give it its size, and its space to all but the blocks: they get theirs when they are first used."""
    head, size = Ring.sizes(capacity, arena)
    reserve(number, 0, head, room, subject)
    os.ftruncate(number, size)


def _format(memory: Descriptor, capacity: int, arena: int, acknowledge: bool) -> None:
    """Make the ring that lies in it. Whoever opens a name finds one, of the terms that it has, whatever he asks for."""
    ring = Ring(False)
    ring.open(mapped(memory), memory.fileno(), capacity, arena, acknowledge, core())
    ring.close()


def make_or_open(
    name: str, capacity: int, arena: int, acknowledge: bool, subject: str
) -> Descriptor:
    """The memory of a name, made if there is none. Raises UntrustedPeer, CorruptChannel, NoSpace, OSError; NotYet while it is locked."""
    with runtime_directory.try_lock():
        try:
            return open_existing(name, subject)
        except NotYet:
            return _made(path_of(name), capacity, arena, acknowledge, subject)


def _made(path: str, capacity: int, arena: int, acknowledge: bool, subject: str) -> Descriptor:
    file = NamelessFile(path)
    try:
        number = file.descriptor.fileno()
        os.fchmod(number, 0o600)  # the umask may have taken more than it should

        def room() -> Room:
            return room_in_file_system(number, SHARED_MEMORY)

        _size(number, capacity, arena, room, subject)
        _format(file.descriptor, capacity, arena, acknowledge)
        file.link()
        return file.descriptor.hand_over(Descriptor(-1, subject))
    finally:
        file.close()


def open_existing(name: str, subject: str) -> Descriptor:
    """The memory of a name. Raises NotYet when there is none, UntrustedPeer, CorruptChannel, OSError."""
    try:
        # O_NONBLOCK: what was planted there may be a FIFO.
        number = os.open(path_of(name), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotYet from None
    memory = Descriptor(number, subject)
    try:
        status = os.fstat(number)
        check_memory(status.st_uid, status.st_mode, subject)
        if not stat.S_ISREG(status.st_mode) or status.st_size <= HEAD:
            raise CorruptChannel("this is no ring", subject=subject, remedy="remove the file")
    except BaseException:
        memory.close()
        raise
    return memory


def forget(name: str) -> None:
    """Remove the name. Under the lock of the runtime directory."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path_of(name))


def mapped(memory: Descriptor) -> mmap.mmap:
    """All of it, for reading and writing. Raises CorruptChannel, OSError."""
    size = os.fstat(memory.fileno()).st_size
    if size <= HEAD:
        raise cut_short(memory.name, size)
    if sys.version_info >= (3, 13):
        return mmap.mmap(memory.fileno(), size, trackfd=False)
    return mmap.mmap(memory.fileno(), size)
