"""`with lock` and `with lock.hold(…)`, interrupted at whatever instruction: where the block never began nothing is held, and where it
has ended neither.
"""

from __future__ import annotations

import contextlib
import dis
import itertools
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Peers
from tests.faults.test_interrupted_waits import Storm
from tests.unit.semaphores import value_of
from tests.unit.striking import striking_at

Block = Callable[[], AbstractContextManager[Any]]


class Case(NamedTuple):
    """Something that can be held by one."""

    block: Block
    is_free: Callable[[], bool]


class Struck(Exception):
    """What a signal handler raises."""


def mutex_case(_: Path) -> Case:
    mutex = kin.Mutex()
    return Case(lambda: mutex.hold(HANG), lambda: not mutex.locked)


def condition_case(_: Path) -> Case:
    condition = kin.Condition()
    return Case(lambda: condition.hold(HANG), lambda: not condition._mutex.locked)


def semaphore_case(_: Path) -> Case:
    semaphore = kin.Semaphore(2)
    return Case(lambda: semaphore.hold(HANG, n=2), lambda: semaphore.value == 2)


def posix_case(_: Path) -> Case:
    posix = kin.PosixSemaphore()
    return Case(lambda: posix.hold(HANG), lambda: value_of(posix) == 1)


def sysv_case(_: Path) -> Case:
    sysv = kin.SysVSemaphore(n=2, value=3)
    return Case(lambda: sysv.hold(HANG, index=1, count=2), lambda: sysv.values == (3, 3))


def file_lock_case(path: Path) -> Case:
    lock = kin.FileLock(path / "lock")
    return Case(lambda: lock, lambda: not lock.held)


def file_lock_hold_case(path: Path) -> Case:
    lock = kin.FileLock(path / "lock")
    return Case(lambda: lock.hold(HANG), lambda: not lock.held)


def posix_lock_case(path: Path) -> Case:
    lock = kin.FileLock(path / "lock", kind="posix")
    return Case(lambda: lock.hold(HANG), lambda: not lock.held)


CASES = [
    mutex_case,
    condition_case,
    semaphore_case,
    posix_case,
    sysv_case,
    file_lock_case,
    file_lock_hold_case,
    posix_lock_case,
]


def striking_once(number: int) -> Callable[..., Any]:
    """For sys.settrace: a signal at the n-th instruction of kinfolk's and of contextlib's, but for those at which none is handled."""
    strikes = [striking_at(number, signal.SIGUSR1, module) for module in ("kinfolk.", "contextlib")]

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code.co_name == "__del__":
            return None
        if not returns(frame):
            for strike in strikes:
                strike(frame, event, argument)
        return trace

    return trace


def returns(frame: FrameType) -> bool:
    """Whether it is at its end, where Python looks for no signals."""
    return frame.f_lasti >= 0 and dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith(
        "RETURN_"
    )


def left_held_at(case: Case) -> list[int]:
    """In a peer: the first instruction at which an interrupt leaves something held."""

    def strike(_: int, __: FrameType | None) -> None:
        sys.settrace(None)
        raise Struck

    signal.signal(signal.SIGUSR1, strike)
    for number in itertools.count():
        if sys.version_info >= (3, 12):  # traced by the instruction only where it just ran so
            sys.settrace(striking_once(sys.maxsize))
            with case.block():
                pass
        sys.settrace(striking_once(number))
        try:
            with case.block():
                pass
        except Struck:
            if not case.is_free():
                return [number]
        else:
            assert number > 0
            return []
        finally:
            sys.settrace(None)
    raise AssertionError("it has no end")


@pytest.mark.parametrize("make", CASES)
def test_interrupted_at_any_instruction_nothing_stays_held(make, tmp_path, peers: Peers):
    case = make(tmp_path)
    assert peers.fork(lambda _: left_held_at(case)).result() == []


def test_in_python_it_would(peers: Peers):
    """The negative control: a block that Python begins and ends."""
    mutex = kin.Mutex()

    @contextlib.contextmanager
    def hold() -> Iterator[None]:
        mutex.acquire()
        try:
            yield
        finally:
            mutex.release()

    case = Case(hold, lambda: not mutex.locked)
    assert peers.fork(lambda _: left_held_at(case)).result()


@pytest.mark.parametrize("make", CASES)
def test_interrupted_at_any_moment_nothing_stays_held(make, tmp_path):
    case, storm = make(tmp_path), Storm()

    def use() -> None:
        for _ in range(50):
            with case.block():
                pass

    use()  # a lock's file is made now, and a descriptor that is dropped in the middle of that would warn
    with storm.raging():
        while storm.struck < 300:
            storm.shelterless(use)
            assert case.is_free(), storm.struck
