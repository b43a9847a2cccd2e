"""One copy of an array in memory: what no channel that copies can beat, and the yardstick of those
that copy once.

The source are the arrays of the streams, the destination shared memory whose pages are there
already.
"""

from __future__ import annotations

import mmap
import time
from itertools import cycle, islice

from kinfolk.bench.cases import Case, Order, Outcome
from kinfolk.bench.messages import payloads, wrong
from kinfolk.bench.placement import place
from kinfolk.bench.results import About

ABOUT = (
    About("memcpy", "kernel", "blocking", "one copy into shared memory, by one process, unread"),
)


def case(size: int) -> Case:
    """Of arrays of so many bytes."""
    return Case("arrays", "memcpy", size)


def perform(order: Order) -> Outcome:
    """Copy so many, or for so long."""
    place(0, order.placement)
    size = order.case.size
    messages = payloads(0, size)
    with mmap.mmap(-1, size) as memory, memoryview(memory) as there:
        there[:] = messages[0]
        count = order.count or _fitting(messages, there, order.seconds)
        seconds = _seconds_of(messages, there, count)
        last = messages[(count - 1) % len(messages)]
        if not last.startswith(there):
            raise wrong(there, size)
    return Outcome({"rate": count / seconds, "bytes_rate": count * size / seconds}, count)


def _seconds_of(messages: list[bytes], there: memoryview, count: int) -> float:
    begun = time.perf_counter()
    for message in islice(cycle(messages), count):
        there[:] = message
    return time.perf_counter() - begun


def _fitting(messages: list[bytes], there: memoryview, seconds: float) -> int:
    took = min(_seconds_of(messages, there, 4) for _ in range(2)) / 4
    return max(1, int(seconds / took))
