"""What is said of many samples: their middle, their tail, their spread; and how sure a ratio is.

Rules:
1. The middle is the median, never the mean: one interruption by the machine must not move it.
2. A percentile is a sample that was taken (nearest rank), never a value between two. One that would
   need more samples than there are is not given: p99.9 of 200 samples is a guess.
3. Only ratios within one run mean anything, so a ratio is formed in each round, of figures that met
   the same moments of the machine, and the interval is about those (Student's t over their
   logarithms; Kalibera and Jones, 2013).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

#: What is kept of a distribution: enough for its picture, up to the worst one.
LEVELS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99)

#: Student's t for 95 % of both sides, by degrees of freedom; beyond the table it is the normal
#: distribution's, or near.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
    2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
    2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.96


class Interval(msgspec.Struct, frozen=True):
    """A ratio, and between which bounds it lies with 95 %; without bounds, there was one round
    only.
    """

    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def certain(self) -> bool:
        """Whether it is another than 1, as far as the rounds can tell."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def percentile(ordered: Sequence[float], level: float) -> float:
    """The sample at ``level`` percent of samples in order: the smallest one that so many are not
    above.
    """
    # Rounded first: 0.999 x 1000 is a hair above 999 in binary, and would be another sample.
    rank = math.ceil(round(level / 100 * len(ordered), 9))
    return ordered[max(0, rank - 1)]


def tail(samples: Sequence[float]) -> dict[str, float]:
    """``p50`` … ``p99.99`` as far as the samples go, and ``max``."""
    ordered = sorted(samples)
    if not ordered:
        return {}
    found = {
        f"p{level:g}": percentile(ordered, level)
        for level in LEVELS
        if len(ordered) * (100 - level) >= 100 * (1 - 1e-9)  # one sample is beyond it, at least
    }
    return {**found, "max": ordered[-1]}


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """How far apart the rounds lie: (largest - smallest) / median; 0 for a single one."""
    center = middle(values)
    return (max(values) - min(values)) / center if center else 0.0


def paired_ratio(values: Sequence[float], yardstick: Sequence[float]) -> Interval:
    """How many times the yardstick's, round by round. Both have a value above 0 for each."""
    logs = [math.log(a / b) for a, b in zip(values, yardstick, strict=True)]
    return _interval(statistics.fmean(logs), _error(logs), len(logs) - 1)


def unpaired_ratio(new: Sequence[float], old: Sequence[float]) -> Interval:
    """How many times the old one's, of rounds that had nothing to do with each other (Welch)."""
    now, before = [math.log(value) for value in new], [math.log(value) for value in old]
    a, b = _error(now) ** 2, _error(before) ** 2
    freedom = min(len(now), len(before)) - 1
    if a + b > 0 and freedom > 0:
        freedom = int((a + b) ** 2 / (a**2 / (len(now) - 1) + b**2 / (len(before) - 1)))
    return _interval(statistics.fmean(now) - statistics.fmean(before), math.sqrt(a + b), freedom)


def _error(logs: Sequence[float]) -> float:
    """The standard error of the mean."""
    return statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0


def _interval(center: float, error: float, freedom: int) -> Interval:
    if freedom < 1:
        return Interval(math.exp(center))
    width = error * (_STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL)
    return Interval(math.exp(center), math.exp(center - width), math.exp(center + width))
