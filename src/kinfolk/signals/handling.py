"""What becomes of a signal that is delivered: a function, nothing, or the default, for as long as a block runs.

    kernel's action    _native.signal_action      what really happens; also of handlers that C code set
    Python's table     signal.getsignal           which function Python calls, when the action is Python's

Rules:
1. Both are kept before, and both put back after. Where C code had set the action, Python's table says
   SIG_DFL afterwards, as it does of every handler set by C code after Python's start.
2. Handlers are for the whole process, and Python calls them in the main thread alone: only there they are set.
3. A handler is told who sent the signal: native/signal_info.c keeps that, for Python forgets it.
"""

from __future__ import annotations

import contextlib
import os
import signal as python
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from kinfolk import _native
from kinfolk.errors import InvalidValue, Unsupported
from kinfolk.signal_table import Like, number_of, numbers_of
from kinfolk.signals.arrived import Arrived
from kinfolk.signals.mask import blocked

Function = Callable[[Arrived], Any]

_IGNORED = 1
_SA_NOCLDWAIT = 2
_TRIES = 1000  # in a storm of signals whose handler raises


@contextlib.contextmanager
def handle(signals: Like | Iterable[Like], function: Function) -> Iterator[None]:
    """Inside, call ``function(arrived)`` for each signal that comes, in the main thread, between two steps of Python code.

    ``arrived`` says who sent it. Calls coalesce: when several of one signal come before Python gets to it, real-time ones
    too, there is one call, for the latest. Where each counts, use `stream`. An exception from the function comes out of
    whatever the main thread does just then. Afterwards everything is as it was, also a handler set by C code.

    A real fault (SIGSEGV, SIGBUS, SIGFPE, SIGILL raised by the processor) ends the process all the same: returning would
    repeat it for ever. A forked child has the handlers too; an exec puts the default back. Raises
    Unsupported outside the main thread; InvalidValue for no such signal, SIGKILL, SIGSTOP, no function.
    """
    if not callable(function):
        raise InvalidValue(
            f"{function!r} can't be called",
            remedy="give a function; kinfolk.signals.ignore and default take none",
        )

    def deliver(number: int, frame: FrameType | None) -> None:
        info = _native.recorded_signal(number)
        signal = number_of(number)
        function(Arrived(signal) if info is None else Arrived.from_kernel(signal, *info))

    def install(number: int) -> None:
        python.signal(number, deliver)
        _native.record_signal(number)

    with _installed(signals, install):
        yield


@contextlib.contextmanager
def ignore(signals: Like | Iterable[Like]) -> Iterator[None]:
    """Inside, signals have no effect on this process.

    Nor on what is started inside, by `kinfolk.spawn` or otherwise, and what that starts (execve(2)), also later. But in children of
    `kinfolk.spawn` SIGCHLD, SIGPIPE and SIGXFSZ are as a program, or a Python function, expects them, whatever is ignored here.
    With SIGCHLD ignored children leave neither zombie nor status: see `children_are_reaped_unseen`. Errors as of `handle`.
    """
    with _installed(signals, lambda number: python.signal(number, python.SIG_IGN)):
        yield


@contextlib.contextmanager
def default(signals: Like | Iterable[Like]) -> Iterator[None]:
    """Inside, signals do what the kernel does by default: see `table`. Errors as of `handle`.

    Python itself ignores SIGPIPE and SIGXFSZ, and turns SIGINT into KeyboardInterrupt. With SIGPIPE's default, a
    channel whose receivers have gone ends the process, where `BrokenChannel` is raised otherwise.
    """
    with _installed(signals, lambda number: python.signal(number, python.SIG_DFL)):
        yield


def children_are_reaped_unseen() -> bool:
    """Whether the kernel throws the statuses of ended children away: SIGCHLD ignored, or SA_NOCLDWAIT.

    Then no child becomes a zombie, nobody learns how it ended, and wait(2) blocks until all have (sigaction(2)).
    Thread-safe.
    """
    kind, flags, _ = _native.signal_action(python.SIGCHLD)
    return kind == _IGNORED or bool(flags & _SA_NOCLDWAIT)


class _Before(NamedTuple):
    """How a signal was handled."""

    number: int
    function: Any  # in Python's table; None when C code had set the action before Python started
    action: bytes  # the kernel's


@contextlib.contextmanager
def _installed(signals: Like | Iterable[Like], install: Callable[[int], Any]) -> Iterator[None]:
    numbers = sorted(numbers_of(signals))
    _refuse_other_threads()
    before: list[_Before] = []
    try:
        for number in numbers:
            action = _native.signal_action(number)[2]
            before.append(_Before(number, python.getsignal(number), action))
            install(number)
        yield
    finally:
        try:
            _put_back(before)
        except BaseException:  # of a handler, between any two steps
            _put_back(before)
            raise


def _refuse_other_threads() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise Unsupported(
            "handlers can't be set or put back here",
            why="Python sets and runs them in the main thread alone",
            remedy="do it there, or take signals in this thread with kinfolk.signals.stream",
        )


def _put_back(before: list[_Before]) -> None:
    """Put back all that is left; what handlers raise meanwhile goes on its way afterwards."""
    _refuse_other_threads()
    raised: BaseException | None = None
    for _ in range(_TRIES):
        if not before:
            break
        number, function, action = before[-1]
        try:
            with blocked(number):  # between the two steps the action may be the default
                python.signal(number, python.SIG_DFL if function is None else function)
                _native.set_signal_action(number, action)
            before.pop()
        except BaseException as error:
            # signal.signal first calls the handlers that are due, and sets nothing when one raises. They are due once.
            raised = raised or error
    if raised is not None:
        raise raised


os.register_at_fork(after_in_child=_native.signals_after_fork)
