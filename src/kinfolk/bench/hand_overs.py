"""Hand-overs: a message that is built where it is read, of which nothing but the handing over takes
time.

sender                                      receiver
reserve ── stamp it ── commit ────────────> take ── look at the stamp ── drop it
look at the word <────────────────────────── number of those that were dropped

The stamp is the time before the memory was asked for, so what is measured is everything between the
wish for memory and a receiver that has the message: getting memory, committing, waking, taking. The
sender goes on when the receiver has dropped the last one, which it learns by looking at a word:
that is its own waiting, and no part of the time.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array

import kinfolk as kin
from kinfolk.bench.accounting import Meter, Usage
from kinfolk.bench.cases import Case, Outcome
from kinfolk.bench.loops import CLOCK
from kinfolk.bench.participants import Cast
from kinfolk.bench.statistics import middle
from kinfolk.bench.subject import Wiring

_STAMP = struct.Struct("q")


class Builder:
    """Builds messages of which only the stamp is written."""

    def __init__(self, wiring: Wiring, case: Case, dropped: memoryview) -> None:
        self._wiring, self._size, self._dropped = wiring, case.size, dropped
        self._sent = 0

    def open(self) -> None:
        """Its end. Raises Unsupported where nothing is built in place."""
        self._outlet = self._wiring.outlet(0)
        if self._outlet.reserve is None:
            raise kin.Unsupported("can't be measured like this", why="nothing is built in place")
        self._reserve = self._outlet.reserve

    def play(self, count: int) -> Usage:
        """Hand over so many."""
        reserve, size, dropped = self._reserve, self._size, self._dropped
        meter = Meter()
        for sent in range(self._sent + 1, self._sent + count + 1):
            begun = CLOCK()
            with reserve(size) as memory:
                _STAMP.pack_into(memory, 0, begun)
            while dropped[0] != sent:
                os.sched_yield()
        self._sent += count
        return meter.stop(count)

    def close(self) -> None:
        """Its end."""
        self._outlet.close()


class Taker:
    """Takes them, and says when."""

    def __init__(self, wiring: Wiring, dropped: memoryview) -> None:
        self._wiring, self._dropped = wiring, dropped

    def open(self) -> None:
        """Its end."""
        self._inlet = self._wiring.inlet(0)

    def play(self, count: int) -> Usage:
        """Take so many."""
        take, dropped = self._inlet.take, self._dropped
        times = array("Q")
        meter = Meter()
        for _ in range(count):
            message = take()
            times.append(CLOCK() - _STAMP.unpack_from(message)[0])
            del message
            dropped[0] += 1
        return meter.stop(count, times.tobytes())

    def close(self) -> None:
        """Its end."""
        self._inlet.close()


def start(cast: Cast, wiring: Wiring, case: Case) -> None:
    """Fork both."""
    dropped = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    cast.start("sender", Builder(wiring, case, dropped))
    cast.start("receiver", Taker(wiring, dropped))


def outcome(played: dict[str, list[Usage]], case: Case) -> Outcome:
    """What the receiver has seen."""
    (taker,) = played["receiver"]
    times = array("Q")
    times.frombytes(taker.samples)
    return Outcome({"hand_over": middle(times) / 1e3}, taker.messages, taker.samples)
