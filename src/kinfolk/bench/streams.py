"""Streams: processes send as fast as the channel takes, others take what comes.

    sender 0 ──┐           ┌──> receiver 0       each sender sends `count` messages
    sender 1 ──┤  channel  ├──> receiver 1       together the receivers take all of them, each once
       …     ──┘           └──>    …

The rate counts from the first sender's start until the last message has been taken: what stands in
a buffer has not arrived.

With one receiver, that one knows how many come. With several nobody knows who gets how many, and
one that waits for a message that another one took would wait for ever. So each writes down, in
memory that they share, what it took; the first sender, when it is done, sends *stops*, messages
without meaning, until every receiver has seen that all is taken. One sender alone, and the next stop when
the last one was dealt with: else it might find a channel full of stops, and nobody who takes them.

stream        one call for each that is sent; one for all that are there, where there is such a call
one by one    one call for each, on both sides
batches       one call for a hundred, on both sides
"""

from __future__ import annotations

import mmap
import time
from array import array
from collections import Counter
from typing import Any

import kinfolk as kin
from kinfolk.bench.accounting import Meter, Usage
from kinfolk.bench.cases import Case, Outcome
from kinfolk.bench.loops import (
    STOP,
    send_all,
    send_batches,
    take_arrays,
    take_batches,
    take_counted,
    take_in_turn,
    take_shared,
)
from kinfolk.bench.messages import check_all, expected, payload, payloads
from kinfolk.bench.participants import Cast
from kinfolk.bench.subject import Wiring

_ONE_A_CALL = "a call moves one message"

#: Seconds between two stops of a sender: no load, and soon enough.
_STOP_AGAIN = 0.001


class _Tally:
    """How many each receiver has taken, in memory that all share."""

    def __init__(self, receivers: int) -> None:
        self._view = memoryview(mmap.mmap(-1, 24 * receivers)).cast("Q")
        self._receivers = receivers

    def write(self, receiver: int, taken: int) -> None:
        self._view[receiver] = taken

    def taken(self) -> int:
        return sum(self._view[: self._receivers])

    def finish(self, receiver: int, phase: int) -> None:
        self._view[self._receivers + receiver] = phase

    def finished(self, phase: int) -> bool:
        return all(done >= phase for done in self._view[self._receivers : 2 * self._receivers])

    def settle(self, receiver: int) -> None:
        """A stop was dealt with: the receiver has finished, or takes again."""
        self._view[2 * self._receivers + receiver] += 1

    def settled(self) -> int:
        return sum(self._view[2 * self._receivers :])


class Sender:
    """One of the sending processes."""

    def __init__(self, wiring: Wiring, number: int, case: Case, tally: _Tally | None) -> None:
        self._wiring, self._number = wiring, number
        self._tally = None if number else tally
        self._messages = payloads(number, case.size)
        self._stop = payload(STOP, case.size)
        self._batches = case.workload == "batches"
        self._phase = self._stops = 0

    def open(self) -> None:
        """Its end. Raises Unsupported where there is no call for a batch."""
        self._outlet = self._wiring.outlet(self._number)
        if self._batches and self._outlet.send_many is None:
            raise kin.Unsupported("can't be measured like this", why=_ONE_A_CALL)

    def play(self, count: int) -> Usage:
        """Send so many."""
        self._phase += 1
        send_many = self._outlet.send_many
        meter = Meter()
        if self._batches and send_many is not None:
            send_batches(send_many, self._messages, count)
        else:
            send_all(self._outlet.send, self._messages, count)
        usage = meter.stop(count)
        if self._tally is not None:
            self._end(self._tally)
        return usage

    def _end(self, tally: _Tally) -> None:
        while True:
            # In this order: who had not finished after the last stop was settled, takes this one.
            settled = self._wiring.deals or tally.settled() == self._stops
            if tally.finished(self._phase):
                return
            if settled:
                self._outlet.send(self._stop)
                self._stops += 1
            time.sleep(_STOP_AGAIN)

    def close(self) -> None:
        """Its end."""
        self._outlet.close()


class Receiver:
    """One of the receiving processes."""

    def __init__(self, wiring: Wiring, number: int, case: Case, tally: _Tally | None) -> None:
        self._wiring, self._number, self._tally = wiring, number, tally
        self._senders, self._workload = case.senders, case.workload
        self._wanted = expected(case.senders, case.size)
        self._in_turn = payloads(0, case.size)
        self._phase = self._total = self._before = 0

    def open(self) -> None:
        """Its end. Raises Unsupported where there is no call for a batch."""
        self._inlet = self._wiring.inlet(self._number)
        if self._workload == "one by one":
            self._inlet = self._inlet._replace(take_many=None)
        elif self._workload == "batches" and self._inlet.take_many is None:
            raise kin.Unsupported("can't be measured like this", why=_ONE_A_CALL)

    def play(self, count: int) -> Usage:
        """Take all, or a part of all."""
        inlet, total = self._inlet, count * self._senders
        meter = Meter()
        if self._senders == 1 and self._tally is None:
            if inlet.take_many is not None:
                take_batches(inlet.take_many, self._in_turn, total)
            else:
                take_in_turn(inlet.take, self._in_turn, total)
            return meter.stop(total)
        if self._tally is None:
            tags = take_counted(inlet.take, inlet.take_many, self._wanted, total)
            return meter.stop(total, _packed(tags))
        self._phase += 1
        self._total += total
        tags, last = take_shared(inlet.take, self._wanted, self._enough)
        self._before += tags.total()
        return meter.stop(tags.total(), _packed(tags), last)

    def close(self) -> None:
        """Its end."""
        self._inlet.close()

    def _enough(self, taken: int) -> bool:
        assert self._tally is not None
        self._tally.write(self._number, self._before + taken)
        enough = self._tally.taken() >= self._total
        if enough:
            self._tally.finish(self._number, self._phase)
        self._tally.settle(self._number)
        return enough


def start(cast: Cast, wiring: Wiring, case: Case) -> None:
    """Fork all of them."""
    tally = _Tally(case.receivers) if case.receivers > 1 else None
    for number in range(case.senders):
        cast.start("sender", Sender(wiring, number, case, tally))
    for number in range(case.receivers):
        cast.start("receiver", Receiver(wiring, number, case, tally))


def outcome(played: dict[str, list[Usage]], case: Case) -> Outcome:
    """What all have reported. Raises WrongMessage when one was lost."""
    senders, receivers = played["sender"], played["receiver"]
    count = sum(sender.messages for sender in senders)
    if any(receiver.samples for receiver in receivers):
        arrived = (_unpacked(receiver.samples) for receiver in receivers)
        check_all(arrived, case.senders, senders[0].messages)
    begin = min(sender.begin for sender in senders)
    seconds = (max(receiver.end for receiver in receivers) - begin) / 1e9
    everybody = senders + receivers
    return Outcome(
        metrics={
            "rate": count / seconds,
            "bytes_rate": count * case.size / seconds,
            "cpu_sender": sum(sender.cpu for sender in senders) / count / 1e3,
            "cpu_receiver": sum(receiver.cpu for receiver in receivers) / count / 1e3,
            "switches": sum(each.switches for each in everybody) / count,
            "faults": sum(each.faults for each in everybody) / count,
        },
        count=count,
    )


# ── arrays ───────────────────────────────────────────────────────────────────────────────────


class ArraySender(Sender):
    """Sends arrays of NumPy, as objects."""

    def open(self) -> None:
        """Its end, and the arrays."""
        import numpy as np

        super().open()
        self._arrays = [np.frombuffer(message, dtype=np.uint8) for message in self._messages]

    def play(self, count: int) -> Usage:
        """Send so many."""
        meter = Meter()
        send_all(self._outlet.send, self._arrays, count)
        return meter.stop(count)


class ArrayReceiver(Receiver):
    """Takes arrays, and reads them."""

    def open(self) -> None:
        """Its end, and what comes."""
        import numpy as np

        def read(array: Any) -> tuple[int, int]:
            """Its bytes, and their sum, of eight at once; the tags are the first and the last."""
            return array.nbytes, int(array.view(np.uint64).sum())

        super().open()
        self._read = read
        self._arrays = [np.frombuffer(message, dtype=np.uint8) for message in self._in_turn]

    def play(self, count: int) -> Usage:
        """Take all."""
        meter = Meter()
        take_arrays(self._inlet.take, self._read, self._arrays, count)
        return meter.stop(count)


def start_arrays(cast: Cast, wiring: Wiring, case: Case) -> None:
    """Fork both."""
    cast.start("sender", ArraySender(wiring, 0, case, None))
    cast.start("receiver", ArrayReceiver(wiring, 0, case, None))


def _packed(tags: Counter[int]) -> bytes:
    return array("Q", [number for pair in tags.items() for number in pair]).tobytes()


def _unpacked(packed: bytes) -> Counter[int]:
    numbers = array("Q")
    numbers.frombytes(packed)
    return Counter(dict(zip(numbers[::2], numbers[1::2], strict=True)))
