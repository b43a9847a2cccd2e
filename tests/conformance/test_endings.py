"""The end of a channel: what is left, then EndOfChannel; BrokenChannel; Closed, also under a blocked call."""

from __future__ import annotations

import pytest

import kinfolk as kin
from tests.conformance.link import Link
from tests.conformance.peers import HANG, thread_of, until_blocked
from tests.conformance.test_flow import fill, size_that_fits


def no_end_without_presence(receiver) -> bool:
    """Where nobody's leaving is seen, absence blocks; asserts that it does."""
    if receiver.limits.presence:
        return False
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.02)
    return True


def test_what_is_left_then_the_end(link: Link):
    def sending(sender, voice):
        sender.send_many(range(8))  # as many as the smallest queue holds

    receiver, peer = link.from_peer(sending)
    peer.result()
    assert [receiver.recv(timeout=HANG) for _ in range(8)] == list(range(8))
    if no_end_without_presence(receiver):
        return
    for _ in range(3):  # and it stays the end
        with pytest.raises(kin.EndOfChannel) as caught:
            receiver.recv(timeout=HANG)
    assert isinstance(caught.value, EOFError)
    assert list(receiver) == []
    with pytest.raises(kin.EndOfChannel):
        receiver.recv_bytes()
    with pytest.raises(kin.EndOfChannel):
        receiver.recv_many(5)


def test_the_end_after_a_part_of_recv_many(link: Link):
    receiver, sender = link.both()
    sender.send_many("abc")
    sender.close()
    assert receiver.recv_many(10, timeout=HANG) == ["a", "b", "c"]
    if not no_end_without_presence(receiver):
        with pytest.raises(kin.EndOfChannel):
            receiver.recv_many(10, timeout=HANG)


def test_iterating_ends_with_the_channel(link: Link):
    receiver, peer = link.from_peer(lambda sender, voice: sender.send_many("abc"))
    if not receiver.limits.presence:
        iterator = iter(receiver)
        assert [next(iterator) for _ in range(3)] == ["a", "b", "c"]
        peer.result()
        return
    assert list(receiver) == ["a", "b", "c"]
    peer.result()


def test_a_blocked_receiver_sees_the_last_sender_leave(link: Link):
    def sending(sender, voice):
        sender.send("first")
        voice.hear()

    receiver, peer = link.from_peer(sending)
    assert receiver.recv(timeout=HANG) == "first"
    if no_end_without_presence(receiver):
        peer.say()
        peer.result()
        return
    with thread_of(receiver.recv) as call:
        until_blocked(receiver)
        peer.say()
        assert isinstance(call.raised(), kin.EndOfChannel)
    peer.result()


def sends_until_it_breaks(sender, limit=100_000):
    for _ in range(limit):
        sender.send_bytes(bytes(size_that_fits(sender)), timeout=HANG)
    raise AssertionError(f"{limit} messages went nowhere")


def test_broken_after_the_last_receiver(link: Link):
    def receiving(receiver, voice):
        return receiver.recv(timeout=HANG)

    sender, peer = link.to_peer(receiving)
    sender.send("one")
    assert peer.result() == "one"
    if not sender.limits.presence:
        fill(
            sender, size_that_fits(sender)
        )  # it waits there for the next receiver, and that is all
        return
    for _ in range(2):
        with pytest.raises(kin.BrokenChannel) as caught:
            sends_until_it_breaks(sender)
        assert isinstance(caught.value, BrokenPipeError)
        assert caught.value.errno


def test_a_blocked_sender_sees_the_last_receiver_leave(link: Link):
    sender, peer = link.to_peer(lambda receiver, voice: voice.hear())
    size = size_that_fits(sender)
    fill(sender, size)
    if not sender.limits.presence:
        with pytest.raises(kin.Timeout):
            sender.send_bytes(bytes(size), timeout=0.01)
        peer.say()
        peer.result()
        return
    with thread_of(sender.send_bytes, bytes(size)) as call:
        until_blocked(sender)
        peer.say()
        assert isinstance(call.raised(), kin.BrokenChannel)
    peer.result()


# ------------------------------------------------------------------------------------ close


def test_everything_after_close_is_closed(link: Link):
    receiver, sender = link.both()
    for end in (receiver, sender):
        end.close()
        end.close()
        assert end.closed
        assert "closed" in repr(end)
    calls = [
        receiver.recv,
        lambda: receiver.recv_bytes(timeout=0),
        lambda: receiver.recv_many(2),
        lambda: receiver.recv_bytes_into(bytearray(1)),
        lambda: next(iter(receiver)),
        receiver.fileno,
        lambda: sender.send(1),
        lambda: sender.send_bytes(b"1"),
        lambda: sender.send_many([1]),
        sender.fileno,
    ]
    for call in calls:
        with pytest.raises((kin.Closed, kin.Unsupported)):
            call()
    assert receiver.statistics().depth is None
    assert receiver.limits is not None
    assert receiver.address


def test_close_under_a_blocked_receive(link: Link):
    receiver, _sender = link.both()
    with thread_of(receiver.recv) as call:
        until_blocked(receiver)
        receiver.close()
        error = call.raised()
    assert isinstance(error, kin.Closed)
    assert isinstance(error, ValueError)


def test_close_under_a_blocked_send(link: Link):
    receiver, sender = link.both()
    size = size_that_fits(sender)
    taken = fill(sender, size)
    with thread_of(sender.send_bytes, bytes(size)) as call:
        until_blocked(sender)
        sender.close()
        assert isinstance(call.raised(), kin.Closed)
    assert [len(receiver.recv_bytes(timeout=HANG)) for _ in range(taken)] == [size] * taken
    if not no_end_without_presence(receiver):
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_close_wakes_everybody_in_line(link: Link):
    receiver, _sender = link.both()
    with thread_of(receiver.recv) as one:
        until_blocked(receiver)
        with thread_of(receiver.recv) as two, thread_of(receiver.recv_many, 5) as three:
            receiver.close()
            for call in (one, two, three):
                assert isinstance(call.raised(), kin.Closed)


def test_close_again_and_again_while_blocked(link: Link):
    """A wake-up that comes between the look and the sleep must not be lost."""
    rounds = 0
    while rounds < 30:
        receiver, sender = link.both()
        with thread_of(receiver.recv) as call:
            if rounds % 2:
                until_blocked(receiver)
            receiver.close()
            assert isinstance(call.raised(), kin.Closed)
        sender.close()
        link.renew()
        rounds += 1


def test_a_context_manager_closes(link: Link):
    receiver, sender = link.both()
    with receiver as same, sender:
        assert same is receiver
    assert receiver.closed
    assert sender.closed


def test_the_name_is_gone_after_the_last_peer(link: Link):
    """lifetime="peers": the last one removes what kinfolk made, whichever it is; "name" keeps it."""
    if link.variant.anonymous:
        if link.variant.scheme == "pipe" and link.variant.way == "channel":
            for end in link.both():
                with pytest.raises(kin.Unsupported):
                    end.unlink()
        return
    for first in (0, 1):
        ends = link.both()
        ends[1].send("x")
        ends[0].recv(timeout=HANG)
        ends[first].close()
        ends[1 - first].close()
        named = link.name_exists()
        assert named is None or named == link.outlives
        link.renew()
