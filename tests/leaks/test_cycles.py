"""Ends that come to a bad end, again and again: no descriptor and no thread is left."""

from __future__ import annotations

import threading

import pytest

import kinfolk as kin
from tests.conformance.link import Link
from tests.conformance.peers import HANG, open_descriptors, thread_of, until_blocked
from tests.conformance.test_flow import larger_than_the_channel

ROUNDS = 12


def counted(round_) -> None:
    """Descriptors and threads are the same after each round of something, once what stays is there."""
    for _ in range(3):
        round_()
    before = open_descriptors(), threading.active_count()
    for _ in range(ROUNDS):
        round_()
    assert (open_descriptors(), threading.active_count()) == before


def test_dying_with_something_inside(link: Link):
    """Closed while full, in the middle of a message, and with a call blocked in it."""
    large = min(link.prepared(larger_than_the_channel), 2_000_000)

    def round_():
        receiver, sender = link.both()
        try:
            sender.send_bytes(bytes(large), timeout=0)
            receiver.recv_bytes(timeout=0)
        except kin.Timeout:
            pass
        with thread_of(receiver.recv_many, 10**6) as call:
            receiver.close()
            call.raised()
        link.renew()

    counted(round_)


def test_failing_to_open(link: Link):
    if link.variant.anonymous:
        return
    opening = kin.open_sender if link.variant.way == "named" else kin.connect

    def round_():
        with pytest.raises(kin.Timeout):
            opening(link.address, timeout=0.002)
        with pytest.raises(kin.AddressError):
            opening(link.address, nonsense=1)

    counted(round_)


def test_peers_that_are_killed(link: Link):
    def round_():
        receiver, peer = link.from_peer(lambda sender, voice: (sender.send("x"), voice.hear()))
        receiver.recv(timeout=HANG)
        peer.kill()
        if receiver.limits.presence:
            with pytest.raises(kin.EndOfChannel):
                receiver.recv(timeout=HANG)
        link.peers.end()
        link.renew()

    counted(round_)


def test_threads_that_blocked_are_gone(link: Link):
    receiver, sender = link.both()

    def round_():
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver)
            sender.send("x")
            call.result()

    round_()
    before = open_descriptors()
    for _ in range(ROUNDS):
        waits = receiver.statistics().waits
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver, waits + 1)
            sender.send("x")
            call.result()
    assert open_descriptors() == before
