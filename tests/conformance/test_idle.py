"""Waiting costs nothing: no CPU, no timer, no loop in poll; and descriptors say when it is over.

What a blocked process used is read from the kernel: its CPU time, and how often it was put on a processor. One that
sleeps until something happens was put there not once meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, open_descriptors, readable, state, until
from tests.conformance.test_flow import fill, size_that_fits

#: Seconds that a process is watched while it must do nothing. Not to be in step: nothing depends on its length.
WATCHED = 0.25


def switches(pid: int) -> int:
    """How often all threads of a process went to sleep of their own accord, or were made to."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8", errors="replace") as file:
            total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
    return total


def ticks(pid: int) -> int:
    """User and system time of a process, in clock ticks."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[11]) + int(fields[12])


def settles(peer) -> bool:
    """Wait until a peer sleeps for longer than on its way to something, or has ended; whether it sleeps."""
    before = -1
    while True:
        until(lambda: state(peer.pid) in "SZ", f"peer {peer.pid} asleep, or at its end")
        now = switches(peer.pid)
        if state(peer.pid) == "Z":
            return False
        if now == before:
            return True
        before = now
        select.poll().poll(20)


def assert_idle(peer) -> None:
    """Watch a peer that is blocked, and find that it does nothing whatever."""
    assert settles(peer)
    settled, before = switches(peer.pid), ticks(peer.pid)
    select.poll().poll(WATCHED * 1000)
    assert state(peer.pid) == "S"
    assert switches(peer.pid) == settled, "it woke without any cause: a timer, or polling"
    assert ticks(peer.pid) - before <= 1


@main_ways
def test_a_blocked_receiver_is_idle(link: Link):
    sender, peer = link.to_peer(lambda receiver, voice: [receiver.recv(), receiver.recv()])
    sender.send("wakes it", timeout=HANG)
    assert_idle(peer)
    sender.send("x")
    assert peer.result() == ["wakes it", "x"]


@main_ways
def test_a_receiver_blocked_with_a_timeout_is_idle(link: Link):
    sender, peer = link.to_peer(lambda receiver, voice: receiver.recv(timeout=HANG))
    assert_idle(peer)
    sender.send("x")
    assert peer.result() == "x"


@main_ways
def test_a_blocked_sender_is_idle(link: Link):
    def sending(sender, voice):
        size = size_that_fits(sender)
        taken = fill(sender, size)
        voice.say(taken)
        sender.send_bytes(bytes(size))

    receiver, peer = link.from_peer(sending)
    taken = peer.hear()
    assert_idle(peer)
    for _ in range(taken + 1):
        receiver.recv_bytes(timeout=HANG)
    peer.result()


@main_ways
def test_a_receiver_with_half_a_message_is_idle(link: Link):
    """It watches for the death of who owes it the rest, and that is no loop either."""
    large = link.prepared(lambda end: min(end.limits.max_message, 3_000_000))

    def owing(sender, voice):
        sender.send_bytes(b"first")
        voice.hear()
        sender.send_bytes(bytes(large))

    def receiving(receiver, voice):
        voice.say(len(receiver.recv_bytes()))
        return len(receiver.recv_bytes())

    reader = link.fork("receiver", receiving)
    writer = link.fork("sender", owing)
    link.release()
    assert reader.hear() == 5
    reader.signal(signal.SIGSTOP)
    until(lambda: state(reader.pid) == "T", "stopped")
    writer.say()
    until(lambda: state(writer.pid) in "SZ", "in the middle of it, or done")
    writer.signal(signal.SIGSTOP)
    until(lambda: state(writer.pid) in "TZ", "stopped")
    reader.signal(signal.SIGCONT)
    # A queue takes all of its largest message at once, and so may a ring: then nobody waits for a rest.
    if large == 3_000_000 and settles(reader):
        assert_idle(reader)
    writer.signal(signal.SIGCONT)
    assert reader.result() == large
    writer.result()


@main_ways
def test_a_waiting_task_is_idle(link: Link):
    def waiting(receiver, voice):
        async def body():
            task = asyncio.create_task(receiver.arecv())
            return [await task, await receiver.arecv()]

        return asyncio.run(body())

    sender, peer = link.to_peer(waiting)
    sender.send("wakes it", timeout=HANG)
    assert_idle(peer)
    sender.send("x")
    assert peer.result() == ["wakes it", "x"]


# -------------------------------------------------------------------------- with select


def descriptor_of(end) -> int | None:
    """Its fileno, None where the mechanism has none, which it says with a remedy."""
    refused = None
    try:
        return end.fileno()
    except kin.Unsupported as error:
        refused = error
    assert refused.remedy
    return None


def test_fileno_says_when_a_message_is_there(link: Link):
    receiver, sender = link.both()
    if (fd := descriptor_of(receiver)) is None:
        return
    if link.variant.way == "named" and link.variant.scheme in ("unix", "unix-seqpacket", "tcp"):
        with pytest.raises(kin.Timeout):  # the connection itself was an event
            receiver.recv(timeout=0)
    for number in range(3):
        assert not readable(fd, 0), "ready, and there is nothing"
        sender.send(number)
        assert readable(fd)
        assert receiver.recv(timeout=0) == number
    sender.send_many("abc")
    received = ""
    while readable(fd, 0):
        received += receiver.recv(timeout=0)
    assert received == "abc", "something waited of which the descriptor did not know"
    sender.close()
    if receiver.limits.presence:
        assert readable(fd), "nothing said that the channel has ended"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=0)


def test_fileno_says_when_there_is_room(link: Link):
    receiver, sender = link.both()
    if isinstance(sender, kin.Connection) or descriptor_of(sender) is None:
        return
    poll = select.poll()
    poll.register(sender.fileno(), select.POLLOUT)
    assert poll.poll(0)
    size = size_that_fits(sender, 4000)
    taken = fill(sender, size)
    if poll.poll(0):  # a stream may have room for less than a message
        assert link.variant.scheme in ("unix", "tcp", "unix-seqpacket", "unix-dgram")
        return
    for _ in range(taken):
        receiver.recv_bytes(timeout=HANG)
    assert poll.poll(HANG * 1000)
    sender.send_bytes(bytes(size), timeout=0)


def test_an_event_loop_of_ones_own(link: Link):
    """asyncio's add_reader, with recv(timeout=0): what frameworks without us do."""
    receiver, sender = link.both()
    if (fd := descriptor_of(receiver)) is None:
        return
    sender.send("makes the connection known", timeout=HANG)
    receiver.recv(timeout=HANG)
    before = open_descriptors()
    received = []

    async def body():
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def ready():
            try:
                received.append(receiver.recv(timeout=0))
            except kin.Timeout:
                return
            if received[-1] == 19:
                done.set_result(None)

        loop.add_reader(fd, ready)
        for number in range(20):
            await sender.asend(number)
            await asyncio.sleep(0)
        async with asyncio.timeout(HANG):
            await done
        loop.remove_reader(fd)

    asyncio.run(body())
    assert received == list(range(20))
    assert open_descriptors() <= before
