"""Where a curve bends: from where on a thing costs more for each unit than it did before.

cost of each
│ ·                  ·
│   ·              ·        from this point on every one is above 1.5 times the cheapest before it
│     ·  ·  ·  ─ ·
└──────────────── units
"""

from __future__ import annotations

from collections.abc import Sequence

#: How many times the cheapest is a bend, and not the noise of a machine.
BEND = 1.5


def bend(points: Sequence[tuple[float, float]]) -> float | None:
    """The number of units at which it bends, of points (units, cost of each) in order; None where
    it does not.
    """
    for place in range(1, len(points)):
        cheapest = min(cost for _, cost in points[:place])
        if all(cost > BEND * cheapest for _, cost in points[place:]):
            return points[place][0]
    return None
