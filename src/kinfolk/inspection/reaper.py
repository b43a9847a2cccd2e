"""What the process that has to call wait does instead: stopped, asleep, deaf to SIGCHLD.

SIGCHLD goes to a process, not to a thread: it is blocked only if every thread blocks it. So all living threads are
looked at, and each number of `Reaper` speaks of all of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from kinfolk.inspection.freezer import frozen_by
from kinfolk.inspection.process_info import ProcessInfo, list_threads
from kinfolk.inspection.procfs import Gone, ProcessFiles, Procfs, Signals

_ENDED = "ZXx"


@dataclass(frozen=True, slots=True)
class Reaper:
    """The process that has to wait, at this moment."""

    process: ProcessInfo
    #: the states of its living threads
    states: frozenset[str]
    #: the kernel functions in which they sleep, where we may know
    sleeps: tuple[str, ...]
    #: its signals; blocked are those that every thread blocks; None where the kernel does not say
    signals: Signals | None
    #: the file by which its control group is frozen, None when it is not
    frozen_by: str | None

    @property
    def halted(self) -> bool:
        """Whether every thread stands still, by a signal or a tracer."""
        return bool(self.states) and self.states <= {"T", "t"}

    @property
    def traced(self) -> bool:
        """Whether a tracer has halted it."""
        return self.halted and "t" in self.states

    @property
    def uninterruptible(self) -> bool:
        """Whether every thread waits for a device, and takes no signal meanwhile."""
        return self.states == {"D"}

    @property
    def in_wait(self) -> bool:
        """Whether a thread sleeps in wait(2). For whom it waits is not this zombie, or it would not sleep."""
        return "do_wait" in self.sleeps

    def blocks(self, number: int) -> bool:
        """Whether all its threads block a signal."""
        return self._has("blocked", number)

    def ignores(self, number: int) -> bool:
        """Whether it ignores a signal on purpose (SIG_IGN)."""
        return self._has("ignored", number)

    def catches(self, number: int) -> bool:
        """Whether it has a handler for a signal."""
        return self._has("caught", number)

    def awaits(self, number: int) -> bool:
        """Whether a signal was sent to it and not taken yet."""
        return self._has("shared_pending", number)

    def deaf_to(self, number: int) -> bool:
        """Whether sending it a signal has no effect."""
        return self.ignores(number) or self.blocks(number)

    def may_be_signalled(self) -> bool:
        """Whether this user may send it signals (kill(2)), as far as user ids say."""
        return os.geteuid() in (0, self.process.uid)

    def doing(self) -> str:
        """What it does, in words that follow its name."""
        if "R" in self.states:
            return "is running"
        where = next(iter(self.sleeps), "")
        if not where:
            return "sleeps"
        words = next((words for part, words in _CALLS if part in where), "")
        return f"sleeps in {where} ({words})" if words else f"sleeps in {where}"

    def _has(self, which: str, number: int) -> bool:
        if self.signals is None:
            return False
        mask: int = getattr(self.signals, which)
        return bool(mask >> (number - 1) & 1)


# What kernel functions are called that processes usually sleep in.
_CALLS = (
    ("nanosleep", "a pause"),
    ("pipe_read", "reading from a pipe"),
    ("pipe_write", "writing to a pipe"),
    ("epoll", "waiting for descriptors"),
    ("ep_poll", "waiting for descriptors"),
    ("poll", "waiting for descriptors"),
    ("select", "waiting for descriptors"),
    ("futex", "waiting for a lock or a thread"),
    ("sigsuspend", "waiting for a signal"),
    ("sigtimedwait", "waiting for a signal"),
    ("pause", "waiting for a signal"),
    ("signalfd", "waiting for a signal"),
    ("tty_read", "reading from its terminal"),
    ("accept", "waiting for a connection"),
    ("unix_stream", "waiting for a socket"),
    ("skb", "waiting for a socket"),
    ("tcp_", "waiting for a socket"),
    ("do_wait", "waiting for another child"),
)


def look_at(procfs: Procfs, process: ProcessInfo) -> Reaper | None:
    """What it does now; None when it has gone meanwhile."""
    try:
        with procfs.open(process.pid) as files:
            stat = files.stat()
            if stat is None or stat.start_time != process.start_time:
                return None
            threads = [each for each in list_threads(files) if each.state not in _ENDED]
            tids = [thread.tid for thread in threads]
            return Reaper(
                process=process,
                states=frozenset(thread.state for thread in threads),
                sleeps=tuple(_sleeps(files, tids)),
                signals=_signals(files, tids),
                frozen_by=None if (group := files.control_group()) is None else frozen_by(group),
            )
    except Gone:
        return None


def _sleeps(files: ProcessFiles, tids: list[int]) -> Iterator[str]:
    for tid in tids:
        with contextlib.suppress(Gone):
            where = files.wchan(tid)
            if where:
                yield where


def _signals(files: ProcessFiles, tids: list[int]) -> Signals | None:
    found = None
    for tid in tids:
        with contextlib.suppress(Gone):
            status = files.status(tid)
            if status is None or status.signals is None:
                return None
            if found is None:
                found = status.signals
            found = found._replace(blocked=found.blocked & status.signals.blocked)
    return found


#: What tells a process that a child has ended.
SIGCHLD = int(signal.SIGCHLD)
