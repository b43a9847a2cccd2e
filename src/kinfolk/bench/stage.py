"""The program that measures one case once: ``python -m kinfolk.bench.stage ORDER``, in a process
that has done nothing before.

    runner ── ORDER (JSON, an argument) ──> stage ── fork ──> the participants
           <── Outcome (JSON, a line) ──────

    lay the wiring, fork ─> all open their ends ─> one message ─> warm up ─> measure ─> memory

Rules:
1. A fresh interpreter for each case and round: nothing of another case is in its caches, its
   allocator or its threads.
2. The stage itself sleeps while it measures. What it would do beside, would be measured too.
3. Standard output is the runner's: whatever a library prints goes to standard error.
4. How many messages there are is found out once, in the first round, and is then the same for all:
   a case whose rounds have different lengths has rounds that can't be compared.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from kinfolk.bench import (
    growth_cases,
    hand_overs,
    idling,
    lock_cases,
    memory_copies,
    round_trips,
    start_cases,
    streams,
    waking_cases,
)
from kinfolk.bench.accounting import Usage
from kinfolk.bench.cases import LONGER, Case, Failure, Order, Outcome
from kinfolk.bench.participants import Broken, Cast, failure_of
from kinfolk.bench.sizes import Shape
from kinfolk.bench.subject import Subject, Terms, TwoWays, Wiring
from kinfolk.bench.subjects import find

#: Messages of one round, however fast they are: samples are kept in memory.
_MOST = 2_000_000

#: How long it takes can be told from this part of the whole on.
_LOOK = 0.3

#: How often each number is tried.
_TRIES = 3

#: How many times more messages are tried next, at most.
_STEP = 16

#: Seconds that a case whose number of messages is given may take in any case.
_ALWAYS = 2.0

#: The part of the messages that warms up when their number is known.
_WARM = 0.1


def perform(order: Order) -> Outcome:
    """Measure. Failures are outcomes too."""
    try:
        outcome = _perform(order)
    except Broken as broken:
        outcome = Outcome(failure=broken.failure)
    except Exception as error:  # whatever a peer raises: it is the result
        outcome = Outcome(failure=failure_of(error))
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    outcome.cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return outcome


class Workload(NamedTuple):
    """One that moves messages between the processes of a stage."""

    #: forks its participants
    start: Callable[[Cast, Any, Case], None]
    outcome: Callable[[dict[str, list[Usage]], Case], Outcome]
    both_ways: bool = False
    #: whether arrays are sent, as the library sends objects; or what is read where it lies
    objects: bool = False


WORKLOADS = {
    "round trip": Workload(round_trips.start, round_trips.outcome, both_ways=True),
    "one core": Workload(round_trips.start, round_trips.outcome, both_ways=True),
    "stream": Workload(streams.start, streams.outcome),
    "one by one": Workload(streams.start, streams.outcome),
    "batches": Workload(streams.start, streams.outcome),
    "arrays": Workload(streams.start_arrays, streams.outcome, objects=True),
    "hand-over": Workload(hand_overs.start, hand_overs.outcome, objects=True),
    "idle": Workload(idling.start, idling.outcome),
    "messages": Workload(streams.start, streams.outcome),
    "ends": Workload(streams.start, streams.outcome),
    "start-up": Workload(streams.start, streams.outcome),
}

#: Other workloads, by their names; and what is no channel, by the subject's.
_OTHERS: dict[str, Callable[[Order], Outcome]] = {
    "locks": lock_cases.perform,
    "waking": waking_cases.perform,
    "processes": start_cases.perform,
    "channels": growth_cases.perform,
    "segments": growth_cases.perform,
    "memcpy": memory_copies.perform,
}


def _perform(order: Order) -> Outcome:
    case = order.case
    other = _OTHERS.get(case.workload) or _OTHERS.get(case.subject)
    if other is not None:
        return other(order)
    subject, workload = find(case.subject), WORKLOADS[case.workload]
    terms = Terms(
        size=case.size,
        shape=Shape(case.senders, case.receivers),
        directory=order.directory,
        name=order.name,
        objects=workload.objects,
    )
    subject.check(terms)
    begun = time.monotonic_ns()
    if subject.module:
        importlib.import_module(subject.module)
    imported = time.monotonic_ns()
    wiring = _lay(subject, terms, both_ways=workload.both_ways)
    try:
        with Cast("together" if case.workload == "one core" else order.placement) as cast:
            workload.start(cast, wiring, case)
            wiring.leave()
            cast.opened()
            opened = time.monotonic_ns()
            cast.play(1)
            arrived = time.monotonic_ns()
            if case.workload == "start-up":
                moments = begun, imported, opened, arrived
                steps = [(b - a) / 1e6 for a, b in pairwise(moments)]
                return Outcome(dict(zip(("import", "open", "first"), steps, strict=True)), count=1)
            return _measured(cast, order, workload)
    finally:
        wiring.remove()


def _lay(subject: Subject, terms: Terms, *, both_ways: bool) -> Wiring | TwoWays:
    if not both_ways:
        return subject.lay(terms)
    return TwoWays(subject.lay(terms), subject.lay(replace(terms, name=f"{terms.name}b")))


def _measured(cast: Cast, order: Order, workload: Workload) -> Outcome:
    case, count = order.case, order.count
    if case.workload == "idle":
        count = max(1, int(idling.LONGER * order.seconds * 1e3))
    elif case.workload == "messages":
        count = case.grows
        needed = count * order.seconds / _fitting(cast, order.seconds)
        if needed > max(LONGER * order.seconds, _ALWAYS):
            why = f"{count:,} messages would take {needed:.0f} s; give it more with --time"
            return Outcome(failure=Failure("unsupported", why))
    elif count is None:
        count = _fitting(cast, order.seconds)
    else:
        cast.play(max(1, int(count * _WARM)))
    outcome = workload.outcome(cast.play(count), case)
    if case.grows:
        outcome.metrics = {"each": 1e6 / outcome.metrics["rate"], **outcome.metrics}
    outcome.metrics["memory"] = float(cast.memory())
    return outcome


def _fitting(cast: Cast, seconds: float) -> int:
    """How many messages of each sender take so long: ever more of them, until it can be told.

    The faster of two tries counts: one interruption by the machine must not make a short round of
    it.
    """
    count = 1
    while True:
        took = max(1e-9, min(_seconds_of(cast, count) for _ in range(_TRIES)))
        fits = count * seconds / took
        if took >= seconds * _LOOK or count >= _MOST:
            return max(1, min(_MOST, int(fits)))
        # Not at once: what few messages took, says little about many.
        count = min(_MOST, max(2 * count, int(min(_STEP * count, fits / 2))))


def _seconds_of(cast: Cast, count: int) -> float:
    """From the first of who sends to the last of who takes, by their own clocks: the stage hears of
    it later.
    """
    played = cast.play(count)
    sending, *_ = played.values()
    end = max(usage.end for usages in played.values() for usage in usages)
    return (end - min(usage.begin for usage in sending)) / 1e9


def main() -> int:
    """Read the order, measure, say what was found."""
    order = msgspec.json.decode(sys.argv[1], type=Order)
    line = os.dup(1)
    os.dup2(2, 1)
    outcome = perform(order)
    rest = memoryview(msgspec.json.encode(outcome) + b"\n")
    while rest:
        rest = rest[os.write(line, rest) :]
    return 0


if __name__ == "__main__":
    sys.exit(main())
