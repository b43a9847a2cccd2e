"""Threads that block so that an event loop need not: where the kernel gives no descriptor to wait on.

System V queues need them, semaphores, file locks, whatever is waited for in a system call of its own. One thread can block in one
of them at a time, so there is one for each that some task waits for just now; when the wait is over, the thread is kept for the next one.

Rules:
1. A thread runs one call, reports its end, and sleeps until it gets another: no polling, no CPU.
2. Who gave the call ends it (`BlockingCall.wake`); a helper never gives up on its own.
3. They are daemon threads, and at the exit of the interpreter they are woken and waited for: none of them
   stands in the way, and none is left.
4. A forked child has none; it makes its own.
5. They take no signals: those are for threads of the program, which may wait for them (`kinfolk.signals`).
"""

from __future__ import annotations

import errno
import os
import queue
import signal
import threading
from collections.abc import Callable
from typing import Protocol

from kinfolk import exit_hooks
from kinfolk.errors import LimitReached


class BlockingCall(Protocol):
    """A wait for which the kernel has no descriptor (msgrcv(2)), as a call that blocks."""

    def block(self, milliseconds: int | None) -> bool:
        """Return once another try is worth it, when `wake` was called, or when time is up.

        True when the call itself has done the operation (the message is sent): the steps are told, whatever
        else has happened meanwhile.
        """

    def wake(self) -> None:
        """Make `block` return soon, in whatever thread it runs, also if it is only about to."""


#: What is told at the end of a call: its result, or the exception that it raised.
Report = Callable[[bool, BaseException | None], None]

_KEPT = 8  # idle threads; more of them end when their call has


class _Helper:
    """One thread and the way to give it calls."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[BlockingCall, int | None, Report] | None] = (
            queue.SimpleQueue()
        )
        self.call: BlockingCall | None = None  # what it blocks in, or is about to
        self.thread = threading.Thread(target=self._run, name="kinfolk helper", daemon=True)
        self.thread.start()

    def give(self, call: BlockingCall, milliseconds: int | None, report: Report) -> None:
        self.call = call
        self._inbox.put((call, milliseconds, report))

    def dismiss(self) -> None:
        self._inbox.put(None)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (work := self._inbox.get()) is not None:
            call, milliseconds, report = work
            done, error = False, None
            try:
                done = call.block(milliseconds)
            except BaseException as raised:
                error = raised
            self.call = None
            if not _is_free(self):
                self.dismiss()
            report(done, error)
            del call, report, work, error  # an idle thread keeps nothing alive


class _Crew:
    """All helpers of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[_Helper] = []
        self.all: set[_Helper] = set()
        self.ending = False


_crew = _Crew()


def run(call: BlockingCall, milliseconds: int | None, report: Report) -> None:
    """Run ``call.block`` in a helper; ``report`` is called in that thread. Thread-safe.

    Raises LimitReached when no thread can be started.
    """
    with _crew.lock:
        try:
            helper = _crew.idle.pop() if _crew.idle else _Helper()
        except RuntimeError as error:
            raise LimitReached(
                "a task can't wait here",
                why=f"{error}, and there is no descriptor to wait on",
                remedy="end some threads, or raise the limit (ulimit -u); for queues, use mq: instead of sysv-mq:",
                code=errno.EAGAIN,
            ) from error
        _crew.all.add(helper)
        helper.give(call, milliseconds, report)


def _is_free(helper: _Helper) -> bool:
    """Whether the helper is kept for another call."""
    with _crew.lock:
        kept = len(_crew.idle) < _KEPT and not _crew.ending
        if kept:
            _crew.idle.append(helper)
        else:
            _crew.all.discard(helper)
        return kept


def _at_exit() -> None:
    with _crew.lock:
        _crew.ending = True
        helpers = list(_crew.all)
        _crew.idle.clear()
    for helper in helpers:
        call = helper.call
        if call is not None:
            call.wake()
        helper.dismiss()
    for helper in helpers:
        helper.thread.join()


def _after_fork_in_child() -> None:
    global _crew  # noqa: PLW0603
    _crew = _Crew()


os.register_at_fork(after_in_child=_after_fork_in_child)
exit_hooks.register(_at_exit)
