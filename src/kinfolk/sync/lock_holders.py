"""Which processes have a file locked, for people who wait in vain.

F_GETLK names the process that has a POSIX lock, and for the lock of an open file description nobody. But each descriptor says in
/proc/PID/fdinfo/N what locks hang on it (proc_pid_fdinfo(5)); of other users' processes only root may read that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kinfolk.sync import findings, lock_table
from kinfolk.sync.lock_holds import Hold
from kinfolk.sync.lock_path import Inode

#: The words of the kernel for the locks that conflict with each other, by `Hold.family`.
_WORDS = {"record": (b"OFDLCK", b"POSIX"), "flock": (b"FLOCK",)}


def blockers(hold: Hold, *, search: bool) -> list[str]:
    """Who stands against a hold, for people; to ``search`` takes a look at every process."""
    here = [
        str(other.owner)
        for other in lock_table.everything()
        if isinstance(other, Hold) and other.locked and hold.conflicts(other)
    ]
    if here:
        return here
    try:
        pid = hold.blocker()
        pids = [pid] if pid else holders(hold.family, hold.inode) if search else []
    except OSError:
        return []
    return [described(pid) for pid in pids]


def holders(family: str, inode: Inode) -> list[int]:
    """The pids of the processes that can be seen to have a lock on a file, on whatever bytes of it."""
    device, number = inode
    exact = b"%02x:%02x:%d" % (os.major(device), os.minor(device), number)
    found: dict[int, set[bytes]] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        for word, place in _locks(pid):
            if word in _WORDS[family] and place.endswith(b":%d" % number):
                found.setdefault(pid, set()).add(place)
    # Some file systems (btrfs, overlayfs) tell programs of other devices than they tell the table of locks.
    certain = [pid for pid, places in found.items() if exact in places]
    return certain or list(found)


def _locks(pid: int) -> Iterator[tuple[bytes, bytes]]:
    """The kinds of the locks of a process, and of what they are: ``major:minor:inode``."""
    try:
        names = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:  # it has ended, or is another user's
        return
    for name in names:
        try:
            with open(f"/proc/{pid}/fdinfo/{name}", "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(b"lock:"):
                words = line.split()  # lock: 1: OFDLCK ADVISORY WRITE -1 08:01:131 0 EOF
                yield words[2], words[6]


def described(pid: int) -> str:
    """A process, for people."""
    return "this process" if pid == os.getpid() else findings.described(pid)
