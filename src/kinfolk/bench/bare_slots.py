"""Two slots of shared memory and two counts at which both sides look again and again: what is left
of a channel when nothing is asked of it but to move an array from one process to another.

sender                                  receiver
wait for a free slot ── copy in ──────> wait for a full one ── read it where it lies
count what was put ──────────────────────> count what was read, with the next take

The yardstick of the channels that copy once: `memcpy` beside it is done by one process, whose
caches have the destination, and nobody reads what it writes. It is no channel: it has one sender,
one receiver, one size, no end, and nothing that survives a kill.
"""

from __future__ import annotations

import mmap
from typing import Any

from kinfolk.bench.results import About
from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

NAME = "memcpy, read"

_WHY = "two slots of shared memory, polled: one process copies in, another one reads"

ABOUT = (About(NAME, "kernel", "spinning", _WHY),)

_SLOTS = 2


class _Slots(Wiring):
    def __init__(self, terms: Terms) -> None:
        if not terms.objects:
            raise SUBJECT.unsupported("it is a yardstick for arrays")
        self._counts = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._slots = [mmap.mmap(-1, terms.size) for _ in range(_SLOTS)]

    def outlet(self, number: int) -> Outlet:
        counts, views = self._counts, [memoryview(slot) for slot in self._slots]

        def send(array: Any) -> None:
            put = counts[0]
            while put - counts[1] >= _SLOTS:
                pass
            views[put % _SLOTS][:] = array.data
            counts[0] = put + 1

        return Outlet(send)

    def inlet(self, number: int) -> Inlet:
        import numpy as np

        counts = self._counts
        arrays = [np.frombuffer(slot, dtype=np.uint8) for slot in self._slots]
        taken = 0

        def take() -> Any:
            nonlocal taken
            counts[1] = taken
            while counts[0] == taken:
                pass
            taken += 1
            return arrays[(taken - 1) % _SLOTS]

        return Inlet(take)


SUBJECT = Subject(
    NAME, "kernel", _Slots, _WHY, waiting="spinning", many_senders=False, many_receivers=False,
    objects=True,
)  # fmt: skip
