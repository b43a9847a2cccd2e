"""Space for memory, before it is touched: a page that can't be had when it is touched is a SIGBUS, or somebody is killed.

    asked    0 ├───────────────────────────────┤
    free       ├──────────┤                      NoSpace, before anything is taken
    had        ├─┼─┼─┼─┼─┼ …                     step by step: a signal costs one step, not all

Rules:
1. What can't be had is refused before it is tried: filling /dev/shm to the brim would be a SIGBUS for others,
   and memory that there is not ends by the OOM killer. So the error has figures.
2. Space is reserved with fallocate(2), in steps: a call that a signal interrupts has undone what it did, and a
   program with a quick timer would begin anew for ever.
3. Reserving never changes what is there, nor makes anything smaller.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from kinfolk._native import allocate
from kinfolk.errors import KinfolkError, LimitReached, from_os_error
from kinfolk.room import Room, no_space, room_in_memory

_STEP = 2 << 20
# Of file system, quota, limit on file sizes (RLIMIT_FSIZE), memory.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


#: A look at the room that there is.
RoomOf = Callable[[], Room]


def room_in_cgroups(groups: str = "/proc/self/cgroup", mounts: tuple[str, ...] = _CGROUPS) -> Room:
    """What the tightest control group of this process has left (cgroups(7), version 2): without swap and files that are cached."""
    with open(groups) as file:
        path = next((line[3:].strip() for line in file if line.startswith("0::")), "/")
    tightest = Room(2**63, 2**63, "control group", "ask for less, or raise memory.max of the group")
    parts = [part for part in path.split("/") if part]
    for mount in mounts:
        for depth in range(len(parts) + 1):
            room = _room_in_group(os.path.join(mount, *parts[:depth]))
            if room is not None and room[0] < tightest.free:
                tightest = tightest._replace(free=room[0], total=room[1])
    return tightest


def _room_in_group(directory: str) -> tuple[int, int] | None:
    """Free and total; None where nothing limits, or nothing is to be seen."""
    try:
        with open(f"{directory}/memory.max") as file:
            limit = int(file.read())  # "max" is no number
        with open(f"{directory}/memory.current") as file:
            used = int(file.read())
        with open(f"{directory}/memory.stat") as file:
            figures = dict(line.split() for line in file)
        cached = int(figures.get("inactive_file", 0)) + int(figures.get("active_file", 0))
    except (OSError, ValueError):
        return None
    return max(0, limit - used + cached), limit


def refuse(size: int, room: Room, subject: str) -> None:
    """Raise NoSpace when there is no room for so many bytes more."""
    if size > room.free:
        raise no_space(size, room, subject, errno.ENOSPC)


def refuse_beyond_memory(size: int, subject: str) -> None:
    """Raise NoSpace when the machine, or the control group, has not so much memory."""
    if (
        size > _STEP
    ):  # who has less than that left is in other trouble, and the look costs more than the memory
        refuse(size, room_in_memory(), subject)
        refuse(size, room_in_cgroups(), subject)


def reserve(fd: int, start: int, end: int, room: RoomOf, subject: str) -> None:
    """Make a file reach to ``end``, with space from ``start`` on. Raises NoSpace, LimitReached, OSError.

    A file that others have is not made smaller again when it fails: it has what there was room for.
    """
    try:
        _allocate(fd, start, end)
    except OSError as error:
        raise _failed(error, end - start, room, subject) from error


def fill_holes(fd: int, size: int, room: RoomOf, subject: str) -> None:
    """Give space to what somebody else made without, where the file system can; the bytes stay what they are. Raises NoSpace.

    When it fails, what was had by then stays: to punch it out would take what others have written there meanwhile.
    """
    try:
        for at in range(0, size, _STEP):
            allocate(fd, at, min(_STEP, size - at))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return
        raise _failed(error, size, room, subject) from error


def _allocate(fd: int, start: int, end: int) -> None:
    try:
        for at in range(start, end, _STEP):
            allocate(fd, at, min(_STEP, end - at))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        os.posix_fallocate(fd, start, end - start)  # writes into each block instead


def _failed(error: OSError, size: int, room: RoomOf, subject: str) -> KinfolkError:
    if error.errno not in _FULL:
        return from_os_error(error, "can't reserve its space", subject)
    if error.errno == errno.EFBIG:
        return LimitReached(
            f"there can't be so many bytes as {size} in one file",
            subject=subject,
            why=os.strerror(errno.EFBIG),
            remedy="ask for less, or raise the limit: ulimit -f",
            code=errno.EFBIG,
        )
    return no_space(size, room(), subject, error.errno or 0)
