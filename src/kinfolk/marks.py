"""The mark on a FIFO, a queue or memory that kinfolk made for its peers: only what has it is ever removed by them.

    a file system's     the sticky bit, and S_ISGID without the x of the group; where S_ISGID is refused,
                        the sticky bit, and the x of group and others without the owner's
    System V            the x of group and others without the owner's

All of these mean nothing there. Other programs must not give them by chance, so it is no single bit: ``chmod -R 1777`` gives
the sticky bit to everything, and ``msgget(key, IPC_CREAT | 0777)``, or 0700, the owner's x.
"""

from __future__ import annotations

import contextlib
import os
import stat

_BITS = stat.S_ISVTX | stat.S_ISGID | 0o111
_USUAL = stat.S_ISVTX | stat.S_ISGID
_SYSV = stat.S_IXGRP | stat.S_IXOTH
_WITHOUT_SETGID = stat.S_ISVTX | _SYSV


def marked(mode: int) -> int:
    """A mode with the mark that a file is made with: no umask takes that away."""
    return mode & 0o666 | _USUAL


def is_marked(mode: int) -> bool:
    """Whether a file of this mode, of whatever kind, has the mark."""
    return mode & _BITS in {_USUAL, _WITHOUT_SETGID}


def unmarked(mode: int) -> int:
    """A mode without it, of whatever kind."""
    return mode & 0o666


def make_fifo(path: str, mode: int) -> None:
    """mkfifo(3), with the mark. Raises OSError."""
    try:
        os.mkfifo(path, marked(mode))
    except PermissionError:  # of the directory: then it is refused once more
        os.mkfifo(path, mode & 0o666 | _WITHOUT_SETGID)


def mark(target: int | str, mode: int) -> None:
    """Give a file its mode, and the mark. Raises OSError."""
    # A service may not set S_ISGID at all (systemd's RestrictSUIDSGID=, DynamicUser=); and chmod(2) drops it
    # silently where the group is not ours, as in a directory that gives its own.
    with contextlib.suppress(PermissionError):
        os.chmod(target, marked(mode))
        if is_marked(os.stat(target).st_mode):
            return
    os.chmod(target, mode & 0o666 | _WITHOUT_SETGID)


def sysv_marked(mode: int) -> int:
    """The mode of a System V queue or segment with the mark."""
    return mode & 0o666 | _SYSV


def is_sysv_marked(mode: int) -> bool:
    """Whether a System V queue or segment of this mode has the mark."""
    return mode & 0o111 == _SYSV
