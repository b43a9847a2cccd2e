"""Descriptors of an end of a ring, for event loops: made for who asks.

    receiver   inotify ─── readable: a message (native/ring_poll.c)
    sender     inotify ─── readable: room ──> watcher ──> eventfd ─── writable: room

Rules:
1. They may be ready with nothing there, and are never silent about something. A task waits by inotify as well, without a thread.
2. An eventfd is full, and so not writable, while there is no room; the watcher, which sleeps until inotify speaks, empties it. Only
   whoever has found no room makes it full.
3. fork shares them: a copy makes its own and leaves these alone.
"""

from __future__ import annotations

import errno
import os
import select

from kinfolk._native import Ring, Watch
from kinfolk.channels.presence import Presence
from kinfolk.descriptors import Descriptor
from kinfolk.errors import Closed, KinfolkError, LimitReached
from kinfolk.helper_threads import BlockingCall
from kinfolk.interest import Interest
from kinfolk.watcher import watching

_FULL = 2**64 - 2  # eventfd(2): nothing can be added


class Polling:
    """The descriptor that is readable when there is news. By one operation of its end at a time."""

    def __init__(self, native: Ring, presence: Presence | None, subject: str) -> None:
        """Of an open end."""
        self._native, self._presence, self._subject = native, presence, subject
        self._made: Descriptor | None = None
        self._pid = 0

    @property
    def wanted(self) -> bool:
        """Whether somebody has asked in this process."""
        return self._made is not None and self._pid == os.getpid()

    def fileno(self) -> int:
        """Its number. Raises LimitReached, OSError."""
        if not self.wanted:
            self.close()
            try:
                made = self._native.poll()
            except OSError as error:
                raise _refused(error, self._subject) from error
            self._made, self._pid = Descriptor(made, self._subject), os.getpid()
        assert self._made is not None
        return self._made.fileno()

    def settle(self) -> bool:
        """Silence it, and say whether there is something; if not, it speaks when there is."""
        return self._made is not None and self.wanted and self._native.settle(self._made.fileno())

    def interest(self, call: BlockingCall) -> Interest:
        """How a task waits; by ``call`` in a helper thread where there is no descriptor."""
        try:
            number = self.fileno()
        except (OSError, KinfolkError):
            return Interest(call=call)
        if self.settle():
            return Interest(again_in=0)
        hangup = () if self._presence is None else (self._presence.fileno(),)
        return Interest(readable=(number,), hangup=hangup)

    def close(self) -> None:
        """Give it back."""
        made, self._made = self._made, None
        if made is not None:
            made.close()


class Room:
    """The descriptor that is writable when there is room."""

    def __init__(self, polling: Polling) -> None:
        """Told of room by ``polling``."""
        self._polling = polling
        self._flag: Descriptor | None = None
        self._watch: Watch | None = None
        self._pid = 0

    def fileno(self) -> int:
        """Its number. Raises LimitReached, OSError."""
        self._polling.fileno()
        if self._flag is None or self._pid != os.getpid():
            self.close()
            made = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._flag, self._pid = Descriptor(made, "room"), os.getpid()
            self.refused()
        return self._flag.fileno()

    def refused(self) -> None:
        """There was no room: it is not writable until there is."""
        if self._flag is None or self._pid != os.getpid():
            return
        self._leave()
        number = self._flag.fileno()
        if self._polling.settle():
            return
        _fill(number)
        self._watch = watching(
            self._polling.fileno(), events=select.EPOLLIN, waker=Ring.lowering(number)
        )

    def _leave(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.leave()

    def close(self) -> None:
        """Give it back."""
        self._leave()
        flag, self._flag = self._flag, None
        if flag is not None:
            flag.close()


def _fill(number: int) -> None:
    try:
        os.eventfd_write(number, _FULL)
    except BlockingIOError:
        return  # it is


def _refused(error: OSError, subject: str) -> OSError | KinfolkError:
    if error.errno == errno.EBADF:
        return Closed("this end is closed", subject=subject)
    if error.errno not in {errno.EMFILE, errno.ENOSPC}:
        return error
    return LimitReached(
        "there is no descriptor to wait on",
        subject=subject,
        why="it takes an instance and a watch of inotify(7), of which a user has so many",
        remedy="raise fs.inotify.max_user_instances (or ulimit -n), wait in recv() or send(), or await them",
        code=error.errno,
    )
