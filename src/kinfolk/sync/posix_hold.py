"""The POSIX record locks of this process (fcntl(2), F_SETLK), parted between its threads.

To the kernel the whole process is one owner: a second thread that locks the same bytes simply gets them, and one that unlocks them unlocks them for all. So
the threads and tasks of a process take turns here first, and what the process has in the kernel is what they hold together.

    attempt ── somebody here holds or waits for the bytes? ── yes ──> an eventfd: looked at again when one is closed
                  │ no: reserved
                  └── F_SETLK ── others have them ──> F_SETLKW

Rules:
1. Reserving, and giving back what nobody else here has, happen under the lock of the table, together with the unlocking in the kernel. So no thread
   unlocks what another one has just got.
2. Who shares bytes with others here leaves them locked.
3. While anybody here has such a lock, no descriptor of the file is closed by us (`lock_table`). What others in this process close
   drops the locks all the same; that is found out by `check`, and said.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import ClassVar

from kinfolk import record_locks
from kinfolk.errors import NotOwner, from_os_error
from kinfolk.interest import Interest
from kinfolk.sync import lock_table
from kinfolk.sync.lock_holds import END, Hold, Span, blocking_pid
from kinfolk.sync.lock_path import Inode


class _Part:
    """Bytes that a thread or task of this process has, or is about to get in the kernel."""

    def __init__(self, span: Span, *, shared: bool) -> None:
        self.span, self.shared = span, shared


#: by file: what is held or reserved here, and the eventfds of those who wait for that
_parts: dict[Inode, list[_Part]] = {}
_waiting: dict[Inode, list[int]] = {}


class PosixHold(Hold):
    """F_SETLK: of bytes, by this process; among its threads, by one of them."""

    family: ClassVar[str] = "record"
    writes: ClassVar[bool] = True

    _bell = -1  # the eventfd
    _part: _Part | None = None  # once it is reserved

    def attempt(self) -> Interest | None:
        """Among the threads first, then in the kernel."""
        if self._part is None and not self._reserve():
            self._refuse_to_wait_for_itself()
            return Interest(readable=(self._bell,))
        return super().attempt()

    def _reserve(self) -> bool:
        with lock_table.lock:
            here = _parts.setdefault(self.inode, [])
            for other in tuple(here):
                if not (self.shared and other.shared) and self.span.overlaps(other.span):
                    self._listen()
                    return False
            self._part = _Part(self.span, shared=self.shared)
            here.append(self._part)
            _parts[self.inode] = (
                here  # a hold that was dropped just now, in this very thread, may have removed it
            )
            lock_table.keep_open(self.inode)
            return True

    def _listen(self) -> None:
        if self._bell < 0:
            try:
                self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            except OSError as error:
                raise from_os_error(error, "it can't be waited for", self._subject) from error
            _waiting.setdefault(self.inode, []).append(self._bell)
        else:
            try:
                os.eventfd_read(self._bell)
            except BlockingIOError:
                return

    def _set(self, kind: int) -> bool:
        return record_locks.try_to_set(self.fileno(), fcntl.F_SETLK, kind, *self.span)

    def blocking(self) -> tuple[int, int, int, int]:
        """By F_SETLKW."""
        return fcntl.F_SETLKW, fcntl.F_RDLCK if self.shared else fcntl.F_WRLCK, *self.span

    def blocker(self) -> int | None:
        """F_GETLK names processes with POSIX locks, but this one."""
        return blocking_pid(self, fcntl.F_GETLK)

    def downgrade(self) -> None:
        """Exclusive becomes shared, for the other threads too."""
        super().downgrade()
        with lock_table.lock:
            if self._part is not None:
                self._part.shared = True
            self._ring()

    def check(self) -> None:
        """Raise NotOwner when something in this process has closed another descriptor of the file."""
        # Of our own locks the kernel tells nothing, unless one asks as somebody else: as this open file description.
        try:
            found = record_locks.ask(self.fileno(), fcntl.F_OFD_GETLK, fcntl.F_WRLCK, *self.span)
        except OSError:  # a kernel that knows no such owners
            return
        # Of several who share, one is told of; that need not be this process.
        if found is None or not (self.shared or found.pid == os.getpid()):
            raise NotOwner(
                "it was lost before it was released, and others may have had it",
                subject=self._subject,
                why="this process has closed another descriptor of the file, which drops all its POSIX locks on it (fcntl(2))",
                remedy='read and write by fileno() of the lock, or use kind="ofd"',
            )

    def close(self) -> None:
        """Unlock what no other thread has, and close when none has anything."""
        with lock_table.lock:
            self._listen_no_more()
            super().close()

    def _listen_no_more(self) -> None:
        bell, bells = self._bell, _waiting.get(self.inode, [])
        if bell in bells:  # it is written to no more, before it is closed
            bells.remove(bell)
        if not bells:
            _waiting.pop(self.inode, None)
        self._bell = -1
        if bell >= 0:
            os.close(bell)

    def _unlock(self) -> None:
        # Step by step so that it can be done again, after an interrupt, from the beginning.
        here, part = _parts.get(self.inode, []), self._part
        if part in here:
            for span in left_over(self.span, [other.span for other in here if other is not part]):
                with contextlib.suppress(OSError):  # closing does it too, in the end
                    record_locks.try_to_set(self.fileno(), fcntl.F_SETLK, fcntl.F_UNLCK, *span)
            here.remove(part)
            self._ring()
        if not here:
            _parts.pop(self.inode, None)
            lock_table.close_again(self.inode)

    def _ring(self) -> None:
        for bell in _waiting.get(self.inode, ()):
            os.eventfd_write(bell, 1)

    def after_fork_in_child(self) -> None:
        """Nothing is held here, nor waited for."""
        super().after_fork_in_child()
        self._part = None
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
        _parts.pop(self.inode, None)
        _waiting.pop(self.inode, None)


def left_over(span: Span, others: list[Span]) -> list[Span]:
    """What of a span no other one covers."""
    found, at = [], span.start
    for other in sorted(others):
        if at < other.start < span.end:
            found.append(_between(at, other.start))
        at = max(at, other.end)
    if at < span.end:
        found.append(_between(at, span.end))
    return found


def _between(start: int, end: int) -> Span:
    return Span(start, 0 if end == END else end - start)
