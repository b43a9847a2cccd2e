"""Waiting for the kernel's own semaphores: the calls of this process that wait by one object.

    taking      one call that takes: it tries, and blocks so that it can be ended (native/taking_binding.c)
    Takings     all that wait just now, each in a turnstile of its own: none waits for another, and a close ends them all

Two calls by one object have nothing to do with each other: one may wait for what the other is about to put in. So there is no
turnstile for the object, as an end of a channel has one.

Rule: what was taken in the instant of an interrupt, a cancellation or a close is given back, or else returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from kinfolk._native import Finally
from kinfolk.deadlines import Deadline, deadline
from kinfolk.errors import Timeout
from kinfolk.helper_threads import BlockingCall
from kinfolk.interest import Interest, Steps
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run


class Taking(BlockingCall, Protocol):
    """One call that takes from a semaphore."""

    def attempt(self) -> bool:
        """Take, if it can be had now; whether it was taken, now or while it blocked."""

    def give_back(self) -> None:
        """Give back what was taken, if it was."""


#: Raises the Timeout of a semaphore, which was given so many seconds.
TimedOut = Callable[[float], NoReturn]


class Takings:
    """Those that wait by one object, in whatever threads and tasks."""

    def __init__(self, subject: str) -> None:
        """``subject`` is for messages."""
        self._subject = subject
        self._turnstiles: set[Turnstile] = set()
        # Kept: to drop one runs Python in a weak reference's callback, where an interrupt would be lost.
        self._idle: set[Turnstile] = set()
        self._closed = False

    def wait(self, taking: Taking, timeout: float | None, timed_out: TimedOut) -> None:
        """Have it take, in the calling thread. Raises Timeout, Closed, InvalidValue, and what the taking raises.

        The native side gives back what was taken when this raises.
        """
        limit = deadline(timeout)
        turnstile = self._lent()
        with Finally(self._take_back, turnstile):
            self._add(turnstile)
            try:
                run(_steps(taking), turnstile, limit, "acquire")
            except Timeout as error:
                _or_timed_out(error, limit, timed_out)

    async def await_(self, taking: Taking, timeout: float | None, timed_out: TimedOut) -> None:
        """`wait`, in the current task: by a helper thread, unless it can be had now."""
        limit = deadline(timeout)
        turnstile = self._lent()
        with Finally(self._take_back, turnstile):
            self._add(turnstile)
            try:
                await arun(_steps(taking), turnstile, limit, "acquire")
            except Timeout as error:
                _or_timed_out(error, limit, timed_out)
            except BaseException:
                taking.give_back()
                raise

    def _lent(self) -> Turnstile:
        try:
            return self._idle.pop()
        except KeyError:
            return Turnstile(self._subject, _nothing)

    def _take_back(self, turnstile: Turnstile) -> None:
        self._turnstiles.discard(turnstile)
        self._idle.add(turnstile)

    def _add(self, turnstile: Turnstile) -> None:
        self._turnstiles.add(turnstile)
        if self._closed:  # `close` may have looked just before
            turnstile.close()

    # ── at the exit of the interpreter: see kinfolk.interpreter_exit ─────────────────────────

    def expire(self) -> None:
        """Let nobody go on."""
        for turnstile in tuple(self._turnstiles):
            turnstile.expire()

    def wake(self) -> None:
        """Have them sleep where they need nothing."""
        for turnstile in tuple(self._turnstiles):
            turnstile.wake()

    def quiet(self) -> bool:
        """Whether they do."""
        return all(turnstile.quiet() for turnstile in tuple(self._turnstiles))

    def close(self) -> None:
        """End them all: they raise Closed."""
        self._closed = True
        for turnstile in tuple(self._turnstiles):
            turnstile.close()


def _or_timed_out(error: Timeout, limit: Deadline, timed_out: TimedOut) -> NoReturn:
    if limit.timeout is None:  # somebody else's, out of a signal handler
        raise error
    timed_out(limit.timeout)


def _steps(taking: Taking) -> Steps[None]:
    while not taking.attempt():
        yield Interest(call=taking)


def _nothing() -> None:
    """Nothing is to be closed when the last one has left."""
