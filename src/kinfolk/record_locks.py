"""Locks on the bytes of a file, as fcntl(2) has them: ``struct flock``, packed and unpacked in one place.

A command is F_SETLK or F_GETLK for locks of the process, F_OFD_SETLK or F_OFD_GETLK for locks of the open file description.
A length of 0 reaches to the end of the file, wherever that will be.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

_FLOCK = struct.Struct("@hhqqi4x")  # on 64-bit Linux: type, whence, start, length, pid

_TAKEN = (errno.EAGAIN, errno.EACCES)


class Found(NamedTuple):
    """A lock that stands against another one."""

    exclusive: bool
    #: of the process that has it; 0: it has no number in this pid namespace; -1: it is an open file description's
    pid: int


def try_to_set(fd: int, command: int, kind: int, start: int, length: int) -> bool:
    """Lock (F_RDLCK, F_WRLCK) or unlock (F_UNLCK) at once; False when somebody else's lock stands against it. Raises OSError."""
    try:
        fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def ask(fd: int, command: int, kind: int, start: int, length: int) -> Found | None:
    """What stands against a lock, None when it could be had. Raises OSError."""
    asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    found, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, command, asked))
    return None if found == fcntl.F_UNLCK else Found(found == fcntl.F_WRLCK, int(pid))
