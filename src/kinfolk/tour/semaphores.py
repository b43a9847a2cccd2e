"""Stop `semaphores`: a count to take from, and to put into. The source's 信号量.

It shows, with POSIX semaphores, with System V ones, and with `kin.Semaphore`,
- that who takes when nothing is left sleeps until somebody puts in (sem_wait(3), semop(2));
- what the source warns of: that a semaphore is made, and that it gets its value, is not one step everywhere. Whoever
  finds one here finds its value, however many make it at once;
- that a holder that is killed never puts back what it took, unless the kernel undoes it (SEM_UNDO), or those who use
  it together do, as with `kin.Semaphore`;
- several operations as one, which are done together or not at all;
- that who waits for what is removed is told.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import kinfolk as kin
from kinfolk.tour.evidence import status_line
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Child, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, unused_key, unused_name

_SEATS, _MAKERS = 2, 4
_LOOK = 0.001  # seconds between two looks at /proc

Semaphore = kin.PosixSemaphore | kin.SysVSemaphore | kin.Semaphore


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    name, key = f"/{unused_name()}", unused_key()
    posix = kin.PosixSemaphore(name, _SEATS)
    try:
        _seats(narrator, posix, "a POSIX semaphore", name)
        _killed_holder_of_posix(narrator, posix)
    finally:
        posix.unlink()
        posix.close()
    try:
        _making(narrator, key)
        system_v = kin.SysVSemaphore(key, value=None)
        system_v.set(_SEATS)
        _seats(narrator, system_v, "a System V set", f"key {key:#x}")
        _killed_holder_of_system_v(narrator, system_v)
        _as_one(narrator, system_v)
        _removed(narrator, system_v)
    finally:
        outcome(lambda: kin.SysVSemaphore(key, value=None).unlink())  # unless it is removed
    with contextlib.closing(kin.Semaphore(_SEATS)) as ours:
        _seats(narrator, ours, "a kin.Semaphore", "anonymous")
        _killed_holder_of_ours(narrator, ours)


def _value(semaphore: Semaphore) -> int:
    if isinstance(semaphore, kin.SysVSemaphore):
        return semaphore.values[0]
    return semaphore.value


# ── who takes when nothing is left ───────────────────────────────────────────────────────────


def _seats(narrator: Narrator, seats: Semaphore, what: str, name: str) -> None:
    with crew() as hands:
        first, second, third = (hands.start(f"guest {n}", _take_a_seat, seats) for n in (1, 2, 3))
        for guest in (first, second):
            _let_in(guest)
            guest.hear()
        left = _value(seats)
        _let_in(third)
        sleeps = _comes(lambda: status_line(third.pid, "State").startswith("S"))
        first.tell("go")
        first.result()
        third.hear()
        came = _value(seats)
        for guest in (second, third):
            guest.tell("go")
            guest.result()
    narrator.says(
        f"Of {_SEATS} seats, {what} ({name}), process {first.pid} and process {second.pid} took one each: the value was {left}. "
        f"Process {third.pid} slept until one of them had put it back."
    )
    narrator.check(f"with {what} of 0 who takes sleeps", left == 0 and sleeps, str(left))
    narrator.check("who sleeps gets what is put in", came == 0, str(came))
    narrator.check(
        "in the end all of it is there again", _value(seats) == _SEATS, str(_value(seats))
    )


def _let_in(guest: Child) -> None:
    guest.tell("come in")
    guest.hear()


def _comes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK)
    return True


# ── made, and given its value ────────────────────────────────────────────────────────────────


def _making(narrator: Narrator, key: int) -> None:
    with crew() as hands:
        makers = [hands.start(f"maker {n}", _make, key, n) for n in range(_MAKERS)]
        for maker in makers:
            maker.hear()
        for maker in makers:
            maker.tell("go")
        found = [maker.result() for maker in makers]
    narrator.says(
        f"{_MAKERS} processes made the set of one key at the same moment. System V needs a call to make it and another one to give it "
        f"values, so that others may find it without: here each of them found {found[0]}."
    )
    narrator.check(
        "all found the same set, and its values",
        len(set(found)) == 1 and found[0] != (0, 0),
        repr(found),
    )


# ── who holds is killed ──────────────────────────────────────────────────────────────────────


def _killed_holder_of_posix(narrator: Narrator, seats: kin.PosixSemaphore) -> None:
    with crew() as hands:
        holder = hands.start("holder", _take_all, seats)
        holder.hear()
        holder.kill()
    met = outcome(lambda: seats.acquire(timeout=0))
    narrator.says(
        f"Process {holder.pid} took all of the POSIX semaphore and was killed: nobody knows that it had taken them, and who asks for one met {met}, "
        "now and for ever. (kin.Semaphore would have got them back.)"
    )
    narrator.check("what a killed process took of it is lost", met == "Timeout", met or "it came")


def _killed_holder_of_system_v(narrator: Narrator, seats: kin.SysVSemaphore) -> None:
    with crew() as hands:
        holder = hands.start("holder", _take_all, seats)
        holder.hear()
        waiter = hands.start("waiter", _take_and_tell_when, seats)
        waiter.hear()
        asleep = _comes(lambda: seats.waiting() == (1, 0))
        moment = holder.kill()
        took = waiter.result() - moment
    narrator.says(
        f"Process {holder.pid} took all of the System V semaphore and was killed. The kernel knew what it had taken (SEM_UNDO): process "
        f"{waiter.pid}, which slept, had one {took * 1000:.1f} ms after the SIGKILL."
    )
    narrator.figure("undone_after_seconds", took)
    narrator.check("what a killed process took comes back by SEM_UNDO", asleep and took >= 0)
    narrator.check("all of it", seats.values[0] == _SEATS, repr(seats.values))


def _killed_holder_of_ours(narrator: Narrator, seats: kin.Semaphore) -> None:
    with crew() as hands:
        holder = hands.start("holder", _take_all, seats)
        holder.hear()
        waiter = hands.start("waiter", _take_and_tell_when, seats)
        waiter.hear()
        asleep = _comes(lambda: status_line(waiter.pid, "State").startswith("S"))
        moment = holder.kill()
        took = waiter.result() - moment
    narrator.says(
        f"Process {holder.pid} took all of the kin.Semaphore and was killed. What each process holds stands in shared memory, and who sleeps "
        f"watches the others: process {waiter.pid} had one {took * 1000:.1f} ms after the SIGKILL."
    )
    narrator.figure("given_back_after_seconds", took)
    narrator.check("what a killed process held comes back to who sleeps", asleep and took >= 0)
    narrator.check("and all of it", seats.value == _SEATS, str(seats.value))


# ── several as one; removed ──────────────────────────────────────────────────────────────────


def _as_one(narrator: Narrator, forks: kin.SysVSemaphore) -> None:
    forks.set([1, 0])
    with crew() as hands:
        eater = hands.start("eater", _take_both, forks)
        eater.hear()
        _comes(lambda: forks.waiting(1) == (1, 0))
        meanwhile = forks.values
        forks.operate([(1, 1)], undo=False)
        both = eater.result()
    narrator.says(
        f"Process {eater.pid} wanted one of each of two, and one was there: while it waited the values were {meanwhile}. It took "
        f"both at once: {both}."
    )
    narrator.check(
        "several are taken together or not at all",
        (meanwhile, both) == ((1, 0), (0, 0)),
        f"{meanwhile}, {both}",
    )


def _removed(narrator: Narrator, semaphore: kin.SysVSemaphore) -> None:
    semaphore.set(0)
    with crew() as hands:
        waiter = hands.start("waiter", _wait_in_vain, semaphore)
        waiter.hear()
        _comes(lambda: semaphore.waiting() == (1, 0))
        semaphore.unlink()
        met = waiter.result()
    narrator.says(f"The set was removed while process {waiter.pid} waited; it met {met}.")
    narrator.check("who waits for what is removed is told", met == "NotFound", met or "nothing")


# ── in the children ──────────────────────────────────────────────────────────────────────────


def _take_a_seat(line: Line, seats: Semaphore) -> None:
    line.hear()
    line.tell("at the door")
    with seats:
        line.tell("seated")
        line.hear()


def _make(line: Line, key: int, number: int) -> tuple[int, ...]:
    line.tell("ready")
    line.hear()
    return kin.SysVSemaphore(key, n=2, value=[_SEATS, 1]).values


def _take_all(line: Line, seats: Semaphore) -> None:
    for _ in range(_SEATS):
        seats.acquire(timeout=PATIENCE)
    line.tell("all taken")
    line.hear()


def _take_and_tell_when(line: Line, seats: Semaphore) -> float:
    line.tell("ready")
    with seats.hold(timeout=PATIENCE):
        return time.monotonic()


def _take_both(line: Line, forks: kin.SysVSemaphore) -> tuple[int, ...]:
    line.tell("ready")
    forks.operate([(0, -1), (1, -1)], timeout=PATIENCE)
    return forks.values


def _wait_in_vain(line: Line, semaphore: kin.SysVSemaphore) -> str:
    line.tell("ready")
    return outcome(lambda: semaphore.acquire(timeout=PATIENCE))


STOP = Stop("semaphores", "Semaphores: take, put in, and who undoes it", "信号量", visit)
