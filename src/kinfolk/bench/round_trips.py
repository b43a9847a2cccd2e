"""Round trips: one process asks, another one sends back what it gets. The latency that a program
sees is half of it, or more.

client                      server
send ──────── forth ─────────> take
take <──────── back ────────── send
"""

from __future__ import annotations

from array import array

from kinfolk.bench.accounting import Meter, Usage
from kinfolk.bench.cases import Case, Outcome
from kinfolk.bench.loops import answer, ask
from kinfolk.bench.messages import payloads
from kinfolk.bench.participants import Cast
from kinfolk.bench.statistics import middle
from kinfolk.bench.subject import TwoWays


class Client:
    """Asks, and takes the time."""

    def __init__(self, ways: TwoWays, size: int) -> None:
        self._ways, self._messages = ways, payloads(0, size)

    def open(self) -> None:
        """Its ends."""
        self._outlet, self._inlet = self._ways.client()

    def play(self, count: int) -> Usage:
        """Ask so often."""
        meter = Meter()
        times = ask(self._outlet.send, self._inlet.take, self._messages, count)
        return meter.stop(count, times.tobytes())

    def close(self) -> None:
        """Both."""
        self._outlet.close()
        self._inlet.close()


class Server:
    """Sends back."""

    def __init__(self, ways: TwoWays) -> None:
        self._ways = ways

    def open(self) -> None:
        """Its ends."""
        self._outlet, self._inlet = self._ways.server()

    def play(self, count: int) -> Usage:
        """Answer so often."""
        meter = Meter()
        answer(self._outlet.send, self._inlet.take, count)
        return meter.stop(count)

    def close(self) -> None:
        """Both."""
        self._outlet.close()
        self._inlet.close()


def start(cast: Cast, ways: TwoWays, case: Case) -> None:
    """Fork both."""
    cast.start("client", Client(ways, case.size))
    cast.start("server", Server(ways))


def outcome(played: dict[str, list[Usage]], case: Case) -> Outcome:
    """What both have reported."""
    (client,), (server,) = played["client"], played["server"]
    times = array("Q")
    times.frombytes(client.samples)
    count = client.messages
    return Outcome(
        metrics={
            "round_trip": middle(times) / 1e3,
            "cpu_sender": client.cpu / count / 1e3,
            "cpu_receiver": server.cpu / count / 1e3,
            "switches": (client.switches + server.switches) / count,
            "faults": (client.faults + server.faults) / count,
        },
        count=count,
        samples=client.samples,
    )
