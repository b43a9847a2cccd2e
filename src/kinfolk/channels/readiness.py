"""A descriptor that is readable when a message is here, also one that was read ahead, or when none will come.

    epoll ──┬── the kernel's descriptor: bytes that nobody has read
            ├── an eventfd: a message in user space
            └── the presence of the senders, where the descriptor does not hang up itself

Whoever reads ahead takes bytes from where the kernel looks, and a bare descriptor would be silent about them. A queue is
silent about who has gone.

Rules:
1. Made only for who asks for a descriptor; whoever does not pays nothing.
2. It may be readable without a message (half of one came), never silent about one.
3. fork shares both: a copy makes its own and leaves these alone.
"""

from __future__ import annotations

import os
import select


class Readiness:
    """Joins what the kernel knows with what is in user space. Not thread-safe: told by one receive at a time."""

    def __init__(self, kernel: int, hangups: tuple[int, ...] = ()) -> None:
        """``kernel`` is readable when the kernel has something; ``hangups`` hang up when all senders have gone."""
        self._pid = os.getpid()
        self._epoll = select.epoll()
        try:
            self._flag = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._epoll.close()
            raise
        self._told = False
        try:
            self._epoll.register(kernel, select.EPOLLIN)
            self._epoll.register(self._flag, select.EPOLLIN)
            for fd in hangups:
                self._epoll.register(fd, 0)
        except BaseException:  # a limit of the kernel's (epoll_ctl(2), ENOSPC)
            self.close()
            raise

    @property
    def is_a_copy(self) -> bool:
        """Whether another process made it."""
        return self._pid != os.getpid()

    def tell(self, waiting: bool) -> None:
        """Say whether a message is in user space."""
        if waiting is self._told or self.is_a_copy:
            return
        self._told = waiting
        if waiting:
            os.eventfd_write(self._flag, 1)
        else:
            os.eventfd_read(self._flag)

    def fileno(self) -> int:
        """Readable when there is something."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Give both back."""
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._flag)
