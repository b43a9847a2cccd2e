"""The project's own targets, held against a run of `kin bench`.

    kin bench --peers --export-json RESULTS.json --suite data --suite locks …
    python benchmarks/targets.py RESULTS.json…

A target is a ratio within a run, or a figure; of several runs it is held against the first that has
measured it. Ends with 0 if all that were measured are met, with 1 if one is missed, and with 2 if
there is nothing to hold them against.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kinfolk.bench import results
from kinfolk.bench.cases import Case
from kinfolk.bench.start_cases import PARENTS
from kinfolk.errors import KinfolkError

#: The kernel's mechanisms, of which the best one is a yardstick.
KERNEL = ("os.pipe", "socketpair", "tcp socket", "posix_ipc mq", "sysv_ipc mq", "mmap + semaphores")


class Target(NamedTuple):
    """What a figure may be."""

    case: Case
    metric: str
    bound: float
    #: of which a multiple is meant, the best of several; without: the figure itself
    yardsticks: Sequence[Case] = ()
    at_least: bool = False


def times_faster(case: Case, bound: float, *yardsticks: Case) -> Target:
    """A round trip that is shorter, a rate that is higher; so many times."""
    if case.workload in ("round trip", "one core"):
        return Target(case, "round_trip", 1 / bound, yardsticks)
    return Target(case, "rate", bound, yardsticks, at_least=True)


def ring_targets() -> Iterator[Target]:
    """Small messages, arrays, and what is built in place."""
    for peer, bound in {"mp.Queue": 70, "mp.Pipe": 30, "iceoryx2 polled": 20}.items():
        theirs = Case("round trip", peer, 48)
        yield times_faster(Case("round trip", "kin ring", 48), bound, theirs)
    subetha = "subetha SpscRing"
    yield times_faster(Case("round trip", "kin ring", 48), 1.5, Case("round trip", subetha, 48))
    for peer, bound in {"mp.Queue": 25, "faster-fifo": 12, "posix_ipc mq": 6}.items():
        # One call a message of ours, against what is fastest of theirs.
        yield times_faster(Case("one by one", "kin ring", 48), bound, Case("stream", peer, 48))
    for workload in ("one by one", "stream"):  # like against like: this peer, too, has batches
        yield times_faster(Case(workload, "kin ring", 48), 1.8, Case(workload, subetha, 48))
    for workload, bound in (("round trip", 12.0), ("one core", 1.0)):
        kernel = [Case(workload, name, 48) for name in KERNEL]
        yield times_faster(Case(workload, "kin ring", 48), bound, *kernel)
    singles = Case("one by one", "kin ring", 48)
    yield times_faster(Case("batches", "kin ring", 48), 4, singles)
    for peer, bound in (("mp.Queue", 10), ("faster-fifo", 5)):
        theirs = Case("stream", peer, 48, 4, 4)
        yield times_faster(Case("stream", "kin ring", 48, 4, 4), bound, theirs)
    for size in (1 << 20, 8 << 20):
        ours = Case("arrays", "kin ring", size)
        yardsticks = {"memcpy": 0.8, "memcpy, read": 0.8, "mp.Queue": 10, "iceoryx2 polled": 2}
        for peer, bound in yardsticks.items():
            yield times_faster(ours, bound, Case("arrays", peer, size))
    for size in (8 << 20, 64 << 20):
        yield Target(Case("hand-over", "kin ring", size), "hand_over", 10)
    # 0.0 %, as it is written with one digit.
    yield Target(Case("idle", "kin ring", 48), "idle", 0.05)


def lock_targets() -> Iterator[Target]:
    """The mutex."""

    def lock(variant: str, name: str = "kin.Mutex") -> Case:
        return Case("locks", name, variant=variant)

    for variant in ("acquire, release", "with"):
        yield Target(lock(variant), "pair", 0.7, [lock(variant, "multiprocessing.Lock")])
    both = "two processes"
    yield Target(lock(both), "pairs", 1.0, [lock(both, "multiprocessing.Lock")], at_least=True)
    yield Target(lock("next holder"), "takeover", 5.0)


def start_targets() -> Iterator[Target]:
    """Starting processes."""

    def way(name: str, parent: str) -> Case:
        return Case("processes", name, variant=parent)

    for parent in PARENTS:
        yardstick = [way("posix_spawn", parent)]
        yield Target(way("kin direct", parent), "total", 1.15, yardstick)
        yield Target(way("kin keeper", parent), "total", 1.4, yardstick)
        yield Target(way("kin function", parent), "total", 5.0)


def verdict(document: results.Document, target: Target) -> bool | None:
    """Whether it is met; None when the run has not measured it. Prints a line."""
    found = document.find(target.case)
    if found is None or target.metric not in found.figures:
        if found is None or found.failure is None or found.failure.reason == "unsupported":
            return None
        print(f"  {target.case.key:36} {found.failure.reason}: {found.failure.text}: MISSED")
        return False
    value, of = found.figure(target.metric) or 0.0, ""
    if target.yardsticks:
        measured = [
            (figure, case)
            for case in target.yardsticks
            if (by := document.find(case)) and (figure := by.figure(target.metric))
        ]
        if not measured:
            return None
        choose = max if target.at_least else min
        divisor, case = choose(measured, key=lambda pair: pair[0])
        value, of = value / divisor, f" of {case.key}"
    met = value >= target.bound if target.at_least else value <= target.bound
    bound = f"at {'least' if target.at_least else 'most'} {target.bound:.3g}"
    shown = "met" if met else "MISSED"
    print(f"  {target.case.key:36} {value:9.3f}{of}, {bound}: {shown}")
    return met


def first_verdict(runs: Sequence[results.Document], target: Target) -> bool | None:
    """That of the first run which has measured it; None when none has."""
    verdicts = (verdict(document, target) for document in runs)
    return next((met for met in verdicts if met is not None), None)


def main() -> int:
    """Read the runs that are named."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        runs = [results.read(path) for path in sys.argv[1:]]
    except KinfolkError as error:
        print(f"targets.py: {error}", file=sys.stderr)
        return 2
    targets = [*ring_targets(), *lock_targets(), *start_targets()]
    measured = [met for target in targets if (met := first_verdict(runs, target)) is not None]
    if not measured:
        print("no run has measured anything that there is a target for", file=sys.stderr)
        return 2
    return 0 if all(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
