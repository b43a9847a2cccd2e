"""Signals interrupt system calls, never messages: a timer every 100 µs, with a Python handler, at both ends."""

from __future__ import annotations

import signal

from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG
from tests.conformance.test_flow import larger_than_the_channel
from tests.conformance.test_messages import pattern

COUNT = 300


def storm_in(function):
    """Run the function of a peer under a timer that fires every 100 µs."""

    def stormy(end, voice, *args):
        hits = 0

        def handler(number, frame):
            nonlocal hits
            hits += 1

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        try:
            result = function(end, voice, *args)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert hits, "the storm never blew"
        return result

    return stormy


def sizes(largest: int) -> list[int]:
    return [
        largest if number % 75 == 74 else min(largest, 1 + number * 67 % 9_000)
        for number in range(COUNT)
    ]


@storm_in
def send_all(sender, voice, largest):
    for number, size in enumerate(sizes(largest)):
        sender.send_bytes(pattern(size, number))


@storm_in
def receive_all(receiver, voice, largest):
    for number, size in enumerate(sizes(largest)):
        assert receiver.recv_bytes() == pattern(size, number)
    return COUNT


@main_ways
def test_a_storm_of_signals_at_both_ends(link: Link):
    """Opening happens inside the storm's function only on use; the whole transfer does."""
    largest = link.prepared(larger_than_the_channel)
    receiving = link.fork("receiver", receive_all, largest)
    sending = link.fork("sender", send_all, largest)
    link.release()
    sending.result()
    assert receiving.result() == COUNT


def test_a_storm_while_blocked_times_out_in_the_end(link: Link):
    """A wait that is interrupted again and again still ends when its time is up, and takes what comes."""

    @storm_in
    def waiting(receiver, voice):
        try:
            receiver.recv(timeout=0.05)
        except TimeoutError:
            voice.say("timed out")
        return receiver.recv()

    sender, peer = link.to_peer(waiting)
    assert peer.hear() == "timed out"
    sender.send("at last", timeout=HANG)
    assert peer.result() == "at last"


def test_a_handler_that_raises_loses_nothing(link: Link):
    """KeyboardInterrupt out of a blocked receive: the message comes with the next one."""

    class Interrupted(Exception):
        pass

    def interrupted(number, frame):
        raise Interrupted

    def waiting(receiver, voice):
        signal.signal(signal.SIGUSR1, interrupted)
        try:
            voice.say()
            receiver.recv_bytes()
        except Interrupted:
            voice.say("interrupted")
        return receiver.recv_bytes(timeout=HANG)

    sender, peer = link.to_peer(waiting)
    peer.hear()
    peer.until_asleep()
    peer.signal(signal.SIGUSR1)
    assert peer.hear() == "interrupted"
    sender.send_bytes(b"kept", timeout=HANG)
    assert peer.result() == b"kept"
