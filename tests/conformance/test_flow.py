"""Backpressure and timeouts: a full channel blocks its senders, and what was given up is never delivered."""

from __future__ import annotations

import contextlib
import time

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, resident, thread_of, until_blocked
from tests.conformance.test_messages import pattern


def size_that_fits(end, wanted: int = 1000) -> int:
    return min(wanted, end.limits.max_message)


def fill(sender, size: int = 1000, most: int = 100_000) -> int:
    """Send numbered messages until there is no room and none comes about by itself; how many went in.

    (TCP takes more once the other kernel has acknowledged, which it puts off by 40 ms.)
    """
    for number in range(most):
        try:
            try:
                sender.send_bytes(numbered(number, size), timeout=0)
            except kin.Timeout:
                if sender.limits.mechanism != "tcp":
                    raise
                sender.send_bytes(numbered(number, size), timeout=0.25)
        except kin.Timeout:
            return number
    raise AssertionError(f"{most} messages were taken: memory is not bounded")


def numbered(number: int, size: int) -> bytes:
    return b"%8d" % number + bytes(size - 8)


def test_a_full_channel_blocks_and_what_was_taken_arrives(link: Link):
    receiver, sender = link.both()
    size = size_that_fits(sender)
    taken = fill(sender, size)
    assert taken > 0
    with pytest.raises(kin.Timeout) as caught:
        sender.send_bytes(numbered(10**6, size), timeout=0.01)
    assert "0.01" in str(caught.value)
    assert isinstance(caught.value, TimeoutError)
    with thread_of(sender.send_bytes, numbered(taken, size), timeout=HANG) as call:
        until_blocked(sender)
        for number in range(taken + 1):
            assert receiver.recv_bytes(timeout=HANG) == numbered(number, size)
        call.result()
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0)


def receive_on_command(receiver, voice):
    """A slow reader: takes one message each time it is told to."""
    received = 0
    while voice.hear():
        data = receiver.recv_bytes(timeout=HANG)
        assert data == numbered(received, len(data)), "out of order"
        received += 1
        voice.say(received)
    while (rest := receiver.recv_bytes(timeout=HANG)) != b"the last":
        assert rest == numbered(received, len(rest))
        received += 1
    return received


def test_slow_reader_bounds_memory(link: Link):
    """The reader takes a message now and then: the sender waits, and its memory does not grow."""
    sender, peer = link.to_peer(receive_on_command)
    size = size_that_fits(sender, 4000)
    before = resident()
    filled = sent = fill(sender, size)
    received = 0
    while sent < filled + 50:
        assert received < sent, "everything was taken, and there is still no room"
        peer.say(True)
        received = peer.hear()
        with contextlib.suppress(kin.Timeout):
            sender.send_bytes(numbered(sent, size), timeout=0)
            sent += 1
    grown = resident() - before
    peer.say(False)
    sender.send_bytes(b"the last", timeout=HANG)
    assert peer.result() == sent
    assert grown < 8 << 20, f"{grown} bytes more for messages of {size}"


def test_slow_writer(link: Link):
    """The receiver waits for each message and gets it at once; nothing is invented in between."""

    def sending(sender, voice):
        for number in iter(voice.hear, None):
            sender.send(number)

    receiver, peer = link.from_peer(sending)
    for number in range(50):
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
        peer.say(number)
        assert receiver.recv(timeout=HANG) == number
    peer.say(None)
    peer.result()


# -------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("timeout", [0, 0.002])
def test_every_receiving_call_times_out(link: Link, timeout):
    receiver, sender = link.both()
    for call in (
        lambda: receiver.recv(timeout=timeout),
        lambda: receiver.recv_bytes(timeout=timeout),
        lambda: receiver.recv_bytes_into(bytearray(10), timeout=timeout),
        lambda: receiver.recv_many(3, timeout=timeout),
    ):
        begun = time.monotonic()
        with pytest.raises(kin.Timeout) as caught:
            call()
        assert time.monotonic() - begun >= timeout
        assert link.variant.scheme in str(caught.value)
    sender.send("still whole")
    assert receiver.recv(timeout=HANG) == "still whole"


@pytest.mark.parametrize("timeout", [0, 0.002])
def test_every_sending_call_times_out(link: Link, timeout):
    receiver, sender = link.both()
    size = size_that_fits(sender)
    taken = fill(sender, size)
    for call in (
        lambda: sender.send(numbered(-1, size), timeout=timeout),
        lambda: sender.send_bytes(numbered(-1, size), timeout=timeout),
        lambda: sender.send_many([numbered(-1, size)] * 3, timeout=timeout),
    ):
        begun = time.monotonic()
        with pytest.raises(kin.Timeout):
            call()
        assert time.monotonic() - begun >= timeout
    assert sender.statistics().messages_sent == taken
    for number in range(taken):
        assert receiver.recv_bytes(timeout=HANG) == numbered(number, size)
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), -0.001])
def test_a_timeout_that_makes_no_sense(link: Link, timeout):
    receiver, sender = link.both()
    with pytest.raises(kin.InvalidValue):
        receiver.recv(timeout=timeout)
    with pytest.raises(kin.InvalidValue):
        sender.send(1, timeout=timeout)
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)


def test_zero_takes_what_is_there(link: Link):
    receiver, sender = link.both()
    sender.send("a", timeout=0)
    sender.send("b", timeout=0)
    assert receiver.recv(timeout=0) == "a"
    assert receiver.recv_many(5, timeout=0) == ["b"]


def larger_than_the_channel(end) -> int:
    """A message that can't lie in the kernel as a whole, so that its sender is stopped in the middle of it."""
    capacity = end.limits.capacity or 1 << 18
    # A small one is counted generously by the kernel; that of TCP is tens of megabytes, of what it allows at most.
    return min(end.limits.max_message, 4 * capacity + 100_001, capacity + (4 << 20))


@main_ways
@pytest.mark.parametrize("timeouts", [(0,), (0.005,), (0, 0.003, 0)])
def test_a_send_that_timed_out_in_the_middle_is_never_delivered(link: Link, timeouts):
    receiver, sender = link.both()
    large = larger_than_the_channel(sender)
    first = size_that_fits(sender, 10)
    sender.send_bytes(pattern(first, 1))
    given_up = 0
    for round_, timeout in enumerate(timeouts):
        try:
            sender.send_bytes(pattern(large, 100 + round_), timeout=timeout)
        except kin.Timeout:
            given_up += 1
    assert receiver.recv_bytes(timeout=HANG) == pattern(first, 1)
    whole = [pattern(large, 100 + round_) for round_ in range(len(timeouts))]
    with thread_of(sender.send_bytes, b"the next", timeout=HANG) as call:
        while (message := receiver.recv_bytes(timeout=HANG)) != b"the next":
            assert message in whole, "a torn message"
            whole.remove(message)
        call.result()
    assert len(whole) == given_up, "what timed out was delivered, or what went out was not"
    with thread_of(sender.send_bytes, pattern(large, 7), timeout=HANG):
        assert receiver.recv_bytes(timeout=HANG) == pattern(large, 7)
    assert sender.statistics().messages_sent == receiver.statistics().messages_received


@main_ways
def test_a_receive_that_timed_out_in_the_middle_loses_nothing(link: Link):
    receiver, sender = link.both()
    large = larger_than_the_channel(sender)
    with thread_of(sender.send_bytes, pattern(large), timeout=HANG) as call:
        tries = 0
        while True:
            try:
                assert receiver.recv_bytes(timeout=0 if tries % 3 else 0.0005) == pattern(large)
                break
            except kin.Timeout:
                tries += 1
        call.result()
    sender.send("after")
    assert receiver.recv(timeout=HANG) == "after"


def test_send_many_stops_where_it_times_out(link: Link):
    receiver, sender = link.both()
    size = size_that_fits(sender)
    with pytest.raises(kin.Timeout):
        sender.send_many((numbered(n, size) for n in range(100_000)), timeout=0)
    count = sender.statistics().messages_sent
    assert 0 < count < 100_000
    for number in range(count):
        assert receiver.recv_bytes(timeout=HANG) == numbered(number, size)
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0)


def test_opening_a_sender_times_out_when_nobody_receives(link: Link):
    if link.variant.anonymous:
        assert link.both()  # it has both ends from the start: there is nothing to wait for
        return
    opening = kin.open_sender if link.variant.way == "named" else kin.connect
    for timeout in (0, 0.02):
        begun = time.monotonic()
        with pytest.raises(kin.Timeout) as caught:
            opening(link.address, timeout=timeout)
        assert time.monotonic() - begun >= timeout
        assert link.variant.scheme in str(caught.value)
    receiver, sender = link.both()
    sender.send("it works after it")
    assert receiver.recv(timeout=HANG) == "it works after it"
