"""The file that a ring lies in when it is to outlive its peers: how it is made, found, locked and removed.

    make     a file without a name ── mode, size, space ── a ring ── on the disk ── linkat(2) ──> the name
    open     what is it, and whose? ── flock ─┬─ nobody else has it ── what the dead had is taken back ──┬──> ends
                                              └─ others have it ─────────────────────────────────────────┘

Each end has a shared flock(2), which goes with the last copy of its descriptor and its mapping, whatever ended them. So who
gets it alone knows that all who ever had the ring open are gone, also those of before a reboot, of a container that is no more,
or of another machine (native/ring_adopt.c).

Rules:
1. A file has its name when it is a ring, and all of it is on the disk; a kill before leaves nothing.
2. What is at the path is looked at before it is opened, and what is no ring is not changed: a link, another user's file, zeros.
3. A ring that others have open is joined only in their boot and pid namespace.
4. What is written before the blocks has its space from the start; blocks get theirs when they are first used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from kinfolk import runtime_directory
from kinfolk._native import Ring
from kinfolk.channels.ring_limits import cut_short, refusal
from kinfolk.channels.ring_memory import HEAD, mapped
from kinfolk.channels.trust import check_memory
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, CorruptChannel, NotFound
from kinfolk.memory.space import fill_holes, reserve
from kinfolk.nameless_file import NamelessFile
from kinfolk.rendezvous import NotYet
from kinfolk.room import Room, room_in_file_system
from kinfolk.sync.findings import Finding
from kinfolk.watcher import core

_MAGIC = b"kinsynk1"  # native/sync_object.h
_SOON = 0.001  # seconds until it is worth to ask for the lock again


def make_or_open(
    path: str, sizes: tuple[int, int], acknowledged: bool, mode: int, subject: str
) -> Descriptor:
    """The ring at a path, made if there is none. As `open_existing`; raises NotFound without a directory, NoSpace, OSError."""
    while True:
        try:
            return open_existing(path, subject)
        except NotYet as not_yet:
            if not_yet.again_in is not None:
                raise
        with contextlib.suppress(FileExistsError):  # somebody was quicker
            return _made(path, sizes, acknowledged, mode, subject)


def _made(
    path: str, sizes: tuple[int, int], acknowledged: bool, mode: int, subject: str
) -> Descriptor:
    directory = os.path.dirname(path)
    try:
        file = NamelessFile(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"there is no directory {directory}", subject=subject, remedy="create it first"
        ) from error
    try:
        number = file.descriptor.fileno()
        os.fchmod(number, mode)
        head, size = Ring.sizes(*sizes)
        reserve(number, 0, head, lambda: room_in_file_system(number, directory), subject)
        os.ftruncate(number, size)
        _open_once(file.descriptor, sizes, acknowledged, subject)
        if not _lock(number, fcntl.LOCK_SH):
            raise NotYet(_SOON)  # nobody has it: so it is a look at all that a directory holds
        os.fsync(number)
        file.link()
        _keep_name(directory)
        return file.descriptor.hand_over(Descriptor(-1, subject))
    finally:
        file.close()


def _open_once(
    memory: Descriptor, sizes: tuple[int, int], acknowledged: bool, subject: str
) -> tuple[int, int]:
    """Make the ring if there is none yet; bytes of it and its arena. Raises CorruptChannel and the like."""
    native = Ring(True)  # who sends takes it on any terms
    with mapped(memory) as mapping, contextlib.closing(native):
        found = native.open(mapping, memory.fileno(), *sizes, acknowledged, core())
        if found != Finding.SOUND:
            raise refusal(found, subject)
        return native.capacity, native.arena


def _keep_name(directory: str) -> None:
    """Have the name on the disk, where the directory may be read."""
    with contextlib.suppress(PermissionError):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        there = Descriptor.opened(directory, os.open, directory, flags)
        with contextlib.closing(there):
            os.fsync(there.fileno())


def open_existing(path: str, subject: str) -> Descriptor:
    """The ring at a path. Raises AddressError for what is no file, UntrustedPeer, CorruptChannel, NoSpace, OSError.

    NotYet when there is none; with a time when somebody takes it over just now.
    """
    try:
        _check_is_file(os.lstat(path), subject)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        memory = Descriptor.opened(subject, os.open, path, flags)
    except (FileNotFoundError, NotADirectoryError):
        raise NotYet from None
    try:
        status = os.fstat(memory.fileno())
        _check_is_file(status, subject)  # it may have been replaced
        check_memory(status.st_uid, status.st_mode, subject)
        if os.pread(memory.fileno(), len(_MAGIC), 0) != _MAGIC:
            raise CorruptChannel(
                "this is no ring",
                subject=subject,
                why=f"there is a file of {status.st_size} bytes that kinfolk has not made for one",
                remedy="choose another name, or remove it",
            )
        if status.st_size <= HEAD:
            raise cut_short(subject, status.st_size)
        _take_part(memory, path, subject)
    except BaseException:
        memory.close()
        raise
    return memory


def _check_is_file(status: os.stat_result, subject: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    what = "a symbolic link, which is not followed" if stat.S_ISLNK(status.st_mode) else "no file"
    raise AddressError(
        "there can be no ring here", subject=subject, why=f"it is {what}", remedy="name a file"
    )


def _take_part(memory: Descriptor, path: str, subject: str) -> None:
    """Lock it as one of its users, who takes over what others left if there is none. NotYet if somebody does that just now."""
    if _lock(memory.fileno(), fcntl.LOCK_EX):
        _take_over(memory, path, subject)
    # From one kind of lock to the other there is a moment without: then somebody else may take it over, and the same is true of him.
    if not _lock(memory.fileno(), fcntl.LOCK_SH):
        raise NotYet(_SOON)


def _take_over(memory: Descriptor, path: str, subject: str) -> None:
    with mapped(memory) as mapping:
        found = Ring.adopt(mapping)
        if found == Finding.MISPLACED:
            raise cut_short(subject, len(mapping))
        if found != Finding.SOUND:
            raise refusal(found, subject)
    there = _open_once(memory, (HEAD, HEAD << 4), False, subject)

    def room() -> Room:
        return room_in_file_system(memory.fileno(), os.path.dirname(path))

    # A copy of a ring may have holes where this one has zeros.
    fill_holes(memory.fileno(), Ring.sizes(*there)[0], room, subject)


def _lock(number: int, kind: int) -> bool:
    try:
        fcntl.flock(number, kind | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False


def unlink(memory: Descriptor, path: str, subject: str) -> None:
    """Remove the name, if it still is that of this file. Who has it open goes on. Raises NotFound, OSError."""
    # Under the lock, or it might be somebody else's by the time that it is removed.
    with runtime_directory.lock_for_leaving():
        ours, there = os.fstat(memory.fileno()), None
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(path)
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise NotFound("the name has gone already", subject=subject)
        os.unlink(path)
