"""`kin tour`: the guided walk through the source text, one stop a mechanism, with real processes.

    route       the stops in their order, and how they are walked: `run`, `stops`
    stop        what a stop is, and what it is given
    narrator    how it speaks: sentences, tables, figures, checks; for people and as JSON
    processes   its forked children, always reaped
    links       a one-way link over every mechanism
    file …      the stops themselves, a file each

A new stop is a file with a `STOP` and one line in `route.STOPS`.
"""

from kinfolk.tour.route import run, stops

__all__ = ["run", "stops"]
