"""Blocking signals in a thread (pthread_sigmask(3)), and who else would take them.

    holds   {token: signals}             who wants what blocked, in this thread
    before  {signal: was it blocked?}    for each that is held, how it stood before the first hold

Rules:
1. A mask belongs to a thread, so a hold does: it is taken and let go in the same one.
2. Holds end in any order, for tasks of one loop share a thread. When the last one on a signal ends, that signal is as it was
   before the first one, whatever happened to it meanwhile. Signals that nobody holds are not touched.
3. `_Holds.settle` makes the mask right from those two dicts, however often it is called, so an exception of a Python
   handler between any two steps (pthread_sigmask(3) runs them) is mended by calling it again.
4. A signal for the process goes to any thread that does not block it. So it can only be waited for when all block it.
"""

from __future__ import annotations

import contextlib
import os
import signal as python
import threading
import time
from collections.abc import Iterable, Iterator

from kinfolk.errors import Unsupported, from_os_error
from kinfolk.signal_table import Like, name_of, numbers_of


class _Holds(threading.local):
    """Those of the calling thread. A forked child has the forking thread's."""

    def __init__(self) -> None:
        self.holds: dict[object, frozenset[int]] = {}
        self.before: dict[int, bool] = {}
        self.thread = object()  # as long as the thread lives, no other has the same

    def settle(self) -> None:
        """Block what is held, and put back what is not any more."""
        held = frozenset().union(*self.holds.values())
        now = python.pthread_sigmask(python.SIG_BLOCK, ())
        for number in held:
            self.before.setdefault(number, number in now)
        python.pthread_sigmask(python.SIG_BLOCK, held)
        done = {number: was for number, was in tuple(self.before.items()) if number not in held}
        python.pthread_sigmask(python.SIG_BLOCK, [number for number, was in done.items() if was])
        # What was pending is delivered here.
        python.pthread_sigmask(
            python.SIG_UNBLOCK, [number for number, was in done.items() if not was]
        )
        for number in done:
            self.before.pop(number, None)  # a handler that blocks too may have been here


_holds = _Holds()


class Hold:
    """Signals that stay blocked in the thread that made this, until it lets go of them."""

    __slots__ = ("_thread", "signals")

    def __init__(self, signals: frozenset[int]) -> None:
        self.signals = signals
        self._thread = _holds.thread

    def take(self) -> None:
        """Block them. Whatever comes of it, ``release`` has to be called."""
        _holds.holds[self] = self.signals
        _holds.settle()

    def release(self) -> None:
        """Let go, in the thread that holds; again, or elsewhere, nothing happens.

        When it raises, a Python handler did, and it has to be called again: rule 3.
        """
        if self._thread is _holds.thread:
            _holds.holds.pop(self, None)
            _holds.settle()


@contextlib.contextmanager
def blocked(signals: Like | Iterable[Like]) -> Iterator[None]:
    """Inside, signals (one or several) don't reach the calling thread; one that came meanwhile comes at the end.

    Then each of them is blocked or not as it was before. Threads and processes that are started inside begin
    with the same mask, and keep it: enter this in the main thread, first of all, to wait for signals in a program with threads.
    Children of `kinfolk.spawn` begin with an empty one. Until the end a standard signal is kept once, however often it
    came; a real-time one as often as it came (signal(7)). Raises InvalidValue: no such signal, SIGKILL, SIGSTOP.
    """
    hold = Hold(numbers_of(signals))
    try:
        hold.take()
        yield
    finally:
        try:
            hold.release()
        except BaseException:
            hold.release()
            raise


def refuse_other_takers(signals: frozenset[int]) -> None:
    """Raise Unsupported when another thread of this process would take one of the signals."""
    taker, settled = _another_taker(signals)
    for pause in _PAUSES:
        if taker is None and settled:
            return
        time.sleep(pause)
        taker, settled = _another_taker(signals)
    if taker is not None:
        tid, number = taker
        raise Unsupported(
            f"{name_of(number)} can't be waited for",
            why=f"thread {tid}{_name_of_thread(tid)} does not block it, and may take it",
            remedy="enter kinfolk.signals.blocked(…) in the main thread before others start",
        )


#: Seconds before each further look: a thread that wants no signals blocks them first of all, but may have only just begun.
_PAUSES = (0.001, 0.004, 0.02)

#: Blocked by the C library alone, for a moment: in a thread that has not begun yet, its mask still to be set.
_IN_BETWEEN = 1 << (32 - 1)


def _another_taker(signals: frozenset[int]) -> tuple[tuple[int, int] | None, bool]:
    """A thread that would take one, and which; and whether all masks are what they will be."""
    wanted = sum(1 << (number - 1) for number in signals)
    here = threading.get_native_id()
    settled = True
    try:
        threads = os.listdir("/proc/self/task")
    except OSError as error:
        raise from_os_error(
            error, "can't see which threads block signals", remedy="mount /proc"
        ) from error
    for tid in map(int, threads):
        mask = _blocked_in(tid) if tid != here else None
        if mask is None:
            continue
        if free := wanted & ~mask:
            return (tid, (free & -free).bit_length()), settled
        settled = settled and not mask & _IN_BETWEEN
    return None, settled


def _blocked_in(tid: int) -> int | None:
    """The mask of a thread; None when it has ended."""
    try:
        with open(f"/proc/self/task/{tid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[b"State"].split()[0] in (b"Z", b"X") else int(fields[b"SigBlk"], 16)


def _name_of_thread(tid: int) -> str:
    for thread in threading.enumerate():
        if thread.native_id == tid:
            return f" ({thread.name})"
    return ""
