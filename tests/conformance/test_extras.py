"""What only some mechanisms can: bare bytes, priorities, descriptors. The others say so, with a remedy."""

from __future__ import annotations

import os

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, open_descriptors, thread_of


def refused(call, *args, **named) -> None:
    with pytest.raises(kin.Unsupported) as caught:
        call(*args, **named)
    assert caught.value.remedy


# --------------------------------------------------------------------------------- bare bytes


def raw_ends(link: Link):
    link.address = link.address.replace("codec=msgpack&", "").replace("?codec=msgpack", "")
    link.options["framing"] = "raw"
    if link.variant.scheme == "unix-dgram" and link.variant.way != "named":
        refused(link.both)  # a connection of datagrams is kinfolk's own
        return None
    return link.both()


@main_ways
def test_bare_bytes(link: Link):
    """All bytes come, in order; objects and empty messages are refused."""
    if (ends := raw_ends(link)) is None:
        return
    receiver, sender = ends
    assert receiver.codec == sender.codec == "raw"
    data = bytes(range(256)) * 8
    with thread_of(
        lambda: [sender.send_bytes(data[at : at + 100]) for at in range(0, 2048, 100)]
    ) as call:
        received = b""
        while len(received) < len(data):
            received += receiver.recv_bytes(timeout=HANG)
        call.result()
    assert received == data
    with pytest.raises(kin.CodecError):
        sender.send({"an": "object"})
    if not sender.limits.empty_messages:
        refused(sender.send_bytes, b"")
    else:
        sender.send_bytes(b"")
        assert receiver.recv_bytes(timeout=HANG) == b""
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0)


@main_ways
def test_bare_bytes_given_up_in_the_middle_are_finished(link: Link):
    """Nothing that a receiver of bare bytes counts on is missing in the middle; nothing that was not begun comes."""
    if (ends := raw_ends(link)) is None:
        return
    receiver, sender = ends
    size = min(sender.limits.max_message, 500_000)
    block = b"".join(b"%07d\n" % n for n in range(size // 8))
    sent = 0
    for _ in range(3):
        before = sender.statistics().bytes_sent
        try:
            sender.send_bytes(block, timeout=0.002)
            sent += 1
        except kin.Timeout:
            assert sender.statistics().bytes_sent == before
    with thread_of(sender.send_bytes, b"the end!", timeout=HANG) as call:
        received = b""
        while not received.endswith(b"the end!"):
            received += receiver.recv_bytes(timeout=HANG)
        call.result()
    whole, rest = divmod(len(received) - 8, len(block))
    assert rest == 0, "something was begun and not finished"
    assert received == block * whole + b"the end!"
    assert sent <= whole <= 3


def test_raw_framing_takes_no_other_codec(link: Link):
    link.address = link.address.replace("codec=msgpack&", "").replace("?codec=msgpack", "")
    link.options.update(framing="raw", codec="pickle")
    with pytest.raises(
        (kin.AddressError, kin.UntrustedPeer)
    ) as caught:  # TCP takes no pickles at all
        link.both()
    assert caught.value.remedy


# --------------------------------------------------------------------------------- priorities


def test_priorities(link: Link):
    receiver, sender = link.both()
    if not sender.limits.priorities:
        refused(sender.send, "x", priority=1)
        refused(sender.send_bytes, b"x", priority=1)
        refused(sender.send_many, ["x"], priority=1)
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
        return
    for priority in (1, 3, 2):
        sender.send(priority, priority=priority)
    received = [receiver.recv(timeout=HANG) for _ in range(3)]
    # POSIX queues give the highest first; System V ones have types, which choose, and keep the order.
    assert received == ([3, 2, 1] if link.variant.scheme == "mq" else [1, 3, 2])
    for nonsense in (-1, 2**70):
        with pytest.raises((kin.InvalidValue, kin.UsageError)) as caught:
            sender.send("x", priority=nonsense, timeout=0)
        assert caught.value.remedy
    sender.send("after")
    assert receiver.recv(timeout=HANG) == "after"


# -------------------------------------------------------------------------------- descriptors


def test_descriptors(link: Link):
    receiver, sender = link.both()
    if not sender.limits.descriptors:
        refused(sender.send_fds, b"x", [0])
        refused(receiver.recv_fds, timeout=0)
        return
    before = open_descriptors()
    reading, writing = os.pipe()
    sender.send_fds(b"a pipe", [reading, writing])
    os.close(reading)
    for call in (receiver.recv, receiver.recv_bytes):
        with pytest.raises(kin.UsageError) as caught:  # it is kept for who asks for it
            call(timeout=HANG)
        assert "recv_fds" in caught.value.remedy
    body, arrived = receiver.recv_fds(timeout=HANG)
    assert body == b"a pipe"
    assert [os.get_inheritable(fd) for fd in arrived] == [False, False]
    os.write(writing, b"through it")
    assert os.read(arrived[0], 100) == b"through it"
    for fd in (writing, *arrived):
        os.close(fd)
    sender.send_fds(b"none", [])
    assert receiver.recv_fds(timeout=HANG) == (b"none", [])
    sender.send_bytes(b"plain")
    assert receiver.recv_fds(timeout=HANG) == (b"plain", [])
    assert open_descriptors() <= before + 1


def test_many_descriptors_and_a_large_message(link: Link):
    """None is lost or left, whether it is taken or not."""
    receiver, sender = link.both()
    if not sender.limits.descriptors:
        return
    sender.send("hello")
    assert receiver.recv(timeout=HANG) == "hello"
    before = open_descriptors()
    nulls = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    large = os.urandom(400_000)
    with thread_of(sender.send_fds, large, nulls, timeout=HANG) as call:
        body, arrived = receiver.recv_fds(timeout=HANG)
        call.result()
    assert body == large
    assert len(arrived) == 100
    assert len({os.fstat(fd).st_rdev for fd in arrived}) == 1
    del body
    sender.send_fds(b"nobody takes them", nulls[:3])
    with pytest.raises(kin.UsageError):
        receiver.recv(timeout=HANG)
    for fd in (*nulls, *arrived):
        os.close(fd)
    receiver.close()
    sender.close()
    assert open_descriptors() <= before
