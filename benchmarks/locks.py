"""What a lock between processes costs, and what becomes of it when its holder is killed: kinfolk and its peers, in one run.

    python benchmarks/locks.py [ROUNDS]

Four tables. In each, everybody has his turn in every round, and nobody is always first: so all meet the same moments of the
machine, and only the ratios mean anything.

    acquire, release   `lock.acquire(); lock.release()` by one process alone
    with               `with lock: pass`, which is how locks are written
    two processes      both do nothing but acquire and release, each on a CPU of its own where there are two
    next holder        from the SIGKILL of the holder until one that sleeps in acquire has it
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import posix_ipc
import sysv_ipc

import kinfolk as kin

ALONE, TOGETHER = 3000, 60_000  # pairs in a round
PATIENCE = 0.3  # seconds after which it counts as never


class Subject(NamedTuple):
    """A lock, and how it is written."""

    name: str
    acquire: Callable[[], object]
    release: Callable[[], object]
    #: None for what is no context manager, or acquires otherwise as one
    whole: AbstractContextManager[Any] | None


@contextlib.contextmanager
def subjects() -> Iterator[list[Subject]]:
    """All of them, removed at the end."""
    mutex, standard = kin.Mutex(), multiprocessing.Lock()
    semaphore, counting = kin.Semaphore(1), multiprocessing.Semaphore(1)
    posix = posix_ipc.Semaphore(None, posix_ipc.O_CREX, initial_value=1)
    sysv = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=1)
    sysv.undo = True
    with tempfile.NamedTemporaryFile() as file:
        number, file_lock = file.fileno(), kin.FileLock(file.name)
        try:
            yield [
                Subject("kinfolk.Mutex", mutex.acquire, mutex.release, mutex),
                Subject("multiprocessing.Lock", standard.acquire, standard.release, standard),
                Subject("posix_ipc.Semaphore", posix.acquire, posix.release, posix),
                Subject("sysv_ipc.Semaphore, undo", sysv.acquire, sysv.release, sysv),
                Subject("kinfolk.Semaphore", semaphore.acquire, semaphore.release, semaphore),
                Subject("multiprocessing.Semaphore", counting.acquire, counting.release, counting),
                Subject("kinfolk.FileLock", file_lock.acquire, file_lock.release, file_lock),
                Subject(
                    "fcntl.lockf",
                    lambda: fcntl.lockf(number, fcntl.LOCK_EX),
                    lambda: fcntl.lockf(number, fcntl.LOCK_UN),
                    None,
                ),
            ]
        finally:
            posix.unlink()
            sysv.remove()


# ── one process ──────────────────────────────────────────────────────────────────────────────

# Compiled for each subject by itself: CPython specializes a call site for one type, as in a program.
_METHODS = """
def run(lock, count):
    before = clock()
    for _ in range(count):
        lock.acquire()
        lock.release()
    return clock() - before
"""
_CALLS = """
def run(lock, count):
    acquire, release = lock.acquire, lock.release
    before = clock()
    for _ in range(count):
        acquire()
        release()
    return clock() - before
"""
_WITH = """
def run(lock, count):
    before = clock()
    for _ in range(count):
        with lock:
            pass
    return clock() - before
"""
_EMPTY = """
def run(lock, count):
    before = clock()
    for _ in range(count):
        pass
    return clock() - before
"""


def compiled(source: str) -> Callable[[Any, int], float]:
    """A function of its own for one subject."""
    names: dict[str, Any] = {"clock": time.perf_counter}
    exec(source, names)
    run: Callable[[Any, int], float] = names["run"]
    return run


def alone(locks: list[Subject], rounds: int, how: str) -> list[list[float]]:
    """Nanoseconds a pair, without the loop, of each in each round."""
    source = _WITH if how == "with" else _METHODS
    runs = [
        (compiled(source if lock.whole is not None else _CALLS), lock.whole or lock)
        for lock in locks
    ]
    empty = compiled(_EMPTY)
    found: list[list[float]] = [[] for _ in locks]
    for number in range(rounds):
        for place in range(len(locks)):
            which = (place + number) % len(locks)
            if how == "with" and locks[which].whole is None:
                continue
            run, lock = runs[which]
            pair = run(lock, ALONE) - empty(lock, ALONE)
            found[which].append(pair / ALONE * 1e9)
    return found


# ── two processes ────────────────────────────────────────────────────────────────────────────


def forked(body: Callable[[], object]) -> int:
    """A child that runs a function, and nothing else."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    return pid


def hammer(lock: Subject) -> float:
    """Million pairs a second, of both together."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    times = struct.Struct("dd")
    cpus = sorted(os.sched_getaffinity(0))

    def body(which: int) -> None:
        os.sched_setaffinity(0, {cpus[which % len(cpus)]})
        acquire, release = lock.acquire, lock.release
        shared[which] = 1
        while not shared[2]:
            pass
        begun = time.monotonic()
        for _ in range(TOGETHER):
            acquire()
            release()
        times.pack_into(shared, 64 * (1 + which), begun, time.monotonic())

    pids = [forked(lambda which=which: body(which)) for which in (0, 1)]  # type: ignore[misc]
    while not (shared[0] and shared[1]):
        os.sched_yield()
    shared[2] = 1
    for pid in pids:
        os.waitpid(pid, 0)
    spans = [times.unpack_from(shared, 64 * (1 + which)) for which in (0, 1)]
    span: float = max(end for _, end in spans) - min(begun for begun, _ in spans)
    return 2e-6 * TOGETHER / span


# ── the holder is killed ─────────────────────────────────────────────────────────────────────


def next_holder(lock: Subject) -> float | None:
    """Milliseconds from the kill of the holder until the next one has it; None when it never gets it."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)

    def hold() -> None:
        lock.acquire()
        shared[0] = 1
        signal.pause()

    def follow() -> None:
        shared[1] = 1
        lock.acquire()
        struct.pack_into("d", shared, 64, time.monotonic())
        shared[2] = 1
        lock.release()

    holder = forked(hold)
    while not shared[0]:
        os.sched_yield()
    follower = forked(follow)
    while not shared[1] or state(follower) != "S":
        os.sched_yield()
    killed = time.monotonic()
    os.kill(holder, signal.SIGKILL)
    while not shared[2] and time.monotonic() < killed + PATIENCE:
        time.sleep(0.0002)
    os.waitpid(holder, 0)
    os.kill(follower, signal.SIGKILL)
    os.waitpid(follower, 0)
    if not shared[2]:
        lock.release()  # whoever can release what another holds may have it again
        return None
    (got,) = struct.unpack_from("d", shared, 64)
    return 1000 * float(got - killed)


def state(pid: int) -> str:
    """The letter of proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0].decode()


# ── the report ───────────────────────────────────────────────────────────────────────────────


def report(title: str, locks: list[Subject], found: list[list[float]], unit: str) -> float:
    """A table; the ratio of ours to multiprocessing.Lock's."""
    print(f"\n{title} ({unit}, medians of {max(map(len, found))})")
    base = statistics.median(found[1]) if found[1] else float("nan")
    for lock, values in zip(locks, found, strict=True):
        if values:
            middle = statistics.median(values)
            print(f"  {lock.name:26}{middle:10.2f}   × {middle / base:5.2f}")
    return statistics.median(found[0]) / base


def main() -> int:
    """0 if every target is met."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    met = True
    with subjects() as locks:
        for how, title in (("methods", "acquire, release"), ("with", "with")):
            alone(locks, 2, how)  # warm
            ratio = report(title, locks, alone(locks, rounds, how), "ns a pair")
            met &= ratio <= 0.7
            print(f"  target ≤ 0.70, is {ratio:.2f}")

        together: list[list[float]] = [[] for _ in locks]
        for number in range(max(3, rounds // 10)):
            for place in range(len(locks)):
                which = (place + number) % len(locks)
                together[which].append(hammer(locks[which]))
        ratio = report("two processes", locks, together, "million pairs a second")
        met &= ratio >= 1
        print(f"  target ≥ 1.00, is {ratio:.2f}")

        print("\nnext holder after a SIGKILL (ms)")
        for lock in locks:
            never = lock.name.startswith(("multiprocessing", "posix"))
            tries = [next_holder(lock) for _ in range(3 if never else rounds)]
            got = sorted(value for value in tries if value is not None)
            line = f"median {got[len(got) // 2]:6.2f}, max {got[-1]:6.2f}" if got else "never"
            print(f"  {lock.name:26}{len(got):5} of {len(tries):<5} {line}")
            if lock is locks[0]:
                met &= len(got) == len(tries) and got[len(got) // 2] <= 5
        print("  target ≤ 5 for kinfolk.Mutex, always")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
