"""Idling: what an end costs that waits for a message while none comes.

The receiver waits; the sender sleeps, and then sends the one message that ends it. ``play(count)``
is a wait of so many milliseconds here, and the CPU time is that of all threads of the receiving
process.
"""

from __future__ import annotations

import time

from kinfolk.bench.accounting import Meter, Usage
from kinfolk.bench.cases import Case, Outcome
from kinfolk.bench.messages import payload, wrong
from kinfolk.bench.participants import Cast
from kinfolk.bench.subject import Wiring

#: How many times longer than another case: 3 s where those take 0.3, and 10 s with --time 1.
LONGER = 10


class Alarm:
    """Sends one message, when it is time."""

    def __init__(self, wiring: Wiring, size: int) -> None:
        self._wiring, self._message = wiring, payload(0, size)

    def open(self) -> None:
        """Its end."""
        self._outlet = self._wiring.outlet(0)

    def play(self, count: int) -> Usage:
        """Wait so many milliseconds."""
        meter = Meter()
        time.sleep(count / 1e3)
        self._outlet.send(self._message)
        return meter.stop(1)

    def close(self) -> None:
        """Its end."""
        self._outlet.close()


class Sleeper:
    """Waits for it."""

    def __init__(self, wiring: Wiring, size: int) -> None:
        self._wiring, self._size = wiring, size

    def open(self) -> None:
        """Its end."""
        self._inlet = self._wiring.inlet(0)

    def play(self, count: int) -> Usage:
        """Wait as long as it takes."""
        meter = Meter()
        message = self._inlet.take()
        usage = meter.stop(1)
        if len(message) != self._size:
            raise wrong(message, self._size)
        return usage

    def close(self) -> None:
        """Its end."""
        self._inlet.close()


def start(cast: Cast, wiring: Wiring, case: Case) -> None:
    """Fork both."""
    cast.start("sender", Alarm(wiring, case.size))
    cast.start("receiver", Sleeper(wiring, case.size))


def outcome(played: dict[str, list[Usage]], case: Case) -> Outcome:
    """The share of its time that the receiver had a CPU."""
    (sleeper,) = played["receiver"]
    return Outcome({"idle": 100 * sleeper.cpu / (sleeper.end - sleeper.begin)}, 1)
