"""Cost as work grows: open channels, and the size of segments; what messages and ends cost is
measured as a stream (`kinfolk.bench.stage`).

messages   10³ … 10⁷ in one stream             µs for each message
ends       1 … 64 sending processes            µs for each message, of all together
channels   1 … 10,000 open                     µs to open and close each
segments   1 MiB … a quarter of what is free   µs to make, write and read each MiB
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import kinfolk as kin
from kinfolk.bench.cases import Case, Failure, Order, Outcome
from kinfolk.bench.results import About

MESSAGES = tuple(10**power for power in range(3, 8))
ENDS = (1, 2, 4, 8, 16, 32, 64)
CHANNELS = (1, 10, 100, 1000, 3000, 10_000)
SEGMENTS = tuple(1 << power for power in (20, 23, 26, 28, 30, 32))

#: Descriptors that a process needs for itself.
_SPARE = 64

#: More would have them share CPUs and memory with more processes than channels usually have.
_PROCESSES = 4


class Closable(Protocol):
    """An end."""

    def close(self) -> None:
        """Give it back."""


class _Pipe:
    def __init__(self) -> None:
        self._numbers = os.pipe()

    def close(self) -> None:
        for number in self._numbers:
            os.close(number)


def _pair() -> Sequence[Closable]:
    return socket.socketpair()


_CHANNELS: dict[str, Callable[[], Sequence[Closable]]] = {
    "kin pipe": lambda: kin.channel("pipe:"),
    "kin unix": lambda: kin.pair("unix:"),
    "kin unix-seqpacket": lambda: kin.pair("unix-seqpacket:"),
    "os.pipe": lambda: (_Pipe(),),
    "socketpair": _pair,
}

_SEGMENTS = ("kin memfd", "kin posix", "mmap")

ABOUT = (
    About("kin memfd", "kinfolk", "blocking", "kin.SharedMemory of a memfd"),
    About("kin posix", "kinfolk", "blocking", "kin.SharedMemory with a POSIX name"),
    About("mmap", "kernel", "blocking", "mmap.mmap, anonymous and shared"),
)


def cases(streaming: Sequence[str]) -> Iterator[Case]:
    """All of them; ``streaming`` are the subjects whose streams are measured.

    What takes longest comes last: where time is short, that is what is left out.
    """
    for name in _CHANNELS:
        yield from (Case("channels", name, grows=count) for count in CHANNELS)
    for name in _SEGMENTS:
        yield from (Case("segments", name, grows=size) for size in SEGMENTS)
    for name in streaming:
        yield from (Case("ends", name, 48, senders=count, grows=count) for count in ENDS)
    for count in MESSAGES:
        yield from (Case("messages", name, 48, grows=count) for name in streaming)


def perform(order: Order) -> Outcome:
    """Measure one of the last two."""
    return _opened(order.case) if order.case.workload == "channels" else _filled(order)


def _opened(case: Case) -> Outcome:
    """Open so many, then close them; where one process may not have all, others hold their share."""
    hard = _most_descriptors()
    make, count = _CHANNELS[case.subject], case.grows
    before = len(os.listdir("/proc/self/fd"))
    probe = make()
    each = len(os.listdir("/proc/self/fd")) - before
    for end in probe:
        end.close()
    processes = -(-count // max(1, (hard - before - _SPARE) // each))
    if processes > _PROCESSES:
        why = f"{each * count:,} descriptors are needed, and a process may have {hard:,}"
        return Outcome(failure=Failure("unsupported", why))
    share = -(-count // processes)
    with contextlib.ExitStack() as elsewhere:
        for _ in range(processes - 1):
            elsewhere.enter_context(_held_elsewhere(make, share))
        begun = time.perf_counter()
        made = [make() for _ in range(share)]
        opened = time.perf_counter()
        for ends in made:
            for end in ends:
                end.close()
        took = time.perf_counter() - begun
    return Outcome({"each": took / share * 1e6, "open": (opened - begun) * 1e3}, count)


@contextlib.contextmanager
def _held_elsewhere(make: Callable[[], Sequence[Closable]], count: int) -> Iterator[None]:
    """Another process has so many open meanwhile."""
    (ready, says), (over, line) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(line)
            made = [make() for _ in range(count)]
            os.write(says, b".")
            os.read(over, 1)
            del made
        finally:
            os._exit(0)
    os.close(says)
    os.close(over)
    try:
        if not os.read(ready, 1):
            raise RuntimeError(f"the process that should open {count:,} has ended")
        yield
    finally:
        os.close(ready)
        os.close(line)
        os.waitpid(pid, 0)


def _most_descriptors() -> int:
    """How many this process may have, from now on: as many as the kernel allows where we may say so."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        most = int(file.read())
    for limit in (most, hard):
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
    return hard


def _filled(order: Order) -> Outcome:
    """Make, write all of it, read all of it."""
    size = order.case.grows
    free = _free_memory()
    if size > free // 4:
        return Outcome(failure=Failure("unsupported", f"{free >> 30} GiB are free"))
    begun = time.perf_counter()
    match order.case.subject:
        case "kin memfd":
            with kin.SharedMemory.create("memfd:", size) as memory, memory.buf as view:
                _write_and_read(view)
        case "kin posix":
            named = kin.SharedMemory.create(f"shm:/{order.name}", size, lifetime="peers")
            with named as memory, memory.buf as view:
                _write_and_read(view)
        case _:
            with mmap.mmap(-1, size) as mapped, memoryview(mapped) as view:
                _write_and_read(view)
    took = time.perf_counter() - begun
    return Outcome({"each": took * 1e6 / (size >> 20)}, size >> 20)


_PIECE = bytes(1 << 20)


def _write_and_read(view: memoryview) -> None:
    for place in range(0, len(view), len(_PIECE)):
        view[place : place + len(_PIECE)] = _PIECE
    for place in range(0, len(view), len(_PIECE)):
        if not _PIECE.startswith(view[place : place + len(_PIECE)]):
            raise ValueError("what was read is not what was written")


def _free_memory() -> int:
    """Bytes that the kernel would give without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
