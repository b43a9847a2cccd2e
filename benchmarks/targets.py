"""The project's own targets, held against a run of `kin bench`.

    kin bench --suite locks --suite processes --export-json RESULTS.json
    python benchmarks/targets.py RESULTS.json

A target is a ratio within the run, or a time. Ends with 0 if all that the run has measured are met, with 1 if one is missed, and with 2 if
there is nothing to hold them against.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from kinfolk.bench import results
from kinfolk.bench.cases import Case
from kinfolk.bench.start_cases import PARENTS


class Target(NamedTuple):
    """What a figure may be."""

    case: Case
    metric: str
    bound: float
    #: of which a multiple is meant; None: the figure itself
    yardstick: str | None = None
    at_least: bool = False


def _targets() -> list[Target]:
    def lock(variant: str) -> Case:
        return Case("locks", "kin.Mutex", variant=variant)

    def way(name: str, parent: str) -> Case:
        return Case("processes", name, variant=parent)

    standard = "multiprocessing.Lock"
    return [
        Target(lock("acquire, release"), "pair", 0.7, standard),
        Target(lock("with"), "pair", 0.7, standard),
        Target(lock("two processes"), "pairs", 1.0, standard, at_least=True),
        Target(lock("next holder"), "takeover", 5.0),
        *(Target(way("kin direct", parent), "total", 1.15, "posix_spawn") for parent in PARENTS),
        *(Target(way("kin keeper", parent), "total", 1.4, "posix_spawn") for parent in PARENTS),
        *(Target(way("kin function", parent), "total", 5.0) for parent in PARENTS),
    ]


def verdict(document: results.Document, target: Target) -> bool | None:
    """Whether it is met; None when the run has not measured it. Prints a line."""
    case = target.case
    found = document.find(case)
    value = None if found is None else found.figure(target.metric)
    if value is None:
        return None
    unit = ""
    if target.yardstick is not None:
        by = document.find(Case(case.workload, target.yardstick, variant=case.variant))
        divisor = None if by is None else by.figure(target.metric)
        if not divisor:
            return None
        value, unit = value / divisor, f" of {target.yardstick}"
    met = value >= target.bound if target.at_least else value <= target.bound
    bound = f"at {'least' if target.at_least else 'most'} {target.bound:g}"
    print(f"  {case.key:40} {value:8.2f}{unit}, {bound}: {'met' if met else 'MISSED'}")
    return met


def main() -> int:
    """Read the run that is named."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    document = results.read(sys.argv[1])
    verdicts = [verdict(document, target) for target in _targets()]
    measured = [each for each in verdicts if each is not None]
    if not measured:
        print("the run has measured nothing that there is a target for", file=sys.stderr)
        return 2
    return 0 if all(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
