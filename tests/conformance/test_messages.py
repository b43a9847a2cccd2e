"""Boundaries, order and sizes: what is sent is what is received, message for message."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG

PIPE_BUF = 4096
SIZES = [
    0,
    1,
    PIPE_BUF - 29,  # with a header of 28 bytes just below, at and above one atomic write
    PIPE_BUF - 28,
    PIPE_BUF - 27,
    PIPE_BUF - 1,
    PIPE_BUF,
    PIPE_BUF + 1,
    (64 << 10) - 1,
    64 << 10,
    (64 << 10) + 1,
    1 << 20,
    (1 << 20) + 1,
]
HUGE = 64 << 20


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes of which each stretch of a few kilobytes is unlike the others."""
    block = b"".join(hashlib.sha256(b"%d %d" % (seed, n)).digest() for n in range(257))
    return (block * (size // len(block) + 1))[:size]


def send_sizes(sender, voice, sizes):
    sent: list[Any] = []
    for number, size in enumerate(sizes):
        try:
            sender.send_bytes(pattern(size, number))
        except (kin.MessageTooBig, kin.Unsupported) as error:
            sent.append((type(error).__name__, bool(error.remedy)))
        else:
            sent.append(hashlib.sha256(pattern(size, number)).hexdigest())
    sender.send_bytes(b"the last")
    return sent


def test_sizes_up_to_the_limits(link: Link):
    receiver, peer = link.from_peer(send_sizes, SIZES)
    received = []
    while (message := receiver.recv_bytes(timeout=HANG)) != b"the last":
        received.append(hashlib.sha256(message).hexdigest())
    outcomes = peer.result()
    assert received == [outcome for outcome in outcomes if isinstance(outcome, str)]
    for size, outcome in zip(SIZES, outcomes, strict=True):
        if size > receiver.limits.max_message:
            assert outcome == ("MessageTooBig", True), size
        elif size == 0 and not receiver.limits.empty_messages:
            assert outcome == ("Unsupported", True)
        else:
            assert isinstance(outcome, str), (size, outcome)


@main_ways
def test_64_mib(link: Link):
    receiver, peer = link.from_peer(send_sizes, [HUGE, 10])
    first = receiver.recv_bytes(timeout=HANG)
    if receiver.limits.max_message < HUGE:
        assert first == pattern(10, 1)
        assert peer.result()[0] == ("MessageTooBig", True)
    else:
        assert hashlib.sha256(first).digest() == hashlib.sha256(pattern(HUGE)).digest()
        assert receiver.recv_bytes(timeout=HANG) == pattern(10, 1)
        peer.result()


def send_around_the_limit(sender, voice, largest):
    sender.send_bytes(pattern(largest))
    with pytest.raises(kin.MessageTooBig) as caught:
        sender.send_bytes(pattern(largest + 1))
    assert str(largest) in str(caught.value)
    assert caught.value.remedy
    sender.send_bytes(b"after it")
    return sender.statistics().messages_sent


def test_the_largest_message_and_one_byte_more(link: Link):
    largest = link.prepared(lambda end: end.limits.max_message)
    if largest > 8 << 20:  # what the option sets is a limit like any other
        largest = 100_000
        link.options["max_message"] = largest
    receiver, peer = link.from_peer(send_around_the_limit, largest)
    assert receiver.limits.max_message == largest
    assert receiver.recv_bytes(timeout=HANG) == pattern(largest)
    assert receiver.recv_bytes(timeout=HANG) == b"after it", "something of the large one was sent"
    assert peer.result() == 2


def send_numbers(sender, voice, count, name="s"):
    for number in range(count):
        sender.send((name, number, "x" * (number % 700)))
    return count


def test_order_and_boundaries(link: Link):
    receiver, peer = link.from_peer(send_numbers, 3000)
    for number in range(3000):
        assert list(receiver.recv(timeout=HANG)) == ["s", number, "x" * (number % 700)]
    assert peer.result() == 3000


def test_the_receiver_in_a_peer(link: Link):
    sender, peer = link.to_peer(
        lambda receiver, voice: [receiver.recv(timeout=HANG)[1] for _ in range(500)]
    )
    send_numbers(sender, None, 500)
    assert peer.result() == list(range(500))


def test_many_at_once(link: Link):
    def sending(sender, voice):
        assert sender.send_many(f"m{n}" for n in range(1000)) == 1000
        return sender.statistics().messages_sent

    receiver, peer = link.from_peer(sending)
    received = []
    while len(received) < 1000:
        some = receiver.recv_many(64, timeout=HANG)
        assert 1 <= len(some) <= 64
        received += some
    assert received == [f"m{n}" for n in range(1000)]
    assert peer.result() == 1000
    for wrong in (0, -1, 1.5, "2", None):
        with pytest.raises(kin.UsageError):
            receiver.recv_many(wrong)


def test_recv_many_does_not_wait_for_more(link: Link):
    receiver, sender = link.both()
    sender.send("only")
    assert receiver.recv_many(numpy.int64(10), timeout=HANG) == ["only"]


def test_receiving_into_a_buffer(link: Link):
    receiver, sender = link.both()
    sender.send_bytes(b"0123456789")
    sender.send_bytes(b"next")
    small, fitting = bytearray(9), bytearray(b"." * 12)
    for _ in range(2):
        with pytest.raises(kin.BufferTooSmall, match="10 bytes"):
            receiver.recv_bytes_into(small, timeout=HANG)
    assert small == bytes(9)
    assert receiver.statistics().messages_received == 0
    assert receiver.recv_bytes_into(fitting, timeout=HANG) == 10
    assert fitting == b"0123456789.."
    assert receiver.recv_bytes(timeout=HANG) == b"next"
    objects = numpy.array([None, "whose addresses would be overwritten"])
    for wrong in (b"read-only", objects, numpy.zeros(3, "M8[s]"), 5):
        with pytest.raises(kin.UsageError):
            receiver.recv_bytes_into(wrong, timeout=0)


def test_what_has_no_bytes_is_a_codec_error(link: Link):
    receiver, sender = link.both()
    for thing in ("text", 1, None, [1]):
        with pytest.raises(kin.CodecError) as caught:
            sender.send_bytes(thing)
        assert caught.value.remedy
    sender.send_bytes(memoryview(b"0123456789")[::3])
    assert receiver.recv_bytes(timeout=HANG) == b"0369"


def test_statistics(link: Link):
    receiver, sender = link.both()
    for size in (1, 10, 100):
        sender.send_bytes(bytes(size))
    depth = receiver.statistics().depth
    assert depth is None or depth > 0
    receiver.recv_bytes(timeout=HANG)
    receiver.recv_bytes(timeout=HANG)
    sent, received = sender.statistics(), receiver.statistics()
    assert (sent.messages_sent, sent.bytes_sent, sent.dropped) == (3, 111, 0)
    assert (received.messages_received, received.bytes_received) == (2, 11)
    receiver.recv_bytes(timeout=HANG)
    assert receiver.statistics().depth in (None, 0)
    while receiver.statistics().waits == 0:  # a slow machine takes longer than this to begin one
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.001)
    receiver.close()
    sender.close()
    assert receiver.statistics().messages_received == 3


# ------------------------------------------------------------------------ sequences made up

_pieces = st.one_of(
    st.binary(max_size=200),
    st.integers(1, 12_000).map(lambda size: pattern(size, size)),
    st.sampled_from([PIPE_BUF - 28, PIPE_BUF - 27, PIPE_BUF]).map(pattern),
    st.text(max_size=50),
    st.integers(-(2**60), 2**60),
    st.lists(st.one_of(st.booleans(), st.none(), st.floats(allow_nan=False)), max_size=20),
    st.dictionaries(st.text(max_size=5), st.binary(max_size=20), max_size=5),
)
_batches = st.lists(
    st.tuples(st.sampled_from(["send", "many", "bytes"]), st.lists(_pieces, max_size=6)),
    max_size=6,
)


def play(receiver, voice):
    """Receive in the ways that the test asks for, and say what came."""
    for way in iter(voice.hear, "stop"):
        if way == "one":
            voice.say(receiver.recv(timeout=HANG))
        elif way == "bytes":
            voice.say(receiver.recv_bytes(timeout=HANG))
        elif way == "nothing":
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0)
            voice.say(None)
        else:
            voice.say(receiver.recv_many(way, timeout=HANG))


def in_parts(things, size):
    return [things[at : at + size] for at in range(0, len(things), size)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=_batches, most=st.integers(1, 7))
def check_sequences(sender, peer, batches, most):
    for way, things in batches:
        things = [  # noqa: PLW2901 what the mechanism can carry
            thing
            for thing in things
            if (len(thing) if hasattr(thing, "__len__") else 9) < sender.limits.max_message // 4
            and (thing != b"" or sender.limits.empty_messages)
        ]
        if way == "bytes":
            for thing in things:
                data = thing if isinstance(thing, bytes) else repr(thing).encode()
                peer.say("bytes")
                sender.send_bytes(data, timeout=HANG)
                assert peer.hear() == data
        elif way == "many":
            for part in in_parts(things, most):
                left = list(part)
                peer.say(most)
                sender.send_many(left, timeout=HANG)
                while left:
                    came = peer.hear()
                    assert came == left[: len(came)]
                    left = left[len(came) :]
                    if left:
                        peer.say(most)
        else:
            for thing in things:
                peer.say("one")
                sender.send(thing, timeout=HANG)
                assert peer.hear() == thing
    peer.say("nothing")
    peer.hear()


def test_sequences(link: Link):
    sender, peer = link.to_peer(play)
    check_sequences(sender, peer)
    peer.say("stop")
    peer.result()


def test_bytes_of_every_value(link: Link):
    receiver, sender = link.both()
    every = bytes(range(256)) + os.urandom(500)
    sender.send_bytes(every)
    sender.send(every)
    assert receiver.recv(timeout=HANG) == every
    assert receiver.recv_bytes(timeout=HANG) == every


def test_messages_of_all_sizes_waiting_together(link: Link):
    """Nothing that lies in the kernel beside another message runs into it."""
    receiver, sender = link.both()
    sent: list[bytes] = []
    for number in range(400):
        size = (number * number * 37) % 9_000 + (0 if sender.limits.empty_messages else 1)
        if size > sender.limits.max_message:
            size = sender.limits.max_message - number
        message = pattern(size, number)
        try:
            sender.send_bytes(message, timeout=0)
        except kin.Timeout:
            # What was given up is not delivered; what waits is taken, and it goes on.
            assert sent, "there is not even room for one"
            while sent:
                assert receiver.recv_bytes(timeout=HANG) == sent.pop(0)
            sender.send_bytes(message, timeout=HANG)
        sent.append(message)
    sender.close()
    assert [receiver.recv_bytes(timeout=HANG) for _ in sent] == sent
