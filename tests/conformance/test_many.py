"""Many senders on one channel, many receivers where there may be, and Busy or ForkedCopy where there may not."""

from __future__ import annotations

from itertools import chain

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, FailedInPeer, thread_of
from tests.conformance.test_messages import pattern

SENDERS, EACH = 16, 40


def sizes(largest: int):
    for number in range(EACH):
        yield min(largest, (20, 700, 4_100, 9_000, 130_000)[number % 5] + number)


def send_sizes(sender, voice, who):
    for number, size in enumerate(sizes(sender.limits.max_message // 2)):
        sender.send([who, number, pattern(size, who * EACH + number)], timeout=HANG)


def send_megabytes(sender, voice, who):
    """The one who is killed in the middle."""
    voice.say("open")
    size = min(3_000_000, sender.limits.max_message // 2)
    for number in range(10**6):
        sender.send([who, number, pattern(size, who)], timeout=HANG)


@main_ways
def test_sixteen_senders_of_whom_one_is_killed(link: Link):
    if not link.several_senders:
        receiver, _sender = link.both()
        assert receiver.limits.senders == "one" or link.variant.anonymous or link.variant.duplex
        return
    peers = [link.fork("sender", send_sizes, who) for who in range(SENDERS - 1)]
    victim = link.fork("sender", send_megabytes, SENDERS - 1)
    link.release("sender")
    receiver = link.receiver()
    victim.hear()
    largest = receiver.limits.max_message // 2
    victims_size = min(3_000_000, largest)
    expected = [list(sizes(largest)) for _ in range(SENDERS - 1)]
    came = [0] * SENDERS
    total = (SENDERS - 1) * EACH
    while sum(came[:-1]) < total:
        if sum(came) == total // 4:
            victim.kill(reap=False)
        who, number, data = receiver.recv(timeout=HANG)
        assert number == came[who], f"sender {who} out of order"
        came[who] += 1
        if who < SENDERS - 1:
            assert data == pattern(expected[who][number], who * EACH + number)
        else:
            assert data == pattern(victims_size, who)
            if came[who] == 3:
                victim.kill(reap=False)
    victim.kill()
    for peer in peers:
        peer.result()
    if receiver.limits.presence:
        for who, number, data in receiver:
            assert (who, number) == (SENDERS - 1, came[who])
            assert data == pattern(victims_size, who)
            came[who] += 1


def test_a_forked_copy_of_a_sender(link: Link):
    """It sends too, or it is told that it can't; the parent's messages stay whole either way."""
    receiver, sender = link.both()
    sender.send("parent 1")

    def in_child(voice):
        sender.send("child", timeout=HANG)

    child = link.peers.fork(in_child)
    expected = ["parent 1", "child", "parent 2"]
    if sender.limits.senders == "one" or link.variant.scheme in ("unix", "tcp"):
        # A connection has one writing process, also where others may have connections of their own.
        with pytest.raises(FailedInPeer) as caught:
            child.result()
        assert isinstance(caught.value.error, kin.Busy | kin.ForkedCopy), caught.value
        assert caught.value.error.remedy
        expected.remove("child")
    else:
        child.result()
    sender.send("parent 2")
    assert [receiver.recv(timeout=HANG) for _ in expected] == expected


def receive_until_done(receiver, voice):
    voice.say("ready")
    received = []
    while (thing := receiver.recv(timeout=HANG)) != "done":
        received.append(thing)
    return received


def test_each_message_goes_to_exactly_one_receiver(link: Link):
    if link.prepared(lambda end: end.limits.receivers) != "many":
        second_receiver_is_busy(link)
        return
    if link.variant.way == "named" and link.variant.scheme == "unix-dgram":
        # Copies of one socket; a second one can't have the name.
        receiver = link.receiver()
        with pytest.raises(kin.Busy):
            kin.open_receiver(link.address, timeout=0.1)
        receiver.close()
        return
    if link.variant.duplex:
        return  # a copy of a connection: see test_a_forked_copy_of_a_receiver
    many = [link.fork("receiver", receive_until_done) for _ in range(4)]
    link.release("receiver")
    sender = link.sender()
    for peer in many:
        peer.hear()
    for number in range(400):
        sender.send(number, timeout=HANG)
    for _ in many:
        sender.send("done", timeout=HANG)
    received = [peer.result() for peer in many]
    for one in received:
        assert one == sorted(one), "out of order for one receiver"
    assert sorted(chain(*received)) == list(range(400))


def second_receiver_is_busy(link: Link) -> None:
    if link.variant.way == "named":
        first = link.receiver()

        def in_child(voice):
            kin.open_receiver(link.address, timeout=0.1)

        child = link.peers.fork(in_child)
        with pytest.raises(FailedInPeer) as caught:
            child.result()
        assert isinstance(caught.value.error, kin.Busy), caught.value
        assert caught.value.error.remedy
        sender = link.sender()
        sender.send("to the first")
        assert first.recv(timeout=HANG) == "to the first"


def test_a_forked_copy_of_a_receiver(link: Link):
    """While this process receives, a copy elsewhere is refused, or takes whole messages of its own."""
    receiver, sender = link.both()
    sender.send("first")
    assert receiver.recv(timeout=HANG) == "first"

    def in_child(voice):
        voice.say("there")
        return receiver.recv(timeout=HANG)

    child = link.peers.fork(in_child)
    child.hear()
    if receiver.limits.receivers == "one":
        with pytest.raises(FailedInPeer) as caught:
            child.result()
        assert isinstance(caught.value.error, kin.Busy | kin.ForkedCopy), caught.value
    else:
        sender.send("for the copy")
        assert child.result() == "for the copy"
    sender.send("second")
    assert receiver.recv(timeout=HANG) == "second"


# --------------------------------------------------------------------------- threads on one end


def test_eight_threads_send_and_four_receive_on_one_end(link: Link):
    receiver, sender = link.both()
    senders, each = 8, 40
    largest = min(30_000, sender.limits.max_message // 2)

    def sending(who):
        for number in range(each):
            sender.send([who, number, pattern(number * 997 % largest + 1, who)], timeout=HANG)

    def receiving():
        received = []
        while (thing := receiver.recv(timeout=HANG)) is not None:
            who, number, data = thing
            assert data == pattern(number * 997 % largest + 1, who), "torn"
            received.append((who, number))
        return received

    with (
        thread_of(receiving) as a,
        thread_of(receiving) as b,
        thread_of(receiving) as c,
        thread_of(receiving) as d,
    ):
        calls = []
        for who in range(senders):
            context = thread_of(sending, who)
            calls.append((context, context.__enter__()))
        for context, call in calls:
            call.result()
            context.__exit__(None, None, None)
        for _ in range(4):
            sender.send(None, timeout=HANG)
        received = [call.result() for call in (a, b, c, d)]
    for one in received:
        for who in range(senders):
            numbers = [number for sent_by, number in one if sent_by == who]
            assert numbers == sorted(numbers)
    assert sorted(chain(*received)) == [(who, n) for who in range(senders) for n in range(each)]
    assert sender.statistics().messages_sent == senders * each + 4
