"""What a lock between processes costs, and what becomes of it when its holder is killed: kinfolk and its peers, in one run.

    python benchmarks/locks.py [--rounds 100] [--write]

Five tables. In each, everybody has his turn in every round, and nobody is always first: so all meet the same moments of the
machine, and only the ratios mean anything.

    acquire, release   `lock.acquire(); lock.release()` by one process alone
    with               `with lock: pass`, which is how locks are written
    two processes      both do nothing but acquire and release, each on a CPU of its own where there are two
    next holder        from the SIGKILL of the holder until one that sleeps in acquire has it
    to and fro         one of two processes wakes the other, and sleeps until that one wakes it

Ends with 0 if every target is met, else with 1. ``--write`` puts the figures into benchmarks/results/locks.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import mmap
import multiprocessing
import os
import platform
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import posix_ipc
import sysv_ipc

import kinfolk as kin

RESULTS = Path(__file__).parent / "results" / "locks.json"

ALONE, TOGETHER, TO_AND_FRO = 3000, 60_000, 1000  # pairs in a round
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
    of_posix, of_sysv = kin.PosixSemaphore(value=1), kin.SysVSemaphore(value=1)
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
                Subject("kinfolk.PosixSemaphore", of_posix.acquire, of_posix.release, of_posix),
                Subject("kinfolk.SysVSemaphore", of_sysv.acquire, of_sysv.release, of_sysv),
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
            of_sysv.unlink()


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


# ── to and fro ───────────────────────────────────────────────────────────────────────────────


class Pair(NamedTuple):
    """What two processes wake each other by: `tell` wakes, `hear` sleeps until it is woken; for each side."""

    name: str
    tell: Callable[[int], object]
    hear: Callable[[int], object]


def by_events(name: str, make: Callable[[], Any]) -> Pair:
    """Two events, one for each direction."""
    events = make(), make()

    def hear(side: int) -> None:
        events[side].wait()
        events[side].clear()

    return Pair(name, lambda side: events[1 - side].set(), hear)


def by_condition(name: str, condition: Any) -> Pair:
    """Whose turn it is, under a condition."""
    turn = mmap.mmap(-1, mmap.PAGESIZE)

    def tell(side: int) -> None:
        with condition:
            turn[0] = 1 - side
            condition.notify()

    def hear(side: int) -> None:
        with condition:
            condition.wait_for(lambda: turn[0] == side)

    return Pair(name, tell, hear)


def to_and_fro(pair: Pair) -> float:
    """Microseconds from a wake-up to the answer."""

    def answer() -> None:
        for _ in range(TO_AND_FRO + 1):
            pair.hear(1)
            pair.tell(1)

    pid = forked(answer)
    begun = 0.0
    for number in range(TO_AND_FRO + 1):
        if number == 1:  # the other one is there
            begun = time.perf_counter()
        pair.tell(0)
        pair.hear(0)
    span = time.perf_counter() - begun
    os.waitpid(pid, 0)
    return span / TO_AND_FRO * 1e6


# ── the report ───────────────────────────────────────────────────────────────────────────────


Table = dict[str, dict[str, float | int | None]]


def report(title: str, unit: str, names: list[str], found: list[list[float]], base: str) -> Table:
    """Prints and gives a table: medians, and their ratio to ``base``'s."""
    print(f"\n{title} ({unit}, medians of {max(map(len, found))})")
    medians = {
        name: statistics.median(values) for name, values in zip(names, found, strict=True) if values
    }
    for name, median in medians.items():
        print(f"  {name:27}{median:10.2f}   × {median / medians[base]:5.2f}")
    return {
        name: {"median": median, "ratio": median / medians[base]}
        for name, median in medians.items()
    }


def in_turn(count: int, rounds: int, measure: Callable[[int], float]) -> list[list[float]]:
    """What is measured of each, in each round: nobody is always first."""
    found: list[list[float]] = [[] for _ in range(count)]
    for number in range(rounds):
        for place in range(count):
            which = (place + number) % count
            found[which].append(measure(which))
    return found


def next_holders(locks: list[Subject], rounds: int) -> Table:
    """Prints and gives how many got it, and when."""
    print("\nnext holder after a SIGKILL (ms)")
    table: Table = {}
    for lock in locks:
        never = lock.name.startswith(("multiprocessing", "posix", "kinfolk.Posix"))
        tries = [next_holder(lock) for _ in range(3 if never else rounds)]
        got = sorted(value for value in tries if value is not None)
        line = f"median {got[len(got) // 2]:6.2f}, max {got[-1]:6.2f}" if got else "never"
        print(f"  {lock.name:27}{len(got):5} of {len(tries):<5} {line}")
        median, longest = (got[len(got) // 2], got[-1]) if got else (None, None)
        table[lock.name] = {"got": len(got), "of": len(tries), "median": median, "max": longest}
    return table


def measured(rounds: int) -> dict[str, Table]:
    """All tables by their names."""
    tables: dict[str, Table] = {}
    standard = "multiprocessing.Lock"
    with subjects() as locks:
        names = [lock.name for lock in locks]
        for how, title in (("methods", "acquire, release"), ("with", "with")):
            alone(locks, 2, how)  # warm
            found = alone(locks, rounds, how)
            tables[title] = report(title, "ns a pair", names, found, standard)
        few = max(3, rounds // 10)
        found = in_turn(len(locks), few, lambda which: hammer(locks[which]))
        title = "two processes"
        tables[title] = report(title, "million pairs a second", names, found, standard)
        tables["next holder"] = next_holders(locks, rounds)
    pairs = [
        by_events("kinfolk.Event", kin.Event),
        by_events("multiprocessing.Event", multiprocessing.Event),
        by_condition("kinfolk.Condition", kin.Condition()),
        by_condition("multiprocessing.Condition", multiprocessing.Condition()),
    ]
    names = [pair.name for pair in pairs]
    found = in_turn(len(pairs), few, lambda which: to_and_fro(pairs[which]))
    title = "to and fro"
    tables[title] = report(title, "µs", names, found, "multiprocessing.Event")
    return tables


def verdicts(tables: dict[str, Table]) -> list[dict[str, object]]:
    """The targets, what is, and whether that meets them."""
    mine = {
        title: table["kinfolk.Mutex"] for title, table in tables.items() if title != "to and fro"
    }
    holder = mine["next holder"]
    median = holder["median"] if holder["got"] == holder["of"] else None
    found = [
        (
            "acquire, release: of multiprocessing.Lock, at most",
            0.7,
            mine["acquire, release"]["ratio"],
        ),
        ("with: of multiprocessing.Lock, at most", 0.7, mine["with"]["ratio"]),
        ("two processes: of multiprocessing.Lock, at least", 1.0, mine["two processes"]["ratio"]),
        ("next holder: always, and ms at most", 5.0, median),
    ]
    return [
        {
            "target": f"kinfolk.Mutex, {what}",
            "asked": asked,
            "is": value,
            "met": value is not None and (value >= asked if "least" in what else value <= asked),
        }
        for what, asked, value in found
    ]


def main() -> int:
    """0 if every target is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--write", action="store_true", help=f"to {RESULTS.name} as well")
    given = parser.parse_args()
    tables = measured(given.rounds)
    targets = verdicts(tables)
    print()
    for each in targets:
        is_met = "met" if each["met"] else "MISSED"
        value = "never" if each["is"] is None else f"{each['is']:.2f}"
        print(f"  {each['target']} {each['asked']}: {value}, {is_met}")
    if given.write:
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": {
                "kernel": platform.release(),
                "python": platform.python_version(),
                "cpus": len(os.sched_getaffinity(0)),
            },
            "rounds": given.rounds,
            "targets": targets,
            "tables": tables,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(each["met"] for each in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
