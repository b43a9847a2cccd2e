"""How a thread waits: in poll(2), with an eventfd of its own by which any other thread wakes it.

What blocks is a thread, so a thread has it: ten thousand open ends need no descriptors for this.

Rules:
1. It is made when the thread blocks for the first time, and kept for its next wait. A forked child would share its parent's, so it closes
   that at once (later the number may be somebody else's there: a daemon closes all that it has inherited), and makes its own.
2. One wait at a time has it, from before others can wake it until it is over. A wait inside a wait (a signal handler
   that receives) gets one of its own, and so can't take a wake that was meant for the outer one.
"""

from __future__ import annotations

import math
import os
import select
import threading
from threading import get_ident

from kinfolk.deadlines import Deadline
from kinfolk.errors import from_os_error
from kinfolk.interest import Interest, timed_out


class ThreadWaiter:
    """The calling thread's own eventfd, with which any other thread wakes it from poll(2)."""

    __slots__ = ("__weakref__", "_fd", "_interest", "_owner", "_pid", "_poll", "caller")

    def __init__(self) -> None:
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise from_os_error(error, "a blocking call can't be made wakeable") from error
        # Closes the number when it is dropped, and is no Python: a __del__ that is interrupted closes nothing.
        self._owner = select.epoll.fromfd(self._fd)
        self._pid = os.getpid()
        self.caller = get_ident()
        self._interest: Interest | None = None  # what _poll was made for
        self._poll = select.poll()

    def wake(self) -> None:
        """Make the thread's poll return; safe from any thread."""
        os.eventfd_write(self._fd, 1)

    def wait(self, interest: Interest, deadline: Deadline, what: str) -> None:
        """Sleep until the interest is ready or somebody wakes this thread. Raises Timeout."""
        if interest is not self._interest:  # mostly a thread waits for the same one again and again
            poll = select.poll()
            for fd, mask in interest.masks().items():
                poll.register(fd, mask)
            poll.register(self._fd, select.POLLIN)
            self._poll, self._interest = (
                poll,
                interest,
            )  # both, or neither: a signal handler may raise
        patience = deadline.milliseconds()
        if interest.again_in is not None:
            pause = math.ceil(interest.again_in * 1000)
            patience = pause if patience is None else min(patience, pause)
        ready = self._poll.poll(patience)
        if not ready and deadline.passed():
            raise timed_out(what, deadline)
        for fd, _ in ready:
            if fd == self._fd:
                os.eventfd_read(fd)

    @property
    def usable(self) -> bool:
        """False in a forked child, whose parent still waits on the same eventfd."""
        return self._pid == os.getpid()


class _ThreadLocal(threading.local):
    waiter: ThreadWaiter | None = None


_this_thread = _ThreadLocal()


def lend() -> ThreadWaiter:
    """The calling thread's own, until `take_back`. Raises LimitReached when no descriptor is left for it."""
    waiter, _this_thread.waiter = _this_thread.waiter, None
    return ThreadWaiter() if waiter is None else waiter


def take_back(waiter: ThreadWaiter) -> None:
    """Keep it for the next wait of this thread. Whoever does not come to it costs the next wait a descriptor."""
    _this_thread.waiter = waiter if waiter.usable else None  # a signal handler forked in the middle


def _after_fork_in_child() -> None:
    _this_thread.waiter = None


os.register_at_fork(after_in_child=_after_fork_in_child)
