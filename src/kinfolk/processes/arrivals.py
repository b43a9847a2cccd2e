"""Every signal that comes to this process, to be passed on instead of having its effect.

    kill, sigqueue, a terminal ──> pending, blocked ──┬── signalfd of the standard ones ──┐
                                                      └── signalfd of the real-time ones ─┴─> `pass_on`

Rules:
1. All are blocked, so none interrupts, ends or stops this process; blocked ones are pending even where the
   action is to ignore them, and for a PID 1, which gets no other without a handler (kill(2)).
2. A real-time signal that its receiver has no room for is kept, and those behind it stay in the kernel: then who sends them
   here sees the queue full, as if he had sent them there. Standard ones pass meanwhile.
3. What nobody took is pending still when all is over, and comes to the program then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kinfolk import _native

#: Of signalfd(2): signo, errno, code, pid, uid; further on the value of sigqueue(3).
_HEAD = struct.Struct("=IiiII")
_VALUE = struct.Struct("=i")
_VALUE_AT = 44
_SIZE = 128
_BATCH = 64

#: Milliseconds until another try where the receiver's queue is full: nothing tells when it is not.
_NO_ROOM = 10


class Sent(NamedTuple):
    """One that has come."""

    number: int
    #: si_code of sigaction(2): who sent it, and how
    code: int
    value: int


class Arrivals:
    """What has come to this process, from `all_signals`."""

    def __init__(self, standard: int, real_time: int) -> None:
        self._standard, self._real_time = standard, real_time
        self._kept: deque[Sent] = deque()

    def wait(self, milliseconds: int | None, *others: int) -> bool:
        """Sleep until a signal has come, or another descriptor is readable; whether one of those is."""
        poll = select.poll()
        for fd in (self._standard, *others):
            poll.register(fd, select.POLLIN)
        if self._kept:
            milliseconds = _NO_ROOM if milliseconds is None else min(milliseconds, _NO_ROOM)
        else:
            poll.register(self._real_time, select.POLLIN)
        return any(fd in others for fd, _ in poll.poll(milliseconds))

    def pass_on(self, deliver: Callable[[Sent], bool]) -> None:
        """Hand over what has come. ``deliver`` says whether there was room; a standard signal that found none is lost."""
        for sent in _read(self._standard):
            deliver(sent)
        if not self._kept:
            self._kept.extend(_read(self._real_time))
        while self._kept and deliver(self._kept[0]):
            self._kept.popleft()


@contextlib.contextmanager
def all_signals() -> Iterator[Arrivals]:
    """Inside, all signals of the calling thread are blocked, and come here. Raises OSError for want of descriptors."""
    every = signal.valid_signals()
    real_time = sorted(each for each in every if each >= signal.SIGRTMIN)
    standard = sorted(set(every) - set(real_time) - {signal.SIGKILL, signal.SIGSTOP})
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with contextlib.ExitStack() as undo:
        undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        signal.pthread_sigmask(signal.SIG_BLOCK, every)
        numbers = []
        for signals in (standard, real_time):
            numbers.append(_native.open_signalfd(signals))
            undo.callback(os.close, numbers[-1])
        yield Arrivals(*numbers)


def _read(fd: int) -> list[Sent]:
    try:
        data = os.read(fd, _BATCH * _SIZE)
    except BlockingIOError:
        return []
    return [
        Sent(*_HEAD.unpack_from(data, at)[:3:2], *_VALUE.unpack_from(data, at + _VALUE_AT))
        for at in range(0, len(data), _SIZE)
    ]
