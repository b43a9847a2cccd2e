"""What this process has open in order to lock it, all kinds together.

Rules:
1. A forked child keeps none of it. The lock of an open file description (OFD, flock) lives as long as any copy of the descriptor does: so a child
   closes its copies before anything else runs in it, and nobody has to touch them for that.
2. Between open(2) and `add` a descriptor is unknown here. Whoever finds that `forks` has changed meanwhile begins again: what a
   child got a copy of is never locked.
3. The kernel drops all POSIX locks that a process has on a file when it closes *any* descriptor of it (fcntl(2)). So as long as there are any,
   what is to be closed on that file waits in `close`.

A fork that Python does not do (C code's own, without an exec) runs no handler: that child keeps its copies until it ends.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from kinfolk._native import LockedFile
from kinfolk.sync.lock_path import Inode


class Open(Protocol):
    """What has a descriptor open."""

    def after_fork_in_child(self) -> None:
        """Close the copy."""


#: Held for what has to happen together; never while waiting. By the same thread again: a signal handler may come in between.
lock = threading.RLock()
#: how many forks have begun
forks = 0

# By id: a set can't be iterated over while another thread adds to it.
_open: weakref.WeakValueDictionary[int, Open] = weakref.WeakValueDictionary()
#: what waits to be closed, for each file that is not to be closed now
_kept: dict[Inode, list[LockedFile]] = {}


def add(one: Open) -> None:
    """Know it, as long as it lives."""
    _open[id(one)] = one


def everything() -> list[Open]:
    """What is open just now."""
    return [one for reference in _open.valuerefs() if (one := reference()) is not None]


def keep_open(inode: Inode) -> None:
    """From now on nothing on that file is closed."""
    with lock:
        _kept.setdefault(inode, [])


def close_again(inode: Inode) -> None:
    """What waited is closed, and nothing waits from now on."""
    with lock:
        for file in _kept.pop(inode, ()):
            file.close()


def close(file: LockedFile, inode: Inode) -> None:
    """Close it, as soon as that does no harm."""
    with lock:
        if inode in _kept:
            _kept[inode].append(file)
        else:
            file.close()


def _before_fork() -> None:
    global forks  # noqa: PLW0603
    forks += 1


def _after_fork_in_child() -> None:
    global lock  # noqa: PLW0603
    lock = threading.RLock()
    for one in everything():
        one.after_fork_in_child()
    for inode in list(_kept):
        close_again(inode)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
