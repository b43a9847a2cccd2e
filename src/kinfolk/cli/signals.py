"""Ended by a signal: clean up, then die of it.

SIGINT, SIGHUP and SIGTERM become an exception in the main thread, so that FIFOs and sockets that were made are removed on the
way out; then the process takes the signal's default action. A shell shows that as 128 + number and, unlike
after an exit with such a number, knows that Ctrl-C was meant for the whole script. A command that serves
(`kinfolk.cli.serving`) takes the same signals as the order to end well.

A second signal during the clean-up kills at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class EndedBySignal(BaseException):
    """A signal came that ends this process. No Exception, so that nothing takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StandardOutputClosed(EndedBySignal):
    """Nobody reads standard output any more: `kin recv … | head -c1`."""

    def __init__(self) -> None:
        super().__init__(signal.SIGPIPE)


def raise_when_ended() -> None:
    """Make the signals raise EndedBySignal. One that was ignored (nohup) stays ignored, but for SIGTERM."""
    for number in ENDING:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def stop_raising() -> None:
    """All is done and nothing left to remove: from here on a signal ends the process without a word.

    The end of the interpreter runs code of others, in which an exception would be shown with its traceback.
    """
    for number in ENDING:
        if signal.getsignal(number) in (_raise, signal.default_int_handler):
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, none of the signals comes between two steps that belong together; one that came comes at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    for each in ENDING:
        if signal.getsignal(each) is _raise:
            signal.signal(each, signal.SIG_DFL)
    raise EndedBySignal(number)


def die_of(number: int) -> NoReturn:
    """End this process by the default action of a signal."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # only if a tracer swallowed the signal
