"""Waiting for signals instead of handling them: each with its sender and its value, by signalfd(2).

    kill, sigqueue ──> pending in the kernel ──> signalfd ──> `Stream.recv`, one record a read

Rules:
1. A stream blocks its signals in the thread that opens it, until that thread closes it, and refuses to open while another thread would take them.
2. A record is read when it is handed over, never ahead: what nobody took stays pending, also when a wait is cancelled or the
   stream is closed.
3. What is pending when the last one who blocks a signal lets go of it, is delivered then, to a handler or by default.
4. Any thread may read, and a forked child's copy reads the child's signals. On asyncio, only the process that opened the loop.

Why not sigtimedwait(2): no event loop can wait for it, and everything else here waits by descriptor.
"""

from __future__ import annotations

import os
import signal as python
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Self

from kinfolk import _native
from kinfolk.deadlines import Deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import Timeout, Unsupported, from_os_error
from kinfolk.interest import Interest, Steps
from kinfolk.signal_table import Like, name_of, numbers_of
from kinfolk.signals.arrived import RECORD_SIZE, Arrived
from kinfolk.signals.mask import Hold, refuse_other_takers
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

_IGNORED = 1


class Stream:
    """Signals as they come. Made by `stream`; a context manager; iterable, also by ``async for``.

    Thread-safe. Iteration never ends by itself.
    """

    def __init__(self, signals: frozenset[int]) -> None:
        self._names = " ".join(name_of(each) for each in sorted(signals))
        if python.SIGCHLD in signals and _native.signal_action(python.SIGCHLD)[0] == _IGNORED:
            raise Unsupported(
                "SIGCHLD would never come",
                why="it is ignored: the kernel reaps children by itself and sends nothing",
                remedy='enter kinfolk.signals.default("CHLD") first',
            )
        self._hold = Hold(signals)
        try:
            self._hold.take()
            refuse_other_takers(signals)
            self._fd = Descriptor(_native.open_signalfd(sorted(signals)), "signalfd")
        except BaseException as error:
            self._hold.release()
            if isinstance(error, OSError):
                raise from_os_error(error, "can't wait for signals", self._names) from error
            raise
        self._ready = Interest(readable=(self._fd.fileno(),))
        self._turn = Turnstile(self._names, self._fd.close)

    @property
    def signals(self) -> frozenset[int]:
        """Which it takes."""
        return self._hold.signals

    def recv(self, *, timeout: float | None = None) -> Arrived:
        """The next signal, waiting up to ``timeout`` seconds for it. Raises Timeout, Closed."""
        limit = Deadline(timeout)
        try:
            return run(self._take(), self._turn, limit, self._names)
        except Timeout:
            raise self._late(limit) from None

    async def arecv(self, *, timeout: float | None = None) -> Arrived:
        """`recv`, on asyncio. A cancelled one has taken nothing."""
        limit = Deadline(timeout)
        try:
            return await arun(self._take(), self._turn, limit, self._names)
        except Timeout:
            raise self._late(limit) from None

    def _late(self, limit: Deadline) -> Timeout:
        return Timeout(
            "no signal came",
            subject=self._names,
            why=f"not within {limit.timeout:g} s",
            remedy=f"wait longer, or see that it is sent to process {os.getpid()}",
        )

    def _take(self) -> Steps[Arrived]:
        while True:
            try:
                return Arrived.from_record(os.read(self._fd.fileno(), RECORD_SIZE))
            except BlockingIOError:
                yield self._ready

    def fileno(self) -> int:
        """A descriptor that is readable when `recv` would not block. Raises Closed."""
        return self._fd.fileno()

    def close(self) -> None:
        """Close, and stop blocking the signals; a call that waits here raises Closed. Closing twice does nothing.

        From another thread than the one that opened it only the waiting ends: a mask can be changed in
        its own thread alone, so there it stays until that one closes too.
        """
        try:
            self._turn.close()
            self._hold.release()
        except BaseException:  # of a handler, between any two steps
            self._turn.close()
            self._hold.release()
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._turn.closed

    def __iter__(self) -> Iterator[Arrived]:
        """Signals for ever."""
        while True:
            yield self.recv()

    async def __aiter__(self) -> AsyncIterator[Arrived]:
        while True:
            yield await self.arecv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_turn", None) is None:  # it was never finished
            return
        if not self.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<kinfolk.signals.Stream {self._names}{' closed' if self.closed else ''}>"


def stream(signals: Like | Iterable[Like]) -> Stream:
    """Signals (one or several) as they come, each with its sender and its value.

    From this call until its close they are blocked in the calling thread, so none is lost between two of them. Real-time
    signals are queued, and each arrives, in order, lower numbers first; a standard one that comes while it is pending is merged
    with it by the kernel, and a handler is not called for either. The signals must be blocked in all threads (`blocked`).
    SIGURG also wakes a thread that blocks in a ``sysv-mq:`` channel, which then may take yours.

    Raises Unsupported when another thread would take them, or when SIGCHLD is ignored; InvalidValue for no such signal, SIGKILL,
    SIGSTOP; LimitReached without a descriptor for it. signalfd(2), signal(7).
    """
    return Stream(numbers_of(signals))


def wait(signals: Like | Iterable[Like], timeout: float | None = None) -> Arrived:
    """The first of some signals to come (several in a list), waiting up to ``timeout`` seconds. Raises Timeout, and what `stream` raises.

    They are blocked during the call. To wait again and again use a `stream`, or enter `blocked` around it all: between two
    calls a signal does what it does otherwise.
    """
    with stream(signals) as arriving:
        return arriving.recv(timeout=timeout)


async def await_(signals: Like | Iterable[Like], timeout: float | None = None) -> Arrived:
    """`wait`, on asyncio; the signals are blocked in the loop's thread meanwhile. A cancelled one has taken nothing."""
    with stream(signals) as arriving:
        return await arriving.arecv(timeout=timeout)
