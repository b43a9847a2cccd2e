"""Stop `counter`: shared memory is wrong without a lock, and right with one. The source's 共享内存 (特别提醒).

The source: shared memory has no synchronisation of its own, so one needs other means, such as a mutex.

It shows
- several processes that count in shared memory without a lock: the count comes out short;
- the same with a `kin.Mutex`: it is exact;
- that it is exact, too, when one of them is killed in the middle of its change, holding the mutex: the next one gets the mutex, is told,
  and completes what was half done.
"""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.tour.narrator import Column, Narrator
from kinfolk.tour.processes import Child, Crew, Line, crew
from kinfolk.tour.stop import Stop, Walk

_WORKERS, _TURNS = 3, 1000
#: By chance a count without a lock may be exact, but not again and again.
_ROUNDS = 20

#: A change is two steps: of the count, and of its copy.
_FIELDS = {"count": "q", "copy": "q"}

_COLUMNS = (
    Column("how", "how they counted", number=False),
    Column("wanted", "to be counted", "{:,}".format),
    Column("counted", "counted", "{:,}".format),
    Column("missing", "missing", "{:,}".format),
)


class Told(NamedTuple):
    """What a worker was told by the mutex."""

    #: how often the one before it had died
    deaths: int
    #: when it got the mutex after that, as time.monotonic has it
    moment: float


class Counted(NamedTuple):
    """How a count came out."""

    number: int
    copy: int
    told: Told
    #: when the one in the middle was killed; 0 where nobody was
    killed: float


def visit(narrator: Narrator, walk: Walk) -> None:
    """Count without a lock, with one, and with a death in the middle."""
    mutex = kin.Mutex()
    try:
        short = _count(None)
        rounds = 1
        while short.number == _WORKERS * _TURNS and rounds < _ROUNDS:
            short = _count(None)
            rounds += 1
        exact = _count(mutex)
        repaired = _count(mutex, dies=True)
    finally:
        mutex.close()
    _tell(narrator, short, exact, repaired)


def _tell(narrator: Narrator, short: Counted, exact: Counted, repaired: Counted) -> None:
    wanted = _WORKERS * _TURNS
    took = repaired.told.moment - repaired.killed
    narrator.says(
        f"{_WORKERS} processes count in one piece of shared memory, {_TURNS:,} times each: read, add one, write."
    )
    narrator.table(
        "counts",
        _COLUMNS,
        [
            _row("without a lock", short, wanted),
            _row("with a mutex", exact, wanted),
            _row("… and a fourth is killed in the middle", repaired, wanted + 1),
        ],
    )
    narrator.says(
        f"The fourth was killed between the two steps of a change, holding the mutex. The next one had it {took * 1000:.1f} ms after the "
        "SIGKILL, was told that its owner had died, and did the second step."
    )
    narrator.figure("next_holder_after_seconds", took)
    narrator.check(
        "without a lock the count comes out short", short.number < wanted, f"{short.number:,}"
    )
    narrator.check("with a mutex it is exact", exact.number == wanted, f"{exact.number:,}")
    narrator.check(
        "a mutex whose holder is killed goes to the next one, who is told",
        repaired.told.deaths == 1 and took >= 0,
        f"{repaired.told.deaths} times",
    )
    narrator.check(
        "and can repair what was half done",
        repaired.number == repaired.copy == wanted + 1,
        f"{repaired.number:,} and {repaired.copy:,}",
    )


def _row(how: str, found: Counted, wanted: int) -> dict[str, Any]:
    return {
        "how": how,
        "wanted": wanted,
        "counted": found.number,
        "missing": wanted - found.number,
    }


def _count(mutex: kin.Mutex | None, *, dies: bool = False) -> Counted:
    """Have the workers count, behind one that is killed if so wanted."""
    with kin.SharedMemory.create(size=64) as memory, crew() as hands:
        killed = 0.0
        victim = _in_the_middle(hands, memory, mutex) if dies else None
        workers = [hands.start(f"worker {n}", _work, memory, mutex) for n in range(_WORKERS)]
        for worker in workers:
            worker.hear()
        for worker in workers:
            worker.tell("go")
        if victim is not None:
            killed = victim.kill()
        told = [worker.result() for worker in workers]
        record = memory.struct(_FIELDS)
        count, copy = record.count, record.copy
        del record
    deaths = sum(one.deaths for one in told)
    return Counted(count, copy, Told(deaths, max(one.moment for one in told)), killed)


def _in_the_middle(hands: Crew, memory: kin.SharedMemory, mutex: kin.Mutex | None) -> Child:
    victim = hands.start("fourth", _change_by_half, memory, mutex)
    victim.hear()
    return victim


# ── in the children ──────────────────────────────────────────────────────────────────────────


def _work(line: Line, memory: kin.SharedMemory, mutex: kin.Mutex | None) -> Told:
    record = memory.struct(_FIELDS)
    told = Told(0, 0.0)
    line.tell("ready")
    line.hear()
    for _ in range(_TURNS):
        if mutex is None:
            _change(record)
            continue
        with mutex as held:
            if held.owner_died:
                told = Told(told.deaths + 1, time.monotonic())
                record.copy = record.count
            _change(record)
    return told


def _change(record: kin.Record) -> None:
    was = record.count
    os.sched_yield()  # as any scheduler may
    record.count = was + 1
    record.copy = was + 1


def _change_by_half(line: Line, memory: kin.SharedMemory, mutex: kin.Mutex) -> None:
    record = memory.struct(_FIELDS)
    mutex.acquire()
    record.count += 1
    line.tell("in the middle")
    line.hear()


STOP = Stop(
    "counter",
    "A counter in shared memory: wrong without a lock, right with one",
    "共享内存 (特别提醒)",
    visit,
)
