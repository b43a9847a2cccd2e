"""Messages that are built where they will be read: `Sender.reserve`.

    with sender.reserve_array((480, 640, 3), "u1") as frame:     a block of shared memory, which nobody else has
        camera.read_into(frame)
                                                                  sent; dropped, if the block raises

Rules:
1. The memory is this process's until the end of the with block. Then it is sent, as one message, or given back.
2. Views that outlive the with block keep the memory from being used for anything else. What was sent is not to be written
   any more: the view that was given can't.
3. Nothing is waited for within the with block: others send and receive by the same end.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from kinfolk.channels.array_format import array_head
from kinfolk.channels.codec import ARRAY, MEMORY, OUT_OF_BAND
from kinfolk.deadlines import deadline
from kinfolk.errors import InvalidValue, KinfolkError, Unsupported, UsageError
from kinfolk.interest import Steps

View = TypeVar("View")


class Room(Protocol):
    """Memory that a transport has reserved."""

    def memory(self) -> memoryview:
        """All of it, to be written."""

    def send_now(self, kind: int) -> bool:
        """Commit it as a message, if that takes no wait, and nobody is inside the end; whether it was."""

    def send(self, kind: int) -> Steps[None]:
        """Commit it as a message."""

    def drop(self) -> None:
        """It is needed no more: given back when nobody looks into it."""


class Reserver(Protocol):
    """The end that reserves."""

    def _run_reserved(self, steps: Steps[Any], timeout: float | None) -> Any:
        """Run steps as an operation of the sending side."""

    async def _arun_reserved(self, steps: Steps[Any], timeout: float | None) -> Any:
        """The same, on asyncio."""

    def _reserved_now(self, size: int) -> Room | None:
        """Get memory, if that takes no wait, and nobody is inside the end."""

    def _reserved(self, size: int) -> Steps[Room]:
        """Get memory."""

    def _count_reserved(self, size: int) -> None:
        """It was sent."""


class Layout(Generic[View]):
    """What a message of a reservation consists of."""

    def __init__(
        self, kind: int, head: bytes, nbytes: int, view: Callable[[memoryview], View]
    ) -> None:
        """``head`` comes before ``nbytes`` bytes, of which ``view`` makes what the user gets."""
        self.kind, self.head, self.size, self._view = kind, head, len(head) + nbytes, view

    def view_of(self, memory: memoryview) -> View:
        """Write the head, and look at the rest."""
        if not self.head:
            return self._view(memory)
        memory[: len(self.head)] = self.head
        return self._view(memory[len(self.head) :])


class Reservation(Generic[View]):
    """A message that is being built. For one ``with``, or ``async with``."""

    def __init__(self, end: Reserver, layout: Layout[View], timeout: float | None) -> None:
        """Of an end; ``timeout`` in seconds, for each: to get the memory, and to send. Raises InvalidValue."""
        deadline(timeout)  # a wrong one is told also when nothing has to be waited for
        self._end, self._layout, self._timeout = end, layout, timeout
        self._room: Room | None = None
        self._view: View | None = None

    def __enter__(self) -> View:
        end, size = self._end, self._layout.size
        room = end._reserved_now(size) or end._run_reserved(end._reserved(size), self._timeout)
        return self._entered(room)

    async def __aenter__(self) -> View:
        steps = self._end._reserved(self._layout.size)
        return self._entered(await self._end._arun_reserved(steps, self._timeout))

    def _entered(self, room: Room) -> View:
        if self._room is not None:
            room.drop()
            raise UsageError("a reservation is for one with block", remedy="reserve again")
        self._room = room
        self._view = view = self._layout.view_of(room.memory())
        return view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        room = self._left()
        try:
            if kind is None and not room.send_now(self._layout.kind):
                self._end._run_reserved(room.send(self._layout.kind), self._timeout)
                self._end._count_reserved(self._layout.size)
        finally:
            room.drop()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        room = self._left()
        try:
            if kind is None and not room.send_now(self._layout.kind):
                await self._end._arun_reserved(room.send(self._layout.kind), self._timeout)
                self._end._count_reserved(self._layout.size)
        finally:
            room.drop()

    def _left(self) -> Room:
        """Nobody writes by the view any more."""
        view, self._view = self._view, None
        if view is None:
            raise UsageError(
                "this reservation is not in its with block",
                remedy="with sender.reserve(n) as view: write(view)",
            )
        if isinstance(view, memoryview):
            try:
                view.release()
            except BufferError:
                pass  # somebody has made an array of it
        else:
            view.flags.writeable = False  # type: ignore[attr-defined]
        assert self._room is not None
        return self._room


def bytes_layout(nbytes: Any, subject: str) -> Layout[memoryview]:
    """For bare memory. Raises InvalidValue."""
    try:
        size = operator.index(nbytes)
    except TypeError:
        size = -1
    if size < 0:
        raise InvalidValue(
            f"reserve({nbytes!r}) makes no sense", subject=subject, remedy="give a number of bytes"
        )
    return _bytes_layout(size)


@lru_cache(64)
def _bytes_layout(size: int) -> Layout[memoryview]:
    return Layout(MEMORY, b"", size, lambda memory: memory)


def array_layout(shape: Any, dtype: Any, subject: str) -> Layout[Any]:
    """For an array. Raises InvalidValue, Unsupported without NumPy."""
    try:
        import numpy as np
    except ImportError as error:
        raise Unsupported(
            "an array needs NumPy",
            subject=subject,
            why=str(error),
            remedy="install numpy, or use reserve()",
        ) from None
    try:
        several = not isinstance(shape, int) and np.iterable(shape)
        lengths = tuple(map(operator.index, shape if several else (shape,)))
        return _array_layout(np.dtype(dtype), lengths)
    except KinfolkError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidValue("there is no such array", subject=subject, why=str(error)) from None


@lru_cache(64)
def _array_layout(dtype: Any, lengths: tuple[int, ...]) -> Layout[Any]:
    if min(lengths, default=0) < 0:
        raise ValueError(f"shape {lengths} has a negative length")
    nbytes = math.prod(lengths) * dtype.itemsize
    ndarray = sys.modules["numpy"].ndarray
    if max(nbytes, *lengths, 0) > sys.maxsize:
        raise ValueError(f"shape {lengths} is more than memory can hold")
    # What else NumPy refuses (too many dimensions, a product of all that are not 0) is said now, not in the with block.
    ndarray(lengths, dtype, bytes(dtype.itemsize), strides=(0,) * len(lengths))
    return Layout(
        ARRAY | OUT_OF_BAND,
        array_head(dtype, lengths),
        nbytes,
        lambda memory: ndarray(lengths, dtype, memory),
    )
