"""One operation at a time through one direction of one end, and a close that wakes them all.

Rules:
1. Operations pass a `Turnstile` in order of arrival, whether they come from a thread or from a task.
2. `Turnstile.close` wakes everybody who waits in it, in whatever thread or loop, and they raise Closed.
   Only when the last one has left it are the descriptors closed, so none is used after.
3. Who is inside is known by a token of his own, laid down in one step. So a KeyboardInterrupt between any two steps leaves
   no doubt whether he got in: `leave` is called after every attempt, does nothing for who is outside, and may be repeated.
4. A forked child finds it empty, for the threads that waited here do not exist there; if one was inside
   at the fork, the end may be in the middle of a message, and the copy raises ForkedCopy.
5. With the token stands the caller: the thread, for a blocking call; the event loop, for a task. Nobody stands in line behind a caller who
   goes on only when he himself has: that is a UsageError, not a wait for ever. A blocking call stops its thread (what it
   was called from: a generator that is being sent, what a signal handler interrupted) and the loop that runs there; a task stops only
   the call that it was made from. So tasks of one thread are several callers, and wait for each other.
6. At the exit of the interpreter it expires: nobody goes on in it, nor comes in; whoever tries sleeps until his deadline or a
   close, and nobody stands against closing what is to be closed. See `kinfolk.interpreter_exit`.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Literal, NoReturn, Protocol

from kinfolk import interpreter_exit
from kinfolk.errors import Closed, ForkedCopy, UsageError


class Sleeper(Protocol):
    """Somebody who is suspended, and how to wake him from any thread."""

    def wake(self) -> None:
        """Make him look again."""


#: Who calls: the number of a thread (an int), or the event loop of a task.
Caller = object


class Waiter(Sleeper, Protocol):
    """Somebody who stands in line."""

    @property
    def caller(self) -> Caller:
        """Who he is."""


class Turnstile:
    """The door of one direction of one end. Thread-safe.

    Passing it alone costs one entry in a dict and its removal, for every message does that twice.
    """

    __slots__ = (
        "__weakref__",
        "_expired",
        "_inside",
        "_on_empty",
        "_queue",
        "_settled",
        "_shut",
        "_sleeper",
        "_torn",
        "closed",
        "finished",
        "subject",
        "waits",
    )

    def __init__(self, subject: str, on_empty: Callable[[], None]) -> None:
        """``subject`` is for messages; ``on_empty`` runs once, when closed and left by all."""
        self.subject = subject
        self.closed = False
        self.finished = False  # what is to be closed is
        self.waits = 0  # how often an operation inside had to sleep
        self._on_empty: Callable[[], None] | None = on_empty
        self._torn = self._expired = self._settled = False
        self._shut = False  # closed or expired
        # The token of who is inside, and who he is: setdefault is atomic.
        self._inside: dict[None, tuple[object, Caller]] = {}
        self._clear()
        _turnstiles.add(self)

    def _clear(self) -> None:
        self._inside.clear()
        self._sleeper: Sleeper | None = None  # who is inside, while asleep
        self._queue: deque[Waiter] = deque()

    def after_fork_in_child(self) -> None:
        """Start anew in a forked child."""
        self._torn = self._torn or bool(self._inside)
        self._clear()

    @property
    def inside(self) -> Mapping[None, object]:
        """Empty while nobody is inside; always the same object."""
        return self._inside

    def enter(self, token: object, caller: Caller | None = None) -> bool:
        """Step in when nobody is inside or in line; ``token`` is this attempt's own. Raises Closed, ForkedCopy.

        ``caller`` is the event loop when a task calls.
        """
        if self._shut or self._torn:
            return self._refuse()
        if self._queue or not self._occupy(token, get_ident() if caller is None else caller):
            return False
        if self._shut:  # since it was last looked at
            self.leave(token)
            return self._refuse()
        return True

    def _occupy(self, token: object, caller: Caller) -> bool:
        mine = (token, caller)
        return self._inside.setdefault(None, mine) is mine

    def queue(self, waiter: Waiter, *stopped: Caller | None) -> None:
        """Stand in line; the waiter is woken when it is its turn or the end is closed.

        Raises UsageError when one of those who are ``stopped`` by the waiting is inside or in line.
        """
        for caller in () if self._shut else self._present():
            if caller in stopped:
                self._refuse_to_wait_for(caller)
        self._queue.append(waiter)
        # Who left before the line above saw nobody in line.
        if self._shut or not self._inside:
            self._wake_next()

    def _present(self) -> list[Caller]:
        inside = self._inside.get(None)
        in_line = [waiter.caller for waiter in tuple(self._queue)]
        return in_line if inside is None else [inside[1], *in_line]

    def _refuse_to_wait_for(self, caller: Caller) -> NoReturn:
        if isinstance(caller, int):
            raise UsageError(
                "this call would wait for itself",
                subject=self.subject,
                why="this thread is in the middle of another call on this end, which goes on only after this one"
                " (was it made by a generator that is being sent, or by a signal handler?)",
                remedy="make it when the other has returned, or in another thread",
            )
        raise UsageError(
            "this call would wait for itself",
            subject=self.subject,
            why="a task of the event loop in this thread is using this end, and a blocking call stops the loop",
            remedy="await the call's awaitable twin",
        )

    def enter_from_queue(self, waiter: Waiter, token: object) -> bool:
        """Step in when it is this waiter's turn. Raises Closed."""
        if self._shut or self._torn:
            return self._refuse()
        if self._queue[0] is not waiter or not self._occupy(token, waiter.caller):
            return False
        if self._shut:
            self.leave(token)
            return self._refuse()
        self._queue.popleft()
        return True

    def leave_queue(self, waiter: Waiter) -> None:
        """Give up waiting, after a timeout, a cancellation or a close."""
        with contextlib.suppress(ValueError):
            self._queue.remove(waiter)
        if not self._inside:
            self._wake_next()

    def asleep(self, sleeper: Sleeper) -> bool:
        """Who is inside goes to sleep, and wants to hear of a close. Raises Closed.

        False when nothing but that may wake him: whatever he waited for is about to be closed.
        """
        self._sleeper = sleeper
        self.waits += 1
        # `close` shuts before it looks for a sleeper: one of the two sees the other.
        if self._shut:
            self._refuse()
            self._settled = True
            interpreter_exit.progress()
            return False
        return True

    def awake(self, done: bool = False) -> bool:
        """Who is inside woke up, perhaps with its operation ``done``. Raises Closed when it was a close, unless so.

        False when it has to go on sleeping, whatever it waited for.
        """
        self._sleeper = None
        return done or not self._shut or self._refuse()

    def leave(self, token: object) -> None:
        """Step out, if inside; the next in line is woken, or, when closed, what is to be closed is."""
        inside = self._inside.get(None)
        if inside is not None and inside[0] is token:
            self._sleeper = None
            del self._inside[None]
        if self._queue and not self._inside:
            self._wake_next()
        if self._shut:
            self._left_for_ever()

    def close(self) -> None:
        """Wake everybody inside and in line; they raise Closed. Closing twice does nothing."""
        self.closed = self._shut = True
        for waiter in tuple(self._queue):
            waiter.wake()
        self.wake()
        self._left_for_ever()

    def expire(self) -> None:
        """Fall silent, at the exit of the interpreter: nobody comes in any more, nor goes on inside."""
        self._expired = self._shut = True

    def wake(self) -> None:
        """Wake who sleeps inside."""
        if (sleeper := self._sleeper) is not None:
            sleeper.wake()

    def quiet(self) -> bool:
        """Whether nobody is inside, or he sleeps and holds nothing.

        A thread in poll(2) does hold something: a descriptor that is closed meanwhile stays open until that returns. So it
        has to have woken up, and to sleep where nothing but a close wakes it; and so has a task, which may be just about to
        sleep. But a loop that does not run wakes nobody, and its tasks do nothing.
        """
        inside = self._inside.get(None)
        if self.finished or inside is None or self._settled:
            return True
        loop_runs = getattr(inside[1], "is_running", None)
        return loop_runs is not None and not loop_runs() and self._sleeper is not None

    def _refuse(self) -> Literal[False]:
        """Raise what stands against using it; False when it has fallen silent."""
        if self._expired and not self.closed and not interpreter_exit.is_here():
            return False
        if self._shut:
            why = "" if self.closed else "the interpreter ends"
            raise Closed("this end is closed", subject=self.subject, why=why)
        raise ForkedCopy(
            "this copy can't be used",
            subject=self.subject,
            why="another thread was using it when this process was forked",
            remedy="fork while it is idle, or open an end of its own in the child",
        )

    def _wake_next(self) -> None:
        with contextlib.suppress(IndexError):
            self._queue[0].wake()

    def _left_for_ever(self) -> None:
        if self._expired:
            interpreter_exit.progress()
        # If nobody is inside, it stays occupied from now on: nobody comes in any more, and this is done once.
        elif self._occupy(object(), None):
            self.finish()

    def finish(self) -> None:
        """Close what is to be closed, if that was not begun yet."""
        ending, self._on_empty = self._on_empty, None
        if ending is not None:
            try:
                ending()
            finally:
                self.finished = True
                if self._expired:
                    interpreter_exit.progress()


_turnstiles: weakref.WeakSet[Turnstile] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for turnstile in list(_turnstiles):
        turnstile.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _all() -> list[Turnstile]:
    while True:
        try:
            return list(_turnstiles)
        except RuntimeError:  # another thread opened an end meanwhile
            continue


interpreter_exit.close_at_exit(_all)
