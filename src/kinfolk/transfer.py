"""Objects that move to a new process inside a pickle, with what no pickle can carry: their descriptors.

    owner     departing() ── pickle ── an object's __reduce__: carry(fd), moves(close) ──┐
                │                                                                        ▼
                └── the pickle, and the descriptors beside it (SCM_RIGHTS) ── then: moved()
    child     arriving(descriptors) ── unpickle ── Rider.detach() gives the number here

Who sends and who is sent don't know each other: a channel's end is floors above who starts processes. multiprocessing
carries them too (`carrier`), and copies what kinfolk.spawn moves.

Rules:
1. A departure is one thread's, and lasts as long as its block: at any other time an object that is pickled has nobody to
   carry its descriptors.
2. What is carried is a duplicate, so that an end that is closed meanwhile sends no stranger's descriptor.
3. Moving: the sender's object is closed by `moved`, once the child has unpickled its own, and before the child goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kinfolk.errors import UsageError


class Rider:
    """A descriptor on its way, as it stands in the pickle."""

    def __init__(self, place: int) -> None:
        """``place`` in the list of all that travel."""
        self.place = place

    def detach(self) -> int:
        """The number in this process, which is the caller's from now on. Only while `arriving`."""
        number = _arrived[self.place]
        if number < 0:
            raise RuntimeError("a descriptor that travelled was taken twice")
        _arrived[self.place] = -1
        return number


class Departure:
    """What leaves beside one pickle. For one thread."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self._closings: list[Callable[[], object]] = []

    def carry(self, fd: int) -> Rider:
        """Take a duplicate of a descriptor along. Raises OSError."""
        self.descriptors.append(os.dup(fd))
        return Rider(len(self.descriptors) - 1)

    def moves(self, close: Callable[[], object]) -> None:
        """Have ``close()`` called once the object is there."""
        self._closings.append(close)

    @property
    def moving(self) -> bool:
        """Whether anything moves."""
        return bool(self._closings)

    def moved(self) -> None:
        """The child has what was sent."""
        while self._closings:
            self._closings.pop()()

    def _drop(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


class _Local(threading.local):
    departure: Departure | None = None


_local = _Local()

#: What has come along with the pickle that is read just now; -1: taken.
_arrived: list[int] = []


@contextlib.contextmanager
def departing() -> Iterator[Departure]:
    """What is pickled in this thread within the block may take descriptors along, which are closed here at its end."""
    departure = Departure()
    _local.departure = departure
    try:
        yield departure
    finally:
        _local.departure = None
        departure._drop()


def current_departure() -> Departure | None:
    """The one that an object joins when it is pickled now."""
    return _local.departure


def carrier(what: str, subject: str, remedy: str) -> Callable[[int], Any]:
    """What takes a descriptor along to the process that is being started, by `kinfolk.spawn` or multiprocessing.

    Raises UsageError at any other time, saying that ``what`` can't be pickled.
    """
    if (departure := current_departure()) is not None:
        return departure.carry
    context = sys.modules.get("multiprocessing.context")  # nobody is started without it
    if context is None or context.get_spawning_popen() is None:
        raise UsageError(
            f"{what} can't be pickled",
            subject=subject,
            why="its descriptors mean nothing elsewhere",
            remedy=remedy,
        )
    import multiprocessing.reduction

    return multiprocessing.reduction.DupFd


def arrived(duplicate: Any) -> int:
    """The number that something carried has in this process: the caller's, and close-on-exec."""
    fd: int = duplicate.detach()
    os.set_inheritable(fd, False)
    return fd


@contextlib.contextmanager
def arriving(descriptors: Sequence[int]) -> Iterator[None]:
    """What is unpickled within the block finds its descriptors; those that nobody took are closed. For a new process's only thread."""
    _arrived[:] = descriptors
    try:
        yield
    finally:
        for number in _arrived:
            if number >= 0:
                os.close(number)
        _arrived.clear()
