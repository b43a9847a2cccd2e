"""The loops and the rounds against a fake clock and a fake mechanism whose cost is known: what is
said of it must be that cost.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import count, cycle, islice

import pytest

from kinfolk.bench import hand_overs, idling, round_trips, streams
from kinfolk.bench.accounting import Usage
from kinfolk.bench.cases import Case, Outcome
from kinfolk.bench.loops import (
    STOP,
    answer,
    ask,
    send_all,
    send_batches,
    take_arrays,
    take_batches,
    take_counted,
    take_in_turn,
    take_shared,
)
from kinfolk.bench.messages import (
    WrongMessage,
    check_all,
    expected,
    payload,
    payloads,
    sent_tags,
    tag_of,
)
from kinfolk.bench.results import Settings
from kinfolk.bench.runner import Runner
from kinfolk.bench.subject import Outlet, Wiring


class FakeClock:
    """Time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


class FakeMechanism:
    """A channel in this process; each take costs the next of some nanoseconds, a send nothing."""

    def __init__(self, clock: FakeClock, costs: Iterable[int]) -> None:
        self.clock, self.costs = clock, cycle(costs)
        self.messages: deque[bytes] = deque()

    def send(self, data: bytes) -> None:
        self.messages.append(data)

    def take(self) -> bytes:
        self.clock.now += next(self.costs)
        return self.messages.popleft()

    def take_many(self) -> list[bytes]:
        self.clock.now += next(self.costs)
        taken = list(self.messages)[:3]
        for _ in taken:
            self.messages.popleft()
        return taken


def fake_outcome(clock: FakeClock, channel: FakeMechanism, count: int) -> Outcome:
    """A round trip case, as a stage has it."""
    begin = clock()
    times = ask(channel.send, channel.take, payloads(0, 48), count, clock)
    client = Usage(begin, clock(), cpu=2_000 * count, switches=count, faults=0,
                   messages=count, samples=times.tobytes())  # fmt: skip
    server = Usage(begin, clock(), cpu=1_000 * count, switches=count, faults=0, messages=count)
    return round_trips.outcome(
        {"client": [client], "server": [server]}, Case("round trip", "fake", 48)
    )


def test_each_round_trip_is_what_it_cost():
    clock = FakeClock()
    channel = FakeMechanism(clock, [5_000, 7_000, 9_000])
    assert list(ask(channel.send, channel.take, payloads(0, 48), 6, clock)) == [
        5_000, 7_000, 9_000, 5_000, 7_000, 9_000,
    ]  # fmt: skip


def test_median_and_tail_of_a_known_cost():
    """One message in a hundred takes 40 times as long: the median and p95 must not see it, p99.9
    and max must.
    """
    clock = FakeClock()
    channel = FakeMechanism(clock, [10_000] * 99 + [400_000])
    settings = Settings(runs=3, warmup=1, seconds=0.1, timeout=1, placement="free")
    case = Case("round trip", "fake", 48)
    runner = Runner([case], settings, lambda _, count: fake_outcome(clock, channel, count or 1000))
    runner.run()
    (result,) = runner.results
    assert len(result.rounds) == 3
    assert result.figure("round_trip") == 10.0
    assert result.spread("round_trip") == 0
    assert (result.tail["p50"], result.tail["p95"], result.tail["p99"]) == (10.0, 10.0, 10.0)
    assert (result.tail["p99.9"], result.tail["max"]) == (400.0, 400.0)
    assert result.figure("cpu_sender") == 2.0
    assert result.figure("cpu_receiver") == 1.0
    assert result.figure("switches") == 2.0


def test_the_rate_of_a_known_cost():
    """Two senders of 500 each, the last message taken 10 ms after the first sender began: 100,000 a
    second.
    """
    case = Case("stream", "fake", 48, senders=2)
    senders = [
        Usage(begin, begin + 1_000_000, cpu=500_000, switches=5, faults=0, messages=500)
        for begin in (1_000_000, 3_000_000)
    ]
    receiver = Usage(2_000_000, 11_000_000, cpu=2_000_000, switches=10, faults=1000, messages=1000)
    found = streams.outcome({"sender": senders, "receiver": [receiver]}, case)
    assert found.count == 1000
    assert found.metrics["rate"] == pytest.approx(100_000)
    assert found.metrics["bytes_rate"] == pytest.approx(4_800_000)
    assert found.metrics["cpu_sender"] == pytest.approx(1.0)
    assert found.metrics["cpu_receiver"] == pytest.approx(2.0)
    assert found.metrics["switches"] == pytest.approx(0.02)
    assert found.metrics["faults"] == pytest.approx(1.0)


def test_what_waiting_takes_is_a_share_of_one_cpu():
    """3 ms of CPU time in 1.5 s."""
    sleeper = Usage(1_000_000_000, 2_500_000_000, cpu=3_000_000, switches=9, faults=0, messages=1)
    found = idling.outcome({"receiver": [sleeper]}, Case("idle", "fake", 48))
    assert found.metrics == {"idle": pytest.approx(0.2)}


def test_a_hand_over_is_what_the_receiver_saw():
    times = array("Q", [3_000, 5_000, 90_000])
    taker = Usage(0, 1, cpu=1, switches=0, faults=0, messages=3, samples=times.tobytes())
    found = hand_overs.outcome({"receiver": [taker]}, Case("hand-over", "fake", 8 << 20))
    assert (found.metrics, found.count) == ({"hand_over": 5.0}, 3)
    assert found.samples == times.tobytes()


@pytest.mark.parametrize(("count", "calls"), [(250, [100, 100, 50]), (3, [3]), (200, [100, 100])])
def test_batches_have_as_many_messages_as_were_asked_for_in_turns(count, calls):
    sent: list[Sequence[bytes]] = []
    send_batches(sent.append, payloads(0, 48), count)
    assert [len(batch) for batch in sent] == calls
    tags = Counter(message[0] for batch in sent for message in batch)
    check_all([tags], 1, count)


@pytest.mark.parametrize("sizes", [[10], [3, 4, 3], [1] * 10, [7, 3]])
def test_batches_are_compared_wherever_they_begin(sizes):
    sent = list(islice(cycle(payloads(0, 48)), 10))
    batches = [[sent.pop(0) for _ in range(size)] for size in sizes]
    take_batches(iter(batches).__next__, payloads(0, 48), 10)


@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_batch_with_a_wrong_message_is_noticed(place):
    sent = list(islice(cycle(payloads(0, 48)), 10))
    swapped = [*sent[:place], payload(tag_of(5, 0), 48), *sent[place + 1 :]]
    with pytest.raises(WrongMessage, match="otherwise than sent"):
        take_batches(iter([swapped]).__next__, payloads(0, 48), 10)
    with pytest.raises(WrongMessage, match="3 messages more"):
        take_batches(iter([sent]).__next__, payloads(0, 48), 7)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_messages_of_one_sender_are_compared_in_turn(kind):
    sent = list(islice(cycle(payloads(0, 48)), 10))
    take_in_turn(map(kind, sent).__next__, payloads(0, 48), 10)
    swapped = [*sent[:4], sent[5], sent[4], *sent[6:]]
    with pytest.raises(WrongMessage):
        take_in_turn(map(kind, swapped).__next__, payloads(0, 48), 10)
    with pytest.raises(WrongMessage):
        take_in_turn(map(kind, [sent[0][:-1]]).__next__, payloads(0, 48), 1)
    with pytest.raises(WrongMessage):
        take_in_turn(map(kind, [sent[0] + b"."]).__next__, payloads(0, 48), 1)


def test_arrays_are_read_whole_and_in_turn():
    sent = list(islice(cycle(payloads(0, 48)), 10))

    def read(array: bytes) -> tuple[int, int]:
        return len(array), sum(array)

    take_arrays(iter(sent).__next__, read, payloads(0, 48), 10)
    for damaged in ([*sent[:3], sent[4]], [sent[0][:-1]], [sent[0][:-1] + b"\xff"]):
        with pytest.raises(WrongMessage):
            take_arrays(iter(damaged).__next__, read, payloads(0, 48), len(damaged))


@pytest.mark.parametrize("many", [True, False])
def test_a_stream_arrives_whole(many):
    channel = FakeMechanism(FakeClock(), [1])
    send_all(channel.send, payloads(0, 48), 10)
    take_many = channel.take_many if many else None
    tags = take_counted(channel.take, take_many, expected(1, 48), 10)
    check_all([tags], 1, 10)


class FakeWiring(Wiring):
    """One that keeps what is sent."""

    def __init__(self, deals: bool) -> None:
        self.deals = deals
        self.sent: list[bytes] = []

    def outlet(self, number: int) -> Outlet:
        return Outlet(self.sent.append)


@pytest.mark.parametrize(("deals", "stops"), [(False, 2), (True, 7)])
def test_a_stop_follows_when_the_last_one_was_dealt_with(deals, stops, monkeypatch):
    """Else a receiver that is slow to finish has a full channel behind it, and the sender hangs;
    unless a receiver has got it that takes no more.
    """
    wiring, tally, naps = FakeWiring(deals), streams._Tally(2), count()

    def nap(seconds: float) -> None:
        match next(naps):
            case 3:  # the first stop was not the last
                tally.settle(0)
            case 6:
                tally.finish(0, 1)
                tally.finish(1, 1)

    monkeypatch.setattr("time.sleep", nap)
    sender = streams.Sender(wiring, 0, Case("stream", "fake", 48, 1, 2), tally)
    sender.open()
    sender.play(3)
    assert [message[0] for message in wiring.sent[:3]] == [0, 1, 2]
    assert [message[0] for message in wiring.sent[3:]] == [STOP] * stops


@pytest.mark.parametrize("size", [1, 2, 48, 5000])
def test_payloads_differ_and_are_told_apart(size):
    wanted = expected(3, size)
    assert len(set(wanted.values())) == 12
    assert all(len(data) == size and data[0] == tag for tag, data in wanted.items())


@pytest.mark.parametrize(
    "damaged",
    [b"", payload(0, 48)[:-1], payload(0, 48) + b".", payload(0, 48)[:40] + b"12345678"],
)
def test_what_is_not_as_it_was_sent_is_noticed(damaged):
    channel = FakeMechanism(FakeClock(), [1])
    channel.send(damaged)
    with pytest.raises((WrongMessage, IndexError)):
        take_counted(channel.take, None, expected(1, 48), 1)


def test_an_answer_that_is_another_one_is_noticed():
    channel = FakeMechanism(FakeClock(), [1])
    channel.send(payload(tag_of(0, 3), 48))
    with pytest.raises(WrongMessage):
        ask(channel.send, channel.take, payloads(0, 48), 1)


def test_the_server_sends_back_what_it_gets():
    channel = FakeMechanism(FakeClock(), [1])
    channel.send(b"x")
    answer(channel.send, channel.take, 3)
    assert list(channel.messages) == [b"x"]


def test_a_lost_message_and_one_that_comes_twice_are_noticed():
    tags = sent_tags(1, 10)
    check_all([tags], 1, 10)
    with pytest.raises(WrongMessage, match="1 are missing, 0 are too many"):
        check_all([tags - Counter({0: 1})], 1, 10)
    with pytest.raises(WrongMessage, match="0 are missing, 1 are too many"):
        check_all([tags + Counter({0: 1})], 1, 10)


def test_several_receivers_together_take_all():
    sent = [payload(tag_of(sender, turn), 8) for sender in range(2) for turn in range(4)]
    stop = payload(STOP, 8)
    first, second = deque([*sent[:3], stop]), deque([stop, *sent[3:], stop])
    taken, total = {"first": 0, "second": 0}, 8

    def enough(who: str, got: int) -> bool:
        taken[who] = got
        return sum(taken.values()) >= total

    clock = FakeClock()
    with pytest.raises(IndexError):  # not enough by then: it goes on to take, and there is nothing
        take_shared(first.popleft, expected(2, 8), lambda got: enough("first", got), clock)
    second_tags, _ = take_shared(second.popleft, expected(2, 8), lambda got: enough("second", got))
    assert second_tags.total() == 5
