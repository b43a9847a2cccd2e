"""`kin tour`: the guided walk through the source text, with real processes: a stop for each thing it shows.

    route       the stops in their order, and how they are walked: `run`, `stops`
    stop        what a stop is, and what it is given
    narrator    how it speaks: sentences, tables, figures, checks; for people and as JSON
    processes   its forked children, always reaped
    evidence    what the kernel says of other processes
    own_init    an init that adopts what is left below it
    links       a one-way link over every mechanism
    file …      the stops themselves, a file each

A new stop is a file with a `STOP` and one line in `route.STOPS`.
"""

from kinfolk.tour.route import run, stops

__all__ = ["run", "stops"]
