"""One process at a time on one direction of a stream.

A byte stream that two processes read (or write without chunks) is torn apart between them. A *claim* is a
POSIX record lock on the inode of the pipe or socket itself (fcntl(2), F_SETLK): byte 0 for receiving, byte 1 for sending.
It belongs to a process: a forked copy does not have it, and it ends with the process, however that ends.

A pipe's end is open in one direction only, so that the kernel grants a lock of the shared kind to everybody; who
takes one then looks for others (F_GETLK) and steps back when there are any. Two who come at the
same moment may both step back, and are told Busy; never do both get it.

Rules:
1. The kernel drops a process's locks on an inode when that process closes *any* descriptor of it:
   closing an end tells the other claims on that inode to be taken again.
2. A claim is checked against the pid at each use, so that a forked copy takes its own.
"""

from __future__ import annotations

import fcntl
import os
import struct
import weakref

from kinfolk.errors import Busy

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid

RECEIVING, SENDING = 0, 1

_claims: weakref.WeakSet[Claim] = weakref.WeakSet()


class Claim:
    """The right of this process to use one direction of one stream."""

    __slots__ = ("__weakref__", "_direction", "_fd", "_inode", "_pid", "_subject")

    def __init__(self, fd: int, direction: int, subject: str) -> None:
        """Prepare a claim on the stream of ``fd``; nothing is taken before `take`."""
        status = os.fstat(fd)
        self._fd, self._direction, self._subject = fd, direction, subject
        self._inode = status.st_dev, status.st_ino
        self._pid = 0
        _claims.add(self)

    def take(self) -> None:
        """Make sure that this process has the claim. Raises Busy, naming the process that has it."""
        pid = os.getpid()
        if self._pid == pid:
            return
        writable = os.O_RDONLY != fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE
        try:
            self._lock(fcntl.F_WRLCK if writable else fcntl.F_RDLCK)
        except BlockingIOError:
            raise self._busy(self._holder()) from None
        if not writable and (holder := self._holder()):
            self._lock(fcntl.F_UNLCK)
            raise self._busy(holder)
        self._pid = pid

    def closing(self) -> None:
        """A descriptor of the inode is being closed: call this right after."""
        self._pid = 0
        _claims.discard(self)
        for other in list(_claims):
            if other._inode == self._inode:
                other._pid = 0

    def _lock(self, kind: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_SETLK, _FLOCK.pack(kind, os.SEEK_SET, self._direction, 1, 0))

    def _holder(self) -> int:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._direction, 1, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    def _busy(self, holder: int) -> Busy:
        verb = "receives" if self._direction == RECEIVING else "sends"
        return Busy(
            f"another process {verb} here",
            subject=self._subject,
            why=f"process {holder} does, and only one can at a time" if holder else "only one can at a time",
            remedy="let that one close its end first, or give each process a channel of its own",
        )
