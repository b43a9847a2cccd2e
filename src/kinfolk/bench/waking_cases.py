"""Waking: what an event and a condition cost two processes, of which each sleeps until the other
one wakes it.

first    tell ────────────> hear      Event: `set`; `wait` and `clear`
second   hear <──────────── tell      Condition: `notify`; `wait_for` whose turn it is

And what their calls cost one process, when nobody is there to be woken.
"""

from __future__ import annotations

import mmap
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.bench.cases import Case, Order, Outcome
from kinfolk.bench.forked import together
from kinfolk.bench.placement import place
from kinfolk.bench.results import About

#: Answers that are waited for before the clock is looked at.
_AT_ONCE = 20


class Pair(NamedTuple):
    """What two processes wake each other by; both calls are told which side it is."""

    tell: Callable[[int], object]
    #: sleeps until it is told
    hear: Callable[[int], object]


def _by_events(make: Callable[[], Any]) -> Pair:
    """One for each direction."""
    events = make(), make()

    def hear(side: int) -> None:
        events[side].wait()
        events[side].clear()

    return Pair(lambda side: events[1 - side].set(), hear)


def _by_condition(condition: Any) -> Pair:
    """Whose turn it is, under a condition."""
    turn = mmap.mmap(-1, mmap.PAGESIZE)

    def tell(side: int) -> None:
        with condition:
            turn[0] = 1 - side
            condition.notify()

    def hear(side: int) -> None:
        with condition:
            condition.wait_for(lambda: turn[0] == side)

    return Pair(tell, hear)


_PAIRS: dict[str, Callable[[], Pair]] = {
    "kin.Event": lambda: _by_events(kin.Event),
    "multiprocessing.Event": lambda: _by_events(multiprocessing.Event),
    "kin.Condition": lambda: _by_condition(kin.Condition()),
    "multiprocessing.Condition": lambda: _by_condition(multiprocessing.Condition()),
}


def _notification(condition: Any) -> Callable[[], object]:
    def call() -> None:
        with condition:
            condition.notify()

    return call


def _is_set(event: Any) -> Callable[[], object]:
    is_set: Callable[[], object] = event.is_set
    return is_set


def _set(event: Any) -> Callable[[], object]:
    set_again: Callable[[], object] = event.set
    return set_again


_ASKED, _TOLD, _NOTIFIED = "is_set", "set, nobody waits", "notify nobody"

#: Calls of one process, by the variant, and by the subject.
_CALLS: dict[str, dict[str, Callable[[], Callable[[], object]]]] = {
    _ASKED: {
        "kin.Event": lambda: _is_set(kin.Event()),
        "multiprocessing.Event": lambda: _is_set(multiprocessing.Event()),
    },
    _TOLD: {
        "kin.Event": lambda: _set(kin.Event()),
        "multiprocessing.Event": lambda: _set(multiprocessing.Event()),
    },
    _NOTIFIED: {
        "kin.Condition": lambda: _notification(kin.Condition()),
        "multiprocessing.Condition": lambda: _notification(multiprocessing.Condition()),
    },
}

_EVENTS, _CONDITION = "set; wait and clear", "notify; wait_for"

ABOUT = (
    About("kin.Event", "kinfolk", "blocking", _EVENTS, "", ("crash-safe", "unrelated")),
    About("multiprocessing.Event", "peer", "blocking", _EVENTS),
    About("kin.Condition", "kinfolk", "blocking", _CONDITION, "", ("crash-safe", "unrelated")),
    About("multiprocessing.Condition", "peer", "blocking", _CONDITION),
)

#: The variant of two processes.
TO_AND_FRO = "to and fro"


def cases() -> Iterator[Case]:
    """All of them."""
    for name in _PAIRS:
        yield Case("waking", name, variant=TO_AND_FRO)
    for variant, calls in _CALLS.items():
        for name in calls:
            yield Case("waking", name, variant=variant)


def perform(order: Order) -> Outcome:
    """Measure one."""
    case = order.case
    if case.variant == TO_AND_FRO:
        return _to_and_fro(_PAIRS[case.subject](), order)
    return _called(_CALLS[case.variant][case.subject](), order)


def _called(call: Callable[[], object], order: Order) -> Outcome:
    """So often, or for so long; the turns of the loop alone are taken off."""
    place(0, order.placement)
    count = order.count or _fitting(call, order.seconds)
    cost = _turns(call, count) - min(_turns(None, count) for _ in range(3))
    return Outcome({"call": cost / count}, count)


def _turns(call: Callable[[], object] | None, count: int) -> int:
    """Nanoseconds of so many."""
    begun = time.perf_counter_ns()
    if call is None:
        for _ in range(count):
            pass
    else:
        for _ in range(count):
            call()
    return time.perf_counter_ns() - begun


def _fitting(call: Callable[[], object], seconds: float) -> int:
    count = 1000
    while (took := min(_turns(call, count), _turns(call, count))) < seconds * 1e8:
        count *= 4
    return max(1, int(count * seconds * 1e9 / took))


def _to_and_fro(pair: Pair, order: Order) -> Outcome:
    """So often, or for so long; the answering side is told by a word that it is over."""
    over = mmap.mmap(-1, mmap.PAGESIZE)

    def ask() -> list[int]:
        pair.tell(0)  # the first answer is there when the other process is
        pair.hear(0)
        begun, count = time.monotonic_ns(), 0
        until = begun + int(order.seconds * 1e9)
        while count < order.count if order.count else time.monotonic_ns() < until:
            for _ in range(_AT_ONCE):
                pair.tell(0)
                pair.hear(0)
            count += _AT_ONCE
        span = time.monotonic_ns() - begun
        over[0] = 1
        pair.tell(0)
        return [span, count]

    def answer() -> None:
        while True:
            pair.hear(1)
            if over[0]:
                return
            pair.tell(1)

    found, _ = together(ask, answer, placement=order.placement)
    assert isinstance(found, list)
    span, count = found
    return Outcome({"answer": span / count / 1e3}, count)
