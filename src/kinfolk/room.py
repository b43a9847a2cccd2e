"""How much room there is, for an error that says so: what is asked for, what is free, and how there could be more."""

from __future__ import annotations

import os
from typing import NamedTuple

from kinfolk.errors import NoSpace

SHARED_MEMORY = "/dev/shm"


class Room(NamedTuple):
    """What there is, in bytes."""

    free: int
    total: int
    #: of what
    where: str
    remedy: str


def room_in_file_system(file: int | str, where: str) -> Room:
    """What a file system has, the one of a descriptor or path; ``where`` it is mounted, or a path in it."""
    status = os.statvfs(file)
    remedy = "ask for less, or remove what nobody needs there"
    if where == SHARED_MEMORY:
        remedy += "; or make it larger: mount -o remount,size=BYTES /dev/shm, docker run --shm-size"
    total = status.f_blocks * status.f_frsize
    if total == 0:  # a tmpfs without a limit
        return Room(2**63, 2**63, where, remedy)
    return Room(status.f_bavail * status.f_frsize, total, where, remedy)


def room_in_memory() -> Room:
    """What the machine has: memory that can be freed, and swap (proc_meminfo(5))."""
    kibibytes: dict[str, int] = {}
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            name, _, value = line.partition(b":")
            kibibytes[name.decode()] = int(value.split()[0])
    free = kibibytes.get("MemAvailable", kibibytes["MemFree"]) + kibibytes["SwapFree"]
    total = kibibytes["MemTotal"] + kibibytes["SwapTotal"]
    return Room(free << 10, total << 10, "memory and swap", "ask for less, or end what needs much")


def no_space(size: int, room: Room, subject: str, code: int) -> NoSpace:
    """The error, with the figures."""
    return NoSpace(
        f"there is no room for {size} bytes",
        subject=subject,
        why=f"asked for {size}, free {room.free}, {room.where} has {room.total} in all",
        remedy=room.remedy,
        code=code,
    )


def no_shared_memory(size: int, subject: str, code: int) -> NoSpace:
    """The error for a file of so many bytes that /dev/shm does not take: for want of bytes, or of files."""
    room, files = (
        room_in_file_system(SHARED_MEMORY, SHARED_MEMORY),
        os.statvfs(SHARED_MEMORY).f_files,
    )
    if room.free < size:
        return no_space(size, room, subject, code)
    if files == 0:  # as many as there is memory for
        return no_space(size, room_in_memory(), subject, code)
    return NoSpace(
        f"{SHARED_MEMORY} takes no more files",
        subject=subject,
        why=f"it has {files} in all, and {room.free} bytes free",
        remedy="remove what nobody needs there; or let it have more: mount -o remount,nr_inodes=FILES /dev/shm",
        code=code,
    )
