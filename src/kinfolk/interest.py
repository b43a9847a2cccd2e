"""What an operation waits for, kept apart from how the waiting is done (`kinfolk.waiting`).

An operation on a channel is written once, as a generator (`Steps`): it tries its system call and, when the kernel says
"not now", yields an `Interest`: the descriptors that will say when. So no mechanism knows whether a thread or
an asyncio task waits for it. (psycopg 3 drives its protocol like this.)

Rules:
1. A generator keeps whatever must survive a timeout or a cancellation in its object, never in its frame: a driver
   may close it at any yield.
2. What can't be polled is a `BlockingCall`: a thread runs it itself, a task has a helper thread run it, unless the Interest
   says what it can wait for instead (`awaited`).
"""

from __future__ import annotations

import select
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from kinfolk.deadlines import Deadline
from kinfolk.errors import Timeout
from kinfolk.helper_threads import BlockingCall

T = TypeVar("T")


class Interest(NamedTuple):
    """What, once ready, is worth another try: any of these."""

    readable: tuple[int, ...] = ()
    writable: tuple[int, ...] = ()
    #: descriptors of which only a hang-up or an error matters (the presence of the other side)
    hangup: tuple[int, ...] = ()
    #: try again after so many seconds, where the kernel announces nothing (a name that appears)
    again_in: float | None = None
    #: instead of all the above, where there is no descriptor to wait on
    call: BlockingCall | None = None
    #: for a task, instead of the call: asked when it is about to wait
    awaited: Callable[[], Interest] | None = None

    def masks(self) -> dict[int, int]:
        """What to poll(2) or epoll(7) each descriptor for: it may stand in several roles, and has one mask."""
        masks = dict.fromkeys(self.hangup, 0)
        for fd in self.readable:
            masks[fd] = masks.get(fd, 0) | select.POLLIN
        for fd in self.writable:
            masks[fd] = masks.get(fd, 0) | select.POLLOUT
        return masks


#: Only to be woken.
NOTHING = Interest()

Steps = Generator[Interest, None, T]


def timed_out(what: str, deadline: Deadline) -> Timeout:
    """The error for an operation, ``what``, whose deadline has passed."""
    return Timeout(
        what,
        why=f"not ready within {deadline.timeout:g} s",
        remedy="see whether the other side runs, or wait longer",
    )


def ready(value: T) -> Steps[T]:
    """The steps of an operation that has nothing to wait for."""
    return value
    yield
