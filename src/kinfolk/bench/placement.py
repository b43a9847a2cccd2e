"""Which process runs on which CPU.

    apart      each on a core of its own, then on the cores' second threads, then all over again
    together   all on one CPU: what a busy machine, or a container with one CPU, makes of it
    free       where the kernel puts them

Apart is the default: left to itself, the kernel moves them together and apart within one run, and
every figure has two medians.
"""

from __future__ import annotations

import os
from typing import Literal

from kinfolk.bench.machine import core_of

Placement = Literal["apart", "together", "free"]


def order_of(cpus: set[int]) -> list[int]:
    """The CPUs, first one of each core, then the others."""
    first: dict[tuple[str, str], int] = {}
    for cpu in sorted(cpus):
        first.setdefault(core_of(cpu), cpu)
    firsts = sorted(first.values())
    return firsts + sorted(cpus.difference(firsts))


def place(number: int, placement: Placement) -> int | None:
    """Bind this process as the one with this number; the CPU, or None where it is left free."""
    if placement == "free":
        return None
    order = order_of(os.sched_getaffinity(0))
    cpu = order[0 if placement == "together" else number % len(order)]
    os.sched_setaffinity(0, {cpu})
    return cpu
