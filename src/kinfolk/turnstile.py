"""One operation at a time through one direction of one end, and a close that wakes them all.

Rules:
1. Operations pass a `Turnstile` in order of arrival, whether they come from a thread or from a task.
2. `Turnstile.close` wakes everybody who waits in it, in whatever thread or loop, and they raise Closed.
   Only when the last one has left it are the descriptors closed, so none is used after.
3. Who is inside is known by a token of his own, laid down in one step. So a KeyboardInterrupt between any two steps leaves
   no doubt whether he got in: `leave` is called after every attempt, does nothing for who is outside, and may be repeated.
4. A forked child finds it empty, for the threads that waited here do not exist there; if one was inside
   at the fork, the end may be in the middle of a message, and the copy raises ForkedCopy.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol

from kinfolk.errors import Closed, ForkedCopy


class Waiter(Protocol):
    """Somebody who is suspended, and how to wake him from any thread."""

    def wake(self) -> None:
        """Make him look again."""


class Turnstile:
    """The door of one direction of one end. Thread-safe.

    Passing it alone costs one entry in a dict and its removal, for every message does that twice.
    """

    __slots__ = (
        "__weakref__",
        "_inside",
        "_on_empty",
        "_queue",
        "_sleeper",
        "_torn",
        "closed",
        "subject",
        "waits",
    )

    def __init__(self, subject: str, on_empty: Callable[[], None]) -> None:
        """``subject`` is for messages; ``on_empty`` runs once, when closed and left by all."""
        self.subject = subject
        self.closed = False
        self.waits = 0  # how often an operation inside had to sleep
        self._on_empty: Callable[[], None] | None = on_empty
        self._torn = False
        self._clear()
        _turnstiles.add(self)

    def _clear(self) -> None:
        self._inside: dict[None, object] = {}  # the token of who is inside: setdefault is atomic
        self._sleeper: Waiter | None = None  # who is inside, while asleep
        self._queue: deque[Waiter] = deque()

    def after_fork_in_child(self) -> None:
        """Start anew in a forked child."""
        self._torn = self._torn or bool(self._inside)
        self._clear()

    def enter(self, token: object) -> bool:
        """Step in when nobody is inside or in line; ``token`` is this attempt's own. Raises Closed, ForkedCopy."""
        if self.closed or self._torn:
            self._refuse()
        if self._queue or self._inside.setdefault(None, token) is not token:
            return False
        if self.closed:  # since it was last looked at
            self._refuse()
        return True

    def queue(self, waiter: Waiter) -> None:
        """Stand in line; the waiter is woken when it is its turn or the end is closed."""
        self._queue.append(waiter)
        # Who left before the line above saw nobody in line.
        if self.closed or not self._inside:
            self._wake_next()

    def enter_from_queue(self, waiter: Waiter, token: object) -> bool:
        """Step in when it is this waiter's turn. Raises Closed."""
        if self.closed or self._torn:
            self._refuse()
        if self._queue[0] is not waiter or self._inside.setdefault(None, token) is not token:
            return False
        self._queue.popleft()
        if self.closed:
            self._refuse()
        return True

    def leave_queue(self, waiter: Waiter) -> None:
        """Give up waiting, after a timeout, a cancellation or a close."""
        with contextlib.suppress(ValueError):
            self._queue.remove(waiter)
        if not self._inside:
            self._wake_next()

    def asleep(self, waiter: Waiter) -> None:
        """Who is inside goes to sleep, and wants to hear of a close. Raises Closed."""
        self._sleeper = waiter
        self.waits += 1
        # `close` sets closed before it looks for a sleeper: one of the two sees the other.
        if self.closed:
            self._refuse()

    def awake(self, done: bool = False) -> None:
        """Who is inside woke up, perhaps with its operation ``done``. Raises Closed when it was a close, unless so."""
        self._sleeper = None
        if self.closed and not done:
            self._refuse()

    def leave(self, token: object) -> None:
        """Step out, if inside; the next in line is woken, or, when closed, what is to be closed is."""
        if self._inside.get(None) is token:
            self._sleeper = None
            del self._inside[None]
        if self._queue and not self._inside:
            self._wake_next()
        if self.closed:
            self._finish()

    def close(self) -> None:
        """Wake everybody inside and in line; they raise Closed. Closing twice does nothing."""
        self.closed = True
        for waiter in tuple(self._queue):
            waiter.wake()
        if (sleeper := self._sleeper) is not None:
            sleeper.wake()
        self._finish()

    def _refuse(self) -> NoReturn:
        if self.closed:
            raise Closed("this end is closed", subject=self.subject)
        raise ForkedCopy(
            "this copy can't be used",
            subject=self.subject,
            why="another thread was using it when this process was forked",
            remedy="fork while it is idle, or open an end of its own in the child",
        )

    def _wake_next(self) -> None:
        with contextlib.suppress(IndexError):
            self._queue[0].wake()

    def _finish(self) -> None:
        last = object()
        if self._inside.setdefault(None, last) is not last:
            return  # somebody is inside, and finishes when leaving
        # From now on it stays occupied: nobody comes in any more, and this runs once.
        ending, self._on_empty = self._on_empty, None
        if ending is not None:
            ending()


_turnstiles: weakref.WeakSet[Turnstile] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for turnstile in list(_turnstiles):
        turnstile.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
