"""An old run and a new one: what has become slower, by ratio.

    ratio = (new / yardstick of the new run) / (old / yardstick of the old run)   > 1 is worse

Rules:
1. Where both runs have measured a yardstick in the same workload, each figure is first divided by
   the yardstick's of its own run: a machine that was busy, or is another one, slows down both.
   ``absolute`` leaves that out.
2. A regression is more than the threshold, and more than chance: the interval of the ratio does not
   contain 1. With a single round nobody can tell chance from change, and the threshold alone
   decides.
3. What the new run has not measured, or could not any more, is said; what could be measured before
   and now fails is a regression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from kinfolk.bench.cases import METRICS, Case
from kinfolk.bench.results import Document, Result
from kinfolk.bench.statistics import Interval, middle, unpaired_ratio

#: What everything is divided by, where it was measured: the kernel's simplest, without any library.
YARDSTICK = "os.pipe"

Change = Literal["worse", "better", "same", "broken", "mended", "gone", "new"]


class Comparison(NamedTuple):
    """A case, then and now."""

    case: Case
    metric: str
    change: Change
    #: how many times worse; None where one of the runs has no figure
    ratio: Interval | None
    #: as measured, not divided by anything
    old: float | None
    new: float | None


def compare(
    old: Document, new: Document, *, threshold: float, absolute: bool = False
) -> list[Comparison]:
    """Every case of either run, the worst first. ``threshold`` is a ratio above 1, such as 1.1."""
    cases = dict.fromkeys([result.case for result in (*new.results, *old.results)])
    found = [_compared(case, old, new, threshold, absolute) for case in cases]
    return sorted(found, key=lambda each: -(each.ratio.ratio if each.ratio else _rank(each)))


def in_common(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that both runs have; without any, that nothing is worse would mean nothing."""
    return [each for each in comparisons if each.change not in ("gone", "new")]


def regressions(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that CI should fail for."""
    return [each for each in comparisons if each.change in ("worse", "broken")]


def _rank(comparison: Comparison) -> float:
    return math.inf if comparison.change == "broken" else 0.0


def _compared(
    case: Case, old: Document, new: Document, threshold: float, absolute: bool
) -> Comparison:
    before, now = old.find(case), new.find(case)
    metric = (now or before or Result(case)).main or (before.main if before else "")
    had, has = (None if r is None else r.figure(metric) for r in (before, now))
    if before is None:
        return Comparison(case, metric, "new", None, None, has)
    if now is None:
        return Comparison(case, metric, "gone", None, had, None)
    if had is None or has is None:
        change: Change = "same" if had == has else "broken" if has is None else "mended"
        return Comparison(case, metric, change, None, had, has)
    ratio = _ratio(before, now, metric, *(_yardsticks(case, old, new, metric, absolute)))
    change = "same"
    if ratio.low is None or ratio.certain:
        if ratio.ratio > threshold:
            change = "worse"
        elif ratio.ratio < 1 / threshold:
            change = "better"
    return Comparison(case, metric, change, ratio, had, has)


def _yardsticks(
    case: Case, old: Document, new: Document, metric: str, absolute: bool
) -> tuple[float, float]:
    """What the old and the new figures are divided by."""
    if absolute or case.subject == YARDSTICK:
        return 1.0, 1.0
    # Of the same workload and size; the yardstick knows one shape only.
    alike = Case(case.workload, YARDSTICK, case.size)
    found = [result.figure(metric) if (result := d.find(alike)) else None for d in (old, new)]
    return (found[0], found[1]) if found[0] and found[1] else (1.0, 1.0)


def _ratio(before: Result, now: Result, metric: str, old_by: float, new_by: float) -> Interval:
    was = [value / old_by for value in before.values(metric) if value > 0]
    is_now = [value / new_by for value in now.values(metric) if value > 0]
    if not was or not is_now:
        return Interval(1.0)
    found = unpaired_ratio(is_now, was)
    if METRICS[metric].better == "higher":
        low, high = found.low, found.high
        found = Interval(1 / found.ratio, 1 / high if high else None, 1 / low if low else None)
    if not math.isfinite(found.ratio):
        return Interval(middle(is_now) / middle(was))
    return found


def sentence(comparison: Comparison) -> str:
    """A line for people."""
    case, unit = comparison.case, METRICS[comparison.metric].unit if comparison.metric else ""
    if comparison.ratio is None:
        words = {
            "broken": "could be measured before, and fails now",
            "mended": "is measured now, and failed before",
            "gone": "was measured before only",
            "new": "was not measured before",
        }
        return f"{case.key}: {words.get(comparison.change, 'has no figures')}"
    interval = comparison.ratio
    sure = f" ({interval.low:.2f} to {interval.high:.2f})" if interval.low and interval.high else ""
    assert comparison.old is not None
    assert comparison.new is not None
    return (
        f"{case.key}: × {interval.ratio:.2f}{sure} {comparison.change}"
        f", {comparison.old:.4g} → {comparison.new:.4g} {unit}".rstrip()
    )
