"""kill -9 of either end at random moments.

    who is killed          what the other side finds
    the last sender        everything whose send returned, in order and whole, and at most one message more;
                           then EndOfChannel
    one of many senders    the same from that one; everything from the others
    the last receiver      BrokenChannel
    a receiver that is     at most the message in its hands is missing
    followed by another

A zombie is as dead as one who was reaped; a stopped process is alive; so is one whose main thread has ended.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import struct
import threading

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, FailedInPeer, state, thread_of, until, until_blocked
from tests.conformance.test_endings import sends_until_it_breaks
from tests.conformance.test_flow import fill, larger_than_the_channel, size_that_fits
from tests.conformance.test_messages import pattern

SIZES = (10, 900, 4068, 4069, 9_000, 70_000, 300_000)


class Counter:
    """A number that a process which is about to be killed shares with its parent."""

    def __init__(self) -> None:
        # One store, not struct.pack_into, which writes zeros first.
        self._number = ctypes.c_uint64.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))

    @property
    def value(self) -> int:
        return self._number.value

    @value.setter
    def value(self, number: int) -> None:
        self._number.value = number


def numbered(number: int, most: int, seed: int) -> bytes:
    """Message number so-and-so of a sender: its size and its bytes follow from the number."""
    size = min(SIZES[(number * 7 + seed) % len(SIZES)], most)
    return b"%10d" % number + pattern(size, number % 50)[10:]


def send_for_ever(sender, voice, committed: Counter, seed: int):
    voice.say("open")
    number = 0
    while True:
        sender.send_bytes(numbered(number, sender.limits.max_message, seed))
        number += 1
        committed.value = number


def receive_until_the_end(receiver, seed: int, first: int = 0) -> int:
    """Everything up to the end: in order and whole; how many. The sender is dead."""
    number = first
    while True:
        try:
            # Without presence, what is there is there already.
            message = receiver.recv_bytes(timeout=HANG if receiver.limits.presence else 0.05)
        except kin.EndOfChannel:
            return number
        except kin.Timeout:
            if receiver.limits.presence:
                raise
            return number
        assert message == numbered(number, receiver.limits.max_message, seed)
        number += 1


def kill_a_sender(link: Link, seed: int) -> None:
    dice = random.Random(seed)
    committed = Counter()
    receiver, peer = link.from_peer(send_for_ever, committed, seed)
    peer.hear()
    wanted = dice.randrange(12)
    for number in range(wanted):
        assert receiver.recv_bytes(timeout=HANG) == numbered(
            number, receiver.limits.max_message, seed
        )
    for _ in range(dice.randrange(3000)):
        pass
    peer.kill(reap=bool(seed % 2))
    received = receive_until_the_end(receiver, seed, first=wanted)
    assert committed.value <= received <= committed.value + 1


def kill_a_receiver(link: Link, seed: int) -> None:
    dice = random.Random(seed)
    received = Counter()

    def receiving(receiver, voice):
        while True:
            number = received.value
            assert receiver.recv_bytes() == numbered(number, receiver.limits.max_message, seed)
            received.value = number + 1

    sender, peer = link.to_peer(receiving)
    wanted = dice.randrange(12)
    number = 0
    while received.value < wanted:
        sender.send_bytes(numbered(number, sender.limits.max_message, seed), timeout=HANG)
        number += 1
    for _ in range(dice.randrange(3000)):
        pass
    peer.kill(reap=bool(seed % 2))
    if not sender.limits.presence:
        fill(sender, size_that_fits(sender))
        return
    with pytest.raises(kin.BrokenChannel):
        sends_until_it_breaks(sender)


@main_ways
@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_killed_at_random_moments(link: Link, end):
    kill = kill_a_sender if end == "sender" else kill_a_receiver
    for seed in range(15):
        kill(link, seed)
        link.renew()


@pytest.mark.soak
@main_ways
@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_killed_thousands_of_times(link: Link, end):
    kill = kill_a_sender if end == "sender" else kill_a_receiver
    for seed in range(1000, 2000):
        kill(link, seed)
        link.renew()


def test_killed_while_the_other_end_is_blocked(link: Link):
    """No timer is involved: the call blocks without a timeout, and only the death can end it."""
    receiver, peer = link.from_peer(lambda sender, voice: (sender.send("x"), voice.hear()))
    assert receiver.recv(timeout=HANG) == "x"
    if receiver.limits.presence:
        with thread_of(receiver.recv) as call:
            until_blocked(receiver)
            peer.kill(reap=False)
            assert isinstance(call.raised(), kin.EndOfChannel)
    link.renew()
    sender, peer = link.to_peer(lambda receiver, voice: voice.hear())
    fill(sender, size_that_fits(sender))
    if sender.limits.presence:
        with thread_of(sender.send_bytes, bytes(size_that_fits(sender))) as call:
            until_blocked(sender)
            peer.kill(reap=False)
            assert isinstance(call.raised(), kin.BrokenChannel)


def test_killed_in_the_middle_of_a_message(link: Link):
    """The receiver is blocked inside the message, whose sender dies; others go on where there may be others."""
    several = link.several_senders
    large = link.prepared(larger_than_the_channel)

    def stuck(sender, voice):
        sender.send_bytes(b"whole")
        voice.say()
        sender.send_bytes(bytes(large))

    peer = link.fork("sender", stuck)
    other = link.fork("sender", sends_what_it_hears) if several else None
    link.release("sender")
    receiver = link.receiver()
    peer.hear()
    assert receiver.recv_bytes(timeout=HANG) == b"whole"
    if not stopped_in_the_middle(peer):
        assert drain(receiver) == [large]
        return
    outcome = drain(receiver)
    assert outcome in ([], [large])
    with thread_of(receiver.recv_bytes) as call:
        until_blocked(receiver)
        peer.kill(reap=False)
        if other is not None:
            other.say(b"from the other")
            assert call.result() == b"from the other"
            if not outcome and link.variant.scheme in ("pipe", "fifo"):
                # Others still send, so it is the death alone by which the rest is given up.
                with pytest.raises(kin.Timeout):
                    receiver.recv_bytes(timeout=0)
                assert receiver.statistics().dropped == 1
            other.say()
            other.result()
        elif receiver.limits.presence:
            assert isinstance(call.raised(), kin.EndOfChannel)
        else:
            receiver.close()
            assert isinstance(call.raised(), kin.Closed)
            return
    if receiver.limits.presence:
        with pytest.raises(kin.EndOfChannel):
            receiver.recv_bytes(timeout=HANG)
    if not outcome and link.variant.scheme in ("pipe", "fifo"):
        assert receiver.statistics().dropped == 1


def stopped_in_the_middle(peer) -> bool:
    """Stop it where it sleeps; False when it does not, for its message fitted and it has ended."""
    until(lambda: state(peer.pid) in "SZ", "asleep or at its end")
    if state(peer.pid) == "Z":
        return False
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "stopped")
    return True


def sends_what_it_hears(sender, voice):
    sender.send_bytes(voice.hear())
    voice.hear()


def drain(receiver) -> list[int]:
    """The sizes of what is there now."""
    found = []
    while True:
        try:
            found.append(len(receiver.recv_bytes(timeout=0)))
        except (kin.Timeout, kin.EndOfChannel):
            return found


def test_another_receiver_goes_on_after_a_killed_one(link: Link):
    """At most the message in the hands of the dead is missing."""
    seen = Counter()

    def receiving(receiver, voice):
        while True:
            (seen.value,) = struct.unpack("Q", receiver.recv_bytes()[:8])

    may_follow = link.receivers_may_follow
    first = link.fork("receiver", receiving)
    if not may_follow:
        link.release("receiver")
        sender = link.sender()
        sender.send_bytes(struct.pack("Q", 1))
        until(lambda: seen.value == 1, "received")
        first.kill()
        with pytest.raises(kin.BrokenChannel):
            sends_until_it_breaks(sender)
        return
    link.let_begin()
    sender = link.sender()
    if link.variant.scheme == "fifo" and link.variant.way == "channel":
        # The copy here was opened as the receiver and still is it.
        with pytest.raises(FailedInPeer, match="Busy"):
            first.result()
        return
    number = 0
    while seen.value < 20:
        number += 1
        sender.send_bytes(struct.pack("Q", number), timeout=HANG)
    first.kill(reap=False)
    second = link.receiver()
    last_seen = seen.value
    sent = number
    number += 1
    with thread_of(sender.send_bytes, struct.pack("Q", number), timeout=HANG):
        received = [struct.unpack("Q", second.recv_bytes(timeout=HANG))[0]]
        while received[-1] < number:
            received += struct.unpack("Q", second.recv_bytes(timeout=HANG))
    assert received == list(range(received[0], number + 1))
    assert received[0] in (last_seen + 1, last_seen + 2), (last_seen, sent, received)


# ------------------------------------------------------------------------------ what is not death


def test_a_stopped_sender_is_alive(link: Link):
    large = link.prepared(larger_than_the_channel)

    def sending(sender, voice):
        sender.send_bytes(b"first")
        voice.hear()
        sender.send_bytes(pattern(large))

    receiver, peer = link.from_peer(sending)
    assert receiver.recv_bytes(timeout=HANG) == b"first"
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "stopped")
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0.05)
    peer.say()
    peer.signal(signal.SIGCONT)
    if not stopped_in_the_middle(peer):
        assert receiver.recv_bytes(timeout=HANG) == pattern(large)
        return
    outcome = drain(receiver)
    assert outcome in ([], [large])
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0.05)
    peer.signal(signal.SIGCONT)
    if not outcome:
        assert receiver.recv_bytes(timeout=HANG) == pattern(large)
    peer.result()


def test_a_stopped_receiver_is_alive(link: Link):
    sender, peer = link.to_peer(
        lambda receiver, voice: [receiver.recv_bytes(timeout=HANG) for _ in range(3)]
    )
    peer.until_asleep()
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "stopped")
    for number in range(3):
        sender.send_bytes(b"%d" % number, timeout=HANG)
    peer.signal(signal.SIGCONT)
    assert peer.result() == [b"0", b"1", b"2"]


def test_a_process_whose_main_thread_has_ended_is_alive(link: Link):
    large = link.prepared(larger_than_the_channel)

    def sending(sender, voice):
        go_on = os.eventfd(0)

        def body():
            sender.send_bytes(b"before")
            voice.hear()
            sender.send_bytes(pattern(large))
            os.eventfd_write(go_on, 1)
            os._exit(7)

        threading.Thread(target=body).start()
        end_this_thread()

    receiver, peer = link.from_peer(sending)
    assert receiver.recv_bytes(timeout=HANG) == b"before"
    until(lambda: state(peer.pid) == "Z", "its main thread gone")
    with pytest.raises(kin.Timeout):
        receiver.recv_bytes(timeout=0.05)
    peer.say()
    assert receiver.recv_bytes(timeout=HANG) == pattern(large)
    assert peer.wait() == 7
    if receiver.limits.presence:
        with pytest.raises(kin.EndOfChannel):
            receiver.recv_bytes(timeout=HANG)


def end_this_thread() -> None:
    """Only this thread, not the process: pthread_exit(3). The call gives up the interpreter's lock first."""
    ctypes.CDLL(None).pthread_exit(None)


@pytest.mark.soak
@main_ways
@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_killed_with_a_gibibyte_resident(link: Link, end):
    def filled(_end, voice):
        memory = mmap.mmap(-1, 1 << 30)
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        if end == "sender":
            _end.send("ready")
        voice.say("ready")
        voice.hear()

    here, peer = link.from_peer(filled) if end == "sender" else link.to_peer(filled)
    peer.hear()
    if end == "sender":
        assert here.recv(timeout=HANG) == "ready"
        if here.limits.presence:
            with thread_of(here.recv) as call:
                until_blocked(here)
                peer.kill(reap=False)
                assert isinstance(call.raised(), kin.EndOfChannel)
    elif here.limits.presence:
        fill(here, size_that_fits(here))
        with thread_of(here.send_bytes, bytes(size_that_fits(here))) as call:
            until_blocked(here)
            peer.kill(reap=False)
            assert isinstance(call.raised(), kin.BrokenChannel)
