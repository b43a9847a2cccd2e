"""Locks between processes: what they cost, and what becomes of them when their holder is killed.

acquire, release   `lock.acquire(); lock.release()` by one process alone
with               `with lock: pass`, which is how locks are written
two processes      both do nothing but acquire and release, each on a CPU of its own, if it can
next holder        from the SIGKILL of the holder until one that sleeps in acquire has it
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import signal
import struct
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import posix_ipc
import sysv_ipc

import kinfolk as kin
from kinfolk.bench.cases import Case, Failure, Order, Outcome
from kinfolk.bench.placement import place
from kinfolk.bench.results import About
from kinfolk.bench.statistics import middle

#: Seconds after which nobody gets it any more.
_NEVER = 0.5


class Lock(NamedTuple):
    """A lock, and how it is written."""

    acquire: Callable[[], object]
    release: Callable[[], object]
    #: None for what is no context manager
    whole: Any = None


def _of(make: Callable[[], Any]) -> Callable[[], AbstractContextManager[Lock]]:
    """A lock that is a context manager, and needs no removal."""

    @contextlib.contextmanager
    def made() -> Iterator[Lock]:
        lock = make()
        yield Lock(lock.acquire, lock.release, lock)

    return made


@contextlib.contextmanager
def _posix() -> Iterator[Lock]:
    lock = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=1)
    lock.unlink()
    yield Lock(lock.acquire, lock.release, lock)


@contextlib.contextmanager
def _sysv() -> Iterator[Lock]:
    lock = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=1)
    lock.undo = True
    try:
        yield Lock(lock.acquire, lock.release, lock)
    finally:
        lock.remove()


@contextlib.contextmanager
def _own_sysv() -> Iterator[Lock]:
    lock = kin.SysVSemaphore()
    try:
        yield Lock(lock.acquire, lock.release, lock)
    finally:
        lock.unlink()


@contextlib.contextmanager
def _file() -> Iterator[Lock]:
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
        yield Lock(
            lambda: fcntl.lockf(number, fcntl.LOCK_EX), lambda: fcntl.lockf(number, fcntl.LOCK_UN)
        )


@contextlib.contextmanager
def _own_file() -> Iterator[Lock]:
    with tempfile.NamedTemporaryFile() as file:
        lock = kin.FileLock(file.name)
        yield Lock(lock.acquire, lock.release, lock)


_LOCKS: dict[str, Callable[[], AbstractContextManager[Lock]]] = {
    "kin.Mutex": _of(kin.Mutex),
    "multiprocessing.Lock": _of(multiprocessing.Lock),
    "kin.Semaphore": _of(lambda: kin.Semaphore(1)),
    "multiprocessing.Semaphore": _of(lambda: multiprocessing.Semaphore(1)),
    "kin.PosixSemaphore": _of(kin.PosixSemaphore),
    "posix_ipc.Semaphore": _posix,
    "kin.SysVSemaphore": _own_sysv,
    "sysv_ipc.Semaphore": _sysv,
    "kin.FileLock": _own_file,
    "fcntl.lockf": _file,
}

_USED = "acquire and release; with"
_SURVIVES = ("crash-safe", "unrelated")

ABOUT = (
    About("kin.Mutex", "kinfolk", "blocking", _USED, "", _SURVIVES),
    About("multiprocessing.Lock", "peer", "blocking", _USED),
    About("kin.Semaphore", "kinfolk", "blocking", f"{_USED}, of an initial 1", "", _SURVIVES),
    About("multiprocessing.Semaphore", "peer", "blocking", f"{_USED}, of an initial 1"),
    About("kin.PosixSemaphore", "kinfolk", "blocking", _USED, "", ("unrelated",)),
    About("posix_ipc.Semaphore", "kernel", "blocking", _USED, "", ("unrelated",)),
    About("kin.SysVSemaphore", "kinfolk", "blocking", f"{_USED}, with undo", "", _SURVIVES),
    About("sysv_ipc.Semaphore", "kernel", "blocking", f"{_USED}, with undo", "", _SURVIVES),
    About("kin.FileLock", "kinfolk", "blocking", _USED, "", _SURVIVES),
    About("fcntl.lockf", "kernel", "blocking", "LOCK_EX and LOCK_UN", "", _SURVIVES),
)

VARIANTS = ("acquire, release", "with", "two processes", "next holder")


def cases() -> Iterator[Case]:
    """All of them."""
    for variant in VARIANTS:
        for name in _LOCKS:
            yield Case("locks", name, variant=variant)


def perform(order: Order) -> Outcome:
    """Measure one."""
    case = order.case
    with _LOCKS[case.subject]() as lock:
        match case.variant:
            case "acquire, release":
                return _alone(_METHODS if lock.whole is not None else _CALLS, lock, order)
            case "with":
                if lock.whole is None:
                    return Outcome(failure=Failure("unsupported", "it is no context manager"))
                return _alone(_WITH, lock, order)
            case "two processes":
                return _hammered(lock, order)
            case _:
                return _taken_over(lock, order)


# ── one process ──────────────────────────────────────────────────────────────────────────────

# Compiled for each lock by itself: CPython specializes a call site for one type, as in a program.
_METHODS = "lock.acquire(); lock.release()"
_CALLS = "acquire(); release()"
_WITH = "with lock: pass"
_EMPTY = "pass"


def _loop(body: str) -> Callable[[Lock, int], int]:
    """Nanoseconds of so many turns."""
    source = (
        "def run(subject, count):\n"
        "    lock, acquire, release = subject.whole, subject.acquire, subject.release\n"
        "    before = clock()\n"
        "    for _ in range(count):\n"
        f"        {body}\n"
        "    return clock() - before\n"
    )
    names: dict[str, Any] = {"clock": time.perf_counter_ns}
    exec(source, names)
    run: Callable[[Lock, int], int] = names["run"]
    return run


def _alone(body: str, lock: Lock, order: Order) -> Outcome:
    """The turns of the loop alone are taken off."""
    place(0, order.placement)
    run, empty = _loop(body), _loop(_EMPTY)
    count = order.count or _fitting(lambda turns: run(lock, turns), order.seconds)
    run(lock, max(1, count // 10))
    # What disturbs the loop with the lock is a part of it; what disturbs the empty one is not.
    cost = run(lock, count) - min(empty(lock, count) for _ in range(3))
    return Outcome({"pair": cost / count}, count)


def _fitting(run: Callable[[int], int], seconds: float) -> int:
    count = 1000
    while (took := run(count)) < seconds * 1e8:
        count *= 4
    return max(1, int(count * seconds * 1e9 / took))


# ── two processes ────────────────────────────────────────────────────────────────────────────


def _forked(body: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    return pid


def _hammered(lock: Lock, order: Order) -> Outcome:
    """Both run for so long, and count."""
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    ready, counts, over = (0, 8), (16, 24), 32  # of cache lines of their own

    def body(which: int) -> None:
        place(which, order.placement)
        acquire, release = lock.acquire, lock.release
        shared[ready[which]] = 1
        while not (shared[ready[0]] and shared[ready[1]]):
            os.sched_yield()
        pairs = 0
        while not shared[over]:
            for _ in range(100):
                acquire()
                release()
            pairs += 100
        shared[counts[which]] = pairs

    pids = [_forked(lambda: body(0)), _forked(lambda: body(1))]
    while not (shared[ready[0]] and shared[ready[1]]):
        time.sleep(0.0005)
    begun = time.perf_counter()
    time.sleep(order.seconds)
    shared[over] = 1
    span = time.perf_counter() - begun
    for pid in pids:
        os.waitpid(pid, 0)
    pairs = shared[counts[0]] + shared[counts[1]]
    return Outcome({"pairs": pairs / span / 1e6}, pairs)


# ── the holder is killed ─────────────────────────────────────────────────────────────────────


def _taken_over(lock: Lock, order: Order) -> Outcome:
    """Kill holders for so long, or so many; the first one after whom nobody has it is the last."""
    times = array("Q")
    until = time.monotonic() + order.seconds
    while len(times) < order.count if order.count else not times or time.monotonic() < until:
        took = _after_a_kill(lock)
        if took is None:
            why = f"nobody had it {_NEVER:g} s after kill {len(times) + 1}"
            return Outcome(failure=Failure("hung", why))
        times.append(took)
    return Outcome({"takeover": middle(times) / 1e6}, len(times), times.tobytes())


def _after_a_kill(lock: Lock) -> int | None:
    """Nanoseconds from the SIGKILL until the next one has it; None when nobody gets it."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    when = struct.Struct("q")

    def hold() -> None:
        lock.acquire()
        shared[0] = 1
        signal.pause()

    def follow() -> None:
        shared[1] = 1
        lock.acquire()
        when.pack_into(shared, 64, time.monotonic_ns())
        shared[2] = 1
        lock.release()

    holder = _forked(hold)
    _until(lambda: shared[0] == 1)
    follower = _forked(follow)
    _until(lambda: shared[1] == 1 and _asleep(follower))
    killed = time.monotonic_ns()
    os.kill(holder, signal.SIGKILL)
    while not shared[2] and time.monotonic_ns() < killed + _NEVER * 1e9:
        time.sleep(0.0002)
    got = bool(shared[2])
    os.waitpid(holder, 0)
    if not got:
        os.kill(follower, signal.SIGKILL)  # the other one lets go, and ends
    os.waitpid(follower, 0)
    return max(0, when.unpack_from(shared, 64)[0] - killed) if got else None


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        os.sched_yield()


def _asleep(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] == b"S"
